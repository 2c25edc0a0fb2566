//! Deleting: mark, shut down, switch off, volumes, and last the domain.

use std::time::Duration;

use super::call::{Call, Result};
use super::create::owned;
use super::machine::is_copy_name;
use crate::hypervisor::{FaultKind, HypervisorError, Stage};
use crate::inventory::{Phase, Power};
use crate::names::volume_name;
use crate::plan::action::InstanceRef;

/// How often a guest is asked again.
const ASK: Duration = Duration::from_secs(10);

pub(super) fn delete(call: &Call<'_>, instance: &InstanceRef, patience: Duration) -> Result<()> {
    let name = &instance.name;
    let looking = format!("looking for domain {name}");
    let found = call.look(&looking, |m| {
        Ok(owned(m, instance, &looking)?.map(|(_, meta)| meta.clone()))
    })?;
    let Some(meta) = found else { return Ok(()) };
    let domain_is_active = || {
        call.look(&looking, |m| {
            Ok(m.by_uuid(instance.uuid).is_some_and(|d| d.is_active()))
        })
    };
    if meta.phase != Phase::Deleting {
        call.step(Stage::Define, &format!("mark {name} as being deleted"), |m| {
            if let Some(meta) = m.by_uuid_mut(instance.uuid).and_then(|d| d.meta.as_mut()) {
                meta.phase = Phase::Deleting;
            }
            Ok(())
        })?;
    }
    if !patience.is_zero() && domain_is_active()? {
        call.stage(Stage::ShutDown);
        shut_down(call, instance, patience)?;
    }
    call.safe_point(&format!("deleting {name}"))?;
    call.stage(Stage::Destroy);
    if domain_is_active()? {
        call.step(Stage::Destroy, &format!("switch off {name}"), |m| {
            if let Some(domain) = m.by_uuid_mut(instance.uuid) {
                domain.power = Power::Off;
            }
            Ok(())
        })?;
    }
    call.stage(Stage::DeleteDisks);
    // The note was written by vmss, but by whom may it have been edited since? Only names that prove themselves; those
    // of an adopted instance do so by the UUID, which never changes.
    let stem = volume_name(&instance.set, instance.id, instance.uuid, "", "");
    let stem = stem.trim_end_matches('.');
    for volume in meta.volumes.iter().filter(|v| v.starts_with(stem)) {
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

fn shut_down(call: &Call<'_>, instance: &InstanceRef, patience: Duration) -> Result<()> {
    let name = &instance.name;
    let doing = format!("ask {name} to shut down");
    let mut waited = Duration::ZERO;
    while waited < patience {
        // A guest that has heard goes off by itself, whatever becomes of who asked.
        call.step(Stage::ShutDown, &doing, |m| {
            let is_deaf = m.faults.is_deaf(instance.id);
            if let Some(domain) = m.by_uuid_mut(instance.uuid)
                && domain.power == Power::Running
                && !is_deaf
            {
                domain.power = Power::ShuttingDown;
            }
            Ok(())
        })?;
        let (heard, takes) = call.look(&doing, |m| {
            let power = m.by_uuid(instance.uuid).map(|d| d.power);
            let heard = matches!(power, None | Some(Power::ShuttingDown));
            Ok((heard, m.made_of.shutdown_takes))
        })?;
        let left = patience.saturating_sub(waited);
        if heard {
            call.pass(takes.min(left));
            if takes <= left {
                call.guest(&doing, |m| {
                    if let Some(domain) = m.by_uuid_mut(instance.uuid) {
                        domain.power = Power::Off;
                    }
                })?;
            }
            return Ok(());
        }
        call.pass(ASK.min(left));
        waited += ASK.min(left);
    }
    Ok(())
}

fn remove(call: &Call<'_>, volume: &str) -> Result<()> {
    let doing = format!("delete volume {volume}");
    if call.look(&doing, |m| Ok(!m.volumes.contains_key(volume)))? {
        return Ok(());
    }
    call.step(Stage::DeleteDisks, &doing, |m| {
        m.volumes.remove(volume);
        Ok(())
    })
}

pub(super) fn delete_volume(call: &Call<'_>, volume: &str) -> Result<()> {
    if is_copy_name(volume) {
        return Err(HypervisorError::new(
            FaultKind::NotOurs,
            format!("deleting volume {volume}"),
            "it is an image; it was left untouched",
        ));
    }
    remove(call, volume)
}
