//! The load balancers that the contract is run on.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vmss::balancer::haproxy::Haproxies;
use vmss::balancer::{Balancer, Balancers};
use vmss::hypervisor::fake::Fleet;
use vmss::membership::{Duty, Membership, Server};
use vmss::names::{InstanceId, Label};
use vmss::scaleset::ScaleSet;

use super::guests::{Client, Guest, answers, free_port, home};

/// A load balancer with what stands for its instances.
pub trait Subject {
    /// The balancer as a new vmss opens it, of a set with those frontends.
    fn open(&self) -> Arc<dyn Balancer>;
    /// Port of the instances.
    fn port(&self) -> u16;
    /// Who answers clients of the first frontend, if there are real ones.
    fn answers(&self, times: usize) -> Option<Vec<String>>;
    /// So many clients of the first frontend are served.
    fn serve(&self, requests: u64) {
        self.answers(usize::try_from(requests).unwrap());
    }
    /// A connection through the second frontend, which stays until it is closed.
    fn connect(&self, server: &str) -> Box<dyn Connection>;
    /// It is gone and back as if by a crash, without what it was given while it ran. Whether vmss has to start it.
    fn crash(&self) -> bool;
    /// Waits until the balancer's own check has found what it has.
    fn settle(&self);
}

/// A client's connection.
pub trait Connection {
    /// Whether it still goes on.
    fn is_open(&mut self) -> bool;
    /// The client has had enough.
    fn close(self: Box<Self>);
}

pub fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

/// An instance with that duty.
pub fn server(id: u64, duty: Duty) -> Server {
    Server {
        id: InstanceId(id),
        name: format!("web-{id}"),
        fault_domain: label("rack-a"),
        host: label("kvm1"),
        revision: Some(1),
        address: home(id),
        weight: 100,
        state: vmss::health::State::Healthy,
        duty,
    }
}

pub fn members(duties: &[(u64, Duty)]) -> Membership {
    Membership {
        servers: duties.iter().map(|(id, duty)| server(*id, *duty)).collect(),
    }
}

/// A set with an HTTP and a TCP frontend; `more` are further keys of `[load_balancer]`.
pub fn set(more: &str, binds: [u16; 2], port: u16) -> ScaleSet {
    let text = format!(
        "name = \"web\"\n[image]\nsource = \"image.raw\"\n[instance]\nmemory = \"1 GiB\"\n[[instance.networks]]\nbridge = \"br0\"\n\
         [[fault_domains]]\nname = \"rack-a\"\nhosts = [{{ name = \"kvm1\", uri = \"qemu+ssh://kvm1/system\" }}]\n\
         [health]\nprobe = \"http\"\nport = {port}\npath = \"/healthz\"\ninterval = \"1s\"\n\
         [load_balancer]\n{more}\ndrain = \"2s\"\n\
         [[load_balancer.frontends]]\nname = \"http\"\nbind = \"127.0.0.1:{}\"\nport = {port}\n\
         [[load_balancer.frontends]]\nname = \"raw\"\nmode = \"tcp\"\nbind = \"127.0.0.1:{}\"\nport = {port}\n",
        binds[0], binds[1]
    );
    vmss::definition::parse(&text, Path::new("/scaleset.toml")).unwrap()
}

pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The one in memory.
pub struct Fake {
    fleet: Arc<Fleet>,
    set: ScaleSet,
}

impl Fake {
    pub fn new() -> Self {
        Self {
            fleet: Fleet::new(),
            set: set("run = \"local\"", [8080, 8081], 80),
        }
    }
}

struct Pretended {
    fleet: Arc<Fleet>,
    server: String,
}

impl Connection for Pretended {
    fn is_open(&mut self) -> bool {
        self.fleet
            .servers("local")
            .iter()
            .any(|(name, n)| *name == self.server && *n > 0)
    }
    fn close(self: Box<Self>) {
        self.fleet.connect_clients(&self.server, 0);
    }
}

impl Subject for Fake {
    fn open(&self) -> Arc<dyn Balancer> {
        self.fleet.of(&self.set, Path::new("/")).remove(0)
    }
    fn port(&self) -> u16 {
        80
    }
    fn answers(&self, _: usize) -> Option<Vec<String>> {
        None
    }
    fn serve(&self, requests: u64) {
        self.fleet.set_requests("local", requests);
        self.fleet.clock().sleep(Duration::from_secs(1));
        self.fleet.set_requests("local", 0);
    }
    fn connect(&self, server: &str) -> Box<dyn Connection> {
        self.fleet.connect_clients(server, 1);
        Box::new(Pretended {
            fleet: Arc::clone(&self.fleet),
            server: server.to_owned(),
        })
    }
    fn crash(&self) -> bool {
        self.fleet.kill_balancer("local");
        true
    }
    fn settle(&self) {}
}

