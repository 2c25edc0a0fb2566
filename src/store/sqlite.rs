//! The embedded store: one SQLite file, written ahead, durable at every commit, readable by its owner only.

use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, TransactionBehavior, params};
use uuid::Uuid;

use crate::names::{Label, StoreId};
use crate::record::Record;
use crate::store::{Holder, Lease, Operation, PastOperation, Store, StoreError, Version};

/// A lease whose holder runs on another machine (a store on a shared disk) runs out after so long without renewal. A
/// holder on this machine is judged by its process alone: one that was only stopped must not be robbed.
pub const LEASE: Duration = Duration::from_secs(60);

/// Operations remembered per set.
const HISTORY: u32 = 1000;

/// Layout of the file; a file of a later layout is refused.
const LAYOUT: u32 = 1;

const SCHEMA: &str = "
    CREATE TABLE store (id TEXT NOT NULL);
    CREATE TABLE records (name TEXT PRIMARY KEY, version INTEGER NOT NULL, record TEXT NOT NULL);
    CREATE TABLE leases (
        name TEXT PRIMARY KEY, token INTEGER NOT NULL, holder TEXT NOT NULL, expires INTEGER NOT NULL);
    CREATE TABLE tokens (last INTEGER NOT NULL);
    INSERT INTO tokens VALUES (0);
    CREATE TABLE operations (
        number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, verb TEXT NOT NULL, who TEXT NOT NULL,
        began TEXT NOT NULL, ended TEXT, was INTEGER, wanted INTEGER, outcome TEXT);
    CREATE INDEX operations_by_set ON operations (name, number);
";

/// A SQLite store.
pub struct Sqlite {
    path: PathBuf,
    id: StoreId,
    connection: Mutex<Connection>,
}

