//! Situations, each with the plan it must give. Properties over random ones stand at the end:
//! placement against every possible assignment, convergence, and indifference to the order of input.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;

use super::action::Action;
use super::forecast::forecast;
use super::placement::{Order, choose, room};
use super::report::{Verdict, Wait};
use super::testing::{DRAWN, OTHER_STORE, Scene, at, cases, label, model};
use super::{Experience, Fleet, Lesson, Plan};
use crate::addresses::{Other, Owner};
use crate::inventory::{Phase, Power, Protection};
use crate::model::{Clone as CloneMode, ImageDigest, Nic, NicSource};
use crate::names::{InstanceId, PoolMark};
use crate::record::{Cordon, Life, Move};
use crate::scaleset::{AddressRange, ScaleInPolicy, Spread};
use crate::units::Bytes;
use crate::warrants::Cause;

fn lines(plan: &Plan) -> Vec<String> {
    plan.steps
        .iter()
        .map(|s| format!("{} {} {}", s.host, s.action.verb(), s.action.subject()))
        .collect()
}

#[test]
fn six_on_three_racks_are_two_on_each() {
    let mut scene = Scene::new(&[1, 1, 1]);
    scene.record.capacity = 6;
    let plan = scene.plan();
    assert_eq!(
        lines(&plan),
        [
            "d0h0 create web-1",
            "d0h0 create web-4",
            "d1h0 create web-2",
            "d1h0 create web-5",
            "d2h0 create web-3",
            "d2h0 create web-6",
        ]
    );
    assert_eq!(plan.steps[0].why.as_ref(), "capacity is 6, none is there");
}

#[test]
fn addresses_that_others_have_are_not_given_out() {
    let mut scene = Scene::new(&[1]);
    scene.record.capacity = 2;
    let at = |n| Ipv4Addr::new(10, 0, 0, n);
    scene.record.models[0].model.networks = vec![Nic {
        source: NicSource::Bridge("br0".into()),
        addresses: Some(AddressRange {
            first: at(10),
            last: at(15),
            prefix: 24,
        }),
        gateway: None,
        dns: Vec::new(),
        within: Vec::new(),
    }];
    let other = |on: Option<&str>| Other {
        set: label("db"),
        instance: InstanceId(1),
        on: on.map(str::to_owned),
    };
    let off_limits = &mut scene.inventory.off_limits;
    off_limits.owners.insert(at(10).into(), Owner::ThisMachine);
    off_limits.others.insert(at(11).into(), other(Some("br0")));
    off_limits.others.insert(at(12).into(), other(Some("elsewhere")));
    off_limits.others.insert(at(13).into(), other(Some("br0")));
    let plan = scene.plan();
    let given = plan.steps.iter().filter_map(|s| s.action.created());
    let given: Vec<_> = given.flat_map(|spec| spec.addresses.clone()).collect();
    assert_eq!(given, [Some(at(12)), Some(at(14))]);
}

#[test]
fn an_image_is_sent_once_to_each_host_that_lacks_it_and_before_its_instances() {
    let mut scene = Scene::new(&[1, 1]);
    scene.record.capacity = 4;
    scene.host("d1h0").bases.clear();
    let plan = lines(&scene.plan());
    assert_eq!(plan[2], "d1h0 push image abababababab");
    assert_eq!(plan.len(), 5, "{plan:?}");
}

#[test]
fn a_converged_set_has_an_empty_plan() {
    let mut scene = Scene::new(&[2, 1]);
    scene.record.capacity = 2;
    scene.add("d0h1", 1);
    scene.add("d1h0", 2);
    let plan = scene.plan();
    assert!(plan.steps.is_empty(), "{:?}", lines(&plan));
    assert_eq!(plan.report.verdict(), Verdict::Converged);
}

/// Azure's published example: zones {3,4,5,10} {2,6,9,11} {1,7,8}.
fn azure(policy: ScaleInPolicy) -> Vec<u64> {
    let mut scene = Scene::new(&[1, 1, 1]);
    for (host, ids) in [
        ("d0h0", &[3, 4, 5, 10][..]),
        ("d1h0", &[2, 6, 9, 11]),
        ("d2h0", &[1, 7, 8]),
    ] {
        for id in ids {
            scene.add(host, *id);
        }
    }
    scene.set.scale_in.policy = policy;
    scene.absorb();
    let s = scene.situation();
    super::scale_in::victims(s, &Fleet::of(s), 6)
        .unwrap()
        .iter()
        .map(|m| m.id.0)
        .collect()
}

#[test]
fn scale_in_takes_the_order_that_azure_documents() {
    assert_eq!(azure(ScaleInPolicy::Oldest), [2, 3, 1, 4, 6, 5]);
    assert_eq!(azure(ScaleInPolicy::Newest), [11, 10, 9, 8, 5, 7]);
    assert_eq!(
        azure(ScaleInPolicy::Default),
        [11, 10, 9, 8, 5, 7],
        "ids are creation order here"
    );
}

