//! Rollouts: situations, each with the plan it must give. What holds at every step of random ones: `upgrade_properties`.

use std::time::Duration;

use super::action::Action;
use super::forecast::obey;
use super::report::Wait;
use super::testing::{DRAWN, Scene, at, label};
use super::{Experience, Plan, Situation, plan};
use crate::health::State;
use crate::inventory::{Answer, Phase, Power, Protection, Rework};
use crate::model::{ImageDigest, Model};
use crate::names::InstanceId;
use crate::ownership::sort_out;
use crate::rollout::{Rollout, RolloutState};
use crate::scaleset::{Amount, Method, OnFailure, Probe, Unwilling, Upgrade, UpgradePolicy};
use crate::units::Bytes;

/// What guests answer in a show.
#[derive(Clone, Debug, Default)]
pub(super) struct Guests {
    /// Revisions whose guests never get healthy.
    pub broken_revisions: Vec<u32>,
    /// Instances that answer badly, whatever they are made of, until they are changed.
    pub sick: Vec<InstanceId>,
}

/// A set on its way, played to the end on an inventory that obeys.
pub(super) struct Show {
    pub scene: Scene,
    pub guests: Guests,
    pub now: i64,
    /// Every batch of steps, as lines.
    pub acts: Vec<Vec<String>>,
    /// Fewest healthy and most present instances at any look.
    pub fewest_healthy: usize,
    pub most_present: usize,
}

fn probed(upgrade: Upgrade) -> impl Fn(&mut Scene) {
    move |scene: &mut Scene| {
        scene.set.health.probe = Probe::Tcp { port: 80 };
        scene.set.health.grace_period = Duration::from_secs(60);
        scene.set.upgrade = upgrade.clone();
    }
}

impl Show {
    /// `instances` healthy ones of revision 1 on each domain's only host; revision 2 is current and a rollout begins.
    pub fn new(instances: &[u64], upgrade: Upgrade, change: impl Fn(&mut Model)) -> Self {
        Self::of(instances, upgrade, |_| (), change)
    }

    /// As [`Self::new`], where revision 1 is made so first, and revision 2 of it.
    pub fn of(
        instances: &[u64],
        upgrade: Upgrade,
        first: impl Fn(&mut Model),
        change: impl Fn(&mut Model),
    ) -> Self {
        let mut scene = Scene::new(&vec![1; instances.len()]);
        let revision = &mut scene.record.models[0];
        first(&mut revision.model);
        revision.hash = revision.model.hash();
        let mut second = revision.model.clone();
        change(&mut second);
        probed(upgrade.clone())(&mut scene);
        let mut id = 0;
        for (domain, n) in instances.iter().enumerate() {
            for _ in 0..*n {
                id += 1;
                scene.add(&format!("d{domain}h0"), id);
            }
        }
        scene.record.capacity = u32::try_from(id).unwrap();
        let mut show = Self {
            fewest_healthy: usize::MAX,
            most_present: 0,
            scene,
            guests: Guests::default(),
            now: 1000,
            acts: Vec::new(),
        };
        show.scene.record.applied = show.scene.set.clone();
        show.scene.absorb();
        for _ in 0..3 {
            show.answer();
        }
        show.scene.record.adopt_model(second, at(show.now));
        show.begin(1, upgrade);
        show
    }

    fn begin(&mut self, from: u32, rules: Upgrade) {
        let number = self.scene.record.rollout.as_ref().map_or(0, |r| r.number) + 1;
        let target = self.scene.record.current().number;
        let rollout = Rollout::new(number, (from, target), rules, "ann".into(), at(self.now));
        self.scene.record.rollout = Some(rollout);
    }

    pub fn rollout(&mut self) -> &mut Rollout {
        self.scene.record.rollout.as_mut().unwrap()
    }

