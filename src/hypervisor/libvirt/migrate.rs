//! Moving a running instance to another host without shared storage, and settling what was cut short.
//!
//! libvirt's migration is driven from here, over the two connections that vmss has anyway: hosts need not reach each
//! other's libvirt. It goes in five calls (begin, prepare, perform, finish, confirm) that the client library makes
//! within one, and each daemon watches over the connection: when the client dies, a guest that is still arriving is
//! destroyed, and one that was leaving goes on, or stays held if all of it had been sent by then.
//!
//! The guest is held on arrival (`VIR_MIGRATE_PAUSED`) and let go by us, once its domain here is gone. libvirt would
//! let it go by itself, and take the source up again should the answer to that get lost: then both would run.
//!
//! What can't be helped from here: QEMU connects to the target's disks and writes to them without a deadline of its own.
//! Where the way between the hosts swallows packets rather than refusing them, the source's QEMU answers nobody until TCP
//! gives up, and nothing breaks that off. The action gives no sign of life then, and is settled later.

mod settle;

use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use virt::domain::{Domain, MigrateParameters};
use virt::storage_vol::StorageVol;
use virt::sys;

use super::connection::{Session, cancelled};
use super::domains::{self, Owned, own_volumes};
use super::images::{self, Base};
use super::parts::Parts;
use super::raw;
use super::sound;
use super::volumes::Pool;
use super::{Libvirt, seeds, volume_xml};
use crate::hypervisor::domain_xml::element::Element;
use crate::hypervisor::domain_xml::moving::{self, OpenDisk};
use crate::hypervisor::seed::{self, SeedVolume};
use crate::hypervisor::{FaultKind, HypervisorError, Pulse, Settled, Stage};
use crate::inventory::{Metadata, Phase};
use crate::model::{Firmware, ImageFormat, Model};
use crate::names::{Label, volume_name};
use crate::plan::action::{InstanceRef, InstanceSpec};
use crate::scaleset::Host;
use crate::units::Bytes;

pub use settle::settle;
use settle::{Run, run_of};

/// `NON_SHARED_INC` copies what a disk holds beyond what it is backed by, which is all of it for one that is backed by
/// nothing; what is read-only is not copied. With `AUTO_CONVERGE` a guest that writes faster than can be sent is
/// slowed down until it doesn't.
const FLAGS: u32 = sys::VIR_MIGRATE_LIVE
    | sys::VIR_MIGRATE_PERSIST_DEST
    | sys::VIR_MIGRATE_UNDEFINE_SOURCE
    | sys::VIR_MIGRATE_NON_SHARED_INC
    | sys::VIR_MIGRATE_ABORT_ON_ERROR
    | sys::VIR_MIGRATE_AUTO_CONVERGE
    | sys::VIR_MIGRATE_PAUSED;

/// How often a migration is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// One end of the way.
#[derive(Clone, Copy)]
struct End<'a> {
    name: &'a Label,
    uri: &'a str,
    host: &'a Libvirt,
}

/// An instance and the two hosts it is between.
pub struct Way<'a> {
    from: End<'a>,
    to: End<'a>,
    address: Option<&'a str>,
    instance: &'a InstanceRef,
    pulse: &'a Pulse,
}

impl<'a> Way<'a> {
    /// From one host to another.
    pub fn new(
        from: (&'a Host, &'a Libvirt),
        to: (&'a Host, &'a Libvirt),
        instance: &'a InstanceRef,
        pulse: &'a Pulse,
    ) -> Self {
        let end = |(host, opened): (&'a Host, &'a Libvirt)| End {
            name: &host.name,
            uri: &host.uri,
            host: opened,
        };
        Self {
            from: end(from),
            to: end(to),
            address: to.0.migration_address.as_deref(),
            instance,
            pulse,
        }
    }

    fn doing(&self) -> String {
        let (name, from, to) = (&self.instance.name, self.from.name, self.to.name);
        format!("moving {name} from {from} to {to}")
    }

    fn refuse(&self, kind: FaultKind, why: impl Into<String>) -> HypervisorError {
        HypervisorError::new(kind, self.doing(), why)
    }

