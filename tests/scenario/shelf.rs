//! Stores for whole commands on the fake fleet: in memory, and such as a killed process can write no more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use vmss::autoscale::{Decision, Readings, Sample};
use vmss::hypervisor::fake::Fleet;
use vmss::names::{Label, StoreId};
use vmss::record::Record;
use vmss::store::memory::Memory;
use vmss::store::{Failure, Holder, Lease, Operation, PastOperation, Stamp, Store, StoreError, Version};

/// Stores in memory, by the path of the file that each stands for.
pub type Shelves = Arc<Mutex<BTreeMap<PathBuf, Arc<Memory>>>>;

/// The store there, which is empty if nobody has used it before.
pub fn on_shelf(shelves: &Shelves, path: &Path) -> Arc<Memory> {
    Arc::clone(shelves.lock().unwrap().entry(path.to_owned()).or_default())
}

/// A store of which a killed process can write no more.
pub struct Mortal {
    /// The store itself.
    pub store: Arc<dyn Store>,
    /// Whether a process is killed.
    pub fleet: Arc<Fleet>,
}

impl Mortal {
    fn alive(&self) -> Result<&dyn Store, StoreError> {
        if !self.fleet.outlives() {
            return Err(StoreError::Broken {
                doing: "writing".into(),
                why: Failure::Other,
                message: "process killed".into(),
            });
        }
        Ok(&*self.store)
    }
}

impl Store for Mortal {
    fn id(&self) -> Result<StoreId, StoreError> {
        self.store.id()
    }
    fn location(&self) -> String {
        "/var/lib/vmss/state.db".into()
    }
    fn get(&self, set: &Label) -> Result<Option<(Record, Version)>, StoreError> {
        self.store.get(set)
    }
    fn put(&self, set: &Label, record: &Record, expected: Option<Version>) -> Result<Version, StoreError> {
        self.alive()?.put(set, record, expected)
    }
    fn put_under(
        &self,
        lease: &Lease,
        set: &Label,
        record: &Record,
        expected: Version,
    ) -> Result<Version, StoreError> {
        self.alive()?.put_under(lease, set, record, expected)
    }
    fn abandon(&self, set: &Label, left: &Record, expected: Version) -> Result<(), StoreError> {
        self.alive()?.abandon(set, left, expected)
    }
    fn abandoned(&self, set: &Label) -> Result<Option<Record>, StoreError> {
        self.store.abandoned(set)
    }
    fn remove(&self, set: &Label, expected: Version) -> Result<(), StoreError> {
        self.alive()?.remove(set, expected)
    }
    fn ended(&self) -> Result<Vec<Label>, StoreError> {
        self.store.ended()
    }
    fn sets(&self) -> Result<Vec<Label>, StoreError> {
        self.store.sets()
    }
    fn acquire(
        &self,
        key: &str,
        holder: &Holder,
        now: Timestamp,
        unrenewed: Option<Stamp>,
    ) -> Result<Lease, StoreError> {
        self.alive()?.acquire(key, holder, now, unrenewed)
    }
    fn renew(&self, lease: &Lease, now: Timestamp) -> Result<(), StoreError> {
        self.alive()?.renew(lease, now)
    }
    fn holds(&self, lease: &Lease) -> Result<bool, StoreError> {
        self.store.holds(lease)
    }
    fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        self.alive()?.release(lease)
    }
    fn holder(&self, key: &str, now: Timestamp) -> Result<Option<Holder>, StoreError> {
        self.store.holder(key, now)
    }
    fn begin(&self, operation: &Operation) -> Result<u64, StoreError> {
        self.alive()?.begin(operation)
    }
    fn finish(&self, number: u64, at: Timestamp, outcome: &str, to: Option<u32>) -> Result<(), StoreError> {
        self.alive()?.finish(number, at, outcome, to)
    }
    fn measured(
        &self,
        set: &Label,
        samples: &[Sample],
        readings: &Readings,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.alive()?.measured(set, samples, readings, now)
    }
    fn samples(&self, set: &Label, since: Timestamp) -> Result<Vec<Sample>, StoreError> {
        self.store.samples(set, since)
    }
    fn readings(&self, set: &Label) -> Result<Readings, StoreError> {
        self.store.readings(set)
    }
    fn decided(&self, set: &Label, decision: &Decision, anew: bool) -> Result<(), StoreError> {
        self.alive()?.decided(set, decision, anew)
    }
    fn decisions(&self, set: &Label, limit: usize) -> Result<Vec<Decision>, StoreError> {
        self.store.decisions(set, limit)
    }
    fn history(&self, set: Option<&Label>, limit: usize) -> Result<Vec<PastOperation>, StoreError> {
        self.store.history(set, limit)
    }
}