    pub fn answer(&mut self) {
        let guests = &self.guests;
        let said = |i: &crate::inventory::Instance| {
            let good = !guests.broken_revisions.contains(&i.meta.revision) && !guests.sick.contains(&i.id);
            Answer::status(if good { 200 } else { 503 }, Some("Service Unavailable"), None)
        };
        let running =
            |i: &&crate::inventory::Instance| i.power == Power::Running && i.meta.phase == Phase::Ready;
        self.scene.inventory.answers = (self.scene.inventory.instances().filter(running))
            .map(|i| (i.id, said(i)))
            .collect();
        sort_out(&self.scene.record, &mut self.scene.inventory);
        let (inventory, health) = (self.scene.inventory.clone(), self.scene.set.health.clone());
        self.scene.record.absorb(&inventory);
        self.scene.record.heed(&inventory, &health, at(self.now));
    }

    pub fn look(&mut self) {
        self.answer();
        let states: Vec<State> = (self.scene.inventory.instances())
            .map(|i| State::of(i, self.scene.record.vitals.get(&i.id), &self.scene.set.health))
            .collect();
        self.fewest_healthy = self
            .fewest_healthy
            .min(states.iter().filter(|s| **s == State::Healthy).count());
        self.most_present = self.most_present.max(states.len());
    }

    pub fn plan(&self) -> Plan {
        plan(Situation {
            now: at(self.now),
            ..self.scene.situation()
        })
    }

    /// One plan, carried out. Whether there was anything to do or to wait for.
    pub fn step(&mut self) -> bool {
        self.look();
        let Plan {
            steps,
            rollout,
            again,
            ..
        } = self.plan();
        let seen = self.scene.record.rollout.clone();
        let steered = rollout.is_some_and(|next| self.scene.record.steer(seen.as_ref(), next));
        if steps.is_empty() {
            if let Some(at) = again {
                self.now = self.now.max(at.as_second()).max(self.now + 1);
            }
            return steered || again.is_some();
        }
        self.acts.push(
            (steps.iter())
                .map(|s| format!("{} {} {}", s.host, s.action.verb(), s.action.subject()))
                .collect(),
        );
        self.scene.record.reserve(&steps, DRAWN, at(self.now));
        for step in &steps {
            if let Action::Rework { spec, .. } = &step.action {
                self.guests.sick.retain(|id| *id != spec.id);
            }
        }
        let record = self.scene.record.clone();
        obey(&mut self.scene.inventory, &steps, |n| {
            record.revision(n).map(|r| &r.model)
        });
        self.now += 1;
        true
    }

    /// Plays until nothing is left to do.
    fn play(mut self) -> Self {
        for _ in 0..10_000 {
            if !self.step() {
                return self;
            }
        }
        panic!("it goes on for ever: {:?}", self.acts.last());
    }

    fn revisions(&self) -> Vec<u32> {
        let mut all: Vec<_> = self
            .scene
            .inventory
            .instances()
            .map(|i| (i.id, i.meta.revision))
            .collect();
        all.sort();
        all.into_iter().map(|(_, r)| r).collect()
    }

    pub fn state(&self) -> &RolloutState {
        &self.scene.record.rollout.as_ref().unwrap().state
    }
}

pub(super) fn new_image(model: &mut Model) {
    model.image.digest = ImageDigest("cd".repeat(32));
}

fn one_at_a_time() -> Upgrade {
    Upgrade {
        max_batch: Amount::Count(1),
        max_unavailable: Amount::Count(1),
        ..Upgrade::default()
    }
}

#[test]
fn six_are_reimaged_one_by_one_the_fullest_domain_first() {
    let show = Show::new(&[2, 2, 2], one_at_a_time(), new_image).play();
    assert_eq!(*show.state(), RolloutState::Done);
    assert_eq!(show.revisions(), [2; 6]);
    let flat: Vec<&String> = show
        .acts
        .iter()
        .flatten()
        .filter(|l| l.contains("reimage"))
        .collect();
    assert_eq!(
        flat,
        [
            "d0h0 reimage web-1",
            "d1h0 reimage web-3",
            "d2h0 reimage web-5",
            "d0h0 reimage web-2",
            "d1h0 reimage web-4",
            "d2h0 reimage web-6"
        ]
    );
    assert_eq!(show.fewest_healthy, 5);
    assert_eq!(show.most_present, 6);
    assert!(
        show.acts[0].contains(&"d0h0 push image cdcdcdcdcdcd".to_owned()),
        "{:?}",
        show.acts[0]
    );
}

