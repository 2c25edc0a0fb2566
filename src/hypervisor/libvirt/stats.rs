//! Measuring: one call for all that runs, read into the instances that were asked for.

use std::collections::HashMap;
use std::time::Duration;

use uuid::Uuid;
use virt::sys;

use super::connection::Session;
use super::raw::{self, Measured};
use crate::hypervisor::seed::is_seed_of;
use crate::hypervisor::{
    CpuStats, DiskStats, Groups, HypervisorError, InstanceStats, MemoryStats, NetworkStats,
};
use crate::plan::action::InstanceRef;
use crate::units::Bytes;

/// See [`crate::hypervisor::Hypervisor::stats`].
pub fn stats(
    session: &Session<'_>,
    instances: &[InstanceRef],
    groups: Groups,
) -> Result<Vec<InstanceStats>, HypervisorError> {
    if instances.is_empty() {
        return Ok(Vec::new());
    }
    let measure = |flags: u32| {
        session.call("measuring domains", |c| {
            raw::all_domain_stats(
                c,
                chosen(groups),
                sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_RUNNING | flags,
            )
        })
    };
    // Without enforcing: groups that this driver lacks are then left out, and no reason to fail.
    let measured = match measure(sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT) {
        // Before libvirt 4.5 there is no such flag. One that lacks the whole call says so again.
        Err(fault) if fault.unsupported() => measure(0)?,
        other => other?,
    };
    let mut measured: HashMap<Uuid, Measured> = measured.into_iter().map(|m| (m.uuid, m)).collect();
    let of = |instance: &InstanceRef| Some(read(instance, &measured.remove(&instance.uuid)?, groups));
    Ok(instances.iter().filter_map(of).collect())
}

/// libvirt's groups. What runs is asked for in any case, and no group at all would mean all of them.
fn chosen(groups: Groups) -> u32 {
    let group = |wanted: bool, group: u32| if wanted { group } else { 0 };
    sys::VIR_DOMAIN_STATS_STATE
        | group(groups.cpu, sys::VIR_DOMAIN_STATS_CPU_TOTAL)
        | group(groups.memory, sys::VIR_DOMAIN_STATS_BALLOON)
        | group(groups.disk, sys::VIR_DOMAIN_STATS_BLOCK)
        | group(groups.network, sys::VIR_DOMAIN_STATS_INTERFACE)
}

fn read(instance: &InstanceRef, measured: &Measured, groups: Groups) -> InstanceStats {
    InstanceStats {
        id: instance.id,
        cpu: cpu(measured).filter(|_| groups.cpu),
        memory: memory(measured).filter(|_| groups.memory),
        disk: disk(instance, measured).filter(|_| groups.disk),
        network: network(measured).filter(|_| groups.network),
    }
}

fn number(measured: &Measured, name: &str) -> Option<u64> {
    measured.numbers.get(name).copied()
}

fn cpu(measured: &Measured) -> Option<CpuStats> {
    let time = Duration::from_nanos(number(measured, "cpu.time")?);
    Some(CpuStats { time })
}

/// Of a busy domain libvirt knows the sizes alone. The balloon's is none that the guest uses: a set whose domains are busy
/// would seem to be out of memory.
fn memory(measured: &Measured) -> Option<MemoryStats> {
    let kib = |name: &str| Some(Bytes(number(measured, name)?.saturating_mul(1024)));
    Some(MemoryStats {
        used: kib("balloon.rss")?,
        size: kib("balloon.maximum")?,
    })
}

fn disk(instance: &InstanceRef, measured: &Measured) -> Option<DiskStats> {
    let is_seed = |n: u64| {
        let path = measured.texts.get(&format!("block.{n}.path"));
        path.is_some_and(|path| is_seed_of(instance, path.rsplit('/').next().unwrap_or_default()))
    };
    let of = |n: u64| {
        let of = |what: &str| number(measured, &format!("block.{n}.{what}"));
        Some(DiskStats {
            read: Bytes(of("rd.bytes")?),
            written: Bytes(of("wr.bytes")?),
            reads: of("rd.reqs")?,
            writes: of("wr.reqs")?,
        })
    };
    let count = number(measured, "block.count")?;
    summed((0..count).filter(|n| !is_seed(*n)).map(of), |a, b| DiskStats {
        read: a.read + b.read,
        written: a.written + b.written,
        reads: a.reads.saturating_add(b.reads),
        writes: a.writes.saturating_add(b.writes),
    })
}

fn network(measured: &Measured) -> Option<NetworkStats> {
    let of = |n: u64| {
        let of = |what: &str| Some(Bytes(number(measured, &format!("net.{n}.{what}.bytes"))?));
        Some(NetworkStats {
            received: of("rx")?,
            sent: of("tx")?,
        })
    };
    let count = number(measured, "net.count")?;
    summed((0..count).map(of), |a, b| NetworkStats {
        received: a.received + b.received,
        sent: a.sent + b.sent,
    })
}

