//! One line to a host's libvirt: opened when first needed, opened again when it broke, never waited for longer than
//! the deadline, and never given more calls at once than libvirtd serves of one client.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use virt::connect::Connect;
use virt::error::{Error, clear_error_callback};
use virt::event::{event_register_default_impl, event_run_default_impl};
use virt::storage_pool::StoragePool;
use virt::sys;

use super::fault::Fault;
use super::kind::kind;
use super::traits::Traits;
use crate::hosturi;
use crate::hypervisor::meter::{HostMeter, Meter};
use crate::hypervisor::{FaultKind, HypervisorError, Pulse};

/// Calls a connection carries at once: libvirtd serves 5 of one client, and keepalive needs one of them.
pub const MOST_CALLS: u32 = 4;

/// The kind of call that opens a connection.
const CONNECT: &str = "connect";

/// An open connection. Closed on a thread of its own, because closing is a call too and the daemon may hang.
pub struct Open {
    connect: Option<Connect>,
    permits: Permits,
    traits: OnceLock<Traits>,
    /// Pools that were looked up on this connection, by name.
    pools: Mutex<HashMap<String, StoragePool>>,
    meter: HostMeter,
}

impl Open {
    fn connect(&self) -> &Connect {
        self.connect
            .as_ref()
            .expect("it is taken out only when the whole is dropped")
    }

    fn is_alive(&self) -> bool {
        // Answered by the client library alone.
        self.connect().is_alive().unwrap_or(false)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // A pool's handle keeps the connection open, so it goes with it.
        let parts = (std::mem::take(&mut *lock(&self.pools)), self.connect.take());
        // Without a thread to be had the connection stays open until the process ends: better than to hang here.
        let closing = thread::Builder::new().name("vmss-close".to_owned());
        let keep = Arc::new(Mutex::new(Some(parts)));
        let close = Arc::clone(&keep);
        if closing.spawn(move || drop(lock(&close).take())).is_err() {
            std::mem::forget(keep);
        }
    }
}

/// A host's connection and how it is made.
pub struct Line {
    uri: String,
    timeout: Duration,
    calls: u32,
    meter: HostMeter,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    open: Option<Arc<Open>>,
    opening: bool,
    attempts: u64,
    failure: Option<HypervisorError>,
}

impl Line {
    /// A line that nobody has used yet.
    pub fn new(uri: &str, timeout: Duration, calls: u32) -> Self {
        Self {
            uri: uri.to_owned(),
            timeout,
            calls: calls.clamp(1, MOST_CALLS),
            meter: Meter::default().of(""),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// The same line, its calls measured.
    pub fn measured(self, meter: HostMeter) -> Self {
        Self { meter, ..self }
    }

    /// A session on the open connection; opens it if need be. Who comes while another opens it waits for that one's
    /// outcome, so that a hung host costs one deadline and not one each.
    pub fn session<'p>(&self, pulse: &'p Pulse) -> Result<Session<'p>, HypervisorError> {
        let open = self.open()?;
        pulse.beat();
        Ok(Session { open, pulse })
    }

    fn open(&self) -> Result<Arc<Open>, HypervisorError> {
        let mut state = lock(&self.state);
        while state.opening {
            let attempt = state.attempts;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            if state.attempts != attempt
                && let Some(failure) = &state.failure
            {
                return Err(failure.clone());
            }
        }
        match &state.open {
            Some(open) if open.is_alive() => return Ok(Arc::clone(open)),
            _ => state.open = None,
        }
        state.opening = true;
        drop(state);
        let measure = self.meter.begin(|| CONNECT);
        let outcome = self.dial();
        drop(measure);
        if outcome.is_err() {
            self.meter.failed(|| CONNECT);
        }
        let mut state = lock(&self.state);
        state.opening = false;
        state.attempts += 1;
        state.failure = outcome.as_ref().err().cloned();
        state.open = outcome.as_ref().ok().cloned();
        self.changed.notify_all();
        outcome
    }

