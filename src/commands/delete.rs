//! `vmss delete`: everything of the set, then its record.

use crate::commands::Context;
use crate::converge::amend;
use crate::error::{Exit, Result};
use crate::plan::report::Verdict;
use crate::record::Life;
use crate::ui::words::count;

/// Deletes the set.
pub fn run(ctx: &Context<'_>, keep_images: bool, abandon_unseen: bool) -> Result<Exit> {
    let (name, store, _) = ctx.meant()?;
    let Some((record, _)) = store.get(&name)? else {
        // Deleting what is gone is fine: a CI job's clean-up must not fail because it runs twice.
        ctx.say(format!(
            "{name}: there is no such set in the store {}",
            store.location()
        ));
        return Ok(Exit::Converged);
    };
    let known = record.known.values().filter(|k| k.confirmed).count();
    let question = format!(
        "Delete the set {name} with {} and their disks?",
        count(known, "instance")
    );
    if !ctx.confirm(&question)? {
        ctx.say("nothing was changed");
        return Ok(Exit::Converged);
    }
    let held = ctx.hold(&store, &name, &format!("delete {name}"))?;
    amend(&*store, &name, |record| {
        let changed = record.life != Life::Deleting || record.keep_images != keep_images;
        record.life = Life::Deleting;
        record.keep_images = keep_images;
        changed
    })?;
    let operation = ctx.operation(&name, "delete", Some(record.capacity), Some(0));
    let ending = ctx.converge(&store, &held, &operation)?;
    let gone = ending.report.verdict() == Verdict::Converged && !ending.interrupted;
    let unseen = ending
        .inventory
        .hosts
        .iter()
        .filter(|h| h.seen().is_none())
        .count();
    let abandoned = abandon_unseen && ending.report.seen == 0 && !ending.interrupted;
    if (gone && unseen == 0) || abandoned {
        let (_, version) = amend(&*store, &name, |_| false)?;
        store.remove(&name, version)?;
        if abandoned && unseen > 0 {
            ctx.say(format!(
                "note: the set is forgotten though {} could not be seen; instances that come back there are found \
                 by vmss state rebuild",
                count(unseen, "host")
            ));
        }
        crate::ui::outcome::tell(ctx, &name, "delete", &ending, ending.exit());
        return Ok(Exit::Converged);
    }
    let exit = ctx.conclude(&name, "delete", &ending);
    if exit == Exit::Converged {
        // Nothing is known to be left, but a host that was not seen may have images or seeds of the set.
        ctx.say(format!(
            "note: {} could not be seen: the set's record is kept, run vmss delete again when it is back, or give \
             --abandon-unseen",
            count(unseen, "host")
        ));
        return Ok(Exit::Unreachable);
    }
    Ok(exit)
}
