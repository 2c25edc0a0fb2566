//! The record: the set-level facts that no hypervisor holds.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::autoscale;
use crate::health::{Sign, State, Vital, later};
use crate::inventory::{Instance, Inventory, Phase, Power, Protection};
use crate::load_balancer::Dropped;
use crate::model::{ImageDigest, Model};
use crate::names::{InstanceId, Label, StoreId};
use crate::plan::action::{Action, InstanceSpec, Step};
use crate::repairs::{FORGET_AFTER, Repairs, Tries, WrittenOff};
use crate::rollout::Rollout;
use crate::scaleset::{Health, Probe, ScaleSet};
use crate::timed::Timed;

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
    /// Instances that are being moved, noted before they are: both hosts must tell how it ended.
    #[serde(default)]
    pub moves: BTreeMap<InstanceId, Move>,
    /// What instances' answers to their probe add up to.
    #[serde(default)]
    pub vitals: BTreeMap<InstanceId, Vital>,
    /// Instances that an operator has asked to be deleted: they go whatever the capacity, and nothing else goes or is
    /// made in their place before they are gone.
    #[serde(default)]
    pub condemned: BTreeSet<InstanceId>,
    /// Instances that take no more clients because something is about to be done to them, and since when: so that those
    /// they have are given their time once, whoever goes on with it.
    #[serde(default)]
    pub leaving: BTreeMap<InstanceId, Timestamp>,
    /// Load balancers and discovery files that a definition has dropped, and that still have to be told of it.
    #[serde(default)]
    pub dropped: Vec<Dropped>,
    /// Repairs: asked for, under way, tried, suspended.
    #[serde(default)]
    pub repair: Repairs,
    /// Since when each host has been out of sight, as far as anybody looked.
    #[serde(default)]
    pub unseen: BTreeMap<Label, Timestamp>,
    /// Instances that were given up with their host, and have not been seen to be gone yet.
    #[serde(default)]
    pub written_off: BTreeMap<InstanceId, WrittenOff>,
    /// What autoscaling remembers.
    #[serde(default)]
    pub autoscale: autoscale::State,
    /// Capacities that were asked for from some time on.
    #[serde(default)]
    pub timed: Vec<Timed>,
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
    /// Whether running ones are moved as they run, instead of being replaced.
    #[serde(default)]
    pub migrate: bool,
}

/// A move of an instance from one host to another that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The host it leaves.
    pub from: Label,
    /// The host it goes to.
    pub to: Label,
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
    /// Whether it was ever seen whole, or its host said that it was made. One that was only about to be made keeps its id and addresses from others,
    /// but counts for nothing: were its host to die in the middle, the set would wait for an instance that never was.
    pub confirmed: bool,
    /// The revision it was last seen with; `None` while a change to another is under way.
    #[serde(default)]
    pub revision: Option<u32>,
    /// Where it answered last, or without a probe over the network where it was reached: there it is asked when its host can't
    /// be, and served.
    #[serde(default)]
    pub reached: Vec<IpAddr>,
    /// What it was protected from when it was last seen.
    #[serde(default)]
    pub protection: Protection,
    /// Whether it was stopped on purpose when it was last seen.
    #[serde(default)]
    pub stopped: bool,
}

impl Known {
    /// What is to be remembered of an instance that was seen on `host` and reached at those addresses.
    pub fn seen(instance: &Instance, host: &Label, reached: Vec<IpAddr>) -> Self {
        Self {
            host: host.clone(),
            fault_domain: instance.meta.fault_domain.clone(),
            addresses: instance.meta.addresses.clone(),
            confirmed: matches!(instance.meta.phase, Phase::Ready | Phase::Changing),
            revision: Some(instance.meta.revision),
            reached,
            protection: instance.meta.protection,
            stopped: instance.meta.stopped,
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
            reached: Vec::new(),
            protection: spec.protection,
            stopped: false,
        }
    }
}

