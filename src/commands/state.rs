//! `vmss state rebuild | adopt | show`: for the day when the store is lost, or another one manages the set.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::commands::unrecorded::Unrecorded;
use crate::commands::{Context, create};
use crate::converge::{amend, twins};
use crate::error::{Error, Exit, Result};
use crate::hypervisor::Watch;
use crate::inventory::{Instance, Inventory, Phase, View};
use crate::names::{Label, StoreId, instance_name};
use crate::observe::{ask_all, observe};
use crate::record::Record;
use crate::request::{Request, Verb};
use crate::scaleset::{Host, ScaleSet};
use crate::store::Store;
use crate::ui::words::{count, list};
use crate::warrants::Cause;

/// Makes the record again from the instances' metadata.
pub fn rebuild(ctx: &Context<'_>, capacity: Option<u32>) -> Result<Exit> {
    let (set, store) = meant(ctx)?;
    if store.get(&set.name)?.is_some() {
        return Err(Error::message(
            Exit::Blocked,
            format!("the store {} has a record of {}", store.location(), set.name),
        )
        .hint("nothing needs to be rebuilt; vmss show tells how the set stands"));
    }
    let held = ctx.hold(&store, &set.name, &format!("state rebuild {}", set.name))?;
    let inventory = see_all(ctx, &set, store.id()?)?;
    let stores = stores(&inventory);
    let found = Unrecorded::of(&set.name, store.id()?, &inventory, None);
    let mut reasons = Vec::new();
    if found.is_anothers() {
        let refuse = "Commands run with another store will refuse from then on.";
        reasons.push(format!("{}. {refuse}", capital(&found.to_string())));
    }
    reasons.extend(unfinished(&set.name, &inventory));
    if !reasons.is_empty() {
        let question = format!(
            "Make the record of {} again here? {}",
            set.name,
            reasons.join(" ")
        );
        if !ctx.confirm(&question)? {
            ctx.say("nothing was changed");
            return Ok(Exit::Converged);
        }
    }
    // A store file that was lost was lost with its identity: the instances name one that nobody has any more.
    let (record, found) = remake(ctx, &set, &*store, &inventory, capacity)?;
    store.put(&set.name, &record, None)?;
    let adopted = take_over(ctx, &set, &stores, record.store)?;
    drop(held);
    for (host, instance, disk) in lies(&inventory) {
        ctx.say(format!(
            "note: the note of {} on {host} lies: its disk {disk} is another instance's; it was left out; vmss instance disown \
             {} says so for good",
            instance.name, instance.uuid
        ));
    }
    ctx.say(format!(
        "{}: record made again: {} found, capacity {}, next id {}{}",
        set.name,
        count(found, "instance"),
        record.capacity,
        record.next_id,
        if adopted > 0 {
            format!("; {} put under this store", count(adopted, "instance"))
        } else {
            String::new()
        }
    ));
    Ok(Exit::Converged)
}

