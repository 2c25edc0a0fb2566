//! The domain's XML: a pure function of the instance, its model and what its host is like.

mod devices;
pub mod element;
pub mod metadata;
pub mod moving;

pub use devices::console_log;

use crate::hypervisor::seed::SeedVolume;
use crate::inventory::Metadata;
use crate::model::{Cpu, Firmware, ImageFormat, Model};
use crate::names::volume_name;
use crate::plan::action::InstanceSpec;
use element::{Element, XmlError};

/// What runs a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainType {
    /// Hardware virtualisation.
    Kvm,
    /// Emulation (TCG).
    Qemu,
    /// libvirt's simulation, which runs nothing.
    Test,
}

impl DomainType {
    /// libvirt's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
            Self::Test => "test",
        }
    }
}

/// How a disk's file is opened on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskMode {
    /// Past the host's page cache, with Linux AIO: what a host with real disks wants.
    Direct,
    /// Through the page cache: for file systems without `O_DIRECT` (tmpfs before Linux 6.6, some network mounts).
    Cached,
}

/// What the XML needs to know of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDetails {
    /// What runs the domain.
    pub domain_type: DomainType,
    /// Architecture, "x86_64"; `None` leaves it to libvirt.
    pub arch: Option<String>,
    /// Machine type, "q35"; `None` leaves it to libvirt.
    pub machine: Option<String>,
    /// Folder of the pool, absolute.
    pub pool_path: String,
    /// Folder for console logs that the daemon can write to; `None` for a user's own daemon.
    pub console_folder: Option<String>,
    /// How disks are opened.
    pub disk_mode: DiskMode,
    /// Whether libvirt is 6.9 and QEMU 5.1 or newer, which the balloon's free page reporting takes.
    pub free_page_reporting: bool,
}

/// Name of the OS disk's volume. It ends in its format, as AppArmor's helper wants it.
pub fn os_volume(spec: &InstanceSpec, model: &Model) -> String {
    let extension = match model.clone {
        crate::model::Clone::Linked => ImageFormat::Qcow2,
        crate::model::Clone::Full => model.image.format,
    };
    volume_name(&spec.set, spec.id, spec.uuid, "os", extension.as_str())
}

/// Names of the data disks' volumes, in the model's order.
pub fn data_volumes(spec: &InstanceSpec, model: &Model) -> Vec<String> {
    let name = |disk: &crate::model::DataDisk| {
        volume_name(
            &spec.set,
            spec.id,
            spec.uuid,
            &format!("data-{}", disk.name),
            "qcow2",
        )
    };
    model.data_disks.iter().map(name).collect()
}

/// Every volume the instance owns: deleted with it. A shared seed is nobody's own.
pub fn owned_volumes(spec: &InstanceSpec, model: &Model, seed: &SeedVolume) -> Vec<String> {
    let mut names = vec![os_volume(spec, model)];
    names.extend(data_volumes(spec, model));
    if let SeedVolume::Own(name) = seed {
        names.push(name.clone());
    }
    names
}

/// The domain as it is defined: named, with its UUID, and with `note` in it.
///
/// # Errors
/// A text of the definition (a bridge, a network, a CPU model) holds a character that can't stand in XML.
pub fn domain_xml(
    spec: &InstanceSpec,
    model: &Model,
    seed: &SeedVolume,
    note: &Metadata,
    host: &HostDetails,
) -> Result<String, XmlError> {
    let name = spec.name();
    let note = metadata::embedded(note);
    let mut domain = Element::new("domain")
        .attr("type", host.domain_type.as_str())
        .child(Element::new("name").text(&name))
        .child(Element::new("uuid").text(spec.uuid))
        .child(Element::new("title").text(format!("{} of scale set {}", name, spec.set)))
        .child(
            Element::new("description")
                .text("Managed by vmss: change the scale set's definition, not this domain."),
        )
        .child(Element::new("metadata").child(note))
        .child(kib("memory", model.memory.0))
        .child(kib("currentMemory", model.memory.0))
        .child(Element::new("vcpu").attr("placement", "static").text(model.vcpus));
    let simulated = host.domain_type == DomainType::Test;
    if !simulated {
        domain = domain
            .child(Element::new("iothreads").text(1))
            .child(sysinfo(spec));
    }
    domain = domain.child(os(model, host)).child(features(host));
    if !simulated {
        domain = domain.child(cpu(&model.cpu)).child(clock(host));
    }
    let domain = domain
        .child(Element::new("on_poweroff").text("destroy"))
        .child(Element::new("on_reboot").text("restart"))
        // A crashed guest goes off and is seen as crashed; restarting it is the scale set's decision, not QEMU's.
        .child(Element::new("on_crash").text("destroy"))
        .child(devices::devices(spec, model, seed, host));
    domain.to_xml()
}

