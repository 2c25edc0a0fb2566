//! Which instances take clients, and what has to wait until nobody is sent to an instance any more.
//!
//! - An instance is in when its probe says healthy. It leaves before anything is done to it that takes it away: it takes no
//!   new clients, those it has may end (AWS's connection draining), at zero connections or at the deadline it is done.
//! - What is not healthy is out. If nobody would be left, what is unhealthy stays in, and the balancer's own check decides:
//!   then it is likelier that vmss can't tell than that nobody serves (AWS's fail open).
//! - An instance on a host out of sight stays as it is: a host that does not answer is not a dead host.
//! - What a load balancer that can't be seen has is not waited for as long as another can; with none in sight, nothing that
//!   serves is taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::addresses::{self, Choice};
use crate::health::{Sign, State, Vital, later};
use crate::inventory::{Phase, Power, Rework};
use crate::membership::{BalancerView, Duty, Membership, Server, ServerSeen, Sight};
use crate::names::{InstanceId, Label, instance_name};
use crate::plan::action::{Action, Step};
use crate::plan::report::{Ailing, Wait};
use crate::plan::{Fleet, Member, Situation};
use crate::record::Life;

/// How often is looked whether the connections of those that leave have ended.
const LOOK: Duration = Duration::from_secs(1);
/// The same for the first moments: connections of HTTP end at once.
const FIRST_LOOK: Duration = Duration::from_millis(200);

/// How long a load balancer may take to send those elsewhere that it was just connecting to an instance that has died: until
/// a connection that nobody accepts counts as failed, and a little more.
const ELSEWHERE: Duration = Duration::from_secs(5);

/// The most that a weight can be.
const FULL_WEIGHT: u32 = 100;

/// How an instance's leave ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Which.
    pub instance: InstanceId,
    /// Connections it still had at the deadline, which are closed; zero: it had none left. `None`: nobody could be asked.
    pub connections: Option<u64>,
    /// How long it took.
    #[serde(serialize_with = "crate::units::seconds")]
    pub after: Duration,
}

/// Whether something may be done to an instance that takes it from its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// Now: nobody is connected to it, or they had their time.
    Free {
        /// Connections that are closed by it.
        connections: u64,
    },
    /// Not yet.
    Held {
        /// Connections it has, as far as that is known.
        connections: u64,
        /// When they have had their time.
        until: Timestamp,
        /// When to look again.
        again: Timestamp,
    },
    /// Not as things are: nobody can be told to send it no clients.
    Barred,
}

/// What may be done now of what a plan wants to do, and what waits.
#[derive(Default)]
pub(super) struct Gate {
    /// Steps that may be done now.
    pub steps: Vec<Step>,
    /// Those that may not yet, or not as things are.
    pub held_steps: Vec<Step>,
    /// Instances that are leaving, or that are done with leaving and are about to be acted on.
    pub leaving: BTreeSet<InstanceId>,
    /// Of those, the ones that are done with it.
    pub left: Vec<Left>,
    /// What is waited on.
    pub waits: Vec<Wait>,
    /// When to look again.
    pub again: Option<Timestamp>,
    held: Vec<(InstanceId, u64, Timestamp)>,
    barred: BTreeSet<InstanceId>,
}

/// Holds back what may not be done yet. `also` are instances that something else waits to act on.
pub(super) fn gate(
    s: Situation<'_>,
    fleet: &Fleet<'_>,
    steps: Vec<Step>,
    also: &BTreeSet<InstanceId>,
) -> Gate {
    let mut gate = Gate::default();
    let mut waiting: BTreeSet<Label> = BTreeSet::new();
    for step in steps {
        let member = (step.action.instance())
            .filter(|_| step.action.takes_away())
            .and_then(|id| fleet.member(id));
        if member.is_none_or(|member| gate.pass(s, member)) {
            gate.steps.push(step);
        } else {
            waiting.insert(step.host.clone());
            gate.held_steps.push(step);
        }
    }
    // Where an instance stays for a while, what it is backed by and reads stays too.
    let is_sweep =
        |action: &Action| matches!(action, Action::DeleteVolume { .. } | Action::DeleteImage { .. });
    gate.steps
        .retain(|step| !(is_sweep(&step.action) && waiting.contains(&step.host)));
    for member in also.iter().filter_map(|id| fleet.member(*id)) {
        gate.pass(s, member);
    }
    gate.conclude();
    gate
}

