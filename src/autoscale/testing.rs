//! Policies and samples for tests.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::metric::{External, Of, Source};
use super::policy::{Autoscale, Change, Operator, Over, Profile, Rule, Statistic, Target};
use super::predict::Outlook;
use super::{Decision, Metric, Pin, Sample, Samples, Situation, State, decide, spelling};

pub const MINUTE: Duration = Duration::from_secs(60);

/// A policy with one profile, 1 to 20, without stabilisation.
pub fn policy(rules: &[&str], targets: &[(&str, f64)]) -> Autoscale {
    Autoscale {
        enabled: true,
        warm_up: MINUTE,
        stabilization: Duration::ZERO,
        cooldown_out: None,
        cooldown_in: None,
        max_scale_in: None,
        profiles: vec![Profile {
            name: "default".to_owned(),
            min: 1,
            max: 20,
            default: 4,
            when: None,
            rules: rules.iter().map(|text| rule(text)).collect(),
            targets: targets.iter().map(|(name, value)| target(name, *value)).collect(),
        }],
        schedules: Vec::new(),
        prometheus: None,
        predict: None,
    }
}

/// A metric by its name; one that is not known is a number that the whole set shares.
pub fn metric(name: &str) -> Metric {
    Metric::named(name).unwrap_or_else(|| {
        Metric::External(External {
            name: name.to_owned(),
            source: Source::Http {
                url: "http://127.0.0.1/".to_owned(),
                pointer: String::new(),
            },
            of: Of::Set,
            token_file: None,
        })
    })
}

/// "host.cpu > 75: out 1": the newest value, a cooldown of five minutes.
pub fn rule(text: &str) -> Rule {
    let (condition, change) = text.split_once(": ").unwrap();
    let condition = spelling::condition(condition).unwrap();
    let metric = metric(&condition.metric.unwrap());
    Rule {
        threshold: spelling::threshold(&condition.threshold, metric.unit()).unwrap(),
        metric,
        over: Over::Average,
        statistic: Statistic::Average,
        window: Duration::ZERO,
        operator: condition.operator,
        change: spelling::change(change).unwrap(),
        cooldown: 5 * MINUTE,
    }
}

pub fn target(name: &str, value: f64) -> Target {
    Target {
        metric: metric(name),
        value,
        window: Duration::ZERO,
        cooldown: Duration::ZERO,
    }
}

/// A set whose policy is evaluated again and again.
pub struct Stage {
    pub policy: Autoscale,
    pub state: State,
    pub samples: Samples,
    pub problems: BTreeMap<String, String>,
    pub unseen: Vec<String>,
    pub protected: u32,
    pub pin: Option<Pin>,
    pub outlook: Option<Outlook>,
    pub capacity: u32,
    pub now: Timestamp,
}

pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

impl Stage {
    pub fn new(policy: Autoscale, capacity: u32) -> Self {
        Self {
            policy,
            state: State::default(),
            samples: Samples::default(),
            problems: BTreeMap::new(),
            unseen: Vec::new(),
            protected: 0,
            pin: None,
            outlook: None,
            capacity,
            now: at("2026-11-25T12:00:00Z"),
        }
    }

    pub fn wait(&mut self, span: Duration) -> &mut Self {
        self.now = crate::health::later(self.now, span);
        self
    }

    /// Each instance has `value` now.
    pub fn each(&mut self, metric: &str, value: f64) -> &mut Self {
        if let Some(sample) = Sample::each(metric, self.now, value, self.capacity) {
            self.samples.push(sample);
        }
        self
    }

    /// All instances have `value` together now.
    pub fn all(&mut self, metric: &str, value: f64) -> &mut Self {
        if let Some(sample) = Sample::shared(metric, self.now, value, self.capacity) {
            self.samples.push(sample);
        }
        self
    }

    pub fn look(&self) -> Decision {
        decide(Situation {
            policy: &self.policy,
            state: &self.state,
            samples: &self.samples,
            problems: &self.problems,
            capacity: self.capacity,
            unseen: &self.unseen,
            protected: self.protected,
            pin: self.pin.as_ref(),
            outlook: self.outlook.as_ref(),
            measured: self.now,
            now: self.now,
        })
    }

    /// Evaluates and acts.
    pub fn tick(&mut self) -> Decision {
        let decision = self.look();
        self.state = self.state.after(&self.policy, &decision);
        self.capacity = decision.to;
        decision
    }
}

/// "host.cpu > 75: out 1" fires with this change at `n`.
pub fn applied(change: Change, operator: Operator, n: u32) -> u32 {
    let mut rule = rule("host.cpu > 75: out 1");
    (rule.change, rule.operator) = (change, operator);
    rule.apply(n)
}
