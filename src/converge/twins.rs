//! Two entries of a definition that are one libvirtd: an alias, a name and an address, two URIs. Counted as two hosts, each
//! instance would be there twice, and one of the two "copies" deleted.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::error::{Error, Exit, Result};
use crate::hypervisor::HypervisorError;
use crate::inventory::Inventory;
use crate::names::{Label, PoolMark, StoreId};
use crate::observe::ask_all;
use crate::ownership::Twins;
use crate::scaleset::{Host, ScaleSet};
use crate::world::World;

/// Hosts that may be one: seen with the same UUID of the host (or none, as libvirt's simulation) and the very same domains.
/// Each group has two at least.
fn suspects<'a>(set: &'a ScaleSet, inventory: &Inventory) -> Vec<Vec<&'a Host>> {
    let mut groups: BTreeMap<(Option<Uuid>, u64), Vec<&Host>> = BTreeMap::new();
    for (_, host) in set.hosts() {
        if let Some(seen) = inventory.host(&host.name).and_then(|h| h.seen()) {
            groups.entry((seen.uuid, seen.domains)).or_default().push(host);
        }
    }
    groups.into_values().filter(|group| group.len() > 1).collect()
}

/// Hosts of the set that are one and the same libvirtd. Nothing is asked of hosts that can't be: on real machines each has a
/// UUID of its own. Of those that may be, each gets a volume, and is one with every other that lists it without having looked
/// at its folder again: hosts that merely share a folder don't.
pub fn find(world: &World, set: &ScaleSet, inventory: &Inventory) -> Vec<Twins> {
    let mut twins = Vec::new();
    for group in suspects(set, inventory) {
        let probe = PoolMark {
            store: StoreId((world.draw)()),
            host: "0".repeat(16),
        };
        let marks: Vec<PoolMark> = group
            .iter()
            .map(|host| PoolMark::new(probe.store, host.name.as_str()))
            .collect();
        let open = |host: &&Host| world.hosts.host(host, &set.limits);
        let marked = ask_all(
            group.iter().map(open).zip(marks.clone()).collect(),
            set.limits.call_timeout,
            |host, mark: PoolMark| host.mark_pool(&mark),
        );
        let pools: BTreeSet<&String> = group.iter().map(|host| &host.pool).collect();
        let pools: Vec<String> = pools.into_iter().cloned().collect();
        let seen = ask_all(
            group.iter().map(|host| (open(host), pools.clone())).collect(),
            set.limits.call_timeout,
            |host, pools: Vec<String>| -> std::result::Result<BTreeSet<PoolMark>, HypervisorError> {
                // A pool that only another host has shows nothing of anybody's.
                let marks = pools.iter().filter_map(|pool| host.marks(pool).ok());
                Ok(marks.flatten().collect())
            },
        );
        // Whatever could not be marked can't be told apart, and is not called one.
        let _ = ask_all(
            group.iter().map(open).zip(marks.clone()).collect(),
            set.limits.call_timeout,
            |host, mark: PoolMark| host.unmark_pool(&mark),
        );
        for (a, first) in group.iter().enumerate() {
            for (b, second) in group.iter().enumerate().skip(a + 1) {
                let lists = |who: usize, whose: usize| {
                    marked[whose].is_ok() && seen[who].as_ref().is_ok_and(|s| s.contains(&marks[whose]))
                };
                if lists(a, b) && lists(b, a) {
                    twins.push(Twins {
                        first: first.name.clone(),
                        second: second.name.clone(),
                    });
                }
            }
        }
    }
    twins
}

/// For who only looks, or acts on one of two copies: where an instance seems to be there twice, whether that is because two
/// hosts are one.
pub fn find_behind_doubles(world: &World, set: &ScaleSet, inventory: &mut Inventory) {
    if !inventory.odd.doubles.is_empty() {
        inventory.odd.twins = find(world, set, inventory);
    }
}

/// Refuses a definition that names one host twice.
///
/// # Errors
/// `Definition`, with both names of each.
pub fn refuse(world: &World, set: &ScaleSet, inventory: &Inventory) -> Result<()> {
    let twins = find(world, set, inventory);
    let Some(one) = twins.first() else { return Ok(()) };
    let more = match twins.len() {
        1 => String::new(),
        n => format!(", and {} more pairs", n - 1),
    };
    Err(Error::message(
        Exit::Definition,
        format!("{}{more}", sentence(&one.first, &one.second)),
    )
    .hint("take one of the two out of the definition: a host that is counted twice has room for half of what is planned"))
}

/// "hosts kvm1 and kvm1-ip are one libvirtd under two names".
pub fn sentence(first: &Label, second: &Label) -> String {
    format!("hosts {first} and {second} are one libvirtd under two names")
}
