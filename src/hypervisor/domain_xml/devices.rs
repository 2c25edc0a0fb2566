//! The devices of a domain.

use super::element::Element;
use super::{DiskMode, DomainType, HostDetails, data_volumes, os_volume};
use crate::hypervisor::seed::SeedVolume;
use crate::model::{Clone, ImageFormat, Model, NicSource};
use crate::plan::action::InstanceSpec;

/// The name of the guest agent's channel, as the agent looks for it.
pub const AGENT_CHANNEL: &str = "org.qemu.guest_agent.0";

/// `<devices>`. The simulation takes disks and network cards only.
pub fn devices(spec: &InstanceSpec, model: &Model, seed: &SeedVolume, host: &HostDetails) -> Element {
    let devices = Element::new("devices")
        .children(disks(spec, model, seed, host))
        .children(
            model
                .networks
                .iter()
                .zip(&spec.macs)
                .map(|(nic, mac)| interface(&nic.source, mac, host)),
        );
    if host.domain_type == DomainType::Test {
        return devices;
    }
    devices
        .child(
            Element::new("controller")
                .attr("type", "usb")
                .attr("model", "none"),
        )
        .child(serial(&spec.name(), host))
        .child(
            Element::new("console")
                .attr("type", "pty")
                .child(Element::new("target").attr("type", "serial").attr("port", 0)),
        )
        .child(
            Element::new("channel").attr("type", "unix").child(
                Element::new("target")
                    .attr("type", "virtio")
                    .attr("name", AGENT_CHANNEL),
            ),
        )
        .child(
            Element::new("rng").attr("model", "virtio").child(
                Element::new("backend")
                    .attr("model", "random")
                    .text("/dev/urandom"),
            ),
        )
        .child(balloon(host))
}

fn disks(spec: &InstanceSpec, model: &Model, seed: &SeedVolume, host: &HostDetails) -> Vec<Element> {
    let mut disks = Vec::new();
    let format = match model.clone {
        Clone::Linked => ImageFormat::Qcow2,
        Clone::Full => model.image.format,
    };
    disks.push(disk(&os_volume(spec, model), format, 0, host));
    for (volume, data) in data_volumes(spec, model).iter().zip(&model.data_disks) {
        disks.push(
            disk(volume, ImageFormat::Qcow2, disks.len(), host)
                .child(Element::new("serial").text(&data.name)),
        );
    }
    match seed {
        SeedVolume::None => {}
        SeedVolume::Shared(volume) => disks.push(seed_disk(volume, disks.len(), true, host)),
        SeedVolume::Own(volume) => disks.push(seed_disk(volume, disks.len(), false, host)),
    }
    disks
}

/// `type='file'` with the resolved path: AppArmor's helper can't follow a `type='volume'` to its backing files.
fn file_disk(volume: &str, driver: Element, position: usize, host: &HostDetails) -> Element {
    let folder = host.pool_path.trim_end_matches('/');
    Element::new("disk")
        .attr("type", "file")
        .attr("device", "disk")
        .child(driver)
        .child(Element::new("source").attr("file", format!("{folder}/{volume}")))
        .child(
            Element::new("target")
                .attr("dev", target(position))
                .attr("bus", "virtio"),
        )
}

fn disk(volume: &str, format: ImageFormat, position: usize, host: &HostDetails) -> Element {
    let driver = Element::new("driver")
        .attr("name", "qemu")
        .attr("type", format.as_str());
    let driver = match host.domain_type {
        DomainType::Test => driver,
        _ => {
            let (cache, io) = opened(host.disk_mode);
            driver.attr("cache", cache).attr("io", io)
        }
    };
    let driver = match host.domain_type {
        DomainType::Test => driver,
        _ => driver
            .attr("discard", "unmap")
            .attr("detect_zeroes", "unmap")
            .attr("iothread", 1),
    };
    file_disk(volume, driver, position, host)
}

/// How a disk that is written to is opened: `cache` and `io` of its driver.
pub(super) const fn opened(mode: DiskMode) -> (&'static str, &'static str) {
    match mode {
        DiskMode::Direct => ("none", "native"),
        DiskMode::Cached => ("writeback", "threads"),
    }
}

/// The file that a host keeps what the guest writes to its console in, within the folder for that.
pub fn console_log(name: &str) -> String {
    format!("{name}.console.log")
}

fn seed_disk(volume: &str, position: usize, shared: bool, host: &HostDetails) -> Element {
    let driver = Element::new("driver").attr("name", "qemu").attr("type", "raw");
    let disk = file_disk(volume, driver, position, host).child(Element::new("readonly"));
    if shared {
        disk.child(Element::new("shareable"))
    } else {
        disk
    }
}

/// `vda` to `vdz`, then `vdaa` and on, as Linux counts.
fn target(position: usize) -> String {
    let mut letters = Vec::new();
    let mut rest = position;
    loop {
        letters.push(b"abcdefghijklmnopqrstuvwxyz"[rest % 26]);
        if rest < 26 {
            break;
        }
        rest = rest / 26 - 1;
    }
    letters.reverse();
    format!("vd{}", String::from_utf8_lossy(&letters))
}

fn interface(source: &NicSource, mac: &str, host: &HostDetails) -> Element {
    let (kind, attribute, name) = match source {
        NicSource::Bridge(name) => ("bridge", "bridge", name),
        NicSource::Network(name) => ("network", "network", name),
    };
    let interface = Element::new("interface")
        .attr("type", kind)
        .child(Element::new("mac").attr("address", mac))
        .child(Element::new("source").attr(attribute, name));
    if host.domain_type == DomainType::Test {
        return interface;
    }
    interface.child(Element::new("model").attr("type", "virtio"))
}

fn serial(name: &str, host: &HostDetails) -> Element {
    let serial = Element::new("serial").attr("type", "pty");
    let serial = match &host.console_folder {
        Some(folder) => serial.child(
            Element::new("log")
                .attr("file", format!("{folder}/{}", console_log(name)))
                .attr("append", "on"),
        ),
        None => serial,
    };
    serial.child(Element::new("target").attr("port", 0))
}

fn balloon(host: &HostDetails) -> Element {
    let balloon = Element::new("memballoon").attr("model", "virtio");
    let balloon = if host.free_page_reporting {
        balloon.attr("freePageReporting", "on")
    } else {
        balloon
    };
    // Without a period the guest never tells how much memory it uses.
    balloon.child(Element::new("stats").attr("period", 10))
}

#[cfg(test)]
mod tests {
    #[test]
    fn disks_are_counted_as_linux_does() {
        let names: Vec<_> = [0, 1, 25, 26, 27, 51, 52, 701, 702]
            .into_iter()
            .map(super::target)
            .collect();
        assert_eq!(
            names,
            [
                "vda", "vdb", "vdz", "vdaa", "vdab", "vdaz", "vdba", "vdzz", "vdaaa"
            ]
        );
    }
}
