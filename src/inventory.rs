//! The inventory: what was seen on the hosts at one moment, and what could not be seen.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::addresses::{OffLimits, Told};
pub use crate::answer::Answer;
use crate::epoch::Epoch;
use crate::membership::BalancerView;
use crate::model::ImageDigest;
use crate::names::{InstanceId, Label, PoolMark, StoreId, VolumeName};
use crate::ownership::Odd;
use crate::units::Bytes;

/// All hosts of a set, in any order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// One entry per host of the set.
    pub hosts: Vec<HostView>,
    /// What instances said to their probe; only those that were asked.
    #[serde(default)]
    pub answers: BTreeMap<InstanceId, Answer>,
    /// Where instances answered well over the network; without a probe over it, where those are reached that have no address
    /// from vmss.
    #[serde(default)]
    pub reached: BTreeMap<InstanceId, Vec<IpAddr>>,
    /// What hosts were told of the addresses of instances that have none from vmss.
    #[serde(default)]
    pub told: BTreeMap<InstanceId, Vec<Told>>,
    /// Addresses that are somebody else's.
    #[serde(default)]
    pub off_limits: OffLimits,
    /// The set's load balancers.
    #[serde(default)]
    pub balancers: Vec<BalancerView>,
    /// What looks like the set's and is no member, once it was sorted out ([`crate::ownership::sort_out`]).
    #[serde(default)]
    pub odd: Odd,
}

impl Inventory {
    /// The host of that name.
    pub fn host(&self, name: &Label) -> Option<&HostView> {
        self.hosts.iter().find(|h| &h.name == name)
    }

    /// Names of the hosts that were seen.
    pub fn seen_hosts(&self) -> HashSet<&Label> {
        self.hosts
            .iter()
            .filter(|h| h.seen().is_some())
            .map(|h| &h.name)
            .collect()
    }

    /// Every instance that was seen.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.hosts
            .iter()
            .filter_map(HostView::seen)
            .flat_map(|h| h.instances.iter())
    }
}

/// One host, seen or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostView {
    /// Its name.
    pub name: Label,
    /// What was seen of it.
    pub view: View,
}

impl HostView {
    /// What was seen, if anything was.
    pub fn seen(&self) -> Option<&HostSeen> {
        match &self.view {
            View::Seen(seen) => Some(seen),
            View::Unseen { .. } => None,
        }
    }
}

/// What was seen of a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each host, and nearly every host is seen"
)]
pub enum View {
    /// It answered.
    Seen(HostSeen),
    /// It did not answer: it may be dead, or only out of reach.
    Unseen {
        /// Why, in a sentence fit for an operator.
        reason: String,
    },
}

/// What a host said of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostSeen {
    /// Logical CPUs.
    pub cpus: u32,
    /// Memory in all.
    pub memory: Bytes,
    /// Virtual CPUs promised to domains: every running one, and every one of ours.
    pub used_vcpus: u32,
    /// Memory promised to domains: every running one, and every one of ours.
    pub used_memory: Bytes,
    /// The host's own UUID, if it tells one.
    #[serde(default)]
    pub uuid: Option<Uuid>,
    /// A number made of the UUIDs of all its domains, whosever they are: of one libvirtd that is asked under two names it is
    /// the same.
    #[serde(default)]
    pub domains: u64,
    /// Why its pool could not be seen, if it could not: its domains can be all the same. Of the pool nothing is told then.
    #[serde(default)]
    pub pool_unseen: Option<String>,
    /// Free space of the pool.
    pub pool_free: Bytes,
    /// Marks of stores and hosts that use the pool's folder, as far as the host knows of them: it learns of what another host
    /// has written with its next refresh.
    #[serde(default)]
    pub marks: BTreeSet<PoolMark>,
    /// Images that are whole and verified in the pool.
    pub bases: BTreeSet<ImageDigest>,
    /// Images of which only remains are there: a push or a deletion of this store's was cut short.
    pub remains: BTreeSet<ImageDigest>,
    /// The set's instances: members, those of other stores, what was given up with its host, and what is half made or half
    /// deleted. Before it was sorted out, every domain with a note of this set that has an instance's name or UUID.
    pub instances: Vec<Instance>,
    /// Domains that have an instance's name but no note of the set.
    pub foreign: Vec<InstanceId>,
    /// Domains that look like the set's and have no note that says which instance they are.
    #[serde(default)]
    pub nameless: Vec<Nameless>,
    /// Volumes that have the name of one of an instance's of this set, whosever they are.
    #[serde(default)]
    pub volumes: Vec<VolumeName>,
    /// Revisions whose shared seed lies in the pool, with the volume's name.
    pub seeds: Vec<(u32, String)>,
}

impl HostView {
    /// Why it is out of sight, or its pool is; `None` if both were seen.
    pub fn unseen(&self) -> Option<&str> {
        match &self.view {
            View::Seen(seen) => seen.pool_unseen.as_deref(),
            View::Unseen { reason } => Some(reason),
        }
    }
}

