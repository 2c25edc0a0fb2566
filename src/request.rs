//! What somebody has asked for, and how far it may go. The planner is bound by it, now and after a `kill -9`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::Disruption;

/// A request: what, by whom, when, and its limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The command that was typed.
    pub what: Verb,
    /// Who typed it, as `user@machine`.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// How far it may go.
    #[serde(default)]
    pub limits: Limits,
}

/// A command that begins a rollout or steers one, or asks for a capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// `vmss apply`.
    Apply,
    /// `vmss upgrade`.
    Upgrade,
    /// `vmss upgrade rollback`.
    Rollback,
    /// `vmss create`.
    Create,
    /// `vmss scale`, for now on or for a time.
    Scale,
    /// The policy of `[autoscale]`, whoever evaluated it.
    Autoscale,
    /// `vmss instance delete`.
    InstanceDelete,
    /// `vmss instance adopt`.
    InstanceAdopt,
    /// `vmss state catch-up` or `vmss state rebuild`.
    State,
}

/// How far a change of instances may go beyond what the definition says of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `--at-most`: the most disruptive class allowed. `None`: nobody has typed one, and each change may do what its own keys
    /// need and no more.
    #[serde(default)]
    pub at_most: Option<Disruption>,
}

impl Request {
    /// A request without limits of its own.
    pub fn of(what: Verb, by: impl Into<String>, at: Timestamp) -> Self {
        Self {
            what,
            by: by.into(),
            at,
            limits: Limits::default(),
        }
    }
}

impl Limits {
    /// The limits of a command with that `--at-most`.
    pub const fn at_most(class: Option<Disruption>) -> Self {
        Self { at_most: class }
    }

    /// Whether somebody has typed that instances may be replaced: then they may go with their data disks.
    pub fn allows_replacing(self) -> bool {
        self.at_most == Some(Disruption::Replace)
    }
}
