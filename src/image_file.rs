//! Looks at a local image file: format, sizes, whether it is a disk, stands alone and is whole, and its digest.

mod kind;
mod qcow2;

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::extents;
use crate::hypervisor::LocalImage;
use crate::intake::{self, IntakeError};
use crate::model::{Image, ImageDigest, ImageFormat};
use crate::trust::{self, Shared};
use crate::units::Bytes;
use crate::world::Interrupt;

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
    /// The operator wants to stop.
    #[error("stopped while the image {path} was read")]
    Interrupted {
        /// The file.
        path: String,
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
/// that an unchanged file is read once; `progress` hears bytes read and bytes in all. What the digest takes long for can
/// be stopped by `interrupt`.
///
/// # Errors
/// See [`ImageError`].
pub fn inspect(
    path: &Path,
    sha256: Option<&str>,
    cache: &Path,
    interrupt: &Interrupt,
    progress: &dyn Fn(u64, u64),
) -> Result<LocalImage, ImageError> {
    let shown = path.display().to_string();
    let io = |error| ImageError::Io {
        path: shown.clone(),
        error,
    };
    let unfit = |why: String| ImageError::Unfit {
        path: shown.clone(),
        why,
    };
    let (file, meta) = intake::open(path).map_err(|e| match e {
        IntakeError::Io(error) => io(error),
        other => unfit(other.to_string()),
    })?;
    let (format, virtual_size) = look(&file, path, meta.len()).map_err(|e| match e {
        Look::Io(error) => io(error),
        Look::Unfit(why) => unfit(why),
    })?;
    let path = path.canonicalize().map_err(io)?;
    let identity = identity(&path, &meta);
    let mut digests = Digests::load(cache);
    let digest = match digests.known.get(&identity) {
        Some(digest) => digest.clone(),
        None => {
            let digest = hash(&file, meta.len(), interrupt, progress)
                .map_err(io)?
                .ok_or_else(|| ImageError::Interrupted { path: shown.clone() })?;
            // What somebody writes to meanwhile has a digest that nothing has.
            if self::identity(&path, &file.metadata().map_err(io)?) != identity {
                return Err(unfit(
                    "it was changed while it was read: is it still being written?".to_owned(),
                ));
            }
            digests.note(identity, digest.clone());
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

/// What a file is known by: who has not changed it has not changed this.
fn identity(path: &Path, meta: &Metadata) -> String {
    format!(
        "{} {} {} {} {}.{}",
        path.display(),
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec()
    )
}

/// The digest of a file; `None` if it was stopped. Holes are hashed and not read: they are zeros.
fn hash(
    file: &File,
    length: u64,
    interrupt: &Interrupt,
    progress: &dyn Fn(u64, u64),
) -> io::Result<Option<String>> {
    const PART: u64 = 1 << 20;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PART as usize];
    let zeros = vec![0; PART as usize];
    let mut at = 0;
    while at < length {
        let data = extents::next(file, at, length)?;
        for (is_data, to) in [(false, data.start), (true, data.end)] {
            while at < to {
                if interrupt.is_set() {
                    return Ok(None);
                }
                let n = PART.min(to - at) as usize;
                if is_data {
                    file.read_exact_at(&mut buffer[..n], at)?;
                    hasher.update(&buffer[..n]);
                } else {
                    hasher.update(&zeros[..n]);
                }
                at += n as u64;
                progress(at, length);
            }
        }
    }
    Ok(Some(hex(&hasher.finalize())))
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

/// Most digests that are remembered.
const MOST_DIGESTS: usize = 10_000;

impl Digests {
    fn load(cache: &Path) -> Self {
        // What others may have written there is not believed.
        if cache.exists() && trust::folder(cache, Shared::WithOwnGroup).is_err() {
            return Self::default();
        }
        intake::bytes(&cache.join("digests.json"), intake::OURS)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default()
    }

    fn note(&mut self, identity: String, digest: String) {
        // So that it never becomes too large to be read.
        if self.known.len() >= MOST_DIGESTS {
            self.known.clear();
        }
        self.known.insert(identity, digest);
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

fn look(file: &File, name: &Path, length: u64) -> Result<(ImageFormat, u64), Look> {
    let mut head = vec![0; kind::HEAD];
    let n = read_some(file, &mut head, 0)?;
    head.truncate(n);
    if head.starts_with(b"QFI\xfb") {
        return Ok((
            ImageFormat::Qcow2,
            qcow2::check(file, &head[..n.min(104)], length)?,
        ));
    }
    kind::refuse_other(file, &head, name, length)?;
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

#[cfg(test)]
mod tests;
