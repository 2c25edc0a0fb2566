//! On a fleet where nothing goes wrong.

use std::time::Duration;

use vmss::hypervisor::fake::{FakeHost, Fault, Fleet};
use vmss::hypervisor::{FaultKind, Pulse, Pushed};
use vmss::inventory::{Phase, Power};
use vmss::model::{Clone as CloneMode, Model, Virtualization};
use vmss::names::InstanceId;
use vmss::plan::action::InstanceRef;
use vmss::units::Bytes;

use crate::support::*;

#[test]
fn an_instance_is_made_in_the_promised_order_and_goes_in_the_promised_order() {
    let (fleet, host) = one_host();
    create_of(&*host, 1, &templated()).unwrap();
    let stem = "kvm1: make volume web-1-";
    let steps = fleet.journal();
    assert_eq!(steps.len(), 9, "{steps:#?}");
    assert_eq!(steps[2], "kvm1: define web-1");
    assert!(steps[3].starts_with(stem) && steps[3].ends_with("-os.qcow2"));
    assert!(steps[4].starts_with(stem) && steps[4].ends_with("-logs.qcow2"));
    assert!(steps[5].starts_with(stem) && steps[5].ends_with("-seed.img"));
    assert!(steps[6].starts_with("kvm1: write volume web-1-"));
    assert_eq!(steps[7..], ["kvm1: start web-1", "kvm1: mark web-1 as ready"]);
    let made = instance(&*host, 1).unwrap();
    assert_eq!((made.power, made.meta.phase), (Power::Running, Phase::Ready));
    assert_eq!(made.meta.volumes.len(), 3);
    assert!(audit(&fleet).is_empty(), "{:?}", audit(&fleet));

    host.delete(
        &reference(1),
        Duration::from_secs(30),
        &uses(&*host),
        &Pulse::silent(),
    )
    .unwrap();
    let steps = &fleet.journal()[9..];
    assert_eq!(steps.len(), 6, "{steps:#?}");
    assert_eq!(
        steps[..2],
        [
            "kvm1: mark web-1 as being deleted",
            "kvm1: ask web-1 to shut down"
        ]
    );
    assert!(
        steps[2..5]
            .iter()
            .all(|s| s.starts_with("kvm1: delete volume web-1-"))
    );
    assert_eq!(steps[5], "kvm1: undefine web-1");
    assert_eq!(host.delete_image(&model().image.digest, &[STORE]), Ok(true));
    assert!(fleet.traces(&web(), &[STORE]).is_empty());
    let calls = [
        "push image abababababab",
        "create web-1",
        "observe web",
        "read who uses what",
        "delete web-1",
    ];
    for (logged, call) in fleet.log().iter().zip(calls) {
        assert_eq!(*logged, format!("kvm1: {call}"));
    }
}

#[test]
fn images_are_sent_once_and_kept_while_used() {
    let (fleet, host) = one_host();
    let digest = model().image.digest;
    let push = |store| host.push_image(&image(), store, &Pulse::silent());
    assert_eq!(push(STORE), Ok(Pushed::Sent));
    assert_eq!(push(STORE), Ok(Pushed::Present));
    assert_eq!(push(OTHER), Ok(Pushed::Present));
    assert!(seen(&*host).bases.contains(&digest));
    create(&*host, 1).unwrap();
    assert_eq!(host.delete_image(&digest, &[STORE]), Ok(false));
    assert!(host.images().unwrap()[0].users.contains(&"web-1".to_owned()));
    fails(
        host.delete_volume(&host.images().unwrap()[0].volume, &uses(&*host)),
        FaultKind::NotOurs,
    );
    delete(&*host, 1).unwrap();
    assert_eq!(host.delete_image(&digest, &[STORE]), Ok(true));
    assert_eq!(host.delete_image(&digest, &[STORE]), Ok(true));
    assert!(fleet.copies("kvm1").is_empty());
    fails(
        host.create(&spec(2), &model(), &Pulse::silent()),
        FaultKind::Missing,
    );
    assert_eq!(instance(&*host, 2), None, "not even a domain");
}

#[test]
fn a_full_clone_takes_its_whole_disk_and_depends_on_nothing() {
    let (fleet, host) = one_host();
    let full = Model {
        clone: CloneMode::Full,
        ..model()
    };
    let before = seen(&*host).pool_free;
    create_of(&*host, 1, &full).unwrap();
    assert!(seen(&*host).pool_free + Bytes::gib(10) < before);
    assert_eq!(host.delete_image(&full.image.digest, &[STORE]), Ok(true));
    assert!(audit(&fleet).is_empty(), "{:?}", audit(&fleet));
}

