//! What is measured of instances is what tests have set, added up over the fleet's clock.

use std::time::Duration;

use vmss::balancer::Balancers as _;
use vmss::hypervisor::fake::{Fault, Fleet, Load};
use vmss::hypervisor::{FaultKind, Groups, Hypervisor, InstanceStats, Pulse};
use vmss::inventory::Power;
use vmss::membership::{Duty, Membership, Server};
use vmss::names::{InstanceId, Label};
use vmss::units::Bytes;

use crate::support::*;

fn stats(host: &dyn Hypervisor, ids: &[u64]) -> Vec<InstanceStats> {
    let instances: Vec<_> = ids.iter().map(|id| reference(*id)).collect();
    host.stats(&instances, Groups::ALL).unwrap()
}

/// CPU time of an instance.
fn cpu(host: &dyn Hypervisor, id: u64) -> Duration {
    stats(host, &[id])[0].cpu.unwrap().time
}

fn pass(fleet: &Fleet, seconds: u64) {
    fleet.clock().sleep(Duration::from_secs(seconds));
}

fn cpus(cpu_percent: f64) -> Load {
    Load {
        cpu_percent,
        ..Load::default()
    }
}

fn cat(host: &dyn Hypervisor, files: &[&str]) -> (u8, String) {
    let command: Vec<String> = ["cat"].iter().chain(files).map(|w| (*w).to_owned()).collect();
    let ran = host
        .exec(&reference(1), &command, Duration::from_secs(5), &Pulse::silent())
        .unwrap();
    (ran.code, String::from_utf8(ran.stdout).unwrap())
}

#[test]
fn two_readings_give_the_load_however_often_it_changes_in_between() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    fleet.set_load("web-1", cpus(50.0));
    let before = cpu(&*host, 1);
    pass(&fleet, 10);
    fleet.set_load("web-1", cpus(100.0));
    pass(&fleet, 5);
    fleet.set_load("web-1", None);
    pass(&fleet, 60);
    // It has two virtual CPUs.
    assert_eq!(cpu(&*host, 1) - before, Duration::from_secs(10 + 10));
}

#[test]
fn traffic_is_counted_to_the_byte_and_memory_as_it_is_now() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    let load = Load {
        cpu_percent: 0.0,
        memory: Bytes::mib(300),
        disk_read: Bytes(3),
        disk_written: Bytes(1000),
        reads: 1,
        writes: 20,
        received: Bytes(7),
        sent: Bytes(70),
    };
    fleet.load_all(&web(), load);
    for _ in 0..3000 {
        fleet.clock().sleep(Duration::from_millis(1));
        stats(&*host, &[1]);
    }
    let seen = stats(&*host, &[1]).remove(0);
    let disk = seen.disk.unwrap();
    assert_eq!((disk.read, disk.written), (Bytes(9), Bytes(3000)));
    assert_eq!((disk.reads, disk.writes), (3, 60));
    let network = seen.network.unwrap();
    assert_eq!((network.received, network.sent), (Bytes(21), Bytes(210)));
    let memory = seen.memory.unwrap();
    assert_eq!((memory.used, memory.size), (Bytes::mib(300), Bytes::gib(1)));
}

#[test]
fn what_a_set_has_to_do_is_shared_by_those_that_run() {
    let (fleet, host) = one_host();
    for id in 1..=3 {
        create(&*host, id).unwrap();
    }
    fleet.share_load(&web(), 150.0);
    fleet.share_load(&Label::new("other").unwrap(), 9000.0);
    let during = |seconds: u64| -> Vec<u128> {
        let read = || [1, 2].map(|id| cpu(&*host, id));
        let before = read();
        pass(&fleet, seconds);
        read()
            .iter()
            .zip(before)
            .map(|(now, then)| (*now - then).as_millis())
            .collect()
    };
    // 50 % of two CPUs.
    assert_eq!(during(10), [10_000, 10_000]);
    fleet.set_power("kvm1", "web-3", Power::Off);
    assert_eq!(during(10), [15_000, 15_000]);
    fleet.share_load(&web(), 500.0);
    assert_eq!(during(10), [20_000, 20_000], "no more than all of it");
    fleet.set_load("web-1", cpus(0.0));
    assert_eq!(during(10), [0, 20_000]);
    fleet.load_all(&web(), cpus(25.0));
    assert_eq!(during(10), [0, 5_000]);
}

#[test]
fn counters_begin_anew_with_a_start_and_stand_still_while_it_is_off() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    fleet.set_load("web-1", cpus(100.0));
    pass(&fleet, 30);
    assert_eq!(cpu(&*host, 1), Duration::from_secs(60));
    for power in [Power::Paused, Power::Off] {
        fleet.set_power("kvm1", "web-1", power);
        assert_eq!(stats(&*host, &[1]), []);
        pass(&fleet, 30);
    }
    host.start(&reference(1)).unwrap();
    assert_eq!(cpu(&*host, 1), Duration::ZERO);
    pass(&fleet, 1);
    assert_eq!(cpu(&*host, 1), Duration::from_secs(2));
    host.restart(&reference(1), Duration::ZERO, &Pulse::silent())
        .unwrap();
    assert_eq!(cpu(&*host, 1), Duration::ZERO);
}

