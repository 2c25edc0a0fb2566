//! What changes instances: start, stop, restart, reimage, replace, delete, protect. Decided in the core
//! ([`crate::plan::operate`]), carried out under the set's lease, and then the loop.

use std::collections::BTreeMap;

use super::select::{look_for, select};
use crate::cli::Selection;
use crate::commands::{Context, consent};
use crate::converge::{amend, look};
use crate::error::{Error, Exit, Result};
use crate::inventory::Inventory;
use crate::names::{InstanceId, Label, ranges};
use crate::plan::operate::{Operation, Orders, Refusal, Why, operate};
use crate::plan::{Experience, Situation};
use crate::record::Record;
use crate::request::{Request, Verb};
use crate::ui::words::count;

/// Does `operation` to what is selected.
pub fn run(ctx: &Context<'_>, selection: &Selection, operation: Operation) -> Result<Exit> {
    let mut target = ctx.wanted()?;
    let name = target.name.clone();
    let inventory = look_for(ctx, &mut target, selection);
    let ids = select(&target.record, &inventory, selection)?;
    if ids.is_empty() {
        ctx.say(format!(
            "{name}: no instance is like that: nothing to {}",
            operation.verb()
        ));
        return Ok(Exit::Converged);
    }
    let orders = decide(ctx, &target.record, &inventory, &ids, operation)?;
    if orders.steps.is_empty() && orders.condemned.is_empty() {
        mention(ctx, &name, &orders);
        return Ok(Exit::Converged);
    }
    if operation.is_disruptive() && !ctx.confirm(&question(&target.record, &ids, operation))? {
        ctx.say("nothing was changed");
        return Ok(Exit::Converged);
    }

    // What else would go is not what the command says.
    let next = condemning(ctx, target.record.clone(), &orders, operation);
    let head = format!("Go on with {name}, to {} instances?", operation.verb());
    let Some(agreed) = consent::ask(ctx, &*target.store, &next, &head, consent::going_on(&next))? else {
        return Ok(Exit::Converged);
    };

    let verb = format!(
        "instance {} {}",
        operation.verb(),
        ranges(ids.iter().map(|id| id.0))
    );
    let held = ctx.hold(&target.store, &name, &format!("{verb} of {name}"))?;
    // Somebody may have acted since it was decided, up to now.
    let (record, _) = amend(&*target.store, &name, |_| false)?;
    let inventory = look(ctx.world, &*target.store, &record.applied, &record);
    let now = ctx.world.clock.now();
    let (record, _) = amend(&*target.store, &name, |record| {
        let rules = record.applied.health.clone();
        record.absorb(&inventory) | record.heed(&inventory, &rules, now)
    })?;
    let orders = decide(ctx, &record, &inventory, &ids, operation)?;
    mention(ctx, &name, &orders);
    let mut from = record.capacity;
    let (record, _) = amend(&*target.store, &name, |record| {
        from = record.capacity;
        *record = condemning(ctx, record.clone(), &orders, operation);
        !orders.condemned.is_empty()
    })?;
    let entry = ctx.operation(&name, &verb, Some(from), Some(record.capacity));
    let ending = ctx.converge_after(&target.store, &held, &entry, orders.steps, agreed)?;
    Ok(ctx.conclude(&name, &verb, &ending))
}

/// The record with what `operation` deletes noted in it.
fn condemning(ctx: &Context<'_>, mut record: Record, orders: &Orders, operation: Operation) -> Record {
    record.condemned.extend(&orders.condemned);
    if operation == Operation::Delete {
        let fewer = u32::try_from(orders.condemned.len()).unwrap_or(u32::MAX);
        let capacity = record.capacity.saturating_sub(fewer);
        record.ask_for(capacity, || {
            Request::of(Verb::InstanceDelete, ctx.world.env.who(), ctx.world.clock.now())
        });
    }
    record
}

fn mention(ctx: &Context<'_>, name: &Label, orders: &Orders) {
    for (reason, ids) in grouped(orders.idle.iter().map(|(id, reason)| (*id, (*reason).to_owned()))) {
        ctx.say(format!("note: {} of {name}: {reason}", instances(&ids)));
    }
}

fn decide(
    ctx: &Context<'_>,
    record: &Record,
    inventory: &Inventory,
    ids: &[InstanceId],
    operation: Operation,
) -> Result<Orders> {
    let situation = Situation {
        set: &record.applied,
        record,
        inventory,
        experience: &Experience::default(),
        now: ctx.world.clock.now(),
        drawn: (ctx.world.draw)(),
    };
    operate(situation, ids, operation).map_err(|refusals| refused(&record.applied.name, operation, &refusals))
}