#[test]
fn more_memory_needs_a_restart_and_a_larger_disk_nothing_of_the_kind() {
    let show = Show::new(&[2], one_at_a_time(), |m| m.memory = Bytes::gib(2)).play();
    assert_eq!(show.acts, [["d0h0 restart web-1"], ["d0h0 restart web-2"]]);
    let show = Show::new(
        &[2],
        Upgrade {
            max_batch: Amount::Count(2),
            ..one_at_a_time()
        },
        |m| m.disk = Bytes::gib(9),
    )
    .play();
    assert_eq!(
        show.acts,
        [["d0h0 update web-1", "d0h0 update web-2"]],
        "what does not disturb a guest costs nothing of the health budget"
    );
}

#[test]
fn two_instances_at_twenty_per_cent_can_be_upgraded() {
    let show = Show::new(&[1, 1], Upgrade::default(), new_image).play();
    assert_eq!((show.revisions(), show.fewest_healthy), (vec![2, 2], 1));
}

#[test]
fn replacing_with_surge_never_has_fewer_healthy_than_capacity() {
    let rules = Upgrade {
        method: Method::Replace,
        max_surge: Amount::Count(1),
        max_unavailable: Amount::Count(0),
        max_batch: Amount::Count(2),
        ..Upgrade::default()
    };
    let show = Show::new(&[2, 2, 2], rules, new_image).play();
    assert_eq!(*show.state(), RolloutState::Done);
    assert_eq!(show.revisions(), [2; 6]);
    assert_eq!((show.fewest_healthy, show.most_present), (6, 7));
    let ids: Vec<u64> = show.scene.inventory.instances().map(|i| i.id.0).collect();
    assert!(ids.iter().all(|id| *id > 6), "ids are never reused: {ids:?}");
    for host in &show.scene.inventory.hosts {
        assert_eq!(
            host.seen().unwrap().instances.len(),
            2,
            "each new one is where the old one was"
        );
    }
}

/// Another host of the fault domain may be the quicker one: then both would be there at once.
#[test]
fn what_a_killed_run_left_half_made_or_half_deleted_takes_its_part_of_the_surge_until_it_is_gone() {
    let rules = Upgrade {
        method: Method::Replace,
        max_surge: Amount::Count(1),
        max_unavailable: Amount::Count(0),
        max_batch: Amount::Count(2),
        ..Upgrade::default()
    };
    for (half, phase) in [(5, Phase::Creating), (1, Phase::Deleting)] {
        let mut show = Show::new(&[2, 2], rules.clone(), new_image);
        while show.scene.inventory.instances().count() == 4 {
            assert!(show.step(), "the first of batch 1 is made");
        }
        let instances = &mut show.scene.host("d0h0").instances;
        instances
            .iter_mut()
            .find(|i| i.id == InstanceId(half))
            .unwrap()
            .meta
            .phase = phase;
        match phase {
            Phase::Creating => {
                let known = show.scene.record.known.get_mut(&InstanceId(half));
                known.unwrap().confirmed = false;
            }
            _ => show.scene.warrant("d0h0", half, crate::warrants::Cause::Operator),
        }
        show.look();
        let steps: Vec<String> = (show.plan().steps.iter())
            .map(|s| format!("{} {}", s.action.verb(), s.action.subject()))
            .collect();
        assert_eq!(steps, [format!("delete web-{half}")], "{phase:?}");
        let show = show.play();
        assert_eq!(*show.state(), RolloutState::Done, "{phase:?}");
        assert_eq!(
            (show.revisions(), show.most_present),
            (vec![2; 4], 5),
            "{phase:?}"
        );
    }
}

