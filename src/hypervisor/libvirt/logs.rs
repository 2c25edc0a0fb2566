//! Console logs. libvirt writes them on the host and has no call that reads them; but it reads volumes, and any folder
//! may be a pool. So the folder of the logs is one for as long as one of them is read or deleted: a transient pool,
//! which is gone afterwards and leaves the files alone.

use std::fmt::Display;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt::sys;

use super::connection::{Session, lock};
use super::domains;
use super::fault::no_pool;
use super::transfer;
use super::volumes::Pool;
use crate::hypervisor::domain_xml::console_log;
use crate::hypervisor::domain_xml::element::Element;
use crate::hypervisor::{ConsoleLog, FaultKind, HypervisorError};
use crate::plan::action::InstanceRef;
use crate::units::Bytes;

/// The name of the pool, which is there only while somebody looks.
pub const POOL: &str = "vmss-console-logs";

/// How often a log is looked at that is followed.
const LOOK: Duration = Duration::from_millis(500);

/// Older parts of one log that are looked for. virtlogd cuts a log every 2 MiB and keeps three older parts, `.0` being
/// the newest of them; its configuration may say otherwise.
const OLDER: usize = 16;

/// How often the folder is opened again after another process has closed it.
const TRIES: usize = 3;

/// How many look into the folder just now: whoever is the last closes it.
#[derive(Default)]
pub struct Logs {
    users: Mutex<usize>,
}

impl Logs {
    /// Has `work` done while the host's folder of logs is a pool.
    fn open<'s, 'p, T>(
        &self,
        session: &'s Session<'p>,
        doing: &str,
        mut work: impl FnMut(&Pool<'s, 'p>) -> Result<T, HypervisorError>,
    ) -> Result<T, HypervisorError> {
        let folder = session.traits()?.console_folder().ok_or_else(|| {
            let text = "only the system's libvirt keeps console logs, not a user's own one or its simulation";
            HypervisorError::new(FaultKind::Unsupported, doing, text)
        })?;
        let mut tries = TRIES;
        loop {
            tries -= 1;
            let outcome = self.open_once(session, doing, folder, &mut work);
            match outcome {
                // Another process was the last to look, for all it knew.
                Err(error) if no_pool(&error) && tries > 0 => {}
                outcome => return outcome,
            }
        }
    }

    fn open_once<'s, 'p, T>(
        &self,
        session: &'s Session<'p>,
        doing: &str,
        folder: &str,
        work: &mut impl FnMut(&Pool<'s, 'p>) -> Result<T, HypervisorError>,
    ) -> Result<T, HypervisorError> {
        let mut users = lock(&self.users);
        let handle = pool(session, doing, folder)?;
        *users += 1;
        drop(users);
        let pool = Pool::of(session, handle);
        let outcome = work(&pool);
        let mut users = lock(&self.users);
        *users -= 1;
        if *users == 0 && pool.name == POOL {
            // Should it stay, the next one finds it.
            let _ = session.call(doing, |_| pool.handle.destroy());
        }
        outcome
    }
}

/// The folder as a pool: ours, if it is there, or one that is made, or an operator's own.
fn pool(session: &Session<'_>, doing: &str, folder: &str) -> Result<StoragePool, HypervisorError> {
    if let Ok(pool) = session.call(doing, |c| c.lookup_storage_pool_by_name(POOL)) {
        return Ok(pool);
    }
    let xml = Element::new("pool")
        .attr("type", "dir")
        .child(Element::new("name").text(POOL))
        .child(Element::new("target").child(Element::new("path").text(folder)))
        .to_xml()
        .map_err(|e| HypervisorError::new(FaultKind::Other, doing, e.to_string()))?;
    match session.call(doing, |c| c.create_storage_pool_xml(&xml, 0)) {
        Ok(pool) => Ok(pool),
        // Somebody was faster, or has a pool of another name there: libvirt allows one for a folder.
        Err(fault) => session
            .call(doing, |c| c.lookup_storage_pool_by_target_path(folder))
            .map_err(|_| fault.error),
    }
}

/// A log and its older parts, the newest first. Those that libvirt came to know of when the pool was opened.
fn parts(pool: &Pool<'_, '_>, file: &str) -> Result<Vec<StorageVol>, HypervisorError> {
    let mut parts = Vec::new();
    let names = std::iter::once(file.to_owned()).chain((0..OLDER).map(|n| format!("{file}.{n}")));
    for name in names {
        match pool.find(&name)? {
            Some(volume) => parts.push(volume),
            None => break,
        }
    }
    Ok(parts)
}

/// As [`parts`], also if the pool was opened before the log was there.
fn parts_by_now(pool: &Pool<'_, '_>, file: &str) -> Result<Vec<StorageVol>, HypervisorError> {
    let known = parts(pool, file)?;
    if !known.is_empty() {
        return Ok(known);
    }
    pool.refresh();
    parts(pool, file)
}

