//! What the tests share: private libvirtd daemons that serve libvirt's test driver, and the vmss binary run on them.
//!
//! The test driver's state lives as long as a connection to it, so each daemon's is held open here.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    dead_code,
    reason = "a test that can't go on should panic where it stands"
)]

pub mod number;
pub mod prometheus;
pub mod simulation;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use virt::connect::Connect;

/// How long something may take that else comes about by itself: guests under emulation boot slowly when all start at once.
const PATIENCE: Duration = Duration::from_secs(180);

/// Waits for `ready`, which something else brings about; gives up after three minutes.
pub fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(began.elapsed() < PATIENCE, "waited three minutes for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until `what` is said, as [`wait_for`] does.
#[track_caller]
pub fn wait_to_hear(what: &str, mut say: impl FnMut() -> String) {
    let began = Instant::now();
    loop {
        let said = say();
        if said.contains(what) {
            return;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "waited three minutes for {what:?}, and last was said: {said}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// A private libvirtd serving the test driver.
pub struct Daemon {
    pub name: String,
    folder: PathBuf,
    pid: i32,
    holder: Option<Connect>,
}

impl Daemon {
    fn start(root: &Path, name: &str) -> Self {
        let folder = root.join(name);
        for part in ["home", "run", "sock"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        let conf = format!(
            "unix_sock_dir = \"{0}/sock\"\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\nunix_sock_rw_perms = \"0777\"\nhost_uuid = \"{1}\"\n",
            folder.display(),
            uuid::Uuid::new_v4()
        );
        fs::write(folder.join("libvirtd.conf"), conf).unwrap();
        let nobody = is_root();
        if nobody {
            // As root, libvirtd would serve the system's drivers: as somebody else it keeps to its own folders.
            let ok = Command::new("chown")
                .arg("-R")
                .arg("nobody")
                .arg(&folder)
                .status()
                .unwrap()
                .success();
            assert!(ok, "chown {}", folder.display());
        }
        let mut command = if nobody {
            let mut c = Command::new("setpriv");
            c.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "libvirtd"]);
            c
        } else {
            Command::new("libvirtd")
        };
        let status = command
            .current_dir(&folder)
            .arg("-f")
            .arg(folder.join("libvirtd.conf"))
            .arg("-p")
            .arg(folder.join("pid"))
            .arg("-d")
            .env("HOME", folder.join("home"))
            .env("XDG_RUNTIME_DIR", folder.join("run"))
            .env("XDG_CONFIG_HOME", folder.join("home/.config"))
            .env("XDG_CACHE_HOME", folder.join("home/.cache"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("tests/run installs libvirtd");
        assert!(status.success(), "libvirtd -d in {}", folder.display());
        wait_for("the daemon's socket", || {
            UnixStream::connect(folder.join("sock/libvirt-sock")).is_ok()
        });
        let pid = fs::read_to_string(folder.join("pid"))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let mut daemon = Self {
            name: name.to_owned(),
            folder,
            pid,
            holder: None,
        };
        let holder = Connect::open(Some(&daemon.uri())).unwrap();
        // The test driver begins with a running guest that is larger than its host.
        holder.lookup_domain_by_name("test").unwrap().destroy().unwrap();
        daemon.holder = Some(holder);
        daemon
    }

    pub fn uri(&self) -> String {
        format!(
            "test+unix:///default?socket={}/sock/libvirt-sock",
            self.folder.display()
        )
    }

    pub fn connection(&self) -> &Connect {
        self.holder.as_ref().unwrap()
    }

    /// Sends a signal to the daemon.
    pub fn signal(&self, signal: &str) {
        assert!(
            Command::new("kill")
                .arg(format!("-{signal}"))
                .arg(self.pid.to_string())
                .status()
                .unwrap()
                .success()
        );
    }

    /// Names of its domains without the one it begins with, sorted.
    pub fn domains(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .connection()
            .list_all_domains(0)
            .unwrap()
            .iter()
            .map(|d| d.name().unwrap())
            .collect();
        names.retain(|n| n != "test");
        names.sort();
        names
    }

    /// Names of its running domains.
    pub fn running(&self) -> Vec<String> {
        let all = self
            .connection()
            .list_all_domains(virt::sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            .unwrap();
        all.iter().map(|d| d.name().unwrap()).collect()
    }

    /// Names of the volumes of its pool, sorted.
    pub fn volumes(&self) -> Vec<String> {
        let pool = self
            .connection()
            .lookup_storage_pool_by_name("default-pool")
            .unwrap();
        let mut names: Vec<String> = pool
            .list_all_volumes(0)
            .unwrap()
            .iter()
            .map(|v| v.name().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.signal_quietly("CONT");
        self.signal_quietly("KILL");
        // Closing a connection to a daemon that is gone only tells an error nobody asks for.
        std::mem::forget(self.holder.take());
    }
}

impl Daemon {
    fn signal_quietly(&self, signal: &str) {
        let _ = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(self.pid.to_string())
            .stderr(Stdio::null())
            .status();
    }
}

fn is_root() -> bool {
    let out = Command::new("id").arg("-u").output().unwrap();
    out.stdout.trim_ascii() == b"0"
}

/// Daemons, a definition that spreads a set over them, and a store.
pub struct Stage {
    pub daemons: Vec<Daemon>,
    pub folder: TempDir,
    pub store: String,
}

/// A raw disk of a MiB with a boot sector, full of `byte`.
pub fn disk(byte: u8) -> Vec<u8> {
    let mut disk = vec![byte; 1 << 20];
    disk[510..512].copy_from_slice(b"\x55\xaa");
    disk
}

impl Stage {
    /// `racks[i]` daemons in fault domain i.
    pub fn new(racks: &[usize]) -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            virt::error::clear_error_callback();
            virt::event::event_register_default_impl().unwrap();
            thread::spawn(|| while virt::event::event_run_default_impl().is_ok() {});
        });
        // Sockets have short paths only.
        let folder = tempfile::Builder::new()
            .prefix("vmss")
            .tempdir_in("/tmp")
            .unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let hosts: usize = racks.iter().sum();
        let daemons: Vec<Daemon> = (1..=hosts)
            .map(|i| Daemon::start(folder.path(), &format!("kvm{i}")))
            .collect();
        let image = folder.path().join("image.raw");
        fs::write(&image, disk(7)).unwrap();
        let stage = Self {
            daemons,
            folder,
            store: "state.db".into(),
        };
        stage.define(racks, 6, "");
        stage
    }

    /// Writes the definition anew.
    pub fn define(&self, racks: &[usize], capacity: usize, more: &str) {
        let mut text = format!(
            "name = \"web\"\ncapacity = {capacity}\n[image]\nsource = \"image.raw\"\n[instance]\nmemory = \"32 MiB\"\n{}\n",
            if more.contains("[placement]") {
                ""
            } else {
                "[placement]\nmemory_reserve = \"16 MiB\"\nvcpu_overcommit = 16.0"
            }
        );
        text += more;
        let mut hosts = self.daemons.iter();
        for (i, n) in racks.iter().enumerate() {
            let listed: Vec<String> = hosts
                .by_ref()
                .take(*n)
                .map(|d| {
                    format!(
                        "{{ name = \"{}\", uri = \"{}\", pool = \"default-pool\" }}",
                        d.name,
                        d.uri()
                    )
                })
                .collect();
            text += &format!(
                "\n[[fault_domains]]\nname = \"rack-{i}\"\nhosts = [{}]\n",
                listed.join(", ")
            );
        }
        fs::write(self.path("scaleset.toml"), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A folder with a definition and a store, in which vmss is run.
pub trait Runs {
    /// The folder.
    fn folder(&self) -> &Path;
    /// The store's file name.
    fn store_name(&self) -> &str;

    /// The vmss binary, in the folder of the definition.
    fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmss"));
        command
            .args(args.split_whitespace())
            .current_dir(self.folder())
            .env("VMSS_STATE", self.folder().join(self.store_name()))
            .env("VMSS_CACHE", self.folder().join("cache"))
            .env_remove("VMSS_FILE")
            .stdin(Stdio::null());
        command
    }

    /// Runs vmss to its end.
    fn vmss(&self, args: &str) -> Ran {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(args).output().unwrap();
        Ran {
            exit: status.code().unwrap_or(-1),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// Runs vmss and expects an exit code.
    #[track_caller]
    fn expect(&self, exit: i32, args: &str) -> Ran {
        let ran = self.vmss(args);
        assert_eq!(ran.exit, exit, "vmss {args}\n{}\n{}", ran.stdout, ran.stderr);
        ran
    }

    /// Runs vmss and kills it with SIGKILL right after it has told so many events. Whether it was killed before its end.
    fn kill_after(&self, args: &str, lines: usize) -> bool
    where
        Self: Sized,
    {
        let mut told = 0;
        self.kill_when(args, move |_| {
            told += 1;
            told >= lines
        })
    }

    /// Runs vmss and kills it with SIGKILL right after the first event that `now` picks. Whether it was killed before its
    /// end.
    fn kill_when(&self, args: &str, mut now: impl FnMut(&str) -> bool) -> bool
    where
        Self: Sized,
    {
        let mut child = (self.command(args).args(["--progress", "json"]))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        for line in BufReader::new(child.stderr.take().unwrap())
            .lines()
            .map_while(Result::ok)
        {
            if now(&line) {
                break;
            }
        }
        let alive = child.try_wait().unwrap().is_none();
        let _ = child.kill();
        child.wait().unwrap();
        alive
    }
}

impl Runs for Stage {
    fn folder(&self) -> &Path {
        self.folder.path()
    }
    fn store_name(&self) -> &str {
        &self.store
    }
}

/// The steps of a plan, or of what was done, as "host verb subject", sorted.
pub fn steps(value: &serde_json::Value) -> std::collections::BTreeSet<String> {
    let all = value
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|v| v.as_array().cloned().unwrap_or_else(|| vec![v.clone()]));
    all.map(|s| {
        let action = &s["action"];
        let subject = ["id", "digest", "volume"]
            .iter()
            .find_map(|k| {
                action
                    .get(k)
                    .or_else(|| action.get("instance").and_then(|i| i.get(k)))
            })
            .unwrap();
        format!(
            "{} {} {subject}",
            s["host"].as_str().unwrap(),
            action["do"].as_str().unwrap()
        )
    })
    .collect()
}

impl Stage {
    /// Instances per daemon, by name.
    pub fn domains(&self) -> Vec<Vec<String>> {
        self.daemons.iter().map(Daemon::domains).collect()
    }

    /// Ids of all instances, sorted.
    pub fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = (self.domains().iter().flatten())
            .filter_map(|n| n.strip_prefix("web-").and_then(|id| id.parse().ok()))
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Everything that must hold when nothing is being done: sentences of what does not.
    pub fn faults(&self, capacity: usize) -> Vec<String> {
        let mut faults = Vec::new();
        let ids = self.ids();
        if ids.len() != capacity {
            faults.push(format!("{} instances where {capacity} are wanted", ids.len()));
        }
        if ids.windows(2).any(|w| w[0] == w[1]) {
            faults.push(format!("an id is there twice: {ids:?}"));
        }
        let counts: Vec<usize> = self.domains().iter().map(Vec::len).collect();
        if counts.iter().max().unwrap() - counts.iter().min().unwrap() > 1 {
            faults.push(format!("uneven: {counts:?}"));
        }
        for daemon in &self.daemons {
            let domains = daemon.domains();
            let running = daemon.running();
            for domain in &domains {
                if !running.contains(domain) {
                    faults.push(format!("{domain} does not run"));
                }
                if !daemon
                    .volumes()
                    .iter()
                    .any(|v| v.starts_with(&format!("{domain}-")))
                {
                    faults.push(format!("{domain} has no disk"));
                }
            }
            for volume in daemon.volumes() {
                let owner = volume.rsplitn(3, '-').last().unwrap_or_default().to_owned();
                let of_instance = volume.starts_with("web-");
                if of_instance && !domains.contains(&owner) {
                    faults.push(format!("the volume {volume} on {} has no instance", daemon.name));
                }
                if volume.starts_with("vmss-seed-") && domains.is_empty() {
                    faults.push(format!("the seed {volume} on {} has no reader", daemon.name));
                }
            }
        }
        faults
    }
}

/// How a run of vmss ended.
#[derive(Debug)]
pub struct Ran {
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }
}