#[test]
fn scale_in_takes_outdated_then_idle_before_the_policy() {
    let mut scene = Scene::new(&[1]);
    for id in 1..=4 {
        scene.add("d0h0", id);
    }
    scene.host("d0h0").instances[0].meta.model_hash = "old".into();
    scene.host("d0h0").instances[1].power = Power::Off;
    scene.record.capacity = 1;
    scene.absorb();
    let s = scene.situation();
    let order: Vec<u64> = super::scale_in::victims(s, &Fleet::of(s), 3)
        .unwrap()
        .iter()
        .map(|m| m.id.0)
        .collect();
    assert_eq!(order, [1, 2, 4]);
    let plan = scene.plan();
    assert!(
        !plan.steps.iter().any(|s| matches!(s.action, Action::Start(_))),
        "an instance that goes is not started first: {:?}",
        lines(&plan)
    );
}

#[test]
fn protected_instances_are_never_chosen_and_too_few_others_change_nothing() {
    let mut scene = Scene::new(&[1]);
    for id in 1..=3 {
        scene.add("d0h0", id);
    }
    scene.host("d0h0").instances[2].meta.protection = Protection::ScaleIn;
    scene.host("d0h0").instances[1].meta.protection = Protection::All;
    scene.record.capacity = 2;
    assert_eq!(lines(&scene.plan()), ["d0h0 delete web-1"]);
    scene.record.capacity = 1;
    let plan = scene.plan();
    assert!(plan.steps.is_empty(), "{:?}", lines(&plan));
    assert_eq!(plan.report.verdict(), Verdict::Blocked);
    assert_eq!(
        plan.report.waits[0].to_string(),
        "2 too many, but instances 2, 3 are protected from scale-in: none is taken"
    );
}

#[test]
fn an_instance_that_was_stopped_on_purpose_is_left_off_and_counted() {
    let mut scene = Scene::new(&[1]);
    scene.record.capacity = 2;
    scene.add("d0h0", 1);
    let stopped = scene.add("d0h0", 2);
    (stopped.power, stopped.meta.stopped) = (Power::Off, true);
    let plan = scene.plan();
    assert!(plan.steps.is_empty(), "{:?}", lines(&plan));
    assert_eq!(plan.report.verdict(), Verdict::Converged);
}

#[test]
fn only_a_running_guest_is_asked_to_shut_down() {
    let mut scene = Scene::new(&[1]);
    scene.add("d0h0", 1);
    scene.add("d0h0", 2).power = Power::Off;
    let waits: Vec<Duration> = (scene.plan().steps.iter())
        .map(|s| match &s.action {
            Action::Delete { shutdown, .. } => *shutdown,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(waits, [Duration::from_secs(60), Duration::ZERO]);
}

#[test]
fn ids_are_never_used_twice() {
    let mut scene = Scene::new(&[1]);
    scene.add("d0h0", 7);
    scene.absorb();
    scene.host("d0h0").instances.clear();
    scene.record.capacity = 1;
    assert_eq!(lines(&scene.plan()), ["d0h0 create web-8"]);
}

#[test]
fn an_id_that_is_somebody_elses_domain_is_passed_over() {
    let mut scene = Scene::new(&[1, 1]);
    scene.record.capacity = 2;
    scene.host("d1h0").foreign = vec![InstanceId(1)];
    assert_eq!(lines(&scene.plan()), ["d0h0 create web-2", "d1h0 create web-3"]);
}

#[test]
fn half_made_and_half_deleted_instances_are_deleted_and_not_counted() {
    let mut scene = Scene::new(&[1]);
    scene.record.capacity = 1;
    scene.add("d0h0", 1).meta.phase = Phase::Creating;
    scene.add("d0h0", 2).meta.phase = Phase::Deleting;
    scene.record.known.get_mut(&InstanceId(1)).unwrap().confirmed = false;
    scene.warrant("d0h0", 2, Cause::Operator);
    assert_eq!(
        lines(&scene.plan()),
        ["d0h0 delete web-1", "d0h0 delete web-2", "d0h0 create web-3"]
    );
}

#[test]
fn instances_of_another_store_stop_everything() {
    let mut scene = Scene::new(&[1]);
    scene.record.capacity = 3;
    scene.warrant("d0h0", 9, Cause::Operator);
    scene.volume("d0h0", 9);
    scene.add("d0h0", 1).meta.store = OTHER_STORE;
    let plan = scene.plan();
    assert!(plan.steps.is_empty(), "{:?}", lines(&plan));
    assert_eq!(plan.report.verdict(), Verdict::Blocked);
}

#[test]
fn a_lost_host_is_not_a_dead_host_and_its_instances_still_count() {
    let mut scene = Scene::new(&[1, 1, 1]);
    for (host, id) in [("d0h0", 1), ("d1h0", 2), ("d2h0", 3)] {
        scene.add(host, id);
    }
    scene.lose("d2h0");
    scene.record.capacity = 5;
    let plan = scene.plan();
    assert_eq!(lines(&plan), ["d0h0 create web-4", "d1h0 create web-5"]);
    assert!(
        matches!(&plan.report.waits[0], Wait::HostUnseen { instances, .. } if instances == &[InstanceId(3)])
    );
    let end = forecast(scene.situation()).end;
    assert_eq!(end.verdict(), Verdict::Unseen, "4 of 5 were seen: {end:?}");
}

#[test]
fn a_lost_host_never_makes_scale_in_take_what_still_serves() {
    let mut scene = Scene::new(&[1, 1, 1]);
    for id in 1..=6 {
        scene.add(["d0h0", "d1h0", "d2h0"][(id - 1) as usize % 3], id);
    }
    scene.lose("d2h0");
    scene.record.capacity = 4;
    let plan = scene.plan();
    assert!(
        plan.steps.is_empty(),
        "4 are seen and 4 are wanted: {:?}",
        lines(&plan)
    );
    assert_eq!(
        plan.report.verdict(),
        Verdict::Unseen,
        "two too many may still run on the lost host"
    );
}

#[test]
fn an_instance_that_was_only_about_to_be_made_on_a_lost_host_is_made_elsewhere() {
    let mut scene = Scene::new(&[1, 1]);
    scene.record.capacity = 2;
    let steps = scene.plan().steps;
    scene.record.reserve(&steps, DRAWN, at(1_000_000));
    scene.lose("d1h0");
    let lines = lines(&scene.plan());
    assert_eq!(
        lines,
        ["d0h0 create web-3", "d0h0 create web-4"],
        "ids 1 and 2 stay reserved"
    );
}

#[test]
fn strict_spread_refuses_all_when_a_domain_can_take_none() {
    let mut scene = Scene::new(&[1, 1, 1]);
    scene.set.placement.spread = Spread::Strict;
    scene.record.capacity = 6;
    scene.lose("d2h0");
    let plan = scene.plan();
    assert!(plan.steps.is_empty(), "{:?}", lines(&plan));
    assert_eq!(plan.report.verdict(), Verdict::Blocked);
    let text = plan
        .report
        .waits
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n");
    assert!(
        text.contains("strict spread refuses 6 more: fault domain d2 can take none (d2h0: not seen)"),
        "{text}"
    );
}

#[test]
fn a_host_that_failed_in_this_run_gets_no_more() {
    let mut scene = Scene::new(&[1, 1]);
    scene.record.capacity = 2;
    scene.experience.shunned.insert(label("d0h0"), "disk full".into());
    assert_eq!(lines(&scene.plan()), ["d1h0 create web-1", "d1h0 create web-2"]);
    scene.experience.shunned.insert(label("d1h0"), "disk full".into());
    let plan = scene.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.report.verdict(), Verdict::Failed);
}

#[test]
fn what_failed_once_is_not_tried_again_in_the_same_run() {
    let mut scene = Scene::new(&[1]);
    scene.record.capacity = 1;
    scene.add("d0h0", 1).power = Power::Off;
    assert_eq!(lines(&scene.plan()), ["d0h0 start web-1"]);
    scene
        .experience
        .failed
        .insert((label("d0h0"), "web-1".into()), "no such bridge".into());
    let plan = scene.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.report.verdict(), Verdict::Failed);
}

