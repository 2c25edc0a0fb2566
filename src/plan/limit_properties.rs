//! What was asked for binds the planner: situations, and what holds at every step of random rollouts within random limits.

use proptest::prelude::*;

use super::action::{Action, Step};
use super::change::{Because, Limit};
use super::loss::{Cause, Disks, Losses};
use super::report::{Verdict, Wait};
use super::testing::{Scene, at, cases, label};
use super::upgrade_tests::{Show, new_image};
use crate::inventory::{Phase, Rework};
use crate::model::{DataDisk, Disruption, Model};
use crate::names::InstanceId;
use crate::request::{Limits, Request, Verb};
use crate::rollout::RolloutState;
use crate::scaleset::{Amount, Method, Upgrade, UpgradePolicy};
use crate::units::Bytes;

fn disk(name: &str, gib: u64) -> DataDisk {
    DataDisk {
        name: label(name),
        size: Bytes::gib(gib),
    }
}

fn with_a_disk(model: &mut Model) {
    model.data_disks = vec![disk("db", 50)];
}

fn more_memory(model: &mut Model) {
    model.memory = Bytes::gib(8);
}

fn without_disks(model: &mut Model) {
    model.data_disks.clear();
}

fn one_more_disk(model: &mut Model) {
    model.data_disks.push(disk("log", 10));
}

fn in_place() -> Upgrade {
    Upgrade {
        max_unavailable: Amount::Count(1),
        ..Upgrade::default()
    }
}

fn limited(show: &mut Show, at_most: Option<Disruption>) {
    show.rollout().request = Some(Request {
        what: Verb::Upgrade,
        by: "ann".into(),
        at: at(0),
        limits: Limits::at_most(at_most),
    });
}

/// What the next plan says of instances that need more than is allowed.
fn beyond(show: &mut Show) -> Vec<(Vec<u64>, Because, Limit)> {
    show.look();
    let waits = show.plan().report.waits;
    let said = waits.into_iter().filter_map(|w| match w {
        Wait::BeyondLimits {
            instances,
            because,
            limit,
            ..
        } => Some((instances.iter().map(|id| id.0).collect(), because, limit)),
        _ => None,
    });
    said.collect()
}

fn verbs(steps: &[Step]) -> Vec<String> {
    let verb = |s: &Step| format!("{} {}", s.action.verb(), s.action.subject());
    steps.iter().map(verb).collect()
}

#[test]
fn a_restart_without_room_is_no_replacement_until_somebody_says_so() {
    for (at_most, limit) in [
        (None, Limit::Own),
        (Some(Disruption::Restart), Limit::AtMost(Disruption::Restart)),
        (Some(Disruption::Reimage), Limit::AtMost(Disruption::Reimage)),
    ] {
        let mut show = Show::of(&[1, 1], in_place(), |_| (), more_memory);
        show.scene.host("d0h0").memory = Bytes::gib(4);
        limited(&mut show, at_most);
        assert_eq!(beyond(&mut show), [(vec![1], Because::NoRoom, limit)]);
        // The other one has room, and is done.
        while show.step() {}
        assert_eq!(
            *show.state(),
            RolloutState::Running,
            "it waits for room, or for a word"
        );
        let plan = show.plan();
        assert_eq!(plan.report.verdict(), Verdict::Blocked);
        assert!(plan.steps.is_empty(), "{:?}", verbs(&plan.steps));
        let ids: Vec<u64> = show.scene.inventory.instances().map(|i| i.id.0).collect();
        assert_eq!(ids, [1, 2], "nobody was replaced");
        // Room comes.
        show.scene.host("d0h0").memory = Bytes::gib(64);
        while show.step() {}
        assert_eq!(*show.state(), RolloutState::Done);
    }
}

#[test]
fn what_is_said_names_the_host_the_instance_and_the_limit() {
    let mut show = Show::of(&[1], in_place(), with_a_disk, more_memory);
    show.scene.host("d0h0").memory = Bytes::gib(4);
    limited(&mut show, Some(Disruption::Restart));
    show.look();
    let said: Vec<String> = show.plan().report.waits.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        ["no room on d0h0 for instance 1: needs replace, which --at-most restart forbids"]
    );
}

