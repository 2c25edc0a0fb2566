//! Metrics of the calls of libvirt. They are of hosts and of no set: sets share connections.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::family::{Families, Histograms, Labels};
use crate::hypervisor::meter::Hears;

/// The metrics.
#[derive(Clone)]
pub struct Calls {
    seconds: Histograms,
    errors: Family<Labels, Counter>,
}

impl Calls {
    /// Adds the metrics to `families`.
    pub fn register(families: &mut Families) -> Self {
        let seconds = Histograms::new_with_constructor(|| {
            Histogram::new([
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
            ])
        });
        families.register(
            "vmss_libvirt_call_seconds",
            "Time of calls of a host's libvirt by kind, without the wait for their turn",
            seconds.clone(),
        );
        let errors = Family::default();
        families.register(
            "vmss_libvirt_errors_total",
            "Calls of a host's libvirt that failed; that something is not there is an answer and no failure",
            errors.clone(),
        );
        Self { seconds, errors }
    }
}

fn labels(host: &str, kind: &'static str) -> Labels {
    vec![("host", host.to_owned()), ("kind", kind.to_owned())]
}

impl Hears for Calls {
    fn ended(&self, host: &str, kind: &'static str, took: Duration) {
        let labels = labels(host, kind);
        self.seconds.get_or_create(&labels).observe(took.as_secs_f64());
        // Zero as long as there is none, or the first error would be no increase of anything.
        drop(self.errors.get_or_create(&labels));
    }

    fn failed(&self, host: &str, kind: &'static str) {
        self.errors.get_or_create(&labels(host, kind)).inc();
    }
}