#[test]
fn a_run_learns_whom_to_leave_alone_and_what_not_to_try_again() {
    let mut scene = Scene::new(&[1]);
    scene.record.capacity = 1;
    let create = scene.plan().steps.remove(0);
    let mut learnt = Experience::default();
    for _ in 0..2 {
        learnt.learn(&create, Lesson::NameTaken("taken".into()));
    }
    assert!(
        learnt.shunned.is_empty(),
        "a name that is taken says nothing about the next one"
    );
    learnt.learn(&create, Lesson::NameTaken("taken".into()));
    assert_eq!(
        learnt.shunned[&label("d0h0")],
        "taken",
        "a host that refuses them all is left"
    );

    let mut learnt = Experience::default();
    learnt.learn(&create, Lesson::Failed("disk full".into()));
    assert_eq!(learnt.shunned[&label("d0h0")], "disk full");
    scene.add("d0h0", 1).power = Power::Off;
    let start = scene.plan().steps.remove(0);
    learnt.learn(&start, Lesson::Failed("no bridge".into()));
    assert_eq!(learnt.unstarted[&(label("d0h0"), "web-1".into())], "no bridge");
    assert!(
        learnt.failed.is_empty(),
        "what can't be started may still be repaired"
    );
}

#[test]
fn a_paused_instance_is_left_to_its_operator_and_named() {
    let mut scene = Scene::new(&[1]);
    scene.record.capacity = 1;
    scene.add("d0h0", 1).power = Power::Paused;
    let plan = scene.plan();
    assert!(plan.steps.is_empty());
    assert!(matches!(plan.report.waits[..], [Wait::Paused { .. }]));
    assert_ne!(plan.report.verdict(), Verdict::Converged);
}

