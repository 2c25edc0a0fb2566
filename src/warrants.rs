//! Warrants: what is to be deleted, where, and who asked for it. Written into the record before anything is done; the executor
//! does nothing that is not there, and nothing else that is found on a host is ever swept.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::names::{InstanceId, Label};
use crate::plan::action::{Action, Step};
use crate::request::Request;

/// Why something is deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "because", rename_all = "kebab-case")]
pub enum Cause {
    /// The set has more than its capacity.
    ScaleIn {
        /// The capacity.
        wanted: usize,
        /// How many there are.
        there: usize,
        /// Who asked for that capacity, with which command and when, as far as the record knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<Request>,
    },
    /// A rollout replaces it.
    Rollout {
        /// The revision that it is to have.
        target: u32,
        /// What is due to it, as the batch says: "revision 1, not 2".
        why: String,
    },
    /// It is broken.
    Repair {
        /// What is wrong with it.
        why: String,
    },
    /// Its host is being emptied.
    Drain {
        /// Which.
        host: Label,
        /// What becomes of it.
        why: String,
    },
    /// An operator has named it.
    Operator,
    /// The whole set is deleted.
    SetDeletion,
    /// It was given up with its host, and is there again.
    Fencing {
        /// When it was given up.
        at: Timestamp,
        /// Whether its volumes stay, since it has data disks.
        #[serde(default)]
        keeps_disks: bool,
    },
    /// It is half made, and nobody is at it any more.
    UnfinishedCreation,
    /// It is half deleted, and nobody is at it any more.
    UnfinishedDeletion,
    /// It has moved away, or has not arrived.
    EndOfMove,
    /// It was there twice, and an operator keeps the copy on another host.
    Settled {
        /// Which.
        kept: Label,
    },
    /// No instance of the host reads the seed.
    SeedNotNeeded {
        /// Of which revision.
        revision: u32,
        /// The host.
        host: Label,
    },
    /// Nothing needs the image any more.
    ImageNotNeeded,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ScaleIn { wanted, there, .. } => {
                let are = match there {
                    0 => "none is".to_owned(),
                    1 => "1 is".to_owned(),
                    n => format!("{n} are"),
                };
                write!(f, "capacity is {wanted}, {are} there")
            }
            Self::Rollout { why, .. } | Self::Repair { why } | Self::Drain { why, .. } => f.write_str(why),
            Self::Operator => f.write_str("an operator asked for it"),
            Self::SetDeletion => f.write_str("the set is being deleted"),
            Self::Fencing { at, keeps_disks } => write!(
                f,
                "its host was given up at {}{}",
                at.strftime("%Y-%m-%d %H:%M:%SZ"),
                if *keeps_disks { "; its volumes stay" } else { "" }
            ),
            Self::UnfinishedCreation => f.write_str("its creation did not end"),
            Self::UnfinishedDeletion => f.write_str("its deletion did not end"),
            Self::EndOfMove => f.write_str("left by a move that has ended"),
            Self::Settled { kept } => {
                write!(f, "the instance was there twice, and the copy on {kept} is kept")
            }
            Self::SeedNotNeeded { revision, host } => {
                write!(f, "no instance on {host} reads the seed of revision {revision}")
            }
            Self::ImageNotNeeded => {
                f.write_str("the set is being deleted; it stays if anything else is backed by it")
            }
        }
    }
}

/// An instance that is to go from a host with everything it owns there, whatever of it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warrant {
    /// Its UUID: no other instance is meant, whatever it is called.
    pub uuid: Uuid,
    /// Who asked, and why.
    pub cause: Cause,
    /// Since when.
    pub at: Timestamp,
}

/// All warrants of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Warrants {
    /// Instances, by the host that they are to go from. Kept for a while after they were seen to be gone: a call that was
    /// given up may still land.
    pub instances: BTreeMap<Label, BTreeMap<InstanceId, Warrant>>,
    /// Volumes and images of the batch under way, by host, each by its name or digest.
    pub parts: BTreeMap<Label, BTreeMap<String, Cause>>,
}

impl Warrants {
    /// Those for the volumes and images that a batch deletes.
    pub fn of_batch(steps: &[Step]) -> Self {
        let mut warrants = Self::default();
        for step in steps {
            let (part, cause) = match &step.action {
                Action::DeleteVolume { volume, cause } => (volume.clone(), cause.clone()),
                Action::DeleteImage { digest } => (digest.0.clone(), Cause::ImageNotNeeded),
                _ => continue,
            };
            let parts = warrants.parts.entry(step.host.clone()).or_default();
            parts.insert(part, cause);
        }
        warrants
    }

    /// The warrant for an instance on a host.
    pub fn of(&self, host: &Label, id: InstanceId) -> Option<&Warrant> {
        self.instances.get(host)?.get(&id)
    }

    /// Whether the instance of that UUID is to go from the host.
    pub fn covers(&self, host: &Label, id: InstanceId, uuid: Uuid) -> bool {
        self.of(host, id).is_some_and(|w| w.uuid == uuid)
    }

    /// Whether a volume or an image is to go from a host, in the batch under way.
    pub fn has_part(&self, host: &Label, part: &str) -> bool {
        self.parts.get(host).is_some_and(|parts| parts.contains_key(part))
    }

    /// Writes one. One that is there already keeps its time; whether anything changed.
    pub fn issue(&mut self, host: &Label, id: InstanceId, uuid: Uuid, cause: Cause, now: Timestamp) -> bool {
        let of_host = self.instances.entry(host.clone()).or_default();
        match of_host.get_mut(&id) {
            Some(warrant) if warrant.uuid == uuid => {
                let changed = warrant.cause != cause;
                warrant.cause = cause;
                changed
            }
            _ => {
                of_host.insert(id, Warrant { uuid, cause, at: now });
                true
            }
        }
    }

    /// Takes one back; whether there was one.
    pub fn withdraw(&mut self, host: &Label, id: InstanceId) -> bool {
        let Some(of_host) = self.instances.get_mut(host) else {
            return false;
        };
        let was_there = of_host.remove(&id).is_some();
        if of_host.is_empty() {
            self.instances.remove(host);
        }
        was_there
    }

    /// Keeps those of which `keep` says so; whether any went.
    pub fn retain(&mut self, mut keep: impl FnMut(&Label, InstanceId, &Warrant) -> bool) -> bool {
        let count = |all: &Self| all.instances.values().map(BTreeMap::len).sum::<usize>();
        let before = count(self);
        for (host, of_host) in &mut self.instances {
            of_host.retain(|id, warrant| keep(host, *id, warrant));
        }
        self.instances.retain(|_, of_host| !of_host.is_empty());
        count(self) != before
    }
}
