//! The loop that every changing command runs: observe, plan, execute, again, until there is nothing left to do.

pub mod marks;
pub mod proof;
pub mod seeds;
mod serving;
mod tell;
pub mod twins;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use crate::error::{Error, Exit, Result};
use crate::event::{Event, Listener, Sight};
use crate::execute::{Barrier, End, ImageSource, Means, Models, execute};
use crate::hypervisor::{FaultKind, LocalImage, Watch};
use crate::inventory::{Inventory, Phase};
use crate::model::{ImageDigest, Model};
use crate::names::{InstanceId, Label, ranges};
use crate::observe::observe;
use crate::ownership::{Twins, sort_out};
use crate::plan::action::{Action, Step};
use crate::plan::loss::Losses;
use crate::plan::report::{Report, Wait};
use crate::plan::{Experience, Lesson, Plan, Situation, at_rest, plan};
use crate::record::Record;
use crate::rollout::Rollout;
use crate::scaleset::{Host, ScaleSet};
use crate::store::{Lease, Store, StoreError, Version};
use crate::world::{Clock, Interrupt, World};
use crate::{here, serve, vitals};
pub use serving::drop_the_dropped;
use tell::Told;
pub use tell::changes as tell_changes;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ending {
    /// How the set stands.
    pub report: Report,
    /// What the last plan would still do: what is left after an interrupt.
    pub left: Vec<Step>,
    /// Whether the operator stopped it.
    pub interrupted: bool,
    /// What became of steps that were asked for beside the loop.
    pub asked: Asked,
    /// Steps that were done, in order.
    pub done: Vec<Step>,
    /// Steps that failed, with what was said.
    pub failed: Vec<(Step, String)>,
    /// When to look again for instances that are starting, and take clients once they are healthy; only of a run that did
    /// not wait for them.
    pub joining: Option<Timestamp>,
    /// What was seen last.
    pub inventory: Inventory,
    /// The record as it was last.
    pub record: Record,
}

impl Ending {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        if self.interrupted {
            return Exit::Interrupted;
        }
        self.report.verdict().into()
    }
}

/// What became of steps that an operator has asked for and that no plan would make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// There were none.
    Nothing,
    /// They were done.
    Done,
    /// Some were not: only the same command again does them.
    NotDone,
}

/// More batches than any honest run needs: reaching it means that the hosts undo what is done.
const MOST_BATCHES: u32 = 200;

/// Changes the record by `change` until nobody else was faster. `change` says whether it changed anything.
pub fn amend(
    store: &dyn Store,
    set: &Label,
    change: impl FnMut(&mut Record) -> bool,
) -> Result<(Record, Version)> {
    amend_by(store, set, change, |record, version| {
        store.put(set, record, Some(version))
    })
}

/// As [`amend`], by the holder of the set's lease: what precedes an act on hosts is written by nobody else. Whoever was held up
/// so long that another has followed would carry out a plan that was made before the other's.
fn amend_under(
    store: &dyn Store,
    lease: &Lease,
    set: &Label,
    change: impl FnMut(&mut Record) -> bool,
) -> Result<(Record, Version)> {
    amend_by(store, set, change, |record, version| {
        store.put_under(lease, set, record, version)
    })
}

