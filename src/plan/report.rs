//! The report of a plan: how the set stands and what it waits on. It exists for the day when things are stuck.

use std::fmt;

use serde::Serialize;

use crate::names::{InstanceId, Label, StoreId};
use crate::plan::Situation;
use crate::record::Life;

/// How the set stands, beside the batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Desired capacity; zero for a set that is being deleted.
    pub wanted: usize,
    /// Instances seen running.
    pub running: usize,
    /// Instances seen, running or not.
    pub seen: usize,
    /// Instances on hosts that could not be seen.
    pub unseen: usize,
    /// Whether not one host could be seen.
    pub blind: bool,
    /// What could not be done, and what it waits on.
    pub waits: Vec<Wait>,
}

/// How a run ends when there is nothing left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The set is as it should be.
    Converged,
    /// It can't be shown to be, because a host can't be seen.
    Unseen,
    /// No room, or a rule forbids it.
    Blocked,
    /// Something was tried and failed.
    Failed,
}

impl Report {
    pub(crate) fn new(
        s: Situation<'_>,
        running: usize,
        seen: usize,
        unseen: usize,
        waits: Vec<Wait>,
    ) -> Self {
        let wanted = if s.record.life == Life::Deleting {
            0
        } else {
            s.record.capacity as usize
        };
        let blind = s.inventory.hosts.iter().all(|h| h.seen().is_none());
        Self {
            blind,
            wanted,
            running,
            seen,
            unseen,
            waits,
        }
    }

    /// How a run ends whose last plan had no steps.
    pub fn verdict(&self) -> Verdict {
        let has = |f: fn(&Wait) -> bool| self.waits.iter().any(f);
        // As many run as are wanted, and no more are left, not even out of sight.
        let met = self.running >= self.wanted && self.seen + self.unseen <= self.wanted;
        if has(|w| matches!(w, Wait::OtherStore { .. })) {
            Verdict::Blocked
        } else if has(|w| matches!(w, Wait::Failed { .. })) {
            Verdict::Failed
        } else if met {
            // A host out of sight without known instances takes nothing from a capacity that was seen to be met.
            Verdict::Converged
        } else if self.blind {
            Verdict::Unseen
        } else if has(|w| matches!(w, Wait::HostShunned { .. })) {
            Verdict::Failed
        } else if has(|w| {
            matches!(
                w,
                Wait::NoRoom { .. } | Wait::StrictSpread { .. } | Wait::NoAddress { .. }
            )
        }) {
            Verdict::Blocked
        } else if self.unseen > 0 {
            Verdict::Unseen
        } else {
            Verdict::Failed
        }
    }
}

/// Something that is not done, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "waits_on", rename_all = "kebab-case")]
pub enum Wait {
    /// A host could not be seen; instances known to be on it are left alone and still counted.
    HostUnseen {
        /// Which.
        host: Label,
        /// Why.
        reason: String,
        /// Instances last seen there.
        instances: Vec<InstanceId>,
    },
    /// Instances of this set are managed from another store.
    OtherStore {
        /// Which.
        stores: Vec<StoreId>,
    },
    /// No host has room for more.
    NoRoom {
        /// Instances that could not be placed.
        missing: usize,
        /// Each host with what it lacks.
        hosts: Vec<(Label, String)>,
    },
    /// Strict spread forbids to place them.
    StrictSpread {
        /// Instances that would have to be placed.
        missing: usize,
        /// The fault domain that can take no more.
        domain: Label,
        /// Why it can't.
        reason: String,
        /// Largest skew allowed.
        max_skew: u32,
    },
    /// A range of addresses is used up.
    NoAddress {
        /// Instances without one.
        missing: usize,
        /// Index of the network card.
        nic: usize,
    },
    /// A host on which something failed in this run is not used for more.
    HostShunned {
        /// Which.
        host: Label,
        /// What failed.
        error: String,
    },
    /// Something was tried in this run and failed.
    Failed {
        /// Where.
        host: Label,
        /// On what.
        subject: String,
        /// What was tried.
        verb: &'static str,
        /// What was said.
        error: String,
    },
    /// An instance is paused.
    Paused {
        /// Which.
        instance: InstanceId,
        /// Where.
        host: Label,
    },
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    const SHOWN: usize = 8;
    let mut text = items
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    if items.len() > SHOWN {
        text += &format!(" and {} more", items.len() - SHOWN);
    }
    text
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostUnseen {
                host,
                reason,
                instances,
            } => {
                write!(f, "host {host} was not seen: {reason}")?;
                match instances.len() {
                    0 => Ok(()),
                    1 => write!(
                        f,
                        "; instance {} there is left alone and still counted",
                        list(instances)
                    ),
                    _ => write!(
                        f,
                        "; instances {} there are left alone and still counted",
                        list(instances)
                    ),
                }
            }
            Self::OtherStore { stores } => write!(
                f,
                "instances of this set are managed from another store ({}): nothing is done from here",
                list(stores)
            ),
            Self::NoRoom { missing, hosts } => {
                let hosts: Vec<String> = hosts.iter().map(|(h, why)| format!("{h}: {why}")).collect();
                write!(f, "no room for {missing} more ({})", list(&hosts))
            }
            Self::StrictSpread {
                missing,
                domain,
                reason,
                max_skew,
            } => write!(
                f,
                "strict spread refuses {missing} more: fault domain {domain} can take none ({reason}) and the \
                 others may not be more than {max_skew} ahead of it"
            ),
            Self::NoAddress { missing, nic } => {
                write!(f, "no address left for {missing} more on network card {nic}")
            }
            Self::HostShunned { host, error } => {
                write!(
                    f,
                    "host {host} gets no more in this run, since it failed: {error}"
                )
            }
            Self::Failed {
                host,
                subject,
                verb,
                error,
            } => {
                write!(
                    f,
                    "{verb} {subject} on {host} failed and is not tried again in this run: {error}"
                )
            }
            Self::Paused { instance, host } => write!(
                f,
                "instance {instance} on {host} is paused (by a person, or by an I/O error such as a full disk): it \
                 is left as it is"
            ),
        }
    }
}
