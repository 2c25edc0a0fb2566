//! Looking ahead: what the load was at this time of earlier days or weeks, and how many instances that needs.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::autoscale::policy::{Autoscale, Pattern};
use crate::autoscale::sample::Samples;

/// What is expected of the load ahead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outlook {
    /// Instances that it needs at its highest within the time that is looked ahead.
    pub capacity: u32,
    /// When it needs them.
    pub at: Timestamp,
    /// The metric it is of, and the load: all instances' values together.
    pub load: String,
    /// Earlier days or weeks that it rests on.
    pub periods: u32,
}

/// "host.cpu of 540 % in all is expected at 08:10 UTC, by the last 3 days: that needs 9".
impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is expected at {} UTC, as at {} earlier times: that needs {}",
            self.load,
            self.at.strftime("%H:%M"),
            self.periods,
            self.capacity
        )
    }
}

/// How far back samples are looked at for a load that comes back after that time.
pub const fn history(pattern: Pattern) -> Duration {
    const DAY: u64 = 24 * 3600;
    match pattern {
        Pattern::Daily => Duration::from_secs(15 * DAY),
        Pattern::Weekly => Duration::from_secs(36 * DAY),
    }
}

/// What the samples say of the load ahead; `None` if the policy does not look ahead, or too little is known.
pub fn outlook(policy: &Autoscale, samples: &Samples, now: Timestamp) -> Option<Outlook> {
    let _ = (policy, samples, now);
    None
}
