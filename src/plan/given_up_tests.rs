//! What was given up with its host, in a set that lives or with one that was ended, and is there again.

use super::Plan;
use super::action::Action;
use super::testing::{Scene, at, label, model};
use crate::inventory::{Phase, View};
use crate::model::DataDisk;
use crate::names::{InstanceId, Label, instance_uuid, volume_name};
use crate::ownership::Strangeness;
use crate::record::Record;
use crate::units::Bytes;
use crate::warrants::Cause;

const ONE: InstanceId = InstanceId(1);

/// An instance with a data disk that was given up at second 7, and is there again.
fn with_data_disk() -> Scene {
    let mut scene = Scene::new(&[1, 1]);
    let mut model = model();
    model.data_disks = vec![DataDisk {
        name: label("data"),
        size: Bytes::gib(1),
    }];
    scene.record.adopt_model(model, at(0));
    scene.add("d1h0", 1);
    scene.volume("d1h0", 1);
    scene.absorb();
    scene.record.write_off(&[ONE], at(7));
    scene
}

fn lines(plan: &Plan) -> Vec<String> {
    (plan.steps.iter())
        .map(|s| format!("{} {} {}", s.host, s.action.verb(), s.action.subject()))
        .collect()
}

fn cause(plan: &Plan) -> Option<&Cause> {
    match &plan.steps.first()?.action {
        Action::Delete { cause, .. } | Action::DropCopy { cause, .. } => Some(cause),
        _ => None,
    }
}

#[test]
fn one_with_data_disks_is_switched_off_and_its_volumes_are_told_and_stay() {
    let mut scene = with_data_disk();
    let plan = scene.plan();
    assert_eq!(lines(&plan), ["d1h0 undefine web-1"]);
    let Some(Cause::Fencing {
        keeps_disks: true, ..
    }) = cause(&plan)
    else {
        panic!("{:?}", plan.steps);
    };
    scene.record.reserve(&plan.steps, uuid::Uuid::nil(), at(8));
    // Killed before it was done: the same again.
    assert_eq!(lines(&scene.plan()), ["d1h0 undefine web-1"]);
    scene.host("d1h0").instances.clear();
    for look in 1..=2 {
        let plan = scene.plan();
        assert_eq!(lines(&plan), Vec::<String>::new(), "look {look}");
        let told: Vec<String> = plan.report.waits.iter().map(ToString::to_string).collect();
        assert!(
            told.iter().any(|t| t.contains("belongs to no instance there")),
            "{told:?}"
        );
        assert!(scene.record.written_off.is_empty() && scene.record.departed.is_empty());
    }
}

/// What its model was nobody need remember: its own note names its disks.
#[test]
fn a_note_that_names_a_data_disk_is_enough_for_it_to_stay() {
    let mut scene = Scene::new(&[1, 1]);
    let instance = scene.add("d1h0", 1);
    let disk = volume_name(&instance.meta.set, ONE, instance.uuid, "data-data", "qcow2");
    instance.meta.volumes.push(disk);
    scene.absorb();
    scene.record.write_off(&[ONE], at(7));
    assert!(!scene.record.written_off[&ONE].has_data_disks);
    assert_eq!(lines(&scene.plan()), ["d1h0 undefine web-1"]);
}

#[test]
fn one_whose_pool_cannot_be_seen_is_switched_off_and_its_disks_go_when_it_can() {
    let mut scene = Scene::new(&[1, 1]);
    scene.add("d1h0", 1);
    scene.absorb();
    scene.record.write_off(&[ONE], at(7));
    scene.host("d1h0").pool_unseen = Some("not active".into());
    let plan = scene.plan();
    assert_eq!(lines(&plan), ["d1h0 undefine web-1"]);
    scene.record.reserve(&plan.steps, uuid::Uuid::nil(), at(8));
    scene.host("d1h0").instances.clear();
    scene.absorb();
    scene.host("d1h0").pool_unseen = None;
    scene.volume("d1h0", 1);
    let plan = scene.plan();
    assert_eq!(plan.steps.len(), 1);
    assert_eq!(plan.steps[0].action.verb(), "delete volume");
}

