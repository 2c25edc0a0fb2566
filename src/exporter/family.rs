//! Metrics with a value for each of several sets: replaced whole at every look, and gone with their set.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::names::Label;

/// Labels of one value, in the order they are written.
pub type Labels = Vec<(&'static str, String)>;

/// The label that every metric of a set has, and `more`.
fn of_set(set: &Label, more: Labels) -> Labels {
    std::iter::once(("set", set.to_string())).chain(more).collect()
}

/// A gauge or a counter with values for each set.
///
/// Not the library's own family: one look must replace all that an earlier one has shown, hosts and instances that are
/// gone included, and no scrape may see half of that.
#[derive(Clone)]
pub struct PerSet {
    kind: MetricType,
    values: Arc<Mutex<BTreeMap<Label, BTreeMap<Labels, f64>>>>,
}

impl fmt::Debug for PerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PerSet").field(&self.kind.as_str()).finish()
    }
}

impl PerSet {
    fn new(kind: MetricType) -> Self {
        Self {
            kind,
            values: Arc::default(),
        }
    }

    /// Replaces all values of a set.
    pub fn put(&self, set: &Label, values: impl IntoIterator<Item = (Labels, f64)>) {
        let values = values.into_iter();
        let values = values
            .map(|(labels, value)| (of_set(set, labels), value))
            .collect();
        lock(&self.values).insert(set.clone(), values);
    }

    /// Replaces the one value of a set that has no other labels.
    pub fn put_one(&self, set: &Label, value: f64) {
        self.put(set, [(Labels::new(), value)]);
    }

    /// Adds to one value of a set, which begins at zero.
    pub fn add(&self, set: &Label, labels: Labels, more: f64) {
        let mut values = lock(&self.values);
        let of_this = values.entry(set.clone()).or_default();
        *of_this.entry(of_set(set, labels)).or_default() += more;
    }
}

impl EncodeMetric for PerSet {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        for (labels, value) in lock(&self.values).values().flatten() {
            let mut encoder = encoder.encode_family(labels)?;
            // As a float a six would be written 6.0.
            let whole = is_whole(*value).then_some(*value as i64);
            let natural = whole.and_then(|n| u64::try_from(n).ok());
            let plain = None::<&Exemplar<NoLabelSet, f64>>;
            match (self.kind, whole, natural) {
                (MetricType::Counter, _, Some(natural)) => encoder.encode_counter(&natural, plain)?,
                (MetricType::Counter, _, None) => encoder.encode_counter(value, plain)?,
                (_, Some(whole), _) => encoder.encode_gauge(&whole)?,
                (_, None, _) => encoder.encode_gauge(value)?,
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        self.kind
    }

    fn is_empty(&self) -> bool {
        lock(&self.values).values().all(BTreeMap::is_empty)
    }
}

/// Whether a number is an integer that a float has exactly.
fn is_whole(number: f64) -> bool {
    number.fract() == 0.0 && number.abs() <= MOST_EXACT
}

/// 2^53.
const MOST_EXACT: f64 = 9_007_199_254_740_992.0;

/// Histograms with the same buckets, one for each combination of labels.
pub type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// A histogram for each set.
#[derive(Clone)]
pub struct HistogramPerSet(Histograms);

impl HistogramPerSet {
    /// One more observation of a set.
    pub fn observe(&self, set: &Label, value: f64) {
        self.0.get_or_create(&of_set(set, Labels::new())).observe(value);
    }
}

/// What can forget a set.
trait Forgets: Send + Sync {
    fn forget(&self, set: &Label);
}

impl Forgets for PerSet {
    fn forget(&self, set: &Label) {
        lock(&self.values).remove(set);
    }
}

impl Forgets for HistogramPerSet {
    fn forget(&self, set: &Label) {
        self.0.remove(&of_set(set, Labels::new()));
    }
}

/// All metrics that there are. Help is a clause without a full stop, which the format adds.
#[derive(Default)]
pub struct Families {
    registry: Registry,
    names: Vec<&'static str>,
    per_set: Vec<Box<dyn Forgets>>,
}

impl Families {
    /// A gauge of each set.
    pub fn gauge(&mut self, name: &'static str, help: &str) -> PerSet {
        self.per_set(name, help, MetricType::Gauge)
    }

    /// A counter of each set; its name ends in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &str) -> PerSet {
        self.per_set(name, help, MetricType::Counter)
    }

    fn per_set(&mut self, name: &'static str, help: &str, kind: MetricType) -> PerSet {
        let metric = PerSet::new(kind);
        self.per_set.push(Box::new(metric.clone()));
        self.register(name, help, metric.clone());
        metric
    }

    /// A histogram of each set, in seconds.
    pub fn histogram(&mut self, name: &'static str, help: &str, new: fn() -> Histogram) -> HistogramPerSet {
        let family = Histograms::new_with_constructor(new);
        self.register(name, help, family.clone());
        let metric = HistogramPerSet(family);
        self.per_set.push(Box::new(metric.clone()));
        metric
    }

    /// A metric that is of no set.
    pub fn register(&mut self, name: &'static str, help: &str, metric: impl Metric) {
        self.names.push(name);
        // The format adds it again.
        let name = name.strip_suffix("_total").unwrap_or(name);
        self.registry.register(name, help, metric);
    }

    /// Takes a set's values out of everything.
    pub fn forget(&self, set: &Label) {
        for metric in &self.per_set {
            metric.forget(set);
        }
    }

    /// Names of all metrics, as they are scraped; histograms without `_bucket`, `_sum` and `_count`.
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// Everything in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::prometheus_text::encode(&mut text, &self.registry)
            .expect("writing into a string does not fail, and no histogram is native");
        text
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
