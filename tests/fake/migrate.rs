//! An instance is moved from one host to another.

use std::sync::Arc;
use std::time::Duration;

use vmss::hypervisor::fake::{Failure, FakeHost, Fault, Fleet};
use vmss::hypervisor::{FaultKind, Hosts, Hypervisor, HypervisorError, Pulse, Rework, Settled, Stage};
use vmss::inventory::{Phase, Power, Protection};
use vmss::model::{Clone as CloneMode, Firmware, Model};
use vmss::plan::action::InstanceSpec;
use vmss::units::Bytes;

use crate::support::*;

/// Two hosts with the image, an instance of `model` on the first.
fn two_hosts(model: &Model) -> (Arc<Fleet>, Arc<dyn Hypervisor>, Arc<dyn Hypervisor>) {
    let (fleet, one) = one_host();
    fleet.add_host(&label("kvm2"), FakeHost::default());
    let two = open(&fleet, "kvm2");
    two.push_image(&image(), STORE, &Pulse::silent()).unwrap();
    create_of(&*one, 1, model).unwrap();
    (fleet, one, two)
}

/// The instance as it will be on the second host.
fn there(model: &Model) -> InstanceSpec {
    InstanceSpec {
        host: label("kvm2"),
        fault_domain: label("rack-b"),
        ..spec_of(1, model)
    }
}

fn migrate_with(fleet: &Fleet, model: &Model, pulse: &Pulse) -> Result<(), HypervisorError> {
    let (from, to) = (host("kvm1"), host("kvm2"));
    fleet.migrate(&from, &to, &limits(), &reference(1), &there(model), model, pulse)
}

fn migrate(fleet: &Fleet, model: &Model) -> Result<(), HypervisorError> {
    migrate_with(fleet, model, &Pulse::silent())
}

fn settle(fleet: &Fleet) -> Result<Settled, HypervisorError> {
    let (from, to) = (host("kvm1"), host("kvm2"));
    fleet.settle(&from, &to, &limits(), &reference(1), &Pulse::silent())
}

/// What a plan sweeps: leftovers, and shared seeds that nobody reads.
fn sweep(fleet: &Fleet) {
    for name in ["kvm1", "kvm2"] {
        let host = open(fleet, name);
        let seen = seen(&*host);
        for volume in seen.unowned() {
            host.delete_volume(&volume, &uses(&*host)).unwrap();
        }
        for (revision, volume) in seen.seeds {
            if !seen.instances.iter().any(|i| i.meta.revision == revision) {
                host.delete_volume(&volume, &uses(&*host)).unwrap();
            }
        }
    }
}

/// The instance runs on exactly one host, and nothing of it is elsewhere.
#[track_caller]
fn assert_whole(fleet: &Fleet, on: Settled, at: &str) {
    sweep(fleet);
    let wrong = audit(fleet);
    assert!(wrong.is_empty(), "{at}: {wrong:?}");
    let hosts = ["kvm1", "kvm2"].map(|name| instance(&*open(fleet, name), 1));
    let [here, there] = match on {
        Settled::Stayed => hosts,
        Settled::Moved => {
            let [one, two] = hosts;
            [two, one]
        }
    };
    assert_eq!(there, None, "{at}");
    let here = here.unwrap_or_else(|| panic!("{at}: it is gone"));
    assert_eq!(
        (here.power, here.meta.phase),
        (Power::Running, Phase::Ready),
        "{at}"
    );
    assert_eq!(here.meta.moving_to, None, "{at}");
    let place = match on {
        Settled::Stayed => ("kvm1", "rack-a"),
        Settled::Moved => ("kvm2", "rack-b"),
    };
    let said = (here.meta.host.as_str(), here.meta.fault_domain.as_str());
    assert_eq!(said, place, "{at}");
}

