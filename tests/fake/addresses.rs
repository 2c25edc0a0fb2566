//! Where guests are reached, and that it is asked for again.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use vmss::health::{Sign, Vital};
use vmss::hypervisor::Hosts;
use vmss::hypervisor::fake::Fleet;
use vmss::inventory::Inventory;
use vmss::names::InstanceId;
use vmss::observe::observe;
use vmss::probe::{Heard, Probes, Target};
use vmss::record::Record;
use vmss::scaleset::{Health, ScaleSet};
use vmss::vitals::{self, KnownAddresses, Round};

use crate::support::*;

struct Silent;

impl Probes for Silent {
    fn ask(&self, _: &Target, _: &Health) -> Heard {
        unreachable!("nobody is asked over the network")
    }
}

/// A process that looks again and again at the set `web`, which has clients and the instance 1.
struct Process {
    fleet: Arc<Fleet>,
    set: ScaleSet,
    record: Record,
    known: KnownAddresses,
}

const FIRST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 8);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 99);

impl Process {
    fn new(probe: &str) -> Self {
        let (fleet, host) = one_host();
        create(&*host, 1).unwrap();
        let text = format!(
            "name = \"web\"\n[image]\nsource = \"a\"\n[instance]\nmemory = \"1 GiB\"\n[[instance.networks]]\nbridge = \"br0\"\n\
             [health]\nprobe = \"{probe}\"\n[[discovery]]\nformat = \"nginx\"\nfile = \"a.conf\"\nport = 80\n\
             [[fault_domains]]\nname = \"rack-a\"\nhosts = [{{ name = \"kvm1\", uri = \"test:///default\" }}]\n"
        );
        let set = vmss::definition::parse(&text, Path::new("/x.toml")).unwrap();
        let now = fleet.clock().now();
        let mut record = Record::new(STORE, set.clone(), model(), PathBuf::from("/x.toml"), now);
        record.take_in(&instance(&*host, 1).unwrap(), &label("kvm1"));
        Self {
            fleet,
            set,
            record,
            known: KnownAddresses::default(),
        }
    }

    /// Takes one look, and says where it found instance 1.
    fn reached(&mut self) -> Vec<IpAddr> {
        let now = self.now();
        let mut inventory = self.observe();
        let probes: Arc<dyn Probes> = Arc::new(Silent);
        let round = self.ask(&probes, &inventory);
        (inventory.answers, inventory.reached) = (round.answers, round.reached);
        self.record.absorb(&inventory);
        self.record.heed(&inventory, &self.set.health, now);
        inventory.reached.remove(&InstanceId(1)).unwrap_or_default()
    }

    fn observe(&self) -> Inventory {
        let on: Vec<_> = self.set.hosts().map(|(_, h)| h.clone()).collect();
        observe(
            &*self.fleet,
            &on,
            &self.set.limits,
            &Arc::new(watch(&web(), STORE)),
        )
    }

    fn ask(&self, probes: &Arc<dyn Probes>, inventory: &Inventory) -> Round {
        let hosts: &dyn Hosts = &*self.fleet;
        let (set, record) = (&self.set, &self.record);
        vitals::ask(hosts, probes, &self.known, set, record, inventory, self.now())
    }

    fn now(&self) -> Timestamp {
        self.fleet.clock().now()
    }

    fn wait(&self, seconds: u64) {
        self.fleet.clock().sleep(std::time::Duration::from_secs(seconds));
    }

    /// Looks until the instance's sign does not change any more.
    fn settle(&mut self) {
        for _ in 0..4 {
            assert_eq!(self.reached(), [FIRST]);
            self.wait(5);
        }
    }

    fn lookups(&self) -> usize {
        let log = self.fleet.log();
        log.iter().filter(|call| call.contains("addresses")).count()
    }
}

#[test]
fn a_guest_that_gets_another_lease_is_followed_within_minutes() {
    for probe in ["agent", "none"] {
        let mut process = Process::new(probe);
        process.settle();
        let lookups = process.lookups();
        process.fleet.set_leases("kvm1", "web-1", &[SECOND]);
        process.reached();
        assert_eq!(
            process.lookups(),
            lookups,
            "{probe}: nobody is asked at every look"
        );
        process.wait(3 * 60);
        assert_eq!(process.reached(), [SECOND], "{probe}");
    }
}

#[test]
fn a_guest_that_began_anew_is_looked_for_until_it_is_well() {
    let mut process = Process::new("agent");
    process.settle();
    let id = InstanceId(1);
    assert_eq!(process.record.vitals[&id].sign, Sign::Healthy);
    // As before a batch that restarts or reimages it.
    process.record.vitals.insert(id, Vital::new(process.now()));
    assert_eq!(
        process.reached(),
        [FIRST],
        "its host still tells what it had before"
    );
    process.wait(5);
    process.fleet.set_leases("kvm1", "web-1", &[SECOND]);
    assert_eq!(process.reached(), [SECOND]);
}

#[test]
fn an_address_counts_until_another_is_found() {
    let mut process = Process::new("agent");
    process.settle();
    process.fleet.set_leases("kvm1", "web-1", &[]);
    process.wait(3 * 60);
    assert_eq!(process.reached(), [FIRST]);
    let lookups = process.lookups();
    process.wait(5);
    assert_eq!(process.reached(), [FIRST]);
    assert_eq!(process.lookups(), lookups, "that there is none is an answer, too");
}

/// Answers for everybody, and notes whom it was sent to.
#[derive(Default)]
struct Noting(std::sync::Mutex<Vec<(InstanceId, Vec<IpAddr>)>>);

impl Probes for Noting {
    fn ask(&self, target: &Target, _: &Health) -> Heard {
        let asked = (target.id, target.addresses.clone());
        self.0.lock().unwrap().push(asked);
        Heard {
            answer: vmss::answer::Answer::Connected,
            at: target.addresses.last().copied(),
        }
    }
}

#[test]
fn no_probe_is_sent_to_what_is_somebody_elses_and_served_is_where_it_answered() {
    let process = Process::new("tcp\"\nport = 80 # \"");
    create(&*open(&process.fleet, "kvm1"), 2).unwrap();
    let at = |n: u8| IpAddr::from([10, 0, 0, n]);
    process
        .fleet
        .set_names("kvm1", "web-1", &[at(254), at(1), at(16), at(77), at(78)]);
    let noting = Arc::new(Noting::default());
    let mut inventory = process.observe();
    let owner = vmss::addresses::Owner::ThisMachine;
    inventory.off_limits.owners.insert(at(254), owner);
    let owner = vmss::addresses::Owner::Balancer;
    inventory.off_limits.owners.insert(at(1), owner);
    let probes: Arc<dyn Probes> = Arc::clone(&noting) as Arc<dyn Probes>;
    let round = process.ask(&probes, &inventory);
    let mut asked = noting.0.lock().unwrap().clone();
    asked.sort();
    let expected = [
        // What its own network leases to it counts as well.
        (InstanceId(1), vec![at(77), at(78), at(8)]),
        (InstanceId(2), vec![at(16)]),
    ];
    assert_eq!(asked, expected, "the second is leased 10.0.0.16");
    assert_eq!(round.reached[&InstanceId(1)], [at(8)]);
}
