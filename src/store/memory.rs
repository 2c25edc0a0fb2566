//! A store in memory: for scenarios on the fake, held to the same contract as the others.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::autoscale::{Decision, Readings, Sample};
use crate::names::{Label, StoreId};
use crate::record::Record;
use crate::store::holder::{Liveness, acting, expiry, local_processes, renewed, seems_to_act};
use crate::store::{
    DECISIONS, Failure, HISTORY, Holder, Lease, Operation, PastOperation, SAMPLES_LAST, SAMPLES_STEP,
    SAMPLES_WHOLE, Stamp, Store, StoreError, Version, codec,
};

/// A store that lasts as long as its process.
pub struct Memory {
    id: StoreId,
    liveness: Liveness,
    shelves: Mutex<Shelves>,
}

/// A record as JSON, and what that was read as: whoever looks only reads it often.
#[derive(Clone)]
struct Kept {
    json: String,
    read: OnceCell<Box<Record>>,
}

impl Kept {
    fn read(&self) -> Result<Record, codec::Unreadable> {
        if let Some(read) = self.read.get() {
            return Ok((**read).clone());
        }
        let record = codec::decode(&self.json)?;
        Ok((**self.read.get_or_init(|| Box::new(record))).clone())
    }
}

impl From<String> for Kept {
    fn from(json: String) -> Self {
        let read = OnceCell::new();
        Self { json, read }
    }
}

#[derive(Clone, Default)]
struct Shelves {
    /// The last version or token given out: one counter that outlives records and leases.
    last: u64,
    /// Records as JSON, so that what a file would lose or refuse is lost or refused here too.
    records: BTreeMap<Label, (Kept, Version)>,
    /// What was given up of sets that are no more, as JSON.
    abandoned: BTreeMap<Label, String>,
    leases: BTreeMap<String, Let>,
    measured: BTreeMap<Label, Measured>,
    operations: BTreeMap<u64, PastOperation>,
    last_operation: u64,
}

/// What was measured and decided of a set, as JSON where a file has it so.
#[derive(Clone, Default)]
struct Measured {
    samples: BTreeMap<(Timestamp, String), Sample>,
    readings: Option<String>,
    decisions: Vec<String>,
}

#[derive(Clone)]
struct Let {
    holder: Holder,
    stamp: Stamp,
}

impl Shelves {
    const fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn put(&mut self, set: &Label, json: String, expected: Option<Version>) -> Result<Version, StoreError> {
        if self.records.get(set).map(|(_, version)| *version) != expected {
            return Err(StoreError::Changed(set.clone()));
        }
        let version = Version(self.next());
        self.records.insert(set.clone(), (json.into(), version));
        Ok(version)
    }

    fn holds(&self, lease: &Lease) -> bool {
        (self.leases.get(&lease.key)).is_some_and(|taken| taken.stamp.token == lease.token)
    }

    fn forget(&mut self, set: &Label) {
        self.records.remove(set);
        self.measured.remove(set);
        self.abandoned.remove(set);
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(StoreId(Uuid::new_v4()))
    }
}

impl Memory {
    /// An empty store of that identity.
    pub fn new(id: StoreId) -> Self {
        Self {
            id,
            liveness: local_processes(),
            shelves: Mutex::default(),
        }
    }

    /// Judges by `liveness` whether a lease's holder lives.
    #[must_use]
    pub fn judging(mut self, liveness: Liveness) -> Self {
        self.liveness = liveness;
        self
    }

