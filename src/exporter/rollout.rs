//! Metrics of a set's revisions and of its rollout.

use std::collections::BTreeMap;

use super::family::{Families, PerSet};
use super::{Area, View, count, flag};
use crate::rollout::{Rollout, RolloutState};

/// The metrics.
pub struct Rollouts {
    open: PerSet,
    paused: PerSet,
    stopped: PerSet,
    target: PerSet,
    current: PerSet,
    by_revision: PerSet,
}

impl Area for Rollouts {
    fn register(families: &mut Families) -> Self {
        Self {
            open: families.gauge("vmss_rollout_open", "Whether a rollout has begun and not ended"),
            paused: families.gauge("vmss_rollout_paused", "Whether the rollout waits to be resumed"),
            stopped: families.gauge(
                "vmss_rollout_stopped",
                "Whether the rollout has met a failure and waits for a decision",
            ),
            target: families.gauge(
                "vmss_rollout_target_revision",
                "Revision that the open rollout brings instances to; none without one",
            ),
            current: families.gauge("vmss_revision_current", "Revision that new instances are made of"),
            by_revision: families.gauge(
                "vmss_instances_by_revision",
                "Instances by the revision of the model they have, or were last seen with",
            ),
        }
    }

    fn take(&self, view: &View<'_>) {
        let (set, record, fleet) = (view.set, view.record, &view.fleet);
        let open = record.rollout.as_ref().filter(|r| r.is_open());
        let is = |f: fn(&RolloutState) -> bool| flag(open.is_some_and(|r: &Rollout| f(&r.state)));
        self.open.put_one(set, flag(open.is_some()));
        self.paused
            .put_one(set, is(|s| matches!(s, RolloutState::Paused { .. })));
        self.stopped
            .put_one(set, is(|s| matches!(s, RolloutState::Stopped { .. })));
        let target = open.map(|r| (Vec::new(), f64::from(r.target)));
        self.target.put(set, target);

        let current = record.current().number;
        self.current.put_one(set, f64::from(current));
        let mut numbers: BTreeMap<u32, usize> = BTreeMap::from([(current, 0)]);
        let seen = fleet.members.iter().map(|m| m.instance.meta.revision);
        for revision in seen.chain(fleet.absent.iter().filter_map(|a| a.revision)) {
            *numbers.entry(revision).or_default() += 1;
        }
        let value = |(number, n): (u32, usize)| (vec![("revision", number.to_string())], count(n));
        self.by_revision.put(set, numbers.into_iter().map(value));
    }
}