impl Connection for Client {
    fn is_open(&mut self) -> bool {
        self.echo("still there?").is_ok()
    }
    fn close(self: Box<Self>) {}
}

/// Guests 1 to 3 on one port.
fn guests(port: u16) -> Vec<Guest> {
    (1..=3).map(|id| Guest::at((home(id), port).into())).collect()
}

/// One that vmss runs.
pub struct Local {
    pub folder: TempDir,
    pub binds: [u16; 2],
    pub port: u16,
    pub guests: Vec<Guest>,
}

impl Local {
    pub fn new() -> Self {
        let port = free_port();
        Self {
            folder: tempfile::tempdir().unwrap(),
            binds: [free_port(), free_port()],
            port,
            guests: guests(port),
        }
    }

    pub fn set(&self) -> ScaleSet {
        set("run = \"local\"", self.binds, self.port)
    }

    pub fn home(&self) -> PathBuf {
        self.folder.path().join("state.db.lb/web")
    }

    pub fn pid(&self) -> Option<u32> {
        std::fs::read_to_string(self.home().join("pid"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    pub fn of(&self, set: &ScaleSet) -> Arc<dyn Balancer> {
        Haproxies.of(set, &self.home()).remove(0)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.open().retire();
    }
}

impl Subject for Local {
    fn open(&self) -> Arc<dyn Balancer> {
        self.of(&self.set())
    }
    fn port(&self) -> u16 {
        self.port
    }
    fn answers(&self, times: usize) -> Option<Vec<String>> {
        Some(answers(self.binds[0], times))
    }
    fn connect(&self, _: &str) -> Box<dyn Connection> {
        let mut client = Client::to(self.binds[1]).unwrap();
        assert!(client.is_open());
        Box::new(client)
    }
    fn crash(&self) -> bool {
        kill(self.pid().unwrap());
        wait_for("the end of HAProxy", || {
            self.open().observe().is_ok_and(|seen| seen.version.is_none())
        });
        true
    }
    fn settle(&self) {
        settle(&*self.open());
    }
}

fn settle(balancer: &dyn Balancer) {
    wait_for("the first checks", || {
        let seen = balancer.observe().unwrap();
        seen.servers.iter().all(|s| !s.is_in || s.up.is_some())
    });
}

pub fn kill(pid: u32) {
    assert!(
        Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
}

/// One that runs already, with a server of somebody else's in each backend.
pub struct Elsewhere {
    pub folder: TempDir,
    pub binds: [u16; 2],
    pub port: u16,
    process: std::sync::Mutex<Option<Child>>,
    _guests: Vec<Guest>,
}

impl Elsewhere {
    pub fn new() -> Self {
        let port = free_port();
        let new = Self {
            folder: tempfile::tempdir().unwrap(),
            binds: [free_port(), free_port()],
            port,
            process: std::sync::Mutex::default(),
            _guests: guests(port),
        };
        new.start();
        new
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    pub fn set(&self) -> ScaleSet {
        let sockets = format!("sockets = [\"unix:{}\"]", self.socket().display());
        set(&sockets, self.binds, self.port)
    }

    pub fn start(&self) {
        let proxies = self.open().configuration(&Membership::default());
        // An operator's own server, and what `vmss lb config` prints.
        let proxies = proxies.replace(
            "    retries 3\n",
            "    retries 3\n    server spare 127.0.0.1:1 disabled\n",
        );
        let text = format!(
            "global\n    stats socket {} mode 600 level admin\n{proxies}",
            self.socket().display()
        );
        let config = self.folder.path().join("haproxy.cfg");
        std::fs::write(&config, text).unwrap();
        let child = Command::new("/usr/sbin/haproxy")
            .args(["-db", "-f"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        *self.process.lock().unwrap() = Some(child);
        wait_for("the start of HAProxy", || self.open().observe().is_ok());
    }

    pub fn stop(&self) {
        if let Some(mut child) = self.process.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Subject for Elsewhere {
    fn open(&self) -> Arc<dyn Balancer> {
        Haproxies.of(&self.set(), Path::new("/nowhere")).remove(0)
    }
    fn port(&self) -> u16 {
        self.port
    }
    fn answers(&self, times: usize) -> Option<Vec<String>> {
        Some(answers(self.binds[0], times))
    }
    fn connect(&self, _: &str) -> Box<dyn Connection> {
        let mut client = Client::to(self.binds[1]).unwrap();
        assert!(client.is_open());
        Box::new(client)
    }
    fn crash(&self) -> bool {
        self.stop();
        self.start();
        false
    }
    fn settle(&self) {
        settle(&*self.open());
    }
}
