//! A round of probes: every running instance of a set is asked how it is, each in its own way.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use crate::hypervisor::Hosts;
use crate::inventory::{Answer, Instance, Inventory, Phase, Power};
use crate::names::{InstanceId, StoreId, instance_name};
use crate::observe;
use crate::plan::action::InstanceRef;
use crate::probe::{self, Probes, Target};
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

/// Asks every running instance of `store` that was seen.
pub fn ask(
    hosts: &dyn Hosts,
    probes: &Arc<dyn Probes>,
    known: &KnownAddresses,
    set: &ScaleSet,
    store: StoreId,
    inventory: &Inventory,
) -> BTreeMap<InstanceId, Answer> {
    let is_asked =
        |i: &&Instance| i.meta.store == store && i.meta.phase == Phase::Ready && i.power == Power::Running;
    let running: Vec<(&Host, Vec<&Instance>)> = (inventory.hosts.iter())
        .filter_map(|view| {
            let instances = view.seen()?.instances.iter().filter(is_asked).collect();
            Some((set.host(&view.name)?, instances))
        })
        .collect();
    match &set.health.probe {
        Probe::None => BTreeMap::new(),
        Probe::Agent => {
            let all = running.into_iter().map(|(host, instances)| {
                let references = instances.into_iter().map(|i| reference(set, i)).collect();
                (host, references)
            });
            observe::pings(hosts, &set.limits, all.collect(), set.limits.call_timeout)
        }
        Probe::Tcp { .. } | Probe::Http { .. } => over_network(hosts, probes, known, set, &running),
    }
}

fn reference(set: &ScaleSet, instance: &Instance) -> InstanceRef {
    InstanceRef {
        set: set.name.clone(),
        store: instance.meta.store,
        id: instance.id,
        name: instance_name(&set.name, instance.id),
        uuid: instance.uuid,
    }
}

fn over_network(
    hosts: &dyn Hosts,
    probes: &Arc<dyn Probes>,
    known: &KnownAddresses,
    set: &ScaleSet,
    running: &[(&Host, Vec<&Instance>)],
) -> BTreeMap<InstanceId, Answer> {
    let assigned = |i: &Instance| -> Vec<IpAddr> {
        i.meta
            .addresses
            .iter()
            .flatten()
            .map(|a| IpAddr::V4(*a))
            .collect()
    };
    let is_unknown = |i: &Instance| assigned(i).is_empty() && known.with(|k| !k.contains_key(&i.uuid));
    let lookups: Vec<(&Host, Vec<InstanceRef>)> = (running.iter())
        .map(|(host, instances)| {
            let unknown = instances.iter().filter(|i| is_unknown(i));
            (*host, unknown.map(|i| reference(set, i)).collect())
        })
        .collect();
    let found = observe::addresses(hosts, &set.limits, lookups, PATIENCE);
    let instances = || running.iter().flat_map(|(_, instances)| instances.iter());
    known.with(|known| {
        for instance in instances() {
            if let Some(addresses) = found.get(&instance.id).filter(|a| !a.is_empty()) {
                known.insert(instance.uuid, addresses.clone());
            }
        }
    });
    let targets: Vec<Target> = instances()
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
    let rounds = u32::try_from(targets.len().div_ceil(probe::MOST_AT_ONCE)).unwrap_or(u32::MAX);
    // Every target has its turn within that, each with its own time-out.
    let deadline = set.health.timeout.saturating_mul(rounds.saturating_add(1)) + Duration::from_secs(1);
    let uuids: HashMap<InstanceId, Uuid> = targets.iter().map(|t| (t.id, t.uuid)).collect();
    let answers = probe::ask_all(probes, targets, &set.health, deadline);
    known.with(|known| {
        for (id, _) in answers.iter().filter(|(_, answer)| !answer.good) {
            if let Some(uuid) = uuids.get(id) {
                known.remove(uuid);
            }
        }
    });
    answers
}
