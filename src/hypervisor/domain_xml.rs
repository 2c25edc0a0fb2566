//! The domain XML of an instance. Written by a writer, so that no name can mean anything to it.

use std::io::Cursor;

use quick_xml::Writer;
use quick_xml::events::{BytesText, Event};

use crate::hypervisor::metadata_xml;
use crate::hypervisor::seed;
use crate::inventory::Metadata;
use crate::model::{Cpu, Firmware, Model, NicSource};
use crate::plan::action::InstanceSpec;

/// What the host decides about a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground {
    /// `kvm`, `qemu` or `test`.
    pub domain_type: &'static str,
    /// CPU architecture of the guest: the host's own.
    pub arch: String,
    /// Disks in the order vda, vdb, ...: path, and serial for data disks.
    pub disks: Vec<Disk>,
    /// Path of the seed, and whether it is shared.
    pub seed: (String, bool),
}

/// A disk of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Absolute path on the host.
    pub path: String,
    /// Serial that the guest sees.
    pub serial: Option<String>,
}

/// A control character can't stand in XML at all, escaped or not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} has a character that XML can't hold")]
pub struct NotXml(pub String);

type Result = std::io::Result<()>;

struct Xml {
    writer: Writer<Cursor<Vec<u8>>>,
}

impl Xml {
    fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) -> Result {
        self.writer
            .create_element(name)
            .with_attributes(attributes.iter().copied())
            .write_empty()?;
        Ok(())
    }

    fn text(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) -> Result {
        let element = self
            .writer
            .create_element(name)
            .with_attributes(attributes.iter().copied());
        element.write_text_content(BytesText::new(text))?;
        Ok(())
    }

    fn within(
        &mut self,
        name: &str,
        attributes: &[(&str, &str)],
        inner: impl FnOnce(&mut Self) -> Result,
    ) -> Result {
        use quick_xml::events::{BytesEnd, BytesStart};
        let start = BytesStart::new(name).with_attributes(attributes.iter().copied());
        self.writer.write_event(Event::Start(start))?;
        inner(self)?;
        self.writer.write_event(Event::End(BytesEnd::new(name)))
    }
}

/// Whether every character of `text` may stand in XML 1.0.
fn fits(text: &str) -> bool {
    text.chars()
        .all(|c| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..))
}

/// The domain of an instance. Its metadata are `meta`.
///
/// # Errors
/// [`NotXml`] for a name with a character that XML can't hold.
pub fn domain(
    spec: &InstanceSpec,
    model: &Model,
    meta: &Metadata,
    ground: &Ground,
) -> std::result::Result<String, NotXml> {
    let paths = ground
        .disks
        .iter()
        .map(|d| d.path.as_str())
        .chain([ground.seed.0.as_str()]);
    let sources = model.networks.iter().map(|n| match &n.source {
        NicSource::Bridge(name) | NicSource::Network(name) => name.as_str(),
    });
    if let Some(bad) = paths.chain(sources).find(|text| !fits(text)) {
        return Err(NotXml(bad.to_owned()));
    }
    let mut xml = Xml {
        writer: Writer::new_with_indent(Cursor::new(Vec::new()), b' ', 2),
    };
    // A Vec takes every write, so the only error there could be does not happen.
    write(&mut xml, spec, model, meta, ground).map_err(|e| NotXml(e.to_string()))?;
    String::from_utf8(xml.writer.into_inner().into_inner()).map_err(|e| NotXml(e.to_string()))
}

