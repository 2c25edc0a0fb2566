//! Images by URL: fetched once, checked against their digest while they arrive, kept under it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::image_file::{hex, read_on};
use crate::trust::{self, Shared};

/// Why an image could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The server, or the way to it.
    #[error("fetching {url}: {message}")]
    Fetch {
        /// The address.
        url: String,
        /// What happened.
        message: String,
    },
    /// Something else arrived.
    #[error("what {url} gave has the digest {found}, the definition says {wanted}")]
    Digest {
        /// The address.
        url: String,
        /// Digest of what arrived.
        found: String,
        /// The digest that was expected.
        wanted: String,
    },
    /// It can't be kept.
    #[error("keeping the image in {path}: {message}")]
    Keep {
        /// The folder.
        path: String,
        /// What the system said.
        message: String,
    },
}

/// The local copy of the image at `url`, fetched unless it is in `cache` already; `progress` hears bytes done and bytes
/// in all (0 if the server does not say).
///
/// # Errors
/// See [`DownloadError`]. Nothing half-fetched is ever found under the image's name.
pub fn fetch(
    url: &str,
    sha256: &str,
    cache: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<PathBuf, DownloadError> {
    let folder = cache.join("images");
    let path = folder.join(sha256);
    let failed = |message: String| DownloadError::Fetch {
        url: url.to_owned(),
        message,
    };
    let keep = |e: std::io::Error| DownloadError::Keep {
        path: folder.display().to_string(),
        message: e.to_string(),
    };
    for folder in [cache, &folder] {
        trust::folder(folder, Shared::WithOwnGroup).map_err(|e| keep(std::io::Error::other(e)))?;
    }
    if path.exists() {
        return Ok(path);
    }
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(15)))
        .timeout_recv_response(Some(Duration::from_secs(30)))
        .build()
        .into();
    let mut response = agent.get(url).call().map_err(|e| failed(e.to_string()))?;
    let total = response.body().content_length().unwrap_or(0);
    let mut body = response.body_mut().as_reader();
    let mut file = tempfile::NamedTempFile::new_in(&folder).map_err(keep)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut done = 0;
    loop {
        let n = read_on(&mut body, &mut buffer).map_err(|e| failed(e.to_string()))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        file.write_all(&buffer[..n]).map_err(keep)?;
        done += n as u64;
        progress(done, total);
    }
    let found = hex(&hasher.finalize());
    if found != sha256 {
        return Err(DownloadError::Digest {
            url: url.to_owned(),
            found,
            wanted: sha256.to_owned(),
        });
    }
    file.as_file().sync_all().map_err(keep)?;
    file.persist(&path).map_err(|e| keep(e.error))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::net::TcpListener;

    /// A server that gives one answer to every request.
    fn serve(answer: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/image", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(&answer);
            }
        });
        url
    }

    fn http(status: &str, length: usize, body: &[u8]) -> Vec<u8> {
        let mut answer =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
                .into_bytes();
        answer.extend(body);
        answer
    }

    #[test]
    fn an_image_is_fetched_checked_and_kept() {
        let cache = tempfile::tempdir().unwrap();
        let digest = hex(&Sha256::digest(b"image"));
        let url = serve(http("200 OK", 5, b"image"));
        let path = fetch(&url, &digest, cache.path(), &|_, _| {}).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"image");
        let again = fetch("http://127.0.0.1:1/", &digest, cache.path(), &|_, _| {}).unwrap();
        assert_eq!(again, path, "what is there is not fetched again");
    }

    #[test]
    fn what_is_not_the_image_is_never_kept() {
        let cache = tempfile::tempdir().unwrap();
        let digest = hex(&Sha256::digest(b"image"));
        let wrong = fetch(
            &serve(http("200 OK", 5, b"other")),
            &digest,
            cache.path(),
            &|_, _| {},
        );
        assert!(matches!(wrong, Err(DownloadError::Digest { .. })), "{wrong:?}");
        let cut = fetch(
            &serve(http("200 OK", 50, b"image")),
            &digest,
            cache.path(),
            &|_, _| {},
        );
        assert!(matches!(cut, Err(DownloadError::Fetch { .. })), "{cut:?}");
        let gone = fetch(
            &serve(http("404 Not Found", 0, b"")),
            &digest,
            cache.path(),
            &|_, _| {},
        )
        .unwrap_err();
        assert!(gone.to_string().contains("404"), "{gone}");
        assert_eq!(std::fs::read_dir(cache.path().join("images")).unwrap().count(), 0);
    }
}
