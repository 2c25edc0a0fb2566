//! vmss on libvirt: the contract on its simulation, what only libvirt has, and the contract on a real host if one is
//! given (`VMSS_TEST_HOST_URI`, see below).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

mod contract;
mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use contract::{Fixture, label, on_network, uses, watch};
use support::simulation::Simulation;
use virt::connect::Connect;
use virt::sys;
use vmss::hypervisor::libvirt::{Libvirt, LibvirtHosts};
use vmss::hypervisor::meter::{Hears, Meter};
use vmss::hypervisor::{
    FaultKind, Groups, Hosts as _, Hypervisor, HypervisorError, LocalImage, Pulse, Rework, Settled,
    StoredImage,
};
use vmss::inventory::{Phase, Power};
use vmss::model::*;
use vmss::names::{InstanceId, StoreId, volume_name, volume_tag};
use vmss::plan::action::InstanceRef;
use vmss::scaleset::{Host, Limits};
use vmss::units::Bytes;

fn connect(uri: &str, pool: &str, call_timeout: Duration) -> Libvirt {
    measured(uri, pool, call_timeout, &Meter::default())
}

fn measured(uri: &str, pool: &str, call_timeout: Duration, meter: &Meter) -> Libvirt {
    let host = Host {
        name: label("kvm1"),
        uri: uri.to_owned(),
        pool: pool.to_owned(),
        migration_address: None,
    };
    let limits = Limits {
        calls_per_host: 4,
        starts_per_host: 2,
        call_timeout,
    };
    Libvirt::measured(&host, &limits, meter)
}

/// A host of the simulation; its pool is named so by libvirt.
fn simulated(simulation: &Simulation) -> Libvirt {
    connect(&simulation.uri(), "default-pool", Duration::from_secs(10))
}

fn image(digest: &str, format: ImageFormat, length: u64) -> Image {
    Image {
        digest: ImageDigest(digest.to_owned()),
        format,
        virtual_size: Bytes::mib(64),
        file_size: Bytes(length),
    }
}

fn model(image: Image) -> Model {
    Model {
        image,
        vcpus: 1,
        memory: Bytes::mib(64),
        disk: Bytes::mib(128),
        clone: Clone::Linked,
        cpu: Cpu::Maximum,
        virtualization: Virtualization::Qemu,
        firmware: Firmware::Bios,
        user_data: None,
        networks: vec![on_network("default")],
        data_disks: Vec::new(),
    }
}

fn sample() -> (Model, LocalImage) {
    let image = image(&"a1".repeat(32), ImageFormat::Qcow2, 1 << 20);
    let local = LocalImage {
        path: "/nonexistent".into(),
        image: image.clone(),
    };
    (model(image), local)
}

#[test]
fn the_contract_holds_on_the_simulation() {
    let simulation = Simulation::start();
    let (model, image) = sample();
    let processes = [simulated(&simulation), simulated(&simulation)];
    contract::run([&processes[0], &processes[1]], &model, &image);
}

