//! Looking ahead: what the load was at this time of earlier days or weeks, and how many instances that needs.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
