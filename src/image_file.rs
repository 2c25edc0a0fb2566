//! Looks at a local image file: format, sizes, whether it stands alone and is whole, and its digest.
//!
//! The header fields are those of the published qcow2 layout (QEMU's docs/interop/qcow2.txt). Nothing a header says is
//! trusted: every offset is checked against the file's length before it is followed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::hypervisor::LocalImage;
use crate::model::{Image, ImageDigest, ImageFormat};
use crate::trust::{self, Shared};
use crate::units::Bytes;

/// Why a file can't be an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It can't be read.
    #[error("reading the image {path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// It is something else, or damaged.
    #[error("the image {path} can't be used: {why}")]
    Unfit {
        /// The file.
        path: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// It is not the image that the definition names.
    #[error("the image {path} has the digest {found}, the definition says {wanted}")]
    Digest {
        /// The file.
        path: String,
        /// Its digest.
        found: String,
        /// The digest that was expected.
        wanted: String,
    },
}

/// Looks at the image at `path`. Its digest is remembered in `cache` under the file's identity, size and times, so
/// that an unchanged file is read once; `progress` hears bytes read and bytes in all.
///
/// # Errors
/// See [`ImageError`].
pub fn inspect(
    path: &Path,
    sha256: Option<&str>,
    cache: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<LocalImage, ImageError> {
    let shown = path.display().to_string();
    let io = |error| ImageError::Io {
        path: shown.clone(),
        error,
    };
    let file = File::open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    if !meta.is_file() {
        return Err(ImageError::Unfit {
            path: shown,
            why: "it is not a file".to_owned(),
        });
    }
    let (format, virtual_size) = look(&file, meta.len()).map_err(|e| match e {
        Look::Io(error) => ImageError::Io {
            path: shown.clone(),
            error,
        },
        Look::Unfit(why) => ImageError::Unfit {
            path: shown.clone(),
            why,
        },
    })?;
    let path = path.canonicalize().map_err(io)?;
    let identity = format!(
        "{} {} {} {} {}.{}",
        path.display(),
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    let mut digests = Digests::load(cache);
    let digest = match digests.known.get(&identity) {
        Some(digest) => digest.clone(),
        None => {
            let digest = hash(file, meta.len(), progress).map_err(io)?;
            digests.known.insert(identity, digest.clone());
            digests.save(cache);
            digest
        }
    };
    if let Some(wanted) = sha256.filter(|wanted| *wanted != digest) {
        return Err(ImageError::Digest {
            path: shown,
            found: digest,
            wanted: wanted.to_owned(),
        });
    }
    let image = Image {
        digest: ImageDigest(digest),
        format,
        virtual_size: Bytes(virtual_size),
        file_size: Bytes(meta.len()),
    };
    Ok(LocalImage { path, image })
}

fn hash(mut file: File, total: u64, progress: &dyn Fn(u64, u64)) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let n = read_on(&mut file, &mut buffer)?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
        done += n as u64;
        progress(done, total);
    }
}

