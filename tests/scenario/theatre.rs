//! A whole command on the fake fleet: a world made of it, with a store, a definition and captured output.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use jiff::Timestamp;
use vmss::autoscale::metric::External;
use vmss::cli::Cli;
use vmss::here::Here;
use vmss::hypervisor::fake::{Clock, Fleet};
use vmss::names::Label;
use vmss::numbers::{Numbers, Range};
use vmss::probe::{Heard, Probes, Target};
use vmss::scaleset::Health;
use vmss::store::sqlite::Sqlite;
use vmss::store::{Holder, Store};
use vmss::world::{self, Env, Interrupt, Output, World};

use super::Outcome;
use super::parse::words;
use super::shelf::{Mortal, Shelves, on_shelf};
use super::stage::Stage;

/// The fleet's clock as the world's.
struct FleetClock(Clock);

impl world::Clock for FleetClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }
    fn steady(&self) -> std::time::Duration {
        self.0.now().as_duration().unsigned_abs()
    }
    fn wait(&self, span: std::time::Duration, _: &Interrupt) {
        self.0.sleep(span);
    }
}

/// What the fleet's guests answer.
struct FleetProbes(Arc<Fleet>);

impl Probes for FleetProbes {
    fn ask(&self, target: &Target, _: &Health) -> Heard {
        Heard {
            answer: self.0.probe(target.uuid),
            at: target.addresses.first().copied(),
        }
    }
}

/// The machine on which vmss runs: it has 10.0.0.254, and knows host kvm7 as 10.255.0.7.
struct Management;

impl Here for Management {
    fn addresses(&self) -> Vec<IpAddr> {
        vec![Ipv4Addr::LOCALHOST.into(), Ipv4Addr::new(10, 0, 0, 254).into()]
    }
    fn resolve(&self, names: &[String]) -> BTreeMap<String, Vec<IpAddr>> {
        let means = |name: &String| {
            let number = name.strip_prefix("kvm")?.parse().ok()?;
            Some((name.clone(), vec![Ipv4Addr::new(10, 255, 0, number).into()]))
        };
        names.iter().filter_map(means).collect()
    }
}

/// Numbers from elsewhere, as a scenario has set them, by the metric's name.
#[derive(Default)]
struct Told(Mutex<BTreeMap<String, Result<f64, String>>>);

impl Numbers for Told {
    fn now(&self, metric: &External) -> Result<f64, String> {
        let told = self.0.lock().unwrap().get(&metric.name).cloned();
        told.unwrap_or_else(|| Err("connection refused".to_owned()))
    }
    fn range(&self, _: &Range<'_>) -> Result<Vec<(Timestamp, f64)>, String> {
        Err("connection refused".to_owned())
    }
}

