//! The fleet's load balancers: what they have, who is connected through them, and what can go wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::Fleet;
use super::health;
use super::shared::{Shared, State};
use crate::balancer::{Balancer, BalancerError, Balancers, Change};
use crate::hypervisor::Finding;
use crate::load_balancer::{LoadBalancer, Mode, Run};
use crate::membership::{BalancerSeen, Duty, Membership, Server, ServerSeen};
use crate::names::{Label, parse_instance_name};
use crate::scaleset::ScaleSet;

/// A load balancer in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    /// Whether it answers nobody, vmss or clients.
    pub down: bool,
    /// Why it takes no servers any more, if it does not.
    refuses: Option<String>,
    /// Whether it was started; one that runs elsewhere always was.
    pub running: bool,
    /// Instances that can't be reached from where it is, by name.
    cut_off: BTreeSet<String>,
    /// By the instance's name.
    pub servers: BTreeMap<String, Slot>,
}

/// A server in it, alike in all frontends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    addresses: BTreeMap<Label, SocketAddr>,
    weight: u32,
    pub is_in: bool,
    connections: u64,
    /// Requests that wait for it.
    pub waiting: u64,
    /// Requests so far, times nanoseconds.
    pub served: u128,
}

impl Slot {
    /// Requests so far.
    fn requests(&self) -> u64 {
        u64::try_from(self.served / 1_000_000_000).unwrap_or(u64::MAX)
    }
}

impl Balancers for Fleet {
    fn of(&self, set: &ScaleSet, _: &Path) -> Vec<Arc<dyn Balancer>> {
        let Some(rules) = &set.load_balancer else {
            return Vec::new();
        };
        let names = match &rules.run {
            Run::Local => vec!["local".to_owned()],
            Run::Sockets(sockets) => sockets.iter().map(ToString::to_string).collect(),
        };
        let process = self.shared.lock().process;
        let one = |name: String| {
            Arc::new(Handle {
                shared: Arc::clone(&self.shared),
                process,
                is_local: rules.run == Run::Local,
                name,
                set: set.name.clone(),
                rules: rules.clone(),
            }) as Arc<dyn Balancer>
        };
        names.into_iter().map(one).collect()
    }
}

struct Handle {
    shared: Arc<Shared>,
    process: u64,
    is_local: bool,
    name: String,
    set: Label,
    rules: LoadBalancer,
}

impl Handle {
    /// Looks at it or changes it, unless it is down or the process dead.
    fn with<T>(
        &self,
        doing: &str,
        act: impl FnOnce(&mut State) -> Result<T, BalancerError>,
    ) -> Result<T, BalancerError> {
        let mut state = self.shared.lock();
        if state.is_killed || state.process != self.process {
            return Err(BalancerError::unreachable(doing, "process killed"));
        }
        let is_local = self.is_local;
        let machine = state
            .balancers
            .entry(self.name.clone())
            .or_insert_with(|| Machine {
                running: !is_local,
                ..Machine::default()
            });
        if machine.down && (machine.running || !is_local) {
            return Err(BalancerError::unreachable(doing, "connection refused"));
        }
        act(&mut state)
    }

    /// One step: it is done as a whole, counted, and may be the last of the process.
    fn step(&self, doing: &str, act: impl FnOnce(&mut Machine)) -> Result<(), BalancerError> {
        self.with(doing, |state| {
            if state.is_doomed() {
                return Err(BalancerError::unreachable(doing, "process killed"));
            }
            if let Some(machine) = state.balancers.get_mut(&self.name) {
                act(machine);
            }
            state.note(&self.name, doing);
            Ok(())
        })
    }

    fn machine(&self) -> Result<Machine, BalancerError> {
        self.with("asking the load balancer", |state| {
            Ok(state.balancers.get(&self.name).cloned().unwrap_or_default())
        })
    }

    fn is_http(&self, frontend: &Label) -> bool {
        let frontends = &self.rules.frontends;
        frontends
            .iter()
            .any(|f| f.name == *frontend && f.mode == Mode::Http)
    }

