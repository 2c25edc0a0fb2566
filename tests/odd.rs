//! Hosts as operators have them, on real libvirtd daemons that serve libvirt's test driver: copied and renamed domains, forged
//! notes, restored stores, one host under two names. Nothing is lost that nobody asked to lose.

#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]

mod support;

use std::collections::BTreeSet;
use std::fs;

use support::{Daemon, Runs, Stage};
use uuid::Uuid;
use vmss::names::Label;
use vmss::store::Store as _;
use vmss::store::sqlite::Sqlite;

/// The definition of a domain, with something in it replaced.
fn described(daemon: &Daemon, name: &str, replace: &[(&str, &str)]) -> String {
    let domain = daemon.connection().lookup_domain_by_name(name).unwrap();
    let mut xml = domain.xml_desc(virt::sys::VIR_DOMAIN_XML_INACTIVE).unwrap();
    for (from, to) in replace {
        assert!(xml.contains(from), "{from} is not in {xml}");
        xml = xml.replace(from, to);
    }
    xml
}

fn uuid_of(daemon: &Daemon, name: &str) -> Uuid {
    let domain = daemon.connection().lookup_domain_by_name(name).unwrap();
    domain.uuid().unwrap()
}

/// Every domain with its UUID and whether it runs, and every volume, host by host.
type Everything = Vec<(BTreeSet<(String, Uuid, bool)>, Vec<String>)>;

fn everything(stage: &Stage) -> Everything {
    let of = |daemon: &Daemon| {
        let domains = daemon.connection().list_all_domains(0).unwrap();
        let told = domains
            .iter()
            .map(|d| (d.name().unwrap(), d.uuid().unwrap(), d.is_active().unwrap()));
        (told.collect(), daemon.volumes())
    };
    stage.daemons.iter().map(of).collect()
}

/// A host with an instance, and the instance's name.
fn some_instance(stage: &Stage) -> (&Daemon, String) {
    let daemon = &stage.daemons[0];
    (daemon, daemon.domains().first().unwrap().clone())
}

/// Defines a domain that says it is instance `id`, with the note of `name`, under a UUID of its own.
fn forge(daemon: &Daemon, name: &str, id: &str) {
    let own = uuid_of(daemon, name).to_string();
    let (forged_uuid, forged) = (Uuid::new_v4().to_string(), format!("web-{id}"));
    let old_id = format!("id='{}'", name.strip_prefix("web-").unwrap());
    let old_id = [old_id.clone(), old_id.replace('\'', "\"")]
        .into_iter()
        .find(|text| described(daemon, name, &[]).contains(text))
        .unwrap();
    let new_id = old_id.replace(name.strip_prefix("web-").unwrap(), id);
    let quoted = |text: &str| format!("<name>{text}</name>");
    let xml = described(
        daemon,
        name,
        &[
            (&quoted(name), &quoted(&forged)),
            (&own, &forged_uuid),
            (&old_id, &new_id),
        ],
    );
    daemon.connection().define_domain_xml(&xml).unwrap();
}

#[test]
fn forged_notes_of_instances_that_were_never_made_stop_everything_and_cost_nobody() {
    let stage = Stage::new(&[1, 1, 1]);
    stage.expect(0, "create");
    let (daemon, name) = some_instance(&stage);
    for id in ["101", "102", "103"] {
        forge(daemon, &name, id);
    }
    let before = everything(&stage);
    for args in [
        "scale +0 --yes",
        "scale 3 --yes",
        "create",
        "repair",
        "delete --yes",
    ] {
        let ran = stage.expect(5, args);
        assert!(ran.stderr.contains("101"), "vmss {args}: {}", ran.stderr);
        assert_eq!(everything(&stage), before, "vmss {args}");
    }
    let shown = stage.expect(0, "show");
    assert!(shown.stdout.contains("newer than the record"), "{}", shown.stdout);
}

