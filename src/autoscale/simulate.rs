//! A policy tried on a trace, faster than real time: the same decisions, on instances that take their time to start and
//! share the load evenly.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::autoscale::decide::{Situation, decide};
use crate::autoscale::decision::Decision;
use crate::autoscale::metric::{Metric, Unit};
use crate::autoscale::policy::{Autoscale, Direction, Operator, Over, Profile, TOLERANCE};
use crate::autoscale::predict;
use crate::autoscale::sample::{FRESH, Sample, Samples};
use crate::autoscale::state::State;
use crate::autoscale::trace::Trace;

/// What a simulation is made under.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// How long an instance takes from its creation until it serves.
    pub start_up: Duration,
    /// Time between two evaluations.
    pub interval: Duration,
    /// Instances that serve at the beginning; `None`: as many as the policy would have.
    pub capacity: Option<u32>,
}

/// How a set would have gone.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// What it comes to.
    pub summary: Summary,
    /// Every evaluation, in order.
    pub steps: Vec<Step>,
    /// The decisions that changed the capacity, in order.
    pub decisions: Vec<Decision>,
    /// The metric that is shown: the first that the trace has of those that the policy goes by.
    pub metric: String,
    /// What it is in.
    #[serde(skip)]
    pub unit: Unit,
}

/// One evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Step {
    /// When.
    pub at: Timestamp,
    /// What the whole set had to do, in the metric that is shown; `None`: the trace does not say.
    pub load: Option<f64>,
    /// What each instance that served had to do; above 100 % it could not keep up. `None` as for `load`.
    pub each: Option<f64>,
    /// The lowest value above which a rule or target scales out; `None`: there is none for this metric now.
    pub threshold: Option<f64>,
    /// The capacity after the evaluation.
    pub capacity: u32,
    /// Instances that serve.
    pub serving: u32,
    /// What metrics alone ask for.
    pub recommended: u32,
    /// Fewest instances now.
    pub min: u32,
    /// Most instances now.
    pub max: u32,
}

/// What a simulation comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Most instances.
    pub most: u32,
    /// Fewest instances.
    pub fewest: u32,
    /// How often it scaled out.
    pub outs: u32,
    /// How often it scaled in.
    pub ins: u32,
    /// Instances times hours, those that are starting among them.
    pub instance_hours: f64,
    /// Seconds in which what each instance had to do was above the threshold.
    pub seconds_over: f64,
    /// Seconds in which instances had more to do than they can: above 100 per cent, or none served.
    pub seconds_saturated: f64,
    /// Seconds in all.
    pub seconds: f64,
}

/// Metrics that some profile of `policy` needs and that `trace` lacks.
pub fn lacks<'p>(policy: &'p Autoscale, trace: &Trace) -> Vec<&'p str> {
    let all = policy.metrics().into_iter().map(Metric::name);
    all.filter(|name| trace.column(name).is_none()).collect()
}

/// The threshold for what each instance has to do: the lowest at which a rule of `profile` scales out, or that much above its target.
fn threshold(profile: &Profile, metric: &str) -> Option<f64> {
    let rules = (profile.rules.iter())
        .filter(|r| r.metric.name() == metric && r.direction() == Direction::Out && r.over != Over::Sum)
        .filter(|r| matches!(r.operator, Operator::Above | Operator::AtLeast))
        .map(|r| r.threshold);
    let targets = (profile.targets.iter())
        .filter(|t| t.metric.name() == metric)
        .map(|t| t.value * (1.0 + TOLERANCE));
    rules.chain(targets).reduce(f64::min)
}

/// Instances of a simulated set: when each serves, earliest first.
struct Set(Vec<Timestamp>);

impl Set {
    fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    fn serving(&self, since: Timestamp) -> u32 {
        u32::try_from(self.0.partition_point(|at| *at <= since)).unwrap_or(u32::MAX)
    }

    /// The newest go first: those that have not served yet are missed least.
    fn scale(&mut self, to: u32, serves: Timestamp) {
        self.0.resize(to as usize, serves);
    }
}

