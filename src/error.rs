//! The one error type at the edge: a kind that chooses the exit code, a source chain, and hints on what to try.

use std::fmt;

/// Exit codes, as in the README's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The set is as it should be.
    Converged,
    /// Something failed.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// The definition is wrong.
    Definition,
    /// A host, a load balancer, a server of metrics or the store can't be reached, and what was asked for can't be shown to hold without it.
    Unreachable,
    /// Nothing can be done as things are: no room, strict spread, another store's set.
    Blocked,
    /// Instances are not healthy, and what was asked for stops there.
    Unhealthy,
    /// Another process acts on this set.
    Locked,
    /// `plan --detailed-exitcode`: there is something to do.
    Pending,
    /// Stopped by the operator.
    Interrupted,
    /// As a command in a guest ended: `instance exec` on one instance.
    Guest(u8),
}

impl Exit {
    /// The code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Converged => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Definition => 3,
            Self::Unreachable => 4,
            Self::Blocked => 5,
            Self::Unhealthy => 6,
            Self::Locked => 7,
            Self::Pending => 10,
            Self::Interrupted => 130,
            Self::Guest(code) => code,
        }
    }
}

/// How a run ends that was neither cut short nor broken off.
impl From<crate::plan::report::Verdict> for Exit {
    fn from(verdict: crate::plan::report::Verdict) -> Self {
        use crate::plan::report::Verdict;
        match verdict {
            Verdict::Converged => Self::Converged,
            Verdict::Unseen => Self::Unreachable,
            Verdict::Blocked => Self::Blocked,
            Verdict::Failed => Self::Failed,
        }
    }
}

/// An error as an operator meets it.
#[derive(Debug)]
pub struct Error {
    /// Chooses the exit code.
    pub exit: Exit,
    /// What went wrong, with its causes.
    pub source: anyhow::Error,
    /// What to try, one sentence each.
    pub hints: Vec<String>,
    /// Whether the text is laid out already, several lines with source excerpts.
    pub is_rendered: bool,
}

/// A result at the edge.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with that exit code.
    pub fn new(exit: Exit, source: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            source: source.into(),
            hints: Vec::new(),
            is_rendered: false,
        }
    }

    /// An error that is just a sentence.
    pub fn message(exit: Exit, text: impl fmt::Display) -> Self {
        Self::new(exit, anyhow::anyhow!("{text}"))
    }

    /// An error whose text is laid out already.
    pub fn rendered(exit: Exit, text: String) -> Self {
        Self {
            is_rendered: true,
            ..Self::message(exit, text)
        }
    }

    /// Adds what to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Says what was being done.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display + Send + Sync + 'static) -> Self {
        self.source = self.source.context(doing);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.source)
    }
}

impl From<crate::store::StoreError> for Error {
    fn from(e: crate::store::StoreError) -> Self {
        use crate::store::StoreError as S;
        let (exit, hint) = match &e {
            S::Held(_) => (
                Exit::Locked,
                Some("wait for the other command, or give --wait-lock 10m"),
            ),
            S::Changed(_) | S::Lost(_) => (
                Exit::Locked,
                Some("look what the other command has done (vmss history), then run this again"),
            ),
            S::Newer { .. } => (
                Exit::Unreachable,
                Some(
                    "use that vmss: this one would lose what it does not know, so it neither reads nor writes the record",
                ),
            ),
            S::Broken { why, .. } => (Exit::Unreachable, why.hint()),
        };
        let error = Self::new(exit, e);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl From<crate::hypervisor::HypervisorError> for Error {
    fn from(e: crate::hypervisor::HypervisorError) -> Self {
        use crate::hypervisor::FaultKind as K;
        let exit = match e.kind {
            K::Unreachable | K::TimedOut => Exit::Unreachable,
            K::NotOurs | K::NoSpace => Exit::Blocked,
            K::Cancelled => Exit::Interrupted,
            _ => Exit::Failed,
        };
        Self::new(exit, e)
    }
}

/// An image that can't be had is the definition's fault, unless the operator did not want to wait for it.
impl From<crate::images::Unavailable> for Error {
    fn from(e: crate::images::Unavailable) -> Self {
        let exit = if e.is_interrupt() {
            Exit::Interrupted
        } else {
            Exit::Definition
        };
        Self::new(exit, e)
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Self::new(Exit::Failed, e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Failure, StoreError};

    #[test]
    fn what_to_try_with_a_store_follows_from_what_is_the_matter_with_it() {
        let hints = |why| {
            let error = Error::from(StoreError::Broken {
                doing: "reading the record of web".to_owned(),
                why,
                message: "so it is".to_owned(),
            });
            assert_eq!(error.exit, Exit::Unreachable, "{why:?}");
            error.hints.join(" ")
        };
        assert!(hints(Failure::Full).contains("disk"));
        for why in [
            Failure::ReadOnly,
            Failure::Busy,
            Failure::Damaged,
            Failure::Newer,
            Failure::Foreign,
            Failure::Distrusted,
            Failure::Other,
        ] {
            assert!(
                !hints(why).contains("full"),
                "{why:?} has nothing to do with room"
            );
        }
    }
}
