//! The scale set as meant: the definition validated, units parsed, every default filled in.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Clone as CloneMode, Cpu, DataDisk, Firmware, Nic, Virtualization};
use crate::names::Label;
use crate::units::Bytes;

/// A validated scale set. Serialised into the record, so that a set can be looked at without its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleSet {
    /// The set's name; instances are `<name>-<id>`.
    pub name: Label,
    /// Capacity for the first create. Afterwards the record holds the capacity.
    pub capacity: u32,
    /// Where the OS image comes from.
    pub image: ImageSource,
    /// What an instance is made of, before the image is looked at.
    pub instance: Instance,
    /// Groups of hosts that fail together, in declared order. Never empty, no host twice.
    pub fault_domains: Vec<FaultDomain>,
    /// Rules of placement.
    pub placement: Placement,
    /// How much vmss may ask of a host at once, and how long it waits.
    pub limits: Limits,
    /// Who goes first, and how, when the set shrinks.
    pub scale_in: ScaleIn,
    /// Where the record is kept.
    pub state: State,
}

impl ScaleSet {
    /// Every host with the name of its fault domain, in declared order.
    pub fn hosts(&self) -> impl Iterator<Item = (&Label, &Host)> {
        self.fault_domains
            .iter()
            .flat_map(|d| d.hosts.iter().map(move |h| (&d.name, h)))
    }

    /// The host of that name.
    pub fn host(&self, name: &Label) -> Option<&Host> {
        self.hosts().map(|(_, h)| h).find(|h| &h.name == name)
    }
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageSource {
    /// A local file, absolute (relative ones were taken from the definition's folder). The digest, if given, is checked.
    File {
        /// Path of the file.
        path: PathBuf,
        /// SHA-256 the file must have, lower-case hex.
        sha256: Option<String>,
    },
    /// An http(s) URL; the digest is what makes it trustworthy, so it must be given.
    Url {
        /// The address.
        url: String,
        /// SHA-256 the download must have, lower-case hex.
        sha256: String,
    },
}

/// The `[instance]` section: the model as far as the definition alone tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Virtual CPUs, 1 or more.
    pub vcpus: u32,
    /// Memory.
    pub memory: Bytes,
    /// OS disk; `None` means the image's own size.
    pub disk: Option<Bytes>,
    /// Linked or full clone of the image.
    pub clone: CloneMode,
    /// CPU model.
    pub cpu: Cpu,
    /// Hardware virtualisation or emulation.
    pub virtualization: Virtualization,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// Path of the user data file, absolute. Read when a model is made of it.
    pub user_data: Option<PathBuf>,
    /// Values for `vars.*` in the user data template, sorted by key.
    pub vars: std::collections::BTreeMap<String, String>,
    /// Network cards in order; at most 8.
    pub networks: Vec<Nic>,
    /// Data disks in order; names unique.
    pub data_disks: Vec<DataDisk>,
}

/// Hosts that fail together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultDomain {
    /// Its name.
    pub name: Label,
    /// Its hosts in declared order; at least one.
    pub hosts: Vec<Host>,
}

/// One libvirt connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name in messages, plans and metadata.
    pub name: Label,
    /// A libvirt URI that passed the allow-list of schemes and parameters.
    pub uri: String,
    /// Storage pool for images, disks and seeds.
    pub pool: String,
}

/// `[placement]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// What happens when a fault domain is full or down.
    pub spread: Spread,
    /// Largest difference of instances between two fault domains that `strict` accepts; 1 or more.
    pub max_skew: u32,
    /// Virtual CPUs a host may carry per CPU it has.
    pub vcpu_overcommit: f64,
    /// Memory kept free on every host.
    pub memory_reserve: Bytes,
    /// Space kept free in every pool, beyond what full clones and images take. Linked clones and data disks are
    /// thin: they grow as guests write, and this reserve is what they grow into.
    pub pool_reserve: Bytes,
}

/// How strictly instances are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// Fill what is left when a domain is full or down.
    BestEffort,
    /// Refuse to exceed `max_skew`.
    Strict,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Calls in flight per host, 1 to 4 (libvirtd serves 5 of one client at once, and keepalive needs one).
    pub calls_per_host: u32,
    /// Instances being created or started at once per host; 1 to `calls_per_host`.
    pub starts_per_host: u32,
    /// How long one call may take before the host counts as hung.
    pub call_timeout: Duration,
}

/// `[scale_in]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleIn {
    /// Who goes first among equals.
    pub policy: ScaleInPolicy,
    /// How long a guest may take to shut down before it is switched off; zero switches it off at once.
    pub shutdown: Duration,
}

/// Which of several equal instances goes first (Azure's names).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScaleInPolicy {
    /// Highest id first.
    Default,
    /// Youngest first.
    Newest,
    /// Oldest first.
    Oldest,
}

/// `[state]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Path of the SQLite file; `None` means the user's state folder.
    pub path: Option<PathBuf>,
}

/// A range of addresses that vmss hands out, with what a guest needs to use one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRange {
    /// First address handed out.
    pub first: Ipv4Addr,
    /// Last address handed out; not before `first`, in the same subnet.
    pub last: Ipv4Addr,
    /// Length of the subnet's prefix.
    pub prefix: u8,
}

impl AddressRange {
    /// Addresses in the range, in order.
    pub fn iter(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        (u32::from(self.first)..=u32::from(self.last)).map(Ipv4Addr::from)
    }
}
