//! Discovery files: who else wants to know where a set serves reads it from a file, in a format of its own.
//!
//! A renderer for each format is a pure function; here is how their text comes into the file. A reader never sees half
//! of it, a file that is right already is not touched, and whoever has to be told that it has changed is told until the
//! command says that it went well.

mod envoy;
mod nginx;
mod prometheus;
mod reload;
mod traefik;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::intake::{self, IntakeError};
use crate::load_balancer::{Discovery, Format};
use crate::membership::{Membership, Server};
use crate::names::Label;
use crate::trust;
use crate::units::Bytes;

/// How long a reload command may take.
const RELOAD_DEADLINE: Duration = Duration::from_secs(30);

/// Mode of a file that was not there before: its readers run under accounts of their own.
const USUAL_MODE: u32 = 0o644;

/// What a file's mode may have in it: a discovery file is never run.
const MODE_BITS: u32 = 0o777;

/// Why a discovery file, or its readers, could not be brought up to date.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{doing} {}: {why}", .file.display())]
pub struct DiscoveryError {
    /// What was being done.
    pub doing: Doing,
    /// On which discovery file.
    pub file: PathBuf,
    /// Why it did not go, in words fit for an operator.
    pub why: String,
}

/// What is done with a discovery file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It is looked at. Nothing has been changed.
    Reading,
    /// It is written. What was there before is there still.
    Writing,
    /// Its reload command is run. The file is right, but its readers may not know of it: the next [`publish`] runs the
    /// command again.
    Reloading,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Reading => "reading",
            Self::Writing => "writing",
            Self::Reloading => "telling the readers of",
        })
    }
}

/// The text that a discovery file has to have. The same membership always gives the same text, whatever the order of its
/// servers.
///
/// Prometheus is told of every server, the others only of those that take new clients ([`crate::membership::Duty::is_in`]).
pub fn render(discovery: &Discovery, set: &Label, membership: &Membership) -> String {
    match discovery.format {
        Format::Prometheus => prometheus::render(discovery, set, membership),
        Format::Traefik => traefik::render(discovery, set, membership),
        Format::Envoy => envoy::render(discovery, membership),
        Format::Nginx => nginx::render(discovery, set, membership),
    }
}

/// Brings a discovery file up to date, and tells its readers by its reload command if it has one. Says whether there was
/// anything to do; a file that is right already, and whose readers know of it, is not touched.
///
/// The file is replaced by a rename, so that its readers have the old text or the new one, and because Envoy takes note of
/// nothing else. It keeps its mode, owner and group. A symbolic link that the user of vmss or root has put there stays, and
/// what it leads to is replaced; Envoy, which watches the folder of the name it was given, has to be given that one. A link of
/// anybody else is replaced and not followed: a reader who may write to the folder must not choose what vmss overwrites.
///
/// # Errors
/// The file can't be read or written, or its reload command fails or does not end within 30 s. In the last case the next
/// call runs the command again.
pub fn publish(discovery: &Discovery, set: &Label, membership: &Membership) -> Result<bool, DiscoveryError> {
    let text = render(discovery, set, membership);
    bring(discovery, &text, RELOAD_DEADLINE)
}

/// The set is gone: leaves a file that names no server, as [`publish`] does. One that is not there is not made.
///
/// The file itself stays, for its readers count on it: without it nginx and Envoy do not start, and Traefik does without
/// its file provider. A list without servers is valid for Prometheus, Traefik and Envoy; nginx gets a server that is down.
///
/// # Errors
/// As with [`publish`].
pub fn withdraw(discovery: &Discovery, set: &Label) -> Result<(), DiscoveryError> {
    let real = trust::behind(&discovery.file).map_err(failed(Doing::Reading, &discovery.file))?;
    if look(&real)?.is_none() {
        return forget(&marker(&discovery.file)).map_err(failed(Doing::Writing, &discovery.file));
    }
    publish(discovery, set, &Membership::default()).map(drop)
}

/// [`publish`] for a text, with a deadline for the reload command.
fn bring(discovery: &Discovery, text: &str, deadline: Duration) -> Result<bool, DiscoveryError> {
    let file = &discovery.file;
    let real = &trust::behind(file).map_err(failed(Doing::Reading, file))?;
    let old = look(real)?;
    let same = match &old {
        Some(old) => has(real, old, text).map_err(failed(Doing::Reading, file))?,
        None => false,
    };
    let marker = marker(file);
    if same && !marker.exists() {
        return Ok(false);
    }
    let tells = !discovery.reload.is_empty();
    if !same {
        if tells {
            remember(&marker).map_err(failed(Doing::Writing, file))?;
        }
        write(real, text, old.as_ref()).map_err(failed(Doing::Writing, file))?;
    }
    if tells {
        reload::run(&discovery.reload, folder(file), deadline).map_err(failed(Doing::Reloading, file))?;
    }
    // Also one that was left when the file still had a reload command.
    forget(&marker).map_err(failed(Doing::Writing, file))?;
    Ok(!same || tells)
}

