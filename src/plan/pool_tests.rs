//! Pools that can't be seen though their host can: nothing is done there that needs a disk, and everything else goes on.

use std::time::Duration;

use proptest::prelude::*;

use super::action::{Action, Step};
use super::forecast::forecast;
use super::operate::{Operation, Why, operate};
use super::report::{Verdict, Wait};
use super::testing::{Scene, at, cases, label, model};
use super::upgrade_tests::new_image;
use super::{Plan, Situation, plan};
use crate::inventory::{Answer, Phase, Power};
use crate::names::{InstanceId, PoolMark};
use crate::record::{Cordon, Life};
use crate::rollout::Rollout;
use crate::scaleset::{Amount, Probe, Repair, RepairAction, Upgrade};
use crate::warrants::Cause;

const REASON: &str = "storage pool 'default' is not active";

/// The pool of a host is not there any more, as a look at that host tells it.
fn lose_pool(scene: &mut Scene, host: &str) {
    scene.absorb();
    let seen = scene.host(host);
    seen.pool_unseen = Some(REASON.into());
    seen.pool_free = crate::units::Bytes(0);
    (seen.marks, seen.bases, seen.remains) = Default::default();
    (seen.volumes, seen.seeds) = Default::default();
}

/// Two healthy instances on each of three hosts, each in a fault domain of its own; the pool of the last can't be seen.
fn scene() -> Scene {
    let mut scene = Scene::new(&[1, 1, 1]);
    scene.record.capacity = 6;
    for id in 1..=6 {
        scene.add(["d0h0", "d1h0", "d2h0"][(id as usize - 1) % 3], id);
    }
    lose_pool(&mut scene, "d2h0");
    scene
}

fn lines(steps: &[Step]) -> Vec<String> {
    steps
        .iter()
        .map(|s| format!("{} {} {}", s.host, s.action.verb(), s.action.subject()))
        .collect()
}

fn wait() -> Wait {
    Wait::PoolUnseen {
        host: label("d2h0"),
        pool: "default".into(),
        reason: REASON.into(),
        instances: vec![InstanceId(3), InstanceId(6)],
    }
}

fn ends(plan: &Plan, steps: &[&str], verdict: Verdict) {
    assert_eq!(lines(&plan.steps), steps);
    assert_eq!(plan.report.verdict(), verdict, "{:?}", plan.report);
    assert!(plan.report.waits.contains(&wait()), "{:?}", plan.report.waits);
}

fn drain(host: &str, migrate: bool) -> (crate::names::Label, Cordon) {
    let cordon = Cordon {
        by: "ann".into(),
        at: at(0),
        drain: true,
        migrate,
    };
    (label(host), cordon)
}

/// Instances answer their probe, often enough that it counts.
fn hear(scene: &mut Scene, sick: &[u64], from: i64) {
    for look in 0..4 {
        scene.inventory.answers = (scene.inventory.instances())
            .filter(|i| i.power == Power::Running)
            .map(|i| {
                let code = if sick.contains(&i.id.0) { 503 } else { 200 };
                (i.id, Answer::status(code, None, None))
            })
            .collect();
        let (inventory, rules) = (scene.inventory.clone(), scene.set.health.clone());
        scene.record.heed(&inventory, &rules, at(from + look * 5));
    }
}

#[test]
fn nothing_is_to_be_done_where_everything_runs() {
    ends(&scene().plan(), &[], Verdict::Converged);
}

#[test]
fn its_host_is_not_out_of_sight() {
    let mut scene = scene();
    let inventory = scene.inventory.clone();
    let rules = scene.set.health.clone();
    scene.record.heed(&inventory, &rules, at(1_000_000));
    assert!(scene.record.unseen.is_empty(), "{:?}", scene.record.unseen);
    let report = scene.plan().report;
    assert_eq!(
        (report.seen, report.unseen),
        (6, 0),
        "its instances count as there"
    );
}

#[test]
fn more_are_made_on_other_hosts() {
    let mut scene = scene();
    scene.record.capacity = 8;
    let steps = ["d0h0 create web-7", "d1h0 create web-8"];
    ends(&scene.plan(), &steps, Verdict::Unseen);
}

#[test]
fn where_no_other_host_is_left_they_wait_for_the_pool() {
    let mut scene = Scene::new(&[1]);
    scene.record.capacity = 1;
    lose_pool(&mut scene, "d0h0");
    let plan = scene.plan();
    assert_eq!(lines(&plan.steps), Vec::<String>::new());
    assert_eq!(plan.report.verdict(), Verdict::Unseen);
    let no_room =
        |w: &Wait| matches!(w, Wait::NoRoom { hosts, .. } if hosts[0].1 == "its pool can't be seen");
    assert!(plan.report.waits.iter().any(no_room), "{:?}", plan.report.waits);
}

