//! Images in the pool: sent, verified, marked; never deleted while anything is backed by them.

use super::call::{Call, Result};
use super::machine::{ImageCopy, Machine, copy_name};
use crate::hypervisor::{FaultKind, HypervisorError, LocalImage, Pushed, Stage, StoredImage};
use crate::model::ImageDigest;
use crate::names::StoreId;

pub(super) fn push(call: &Call<'_>, local: &LocalImage, store: StoreId) -> Result<Pushed> {
    let image = &local.image;
    let volume = copy_name(&image.digest, image.format, store);
    let looking = format!("looking for image {}", image.digest.short());
    if call.look(&looking, |m| Ok(m.whole_copy(&image.digest, store).is_some()))?
        && sound(call, &image.digest, store)?
    {
        return Ok(Pushed::Present);
    }
    call.stage(Stage::Upload);
    call.step(Stage::Upload, &format!("make volume {volume}"), |m| {
        // What a broken attempt left is replaced, unless its mark was lost while disks are backed by it.
        if let Some(copy) = m.copies.get(&volume).filter(|c| c.is_there) && !m.users(&volume).is_empty() {
            if copy.is_cut {
                let doing = format!("reading back volume {volume}");
                let text = "other bytes came back than were sent; disks are backed by it, so that no other is sent in \
                            its place: replace their instances elsewhere, then vmss image prune";
                return Err(HypervisorError::new(FaultKind::Corrupt, doing, text));
            }
            return Ok(());
        }
        m.copies.remove(&volume);
        if image.file_size > m.pool_free() {
            let doing = format!("creating volume {volume}");
            return Err(HypervisorError::new(
                FaultKind::NoSpace,
                doing,
                "no space left on device",
            ));
        }
        let copy = ImageCopy {
            digest: image.digest.clone(),
            store,
            allocation: image.file_size,
            is_there: true,
            is_marked: false,
            is_cut: false,
        };
        m.copies.insert(volume.clone(), copy);
        Ok(())
    })?;
    let sent = send(call, local, &volume);
    if let Err(error) = &sent
        && error.kind != FaultKind::Unreachable
    {
        // Without its mark nobody takes it for whole; deleting it only gives the space back.
        let _ = call.last_step(Stage::DeleteDisks, &format!("delete volume {volume}"), |m| {
            if m.users(&volume).is_empty() {
                m.copies.remove(&volume);
            }
            Ok(())
        });
    }
    sent.map(|()| Pushed::Sent)
}

/// Whether the copy of which instances would be made is still as it was verified. Of one that is not the store's mark is
/// taken away, so that another is sent.
pub(super) fn sound(call: &Call<'_>, digest: &ImageDigest, store: StoreId) -> Result<bool> {
    let looking = format!("looking at image {}", digest.short());
    let cut = call.look(&looking, |m| {
        let name = m.whole_copy(digest, store).unwrap_or_default();
        let copy = m.copies.get(name).filter(|c| c.is_cut);
        Ok(copy.map(|c| (name.to_owned(), c.store == store)))
    })?;
    let Some((volume, is_own)) = cut else {
        return Ok(true);
    };
    if is_own {
        call.step(Stage::Disks, &format!("delete the mark of {volume}"), |m| {
            if let Some(copy) = m.copies.get_mut(&volume) {
                copy.is_marked = false;
            }
            Ok(())
        })?;
    }
    Ok(false)
}

/// As [`sound`], with the error that a libvirt host gives.
pub(super) fn refuse_unsound(call: &Call<'_>, digest: &ImageDigest, store: StoreId) -> Result<()> {
    if sound(call, digest, store)? {
        return Ok(());
    }
    let text = format!(
        "the copy of image {} was cut short after it was verified, and nothing is made of it; the next run sends another \
         (or vmss image push), if no disk is backed by this one: instances whose disks are may be damaged, so replace \
         those first (vmss instance replace)",
        digest.short()
    );
    Err(HypervisorError::new(
        FaultKind::Corrupt,
        "looking at its volume",
        text,
    ))
}

fn send(call: &Call<'_>, local: &LocalImage, volume: &str) -> Result<()> {
    let length = local.image.file_size.0;
    for part in 0..=4 {
        call.safe_point(&format!("sending volume {volume}"))?;
        call.bytes(length / 4 * part, length);
    }
    call.bytes(length, length);
    call.stage(Stage::Verify);
    call.bytes(length, length);
    call.step(Stage::Verify, &format!("mark volume {volume} as whole"), |m| {
        let copy = m.copies.get_mut(volume).filter(|c| c.is_there);
        let copy = copy.ok_or_else(|| {
            HypervisorError::new(
                FaultKind::Missing,
                format!("reading back volume {volume}"),
                "it has gone",
            )
        })?;
        copy.is_marked = true;
        Ok(())
    })
}

pub(super) fn list(machine: &Machine) -> Vec<StoredImage> {
    let there = machine.copies.iter().filter(|(_, c)| c.is_there);
    there
        .map(|(volume, copy)| StoredImage {
            sender: copy.store.tag(),
            digest: copy.digest.clone(),
            volume: volume.clone(),
            allocation: copy.allocation,
            whole: copy.is_whole() && !copy.is_cut,
            changed: copy.is_whole() && copy.is_cut,
            users: machine.users(volume),
        })
        .collect()
}

/// Deletes the copies of the image that one of `stores` has sent.
pub(super) fn delete(call: &Call<'_>, digest: &ImageDigest, stores: &[StoreId]) -> Result<bool> {
    let doing = format!("delete image {}", digest.short());
    let ours = |c: &ImageCopy| c.digest == *digest && stores.contains(&c.store);
    let names: Vec<String> = call.look(&doing, |m| {
        let copies = m.copies.iter().filter(|(_, c)| ours(c));
        Ok(copies.map(|(name, _)| name.clone()).collect())
    })?;
    let mut all = true;
    for name in names {
        // Looked at within the step: nobody can begin to use it in between.
        if call.look(&doing, |m| Ok(!m.users(&name).is_empty()))? {
            all = false;
            continue;
        }
        let removed = call.step(Stage::DeleteDisks, &format!("delete volume {name}"), |m| {
            let is_free = m.users(&name).is_empty();
            if let Some(copy) = m.copies.get_mut(&name).filter(|_| is_free) {
                copy.is_there = false;
            }
            Ok(is_free)
        })?;
        all &= removed;
        if removed {
            call.step(Stage::DeleteDisks, &format!("delete the mark of {name}"), |m| {
                if m.copies.get(&name).is_some_and(|c| !c.is_there) {
                    m.copies.remove(&name);
                }
                Ok(())
            })?;
        }
    }
    Ok(all)
}
