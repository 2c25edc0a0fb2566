//! Metrics of autoscaling.

use std::collections::BTreeMap;

use super::family::{Families, PerSet};
use super::{Area, View, flag};
use crate::autoscale::{Autoscale, Decision};
use crate::names::Label;

/// The metrics.
pub struct Scaling {
    in_force: PerSet,
    wanted: PerSet,
    min: PerSet,
    max: PerSet,
    metric: PerSet,
    missing: PerSet,
    decisions: PerSet,
}

impl Area for Scaling {
    fn register(families: &mut Families) -> Self {
        Self {
            in_force: families.gauge(
                "vmss_autoscale_in_force",
                "Whether the set has an autoscaling policy that counts now",
            ),
            wanted: families.gauge(
                "vmss_autoscale_wanted",
                "Instances that metrics ask for, or the default of a profile without rules and targets, before cooldowns, stabilisation and limits",
            ),
            min: families.gauge("vmss_autoscale_capacity_min", "Fewest instances that the policy allows now"),
            max: families.gauge("vmss_autoscale_capacity_max", "Most instances that the policy allows now"),
            metric: families.gauge(
                "vmss_autoscale_metric",
                "A metric of the policy as its rules have it: over instances and over its window",
            ),
            missing: families.gauge(
                "vmss_autoscale_metric_missing",
                "Whether a rule or target has no value of a metric that it goes by",
            ),
            decisions: families.counter(
                "vmss_autoscale_decisions_total",
                "Evaluations of the policy by what came of them: out, in or stay",
            ),
        }
    }

    fn take(&self, view: &View<'_>) {
        let policy = view.record.applied.autoscale.as_ref();
        let counts = |p: &Autoscale| p.enabled && view.record.autoscale.disabled.is_none();
        let in_force = policy.is_some_and(counts);
        self.in_force.put_one(view.set, flag(in_force));
        if !in_force {
            // Nothing is measured or wanted any more: what the last evaluation said would be told for ever.
            for gauge in [&self.wanted, &self.min, &self.max, &self.metric, &self.missing] {
                gauge.put(view.set, []);
            }
        }
    }
}

impl Scaling {
    /// A policy was evaluated.
    pub fn decided(&self, set: &Label, decision: &Decision) {
        self.wanted.put_one(set, f64::from(decision.recommended));
        self.min.put_one(set, f64::from(decision.min));
        self.max.put_one(set, f64::from(decision.max));
        let labels = |metric: &str| vec![("metric", metric.to_owned())];
        let values = decision
            .measured
            .iter()
            .filter_map(|m| Some((labels(&m.metric), m.value?)));
        self.metric.put(set, values);
        // Several may go by one metric, each over a window of its own.
        let mut missing: BTreeMap<&str, bool> = BTreeMap::new();
        for measured in &decision.measured {
            *missing.entry(&measured.metric).or_default() |= measured.value.is_none();
        }
        let missing = missing
            .into_iter()
            .map(|(metric, is_so)| (labels(metric), flag(is_so)));
        self.missing.put(set, missing);
        for (direction, is_so) in [
            ("out", decision.to > decision.from),
            ("in", decision.to < decision.from),
            ("stay", decision.to == decision.from),
        ] {
            self.decisions
                .add(set, vec![("direction", direction.to_owned())], flag(is_so));
        }
    }
}