#[test]
fn a_scale_in_names_who_asked_for_the_capacity_in_its_warrant() {
    use crate::request::{Request, Verb};
    let mut scene = Scene::new(&[1]);
    scene.add("d0h0", 1);
    scene.add("d0h0", 2);
    scene.record.capacity = 2;
    let ann = || Request::of(Verb::Scale, "ann@ops1", at(5));
    assert!(scene.record.ask_for(1, ann));
    let bob = || Request::of(Verb::Scale, "bob@ops2", at(6));
    assert!(!scene.record.ask_for(1, bob), "that is wanted already");
    let plan = scene.plan();
    scene.record.reserve(&plan.steps, DRAWN, at(7));
    let cause = Cause::ScaleIn {
        wanted: 1,
        there: 2,
        request: Some(ann()),
    };
    let warrant = scene.record.warrants.of(&label("d0h0"), InstanceId(2)).unwrap();
    assert_eq!(warrant.cause, cause);
    let told = serde_json::to_value(&plan.steps[0].action).unwrap();
    assert_eq!(told["cause"]["request"]["by"], "ann@ops1", "{told}");
    let json = crate::store::codec::encode(&scene.record).unwrap();
    let read = crate::store::codec::decode(&json).unwrap();
    assert_eq!(read.warrants, scene.record.warrants);
}

#[test]
fn deleting_takes_instances_seeds_and_images() {
    let mut scene = Scene::new(&[1, 1]);
    scene.add("d0h0", 1);
    scene.host("d0h0").seeds = vec![(1, "seed".into())];
    scene.record.life = Life::Deleting;
    assert_eq!(
        lines(&scene.plan()),
        [
            "d0h0 delete web-1",
            "d0h0 delete volume seed",
            "d0h0 delete image abababababab",
            "d1h0 delete image abababababab",
        ]
    );
    scene
        .experience
        .kept_images
        .insert((label("d1h0"), model().image.digest));
    assert_eq!(
        lines(&scene.plan()).len(),
        3,
        "an image that something else needs stays"
    );
    scene
        .experience
        .keep_seed(&label("d0h0"), "seed", vec!["web-1".into()]);
    let plan = scene.plan();
    assert_eq!(
        lines(&plan),
        ["d0h0 delete web-1", "d0h0 delete image abababababab"],
        "and a seed that a guest has in its drive"
    );
    let told: Vec<String> = plan.report.waits.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["the seed of revision 1 on d0h0 goes once web-1 is started anew: it is in the drive until then"]
    );
}

#[test]
fn deleting_takes_the_images_of_revisions_that_were_forgotten_too() {
    let mut scene = Scene::new(&[1]);
    let image = |n: u8| ImageDigest(format!("{n:02x}").repeat(32));
    for n in 1..=15 {
        let mut next = model();
        next.image.digest = image(n);
        scene.record.adopt_model(next, at(n.into()));
        scene.record.forget_old_models();
        scene.host("d0h0").bases.insert(image(n));
    }
    assert!(scene.record.models.len() < 15, "old revisions are forgotten");
    scene.host("d0h0").bases.insert(image(99));
    scene.record.life = Life::Deleting;
    let deleted = lines(&scene.plan());
    let of_set = (1..=15).map(image).chain([model().image.digest]);
    let wanted: Vec<String> = (of_set.map(|i| format!("d0h0 delete image {}", i.short()))).collect();
    assert_eq!(deleted, wanted, "and none that the set never had");
}

#[test]
fn a_seed_is_kept_while_anyone_reads_it_and_swept_after() {
    let mut scene = Scene::new(&[1]);
    scene.add("d0h0", 1);
    scene.host("d0h0").seeds = vec![(1, "seed".into())];
    scene.record.capacity = 1;
    assert!(scene.plan().steps.is_empty());
    scene.record.capacity = 0;
    assert_eq!(
        lines(&scene.plan()),
        ["d0h0 delete web-1", "d0h0 delete volume seed"]
    );
}

/// web-1 is to be moved as it runs, from the first host of three; the first two have their pools in one folder if `shared`.
fn to_be_moved(racks: &[usize], shared: bool) -> Scene {
    let mut scene = Scene::new(racks);
    scene.add("d0h0", 1);
    scene.record.capacity = 1;
    let hosts: Vec<_> = scene.set.hosts().map(|(_, h)| h.clone()).collect();
    if shared {
        for host in &hosts[..2] {
            let marks = hosts[..2]
                .iter()
                .map(|h| PoolMark::new(scene.record.store, &h.uri))
                .collect();
            scene.host(host.name.as_str()).marks = marks;
        }
    }
    let cordon = Cordon {
        by: "ann@ops1".into(),
        at: at(0),
        drain: true,
        migrate: true,
    };
    scene.record.cordons.insert(label("d0h0"), cordon);
    scene.absorb();
    scene
}

#[test]
fn a_seed_stays_where_an_instance_is_moved_that_reads_it() {
    let mut scene = to_be_moved(&[1, 1], false);
    for host in ["d0h0", "d1h0"] {
        scene.host(host).seeds = vec![(1, "seed".into())];
    }
    assert_eq!(lines(&scene.plan()), ["d0h0 migrate web-1"]);
    scene.host("d1h0").seeds.push((7, "old".into()));
    assert_eq!(
        lines(&scene.plan()),
        ["d0h0 migrate web-1", "d1h0 delete volume old"]
    );
}

