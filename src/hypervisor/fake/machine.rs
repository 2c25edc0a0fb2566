//! What one host of the fake holds, and the rules its daemon would keep. Nothing here knows of faults or of time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::fault::Faults;
use super::load::Meter;
use crate::inventory::{Metadata, Phase, Power};
use crate::model::{ImageDigest, ImageFormat};
use crate::names::{Label, PoolMark, StoreId};
use crate::units::Bytes;

/// What a host is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeHost {
    /// Logical CPUs.
    pub cpus: u32,
    /// Memory in all.
    pub memory: Bytes,
    /// Size of its pool, which begins empty.
    pub pool_size: Bytes,
    /// Whether it offers hardware virtualisation.
    pub kvm: bool,
    /// Bridges and networks that are missing; every other one is there.
    pub lacks: BTreeSet<String>,
    /// How long its guests take to shut down, in virtual time.
    pub shutdown_takes: Duration,
    /// How long its guests take from their start until they answer a probe, in virtual time.
    pub boot_takes: Duration,
}

impl Default for FakeHost {
    /// 8 CPUs, 16 GiB, a pool of 100 GiB, KVM, nothing missing, guests that are off and on at once.
    fn default() -> Self {
        Self {
            cpus: 8,
            memory: Bytes::gib(16),
            pool_size: Bytes::gib(100),
            kvm: true,
            lacks: BTreeSet::new(),
            shutdown_takes: Duration::ZERO,
            boot_takes: Duration::ZERO,
        }
    }
}

/// A domain, ours or somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Whether it runs.
    pub power: Power,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory.
    pub memory: Bytes,
    /// vmss's note; `None`: it is somebody else's.
    pub meta: Option<Metadata>,
    /// MACs of its network cards.
    pub macs: Vec<String>,
    /// Addresses it got from somebody else than vmss.
    pub leases: Vec<Ipv4Addr>,
    /// Addresses that its guest's agent names; none: those that it was leased, as guests that do not lie.
    pub names: Vec<IpAddr>,
    /// Volumes that its definition names, shared ones too: without one of them it does not start.
    pub disks: Vec<String>,
    /// Volumes that it was started with, and that its definition names no more: a change of one that runs leaves them in its
    /// drives.
    pub held: Vec<String>,
    /// Volumes that its definition names since a change that has not ended, and that it was not started with: they need not be
    /// there yet.
    pub unopened: Vec<String>,
    /// When it was last started, in virtual time.
    pub started_at: Timestamp,
    /// What its guest has said on its console.
    pub console: String,
    /// Whether its guest answers every probe with a failure, until it is started again.
    pub unhealthy: bool,
    /// How its guest's agent is, until it is started again.
    pub agent: Agent,
    /// What was done since it was started.
    pub meter: Meter,
}

/// How a guest's agent is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Agent {
    /// It answers as its guest does.
    #[default]
    Well,
    /// The host has ended its channel and refuses it at once.
    Broken,
    /// It is not connected.
    Absent,
}

impl Domain {
    /// Whether it is switched on, be it paused.
    pub const fn is_active(&self) -> bool {
        !matches!(self.power, Power::Off | Power::Crashed)
    }
}

/// A volume of the pool that is no image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Space it takes.
    pub allocation: Bytes,
    /// Size of the disk that a guest sees.
    pub size: Bytes,
    /// What is in it.
    pub content: Content,
    /// The volume it is an overlay on.
    pub backing: Option<String>,
    /// The image it was made of, as an overlay or as a copy.
    pub image: Option<ImageDigest>,
    /// A number of its own on its host: a volume that was made anew has another.
    pub serial: u64,
}

/// What is in a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A disk.
    Disk,
    /// One instance's seed.
    Seed {
        /// Whether it was written to the end.
        whole: bool,
    },
    /// The seed that a revision's instances share.
    SharedSeed {
        /// Their set.
        set: Label,
        /// The store that had it made.
        store: StoreId,
        /// Their revision.
        revision: u32,
        /// Whether it was written to the end.
        whole: bool,
    },
    /// Somebody else's.
    Foreign,
}

/// A store's copy of an image: a volume, and a mark beside it that says that the volume was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageCopy {
    /// Which image.
    pub digest: ImageDigest,
    /// The store that sent it.
    pub store: StoreId,
    /// Space it takes.
    pub allocation: Bytes,
    /// Whether the volume is there.
    pub is_there: bool,
    /// Whether the mark is there.
    pub is_marked: bool,
    /// Whether somebody has cut it short since it was marked.
    pub is_cut: bool,
}

impl ImageCopy {
    /// Whether instances can be made of it.
    pub const fn is_whole(&self) -> bool {
        self.is_there && self.is_marked
    }
}