fn amend_by(
    store: &dyn Store,
    set: &Label,
    mut change: impl FnMut(&mut Record) -> bool,
    put: impl Fn(&Record, Version) -> std::result::Result<Version, StoreError>,
) -> Result<(Record, Version)> {
    loop {
        let Some((mut record, version)) = store.get(set)? else {
            return Err(Error::message(
                Exit::Failed,
                format!("the record of {set} is gone: it was deleted by another command"),
            ));
        };
        if !change(&mut record) {
            return Ok((record, version));
        }
        match put(&record, version) {
            Ok(version) => return Ok((record, version)),
            Err(StoreError::Changed(_)) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Observes all hosts of a set without asking its instances how they are, and tells members from everything else by `record`.
pub fn glance(world: &World, store: &dyn Store, set: &ScaleSet, record: &Record) -> Inventory {
    let hosts: Vec<Host> = set.hosts().map(|(_, h)| h.clone()).collect();
    let watch = Arc::new(Watch {
        set: set.name.clone(),
        stores: record.stores(),
        uuids: record.uuids(),
    });
    let mut inventory = observe(&*world.hosts, &hosts, &set.limits, &watch);
    sort_out(record, &mut inventory);
    let now = world.clock.now();
    inventory.off_limits = here::off_limits(&*world.here, &world.neighbours, store, set, now);
    inventory
}

/// Observes all hosts of a set, those its instances are known to be on though the definition has dropped them left out.
pub fn look(world: &World, store: &dyn Store, set: &ScaleSet, record: &Record) -> Inventory {
    let mut inventory = glance(world, store, set, record);
    let round = vitals::ask(
        &*world.hosts,
        &world.probes,
        &world.addresses,
        set,
        record,
        &inventory,
        world.clock.now(),
    );
    (inventory.answers, inventory.reached) = (round.answers, round.reached);
    inventory.told = round.told;
    inventory.balancers = serve::observe(world, set);
    inventory
}

/// For who looks without the lease: another process may have reserved ids and made instances between the reading of `record`
/// and the look, so that they look like strangers, or the record like an old one. Where something is odd, the record is read
/// again and what was seen is sorted out by that; told is only what is odd by both. `record` becomes the later one, with what
/// this process has heard of instances' health. If the store can't be read, what was read before has to do.
pub fn reconsider(store: &dyn Store, record: &mut Record, inventory: &mut Inventory) {
    if inventory.odd.is_empty() {
        return;
    }
    let Ok(Some((mut later, _))) = store.get(&record.applied.name) else {
        return;
    };
    let earlier = inventory.odd.clone();
    sort_out(&later, inventory);
    inventory.odd.keep_what_is_in(&earlier);
    (later.vitals, later.unseen) = (
        std::mem::take(&mut record.vitals),
        std::mem::take(&mut record.unseen),
    );
    *record = later;
}

/// Looks without the lease: [`glance`], and what is odd is looked at twice ([`reconsider`]). `record` absorbs what was seen.
pub fn glance_aside(world: &World, store: &dyn Store, set: &ScaleSet, record: &mut Record) -> Inventory {
    let mut inventory = glance(world, store, set, record);
    reconsider(store, record, &mut inventory);
    record.absorb(&inventory);
    inventory
}

/// Whether what is to be done may depend on how instances are: who goes first on scale in, what a rollout or a drain may
/// take, what is repaired, who takes clients.
fn depends_on_health(record: &Record) -> bool {
    let known = record.known.values().filter(|k| k.confirmed).count();
    record.rollout.as_ref().is_some_and(Rollout::is_open)
        || record.applied.is_served()
        || record.applied.repair.enabled
        || record.repair.asked.is_some()
        || record.cordons.values().any(|c| c.drain)
        || known > record.capacity as usize
}

/// Most looks in a row of a command that only looks.
const MOST_LOOKS: u32 = 10;

/// As [`look_aside`], and writes down what was heard of the instances' health. What was seen is absorbed by `record` alone: in
/// the store it would undo what somebody else has reserved since.
///
/// # Errors
/// The store can't be written to, or the record is gone.
pub fn look_and_heed(world: &World, store: &dyn Store, record: &mut Record) -> Result<Inventory> {
    let set = record.applied.clone();
    let mut inventory = look(world, store, &set, record);
    reconsider(store, record, &mut inventory);
    let now = world.clock.now();
    let (later, _) = amend(store, &set.name, |record| {
        record.heed(&inventory, &record.applied.health.clone(), now)
    })?;
    let earlier = inventory.odd.clone();
    sort_out(&later, &mut inventory);
    inventory.odd.keep_what_is_in(&earlier);
    *record = later;
    record.absorb(&inventory);
    Ok(inventory)
}

/// Looks, and looks again while answers of instances speak against what they have counted as so far: so that a command
/// that only looks can tell what one answer alone does not. `record` takes in what was seen; it is not written down.
pub fn look_closely(world: &World, store: &dyn Store, set: &ScaleSet, record: &mut Record) -> Inventory {
    for look in 0.. {
        let inventory = look_aside(world, store, set, record);
        let now = world.clock.now();
        let undecided = record.vitals.values().any(|v| v.is_undecided(&set.health, now));
        if !undecided || look >= MOST_LOOKS || world.interrupt.is_set() {
            return inventory;
        }
        world.clock.wait(set.health.interval.min(HEAR), &world.interrupt);
    }
    unreachable!("the range of looks has no end")
}

/// Looks without the lease: [`look`], and what is odd is looked at twice ([`reconsider`]). `record` takes in what was seen.
pub fn look_aside(world: &World, store: &dyn Store, set: &ScaleSet, record: &mut Record) -> Inventory {
    let mut inventory = look(world, store, set, record);
    reconsider(store, record, &mut inventory);
    record.absorb(&inventory);
    record.heed(&inventory, &set.health, world.clock.now());
    inventory
}

/// Observes all hosts as a run's first look does: its instances are asked how they are where the plan depends on it.
pub fn observe_for(world: &World, store: &dyn Store, record: &Record) -> Inventory {
    let set = &record.applied;
    // Asking takes a time-out for each guest that is still booting.
    if depends_on_health(record) {
        look(world, store, set, record)
    } else {
        glance(world, store, set, record)
    }
}

/// What a run may delete to bring the set to its capacity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Whatever the record wants: `--yes`, or nobody is there to be asked.
    Any,
    /// As many as are too many of these, which the operator was told of; of others only what was asked for meanwhile, which
    /// whoever asked for it has agreed to.
    To(BTreeSet<InstanceId>),
}

impl Consent {
    /// Refuses `steps` that delete down to the capacity when there are instances that nobody was told of: a host that came into
    /// sight meanwhile may have brought them. What the run makes itself is added to those that are known.
    fn check(&mut self, steps: &[Step], record: &Record, inventory: &Inventory) -> Result<()> {
        let Self::To(told) = self else {
            return Ok(());
        };
        let mut losses = Losses::default();
        losses.note(steps, record, inventory);
        let going = losses.scaled_in();
        let untold: Vec<u64> = (inventory.instances())
            .filter(|i| {
                i.meta.store == record.store && matches!(i.meta.phase, Phase::Ready | Phase::Changing)
            })
            .filter(|i| !told.contains(&i.id))
            .map(|i| i.id.0)
            .collect();
        if going > 0 && !untold.is_empty() {
            let text = format!(
                "instances {} were not there when it was asked what may go: {going} would be deleted now to come down to the \
                 capacity of {}, and were not",
                ranges(untold),
                record.capacity
            );
            return Err(Error::message(Exit::Blocked, text)
                .hint("run the command again: it says what would go, and asks"));
        }
        told.extend(
            steps
                .iter()
                .filter_map(|s| s.action.created())
                .map(|spec| spec.id),
        );
        Ok(())
    }
}

/// Whether a run waits for instances that are starting, until they take clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joining {
    /// It does: whoever typed a command wants to know that what it made serves.
    Awaited,
    /// It does not, and says when to look again ([`Ending::joining`]): whoever comes again soon need not hold the lease.
    Left,
}

/// Runs the loop on `set` under `lease`: first `asked`, steps that an operator has asked for and that no plan would make.
/// One of them that was not done is a failure of the run, however well the set stands.
pub fn converge(
    world: &World,
    shelf: &Arc<dyn Store>,
    lease: &Lease,
    set: &Label,
    listener: &Arc<dyn Listener>,
    asked: Vec<Step>,
    (joining, mut consent): (Joining, Consent),
) -> Result<Ending> {
    let store = &**shelf;
    let mut run = Run {
        world,
        barrier: barrier(shelf, lease),
        listener,
        images: Arc::default(),
        experience: Experience::default(),
        batches: 0,
        joins: joining == Joining::Awaited,
        missed: BTreeMap::new(),
        has_looked: false,
        has_marked: false,
        twins: Vec::new(),
        asked: Asked::Nothing,
        made: Vec::new(),
        done: Vec::new(),
        failed: Vec::new(),
    };
    let mut told = Told::default();
    let mut undone = Vec::new();
    if !asked.is_empty() {
        undone = run.carry_out_asked(store, lease, set, &asked, &mut told)?;
        run.asked = if undone.is_empty() {
            Asked::Done
        } else {
            Asked::NotDone
        };
    }
    loop {
        listener.alive();
        store.renew(lease, world.clock.now())?;
        let made = std::mem::take(&mut run.made);
        let (record, _) = amend_under(store, lease, set, |record| record.confirm(made.iter().copied()))?;
        let scale_set = record.applied.clone();
        let mut inventory = observe_for(world, store, &record);
        if !std::mem::replace(&mut run.has_looked, true) {
            run.twins = twins::find(world, &scale_set, &inventory);
        }
        inventory.odd.twins.clone_from(&run.twins);
        told.unseen(&inventory, listener);
        let now = world.clock.now();
        // Looking may have taken longer than the lease lasts, on a machine that was suspended, say: what was seen then is older than
        // what another has made since.
        store.renew(lease, now)?;
        let (record, _) = amend_under(store, lease, set, |record| {
            // Both, whatever the first says.
            record.absorb(&inventory) | record.heed(&inventory, &scale_set.health, now)
        })?;
        listener.looked(Sight {
            record: &record,
            inventory: &inventory,
            now,
        });
        let situation = Situation {
            set: &scale_set,
            record: &record,
            inventory: &inventory,
            experience: &run.experience,
            now,
            drawn: (world.draw)(),
        };
        let plan = plan(situation);
        let mut learnt = run.experience.clone();
        if seeds::look(world, &record, &plan.steps, &mut learnt) {
            // Planned anew, with what the guests have in their drives.
            run.experience = learnt;
            continue;
        }
        if !plan.steps.is_empty()
            && !std::mem::replace(&mut run.has_marked, true)
            && marks::leave(world, store, &record, &inventory)?
        {
            // Who shares a folder with whom shows only now.
            continue;
        }
        let interrupted = world.interrupt.is_set();
        let again = plan.again.or(plan.joining.filter(|_| run.joins));
        let is_over =
            plan.steps.is_empty() && again.is_none() && plan.rollout.is_none() && plan.lost.is_empty();
        if interrupted && !is_over {
            // Nothing is done to those that were leaving: they take clients again.
            let membership = at_rest(situation);
            let (record, _) = amend_under(store, lease, set, |record| {
                record.note_leaving(&BTreeSet::new(), now)
            })?;
            run.serve(&scale_set, &inventory, membership.as_ref());
            return Ok(run.end(plan, inventory, record, undone));
        }
        let seen = record.clone();
        let mut taken = true;
        let (record, version) = amend_under(store, lease, set, |record| {
            // Somebody has paused the rollout, say, or wants more instances: what was planned is planned anew.
            taken = wants_the_same(record, &seen);
            taken && take(record, &plan, situation.drawn, now)
        })?;
        if !taken {
            continue;
        }
        if let Some(next) = &plan.rollout {
            tell::rollout(seen.rollout.as_ref(), next, listener);
        }
        tell::lost(&seen, &plan.lost, listener);
        tell::left(set, &plan.left, listener);
        if !run.serve(&scale_set, &inventory, plan.membership.as_ref()) {
            // What could not be told decides what may be done.
            continue;
        }
        if run.drop_what_is_dropped(store, &record)? {
            continue;
        }
        if is_over {
            return Ok(run.end(plan, inventory, record, undone));
        }
        if plan.steps.is_empty() {
            told.waits(&plan.report.waits, listener);
            if let Some(at) = again {
                wait_for_change(world, store, set, version, at, &**listener)?;
            }
            continue;
        }
        if run.batches >= MOST_BATCHES.saturating_add(record.capacity.saturating_mul(4)) {
            let text = format!(
                "after {} batches there is still something to do: {}",
                run.batches,
                first(&plan.steps)
            );
            return Err(Error::message(Exit::Failed, text).hint(
                "look whether something on the hosts undoes what vmss does, then run the command again",
            ));
        }
        consent.check(&plan.steps, &record, &inventory)?;
        store.renew(lease, world.clock.now())?;
        run.carry_out(&record, &plan.steps);
    }
}

/// One run of the loop: what it works with, and what it has done and learnt.
struct Run<'w> {
    world: &'w World,
    /// What speaks against beginning anything more.
    barrier: Barrier,
    listener: &'w Arc<dyn Listener>,
    images: LocalImages,
    experience: Experience,
    batches: u32,
    /// Whether the run waits for instances that are starting, until they take clients.
    joins: bool,
    /// How often each load balancer could not be reached though it had just been seen.
    missed: BTreeMap<String, u32>,
    /// Whether it has looked at the hosts before.
    has_looked: bool,
    /// Whether it has marked the pools.
    has_marked: bool,
    /// Hosts that are one.
    twins: Vec<Twins>,
    asked: Asked,
    /// Instances that the last batch has made.
    made: Vec<InstanceId>,
    done: Vec<Step>,
    failed: Vec<(Step, String)>,
}