#[test]
fn nothing_is_moved_to_a_host_that_has_its_disks_in_the_same_folder() {
    let target = |scene: &mut Scene| {
        let steps = scene.plan().steps;
        steps.iter().find_map(|step| match &step.action {
            Action::Migrate { spec, .. } => Some(spec.host.to_string()),
            _ => None,
        })
    };
    assert_eq!(target(&mut to_be_moved(&[2, 1], false)).as_deref(), Some("d0h1"));
    assert_eq!(target(&mut to_be_moved(&[2, 1], true)).as_deref(), Some("d1h0"));
    let mut nowhere = to_be_moved(&[2], true);
    assert_eq!(target(&mut nowhere), None);
    let waits = nowhere.plan().report.waits;
    let is_said = |w: &Wait| matches!(w, Wait::NoRoom { hosts, .. } if hosts[1].1.contains("one folder"));
    assert!(waits.iter().any(is_said), "{waits:?}");
}

#[test]
fn room_is_what_runs_out_first() {
    let scene = Scene::new(&[1]);
    let rules = &scene.set.placement;
    let (mut seen, mut model) = (super::testing::host(), model());
    assert_eq!(
        room(&seen, &model, rules).instances,
        63,
        "64 GiB less the reserve"
    );
    model.vcpus = 2;
    assert_eq!(
        room(&seen, &model, rules).instances,
        32,
        "16 CPUs, four times over"
    );
    model.clone = CloneMode::Full;
    model.disk = Bytes::gib(500);
    assert_eq!(room(&seen, &model, rules).instances, 2);
    seen.bases.clear();
    model.image.file_size = Bytes::gib(600);
    assert_eq!(
        room(&seen, &model, rules).instances,
        0,
        "the image has to fit too"
    );
    assert!(room(&seen, &model, rules).limit.starts_with("pool:"));
}

#[test]
fn within_a_domain_the_least_loaded_host_comes_first() {
    let mut scene = Scene::new(&[3]);
    scene.record.capacity = 3;
    scene.host("d0h0").used_memory = Bytes::gib(32);
    scene.host("d0h1").used_memory = Bytes::gib(1);
    assert_eq!(
        lines(&scene.plan()),
        ["d0h1 create web-2", "d0h2 create web-1", "d0h2 create web-3"]
    );
}

/// Plays a drain to its end: every plan's lines. Everyone is healthy.
fn drain(scene: &mut Scene, host: &str) -> Vec<Vec<String>> {
    let cordon = Cordon {
        by: "ann@ops1".into(),
        at: at(0),
        drain: true,
        migrate: false,
    };
    scene.record.cordons.insert(label(host), cordon);
    scene.absorb();
    let end = forecast(scene.situation());
    (end.batches.into_iter())
        .map(|steps| {
            lines(&Plan {
                steps,
                ..Plan::idle(end.end.clone())
            })
        })
        .collect()
}

#[test]
fn a_drained_hosts_instances_are_made_elsewhere_before_they_go() {
    let mut scene = Scene::new(&[2, 1]);
    for (host, id) in [("d0h0", 1), ("d1h0", 2), ("d0h0", 3)] {
        scene.add(host, id);
    }
    scene.record.capacity = 3;
    assert_eq!(
        drain(&mut scene, "d0h0"),
        [
            ["d0h1 create web-4"],
            ["d0h0 delete web-1"],
            ["d0h1 create web-5"],
            ["d0h0 delete web-3"],
        ],
        "one beside the others at a time, in the same fault domain"
    );
}

#[test]
fn a_cordoned_host_gets_no_new_instances_and_keeps_those_it_has() {
    let mut scene = Scene::new(&[1, 1]);
    scene.add("d0h0", 1);
    scene.record.capacity = 3;
    scene.record.cordons.insert(
        label("d0h0"),
        Cordon {
            by: "ann".into(),
            at: at(0),
            drain: false,
            migrate: false,
        },
    );
    assert_eq!(lines(&scene.plan()), ["d1h0 create web-2", "d1h0 create web-3"]);
}

#[test]
fn a_host_that_is_drained_with_nowhere_to_go_keeps_its_instances_and_says_so() {
    let mut scene = Scene::new(&[1]);
    scene.add("d0h0", 1);
    scene.record.capacity = 1;
    assert!(drain(&mut scene, "d0h0").is_empty());
    let plan = scene.plan();
    assert!(
        plan.report.waits.iter().any(|w| matches!(w, Wait::NoRoom { .. })),
        "{:?}",
        plan.report.waits
    );
}

#[test]
fn scale_in_takes_what_is_to_leave_its_host_anyway() {
    let mut scene = Scene::new(&[1, 1]);
    for (host, id) in [("d0h0", 1), ("d1h0", 2), ("d0h0", 3), ("d1h0", 4)] {
        scene.add(host, id);
    }
    scene.record.capacity = 2;
    assert_eq!(
        drain(&mut scene, "d0h0"),
        [["d0h0 delete web-3"], ["d0h0 delete web-1"]]
    );
}

#[test]
fn protected_and_stopped_instances_stay_on_a_drained_host_and_are_named() {
    let mut scene = Scene::new(&[1, 1]);
    scene.add("d0h0", 1).meta.protection = Protection::All;
    scene.add("d1h0", 2);
    scene.record.capacity = 2;
    assert!(drain(&mut scene, "d0h0").is_empty());
    let wait = Wait::Undrainable {
        instances: vec![InstanceId(1)],
    };
    assert!(scene.plan().report.waits.contains(&wait));
}

