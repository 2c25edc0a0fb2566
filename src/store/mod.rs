//! The store: records, leases and history behind one trait. SQLite is the embedded form.

pub mod codec;
pub mod holder;
pub mod location;
pub mod memory;
pub mod sqlite;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::autoscale::{Decision, Readings, Sample};
use crate::names::{Label, StoreId};
use crate::record::Record;

/// Operations remembered per set: those of years, in a file that stays small.
const HISTORY: usize = 1000;

/// How long samples are kept: a pattern of weeks can be seen in them.
pub const SAMPLES_LAST: SignedDuration = SignedDuration::from_hours(36 * 24);

/// How long all of them are: longer than any window.
pub const SAMPLES_WHOLE: SignedDuration = SignedDuration::from_hours(48);

/// What of older ones is kept: one within so many seconds.
const SAMPLES_STEP: i64 = 300;

/// Decisions remembered per set.
const DECISIONS: usize = 500;

/// Where records live. All methods are transactions of their own.
pub trait Store: Send + Sync {
    /// The store's identity, made when the store is made.
    fn id(&self) -> Result<StoreId, StoreError>;

    /// Where it is, for messages: a path or an endpoint.
    fn location(&self) -> String;

    /// The set's record and its version; `None` if the store knows no such set.
    ///
    /// # Errors
    /// [`StoreError::Newer`] if a later vmss has written it.
    fn get(&self, set: &Label) -> Result<Option<(Record, Version)>, StoreError>;

    /// Writes the record if its version is still `expected` (`None`: if there is none yet).
    ///
    /// # Errors
    /// [`StoreError::Changed`] if someone else was faster.
    fn put(&self, set: &Label, record: &Record, expected: Option<Version>) -> Result<Version, StoreError>;

    /// As [`Self::put`], by the holder of a lease: whoever was held up so long that another has taken it over decides nothing
    /// any more.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if the lease was taken meanwhile, whatever the version.
    fn put_under(
        &self,
        lease: &Lease,
        set: &Label,
        record: &Record,
        expected: Version,
    ) -> Result<Version, StoreError>;

    /// Forgets the set with its samples and decisions, and whatever was given up of it. Its history stays.
    fn remove(&self, set: &Label, expected: Version) -> Result<(), StoreError>;

    /// As [`Self::remove`], but `left` is kept aside: the record of what was given up with hosts that could not be seen. It is
    /// no set any more, and takes the place of what was kept so before.
    fn abandon(&self, set: &Label, left: &Record, expected: Version) -> Result<(), StoreError>;

    /// What was given up of a set of that name when it ended; `None` if nothing was, or all of it was seen to be gone since. Of a
    /// set that has a record it says nothing: that record has taken it over.
    ///
    /// # Errors
    /// [`StoreError::Newer`] as [`Self::get`].
    fn abandoned(&self, set: &Label) -> Result<Option<Record>, StoreError>;

    /// Names of sets that have ended and of which something was given up ([`Self::abandoned`]), sorted.
    fn ended(&self) -> Result<Vec<Label>, StoreError>;

    /// Names of all sets, sorted.
    fn sets(&self) -> Result<Vec<Label>, StoreError>;

    /// Takes the lease `key` for `holder`, if it is free, or its holder is known to be dead. One of whom that can't be known,
    /// for he is on another machine or in another container, is followed if his lease is still as it was `unrenewed`: as
    /// the caller has seen it for [`holder::LEASE`], by a clock of his own. What `now` is does not matter to that, for the
    /// clock of one machine may be ahead of another's.
    ///
    /// # Errors
    /// [`StoreError::Held`] with the one who has it.
    fn acquire(
        &self,
        key: &str,
        holder: &Holder,
        now: Timestamp,
        unrenewed: Option<Stamp>,
    ) -> Result<Lease, StoreError>;

    /// Keeps the lease for another while. Its [`Stamp`] is another afterwards, whatever `now` is.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if it was taken meanwhile: stop acting.
    fn renew(&self, lease: &Lease, now: Timestamp) -> Result<(), StoreError>;

    /// Whether the lease is still that holding's.
    fn holds(&self, lease: &Lease) -> Result<bool, StoreError>;

    /// Gives the lease back. One that was lost meanwhile is not an error.
    fn release(&self, lease: &Lease) -> Result<(), StoreError>;

    /// Who has the lease, if anyone alive has, as far as this machine's clock tells. For people: nothing is taken by it.
    fn holder(&self, key: &str, now: Timestamp) -> Result<Option<Holder>, StoreError>;

    /// Notes that an operation begins; returns its number.
    fn begin(&self, operation: &Operation) -> Result<u64, StoreError>;

    /// Notes how it ended, and the capacity that was wanted in the end if it is not the one it began with.
    fn finish(&self, number: u64, at: Timestamp, outcome: &str, to: Option<u32>) -> Result<(), StoreError>;

