//! Domains that are ours, told from others by what their own metadata says.

use virt::domain::Domain;
use virt::sys;

use super::connection::Session;
use super::fault::{Fault, optional};
use crate::hypervisor::domain_xml::metadata::{self, NAMESPACE, PREFIX};
use crate::hypervisor::{FaultKind, HypervisorError};
use crate::inventory::{Metadata, Phase, Protection};
use crate::names::{Label, volume_name};
use crate::plan::action::InstanceRef;

/// `VIR_DOMAIN_METADATA_ELEMENT` in the type that the crate's calls take.
const ELEMENT: i32 = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;

/// A domain whose metadata names the set, store and id that were asked for.
pub struct Owned {
    /// libvirt's handle.
    pub domain: Domain,
    /// What its metadata says.
    pub meta: Metadata,
}

/// The instance's domain by UUID; `None` if there is none.
///
/// # Errors
/// `NotOurs` if the domain has another name, or its metadata names another owner or none: somebody keeps it under that name.
pub fn find(session: &Session<'_>, instance: &InstanceRef) -> Result<Option<Owned>, HypervisorError> {
    let doing = format!("looking up domain {}", instance.name);
    let uuid = instance.uuid.to_string();
    let found = session.call(&doing, |c| c.lookup_domain_by_uuid_string(&uuid));
    let Some(domain) = optional(found, sys::VIR_ERR_NO_DOMAIN)? else {
        return Ok(None);
    };
    let name = domain.name().unwrap_or_default();
    if name != instance.name {
        return Err(not_ours(
            &doing,
            &format!("the domain of its UUID is called {name}"),
        ));
    }
    let read = match read(session, &domain, &instance.name) {
        // It went between the two calls, as one does that was arriving from another host when its client died.
        Err(fault) if fault.is(sys::VIR_ERR_NO_DOMAIN) => return Ok(None),
        read => read?,
    };
    let meta = match read {
        Note::Read(meta) => *meta,
        Note::Garbled { .. } => return Err(not_ours(&doing, "its metadata can't be read")),
        Note::None => return Err(not_ours(&doing, "it has no metadata of vmss")),
    };
    if (&meta.set, meta.store, meta.id) != (&instance.set, instance.store, instance.id) {
        return Err(not_ours(
            &doing,
            &format!(
                "its metadata says it is {}-{} of store {}",
                meta.set, meta.id, meta.store
            ),
        ));
    }
    Ok(Some(Owned { domain, meta }))
}

/// The instance's domain, which must be there.
///
/// # Errors
/// `Missing` if it is not; `NotOurs` as [`find`].
pub fn there(session: &Session<'_>, instance: &InstanceRef, doing: &str) -> Result<Owned, HypervisorError> {
    find(session, instance)?
        .ok_or_else(|| HypervisorError::new(FaultKind::Missing, doing, "the instance is not there"))
}

/// The instance's domain, which must be whole.
///
/// # Errors
/// `Missing` and `NotOurs` as [`there`]; `Other` if it is half made, half changed, half deleted or between two hosts.
pub fn whole(session: &Session<'_>, instance: &InstanceRef, doing: &str) -> Result<Owned, HypervisorError> {
    let owned = there(session, instance, doing)?;
    not_moving(&owned.meta, doing)?;
    match owned.meta.phase {
        Phase::Ready => Ok(owned),
        half => Err(is_half(doing, half)),
    }
}

/// The instance's domain, which must be whole or half changed.
///
/// # Errors
/// `Missing` and `NotOurs` as [`there`]; `Other` if it is half made, half deleted or between two hosts.
pub fn changeable(
    session: &Session<'_>,
    instance: &InstanceRef,
    doing: &str,
) -> Result<Owned, HypervisorError> {
    let owned = there(session, instance, doing)?;
    not_moving(&owned.meta, doing)?;
    match owned.meta.phase {
        Phase::Ready | Phase::Changing => Ok(owned),
        half => Err(is_half(doing, half)),
    }
}

/// One that is between two hosts may run on the other one already: started here, it would run twice.
///
/// # Errors
/// `Other` if its note says so.
pub fn not_moving(note: &Metadata, doing: &str) -> Result<(), HypervisorError> {
    match &note.moving_to {
        None => Ok(()),
        Some(host) => {
            let text = format!("the instance is being moved to host {host}");
            Err(HypervisorError::new(FaultKind::Other, doing, text))
        }
    }
}

fn is_half(doing: &str, phase: Phase) -> HypervisorError {
    let how = match phase {
        Phase::Creating => "half made",
        Phase::Ready => "whole",
        Phase::Changing => "half changed",
        Phase::Deleting => "half deleted",
    };
    HypervisorError::new(FaultKind::Other, doing, format!("the instance is {how}"))
}

