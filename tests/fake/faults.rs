//! Every fault on demand.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use vmss::hypervisor::fake::{Failure, FakeHost, Fault, Fleet};
use vmss::hypervisor::{FaultKind, Pulse, Stage};
use vmss::inventory::Power;
use vmss::names::InstanceId;
use vmss::units::Bytes;

use crate::support::*;

#[test]
fn a_host_that_is_down_or_unknown_is_unreachable() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    fleet.inject("kvm1", Fault::Down);
    fails(host.facts(), FaultKind::Unreachable);
    fails(delete(&*host, 1), FaultKind::Unreachable);
    fails(open(&fleet, "kvm9").facts(), FaultKind::Unreachable);
    fleet.heal("kvm1");
    assert_eq!(instance(&*host, 1).unwrap().power, Power::Running, "it ran on");
    fleet.reboot("kvm1");
    assert_eq!(instance(&*host, 1).unwrap().power, Power::Off);
}

#[test]
fn a_host_dies_in_the_middle() {
    let (fleet, host) = one_host();
    fleet.inject("kvm1", Fault::DiesAfter(4));
    fails(create(&*host, 1), FaultKind::Unreachable);
    assert_eq!(fleet.steps(), 4);
    fleet.reboot("kvm1");
    assert!(!audit(&fleet).is_empty());
    delete(&*host, 1).unwrap();
    assert!(audit(&fleet).is_empty(), "{:?}", audit(&fleet));
}

/// Whether something arrives soon. What must not arrive is waited for only shortly.
fn arrives<T>(from: &mpsc::Receiver<T>, patience: Duration) -> Option<T> {
    from.recv_timeout(patience).ok()
}

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(20);

#[test]
fn calls_wait_on_a_hung_host_until_it_is_healed() {
    let (fleet, host) = one_host();
    fleet.inject("kvm1", Fault::Hangs);
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(create(&*host, 1)));
    assert_eq!(arrives(&told, SHORT), None);
    fleet.heal("kvm1");
    assert_eq!(arrives(&told, LONG), Some(Ok(())));
}

#[test]
fn calls_under_way_hang_too_and_go_on_where_they_were() {
    let (fleet, host) = one_host();
    fleet.inject("kvm1", Fault::Lingers(Duration::from_millis(20)));
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(create(&*host, 1)));
    while fleet.steps() < 3 {
        thread::yield_now();
    }
    fleet.inject("kvm1", Fault::Hangs);
    assert_eq!(arrives(&told, 2 * SHORT), None);
    let steps = fleet.steps();
    assert!(steps < 8, "{steps}");
    thread::sleep(SHORT);
    assert_eq!(fleet.steps(), steps, "it stands still");
    fleet.heal("kvm1");
    assert_eq!(arrives(&told, LONG), Some(Ok(())));
}

#[test]
fn a_hung_call_fails_when_the_fleet_is_dropped_or_the_process_killed() {
    for drops in [true, false] {
        let (fleet, host) = one_host();
        fleet.inject("kvm1", Fault::Hangs);
        let (tell, told) = mpsc::channel();
        thread::spawn(move || tell.send(host.facts().map(|facts| facts.running)));
        assert_eq!(arrives(&told, SHORT), None);
        let kept = if drops {
            drop(fleet);
            None
        } else {
            fleet.kill_after(0);
            Some(fleet)
        };
        fails(arrives(&told, LONG).unwrap(), FaultKind::Unreachable);
        drop(kept);
    }
}

#[test]
fn pools_fill_up_seen_and_unseen() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    fleet.inject("kvm1", Fault::no_space());
    fails(create(&*host, 2), FaultKind::NoSpace);
    delete(&*host, 2).unwrap();
    assert!(
        seen(&*host).pool_free > Bytes::gib(90),
        "nobody would have thought it"
    );
    fleet.heal("kvm1");
    fleet.fill_pool("kvm1");
    assert_eq!(seen(&*host).pool_free, Bytes(0));
    fails(create(&*host, 2), FaultKind::NoSpace);
    delete(&*host, 2).unwrap();
    assert!(audit(&fleet).is_empty(), "{:?}", audit(&fleet));
    fleet.take_volume("kvm1", "ballast");
    create(&*host, 2).unwrap();
    let small = FakeHost {
        pool_size: Bytes::mib(100),
        ..FakeHost::default()
    };
    fleet.add_host(&label("kvm2"), small);
    fails(create(&*open(&fleet, "kvm2"), 3), FaultKind::NoSpace);
    assert!(fleet.copies("kvm2").is_empty());
}