    fn limit(&self, frontend: &Label) -> u32 {
        let found = self.rules.frontends.iter().find(|f| f.name == *frontend);
        found.and_then(|f| f.max_connections).unwrap_or(0)
    }

    fn slot(&self, server: &Server) -> Slot {
        let addresses = self.rules.frontends.iter();
        Slot {
            addresses: addresses
                .map(|f| (f.name.clone(), SocketAddr::new(server.address, f.port)))
                .collect(),
            weight: server.weight,
            is_in: server.duty.is_in(),
            connections: 0,
            waiting: 0,
            served: 0,
        }
    }

    fn put(&self, server: &Server, changes: &mut Vec<Change>) -> Result<(), BalancerError> {
        let there = self.machine()?.servers.get(&server.name).cloned();
        let mut wanted = self.slot(server);
        let was_in = there.as_ref().is_some_and(|slot| slot.is_in);
        if let Some(slot) = there.as_ref().filter(|slot| slot.addresses == wanted.addresses) {
            wanted.served = slot.served;
            if server.duty != Duty::Cut {
                (wanted.connections, wanted.waiting) = (slot.connections, slot.waiting);
            }
        }
        if there.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let name = server.name.clone();
        let (what, change) = match (was_in, wanted.is_in) {
            (false, true) => ("join", Some(Change::Joined(name.clone()))),
            (true, false) => ("take out", Some(Change::Left(name.clone()))),
            _ if there
                .as_ref()
                .is_some_and(|slot| slot.connections > wanted.connections) =>
            {
                ("close", Some(Change::Closed(name.clone())))
            }
            (_, _) => ("set", None),
        };
        self.step(&format!("{what} {name}"), |machine| {
            // It has served since it was looked at.
            if let Some(slot) = machine
                .servers
                .get(&name)
                .filter(|slot| slot.addresses == wanted.addresses)
            {
                wanted.served = slot.served;
            }
            machine.servers.insert(name, wanted);
        })?;
        changes.extend(change);
        Ok(())
    }
}

impl Balancer for Handle {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn observe(&self) -> Result<BalancerSeen, BalancerError> {
        self.with("asking the load balancer", |state| {
            let machine = state.balancers.get(&self.name).cloned().unwrap_or_default();
            if !machine.running {
                return Ok(BalancerSeen::default());
            }
            let now = self.shared.clock.now();
            let traffic = state.traffic.get(&self.name).copied().unwrap_or_default();
            let mut servers = Vec::new();
            for (name, slot) in &machine.servers {
                let Some(id) = parse_instance_name(&self.set, name) else {
                    continue;
                };
                let answers = match machine.cut_off.contains(name) {
                    true => Err("no route to host"),
                    false => health::by_name(state, name, now),
                };
                servers.extend(slot.addresses.iter().map(|(frontend, address)| ServerSeen {
                    frontend: frontend.clone(),
                    id,
                    address: Some(*address),
                    is_in: slot.is_in,
                    up: slot.is_in.then_some(answers.is_ok()),
                    weight: slot.weight,
                    connections: slot.connections + slot.waiting,
                    limit: self.limit(frontend),
                    queue: slot.waiting,
                    requests: slot.requests(),
                    errors: 0,
                    latency: (slot.requests() > 0 && self.is_http(frontend)).then_some(traffic.latency),
                    last_check: match &answers {
                        _ if !slot.is_in => String::new(),
                        Ok(()) => "L7OK/200 in 1 ms".to_owned(),
                        Err(said) => format!("L7STS/{said}"),
                    },
                }));
            }
            servers.sort_by(|a, b| (&a.frontend, a.id).cmp(&(&b.frontend, b.id)));
            Ok(BalancerSeen {
                version: Some("2.6.12".to_owned()),
                servers,
                queue: traffic.waiting,
            })
        })
    }

