//! Images on a host: content-addressed, protected, never half.
//!
//! libvirt can't rename a volume, so an image is whole when a marker volume of its name with `.ok` lies beside it. Each
//! store has copies of its own, so that an unmarked one can only be left over from this store's own broken attempt.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use virt::connect::Connect;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;

use crate::hypervisor::domain_xml::Volume;
use crate::hypervisor::libvirt::connection::fault;
use crate::hypervisor::libvirt::{Libvirt, Result, volumes};
use crate::hypervisor::{FaultKind, HypervisorError, LocalImage, Pulse, Pushed, Stage, StoredImage};
use crate::model::{ImageDigest, ImageFormat};
use crate::names::StoreId;
use crate::units::Bytes;

const MARK: &str = ".ok";

/// Name of this store's copy of an image.
fn volume_name(digest: &ImageDigest, store: StoreId, format: ImageFormat) -> String {
    format!(
        "vmss-base-{}-{}.{}",
        digest.0,
        &store.0.simple().to_string()[..8],
        format.as_str()
    )
}

/// The image whose copy a volume is, by its name.
fn parse_name(name: &str) -> Option<(ImageDigest, ImageFormat)> {
    let rest = name.strip_prefix("vmss-base-")?;
    let (digest, rest) = rest.split_once('-')?;
    let (_, extension) = rest.split_once('.')?;
    let format = match extension {
        "qcow2" => ImageFormat::Qcow2,
        "raw" => ImageFormat::Raw,
        _ => return None,
    };
    (digest.len() == 64).then(|| (ImageDigest(digest.to_owned()), format))
}

/// Digests of the whole images among the volumes of these names.
pub fn whole(names: &[String]) -> BTreeSet<ImageDigest> {
    let marks: BTreeSet<&str> = names.iter().filter_map(|n| n.strip_suffix(MARK)).collect();
    names
        .iter()
        .filter(|n| marks.contains(n.as_str()))
        .filter_map(|n| parse_name(n))
        .map(|(digest, _)| digest)
        .collect()
}

/// Digests of images of which only remains are there: copies of `stores` without their mark, marks without their copy.
pub fn remains(names: &[String], stores: &[StoreId]) -> BTreeSet<ImageDigest> {
    let whole = whole(names);
    names
        .iter()
        .filter_map(|n| copy_of(n, stores))
        .filter(|digest| !whole.contains(digest))
        .collect()
}

/// The image of which a volume is the copy, or the mark of a copy, that one of `stores` has sent.
fn copy_of(name: &str, stores: &[StoreId]) -> Option<ImageDigest> {
    let plain = name.strip_suffix(MARK).unwrap_or(name);
    let (digest, format) = parse_name(plain)?;
    stores
        .iter()
        .any(|store| volume_name(&digest, *store, format) == plain)
        .then_some(digest)
}

/// A whole copy of the image in the pool: its volume and its format.
pub fn find(pool: &StoragePool, digest: &ImageDigest) -> Result<Option<(StorageVol, ImageFormat)>> {
    let names = super::observe::volume_names(pool)?;
    for name in &names {
        let Some((found, format)) = parse_name(name) else {
            continue;
        };
        if &found == digest && names.contains(&format!("{name}{MARK}")) {
            let doing = format!("looking for the image {}", digest.short());
            return Ok(Some((
                pool.lookup_storage_vol_by_name(name)
                    .map_err(|e| fault(&e, doing))?,
                format,
            )));
        }
    }
    Ok(None)
}

impl Libvirt {
    pub(super) fn push(&self, local: &LocalImage, store: StoreId, pulse: &Pulse) -> Result<Pushed> {
        let connection = self.work.get()?;
        let pool = self.pool(&connection)?;
        pulse.beat();
        let image = &local.image;
        if find(&pool, &image.digest)?.is_some() {
            return Ok(Pushed::Present);
        }
        pulse.stage(Stage::Upload);
        let name = volume_name(&image.digest, store, image.format);
        let length = image.file_size.0;
        // Declared raw and as long as the file: what is sent is the file, not the disk in it.
        let volume = volumes::make(
            &pool,
            &Volume {
                name: &name,
                format: "raw",
                capacity: length,
                backing: None,
            },
        )?;
        if let Err(e) = self.fill_image(&connection, &volume, local, pulse) {
            // Best done at once; if it fails, the next push replaces the unmarked remains.
            let _ = volumes::delete(&pool, &name);
            return Err(e);
        }
        let mark = format!("{name}{MARK}");
        volumes::make(
            &pool,
            &Volume {
                name: &mark,
                format: "raw",
                capacity: 0,
                backing: None,
            },
        )?;
        Ok(Pushed::Sent)
    }

    fn fill_image(
        &self,
        connection: &Connect,
        volume: &StorageVol,
        local: &LocalImage,
        pulse: &Pulse,
    ) -> Result<()> {
        let image = &local.image;
        if self.is_rehearsal(connection)? {
            return Ok(());
        }
        let doing = format!("sending the image {}", image.digest.short());
        let file = File::open(&local.path).map_err(|e| {
            HypervisorError::new(
                FaultKind::Missing,
                doing.clone(),
                format!("{}: {e}", local.path.display()),
            )
        })?;
        volumes::upload(connection, volume, &file, image.file_size.0, &doing, pulse)?;
        pulse.stage(Stage::Verify);
        let doing = format!("reading back the image {}", image.digest.short());
        let found = volumes::digest(connection, volume, image.file_size.0, &doing, pulse)?;
        if found != image.digest.0 {
            let message = format!(
                "the host has {found} where {} was sent: it was deleted again",
                image.digest.0
            );
            return Err(HypervisorError::new(FaultKind::Corrupt, doing, message));
        }
        Ok(())
    }

