//! Deleting an instance: mark, shut down, switch off, delete its volumes and log, and last its domain, so that nothing is
//! ever left without the note that says whose it is.

use std::time::Duration;

use virt::domain::Domain;
use virt::sys;

use super::connection::Session;
use super::domains::{self, mark, own_volumes};
use super::volumes::Pool;
use super::{Libvirt, logs, power};
use crate::hypervisor::{HypervisorError, Stage};
use crate::inventory::Phase;
use crate::plan::action::InstanceRef;

/// See [`crate::hypervisor::Hypervisor::delete`].
pub fn delete(
    host: &Libvirt,
    session: &Session<'_>,
    instance: &InstanceRef,
    shutdown: Duration,
) -> Result<(), HypervisorError> {
    let Some(mut owned) = domains::find(session, instance)? else {
        return Ok(());
    };
    let name = &instance.name;
    mark(session, &mut owned, Phase::Deleting)?;
    let doing = format!("deleting {name}");
    power::off(session, name, &owned.domain, shutdown, &doing)?;
    session.pulse().stage(Stage::DeleteDisks);
    let pool = Pool::open(session, &host.pool)?;
    for volume in own_volumes(instance, &owned.meta) {
        session.safe_point(&doing)?;
        pool.delete(volume)?;
    }
    logs::delete(&host.logs, session, name);
    session.pulse().stage(Stage::Undefine);
    undefine(session, name, &owned.domain)
}

/// Takes the domain's definition away; none there is fine.
pub fn undefine(session: &Session<'_>, name: &str, domain: &Domain) -> Result<(), HypervisorError> {
    let doing = format!("undefining domain {name}");
    let saved = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA;
    let firmware = sys::VIR_DOMAIN_UNDEFINE_NVRAM;
    let checkpoints = sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
    // With fewer flags where the driver or its version doesn't know them all.
    for flags in [saved | firmware | checkpoints, saved | firmware, saved, 0] {
        match session.call(&doing, |_| domain.undefine_flags(flags)) {
            Ok(()) => return Ok(()),
            Err(fault) if fault.is(sys::VIR_ERR_NO_DOMAIN) => return Ok(()),
            Err(fault) if fault.unsupported() && flags != 0 => {}
            Err(fault) => return Err(fault.error),
        }
    }
    Ok(())
}
