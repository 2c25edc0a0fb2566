//! The embedded store: one SQLite file, written ahead, durable at every commit, readable by its owner only.

mod file;
mod measured;
mod trouble;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use crate::autoscale::{Decision, Readings, Sample};
use crate::names::{Label, StoreId};
use crate::record::Record;
use crate::store::holder::{Liveness, acting, expiry, local_processes, renewed, seems_to_act};
use crate::store::sqlite::trouble::Trouble;
use crate::store::{
    HISTORY, Holder, Lease, Operation, PastOperation, Stamp, Store, StoreError, Version, codec,
};

/// A SQLite store.
pub struct Sqlite {
    path: PathBuf,
    id: StoreId,
    connection: Mutex<Connection>,
    liveness: Liveness,
}

impl Sqlite {
    /// Opens the store at `path`, making it, its folder and its identity if there is none. One that may only be read
    /// can be looked at; writing to it fails.
    ///
    /// # Errors
    /// [`StoreError::Broken`] if it can't be read, is no store, is damaged, or is of a later layout.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (connection, id) = file::open(path)?;
        Ok(Self {
            path: path.to_owned(),
            id,
            connection: Mutex::new(connection),
            liveness: local_processes(),
        })
    }

    /// Judges by `liveness` whether a lease's holder lives.
    #[must_use]
    pub fn judging(mut self, liveness: Liveness) -> Self {
        self.liveness = liveness;
        self
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` in a transaction that may write.
    fn write<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection();
        let doing = format!("{doing} in {}", self.path.display());
        let transaction = (connection.transaction_with_behavior(TransactionBehavior::Immediate))
            .map_err(|e| Trouble::from(e).told(&doing, &self.path))?;
        let result = work(&transaction).map_err(|t| t.told(&doing, &self.path))?;
        (transaction.commit()).map_err(|e| Trouble::from(e).told(&doing, &self.path))?;
        Ok(result)
    }

    fn read<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&Connection) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        let doing = format!("{doing} in {}", self.path.display());
        work(&self.connection()).map_err(|t| t.told(&doing, &self.path))
    }
}

/// Who has the lease, or had it last without giving it back.
fn lease(c: &Connection, key: &str) -> Result<Option<(Holder, Stamp)>, Trouble> {
    let sql = "SELECT holder, token, expires FROM leases WHERE name = ?1";
    let row: Option<(String, u64, i64)> = c
        .query_row(sql, [key], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
        .optional()?;
    let Some((json, token, expires)) = row else {
        return Ok(None);
    };
    Ok(Some((serde_json::from_str(&json)?, Stamp { token, expires })))
}

/// Forgets everything of a set whose record is still of that version.
fn forget(t: &Transaction<'_>, set: &Label, expected: Version) -> Result<(), Trouble> {
    let gone = t.execute(
        "DELETE FROM set_records WHERE name = ?1 AND version = ?2",
        params![set.as_str(), expected.0],
    )?;
    if gone == 0 {
        return Err(Trouble::Store(StoreError::Changed(set.clone())));
    }
    t.execute("DELETE FROM abandoned WHERE name = ?1", [set.as_str()])?;
    measured::forget(t, set)
}

/// A number greater than any given before and than `floor`.
fn next(t: &Transaction<'_>, floor: u64) -> Result<u64, Trouble> {
    let sql = "UPDATE tokens SET last = max(last, ?1) + 1 RETURNING last";
    Ok(t.query_row(sql, [floor], |r| r.get(0))?)
}

/// Whether the lease is still that holding's.
fn holds(c: &Connection, lease: &Lease) -> Result<bool, Trouble> {
    let held = self::lease(c, &lease.key)?;
    Ok(held.is_some_and(|(_, stamp)| stamp.token == lease.token))
}

/// Writes a record if its version is still `expected`.
fn put(
    t: &Transaction<'_>,
    set: &Label,
    record: &Record,
    expected: Option<Version>,
) -> Result<Version, Trouble> {
    let json = codec::encode(record)?;
    // From a counter that outlives the record: were a record that is made again to begin at 1 again, one who
    // has read the old one would overwrite the new one.
    let version = next(t, expected.map_or(0, |v| v.0))?;
    let changed = match expected {
        None => t.execute(
            "INSERT OR IGNORE INTO set_records VALUES (?1, ?2, ?3)",
            params![set.as_str(), version, json],
        )?,
        Some(Version(v)) => t.execute(
            "UPDATE set_records SET version = ?2, record = ?3 WHERE name = ?1 AND version = ?4",
            params![set.as_str(), version, json, v],
        )?,
    };
    if changed == 0 {
        return Err(Trouble::Store(StoreError::Changed(set.clone())));
    }
    Ok(Version(version))
}

/// The names of sets that a query lists.
fn names(c: &Connection, sql: &str) -> Result<Vec<Label>, Trouble> {
    let mut query = c.prepare(sql)?;
    let names: Vec<String> = query.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?;
    let label = |name| Label::new(name).map_err(|e| Trouble::Damaged(e.to_string()));
    names.into_iter().map(label).collect()
}

impl Store for Sqlite {
    fn id(&self) -> Result<StoreId, StoreError> {
        Ok(self.id)
    }

    fn location(&self) -> String {
        self.path.display().to_string()
    }

    fn get(&self, set: &Label) -> Result<Option<(Record, Version)>, StoreError> {
        self.read(&format!("reading the record of {set}"), |c| {
            let row: Option<(u64, String)> = c
                .query_row(
                    "SELECT version, record FROM set_records WHERE name = ?1",
                    [set.as_str()],
                    |r| Ok((r.get(0)?, r.get(1)?)),
                )
                .optional()?;
            let Some((version, json)) = row else {
                return Ok(None);
            };
            let record = codec::decode(&json).map_err(|e| e.of(set, Trouble::from))?;
            Ok(Some((record, Version(version))))
        })
    }

    fn put(&self, set: &Label, record: &Record, expected: Option<Version>) -> Result<Version, StoreError> {
        self.write(&format!("writing the record of {set}"), |t| {
            put(t, set, record, expected)
        })
    }

    fn put_under(
        &self,
        lease: &Lease,
        set: &Label,
        record: &Record,
        expected: Version,
    ) -> Result<Version, StoreError> {
        self.write(&format!("writing the record of {set}"), |t| {
            if !holds(t, lease)? {
                return Err(Trouble::Store(StoreError::Lost(lease.key.clone())));
            }
            put(t, set, record, Some(expected))
        })
    }

    fn remove(&self, set: &Label, expected: Version) -> Result<(), StoreError> {
        self.write(&format!("removing the record of {set}"), |t| {
            forget(t, set, expected)
        })
    }

    fn abandon(&self, set: &Label, left: &Record, expected: Version) -> Result<(), StoreError> {
        self.write(&format!("noting what was given up of {set}"), |t| {
            let json = codec::encode(left)?;
            forget(t, set, expected)?;
            t.execute(
                "INSERT INTO abandoned VALUES (?1, ?2)",
                params![set.as_str(), json],
            )?;
            Ok(())
        })
    }

    fn abandoned(&self, set: &Label) -> Result<Option<Record>, StoreError> {
        self.read(&format!("reading what was given up of {set}"), |c| {
            let sql = "SELECT record FROM abandoned WHERE name = ?1";
            let json: Option<String> = c.query_row(sql, [set.as_str()], |r| r.get(0)).optional()?;
            json.map(|json| codec::decode(&json).map_err(|e| e.of(set, Trouble::from)))
                .transpose()
        })
    }

    fn ended(&self) -> Result<Vec<Label>, StoreError> {
        let sql = "SELECT name FROM abandoned WHERE name NOT IN (SELECT name FROM set_records) ORDER BY name";
        self.read("listing sets that have ended", |c| names(c, sql))
    }

    fn sets(&self) -> Result<Vec<Label>, StoreError> {
        self.read("listing sets", |c| {
            names(c, "SELECT name FROM set_records ORDER BY name")
        })
    }

    fn acquire(
        &self,
        key: &str,
        holder: &Holder,
        now: Timestamp,
        unrenewed: Option<Stamp>,
    ) -> Result<Lease, StoreError> {
        self.write(&format!("taking the lease {key}"), |t| {
            let taken =
                lease(t, key)?.and_then(|(other, stamp)| acting(&self.liveness, other, stamp, unrenewed));
            if let Some(taken) = taken {
                return Err(Trouble::Store(StoreError::Held(Box::new(taken))));
            }
            let token = next(t, 0)?;
            t.execute(
                "INSERT OR REPLACE INTO leases VALUES (?1, ?2, ?3, ?4)",
                params![key, token, serde_json::to_string(holder)?, expiry(now)],
            )?;
            Ok(Lease {
                key: key.to_owned(),
                token,
            })
        })
    }

    fn renew(&self, lease: &Lease, now: Timestamp) -> Result<(), StoreError> {
        self.write(&format!("renewing the lease {}", lease.key), |t| {
            let held = self::lease(t, &lease.key)?.filter(|(_, stamp)| stamp.token == lease.token);
            let Some((_, stamp)) = held else {
                return Err(Trouble::Store(StoreError::Lost(lease.key.clone())));
            };
            t.execute(
                "UPDATE leases SET expires = ?2 WHERE name = ?1",
                params![lease.key, renewed(stamp.expires, now)],
            )?;
            Ok(())
        })
    }

    fn holds(&self, lease: &Lease) -> Result<bool, StoreError> {
        self.read(&format!("looking at the lease {}", lease.key), |c| {
            holds(c, lease)
        })
    }

    fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        self.write(&format!("giving back the lease {}", lease.key), |t| {
            t.execute(
                "DELETE FROM leases WHERE name = ?1 AND token = ?2",
                params![lease.key, lease.token],
            )?;
            Ok(())
        })
    }

    fn holder(&self, key: &str, now: Timestamp) -> Result<Option<Holder>, StoreError> {
        self.read(&format!("looking at the lease {key}"), |c| {
            let held = lease(c, key)?
                .filter(|(holder, stamp)| seems_to_act(&self.liveness, holder, stamp.expires, now));
            Ok(held.map(|(holder, _)| holder))
        })
    }

    fn begin(&self, op: &Operation) -> Result<u64, StoreError> {
        self.write("noting an operation", |t| {
            t.execute(
                "INSERT INTO operations (name, verb, who, began, was, wanted) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![op.set.as_str(), op.verb, op.who, op.at.to_string(), op.from, op.to],
            )?;
            let number = t.last_insert_rowid();
            t.execute(
                "DELETE FROM operations WHERE name = ?1 AND number <= (
                     SELECT number FROM operations WHERE name = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
                params![op.set.as_str(), HISTORY],
            )?;
            u64::try_from(number).map_err(|e| Trouble::Damaged(e.to_string()))
        })
    }

    fn finish(&self, number: u64, at: Timestamp, outcome: &str, to: Option<u32>) -> Result<(), StoreError> {
        self.write("noting how an operation ended", |t| {
            t.execute(
                "UPDATE operations SET ended = ?2, outcome = ?3, wanted = coalesce(?4, wanted) WHERE number = ?1",
                params![number, at.to_string(), outcome, to],
            )?;
            Ok(())
        })
    }

    fn measured(
        &self,
        set: &Label,
        samples: &[Sample],
        readings: &Readings,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(&format!("keeping what was measured of {set}"), |t| {
            measured::keep(t, set, samples, readings, now)
        })
    }

    fn samples(&self, set: &Label, since: Timestamp) -> Result<Vec<Sample>, StoreError> {
        self.read(&format!("reading what was measured of {set}"), |c| {
            measured::samples(c, set, since)
        })
    }

    fn readings(&self, set: &Label) -> Result<Readings, StoreError> {
        self.read(&format!("reading what was measured of {set}"), |c| {
            measured::readings(c, set)
        })
    }

    fn decided(&self, set: &Label, decision: &Decision, anew: bool) -> Result<(), StoreError> {
        self.write(&format!("keeping a decision on {set}"), |t| {
            measured::decided(t, set, decision, anew)
        })
    }

    fn decisions(&self, set: &Label, limit: usize) -> Result<Vec<Decision>, StoreError> {
        self.read(&format!("reading decisions on {set}"), |c| {
            measured::decisions(c, set, limit)
        })
    }

    fn history(&self, set: Option<&Label>, limit: usize) -> Result<Vec<PastOperation>, StoreError> {
        type Row = (
            u64,
            String,
            String,
            String,
            String,
            Option<String>,
            Option<u32>,
            Option<u32>,
            Option<String>,
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read("reading the history", |c| {
            let mut query = c.prepare(
                "SELECT number, name, verb, who, began, ended, was, wanted, outcome FROM operations
                 WHERE ?1 IS NULL OR name = ?1 ORDER BY number DESC LIMIT ?2",
            )?;
            let rows = query.query_map(params![set.map(Label::as_str), limit], |r| {
                Ok((
                    r.get(0)?,
                    r.get(1)?,
                    r.get(2)?,
                    r.get(3)?,
                    r.get(4)?,
                    r.get(5)?,
                    r.get(6)?,
                    r.get(7)?,
                    r.get(8)?,
                ))
            })?;
            let mut past = Vec::new();
            for row in rows {
                let (number, set, verb, who, began, ended, from, to, outcome): Row = row?;
                past.push(PastOperation {
                    number,
                    set: Label::new(set).map_err(|e| Trouble::Damaged(e.to_string()))?,
                    verb,
                    who,
                    began: began.parse()?,
                    ended: ended.map(|e| e.parse()).transpose()?,
                    from,
                    to,
                    outcome,
                });
            }
            Ok(past)
        })
    }
}
