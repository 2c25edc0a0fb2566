//! Metrics of the controller itself: its looks, its ticks and what it did in them.

use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::histogram::Histogram;

use super::family::{Families, HistogramPerSet, PerSet};
use super::{Area, View};
use crate::names::Label;

/// How one tick ended: one run of the loop on one set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// The set is as it should be.
    Converged,
    /// Something may not be done as things are, or the set is being deleted.
    Blocked,
    /// It can't be shown to be, because a host, a load balancer or the store can't be reached.
    Unreachable,
    /// Something was tried and failed.
    Failed,
    /// Another command acts on the set: it does what this tick would have done.
    Locked,
    /// It broke off.
    Error,
}

impl Tick {
    const ALL: [Self; 6] = [
        Self::Converged,
        Self::Blocked,
        Self::Unreachable,
        Self::Failed,
        Self::Locked,
        Self::Error,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Converged => "converged",
            Self::Blocked => "blocked",
            Self::Unreachable => "unreachable",
            Self::Failed => "failed",
            Self::Locked => "locked",
            Self::Error => "error",
        }
    }
}

/// The metrics.
pub struct Run {
    look_seconds: HistogramPerSet,
    last_look: PerSet,
    ticks: PerSet,
    last_tick: PerSet,
    restarts: PerSet,
    steps: PerSet,
}

impl Area for Run {
    fn register(families: &mut Families) -> Self {
        Self {
            look_seconds: families.histogram(
                "vmss_look_seconds",
                "Time of the look at all hosts, load balancers and instances with which a tick begins",
                || Histogram::new([0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]),
            ),
            last_look: families.gauge(
                "vmss_last_look_timestamp_seconds",
                "When the set was looked at last, in a tick or between its batches: what the metrics of the set show",
            ),
            ticks: families.counter("vmss_ticks_total", "Ticks, runs of the loop on the set, by how they ended"),
            last_tick: families.gauge("vmss_last_tick_timestamp_seconds", "When the last tick ended, however it did"),
            restarts: families.counter(
                "vmss_restarts_total",
                "Times that the tending of the set broke off by a fault of vmss and was begun anew; from 0 at the first tick",
            ),
            steps: families.counter("vmss_steps_total", "Steps on hosts that were carried out, by what and by how they ended"),
        }
    }

    fn take(&self, view: &View<'_>) {
        self.last_look
            .put_one(view.set, view.now.as_duration().as_secs_f64());
    }
}

impl Run {
    /// The look with which a tick begins took so long.
    pub fn looked(&self, set: &Label, took: Duration) {
        self.look_seconds.observe(set, took.as_secs_f64());
    }

    /// A tick ended.
    pub fn ticked(&self, set: &Label, tick: Tick, now: Timestamp) {
        // All of them from the first on, or the first failure would be no increase of anything.
        for any in Tick::ALL {
            let more = f64::from(u8::from(any == tick));
            self.ticks
                .add(set, vec![("result", any.as_str().to_owned())], more);
        }
        self.restarts.add(set, Vec::new(), 0.0);
        self.last_tick.put_one(set, now.as_duration().as_secs_f64());
    }

    /// What tends the set broke off.
    pub fn restarted(&self, set: &Label) {
        self.restarts.add(set, Vec::new(), 1.0);
    }

    /// A step ended.
    pub fn stepped(&self, set: &Label, verb: &str, is_done: bool) {
        for (result, counts) in [("done", is_done), ("failed", !is_done)] {
            let labels = vec![("verb", verb.to_owned()), ("result", result.to_owned())];
            self.steps.add(set, labels, f64::from(u8::from(counts)));
        }
    }
}