/// Two hosts of one fault domain, and web-1 half way from the first to the second.
fn on_the_way() -> Scene {
    let mut scene = Scene::new(&[2]);
    scene.add("d0h0", 1).meta.moving_to = Some(label("d0h1"));
    scene.add("d0h1", 2);
    scene.record.capacity = 2;
    scene
}

#[test]
fn a_move_that_was_cut_short_is_settled_before_anything_else_is_done_to_its_instance() {
    let mut scene = on_the_way();
    scene.add("d0h1", 3);
    // web-1 would be started, a volume that may be one of its own swept.
    scene.host("d0h0").instances[0].power = Power::Off;
    scene.volume("d0h1", 1);
    scene.warrant("d0h1", 1, Cause::EndOfMove);
    scene.record.capacity = 3;
    assert_eq!(lines(&scene.plan()), ["d0h0 settle web-1"]);
    scene.host("d0h0").instances[0].meta.moving_to = None;
    let plan = scene.plan();
    let others: Vec<_> = plan
        .steps
        .iter()
        .map(|s| (s.host.as_str(), s.action.verb()))
        .collect();
    assert_eq!(others, [("d0h0", "start"), ("d0h1", "delete volume")]);
}

/// Two hosts of one folder, and web-1 on the second, where a move has ended, or a settlement, of which the first still has the
/// warrant.
fn moved_within_a_folder() -> Scene {
    let mut scene = Scene::new(&[1, 1]);
    scene.add("d1h0", 1);
    scene.record.capacity = 1;
    let hosts: Vec<_> = scene.set.hosts().map(|(_, h)| h.clone()).collect();
    let marks: Vec<_> = (hosts.iter())
        .map(|h| PoolMark::new(scene.record.store, &h.uri))
        .collect();
    for host in &hosts {
        scene.volume(host.name.as_str(), 1);
        scene.host(host.name.as_str()).marks.extend(marks.iter().cloned());
    }
    scene.warrant("d0h0", 1, Cause::EndOfMove);
    scene.absorb();
    scene
}

#[test]
fn the_warrant_of_a_move_within_a_folder_ends_though_the_disks_stay() {
    let mut scene = moved_within_a_folder();
    let (health, inventory) = (scene.set.health.clone(), scene.inventory.clone());
    scene.record.heed(&inventory, &health, at(1_000_010));
    assert!(
        !scene.record.warrants.instances.is_empty(),
        "a call may still land"
    );
    scene.record.heed(&inventory, &health, at(1_010_000));
    assert_eq!(scene.record.warrants.instances, BTreeMap::new());
}

#[test]
fn what_was_undefined_after_a_move_within_a_folder_keeps_its_disks() {
    let mut scene = moved_within_a_folder();
    scene.host("d1h0").instances.clear();
    scene.record.capacity = 0;
    let plan = scene.plan();
    assert_eq!(lines(&plan), Vec::<String>::new());
    let told = |host: &str| {
        let is_it = |w: &Wait| matches!(w, Wait::Unclaimed { host: on, .. } if on.as_str() == host);
        plan.report.waits.iter().any(is_it)
    };
    assert!(told("d1h0") && !told("d0h0"), "{:?}", plan.report.waits);
}

#[test]
fn once_a_batch_has_ended_no_volume_may_go_that_it_named() {
    let mut scene = Scene::new(&[1]);
    let parts = BTreeMap::from([("web-1-00000000-os.qcow2".to_owned(), Cause::Operator)]);
    scene.record.warrants.parts.insert(label("d0h0"), parts);
    assert!(scene.record.reserve(&[], DRAWN, at(0)), "that is a change");
    assert_eq!(scene.record.warrants.parts, BTreeMap::new());
    assert!(!scene.record.reserve(&[], DRAWN, at(0)));
}

/// Of a move that was cut short the source is off, or held: it is no instance that another has to stand in for.
#[test]
fn none_is_made_in_place_of_one_whose_move_was_cut_short() {
    let mut scene = on_the_way();
    scene.host("d0h0").instances[0].power = Power::Paused;
    scene.absorb();
    let cordon = Cordon {
        by: "ann@ops1".into(),
        at: at(0),
        drain: true,
        migrate: true,
    };
    scene.record.cordons.insert(label("d0h0"), cordon);
    let moved = Move {
        from: label("d0h0"),
        to: label("d0h1"),
    };
    scene.record.moves.insert(InstanceId(1), moved);
    assert_eq!(lines(&scene.plan()), ["d0h0 settle web-1"]);
}

#[test]
fn a_move_is_known_from_the_record_when_only_the_arriving_copy_is_left() {
    let mut scene = on_the_way();
    scene.absorb();
    let moved = Move {
        from: label("d0h0"),
        to: label("d0h1"),
    };
    scene.record.moves.insert(InstanceId(1), moved);
    let mut copy = scene.host("d0h0").instances.remove(0);
    copy.meta.host = label("d0h1");
    scene.host("d0h1").instances.push(copy);
    assert_eq!(lines(&scene.plan()), ["d0h0 settle web-1"]);
    // Settled: nothing says any more that it moves.
    scene.host("d0h1").instances[1].meta.moving_to = None;
    assert!(lines(&scene.plan()).is_empty());
    assert!(scene.record.moves.is_empty());
}

