//! The world: the only place where effects come in. Hosts, store, clock, terminal and environment are handed to a
//! command as values, so that a whole command runs in a test, twice in one process, on a fake of any of them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use uuid::Uuid;

use crate::balancer::Balancers;
use crate::balancer::haproxy::Haproxies;
use crate::hypervisor::Hosts;
use crate::hypervisor::libvirt::LibvirtHosts;
use crate::hypervisor::meter::Meter;
use crate::lease::Watch;
use crate::numbers::{NetworkNumbers, Numbers};
use crate::probe::{NetworkProbes, Probes};
use crate::said::harmless;
use crate::store::location::Folders;
use crate::store::sqlite::Sqlite;
use crate::store::{Holder, Store, StoreError};
use crate::terminal::RawTerminal;
use crate::vitals::KnownAddresses;

/// Opens the store at a path.
pub type OpenStore = Box<dyn Fn(&Path) -> Result<Arc<dyn Store>, StoreError> + Send + Sync>;

/// Replaces this process by a program with its arguments; returns only if that failed.
pub type BecomeProgram = Box<dyn Fn(&str, &[String]) -> std::io::Error + Send + Sync>;

/// Everything a command may touch.
pub struct World {
    /// The hosts.
    pub hosts: Arc<dyn Hosts>,
    /// Measures calls of the hosts, once somebody is connected to it.
    pub meter: Meter,
    /// The load balancers.
    pub balancers: Arc<dyn Balancers>,
    /// Asks instances over the network.
    pub probes: Arc<dyn Probes>,
    /// Fetches numbers from elsewhere.
    pub numbers: Arc<dyn Numbers>,
    /// Leases of others that are watched, whether they are renewed.
    pub leases: Watch,
    /// Addresses of instances that were found out already.
    pub addresses: KnownAddresses,
    /// Opens the store at a path.
    pub open_store: OpenStore,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random bits, never twice the same: what UUIDs are made of.
    pub draw: Box<dyn Fn() -> Uuid + Send + Sync>,
    /// Data.
    pub stdout: Output,
    /// Talk.
    pub stderr: Output,
    /// What the environment says.
    pub env: Env,
    /// Tells the service manager how a process that runs for long is.
    pub notify: Box<dyn Fn(Notice<'_>) + Send + Sync>,
    /// Asks the operator a yes-or-no question and waits for the answer.
    pub ask: Box<dyn Fn(&str) -> bool + Send + Sync>,
    /// Has the terminal pass on every key as it is typed, until what is returned is dropped.
    pub keyboard: Box<dyn Fn() -> std::io::Result<Box<dyn Keyboard>> + Send + Sync>,
    /// Becomes another program, looked up in the PATH, with these arguments. Returns only if that failed.
    pub become_program: BecomeProgram,
    /// Whether the operator wants to stop.
    pub interrupt: Interrupt,
}

/// A terminal that passes on every key as it is typed.
pub trait Keyboard {
    /// What was typed since the last call; waits for `wait` if nothing was. `None`: the terminal is gone.
    fn typed(&mut self, wait: Duration) -> Option<Vec<u8>>;
}

impl World {
    /// The real one: libvirt, SQLite, the system's clock and terminal, this process's environment and signals.
    pub fn real() -> Self {
        let env = Env::read();
        let (interrupt, meter) = (Interrupt::default(), Meter::default());
        listen_for_signals(&interrupt);
        Self {
            hosts: Arc::new(LibvirtHosts::new(meter.clone())),
            meter,
            balancers: Arc::new(Haproxies),
            probes: Arc::new(NetworkProbes),
            numbers: Arc::new(NetworkNumbers),
            leases: Watch::default(),
            addresses: KnownAddresses::default(),
            open_store: Box::new(|path| Ok(Arc::new(Sqlite::open(path)?) as Arc<dyn Store>)),
            clock: Arc::new(SystemClock(Instant::now())),
            draw: Box::new(Uuid::new_v4),
            stdout: Output::new(std::io::stdout()),
            stderr: Output::new(std::io::stderr()),
            env,
            notify: Box::new(notify_systemd),
            ask: Box::new(ask_on_terminal),
            keyboard: Box::new(|| Ok(Box::new(RawTerminal::open()?) as Box<dyn Keyboard>)),
            become_program: Box::new(|program, args| {
                use std::os::unix::process::CommandExt as _;
                std::process::Command::new(program).args(args).exec()
            }),
            interrupt,
        }
    }
}

/// The first SIGINT or SIGTERM asks the run to stop, the second ends the process at once.
fn listen_for_signals(interrupt: &Interrupt) {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]) else {
        return;
    };
    let interrupt = interrupt.clone();
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if interrupt.press() > 0 {
                // What is in flight is left as it is: the next run finds it by its own note and goes on or undoes it.
                signal_hook::low_level::exit(130);
            }
        }
    });
}

fn ask_on_terminal(question: &str) -> bool {
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{question} [y/N] ");
    let _ = stderr.flush();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes" | "Yes")
}

/// What a service manager is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice<'a> {
    /// It is at work.
    Ready,
    /// It is alive: feeds a watchdog.
    Alive,
    /// What it found last, in a line.
    Status(&'a str),
    /// It is about to end.
    Stopping,
}

