//! Deleting an instance: mark, shut down, switch off, delete its volumes and log, and last its domain, so that nothing is
//! ever left without the note that says whose it is.

use std::time::Duration;

use virt::domain::Domain;
use virt::sys;

use super::connection::Session;
use super::domains::{self, mark, own_volumes};
use super::volumes::{Pool, Proof};
use super::{Libvirt, logs, power};
use crate::hypervisor::{HypervisorError, Stage, Uses};
use crate::inventory::Phase;
use crate::plan::action::InstanceRef;

/// See [`crate::hypervisor::Hypervisor::delete`].
pub fn delete(
    host: &Libvirt,
    session: &Session<'_>,
    instance: &InstanceRef,
    shutdown: Duration,
    uses: &Uses,
) -> Result<(), HypervisorError> {
    let Some(mut owned) = domains::find(session, instance)? else {
        return Ok(());
    };
    let name = &instance.name;
    let doing = format!("deleting {name}");
    let pool = Pool::open(session, &host.pool)?;
    let proof = Proof::of_instance(uses, instance);
    pool.active()?;
    // Before anything is done: an instance without its disk would be of no use to anybody.
    for volume in own_volumes(instance, &owned.meta) {
        proof.clears(volume, &doing)?;
    }
    owned.meta.epoch = Some(instance.epoch);
    mark(session, &mut owned, Phase::Deleting)?;
    power::off(session, name, &owned.domain, shutdown, &doing)?;
    session.pulse().stage(Stage::DeleteDisks);
    for volume in own_volumes(instance, &owned.meta) {
        session.safe_point(&doing)?;
        pool.remove(volume, &proof)?;
    }
    logs::delete(&host.logs, session, name);
    session.pulse().stage(Stage::Undefine);
    undefine(session, name, &owned.domain)
}

/// See [`crate::hypervisor::Hypervisor::drop_copy`].
pub fn drop_copy(
    host: &Libvirt,
    session: &Session<'_>,
    instance: &InstanceRef,
    shutdown: Duration,
) -> Result<(), HypervisorError> {
    let Some(owned) = domains::find(session, instance)? else {
        return Ok(());
    };
    let name = &instance.name;
    let doing = format!("switching off the copy of {name}");
    power::off(session, name, &owned.domain, shutdown, &doing)?;
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