/// Reads what there is, as [`Read::read`]; again if a signal has cut it short, as being stopped and continued does.
pub fn read_on(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Digests of files that were read before. A cache: losing it costs time and nothing else, so its errors are no errors.
#[derive(Default, Serialize, Deserialize)]
struct Digests {
    known: BTreeMap<String, String>,
}

impl Digests {
    fn load(cache: &Path) -> Self {
        // What others may have written there is not believed.
        if cache.exists() && trust::folder(cache, Shared::WithOwnGroup).is_err() {
            return Self::default();
        }
        std::fs::read(cache.join("digests.json"))
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default()
    }

    fn save(&self, cache: &Path) {
        let write = || -> io::Result<()> {
            trust::folder(cache, Shared::WithOwnGroup).map_err(io::Error::other)?;
            let mut file = tempfile::NamedTempFile::new_in(cache)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.persist(cache.join("digests.json"))?;
            Ok(())
        };
        let _ = write();
    }
}

#[derive(Debug)]
enum Look {
    Io(io::Error),
    Unfit(String),
}

impl From<io::Error> for Look {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

fn unfit<T>(why: impl Into<String>) -> Result<T, Look> {
    Err(Look::Unfit(why.into()))
}

/// Formats that people have and libvirt hosts can't use as they are: how the file begins, and what it is.
const STRANGERS: &[(&[u8], &str)] = &[
    (b"KDMV", "a VMDK: convert it with qemu-img convert -O qcow2"),
    (b"COWD", "a VMDK: convert it with qemu-img convert -O qcow2"),
    (b"vhdxfile", "a VHDX: convert it with qemu-img convert -O qcow2"),
    (b"conectix", "a VHD: convert it with qemu-img convert -O qcow2"),
    (b"<<< ", "a VDI: convert it with qemu-img convert -O qcow2"),
    (b"QED\0", "a QED image: convert it with qemu-img convert -O qcow2"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"\xfd7zXZ\0", "compressed by xz: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it first"),
    (b"BZh", "compressed by bzip2: unpack it first"),
    (b"PK\x03\x04", "a zip archive: unpack it first"),
    (
        b"<!DOCTYPE",
        "a web page, not an image: look where it was downloaded from",
    ),
    (
        b"<html",
        "a web page, not an image: look where it was downloaded from",
    ),
];

fn look(file: &File, length: u64) -> Result<(ImageFormat, u64), Look> {
    let mut head = [0; 104];
    let n = read_some(file, &mut head, 0)?;
    if let Some((_, what)) = STRANGERS.iter().find(|(magic, _)| head[..n].starts_with(magic)) {
        return unfit(format!("it is {what}"));
    }
    if head[..n].starts_with(b"QFI\xfb") {
        return Ok((ImageFormat::Qcow2, qcow2(file, &head[..n], length)?));
    }
    if length == 0 {
        return unfit("it is empty");
    }
    if !length.is_multiple_of(512) {
        return unfit(format!(
            "it is no qcow2, and as a raw disk its {length} bytes are no whole number of sectors: is it cut short?"
        ));
    }
    Ok((ImageFormat::Raw, length))
}

fn read_some(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read_at(&mut buffer[n..], offset + n as u64)? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}

fn be32(b: &[u8], at: usize) -> u64 {
    u64::from(u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]))
}

fn be64(b: &[u8], at: usize) -> u64 {
    (be32(b, at) << 32) | be32(b, at + 4)
}

