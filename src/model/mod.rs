//! The model: what makes an instance what it is. A change of it is a new revision.

mod changes;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use changes::{Change, Disruption};

use crate::addresses::Subnet;
use crate::names::Label;
use crate::scaleset::AddressRange;
use crate::units::Bytes;

/// SHA-256 of an image file, 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageDigest(pub String);

impl ImageDigest {
    /// The first twelve digits, for people.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

/// Format of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    /// QEMU copy-on-write, version 2 or 3, standing alone.
    Qcow2,
    /// Plain bytes.
    Raw,
}

impl ImageFormat {
    /// The name that libvirt, QEMU and file names use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// An image that was looked at: what it holds, and what it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Content address.
    pub digest: ImageDigest,
    /// Format of the file.
    pub format: ImageFormat,
    /// Size of the disk that a guest sees.
    pub virtual_size: Bytes,
    /// Length of the file.
    pub file_size: Bytes,
}

/// How an OS disk comes from the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clone {
    /// A thin overlay on the host's copy of the image.
    Linked,
    /// A copy of its own.
    Full,
}

/// CPU model of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cpu {
    /// The named model nearest to the host's: can migrate.
    HostModel,
    /// The host's own, unfiltered.
    HostPassthrough,
    /// Everything the hypervisor can offer; what emulation needs.
    Maximum,
    /// A model that libvirt knows by this name.
    Named(String),
}

/// Hardware virtualisation or emulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Virtualization {
    /// KVM where the host offers it, else emulation.
    Auto,
    /// KVM or nothing.
    Kvm,
    /// Emulation (TCG).
    Qemu,
}

/// What the guest boots with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// UEFI, chosen by libvirt's automatic firmware selection.
    Uefi,
}

/// One network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// What it is plugged into.
    pub source: NicSource,
    /// Addresses handed out by vmss; `None` leaves it to DHCP.
    pub addresses: Option<AddressRange>,
    /// Default gateway, only with `addresses`.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers, only with `addresses`.
    pub dns: Vec<Ipv4Addr>,
    /// Where the addresses lie that a guest may tell of the card; empty: anywhere. It says whom vmss believes, and nothing of
    /// the instance: a model has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<Subnet>,
}

/// What a network card is plugged into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicSource {
    /// A bridge of the host.
    Bridge(String),
    /// A libvirt network.
    Network(String),
}

/// One data disk: made empty, kept through a reimage, deleted with the instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataDisk {
    /// Its name, part of the volume's name and the disk's serial in the guest.
    pub name: Label,
    /// Its size.
    pub size: Bytes,
}

/// User data as written, and the values its template may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserData {
    /// The file's text.
    pub template: String,
    /// Values for `vars.*`.
    pub vars: BTreeMap<String, String>,
}

/// What makes an instance what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// The OS image.
    pub image: Image,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory.
    pub memory: Bytes,
    /// OS disk, never smaller than the image's.
    pub disk: Bytes,
    /// Linked or full clone.
    pub clone: Clone,
    /// CPU model.
    pub cpu: Cpu,
    /// Hardware virtualisation or emulation.
    pub virtualization: Virtualization,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// User data, if any.
    pub user_data: Option<UserData>,
    /// Network cards.
    pub networks: Vec<Nic>,
    /// Data disks.
    pub data_disks: Vec<DataDisk>,
}

impl Model {
    /// The model's hash: 16 hex digits over its canonical JSON. Equal models have equal hashes on every machine.
    pub fn hash(&self) -> String {
        let json = serde_json::to_vec(self).expect("a model has only string keys, so it is always JSON");
        let mut hex = String::with_capacity(16);
        for byte in &Sha256::digest(&json)[..8] {
            use std::fmt::Write as _;
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    }
}
