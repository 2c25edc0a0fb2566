//! Counters as they were read last: what a rate is the difference to.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::names::InstanceId;

/// Longest time that a rate is taken over: over a longer one it tells nothing of now.
const LONGEST: SignedDuration = SignedDuration::from_mins(15);

/// Shortest time: over a shorter one it tells of the moment's noise.
const SHORTEST: SignedDuration = SignedDuration::from_secs(1);

/// Counters of a set's instances, by what they count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Readings(BTreeMap<String, BTreeMap<InstanceId, Counter>>);

/// A counter as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counter {
    /// When.
    pub at: Timestamp,
    /// What it had counted.
    pub value: f64,
    /// What it is a share of, if of anything else than time in seconds.
    #[serde(default)]
    pub of: Option<f64>,
}

impl Counter {
    fn is_finite(&self) -> bool {
        self.value.is_finite() && self.of.is_none_or(f64::is_finite)
    }
}

impl Readings {
    /// Notes a counter. One that is no number is none: it could not be kept as JSON, and no rate can be taken against it.
    pub fn note(&mut self, what: &str, id: InstanceId, counter: Counter) {
        if !counter.is_finite() {
            return;
        }
        match self.0.get_mut(what) {
            Some(counters) => {
                counters.insert(id, counter);
            }
            None => {
                self.0.insert(what.to_owned(), BTreeMap::from([(id, counter)]));
            }
        }
    }

    /// How fast a counter has grown since it was read last, per second or per whatever it is a share of. `None` if it was
    /// not, or too long ago, or has begun anew since.
    pub fn rate(&self, what: &str, id: InstanceId, now: &Counter) -> Option<f64> {
        let before = self.0.get(what)?.get(&id)?;
        let passed = now.at.duration_since(before.at);
        if passed < SHORTEST || passed > LONGEST || now.value < before.value {
            return None;
        }
        let of = match (now.of, before.of) {
            (Some(now), Some(before)) => now - before,
            (None, None) => Duration::try_from(passed).ok()?.as_secs_f64(),
            _ => return None,
        };
        (of > 0.0).then(|| (now.value - before.value) / of)
    }

    /// What was read, and of the rest what was known before and is young enough to be of use: a look that comes too soon
    /// after another does not begin anew.
    ///
    /// All counters of one thing go on together. One that went on alone would have its rate at looks at which the others
    /// have none, for as long as somebody looks that often, and there would be no sample of all.
    #[must_use]
    pub fn after(&self, read: Self, now: Timestamp) -> Self {
        let mut next = read;
        for (what, counters) in &self.0 {
            // What was read in the future was read by a clock that went wrong, and would be kept until that time comes.
            let age = |counter: &Counter| {
                let age = now.duration_since(counter.at);
                (!age.is_negative()).then_some(age)
            };
            let is_soon = (counters.values()).any(|c| age(c).is_some_and(|age| age < SHORTEST));
            let taken = next.0.entry(what.clone()).or_default();
            for (id, counter) in counters {
                let is_kept = match taken.get(id) {
                    Some(read) => is_soon && read.value >= counter.value,
                    None => true,
                };
                if is_kept && age(counter).is_some_and(|age| age <= LONGEST) {
                    taken.insert(*id, *counter);
                }
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: InstanceId = InstanceId(1);

    fn counter(second: i64, value: f64) -> Counter {
        Counter {
            at: Timestamp::from_second(second).unwrap(),
            value,
            of: None,
        }
    }

    fn read(second: i64, value: f64) -> Readings {
        let mut readings = Readings::default();
        readings.note("cpu", ONE, counter(second, value));
        readings
    }

    #[test]
    fn a_rate_is_the_difference_of_two_readings() {
        let before = read(0, 10.0);
        assert_eq!(before.rate("cpu", ONE, &counter(60, 40.0)), Some(0.5));
        assert_eq!(
            before.rate("cpu", ONE, &counter(60, 9.0)),
            None,
            "it has begun anew"
        );
        assert_eq!(
            before.rate("cpu", ONE, &counter(1000, 40.0)),
            None,
            "that was long ago"
        );
        assert_eq!(before.rate("cpu", InstanceId(2), &counter(60, 40.0)), None);
        let share = |value, of| Counter {
            of: Some(of),
            ..counter(0, value)
        };
        let mut before = Readings::default();
        before.note("guest", ONE, share(50.0, 100.0));
        let now = Counter {
            at: Timestamp::from_second(30).unwrap(),
            ..share(80.0, 200.0)
        };
        assert_eq!(before.rate("guest", ONE, &now), Some(0.3));
    }

    #[test]
    fn a_look_right_after_another_does_not_begin_anew() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let known = read(100, 10.0);
        assert_eq!(known.after(read(160, 40.0), at(160)), read(160, 40.0));
        assert_eq!(
            known.after(Readings::default(), at(160)),
            known,
            "it could not be read once"
        );
        assert_eq!(
            known
                .after(Readings::default(), at(2000))
                .rate("cpu", ONE, &counter(2001, 90.0)),
            None
        );
    }

    #[test]
    fn what_a_clock_that_was_ahead_has_read_is_forgotten() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let known = read(7200, 10.0).after(read(0, 10.0), at(0));
        assert_eq!(known.rate("cpu", ONE, &counter(60, 40.0)), Some(0.5));
        let unread = read(7200, 10.0).after(Readings::default(), at(0));
        assert_eq!(unread.rate("cpu", ONE, &counter(7260, 40.0)), None);
    }

    #[test]
    fn counters_first_read_at_different_looks_are_soon_measured_at_the_same_one() {
        let mut known = Readings::default();
        let mut measured = Vec::new();
        for look in 0..20_i64 {
            let now = Timestamp::from_millisecond(look * 400).unwrap();
            let mut read = Readings::default();
            // The second is there from the second look on.
            let ids = [ONE, InstanceId(2)]
                .into_iter()
                .take(if look == 0 { 1 } else { 2 });
            let mut rates = 0;
            for id in ids {
                let counter = Counter {
                    at: now,
                    ..counter(0, 10.0 + f64::from(u32::try_from(look).unwrap()))
                };
                rates += usize::from(known.rate("cpu", id, &counter).is_some());
                read.note("cpu", id, counter);
            }
            measured.push(rates);
            known = known.after(read, now);
        }
        assert!(
            measured[5..].contains(&2) && !measured[5..].contains(&1),
            "some were measured without the others: {measured:?}"
        );
    }
}
