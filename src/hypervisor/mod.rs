//! `Hypervisor`: one host. Plain data in and out; pools, volumes, XML and flags stay below it.
//!
//! Every method is idempotent: making what is there and deleting what is gone both succeed. Every method that takes a
//! [`Pulse`] beats it between calls, so that the caller can tell a slow host from a hung one, and stops at the next
//! safe point once the pulse is cancelled. No method panics on what a host answers.

pub mod domain_xml;
pub mod fake;
pub mod libvirt;
pub mod meter;
mod pulse;
pub mod seed;
mod stats;
mod uses;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::addresses::Told;
use crate::inventory::{HostSeen, Protection};
use crate::model::{Image, ImageDigest, Model};
use crate::names::{Label, PoolMark, StoreId};
use crate::plan::action::{InstanceRef, InstanceSpec};
use crate::scaleset::{Host, Limits};
use crate::units::Bytes;

pub use crate::inventory::Rework;
pub use pulse::{News, Pulse, Stage};
pub use stats::{CpuStats, DiskStats, Groups, InstanceStats, MemoryStats, NetworkStats};
pub use uses::{User, Uses, Watch};

/// Opens hosts. Opening does not wait: a connection is made by the first call that needs it.
pub trait Hosts: Send + Sync {
    /// The host that `host` describes.
    fn host(&self, host: &Host, limits: &Limits) -> Arc<dyn Hypervisor>;

    /// Moves a running instance to another host while its guest goes on: its disks are copied, its domain is defined
    /// there and gone here afterwards, with the volumes it had. The hosts share no storage; the target has the image.
    /// `spec` is the instance as it will be there: the same instance of the same revision, with the target's host and
    /// fault domain. `model` is that revision's. MACs, addresses, protection and the content of every disk stay; a
    /// seed of its own is made anew, as the next start shall find it.
    ///
    /// It goes in this order, so that whatever breaks in between leaves one copy that runs, or one that is held and
    /// no other that runs, and [`Self::settle`] tells which:
    ///
    /// 1. What can be refused is refused: not running, of another revision, on storage that both hosts share, without
    ///    its image or room there, with a disk that is not vmss's, with UEFI (its variables would stay behind), or where
    ///    a volume of the name of one of its own is: whoever put it there may use it.
    /// 2. Its note here says where it is moving to. From now on nothing starts, stops or changes it.
    /// 3. The target gets empty volumes of the same names and sizes, the OS disk's over the target's own copy of the
    ///    image, and the seed. Cut short here, these are volumes without a domain, as any other.
    /// 4. The guest goes over. Its domain there has a note of its own, which says that it is arriving, and is
    ///    held: before this point it is libvirt's to lose (it goes when the connection does), after it it is defined.
    ///    The guest here is held when the last of its memory is sent, and goes when libvirt knows that all arrived.
    /// 5. Only once its domain here is gone its guest goes on there. Its note there says no more that it is arriving,
    ///    and the volumes here are deleted. Cut short here, these are volumes without a domain again.
    ///
    /// A failure, or the operator's wish to stop, leads through [`Self::settle`] as well: the guest goes on here, the
    /// target is as it was, and the note is as it was. Called again after it was cut short, it settles that first.
    ///
    /// # Errors
    /// `Other` if it is not whole or not running; `Missing` if it is gone, or its image is not whole on the target;
    /// `NotOurs` if the target has a domain or a volume of its name; `Unsupported` if it or one of the hosts can't be part of this; `NoSpace`; `TimedOut` if no byte was moved for as
    /// long as one call may take; `Cancelled`. If one of the hosts went out of reach it may be on either.
    #[expect(
        clippy::too_many_arguments,
        reason = "two hosts, and the instance as it is and as it will be"
    )]
    fn migrate(
        &self,
        from: &Host,
        to: &Host,
        limits: &Limits,
        instance: &InstanceRef,
        spec: &InstanceSpec,
        model: &Model,
        pulse: &Pulse,
    ) -> Result<(), HypervisorError>;

    /// Puts a migration right that was cut short: afterwards the instance is on exactly one of the two hosts, whole,
    /// and its note says nothing of moving. Nothing that was not begun is begun. Both hosts must be in reach, for what
    /// one of them shows can mean either.
    ///
    /// The copy that ran last is the one that stays. One that is held here because all of it has been sent goes on
    /// there if all of it has arrived, and here if not; one that runs or is off here has never run there, since its
    /// guest goes on there only once this domain is gone.
    ///
    /// # Errors
    /// `Missing` if it is on neither; `Other` if it is on both without being moved, or runs on both, which vmss never
    /// brings about: then both are left alone. What the hosts say, if one can't be reached.
    fn settle(
        &self,
        from: &Host,
        to: &Host,
        limits: &Limits,
        instance: &InstanceRef,
        pulse: &Pulse,
    ) -> Result<Settled, HypervisorError>;
}

