//! Instances are stopped, started again, and protected.

use std::time::Duration;

use vmss::hypervisor::{ConsoleLog, FaultKind, Hypervisor, HypervisorError, Pulse, Rework, Viewer};
use vmss::inventory::{Instance, Metadata, Phase, Power, Protection};
use vmss::plan::action::InstanceRef;
use vmss::units::Bytes;

use super::{Fixture, kind, until};

fn stop(host: &dyn Hypervisor, instance: &InstanceRef) {
    // The first time the guest is asked; the others find it off.
    host.stop(instance, Duration::from_millis(100), &Pulse::silent())
        .unwrap_or_else(|e| panic!("stopping {}: {e}", instance.name));
}

fn state(seen: &Instance) -> (Power, Phase, bool) {
    (seen.power, seen.meta.phase, seen.meta.stopped)
}

pub fn stopping_is_noted_and_starting_takes_the_note_back(host: &dyn Hypervisor, f: &Fixture) {
    let instance = f.create(host, 1);
    let before = f.instance(host, 1).unwrap();
    for _ in 0..2 {
        stop(host, &instance);
        let seen = f.instance(host, 1).unwrap();
        assert_eq!(state(&seen), (Power::Off, Phase::Ready, true));
    }
    // Making it again is no start.
    f.create(host, 1);
    assert_eq!(f.instance(host, 1).unwrap().power, Power::Off);
    for _ in 0..2 {
        host.start(&instance).expect("it starts");
        assert_eq!(f.instance(host, 1), Some(before.clone()));
    }
}

pub fn a_stopped_instance_is_changed_and_stays_off(host: &dyn Hypervisor, f: &Fixture) {
    let instance = f.create(host, 1);
    stop(host, &instance);
    let mut model = f.model.clone();
    model.memory = model.memory + Bytes::mib(16);
    for how in [Rework::Reimage, Rework::Restart] {
        f.rework(host, 1, &model, how);
        let seen = f.instance(host, 1).unwrap();
        assert_eq!(state(&seen), (Power::Off, Phase::Ready, true));
        assert_eq!(seen.meta.revision, 2);
    }
    host.start(&instance).expect("it starts as it was defined anew");
    let seen = f.instance(host, 1).unwrap();
    assert_eq!(state(&seen), (Power::Running, Phase::Ready, false));
}

pub fn a_restarted_instance_is_as_it_was(host: &dyn Hypervisor, f: &Fixture) {
    let instance = f.create_of(host, 1, &f.with_disks(&["logs"]));
    let before = f.instance(host, 1);
    for shutdown in [Duration::ZERO, Duration::from_millis(100)] {
        host.restart(&instance, shutdown, &Pulse::silent())
            .expect("it is started again");
        assert_eq!(f.instance(host, 1), before);
    }
    stop(host, &instance);
    host.restart(&instance, Duration::ZERO, &Pulse::silent())
        .expect("one that is off is started");
    assert_eq!(f.instance(host, 1), before);
}

pub fn protection_is_noted_and_kept_through_a_reimage(host: &dyn Hypervisor, f: &Fixture) {
    let instance = f.create(host, 1);
    let before = f.instance(host, 1).unwrap();
    for protection in [Protection::ScaleIn, Protection::All, Protection::All] {
        host.protect(&instance, protection).expect("it is noted");
        let meta = Metadata {
            protection,
            ..before.meta.clone()
        };
        assert_eq!(f.instance(host, 1).unwrap().meta, meta);
    }
    // The spec of a plan that knew nothing of it.
    f.rework(host, 1, &f.model, Rework::Reimage);
    assert_eq!(f.instance(host, 1).unwrap().meta.protection, Protection::All);
    stop(host, &instance);
    host.protect(&instance, Protection::None)
        .expect("one that is off has a note too");
    let seen = f.instance(host, 1).unwrap();
    assert_eq!(seen.meta.protection, Protection::None);
    assert!(seen.meta.stopped);
}

pub fn an_agent_that_can_not_answer_is_told_apart(host: &dyn Hypervisor, f: &Fixture) {
    let instance = f.create(host, 1);
    // Whether there is an agent, and is up by now, depends on the host and its image.
    if let Err(error) = host.ping(&instance) {
        let expected = [FaultKind::AgentAbsent, FaultKind::AgentSilent];
        assert!(expected.contains(&error.kind), "{error}");
    }
    stop(host, &instance);
    let error = host.ping(&instance).unwrap_err();
    assert_eq!(error.kind, FaultKind::NotRunning);
    f.delete(host, &instance);
    assert_eq!(kind(host.ping(&instance)), FaultKind::Missing);
}

/// Somebody who looks once and leaves.
struct Passer;

impl Viewer for Passer {
    fn typed(&mut self, _: Duration) -> Option<Vec<u8>> {
        None
    }
    fn show(&mut self, _: &[u8]) {}
}