/// What every image's volume begins with.
const IMAGE: &str = "vmss-base-";

/// The name of a store's copy of an image.
pub(super) fn copy_name(digest: &ImageDigest, format: ImageFormat, store: StoreId) -> String {
    let tag = &store.0.simple().to_string()[..8];
    format!("{IMAGE}{}-{tag}.{}", digest.0, format.as_str())
}

/// Whether a volume's name is an image's.
pub(super) fn is_copy_name(name: &str) -> bool {
    name.starts_with(IMAGE)
}

/// One host.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub made_of: FakeHost,
    /// Its own UUID.
    pub uuid: Uuid,
    pub faults: Faults,
    /// By name.
    pub domains: BTreeMap<String, Domain>,
    /// By name.
    pub volumes: BTreeMap<String, Volume>,
    /// By volume name.
    pub copies: BTreeMap<String, ImageCopy>,
    /// Marks in the pool.
    pub marks: BTreeSet<PoolMark>,
    /// The folder that its pool shares with others', if it does: volumes, copies and marks are then what the host knew of it
    /// when it looked last.
    pub folder: Option<usize>,
    /// Volumes in a folder that was the pool's once.
    pub elsewhere: BTreeMap<String, Volume>,
    /// Somebody else's domains and volumes as they were when a test put them there.
    pub foreign: (BTreeMap<String, Domain>, BTreeMap<String, Volume>),
    /// Domains as they were when somebody made a snapshot of them.
    pub snapshots: BTreeMap<Uuid, Domain>,
    /// Volumes as they were when somebody made a backup of the pool.
    pub backup: BTreeMap<String, Volume>,
    /// How many volumes were made here so far.
    pub made: u64,
    pub in_flight: usize,
    pub most_in_flight: usize,
}

impl Machine {
    pub fn new(name: &Label, made_of: FakeHost) -> Self {
        Self {
            made_of,
            uuid: Uuid::new_v5(&Uuid::NAMESPACE_DNS, name.as_str().as_bytes()),
            faults: Faults::default(),
            domains: BTreeMap::new(),
            volumes: BTreeMap::new(),
            copies: BTreeMap::new(),
            marks: BTreeSet::new(),
            folder: None,
            elsewhere: BTreeMap::new(),
            foreign: Default::default(),
            snapshots: BTreeMap::new(),
            backup: BTreeMap::new(),
            made: 0,
            in_flight: 0,
            most_in_flight: 0,
        }
    }

    /// What its daemon says of its pool if that is inactive.
    pub fn pool_fault(&self) -> Option<&'static str> {
        self.faults
            .no_pool
            .then_some("storage pool 'default' is not active")
    }

    pub fn pool_free(&self) -> Bytes {
        let disks: Bytes = self.volumes.values().map(|v| v.allocation).sum();
        let copies = self.copies.values().filter(|c| c.is_there);
        let images: Bytes = copies.map(|c| c.allocation).sum();
        self.made_of.pool_size.saturating_sub(disks + images)
    }

    pub fn by_uuid(&self, uuid: Uuid) -> Option<&Domain> {
        self.domains.values().find(|d| d.uuid == uuid)
    }

    pub fn by_uuid_mut(&mut self, uuid: Uuid) -> Option<&mut Domain> {
        self.domains.values_mut().find(|d| d.uuid == uuid)
    }

    /// The volume of a whole copy of the image, the store's own first.
    pub fn whole_copy(&self, digest: &ImageDigest, store: StoreId) -> Option<&str> {
        let whole = || {
            self.copies
                .iter()
                .filter(|(_, c)| c.digest == *digest && c.is_whole())
        };
        whole()
            .find(|(_, c)| c.store == store)
            .or_else(|| whole().next())
            .map(|(name, _)| name.as_str())
    }

    /// Volumes backed by a copy, the domains that own them, and domains that are being made of its image.
    pub fn users(&self, copy: &str) -> Vec<String> {
        let backed: BTreeSet<&str> = (self.volumes.values())
            .filter(|v| v.backing.as_deref() == Some(copy))
            .map(|v| v.name.as_str())
            .collect();
        let digest = self.copies.get(copy).map(|c| &c.digest);
        let needs = |m: &Metadata| {
            m.volumes.iter().any(|v| backed.contains(v.as_str()))
                || (matches!(m.phase, Phase::Creating | Phase::Changing) && Some(&m.image) == digest)
        };
        let domains = self
            .domains
            .values()
            .filter(|d| d.meta.as_ref().is_some_and(needs));
        let mut users: Vec<String> = domains.map(|d| d.name.clone()).collect();
        users.extend(backed.iter().map(|v| (*v).to_owned()));
        users.sort();
        users
    }
}
