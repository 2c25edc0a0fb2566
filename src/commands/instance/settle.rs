//! `vmss instance settle`: ends a double.

use std::collections::BTreeSet;

use super::claim::{changed, look_again, refuse_unknown_host, refuse_what_is_barred, situation};
use super::select::{look_for, one};
use crate::commands::Context;
use crate::converge::twins::find_behind_doubles;
use crate::converge::{Consent, amend};
use crate::error::{Error, Exit, Result};
use crate::inventory::Inventory;
use crate::names::{InstanceId, Label, instance_name};
use crate::ownership::Place;
use crate::plan::Experience;
use crate::plan::claim::{Settlement, Unsettled, settle};
use crate::record::Record;
use crate::ui::words::list;

/// Keeps the copy of an instance on one host, and takes away the others.
pub fn run(ctx: &Context<'_>, id: InstanceId, keep: &Label) -> Result<Exit> {
    let mut target = ctx.target()?;
    let name = target.name.clone();
    refuse_unknown_host(&target.record, keep)?;
    let mut inventory = look_for(ctx, &mut target, &one(id));
    // Of one host under two names there is no second copy: what goes would be the only one.
    find_behind_doubles(ctx.world, &target.record.applied, &mut inventory);
    let meant = decide(ctx, &target.record, &inventory, id, keep)?;
    if !ctx.confirm(&question(&name, id, &meant))? {
        ctx.say("nothing was changed");
        return Ok(Exit::Converged);
    }
    let verb = format!("instance settle {id} --keep {keep}");
    let held = ctx.hold(&target.store, &name, &format!("{verb} of {name}"))?;
    let (record, mut inventory) = look_again(ctx, &*target.store, &name)?;
    find_behind_doubles(ctx.world, &record.applied, &mut inventory);
    let settlement = decide(ctx, &record, &inventory, id, keep)?;
    if (&settlement.kept, &settlement.dropped) != (&meant.kept, &meant.dropped) {
        return Err(changed(&name));
    }
    let (record, _) = amend(&*target.store, &name, |record| {
        record.settle(id, &settlement);
        true
    })?;
    let entry = ctx.operation(&name, &verb, Some(record.capacity), Some(record.capacity));
    let ending = ctx.converge_after(
        &target.store,
        &held,
        &entry,
        settlement.steps,
        Consent::To(BTreeSet::new()),
    )?;
    Ok(ctx.conclude(&name, &verb, &ending))
}

fn decide(
    ctx: &Context<'_>,
    record: &Record,
    inventory: &Inventory,
    id: InstanceId,
    keep: &Label,
) -> Result<Settlement> {
    let experience = Experience::default();
    let situation = situation(ctx, record, inventory, &experience);
    refuse_what_is_barred(situation)?;
    settle(situation, id, keep).map_err(|why| refused(record, inventory, id, keep, &why))
}

fn refused(record: &Record, inventory: &Inventory, id: InstanceId, keep: &Label, why: &Unsettled) -> Error {
    let name = instance_name(&record.applied.name, id);
    match why {
        Unsettled::NoDouble => {
            let hidden: Vec<String> = (inventory.hosts.iter())
                .filter(|h| h.seen().is_none())
                .map(|h| h.name.to_string())
                .collect();
            let (exit, seen) = match hidden.as_slice() {
                [] => (Exit::Failed, String::new()),
                hosts => (
                    Exit::Unreachable,
                    format!(", as far as was seen ({} was not)", list(hosts, 8)),
                ),
            };
            let text = format!("{name} is not there twice{seen}: nothing was done");
            Error::message(exit, text).hint("vmss show tells what is odd")
        }
        Unsettled::NotThere(double) => {
            let places: Vec<&str> = double.places.iter().map(|p| p.host.as_str()).collect();
            let text = format!("{keep} has no copy of {name}: nothing was done");
            Error::message(Exit::Failed, text).hint(format!("it is on {}", list(&places, 8)))
        }
        Unsettled::Unlisted => {
            let text = format!("the record does not have {name}, whose creation or deletion did not end");
            Error::message(Exit::Blocked, text)
                .hint("undefine one of the two domains by hand (virsh undefine), then run vmss scale +0")
        }
    }
}

fn question(set: &Label, id: InstanceId, settlement: &Settlement) -> String {
    let how = |place: &Place| if place.runs { "runs" } else { "is off" };
    let Settlement { kept, dropped, .. } = settlement;
    let warning = match dropped.iter().find(|p| p.runs && !kept.runs) {
        Some(running) => format!(
            " The copy on {} is the one that RUNS: what it has written since is lost with it.",
            running.host
        ),
        None => String::new(),
    };
    let others: Vec<String> = dropped
        .iter()
        .map(|place| format!("{}, which {}", place.host, how(place)))
        .collect();
    format!(
        "Keep the copy of {} on {}, which {}, and switch off and undefine the one on {}? Its disks there go afterwards, unless \
         anything uses them.{warning}",
        instance_name(set, id),
        kept.host,
        how(kept),
        others.join(", and the one on ")
    )
}
