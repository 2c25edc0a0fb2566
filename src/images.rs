//! The local file of a set's image, wherever the definition says it comes from.

use std::path::Path;

use crate::hypervisor::LocalImage;
use crate::scaleset::ImageSource;
use crate::{download, image_file};

/// Fetches the image if need be, and looks at it.
///
/// # Errors
/// What fetching or looking said.
pub fn local(source: &ImageSource, cache: &Path, progress: &dyn Fn(u64, u64)) -> anyhow::Result<LocalImage> {
    match source {
        ImageSource::File { path, sha256 } => {
            Ok(image_file::inspect(path, sha256.as_deref(), cache, progress)?)
        }
        ImageSource::Url { url, sha256 } => {
            let path = download::fetch(url, sha256, cache, progress)?;
            Ok(image_file::inspect(&path, Some(sha256), cache, progress)?)
        }
    }
}
