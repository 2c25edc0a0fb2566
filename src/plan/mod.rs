//! The plan: a pure function from what is wanted and what was seen to one batch of actions, and why.
//!
//! It has no connection, clock, environment or randomness, and the order of its input does not matter. It returns one
//! batch; the next comes from the next observation, so a `kill -9` at any moment needs no recovery code.

pub mod action;
pub mod catch_up;
pub mod change;
pub mod claim;
mod drain;
mod fleet;
pub mod forecast;
pub mod loss;
mod membership;
mod moving;
mod odd;
pub mod operate;
pub mod placement;
mod pool;
pub mod repair;
pub mod report;
mod scale_in;
mod sight;
pub(crate) mod spread;
pub mod sweep;
pub mod told;
mod upgrade;
mod wait;

#[cfg(test)]
mod brought_back_tests;
#[cfg(test)]
mod given_up_tests;
#[cfg(test)]
mod limit_properties;
#[cfg(test)]
mod membership_tests;
#[cfg(test)]
mod pool_tests;
#[cfg(test)]
mod repair_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod upgrade_properties;
#[cfg(test)]
mod upgrade_tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::health::State;
use crate::inventory::Inventory;
use crate::membership::Membership;
use crate::model::ImageDigest;
use crate::names::{InstanceId, Label};
use crate::plan::action::{Action, Step};
pub(crate) use crate::plan::fleet::{Fleet, Member, reference};
pub use crate::plan::membership::{Left, Release, as_noted, at_rest, release};
pub use crate::plan::odd::told as oddities;
pub use crate::plan::pool::away;
use crate::plan::report::{Report, Wait};
pub use crate::plan::scale_in::protected;
use crate::record::{Life, Record};
use crate::repairs::Repairs;
use crate::rollout::Rollout;
use crate::scaleset::ScaleSet;
use crate::warrants::Cause;

/// Everything a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The set as it was last applied.
    pub set: &'a ScaleSet,
    /// Its record, with the inventory absorbed ([`Record::absorb`]).
    pub record: &'a Record,
    /// What was seen.
    pub inventory: &'a Inventory,
    /// What this run has met so far.
    pub experience: &'a Experience,
    /// The moment of the plan.
    pub now: Timestamp,
    /// Random bits, drawn anew for each plan: the UUIDs of new instances are made of them.
    pub drawn: Uuid,
}

/// What one run has learnt by trying. Begins empty with every run: the next one may find things mended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Experience {
    /// Hosts on which making an instance or sending an image failed, with what was said: no more is made there.
    pub shunned: BTreeMap<Label, String>,
    /// Instances, volumes and images that something failed on, as (host, subject): not tried again.
    pub failed: BTreeMap<(Label, String), String>,
    /// Instances that were off and could not be started, likewise: they are not started again, but may be repaired.
    pub unstarted: BTreeMap<(Label, String), String>,
    /// How often a new instance's name was found taken on a host.
    pub name_clashes: BTreeMap<Label, u32>,
    /// Images that something else on the host is backed by: kept.
    pub kept_images: BTreeSet<(Label, ImageDigest)>,
    /// Shared seeds that domains still have in their drives, with the names of those, as far as they are known: kept.
    pub kept_seeds: BTreeMap<(Label, String), Vec<String>>,
    /// Volumes left by our own acts that somebody uses by now: kept.
    pub kept_volumes: BTreeSet<(Label, String)>,
    /// Load balancers, and discovery files that lead clients, that did not do what they were told, with what was said: who
    /// takes another's place may never get in.
    pub balancers: BTreeMap<String, String>,
    /// The same of discovery files that lead no clients.
    pub bystanders: BTreeMap<String, String>,
    /// Load balancers and discovery files that the definition has dropped, and that could not be told of it.
    pub dropped: BTreeMap<String, String>,
}

/// How a step ended that taught the run something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lesson {
    /// An image stays, because something else on the host is backed by it, or what is left of it is another store's; a shared
    /// seed, because a domain has it in its drive; what our own acts have left, because somebody uses it by now.
    Kept,
    /// The name of a new instance was taken by somebody else's domain.
    NameTaken(String),
    /// It failed otherwise: what was said.
    Failed(String),
}

/// A host that refuses so many new names is left alone like any other that fails.
const CLASHES: u32 = 3;

