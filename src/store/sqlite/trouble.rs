//! What can go wrong in the embedded store, and how it is told.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rusqlite::{ErrorCode, ffi};

use crate::store::{Failure, StoreError};
use crate::trust::Distrust;

/// What can go wrong inside a transaction.
pub(super) enum Trouble {
    /// SQLite said no.
    Sql(rusqlite::Error),
    /// The file could not be made.
    Io(std::io::Error),
    /// What was read makes no sense.
    Damaged(String),
    /// A sentence that tells it all, with the kind of it.
    Said(Failure, String),
    /// It may not be used.
    Distrusted(Distrust),
    /// An error in the trait's own words.
    Store(StoreError),
}

impl Trouble {
    /// The error for one who was `doing` something with the file at `path`.
    pub(super) fn told(self, doing: &str, path: &Path) -> StoreError {
        let (why, message) = match self {
            Self::Sql(e) => sentence(&e, path),
            Self::Io(e) => (of_system(&e), e.to_string()),
            Self::Damaged(what) => (Failure::Damaged, format!("it is damaged ({what}); {WAY_OUT}")),
            Self::Said(why, message) => (why, message),
            Self::Distrusted(e) => (Failure::Distrusted, e.to_string()),
            Self::Store(e) => return e,
        };
        StoreError::Broken {
            doing: doing.to_owned(),
            why,
            message,
        }
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(e: rusqlite::Error) -> Self {
        Self::Sql(e)
    }
}

impl From<StoreError> for Trouble {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

impl From<serde_json::Error> for Trouble {
    fn from(e: serde_json::Error) -> Self {
        Self::Damaged(e.to_string())
    }
}

impl From<jiff::Error> for Trouble {
    fn from(e: jiff::Error) -> Self {
        Self::Damaged(e.to_string())
    }
}

/// Whether SQLite refuses because the file, or a file it needs beside it, can't be written.
pub(super) fn is_refusal_to_write(e: &rusqlite::Error) -> bool {
    matches!(
        e.sqlite_error_code(),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen)
    )
}

const WAY_OUT: &str = "move it away and make the records again with vmss state rebuild";

fn of_system(e: &std::io::Error) -> Failure {
    match e.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Failure::Full,
        std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => Failure::ReadOnly,
        _ => Failure::Other,
    }
}

/// Less room than this is none: a page, its copy in the log, and what the file system keeps for itself.
const NO_ROOM: u64 = 64 << 10;

/// Whether the disk that `path` is on has room left, as far as it says so.
fn has_room(path: &Path) -> bool {
    let folder = path.parent().unwrap_or(path);
    let Ok(name) = CString::new(folder.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: statvfs is plain numbers, for which zeroes are valid; it is filled in by the call.
    let mut disk: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the name ends with a zero, and both live longer than the call.
    let is_told = unsafe { libc::statvfs(name.as_ptr(), &raw mut disk) } == 0;
    is_told && disk.f_bavail.saturating_mul(disk.f_frsize) > NO_ROOM
}

fn sentence(e: &rusqlite::Error, path: &Path) -> (Failure, String) {
    let extended = e.sqlite_error().map(|e| e.extended_code);
    match e.sqlite_error_code() {
        // SQLite says so as well of a file whose header or list of free pages makes no sense.
        Some(ErrorCode::DiskFull) if has_room(path) => (
            Failure::Damaged,
            format!(
                "it can't grow, though its disk has room: it is damaged (sqlite3 {} 'PRAGMA integrity_check' tells \
                 how); {WAY_OUT}",
                path.display()
            ),
        ),
        Some(ErrorCode::DiskFull) => (Failure::Full, "the disk is full".to_owned()),
        // The index beside the file could not grow.
        Some(ErrorCode::SystemIoFailure)
            if extended == Some(ffi::SQLITE_IOERR_SHMSIZE) && !has_room(path) =>
        {
            (Failure::Full, "the disk is full".to_owned())
        }
        Some(ErrorCode::NotADatabase) => (
            Failure::Damaged,
            format!("it is no vmss store, or damaged beyond reading; {WAY_OUT}"),
        ),
        Some(ErrorCode::DatabaseCorrupt) => (Failure::Damaged, format!("it is damaged ({e}); {WAY_OUT}")),
        Some(ErrorCode::ReadOnly) => (Failure::ReadOnly, "it may only be read here".to_owned()),
        Some(ErrorCode::DatabaseBusy) => (
            Failure::Busy,
            "another process has been writing to it for more than 10 s".to_owned(),
        ),
        _ => (Failure::Other, e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(extended_code: i32, path: &Path) -> (Failure, String) {
        let e = rusqlite::Error::SqliteFailure(ffi::Error::new(extended_code), None);
        sentence(&e, path)
    }

    #[test]
    fn what_sqlite_calls_a_full_disk_is_none_where_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_SHMSIZE] {
            let (why, said) = told(code, &path);
            assert_ne!(why, Failure::Full, "{said}");
            assert!(!said.contains("full"), "{said}");
        }
        let (why, said) = told(ffi::SQLITE_FULL, &path);
        assert_eq!(why, Failure::Damaged);
        assert!(
            said.contains("integrity_check") && said.contains("vmss state rebuild"),
            "{said}"
        );
    }

    #[test]
    fn a_disk_without_room_is_told_as_full() {
        // A file system that never has any.
        let path = Path::new("/proc/state.db");
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_SHMSIZE] {
            assert_eq!(told(code, path), (Failure::Full, "the disk is full".to_owned()));
        }
    }
}
