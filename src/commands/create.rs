//! `vmss create`: makes the record, then runs the loop. On a set that exists it finishes what is unfinished.

use crate::commands::instance::claim::{refuse_what_is_barred, situation};
use crate::commands::{Context, apply, consent, going, ranges, unrecorded};
use crate::converge::{Consent, glance, twins};
use crate::error::{Error, Exit, Result};
use crate::inventory::Inventory;
use crate::model::Model;
use crate::names::{InstanceId, StoreId};
use crate::ownership::sort_out;
use crate::plan::Experience;
use crate::plan::loss::Named;
use crate::record::{Life, Record};
use crate::request::{Request, Verb};
use crate::scaleset::ScaleSet;
use crate::store::{Store, StoreError};

/// Creates the set, or finishes creating it.
pub fn run(ctx: &Context<'_>) -> Result<Exit> {
    if ctx.global.set.is_some() {
        return Err(Error::message(
            Exit::Usage,
            "create needs the definition: name it with -f FILE",
        ));
    }
    let set = ctx.definition()?;
    let store = ctx.store(Some(&set))?;
    let known = store.get(&set.name)?.map(|(record, _)| record);
    // Of a set on which nothing was ever made its own record binds nobody.
    let known = known.filter(|record| !record.known.is_empty());
    ranges::check(ctx, &*store, &set, known.as_ref())?;
    let model = ctx.model(&set)?;
    let held = ctx.hold(&store, &set.name, &format!("create {}", set.name))?;
    let agreed;
    let ask = |record: &Record, seen: Option<&Inventory>| may_create(ctx, &*store, record, seen);
    let capacity = match store.get(&set.name)? {
        // Nothing is there of it: a first try with a wrong definition binds nobody.
        Some((old, version)) if old.known.is_empty() && old.life == Life::Wanted => {
            refuse_what_is_left(ctx, &*store, &old, &set)?;
            let mut new = record(ctx, &set, model, old.store);
            new.succeed(old);
            twins::refuse(ctx.world, &set, &glance(ctx.world, &*store, &set, &new))?;
            agreed = ask(&new, None)?;
            if agreed.is_some() {
                store.put(&set.name, &new, Some(version))?;
            }
            set.capacity
        }
        Some((record, _)) => {
            let capacity = existing(ctx, &set, &model, &record)?;
            agreed = ask(&record, None)?;
            capacity
        }
        None => {
            let left = store.abandoned(&set.name)?;
            let mut seen = refuse_foreign(ctx, &set, store.id()?, left.as_ref())?;
            let mut record = record(ctx, &set, model, store.id()?);
            if let Some(left) = left {
                record.succeed(left);
                sort_out(&record, &mut seen);
            }
            agreed = ask(&record, Some(&seen))?;
            if agreed.is_some() {
                match store.put(&set.name, &record, None) {
                    Ok(_) | Err(StoreError::Changed(_)) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            set.capacity
        }
    };
    let Some(agreed) = agreed else {
        return Ok(Exit::Converged);
    };
    let ending = ctx.converge(
        &store,
        &held,
        &ctx.operation(&set.name, "create", None, Some(capacity)),
        agreed,
    )?;
    Ok(ctx.conclude(&set.name, "create", &ending))
}

/// Asks about what making the set, or finishing it, would delete.
fn may_create(
    ctx: &Context<'_>,
    store: &dyn Store,
    record: &Record,
    seen: Option<&Inventory>,
) -> Result<Option<Consent>> {
    let head = format!("Create {}?", record.applied.name);
    match seen.filter(|_| !ctx.global.yes) {
        Some(seen) => consent::ask_about(
            ctx,
            &consent::foresee_of(ctx, record, seen),
            &head,
            Named::default(),
        ),
        None => consent::ask(ctx, store, record, &head, consent::going_on(record)),
    }
}

/// Refuses a definition that drops hosts of a set on which nothing is left, if something there says otherwise: a copy of an instance,
/// or notes that are newer than the record.
fn refuse_what_is_left(ctx: &Context<'_>, store: &dyn Store, old: &Record, set: &ScaleSet) -> Result<()> {
    if old.next_id == InstanceId(1) || apply::lost_hosts(&old.applied, set, &[]).is_empty() {
        return Ok(());
    }
    let seen = glance(ctx.world, store, &old.applied, old);
    if seen.odd.is_record_old() {
        refuse_what_is_barred(situation(ctx, old, &seen, &Experience::default()))?;
    }
    apply::refuse_lost_copies(old, set, &seen, &[])
}

/// A record for a set that has none.
pub fn record(ctx: &Context<'_>, set: &ScaleSet, model: Model, store: StoreId) -> Record {
    let now = ctx.world.clock.now();
    let mut record = Record::new(store, set.clone(), model, ctx.file(), now);
    record.request = Some(Request::of(Verb::Create, ctx.world.env.who(), now));
    record
}

/// Instances of this name without a record are another store's, or this store's from before it was lost: making a
/// second set among them would reuse ids, so nothing is done until a person has said which it is.
/// What was given up with its host is neither: the new set's record takes it over.
fn refuse_foreign(
    ctx: &Context<'_>,
    set: &ScaleSet,
    store: StoreId,
    left: Option<&Record>,
) -> Result<Inventory> {
    let (found, inventory) = unrecorded::look_for(ctx, set, store, left);
    if found.is_empty() {
        twins::refuse(ctx.world, set, &inventory)?;
        Ok(inventory)
    } else {
        Err(found.error())
    }
}

fn existing(ctx: &Context<'_>, set: &ScaleSet, model: &Model, record: &Record) -> Result<u32> {
    if record.life == Life::Deleting {
        return Err(going(&set.name).hint("finish that with vmss delete, then create it"));
    }
    let keys = apply::changed_keys(&record.applied, set);
    if !keys.is_empty() || record.current().hash != model.hash() {
        ctx.say(format!(
            "note: the set exists and the definition has changed since ({}); vmss apply makes it count",
            apply::named(&keys)
        ));
    }
    if record.capacity != set.capacity {
        ctx.say(format!(
            "note: the set exists with a capacity of {}; the definition says {}, which counts for the first create \
             only (vmss scale changes it)",
            record.capacity, set.capacity
        ));
    }
    Ok(record.capacity)
}
