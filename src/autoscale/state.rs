//! What autoscaling remembers from one evaluation to the next. Part of the record.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::autoscale::decision::{Decision, Move};
use crate::autoscale::policy::{Autoscale, Direction};

/// What autoscaling remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Who has switched it off, if anybody has.
    #[serde(default)]
    pub disabled: Option<Disabled>,
    /// The last rule or target that changed the capacity.
    #[serde(default)]
    pub fired: Option<Fired>,
    /// Recommendations, for stabilisation.
    #[serde(default)]
    pub recommended: Peaks,
    /// Capacities, for the limit on scale in.
    #[serde(default)]
    pub sizes: Peaks,
    /// The capacity after the last evaluation: another one now is somebody's wish.
    #[serde(default)]
    pub left_at: Option<u32>,
}

/// Autoscaling that was switched off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disabled {
    /// Who did, as `user@machine`.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// A rule or target that has changed the capacity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    /// When.
    pub at: Timestamp,
    /// Which way.
    pub direction: Direction,
    /// How long it keeps others from firing.
    pub cooldown: Duration,
}

/// The capacity for a while, whatever the policy says: `vmss scale N --for`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The capacity.
    pub capacity: u32,
    /// Who wanted it, as `user@machine`.
    pub by: String,
    /// Until when.
    pub until: Timestamp,
}

/// Values over time, as far as is needed to tell the highest of some time back from now: one that a later and higher one
/// has followed tells nothing any more. Each holds until the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Peaks(Vec<Peak>);

/// A value from some moment on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Peak {
    /// Since when.
    from: Timestamp,
    /// Until when it held; what comes after it is lower.
    to: Timestamp,
    /// The value.
    value: u32,
}

impl Peaks {
    /// The highest value that held at some moment from `begin` on. The last one still does.
    pub fn highest(&self, begin: Timestamp) -> Option<u32> {
        let (last, before) = self.0.split_last()?;
        let before = before.iter().filter(|p| p.to >= begin).map(|p| p.value);
        before.chain([last.value]).max()
    }

    /// Whether nothing was noted yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes that `value` holds at `now`, and that the one before held until now; forgets what had ended before `begin`.
    fn note(&mut self, value: u32, now: Timestamp, begin: Timestamp) {
        // What is yet to come was noted by a clock that went wrong. It counts from now on, or it would for as long as that
        // clock was ahead.
        for peak in &mut self.0 {
            (peak.from, peak.to) = (peak.from.min(now), peak.to.min(now));
        }
        if let Some(last) = self.0.last_mut() {
            last.to = last.to.max(now);
        }
        let mut from = now;
        while let Some(last) = self.0.pop_if(|last| last.value <= value) {
            if last.value == value {
                from = last.from;
            }
        }
        self.0.push(Peak { from, to: now, value });
        self.0.retain(|p| p.to >= begin);
    }
}

fn back(now: Timestamp, span: Duration) -> Timestamp {
    let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    now.checked_sub(span).unwrap_or(Timestamp::MIN)
}

impl State {
    /// The highest recommendation of the last `span`, if there was any.
    pub(super) fn recommended_within(&self, span: Duration, now: Timestamp) -> Option<u32> {
        self.recommended.highest(back(now, span))
    }

    /// The highest capacity of the last `span`, if any was noted.
    pub(super) fn largest_within(&self, span: Duration, now: Timestamp) -> Option<u32> {
        self.sizes.highest(back(now, span))
    }

    /// Until when nothing may go `direction`, if it may not now.
    pub fn cools_until(&self, policy: &Autoscale, direction: Direction, now: Timestamp) -> Option<Timestamp> {
        let fired = self.fired.as_ref()?;
        let own = match direction {
            Direction::Out => policy.cooldown_out,
            Direction::In => policy.cooldown_in,
        };
        let span = own.unwrap_or(fired.cooldown);
        let until = crate::health::later(fired.at, span);
        // One that fired a little in the future was noted by a clock that is ahead, as those of two machines are. One that
        // fired further ahead than it holds was noted by a clock that went wrong: it holds nobody up.
        let is_likely = fired.at <= crate::health::later(now, span);
        (now < until && is_likely).then_some(until)
    }

    /// What is remembered after `decision`, which was carried out.
    #[must_use]
    pub fn after(&self, policy: &Autoscale, decision: &Decision) -> Self {
        let mut next = self.clone();
        let now = decision.at;
        let begin = back(now, policy.stabilization);
        if next.recommended.is_empty() || next.left_at.is_some_and(|left| left != decision.from) {
            // What was there before anybody recommended anything, and what somebody wished for, counts as recommended.
            next.recommended.note(decision.from, now, begin);
        }
        next.recommended.note(decision.recommended, now, begin);
        let begin = back(now, policy.max_scale_in.map_or(Duration::ZERO, |m| m.per));
        next.sizes.note(decision.from, now, begin);
        next.sizes.note(decision.to, now, begin);
        if let Move::By { direction, cooldown } = decision.moved {
            next.fired = Some(Fired {
                at: now,
                direction,
                cooldown,
            });
        }
        next.left_at = Some(decision.to);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn noted(values: &[(i64, u32)]) -> Peaks {
        let mut peaks = Peaks::default();
        for (second, value) in values {
            peaks.note(*value, at(*second), at(second - 100));
        }
        peaks
    }

    #[test]
    fn the_highest_of_a_time_is_remembered_until_that_has_passed() {
        let peaks = noted(&[(0, 5), (10, 9), (20, 7), (30, 3), (40, 3)]);
        assert_eq!(peaks.highest(at(0)), Some(9));
        assert_eq!(peaks.highest(at(20)), Some(9), "it held until the next was noted");
        assert_eq!(peaks.highest(at(21)), Some(7));
        assert_eq!(peaks.highest(at(31)), Some(3));
        assert_eq!(peaks.0.len(), 3);
        assert_eq!(noted(&[(0, 5), (10, 9), (300, 2)]).highest(at(200)), Some(9));
    }

    #[test]
    fn what_a_clock_that_was_ahead_has_noted_counts_from_now_on() {
        let mut peaks = noted(&[(7200, 9), (7260, 4)]);
        peaks.note(4, at(0), at(-100));
        assert_eq!(peaks.highest(at(0)), Some(9));
        peaks.note(4, at(60), at(-40));
        assert_eq!(peaks.highest(at(1)), Some(4));
    }

    #[test]
    fn a_cooldown_holds_though_the_clock_that_noted_it_is_a_little_ahead_and_not_if_that_went_wrong() {
        let policy = crate::autoscale::testing::policy(&[], &[]);
        let fired = Fired {
            at: at(1000),
            direction: Direction::Out,
            cooldown: Duration::from_secs(60),
        };
        let state = State {
            fired: Some(fired),
            ..State::default()
        };
        let holds = |now| state.cools_until(&policy, Direction::Out, at(now)).is_some();
        for (now, expected) in [
            (1000, true),
            (1059, true),
            (1060, false),
            (999, true),
            (940, true),
            (939, false),
        ] {
            assert_eq!(holds(now), expected, "at {now}");
        }
    }

    #[test]
    fn one_that_holds_on_is_one_entry() {
        assert_eq!(noted(&[(0, 5), (10, 5), (20, 5)]).0.len(), 1);
    }
}
