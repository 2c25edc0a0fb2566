//! Repair's turn: which broken instances are mended now, what became of those that were, and what the others wait on.
//!
//! - Off unless `[repair] enabled`, or asked for once by `vmss repair` (Azure: automatic repairs are off by default).
//! - Only what is unhealthy, or off, crashed or paused and could not be started, for `repair.grace_period` (Azure). What
//!   is starting, out of sight or stopped on purpose never is; what is protected from everything neither (Azure, AWS). Nor
//!   is what can't be asked, since its agent is broken or no way leads to it.
//! - At most `max_concurrent` at once, one at least (Azure). What is starting after its repair still counts.
//! - More broken ones than `max_unhealthy` of the set look like an outage, of a network or of what the instances all
//!   depend on, and new instances would not mend that: none is repaired until there are fewer (Azure). What is out of
//!   sight and does not answer counts here, as it does for every gate.
//! - An instance is repaired to its own revision, never to a newer one (Google).
//! - One whose repair fails waits twice as long for each further one; after three in a row that led to nothing, over the
//!   whole set, repair suspends itself (Azure) until `vmss repair --resume`.
//! - What is in the batch of a rollout, or outdated while one is active, is the rollout's.
//! - A host out of sight for `host_lost_after` is given up: of its instances those that do not answer any more, for a
//!   host that does not answer is not a dead host. Others take their place; if the host comes back, they are deleted
//!   ([`super::Fleet::fence`]).
//!
//! - Of a host whose pool can't be seen nothing is given up, replaced or reimaged; a restart takes no disk away.
//!
//! What is off is started by every run, long before any repair ([`super::Fleet::start_the_idle`]).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::answer::{Answer, Judgement};
use crate::health::{Sign, State, Vital, later};
use crate::inventory::{Power, Protection, Rework};
use crate::names::{InstanceId, Label, instance_name};
use crate::plan::action::{Action, Step};
use crate::plan::report::{Ailing, Wait};
use crate::plan::{Fleet, Member, Situation, change, membership, moving, placement};
use crate::record::Revision;
use crate::repairs::{Mending, Repairs, Tries};
use crate::scaleset::{Probe, RepairAction};
use crate::warrants::Cause;

/// What the reason of each of its steps begins with.
pub const WHY: &str = "repair: ";

/// Repairs in a row without a healthy instance after which repair suspends itself.
const ENOUGH_FAILURES: u32 = 3;

/// How many rounds of probes a request waits for, to learn how those are whose last answers contradict what was known.
const MOST_LOOKS: u32 = 10;

/// What repair wants at this moment.
#[derive(Default)]
pub(super) struct Turn {
    /// Its steps.
    pub steps: Vec<Step>,
    /// What it waits on.
    pub waits: Vec<Wait>,
    /// What the record holds of it after these steps, if that is something else.
    pub repair: Option<Repairs>,
    /// Instances to give up with their host.
    pub lost: Vec<InstanceId>,
    /// When to look again.
    pub again: Option<Timestamp>,
    /// Instances that its steps delete.
    pub gone: HashSet<InstanceId>,
    /// Broken instances that it mends, or says of what they wait on.
    pub concerned: HashSet<InstanceId>,
    /// Broken instances that it will mend as soon as nobody is connected to them.
    pub leaving: BTreeSet<InstanceId>,
}

/// Instances above (or below) capacity because one is replacing another just now. They are not the capacity's business.
pub(super) fn surplus(s: Situation<'_>, fleet: &Fleet<'_>) -> isize {
    (s.record.repair.under_way.iter())
        .filter(|(_, m)| m.action == RepairAction::Replace)
        .map(|(old, m)| {
            let fresh = m.fresh.is_some_and(|id| fleet.has(id));
            isize::from(fleet.has(*old)) + isize::from(fresh) - 1
        })
        .sum()
}

