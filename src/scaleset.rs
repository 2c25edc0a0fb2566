//! The scale set as meant: the definition validated, units parsed, every default filled in.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::autoscale::Autoscale;
use crate::load_balancer::{Discovery, LoadBalancer};
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
    /// How an instance's health is asked.
    #[serde(default)]
    pub health: Health,
    /// How instances are brought to another model.
    #[serde(default)]
    pub upgrade: Upgrade,
    /// What is done about instances that are unhealthy.
    #[serde(default)]
    pub repair: Repair,
    /// Through what the set is used.
    #[serde(default)]
    pub load_balancer: Option<LoadBalancer>,
    /// Files that tell others where it serves.
    #[serde(default)]
    pub discovery: Vec<Discovery>,
    /// How the set grows and shrinks by itself.
    #[serde(default)]
    pub autoscale: Option<Autoscale>,
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

    /// Whether anybody is told which instances take clients: a load balancer, or others by a file.
    pub fn is_served(&self) -> bool {
        self.load_balancer.is_some() || !self.discovery.is_empty()
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
    /// The address or DNS name at which the set's other hosts reach this one when an instance is moved to it; `None`
    /// leaves that to its libvirt, which names the host's own host name.
    #[serde(default)]
    pub migration_address: Option<String>,
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
    /// Calls in flight per host, 1 to 4, each on a connection of its own.
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
    /// Whether new instances are made protected from scale in (AWS's setting of a group). Those that are there keep
    /// what they have.
    #[serde(default)]
    pub protect_new: bool,
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

/// `[health]`. Azure's ranges, Google's defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What is asked.
    pub probe: Probe,
    /// Time between two probes of an instance, 1 s to 60 s.
    pub interval: Duration,
    /// How long an answer may take, 100 ms to 60 s.
    pub timeout: Duration,
    /// Failures in a row that make a healthy instance unhealthy, 1 to 10.
    pub unhealthy_after: u32,
    /// Successes in a row that make an instance healthy, 1 to 10.
    pub healthy_after: u32,
    /// How long an instance may fail its probe after it was made, started or changed. The first success ends it.
    pub grace_period: Duration,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            probe: Probe::None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            unhealthy_after: 2,
            healthy_after: 2,
            grace_period: Duration::from_secs(600),
        }
    }
}

/// How health is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// Not at all: an instance that runs is healthy.
    None,
    /// The guest agent answers a ping.
    Agent,
    /// A TCP connection can be made.
    Tcp {
        /// The port.
        port: u16,
    },
    /// A GET is answered with 200, or with Azure's rich health state in its body.
    Http {
        /// Whether it is asked over TLS. Certificates are not checked, as no cloud's probe does: an address has none.
        tls: bool,
        /// The port.
        port: u16,
        /// The path, beginning with `/`.
        path: String,
    },
}

/// As operators know it: "http port 80 /healthz".
impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Agent => f.write_str("the guest agent"),
            Self::Tcp { port } => write!(f, "tcp port {port}"),
            Self::Http { tls, port, path } => {
                let scheme = if *tls { "https" } else { "http" };
                write!(f, "{scheme} port {port} {path}")
            }
        }
    }
}

/// A count, or a share of something in per cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Amount {
    /// So many.
    Count(u32),
    /// So many in a hundred.
    Percent(u32),
}

impl Amount {
    /// How many of `total`. A percentage rounds down, but never under 1 unless it is 0 (Azure).
    pub fn of(self, total: usize) -> usize {
        match self {
            Self::Count(n) => n as usize,
            Self::Percent(0) => 0,
            Self::Percent(p) => (total.saturating_mul(p as usize) / 100).max(1),
        }
    }

    /// Whether it is nothing, whatever of.
    pub const fn is_zero(self) -> bool {
        matches!(self, Self::Count(0) | Self::Percent(0))
    }
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(n) => write!(f, "{n}"),
            Self::Percent(p) => write!(f, "{p} %"),
        }
    }
}

