use super::*;
use crate::inventory::{Nameless, Power};
use crate::ownership::sort_out;
use crate::plan::plan;
use crate::plan::testing::{OTHER_STORE, Scene, at, label};

const ONE: InstanceId = InstanceId(1);

/// An instance of two hosts of two fault domains, and a copy of its domain on the other host.
fn doubled() -> Scene {
    let mut scene = Scene::new(&[1, 1]);
    let copy = scene.add("d0h0", 1).clone();
    scene.host("d1h0").instances.push(copy);
    scene.record.capacity = 1;
    scene.absorb();
    scene
}

/// The domain of instance 2 is there, and the record knows nothing of it.
fn forgotten() -> Scene {
    let mut scene = Scene::new(&[1, 1]);
    scene.add("d0h0", 1);
    scene.add("d1h0", 2);
    scene.record.capacity = 1;
    scene.record.known.remove(&InstanceId(2));
    scene.absorb();
    scene
}

/// Whether it is broken, or on a host that is being emptied: nothing is done to either copy, and nothing made in their place.
#[test]
fn no_instance_is_made_in_place_of_a_double() {
    let mut scene = doubled();
    scene.set.repair.enabled = true;
    scene.set.health.probe = crate::scaleset::Probe::Tcp { port: 80 };
    let answer = crate::inventory::Answer::status(503, Some("Service Unavailable"), None);
    scene.inventory.answers.insert(ONE, answer);
    let health = scene.set.health.clone();
    for second in 0..50 {
        let inventory = scene.inventory.clone();
        scene.record.heed(&inventory, &health, at(second * 5));
    }
    let plan = |scene: &Scene| {
        let situation = Situation {
            now: at(10_000),
            ..scene.situation()
        };
        plan(situation).steps
    };
    assert_eq!(plan(&scene), [], "it is not repaired");
    for host in ["d0h0", "d1h0"] {
        let cordon = crate::record::Cordon {
            by: "ann".into(),
            at: at(0),
            drain: true,
            migrate: false,
        };
        let mut scene = scene.clone();
        scene.record.cordons.insert(label(host), cordon);
        assert_eq!(plan(&scene), [], "it does not leave {host}");
    }
}

/// What can't be seen is not gone: the copy that is seen is neither started nor changed, until an operator has said that it counts.
#[test]
fn a_double_stays_one_while_a_host_of_it_is_out_of_sight() {
    let mut scene = doubled();
    scene.host("d0h0").instances[0].power = Power::Off;
    scene.absorb();
    let seen = scene.inventory.clone();
    scene.lose("d1h0");
    scene.absorb();
    assert!(scene.inventory.odd.is_double(ONE));
    assert_eq!(plan(scene.situation()).steps, []);
    let refused = settle(scene.situation(), ONE, &label("d1h0"));
    assert_eq!(refused, Err(Unsettled::Hidden));
    let settlement = settle(scene.situation(), ONE, &label("d0h0")).unwrap();
    assert_eq!((settlement.dropped.len(), settlement.hidden.len()), (0, 1));
    let mut settled = scene.clone();
    settled.record.settle(ONE, &settlement);
    settled.absorb();
    assert!(!settled.inventory.odd.is_double(ONE));
    // Or until the host was seen without it.
    scene.inventory = seen;
    scene.host("d1h0").instances.clear();
    scene.absorb();
    scene.lose("d1h0");
    scene.absorb();
    assert!(!scene.inventory.odd.is_double(ONE));
}

#[test]
fn the_copy_that_is_kept_is_noted_and_the_other_is_dropped_with_no_volume() {
    let mut scene = doubled();
    let settlement = settle(scene.situation(), ONE, &label("d1h0")).unwrap();
    assert_eq!(settlement.fault_domain, label("d1"));
    let dropped: Vec<(&Label, &str)> = (settlement.steps.iter())
        .map(|step| (&step.host, step.action.verb()))
        .collect();
    assert_eq!(
        dropped,
        [(&label("d0h0"), "drop copy"), (&label("d1h0"), "note again")]
    );
    scene.record.settle(ONE, &settlement);
    scene.record.reserve(&settlement.steps, Uuid::nil(), at(0));
    assert_eq!(scene.record.known[&ONE].host, label("d1h0"));
    let uuid = scene.record.known[&ONE].uuid;
    assert!(scene.record.warrants.covers(&label("d0h0"), ONE, uuid));
    assert!(!scene.record.warrants.covers(&label("d1h0"), ONE, uuid));
}