impl Gate {
    /// Whether a member may be acted on now.
    fn pass(&mut self, s: Situation<'_>, member: &Member<'_>) -> bool {
        let id = member.id;
        match passage(s, member) {
            Passage::Free { connections } => {
                if let Some(since) = s.record.leaving.get(&id)
                    && self.leaving.insert(id)
                {
                    let after = Duration::try_from(s.now.duration_since(*since)).unwrap_or_default();
                    let asked = s.set.load_balancer.is_some();
                    self.left.push(Left {
                        instance: id,
                        connections: asked.then_some(connections),
                        after,
                    });
                }
                true
            }
            Passage::Held {
                connections,
                until,
                again,
            } => {
                if self.leaving.insert(id) {
                    self.held.push((id, connections, until));
                    self.again = Some(self.again.map_or(again, |other| other.min(again)));
                }
                false
            }
            Passage::Barred => {
                self.barred.insert(id);
                false
            }
        }
    }

    fn conclude(&mut self) {
        if let Some(until) = self.held.iter().map(|(_, _, until)| *until).max() {
            self.waits.push(Wait::Leaving {
                instances: self.held.iter().map(|(id, _, _)| *id).collect(),
                connections: self.held.iter().map(|(_, connections, _)| connections).sum(),
                until,
            });
        }
        if !self.barred.is_empty() {
            self.waits.push(Wait::NotTakenAway {
                instances: self.barred.iter().copied().collect(),
            });
        }
    }
}

/// Steps that somebody asked for and no plan would make, as far as they may be done now.
#[derive(Debug, Default)]
pub struct Release {
    /// Those that may be done now.
    pub steps: Vec<Step>,
    /// Those that wait until nobody is connected to their instances, or can't be done as things are.
    pub held: Vec<Step>,
    /// When to look again for them; `None`: waiting does not help.
    pub again: Option<Timestamp>,
    /// Who is to take clients meanwhile; `None` if nobody is to be told.
    pub membership: Option<Membership>,
    /// Instances that take no more clients: to be written down before they are told.
    pub leaving: BTreeSet<InstanceId>,
    /// Those that have left.
    pub left: Vec<Left>,
    /// What is waited on.
    pub waits: Vec<Wait>,
}

/// Decides which of `steps` may be done now.
pub fn release(s: Situation<'_>, steps: &[Step]) -> Release {
    let fleet = Fleet::of(s);
    let gate = gate(s, &fleet, steps.to_vec(), &BTreeSet::new());
    let membership = servers(s, &fleet, &gate);
    Release {
        held: gate.held_steps,
        steps: gate.steps,
        again: gate.again,
        membership,
        leaving: gate.leaving,
        left: gate.left,
        waits: gate.waits,
    }
}

/// Who takes clients while nothing is done to any instance; `None` if nobody is to be told.
pub fn at_rest(s: Situation<'_>) -> Option<Membership> {
    servers(s, &Fleet::of(s), &Gate::default())
}

/// The same, but that those the record has noted as leaving stay out: whoever noted them will go on with it.
pub fn as_noted(s: Situation<'_>) -> Option<Membership> {
    let gate = Gate {
        leaving: s.record.leaving.keys().copied().collect(),
        ..Gate::default()
    };
    servers(s, &Fleet::of(s), &gate)
}

/// Whether a member may be taken from its clients now.
pub(super) fn passage(s: Situation<'_>, member: &Member<'_>) -> Passage {
    if !s.experience.balancers.is_empty() && is_kept(s, member) {
        // Who would take its place may never get in.
        return Passage::Barred;
    }
    match (through_balancers(s, member), through_files(s, member)) {
        (Passage::Barred, _) | (_, Passage::Barred) => Passage::Barred,
        (free @ Passage::Free { .. }, Passage::Free { .. }) => free,
        (Passage::Free { .. }, held) | (held, Passage::Free { .. }) => held,
        (
            Passage::Held {
                connections,
                until,
                again,
            },
            Passage::Held {
                until: other,
                again: sooner,
                ..
            },
        ) => Passage::Held {
            connections,
            until: until.max(other),
            again: again.min(sooner),
        },
    }
}

