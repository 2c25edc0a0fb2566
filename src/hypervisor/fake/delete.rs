//! Deleting: mark, shut down, switch off, volumes, and last the domain.

use std::time::Duration;

use uuid::Uuid;

use super::call::{Call, Result};

use super::machine::is_copy_name;
use super::owned::{owned, renote};
use super::power;
use crate::hypervisor::{FaultKind, HypervisorError, Stage, Uses};
use crate::inventory::Phase;
use crate::names::volume_name;
use crate::plan::action::InstanceRef;

pub(super) fn delete(call: &Call<'_>, instance: &InstanceRef, patience: Duration, uses: &Uses) -> Result<()> {
    let name = &instance.name;
    let looking = format!("looking for domain {name}");
    let doing = format!("deleting {name}");
    let found = call.look(&looking, |m| {
        Ok(owned(m, instance, &looking)?.map(|(_, meta)| meta.clone()))
    })?;
    let Some(meta) = found else { return Ok(()) };
    // The note was written by vmss, but by whom may it have been edited since? Only names that prove themselves; those
    // of an adopted instance do so by the UUID, which never changes.
    let stem = volume_name(&instance.set, instance.id, instance.uuid, "", "");
    let stem = stem.trim_end_matches('.');
    let own: Vec<&String> = meta.volumes.iter().filter(|v| v.starts_with(stem)).collect();
    for volume in &own {
        clears(uses, volume, Some(instance.uuid), &doing)?;
    }
    if meta.phase != Phase::Deleting {
        call.step(Stage::Define, &format!("mark {name} as being deleted"), |m| {
            renote(m, instance, &doing, |meta| meta.phase = Phase::Deleting)
        })?;
    }
    power::off(call, instance, patience, &doing)?;
    call.stage(Stage::DeleteDisks);
    for volume in own {
        remove(call, volume)?;
    }
    call.stage(Stage::Undefine);
    if call.look(&looking, |m| Ok(m.by_uuid(instance.uuid).is_none()))? {
        return Ok(());
    }
    call.step(Stage::Undefine, &format!("undefine {name}"), |m| {
        m.domains.retain(|_, d| d.uuid != instance.uuid);
        Ok(())
    })
}

pub(super) fn drop_copy(call: &Call<'_>, instance: &InstanceRef, shutdown: Duration) -> Result<()> {
    let name = &instance.name;
    let looking = format!("looking for domain {name}");
    let is_there = |m: &_| Ok(owned(m, instance, &looking)?.is_some());
    if !call.look(&looking, is_there)? {
        return Ok(());
    }
    power::off(call, instance, shutdown, &format!("dropping the copy of {name}"))?;
    call.stage(Stage::Undefine);
    call.step(Stage::Undefine, &format!("undefine {name}"), |m| {
        owned(m, instance, &looking)?;
        m.domains.retain(|_, d| d.uuid != instance.uuid);
        Ok(())
    })
}

pub(super) fn remove(call: &Call<'_>, volume: &str) -> Result<()> {
    let doing = format!("delete volume {volume}");
    if call.look(&doing, |m| Ok(!m.volumes.contains_key(volume)))? {
        return Ok(());
    }
    call.step(Stage::DeleteDisks, &doing, |m| {
        m.volumes.remove(volume);
        Ok(())
    })
}

/// Whether nobody but a domain of that UUID uses the volume.
pub(super) fn clears(uses: &Uses, volume: &str, own: Option<Uuid>, doing: &str) -> Result<()> {
    match uses.speaks_against(volume, own) {
        None => Ok(()),
        Some(why) => {
            let text = format!("{why}: nothing was deleted");
            Err(HypervisorError::new(FaultKind::InUse, doing, text))
        }
    }
}

pub(super) fn delete_volume(call: &Call<'_>, volume: &str, uses: &Uses) -> Result<()> {
    if is_copy_name(volume) {
        return Err(HypervisorError::new(
            FaultKind::NotOurs,
            format!("deleting volume {volume}"),
            "it is an image; it was left untouched",
        ));
    }
    clears(uses, volume, None, &format!("deleting volume {volume}"))?;
    remove(call, volume)
}
