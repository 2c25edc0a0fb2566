//! Every variant is held against libvirt's own schema.

use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::model::{Cpu, Nic};
use crate::names::{InstanceId, instance_uuid, mac_address};
use crate::plan::testing::{STORE, at, label, model};

fn spec(model: &Model) -> InstanceSpec {
    let (set, id) = (label("web"), InstanceId(3));
    InstanceSpec {
        uuid: instance_uuid(STORE, &set, id),
        macs: (0..model.networks.len())
            .map(|n| mac_address(&set, id, n))
            .collect(),
        addresses: vec![None; model.networks.len()],
        set,
        store: STORE,
        id,
        host: label("kvm1"),
        fault_domain: label("rack-a"),
        revision: 2,
        model_hash: model.hash(),
        image: model.image.digest.clone(),
        created_at: at(0),
    }
}

fn ground(domain_type: &'static str, disks: usize) -> Ground {
    Ground {
        domain_type,
        arch: "x86_64".into(),
        disks: (0..disks)
            .map(|i| Disk {
                path: format!("/pool/disk{i}.qcow2"),
                serial: (i > 0).then(|| format!("data{i}")),
            })
            .collect(),
        seed: ("/pool/seed.img".into(), disks.is_multiple_of(2)),
    }
}

fn nic(source: NicSource) -> Nic {
    Nic {
        source,
        addresses: None,
        gateway: None,
        dns: Vec::new(),
    }
}

fn made(model: &Model, ground: &Ground) -> std::result::Result<String, NotXml> {
    let spec = spec(model);
    domain(&spec, model, &spec.metadata(vec!["a.qcow2".into()]), ground)
}

fn validate(xml: &str, schema: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.xml");
    std::fs::write(&path, xml).unwrap();
    let out = Command::new("virt-xml-validate")
        .arg(&path)
        .arg(schema)
        .output()
        .expect("tests/run installs it");
    assert!(
        out.status.success(),
        "{}{}\n{xml}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn every_variant_is_valid_by_libvirts_schema() {
    let cpus = [
        Cpu::HostModel,
        Cpu::HostPassthrough,
        Cpu::Maximum,
        Cpu::Named("Skylake-Client".into()),
    ];
    for (i, cpu) in cpus.into_iter().enumerate() {
        for firmware in [Firmware::Bios, Firmware::Uefi] {
            let mut model = Model {
                cpu: cpu.clone(),
                firmware,
                ..model()
            };
            if i > 0 {
                model.networks = vec![
                    nic(NicSource::Bridge("br0".into())),
                    nic(NicSource::Network("a & <b> \"c\"".into())),
                ];
            }
            for domain_type in ["kvm", "qemu", "test"] {
                validate(&made(&model, &ground(domain_type, i + 1)).unwrap(), "domain");
            }
        }
    }
}

#[test]
fn volumes_are_valid_by_libvirts_schema() {
    let overlay = Volume {
        name: "a.qcow2",
        format: "qcow2",
        capacity: 1 << 30,
        backing: Some(("/pool/b & c", "qcow2")),
    };
    validate(&volume(&overlay).unwrap(), "storagevol");
    validate(
        &volume(&Volume {
            format: "raw",
            backing: None,
            ..overlay
        })
        .unwrap(),
        "storagevol",
    );
}

proptest! {
    /// Whatever a network is called, the XML says exactly that or is refused.
    #[test]
    fn no_name_breaks_the_xml(name in any::<String>()) {
        let model = Model { networks: vec![nic(NicSource::Network(name.clone()))], ..model() };
        let Ok(xml) = made(&model, &ground("kvm", 1)) else {
            prop_assert!(!fits(&name));
            return Ok(());
        };
        let document = roxmltree::Document::parse(&xml).unwrap();
        let interfaces: Vec<_> = document.descendants().filter(|n| n.has_tag_name("interface")).collect();
        prop_assert_eq!(interfaces.len(), 1);
        let source = interfaces[0].children().find(|n| n.has_tag_name("source")).unwrap();
        prop_assert_eq!(source.attribute("network"), Some(name.as_str()));
    }
}
