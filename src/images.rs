//! The local file of a set's image, wherever the definition says it comes from.

use std::path::Path;

use crate::download::{self, DownloadError};
use crate::hypervisor::LocalImage;
use crate::image_file::{self, ImageError};
use crate::scaleset::ImageSource;
use crate::world::Interrupt;

/// Why there is no local file of an image.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The file.
    #[error(transparent)]
    File(#[from] ImageError),
    /// Fetching it.
    #[error(transparent)]
    Fetch(#[from] DownloadError),
}

impl Unavailable {
    /// Whether it is only that the operator wants to stop.
    pub const fn is_interrupt(&self) -> bool {
        matches!(
            self,
            Self::File(ImageError::Interrupted { .. }) | Self::Fetch(DownloadError::Interrupted { .. })
        )
    }
}

/// Fetches the image if need be, and looks at it. `progress` hears bytes done and bytes in all, first of fetching, then
/// of reading; both end soon once `interrupt` is set.
///
/// # Errors
/// What fetching or looking said.
pub fn local(
    source: &ImageSource,
    cache: &Path,
    interrupt: &Interrupt,
    progress: &dyn Fn(u64, u64),
) -> Result<LocalImage, Unavailable> {
    let image = match source {
        ImageSource::File { path, sha256 } => {
            image_file::inspect(path, sha256.as_deref(), cache, interrupt, progress)?
        }
        ImageSource::Url { url, sha256 } => {
            let path = download::fetch(url, sha256, cache, interrupt, progress)?;
            image_file::inspect(&path, Some(sha256), cache, interrupt, progress)?
        }
    };
    Ok(image)
}
