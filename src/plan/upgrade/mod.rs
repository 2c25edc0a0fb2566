//! The rollout's turn: what the batch under way still needs, whether it is done, and which batch comes next.
//!
//! Azure's batches (of one fault domain, the one with the most outdated instances first, unhealthy ones before others),
//! Google's surge, and a health budget: at no moment may the rollout leave fewer than capacity less `max_unavailable`
//! instances healthy, nor more than capacity plus `max_surge` there. A step that may not be taken yet says what it waits on.

mod batch;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::health::{State, later};
use crate::inventory::{Phase, Protection};
use crate::model::Disruption;
use crate::names::{InstanceId, Label};
use crate::plan::action::Step;
use crate::plan::change::{Limit, Need, data_disks, needs};
use crate::plan::report::{Ailing, Wait};
use crate::plan::{Fleet, Member, Situation};
use crate::record::Revision;
use crate::rollout::{Batch, Rollout, RolloutState};
use crate::scaleset::{OnFailure, Probe, Unwilling, UpgradePolicy};

/// How long a rollout waits for instances that are protected or stopped (AWS).
const PATIENCE_WITH_THE_UNWILLING: std::time::Duration = std::time::Duration::from_secs(3600);

/// What a rollout wants at this moment.
#[derive(Default)]
pub(super) struct Turn {
    /// Steps of the batch under way.
    pub steps: Vec<Step>,
    /// What it waits on.
    pub waits: Vec<Wait>,
    /// The rollout after these steps, if it is another.
    pub rollout: Option<Rollout>,
    /// When to look again.
    pub again: Option<Timestamp>,
}

/// Instances that a batch has too many or too few just now, because its new ones are there and its old ones are not
/// gone yet, or the other way round. They are the rollout's business, not the capacity's.
pub(super) fn surplus(rollout: Option<&Rollout>, fleet: &Fleet<'_>) -> isize {
    let Some(batch) = rollout.filter(|r| r.is_open()).and_then(|r| r.batch.as_ref()) else {
        return 0;
    };
    if batch.fresh.is_empty() {
        // Changed in place, or the first of them are about to be made: the old ones are what there is.
        let gone = batch.instances.iter().filter(|id| !fleet.has(**id)).count();
        return if batch.replaces { -signed(gone) } else { 0 };
    }
    let old = batch.instances.iter().filter(|id| fleet.has(**id)).count();
    let fresh = batch.fresh.iter().filter(|id| fleet.has(**id)).count();
    let planned = batch.instances.len();
    signed(old + fresh.min(planned)) - signed(planned)
}

fn signed(n: usize) -> isize {
    isize::try_from(n).unwrap_or(isize::MAX)
}

/// Everything that is looked at again and again during one turn.
struct Stage<'f, 'a> {
    s: Situation<'a>,
    fleet: &'f Fleet<'a>,
    target: &'a Revision,
    /// Whether other instances are about to be made: ids and room are given out by one at a time.
    is_growing: bool,
    /// Healthy instances that other steps of this plan take away: what they take is not there for the rollout to take.
    taken: usize,
    /// Whether the rules have called something a failure in this turn: then there is nothing more to be done in it, for
    /// what the rollout is for may have turned round.
    has_failed: bool,
    rollout: Rollout,
    turn: Turn,
}

/// Takes the rollout one step further, beside `others` that are planned already: a new batch begins only when nothing
/// else is to be done to the set just now. `unneeded` of those that the batch has taken away and not replaced yet need no
/// other in their place, for the set has become smaller.
pub(super) fn advance(s: Situation<'_>, fleet: &Fleet<'_>, others: &[Step], unneeded: usize) -> Turn {
    let Some(rollout) = s.record.rollout.as_ref().filter(|r| r.is_open()) else {
        return Turn::default();
    };
    let mut turn = Turn::default();
    match &rollout.state {
        RolloutState::Paused { by } => turn.waits.push(Wait::RolloutPaused { by: by.clone() }),
        RolloutState::Stopped { reason } => turn.waits.push(Wait::RolloutStopped {
            reason: reason.clone(),
        }),
        _ => {}
    }
    let Some(target) = s.record.revision(rollout.target).filter(|_| rollout.is_active()) else {
        return turn;
    };
    let mut stage = Stage {
        s,
        fleet,
        target,
        is_growing: others.iter().any(|step| step.action.created().is_some()),
        taken: (others.iter().filter(|step| step.action.disturbs()))
            .filter_map(|step| fleet.member(step.action.instance()?))
            .filter(|m| m.serves)
            .count(),
        has_failed: false,
        rollout: rollout.clone(),
        turn,
    };
    stage.forget_gone(unneeded);
    stage.run(others.is_empty());
    let Stage {
        rollout: after,
        mut turn,
        ..
    } = stage;
    turn.rollout = (after != *rollout).then_some(after);
    turn
}

