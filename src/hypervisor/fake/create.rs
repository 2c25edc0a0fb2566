//! Making an instance, and starting one: the steps that [`crate::hypervisor::Hypervisor::create`] promises, in its order.

use std::net::Ipv4Addr;

use uuid::Uuid;

use super::call::{Call, Result};
use super::machine::{Content, Domain, Machine};
use super::volumes::{Seed, THIN, disks, make, seed, write_seed};
use crate::hypervisor::{FaultKind, HypervisorError, Stage};
use crate::inventory::{Metadata, Phase, Power};
use crate::model::{Clone as CloneMode, Model, NicSource, Virtualization};
use crate::names::InstanceId;
use crate::plan::action::{InstanceRef, InstanceSpec};

/// What there is of an instance before it is made.
enum Found {
    Nothing,
    /// An interrupted attempt: everything is made anew, and what it left running is switched off first.
    Half {
        runs: bool,
    },
    /// Nothing but the start or the last mark can be missing.
    Whole,
}

pub(super) fn create(call: &Call<'_>, spec: &InstanceSpec, model: &Model) -> Result<()> {
    let name = spec.name();
    let looking = format!("looking for domain {name}");
    call.stage(Stage::Define);
    let seed = seed(spec, model);
    match call.look(&looking, |m| existing(m, spec, &looking))? {
        Found::Whole => return power_on(call, spec, model),
        Found::Half { runs: true } => call.step(Stage::Destroy, &format!("switch off {name}"), |m| {
            set_power(m, spec.uuid, Power::Off);
            Ok(())
        })?,
        Found::Half { runs: false } | Found::Nothing => {}
    }
    call.step(Stage::Define, &format!("define {name}"), |m| {
        define(m, spec, model, &seed)
    })?;
    call.stage(Stage::Disks);
    for (i, (volume, size)) in disks(spec, model).into_iter().enumerate() {
        call.step(Stage::Disks, &format!("make volume {volume}"), |m| {
            // Another store's prune may have taken the image since it was last looked for.
            let base = base(m, spec)?.to_owned();
            let (allocation, backing) = match model.clone {
                CloneMode::Full if i == 0 => (size, None),
                CloneMode::Linked if i == 0 => (THIN, Some(base)),
                _ => (THIN, None),
            };
            make(m, volume.clone(), allocation, Content::Disk, backing)
        })?;
    }
    call.stage(Stage::Seed);
    write_seed(call, spec, &seed)?;
    power_on(call, spec, model)
}

fn existing(machine: &Machine, spec: &InstanceSpec, doing: &str) -> Result<Found> {
    let Some(domain) = owned(machine, &spec.reference(), doing)? else {
        if machine.domains.contains_key(&spec.name()) {
            return Err(not_ours(
                doing,
                "a domain of that name is there and isn't this instance",
            ));
        }
        return Ok(Found::Nothing);
    };
    let (domain, meta) = domain;
    let busy = |how: &str| {
        let text = format!("an instance of that name is being {how}");
        HypervisorError::new(FaultKind::Other, doing, text)
    };
    match meta.phase {
        Phase::Ready => Ok(Found::Whole),
        Phase::Creating if domain.is_active() && meta.model_hash == spec.model_hash => Ok(Found::Whole),
        Phase::Creating => Ok(Found::Half {
            runs: domain.is_active(),
        }),
        Phase::Changing => Err(busy("changed")),
        Phase::Deleting => Err(busy("deleted")),
    }
}

/// The instance's domain, proved to be its; `None` if it is gone.
pub(super) fn owned<'m>(
    machine: &'m Machine,
    instance: &InstanceRef,
    doing: &str,
) -> Result<Option<(&'m Domain, &'m Metadata)>> {
    let Some(domain) = machine.by_uuid(instance.uuid) else {
        return Ok(None);
    };
    let is_named = |m: &&Metadata| {
        (&m.set, m.store, m.id) == (&instance.set, instance.store, instance.id)
            && domain.name == instance.name
    };
    match domain.meta.as_ref().filter(is_named) {
        Some(meta) => Ok(Some((domain, meta))),
        None => Err(not_ours(
            doing,
            "the domain with its UUID says that it is somebody else's",
        )),
    }
}

pub(super) fn not_ours(doing: &str, why: &str) -> HypervisorError {
    HypervisorError::new(FaultKind::NotOurs, doing, format!("{why}; it was left untouched"))
}

fn base<'m>(machine: &'m Machine, spec: &InstanceSpec) -> Result<&'m str> {
    machine.whole_copy(&spec.image, spec.store).ok_or_else(|| {
        HypervisorError::new(
            FaultKind::Missing,
            format!("creating {}", spec.name()),
            format!("image {} is not whole in the pool", spec.image.short()),
        )
    })
}

