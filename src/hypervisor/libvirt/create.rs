//! Making an instance: domain first, for its metadata is the note of intent that makes every later step recoverable;
//! then volumes, seed, start; last its phase becomes ready.

use super::connection::Session;
use super::domains::{self, Owned, mark};
use super::parts::Parts;
use super::volumes::Pool;
use super::{Libvirt, delete};
use crate::hypervisor::domain_xml;
use crate::hypervisor::{FaultKind, HypervisorError, Stage};
use crate::inventory::Phase;
use crate::model::Model;
use crate::plan::action::InstanceSpec;

/// See [`crate::hypervisor::Hypervisor::create`].
pub fn create(
    host: &Libvirt,
    session: &Session<'_>,
    spec: &InstanceSpec,
    model: &Model,
) -> Result<(), HypervisorError> {
    let name = spec.name();
    let doing = format!("creating {name}");
    let pool = &Pool::open(session, &host.pool)?;
    let parts = Parts {
        host,
        pool,
        spec,
        model,
    };
    session.pulse().stage(Stage::Define);
    let is_new = match existing(session, spec, &doing)? {
        Found::Whole(owned) => return power_on(&parts, *owned),
        Found::Half => false,
        Found::Nothing => true,
    };
    let owned = parts.define(&spec.metadata(parts.volumes()))?;
    session.safe_point(&doing)?;
    session.pulse().stage(Stage::Disks);
    let copy = match parts.base(&doing) {
        Err(error) if is_new => {
            // Nothing was made yet that its note would have to tell of.
            delete::undefine(session, &name, &owned.domain)?;
            return Err(error);
        }
        found => found?,
    };
    parts.os_disk(&copy)?;
    for (volume, disk) in domain_xml::data_volumes(spec, model)
        .iter()
        .zip(&model.data_disks)
    {
        session.safe_point(&doing)?;
        parts.data_disk(volume, disk.size)?;
    }
    session.safe_point(&doing)?;
    session.pulse().stage(Stage::Seed);
    parts.seed()?;
    session.safe_point(&doing)?;
    power_on(&parts, owned)
}

/// Starts the domain unless it runs, and marks it ready.
fn power_on(parts: &Parts<'_, '_, '_>, mut owned: Owned) -> Result<(), HypervisorError> {
    // What an operator has stopped is whole, and stays off until it is started.
    if !owned.meta.stopped {
        parts.power_on(&mut owned, 0)?;
    }
    mark(parts.session(), &mut owned, Phase::Ready)
}

enum Found {
    Nothing,
    /// An interrupted try of ours, switched off: everything but its domain is made anew.
    Half,
    /// Nothing but the start and the last mark can be missing.
    Whole(Box<Owned>),
}

fn existing(session: &Session<'_>, spec: &InstanceSpec, doing: &str) -> Result<Found, HypervisorError> {
    let Some(owned) = domains::find(session, &spec.reference())? else {
        return Ok(Found::Nothing);
    };
    let busy = |how: &str| {
        let text = format!("an instance of that name is being {how}");
        HypervisorError::new(FaultKind::Other, doing, text)
    };
    domains::not_moving(&owned.meta, doing)?;
    let same = owned.meta.model_hash == spec.model_hash;
    match owned.meta.phase {
        Phase::Ready => Ok(Found::Whole(Box::new(owned))),
        Phase::Changing => Err(busy("changed")),
        Phase::Deleting => Err(busy("deleted")),
        Phase::Creating => {
            let active = session.call(doing, |_| owned.domain.is_active())?;
            if active && same {
                // It was started, which is the last step but one.
                return Ok(Found::Whole(Box::new(owned)));
            }
            if active {
                session.call(doing, |_| owned.domain.destroy())?;
            }
            Ok(Found::Half)
        }
    }
}