#[test]
fn a_forged_id_that_no_set_ever_reaches_is_nobodys_and_changes_nothing() {
    let stage = Stage::new(&[1, 1]);
    stage.expect(0, "create");
    let (daemon, name) = some_instance(&stage);
    for id in ["18446744073709551615", "1000000000000"] {
        forge(daemon, &name, id);
    }
    stage.expect(0, "scale +1");
    let ids: BTreeSet<u64> = (stage.ids().into_iter()).filter(|id| *id < 1000).collect();
    assert_eq!(ids, (1..=7).collect(), "the next id is the one after the last");
    // They name the disk of the one whose note they have: it stays as long as they are there.
    stage.expect(1, "delete --yes");
    let left: Vec<String> = stage.domains().concat();
    assert_eq!(left.len(), 3, "what is not the set's stays: {left:?}");
}

#[test]
fn a_copy_with_the_note_of_a_living_instance_is_told_and_left_alone() {
    let stage = Stage::new(&[1, 1]);
    stage.expect(0, "create");
    let (daemon, name) = some_instance(&stage);
    let quoted = |text: &str| format!("<name>{text}</name>");
    let own = uuid_of(daemon, &name).to_string();
    let xml = described(
        daemon,
        &name,
        &[
            (&quoted(&name), &quoted("web-copy")),
            (&own, &Uuid::new_v4().to_string()),
        ],
    );
    daemon.connection().define_domain_xml(&xml).unwrap();
    stage.expect(0, "scale 8 --yes");
    stage.expect(0, "scale 2 --yes");
    // The copy names the disk of the one whose note it has: that one stays, with everything its disk is backed by.
    let ran = stage.expect(1, "delete --yes");
    assert!(ran.stderr.contains("used by domain web-copy"), "{}", ran.stderr);
    assert_eq!(stage.domains().concat(), [name.as_str(), "web-copy"]);
    let volumes = daemon.volumes();
    assert!(volumes.iter().any(|v| v.starts_with("vmss-base-")), "{volumes:?}");
    assert!(daemon.running().contains(&name), "it was not even switched off");
    let copy = daemon.connection().lookup_domain_by_name("web-copy").unwrap();
    copy.undefine().unwrap();
    stage.expect(0, "delete --yes");
    assert!(stage.daemons.iter().all(|d| d.volumes().is_empty()));
}

/// An operator keeps an instance under another name: destroyed, undefined, defined anew with its note and UUID, started.
#[test]
fn a_domain_that_is_kept_under_another_name_keeps_its_disk() {
    let stage = Stage::new(&[1, 1]);
    stage.expect(0, "create");
    let (daemon, name) = some_instance(&stage);
    let quoted = |text: &str| format!("<name>{text}</name>");
    let xml = described(daemon, &name, &[(&quoted(&name), &quoted("forensic-1"))]);
    let domain = daemon.connection().lookup_domain_by_name(&name).unwrap();
    domain.destroy().unwrap();
    domain.undefine().unwrap();
    let kept = daemon.connection().define_domain_xml(&xml).unwrap();
    kept.create().unwrap();
    let disks: Vec<String> = (daemon.volumes().into_iter())
        .filter(|v| v.starts_with(&format!("{name}-")))
        .collect();
    assert!(!disks.is_empty());
    for args in ["scale +0 --yes", "scale 2 --yes", "scale 5 --yes", "delete --yes"] {
        let ran = stage.expect(0, args);
        assert!(
            disks.iter().all(|disk| daemon.volumes().contains(disk)),
            "vmss {args} took a disk of a running domain\n{}",
            ran.stderr
        );
        assert!(daemon.running().contains(&"forensic-1".to_owned()), "vmss {args}");
    }
    assert_eq!(stage.domains().concat(), ["forensic-1"]);
}

