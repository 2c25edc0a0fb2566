//! The process is killed at every step in turn.

use std::time::Duration;

use vmss::hypervisor::fake::{Fleet, Volume};
use vmss::hypervisor::{FaultKind, Hypervisor, Pulse, Rework};
use vmss::inventory::{Phase, Power};
use vmss::units::Bytes;

use crate::support::*;

/// Kills `work` at every step, both right after it and right before the next one, and then does `after` in another
/// process.
fn at_every_step(
    prepare: impl Fn(&dyn Hypervisor),
    work: impl Fn(&dyn Hypervisor) -> Result<(), vmss::hypervisor::HypervisorError>,
    after: impl Fn(&Fleet, &dyn Hypervisor, usize),
) -> usize {
    let (fleet, host) = one_host();
    prepare(&*host);
    let before = fleet.steps();
    work(&*host).unwrap();
    let steps = fleet.steps() - before;
    for kill in [Fleet::kill_after, Fleet::kill_before] {
        for step in 0..steps {
            let (fleet, host) = one_host();
            prepare(&*host);
            let before = fleet.steps();
            kill(&fleet, step);
            let error = fails(work(&*host), FaultKind::Unreachable);
            assert_eq!(error.message, "process killed");
            assert!(fleet.is_killed());
            assert_eq!(fleet.steps(), before + step, "nothing happens after the kill");
            fails(host.facts(), FaultKind::Unreachable);
            fleet.revive();
            fails(host.facts(), FaultKind::Unreachable);
            after(&fleet, &*open(&fleet, "kvm1"), step);
        }
    }
    steps
}

fn nothing(_: &dyn Hypervisor) {}

#[test]
fn a_create_killed_anywhere_is_undone_by_delete() {
    for model in [model(), templated()] {
        let steps = at_every_step(
            nothing,
            |host| create_of(host, 1, &model),
            |fleet, host, step| {
                delete(host, 1).unwrap();
                for (_, seed) in seen(host).seeds {
                    host.delete_volume(&seed, &uses(host)).unwrap();
                }
                assert_eq!(host.delete_image(&model.image.digest, &[STORE]), Ok(true));
                let left = fleet.traces(&web(), &[STORE]);
                assert!(left.is_empty(), "killed at step {step}: {left:?}");
            },
        );
        assert_eq!(steps, 9);
    }
}

#[test]
fn a_create_killed_anywhere_is_finished_by_create() {
    for model in [model(), templated()] {
        at_every_step(
            nothing,
            |host| create_of(host, 1, &model),
            |fleet, host, step| {
                create_of(host, 1, &model).unwrap();
                let wrong = audit(fleet);
                assert!(wrong.is_empty(), "killed at step {step}: {wrong:?}");
                assert_eq!(instance(host, 1).unwrap().meta.phase, Phase::Ready);
            },
        );
    }
}

#[test]
fn a_delete_killed_anywhere_still_knows_whose_all_is_and_is_finished_by_delete() {
    let gone = |host: &dyn Hypervisor| {
        host.delete(
            &reference(1),
            Duration::from_secs(20),
            &uses(host),
            &Pulse::silent(),
        )
    };
    let steps = at_every_step(
        |host| create_of(host, 1, &templated()).unwrap(),
        gone,
        |fleet, host, step| {
            assert!(seen(host).unowned().is_empty(), "killed at step {step}");
            gone(host).unwrap();
            let wrong = audit(fleet);
            assert!(wrong.is_empty(), "killed at step {step}: {wrong:?}");
            assert_eq!(instance(host, 1), None);
        },
    );
    assert_eq!(steps, 6);
}

/// Instance 1 of the first model, and the image of the next.
fn before_a_reimage(host: &dyn Hypervisor) {
    create_of(host, 1, &templated()).unwrap();
    host.push_image(&next().0, STORE, &Pulse::silent()).unwrap();
}