/// Where an instance is, once a migration that was cut short is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Where it was.
    Stayed,
    /// Where it was to go.
    Moved,
}

/// One libvirt host (or the fake of one).
pub trait Hypervisor: Send + Sync {
    /// What the host is and can do, for `host list` and `check`.
    fn facts(&self) -> Result<HostFacts, HypervisorError>;

    /// What is there of the set that is watched, with the host's room and images. One pass, no per-volume calls. Notes are read
    /// of domains that have an instance's name, or the UUID of one; of others it is only seen whether they run. A pool that
    /// can't be seen hides nothing but itself ([`HostSeen::pool_unseen`]).
    fn observe(&self, watch: &Watch) -> Result<HostSeen, HypervisorError>;

    /// Leaves the mark in the pool; one that is there already is left as it is. The pool is looked at anew: marks that others have
    /// left before show from now on.
    fn mark_pool(&self, mark: &PoolMark) -> Result<(), HypervisorError>;

    /// Takes the mark out of the pool; none there is fine.
    fn unmark_pool(&self, mark: &PoolMark) -> Result<(), HypervisorError>;

    /// Marks in a pool of that name, by what the host knows without looking at the folder again.
    fn marks(&self, pool: &str) -> Result<BTreeSet<PoolMark>, HypervisorError>;

    /// Which files the host's domains need: by their live, inactive and snapshot XML, and what volumes are backed by. Has the
    /// host look at its pool's folder again first.
    ///
    /// # Errors
    /// The pool can't be refreshed, or the lists can't be read: then nothing can be proved, and nothing may be deleted.
    fn uses(&self, pulse: &Pulse) -> Result<Uses, HypervisorError>;

    /// Brings the instance's note level with the record: on `host`, in `fault_domain`, whole, and on its way nowhere. Nothing else
    /// is changed.
    ///
    /// # Errors
    /// `Missing` if it is gone; `NotOurs` if another store manages it.
    fn renote(
        &self,
        instance: &InstanceRef,
        host: &Label,
        fault_domain: &Label,
    ) -> Result<(), HypervisorError>;

    /// Sends the image to the pool unless a whole one is there. Under a name no reader takes for whole until the
    /// bytes were read back and found right; what a broken attempt of this store left is replaced.
    fn push_image(
        &self,
        image: &LocalImage,
        store: StoreId,
        pulse: &Pulse,
    ) -> Result<Pushed, HypervisorError>;

    /// Images in the pool, with what uses them; half-sent ones too.
    fn images(&self) -> Result<Vec<StoredImage>, HypervisorError>;

    /// Deletes the copies of the image that one of `stores` has sent, whole or not. `Ok(false)` if anything on the host
    /// is backed by one: then it stays. Copies that other stores have sent are theirs.
    fn delete_image(&self, digest: &ImageDigest, stores: &[StoreId]) -> Result<bool, HypervisorError>;

    /// Makes and starts an instance: domain first (its metadata is the note of intent that makes every later step
    /// recoverable), then its volumes and seed, then the start, then its phase becomes ready.
    /// On an error whatever was made is left, marked as being created; the caller undoes it with [`Self::delete`].
    fn create(&self, spec: &InstanceSpec, model: &Model, pulse: &Pulse) -> Result<(), HypervisorError>;

    /// Starts an instance that is off, and takes back the note that it was stopped on purpose. One that runs is left
    /// alone.
    ///
    /// # Errors
    /// `Missing` if it is gone; `NotOurs` if another store manages it; `Other` if it is half made, half changed or half
    /// deleted.
    fn start(&self, instance: &InstanceRef) -> Result<(), HypervisorError>;