/// Tries `policy` on `trace`. An empty trace gives an empty run.
pub fn simulate(policy: &Autoscale, trace: &Trace, conditions: Conditions) -> Run {
    let metrics = policy.metrics();
    let shown = (metrics.iter())
        .find(|m| trace.column(m.name()).is_some())
        .copied();
    let mut run = Run {
        summary: Summary {
            fewest: u32::MAX,
            ..Summary::default()
        },
        steps: Vec::new(),
        decisions: Vec::new(),
        metric: shown.map_or_else(String::new, |m| m.name().to_owned()),
        unit: shown.map_or(Unit::None, Metric::unit),
    };
    let (Some(first), Some(last)) = (trace.points.first(), trace.points.last()) else {
        run.summary.fewest = 0;
        return run;
    };
    let interval = SignedDuration::try_from(conditions.interval).unwrap_or(SignedDuration::from_mins(1));
    let interval = interval.max(SignedDuration::from_secs(1));
    let end = last.at.checked_add(trace.step()).unwrap_or(last.at);
    let mut world = Simulation {
        policy,
        trace,
        metrics: &metrics,
        shown,
        samples: Samples::default(),
        state: State::default(),
        set: Set(Vec::new()),
        conditions,
    };
    let capacity = conditions.capacity.unwrap_or_else(|| world.fitting(first.at));
    world.set.scale(capacity, Timestamp::MIN);
    world.fill_windows(first.at, interval);
    let mut at = first.at;
    let mut position = 0;
    while at < end {
        while trace.points.get(position + 1).is_some_and(|p| p.at <= at) {
            position += 1;
        }
        let step = world.step(position, at, &mut run);
        let next = at.checked_add(interval).unwrap_or(end).min(end);
        run.summary
            .add(&step, run.unit, next.duration_since(at).as_secs_f64());
        run.steps.push(step);
        at = next;
    }
    run
}

impl Summary {
    fn add(&mut self, step: &Step, unit: Unit, seconds: f64) {
        self.most = self.most.max(step.capacity);
        self.fewest = self.fewest.min(step.capacity);
        self.instance_hours += f64::from(step.capacity) * seconds / 3600.0;
        self.seconds += seconds;
        let load = step.load.unwrap_or(0.0);
        let is_saturated = match step.each {
            Some(each) => unit == Unit::Percent && each > 100.0,
            None => step.serving == 0 && load > 0.0,
        };
        if is_saturated {
            self.seconds_saturated += seconds;
        }
        let is_over = step
            .each
            .zip(step.threshold)
            .is_some_and(|(each, limit)| each > limit);
        if is_over || step.serving == 0 && load > 0.0 {
            self.seconds_over += seconds;
        }
    }
}

struct Simulation<'a> {
    policy: &'a Autoscale,
    trace: &'a Trace,
    metrics: &'a [&'a Metric],
    shown: Option<&'a Metric>,
    samples: Samples,
    state: State,
    set: Set,
    conditions: Conditions,
}