impl Record {
    /// The record of a set of which nothing is there yet, made at `now` of the definition in a file.
    pub fn new(store: StoreId, set: ScaleSet, model: Model, definition: PathBuf, now: Timestamp) -> Self {
        Self {
            store,
            former: Vec::new(),
            capacity: set.capacity,
            life: Life::Wanted,
            keep_images: false,
            current: None,
            rollout: None,
            cordons: BTreeMap::new(),
            former_images: BTreeSet::new(),
            moves: BTreeMap::new(),
            vitals: BTreeMap::new(),
            condemned: BTreeSet::new(),
            leaving: BTreeMap::new(),
            dropped: Vec::new(),
            repair: Repairs::default(),
            unseen: BTreeMap::new(),
            written_off: BTreeMap::new(),
            autoscale: autoscale::State::default(),
            timed: Vec::new(),
            next_id: InstanceId(1),
            models: vec![Revision {
                number: 1,
                hash: model.hash(),
                created_at: now,
                model,
            }],
            applied: set,
            definition,
            created_at: now,
            known: BTreeMap::new(),
        }
    }

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
        needed.extend(self.repair.under_way.values().map(|m| m.revision));
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

    /// Notes that these instances were made: they count from now on, should their host go out of sight before they are seen
    /// there. Returns whether anything changed.
    pub fn confirm(&mut self, made: impl IntoIterator<Item = InstanceId>) -> bool {
        let mut changed = false;
        for id in made {
            if let Some(known) = self.known.get_mut(&id).filter(|k| !k.confirmed) {
                known.confirmed = true;
                changed = true;
            }
        }
        changed
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
        for step in steps {
            if let Action::Migrate { instance, spec } = &step.action {
                let (from, to) = (step.host.clone(), spec.host.clone());
                self.moves.insert(instance.id, Move { from, to });
                changed = true;
            }
        }
        // Of which revision it is then shows when it is seen again, and not before.
        for step in steps {
            if let Action::Rework { spec, .. } = &step.action
                && let Some(known) = self.known.get_mut(&spec.id)
            {
                changed |= known.revision.take().is_some() || known.addresses != spec.addresses;
                known.addresses.clone_from(&spec.addresses);
            }
        }
        // Whatever is started or changed begins its grace period anew.
        for step in steps {
            let Some(id) = step.action.restarted() else {
                continue;
            };
            let before = self.vitals.remove(&id);
            let mut vital = Vital::new(now);
            if matches!(step.action, Action::Start(_)) {
                // Noted before it is tried, so that no crash, of the guest or of vmss, makes a start uncounted.
                vital.down = before.and_then(|v| v.down);
                let tries = Tries::after(self.repair.starts.get(&id), now);
                self.repair.starts.insert(id, tries);
            }
            self.vitals.insert(id, vital);
            changed = true;
        }
        changed
    }

    /// Notes which instances take no more clients from `now` on, because something is about to be done to them. Those that
    /// were noted keep their time; who is not among them any more is forgotten. Returns whether anything changed.
    pub fn note_leaving(&mut self, leaving: &BTreeSet<InstanceId>, now: Timestamp) -> bool {
        let since = |id: &InstanceId| self.leaving.get(id).copied().unwrap_or(now);
        let next: BTreeMap<InstanceId, Timestamp> = leaving.iter().map(|id| (*id, since(id))).collect();
        let changed = next != self.leaving;
        self.leaving = next;
        changed
    }

    /// Gives up `ids` with their hosts: they count no more, and are deleted if they are ever seen again.
    pub fn write_off(&mut self, ids: &[InstanceId], now: Timestamp) {
        for id in ids {
            if let Some(known) = self.known.remove(id) {
                self.vitals.remove(id);
                let written_off = WrittenOff {
                    host: known.host,
                    at: now,
                    addresses: known.addresses,
                };
                self.written_off.insert(*id, written_off);
            }
        }
    }