/// The servers that take new clients, by id.
fn taking_clients(membership: &Membership) -> Vec<&Server> {
    let mut servers: Vec<&Server> = membership.servers.iter().filter(|s| s.duty.is_in()).collect();
    servers.sort_by_key(|server| server.id);
    servers
}

/// Where a server is reached, to be written as `10.0.0.1:80` or `[fd00::1]:80`.
fn socket(server: &Server, discovery: &Discovery) -> SocketAddr {
    SocketAddr::new(server.address, discovery.port)
}

/// The first line of files that may have comments: JSON may not.
fn header(set: &Label) -> String {
    format!("# Written by vmss for the scale set {set}, do not edit.\n")
}

fn failed<E: fmt::Display>(doing: Doing, file: &Path) -> impl Fn(E) -> DiscoveryError {
    move |why| DiscoveryError {
        doing,
        file: file.to_owned(),
        why: why.to_string(),
    }
}

fn folder(file: &Path) -> &Path {
    file.parent().unwrap_or_else(|| Path::new("/"))
}

/// What is at `file`, which is no link that is followed, if anything is.
fn look(file: &Path) -> Result<Option<Metadata>, DiscoveryError> {
    match fs::symlink_metadata(file) {
        // Somebody else's: it is replaced.
        Ok(there) if there.is_symlink() => Ok(None),
        // A folder can't be replaced, and reading a pipe may never end.
        Ok(there) if !there.is_file() => Err(failed(Doing::Reading, file)("it is not a regular file")),
        Ok(there) => Ok(Some(there)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(Doing::Reading, file)(e)),
    }
}

/// Whether `file` has this very text. One of another length is not read: it may be anything.
fn has(file: &Path, there: &Metadata, text: &str) -> Result<bool, IntakeError> {
    let length = text.len() as u64;
    if there.len() != length {
        return Ok(false);
    }
    match intake::bytes(file, Bytes(length)) {
        Ok(bytes) => Ok(bytes == text.as_bytes()),
        // It has grown meanwhile.
        Err(IntakeError::Large(_)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Puts a file with `text` in the place of `file`. If that fails, nothing new is left in the folder.
fn write(file: &Path, text: &str, old: Option<&Metadata>) -> io::Result<()> {
    // Neither `*` nor `*.conf`, `*.yml` or `*.json` finds this name: readers that take whole folders pass it by.
    let mut new = tempfile::Builder::new()
        .prefix(".vmss-")
        .suffix(".tmp")
        .tempfile_in(folder(file))?;
    new.write_all(text.as_bytes())?;
    resemble(new.as_file(), old)?;
    new.as_file().sync_all()?;
    new.persist(file)?;
    Ok(())
}

/// Gives the new file the owner, group and mode of the old one: whoever could read that must be able to read this.
fn resemble(new: &File, old: Option<&Metadata>) -> io::Result<()> {
    let Some(old) = old else {
        return new.set_permissions(Permissions::from_mode(USUAL_MODE));
    };
    let own = new.metadata()?;
    if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
        let given = fchown(new, Some(old.uid()), Some(old.gid()));
        // Only root may give files away. Where everybody may read, it does not matter whose the file is.
        if old.mode() & 0o004 == 0 {
            given?;
        }
    }
    new.set_permissions(Permissions::from_mode(old.mode() & MODE_BITS))
}

/// The file that is there while the readers of `file` have not been told of it: `.NAME.reload-pending` beside it.
///
/// It comes before the new text and goes when the reload command has succeeded. So a command that failed is run again by
/// whichever process comes next, and so is one that was never begun because vmss or its machine went down in between.
/// Putting the old text back instead would not outlive a `kill -9` between the two, and would leave servers in the file
/// that are gone, for the reader's next start.
fn marker(file: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(file.file_name().unwrap_or_default());
    name.push(".reload-pending");
    file.with_file_name(name)
}

fn remember(marker: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).open(marker) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

fn forget(marker: &Path) -> io::Result<()> {
    match fs::remove_file(marker) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
