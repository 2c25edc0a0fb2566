//! On and off: guests are asked before they are switched off, and what an operator stopped says so.

use std::time::Duration;

use uuid::Uuid;

use super::call::{Call, Result};
use super::machine::Machine;
use super::owned::{in_phase, missing, owned, renote};
use crate::hypervisor::{FaultKind, HypervisorError, Stage};
use crate::inventory::{Phase, Power};
use crate::model::{Model, NicSource};
use crate::plan::action::{InstanceRef, InstanceSpec};

/// How often a guest is asked again.
const ASK: Duration = Duration::from_secs(10);

pub(super) fn set_power(machine: &mut Machine, uuid: Uuid, power: Power) {
    if let Some(domain) = machine.by_uuid_mut(uuid) {
        domain.power = power;
    }
}

/// Asks the guest to shut down and switches it off after `patience`; at once if that is zero.
pub(super) fn off(call: &Call<'_>, instance: &InstanceRef, patience: Duration, doing: &str) -> Result<()> {
    let is_active = || {
        call.look(doing, |m| {
            Ok(m.by_uuid(instance.uuid).is_some_and(|d| d.is_active()))
        })
    };
    if !patience.is_zero() && is_active()? {
        call.stage(Stage::ShutDown);
        shut_down(call, instance, patience)?;
    }
    call.safe_point(doing)?;
    call.stage(Stage::Destroy);
    if is_active()? {
        call.step(Stage::Destroy, &format!("switch off {}", instance.name), |m| {
            set_power(m, instance.uuid, Power::Off);
            Ok(())
        })?;
    }
    Ok(())
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
                call.guest(&doing, |m| set_power(m, instance.uuid, Power::Off))?;
            }
            return Ok(());
        }
        call.pass(ASK.min(left));
        waited += ASK.min(left);
    }
    Ok(())
}

/// Switches an instance on as its model wants it, unless it is.
pub(super) fn power_on(call: &Call<'_>, spec: &InstanceSpec, model: &Model) -> Result<()> {
    call.stage(Stage::Start);
    let doing = format!("starting domain {}", spec.name());
    let lacks = |m: &Machine| {
        let mut sources = model.networks.iter().map(|n| match &n.source {
            NicSource::Bridge(name) | NicSource::Network(name) => name,
        });
        sources.find(|s| m.made_of.lacks.contains(*s)).cloned()
    };
    if let Some(network) = call.look(&doing, |m| Ok(lacks(m)))? {
        let text = format!("network {network} is not there");
        return Err(HypervisorError::new(FaultKind::Missing, doing, text));
    }
    boot(call, &spec.reference())
}

/// Switches its domain on, unless it is.
fn boot(call: &Call<'_>, instance: &InstanceRef) -> Result<()> {
    let doing = format!("start {}", instance.name);
    let is_active = call.look(&doing, |m| match owned(m, instance, &doing)? {
        Some((domain, _)) => Ok(domain.is_active()),
        None => Err(missing(&doing)),
    })?;
    if is_active {
        return Ok(());
    }
    let now = call.now();
    // QEMU opens the files, whatever the daemon knows of their pool.
    call.look_at_fleet(&doing, |state, m| {
        let (domain, _) = owned(m, instance, &doing)?.ok_or_else(|| missing(&doing))?;
        match domain.disks.iter().find(|v| !state.is_file(m, v)) {
            None => Ok(()),
            Some(volume) => {
                let text = format!("volume {volume} is not there");
                Err(HypervisorError::new(FaultKind::Missing, &doing, text))
            }
        }
    })?;
    call.step(Stage::Start, &doing, |m| {
        owned(m, instance, &doing)?.ok_or_else(|| missing(&doing))?;
        if let Some(domain) = m.by_uuid_mut(instance.uuid) {
            domain.power = Power::Running;
            domain.started_at = now;
            domain.unhealthy = false;
            domain.held.clear();
            domain.unopened.clear();
            domain.agent = Default::default();
            domain.meter = Default::default();
            domain
                .console
                .push_str(&format!("{0} boots\n{0} is up\n", instance.name));
        }
        Ok(())
    })
}

pub(super) fn start(call: &Call<'_>, instance: &InstanceRef) -> Result<()> {
    let doing = format!("start {}", instance.name);
    // A half-made one that runs would be taken for whole by a create that goes on.
    note_stopped(call, instance, false, &doing)?;
    boot(call, instance)
}

pub(super) fn stop(call: &Call<'_>, instance: &InstanceRef, patience: Duration) -> Result<()> {
    let doing = format!("stop {}", instance.name);
    note_stopped(call, instance, true, &doing)?;
    off(call, instance, patience, &doing)
}

pub(super) fn restart(call: &Call<'_>, instance: &InstanceRef, patience: Duration) -> Result<()> {
    let doing = format!("restart {}", instance.name);
    note_stopped(call, instance, false, &doing)?;
    off(call, instance, patience, &doing)?;
    call.stage(Stage::Start);
    boot(call, instance)
}

/// Notes of a whole instance whether it was stopped on purpose, before anything is done about it.
fn note_stopped(call: &Call<'_>, instance: &InstanceRef, stopped: bool, doing: &str) -> Result<()> {
    if in_phase(call, instance, &[Phase::Ready], doing)?.stopped == stopped {
        return Ok(());
    }
    let how = if stopped { "as stopped" } else { "as not stopped" };
    let doing = format!("note {} {how}", instance.name);
    call.step(Stage::Define, &doing, |m| {
        renote(m, instance, &doing, |meta| meta.stopped = stopped)
    })
}
