//! Looking: one list of the pool, one of the domains, then a call or two for each domain that runs or is ours.

use std::collections::BTreeSet;

use uuid::Uuid;
use virt::domain::{Domain, DomainShutoffReason, DomainState, DomainStateReason};
use virt::enumutil::Enum;
use virt::sys;

use super::connection::{Line, Session};
use super::domains;
use super::fault::optional;
use super::images;
use super::spread::spread;
use super::traits::version;
use super::volumes::Pool;
use crate::hypervisor::seed::parse_shared_name;
use crate::hypervisor::{FaultKind, HostFacts, HypervisorError, Pulse, Watch};
use crate::inventory::{HostSeen, Instance, Power};
use crate::names::{InstanceId, PoolMark, VolumeName, parse_instance_name};
use crate::units::Bytes;

/// What is promised to domains.
#[derive(Default)]
struct Promised {
    vcpus: u32,
    memory: Bytes,
    running: u32,
}

impl Promised {
    fn add(&mut self, other: &Self) {
        self.vcpus = self.vcpus.saturating_add(other.vcpus);
        self.memory = self.memory + other.memory;
        self.running += other.running;
    }
}

/// See [`crate::hypervisor::Hypervisor::observe`].
pub fn observe(line: &Line, pool: &str, watch: &Watch) -> Result<HostSeen, HypervisorError> {
    let pulse = Pulse::silent();
    let session = &line.session(&pulse)?;
    let (cpus, memory) = node(session)?;
    let mut seen = HostSeen {
        cpus,
        memory,
        used_vcpus: 0,
        used_memory: Bytes(0),
        uuid: session.traits()?.host,
        domains: 0,
        pool_unseen: None,
        pool_free: Bytes(0),
        marks: BTreeSet::new(),
        bases: BTreeSet::new(),
        remains: BTreeSet::new(),
        instances: Vec::new(),
        foreign: Vec::new(),
        nameless: Vec::new(),
        volumes: Vec::new(),
        seeds: Vec::new(),
    };
    // The pool before the domains: an instance that another process is making has its domain before its volumes, so a
    // volume in this list without a domain in the next has none.
    seen.pool_unseen = its_own_fault(look_at_pool(session, pool, watch, &mut seen))?.err();
    let mut promised = Promised::default();
    let domains = all(session)?;
    for sight in spread(line, session, &domains, |session, domain| {
        sight(session, watch, domain)
    })? {
        promised.add(&sight.promised);
        seen.domains ^= sight.fingerprint;
        match (sight.id, sight.instance) {
            (_, Some(instance)) => seen.instances.push(instance),
            _ if sight.gone => {}
            (id, None) => {
                seen.foreign.extend(id);
                seen.nameless.extend(sight.nameless);
            }
        }
    }
    // libvirt lists them in any order; whoever reads an inventory shall not see that.
    seen.instances
        .sort_by(|a, b| (a.id, &a.name).cmp(&(b.id, &b.name)));
    seen.foreign.sort();
    seen.nameless.sort();
    seen.volumes.sort();
    (seen.used_vcpus, seen.used_memory) = (promised.vcpus, promised.memory);
    Ok(seen)
}

/// Why the pool could not be looked at, if that is a matter of the pool alone: missing, inactive, refused or busy. A connection
/// that broke, or an answer that did not come, says nothing of the pool: the whole host is out of sight then.
fn its_own_fault<T>(looked: Result<T, HypervisorError>) -> Result<Result<T, String>, HypervisorError> {
    match looked {
        Ok(seen) => Ok(Ok(seen)),
        Err(error) => match error.kind {
            FaultKind::Unreachable | FaultKind::TimedOut | FaultKind::Cancelled => Err(error),
            _ => Ok(Err(error.message)),
        },
    }
}

fn look_at_pool(
    session: &Session<'_>,
    pool: &str,
    watch: &Watch,
    seen: &mut HostSeen,
) -> Result<(), HypervisorError> {
    let (set, stores) = (&watch.set, &watch.stores);
    let pool = &Pool::open(session, pool)?;
    let names = pool.names()?;
    // The last that can fail: of a pool that was not seen whole nothing is told.
    seen.pool_free = room(pool)?.1;
    for (copy, whole) in images::copies(&names) {
        if whole {
            seen.bases.insert(copy.digest);
        } else if copy.is_of(stores) {
            seen.remains.insert(copy.digest);
        }
    }
    for name in &names {
        let mut stores = stores.iter();
        if let Some(revision) = stores.find_map(|store| parse_shared_name(*store, set, name)) {
            seen.seeds.push((revision, name.clone()));
        } else if let Some(volume) = VolumeName::parse(set, name) {
            seen.volumes.push(volume);
        } else {
            seen.marks.extend(PoolMark::parse(name));
        }
    }
    Ok(())
}

/// Domains of every kind; their names, UUIDs and whether they run come with the list.
pub fn all(session: &Session<'_>) -> Result<Vec<Domain>, HypervisorError> {
    Ok(session.call("listing domains", |c| c.list_all_domains(0))?)
}

