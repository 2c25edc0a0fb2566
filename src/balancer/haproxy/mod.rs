//! HAProxy, 2.6 or later: one that vmss runs, or one that runs already.

mod config;
mod local;
mod runtime;
mod stat;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use config::Source;
use local::Local;
use runtime::{Command, Runtime, address};
use stat::Line;

use crate::balancer::{Balancer, BalancerError, Balancers, Change, Trouble};
use crate::hypervisor::{Finding, Problem};
use crate::intake;
use crate::load_balancer::{AdminSocket, Bind, Frontend, Run, Stickiness};
use crate::membership::{BalancerSeen, Duty, Membership, Server, ServerSeen};
use crate::names::{InstanceId, instance_name};
use crate::said;
use crate::scaleset::ScaleSet;

/// The oldest version that takes servers at run time without being told to try something new.
const LEAST: (u32, u32) = (2, 6);

/// How long a server may still have connections after they were told to end, until it is removed.
const CLOSING: Duration = Duration::from_secs(3);

/// The real load balancers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Haproxies;

impl Balancers for Haproxies {
    fn of(&self, set: &ScaleSet, folder: &Path) -> Vec<Arc<dyn Balancer>> {
        let Some(source) = Source::of(set) else {
            return Vec::new();
        };
        match source.balancer.run.clone() {
            Run::Local => vec![Arc::new(Haproxy::local(source, folder))],
            Run::Sockets(sockets) => {
                let one = |socket| Arc::new(Haproxy::at(source.clone(), socket)) as Arc<dyn Balancer>;
                sockets.into_iter().map(one).collect()
            }
        }
    }
}

/// One HAProxy, as one set uses it.
struct Haproxy {
    source: Source,
    runtime: Runtime,
    home: Home,
}

/// What HAProxy says of its backends and servers at one moment.
struct Statistics {
    /// As they are.
    present: Vec<Line>,
    /// As each worker of before a reload has them.
    old: Vec<Vec<Line>>,
}

enum Home {
    Local(Local),
    Elsewhere(AdminSocket),
}

impl Haproxy {
    fn local(source: Source, folder: &Path) -> Self {
        let local = Local::new(folder);
        Self {
            source,
            runtime: local.runtime(),
            home: Home::Local(local),
        }
    }

    fn at(source: Source, socket: AdminSocket) -> Self {
        Self {
            source,
            runtime: Runtime::new(socket.clone()),
            home: Home::Elsewhere(socket),
        }
    }

    /// The version of one that answers.
    fn version(&self) -> Result<String, BalancerError> {
        let info = self.runtime.ask(&Command::new(["show", "info"]))?;
        let version = stat::info(&info, "Version").unwrap_or("unknown");
        refuse_old(version)?;
        Ok(shown(version))
    }

    /// Its backends and servers. All of them: HAProxy looks a proxy up by its name, and a frontend may have the same.
    fn statistics(&self) -> Result<Statistics, BalancerError> {
        Ok(Statistics {
            present: stat::lines(&self.runtime.ask(&statistics())?)?,
            old: self.old_statistics(),
        })
    }

    /// The set's servers of one frontend, with the connections that workers of before a reload still have to them. What only
    /// an old worker has is there as one that takes no clients.
    fn servers(
        &self,
        frontend: &Frontend,
        now: &Statistics,
    ) -> Result<BTreeMap<InstanceId, ServerSeen>, BalancerError> {
        let (set, backend) = (&self.source.set, frontend.backend(&self.source.set));
        if stat::backend(&backend, &now.present).is_none() {
            return Err(no_backend(&backend));
        }
        let mut servers = stat::servers(set, frontend, &now.present);
        for (id, old) in now
            .old
            .iter()
            .flat_map(|lines| stat::servers(set, frontend, lines))
        {
            match servers.entry(id) {
                Entry::Occupied(mut server) => {
                    let server = server.get_mut();
                    server.connections += old.connections;
                    server.queue += old.queue;
                }
                Entry::Vacant(place) => {
                    place.insert(ServerSeen { is_in: false, ..old });
                }
            }
        }
        Ok(servers)
    }

    /// What workers of before a reload have.
    fn old_statistics(&self) -> Vec<Vec<Line>> {
        let Home::Local(local) = &self.home else {
            return Vec::new();
        };
        // One that does not answer has just ended.
        let one = |pid| stat::lines(&local.ask_process(pid, &statistics()).ok()?).ok();
        self.old_workers().into_iter().filter_map(one).collect()
    }

