//! The file of the embedded store: how it is made, recognised, brought to the present layout, and opened for looking
//! only where nothing may be written.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, MAIN_DB, OpenFlags, TransactionBehavior};
use uuid::Uuid;

use crate::names::StoreId;
use crate::store::sqlite::trouble::{Trouble, is_refusal_to_write};
use crate::store::{Failure, StoreError};
use crate::trust;

/// "vmss" in the header's field for the program a file belongs to, so that no other program's database is ever taken
/// for a store, and `file` can tell what it is.
const APPLICATION: i32 = 0x766d_7373;

/// How long a transaction waits for another process's. They last milliseconds; a whole disk may stall for seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// What makes each layout of the one before it; the first makes it of nothing. Never changed, only added to.
const MIGRATIONS: [&str; 5] = [
    "CREATE TABLE store (id TEXT NOT NULL);
     CREATE TABLE records (name TEXT PRIMARY KEY, version INTEGER NOT NULL, record TEXT NOT NULL);
     CREATE TABLE leases (
         name TEXT PRIMARY KEY, token INTEGER NOT NULL, holder TEXT NOT NULL, expires INTEGER NOT NULL);
     CREATE TABLE tokens (last INTEGER NOT NULL);
     INSERT INTO tokens VALUES (0);
     CREATE TABLE operations (
         number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, verb TEXT NOT NULL, who TEXT NOT NULL,
         began TEXT NOT NULL, ended TEXT, was INTEGER, wanted INTEGER, outcome TEXT);
     CREATE INDEX operations_by_set ON operations (name, number);",
    // Versions of records come from the same counter as tokens from here on: see `Sqlite::put`.
    "UPDATE tokens SET last = max(last, (SELECT coalesce(max(version), 0) FROM records));",
    // Moments are milliseconds since 1970: samples are many, and found by ranges of them.
    "CREATE TABLE samples (
         name TEXT NOT NULL, metric TEXT NOT NULL, at INTEGER NOT NULL, instances INTEGER NOT NULL, missing INTEGER NOT NULL,
         total REAL NOT NULL, least REAL NOT NULL, most REAL NOT NULL, PRIMARY KEY (name, at, metric)) WITHOUT ROWID;
     CREATE TABLE readings (name TEXT PRIMARY KEY, readings TEXT NOT NULL);
     CREATE TABLE decisions (
         number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, decision TEXT NOT NULL);
     CREATE INDEX decisions_by_set ON decisions (name, number);",
    // Under a name that no earlier vmss knows. One that runs, and has the file open, would go on writing records without
    // what it does not know of them: now it fails, and says so.
    "ALTER TABLE records RENAME TO set_records;",
    // Records of sets that were ended while something of them could not be seen.
    "CREATE TABLE abandoned (name TEXT PRIMARY KEY, record TEXT NOT NULL);",
];

/// The first layout in which records have their present name.
const RENAMED: u32 = 4;

/// The first layout that remembers what was given up.
const REMEMBERS: u32 = 5;

/// Layout of a file that all migrations were done on; a file of a later layout is refused.
const LAYOUT: u32 = MIGRATIONS.len() as u32;

/// Opens the store's file, making it, its folder and its identity if there is none.
pub(super) fn open(path: &Path) -> Result<(Connection, StoreId), StoreError> {
    let doing = format!("opening the store {}", path.display());
    make(path).map_err(|t| t.told(&doing, path))?;
    let first = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .map_err(Trouble::from)
        .and_then(prepare);
    match first {
        Err(Trouble::Sql(e)) if is_refusal_to_write(&e) => look_only(path)
            .unwrap_or(Err(Trouble::Sql(e)))
            .map_err(|t| t.told(&doing, path)),
        other => other.map_err(|t| t.told(&doing, path)),
    }
}

/// Makes the folder and an empty file, unless they are there and may be used. Made here, and not by SQLite, so that records, which hold
/// user data, are never readable by others, not even for a moment. What SQLite puts beside the file has its mode.
fn make(path: &Path) -> Result<(), Trouble> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(Trouble::Io)?;
    }
    trust::database(path).map_err(Trouble::Distrusted)?;
    if path.exists() {
        return Ok(());
    }
    let made = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        // Another process was faster: one of this user, or of another who has it opened for nobody else.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            trust::database(path).map_err(Trouble::Distrusted)
        }
        Err(e) => Err(Trouble::Io(e)),
        Ok(_) => Ok(()),
    }
}

