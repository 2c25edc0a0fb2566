//! Volumes: making, filling, reading back, deleting.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::AsRawFd as _;

use sha2::{Digest as _, Sha256};
use virt::connect::Connect;
use virt::error::{Error, ErrorNumber};
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt::stream::Stream;
use virt::sys;

use crate::hypervisor::domain_xml::{self, Volume};
use crate::hypervisor::libvirt::Result;
use crate::hypervisor::libvirt::connection::{code, fault};
use crate::hypervisor::{FaultKind, HypervisorError, Pulse};

/// What a stream packet may hold (libvirt's legacy limit, which every version takes).
const CHUNK: usize = 262_120;

/// Makes a volume. One of this name is deleted first: names hold digits that only this store's instance has, so what
/// is there is left over from an attempt of our own.
pub fn make(pool: &StoragePool, volume: &Volume<'_>) -> Result<StorageVol> {
    let doing = || format!("making the volume {}", volume.name);
    let xml = domain_xml::volume(volume)
        .map_err(|e| HypervisorError::new(FaultKind::Other, doing(), e.to_string()))?;
    let first = match StorageVol::create_xml(pool, &xml, 0) {
        Ok(made) => return Ok(made),
        Err(e) => fault(&e, doing()),
    };
    // The drivers have different numbers for "it is there already": looking is surer than reading the error.
    if pool.lookup_storage_vol_by_name(volume.name).is_err() {
        return Err(first);
    }
    delete(pool, volume.name)?;
    StorageVol::create_xml(pool, &xml, 0).map_err(|e| fault(&e, doing()))
}

/// Deletes a volume; one that is gone is fine.
pub fn delete(pool: &StoragePool, name: &str) -> Result<()> {
    let gone = |e: &Error| code(e) == ErrorNumber::NoStorageVolume;
    let doing = || format!("deleting the volume {name}");
    let volume = match pool.lookup_storage_vol_by_name(name) {
        Ok(volume) => volume,
        Err(e) if gone(&e) => return Ok(()),
        Err(e) => return Err(fault(&e, doing())),
    };
    match volume.delete(0) {
        Err(e) if !gone(&e) => Err(fault(&e, doing())),
        _ => Ok(()),
    }
}

/// The volume's path on the host.
pub fn path(volume: &StorageVol, name: &str) -> Result<String> {
    volume
        .path()
        .map_err(|e| fault(&e, format!("looking for the path of {name}")))
}

fn last(doing: &str) -> HypervisorError {
    // Raw calls leave their error with the thread: it is read before any other call can replace it.
    fault(&Error::last_error(), doing)
}

/// Fills a volume from memory.
pub fn fill(
    connection: &Connect,
    volume: &StorageVol,
    bytes: &[u8],
    doing: &str,
    pulse: &Pulse,
) -> Result<()> {
    let stream = Stream::new(connection, 0).map_err(|e| fault(&e, doing))?;
    volume
        .upload(&stream, 0, bytes.len() as u64, 0)
        .map_err(|e| fault(&e, doing))?;
    if let Err(e) = bytes
        .chunks(CHUNK)
        .try_for_each(|chunk| send(&stream, chunk, doing))
    {
        // The error that counts is the first one.
        let _ = stream.abort();
        return Err(e);
    }
    pulse.beat();
    stream.finish().map_err(|e| fault(&e, doing))
}

fn send(stream: &Stream, mut bytes: &[u8], doing: &str) -> Result<()> {
    while !bytes.is_empty() {
        let sent = stream.send(bytes).map_err(|e| fault(&e, doing))?;
        // A blocking stream sends something or fails; -2 would mean a stream that was opened otherwise.
        let sent = usize::try_from(sent)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| HypervisorError::new(FaultKind::Other, doing, "the stream takes no data"))?;
        bytes = bytes.get(sent..).unwrap_or_default();
    }
    Ok(())
}

/// Fills a volume from a file, its holes left out.
pub fn upload(
    connection: &Connect,
    volume: &StorageVol,
    file: &File,
    length: u64,
    doing: &str,
    pulse: &Pulse,
) -> Result<()> {
    let stream = Stream::new(connection, 0).map_err(|e| fault(&e, doing))?;
    let flags = sys::VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM;
    volume
        .upload(&stream, 0, length, flags)
        .map_err(|e| fault(&e, doing))?;
    match send_file(&stream, file, length, doing, pulse) {
        Ok(()) => stream.finish().map_err(|e| fault(&e, doing)),
        Err(e) => {
            let _ = stream.abort();
            Err(e)
        }
    }
}