    /// `virConnectOpen` on a thread that is left behind at the deadline: a stopped daemon accepts and never answers.
    fn dial(&self) -> Result<Arc<Open>, HypervisorError> {
        let doing = format!("connecting to {}", self.uri);
        hosturi::check(&self.uri)
            .map_err(|e| HypervisorError::new(FaultKind::Denied, &doing, e.to_string()))?;
        start_event_loop();
        let uri = with_no_tty(&self.uri);
        let keepalive = i32::try_from((self.timeout.as_secs() / 6).max(1)).unwrap_or(i32::MAX);
        let (send, receive) = mpsc::channel();
        thread::Builder::new()
            .name("vmss-connect".to_owned())
            .spawn(move || {
                let opened = Connect::open(Some(&uri)).map_err(|e| Fault::new("", &e, true));
                if let Ok(connect) = &opened {
                    // Drivers inside this process have no daemon to keep alive, and say so.
                    let _ = connect.set_keep_alive(keepalive, 3);
                }
                // Nobody listens any more if the deadline has passed: then the connection is dropped here.
                let _ = send.send(opened);
            })
            .map_err(|e| HypervisorError::new(FaultKind::Other, &doing, e.to_string()))?;
        // A little less than the caller's own patience, so that it hears the reason and not only the silence.
        match receive.recv_timeout(self.timeout.mul_f64(0.8)) {
            Ok(Ok(connect)) => Ok(Arc::new(Open {
                connect: Some(connect),
                permits: Permits::new(self.calls),
                traits: OnceLock::new(),
                pools: Mutex::default(),
                meter: self.meter.clone(),
            })),
            Ok(Err(fault)) => {
                let kind = match fault.error.kind {
                    FaultKind::Denied => FaultKind::Denied,
                    _ => FaultKind::Unreachable,
                };
                Err(HypervisorError::new(kind, doing, fault.error.message))
            }
            Err(_) => Err(HypervisorError::new(
                FaultKind::TimedOut,
                doing,
                format!("no answer within {} s", self.timeout.mul_f64(0.8).as_secs()),
            )),
        }
    }
}

/// ssh must never ask on a terminal: nobody may be there, and a progress bar is.
fn with_no_tty(uri: &str) -> String {
    if !hosturi::is_ssh(uri) || uri.contains("no_tty=") {
        return uri.to_owned();
    }
    let mark = if uri.contains('?') { '&' } else { '?' };
    format!("{uri}{mark}no_tty=1")
}

/// libvirt's own loop, which carries keepalive. Registered before any connection is opened, and run for as long as
/// the process lives: registered and not run, an idle connection dies after 45 s.
fn start_event_loop() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        // Or libvirt prints to stderr, over a progress bar.
        clear_error_callback();
        if event_register_default_impl().is_err() {
            return;
        }
        let _ = thread::Builder::new().name("vmss-events".to_owned()).spawn(|| {
            loop {
                if event_run_default_impl().is_err() {
                    thread::sleep(Duration::from_secs(1));
                }
            }
        });
    });
}

/// One method's use of a connection.
pub struct Session<'p> {
    open: Arc<Open>,
    pulse: &'p Pulse,
}

