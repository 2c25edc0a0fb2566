//! `vmss instance settle`: ends a double.

use super::claim::{agree, carry_out, refuse_unknown_host, refuse_what_is_barred, situation};
use super::select::one;
use crate::commands::Context;
use crate::converge::twins::find_behind_doubles;
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
    let verb = format!("instance settle {id} --keep {keep}");
    let doing = format!("{verb} of {name}");
    let agreed = agree(
        ctx,
        (&mut target, &one(id), &doing),
        |record, inventory| {
            // Of one host under two names there is no second copy: what goes would be the only one.
            let mut inventory = inventory.clone();
            find_behind_doubles(ctx.world, &record.applied, &mut inventory);
            decide(ctx, record, &inventory, id, keep)
        },
        |_, settlement| Some(question(&name, id, settlement)),
        |meant, now| {
            (&meant.kept, &meant.dropped) == (&now.kept, &now.dropped)
                && (&meant.spared, &meant.hidden) == (&now.spared, &now.hidden)
        },
    )?;
    let Some(agreed) = agreed else {
        return Ok(Exit::Converged);
    };
    let note = |settlement: &Settlement, record: &mut Record| record.settle(id, settlement);
    carry_out(ctx, &target, &verb, &agreed, note, |settlement, _| {
        settlement.steps.clone()
    })
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
            Error::message(exit, text).hint("vmss show tells what is odd, vmss plan what is still to be done")
        }
        Unsettled::NotThere(double) => {
            let places: Vec<&str> = double.places.iter().map(|p| p.host.as_str()).collect();
            let text = format!("{keep} has no copy of {name}: nothing was done");
            Error::message(Exit::Failed, text).hint(format!("it is on {}", list(&places, 8)))
        }
        Unsettled::Renamed { is } => {
            let text = format!("{keep} has {name} under the name {is}: nothing was done");
            Error::message(Exit::Blocked, text).hint(format!(
                "switch it off and give it its name again (virsh domrename {is} {name}), then run this again"
            ))
        }
        Unsettled::Hidden => {
            let text = format!("{keep} can't be seen, and whether {name} is still there: nothing was done");
            Error::message(Exit::Unreachable, text)
                .hint("run this again when it is back, or keep the copy that is seen")
        }
        Unsettled::Unlisted if record.written_off.contains_key(&id) => {
            let text =
                format!("{name} was given up with its host, and is there more than once: nothing was done");
            Error::message(Exit::Blocked, text)
                .hint("undefine by hand all but one of the domains (virsh undefine): the last one goes then")
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
    let Settlement {
        kept,
        dropped,
        spared,
        hidden,
        ..
    } = settlement;
    let hidden = hidden.iter().map(|place| {
        format!(
            " {} can't be seen: make sure that the copy there does not run, or both do from now on; it is told again when it is seen.",
            place.host
        )
    });
    let spared = spared.iter().map(|place| {
        let called = place.called.as_deref().unwrap_or_default();
        format!(" {called} on {} stays where it is, as a stranger.", place.host)
    });
    let spared: String = spared.chain(hidden).collect();
    if dropped.is_empty() {
        return format!(
            "Keep the copy of {} on {}, which {}?{spared}",
            instance_name(set, id),
            kept.host,
            how(kept)
        );
    }
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
         anything uses them.{warning}{spared}",
        instance_name(set, id),
        kept.host,
        how(kept),
        others.join(", and the one on ")
    )
}
