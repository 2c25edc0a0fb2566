//! The whole program on the lab: real libvirtd, real QEMU, guests that boot and answer. `tests/run` brings the lab up.
//!
//! What only real hosts can show: bytes that arrive in a guest, disks, addresses, shutdown, hosts that die or freeze.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]

#[path = "lab/autoscale.rs"]
mod autoscale;
#[path = "lab/balancer.rs"]
mod balancer;
mod contract;
#[path = "lab/load.rs"]
mod load;
#[path = "lab/migration.rs"]
mod migration;
#[path = "lab/odd.rs"]
mod odd;
#[path = "lab/repair.rs"]
mod repair;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use support::prometheus::Running;
use support::{Runs, steps, wait_for};

/// The lab that `tests/run` has brought up, with a set's folder of its own.
struct Lab {
    folder: tempfile::TempDir,
    hosts: Vec<String>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests/run says by it which lab is meant"
)]
fn lab_id() -> String {
    std::env::var("VMSS_LAB_ID").unwrap_or_else(|_| "9".into())
}

fn lab_folder() -> PathBuf {
    match lab_id().as_str() {
        "0" => "/var/lib/vmss-lab".into(),
        id => format!("/var/lib/vmss-lab-{id}").into(),
    }
}

/// One of the lab's own commands.
fn lab(args: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/lab/lab");
    let out = Command::new(script)
        .args(args)
        .env("VMSS_LAB_ID", lab_id())
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "lab {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

impl Runs for Lab {
    fn folder(&self) -> &Path {
        self.folder.path()
    }
    fn store_name(&self) -> &'static str {
        "state.db"
    }
}

impl Lab {
    /// A set named `web` of `capacity` on the three hosts; `more` goes into the definition.
    ///
    /// The lab is brought up anew for it, which takes a second: whatever an earlier test left, hosts that are frozen or
    /// down among it, must not fail this one.
    fn new(capacity: u32, instance: &str, more: &str) -> Self {
        lab(&["down", "--keep-images"]);
        lab(&["up"]);
        let text =
            fs::read_to_string(lab_folder().join("scaleset.toml")).expect("the lab writes a definition");
        let folder = tempfile::tempdir().unwrap();
        let image = lab_folder().join("images/guest-v1.qcow2");
        let text = text
            .replace("capacity = 6", &format!("capacity = {capacity}"))
            .replace("images/guest-v1.qcow2", image.to_str().unwrap())
            .replace("[instance]", &format!("[instance]\n{instance}"));
        fs::write(folder.path().join("scaleset.toml"), format!("{more}\n{text}")).unwrap();
        Self {
            folder,
            hosts: vec!["kvm1".into(), "kvm2".into(), "kvm3".into()],
        }
    }

    fn edit(&self, from: &str, to: &str) {
        let path = self.folder.path().join("scaleset.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} is not in the definition");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Addresses of the running instances by name, once every one has told its own.
    fn addresses(&self, count: usize) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        wait_for(&format!("{count} addresses"), || {
            let list = self.expect(0, "instances -o json").json();
            found = (list.as_array().unwrap().iter())
                .filter_map(|i| {
                    Some((
                        i["name"].as_str()?.to_owned(),
                        i["addresses"][0].as_str()?.to_owned(),
                    ))
                })
                .collect();
            found.len() == count
        });
        found
    }

    /// Waits until each of `count` instances answers by its own name.
    fn all_answer(&self, count: usize) -> BTreeMap<String, String> {
        self.all_are(count, 1, 1)
    }

    /// Waits until each of `count` instances answers by its own name, and says that it is of that revision and image.
    #[track_caller]
    fn all_are(&self, count: usize, revision: u32, image: u32) -> BTreeMap<String, String> {
        let addresses = self.addresses(count);
        for (name, address) in &addresses {
            assert_eq!(
                said_by(name, address),
                format!("{name} revision {revision} image {image}\n")
            );
        }
        addresses
    }

    fn virsh(&self, host: &str, args: &[&str]) -> String {
        let mut all = vec!["exec", host, "virsh", "-q"];
        all.extend(args);
        lab(&all)
    }

    /// Instances per host.
    fn counts(&self) -> Vec<usize> {
        (self.hosts.iter())
            .map(|h| {
                self.virsh(h, &["list", "--all", "--name"])
                    .lines()
                    .filter(|l| l.starts_with("web-"))
                    .count()
            })
            .collect()
    }