#[test]
fn a_move_is_left_alone_while_one_of_its_hosts_is_out_of_sight() {
    for lost in ["d0h0", "d0h1"] {
        let mut scene = on_the_way();
        scene.absorb();
        let moved = Move {
            from: label("d0h0"),
            to: label("d0h1"),
        };
        scene.record.moves.insert(InstanceId(1), moved);
        scene.lose(lost);
        let plan = scene.plan();
        assert!(lines(&plan).is_empty(), "{lost}: {:?}", lines(&plan));
        let wait = Wait::Moving {
            instance: InstanceId(1),
            from: label("d0h0"),
            to: label("d0h1"),
        };
        assert!(
            plan.report.waits.contains(&wait),
            "{lost}: {:?}",
            plan.report.waits
        );
    }
}

#[test]
fn what_went_out_of_sight_with_the_host_that_it_moved_to_is_there_still() {
    let mut scene = Scene::new(&[1, 1]);
    scene.add("d0h0", 1);
    scene.record.capacity = 1;
    scene.lose("d1h0");
    let moved = Move {
        from: label("d0h0"),
        to: label("d1h0"),
    };
    scene.record.moves.insert(InstanceId(1), moved);
    scene.host("d0h0").instances.remove(0);
    let plan = scene.plan();
    assert!(lines(&plan).is_empty(), "{:?}", lines(&plan));
    let known = &scene.record.known[&InstanceId(1)];
    assert_eq!((known.host.as_str(), known.fault_domain.as_str()), ("d1h0", "d1"));
    assert_eq!(known.revision, Some(1));
    // Nobody else gets its address, and nobody takes its place before its host counts as lost.
    assert!(known.confirmed);
}

/// A random little fleet: hosts with room for a few, some out of sight, some instances there already.
fn scenes() -> impl Strategy<Value = Scene> {
    let host = (
        0u64..4,
        0usize..3,
        prop::bool::weighted(0.15),
        prop::bool::weighted(0.2),
    );
    let domain = prop::collection::vec(host, 1..3);
    (
        prop::collection::vec(domain, 1..4),
        0u32..8,
        any::<bool>(),
        1u32..3,
    )
        .prop_map(|(domains, capacity, strict, max_skew)| {
            let mut scene = Scene::new(&domains.iter().map(Vec::len).collect::<Vec<_>>());
            let mut id = 0;
            let mut lost = Vec::new();
            for (d, hosts) in domains.iter().enumerate() {
                for (h, (room, there, unseen, bare)) in hosts.iter().enumerate() {
                    let name = format!("d{d}h{h}");
                    for _ in 0..*there {
                        id += 1;
                        scene.add(&name, id);
                    }
                    let seen = scene.host(&name);
                    seen.memory = Bytes::gib(1) + seen.used_memory + Bytes::gib(*room);
                    if *bare && *there == 0 {
                        seen.bases.clear();
                    }
                    if *unseen {
                        lost.push(name);
                    }
                }
            }
            for name in lost {
                scene.lose(&name);
            }
            scene.record.capacity = capacity;
            scene.set.placement.spread = if strict {
                Spread::Strict
            } else {
                Spread::BestEffort
            };
            scene.set.placement.max_skew = max_skew;
            scene.absorb();
            scene
        })
}

/// Every way to put `count` alike instances on hosts with that much room: the counts per host.
fn assignments(room: &[u64], count: u64) -> Vec<Vec<u64>> {
    match room {
        [] if count == 0 => vec![Vec::new()],
        [] => Vec::new(),
        [first, rest @ ..] => (0..=count.min(*first))
            .flat_map(|here| {
                assignments(rest, count - here).into_iter().map(move |mut tail| {
                    tail.insert(0, here);
                    tail
                })
            })
            .collect(),
    }
}