#[test]
fn replacing_without_surge_deletes_first_and_keeps_the_budget() {
    let rules = Upgrade {
        method: Method::Replace,
        ..one_at_a_time()
    };
    let show = Show::new(&[2, 2], rules, new_image).play();
    assert_eq!(show.revisions(), [2; 4]);
    assert_eq!((show.fewest_healthy, show.most_present), (3, 4));
}

#[test]
fn without_anything_to_spare_in_place_becomes_replacing() {
    let rules = Upgrade {
        max_surge: Amount::Count(1),
        max_unavailable: Amount::Count(0),
        ..Upgrade::default()
    };
    let show = Show::new(&[1, 1], rules, new_image).play();
    assert_eq!((show.fewest_healthy, show.most_present), (2, 3));
    assert!(
        !show.acts.iter().flatten().any(|l| l.contains("reimage")),
        "{:?}",
        show.acts
    );
}

#[test]
fn no_room_for_the_surge_is_said_and_never_turned_into_something_else() {
    let rules = Upgrade {
        method: Method::Replace,
        max_surge: Amount::Count(1),
        max_unavailable: Amount::Count(0),
        ..Upgrade::default()
    };
    let mut show = Show::new(&[1], rules, new_image);
    show.scene.host("d0h0").memory = Bytes::gib(2);
    let show = show.play();
    let RolloutState::Stopped { reason } = show.state() else {
        panic!("{:?}", show.state())
    };
    assert!(
        reason.starts_with("there is no room for the new instances of rollout batch 1: no room for 1 more"),
        "{reason}"
    );
    assert_eq!(show.revisions(), [1]);
}

#[test]
fn a_version_that_never_gets_healthy_stops_after_the_first_batch() {
    let mut show = Show::new(&[2, 2, 2], one_at_a_time(), new_image);
    show.guests.broken_revisions = vec![2];
    let show = show.play();
    let RolloutState::Stopped { reason } = show.state() else {
        panic!("{:?}", show.state())
    };
    assert_eq!(
        reason,
        "after rollout batch 1, 1 of 1 upgraded instances is not healthy: instance 1 is unhealthy (503 Service Unavailable); \
         the probe is tcp port 80"
    );
    assert_eq!(show.revisions(), [2, 1, 1, 1, 1, 1]);
}

#[test]
fn a_version_that_never_gets_healthy_goes_back_by_itself_when_asked() {
    let rules = Upgrade {
        on_failure: OnFailure::Rollback,
        ..one_at_a_time()
    };
    let mut show = Show::new(&[2, 2, 2], rules, new_image);
    show.guests.broken_revisions = vec![2];
    let show = show.play();
    assert!(
        matches!(show.state(), RolloutState::RolledBack { .. }),
        "{:?}",
        show.state()
    );
    assert_eq!(show.revisions(), [1; 6]);
    assert_eq!(
        show.scene.record.current().number,
        1,
        "new instances are of the old revision again"
    );
    assert_eq!(show.fewest_healthy, 5);
}

#[test]
fn no_room_for_the_surge_of_a_later_batch_brings_back_what_was_replaced_before() {
    let rules = Upgrade {
        method: Method::Replace,
        max_batch: Amount::Count(1),
        on_failure: OnFailure::Rollback,
        ..one_at_a_time()
    };
    let mut show = Show::new(&[3], rules, new_image);
    let is_second = |show: &mut Show| {
        let rollout = show.rollout();
        rollout.batches == 1 && rollout.batch.as_ref().is_some_and(|b| !b.fresh.is_empty())
    };
    while !is_second(&mut show) {
        assert!(show.step(), "the second batch begins");
    }
    // Its new instance is not made after all.
    let fresh = show.rollout().batch.clone().unwrap().fresh;
    show.scene
        .host("d0h0")
        .instances
        .retain(|i| !fresh.contains(&i.id));
    let failed = (label("d0h0"), "disk full".to_owned());
    show.scene.experience.shunned.extend([failed]);
    while !matches!(show.state(), RolloutState::RollingBack { .. }) {
        assert!(show.step());
    }
    // The next run finds room.
    show.scene.experience = Experience::default();
    let show = show.play();
    assert!(
        matches!(show.state(), RolloutState::RolledBack { .. }),
        "{:?}",
        show.state()
    );
    assert_eq!(show.revisions(), [1; 3], "{:?}", show.acts);
}

