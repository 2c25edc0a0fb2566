//! How long calls of hosts take: told to whoever wants to know, which is nobody unless something measures.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Who hears of calls of hosts. It is told by the thread that made the call, and must not keep it.
pub trait Hears: Send + Sync {
    /// A call of a host ended, well or not. `kind` is one of a few.
    fn ended(&self, host: &str, kind: &'static str, took: Duration);
    /// What a call of that kind did failed.
    fn failed(&self, host: &str, kind: &'static str);
}

/// Shared by all hosts of a process. As long as nobody has been connected to it, a call costs one look at that and
/// no clock is read.
#[derive(Clone, Default)]
pub struct Meter(Arc<OnceLock<Box<dyn Hears>>>);

impl Meter {
    /// Tells `hears` of every call from now on. Only the first who is connected hears anything.
    pub fn connect(&self, hears: Box<dyn Hears>) {
        let _ = self.0.set(hears);
    }

    /// The meter as one host uses it, under the host's name.
    pub fn of(&self, host: &str) -> HostMeter {
        HostMeter {
            meter: self.clone(),
            host: host.into(),
        }
    }
}

/// The meter as one host uses it.
#[derive(Clone)]
pub struct HostMeter {
    meter: Meter,
    host: Arc<str>,
}

impl HostMeter {
    /// A call begins; `kind` is asked for only if somebody wants to know of it.
    pub fn begin(&self, kind: impl FnOnce() -> &'static str) -> Option<Measure> {
        let _ = self.meter.0.get()?;
        Some(Measure {
            meter: self.clone(),
            kind: kind(),
            began: Instant::now(),
        })
    }

    /// Whether anybody wants to know.
    pub fn is_heard(&self) -> bool {
        self.meter.0.get().is_some()
    }

    /// Something failed; `kind` is asked for only if somebody wants to know of it.
    pub fn failed(&self, kind: impl FnOnce() -> &'static str) {
        if let Some(hears) = self.meter.0.get() {
            hears.failed(&self.host, kind());
        }
    }
}

/// A call that is being measured: it has ended when this is dropped.
pub struct Measure {
    meter: HostMeter,
    kind: &'static str,
    began: Instant,
}

impl Drop for Measure {
    fn drop(&mut self) {
        if let Some(hears) = self.meter.meter.0.get() {
            hears.ended(&self.meter.host, self.kind, self.began.elapsed());
        }
    }
}