#[test]
fn every_kind_of_instance_is_accepted() {
    let simulation = Simulation::start();
    let host = simulated(&simulation);
    let (model, image) = sample();
    type Variant = (&'static str, fn(&mut Model));
    let variants: [Variant; 6] = [
        ("full", |m| m.clone = Clone::Full),
        ("uefi", |m| m.firmware = Firmware::Uefi),
        ("kvm", |m| m.virtualization = Virtualization::Kvm),
        ("named", |m| m.cpu = Cpu::Named("Skylake-Server".to_owned())),
        ("cards", |m| {
            m.networks = vec![on_network("default"), on_network("default")]
        }),
        ("none", |m| m.networks.clear()),
    ];
    for (name, change) in variants {
        let mut model = model.clone();
        change(&mut model);
        let fixture = Fixture::new(name, &model, &image);
        fixture.create(&host, 1);
        fixture.clean(&host);
    }
}

#[test]
fn an_instance_that_is_off_is_seen_so_and_started() {
    let simulation = Simulation::start();
    let host = simulated(&simulation);
    let (model, image) = sample();
    let fixture = Fixture::new("off", &model, &image);
    let instance = fixture.create(&host, 1);
    let domain = simulation.holder.lookup_domain_by_name(&instance.name).unwrap();
    domain.destroy().unwrap();
    assert_eq!(fixture.instance(&host, 1).unwrap().power, Power::Off);
    host.start(&instance).unwrap();
    assert_eq!(fixture.instance(&host, 1).unwrap().power, Power::Running);
    domain.suspend().unwrap();
    assert_eq!(fixture.instance(&host, 1).unwrap().power, Power::Paused);
}

/// A domain as somebody else would define it.
fn define(simulation: &Simulation, name: &str, metadata: &str) {
    let xml = format!(
        "<domain type='test'><name>{name}</name><memory>65536</memory><os><type>hvm</type></os>\
         <metadata>{metadata}</metadata></domain>"
    );
    simulation.holder.define_domain_xml(&xml).unwrap();
}

#[test]
fn a_namesake_is_foreign_and_left_alone() {
    let simulation = Simulation::start();
    let host = simulated(&simulation);
    let (model, image) = sample();
    let fixture = Fixture::new("foreign", &model, &image);
    let name = |id: u64| format!("{}-{id}", fixture.set);
    define(&simulation, &name(1), "");
    define(
        &simulation,
        &name(2),
        "<v:instance xmlns:v='https://vmss.dev/xmlns/instance/1' set='x'/>",
    );
    define(&simulation, &format!("{}-0", fixture.set), "");
    let seen = fixture.seen(&host);
    assert!(seen.instances.is_empty());
    let mut foreign = seen.foreign;
    foreign.sort();
    assert_eq!(foreign, [InstanceId(1), InstanceId(2)]);
    fixture.push(&host);
    let outcome = host.create(&fixture.spec(1), &model, &Pulse::silent());
    assert_eq!(contract::kind(outcome), FaultKind::NotOurs);
    assert!(simulation.holder.lookup_domain_by_name(&name(1)).is_ok());
}

/// A note whose id has more digits than any set comes to, or that is damaged, is read by nobody: it is told all the same.
#[test]
fn a_note_that_cannot_be_read_is_told_as_such() {
    let simulation = Simulation::start();
    let host = simulated(&simulation);
    let (model, image) = sample();
    let fixture = Fixture::new("garbled", &model, &image);
    let set = &fixture.set;
    let note = |set: &str, id: &str| {
        format!("<v:instance xmlns:v='https://vmss.dev/xmlns/instance/1' set='{set}' id='{id}'/>")
    };
    for (name, note) in [
        (
            format!("{set}-1234567890123"),
            note(set.as_str(), "1234567890123"),
        ),
        (format!("{set}-4"), note(set.as_str(), "4")),
        (format!("{set}-5"), note("-", "5")),
        // Another set's, nobody's, and one that has no name of an instance: none of them is looked at for this set.
        (format!("{set}-6"), note("other", "6")),
        (format!("{set}-7"), String::new()),
        ("desk".to_owned(), note(set.as_str(), "8")),
    ] {
        define(&simulation, &name, &note);
    }
    let seen = fixture.seen(&host);
    assert_eq!(seen.instances.len(), 0);
    let told: Vec<&str> = (seen.nameless.iter())
        .filter(|n| n.is_garbled && !n.runs)
        .map(|n| n.name.as_str())
        .collect();
    let expected = ["1234567890123", "4", "5"].map(|id| format!("{set}-{id}"));
    assert_eq!(told, expected);
    assert_eq!(seen.nameless.len(), 3, "{:?}", seen.nameless);
    let ids: Vec<u64> = seen.foreign.iter().map(|id| id.0).collect();
    assert_eq!(ids, [4, 5, 6, 7], "their names are taken");
}

/// Whoever can't read a note can't say that its domain needs no image: what is about to be made of one has no disk yet that
/// would hold it.
#[test]
fn an_image_stays_for_a_domain_that_is_being_made_with_a_note_that_cannot_be_read() {
    let simulation = Simulation::start();
    let host = simulated(&simulation);
    let (model, image) = sample();
    let fixture = Fixture::new("spoilt", &model, &image);
    let other = "b2".repeat(32);
    let deleted = |note: &str, disk: &str| {
        fixture.push(&host);
        let xml = format!(
            "<domain type='test'><name>spoilt</name><memory>65536</memory><os><type>hvm</type></os><metadata>\
             <v:instance xmlns:v='https://vmss.dev/xmlns/instance/1' {note}/></metadata><devices><disk type='file'>\
             <source file='/default-pool/{disk}'/><target dev='vda'/></disk></devices></domain>"
        );
        let domain = simulation.holder.define_domain_xml(&xml).unwrap();
        let gone = host.delete_image(&image.image.digest, &[fixture.store]).unwrap();
        domain.undefine().unwrap();
        gone
    };
    volume(&simulation, "made.qcow2");
    let (absent, there) = ("absent.qcow2", "made.qcow2");
    let ours = &image.image.digest.0;
    for (note, disk, is_deleted) in [
        ("set='?'", absent, false),
        ("set='?'", there, true),
        ("set='?' phase='creating'", there, false),
        ("set='?' phase='changing'", there, false),
        ("set='?' phase='ready'", absent, true),
        (&*format!("set='?' image='{ours}'"), absent, false),
        (
            &*format!("set='?' phase='creating' image='{other}'"),
            absent,
            true,
        ),
    ] {
        assert_eq!(
            deleted(note, disk),
            is_deleted,
            "a note of {note}, its disk {disk}"
        );
    }
}

fn volume(simulation: &Simulation, name: &str) {
    let pool = simulation
        .holder
        .lookup_storage_pool_by_name("default-pool")
        .unwrap();
    let xml = format!("<volume><name>{name}</name><capacity>1048576</capacity></volume>");
    virt::storage_vol::StorageVol::create_xml(&pool, &xml, 0).unwrap();
}

#[test]
fn only_what_vmss_itself_writes_is_a_volume_of_an_instance() {
    let simulation = Simulation::start();
    let host = simulated(&simulation);
    let (model, image) = sample();
    let fixture = Fixture::new("leftover", &model, &image);
    fixture.create(&host, 1);
    let spec = fixture.spec(7);
    let ours = volume_name(&spec.set, spec.id, spec.uuid, "os", "qcow2");
    volume(&simulation, &ours);
    volume(
        &simulation,
        &format!("{}-7-{}-backup.qcow2", fixture.set, volume_tag(spec.uuid)),
    );
    volume(&simulation, "debian.qcow2");
    assert_eq!(fixture.seen(&host).unowned(), std::slice::from_ref(&ours));
    host.delete_volume(&ours, &uses(&host)).unwrap();
    assert!(fixture.seen(&host).unowned().is_empty());
}

/// Does something once, right after so many more calls to the host.
#[derive(Clone, Default)]
struct After(Arc<Mutex<Option<Due>>>);

/// After how many more calls what is done.
type Due = (usize, Box<dyn FnOnce() + Send>);

impl After {
    fn calls(&self, calls: usize, then: impl FnOnce() + Send + 'static) {
        *self.0.lock().unwrap() = Some((calls, Box::new(then)));
    }

    /// Whether so many calls have not come.
    fn is_due(&self) -> bool {
        self.0.lock().unwrap().take().is_some()
    }
}

impl Hears for After {
    fn ended(&self, _: &str, _: &'static str, _: Duration) {
        let due = {
            let mut next = self.0.lock().unwrap();
            match &mut *next {
                Some((calls, _)) if *calls > 0 => {
                    *calls -= 1;
                    None
                }
                _ => next.take(),
            }
        };
        if let Some((_, then)) = due {
            then();
        }
    }
    fn failed(&self, _: &str, _: &'static str) {}
}

/// Takes away an instance and the copies of an image, as other processes do.
fn take_away(holder: &Connect, instance: &str, digest: &ImageDigest) {
    let domain = holder.lookup_domain_by_name(instance).unwrap();
    domain.destroy().unwrap();
    domain.undefine().unwrap();
    let pool = holder.lookup_storage_pool_by_name("default-pool").unwrap();
    for volume in pool.list_all_volumes(0).unwrap() {
        let name = volume.name().unwrap();
        if name.contains(&digest.0) || name.starts_with(&format!("{instance}-")) {
            volume.delete(0).unwrap();
        }
    }
}

#[test]
fn what_goes_while_a_host_is_looked_at_hides_nothing_else() {
    let simulation = Simulation::start();
    let (meter, after) = (Meter::default(), After::default());
    meter.connect(Box::new(after.clone()));
    let host = measured(&simulation.uri(), "default-pool", Duration::from_secs(10), &meter);
    let (model, image) = sample();
    let stays = Fixture::new("going", &model, &image);
    let (goes, _folder) = stays.with_another_image();
    let one = stays.create(&host, 1);
    let other = StoreId(uuid::Uuid::from_u128(stays.store.0.as_u128() ^ 1));
    let kept = |images: Vec<StoredImage>| images.iter().any(|i| i.digest == stays.model.image.digest);
    type Look<'a> = (
        &'static str,
        &'a dyn Fn(&InstanceRef) -> Result<bool, HypervisorError>,
    );
    // Each says whether what stays was seen.
    let looks: [Look<'_>; 6] = [
        ("images", &|_| host.images().map(kept)),
        ("delete_image", &|_| {
            host.delete_image(&goes.model.image.digest, &[goes.store])?;
            host.images().map(kept)
        }),
        ("observe", &|_| {
            let seen = host.observe(&watch(&stays.set, stays.store))?;
            Ok(seen.instances.iter().any(|i| i.id == one.id))
        }),
        ("facts", &|_| Ok(host.facts()?.running >= 1)),
        ("stats", &|two| {
            host.stats(&[one.clone(), two.clone()], Groups::ALL)
                .map(|stats| stats.iter().any(|s| s.id == one.id))
        }),
        ("adopt", &|_| {
            let there = host.adopt(&stays.set, stays.store, other)?;
            let back = host.adopt(&stays.set, other, stays.store)?;
            Ok(there >= 1 && back >= 1)
        }),
    ];
    for (what, look) in looks {
        for calls in 0.. {
            let two = goes.create(&host, 2);
            let (holder, name) = (simulation.holder.clone(), two.name.clone());
            let digest = goes.model.image.digest.clone();
            after.calls(calls, move || take_away(&holder, &name, &digest));
            let seen = look(&two).unwrap_or_else(|e| panic!("{what}, gone after {calls} calls: {e}"));
            assert!(seen, "{what}, gone after {calls} calls");
            if after.is_due() {
                break;
            }
        }
    }
}

#[test]
fn an_image_without_its_mark_is_sent_again() {
    let simulation = Simulation::start();
    let host = simulated(&simulation);
    let (model, image) = sample();
    let fixture = Fixture::new("unmarked", &model, &image);
    fixture.push(&host);
    let pool = simulation
        .holder
        .lookup_storage_pool_by_name("default-pool")
        .unwrap();
    let stored = host.images().unwrap().remove(0);
    let mark = pool
        .lookup_storage_vol_by_name(&format!("{}.ok", stored.volume))
        .unwrap();
    mark.delete(0).unwrap();
    assert!(!host.images().unwrap()[0].whole);
    assert!(fixture.seen(&host).bases.is_empty());
    let outcome = host.create(&fixture.spec(1), &model, &Pulse::silent());
    assert_eq!(contract::kind(outcome), FaultKind::Missing);
    fixture.push(&host);
    assert!(host.images().unwrap()[0].whole);
}

#[test]
fn a_copy_that_was_cut_short_is_used_no_more_and_another_is_sent() {
    let simulation = Simulation::start();
    let host = simulated(&simulation);
    let (model, image) = sample();
    let fixture = Fixture::new("cut", &model, &image);
    fixture.push(&host);
    let instance = fixture.create(&host, 1);
    let stored = host.images().unwrap().remove(0);
    let pool = simulation
        .holder
        .lookup_storage_pool_by_name("default-pool")
        .unwrap();
    let cut = pool.lookup_storage_vol_by_name(&stored.volume).unwrap();
    cut.delete(0).unwrap();
    let shorter = format!(
        "<volume><name>{}</name><capacity>4096</capacity><target><format type='raw'/></target></volume>",
        stored.volume
    );
    virt::storage_vol::StorageVol::create_xml(&pool, &shorter, 0).unwrap();
    // Another process, which has not seen how it was.
    let another = simulated(&simulation);
    let two = fixture.spec(2);
    let error = another.create(&two, &model, &Pulse::silent()).unwrap_err();
    assert_eq!(error.kind, FaultKind::Corrupt, "{error}");
    assert!(error.message.contains("4096 bytes of it are left"), "{error}");
    assert!(simulation.holder.lookup_domain_by_name(&two.name()).is_err());
    assert!(
        fixture.seen(&another).bases.is_empty(),
        "nobody takes it for whole"
    );
    // Once no disk is backed by it, another is sent.
    fixture.delete(&another, &instance);
    assert_eq!(
        another
            .push_image(&image, fixture.store, &Pulse::silent())
            .unwrap(),
        vmss::hypervisor::Pushed::Sent
    );
    fixture.create(&another, 2);
    assert!(another.images().unwrap()[0].whole);
}

#[test]
fn a_note_that_someone_edited_deletes_nobodys_disk() {
    let simulation = Simulation::start();
    let host = simulated(&simulation);
    let (model, image) = sample();
    let fixture = Fixture::new("edited", &model, &image);
    let instance = fixture.create(&host, 1);
    volume(&simulation, "precious.qcow2");
    let domain = simulation.holder.lookup_domain_by_name(&instance.name).unwrap();
    let (kind, uri) = (
        i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).unwrap(),
        Some("https://vmss.dev/xmlns/instance/1"),
    );
    let text = domain.metadata(kind, uri, 0).unwrap();
    let volumes = fixture.instance(&host, 1).unwrap().meta.volumes;
    let text = text.replace(&volumes[0], "precious.qcow2");
    domain
        .set_metadata(kind, Some(&text), Some("vmss"), uri, 3)
        .unwrap();
    fixture.delete(&host, &instance);
    let pool = simulation
        .holder
        .lookup_storage_pool_by_name("default-pool")
        .unwrap();
    assert!(pool.lookup_storage_vol_by_name("precious.qcow2").is_ok());
}