impl Run<'_> {
    /// Carries out one batch, which the record has noted. Returns the steps of it that were not done, each with what was said.
    fn carry_out(&mut self, record: &Record, steps: &[Step]) -> Vec<Undone> {
        let (world, scale_set) = (self.world, &record.applied);
        let mut steps = steps.to_vec();
        for step in &mut steps {
            step.action.stamp(record.epoch);
        }
        let steps = &*steps;
        self.batches += 1;
        self.listener.event(&Event::Batch {
            number: self.batches,
            steps: steps.to_vec(),
        });
        let means = Means {
            limits: scale_set.limits.clone(),
            models: models(record),
            image: image_source(world, scale_set, &self.images),
            uses: proof::of_batch(world, scale_set, &record.stores(), steps),
            warrants: Arc::new(record.warrants.clone()),
            barrier: Arc::clone(&self.barrier),
            hosts: Arc::clone(&world.hosts),
            find_host: {
                let set = scale_set.clone();
                Arc::new(move |name| set.host(name).cloned())
            },
            stores: record.stores(),
            listener: Arc::clone(self.listener),
            interrupt: world.interrupt.clone(),
        };
        let host = |name: &Label| {
            scale_set
                .host(name)
                .map(|h| world.hosts.host(h, &scale_set.limits))
        };
        let mut undone = Vec::new();
        for ended in execute(steps, host, &means) {
            if let Some(lesson) = lesson(&ended.step, &ended.end) {
                self.experience.learn(&ended.step, lesson);
            }
            match ended.end {
                End::Done => {
                    self.made.extend(ended.step.action.created().map(|spec| spec.id));
                    self.done.push(ended.step);
                }
                End::Failed(e) => {
                    undone.push(Undone::Failed(ended.step.clone(), e.to_string()));
                    self.failed.push((ended.step, e.to_string()));
                }
                End::NotBegun(_) if world.interrupt.is_set() => undone.push(Undone::Left(ended.step)),
                End::NotBegun(reason) => undone.push(Undone::Failed(ended.step, reason.to_owned())),
                End::Kept => {}
            }
        }
        undone
    }

    /// The end of the run, at a plan that is not carried out. `undone` are the steps that were asked for and not done.
    fn end(self, plan: Plan, inventory: Inventory, record: Record, undone: Vec<Undone>) -> Ending {
        let waits_on = plan.again.or(plan.joining.filter(|_| self.joins));
        let is_over = plan.steps.is_empty() && waits_on.is_none() && plan.rollout.is_none();
        let mut report = plan.report;
        let mut left = Vec::new();
        for undone in undone {
            match undone {
                Undone::Left(step) => left.push(step),
                Undone::Barred(wait) if report.waits.contains(&wait) => {}
                Undone::Barred(wait) => report.waits.push(wait),
                Undone::Failed(step, error) => {
                    let wait = Wait::Failed {
                        host: step.host.clone(),
                        subject: step.action.subject(),
                        verb: step.action.verb(),
                        error,
                    };
                    // Instead of what the plan left out for the same reason, under the name of its own next step.
                    report.waits.retain(|w| {
                        !matches!(w, Wait::Failed { host, subject, .. }
                            if *host == step.host && *subject == step.action.subject())
                    });
                    report.waits.push(wait);
                }
            }
        }
        let is_over = is_over && left.is_empty();
        left.extend(plan.steps.into_iter().chain(plan.held));
        Ending {
            report,
            left,
            // A run that was asked to stop but has nothing left to do was not cut short.
            interrupted: self.world.interrupt.is_set() && !is_over,
            asked: self.asked,
            done: self.done,
            failed: self.failed,
            joining: plan.joining,
            inventory,
            record,
        }
    }
}

