//! Images by URL: fetched once, checked against their digest while they arrive, kept under it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use ureq::config::AutoHeaderValue;

use crate::image_file::{hex, read_on};
use crate::trust::{self, Shared};
use crate::units::Bytes;
use crate::world::Interrupt;

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
    /// The operator wants to stop.
    #[error("stopped while {url} was fetched")]
    Interrupted {
        /// The address.
        url: String,
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

/// How long a server is waited for.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Until its answer begins: names, connections and redirects included.
    answer: Duration,
    /// Between two pieces of the answer.
    silence: Duration,
    /// In such a time at least [`LEAST`] bytes come.
    window: Duration,
}

const PATIENCE: Patience = Patience {
    answer: Duration::from_secs(60),
    silence: Duration::from_secs(30),
    window: Duration::from_secs(60),
};

/// Fewer bytes than that in a minute are no download that ends.
const LEAST: u64 = 64 << 10;

/// Most bytes that are fetched.
const MOST: Bytes = Bytes(1 << 40);

/// Most places that a server may send on to, one after the other.
const MOST_REDIRECTS: u32 = 10;

/// How often who waits looks whether the operator wants to stop.
const GLANCE: Duration = Duration::from_millis(100);

/// The local copy of the image at `url`, fetched unless it is in `cache` already; `progress` hears bytes done and bytes
/// in all (0 if the server does not say).
///
/// Ends soon once `interrupt` is set, and when the server is silent for half a minute or gives next to nothing for a minute.
///
/// # Errors
/// See [`DownloadError`]. Nothing half-fetched is ever found under the image's name.
pub fn fetch(
    url: &str,
    sha256: &str,
    cache: &Path,
    interrupt: &Interrupt,
    progress: &dyn Fn(u64, u64),
) -> Result<PathBuf, DownloadError> {
    fetch_within(PATIENCE, url, sha256, cache, interrupt, progress)
}