#[test]
fn fewer_are_taken_from_other_hosts_and_not_one_too_many() {
    let mut scene = scene();
    scene.record.capacity = 4;
    ends(
        &scene.plan(),
        &["d0h0 delete web-4", "d1h0 delete web-5"],
        Verdict::Unseen,
    );
    scene.record.capacity = 1;
    let end = forecast(scene.situation());
    assert_eq!(
        end.batches.len(),
        1,
        "the two there are one too many until the pool is back"
    );
    assert_eq!((end.end.seen, end.end.verdict()), (2, Verdict::Unseen));
}

#[test]
fn what_is_broken_there_makes_nobody_else_go() {
    let mut scene = scene();
    scene.set.health.probe = Probe::Tcp { port: 80 };
    hear(&mut scene, &[3, 6], 999_000);
    scene.record.capacity = 4;
    let steps = scene.plan().steps;
    assert_eq!(
        lines(&steps),
        Vec::<String>::new(),
        "four are healthy, and four are wanted"
    );
}

#[test]
fn a_guest_that_is_off_is_started() {
    let mut scene = scene();
    scene.host("d2h0").instances[0].power = Power::Off;
    ends(&scene.plan(), &["d2h0 start web-3"], Verdict::Unseen);
}

#[test]
fn the_set_is_deleted_but_for_them() {
    let mut scene = scene();
    scene.record.life = Life::Deleting;
    let end = forecast(scene.situation());
    assert_eq!(end.end.seen, 2);
    assert_eq!(end.end.verdict(), Verdict::Unseen);
    assert!(end.batches.concat().iter().all(|s| s.host != label("d2h0")));
}

#[test]
fn repair_restarts_them_and_does_no_more() {
    for (action, expected) in [
        (RepairAction::Restart, vec!["d2h0 restart web-3"]),
        (RepairAction::Reimage, vec![]),
        (RepairAction::Replace, vec![]),
    ] {
        let mut scene = scene();
        scene.set.health.probe = Probe::Tcp { port: 80 };
        scene.set.repair = Repair {
            enabled: true,
            action,
            grace_period: Duration::from_secs(60),
            ..Repair::default()
        };
        hear(&mut scene, &[3], 900_000);
        let plan = scene.plan();
        assert_eq!(lines(&plan.steps), expected, "{action:?}");
        assert!(plan.lost.is_empty());
    }
}

#[test]
fn a_replacement_that_was_begun_waits_for_the_pool() {
    let mut scene = scene();
    scene.set.health.probe = Probe::Tcp { port: 80 };
    scene.set.repair = Repair {
        enabled: true,
        action: RepairAction::Replace,
        grace_period: Duration::from_secs(60),
        ..Repair::default()
    };
    let mending = crate::repairs::Mending {
        action: RepairAction::Replace,
        began: at(900_000),
        revision: 1,
        fault_domain: label("d2"),
        fresh: None,
    };
    scene.record.repair.under_way.insert(InstanceId(3), mending);
    hear(&mut scene, &[3], 900_000);
    let plan = scene.plan();
    assert_eq!(lines(&plan.steps), Vec::<String>::new());
    let repair = plan.repair.expect("another has its turn meanwhile");
    assert!(repair.under_way.is_empty(), "{repair:?}");
}

#[test]
fn draining_waits() {
    for migrate in [false, true] {
        let mut scene = scene();
        scene.record.cordons.extend([drain("d2h0", migrate)]);
        assert_eq!(
            lines(&scene.plan().steps),
            Vec::<String>::new(),
            "migrate: {migrate}"
        );
        // Nor does anything go there.
        let mut scene = self::scene();
        scene.record.cordons.extend([drain("d0h0", migrate)]);
        let end = forecast(scene.situation());
        assert!(!end.batches.is_empty());
        assert!(end.batches.concat().iter().all(|s| !concerns(s, "d2h0")));
    }
}

#[test]
fn a_rollout_changes_the_others_and_waits() {
    let mut scene = scene();
    let mut second = model();
    new_image(&mut second);
    scene.record.adopt_model(second, at(0));
    let rules = Upgrade::default();
    scene.record.rollout = Some(Rollout::new(1, (1, 2), rules, "ann".into(), at(999_000)));
    let end = forecast(scene.situation());
    let changed = end.batches.concat();
    let changed = changed
        .iter()
        .filter(|s| matches!(s.action, Action::Rework { .. }));
    assert_eq!(changed.count(), 4);
    assert_eq!(end.end.verdict(), Verdict::Unseen, "{:?}", end.end);
    let instances = vec![InstanceId(3), InstanceId(6)];
    assert!(end.end.waits.contains(&Wait::RolloutUnseen { instances }));
}