    /// Changes an instance in place to `spec`'s revision and `model`. It keeps id, name, UUID, MACs, host, fault domain,
    /// time of creation, protection, and the content of its data disks; its addresses are `spec`'s, whose maker hands
    /// on those that it has. Disks never shrink. One that was stopped on purpose is changed and stays off; with
    /// [`Rework::Live`] power stays as it is.
    ///
    /// Its note comes first: in phase changing, with what the instance is to become and every volume that it has or
    /// will have. What can be refused (the image is not whole, the host can't run it) is refused next, while its guest
    /// still runs, and then the old note comes back. After that the change only goes forward: whatever breaks leaves
    /// the instance in phase changing, for another call to finish, be it for another revision, or for
    /// [`Self::delete`]. A call that goes on with a change does no less than the one that began it.
    ///
    /// # Errors
    /// `Missing` if the instance is gone, or its image is not whole, or a disk of it that it is to keep is not in the pool:
    /// somebody has it elsewhere, and an empty one in its place would be another; `NotOurs` if another store manages it;
    /// `Other` if it is half made or half deleted.
    fn rework(
        &self,
        spec: &InstanceSpec,
        model: &Model,
        how: Rework,
        shutdown: Duration,
        uses: &Uses,
        pulse: &Pulse,
    ) -> Result<(), HypervisorError>;

    /// Notes that the instance was stopped on purpose, shuts its guest down as [`Self::delete`] does, and switches it
    /// off after `shutdown`. One that is off already only gets the note.
    ///
    /// # Errors
    /// As [`Self::start`].
    fn stop(&self, instance: &InstanceRef, shutdown: Duration, pulse: &Pulse) -> Result<(), HypervisorError>;

    /// Shuts the guest down (zero: switches it off at once), and starts it again, as it was defined, also if it was off
    /// or stopped on purpose. Cut short in between it leaves an instance that is off and should run.
    ///
    /// # Errors
    /// As [`Self::start`].
    fn restart(
        &self,
        instance: &InstanceRef,
        shutdown: Duration,
        pulse: &Pulse,
    ) -> Result<(), HypervisorError>;

    /// Notes what the instance is protected from.
    ///
    /// # Errors
    /// `Missing` if it is gone; `NotOurs` if another store manages it.
    fn protect(&self, instance: &InstanceRef, protection: Protection) -> Result<(), HypervisorError>;

    /// Whether its guest agent answers.
    ///
    /// # Errors
    /// What happened instead: `NotRunning`; `AgentAbsent`; `AgentBroken` if the host refuses it at once; `AgentSilent` if
    /// there was no answer within 2 s; `Other` if the agent's answer is none; `Missing` if the instance is gone; `NotOurs` if
    /// another store manages it. All others say that the host could not ask.
    fn ping(&self, instance: &InstanceRef) -> Result<(), HypervisorError>;

    /// Runs a command in the guest through its agent, without a shell, and waits until it has ended, for `patience` at
    /// most. One that has not ended by then, or when the pulse is cancelled, goes on in the guest. Of what it writes, the
    /// first [`MOST_OUTPUT`] bytes of each stream are returned: more would break the agent.
    ///
    /// # Errors
    /// As [`Self::ping`]; `Other` if the agent can't or may not run it; `GoesOn` if it has not ended within `patience`.
    fn exec(
        &self,
        instance: &InstanceRef,
        command: &[String],
        patience: Duration,
        pulse: &Pulse,
    ) -> Result<Ran, HypervisorError>;

    /// Connects `viewer` to the instance's serial console until either end hangs up. `force` takes it from whoever has
    /// it open.
    ///
    /// # Errors
    /// `Other` if the instance is not running, or somebody else has its console open; `Unsupported` if the host has no
    /// consoles; `Missing` if it is gone; `NotOurs` if another store manages it.
    fn console(
        &self,
        instance: &InstanceRef,
        force: bool,
        viewer: &mut dyn Viewer,
    ) -> Result<(), HypervisorError>;

    /// What the guest has said on its serial console, as the host has kept it, at most the `last` bytes of it. An instance
    /// that is off or has crashed has a log as well; it goes with the instance, and one that moves to another host begins
    /// a new one there.
    ///
    /// # Errors
    /// `Missing` if the instance or its log is not there; `Unsupported` if the host keeps none; `NotOurs` if another
    /// store manages it; `Cancelled`.
    fn console_log(
        &self,
        instance: &InstanceRef,
        last: Bytes,
        pulse: &Pulse,
    ) -> Result<ConsoleLog, HypervisorError>;