impl Simulation<'_> {
    /// As many instances as the first load asks for, so that a simulation does not begin with catching up.
    fn fitting(&self, at: Timestamp) -> u32 {
        let Some(profile) = self.policy.profile_at(at) else {
            return 0;
        };
        let needed = self.metrics.iter().filter_map(|metric| {
            let column = self.trace.column(metric.name())?;
            let load = self.trace.points.first()?.loads[column]?;
            Some(load / threshold(profile, metric.name())?)
        });
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the cast saturates, and a capacity has a maximum"
        )]
        let needed = needed.fold(0.0, f64::max).ceil().max(0.0) as u32;
        needed.max(profile.default).clamp(profile.min, profile.max)
    }

    /// The time before the trace was like its beginning: else every simulation would begin blind.
    fn fill_windows(&mut self, begin: Timestamp, interval: SignedDuration) {
        let window = SignedDuration::try_from(self.policy.longest_window()).unwrap_or_default();
        let mut at = begin.checked_sub(window + SignedDuration::try_from(FRESH).unwrap_or_default());
        while let Ok(then) = at
            && then < begin
        {
            self.measure(0, then);
            at = then.checked_add(interval);
        }
    }

    /// Takes samples at `at`, where the trace is at `position`. Returns what could not be measured.
    fn measure(&mut self, position: usize, at: Timestamp) -> BTreeMap<String, String> {
        let warm_up = SignedDuration::try_from(self.policy.warm_up).unwrap_or_default();
        let warm = at.checked_sub(warm_up).map_or(0, |since| self.set.serving(since));
        let serving = self.set.serving(at);
        let mut problems = BTreeMap::new();
        for metric in self.metrics {
            let name = metric.name();
            let load = self
                .trace
                .column(name)
                .and_then(|c| self.trace.points[position].loads[c]);
            let Some(load) = load else {
                problems.insert(name.to_owned(), "the trace does not say".to_owned());
                continue;
            };
            let each = load / f64::from(serving.max(1));
            let each = if metric.unit() == Unit::Percent {
                each.min(100.0)
            } else {
                each
            };
            let sample = match self.set.len() {
                0 => Sample::alone(name, at, load),
                _ => Sample::each(name, at, each, warm),
            };
            match sample {
                Some(sample) => self.samples.push(sample),
                None => {
                    problems.insert(name.to_owned(), "no instance is past its warm-up".to_owned());
                }
            }
        }
        problems
    }

    fn step(&mut self, position: usize, at: Timestamp, run: &mut Run) -> Step {
        let problems = self.measure(position, at);
        // What was measured just now is of this moment.
        let now = Sample::moment(at);
        let outlook = predict::outlook(self.policy, &self.samples, now);
        let serving = self.set.serving(at);
        let decision = decide(Situation {
            policy: self.policy,
            state: &self.state,
            samples: &self.samples,
            problems: &problems,
            capacity: self.set.len(),
            unseen: &[],
            protected: 0,
            pin: None,
            outlook: outlook.as_ref(),
            measured: now,
            now,
        });
        self.state = self.state.after(self.policy, &decision);
        let start_up = SignedDuration::try_from(self.conditions.start_up).unwrap_or_default();
        let serves = at.checked_add(start_up).unwrap_or(Timestamp::MAX);
        self.set.scale(decision.to, serves);
        let load = (self.shown.and_then(|m| self.trace.column(m.name())))
            .and_then(|column| self.trace.points[position].loads[column]);
        let profile = self.policy.profile_at(at);
        let step = Step {
            at,
            load,
            each: load.filter(|_| serving > 0).map(|load| load / f64::from(serving)),
            threshold: profile.zip(self.shown).and_then(|(p, m)| threshold(p, m.name())),
            capacity: decision.to,
            serving: serving.min(decision.to),
            recommended: decision.recommended,
            min: decision.min,
            max: decision.max,
        };
        match decision.to.cmp(&decision.from) {
            std::cmp::Ordering::Greater => run.summary.outs += 1,
            std::cmp::Ordering::Less => run.summary.ins += 1,
            std::cmp::Ordering::Equal => return step,
        }
        run.decisions.push(decision);
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autoscale::calendar::Zone;
    use crate::autoscale::policy::{Pattern, Predict, PredictMode};
    use crate::autoscale::testing::{MINUTE, at, policy};
    use crate::autoscale::trace::Point;

    const CONDITIONS: Conditions = Conditions {
        start_up: Duration::from_secs(120),
        interval: MINUTE,
        capacity: None,
    };

    /// A load of CPU percents, one for each minute.
    fn trace(loads: impl IntoIterator<Item = f64>) -> Trace {
        let begin = at("2026-11-23T00:00:00Z");
        let points = loads.into_iter().zip(0..).map(|(load, minute)| Point {
            at: begin.checked_add(SignedDuration::from_mins(minute)).unwrap(),
            loads: vec![Some(load)],
        });
        Trace {
            metrics: vec!["host.cpu".to_owned()],
            points: points.collect(),
        }
    }

    #[test]
    fn a_spike_is_followed_as_fast_as_instances_start() {
        let policy = policy(&[], &[("host.cpu", 50.0)]);
        let loads = [100.0; 10].into_iter().chain([200.0; 10]).chain([100.0; 10]);
        let run = simulate(&policy, &trace(loads), CONDITIONS);
        let capacity: Vec<u32> = run.steps.iter().map(|s| s.capacity).collect();
        assert_eq!(capacity[..10], [2; 10]);
        assert_eq!(capacity[10], 4, "200 ÷ 50");
        let serving: Vec<u32> = run.steps[10..13].iter().map(|s| s.serving).collect();
        assert_eq!(serving, [2, 2, 4]);
        assert_eq!(run.summary.outs, 1);
        assert_eq!(run.summary.seconds_over, 120.0, "until the new ones serve");
        assert_eq!(run.summary.seconds_saturated, 0.0);
    }

    #[test]
    fn a_trace_between_two_milliseconds_is_followed_as_any_other() {
        let policy = policy(&[], &[("host.cpu", 50.0)]);
        let mut odd = trace([100.0; 10].into_iter().chain([300.0; 10]));
        for point in &mut odd.points {
            point.at += SignedDuration::from_nanos(122_999_907);
        }
        let sizes = simulate(&policy, &odd, CONDITIONS).summary;
        assert_eq!((sizes.fewest, sizes.most), (2, 6));
    }

    #[test]
    fn the_sum_of_a_run_adds_up() {
        let mut policy = policy(&[], &[]);
        policy.profiles[0].default = 3;
        let run = simulate(&policy, &trace([0.0; 120]), CONDITIONS);
        assert!((run.summary.instance_hours - 6.0).abs() < 1e-9);
        assert_eq!((run.summary.most, run.summary.fewest), (3, 3));
        assert_eq!(run.summary.seconds, 7200.0);
        assert_eq!(simulate(&policy, &Trace::default(), CONDITIONS).steps.len(), 0);
    }

    #[test]
    fn what_is_more_than_instances_can_do_shows_as_full_and_not_as_more() {
        let mut policy = policy(&["host.cpu > 75: out 1"], &[]);
        (policy.profiles[0].max, policy.profiles[0].default) = (2, 2);
        let run = simulate(&policy, &trace([1000.0; 10]), CONDITIONS);
        assert_eq!(run.summary.seconds_saturated, 600.0);
        assert_eq!(run.steps[0].each, Some(500.0));
    }

    #[test]
    fn a_gap_in_the_trace_is_a_metric_that_is_missing() {
        let mut gap = trace([300.0; 30]);
        for point in &mut gap.points[10..20] {
            point.loads[0] = None;
        }
        let policy = policy(&["host.cpu < 90: in 1"], &[]);
        let run = simulate(&policy, &gap, CONDITIONS);
        let during = &run.steps[11..20];
        assert!(
            during
                .iter()
                .all(|s| s.capacity == during[0].capacity && s.load.is_none())
        );
    }

    #[test]
    fn a_metric_that_the_trace_lacks_is_named() {
        let policy = policy(&["host.cpu > 75: out 1", "lb.queue > 3: out 1"], &[]);
        assert_eq!(lacks(&policy, &trace([1.0])), ["lb.queue"]);
    }

    /// Five days with a peak at the same hour each: from the third on the prediction is there before the load.
    #[test]
    fn a_prediction_gains_the_time_that_instances_take_to_start() {
        let day = (0..1440).map(|minute| {
            if (480..600).contains(&minute) {
                900.0
            } else {
                100.0
            }
        });
        let days = trace(std::iter::repeat_n(day, 5).flatten());
        let without = policy(&[], &[("host.cpu", 60.0)]);
        let mut with = without.clone();
        with.predict = Some(Predict {
            mode: PredictMode::Scale,
            pattern: Pattern::Daily,
            lead: 10 * MINUTE,
            zone: Zone::utc(),
        });
        let (without, with) = (
            simulate(&without, &days, CONDITIONS),
            simulate(&with, &days, CONDITIONS),
        );
        // Instances that are full don't show by how much: it takes four starts in a row, of two minutes each.
        assert_eq!(without.summary.seconds_saturated, 5.0 * 480.0);
        assert_eq!(
            with.summary.seconds_saturated,
            2.0 * 480.0,
            "two days are no pattern yet"
        );
        assert!(with.summary.instance_hours > without.summary.instance_hours);
    }
}