#[test]
fn a_missing_pool_or_network_is_named() {
    let simulation = Simulation::start();
    let (mut model, image) = sample();
    let host = connect(&simulation.uri(), "nowhere", Duration::from_secs(10));
    let fixture = Fixture::new("missing", &model, &image);
    let seen = host.observe(&watch(&fixture.set, fixture.store)).unwrap();
    let why = seen.pool_unseen.expect("there is no such pool");
    assert!(why.contains("nowhere"), "{why}");
    let error = host.images().unwrap_err();
    assert_eq!(error.kind, FaultKind::Missing, "{error}");
    model.networks[0] = on_network("no-such-network");
    let findings = host.check(&model);
    for what in ["pool nowhere", "network no-such-network"] {
        let finding = findings.iter().find(|f| f.what == what).unwrap();
        assert!(finding.result.is_err(), "{finding:?}");
    }
}

#[test]
fn a_pool_that_is_not_active_hides_nothing_but_itself() {
    let simulation = Simulation::start();
    let host = simulated(&simulation);
    let (model, image) = sample();
    let fixture = Fixture::new("inactive", &model, &image);
    let instance = fixture.create(&host, 1);
    let look = || host.observe(&watch(&fixture.set, fixture.store)).unwrap();
    let before = look();
    let pool = simulation
        .holder
        .lookup_storage_pool_by_name("default-pool")
        .unwrap();
    pool.destroy().unwrap();
    let seen = look();
    let why = seen.pool_unseen.clone().expect("it is not active");
    assert!(why.contains("is not active"), "{why}");
    assert_eq!(seen.instances, before.instances, "its guest runs on, and is seen");
    assert!(seen.volumes.is_empty() && seen.bases.is_empty() && seen.seeds.is_empty());
    let facts = host.facts().unwrap();
    assert_eq!(
        (facts.running, facts.pool_free),
        (2, None),
        "libvirt's own domain runs, too"
    );
    let why = facts.pool_unseen.expect("it is not active");
    assert!(why.contains("is not active"), "{why}");
    let findings = host.check(&model);
    let finding = findings.iter().find(|f| f.what == "pool default-pool").unwrap();
    assert!(finding.result.is_err(), "{finding:?}");
    // Nothing that needs the pool is done, and nothing is half done.
    let pulse = Pulse::silent();
    assert_eq!(contract::kind(host.uses(&pulse)), FaultKind::Missing);
    let uses = vmss::hypervisor::Uses::default();
    let deleted = host.delete(&instance, Duration::ZERO, &uses, &pulse);
    assert_eq!(contract::kind(deleted), FaultKind::Missing);
    assert_eq!(look().instances, before.instances);
    // What needs no disk is done.
    host.restart(&instance, Duration::ZERO, &pulse).unwrap();
    assert_eq!(look().instances[0].power, Power::Running);
    pool.create(0).unwrap();
    let seen = look();
    assert_eq!(
        (seen.pool_unseen.clone(), &seen.volumes, &seen.bases),
        (None, &before.volumes, &before.bases)
    );
    fixture.delete(&host, &instance);
}

