use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::samples::{host, model, nic, spec};
use super::*;
use crate::model::{Clone as CloneMode, DataDisk, NicSource, UserData};
use crate::names::Label;
use crate::units::Bytes;

fn xml(spec: &InstanceSpec, model: &Model, host: &HostDetails) -> String {
    let seed = crate::hypervisor::seed::volume(spec, model);
    domain_xml(spec, model, &seed, &note(spec, model), host).unwrap()
}

fn note(spec: &InstanceSpec, model: &Model) -> Metadata {
    let seed = crate::hypervisor::seed::volume(spec, model);
    spec.metadata(owned_volumes(spec, model, &seed))
}

/// libvirt's own schema. Not skipped where the tool is missing: then nothing would be known.
fn validate(xml: &str, what: &str) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(xml.as_bytes()).unwrap();
    let run = Command::new("virt-xml-validate")
        .arg(file.path())
        .arg("domain")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .expect("virt-xml-validate (Debian: libvirt-clients) must be installed");
    assert!(
        run.status.success(),
        "{what} doesn't fit libvirt's schema: {}\n{xml}",
        String::from_utf8_lossy(&run.stderr)
    );
}

#[test]
fn every_variant_fits_libvirts_schema() {
    let check = |what: &str, change: &dyn Fn(&mut InstanceSpec, &mut Model, &mut HostDetails)| {
        let (mut spec, mut model, mut host) = (spec(), model(), host());
        change(&mut spec, &mut model, &mut host);
        spec.macs
            .resize(model.networks.len(), "02:00:00:00:00:01".to_owned());
        spec.addresses.resize(model.networks.len(), None);
        validate(&xml(&spec, &model, &host), what);
    };
    check("plain", &|_, _, _| ());
    for t in [DomainType::Kvm, DomainType::Qemu, DomainType::Test] {
        check(t.as_str(), &|_, _, h| h.domain_type = t);
    }
    for clone in [CloneMode::Linked, CloneMode::Full] {
        for format in [ImageFormat::Qcow2, ImageFormat::Raw] {
            check(&format!("{clone:?} {format:?}"), &|_, m, _| {
                m.clone = clone;
                m.image.format = format;
            });
        }
    }
    for cpu in [
        Cpu::HostModel,
        Cpu::HostPassthrough,
        Cpu::Maximum,
        Cpu::Named("Skylake-Server".to_owned()),
    ] {
        check(&format!("{cpu:?}"), &|_, m, _| m.cpu = cpu.clone());
    }
    check("uefi", &|_, m, _| m.firmware = Firmware::Uefi);
    check("no network", &|_, m, _| m.networks.clear());
    check("eight cards", &|_, m, _| {
        m.networks = (0..8)
            .map(|n| {
                nic(if n % 2 == 0 {
                    NicSource::Bridge("br0".to_owned())
                } else {
                    NicSource::Network("default".to_owned())
                })
            })
            .collect();
    });
    check("fixed address", &|s, m, _| {
        m.networks[0].addresses = Some(crate::scaleset::AddressRange {
            first: Ipv4Addr::new(10, 0, 0, 1),
            last: Ipv4Addr::new(10, 0, 0, 9),
            prefix: 24,
        });
        s.addresses[0] = Some(Ipv4Addr::new(10, 0, 0, 3));
    });
    check("thirty data disks", &|_, m, _| {
        m.data_disks = (0..30)
            .map(|n| DataDisk {
                name: Label::new(format!("d{n}")).unwrap(),
                size: Bytes::gib(1),
            })
            .collect();
    });
    for text in ["#cloud-config\n", "{{ instance.name }}"] {
        check(&format!("seed {text:?}"), &|_, m, _| {
            m.user_data = Some(UserData {
                template: text.to_owned(),
                vars: Default::default(),
            });
        });
    }
    check("page cache", &|_, _, h| h.disk_mode = DiskMode::Cached);
    check("unknown machine, no log, old libvirt", &|_, _, h| {
        h.arch = None;
        h.machine = None;
        h.console_folder = None;
        h.free_page_reporting = false;
    });
    check("aarch64", &|_, _, h| {
        h.arch = Some("aarch64".to_owned());
        h.machine = Some("virt".to_owned());
    });
}

#[test]
fn one_domain_in_full() {
    let mut model = model();
    model.user_data = Some(UserData {
        template: "#cloud-config\n".to_owned(),
        vars: Default::default(),
    });
    model.data_disks = vec![DataDisk {
        name: Label::new("logs").unwrap(),
        size: Bytes::gib(4),
    }];
    insta::assert_snapshot!(xml(&spec(), &model, &host()));
}

#[test]
fn its_own_note_is_read_back_from_the_document() {
    let (spec, model) = (spec(), model());
    let document = Element::parse(&xml(&spec, &model, &host())).unwrap();
    let note = document.path(["metadata", "instance"]).unwrap();
    let meta = metadata::read(note).unwrap();
    assert_eq!(meta, spec.metadata(vec![os_volume(&spec, &model)]));
}

fn sources(xml: &str) -> Vec<(String, String)> {
    let document = Element::parse(xml).unwrap();
    document
        .walk()
        .filter(|e| e.name == "interface")
        .map(|e| {
            let source = e.find("source").unwrap();
            source.attributes[0].clone()
        })
        .collect()
}

proptest! {
    #[test]
    fn no_text_of_a_definition_breaks_the_document(text in any::<String>(), cpu in any::<String>(), folder in any::<String>()) {
        let (spec, mut model, mut host) = (spec(), model(), host());
        model.networks[0].source = NicSource::Bridge(text.clone());
        model.cpu = Cpu::Named(cpu.clone());
        host.pool_path = format!("/{folder}");
        match domain_xml(&spec, &model, &SeedVolume::None, &note(&spec, &model), &host) {
            Ok(xml) => {
                prop_assert_eq!(sources(&xml), vec![("bridge".to_owned(), text)]);
                let document = Element::parse(&xml).unwrap();
                prop_assert_eq!(document.children.len(), 18, "no element more than was meant");
            }
            Err(XmlError::Character { .. }) => {
                let all = [text, cpu, folder].concat();
                let illegal = all.chars().any(|c| c.is_control() || ['\u{fffe}', '\u{ffff}'].contains(&c));
                prop_assert!(illegal, "only what XML can't hold is refused");
            }
            Err(e) => prop_assert!(false, "{e}"),
        }
    }
}

#[test]
fn quotes_and_control_characters_of_a_bridge() {
    let (spec, mut model) = (spec(), model());
    let hostile = r#"br0'/><disk a="x"&lt;]]>"#;
    model.networks[0].source = NicSource::Bridge(hostile.to_owned());
    assert_eq!(
        sources(&xml(&spec, &model, &host())),
        [("bridge".to_owned(), hostile.to_owned())]
    );
    model.networks[0].source = NicSource::Network("a\u{1}b".to_owned());
    assert!(domain_xml(&spec, &model, &SeedVolume::None, &note(&spec, &model), &host()).is_err());
}