#[test]
fn shared_seeds_are_seen_and_outlive_their_instances() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    create(&*host, 2).unwrap();
    let seeds = seen(&*host).seeds;
    assert_eq!(seeds.len(), 1);
    delete(&*host, 1).unwrap();
    assert!(audit(&fleet).is_empty(), "{:?}", audit(&fleet));
    delete(&*host, 2).unwrap();
    assert_eq!(seen(&*host).seeds, seeds);
    assert_eq!(
        audit(&fleet),
        [format!("kvm1: seed {} serves no instance", seeds[0].1)]
    );
    host.delete_volume(&seeds[0].1, &uses(&*host)).unwrap();
    host.delete_volume(&seeds[0].1, &uses(&*host)).unwrap();
    assert!(audit(&fleet).is_empty());
}

#[test]
fn what_is_there_is_counted() {
    let (fleet, host) = one_host();
    fleet.add_foreign_domain("kvm1", "mail", 3, Bytes::gib(2));
    create(&*host, 1).unwrap();
    assert_eq!(
        (seen(&*host).used_vcpus, seen(&*host).used_memory),
        (5, Bytes::gib(3))
    );
    fleet.set_power("kvm1", "web-1", Power::Off);
    fleet.set_power("kvm1", "mail", Power::Off);
    assert_eq!(
        (seen(&*host).used_vcpus, seen(&*host).used_memory),
        (2, Bytes::gib(1))
    );
    let facts = host.facts().unwrap();
    assert_eq!((facts.running, facts.used_vcpus, facts.cpus), (0, 0, 8));
    host.start(&reference(1)).unwrap();
    host.start(&reference(1)).unwrap();
    assert_eq!(host.facts().unwrap().running, 1);
    assert_eq!(host.addresses(&reference(1)).unwrap().len(), 1);
    assert_eq!(host.addresses(&reference(7)), Ok(Vec::new()));
    fails(host.start(&reference(7)), FaultKind::Missing);
}

#[test]
fn another_stores_instance_is_shown_adopted_and_else_left_alone() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    let before = fleet.domains("kvm1");
    let theirs = InstanceRef {
        store: OTHER,
        ..reference(1)
    };
    fails(
        host.delete(&theirs, Duration::ZERO, &uses(&*host), &Pulse::silent()),
        FaultKind::NotOurs,
    );
    fails(host.start(&theirs), FaultKind::NotOurs);
    assert_eq!(fleet.domains("kvm1"), before);
    assert_eq!(host.observe(&watch(&web(), OTHER)).unwrap().instances.len(), 1);
    assert_eq!(host.adopt(&web(), OTHER, STORE), Ok(0));
    assert_eq!(host.adopt(&web(), STORE, OTHER), Ok(1));
    fails(delete(&*host, 1), FaultKind::NotOurs);
    host.delete(&theirs, Duration::ZERO, &uses(&*host), &Pulse::silent())
        .unwrap();
    assert!(fleet.domains("kvm1").is_empty());
    assert!(seen(&*host).unowned().is_empty(), "its disks went with it");
}

#[test]
fn checking_names_what_is_missing() {
    let fleet = Fleet::new();
    fleet.add_host(
        &label("kvm1"),
        FakeHost {
            kvm: false,
            lacks: ["br0".to_owned()].into(),
            ..FakeHost::default()
        },
    );
    let host = open(&fleet, "kvm1");
    let wants_kvm = Model {
        virtualization: Virtualization::Kvm,
        ..model()
    };
    let wrong = |model: &Model| {
        let findings = host.check(model).into_iter();
        let wrong: Vec<String> = findings.filter(|f| f.result.is_err()).map(|f| f.what).collect();
        wrong
    };
    assert_eq!(wrong(&model()), ["bridge br0"]);
    assert_eq!(wrong(&wants_kvm), ["bridge br0", "virtualization"]);
    fails(create_of(&*host, 1, &wants_kvm), FaultKind::Unsupported);
    fails(create(&*host, 1), FaultKind::Missing);
    fleet.inject("kvm1", Fault::Down);
    assert_eq!(wrong(&model()), ["connection"]);
}

#[test]
fn a_half_made_instance_is_finished_by_creating_it_again() {
    let (fleet, host) = one_host();
    fleet.inject("kvm1", Fault::start_of(InstanceId(1), FaultKind::Other));
    fails(create(&*host, 1), FaultKind::Other);
    assert_eq!(instance(&*host, 1).unwrap().meta.phase, Phase::Creating);
    assert_eq!(audit(&fleet), ["kvm1: web-1 is half made"]);
    fleet.heal("kvm1");
    create(&*host, 1).unwrap();
    assert!(audit(&fleet).is_empty(), "{:?}", audit(&fleet));
}