/// Lets steps begin only as long as the lease is held.
fn barrier(store: &Arc<dyn Store>, lease: &Lease) -> Barrier {
    let (store, lease) = (Arc::clone(store), lease.clone());
    Arc::new(move || match store.holds(&lease) {
        Ok(true) => None,
        Ok(false) => Some("another process has taken over the set"),
        Err(_) => Some("the store can't be read, and another process may have taken over the set"),
    })
}

/// A step that was not done.
enum Undone {
    /// It failed, or its host was lost before its turn: what was said.
    Failed(Step, String),
    /// The operator stopped the run before its turn.
    Left(Step),
    /// It may not be done as things are.
    Barred(Wait),
}

/// Whether nobody has asked for anything else since the record was `planned` by: what was to go may be wanted now. Nor has
/// anybody acted by it: that begins another epoch.
fn wants_the_same(record: &Record, planned: &Record) -> bool {
    fn wishes(r: &Record) -> impl PartialEq + use<'_> {
        let who = (&r.rollout, &r.repair, &r.condemned, &r.cordons, &r.disowned);
        (
            who,
            r.capacity,
            r.life,
            r.keep_images,
            r.current,
            r.epoch,
            &r.applied,
        )
    }
    wishes(record) == wishes(planned)
}

/// Writes down what the plan is about to do, all of it at once: what becomes of the rollout and of repairs, and which ids
/// and addresses the steps use. Returns whether that is anything.
fn take(record: &mut Record, plan: &Plan, drawn: Uuid, now: Timestamp) -> bool {
    let mut changed = !plan.lost.is_empty();
    if let Some(next) = &plan.rollout {
        let seen = record.rollout.clone();
        changed |= record.steer(seen.as_ref(), next.clone());
    }
    if let Some(next) = &plan.repair {
        record.repair = next.clone();
        changed = true;
    }
    record.write_off(&plan.lost, now);
    changed |= record.note_leaving(&plan.leaving, now);
    record.reserve(&plan.steps, drawn, now) | changed
}

