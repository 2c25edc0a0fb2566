//! Instances move between hosts: what only real libvirt and QEMU can show.
//!
//! The process that moves one must be killed in the middle, and can't be the test's: it is this very program again, in
//! the "test" [`the_process_that_is_killed`], which does nothing when nobody has told it what to move.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use vmss::hypervisor::libvirt::LibvirtHosts;
use vmss::hypervisor::{FaultKind, Hosts as _, Hypervisor, HypervisorError, News, Pulse, Settled, Stage};
use vmss::inventory::{Phase, Power};
use vmss::model::{Clone as CloneMode, Cpu, DataDisk, Firmware, Model, NicSource, UserData, Virtualization};
use vmss::names::{StoreId, volume_name};
use vmss::plan::action::InstanceSpec;
use vmss::scaleset::{Host, Limits};
use vmss::units::Bytes;

use super::contract::{Fixture, cancelled_at, label, on_network, uses};
use super::{Lab, curl, lab, lab_folder, lab_net};
use crate::support::wait_for;

/// The store of the instance to move, when this is the process that is killed.
const STORE: &str = "VMSS_LAB_MIGRATION";

/// Instance 1 of a set of its own, and the hosts it moves between.
struct Move {
    hosts: LibvirtHosts,
    fixture: Fixture,
    model: Model,
    limits: Limits,
    pool: String,
    _cache: tempfile::TempDir,
}

impl Move {
    fn new(store: Option<StoreId>) -> Self {
        let cache = tempfile::tempdir().unwrap();
        let path = lab_folder().join("images/guest-v1.qcow2");
        let image =
            vmss::image_file::inspect(&path, None, cache.path(), &Default::default(), &|_, _| ()).unwrap();
        let mut card = on_network("");
        card.source = NicSource::Bridge("br0".to_owned());
        let model = Model {
            image: image.image.clone(),
            vcpus: 1,
            memory: Bytes::mib(128),
            disk: Bytes(image.image.virtual_size.0 + (8 << 20)),
            clone: CloneMode::Linked,
            cpu: Cpu::Maximum,
            virtualization: Virtualization::Qemu,
            firmware: Firmware::Bios,
            user_data: Some(UserData {
                template: "{{ instance.name }} on {{ host }}\n".to_owned(),
                vars: Default::default(),
            }),
            networks: vec![card],
            data_disks: vec![DataDisk {
                name: label("data"),
                size: Bytes::mib(64),
            }],
        };
        let mut fixture = Fixture::new("web", &model, &image);
        fixture.set = label("web");
        fixture.store = store.unwrap_or(fixture.store);
        Self {
            hosts: LibvirtHosts::default(),
            fixture,
            model,
            limits: Limits {
                calls_per_host: 4,
                starts_per_host: 2,
                call_timeout: Duration::from_secs(10),
            },
            pool: "default".to_owned(),
            _cache: cache,
        }
    }

    fn host(&self, name: &str) -> Host {
        let socket = lab_folder().join(format!("hosts/{name}/sock/libvirt-sock"));
        let last = name.trim_start_matches("kvm");
        Host {
            name: label(name),
            uri: format!("qemu+unix:///system?socket={}", socket.display()),
            pool: self.pool.clone(),
            // One host with, the others without: both ways are tried.
            migration_address: (name == "kvm2").then(|| format!("{}.1{last}", lab_net())),
        }
    }

    fn on(&self, name: &str) -> Arc<dyn Hypervisor> {
        self.hosts.host(&self.host(name), &self.limits)
    }

    fn spec(&self, host: &str) -> InstanceSpec {
        let rack = match host {
            "kvm1" => "rack-a",
            "kvm2" => "rack-b",
            _ => "rack-c",
        };
        InstanceSpec {
            host: label(host),
            fault_domain: label(rack),
            ..self.fixture.spec_of(1, &self.model)
        }
    }

    /// Makes the instance on kvm1 and waits until it answers; the other hosts get the image. Its address, and "kept" on
    /// its data disk.
    fn begin(&self) -> String {
        for host in ["kvm2", "kvm3"] {
            self.fixture.push(&*self.on(host));
        }
        self.fixture.create_of(&*self.on("kvm1"), 1, &self.model);
        let instance = self.spec("kvm1").reference();
        let mut address = None;
        wait_for("an address", || {
            let found = self.on("kvm1").addresses(&instance).unwrap_or_default();
            address = found.first().map(|told| told.address.to_string());
            address.is_some()
        });
        let address = address.unwrap();
        wait_for("an answer", || !curl(&format!("http://{address}/")).is_empty());
        curl(&format!("http://{address}/data?write=kept"));
        address
    }