fn write(xml: &mut Xml, spec: &InstanceSpec, model: &Model, meta: &Metadata, ground: &Ground) -> Result {
    let is_test = ground.domain_type == "test";
    xml.within("domain", &[("type", ground.domain_type)], |x| {
        x.text("name", &[], &spec.name())?;
        x.text("uuid", &[], &spec.uuid.to_string())?;
        x.text(
            "title",
            &[],
            &format!("instance {} of scale set {}", spec.id, spec.set),
        )?;
        x.within("metadata", &[], |x| {
            let prefix = metadata_xml::PREFIX;
            let namespace = format!("xmlns:{prefix}");
            let facts = metadata_xml::attributes(meta);
            let mut attributes = vec![(namespace.as_str(), metadata_xml::NAMESPACE)];
            attributes.extend(facts.iter().map(|(name, value)| (*name, value.as_str())));
            x.empty(&format!("{prefix}:{}", metadata_xml::ELEMENT), &attributes)
        })?;
        let kib = (model.memory.0 / 1024).to_string();
        x.text("memory", &[("unit", "KiB")], &kib)?;
        x.text("vcpu", &[], &model.vcpus.to_string())?;
        if is_test {
            return x.within("os", &[], |x| x.text("type", &[], "hvm"));
        }
        x.text("iothreads", &[], "1")?;
        x.within("sysinfo", &[("type", "smbios")], |x| {
            x.within("system", &[], |x| {
                x.text("entry", &[("name", "manufacturer")], "vmss")?;
                x.text("entry", &[("name", "product")], spec.set.as_str())?;
                x.text("entry", &[("name", "version")], &spec.revision.to_string())?;
                x.text("entry", &[("name", "serial")], &seed::serial(spec))
            })
        })?;
        let firmware: &[(&str, &str)] = match model.firmware {
            Firmware::Bios => &[],
            Firmware::Uefi => &[("firmware", "efi")],
        };
        x.within("os", firmware, |x| {
            x.text("type", &[("arch", &ground.arch), ("machine", "q35")], "hvm")?;
            x.empty("boot", &[("dev", "hd")])?;
            x.empty("smbios", &[("mode", "sysinfo")])
        })?;
        x.within("features", &[], |x| {
            x.empty("acpi", &[])?;
            x.empty("apic", &[])?;
            x.empty("vmcoreinfo", &[("state", "on")])
        })?;
        match &model.cpu {
            Cpu::HostModel => x.empty("cpu", &[("mode", "host-model")])?,
            Cpu::HostPassthrough => x.empty("cpu", &[("mode", "host-passthrough")])?,
            Cpu::Maximum => x.empty("cpu", &[("mode", "maximum")])?,
            Cpu::Named(name) => x.within("cpu", &[("mode", "custom"), ("match", "exact")], |x| {
                x.text("model", &[], name)
            })?,
        }
        x.empty("clock", &[("offset", "utc")])?;
        x.text("on_poweroff", &[], "destroy")?;
        x.text("on_reboot", &[], "restart")?;
        x.text("on_crash", &[], "destroy")?;
        x.within("devices", &[], |x| devices(x, spec, model, ground))
    })
}

