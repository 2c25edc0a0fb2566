//! What holds at every step of random rollouts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;

use super::action::{Action, Step};
use super::forecast::obey;
use super::report::Wait;
use super::testing::{DRAWN, at, cases, label, load_balancer};
use super::upgrade_tests::{Show, new_image};
use super::{Experience, Fleet, Lesson, Plan, Situation, plan};
use crate::health::{Sign, State};
use crate::inventory::{HostView, Instance, Phase, Power, Protection, Rework, View};
use crate::membership::{BalancerSeen, BalancerView, Duty, Membership, ServerSeen, Sight};
use crate::names::InstanceId;
use crate::record::Cordon;
use crate::rollout::RolloutState;
use crate::scaleset::{Amount, Method, OnFailure, Upgrade};

/// Random rules, sets and guests.
fn rules() -> impl Strategy<Value = Upgrade> {
    let amount = |least: u32| {
        prop_oneof![
            (least..4).prop_map(Amount::Count),
            (10u32..60).prop_map(Amount::Percent)
        ]
    };
    let method = prop_oneof![Just(Method::Auto), Just(Method::Reimage), Just(Method::Replace)];
    (
        amount(1),
        0u32..3,
        amount(0),
        method,
        any::<bool>(),
        any::<bool>(),
        0u64..3,
    )
        .prop_map(
            |(max_batch, surge, max_unavailable, method, rollback, broken_first, pause)| {
                let method = if surge > 0 && method == Method::Reimage {
                    Method::Auto
                } else {
                    method
                };
                let surge = if surge == 0 && max_unavailable.is_zero() {
                    1
                } else {
                    surge
                };
                let method = if surge > 0 && max_unavailable.is_zero() && method == Method::Reimage {
                    Method::Replace
                } else {
                    method
                };
                Upgrade {
                    method,
                    max_batch,
                    max_surge: Amount::Count(surge),
                    max_unavailable,
                    prioritize_unhealthy: broken_first,
                    pause: Duration::from_secs(pause * 20),
                    on_failure: if rollback {
                        OnFailure::Rollback
                    } else {
                        OnFailure::Stop
                    },
                    ..Upgrade::default()
                }
            },
        )
}

#[derive(Clone, Debug)]
struct Plot {
    instances: Vec<u64>,
    rules: Upgrade,
    sick: Vec<u64>,
    breaks: bool,
    protected: Vec<u64>,
    killed_at: Vec<usize>,
}

fn plots() -> impl Strategy<Value = Plot> {
    (
        prop::collection::vec(0u64..4, 1..4),
        rules(),
        prop::collection::vec(1u64..10, 0..3),
        prop::bool::weighted(0.3),
        prop::collection::vec(1u64..10, 0..2),
        prop::collection::vec(0usize..30, 0..4),
    )
        .prop_map(|(instances, rules, sick, breaks, protected, killed_at)| Plot {
            instances,
            rules,
            sick,
            breaks,
            protected,
            killed_at,
        })
}

