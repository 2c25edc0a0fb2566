//! Changing an instance in place: the steps that [`crate::hypervisor::Hypervisor::rework`] promises, in its order.

use std::time::Duration;

use super::call::{Call, Result};
use super::create::{base, fits, redefine};
use super::delete::{clears, remove};
use super::images::refuse_unsound;
use super::owned::{in_phase, renote};
use super::power;
use super::volumes::{Seed, disks, grow, make_disk, owned_volumes, seed, write_seed};
use crate::hypervisor::{FaultKind, HypervisorError, Stage, Uses};
use crate::inventory::{Metadata, Phase, Rework};
use crate::model::Model;
use crate::plan::action::InstanceSpec;

pub(super) fn rework(
    call: &Call<'_>,
    (spec, model): (&InstanceSpec, &Model),
    (how, patience): (Rework, Duration),
    uses: &Uses,
) -> Result<()> {
    let name = spec.name();
    let doing = format!("changing {name}");
    call.stage(Stage::Define);
    let instance = spec.reference();
    let changeable = [Phase::Ready, Phase::Changing];
    let before = in_phase(call, &instance, &changeable, &doing)?;
    let how = before.rework.map_or(how, |begun| begun.max(how));
    let spec = &spec.again(&before);
    let seed = seed(spec, model);
    let needed = owned_volumes(spec, model, &seed);
    if before.phase == Phase::Ready {
        let os = &disks(spec, model)[0].0;
        let is_kept =
            |v: &&String| needed.contains(v) && **v != seed.volume && !(how == Rework::Reimage && *v == os);
        call.refresh(&doing)?;
        call.look(&doing, |m| {
            let gone = before
                .volumes
                .iter()
                .filter(is_kept)
                .find(|v| !m.volumes.contains_key(*v));
            match gone {
                None => Ok(()),
                Some(volume) => {
                    let text = format!("its volume {volume} is not in the pool: nothing was changed");
                    Err(HypervisorError::new(FaultKind::Missing, &doing, text))
                }
            }
        })?;
    }
    let note = spec.note_of(&before, needed.clone(), how);
    let set_note = |to: &Metadata, doing: &str| {
        call.last_step(Stage::Define, doing, |m| {
            renote(m, &instance, doing, |meta| *meta = to.clone())
        })
    };
    call.safe_point(&doing)?;
    set_note(&note, &format!("note the change of {name}"))?;
    let proof = (uses, &*note.volumes);
    let is_reimaged = match prepare(call, spec, model, &seed, how, proof) {
        Ok(is_reimaged) => is_reimaged,
        Err(error) => {
            if error.kind != FaultKind::Unreachable {
                let _ = set_note(&before, &format!("note {name} as it was"));
            }
            return Err(error);
        }
    };
    call.safe_point(&doing)?;
    if how != Rework::Live {
        power::off(call, &instance, patience, &doing)?;
    }
    call.stage(Stage::Disks);
    for (i, (volume, size)) in disks(spec, model).into_iter().enumerate() {
        let there = call.look(&doing, |m| Ok(m.volumes.get(&volume).map(|v| v.size)))?;
        let is_made = there.is_none() || (i == 0 && is_reimaged);
        if is_made {
            call.step(Stage::Disks, &format!("make volume {volume}"), |m| {
                make_disk(m, spec, model, i, &volume, size)
            })?;
        } else if there < Some(size) {
            call.step(Stage::Disks, &format!("grow volume {volume}"), |m| {
                grow(m, &volume, size)
            })?;
        }
    }
    call.stage(Stage::Seed);
    write_seed(call, spec, &seed)?;
    call.safe_point(&doing)?;
    // One that was stopped on purpose is changed and stays off.
    if how != Rework::Live && !note.stopped {
        power::power_on(call, spec, model)?;
    }
    // The guest of a live change may still have open what its next start will not need: that stays its own.
    let (kept, gone) = match how {
        Rework::Live => (note.volumes, Vec::new()),
        _ => {
            let gone = (note.volumes.into_iter())
                .filter(|v| !needed.contains(v))
                .collect();
            (needed, gone)
        }
    };
    if !gone.is_empty() {
        call.stage(Stage::DeleteDisks);
    }
    for volume in &gone {
        remove(call, volume)?;
    }
    let marking = format!("mark {name} as ready");
    call.last_step(Stage::Start, &marking, |m| {
        renote(m, &instance, &marking, |meta| {
            meta.volumes = kept;
            meta.phase = Phase::Ready;
            meta.rework = None;
        })?;
        if let Some(domain) = m.by_uuid_mut(instance.uuid) {
            domain.unopened.clear();
        }
        Ok(())
    })
}

/// Whatever can be refused while the guest still runs. Whether the OS disk is made anew: for a reimage, and where it is
/// missing.
fn prepare(
    call: &Call<'_>,
    spec: &InstanceSpec,
    model: &Model,
    seed: &Seed,
    how: Rework,
    (uses, owned): (&Uses, &[String]),
) -> Result<bool> {
    let name = spec.name();
    let doing = format!("changing {name}");
    let os = disks(spec, model).swap_remove(0).0;
    let needed = owned_volumes(spec, model, seed);
    let is_lost =
        |v: &&String| how != Rework::Live && (!needed.contains(v) || **v == os && how == Rework::Reimage);
    for volume in owned.iter().filter(is_lost) {
        clears(uses, volume, Some(spec.uuid), &doing)?;
    }
    let is_made = call.look(&doing, |m| {
        let is_made = match how {
            Rework::Live => false,
            Rework::Restart => !m.volumes.contains_key(&os),
            Rework::Reimage => true,
        };
        if is_made {
            base(m, spec, &doing)?;
        }
        Ok(is_made)
    })?;
    if is_made {
        refuse_unsound(call, &spec.image, spec.store)?;
    }
    call.step(Stage::Define, &format!("define {name} anew"), |m| {
        fits(m, spec, model)?;
        redefine(m, spec, model, seed);
        Ok(())
    })?;
    Ok(is_made)
}
