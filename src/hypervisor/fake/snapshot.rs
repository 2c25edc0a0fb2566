//! The fleet as it was at some moment, to go back to: so that a test may do many things in turn from the same place.

use jiff::Timestamp;

use super::Fleet;
use super::shared::State;

/// Everything that was there.
#[derive(Clone)]
pub struct Snapshot {
    state: State,
    now: Timestamp,
}

impl Fleet {
    /// Remembers everything that is there now, its time too.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            state: self.shared.lock().clone(),
            now: self.shared.clock.now(),
        }
    }

    /// Everything is again as it was, for another process: what was opened before is dead.
    pub fn restore(&self, to: &Snapshot) {
        self.shared.clock.set(to.now);
        self.shared.change(|s| {
            let process = s.process + 1;
            *s = to.state.clone();
            (s.process, s.doom, s.is_killed) = (process, None, false);
        });
    }

    /// Everything that is on the hosts, as text: two fleets on which the same is there have the same.
    pub fn told(&self) -> String {
        let state = self.shared.lock();
        let each = state.machines.iter().map(|(host, machine)| {
            format!(
                "{host}: {:?} {:?} {:?} {:?} {:?}\n",
                machine.faults, machine.domains, machine.volumes, machine.copies, machine.marks
            )
        });
        each.collect::<String>() + &format!("{:?}", state.folders)
    }

    /// Names of the marks that lie where a host has its pool, whatever it knows of them.
    pub fn marks(&self, host: &str) -> Vec<String> {
        let machines = self.shared.lock().as_it_is();
        let of_host = machines.get(host).into_iter().flat_map(|m| &m.marks);
        of_host.map(crate::names::PoolMark::volume).collect()
    }
}