#[test]
fn with_leave_to_replace_it_is_replaced_where_there_is_room_and_stays_where_there_is_none() {
    let mut show = Show::of(&[1], in_place(), with_a_disk, more_memory);
    show.scene.host("d0h0").memory = Bytes::gib(4);
    limited(&mut show, Some(Disruption::Replace));
    while show.step() {}
    let RolloutState::Stopped { reason } = show.state() else {
        panic!("{:?}", show.state());
    };
    assert!(
        reason.contains("there is no room for the new instances"),
        "{reason}"
    );
    let ids: Vec<u64> = show.scene.inventory.instances().map(|i| i.id.0).collect();
    assert_eq!(ids, [1], "nothing goes that there is no place for another of");
}

/// The batch was chosen when replacing was allowed; a lower limit is typed while its new instance is getting healthy.
#[test]
fn a_limit_that_is_lowered_in_the_middle_of_a_batch_holds_from_then_on() {
    let rules = Upgrade {
        method: Method::Replace,
        max_surge: Amount::Count(1),
        max_unavailable: Amount::Count(0),
        ..Upgrade::default()
    };
    let mut show = Show::of(&[2], rules, with_a_disk, new_image);
    limited(&mut show, None);
    while show.scene.inventory.instances().count() == 2 {
        assert!(show.step(), "the first new one is made");
    }
    limited(&mut show, Some(Disruption::Restart));
    for _ in 0..20 {
        show.step();
    }
    let old = show
        .scene
        .inventory
        .instances()
        .filter(|i| i.meta.revision == 1)
        .count();
    assert_eq!(
        old, 2,
        "nobody is replaced any more, nor for being one too many: {:?}",
        show.acts
    );
    let limit = Limit::AtMost(Disruption::Restart);
    assert_eq!(beyond(&mut show), [(vec![1], Because::Method, limit)]);
    // And goes on when it is raised again.
    limited(&mut show, None);
    while show.step() {}
    assert_eq!(*show.state(), RolloutState::Done);
    assert!(
        show.scene.inventory.instances().all(|i| i.meta.revision == 2),
        "{:?}",
        show.acts
    );
}

/// Somebody else has taken the room on the host since the batch was chosen.
#[test]
fn a_host_that_loses_its_room_in_the_middle_of_a_batch_keeps_what_it_has() {
    let rules = Upgrade {
        max_batch: Amount::Count(2),
        max_unavailable: Amount::Count(1),
        ..Upgrade::default()
    };
    let mut show = Show::of(&[2], rules, |_| (), more_memory);
    limited(&mut show, None);
    show.look();
    let batch = show.plan().rollout.and_then(|r| r.batch).expect("one begins");
    show.rollout().batch = Some(crate::rollout::Batch {
        instances: vec![InstanceId(1), InstanceId(2)],
        ..batch
    });
    show.scene.host("d0h0").memory = Bytes::gib(4);
    while show.step() {}
    assert_eq!(
        show.acts,
        Vec::<Vec<String>>::new(),
        "nothing fits, nothing is done"
    );
    assert_eq!(*show.state(), RolloutState::Running, "it waits for room");
    assert_eq!(beyond(&mut show), [(vec![1, 2], Because::NoRoom, Limit::Own)]);
}

#[test]
fn data_disks_go_by_an_upgrade_only_where_somebody_has_said_so() {
    let replaces = Upgrade {
        method: Method::Replace,
        ..in_place()
    };
    let none_to_spare = Upgrade {
        max_unavailable: Amount::Count(0),
        max_surge: Amount::Count(1),
        ..Upgrade::default()
    };
    let typed = Some(Disruption::Replace);
    type Change = fn(&mut Model);
    let table: [(&Upgrade, Change, Option<Disruption>, Option<Limit>); 7] = [
        (&in_place(), without_disks, None, Some(Limit::DataDisks)),
        (&in_place(), without_disks, typed, None),
        (&replaces, without_disks, None, None),
        (&replaces, new_image, None, None),
        (&none_to_spare, new_image, None, Some(Limit::DataDisks)),
        (&none_to_spare, new_image, typed, None),
        (&in_place(), new_image, None, None),
    ];
    for (n, (rules, change, at_most, limit)) in table.into_iter().enumerate() {
        let mut show = Show::of(&[2], rules.clone(), with_a_disk, change);
        limited(&mut show, at_most);
        let said: Vec<Limit> = beyond(&mut show).into_iter().map(|(_, _, limit)| limit).collect();
        assert_eq!(said, Vec::from_iter(limit), "case {n}");
        while show.step() {}
        let done = *show.state() == RolloutState::Done;
        assert_eq!(done, limit.is_none(), "case {n}: {:?}", show.state());
    }
}

