//! What a plan takes away for good: instances with their disks, and volumes that nobody owns. Told and asked about before
//! anything of it begins.

use std::fmt;
use std::iter::Sum;

use serde::Serialize;

use crate::inventory::{Inventory, Metadata};
use crate::model::Model;
use crate::names::{InstanceId, Label, volume_part};
use crate::plan::action::{Action, Step};
use crate::plan::change::data_disks;
use crate::record::{Known, Record};
use crate::units::Bytes;
use crate::warrants;

/// How many data disks, and how large they are together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Disks {
    /// How many.
    pub count: usize,
    /// Their sizes together; of disks whose model nobody knows any more nothing is added.
    pub size: Bytes,
}

impl Disks {
    /// Those of an instance of that model.
    pub fn of(model: &Model) -> Self {
        Self {
            count: model.data_disks.len(),
            size: model.data_disks.iter().map(|d| d.size).sum(),
        }
    }

    /// Those that an instance's own note names: every volume of it that is neither its OS disk nor its seed.
    pub fn noted(meta: &Metadata) -> Self {
        Self {
            count: noted_disks(meta).count(),
            size: Bytes(0),
        }
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.count == 0
    }
}

/// Names of the data disks that an instance's own note names.
pub(super) fn noted_disks(meta: &Metadata) -> impl Iterator<Item = &str> {
    let parts = (meta.volumes.iter()).filter_map(|volume| volume_part(&meta.set, meta.id, volume));
    parts
        .filter(|part| !matches!(*part, "os" | "seed"))
        .map(|part| part.strip_prefix("data-").unwrap_or(part))
}

impl Sum for Disks {
    fn sum<I: Iterator<Item = Self>>(disks: I) -> Self {
        disks.fold(Self::default(), |all, one| Self {
            count: all.count + one.count,
            size: all.size + one.size,
        })
    }
}

impl fmt::Display for Disks {
    /// "3 data disks (150.0 GiB)".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} data disk{}",
            self.count,
            if self.count == 1 { "" } else { "s" }
        )?;
        match self.size {
            Bytes(0) => Ok(()),
            size => write!(f, " ({size})"),
        }
    }
}

/// Why an instance goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// There are more than the capacity.
    ScaleIn,
    /// A rollout puts another in its place.
    Rollout,
    /// A repair puts another in its place.
    Repair,
    /// Its host is being drained.
    Drain,
    /// An operator has named it.
    Operator,
    /// It never was whole, or its deletion has begun.
    Unfinished,
    /// It was given up with its host, and another has taken its place.
    Fenced,
    /// The set is being deleted.
    SetDeletion,
}

impl From<&warrants::Cause> for Cause {
    fn from(cause: &warrants::Cause) -> Self {
        use warrants::Cause as By;
        match cause {
            By::ScaleIn { .. } => Self::ScaleIn,
            By::Rollout { .. } => Self::Rollout,
            By::Repair { .. } => Self::Repair,
            By::Drain { .. } => Self::Drain,
            By::Operator | By::Settled { .. } => Self::Operator,
            By::SetDeletion => Self::SetDeletion,
            By::Fencing { .. } => Self::Fenced,
            // The others are no instances'.
            By::UnfinishedCreation
            | By::UnfinishedDeletion
            | By::EndOfMove
            | By::SeedNotNeeded { .. }
            | By::ImageNotNeeded => Self::Unfinished,
        }
    }
}

/// An instance that goes for good, with its disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Which.
    pub instance: InstanceId,
    /// Where it is.
    pub host: Label,
    /// Why it goes.
    pub cause: Cause,
    /// The data disks that go with it.
    pub data_disks: Disks,
}

/// What a command's own words say that it deletes: nobody is asked about that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// As many instances as are more than the capacity.
    pub scale_in: bool,
    /// Instances that a rollout replaces.
    pub rollout: bool,
}

impl Named {
    /// Whether an instance that goes for that cause is one of them, or goes because somebody has asked for it before, which
    /// the record says: a drain, a repair, an instance by its name, the whole set.
    const fn covers(self, cause: Cause) -> bool {
        match cause {
            Cause::ScaleIn => self.scale_in,
            Cause::Rollout => self.rollout,
            Cause::Repair
            | Cause::Drain
            | Cause::Operator
            | Cause::Unfinished
            | Cause::Fenced
            | Cause::SetDeletion => true,
        }
    }
}

/// Everything that goes for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Losses {
    /// Instances. Volumes that go by themselves are not among the losses: they are what our own acts have left, or seeds, which
    /// are made again of what the record has.
    pub instances: Vec<Loss>,
}

impl Losses {
    /// Whether nothing goes.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// What nobody has asked for, neither by the words of the command that is typed now nor before: what is to be asked about.
    pub fn unnamed(&self, named: Named) -> Self {
        let is_unnamed = |loss: &&Loss| !named.covers(loss.cause);
        Self {
            instances: self.instances.iter().filter(is_unnamed).cloned().collect(),
        }
    }

    /// How many instances go because there are more than the capacity.
    pub fn scaled_in(&self) -> usize {
        (self.instances.iter())
            .filter(|loss| loss.cause == Cause::ScaleIn)
            .count()
    }

    /// The data disks that go.
    pub fn data_disks(&self) -> Disks {
        self.instances.iter().map(|loss| loss.data_disks).sum()
    }

    /// Adds what `steps` take away. `record` is the one that they were planned of, with what the plan makes of its rollout and
    /// its repairs.
    pub fn note(&mut self, steps: &[Step], record: &Record, inventory: &Inventory) {
        for step in steps {
            if let Action::Delete { instance, cause, .. } = &step.action {
                let seen = (inventory.host(&step.host).and_then(|h| h.seen()))
                    .and_then(|h| h.instances.iter().find(|i| i.uuid == instance.uuid));
                self.instances.push(Loss {
                    instance: instance.id,
                    host: step.host.clone(),
                    cause: cause.into(),
                    data_disks: seen.map_or_else(Disks::default, |i| data_disks(record, i)),
                });
            }
        }
    }
}

/// The data disks of an instance, as far as the record knows what it is made of.
pub fn known_disks(record: &Record, known: &Known) -> Disks {
    let revision = known.revision.and_then(|number| record.revision(number));
    revision.map_or_else(Disks::default, |r| Disks::of(&r.model))
}