proptest! {
    #![proptest_config(cases(10_000))]

    /// Whatever the rules, the set and its guests: a rollout ends or says what it waits on; at no look are fewer healthy
    /// than the budget allows on the rollout's account, or more there than surge allows; what is protected is left alone;
    /// a process that is killed and started again (its experience is lost) changes nothing of that; planning again after
    /// the end is empty.
    #[test]
    fn a_rollout_keeps_its_promises_at_every_step(plot in plots()) {
        let mut show = Show::new(&plot.instances, plot.rules.clone(), new_image);
        let there: Vec<u64> = show.scene.inventory.instances().map(|i| i.id.0).collect();
        show.guests.sick = plot.sick.iter().copied().filter(|id| there.contains(id)).map(InstanceId).collect();
        if plot.breaks {
            show.guests.broken_revisions = vec![2];
        }
        for id in &plot.protected {
            for host in &mut show.scene.inventory.hosts {
                if let crate::inventory::View::Seen(seen) = &mut host.view {
                    for i in seen.instances.iter_mut().filter(|i| i.id.0 == *id) {
                        i.meta.protection = Protection::All;
                    }
                }
            }
        }
        for _ in 0..3 {
            show.answer();
            show.now += 5;
        }
        let capacity = show.scene.record.capacity as usize;
        let unavailable = plot.rules.max_unavailable.of(capacity);
        let surge = plot.rules.max_surge.of(capacity);
        let sick = show.guests.sick.len();
        let mut looks = 0;
        loop {
            if plot.killed_at.contains(&looks) {
                show.scene.experience = Experience::default();
            }
            looks += 1;
            prop_assert!(looks < 5000, "it goes on for ever: {:?}", show.acts.last());
            let domains = |show: &Show| -> Option<usize> {
                let batch = show.scene.record.rollout.as_ref()?.batch.as_ref()?;
                let on: std::collections::BTreeSet<&str> = (show.scene.inventory.hosts.iter())
                    .filter(|h| h.seen().is_some_and(|s| s.instances.iter().any(|i| batch.instances.contains(&i.id))))
                    .map(|h| h.name.as_str())
                    .collect();
                Some(on.len())
            };
            let going = show.step();
            prop_assert!(domains(&show).unwrap_or(0) <= 1, "a batch spans two fault domains");
            if !going { break; }
        }
        prop_assert!(
            show.fewest_healthy + unavailable + sick + usize::from(plot.breaks) * capacity >= capacity,
            "{} healthy of {capacity}, {unavailable} may be missing, {sick} were sick", show.fewest_healthy
        );
        prop_assert!(show.most_present <= capacity + surge, "{} of {capacity} + {surge}", show.most_present);
        for host in &show.scene.inventory.hosts {
            for i in &host.seen().unwrap().instances {
                if i.meta.protection == Protection::All {
                    prop_assert_eq!(i.meta.revision, 1, "a protected instance was changed");
                }
            }
        }
        let count = show.scene.inventory.instances().count();
        let stopped = matches!(show.state(), RolloutState::Stopped { .. });
        prop_assert!(
            count == capacity || stopped && (capacity..=capacity + surge).contains(&count),
            "{count} where {capacity} are wanted"
        );
        let last = show.plan();
        prop_assert!(last.steps.is_empty() && last.rollout.is_none(), "planning again is not empty: {:?}", last.steps);
        let protected = |i: &crate::inventory::Instance| i.meta.protection == Protection::All;
        match show.state() {
            RolloutState::Done => {
                prop_assert!(show.scene.inventory.instances().all(|i| i.meta.revision == 2 || protected(i)));
            }
            RolloutState::RolledBack { .. } => {
                prop_assert!(show.scene.inventory.instances().all(|i| i.meta.revision == 1));
            }
            RolloutState::Stopped { reason } => prop_assert!(!reason.is_empty()),
            other => prop_assert!(false, "it neither ended nor stopped: {other:?}, {:?}", last.report.waits),
        }
    }
}

// --- a world in which things go wrong --------------------------------------------------------------------------------

/// Something that happens while a rollout is under way.
#[derive(Clone, Debug)]
enum Event {
    Sick(u64),
    Off(u64),
    Stopped(u64),
    Protected(u64),
    Unprotected(u64),
    Lost(usize),
    Found(usize),
    Scaled(u32),
    /// That step of the next batch fails, half done.
    Fails(usize),
    /// The process dies while that step of the next batch is half done.
    Cut(usize),
    Paused,
    Resumed,
    RolledBack,
    /// A host is drained, its instances moved as they run or not.
    Drained(usize, bool),
    Uncordoned(usize),
    /// A load balancer answers nobody any more, or again.
    BalancerLost(usize),
    BalancerFound(usize),
}