#[test]
fn what_is_no_double_or_not_on_that_host_is_not_settled() {
    let mut scene = doubled();
    let elsewhere = settle(scene.situation(), ONE, &label("d2h0"));
    assert!(matches!(elsewhere, Err(Unsettled::NotThere(d)) if d.places.len() == 2));
    scene.host("d1h0").instances.clear();
    scene.inventory.odd = Default::default();
    scene.absorb();
    let once = settle(scene.situation(), ONE, &label("d0h0"));
    assert_eq!(once, Err(Unsettled::NoDouble));
}

/// Nothing of the copy goes as long as it might be what the kept one uses.
#[test]
fn volumes_of_a_dropped_copy_go_only_once_both_hosts_are_known_to_have_folders_of_their_own() {
    use crate::names::PoolMark;
    let mut scene = doubled();
    let settlement = settle(scene.situation(), ONE, &label("d1h0")).unwrap();
    scene.record.settle(ONE, &settlement);
    scene.record.reserve(&settlement.steps, Uuid::nil(), at(0));
    let copy = std::mem::take(&mut scene.host("d0h0").instances);
    scene.inventory.odd = Default::default();
    scene.host("d1h0").instances = copy;
    scene.volume("d0h0", 1);
    scene.volume("d1h0", 1);
    let swept = |scene: &mut Scene| {
        let plan = scene.plan();
        let gone: Vec<(String, String)> = (plan.steps.iter())
            .filter(|s| s.action.verb() == "delete volume")
            .map(|s| (s.host.to_string(), s.why.to_string()))
            .collect();
        gone
    };
    assert_eq!(swept(&mut scene), [], "nobody has marked a pool yet");
    let mark = |scene: &Scene, host: &str| {
        let uri = &scene.set.host(&label(host)).unwrap().uri;
        PoolMark::new(scene.record.store, uri)
    };
    assert!(scene.record.known.contains_key(&ONE));
    let (first, second) = (mark(&scene, "d0h0"), mark(&scene, "d1h0"));
    scene.host("d0h0").marks.insert(first.clone());
    assert_eq!(swept(&mut scene), [], "the other host has not marked its own yet");
    scene.host("d1h0").marks.insert(second.clone());
    let why = "the instance was there twice, and the copy on d1h0 is kept".to_owned();
    assert_eq!(swept(&mut scene), [("d0h0".to_owned(), why)]);
    scene.host("d0h0").marks.insert(second);
    scene.host("d1h0").marks.insert(first);
    assert_eq!(swept(&mut scene), [], "the folder is one and the same");
}

#[test]
fn a_double_whose_copy_has_a_warrant_is_still_a_double_and_keeps_its_volumes() {
    let mut scene = doubled();
    let settlement = settle(scene.situation(), ONE, &label("d1h0")).unwrap();
    scene.record.settle(ONE, &settlement);
    scene.record.reserve(&settlement.steps, Uuid::nil(), at(0));
    scene.volume("d0h0", 1);
    scene.volume("d1h0", 1);
    let plan = scene.plan();
    assert_eq!(plan.steps, [], "the copy could not be dropped: nothing is done");
    assert!(scene.inventory.odd.is_double(ONE));
}

#[test]
fn a_forgotten_instance_is_taken_in_and_nothing_is_deleted_for_it() {
    let mut scene = forgotten();
    let adoption = adoption(scene.situation(), InstanceId(2), None).unwrap();
    assert_eq!(
        (adoption.why, &adoption.host),
        (Strangeness::Forgotten, &label("d1h0"))
    );
    let request = Request::of(crate::request::Verb::InstanceAdopt, "ann@ops1", at(1));
    adoption.note(&mut scene.record, &request);
    assert_eq!(scene.record.request, Some(request), "the capacity went up for it");
    assert_eq!(scene.record.capacity, 2);
    let plan = scene.plan();
    assert_eq!((plan.steps.len(), plan.report.seen), (0, 2), "{:?}", plan.steps);
}

#[test]
fn what_would_be_there_twice_is_not_taken_in() {
    let two = InstanceId(2);
    let refused = |scene: &Scene| adoption(scene.situation(), two, None).unwrap_err();
    // Its id is another's.
    let mut scene = forgotten();
    let mut other = scene.record.known[&ONE].clone();
    other.uuid = Uuid::from_u128(7);
    scene.record.known.insert(two, other.clone());
    sort_out(&scene.record, &mut scene.inventory);
    assert_eq!(refused(&scene), Refused::IdTaken(label("d0h0")));
    // Its address is.
    let mut scene = forgotten();
    let address = Ipv4Addr::new(10, 0, 0, 5);
    sort_out(&scene.record, &mut scene.inventory);
    scene.record.known.get_mut(&ONE).unwrap().addresses = vec![Some(address)];
    let mut again = scene.inventory.odd.aside().next().unwrap().1.clone();
    again.meta.addresses = vec![Some(address)];
    scene.inventory.odd = Default::default();
    scene.host("d1h0").instances = vec![again.clone()];
    sort_out(&scene.record, &mut scene.inventory);
    assert_eq!(refused(&scene), Refused::AddressTaken(address, ONE));
    // It is there on two hosts.
    let mut scene = forgotten();
    scene.host("d0h0").instances.push(again);
    sort_out(&scene.record, &mut scene.inventory);
    assert!(matches!(refused(&scene), Refused::Several(hosts) if hosts.len() == 2));
    let one = adoption(scene.situation(), two, Some(&label("d0h0"))).unwrap_err();
    assert!(matches!(one, Refused::Twice(hosts) if hosts.len() == 2));
}