#[test]
fn an_instance_goes_over_in_the_promised_order_and_stays_who_it_is() {
    let model = templated();
    let (fleet, one, two) = two_hosts(&model);
    one.protect(&reference(1), Protection::ScaleIn).unwrap();
    let (done, before) = (fleet.steps(), instance(&*one, 1).unwrap());
    let (domain, logs) = (fleet.domains("kvm1").remove(0), fleet.volumes("kvm1"));
    migrate(&fleet, &model).unwrap();
    let tag = &reference(1).uuid.simple().to_string()[..8];
    let steps: Vec<String> = fleet.journal()[done..]
        .iter()
        .map(|s| s.replace(&format!("web-1-{tag}-"), ""))
        .collect();
    assert_eq!(
        steps,
        [
            "kvm1: note that web-1 moves to kvm2",
            "kvm2: make volume os.qcow2",
            "kvm2: make volume data-logs.qcow2",
            "kvm2: make volume seed.img",
            "kvm2: write volume seed.img",
            "kvm1: hold web-1",
            "kvm2: receive web-1",
            "kvm1: undefine web-1",
            "kvm2: let web-1 go on",
            "kvm2: note that web-1 has arrived",
            "kvm1: delete volume os.qcow2",
            "kvm1: delete volume data-logs.qcow2",
            "kvm1: delete volume seed.img",
        ]
    );
    assert_whole(&fleet, Settled::Moved, "after a migration");
    let after = instance(&*two, 1).unwrap();
    assert_eq!(
        (after.uuid, after.meta.volumes),
        (before.uuid, before.meta.volumes)
    );
    assert_eq!(after.meta.protection, Protection::ScaleIn);
    assert_eq!(after.meta.created_at, before.meta.created_at);
    let moved = fleet.domains("kvm2").remove(0);
    assert_eq!((moved.macs, moved.leases), (domain.macs, domain.leases));
    assert_eq!(
        moved.started_at, domain.started_at,
        "its guest was not started again"
    );
    let sizes = |v: Vec<vmss::hypervisor::fake::Volume>| v.into_iter().map(|v| v.size).collect::<Vec<_>>();
    assert_eq!(sizes(fleet.volumes("kvm2")), sizes(logs));
    // It is there already, and what is asked for again is done.
    migrate(&fleet, &model).unwrap();
    assert_eq!(settle(&fleet), Ok(Settled::Moved));
    two.restart(&reference(1), Duration::ZERO, &Pulse::silent())
        .unwrap();
}

#[test]
fn a_migration_killed_anywhere_is_settled_by_the_next_run_and_can_be_done_again() {
    let full = Model {
        clone: CloneMode::Full,
        ..model()
    };
    for model in [model(), templated(), full] {
        let steps = {
            let (fleet, ..) = two_hosts(&model);
            let before = fleet.steps();
            migrate(&fleet, &model).unwrap();
            fleet.steps() - before
        };
        for kill in [Fleet::kill_after, Fleet::kill_before] {
            for step in 0..steps {
                for sweeps_first in [false, true] {
                    let at = format!("killed at step {step} of {steps}");
                    let (fleet, ..) = two_hosts(&model);
                    kill(&fleet, step);
                    fails(migrate(&fleet, &model), FaultKind::Unreachable);
                    fleet.revive();
                    let running = ["kvm1", "kvm2"]
                        .iter()
                        .flat_map(|h| fleet.domains(h))
                        .filter(|d| d.power == Power::Running);
                    assert!(running.count() <= 1, "{at}: it runs twice");
                    if sweeps_first {
                        sweep(&fleet);
                    }
                    let settled = settle(&fleet).unwrap_or_else(|e| panic!("{at}: {e}"));
                    assert_whole(&fleet, settled, &at);
                    migrate(&fleet, &model).unwrap_or_else(|e| panic!("{at}: {e}"));
                    assert_whole(&fleet, Settled::Moved, &at);
                }
            }
        }
    }
}

#[test]
fn settling_killed_anywhere_is_settled_the_same_way() {
    let model = templated();
    let (fleet, ..) = two_hosts(&model);
    let before = fleet.steps();
    migrate(&fleet, &model).unwrap();
    let steps = fleet.steps() - before;
    for first in 0..steps {
        for second in 0.. {
            let at = format!("killed at step {first}, and again at step {second} of settling");
            let (fleet, ..) = two_hosts(&model);
            fleet.kill_after(first);
            fails(migrate(&fleet, &model), FaultKind::Unreachable);
            fleet.revive();
            fleet.kill_after(second);
            if second > 0 && settle(&fleet).is_ok() {
                break;
            }
            fleet.revive();
            let settled = settle(&fleet).unwrap_or_else(|e| panic!("{at}: {e}"));
            assert_whole(&fleet, settled, &at);
        }
    }
}

#[test]
fn between_two_hosts_nothing_else_is_done_to_it_but_deletion() {
    let model = model();
    // Held, with all of it sent but not arrived; arrived; and gone where it was, but not let go.
    for step in [6, 7, 8] {
        let (fleet, ..) = two_hosts(&model);
        fleet.kill_after(step);
        fails(migrate(&fleet, &model), FaultKind::Unreachable);
        fleet.revive();
        for name in ["kvm1", "kvm2"] {
            let host = open(&fleet, name);
            let Some(before) = instance(&*host, 1) else {
                continue;
            };
            let pulse = Pulse::silent();
            fails(host.start(&reference(1)), FaultKind::Other);
            fails(host.stop(&reference(1), Duration::ZERO, &pulse), FaultKind::Other);
            fails(
                host.restart(&reference(1), Duration::ZERO, &pulse),
                FaultKind::Other,
            );
            fails(host.create(&spec(1), &model, &pulse), FaultKind::Other);
            fails(rework(&*host, 1, &model, Rework::Restart), FaultKind::Other);
            assert_eq!(instance(&*host, 1), Some(before));
        }
        for name in ["kvm1", "kvm2"] {
            delete(&*open(&fleet, name), 1).unwrap();
        }
        sweep(&fleet);
        assert!(audit(&fleet).is_empty(), "{:?}", audit(&fleet));
    }
}

