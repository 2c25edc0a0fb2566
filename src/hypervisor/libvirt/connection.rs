//! A line to a host's libvirt: a few connections, each opened when first needed, opened again when it broke, never
//! waited for longer than the deadline, and never used by two calls at once.
//!
//! libvirt allows many threads on one connection, but where CVE-2024-4418 is not mended (Debian 12) its client does not
//! live through a connection that breaks under several calls. Keepalive ends only the first of them, which leaves a
//! pointer into its stack behind; the others wait on, and when the host says something after all, that pointer is
//! followed. A single call that keepalive ends leaves a connection on which nobody waits any more. So calls side by
//! side are calls on connections side by side.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
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
use super::turn::{Turn, Turns};
use crate::hosturi;
use crate::hypervisor::meter::{HostMeter, Meter};
use crate::hypervisor::{FaultKind, HypervisorError, Pulse};
use crate::supervise::caught;

/// Most connections that sessions are spread over: so many calls of one line are on their way at once.
const MOST_CALLS: usize = 4;

/// The kind of call that opens a connection.
const CONNECT: &str = "connect";

/// An open connection. Closed on a thread of its own, because closing is a call too and the daemon may hang.
pub struct Open {
    connect: Option<Connect>,
    turns: Turns,
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

    /// Whether it serves nobody: no session, and no call that was left behind. Only for who holds the line's state,
    /// from where connections are given out.
    fn is_free(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1
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

/// A host's connections and how they are made.
pub struct Line {
    uri: String,
    timeout: Duration,
    width: usize,
    meter: HostMeter,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Those that sessions may have. One that broke, or has a call that was left behind, is not among them any more: it
    /// is closed when its last user is gone.
    open: Vec<Arc<Open>>,
    opening: bool,
    attempts: u64,
    failure: Option<HypervisorError>,
}

impl State {
    fn least_used(&self) -> Option<Arc<Open>> {
        let least = self.open.iter().min_by_key(|open| Arc::strong_count(open));
        least.cloned()
    }

    /// What there is instead of another connection: a daemon that takes no more of them serves those it has. One that
    /// did not answer does not answer those either.
    fn instead(&self, failure: HypervisorError) -> Result<Arc<Open>, HypervisorError> {
        match self.least_used() {
            Some(open) if failure.kind != FaultKind::TimedOut && open.is_alive() => Ok(open),
            _ => Err(failure),
        }
    }
}

impl Line {
    /// A line that nobody has used yet, for so many calls at once.
    pub fn new(uri: &str, timeout: Duration, calls: u32) -> Self {
        Self {
            uri: uri.to_owned(),
            timeout,
            width: usize::try_from(calls).map_or(MOST_CALLS, |n| n.clamp(1, MOST_CALLS)),
            meter: Meter::default().of(""),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// How many connections it has at most, and so how many calls on their way at once.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The same line, its calls measured.
    pub fn measured(self, meter: HostMeter) -> Self {
        Self { meter, ..self }
    }

    /// A session on a connection of its own; opens one if need be. Beyond the line's width sessions share connections,
    /// whose calls then wait for each other. Who comes while another opens one waits for that one's outcome, so that a
    /// hung host costs one deadline and not one each.
    pub fn session<'p>(&'p self, pulse: &'p Pulse) -> Result<Session<'p>, HypervisorError> {
        let open = self
            .open(self.width)
            .or_else(|failure| lock(&self.state).instead(failure))?;
        pulse.beat();
        Ok(Session {
            line: self,
            open,
            pulse,
        })
    }

    /// A connection that nobody uses, or the one that fewest use once there are `most`.
    fn open(&self, most: usize) -> Result<Arc<Open>, HypervisorError> {
        let mut state = lock(&self.state);
        loop {
            // A call is given up after the deadline: whoever has one on its way for longer may have been left behind,
            // and if not, nobody need wait for it.
            (state.open).retain(|open| open.is_alive() && !open.turns.is_taken_for(self.timeout));
            if let Some(free) = state.open.iter().find(|open| open.is_free()) {
                return Ok(Arc::clone(free));
            }
            if state.open.len() >= most
                && let Some(shared) = state.least_used()
            {
                return Ok(shared);
            }
            if !state.opening {
                break;
            }
            let attempt = state.attempts;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            if state.attempts != attempt
                && let Some(failure) = &state.failure
            {
                return Err(failure.clone());
            }
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
        state.open.extend(outcome.as_ref().ok().cloned());
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
                turns: Turns::default(),
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
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    static RUNS: Mutex<bool> = Mutex::new(false);
    let is_registered = REGISTERED.get_or_init(|| {
        // Or libvirt prints to stderr, over a progress bar.
        clear_error_callback();
        event_register_default_impl().is_ok()
    });
    let mut runs = lock(&RUNS);
    if !is_registered || *runs {
        return;
    }
    let run = || {
        loop {
            if !matches!(caught(event_run_default_impl), Ok(Ok(()))) {
                thread::sleep(Duration::from_secs(1));
            }
        }
    };
    // One that could not be had now may be had when the next connection is opened.
    *runs = (thread::Builder::new().name("vmss-events".to_owned()).spawn(run)).is_ok();
}

/// One method's use of a connection. What is looked up on it (domains, pools, volumes) belongs to it: it is used within
/// this session's calls and nowhere else.
pub struct Session<'p> {
    line: &'p Line,
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
        let turn = self.turn();
        let measure = self.open.meter.begin(|| kind(&doing.to_string()));
        let result = call(self.open.connect());
        drop((measure, turn));
        self.pulse.beat();
        result.map_err(|e| self.fault(doing, &e))
    }

    /// The connection to oneself, for what waits on it without being a call: a stream that is sent to, or read.
    pub fn turn(&self) -> Turn<'_> {
        self.open.turns.take()
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
        let is_one = Arc::ptr_eq(&first.open, &second.open);
        let turns = (first.turn(), (!is_one).then(|| second.turn()));
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
    /// thread that is left behind after `patience`, and on a connection of its own, which is handed to it: this session
    /// goes on without it. It ends when that QEMU does. `None` if it is left behind.
    pub fn call_within<T: Send + 'static>(
        &self,
        doing: impl Display,
        patience: Duration,
        call: impl FnOnce(&Connect) -> Result<T, Error> + Send + 'static,
    ) -> Option<Result<T, Fault>> {
        let (send, receive) = mpsc::channel();
        let (begin, begun) = mpsc::channel();
        // If there is none, then on this one: better that a hang costs the session than that nobody asks.
        let open = (self.line.open(usize::MAX)).unwrap_or_else(|_| Arc::clone(&self.open));
        // Measured there, until its end, which may be after it is left behind.
        let kind = (open.meter.is_heard()).then(|| kind(&doing.to_string()));
        let spawned = thread::Builder::new()
            .name("vmss-call".to_owned())
            .spawn(move || {
                let turn = open.turns.take();
                let _ = begin.send(());
                let measure = kind.and_then(|kind| open.meter.begin(|| kind));
                let result = call(open.connect());
                drop((measure, turn));
                // Free again before who waits goes on.
                drop(open);
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
        let error = line.session(&Pulse::silent()).err().map(|e| e.kind);
        assert_eq!(error, Some(FaultKind::TimedOut));
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
            // What may hang has a connection of its own.
            "connect",
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

    fn in_process(width: u32) -> Line {
        Line::new("test:///default", Duration::from_secs(5), width)
    }

    fn same(one: &Session<'_>, other: &Session<'_>) -> bool {
        Arc::ptr_eq(&one.open, &other.open)
    }

    #[test]
    fn sessions_side_by_side_have_connections_of_their_own_up_to_the_width_and_leave_them_to_the_next() {
        let (line, pulse) = (in_process(2), Pulse::silent());
        let session = || line.session(&pulse).unwrap();
        let (one, two) = (session(), session());
        assert!(!same(&one, &two), "they are side by side");
        let third = session();
        assert!(same(&one, &third) || same(&two, &third), "the third shares one");
        let first = Arc::as_ptr(&one.open);
        drop((one, two, third));
        assert_eq!(
            Arc::as_ptr(&session().open),
            first,
            "one after the other have one"
        );
        assert_eq!(lock(&line.state).open.len(), 2);
    }

    #[test]
    fn a_connection_whose_call_was_left_behind_is_given_to_nobody_any_more() {
        let pulse = Pulse::silent();
        let line = Line::new("test:///default", Duration::from_millis(50), 1);
        let hung = loop {
            // In so little time a busy machine may not open one.
            if let Ok(session) = line.session(&pulse) {
                break session;
            }
        };
        let turn = hung.turn();
        thread::sleep(Duration::from_millis(60));
        let fresh = loop {
            if let Ok(session) = line.session(&pulse) {
                break session;
            }
        };
        assert!(!same(&hung, &fresh));
        assert!(fresh.call("listing domains", |c| c.list_all_domains(0)).is_ok());
        drop(turn);
        drop(fresh);
        assert!(
            !same(&hung, &line.session(&pulse).unwrap()),
            "not even when it has come back"
        );
    }

    #[test]
    fn a_call_that_hangs_is_left_behind_and_holds_up_nobody() {
        let (line, pulse) = (in_process(1), Pulse::silent());
        let session = line.session(&pulse).unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let hangs = session.call_within("hanging", Duration::from_millis(10), move |_| {
            let _ = held.recv();
            Ok(())
        });
        assert!(hangs.is_none(), "it is left behind");
        assert!(session.call("listing domains", |c| c.list_all_domains(0)).is_ok());
        let next = session.call_within("next", Duration::from_secs(60), |_| Ok(7));
        assert!(matches!(next, Some(Ok(7))));
        drop(release);
    }
}