/// `[upgrade]`. Azure's names and defaults, Google's surge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade {
    /// When instances are brought to a new model.
    pub policy: UpgradePolicy,
    /// By what.
    pub method: Method,
    /// Most instances changed at once, of the set.
    pub max_batch: Amount,
    /// Most instances above capacity at any moment; only replacing uses them.
    pub max_surge: Amount,
    /// Most instances below capacity that may not be healthy on the rollout's account at any moment.
    pub max_unavailable: Amount,
    /// Most unhealthy instances before a batch; those that this very upgrade is due to change don't count.
    pub max_unhealthy: Amount,
    /// Most unhealthy instances among those upgraded, after a batch.
    pub max_unhealthy_upgraded: Amount,
    /// Time between two batches.
    pub pause: Duration,
    /// How long an upgraded instance must have been healthy before the batch counts as done.
    pub min_ready: Duration,
    /// Once so many are upgraded the rollout holds for `checkpoint_pause` (AWS); from few to many.
    #[serde(default)]
    pub checkpoints: Vec<Amount>,
    /// How long it holds at a checkpoint; zero: until it is resumed.
    #[serde(default = "an_hour")]
    pub checkpoint_pause: Duration,
    /// How long the upgraded instances are watched after the last batch before the rollout counts as done (AWS).
    #[serde(default)]
    pub bake: Duration,
    /// How long a batch may take.
    pub batch_timeout: Duration,
    /// Whether every unhealthy instance is upgraded before any healthy one.
    pub prioritize_unhealthy: bool,
    /// What happens when a batch fails or takes too long.
    pub on_failure: OnFailure,
    /// What happens to instances that are protected from everything, or stopped.
    pub protected: Unwilling,
}

impl Default for Upgrade {
    fn default() -> Self {
        let fifth = Amount::Percent(20);
        Self {
            policy: UpgradePolicy::Rolling,
            method: Method::Auto,
            max_batch: fifth,
            max_surge: Amount::Count(0),
            max_unavailable: fifth,
            max_unhealthy: fifth,
            max_unhealthy_upgraded: fifth,
            pause: Duration::ZERO,
            min_ready: Duration::ZERO,
            checkpoints: Vec::new(),
            checkpoint_pause: an_hour(),
            bake: Duration::ZERO,
            batch_timeout: Duration::from_secs(900),
            prioritize_unhealthy: true,
            on_failure: OnFailure::Stop,
            protected: Unwilling::Skip,
        }
    }
}

const fn an_hour() -> Duration {
    Duration::from_secs(3600)
}

/// When instances are brought to a new model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpgradePolicy {
    /// When `vmss upgrade` says so; until then they are outdated.
    Manual,
    /// Batch by batch, as soon as the model is applied.
    Rolling,
    /// All at once, as soon as the model is applied.
    Automatic,
}

/// By what an instance is brought to a new model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The least disruptive that the change allows.
    Auto,
    /// The same instance with a new OS disk.
    Reimage,
    /// Another instance.
    Replace,
}

/// What happens when a rollout fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// It stops where it is.
    Stop,
    /// What was upgraded goes back.
    Rollback,
}

/// What a rollout does about instances that are protected from everything, or stopped (AWS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unwilling {
    /// They stay as they are and are counted.
    Skip,
    /// The rollout waits for them, for an hour.
    Wait,
    /// They are upgraded like any other.
    Include,
}

/// `[repair]`. Azure's rules: off unless enabled. What is off or has crashed is started in any case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// Whether anything is repaired without being asked for (`vmss repair`).
    pub enabled: bool,
    /// By what.
    pub action: RepairAction,
    /// How long an instance must have been unhealthy, or off and not to be started, 1 min to 90 min.
    pub grace_period: Duration,
    /// Most instances repaired at once, those that are starting after it among them; one at least.
    pub max_concurrent: Amount,
    /// More unhealthy instances than this look like an outage: then none is repaired and no host given up. Those out of
    /// sight count unless they still answer.
    pub max_unhealthy: Amount,
    /// How long a host must have been out of sight, whenever anybody looked, before its instances are replaced
    /// elsewhere. Those that still answer a probe over the network (tcp, http, https) are left alone; with the probes
    /// none and agent nobody can ask them, and this time alone decides. A host that comes back after that has its
    /// instances deleted.
    pub host_lost_after: Duration,
}

impl Default for Repair {
    fn default() -> Self {
        Self {
            enabled: false,
            action: RepairAction::Replace,
            grace_period: Duration::from_secs(600),
            max_concurrent: Amount::Percent(5),
            max_unhealthy: Amount::Percent(50),
            host_lost_after: Duration::from_secs(900),
        }
    }
}

/// By what an instance is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RepairAction {
    /// Shut down, or switched off if its guest answers nothing, and started.
    Restart,
    /// The same instance with a new OS disk of its own revision.
    Reimage,
    /// Another instance of its revision.
    Replace,
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