    fn migrate(&self, from: &str, to: &str, pulse: &Pulse) -> Result<(), HypervisorError> {
        let spec = self.spec(to);
        let (from, to) = (self.host(from), self.host(to));
        let instance = spec.reference();
        self.hosts
            .migrate(&from, &to, &self.limits, &instance, &spec, &self.model, pulse)
    }

    fn settle(&self, from: &str, to: &str) -> Result<Settled, HypervisorError> {
        let (from, to) = (self.host(from), self.host(to));
        let instance = self.spec("kvm1").reference();
        self.hosts
            .settle(&from, &to, &self.limits, &instance, &Pulse::silent())
    }

    /// The instance is whole on that host, and nothing of it is on the other.
    #[track_caller]
    fn assert_on(&self, host: &str, other: &str) {
        let there = self.fixture.instance(&*self.on(host), 1).expect("it is there");
        assert_eq!((there.power, there.meta.phase), (Power::Running, Phase::Ready));
        assert_eq!(there.meta.moving_to, None);
        assert_eq!((there.meta.host, there.meta.fault_domain), {
            let spec = self.spec(host);
            (spec.host, spec.fault_domain)
        });
        let left = self.fixture.seen(&*self.on(other));
        assert!(left.instances.is_empty() && left.foreign.is_empty(), "{left:?}");
        for volume in &left.unowned() {
            // As the next plan does, after a kill.
            self.on(other)
                .delete_volume(volume, &uses(&*self.on(other)))
                .unwrap();
        }
        let files = lab(&["exec", other, "ls", "/var/lib/libvirt/images"]);
        assert!(!files.contains("web-1"), "{other} has {files}");
        assert!(self.fixture.seen(&*self.on(host)).unowned().is_empty());
    }

    /// It answers at its address with what it had on its disk, and has not been started since; how long it has been up.
    #[track_caller]
    fn assert_goes_on(&self, address: &str, before: f64) -> f64 {
        let mut up = 0.0;
        wait_for("it to go on", || {
            up = uptime(address).unwrap_or(0.0);
            up > 0.0
        });
        assert!(up > before, "up for {up} s after {before} s");
        assert!(curl(&format!("http://{address}/data")).starts_with("kept"));
        up
    }
}

fn uptime(address: &str) -> Option<f64> {
    let said = curl(&format!("http://{address}/uptime"));
    said.split_whitespace().next()?.parse().ok()
}

/// A pulse that has something done to a host when the guest begins to go over.
fn when_it_goes(act: &'static [&'static str]) -> Pulse {
    Pulse::new(move |news| {
        if news == News::Stage(Stage::Migrate) {
            lab(act);
        }
    })
}

