//! Images in the pool: named by content and store, marked once they were read back and found right, never
//! overwritten, never deleted while anything is backed by them. libvirt itself protects none of this.

use std::collections::BTreeSet;

use virt::storage_vol::StorageVol;
use virt::sys;

use super::connection::cancelled;
use super::fault::optional;
use super::sound;
use super::transfer;
use super::users::{self, Users};
use super::volume_xml;
use super::volumes::Pool;
use crate::hypervisor::domain_xml::metadata::digest;
use crate::hypervisor::{FaultKind, HypervisorError, LocalImage, Pushed, Stage, StoredImage};
use crate::intake;
use crate::model::{ImageDigest, ImageFormat};
use crate::names::{PoolMark, StoreId};
use crate::units::Bytes;

/// Ending of the empty volume that says: this copy is whole. Its presence is what a pool's list shows without a
/// call per volume.
const MARK: &str = ".ok";

/// A copy's volume: which image, in which format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The volume's name.
    pub name: String,
    /// The image.
    pub digest: ImageDigest,
    /// The file's format.
    pub format: ImageFormat,
}

impl Base {
    /// The name of a store's copy: two stores never write to one volume.
    pub fn new(digest: &ImageDigest, format: ImageFormat, store: StoreId) -> Self {
        let tag = store.tag();
        Self {
            name: format!("vmss-base-{}-{tag}.{}", digest.0, format.as_str()),
            digest: digest.clone(),
            format,
        }
    }

    /// Reads a volume's name.
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("vmss-base-")?;
        let (stem, extension) = rest.split_once('.')?;
        let (hex, tag) = stem.split_once('-')?;
        let format = [ImageFormat::Qcow2, ImageFormat::Raw]
            .into_iter()
            .find(|f| f.as_str() == extension)?;
        let tagged = tag.len() == 8 && tag.bytes().all(|b| b.is_ascii_hexdigit());
        let digest = digest(hex).filter(|_| tagged)?;
        Some(Self {
            name: name.to_owned(),
            digest,
            format,
        })
    }

    /// Whether one of `stores` has sent it.
    pub fn is_of(&self, stores: &[StoreId]) -> bool {
        stores
            .iter()
            .any(|store| Self::new(&self.digest, self.format, *store) == *self)
    }

    /// The tag of the store that sent it: eight digits before the name's ending.
    fn sender(&self) -> &str {
        let stem = self.name.split('.').next().unwrap_or_default();
        stem.rsplit('-').next().unwrap_or_default()
    }

    /// The name of its mark.
    pub fn mark(&self) -> String {
        format!("{}{MARK}", self.name)
    }
}

/// Whether a volume's name is an image's or its mark's.
pub fn is_image_volume(name: &str) -> bool {
    Base::parse(name.strip_suffix(MARK).unwrap_or(name)).is_some()
}

/// The copies in a list of names, each with whether it is whole.
pub fn copies(names: &BTreeSet<String>) -> impl Iterator<Item = (Base, bool)> + '_ {
    names.iter().filter_map(|name| {
        let copy = Base::parse(name)?;
        let whole = names.contains(&copy.mark());
        Some((copy, whole))
    })
}

/// A whole copy of the image, the store's own first. That one is looked up by name; others need the pool's list.
pub fn whole(
    pool: &Pool<'_, '_>,
    image: &ImageDigest,
    format: ImageFormat,
    store: StoreId,
) -> Result<Option<Base>, HypervisorError> {
    let own = Base::new(image, format, store);
    if is_marked(pool, &own)? && pool.find(&own.name)?.is_some() {
        return Ok(Some(own));
    }
    let names = pool.names()?;
    Ok(copies(&names)
        .find(|(copy, whole)| *whole && copy.digest == *image)
        .map(|(copy, _)| copy))
}