    /// Nothing of the set is left on any host.
    #[track_caller]
    fn assert_no_trace(&self) {
        for host in &self.hosts {
            let domains = self.virsh(host, &["list", "--all", "--name"]);
            let volumes = self.virsh(host, &["vol-list", "default"]);
            assert!(
                domains.trim().is_empty() && volumes.trim().is_empty(),
                "{host}: {domains}{volumes}"
            );
            let files = lab(&["exec", host, "ls", "/var/lib/libvirt/images"]);
            assert_eq!(files.trim(), "", "{host} has files that no volume names");
            let logs = lab(&[
                "exec",
                host,
                "sh",
                "-c",
                "ls /var/log/libvirt/qemu | grep -F console || true",
            ]);
            let pools = self.virsh(host, &["pool-list", "--all", "--name"]);
            assert_eq!((logs.trim(), pools.trim()), ("", "default"), "{host}");
        }
    }
}

/// What the instance at `address` answers, once it does.
fn said_by(name: &str, address: &str) -> String {
    let mut said = String::new();
    wait_for(&format!("{name} to answer"), || {
        said = curl(&format!("http://{address}/"));
        !said.is_empty()
    });
    said
}

fn curl(url: &str) -> String {
    let out = Command::new("curl")
        .args(["-s", "-m", "3", url])
        .output()
        .unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn a_set_is_made_scaled_and_deleted_without_a_trace_and_each_instance_answers_by_its_name() {
    let lab = Lab::new(6, "", "");
    lab.expect(0, "check");
    let mut used = BTreeSet::new();
    let mut now: BTreeSet<String> = BTreeSet::new();
    for (plan, act, capacity) in [
        ("plan", "create", 6),
        ("plan --scale 9", "scale 9", 9),
        ("plan --scale 4", "scale 4", 4),
        ("plan --scale 0", "scale 0", 0),
        ("plan --scale 3", "scale 3", 3),
    ] {
        let planned = lab.expect(0, &format!("{plan} -o json")).json();
        let done = lab.expect(0, &format!("{act} --yes -o json")).json();
        assert_eq!(
            steps(&planned["batches"]),
            steps(&done["done"]),
            "{act} did something else than was planned"
        );
        let counts = lab.counts();
        assert_eq!(counts.iter().sum::<usize>(), capacity);
        assert!(
            counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1,
            "{act}: {counts:?}"
        );
        let names: BTreeSet<String> = lab.all_answer(capacity).into_keys().collect();
        for new in names.difference(&now) {
            assert!(used.insert(new.clone()), "{new} was used before");
        }
        now = names;
    }
    logs_are_shown_with_their_older_parts(&lab, now.first().unwrap());
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
}

fn logs_are_shown_with_their_older_parts(lab: &Lab, name: &str) {
    let id: u64 = name.rsplit('-').next().unwrap().parse().unwrap();
    let host = lab.listed().into_iter().find(|i| i.id == id).unwrap().host;
    let ready = format!("vmss-guest ready {name}");
    let shown = lab.expect(0, &format!("instance log {id}")).stdout;
    assert!(shown.contains(&ready), "{shown}");
    // As virtlogd cuts it.
    let cut = format!(
        "cd /var/log/libvirt/qemu && mv {name}.console.log {name}.console.log.0 && \
         echo newest > {name}.console.log && echo oldest > {name}.console.log.1"
    );
    self::lab(&["exec", &host, "sh", "-ec", &cut]);
    let shown = lab.expect(0, &format!("instance log {id}")).stdout;
    assert!(shown.starts_with("oldest\n") && shown.contains(&ready), "{shown}");
    assert!(shown.ends_with("newest\n"), "{shown}");
    let shown = lab.expect(0, &format!("instance log {id} -n 1")).stdout;
    assert_eq!(shown, "newest\n");
    followed_beyond_its_deletion(lab, id, &host, name);
}

/// Somebody deletes the log that is followed; the next start begins another, and whoever follows sees it and can leave.
fn followed_beyond_its_deletion(lab: &Lab, id: u64, host: &str, name: &str) {
    use std::io::BufRead as _;
    let follow = lab
        .command(&format!("instance log {id} -n 1 --follow"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut follow = Running(follow);
    let mut shown = std::io::BufReader::new(follow.0.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert_eq!(shown.next().as_deref(), Some("newest"));
    let gone = format!("rm /var/log/libvirt/qemu/{name}.console.log*");
    self::lab(&["exec", host, "sh", "-ec", &gone]);
    lab.expect(0, &format!("instance restart {id} --yes"));
    let ready = format!("vmss-guest ready {name}");
    let (heard, is_heard) = std::sync::mpsc::channel();
    thread::spawn(move || {
        if shown.any(|line| line.contains(&ready)) {
            let _ = heard.send(());
        }
    });
    let patience = Duration::from_secs(180);
    is_heard.recv_timeout(patience).expect("the new log is followed");
    let pid = i32::try_from(follow.0.id()).unwrap();
    // SAFETY: a signal to a process of our own that we have not waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    assert_eq!(follow.0.wait().unwrap().code(), Some(130));
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn user_data_arrives_byte_for_byte_at_the_address_that_vmss_assigned() {
    let net = lab_net();
    let lab = Lab::new(2, "user_data = \"user-data\"", "");
    let addresses = format!(
        "bridge = \"br0\"\naddresses = \"{net}.60-{net}.69/24\"\ngateway = \"{net}.1\"\ndns = [\"{net}.1\"]"
    );
    lab.edit("bridge = \"br0\"", &addresses);
    let text = "#cloud-config\n# \"double\" 'single' `back` $HOME \\ & < > ]]> ü 漢 \t\r\nlast: line\n\n";
    fs::write(lab.folder.path().join("user-data"), text).unwrap();
    lab.expect(0, "create");
    let found = lab.all_answer(2);
    assert_eq!(
        found.values().cloned().collect::<Vec<_>>(),
        [format!("{net}.60"), format!("{net}.61")]
    );
    for address in found.values() {
        assert_eq!(curl(&format!("http://{address}/userdata")), text);
    }
    lab.expect(0, "scale 3");
    assert!(
        lab.all_answer(3).values().any(|a| a == &format!("{net}.62")),
        "an address is never given out twice"
    );
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
}

fn lab_net() -> String {
    format!("10.123.{}", lab_id())
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn user_data_is_shared_without_a_template_and_rendered_with_one() {
    let lab = Lab::new(
        2,
        "user_data = \"user-data\"\nvars = { greeting = \"h\u{e9}llo & <b>\" }",
        "",
    );
    fs::write(lab.folder.path().join("user-data"), "plain ]]> ü\n").unwrap();
    lab.expect(0, "create");
    for address in lab.all_answer(2).values() {
        assert_eq!(curl(&format!("http://{address}/userdata")), "plain ]]> ü\n");
    }
    lab.expect(0, "delete --yes");
    fs::write(
        lab.folder.path().join("user-data"),
        "{{ vars.greeting }} {{ instance.name }} on {{ host }} in {{ fault_domain }}\n",
    )
    .unwrap();
    lab.expect(0, "create");
    let found = lab.all_answer(2);
    assert_eq!(
        curl(&format!("http://{}/userdata", found["web-1"])),
        "h\u{e9}llo & <b> web-1 on kvm1 in rack-a\n"
    );
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn a_full_clone_and_a_data_disk_stand_on_their_own() {
    let lab = Lab::new(
        1,
        "clone = \"full\"\ndisk = \"64 MiB\"\ndata_disks = [{ name = \"data\", size = \"8 MiB\" }]",
        "",
    );
    lab.expect(0, "create");
    let found = lab.all_answer(1);
    let address = &found["web-1"];
    curl(&format!("http://{address}/data?write=kept"));
    assert!(
        curl(&format!("http://{address}/data")).starts_with("kept"),
        "the guest writes to its data disk and reads it"
    );
    let xml = lab.virsh("kvm1", &["vol-list", "default"]);
    let os = xml
        .split_whitespace()
        .find(|w| w.starts_with("web-1-") && w.ends_with("-os.qcow2"))
        .unwrap();
    let volume = lab.virsh("kvm1", &["vol-dumpxml", os, "default"]);
    assert!(!volume.contains("backingStore"), "{volume}");
    assert!(
        volume.contains(&format!("<capacity unit='bytes'>{}</capacity>", 64 << 20)),
        "{volume}"
    );
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn with_a_host_dead_the_others_take_its_share_and_its_return_is_handled() {
    let lab = Lab::new(3, "", "");
    lab.expect(0, "create");
    lab.all_answer(3);
    self::lab(&["kill", "kvm3"]);
    let ran = lab.expect(4, "scale 6");
    assert!(ran.stderr.contains("host kvm3 was not seen"), "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("instance 3 there is left alone and still counted"),
        "{}",
        ran.stderr
    );
    let strict = lab.folder.path().join("scaleset.toml");
    let text = fs::read_to_string(&strict).unwrap();
    fs::write(
        &strict,
        text.replace("[placement]", "[placement]\nspread = \"strict\""),
    )
    .unwrap();
    lab.expect(4, "apply");
    let refused = lab.expect(5, "scale 12");
    assert!(
        refused.stderr.contains("strict spread refuses"),
        "{}",
        refused.stderr
    );
    lab.expect(4, "scale 6 --yes");
    self::lab(&["start", "kvm3"]);
    let ran = lab.expect(0, "scale +0 --yes");
    assert!(ran.stderr.contains("start web-3 (it is off)"), "{}", ran.stderr);
    lab.all_answer(6);
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn a_frozen_libvirtd_costs_its_own_host_in_every_command() {
    let lab = Lab::new(3, "", "");
    fs::write(
        lab.folder.path().join("scaleset.toml"),
        fs::read_to_string(lab.folder.path().join("scaleset.toml")).unwrap()
            + "\n[limits]\ncall_timeout = \"3s\"\n",
    )
    .unwrap();
    // Frozen in the middle of a create: after the first instance on it was begun.
    let mut frozen = false;
    let mut child = lab
        .command("create --progress json")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let told: Vec<String> = {
        use std::io::BufRead as _;
        let lines = std::io::BufReader::new(child.stderr.take().unwrap())
            .lines()
            .map_while(Result::ok);
        lines
            .inspect(|line| {
                if !frozen && line.contains("\"kvm2\"") && line.contains("\"started\"") {
                    frozen = true;
                    self::lab(&["freeze", "kvm2"]);
                }
            })
            .collect()
    };
    assert_eq!(
        child.wait().unwrap().code(),
        Some(0),
        "the others take its share: {told:#?}"
    );
    assert!(
        told.iter().any(|l| l.contains("kvm2") && l.contains("failed")),
        "{told:#?}"
    );
    for (args, exit) in [
        ("show", 0),
        ("instances", 0),
        ("scale 4", 0),
        ("scale 3 --yes", 0),
        ("delete --yes", 4),
    ] {
        let ran = lab.expect(exit, args);
        assert!(
            (ran.stdout + &ran.stderr).contains("kvm2"),
            "{args} does not name the host"
        );
    }
    self::lab(&["thaw", "kvm2"]);
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn killed_on_real_hosts_the_next_run_puts_everything_right() {
    let lab = Lab::new(3, "", "");
    for mark in [
        "\"upload\"",
        "\"verify\"",
        "\"define\"",
        "\"disks\"",
        "\"start\"",
        "\"finished\"",
    ] {
        assert!(
            lab.kill_when("create", |line| line.contains(mark)),
            "create had ended before {mark}"
        );
        lab.expect(0, "create");
        assert_eq!(lab.counts(), [1, 1, 1], "create killed at {mark}");
        if mark == "\"verify\"" {
            // Sent anew after a kill in the middle: it must be whole enough to boot.
            lab.all_answer(3);
        }
        lab.kill_when("delete --yes", |line| line.contains("\"destroy\""));
        lab.expect(0, "delete --yes");
        lab.assert_no_trace();
    }
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn a_full_pool_is_named_and_the_instances_go_elsewhere() {
    let lab = Lab::new(3, "", "");
    let image = fs::metadata(lab_folder().join("images/guest-v1.qcow2"))
        .unwrap()
        .len();
    let mount = |size: u64| {
        format!(
            "mkdir -p /run/tiny; mount -t tmpfs -o size={size} tmpfs /run/tiny; virsh -q pool-create-as tiny dir --target /run/tiny"
        )
    };
    self::lab(&["exec", "kvm1", "sh", "-ec", &mount(image * 3 / 4)]);
    lab.edit(
        "hosts/kvm1/sock/libvirt-sock\"",
        "hosts/kvm1/sock/libvirt-sock\", pool = \"tiny\"",
    );
    lab.edit("[placement]", "[placement]\npool_reserve = \"0 B\"");
    // Planned for: the image does not fit, so the host gets none.
    let ran = lab.expect(0, "create");
    assert_eq!(lab.counts()[0], 0, "{}", ran.stderr);
    // Met by surprise: the daemon's figures say that it fits, and the disk is full in the middle. The folder stays the one that
    // has the store's mark: leaving a mark has the daemon look at the folder, and then it would know.
    let script = format!(
        "mount -o remount,size={} /run/tiny; virsh -q pool-refresh tiny; head -c 3m /dev/zero >/run/tiny/.hidden",
        image + (3 << 19)
    );
    self::lab(&["exec", "kvm1", "sh", "-ec", &script]);
    let ran = lab.expect(0, "scale 5");
    assert!(
        ran.stderr.contains("kvm1") && ran.stderr.to_lowercase().contains("no space"),
        "{}",
        ran.stderr
    );
    assert_eq!(lab.counts()[0], 0);
    lab.expect(0, "delete --yes");
    assert_eq!(self::lab(&["exec", "kvm1", "ls", "/run/tiny"]).trim(), "");
    self::lab(&[
        "exec",
        "kvm1",
        "sh",
        "-c",
        "virsh -q pool-destroy tiny; umount /run/tiny",
    ]);
    lab.assert_no_trace();
}

// --- rollouts ------------------------------------------------------------------------------------------------------

/// A set whose health is asked for, all of it healthy; `grace` is its grace period, `upgrade` what `[upgrade]` says.
fn healthy_set(capacity: u32, instance: &str, grace: &str, upgrade: &str) -> Lab {
    let lab = Lab::new(capacity, instance, "");
    let path = lab.folder.path().join("scaleset.toml");
    let text = fs::read_to_string(&path).unwrap();
    let health = format!(
        "[health]\nprobe = \"http\"\npath = \"/healthz\"\ninterval = \"1s\"\ngrace_period = \"{grace}\""
    );
    fs::write(&path, format!("{text}\n{health}\n\n[upgrade]\n{upgrade}\n")).unwrap();
    lab.expect(0, "create");
    lab.expect(0, "wait --for healthy");
    lab
}

/// One instance as `vmss instances` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    id: u64,
    host: String,
    revision: u64,
    health: String,
}

impl Lab {
    fn listed(&self) -> Vec<Listed> {
        let list = self.expect(0, "instances -o json").json();
        let one = |i: &serde_json::Value| Listed {
            id: i["id"].as_u64().unwrap(),
            host: i["host"].as_str().unwrap().to_owned(),
            revision: i["revision"].as_u64().unwrap(),
            health: i["health"].as_str().unwrap().to_owned(),
        };
        list.as_array().unwrap().iter().map(one).collect()
    }

    /// Every instance is of `revision` and healthy.
    #[track_caller]
    fn assert_all_at(&self, revision: u64, count: usize, when: &str) {
        let listed = self.listed();
        assert!(
            listed.len() == count
                && listed
                    .iter()
                    .all(|i| i.revision == revision && i.health == "healthy"),
            "{when} not all of {count} instances are healthy and of revision {revision}: {listed:#?}"
        );
    }

    /// Names of all domains of the set.
    fn domains(&self) -> BTreeSet<String> {
        (self.hosts.iter())
            .flat_map(|h| {
                let names = self.virsh(h, &["list", "--all", "--name"]);
                names
                    .lines()
                    .filter(|n| n.starts_with("web-"))
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Volumes that no domain of their host names, images and the marks of pools left out.
    fn orphans(&self) -> Vec<String> {
        let mut orphans = Vec::new();
        for host in &self.hosts {
            let script = "for d in $(virsh -q list --all --name); do virsh -q domblklist \"$d\"; done";
            let used = self::lab(&["exec", host, "sh", "-c", script]);
            let used: BTreeSet<&str> = used
                .split_whitespace()
                .filter_map(|word| word.rsplit_once('/').map(|(_, name)| name))
                .collect();
            let volumes = self.virsh(host, &["vol-list", "default"]);
            orphans.extend(
                (volumes.lines().filter_map(|l| l.split_whitespace().next()))
                    .filter(|v| !v.starts_with("vmss-base-") && !v.starts_with("vmss-pool-"))
                    .filter(|v| !used.contains(v))
                    .map(|v| format!("{host}: {v}")),
            );
        }
        orphans
    }

    /// Starts a thread that watches the set until it is asked what it has seen.
    fn watch(&self) -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let watching = |mut look: Box<dyn FnMut() + Send>| {
            let over = Arc::clone(&over);
            move || {
                while !over.load(Ordering::Relaxed) {
                    look();
                    thread::sleep(Duration::from_millis(400));
                }
            }
        };
        let hosts = self.hosts.clone();
        let lab = Lab {
            folder: tempfile::tempdir().unwrap(),
            hosts,
        };
        let fewest = Arc::new(std::sync::Mutex::new(Vec::new()));
        let most = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
        let (serving, present) = (Arc::clone(&fewest), Arc::clone(&most));
        let mut known = BTreeSet::new();
        let threads = vec![
            thread::spawn(watching(Box::new(move || {
                serving.lock().unwrap().push(answering(&mut known).len());
            }))),
            thread::spawn(watching(Box::new(move || {
                // Hosts are asked one after the other. What is there at both looks was there at once between them, for a
                // name is never used again.
                let at_once: BTreeSet<String> = lab.domains().intersection(&lab.domains()).cloned().collect();
                let mut most = present.lock().unwrap();
                if at_once.len() > most.len() {
                    *most = at_once;
                }
            }))),
        ];
        Watch {
            over,
            threads,
            serving: fewest,
            most,
        }
    }
}

/// A look at all addresses that the lab has given out, whoever has them now: those where `/healthz` is answered well. One
/// that does not answer at once is asked a second time: a guest that is only slow serves. Addresses stay `known`: their
/// file is empty for a moment whenever a lease is renewed.
fn answering(known: &mut BTreeSet<String>) -> BTreeSet<String> {
    let leases = fs::read_to_string(lab_folder().join("leases")).unwrap_or_default();
    known.extend(
        (leases.lines())
            .filter_map(|l| l.split_whitespace().nth(2))
            .map(str::to_owned),
    );
    let mut silent = known.clone();
    let mut answering = BTreeSet::new();
    for _ in 0..2 {
        if silent.is_empty() {
            break;
        }
        let mut curl = Command::new("curl");
        curl.args([
            "-s",
            "-Z",
            "--parallel-immediate",
            "--connect-timeout",
            "2",
            "-m",
            "10",
            "-w",
            "%{http_code} %{url_effective}\n",
        ]);
        for address in &silent {
            curl.args(["-o", "/dev/null", &format!("http://{address}/healthz")]);
        }
        let said = String::from_utf8(curl.output().unwrap().stdout).unwrap();
        let good = said.lines().filter_map(|l| l.strip_prefix("200 http://"));
        for address in good.filter_map(|url| url.strip_suffix("/healthz")) {
            answering.extend(silent.take(address));
        }
    }
    answering
}

/// What a [`Lab::watch`] sees.
struct Watch {
    over: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
    serving: Arc<std::sync::Mutex<Vec<usize>>>,
    most: Arc<std::sync::Mutex<BTreeSet<String>>>,
}

impl Watch {
    /// How many served at each look, and the most domains there at once.
    fn end(mut self) -> (Vec<usize>, BTreeSet<String>) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("the watcher could look");
        }
        let (serving, most) = (self.serving.lock().unwrap(), self.most.lock().unwrap());
        (serving.clone(), most.clone())
    }
}

impl Drop for Watch {
    /// A test that failed leaves no watcher to those that come after it.
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn an_upgrade_in_place_and_then_one_by_replacing_keep_to_their_budgets_as_seen_from_outside() {
    let lab = healthy_set(
        6,
        "data_disks = [{ name = \"data\", size = \"8 MiB\" }]",
        "5m",
        "max_batch = 2\nmax_unavailable = 2",
    );
    let addresses = lab.all_answer(6);
    for (name, address) in &addresses {
        curl(&format!("http://{address}/data?write=of-{name}"));
    }
    let before = lab.listed();

    lab.edit("guest-v1", "guest-v2");
    let watch = lab.watch();
    lab.expect(0, "apply");
    let (serving, most) = watch.end();
    assert!(
        serving.iter().all(|n| *n >= 4),
        "more than max_unavailable = 2 did not serve: {serving:?} of 6 did"
    );
    assert!(
        serving.iter().any(|n| *n < 6),
        "the watcher has missed the whole upgrade: {serving:?}"
    );
    assert_eq!(most.len(), 6, "in place nothing is made beside the set: {most:?}");
    assert_eq!(
        lab.all_are(6, 2, 2),
        addresses,
        "names and addresses stay as they are"
    );
    let places = |listed: &[Listed]| {
        let place = |i: &Listed| (i.id, i.host.clone());
        listed.iter().map(place).collect::<Vec<_>>()
    };
    assert_eq!(places(&lab.listed()), places(&before), "ids and hosts stay");
    for (name, address) in &addresses {
        assert_eq!(
            curl(&format!("http://{address}/data")),
            format!("of-{name}\n"),
            "the data disk of {name} stays as it was"
        );
    }
    assert_eq!(lab.orphans(), Vec::<String>::new());
    lab.expect(0, "wait --for upgraded");

    // Back to the first image, by instances that take the place of those.
    lab.edit("guest-v2", "guest-v1");
    lab.edit(
        "max_unavailable = 2",
        "max_unavailable = 0\nmax_surge = 1\nmethod = \"replace\"",
    );
    let watch = lab.watch();
    lab.expect(0, "apply --yes");
    let (serving, most) = watch.end();
    assert!(
        serving.iter().all(|n| *n >= 6),
        "max_unavailable = 0, and fewer than 6 served: {serving:?}"
    );
    assert_eq!(
        most.len(),
        7,
        "one above capacity is there at times, never more: {most:?}"
    );
    let ids: Vec<u64> = lab.listed().iter().map(|i| i.id).collect();
    assert_eq!(
        ids,
        [7, 8, 9, 10, 11, 12],
        "every instance is a new one, made one by one"
    );
    lab.all_are(6, 1, 1);
    assert_eq!(
        lab.counts(),
        [2, 2, 2],
        "each new one is in the fault domain of the old one"
    );
    assert_eq!(lab.orphans(), Vec::<String>::new());
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn a_version_that_never_gets_healthy_stops_after_its_first_batch_and_goes_back_when_told_or_by_itself() {
    let lab = healthy_set(6, "", "45s", "max_batch = 1\nmax_unavailable = 1");
    let addresses = lab.all_answer(6);
    lab.edit("guest-v1", "guest-broken");
    let ran = lab.expect(6, "apply");
    let touched: Vec<u64> = (lab.listed().iter())
        .filter(|i| i.revision == 2)
        .map(|i| i.id)
        .collect();
    let [id] = touched[..] else {
        panic!(
            "the first batch is one instance, and {touched:?} were touched: {}",
            ran.stderr
        );
    };
    assert!(
        ran.stderr.contains(&format!(
            "instance {id} is unhealthy (503 Service Unavailable); the probe is http port 80 /healthz"
        )),
        "who ails is named with its answer and what it was asked: {}",
        ran.stderr
    );
    for (name, address) in &addresses {
        let (revision, image) = if *name == format!("web-{id}") {
            (2, 3)
        } else {
            (1, 1)
        };
        assert_eq!(
            said_by(name, address),
            format!("{name} revision {revision} image {image}\n")
        );
    }
    assert!(
        lab.expect(6, "upgrade status").stdout.contains("stopped"),
        "the rollout waits for a decision"
    );
    lab.expect(0, "upgrade rollback");
    assert_eq!(lab.all_answer(6), addresses);
    lab.assert_all_at(1, 6, "after the rollback");

    lab.edit(
        "max_unavailable = 1",
        "max_unavailable = 1\non_failure = \"rollback\"",
    );
    let ran = lab.expect(6, "apply");
    assert!(
        ran.stderr.contains("503 Service Unavailable"),
        "it says why it went back: {}",
        ran.stderr
    );
    assert_eq!(lab.all_answer(6), addresses);
    lab.assert_all_at(1, 6, "after it went back by itself");
    assert_eq!(lab.orphans(), Vec::<String>::new());
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn a_rollout_killed_on_real_hosts_is_finished_by_the_next_run() {
    let lab = healthy_set(3, "", "5m", "max_batch = 2\nmax_unavailable = 2");
    let (mut old, mut new) = (1, 2);
    for mark in [
        "\"stage\":\"destroy\"",
        "\"stage\":\"disks\"",
        "\"stage\":\"start\"",
        "\"event\":\"waiting\"",
    ] {
        lab.edit(&format!("guest-v{old}"), &format!("guest-v{new}"));
        assert!(
            lab.kill_when("apply", |line| line.contains(mark)),
            "the rollout had ended before {mark}"
        );
        lab.expect(0, "upgrade");
        let when = format!("killed at {mark} and run again,");
        lab.assert_all_at(u64::from(new), 3, &when);
        lab.all_are(3, new, new);
        let plan = lab.expect(0, "plan").stdout;
        assert!(
            plan.contains("nothing to do"),
            "{when} there is more to do: {plan}"
        );
        assert_eq!(lab.orphans(), Vec::<String>::new(), "{when} volumes are nobody's");
        (old, new) = (new, old);
    }
    assert_eq!(lab.counts(), [1, 1, 1]);
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn a_rollout_paused_from_another_terminal_stops_there_and_goes_on_when_resumed() {
    use std::io::BufRead as _;
    let lab = healthy_set(3, "", "5m", "max_batch = 1\nmax_unavailable = 1");
    lab.edit("guest-v1", "guest-v2");
    let mut child: Child = lab
        .command("apply --progress json")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut told = std::io::BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    told.find(|l| l.contains("batch 1 is done"))
        .expect("the first batch is done");
    lab.expect(0, "upgrade pause");
    let rest: Vec<String> = told.collect();
    assert_eq!(
        child.wait().unwrap().code(),
        Some(5),
        "a paused rollout waits for a decision: {rest:#?}"
    );
    assert!(
        rest.iter().any(|l| l.contains("the rollout is paused by")),
        "the first says why it ends: {rest:#?}"
    );
    let revisions = |lab: &Lab| lab.listed().iter().map(|i| i.revision).collect::<Vec<_>>();
    assert!(
        revisions(&lab).contains(&1) && revisions(&lab).contains(&2),
        "{:?}",
        revisions(&lab)
    );
    lab.expect(5, "upgrade");
    lab.expect(0, "upgrade resume");
    lab.all_are(3, 2, 2);
    lab.assert_all_at(2, 3, "after it was resumed");
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
}

/// The block of the README's section on CI jobs, as somebody would paste it.
fn ci_job() -> String {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let section = readme
        .split("### A CI job")
        .nth(1)
        .expect("the README shows a CI job");
    let block = section.split("```bash\n").nth(1).expect("as a block of bash");
    block.split("```").next().unwrap().to_owned()
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn the_ci_job_in_the_readme_runs_as_it_is_written_and_leaves_nothing() {
    let lab = Lab::new(3, "", "");
    let text = fs::read_to_string(lab.folder.path().join("scaleset.toml")).unwrap();
    let health = "\n[health]\nprobe = \"http\"\npath = \"/healthz\"\ninterval = \"1s\"\n";
    fs::write(lab.folder.path().join("scaleset.toml"), text + health).unwrap();
    // The environment of a command of the lab, for a shell that finds the binary by its name.
    let vmss = lab.command("");
    let folder = Path::new(env!("CARGO_BIN_EXE_vmss")).parent().unwrap().to_owned();
    let mut shell = Command::new("bash");
    shell.args(["-c", &ci_job()]).current_dir(lab.folder.path());
    shell.envs(vmss.get_envs().filter_map(|(key, value)| Some((key, value?))));
    shell.env(
        "PATH",
        format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.display()),
    );
    let ran = shell.output().unwrap();
    assert!(
        ran.status.success(),
        "{:?}: {}{}",
        ran.status,
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
    let result = fs::read_to_string(lab.folder.path().join("result.txt")).unwrap();
    assert_eq!(result, "web-1\n");
    lab.assert_no_trace();
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn a_host_is_drained_while_its_guests_go_on() {
    let lab = Lab::new(3, "", "");
    lab.expect(0, "create");
    let before = lab.all_answer(3);
    let at = &before["web-1"];
    let uptime = |at: &str| -> f64 {
        let text = curl(&format!("http://{at}/uptime"));
        text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0)
    };
    // Lost with the guest's memory, if that is.
    curl(&format!("http://{at}/fail"));
    let up = uptime(at);
    assert!(up > 0.0, "the guest tells how long it is up");
    lab.expect(0, "host drain kvm1 --migrate --yes");
    assert_eq!(lab.counts()[0], 0, "nothing is left on the host");
    assert_eq!(lab.all_answer(3), before, "each at its address, by its name");
    assert!(uptime(at) > up, "it was not booted again");
    assert!(
        !curl(&format!("http://{at}/healthz")).starts_with("ok"),
        "it has kept its memory"
    );
    let plan = lab.expect(0, "plan");
    assert!(plan.stdout.contains("nothing to do"), "{}", plan.stdout);
    lab.expect(0, "host uncordon kvm1");
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
}