/// The sum of those that were measured: one kind of card may never be. `None` if none was; of nothing it is zero.
fn summed<T: Default>(parts: impl Iterator<Item = Option<T>>, add: impl Fn(T, T) -> T) -> Option<T> {
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return Some(T::default());
    }
    parts.flatten().reduce(add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::Pulse;
    use crate::hypervisor::libvirt::connection::Line;
    use crate::names::{InstanceId, Label, StoreId};

    /// What libvirt 9.0 with QEMU 7.2 says of a domain with two disks, a seed and two cards.
    const IDLE: &str = "state.state=1 state.reason=1 cpu.time=520000000 cpu.user=280000000 cpu.system=240000000 \
        balloon.current=65536 balloon.maximum=65536 balloon.last-update=0 balloon.rss=49524 \
        net.count=2 net.0.name=vnet0 net.0.rx.bytes=100 net.0.tx.bytes=10 net.1.name=vnet1 net.1.rx.bytes=5 net.1.tx.bytes=1 \
        block.count=3 block.0.name=vda block.0.path=/p/web-7-00000000-os.qcow2 \
        block.0.rd.reqs=4 block.0.rd.bytes=2048 block.0.wr.reqs=1 block.0.wr.bytes=512 \
        block.1.name=vdb block.1.path=/p/web-7-00000000-data-logs.qcow2 \
        block.1.rd.reqs=1 block.1.rd.bytes=512 block.1.wr.reqs=2 block.1.wr.bytes=1024 \
        block.2.name=vdc block.2.path=/p/vmss-seed-web-r1-0a1b2c3d-feed.img \
        block.2.rd.reqs=9 block.2.rd.bytes=9000 block.2.wr.reqs=0 block.2.wr.bytes=0";

    fn web_7() -> InstanceRef {
        InstanceRef {
            set: Label::new("web").unwrap(),
            store: StoreId(Uuid::nil()),
            id: InstanceId(7),
            name: "web-7".to_owned(),
            uuid: Uuid::nil(),
            epoch: crate::epoch::Epoch::default(),
        }
    }

    fn measured(text: &str) -> Measured {
        let mut measured = Measured::default();
        for (name, value) in text.split_whitespace().filter_map(|w| w.split_once('=')) {
            match value.parse() {
                Ok(number) => drop(measured.numbers.insert(name.to_owned(), number)),
                Err(_) => drop(measured.texts.insert(name.to_owned(), value.to_owned())),
            }
        }
        measured
    }

    #[test]
    fn disks_and_cards_are_summed_and_the_seed_is_none_of_them() {
        let all = InstanceStats {
            id: InstanceId(7),
            cpu: Some(CpuStats {
                time: Duration::from_millis(520),
            }),
            memory: Some(MemoryStats {
                used: Bytes(49_524 * 1024),
                size: Bytes::mib(64),
            }),
            disk: Some(DiskStats {
                read: Bytes(2560),
                written: Bytes(1536),
                reads: 5,
                writes: 3,
            }),
            network: Some(NetworkStats {
                received: Bytes(105),
                sent: Bytes(11),
            }),
        };
        assert_eq!(read(&web_7(), &measured(IDLE), Groups::ALL), all);
        let cpu = Groups {
            cpu: true,
            ..Groups::default()
        };
        let only = read(&web_7(), &measured(IDLE), cpu);
        assert_eq!((only.cpu, only.memory, only.disk), (all.cpu, None, None));
    }

    #[test]
    fn a_busy_domain_lacks_what_its_qemu_would_have_to_be_asked_for() {
        let busy = IDLE
            .split_whitespace()
            .filter(|w| {
                !["balloon.rss", "balloon.last", ".rd.", ".wr."]
                    .iter()
                    .any(|of_qemu| w.contains(of_qemu))
            })
            .collect::<Vec<_>>()
            .join(" ");
        let seen = read(&web_7(), &measured(&busy), Groups::ALL);
        assert!(seen.cpu.is_some() && seen.network.is_some());
        assert_eq!((seen.memory, seen.disk), (None, None));
    }

    #[test]
    fn a_domain_without_cards_has_no_traffic_and_one_of_a_driver_that_counts_none_is_not_known() {
        assert_eq!(network(&measured("net.count=0")), Some(NetworkStats::default()));
        assert_eq!(network(&measured("net.count=1 net.0.name=user")), None);
        assert_eq!(
            network(&measured(
                "net.count=2 net.0.name=user net.1.rx.bytes=3 net.1.tx.bytes=4"
            ))
            .map(|n| n.received),
            Some(Bytes(3))
        );
        assert_eq!(network(&measured("state.state=1")), None);
    }

    #[test]
    fn records_are_read_with_their_domain_and_their_numbers() {
        let line = Line::new("test:///default", Duration::from_secs(5), 1);
        let pulse = Pulse::silent();
        let session = line.session(&pulse).unwrap();
        let measured = session.call("measuring", |c| raw::all_domain_stats(c, chosen(Groups::ALL), 0));
        // Others of this process define domains beside the simulation's own, and take them away.
        let own = session
            .call("finding", |c| c.lookup_domain_by_name("test"))
            .unwrap();
        let uuid = own.uuid().unwrap();
        let measured = measured.unwrap();
        let measured: Vec<_> = measured.iter().filter(|record| record.uuid == uuid).collect();
        assert_eq!(measured.len(), 1);
        // VIR_DOMAIN_RUNNING; the simulation measures nothing else.
        assert_eq!(measured[0].numbers.get("state.state"), Some(&1));
        assert_eq!(cpu(measured[0]), None);
    }

    #[test]
    fn libvirt_is_never_asked_for_all_it_can_measure() {
        let none = chosen(Groups::default());
        assert_eq!(none, sys::VIR_DOMAIN_STATS_STATE);
        assert!(!Groups::default().any() && Groups::ALL.any());
        let cpu = Groups {
            cpu: true,
            ..Groups::default()
        };
        assert_eq!(chosen(cpu), none | sys::VIR_DOMAIN_STATS_CPU_TOTAL);
    }
}