fn devices(x: &mut Xml, spec: &InstanceSpec, model: &Model, ground: &Ground) -> Result {
    for (i, disk) in ground.disks.iter().enumerate() {
        x.within("disk", &[("type", "file"), ("device", "disk")], |x| {
            x.empty(
                "driver",
                &[
                    ("name", "qemu"),
                    ("type", "qcow2"),
                    ("cache", "none"),
                    ("io", "native"),
                    ("discard", "unmap"),
                    ("detect_zeroes", "unmap"),
                    ("iothread", "1"),
                ],
            )?;
            x.empty("source", &[("file", &disk.path)])?;
            x.empty("target", &[("dev", &device(i)), ("bus", "virtio")])?;
            match &disk.serial {
                Some(serial) => x.text("serial", &[], serial),
                None => Ok(()),
            }
        })?;
    }
    let (seed, shared) = &ground.seed;
    x.within("disk", &[("type", "file"), ("device", "disk")], |x| {
        x.empty("driver", &[("name", "qemu"), ("type", "raw")])?;
        x.empty("source", &[("file", seed)])?;
        x.empty(
            "target",
            &[("dev", &device(ground.disks.len())), ("bus", "virtio")],
        )?;
        x.empty("readonly", &[])?;
        if *shared {
            x.empty("shareable", &[])
        } else {
            Ok(())
        }
    })?;
    x.empty("controller", &[("type", "usb"), ("model", "none")])?;
    for (mac, nic) in spec.macs.iter().zip(&model.networks) {
        let (kind, source) = match &nic.source {
            NicSource::Bridge(name) => ("bridge", ("bridge", name.as_str())),
            NicSource::Network(name) => ("network", ("network", name.as_str())),
        };
        x.within("interface", &[("type", kind)], |x| {
            x.empty("mac", &[("address", mac)])?;
            x.empty("source", &[source])?;
            x.empty("model", &[("type", "virtio")])
        })?;
    }
    let log = format!("/var/log/libvirt/qemu/{}.console.log", spec.name());
    x.within("serial", &[("type", "pty")], |x| {
        x.empty("log", &[("file", &log), ("append", "on")])?;
        x.empty("target", &[("port", "0")])
    })?;
    x.within("console", &[("type", "pty")], |x| {
        x.empty("target", &[("type", "serial"), ("port", "0")])
    })?;
    x.within("channel", &[("type", "unix")], |x| {
        x.empty(
            "target",
            &[("type", "virtio"), ("name", "org.qemu.guest_agent.0")],
        )
    })?;
    x.within("rng", &[("model", "virtio")], |x| {
        x.text("backend", &[("model", "random")], "/dev/urandom")
    })?;
    x.within(
        "memballoon",
        &[("model", "virtio"), ("freePageReporting", "on")],
        |x| x.empty("stats", &[("period", "10")]),
    )
}

/// vda, vdb, ...: an instance has far fewer than 26 disks.
fn device(index: usize) -> String {
    let letter = u8::try_from(index)
        .ok()
        .and_then(|i| b'a'.checked_add(i))
        .unwrap_or(b'z');
    format!("vd{}", char::from(letter))
}

/// A volume to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume<'a> {
    /// Its name.
    pub name: &'a str,
    /// `qcow2` or `raw`.
    pub format: &'a str,
    /// Size that its reader sees, in bytes.
    pub capacity: u64,
    /// What it is an overlay on: path and format.
    pub backing: Option<(&'a str, &'a str)>,
}

/// The XML of a volume: thin, and as an overlay with small sub-clusters, so that scattered writes stay small.
pub fn volume(v: &Volume<'_>) -> std::result::Result<String, NotXml> {
    if !fits(v.name) || v.backing.is_some_and(|(path, _)| !fits(path)) {
        return Err(NotXml(v.name.to_owned()));
    }
    let mut xml = Xml {
        writer: Writer::new(Cursor::new(Vec::new())),
    };
    let written = xml.within("volume", &[], |x| {
        x.text("name", &[], v.name)?;
        x.text("capacity", &[("unit", "bytes")], &v.capacity.to_string())?;
        x.text("allocation", &[("unit", "bytes")], "0")?;
        x.within("target", &[], |x| {
            x.empty("format", &[("type", v.format)])?;
            if v.format != "qcow2" {
                return Ok(());
            }
            // Left out, it would mean 0.10.
            x.text("compat", &[], "1.1")?;
            x.text("clusterSize", &[("unit", "KiB")], "128")?;
            x.within("features", &[], |x| x.empty("extended_l2", &[]))
        })?;
        match v.backing {
            None => Ok(()),
            Some((path, format)) => x.within("backingStore", &[], |x| {
                x.text("path", &[], path)?;
                x.empty("format", &[("type", format)])
            }),
        }
    });
    written.map_err(|e| NotXml(e.to_string()))?;
    String::from_utf8(xml.writer.into_inner().into_inner()).map_err(|e| NotXml(e.to_string()))
}

#[cfg(test)]
#[path = "domain_xml_tests.rs"]
mod tests;
