//! The record: the set-level facts that no hypervisor holds.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::autoscale;
use crate::epoch::Epoch;
use crate::health::{Sign, State, Vital, later};
use crate::inventory::{Instance, Inventory, Phase, Power, Protection};
use crate::load_balancer::Dropped;
use crate::model::{ImageDigest, Model};
use crate::names::{
    InstanceId, Label, PoolMark, StoreId, VolumeName, instance_name, instance_uuid, volume_tag,
};
use crate::ownership::{Age, Strangeness};
use crate::plan::action::{Action, InstanceSpec, Step};
use crate::repairs::{FORGET_AFTER, Repairs, Tries, WrittenOff};
use crate::request::Request;
use crate::rollout::Rollout;
use crate::scaleset::{Health, Probe, ScaleSet};
use crate::timed::Timed;
use crate::warrants::{Cause, Warrants};

/// How long after it began a call that was given up may still land: longer than any daemon keeps one.
const LANDS_WITHIN: Duration = Duration::from_secs(3600);

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
    /// URIs by which hosts were reached before: the marks that were left under them are theirs ([`crate::names::PoolMark`]).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub former_uris: BTreeMap<Label, BTreeSet<String>>,
    /// Hosts on which an instance was seen when it was there twice, and which were not seen without it since: what can't be seen
    /// is not gone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub copies: BTreeMap<InstanceId, BTreeSet<Label>>,
    /// Desired capacity.
    pub capacity: u32,
    /// Who asked for that capacity, with which command and when; `None` if an earlier version has written it down.
    #[serde(default)]
    pub request: Option<Request>,
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
    /// Instances that were given up with their host, in this set or in one of the name before it, and have not been seen to be
    /// gone yet.
    #[serde(default)]
    pub written_off: BTreeMap<InstanceId, WrittenOff>,
    /// What autoscaling remembers.
    #[serde(default)]
    pub autoscale: autoscale::State,
    /// Capacities that were asked for from some time on.
    #[serde(default)]
    pub timed: Vec<Timed>,
    /// Renewed by each record that precedes an act on hosts; every note that the act writes carries it.
    #[serde(default)]
    pub epoch: Epoch,
    /// What is to be deleted, by whose word.
    #[serde(default)]
    pub warrants: Warrants,
    /// Instances that have gone from their host though nobody asked vmss for it: a domain that has the UUID of one is told, and
    /// its addresses are given to nobody else as long as it is there.
    #[serde(default)]
    pub departed: BTreeMap<InstanceId, Departed>,
    /// UUIDs of domains whose notes lie, as an operator has said.
    #[serde(default)]
    pub disowned: BTreeSet<Uuid>,
    /// The highest revision that a note had which was taken in, whether or not the record has it: no new one gets its number.
    #[serde(default)]
    pub highest_revision: u32,
    /// The scale set as it was last applied.
    pub applied: ScaleSet,
    /// The file it was applied from.
    pub definition: PathBuf,
    /// When the set was made.
    pub created_at: Timestamp,
    /// Whether it lists nothing yet though there is something, as a version left it that took in whatever it saw: until every
    /// host was seen once, what has an id and a UUID that one of its stores has given is its own.
    #[serde(default)]
    pub takes_in: bool,
    /// Instances that live: as they were last seen, or are about to be made. Nothing else is the set's, whatever a note says;
    /// and it stands in for a host that can't be seen.
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

/// An instance that has gone though nobody asked vmss for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departed {
    /// Its UUID.
    pub uuid: Uuid,
    /// The host it was on.
    pub host: Label,
    /// Addresses vmss gave it.
    pub addresses: Vec<Option<Ipv4Addr>>,
}

/// How many of those that have gone are remembered, the newest: an operator keeps few domains under other names.
const DEPARTED: usize = 1000;