#[test]
fn a_host_that_is_down_or_measures_nothing_says_so_and_its_instances_go_on() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    fleet.set_load("web-1", cpus(100.0));
    let fails_with = |fault, kind| {
        fleet.inject("kvm1", fault);
        fails(host.stats(&[reference(1)], Groups::ALL), kind);
        pass(&fleet, 10);
        fleet.heal("kvm1");
    };
    fails_with(Fault::Down, FaultKind::Unreachable);
    fails_with(Fault::Unmeasured(FaultKind::Unsupported), FaultKind::Unsupported);
    assert_eq!(cpu(&*host, 1), Duration::from_secs(40));
    fleet.inject("kvm1", Fault::Busy(Some(reference(1).id)));
    let busy = stats(&*host, &[1]).remove(0);
    assert!(busy.cpu.is_some() && busy.network.is_some());
    assert_eq!((busy.memory, busy.disk), (None, None));
    fails_with(Fault::Dead, FaultKind::Unreachable);
    assert_eq!(stats(&*host, &[1]), [], "it came back with every domain off");
}

#[test]
fn a_guest_shows_its_load_in_proc() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    fleet.set_load(
        "web-1",
        Load {
            memory: Bytes::mib(256),
            ..cpus(75.0)
        },
    );
    pass(&fleet, 8);
    let (code, stat) = cat(&*host, &["/proc/stat"]);
    assert_eq!(code, 0);
    assert_eq!(
        stat,
        "cpu  1200 0 0 400 0 0 0 0 0 0\ncpu0 600 0 0 200 0 0 0 0 0 0\ncpu1 600 0 0 200 0 0 0 0 0 0\n"
    );
    let (_, all) = cat(&*host, &["/proc/meminfo", "/proc/loadavg"]);
    assert_eq!(
        all,
        "MemTotal:        1048576 kB\nMemFree:          786432 kB\nMemAvailable:     786432 kB\n\
         1.50 1.50 1.50 1/100 712\n"
    );
    let (code, text) = cat(&*host, &["/proc/nothing", "/proc/loadavg"]);
    assert_eq!((code, text.lines().count()), (1, 1));
}

#[test]
fn a_moved_guest_counts_on_and_its_new_host_begins_anew() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    fleet.add_host(&label("kvm2"), Default::default());
    let there = open(&fleet, "kvm2");
    there.push_image(&image(), STORE, &Pulse::silent()).unwrap();
    fleet.set_load("web-1", cpus(100.0));
    pass(&fleet, 10);
    let mut spec = spec(1);
    spec.host = label("kvm2");
    use vmss::hypervisor::Hosts as _;
    fleet
        .migrate(
            &self::host("kvm1"),
            &self::host("kvm2"),
            &limits(),
            &reference(1),
            &spec,
            &model(),
            &Pulse::silent(),
        )
        .unwrap();
    pass(&fleet, 1);
    assert_eq!(stats(&*host, &[1]), []);
    assert_eq!(cpu(&*there, 1), Duration::from_secs(2));
    let (_, stat) = cat(&*there, &["/proc/stat"]);
    assert!(stat.starts_with("cpu  2200 0 0 0 "), "{stat}");
}

#[test]
fn requests_are_shared_by_the_servers_that_take_clients_and_counted_over_time() {
    let text = "name = \"web\"\n[image]\nsource = \"a\"\n[instance]\nmemory = \"1 GiB\"\n[[instance.networks]]\nbridge = \"br0\"\n\
        [[fault_domains]]\nname = \"a\"\nhosts = [{ name = \"kvm1\", uri = \"test:///default\" }]\n[health]\nprobe = \"http\"\nport = 80\n\
        [load_balancer]\nrun = \"local\"\n[[load_balancer.frontends]]\nname = \"http\"\nbind = \"127.0.0.1:8080\"\nport = 80\n";
    let set = vmss::definition::parse(text, std::path::Path::new("/x.toml")).unwrap();
    let fleet = Fleet::new();
    let balancer = fleet.of(&set, std::path::Path::new("/")).remove(0);
    let server = |id: u64, duty| Server {
        id: InstanceId(id),
        name: format!("web-{id}"),
        fault_domain: label("a"),
        host: label("kvm1"),
        revision: Some(1),
        address: "10.0.0.1".parse().unwrap(),
        weight: 100,
        state: vmss::health::State::Healthy,
        duty,
    };
    let bring = |duties: [Duty; 2]| {
        let servers = (1..).zip(duties).map(|(id, duty)| server(id, duty)).collect();
        balancer.bring(&Membership { servers }).unwrap();
    };
    let requests = || -> Vec<u64> {
        let servers = balancer.observe().unwrap().servers;
        servers.iter().map(|s| s.requests).collect()
    };
    fleet.set_requests("local", 30);
    fleet.set_latency("local", Duration::from_millis(40));
    bring([Duty::In, Duty::In]);
    assert_eq!(balancer.observe().unwrap().servers[0].latency, None);
    for _ in 0..100 {
        fleet.clock().sleep(Duration::from_millis(100));
        requests();
    }
    assert_eq!(requests(), [150, 150]);
    bring([Duty::In, Duty::Out]);
    pass(&fleet, 10);
    assert_eq!(requests(), [450, 150]);
    fleet.set_waiting("local", 4);
    fleet.set_waiting_for("web-1", 2);
    let seen = balancer.observe().unwrap();
    assert_eq!(
        (seen.queue, seen.servers[0].queue, seen.servers[0].connections),
        (4, 2, 2)
    );
    assert_eq!(seen.servers[0].latency, Some(Duration::from_millis(40)));
    fleet.kill_balancer("local");
    pass(&fleet, 10);
    bring([Duty::In, Duty::In]);
    assert_eq!(requests(), [0, 0], "it counts anew, and meanwhile nobody did");
}