#[test]
fn what_fails_on_the_way_leaves_it_where_it_was() {
    let model = templated();
    for stage in [Stage::Disks, Stage::Seed, Stage::Migrate] {
        let (fleet, ..) = two_hosts(&model);
        let failure = Failure {
            times: Some(1),
            ..Failure::new(stage, FaultKind::NoSpace)
        };
        fleet.inject("kvm2", Fault::Fails(failure));
        fails(migrate(&fleet, &model), FaultKind::NoSpace);
        assert_whole(&fleet, Settled::Stayed, &format!("{stage:?}"));
    }
    for stage in [Stage::Define, Stage::Disks, Stage::Seed, Stage::Migrate] {
        let (fleet, ..) = two_hosts(&model);
        fails(
            migrate_with(&fleet, &model, &cancelled_at(stage)),
            FaultKind::Cancelled,
        );
        assert_whole(&fleet, Settled::Stayed, &format!("cancelled at {stage:?}"));
    }
}

#[test]
fn what_can_be_refused_is_refused_before_anything_is_touched() {
    let (fleet, one, two) = two_hosts(&model());
    let steps = fleet.steps();
    let refused = |kind, model: &Model| {
        fails(migrate(&fleet, model), kind);
        assert_eq!(fleet.steps(), steps);
    };
    let uefi = Model {
        firmware: Firmware::Uefi,
        ..model()
    };
    refused(FaultKind::Unsupported, &uefi);
    fleet.fill_pool("kvm2");
    refused(FaultKind::NoSpace, &model());
    fleet.take_volume("kvm2", "ballast");
    fleet.set_power("kvm1", "web-1", Power::Off);
    refused(FaultKind::Other, &model());
    fleet.set_power("kvm1", "web-1", Power::Running);
    fleet.add_foreign_domain("kvm2", "web-1", 1, Bytes::gib(1));
    refused(FaultKind::NotOurs, &model());
    fleet.take_domain("kvm2", "web-1");
    two.delete_image(&model().image.digest, &[STORE]).unwrap();
    let steps = fleet.steps();
    fails(migrate(&fleet, &model()), FaultKind::Missing);
    assert_eq!(fleet.steps(), steps);
    delete(&*one, 1).unwrap();
    fails(migrate(&fleet, &model()), FaultKind::Missing);
    fails(settle(&fleet), FaultKind::Missing);
    let other = host("kvm1");
    let to_itself = fleet.settle(&other, &other, &limits(), &reference(1), &Pulse::silent());
    fails(to_itself, FaultKind::Other);
}

#[test]
fn nothing_is_decided_while_one_of_the_hosts_is_out_of_reach() {
    let model = model();
    // Held here, arrived there.
    let (fleet, ..) = two_hosts(&model);
    fleet.kill_after(7);
    fails(migrate(&fleet, &model), FaultKind::Unreachable);
    fleet.revive();
    for lost in ["kvm1", "kvm2"] {
        fleet.inject(lost, Fault::Down);
        let steps = fleet.steps();
        fails(settle(&fleet), FaultKind::Unreachable);
        fails(migrate(&fleet, &model), FaultKind::Unreachable);
        assert_eq!(fleet.steps(), steps);
        fleet.heal(lost);
    }
    assert_eq!(settle(&fleet), Ok(Settled::Moved));
    assert_whole(&fleet, Settled::Moved, "both are back");
    // The source lost its power: it has run last there, and there it will be started.
    let (fleet, ..) = two_hosts(&model);
    fleet.kill_after(7);
    fails(migrate(&fleet, &model), FaultKind::Unreachable);
    fleet.revive();
    fleet.reboot("kvm1");
    assert_eq!(settle(&fleet), Ok(Settled::Stayed));
    open(&fleet, "kvm1").start(&reference(1)).unwrap();
    assert_whole(&fleet, Settled::Stayed, "after a power failure");
}

#[test]
fn a_volume_of_its_name_that_is_there_already_is_somebodys_and_is_not_replaced() {
    let model = templated();
    let (fleet, one, _) = two_hosts(&model);
    for volume in fleet.volumes("kvm1") {
        fleet.add_volume("kvm2", &volume.name, Bytes::gib(3));
        let (before, there) = (fleet.steps(), fleet.volumes("kvm2"));
        let refused = migrate(&fleet, &model).unwrap_err();
        assert_eq!(refused.kind, FaultKind::NotOurs, "{refused}");
        assert!(refused.message.contains(&volume.name), "{refused}");
        assert_eq!(fleet.steps(), before, "nothing was begun");
        assert_eq!(fleet.volumes("kvm2"), there, "{}", volume.name);
        assert_eq!(instance(&*one, 1).unwrap().meta.moving_to, None);
        fleet.take_volume("kvm2", &volume.name);
    }
    migrate(&fleet, &model).unwrap();
    assert_whole(&fleet, Settled::Moved, "once nothing is in the way");
}