impl Sqlite {
    /// Opens the store at `path`, making it, its folder and its identity if there is none.
    ///
    /// # Errors
    /// [`StoreError::Broken`] if it can't be read or written, is no store, or is of a later layout.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let doing = format!("opening the store {}", path.display());
        let io = |e: std::io::Error| StoreError::Broken {
            doing: doing.clone(),
            message: e.to_string(),
        };
        if let Some(folder) = path.parent()
            && !folder.exists()
        {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(io)?;
        }
        if !path.exists() {
            // Made here, and not by SQLite, so that it is never readable by others, not even for a moment.
            match std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
            {
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(io(e)),
            }
        }
        let mut connection = Connection::open(path).map_err(|e| broken(&doing, &e))?;
        let id = prepare(&mut connection, &doing)?;
        Ok(Self {
            path: path.to_owned(),
            id,
            connection: Mutex::new(connection),
        })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` in a transaction that may write.
    fn write<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection();
        let doing = format!("{doing} in {}", self.path.display());
        let transaction = (connection.transaction_with_behavior(TransactionBehavior::Immediate))
            .map_err(|e| broken(&doing, &e))?;
        let result = work(&transaction).map_err(|t| t.told(&doing))?;
        transaction.commit().map_err(|e| broken(&doing, &e))?;
        Ok(result)
    }

    fn read<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&Connection) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        let doing = format!("{doing} in {}", self.path.display());
        work(&self.connection()).map_err(|t| t.told(&doing))
    }
}

fn prepare(connection: &mut Connection, doing: &str) -> Result<StoreId, StoreError> {
    let sql = |e: rusqlite::Error| broken(doing, &e);
    connection.busy_timeout(Duration::from_secs(10)).map_err(sql)?;
    // A file that can only be read (another's store, a full disk) can still be looked at.
    let _: Result<String, _> =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0));
    connection
        .pragma_update(None, "synchronous", "full")
        .map_err(sql)?;
    let layout: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(sql)?;
    if layout > LAYOUT {
        return Err(StoreError::Broken {
            doing: doing.to_owned(),
            message: format!("it was written by a later vmss (layout {layout}, this one knows {LAYOUT})"),
        });
    }
    if layout < LAYOUT {
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(sql)?;
        // Another process may have been faster.
        let layout: u32 = transaction
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(sql)?;
        if layout == 0 {
            transaction.execute_batch(SCHEMA).map_err(sql)?;
            let id = Uuid::new_v4().to_string();
            transaction
                .execute("INSERT INTO store VALUES (?1)", [id])
                .map_err(sql)?;
            transaction
                .pragma_update(None, "user_version", LAYOUT)
                .map_err(sql)?;
        }
        transaction.commit().map_err(sql)?;
    }
    let id: String = connection
        .query_row("SELECT id FROM store", [], |row| row.get(0))
        .map_err(sql)?;
    let id = Uuid::parse_str(&id).map_err(|e| StoreError::Broken {
        doing: doing.to_owned(),
        message: format!("its identity is damaged: {e}"),
    })?;
    Ok(StoreId(id))
}

/// What can go wrong inside a transaction.
enum Trouble {
    Sql(rusqlite::Error),
    Json(String),
    Store(StoreError),
}

impl Trouble {
    fn told(self, doing: &str) -> StoreError {
        match self {
            Self::Sql(e) => broken(doing, &e),
            Self::Json(e) => StoreError::Broken {
                doing: doing.to_owned(),
                message: format!("damaged: {e}"),
            },
            Self::Store(e) => e,
        }
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(e: rusqlite::Error) -> Self {
        Self::Sql(e)
    }
}

impl From<serde_json::Error> for Trouble {
    fn from(e: serde_json::Error) -> Self {
        Self::Json(e.to_string())
    }
}

impl From<jiff::Error> for Trouble {
    fn from(e: jiff::Error) -> Self {
        Self::Json(e.to_string())
    }
}

fn broken(doing: &str, e: &rusqlite::Error) -> StoreError {
    let message = match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full".to_owned(),
        Some(ErrorCode::NotADatabase) => {
            "it is not a vmss store, or damaged beyond reading; move it away and make the records again with vmss \
             state rebuild"
                .to_owned()
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            "it is damaged; move it away and make the records again with vmss state rebuild".to_owned()
        }
        Some(ErrorCode::ReadOnly) => "it may only be read".to_owned(),
        _ => e.to_string(),
    };
    StoreError::Broken {
        doing: doing.to_owned(),
        message,
    }
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
                    "SELECT version, record FROM records WHERE name = ?1",
                    [set.as_str()],
                    |r| Ok((r.get(0)?, r.get(1)?)),
                )
                .optional()?;
            let Some((version, json)) = row else {
                return Ok(None);
            };
            Ok(Some((serde_json::from_str(&json)?, Version(version))))
        })
    }

    fn put(&self, set: &Label, record: &Record, expected: Option<Version>) -> Result<Version, StoreError> {
        self.write(&format!("writing the record of {set}"), |t| {
            let json = serde_json::to_string(record)?;
            let changed = match expected {
                None => t.execute(
                    "INSERT OR IGNORE INTO records VALUES (?1, 1, ?2)",
                    params![set.as_str(), json],
                )?,
                Some(Version(v)) => t.execute(
                    "UPDATE records SET version = version + 1, record = ?2 WHERE name = ?1 AND version = ?3",
                    params![set.as_str(), json, v],
                )?,
            };
            if changed == 0 {
                return Err(Trouble::Store(StoreError::Changed(set.clone())));
            }
            Ok(Version(expected.map_or(1, |v| v.0 + 1)))
        })
    }

    fn remove(&self, set: &Label, expected: Version) -> Result<(), StoreError> {
        self.write(&format!("removing the record of {set}"), |t| {
            let gone = t.execute(
                "DELETE FROM records WHERE name = ?1 AND version = ?2",
                params![set.as_str(), expected.0],
            )?;
            if gone == 0 {
                Err(Trouble::Store(StoreError::Changed(set.clone())))
            } else {
                Ok(())
            }
        })
    }

    fn sets(&self) -> Result<Vec<Label>, StoreError> {
        self.read("listing sets", |c| {
            let mut query = c.prepare("SELECT name FROM records ORDER BY name")?;
            let names: Vec<String> = query.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?;
            names
                .into_iter()
                .map(|n| Label::new(n).map_err(|e| Trouble::Json(e.to_string())))
                .collect()
        })
    }

    fn acquire(&self, key: &str, holder: &Holder, now: Timestamp) -> Result<Lease, StoreError> {
        self.write(&format!("taking the lease {key}"), |t| {
            if let Some(other) = alive(t, key, now)? {
                return Err(Trouble::Store(StoreError::Held(Box::new(other))));
            }
            t.execute("UPDATE tokens SET last = last + 1", [])?;
            let token: u64 = t.query_row("SELECT last FROM tokens", [], |r| r.get(0))?;
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
            let kept = t.execute(
                "UPDATE leases SET expires = ?3 WHERE name = ?1 AND token = ?2",
                params![lease.key, lease.token, expiry(now)],
            )?;
            if kept == 0 {
                Err(Trouble::Store(StoreError::Lost(lease.key.clone())))
            } else {
                Ok(())
            }
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
        self.read(&format!("looking at the lease {key}"), |c| alive(c, key, now))
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
            u64::try_from(number).map_err(|e| Trouble::Json(e.to_string()))
        })
    }

    fn finish(&self, number: u64, at: Timestamp, outcome: &str, to: Option<u32>) -> Result<(), StoreError> {
        self.write("noting how an operation ended", |t| {
            t.execute(
                "UPDATE operations SET ended = ?2, outcome = ?3, wanted = ?4 WHERE number = ?1",
                params![number, at.to_string(), outcome, to],
            )?;
            Ok(())
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
                    set: Label::new(set).map_err(|e| Trouble::Json(e.to_string()))?,
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

fn expiry(now: Timestamp) -> i64 {
    now.as_second().saturating_add_unsigned(LEASE.as_secs())
}

/// The lease's holder, if it may still be acting.
fn alive(c: &Connection, key: &str, now: Timestamp) -> Result<Option<Holder>, Trouble> {
    let row: Option<(String, i64)> = c
        .query_row("SELECT holder, expires FROM leases WHERE name = ?1", [key], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })
        .optional()?;
    let Some((json, expires)) = row else {
        return Ok(None);
    };
    let holder: Holder = serde_json::from_str(&json)?;
    let lives = holder.lives().unwrap_or(expires > now.as_second());
    Ok(lives.then_some(holder))
}