/// Takes repair one step further, beside `steps` that are planned already; `victims` are those that scale in deletes.
pub(super) fn advance(
    s: Situation<'_>,
    fleet: &Fleet<'_>,
    steps: &[Step],
    victims: &HashSet<InstanceId>,
) -> Turn {
    let is_start = |step: &&Step| matches!(step.action, Action::Start(_));
    let mut stage = Stage {
        s,
        fleet,
        starting: (steps.iter().filter(is_start))
            .filter_map(|step| step.action.instance())
            .collect(),
        is_growing: steps.iter().any(|step| step.action.created().is_some()),
        filled: BTreeSet::new(),
        in_flight: 0,
        seen_up: membership::seen_up(s),
        next: s.record.repair.clone(),
        turn: Turn::default(),
    };
    stage.follow_up(victims);
    let suspended = stage.next.suspended.clone();
    let mut held: Vec<Ailing> = Vec::new();
    if s.set.repair.enabled || s.record.repair.asked.is_some() {
        if !stage.is_outage() {
            stage.give_up_hosts(suspended.is_some());
            stage.begin(victims, suspended.is_some(), &mut held);
        }
        stage.look_closer();
    }
    if let Some(reason) = suspended {
        stage.turn.waits.push(Wait::RepairSuspended {
            reason,
            instances: held,
        });
    }
    let Stage { next, mut turn, .. } = stage;
    turn.repair = (next != s.record.repair).then_some(next);
    turn
}

/// Everything that is looked at again and again during one turn.
struct Stage<'f, 'a> {
    s: Situation<'a>,
    fleet: &'f Fleet<'a>,
    /// Instances that are about to be started, which is less than any repair.
    starting: HashSet<InstanceId>,
    /// Whether other instances are about to be made: ids and room are given out by one at a time.
    is_growing: bool,
    /// Fault domains in which repair makes one already in this turn.
    filled: BTreeSet<usize>,
    /// Repairs whose end is not known yet.
    in_flight: usize,
    /// Instances that a load balancer finds up.
    seen_up: BTreeSet<InstanceId>,
    next: Repairs,
    turn: Turn,
}