fn kib(name: &str, bytes: u64) -> Element {
    Element::new(name).attr("unit", "KiB").text(bytes.div_ceil(1024))
}

/// What the guest reads from its firmware: cloud-init takes its name and id from the serial (NoCloud), anything else
/// may read the set and revision.
fn sysinfo(spec: &InstanceSpec) -> Element {
    let entry = |name: &str, text: String| Element::new("entry").attr("name", name).text(text);
    let name = spec.name();
    let serial = format!("ds=nocloud;h={name};i={}", instance_id(spec));
    Element::new("sysinfo").attr("type", "smbios").child(
        Element::new("system")
            .child(entry("manufacturer", "vmss".to_owned()))
            .child(entry("product", spec.set.to_string()))
            .child(entry("version", spec.revision.to_string()))
            .child(entry("serial", serial)),
    )
}

/// The id cloud-init knows the instance by: a new one makes it run again from the start.
pub fn instance_id(spec: &InstanceSpec) -> String {
    format!("{}-{}", spec.name(), &spec.uuid.simple().to_string()[..8])
}

fn os(model: &Model, host: &HostDetails) -> Element {
    let mut kind = Element::new("type").text("hvm");
    if let Some(arch) = &host.arch {
        kind = kind.attr("arch", arch);
    }
    if let Some(machine) = &host.machine {
        kind = kind.attr("machine", machine);
    }
    let simulated = host.domain_type == DomainType::Test;
    let mut os = Element::new("os");
    let uefi = model.firmware == Firmware::Uefi && !simulated;
    if uefi {
        os = os.attr("firmware", "efi");
    }
    os = os.child(kind);
    if uefi {
        // Secure boot needs signed guests and a machine with SMM; images that need it aren't what UEFI is asked for.
        os = os.child(
            Element::new("firmware").child(
                Element::new("feature")
                    .attr("enabled", "no")
                    .attr("name", "secure-boot"),
            ),
        );
    }
    os = os.child(Element::new("boot").attr("dev", "hd"));
    if !simulated {
        os = os.child(Element::new("smbios").attr("mode", "sysinfo"));
    }
    os
}

fn is_x86(host: &HostDetails) -> bool {
    host.arch.as_deref().is_none_or(|a| a == "x86_64" || a == "i686")
}

fn features(host: &HostDetails) -> Element {
    let mut features = Element::new("features").child(Element::new("acpi"));
    if is_x86(host) {
        features = features.child(Element::new("apic"));
    }
    if host.domain_type != DomainType::Test {
        features = features.child(Element::new("vmcoreinfo").attr("state", "on"));
    }
    features
}

fn cpu(cpu: &Cpu) -> Element {
    let mode = |mode: &str| Element::new("cpu").attr("mode", mode);
    match cpu {
        Cpu::HostModel => mode("host-model").attr("check", "partial"),
        Cpu::HostPassthrough => mode("host-passthrough").attr("check", "none"),
        Cpu::Maximum => mode("maximum").attr("check", "none"),
        Cpu::Named(name) => mode("custom")
            .attr("match", "exact")
            .attr("check", "partial")
            // A host without this model refuses the instance rather than giving it another.
            .child(Element::new("model").attr("fallback", "forbid").text(name)),
    }
}

fn clock(host: &HostDetails) -> Element {
    let timer =
        |name: &str, key: &str, value: &str| Element::new("timer").attr("name", name).attr(key, value);
    let clock = Element::new("clock").attr("offset", "utc");
    if !is_x86(host) {
        return clock;
    }
    clock
        .child(timer("rtc", "tickpolicy", "catchup"))
        .child(timer("pit", "tickpolicy", "delay"))
        .child(timer("hpet", "present", "no"))
}

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