#[test]
fn models_without_data_disks_are_replaced_where_nothing_may_be_missing() {
    let none_to_spare = Upgrade {
        max_unavailable: Amount::Count(0),
        max_surge: Amount::Count(1),
        ..Upgrade::default()
    };
    let mut show = Show::new(&[2], none_to_spare.clone(), new_image);
    assert_eq!(beyond(&mut show), []);
    let mut show = Show::new(&[2], none_to_spare, new_image);
    limited(&mut show, Some(Disruption::Reimage));
    let limit = Limit::AtMost(Disruption::Reimage);
    assert_eq!(beyond(&mut show), [(vec![1, 2], Because::NoneToSpare, limit)]);
}

#[test]
fn all_at_once_replaces_none_that_needs_no_more_than_a_reimage() {
    let rules = Upgrade {
        policy: UpgradePolicy::Automatic,
        method: Method::Auto,
        ..in_place()
    };
    let mut show = Show::of(&[2], rules, with_a_disk, one_more_disk);
    // Of a revision that the record has forgotten: nobody knows what it is made of.
    let host = show.scene.host("d0h0");
    (host.instances[1].meta.revision, host.instances[1].meta.model_hash) = (9, "forgotten".into());
    limited(&mut show, Some(Disruption::Replace));
    while show.step() {}
    assert_eq!(*show.state(), RolloutState::Done);
    let ids: Vec<u64> = show.scene.inventory.instances().map(|i| i.id.0).collect();
    assert_eq!(
        ids,
        [1, 3],
        "instance 1 goes on with its data disks: {:?}",
        show.acts
    );
}

#[test]
fn the_way_back_is_within_the_limits_of_the_way_there() {
    let mut show = Show::of(&[2], in_place(), with_a_disk, one_more_disk);
    limited(&mut show, None);
    while show.step() {}
    assert_eq!(*show.state(), RolloutState::Done);
    // To go back is to take a disk away.
    show.rollout().turn_back("it is no good".into());
    show.scene.record.current = Some(1);
    assert_eq!(
        beyond(&mut show),
        [(vec![1, 2], Because::Change, Limit::DataDisks)]
    );
    assert!(!show.step() && show.plan().steps.is_empty(), "nothing is deleted");
}

#[test]
fn what_goes_is_foretold_with_its_cause_and_its_data_disks() {
    let replaces = Upgrade {
        method: Method::Replace,
        ..in_place()
    };
    let mut show = Show::of(&[3], replaces, with_a_disk, new_image);
    limited(&mut show, None);
    show.look();
    let losses = super::forecast::forecast(super::Situation {
        now: at(show.now),
        ..show.scene.situation()
    })
    .losses;
    assert!(
        losses.instances.iter().all(|l| l.cause == Cause::Rollout),
        "{losses:?}"
    );
    assert_eq!(losses.data_disks().to_string(), "3 data disks (150.0 GiB)");
    let mut scene = Scene::new(&[1]);
    for id in 1..=3 {
        scene.add("d0h0", id);
    }
    scene.record.capacity = 1;
    scene.absorb();
    let losses = super::forecast::forecast(scene.situation()).losses;
    assert_eq!((losses.scaled_in(), losses.instances.len()), (2, 2));
}