impl Experience {
    /// Learns that `users` still have a shared seed. Returns whether that is new.
    pub fn keep_seed(&mut self, host: &Label, volume: &str, users: Vec<String>) -> bool {
        let key = (host.clone(), volume.to_owned());
        self.kept_seeds.insert(key, users).is_none()
    }

    /// Learns from how a step ended.
    pub fn learn(&mut self, step: &Step, lesson: Lesson) {
        let host = step.host.clone();
        match (lesson, &step.action) {
            (Lesson::Kept, Action::DeleteImage { digest }) => {
                self.kept_images.insert((host, digest.clone()));
            }
            (Lesson::Kept, Action::DeleteVolume { volume, cause }) => {
                let is_seed = matches!(cause, Cause::SeedNotNeeded { .. });
                if is_seed {
                    self.keep_seed(&host, volume, Vec::new());
                } else {
                    self.kept_volumes.insert((host, volume.clone()));
                }
            }
            (Lesson::Kept, _) => {}
            // Somebody else's name shows in the next observation and is passed over; only a host that goes on
            // refusing, for a reason the observation does not show, would make the run go round in circles.
            (Lesson::NameTaken(error), Action::Create(_)) => {
                let clashes = self.name_clashes.entry(host.clone()).or_default();
                *clashes += 1;
                if *clashes >= CLASHES {
                    self.shunned.insert(host, error);
                }
            }
            (
                Lesson::NameTaken(error) | Lesson::Failed(error),
                Action::Create(_) | Action::PushImage { .. },
            ) => {
                // An image is not only for what is made: what is changed there would have it sent again and again.
                if let Action::PushImage { .. } = &step.action {
                    self.failed
                        .insert((host.clone(), step.action.subject()), error.clone());
                }
                self.shunned.insert(host, error);
            }
            (Lesson::NameTaken(error) | Lesson::Failed(error), Action::Start(instance)) => {
                self.unstarted.insert((host, instance.name.clone()), error);
            }
            (Lesson::NameTaken(error) | Lesson::Failed(error), action) => {
                self.failed.insert((host, action.subject()), error);
            }
        }
    }
}

/// One batch, and what it does not do.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[must_use = "a plan that nobody carries out or prints was made in vain"]
pub struct Plan {
    /// The steps, ordered by host and stage.
    pub steps: Vec<Step>,
    /// How the set stands, and what is waited for.
    pub report: Report,
    /// The rollout as it is from now on, if that is another than the record's: to be written down before the steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// What the record holds of repair from now on, if that is something else: to be written down before the steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair: Option<Repairs>,
    /// Instances to give up with their host ([`Record::write_off`]): the next plan makes others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<InstanceId>,
    /// When to look again though there are no steps: something is waited for that comes by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub again: Option<Timestamp>,
    /// Who is to take clients, before the steps are done; `None` if nobody is to be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub membership: Option<Membership>,
    /// Instances that take no more clients because something is about to be done to them: to be written down before they
    /// are told ([`Record::note_leaving`]).
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub leaving: BTreeSet<InstanceId>,
    /// Steps that wait until their instances have left.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<Step>,
    /// Those of them that have left: steps of this plan take them away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<Left>,
    /// When to look again for instances that are starting, and take clients once they are healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joining: Option<Timestamp>,
}

impl Plan {
    /// One that does nothing.
    fn idle(report: Report) -> Self {
        Self {
            steps: Vec::new(),
            report,
            rollout: None,
            repair: None,
            lost: Vec::new(),
            again: None,
            membership: None,
            leaving: BTreeSet::new(),
            held: Vec::new(),
            left: Vec::new(),
            joining: None,
        }
    }
}

