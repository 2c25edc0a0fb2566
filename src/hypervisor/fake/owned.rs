//! Which domain is ours, and what its note says.

use super::call::{Call, Result};
use super::machine::{Domain, Machine};
use crate::hypervisor::{FaultKind, HypervisorError, Stage};
use crate::inventory::{Metadata, Phase, Protection};
use crate::names::Label;
use crate::plan::action::InstanceRef;

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

pub(super) fn missing(doing: &str) -> HypervisorError {
    HypervisorError::new(FaultKind::Missing, doing, "the instance is not there")
}

/// The note of the instance, which must be there.
pub(super) fn there(call: &Call<'_>, instance: &InstanceRef, doing: &str) -> Result<Metadata> {
    call.look(doing, |m| match owned(m, instance, doing)? {
        Some((_, meta)) => Ok(meta.clone()),
        None => Err(missing(doing)),
    })
}

/// The note of the instance, which must be there and in one of `phases`.
pub(super) fn in_phase(
    call: &Call<'_>,
    instance: &InstanceRef,
    phases: &[Phase],
    doing: &str,
) -> Result<Metadata> {
    let meta = there(call, instance, doing)?;
    not_moving(&meta, doing)?;
    let how = match meta.phase {
        phase if phases.contains(&phase) => return Ok(meta),
        Phase::Creating => "half made",
        Phase::Ready => "whole",
        Phase::Changing => "half changed",
        Phase::Deleting => "half deleted",
    };
    let text = format!("the instance is {how}");
    Err(HypervisorError::new(FaultKind::Other, doing, text))
}

/// One that is between two hosts may run on the other one already.
pub(super) fn not_moving(note: &Metadata, doing: &str) -> Result<()> {
    match &note.moving_to {
        None => Ok(()),
        Some(host) => {
            let text = format!("the instance is being moved to host {host}");
            Err(HypervisorError::new(FaultKind::Other, doing, text))
        }
    }
}

/// Changes the instance's note within a step.
pub(super) fn renote(
    machine: &mut Machine,
    instance: &InstanceRef,
    doing: &str,
    change: impl FnOnce(&mut Metadata),
) -> Result<()> {
    owned(machine, instance, doing)?;
    let meta = (machine.by_uuid_mut(instance.uuid)).and_then(|d| d.meta.as_mut());
    let meta = meta.ok_or_else(|| missing(doing))?;
    change(meta);
    meta.epoch = Some(instance.epoch);
    Ok(())
}

/// Brings a note level with the record.
pub(super) fn level(
    call: &Call<'_>,
    instance: &InstanceRef,
    host: &Label,
    fault_domain: &Label,
) -> Result<()> {
    let doing = format!("note {} again", instance.name);
    there(call, instance, &doing)?;
    call.step(Stage::Define, &doing, |m| {
        renote(m, instance, &doing, |meta| {
            meta.moving_to = None;
            (meta.host, meta.fault_domain) = (host.clone(), fault_domain.clone());
            if matches!(meta.phase, Phase::Creating | Phase::Deleting) {
                meta.phase = Phase::Ready;
            }
        })
    })
}

pub(super) fn protect(call: &Call<'_>, instance: &InstanceRef, protection: Protection) -> Result<()> {
    let doing = format!("note the protection of {}", instance.name);
    if there(call, instance, &doing)?.protection == protection {
        return Ok(());
    }
    call.step(Stage::Define, &doing, |m| {
        renote(m, instance, &doing, |meta| meta.protection = protection)
    })
}