/// Has libvirt send the guest slowly, so that there is a middle to do something in.
fn slowly(lab: &Lab) {
    lab.virsh("kvm1", &["migrate-setspeed", "web-1", "16"]);
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn a_guest_goes_on_on_another_host_with_its_disks_and_address() {
    let lab = Lab::new(0, "", "");
    for clone in [CloneMode::Linked, CloneMode::Full] {
        let mut it = Move::new(None);
        it.model.clone = clone;
        if clone == CloneMode::Full {
            it.model.user_data = Some(UserData {
                template: "the same for all\n".to_owned(),
                vars: Default::default(),
            });
        }
        let address = it.begin();
        let mut up = uptime(&address).unwrap();
        let instance = it.spec("kvm2").reference();
        // There, and back with nothing of the first time in the way, and on to a third.
        for (from, to) in [("kvm1", "kvm2"), ("kvm2", "kvm1"), ("kvm1", "kvm3")] {
            let news = Arc::new(std::sync::Mutex::new(Vec::new()));
            let sink = Arc::clone(&news);
            let pulse = Pulse::new(move |n| sink.lock().unwrap().push(n));
            it.migrate(from, to, &pulse).unwrap();
            it.assert_on(to, from);
            up = it.assert_goes_on(&address, up);
            let news = news.lock().unwrap();
            assert!(news.contains(&News::Stage(Stage::Migrate)), "{news:?}");
            assert_eq!(it.migrate(from, to, &Pulse::silent()), Ok(()), "it is there");
        }
        // Its lasting definition and its disks are right there.
        it.on("kvm3")
            .restart(&instance, Duration::ZERO, &Pulse::silent())
            .unwrap();
        wait_for("it to boot", || uptime(&address).is_some_and(|now| now < up));
        assert!(curl(&format!("http://{address}/data")).starts_with("kept"));
        let said = match clone {
            CloneMode::Linked => "web-1 on kvm3\n",
            CloneMode::Full => "the same for all\n",
        };
        assert_eq!(curl(&format!("http://{address}/userdata")), said);
        for host in ["kvm1", "kvm2", "kvm3"] {
            it.fixture.clean(&*it.on(host));
        }
    }
    lab.assert_no_trace();
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn a_migration_that_is_refused_cancelled_or_stuck_leaves_the_guest_where_it_was() {
    let lab = Lab::new(0, "", "");
    let it = Move::new(None);
    let address = it.begin();
    let mut up = uptime(&address).unwrap();
    let kind = |outcome: Result<(), HypervisorError>| outcome.expect_err("it must fail").kind;

    assert_eq!(
        kind(it.migrate("kvm1", "kvm1", &Pulse::silent())),
        FaultKind::Other
    );
    it.on("kvm2")
        .delete_image(&it.model.image.digest, &[it.fixture.store])
        .unwrap();
    assert_eq!(
        kind(it.migrate("kvm1", "kvm2", &Pulse::silent())),
        FaultKind::Missing
    );
    it.assert_on("kvm1", "kvm2");
    it.fixture.push(&*it.on("kvm2"));

    // Somebody has a copy of its disk there.
    let spec = it.spec("kvm2");
    let copy = volume_name(&spec.set, spec.id, spec.uuid, "os", "qcow2");
    lab.virsh("kvm2", &["vol-create-as", "default", &copy, "1M"]);
    let refused = it.migrate("kvm1", "kvm2", &Pulse::silent()).unwrap_err();
    assert_eq!(refused.kind, FaultKind::NotOurs, "{refused}");
    lab.virsh("kvm2", &["vol-delete", "--pool", "default", &copy]);
    it.assert_on("kvm1", "kvm2");

    slowly(&lab);
    let pulse = cancelled_at(Stage::Migrate);
    assert_eq!(kind(it.migrate("kvm1", "kvm2", &pulse)), FaultKind::Cancelled);
    it.assert_on("kvm1", "kvm2");
    up = it.assert_goes_on(&address, up);

    // Its libvirtd freezes in the middle.
    let freeze = when_it_goes(&["freeze", "kvm2"]);
    let outcome = it.migrate("kvm1", "kvm2", &freeze);
    assert!(outcome.is_err(), "nothing is settled with a host that is frozen");
    up = it.assert_goes_on(&address, up);
    self::lab(&["thaw", "kvm2"]);
    wait_for("kvm2 to be back", || it.settle("kvm1", "kvm2").is_ok());
    assert_eq!(it.settle("kvm1", "kvm2"), Ok(Settled::Stayed));
    it.assert_on("kvm1", "kvm2");

    it.migrate("kvm1", "kvm2", &Pulse::silent()).unwrap();
    it.assert_on("kvm2", "kvm1");
    it.assert_goes_on(&address, up);
    for host in ["kvm1", "kvm2", "kvm3"] {
        it.fixture.clean(&*it.on(host));
    }
    lab.assert_no_trace();
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn hosts_that_share_the_folder_of_their_pools_are_refused() {
    let lab = Lab::new(0, "", "");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let mut it = Move::new(None);
    it.pool = "shared".to_owned();
    for host in ["kvm1", "kvm2"] {
        lab.virsh(host, &["pool-create-as", "shared", "dir", "--target", path]);
    }
    it.fixture.create_of(&*it.on("kvm1"), 1, &it.model);
    lab.virsh("kvm2", &["pool-refresh", "shared"]);
    let files = || -> std::collections::BTreeSet<_> {
        let files = std::fs::read_dir(folder.path()).unwrap();
        files.map(|f| f.unwrap().file_name()).collect()
    };
    let before = (files(), it.fixture.instance(&*it.on("kvm1"), 1));
    let refused = it.migrate("kvm1", "kvm2", &Pulse::silent()).unwrap_err();
    assert_eq!(refused.kind, FaultKind::Unsupported, "{refused}");
    assert!(refused.message.contains("one folder"), "{refused}");
    assert_eq!((files(), it.fixture.instance(&*it.on("kvm1"), 1)), before);
    it.fixture.clean(&*it.on("kvm1"));
    for host in ["kvm1", "kvm2"] {
        lab.virsh(host, &["pool-destroy", "shared"]);
    }
    lab.assert_no_trace();
}

#[test]
#[ignore = "is killed by another test"]
#[expect(clippy::print_stdout, reason = "whoever kills it reads how far it is")]
#[expect(clippy::disallowed_methods, reason = "the environment says what is moved")]
fn the_process_that_is_killed() {
    let Ok(store) = std::env::var(STORE) else { return };
    let it = Move::new(Some(StoreId(store.parse().unwrap())));
    let pulse = Pulse::new(|news| {
        println!("{news:?}");
        std::io::stdout().flush().unwrap();
    });
    it.migrate("kvm1", "kvm2", &pulse).unwrap();
}

/// Begins to move the instance in another process; gives it once it has said that.
fn another_process(it: &Move, mark: impl Fn(&str) -> bool) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "migration::the_process_that_is_killed",
            "--nocapture",
        ])
        .env(STORE, it.fixture.store.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let found = lines.map_while(Result::ok).any(|line| mark(&line));
    assert!(found, "it ended before");
    child
}

fn signal(child: &Child, signal: i32) {
    let pid = i32::try_from(child.id()).unwrap();
    // SAFETY: a signal to a process of our own that we have not waited for.
    let sent = unsafe { libc::kill(pid, signal) };
    assert_eq!(sent, 0);
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn killed_in_the_middle_of_a_migration_the_next_run_settles_it() {
    let lab = Lab::new(0, "", "");
    let it = Move::new(None);
    let address = it.begin();
    let mut up = uptime(&address).unwrap();
    let mut on = ("kvm1", "kvm2");
    let stages = [
        "Stage(Disks)",
        "Stage(Seed)",
        "Stage(Migrate)",
        "Bytes",
        "held",
        "Stage(DeleteDisks)",
    ];
    for mark in stages {
        if on.0 == "kvm2" {
            it.migrate("kvm2", "kvm1", &Pulse::silent()).unwrap();
        }
        slowly(&lab);
        let is_held = mark == "held";
        let is_sending = |l: &str| l.contains("Bytes { done: ") && !l.contains("done: 0,");
        let mut child = another_process(&it, |l| match mark {
            "Bytes" | "held" => is_sending(l),
            stage => l.contains(stage),
        });
        if is_held {
            // Stopped, it does not hear that all has been sent, and libvirt holds the guest until it says what now.
            signal(&child, libc::SIGSTOP);
            wait_for("the guest to be held", || {
                lab.virsh("kvm1", &["domstate", "web-1"]).trim() == "paused"
            });
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let settled = it
            .settle("kvm1", "kvm2")
            .unwrap_or_else(|e| panic!("killed at {mark}: {e}"));
        on = match settled {
            Settled::Stayed => ("kvm1", "kvm2"),
            Settled::Moved => ("kvm2", "kvm1"),
        };
        it.assert_on(on.0, on.1);
        up = it.assert_goes_on(&address, up);
    }
    assert_eq!(on.0, "kvm2", "at the last stage it had arrived");

    // Arrived there, but the domain it left behind is still held: killed just before libvirt has let go of it.
    it.migrate("kvm2", "kvm1", &Pulse::silent()).unwrap();
    let old = lab.virsh("kvm1", &["dumpxml", "--inactive", "web-1"]);
    it.migrate("kvm1", "kvm2", &Pulse::silent()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("old.xml");
    std::fs::write(
        &file,
        old.replace("phase=\"ready\"", "phase=\"ready\" moving-to=\"kvm2\""),
    )
    .unwrap();
    let disks: Vec<String> = old
        .split('\'')
        .filter(|w| w.starts_with("/var/lib/libvirt/images/web-1"))
        .map(str::to_owned)
        .collect();
    assert_eq!(disks.len(), 3, "{old}");
    for disk in disks {
        let format = if disk.ends_with("qcow2") { "qcow2" } else { "raw" };
        self::lab(&[
            "exec", "kvm1", "qemu-img", "create", "-q", "-f", format, &disk, "1M",
        ]);
    }
    lab.virsh("kvm1", &["pool-refresh", "default"]);
    lab.virsh("kvm1", &["define", file.to_str().unwrap()]);
    lab.virsh("kvm1", &["start", "--paused", "web-1"]);
    let refused = it
        .on("kvm1")
        .restart(&it.spec("kvm1").reference(), Duration::ZERO, &Pulse::silent());
    assert_eq!(refused.unwrap_err().kind, FaultKind::Other);
    assert_eq!(it.settle("kvm1", "kvm2"), Ok(Settled::Moved));
    it.assert_on("kvm2", "kvm1");
    it.assert_goes_on(&address, up);
    for host in ["kvm1", "kvm2", "kvm3"] {
        it.fixture.clean(&*it.on(host));
    }
    lab.assert_no_trace();
}