/// Makes the next batch.
pub fn plan(s: Situation<'_>) -> Plan {
    let fleet = Fleet::of(s);
    let mut steps = Vec::new();
    let mut waits = fleet.unseen_waits(s);
    waits.append(&mut pool::waits(s));
    waits.append(&mut fleet.given_up(s));
    if !fleet.others.is_empty() {
        // Two stores that act on one set would fight over it: nothing at all is done, not even sweeping.
        waits.push(Wait::OtherStore {
            stores: fleet.others.iter().copied().collect(),
        });
        return Plan::idle(fleet.report(s, 0, waits));
    }
    odd::tell(s, &mut waits);
    if s.inventory.odd.is_record_old() || !s.inventory.odd.twins.is_empty() {
        // Whatever is done under an old record may be done to what a newer one has made.
        return Plan::idle(fleet.report(s, 0, waits));
    }

    sweep::half_made(s, &mut steps);
    fleet.fence(s, &mut steps);
    let mut turn = upgrade::Turn::default();
    let mut mending = repair::Turn::default();
    let mut surplus = 0;
    match s.record.life {
        Life::Deleting => {
            for member in &fleet.members {
                steps.push(member.delete(s, Cause::SetDeletion));
            }
            sweep::images(s, &mut steps);
        }
        Life::Wanted => {
            surplus = upgrade::surplus(s.record.rollout.as_ref(), &fleet) + repair::surplus(s, &fleet);
            fleet.start_the_idle(s, &mut steps, &mut waits);
            let drain = drain::Drain::of(s, &fleet, surplus);
            surplus += drain.ahead();
            let (mut victims, unneeded) = meet_capacity(s, &fleet, surplus, &mut steps, &mut waits);
            victims.extend(fleet.condemned(s).map(|m| m.id));
            mending = repair::advance(s, &fleet, &steps, &victims);
            // Repair says more of a paused one than that it is paused.
            waits.retain(
                |w| !matches!(w, Wait::Paused { instance, .. } if mending.concerned.contains(instance)),
            );
            steps.append(&mut mending.steps);
            waits.append(&mut mending.waits);
            victims.extend(&mending.gone);
            turn = upgrade::advance(s, &fleet, &steps, unneeded);
            let settled = steps.is_empty() && turn.steps.is_empty();
            let drained = drain.advance(settled, &mut steps, &mut waits);
            turn.again = [turn.again, drained].into_iter().flatten().min();
            // An instance that goes is not changed first, and needs none in its place.
            turn.steps
                .retain(|step| step.action.instance().is_none_or(|id| !victims.contains(&id)));
            forget_victims(s, &mut turn, &victims);
            // An image that repair sends already is not sent twice.
            let is_sent = |step: &Step| {
                matches!(step.action, Action::PushImage { .. })
                    && steps
                        .iter()
                        .any(|s| s.host == step.host && s.action == step.action)
            };
            turn.steps.retain(|step| !is_sent(step));
            steps.append(&mut turn.steps);
            waits.append(&mut turn.waits);
        }
    }
    fleet.finish_changes(s, &mut steps, &mut waits);
    fleet.renote(s, &mut steps);
    sweep::volumes(s, &mut steps, &mut waits);
    moving::settle(s, &mut steps, &mut waits);
    odd::spare(s, &mut steps);
    pool::spare(s, &mut steps);
    sort(s, &mut steps);
    pool::send_once(s, &mut steps);
    drop_the_hopeless(s, &mut steps, &mut waits);
    let mut gate = membership::gate(s, &fleet, steps, &mending.leaving);
    let membership = membership::servers(s, &fleet, &gate);
    let mut steps = gate.steps;
    // What the record will say when these are noted down ([`Record::reserve`]).
    let epoch = s.record.epoch.next(s.drawn);
    steps.iter_mut().for_each(|step| step.action.stamp(epoch));
    waits.append(&mut gate.waits);
    waits.append(&mut sight::waits(s, &fleet));
    let (mut unserved, joining) = membership::joining(s, &fleet, membership.as_ref());
    waits.append(&mut unserved);
    let again = [turn.again, mending.again, gate.again]
        .into_iter()
        .flatten()
        .min();
    let is_at_rest = steps.is_empty() && gate.held_steps.is_empty() && s.record.life == Life::Wanted;
    let in_batch = s
        .record
        .rollout
        .as_ref()
        .is_some_and(|r| r.is_open() && r.batch.is_some());
    if is_at_rest && !in_batch {
        waits.extend(spread::uneven(s, &fleet));
    }
    if s.record.repair.asked.is_some() && steps.is_empty() && again.is_none() && mending.lost.is_empty() {
        // What could be done is done: who wants more asks again.
        let next = mending.repair.get_or_insert_with(|| s.record.repair.clone());
        next.asked = None;
    }
    Plan {
        steps,
        report: fleet.report(s, surplus, waits),
        rollout: turn.rollout,
        repair: mending.repair,
        lost: mending.lost,
        again,
        membership,
        leaving: gate.leaving,
        held: gate.held_steps,
        left: gate.left,
        joining,
    }
}

