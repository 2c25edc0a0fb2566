//! Handing a set over to another store.

use virt::domain::Domain;
use virt::sys;

use super::connection::Session;
use super::domains::{self, Note};
use super::observe::all;
use crate::hypervisor::{FaultKind, HypervisorError};
use crate::inventory::Metadata;
use crate::names::{Label, StoreId, parse_instance_name};

/// Every vmss instance on the host with its metadata.
fn instances(session: &Session<'_>) -> Result<Vec<(Domain, Metadata)>, HypervisorError> {
    let mut found = Vec::new();
    for domain in all(session)? {
        let name = domain.name().unwrap_or_default();
        // No instance's name is without a hyphen, and most other people's are.
        if !name.contains('-') {
            continue;
        }
        match domains::read(session, &domain, &name) {
            Ok(Note::Read(meta)) if parse_instance_name(&meta.set, &name) == Some(meta.id) => {
                found.push((domain, *meta));
            }
            // One that can't be read is told as a stranger.
            Ok(_) => {}
            Err(fault) if fault.is(sys::VIR_ERR_NO_DOMAIN) => {}
            Err(fault) => return Err(fault.error),
        }
    }
    Ok(found)
}

/// See [`crate::hypervisor::Hypervisor::adopt`].
pub fn adopt(
    session: &Session<'_>,
    set: &Label,
    from: StoreId,
    to: StoreId,
) -> Result<usize, HypervisorError> {
    let mut changed = 0;
    for (domain, mut meta) in instances(session)? {
        if meta.set == *set && meta.store == from {
            meta.store = to;
            match domains::write(session, &domain, &meta) {
                Ok(()) => changed += 1,
                // It went meanwhile.
                Err(error) if error.kind == FaultKind::Missing => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(changed)
}