proptest! {
    #![proptest_config(cases(10_000))]

    /// The oracle tries every assignment. Best effort must place as many as can be placed, and leave the fullest
    /// domain as low as can be, then the next fullest, and so on. Strict must place all of them whenever that can be
    /// done within the skew, and none otherwise.
    #[test]
    fn placement_is_as_good_as_the_best_of_all_assignments(scene in scenes(), count in 1usize..6) {
        let s = scene.situation();
        let fleet = Fleet::of(s);
        let before = fleet.per_domain(s);
        let (chosen, wait) = choose(s, &before, &Order { revision: s.record.current(), count, within: None, moved_from: None, why: "".into() });

        let hosts: Vec<(usize, u64)> = (s.set.fault_domains.iter().enumerate())
            .flat_map(|(d, domain)| domain.hosts.iter().map(move |h| (d, h)))
            .map(|(d, h)| {
                let seen = s.inventory.host(&h.name).and_then(|h| h.seen());
                (d, seen.map_or(0, |h| room(h, &s.record.current().model, &s.set.placement).instances))
            })
            .collect();
        let rooms: Vec<u64> = hosts.iter().map(|(_, room)| *room).collect();
        let most = rooms.iter().sum::<u64>().min(count as u64);
        let domains_after = |assignment: &[u64]| {
            let mut counts = before.clone();
            for ((d, _), here) in hosts.iter().zip(assignment) {
                counts[*d] += *here as usize;
            }
            counts
        };
        let descending = |mut counts: Vec<usize>| { counts.sort_unstable(); counts.reverse(); counts };

        let mut per_host: BTreeMap<&str, u64> = BTreeMap::new();
        let mut after = before.clone();
        for (d, host) in &chosen {
            after[*d] += 1;
            *per_host.entry(host.as_str()).or_default() += 1;
        }
        for ((_, h), room) in s.set.hosts().zip(&rooms) {
            prop_assert!(per_host.get(h.name.as_str()).copied().unwrap_or(0) <= *room, "{} is overfull", h.name);
        }

        match s.set.placement.spread {
            Spread::BestEffort => {
                prop_assert_eq!(chosen.len() as u64, most, "as many as there is room for");
                let best = assignments(&rooms, most).iter().map(|a| descending(domains_after(a))).min();
                prop_assert_eq!(Some(descending(after)), best, "no assignment is more even");
                prop_assert_eq!(wait.is_some(), most < count as u64, "what is missing is said");
            }
            Spread::Strict => {
                // A domain that was ahead before is no reason to refuse: only a domain that takes one may not end
                // more than the skew ahead of the lowest.
                let skew = s.set.placement.max_skew as usize;
                let fits = |a: &Vec<u64>| {
                    let counts = domains_after(a);
                    let least = counts.iter().min().copied().unwrap_or(0);
                    (0..counts.len()).all(|d| counts[d] == before[d] || counts[d] <= least + skew)
                };
                let possible = assignments(&rooms, count as u64).iter().any(fits);
                prop_assert_eq!(chosen.len(), if possible { count } else { 0 }, "all or nothing");
                prop_assert_eq!(wait.is_some(), !possible, "a refusal is said");
            }
        }
    }

    /// Every start converges, or says what it waits on, in few batches; then the plan is empty.
    #[test]
    fn every_start_converges_or_says_what_it_waits_on(scene in scenes()) {
        let end = forecast(scene.situation());
        prop_assert!(end.batches.len() <= 3, "{} batches", end.batches.len());
        let report = &end.end;
        let met = report.running >= report.wanted && report.seen + report.unseen <= report.wanted;
        prop_assert!(met || !report.waits.is_empty(), "silence: {report:?}");
        prop_assert_eq!(report.verdict() == Verdict::Converged, met);
    }

    /// Hosts and instances may come in any order.
    #[test]
    fn the_order_of_input_does_not_matter(scene in scenes(), seed in any::<u64>()) {
        let mut shuffled = scene.clone();
        let turn = |n: usize, len: usize| if len == 0 { 0 } else { (seed as usize).wrapping_add(n) % len };
        let n = shuffled.inventory.hosts.len();
        shuffled.inventory.hosts.rotate_left(turn(0, n));
        for (i, host) in shuffled.inventory.hosts.iter_mut().enumerate() {
            if let crate::inventory::View::Seen(seen) = &mut host.view {
                let n = seen.instances.len();
                seen.instances.rotate_left(turn(i, n));
            }
        }
        prop_assert_eq!(super::plan(scene.situation()), super::plan(shuffled.situation()));
    }

    /// Scale in never takes more than the surplus, never breaks the balance, and never with a start in the same batch.
    #[test]
    fn scale_in_keeps_the_domains_even(counts in prop::collection::vec(0usize..5, 1..4), wanted in 0u32..6) {
        let mut scene = Scene::new(&vec![1; counts.len()]);
        let mut id = 0;
        for (d, n) in counts.iter().enumerate() {
            for _ in 0..*n { id += 1; scene.add(&format!("d{d}h0"), id); }
        }
        scene.record.capacity = wanted;
        scene.experience = Experience::default();
        scene.absorb();
        let total: usize = counts.iter().sum();
        let s = scene.situation();
        let fleet = Fleet::of(s);
        let gone = super::scale_in::victims(s, &fleet, total.saturating_sub(wanted as usize)).unwrap();
        let mut after = counts.clone();
        for m in &gone { after[m.domain] -= 1; }
        let skew = |c: &[usize]| c.iter().max().unwrap() - c.iter().min().unwrap();
        prop_assert!(skew(&after) <= skew(&counts).max(1), "{counts:?} -> {after:?}");
        prop_assert_eq!(gone.len(), total.saturating_sub(wanted as usize));
    }
}

/// Both list the one file, which is the instance's own: that says nothing of somebody else, and no command would delete it.
#[test]
fn where_hosts_share_a_folder_an_instance_is_not_in_its_own_way() {
    let mut scene = moved_within_a_folder();
    scene.record.warrants = Default::default();
    scene.record.cordons.insert(
        label("d1h0"),
        Cordon {
            by: "ann@ops1".into(),
            at: at(1),
            drain: true,
            migrate: true,
        },
    );
    let plan = scene.plan();
    let is_it = |w: &Wait| matches!(w, Wait::InTheWay { .. });
    assert!(!plan.report.waits.iter().any(is_it), "{:?}", plan.report.waits);
}
