//! What can go wrong in the embedded store, and how it is told.

use rusqlite::{ErrorCode, ffi};

use crate::store::StoreError;

/// What can go wrong inside a transaction.
pub(super) enum Trouble {
    /// SQLite said no.
    Sql(rusqlite::Error),
    /// The file could not be made.
    Io(std::io::Error),
    /// What was read makes no sense.
    Damaged(String),
    /// A sentence that tells it all.
    Said(String),
    /// An error in the trait's own words.
    Store(StoreError),
}

impl Trouble {
    /// The error for one who was `doing` something.
    pub(super) fn told(self, doing: &str) -> StoreError {
        let message = match self {
            Self::Sql(e) => sentence(&e),
            Self::Io(e) => e.to_string(),
            Self::Damaged(what) => format!("it is damaged ({what}); {WAY_OUT}"),
            Self::Said(message) => message,
            Self::Store(e) => return e,
        };
        StoreError::Broken {
            doing: doing.to_owned(),
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

fn sentence(e: &rusqlite::Error) -> String {
    let extended = e.sqlite_error().map(|e| e.extended_code);
    match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full".to_owned(),
        // The index beside the file could not grow: no other cause is known.
        Some(ErrorCode::SystemIoFailure) if extended == Some(ffi::SQLITE_IOERR_SHMSIZE) => {
            "the disk is full".to_owned()
        }
        Some(ErrorCode::NotADatabase) => format!("it is no vmss store, or damaged beyond reading; {WAY_OUT}"),
        Some(ErrorCode::DatabaseCorrupt) => format!("it is damaged ({e}); {WAY_OUT}"),
        Some(ErrorCode::ReadOnly) => "it may only be read here".to_owned(),
        Some(ErrorCode::DatabaseBusy) => {
            "another process has been writing to it for more than 10 s".to_owned()
        }
        _ => e.to_string(),
    }
}