#[test]
fn what_scaling_in_takes_is_not_there_for_the_rollout_to_take() {
    let rules = Upgrade {
        method: Method::Replace,
        max_surge: Amount::Count(1),
        max_unavailable: Amount::Count(0),
        ..Upgrade::default()
    };
    let mut show = Show::new(&[3], rules, new_image);
    while show.scene.inventory.instances().count() == 3 {
        assert!(show.step(), "the first new one is made");
    }
    show.scene.record.capacity = 1;
    show.look();
    let deleted = (show.plan().steps.iter())
        .filter(|s| matches!(s.action, Action::Delete { .. }))
        .count();
    assert_eq!(
        deleted, 2,
        "the third of the healthy ones stays until the new one is healthy"
    );
    let show = show.play();
    assert_eq!(
        (show.state(), show.revisions()),
        (&RolloutState::Done, vec![2]),
        "{:?}",
        show.acts
    );
}

#[test]
fn a_smaller_set_needs_nobody_in_the_place_of_those_that_the_batch_has_taken() {
    let rules = Upgrade {
        method: Method::Replace,
        max_batch: Amount::Count(2),
        max_unavailable: Amount::Count(2),
        ..Upgrade::default()
    };
    for capacity in [0, 1] {
        let mut show = Show::new(&[3], rules.clone(), new_image);
        while show.scene.inventory.instances().count() == 3 {
            assert!(show.step(), "the first batch is deleted");
        }
        show.acts.clear();
        show.scene.record.capacity = capacity;
        show.look();
        let waits = show.plan().report.waits;
        assert!(
            waits.iter().all(|w| !matches!(w, Wait::Protected { .. })),
            "{waits:?}"
        );
        let show = show.play();
        assert_eq!(*show.state(), RolloutState::Done);
        assert_eq!(show.revisions(), vec![2; capacity as usize]);
        let made = show
            .acts
            .iter()
            .flatten()
            .filter(|a| a.contains("create"))
            .count();
        assert_eq!(made, capacity as usize, "{:?}", show.acts);
    }
}

#[test]
fn a_rollback_that_fails_too_stops() {
    let rules = Upgrade {
        on_failure: OnFailure::Rollback,
        ..one_at_a_time()
    };
    let mut show = Show::new(&[2, 2], rules, new_image);
    show.guests.broken_revisions = vec![2];
    while !matches!(show.state(), RolloutState::RollingBack { .. }) {
        assert!(show.step());
    }
    show.guests.broken_revisions = vec![1, 2];
    let show = show.play();
    assert!(
        matches!(show.state(), RolloutState::Stopped { .. }),
        "{:?}",
        show.state()
    );
}

#[test]
fn a_batch_that_takes_too_long_fails() {
    let rules = Upgrade {
        batch_timeout: Duration::from_secs(30),
        ..one_at_a_time()
    };
    let mut show = Show::new(&[1, 1], rules, new_image);
    show.guests.broken_revisions = vec![2];
    let show = show.play();
    let RolloutState::Stopped { reason } = show.state() else {
        panic!("{:?}", show.state())
    };
    assert_eq!(
        reason,
        "rollout batch 1 was not done within 30 s: instance 1 is starting (503 Service Unavailable); \
         the probe is tcp port 80",
        "its grace period is longer"
    );
}