#[test]
fn a_reimage_killed_anywhere_is_finished_by_any_other_change() {
    let model = next().1;
    for goes_on in [Rework::Live, Rework::Restart, Rework::Reimage] {
        let steps = at_every_step(
            before_a_reimage,
            |host| rework(host, 1, &model, Rework::Reimage),
            |fleet, host, step| {
                let at = format!("killed at step {step}, then {goes_on:?}");
                let seen = seen(host);
                assert!(seen.unowned().is_empty(), "{at}: {:?}", seen.unowned());
                let logs = |v: &&Volume| v.name.ends_with("logs.qcow2");
                let kept = fleet.volumes("kvm1").iter().find(logs).map(|v| v.serial);
                // Before its note was written nothing happened: that is a reimage still to be ordered.
                let begun = seen.instances[0].meta.phase == Phase::Changing;
                let how = if begun { goes_on } else { Rework::Reimage };
                rework(host, 1, &model, how).unwrap();
                for (_, seed) in seen.seeds {
                    host.delete_volume(&seed, &uses(host)).unwrap();
                }
                let wrong = audit(fleet);
                assert!(wrong.is_empty(), "{at}: {wrong:?}");
                let meta = instance(host, 1).unwrap().meta;
                assert_eq!((meta.phase, meta.revision), (Phase::Ready, 2), "{at}");
                let volumes = fleet.volumes("kvm1");
                assert_eq!(volumes.len(), 4, "{at}: {volumes:?}");
                let logs = volumes.iter().find(logs).unwrap();
                assert_eq!((Some(logs.serial), logs.size), (kept, Bytes::gib(6)), "{at}");
                assert_eq!(fleet.probe(reference(1).uuid).to_string(), "200", "{at}");
            },
        );
        assert_eq!(steps, 10);
    }
}

#[test]
fn a_reimage_killed_anywhere_can_be_taken_back_or_deleted() {
    let model = next().1;
    for is_deleted in [true, false] {
        at_every_step(
            before_a_reimage,
            |host| rework(host, 1, &model, Rework::Reimage),
            |fleet, host, step| {
                if is_deleted {
                    delete(host, 1).unwrap();
                    for image in [templated().image, next().1.image] {
                        assert_eq!(host.delete_image(&image.digest, &[STORE]), Ok(true));
                    }
                    let left = fleet.traces(&web(), &[STORE]);
                    assert!(left.is_empty(), "killed at step {step}: {left:?}");
                    return;
                }
                // Its old model, whose image is still there.
                host.rework(
                    &spec_of(1, &templated()),
                    &templated(),
                    Rework::Reimage,
                    Duration::ZERO,
                    &uses(host),
                    &Pulse::silent(),
                )
                .unwrap();
                let wrong = audit(fleet);
                assert!(wrong.is_empty(), "killed at step {step}: {wrong:?}");
                assert_eq!(instance(host, 1).unwrap().meta.volumes.len(), 3);
                assert_eq!(fleet.volumes("kvm1").len(), 3, "killed at step {step}");
            },
        );
    }
}

#[test]
fn a_stop_killed_anywhere_is_no_fault_to_repair_and_a_restart_is_one() {
    let patience = Duration::from_secs(20);
    at_every_step(
        |host| create(host, 1).unwrap(),
        |host| host.stop(&reference(1), patience, &Pulse::silent()),
        |_, host, _| {
            let seen = instance(host, 1).unwrap();
            assert!(seen.power == Power::Running || seen.meta.stopped, "{seen:?}");
            host.stop(&reference(1), patience, &Pulse::silent()).unwrap();
            assert_eq!(instance(host, 1).unwrap().power, Power::Off);
        },
    );
    at_every_step(
        |host| create(host, 1).unwrap(),
        |host| host.restart(&reference(1), patience, &Pulse::silent()),
        |fleet, host, _| {
            assert!(
                !instance(host, 1).unwrap().meta.stopped,
                "whoever sees it off starts it"
            );
            host.start(&reference(1)).unwrap();
            assert!(audit(fleet).is_empty(), "{:?}", audit(fleet));
        },
    );
}

#[test]
fn an_image_deletion_killed_anywhere_leaves_no_whole_image_behind_by_mistake() {
    let digest = model().image.digest;
    at_every_step(
        |host| {
            host.push_image(&image(), STORE, &Pulse::silent()).unwrap();
        },
        |host| host.delete_image(&digest, &[STORE]).map(drop),
        |fleet, host, _| {
            create(host, 1).unwrap();
            assert!(audit(fleet).is_empty(), "{:?}", audit(fleet));
        },
    );
}

#[test]
fn the_last_steps_call_is_lost_with_its_process() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    host.delete_image(&model().image.digest, &[STORE]).unwrap();
    fleet.set_power("kvm1", "web-1", vmss::inventory::Power::Off);
    fleet.kill_after(1);
    fails(host.start(&reference(1)), FaultKind::Unreachable);
    fleet.revive();
    let host = open(&fleet, "kvm1");
    assert!(audit(&fleet).is_empty());
    host.start(&reference(1)).unwrap();
    assert!(fleet.journal().ends_with(&["kvm1: start web-1".to_owned()]));
}

#[test]
fn a_kill_that_did_not_come_is_called_off() {
    let (fleet, host) = one_host();
    fleet.kill_after(2);
    host.facts().unwrap();
    fleet.revive();
    create(&*host, 1).unwrap();
    assert!(!fleet.is_killed());
}
