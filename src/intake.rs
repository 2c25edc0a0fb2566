//! Reading files that others have written: whole, of a bounded size, and only what has an end.
//!
//! Opening a named pipe waits for a writer, and reading a device may never end. So only regular files are read, and
//! what is no such file is refused by name before it is opened. The exception is what whoever started vmss has handed
//! to it (`/dev/stdin`, and `/dev/fd/N` of a shell's `<(...)`): that may be a pipe, and is read with an eye on the
//! interrupt.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::units::Bytes;
use crate::world::Interrupt;

/// Largest definition that is read.
pub const DEFINITION: Bytes = Bytes::mib(4);
/// Largest user data that is read: all of it goes into the record, and into every seed.
pub const USER_DATA: Bytes = Bytes::mib(16);
/// Largest file with a token.
pub const TOKEN: Bytes = Bytes(64 << 10);
/// Largest file with a certificate and its key.
pub const CERTIFICATE: Bytes = Bytes::mib(1);
/// Largest trace for a simulation: a year of minutes with twenty columns.
pub const TRACE: Bytes = Bytes::mib(64);
/// Largest file that vmss itself has written: caches, configurations, logs of what it has started.
pub const OURS: Bytes = Bytes::mib(16);

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// What the system said.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is something else than a regular file: what.
    #[error("it is {0}, and only a regular file is read")]
    Kind(&'static str),
    /// It has more than so many bytes.
    #[error("it has more than {0}, the most that is read of such a file")]
    Large(Bytes),
    /// It is no text from this byte on.
    #[error("it is no text: byte {0} is not UTF-8")]
    Text(usize),
    /// The operator wants to stop.
    #[error("stopped while it was read")]
    Interrupted,
}

/// Opens a regular file, and says what it is. Never waits: neither for the writer of a pipe nor for a device.
///
/// # Errors
/// It is no regular file, or can't be opened.
pub fn open(path: &Path) -> Result<(File, Metadata), IntakeError> {
    // Looked at before, since opening some devices does something; and after, for it may be another by then.
    regular(&std::fs::metadata(path)?)?;
    let file = open_at_once(path)?;
    let meta = file.metadata()?;
    regular(&meta)?;
    Ok((file, meta))
}

/// The bytes of a regular file that has `most` of them at most.
///
/// # Errors
/// See [`IntakeError`].
pub fn bytes(path: &Path, most: Bytes) -> Result<Vec<u8>, IntakeError> {
    let (file, _) = open(path)?;
    let mut bytes = Vec::new();
    file.take(most.0.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most.0 {
        return Err(IntakeError::Large(most));
    }
    Ok(bytes)
}

/// The text of a regular file that has `most` bytes at most.
///
/// # Errors
/// See [`IntakeError`].
pub fn text(path: &Path, most: Bytes) -> Result<String, IntakeError> {
    as_text(bytes(path, most)?)
}

/// As [`text`], also of what whoever started vmss has handed to it, be it a pipe or a terminal.
///
/// # Errors
/// See [`IntakeError`].
pub fn text_handed_over(path: &Path, most: Bytes, interrupt: &Interrupt) -> Result<String, IntakeError> {
    if !is_handed_over(path) || std::fs::metadata(path)?.is_file() {
        return text(path, most);
    }
    let mut file = open_at_once(path)?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 1 << 14];
    loop {
        if interrupt.is_set() {
            return Err(IntakeError::Interrupted);
        }
        if !is_readable(&file)? {
            continue;
        }
        match file.read(&mut buffer) {
            Ok(0) => return as_text(bytes),
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) => return Err(e.into()),
        }
        if bytes.len() as u64 > most.0 {
            return Err(IntakeError::Large(most));
        }
    }
}

/// Whether a path names one of this process's own descriptors.
fn is_handed_over(path: &Path) -> bool {
    path == Path::new("/dev/stdin") || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd")
}