#[test]
fn a_stopped_daemon_ends_calls_within_the_deadline() {
    let simulation = Simulation::start();
    let (model, image) = sample();
    let deadline = Duration::from_secs(6);
    let host = connect(&simulation.uri(), "default-pool", deadline);
    let fixture = Fixture::new("stopped", &model, &image);
    fixture.create(&host, 1);
    fixture.seen(&host);
    simulation.signal(libc::SIGSTOP);
    let began = Instant::now();
    let error = host.observe(&watch(&fixture.set, fixture.store)).unwrap_err();
    assert_eq!(
        error.kind,
        FaultKind::Unreachable,
        "keepalive breaks the call: {error}"
    );
    assert!(
        began.elapsed() < deadline * 5,
        "it hung for {:?}",
        began.elapsed()
    );
    let began = Instant::now();
    let error = host.observe(&watch(&fixture.set, fixture.store)).unwrap_err();
    assert_eq!(
        error.kind,
        FaultKind::TimedOut,
        "a new connection gets no answer: {error}"
    );
    assert!(
        began.elapsed() < deadline * 5,
        "it hung for {:?}",
        began.elapsed()
    );
    simulation.signal(libc::SIGCONT);
    assert_eq!(fixture.seen(&host).instances.len(), 1, "and it is there again");
}

#[test]
fn a_thousand_domains_are_all_seen() {
    let simulation = Simulation::start();
    let host = simulated(&simulation);
    let (model, image) = sample();
    let fixture = Fixture::new("thousand", &model, &image);
    let text = {
        let instance = fixture.create(&host, 1);
        let domain = simulation.holder.lookup_domain_by_name(&instance.name).unwrap();
        let uri = Some("https://vmss.dev/xmlns/instance/1");
        domain
            .metadata(i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).unwrap(), uri, 0)
            .unwrap()
    };
    for id in 2..=1000 {
        let note = text
            .replacen(
                "<instance ",
                "<v:instance xmlns:v='https://vmss.dev/xmlns/instance/1' ",
                1,
            )
            .replace("</instance>", "</v:instance>")
            .replace("id=\"1\"", &format!("id=\"{id}\""))
            .replace("id='1'", &format!("id='{id}'"));
        define(&simulation, &format!("{}-{id}", fixture.set), &note);
    }
    let seen = fixture.seen(&host);
    assert_eq!((seen.instances.len(), seen.foreign.len()), (1000, 0));
    assert!(seen.instances.iter().all(|i| i.meta.phase == Phase::Ready));
}

#[test]
fn the_simulation_moves_nothing_and_says_so_before_anything_is_touched() {
    let simulations = [Simulation::start(), Simulation::start()];
    let host = |n: usize| Host {
        name: label(&format!("kvm{}", n + 1)),
        uri: simulations[n].uri(),
        pool: "default-pool".to_owned(),
        migration_address: None,
    };
    let limits = Limits {
        calls_per_host: 1,
        starts_per_host: 1,
        call_timeout: Duration::from_secs(10),
    };
    let hosts = LibvirtHosts::default();
    let (model, image) = sample();
    let fixture = Fixture::new("moves", &model, &image);
    let (one, two) = (hosts.host(&host(0), &limits), hosts.host(&host(1), &limits));
    fixture.push(&*two);
    let instance = fixture.create(&*one, 1);
    let before = (fixture.seen(&*one), fixture.seen(&*two));
    let spec = fixture.spec(1);
    let pulse = Pulse::silent();
    let moved = hosts.migrate(&host(0), &host(1), &limits, &instance, &spec, &model, &pulse);
    assert_eq!(moved.unwrap_err().kind, FaultKind::Unsupported);
    assert_eq!((fixture.seen(&*one), fixture.seen(&*two)), before);
    // Settling needs no more than looking, as long as nothing was begun.
    let settle = |from, to| hosts.settle(&host(from), &host(to), &limits, &instance, &pulse);
    assert_eq!(settle(0, 1), Ok(Settled::Stayed));
    assert_eq!(settle(1, 0), Ok(Settled::Moved));
    fixture.create(&*two, 1);
    assert_eq!(settle(0, 1).unwrap_err().kind, FaultKind::Other, "it is on both");
    fixture.clean(&*one);
    fixture.clean(&*two);
    assert_eq!(settle(0, 1).unwrap_err().kind, FaultKind::Missing);
}

/// The contract, and what only a real host can show, on the host that `VMSS_TEST_HOST_URI` names, in the pool that
/// `VMSS_TEST_HOST_POOL` names (default `default`). Instances go on the bridge `VMSS_TEST_HOST_BRIDGE` (default `br0`)
/// and boot `VMSS_TEST_HOST_IMAGE`, a qcow2 file with an agent in it; without one an image that boots nothing is made.
mod real {
    use super::*;
    use sha2::{Digest as _, Sha256};
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    struct Real {
        host: Libvirt,
        model: Model,
        image: LocalImage,
        boots: bool,
        _folder: tempfile::TempDir,
    }

