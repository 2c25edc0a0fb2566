//! Random sequences of operations and faults.

use std::time::Duration;

use proptest::prelude::*;
use vmss::hypervisor::fake::{Fault, Fleet};
use vmss::hypervisor::{FaultKind, Pulse, Rework};
use vmss::inventory::{Phase, Power};
use vmss::names::InstanceId;

use crate::support::*;

#[derive(Clone, Debug)]
enum Op {
    Create(u64),
    Delete(u64, u64),
    Start(u64),
    Stop(u64),
    Restart(u64, u64),
    Rework(u64, Rework),
    PowerOff(u64),
    TakeDomain(u64),
    DeleteImage,
    DieAfter(u64),
    KillAfter(usize),
    Fault(u8),
    Heal,
}

fn op() -> impl Strategy<Value = Op> {
    let id = 1..5u64;
    prop_oneof![
        6 => id.clone().prop_map(Op::Create),
        4 => (id.clone(), 0..30u64).prop_map(|(id, patience)| Op::Delete(id, patience)),
        1 => id.clone().prop_map(Op::Start),
        1 => id.clone().prop_map(Op::Stop),
        1 => (id.clone(), 0..30u64).prop_map(|(id, patience)| Op::Restart(id, patience)),
        3 => (id.clone(), prop_oneof![Just(Rework::Restart), Just(Rework::Reimage)])
            .prop_map(|(id, how)| Op::Rework(id, how)),
        1 => id.clone().prop_map(Op::PowerOff),
        1 => id.prop_map(Op::TakeDomain),
        1 => Just(Op::DeleteImage),
        1 => (0..9u64).prop_map(Op::DieAfter),
        1 => (0..9usize).prop_map(Op::KillAfter),
        1 => (0..4u8).prop_map(Op::Fault),
        2 => Just(Op::Heal),
    ]
}

fn is_there(fleet: &Fleet, id: u64) -> bool {
    fleet
        .domains("kvm1")
        .iter()
        .any(|d| d.name == format!("web-{id}"))
}

fn apply(fleet: &Fleet, op: &Op) {
    let host = open(fleet, "kvm1");
    let outcome = match op {
        Op::Create(id) => create(&*host, *id),
        Op::Delete(id, patience) => host.delete(
            &reference(*id),
            Duration::from_secs(*patience),
            &uses(&*host),
            &Pulse::silent(),
        ),
        Op::Start(id) => host.start(&reference(*id)),
        Op::Stop(id) => host.stop(&reference(*id), Duration::ZERO, &Pulse::silent()),
        Op::Restart(id, patience) => {
            host.restart(&reference(*id), Duration::from_secs(*patience), &Pulse::silent())
        }
        Op::Rework(id, how) => {
            let spec = spec(*id);
            host.rework(
                &spec,
                &model(),
                *how,
                Duration::ZERO,
                &uses(&*host),
                &Pulse::silent(),
            )
        }
        Op::DeleteImage => host.delete_image(&model().image.digest, &[STORE]).map(drop),
        Op::PowerOff(id) if is_there(fleet, *id) => {
            fleet.set_power("kvm1", &format!("web-{id}"), Power::Off);
            Ok(())
        }
        Op::TakeDomain(id) if is_there(fleet, *id) => {
            fleet.take_domain("kvm1", &format!("web-{id}"));
            Ok(())
        }
        Op::PowerOff(_) | Op::TakeDomain(_) => Ok(()),
        Op::DieAfter(steps) => {
            fleet.inject("kvm1", Fault::DiesAfter(*steps));
            Ok(())
        }
        Op::KillAfter(steps) => {
            fleet.kill_after(*steps);
            Ok(())
        }
        Op::Fault(which) => {
            let fault = match which {
                0 => Fault::no_space(),
                1 => Fault::start_fails(FaultKind::Other),
                2 => Fault::corrupt_push(),
                _ => Fault::IgnoresShutdown(None),
            };
            fleet.inject("kvm1", fault);
            Ok(())
        }
        Op::Heal => {
            fleet.heal("kvm1");
            fleet.revive();
            Ok(())
        }
    };
    if let Err(error) = outcome {
        let never = [FaultKind::NotOurs, FaultKind::Unsupported, FaultKind::Cancelled];
        assert!(!never.contains(&error.kind), "{op:?}: {error}");
    }
}