fn open_at_once(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    options.open(path)
}

fn regular(meta: &Metadata) -> Result<(), IntakeError> {
    match other_kind(meta.file_type()) {
        None => Ok(()),
        Some(kind) => Err(IntakeError::Kind(kind)),
    }
}

fn other_kind(kind: FileType) -> Option<&'static str> {
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a folder")
    } else if kind.is_fifo() {
        Some("a named pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

/// Waits a moment for something to read, or for the end.
fn is_readable(file: &File) -> io::Result<bool> {
    const MOMENT_MS: i32 = 100;
    let mut wanted = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one descriptor, open for as long as `file` is borrowed, in a place that outlives the call.
    match unsafe { libc::poll(&raw mut wanted, 1, MOMENT_MS) } {
        0 => Ok(false),
        1.. => Ok(true),
        _ => match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::Interrupted => Ok(false),
            e => Err(e),
        },
    }
}

fn as_text(bytes: Vec<u8>) -> Result<String, IntakeError> {
    String::from_utf8(bytes).map_err(|e| IntakeError::Text(e.utf8_error().valid_up_to()))
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd as _;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn fifo(path: &Path) {
        let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the name ends with a zero byte and outlives the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    }

    fn refused(path: &Path) -> String {
        bytes(path, TOKEN).unwrap_err().to_string()
    }

    #[test]
    fn what_may_have_no_end_is_refused_by_name_and_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fifo(&at("pipe"));
        let _listener = UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("link")).unwrap();
        for (path, kind) in [
            (at("pipe"), "a named pipe"),
            (at("socket"), "a socket"),
            (at("link"), "a device"),
            (dir.path().to_owned(), "a folder"),
            ("/dev/zero".into(), "a device"),
        ] {
            let said = refused(&path);
            assert!(
                said.starts_with(&format!("it is {kind}")),
                "{}: {said}",
                path.display()
            );
        }
        assert!(refused(&at("none")).contains("No such file"));
    }

    #[test]
    fn a_file_is_read_up_to_its_most_and_only_if_it_is_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "üben").unwrap();
        assert_eq!(text(&path, Bytes(5)).unwrap(), "üben");
        assert!(matches!(text(&path, Bytes(4)), Err(IntakeError::Large(Bytes(4)))));
        std::fs::write(&path, b"ab\xff").unwrap();
        assert!(matches!(text(&path, Bytes(5)), Err(IntakeError::Text(2))));
        // Not all of a sparse file is read to find out that it is too large.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(matches!(bytes(&path, OURS), Err(IntakeError::Large(_))));
    }

    /// The two ends of a pipe.
    fn pipe() -> (File, File) {
        let mut ends = [0; 2];
        // SAFETY: there is room for both descriptors, and each becomes one file's.
        unsafe {
            assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
            (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
        }
    }

    #[test]
    fn what_was_handed_over_may_be_a_pipe_and_is_bounded_too() {
        use std::io::Write as _;
        let (read, mut write) = pipe();
        let path = format!("/dev/fd/{}", read.as_raw_fd());
        let path = Path::new(&path);
        write.write_all(b"name = 1").unwrap();
        let interrupt = Interrupt::default();
        assert!(matches!(
            text_handed_over(path, Bytes(3), &interrupt),
            Err(IntakeError::Large(_))
        ));
        write.write_all(b"more").unwrap();
        drop(write);
        assert_eq!(text_handed_over(path, TOKEN, &interrupt).unwrap(), "more");
    }

    #[test]
    fn whoever_waits_for_a_silent_pipe_can_be_stopped() {
        let (read, _silent) = pipe();
        let path = format!("/dev/fd/{}", read.as_raw_fd());
        let interrupt = Interrupt::default();
        interrupt.press();
        let read = text_handed_over(Path::new(&path), TOKEN, &interrupt);
        assert!(matches!(read, Err(IntakeError::Interrupted)));
    }
}