/// What `virsh migrate --persistent` without `--undefinesource` leaves: the domain on both hosts, off on one of them.
#[test]
fn one_instance_on_two_hosts_is_told_and_nothing_is_done_to_either_copy() {
    let stage = Stage::new(&[1, 1]);
    stage.expect(0, "create");
    let (daemon, name) = some_instance(&stage);
    let xml = described(daemon, &name, &[]);
    let other = &stage.daemons[1];
    let copy = other.connection().define_domain_xml(&xml).unwrap();
    copy.create().unwrap();
    daemon
        .connection()
        .lookup_domain_by_name(&name)
        .unwrap()
        .destroy()
        .unwrap();
    let before = everything(&stage);
    for args in ["scale +0 --yes", "create", "repair"] {
        let ran = stage.expect(5, args);
        assert!(ran.stderr.contains("there twice"), "vmss {args}: {}", ran.stderr);
        assert_eq!(everything(&stage), before, "vmss {args}");
    }
    // Others may go and come; neither copy does, not even with the whole set.
    for args in ["scale 3 --yes", "delete --yes"] {
        stage.expect(5, args);
        let there = |d: &Daemon| d.domains().contains(&name);
        assert!(there(daemon) && there(other), "vmss {args}");
        assert!(
            other.running().contains(&name) && !daemon.running().contains(&name),
            "vmss {args}"
        );
    }
}

fn copy_store(stage: &Stage, from: &str, to: &str) {
    for end in ["", "-wal", "-shm"] {
        let (from, to) = (
            stage.path(&format!("{from}{end}")),
            stage.path(&format!("{to}{end}")),
        );
        let _ = fs::remove_file(&to);
        if from.exists() {
            fs::copy(from, to).unwrap();
        }
    }
}

#[test]
fn a_store_that_was_restored_from_a_backup_changes_nothing_until_it_is_brought_level() {
    let stage = Stage::new(&[1, 1, 1]);
    stage.expect(0, "create");
    copy_store(&stage, "state.db", "backup.db");
    stage.expect(0, "scale 9");
    copy_store(&stage, "backup.db", "state.db");
    let before = everything(&stage);
    for args in [
        "create",
        "scale +0 --yes",
        "scale 12",
        "scale 3 --yes",
        "delete --yes",
    ] {
        stage.expect(5, args);
        assert_eq!(everything(&stage), before, "vmss {args}");
    }
    let shown = stage.expect(0, "show");
    assert!(shown.stdout.contains("state catch-up"), "{}", shown.stdout);
}

#[test]
fn a_store_that_was_restored_with_nothing_changed_in_between_goes_on_as_before() {
    let stage = Stage::new(&[1, 1, 1]);
    stage.expect(0, "create");
    copy_store(&stage, "state.db", "backup.db");
    copy_store(&stage, "backup.db", "state.db");
    let told = stage.expect(0, "scale 7");
    assert!(!told.stderr.contains("left alone"), "{}", told.stderr);
    assert_eq!(stage.faults(7), Vec::<String>::new());
}

/// What was changed in place since the backup is newer than the record, though no id is.
#[test]
fn a_restored_store_is_told_by_the_notes_of_instances_that_it_knows() {
    let stage = Stage::new(&[1, 1]);
    stage.expect(0, "create");
    copy_store(&stage, "state.db", "backup.db");
    stage.expect(0, "instance protect 1 --from scale-in");
    copy_store(&stage, "backup.db", "state.db");
    let before = everything(&stage);
    stage.expect(5, "scale 2 --yes");
    assert_eq!(everything(&stage), before);
}

/// One daemon under a second URI.
fn twin_of(stage: &Stage, daemon: &Daemon) -> String {
    let link = stage.path("alias");
    let _ = std::os::unix::fs::symlink(stage.path(&daemon.name), &link);
    daemon.uri().replace(&format!("/{}/", daemon.name), "/alias/")
}

fn add_host(stage: &Stage, name: &str, uri: &str) {
    let path = stage.path("scaleset.toml");
    let mut text = fs::read_to_string(&path).unwrap();
    text += &format!(
        "\n[[fault_domains]]\nname = \"rack-x\"\nhosts = [{{ name = \"{name}\", uri = \"{uri}\", pool = \"default-pool\" }}]\n"
    );
    fs::write(path, text).unwrap();
}

#[test]
fn two_names_for_one_host_are_refused_before_anything_is_made() {
    let stage = Stage::new(&[1, 1]);
    let uri = twin_of(&stage, &stage.daemons[0]);
    add_host(&stage, "again", &uri);
    for args in ["check", "plan", "create"] {
        let ran = stage.expect(3, args);
        let told = format!("{}{}", ran.stdout, ran.stderr);
        assert!(
            told.contains("kvm1") && told.contains("again"),
            "vmss {args}: {told}"
        );
    }
    assert_eq!(stage.domains().concat(), Vec::<String>::new());
    assert!(
        stage.daemons.iter().all(|d| d.volumes().is_empty()),
        "no probe is left"
    );
}