/// Collects what is written.
#[derive(Clone, Default)]
pub struct Capture(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Capture {
    /// What was written so far.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// A stage with a definition that follows the hosts it is given, and a store.
pub struct Theatre {
    /// The fleet.
    pub stage: Stage,
    folder: tempfile::TempDir,
    /// The store's file in it.
    pub store: String,
    more: String,
    numbers: Arc<Told>,
    /// Bytes of an image: where thousands of worlds are played, they are written and read all the time.
    image_size: usize,
    /// Stores that are no files: where thousands of worlds are played, SQLite takes most of the time.
    shelves: Option<Shelves>,
    /// How many UUIDs were drawn, where they are to be the same each time.
    pub drawn: Option<Arc<AtomicU64>>,
    /// What the operator answers to a question; `None`: there is no terminal to ask on.
    pub answer: Option<bool>,
}

impl Theatre {
    /// An empty one.
    pub fn new() -> Self {
        Self::with_image_of(1 << 20)
    }

    fn with_image_of(image_size: usize) -> Self {
        // In memory where there is such a place: a store that waits for a disk at every write takes most of the time.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let folder = folder.unwrap();
        std::fs::write(folder.path().join("image.raw"), disk(7, image_size)).unwrap();
        Self {
            stage: Stage::default(),
            folder,
            numbers: Arc::default(),
            store: "state.db".into(),
            more: String::new(),
            shelves: None,
            image_size,
            drawn: None,
            answer: None,
        }
    }

    /// An empty one, with its stores in memory, and the same UUIDs each time.
    pub fn in_memory() -> Self {
        Self {
            shelves: Some(Shelves::default()),
            drawn: Some(Arc::default()),
            ..Self::with_image_of(1 << 16)
        }
    }

    /// The store of that name, as a process that nobody has killed opens it.
    pub fn store(&self, name: &str) -> Arc<dyn Store> {
        let path = self.folder.path().join(name);
        match &self.shelves {
            Some(shelves) => on_shelf(shelves, &path),
            None => Arc::new(Sqlite::open(&path).unwrap()),
        }
    }

    /// Commands use the store of that name from now on.
    pub fn use_store(&mut self, name: &str) {
        name.clone_into(&mut self.store);
    }

    /// The file that is copied where a store is backed up or restored, and what of it lies beside.
    fn copy_store(&self, from: &str, to: &str) -> Result<(), String> {
        let path = |name: &str, end: &str| self.folder.path().join(format!("{name}{end}"));
        if let Some(shelves) = &self.shelves {
            let copy = on_shelf(shelves, &path(from, "")).backup();
            shelves.lock().unwrap().insert(path(to, ""), Arc::new(copy));
            return Ok(());
        }
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(path(to, end));
        }
        // By the store's own means: a thread that is only just ending may have it open, and what it has written not yet be in the
        // file.
        let into = path(to, "").display().to_string();
        rusqlite::Connection::open(path(from, ""))
            .and_then(|store| store.execute("VACUUM INTO ?1", [into]))
            .map_err(|e| format!("{}: {e}", path(from, "").display()))?;
        Ok(())
    }

    fn define(&self, capacity: u32) {
        let mut text = format!(
            "name = \"web\"\ncapacity = {capacity}\n[image]\nsource = \"image.raw\"\n[instance]\nmemory = \"1 GiB\"\n"
        );
        text += &self.more;
        let mut domains: Vec<&Label> = Vec::new();
        for (domain, _) in &self.stage.hosts {
            if !domains.contains(&domain) {
                domains.push(domain);
            }
        }
        for domain in domains {
            let hosts = self.stage.hosts.iter().filter(|(d, _)| d == domain);
            let hosts: Vec<String> = hosts
                .map(|(_, h)| {
                    let name = self.stage.called.get(h).unwrap_or(h);
                    format!("{{ name = \"{name}\", uri = \"qemu+ssh://{h}/system\" }}")
                })
                .collect();
            text += &format!(
                "\n[[fault_domains]]\nname = \"{domain}\"\nhosts = [{}]\n",
                hosts.join(", ")
            );
        }
        std::fs::write(self.folder.path().join("scaleset.toml"), text).unwrap();
    }

    /// The folder of definition and store.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs vmss.
    pub fn vmss(&self, args: &[String]) -> Outcome {
        // A line that was typed before is not read again: that takes longer than many a command.
        static READ: Mutex<BTreeMap<Vec<String>, Arc<Cli>>> = Mutex::new(BTreeMap::new());
        let (stdout, stderr) = (Capture::default(), Capture::default());
        let world = self.world(&stdout, &stderr);
        let read = READ.lock().unwrap().get(args).cloned();
        let exit = match read.map_or_else(|| vmss::parse(args, &world).map(Arc::new), Ok) {
            Ok(cli) => {
                let mut all = READ.lock().unwrap();
                if all.len() < 10_000 && !all.contains_key(args) {
                    all.insert(args.to_vec(), Arc::clone(&cli));
                }
                drop(all);
                vmss::carry_out(&cli, &world)
            }
            Err(exit) => exit,
        };
        (exit, stdout.text(), stderr.text())
    }

    /// The world of one process, which writes into these.
    pub fn world(&self, stdout: &Capture, stderr: &Capture) -> World {
        static ME: OnceLock<Holder> = OnceLock::new();
        let (fleet, shelves) = (Arc::clone(&self.stage.fleet), self.shelves.clone());
        World {
            hosts: Arc::clone(&self.stage.fleet) as Arc<dyn vmss::hypervisor::Hosts>,
            meter: vmss::hypervisor::meter::Meter::default(),
            balancers: Arc::clone(&self.stage.fleet) as Arc<dyn vmss::balancer::Balancers>,
            probes: Arc::new(FleetProbes(Arc::clone(&self.stage.fleet))),
            numbers: Arc::clone(&self.numbers) as Arc<dyn Numbers>,
            leases: vmss::lease::Watch::default(),
            addresses: vmss::vitals::KnownAddresses::default(),
            here: Arc::new(Management),
            neighbours: vmss::here::Neighbours::default(),
            open_store: Box::new(move |path| {
                let store: Arc<dyn Store> = match &shelves {
                    Some(shelves) => on_shelf(shelves, path),
                    None => Arc::new(Sqlite::open(path)?),
                };
                let fleet = Arc::clone(&fleet);
                Ok(Arc::new(Mortal { store, fleet }) as Arc<dyn Store>)
            }),
            clock: Arc::new(FleetClock(self.stage.fleet.clock())),
            draw: match self.drawn.clone() {
                None => Box::new(uuid::Uuid::new_v4),
                Some(drawn) => Box::new(move || {
                    let number = drawn.fetch_add(1, Ordering::Relaxed);
                    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, &number.to_be_bytes())
                }),
            },
            stdout: Output::new(stdout.clone()),
            stderr: Output::new(stderr.clone()),
            env: Env {
                cwd: self.folder.path().to_owned(),
                state: self.folder.path().join(&self.store),
                cache: self.folder.path().join("cache"),
                file: None,
                stdin_is_terminal: self.answer.is_some(),
                stdout_is_terminal: false,
                stderr_is_terminal: self.answer.is_some(),
                width: None,
                zone: jiff::tz::TimeZone::UTC,
                no_color: true,
                // A process that is gone: its leases die with it, as those of a killed one do.
                me: Holder {
                    started: 1,
                    ..ME.get_or_init(|| Holder::me("ann".into())).clone()
                },
            },
            notify: Box::new(|_| ()),
            ask: {
                let (answer, stderr) = (self.answer.unwrap_or(false), Output::new(stderr.clone()));
                Box::new(move |question| {
                    stderr.line(format!("asked: {question}"));
                    answer
                })
            },
            keyboard: Box::new(|| Err(std::io::Error::other("a scenario has no terminal"))),
            // Says what it would become.
            become_program: Box::new(|program, args| {
                std::io::Error::other(format!("here it would become {program} {}", args.join(" ")))
            }),
            interrupt: Interrupt::default(),
        }
    }

    /// Does what a line of a scenario says.
    pub fn command(&mut self, line: &str) -> Outcome {
        let words = match words(line) {
            Ok(words) => words,
            Err(e) => return (99, String::new(), e),
        };
        match words.split_first() {
            Some((verb, rest)) if verb == "vmss" => return self.vmss(rest),
            Some((verb, [n])) if verb == "define" => {
                self.define(n.parse().unwrap());
                return (0, String::new(), String::new());
            }
            // As it stands: quotes are the definition's, not the scenario's.
            Some((verb, _)) if verb == "definition" => {
                self.more += &line["definition".len()..];
                self.more += "\n";
                return (0, String::new(), String::new());
            }
            // What was said of the definition beside its hosts is said no more.
            Some((verb, [])) if verb == "definition-anew" => {
                self.more.clear();
                return (0, String::new(), String::new());
            }
            // What is in a file of the definition's folder.
            Some((verb, [name])) if verb == "file" => {
                return match std::fs::read_to_string(self.folder.path().join(name)) {
                    Ok(text) => (0, text, String::new()),
                    Err(e) => (1, String::new(), format!("{name}: {e}\n")),
                };
            }
            // A line more in a file of the definition's folder, as it stands.
            Some((verb, [name, ..])) if verb == "line" => {
                let path = self.folder.path().join(name);
                let mut text = std::fs::read_to_string(&path).unwrap_or_default();
                text += line["line".len()..].trim_start()[name.len()..].trim_start();
                text += "\n";
                std::fs::write(path, text).unwrap();
                return (0, String::new(), String::new());
            }
            // The image file is another from now on; a broken one's guests never get healthy.
            Some((verb, [n])) if verb == "image" || verb == "broken-image" => {
                let bytes = disk(n.parse().unwrap(), self.image_size);
                if verb == "broken-image" {
                    self.stage.fleet.break_image(&digest(&bytes));
                }
                std::fs::write(self.folder.path().join("image.raw"), bytes).unwrap();
                return (0, String::new(), String::new());
            }
            // The image file is of a kind that is no disk from now on.
            Some((verb, [kind])) if verb == "image-of" => {
                let Some(bytes) = no_disk(kind) else {
                    return (99, String::new(), format!("{kind} is no kind that is known here"));
                };
                std::fs::write(self.folder.path().join("image.raw"), bytes).unwrap();
                return (0, String::new(), String::new());
            }
            // A named pipe in the definition's folder, to which nobody writes.
            Some((verb, [name])) if verb == "pipe" => {
                let made = std::process::Command::new("mkfifo")
                    .arg(self.folder.path().join(name))
                    .status();
                assert!(made.unwrap().success());
                return (0, String::new(), String::new());
            }
            // What somebody else says of a metric from now on.
            Some((verb, [name, rest @ ..])) if verb == "number" => {
                let told = match rest {
                    [value] => Ok(value.parse().unwrap()),
                    words => Err(words.join(" ")),
                };
                self.numbers.0.lock().unwrap().insert(name.clone(), told);
                return (0, String::new(), String::new());
            }
            // Somebody makes a backup of a store.
            Some((verb, [from, to])) if verb == "backup" => {
                let path = |name: &String| self.folder.path().join(name);
                let store = rusqlite::Connection::open(path(from)).unwrap();
                let to = path(to).display().to_string();
                store.execute("VACUUM INTO ?1", [to]).unwrap();
                return (0, String::new(), String::new());
            }
            // What is on a host, whatever vmss says.
            Some((verb, [host])) if verb == "on" => return (0, self.stage.on(host), String::new()),
            // The store's file is copied, and put back.
            Some((verb, [])) if verb == "backup-store" || verb == "restore-store" => {
                let (store, copy) = (self.store.clone(), format!("backup-of-{}", self.store));
                let (from, to) = if verb == "backup-store" {
                    (store, copy)
                } else {
                    (copy, store)
                };
                return match self.copy_store(&from, &to) {
                    Ok(()) => (0, String::new(), String::new()),
                    Err(e) => (99, String::new(), e),
                };
            }
            Some((verb, [name])) if verb == "store" => {
                self.use_store(name);
                return (0, String::new(), String::new());
            }
            _ => {}
        }
        match self.stage.command(&words) {
            Some(Ok(())) => (0, String::new(), String::new()),
            Some(Err(e)) => (99, String::new(), e),
            None => (99, String::new(), format!("{line}: there is no such command")),
        }
    }
}

/// A raw disk of a MiB with a boot sector, full of `byte`.
fn disk(byte: u8, size: usize) -> Vec<u8> {
    let mut disk = vec![byte; size];
    disk[510..512].copy_from_slice(b"\x55\xaa");
    disk
}

/// A file of that kind, as far as it is told by.
fn no_disk(kind: &str) -> Option<Vec<u8>> {
    let (at, mark): (usize, &[u8]) = match kind {
        "iso" => (0x8001, b"CD001"),
        "tar" => (257, b"ustar"),
        "luks" => (0, b"LUKS\xba\xbe"),
        "vhd" => ((1 << 20) - 512, b"conectix"),
        "ext4" => (0x438, b"\x53\xef"),
        "text" => return Some(b"# how to build the image\n".to_vec()),
        _ => return None,
    };
    let mut bytes = match kind {
        "ext4" => vec![0; 1 << 20],
        _ => disk(7, 1 << 20),
    };
    bytes[at..at + mark.len()].copy_from_slice(mark);
    Some(bytes)
}

fn digest(bytes: &[u8]) -> vmss::model::ImageDigest {
    use sha2::Digest as _;
    let hex = sha2::Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    vmss::model::ImageDigest(hex)
}