#[test]
fn a_move_is_left_alone_until_both_pools_are_seen() {
    let mut scene = Scene::new(&[2]);
    scene.add("d0h0", 1).meta.moving_to = Some(label("d0h1"));
    scene.record.capacity = 1;
    lose_pool(&mut scene, "d0h1");
    let plan = scene.plan();
    assert_eq!(lines(&plan.steps), Vec::<String>::new());
    assert!(plan.report.waits.iter().any(|w| matches!(w, Wait::Moving { .. })));
}

#[test]
fn an_operator_may_do_what_needs_no_disk() {
    let scene = scene();
    let ids = [InstanceId(3)];
    for operation in [Operation::Reimage, Operation::Replace, Operation::Delete] {
        let refusals = operate(scene.situation(), &ids, operation).expect_err("its disk would go");
        assert_eq!(refusals[0].why, Why::PoolUnseen(label("d2h0")), "{operation:?}");
    }
    for operation in [Operation::Stop, Operation::Restart] {
        assert!(
            operate(scene.situation(), &ids, operation).is_ok(),
            "{operation:?}"
        );
    }
}

/// Whether a step makes, changes, moves or deletes a disk on a host.
fn concerns(step: &Step, host: &str) -> bool {
    let is_here = step.host.as_str() == host;
    match &step.action {
        Action::Migrate { spec, .. } => is_here || spec.host.as_str() == host,
        Action::Settle { to, .. } => is_here || to.as_str() == host,
        Action::Start(_)
        | Action::Stop { .. }
        | Action::Restart { .. }
        | Action::Protect { .. }
        | Action::Renote { .. }
        | Action::DropCopy { .. } => false,
        Action::PushImage { .. }
        | Action::Create(_)
        | Action::Rework { .. }
        | Action::Delete { .. }
        | Action::DeleteVolume { .. }
        | Action::DeleteImage { .. } => is_here,
    }
}

#[derive(Clone, Debug)]
struct Plot {
    hosts: Vec<usize>,
    /// Host, power and phase of each instance, and whether it is sick.
    instances: Vec<(usize, u8, u8, bool)>,
    capacity: u32,
    deleting: bool,
    action: RepairAction,
    upgrades: bool,
    surge: u32,
    drained: Option<(usize, bool)>,
    condemned: Vec<u64>,
    written_off: Vec<u64>,
    lost: Vec<usize>,
}

fn plots() -> impl Strategy<Value = Plot> {
    let action = prop_oneof![
        Just(RepairAction::Restart),
        Just(RepairAction::Reimage),
        Just(RepairAction::Replace)
    ];
    let set = (
        prop::collection::vec(1usize..3, 1..4),
        prop::collection::vec((0usize..6, 0u8..8, 0u8..8, prop::bool::weighted(0.2)), 0..8),
        0u32..9,
        prop::bool::weighted(0.1),
    );
    let turn = (
        action,
        any::<bool>(),
        0u32..3,
        prop::option::of((0usize..6, any::<bool>())),
        prop::collection::vec(1u64..8, 0..2),
        prop::collection::vec(1u64..8, 0..2),
        prop::collection::vec(0usize..6, 1..3),
    );
    (set, turn).prop_map(|(set, turn)| Plot {
        hosts: set.0,
        instances: set.1,
        capacity: set.2,
        deleting: set.3,
        action: turn.0,
        upgrades: turn.1,
        surge: turn.2,
        drained: turn.3,
        condemned: turn.4,
        written_off: turn.5,
        lost: turn.6,
    })
}