impl HostSeen {
    /// Names of volumes that have the name of an instance's of the set, and are of none that was seen on this host.
    pub fn unowned(&self) -> Vec<String> {
        let is_owned = |v: &VolumeName| self.instances.iter().any(|i| v.is_of(i.id, i.uuid));
        let unowned = self.volumes.iter().filter(|v| !is_owned(v));
        unowned.map(|v| v.name.clone()).collect()
    }
}

/// A domain that has an instance's UUID and no note of the set, or a note of the set that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Nameless {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Whether it is switched on.
    pub runs: bool,
    /// Whether it has a note of the set, or of nobody knows which, that can't be read.
    pub is_garbled: bool,
}

/// One instance as its domain tells it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id, as its note says.
    pub id: InstanceId,
    /// Its domain's name.
    pub name: String,
    /// Its domain's UUID.
    pub uuid: Uuid,
    /// Running or not.
    pub power: Power,
    /// Virtual CPUs that its domain has.
    pub vcpus: u32,
    /// What its metadata says.
    pub meta: Metadata,
}

impl Instance {
    /// Whether it is the copy of an instance that is being moved here, and has not run here yet.
    pub fn is_arriving(&self) -> bool {
        self.meta.moving_to.as_ref() == Some(&self.meta.host)
    }

    /// A volume in its note that has the name of another instance's: what vmss writes names none, so that the note was copied.
    pub fn anothers_disk(&self) -> Option<&str> {
        let is_anothers = |name: &&String| {
            VolumeName::parse(&self.meta.set, name).is_some_and(|v| !v.is_of(self.id, self.uuid))
        };
        self.meta.volumes.iter().find(is_anothers).map(String::as_str)
    }
}

/// Whether a domain runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// It runs.
    Running,
    /// Its CPUs are stopped (by someone, or by an I/O error such as a full disk).
    Paused,
    /// Shutting down by its own will.
    ShuttingDown,
    /// Off.
    Off,
    /// Off because it crashed.
    Crashed,
}

/// How far an instance's life has come, as its own metadata says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Being made: if nobody is at it any more, it is half an instance and will be undone.
    Creating,
    /// Whole.
    Ready,
    /// Being changed in place (restarted with another definition, or reimaged). Counted, for it keeps its id and its
    /// data disks; if nobody is at it any more, the change goes on.
    Changing,
    /// Being deleted: never counted, deletion goes on.
    Deleting,
}

/// The facts kept in the domain's own metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The set it belongs to.
    pub set: Label,
    /// Its id in the set.
    pub id: InstanceId,
    /// The store that manages it.
    pub store: StoreId,
    /// The fault domain it was placed in.
    pub fault_domain: Label,
    /// The host it was placed on, by its name in the definition.
    pub host: Label,
    /// Revision of the model it was made of.
    pub revision: u32,
    /// Hash of that model.
    pub model_hash: String,
    /// The image its disk is backed by or was copied from.
    pub image: ImageDigest,
    /// When it was made.
    pub created_at: Timestamp,
    /// How far its life has come.
    pub phase: Phase,
    /// Addresses vmss gave it, in the order of its network cards; `None` where DHCP decides.
    pub addresses: Vec<Option<Ipv4Addr>>,
    /// Volumes it owns: deleted with it.
    pub volumes: Vec<String>,
    /// What it is protected from.
    #[serde(default)]
    pub protection: Protection,
    /// Whether an operator has stopped it on purpose: then it is neither started nor repaired.
    #[serde(default)]
    pub stopped: bool,
    /// How it is being changed, in phase changing: whoever goes on with the change does no less.
    #[serde(default)]
    pub rework: Option<Rework>,
    /// The host that its running guest is being moved to. Where that is another host than the note's own, the instance
    /// is leaving; where it is the note's own, it is arriving: all of it is there, and it has not run there yet. If
    /// nobody is at it any more, it is settled which of the two has it, before anything else is done to it.
    #[serde(default)]
    pub moving_to: Option<Label>,
    /// The epoch of the record under which the note was written; `None` in notes of versions that knew none.
    #[serde(default)]
    pub epoch: Option<Epoch>,
}

/// How an instance is changed in place, from the least to the most: each does what those before it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rework {
    /// While its guest runs: disks grow.
    Live,
    /// Shut down, defined anew, started: CPUs, memory, cards, more data disks; disks grow too.
    Restart,
    /// As a restart, with a new OS disk (and seed) made of the model's image.
    Reimage,
}

impl Rework {
    /// The verb for people.
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Live => "update",
            Self::Restart => "restart",
            Self::Reimage => "reimage",
        }
    }
}

/// What an instance is protected from (Azure's two instance protections, AWS's scale-in protection).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// Nothing.
    #[default]
    None,
    /// It is never chosen when the set shrinks.
    ScaleIn,
    /// Scale-in, upgrade, reimage, restart and repair leave it alone.
    All,
}