fn fetch_within(
    patience: Patience,
    url: &str,
    sha256: &str,
    cache: &Path,
    interrupt: &Interrupt,
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
    let mut file = tempfile::NamedTempFile::new_in(&folder).map_err(keep)?;
    let parts = begin(url.to_owned(), patience).map_err(|e| failed(e.to_string()))?;
    let mut hasher = Sha256::new();
    let (mut done, mut total, mut has_answered) = (0, 0, false);
    let mut heard = Instant::now();
    let mut window = (Instant::now(), 0);
    loop {
        if interrupt.is_set() {
            return Err(DownloadError::Interrupted { url: url.to_owned() });
        }
        match parts.recv_timeout(GLANCE) {
            Ok(Part::Head(announced)) => (total, has_answered) = (announced, true),
            Ok(Part::Bytes(bytes)) => {
                hasher.update(&bytes);
                file.write_all(&bytes).map_err(keep)?;
                done += bytes.len() as u64;
                progress(done, total);
            }
            Ok(Part::End) => break,
            Ok(Part::Failed(message)) => return Err(failed(message)),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(failed("it was broken off".to_owned()));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let (most, what) = if has_answered {
                    (patience.silence, "the server fell silent")
                } else {
                    (patience.answer, "no answer")
                };
                if heard.elapsed() > most {
                    return Err(failed(format!(
                        "{what}: not a byte within {} s",
                        most.as_secs_f64()
                    )));
                }
                continue;
            }
        }
        heard = Instant::now();
        if done > MOST.0 {
            return Err(failed(format!(
                "it has more than {MOST}, the most that is fetched"
            )));
        }
        if window.0.elapsed() > patience.window {
            if done - window.1 < LEAST {
                let within = patience.window.as_secs_f64();
                return Err(failed(format!(
                    "the server is too slow: {} within {within} s",
                    Bytes(done - window.1)
                )));
            }
            window = (Instant::now(), done);
        }
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

/// What comes of a download, in order.
enum Part {
    /// The answer has begun: how many bytes it says it has, 0 if it does not.
    Head(u64),
    /// Some of it.
    Bytes(Vec<u8>),
    /// All of it has come.
    End,
    /// It can't be had.
    Failed(String),
}

/// Begins a download on a thread of its own: looking up a name and connecting can't be stopped. One whose parts nobody
/// wants any more ends with its next part, or with the server's silence.
fn begin(url: String, patience: Patience) -> std::io::Result<mpsc::Receiver<Part>> {
    // Few at once: a disk that is slower than the network holds it up.
    let (tx, rx) = mpsc::sync_channel(4);
    thread::Builder::new()
        .name("download".to_owned())
        .spawn(move || {
            let last = match download(&url, patience, &tx) {
                Ok(()) => Part::End,
                Err(e) => Part::Failed(e),
            };
            // Nobody may want it any more.
            let _ = tx.send(last);
        })?;
    Ok(rx)
}

fn download(url: &str, patience: Patience, parts: &mpsc::SyncSender<Part>) -> Result<(), String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_resolve(Some(patience.silence))
        .timeout_connect(Some(patience.silence))
        .timeout_recv_response(Some(patience.silence))
        .timeout_per_read(Some(patience.silence))
        .timeout_per_write(Some(patience.silence))
        .max_redirects(MOST_REDIRECTS)
        // The digest is of the file as it is, and a small answer might unpack to a large one.
        .accept_encoding(AutoHeaderValue::None)
        .build()
        .into();
    let said = |e: ureq::Error| match e {
        ureq::Error::Timeout(_) => format!("no answer within {} s", patience.silence.as_secs_f64()),
        other => other.to_string(),
    };
    let mut response = agent.get(url).call().map_err(said)?;
    let announced = response.body().content_length().unwrap_or(0);
    let is_encoded = response.headers().contains_key("content-encoding");
    // Whoever has gone wants nothing more.
    let gone = |_| "nobody wants it any more".to_owned();
    parts
        .send(Part::Head(if is_encoded { 0 } else { announced }))
        .map_err(gone)?;
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = read_on(&mut body, &mut buffer).map_err(|e| said(e.into()))?;
        if n == 0 {
            return Ok(());
        }
        parts.send(Part::Bytes(buffer[..n].to_vec())).map_err(gone)?;
    }
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
        let path = fetch(&url, &digest, cache.path(), &Interrupt::default(), &|_, _| {}).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"image");
        let again = fetch(
            "http://127.0.0.1:1/",
            &digest,
            cache.path(),
            &Interrupt::default(),
            &|_, _| {},
        )
        .unwrap();
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
            &Interrupt::default(),
            &|_, _| {},
        );
        assert!(matches!(wrong, Err(DownloadError::Digest { .. })), "{wrong:?}");
        let cut = fetch(
            &serve(http("200 OK", 50, b"image")),
            &digest,
            cache.path(),
            &Interrupt::default(),
            &|_, _| {},
        );
        assert!(matches!(cut, Err(DownloadError::Fetch { .. })), "{cut:?}");
        let gone = fetch(
            &serve(http("404 Not Found", 0, b"")),
            &digest,
            cache.path(),
            &Interrupt::default(),
            &|_, _| {},
        )
        .unwrap_err();
        assert!(gone.to_string().contains("404"), "{gone}");
        assert_eq!(std::fs::read_dir(cache.path().join("images")).unwrap().count(), 0);
    }

    /// Short enough for a test; nothing is told of how long it takes.
    const IMPATIENT: Patience = Patience {
        answer: Duration::from_millis(200),
        silence: Duration::from_millis(200),
        window: Duration::from_secs(60),
    };

    /// A server that says `start` of its answer and then nothing, for as long as the test goes on.
    fn silent_after(start: &[u8]) -> (String, mpsc::Sender<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/image", listener.local_addr().unwrap());
        let (end, ended) = mpsc::channel::<()>();
        let start = start.to_vec();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(&start);
            let _ = ended.recv();
        });
        (url, end)
    }

    #[test]
    fn a_server_that_falls_silent_is_given_up() {
        let cache = tempfile::tempdir().unwrap();
        for start in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\nContent-",
            &http("200 OK", 50, b"ima"),
        ] {
            let (url, _end) = silent_after(start);
            let fetched = fetch_within(
                IMPATIENT,
                &url,
                "00",
                cache.path(),
                &Interrupt::default(),
                &|_, _| {},
            );
            let error = fetched.unwrap_err().to_string();
            assert!(
                error.contains("no answer") || error.contains("silent"),
                "after {start:?}: {error}"
            );
        }
    }

    #[test]
    fn a_server_that_gives_next_to_nothing_is_given_up() {
        let cache = tempfile::tempdir().unwrap();
        let slow = Patience {
            window: Duration::ZERO,
            ..PATIENCE
        };
        let url = serve(http("200 OK", 5, b"image"));
        let fetched = fetch_within(slow, &url, "00", cache.path(), &Interrupt::default(), &|_, _| {});
        assert!(fetched.unwrap_err().to_string().contains("too slow"));
    }

    #[test]
    fn a_download_can_be_stopped_while_the_server_is_silent_and_leaves_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let (url, _end) = silent_after(&http("200 OK", 50, b"ima"));
        let interrupt = Interrupt::default();
        let fetched = fetch(&url, "00", cache.path(), &interrupt, &|done, total| {
            assert_eq!((done, total), (3, 50));
            interrupt.press();
        });
        assert!(
            matches!(fetched, Err(DownloadError::Interrupted { .. })),
            "{fetched:?}"
        );
        assert_eq!(std::fs::read_dir(cache.path().join("images")).unwrap().count(), 0);
    }

    #[test]
    fn redirects_have_an_end() {
        let cache = tempfile::tempdir().unwrap();
        let url = serve(
            b"HTTP/1.1 302 Found\r\nLocation: /image\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                .to_vec(),
        );
        let fetched = fetch(&url, "00", cache.path(), &Interrupt::default(), &|_, _| {});
        assert!(fetched.unwrap_err().to_string().contains("redirect"));
    }

    #[test]
    fn what_comes_after_the_announced_end_is_not_read() {
        let cache = tempfile::tempdir().unwrap();
        let digest = hex(&Sha256::digest(b"image"));
        let url = serve(http("200 OK", 5, b"image and more"));
        let path = fetch(&url, &digest, cache.path(), &Interrupt::default(), &|_, _| {}).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"image");
    }
}