/// Whether a member is kept where its clients can't be sent elsewhere: it serves them, and the set is not on its way out.
fn is_kept(s: Situation<'_>, member: &Member<'_>) -> bool {
    let vital = s.record.vitals.get(&member.id);
    let may_serve = match member.state {
        State::Healthy => true,
        // It was well, and nobody knows otherwise.
        State::Unknown => vital.is_some_and(Vital::is_or_was_well),
        _ => false,
    };
    may_serve && s.record.life != Life::Deleting
}

/// Since when a member has been leaving: what has not been healthy has been out since then.
fn leaving_since(s: Situation<'_>, member: &Member<'_>) -> Timestamp {
    let unhealthy = (s.record.vitals.get(&member.id))
        .filter(|v| v.sign == Sign::Unhealthy)
        .map(|v| v.since);
    let noted = s.record.leaving.get(&member.id).copied();
    [noted, unhealthy].into_iter().flatten().min().unwrap_or(s.now)
}

fn through_balancers(s: Situation<'_>, member: &Member<'_>) -> Passage {
    let free = |connections| Passage::Free { connections };
    let Some(rules) = &s.set.load_balancer else {
        return free(0);
    };
    let seen: Vec<&BalancerView> = s
        .inventory
        .balancers
        .iter()
        .filter(|b| b.seen().is_some())
        .collect();
    if seen.is_empty() {
        return if is_kept(s, member) {
            Passage::Barred
        } else {
            free(0)
        };
    }
    let servers: Vec<&ServerSeen> = seen.iter().flat_map(|b| b.servers_of(member.id)).collect();
    let connections = servers.iter().map(|server| server.connections).sum();
    let is_out = servers.iter().all(|server| !server.is_in);
    if is_out && connections == 0 {
        return free(0);
    }
    let since = leaving_since(s, member);
    let drain = match member.instance.power {
        Power::Running => rules.drain,
        // What does not run serves nobody: those that are just being connected to it are sent to another.
        _ => rules.drain.min(ELSEWHERE),
    };
    let until = later(since, drain);
    if is_out && until <= s.now {
        return free(connections);
    }
    let soon = if later(since, LOOK) > s.now {
        FIRST_LOOK
    } else {
        LOOK
    };
    let again = later(s.now, soon);
    // Past its time it is only waited for until it is out.
    Passage::Held {
        connections,
        until,
        again: if until > s.now { again.min(until) } else { again },
    }
}

/// Nobody can be asked how many connections those have that were led here by a file.
fn through_files(s: Situation<'_>, member: &Member<'_>) -> Passage {
    let drain = (s.set.discovery.iter())
        .filter(|file| file.format.leads_traffic())
        .map(|file| file.drain)
        .max();
    let is_noted = s.record.leaving.contains_key(&member.id);
    let until = later(leaving_since(s, member), drain.unwrap_or_default());
    let is_new = member.state == State::Healthy && !is_noted;
    match drain {
        _ if member.instance.power != Power::Running => Passage::Free { connections: 0 },
        // First it has to be out of the file.
        Some(_) if is_new || until > s.now => {
            let again = if is_new { s.now } else { until };
            Passage::Held {
                connections: 0,
                until,
                again,
            }
        }
        _ => Passage::Free { connections: 0 },
    }
}