fn events() -> impl Strategy<Value = Event> {
    let some = || 1u64..9;
    prop_oneof![
        3 => some().prop_map(Event::Sick),
        2 => some().prop_map(Event::Off),
        1 => some().prop_map(Event::Stopped),
        1 => some().prop_map(Event::Protected),
        1 => some().prop_map(Event::Unprotected),
        2 => (0usize..6).prop_map(Event::Lost),
        2 => (0usize..6).prop_map(Event::Found),
        2 => (0u32..9).prop_map(Event::Scaled),
        2 => (0usize..4).prop_map(Event::Fails),
        3 => (0usize..4).prop_map(Event::Cut),
        1 => Just(Event::Paused),
        1 => Just(Event::Resumed),
        1 => Just(Event::RolledBack),
        2 => (0usize..3, any::<bool>()).prop_map(|(host, migrate)| Event::Drained(host, migrate)),
        1 => (0usize..3).prop_map(Event::Uncordoned),
        1 => (0usize..2).prop_map(Event::BalancerLost),
        1 => (0usize..2).prop_map(Event::BalancerFound),
    ]
}

/// How many looks after which of the others, and what.
type Happenings = Vec<(usize, Event)>;

fn happenings() -> impl Strategy<Value = Happenings> {
    prop::collection::vec((0usize..6, events()), 1..7)
}

struct World {
    show: Show,
    rules: Upgrade,
    away: BTreeMap<usize, HostView>,
    next: Option<(usize, bool)>,
    most_capacity: usize,
    was_drained: bool,
    /// Those that were protected or stopped at some time.
    spared: BTreeSet<InstanceId>,
    balancers: Vec<Balancer>,
}

/// A load balancer with its servers: whether each takes clients, and how many it has.
#[derive(Clone, Debug, Default)]
struct Balancer {
    lost: bool,
    servers: BTreeMap<InstanceId, (bool, u64)>,
}

/// How long those that leave may keep their clients.
const DRAIN: i64 = 30;

impl Balancer {
    fn view(&self, name: usize) -> BalancerView {
        let server = |(id, (is_in, connections)): (&InstanceId, &(bool, u64))| ServerSeen {
            frontend: label("http"),
            id: *id,
            address: None,
            is_in: *is_in,
            up: is_in.then_some(true),
            weight: 100,
            connections: *connections,
            limit: 0,
            queue: 0,
            requests: 0,
            errors: 0,
            latency: None,
            last_check: String::new(),
        };
        BalancerView {
            name: name.to_string(),
            sight: if self.lost {
                Sight::Unseen {
                    reason: "connection refused".into(),
                }
            } else {
                let servers = self.servers.iter().map(server).collect();
                Sight::Seen(BalancerSeen {
                    version: Some("2.6".into()),
                    servers,
                    queue: 0,
                })
            },
        }
    }

    /// Does what it is told. Whoever takes clients has some; those of one instance in four never go by themselves.
    fn bring(&mut self, wanted: &Membership) {
        if self.lost {
            return;
        }
        let before = std::mem::take(&mut self.servers);
        for server in &wanted.servers {
            let had = before.get(&server.id).map_or(0, |(_, connections)| *connections);
            let connections = match server.duty {
                Duty::In => 1 + server.id.0 % 3,
                Duty::Out if server.id.0 % 4 == 0 => had,
                Duty::Out => had.saturating_sub(1),
                Duty::Cut => 0,
            };
            self.servers
                .insert(server.id, (server.duty == Duty::In, connections));
        }
    }
}

impl World {
    fn new(instances: &[u64], rules: &Upgrade) -> Self {
        let mut show = Show::new(instances, rules.clone(), new_image);
        show.scene.set.upgrade = rules.clone();
        Self {
            most_capacity: show.scene.record.capacity as usize,
            show,
            rules: rules.clone(),
            away: BTreeMap::new(),
            next: None,
            was_drained: false,
            spared: BTreeSet::new(),
            balancers: Vec::new(),
        }
    }

    /// Puts the set behind so many load balancers.
    fn behind(&mut self, balancers: usize) {
        self.balancers = vec![Balancer::default(); balancers];
        if balancers > 0 {
            self.show.scene.set.load_balancer =
                Some(load_balancer(Duration::from_secs(DRAIN.unsigned_abs())));
        }
    }

