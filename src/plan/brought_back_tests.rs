//! What somebody has brought back, and copies beside a move.

use crate::inventory::Power;
use crate::names::{InstanceId, instance_uuid};
use crate::ownership::Strangeness;
use crate::plan::testing::*;
use crate::record::Move;
use crate::warrants::Cause;

/// Two instances, and a third that scale-in has deleted, or whose creation did not end, and that is there again, whole.
fn brought_back(cause: Cause) -> Scene {
    let mut scene = Scene::new(&[1, 1]);
    scene.add("d1h0", 1);
    scene.add("d1h0", 2);
    scene.add("d0h0", 3);
    scene.volume("d0h0", 3);
    scene.record.capacity = 2;
    scene.record.known.remove(&InstanceId(3));
    let (host, id) = (label("d0h0"), InstanceId(3));
    let uuid = instance_uuid(scene.record.store, &scene.set.name, id);
    scene.record.warrants.issue(&host, id, uuid, cause, at(999_900));
    scene
}

#[test]
fn what_somebody_brings_back_after_it_was_deleted_is_a_stranger_and_costs_nobody() {
    for cause in [
        Cause::ScaleIn {
            wanted: 2,
            there: 3,
            request: None,
        },
        Cause::Operator,
    ] {
        let mut scene = brought_back(cause.clone());
        let plan = scene.plan();
        assert_eq!(plan.steps, [], "{cause:?}");
        assert_eq!(plan.report.seen, 2, "{cause:?}");
        let whys: Vec<Strangeness> = scene.inventory.odd.strangers.iter().map(|s| s.why).collect();
        assert_eq!(whys, [Strangeness::Forgotten], "{cause:?}");
        // Nor are its disks to go once it is undefined.
        scene.host("d0h0").instances.clear();
        scene.inventory.odd = Default::default();
        assert_eq!(scene.plan().steps, [], "{cause:?}");
    }
}

/// Three instances, and a copy of the second on the host of the third.
fn copied() -> Scene {
    let mut scene = Scene::new(&[1, 1, 1]);
    for (host, id) in [("d0h0", 1), ("d1h0", 2), ("d2h0", 3)] {
        scene.add(host, id);
    }
    scene.record.capacity = 3;
    let copy = scene.host("d1h0").instances[0].clone();
    scene.host("d2h0").instances.push(copy);
    scene
}

#[test]
fn a_copy_on_a_third_host_is_a_double_while_a_move_is_under_way() {
    let mut scene = copied();
    let (from, to) = (label("d0h0"), label("d1h0"));
    scene.record.moves.insert(InstanceId(2), Move { from, to });
    let plan = scene.plan();
    assert_eq!(plan.steps, [], "no innocent one goes for it");
    assert!(scene.inventory.odd.is_double(InstanceId(2)));
    assert_eq!(scene.record.known[&InstanceId(2)].host, label("d1h0"));
}

#[test]
fn a_copy_whose_note_was_saved_during_a_move_is_a_double() {
    let mut scene = copied();
    let copy = scene.host("d2h0").instances.last_mut().unwrap();
    (copy.meta.moving_to, copy.meta.host, copy.power) = (Some(label("d1h0")), label("d0h0"), Power::Off);
    let plan = scene.plan();
    assert_eq!(plan.steps, []);
    assert!(scene.inventory.odd.is_double(InstanceId(2)));
    assert_eq!(
        scene.record.known[&InstanceId(2)].host,
        label("d1h0"),
        "it is where it was"
    );
}