/// Checks a qcow2 image and returns the size of its disk.
fn qcow2(file: &File, head: &[u8], length: u64) -> Result<u64, Look> {
    const INCOMPATIBLE_DIRTY: u64 = 1;
    const INCOMPATIBLE_CORRUPT: u64 = 2;
    const INCOMPATIBLE_DATA_FILE: u64 = 4;
    const INCOMPATIBLE_EXTENDED_L2: u64 = 16;
    const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
    if head.len() < 72 {
        return unfit("it is cut short: not even its header is there");
    }
    let version = be32(head, 4);
    if !(2..=3).contains(&version) {
        return unfit(format!("it is qcow2 of version {version}, which is not known"));
    }
    if be64(head, 8) != 0 {
        return unfit(
            "it has a backing file, so it is only a part of an image: flatten it with qemu-img convert -O qcow2",
        );
    }
    let cluster_bits = be32(head, 20);
    if !(9..=21).contains(&cluster_bits) {
        return unfit(format!(
            "its header is damaged (clusters of 2^{cluster_bits} bytes)"
        ));
    }
    let size = be64(head, 24);
    if be32(head, 32) != 0 {
        return unfit("it is encrypted: decrypt it with qemu-img convert");
    }
    let features = if version == 3 && head.len() >= 104 {
        be64(head, 72)
    } else {
        0
    };
    if features & INCOMPATIBLE_DATA_FILE != 0 {
        return unfit("its data are in another file: convert it with qemu-img convert -O qcow2");
    }
    if features & INCOMPATIBLE_CORRUPT != 0 {
        return unfit("it is marked as corrupt: try qemu-img check -r all");
    }
    if features & INCOMPATIBLE_DIRTY != 0 {
        return unfit("it was not closed cleanly: is it in use? else try qemu-img check -r all");
    }
    if size == 0 || size > 1 << 60 {
        return unfit(format!("its header is damaged (a disk of {size} bytes)"));
    }
    let cut = |what: &str| Look::Unfit(format!("it is cut short: {what} lies beyond the end of the file"));
    let cluster = 1u64 << cluster_bits;
    let entry_bytes = if features & INCOMPATIBLE_EXTENDED_L2 != 0 {
        16
    } else {
        8
    };
    let per_l2 = cluster / entry_bytes;
    let (l1_entries, l1_offset) = (be32(head, 36), be64(head, 40));
    let needed = size.div_ceil(cluster).div_ceil(per_l2);
    // QEMU itself refuses an L1 table of more than 32 MiB.
    if l1_entries < needed || l1_entries > (32 << 20) / 8 {
        return unfit(format!(
            "its header is damaged (a table of {l1_entries} entries where {needed} are needed)"
        ));
    }
    if l1_offset
        .checked_add(l1_entries * 8)
        .is_none_or(|end| end > length)
    {
        return Err(cut("its table of tables"));
    }
    let refcounts = be64(head, 48);
    if refcounts >= length {
        return Err(cut("its table of reference counts"));
    }
    let mut l1 = vec![0; usize::try_from(l1_entries * 8).unwrap_or(0)];
    file.read_exact_at(&mut l1, l1_offset)?;
    let mut l2 = vec![0; usize::try_from(cluster).unwrap_or(0)];
    for entry in l1.chunks_exact(8) {
        let table = be64(entry, 0) & OFFSET;
        if table == 0 {
            continue;
        }
        if table.checked_add(cluster).is_none_or(|end| end > length) {
            return Err(cut("a table of its clusters"));
        }
        file.read_exact_at(&mut l2, table)?;
        for entry in l2.chunks_exact(usize::try_from(entry_bytes).unwrap_or(8)) {
            let entry = be64(entry, 0);
            let compressed = entry & (1 << 62) != 0;
            let end = if compressed {
                // Offset and number of further sectors share the entry; the last sector may be a partial one.
                let bits = 62 - (cluster_bits - 8);
                entry & ((1 << bits) - 1)
            } else {
                // The last cluster of a file may end early: reading it gives zeros.
                entry & OFFSET
            };
            if end != 0 && end >= length {
                return Err(cut("a cluster of its data"));
            }
        }
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    fn inspect_bytes(bytes: &[u8]) -> Result<LocalImage, ImageError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, bytes).unwrap();
        inspect(&path, None, &dir.path().join("cache"), &|_, _| {})
    }

    #[test]
    fn what_a_signal_cut_short_is_read_again() {
        struct Signalled(bool);
        impl Read for Signalled {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if std::mem::take(&mut self.0) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                buffer[0] = 7;
                Ok(1)
            }
        }
        let mut buffer = [0; 4];
        assert_eq!(read_on(&mut Signalled(true), &mut buffer).unwrap(), 1);
        assert_eq!(buffer, [7, 0, 0, 0]);
    }

    fn qemu_img(args: &[&str]) {
        let out = Command::new("qemu-img")
            .args(args)
            .output()
            .expect("tests/run installs qemu-img");
        assert!(
            out.status.success(),
            "qemu-img {args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }

    /// A qcow2 of 8 MiB with some data in it.
    fn real(dir: &Path) -> std::path::PathBuf {
        let (raw, qcow2) = (dir.join("raw"), dir.join("a.qcow2"));
        let mut bytes = vec![0u8; 8 << 20];
        for (i, b) in bytes[..3 << 20].iter_mut().enumerate() {
            *b = (i * 7 % 251) as u8;
        }
        std::fs::write(&raw, bytes).unwrap();
        qemu_img(&[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            raw.to_str().unwrap(),
            qcow2.to_str().unwrap(),
        ]);
        qcow2
    }

    #[test]
    fn a_real_image_is_understood_and_hashed_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = real(dir.path());
        let cache = dir.path().join("cache");
        let first = inspect(&path, None, &cache, &|_, _| {}).unwrap();
        assert_eq!(first.image.format, ImageFormat::Qcow2);
        assert_eq!(first.image.virtual_size, Bytes::mib(8));
        let read = std::cell::Cell::new(0);
        let again = inspect(&path, Some(&first.image.digest.0), &cache, &|done, _| {
            read.set(done)
        })
        .unwrap();
        assert_eq!(
            (again, read.get()),
            (first, 0),
            "an unchanged file is not read again"
        );
        assert!(matches!(
            inspect(&path, Some("00"), &cache, &|_, _| {}),
            Err(ImageError::Digest { .. })
        ));
    }

    #[test]
    fn a_truncated_image_is_told_from_a_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        let whole = std::fs::read(real(dir.path())).unwrap();
        assert!(inspect_bytes(&whole).is_ok());
        for keep in [0, 50, 80, 600, 70_000, whole.len() / 3, whole.len() - 65_536] {
            assert!(
                inspect_bytes(&whole[..keep]).is_err(),
                "cut to {keep} of {} bytes",
                whole.len()
            );
        }
    }

    #[test]
    fn an_image_with_a_backing_file_or_a_data_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let base = real(dir.path());
        let over = dir.path().join("over.qcow2");
        qemu_img(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            base.to_str().unwrap(),
            "-F",
            "qcow2",
            over.to_str().unwrap(),
        ]);
        let e = inspect(&over, None, dir.path(), &|_, _| {})
            .unwrap_err()
            .to_string();
        assert!(
            e.contains("backing file") && e.contains("qemu-img convert"),
            "{e}"
        );
        let split = dir.path().join("split.qcow2");
        let data = format!("data_file={}", dir.path().join("data").display());
        qemu_img(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            &data,
            split.to_str().unwrap(),
            "1M",
        ]);
        assert!(
            inspect(&split, None, dir.path(), &|_, _| {})
                .unwrap_err()
                .to_string()
                .contains("another file")
        );
    }

    #[test]
    fn compressed_clusters_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        let base = real(dir.path());
        let packed = dir.path().join("packed.qcow2");
        qemu_img(&[
            "convert",
            "-c",
            "-O",
            "qcow2",
            base.to_str().unwrap(),
            packed.to_str().unwrap(),
        ]);
        assert!(inspect(&packed, None, dir.path(), &|_, _| {}).is_ok());
    }

    #[test]
    fn other_formats_are_named_with_the_way_out() {
        for (bytes, says) in [
            (&b"KDMV...."[..], "VMDK"),
            (b"\x1f\x8b....", "gzip"),
            (b"<!DOCTYPE html>", "web page"),
            (b"", "empty"),
            (b"short", "no whole number of sectors"),
        ] {
            let e = inspect_bytes(bytes).unwrap_err().to_string();
            assert!(e.contains(says), "{e}");
        }
        assert_eq!(inspect_bytes(&[0; 1024]).unwrap().image.format, ImageFormat::Raw);
    }

    proptest! {
        /// Whatever a header says, nothing panics and nothing large is allocated.
        #[test]
        fn no_header_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 100..400), small in any::<bool>()) {
            let mut image = b"QFI\xfb\0\0\0\x03".to_vec();
            image.extend(bytes);
            if small {
                image[8..16].fill(0);
                image[20..24].copy_from_slice(&[0, 0, 0, 9]);
                image[32..36].fill(0);
                image[72..80].fill(0);
            }
            let _ = inspect_bytes(&image);
        }
    }
}