/// What is remembered of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its UUID, drawn when its id was reserved.
    pub uuid: Uuid,
    /// The epoch of its note as it was last seen; `None` for one of a version that knew none.
    #[serde(default)]
    pub epoch: Option<Epoch>,
    /// Epochs under which its note was to be written since.
    #[serde(default)]
    pub ordered: Vec<Epoch>,
    /// Whether it was made by a version that wrote no warrants: what its note says of being made or deleted counts, until it
    /// was seen whole.
    #[serde(default)]
    pub is_carried_over: bool,
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
    /// What is to be remembered of an instance that was seen on `host` and reached at those addresses; `before` is what was
    /// known of it.
    pub fn seen(instance: &Instance, host: &Label, reached: Vec<IpAddr>, before: Option<&Self>) -> Self {
        let is_whole = matches!(instance.meta.phase, Phase::Ready | Phase::Changing);
        let mut known = Self {
            uuid: instance.uuid,
            epoch: before.and_then(|k| k.epoch),
            ordered: before.map_or_else(Vec::new, |k| k.ordered.clone()),
            is_carried_over: before.is_some_and(|k| k.is_carried_over) && !is_whole,
            host: host.clone(),
            fault_domain: instance.meta.fault_domain.clone(),
            addresses: instance.meta.addresses.clone(),
            confirmed: is_whole || before.is_some_and(|k| k.confirmed),
            revision: Some(instance.meta.revision),
            reached,
            protection: instance.meta.protection,
            stopped: instance.meta.stopped,
        };
        known.note_seen(instance.meta.epoch);
        known
    }

    /// What is to be remembered of an instance that a version has made which took in what it saw.
    fn carried_over(instance: &Instance, host: &Label) -> Self {
        let seen = Self::seen(instance, host, Vec::new(), None);
        Self {
            is_carried_over: !seen.confirmed,
            ..seen
        }
    }

    /// What is to be remembered of an instance that is about to be made.
    pub fn reserved(spec: &InstanceSpec) -> Self {
        Self {
            uuid: spec.uuid,
            epoch: None,
            ordered: Vec::new(),
            is_carried_over: false,
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

    /// Takes in the epoch of a note that was seen, if it is one that was ordered.
    fn note_seen(&mut self, epoch: Option<Epoch>) {
        let Some(seen) = epoch else { return };
        if self.epoch.is_none() && self.ordered.is_empty() || self.ordered.contains(&seen) {
            self.epoch = Some(seen);
            self.ordered.retain(|o| o.count > seen.count);
        }
    }

    /// Notes that its note is about to be written under `epoch`.
    fn order(&mut self, epoch: Epoch) {
        // More than that are never on their way.
        const MOST: usize = 16;
        if self.ordered.len() >= MOST {
            self.ordered.remove(0);
        }
        self.ordered.push(epoch);
    }

    /// How old its note is that was seen with `note` as its epoch.
    pub fn age_of(&self, note: Option<Epoch>) -> Age {
        match (note, self.epoch) {
            (None, None) => Age::Current,
            (None, Some(_)) => Age::Older,
            (Some(note), seen) if Some(note) == seen || self.ordered.contains(&note) => Age::Current,
            (Some(note), Some(seen)) if note.count <= seen.count => Age::Older,
            (Some(_), _) => Age::Newer,
        }
    }
}

impl Record {
    /// The record of a set of which nothing is there yet, made at `now` of the definition in a file.
    pub fn new(store: StoreId, set: ScaleSet, model: Model, definition: PathBuf, now: Timestamp) -> Self {
        Self {
            store,
            former: Vec::new(),
            former_uris: BTreeMap::new(),
            copies: BTreeMap::new(),
            capacity: set.capacity,
            request: None,
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
            epoch: Epoch::default(),
            warrants: Warrants::default(),
            departed: BTreeMap::new(),
            disowned: BTreeSet::new(),
            highest_revision: 0,
            takes_in: false,
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

    /// Somebody asks for another capacity. One that is wanted already stays whoever's it is. Returns whether it is another.
    pub fn ask_for(&mut self, capacity: u32, request: impl FnOnce() -> Request) -> bool {
        let is_another = self.capacity != capacity;
        if is_another {
            self.capacity = capacity;
            self.request = Some(request());
        }
        is_another
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
                let numbers = self.models.iter().map(|r| r.number);
                let number = numbers.fold(self.highest_revision, u32::max).saturating_add(1);
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

    /// Notes what `steps` are about to do, before anything of it is done: the ids, UUIDs and addresses that they use, so that
    /// nothing ever gives them out again, whatever becomes of the steps; and what they delete, by whose word. A new epoch
    /// begins, made of what was `drawn`. Returns whether anything changed.
    pub fn reserve(&mut self, steps: &[Step], drawn: Uuid, now: Timestamp) -> bool {
        if steps.is_empty() {
            // The batch whose parts may go has ended.
            return !std::mem::take(&mut self.warrants.parts).is_empty();
        }
        self.epoch = self.epoch.next(drawn);
        let mut changed = true;
        for spec in steps.iter().filter_map(|s| s.action.created()) {
            self.next_id = self.next_id.max(spec.id.next().unwrap_or(InstanceId::MAX));
            self.known.insert(spec.id, Known::reserved(spec));
        }
        for known in (steps.iter()).filter_map(|step| step.action.instance()) {
            if let Some(known) = self.known.get_mut(&known) {
                known.order(self.epoch);
            }
        }
        self.warrants.parts = Warrants::of_batch(steps).parts;
        for step in steps {
            let host = &step.host;
            match &step.action {
                Action::Migrate { instance, spec } => {
                    let (from, to) = (host.clone(), spec.host.clone());
                    self.moves.insert(instance.id, Move { from, to });
                }
                Action::Delete { instance, cause, .. } | Action::DropCopy { instance, cause, .. } => {
                    self.warrants
                        .issue(host, instance.id, instance.uuid, cause.clone(), now);
                }
                _ => {}
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
                let revision = known.revision.and_then(|number| self.revision(number));
                let written_off = WrittenOff {
                    has_data_disks: revision.is_some_and(|r| !r.model.data_disks.is_empty()),
                    uuid: known.uuid,
                    host: known.host,
                    at: now,
                    addresses: known.addresses,
                };
                self.written_off.insert(*id, written_off);
            }
        }
    }

    /// The set is ended, though not everything of it could be seen: whatever may still be there is given up.
    pub fn give_up(&mut self, now: Timestamp) {
        let all: Vec<InstanceId> = self.known.keys().copied().collect();
        self.write_off(&all, now);
    }

    /// Whether the instance is one that was given up, or was to go when its host was.
    pub fn gave_up(&self, id: InstanceId, uuid: Uuid) -> bool {
        let is_it = |w: &WrittenOff| w.uuid == uuid || self.may_have_given(id, uuid);
        let mut of_hosts = self.warrants.instances.keys();
        self.written_off.get(&id).is_some_and(is_it)
            || of_hosts.any(|host| self.warrants.covers(host, id, uuid))
    }

    /// Makes this record of a set that is made anew the successor of `before`, under which hosts may still have something. No
    /// id, and no number of a revision whose seed may lie on a host, is given out twice; and what was given up, is to go, was
    /// taken away by hand, disowned, cordoned or dropped, stays so.
    pub fn succeed(&mut self, before: Self) {
        let highest = before.models.iter().map(|r| r.number);
        let highest = highest.fold(before.highest_revision, u32::max);
        let is_the_same = before.current().hash == self.current().hash;
        let number = match (is_the_same, before.next_id > InstanceId(1)) {
            (true, _) => before.current().number,
            (false, true) => highest.saturating_add(1),
            (false, false) => before.models.first().map_or(1, |r| r.number),
        };
        if let Some(own) = self.models.last_mut() {
            own.number = number;
        }
        self.former_images.extend(before.images().into_iter().cloned());
        let own = &self.current().model.image.digest.clone();
        self.former_images.remove(own);
        self.highest_revision = highest;
        self.next_id = self.next_id.max(before.next_id);
        self.former = before.former;
        self.former_uris = before.former_uris;
        self.written_off = before.written_off;
        self.warrants.instances = before.warrants.instances;
        self.departed = before.departed;
        self.disowned = before.disowned;
        self.unseen = before.unseen;
        self.cordons = before.cordons;
        self.dropped = before.dropped;
        self.epoch = before.epoch;
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
        self.forget_warrants(inventory, now) | self.forget_tries(inventory, rules, now) | changed
    }

    /// Forgets warrants of what was seen to be gone, once no call that was given up can land any more.
    fn forget_warrants(&mut self, inventory: &Inventory, now: Timestamp) -> bool {
        if self.warrants.instances.is_empty() {
            return false;
        }
        let mut there: BTreeMap<&Label, HashSet<(InstanceId, String)>> = BTreeMap::new();
        // What no living instance has, on any host: another that has its disks in the same folder may not have looked into it since.
        let mut left: HashSet<(InstanceId, String)> = HashSet::new();
        for host in &inventory.hosts {
            let Some(seen) = host.seen().filter(|seen| seen.pool_unseen.is_none()) else {
                continue;
            };
            let is_living = |v: &&VolumeName| self.known.get(&v.id).is_some_and(|k| v.is_of(v.id, k.uuid));
            let nobodys = seen.volumes.iter().filter(|v| !is_living(v));
            left.extend(nobodys.map(|v| (v.id, v.tag.clone())));
            let instances = seen.instances.iter().map(|i| (i.id, volume_tag(i.uuid)));
            // Those that lie there for an instance that lives on another host of the same folder stay as long as it does.
            let volumes = (seen.volumes.iter())
                .filter(|volume| !self.has_it_from_elsewhere(&host.name, &seen.marks, volume))
                .map(|v| (v.id, v.tag.clone()));
            there.insert(&host.name, instances.chain(volumes).collect());
        }
        self.warrants.retain(|host, id, warrant| {
            let Some(there) = there.get(host) else { return true };
            let its = (id, volume_tag(warrant.uuid));
            there.contains(&its) || left.contains(&its) || later(warrant.at, LANDS_WITHIN) > now
        })
    }

    /// Whether a volume that a host lists is one of an instance which lives on another host, whose mark lies in the same folder.
    fn has_it_from_elsewhere(&self, host: &Label, marks: &BTreeSet<PoolMark>, volume: &VolumeName) -> bool {
        let known =
            (self.known.get(&volume.id)).filter(|k| volume.is_of(volume.id, k.uuid) && k.host != *host);
        let its_host = known.and_then(|k| self.applied.host(&k.host));
        its_host.is_some_and(|h| marks.contains(&PoolMark::new(self.store, &h.uri)))
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

    /// Brings what is known of the instances into line with what was seen, once that was sorted out
    /// ([`crate::ownership::sort_out`]): a host that answered is the truth about its instances, a host that did not keeps
    /// what was known of it. Nothing that is seen makes an instance known, or raises the next id. An instance that was on its
    /// way to a host that did not answer is known to be there, if it is not where it came from. What was written off is not
    /// known again, but forgotten once it is seen to be gone. Returns whether anything changed.
    pub fn absorb(&mut self, inventory: &Inventory) -> bool {
        let before = self.clone_of_what_a_look_changes();
        let mut known = self.known.clone();
        let written_off = std::mem::take(&mut self.written_off);
        let seen = inventory.seen_hosts();
        known.retain(|id, k| {
            inventory.odd.is_double(*id) || !seen.contains(&k.host) || self.follow(*id, k, &seen)
        });
        let mut there = BTreeSet::new();
        let mut arriving = Vec::new();
        for host in &inventory.hosts {
            for instance in host.seen().into_iter().flat_map(|h| &h.instances) {
                if instance.meta.store != self.store || inventory.odd.is_double(instance.id) {
                    continue;
                }
                if written_off.contains_key(&instance.id) {
                    there.insert(instance.id);
                    continue;
                }
                let Some(before) = self.knows(instance.id, instance.uuid) else {
                    if self.may_take_in(instance) {
                        known
                            .entry(instance.id)
                            .or_insert_with(|| Known::carried_over(instance, &host.name));
                    }
                    continue;
                };
                let reached = match inventory.reached.get(&instance.id) {
                    Some(addresses) => addresses.clone(),
                    None => before.reached.clone(),
                };
                let mut seen = Known::seen(instance, &host.name, reached, Some(before));
                // What vmss gave it is known from when it was given; what a note says of it is evidence only.
                seen.addresses.clone_from(&before.addresses);
                if instance.is_arriving() {
                    arriving.push((instance.id, seen));
                } else {
                    known.insert(instance.id, seen);
                }
                // Whole where it was to go: whoever wants it gone asks again.
                if matches!(instance.meta.phase, Phase::Ready | Phase::Changing) {
                    self.warrants.withdraw(&host.name, instance.id);
                }
            }
        }
        // Brought back whole after it had gone as it was to: neither it nor its disks are to go again by the same word.
        for stranger in inventory
            .odd
            .strangers
            .iter()
            .filter(|s| s.why == Strangeness::Forgotten)
        {
            let is_covered = |id: &InstanceId| self.warrants.covers(&stranger.host, *id, stranger.uuid);
            if let Some(id) = stranger.id.filter(is_covered) {
                self.warrants.withdraw(&stranger.host, id);
            }
        }
        // Where it comes from it is still the whole one, if it is there.
        for (id, seen) in arriving {
            known.entry(id).or_insert(seen);
        }
        for (id, gone) in std::mem::take(&mut self.known) {
            if !known.contains_key(&id) {
                self.part_with(id, gone);
            }
        }
        let (over, moves) = std::mem::take(&mut self.moves)
            .into_iter()
            .partition(|(id, m)| is_over(*id, m, inventory));
        self.known = known;
        self.takes_in &= !self.applied.hosts().all(|(_, h)| seen.contains(&h.name));
        self.moves = moves;
        self.clean_up_after(over, inventory);
        for (id, mut given_up) in written_off {
            match inventory.host(&given_up.host) {
                _ if there.contains(&id) || inventory.odd.is_double(id) => {}
                Some(host) if host.seen().is_none() => {}
                // Its host has left the set, and may be back: nobody keeps addresses free for it as long.
                None => given_up.addresses.clear(),
                Some(_) => {
                    self.part_with_given_up(id, given_up);
                    continue;
                }
            }
            self.written_off.insert(id, given_up);
        }
        let known = &self.known;
        self.condemned.retain(|id| known.contains_key(id));
        self.remember_copies(inventory);
        before != self.clone_of_what_a_look_changes()
    }

    /// Who is there twice, and where: until each of those hosts but one was seen without it, or an operator has said which is kept.
    fn remember_copies(&mut self, inventory: &Inventory) {
        let mut copies: BTreeMap<InstanceId, BTreeSet<Label>> = BTreeMap::new();
        for double in &inventory.odd.doubles {
            let hosts = double.places.iter().map(|place| place.host.clone());
            copies.entry(double.id).or_default().extend(hosts);
        }
        let is_hidden = |host: &&Label| inventory.host(host).is_some_and(|h| h.seen().is_none());
        for (id, hosts) in &self.copies {
            if self.known.contains_key(id) && hosts.iter().any(|host| is_hidden(&host)) {
                let hidden = hosts.iter().filter(is_hidden).cloned();
                copies.entry(*id).or_default().extend(hidden);
            }
        }
        self.copies = copies;
    }

    fn clone_of_what_a_look_changes(&self) -> impl PartialEq + use<> {
        (
            (self.known.clone(), self.takes_in),
            self.copies.clone(),
            self.departed.clone(),
            self.condemned.clone(),
            self.moves.clone(),
            self.written_off.clone(),
            self.warrants.clone(),
        )
    }

    /// An instance is not there any more. What was only about to be made may still come, by a call that was given up: then it is
    /// to go again. What went by a warrant has gone as it was to. Anything else somebody has taken away by hand: it is
    /// remembered, for it may be kept under another name.
    fn part_with(&mut self, id: InstanceId, gone: Known) {
        if self.warrants.covers(&gone.host, id, gone.uuid) {
            return;
        }
        if !gone.confirmed {
            let at = self.vitals.get(&id).map_or(self.created_at, |v| v.since);
            self.warrants
                .issue(&gone.host, id, gone.uuid, Cause::UnfinishedCreation, at);
            return;
        }
        self.depart(id, gone.uuid, gone.host, gone.addresses);
    }

    /// What was given up is not there any more. Unless it went by a warrant it is remembered: somebody may keep it under another
    /// name.
    fn part_with_given_up(&mut self, id: InstanceId, gone: WrittenOff) {
        if !self.warrants.covers(&gone.host, id, gone.uuid) {
            self.depart(id, gone.uuid, gone.host, gone.addresses);
        }
    }

    fn depart(&mut self, id: InstanceId, uuid: Uuid, host: Label, addresses: Vec<Option<Ipv4Addr>>) {
        let departed = Departed {
            uuid,
            host,
            addresses,
        };
        self.departed.insert(id, departed);
        while self.departed.len() > DEPARTED {
            self.departed.pop_first();
        }
    }

    /// Moves that have ended: on the host where the instance is not, whatever volumes it has left or was to have may go.
    fn clean_up_after(&mut self, over: BTreeMap<InstanceId, Move>, inventory: &Inventory) {
        for (id, moved) in over {
            let Some(known) = self.known.get(&id) else {
                continue;
            };
            let (uuid, on) = (known.uuid, known.host.clone());
            let at = inventory
                .instances()
                .find(|i| i.id == id)
                .map_or(self.created_at, |i| i.meta.created_at);
            for host in [&moved.from, &moved.to].into_iter().filter(|h| **h != on) {
                self.warrants.issue(host, id, uuid, Cause::EndOfMove, at);
            }
        }
    }

    /// Another definition counts from now on. Hosts that it reaches by another URI are remembered by the one before.
    pub fn redefine(&mut self, set: &ScaleSet) {
        for (_, before) in self.applied.hosts() {
            if set.host(&before.name).is_some_and(|now| now.uri != before.uri) {
                let uris = self.former_uris.entry(before.name.clone()).or_default();
                uris.insert(before.uri.clone());
            }
        }
        self.applied = set.clone();
    }

    /// A host is called otherwise from now on: everything that names it follows.
    pub fn rename_host(&mut self, from: &Label, to: &Label) {
        let rename = |host: &mut Label| {
            if host == from {
                host.clone_from(to);
            }
        };
        self.known.values_mut().for_each(|k| rename(&mut k.host));
        self.written_off.values_mut().for_each(|w| rename(&mut w.host));
        for hosts in self.copies.values_mut() {
            if hosts.remove(from) {
                hosts.insert(to.clone());
            }
        }
        self.departed.values_mut().for_each(|d| rename(&mut d.host));
        for moved in self.moves.values_mut() {
            rename(&mut moved.from);
            rename(&mut moved.to);
        }
        if let Some(warrants) = self.warrants.instances.remove(from) {
            self.warrants
                .instances
                .entry(to.clone())
                .or_default()
                .extend(warrants);
        }
        if let Some(uris) = self.former_uris.remove(from) {
            self.former_uris.entry(to.clone()).or_default().extend(uris);
        }
        if let Some(cordon) = self.cordons.remove(from) {
            self.cordons.entry(to.clone()).or_insert(cordon);
        }
        if let Some(since) = self.unseen.remove(from) {
            self.unseen.entry(to.clone()).or_insert(since);
        }
    }

    /// What is known of the instance with that id, if that is its UUID. Of one that was carried over from a version which knew
    /// no UUIDs, it is each that one of the set's stores has given.
    pub fn knows(&self, id: InstanceId, uuid: Uuid) -> Option<&Known> {
        let is_it = |k: &&Known| k.uuid == uuid || k.is_carried_over && self.may_have_given(id, uuid);
        self.known.get(&id).filter(is_it)
    }

    /// Whether one of the set's stores has given an instance of that id the UUID, by the rule of earlier versions.
    pub fn may_have_given(&self, id: InstanceId, uuid: Uuid) -> bool {
        let given = |store: StoreId| instance_uuid(store, &self.applied.name, id) == uuid;
        self.stores().into_iter().any(given)
    }

    /// Whether an instance that the record does not list is its own, as a version that took in whatever it saw has left it:
    /// see [`Self::takes_in`].
    pub fn may_take_in(&self, instance: &Instance) -> bool {
        let (id, uuid) = (instance.id, instance.uuid);
        self.takes_in
            && instance.meta.store == self.store
            && instance.name == instance_name(&self.applied.name, id)
            && id < self.next_id
            && !self.known.contains_key(&id)
            && !self.written_off.contains_key(&id)
            && !self.departed.contains_key(&id)
            && self.may_have_given(id, uuid)
    }

    /// Whether the record has given out that UUID.
    pub fn is_known_uuid(&self, uuid: Uuid) -> bool {
        self.id_of(uuid).is_some()
    }

    /// The instance that has or had that UUID.
    pub fn id_of(&self, uuid: Uuid) -> Option<InstanceId> {
        let known = self.known.iter().map(|(id, k)| (id, k.uuid));
        let written_off = self.written_off.iter().map(|(id, w)| (id, w.uuid));
        let departed = self.departed.iter().map(|(id, d)| (id, d.uuid));
        let mut all = known.chain(written_off).chain(departed);
        all.find(|(_, of)| *of == uuid).map(|(id, _)| *id)
    }

    /// UUIDs that hosts are to be looked through for, whatever their domains are called.
    pub fn uuids(&self) -> HashSet<Uuid> {
        let known = self.known.values().map(|k| k.uuid);
        let written_off = self.written_off.values().map(|w| w.uuid);
        let departed = self.departed.values().map(|d| d.uuid);
        let disowned = self.disowned.iter().copied();
        known.chain(written_off).chain(departed).chain(disowned).collect()
    }

    /// Makes an instance that was seen the record's own: where an operator has said so, or the record is made anew. Its id is
    /// given to no other.
    pub fn take_in(&mut self, instance: &Instance, host: &Label) {
        self.known
            .insert(instance.id, Known::seen(instance, host, Vec::new(), None));
        self.departed.remove(&instance.id);
        self.written_off.remove(&instance.id);
        self.next_id = self.next_id.max(instance.id.next().unwrap_or(InstanceId::MAX));
        self.highest_revision = self.highest_revision.max(instance.meta.revision);
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