/// See [`crate::hypervisor::Hypervisor::push_image`].
pub fn push(
    pool: &Pool<'_, '_>,
    checked: &sound::Checked,
    local: &LocalImage,
    store: StoreId,
) -> Result<Pushed, HypervisorError> {
    let image = &local.image;
    let is_there = || match whole(pool, &image.digest, image.format, store)? {
        None => Ok(false),
        Some(copy) => match sound::check(checked, pool, &copy, Some(image.file_size), store) {
            Ok(()) => Ok(true),
            // Another is sent.
            Err(e) if e.kind == FaultKind::Corrupt => Ok(false),
            Err(e) => Err(e),
        },
    };
    if is_there()? {
        return Ok(Pushed::Present);
    }
    // On a shared folder another host's daemon may have written the copy: this one doesn't know until it looks.
    let is_shared = pool
        .names()?
        .iter()
        .filter(|n| PoolMark::parse(n).is_some())
        .count()
        > 1;
    if is_shared || pool.place()?.0 == "netfs" {
        pool.refresh();
        if is_there()? {
            return Ok(Pushed::Present);
        }
    }
    let copy = Base::new(&image.digest, image.format, store);
    if let Some(left) = pool.find(&copy.name)? {
        let users = users::of(pool, std::slice::from_ref(&copy))?;
        if users.is_read(&copy) {
            // Its mark was lost, and writing to it would destroy every disk it backs.
            verify(pool, &left, &copy, image.file_size).map_err(|mut e| {
                if e.kind == FaultKind::Corrupt {
                    e.message += "; disks are backed by it, so that no other is sent in its place: replace their \
                                  instances elsewhere, then vmss image prune";
                }
                e
            })?;
            mark(pool, &copy)?;
            return Ok(Pushed::Present);
        }
        pool.delete(&copy.name)?;
    }
    pool.delete(&copy.mark())?;
    let sent = send(pool, local, &copy);
    if sent.is_err() {
        // Without its mark nobody takes it for whole; deleting it only gives the space back.
        let _ = pool.delete(&copy.name);
    }
    sent.map(|()| Pushed::Sent)
}

fn send(pool: &Pool<'_, '_>, local: &LocalImage, copy: &Base) -> Result<(), HypervisorError> {
    let session = pool.session();
    let length = local.image.file_size.0;
    session.pulse().stage(Stage::Upload);
    // Declared raw and of the file's own length, so that the daemon makes an empty file of exactly that length; what
    // format the bytes are is seen at its next look, and said outright wherever a disk is backed by it.
    let volume = pool.create(&copy.name, volume_xml::raw(&copy.name, length))?;
    if session.traits()?.simulated {
        return mark(pool, copy);
    }
    let doing = pool.doing(&format!("sending {} as volume", local.path.display()), &copy.name);
    let (file, _) = intake::open(&local.path)
        .map_err(|e| HypervisorError::new(FaultKind::Missing, &doing, format!("opening the file: {e}")))?;
    transfer::upload_file(session, &volume, &file, length, &doing)?;
    verify(pool, &volume, copy, local.image.file_size)?;
    if session.pulse().is_cancelled() {
        return Err(cancelled(doing));
    }
    mark(pool, copy)
}

fn verify(
    pool: &Pool<'_, '_>,
    volume: &StorageVol,
    copy: &Base,
    length: Bytes,
) -> Result<(), HypervisorError> {
    let session = pool.session();
    if session.traits()?.simulated {
        return Ok(());
    }
    session.pulse().stage(Stage::Verify);
    let doing = pool.doing("reading back volume", &copy.name);
    let (hex, read) = transfer::digest(session, volume, length.0, &doing)?;
    if hex == copy.digest.0 && read == length.0 {
        return Ok(());
    }
    Err(HypervisorError::new(
        FaultKind::Corrupt,
        doing,
        format!(
            "{read} bytes with SHA-256 {hex} came back, {} with {} were sent",
            length.0, copy.digest.0
        ),
    ))
}

/// Whether a copy, read back, is what its name says.
pub fn is_intact(pool: &Pool<'_, '_>, copy: &Base, length: Option<Bytes>) -> Result<bool, HypervisorError> {
    let doing = pool.doing("looking at volume", &copy.name);
    let volume = pool
        .find(&copy.name)?
        .ok_or_else(|| HypervisorError::new(FaultKind::Missing, &doing, "it has gone"))?;
    if pool.session().traits()?.simulated {
        // There are no bytes to read, and what is seen from outside speaks against it.
        return Ok(false);
    }
    pool.session().pulse().stage(Stage::Verify);
    let length = match length {
        Some(length) => length.0,
        None => {
            let physical = sys::VIR_STORAGE_VOL_GET_PHYSICAL;
            let info = pool.session().call(&doing, |_| volume.info_flags(physical))?;
            info.allocation
        }
    };
    let (hex, _) = transfer::digest(pool.session(), &volume, length, &doing)?;
    Ok(hex == copy.digest.0)
}

/// Marks a copy as whole, from now on.
pub fn mark(pool: &Pool<'_, '_>, copy: &Base) -> Result<(), HypervisorError> {
    pool.replace(&copy.mark(), volume_xml::raw(&copy.mark(), 0))
        .map(|_| ())
}