#[test]
fn disks_of_an_unknown_model_are_those_that_its_note_names() {
    let mut scene = Scene::new(&[1]);
    let meta = &mut scene.add("d0h0", 7).meta;
    meta.volumes = ["os.qcow2", "data-db.qcow2", "seed.iso"]
        .map(|part| format!("web-7-0123abcd-{part}"))
        .to_vec();
    meta.volumes.push("vmss-seed-web-r1-0-1.img".into());
    assert_eq!(Disks::noted(meta).to_string(), "1 data disk");
}

/// A store was made again: the record knows only the newest revision, which has no data disk.
#[test]
fn what_the_record_does_not_know_is_not_made_anew_without_its_data_disks() {
    let scene = |phase: Phase, volumes: &[&str]| {
        let mut scene = Scene::new(&[1]);
        let instance = scene.add("d0h0", 1);
        (instance.meta.revision, instance.meta.model_hash) = (7, "forgotten".into());
        instance.meta.phase = phase;
        instance.meta.rework = (phase == Phase::Changing).then_some(Rework::Reimage);
        instance.meta.volumes = volumes
            .iter()
            .map(|v| format!("web-1-0123abcd-{v}.qcow2"))
            .collect();
        (scene.record.capacity, scene.set.repair.enabled) = (1, true);
        scene.set.repair.action = crate::scaleset::RepairAction::Reimage;
        scene.set.repair.max_unhealthy = Amount::Percent(100);
        scene.set.health.probe = crate::scaleset::Probe::Tcp { port: 80 };
        scene.absorb();
        let mut vital = crate::health::Vital::new(at(0));
        vital.sign = crate::health::Sign::Unhealthy;
        scene.record.vitals.insert(InstanceId(1), vital);
        scene
    };
    for phase in [Phase::Ready, Phase::Changing] {
        let plan = scene(phase, &["os", "data-db"]).plan();
        assert_eq!(verbs(&plan.steps), Vec::<String>::new(), "{phase:?}");
        let is_said = |w: &Wait| matches!(w, Wait::KeepsDisks { revision: 1, .. });
        assert!(
            plan.report.waits.iter().any(is_said),
            "{phase:?}: {:?}",
            plan.report.waits
        );
        let plan = scene(phase, &["os"]).plan();
        assert_eq!(verbs(&plan.steps), ["reimage web-1"], "{phase:?}");
    }
}

/// Random rules and limits.
fn rules() -> impl Strategy<Value = Upgrade> {
    let method = prop_oneof![
        3 => Just(Method::Auto),
        1 => Just(Method::Reimage),
        1 => Just(Method::Replace)
    ];
    let policy = prop_oneof![3 => Just(UpgradePolicy::Rolling), 1 => Just(UpgradePolicy::Automatic)];
    (method, policy, 0u32..3, 0u32..3, 1u32..4).prop_map(|(method, policy, surge, unavailable, batch)| {
        Upgrade {
            method,
            policy,
            max_batch: Amount::Count(batch),
            max_surge: Amount::Count(if method == Method::Reimage { 0 } else { surge }),
            max_unavailable: Amount::Count(if surge == 0 || method == Method::Reimage {
                unavailable.max(1)
            } else {
                unavailable
            }),
            ..Upgrade::default()
        }
    })
}

fn classes() -> impl Strategy<Value = Option<Disruption>> {
    prop_oneof![
        2 => Just(None),
        1 => Just(Some(Disruption::Live)),
        1 => Just(Some(Disruption::Restart)),
        1 => Just(Some(Disruption::Reimage)),
        1 => Just(Some(Disruption::Replace)),
    ]
}