    fn bring(&self, wanted: &Membership) -> Result<Vec<Change>, BalancerError> {
        let mut changes = Vec::new();
        if !self.machine()?.running {
            self.step("start", |machine| {
                *machine = Machine {
                    running: true,
                    ..Machine::default()
                }
            })?;
            changes.push(Change::Started);
        }
        if let Some(why) = self.machine()?.refuses {
            return Err(BalancerError::refused("adding a server", why));
        }
        for going in [false, true] {
            for server in wanted.servers.iter().filter(|s| s.duty.is_in() != going) {
                self.put(server, &mut changes)?;
            }
        }
        let names: BTreeSet<&String> = wanted.servers.iter().map(|s| &s.name).collect();
        let machine = self.machine()?;
        for name in machine.servers.keys().filter(|name| !names.contains(name)) {
            if parse_instance_name(&self.set, name).is_some() {
                self.step(&format!("remove {name}"), |machine| {
                    machine.servers.remove(name);
                })?;
                changes.push(Change::Removed(name.clone()));
            }
        }
        Ok(changes)
    }

    fn retire(&self) -> Result<(), BalancerError> {
        if !self.machine()?.running {
            return Ok(());
        }
        if self.is_local {
            return self.step("stop", |machine| *machine = Machine::default());
        }
        self.bring(&Membership::default()).map(|_| ())
    }

    fn configuration(&self, wanted: &Membership) -> String {
        let lines = wanted
            .servers
            .iter()
            .map(|s| format!("server {} {}\n", s.name, s.address));
        lines.collect()
    }

    fn check(&self) -> Vec<Finding> {
        Vec::new()
    }
}

impl Fleet {
    /// A load balancer answers nobody from now on, or again.
    pub fn set_balancer_down(&self, name: &str, down: bool) {
        self.balancer(name, |machine| machine.down = down);
    }

    /// A load balancer that runs elsewhere was started anew, without the servers it was given.
    pub fn restart_balancer(&self, name: &str) {
        self.balancer(name, |machine| machine.servers.clear());
    }

    /// A load balancer that vmss runs is gone, as after a `kill -9`.
    pub fn kill_balancer(&self, name: &str) {
        self.balancer(name, |machine| *machine = Machine::default());
    }

    /// A load balancer takes no more servers, for that reason; `None`: it does again.
    pub fn set_balancer_refuses(&self, name: &str, why: Option<String>) {
        self.balancer(name, |machine| machine.refuses = why);
    }

    /// A load balancer can't reach an instance any more, or again.
    pub fn cut_balancer_off(&self, name: &str, instance: &str, cut_off: bool) {
        self.balancer(name, |machine| {
            match cut_off {
                true => machine.cut_off.insert(instance.to_owned()),
                false => machine.cut_off.remove(instance),
            };
        });
    }

    /// So many clients are connected to a server through each load balancer that sends any to it.
    pub fn connect_clients(&self, server: &str, clients: u64) {
        self.shared.change(|state| {
            let slots = state
                .balancers
                .values_mut()
                .filter_map(|m| m.servers.get_mut(server));
            for slot in slots.filter(|slot| slot.is_in || clients == 0) {
                slot.connections = clients;
            }
        });
    }

    /// The servers that take clients in a load balancer, by name.
    pub fn serving(&self, name: &str) -> Vec<String> {
        let state = self.shared.lock();
        let servers = state.balancers.get(name).into_iter().flat_map(|m| &m.servers);
        servers
            .filter(|(_, slot)| slot.is_in)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// All servers that a load balancer has, with how many are connected to them.
    pub fn servers(&self, name: &str) -> Vec<(String, u64)> {
        let state = self.shared.lock();
        let servers = state.balancers.get(name).into_iter().flat_map(|m| &m.servers);
        servers
            .map(|(name, slot)| (name.clone(), slot.connections))
            .collect()
    }

    fn balancer(&self, name: &str, change: impl FnOnce(&mut Machine)) {
        self.shared.change(|state| {
            let is_local = name == "local";
            let begin = || Machine {
                running: !is_local,
                ..Machine::default()
            };
            change(state.balancers.entry(name.to_owned()).or_insert_with(begin));
        });
    }
}
