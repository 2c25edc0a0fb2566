//! On real libvirtd daemons that serve libvirt's test driver, and with the binary: domains and a store that vmss of commit
//! 1e23dcc has made.

use std::collections::BTreeSet;
use std::fs;

use uuid::Uuid;

use super::support::{Runs as _, Stage, disk};

/// What vmss of commit 1e23dcc has made on two daemons, word for word (`tests/fixtures/takeover/real`): four instances, of
/// which 1 is protected from scale in and 2 was stopped.
fn left_by_an_earlier_version() -> Stage {
    let stage = Stage::new(&[1, 1]);
    let disks = "[[instance.data_disks]]\nname = \"logs\"\nsize = \"8 MiB\"\n";
    stage.define(&[1, 1], 4, &format!("\n{disks}"));
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/takeover");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    for (host, name, runs) in [
        (0, "web-1", true),
        (1, "web-2", false),
        (0, "web-3", true),
        (1, "web-4", true),
    ] {
        let connection = stage.daemons[host].connection();
        let xml = read(&format!("real/kvm{}-{name}.xml", host + 1));
        let pool = connection.lookup_storage_pool_by_name("default-pool").unwrap();
        let volume = |name: &str, format: &str, size: u64, backing: &str| {
            let xml = format!(
                "<volume><name>{name}</name><capacity>{size}</capacity><allocation>0</allocation>
                 <target><format type='{format}'/></target>{backing}</volume>"
            );
            if pool.lookup_storage_vol_by_name(name).is_err() {
                virt::storage_vol::StorageVol::create_xml(&pool, &xml, 0).unwrap();
            }
        };
        let base = "vmss-base-049b0c45a08375cff86978c68932e98bd06055a32643ba83d0df4f475fb4d7d4-b3eb2586.raw";
        volume(base, "raw", 1 << 20, "");
        volume(&format!("{base}.ok"), "raw", 0, "");
        let backing =
            format!("<backingStore><path>/default-pool/{base}</path><format type='raw'/></backingStore>");
        for file in xml.split("/default-pool/").skip(1) {
            let (file, _) = file.split_once('\'').unwrap();
            if file.ends_with("-os.qcow2") {
                volume(file, "qcow2", 1 << 20, &backing);
            } else {
                volume(file, "qcow2", 8 << 20, "");
            }
        }
        let domain = connection.define_domain_xml(&xml).unwrap();
        if runs {
            domain.create().unwrap();
        }
    }
    let store = rusqlite::Connection::open(stage.path("state.db")).unwrap();
    store.execute_batch(&read("layout-3.sql")).unwrap();
    let rows = read("real/store.sql").replace("/srv/web", &stage.folder.path().display().to_string());
    store.execute_batch(&rows).unwrap();
    stage
}

/// What every domain is, and every volume, by host and name.
fn everything(stage: &Stage) -> Vec<(BTreeSet<String>, Vec<String>)> {
    let of = |daemon: &super::support::Daemon| {
        let domains = daemon.connection().list_all_domains(0).unwrap();
        let told = domains.iter().map(|d| d.xml_desc(0).unwrap());
        (told.collect(), daemon.volumes())
    };
    stage.daemons.iter().map(of).collect()
}

/// UUID, MACs and disks of every domain, by name.
fn identities(stage: &Stage) -> BTreeSet<(String, Uuid, Vec<String>)> {
    let mut all = BTreeSet::new();
    for daemon in &stage.daemons {
        for domain in daemon.connection().list_all_domains(0).unwrap() {
            let xml = domain.xml_desc(virt::sys::VIR_DOMAIN_XML_INACTIVE).unwrap();
            let its = |line: &&str| line.contains("<source file=") || line.contains("<mac ");
            let its = xml.lines().filter(its).map(|l| l.trim().to_owned()).collect();
            all.insert((domain.name().unwrap(), domain.uuid().unwrap(), its));
        }
    }
    all
}

fn note_of_3(stage: &Stage) -> String {
    let domain = stage.daemons[0].connection().lookup_domain_by_name("web-3");
    domain
        .unwrap()
        .xml_desc(virt::sys::VIR_DOMAIN_XML_INACTIVE)
        .unwrap()
}

#[test]
fn what_an_earlier_version_has_made_on_real_daemons_is_taken_over() {
    let stage = left_by_an_earlier_version();
    let (before, left) = (everything(&stage), identities(&stage));
    for args in ["show", "plan", "instances", "list", "history"] {
        let ran = stage.expect(0, args);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(
            !said.contains(" ! ") && !said.contains("domain web-"),
            "vmss {args}: {said}"
        );
        assert_eq!(everything(&stage), before, "vmss {args} only looks");
    }
    assert!(stage.expect(0, "plan").stdout.contains("nothing to do"));
    stage.expect(0, "instance restart 3 --yes");
    stage.expect(0, "instance protect 3 --from scale-in");
    assert!(note_of_3(&stage).contains("epoch="), "its note is written anew");
    stage.expect(0, "instance unprotect 3");
    assert_eq!(identities(&stage), left);
    // Another image, and vmss killed ever later as it is rolled out.
    for told in [3, 9] {
        fs::write(stage.path("image.raw"), disk(10 + told)).unwrap();
        stage.kill_after("apply --yes", usize::from(told));
        stage.expect(0, "apply --yes");
        assert_eq!(identities(&stage), left, "killed when {told} lines were told");
    }
    stage.expect(0, "scale 5 --yes");
    assert!(identities(&stage).is_superset(&left));
    assert_eq!(stage.ids(), [1, 2, 3, 4, 5]);
    stage.expect(0, "scale 1 --yes");
    assert_eq!(stage.ids(), [1], "it is protected");
    stage.expect(0, "delete --yes --include-protected");
    assert_eq!(stage.ids(), Vec::<u64>::new());
    assert!(stage.daemons.iter().all(|d| d.volumes().is_empty()));
}
