//! What a host measures of its instances, as plain data. All but memory are counters since the domain was started on that
//! host: a rate is the difference of two readings, and a reading that is smaller than the one before begins anew.

use std::time::Duration;

use serde::Serialize;

use crate::names::InstanceId;
use crate::units::{Bytes, seconds};

/// Which measurements are asked for: each costs the host time of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// [`CpuStats`].
    pub cpu: bool,
    /// [`MemoryStats`].
    pub memory: bool,
    /// [`DiskStats`].
    pub disk: bool,
    /// [`NetworkStats`].
    pub network: bool,
}

impl Groups {
    /// Every group.
    pub const ALL: Self = Self {
        cpu: true,
        memory: true,
        disk: true,
        network: true,
    };

    /// Whether anything is asked for.
    pub const fn any(self) -> bool {
        self.cpu || self.memory || self.disk || self.network
    }
}

/// What is known of one instance that runs. A group is `None` if it was not asked for, if the host does not measure it, or
/// if the domain was too busy to be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceStats {
    /// Which instance.
    pub id: InstanceId,
    /// Its CPUs.
    pub cpu: Option<CpuStats>,
    /// Its memory.
    pub memory: Option<MemoryStats>,
    /// Its disks together.
    pub disk: Option<DiskStats>,
    /// Its network cards together.
    pub network: Option<NetworkStats>,
}

/// CPU time. How many virtual CPUs share it is seen whenever the host is looked at: libvirt counts them in a group that costs
/// as much again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuStats {
    /// CPU time spent so far for the domain, in user and in kernel mode, on all CPUs together (libvirt's `cpu.time`). It is the
    /// whole domain's: beside the virtual CPUs it counts QEMU's own threads, for disks and emulation, so that over a time
    /// it can come to a little more than the virtual CPUs alone could use.
    #[serde(serialize_with = "seconds")]
    pub time: Duration,
}

/// Memory, as it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryStats {
    /// What QEMU has resident on the host (libvirt's `balloon.rss`): whatever the guest has touched and not given back, its
    /// caches too, and QEMU's own needs. So it can be more than `size`, and seldom shrinks.
    pub used: Bytes,
    /// Memory that the instance was given (libvirt's `balloon.maximum`).
    pub size: Bytes,
}

/// Traffic with disks so far, all disks of the instance but its seed together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiskStats {
    /// Bytes read.
    pub read: Bytes,
    /// Bytes written.
    pub written: Bytes,
    /// Requests to read.
    pub reads: u64,
    /// Requests to write.
    pub writes: u64,
}

/// Network traffic so far, as the guest sees it, all cards of the instance together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NetworkStats {
    /// Bytes that came in.
    pub received: Bytes,
    /// Bytes that went out.
    pub sent: Bytes,
}