proptest! {
    #![proptest_config(cases(3_000))]

    /// Whatever the rules, the change, the room and the limits, and whatever becomes of them on the way (the room goes, the
    /// rollout is turned back, a lower or higher limit is typed): no step is of a class above what was typed; no instance
    /// is replaced for want of room, and no data disk is deleted, unless somebody has said that instances may be replaced;
    /// and it ends, or says what it waits on.
    #[test]
    fn no_step_goes_beyond_what_was_asked_for(
        instances in prop::collection::vec(0u64..4, 1..4),
        rules in rules(),
        at_most in classes(),
        other in (0usize..12, classes()),
        has_disk in any::<bool>(),
        change in 0usize..4,
        rooms in prop::collection::vec(4u64..40, 3),
        tight in (0usize..12, 0usize..3),
        back in prop::option::weighted(0.3, 0usize..12),
    ) {
        let first = |m: &mut Model| if has_disk { with_a_disk(m) };
        let changes: [fn(&mut Model); 4] = [new_image, more_memory, without_disks, one_more_disk];
        let mut show = Show::of(&instances, rules.clone(), first, |m| {
            changes[change](m);
            m.disk = Bytes::gib(3);
        });
        let hosts: Vec<String> = (0..instances.len()).map(|d| format!("d{d}h0")).collect();
        for (host, room) in hosts.iter().zip(&rooms) {
            show.scene.host(host).memory = Bytes::gib(*room);
        }
        limited(&mut show, at_most);
        for look in 0.. {
            prop_assert!(look < 3000, "it goes on for ever: {:?}", show.acts.last());
            if look == other.0 {
                limited(&mut show, other.1);
            }
            if look == tight.0 && let Some(host) = hosts.get(tight.1) {
                show.scene.host(host).memory = Bytes::gib(4);
            }
            if back == Some(look) && show.rollout().is_active() {
                let from = show.rollout().from;
                show.rollout().turn_back("asked for".into());
                show.scene.record.current = Some(from);
            }
            show.look();
            keeps_within_limits(&show, &rules)?;
            if !show.step() && look > 12 {
                break;
            }
        }
        let waits = show.plan().report.waits;
        let has_ended = !show.rollout().is_open();
        prop_assert!(has_ended || !waits.is_empty(), "nobody says what it waits on: {:?}", show.state());
    }
}

/// What the next plan does is within the limits of the rollout as it stands.
fn keeps_within_limits(show: &Show, rules: &Upgrade) -> Result<(), TestCaseError> {
    let next = show.plan();
    let mut record = show.scene.record.clone();
    if let Some(rollout) = &next.rollout {
        record.rollout = Some(rollout.clone());
    }
    let limits = record.rollout.as_ref().expect("there is one").limits();
    let may_replace = limits.allows_replacing() || rules.method == Method::Replace;
    for step in &next.steps {
        if let Action::Rework { how, spec, .. } = &step.action {
            let class = match how {
                Rework::Live => Disruption::Live,
                Rework::Restart => Disruption::Restart,
                Rework::Reimage => Disruption::Reimage,
            };
            prop_assert!(
                limits.at_most.is_none_or(|most| class <= most),
                "{step:?} within {limits:?}"
            );
            // What it becomes keeps every data disk that it has.
            let disks = |n: u32| {
                record
                    .revision(n)
                    .map(|r| r.model.data_disks.clone())
                    .unwrap_or_default()
            };
            let mine = show.scene.inventory.instances().find(|i| i.id == spec.id);
            let lost = (disks(mine.expect("it is there").meta.revision).iter())
                .any(|d| !disks(spec.revision).iter().any(|other| other.name == d.name));
            prop_assert!(!lost, "{step:?} takes a data disk away");
        }
    }
    let mut losses = Losses::default();
    losses.note(&next.steps, &record, &show.scene.inventory);
    for loss in losses.instances.iter().filter(|l| l.cause == Cause::Rollout) {
        prop_assert!(
            limits.at_most.is_none_or(|most| most == Disruption::Replace),
            "{loss:?} within {limits:?}"
        );
        prop_assert!(
            may_replace || loss.data_disks.is_empty(),
            "{loss:?} without leave"
        );
        // For want of room nobody is replaced: what is replaced without leave needs it wherever it is.
        let mine = show.scene.inventory.instances().find(|i| i.id == loss.instance);
        let own = record
            .revision(mine.expect("it is there").meta.revision)
            .map(|r| &r.model);
        let rollout = record.rollout.as_ref().expect("there is one");
        let target = &record.revision(rollout.target).expect("it is kept").model;
        let need = super::change::need(own, target, rules).class;
        prop_assert!(
            may_replace || need == Disruption::Replace,
            "{loss:?} for want of room"
        );
    }
    Ok(())
}
