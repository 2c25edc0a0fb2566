//! A round of probes: every running instance of a set is asked how it is, each in its own way.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::addresses::{self, Told};
use crate::answer::{self, Answer, Judgement};
use crate::health::Sign;
use crate::hypervisor::Hosts;
use crate::inventory::{Instance, Inventory, Phase, Power};
use crate::names::{InstanceId, Label, instance_name};
use crate::observe;
use crate::plan::action::InstanceRef;
use crate::probe::{self, Heard, Probes, Target};
use crate::record::Record;
use crate::scaleset::{Host, Probe, ScaleSet};

/// How long hosts may take to tell their instances' addresses.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long an address that was found is taken for the instance's without asking again. Asking a host costs several
/// calls for each instance, and an address hardly ever changes; but a guest that gets another lease tells nobody, and
/// clients are sent to where it was until it is asked.
const KEPT: SignedDuration = SignedDuration::from_mins(3);

/// Addresses that were found out already, by set: each with the instances that were seen running in the last look.
#[derive(Default)]
pub struct KnownAddresses(Mutex<HashMap<Label, HashMap<Uuid, Found>>>);

/// Where an instance was found.
struct Found {
    addresses: Vec<Told>,
    /// When its host was asked last.
    asked: Timestamp,
}

impl KnownAddresses {
    fn with<T>(&self, set: &ScaleSet, change: impl FnOnce(&mut HashMap<Uuid, Found>) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(set.name.clone()).or_default())
    }
}

/// What a round of probes found.
#[derive(Default)]
pub struct Round {
    /// What each instance said.
    pub answers: BTreeMap<InstanceId, Answer>,
    /// Where they are reached ([`Inventory::reached`]).
    pub reached: BTreeMap<InstanceId, Vec<IpAddr>>,
    /// What hosts were told ([`Inventory::told`]).
    pub told: BTreeMap<InstanceId, Vec<Told>>,
}

