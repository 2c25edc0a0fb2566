//! `vmss instance adopt`: takes in a stranger.

use std::collections::BTreeSet;

use super::claim::{changed, look_again, refuse_unknown_host, situation};
use super::select::{look_for, one};
use crate::commands::Context;
use crate::converge::{Consent, amend};
use crate::error::{Error, Exit, Result};
use crate::inventory::Inventory;
use crate::names::{InstanceId, Label, instance_name};
use crate::ownership::Strangeness;
use crate::plan::Experience;
use crate::plan::claim::{Adoption, Bar, Refused, adoption, bar};
use crate::record::Record;

/// Makes a domain that says it is instance `id` the set's own.
pub fn run(ctx: &Context<'_>, id: InstanceId, host: Option<&Label>) -> Result<Exit> {
    let mut target = ctx.wanted()?;
    let name = target.name.clone();
    if let Some(host) = host {
        refuse_unknown_host(&target.record, host)?;
    }
    let inventory = look_for(ctx, &mut target, &one(id));
    let meant = decide(ctx, &target.record, &inventory, id, host)?;
    if !ctx.confirm(&question(&target.record, &meant))? {
        ctx.say("nothing was changed");
        return Ok(Exit::Converged);
    }
    let verb = format!("instance adopt {id}");
    let held = ctx.hold(&target.store, &name, &format!("{verb} of {name}"))?;
    let (record, inventory) = look_again(ctx, &*target.store, &name)?;
    let found = decide(ctx, &record, &inventory, id, host)?;
    if (&found.host, found.instance.uuid) != (&meant.host, meant.instance.uuid) {
        return Err(changed(&name));
    }
    let mut from = record.capacity;
    let (record, _) = amend(&*target.store, &name, |record| {
        from = record.capacity;
        found.note(record);
        true
    })?;
    let experience = Experience::default();
    let step = found.step(situation(ctx, &record, &inventory, &experience));
    let entry = ctx.operation(&name, &verb, Some(from), Some(record.capacity));
    let ending = ctx.converge_after(
        &target.store,
        &held,
        &entry,
        vec![step],
        Consent::To(BTreeSet::new()),
    )?;
    Ok(ctx.conclude(&name, &verb, &ending))
}

fn decide(
    ctx: &Context<'_>,
    record: &Record,
    inventory: &Inventory,
    id: InstanceId,
    host: Option<&Label>,
) -> Result<Adoption> {
    let experience = Experience::default();
    let situation = situation(ctx, record, inventory, &experience);
    // An instance that the record has not made yet is the very reason why the record is old.
    if let Some(bar @ Bar::OtherStore) = bar(situation) {
        let text = format!("{}: {bar}", record.applied.name);
        return Err(Error::message(Exit::Blocked, text).hint(bar.hint()));
    }
    adoption(situation, id, host).map_err(|why| refused(record, id, &why))
}

fn refused(record: &Record, id: InstanceId, why: &Refused) -> Error {
    let name = instance_name(&record.applied.name, id);
    let exit = match why {
        Refused::NoStranger => Exit::Failed,
        Refused::Several(_) => Exit::Usage,
        _ => Exit::Blocked,
    };
    let hint = match why {
        Refused::NoStranger => "vmss show tells which domains look like instances and are none".to_owned(),
        Refused::Several(_) => format!("name one: vmss instance adopt {id} --host HOST"),
        Refused::Twice(_) => "undefine it on one of them by hand (virsh undefine), then run this again".to_owned(),
        Refused::Renamed { is, .. } => {
            format!("switch it off and give it its name again (virsh domrename {is} {name}), then run this again")
        }
        Refused::NoNote(_) => "without its note vmss does not know what it is: make another with vmss scale".to_owned(),
        Refused::Disowned(uuid) => format!("vmss instance disown {uuid} --undo takes that back"),
        Refused::IdTaken(_) | Refused::UuidTaken(_) => {
            format!("it stays a stranger; vmss instance disown {id} says that its note lies")
        }
        Refused::AddressTaken(..) => "give the other instance up first (vmss instance delete), or leave this one alone".to_owned(),
        Refused::Half | Refused::Moving(_) => {
            "it can't be finished without its record; undefine it by hand, or vmss instance disown says that its note lies"
                .to_owned()
        }
        Refused::HostDropped(_) => "put the host back into the definition and vmss apply it".to_owned(),
    };
    Error::message(exit, format!("can't take in {name}: {why}")).hint(hint)
}

fn question(record: &Record, found: &Adoption) -> String {
    let instance = &found.instance;
    let set = &record.applied.name;
    let mut text = format!(
        "Take in {} on {} (revision {}, UUID {})?",
        instance.name, found.host, instance.meta.revision, instance.uuid
    );
    text += &match found.why {
        Strangeness::Elsewhere => {
            let other = record.known.get(&instance.id).map(|k| k.host.to_string());
            format!(
                " The record has it on {}, which can't be seen: if it runs there as well, it is there twice.",
                other.unwrap_or_default()
            )
        }
        Strangeness::Beyond => format!(
            " The record has never made it; the next id becomes {}.",
            instance.id.next().unwrap_or(instance.id)
        ),
        _ => " The record does not have it any more.".to_owned(),
    };
    let capacity = found.capacity(record);
    text += &format!(" From then on {set} acts on it as on any other instance");
    if capacity == record.capacity {
        text + "."
    } else {
        text + &format!(", and the capacity goes from {} to {capacity}.", record.capacity)
    }
}