    /// Shows what is added to the log after `from`, where [`ConsoleLog::end`] was, until the pulse is cancelled or the
    /// instance is gone.
    ///
    /// # Errors
    /// As [`Self::console_log`], but that being cancelled is none.
    fn follow_console_log(
        &self,
        instance: &InstanceRef,
        from: u64,
        pulse: &Pulse,
        show: &mut dyn FnMut(&[u8]),
    ) -> Result<(), HypervisorError>;

    /// Marks the instance, whole or half made or half changed, as being deleted, asks its guest to shut down (agent if connected, else ACPI, again every
    /// 10 s), switches it off after `shutdown`, deletes the volumes it owns, its console log and last its domain, so that nothing is
    /// ever left without the note that says whose it is.
    ///
    /// # Errors
    /// `InUse` if `uses` speaks against one of its volumes: then nothing at all is done.
    fn delete(
        &self,
        instance: &InstanceRef,
        shutdown: Duration,
        uses: &Uses,
        pulse: &Pulse,
    ) -> Result<(), HypervisorError>;

    /// Takes away a copy of an instance that lives on another host, or one that was given up: asks its guest to shut down,
    /// switches it off if it has not within `shutdown`, and deletes its console log and its domain. All of its volumes stay, for
    /// the other copy may use the very same. One that is gone is fine.
    ///
    /// # Errors
    /// `NotOurs` if another store manages it, or it has another name.
    fn drop_copy(
        &self,
        instance: &InstanceRef,
        shutdown: Duration,
        pulse: &Pulse,
    ) -> Result<(), HypervisorError>;

    /// What the pool knows of those of `names` that are volumes in it, in their order. Nothing is looked for anew.
    fn volume_facts(&self, names: &[String]) -> Result<Vec<VolumeFacts>, HypervisorError>;

    /// Deletes one volume of the pool by name. The caller has proved that it is ours.
    ///
    /// # Errors
    /// `InUse` if `uses` speaks against it; `NotOurs` if it is an image's.
    fn delete_volume(&self, name: &str, uses: &Uses) -> Result<(), HypervisorError>;

    /// Addresses of a running instance beside those vmss assigned, each with who says so: what its agent names, with what its
    /// host leases, and without either what the neighbour table has. What no other machine can reach is left out.
    fn addresses(&self, instance: &InstanceRef) -> Result<Vec<Told>, HypervisorError>;

    /// What the host measures of those of `instances` that run, in their order: one bulk call for all of them, only the
    /// groups asked for, without waiting for a domain that is busy. One that is busy lacks what would have to be waited
    /// for, or is left out; one that is off, paused or gone is left out. Instances are matched by UUID alone.
    ///
    /// # Errors
    /// `Unsupported` if the host measures nothing at all. One that lacks single groups leaves those `None`, as libvirt's
    /// simulation does with all of them.
    fn stats(&self, instances: &[InstanceRef], groups: Groups)
    -> Result<Vec<InstanceStats>, HypervisorError>;

    /// Puts the instances of `set` that `from` manages under `to`. Returns how many were changed.
    fn adopt(&self, set: &Label, from: StoreId, to: StoreId) -> Result<usize, HypervisorError>;

    /// Looks at everything an instance of this model would need here, changing nothing that stays.
    fn check(&self, model: &Model) -> Vec<Finding>;
}

/// The near end of a serial console: where somebody types and reads.
pub trait Viewer {
    /// What was typed since the last call; waits for `wait` if nothing was. `None`: nobody wants to see more.
    fn typed(&mut self, wait: Duration) -> Option<Vec<u8>>;
    /// Shows what the guest has said.
    fn show(&mut self, bytes: &[u8]);
}

/// The end of a console's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsoleLog {
    /// What the guest has said, as it said it: any bytes.
    pub text: Vec<u8>,
    /// Whether it has said more before.
    pub is_cut: bool,
    /// Where the log's newest part ended when it was read: what [`Hypervisor::follow_console_log`] goes on from.
    pub end: u64,
}

/// Most bytes of each of a command's two streams that are kept ([`Hypervisor::exec`]).
pub const MOST_OUTPUT: usize = 1 << 20;

/// How a command in a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code; of one that a signal has ended, as shells have it: 128 and the signal.
    pub code: u8,
    /// What it wrote on its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote on its standard error.
    pub stderr: Vec<u8>,
    /// Whether it wrote more than was kept.
    pub is_cut: bool,
}

