//! What clients do to the fleet's load balancers, and counters that add it up over its clock, as [`super::load`] has it for
//! instances.

use std::time::Duration;

use super::Fleet;
use super::balancers::Machine;
use super::shared::State;

/// What clients do to a load balancer, whether it runs or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Requests a second to each frontend.
    per_second: u64,
    /// Requests that wait for any server.
    pub waiting: u64,
    /// How long an answer takes.
    pub latency: Duration,
}

impl State {
    /// Counts the requests of a time that has passed.
    pub fn serve(&mut self, passed: Duration) {
        for (name, machine) in &mut self.balancers {
            let rate = self.traffic.get(name).map_or(0, |traffic| traffic.per_second);
            machine.serve(passed.as_nanos() * u128::from(rate));
        }
    }
}

impl Machine {
    /// Shares requests, counted times nanoseconds, among the servers that take clients. Without one they are lost.
    fn serve(&mut self, requests: u128) {
        if self.down || !self.running {
            return;
        }
        let among = self.servers.values().filter(|slot| slot.is_in).count() as u128;
        for slot in self.servers.values_mut().filter(|slot| slot.is_in) {
            slot.served += requests / among;
        }
    }
}

impl Fleet {
    /// So many requests come to each frontend of a load balancer every second from now on, and the servers that take clients
    /// share them evenly.
    pub fn set_requests(&self, name: &str, per_second: u64) {
        self.traffic(name, |traffic| traffic.per_second = per_second);
    }

    /// Every answer that clients get through a load balancer takes so long from now on.
    pub fn set_latency(&self, name: &str, latency: Duration) {
        self.traffic(name, |traffic| traffic.latency = latency);
    }

    /// So many requests wait in a load balancer for whichever server is free first.
    pub fn set_waiting(&self, name: &str, waiting: u64) {
        self.traffic(name, |traffic| traffic.waiting = waiting);
    }

    /// So many requests wait for that server in each frontend of each load balancer that has it. They are among its
    /// connections.
    pub fn set_waiting_for(&self, server: &str, waiting: u64) {
        self.shared.change(|state| {
            let machines = state.balancers.values_mut();
            for slot in machines.filter_map(|m| m.servers.get_mut(server)) {
                slot.waiting = waiting;
            }
        });
    }

    fn traffic(&self, name: &str, change: impl FnOnce(&mut Traffic)) {
        self.shared
            .change(|state| change(state.traffic.entry(name.to_owned()).or_default()));
    }
}
