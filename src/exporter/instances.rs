//! Metrics of a set's instances: how many, how they are, where they are.

use std::collections::BTreeMap;

use super::family::{Families, PerSet};
use super::{Area, View, count};
use crate::addresses;
use crate::health::State;
use crate::names::Label;

/// Every state, those that nobody is in included: an alert on a series that is not there never fires.
const STATES: [State; 6] = [
    State::Healthy,
    State::Starting,
    State::Unhealthy,
    State::Failed,
    State::Stopped,
    State::Unknown,
];

/// The metrics.
pub struct Instances {
    capacity: PerSet,
    instances: PerSet,
    on_host: PerSet,
    outdated: PerSet,
    refused: PerSet,
    spread: PerSet,
}

impl Area for Instances {
    fn register(families: &mut Families) -> Self {
        Self {
            capacity: families.gauge("vmss_capacity", "Instances that the set is to have"),
            instances: families.gauge(
                "vmss_instances",
                "Instances by how they are; those that can't be asked are unknown, and those half made or half deleted are \
                 not counted",
            ),
            on_host: families.gauge(
                "vmss_instances_on_host",
                "Instances by host and fault domain, those known to be on a host out of sight included",
            ),
            outdated: families.gauge(
                "vmss_instances_outdated",
                "Instances in sight that are of another revision than the current one",
            ),
            refused: families.gauge(
                "vmss_addresses_refused",
                "Addresses that instances claim and are not reached at, since they are somebody else's or none that could be \
                 reached",
            ),
            spread: families.gauge(
                "vmss_spread_excess",
                "Instances of the fullest fault domain beyond what the evenest spread over the hosts in sight would give it; \
                 0 if placement itself would leave it so",
            ),
        }
    }

    fn take(&self, view: &View<'_>) {
        let (set, record, fleet) = (view.set, view.record, &view.fleet);
        self.capacity.put_one(set, f64::from(record.capacity));

        let mut states: BTreeMap<State, usize> = STATES.iter().map(|state| (*state, 0)).collect();
        for member in &fleet.members {
            *states.entry(member.state).or_default() += 1;
        }
        *states.entry(State::Unknown).or_default() += fleet.absent.len();
        let value = |(state, n): (State, usize)| (vec![("state", state.to_string())], count(n));
        self.instances.put(set, states.into_iter().map(value));

        let places = record.applied.hosts().map(|(domain, host)| (&host.name, domain));
        let mut on_host: BTreeMap<(&Label, &Label), usize> = places.map(|place| (place, 0)).collect();
        let domains: BTreeMap<&Label, &Label> = on_host.keys().copied().collect();
        let seen = fleet
            .members
            .iter()
            .map(|m| (m.host, &m.instance.meta.fault_domain));
        let known = fleet.absent.iter().filter_map(|a| record.known.get(&a.id));
        for (host, domain) in seen.chain(known.map(|k| (&k.host, &k.fault_domain))) {
            // A host has one fault domain, whatever it was in when the instance was made.
            let domain = domains.get(host).copied().unwrap_or(domain);
            *on_host.entry((host, domain)).or_default() += 1;
        }
        self.on_host.put(
            set,
            on_host.into_iter().map(|((host, domain), n)| {
                let labels = vec![("host", host.to_string()), ("fault_domain", domain.to_string())];
                (labels, count(n))
            }),
        );

        let hash = &record.current().hash;
        let outdated = fleet
            .members
            .iter()
            .filter(|m| m.instance.meta.model_hash != *hash);
        self.outdated.put_one(set, count(outdated.count()));

        let choice = addresses::of_set(&record.applied, record, view.inventory);
        self.refused.put_one(set, count(choice.refused().count()));
        self.spread.put_one(set, count(view.spread_excess));
    }
}
