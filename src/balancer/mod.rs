//! Load balancers: what a set is used through. One trait, and HAProxy behind it. The fake fleet of the tests has load balancers too
//! ([`crate::hypervisor::fake`]).

pub mod haproxy;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::hypervisor::Finding;
use crate::membership::{BalancerSeen, Membership};
use crate::scaleset::ScaleSet;

/// One load balancer of one set. Every method is idempotent, and none waits for longer than a few seconds for an answer.
pub trait Balancer: Send + Sync {
    /// What it is called in messages: `local`, or its socket.
    fn name(&self) -> String;

    /// What it has of the set. One that is known not to run has nothing, and that is no error.
    ///
    /// # Errors
    /// It can't be asked, or has no place for the set.
    fn observe(&self) -> Result<BalancerSeen, BalancerError>;

    /// Makes it agree with `wanted`: starts it or changes its configuration if it is this machine's, adds, changes and
    /// removes servers, closes the connections of those that are cut. What takes clients is added before anything is
    /// taken away. Afterwards the running servers and the configuration on disk are the same.
    ///
    /// # Errors
    /// The first thing that could not be done; what was done before stays done.
    fn bring(&self, wanted: &Membership) -> Result<Vec<Change>, BalancerError>;

    /// Leaves nothing of the set behind: its servers are removed, and a HAProxy that runs for it alone is stopped.
    ///
    /// # Errors
    /// What could not be removed.
    fn retire(&self) -> Result<(), BalancerError>;

    /// The configuration that it has to have, or that it is given, with `wanted` in it.
    fn configuration(&self, wanted: &Membership) -> String;

    /// Looks whether it can do what it will be asked to.
    fn check(&self) -> Vec<Finding>;
}

/// Finds the load balancers of a set.
pub trait Balancers: Send + Sync {
    /// Those of `set`, in declared order; none if it has none. `folder` is where one that vmss runs keeps its files.
    fn of(&self, set: &ScaleSet, folder: &Path) -> Vec<Arc<dyn Balancer>>;
}

/// Something that was changed in a load balancer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It was started.
    Started,
    /// It has taken up another configuration, without closing a connection.
    Reloaded,
    /// A server takes clients from now on.
    Joined(String),
    /// A server takes no more new ones.
    Left(String),
    /// Connections of a server were closed.
    Closed(String),
    /// A server was removed.
    Removed(String),
}

/// Why something could not be done with a load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalancerError {
    /// The kind of failure.
    pub kind: Trouble,
    /// What was being done.
    pub doing: String,
    /// Why it did not go.
    pub why: String,
}

/// Kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It does not answer: it may run, or not.
    Unreachable,
    /// It answers, or was looked at, and something is wrong that only a person can mend.
    Refused,
}

impl BalancerError {
    /// One that can't be reached.
    pub fn unreachable(doing: impl Into<String>, why: impl fmt::Display) -> Self {
        Self {
            kind: Trouble::Unreachable,
            doing: doing.into(),
            why: why.to_string(),
        }
    }

    /// One that refuses.
    pub fn refused(doing: impl Into<String>, why: impl fmt::Display) -> Self {
        Self {
            kind: Trouble::Refused,
            doing: doing.into(),
            why: why.to_string(),
        }
    }
}

impl fmt::Display for BalancerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, self.why)
    }
}

impl std::error::Error for BalancerError {}
