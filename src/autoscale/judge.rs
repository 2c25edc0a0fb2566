//! What each rule and target of a profile says of what was measured.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::autoscale::decision::{Measured, Verdict};
use crate::autoscale::metric::{Metric, Unit};
use crate::autoscale::policy::{Direction, Operator, Over, Profile, Rule, Statistic, TOLERANCE, Target};
use crate::autoscale::sample::{Reading, Samples};

/// What is judged by.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    pub samples: &'a Samples,
    /// What could not be measured just now, by the metric's name, and why.
    pub problems: &'a BTreeMap<String, String>,
    pub capacity: u32,
    /// When was measured.
    pub now: Timestamp,
}

/// A rule or target with what it judges.
pub(super) struct Judged<'p> {
    pub by: By<'p>,
    pub reading: Result<Reading, String>,
    /// Why there is no newer value, if it is not of just now. What was acted on once is not acted on again.
    pub stale: Option<String>,
    /// Which way it wants to go, and to which capacity.
    pub wants: Option<(Direction, u32)>,
    /// What each of those that are wanted will have of a target's metric once all of them are there, if that is why no more are
    /// asked for.
    soon: Option<f64>,
    /// The most that each of those that are there may have, by all that was measured in a target's window: with more than
    /// its value, the set does not shrink.
    most: Option<f64>,
}

/// What judges.
#[derive(Clone, Copy)]
pub(super) enum By<'p> {
    Rule(&'p Rule),
    Target(&'p Target),
}

impl By<'_> {
    const fn metric(&self) -> &Metric {
        match self {
            Self::Rule(rule) => &rule.metric,
            Self::Target(target) => &target.metric,
        }
    }

    pub const fn cooldown(&self) -> Duration {
        match self {
            Self::Rule(rule) => rule.cooldown,
            Self::Target(target) => target.cooldown,
        }
    }

    const fn over(&self) -> Over {
        match self {
            Self::Rule(rule) => rule.over,
            Self::Target(_) => Over::Average,
        }
    }

    /// Whether it has a say when the set may shrink.
    pub const fn speaks_of_in(&self) -> bool {
        match self {
            Self::Rule(rule) => matches!(rule.direction(), Direction::In),
            Self::Target(_) => true,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Rule(rule) => rule.to_string(),
            Self::Target(target) => target.to_string(),
        }
    }

    const fn unit(&self) -> Unit {
        self.metric().unit()
    }
}

/// Every rule and target of `profile`, in declared order.
pub(super) fn judge<'p>(profile: &'p Profile, facts: Facts<'_>) -> Vec<Judged<'p>> {
    let rules = profile.rules.iter().map(By::Rule);
    let targets = profile.targets.iter().map(By::Target);
    rules.chain(targets).map(|by| judged(by, facts)).collect()
}

/// Why there is no value though everybody has answered: a rate needs two looks at a counter.
const BEGUN_ANEW: &str = "its counters have begun anew";

fn judged<'p>(by: By<'p>, facts: Facts<'_>) -> Judged<'p> {
    let (statistic, window) = match by {
        By::Rule(rule) => (rule.statistic, rule.window),
        By::Target(target) => (Statistic::Average, target.window),
    };
    let name = by.metric().name();
    let mut reading =
        (facts.samples.read(name, by.over(), statistic, window, facts.now)).map_err(|missing| {
            match facts.problems.get(name) {
                Some(problem) => format!("{missing}: {problem}"),
                None => missing,
            }
        });
    let is_old = reading.as_ref().is_ok_and(|reading| reading.at < facts.now);
    let why = || {
        facts
            .problems
            .get(name)
            .cloned()
            .unwrap_or_else(|| BEGUN_ANEW.to_owned())
    };
    let stale = is_old.then(why);
    let (mut most, mut soon) = (None, None);
    let wants = reading.as_mut().ok().and_then(|reading| match by {
        By::Rule(rule) => {
            let to = rule.apply(facts.capacity);
            (rule.fires(reading.value) && to != facts.capacity).then(|| (rule.direction(), to))
        }
        By::Target(target) => {
            let each = Each::of(reading, facts.capacity);
            (reading.value, most) = (each.least, Some(each.most));
            let wants = desired(target, &each, reading.instances, facts.capacity);
            let is_high = each.least > target.value * (1.0 + TOLERANCE);
            soon = (is_high && wants.is_none()).then(|| each.soon(facts.capacity));
            wants
        }
    });
    Judged {
        wants: wants.filter(|_| stale.is_none()),
        by,
        reading,
        stale,
        soon,
        most,
    }
}