    /// Where libvirt is to send it; nothing said, it is sent to what the target calls itself.
    fn uri(&self) -> Option<String> {
        let address = self.address?;
        Some(match address.contains(':') {
            true => format!("tcp://[{address}]"),
            false => format!("tcp://{address}"),
        })
    }
}

/// See [`crate::hypervisor::Hosts::migrate`].
pub fn migrate(
    way: &Way<'_>,
    spec: &InstanceSpec,
    model: &Model,
    patience: Duration,
) -> Result<(), HypervisorError> {
    way.pulse.stage(Stage::Define);
    if std::ptr::eq(way.from.host, way.to.host) {
        return Err(way.refuse(FaultKind::Other, "both are one host"));
    }
    let here = way.from.host.work.session(way.pulse)?;
    let there = way.to.host.work.session(way.pulse)?;
    if here.traits()?.simulated || there.traits()?.simulated {
        let text = "libvirt's simulation moves nothing";
        return Err(way.refuse(FaultKind::Unsupported, text));
    }
    // What an earlier attempt left comes first: it may have gone better than it looked.
    if settle(way)? == Settled::Moved {
        return Ok(());
    }
    here.safe_point(way.doing())?;
    let (source, target) = (
        Pool::open(&here, &way.from.host.pool)?,
        Pool::open(&there, &way.to.host.pool)?,
    );
    source.active()?;
    target.active()?;
    let parts = &Parts {
        host: way.to.host,
        pool: &target,
        spec,
        model,
    };
    let mut owned = domains::whole(&here, way.instance, &way.doing())?;
    let load = load(way, &source, &owned, parts)?;
    load.fits(way, &target, spec)?;
    seeds::check(spec, model)?;
    are_apart(way, &source, &target)?;
    nothing_is_in_the_way(way, &target, &load)?;
    owned.meta.moving_to = Some(way.to.name.clone());
    owned.meta.epoch = Some(way.instance.epoch);
    domains::write(&here, &owned.domain, &owned.meta)?;
    let outcome = go_over(way, &here, &owned, parts, &load, patience);
    match (outcome, settle(way)) {
        // Whatever was said on the way.
        (_, Ok(Settled::Moved)) => Ok(()),
        // The first error tells more than a second could.
        (Err(error), _) | (Ok(()), Err(error)) => Err(error),
        (Ok(()), Ok(Settled::Stayed)) => Err(way.refuse(
            FaultKind::Other,
            "libvirt says that it has been moved, but it is where it was",
        )),
    }
}

/// A disk that goes over.
struct Disk {
    volume: String,
    format: ImageFormat,
    size: Bytes,
    allocation: Bytes,
    /// The image it is an overlay on.
    base: Option<Base>,
}

/// What goes over.
struct Load {
    running: Element,
    disks: Vec<Disk>,
    /// The volume that the guest reads its seed from, there.
    seed: Option<String>,
    /// The note it will have there.
    note: Metadata,
}