#[test]
fn what_is_half_made_or_disowned_or_renamed_is_not_taken_in() {
    let two = InstanceId(2);
    let change = |how: fn(&mut Record, &mut Instance)| {
        let mut scene = forgotten();
        let mut instance = scene.inventory.odd.aside().next().unwrap().1.clone();
        how(&mut scene.record, &mut instance);
        scene.inventory.odd = Default::default();
        scene.host("d1h0").instances = vec![instance];
        sort_out(&scene.record, &mut scene.inventory);
        adoption(scene.situation(), two, None).unwrap_err()
    };
    let of_the_first = "web-1-00000000-os.qcow2";
    assert_eq!(
        change(|_, i| i.meta.volumes = vec!["web-1-00000000-os.qcow2".into()]),
        Refused::OthersDisk(of_the_first.into())
    );
    assert_eq!(change(|_, i| i.meta.phase = Phase::Creating), Refused::Half);
    assert_eq!(
        change(|_, i| i.meta.moving_to = Some(label("d0h0"))),
        Refused::Moving(label("d0h0"))
    );
    assert!(matches!(
        change(|_, i| i.name = "spare".into()),
        Refused::Renamed { .. }
    ));
    let disowned = change(|record, i| {
        record.disowned.insert(i.uuid);
    });
    assert!(matches!(disowned, Refused::Disowned(_)));
}

/// One that somebody has renamed is remembered by its UUID, and comes back by an operator's word once it has its name again.
#[test]
fn a_renamed_instance_is_told_as_such_for_good_and_may_be_taken_in_under_its_name() {
    let mut scene = Scene::new(&[1]);
    scene.add("d0h0", 1).power = Power::Running;
    scene.absorb();
    scene.host("d0h0").instances[0].name = "forensic".into();
    for look in 1..=3 {
        scene.absorb();
        let why: Vec<Strangeness> = scene.inventory.odd.strangers.iter().map(|s| s.why).collect();
        assert_eq!(why, [Strangeness::Renamed], "look {look}");
    }
    let refused = adoption(scene.situation(), ONE, None).unwrap_err();
    assert!(matches!(refused, Refused::Renamed { .. }));
    let mut back = scene.inventory.odd.aside().next().unwrap().1.clone();
    back.name = "web-1".into();
    scene.inventory.odd = Default::default();
    scene.host("d0h0").instances = vec![back];
    scene.absorb();
    assert!(adoption(scene.situation(), ONE, None).is_ok());
}

#[test]
fn a_copy_on_another_host_is_none_of_the_sets_while_the_host_of_its_instance_is_out_of_sight() {
    let mut scene = doubled();
    let uuid = scene.record.known[&ONE].uuid;
    let cause = Cause::Settled { kept: label("d0h0") };
    scene
        .record
        .warrants
        .issue(&label("d1h0"), ONE, uuid, cause, at(0));
    scene.lose("d0h0");
    let plan = scene.plan();
    let why: Vec<Strangeness> = scene.inventory.odd.strangers.iter().map(|s| s.why).collect();
    assert_eq!(why, [Strangeness::Elsewhere]);
    assert_eq!(
        scene.record.known[&ONE].host,
        label("d0h0"),
        "the record still says where it is"
    );
    assert_eq!(plan.steps, []);
}