impl Session<'_> {
    /// One libvirt call (or a few quick ones): waits for its turn, beats the pulse when it has returned.
    pub fn call<T>(
        &self,
        doing: impl Display,
        call: impl FnOnce(&Connect) -> Result<T, Error>,
    ) -> Result<T, Fault> {
        let turn = self.open.permits.take();
        let measure = self.open.meter.begin(|| kind(&doing.to_string()));
        let result = call(self.open.connect());
        drop((measure, turn));
        self.pulse.beat();
        result.map_err(|e| self.fault(doing, &e))
    }

    /// One call that two hosts take part in. Anything said once either connection broke means that it broke.
    pub fn call_with<T>(
        &self,
        other: &Session<'_>,
        doing: impl Display,
        call: impl FnOnce(&Connect, &Connect) -> Result<T, Error>,
    ) -> Result<T, Fault> {
        // In one order whoever is first, or two calls in opposite directions could wait for each other for ever.
        let (first, second) = if Arc::as_ptr(&self.open) < Arc::as_ptr(&other.open) {
            (self, other)
        } else {
            (other, self)
        };
        let turns = (first.open.permits.take(), second.open.permits.take());
        let measure = self.open.meter.begin(|| kind(&doing.to_string()));
        let result = call(self.open.connect(), other.open.connect());
        drop((measure, turns));
        self.pulse.beat();
        result.map_err(|e| {
            let fault = Fault::new(doing, &e, self.open.is_alive() && other.open.is_alive());
            self.note(&fault);
            fault
        })
    }

    /// What libvirt said while `doing`; anything it says on a connection that broke means that it broke.
    pub fn fault(&self, doing: impl Display, error: &Error) -> Fault {
        let fault = Fault::new(doing, error, self.open.is_alive());
        if fault.is(sys::VIR_ERR_NO_STORAGE_POOL) {
            // A pool that was undefined and defined again has another identity behind its name.
            lock(&self.open.pools).clear();
        }
        self.note(&fault);
        fault
    }

    /// Has a fault counted, unless it is the answer to the question whether something is there.
    fn note(&self, fault: &Fault) {
        if !fault.is_absence() {
            self.open.meter.failed(|| kind(&fault.error.doing));
        }
    }

    /// The pool of that name, looked up once per connection: every method needs it.
    pub fn pool(&self, name: &str) -> Result<StoragePool, HypervisorError> {
        if let Some(pool) = lock(&self.open.pools).get(name) {
            return Ok(pool.clone());
        }
        let pool = self.call(format_args!("looking up pool {name}"), |c| {
            c.lookup_storage_pool_by_name(name)
        })?;
        lock(&self.open.pools).insert(name.to_owned(), pool.clone());
        Ok(pool)
    }

    /// A call that may rightly take longer than the deadline of one (copying a volume): the pulse goes on beating for
    /// as long as is plausible. A host that dies meanwhile is noticed by keepalive, which ends the call.
    pub fn long_call<T>(
        &self,
        doing: impl Display,
        plausible: Duration,
        call: impl FnOnce(&Connect) -> Result<T, Error>,
    ) -> Result<T, Fault> {
        let (done, ended) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                let tick = Duration::from_millis(500);
                let mut spent = Duration::ZERO;
                while spent < plausible && ended.recv_timeout(tick) == Err(mpsc::RecvTimeoutError::Timeout) {
                    self.pulse.beat();
                    spent += tick;
                }
            });
            let result = self.call(doing, call);
            drop(done);
            result
        })
    }

    /// One call that may never return though the daemon is well, for it waits for a QEMU that hangs. It is made on a
    /// thread that is left behind after `patience`, with the place that it has among the connection's calls; it ends
    /// when that QEMU does. Waiting for that place does not count: a busy host is not one that hangs. `None` if it is
    /// left behind.
    pub fn call_within<T: Send + 'static>(
        &self,
        doing: impl Display,
        patience: Duration,
        call: impl FnOnce(&Connect) -> Result<T, Error> + Send + 'static,
    ) -> Option<Result<T, Fault>> {
        let (send, receive) = mpsc::channel();
        let (begin, begun) = mpsc::channel();
        let open = Arc::clone(&self.open);
        // Measured there, until its end, which may be after it is left behind.
        let kind = (self.open.meter.is_heard()).then(|| kind(&doing.to_string()));
        let spawned = thread::Builder::new()
            .name("vmss-call".to_owned())
            .spawn(move || {
                let turn = open.permits.take();
                let _ = begin.send(());
                let measure = kind.and_then(|kind| open.meter.begin(|| kind));
                let result = call(open.connect());
                drop((measure, turn));
                // Nobody listens any more if it was left behind.
                let _ = send.send(result);
            });
        spawned.ok()?;
        begun.recv().ok()?;
        let tick = Duration::from_millis(500);
        let mut spent = Duration::ZERO;
        while spent < patience {
            let step = tick.min(patience.saturating_sub(spent));
            let answer = receive.recv_timeout(step);
            self.pulse.beat();
            match answer {
                Ok(result) => return Some(result.map_err(|e| self.fault(doing, &e))),
                Err(mpsc::RecvTimeoutError::Timeout) => spent += step,
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            }
        }
        None
    }

    /// What the daemon is and can do; asked once per connection.
    pub fn traits(&self) -> Result<&Traits, HypervisorError> {
        if let Some(traits) = self.open.traits.get() {
            return Ok(traits);
        }
        let traits = Traits::read(self)?;
        Ok(self.open.traits.get_or_init(|| traits))
    }

    /// The pulse of the action this session serves.
    pub fn pulse(&self) -> &Pulse {
        self.pulse
    }

    /// A safe point: an error once the operator has asked to stop.
    pub fn safe_point(&self, doing: impl Display) -> Result<(), HypervisorError> {
        if self.pulse.is_cancelled() {
            return Err(cancelled(doing));
        }
        Ok(())
    }
}

/// Stopped because the operator asked.
pub fn cancelled(doing: impl Display) -> HypervisorError {
    HypervisorError::new(FaultKind::Cancelled, doing.to_string(), "stopped on request")
}

/// A counting semaphore.
struct Permits {
    free: Mutex<u32>,
    returned: Condvar,
}

impl Permits {
    fn new(free: u32) -> Self {
        Self {
            free: Mutex::new(free),
            returned: Condvar::new(),
        }
    }

    fn take(&self) -> Turn<'_> {
        let mut free = lock(&self.free);
        while *free == 0 {
            free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Turn(self)
    }
}

struct Turn<'a>(&'a Permits);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
        self.0.returned.notify_one();
    }
}

