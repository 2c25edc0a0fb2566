//! The record: the set-level facts that no hypervisor holds.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::inventory::{Instance, Inventory, Phase};
use crate::model::Model;
use crate::names::{InstanceId, Label, StoreId};
use crate::plan::action::{InstanceSpec, Step};
use crate::scaleset::ScaleSet;

/// One set's record. Changed only by compare-and-swap in the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The store that holds it: part of every instance's identity.
    pub store: StoreId,
    /// Stores that managed the set before it was taken over: volumes they named are this one's to sweep.
    #[serde(default)]
    pub former: Vec<StoreId>,
    /// Desired capacity.
    pub capacity: u32,
    /// Whether the set is wanted or on its way out.
    pub life: Life,
    /// Whether deleting the set leaves its images on the hosts.
    #[serde(default)]
    pub keep_images: bool,
    /// The id the next instance gets. Only ever grows.
    pub next_id: InstanceId,
    /// Model revisions, oldest first; never empty.
    pub models: Vec<Revision>,
    /// The scale set as it was last applied.
    pub applied: ScaleSet,
    /// The file it was applied from.
    pub definition: PathBuf,
    /// When the set was made.
    pub created_at: Timestamp,
    /// Instances as they were last seen or are about to be made. What stands in for a host that can't be seen.
    pub known: BTreeMap<InstanceId, Known>,
}

/// Whether a set is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Life {
    /// It is.
    Wanted,
    /// It is to go: every instance, volume and image of it.
    Deleting,
}

/// One revision of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number, from 1.
    pub number: u32,
    /// [`Model::hash`] of `model`.
    pub hash: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The model.
    pub model: Model,
}

/// What is remembered of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The host it is on.
    pub host: Label,
    /// That host's fault domain when it was placed.
    pub fault_domain: Label,
    /// Addresses vmss gave it.
    pub addresses: Vec<Option<Ipv4Addr>>,
    /// Whether it was ever seen whole. One that was only about to be made keeps its id and addresses from others,
    /// but counts for nothing: were its host to die in the middle, the set would wait for an instance that never was.
    pub confirmed: bool,
}

impl Known {
    /// What is to be remembered of an instance that was seen on `host`.
    pub fn seen(instance: &Instance, host: &Label) -> Self {
        Self {
            host: host.clone(),
            fault_domain: instance.meta.fault_domain.clone(),
            addresses: instance.meta.addresses.clone(),
            confirmed: matches!(instance.meta.phase, Phase::Ready | Phase::Changing),
        }
    }

    /// What is to be remembered of an instance that is about to be made.
    pub fn reserved(spec: &InstanceSpec) -> Self {
        Self {
            host: spec.host.clone(),
            fault_domain: spec.fault_domain.clone(),
            addresses: spec.addresses.clone(),
            confirmed: false,
        }
    }
}

impl Record {
    /// The newest revision: what new instances are made of.
    pub fn current(&self) -> &Revision {
        self.models
            .last()
            .expect("a record is made with a revision and none is ever the last to go")
    }

    /// The stores whose names prove that a volume is the set's: the present one first.
    pub fn stores(&self) -> Vec<StoreId> {
        std::iter::once(self.store)
            .chain(self.former.iter().copied())
            .collect()
    }

    /// The revision of that number.
    pub fn revision(&self, number: u32) -> Option<&Revision> {
        self.models.iter().find(|r| r.number == number)
    }

    /// Notes the ids and addresses that `steps` are about to use, so that nothing ever gives them out again, whatever
    /// becomes of the steps. Returns whether anything changed.
    pub fn reserve(&mut self, steps: &[Step]) -> bool {
        let specs = steps.iter().filter_map(|s| s.action.created());
        let before = self.next_id;
        for spec in specs {
            self.next_id = self.next_id.max(InstanceId(spec.id.0 + 1));
            self.known.insert(spec.id, Known::reserved(spec));
        }
        self.next_id != before
    }

    /// Brings `known` and `next_id` into line with what was seen: a host that answered is the truth about its
    /// instances, a host that did not keeps what was known of it. Returns whether anything changed.
    pub fn absorb(&mut self, inventory: &Inventory) -> bool {
        let mut known = self.known.clone();
        let seen = inventory.seen_hosts();
        known.retain(|_, k| !seen.contains(&k.host));
        for host in &inventory.hosts {
            for instance in host.seen().into_iter().flat_map(|h| &h.instances) {
                if instance.meta.store == self.store {
                    known.insert(instance.id, Known::seen(instance, &host.name));
                }
            }
        }
        let highest = known.keys().next_back().map_or(0, |id| id.0);
        let next_id = InstanceId(self.next_id.0.max(highest + 1));
        let changed = known != self.known || next_id != self.next_id;
        self.known = known;
        self.next_id = next_id;
        changed
    }
}