fn send_file(stream: &Stream, mut file: &File, length: u64, doing: &str, pulse: &Pulse) -> Result<()> {
    let io =
        |e: std::io::Error| HypervisorError::new(FaultKind::Other, doing, format!("reading the image: {e}"));
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < length {
        let data = next_data(file, at).unwrap_or(at).min(length);
        if data > at {
            send_hole(stream, data - at, doing)?;
            at = data;
            pulse.bytes(at, length);
        }
        let end = next_hole(file, at).unwrap_or(length).min(length);
        file.seek(SeekFrom::Start(at)).map_err(io)?;
        while at < end {
            if pulse.is_cancelled() {
                return Err(HypervisorError::new(FaultKind::Cancelled, doing, "stopped"));
            }
            let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let n = file.read(&mut buffer[..want]).map_err(io)?;
            if n == 0 {
                return Err(HypervisorError::new(
                    FaultKind::Corrupt,
                    doing,
                    "the image became shorter while it was sent",
                ));
            }
            send(stream, &buffer[..n], doing)?;
            at += n as u64;
            pulse.bytes(at, length);
        }
    }
    Ok(())
}

fn send_hole(stream: &Stream, length: u64, doing: &str) -> Result<()> {
    let length =
        i64::try_from(length).map_err(|e| HypervisorError::new(FaultKind::Other, doing, e.to_string()))?;
    // SAFETY: the pointer is that of a stream which lives longer than the call.
    if unsafe { sys::virStreamSendHole(stream.as_ptr(), length, 0) } < 0 {
        Err(last(doing))
    } else {
        Ok(())
    }
}

/// Where the next data begin at or after `at`; `None` if the file system can't tell, or none follow.
fn next_data(file: &File, at: u64) -> Option<u64> {
    seek(file, at, libc::SEEK_DATA).or_else(|| {
        // Behind the last data there is only a hole, up to the end of the file.
        let is_end = std::io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO);
        is_end.then(|| file.metadata().map_or(at, |m| m.len()))
    })
}

fn next_hole(file: &File, at: u64) -> Option<u64> {
    seek(file, at, libc::SEEK_HOLE)
}

fn seek(file: &File, at: u64, whence: libc::c_int) -> Option<u64> {
    let at = libc::off_t::try_from(at).ok()?;
    // SAFETY: the descriptor is that of an open file which lives longer than the call.
    u64::try_from(unsafe { libc::lseek(file.as_raw_fd(), at, whence) }).ok()
}

/// Reads the first `length` bytes of a volume back, holes as holes, and gives them to `sink` in order.
fn read_back(
    connection: &Connect,
    volume: &StorageVol,
    length: u64,
    doing: &str,
    pulse: &Pulse,
    mut sink: impl FnMut(&[u8]),
) -> Result<()> {
    const DOWNLOAD_SPARSE: u32 = 1;
    let stream = Stream::new(connection, 0).map_err(|e| fault(&e, doing))?;
    volume
        .download(&stream, 0, length, DOWNLOAD_SPARSE)
        .map_err(|e| fault(&e, doing))?;
    let zeros = vec![0; CHUNK];
    let mut buffer = vec![0; CHUNK];
    let mut done: u64 = 0;
    let result = loop {
        if pulse.is_cancelled() {
            break Err(HypervisorError::new(FaultKind::Cancelled, doing, "stopped"));
        }
        // SAFETY: the buffer is as long as is said, and both it and the stream live longer than the call.
        let n = unsafe {
            sys::virStreamRecvFlags(
                stream.as_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                sys::VIR_STREAM_RECV_STOP_AT_HOLE,
            )
        };
        match n {
            0 => break Ok(()),
            -3 => {
                let mut hole: libc::c_longlong = 0;
                // SAFETY: `hole` is a place for the answer, and the stream lives longer than the call.
                if unsafe { sys::virStreamRecvHole(stream.as_ptr(), &raw mut hole, 0) } < 0 {
                    break Err(last(doing));
                }
                let mut hole = u64::try_from(hole).unwrap_or(0);
                done += hole;
                while hole > 0 {
                    let n = usize::try_from(hole).unwrap_or(CHUNK).min(CHUNK);
                    sink(&zeros[..n]);
                    hole -= n as u64;
                }
            }
            n => match usize::try_from(n) {
                Ok(n) => {
                    sink(&buffer[..n]);
                    done += n as u64;
                }
                Err(_) => break Err(last(doing)),
            },
        }
        pulse.bytes(done.min(length), length);
    };
    match result {
        Ok(()) => stream.finish().map_err(|e| fault(&e, doing)),
        Err(e) => {
            let _ = stream.abort();
            Err(e)
        }
    }
}

/// SHA-256 of the first `length` bytes of a volume, as they are read back.
pub fn digest(
    connection: &Connect,
    volume: &StorageVol,
    length: u64,
    doing: &str,
    pulse: &Pulse,
) -> Result<String> {
    let mut hasher = Sha256::new();
    read_back(connection, volume, length, doing, pulse, |bytes| {
        hasher.update(bytes)
    })?;
    Ok(crate::image_file::hex(&hasher.finalize()))
}

/// Whether a volume begins with `bytes`.
pub fn holds(
    connection: &Connect,
    volume: &StorageVol,
    bytes: &[u8],
    doing: &str,
    pulse: &Pulse,
) -> Result<bool> {
    let wanted = crate::image_file::hex(&Sha256::digest(bytes));
    Ok(digest(connection, volume, bytes.len() as u64, doing, pulse)? == wanted)
}
