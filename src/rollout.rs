//! A rollout: the set on its way from one model revision to another, batch by batch. Part of the record, so that it can
//! be paused, resumed, cancelled, rolled back and watched from anywhere, and goes on after a `kill -9`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::names::{InstanceId, Label};
use crate::request::{Limits, Request};
use crate::scaleset::{Amount, Upgrade};

/// One rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its number in the set, from 1.
    pub number: u32,
    /// The revision that was current before: what a rollback goes back to.
    pub from: u32,
    /// The revision that instances are brought to. Pinned: a definition edited later does not change it.
    pub target: u32,
    /// Who began it, as `user@machine`.
    pub by: String,
    /// When it began.
    pub began: Timestamp,
    /// Where it stands.
    pub state: RolloutState,
    /// The rules it began with.
    pub rules: Upgrade,
    /// The only instances it concerns; `None`: all.
    pub only: Option<Vec<InstanceId>>,
    /// It stops for a look once so many instances are upgraded (Google's canary).
    pub canary: Option<Amount>,
    /// The batch under way.
    pub batch: Option<Batch>,
    /// Batches that are done.
    pub batches: u32,
    /// When the last one was done.
    pub rested_since: Option<Timestamp>,
    /// Until when it holds at a checkpoint.
    #[serde(default)]
    pub hold_until: Option<Timestamp>,
    /// What was typed that it is for, with the limits that bind it; `None` of one that was begun by an earlier version, or by
    /// nobody in particular: then it has those of a command without any.
    #[serde(default)]
    pub request: Option<Request>,
}

/// Where a rollout stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum RolloutState {
    /// It goes on whenever a command acts on the set.
    Running,
    /// What was upgraded goes back: `target` is the old revision again.
    RollingBack {
        /// Why.
        reason: String,
    },
    /// It waits for `upgrade resume`.
    Paused {
        /// Who paused it, or that it was the canary.
        by: String,
    },
    /// It has met what its rules call a failure and waits for a decision.
    Stopped {
        /// What: a sentence.
        reason: String,
    },
    /// Every instance it concerns has its target.
    Done,
    /// Everything is back at the old revision.
    RolledBack {
        /// Why it went back.
        reason: String,
    },
    /// It was given up where it stood.
    Cancelled {
        /// By whom.
        by: String,
    },
}

/// A batch: instances of one fault domain that are changed together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Its number in the rollout, from 1.
    pub number: u32,
    /// Its fault domain; `None` if it is everything at once.
    pub fault_domain: Option<Label>,
    /// The instances to change.
    pub instances: Vec<InstanceId>,
    /// Whether they are replaced by others, or changed in place.
    pub replaces: bool,
    /// Instances that were made to take the place of replaced ones.
    pub fresh: Vec<InstanceId>,
    /// When it began.
    pub began: Timestamp,
}

impl Rollout {
    /// One that begins now, of every instance, from one revision to another.
    pub fn new(number: u32, (from, target): (u32, u32), rules: Upgrade, by: String, now: Timestamp) -> Self {
        Self {
            number,
            from,
            target,
            by,
            began: now,
            state: RolloutState::Running,
            rules,
            only: None,
            canary: None,
            batch: None,
            batches: 0,
            rested_since: None,
            hold_until: None,
            request: None,
        }
    }

    /// How far it may go.
    pub fn limits(&self) -> Limits {
        self.request.as_ref().map_or_else(Limits::default, |r| r.limits)
    }

    /// Whether it goes on by itself.
    pub const fn is_active(&self) -> bool {
        matches!(
            self.state,
            RolloutState::Running | RolloutState::RollingBack { .. }
        )
    }

    /// Whether it has not ended: it is active, or waits for a decision.
    pub const fn is_open(&self) -> bool {
        !matches!(
            self.state,
            RolloutState::Done | RolloutState::RolledBack { .. } | RolloutState::Cancelled { .. }
        )
    }

    /// Turns it round: what has its target goes back to where it came from.
    pub fn turn_back(&mut self, reason: String) {
        self.state = RolloutState::RollingBack { reason };
        std::mem::swap(&mut self.from, &mut self.target);
        (self.batch, self.canary, self.rested_since, self.hold_until) = (None, None, None, None);
    }
}