impl<'a> Stage<'_, 'a> {
    // What was begun.

    fn follow_up(&mut self, victims: &HashSet<InstanceId>) {
        let mut waiting = Vec::new();
        for (id, mending) in self.s.record.repair.under_way.clone() {
            let fresh = mending.fresh.filter(|id| self.fleet.has(*id));
            if victims.contains(&id) || fresh.is_some_and(|id| victims.contains(&id)) {
                // Scale in has taken it, or the one in its place: there is nothing left to mend.
                self.next.under_way.remove(&id);
                continue;
            }
            self.turn.concerned.insert(id);
            let subject = match mending.action {
                RepairAction::Restart | RepairAction::Reimage => Some(id),
                RepairAction::Replace => self.replace_on(id, &mending, fresh),
            };
            if let Some(subject) = subject {
                self.judge(id, subject, &mending, &mut waiting);
            }
        }
        if !waiting.is_empty() {
            if self.s.record.repair.asked.is_some() {
                // Only who asked for repairs waits for what becomes of them.
                self.look_again_at(later(self.s.now, self.s.set.health.interval));
            }
            self.turn.waits.push(Wait::RepairHealth { instances: waiting });
        }
    }

    /// Goes on with putting another in the place of `old`. Returns the one whose health is the repair's result, once it is
    /// there and the old one is not.
    fn replace_on(
        &mut self,
        old: InstanceId,
        mending: &Mending,
        fresh: Option<InstanceId>,
    ) -> Option<InstanceId> {
        if let Some(member) = self.fleet.member(old) {
            if member.instance.meta.protection == Protection::All {
                // Protected meanwhile: it stays, and if there is one too many, scale in takes its pick.
                self.next.under_way.remove(&old);
                return None;
            }
            if !member.has_pool {
                // As one that is out of sight.
                return self.leave_for_now(old, fresh);
            }
            self.in_flight += 1;
            let why = self.why(member);
            self.delete(member, why);
            return None;
        }
        if self.fleet.is_absent(old) {
            return self.leave_for_now(old, fresh);
        }
        if fresh.is_some() {
            return fresh;
        }
        self.in_flight += 1;
        if self.is_growing {
            return None;
        }
        let why = format!("{WHY}takes the place of instance {old}");
        let domain = (self.s.set.fault_domains.iter()).position(|d| d.name == mending.fault_domain);
        match domain.and_then(|domain| self.make(domain, mending.revision, why)) {
            Some(id) => self.took_over(old, id),
            None => {
                // Its fault domain can't take it: from here it is an instance too few like any other.
                self.next.under_way.remove(&old);
                self.look_again_at(self.s.now);
            }
        }
        None
    }

    /// Nothing can be done about `old` just now.
    fn leave_for_now(&mut self, old: InstanceId, fresh: Option<InstanceId>) -> Option<InstanceId> {
        if fresh.is_some() {
            // There is one too many until its host is back, or given up.
            self.in_flight += 1;
        } else {
            self.next.under_way.remove(&old);
        }
        None
    }

    /// What became of the repair of `broken`: `subject` tells, as far as it can be seen.
    fn judge(
        &mut self,
        broken: InstanceId,
        subject: InstanceId,
        mending: &Mending,
        waiting: &mut Vec<Ailing>,
    ) {
        let Some(member) = self.fleet.member(subject) else {
            // Somebody has deleted it, or its host is out of sight: nobody can tell, and nobody waits for it.
            self.next.under_way.remove(&broken);
            return;
        };
        if self.is_rollouts(member) {
            self.next.under_way.remove(&broken);
            return;
        }
        self.turn.concerned.insert(subject);
        let ailing = Ailing::of(self.s, member);
        let wavers = self.vital(subject).is_some_and(Vital::is_wavering);
        let failed_now = self.failed_now(member).is_some();
        match member.state {
            State::Healthy => {
                self.next.under_way.remove(&broken);
                self.next.failures = 0;
            }
            // How one is that can't be asked nobody can tell, and nobody waits for it.
            State::Stopped | State::Unknown => {
                self.next.under_way.remove(&broken);
            }
            State::Failed if !self.starting.contains(&subject) => self.failed(broken, mending, &ailing),
            State::Unhealthy if !wavers => self.failed(broken, mending, &ailing),
            _ if failed_now => self.failed(broken, mending, &ailing),
            _ => {
                self.in_flight += 1;
                waiting.push(ailing);
            }
        }
    }

    fn failed(&mut self, broken: InstanceId, mending: &Mending, ailing: &Ailing) {
        self.next.under_way.remove(&broken);
        self.next.failures = self.next.failures.saturating_add(1);
        if self.next.failures < ENOUGH_FAILURES || self.next.suspended.is_some() {
            return;
        }
        let did = match mending.action {
            RepairAction::Restart => "restarted",
            RepairAction::Reimage => "reimaged",
            RepairAction::Replace => "replaced",
        };
        let who = if ailing.instance == broken {
            "it".to_owned()
        } else {
            format!("instance {}", ailing.instance)
        };
        let said = if ailing.said.is_empty() {
            String::new()
        } else {
            format!(" ({})", ailing.said)
        };
        self.next.suspended = Some(format!(
            "{} repairs in a row did not lead to a healthy instance: the last was of instance {broken}, which was {did} at \
             {}, and {who} did not get well{said}",
            self.next.failures,
            mending.began.strftime("%H:%M:%SZ")
        ));
    }

    // What is to be begun.

    /// Whether so many are broken that it is no matter of instances. Says so.
    fn is_outage(&mut self) -> bool {
        let mut ailing: Vec<Ailing> = (self.fleet.members.iter())
            .filter(|m| self.is_broken(m) || m.state == State::Unknown && !self.serves(m.id))
            .map(|m| Ailing::of(self.s, m))
            .collect();
        for absent in &self.fleet.absent {
            if !self.serves(absent.id) && !self.is_off_on_purpose(absent.id) {
                ailing.push(Ailing {
                    instance: absent.id,
                    state: State::Unknown,
                    said: "its host was not seen".to_owned(),
                });
            }
        }
        let total = self.total();
        let limit = self.s.set.repair.max_unhealthy;
        if ailing.len() <= limit.of(total) {
            return false;
        }
        self.turn.concerned.extend(
            ailing
                .iter()
                .filter(|a| a.state != State::Unknown)
                .map(|a| a.instance),
        );
        self.turn.waits.push(Wait::Outage {
            total,
            limit: limit.to_string(),
            instances: ailing,
        });
        true
    }

    fn give_up_hosts(&mut self, is_suspended: bool) {
        let after = self.s.set.repair.host_lost_after;
        let mut on: BTreeMap<&Label, Vec<InstanceId>> = BTreeMap::new();
        for absent in &self.fleet.absent {
            let Some(known) = self.s.record.known.get(&absent.id) else {
                continue;
            };
            if !known.stopped {
                on.entry(&known.host).or_default().push(absent.id);
            }
        }
        for (_, host) in self.s.set.hosts() {
            let Some(instances) = on.get(&host.name) else {
                continue;
            };
            let since = self
                .s
                .record
                .unseen
                .get(&host.name)
                .copied()
                .unwrap_or(self.s.now);
            let until = later(since, after);
            let host = host.name.clone();
            if until > self.s.now {
                let instances = instances.clone();
                self.turn.waits.push(Wait::HostLost {
                    host,
                    until,
                    instances,
                });
                continue;
            }
            let is_protected = |id: &InstanceId| {
                (self.s.record.known.get(id)).is_some_and(|k| k.protection == Protection::All)
            };
            let (protected, others): (Vec<_>, Vec<_>) = instances.iter().copied().partition(is_protected);
            let (serving, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|id| self.serves(*id));
            // Whether those answer that no way leads to, nobody knows: that is told of all of them together.
            let silent: Vec<_> = others.into_iter().filter(|id| !self.is_unheard(*id)).collect();
            if !protected.is_empty() {
                self.turn.waits.push(Wait::HostProtected {
                    host: host.clone(),
                    instances: protected,
                });
            }
            if !serving.is_empty() {
                self.turn.waits.push(Wait::HostServes {
                    host,
                    since,
                    instances: serving,
                });
            }
            if !is_suspended {
                self.turn.lost.extend(silent);
            }
        }
    }

    /// Begins what is due and fits; says of all others what they wait on.
    fn begin(&mut self, victims: &HashSet<InstanceId>, is_suspended: bool, held: &mut Vec<Ailing>) {
        let rules = &self.s.set.repair;
        let between = moving::between(self.s);
        // What is there twice, or between two hosts, is settled first: none is made in its place.
        let is_settled =
            |m: &Member<'_>| !between.contains_key(&m.id) && !self.s.inventory.odd.is_double(m.id);
        let mut candidates: Vec<(Timestamp, &Member<'a>)> = (self.fleet.members.iter())
            .filter(|m| is_settled(m))
            .filter(|m| self.is_broken(m) && !victims.contains(&m.id) && !self.is_rollouts(m))
            .filter(|m| !self.turn.concerned.contains(&m.id) && self.may_mend(m))
            .map(|m| (self.broken_since(m), m))
            .collect();
        candidates.sort_by_key(|(since, m)| (*since, m.id));
        let most = rules.max_concurrent.of(self.total()).max(1);
        let (mut protected, mut unsure, mut queue) = (Vec::new(), Vec::new(), Vec::new());
        let mut unheard = Vec::new();
        let mut in_grace: BTreeMap<Timestamp, Vec<Ailing>> = BTreeMap::new();
        for (since, member) in candidates {
            self.turn.concerned.insert(member.id);
            let ailing = Ailing::of(self.s, member);
            let until = later(since, rules.grace_period);
            let tries = self.next.tries.get(&member.id).copied();
            let backoff = tries.map(|t| t.next_repair(rules.grace_period));
            let own = self.own_revision(member.instance.meta.revision);
            let is_reimaged = rules.action == RepairAction::Reimage;
            if member.instance.meta.protection == Protection::All {
                protected.push(ailing);
            } else if self.is_unheard(member.id) {
                unheard.push(ailing);
            } else if is_reimaged && change::loses_disks(self.s.record, member.instance, &own.model) {
                self.turn.waits.push(Wait::KeepsDisks {
                    instances: vec![member.id],
                    revision: own.number,
                });
            } else if self.vital(member.id).is_some_and(Vital::is_wavering) {
                unsure.push(ailing);
            } else if let Some(wait) = self.failed_now(member) {
                self.turn.waits.push(wait);
            } else if until > self.s.now {
                in_grace.entry(until).or_default().push(ailing);
            } else if is_suspended {
                held.push(ailing);
            } else if let (Some(tries), Some(until)) = (tries, backoff.filter(|at| *at > self.s.now)) {
                self.turn.waits.push(Wait::RepairBackoff {
                    instance: ailing,
                    tries: tries.count,
                    until,
                });
            } else if self.in_flight < most && self.still_has_clients(member) {
                self.in_flight += 1;
                self.turn.leaving.insert(member.id);
            } else if self.in_flight >= most || !self.mend(member) {
                queue.push(ailing);
            }
        }
        let waits = &mut self.turn.waits;
        waits.extend((in_grace.into_iter()).map(|(until, instances)| Wait::RepairGrace { until, instances }));
        let push = |waits: &mut Vec<Wait>, instances: Vec<Ailing>, wait: fn(Vec<Ailing>) -> Wait| {
            if !instances.is_empty() {
                waits.push(wait(instances));
            }
        };
        push(waits, unsure, |instances| Wait::RepairUnsure { instances });
        push(waits, unheard, |instances| Wait::RepairUnheard { instances });
        push(waits, protected, |instances| Wait::RepairProtected { instances });
        if !queue.is_empty() {
            waits.push(Wait::RepairBudget {
                most,
                instances: queue,
            });
        }
    }

    /// Whether its disks can be got at, if that is what it takes: if not, its pool is what it waits on.
    fn may_mend(&self, member: &Member<'_>) -> bool {
        member.has_pool || self.s.set.repair.action == RepairAction::Restart
    }

    /// Whether somebody may still be served by a broken member: its repair is not noted as begun before they had their time.
    fn still_has_clients(&self, member: &Member<'_>) -> bool {
        !matches!(
            membership::passage(self.s, member),
            membership::Passage::Free { .. }
        )
    }

    /// Begins to mend a member. Whether it did: what can't be done beside the other steps has its turn with the next plan.
    fn mend(&mut self, member: &Member<'a>) -> bool {
        let (s, id) = (self.s, member.id);
        let action = s.set.repair.action;
        if action == RepairAction::Replace && (self.is_growing || self.filled.contains(&member.domain)) {
            return false;
        }
        let meta = &member.instance.meta;
        let why = self.why(member);
        self.in_flight += 1;
        let tries = Tries::after(self.next.tries.get(&id), s.now);
        self.next.tries.insert(id, tries);
        self.next.under_way.insert(
            id,
            Mending {
                action,
                began: s.now,
                revision: meta.revision,
                fault_domain: s.set.fault_domains[member.domain].name.clone(),
                fresh: None,
            },
        );
        match action {
            RepairAction::Restart => {
                let shutdown = if self.is_heard(member) {
                    s.set.scale_in.shutdown
                } else {
                    Duration::ZERO
                };
                self.turn.steps.push(Step {
                    host: member.host.clone(),
                    action: Action::Restart {
                        instance: member.reference(s),
                        shutdown,
                    },
                    why: why.into(),
                });
            }
            RepairAction::Reimage => {
                let own = self.own_revision(meta.revision);
                let why: Arc<str> = why.into();
                change::rework(s, member, own, Rework::Reimage, why, &mut self.turn.steps);
            }
            RepairAction::Replace => {
                let takes = format!("{WHY}takes the place of instance {id}");
                // Without room for both, the broken one goes first.
                if let Some(fresh) = self.make(member.domain, meta.revision, takes) {
                    self.took_over(id, fresh);
                }
                self.delete(member, why);
            }
        }
        true
    }

    /// Plans another instance of `revision` in a fault domain, if that has room.
    fn make(&mut self, domain: usize, revision: u32, why: String) -> Option<InstanceId> {
        if !self.filled.insert(domain) {
            return None;
        }
        let order = placement::Order {
            revision: self.own_revision(revision),
            count: 1,
            within: Some(domain),
            moved_from: None,
            why: why.into(),
        };
        let before = self.turn.steps.len();
        // What it lacks is said by the capacity, if nothing else helps.
        let mut lacks = Vec::new();
        placement::scale_out(self.s, self.fleet, &order, &mut self.turn.steps, &mut lacks);
        let made = self.turn.steps[before..].iter().find_map(|s| s.action.created());
        made.map(|spec| spec.id)
    }

    /// `fresh` takes the place of `old`, and takes over how often that was repaired.
    fn took_over(&mut self, old: InstanceId, fresh: InstanceId) {
        if let Some(mending) = self.next.under_way.get_mut(&old) {
            mending.fresh = Some(fresh);
        }
        if let Some(tries) = self.next.tries.get(&old).copied() {
            self.next.tries.insert(fresh, tries);
        }
    }

    fn delete(&mut self, member: &Member<'a>, why: String) {
        self.turn.gone.insert(member.id);
        let cause = Cause::Repair { why };
        self.turn.steps.push(member.delete(self.s, cause));
    }

    /// Who asked for repairs wants to know how the instances are, and waits until the answers agree.
    fn look_closer(&mut self) {
        let Some(asked) = &self.s.record.repair.asked else {
            return;
        };
        let health = &self.s.set.health;
        let end = later(asked.at, health.interval.saturating_mul(MOST_LOOKS));
        let is_unsure = |v: &Vital| v.is_undecided(health, self.s.now);
        if self.s.now < end && self.s.record.vitals.values().any(is_unsure) {
            self.look_again_at(later(self.s.now, health.interval));
        }
    }

    // What is asked of instances.

    /// Off, crashed or paused counts only when starting it is not what happens now.
    fn is_broken(&self, member: &Member<'_>) -> bool {
        member.state.is_bad() && !self.starting.contains(&member.id)
    }

    fn broken_since(&self, member: &Member<'_>) -> Timestamp {
        let Some(vital) = self.vital(member.id) else {
            return self.s.now;
        };
        match member.state {
            State::Failed => vital.down.unwrap_or(self.s.now),
            _ => vital.since,
        }
    }

    /// Why it is repaired.
    fn why(&self, member: &Member<'_>) -> String {
        let ailing = Ailing::of(self.s, member);
        let since = self.broken_since(member).strftime("%H:%M:%SZ");
        if ailing.said.is_empty() {
            format!("{WHY}{} since {since}", ailing.state)
        } else {
            format!("{WHY}{} since {since}: {}", ailing.state, ailing.said)
        }
    }

    /// Whether its guest is there to be asked to shut down: an HTTP status came back, though a bad one.
    fn is_heard(&self, member: &Member<'_>) -> bool {
        let last = self.vital(member.id).and_then(|v| v.last.as_ref());
        member.instance.power == Power::Running && last.is_some_and(Answer::is_heard)
    }

    /// A step on it that was tried in this run and failed.
    fn failed_now(&self, member: &Member<'_>) -> Option<Wait> {
        let subject = instance_name(&self.s.set.name, member.id);
        let key = (member.host.clone(), subject.clone());
        let error = self.s.experience.failed.get(&key)?;
        Some(Wait::Failed {
            host: member.host.clone(),
            subject,
            verb: "repair",
            error: error.clone(),
        })
    }

    fn is_rollouts(&self, member: &Member<'_>) -> bool {
        let Some(rollout) = self.s.record.rollout.as_ref().filter(|r| r.is_open()) else {
            return false;
        };
        let in_batch =
            (rollout.batch.iter()).any(|b| b.instances.contains(&member.id) || b.fresh.contains(&member.id));
        let is_concerned = (rollout.only.as_ref()).is_none_or(|only| only.contains(&member.id));
        let target = self.s.record.revision(rollout.target);
        let is_outdated = target.is_some_and(|t| t.hash != member.instance.meta.model_hash);
        in_batch || rollout.is_active() && is_concerned && is_outdated
    }

    /// Whether an instance out of sight still answers as it should: a probe over the network, or a load balancer's check.
    /// Without either nobody can know.
    fn serves(&self, id: InstanceId) -> bool {
        let over_network = matches!(self.s.set.health.probe, Probe::Tcp { .. } | Probe::Http { .. });
        let answers = |v: &Vital| v.sign == Sign::Healthy || v.good > 0;
        over_network && self.vital(id).is_some_and(answers) || self.seen_up.contains(&id)
    }

    /// Whether its last answer says nothing of it, since over the network or through its agent it could not be asked.
    fn is_unheard(&self, id: InstanceId) -> bool {
        let last = self
            .vital(id)
            .filter(|v| v.unsure > 0)
            .and_then(|v| v.last.as_ref());
        last.is_some_and(|answer| answer.judgement() == Judgement::Unknown)
    }

    fn is_off_on_purpose(&self, id: InstanceId) -> bool {
        self.s.record.known.get(&id).is_some_and(|k| k.stopped)
    }

    /// The revision of that number. A store that was made again may not know it: then the current one has to do.
    fn own_revision(&self, number: u32) -> &'a Revision {
        let record = self.s.record;
        record.revision(number).unwrap_or_else(|| record.current())
    }

    fn vital(&self, id: InstanceId) -> Option<&'a Vital> {
        self.s.record.vitals.get(&id)
    }

    fn total(&self) -> usize {
        self.fleet.members.len() + self.fleet.absent.len()
    }

    fn look_again_at(&mut self, at: Timestamp) {
        self.turn.again = Some(self.turn.again.map_or(at, |other| other.min(at)));
    }
}