/// Tells systemd, if it has started this process and wants to know.
fn notify_systemd(notice: Notice<'_>) {
    use sd_notify::NotifyState;
    let state = match notice {
        Notice::Ready => NotifyState::Ready,
        Notice::Alive => NotifyState::Watchdog,
        Notice::Status(text) => NotifyState::Status(text),
        Notice::Stopping => NotifyState::Stopping,
    };
    // A service manager that does not listen is no reason to stop.
    let _ = sd_notify::notify(&[state]);
}

/// With the moment from which on time is measured.
struct SystemClock(Instant);

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that everything else is given"
    )]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn steady(&self) -> Duration {
        self.0.elapsed()
    }

    fn wait(&self, span: Duration, interrupt: &Interrupt) {
        let began = Instant::now();
        while !interrupt.is_set() && began.elapsed() < span {
            std::thread::sleep(GLANCE.min(span.saturating_sub(began.elapsed())));
        }
    }
}

/// How often who waits looks whether the operator wants to stop.
const GLANCE: Duration = Duration::from_millis(100);

/// The time.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
    /// Time since some moment of this process. It only ever grows, whoever sets the clock: spans are measured by it.
    fn steady(&self) -> Duration;
    /// Waits for `span`, or until the operator wants to stop.
    fn wait(&self, span: Duration, interrupt: &Interrupt);
}

/// What the environment says, read once.
#[derive(Clone, Debug)]
pub struct Env {
    /// Where relative paths begin.
    pub cwd: PathBuf,
    /// The store's file, unless a definition names another.
    pub state: PathBuf,
    /// Folder for what can be made again: digests, downloaded images.
    pub cache: PathBuf,
    /// Default of `--file`.
    pub file: Option<PathBuf>,
    /// Whether stdin, stdout and stderr are terminals.
    pub stdin_is_terminal: bool,
    /// See `stdin_is_terminal`.
    pub stdout_is_terminal: bool,
    /// See `stdin_is_terminal`.
    pub stderr_is_terminal: bool,
    /// Columns of the terminal, if stdout is one.
    pub width: Option<u16>,
    /// The time zone of whoever types: what a time of day means that names no other.
    pub zone: TimeZone,
    /// Whether `NO_COLOR` is set and not empty.
    pub no_color: bool,
    /// This process, as the holder of leases and the author of operations.
    pub me: Holder,
}

impl Env {
    /// What this process's environment says.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the environment"
    )]
    fn read() -> Self {
        use std::io::IsTerminal as _;
        let path = |name: &str| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        // SAFETY: geteuid has no preconditions and can't fail.
        let root = unsafe { libc::geteuid() } == 0;
        let folders = Folders {
            state: path("VMSS_STATE"),
            cache: path("VMSS_CACHE"),
            xdg_state: path("XDG_STATE_HOME"),
            xdg_cache: path("XDG_CACHE_HOME"),
            home: path("HOME"),
            root,
        };
        let user = std::env::var("SUDO_USER")
            .or_else(|_| std::env::var("USER"))
            .or_else(|_| std::env::var("LOGNAME"));
        let (stdout, stderr) = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        Self {
            cwd: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            state: folders.store(),
            cache: folders.cache(),
            file: path("VMSS_FILE"),
            stdin_is_terminal: std::io::stdin().is_terminal(),
            stdout_is_terminal: stdout,
            stderr_is_terminal: stderr,
            width: if stdout { columns() } else { None },
            zone: TimeZone::system(),
            no_color: path("NO_COLOR").is_some(),
            me: Holder::me(user.unwrap_or_else(|_| {
                if root {
                    "root".to_owned()
                } else {
                    "unknown".to_owned()
                }
            })),
        }
    }

    /// `user@machine`, for the history.
    pub fn who(&self) -> String {
        format!("{}@{}", self.me.user, self.me.machine)
    }
}

/// Columns of the terminal on stdout.
fn columns() -> Option<u16> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: `size` is a place for the answer and lives longer than the call.
    let ok = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) } == 0;
    (ok && size.ws_col > 0).then_some(size.ws_col)
}

/// A stream that several threads may write to.
#[derive(Clone)]
pub struct Output(Arc<Mutex<dyn Write + Send>>);

impl Output {
    /// Writes to `sink`.
    pub fn new(sink: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(sink)))
    }

    /// Writes `text` and a line end. Whoever's words are in it, nothing but colours steers a terminal: bytes that are to
    /// arrive as they are go through [`Write`]. A reader that went away (a closed pipe) is no error of ours.
    pub fn line(&self, text: impl AsRef<str>) {
        let mut sink = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = writeln!(sink, "{}", harmless(text.as_ref()));
        let _ = sink.flush();
    }

    /// Writes `text`, as [`Self::line`] does.
    pub fn text(&self, text: impl AsRef<str>) {
        let mut sink = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = write!(sink, "{}", harmless(text.as_ref()));
        let _ = sink.flush();
    }
}

impl Write for Output {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .write(buf)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .flush()
    }
}

/// How often the operator asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// Notes one more Ctrl-C; returns how many there were before.
    pub fn press(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }

    /// Whether the operator wants to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}