#[test]
fn starts_fail_for_a_host_or_an_instance_or_so_many_times() {
    let (fleet, host) = one_host();
    fleet.inject("kvm1", Fault::start_of(InstanceId(2), FaultKind::Denied));
    create(&*host, 1).unwrap();
    fails(create(&*host, 2), FaultKind::Denied);
    fleet.inject("kvm1", Fault::start_fails(FaultKind::Other));
    fails(create(&*host, 3), FaultKind::Other);
    fleet.heal("kvm1");
    fleet.inject(
        "kvm1",
        Fault::Fails(Failure {
            times: Some(2),
            ..Failure::new(Stage::Start, FaultKind::TimedOut)
        }),
    );
    fails(create(&*host, 2), FaultKind::TimedOut);
    fails(create(&*host, 2), FaultKind::TimedOut);
    create(&*host, 2).unwrap();
    create(&*host, 3).unwrap();
    assert!(audit(&fleet).is_empty(), "{:?}", audit(&fleet));
}

#[test]
fn a_corrupt_image_is_nobodys_base() {
    let (fleet, host) = one_host();
    fleet.inject("kvm1", Fault::corrupt_push());
    fails(create(&*host, 1), FaultKind::Corrupt);
    assert!(seen(&*host).bases.is_empty() && fleet.copies("kvm1").is_empty());
    fleet.heal("kvm1");
    create(&*host, 1).unwrap();
}

#[test]
fn a_half_sent_image_is_shown_and_replaced() {
    let (fleet, host) = one_host();
    fleet.inject("kvm1", Fault::DiesAfter(1));
    fails(create(&*host, 1), FaultKind::Unreachable);
    fleet.heal("kvm1");
    let half = host.images().unwrap();
    assert_eq!((half.len(), half[0].whole), (1, false));
    assert!(seen(&*host).bases.is_empty());
    assert_eq!(fleet.traces(&web(), &[STORE]).len(), 1);
    create(&*host, 1).unwrap();
    assert_eq!(host.images().unwrap().len(), 1);
}

#[test]
fn time_is_virtual_and_calls_side_by_side_take_the_longest_ones_time() {
    let (fleet, host) = one_host();
    fleet.add_host(&label("kvm2"), FakeHost::default());
    let began = fleet.clock().now();
    let took = || fleet.clock().now().duration_since(began).as_secs();
    fleet.inject("kvm1", Fault::Slow(Duration::from_secs(10)));
    create(&*host, 1).unwrap();
    assert_eq!(took(), 90);
    fleet.clock().sleep(Duration::from_secs(10));
    assert_eq!(took(), 100);
    fleet.inject("kvm2", Fault::Slow(Duration::from_secs(3600)));
    let other = open(&fleet, "kvm2");
    other.push_image(&image(), STORE, &Pulse::silent()).unwrap();
    assert_eq!(took(), 7300);
}

#[test]
fn a_guest_that_hears_takes_its_time_and_a_deaf_one_all_there_is() {
    let fleet = Fleet::new();
    fleet.add_host(
        &label("kvm1"),
        FakeHost {
            shutdown_takes: Duration::from_secs(5),
            ..FakeHost::default()
        },
    );
    let host = open(&fleet, "kvm1");
    let delete = |id, patience| {
        create(&*host, id).unwrap();
        let (began, steps) = (fleet.clock().now(), fleet.steps());
        host.delete(
            &reference(id),
            Duration::from_secs(patience),
            &uses(&*host),
            &Pulse::silent(),
        )
        .unwrap();
        let journal = fleet.journal();
        let count = |what: &str| journal[steps..].iter().filter(|s| s.contains(what)).count();
        let took = fleet.clock().now().duration_since(began).as_secs();
        (took, count("to shut down"), count("switch off"))
    };
    assert_eq!(delete(1, 30), (5, 1, 0));
    assert_eq!(delete(1, 3), (3, 1, 1), "not patient enough");
    assert_eq!(delete(1, 0), (0, 0, 1), "not asked");
    fleet.inject("kvm1", Fault::IgnoresShutdown(Some(InstanceId(2))));
    assert_eq!(delete(1, 30), (5, 1, 0));
    assert_eq!(delete(2, 35), (35, 4, 1), "asked again every ten seconds");
    fleet.inject("kvm1", Fault::IgnoresShutdown(None));
    assert_eq!(delete(1, 10), (10, 1, 1));
}