/// The volumes that the note lists, as far as their names prove that they are this very instance's: a note that
/// someone edited can't make vmss delete another's disk.
pub fn own_volumes<'a>(instance: &InstanceRef, note: &'a Metadata) -> impl Iterator<Item = &'a String> {
    let stem = volume_name(&instance.set, instance.id, instance.uuid, "", "");
    let stem = stem.trim_end_matches('.').to_owned();
    let plain = |name: &str| !name.contains('/');
    note.volumes
        .iter()
        .filter(move |v| v.starts_with(&stem) && plain(v))
}

/// A domain's metadata, as far as vmss has written any.
pub enum Note {
    /// It has none.
    None,
    /// What it says.
    Read(Box<Metadata>),
    /// It has some that is not understood: damaged, forged, or of a later vmss.
    Garbled {
        /// The set that it names, if that much is understood.
        set: Option<Label>,
    },
}

/// Reads the domain's metadata.
pub fn read(session: &Session<'_>, domain: &Domain, name: &str) -> Result<Note, Fault> {
    let text = session.call(format_args!("reading metadata of domain {name}"), |_| {
        domain.metadata(ELEMENT, Some(NAMESPACE), 0)
    });
    match text {
        Ok(xml) => Ok(match metadata::parse(&xml) {
            Ok(meta) => Note::Read(Box::new(meta)),
            Err(_) => Note::Garbled {
                set: metadata::set_of(&xml),
            },
        }),
        Err(fault) if fault.is(sys::VIR_ERR_NO_DOMAIN_METADATA) => Ok(Note::None),
        Err(fault) => Err(fault),
    }
}

/// Writes the metadata, to the running domain and to its definition alike.
pub fn write(session: &Session<'_>, domain: &Domain, meta: &Metadata) -> Result<(), HypervisorError> {
    let name = crate::names::instance_name(&meta.set, meta.id);
    let doing = format!("writing metadata of domain {name}");
    let xml = metadata::element(meta)
        .to_xml()
        .map_err(|e| HypervisorError::new(FaultKind::Other, &doing, e.to_string()))?;
    let set = |flags: u32| {
        session.call(&doing, |_| {
            domain.set_metadata(ELEMENT, Some(&xml), Some(PREFIX), Some(NAMESPACE), flags)
        })
    };
    let both = sys::VIR_DOMAIN_AFFECT_LIVE | sys::VIR_DOMAIN_AFFECT_CONFIG;
    match set(both) {
        // It is off, so it has a definition only.
        Err(fault) if fault.is(sys::VIR_ERR_OPERATION_INVALID) => Ok(set(sys::VIR_DOMAIN_AFFECT_CONFIG)?),
        other => Ok(other?),
    }
}

/// Writes a new phase.
pub fn mark(session: &Session<'_>, owned: &mut Owned, phase: Phase) -> Result<(), HypervisorError> {
    if owned.meta.phase == phase {
        return Ok(());
    }
    owned.meta.phase = phase;
    write(session, &owned.domain, &owned.meta)
}

/// Notes whether the instance was stopped on purpose.
pub fn note_stopped(
    session: &Session<'_>,
    owned: &mut Owned,
    instance: &InstanceRef,
    stopped: bool,
) -> Result<(), HypervisorError> {
    if owned.meta.stopped == stopped {
        return Ok(());
    }
    owned.meta.stopped = stopped;
    owned.meta.epoch = Some(instance.epoch);
    write(session, &owned.domain, &owned.meta)
}

/// See [`crate::hypervisor::Hypervisor::protect`].
pub fn protect(
    session: &Session<'_>,
    instance: &InstanceRef,
    protection: Protection,
) -> Result<(), HypervisorError> {
    let mut owned = there(session, instance, &format!("protecting {}", instance.name))?;
    if owned.meta.protection == protection {
        return Ok(());
    }
    owned.meta.protection = protection;
    owned.meta.epoch = Some(instance.epoch);
    write(session, &owned.domain, &owned.meta)
}

/// See [`crate::hypervisor::Hypervisor::renote`].
pub fn renote(
    session: &Session<'_>,
    instance: &InstanceRef,
    host: &Label,
    fault_domain: &Label,
) -> Result<(), HypervisorError> {
    let doing = format!("noting {} again", instance.name);
    let mut owned = there(session, instance, &doing)?;
    let meta = &mut owned.meta;
    meta.moving_to = None;
    (meta.host, meta.fault_domain) = (host.clone(), fault_domain.clone());
    if matches!(meta.phase, Phase::Creating | Phase::Deleting) {
        meta.phase = Phase::Ready;
    }
    meta.epoch = Some(instance.epoch);
    write(session, &owned.domain, meta)
}

/// Somebody else's: left alone.
pub fn not_ours(doing: &str, why: &str) -> HypervisorError {
    HypervisorError::new(FaultKind::NotOurs, doing, format!("{why}; it was left untouched"))
}