fn define(machine: &mut Machine, spec: &InstanceSpec, model: &Model, seed: &Seed) -> Result<()> {
    let name = spec.name();
    base(machine, spec)?;
    if model.virtualization == Virtualization::Kvm && !machine.made_of.kvm {
        return Err(HypervisorError::new(
            FaultKind::Unsupported,
            format!("defining domain {name}"),
            "the host offers no hardware virtualisation (KVM)",
        ));
    }
    let mut volumes: Vec<String> = disks(spec, model).into_iter().map(|(volume, _)| volume).collect();
    if !seed.is_shared {
        volumes.push(seed.volume.clone());
    }
    let domain = Domain {
        name: name.clone(),
        uuid: spec.uuid,
        power: Power::Off,
        vcpus: model.vcpus,
        memory: model.memory,
        meta: Some(spec.metadata(volumes)),
        macs: spec.macs.clone(),
        leases: (0u32..)
            .zip(&spec.addresses)
            .filter(|(_, given)| given.is_none())
            .map(|(card, _)| lease(spec.id, card))
            .collect(),
    };
    machine.domains.insert(name, domain);
    Ok(())
}

/// The address that the network gives to a card: follows from the id, so that no run differs from another.
fn lease(id: InstanceId, card: u32) -> Ipv4Addr {
    let low = u32::try_from(id.0 & 0x00ff_ffff).unwrap_or(0);
    let ten = u32::from(Ipv4Addr::new(10, 0, 0, 0));
    Ipv4Addr::from(ten | (low.wrapping_mul(8).wrapping_add(card) & 0x00ff_ffff))
}

fn set_power(machine: &mut Machine, uuid: Uuid, power: Power) {
    if let Some(domain) = machine.by_uuid_mut(uuid) {
        domain.power = power;
    }
}

fn power_on(call: &Call<'_>, spec: &InstanceSpec, model: &Model) -> Result<()> {
    let name = spec.name();
    call.stage(Stage::Start);
    let missing = |m: &Machine| {
        let sources = model.networks.iter().map(|n| match &n.source {
            NicSource::Bridge(name) | NicSource::Network(name) => name,
        });
        sources
            .into_iter()
            .find(|s| m.made_of.lacks.contains(*s))
            .cloned()
    };
    if let Some(network) = call.look(&format!("starting domain {name}"), |m| Ok(missing(m)))? {
        return Err(HypervisorError::new(
            FaultKind::Missing,
            format!("starting domain {name}"),
            format!("network {network} is not there"),
        ));
    }
    boot(call, &spec.reference())?;
    let marking = format!("mark {name} as ready");
    let phase = call.look(&marking, |m| {
        Ok(owned(m, &spec.reference(), &marking)?.map(|(_, meta)| meta.phase))
    })?;
    if phase == Some(Phase::Ready) {
        return Ok(());
    }
    call.last_step(Stage::Start, &marking, |m| {
        let meta = m.by_uuid_mut(spec.uuid).and_then(|d| d.meta.as_mut());
        meta.ok_or_else(|| missing_instance(&marking))?.phase = Phase::Ready;
        Ok(())
    })
}

fn missing_instance(doing: &str) -> HypervisorError {
    HypervisorError::new(FaultKind::Missing, doing, "the instance is not there")
}

/// Switches its domain on, unless it is.
fn boot(call: &Call<'_>, instance: &InstanceRef) -> Result<()> {
    let doing = format!("start {}", instance.name);
    let is_active = call.look(&doing, |m| match owned(m, instance, &doing)? {
        Some((domain, _)) => Ok(domain.is_active()),
        None => Err(missing_instance(&doing)),
    })?;
    if is_active {
        return Ok(());
    }
    call.step(Stage::Start, &doing, |m| {
        let lost = |m: &Machine, v: &String| !m.volumes.contains_key(v);
        let volumes = owned(m, instance, &doing)?.map(|(_, meta)| meta.volumes.clone());
        let volumes = volumes.ok_or_else(|| missing_instance(&doing))?;
        if let Some(volume) = volumes.iter().find(|v| lost(m, v)) {
            return Err(HypervisorError::new(
                FaultKind::Missing,
                &doing,
                format!("volume {volume} is not there"),
            ));
        }
        set_power(m, instance.uuid, Power::Running);
        Ok(())
    })
}

pub(super) fn start(call: &Call<'_>, instance: &InstanceRef) -> Result<()> {
    let doing = format!("start {}", instance.name);
    let phase = call.look(&doing, |m| {
        Ok(owned(m, instance, &doing)?.map(|(_, meta)| meta.phase))
    })?;
    if phase.is_some_and(|p| p != Phase::Ready) {
        // Once it ran, a create that goes on would take it for whole.
        let why = "the instance is half made or half deleted";
        return Err(HypervisorError::new(FaultKind::Other, doing, why));
    }
    boot(call, instance)
}