/// See [`crate::hypervisor::Hypervisor::images`].
pub fn list(pool: &Pool<'_, '_>) -> Result<Vec<StoredImage>, HypervisorError> {
    let names = pool.names()?;
    let found: Vec<(Base, bool)> = copies(&names).collect();
    let only: Vec<Base> = found.iter().map(|(copy, _)| copy.clone()).collect();
    let users = users::of(pool, &only)?;
    let mut images = Vec::new();
    for (copy, whole) in found {
        let Some(volume) = pool.find(&copy.name)? else {
            continue;
        };
        let looked = pool
            .session()
            .call(pool.doing("looking at volume", &copy.name), |_| volume.info());
        // Another process deletes it: that hides no other copy.
        let Some(info) = optional(looked, sys::VIR_ERR_NO_STORAGE_VOL)? else {
            continue;
        };
        // What was changed since is not taken for whole, and is read back when it is to be sent again.
        let changed = whole
            && match sound::looks_sound(pool, &copy) {
                Err(e) if e.kind == FaultKind::Missing => continue,
                seen => !seen?,
            };
        images.push(StoredImage {
            allocation: Bytes(info.allocation),
            users: users.names(&copy),
            sender: copy.sender().to_owned(),
            digest: copy.digest,
            volume: copy.name,
            whole: whole && !changed,
            changed,
        });
    }
    Ok(images)
}

/// See [`crate::hypervisor::Hypervisor::delete_image`].
///
/// The mark goes first: who defines an instance after that finds no whole copy, who defined one before is seen among
/// the users. If there are any, the mark comes back.
pub fn delete(pool: &Pool<'_, '_>, image: &ImageDigest, stores: &[StoreId]) -> Result<bool, HypervisorError> {
    let names = pool.names()?;
    let found: Vec<(Base, bool)> = copies(&names)
        .filter(|(c, _)| c.digest == *image && c.is_of(stores))
        .collect();
    let only: Vec<Base> = found.iter().map(|(copy, _)| copy.clone()).collect();
    let used = |users: &Users| only.iter().any(|c| !users.nobody(c));
    if used(&users::of(pool, &only)?) {
        return Ok(false);
    }
    for (copy, _) in &found {
        pool.delete(&copy.mark())?;
    }
    let users = users::of(pool, &only)?;
    let mut all = true;
    for (copy, whole) in &found {
        if users.nobody(copy) {
            pool.delete(&copy.name)?;
        } else {
            all = false;
            if *whole {
                mark(pool, copy)?;
            }
        }
    }
    Ok(all)
}

/// Makes the daemon see a copy's format before it is cloned in full: `createXMLFrom` converts from what it believes.
pub fn settle_format(pool: &Pool<'_, '_>, copy: &Base) -> Result<StorageVol, HypervisorError> {
    let missing = || {
        HypervisorError::new(
            FaultKind::Missing,
            pool.doing("looking up image", &copy.name),
            "it has gone",
        )
    };
    for attempt in 0..2 {
        let volume = pool.find(&copy.name)?.ok_or_else(missing)?;
        let seen = pool.describe(&volume)?;
        let format = seen.path(["target", "format"]).and_then(|f| f.get("type"));
        if format == Some(copy.format.as_str()) || attempt == 1 || pool.session().traits()?.simulated {
            return Ok(volume);
        }
        pool.refresh();
    }
    Err(missing())
}

/// Whether a copy's mark is there. It is made last and deleted first: where it is, vmss has left a whole copy.
pub fn is_marked(pool: &Pool<'_, '_>, copy: &Base) -> Result<bool, HypervisorError> {
    Ok(pool.find(&copy.mark())?.is_some())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn another_stores_copy_is_not_ours() {
        let digest = ImageDigest("0f".repeat(32));
        let (ours, theirs) = (
            StoreId(Uuid::from_u128(5 << 100)),
            StoreId(Uuid::from_u128(6 << 100)),
        );
        let copy = Base::new(&digest, ImageFormat::Raw, ours);
        assert!(copy.is_of(&[theirs, ours]) && !copy.is_of(&[theirs]));
        assert_eq!(copy.sender(), ours.tag());
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let digest = ImageDigest("0f".repeat(32));
        for format in [ImageFormat::Qcow2, ImageFormat::Raw] {
            let copy = Base::new(&digest, format, StoreId(Uuid::from_u128(5)));
            assert_eq!(Base::parse(&copy.name), Some(copy.clone()));
            assert!(is_image_volume(&copy.name) && is_image_volume(&copy.mark()));
            assert_eq!(Base::parse(&copy.mark()), None, "a mark is no copy");
        }
        for other in [
            "vmss-base-x-00000000.raw",
            "debian.qcow2",
            "web-1-00000000-os.qcow2",
            "vmss-base-",
        ] {
            assert!(!is_image_volume(other), "{other}");
        }
    }
}
