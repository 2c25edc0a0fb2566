//! What a plan may order: each action is fully specified, so that carrying it out leaves nothing to choose.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::epoch::Epoch;
use crate::inventory::{Metadata, Phase, Protection, Rework};
use crate::model::ImageDigest;
use crate::names::{InstanceId, Label, StoreId, instance_name};
use crate::warrants::Cause;

/// One action and the reason for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// The host it is done on.
    pub host: Label,
    /// What is done.
    pub action: Action,
    /// Why, in a clause: "capacity is 9, 6 are there". Shared: a thousand steps have one reason.
    pub why: Arc<str>,
}

/// What can be done on a host.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Action {
    /// Send the image to the host's pool.
    PushImage {
        /// Which.
        digest: ImageDigest,
    },
    /// Make and start an instance.
    Create(Box<InstanceSpec>),
    /// Change an instance in place to another revision.
    Rework {
        /// What it is to be: the same instance, of another model.
        spec: Box<InstanceSpec>,
        /// How much of it is changed.
        how: Rework,
        /// How long its guest may take to shut down.
        #[serde(serialize_with = "crate::units::seconds")]
        shutdown: Duration,
    },
    /// Start an instance that is off though it should run.
    Start(InstanceRef),
    /// Move a running instance to another host of the set while its guest goes on.
    Migrate {
        /// Which.
        instance: InstanceRef,
        /// What it is to be: the same instance on the other host.
        spec: Box<InstanceSpec>,
    },
    /// Find out which of two hosts has an instance whose move was cut short, and put it right.
    Settle {
        /// Which.
        instance: InstanceRef,
        /// The host that it was being moved to.
        to: Label,
    },
    /// Shut an instance down and leave it off, on purpose.
    Stop {
        /// Which.
        instance: InstanceRef,
        /// How long its guest may take.
        #[serde(serialize_with = "crate::units::seconds")]
        shutdown: Duration,
    },
    /// Shut an instance down and start it again, as it is.
    Restart {
        /// Which.
        instance: InstanceRef,
        /// How long its guest may take; zero switches it off at once.
        #[serde(serialize_with = "crate::units::seconds")]
        shutdown: Duration,
    },
    /// Note what an instance is protected from.
    Protect {
        /// Which.
        instance: InstanceRef,
        /// From what.
        protection: Protection,
    },
    /// Shut an instance down and delete it with everything it owns.
    Delete {
        /// Which.
        instance: InstanceRef,
        /// How long its guest may take; zero when there is no guest worth asking.
        #[serde(serialize_with = "crate::units::seconds")]
        shutdown: Duration,
        /// Who asked, and why.
        cause: Cause,
    },
    /// Take away a copy of an instance that is kept on another host, or one that was given up with its host: off, and its domain
    /// gone. Its volumes stay.
    DropCopy {
        /// Which.
        instance: InstanceRef,
        /// How long its guest may take; zero switches it off at once.
        #[serde(serialize_with = "crate::units::seconds")]
        shutdown: Duration,
        /// Whose word it goes by.
        cause: Cause,
    },
    /// Bring an instance's note level with the record: it says the host that the instance is on, and that it is whole.
    Renote {
        /// Which.
        instance: InstanceRef,
        /// The fault domain of its host.
        fault_domain: Label,
    },
    /// Delete a volume that our own acts have left: of an instance that is gone, or a seed that nobody reads.
    DeleteVolume {
        /// Its name in the host's pool.
        volume: String,
        /// Whose word it goes by.
        cause: Cause,
    },
    /// Delete an image that nothing on the host is backed by any more.
    DeleteImage {
        /// Which.
        digest: ImageDigest,
    },
}

impl Action {
    /// Actions of a lower stage on a host end before those of a higher one begin there: what is in the way goes
    /// first, an image is there before instances are made of it, and images go last.
    pub const fn stage(&self) -> u8 {
        match self {
            Self::Delete { .. } | Self::DropCopy { .. } => 0,
            Self::DeleteVolume { .. } => 1,
            Self::PushImage { .. } => 2,
            Self::Create(_)
            | Self::Start(_)
            | Self::Rework { .. }
            | Self::Stop { .. }
            | Self::Restart { .. }
            | Self::Migrate { .. }
            | Self::Settle { .. }
            | Self::Renote { .. }
            | Self::Protect { .. } => 3,
            Self::DeleteImage { .. } => 4,
        }
    }

