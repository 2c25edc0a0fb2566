//! A clock that nobody waits for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Virtual time: sleeping moves it on at once. Clones share one time.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Mutex<Timestamp>>);

impl Default for Clock {
    /// Begins on 1 January 2026, midnight UTC, and a little: real clocks show no round times, and what is written down may
    /// not come back to the nanosecond.
    fn default() -> Self {
        Self::at(Timestamp::constant(1_767_225_600, 123_456_789))
    }
}

impl Clock {
    /// A clock that shows `now`.
    pub fn at(now: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(now)))
    }

    /// The time it shows.
    pub fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves it on by `time`, without waiting.
    pub fn sleep(&self, time: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now = later(*now, time);
    }

    /// Sets it back, as somebody does with a real one, or as another machine's may be behind.
    pub fn set_back(&self, time: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let back = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
        *now = now.checked_sub(back).unwrap_or(Timestamp::MIN);
    }

    /// Sets it to `moment`, later or earlier.
    pub(super) fn set(&self, moment: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = moment;
    }

    /// Moves it on to `moment`, unless it is later already: things that go on side by side take the longest one's
    /// time, not the sum.
    pub fn reach(&self, moment: Timestamp) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now = moment.max(*now);
    }
}

/// `time` after `moment`; the end of time at most.
pub(super) fn later(moment: Timestamp, time: Duration) -> Timestamp {
    SignedDuration::try_from(time)
        .ok()
        .and_then(|time| moment.checked_add(time).ok())
        .unwrap_or(Timestamp::MAX)
}
