//! HAProxy's Runtime API: one command, one connection, one answer.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::balancer::{BalancerError, Trouble};
use crate::load_balancer::AdminSocket;

/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most bytes that an answer may have: two hundred thousand servers' statistics.
const MOST: u64 = 1 << 27;

/// A command, word by word. No word can hold a blank, a line end or a semicolon, which would begin another command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command(String);

impl Command {
    /// Of words that are known to the house.
    ///
    /// # Panics
    /// If a word could mean more than itself: names are checked where they come in, and addresses are no text.
    pub fn new<'w>(words: impl IntoIterator<Item = &'w str>) -> Self {
        let mut line = String::new();
        for word in words {
            assert!(is_word(word), "{word:?} can't be a word of a command");
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        Self(line)
    }

    /// The same for one process of several, by the master's socket.
    fn to_process(&self, pid: u32) -> Self {
        Self(format!("@!{pid} {}", self.0))
    }
}

fn is_word(word: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.:/[]%".contains(c);
    !word.is_empty() && word.chars().all(fine)
}

/// An address as HAProxy reads it: IPv6 in brackets, so that its port is never taken for a part of it.
pub fn address(ip: IpAddr, port: u16) -> String {
    let mut text = String::new();
    let _ = match ip {
        IpAddr::V4(ip) => write!(text, "{ip}:{port}"),
        IpAddr::V6(ip) => write!(text, "[{ip}]:{port}"),
    };
    text
}

/// Where commands are sent to.
#[derive(Clone, Debug)]
pub struct Runtime {
    socket: AdminSocket,
}

impl Runtime {
    /// By that socket.
    pub const fn new(socket: AdminSocket) -> Self {
        Self { socket }
    }

    /// By a socket file.
    pub fn at(path: &Path) -> Self {
        Self::new(AdminSocket::Unix(path.to_owned()))
    }

