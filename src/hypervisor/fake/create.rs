//! Making an instance: the steps that [`crate::hypervisor::Hypervisor::create`] promises, in its order.

use std::net::Ipv4Addr;

use jiff::Timestamp;

use super::call::{Call, Result};
use super::images::refuse_unsound;
use super::machine::{Domain, Machine};
use super::owned::{not_moving, not_ours, owned, renote, there};
use super::power::{power_on, set_power};
use super::volumes::{Seed, disks, make_disk, owned_volumes, seed, write_seed};
use crate::hypervisor::{FaultKind, HypervisorError, Stage};
use crate::inventory::{Phase, Power};
use crate::model::{Model, Virtualization};
use crate::names::InstanceId;
use crate::plan::action::InstanceSpec;

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
    let mut is_new = false;
    match call.look(&looking, |m| existing(m, spec, &looking))? {
        Found::Whole => return finish(call, spec, model),
        Found::Half { runs: true } => call.step(Stage::Destroy, &format!("switch off {name}"), |m| {
            set_power(m, spec.uuid, Power::Off);
            Ok(())
        })?,
        Found::Half { runs: false } => {}
        Found::Nothing => is_new = true,
    }
    call.step(Stage::Define, &format!("define {name}"), |m| {
        define(m, spec, model, &seed)
    })?;
    if let Err(error) = refuse_unsound(call, &spec.image, spec.store) {
        if is_new {
            // Nothing was made yet that its note would have to tell of.
            call.step(Stage::Undefine, &format!("undefine {name}"), |m| {
                m.domains.remove(&name);
                Ok(())
            })?;
        }
        return Err(error);
    }
    call.stage(Stage::Disks);
    for (i, (volume, size)) in disks(spec, model).into_iter().enumerate() {
        call.step(Stage::Disks, &format!("make volume {volume}"), |m| {
            make_disk(m, spec, model, i, &volume, size)
        })?;
    }
    call.stage(Stage::Seed);
    write_seed(call, spec, &seed)?;
    finish(call, spec, model)
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
    not_moving(meta, doing)?;
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

/// The volume of the image's copy that disks are made of.
pub(super) fn base<'m>(machine: &'m Machine, spec: &InstanceSpec, doing: &str) -> Result<&'m str> {
    machine.whole_copy(&spec.image, spec.store).ok_or_else(|| {
        HypervisorError::new(
            FaultKind::Missing,
            doing,
            format!("image {} is not whole in the pool", spec.image.short()),
        )
    })
}

/// Whether the host can run such a domain.
pub(super) fn fits(machine: &Machine, spec: &InstanceSpec, model: &Model) -> Result<()> {
    if model.virtualization != Virtualization::Kvm || machine.made_of.kvm {
        return Ok(());
    }
    Err(HypervisorError::new(
        FaultKind::Unsupported,
        format!("defining domain {}", spec.name()),
        "the host offers no hardware virtualisation (KVM)",
    ))
}

fn define(machine: &mut Machine, spec: &InstanceSpec, model: &Model, seed: &Seed) -> Result<()> {
    let name = spec.name();
    base(machine, spec, &format!("creating {name}"))?;
    fits(machine, spec, model)?;
    let domain = Domain {
        name: name.clone(),
        uuid: spec.uuid,
        power: Power::Off,
        vcpus: model.vcpus,
        memory: model.memory,
        meta: Some(spec.metadata(owned_volumes(spec, model, seed))),
        macs: Vec::new(),
        leases: Vec::new(),
        names: Vec::new(),
        disks: Vec::new(),
        started_at: Timestamp::default(),
        console: String::new(),
        unhealthy: false,
        agent: Default::default(),
        held: Vec::new(),
        unopened: Vec::new(),
        meter: Default::default(),
    };
    machine.domains.insert(name, domain);
    redefine(machine, spec, model, seed);
    Ok(())
}

/// Gives the domain what its model says.
pub(super) fn redefine(machine: &mut Machine, spec: &InstanceSpec, model: &Model, seed: &Seed) {
    let Some(domain) = machine.by_uuid_mut(spec.uuid) else {
        return;
    };
    domain.vcpus = model.vcpus;
    domain.memory = model.memory;
    domain.macs.clone_from(&spec.macs);
    domain.leases = (0u32..)
        .zip(&spec.addresses)
        .filter(|(_, given)| given.is_none())
        .map(|(card, _)| lease(spec.id, card))
        .collect();
    let disks = disks(spec, model).into_iter().map(|(volume, _)| volume);
    let before = std::mem::replace(&mut domain.disks, disks.chain([seed.volume.clone()]).collect());
    if domain.is_active() {
        let added = domain.disks.iter().filter(|v| !before.contains(v));
        domain.unopened.extend(added.cloned());
        let dropped = before.into_iter().filter(|v| !domain.disks.contains(v));
        domain.held.extend(dropped);
    }
}

/// The address that the network gives to a card: follows from the id, so that no run differs from another.
fn lease(id: InstanceId, card: u32) -> Ipv4Addr {
    let low = u32::try_from(id.0 & 0x00ff_ffff).unwrap_or(0);
    let ten = u32::from(Ipv4Addr::new(10, 0, 0, 0));
    Ipv4Addr::from(ten | (low.wrapping_mul(8).wrapping_add(card) & 0x00ff_ffff))
}

/// Starts the domain unless it runs, and marks it ready.
fn finish(call: &Call<'_>, spec: &InstanceSpec, model: &Model) -> Result<()> {
    let name = spec.name();
    let marking = format!("mark {name} as ready");
    let instance = spec.reference();
    // What an operator has stopped is whole, and stays off until it is started.
    if !there(call, &instance, &marking)?.stopped {
        power_on(call, spec, model)?;
    }
    if there(call, &instance, &marking)?.phase == Phase::Ready {
        return Ok(());
    }
    call.last_step(Stage::Start, &marking, |m| {
        renote(m, &instance, &marking, |meta| meta.phase = Phase::Ready)
    })
}