/// What is asked before `operation`: how many, which, and what becomes of them.
fn question(record: &Record, ids: &[InstanceId], operation: Operation) -> String {
    let name = &record.applied.name;
    let verb = operation.verb();
    let (first, rest) = verb.split_at(1);
    let one = ids.len() == 1;
    let pick = |single: &str, several: &str| if one { single } else { several }.to_owned();
    let what = match operation {
        Operation::Stop => pick(
            "Its guest is shut down, and stays off until vmss instance start.",
            "Their guests are shut down, and stay off until vmss instance start.",
        ),
        Operation::Restart => pick(
            "Its guest is shut down and started again.",
            "Their guests are shut down and started again.",
        ),
        Operation::Reimage => format!(
            "What is on the OS {} is lost: made anew of revision {}. Data disks are kept.",
            pick("disk", "disks"),
            record.current().number
        ),
        Operation::Replace => pick(
            "It is deleted with its disks, and another takes its place.",
            "They are deleted with their disks, and others take their places.",
        ),
        Operation::Delete => {
            let fewer = u32::try_from(ids.len()).unwrap_or(u32::MAX);
            format!(
                "{}, and the capacity goes from {} to {}.",
                pick(
                    "It is deleted with its disks",
                    "They are deleted with their disks"
                ),
                record.capacity,
                record.capacity.saturating_sub(fewer)
            )
        }
        Operation::Start | Operation::Protect(_) => String::new(),
    };
    format!(
        "{}{rest} {} of {name} ({})? {what}",
        first.to_uppercase(),
        count(ids.len(), "instance"),
        ranges(ids.iter().map(|id| id.0))
    )
}

/// Ids by what is to be said of them, in order of the first id.
fn grouped(said: impl Iterator<Item = (InstanceId, String)>) -> Vec<(String, Vec<InstanceId>)> {
    let mut groups: BTreeMap<String, Vec<InstanceId>> = BTreeMap::new();
    for (id, text) in said {
        groups.entry(text).or_default().push(id);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, ids)| ids.first().copied());
    groups
}

/// "instance 3", "instances 3-5, 9".
fn instances(ids: &[InstanceId]) -> String {
    let noun = if ids.len() == 1 { "instance" } else { "instances" };
    format!("{noun} {}", ranges(ids.iter().map(|id| id.0)))
}

/// All that speaks against it, and what to do about each.
fn refused(name: &Label, operation: Operation, refusals: &[Refusal]) -> Error {
    let verb = operation.verb();
    let said: Vec<String> = grouped(refusals.iter().map(|r| (r.instance, r.why.to_string())))
        .into_iter()
        .map(|(why, ids)| format!("can't {verb} {}: {why}", instances(&ids)))
        .collect();
    let exit = if refusals
        .iter()
        .any(|r| !matches!(r.why, Why::Unseen(_) | Why::PoolUnseen(_) | Why::NotThere))
    {
        Exit::Blocked
    } else if refusals
        .iter()
        .any(|r| matches!(r.why, Why::Unseen(_) | Why::PoolUnseen(_)))
    {
        Exit::Unreachable
    } else {
        Exit::Failed
    };
    let mut error = Error::message(exit, format!("nothing was done to {name}: {}", said.join("; ")));
    let mut hints: Vec<String> = Vec::new();
    for refusal in refusals {
        let same = |r: &&Refusal| std::mem::discriminant(&r.why) == std::mem::discriminant(&refusal.why);
        let ids = ranges(refusals.iter().filter(same).map(|r| r.instance.0)).replace(", ", ",");
        let hint = hint(refusal, &ids);
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    for hint in hints {
        error = error.hint(hint);
    }
    error
}

fn hint(refusal: &Refusal, ids: &str) -> String {
    match &refusal.why {
        Why::NotThere => "vmss instances lists those there are".to_owned(),
        Why::Unseen(_) | Why::PoolUnseen(_) => {
            "vmss check tells what is wrong with the host; name the others to go on without".to_owned()
        }
        Why::Protected(_) => format!("vmss instance unprotect {ids} takes that back"),
        Why::InBatch { .. } => {
            "let the rollout end, or vmss upgrade pause or cancel it, then run this again".to_owned()
        }
        Why::OtherStore => {
            "run the command where that store is, or take the set over with vmss state adopt".to_owned()
        }
        Why::Double => "vmss show tells where; vmss instance settle ID --keep HOST ends it".to_owned(),
        Why::RunsAsAnother => "vmss show tells where; end that one, or give it a UUID of its own".to_owned(),
        Why::RecordOld => "vmss show tells which; vmss state catch-up brings the record level".to_owned(),
        Why::Misnoted | Why::HalfMade | Why::Going | Why::Changing => {
            "vmss scale +0 finishes that".to_owned()
        }
        Why::NeedsReplacing { .. } => format!("vmss instance replace {ids} makes others in their place"),
    }
}
