//! The whole program on the lab: real libvirtd, real QEMU, guests that boot and answer. `tests/run` brings the lab up.
//!
//! What only real hosts can show: bytes that arrive in a guest, disks, addresses, shutdown, hosts that die or freeze.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
        let addresses = self.addresses(count);
        for (name, address) in &addresses {
            let mut said = String::new();
            wait_for(&format!("{name} to answer"), || {
                said = curl(&format!("http://{address}/"));
                !said.is_empty()
            });
            assert_eq!(said, format!("{name} revision 1 image 1\n"));
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
        }
    }
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
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
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
    let mount = "mkdir -p /run/tiny && mount -t tmpfs -o size=12m tmpfs /run/tiny && virsh -q pool-create-as tiny dir --target /run/tiny";
    self::lab(&["exec", "kvm1", "sh", "-c", mount]);
    lab.edit(
        "hosts/kvm1/sock/libvirt-sock\"",
        "hosts/kvm1/sock/libvirt-sock\", pool = \"tiny\"",
    );
    lab.edit("[placement]", "[placement]\npool_reserve = \"0 B\"");
    // Planned for: the image does not fit, so the host gets none.
    let ran = lab.expect(0, "create");
    assert_eq!(lab.counts()[0], 0, "{}", ran.stderr);
    lab.expect(0, "delete --yes");
    // Met by surprise: it looks as if it would fit, and the disk is full in the middle.
    self::lab(&[
        "exec",
        "kvm1",
        "sh",
        "-c",
        "virsh -q pool-destroy tiny; umount /run/tiny; mount -t tmpfs -o size=18m tmpfs /run/tiny; virsh -q pool-create-as tiny dir --target /run/tiny; head -c 3m /dev/zero >/run/tiny/.hidden",
    ]);
    let ran = lab.expect(0, "create");
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
