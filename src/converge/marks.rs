//! The marks that a store leaves in the pools it uses, one for each host: whoever sees another's in its own pool has its disks
//! in the same folder.

use std::collections::{BTreeMap, BTreeSet};

use crate::inventory::Inventory;
use crate::names::{Label, PoolMark};
use crate::observe::ask_all;
use crate::record::Record;
use crate::scaleset::{Host, ScaleSet};
use crate::store::{Store, StoreError};
use crate::world::World;

/// Leaves the store's mark in each pool that was seen without it, and takes away what was left for a host when it had another URI.
/// Whether anything was: then who shares a folder is known only after another look. One that can't be left is no reason to stop:
/// what is deleted there is proved to be unused all the same.
///
/// # Errors
/// The store can't be read.
pub(super) fn leave(
    world: &World,
    store: &dyn Store,
    record: &Record,
    inventory: &Inventory,
) -> Result<bool, StoreError> {
    let has_taken = take_former(world, store, record, inventory)?;
    Ok(leave_own(world, record, inventory) || has_taken)
}

/// Takes away marks of URIs by which no host is reached any more. Whether any was.
fn take_former(
    world: &World,
    store: &dyn Store,
    record: &Record,
    inventory: &Inventory,
) -> Result<bool, StoreError> {
    let set = &record.applied;
    let former = former_marks(store, record)?;
    let open: Vec<_> = (set.hosts())
        .filter_map(|(_, host)| Some((host, former.get(&host.name)?, inventory.host(&host.name)?.seen()?)))
        .flat_map(|(host, marks, seen)| {
            let there = marks.iter().filter(|mark| seen.marks.contains(*mark));
            there.map(move |mark| (host, mark.clone()))
        })
        .map(|(host, mark)| (world.hosts.host(host, &set.limits), mark))
        .collect();
    let taken = ask_all(open, set.limits.call_timeout, |host, mark: PoolMark| {
        host.unmark_pool(&mark)
    });
    Ok(taken.iter().any(Result::is_ok))
}

/// The marks that were left for each host under URIs that it had before, but for those of URIs by which any host of the store's
/// sets is reached now.
fn former_marks(store: &dyn Store, record: &Record) -> Result<BTreeMap<Label, Vec<PoolMark>>, StoreError> {
    if record.former_uris.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut used: BTreeSet<String> = uris_of(&record.applied);
    for name in store.sets()?.iter().filter(|name| **name != record.applied.name) {
        if let Some((other, _)) = store.get(name)? {
            used.extend(uris_of(&other.applied));
        }
    }
    let marks = |uris: &BTreeSet<String>| {
        let unused = uris.iter().filter(|uri| !used.contains(*uri));
        unused.map(|uri| PoolMark::new(record.store, uri)).collect()
    };
    Ok((record.former_uris.iter())
        .map(|(host, uris)| (host.clone(), marks(uris)))
        .collect())
}

fn uris_of(set: &ScaleSet) -> BTreeSet<String> {
    set.hosts().map(|(_, host)| host.uri.clone()).collect()
}

fn leave_own(world: &World, record: &Record, inventory: &Inventory) -> bool {
    let set = &record.applied;
    let mark = |host: &Host| PoolMark::new(record.store, &host.uri);
    let there: Vec<_> = (set.hosts())
        .filter_map(|(_, host)| Some((host, inventory.host(&host.name)?.seen()?)))
        .filter(|(_, seen)| seen.pool_unseen.is_none())
        .collect();
    let lacking: Vec<&Host> = (there.iter())
        .filter(|(host, seen)| !seen.marks.contains(&mark(host)))
        .map(|(host, _)| *host)
        .collect();
    if lacking.is_empty() {
        return false;
    }
    let leave = |hosts: Vec<&Host>| {
        let open = hosts
            .into_iter()
            .map(|host| (world.hosts.host(host, &set.limits), mark(host)))
            .collect();
        let left = ask_all(open, set.limits.call_timeout, |host, mark: PoolMark| {
            host.mark_pool(&mark)
        });
        left.iter().any(Result::is_ok)
    };
    // Those that were left at the same time show at a second try, on every host.
    leave(lacking) && leave(there.into_iter().map(|(host, _)| host).collect())
}

