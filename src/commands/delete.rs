//! `vmss delete`: everything of the set, then its record.

use std::sync::Arc;

use crate::cli::DeleteArgs;
use crate::commands::instance::claim::{changed, refuse_what_is_barred, situation};
use crate::commands::{Context, lb, unrecorded};
use crate::converge::{Consent, Ending, amend, glance, marks, twins};
use crate::error::{Error, Exit, Result};
use crate::inventory::{Inventory, Protection};
use crate::names::{InstanceId, Label, ranges};
use crate::plan::Experience;
use crate::plan::loss::{Disks, known_disks};
use crate::plan::report::{Verdict, Wait};
use crate::plan::sweep::{Stays, stays};
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
        return match store.abandoned(&name)? {
            Some(left) => again(ctx, &name, &store, left, args),
            None => absent(ctx, &name, &*store, definition.as_ref()),
        };
    };
    refuse_what_stays(ctx, &*store, &record, include_protected)?;
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
    // As long as the question stood, or somebody else was at it, instances may have been made or protected.
    let (now, _) = amend(&*store, &name, |_| false)?;
    refuse_what_stays(ctx, &*store, &now, include_protected)?;
    let is_new = |(id, known): (&InstanceId, &Known)| known.confirmed && !record.known.contains_key(id);
    if !ctx.global.yes && now.known.iter().any(is_new) {
        return Err(changed(&name));
    }
    amend(&*store, &name, |record| {
        let changed = record.life != Life::Deleting || record.keep_images != keep_images;
        record.life = Life::Deleting;
        record.keep_images = keep_images;
        changed
    })?;
    if let Some(definition) = &definition {
        drop_second_names(ctx, &name, &*store, definition)?;
    }
    let operation = ctx.operation(&name, "delete", Some(record.capacity), Some(0));
    let ending = ctx.converge(&store, &held, &operation, Consent::Any)?;
    let unseen = match abandon_unseen {
        true => Unseen::GivenUp,
        false => Unseen::WaitedFor,
    };
    end(ctx, &name, &*store, &ending, unseen)
}

/// Of two names of one host, which were applied while it could not be seen, the one that the definition has no more is dropped: no
/// definition is applied to a set that is being deleted, and nothing may go as long as a host is there twice.
fn drop_second_names(
    ctx: &Context<'_>,
    name: &Label,
    store: &dyn Store,
    definition: &ScaleSet,
) -> Result<()> {
    let (record, _) = amend(store, name, |_| false)?;
    let is_dropped = |host: &Label| definition.host(host).is_none();
    if !record.applied.hosts().any(|(_, host)| is_dropped(&host.name)) {
        return Ok(());
    }
    let inventory = glance(ctx.world, store, &record.applied, &record);
    for twins in twins::find(ctx.world, &record.applied, &inventory) {
        let (second, first) = match (is_dropped(&twins.first), is_dropped(&twins.second)) {
            (true, false) => (twins.first, twins.second),
            (false, true) => (twins.second, twins.first),
            _ => continue,
        };
        amend(store, name, |record| {
            for domain in &mut record.applied.fault_domains {
                domain.hosts.retain(|host| host.name != second);
            }
            record
                .applied
                .fault_domains
                .retain(|domain| !domain.hosts.is_empty());
            true
        })?;
        ctx.say(format!(
            "note: {second} is another name of {first}, and the definition has it no more: it is left out"
        ));
    }
    Ok(())
}

/// What becomes of a set of which not everything could be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unseen {
    /// Its record stays until it is seen.
    WaitedFor,
    /// The set is over; what is there again goes then.
    GivenUp,
    /// It was over before, and still is.
    StillGivenUp,
}