#[test]
fn a_second_name_for_a_host_is_refused_when_it_is_added_to_a_living_set() {
    let stage = Stage::new(&[1, 1]);
    stage.expect(0, "create");
    let uri = twin_of(&stage, &stage.daemons[0]);
    add_host(&stage, "again", &uri);
    let before = everything(&stage);
    stage.expect(3, "apply --yes");
    stage.expect(3, "plan");
    assert_eq!(everything(&stage), before);
    stage.expect(0, "scale +0 --yes");
}

/// Sets of earlier versions may have one already.
#[test]
fn a_set_that_has_one_host_twice_is_left_alone_until_one_name_is_taken_out() {
    let stage = Stage::new(&[1, 1]);
    stage.expect(0, "create");
    let uri = twin_of(&stage, &stage.daemons[0]);
    let whole = fs::read_to_string(stage.path("scaleset.toml")).unwrap();
    add_host(&stage, "again", &uri);
    let text = fs::read_to_string(stage.path("scaleset.toml")).unwrap();
    let with_twin = vmss::definition::parse(&text, &stage.path("scaleset.toml")).unwrap();
    {
        let store = Sqlite::open(&stage.path("state.db")).unwrap();
        let set = Label::new("web").unwrap();
        let (mut record, version) = store.get(&set).unwrap().unwrap();
        record.applied = with_twin;
        store.put(&set, &record, Some(version)).unwrap();
    }
    let before = everything(&stage);
    for args in ["scale +0 --yes", "create", "repair"] {
        let ran = stage.expect(5, args);
        assert!(ran.stderr.contains("again"), "vmss {args}: {}", ran.stderr);
        assert_eq!(everything(&stage), before, "vmss {args}");
    }
    // Nor does anything tell to end doubles that are none: who keeps one of the two copies loses the only one.
    for args in ["show", "instances"] {
        let ran = stage.expect(0, args);
        let told = format!("{}{}", ran.stdout, ran.stderr);
        assert!(
            told.contains("kvm1 and again are one libvirtd"),
            "vmss {args}: {told}"
        );
        assert!(!told.contains("is there twice"), "vmss {args}: {told}");
    }
    let id = stage.daemons[0].domains()[0].replace("web-", "");
    let ran = stage.expect(5, &format!("instance settle {id} --keep again --yes"));
    assert!(
        ran.stderr.contains("one libvirtd under two names"),
        "{}",
        ran.stderr
    );
    assert_eq!(
        everything(&stage),
        before,
        "the only copy of instance {id} is there"
    );
    fs::write(stage.path("scaleset.toml"), whole).unwrap();
    stage.expect(0, "apply --yes");
    assert_eq!(stage.faults(6), Vec::<String>::new());
}

#[test]
fn a_host_that_is_called_otherwise_in_the_definition_is_the_same_host() {
    let stage = Stage::new(&[1, 1]);
    stage.expect(0, "create");
    let before = everything(&stage);
    let path = stage.path("scaleset.toml");
    let text = fs::read_to_string(&path)
        .unwrap()
        .replace("\"kvm1\"", "\"north-1\"");
    fs::write(&path, text).unwrap();
    stage.expect(0, "apply --yes");
    assert_eq!(everything(&stage), before, "nothing is made or lost for a name");
    let there = stage.expect(0, "instances -o json").stdout;
    assert!(there.contains("north-1") && !there.contains("kvm1"), "{there}");
    stage.expect(0, "scale 3 --yes");
    stage.expect(0, "delete --yes");
    assert!(stage.daemons.iter().all(|d| d.volumes().is_empty()));
}

