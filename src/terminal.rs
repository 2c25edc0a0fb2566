//! The terminal on stdin in raw mode: every key goes to whom it is meant for, Ctrl-C too.

use std::io;
use std::time::Duration;

use crate::world::Keyboard;

/// Raw until it is dropped; then the terminal is as it was.
pub struct RawTerminal {
    before: libc::termios,
}

impl RawTerminal {
    /// Makes the terminal on stdin raw.
    ///
    /// # Errors
    /// Stdin is no terminal.
    pub fn open() -> io::Result<Self> {
        // SAFETY: termios is plain numbers, for which zeroes are valid; it is filled in by the call.
        let mut before: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: `before` is a place for the answer and lives longer than the call.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, &raw mut before) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut raw = before;
        // SAFETY: it only changes the structure that it is given.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        // SAFETY: `raw` is a whole structure, as it was read and changed.
        if unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const raw) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // SAFETY: the structure is as it was read; a terminal that is gone needs nothing any more.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSADRAIN, &raw const self.before) };
    }
}

impl Keyboard for RawTerminal {
    fn typed(&mut self, wait: Duration) -> Option<Vec<u8>> {
        let mut stdin = libc::pollfd {
            fd: libc::STDIN_FILENO,
            events: libc::POLLIN,
            revents: 0,
        };
        let wait = libc::c_int::try_from(wait.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: one structure is there, as is said, and lives longer than the call.
        let ready = unsafe { libc::poll(&raw mut stdin, 1, wait) };
        if ready <= 0 {
            // Nothing was typed; or a signal came, which shows elsewhere.
            return Some(Vec::new());
        }
        let mut keys = vec![0_u8; 4096];
        // SAFETY: at most as many bytes are written as there is room for.
        let got = unsafe { libc::read(libc::STDIN_FILENO, keys.as_mut_ptr().cast(), keys.len()) };
        match usize::try_from(got) {
            Ok(0) => None,
            Ok(length) => {
                keys.truncate(length);
                Some(keys)
            }
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => Some(Vec::new()),
            Err(_) => None,
        }
    }
}