/// Takes the store's marks away from the hosts of a set that is gone, but for those that another set of the store has: these read
/// their pools anew, for what was deleted through another host of the same folder would be listed there until somebody does.
///
/// # Errors
/// The store can't be read.
pub fn take(world: &World, store: &dyn Store, gone: &Record) -> Result<(), StoreError> {
    let set = &gone.applied;
    let mut still_used: Vec<(String, String)> = Vec::new();
    for name in store.sets()?.iter().filter(|name| **name != set.name) {
        if let Some((record, _)) = store.get(name)? {
            still_used.extend(hosts_of(&record.applied));
        }
    }
    let former = former_marks(store, gone)?;
    let open = (set.hosts())
        .map(|(_, host)| host)
        .map(|host| {
            let is_used = still_used.contains(&(host.uri.clone(), host.pool.clone()));
            // Those of a store that had the set before, too: if it lives, it leaves its own again.
            let marks = gone.stores().into_iter();
            let before = former.get(&host.name).into_iter().flatten().cloned();
            let marks: Vec<_> = (marks.map(|store| PoolMark::new(store, &host.uri)))
                .chain(before)
                .collect();
            let others = set
                .hosts()
                .map(|(_, other)| other)
                .filter(|other| other.name != host.name);
            let of = Marks {
                is_used,
                pool: host.pool.clone(),
                own: PoolMark::new(gone.store, &host.uri),
                marks,
                others: others
                    .map(|other| PoolMark::new(gone.store, &other.uri))
                    .collect(),
            };
            (world.hosts.host(host, &set.limits), of)
        })
        .collect();
    // One that stays holds nothing, and only says that somebody has used the pool.
    let _ = ask_all(open, set.limits.call_timeout, |host, of: Marks| {
        if of.is_used {
            return host.mark_pool(&of.own);
        }
        // In a folder that hosts share images stay, and so does what says who shares it: whoever makes the set anew while one of
        // them is out of sight knows that it may have its disks there. Looked for by leaving the own one again: what was deleted
        // through another host would be listed here until somebody looks.
        host.mark_pool(&of.own)?;
        if host.marks(&of.pool)?.iter().any(|mark| of.others.contains(mark)) {
            return Ok(());
        }
        of.marks.iter().try_for_each(|mark| host.unmark_pool(mark))
    });
    Ok(())
}

/// What is asked of a host when its set is gone.
struct Marks {
    /// Whether another set of the store uses the pool.
    is_used: bool,
    /// The pool.
    pool: String,
    /// The host's own mark.
    own: PoolMark,
    /// All that were left for it.
    marks: Vec<PoolMark>,
    /// Those that were left for the set's other hosts.
    others: Vec<PoolMark>,
}

fn hosts_of(set: &ScaleSet) -> Vec<(String, String)> {
    set.hosts()
        .map(|(_, h)| (h.uri.clone(), h.pool.clone()))
        .collect()
}

/// Hosts that were seen to have their disks in one folder with others, each with those.
pub fn sharing(record: &Record, inventory: &Inventory) -> Vec<(Label, Vec<Label>)> {
    let set = &record.applied;
    let others = |host: &Host| -> Vec<Label> {
        let Some(seen) = inventory.host(&host.name).and_then(|h| h.seen()) else {
            return Vec::new();
        };
        (set.hosts())
            .map(|(_, other)| other)
            .filter(|other| other.name != host.name)
            .filter(|other| seen.marks.contains(&PoolMark::new(record.store, &other.uri)))
            .map(|other| other.name.clone())
            .collect()
    };
    (set.hosts())
        .map(|(_, host)| (host.name.clone(), others(host)))
        .filter(|(_, others)| !others.is_empty())
        .collect()
}