    /// What is seen beside the hosts.
    fn look(&mut self) {
        let inventory = &mut self.show.scene.inventory;
        let home =
            |id: InstanceId| vec![Ipv4Addr::from(0x0a00_0000 + u32::try_from(id.0).unwrap_or(0)).into()];
        inventory.reached = inventory.instances().map(|i| (i.id, home(i.id))).collect();
        inventory.balancers = self
            .balancers
            .iter()
            .enumerate()
            .map(|(n, b)| b.view(n))
            .collect();
        self.show.look();
    }

    fn instance(&mut self, id: u64) -> Option<&mut Instance> {
        let hosts = self.show.scene.inventory.hosts.iter_mut();
        let seen = hosts.filter_map(|h| match &mut h.view {
            View::Seen(seen) => Some(seen),
            View::Unseen { .. } => None,
        });
        seen.flat_map(|s| s.instances.iter_mut())
            .find(|i| i.id == InstanceId(id) && i.meta.phase == Phase::Ready)
    }

    fn happens(&mut self, event: &Event) {
        self.was_drained |= matches!(event, Event::Drained(..));
        if let Event::Stopped(id) | Event::Protected(id) = *event {
            self.spared.insert(InstanceId(id));
        }
        match *event {
            Event::Sick(id) => self.show.guests.sick.push(InstanceId(id)),
            Event::Off(id) => {
                if let Some(i) = self.instance(id) {
                    i.power = Power::Off;
                }
            }
            Event::Stopped(id) => {
                if let Some(i) = self.instance(id) {
                    (i.power, i.meta.stopped) = (Power::Off, true);
                }
            }
            Event::Protected(id) => {
                if let Some(i) = self.instance(id) {
                    i.meta.protection = Protection::All;
                }
            }
            Event::Unprotected(id) => {
                if let Some(i) = self.instance(id) {
                    i.meta.protection = Protection::None;
                }
            }
            Event::Lost(at) => {
                let hosts = &mut self.show.scene.inventory.hosts;
                if let Some(host) = hosts.get_mut(at).filter(|h| h.seen().is_some()) {
                    self.away.insert(at, host.clone());
                    let reason = "connection refused".to_owned();
                    host.view = View::Unseen { reason };
                }
            }
            Event::Found(at) => {
                if let Some(host) = self.away.remove(&at) {
                    self.show.scene.inventory.hosts[at] = host;
                }
            }
            Event::Scaled(to) => {
                self.show.scene.record.capacity = to;
                self.most_capacity = self.most_capacity.max(to as usize);
            }
            Event::Drained(at, migrate) => {
                let cordon = Cordon {
                    by: "ann".into(),
                    at: super::testing::at(self.show.now),
                    drain: true,
                    migrate,
                };
                if let Some(host) = self.show.scene.inventory.hosts.get(at) {
                    self.show.scene.record.cordons.insert(host.name.clone(), cordon);
                }
            }
            Event::Uncordoned(at) => {
                if let Some(host) = self.show.scene.inventory.hosts.get(at) {
                    self.show.scene.record.cordons.remove(&host.name);
                }
            }
            Event::BalancerLost(at) => {
                if let Some(balancer) = self.balancers.get_mut(at) {
                    balancer.lost = true;
                }
            }
            Event::BalancerFound(at) => {
                if let Some(balancer) = self.balancers.get_mut(at) {
                    balancer.lost = false;
                }
            }
            Event::Fails(at) => self.next = Some((at, false)),
            Event::Cut(at) => self.next = Some((at, true)),
            Event::Paused => {
                let rollout = self.show.rollout();
                if rollout.state == RolloutState::Running {
                    rollout.state = RolloutState::Paused { by: "ann".into() };
                }
            }
            Event::Resumed => {
                let now = at(self.show.now);
                let rollout = self.show.rollout();
                if rollout.is_open() && !rollout.is_active() {
                    rollout.state = RolloutState::Running;
                    if let Some(batch) = &mut rollout.batch {
                        batch.began = now;
                    }
                    (rollout.rested_since, rollout.hold_until) = (None, None);
                }
            }
            Event::RolledBack => {
                let rollout = self.show.rollout();
                if !matches!(rollout.state, RolloutState::RollingBack { .. }) {
                    let from = rollout.from;
                    rollout.turn_back("asked for".into());
                    self.show.scene.record.current = Some(from);
                }
            }
        }
    }