    fn old_workers(&self) -> Vec<u32> {
        match &self.home {
            Home::Local(local) => local.old_workers().unwrap_or_default(),
            Home::Elsewhere(_) => Vec::new(),
        }
    }

    /// Makes one backend agree with what is wanted: who joins comes first, who goes comes last.
    fn bring_backend(
        &self,
        frontend: &Frontend,
        wanted: &Membership,
        now: &Statistics,
        changes: &mut BTreeSet<Change>,
    ) -> Result<(), BalancerError> {
        let backend = &frontend.backend(&self.source.set);
        let mut there = self.servers(frontend, now)?;
        // What only an old worker has is no server any more.
        let present = stat::servers(&self.source.set, frontend, &now.present);
        there.retain(|id, _| present.contains_key(id));
        let mut is_new = false;
        for server in &wanted.servers {
            let at = SocketAddr::new(server.address, frontend.port);
            let is_elsewhere = |seen: &ServerSeen| seen.address.is_some_and(|there| there != at);
            if there.get(&server.id).is_some_and(is_elsewhere) {
                // Its address is another: so is the server.
                self.remove(backend, &server.name)?;
                there.remove(&server.id);
            }
            if let Entry::Vacant(place) = there.entry(server.id) {
                place.insert(self.add(backend, frontend, server)?);
                is_new = true;
            }
        }
        if is_new && frontend.stickiness == Stickiness::Cookie {
            // A server that is added at run time gets its cookie only by this.
            self.runtime.order(
                &Command::new(["enable", "dynamic-cookie", "backend", backend]),
                &[],
            )?;
        }
        for going in [false, true] {
            for server in wanted.servers.iter().filter(|s| s.duty.is_in() != going) {
                if let Some(seen) = there.get(&server.id) {
                    self.adjust((backend, frontend), server, seen, changes)?;
                }
            }
        }
        let is_wanted: BTreeSet<InstanceId> = wanted.servers.iter().map(|s| s.id).collect();
        for id in there.keys().filter(|id| !is_wanted.contains(id)) {
            let name = instance_name(&self.source.set, *id);
            self.remove(backend, &name)?;
            changes.insert(Change::Removed(name));
        }
        Ok(())
    }

    /// Adds a server, which takes no clients yet.
    fn add(&self, backend: &str, frontend: &Frontend, server: &Server) -> Result<ServerSeen, BalancerError> {
        let (path, address) = (
            path(backend, &server.name),
            address(server.address, frontend.port),
        );
        let weight = server.weight.to_string();
        let treated = self.source.words(frontend);
        let words = ["add", "server", &path, &address, "weight", &weight];
        let words = words.into_iter().chain(treated.iter().map(String::as_str));
        self.runtime
            .order(&Command::new(words), &["New server registered."])?;
        self.runtime
            .order(&Command::new(["enable", "health", &path]), &[])?;
        Ok(ServerSeen {
            frontend: frontend.name.clone(),
            id: server.id,
            address: Some(SocketAddr::new(server.address, frontend.port)),
            is_in: false,
            up: None,
            weight: server.weight,
            limit: frontend.max_connections.unwrap_or(0),
            connections: 0,
            queue: 0,
            requests: 0,
            errors: 0,
            latency: None,
            last_check: String::new(),
        })
    }

    fn adjust(
        &self,
        (backend, frontend): (&str, &Frontend),
        server: &Server,
        seen: &ServerSeen,
        changes: &mut BTreeSet<Change>,
    ) -> Result<(), BalancerError> {
        let path = path(backend, &server.name);
        if seen.weight != server.weight {
            let weight = server.weight.to_string();
            self.runtime
                .order(&Command::new(["set", "server", &path, "weight", &weight]), &[])?;
        }
        let limit = frontend.max_connections.unwrap_or(0);
        if seen.limit != limit {
            let limit = limit.to_string();
            self.runtime
                .order(&Command::new(["set", "maxconn", "server", &path, &limit]), &[])?;
        }
        let state = |state| Command::new(["set", "server", &path, "state", state]);
        match (server.duty, seen.is_in) {
            (Duty::In, false) => {
                self.runtime.order(&state("ready"), &[])?;
                changes.insert(Change::Joined(server.name.clone()));
            }
            // Not HAProxy's own drain: that one lets in whoever has a cookie, and so would never end.
            (Duty::Out | Duty::Cut, true) => {
                self.runtime.order(&state("maint"), &[])?;
                changes.insert(Change::Left(server.name.clone()));
            }
            (Duty::In, true) | (Duty::Out | Duty::Cut, false) => {}
        }
        if server.duty == Duty::Cut && seen.connections > 0 {
            self.close(backend, &server.name)?;
            changes.insert(Change::Closed(server.name.clone()));
        }
        Ok(())
    }