/// Opens a store whose folder can't be written, which SQLite refuses for a file that is written ahead: it has nowhere
/// to put its index. `None` if something was written ahead and not yet carried over: the file alone is not the truth then.
fn look_only(path: &Path) -> Option<Result<(Connection, StoreId), Trouble>> {
    let mut ahead = path.as_os_str().to_owned();
    ahead.push("-wal");
    if std::fs::metadata(PathBuf::from(ahead)).is_ok_and(|m| m.len() > 0) {
        return None;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:{}?immutable=1", percent_encoded(path));
    Some(
        Connection::open_with_flags(uri, flags)
            .map_err(Trouble::from)
            .and_then(prepare),
    )
}

fn percent_encoded(path: &Path) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02x}");
        }
    }
    text
}

/// Sees that the file is a store of a layout that is known, and brings it up to the present one.
fn prepare(mut connection: Connection) -> Result<(Connection, StoreId), Trouble> {
    connection.busy_timeout(PATIENCE)?;
    // In one transaction: between two looks, another process may make the empty file a store.
    let look = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let layout = recognise(&look)?;
    drop(look);
    if !connection.is_readonly(MAIN_DB)? {
        if layout < LAYOUT {
            migrate(&mut connection)?;
        }
        // Refused while another process is at work in a file that is not written ahead yet. That is as safe, only
        // slower, and the next opening does it.
        let _: Result<String, _> =
            connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0));
        // A commit is on the disk before it is reported: a record must survive a power cut.
        connection.pragma_update(None, "synchronous", "full")?;
    } else if layout == 0 {
        return Err(Trouble::Said(
            Failure::ReadOnly,
            "it is empty, and may not be written to make a store of it".to_owned(),
        ));
    } else if layout < REMEMBERS {
        // Looked at as it is: the present names stand for the former ones, in memory only.
        connection.pragma_update(None, "temp_store", "memory")?;
        if layout < RENAMED {
            connection.execute_batch("CREATE TEMP VIEW set_records AS SELECT * FROM main.records")?;
        }
        connection.execute_batch("CREATE TEMP TABLE abandoned (name TEXT, record TEXT)")?;
    }
    let id: String = connection.query_row("SELECT id FROM store", [], |row| row.get(0))?;
    let id = Uuid::parse_str(&id).map_err(|e| Trouble::Damaged(format!("its identity: {e}")))?;
    Ok((connection, StoreId(id)))
}

/// The file's layout, 0 for one that holds nothing yet.
fn recognise(connection: &Connection) -> Result<u32, Trouble> {
    let layout: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables = |name: &str| -> Result<u32, rusqlite::Error> {
        connection.query_row(
            "SELECT count(*) FROM sqlite_master WHERE name LIKE ?1",
            [name],
            |row| row.get(0),
        )
    };
    let ours = match (application, layout) {
        (APPLICATION, _) => true,
        (0, 0) => tables("%")? == 0,
        // The first layout did not say whose it is.
        (0, 1) => tables("store")? == 1 && tables("tokens")? == 1,
        _ => false,
    };
    if !ours {
        return Err(Trouble::Said(
            Failure::Foreign,
            "it is another program's SQLite file, and was left untouched".to_owned(),
        ));
    }
    if layout > LAYOUT {
        let text = format!(
            "it was written by a later vmss (its layout is {layout}, this vmss knows {LAYOUT} at most): use that vmss"
        );
        return Err(Trouble::Said(Failure::Newer, text));
    }
    Ok(layout)
}

fn migrate(connection: &mut Connection) -> Result<(), Trouble> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    let layout = recognise(&transaction)?;
    for migration in MIGRATIONS.iter().skip(layout as usize) {
        transaction.execute_batch(migration)?;
    }
    if layout == 0 {
        let id = Uuid::new_v4().to_string();
        transaction.execute("INSERT INTO store VALUES (?1)", [id])?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", LAYOUT)?;
    transaction.commit()?;
    Ok(())
}
