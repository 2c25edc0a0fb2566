//! Instances are changed in place.

use std::time::Duration;

use vmss::hypervisor::fake::{Failure, FakeHost, Fault, Fleet, Volume};
use vmss::hypervisor::{FaultKind, Hypervisor, Pulse, Rework, Stage};
use vmss::inventory::{Phase, Power};
use vmss::model::{Model, Virtualization};
use vmss::names::InstanceId;
use vmss::units::Bytes;

use crate::support::*;

fn volume(fleet: &Fleet, ending: &str) -> Volume {
    let mut volumes = fleet.volumes("kvm1");
    volumes.retain(|v| v.name.ends_with(ending));
    assert_eq!(volumes.len(), 1, "{volumes:?}");
    volumes.remove(0)
}

#[test]
fn a_reimage_goes_in_the_promised_order() {
    let (fleet, host) = one_host();
    create_of(&*host, 1, &templated()).unwrap();
    let (image, model) = next();
    host.push_image(&image, STORE, &Pulse::silent()).unwrap();
    let (done, os, logs) = (
        fleet.steps(),
        volume(&fleet, "-os.qcow2"),
        volume(&fleet, "-logs.qcow2"),
    );
    rework(&*host, 1, &model, Rework::Reimage).unwrap();
    let steps: Vec<String> = fleet.journal()[done..].iter().map(|s| short(s)).collect();
    assert_eq!(
        steps,
        [
            "note the change of web-1",
            "define web-1 anew",
            "ask web-1 to shut down",
            "make volume os.qcow2",
            "grow volume logs.qcow2",
            "make volume cache.qcow2",
            "make volume seed.img",
            "write volume seed.img",
            "start web-1",
            "mark web-1 as ready",
        ]
    );
    assert_eq!(
        fleet.log().last().map(String::as_str),
        Some("kvm1: reimage web-1")
    );
    let (new, grown) = (volume(&fleet, "-os.qcow2"), volume(&fleet, "-logs.qcow2"));
    assert_ne!(new.serial, os.serial, "another disk under the old one's name");
    assert_eq!(new.image, Some(model.image.digest.clone()));
    assert_eq!(
        (grown.serial, grown.size),
        (logs.serial, Bytes::gib(6)),
        "the same disk"
    );
    let domain = fleet.domains("kvm1").remove(0);
    assert_eq!((domain.memory, domain.power), (Bytes::gib(2), Power::Running));
    assert!(audit(&fleet).is_empty(), "{:?}", audit(&fleet));

    // A restart with less: disks don't shrink, and those that are wanted no more go last.
    let done = fleet.steps();
    let less = Model {
        image: model.image.clone(),
        ..templated()
    };
    rework(&*host, 1, &less, Rework::Restart).unwrap();
    let steps: Vec<String> = fleet.journal()[done..].iter().map(|s| short(s)).collect();
    assert_eq!(
        steps[5..],
        ["start web-1", "delete volume cache.qcow2", "mark web-1 as ready"]
    );
    assert_eq!(volume(&fleet, "-logs.qcow2"), grown);
    assert_eq!(volume(&fleet, "-os.qcow2"), new, "a restart keeps it");
    assert!(audit(&fleet).is_empty(), "{:?}", audit(&fleet));
}

/// A step without its host, and with a volume's part instead of its whole name.
fn short(step: &str) -> String {
    let step = step.trim_start_matches("kvm1: ");
    match step.split_once("volume ") {
        Some((verb, name)) => format!("{verb}volume {}", name.rsplit('-').next().unwrap_or(name)),
        None => step.to_owned(),
    }
}

#[test]
fn what_the_host_refuses_is_refused_while_the_guest_runs() {
    let fleet = Fleet::new();
    let made_of = FakeHost {
        kvm: false,
        ..FakeHost::default()
    };
    fleet.add_host(&label("kvm1"), made_of);
    let host = open(&fleet, "kvm1");
    create(&*host, 1).unwrap();
    let before = instance(&*host, 1);
    let wants_kvm = Model {
        virtualization: Virtualization::Kvm,
        ..model()
    };
    for how in [Rework::Live, Rework::Restart, Rework::Reimage] {
        fails(rework(&*host, 1, &wants_kvm, how), FaultKind::Unsupported);
        assert_eq!(instance(&*host, 1), before);
    }
    let (_, without_image) = next();
    fails(
        rework(&*host, 1, &without_image, Rework::Reimage),
        FaultKind::Missing,
    );
    assert_eq!(instance(&*host, 1), before);
    assert!(audit(&fleet).is_empty(), "{:?}", audit(&fleet));
}

#[test]
fn a_change_that_fails_is_gone_on_with() {
    let (fleet, host) = one_host();
    create_of(&*host, 1, &templated()).unwrap();
    let (image, model) = next();
    host.push_image(&image, STORE, &Pulse::silent()).unwrap();
    for stage in [Stage::Disks, Stage::Start] {
        fleet.inject("kvm1", Fault::Fails(Failure::new(stage, FaultKind::Other)));
        fails(rework(&*host, 1, &model, Rework::Reimage), FaultKind::Other);
        let seen = instance(&*host, 1).unwrap();
        assert_eq!((seen.meta.phase, seen.power), (Phase::Changing, Power::Off));
        assert_eq!(audit(&fleet)[0], "kvm1: web-1 is half changed");
        fleet.heal("kvm1");
    }
    rework(&*host, 1, &model, Rework::Live).unwrap();
    assert_eq!(instance(&*host, 1).unwrap().power, Power::Running);
    assert!(audit(&fleet).is_empty(), "{:?}", audit(&fleet));
}

#[test]
fn a_deaf_guest_is_switched_off_in_the_end() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    fleet.inject("kvm1", Fault::IgnoresShutdown(Some(InstanceId(1))));
    let took = |act: &dyn Fn(&dyn Hypervisor)| {
        let began = fleet.clock().now();
        act(&*host);
        fleet.clock().now().duration_since(began).as_secs()
    };
    let patience = Duration::from_secs(30);
    let reimaged = |h: &dyn Hypervisor| rework(h, 1, &model(), Rework::Reimage).unwrap();
    assert_eq!(took(&reimaged), 20);
    let restart = |h: &dyn Hypervisor| h.restart(&reference(1), patience, &Pulse::silent()).unwrap();
    assert_eq!(took(&restart), 30);
    let stop = |h: &dyn Hypervisor| h.stop(&reference(1), patience, &Pulse::silent()).unwrap();
    assert_eq!(took(&stop), 30);
    assert_eq!(took(&stop), 0, "it is off");
}