/// Makes as many instances as capacity wants, or deletes as many as are too many. `surplus` of those there are a
/// rollout's business, and as many are missing if it is negative. Returns those that are deleted, and how many of the
/// missing ones are not needed any more.
fn meet_capacity(
    s: Situation<'_>,
    fleet: &Fleet<'_>,
    surplus: isize,
    steps: &mut Vec<Step>,
    waits: &mut Vec<Wait>,
) -> (HashSet<InstanceId>, usize) {
    let there = fleet.members.len().saturating_add_signed(-surplus);
    let going = fleet.condemned(s).count();
    let wanted = s.record.capacity as usize;
    let counted = there + fleet.absent.len();
    steps.extend(fleet.condemned(s).map(|member| member.delete(s, Cause::Operator)));
    // Those that go by an operator's word count as there until they are gone: then there is room where they were, and
    // the balance leads whatever takes their place to it. And nobody else goes in their stead.
    // Those whose disks nobody can get at stay. The well ones among them count; nobody well goes for the sake of the others.
    let kept = (fleet.members.iter())
        .filter(|m| !m.has_pool && m.state != State::Healthy && !s.record.condemned.contains(&m.id));
    let seen = there.saturating_sub(going + kept.count());
    if counted < wanted {
        let order = placement::Order {
            revision: s.record.current(),
            count: wanted - counted,
            within: None,
            moved_from: None,
            why: format!("capacity is {wanted}, {} there", are(counted)).into(),
        };
        placement::scale_out(s, fleet, &order, steps, waits);
        return (HashSet::new(), 0);
    }
    let excess = seen.saturating_sub(wanted);
    // Those that aren't there are the first to go.
    let unneeded = excess.min(usize::try_from(-surplus).unwrap_or(0));
    let excess = excess - unneeded;
    if excess == 0 {
        return (HashSet::new(), unneeded);
    }
    let cause = Cause::ScaleIn {
        wanted,
        there: seen,
        request: s.record.request.clone(),
    };
    let victims = match scale_in::victims(s, fleet, excess) {
        Ok(victims) => victims,
        Err(wait) => {
            waits.push(wait);
            return (HashSet::new(), unneeded);
        }
    };
    // What goes is not started first.
    let going: HashSet<InstanceId> = victims.iter().map(|v| v.id).collect();
    steps.retain(|step| step.action.instance().is_none_or(|id| !going.contains(&id)));
    steps.extend(victims.iter().map(|victim| victim.delete(s, cause.clone())));
    (going, unneeded)
}

/// Takes instances that scale in deletes out of the batch under way: nobody needs to take their place.
fn forget_victims(s: Situation<'_>, turn: &mut upgrade::Turn, victims: &HashSet<InstanceId>) {
    let Some(mut rollout) = turn.rollout.clone().or_else(|| s.record.rollout.clone()) else {
        return;
    };
    let Some(batch) = rollout.batch.as_mut().filter(|_| !victims.is_empty()) else {
        return;
    };
    let before = batch.instances.len();
    batch.instances.retain(|id| !victims.contains(id));
    if batch.instances.len() != before {
        turn.rollout = Some(rollout);
    }
}

fn are(n: usize) -> String {
    match n {
        0 => "none is".to_owned(),
        1 => "1 is".to_owned(),
        n => format!("{n} are"),
    }
}

/// Takes out what was tried in this run and failed, and says so.
fn drop_the_hopeless(s: Situation<'_>, steps: &mut Vec<Step>, waits: &mut Vec<Wait>) {
    if s.experience.failed.is_empty() {
        return;
    }
    steps.retain(|step| {
        let key = (step.host.clone(), step.action.subject());
        let Some(error) = s.experience.failed.get(&key) else {
            return true;
        };
        waits.push(Wait::Failed {
            host: step.host.clone(),
            subject: key.1,
            verb: step.action.verb(),
            error: error.clone(),
        });
        false
    });
}

/// Declared order of hosts, then stage, then id: one order for one situation.
fn sort(s: Situation<'_>, steps: &mut [Step]) {
    let rank: BTreeMap<&Label, usize> = s
        .set
        .hosts()
        .enumerate()
        .map(|(i, (_, h))| (&h.name, i))
        .collect();
    steps.sort_by_cached_key(|step| {
        let subject = if step.action.instance().is_some() {
            String::new()
        } else {
            step.action.subject()
        };
        (
            rank.get(&step.host).copied(),
            step.action.stage(),
            step.action.instance(),
            subject,
        )
    });
}