/// Locks, whatever a thread that panicked left: no invariant of ours spans a lock.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::meter::Hears;

    #[test]
    fn ssh_never_asks_on_a_terminal() {
        assert_eq!(with_no_tty("qemu+ssh://a/system"), "qemu+ssh://a/system?no_tty=1");
        assert_eq!(
            with_no_tty("qemu+ssh://a/system?mode=auto"),
            "qemu+ssh://a/system?mode=auto&no_tty=1"
        );
        for same in ["qemu+ssh://a/system?no_tty=0", "qemu:///system"] {
            assert_eq!(with_no_tty(same), same);
        }
    }

    #[test]
    fn a_refused_uri_is_never_opened() {
        let line = Line::new("qemu+ext:///system?command=/bin/false", Duration::from_secs(5), 4);
        let error = line.session(&Pulse::silent()).err().map(|e| e.kind);
        assert_eq!(error, Some(FaultKind::Denied));
    }

    #[test]
    fn a_daemon_that_is_not_there_is_unreachable() {
        let line = Line::new(
            "qemu+unix:///system?socket=/nonexistent/libvirt-sock",
            Duration::from_secs(5),
            4,
        );
        let error = line.session(&Pulse::silent()).err().map(|e| e.kind);
        assert_eq!(error, Some(FaultKind::Unreachable));
    }

    #[test]
    fn a_daemon_that_never_answers_is_left_behind_at_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libvirt-sock");
        let _silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let uri = format!("qemu+unix:///system?socket={}", path.display());
        let line = Line::new(&uri, Duration::from_secs(1), 4);
        let began = std::time::Instant::now();
        let error = line.session(&Pulse::silent()).err().map(|e| e.kind);
        assert_eq!(error, Some(FaultKind::TimedOut));
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }

    /// Notes what it hears: the end of a call as `host kind`, a failure with an exclamation mark.
    #[derive(Clone, Default)]
    struct Notes(Arc<Mutex<Vec<String>>>);

    impl Hears for Notes {
        fn ended(&self, host: &str, kind: &'static str, _: Duration) {
            lock(&self.0).push(format!("{host} {kind}"));
        }
        fn failed(&self, host: &str, kind: &'static str) {
            lock(&self.0).push(format!("{host} {kind}!"));
        }
    }

    #[test]
    fn calls_are_measured_once_somebody_listens_and_what_is_not_there_is_no_failure() {
        let (meter, notes, pulse) = (Meter::default(), Notes::default(), Pulse::silent());
        let line = Line::new("test:///default", Duration::from_secs(5), 4).measured(meter.of("kvm1"));
        let session = line.session(&pulse).unwrap();
        assert!(session.call("listing domains", |c| c.list_all_domains(0)).is_ok());
        meter.connect(Box::new(notes.clone()));
        assert!(session.call("listing domains", |c| c.list_all_domains(0)).is_ok());
        let absent = session.call("looking up domain nobody", |c| c.lookup_domain_by_name("nobody"));
        assert!(absent.is_err_and(|fault| fault.is_absence()));
        assert!(
            session
                .call("defining domain nobody", |c| c.define_domain_xml("<domain/>"))
                .is_err()
        );
        let left = session.call_within("shutting down nobody", Duration::from_secs(5), |_| Ok(()));
        assert!(matches!(left, Some(Ok(()))));
        let heard = lock(&notes.0).clone();
        let wanted = [
            "list-domains",
            "read-domain",
            "write-domain",
            "write-domain!",
            "stop-domain",
        ];
        assert_eq!(heard, wanted.map(|kind| format!("kvm1 {kind}")));
        let nowhere = Line::new(
            "qemu+unix:///system?socket=/nonexistent/sock",
            Duration::from_secs(5),
            4,
        );
        assert!(nowhere.measured(meter.of("kvm2")).session(&pulse).is_err());
        assert!(lock(&notes.0).ends_with(&["kvm2 connect".to_owned(), "kvm2 connect!".to_owned()]));
    }

    #[test]
    fn no_more_calls_at_once_than_permits() {
        let permits = Arc::new(Permits::new(2));
        let (one, two) = (permits.take(), permits.take());
        let third = Arc::clone(&permits);
        let waiting = thread::spawn(move || drop(third.take()));
        thread::sleep(Duration::from_millis(30));
        assert!(!waiting.is_finished(), "the third must wait");
        drop(one);
        waiting.join().unwrap();
        drop(two);
    }

    #[test]
    fn a_call_that_hangs_is_left_behind_and_one_that_waits_its_turn_is_not() {
        let line = Line::new("test:///default", Duration::from_secs(5), 1);
        let pulse = Pulse::silent();
        let session = line.session(&pulse).unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let hangs = session.call_within("hanging", Duration::from_millis(10), move |_| {
            let _ = held.recv();
            Ok(())
        });
        assert!(hangs.is_none(), "it is left behind");
        // Its place is taken until it ends, which is longer than the next one's patience.
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(1500));
            drop(release);
        });
        let waits = session.call_within("waiting", Duration::from_secs(1), |_| Ok(7));
        assert!(
            matches!(waits, Some(Ok(7))),
            "it has its own time once it has its turn"
        );
        ends.join().unwrap();
    }
}