/// One domain as far as it matters to a set.
#[derive(Default)]
struct Sight {
    /// The instance whose name it has.
    id: Option<InstanceId>,
    /// The instance it is.
    instance: Option<Instance>,
    /// The name and UUID it has, if the UUID is one that is watched.
    nameless: Option<(String, Uuid)>,
    /// A number made of its UUID.
    fingerprint: u64,
    /// Whether it went while it was looked at.
    gone: bool,
    promised: Promised,
}

fn sight(session: &Session<'_>, watch: &Watch, domain: &Domain) -> Result<Sight, HypervisorError> {
    // Both come with the list.
    let name = domain.name().unwrap_or_default();
    let uuid = domain.uuid().ok();
    let mut sight = Sight {
        id: parse_instance_name(&watch.set, &name),
        nameless: uuid
            .filter(|uuid| watch.uuids.contains(uuid))
            .map(|uuid| (name.clone(), uuid)),
        fingerprint: uuid.map_or(0, |uuid| {
            let (high, low) = uuid.as_u64_pair();
            high ^ low.rotate_left(17)
        }),
        ..Sight::default()
    };
    let meta = match (sight.id, &sight.nameless) {
        (None, None) => None,
        _ => match domains::read(session, domain, &name) {
            Err(fault) if fault.is(sys::VIR_ERR_NO_DOMAIN) => {
                sight.gone = true;
                return Ok(sight);
            }
            other => other?.filter(|m| m.set == watch.set),
        },
    };
    if meta.is_none() && domain.id().is_none() {
        return Ok(sight);
    }
    let Some((power, promised)) = look(session, domain, &name)? else {
        sight.gone = true;
        return Ok(sight);
    };
    sight.promised = promised;
    if let (Some(meta), Some(uuid)) = (meta, uuid) {
        sight.instance = Some(Instance {
            id: meta.id,
            name,
            uuid,
            power,
            vcpus: sight.promised.vcpus,
            meta,
        });
    }
    Ok(sight)
}

/// A domain's power and what it was promised; `None` if it has gone.
fn look(
    session: &Session<'_>,
    domain: &Domain,
    name: &str,
) -> Result<Option<(Power, Promised)>, HypervisorError> {
    let doing = format_args!("looking at domain {name}");
    let Some(info) = optional(session.call(doing, |_| domain.info()), sys::VIR_ERR_NO_DOMAIN)? else {
        return Ok(None);
    };
    let promised = Promised {
        vcpus: info.nr_virt_cpu,
        memory: Bytes(info.max_mem.saturating_mul(1024)),
        running: u32::from(domain.id().is_some()),
    };
    let power = match info.state.known() {
        Some(DomainState::Paused | DomainState::PMSuspended) => Power::Paused,
        Some(DomainState::Shutdown) => Power::ShuttingDown,
        Some(DomainState::Crashed) => Power::Crashed,
        Some(DomainState::Shutoff) => {
            // Only one that is off needs the second question: why.
            let state = session.call(format_args!("looking at domain {name}"), |_| domain.state());
            let crashed = matches!(
                optional(state, sys::VIR_ERR_NO_DOMAIN)?,
                Some((_, Enum::Known(DomainStateReason::Shutoff(reason)))) if reason.is(DomainShutoffReason::Crashed)
            );
            if crashed { Power::Crashed } else { Power::Off }
        }
        _ => Power::Running,
    };
    Ok(Some((power, promised)))
}

fn node(session: &Session<'_>) -> Result<(u32, Bytes), HypervisorError> {
    let node = session.call("asking for CPUs and memory", |c| c.node_info())?;
    Ok((node.cpus, Bytes(node.memory.saturating_mul(1024))))
}

/// Size and free space of the pool, as of its last change or refresh.
fn room(pool: &Pool<'_, '_>) -> Result<(Bytes, Bytes), HypervisorError> {
    let info = pool.active()?;
    Ok((Bytes(info.capacity), Bytes(info.available)))
}

/// See [`crate::hypervisor::Hypervisor::facts`].
pub fn facts(line: &Line, pool: &str) -> Result<HostFacts, HypervisorError> {
    let pulse = Pulse::silent();
    let session = &line.session(&pulse)?;
    let traits = session.traits()?;
    let hostname = session.call("asking for the host's name", |c| c.hostname())?;
    let (cpus, memory) = node(session)?;
    let (room, pool_unseen) = match its_own_fault(Pool::open(session, pool).and_then(|pool| room(&pool)))? {
        Ok(room) => (Some(room), None),
        Err(reason) => (None, Some(reason)),
    };
    let mut running = all(session)?;
    running.retain(|d| d.id().is_some());
    let mut promised = Promised::default();
    let look =
        |session: &Session<'_>, domain: &Domain| look(session, domain, &domain.name().unwrap_or_default());
    for (_, of_one) in spread(line, session, &running, look)?.into_iter().flatten() {
        promised.add(&of_one);
    }
    Ok(HostFacts {
        hostname,
        libvirt: version(traits.libvirt),
        hypervisor: format!("{} {}", traits.hypervisor.0, version(traits.hypervisor.1)),
        kvm: traits.kvm(),
        cpus,
        memory,
        used_vcpus: promised.vcpus,
        used_memory: promised.memory,
        running: promised.running,
        pool_size: room.map(|(size, _)| size),
        pool_free: room.map(|(_, free)| free),
        pool_unseen,
    })
}