#[test]
fn other_peoples_machines_and_a_second_store_are_nothing_odd() {
    let mut stage = Stage::new(&[1, 1]);
    stage.expect(0, "create");
    let mail = "<domain type='test'><name>mail</name><memory>1024</memory><os><type>hvm</type></os></domain>";
    stage.daemons[0].connection().define_domain_xml(mail).unwrap();
    let pool = stage.daemons[0]
        .connection()
        .lookup_storage_pool_by_name("default-pool");
    let disk = "<volume><name>mail.qcow2</name><capacity>1024</capacity></volume>";
    virt::storage_vol::StorageVol::create_xml(&pool.unwrap(), disk, 0).unwrap();
    // Another set of another store on the same hosts and pools.
    let first = fs::read_to_string(stage.path("scaleset.toml")).unwrap();
    fs::write(
        stage.path("scaleset.toml"),
        first.replace("name = \"web\"", "name = \"db\""),
    )
    .unwrap();
    stage.store = "other.db".into();
    stage.expect(0, "create");
    fs::write(stage.path("scaleset.toml"), &first).unwrap();
    stage.store = "state.db".into();
    let ran = stage.expect(0, "scale 4 --yes");
    assert!(!ran.stderr.contains("note:"), "{}", ran.stderr);
    let shown = stage.expect(0, "show");
    assert!(!shown.stdout.contains('!'), "{}", shown.stdout);
    stage.expect(0, "delete --yes");
    let left = stage.domains().concat();
    assert_eq!(
        left.iter().filter(|d| d.starts_with("db-")).count(),
        6,
        "{left:?}"
    );
    assert!(left.contains(&"mail".to_owned()));
    assert!(stage.daemons[0].volumes().contains(&"mail.qcow2".to_owned()));
}

#[test]
fn a_disk_that_somebody_has_as_a_device_is_in_use_like_any_other() {
    let stage = Stage::new(&[1, 1]);
    stage.expect(0, "create");
    let daemon = &stage.daemons[0];
    let volumes = daemon.volumes();
    let disk = volumes.iter().find(|v| v.ends_with("-os.qcow2")).unwrap();
    let backup = format!(
        "<domain type='test'><name>backup</name><memory>1024</memory><os><type>hvm</type></os><devices><disk type='block'>\
         <source dev='/default-pool/{disk}'/><target dev='vda'/></disk></devices></domain>"
    );
    daemon.connection().define_domain_xml(&backup).unwrap();
    let ran = stage.expect(1, "delete --yes");
    let said = format!("{disk} is used by domain backup");
    assert!(ran.stderr.contains(&said), "{}", ran.stderr);
    assert!(daemon.volumes().contains(disk), "it is in use");
}