/// libvirt saves a note live before it saves it for good: after a power cut one that is whole may say that it is being made.
#[test]
fn one_that_says_it_is_half_made_keeps_its_data_disks_all_the_same() {
    let mut scene = with_data_disk();
    scene.host("d1h0").instances[0].meta.phase = Phase::Creating;
    assert_eq!(lines(&scene.plan()), ["d1h0 undefine web-1"]);
}

#[test]
fn a_host_that_has_left_the_set_and_is_back_has_what_was_given_up_with_it_deleted() {
    let mut scene = Scene::new(&[1, 1]);
    scene.add("d1h0", 1).meta.addresses = vec![Some("10.0.0.9".parse().unwrap())];
    scene.absorb();
    scene.record.known.get_mut(&ONE).unwrap().addresses = vec![Some("10.0.0.9".parse().unwrap())];
    scene.record.write_off(&[ONE], at(7));
    let away = scene.inventory.hosts.pop().unwrap();
    scene.absorb();
    let kept = &scene.record.written_off[&ONE];
    assert_eq!(
        kept.addresses,
        [],
        "nobody waits with addresses for a host that the set does not have"
    );
    scene.inventory.hosts.push(away);
    assert_eq!(lines(&scene.plan()), ["d1h0 delete web-1"]);
}

#[test]
fn one_that_somebody_keeps_under_another_name_is_remembered_as_that() {
    let mut scene = with_data_disk();
    scene.host("d1h0").instances[0].name = "kept".into();
    for look in 1..=2 {
        let plan = scene.plan();
        assert_eq!(lines(&plan), Vec::<String>::new(), "look {look}");
        let why: Vec<Strangeness> = scene.inventory.odd.strangers.iter().map(|s| s.why).collect();
        assert_eq!(why, [Strangeness::Renamed], "look {look}");
    }
}

/// The record of a set that is made anew after one that was ended without a host.
fn anew(old: &Record, change: bool) -> Record {
    let mut model = model();
    if change {
        model.vcpus += 1;
    }
    let (set, file) = (old.applied.clone(), old.definition.clone());
    let mut new = Record::new(old.store, set, model, file, at(9));
    new.succeed(old.clone());
    new
}

#[test]
fn a_set_that_is_made_anew_gives_out_no_id_and_no_revision_that_a_host_may_still_have() {
    let mut scene = Scene::new(&[1, 1]);
    scene.record.capacity = 2;
    scene.add("d0h0", 1);
    scene.add("d1h0", 2);
    scene.lose("d1h0");
    scene.record.give_up(at(7));
    let old = scene.record.clone();
    assert!(old.known.is_empty() && old.written_off.len() == 2);
    let uuid = instance_uuid(old.store, &scene.set.name, InstanceId(2));
    assert!(old.gave_up(InstanceId(2), uuid) && !old.gave_up(InstanceId(3), uuid));

    let same = anew(&old, false);
    assert_eq!(same.current().number, 1, "the seed of revision 1 is what it was");
    let other = anew(&old, true);
    assert_eq!(
        other.current().number,
        2,
        "a host may have another seed of revision 1"
    );
    assert_eq!((other.next_id, other.epoch), (InstanceId(3), old.epoch));
    assert_eq!(other.written_off, old.written_off);

    // A host that comes back has them switched off; whatever is seen to be gone is forgotten.
    scene.record = other;
    scene.record.capacity = 2;
    scene.host("d0h0").instances.clear();
    let plan = scene.plan();
    let made: Vec<&Label> = plan.steps.iter().map(|step| &step.host).collect();
    assert_eq!(made, [&label("d0h0"), &label("d0h0")]);
    assert!(
        plan.steps
            .iter()
            .all(|s| s.action.created().is_some_and(|spec| spec.id > InstanceId(2)))
    );
    let ids: Vec<u64> = scene.record.written_off.keys().map(|id| id.0).collect();
    assert_eq!(ids, [2]);
    let mut back = Scene::new(&[1, 1]);
    back.add("d1h0", 2);
    back.record = scene.record.clone();
    back.record.capacity = 0;
    assert_eq!(lines(&back.plan()), ["d1h0 delete web-2"]);
    assert!(
        back.inventory
            .hosts
            .iter()
            .all(|h| matches!(h.view, View::Seen(_)))
    );
}

#[test]
fn a_first_try_with_another_definition_binds_nobody_to_its_revision() {
    let scene = Scene::new(&[1]);
    assert_eq!(anew(&scene.record, true).current().number, 1);
}