#[test]
fn broken_instances_that_the_upgrade_is_to_mend_go_first_and_hold_nothing_up() {
    let mut show = Show::new(&[2, 2, 2], one_at_a_time(), new_image);
    // More than max_unhealthy allows, all of them due for the fix.
    show.guests.sick = [2, 4, 5, 6].map(InstanceId).into();
    for _ in 0..3 {
        show.answer();
        show.now += 5;
    }
    let show = show.play();
    assert_eq!(*show.state(), RolloutState::Done);
    let order: Vec<&str> = show
        .acts
        .iter()
        .flatten()
        .filter_map(|l| l.split(' ').next_back())
        .filter(|w| w.starts_with("web"))
        .collect();
    assert_eq!(
        &order[..4],
        ["web-5", "web-2", "web-4", "web-6"],
        "two of three in the last domain, then ties by order"
    );
}

#[test]
fn broken_instances_that_are_not_due_stop_the_next_batch() {
    let mut show = Show::new(&[3, 3], one_at_a_time(), new_image);
    show.rollout().only = Some(vec![InstanceId(1), InstanceId(4)]);
    show.guests.sick = [2, 3, 5].map(InstanceId).into();
    for _ in 0..3 {
        show.answer();
        show.now += 5;
    }
    let show = show.play();
    let RolloutState::Stopped { reason } = show.state() else {
        panic!("{:?}", show.state())
    };
    assert!(
        reason.starts_with("3 of 6 instances are not healthy, more than max_unhealthy = 20 % allows before rollout batch 1: instance 2 is unhealthy"),
        "{reason}"
    );
    assert!(show.acts.is_empty(), "{:?}", show.acts);
}

#[test]
fn only_the_instances_that_were_named_are_upgraded() {
    let mut show = Show::new(&[3], one_at_a_time(), new_image);
    show.rollout().only = Some(vec![InstanceId(2)]);
    let show = show.play();
    assert_eq!(
        (show.revisions(), show.state()),
        (vec![1, 2, 1], &RolloutState::Done)
    );
}

#[test]
fn a_canary_waits_for_a_decision_and_goes_on() {
    let mut show = Show::new(&[2, 2], one_at_a_time(), new_image);
    show.rollout().canary = Some(Amount::Count(1));
    let mut show = show.play();
    assert!(
        matches!(show.state(), RolloutState::Paused { .. }),
        "{:?}",
        show.state()
    );
    assert_eq!(show.revisions(), [2, 1, 1, 1]);
    show.rollout().state = RolloutState::Running;
    let show = show.play();
    assert_eq!(
        (show.revisions(), show.state()),
        (vec![2; 4], &RolloutState::Done)
    );
}

#[test]
fn a_checkpoint_holds_for_its_time_and_batches_end_at_it() {
    let rules = Upgrade {
        max_batch: Amount::Count(3),
        max_unavailable: Amount::Count(3),
        checkpoints: vec![Amount::Count(1), Amount::Percent(50)],
        checkpoint_pause: Duration::from_secs(600),
        ..Upgrade::default()
    };
    let show = Show::new(&[4, 4], rules, new_image).play();
    assert_eq!(*show.state(), RolloutState::Done);
    let sizes: Vec<usize> = (show.acts.iter())
        .map(|act| act.iter().filter(|l| l.contains("reimage")).count())
        .filter(|n| *n > 0)
        .collect();
    assert_eq!(sizes, [1, 3, 3, 1]);
    assert!(
        show.now - 1000 >= 1200,
        "two checkpoints of ten minutes: {}",
        show.now
    );
}

#[test]
fn a_checkpoint_without_a_time_waits_for_a_decision() {
    let rules = Upgrade {
        checkpoints: vec![Amount::Count(1)],
        checkpoint_pause: Duration::ZERO,
        ..one_at_a_time()
    };
    let mut show = Show::new(&[2], rules, new_image).play();
    assert!(
        matches!(show.state(), RolloutState::Paused { .. }),
        "{:?}",
        show.state()
    );
    assert_eq!(show.revisions(), [2, 1]);
    show.rollout().state = RolloutState::Running;
    let show = show.play();
    assert_eq!(
        (show.revisions(), show.state()),
        (vec![2, 2], &RolloutState::Done)
    );
}

