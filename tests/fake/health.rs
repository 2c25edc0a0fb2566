//! How guests are, and what makes them ill.

use std::time::Duration;

use vmss::hypervisor::fake::{Agent, Fault, Fleet};
use vmss::hypervisor::{FaultKind, Hypervisor, Pulse, Rework};
use vmss::inventory::Power;

use crate::support::*;

const SILENT: &str = "no answer within 2 s";
const REFUSED: &str = "connection refused";
const ILL: &str = "503 Service Unavailable";

#[track_caller]
fn answers(fleet: &Fleet, host: &dyn Hypervisor) {
    assert_eq!(fleet.probe(reference(1).uuid).to_string(), "200");
    assert_eq!(host.ping(&reference(1)), Ok(()));
}

#[track_caller]
fn fails_to(fleet: &Fleet, words: &str) {
    assert_eq!(fleet.probe(reference(1).uuid).to_string(), words);
}

#[test]
fn a_guest_answers_once_it_has_booted_and_as_long_as_it_runs() {
    let (fleet, host) = one_host();
    fails_to(&fleet, SILENT);
    fails(host.ping(&reference(1)), FaultKind::Missing);
    fleet.set_boot_takes("kvm1", Duration::from_secs(30));
    create(&*host, 1).unwrap();
    fails_to(&fleet, REFUSED);
    fails(host.ping(&reference(1)), FaultKind::AgentAbsent);
    fleet.clock().sleep(Duration::from_secs(29));
    fails_to(&fleet, REFUSED);
    fleet.clock().sleep(Duration::from_secs(1));
    answers(&fleet, &*host);
    host.restart(&reference(1), Duration::ZERO, &Pulse::silent())
        .unwrap();
    fails_to(&fleet, REFUSED);
    fleet.clock().sleep(Duration::from_secs(30));
    answers(&fleet, &*host);
    assert_eq!(fleet.domains("kvm1")[0].power, Power::Running);
    for power in [Power::Off, Power::Crashed, Power::Paused] {
        fleet.set_power("kvm1", "web-1", power);
        fails_to(&fleet, SILENT);
        fails(host.ping(&reference(1)), FaultKind::NotRunning);
    }
}

#[test]
fn an_unhealthy_guest_is_well_once_it_is_started_anew() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    let fall_ill = || {
        fleet.set_unhealthy("kvm1", "web-1", true);
        fails_to(&fleet, ILL);
        fails(host.ping(&reference(1)), FaultKind::AgentSilent);
    };
    fall_ill();
    fleet.set_unhealthy("kvm1", "web-1", false);
    answers(&fleet, &*host);
    fall_ill();
    rework(&*host, 1, &model(), Rework::Live).unwrap();
    fails_to(&fleet, ILL);
    rework(&*host, 1, &model(), Rework::Reimage).unwrap();
    answers(&fleet, &*host);
    fall_ill();
    host.restart(&reference(1), Duration::ZERO, &Pulse::silent())
        .unwrap();
    answers(&fleet, &*host);
    fall_ill();
    delete(&*host, 1).unwrap();
    create(&*host, 1).unwrap();
    answers(&fleet, &*host);
}

#[test]
fn an_agent_that_broke_says_nothing_of_its_guest_until_that_is_started_anew() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    let restart = || host.restart(&reference(1), Duration::ZERO, &Pulse::silent());
    for (agent, kind) in [
        (Agent::Broken, FaultKind::AgentBroken),
        (Agent::Absent, FaultKind::AgentAbsent),
    ] {
        fleet.set_agent("kvm1", "web-1", agent);
        fails(host.ping(&reference(1)), kind);
        assert!(fleet.probe(reference(1).uuid).is_good(), "its guest is well");
        restart().unwrap();
        answers(&fleet, &*host);
    }
}

#[test]
fn guests_of_a_broken_image_never_get_healthy() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    let (image, next) = next();
    fleet.break_image(&image.image.digest);
    answers(&fleet, &*host);
    host.push_image(&image, STORE, &Pulse::silent()).unwrap();
    rework(&*host, 1, &next, Rework::Reimage).unwrap();
    fails_to(&fleet, ILL);
    host.restart(&reference(1), Duration::ZERO, &Pulse::silent())
        .unwrap();
    fails_to(&fleet, ILL);
    rework(&*host, 1, &model(), Rework::Reimage).unwrap();
    answers(&fleet, &*host);
}

#[test]
fn a_host_that_can_not_be_reached_is_not_a_guest_that_does_not_answer() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    for (fault, calls, guests) in [
        (Fault::Down, false, true),
        (Fault::CutGuests, true, false),
        (Fault::Dead, false, false),
    ] {
        fleet.inject("kvm1", fault.clone());
        assert_eq!(host.facts().is_ok(), calls, "{fault:?}");
        assert_eq!(fleet.probe(reference(1).uuid).is_good(), guests, "{fault:?}");
        assert!(host.ping(&reference(1)).is_err(), "{fault:?}");
        if fault != Fault::Dead {
            fleet.heal("kvm1");
            answers(&fleet, &*host);
        }
    }
    fleet.reboot("kvm1");
    assert_eq!(instance(&*host, 1).unwrap().power, Power::Off);
    host.start(&reference(1)).unwrap();
    answers(&fleet, &*host);
    fleet.inject("kvm1", Fault::Dead);
    fleet.heal("kvm1");
    assert_eq!(
        instance(&*host, 1).unwrap().power,
        Power::Off,
        "power came back, not the guests"
    );
}
