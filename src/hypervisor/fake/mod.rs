//! A whole fleet in memory, for tests that run whole commands: it does what [`Hypervisor`](super::Hypervisor) promises,
//! step by step, and whatever can go wrong on a real host goes wrong here when a test asks for it.
//!
//! A *step* is one change of a host's state. It happens as a whole or not at all; between two of them a host may die,
//! hang, or the process be killed. Steps of the whole fleet are counted ([`Fleet::steps`]), so that a test can kill the
//! process at every one of them in turn.

mod audit;
mod balancers;
mod call;
mod clock;
mod create;
mod daily_hands;
mod delete;
mod fault;
mod folder;
mod guest;
mod hands;
mod health;
mod host;
mod images;
mod load;
mod machine;
mod measure;
mod migrate;
mod observe;
mod odd;
mod odd_hands;
mod owned;
mod power;
mod rework;
mod shared;
mod snapshot;
mod traffic;
mod upkeep;
mod volumes;

use std::sync::Arc;

pub use clock::Clock;
pub use daily_hands::Backup;
pub use fault::{Failure, Fault};
pub use load::{Load, Meter};
pub use machine::{Agent, Content, Domain, FakeHost, ImageCopy, Volume};
pub use snapshot::Snapshot;
pub use upkeep::HostAsItIs;

use super::{FaultKind, Hosts, Hypervisor, HypervisorError, Pulse, Settled};
use crate::model::Model;
use crate::plan::action::{InstanceRef, InstanceSpec};
use crate::scaleset::{Host, Limits};
use call::Call;
use migrate::Way;
use shared::{Doom, Shared, State};

/// The fleet. Calls that still wait on a hung host when it is dropped fail then.
#[derive(Default)]
pub struct Fleet {
    shared: Arc<Shared>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shared.change(|s| s.is_closed = true);
    }
}

impl Hosts for Fleet {
    /// The host of that name, or of which that is another name ([`Fleet::call_host`]); if there is none, the one that its URI
    /// names. One that was not added is unreachable.
    fn host(&self, host: &Host, _: &Limits) -> Arc<dyn Hypervisor> {
        Arc::new(host::FakeHypervisor {
            shared: Arc::clone(&self.shared),
            name: self.name_of(host),
            pool: host.pool.clone(),
            process: self.shared.lock().process,
        })
    }

    fn migrate(
        &self,
        from: &Host,
        to: &Host,
        _: &Limits,
        instance: &InstanceRef,
        spec: &InstanceSpec,
        model: &Model,
        pulse: &Pulse,
    ) -> Result<(), HypervisorError> {
        let what = format!("migrate {}", instance.name);
        self.between((from, to), &what, instance, pulse, |way| {
            migrate::migrate(way, spec, model)
        })
    }

    fn settle(
        &self,
        from: &Host,
        to: &Host,
        _: &Limits,
        instance: &InstanceRef,
        pulse: &Pulse,
    ) -> Result<Settled, HypervisorError> {
        let what = format!("settle {}", instance.name);
        self.between((from, to), &what, instance, pulse, migrate::settle)
    }
}

impl Fleet {
    /// What a host is called here: a definition may call it otherwise.
    fn name_of(&self, host: &Host) -> String {
        let state = self.shared.lock();
        let by_uri = || {
            let name = host.uri.strip_prefix("qemu+ssh://")?.strip_suffix("/system")?;
            state.machines.contains_key(name).then(|| name.to_owned())
        };
        let own = state.real_name(host.name.as_str());
        let other = if state.machines.contains_key(own) {
            None
        } else {
            by_uri()
        };
        other.unwrap_or_else(|| own.to_owned())
    }

    /// A call that two hosts take part in.
    fn between<T>(
        &self,
        (from, to): (&Host, &Host),
        what: &str,
        instance: &InstanceRef,
        pulse: &Pulse,
        body: impl FnOnce(&Way<'_>) -> Result<T, HypervisorError>,
    ) -> Result<T, HypervisorError> {
        let (shared, process) = (&*self.shared, self.shared.lock().process);
        let (source, target) = (&*self.name_of(from), &*self.name_of(to));
        if source == target {
            let error = HypervisorError::new(FaultKind::Other, what, "both are one host");
            return Err(error);
        }
        let who = || (Some(pulse), Some(instance.id));
        let leaving = format!("{what} to {target}");
        Call::run(shared, (source, process), &leaving, who(), |here| {
            let arriving = format!("{what} from {source}");
            Call::run(shared, (target, process), &arriving, who(), |there| {
                here.pool(what)?;
                there.pool(what)?;
                body(&Way {
                    here,
                    there,
                    to: &to.name,
                    uris: (&from.uri, &to.uri),
                    instance,
                })
            })
        })
    }
}

impl Fleet {
    /// A fleet without hosts.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Its clock.
    pub fn clock(&self) -> Clock {
        self.shared.clock.clone()
    }

    /// Every call so far, as it began: "kvm1: create web-3".
    pub fn log(&self) -> Vec<String> {
        self.shared.lock().log.clone()
    }

    /// Every step so far, as it was done: "kvm1: define web-3".
    pub fn journal(&self) -> Vec<String> {
        self.shared.lock().journal.clone()
    }

    /// How many steps were done so far.
    pub fn steps(&self) -> usize {
        self.shared.lock().journal.len()
    }

    /// Kills the process right after `steps` more steps; 0 kills it now. Every later call of that process fails with
    /// "process killed", the call of that last step too, and the fleet stays as it is until [`Self::revive`].
    pub fn kill_after(&self, steps: usize) {
        self.shared.change(|s| {
            s.doom = Some(Doom::After(s.journal.len() + steps));
            s.is_killed |= steps == 0;
        });
    }

    /// As [`Self::kill_after`], but at the last moment before the next step would be done: what the process writes
    /// elsewhere between the two steps is written.
    pub fn kill_before(&self, steps: usize) {
        self.shared
            .change(|s| s.doom = Some(Doom::Before(s.journal.len() + steps)));
    }

    /// As [`Self::kill_before`], but counted are moments: steps, and whatever the process does elsewhere that a test tells the
    /// fleet of ([`Self::outlives`]). Between two of them nothing changes anywhere, so there is no other time to be killed at.
    pub fn kill_at(&self, moments: usize) {
        self.shared
            .change(|s| s.doom = Some(Doom::At(s.moments + moments)));
    }

    /// How many moments there were so far.
    pub fn moments(&self) -> usize {
        self.shared.lock().moments
    }

    /// The process is about to do something that is no step, such as a write to its store: a moment. Whether it lives to do it.
    pub fn outlives(&self) -> bool {
        self.shared.change(State::lives_through_a_moment)
    }

    /// Whether the process was killed: what else it would write must not be written either.
    pub fn is_killed(&self) -> bool {
        self.shared.lock().is_killed
    }

    /// Begins another process, if one was killed, and calls off a kill that has not happened. Hosts that were opened
    /// before stay with the dead process; guests that were shutting down are off.
    pub fn revive(&self) {
        self.shared.change(|s| {
            s.doom = None;
            if !std::mem::take(&mut s.is_killed) {
                return;
            }
            s.process += 1;
            for machine in s.machines.values_mut() {
                machine.guests_go_off();
            }
        });
    }
}
