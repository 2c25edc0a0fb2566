//! `vmss host cordon | drain | uncordon`: a host that is to be worked on gets no new instances, and gives up those it has.

use crate::commands::instance::claim::refuse_if_barred;
use crate::commands::{Context, Target, consent};
use crate::converge::amend;
use crate::error::{Error, Exit, Result};
use crate::names::Label;
use crate::plan::loss::{Disks, known_disks};
use crate::record::Cordon;
use crate::ui::words::{count, ranges};

/// The set, if it has that host.
fn with_host(ctx: &Context<'_>, host: &Label) -> Result<Target> {
    let target = ctx.target()?;
    if target.record.applied.host(host).is_some() {
        return Ok(target);
    }
    let known: Vec<&str> = target
        .record
        .applied
        .hosts()
        .map(|(_, h)| h.name.as_str())
        .collect();
    Err(
        Error::message(Exit::Usage, format!("the set {} has no host {host}", target.name))
            .hint(format!("its hosts: {}", known.join(", "))),
    )
}

fn ordered(ctx: &Context<'_>, drain: bool, migrate: bool) -> Cordon {
    Cordon {
        by: ctx.world.env.who(),
        at: ctx.world.clock.now(),
        drain,
        migrate,
    }
}

/// Asks for it: one compare-and-swap on the record. Returns whether anything changed.
fn request(ctx: &Context<'_>, target: &Target, host: &Label, drain: bool, migrate: bool) -> Result<()> {
    let cordon = ordered(ctx, drain, migrate);
    amend(&*target.store, &target.name, |record| {
        let old = record.cordons.get(host);
        // A host that is being drained stays so when it is cordoned; how it is drained may change.
        if old.is_some_and(|old| !drain || old.drain && old.migrate == migrate) {
            return false;
        }
        record.cordons.insert(host.clone(), cordon.clone());
        true
    })?;
    Ok(())
}

/// No new instances there.
pub fn cordon(ctx: &Context<'_>, host: &Label) -> Result<Exit> {
    let target = with_host(ctx, host)?;
    request(ctx, &target, host, false, false)?;
    ctx.say(format!(
        "{}: host {host} gets no new instances; vmss host uncordon {host} undoes that",
        target.name
    ));
    Ok(Exit::Converged)
}

/// New instances again.
pub fn uncordon(ctx: &Context<'_>, host: &Label) -> Result<Exit> {
    let target = with_host(ctx, host)?;
    refuse_if_barred(ctx, &*target.store, &target.record)?;
    let mut was = false;
    amend(&*target.store, &target.name, |record| {
        was = record.cordons.remove(host).is_some();
        was
    })?;
    ctx.say(if was {
        format!("{}: host {host} may have instances again", target.name)
    } else {
        format!("{}: host {host} was not cordoned", target.name)
    });
    Ok(Exit::Converged)
}

/// No new instances there, and those it has are replaced elsewhere.
pub fn drain(ctx: &Context<'_>, host: &Label, migrate: bool) -> Result<Exit> {
    let target = with_host(ctx, host)?;
    let name = target.name.clone();
    let on_host = || (target.record.known.values()).filter(|k| k.confirmed && &k.host == host);
    let there = on_host().count();
    let disks: Disks = on_host().map(|k| known_disks(&target.record, k)).sum();
    let among = match disks.count {
        0 => String::new(),
        _ => format!(", {disks} among them"),
    };
    let (are, their) = if there == 1 {
        ("is", "its")
    } else {
        ("are", "their")
    };
    let what = match migrate {
        true => format!(
            "{are} moved to other hosts without stopping; what is off is replaced, and deleted with its disks{among}"
        ),
        false => format!("{are} replaced on other hosts, and deleted with {their} disks{among}"),
    };
    let question = format!(
        "Drain host {host} of {name}? {} there {what}.",
        count(there, "instance")
    );
    if there > 0 && !ctx.confirm(&question)? {
        ctx.say("nothing was changed");
        return Ok(Exit::Converged);
    }
    // What else would go is not what the command says.
    let mut next = target.record.clone();
    next.cordons.insert(host.clone(), ordered(ctx, true, migrate));
    let head = format!("Drain host {host} of {name}?");
    let Some(agreed) = consent::ask(ctx, &*target.store, &next, &head, consent::going_on(&next))? else {
        return Ok(Exit::Converged);
    };
    request(ctx, &target, host, true, migrate)?;
    let held = ctx.hold(&target.store, &name, &format!("host drain {host}"))?;
    let capacity = Some(target.record.capacity);
    let operation = ctx.operation(&name, &format!("host drain {host}"), capacity, capacity);
    let ending = ctx.converge(&target.store, &held, &operation, agreed)?;
    let left: Vec<u64> = (ending.record.known.iter())
        .filter(|(_, k)| k.confirmed && &k.host == host)
        .map(|(id, _)| id.0)
        .collect();
    let exit = match ending.exit() {
        Exit::Converged if !left.is_empty() => {
            let is_hidden = (ending.inventory.host(host)).is_some_and(|h| h.unseen().is_some());
            if is_hidden {
                Exit::Unreachable
            } else {
                Exit::Blocked
            }
        }
        exit => exit,
    };
    let exit = ctx.conclude_as(&name, "host drain", &ending, exit);
    if left.is_empty() {
        ctx.say(format!(
            "host {host} has no instance of {name}; vmss host uncordon {host} lets it have some again"
        ));
    } else {
        ctx.world.stderr.line(format!(
            "host {host} still has {} {} of {name}: vmss host drain {host}{} goes on",
            if left.len() == 1 { "instance" } else { "instances" },
            ranges(left),
            if migrate { " --migrate" } else { "" }
        ));
    }
    Ok(exit)
}
