//! Making an instance: domain first, for its metadata is the note of intent that makes every later step recoverable;
//! then volumes, seed, start; last its phase becomes ready.

use std::time::Duration;

use super::connection::Session;
use super::domains::{self, Owned, mark};
use super::images::{self, Base};
use super::volumes::Pool;
use super::{Libvirt, delete, seeds, volume_xml};
use crate::hypervisor::domain_xml::{self, DiskMode, DomainType};
use crate::hypervisor::seed;
use crate::hypervisor::{FaultKind, HypervisorError, Stage};
use crate::inventory::Phase;
use crate::model::{Clone as CloneMode, Model};
use crate::plan::action::{InstanceRef, InstanceSpec};
use crate::units::Bytes;

/// How slowly a full clone may be copied before the host counts as hung.
const SLOWEST_COPY: u64 = 8 << 20;

/// See [`crate::hypervisor::Hypervisor::create`].
pub fn create(
    host: &Libvirt,
    session: &Session<'_>,
    spec: &InstanceSpec,
    model: &Model,
) -> Result<(), HypervisorError> {
    let name = spec.name();
    let pool = Pool::open(session, &host.pool)?;
    session.pulse().stage(Stage::Define);
    let is_new = match existing(session, spec)? {
        Found::Whole(owned) => return power_on(host, session, spec, model, &pool, *owned),
        Found::Half => false,
        Found::Nothing => true,
    };
    let owned = define(host, &pool, spec, model)?;
    session.safe_point(format_args!("creating {name}"))?;
    session.pulse().stage(Stage::Disks);
    // The instance's own note stands since it was defined. Whoever deletes an image takes its mark away first and looks
    // for such notes after: either the mark is seen to be gone here, or the note is seen there. So what is whole now stays.
    let copy = match base(&pool, spec, model) {
        Err(error) if is_new => {
            // Nothing was made yet that its note would have to tell of.
            delete::undefine(session, &name, &owned.domain)?;
            return Err(error);
        }
        found => found?,
    };
    os_disk(host, &pool, spec, model, &copy)?;
    let traits = session.traits()?;
    for (volume, disk) in domain_xml::data_volumes(spec, model)
        .iter()
        .zip(&model.data_disks)
    {
        session.safe_point(format_args!("creating {name}"))?;
        pool.replace(volume, volume_xml::thin(volume, disk.size, None, traits))?;
    }
    session.safe_point(format_args!("creating {name}"))?;
    session.pulse().stage(Stage::Seed);
    seeds::provide(&pool, &host.seeds, spec, model)?;
    session.safe_point(format_args!("creating {name}"))?;
    power_on(host, session, spec, model, &pool, owned)
}

enum Found {
    Nothing,
    /// An interrupted try of ours, switched off: everything but its domain is made anew.
    Half,
    /// Nothing but the start and the last mark can be missing.
    Whole(Box<Owned>),
}

fn existing(session: &Session<'_>, spec: &InstanceSpec) -> Result<Found, HypervisorError> {
    let name = spec.name();
    let Some(owned) = domains::find(session, &spec.reference())? else {
        return Ok(Found::Nothing);
    };
    let doing = format!("creating {name}");
    let busy = |how: &str| {
        let text = format!("an instance of that name is being {how}");
        HypervisorError::new(FaultKind::Other, &doing, text)
    };
    let same = owned.meta.model_hash == spec.model_hash;
    match owned.meta.phase {
        Phase::Ready => Ok(Found::Whole(Box::new(owned))),
        Phase::Changing => Err(busy("changed")),
        Phase::Deleting => Err(busy("deleted")),
        Phase::Creating => {
            let active = session.call(&doing, |_| owned.domain.is_active())?;
            if active && same {
                // It was started, which is the last step but one.
                return Ok(Found::Whole(Box::new(owned)));
            }
            if active {
                session.call(&doing, |_| owned.domain.destroy())?;
            }
            Ok(Found::Half)
        }
    }
}

fn no_image(pool: &Pool<'_, '_>, spec: &InstanceSpec) -> HypervisorError {
    HypervisorError::new(
        FaultKind::Missing,
        format!("creating {}", spec.name()),
        format!("image {} is not whole in pool {}", spec.image.short(), pool.name),
    )
}

fn base(pool: &Pool<'_, '_>, spec: &InstanceSpec, model: &Model) -> Result<Base, HypervisorError> {
    let own = Base::new(&spec.image, model.image.format, spec.store);
    if images::is_marked(pool, &own)? {
        return Ok(own);
    }
    if let Some(copy) = images::whole(pool, &spec.image, model.image.format, spec.store)? {
        return Ok(copy);
    }
    Err(no_image(pool, spec))
}