#[test]
fn what_breaks_while_it_is_watched_after_the_last_batch_is_a_failure() {
    let rules = Upgrade {
        bake: Duration::from_secs(300),
        ..one_at_a_time()
    };
    let quiet = Show::new(&[1, 1], rules.clone(), new_image).play();
    assert_eq!(*quiet.state(), RolloutState::Done);
    assert!(quiet.now - 1000 >= 300, "{}", quiet.now);
    let mut show = Show::new(&[1, 1], rules, new_image);
    while show.revisions() != [2, 2] || show.rollout().batch.is_some() {
        assert!(show.step());
    }
    show.guests.sick = [1, 2].map(InstanceId).into();
    let show = show.play();
    let RolloutState::Stopped { reason } = show.state() else {
        panic!("{:?}", show.state())
    };
    assert!(
        reason.starts_with("while it was watched after the last batch, 2 of 2"),
        "{reason}"
    );
}

#[test]
fn protected_and_stopped_instances_are_skipped_and_said() {
    let mut show = Show::new(&[3], one_at_a_time(), new_image);
    show.scene.host("d0h0").instances[0].meta.protection = Protection::All;
    let stopped = &mut show.scene.host("d0h0").instances[1];
    (stopped.power, stopped.meta.stopped) = (Power::Off, true);
    let show = show.play();
    assert_eq!(
        (show.revisions(), show.state()),
        (vec![1, 1, 2], &RolloutState::Done)
    );
}

#[test]
fn protected_instances_are_upgraded_when_the_rules_include_them() {
    let rules = Upgrade {
        protected: Unwilling::Include,
        ..one_at_a_time()
    };
    let mut show = Show::new(&[2], rules, new_image);
    show.scene.host("d0h0").instances[0].meta.protection = Protection::All;
    let show = show.play();
    assert_eq!(show.revisions(), [2, 2]);
    assert!(
        show.acts[0].contains(&"d0h0 reimage web-2".to_owned()),
        "the protected one goes last: {:?}",
        show.acts
    );
}

#[test]
fn pauses_and_readiness_are_waited_for() {
    let rules = Upgrade {
        pause: Duration::from_secs(100),
        min_ready: Duration::from_secs(50),
        ..one_at_a_time()
    };
    let show = Show::new(&[1, 1], rules, new_image).play();
    assert_eq!(*show.state(), RolloutState::Done);
    // Two batches with their readiness, and the pause between them.
    assert!(show.now - 1000 >= 200, "{}", show.now);
}

#[test]
fn a_paused_rollout_begins_nothing_and_says_so() {
    let mut show = Show::new(&[2], one_at_a_time(), new_image);
    show.rollout().state = RolloutState::Paused { by: "ann".into() };
    let plan = show.plan();
    assert!(plan.steps.is_empty() && plan.again.is_none());
    assert!(
        plan.report
            .waits
            .iter()
            .any(|w| matches!(w, Wait::RolloutPaused { .. }))
    );
}

#[test]
fn automatic_takes_all_at_once() {
    let rules = Upgrade {
        policy: UpgradePolicy::Automatic,
        ..Upgrade::default()
    };
    let show = Show::new(&[2, 2], rules, new_image).play();
    let reimaged = show.acts[0].iter().filter(|l| l.contains("reimage")).count();
    assert_eq!((reimaged, show.state()), (4, &RolloutState::Done));
}

#[test]
fn a_change_that_was_cut_short_goes_on_even_without_a_rollout() {
    let mut show = Show::new(&[2], one_at_a_time(), new_image);
    show.scene.record.rollout = None;
    let half = &mut show.scene.host("d0h0").instances[0];
    (half.meta.phase, half.power) = (Phase::Changing, Power::Off);
    show.look();
    let plan = show.plan();
    assert!(
        matches!(&plan.steps[..], [step] if matches!(&step.action, Action::Rework { spec, how: Rework::Reimage, .. } if spec.revision == 1)),
        "{:?}",
        plan.steps
    );
    assert_eq!(plan.steps[0].why.as_ref(), "its change did not end");
}

