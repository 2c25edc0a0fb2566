//! A running domain's own description, as it is on one host and as it goes over to another.
//!
//! The guest goes on with the very devices it has, so what libvirt says of them is kept, down to every address: the
//! definition that a model gives may differ by now (a live change takes effect at the next start). Only what the guest
//! can't see is another there: files, and the note.

use super::devices::{console_log, opened};
use super::element::Element;
use super::{HostDetails, metadata};
use crate::inventory::Metadata;

/// A disk that the guest has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenDisk {
    /// What it is called there: "vda".
    pub target: String,
    /// The file it lies in; `None` if it lies in something else.
    pub file: Option<String>,
    /// Its format, "qcow2".
    pub format: String,
    /// Whether the guest can only read it.
    pub is_read_only: bool,
}

impl OpenDisk {
    /// The name of the volume it lies in.
    pub fn volume(&self) -> Option<&str> {
        self.file.as_deref().and_then(|f| f.rsplit('/').next())
    }
}

/// The disks of a running domain in order. A drive without a medium is none.
pub fn open_disks(running: &Element) -> Vec<OpenDisk> {
    let devices = running.find("devices").into_iter();
    let disks = devices.flat_map(|d| d.children.iter().filter(|e| e.name == "disk"));
    disks
        .filter_map(|disk| {
            let source = disk.find("source")?;
            let text = |element: &str, attribute: &str| {
                let value = disk.find(element).and_then(|e| e.get(attribute));
                value.unwrap_or_default().to_owned()
            };
            Some(OpenDisk {
                target: text("target", "dev"),
                file: source.get("file").map(str::to_owned),
                format: text("driver", "type"),
                is_read_only: disk.find("readonly").is_some(),
            })
        })
        .collect()
}

/// The description for the host that it goes to: with `note` in it, its disks in that host's pool, and what it only
/// reads in the volume `seed`.
pub fn moved(
    running: &Element,
    note: &Metadata,
    name: &str,
    seed: Option<&str>,
    host: &HostDetails,
) -> Element {
    let mut domain = running.clone();
    domain.children.retain(|e| e.name != "metadata");
    domain
        .children
        .push(Element::new("metadata").child(metadata::embedded(note)));
    let devices = domain.children.iter_mut().filter(|e| e.name == "devices");
    for device in devices.flat_map(|d| d.children.iter_mut()) {
        match device.name.as_str() {
            "disk" => move_disk(device, seed, host),
            "serial" | "console" => move_console(device, name, host),
            _ => {}
        }
    }
    domain
}

fn move_disk(disk: &mut Element, seed: Option<&str>, host: &HostDetails) {
    let is_read_only = disk.find("readonly").is_some();
    // What it is backed by is read from the file there: another store's copy of the image may serve.
    disk.children.retain(|e| e.name != "backingStore");
    let folder = host.pool_path.trim_end_matches('/');
    for part in &mut disk.children {
        match part.name.as_str() {
            "source" => {
                let own = part.get("file").and_then(|f| f.rsplit('/').next());
                let volume = if is_read_only { seed } else { own };
                if let Some(path) = volume.map(|v| format!("{folder}/{v}")) {
                    *part = Element::new("source").attr("file", path);
                }
            }
            "driver" if !is_read_only => {
                let (cache, io) = opened(host.disk_mode);
                part.attributes.retain(|(key, _)| key != "cache" && key != "io");
                *part = std::mem::take(part).attr("cache", cache).attr("io", io);
            }
            _ => {}
        }
    }
}

fn move_console(device: &mut Element, name: &str, host: &HostDetails) {
    let Some(folder) = &host.console_folder else {
        device.children.retain(|e| e.name != "log");
        return;
    };
    for log in device.children.iter_mut().filter(|e| e.name == "log") {
        for (key, value) in &mut log.attributes {
            if key == "file" {
                *value = format!("{folder}/{}", console_log(name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::domain_xml::samples::{host, model, spec};
    use crate::hypervisor::domain_xml::{DiskMode, domain_xml};
    use crate::hypervisor::seed::SeedVolume;
    use crate::model::DataDisk;
    use crate::names::Label;
    use crate::units::Bytes;

    fn running() -> Element {
        let (spec, mut model) = (spec(), model());
        model.data_disks = vec![DataDisk {
            name: Label::new("logs").unwrap(),
            size: Bytes::gib(4),
        }];
        let note = spec.metadata(Vec::new());
        let seed = SeedVolume::Shared("seed-r1.img".to_owned());
        let mut domain = Element::parse(&domain_xml(&spec, &model, &seed, &note, &host()).unwrap()).unwrap();
        let devices = domain.children.iter_mut().find(|e| e.name == "devices").unwrap();
        // As libvirt tells of a running one, and with a drive that somebody added.
        for disk in devices.children.iter_mut().filter(|e| e.name == "disk") {
            disk.children.push(
                Element::new("backingStore").child(Element::new("source").attr("file", "/pool/base.qcow2")),
            );
            disk.children
                .push(Element::new("address").attr("type", "pci").attr("bus", "0x04"));
        }
        let drive = Element::new("disk")
            .attr("device", "cdrom")
            .child(Element::new("target").attr("dev", "sda"))
            .child(Element::new("readonly"));
        devices.children.push(drive);
        domain
    }

    #[test]
    fn the_guest_keeps_its_devices_and_gets_the_other_hosts_files() {
        let there = HostDetails {
            pool_path: "/fast/".to_owned(),
            console_folder: Some("/log".to_owned()),
            disk_mode: DiskMode::Cached,
            ..host()
        };
        let note = Metadata {
            moving_to: Some(Label::new("kvm2").unwrap()),
            ..spec().metadata(Vec::new())
        };
        let before = running();
        let after = moved(&before, &note, "web-3", Some("seed-r2.img"), &there);
        let files: Vec<String> = open_disks(&after).into_iter().filter_map(|d| d.file).collect();
        let of = |d: OpenDisk| match d.is_read_only {
            true => "/fast/seed-r2.img".to_owned(),
            false => format!("/fast/{}", d.volume().unwrap()),
        };
        assert_eq!(files, open_disks(&before).into_iter().map(of).collect::<Vec<_>>());
        assert_eq!(files.len(), 3);
        let xml = after.to_xml().unwrap();
        for (text, count) in [
            ("/var/lib/libvirt/images", 0),
            ("backingStore", 0),
            ("/log/web-3.console.log", 1),
            ("cache=\"writeback\" io=\"threads\"", 2),
            ("bus=\"0x04\"", 3),
            ("dev=\"sda\"", 1),
        ] {
            assert_eq!(xml.matches(text).count(), count, "{text} in {xml}");
        }
        let read = Element::parse(&xml).unwrap();
        let read = metadata::read(read.path(["metadata", "instance"]).unwrap());
        assert_eq!(read, Ok(note));
    }

    #[test]
    fn disks_are_told_by_what_they_lie_in() {
        let disks = open_disks(&running());
        assert_eq!(disks.len(), 3, "a drive without a medium is none");
        assert_eq!(disks[0].target, "vda");
        assert_eq!(
            (disks[1].format.as_str(), disks[1].is_read_only),
            ("qcow2", false)
        );
        assert_eq!(disks[2].volume(), Some("seed-r1.img"));
        let other = "<domain><devices><disk type='block'><source dev='/dev/sdb'/><target dev='vdx'/></disk></devices></domain>";
        assert_eq!(open_disks(&Element::parse(other).unwrap())[0].file, None);
    }
}
