//! `vmss delete`: everything of the set, then its record.

use crate::cli::DeleteArgs;
use crate::commands::instance::claim::{refuse_what_is_barred, situation};
use crate::commands::{Context, lb, unrecorded};
use crate::converge::{Consent, Ending, amend, glance, marks};
use crate::error::{Error, Exit, Result};
use crate::inventory::{Inventory, Protection};
use crate::names::{Label, ranges};
use crate::plan::Experience;
use crate::plan::loss::{Disks, known_disks};
use crate::plan::report::Verdict;
use crate::record::{Known, Life, Record};
use crate::scaleset::ScaleSet;
use crate::serve;
use crate::store::Store;
use crate::ui::outcome::document;
use crate::ui::words::{count, list};

/// "instances 3-4 are protected", if any is: those that are seen, and those that were when they last were.
pub fn protected(record: &Record, inventory: &Inventory) -> Option<String> {
    let mut record = record.clone();
    record.absorb(inventory);
    let is_protected = |k: &Known| k.confirmed && k.protection != Protection::None;
    let ids: Vec<u64> = (record.known.iter())
        .filter(|(_, known)| is_protected(known))
        .map(|(id, _)| id.0)
        .collect();
    (!ids.is_empty()).then(|| are_protected(&ids))
}

/// "instances 3-4 are protected".
pub fn are_protected(ids: &[u64]) -> String {
    let (noun, are) = if ids.len() == 1 {
        ("instance", "is")
    } else {
        ("instances", "are")
    };
    format!("{noun} {} {are} protected", ranges(ids.iter().copied()))
}

/// Deletes the set.
pub fn run(ctx: &Context<'_>, args: &DeleteArgs) -> Result<Exit> {
    let DeleteArgs {
        keep_images,
        abandon_unseen,
        include_protected,
    } = *args;
    let (name, store, definition) = ctx.meant()?;
    let Some((record, _)) = store.get(&name)? else {
        return absent(ctx, &name, &*store, definition.as_ref());
    };
    // What has begun to be deleted is half gone: there is nothing left to protect.
    if record.life == Life::Wanted {
        let inventory = glance(ctx.world, &*store, &record.applied, &record);
        // Written down, the deletion would wait, and begin by itself once the record is brought level.
        refuse_what_is_barred(situation(ctx, &record, &inventory, &Experience::default()))?;
        if let Some(protected) = (!include_protected)
            .then(|| protected(&record, &inventory))
            .flatten()
        {
            let text = format!("{name} can't be deleted: {protected}; nothing was changed");
            return Err(Error::message(Exit::Blocked, text)
                .hint("vmss instance unprotect takes that back; --include-protected deletes them as well"));
        }
    }
    let known = || record.known.values().filter(|k| k.confirmed);
    let disks: Disks = known().map(|k| known_disks(&record, k)).sum();
    let among = match disks.count {
        0 => String::new(),
        _ => format!(", {disks} among them"),
    };
    let question = format!(
        "Delete the set {name} with {} and their disks{among}?",
        count(known().count(), "instance")
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
    let ending = ctx.converge(&store, &held, &operation, Consent::Any)?;
    let gone = ending.report.verdict() == Verdict::Converged && !ending.interrupted;
    let unseen = ending
        .inventory
        .hosts
        .iter()
        .filter(|h| h.unseen().is_some())
        .count();
    let abandoned = abandon_unseen && ending.report.seen == 0 && !ending.interrupted;
    if (gone && unseen == 0) || abandoned {
        let (record, version) = amend(&*store, &name, |_| false)?;
        if let Some(exit) = retire(ctx, &name, &record, abandoned) {
            return Ok(exit);
        }
        store.remove(&name, version)?;
        marks::take(ctx.world, &*store, &record)?;
        if abandoned && unseen > 0 {
            told_of_abandoned(ctx, &name, &ending);
        } else {
            crate::ui::outcome::tell(ctx, &name, "delete", &ending, Exit::Converged);
        }
        return Ok(Exit::Converged);
    }
    let exit = ctx.conclude(&name, "delete", &ending);
    if exit == Exit::Converged {
        // Nothing is known to be left, but a host that was not seen may have images or seeds of the set.
        ctx.say(format!(
            "note: {} or its pool could not be seen: the set's record is kept, run vmss delete again when it is back, or give \
             --abandon-unseen",
            count(unseen, "host")
        ));
        return Ok(Exit::Unreachable);
    }
    Ok(exit)
}

/// Says what was given up: that is what was asked for, and so no failure.
fn told_of_abandoned(ctx: &Context<'_>, name: &Label, ending: &Ending) {
    if ctx.is_json() {
        ctx.json(&document(name, "delete", ending, Exit::Converged));
        return;
    }
    let hidden = ending.inventory.hosts.iter().filter(|h| h.unseen().is_some());
    let hosts: Vec<&Label> = hidden.map(|h| &h.name).collect();
    let left = match ending.report.unseen {
        0 => String::new(),
        n => format!(
            "; {} there {} left as they are",
            count(n, "instance"),
            if n == 1 { "is" } else { "are" }
        ),
    };
    ctx.say(format!(
        "{} {name}: deleted and forgotten, {} given up, which could not be seen{left}",
        ctx.style.good("ok"),
        list(&hosts, 8)
    ));
    ctx.say(format!(
        "{} what comes back there is nobody's: vmss delete with this definition says what there is",
        ctx.style.warn("note:")
    ));
}

/// Of a set that the store has no record of: deleting what is gone is fine, a CI job's clean-up must not fail because it runs
/// twice. What is not gone is told.
fn absent(ctx: &Context<'_>, name: &Label, store: &dyn Store, definition: Option<&ScaleSet>) -> Result<Exit> {
    let id = store.id()?;
    let found = definition.map(|set| unrecorded::look_for(ctx, set, id).0);
    if let Some(found) = found {
        if !found.is_empty() {
            return Err(
                Error::message(Exit::Blocked, format!("{found}; nothing was deleted"))
                    .hint(format!("{}; then vmss delete", found.way_out())),
            );
        }
        if !found.unseen().is_empty() {
            let text = format!(
                "there is no set {name} in the store {}, and whether its hosts have instances of it can't be told: {} could not be \
                 seen",
                store.location(),
                list(found.unseen(), 8)
            );
            return Err(Error::message(Exit::Unreachable, text)
                .hint("vmss check tells what is wrong with the host; vmss delete again when it is back"));
        }
    }
    ctx.say(format!(
        "{name}: there is no such set in the store {}",
        store.location()
    ));
    Ok(Exit::Converged)
}

/// Leaves nothing of the set in its load balancers and discovery files. The exit code if that did not go, and must.
fn retire(ctx: &Context<'_>, name: &Label, record: &Record, abandoned: bool) -> Option<Exit> {
    let mut failed = serve::retire(ctx.world, &record.applied);
    for dropped in &record.dropped {
        failed.extend(serve::drop_from(ctx.world, &record.applied, dropped));
    }
    for (who, e) in &failed {
        ctx.world
            .stderr
            .line(format!("{} {who}: {e}", ctx.style.warn("note:")));
    }
    if failed.is_empty() || abandoned {
        return None;
    }
    let line = format!("{name}: every instance is gone, the load balancer still knows the set");
    ctx.world
        .stderr
        .line(format!("{} {line}", ctx.style.bad("not done:")));
    ctx.world
        .stderr
        .line("hint: run vmss delete again when it can be told, or give --abandon-unseen");
    Some(lb::exit_of(failed.iter().map(|(_, e)| e)))
}