/// What the guest has open, all of which must be the instance's own: nothing is left behind, nothing is guessed.
fn load(
    way: &Way<'_>,
    source: &Pool<'_, '_>,
    owned: &Owned,
    parts: &Parts<'_, '_, '_>,
) -> Result<Load, HypervisorError> {
    let (session, spec, model, meta) = (source.session(), parts.spec, parts.model, &owned.meta);
    if model.firmware == Firmware::Uefi {
        let text = "it has UEFI firmware, whose variables would stay behind";
        return Err(way.refuse(FaultKind::Unsupported, text));
    }
    if (meta.revision, &meta.model_hash) != (spec.revision, &spec.model_hash) {
        let text = format!("it is of revision {}, not {}", meta.revision, spec.revision);
        return Err(way.refuse(FaultKind::Other, text));
    }
    if run_of(session, &owned.domain, &way.doing())? != Run::On {
        return Err(way.refuse(FaultKind::Other, "it is not running"));
    }
    let xml = session.call(way.doing(), |_| {
        owned.domain.xml_desc(sys::VIR_DOMAIN_XML_MIGRATABLE)
    })?;
    let running = Element::parse(&xml).map_err(|e| way.refuse(FaultKind::Other, e.to_string()))?;
    let seed_volume = seed::volume(spec, model);
    let mut disks = Vec::new();
    for open in moving::open_disks(&running) {
        if !open.is_read_only {
            disks.push(disk(way, source, meta, &open)?);
            continue;
        }
        // Also one that a former store had made: its guest reads that until it is started anew.
        let is_seed = (open.volume()).is_some_and(|v| seed::is_seed_of(way.instance, v));
        if !is_seed || seed_volume == SeedVolume::None {
            return Err(not_of_vmss(way, &open));
        }
    }
    let mut volumes = parts.volumes();
    let own_seed = |v: &String| matches!(&seed_volume, SeedVolume::Own(seed) if seed == v);
    let is_open = |v: &String| disks.iter().any(|d| d.volume == *v);
    if let Some(missing) = volumes.iter().find(|v| !own_seed(v) && !is_open(v)) {
        let text = format!("its guest has no disk in volume {missing}: restart it first");
        return Err(way.refuse(FaultKind::Unsupported, text));
    }
    let more = disks.iter().map(|d| &d.volume).filter(|v| !volumes.contains(v));
    let more: Vec<String> = more.cloned().collect();
    volumes.extend(more);
    Ok(Load {
        note: Metadata {
            epoch: Some(spec.epoch),
            host: way.to.name.clone(),
            fault_domain: spec.fault_domain.clone(),
            phase: Phase::Ready,
            volumes,
            moving_to: Some(way.to.name.clone()),
            ..meta.clone()
        },
        seed: seed_volume.name().map(str::to_owned),
        running,
        disks,
    })
}

fn not_of_vmss(way: &Way<'_>, open: &OpenDisk) -> HypervisorError {
    let what = open.file.as_deref().unwrap_or("no file");
    let text = format!("its disk {} ({what}) is none that vmss gave it", open.target);
    way.refuse(FaultKind::Unsupported, text)
}

fn disk(
    way: &Way<'_>,
    source: &Pool<'_, '_>,
    meta: &Metadata,
    open: &OpenDisk,
) -> Result<Disk, HypervisorError> {
    let formats = [ImageFormat::Qcow2, ImageFormat::Raw];
    let format = formats.into_iter().find(|f| f.as_str() == open.format);
    let own = open
        .volume()
        .filter(|v| own_volumes(way.instance, meta).any(|o| o == v));
    let (Some(format), Some(name)) = (format, own) else {
        return Err(not_of_vmss(way, open));
    };
    let session = source.session();
    let there: StorageVol = source.find(name)?.ok_or_else(|| {
        let text = format!("its volume {name} is not in pool {}", source.name);
        way.refuse(FaultKind::Missing, text)
    })?;
    let info = session.call(source.doing("looking at volume", name), |_| there.info())?;
    let described = source.describe(&there)?;
    let backing = described.path(["backingStore", "path"]).map(|p| p.text.as_str());
    let base = match backing.filter(|path| !path.is_empty()) {
        None => None,
        Some(path) => Some(path.rsplit('/').next().and_then(Base::parse).ok_or_else(|| {
            let text = format!("its volume {name} is backed by {path}, which is no image of vmss's");
            way.refuse(FaultKind::Unsupported, text)
        })?),
    };
    Ok(Disk {
        volume: name.to_owned(),
        format,
        size: Bytes(info.capacity),
        allocation: Bytes(info.allocation),
        base,
    })
}

impl Load {
    /// Whether the target has what is needed, and room.
    fn fits(&self, way: &Way<'_>, target: &Pool<'_, '_>, spec: &InstanceSpec) -> Result<(), HypervisorError> {
        for disk in &self.disks {
            if let Some(base) = &disk.base {
                whole(way, target, base, spec)?;
            }
        }
        let looking = format!("looking at pool {}", target.name);
        let free = target
            .session()
            .call(looking, |_| target.handle.info())?
            .available;
        let needed: Bytes = self.disks.iter().map(|d| d.allocation).sum();
        if needed.0 > free {
            let text = format!(
                "pool {} has {} free, its disks take {needed}",
                target.name,
                Bytes(free)
            );
            return Err(way.refuse(FaultKind::NoSpace, text));
        }
        Ok(())
    }
}