/// What each of the instances that are there now has of what was measured over a window.
///
/// It is the load that is averaged, and what each had of it, for each of them alone is wrong whenever instances have come or
/// gone: when the set has just grown, its instances of now do not have what those few had before; when some are not measured
/// any more, those that are do not have the load of all.
struct Each {
    /// Those whose load it is: measured just now, and not about to go.
    there: f64,
    /// By whichever is less.
    least: f64,
    /// By whichever is more.
    most: f64,
}

impl Each {
    fn of(reading: &Reading, capacity: u32) -> Self {
        // Those beyond the capacity are about to go. What waits for a set without instances is the load of one.
        let there = f64::from(reading.instances.min(capacity).max(1));
        let had = reading.value * f64::from(reading.instances.max(1));
        Self {
            there,
            least: reading.load.min(had) / there,
            most: reading.load.max(had) / there,
        }
    }

    /// What each will have, at the least, once as many are there as are wanted.
    fn soon(&self, capacity: u32) -> f64 {
        self.least * self.there / f64::from(capacity).max(self.there)
    }
}

/// What a target wants: as many instances as bring its metric to its value, within a tenth nothing.
///
/// Those that were not measured (out of sight, in their warm-up, unhealthy) are taken to do nothing when the set may grow,
/// and to be at the target when it may shrink (Kubernetes): each is the careful assumption, as is the least that each may have
/// for growing, and the most for shrinking. Nothing more is ordered as long as what is ordered leaves each within a tenth, once
/// all of it is there and takes its part (Kubernetes).
fn desired(target: &Target, each: &Each, measured: u32, capacity: u32) -> Option<(Direction, u32)> {
    // Nothing is asked for by what is a rounding error.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, and a capacity has a maximum"
    )]
    let up = |needed: f64| (needed - 1e-9).ceil().max(0.0) as u32;
    if each.least > target.value * (1.0 + TOLERANCE) {
        if each.soon(capacity) <= target.value * (1.0 + TOLERANCE) {
            return None;
        }
        let out = up(each.there * each.least / target.value);
        return (out > capacity).then_some((Direction::Out, out));
    }
    let silent = f64::from(capacity.saturating_sub(measured));
    let inward = up(each.there * each.most / target.value + silent);
    let is_in = each.most < target.value * (1.0 - TOLERANCE) && inward < capacity;
    is_in.then_some((Direction::In, inward))
}