    #[expect(clippy::disallowed_methods, reason = "the environment chooses what is tested")]
    fn variable(name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|v| !v.is_empty())
    }

    fn real() -> Real {
        let uri = variable("VMSS_TEST_HOST_URI").expect("tests/run names a host of the lab");
        let pool = variable("VMSS_TEST_HOST_POOL").unwrap_or_else(|| "default".to_owned());
        let bridge = variable("VMSS_TEST_HOST_BRIDGE").unwrap_or_else(|| "br0".to_owned());
        let given = variable("VMSS_TEST_HOST_IMAGE").map(PathBuf::from);
        let folder = tempfile::tempdir().unwrap();
        let path = given.clone().unwrap_or_else(|| blank(folder.path()));
        let image = look_at(&path);
        let mut model = model(image.clone());
        model.memory = Bytes::mib(128);
        model.disk = Bytes(image.virtual_size.0 + (8 << 20));
        model.networks[0].source = NicSource::Bridge(bridge);
        Real {
            host: connect(&uri, &pool, Duration::from_secs(30)),
            model,
            image: LocalImage { path, image },
            boots: given.is_some(),
            _folder: folder,
        }
    }

    fn blank(folder: &Path) -> PathBuf {
        let (raw, path) = (folder.join("blank.raw"), folder.join("blank.qcow2"));
        std::fs::write(&raw, vec![7; 3 << 20]).unwrap();
        let run = Command::new("qemu-img")
            .args(["convert", "-O", "qcow2"])
            .args([&raw, &path])
            .status()
            .unwrap();
        assert!(run.success());
        path
    }

    fn look_at(path: &Path) -> Image {
        let bytes = std::fs::read(path).unwrap();
        let digest: String = Sha256::digest(&bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let qcow2 = bytes.starts_with(b"QFI\xfb");
        let size = if qcow2 {
            u64::from_be_bytes(bytes[24..32].try_into().unwrap())
        } else {
            bytes.len() as u64
        };
        let format = if qcow2 {
            ImageFormat::Qcow2
        } else {
            ImageFormat::Raw
        };
        Image {
            virtual_size: Bytes(size),
            ..image(&digest, format, bytes.len() as u64)
        }
    }

    #[test]
    #[ignore = "needs a real host: tests/run"]
    fn the_contract_holds_on_a_real_host() {
        let (real, another) = (real(), real());
        contract::run([&real.host, &another.host], &real.model, &real.image);
    }

    #[test]
    #[ignore = "needs a real host: tests/run"]
    fn every_kind_of_instance_starts() {
        let real = real();
        type Variant = (&'static str, fn(&mut Model));
        let variants: [Variant; 4] = [
            ("full", |m| m.clone = Clone::Full),
            ("host-model", |m| m.cpu = Cpu::HostModel),
            ("named", |m| m.cpu = Cpu::Named("qemu64".to_owned())),
            ("none", |m| m.networks.clear()),
        ];
        for (name, change) in variants {
            let mut model = real.model.clone();
            change(&mut model);
            let fixture = Fixture::new(name, &model, &real.image);
            fixture.create(&real.host, 1);
            fixture.clean(&real.host);
        }
    }

    #[test]
    #[ignore = "needs a real host: tests/run"]
    fn a_sparse_raw_image_arrives_whole() {
        use std::io::{Seek as _, SeekFrom, Write as _};
        let real = real();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse.raw");
        let mut file = std::fs::File::create(&path).unwrap();
        for at in [0, 5 << 20, (9 << 20) + 512, 40 << 20] {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&[9; 300_000]).unwrap();
        }
        // Ends in a hole, at no round length.
        file.set_len((64 << 20) + 4096 * 3).unwrap();
        let image = look_at(&path);
        let local = LocalImage {
            path,
            image: image.clone(),
        };
        for clone in [Clone::Linked, Clone::Full] {
            let mut model = model(image.clone());
            model.clone = clone;
            model.networks.clear();
            let fixture = Fixture::new("sparse", &model, &local);
            fixture.push(&real.host);
            let stored = real.host.images().unwrap();
            let stored = stored.iter().find(|i| i.digest == image.digest).unwrap();
            assert!(
                stored.allocation < Bytes::mib(8),
                "its holes stay holes: {stored:?}"
            );
            fixture.create(&real.host, 1);
            fixture.clean(&real.host);
        }
    }

    #[test]
    #[ignore = "needs a real host: tests/run"]
    fn a_file_that_is_not_what_was_announced_is_never_whole() {
        let real = real();
        let mut model = real.model.clone();
        model.image.digest = ImageDigest("5".repeat(64));
        let local = LocalImage {
            image: model.image.clone(),
            ..real.image.clone()
        };
        let fixture = Fixture::new("corrupt", &model, &local);
        let sent = real.host.push_image(&local, fixture.store, &Pulse::silent());
        assert_eq!(contract::kind(sent), FaultKind::Corrupt);
        assert!(
            !real
                .host
                .images()
                .unwrap()
                .iter()
                .any(|i| i.digest == model.image.digest)
        );
    }

    #[test]
    #[ignore = "needs a real host: tests/run"]
    fn a_copy_that_somebody_wrote_to_is_read_back_before_anything_is_made_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        std::fs::write(&path, vec![9; 1 << 20]).unwrap();
        let image = look_at(&path);
        let local = LocalImage {
            path,
            image: image.clone(),
        };
        let mut model = model(image.clone());
        model.networks.clear();
        // Each time another process: who has found a copy sound looks again only after a while.
        let fixture = Fixture::new("written", &model, &local);
        fixture.push(&real().host);
        let pool = variable("VMSS_TEST_HOST_POOL").unwrap_or_else(|| "default".to_owned());
        let connection = Connect::open(Some(&variable("VMSS_TEST_HOST_URI").unwrap())).unwrap();
        let write = |bytes: &[u8]| {
            let pool = connection.lookup_storage_pool_by_name(&pool).unwrap();
            let name = real().host.images().unwrap();
            let name = &name.iter().find(|i| i.digest == image.digest).unwrap().volume;
            let volume = pool.lookup_storage_vol_by_name(name).unwrap();
            let stream = virt::stream::Stream::new(&connection, 0).unwrap();
            volume.upload(&stream, 0, bytes.len() as u64, 0).unwrap();
            assert_eq!(stream.send(bytes).unwrap(), isize::try_from(bytes.len()).unwrap());
            stream.finish().unwrap();
        };
        let state = || {
            let images = real().host.images().unwrap();
            let image = images.into_iter().find(|i| i.digest == image.digest).unwrap();
            (image.whole, image.changed)
        };
        assert_eq!(state(), (true, false));
        write(&[9; 512]);
        assert_eq!(state(), (false, true), "it was written to");
        fixture.create(&real().host, 1);
        assert_eq!(state(), (true, false), "it is what it was, and marked anew");
        write(&[8; 512]);
        let outcome = real().host.create(&fixture.spec(2), &model, &Pulse::silent());
        assert_eq!(contract::kind(outcome), FaultKind::Corrupt);
        assert_eq!(state(), (false, false), "its mark is gone");
        let outcome = real().host.push_image(&local, fixture.store, &Pulse::silent());
        assert_eq!(
            contract::kind(outcome),
            FaultKind::Corrupt,
            "a disk is backed by it"
        );
        fixture.clean(&real().host);
        fixture.push(&real().host);
        assert_eq!(state(), (true, false));
        fixture.clean(&real().host);
    }

    #[test]
    #[ignore = "needs a real host: tests/run"]
    fn a_cancelled_upload_leaves_nothing() {
        let real = real();
        let mut model = real.model.clone();
        model.image.digest = ImageDigest("6".repeat(64));
        let local = LocalImage {
            image: model.image.clone(),
            ..real.image.clone()
        };
        let fixture = Fixture::new("cancelled", &model, &local);
        let pulse = Pulse::silent();
        pulse.cancel();
        let sent = real.host.push_image(&local, fixture.store, &pulse);
        assert_eq!(contract::kind(sent), FaultKind::Cancelled);
        assert!(
            !real
                .host
                .images()
                .unwrap()
                .iter()
                .any(|i| i.digest == model.image.digest)
        );
    }

    #[test]
    #[ignore = "needs a real host: tests/run"]
    fn a_shared_seed_that_was_cut_short_is_written_again() {
        let real = real();
        let fixture = Fixture::new("seed", &real.model, &real.image);
        let model = fixture.with_user_data("#cloud-config\n");
        fixture.create_of(&real.host, 1, &model);
        let name = fixture.seen(&real.host).seeds[0].1.clone();
        let pool = variable("VMSS_TEST_HOST_POOL").unwrap_or_else(|| "default".to_owned());
        let uri = variable("VMSS_TEST_HOST_URI").unwrap();
        let connection = virt::connect::Connect::open(Some(&uri)).unwrap();
        let volume = || {
            let pool = connection.lookup_storage_pool_by_name(&pool).unwrap();
            pool.lookup_storage_vol_by_name(&name).unwrap()
        };
        let whole = read(&connection, &volume());
        volume().wipe(0).unwrap();
        assert_ne!(read(&connection, &volume()), whole);
        // Another process, as it were: this one has already looked.
        let again = connect(&uri, &pool, Duration::from_secs(30));
        fixture.create_of(&again, 2, &model);
        assert_eq!(read(&connection, &volume()), whole);
        fixture.clean(&again);
    }

    /// A process that reads or deletes a console log closes their folder when it is done, whoever else has a use for it.
    #[test]
    #[ignore = "needs a real host: tests/run"]
    fn the_folder_of_the_logs_is_closed_while_others_read_it() {
        let real = real();
        let (fixture, _image) = Fixture::new("folder", &real.model, &real.image).with_another_image();
        let instance = fixture.create(&real.host, 1);
        let whole = || real.host.console_log(&instance, Bytes::mib(1), &Pulse::silent());
        let began = Instant::now();
        while whole().expect("it is kept").text.is_empty() {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "the guest says nothing"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        let began = Instant::now();
        whole().expect("it is kept");
        let pace = began.elapsed();

        let uri = variable("VMSS_TEST_HOST_URI").unwrap();
        let close_once = |after: Duration| {
            let uri = uri.clone();
            std::thread::spawn(move || {
                let connection = virt::connect::Connect::open(Some(&uri)).unwrap();
                std::thread::sleep(after);
                let pool = connection.lookup_storage_pool_by_name("vmss-console-logs");
                pool.and_then(|p| p.destroy()).is_ok()
            })
        };
        let mut closed = 0;
        for n in 0..60 {
            let closer = close_once(pace * (n % 20) / 10);
            whole().expect("it is opened again");
            closed += u32::from(closer.join().unwrap());
        }
        assert!(closed > 0, "nobody has closed it in time");

        // A look at what depends on an image passes through every pool, this one too.
        let digest = &fixture.model.image.digest;
        let (stop, reads) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    whole().expect("nobody else closes it now");
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
            let prunes: Vec<_> = (0..100)
                .map(|_| real.host.delete_image(digest, &[fixture.store]))
                .collect();
            stop.store(true, Ordering::Relaxed);
            assert_eq!(prunes, vec![Ok(false); 100]);
        });
        println!("read {} times meanwhile", reads.load(Ordering::Relaxed));

        // What was shown is not shown again.
        let pulse = Pulse::silent();
        let mut followed = Vec::new();
        let is_over = AtomicBool::new(false);
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut closed = 0;
                while closed < 4 && !is_over.load(Ordering::Relaxed) && began.elapsed().as_secs() < 120 {
                    closed += u32::from(close_once(Duration::ZERO).join().unwrap());
                }
                std::thread::sleep(Duration::from_secs(1));
                pulse.cancel();
                assert_eq!(closed, 4, "nobody opens it");
            });
            let mut show = |bytes: &[u8]| followed.extend_from_slice(bytes);
            let result = real.host.follow_console_log(&instance, 0, &pulse, &mut show);
            is_over.store(true, Ordering::Relaxed);
            result
        });
        assert_eq!(result, Ok(()));
        assert!(!followed.is_empty());
        let by_now = whole().unwrap().text;
        assert!(by_now.starts_with(&followed), "shown in order, and once");
        fixture.clean(&real.host);
    }

    fn read(connection: &virt::connect::Connect, volume: &virt::storage_vol::StorageVol) -> Vec<u8> {
        let stream = virt::stream::Stream::new(connection, 0).unwrap();
        volume.download(&stream, 0, 0, 0).unwrap();
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            match usize::try_from(stream.recv(&mut buffer).unwrap()).unwrap() {
                0 => break,
                n => bytes.extend_from_slice(&buffer[..n]),
            }
        }
        stream.finish().unwrap();
        bytes
    }

    #[test]
    #[ignore = "needs a real host: tests/run"]
    fn a_guest_tells_its_address_and_shuts_down_when_asked() {
        let real = real();
        if !real.boots {
            println!("VMSS_TEST_HOST_IMAGE is not set: no guest is booted");
            return;
        }
        let fixture = Fixture::new("guest", &real.model, &real.image);
        let began = Instant::now();
        let instance = fixture.create(&real.host, 1);
        let addresses = loop {
            let found = real.host.addresses(&instance).unwrap();
            if !found.is_empty() {
                break found;
            }
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "the guest never told its address"
            );
            std::thread::sleep(Duration::from_millis(200));
        };
        println!("{addresses:?} after {:.2?}", began.elapsed());
        let began = Instant::now();
        real.host
            .delete(
                &instance,
                Duration::from_secs(60),
                &uses(&real.host),
                &Pulse::silent(),
            )
            .unwrap();
        println!("shut down and deleted in {:.2?}", began.elapsed());
        assert!(
            began.elapsed() < Duration::from_secs(50),
            "it shut down by itself, and was not switched off"
        );
        fixture.clean(&real.host);
    }

    /// What the guest of the lab's image serves.
    fn curl(address: std::net::IpAddr, path: &str) -> String {
        let run = Command::new("curl")
            .args(["-sS", "--max-time", "10", "--retry", "20", "--retry-connrefused"])
            .arg(format!("http://{address}{path}"))
            .output()
            .unwrap();
        assert!(
            run.status.success(),
            "{path}: {}",
            String::from_utf8_lossy(&run.stderr)
        );
        String::from_utf8(run.stdout).unwrap()
    }

    /// Waits until its agent answers, and gives its address.
    fn booted(host: &Libvirt, instance: &vmss::plan::action::InstanceRef) -> std::net::IpAddr {
        let began = Instant::now();
        loop {
            let said = host.ping(instance);
            let found = host.addresses(instance).unwrap();
            if let (Ok(()), Some(address)) = (&said, found.first()) {
                return address.address;
            }
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "the guest never came up: {said:?}"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Sizes of the instance's disks as the pool has them.
    fn sizes(connection: &virt::connect::Connect, pool: &str, volumes: &[String]) -> Vec<u64> {
        let pool = connection.lookup_storage_pool_by_name(pool).unwrap();
        let size = |v: &String| {
            let volume = pool.lookup_storage_vol_by_name(v).unwrap();
            volume.info().unwrap().capacity
        };
        volumes.iter().map(size).collect()
    }

    #[test]
    #[ignore = "needs a real host: tests/run"]
    fn a_guest_keeps_its_data_and_its_address_through_every_change() {
        let real = real();
        if !real.boots {
            println!("VMSS_TEST_HOST_IMAGE is not set: no guest is booted");
            return;
        }
        let host = &real.host;
        let uri = variable("VMSS_TEST_HOST_URI").unwrap();
        let pool = variable("VMSS_TEST_HOST_POOL").unwrap_or_else(|| "default".to_owned());
        let connection = virt::connect::Connect::open(Some(&uri)).unwrap();
        let fixture = Fixture::new("rework", &real.model, &real.image);
        let mut model = fixture.with_disks(&["logs"]);
        let instance = fixture.create_of(host, 1, &model);
        let volumes = fixture.instance(host, 1).unwrap().meta.volumes;
        let is_as_large = |model: &Model| {
            let expected = [model.disk.0, model.data_disks[0].size.0];
            assert_eq!(sizes(&connection, &pool, &volumes), expected);
        };
        is_as_large(&model);
        let address = booted(host, &instance);
        assert!(curl(address, "/").contains("revision 1"));
        curl(address, "/data?write=kept");

        let more = Bytes::mib(16);
        let grow = |model: &mut Model| {
            model.disk = model.disk + more;
            model.data_disks[0].size = model.data_disks[0].size + more;
        };
        let up = curl(address, "/uptime");
        grow(&mut model);
        fixture.rework(host, 1, &model, Rework::Live);
        is_as_large(&model);
        let seconds = |text: &str| text.split(['.', ' ']).next().unwrap().parse::<u64>().unwrap();
        assert!(
            seconds(&curl(address, "/uptime")) >= seconds(&up),
            "it was not restarted"
        );

        grow(&mut model);
        model.memory = model.memory + more;
        let spec = fixture.second(1, &model);
        let asked = Duration::from_secs(60);
        host.rework(
            &spec,
            &model,
            Rework::Restart,
            asked,
            &uses(host),
            &Pulse::silent(),
        )
        .unwrap();
        is_as_large(&model);
        assert_eq!(booted(host, &instance), address, "it has the same card");
        assert!(curl(address, "/").contains("revision 2"));
        assert!(curl(address, "/data").starts_with("kept"));

        let (next, _folder) = fixture.with_another_image();
        next.push(host);
        model.image = next.model.image.clone();
        let spec = next.second(1, &model);
        host.rework(
            &spec,
            &model,
            Rework::Reimage,
            asked,
            &uses(host),
            &Pulse::silent(),
        )
        .unwrap();
        is_as_large(&model);
        let volume = connection.lookup_storage_pool_by_name(&pool).unwrap();
        let volume = volume.lookup_storage_vol_by_name(&volumes[0]).unwrap();
        let backing = volume.xml_desc(0).unwrap();
        assert!(backing.contains(&model.image.digest.0), "{backing}");
        assert_eq!(booted(host, &instance), address);
        assert!(curl(address, "/data").starts_with("kept"));

        host.stop(&instance, asked, &Pulse::silent()).unwrap();
        host.start(&instance).unwrap();
        assert_eq!(booted(host, &instance), address);
        host.restart(&instance, asked, &Pulse::silent()).unwrap();
        assert_eq!(booted(host, &instance), address);
        assert!(curl(address, "/data").starts_with("kept"));

        let domain = connection.lookup_domain_by_name(&instance.name).unwrap();
        let stop = r#"{"execute":"guest-exec","arguments":{"path":"/bin/busybox","arg":["sh","-c","sleep 1; kill -STOP $(pidof qemu-ga)"]}}"#;
        domain.qemu_agent_command(stop, 5, 0).unwrap();
        let began = Instant::now();
        let error = loop {
            match host.ping(&instance) {
                Ok(()) => assert!(began.elapsed() < Duration::from_secs(60), "the agent goes on"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind, FaultKind::AgentSilent, "{error}");
        domain.suspend().unwrap();
        let error = host.ping(&instance).unwrap_err();
        assert_eq!(error.kind, FaultKind::NotRunning, "{error}");
        next.clean(host);
        fixture.clean(host);
    }

    /// libvirt gives an agent up for good when one answer passes 10 MiB.
    #[test]
    #[ignore = "needs a real host: tests/run"]
    fn a_command_that_writes_much_leaves_its_agent_whole_and_one_that_broke_is_refused_at_once() {
        let real = real();
        if !real.boots {
            println!("VMSS_TEST_HOST_IMAGE is not set: no guest is booted");
            return;
        }
        let host = &real.host;
        let fixture = Fixture::new("much", &real.model, &real.image);
        let instance = fixture.create(host, 1);
        booted(host, &instance);
        let began = Instant::now();
        while host.ping(&instance).is_err() {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "the agent never answered"
            );
        }
        let much = ["sh", "-c", "head -c 9000000 /dev/zero; echo end >&2; exit 5"].map(str::to_owned);
        let ran = host
            .exec(&instance, &much, Duration::from_secs(60), &Pulse::silent())
            .unwrap();
        assert_eq!((ran.code, ran.is_cut, ran.stderr), (5, true, b"end\n".to_vec()));
        assert_eq!(ran.stdout.len(), vmss::hypervisor::MOST_OUTPUT);
        assert_eq!(host.ping(&instance), Ok(()), "its agent is as it was");

        // As somebody does who asks the agent by hand.
        let connection = virt::connect::Connect::open(variable("VMSS_TEST_HOST_URI").as_deref()).unwrap();
        let domain = connection.lookup_domain_by_name(&instance.name).unwrap();
        let begin = r#"{"execute":"guest-exec","arguments":{"path":"head","arg":["-c","9000000","/dev/zero"],"capture-output":true}}"#;
        let answer = domain.qemu_agent_command(begin, 5, 0).unwrap();
        let pid: String = answer.chars().filter(char::is_ascii_digit).collect();
        let ask = format!(r#"{{"execute":"guest-exec-status","arguments":{{"pid":{pid}}}}}"#);
        let began = Instant::now();
        let broken = loop {
            let answered = domain.qemu_agent_command(&ask, 60, 0);
            match host.ping(&instance) {
                Ok(()) => assert!(began.elapsed() < Duration::from_secs(120), "{answered:?}"),
                Err(error) => break error,
            }
        };
        assert_eq!(broken.kind, FaultKind::AgentBroken, "{broken}");
        fixture.clean(host);
    }

    /// The memory that somebody saved of a guest belongs to the disk that is replaced.
    #[test]
    #[ignore = "needs a real host: tests/run"]
    fn a_saved_memory_does_not_come_back_on_a_new_disk() {
        let real = real();
        let host = &real.host;
        let fixture = Fixture::new("saved", &real.model, &real.image);
        let instance = fixture.create(host, 1);
        let connection = virt::connect::Connect::open(variable("VMSS_TEST_HOST_URI").as_deref()).unwrap();
        let domain = connection.lookup_domain_by_name(&instance.name).unwrap();
        domain.managed_save(0).unwrap();
        fixture.rework(host, 1, &real.model, Rework::Reimage);
        assert!(!domain.has_managed_save(0).unwrap());
        assert_eq!(fixture.instance(host, 1).unwrap().power, Power::Running);
        fixture.clean(host);
    }

    #[test]
    #[ignore = "needs a real host: tests/run"]
    fn a_missing_bridge_is_named_and_can_be_undone() {
        let real = real();
        let mut model = real.model.clone();
        model.networks[0].source = NicSource::Bridge("vmss-none0".to_owned());
        let fixture = Fixture::new("bridge", &model, &real.image);
        fixture.push(&real.host);
        let spec = fixture.spec(1);
        let error = real.host.create(&spec, &model, &Pulse::silent()).unwrap_err();
        assert_eq!(error.kind, FaultKind::Missing, "{error}");
        assert!(error.message.contains("vmss-none0"), "{error}");
        let half = fixture.instance(&real.host, 1).unwrap();
        assert_eq!((half.meta.phase, half.power), (Phase::Creating, Power::Off));
        fixture.clean(&real.host);
    }

    /// `VMSS_TEST_HOST_ADDRESS`, such as `10.0.0.60/24`, is given to the guest.
    #[test]
    #[ignore = "needs a real host: tests/run"]
    fn a_guest_takes_the_address_it_is_given() {
        let real = real();
        let Some(given) = variable("VMSS_TEST_HOST_ADDRESS").filter(|_| real.boots) else {
            return;
        };
        let (address, prefix) = given.split_once('/').unwrap();
        let address: std::net::Ipv4Addr = address.parse().unwrap();
        let mut model = real.model.clone();
        model.networks[0].addresses = Some(vmss::scaleset::AddressRange {
            first: address,
            last: address,
            prefix: prefix.parse().unwrap(),
        });
        let fixture = Fixture::new("fixed", &model, &real.image);
        fixture.push(&real.host);
        let mut spec = fixture.spec(1);
        spec.addresses = vec![Some(address)];
        real.host.create(&spec, &model, &Pulse::silent()).unwrap();
        assert_eq!(
            fixture.instance(&real.host, 1).unwrap().meta.addresses,
            [Some(address)]
        );
        let began = Instant::now();
        loop {
            let found = real.host.addresses(&spec.reference()).unwrap();
            if found
                .iter()
                .any(|told| told.address == std::net::IpAddr::from(address))
            {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(120), "it has {found:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        fixture.clean(&real.host);
    }

    /// The same host with another pool.
    fn with_pool(pool: &str) -> Libvirt {
        let uri = variable("VMSS_TEST_HOST_URI").expect("tests/run names a host of the lab");
        let host = connect(&uri, pool, Duration::from_secs(30));
        let facts = host.facts().expect("the host answers");
        assert_eq!(facts.pool_unseen, None, "tests/run makes the pool {pool}");
        host
    }

    /// On a pool `vmss-test-small` of less than 16 MiB.
    #[test]
    #[ignore = "needs a real host: tests/run"]
    fn a_full_pool_is_said_to_be_full() {
        let real = real();
        let host = with_pool("vmss-test-small");
        let fixture = Fixture::new("small", &real.model, &real.image);
        let sent = host.push_image(&real.image, fixture.store, &Pulse::silent());
        assert_eq!(contract::kind(sent), FaultKind::NoSpace);
        assert!(host.images().unwrap().is_empty(), "what was sent is gone again");
    }

    /// On a pool `vmss-test-ramfs` on a file system without `O_DIRECT`.
    #[test]
    #[ignore = "needs a real host: tests/run"]
    fn a_file_system_without_direct_io_is_used_through_the_page_cache() {
        let real = real();
        let host = with_pool("vmss-test-ramfs");
        let model = Model {
            data_disks: vec![DataDisk {
                name: label("logs"),
                size: Bytes::mib(64),
            }],
            ..real.model.clone()
        };
        let fixture = Fixture::new("ramfs", &model, &real.image);
        fixture.create(&host, 1);
        fixture.create(&host, 2);
        fixture.clean(&host);
    }
}
