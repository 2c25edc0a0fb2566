//! What can go wrong in the embedded store, and how it is told.

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
    /// The error for one who was `doing` something.
    pub(super) fn told(self, doing: &str) -> StoreError {
        let (why, message) = match self {
            Self::Sql(e) => sentence(&e),
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

fn sentence(e: &rusqlite::Error) -> (Failure, String) {
    let extended = e.sqlite_error().map(|e| e.extended_code);
    match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => (Failure::Full, "the disk is full".to_owned()),
        // The index beside the file could not grow. That is what a full disk does; what a damaged file system does, too.
        Some(ErrorCode::SystemIoFailure) if extended == Some(ffi::SQLITE_IOERR_SHMSIZE) => (
            Failure::Full,
            "the disk is full, or can't be written: the file's index can't grow".to_owned(),
        ),
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