/// What was being deleted by whoever had the record, as a sentence for a question: nobody else can say that it is to go.
fn unfinished(set: &Label, inventory: &Inventory) -> Option<String> {
    let is_meant = |i: &&Instance| {
        i.meta.phase == Phase::Deleting && i.name == instance_name(set, i.id) && i.anothers_disk().is_none()
    };
    let all = (inventory.hosts.iter()).filter_map(|host| Some((&host.name, host.seen()?)));
    let named: Vec<String> = all
        .flat_map(|(host, seen)| (seen.instances.iter().filter(is_meant)).map(move |i| (host, i)))
        .map(|(host, i)| format!("{} on {host}", i.name))
        .collect();
    let (was, that) = if named.len() == 1 {
        ("was", "it")
    } else {
        ("were", "them")
    };
    (!named.is_empty()).then(|| {
        format!(
            "{} {was} being deleted, and the next command that changes the set finishes that: nothing is left of {that}.",
            list(&named, 6)
        )
    })
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

/// Takes over a set whose instances another store manages.
pub fn adopt(ctx: &Context<'_>) -> Result<Exit> {
    let (set, store) = meant(ctx)?;
    let held = ctx.hold(&store, &set.name, &format!("state adopt {}", set.name))?;
    let inventory = see_all(ctx, &set, store.id()?)?;
    let mut others = stores(&inventory);
    others.retain(|s| *s != store.id().unwrap_or(*s));
    if others.is_empty() {
        ctx.say(format!("{}: no instance is managed from another store", set.name));
        return Ok(Exit::Converged);
    }
    let names: Vec<String> = others.iter().map(ToString::to_string).collect();
    let mut question = format!(
        "Take over the instances of {} from store {}? Commands run with that store will refuse from then on.",
        set.name,
        names.join(", ")
    );
    if let Some(more) = unfinished(&set.name, &inventory) {
        question = format!("{question} {more}");
    }
    if !ctx.confirm(&question)? {
        ctx.say("nothing was changed");
        return Ok(Exit::Converged);
    }
    let take_in = |inventory: &Inventory| {
        amend(&*store, &set.name, |record| {
            let news: Vec<StoreId> = others
                .iter()
                .copied()
                .filter(|s| !record.former.contains(s))
                .collect();
            record.former.extend(&news);
            take_in_all(record, inventory, ctx.world.clock.now());
            true
        })
    };
    // The record lists them before a note says that they are this store's: whose they are is never in doubt, wherever this is
    // cut short.
    if store.get(&set.name)?.is_none() {
        let (record, _) = remake(ctx, &set, &*store, &inventory, None)?;
        store.put(&set.name, &record, None)?;
    } else {
        take_in(&inventory)?;
    }
    let adopted = take_over(ctx, &set, &others, store.id()?)?;
    let (record, _) = take_in(&see_all(ctx, &set, store.id()?)?)?;
    drop(held);
    ctx.say(format!(
        "{}: {} taken over, capacity {}",
        set.name,
        count(adopted, "instance"),
        record.capacity
    ));
    Ok(Exit::Converged)
}

/// Says where the store is and what it knows.
pub fn show(ctx: &Context<'_>) -> Result<Exit> {
    let definition = if ctx.file().exists() {
        Some(ctx.definition()?)
    } else {
        None
    };
    let store = ctx.store(definition.as_ref())?;
    let sets = store.sets()?;
    if ctx.is_json() {
        ctx.json(&serde_json::json!({ "store": store.location(), "id": store.id()?, "sets": sets }));
    } else {
        ctx.print(format!("store  {}", store.location()));
        ctx.print(format!("id     {}", store.id()?));
        let names: Vec<&str> = sets.iter().map(Label::as_str).collect();
        ctx.print(format!(
            "sets   {}",
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        ));
    }
    Ok(Exit::Converged)
}

fn meant(ctx: &Context<'_>) -> Result<(ScaleSet, std::sync::Arc<dyn Store>)> {
    let (name, store, definition) = ctx.meant()?;
    match definition {
        Some(set) => Ok((set, store)),
        None => match store.get(&name)? {
            Some((record, _)) => Ok((record.applied, store)),
            None => Err(Error::message(
                Exit::Usage,
                "this needs the definition: name it with -f FILE",
            )),
        },
    }
}

/// All hosts, or none: a record made from a part of the truth would give ids out twice.
fn see_all(ctx: &Context<'_>, set: &ScaleSet, store: StoreId) -> Result<Inventory> {
    let hosts: Vec<Host> = set.hosts().map(|(_, h)| h.clone()).collect();
    let watch = Arc::new(Watch {
        set: set.name.clone(),
        stores: vec![store],
        uuids: HashSet::new(),
    });
    let inventory = observe(&*ctx.world.hosts, &hosts, &set.limits, &watch);
    for host in &inventory.hosts {
        if let View::Unseen { reason } = &host.view {
            return Err(Error::message(
                Exit::Unreachable,
                format!("host {} was not seen: {reason}", host.name),
            )
            .hint("every host of the definition must answer, or ids could be given out twice"));
        }
    }
    Ok(inventory)
}

fn stores(inventory: &Inventory) -> Vec<StoreId> {
    let mut stores: Vec<StoreId> = inventory.instances().map(|i| i.meta.store).collect();
    stores.sort_unstable();
    stores.dedup();
    stores
}

/// A record for what is there. The revision number is the highest that an instance has, so that later ones go on
/// from it; instances of another model than the definition's show as outdated.
fn remake(
    ctx: &Context<'_>,
    set: &ScaleSet,
    store: &dyn Store,
    inventory: &Inventory,
    capacity: Option<u32>,
) -> Result<(Record, usize)> {
    if inventory.instances().next().is_none() {
        return Err(
            Error::message(Exit::Failed, format!("no host has an instance of {}", set.name))
                .hint("to make the set anew: vmss create"),
        );
    }
    twins::refuse(ctx.world, set, inventory)?;
    let mut record = create::record(ctx, set, ctx.model(set)?, store.id()?);
    if let Some(left) = store.abandoned(&set.name)? {
        record.succeed(left);
    }
    let hash = record.current().hash.clone();
    let newest = inventory.instances().map(|i| i.meta.revision).max().unwrap_or(1);
    let newest = newest.max(record.highest_revision);
    let same = inventory
        .instances()
        .filter(|i| i.meta.model_hash == hash)
        .map(|i| i.meta.revision)
        .max();
    if let Some(revision) = record.models.last_mut() {
        revision.number = same.unwrap_or(newest + 1);
    }
    let others = stores(inventory).into_iter().filter(|s| *s != record.store);
    let others: Vec<StoreId> = others.filter(|s| !record.former.contains(s)).collect();
    record.former.extend(others);
    let now = ctx.world.clock.now();
    let found = take_in_all(&mut record, inventory, now);
    let capacity = capacity.unwrap_or_else(|| u32::try_from(found).unwrap_or(u32::MAX));
    record.ask_for(capacity, || Request::of(Verb::State, ctx.world.env.who(), now));
    Ok((record, found))
}

/// Everything that has a note of the set, the name that goes with it and no other instance's disks becomes the record's own: how
/// many instances these are. What was being deleted is, for there is no other record that could say more of it; as little may be
/// left of it as of what was being made.
fn take_in_all(record: &mut Record, inventory: &Inventory, now: Timestamp) -> usize {
    let mut found = BTreeSet::new();
    let set = record.applied.name.clone();
    for host in &inventory.hosts {
        for instance in host.seen().into_iter().flat_map(|h| &h.instances) {
            let (id, uuid) = (instance.id, instance.uuid);
            // Of two that say they are one instance the record's own stays it, and the other is told.
            let is_taken = record.known.contains_key(&id) && record.knows(id, uuid).is_none();
            if instance.name == instance_name(&set, id) && !is_taken && instance.anothers_disk().is_none() {
                record.take_in(instance, &host.name);
                match instance.meta.phase {
                    Phase::Ready | Phase::Changing => _ = found.insert(id),
                    Phase::Creating => {}
                    Phase::Deleting => {
                        let cause = Cause::UnfinishedDeletion;
                        record.warrants.issue(&host.name, id, uuid, cause, now);
                    }
                }
            }
        }
    }
    found.len()
}

/// Domains whose note has a disk of another instance in it, with their hosts and that disk.
fn lies(inventory: &Inventory) -> impl Iterator<Item = (&Label, &Instance, &str)> {
    let all = (inventory.hosts.iter()).filter_map(|host| Some((&host.name, host.seen()?)));
    all.flat_map(|(name, seen)| seen.instances.iter().map(move |i| (name, i)))
        .filter_map(|(name, i)| Some((name, i, i.anothers_disk()?)))
}

fn take_over(ctx: &Context<'_>, set: &ScaleSet, from: &[StoreId], to: StoreId) -> Result<usize> {
    let mut adopted = 0;
    for other in from.iter().filter(|s| **s != to) {
        let (name, other) = (set.name.clone(), *other);
        let open = set
            .hosts()
            .map(|(_, h)| (ctx.world.hosts.host(h, &set.limits), ()))
            .collect();
        for answer in ask_all(open, set.limits.call_timeout, move |host, ()| {
            host.adopt(&name, other, to)
        }) {
            adopted += answer?;
        }
    }
    Ok(adopted)
}
