//! What a host tells of itself.

use std::net::IpAddr;

use super::call::{Call, Result};
use super::machine::{Agent, Content, Machine};
use super::owned::owned;
use crate::addresses::{Source, Told};
use crate::hypervisor::{Finding, HostFacts, Problem, Stage, Uses, VolumeFacts, Watch};
use crate::inventory::{HostSeen, Instance, Power};
use crate::model::{Model, NicSource, Virtualization};
use crate::names::{Label, StoreId, VolumeName, parse_instance_name};
use crate::plan::action::InstanceRef;
use crate::units::Bytes;

/// What is there of the set that is watched.
pub(super) fn seen(machine: &Machine, watch: &Watch) -> HostSeen {
    let (set, stores) = (&watch.set, &watch.stores);
    let mut seen = HostSeen {
        cpus: machine.made_of.cpus,
        memory: machine.made_of.memory,
        used_vcpus: 0,
        used_memory: Bytes(0),
        uuid: Some(machine.uuid),
        domains: 0,
        pool_unseen: None,
        pool_free: machine.pool_free(),
        marks: machine.marks.clone(),
        bases: (machine.copies.values())
            .filter(|c| c.is_whole())
            .map(|c| c.digest.clone())
            .collect(),
        remains: (machine.copies.values())
            .filter(|c| !c.is_whole() && stores.contains(&c.store))
            .map(|c| c.digest.clone())
            .collect(),
        instances: Vec::new(),
        foreign: Vec::new(),
        nameless: Vec::new(),
        volumes: Vec::new(),
        seeds: Vec::new(),
    };
    for domain in machine.domains.values() {
        let id = parse_instance_name(set, &domain.name);
        let (high, low) = domain.uuid.as_u64_pair();
        seen.domains ^= high ^ low.rotate_left(17);
        let is_watched = watch.uuids.contains(&domain.uuid);
        let meta = (domain.meta.as_ref()).filter(|m| &m.set == set && (id.is_some() || is_watched));
        if meta.is_some() || domain.is_active() {
            seen.used_vcpus += domain.vcpus;
            seen.used_memory = seen.used_memory + domain.memory;
        }
        match (id, meta) {
            (_, Some(meta)) => seen.instances.push(Instance {
                id: meta.id,
                name: domain.name.clone(),
                uuid: domain.uuid,
                power: domain.power,
                vcpus: domain.vcpus,
                meta: meta.clone(),
            }),
            (id, None) => {
                seen.foreign.extend(id);
                if is_watched {
                    seen.nameless.push((domain.name.clone(), domain.uuid));
                }
            }
        }
    }
    for volume in machine.volumes.values() {
        match &volume.content {
            Content::SharedSeed {
                set: of,
                store,
                revision,
                ..
            } if of == set && stores.contains(store) => {
                seen.seeds.push((*revision, volume.name.clone()));
            }
            _ => seen.volumes.extend(VolumeName::parse(set, &volume.name)),
        }
    }
    if let Some(why) = machine.pool_fault() {
        // Of a pool that was not seen nothing is told.
        seen.pool_unseen = Some(why.to_owned());
        seen.pool_free = Bytes(0);
        (seen.marks, seen.bases, seen.remains) = Default::default();
        (seen.volumes, seen.seeds) = Default::default();
    }
    seen.instances
        .sort_by(|a, b| (a.id, &a.name).cmp(&(b.id, &b.name)));
    seen.volumes.sort();
    seen
}

/// What its pool knows of some volumes.
pub(super) fn volume_facts(machine: &Machine, names: &[String]) -> Vec<VolumeFacts> {
    let there = names.iter().filter_map(|name| machine.volumes.get(name));
    there
        .map(|volume| VolumeFacts {
            name: volume.name.clone(),
            size: volume.size,
            allocation: volume.allocation,
            changed_at: None,
        })
        .collect()
}

/// Which files its domains need.
pub(super) fn uses(machine: &Machine) -> Uses {
    let mut uses = Uses {
        marks: machine.marks.clone(),
        ..Uses::default()
    };
    for domain in machine.domains.values() {
        let held = domain.held.iter().filter(|_| domain.is_active());
        for disk in domain.disks.iter().chain(held) {
            uses.add(disk, &domain.name, Some(domain.uuid));
        }
    }
    for volume in machine.volumes.values() {
        if let Some(backing) = &volume.backing {
            uses.add(backing, &volume.name, None);
        }
    }
    uses
}

