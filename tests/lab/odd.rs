//! Real hosts as operators have them: pools in one folder, domains kept under another name, copies, restored stores.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use super::support::Runs;
use super::{Lab, lab, lab_folder};

/// The folder in question: among what outlives a lab, for a lab is not brought up where anything else lies about.
fn shared() -> PathBuf {
    lab_folder().join("images/shared")
}

/// A set whose hosts' pools `shared` all lie in one folder, which each host reaches by a mount of its own.
fn on_a_shared_folder(capacity: u32) -> Lab {
    let set = Lab::new(capacity, "", "");
    let folder = shared();
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    for host in &set.hosts {
        let script = format!(
            "mkdir -p /run/shared && mount --bind {} /run/shared && \
             virsh -q pool-define-as shared dir --target /run/shared && virsh -q pool-start shared",
            folder.display()
        );
        lab(&["exec", host, "sh", "-ec", &script]);
    }
    let path = set.folder.path().join("scaleset.toml");
    let mut text = fs::read_to_string(&path).unwrap();
    for host in &set.hosts {
        let named = format!("name = \"{host}\", ");
        assert!(text.contains(&named), "{text}");
        text = text.replace(&named, &format!("{named}pool = \"shared\", "));
    }
    fs::write(path, text).unwrap();
    set
}

/// Each instance's id with its host.
fn places(set: &Lab) -> Vec<(u64, String)> {
    let list = set.expect(0, "instances -o json").json();
    let one = |i: &serde_json::Value| (i["id"].as_u64().unwrap(), i["host"].as_str().unwrap().to_owned());
    list.as_array().unwrap().iter().map(one).collect()
}

fn disks() -> BTreeSet<String> {
    let files = fs::read_dir(shared()).unwrap();
    let names = files.map(|f| f.unwrap().file_name().into_string().unwrap());
    names.filter(|n| n.starts_with("web-")).collect()
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn on_a_folder_that_hosts_share_no_disk_goes_when_one_of_them_looks_again() {
    let set = on_a_shared_folder(3);
    set.expect(0, "create");
    set.all_answer(3);
    let before = disks();
    // As after a restart of its libvirtd: each host now lists what the others have made.
    for host in &set.hosts {
        set.virsh(host, &["pool-refresh", "shared"]);
    }
    let ran = set.expect(0, "scale +0 --yes");
    assert!(!ran.stderr.contains("delete"), "{}", ran.stderr);
    assert_eq!(disks(), before);
    let shown = set.expect(0, "show").stdout;
    assert!(!shown.contains('!'), "{shown}");
    set.all_answer(3);
    // What is asked for goes, and nothing else.
    set.expect(0, "scale 2 --yes");
    let left = disks();
    assert!(left.is_subset(&before) && left.len() < before.len());
    set.all_answer(2);
    set.expect(0, "delete --yes");
    assert_eq!(disks(), BTreeSet::new());
    let files = fs::read_dir(shared()).unwrap();
    let left: Vec<_> = files.map(|f| f.unwrap().file_name()).collect();
    // What others may need stays, and what says who they are.
    let may_stay = ["vmss-base-", "vmss-seed-", "vmss-pool-"];
    let stays = |file: &OsString| {
        may_stay
            .iter()
            .any(|kind| file.to_str().unwrap().starts_with(kind))
    };
    assert!(left.iter().all(stays), "no disk is left: {left:?}");
    fs::remove_dir_all(shared()).unwrap();
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn a_guest_that_an_operator_keeps_under_another_name_runs_on_with_its_disk() {
    let set = Lab::new(2, "", "");
    set.expect(0, "create");
    set.all_answer(2);
    let (id, host) = places(&set).swap_remove(0);
    let name = format!("web-{id}");
    let script = format!(
        "virsh -q dumpxml {name} --inactive | sed 's,<name>{name}</name>,<name>forensic-1</name>,' > /run/kept.xml; \
         virsh -q destroy {name}; virsh -q undefine {name}; virsh -q define /run/kept.xml; virsh -q start forensic-1"
    );
    lab(&["exec", &host, "sh", "-ec", &script]);
    for args in ["scale +0 --yes", "scale 3 --yes", "scale 1 --yes", "delete --yes"] {
        set.expect(0, args);
        assert_eq!(set.virsh(&host, &["domstate", "forensic-1"]).trim(), "running");
        let disk = set.virsh(&host, &["domblklist", "forensic-1"]);
        let file = disk.lines().find_map(|l| l.split_whitespace().nth(1)).unwrap();
        lab(&["exec", &host, "test", "-e", file]);
    }
    set.virsh(&host, &["destroy", "forensic-1"]);
    // It still has its image: what it is backed by stayed, too.
    set.virsh(&host, &["start", "forensic-1"]);
    set.virsh(&host, &["destroy", "forensic-1"]);
    set.virsh(&host, &["undefine", "forensic-1"]);
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn a_store_from_a_backup_and_a_copied_domain_cost_no_guest() {
    let set = Lab::new(3, "", "");
    set.expect(0, "create");
    set.all_answer(3);
    let backup = |from: &str, to: &str| {
        for end in ["", "-wal", "-shm"] {
            let (from, to) = (
                set.folder.path().join(format!("{from}{end}")),
                set.folder.path().join(format!("{to}{end}")),
            );
            let _ = fs::remove_file(&to);
            if from.exists() {
                fs::copy(from, to).unwrap();
            }
        }
    };
    backup("state.db", "backup.db");
    set.expect(0, "scale 5");
    set.all_answer(5);
    backup("state.db", "now.db");
    backup("backup.db", "state.db");
    for args in ["create", "scale +0 --yes", "scale 6", "delete --yes"] {
        set.expect(5, args);
    }
    assert_eq!(set.counts().iter().sum::<usize>(), 5);
    backup("now.db", "state.db");
    set.expect(0, "scale +0 --yes");
    // What `virsh migrate --persistent` without --undefinesource leaves: the domain on two hosts, off on one.
    let (id, _) = places(&set).into_iter().find(|(_, host)| host == "kvm1").unwrap();
    let name = format!("web-{id}");
    let xml = set.virsh("kvm1", &["dumpxml", &name, "--inactive"]);
    let path = lab_folder().join("images/copy.xml");
    fs::write(&path, xml).unwrap();
    set.virsh("kvm2", &["define", path.to_str().unwrap()]);
    fs::remove_file(&path).unwrap();
    let ran = set.expect(5, "scale +0 --yes");
    assert!(ran.stderr.contains("there twice"), "{}", ran.stderr);
    assert_eq!(set.virsh("kvm2", &["domstate", &name]).trim(), "shut off");
    set.all_answer(5);
    set.virsh("kvm2", &["undefine", &name]);
    set.expect(0, "scale +0 --yes");
    set.expect(0, "delete --yes");
}