    pub(super) fn stored_images(&self) -> Result<Vec<StoredImage>> {
        let connection = self.look.get()?;
        let pool = self.pool(&connection)?;
        let names = super::observe::volume_names(&pool)?;
        let wholes: BTreeSet<&String> = names
            .iter()
            .filter(|n| names.contains(&format!("{n}{MARK}")))
            .collect();
        let users = users(&connection, &pool)?;
        let mut images = Vec::new();
        for name in &names {
            let Some((digest, _)) = parse_name(name) else {
                continue;
            };
            let doing = || format!("looking at the image {name}");
            let volume = pool
                .lookup_storage_vol_by_name(name)
                .map_err(|e| fault(&e, doing()))?;
            let info = volume.info().map_err(|e| fault(&e, doing()))?;
            let path = volumes::path(&volume, name)?;
            let mut of = users.by_path.get(&path).cloned().unwrap_or_default();
            of.extend(users.by_digest.get(&digest).cloned().unwrap_or_default());
            of.sort_unstable();
            of.dedup();
            images.push(StoredImage {
                digest,
                volume: name.clone(),
                allocation: Bytes(info.allocation),
                whole: wholes.contains(name),
                users: of,
            });
        }
        images.sort_by(|a, b| (&a.digest, &a.volume).cmp(&(&b.digest, &b.volume)));
        Ok(images)
    }

    pub(super) fn remove_image(&self, digest: &ImageDigest, stores: &[StoreId]) -> Result<bool> {
        let connection = self.work.get()?;
        let pool = self.pool(&connection)?;
        // A copy goes before its mark: what a cut leaves is a mark without a copy, which nobody takes for an image.
        let mut ours: Vec<String> = (super::observe::volume_names(&pool)?.into_iter())
            .filter(|n| copy_of(n, stores).as_ref() == Some(digest))
            .collect();
        ours.sort_by_key(|n| n.ends_with(MARK));
        for name in ours {
            if let Ok(volume) = pool.lookup_storage_vol_by_name(&name) {
                // Right before the deletion, and domains of any set and store count: each names its image from the
                // moment it is defined, which is before its overlay is made.
                let path = volumes::path(&volume, &name)?;
                let users = users(&connection, &pool)?;
                if users.by_path.contains_key(&path) || users.by_digest.contains_key(digest) {
                    return Ok(false);
                }
                volumes::delete(&pool, &name)?;
            }
        }
        Ok(true)
    }
}

/// Who needs which image.
struct Users {
    by_path: BTreeMap<String, Vec<String>>,
    by_digest: BTreeMap<ImageDigest, Vec<String>>,
}

fn users(connection: &Connect, pool: &StoragePool) -> Result<Users> {
    let mut users = Users {
        by_path: BTreeMap::new(),
        by_digest: BTreeMap::new(),
    };
    let doing = "looking who uses the images";
    for volume in pool.list_all_volumes(0).map_err(|e| fault(&e, doing))? {
        let Ok(name) = volume.name() else { continue };
        // A volume that went away meanwhile needs nothing.
        let Ok(xml) = volume.xml_desc(0) else { continue };
        if let Some(path) = backing_path(&xml) {
            users.by_path.entry(path).or_default().push(name);
        }
    }
    for domain in connection.list_all_domains(0).map_err(|e| fault(&e, doing))? {
        let Some(meta) = super::observe::metadata(&domain) else {
            continue;
        };
        users
            .by_digest
            .entry(meta.image)
            .or_default()
            .push(domain.name().unwrap_or_default());
    }
    Ok(users)
}

/// The path of the volume that this one is an overlay on.
fn backing_path(xml: &str) -> Option<String> {
    let document = roxmltree::Document::parse(xml).ok()?;
    let store = document.descendants().find(|n| n.has_tag_name("backingStore"))?;
    let path = store.children().find(|n| n.has_tag_name("path"))?.text()?;
    Some(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{OTHER_STORE, STORE};

    #[test]
    fn only_a_marked_image_is_whole() {
        let digest = ImageDigest("ab".repeat(32));
        let name = volume_name(&digest, STORE, ImageFormat::Qcow2);
        assert_eq!(parse_name(&name), Some((digest.clone(), ImageFormat::Qcow2)));
        assert!(whole(std::slice::from_ref(&name)).is_empty());
        assert_eq!(
            whole(&[name.clone(), format!("{name}{MARK}")]),
            BTreeSet::from([digest])
        );
        assert!(whole(&["vmss-base-x.ok".into(), "other.qcow2".into()]).is_empty());
    }

    #[test]
    fn remains_are_those_of_our_own_stores() {
        let digest = ImageDigest("ab".repeat(32));
        let name = volume_name(&digest, STORE, ImageFormat::Raw);
        let ours = BTreeSet::from([digest]);
        assert_eq!(
            remains(std::slice::from_ref(&name), &[STORE]),
            ours,
            "a copy without its mark"
        );
        assert_eq!(
            remains(&[format!("{name}{MARK}")], &[STORE]),
            ours,
            "a mark without its copy"
        );
        assert!(remains(&[name.clone(), format!("{name}{MARK}")], &[STORE]).is_empty());
        assert!(
            remains(&[name], &[OTHER_STORE]).is_empty(),
            "another store may be sending it just now"
        );
    }

    #[test]
    fn the_backing_path_is_read_as_it_is_written() {
        let xml = "<volume><target><path>/me</path></target><backingStore><path>/a &amp; b</path></backingStore></volume>";
        assert_eq!(backing_path(xml).as_deref(), Some("/a & b"));
        assert_eq!(
            backing_path("<volume><target><path>/me</path></target></volume>"),
            None
        );
    }
}
