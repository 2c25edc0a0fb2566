//! Changing an instance in place: note, look, define anew, shut down, disks, seed, start, and last the note that it is
//! whole again.
//!
//! Whatever can be refused is refused before the guest is shut down, and then the old note comes back. From there on
//! the change only goes forward: the note names what the instance is to become and everything it may own by then.

use std::time::Duration;

use super::connection::Session;
use super::domains::{self, own_volumes};
use super::images::Base;
use super::parts::Parts;
use super::volumes::{Pool, Proof};
use super::{Libvirt, power, seeds};
use crate::hypervisor::domain_xml;
use crate::hypervisor::{FaultKind, HypervisorError, Stage, Uses};
use crate::inventory::{Metadata, Phase, Rework};
use crate::model::{Firmware, Model};
use crate::names::volume_part;
use crate::plan::action::InstanceSpec;

/// See [`crate::hypervisor::Hypervisor::rework`].
pub fn rework(
    host: &Libvirt,
    session: &Session<'_>,
    (spec, model): (&InstanceSpec, &Model),
    (how, shutdown): (Rework, Duration),
    uses: &Uses,
) -> Result<(), HypervisorError> {
    let name = spec.name();
    let doing = format!("changing {name}");
    let pool = &Pool::open(session, &host.pool)?;
    pool.active()?;
    session.pulse().stage(Stage::Define);
    session.safe_point(&doing)?;
    let mut owned = domains::changeable(session, &spec.reference(), &doing)?;
    // What was begun may have come as far as to leave no disk: going on with less would find none.
    let how = owned.meta.rework.map_or(how, |begun| begun.max(how));
    let spec = &spec.again(&owned.meta);
    let parts = Parts {
        host,
        pool,
        spec,
        model,
    };
    let before = owned.meta;
    nothing_is_gone(&parts, &before, how, &doing)?;
    owned.meta = spec.note_of(&before, parts.volumes(), how);
    domains::write(session, &owned.domain, &owned.meta)?;
    let proof = &Proof::of_instance(uses, &spec.reference());
    let base = match prepare(&parts, &owned.meta, how, proof, &doing) {
        Ok(base) => base,
        Err(error) => {
            // Nothing was touched yet, and so its note says again. The first error tells more than a second could.
            let _ = domains::write(session, &owned.domain, &before);
            return Err(error);
        }
    };
    session.safe_point(&doing)?;
    if how != Rework::Live {
        power::off(session, &name, &owned.domain, shutdown, &doing)?;
    }
    let is_on = how == Rework::Live && power::is_active(session, &name, &owned.domain)?;
    let running = is_on.then_some(&owned.domain);
    session.safe_point(&doing)?;
    session.pulse().stage(Stage::Disks);
    match &base {
        Some(base) => parts.os_disk(base)?,
        None => {
            parts.grow(&parts.os_volume(), parts.os_size(), running)?;
        }
    }
    for (volume, disk) in domain_xml::data_volumes(spec, model)
        .iter()
        .zip(&model.data_disks)
    {
        session.safe_point(&doing)?;
        if !parts.grow(volume, disk.size, running)? {
            parts.data_disk(volume, disk.size)?;
        }
    }
    session.safe_point(&doing)?;
    session.pulse().stage(Stage::Seed);
    parts.seed()?;
    session.safe_point(&doing)?;
    // One that was stopped on purpose is changed and stays off.
    if how != Rework::Live && !owned.meta.stopped {
        let is_new = base.is_some() && model.firmware == Firmware::Uefi;
        parts.power_on(&mut owned, if is_new { power::AS_NEW } else { power::AFRESH })?;
    }
    settle(&parts, how, proof, &doing)
}

/// Makes sure that every disk is there that a whole instance has and is to keep: somebody has moved or deleted what is not, or the
/// pool is another than it was, and an empty disk, or one made of the image, is not what it was.
fn nothing_is_gone(
    parts: &Parts<'_, '_, '_>,
    before: &Metadata,
    how: Rework,
    doing: &str,
) -> Result<(), HypervisorError> {
    if before.phase != Phase::Ready {
        // It names what it was to have as well.
        return Ok(());
    }
    let os = parts.os_volume();
    let needed = parts.volumes();
    let instance = parts.spec.reference();
    let is_kept = |volume: &&String| {
        let part = volume_part(&instance.set, instance.id, volume);
        let is_made_anew = part == Some("seed") || how == Rework::Reimage && **volume == os;
        needed.contains(volume) && !is_made_anew
    };
    let mut has_looked = false;
    for volume in own_volumes(&instance, before).filter(is_kept) {
        if parts.pool.find(volume)?.is_none() && !std::mem::replace(&mut has_looked, true) {
            parts.pool.refresh();
        }
        if parts.pool.find(volume)?.is_none() {
            let text = format!(
                "its volume {volume} is not in pool {}: nothing was changed",
                parts.pool.name
            );
            return Err(HypervisorError::new(FaultKind::Missing, doing, text));
        }
    }
    Ok(())
}

/// Whatever can be refused while the guest still runs. Gives the image's copy if the OS disk is to be made of it: for
/// a reimage, and where it is missing.
fn prepare(
    parts: &Parts<'_, '_, '_>,
    note: &Metadata,
    how: Rework,
    proof: &Proof<'_>,
    doing: &str,
) -> Result<Option<Base>, HypervisorError> {
    let is_made = match how {
        Rework::Live => false,
        Rework::Restart => parts.pool.find(&parts.os_volume())?.is_none(),
        Rework::Reimage => true,
    };
    let base = is_made.then(|| parts.base(doing)).transpose()?;
    if is_made {
        proof.clears(&parts.os_volume(), doing)?;
    }
    if how != Rework::Live {
        let needed = parts.volumes();
        for gone in own_volumes(&parts.spec.reference(), note).filter(|v| !needed.contains(v)) {
            proof.clears(gone, doing)?;
        }
    }
    seeds::check(parts.spec, parts.model)?;
    parts.define(note)?;
    Ok(base)
}

/// Takes away what the instance no longer needs, and notes that it is whole.
fn settle(
    parts: &Parts<'_, '_, '_>,
    how: Rework,
    proof: &Proof<'_>,
    doing: &str,
) -> Result<(), HypervisorError> {
    let session = parts.session();
    let instance = parts.spec.reference();
    // Read again: it may have been protected meanwhile.
    let mut owned = domains::changeable(session, &instance, doing)?;
    // The guest of a live change may still have open what its next start will not need: that stays its own.
    if how != Rework::Live {
        let needed = parts.volumes();
        let gone: Vec<&String> = own_volumes(&instance, &owned.meta)
            .filter(|v| !needed.contains(v))
            .collect();
        if !gone.is_empty() {
            session.pulse().stage(Stage::DeleteDisks);
        }
        for volume in gone {
            parts.pool.remove(volume, proof)?;
        }
        owned.meta.volumes = needed;
    }
    owned.meta.rework = None;
    owned.meta.epoch = Some(parts.spec.epoch);
    domains::mark(session, &mut owned, Phase::Ready)
}