    /// One look, one plan that keeps every promise, and what comes of it. Whether there was anything to do or wait for.
    fn step(&mut self) -> Result<bool, TestCaseError> {
        self.look();
        let next = self.show.plan();
        self.keeps_its_promises(&next)?;
        self.nobody_loses_an_instance_that_serves_them(&next)?;
        self.show
            .scene
            .record
            .note_leaving(&next.leaving, at(self.show.now));
        if let Some(membership) = &next.membership {
            self.balancers.iter_mut().for_each(|b| b.bring(membership));
        }
        let record = &mut self.show.scene.record;
        let seen = record.rollout.clone();
        let steered = next.rollout.is_some_and(|next| record.steer(seen.as_ref(), next));
        if let Some(repair) = next.repair {
            record.repair = repair;
        }
        if next.steps.is_empty() {
            if let Some(at) = next.again {
                self.show.now = self.show.now.max(at.as_second()).max(self.show.now + 1);
            }
            return Ok(steered || next.again.is_some());
        }
        record.reserve(&next.steps, DRAWN, at(self.show.now));
        let act = |s: &Step| {
            format!(
                "{}: {} {} ({})",
                s.host,
                s.action.verb(),
                s.action.subject(),
                s.why
            )
        };
        self.show.acts.push(next.steps.iter().map(act).collect());
        self.carry_out(&next.steps);
        self.show.now += 1;
        Ok(true)
    }

    fn carry_out(&mut self, steps: &[Step]) {
        let (bad, is_cut) = match self.next.take() {
            Some((at, is_cut)) => (at % steps.len(), is_cut),
            None => (steps.len(), false),
        };
        for (n, step) in steps.iter().enumerate() {
            if n == bad {
                self.do_half(step);
                if is_cut {
                    self.show.scene.experience = Experience::default();
                    return;
                }
                let lesson = Lesson::Failed("disk full".into());
                self.show.scene.experience.learn(step, lesson);
                continue;
            }
            self.obey(step);
        }
    }

    fn obey(&mut self, step: &Step) {
        if let Action::Rework { spec, .. } = &step.action {
            self.show.guests.sick.retain(|id| *id != spec.id);
        }
        let record = self.show.scene.record.clone();
        let model = |n| record.revision(n).map(|r| &r.model);
        obey(&mut self.show.scene.inventory, std::slice::from_ref(step), model);
        let made = step.action.created().map(|spec| spec.id);
        self.show.scene.record.confirm(made);
    }

    /// What a step leaves that breaks off in the middle.
    fn do_half(&mut self, step: &Step) {
        let (phase, rework) = match &step.action {
            Action::Create(_) => (Phase::Creating, None),
            Action::Rework { how, .. } => (Phase::Changing, Some(*how)),
            Action::Delete { .. } => (Phase::Deleting, None),
            _ => return,
        };
        if phase != Phase::Deleting {
            self.obey(step);
        }
        let id = step.action.instance().expect("these have one");
        if let (Phase::Creating, Some(known)) = (phase, self.show.scene.record.known.get_mut(&id)) {
            known.confirmed = false;
        }
        let hosts = self.show.scene.inventory.hosts.iter_mut();
        for host in hosts {
            if let View::Seen(seen) = &mut host.view {
                for i in seen.instances.iter_mut().filter(|i| i.id == id) {
                    (i.meta.phase, i.meta.rework) = (phase, rework);
                    if rework != Some(Rework::Live) {
                        i.power = Power::Off;
                    }
                }
            }
        }
    }

