//! HAProxy, 2.6 or later: one that vmss runs, or one that runs already.

mod config;
mod local;
mod runtime;
mod stat;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use config::Source;
use local::Local;
use runtime::{Command, Runtime, address};
use stat::{Line, Row};

use crate::balancer::{Balancer, BalancerError, Balancers, Change, Trouble};
use crate::hypervisor::{Finding, Problem};
use crate::load_balancer::{AdminSocket, Bind, Frontend, Run, Stickiness};
use crate::membership::{BalancerSeen, Duty, Membership, Server, ServerSeen};
use crate::names::{InstanceId, instance_name};
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

    fn frontends(&self) -> impl Iterator<Item = (&Frontend, String)> {
        (self.source.balancer.frontends.iter()).map(|f| (f, f.backend(&self.source.set)))
    }

    /// The version of one that answers.
    fn version(&self) -> Result<String, BalancerError> {
        let info = self.runtime.ask(&Command::new(["show", "info"]))?;
        let version = stat::info(&info, "Version").unwrap_or("unknown");
        refuse_old(version)?;
        Ok(shown(version))
    }

    /// Its backends and servers. All of them: HAProxy looks a proxy up by its name, and a frontend may have the same.
    fn statistics(&self) -> Result<Vec<Line>, BalancerError> {
        stat::lines(&self.runtime.ask(&statistics())?)
    }

    /// The set's servers in one backend.
    fn rows(
        &self,
        frontend: &Frontend,
        backend: &str,
        lines: &[Line],
    ) -> Result<BTreeMap<InstanceId, Row>, BalancerError> {
        if stat::backend(backend, lines).is_none() {
            return Err(no_backend(backend));
        }
        Ok(stat::servers(&self.source.set, backend, frontend.mode, lines))
    }

    /// Adds connections that workers of before a reload still have.
    fn add_old_connections(
        &self,
        frontend: &Frontend,
        backend: &str,
        rows: &mut BTreeMap<InstanceId, Row>,
        old: &[Vec<Line>],
    ) {
        for lines in old {
            for (id, row) in stat::servers(&self.source.set, backend, frontend.mode, lines) {
                rows.entry(id)
                    .or_insert_with(|| Row {
                        is_maint: true,
                        ..Row::default()
                    })
                    .connections += row.connections;
            }
        }
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
        backend: &str,
        wanted: &Membership,
        (lines, old): (&[Line], &[Vec<Line>]),
        changes: &mut BTreeSet<Change>,
    ) -> Result<(), BalancerError> {
        let mut rows = self.rows(frontend, backend, lines)?;
        let there: BTreeSet<InstanceId> = rows.keys().copied().collect();
        self.add_old_connections(frontend, backend, &mut rows, old);
        // What only an old worker has is no server any more.
        rows.retain(|id, _| there.contains(id));
        let mut is_new = false;
        for server in &wanted.servers {
            let at = std::net::SocketAddr::new(server.address, frontend.port);
            if let Some(row) = rows.get(&server.id)
                && row.address.is_some_and(|there| there != at)
            {
                // Its address is another: so is the server.
                self.remove(backend, &server.name)?;
                rows.remove(&server.id);
            }
            if let Entry::Vacant(place) = rows.entry(server.id) {
                self.add(backend, frontend, server)?;
                place.insert(Row {
                    is_maint: true,
                    weight: server.weight,
                    ..Row::default()
                });
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
                if let Some(row) = rows.get(&server.id) {
                    self.adjust(backend, server, row, changes)?;
                }
            }
        }
        let is_wanted = |id: &InstanceId| wanted.servers.iter().any(|s| s.id == *id);
        for id in rows.keys().filter(|id| !is_wanted(id)) {
            let name = instance_name(&self.source.set, *id);
            self.remove(backend, &name)?;
            changes.insert(Change::Removed(name));
        }
        Ok(())
    }

    fn add(&self, backend: &str, frontend: &Frontend, server: &Server) -> Result<(), BalancerError> {
        let (path, address) = (
            path(backend, &server.name),
            address(server.address, frontend.port),
        );
        let weight = server.weight.to_string();
        let check = self.source.check();
        let words = ["add", "server", &path, &address, "weight", &weight];
        let words = words.into_iter().chain(check.iter().map(String::as_str));
        self.runtime
            .order(&Command::new(words), &["New server registered."])?;
        self.runtime
            .order(&Command::new(["enable", "health", &path]), &[])
    }

    fn adjust(
        &self,
        backend: &str,
        server: &Server,
        row: &Row,
        changes: &mut BTreeSet<Change>,
    ) -> Result<(), BalancerError> {
        let path = path(backend, &server.name);
        if row.weight != server.weight {
            let weight = server.weight.to_string();
            self.runtime
                .order(&Command::new(["set", "server", &path, "weight", &weight]), &[])?;
        }
        let state = |state| Command::new(["set", "server", &path, "state", state]);
        match (server.duty, row.is_maint) {
            (Duty::In, true) => {
                self.runtime.order(&state("ready"), &[])?;
                changes.insert(Change::Joined(server.name.clone()));
            }
            // Not HAProxy's own drain: that one lets in whoever has a cookie, and so would never end.
            (Duty::Out | Duty::Cut, false) => {
                self.runtime.order(&state("maint"), &[])?;
                changes.insert(Change::Left(server.name.clone()));
            }
            (Duty::In, false) | (Duty::Out | Duty::Cut, true) => {}
        }
        if server.duty == Duty::Cut && row.connections > 0 {
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
        let (lines, old) = (self.statistics()?, self.old_statistics());
        let mut servers = Vec::new();
        for (frontend, backend) in self.frontends() {
            let mut rows = self.rows(frontend, &backend, &lines)?;
            self.add_old_connections(frontend, &backend, &mut rows, &old);
            servers.extend(rows.into_iter().map(|(id, row)| ServerSeen {
                frontend: frontend.name.clone(),
                id,
                address: row.address,
                is_in: !row.is_maint,
                up: row.up,
                weight: row.weight,
                connections: row.connections,
                requests: row.requests,
                errors: row.errors,
                last_check: row.last_check,
            }));
        }
        Ok(BalancerSeen {
            version: Some(version),
            servers,
        })
    }

    fn bring(&self, wanted: &Membership) -> Result<Vec<Change>, BalancerError> {
        let mut changes = BTreeSet::new();
        if let Home::Local(local) = &self.home {
            changes.extend(local.bring(&self.source, wanted)?);
        }
        self.version()?;
        let (lines, old) = (self.statistics()?, self.old_statistics());
        for (frontend, backend) in self.frontends() {
            self.bring_backend(frontend, &backend, wanted, (&lines, &old), &mut changes)?;
        }
        Ok(changes.into_iter().collect())
    }

    fn retire(&self) -> Result<(), BalancerError> {
        match &self.home {
            Home::Local(local) => local.retire(),
            Home::Elsewhere(_) => self.bring(&Membership::default()).map(|_| ()),
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
                for (frontend, backend) in self.frontends().filter(|_| answers) {
                    let what = format!("backend of {}", frontend.name);
                    let algorithm = self.algorithm(&backend);
                    findings.push(finding(&what, algorithm, "vmss lb config prints what it needs"));
                }
            }
        }
        for (frontend, path) in
            (self.source.balancer.frontends.iter()).filter_map(|f| Some((f, f.certificate.as_ref()?)))
        {
            let read = (std::fs::read(path).map(|_| path.display().to_string()))
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
        let lines = self.statistics()?;
        let line = stat::backend(backend, &lines).ok_or_else(|| no_backend(backend))?;
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
            Bind::Any(port) => std::net::SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port),
        };
        std::net::TcpListener::bind(address)
            .map_err(|e| BalancerError::refused(format!("listening on {bind}"), e))?;
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
    let fit = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(fit).take(300).collect()
}