/// Deletes what was given up of a set that is over, as far as it is there again.
fn again(
    ctx: &Context<'_>,
    name: &Label,
    store: &Arc<dyn Store>,
    left: Record,
    args: &DeleteArgs,
) -> Result<Exit> {
    let there = count(left.written_off.len(), "instance");
    let question = format!(
        "Delete what was given up of {name} when it was deleted, as far as it is there again ({there}, of which those with data \
         disks leave their volumes behind)?"
    );
    if !ctx.confirm(&question)? {
        ctx.say("nothing was changed");
        return Ok(Exit::Converged);
    }
    let held = ctx.hold(store, name, &format!("delete {name}"))?;
    // Somebody may have made the set anew meanwhile, or have deleted all of it.
    let (None, Some(mut left)) = (store.get(name)?, store.abandoned(name)?) else {
        return Err(changed(name));
    };
    left.life = Life::Deleting;
    left.keep_images = args.keep_images;
    store.put(name, &left, None)?;
    let operation = ctx.operation(name, "delete", Some(0), Some(0));
    let ending = ctx.converge(store, &held, &operation, Consent::Any)?;
    let unseen = match args.abandon_unseen {
        true => Unseen::GivenUp,
        false => Unseen::StillGivenUp,
    };
    end(ctx, name, &**store, &ending, unseen)
}

/// Ends the set, if nothing of it is left; or if what is left could not be seen, and is to be given up.
fn end(ctx: &Context<'_>, name: &Label, store: &dyn Store, ending: &Ending, unseen: Unseen) -> Result<Exit> {
    let is_gone = ending.report.verdict() == Verdict::Converged && !ending.interrupted;
    let hidden = ending.inventory.hosts.iter().filter(|h| h.unseen().is_some());
    let hidden = hidden.count();
    let is_given_up = unseen != Unseen::WaitedFor && is_all_that_was_seen_gone(ending);
    if is_gone && hidden == 0 || is_given_up {
        let (mut record, version) = amend(store, name, |_| false)?;
        if let Some(exit) = retire(ctx, name, &record, is_given_up) {
            return Ok(exit);
        }
        // Once the record is gone nobody knows where they are.
        marks::take(ctx.world, store, &record)?;
        if hidden == 0 {
            store.remove(name, version)?;
        } else {
            record.give_up(ctx.world.clock.now());
            store.abandon(name, &record, version)?;
        }
        if is_gone && hidden == 0 {
            tell_the_end(ctx, name, ending, &stays(&record, &ending.inventory));
            return Ok(Exit::Converged);
        }
        let exit = match unseen {
            Unseen::StillGivenUp if hidden > 0 => Exit::Unreachable,
            _ => Exit::Converged,
        };
        tell_what_was_given_up(ctx, name, ending, &record, exit);
        return Ok(exit);
    }
    let exit = ctx.conclude(name, "delete", ending);
    if exit == Exit::Converged {
        // Nothing is known to be left, but a host that was not seen may have images or seeds of the set.
        ctx.say(format!(
            "note: {} or its pool could not be seen: the set's record is kept, run vmss delete again when it is back, or give \
             --abandon-unseen",
            count(hidden, "host")
        ));
        return Ok(Exit::Unreachable);
    }
    Ok(exit)
}

/// Whether nothing of the set is left that was seen: no instance, and nothing that was tried and failed, or may not be done.
fn is_all_that_was_seen_gone(ending: &Ending) -> bool {
    let is_left = |wait: &Wait| {
        matches!(
            wait,
            Wait::Failed { .. }
                | Wait::Double(_)
                | Wait::OtherStore { .. }
                | Wait::RecordOld { .. }
                | Wait::OneHost(_)
                | Wait::NotTakenAway { .. }
        )
    };
    !ending.interrupted
        && ending.report.seen == 0
        && ending.inventory.instances().next().is_none()
        && ending.left.is_empty()
        && !ending.report.waits.iter().any(is_left)
}

/// Refuses to delete a set of which something is protected, or of which it can't be told whose it is.
fn refuse_what_stays(
    ctx: &Context<'_>,
    store: &dyn Store,
    record: &Record,
    include_protected: bool,
) -> Result<()> {
    if record.life != Life::Wanted {
        // What has begun to be deleted is half gone: there is nothing left to protect.
        return Ok(());
    }
    let inventory = glance(ctx.world, store, &record.applied, record);
    // Written down, the deletion would wait, and begin by itself once the record is brought level.
    refuse_what_is_barred(situation(ctx, record, &inventory, &Experience::default()))?;
    let protected = (!include_protected)
        .then(|| protected(record, &inventory))
        .flatten();
    let Some(protected) = protected else { return Ok(()) };
    let text = format!(
        "{} can't be deleted: {protected}; nothing was changed",
        record.applied.name
    );
    Err(Error::message(Exit::Blocked, text)
        .hint("vmss instance unprotect takes that back; --include-protected deletes them as well"))
}