    /// Whatever takes an instance away: every load balancer that is seen has stopped to send clients to it, and those it had
    /// have ended, or had their time.
    fn nobody_loses_an_instance_that_serves_them(&self, next: &Plan) -> Result<(), TestCaseError> {
        let record = &self.show.scene.record;
        let now = self.show.now;
        for step in &next.steps {
            let takes_away = step.action.takes_away();
            let Some(id) = step.action.instance().filter(|_| takes_away) else {
                continue;
            };
            let runs = |i: &Instance| i.id == id && i.power == Power::Running && i.meta.phase == Phase::Ready;
            if !self.show.scene.inventory.instances().any(runs) {
                continue;
            }
            let since = record.leaving.get(&id).map_or(now, |at| at.as_second());
            let unhealthy = record
                .vitals
                .get(&id)
                .filter(|v| v.sign == Sign::Unhealthy)
                .map(|v| v.since.as_second());
            let had_its_time = since.min(unhealthy.unwrap_or(now)) + DRAIN <= now;
            for balancer in self.balancers.iter().filter(|b| !b.lost) {
                let (is_in, connections) = balancer.servers.get(&id).copied().unwrap_or_default();
                prop_assert!(!is_in, "{step:?} takes away an instance that takes clients");
                prop_assert!(
                    connections == 0 || had_its_time,
                    "{step:?} cuts {connections} connections"
                );
            }
            let blind = !self.balancers.is_empty() && self.balancers.iter().all(|b| b.lost);
            let healthy = record.vitals.get(&id).is_some_and(|v| v.sign == Sign::Healthy);
            prop_assert!(!(blind && healthy), "{step:?} though nobody can be told");
        }
        // Somebody takes clients as long as somebody is well and nothing is done to it.
        if let Some(membership) = &next.membership {
            let idle = |id: InstanceId| {
                !next.leaving.contains(&id) && !next.steps.iter().any(|s| s.action.instance() == Some(id))
            };
            for server in membership
                .servers
                .iter()
                .filter(|s| s.state == State::Healthy && idle(s.id))
            {
                prop_assert!(server.duty == Duty::In, "{server:?} is well and takes no clients");
            }
        }
        Ok(())
    }

