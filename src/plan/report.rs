//! The report of a plan: how the set stands and what it waits on. It exists for the day when things are stuck.

use std::fmt;

use serde::Serialize;

use crate::health::State;
use crate::inventory::HostView;
use crate::names::InstanceId;
use crate::plan::{Member, Situation};
use crate::record::Life;

pub use crate::plan::wait::{RefusedAddress, Wait};

/// How the set stands, beside the batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Desired capacity; zero for a set that is being deleted.
    pub wanted: usize,
    /// Instances seen running.
    pub running: usize,
    /// Instances that are off on purpose: they count, and need not run.
    pub stopped: usize,
    /// Instances seen healthy; without a probe, those that run.
    pub healthy: usize,
    /// Instances seen, running or not.
    pub seen: usize,
    /// Instances above capacity that are a rollout's.
    pub surplus: usize,
    /// Instances on hosts that could not be seen.
    pub unseen: usize,
    /// Whether not one host could be seen.
    pub blind: bool,
    /// Whether of not one host the pool could be seen: nothing can be made anywhere.
    #[serde(skip)]
    pub poolless: bool,
    /// What could not be done, and what it waits on.
    pub waits: Vec<Wait>,
}

/// Instances by how they are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub running: usize,
    pub stopped: usize,
    pub healthy: usize,
    pub seen: usize,
    pub unseen: usize,
    pub surplus: usize,
}

/// An instance that is not healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ailing {
    /// Which.
    pub instance: InstanceId,
    /// How it is.
    pub state: State,
    /// What it said to its probe last; empty if nothing.
    pub said: String,
}

impl fmt::Display for Ailing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instance {} is {}", self.instance, self.state)?;
        if self.said.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.said)
    }
}

impl Ailing {
    /// How a member is.
    pub(crate) fn of(s: Situation<'_>, member: &Member<'_>) -> Self {
        let vital = s.record.vitals.get(&member.id);
        Self {
            instance: member.id,
            state: member.state,
            said: vital.map_or_else(String::new, |v| v.said()),
        }
    }
}

/// How a run ends when there is nothing left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The set is as it should be.
    Converged,
    /// It can't be shown to be, because a host or its pool can't be seen.
    Unseen,
    /// No room, or a rule forbids it.
    Blocked,
    /// Something was tried and failed.
    Failed,
}

impl Report {
    pub(crate) fn new(s: Situation<'_>, counts: Counts, waits: Vec<Wait>) -> Self {
        let wanted = if s.record.life == Life::Deleting {
            0
        } else {
            s.record.capacity as usize
        };
        let blind = s.inventory.hosts.iter().all(|h| h.seen().is_none());
        let has_pool = |h: &HostView| h.seen().is_some_and(|seen| seen.pool_unseen.is_none());
        Self {
            blind,
            poolless: !s.inventory.hosts.iter().any(has_pool),
            wanted,
            running: counts.running,
            stopped: counts.stopped,
            healthy: counts.healthy,
            seen: counts.seen,
            unseen: counts.unseen,
            surplus: counts.surplus,
            waits,
        }
    }

    /// How many run of those that are wanted: "5 of 6 running, 1 stopped".
    pub fn running_of_wanted(&self) -> String {
        let stopped = match self.stopped {
            0 => String::new(),
            n => format!(", {n} stopped"),
        };
        format!("{} of {} running{stopped}", self.running, self.wanted)
    }

    /// How a run ends whose last plan had no steps.
    pub fn verdict(&self) -> Verdict {
        let has = |f: fn(&Wait) -> bool| self.waits.iter().any(f);
        // As many run as are wanted, and no more are left, not even out of sight.
        let met = self.running + self.stopped >= self.wanted
            && self.seen + self.unseen <= self.wanted + self.surplus;
        if has(|w| {
            matches!(
                w,
                Wait::OtherStore { .. } | Wait::RecordOld { .. } | Wait::OneHost(_) | Wait::Double(_)
            )
        }) {
            Verdict::Blocked
        } else if has(|w| matches!(w, Wait::Failed { .. } | Wait::BalancerFailed { .. })) {
            Verdict::Failed
        } else if has(|w| matches!(w, Wait::BalancerUnseen { .. })) {
            // Whom it sends clients to, nobody can tell.
            Verdict::Unseen
        } else if has(|w| matches!(w, Wait::NotTakenAway { .. } | Wait::BeyondLimits { .. })) {
            Verdict::Blocked
        } else if met && has(|w| matches!(w, Wait::RolloutUnseen { .. } | Wait::BatchUnseen { .. })) {
            Verdict::Unseen
        } else if met {
            // A host out of sight without known instances takes nothing from a capacity that was seen to be met.
            Verdict::Converged
        } else if self.blind || self.poolless {
            Verdict::Unseen
        } else if has(|w| matches!(w, Wait::HostShunned { .. })) {
            Verdict::Failed
        } else if has(|w| {
            matches!(
                w,
                Wait::NoRoom { .. }
                    | Wait::NoIds
                    | Wait::StrictSpread { .. }
                    | Wait::NoAddress { .. }
                    | Wait::Protected { .. }
            )
        }) {
            Verdict::Blocked
        } else if self.unseen > 0 || has(|w| matches!(w, Wait::PoolUnseen { .. })) {
            Verdict::Unseen
        } else {
            Verdict::Failed
        }
    }
}