    /// Closes a server's connections, those of before a reload too.
    fn close(&self, backend: &str, server: &str) -> Result<(), BalancerError> {
        let path = path(backend, server);
        let command = Command::new(["shutdown", "sessions", "server", &path]);
        self.runtime.order(&command, &["No such server."])?;
        let Home::Local(local) = &self.home else {
            return Ok(());
        };
        for pid in self.old_workers() {
            // A worker that has stopped listening closes by session only.
            let sessions = local
                .ask_process(pid, &Command::new(["show", "sess"]))
                .unwrap_or_default();
            for session in stat::sessions(&sessions, backend, server) {
                let _ = local.ask_process(pid, &Command::new(["shutdown", "session", session]));
            }
        }
        Ok(())
    }

    /// Removes a server: out, its connections closed, gone. One that is gone already is fine.
    fn remove(&self, backend: &str, server: &str) -> Result<(), BalancerError> {
        let path = path(backend, server);
        let gone = ["No such server.", "Server deleted."];
        self.runtime
            .order(&Command::new(["set", "server", &path, "state", "maint"]), &gone)?;
        self.close(backend, server)?;
        let end = Instant::now() + CLOSING;
        loop {
            // A session that was told to end takes a moment.
            let result = self.runtime.order(&Command::new(["del", "server", &path]), &gone);
            let is_busy =
                (result.as_ref()).is_err_and(|e| e.kind == Trouble::Refused && e.why.contains("still has"));
            if !is_busy || Instant::now() >= end {
                return result;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Balancer for Haproxy {
    fn name(&self) -> String {
        match &self.home {
            Home::Local(_) => "local".to_owned(),
            Home::Elsewhere(socket) => socket.to_string(),
        }
    }

    fn observe(&self) -> Result<BalancerSeen, BalancerError> {
        if let Home::Local(local) = &self.home
            && !local.is_running()
        {
            return Ok(BalancerSeen::default());
        }
        let version = self.version()?;
        let now = self.statistics()?;
        let (mut servers, mut queue) = (Vec::new(), 0);
        for frontend in &self.source.balancer.frontends {
            servers.extend(self.servers(frontend, &now)?.into_values());
            let backend = frontend.backend(&self.source.set);
            queue += stat::queue(&backend, &now.present);
            queue += (now.old.iter())
                .map(|old| stat::queue(&backend, old))
                .sum::<u64>();
        }
        Ok(BalancerSeen {
            version: Some(version),
            servers,
            queue,
        })
    }

    fn bring(&self, wanted: &Membership) -> Result<Vec<Change>, BalancerError> {
        let mut changes = BTreeSet::new();
        if let Home::Local(local) = &self.home {
            changes.extend(local.bring(&self.source, wanted)?);
        }
        self.version()?;
        let now = self.statistics()?;
        for frontend in &self.source.balancer.frontends {
            self.bring_backend(frontend, wanted, &now, &mut changes)?;
        }
        Ok(changes.into_iter().collect())
    }

    fn retire(&self) -> Result<(), BalancerError> {
        match &self.home {
            Home::Local(local) => local.retire(),
            Home::Elsewhere(_) => {
                let now = self.statistics()?;
                // A backend that is gone has taken its servers with it.
                let is_there =
                    |f: &&Frontend| stat::backend(&f.backend(&self.source.set), &now.present).is_some();
                for frontend in self.source.balancer.frontends.iter().filter(is_there) {
                    self.bring_backend(frontend, &Membership::default(), &now, &mut BTreeSet::new())?;
                }
                Ok(())
            }
        }
    }

    fn configuration(&self, wanted: &Membership) -> String {
        match &self.home {
            Home::Local(local) => local.text(&self.source, wanted),
            Home::Elsewhere(_) => self.source.proxies(wanted).trim_start().to_owned(),
        }
    }

    fn check(&self) -> Vec<Finding> {
        let finding = |what: &str, result: Result<String, BalancerError>, remedy: &str| Finding {
            what: what.to_owned(),
            result: result.map_err(|e| Problem {
                problem: e.to_string(),
                remedy: remedy.to_owned(),
            }),
        };
        let mut findings = Vec::new();
        match &self.home {
            Home::Local(local) => {
                let version = local::version().and_then(|v| refuse_old(&v).map(|()| v));
                findings.push(finding("program", version, "apt install haproxy"));
                if !local.is_running() {
                    for frontend in &self.source.balancer.frontends {
                        let what = format!("frontend {}", frontend.name);
                        let remedy = "free the address (ss -ltnp tells who has it), or choose another";
                        findings.push(finding(&what, can_listen(frontend), remedy));
                    }
                }
            }
            Home::Elsewhere(_) => {
                let remedy =
                    "its configuration needs: stats socket /run/haproxy/admin.sock mode 660 level admin";
                let version = self.version();
                let answers = version.is_ok();
                findings.push(finding("socket", version.map(|v| format!("HAProxy {v}")), remedy));
                for frontend in self.source.balancer.frontends.iter().filter(|_| answers) {
                    let what = format!("backend of {}", frontend.name);
                    let algorithm = self.algorithm(&frontend.backend(&self.source.set));
                    findings.push(finding(&what, algorithm, "vmss lb config prints what it needs"));
                }
            }
        }
        for (frontend, path) in
            (self.source.balancer.frontends.iter()).filter_map(|f| Some((f, f.certificate.as_ref()?)))
        {
            let read = (intake::bytes(path, intake::CERTIFICATE).map(|_| path.display().to_string()))
                .map_err(|e| BalancerError::refused(format!("reading {}", path.display()), e));
            let what = format!("certificate of {}", frontend.name);
            findings.push(finding(&what, read, "a PEM file with certificate and key"));
        }
        findings
    }
}

impl Haproxy {
    /// How a backend balances; refused if it takes no servers at run time.
    fn algorithm(&self, backend: &str) -> Result<String, BalancerError> {
        let doing = || format!("looking at the backend {backend}");
        let now = self.statistics()?;
        let line = stat::backend(backend, &now.present).ok_or_else(|| no_backend(backend))?;
        let algorithm = line.get("algo").map_or("unknown", String::as_str);
        if matches!(algorithm, "static-rr" | "first") {
            let why = format!("balance {algorithm} takes no servers at run time");
            return Err(BalancerError::refused(doing(), why));
        }
        Ok(format!("{backend}, balance {}", shown(algorithm)))
    }
}

/// Asks for backends and servers.
fn statistics() -> Command {
    Command::new(["show", "stat", "-1", "6", "-1"])
}

fn no_backend(backend: &str) -> BalancerError {
    BalancerError::refused(
        format!("looking for the backend {backend}"),
        "there is none: vmss lb config prints what its configuration needs",
    )
}

/// Whether a frontend's addresses are free. Told before HAProxy is, so that it is told by name.
fn can_listen(frontend: &Frontend) -> Result<String, BalancerError> {
    for bind in &frontend.bind {
        let address = match *bind {
            Bind::At(address) => address,
            Bind::Any(port) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port),
        };
        TcpListener::bind(address).map_err(|e| BalancerError::refused(format!("listening on {bind}"), e))?;
    }
    let all: Vec<String> = frontend.bind.iter().map(ToString::to_string).collect();
    Ok(format!("{} free", all.join(", ")))
}

fn path(backend: &str, server: &str) -> String {
    format!("{backend}/{server}")
}

fn refuse_old(version: &str) -> Result<(), BalancerError> {
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let (major, minor) = (numbers.next(), numbers.next());
    match (major, minor) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= LEAST => Ok(()),
        _ => Err(BalancerError::refused(
            "looking at HAProxy's version",
            format!(
                "{} is older than {}.{}, or unknown",
                shown(version),
                LEAST.0,
                LEAST.1
            ),
        )),
    }
}

/// What HAProxy said, fit for a terminal and a line.
fn shown(text: &str) -> String {
    said::shown(text, 300)
}