#[test]
fn foreign_domains_and_volumes_are_seen_and_never_touched() {
    let (fleet, host) = one_host();
    fleet.add_foreign_domain("kvm1", "web-2", 1, Bytes::gib(1));
    fleet.add_foreign_volume("kvm1", "mail.qcow2", Bytes::gib(1));
    assert_eq!(seen(&*host).foreign, [InstanceId(2)]);
    fails(create(&*host, 2), FaultKind::NotOurs);
    delete(&*host, 2).unwrap();
    assert!(audit(&fleet).is_empty(), "{:?}", audit(&fleet));
    fleet.set_power("kvm1", "web-2", Power::Off);
    assert!(audit(&fleet).is_empty(), "its owner may do that");
    host.delete_volume("mail.qcow2", &uses(&*host)).unwrap();
    assert_eq!(
        audit(&fleet),
        ["kvm1: somebody else's volume mail.qcow2 was touched"]
    );
}

#[test]
fn things_happen_behind_our_back() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    create(&*host, 2).unwrap();
    fleet.set_power("kvm1", "web-1", Power::Crashed);
    assert_eq!(instance(&*host, 1).unwrap().power, Power::Crashed);
    fleet.take_domain("kvm1", "web-2");
    assert_eq!(instance(&*host, 2), None);
    let left = seen(&*host).unowned();
    assert_eq!(left.len(), 2);
    let expected = left
        .iter()
        .map(|v| format!("kvm1: volume {v} belongs to no instance"));
    assert_eq!(audit(&fleet), expected.collect::<Vec<_>>());
    fleet.add_volume("kvm1", &left[0].replace("-logs", "-old"), Bytes(1));
    assert_eq!(seen(&*host).unowned().len(), 3);
    let disk = instance(&*host, 1).unwrap().meta.volumes[0].clone();
    fleet.take_volume("kvm1", &disk);
    assert!(audit(&fleet).contains(&format!("kvm1: web-1 lacks its volume {disk}")));
    fails(host.start(&reference(1)), FaultKind::Missing);
}

#[test]
fn one_id_on_two_hosts_is_noticed() {
    let (fleet, host) = one_host();
    fleet.add_host(&label("kvm2"), FakeHost::default());
    create(&*host, 1).unwrap();
    create(&*open(&fleet, "kvm2"), 1).unwrap();
    let wrong = audit(&fleet);
    for what in ["id 1", "UUID", "MAC"] {
        let is_there =
            |w: &String| w.starts_with(what) && w.ends_with("is used by web-1 on kvm1 and web-1 on kvm2");
        assert!(wrong.iter().any(is_there), "{wrong:?}");
    }
}

#[test]
fn calls_in_flight_are_counted_and_cancelled_ones_stop_at_a_safe_point() {
    let (fleet, host) = one_host();
    fleet.inject("kvm1", Fault::Lingers(Duration::from_millis(10)));
    host.push_image(&image(), STORE, &Pulse::silent()).unwrap();
    thread::scope(|scope| {
        for id in 1..=3 {
            let host = &host;
            scope.spawn(move || host.create(&spec(id), &model(), &Pulse::silent()).unwrap());
        }
    });
    assert_eq!(fleet.most_in_flight("kvm1"), 3);
    assert!(audit(&fleet).is_empty(), "{:?}", audit(&fleet));
    let pulse = Pulse::silent();
    pulse.cancel();
    fails(host.create(&spec(4), &model(), &pulse), FaultKind::Cancelled);
    fails(
        host.delete(&reference(1), Duration::ZERO, &uses(&*host), &pulse),
        FaultKind::Cancelled,
    );
    delete(&*host, 4).unwrap();
    delete(&*host, 1).unwrap();
    assert!(audit(&fleet).is_empty(), "{:?}", audit(&fleet));
}