/// Somebody has copied the domain to the other host, and keeps the original under another name.
#[test]
fn a_copy_of_what_has_another_name_on_its_own_host_is_no_moved_member() {
    let mut scene = doubled();
    scene.host("d0h0").instances[0].name = "kept".into();
    scene.record.capacity = 0;
    let plan = scene.plan();
    assert_eq!(plan.steps, [], "whichever of them is the instance, it stays");
    assert!(scene.inventory.odd.moved.is_empty() && scene.inventory.odd.is_double(ONE));
    assert_eq!(scene.record.known[&ONE].host, label("d0h0"));
    let told: Vec<String> = plan.report.waits.iter().map(ToString::to_string).collect();
    assert!(
        told.iter()
            .any(|t| t.contains("d0h0 (as kept,") && t.contains("settle 1 --keep d1h0")),
        "{told:?}"
    );
    let renamed = settle(scene.situation(), ONE, &label("d0h0"));
    assert_eq!(
        renamed,
        Err(Unsettled::Renamed {
            is: "kept".to_owned()
        })
    );
    let settlement = settle(scene.situation(), ONE, &label("d1h0")).unwrap();
    assert_eq!((settlement.dropped.len(), settlement.spared.len()), (0, 1));
    let verbs: Vec<&str> = settlement.steps.iter().map(|s| s.action.verb()).collect();
    assert_eq!(
        verbs,
        ["note again"],
        "nothing is done to the one that is kept under another name"
    );
    scene.record.settle(ONE, &settlement);
    scene.record.capacity = 1;
    scene.absorb();
    assert!(!scene.inventory.odd.is_double(ONE));
    assert_eq!(scene.inventory.odd.strangers.len(), 1);
}

/// A guest without a note, or with another's, has the UUID all the same.
#[test]
fn whatever_has_the_uuid_on_the_host_of_the_record_makes_what_is_elsewhere_a_copy() {
    let mut scene = doubled();
    let uuid = scene.record.known[&ONE].uuid;
    scene.host("d0h0").instances.clear();
    scene.host("d0h0").nameless = vec![Nameless {
        name: "kept".to_owned(),
        uuid,
        runs: true,
        is_garbled: false,
    }];
    scene.absorb();
    assert!(scene.inventory.odd.is_double(ONE));
    scene.host("d0h0").nameless.clear();
    scene.absorb();
    assert!(!scene.inventory.odd.is_double(ONE));
    assert_eq!(
        scene.inventory.odd.moved.len(),
        1,
        "seen at one place only, it has been moved"
    );
}

/// The member is where the record says: what is elsewhere under another name is nobody's concern.
#[test]
fn a_copy_under_another_name_does_not_make_a_member_a_double() {
    let mut scene = doubled();
    scene.inventory.odd = Default::default();
    let mut copy = scene.host("d0h0").instances[0].clone();
    copy.name = "kept".into();
    scene.host("d1h0").instances.push(copy);
    scene.absorb();
    assert!(!scene.inventory.odd.is_double(ONE));
    assert_eq!(scene.inventory.odd.strangers.len(), 1);
}

#[test]
fn under_another_store_or_an_old_record_nothing_is_said_of_domains() {
    let mut scene = doubled();
    assert_eq!(bar(scene.situation()), None);
    scene.host("d0h0").instances[0].meta.store = OTHER_STORE;
    assert_eq!(bar(scene.situation()), Some(Bar::OtherStore));
    let mut scene = Scene::new(&[1]);
    scene.add("d0h0", 9);
    scene.record.known.clear();
    scene.record.next_id = ONE;
    scene.absorb();
    assert_eq!(bar(scene.situation()), Some(Bar::RecordOld));
    let plan = plan(scene.situation());
    assert_eq!(plan.steps, []);
}

/// An instance that was deleted by the set's own word is there again, whole, within the hour that its warrant is kept.
#[test]
fn one_that_is_put_back_after_its_deletion_counts_for_nothing_and_costs_nobody() {
    let mut scene = forgotten();
    scene.warrant("d1h0", 2, Cause::Operator);
    scene.volume("d1h0", 2);
    let plan_now = scene.plan();
    assert_eq!(plan_now.steps, [], "neither it goes, nor another in its place");
    assert_eq!(plan_now.report.seen, 1);
    assert_eq!(scene.inventory.odd.strangers[0].why, Strangeness::Forgotten);
    let adoption = adoption(scene.situation(), InstanceId(2), None).unwrap();
    let request = Request::of(crate::request::Verb::InstanceAdopt, "ann@ops1", at(1));
    adoption.note(&mut scene.record, &request);
    let plan_then = scene.plan();
    assert_eq!(
        (plan_then.steps, plan_then.report.seen),
        (Vec::new(), 2),
        "taken in it stays"
    );
    assert!(
        !scene
            .record
            .warrants
            .covers(&label("d1h0"), InstanceId(2), adoption.instance.uuid)
    );
}

#[test]
fn one_that_was_only_to_be_made_and_comes_late_goes_and_costs_nobody() {
    let mut scene = forgotten();
    scene.warrant("d1h0", 2, Cause::UnfinishedCreation);
    let steps: Vec<(Label, Option<InstanceId>, &str)> = (scene.plan().steps.iter())
        .map(|s| (s.host.clone(), s.action.instance(), s.action.verb()))
        .collect();
    assert_eq!(steps, [(label("d1h0"), Some(InstanceId(2)), "delete")]);
}
