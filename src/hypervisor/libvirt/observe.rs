//! Looking at a host: facts, the set's instances, who manages them, addresses.

use std::net::IpAddr;

use virt::connect::Connect;
use virt::domain::{Domain, DomainState};
use virt::error::ErrorNumber;
use virt::storage_pool::StoragePool;
use virt::sys;

use crate::hypervisor::libvirt::connection::{code, fault};
use crate::hypervisor::libvirt::{Libvirt, Result, images};
use crate::hypervisor::{FaultKind, HostFacts, HypervisorError, metadata_xml, seed};
use crate::inventory::{HostSeen, Instance, Metadata, Power};
use crate::names::{InstanceId, Label, StoreId, parse_instance_name, parse_volume_name};
use crate::plan::action::InstanceRef;
use crate::units::Bytes;

/// The facts in a domain's metadata, if vmss wrote any.
pub fn metadata(domain: &Domain) -> Option<Metadata> {
    let kind = i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).ok()?;
    metadata_xml::parse(&domain.metadata(kind, Some(metadata_xml::NAMESPACE), 0).ok()?)
}

/// Names of all volumes of a pool. The names come with the list: one call.
pub fn volume_names(pool: &StoragePool) -> Result<Vec<String>> {
    let doing = "listing the volumes of the pool";
    let volumes = pool.list_all_volumes(0).map_err(|e| fault(&e, doing))?;
    volumes
        .iter()
        .map(|v| v.name().map_err(|e| fault(&e, doing)))
        .collect()
}

fn power(state: DomainState) -> Power {
    match state {
        DomainState::Running | DomainState::Blocked | DomainState::NoState => Power::Running,
        DomainState::Paused | DomainState::PMSuspended => Power::Paused,
        DomainState::Shutdown => Power::ShuttingDown,
        DomainState::Shutoff => Power::Off,
        DomainState::Crashed => Power::Crashed,
    }
}

/// "9.0.0" of libvirt's 9000000.
fn version(number: u32) -> String {
    format!(
        "{}.{}.{}",
        number / 1_000_000,
        number / 1000 % 1000,
        number % 1000
    )
}

impl Libvirt {
    /// The host's pool.
    pub(super) fn pool(&self, connection: &Connect) -> Result<StoragePool> {
        connection
            .lookup_storage_pool_by_name(&self.pool)
            .map_err(|e| fault(&e, format!("looking for the pool {} of {}", self.pool, self.name)))
    }

    /// Whether the host is libvirt's test driver.
    pub(super) fn is_rehearsal(&self, connection: &Connect) -> Result<bool> {
        let kind = connection
            .driver_type()
            .map_err(|e| fault(&e, "asking for the driver"))?;
        Ok(kind.eq_ignore_ascii_case("test"))
    }

    pub(super) fn host_facts(&self) -> Result<HostFacts> {
        let c = self.look.get()?;
        let doing = |what: &str| format!("asking {} for {what}", self.name);
        let node = c.node_info().map_err(|e| fault(&e, doing("its size")))?;
        let pool = self.pool(&c)?.info().map_err(|e| fault(&e, doing("its pool")))?;
        let kind = c.driver_type().map_err(|e| fault(&e, doing("its driver")))?;
        let hypervisor = c.hyp_version().map(version).unwrap_or_default();
        let mut facts = HostFacts {
            hostname: c.hostname().map_err(|e| fault(&e, doing("its name")))?,
            libvirt: version(c.lib_version().map_err(|e| fault(&e, doing("its version")))?),
            hypervisor: format!("{kind} {hypervisor}"),
            kvm: c
                .capabilities()
                .is_ok_and(|xml| xml.contains("<domain type='kvm'")),
            cpus: node.cpus,
            memory: Bytes(node.memory << 10),
            used_vcpus: 0,
            used_memory: Bytes(0),
            running: 0,
            pool_size: Bytes(pool.capacity),
            pool_free: Bytes(pool.available),
        };
        for domain in c
            .list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            .map_err(|e| fault(&e, doing("its domains")))?
        {
            // A domain that ends meanwhile uses nothing.
            let Ok(info) = domain.info() else { continue };
            facts.running += 1;
            facts.used_vcpus += info.nr_virt_cpu;
            facts.used_memory = facts.used_memory + Bytes(info.max_mem << 10);
        }
        Ok(facts)
    }