impl Plot {
    fn scene(&self) -> (Scene, Vec<String>) {
        let mut scene = Scene::new(&self.hosts);
        let names: Vec<String> = scene.set.hosts().map(|(_, h)| h.name.to_string()).collect();
        let name = |at: usize| names[at % names.len()].clone();
        scene.set.health.probe = Probe::Tcp { port: 80 };
        scene.set.repair = Repair {
            enabled: true,
            action: self.action,
            grace_period: Duration::from_secs(60),
            max_unhealthy: Amount::Percent(100),
            ..Repair::default()
        };
        scene.record.capacity = self.capacity;
        let mut sick = Vec::new();
        for (id, (host, power, phase, is_sick)) in (1u64..).zip(&self.instances) {
            let host = name(*host);
            let instance = scene.add(&host, id);
            instance.power = match power {
                0 => Power::Off,
                1 => Power::Crashed,
                2 => Power::Paused,
                _ => Power::Running,
            };
            instance.meta.phase = match phase {
                0 => Phase::Creating,
                1 => Phase::Deleting,
                2 => Phase::Changing,
                _ => Phase::Ready,
            };
            if *phase < 2 {
                scene.warrant(&host, id, Cause::Operator);
            }
            sick.extend(is_sick.then_some(id));
            scene.volume(&host, id + 20);
            scene.warrant(&host, id + 20, Cause::EndOfMove);
        }
        scene.absorb();
        hear(&mut scene, &sick, 900_000);
        if self.upgrades {
            let mut second = model();
            new_image(&mut second);
            scene.record.adopt_model(second, at(0));
            let rules = Upgrade {
                max_surge: Amount::Count(self.surge),
                ..Upgrade::default()
            };
            scene.record.rollout = Some(Rollout::new(1, (1, 2), rules, "ann".into(), at(999_000)));
        }
        scene
            .record
            .condemned
            .extend(self.condemned.iter().copied().map(InstanceId));
        let gone: Vec<InstanceId> = self.written_off.iter().copied().map(InstanceId).collect();
        scene.record.write_off(&gone, at(950_000));
        if self.deleting {
            scene.record.life = Life::Deleting;
        }
        if let Some((host, migrate)) = self.drained {
            scene.record.cordons.extend([drain(&name(host), migrate)]);
        }
        let mut lost: Vec<String> = self.lost.iter().map(|at| name(*at)).collect();
        lost.sort();
        lost.dedup();
        for host in &lost {
            lose_pool(&mut scene, host);
        }
        (scene, lost)
    }
}

proptest! {
    #![proptest_config(cases(10_000))]

    /// Whatever a set is in the middle of: nothing is made, changed, moved or deleted on a host whose pool can't be seen, no
    /// instance is given up with it, planning ends; and once the pool is back everything goes on.
    #[test]
    fn no_step_touches_a_disk_in_a_pool_that_can_not_be_seen(plot in plots()) {
        let (scene, lost) = plot.scene();
        let end = forecast(scene.situation());
        for host in &lost {
            for step in end.batches.concat() {
                prop_assert!(!concerns(&step, host), "{host}: {step:?}");
            }
            let is_told = |w: &Wait| matches!(w, Wait::PoolUnseen { host: of, .. } if of.as_str() == host);
            prop_assert!(end.end.waits.iter().any(is_told), "{:?}", end.end.waits);
        }
        let later = plan(Situation { now: at(2_000_000), ..scene.situation() });
        prop_assert!(later.lost.is_empty(), "{:?}", later.lost);
        prop_assert!(end.batches.len() < 100, "planning runs in a circle");
        let mut back = scene.clone();
        for host in &mut back.inventory.hosts {
            if let crate::inventory::View::Seen(seen) = &mut host.view {
                seen.pool_unseen = None;
                seen.pool_free = crate::units::Bytes::gib(1024);
            }
        }
        let end = forecast(back.situation());
        let is_told = |w: &Wait| matches!(w, Wait::PoolUnseen { .. });
        prop_assert!(!end.end.waits.iter().any(is_told), "{:?}", end.end.waits);
    }
}

/// Two of three hosts have their pools in one folder, and none has the image.
#[test]
fn an_image_is_sent_into_a_folder_through_one_host_and_the_others_wait_for_it() {
    let mut scene = Scene::new(&[1, 1, 1]);
    scene.record.capacity = 3;
    let mark = |scene: &Scene, host: &str| {
        let uri = &scene.set.host(&label(host)).expect("it is there").uri;
        PoolMark::new(scene.record.store, uri)
    };
    for (host, others) in [
        ("d0h0", ["d0h0", "d1h0"]),
        ("d1h0", ["d0h0", "d1h0"]),
        ("d2h0", ["d2h0"; 2]),
    ] {
        let marks = others.iter().map(|other| mark(&scene, other)).collect();
        let seen = scene.host(host);
        seen.marks = marks;
        seen.bases.clear();
    }
    let hosts = |scene: &mut Scene, verb: &str| -> Vec<String> {
        let steps = scene.plan().steps;
        let of = steps.iter().filter(|s| s.action.verb() == verb);
        of.map(|s| s.host.to_string()).collect()
    };
    for verb in ["push image", "create"] {
        assert_eq!(hosts(&mut scene, verb), ["d0h0", "d2h0"], "{verb}");
    }
    // Once it is there, every host may look for it.
    scene.host("d0h0").bases.insert(model().image.digest);
    assert_eq!(hosts(&mut scene, "push image"), ["d1h0", "d2h0"]);
    assert_eq!(hosts(&mut scene, "create"), ["d0h0", "d1h0", "d2h0"]);
}
