//! Bytes to a volume and back, leaving out holes on the way.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};
use virt::error::Error;
use virt::storage_vol::StorageVol;
use virt::stream::Stream;
use virt::sys;

use super::connection::{Session, cancelled};
use super::raw::{self, Received};
use crate::extents;
use crate::hypervisor::{FaultKind, HypervisorError};

/// Largest payload of one message of libvirt's protocol: larger sends are cut up, smaller ones waste a message.
const CHUNK: usize = 262_120;

/// A stream that is aborted unless it was finished: libvirt gives it up only then.
struct Channel<'s, 'p> {
    session: &'s Session<'p>,
    stream: Option<Stream>,
    doing: String,
}

impl<'s, 'p> Channel<'s, 'p> {
    fn open(session: &'s Session<'p>, doing: &str) -> Result<Self, HypervisorError> {
        let stream = session.call(doing, |c| Stream::new(c, 0))?;
        Ok(Self {
            session,
            stream: Some(stream),
            doing: doing.to_owned(),
        })
    }

    fn with<T>(&self, call: impl FnOnce(&Stream) -> Result<T, Error>) -> Result<T, HypervisorError> {
        let stream = self
            .stream
            .as_ref()
            .expect("it is taken only by finish and drop, which consume the channel");
        // Not a call of its own that is measured, but it may wait for the host.
        let turn = self.session.turn();
        let result = call(stream);
        drop(turn);
        result.map_err(|e| self.session.fault(&self.doing, &e).error)
    }

    fn finish(mut self) -> Result<(), HypervisorError> {
        match self.stream.take() {
            Some(stream) => Ok(self.session.call(&self.doing, |_| stream.finish())?),
            None => Ok(()),
        }
    }
}

impl Drop for Channel<'_, '_> {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            let _turn = self.session.turn();
            let _ = stream.abort();
        }
    }
}

/// Sends a file of `length` bytes, its holes as holes.
pub fn upload_file(
    session: &Session<'_>,
    volume: &StorageVol,
    file: &File,
    length: u64,
    doing: &str,
) -> Result<(), HypervisorError> {
    let local =
        |e: io::Error| HypervisorError::new(FaultKind::Other, doing, format!("reading the file: {e}"));
    let channel = Channel::open(session, doing)?;
    session.call(doing, |_| {
        volume.upload(
            channel.stream.as_ref().ok_or_else(Error::last_error)?,
            0,
            length,
            sys::VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM,
        )
    })?;
    let mut at = 0;
    while at < length {
        let data = extents::next(file, at, length).map_err(local)?;
        if data.start > at {
            channel.with(|s| raw::send_hole(s, data.start - at))?;
        }
        at = data.start;
        session.pulse().bytes(at, length);
        let mut buffer = vec![0; CHUNK];
        while at < data.end {
            if session.pulse().is_cancelled() {
                return Err(cancelled(doing));
            }
            let want = usize::try_from(data.end - at).map_or(CHUNK, |left| left.min(CHUNK));
            let part = buffer.get_mut(..want).unwrap_or_default();
            file.read_exact_at(part, at).map_err(local)?;
            send_all(&channel, part)?;
            at += part.len() as u64;
            session.pulse().bytes(at, length);
        }
    }
    channel.finish()
}

/// Sends bytes.
pub fn upload_bytes(
    session: &Session<'_>,
    volume: &StorageVol,
    bytes: &[u8],
    doing: &str,
) -> Result<(), HypervisorError> {
    let channel = Channel::open(session, doing)?;
    session.call(doing, |_| {
        let stream = channel.stream.as_ref().ok_or_else(Error::last_error)?;
        volume.upload(stream, 0, bytes.len() as u64, 0)
    })?;
    for part in bytes.chunks(CHUNK) {
        send_all(&channel, part)?;
        session.pulse().beat();
    }
    channel.finish()
}

fn send_all(channel: &Channel<'_, '_>, mut bytes: &[u8]) -> Result<(), HypervisorError> {
    while !bytes.is_empty() {
        let sent = channel.with(|s| s.send(bytes))?;
        match usize::try_from(sent) {
            Ok(sent) if sent > 0 => bytes = bytes.get(sent..).unwrap_or_default(),
            _ => {
                return Err(HypervisorError::new(
                    FaultKind::Other,
                    &channel.doing,
                    "the host took no more bytes",
                ));
            }
        }
    }
    Ok(())
}

/// SHA-256 (lower-case hex) and length of a volume's bytes as the host reads them back. Of one that is longer than
/// `expected` no more than a byte beyond that is read.
pub fn digest(
    session: &Session<'_>,
    volume: &StorageVol,
    expected: u64,
    doing: &str,
) -> Result<(String, u64), HypervisorError> {
    let mut hash = Sha256::new();
    let most = expected.saturating_add(1);
    let length = download(session, volume, 0, most, doing, |bytes, done| {
        hash.update(bytes);
        session.pulse().bytes(done, expected.max(done));
    })?;
    let mut hex = String::with_capacity(64);
    for byte in hash.finalize() {
        use std::fmt::Write as _;
        let _ = write!(hex, "{byte:02x}");
    }
    Ok((hex, length))
}

/// Whether a volume holds exactly these bytes.
pub fn holds(
    session: &Session<'_>,
    volume: &StorageVol,
    bytes: &[u8],
    doing: &str,
) -> Result<bool, HypervisorError> {
    let mut same = true;
    let mut at = 0;
    let most = bytes.len() as u64 + 1;
    let length = download(session, volume, 0, most, doing, |part, done| {
        let wanted = usize::try_from(done).ok().and_then(|to| bytes.get(at..to));
        same &= wanted == Some(part);
        at = usize::try_from(done).unwrap_or(usize::MAX);
        session.pulse().beat();
    })?;
    Ok(same && length == bytes.len() as u64)
}

/// Hands the bytes of a volume from `offset` on, `most` of them at most, to `take`, with how many that are by then.
/// Returns how many there were.
pub fn download(
    session: &Session<'_>,
    volume: &StorageVol,
    offset: u64,
    most: u64,
    doing: &str,
    mut take: impl FnMut(&[u8], u64),
) -> Result<u64, HypervisorError> {
    let channel = Channel::open(session, doing)?;
    session.call(doing, |_| {
        let stream = channel.stream.as_ref().ok_or_else(Error::last_error)?;
        // A length of 0 means all that there is.
        volume.download(stream, offset, 0, sys::VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
    })?;
    let zeroes = vec![0; CHUNK];
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    loop {
        if session.pulse().is_cancelled() {
            return Err(cancelled(doing));
        }
        if done >= most {
            // The host would send more: that is given up with the stream.
            return Ok(done);
        }
        match channel.with(|s| raw::receive(s, &mut buffer))? {
            Received::End => break,
            Received::Data(n) => {
                let n = usize::try_from(most - done).map_or(n, |left| n.min(left));
                done += n as u64;
                take(buffer.get(..n).unwrap_or_default(), done);
            }
            Received::Hole(left) => {
                let mut left = left.min(most - done);
                while left > 0 {
                    if session.pulse().is_cancelled() {
                        return Err(cancelled(doing));
                    }
                    let n = usize::try_from(left).map_or(CHUNK, |l| l.min(CHUNK));
                    done += n as u64;
                    left -= n as u64;
                    take(zeroes.get(..n).unwrap_or_default(), done);
                }
            }
        }
    }
    channel.finish()?;
    Ok(done)
}