pub(super) fn facts(machine: &Machine, name: &str) -> HostFacts {
    let running = || machine.domains.values().filter(|d| d.is_active());
    let pool_seen = machine.pool_fault().is_none();
    HostFacts {
        hostname: name.to_owned(),
        libvirt: "9.0.0".to_owned(),
        hypervisor: "QEMU 7.2.0".to_owned(),
        kvm: machine.made_of.kvm,
        cpus: machine.made_of.cpus,
        memory: machine.made_of.memory,
        used_vcpus: running().map(|d| d.vcpus).sum(),
        used_memory: running().map(|d| d.memory).sum(),
        running: u32::try_from(running().count()).unwrap_or(u32::MAX),
        pool_size: pool_seen.then_some(machine.made_of.pool_size),
        pool_free: pool_seen.then(|| machine.pool_free()),
        pool_unseen: machine.pool_fault().map(str::to_owned),
    }
}

/// What a running guest's agent names, with what its network leases to it.
pub(super) fn addresses(machine: &Machine, instance: &InstanceRef) -> Result<Vec<Told>> {
    let found = owned(
        machine,
        instance,
        &format!("asking for the addresses of {}", instance.name),
    )?;
    let Some((domain, _)) = found.filter(|(domain, _)| domain.power == Power::Running) else {
        return Ok(Vec::new());
    };
    let leases = domain.leases.iter().map(|a| IpAddr::from(*a));
    let named = domain
        .names
        .iter()
        .filter(|_| domain.agent == Agent::Well)
        .copied();
    let named: Vec<IpAddr> = named.collect();
    let more: Vec<IpAddr> = leases.clone().filter(|a| !named.contains(a)).collect();
    let told = |address: IpAddr| Told {
        address,
        source: if leases.clone().any(|lease| lease == address) {
            Source::Lease
        } else {
            Source::Agent
        },
        card: 0,
    };
    Ok(named.into_iter().chain(more).map(told).collect())
}

pub(super) fn adopt(call: &Call<'_>, set: &Label, from: StoreId, to: StoreId) -> Result<usize> {
    let looking = format!("looking for instances of {set}");
    let theirs: Vec<String> = call.look(&looking, |m| {
        let notes = m
            .domains
            .values()
            .filter_map(|d| Some((&d.name, d.meta.as_ref()?)));
        let theirs = notes.filter(|(_, meta)| &meta.set == set && meta.store == from);
        Ok(theirs.map(|(name, _)| name.clone()).collect())
    })?;
    for name in &theirs {
        call.step(Stage::Define, &format!("adopt {name}"), |m| {
            if let Some(meta) = m.domains.get_mut(name).and_then(|d| d.meta.as_mut()) {
                meta.store = to;
            }
            Ok(())
        })?;
    }
    Ok(theirs.len())
}

pub(super) fn check(machine: &Machine, model: &Model, pool: &str) -> Vec<Finding> {
    let mut findings = vec![Finding {
        what: format!("pool {pool}"),
        result: if machine.pool_fault().is_some() {
            let remedy =
                format!("`virsh pool-start {pool}`, and `virsh pool-autostart {pool}` for the next boot");
            problem("it is not active", &remedy)
        } else if machine.pool_free() > model.image.file_size {
            Ok(format!("{} free", machine.pool_free()))
        } else {
            problem("it is full", "make room, or use another pool")
        },
    }];
    for nic in &model.networks {
        let (kind, name) = match &nic.source {
            NicSource::Bridge(name) => ("bridge", name),
            NicSource::Network(name) => ("network", name),
        };
        findings.push(Finding {
            what: format!("{kind} {name}"),
            result: if machine.made_of.lacks.contains(name) {
                problem("it is not there", "make it, or name another in instance.networks")
            } else {
                Ok("there".to_owned())
            },
        });
    }
    let needs_kvm = model.virtualization == Virtualization::Kvm;
    findings.push(Finding {
        what: "virtualization".to_owned(),
        result: match machine.made_of.kvm {
            true => Ok("KVM".to_owned()),
            false if needs_kvm => problem("no KVM", "switch on virtualization in its firmware"),
            false => Ok("emulation".to_owned()),
        },
    });
    findings
}

pub(super) fn problem(problem: &str, remedy: &str) -> std::result::Result<String, Problem> {
    Err(Problem {
        problem: problem.to_owned(),
        remedy: remedy.to_owned(),
    })
}
