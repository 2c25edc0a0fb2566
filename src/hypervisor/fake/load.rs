//! What instances of the fake are busy with, and counters that add it up over the fleet's clock.
//!
//! Loads stay as they are until a test changes them, so counters are brought up to date whenever somebody takes the fleet's
//! state in hand: before every change and every look. Two readings then differ by exactly what was done in between.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::Fleet;
use super::machine::Domain;
use super::shared::State;
use crate::inventory::Power;
use crate::names::Label;
use crate::units::Bytes;

/// What a running instance does, all the time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// How busy its virtual CPUs are, in percent of all of them together: 0 to 100.
    pub cpu_percent: f64,
    /// Memory that it uses, as its host and its guest see it.
    pub memory: Bytes,
    /// Bytes read from its disks every second.
    pub disk_read: Bytes,
    /// Bytes written to its disks every second.
    pub disk_written: Bytes,
    /// Requests to read every second.
    pub reads: u64,
    /// Requests to write every second.
    pub writes: u64,
    /// Bytes that come in over the network every second.
    pub received: Bytes,
    /// Bytes that go out over the network every second.
    pub sent: Bytes,
}

/// What loads there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Loads {
    /// By instance name.
    own: BTreeMap<String, Load>,
    /// Of every instance of a set that has none of its own.
    of_sets: BTreeMap<Label, Load>,
    /// CPU percents that a set's running instances share.
    shared: BTreeMap<Label, f64>,
}

impl Loads {
    /// The load of a domain, if it runs; `running` is how many of its set do.
    pub fn of(&self, domain: &Domain, running: usize) -> Load {
        if let Some(own) = self.own.get(&domain.name) {
            return *own;
        }
        let set = domain.meta.as_ref().map(|meta| &meta.set);
        let mut load = set
            .and_then(|set| self.of_sets.get(set))
            .copied()
            .unwrap_or_default();
        if let Some(total) = set.and_then(|set| self.shared.get(set)) {
            load.cpu_percent = total / count(running);
        }
        load.cpu_percent = load.cpu_percent.clamp(0.0, 100.0);
        load
    }
}

/// A count to divide by.
fn count(n: usize) -> f64 {
    u32::try_from(n.max(1)).unwrap_or(u32::MAX).into()
}

/// What was done: counts times nanoseconds, so that nothing is rounded however often it is added to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Time it has run, in nanoseconds.
    up: u128,
    /// CPU time, in nanoseconds.
    cpu: u128,
    disk_read: u128,
    disk_written: u128,
    reads: u128,
    writes: u128,
    received: u128,
    sent: u128,
}

impl Counters {
    fn run(&mut self, load: &Load, vcpus: u32, passed: Duration) {
        let nanos = passed.as_nanos();
        self.up += nanos;
        self.cpu += passed
            .mul_f64(load.cpu_percent.clamp(0.0, 100.0) / 100.0 * f64::from(vcpus))
            .as_nanos();
        for (counter, rate) in [
            (&mut self.disk_read, load.disk_read.0),
            (&mut self.disk_written, load.disk_written.0),
            (&mut self.reads, load.reads),
            (&mut self.writes, load.writes),
            (&mut self.received, load.received.0),
            (&mut self.sent, load.sent.0),
        ] {
            *counter += nanos * u128::from(rate);
        }
    }
}

/// The counters of a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    /// Since its guest has booted.
    booted: Counters,
    /// What of that was counted on another host, by another QEMU.
    elsewhere: Counters,
}

/// Nanoseconds times counts as counts.
fn whole(counter: u128) -> u64 {
    u64::try_from(counter / 1_000_000_000).unwrap_or(u64::MAX)
}

