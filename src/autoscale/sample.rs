//! What was measured, and what it comes to over a time.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::autoscale::policy::{Over, Statistic};

/// How old the newest sample may be for its metric to count as measured: what comes later than that after a measurement
/// is another look.
pub const FRESH: Duration = Duration::from_secs(60);

/// How long before a window its first sample may have been taken: who measures every minute or every five does so a little
/// early or late.
const SLACK: Duration = Duration::from_secs(90);

/// One metric of one set at one moment, over its instances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The metric's name.
    pub metric: String,
    /// When.
    pub at: Timestamp,
    /// Instances that count: healthy, and past their warm-up, and measured.
    pub instances: u32,
    /// Instances that should count and could not be measured.
    pub missing: u32,
    /// All values together.
    pub sum: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Sample {
    /// The moment of what is measured while a clock shows `now`: whole milliseconds, so that it comes back from wherever it is
    /// kept as the same.
    pub fn moment(now: Timestamp) -> Timestamp {
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }

    /// A sample of the values of instances, `missing` of which could not be measured; `None` if there are none, or if they
    /// add up to nothing that is a number.
    pub fn of(metric: &str, at: Timestamp, values: &[f64], missing: u32) -> Option<Self> {
        let first = *values.first()?;
        let sample = Self {
            metric: metric.to_owned(),
            at: Self::moment(at),
            instances: u32::try_from(values.len()).unwrap_or(u32::MAX),
            missing,
            sum: values.iter().sum(),
            min: values.iter().copied().fold(first, f64::min),
            max: values.iter().copied().fold(first, f64::max),
        };
        sample.finite()
    }

    /// A sample of what is the same for each of `instances`; `None` as in [`Self::of`].
    pub fn each(metric: &str, at: Timestamp, value: f64, instances: u32) -> Option<Self> {
        let sample = Self {
            metric: metric.to_owned(),
            at: Self::moment(at),
            instances,
            missing: 0,
            sum: value * f64::from(instances),
            min: value,
            max: value,
        };
        sample.finite().filter(|s| s.instances > 0)
    }

    /// A sample of what all of `instances` have together; `None` as in [`Self::of`].
    pub fn shared(metric: &str, at: Timestamp, value: f64, instances: u32) -> Option<Self> {
        let share = value / f64::from(instances);
        Self::each(metric, at, share, instances)
    }

    /// A sample of what waits for a set that has no instances; `None` if that is no number.
    pub fn alone(metric: &str, at: Timestamp, value: f64) -> Option<Self> {
        let sample = Self {
            metric: metric.to_owned(),
            at: Self::moment(at),
            instances: 0,
            missing: 0,
            sum: value,
            min: value,
            max: value,
        };
        sample.finite()
    }

    /// The sample, if its numbers are numbers: others can't be kept, nor anything be decided by them. The sum is none as
    /// soon as one of its parts is none.
    fn finite(self) -> Option<Self> {
        self.sum.is_finite().then_some(self)
    }

    /// The values of instances as one.
    pub fn over(&self, over: Over) -> f64 {
        match over {
            Over::Average => self.sum / f64::from(self.instances.max(1)),
            Over::Min => self.min,
            Over::Max => self.max,
            Over::Sum => self.sum,
        }
    }
}

/// The samples of a set, by metric, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Samples(BTreeMap<String, Vec<Sample>>);

impl FromIterator<Sample> for Samples {
    fn from_iter<I: IntoIterator<Item = Sample>>(samples: I) -> Self {
        let mut all = Self::default();
        for sample in samples {
            all.0.entry(sample.metric.clone()).or_default().push(sample);
        }
        for series in all.0.values_mut() {
            series.sort_by_key(|s| s.at);
        }
        all
    }
}

/// What a metric comes to over a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The value.
    pub value: f64,
    /// The values of all instances together, on average over the time: what the whole set had to do, however many they were.
    pub load: f64,
    /// Instances that were measured last.
    pub instances: u32,
    /// Instances that should have been.
    pub missing: u32,
    /// Samples it is of.
    pub samples: usize,
    /// When the newest of them was taken.
    pub at: Timestamp,
}

impl Samples {
    /// Adds a sample that is newer than those that are there.
    pub fn push(&mut self, sample: Sample) {
        match self.0.get_mut(&sample.metric) {
            Some(series) => series.push(sample),
            None => {
                self.0.insert(sample.metric.clone(), vec![sample]);
            }
        }
    }

    /// Every sample of a metric, oldest first.
    pub fn of(&self, metric: &str) -> &[Sample] {
        self.0.get(metric).map_or(&[], Vec::as_slice)
    }