    /// As a backup of its file would be: the same identity, and everything it holds now.
    #[must_use]
    pub fn backup(&self) -> Self {
        Self {
            id: self.id,
            liveness: local_processes(),
            shelves: Mutex::new(self.shelves().clone()),
        }
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn broken(doing: String, e: &serde_json::Error) -> StoreError {
    StoreError::Broken {
        doing,
        why: Failure::Damaged,
        message: e.to_string(),
    }
}

impl Store for Memory {
    fn id(&self) -> Result<StoreId, StoreError> {
        Ok(self.id)
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn get(&self, set: &Label) -> Result<Option<(Record, Version)>, StoreError> {
        let shelves = self.shelves();
        let Some((kept, version)) = shelves.records.get(set) else {
            return Ok(None);
        };
        let record =
            (kept.read()).map_err(|e| e.of(set, |e| broken(format!("reading the record of {set}"), &e)))?;
        Ok(Some((record, *version)))
    }

    fn put(&self, set: &Label, record: &Record, expected: Option<Version>) -> Result<Version, StoreError> {
        let json = codec::encode(record).map_err(|e| broken(format!("writing the record of {set}"), &e))?;
        self.shelves().put(set, json, expected)
    }

    fn put_under(
        &self,
        lease: &Lease,
        set: &Label,
        record: &Record,
        expected: Version,
    ) -> Result<Version, StoreError> {
        let json = codec::encode(record).map_err(|e| broken(format!("writing the record of {set}"), &e))?;
        let mut shelves = self.shelves();
        if !shelves.holds(lease) {
            return Err(StoreError::Lost(lease.key.clone()));
        }
        shelves.put(set, json, Some(expected))
    }

    fn remove(&self, set: &Label, expected: Version) -> Result<(), StoreError> {
        let mut shelves = self.shelves();
        if shelves.records.get(set).map(|(_, version)| *version) != Some(expected) {
            return Err(StoreError::Changed(set.clone()));
        }
        shelves.forget(set);
        Ok(())
    }

    fn abandon(&self, set: &Label, left: &Record, expected: Version) -> Result<(), StoreError> {
        let doing = || format!("noting what was given up of {set}");
        let json = codec::encode(left).map_err(|e| broken(doing(), &e))?;
        let mut shelves = self.shelves();
        if shelves.records.get(set).map(|(_, version)| *version) != Some(expected) {
            return Err(StoreError::Changed(set.clone()));
        }
        shelves.forget(set);
        shelves.abandoned.insert(set.clone(), json);
        Ok(())
    }

    fn abandoned(&self, set: &Label) -> Result<Option<Record>, StoreError> {
        let shelves = self.shelves();
        let doing = || format!("reading what was given up of {set}");
        let decode = |json: &String| codec::decode(json).map_err(|e| e.of(set, |e| broken(doing(), &e)));
        shelves.abandoned.get(set).map(decode).transpose()
    }

    fn ended(&self) -> Result<Vec<Label>, StoreError> {
        let shelves = self.shelves();
        let has_ended = |set: &&Label| !shelves.records.contains_key(*set);
        Ok(shelves.abandoned.keys().filter(has_ended).cloned().collect())
    }

    fn sets(&self) -> Result<Vec<Label>, StoreError> {
        Ok(self.shelves().records.keys().cloned().collect())
    }

    fn acquire(
        &self,
        key: &str,
        holder: &Holder,
        now: Timestamp,
        unrenewed: Option<Stamp>,
    ) -> Result<Lease, StoreError> {
        let mut shelves = self.shelves();
        let taken = (shelves.leases.get(key))
            .and_then(|l| acting(&self.liveness, l.holder.clone(), l.stamp, unrenewed));
        if let Some(taken) = taken {
            return Err(StoreError::Held(Box::new(taken)));
        }
        let token = shelves.next();
        let expires = expiry(now);
        let taken = Let {
            holder: holder.clone(),
            stamp: Stamp { token, expires },
        };
        shelves.leases.insert(key.to_owned(), taken);
        Ok(Lease {
            key: key.to_owned(),
            token,
        })
    }

    fn renew(&self, lease: &Lease, now: Timestamp) -> Result<(), StoreError> {
        let mut shelves = self.shelves();
        match shelves.leases.get_mut(&lease.key) {
            Some(taken) if taken.stamp.token == lease.token => {
                taken.stamp.expires = renewed(taken.stamp.expires, now);
                Ok(())
            }
            _ => Err(StoreError::Lost(lease.key.clone())),
        }
    }

    fn holds(&self, lease: &Lease) -> Result<bool, StoreError> {
        Ok(self.shelves().holds(lease))
    }

    fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let mut shelves = self.shelves();
        if shelves.holds(lease) {
            shelves.leases.remove(&lease.key);
        }
        Ok(())
    }

    fn holder(&self, key: &str, now: Timestamp) -> Result<Option<Holder>, StoreError> {
        let shelves = self.shelves();
        let taken = (shelves.leases.get(key))
            .filter(|l| seems_to_act(&self.liveness, &l.holder, l.stamp.expires, now));
        Ok(taken.map(|l| l.holder.clone()))
    }

    fn begin(&self, operation: &Operation) -> Result<u64, StoreError> {
        let mut shelves = self.shelves();
        shelves.last_operation += 1;
        let number = shelves.last_operation;
        let past = PastOperation {
            number,
            set: operation.set.clone(),
            verb: operation.verb.clone(),
            who: operation.who.clone(),
            began: operation.at,
            ended: None,
            from: operation.from,
            to: operation.to,
            outcome: None,
        };
        shelves.operations.insert(number, past);
        let of_set = shelves
            .operations
            .values()
            .rev()
            .filter(|o| o.set == operation.set);
        let forgotten: Vec<u64> = of_set.skip(HISTORY).map(|o| o.number).collect();
        for number in forgotten {
            shelves.operations.remove(&number);
        }
        Ok(number)
    }

    fn finish(&self, number: u64, at: Timestamp, outcome: &str, to: Option<u32>) -> Result<(), StoreError> {
        if let Some(operation) = self.shelves().operations.get_mut(&number) {
            operation.ended = Some(at);
            operation.outcome = Some(outcome.to_owned());
            operation.to = to.or(operation.to);
        }
        Ok(())
    }

    fn measured(
        &self,
        set: &Label,
        samples: &[Sample],
        readings: &Readings,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let json = serde_json::to_string(readings)
            .map_err(|e| broken(format!("keeping what was measured of {set}"), &e))?;
        let mut shelves = self.shelves();
        let kept = shelves.measured.entry(set.clone()).or_default();
        kept.readings = Some(json);
        for sample in samples {
            let key = (Sample::moment(sample.at), sample.metric.clone());
            let at = key.0;
            kept.samples.insert(key, Sample { at, ..sample.clone() });
        }
        let back = |span: SignedDuration| now.checked_sub(span).unwrap_or(Timestamp::MIN);
        let (last, whole) = (back(SAMPLES_LAST), back(SAMPLES_WHOLE));
        let mut seen = BTreeSet::new();
        kept.samples.retain(|(at, metric), _| {
            let mut is_first = || seen.insert((metric.clone(), at.as_second().div_euclid(SAMPLES_STEP)));
            *at >= last && (*at >= whole || is_first())
        });
        Ok(())
    }

    fn samples(&self, set: &Label, since: Timestamp) -> Result<Vec<Sample>, StoreError> {
        let shelves = self.shelves();
        let kept = shelves.measured.get(set);
        let all = kept.into_iter().flat_map(|m| m.samples.values());
        Ok(all.filter(|s| s.at >= Sample::moment(since)).cloned().collect())
    }

    fn readings(&self, set: &Label) -> Result<Readings, StoreError> {
        let shelves = self.shelves();
        let json = shelves.measured.get(set).and_then(|m| m.readings.as_ref());
        Ok(json
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default())
    }

    fn decided(&self, set: &Label, decision: &Decision, anew: bool) -> Result<(), StoreError> {
        let json = serde_json::to_string(decision)
            .map_err(|e| broken(format!("keeping a decision on {set}"), &e))?;
        let mut shelves = self.shelves();
        let kept = shelves.measured.entry(set.clone()).or_default();
        if !anew {
            kept.decisions.pop();
        }
        kept.decisions.push(json);
        let surplus = kept.decisions.len().saturating_sub(DECISIONS);
        kept.decisions.drain(..surplus);
        Ok(())
    }

    fn decisions(&self, set: &Label, limit: usize) -> Result<Vec<Decision>, StoreError> {
        let shelves = self.shelves();
        let kept = shelves.measured.get(set);
        let newest = kept
            .into_iter()
            .flat_map(|m| m.decisions.iter().rev())
            .take(limit);
        Ok(newest
            .filter_map(|json| serde_json::from_str(json).ok())
            .collect())
    }

    fn history(&self, set: Option<&Label>, limit: usize) -> Result<Vec<PastOperation>, StoreError> {
        let shelves = self.shelves();
        let newest = shelves.operations.values().rev();
        Ok(newest
            .filter(|o| set.is_none_or(|set| &o.set == set))
            .take(limit)
            .cloned()
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::Scene;

    #[test]
    fn a_record_of_a_newer_vmss_is_neither_read_nor_written() {
        let (store, web) = (Memory::default(), Label::new("web").unwrap());
        let record = Scene::new(&[1]).record;
        let version = store.put(&web, &record, None).unwrap();
        let format = |number: u64| format!("\"format\":{number}");
        let newer =
            codec::encode(&record)
                .unwrap()
                .replacen(&format(codec::FORMAT), &format(codec::FORMAT + 1), 1);
        let newer_version = Version(store.shelves().next());
        (store.shelves().records).insert(web.clone(), (newer.clone().into(), newer_version));
        match store.get(&web) {
            Err(StoreError::Newer { format, known, .. }) if format == known + 1 => {}
            other => panic!("{other:?}"),
        }
        for expected in [None, Some(version)] {
            let refused = store.put(&web, &record, expected);
            assert!(matches!(refused, Err(StoreError::Changed(_))), "{refused:?}");
        }
        assert_eq!(store.shelves().records[&web].0.json, newer);
    }
}