/// Nanoseconds as a time.
fn time(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

impl Meter {
    /// Its guest goes on on another host, where QEMU begins to count anew.
    pub(super) fn moved(&mut self) {
        self.elsewhere = self.booted;
    }

    /// CPU time on this host.
    pub(super) fn cpu(&self) -> Duration {
        time(self.booted.cpu - self.elsewhere.cpu)
    }

    /// CPU time as its guest counts it, and for how long the guest has been up.
    pub(super) fn guest(&self) -> (Duration, Duration) {
        (time(self.booted.cpu), time(self.booted.up))
    }

    /// Bytes read and written, requests to read and to write, on this host.
    pub(super) fn disk(&self) -> (Bytes, Bytes, u64, u64) {
        let (all, not) = (&self.booted, &self.elsewhere);
        (
            Bytes(whole(all.disk_read - not.disk_read)),
            Bytes(whole(all.disk_written - not.disk_written)),
            whole(all.reads - not.reads),
            whole(all.writes - not.writes),
        )
    }

    /// Bytes received and sent, on this host.
    pub(super) fn network(&self) -> (Bytes, Bytes) {
        let (all, not) = (&self.booted, &self.elsewhere);
        (
            Bytes(whole(all.received - not.received)),
            Bytes(whole(all.sent - not.sent)),
        )
    }
}

impl State {
    /// How many instances of each set run.
    fn running(&self) -> BTreeMap<Label, usize> {
        let mut running = BTreeMap::new();
        for machine in self.machines.values().filter(|m| !m.faults.dead) {
            for domain in machine.domains.values().filter(|d| d.power == Power::Running) {
                if let Some(meta) = &domain.meta {
                    *running.entry(meta.set.clone()).or_default() += 1;
                }
            }
        }
        running
    }

    /// The load of a domain that runs.
    pub fn load_of(&self, domain: &Domain) -> Load {
        let set = domain.meta.as_ref().map(|meta| &meta.set);
        let running = set.and_then(|set| self.running().get(set).copied());
        self.loads.of(domain, running.unwrap_or_default())
    }

    /// Counts what was done until `now`.
    pub fn settle(&mut self, now: Timestamp) {
        let since = self.settled_at.replace(now).unwrap_or(now);
        let Ok(passed) = Duration::try_from(now.duration_since(since)) else {
            return;
        };
        if passed.is_zero() {
            return;
        }
        self.serve(passed);
        let running = self.running();
        for machine in self.machines.values_mut().filter(|m| !m.faults.dead) {
            for domain in machine.domains.values_mut().filter(|d| d.power == Power::Running) {
                // Somebody else's domains must stay as the test made them.
                let Some(meta) = &domain.meta else { continue };
                let count = running.get(&meta.set).copied().unwrap_or_default();
                let load = self.loads.of(domain, count);
                domain.meter.booted.run(&load, domain.vcpus, passed);
            }
        }
    }
}

impl Fleet {
    /// The instance of that name does this from now on, whenever and wherever it runs, be it there already or not. `None`:
    /// it does what the others of its set do.
    pub fn set_load(&self, instance: &str, load: impl Into<Option<Load>>) {
        let load = load.into();
        self.shared.change(|s| {
            match load {
                Some(load) => s.loads.own.insert(instance.to_owned(), load),
                None => s.loads.own.remove(instance),
            };
        });
    }

    /// Every running instance of the set that has no load of its own does this from now on; no CPU load is shared any more.
    pub fn load_all(&self, set: &Label, load: Load) {
        self.shared.change(|s| {
            s.loads.shared.remove(set);
            s.loads.of_sets.insert(set.clone(), load);
        });
    }

    /// The set has so much to do, in percents of one instance's CPUs, and its running instances share it evenly: each has
    /// the total divided by their number, and 100 at most. What else they do stays as [`Self::load_all`] has it; one with a
    /// load of its own counts as one that runs, and has that instead.
    pub fn share_load(&self, set: &Label, cpu_percent_total: f64) {
        self.shared
            .change(|s| s.loads.shared.insert(set.clone(), cpu_percent_total));
    }
}
