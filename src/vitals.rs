//! A round of probes: every running instance of a set is asked how it is, each in its own way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use crate::hypervisor::Hosts;
use crate::inventory::{Answer, Instance, Inventory, Phase, Power};
use crate::names::{InstanceId, instance_name, instance_uuid};
use crate::observe;
use crate::plan::action::InstanceRef;
use crate::probe::{self, Probes, Target};
use crate::record::Record;
use crate::scaleset::{Host, Probe, ScaleSet};

/// How long hosts may take to tell their instances' addresses.
const PATIENCE: Duration = Duration::from_secs(8);

/// Addresses that were found out once. Asking a host costs several calls for each instance, and an address hardly ever
/// changes: one that stops answering is asked for again.
#[derive(Default)]
pub struct KnownAddresses(Mutex<HashMap<Uuid, Vec<IpAddr>>>);

impl KnownAddresses {
    fn with<T>(&self, change: impl FnOnce(&mut HashMap<Uuid, Vec<IpAddr>>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a round of probes found.
#[derive(Default)]
pub struct Round {
    /// What each instance said.
    pub answers: BTreeMap<InstanceId, Answer>,
    /// Where those answered well that have no address from vmss.
    pub reached: BTreeMap<InstanceId, Vec<IpAddr>>,
}

/// Asks every running instance of `record`'s that was seen; over the network also those on hosts that were not, at the
/// addresses they had: a host that does not answer is not a dead host.
pub fn ask(
    hosts: &dyn Hosts,
    probes: &Arc<dyn Probes>,
    known: &KnownAddresses,
    set: &ScaleSet,
    record: &Record,
    inventory: &Inventory,
) -> Round {
    let is_asked = |i: &&Instance| {
        i.meta.store == record.store
            && !record.written_off.contains_key(&i.id)
            && i.meta.phase == Phase::Ready
            && i.power == Power::Running
    };
    let running: Vec<(&Host, Vec<&Instance>)> = (inventory.hosts.iter())
        .filter_map(|view| {
            let instances = view.seen()?.instances.iter().filter(is_asked).collect();
            Some((set.host(&view.name)?, instances))
        })
        .collect();
    // Who sends clients needs to know where to, however health is asked.
    let led_to = |running: &[(&Host, Vec<&Instance>)]| match set.is_served() {
        true => found_addresses(hosts, known, set, running),
        false => BTreeMap::new(),
    };
    match &set.health.probe {
        Probe::None => Round {
            reached: led_to(&running),
            ..Round::default()
        },
        Probe::Agent => {
            let reached = led_to(&running);
            let all = running.into_iter().map(|(host, instances)| {
                let references = instances.into_iter().map(|i| reference(set, i)).collect();
                (host, references)
            });
            let answers = observe::pings(hosts, &set.limits, all.collect(), set.limits.call_timeout);
            Round { answers, reached }
        }
        Probe::Tcp { .. } | Probe::Http { .. } => {
            over_network(hosts, probes, known, set, &running, &hidden(record, inventory))
        }
    }
}

/// What names an instance to its host.
pub fn reference(set: &ScaleSet, instance: &Instance) -> InstanceRef {
    InstanceRef {
        set: set.name.clone(),
        store: instance.meta.store,
        id: instance.id,
        name: instance_name(&set.name, instance.id),
        uuid: instance.uuid,
    }
}

/// Addresses that vmss gave an instance.
fn assigned(instance: &Instance) -> Vec<IpAddr> {
    let given = instance.meta.addresses.iter().flatten();
    given.map(|a| IpAddr::V4(*a)).collect()
}

/// Finds out the addresses of those that have none from vmss and that are not known yet.
fn find_addresses(
    hosts: &dyn Hosts,
    known: &KnownAddresses,
    set: &ScaleSet,
    running: &[(&Host, Vec<&Instance>)],
) {
    let is_unknown = |i: &Instance| assigned(i).is_empty() && known.with(|k| !k.contains_key(&i.uuid));
    let lookups: Vec<(&Host, Vec<InstanceRef>)> = (running.iter())
        .map(|(host, instances)| {
            let unknown = instances.iter().filter(|i| is_unknown(i));
            (*host, unknown.map(|i| reference(set, i)).collect())
        })
        .collect();
    let found = observe::addresses(hosts, &set.limits, lookups, PATIENCE);
    known.with(|known| {
        for instance in running.iter().flat_map(|(_, instances)| instances.iter()) {
            if let Some(addresses) = found.get(&instance.id).filter(|a| !a.is_empty()) {
                known.insert(instance.uuid, addresses.clone());
            }
        }
    });
}

/// Addresses of those that have none from vmss, found out by their hosts.
fn found_addresses(
    hosts: &dyn Hosts,
    known: &KnownAddresses,
    set: &ScaleSet,
    running: &[(&Host, Vec<&Instance>)],
) -> BTreeMap<InstanceId, Vec<IpAddr>> {
    find_addresses(hosts, known, set, running);
    let unassigned =
        (running.iter()).flat_map(|(_, instances)| instances.iter().filter(|i| assigned(i).is_empty()));
    known.with(|known| {
        let found = |i: &&Instance| Some((i.id, known.get(&i.uuid)?.clone()));
        unassigned.filter_map(found).collect()
    })
}

fn over_network(
    hosts: &dyn Hosts,
    probes: &Arc<dyn Probes>,
    known: &KnownAddresses,
    set: &ScaleSet,
    running: &[(&Host, Vec<&Instance>)],
    hidden: &[Target],
) -> Round {
    find_addresses(hosts, known, set, running);
    let instances = || running.iter().flat_map(|(_, instances)| instances.iter());
    let mut targets: Vec<Target> = instances()
        .map(|i| {
            let assigned = assigned(i);
            let addresses = if assigned.is_empty() {
                known.with(|k| k.get(&i.uuid).cloned().unwrap_or_default())
            } else {
                assigned
            };
            Target {
                id: i.id,
                addresses,
                uuid: i.uuid,
            }
        })
        .collect();
    // An address that was let to somebody else meanwhile tells nothing of who had it before.
    let taken: BTreeSet<IpAddr> = targets.iter().flat_map(|t| t.addresses.iter().copied()).collect();
    targets.extend(hidden.iter().map(|target| {
        let own = target.addresses.iter().copied().filter(|a| !taken.contains(a));
        Target {
            addresses: own.collect(),
            ..target.clone()
        }
    }));
    let rounds = u32::try_from(targets.len().div_ceil(probe::MOST_AT_ONCE)).unwrap_or(u32::MAX);
    // Every target has its turn within that, each with its own time-out.
    let deadline = set.health.timeout.saturating_mul(rounds.saturating_add(1)) + Duration::from_secs(1);
    let asked = targets.clone();
    let answers = probe::ask_all(probes, targets, &set.health, deadline);
    let is_well = |t: &&Target| answers.get(&t.id).is_some_and(|answer| answer.good);
    known.with(|known| {
        for target in asked.iter().filter(|t| !is_well(t)) {
            known.remove(&target.uuid);
        }
    });
    let unassigned: BTreeSet<InstanceId> = instances()
        .filter(|i| assigned(i).is_empty())
        .map(|i| i.id)
        .collect();
    let reached = (asked.iter().filter(is_well))
        .filter(|t| unassigned.contains(&t.id))
        .map(|t| (t.id, t.addresses.clone()))
        .collect();
    Round { answers, reached }
}

/// Whom to ask on hosts that were not seen. One without a known address is asked as well: it answers that none is known.
fn hidden(record: &Record, inventory: &Inventory) -> Vec<Target> {
    let is_hidden = |host| inventory.host(host).is_some_and(|h| h.seen().is_none());
    (record.known.iter())
        .filter(|(_, k)| k.confirmed && !k.stopped && is_hidden(&k.host))
        .map(|(id, k)| Target {
            id: *id,
            addresses: k.asked_at(),
            uuid: instance_uuid(record.store, &record.applied.name, *id),
        })
        .collect()
}