    /// Adds what was seen and answered at `now` to what is known of the instances' health, and of how long hosts have
    /// been out of sight. An instance that does not run, or is being changed, begins anew. Returns whether anything
    /// changed.
    pub fn heed(&mut self, inventory: &Inventory, rules: &Health, now: Timestamp) -> bool {
        let unseen: BTreeMap<Label, Timestamp> = (inventory.hosts.iter())
            .filter(|h| h.seen().is_none())
            .map(|h| (h.name.clone(), self.unseen.get(&h.name).copied().unwrap_or(now)))
            .collect();
        let mut vitals = self.vitals.clone();
        vitals.retain(|id, _| self.known.contains_key(id));
        for host in &inventory.hosts {
            let is_back = self.unseen.contains_key(&host.name);
            let ours = (host.seen().into_iter().flat_map(|h| &h.instances))
                .filter(|i| i.meta.store == self.store && self.known.contains_key(&i.id));
            for instance in ours {
                // One that nobody has looked at yet has been starting since it was made.
                let vital =
                    (vitals.entry(instance.id)).or_insert_with(|| Vital::new(instance.meta.created_at));
                if is_back {
                    // Nobody could have done anything about it while its host was away: what it ails from begins now.
                    vital.down = None;
                    if vital.sign == Sign::Unhealthy {
                        vital.since = now;
                    }
                }
                look_at(vital, instance, now);
            }
        }
        for (id, answer) in &inventory.answers {
            // One whose host is out of sight is still heard.
            if self.known.contains_key(id) {
                let vital = vitals.entry(*id).or_insert_with(|| Vital::new(now));
                *vital = vital.after(answer, rules, now);
            }
        }
        for instance in inventory.instances() {
            let Some(vital) = vitals.get_mut(&instance.id).filter(|v| v.down.is_some()) else {
                continue;
            };
            let tries = self.repair.starts.get(&instance.id);
            let has_lasted = tries.is_none_or(|t| t.next_start() <= now);
            if has_lasted && State::of(instance, Some(vital), rules) == State::Healthy {
                vital.down = None;
            }
        }
        if rules.probe == Probe::None {
            // What runs is healthy: only of what does not is there anything to know.
            vitals.retain(|_, vital| vital.down.is_some());
        }
        let changed = vitals != self.vitals || unseen != self.unseen;
        (self.vitals, self.unseen) = (vitals, unseen);
        self.forget_tries(inventory, rules, now) | changed
    }

    /// Forgets what was tried on instances that have been healthy for long since, or are gone.
    fn forget_tries(&mut self, inventory: &Inventory, rules: &Health, now: Timestamp) -> bool {
        let repair = &self.repair;
        if repair.tries.is_empty() && repair.starts.is_empty() {
            return false;
        }
        let mending: BTreeSet<InstanceId> = (repair.under_way.iter())
            .flat_map(|(id, mending)| std::iter::once(*id).chain(mending.fresh))
            .collect();
        let well: BTreeSet<InstanceId> = (inventory.instances())
            .filter(|i| repair.tries.contains_key(&i.id) || repair.starts.contains_key(&i.id))
            .filter(|i| {
                let vital = self.vitals.get(&i.id);
                let since = vital.map_or(Timestamp::MIN, |v| v.since);
                State::of(i, vital, rules) == State::Healthy && later(since, FORGET_AFTER) <= now
            })
            .map(|i| i.id)
            .collect();
        let known = &self.known;
        let keep = |id: &InstanceId, tries: &mut Tries| {
            let is_over = later(tries.last, FORGET_AFTER) <= now && well.contains(id);
            mending.contains(id) || known.contains_key(id) && !is_over
        };
        let before = (self.repair.tries.len(), self.repair.starts.len());
        self.repair.tries.retain(keep);
        self.repair.starts.retain(keep);
        before != (self.repair.tries.len(), self.repair.starts.len())
    }

