//! A load over time, to try policies on.

use jiff::{SignedDuration, Timestamp};

use crate::autoscale::predict::load;
use crate::autoscale::sample::Sample;

/// What the whole set had to do over time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// The metrics it is in, by name.
    pub metrics: Vec<String>,
    /// Oldest first, no two at one time.
    pub points: Vec<Point>,
}

/// What the whole set had to do from a moment on, until the next point.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// When.
    pub at: Timestamp,
    /// All instances' values together, for each metric of the trace; `None` where nothing is known.
    pub loads: Vec<Option<f64>>,
}

impl Trace {
    /// The trace of what was measured.
    pub fn of(samples: &[Sample]) -> Self {
        let mut metrics: Vec<String> = samples.iter().map(|s| s.metric.clone()).collect();
        metrics.sort();
        metrics.dedup();
        let mut points: Vec<Point> = Vec::new();
        let mut sorted: Vec<&Sample> = samples.iter().collect();
        sorted.sort_by_key(|s| s.at);
        for sample in sorted {
            let Ok(column) = metrics.binary_search(&sample.metric) else {
                continue;
            };
            if points.last().is_none_or(|p| p.at != sample.at) {
                points.push(Point {
                    at: sample.at,
                    loads: vec![None; metrics.len()],
                });
            }
            if let Some(point) = points.last_mut() {
                point.loads[column] = Some(load(sample));
            }
        }
        Self { metrics, points }
    }

    /// Puts points in order. Of several at one time the last one given counts.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.points.sort_by_key(|p| p.at);
        self.points.reverse();
        self.points.dedup_by_key(|p| p.at);
        self.points.reverse();
        self
    }

    /// The usual time between two points: that between most neighbours.
    pub fn step(&self) -> SignedDuration {
        let mut gaps: Vec<SignedDuration> = (self.points.windows(2))
            .map(|w| w[1].at.duration_since(w[0].at))
            .collect();
        gaps.sort();
        gaps.get(gaps.len() / 2)
            .copied()
            .unwrap_or(SignedDuration::from_mins(1))
    }

    /// The position of a metric, if the trace has it.
    pub fn column(&self, metric: &str) -> Option<usize> {
        self.metrics.iter().position(|m| m == metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(n: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + 60 * n).unwrap()
    }

    #[test]
    fn samples_of_several_metrics_become_one_trace() {
        let sample = |metric: &str, at, value| Sample::each(metric, minute(at), value, 3).unwrap();
        let trace = Trace::of(&[
            sample("host.cpu", 1, 20.0),
            sample("host.cpu", 0, 10.0),
            sample("lb.queue", 1, 1.0),
        ]);
        assert_eq!(trace.metrics, ["host.cpu", "lb.queue"]);
        let loads: Vec<_> = trace.points.iter().map(|p| p.loads.clone()).collect();
        assert_eq!(loads, [vec![Some(30.0), None], vec![Some(60.0), Some(3.0)]]);
        assert_eq!(trace.step().as_secs(), 60);
    }

    #[test]
    fn points_are_put_in_order_and_the_last_of_one_time_counts() {
        let point = |at, load| Point {
            at: minute(at),
            loads: vec![Some(load)],
        };
        let trace = Trace {
            metrics: vec!["load".to_owned()],
            points: vec![point(2, 1.0), point(0, 2.0), point(2, 3.0)],
        };
        assert_eq!(trace.sorted().points, [point(0, 2.0), point(2, 3.0)]);
    }
}
