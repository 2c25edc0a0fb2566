//! Connections: opened when first needed, reopened when dead, never waited for beyond the deadline.

use std::sync::{Arc, Mutex, Once, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use virt::connect::Connect;
use virt::error::{Error, ErrorNumber};
use virt::{error, event};

use crate::hypervisor::{FaultKind, HypervisorError};

/// A place for one connection.
pub struct Slot {
    uri: String,
    timeout: Duration,
    connection: Mutex<Option<Arc<Connect>>>,
}

impl Slot {
    /// A connection to `uri`, none yet.
    pub fn new(uri: &str, timeout: Duration) -> Self {
        Self {
            uri: with_defaults(uri),
            timeout,
            connection: Mutex::new(None),
        }
    }

    /// The connection, opened if there is none or it is dead.
    pub fn get(&self) -> Result<Arc<Connect>, HypervisorError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*connection
            && open.is_alive().unwrap_or(false)
        {
            return Ok(Arc::clone(open));
        }
        let open = Arc::new(open(&self.uri, self.timeout)?);
        *connection = Some(Arc::clone(&open));
        Ok(open)
    }
}

/// ssh must never ask on the terminal of a cron job.
fn with_defaults(uri: &str) -> String {
    if uri.contains("+ssh:") && !uri.contains("no_tty=") {
        let joint = if uri.contains('?') { '&' } else { '?' };
        return format!("{uri}{joint}no_tty=1");
    }
    uri.to_owned()
}

/// The event loop must be registered before the first connection and run ever after, or keepalive does nothing and an
/// idle connection dies. libvirt's own printing of errors would write over progress bars.
fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        error::clear_error_callback();
        if event::event_register_default_impl().is_ok() {
            // Without the thread there is no keepalive: deadlines still hold, only later.
            let _ = thread::Builder::new()
                .name("libvirt-events".into())
                .spawn(|| while event::event_run_default_impl().is_ok() {});
        }
    });
}

/// Opens a connection on a thread that is left behind if it takes too long: opening can hang in the daemon, in ssh, in
/// the network, and none of them can be told to stop.
fn open(uri: &str, timeout: Duration) -> Result<Connect, HypervisorError> {
    prepare();
    let doing = format!("connecting to {uri}");
    let (tx, rx) = mpsc::channel();
    let target = uri.to_owned();
    let opening = move || {
        let opened = Connect::open(Some(&target)).inspect(|connection| {
            // A daemon that does not answer is dropped after four missed beats, within the deadline of a call.
            let interval = i32::try_from(timeout.as_secs() / 6).unwrap_or(5).max(1);
            // The test driver has no keepalive: it is in this process, or behind a daemon that is only a test.
            let _ = connection.set_keep_alive(interval, 4);
        });
        // Nobody may be waiting any more.
        let _ = tx.send(opened);
    };
    if let Err(e) = thread::Builder::new().name("libvirt-open".into()).spawn(opening) {
        return Err(HypervisorError::new(FaultKind::Other, doing, e.to_string()));
    }
    match rx.recv_timeout(timeout) {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(e)) => {
            let mut error = fault(&e, doing);
            if !matches!(error.kind, FaultKind::Denied) {
                error.kind = FaultKind::Unreachable;
            }
            Err(error)
        }
        Err(_) => Err(HypervisorError::new(
            FaultKind::TimedOut,
            doing,
            format!("no answer within {} s", timeout.as_secs_f64()),
        )),
    }
}

/// The number of an error; one that the crate does not know is an internal error for us too.
pub fn code(e: &Error) -> ErrorNumber {
    e.code().unwrap_or(ErrorNumber::InternalError)
}

/// What a libvirt error means.
pub fn fault(e: &Error, doing: impl Into<String>) -> HypervisorError {
    let message = e.message().trim().to_owned();
    let lower = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|w| lower.contains(w));
    let kind = match code(e) {
        ErrorNumber::NoConnect | ErrorNumber::Rpc | ErrorNumber::InvalidConn => FaultKind::Unreachable,
        ErrorNumber::AuthFailed
        | ErrorNumber::AuthCancelled
        | ErrorNumber::AuthUnavailable
        | ErrorNumber::AccessDenied
        | ErrorNumber::OperationDenied => FaultKind::Denied,
        ErrorNumber::NoStoragePool | ErrorNumber::NoNetwork | ErrorNumber::NoInterface => FaultKind::Missing,
        ErrorNumber::NoSupport | ErrorNumber::ConfigUnsupported | ErrorNumber::ArgumentUnsupported => {
            FaultKind::Unsupported
        }
        ErrorNumber::OperationTimeout | ErrorNumber::AgentUnresponsive => FaultKind::TimedOut,
        _ if says(&["no space left", "disk full", "disk quota"]) => FaultKind::NoSpace,
        _ if says(&["permission denied", "authentication failed"]) => FaultKind::Denied,
        _ if says(&[
            "client socket is closed",
            "connection reset",
            "broken pipe",
            "keepalive",
            "end of file",
            "cannot recv",
        ]) =>
        {
            FaultKind::Unreachable
        }
        _ if says(&[
            "cannot get interface mtu",
            "no such device",
            "network is not active",
        ]) =>
        {
            FaultKind::Missing
        }
        _ => FaultKind::Other,
    };
    HypervisorError::new(kind, doing, message)
}