/// How long a log is by now. What stands in it is a guest's: libvirt may take it for a disk of any size, so that the
/// length of the file is asked for.
fn length(session: &Session<'_>, volume: &StorageVol, doing: impl Display) -> Result<u64, HypervisorError> {
    let info = session.call(doing, |_| volume.info_flags(sys::VIR_STORAGE_VOL_GET_PHYSICAL))?;
    Ok(info.allocation)
}

/// See [`crate::hypervisor::Hypervisor::console_log`].
pub fn read(
    logs: &Logs,
    session: &Session<'_>,
    instance: &InstanceRef,
    last: Bytes,
) -> Result<ConsoleLog, HypervisorError> {
    let doing = format!("reading the console log of {}", instance.name);
    domains::there(session, instance, &doing)?;
    let file = console_log(&instance.name);
    let log = logs.open(session, &doing, |pool| {
        let parts = parts_by_now(pool, &file)?;
        if parts.is_empty() {
            return Ok(None);
        }
        let mut log = ConsoleLog::default();
        let mut pieces = Vec::new();
        let mut left = last.0;
        for (n, part) in parts.iter().enumerate() {
            let length = length(session, part, &doing)?;
            let from = length.saturating_sub(left);
            let mut piece = Vec::new();
            let got = match from < length {
                true => transfer::download(session, part, from, length - from, &doing, |bytes, _| {
                    piece.extend_from_slice(bytes)
                })?,
                false => 0,
            };
            if n == 0 {
                log.end = from + got;
            }
            // It may have grown meanwhile.
            left = left.saturating_sub(got);
            pieces.push(piece);
            if from > 0 {
                log.is_cut = true;
                break;
            }
        }
        log.text = pieces.into_iter().rev().flatten().collect();
        Ok(Some(log))
    })?;
    log.ok_or_else(|| {
        let text = format!("the host has no log of it ({file})");
        HypervisorError::new(FaultKind::Missing, doing, text)
    })
}

/// See [`crate::hypervisor::Hypervisor::follow_console_log`].
pub fn follow(
    logs: &Logs,
    session: &Session<'_>,
    instance: &InstanceRef,
    from: u64,
    show: &mut dyn FnMut(&[u8]),
) -> Result<(), HypervisorError> {
    let doing = format!("following the console log of {}", instance.name);
    domains::there(session, instance, &doing)?;
    let file = console_log(&instance.name);
    let mut at = from;
    loop {
        let watched = logs.open(session, &doing, |pool| {
            watch(session, pool, &file, &mut at, show, &doing)
        });
        match watched {
            Ok(Seen::Enough) => return Ok(()),
            // In the middle of what is to be shown.
            Err(error) if error.kind == FaultKind::Cancelled => return Ok(()),
            // Somebody has deleted it; the next start begins another.
            Ok(Seen::Gone) => at = 0,
            Err(error) if no_pool(&error) => {}
            Err(error) => return Err(error),
        }
        if domains::find(session, instance)?.is_none() || rest(session) {
            return Ok(());
        }
    }
}

/// How watching a log ended.
enum Seen {
    /// Nobody wants to see more.
    Enough,
    /// There is no log any more.
    Gone,
}

/// Waits until a log is worth another look. Whether nobody wants one.
fn rest(session: &Session<'_>) -> bool {
    thread::sleep(LOOK);
    session.pulse().beat();
    session.pulse().is_cancelled()
}

/// Shows what is added until the pulse is cancelled or the log can't be found any more.
fn watch(
    session: &Session<'_>,
    pool: &Pool<'_, '_>,
    file: &str,
    at: &mut u64,
    show: &mut dyn FnMut(&[u8]),
    doing: &str,
) -> Result<Seen, HypervisorError> {
    let Some(volume) = parts_by_now(pool, file)?.into_iter().next() else {
        return Ok(Seen::Gone);
    };
    let mut pass_on = |volume: &StorageVol, from: u64| {
        transfer::download(session, volume, from, u64::MAX, doing, |bytes, _| show(bytes))
    };
    loop {
        let length = match length(session, &volume, doing) {
            Err(error) if error.kind == FaultKind::Missing && !no_pool(&error) => return Ok(Seen::Gone),
            other => other?,
        };
        if length < *at {
            // It was cut: what was added to the part before is the newest older part now.
            pool.refresh();
            if let Some(older) = pool.find(&format!("{file}.0"))? {
                pass_on(&older, *at)?;
            }
            *at = 0;
        }
        if length > *at {
            *at += pass_on(&volume, *at)?;
        }
        if rest(session) {
            return Ok(Seen::Enough);
        }
    }
}

/// Deletes the log with its older parts. A log that can't be deleted is no reason to keep an instance, so nothing is
/// said of it.
pub fn delete(logs: &Logs, session: &Session<'_>, name: &str) {
    let file = console_log(name);
    let doing = format!("deleting the console log of {name}");
    let _ = logs.open(session, &doing, |pool| {
        for part in parts_by_now(pool, &file)?.iter().rev() {
            session.call(&doing, |_| part.delete(0))?;
        }
        Ok(())
    });
}
