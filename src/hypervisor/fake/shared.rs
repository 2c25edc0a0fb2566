//! The fleet's state, and what may stand between a call and a host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::clock::Clock;
use super::machine::Machine;
use crate::hypervisor::{FaultKind, HypervisorError};
use crate::model::ImageDigest;

/// What everyone who knows the fleet shares.
#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    pub clock: Clock,
}

#[derive(Clone, Default)]
pub(super) struct State {
    /// By name.
    pub machines: BTreeMap<String, Machine>,
    /// Other names of hosts, each with the one that it stands for.
    pub other_names: BTreeMap<String, String>,
    /// Folders that several hosts share.
    pub folders: Vec<super::folder::Folder>,
    /// Load balancers, by name.
    pub balancers: BTreeMap<String, super::balancers::Machine>,
    /// Images whose guests never get healthy.
    pub broken: BTreeSet<ImageDigest>,
    /// Whether the machine that vmss runs on has lost its network.
    pub without_network: bool,
    /// What clients do to load balancers, by their names.
    pub traffic: BTreeMap<String, super::traffic::Traffic>,
    /// What instances are busy with.
    pub loads: super::load::Loads,
    /// Until when that was counted.
    pub settled_at: Option<Timestamp>,
    /// Every call, as it began.
    pub log: Vec<String>,
    /// Every step, as it was done.
    pub journal: Vec<String>,
    /// How many moments there were so far: steps, and what the process did elsewhere.
    pub moments: usize,
    /// When the process is to be killed.
    pub doom: Option<Doom>,
    /// The process that hosts are opened in; grows when a killed one is followed by another.
    pub process: u64,
    /// Whether that process was killed.
    pub is_killed: bool,
    /// Whether the fleet was dropped.
    pub is_closed: bool,
}

/// When the process is killed, by the number of the last step, or moment, that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doom {
    /// Right after that step.
    After(usize),
    /// When it is about to do the step after that one.
    Before(usize),
    /// When it is about to do anything after that moment.
    At(usize),
}

impl State {
    /// The name of the host that is called so.
    pub fn real_name<'n>(&'n self, name: &'n str) -> &'n str {
        self.other_names.get(name).map_or(name, String::as_str)
    }

    /// Notes a step that was done.
    pub fn note(&mut self, host: &str, what: &str) {
        self.journal.push(format!("{host}: {what}"));
        self.moments += 1;
        if let Some(machine) = self.machines.get_mut(host) {
            machine.faults.wear();
        }
        if self.doom == Some(Doom::After(self.journal.len())) {
            self.is_killed = true;
        }
    }

    /// Whether the process is killed instead of doing its next step.
    pub fn is_doomed(&mut self) -> bool {
        self.is_killed |= self.doom == Some(Doom::Before(self.journal.len()));
        self.is_killed |= self.doom == Some(Doom::At(self.moments));
        self.is_killed
    }

    /// Whether the process lives through a moment that is no step, which is counted then.
    pub fn lives_through_a_moment(&mut self) -> bool {
        self.is_killed |= self.doom == Some(Doom::At(self.moments));
        self.moments += usize::from(!self.is_killed);
        !self.is_killed
    }
}

impl Shared {
    /// The state, with what was done until now counted.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.settle(self.clock.now());
        state
    }

    /// Changes the state from outside, and wakes who waits for such a change.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let outcome = change(&mut self.lock());
        self.changed.notify_all();
        outcome
    }

    /// Wakes calls that wait on a hung host.
    pub fn wake(&self) {
        self.changed.notify_all();
    }

    /// The state, once `host` can be spoken to by `process`: waits while it hangs.
    pub fn reach(
        &self,
        host: &str,
        process: u64,
        doing: &str,
    ) -> Result<MutexGuard<'_, State>, HypervisorError> {
        let unreachable = |why: &str| Err(HypervisorError::new(FaultKind::Unreachable, doing, why));
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return unreachable("the fleet is gone");
            }
            if state.is_killed || state.process != process {
                return unreachable("process killed");
            }
            let Some(machine) = state.machines.get(host) else {
                return unreachable("no route to host");
            };
            if machine.faults.dead {
                return unreachable("no route to host");
            }
            if machine.faults.down {
                return unreachable("connection refused");
            }
            if !machine.faults.hangs {
                state.settle(self.clock.now());
                return Ok(state);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