/// How often who waits for health or a pause looks whether somebody has changed the record: a pause typed in another
/// terminal is heard within that.
const HEAR: Duration = Duration::from_secs(1);

/// Waits until `at`, until the record is another than at `version`, or until the operator wants to stop.
pub fn wait_for_change(
    world: &World,
    store: &dyn Store,
    set: &Label,
    version: Version,
    at: Timestamp,
    listener: &dyn Listener,
) -> Result<()> {
    wait_until(&*world.clock, &world.interrupt, at, || {
        listener.alive();
        Ok(store.get(set)?.is_none_or(|(_, now)| now != version))
    })
}

/// Waits until `at`, until `is_over` says so, or until the operator wants to stop; and no longer than `at` was away, for a
/// clock that is set back meanwhile says nothing of how long anybody has waited.
fn wait_until(
    clock: &dyn Clock,
    interrupt: &Interrupt,
    at: Timestamp,
    mut is_over: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let left = || Duration::try_from(at.duration_since(clock.now())).unwrap_or_default();
    let mut unwaited = left();
    while !unwaited.is_zero() && !interrupt.is_set() {
        let step = unwaited.min(HEAR);
        clock.wait(step, interrupt);
        if is_over()? {
            break;
        }
        unwaited = unwaited.saturating_sub(step).min(left());
    }
    Ok(())
}