/// Asks every running instance of `record`'s that was seen, at `now`; over the network also those on hosts that were
/// not, at the addresses they had: a host that does not answer is not a dead host. Nobody is asked at an address that is not
/// the instance's to claim.
pub fn ask(
    hosts: &dyn Hosts,
    probes: &Arc<dyn Probes>,
    known: &KnownAddresses,
    set: &ScaleSet,
    record: &Record,
    inventory: &Inventory,
    now: Timestamp,
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
    let find = || find_addresses(hosts, known, set, record, &running, now);
    // Who sends clients needs to know where to, however health is asked.
    let led_to = || {
        if !set.is_served() {
            return Round::default();
        }
        find();
        let told = found_addresses(known, set, record, &running);
        let choice = addresses::choose(
            &addresses::claimants(set, record, inventory, &told),
            &inventory.off_limits,
        );
        let at = |id: &InstanceId| (*id, choice.all(*id).to_vec());
        Round {
            reached: told.keys().map(at).filter(|(_, all)| !all.is_empty()).collect(),
            told,
            ..Round::default()
        }
    };
    match &set.health.probe {
        Probe::None => led_to(),
        Probe::Agent => {
            let round = led_to();
            let all = running.into_iter().map(|(host, instances)| {
                let references = instances.into_iter().map(|i| reference(set, i)).collect();
                (host, references)
            });
            let answers = observe::pings(hosts, &set.limits, all.collect(), set.limits.call_timeout);
            Round { answers, ..round }
        }
        Probe::Tcp { .. } | Probe::Http { .. } => {
            find();
            over_network(probes, known, set, record, inventory, &running)
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
        // No note is written by asking.
        epoch: instance.meta.epoch.unwrap_or_default(),
    }
}

/// Whether vmss gave an instance an address: so says the record, or of one that it does not know yet its note.
fn is_assigned(record: &Record, instance: &Instance) -> bool {
    let known = record.known.get(&instance.id);
    let given = known.map_or(&instance.meta.addresses, |known| &known.addresses);
    given.iter().flatten().next().is_some()
}

/// Whether the host of an instance is to be asked for its addresses: none is known, or the one that is may not be its
/// own any more. A guest that begins anew (after a reimage it is another machine to whoever leases addresses) may come
/// to another, and while it starts its host still tells what it had before.
fn is_due(found: Option<&Found>, instance: &Instance, record: &Record, now: Timestamp) -> bool {
    let Some(found) = found else {
        return true;
    };
    let has_begun_anew =
        (record.vitals.get(&instance.id)).is_some_and(|v| v.sign == Sign::Starting || v.since >= found.asked);
    // A clock that was put back makes nothing last longer.
    let is_fresh = (SignedDuration::ZERO..KEPT).contains(&now.duration_since(found.asked));
    has_begun_anew || !is_fresh
}

/// Finds out the addresses of those that have none from vmss, as far as that is due. What was found before counts until
/// something else is.
fn find_addresses(
    hosts: &dyn Hosts,
    known: &KnownAddresses,
    set: &ScaleSet,
    record: &Record,
    running: &[(&Host, Vec<&Instance>)],
    now: Timestamp,
) {
    let seen: HashSet<Uuid> = (running.iter())
        .flat_map(|(_, instances)| instances.iter().map(|i| i.uuid))
        .collect();
    let lookups: Vec<(&Host, Vec<InstanceRef>)> = known.with(set, |known| {
        known.retain(|uuid, _| seen.contains(uuid));
        let is_asked = |i: &&&Instance| !is_assigned(record, i) && is_due(known.get(&i.uuid), i, record, now);
        (running.iter())
            .map(|(host, instances)| {
                let due = instances.iter().filter(is_asked);
                (*host, due.map(|i| reference(set, i)).collect())
            })
            .collect()
    });
    let asked: Vec<InstanceRef> = lookups.iter().flat_map(|(_, i)| i.iter().cloned()).collect();
    let mut told = observe::addresses(hosts, &set.limits, lookups, PATIENCE);
    known.with(set, |known| {
        for instance in asked {
            let Some(addresses) = told.remove(&instance.id) else {
                continue;
            };
            if !addresses.is_empty() {
                known.insert(
                    instance.uuid,
                    Found {
                        addresses,
                        asked: now,
                    },
                );
            } else if let Some(found) = known.get_mut(&instance.uuid) {
                found.asked = now;
            }
        }
    });
}

/// Addresses of those that have none from vmss, as far as they were found.
fn found_addresses(
    known: &KnownAddresses,
    set: &ScaleSet,
    record: &Record,
    running: &[(&Host, Vec<&Instance>)],
) -> BTreeMap<InstanceId, Vec<Told>> {
    let unassigned =
        (running.iter()).flat_map(|(_, instances)| instances.iter().filter(|i| !is_assigned(record, i)));
    known.with(set, |known| {
        let found = |i: &&Instance| Some((i.id, known.get(&i.uuid)?.addresses.clone()));
        unassigned.filter_map(found).collect()
    })
}

fn over_network(
    probes: &Arc<dyn Probes>,
    known: &KnownAddresses,
    set: &ScaleSet,
    record: &Record,
    inventory: &Inventory,
    running: &[(&Host, Vec<&Instance>)],
) -> Round {
    let told = found_addresses(known, set, record, running);
    let choice = addresses::choose(
        &addresses::claimants(set, record, inventory, &told),
        &inventory.off_limits,
    );
    let seen = (running.iter()).flat_map(|(_, instances)| instances.iter().map(|i| (i.id, i.uuid)));
    let target = |(id, uuid)| Target {
        id,
        addresses: choice.all(id).to_vec(),
        uuid,
    };
    let is_refused = |t: &Target| t.addresses.is_empty() && choice.refuses(t.id);
    let (refused, targets): (Vec<Target>, Vec<Target>) =
        (seen.chain(hidden(record, inventory)).map(target)).partition(is_refused);
    let rounds = u32::try_from(targets.len().div_ceil(probe::MOST_AT_ONCE)).unwrap_or(u32::MAX);
    // Every target has its turn within that, each with its own time-out.
    let deadline = set.health.timeout.saturating_mul(rounds.saturating_add(1)) + Duration::from_secs(1);
    let asked = targets.clone();
    let mut heard = probe::ask_all(probes, targets, &set.health, deadline);
    answer::see_own_side(heard.values_mut().map(|heard| &mut heard.answer));
    known.with(set, |known| {
        for target in &asked {
            // What says nothing of an instance says nothing of its address.
            let judged = heard.get(&target.id).map(|heard| heard.answer.judgement());
            if judged == Some(Judgement::Bad) {
                known.remove(&target.uuid);
            }
        }
    });
    let well = heard.iter().filter(|(_, heard)| heard.answer.is_good());
    let reached = well
        .filter_map(|(id, heard)| Some((*id, vec![heard.at?])))
        .collect();
    let unasked = refused.iter().map(|t| (t.id, Answer::AddressRefused));
    let answers = heard.into_iter().map(|(id, Heard { answer, .. })| (id, answer));
    Round {
        answers: answers.chain(unasked).collect(),
        reached,
        told,
    }
}

/// Whom to ask on hosts that were not seen. One without a known address is asked as well: it answers that none is known.
fn hidden(record: &Record, inventory: &Inventory) -> Vec<(InstanceId, Uuid)> {
    let is_hidden = |host| inventory.host(host).is_some_and(|h| h.seen().is_none());
    (record.known.iter())
        .filter(|(_, k)| k.confirmed && !k.stopped && is_hidden(&k.host))
        .map(|(id, k)| (*id, k.uuid))
        .collect()
}
