//! `vmss repair`: a request (one compare-and-swap on the record), then the loop, which repairs what is due.

use std::collections::BTreeSet;

use crate::commands::{Context, consent};
use crate::converge::{Ending, amend};
use crate::error::{Exit, Result};
use crate::lease::lease_key;
use crate::names::ranges;
use crate::plan::repair::WHY;
use crate::plan::report::Wait;
use crate::record::Record;
use crate::repairs::Asked;

/// Repairs once what is due; every rule of `[repair]` holds but `enabled`.
pub fn run(ctx: &Context<'_>, resume: bool) -> Result<Exit> {
    let target = ctx.wanted()?;
    let name = target.name.clone();
    ctx.mention_drift(&target);
    let asked = Asked {
        by: ctx.world.env.who(),
        at: ctx.world.clock.now(),
    };
    let ask_for = |record: &mut Record| {
        record.repair.asked = Some(asked.clone());
        if resume {
            // Whoever says so has mended what stood in the way: nothing needs to be slow about it any more.
            record.repair.suspended = None;
            record.repair.failures = 0;
            record.repair.tries.clear();
            record.repair.starts.clear();
        }
        true
    };
    let mut next = target.record.clone();
    ask_for(&mut next);
    // That a repair puts others in the place of broken ones is what [repair] action says.
    let named = consent::going_on(&next);
    let Some(agreed) = consent::ask(ctx, &*target.store, &next, &format!("Repair {name}?"), named)? else {
        return Ok(Exit::Converged);
    };
    let (before, _) = amend(&*target.store, &name, ask_for)?;
    let verb = if resume { "repair --resume" } else { "repair" };
    let held = match ctx.hold(&target.store, &name, &format!("{verb} {name}")) {
        Ok(held) => held,
        Err(e) if e.exit == Exit::Locked => {
            let busy = target.store.holder(&lease_key(&name), ctx.world.clock.now())?;
            let who = busy.map_or_else(String::new, |h| format!(" by pid {} ({})", h.pid, h.doing));
            return Err(e.hint(format!("the request is recorded: what is due is repaired{who}")));
        }
        Err(e) => return Err(e),
    };
    let capacity = Some(before.capacity);
    let ending = ctx.converge(
        &target.store,
        &held,
        &ctx.operation(&name, verb, capacity, capacity),
        agreed,
    );
    if ending.as_ref().map_or(true, |e| e.interrupted) {
        // Who is gone does not want some later command to go on with it. The run's own error is the one to tell.
        let _ = amend(&*target.store, &name, |record| {
            let is_mine = record.repair.asked.as_ref() == Some(&asked);
            if is_mine {
                record.repair.asked = None;
            }
            is_mine
        });
    }
    let ending = ending?;
    let exit = ctx.conclude(&name, verb, &ending);
    let waits = &ending.report.waits;
    // Where hosts are out of sight that is told already, with what mends it.
    let is_outage = exit != Exit::Unreachable && waits.iter().any(|w| matches!(w, Wait::Outage { .. }));
    let is_suspended = waits.iter().any(|w| matches!(w, Wait::RepairSuspended { .. }));
    let has_failed = ending.record.repair.failures > before.repair.failures;
    if !ctx.is_json() {
        ctx.say(format!("{name}: {}", did(&ending)));
    }
    if exit == Exit::Interrupted || exit == Exit::Blocked {
        return Ok(exit);
    }
    let (what, hint) = if is_outage {
        (
            "held up, for this looks like an outage",
            "mend what they all depend on, then run vmss repair again",
        )
    } else if is_suspended {
        (
            "held up, for repair has suspended itself",
            "mend what keeps the instances from getting well, then vmss repair --resume",
        )
    } else if has_failed {
        (
            "an instance that was repaired did not get well",
            "vmss instances shows how each of them is; vmss repair tries again when its time has come",
        )
    } else {
        return Ok(exit);
    };
    if !ctx.is_json() {
        ctx.world
            .stderr
            .line(format!("{} {name}: {what}", ctx.style.bad("not healthy:")));
        ctx.world.stderr.line(format!("hint: {hint}"));
    }
    // What can't be seen comes before what is known of the rest.
    Ok(match exit {
        Exit::Unreachable => exit,
        _ => Exit::Unhealthy,
    })
}

/// What repair did in the run: "repaired instances 2, 4".
fn did(ending: &Ending) -> String {
    let mended = ending.done.iter().filter(|step| step.why.starts_with(WHY));
    let ids: BTreeSet<u64> = (mended.filter(|step| step.action.created().is_none()))
        .filter_map(|step| Some(step.action.instance()?.0))
        .collect();
    match ids.len() {
        0 => "no instance was repaired".to_owned(),
        1 => format!("repaired instance {}", ranges(ids)),
        _ => format!("repaired instances {}", ranges(ids)),
    }
}