/// A fleet after a random life, healed.
fn lived(ops: &[Op]) -> std::sync::Arc<Fleet> {
    let (fleet, _) = one_host();
    fleet.add_foreign_domain("kvm1", "mail", 1, vmss::units::Bytes::gib(1));
    for op in ops {
        apply(&fleet, op);
    }
    fleet.heal("kvm1");
    fleet.revive();
    fleet
}

/// Everything on the host but its power states, which no operation here is to change.
fn state(fleet: &Fleet) -> impl PartialEq + std::fmt::Debug + use<> {
    (fleet.domains("kvm1"), fleet.volumes("kvm1"), fleet.copies("kvm1"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happened_all_can_be_undone_and_others_things_stay(ops in prop::collection::vec(op(), 0..30)) {
        let fleet = lived(&ops);
        let host = open(&fleet, "kvm1");
        for id in 1..5 {
            host.delete(&reference(id), Duration::from_secs(5), &uses(&*host), &Pulse::silent()).unwrap();
        }
        let seen = seen(&*host);
        prop_assert!(seen.instances.is_empty());
        for volume in seen.unowned().iter().chain(seen.seeds.iter().map(|(_, v)| v)) {
            host.delete_volume(volume, &uses(&*host)).unwrap();
        }
        prop_assert_eq!(host.delete_image(&model().image.digest, &[STORE]), Ok(true));
        prop_assert_eq!(fleet.traces(&web(), &[STORE]), Vec::<String>::new());
        prop_assert_eq!(audit(&fleet), Vec::<String>::new());
    }

    #[test]
    fn creating_and_deleting_twice_is_like_once(ops in prop::collection::vec(op(), 0..30), id in 1..5u64) {
        let fleet = lived(&ops);
        let host = open(&fleet, "kvm1");
        // One that is being deleted or changed has to go first.
        let busy = [Phase::Deleting, Phase::Changing];
        if instance(&*host, id).is_some_and(|i| busy.contains(&i.meta.phase)) {
            fails(create(&*host, id), FaultKind::Other);
            delete(&*host, id).unwrap();
        }
        let whole = |i: vmss::inventory::Instance| (i.power, i.meta.phase) == (Power::Running, Phase::Ready);
        create(&*host, id).unwrap();
        if instance(&*host, id).is_some_and(|i| i.meta.stopped) {
            host.start(&reference(id)).unwrap();
        }
        let once = state(&fleet);
        prop_assert!(instance(&*host, id).is_some_and(whole));
        create(&*host, id).unwrap();
        host.start(&reference(id)).unwrap();
        prop_assert_eq!(state(&fleet), once);
        delete(&*host, id).unwrap();
        let once = state(&fleet);
        prop_assert_eq!(instance(&*host, id), None);
        let stem = format!("web-{id}-");
        prop_assert!(!seen(&*host).unowned().iter().any(|v| v.starts_with(&stem)));
        delete(&*host, id).unwrap();
        prop_assert_eq!(state(&fleet), once);
        fails(host.start(&spec(id).reference()), FaultKind::Missing);
    }

    #[test]
    fn a_whole_instance_never_comes_of_a_failure(ops in prop::collection::vec(op(), 0..30)) {
        let fleet = lived(&ops);
        // Domains that were taken away leave volumes; whatever still says that it is ready has all it needs.
        for instance in seen(&*open(&fleet, "kvm1")).instances {
            if instance.meta.phase == Phase::Ready {
                let name = format!("web-{}", instance.id);
                let wrong: Vec<_> = audit(&fleet).into_iter().filter(|w| w.starts_with(&format!("kvm1: {name} "))).collect();
                prop_assert!(wrong.is_empty(), "{:?}", wrong);
            }
            prop_assert!(instance.id < InstanceId(5));
        }
    }
}