pub fn a_guest_runs_commands_or_says_why_not(host: &dyn Hypervisor, f: &Fixture) {
    let instance = f.create(host, 1);
    let exec = |words: &[&str]| {
        let command: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        host.exec(&instance, &command, Duration::from_secs(20), &Pulse::silent())
    };
    // Whether there is an agent, and is up by now, depends on the host and its image.
    if host.ping(&instance).is_ok() {
        let ran = exec(&["echo", "a  b"]).expect("every guest has it");
        assert_eq!((ran.code, ran.stdout.as_slice()), (0, b"a  b\n".as_slice()));
        assert_eq!(exec(&["false"]).expect("every guest has it").code, 1);
        let ran = exec(&["no-such-program"]).expect("it is looked for in the guest");
        assert_eq!(ran.code, 127, "as shells say it");
    }
    stop(host, &instance);
    let error = exec(&["true"]).unwrap_err();
    assert_eq!(error.kind, FaultKind::NotRunning);
    f.delete(host, &instance);
    assert_eq!(kind(exec(&["true"])), FaultKind::Missing);
}

pub fn a_console_opens_or_says_why_not(host: &dyn Hypervisor, f: &Fixture) {
    let instance = f.create(host, 1);
    for force in [false, true] {
        if let Err(error) = host.console(&instance, force, &mut Passer) {
            // libvirt's simulation has none.
            assert_eq!(error.kind, FaultKind::Unsupported, "{error}");
        }
    }
    stop(host, &instance);
    let error = host.console(&instance, false, &mut Passer).unwrap_err();
    assert_eq!(error.kind, FaultKind::NotRunning);
    assert!(error.message.contains("not running"), "{error}");
    f.delete(host, &instance);
    assert_eq!(
        kind(host.console(&instance, false, &mut Passer)),
        FaultKind::Missing
    );
}

pub fn a_console_log_is_kept_as_long_as_its_instance(host: &dyn Hypervisor, f: &Fixture) {
    let instance = f.create(host, 1);
    let read = |last| host.console_log(&instance, last, &Pulse::silent());
    let whole = || read(Bytes::mib(1)).expect("it is kept");
    match read(Bytes::mib(1)) {
        // libvirt's simulation has none.
        Err(error) if error.kind == FaultKind::Unsupported => {}
        first => {
            first.expect("it is kept");
            says_something(host, f, &instance, &whole, &read);
        }
    }
    f.delete(host, &instance);
    assert_eq!(kind(read(Bytes::mib(1))), FaultKind::Missing);
    let mut unseen = |_: &[u8]| panic!("there is nothing to show");
    let followed = host.follow_console_log(&instance, 0, &Pulse::silent(), &mut unseen);
    assert_eq!(kind(followed), FaultKind::Missing);
}

fn says_something(
    host: &dyn Hypervisor,
    f: &Fixture,
    instance: &InstanceRef,
    whole: &dyn Fn() -> ConsoleLog,
    read: &dyn Fn(Bytes) -> Result<ConsoleLog, HypervisorError>,
) {
    until("the guest says something", || whole().text.len() > 8);
    stop(host, instance);
    let of_one_that_is_off = whole();
    assert!(!of_one_that_is_off.is_cut);
    assert_eq!(of_one_that_is_off.end, of_one_that_is_off.text.len() as u64);
    let end = read(Bytes(3)).expect("its end can be had");
    assert_eq!(
        end.text,
        of_one_that_is_off.text[of_one_that_is_off.text.len() - 3..]
    );
    assert!(end.is_cut);
    assert_eq!(end.end, of_one_that_is_off.end);

    host.start(instance).expect("it starts");
    until("it says more", || {
        whole().text.len() > of_one_that_is_off.text.len() + 8
    });
    let mut followed = Vec::new();
    let pulse = Pulse::silent();
    let mut show = |bytes: &[u8]| {
        followed.extend_from_slice(bytes);
        pulse.cancel();
    };
    host.follow_console_log(instance, 3, &pulse, &mut show)
        .expect("it is shown until nobody wants more");
    let by_now = whole().text;
    assert!(by_now[3..].starts_with(&followed) && !followed.is_empty());
    assert!(
        by_now.starts_with(&of_one_that_is_off.text),
        "a start takes nothing away"
    );

    // Another of the same name does not begin with what this one has said.
    f.delete(host, instance);
    f.create(host, 1);
    assert!(!whole().text.starts_with(&by_now));
}

pub fn a_copy_goes_without_its_volumes(host: &dyn Hypervisor, f: &Fixture) {
    let instance = f.create(host, 1);
    let meta = f.instance(host, 1).expect("it is there").meta;
    let silent = Pulse::silent();
    let names = || -> Vec<String> {
        let facts = host.volume_facts(&meta.volumes).expect("the pool is there");
        facts.into_iter().map(|v| v.name).collect()
    };
    assert_eq!(names(), meta.volumes);
    let claimed = vmss::plan::action::InstanceRef {
        store: vmss::names::StoreId(uuid::Uuid::from_u128(7)),
        ..instance.clone()
    };
    assert_eq!(
        kind(host.drop_copy(&claimed, Duration::ZERO, &silent)),
        FaultKind::NotOurs
    );
    for _ in 0..2 {
        host.drop_copy(&instance, Duration::ZERO, &silent)
            .expect("it goes, and may be gone");
        assert_eq!(f.instance(host, 1), None);
        assert_eq!(names(), meta.volumes, "they stay");
    }
    assert_eq!(host.volume_facts(&["gone".to_owned()]).expect("none"), []);
}