impl<'a> Stage<'_, 'a> {
    /// Takes so many out of the batch that are gone already.
    fn forget_gone(&mut self, mut number: usize) {
        let Some(batch) = &mut self.rollout.batch else {
            return;
        };
        batch.instances.retain(|id| {
            let is_forgotten = number > 0 && !self.fleet.has(*id);
            number -= usize::from(is_forgotten);
            !is_forgotten
        });
    }

    fn run(&mut self, settled: bool) {
        if self.rollout.batch.is_some() && !self.work_on_batch() {
            return;
        }
        if self.rollout.batch.is_none() && self.rollout.is_active() {
            self.next_batch(settled);
            if self.rollout.batch.is_some() {
                self.work_on_batch();
            }
        }
    }

    /// Instances that are to be changed, in order of their ids; the unwilling left out, and those whose pool can't be seen.
    fn due(&self) -> Vec<&Member<'a>> {
        (self.fleet.members.iter())
            .filter(|m| m.has_pool && self.is_concerned(m.id) && !self.is_done(m) && self.is_willing(m))
            .collect()
    }

    /// What brings a member to the target.
    fn need(&self, member: &Member<'_>) -> Need {
        needs(self.s, member, self.target, &self.rollout.rules)
    }

    /// What forbids to bring a member to the target. A change that was begun is ended.
    fn beyond(&self, member: &Member<'_>) -> Option<Limit> {
        if member.instance.meta.phase == Phase::Changing {
            return None;
        }
        self.forbids(member, self.need(member))
    }

    fn forbids(&self, member: &Member<'_>, need: Need) -> Option<Limit> {
        let has_data_disks = !data_disks(self.s.record, member.instance).is_empty();
        need.beyond(self.rollout.limits(), &self.rollout.rules, has_data_disks)
    }

    /// Says of those that are due what they need and may not have.
    fn tell_beyond(&self) -> Vec<Wait> {
        let due = self.due();
        let beyond = due
            .iter()
            .filter_map(|m| Some((*m, self.need(m), self.beyond(m)?)));
        self.told(beyond)
    }

    /// Says of members what they need, and what forbids it; of those that are alike together.
    fn told<'m>(&self, beyond: impl Iterator<Item = (&'m Member<'a>, Need, Limit)>) -> Vec<Wait>
    where
        'a: 'm,
    {
        let mut alike: BTreeMap<_, Vec<&Member<'a>>> = BTreeMap::new();
        for (member, need, limit) in beyond {
            let key = (need.because, need.class, limit);
            alike.entry(key).or_default().push(member);
        }
        let wait = |((because, needs, limit), members): (_, Vec<&Member<'a>>)| {
            let hosts: BTreeSet<&Label> = members.iter().map(|m| m.host).collect();
            Wait::BeyondLimits {
                instances: members.iter().map(|m| m.id).collect(),
                hosts: hosts.into_iter().cloned().collect(),
                needs,
                because,
                limit,
                data_disks: (members.iter().map(|m| data_disks(self.s.record, m.instance))).sum(),
            }
        };
        alike.into_iter().map(wait).collect()
    }

    /// Instances that are to be changed as soon as their pool can be seen.
    fn out_of_reach(&self) -> impl Iterator<Item = InstanceId> {
        (self.fleet.members.iter())
            .filter(|m| !m.has_pool && self.is_concerned(m.id) && !self.is_done(m) && self.is_willing(m))
            .map(|m| m.id)
    }

    fn is_concerned(&self, id: InstanceId) -> bool {
        self.rollout.only.as_ref().is_none_or(|only| only.contains(&id))
    }

    fn is_willing(&self, member: &Member<'_>) -> bool {
        let unwilling = member.instance.meta.protection == Protection::All || member.state == State::Stopped;
        !unwilling || self.rollout.rules.protected == Unwilling::Include
    }

    fn next_batch(&mut self, settled: bool) {
        let unwilling: Vec<InstanceId> = (self.fleet.members.iter())
            .filter(|m| self.is_concerned(m.id) && !self.is_done(m) && !self.is_willing(m))
            .map(|m| m.id)
            .collect();
        let unseen: Vec<InstanceId> = (self.fleet.absent.iter())
            .filter(|a| self.is_concerned(a.id) && a.revision != Some(self.target.number))
            .map(|a| a.id)
            .chain(self.out_of_reach())
            .collect();
        let told = self.tell_beyond();
        self.turn.waits.extend(told);
        let due = self.due();
        if due.is_empty() {
            self.end(&unwilling, &unseen);
            return;
        }
        let due: Vec<_> = due.into_iter().filter(|m| self.beyond(m).is_none()).collect();
        if due.is_empty() {
            // What is left is not done by itself: somebody has to allow it, or to make room.
            return;
        }
        if !settled {
            return;
        }
        if let Some(until) = self.rollout.hold_until.filter(|until| *until > self.s.now) {
            self.turn.waits.push(Wait::Checkpoint { until });
            self.look_again_at(until);
            return;
        }
        if let Some(rested) = self.rollout.rested_since {
            let until = later(rested, self.rollout.rules.pause);
            if until > self.s.now {
                self.turn.waits.push(Wait::PauseBetweenBatches { until });
                self.look_again_at(until);
                return;
            }
        }
        let due_ids: BTreeSet<InstanceId> = due.iter().map(|m| m.id).collect();
        let chosen = self.choose(&due);
        let gated = self.rollout.rules.policy != UpgradePolicy::Automatic;
        if gated && !self.gate(&due_ids) {
            return;
        }
        let Some((domain, instances, replaces)) = chosen else {
            if !self.fleet.absent.is_empty() {
                // What is missing is out of sight: nobody waits for a host that may never come back.
                let instances = self.fleet.absent.iter().map(|a| a.id).collect();
                self.turn.waits.push(Wait::RolloutUnseen { instances });
                return;
            }
            self.wait_for_budget();
            // Nobody changes anything for that long: it will not get better by itself.
            if self.has_timed_out(self.rollout.rested_since.unwrap_or(self.rollout.began)) {
                let reason = "too few instances are healthy to take another one away".to_owned();
                self.fail(reason);
            }
            return;
        };
        self.rollout.batch = Some(Batch {
            number: self.number(),
            fault_domain: domain.map(|d| self.s.set.fault_domains[d].name.clone()),
            instances,
            replaces,
            fresh: Vec::new(),
            began: self.s.now,
        });
    }

    /// The gate before a batch. Instances that this very upgrade is due to change don't count: it may be the fix.
    fn gate(&mut self, due: &BTreeSet<InstanceId>) -> bool {
        let others = || self.fleet.members.iter().filter(|m| !due.contains(&m.id));
        let unsettled: Vec<Ailing> = others()
            .filter(|m| {
                let wavers = self.s.record.vitals.get(&m.id).is_some_and(|v| v.is_wavering());
                m.state == State::Starting || wavers
            })
            .map(|m| self.ailing(m))
            .collect();
        if !unsettled.is_empty() {
            self.turn.waits.push(Wait::Settling { instances: unsettled });
            self.look_again_at(later(self.s.now, self.s.set.health.interval));
            return false;
        }
        let mut ailing: Vec<Ailing> = others()
            .filter(|m| m.state.counts_against())
            .map(|m| self.ailing(m))
            .collect();
        // What can't be asked counts as unhealthy (Azure).
        ailing.extend(self.fleet.absent.iter().map(|a| Ailing {
            instance: a.id,
            state: State::Unknown,
            said: "its host was not seen".to_owned(),
        }));
        let total = self.fleet.members.len() + self.fleet.absent.len();
        let limit = self.rollout.rules.max_unhealthy;
        if ailing.len() <= limit.of(total) {
            return true;
        }
        self.fail(format!(
            "{} of {total} instances {} not healthy, more than max_unhealthy = {limit} allows before rollout batch {}{}",
            ailing.len(),
            if ailing.len() == 1 { "is" } else { "are" },
            self.number(),
            self.describe(&ailing)
        ));
        false
    }

    /// The next batch: its fault domain, its instances, and whether they are replaced. `None` if the health budget
    /// allows none.
    fn choose(&self, due: &[&Member<'a>]) -> Option<(Option<usize>, Vec<InstanceId>, bool)> {
        let rules = &self.rollout.rules;
        let class = |m: &Member<'_>| self.need(m).class;
        if rules.policy == UpgradePolicy::Automatic {
            // Those that need no other in their place get none because others do: they are the next batch.
            let replaces = due.iter().any(|m| class(m) == Disruption::Replace);
            let alike = due
                .iter()
                .filter(|m| (class(m) == Disruption::Replace) == replaces);
            return Some((None, alike.map(|m| m.id).collect(), replaces));
        }
        let broken_first = rules.prioritize_unhealthy && due.iter().any(|m| m.state.is_bad());
        let candidates = due.iter().copied().filter(|m| !broken_first || m.state.is_bad());
        let mut domains: BTreeMap<usize, Vec<&Member<'a>>> = BTreeMap::new();
        for member in candidates {
            domains.entry(member.domain).or_default().push(member);
        }
        // The most outdated first; `max_by_key` takes the last of equals, and ties go by declared order.
        let (&domain, members) = domains.iter().rev().max_by_key(|(_, members)| members.len())?;
        let mut members = members.clone();
        members.sort_by_key(|m| {
            (
                !m.state.is_bad(),
                m.instance.meta.protection == Protection::All,
                m.id,
            )
        });
        let replaces = class(members[0]) == Disruption::Replace;
        let total = self.fleet.members.len() + self.fleet.absent.len();
        let most = self.until_next_look().min(rules.max_batch.of(total));
        // Replacing waits within the batch, wave by wave; in place all of the batch is away at once.
        let mut budget = if replaces { usize::MAX } else { self.budget() };
        let mut chosen = Vec::new();
        for member in members
            .iter()
            .filter(|m| (class(m) == Disruption::Replace) == replaces)
        {
            let costs = member.serves && class(member) > Disruption::Live;
            if chosen.len() == most || costs && budget == 0 {
                break;
            }
            budget -= usize::from(costs && budget != usize::MAX);
            chosen.push(member.id);
        }
        (!chosen.is_empty()).then_some((Some(domain), chosen, replaces))
    }

    /// How many may be upgraded before somebody is to look: at the canary, or at the next checkpoint.
    fn until_next_look(&self) -> usize {
        let capacity = self.s.record.capacity as usize;
        let upgraded = self.fleet.members.iter().filter(|m| self.is_done(m)).count();
        let points = self.rollout.canary.iter().chain(&self.rollout.rules.checkpoints);
        let ahead = points.map(|p| p.of(capacity)).filter(|p| *p > upgraded);
        ahead.min().map_or(usize::MAX, |point| point - upgraded)
    }

    /// Upgraded instances that are broken, or can't be asked whether they are.
    fn ailing_upgraded(&self) -> Vec<Ailing> {
        (self.fleet.members.iter())
            .filter(|m| self.is_done(m) && m.state.counts_against())
            .map(|m| self.ailing(m))
            .collect()
    }

    /// Watches what is upgraded for a while after the last batch. Whether that is over.
    fn is_baked(&mut self) -> bool {
        let since = self.rollout.rested_since.unwrap_or(self.rollout.began);
        let until = later(since, self.rollout.rules.bake);
        if until <= self.s.now || self.rollout.state != RolloutState::Running || self.rollout.batches == 0 {
            return true;
        }
        let ailing = self.ailing_upgraded();
        let upgraded = self.fleet.members.iter().filter(|m| self.is_done(m)).count();
        if ailing.len() > self.rollout.rules.max_unhealthy_upgraded.of(upgraded) {
            self.fail(format!(
                "while it was watched after the last batch, {} of {upgraded} upgraded instances {} not healthy{}",
                ailing.len(),
                if ailing.len() == 1 { "is" } else { "are" },
                self.describe(&ailing)
            ));
            return false;
        }
        self.turn.waits.push(Wait::Bake { until });
        self.look_again_at(until.min(later(self.s.now, self.s.set.health.interval)));
        false
    }

    /// Nothing is left to change but what can't be, or may not be.
    fn end(&mut self, unwilling: &[InstanceId], unseen: &[InstanceId]) {
        if !unseen.is_empty() {
            self.turn.waits.push(Wait::RolloutUnseen {
                instances: unseen.to_vec(),
            });
            return;
        }
        if !unwilling.is_empty() {
            let until = later(self.rollout.began, PATIENCE_WITH_THE_UNWILLING);
            let waits = self.rollout.rules.protected == Unwilling::Wait && until > self.s.now;
            self.turn.waits.push(Wait::Unwilling {
                instances: unwilling.to_vec(),
                until: waits.then_some(until),
            });
            if waits {
                self.look_again_at(later(self.s.now, self.s.set.health.interval).min(until));
                return;
            }
        }
        if !self.is_baked() {
            return;
        }
        self.rollout.state = match &self.rollout.state {
            RolloutState::RollingBack { reason } => RolloutState::RolledBack {
                reason: reason.clone(),
            },
            _ => RolloutState::Done,
        };
    }

    fn is_done(&self, member: &Member<'_>) -> bool {
        member.instance.meta.model_hash == self.target.hash && member.instance.meta.phase == Phase::Ready
    }

    /// How many healthy instances may be taken now.
    fn budget(&self) -> usize {
        if self.rollout.rules.policy == UpgradePolicy::Automatic {
            return usize::MAX;
        }
        self.fleet.serving().saturating_sub(self.taken + self.needed())
    }

    /// How many must stay healthy. What an operator has stopped is not missed.
    fn needed(&self) -> usize {
        let capacity = self.s.record.capacity as usize;
        self.fleet
            .needed(capacity, self.rollout.rules.max_unavailable.of(capacity))
    }

    fn wait_for_budget(&mut self) {
        let wait = Wait::HealthBudget {
            healthy: self.fleet.serving(),
            needed: self.needed() + 1,
        };
        if !self.turn.waits.contains(&wait) {
            self.turn.waits.push(wait);
        }
        self.look_again_at(later(self.s.now, self.s.set.health.interval));
    }

    fn ailing(&self, member: &Member<'_>) -> Ailing {
        Ailing::of(self.s, member)
    }

    /// ": instance 3 is unhealthy (503); the probe is http port 80 /healthz": who ails, what it answered and what it was
    /// asked, for the end of a sentence.
    fn describe(&self, ailing: &[Ailing]) -> String {
        if ailing.is_empty() {
            return String::new();
        }
        let probe = &self.s.set.health.probe;
        let probe = match *probe != Probe::None && ailing.iter().any(|a| !a.said.is_empty()) {
            true => format!("; the probe is {probe}"),
            false => String::new(),
        };
        format!(": {}{probe}", crate::names::list(ailing, 4))
    }

    fn number(&self) -> u32 {
        self.rollout
            .batch
            .as_ref()
            .map_or(self.rollout.batches + 1, |b| b.number)
    }

    fn has_timed_out(&self, since: Timestamp) -> bool {
        later(since, self.rollout.rules.batch_timeout) <= self.s.now
    }

    fn look_again_at(&mut self, at: Timestamp) {
        self.turn.again = Some(self.turn.again.map_or(at, |other| other.min(at)));
    }

    /// The rules call this a failure: it stops, or goes back.
    fn fail(&mut self, reason: String) {
        self.has_failed = true;
        self.turn.steps.clear();
        self.turn.again = None;
        let is_forward = self.rollout.state == RolloutState::Running;
        if is_forward && self.rollout.rules.on_failure == OnFailure::Rollback {
            self.rollout.turn_back(reason);
            // The next plan begins with it.
            self.turn.again = Some(self.s.now);
        } else {
            self.turn.waits.push(Wait::RolloutStopped {
                reason: reason.clone(),
            });
            self.rollout.state = RolloutState::Stopped { reason };
        }
    }
}

fn span(d: std::time::Duration) -> String {
    match d.as_secs() {
        s if s % 3600 == 0 && s > 0 => format!("{} h", s / 3600),
        s if s % 60 == 0 && s > 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}
