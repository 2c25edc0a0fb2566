//! The policy: when a set is to have how many instances. `[autoscale]` as meant.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::autoscale::calendar::{Cron, When, Zone};
use crate::autoscale::metric::Metric;
use crate::scaleset::Amount;

/// How far from its target a metric may be before anything is done, as a share of the target (Kubernetes, Google).
pub const TOLERANCE: f64 = 0.1;

/// `[autoscale]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Autoscale {
    /// Whether it counts.
    pub enabled: bool,
    /// How long an instance must have been healthy before it counts in averages (AWS's instance warm-up).
    pub warm_up: Duration,
    /// Scale in only to the highest that was recommended within this time (Google's stabilisation period).
    pub stabilization: Duration,
    /// How long after a rule has fired the next may scale out; `None`: as long as the cooldown of the one that fired.
    pub cooldown_out: Option<Duration>,
    /// As `cooldown_out`, to scale in.
    pub cooldown_in: Option<Duration>,
    /// How far it may go down within some time (Google's scale-in control).
    pub max_scale_in: Option<MaxScaleIn>,
    /// In declared order; exactly one is without a time and holds when no other does.
    pub profiles: Vec<Profile>,
    /// Minimums for a while, in declared order.
    pub schedules: Vec<Schedule>,
    /// The Prometheus server that metrics ask where they name none.
    #[serde(default)]
    pub prometheus: Option<String>,
    /// Whether it looks ahead.
    pub predict: Option<Predict>,
}

/// Most that the capacity may go down from the highest it was within some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxScaleIn {
    /// How far, of the highest.
    pub count: Amount,
    /// Within which time.
    pub per: Duration,
}

/// A minimum, a maximum, and rules between them, for some time (Azure).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Fewest instances.
    pub min: u32,
    /// Most instances, not under `min`.
    pub max: u32,
    /// How many where metrics are missing and there are fewer, and always where there are neither rules nor targets;
    /// from `min` to `max`.
    pub default: u32,
    /// When it holds; `None`: when no other does.
    pub when: Option<When>,
    /// Rules, in declared order.
    pub rules: Vec<Rule>,
    /// Values that metrics are held at, in declared order.
    pub targets: Vec<Target>,
}

impl Profile {
    /// Whether anything but the time changes the capacity within it.
    pub fn is_measured(&self) -> bool {
        !self.rules.is_empty() || !self.targets.is_empty()
    }
}

/// When something measured is over or under a threshold, change the capacity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// What is measured.
    pub metric: Metric,
    /// How the values of instances become one.
    pub over: Over,
    /// How the values of a time become one.
    pub statistic: Statistic,
    /// Which time, back from now; zero: the last value alone.
    pub window: Duration,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub threshold: f64,
    /// What happens then.
    pub change: Change,
    /// How long nothing else is done after it has fired.
    pub cooldown: Duration,
}

impl Rule {
    /// Which way it changes the capacity. One that sets it goes up when it fires above its threshold, and down when it
    /// fires below.
    pub const fn direction(&self) -> Direction {
        match self.change {
            Change::Out(_) => Direction::Out,
            Change::In(_) => Direction::In,
            Change::To(_) => match self.operator {
                Operator::Above | Operator::AtLeast => Direction::Out,
                Operator::Below | Operator::AtMost => Direction::In,
            },
        }
    }

    /// Whether it fires at `value`.
    pub fn fires(&self, value: f64) -> bool {
        match self.operator {
            Operator::Above => value > self.threshold,
            Operator::AtLeast => value >= self.threshold,
            Operator::Below => value < self.threshold,
            Operator::AtMost => value <= self.threshold,
        }
    }

    /// The capacity after it has fired at `capacity`; never against its direction.
    pub fn apply(&self, capacity: u32) -> u32 {
        let of = |amount: Amount| u32::try_from(amount.of(capacity as usize)).unwrap_or(u32::MAX);
        match (self.change, self.direction()) {
            (Change::Out(amount), _) => capacity.saturating_add(of(amount)),
            (Change::In(amount), _) => capacity.saturating_sub(of(amount)),
            (Change::To(n), Direction::Out) => n.max(capacity),
            (Change::To(n), Direction::In) => n.min(capacity),
        }
    }
}

/// Which way a capacity goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// More instances.
    Out,
    /// Fewer.
    In,
}

impl Direction {
    /// "out" or "in".
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
        }
    }
}

/// How the values of instances become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Over {
    /// Their average.
    Average,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// All together.
    Sum,
}

/// How the values of a time become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Statistic {
    /// Their average.
    Average,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// The newest.
    Last,
}

/// How a value is compared with a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operator {
    /// `>`.
    Above,
    /// `>=`.
    AtLeast,
    /// `<`.
    Below,
    /// `<=`.
    AtMost,
}

/// What a rule does to the capacity. Shares round down, but to 1 at least (AWS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// So many more.
    Out(Amount),
    /// So many fewer.
    In(Amount),
    /// Exactly so many.
    To(u32),
}

/// Hold a metric at a value: as many instances as bring it there (Google, AWS).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// What is measured, as the average of instances.
    pub metric: Metric,
    /// Where it is held; more than 0.
    pub value: f64,
    /// Over which time it is averaged.
    pub window: Duration,
    /// How long nothing else is done after it has changed the capacity.
    pub cooldown: Duration,
}

/// A minimum for a while (Google's scaling schedules).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// When it begins.
    pub start: Cron,
    /// How long it holds.
    pub duration: Duration,
    /// Fewest instances while it holds.
    pub min: u32,
}

/// Looking ahead: raise the capacity before a load that comes back every day or week.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predict {
    /// Whether it acts, or only says what it would do.
    pub mode: PredictMode,
    /// After which time the load comes back.
    pub pattern: Pattern,
    /// How far ahead it looks: as long as an instance takes from its creation until it serves.
    pub lead: Duration,
    /// By whose clocks a day is one.
    pub zone: Zone,
}

/// Whether a prediction acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PredictMode {
    /// It only says what it would do (AWS's forecast-only).
    ForecastOnly,
    /// It raises the capacity.
    Scale,
}

/// After which time a load comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Every day.
    Daily,
    /// Every week.
    Weekly,
}

impl Autoscale {
    /// Every metric that some profile needs, each once.
    pub fn metrics(&self) -> Vec<&Metric> {
        let mut all: Vec<&Metric> = (self.profiles.iter())
            .flat_map(|p| {
                let rules = p.rules.iter().map(|r| &r.metric);
                rules.chain(p.targets.iter().map(|t| &t.metric))
            })
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// The longest window of any rule or target.
    pub fn longest_window(&self) -> Duration {
        let windows = (self.profiles.iter()).flat_map(|p| {
            let rules = p.rules.iter().map(|r| r.window);
            rules.chain(p.targets.iter().map(|t| t.window))
        });
        windows.max().unwrap_or_default()
    }
}
