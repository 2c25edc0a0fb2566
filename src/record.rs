//! The record: the set-level facts that no hypervisor holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::health::Vital;
use crate::inventory::{Instance, Inventory, Phase, Power};
use crate::model::{ImageDigest, Model};
use crate::names::{InstanceId, Label, StoreId};
use crate::plan::action::{InstanceSpec, Step};
use crate::rollout::Rollout;
use crate::scaleset::{Health, Probe, ScaleSet};

/// Revisions kept though no instance has them.
const KEPT_MODELS: usize = 10;

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
    /// Images of revisions that were forgotten: hosts may still have them, and they go with the set.
    #[serde(default)]
    pub former_images: BTreeSet<ImageDigest>,
    /// Number of the revision that new instances are made of; `None`: the newest.
    #[serde(default)]
    pub current: Option<u32>,
    /// The last rollout, under way or ended.
    #[serde(default)]
    pub rollout: Option<Rollout>,
    /// Hosts that get no new instances, by name.
    #[serde(default)]
    pub cordons: BTreeMap<Label, Cordon>,
    /// What instances' answers to their probe add up to.
    #[serde(default)]
    pub vitals: BTreeMap<InstanceId, Vital>,
    /// Instances that an operator has asked to be deleted: they go whatever the capacity, and nothing else goes or is
    /// made in their place before they are gone.
    #[serde(default)]
    pub condemned: BTreeSet<InstanceId>,
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

/// Why a host gets no new instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cordon {
    /// Who cordoned it, as `user@machine`.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Whether those it has are to leave it.
    pub drain: bool,
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
    /// The revision it was last seen with.
    #[serde(default)]
    pub revision: Option<u32>,
}

impl Known {
    /// What is to be remembered of an instance that was seen on `host`.
    pub fn seen(instance: &Instance, host: &Label) -> Self {
        Self {
            host: host.clone(),
            fault_domain: instance.meta.fault_domain.clone(),
            addresses: instance.meta.addresses.clone(),
            confirmed: matches!(instance.meta.phase, Phase::Ready | Phase::Changing),
            revision: Some(instance.meta.revision),
        }
    }

    /// What is to be remembered of an instance that is about to be made.
    pub fn reserved(spec: &InstanceSpec) -> Self {
        Self {
            host: spec.host.clone(),
            fault_domain: spec.fault_domain.clone(),
            addresses: spec.addresses.clone(),
            confirmed: false,
            revision: Some(spec.revision),
        }
    }
}

impl Record {
    /// The current revision: what new instances are made of, and what the others are outdated against.
    pub fn current(&self) -> &Revision {
        self.current
            .and_then(|number| self.revision(number))
            .or_else(|| self.models.last())
            .expect("a record is made with a revision and none is ever the last to go")
    }

    /// Makes `model` the current one: an earlier revision that is the same comes back, any other becomes a new one.
    /// Returns its number.
    pub fn adopt_model(&mut self, model: Model, now: Timestamp) -> u32 {
        let hash = model.hash();
        let number = match self.models.iter().find(|r| r.hash == hash) {
            Some(revision) => revision.number,
            None => {
                let number = self.models.iter().map(|r| r.number).max().unwrap_or(0) + 1;
                self.models.push(Revision {
                    number,
                    hash,
                    created_at: now,
                    model,
                });
                number
            }
        };
        self.current = Some(number);
        number
    }

    /// Takes the rollout on to `next`, unless somebody has changed it since it was `seen`. Returns whether it was taken.
    pub fn steer(&mut self, seen: Option<&Rollout>, next: Rollout) -> bool {
        if self.rollout.as_ref() != seen {
            return false;
        }
        // New instances are made of what the others are brought to.
        self.current = Some(next.target);
        self.rollout = Some(next);
        true
    }

    /// Forgets revisions that nobody has any more: the last ten, those of instances, the current one and the ends of a
    /// rollout stay.
    pub fn forget_old_models(&mut self) {
        let keep = self.models.len().saturating_sub(KEPT_MODELS);
        let mut needed: BTreeSet<u32> = self.known.values().filter_map(|k| k.revision).collect();
        needed.insert(self.current().number);
        needed.extend(self.rollout.iter().flat_map(|r| [r.from, r.target]));
        let mut position = 0;
        let (kept, forgotten) = std::mem::take(&mut self.models)
            .into_iter()
            .partition(|revision| {
                position += 1;
                position > keep || needed.contains(&revision.number)
            });
        self.models = kept;
        (self.former_images).extend(forgotten.into_iter().map(|r: Revision| r.model.image.digest));
    }

    /// Images that hosts may have because of the set: those of its revisions, and of those that were forgotten.
    pub fn images(&self) -> BTreeSet<&ImageDigest> {
        let present = self.models.iter().map(|r| &r.model.image.digest);
        present.chain(&self.former_images).collect()
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
    pub fn reserve(&mut self, steps: &[Step], now: Timestamp) -> bool {
        let specs = steps.iter().filter_map(|s| s.action.created());
        let mut changed = false;
        for spec in specs {
            self.next_id = self.next_id.max(InstanceId(spec.id.0 + 1));
            self.known.insert(spec.id, Known::reserved(spec));
            changed = true;
        }
        // Whatever is started or changed begins its grace period anew.
        for id in steps.iter().filter_map(|s| s.action.restarted()) {
            self.vitals.insert(id, Vital::new(now));
            changed = true;
        }
        changed
    }

    /// Adds what instances have answered to what is known of their health. One that does not run, or is being changed,
    /// begins anew. Returns whether anything changed.
    pub fn heed(&mut self, inventory: &Inventory, rules: &Health, now: Timestamp) -> bool {
        if rules.probe == Probe::None {
            return !std::mem::take(&mut self.vitals).is_empty();
        }
        let mut vitals = std::mem::take(&mut self.vitals);
        let before = vitals.clone();
        vitals.retain(|id, _| self.known.contains_key(id));
        let ours = inventory.instances().filter(|i| i.meta.store == self.store);
        for instance in ours {
            // One that nobody has looked at yet has been starting since it was made.
            let vital = (vitals.entry(instance.id)).or_insert_with(|| Vital::new(instance.meta.created_at));
            let runs = instance.meta.phase == Phase::Ready && instance.power == Power::Running;
            if !runs && !vital.is_new() {
                *vital = Vital::new(now);
            }
        }
        for (id, answer) in &inventory.answers {
            if let Some(vital) = vitals.get_mut(id) {
                *vital = vital.after(answer, rules, now);
            }
        }
        self.vitals = vitals;
        self.vitals != before
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
        let mut condemned = self.condemned.clone();
        condemned.retain(|id| known.contains_key(id));
        let changed = known != self.known || next_id != self.next_id || condemned != self.condemned;
        self.known = known;
        self.next_id = next_id;
        self.condemned = condemned;
        changed
    }
}
