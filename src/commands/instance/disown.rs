//! `vmss instance disown`: says that a domain's note lies, and takes that back.

use super::claim::{Agreed, agree, look_again, refuse_unknown_host, situation};
use crate::cli::Selection;
use crate::commands::Context;
use crate::converge::amend;
use crate::error::{Error, Exit, Result};
use crate::inventory::{HostSeen, Inventory};
use crate::names::Label;
use crate::plan::Experience;
use crate::plan::claim::{Named, Suspect, suspects};
use crate::record::Record;
use crate::ui::words::list;

/// Disowns the domain that `what` means, or with `undo` takes that back.
pub fn run(ctx: &Context<'_>, what: Named, host: Option<&Label>, undo: bool) -> Result<Exit> {
    let mut target = ctx.target()?;
    let name = target.name.clone();
    if let Some(host) = host {
        refuse_unknown_host(&target.record, host)?;
    }
    let verb = if undo { "disown --undo" } else { "disown" };
    let doing = format!("instance {verb} {what} of {name}");
    let agreed = agree(
        ctx,
        (&mut target, &Selection::default(), &doing),
        |record, inventory| decide(ctx, record, inventory, what, host, undo),
        |_, suspect| (!undo).then(|| question(&name, suspect)),
        |meant, found| meant.uuid == found.uuid,
    )?;
    let Some(Agreed {
        held,
        decision: meant,
        ..
    }) = agreed
    else {
        return Ok(Exit::Converged);
    };
    let number = target.store.begin(&ctx.operation(
        &name,
        &format!("instance {verb} {}", meant.uuid),
        Some(target.record.capacity),
        Some(target.record.capacity),
    ))?;
    amend(&*target.store, &name, |record| match undo {
        true => record.disowned.remove(&meant.uuid),
        false => record.disowned.insert(meant.uuid),
    })?;
    // What it was is written down with what is seen of it now.
    let (record, _) = look_again(ctx, &*target.store, &name)?;
    let (now, outcome) = (ctx.world.clock.now(), "noted");
    (target.store).finish(number, now, outcome, Some(record.capacity))?;
    drop(held);
    if ctx.is_json() {
        ctx.json(&serde_json::json!({
            "set": name,
            "command": format!("instance {verb}"),
            "uuid": meant.uuid,
            "domain": meant.name,
            "host": meant.host,
            "disowned": record.disowned,
            "exit_code": Exit::Converged.code(),
        }));
    } else if undo {
        ctx.say(format!(
            "{name}: UUID {} is disowned no more; vmss show tells what it is",
            meant.uuid
        ));
    } else {
        ctx.say(format!(
            "{name}: {} on {} (UUID {}) is none of the set's; vmss plan tells what is to be done now",
            meant.name, meant.host, meant.uuid
        ));
    }
    Ok(Exit::Converged)
}

fn decide(
    ctx: &Context<'_>,
    record: &Record,
    inventory: &Inventory,
    what: Named,
    host: Option<&Label>,
    undo: bool,
) -> Result<Suspect> {
    let experience = Experience::default();
    let found = suspects(situation(ctx, record, inventory, &experience), what, host, undo);
    let Some(first) = found.first() else {
        return unseen(record, what, undo);
    };
    if found.iter().any(|other| other.uuid != first.uuid) {
        let places: Vec<String> = found.iter().map(|s| format!("{} ({})", s.host, s.uuid)).collect();
        let text = format!("several domains say that they are it, on {}", list(&places, 8));
        return Err(Error::message(Exit::Usage, text).hint("name one by its UUID, or with --host HOST"));
    }
    if !undo && !first.is_member {
        refuse_what_lives(record, inventory, first)?;
    }
    Ok(first.clone())
}

/// What has the UUID of an instance that lives, or may, can't be disowned by it: the instance would be.
fn refuse_what_lives(record: &Record, inventory: &Inventory, suspect: &Suspect) -> Result<()> {
    let Some((id, known)) = record.known.iter().find(|(_, k)| k.uuid == suspect.uuid) else {
        return Ok(());
    };
    let Suspect { name, host, .. } = suspect;
    let has_it = |seen: &HostSeen| seen.instances.iter().any(|i| i.id == *id && i.uuid == known.uuid);
    let mut all = inventory.hosts.iter();
    if let Some(on) = all.find(|h| h.seen().is_some_and(has_it)) {
        let text = format!(
            "{name} on {host} has the UUID of instance {id}, which lives on {}: disowned by that, the instance would be as well; \
             nothing was done",
            on.name
        );
        let hint = format!(
            "undefine {name} by hand, or give it a UUID of its own (virsh dumpxml, undefine, define)"
        );
        return Err(Error::message(Exit::Blocked, text).hint(hint));
    }
    if inventory.host(&known.host).is_some_and(|h| h.seen().is_none()) {
        let text = format!(
            "{name} on {host} has the UUID of instance {id}, which the record has on {}, which can't be seen: disowned by that, the \
             instance would be as well; nothing was done",
            known.host
        );
        let hint = format!(
            "run this again when {} is back; if it is only here, vmss instance adopt {id} takes it in",
            known.host
        );
        return Err(Error::message(Exit::Unreachable, text).hint(hint));
    }
    Ok(())
}

/// One that is not seen just now can be owned again by its UUID.
fn unseen(record: &Record, what: Named, undo: bool) -> Result<Suspect> {
    let set = &record.applied.name;
    match what {
        Named::Uuid(uuid) if undo && record.disowned.contains(&uuid) => Ok(Suspect {
            uuid,
            name: "a domain that is not seen".to_owned(),
            host: record
                .applied
                .hosts()
                .next()
                .map_or_else(|| set.clone(), |(_, h)| h.name.clone()),
            is_member: false,
        }),
        _ if undo => {
            let uuids: Vec<String> = record.disowned.iter().map(ToString::to_string).collect();
            let there = if uuids.is_empty() {
                "none".to_owned()
            } else {
                list(&uuids, 8)
            };
            let text = format!("{set}: {what} was not disowned");
            Err(Error::message(Exit::Failed, text).hint(format!("disowned: {there}")))
        }
        _ => {
            let text = format!("{set}: no domain that the set does not have says that it is {what}");
            Err(Error::message(Exit::Failed, text)
                .hint("vmss show tells which notes there are to be believed or not"))
        }
    }
}

fn question(set: &Label, meant: &Suspect) -> String {
    let Suspect { name, host, uuid, .. } = meant;
    let what = if meant.is_member {
        format!(
            "It counts for {set} until now: from then on it does not, and another takes its place. It goes on running, and its disks \
             and addresses stay its own."
        )
    } else {
        "It holds nothing up from then on; neither it nor its note is touched.".to_owned()
    };
    format!(
        "Say that {name} on {host} (UUID {uuid}) is not of {set}, and its note, if it has one, lies? {what}"
    )
}