fn whole(
    way: &Way<'_>,
    target: &Pool<'_, '_>,
    base: &Base,
    spec: &InstanceSpec,
) -> Result<Base, HypervisorError> {
    let copy = images::whole(target, &base.digest, base.format, spec.store)?.ok_or_else(|| {
        let text = format!(
            "image {} is not whole in pool {}",
            base.digest.short(),
            target.name
        );
        way.refuse(FaultKind::Missing, text)
    })?;
    // How long it was is not known here: it may be the image of an earlier revision.
    sound::check(&way.to.host.bases, target, &copy, None, spec.store)?;
    Ok(copy)
}

/// Makes sure that the two pools are not one folder: then a volume made there would be the disk that is in use here,
/// and the one deleted here the disk in use there.
fn are_apart(way: &Way<'_>, source: &Pool<'_, '_>, target: &Pool<'_, '_>) -> Result<(), HypervisorError> {
    let i = way.instance;
    let probe = volume_name(&i.set, i.id, i.uuid, "probe", "img");
    source.delete(&probe)?;
    target.replace(&probe, volume_xml::raw(&probe, 0))?;
    // libvirt makes no volume over a file that is there, even one that it did not know of.
    let outcome = source.create(&probe, volume_xml::raw(&probe, 0));
    let deleted = outcome.is_ok().then(|| source.delete(&probe)).transpose();
    target.delete(&probe)?;
    match outcome {
        Err(error) if error.message.contains("exist") => {
            let text = format!(
                "pools {} and {} are one folder: nothing was touched",
                source.name, target.name
            );
            Err(way.refuse(FaultKind::Unsupported, text))
        }
        Err(error) => Err(error),
        Ok(_) => deleted.map(drop),
    }
}

/// Makes sure that the target has no volume of a name that the instance's will have there: an operator has put it there, as a copy,
/// or an earlier move has left it and it was not swept yet. In either case it is not this move's to replace.
fn nothing_is_in_the_way(way: &Way<'_>, target: &Pool<'_, '_>, load: &Load) -> Result<(), HypervisorError> {
    // Whoever copied a file there did so behind the daemon's back.
    target.refresh();
    for name in &load.note.volumes {
        if target.find(name)?.is_some() {
            let why = format!("pool {} has a volume {name} already", target.name);
            return Err(domains::not_ours(&way.doing(), &why));
        }
    }
    Ok(())
}

/// Everything from the first volume on the target to the end of libvirt's part.
fn go_over(
    way: &Way<'_>,
    here: &Session<'_>,
    owned: &Owned,
    parts: &Parts<'_, '_, '_>,
    load: &Load,
    patience: Duration,
) -> Result<(), HypervisorError> {
    let (target, host) = (parts.pool, parts.host);
    way.pulse.stage(Stage::Disks);
    for disk in &load.disks {
        here.safe_point(way.doing())?;
        make(way, parts, disk)?;
    }
    here.safe_point(way.doing())?;
    way.pulse.stage(Stage::Seed);
    seeds::provide(target, &host.seeds, parts.spec, parts.model)?;
    here.safe_point(way.doing())?;
    way.pulse.stage(Stage::Migrate);
    let send = || {
        let details = parts.details()?;
        let (name, seed) = (&way.instance.name, load.seed.as_deref());
        let running = moving::moved(&load.running, &load.note, name, seed, &details);
        let running = running
            .to_xml()
            .map_err(|e| way.refuse(FaultKind::Unsupported, e.to_string()))?;
        let lasting = parts.definition(&load.note, &details, &way.doing())?;
        let parameters = MigrateParameters {
            uri: way.uri(),
            dest_xml: Some(running),
            persist_xml: Some(lasting),
            ..MigrateParameters::default()
        };
        transfer(way, here, target.session(), &owned.domain, parameters, patience)
    };
    match send() {
        // The pool there is on a file system without it. Its volumes hold nothing yet.
        Err(error) if error.message.contains("O_DIRECT") && !host.cached_disks.load(Ordering::Relaxed) => {
            host.cached_disks.store(true, Ordering::Relaxed);
            send()
        }
        sent => sent,
    }
}

