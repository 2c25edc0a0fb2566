//! What an evaluation comes to, with everything it rests on.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::autoscale::policy::Direction;

/// One evaluation of a policy: what was measured, what each rule says of it, what is done, and why not more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// When.
    pub at: Timestamp,
    /// The capacity before.
    pub from: u32,
    /// The capacity that is wanted from now on.
    pub to: u32,
    /// The whole of it in a sentence.
    pub reason: String,
    /// What keeps the capacity from what rules, schedules or a default ask for, a sentence each.
    pub held: Vec<String>,
    /// The profile that holds.
    pub profile: String,
    /// Fewest instances now: the profile's, or a schedule's.
    pub min: u32,
    /// Most instances now.
    pub max: u32,
    /// The profile's default.
    pub default: u32,
    /// The schedule that has raised the minimum, if one has.
    pub floor: Option<Floor>,
    /// What metrics alone ask for, within the bounds: before cooldown, stabilisation and limits.
    pub recommended: u32,
    /// By what the capacity changes.
    pub moved: Move,
    /// What was measured for the rules and targets of the profile.
    pub measured: Vec<Measured>,
    /// What each of them says.
    pub verdicts: Vec<Verdict>,
    /// What is expected of the load ahead, if the policy looks ahead.
    #[serde(default)]
    pub outlook: Option<String>,
}

impl Decision {
    /// The reason without what is done.
    pub fn why(&self) -> &str {
        self.reason
            .split_once(": ")
            .map_or(self.reason.as_str(), |(_, why)| why)
    }

    /// Whether some metric that the profile needs is missing.
    pub fn is_blind(&self) -> bool {
        self.measured.iter().any(|m| m.value.is_none())
    }
}

/// By what a capacity changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Move {
    /// It does not.
    None,
    /// A rule or a target has fired.
    By {
        /// Which way.
        direction: Direction,
        /// How long it keeps others from firing, in seconds.
        #[serde(with = "crate::units::in_seconds")]
        cooldown: Duration,
    },
    /// A bound, a default, a schedule, a prediction or an operator has moved it.
    Bound,
}

/// A schedule that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// Its name.
    pub schedule: String,
    /// Its minimum.
    pub min: u32,
}

/// A metric as one or more rules have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The metric.
    pub metric: String,
    /// Its value over the window, over the instances; `None`: it is missing.
    pub value: Option<f64>,
    /// As people read it.
    pub shown: String,
    /// Instances it is of.
    pub instances: u32,
    /// Instances that should have been measured and were not.
    pub missing: u32,
    /// What is the matter, if anything is.
    pub problem: Option<String>,
}

/// What a rule or target says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The rule or target, as it is written.
    pub rule: String,
    /// The value it judges; `None`: it is missing.
    pub value: Option<f64>,
    /// Which way it wants to go; `None`: it is content, or blind.
    pub wants: Option<Direction>,
    /// The capacity it wants; `None` as for `wants`.
    pub to: Option<u32>,
    /// That in words: "74 %: in 1, to 5", "74 %: nothing", "was not measured yet".
    pub said: String,
}