/// Says that the set is over, and what of it `stays` all the same.
fn tell_the_end(ctx: &Context<'_>, name: &Label, ending: &Ending, stays: &[Stays]) {
    if ctx.is_json() {
        let mut told = document(name, "delete", ending, Exit::Converged);
        told["stays"] = serde_json::json!(stays);
        ctx.json(&told);
        return;
    }
    crate::ui::outcome::tell(ctx, name, "delete", ending, Exit::Converged);
    let mut left = stays;
    while let [first, ..] = left {
        let is_same = |other: &Stays| (&other.images, &other.seeds) == (&first.images, &first.seeds);
        let (same, rest) = left.split_at(left.iter().take_while(|other| is_same(other)).count());
        left = rest;
        let hosts: Vec<&Label> = same.iter().map(|stays| &stays.host).collect();
        let images = first
            .images
            .iter()
            .map(|image| format!("image {}", image.short()));
        let what: Vec<String> = images.chain(first.seeds.iter().cloned()).collect();
        let (stay, them) = if what.len() == 1 {
            ("stays", "it")
        } else {
            ("stay", "them")
        };
        ctx.say(format!(
            "{} {} {stay} on {}: in a folder that hosts share vmss deletes no image and no seed; delete {them} by hand once nothing \
             there needs {them}",
            ctx.style.warn("note:"),
            list(&what, 8),
            list(&hosts, 8)
        ));
    }
}

/// Says what was given up: that is what was asked for, and so no failure.
fn tell_what_was_given_up(ctx: &Context<'_>, name: &Label, ending: &Ending, left: &Record, exit: Exit) {
    if ctx.is_json() {
        let mut told = document(name, "delete", ending, exit);
        told["given_up"] = serde_json::json!(left.written_off);
        ctx.json(&told);
        return;
    }
    let hidden = ending.inventory.hosts.iter().filter(|h| h.unseen().is_some());
    let hosts: Vec<&Label> = hidden.map(|h| &h.name).collect();
    let with = match left.written_off.len() {
        0 => String::new(),
        1 => " with 1 instance".to_owned(),
        n => format!(" with {n} instances"),
    };
    if hosts.is_empty() {
        ctx.say(format!("{} {name}: deleted", ctx.style.good("ok")));
        return;
    }
    let text = format!(
        "{name}: deleted, but for {}, which could not be seen and {} given up{with}",
        list(&hosts, 8),
        if hosts.len() == 1 { "is" } else { "are" }
    );
    if exit == Exit::Converged {
        ctx.say(format!("{} {text}", ctx.style.good("ok")));
    } else {
        let bad = ctx.style.bad("not done:");
        ctx.world.stderr.line(format!("{bad} {text}"));
    }
    let stays = |w: &&Wait| {
        matches!(
            w,
            Wait::Unclaimed { .. } | Wait::Stranger(_) | Wait::SeedInUse { .. }
        )
    };
    for wait in ending.report.waits.iter().filter(stays) {
        ctx.say(format!("{} {wait}", ctx.style.warn("note:")));
    }
    ctx.say(format!(
        "{} what comes back there is switched off and deleted by the next vmss delete or vmss create of {name}; the volumes of \
         instances with data disks stay",
        ctx.style.warn("note:")
    ));
}

/// Of a set that the store has no record of: deleting what is gone is fine, a CI job's clean-up must not fail because it runs
/// twice. What is not gone is told.
fn absent(ctx: &Context<'_>, name: &Label, store: &dyn Store, definition: Option<&ScaleSet>) -> Result<Exit> {
    let id = store.id()?;
    let found = definition.map(|set| unrecorded::look_for(ctx, set, id, None).0);
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