/// Who takes clients, if anybody is to be told; what the gate has let pass is about to be done.
pub(super) fn servers(s: Situation<'_>, fleet: &Fleet<'_>, gate: &Gate) -> Option<Membership> {
    if !s.set.is_served() {
        return None;
    }
    let taken: BTreeSet<InstanceId> = (gate.steps.iter())
        .filter(|step| step.action.takes_away())
        .filter_map(|step| step.action.instance())
        .collect();
    let weights = weights(s, fleet);
    let choice = addresses::of_set(s.set, s.record, s.inventory);
    let mut servers: Vec<Server> = Vec::new();
    for member in &fleet.members {
        let Ok(address) = choice.serve_at(member.id) else {
            continue;
        };
        let id = member.id;
        let duty = if taken.contains(&id) {
            Duty::Cut
        } else if gate.leaving.contains(&id) {
            Duty::Out
        } else {
            duty(s, member)
        };
        servers.push(Server {
            id,
            name: instance_name(&s.set.name, id),
            fault_domain: s.set.fault_domains[member.domain].name.clone(),
            host: member.host.clone(),
            revision: Some(member.instance.meta.revision),
            address,
            weight: share(&weights, id),
            state: member.state,
            duty,
        });
    }
    servers.extend(hidden(s, fleet, &weights, &choice));
    servers.sort_by_key(|server| server.id);
    fail_open(&mut servers, |id| gate.leaving.contains(&id));
    Some(Membership { servers })
}

/// What a member that nothing is done to has to do.
fn duty(s: Situation<'_>, member: &Member<'_>) -> Duty {
    let meta = &member.instance.meta;
    let is_running = member.instance.power == Power::Running;
    // A live change takes nobody's instance away.
    let is_live = meta.phase == Phase::Changing && meta.rework == Some(Rework::Live);
    let vital = s.record.vitals.get(&member.id);
    let sign = vital.map(|v| v.sign);
    match member.state {
        _ if meta.moving_to.is_some() => Duty::Out,
        State::Healthy => Duty::In,
        // What can't be asked stays as it was: the balancer's own check tells better.
        State::Unknown if vital.is_some_and(Vital::is_or_was_well) => Duty::In,
        State::Starting if is_live && is_running && sign.is_none_or(|sign| sign == Sign::Healthy) => Duty::In,
        // Also what does not run: closing would hit those that are just being connected to it, and can be sent to another.
        _ => Duty::Out,
    }
}

/// If nobody would take clients, those that run and are not well do: the balancer's own check tells better.
fn fail_open(servers: &mut [Server], is_leaving: impl Fn(InstanceId) -> bool) {
    if servers.iter().any(|server| server.duty.is_in()) {
        return;
    }
    let last = servers
        .iter_mut()
        .filter(|s| s.duty == Duty::Out && s.state == State::Unhealthy && !is_leaving(s.id));
    last.for_each(|server| server.duty = Duty::In);
}

/// Those on hosts out of sight: in if they were, or were well when they were last heard of.
fn hidden(
    s: Situation<'_>,
    fleet: &Fleet<'_>,
    weights: &BTreeMap<InstanceId, u32>,
    choice: &Choice,
) -> Vec<Server> {
    let in_somewhere = seen_in(s, |_| true);
    let one = |absent: &super::fleet::Absent| {
        let known = s.record.known.get(&absent.id)?;
        let address = choice.serve_at(absent.id).ok()?;
        let was_in = in_somewhere.contains(&absent.id);
        let vital = s.record.vitals.get(&absent.id);
        let is_well = vital.is_some_and(Vital::is_or_was_well);
        Some(Server {
            id: absent.id,
            name: instance_name(&s.set.name, absent.id),
            fault_domain: known.fault_domain.clone(),
            host: known.host.clone(),
            revision: known.revision,
            address,
            weight: share(weights, absent.id),
            state: State::Unknown,
            duty: if (was_in || is_well) && !known.stopped {
                Duty::In
            } else {
                Duty::Out
            },
        })
    };
    fleet.absent.iter().filter_map(one).collect()
}

/// Shares by size: who has fewer virtual CPUs than the largest gets fewer clients.
fn weights(s: Situation<'_>, fleet: &Fleet<'_>) -> BTreeMap<InstanceId, u32> {
    let seen = fleet
        .members
        .iter()
        .map(|m| (m.id, Some(m.instance.meta.revision)));
    let all = seen.chain(fleet.absent.iter().map(|a| (a.id, a.revision)));
    let sizes: Vec<(InstanceId, u32)> = all
        .filter_map(|(id, revision)| Some((id, s.record.revision(revision?)?.model.vcpus)))
        .collect();
    let largest = sizes.iter().map(|(_, vcpus)| *vcpus).max().unwrap_or(1).max(1);
    let share = |vcpus: u32| (vcpus.saturating_mul(FULL_WEIGHT) / largest).max(1);
    sizes.into_iter().map(|(id, vcpus)| (id, share(vcpus))).collect()
}