/// Makes the volume that a disk is copied to.
fn make(way: &Way<'_>, parts: &Parts<'_, '_, '_>, disk: &Disk) -> Result<(), HypervisorError> {
    let (target, name) = (parts.pool, disk.volume.as_str());
    let traits = target.session().traits()?;
    let Some(base) = &disk.base else {
        let xml = match disk.format {
            ImageFormat::Qcow2 => volume_xml::thin(name, disk.size, None, traits),
            ImageFormat::Raw => volume_xml::raw(name, disk.size.0),
        };
        return target.create(name, xml).map(drop);
    };
    let copy = whole(way, target, base, parts.spec)?;
    let path = format!("{}/{}", parts.host.folder(target)?, copy.name);
    let backing = Some((path.as_str(), copy.format));
    target.create(name, volume_xml::thin(name, disk.size, backing, traits))?;
    // Whoever deletes an image takes its mark away first and looks for what is backed by it after. Either the mark is
    // seen to be gone here, or this volume is seen there.
    if images::is_marked(target, &copy)? {
        return Ok(());
    }
    let text = format!(
        "image {} is being deleted from pool {}",
        copy.digest.short(),
        target.name
    );
    Err(way.refuse(FaultKind::Missing, text))
}

/// libvirt's part, watched over.
fn transfer(
    way: &Way<'_>,
    here: &Session<'_>,
    there: &Session<'_>,
    domain: &Domain,
    parameters: MigrateParameters,
    patience: Duration,
) -> Result<(), HypervisorError> {
    // On the other connection: this one is busy with the migration, and may carry no more than one call.
    let quiet = Pulse::silent();
    let look = way.from.host.look.session(&quiet)?;
    let uuid = way.instance.uuid.to_string();
    let seen = look.call(way.doing(), |c| c.lookup_domain_by_uuid_string(&uuid))?;
    let (done, ended) = mpsc::channel::<()>();
    let (moved, broken_off) = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(way, &look, &seen, ended, patience));
        let moved = here.call_with(there, way.doing(), |_, target| {
            domain.migrate3(target, parameters, FLAGS)
        });
        drop(done);
        (moved, watcher.join().unwrap_or(None))
    });
    match (moved, broken_off) {
        (Ok(_), _) => Ok(()),
        (Err(_), Some(error)) => Err(error),
        (Err(fault), None) => Err(fault.error),
    }
}

/// Tells how far it is. Breaks it off when the operator asks, or nothing has been sent for as long as a call may
/// take: then that is returned.
fn watch(
    way: &Way<'_>,
    look: &Session<'_>,
    domain: &Domain,
    ended: mpsc::Receiver<()>,
    patience: Duration,
) -> Option<HypervisorError> {
    let mut last = None;
    let mut moved_at = Instant::now();
    let mut broken_off = None;
    while ended.recv_timeout(LOOK) == Err(mpsc::RecvTimeoutError::Timeout) {
        // Before and after the sending there is no job, but single calls, each with the patience of a call.
        let Ok(Some(job)) = look.call(way.doing(), |_| raw::job(domain)) else {
            continue;
        };
        if last != Some(job) {
            last = Some(job);
            moved_at = Instant::now();
            way.pulse.bytes(job.done, job.total.max(job.done));
        }
        let is_stuck = moved_at.elapsed() > patience.mul_f64(0.8);
        if broken_off.is_none() && (is_stuck || way.pulse.is_cancelled()) {
            let aborted = look.call(way.doing(), |_| raw::abort_job(domain));
            broken_off = aborted.is_ok().then(|| match is_stuck {
                true => {
                    let text = format!("nothing was sent for {} s", moved_at.elapsed().as_secs());
                    way.refuse(FaultKind::TimedOut, text)
                }
                false => cancelled(way.doing()),
            });
        }
    }
    broken_off
}
