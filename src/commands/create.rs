//! `vmss create`: makes the record, then runs the loop. On a set that exists it finishes what is unfinished.

use std::collections::HashSet;
use std::sync::Arc;

use crate::commands::{Context, apply, going};
use crate::converge::twins;
use crate::error::{Error, Exit, Result};
use crate::hypervisor::Watch;
use crate::model::Model;
use crate::names::StoreId;
use crate::record::{Life, Record};
use crate::scaleset::ScaleSet;
use crate::store::StoreError;

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
    let model = ctx.model(&set)?;
    let held = ctx.hold(&store, &set.name, &format!("create {}", set.name))?;
    let capacity = match store.get(&set.name)? {
        // Nothing was ever made of it: a first try with a wrong definition binds nobody.
        Some((old, version)) if old.known.is_empty() && old.life == Life::Wanted => {
            let new = Record {
                next_id: old.next_id,
                former: old.former,
                ..record(ctx, &set, model, old.store)
            };
            store.put(&set.name, &new, Some(version))?;
            set.capacity
        }
        Some((record, _)) => existing(ctx, &set, &model, &record)?,
        None => {
            refuse_foreign(ctx, &set, store.id()?)?;
            let record = record(ctx, &set, model, store.id()?);
            match store.put(&set.name, &record, None) {
                Ok(_) | Err(StoreError::Changed(_)) => {}
                Err(e) => return Err(e.into()),
            }
            set.capacity
        }
    };
    let ending = ctx.converge(
        &store,
        &held,
        &ctx.operation(&set.name, "create", None, Some(capacity)),
    )?;
    Ok(ctx.conclude(&set.name, "create", &ending))
}

/// A record for a set that has none.
pub fn record(ctx: &Context<'_>, set: &ScaleSet, model: Model, store: StoreId) -> Record {
    Record::new(store, set.clone(), model, ctx.file(), ctx.world.clock.now())
}

/// Instances of this name without a record are another store's, or this store's from before it was lost: making a
/// second set among them would reuse ids, so nothing is done until a person has said which it is.
fn refuse_foreign(ctx: &Context<'_>, set: &ScaleSet, store: StoreId) -> Result<()> {
    let hosts: Vec<_> = set.hosts().map(|(_, h)| h.clone()).collect();
    let watch = Arc::new(Watch {
        set: set.name.clone(),
        stores: vec![store],
        uuids: HashSet::new(),
    });
    let inventory = crate::observe::observe(&*ctx.world.hosts, &hosts, &set.limits, &watch);
    let Some(instance) = inventory.instances().next() else {
        return twins::refuse(ctx.world, set, &inventory);
    };
    let whose = if instance.meta.store == store {
        "this store, which has lost its record"
    } else {
        "another store"
    };
    let way = if instance.meta.store == store {
        "vmss state rebuild"
    } else {
        "vmss state adopt"
    };
    Err(Error::message(
        Exit::Blocked,
        format!(
            "the hosts already have {} of a set named {}, managed from {whose} ({})",
            crate::ui::words::count(inventory.instances().count(), "instance"),
            set.name,
            instance.meta.store
        ),
    )
    .hint(format!(
        "to go on with that set from here: {way}; to make another, give it another name"
    )))
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