/// An instance's share; of one whose size nobody knows, a full one.
fn share(weights: &BTreeMap<InstanceId, u32>, id: InstanceId) -> u32 {
    weights.get(&id).copied().unwrap_or(FULL_WEIGHT)
}

/// What is not as it should be with who takes clients, and until when those that are starting are waited for.
pub(super) fn joining(
    s: Situation<'_>,
    fleet: &Fleet<'_>,
    servers: Option<&Membership>,
) -> (Vec<Wait>, Option<Timestamp>) {
    let mut waits = balancer_waits(s);
    let Some(servers) = servers.filter(|_| s.record.life == Life::Wanted) else {
        return (waits, None);
    };
    let duties: BTreeMap<InstanceId, Duty> = (servers.servers.iter())
        .map(|server| (server.id, server.duty))
        .collect();
    // What claims addresses that it may not have is told as such.
    let choice = addresses::of_set(s.set, s.record, s.inventory);
    let is_lost =
        |m: &&Member<'_>| m.state == State::Healthy && !duties.contains_key(&m.id) && !choice.refuses(m.id);
    let lost = fleet.members.iter().filter(is_lost);
    let lost: Vec<InstanceId> = lost.map(|m| m.id).collect();
    if !lost.is_empty() {
        waits.push(Wait::NoAddressKnown { instances: lost });
    }
    let is_in = |id: InstanceId| duties.get(&id).is_some_and(|duty| duty.is_in());
    let (mut starting, mut out) = (Vec::new(), Vec::new());
    for member in fleet.members.iter().filter(|m| !is_in(m.id)) {
        let is_whole = member.instance.meta.phase == Phase::Ready && member.instance.power == Power::Running;
        match member.state {
            State::Starting if is_whole => starting.push(Ailing::of(s, member)),
            State::Unhealthy => out.push(Ailing::of(s, member)),
            _ => {}
        }
    }
    let again = (!starting.is_empty()).then(|| later(s.now, s.set.health.interval));
    if !starting.is_empty() {
        waits.push(Wait::Joining { instances: starting });
    }
    if !out.is_empty() {
        waits.push(Wait::NotServing { instances: out });
    }
    (waits, again)
}

/// Load balancers that could not be seen, or did not do what they were told.
fn balancer_waits(s: Situation<'_>) -> Vec<Wait> {
    let mut waits = Vec::new();
    for balancer in &s.inventory.balancers {
        if let Sight::Unseen { reason } = &balancer.sight {
            waits.push(Wait::BalancerUnseen {
                balancer: balancer.name.clone(),
                reason: reason.clone(),
            });
        }
    }
    for (balancer, error) in s.experience.balancers.iter().chain(&s.experience.bystanders) {
        waits.push(Wait::BalancerFailed {
            balancer: balancer.clone(),
            error: error.clone(),
        });
    }
    for (balancer, error) in &s.experience.dropped {
        waits.push(Wait::DroppedUntold {
            balancer: balancer.clone(),
            error: error.clone(),
        });
    }
    waits
}

/// Instances that a load balancer sends clients to, and of which its server is as asked for.
fn seen_in(s: Situation<'_>, is_so: impl Fn(&ServerSeen) -> bool) -> BTreeSet<InstanceId> {
    let seen = s.inventory.balancers.iter().filter_map(BalancerView::seen);
    let servers = seen.flat_map(|b| &b.servers);
    (servers.filter(|server| server.is_in && is_so(server)))
        .map(|server| server.id)
        .collect()
}

/// Instances that a load balancer which sends clients to them finds down by its own check.
pub(super) fn seen_down(s: Situation<'_>) -> BTreeSet<InstanceId> {
    seen_in(s, |server| server.up == Some(false))
}

/// Instances that a load balancer's own check finds up: they may be out of vmss's sight, and serve.
pub(super) fn seen_up(s: Situation<'_>) -> BTreeSet<InstanceId> {
    seen_in(s, |server| server.up == Some(true))
}