fn define(
    host: &Libvirt,
    pool: &Pool<'_, '_>,
    spec: &InstanceSpec,
    model: &Model,
) -> Result<Owned, HypervisorError> {
    let session = pool.session();
    let name = spec.name();
    let doing = format!("defining domain {name}");
    let details = session
        .traits()?
        .details(model.virtualization, &host.folder(pool)?, host.disk_mode())?;
    let seed = seed::volume(spec, model);
    let xml = domain_xml::domain_xml(spec, model, &seed, &details)
        .map_err(|e| HypervisorError::new(FaultKind::Unsupported, &doing, e.to_string()))?;
    // Whoever has the name has it under another UUID, and libvirt refuses.
    let domain = match session.call(&doing, |c| c.define_domain_xml(&xml)) {
        Err(fault) if fault.error.kind == FaultKind::NotOurs => {
            return Err(domains::not_ours(&doing, &fault.error.message));
        }
        defined => defined?,
    };
    let meta = spec.metadata(domain_xml::owned_volumes(spec, model, &seed));
    Ok(Owned { domain, meta })
}

fn os_disk(
    host: &Libvirt,
    pool: &Pool<'_, '_>,
    spec: &InstanceSpec,
    model: &Model,
    copy: &Base,
) -> Result<(), HypervisorError> {
    let session = pool.session();
    let name = domain_xml::os_volume(spec, model);
    let size = model.disk.max(model.image.virtual_size);
    match model.clone {
        CloneMode::Linked => {
            let path = format!("{}/{}", host.folder(pool)?, copy.name);
            let backing = Some((path.as_str(), copy.format));
            pool.replace(&name, volume_xml::thin(&name, size, backing, session.traits()?))?;
        }
        CloneMode::Full => {
            let base = images::settle_format(pool, copy)?;
            let plausible = Duration::from_secs(60 + model.image.virtual_size.0 / SLOWEST_COPY);
            let xml = volume_xml::copy(&name, model.image.virtual_size, copy.format);
            let volume = pool.copy(&name, xml, &base, plausible)?;
            grow(pool, &name, &volume, model.image.virtual_size, size)?;
        }
    }
    Ok(())
}

/// A copy begins with the image's size, for libvirt can't copy and grow at once.
fn grow(
    pool: &Pool<'_, '_>,
    name: &str,
    volume: &virt::storage_vol::StorageVol,
    from: Bytes,
    to: Bytes,
) -> Result<(), HypervisorError> {
    let session = pool.session();
    if to <= from || session.traits()?.simulated {
        return Ok(());
    }
    Ok(session.call(pool.doing("growing volume", name), |_| volume.resize(to.0, 0))?)
}

/// Starts the domain unless it runs, and marks it ready.
fn power_on(
    host: &Libvirt,
    session: &Session<'_>,
    spec: &InstanceSpec,
    model: &Model,
    pool: &Pool<'_, '_>,
    mut owned: Owned,
) -> Result<(), HypervisorError> {
    session.pulse().stage(Stage::Start);
    let started = boot(session, &spec.name(), &owned);
    if let Err(error) = started {
        let simulated = session.traits()?.domain_type(model.virtualization)? == DomainType::Test;
        if simulated || !error.message.contains("O_DIRECT") || !host.fall_back_to_cache() {
            return Err(error);
        }
        owned = define(host, pool, spec, model)?;
        boot(session, &spec.name(), &owned)?;
    }
    mark(session, &mut owned, Phase::Ready)
}

fn boot(session: &Session<'_>, name: &str, owned: &Owned) -> Result<(), HypervisorError> {
    let doing = format!("starting domain {name}");
    match session.call(&doing, |_| owned.domain.create()) {
        // It runs already, or somebody was faster: the drivers have different numbers for that.
        Err(_) if session.call(&doing, |_| owned.domain.is_active())? => Ok(()),
        other => Ok(other?),
    }
}

/// See [`crate::hypervisor::Hypervisor::start`].
pub fn start(session: &Session<'_>, instance: &InstanceRef) -> Result<(), HypervisorError> {
    let doing = format!("starting {}", instance.name);
    let Some(owned) = domains::find(session, instance)? else {
        return Err(HypervisorError::new(
            FaultKind::Missing,
            doing,
            "the instance is not there",
        ));
    };
    if owned.meta.phase != Phase::Ready {
        return Err(HypervisorError::new(
            FaultKind::Other,
            doing,
            "the instance is half made or half deleted",
        ));
    }
    boot(session, &instance.name, &owned)
}

impl Libvirt {
    /// The folder of the pool, asked for once: a pool does not move while anything runs from it.
    fn folder(&self, pool: &Pool<'_, '_>) -> Result<String, HypervisorError> {
        if let Some(folder) = self.folder.get() {
            return Ok(folder.clone());
        }
        let folder = pool.place()?.1.trim_end_matches('/').to_owned();
        Ok(self.folder.get_or_init(|| folder).clone())
    }

    /// How disks are opened on this host, as far as is known by now.
    fn disk_mode(&self) -> DiskMode {
        use std::sync::atomic::Ordering;
        if self.cached_disks.load(Ordering::Relaxed) {
            DiskMode::Cached
        } else {
            DiskMode::Direct
        }
    }

    /// Notes that the pool's file system can't do `O_DIRECT`. `true` if that is worth another try: it is unless disks
    /// were opened through the cache already.
    fn fall_back_to_cache(&self) -> bool {
        use std::sync::atomic::Ordering;
        self.cached_disks.store(true, Ordering::Relaxed);
        true
    }
}
