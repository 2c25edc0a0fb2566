//! `vmss instance adopt`: takes in a stranger.

use super::claim::{agree, carry_out, refuse_unknown_host, situation};
use super::select::one;
use crate::commands::Context;
use crate::error::{Error, Exit, Result};
use crate::inventory::Inventory;
use crate::names::{InstanceId, Label, instance_name};
use crate::ownership::Strangeness;
use crate::plan::Experience;
use crate::plan::claim::{Adoption, Bar, Refused, adoption, bar};
use crate::record::Record;
use crate::request::{Request, Verb};

/// Makes a domain that says it is instance `id` the set's own.
pub fn run(ctx: &Context<'_>, id: InstanceId, host: Option<&Label>) -> Result<Exit> {
    let mut target = ctx.wanted()?;
    let name = target.name.clone();
    if let Some(host) = host {
        refuse_unknown_host(&target.record, host)?;
    }
    let verb = format!("instance adopt {id}");
    let doing = format!("{verb} of {name}");
    let agreed = agree(
        ctx,
        (&mut target, &one(id), &doing),
        |record, inventory| decide(ctx, record, inventory, id, host),
        |record, found| Some(question(record, found)),
        |meant, found| (&found.host, found.instance.uuid) == (&meant.host, meant.instance.uuid),
    )?;
    let Some(agreed) = agreed else {
        return Ok(Exit::Converged);
    };
    let request = Request::of(Verb::InstanceAdopt, ctx.world.env.who(), ctx.world.clock.now());
    let note = |found: &Adoption, record: &mut Record| found.note(record, &request);
    carry_out(ctx, &target, &verb, &agreed, note, |found, s| vec![found.step(s)])
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
        Refused::IdTaken(_) | Refused::UuidTaken(_) | Refused::OthersDisk(_) => {
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