    /// The verb for people: "create", "delete", "push image".
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::PushImage { .. } => "push image",
            Self::Create(_) => "create",
            Self::Start(_) => "start",
            Self::Rework { how, .. } => how.verb(),
            Self::Migrate { .. } => "migrate",
            Self::Settle { .. } => "settle",
            Self::Renote { .. } => "note again",
            Self::Stop { .. } => "stop",
            Self::Restart { .. } => "restart",
            Self::Protect {
                protection: Protection::None,
                ..
            } => "unprotect",
            Self::Protect { .. } => "protect",
            Self::Delete { .. } => "delete",
            Self::DropCopy {
                cause: Cause::Fencing { .. },
                ..
            } => "undefine",
            Self::DropCopy { .. } => "drop copy",
            Self::DeleteVolume { .. } => "delete volume",
            Self::DeleteImage { .. } => "delete image",
        }
    }

    /// What it is done to: an instance's name, a volume's, an image's short digest.
    pub fn subject(&self) -> String {
        match self {
            Self::PushImage { digest } | Self::DeleteImage { digest } => digest.short().to_owned(),
            Self::Create(spec) | Self::Rework { spec, .. } => spec.name(),
            Self::Start(instance)
            | Self::Stop { instance, .. }
            | Self::Restart { instance, .. }
            | Self::Protect { instance, .. }
            | Self::Migrate { instance, .. }
            | Self::Settle { instance, .. }
            | Self::Renote { instance, .. }
            | Self::DropCopy { instance, .. }
            | Self::Delete { instance, .. } => instance.name.clone(),
            Self::DeleteVolume { volume, .. } => volume.clone(),
        }
    }

    /// The instance it makes, if it makes one.
    pub const fn created(&self) -> Option<&InstanceSpec> {
        match self {
            Self::Create(spec) => Some(spec),
            _ => None,
        }
    }

    /// Whatever runs on `host` from then on because of it: of which revision it is made.
    pub fn brings(&self, host: &Label) -> Option<u32> {
        match self {
            Self::Create(spec) | Self::Migrate { spec, .. } if spec.host == *host => Some(spec.revision),
            _ => None,
        }
    }

    /// The instance whose guest begins anew by it, if one's does.
    pub fn restarted(&self) -> Option<InstanceId> {
        match self {
            Self::Rework {
                how: Rework::Live, ..
            } => None,
            Self::Create(_) | Self::Start(_) | Self::Rework { .. } | Self::Restart { .. } => self.instance(),
            _ => None,
        }
    }

    /// Whether its instance serves nobody by it, for a while or for good.
    pub const fn disturbs(&self) -> bool {
        match self {
            Self::Rework { how, .. } => !matches!(how, Rework::Live),
            Self::Delete { .. } | Self::Restart { .. } | Self::Stop { .. } => true,
            _ => false,
        }
    }

    /// Whether clients of its instance would lose it: it leaves its load balancer first.
    pub const fn takes_away(&self) -> bool {
        self.disturbs() || matches!(self, Self::Migrate { .. })
    }

    /// The instance it concerns, if one.
    pub fn instance(&self) -> Option<InstanceId> {
        match self {
            Self::Create(spec) | Self::Rework { spec, .. } => Some(spec.id),
            Self::Start(i)
            | Self::Stop { instance: i, .. }
            | Self::Restart { instance: i, .. }
            | Self::Protect { instance: i, .. }
            | Self::Migrate { instance: i, .. }
            | Self::Settle { instance: i, .. }
            | Self::Renote { instance: i, .. }
            | Self::DropCopy { instance: i, .. }
            | Self::Delete { instance: i, .. } => Some(i.id),
            _ => None,
        }
    }

    /// Has every note that it writes carry `epoch`: that of the record which orders it.
    pub fn stamp(&mut self, epoch: Epoch) {
        match self {
            Self::Create(spec) | Self::Rework { spec, .. } => spec.epoch = epoch,
            Self::Migrate { instance, spec } => (instance.epoch, spec.epoch) = (epoch, epoch),
            Self::Start(i)
            | Self::Stop { instance: i, .. }
            | Self::Restart { instance: i, .. }
            | Self::Protect { instance: i, .. }
            | Self::Settle { instance: i, .. }
            | Self::Renote { instance: i, .. }
            | Self::DropCopy { instance: i, .. }
            | Self::Delete { instance: i, .. } => i.epoch = epoch,
            Self::PushImage { .. } | Self::DeleteVolume { .. } | Self::DeleteImage { .. } => {}
        }
    }
}