    /// Sends a command, returns the whole answer without the empty lines around it.
    ///
    /// # Errors
    /// The socket is not there, anybody could write to it, nobody listens, or no whole answer comes in time.
    pub fn ask(&self, command: &Command) -> Result<String, BalancerError> {
        let failed = |e: std::io::Error| {
            let why = match e.kind() {
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                    format!("no answer within {} s", PATIENCE.as_secs())
                }
                _ => e.to_string(),
            };
            BalancerError::unreachable(format!("asking HAProxy at {}", self.socket), why)
        };
        self.refuse_open_to_all()?;
        let end = Instant::now() + PATIENCE;
        let mut stream = self.connect().map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        stream
            .write_all(format!("{}\n", command.0).as_bytes())
            .map_err(failed)?;
        // A master goes on listening until it hears that there is no more.
        stream.shutdown(std::net::Shutdown::Write).map_err(failed)?;
        let mut answer = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(failed(std::io::ErrorKind::TimedOut.into()));
            }
            stream.set_read_timeout(Some(left)).map_err(failed)?;
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => answer.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(e)),
            }
            if answer.len() as u64 > MOST {
                return Err(failed(std::io::Error::other("the answer has no end")));
            }
        }
        let text = String::from_utf8_lossy(&answer).trim_matches('\n').to_owned();
        if text.starts_with("Permission denied") {
            return Err(BalancerError::refused(
                format!("asking HAProxy at {}", self.socket),
                "the socket may not be used for changes: its line in HAProxy's configuration needs \"level admin\"",
            ));
        }
        Ok(text)
    }

    /// Sends a command to one of the processes behind a master's socket.
    ///
    /// # Errors
    /// See [`Self::ask`].
    pub fn ask_process(&self, pid: u32, command: &Command) -> Result<String, BalancerError> {
        self.ask(&command.to_process(pid))
    }

    /// Sends a command whose answer must be empty or one of `good`.
    ///
    /// # Errors
    /// As [`Self::ask`]; any other answer is a refusal.
    pub fn order(&self, command: &Command, good: &[&str]) -> Result<(), BalancerError> {
        let answer = self.ask(command)?;
        if answer.is_empty() || good.contains(&answer.as_str()) {
            return Ok(());
        }
        let answer = answer.lines().next().unwrap_or_default();
        Err(BalancerError::refused(
            format!("{} (HAProxy at {})", command.0, self.socket),
            crate::balancer::haproxy::shown(answer),
        ))
    }

    fn connect(&self) -> std::io::Result<Socket> {
        let (domain, address) = match &self.socket {
            AdminSocket::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
            AdminSocket::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
        };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.connect_timeout(&address, PATIENCE)?;
        Ok(socket)
    }

    /// Whether nothing is at the other end: no file, or one that nobody listens on any more.
    pub fn is_dead(&self) -> bool {
        use std::io::ErrorKind as Kind;
        self.connect()
            .is_err_and(|e| matches!(e.kind(), Kind::NotFound | Kind::ConnectionRefused))
    }

    /// Refuses a socket file that anybody could write to, or replace: whoever can drive the balancer decides where the
    /// set's clients go.
    fn refuse_open_to_all(&self) -> Result<(), BalancerError> {
        let AdminSocket::Unix(path) = &self.socket else {
            return Ok(());
        };
        let doing = || format!("looking at the socket {}", path.display());
        let meta = std::fs::metadata(path).map_err(|e| BalancerError::unreachable(doing(), e))?;
        if !meta.file_type().is_socket() {
            return Err(BalancerError::refused(doing(), "it is no socket"));
        }
        if meta.mode() & 0o002 != 0 {
            return Err(BalancerError::refused(
                doing(),
                format!(
                    "anybody on this machine may write to it (mode {:o}); HAProxy's stats socket line takes \"mode 660\"",
                    meta.mode() & 0o777
                ),
            ));
        }
        let folder = path.parent().and_then(|folder| std::fs::metadata(folder).ok());
        if folder.is_some_and(|folder| folder.mode() & 0o1002 == 0o002) {
            return Err(BalancerError {
                kind: Trouble::Refused,
                doing: doing(),
                why:
                    "anybody on this machine may write to its folder, and so put another socket in its place"
                        .into(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn nothing_can_begin_another_command() {
        for bad in [
            "",
            "a b",
            "a;b",
            "a\nshow env",
            "a\r",
            "web-1 weight 0",
            "ä",
            "\"a\"",
            "a\\",
            "@1",
        ] {
            assert!(!is_word(bad), "{bad:?}");
        }
        for good in [
            "web-1",
            "vmss-web-http/web-1",
            "[fd00::1]:80",
            "10.0.0.1:80",
            "2s",
        ] {
            assert!(is_word(good), "{good:?}");
        }
    }

    #[test]
    fn addresses_of_both_families_keep_their_port_apart() {
        assert_eq!(address("10.0.0.1".parse().unwrap(), 80), "10.0.0.1:80");
        assert_eq!(address("fd00::1".parse().unwrap(), 80), "[fd00::1]:80");
    }

    #[test]
    fn a_socket_that_anybody_may_write_to_or_replace_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let refused = || {
            let result = Runtime::at(&path).refuse_open_to_all();
            result.err().map(|e| (e.kind, e.why))
        };
        mode(&path, 0o660);
        assert_eq!(refused(), None);
        mode(&path, 0o666);
        let (kind, why) = refused().unwrap();
        assert_eq!(kind, Trouble::Refused);
        assert!(why.contains("mode 666") && why.contains("mode 660"), "{why}");
        mode(&path, 0o600);
        mode(folder.path(), 0o777);
        assert!(refused().unwrap().1.contains("folder"));
        mode(folder.path(), 0o1777);
        assert_eq!(refused(), None);
        std::fs::write(folder.path().join("file"), "").unwrap();
        let file = Runtime::at(&folder.path().join("file"))
            .refuse_open_to_all()
            .unwrap_err();
        assert_eq!(file.why, "it is no socket");
    }

    #[test]
    fn what_nobody_listens_on_is_dead_and_what_is_silent_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        assert!(Runtime::at(&path).is_dead());
        let listener = UnixListener::bind(&path).unwrap();
        assert!(!Runtime::at(&path).is_dead());
        drop(listener);
        assert!(Runtime::at(&path).is_dead());
    }
}