impl Judged<'_> {
    /// Whether it would scale out if the set had `to` instead of `capacity` instances, under the same load (Azure's check
    /// against flapping). Then says so.
    pub fn would_scale_out(&self, capacity: u32, to: u32) -> Option<String> {
        let reading = self.reading.as_ref().ok()?;
        let gone = capacity.saturating_sub(to);
        // More than the capacity may have been measured: those that were about to go, too.
        let left = reading.instances.saturating_sub(gone).min(to);
        let (before, after) = (f64::from(reading.instances), f64::from(left));
        let (is_out, projected, sign, limit) = match self.by {
            By::Rule(rule) => {
                if rule.direction() != Direction::Out || rule.apply(to) <= to {
                    return None;
                }
                let projected = match (rule.over, rule.operator) {
                    (Over::Sum, _) => reading.value,
                    (_, Operator::Above | Operator::AtLeast) => {
                        // What the whole set had to do, if the window began with fewer and each of them had more.
                        let is_average = (rule.over, rule.statistic) == (Over::Average, Statistic::Average);
                        let load = if is_average { reading.load } else { 0.0 };
                        load.max(reading.value * before) / after
                    }
                    // Something that instances have left: the fewer they are, the less each has.
                    (_, Operator::Below | Operator::AtMost) => reading.value * after / before,
                };
                (rule.fires(projected), projected, rule.operator, rule.threshold)
            }
            By::Target(target) => {
                let limit = target.value * (1.0 + TOLERANCE);
                let there = Each::of(reading, capacity).there;
                let projected = self.most.unwrap_or(reading.value) * there / after;
                (projected > limit, projected, Operator::Above, limit)
            }
        };
        if left == 0 {
            return Some("none of those that were measured would be left".to_owned());
        }
        is_out.then(|| {
            let unit = self.by.unit();
            format!(
                "{} would be {} ({sign} {}) and scale out again",
                self.by.metric(),
                unit.show(projected),
                unit.show(limit)
            )
        })
    }

    /// What was measured for it.
    pub fn measured(&self, problems: &BTreeMap<String, String>) -> Measured {
        let metric = self.by.metric();
        let problem = (problems.get(metric.name()).cloned()).or_else(|| self.stale.clone());
        match &self.reading {
            Ok(reading) => Measured {
                metric: metric.name().to_owned(),
                value: Some(reading.value),
                shown: self.by.unit().show(reading.value),
                instances: reading.instances,
                missing: reading.missing,
                problem,
            },
            Err(missing) => Measured {
                metric: metric.name().to_owned(),
                value: None,
                shown: "missing".to_owned(),
                instances: 0,
                missing: 0,
                problem: Some(format!("{metric} {missing}")),
            },
        }
    }

    /// What it says.
    pub fn verdict(&self) -> Verdict {
        let said = match (&self.reading, self.wants) {
            (Err(missing), _) => missing.clone(),
            (Ok(reading), None) if self.stale.is_some() => {
                format!(
                    "{} a moment ago, and not known now: nothing",
                    self.by.unit().show(reading.value)
                )
            }
            (Ok(reading), None) => format!("{}: nothing", self.by.unit().show(reading.value)),
            (Ok(reading), Some((direction, to))) => {
                format!(
                    "{}: {}, to {to}",
                    self.by.unit().show(reading.value),
                    direction.as_str()
                )
            }
        };
        Verdict {
            rule: self.by.text(),
            value: self.reading.as_ref().ok().map(|r| r.value),
            wants: self.wants.map(|(direction, _)| direction),
            to: self.wants.map(|(_, to)| to),
            said,
        }
    }

    /// What it judges: "host.cpu is 60 %".
    pub fn value(&self) -> String {
        let metric = self.by.metric();
        match (&self.reading, self.by) {
            (Ok(_), _) if self.stale.is_some() => {
                let why = self.stale.as_deref().unwrap_or_default();
                format!("{metric} could not be measured just now ({why})")
            }
            (Err(missing), _) => format!("{metric} {missing}"),
            (Ok(reading), By::Rule(_)) => format!("{metric} is {}", self.by.unit().show(reading.value)),
            (Ok(_), By::Target(_)) => self.why(),
        }
    }

    /// Why it does not want to scale in, though others do.
    pub fn why_not(&self) -> String {
        self.why().replacen(" is ", " is still ", 1)
    }

    /// Why it wants what it wants: "host.cpu is 82 % (> 75 % avg 5m)".
    pub fn why(&self) -> String {
        let metric = self.by.metric();
        let unit = self.by.unit();
        let value = self
            .reading
            .as_ref()
            .map_or_else(Clone::clone, |r| unit.show(r.value));
        match self.by {
            By::Rule(rule) => {
                let text = rule.to_string();
                let condition = text
                    .rsplit_once(": ")
                    .map_or(text.as_str(), |(condition, _)| condition);
                let condition = condition
                    .strip_prefix(metric.name())
                    .unwrap_or(condition)
                    .trim_start();
                format!("{metric} is {value} ({condition})")
            }
            By::Target(target) => {
                let least = target.value * (1.0 - TOLERANCE);
                let is_low = self.reading.as_ref().is_ok_and(|r| r.value < least);
                // What keeps it from shrinking though its value is low.
                let kept = (self.most).filter(|most| is_low && *most >= least);
                let kept = kept.map_or_else(String::new, |most| {
                    format!(" (up to {} by all that was measured)", unit.show(most))
                });
                let soon = (self.soon).map_or_else(String::new, |soon| {
                    format!(" ({} once all are there)", unit.show(soon))
                });
                format!(
                    "{metric} is {value}{kept}{soon}, its target {}",
                    unit.show(target.value)
                )
            }
        }
    }
}