    /// Brings `known` and `next_id` into line with what was seen: a host that answered is the truth about its
    /// instances, a host that did not keeps what was known of it. An instance that was on its way to a host that did not
    /// is known to be there, if it is not where it came from. What was written off is not known again, but forgotten once
    /// it is seen to be gone, or its host has left the set. Returns whether anything changed.
    pub fn absorb(&mut self, inventory: &Inventory) -> bool {
        let mut known = self.known.clone();
        let mut written_off = self.written_off.clone();
        let seen = inventory.seen_hosts();
        known.retain(|id, k| !seen.contains(&k.host) || self.follow(*id, k, &seen));
        let mut there = BTreeSet::new();
        let mut arriving = Vec::new();
        for host in &inventory.hosts {
            for instance in host.seen().into_iter().flat_map(|h| &h.instances) {
                if instance.meta.store != self.store {
                    continue;
                }
                if written_off.contains_key(&instance.id) {
                    there.insert(instance.id);
                    continue;
                }
                let reached = match inventory.reached.get(&instance.id) {
                    Some(addresses) => addresses.clone(),
                    None => (self.known.get(&instance.id)).map_or_else(Vec::new, |k| k.reached.clone()),
                };
                let mut seen = Known::seen(instance, &host.name, reached);
                if let Some(known) = self.known.get(&instance.id) {
                    // What vmss gave it is known from when it was given; what a note says of it is evidence only.
                    seen.addresses.clone_from(&known.addresses);
                }
                if instance.is_arriving() {
                    arriving.push((instance.id, seen));
                } else {
                    known.insert(instance.id, seen);
                }
            }
        }
        // Where it comes from it is still the whole one, if it is there.
        for (id, seen) in arriving {
            known.entry(id).or_insert(seen);
        }
        let mut moves = self.moves.clone();
        moves.retain(|id, m| !is_over(*id, m, inventory));
        written_off.retain(|id, w| {
            let is_hidden = inventory.host(&w.host).is_some_and(|h| h.seen().is_none());
            there.contains(id) || is_hidden
        });
        let highest = known.keys().next_back().map_or(0, |id| id.0);
        let next_id = InstanceId(self.next_id.0.max(highest + 1));
        let mut condemned = self.condemned.clone();
        condemned.retain(|id| known.contains_key(id));
        let changed = known != self.known
            || next_id != self.next_id
            || condemned != self.condemned
            || moves != self.moves
            || written_off != self.written_off;
        (self.known, self.next_id) = (known, next_id);
        (self.condemned, self.written_off, self.moves) = (condemned, written_off, moves);
        changed
    }

    /// Whether an instance may have arrived on a host that is not among `seen`: then that is where it is known to be.
    fn follow(&self, id: InstanceId, known: &mut Known, seen: &HashSet<&Label>) -> bool {
        let Some(moved) = self.moves.get(&id).filter(|m| !seen.contains(&m.to)) else {
            return false;
        };
        known.host.clone_from(&moved.to);
        if let Some((domain, _)) = self.applied.hosts().find(|(_, h)| h.name == moved.to) {
            known.fault_domain.clone_from(domain);
        }
        true
    }
}

/// What the sight of an instance means for its vital.
fn look_at(vital: &mut Vital, instance: &Instance, now: Timestamp) {
    let is_ready = instance.meta.phase == Phase::Ready;
    if is_ready && instance.power == Power::Running {
        return;
    }
    let down = vital.down;
    if !vital.is_new() {
        *vital = Vital::new(now);
    }
    let is_down = is_ready
        && !instance.meta.stopped
        && matches!(instance.power, Power::Off | Power::Crashed | Power::Paused);
    vital.down = is_down.then(|| down.unwrap_or(now));
}

/// Whether both hosts show that a move has ended: the instance is on one of them, or on none, and no note says more of it.
fn is_over(id: InstanceId, moved: &Move, inventory: &Inventory) -> bool {
    let copies = |host: &Label| {
        let seen = inventory.host(host)?.seen()?;
        Some(seen.instances.iter().filter(|i| i.id == id).collect::<Vec<_>>())
    };
    let (Some(mut there), Some(here)) = (copies(&moved.from), copies(&moved.to)) else {
        return false;
    };
    there.extend(here);
    there.len() < 2 && there.iter().all(|i| i.meta.moving_to.is_none())
}