    pub(super) fn look_at(&self, set: &Label, stores: &[StoreId]) -> Result<HostSeen> {
        let c = self.look.get()?;
        let doing = |what: &str| format!("looking at {what} of {}", self.name);
        // Volumes before domains: one that is made in between has its domain in the later list, and is no leftover.
        let pool = self.pool(&c)?;
        let volumes = volume_names(&pool)?;
        let space = pool.info().map_err(|e| fault(&e, doing("the pool")))?;
        let node = c.node_info().map_err(|e| fault(&e, doing("the size")))?;
        let mut seen = HostSeen {
            cpus: node.cpus,
            memory: Bytes(node.memory << 10),
            used_vcpus: 0,
            used_memory: Bytes(0),
            pool_free: Bytes(space.available),
            bases: images::whole(&volumes),
            remains: images::remains(&volumes, stores),
            instances: Vec::new(),
            foreign: Vec::new(),
            leftovers: Vec::new(),
            seeds: Vec::new(),
        };
        let mut named: std::collections::HashSet<InstanceId> = std::collections::HashSet::new();
        for domain in c
            .list_all_domains(0)
            .map_err(|e| fault(&e, doing("the domains")))?
        {
            let name = domain.name().map_err(|e| fault(&e, doing("a domain")))?;
            let info = match domain.info() {
                Ok(info) => info,
                // It was deleted while the list was read.
                Err(e) if code(&e) == ErrorNumber::NoDomain => continue,
                Err(e) => return Err(fault(&e, doing(&format!("the domain {name}")))),
            };
            let power = power(info.state.unwrap_or(DomainState::NoState));
            let id = parse_instance_name(set, &name);
            named.extend(id);
            let meta = id.and_then(|_| metadata(&domain));
            let ours = match (id, meta) {
                (Some(id), Some(meta)) if &meta.set == set && meta.id == id => {
                    let uuid = domain
                        .uuid()
                        .map_err(|e| fault(&e, doing(&format!("the domain {name}"))))?;
                    seen.instances.push(Instance {
                        id,
                        uuid,
                        power,
                        meta,
                    });
                    true
                }
                (Some(id), _) => {
                    seen.foreign.push(id);
                    false
                }
                (None, _) => false,
            };
            if ours || !matches!(power, Power::Off | Power::Crashed) {
                seen.used_vcpus += info.nr_virt_cpu;
                seen.used_memory = seen.used_memory + Bytes(info.max_mem << 10);
            }
        }
        for volume in volumes {
            let of_seed = |store: &StoreId| seed::parse_shared_name(set, *store, &volume);
            let of_instance = |store: &StoreId| parse_volume_name(*store, set, &volume);
            if let Some(revision) = stores.iter().find_map(of_seed) {
                seen.seeds.push((revision, volume));
            } else if stores
                .iter()
                .find_map(of_instance)
                .is_some_and(|id| !named.contains(&id))
            {
                seen.leftovers.push(volume);
            }
        }
        Ok(seen)
    }

    pub(super) fn all_sets(&self) -> Result<Vec<(Label, StoreId)>> {
        let c = self.look.get()?;
        let domains = c
            .list_all_domains(0)
            .map_err(|e| fault(&e, format!("looking at the domains of {}", self.name)))?;
        let mut sets: Vec<_> = domains
            .iter()
            .filter_map(metadata)
            .map(|m| (m.set, m.store))
            .collect();
        sets.sort_unstable();
        sets.dedup();
        Ok(sets)
    }

    /// The domain of `instance`, found by UUID and proved to be ours; `None` if it is gone.
    pub(super) fn ours(
        &self,
        connection: &Connect,
        instance: &InstanceRef,
    ) -> Result<Option<(Domain, Metadata)>> {
        let doing = || format!("looking for {} on {}", instance.name, self.name);
        let domain = match connection.lookup_domain_by_uuid(instance.uuid) {
            Ok(domain) => domain,
            Err(e) if code(&e) == ErrorNumber::NoDomain => return Ok(None),
            Err(e) => return Err(fault(&e, doing())),
        };
        match metadata(&domain) {
            Some(meta)
                if meta.set == instance.set && meta.store == instance.store && meta.id == instance.id =>
            {
                Ok(Some((domain, meta)))
            }
            _ => Err(HypervisorError::new(
                FaultKind::NotOurs,
                doing(),
                "the domain with its UUID does not say that it is this instance; it was left untouched",
            )),
        }
    }

    pub(super) fn find_addresses(&self, instance: &InstanceRef) -> Result<Vec<IpAddr>> {
        /// Seconds a guest agent may take.
        const PATIENCE: i32 = 3;
        let c = self.look.get()?;
        let Some((domain, _)) = self.ours(&c, instance)? else {
            return Ok(Vec::new());
        };
        if agent_is_connected(&domain) {
            // SAFETY: the pointer is that of a domain which lives longer than the call. Its failure only leaves the
            // default patience in force.
            let _ = unsafe { sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), PATIENCE, 0) };
            if let Some(found) = ask(&domain, sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT) {
                return Ok(found);
            }
        }
        let sources = [
            sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
            sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
        ];
        Ok(sources
            .into_iter()
            .find_map(|source| ask(&domain, source))
            .unwrap_or_default())
    }
}

/// Addresses that one source knows; `None` if it knows none, or can't be asked.
fn ask(domain: &Domain, source: sys::virDomainInterfaceAddressesSource) -> Option<Vec<IpAddr>> {
    let interfaces = domain.interface_addresses(source, 0).ok()?;
    let mut found: Vec<IpAddr> = (interfaces.iter())
        .filter(|i| i.hwaddr.as_deref().is_some_and(|mac| mac != "00:00:00:00:00:00"))
        .flat_map(|i| &i.addrs)
        .filter_map(|a| a.addr.parse().ok())
        .filter(|a| match a {
            IpAddr::V4(a) => !a.is_loopback() && !a.is_link_local(),
            IpAddr::V6(a) => !a.is_loopback() && !a.is_unicast_link_local(),
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    (!found.is_empty()).then_some(found)
}

/// Whether the guest's agent has opened its channel: asking one that has not would block until its time-out.
pub fn agent_is_connected(domain: &Domain) -> bool {
    let Ok(xml) = domain.xml_desc(0) else { return false };
    let Ok(document) = roxmltree::Document::parse(&xml) else {
        return false;
    };
    let mut targets = document.descendants().filter(|n| n.has_tag_name("target"));
    targets.any(|n| {
        n.attribute("name") == Some("org.qemu.guest_agent.0") && n.attribute("state") == Some("connected")
    })
}