/// What a host is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostFacts {
    /// Its own host name.
    pub hostname: String,
    /// libvirt's version, "9.0.0".
    pub libvirt: String,
    /// The hypervisor's name and version, "QEMU 7.2.0".
    pub hypervisor: String,
    /// Whether hardware virtualisation is offered.
    pub kvm: bool,
    /// Logical CPUs.
    pub cpus: u32,
    /// Memory in all.
    pub memory: Bytes,
    /// Virtual CPUs and memory promised to running domains, whoever's they are.
    pub used_vcpus: u32,
    /// See `used_vcpus`.
    pub used_memory: Bytes,
    /// Running domains, whoever's.
    pub running: u32,
    /// Size of the pool, if it could be seen.
    pub pool_size: Option<Bytes>,
    /// Free space of the pool, if it could be seen.
    pub pool_free: Option<Bytes>,
    /// Why the pool could not be seen, if it could not.
    pub pool_unseen: Option<String>,
}

/// One line of `vmss check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: "pool default".
    pub what: String,
    /// `Ok`: what was found. `Err`: what is wrong, and what to do.
    #[serde(serialize_with = "finding")]
    pub result: Result<String, Problem>,
}

/// What is wrong and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

fn finding<S: serde::Serializer>(r: &Result<String, Problem>, s: S) -> Result<S::Ok, S::Error> {
    match r {
        Ok(found) => serde_json::json!({ "pass": true, "found": found }).serialize(s),
        Err(p) => serde_json::json!({ "pass": false, "problem": p.problem, "remedy": p.remedy }).serialize(s),
    }
}

/// An image file on this machine, looked at and hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalImage {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub image: Image,
}

/// What a push did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there, whole.
    Present,
    /// It was sent and verified.
    Sent,
}

/// An image in a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredImage {
    /// Which.
    pub digest: ImageDigest,
    /// The volume.
    pub volume: String,
    /// Space it takes.
    pub allocation: Bytes,
    /// The store that sent it: the first eight digits of its identity. Only that store deletes it.
    pub sender: String,
    /// Whether it was sent to the end and verified, and is as it was then.
    pub whole: bool,
    /// Whether somebody has changed it since it was verified.
    pub changed: bool,
    /// Volumes and domains that depend on it.
    pub users: Vec<String>,
}

/// What a pool knows of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumeFacts {
    /// Its name.
    pub name: String,
    /// Size of the disk that a guest would see.
    pub size: Bytes,
    /// Space it takes.
    pub allocation: Bytes,
    /// When its content was last changed, if the host tells.
    pub changed_at: Option<Timestamp>,
}

/// What went wrong on a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{doing}: {message}")]
pub struct HypervisorError {
    /// What kind of failure it is: decides what happens next.
    pub kind: FaultKind,
    /// What was being done: "creating volume web-3-…-os.qcow2 in pool default".
    pub doing: String,
    /// What the host said.
    pub message: String,
}

/// Kinds of failure, by what follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The host could not be reached, or the connection broke.
    Unreachable,
    /// It did not answer within the deadline.
    TimedOut,
    /// We may not do that there.
    Denied,
    /// The pool is full.
    NoSpace,
    /// A pool, network, bridge or file that is needed is not there.
    Missing,
    /// A domain or volume of that name is there and is not ours: it was left untouched.
    NotOurs,
    /// Somebody uses what was to be deleted, or that nobody does can't be proved just now: it was left untouched.
    InUse,
    /// What arrived is not what was sent.
    Corrupt,
    /// The host can't do that.
    Unsupported,
    /// Stopped because the operator asked.
    Cancelled,
    /// The instance is off, or paused.
    NotRunning,
    /// The guest's agent is not connected, or there is none.
    AgentAbsent,
    /// The host refuses the guest's agent at once: its channel was ended, as after an answer that was too large.
    AgentBroken,
    /// The guest's agent did not answer in time.
    AgentSilent,
    /// A command in a guest has not ended in time, and goes on there.
    GoesOn,
    /// Anything else the host said.
    Other,
}

impl HypervisorError {
    /// An error of `kind`, met while `doing`.
    pub fn new(kind: FaultKind, doing: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            doing: doing.into(),
            message: message.into(),
        }
    }
}