#[test]
fn a_step_that_fails_stops_the_rollout_with_what_was_said() {
    let mut show = Show::new(&[1, 1], one_at_a_time(), new_image);
    show.look();
    let first = show.plan();
    show.scene
        .record
        .steer(show.scene.record.rollout.clone().as_ref(), first.rollout.unwrap());
    show.scene
        .experience
        .failed
        .insert((label("d0h0"), "web-1".into()), "disk full".into());
    let show = show.play();
    let RolloutState::Stopped { reason } = show.state() else {
        panic!("{:?}", show.state())
    };
    assert_eq!(reason, "web-1 on d0h0 could not be changed: disk full");
}

#[test]
fn scaling_during_a_rollout_is_carried_out_by_it() {
    let rules = Upgrade {
        method: Method::Replace,
        max_surge: Amount::Count(1),
        max_unavailable: Amount::Count(0),
        ..Upgrade::default()
    };
    for wanted in [2u32, 9] {
        let mut show = Show::new(&[2, 2, 2], rules.clone(), new_image);
        for _ in 0..4 {
            show.step();
        }
        show.scene.record.capacity = wanted;
        let show = show.play();
        assert_eq!(*show.state(), RolloutState::Done);
        assert_eq!(show.revisions(), vec![2; wanted as usize]);
    }
}

#[test]
fn what_has_moved_to_another_fault_domain_during_a_pause_is_left_to_a_batch_of_that() {
    let rules = Upgrade {
        max_batch: Amount::Count(2),
        max_unavailable: Amount::Count(2),
        ..Upgrade::default()
    };
    let mut show = Show::new(&[3, 3], rules, new_image);
    show.look();
    let batch = show.plan().rollout.unwrap().batch;
    assert_eq!(batch.as_ref().unwrap().instances, [InstanceId(1), InstanceId(2)]);
    show.rollout().batch = batch;
    let mut moved = show.scene.host("d0h0").instances.remove(0);
    (moved.meta.host, moved.meta.fault_domain) = (label("d1h0"), label("d1"));
    show.scene.host("d1h0").instances.push(moved);
    show.look();
    let next = show.plan().rollout.unwrap().batch.unwrap();
    assert_eq!(next.instances, [InstanceId(2)]);
    let show = show.play();
    assert_eq!(
        (show.state(), show.revisions()),
        (&RolloutState::Done, vec![2; 6])
    );
}

#[test]
fn what_was_changed_and_then_went_out_of_sight_is_not_taken_for_what_it_was_before() {
    let mut show = Show::new(&[1], one_at_a_time(), new_image);
    while show.acts.is_empty() {
        assert!(show.step());
    }
    show.scene.inventory.hosts[0].view = crate::inventory::View::Unseen {
        reason: "connection refused".into(),
    };
    show.rollout().turn_back("asked for".into());
    show.scene.record.current = Some(1);
    show.step();
    assert!(
        matches!(show.state(), RolloutState::RollingBack { .. }),
        "{:?}",
        show.state()
    );
    let waits = show.plan().report.waits;
    let id = InstanceId(1);
    assert!(
        waits.contains(&Wait::RolloutUnseen { instances: vec![id] }),
        "{waits:?}"
    );
}

#[test]
fn a_lost_host_keeps_the_rollout_open_and_is_named() {
    let mut show = Show::new(&[2, 2], one_at_a_time(), new_image);
    show.rollout().rules.max_unhealthy = Amount::Percent(50);
    show.rollout().rules.max_unavailable = Amount::Count(3);
    show.scene.lose("d1h0");
    let show = show.play();
    assert!(show.scene.record.rollout.as_ref().unwrap().is_active());
    let plan = show.plan();
    assert!(
        plan.report.waits.contains(&Wait::RolloutUnseen {
            instances: vec![InstanceId(3), InstanceId(4)]
        }),
        "{:?}",
        plan.report.waits
    );
    assert!(
        plan.again.is_none(),
        "nobody waits for a host that may never come back"
    );
}