fn first(steps: &[Step]) -> String {
    steps.first().map_or_else(String::new, |s| {
        format!("{} {} on {}", s.action.verb(), s.action.subject(), s.host)
    })
}

/// What a step's end has to teach, if anything.
fn lesson(step: &Step, end: &End) -> Option<Lesson> {
    match end {
        End::Kept => Some(Lesson::Kept),
        // Our copy is gone: one that is still seen is another store's, to keep as long as it likes.
        End::Done if matches!(step.action, Action::DeleteImage { .. }) => Some(Lesson::Kept),
        End::Failed(e) if e.kind == FaultKind::NotOurs => Some(Lesson::NameTaken(e.to_string())),
        End::Failed(e) => Some(Lesson::Failed(e.to_string())),
        End::Done | End::NotBegun(_) => None,
    }
}

type LocalImages = Arc<Mutex<HashMap<ImageDigest, LocalImage>>>;

fn models(record: &Record) -> Models {
    let models: HashMap<u32, Arc<Model>> = record
        .models
        .iter()
        .map(|r| (r.number, Arc::new(r.model.clone())))
        .collect();
    Arc::new(move |number| models.get(&number).cloned())
}

/// The local file of an image, looked at once per run.
fn image_source(world: &World, set: &ScaleSet, images: &LocalImages) -> ImageSource {
    let (images, source, cache) = (Arc::clone(images), set.image.clone(), world.env.cache.clone());
    let interrupt = world.interrupt.clone();
    Arc::new(move |wanted, pulse| {
        // One lane reads it; the others wait, and show that they are alive.
        let mut pause = Duration::from_millis(1);
        let mut known = loop {
            match images.try_lock() {
                Ok(known) => break known,
                Err(TryLockError::Poisoned(known)) => break known.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    pulse.beat();
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
            }
        };
        if let Some(image) = known.get(wanted) {
            return Ok(image.clone());
        }
        let beat = |_, _| pulse.beat();
        let found = crate::images::local(&source, &cache, &interrupt, &beat).map_err(|e| e.to_string())?;
        if &found.image.digest != wanted {
            return Err(format!(
                "{} is another image than this revision was made of: its digest is {}, instances need {}; put that image \
                 back, or apply the definition to make a revision of this one",
                found.path.display(),
                found.image.digest.short(),
                wanted.short()
            ));
        }
        known.insert(wanted.clone(), found.clone());
        Ok(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    /// A clock that goes by what is waited, and by what somebody sets it to: by so many seconds in the first wait.
    struct SetClock {
        shown: Mutex<i64>,
        waited: Mutex<Duration>,
        set: i64,
    }

    impl Clock for SetClock {
        fn now(&self) -> Timestamp {
            at(*self.shown.lock().unwrap())
        }

        fn steady(&self) -> Duration {
            *self.waited.lock().unwrap()
        }

        fn wait(&self, span: Duration, _: &Interrupt) {
            let mut waited = self.waited.lock().unwrap();
            let set = if waited.is_zero() { self.set } else { 0 };
            *self.shown.lock().unwrap() += i64::try_from(span.as_secs()).unwrap() + set;
            *waited += span;
        }
    }

    /// Between the reading of the record and the look another process has made one instance and deleted another.
    #[test]
    fn what_is_odd_by_an_older_record_alone_is_not_told() {
        use crate::plan::testing::Scene;
        let mut scene = Scene::new(&[1]);
        scene.add("d0h0", 1);
        scene.add("d0h0", 2);
        let mut read = scene.record.clone();
        scene.add("d0h0", 3);
        scene.record.known.remove(&InstanceId(2));
        let store = crate::store::memory::Memory::new(crate::plan::testing::STORE);
        let name = scene.set.name.clone();
        store.put(&name, &scene.record, None).unwrap();
        sort_out(&read, &mut scene.inventory);
        assert!(scene.inventory.odd.is_record_old(), "that is how it looks");
        reconsider(&store, &mut read, &mut scene.inventory);
        assert!(scene.inventory.odd.is_empty(), "{:?}", scene.inventory.odd);
        read.absorb(&scene.inventory);
        let known: Vec<u64> = read.known.keys().map(|id| id.0).collect();
        assert_eq!(known, [1, 3]);
    }

    #[test]
    fn what_is_odd_by_both_records_is_told() {
        use crate::plan::testing::Scene;
        let mut scene = Scene::new(&[1]);
        scene.add("d0h0", 1);
        scene.add("d0h0", 2);
        scene.record.known.remove(&InstanceId(2));
        let store = crate::store::memory::Memory::new(crate::plan::testing::STORE);
        store.put(&scene.set.name, &scene.record, None).unwrap();
        let mut read = scene.record.clone();
        sort_out(&read, &mut scene.inventory);
        reconsider(&store, &mut read, &mut scene.inventory);
        assert_eq!(scene.inventory.odd.strangers.len(), 1);
    }

    #[test]
    fn nobody_waits_longer_for_a_clock_that_is_set_back_meanwhile() {
        for (set, seconds) in [(0, 30), (-7200, 30), (10, 20), (7200, 1)] {
            let clock = SetClock {
                shown: Mutex::new(0),
                waited: Mutex::default(),
                set,
            };
            wait_until(&clock, &Interrupt::default(), at(30), || Ok(false)).unwrap();
            let waited = *clock.waited.lock().unwrap();
            assert_eq!(waited, Duration::from_secs(seconds), "set by {set} s");
        }
    }
}