    /// Keeps what was measured of a set, and the counters that the next rates are taken against. Samples older than
    /// [`SAMPLES_LAST`] are forgotten, and of those older than [`SAMPLES_WHOLE`] one in five minutes is kept.
    fn measured(
        &self,
        set: &Label,
        samples: &[Sample],
        readings: &Readings,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Samples of a set from `since` on, of every metric, oldest first.
    fn samples(&self, set: &Label, since: Timestamp) -> Result<Vec<Sample>, StoreError>;

    /// Counters as they were read last; none if nothing was measured yet, or if what is kept makes no sense.
    fn readings(&self, set: &Label) -> Result<Readings, StoreError>;

    /// Keeps a decision. `anew`: beside the last one; if not, in its place.
    fn decided(&self, set: &Label, decision: &Decision, anew: bool) -> Result<(), StoreError>;

    /// The newest decisions of a set, newest first. Those among them that a later vmss has written in other words are left
    /// out.
    fn decisions(&self, set: &Label, limit: usize) -> Result<Vec<Decision>, StoreError>;

    /// The newest operations of a set (or of all), newest first.
    fn history(&self, set: Option<&Label>, limit: usize) -> Result<Vec<PastOperation>, StoreError>;
}

/// A record's version: grows with every write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u64);

/// Who holds a lease: enough to tell whether it still lives, and to say it to a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// When that process started, in clock ticks since boot (`/proc/<pid>/stat`): a pid alone may be reused.
    pub started: u64,
    /// The boot the process belongs to (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// The namespace that `pid` counts in (the inode of `/proc/self/ns/pid`): each container has one of its own, in which
    /// the number is another process's. `None` if it can't be told, and in what earlier versions wrote.
    #[serde(default)]
    pub namespace: Option<u64>,
    /// The machine's name. Others may have the same.
    pub machine: String,
    /// The user's name.
    pub user: String,
    /// What it is doing: "scale web to 9".
    pub doing: String,
}

/// A lease that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What it is on.
    pub key: String,
    /// Distinguishes this holding from any later one.
    pub token: u64,
}

/// What a lease was like at a look: another after each renewal, and for each holding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The token of the holding.
    pub token: u64,
    /// When it runs out by its holder's clock, in seconds since 1970; more after each renewal.
    pub expires: i64,
}

/// A lease that somebody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Who.
    pub holder: Holder,
    /// What it was like.
    pub stamp: Stamp,
    /// Whether its holder is known to live. If not, only its renewal tells.
    pub lives: bool,
}

/// An operation as it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The set.
    pub set: Label,
    /// What: "scale".
    pub verb: String,
    /// Who, as `user@machine`.
    pub who: String,
    /// When.
    pub at: Timestamp,
    /// Capacity before, if it had one.
    pub from: Option<u32>,
    /// Capacity wanted, if it is about that.
    pub to: Option<u32>,
}

/// An operation as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PastOperation {
    /// Its number in the store.
    pub number: u64,
    /// The set.
    pub set: Label,
    /// What.
    pub verb: String,
    /// Who.
    pub who: String,
    /// When it began.
    pub began: Timestamp,
    /// When it ended; `None` while it runs, or if its process was killed.
    pub ended: Option<Timestamp>,
    /// Capacity before.
    pub from: Option<u32>,
    /// Capacity wanted.
    pub to: Option<u32>,
    /// How it ended: "converged", "interrupted", "failed: …".
    pub outcome: Option<String>,
}

/// What went wrong in a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Someone else changed the record since it was read.
    #[error("the record of {0} was changed by someone else meanwhile")]
    Changed(Label),
    /// The lease is taken.
    #[error("held by {} (pid {} on {}): {}", .0.holder.user, .0.holder.pid, .0.holder.machine, .0.holder.doing)]
    Held(Box<Taken>),
    /// The lease was lost.
    #[error("the lease on {0} was taken over by another process")]
    Lost(String),
    /// The record was written by a later vmss: this one neither reads it nor writes it.
    #[error(
        "the record of {set} was made by a newer vmss (its format is {format}, this vmss knows {known} at most)"
    )]
    Newer {
        /// The set.
        set: Label,
        /// The format that the record is in.
        format: u64,
        /// The latest format that is known here.
        known: u64,
    },
    /// The store can't be read or written.
    #[error("{doing}: {message}")]
    Broken {
        /// What was being done.
        doing: String,
        /// What keeps it from that.
        why: Failure,
        /// What the store said.
        message: String,
    },
}

/// What keeps a store from being read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Its disk is full.
    Full,
    /// It may only be read.
    ReadOnly,
    /// Another process has been at it for too long.
    Busy,
    /// What is in it makes no sense.
    Damaged,
    /// A later vmss has made it.
    Newer,
    /// It is no store of vmss.
    Foreign,
    /// Others could change it, or have put something in its place.
    Distrusted,
    /// Anything else that the system or the store says.
    Other,
}

impl Failure {
    /// What to try, if what is said does not say it.
    pub const fn hint(self) -> Option<&'static str> {
        Some(match self {
            Self::Full => "make room on the disk that the store is on; nothing that was written is lost",
            Self::ReadOnly => "run this as the user whose store it is, or where its folder can be written",
            Self::Busy => "run this again; if it stays so, look who has the file open: fuser -v FILE",
            Self::Foreign => "name another file: VMSS_STATE, or [state] path in the definition",
            Self::Other => "check that the store's folder is there and can be read and written",
            // The message says it.
            Self::Damaged | Self::Newer | Self::Distrusted => return None,
        })
    }
}