/// An instance that exists, named so that no other can be meant: an adapter looks the domain up by UUID and touches
/// it only if its metadata names the same set and store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceRef {
    /// Its set.
    pub set: Label,
    /// Its store.
    pub store: StoreId,
    /// Its id.
    pub id: InstanceId,
    /// Its name.
    pub name: String,
    /// Its domain's UUID.
    pub uuid: Uuid,
    /// The epoch that its note gets, should one be written ([`Action::stamp`]).
    #[serde(skip)]
    pub epoch: Epoch,
}

/// Everything about a new instance that its model does not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceSpec {
    /// Its set.
    pub set: Label,
    /// Its store.
    pub store: StoreId,
    /// Its id.
    pub id: InstanceId,
    /// Its UUID.
    pub uuid: Uuid,
    /// Its host.
    pub host: Label,
    /// Its fault domain.
    pub fault_domain: Label,
    /// Revision of its model.
    pub revision: u32,
    /// Hash of its model.
    pub model_hash: String,
    /// Image of its model.
    pub image: ImageDigest,
    /// The moment of the plan.
    pub created_at: Timestamp,
    /// One MAC per network card of the model.
    pub macs: Vec<String>,
    /// One entry per network card: the address vmss gives it, or `None` for DHCP.
    pub addresses: Vec<Option<Ipv4Addr>>,
    /// What it is protected from.
    pub protection: Protection,
    /// The epoch that its note gets ([`Action::stamp`]).
    #[serde(skip)]
    pub epoch: Epoch,
}

impl InstanceSpec {
    /// `<set>-<id>`.
    pub fn name(&self) -> String {
        instance_name(&self.set, self.id)
    }

    /// The reference by which the instance is known once it is there.
    pub fn reference(&self) -> InstanceRef {
        InstanceRef {
            set: self.set.clone(),
            store: self.store,
            id: self.id,
            name: self.name(),
            uuid: self.uuid,
            epoch: self.epoch,
        }
    }

    /// The metadata its domain begins with.
    pub fn metadata(&self, volumes: Vec<String>) -> Metadata {
        Metadata {
            set: self.set.clone(),
            id: self.id,
            store: self.store,
            fault_domain: self.fault_domain.clone(),
            host: self.host.clone(),
            revision: self.revision,
            model_hash: self.model_hash.clone(),
            image: self.image.clone(),
            created_at: self.created_at,
            phase: Phase::Creating,
            addresses: self.addresses.clone(),
            volumes,
            protection: self.protection,
            stopped: false,
            rework: None,
            moving_to: None,
            epoch: Some(self.epoch),
        }
    }

    /// The spec for changing the instance that `note` is about: what stays with an instance for life is as it is.
    pub fn again(&self, note: &Metadata) -> Self {
        Self {
            host: note.host.clone(),
            fault_domain: note.fault_domain.clone(),
            created_at: note.created_at,
            protection: note.protection,
            ..self.clone()
        }
    }

    /// The note of an instance that is about to be changed: what it is to become, and every volume it has by `note` or
    /// will have (`volumes`), so that none is nobody's at any time.
    pub fn note_of(&self, note: &Metadata, volumes: Vec<String>, how: Rework) -> Metadata {
        let old = note.volumes.iter().filter(|v| !volumes.contains(v)).cloned();
        let all = volumes.iter().cloned().chain(old).collect();
        Metadata {
            phase: Phase::Changing,
            stopped: note.stopped,
            rework: Some(how),
            ..self.again(note).metadata(all)
        }
    }
}
