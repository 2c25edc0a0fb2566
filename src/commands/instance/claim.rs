//! What the commands share by which an operator says whose a domain is: they look without the lease, ask, take the lease, look
//! again, and do what was asked only if it is still the same.

use std::collections::BTreeSet;

use super::select::look_for;
use crate::cli::Selection;
use crate::commands::{Context, Target};
use crate::converge::{Consent, amend, glance, glance_aside};
use crate::error::{Error, Exit, Result};
use crate::inventory::Inventory;
use crate::lease::Held;
use crate::names::Label;
use crate::plan::action::Step;
use crate::plan::claim::{Bar, bar, record_old};
use crate::plan::{Experience, Situation};
use crate::record::Record;
use crate::store::Store;

/// Looks at the set; the record absorbs what was seen. Under the lease alone.
pub fn look_again(ctx: &Context<'_>, store: &dyn Store, name: &Label) -> Result<(Record, Inventory)> {
    let (record, _) = amend(store, name, |_| false)?;
    let inventory = glance(ctx.world, store, &record.applied, &record);
    let (record, _) = amend(store, name, |record| record.absorb(&inventory))?;
    Ok((record, inventory))
}

/// What was decided by what is so under the lease, and agreed to.
pub struct Agreed<D> {
    /// The lease.
    pub held: Held,
    /// The record.
    pub record: Record,
    /// What was seen.
    pub inventory: Inventory,
    /// What was decided.
    pub decision: D,
}

/// The course of those commands: decides by a look without the lease, asks `question` about that if there is one, takes the
/// lease for `doing`, looks again, and decides anew. `None`: the answer was no.
///
/// # Errors
/// What `decide` refuses, at the first look or at the second; or what was asked about is not as it was any more, as `is_same`
/// says of both decisions.
pub fn agree<D>(
    ctx: &Context<'_>,
    (target, selection, doing): (&mut Target, &Selection, &str),
    decide: impl Fn(&Record, &Inventory) -> Result<D>,
    question: impl FnOnce(&Record, &D) -> Option<String>,
    is_same: impl FnOnce(&D, &D) -> bool,
) -> Result<Option<Agreed<D>>> {
    let inventory = look_for(ctx, target, selection);
    let meant = decide(&target.record, &inventory)?;
    if let Some(question) = question(&target.record, &meant)
        && !ctx.confirm(&question)?
    {
        ctx.say("nothing was changed");
        return Ok(None);
    }
    let held = ctx.hold(&target.store, &target.name, doing)?;
    let (record, inventory) = look_again(ctx, &*target.store, &target.name)?;
    let decision = decide(&record, &inventory)?;
    if !is_same(&meant, &decision) {
        return Err(changed(&target.name));
    }
    Ok(Some(Agreed {
        held,
        record,
        inventory,
        decision,
    }))
}

/// Carries out what was agreed to: `note` writes it into the record, which may change the capacity, `steps` are done, and then
/// the loop goes on.
///
/// # Errors
/// Those of the store and of the loop.
pub fn carry_out<D>(
    ctx: &Context<'_>,
    target: &Target,
    verb: &str,
    agreed: &Agreed<D>,
    note: impl Fn(&D, &mut Record),
    steps: impl FnOnce(&D, Situation<'_>) -> Vec<Step>,
) -> Result<Exit> {
    let mut from = agreed.record.capacity;
    let (record, _) = amend(&*target.store, &target.name, |record| {
        from = record.capacity;
        note(&agreed.decision, record);
        true
    })?;
    let experience = Experience::default();
    let steps = steps(
        &agreed.decision,
        situation(ctx, &record, &agreed.inventory, &experience),
    );
    let entry = ctx.operation(&target.name, verb, Some(from), Some(record.capacity));
    let consent = Consent::To(BTreeSet::new());
    let ending = ctx.converge_after(&target.store, &agreed.held, &entry, steps, consent)?;
    Ok(ctx.conclude(&target.name, verb, &ending))
}

/// What was seen, as plans take it. The experience is that of a run that has just begun.
pub fn situation<'a>(
    ctx: &Context<'_>,
    record: &'a Record,
    inventory: &'a Inventory,
    experience: &'a Experience,
) -> Situation<'a> {
    Situation {
        set: &record.applied,
        record,
        inventory,
        experience,
        now: ctx.world.clock.now(),
        drawn: (ctx.world.draw)(),
    }
}

/// Refuses where nothing may be said of domains at all.
pub fn refuse_what_is_barred(s: Situation<'_>) -> Result<()> {
    let Some(bar) = bar(s) else { return Ok(()) };
    let text = match record_old(s) {
        Some(old) if bar == Bar::RecordOld => format!("{}: {old}", s.set.name),
        _ => format!("{}: {bar}", s.set.name),
    };
    Err(Error::message(Exit::Blocked, text).hint(bar.hint()))
}

/// As [`refuse_what_is_barred`], of what a look shows now: for commands that ask for something in the record, which nobody may
/// carry out, and which would begin by itself once the record is brought level.
pub fn refuse_if_barred(ctx: &Context<'_>, store: &dyn Store, record: &Record) -> Result<()> {
    let mut record = record.clone();
    let set = record.applied.clone();
    let inventory = glance_aside(ctx.world, store, &set, &mut record);
    refuse_what_is_barred(situation(ctx, &record, &inventory, &Experience::default()))
}

/// Refuses a host that the set does not have.
pub fn refuse_unknown_host(record: &Record, host: &Label) -> Result<()> {
    let set = &record.applied;
    if set.host(host).is_some() {
        return Ok(());
    }
    let there: Vec<&str> = set.hosts().map(|(_, h)| h.name.as_str()).collect();
    let text = format!("{} has no host {host}: nothing was done", set.name);
    Err(Error::message(Exit::Usage, text).hint(format!("it has {}", there.join(", "))))
}

/// Between the question and the lease something has changed.
pub fn changed(name: &Label) -> Error {
    let text = format!("what was asked about {name} is not as it was any more: nothing was done");
    Error::message(Exit::Blocked, text).hint("run the command again")
}
