//! Metrics of the hosts of a set, as the set sees them.

use super::family::{Families, Labels, PerSet};
use super::{Area, View};
use crate::inventory::HostSeen;

/// The metrics.
pub struct Hosts {
    up: PerSet,
    pool_up: PerSet,
    vcpus: PerSet,
    vcpus_used: PerSet,
    memory: PerSet,
    memory_used: PerSet,
    pool_free: PerSet,
}

impl Area for Hosts {
    fn register(families: &mut Families) -> Self {
        Self {
            up: families.gauge("vmss_host_up", "Whether the host answered the last look"),
            pool_up: families.gauge(
                "vmss_host_pool_up",
                "Whether the storage pool that the set uses on the host could be seen at the last look",
            ),
            vcpus: families.gauge("vmss_host_vcpus", "Logical CPUs of the host"),
            vcpus_used: families.gauge(
                "vmss_host_vcpus_used",
                "Virtual CPUs promised to running domains of the host and to all instances",
            ),
            memory: families.gauge("vmss_host_memory_bytes", "Memory of the host"),
            memory_used: families.gauge(
                "vmss_host_memory_used_bytes",
                "Memory promised to running domains of the host and to all instances",
            ),
            pool_free: families.gauge(
                "vmss_host_pool_free_bytes",
                "Free space of the storage pool that the set uses on the host",
            ),
        }
    }

    fn take(&self, view: &View<'_>) {
        let hosts = &view.inventory.hosts;
        let label = |host: &crate::inventory::HostView| -> Labels { vec![("host", host.name.to_string())] };
        let up = hosts
            .iter()
            .map(|h| (label(h), f64::from(u8::from(h.seen().is_some()))));
        self.up.put(view.set, up);
        // What a host has that is out of sight, nobody knows.
        let put = |metric: &PerSet, value: fn(&HostSeen) -> f64| {
            let seen = hosts.iter().filter_map(|h| Some((label(h), value(h.seen()?))));
            metric.put(view.set, seen);
        };
        put(&self.pool_up, |h| f64::from(u8::from(h.pool_unseen.is_none())));
        put(&self.vcpus, |h| f64::from(h.cpus));
        put(&self.vcpus_used, |h| f64::from(h.used_vcpus));
        put(&self.memory, |h| super::float(h.memory.0));
        put(&self.memory_used, |h| super::float(h.used_memory.0));
        let free = hosts.iter().filter_map(|h| {
            let seen = h.seen().filter(|seen| seen.pool_unseen.is_none())?;
            Some((label(h), super::float(seen.pool_free.0)))
        });
        self.pool_free.put(view.set, free);
    }
}
