//! One call of one host: it is logged, counted, and made of looks and steps, each of which may hang, fail, or be the
//! last thing the process does.

use std::cell::Cell;
use std::sync::MutexGuard;
use std::thread;
use std::time::Duration;

use jiff::Timestamp;

use super::clock::later;
use super::machine::Machine;
use super::shared::{Shared, State};
use crate::hypervisor::{FaultKind, HypervisorError, Pulse, Stage};
use crate::names::InstanceId;

pub(super) type Result<T> = std::result::Result<T, HypervisorError>;

/// A call under way.
pub(super) struct Call<'a> {
    shared: &'a Shared,
    host: &'a str,
    process: u64,
    pulse: Option<&'a Pulse>,
    instance: Option<InstanceId>,
    /// Its own virtual time: calls side by side don't add up.
    time: Cell<Timestamp>,
}

impl<'a> Call<'a> {
    /// Runs a whole call.
    pub fn run<T>(
        shared: &'a Shared,
        (host, process): (&'a str, u64),
        what: &str,
        (pulse, instance): (Option<&'a Pulse>, Option<InstanceId>),
        body: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<T> {
        let call = Self {
            shared,
            host,
            process,
            pulse,
            instance,
            time: Cell::new(shared.clock.now()),
        };
        {
            let mut state = shared.lock();
            if state.process == process && !state.is_killed {
                state.log.push(format!("{host}: {what}"));
            }
            if let Some(machine) = state.machines.get_mut(host) {
                machine.in_flight += 1;
                machine.most_in_flight = machine.most_in_flight.max(machine.in_flight);
            }
        }
        let outcome = call.reach(what).map(drop).and_then(|()| body(&call));
        let mut state = shared.lock();
        if let Some(machine) = state.machines.get_mut(host) {
            machine.in_flight = machine.in_flight.saturating_sub(1);
        }
        if state.is_killed || state.process != process {
            // A dead process learns nothing, not even that its last step went well.
            return Err(HypervisorError::new(
                FaultKind::Unreachable,
                what,
                "process killed",
            ));
        }
        outcome
    }

    fn reach(&self, doing: &str) -> Result<MutexGuard<'a, State>> {
        self.shared.reach(self.host, self.process, doing)
    }

    /// Begins a stage.
    pub fn stage(&self, stage: Stage) {
        if let Some(pulse) = self.pulse {
            pulse.stage(stage);
        }
    }

    /// Tells how far bytes have come.
    pub fn bytes(&self, done: u64, total: u64) {
        if let Some(pulse) = self.pulse {
            pulse.bytes(done, total);
        }
    }

    /// Looks at the host.
    pub fn look<T>(&self, doing: &str, look: impl FnOnce(&Machine) -> Result<T>) -> Result<T> {
        self.look_at_fleet(doing, |_, machine| look(machine))
    }

    /// Looks at the host, and at what is true of the whole fleet.
    pub fn look_at_fleet<T>(
        &self,
        doing: &str,
        look: impl FnOnce(&State, &Machine) -> Result<T>,
    ) -> Result<T> {
        let state = self.reach(doing)?;
        let machine = state.machines.get(self.host).ok_or_else(|| gone(doing))?;
        look(&state, machine)
    }

    /// Fails if the host's pool is inactive.
    pub fn pool(&self, doing: &str) -> Result<()> {
        self.look(doing, |m| match m.pool_fault() {
            Some(why) => Err(HypervisorError::new(FaultKind::Missing, doing, why)),
            None => Ok(()),
        })
    }

    /// Has the host look into its pool's folder again.
    pub fn refresh(&self, doing: &str) -> Result<()> {
        self.pool(doing)?;
        self.reach(doing)?.refresh(self.host);
        Ok(())
    }

    /// The call's virtual time.
    pub fn now(&self) -> Timestamp {
        self.time.get()
    }

    /// Does one step: unless something stands in its way, the host is changed as a whole or, on an error, not at all.
    /// Cancellation is looked for before it.
    pub fn step<T>(
        &self,
        stage: Stage,
        doing: &str,
        change: impl FnOnce(&mut Machine) -> Result<T>,
    ) -> Result<T> {
        self.safe_point(doing)?;
        self.last_step(stage, doing, change)
    }

    /// A step that is done even though the call was cancelled: what was begun would be worse half done.
    pub fn last_step<T>(
        &self,
        stage: Stage,
        doing: &str,
        change: impl FnOnce(&mut Machine) -> Result<T>,
    ) -> Result<T> {
        let lingers = self.look(doing, |m| Ok(m.faults.lingers))?;
        if !lingers.is_zero() {
            thread::sleep(lingers);
        }
        let mut state = self.reach(doing)?;
        if state.is_doomed() {
            drop(state);
            self.shared.wake();
            return Err(HypervisorError::new(
                FaultKind::Unreachable,
                doing,
                "process killed",
            ));
        }
        let machine = state.machines.get_mut(self.host).ok_or_else(|| gone(doing))?;
        if let Some(kind) = machine.faults.strike(stage, self.instance) {
            return Err(HypervisorError::new(kind, doing, "injected fault"));
        }
        let took = machine.faults.slow;
        let done = state.alter(self.host, change).ok_or_else(|| gone(doing))??;
        state.note(self.host, doing);
        let was_killed = state.is_killed;
        drop(state);
        if was_killed {
            self.shared.wake();
        }
        self.pass(took);
        if let Some(pulse) = self.pulse {
            pulse.beat();
        }
        Ok(done)
    }

    /// What a guest does by itself, without anyone's step.
    pub fn guest(&self, doing: &str, act: impl FnOnce(&mut Machine)) -> Result<()> {
        let mut state = self.reach(doing)?;
        act(state.machines.get_mut(self.host).ok_or_else(|| gone(doing))?);
        Ok(())
    }

    /// Lets virtual time pass for this call.
    pub fn pass(&self, time: Duration) {
        self.time.set(later(self.time.get(), time));
        self.shared.clock.reach(self.time.get());
    }

    /// Stops here if the operator asked for it.
    pub fn safe_point(&self, doing: &str) -> Result<()> {
        match self.pulse {
            Some(pulse) if pulse.is_cancelled() => Err(HypervisorError::new(
                FaultKind::Cancelled,
                doing,
                "stopped as the operator asked",
            )),
            _ => Ok(()),
        }
    }
}

fn gone(doing: &str) -> HypervisorError {
    HypervisorError::new(FaultKind::Unreachable, doing, "no route to host")
}
