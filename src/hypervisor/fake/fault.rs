//! What can be wrong with a host of the fake.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::hypervisor::{FaultKind, Stage};
use crate::names::InstanceId;

/// A fault that a test brings about with [`super::Fleet::inject`]. It lasts until [`super::Fleet::heal`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every call fails: unreachable. What runs on the host runs on.
    Down,
    /// It has lost power: every call fails, and its guests answer nothing. When that ends ([`super::Fleet::reboot`], or
    /// [`super::Fleet::heal`]), every domain is off.
    Dead,
    /// Calls work, but its guests answer no probe.
    CutGuests,
    /// Every call waits, and every call under way waits before its next step, until the host is healed (then it goes
    /// on), the process is killed, or the fleet is dropped (then it fails).
    Hangs,
    /// It is [`Fault::Down`] after so many more steps.
    DiesAfter(u64),
    /// Its pool is inactive: whatever needs it fails, its guests run on.
    NoPool,
    /// Steps of one kind fail.
    Fails(Failure),
    /// The guest of that instance (of every instance: `None`) does nothing when it is asked to shut down.
    IgnoresShutdown(Option<InstanceId>),
    /// It measures nothing: asking it for that fails so.
    Unmeasured(FaultKind),
    /// The domain of that instance (of every instance: `None`) is busy: what QEMU would have to be asked for, memory and
    /// disks, is not measured.
    Busy(Option<InstanceId>),
    /// Every step takes so much virtual time.
    Slow(Duration),
    /// Every step takes so much real time, so that calls really overlap.
    Lingers(Duration),
}

impl Fault {
    /// Volumes can't be made, though an observation shows room: the pool filled up in between.
    pub fn no_space() -> Self {
        Self::Fails(Failure::new(Stage::Disks, FaultKind::NoSpace))
    }

    /// Instances don't start.
    pub fn start_fails(kind: FaultKind) -> Self {
        Self::Fails(Failure::new(Stage::Start, kind))
    }

    /// Instance `id` does not start.
    pub fn start_of(id: InstanceId, kind: FaultKind) -> Self {
        Self::Fails(Failure {
            instance: Some(id),
            ..Failure::new(Stage::Start, kind)
        })
    }

    /// Images arrive as something else than was sent.
    pub fn corrupt_push() -> Self {
        Self::Fails(Failure::new(Stage::Verify, FaultKind::Corrupt))
    }
}

/// Which steps fail, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The stage in which they fail. `Define` means all that writes a domain's definition or its note but the last
    /// mark, `Disks` all that makes volumes, seeds and image copies among them.
    pub stage: Stage,
    /// Only those of this instance.
    pub instance: Option<InstanceId>,
    /// The error's kind.
    pub kind: FaultKind,
    /// How many times before all is well again; `None`: always.
    pub times: Option<u32>,
}

impl Failure {
    /// Steps of `stage` always fail with `kind`.
    pub const fn new(stage: Stage, kind: FaultKind) -> Self {
        Self {
            stage,
            instance: None,
            kind,
            times: None,
        }
    }

    fn hits(&self, stage: Stage, instance: Option<InstanceId>) -> bool {
        let at = self.stage == stage
            || (self.stage == Stage::Disks && matches!(stage, Stage::Seed | Stage::Upload));
        at && self.times != Some(0) && (self.instance.is_none() || self.instance == instance)
    }
}

/// The faults a host has.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub down: bool,
    pub dead: bool,
    pub cut: bool,
    pub hangs: bool,
    pub no_pool: bool,
    pub steps_left: Option<u64>,
    pub failures: Vec<Failure>,
    pub deaf: BTreeSet<Option<InstanceId>>,
    pub unmeasured: Option<FaultKind>,
    pub busy: BTreeSet<Option<InstanceId>>,
    pub slow: Duration,
    pub lingers: Duration,
}

impl Faults {
    pub fn add(&mut self, fault: Fault) {
        match fault {
            Fault::Down => self.down = true,
            Fault::Dead => self.dead = true,
            Fault::CutGuests => self.cut = true,
            Fault::Hangs => self.hangs = true,
            Fault::NoPool => self.no_pool = true,
            Fault::DiesAfter(0) => self.down = true,
            Fault::DiesAfter(steps) => self.steps_left = Some(steps),
            Fault::Fails(failure) => self.failures.push(failure),
            Fault::IgnoresShutdown(who) => {
                self.deaf.insert(who);
            }
            Fault::Unmeasured(kind) => self.unmeasured = Some(kind),
            Fault::Busy(who) => {
                self.busy.insert(who);
            }
            Fault::Slow(time) => self.slow = time,
            Fault::Lingers(time) => self.lingers = time,
        }
    }

    /// The kind with which a step is to fail, if it is; that counts as one time.
    pub fn strike(&mut self, stage: Stage, instance: Option<InstanceId>) -> Option<FaultKind> {
        let failure = self.failures.iter_mut().find(|f| f.hits(stage, instance))?;
        if let Some(times) = &mut failure.times {
            *times -= 1;
        }
        Some(failure.kind)
    }

    /// Notes a step that was done; the host may die of it.
    pub fn wear(&mut self) {
        if let Some(left) = &mut self.steps_left {
            *left = left.saturating_sub(1);
            self.down |= *left == 0;
        }
    }

    pub fn is_busy(&self, id: InstanceId) -> bool {
        self.busy.contains(&None) || self.busy.contains(&Some(id))
    }

    pub fn is_deaf(&self, id: InstanceId) -> bool {
        self.deaf.contains(&None) || self.deaf.contains(&Some(id))
    }
}
