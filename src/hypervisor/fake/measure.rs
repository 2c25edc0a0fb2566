//! What is measured of instances: by their host, and by their guests themselves.

use super::machine::{Domain, Machine};
use super::shared::State;
use crate::hypervisor::{
    CpuStats, DiskStats, Groups, HypervisorError, InstanceStats, MemoryStats, NetworkStats,
};
use crate::inventory::Power;
use crate::plan::action::InstanceRef;

/// See [`crate::hypervisor::Hypervisor::stats`].
pub(super) fn stats(
    state: &State,
    machine: &Machine,
    instances: &[InstanceRef],
    groups: Groups,
    doing: &str,
) -> Result<Vec<InstanceStats>, HypervisorError> {
    if let Some(kind) = machine.faults.unmeasured {
        return Err(HypervisorError::new(kind, doing, "injected fault"));
    }
    let running = |instance: &InstanceRef| {
        let domain = machine.by_uuid(instance.uuid)?;
        (domain.power == Power::Running).then(|| of(state, machine, domain, instance, groups))
    };
    Ok(instances.iter().filter_map(running).collect())
}

fn of(
    state: &State,
    machine: &Machine,
    domain: &Domain,
    instance: &InstanceRef,
    groups: Groups,
) -> InstanceStats {
    let is_free = !machine.faults.is_busy(instance.id);
    let (read, written, reads, writes) = domain.meter.disk();
    let (received, sent) = domain.meter.network();
    InstanceStats {
        id: instance.id,
        cpu: groups.cpu.then(|| CpuStats {
            time: domain.meter.cpu(),
        }),
        memory: (groups.memory && is_free).then(|| MemoryStats {
            used: state.load_of(domain).memory,
            size: domain.memory,
        }),
        disk: (groups.disk && is_free).then_some(DiskStats {
            read,
            written,
            reads,
            writes,
        }),
        network: groups.network.then_some(NetworkStats { received, sent }),
    }
}

/// A file of the guest's `/proc`, as Linux writes it but shorter; `None` if the guest has no such file. The averages of
/// `/proc/loadavg` are all the load of this moment.
pub(super) fn proc(state: &State, domain: &Domain, path: &str) -> Option<String> {
    let load = state.load_of(domain);
    let vcpus = u64::from(domain.vcpus.max(1));
    match path {
        "/proc/stat" => {
            let (busy, up) = domain.meter.guest();
            let jiffies =
                |time: std::time::Duration| u64::try_from(time.as_millis() / 10).unwrap_or(u64::MAX);
            let (busy, all) = (jiffies(busy), jiffies(up).saturating_mul(vcpus));
            let line = |name: &str, busy: u64, all: u64| {
                format!("{name} {busy} 0 0 {} 0 0 0 0 0 0\n", all.saturating_sub(busy))
            };
            let each = (0..vcpus).map(|n| line(&format!("cpu{n}"), busy / vcpus, all / vcpus));
            // Two blanks, as Linux has them behind the sum.
            Some(line("cpu ", busy, all) + &each.collect::<String>())
        }
        "/proc/meminfo" => {
            let total = domain.memory.0 / 1024;
            let free = total.saturating_sub(load.memory.0 / 1024);
            let line = |name: &str, kib: u64| format!("{name:<16}{kib:>8} kB\n");
            Some(line("MemTotal:", total) + &line("MemFree:", free) + &line("MemAvailable:", free))
        }
        "/proc/loadavg" => {
            let average = load.cpu_percent / 100.0 * f64::from(domain.vcpus);
            Some(format!("{average:.2} {average:.2} {average:.2} 1/100 712\n"))
        }
        _ => None,
    }
}