    fn keeps_its_promises(&self, next: &Plan) -> Result<(), TestCaseError> {
        let scene = &self.show.scene;
        let now = at(self.show.now);
        let s = Situation {
            now,
            ..scene.situation()
        };

        let mut turned = scene.inventory.clone();
        turned.hosts.reverse();
        for host in &mut turned.hosts {
            if let View::Seen(seen) = &mut host.view {
                seen.instances.reverse();
            }
        }
        let again = plan(Situation {
            inventory: &turned,
            ..s
        });
        prop_assert_eq!(next, &again, "the order of input matters");

        let fleet = Fleet::of(s);
        let is_healthy = |id| fleet.member(id).is_some_and(|m| m.state == State::Healthy);
        let takes = |step: &&Step| step.action.disturbs();
        let taken: Vec<&Step> = next
            .steps
            .iter()
            .filter(takes)
            .filter(|step| step.action.instance().is_some_and(is_healthy))
            .collect();
        let capacity = scene.record.capacity as usize;
        let is_on_budget = |why: &str| why.starts_with("rollout batch") || why.ends_with("is being drained");
        if taken.iter().any(|step| is_on_budget(&step.why)) {
            let needed = fleet.needed(capacity, self.rules.max_unavailable.of(capacity));
            prop_assert!(
                fleet.healthy() - taken.len() >= needed,
                "{} are healthy, {needed} must be, and these are taken: {taken:#?}",
                fleet.healthy()
            );
        }

        // What is half deleted counts where the rollout adds to it; it keeps no one from bringing the set to its capacity.
        let there = fleet.members.len() + fleet.absent.len();
        let surge = self.rules.max_surge.of(self.most_capacity);
        // A drain has as many of its own, and one at least: it does not wait for a rollout that has stopped.
        let ahead = if self.was_drained { surge.max(1) } else { 0 };
        let most = self.most_capacity + surge + ahead;
        let added = (next.steps.iter())
            .filter(|s| s.action.created().is_some() && s.why.starts_with("rollout batch"))
            .count();
        let adding = if added > 0 { added + fleet.half } else { 0 };
        prop_assert!(
            there + adding <= most,
            "{there} are there, {adding} more are made or half gone, and {most} may be, after {:#?}",
            self.show.acts
        );

        for step in next.steps.iter().filter(takes) {
            let member = step.action.instance().and_then(|id| fleet.member(id));
            let is_spared = member.is_some_and(|m| {
                m.instance.meta.protection == Protection::All && m.instance.meta.phase == Phase::Ready
            });
            prop_assert!(!is_spared, "a protected instance is touched: {step:?}");
        }

        let rollout = next.rollout.as_ref().or(scene.record.rollout.as_ref());
        let target = rollout.map_or(0, |r| r.target);
        let batch = rollout.filter(|r| r.is_active()).and_then(|r| r.batch.as_ref());
        let domains: BTreeSet<usize> = (batch.iter().flat_map(|b| &b.instances))
            .filter_map(|id| fleet.member(*id))
            .filter(|m| m.instance.meta.revision != target && m.instance.meta.phase == Phase::Ready)
            .map(|m| m.domain)
            .collect();
        prop_assert!(domains.len() <= 1, "a batch spans {domains:?}");

        let ids: Vec<InstanceId> = scene.inventory.instances().map(|i| i.id).collect();
        let different: BTreeSet<&InstanceId> = ids.iter().collect();
        prop_assert_eq!(ids.len(), different.len(), "an id is there twice");
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(10_000))]

    /// Whatever goes wrong while a rollout is under way (instances break, are switched off, stopped, protected; hosts go
    /// out of sight and come back; steps fail half done and processes die in the middle; the set is scaled, the rollout
    /// paused, resumed, turned back, hosts drained, load balancers lost and found): every single plan keeps the health budget, the surge, protections and fault domains,
    /// and is the same whatever the order of its input; once all is quiet it ends, or says what it waits on, and planning
    /// again is empty.
    #[test]
    fn every_plan_keeps_its_promises_whatever_goes_wrong(
        instances in prop::collection::vec(0u64..4, 1..4),
        rules in rules(),
        breaks in prop::bool::weighted(0.2),
        happenings in happenings(),
        balancers in 0usize..3,
    ) {
        let mut world = World::new(&instances, &rules);
        world.behind(balancers);
        if breaks {
            world.show.guests.broken_revisions = vec![2];
        }
        for (looks, event) in &happenings {
            for _ in 0..*looks {
                if !world.step()? {
                    world.show.now += 5;
                }
            }
            world.happens(event);
        }
        for host in 0..3 {
            world.happens(&Event::Found(host));
        }
        for balancer in 0..2 {
            world.happens(&Event::BalancerFound(balancer));
        }
        world.happens(&Event::Resumed);
        // Another run, which knows nothing of what has failed, and fails no more.
        world.next = None;
        world.show.scene.experience = Experience::default();
        let mut looks = 0;
        while world.step()? {
            looks += 1;
            prop_assert!(looks < 3000, "it goes on for ever");
        }

        let show = &world.show;
        let last = show.plan();
        prop_assert!(last.steps.is_empty() && last.rollout.is_none(), "planning again is not empty: {:?}", last.steps);
        let waits = &last.report.waits;
        let target = show.scene.record.rollout.as_ref().unwrap().target;
        match show.state() {
            RolloutState::Done | RolloutState::RolledBack { .. } => {
                for i in show.scene.inventory.instances() {
                    prop_assert!(i.meta.revision == target || world.spared.contains(&i.id), "{} was left behind: {:?} after {:#?}", i.id, show.state(), show.acts);
                }
            }
            _ => prop_assert!(!waits.is_empty(), "nobody says what it waits on"),
        }
        let capacity = show.scene.record.capacity as usize;
        let count = show.scene.inventory.instances().count();
        let is_said = |w: &Wait| {
            use Wait::{HealthBudget, NoRoom, Protected, RolloutStopped};
            matches!(w, RolloutStopped { .. } | Protected { .. } | NoRoom { .. } | HealthBudget { .. })
        };
        prop_assert!(count == capacity || waits.iter().any(is_said), "{count} where {capacity} are wanted: {waits:?}");
    }
}