    /// What a metric comes to over `window` back from `now`; zero: its newest value.
    ///
    /// # Errors
    /// Why that can't be told, as the rest of a sentence that begins with the metric's name.
    pub fn read(
        &self,
        metric: &str,
        over: Over,
        statistic: Statistic,
        window: Duration,
        now: Timestamp,
    ) -> Result<Reading, String> {
        let back = |span: Duration| {
            let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
            now.checked_sub(span).unwrap_or(Timestamp::MIN)
        };
        let known = self.of(metric);
        let known = &known[..known.partition_point(|s| s.at <= now)];
        let Some(newest) = known.last() else {
            return Err("was not measured yet".to_owned());
        };
        if newest.at < back(FRESH) {
            let age = now.duration_since(newest.at);
            return Err(format!(
                "was measured last {} ago",
                crate::autoscale::spelling::age(age)
            ));
        }
        let begin = back(window);
        let samples = match window.is_zero() {
            true => std::slice::from_ref(newest),
            false => &known[known.partition_point(|s| s.at < begin)..],
        };
        // What covers less than half of a window is no measure of it.
        let earliest = known.partition_point(|s| s.at < back(window + SLACK));
        let covered = known
            .get(earliest)
            .map_or(SignedDuration::ZERO, |s| now.duration_since(s.at));
        if covered < SignedDuration::try_from(window / 2).unwrap_or(SignedDuration::MAX) {
            return Err(format!(
                "has samples of {} only, of {}",
                crate::autoscale::spelling::age(covered),
                crate::autoscale::spelling::span(window)
            ));
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of samples is small")]
        let mean = |over| samples.iter().map(|s| s.over(over)).sum::<f64>() / samples.len() as f64;
        let values = samples.iter().map(|s| s.over(over));
        let value = match statistic {
            Statistic::Average => mean(over),
            Statistic::Min => values.fold(f64::INFINITY, f64::min),
            Statistic::Max => values.fold(f64::NEG_INFINITY, f64::max),
            Statistic::Last => newest.over(over),
        };
        let load = mean(Over::Sum);
        if !value.is_finite() || !load.is_finite() {
            return Err("has samples that are no numbers".to_owned());
        }
        Ok(Reading {
            value,
            load,
            instances: newest.instances,
            missing: newest.missing,
            samples: samples.len(),
            at: newest.at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(n: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + 60 * n).unwrap()
    }

    fn samples(values: &[(i64, f64)]) -> Samples {
        let of = |(at, value): &(i64, f64)| Sample::each("cpu", minute(*at), *value, 3);
        values.iter().filter_map(of).collect()
    }

    const FIVE: Duration = Duration::from_secs(300);

    #[test]
    fn a_window_is_averaged_from_its_samples() {
        let samples = samples(&[
            (0, 1000.0),
            (5, 10.0),
            (6, 20.0),
            (7, 30.0),
            (8, 40.0),
            (9, 50.0),
            (10, 60.0),
        ]);
        let read = |statistic| {
            let reading = samples
                .read("cpu", Over::Average, statistic, FIVE, minute(10))
                .unwrap();
            reading.value
        };
        assert_eq!(read(Statistic::Average), 35.0);
        assert_eq!(read(Statistic::Min), 10.0);
        assert_eq!(read(Statistic::Max), 60.0);
        assert_eq!(read(Statistic::Last), 60.0);
        let sum = samples.read("cpu", Over::Sum, Statistic::Last, Duration::ZERO, minute(10));
        assert_eq!(sum.unwrap().value, 180.0);
    }

    #[test]
    fn what_is_old_or_covers_less_than_half_of_its_window_is_missing() {
        let said = |samples: &Samples, now| {
            (samples.read("cpu", Over::Average, Statistic::Average, FIVE, minute(now))).unwrap_err()
        };
        assert_eq!(said(&Samples::default(), 0), "was not measured yet");
        let old = samples(&[(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0)]);
        assert_eq!(said(&old, 5), "was measured last 2m ago");
        let short = samples(&[(3, 1.0), (4, 1.0)]);
        assert_eq!(said(&short, 4), "has samples of 1m only, of 5m");
        let enough = samples(&[(1, 1.0), (4, 1.0)]);
        assert!(
            enough
                .read("cpu", Over::Average, Statistic::Average, FIVE, minute(4))
                .is_ok()
        );
    }

    #[test]
    fn who_measures_as_seldom_as_the_window_is_long_may_be_a_little_late() {
        let taken = |seconds: &[i64]| -> Samples {
            let at = |s: &i64| minute(0).checked_add(SignedDuration::from_secs(*s)).unwrap();
            seconds
                .iter()
                .filter_map(|s| Sample::each("cpu", at(s), 1.0, 3))
                .collect()
        };
        let now = minute(0).checked_add(SignedDuration::from_secs(303)).unwrap();
        let read = |samples: &Samples, window| {
            samples
                .read("cpu", Over::Average, Statistic::Average, window, now)
                .map(|r| r.samples)
        };
        assert_eq!(read(&taken(&[0, 303]), FIVE), Ok(1));
        assert_eq!(read(&taken(&[240, 303]), Duration::from_secs(60)), Ok(1));
        assert!(read(&taken(&[-120, 303]), FIVE).is_err(), "that was another time");
    }

    #[test]
    fn what_comes_after_now_does_not_count() {
        let samples = samples(&[(0, 1.0), (9, 5.0)]);
        let read = samples.read("cpu", Over::Average, Statistic::Last, Duration::ZERO, minute(0));
        assert_eq!(read.unwrap().value, 1.0);
    }

    #[test]
    fn a_set_without_instances_has_no_sample() {
        assert_eq!(Sample::of("cpu", minute(0), &[], 2), None);
        assert_eq!(Sample::shared("queue", minute(0), 1250.0, 0), None);
        assert_eq!(
            Sample::shared("queue", minute(0), 1250.0, 5).map(|s| s.max),
            Some(250.0)
        );
    }

    #[test]
    fn what_is_no_number_is_no_sample() {
        for wild in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX] {
            assert_eq!(Sample::of("cpu", minute(0), &[1.0, wild, f64::MAX], 0), None);
            assert_eq!(Sample::each("cpu", minute(0), wild, 3), None);
        }
        for wild in [f64::NAN, f64::INFINITY] {
            assert_eq!(Sample::shared("queue", minute(0), wild, 3), None);
            assert_eq!(Sample::alone("queue", minute(0), wild), None);
        }
    }
}