/// The text of the definition with something in it replaced.
fn redefine(stage: &Stage, from: &str, to: &str) {
    let path = stage.path("scaleset.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn a_host_that_is_another_machine_under_the_same_name_is_refused_while_it_has_instances() {
    let stage = Stage::new(&[1, 1]);
    stage.define(&[1], 3, "");
    stage.expect(0, "create");
    let (first, second) = (&stage.daemons[0], &stage.daemons[1]);
    let before = everything(&stage);
    redefine(&stage, &first.uri(), &second.uri());
    let ran = stage.expect(5, "apply --yes");
    let said = "another URI, and instances 1-3 are not there";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    assert_eq!(everything(&stage), before, "no second set is made");
    // Nobody can tell what is there.
    redefine(&stage, &second.uri(), "test+unix:///default?socket=/nowhere");
    let ran = stage.expect(4, "apply --yes");
    assert!(ran.stderr.contains("can't be told"), "{}", ran.stderr);
    assert_eq!(everything(&stage), before);
    // The same machine by another way.
    let socket = first.uri().split_once("socket=").unwrap().1.to_owned();
    std::os::unix::fs::symlink(&socket, stage.path("the-same")).unwrap();
    let other_way = first
        .uri()
        .replace(&socket, stage.path("the-same").to_str().unwrap());
    redefine(&stage, "test+unix:///default?socket=/nowhere", &other_way);
    stage.expect(0, "apply --yes");
    let after: Vec<_> = stage.daemons.iter().map(Daemon::domains).collect();
    assert_eq!(after, [vec!["web-1", "web-2", "web-3"], vec![]]);
    // Once it has none it may be any machine.
    stage.expect(0, "scale 0 --yes");
    redefine(&stage, &other_way, &second.uri());
    stage.expect(0, "apply --yes");
    stage.expect(0, "scale 1");
    assert_eq!(second.domains(), ["web-4"]);
}

#[test]
fn another_pool_of_a_host_is_refused_while_disks_of_instances_are_in_the_old_one() {
    let stage = Stage::new(&[1]);
    stage.define(&[1], 2, "");
    stage.expect(0, "create");
    let daemon = &stage.daemons[0];
    let before = everything(&stage);
    redefine(&stage, "\"default-pool\"", "\"other\"");
    let ran = stage.expect(4, "apply --yes");
    assert!(
        ran.stderr.contains("pool other there can't be seen"),
        "{}",
        ran.stderr
    );
    let other = "<pool type='dir'><name>other</name><target><path>/other</path></target></pool>";
    let pool = daemon.connection().define_storage_pool_xml(other, 0).unwrap();
    pool.build(0).unwrap();
    pool.create(0).unwrap();
    let ran = stage.expect(5, "apply --yes");
    let said = "another pool, and instances 1-2 are not there";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    assert_eq!(
        everything(&stage),
        before,
        "they have their disks where they were"
    );
    // A pool that was only called otherwise has them.
    for volume in daemon.volumes() {
        let disk = format!("<volume><name>{volume}</name><capacity>1024</capacity></volume>");
        virt::storage_vol::StorageVol::create_xml(&pool, &disk, 0).unwrap();
    }
    stage.expect(0, "apply --yes");
}

/// Kills vmss at a few moments of each command where a member is kept under another name, one is there twice, and one's note is
/// forged; `tests/killed.rs` has every moment of many more such worlds, on the fake.
#[test]
fn killed_where_things_are_odd_nobody_loses_anything_and_what_is_left_is_finished() {
    let stage = Stage::new(&[1, 1, 1]);
    stage.expect(0, "create");
    let quoted = |text: &str| format!("<name>{text}</name>");
    // One is kept under another name.
    let kept = &stage.daemons[0];
    let name = kept.domains()[0].clone();
    let xml = described(kept, &name, &[(&quoted(&name), &quoted("forensic-1"))]);
    let domain = kept.connection().lookup_domain_by_name(&name).unwrap();
    domain.destroy().unwrap();
    domain.undefine().unwrap();
    kept.connection()
        .define_domain_xml(&xml)
        .unwrap()
        .create()
        .unwrap();
    // One is there twice.
    let (twice, other) = (&stage.daemons[1], &stage.daemons[2]);
    let double = twice.domains()[0].clone();
    other
        .connection()
        .define_domain_xml(&described(twice, &double, &[]))
        .unwrap();
    // One's note is another's.
    let copied = twice.domains()[1].clone();
    let own = uuid_of(twice, &copied).to_string();
    let xml = described(
        twice,
        &copied,
        &[
            (&quoted(&copied), &quoted("web-copy")),
            (&own, &Uuid::new_v4().to_string()),
        ],
    );
    twice.connection().define_domain_xml(&xml).unwrap();
    let is_odd = |domain: &str| [&*double, "forensic-1", "web-copy"].contains(&domain);
    // Domains that are odd, with the disks of each.
    let odd = || -> Everything {
        let mut all = everything(&stage);
        for (domains, volumes) in &mut all {
            domains.retain(|(domain, ..)| is_odd(domain));
            let of = |v: &String| {
                [&name, &double, &copied]
                    .iter()
                    .any(|n| v.starts_with(&format!("{n}-")))
            };
            volumes.retain(of);
        }
        all
    };
    let before = odd();
    let mut kills = 0;
    for lines in [0, 3, 6, 9, 12] {
        for args in ["scale 7 --yes", "scale 5 --yes"] {
            kills += usize::from(stage.kill_after(args, lines));
            assert_eq!(odd(), before, "vmss {args}, killed after {lines} lines");
            stage.expect(5, args);
            assert_eq!(odd(), before, "vmss {args}, after it was killed at {lines} lines");
            let shown = stage.expect(0, "show -o json").json();
            assert_eq!(shown["report"]["running"], shown["report"]["wanted"], "{shown}");
        }
    }
    assert!(kills >= 4, "only {kills} runs were killed before their end");
}
