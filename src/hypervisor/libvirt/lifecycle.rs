//! Making, starting and deleting instances. See [`crate::hypervisor::Hypervisor`] for the order and why it is so.

use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt::sys;

use crate::hypervisor::domain_xml::{self, Disk, Ground, Volume};
use crate::hypervisor::libvirt::connection::{code, fault};
use crate::hypervisor::libvirt::observe::{agent_is_connected, metadata};
use crate::hypervisor::libvirt::{Libvirt, Result, images, volumes};
use crate::hypervisor::seed::{self, Seed};
use crate::hypervisor::{FaultKind, HypervisorError, Pulse, Stage, metadata_xml};
use crate::inventory::{Metadata, Phase};
use crate::model::{Clone as CloneMode, ImageFormat, Model, Virtualization};
use crate::names::{Label, StoreId, parse_volume_name, volume_name};
use crate::plan::action::{InstanceRef, InstanceSpec};

/// ACPI's button is pressed again after so long: a guest that was still booting did not hear the first time.
const PRESS_AGAIN: Duration = Duration::from_secs(10);
/// How often a guest that did not hear is looked at for its agent.
const LOOK_FOR_AGENT: Duration = Duration::from_secs(1);
/// How often a guest that shuts down is looked at.
const LOOK: Duration = Duration::from_millis(100);

impl Libvirt {
    pub(super) fn make(&self, spec: &InstanceSpec, model: &Model, pulse: &Pulse) -> Result<()> {
        let name = spec.name();
        let c = self.work.get()?;
        let pool = self.pool(&c)?;
        let doing = |what: &str| format!("{what} {name} on {}", self.name);
        if self
            .there_already(&c, spec)?
            .is_some_and(|meta| meta.phase == Phase::Ready)
        {
            return self.start_ours(&spec.reference());
        }
        let seed = seed::seed(spec, model)
            .map_err(|e| HypervisorError::new(FaultKind::Other, doing("preparing"), e))?;
        let Some((base, format)) = images::find(&pool, &spec.image)? else {
            let message = format!("the image {} is not on the host", spec.image.short());
            return Err(HypervisorError::new(FaultKind::Missing, doing("making"), message));
        };
        let folder =
            pool_folder(&pool).map_err(|e| HypervisorError::new(FaultKind::Other, doing("preparing"), e))?;
        let disks = disks(spec, model);
        let ground = Ground {
            domain_type: self.domain_type(&c, model)?,
            arch: arch(&c),
            disks: (disks.iter())
                .map(|(volume, _, serial)| Disk {
                    path: format!("{folder}/{volume}"),
                    serial: serial.clone(),
                })
                .collect(),
            seed: (format!("{folder}/{}", seed.volume), seed.shared),
        };
        let mut owned: Vec<String> = disks.iter().map(|(volume, ..)| volume.clone()).collect();
        if !seed.shared {
            owned.push(seed.volume.clone());
        }
        let mut meta = spec.metadata(owned);

        pulse.stage(Stage::Define);
        let xml = domain_xml::domain(spec, model, &meta, &ground)
            .map_err(|e| HypervisorError::new(FaultKind::Other, doing("defining"), e.to_string()))?;
        let domain = c
            .define_domain_xml(&xml)
            .map_err(|e| fault(&e, doing("defining")))?;
        stop_if_asked(pulse, || doing("making"))?;

        pulse.stage(Stage::Disks);
        for (i, (volume, size, _)) in disks.iter().enumerate() {
            if i == 0 {
                self.os_disk(&c, &pool, volume, *size, model, &base, format)?;
            } else {
                volumes::make(
                    &pool,
                    &Volume {
                        name: volume,
                        format: "qcow2",
                        capacity: *size,
                        backing: None,
                    },
                )?;
            }
            pulse.beat();
        }
        // Another store's prune may have taken the image between the look and the overlay: then this would be a disk
        // without its beginning.
        if images::find(&pool, &spec.image)?.is_none() {
            let message = format!("the image {} was deleted meanwhile", spec.image.short());
            return Err(HypervisorError::new(FaultKind::Missing, doing("making"), message));
        }
        stop_if_asked(pulse, || doing("making"))?;

        pulse.stage(Stage::Seed);
        self.write_seed(&c, &pool, &seed, pulse)?;
        stop_if_asked(pulse, || doing("making"))?;

        pulse.stage(Stage::Start);
        start(&domain, || doing("starting"))?;
        meta.phase = Phase::Ready;
        write_metadata(&domain, &meta, || doing("marking as ready"))
    }

    /// What is there under the new instance's name: nothing, its own beginning, or somebody else's domain.
    fn there_already(&self, c: &Connect, spec: &InstanceSpec) -> Result<Option<Metadata>> {
        let name = spec.name();
        let doing = || format!("making {name} on {}", self.name);
        match c.lookup_domain_by_name(&name) {
            Err(e) if code(&e) == ErrorNumber::NoDomain => Ok(None),
            Err(e) => Err(fault(&e, doing())),
            Ok(domain) => {
                let uuid = domain.uuid().map_err(|e| fault(&e, doing()))?;
                match metadata(&domain) {
                    Some(meta) if uuid == spec.uuid && meta.store == spec.store && meta.set == spec.set => {
                        Ok(Some(meta))
                    }
                    _ => Err(HypervisorError::new(
                        FaultKind::NotOurs,
                        doing(),
                        format!(
                            "a domain named {name} is there and is not of this set; it was left untouched"
                        ),
                    )),
                }
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "two kinds of disk from one image: a struct would only name them again"
    )]
    fn os_disk(
        &self,
        c: &Connect,
        pool: &StoragePool,
        name: &str,
        size: u64,
        model: &Model,
        base: &StorageVol,
        format: ImageFormat,
    ) -> Result<()> {
        if self.is_rehearsal(c)? {
            let plain = Volume {
                name,
                format: "qcow2",
                capacity: size,
                backing: None,
            };
            return volumes::make(pool, &plain).map(|_| ());
        }
        if model.clone == CloneMode::Linked {
            let path = volumes::path(base, "the image")?;
            let overlay = Volume {
                name,
                format: "qcow2",
                capacity: size,
                backing: Some((&path, format.as_str())),
            };
            return volumes::make(pool, &overlay).map(|_| ());
        }
        let doing = format!("copying the image to {name}");
        volumes::delete(pool, name)?;
        let full = Volume {
            name,
            format: "qcow2",
            capacity: model.image.virtual_size.0,
            backing: None,
        };
        let xml = domain_xml::volume(&full)
            .map_err(|e| HypervisorError::new(FaultKind::Other, doing.clone(), e.to_string()))?;
        let volume =
            StorageVol::create_xml_from(pool, &xml, base, 0).map_err(|e| fault(&e, doing.clone()))?;
        if size > model.image.virtual_size.0 {
            volume.resize(size, 0).map_err(|e| fault(&e, doing))?;
        }
        Ok(())
    }

    /// A seed of an instance's own is made anew; a shared one is made if it is not there, or was left half-written.
    fn write_seed(&self, c: &Connect, pool: &StoragePool, seed: &Seed, pulse: &Pulse) -> Result<()> {
        let volume = Volume {
            name: &seed.volume,
            format: "raw",
            capacity: seed.bytes.len() as u64,
            backing: None,
        };
        let doing = format!("writing the seed {}", seed.volume);
        let rehearsal = self.is_rehearsal(c)?;
        if !seed.shared {
            let made = volumes::make(pool, &volume)?;
            return if rehearsal {
                Ok(())
            } else {
                volumes::fill(c, &made, &seed.bytes, &doing, pulse)
            };
        }
        let _making = self.seed_making.lock().unwrap_or_else(PoisonError::into_inner);
        let there = pool.lookup_storage_vol_by_name(&seed.volume).ok();
        let known = self
            .seeds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&seed.volume);
        match there {
            Some(_) if known || rehearsal => return Ok(()),
            // Guests may be reading it: it is only written over when it is not what it should be, which no guest
            // could have started from.
            Some(there) => {
                if !volumes::holds(c, &there, &seed.bytes, &doing, pulse)? {
                    volumes::fill(c, &there, &seed.bytes, &doing, pulse)?;
                }
            }
            None => {
                let made = volumes::make(pool, &volume)?;
                if !rehearsal {
                    volumes::fill(c, &made, &seed.bytes, &doing, pulse)?;
                }
            }
        }
        self.seeds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(seed.volume.clone());
        Ok(())
    }

    fn domain_type(&self, c: &Connect, model: &Model) -> Result<&'static str> {
        if self.is_rehearsal(c)? {
            return Ok("test");
        }
        let kvm = || {
            c.capabilities()
                .is_ok_and(|xml| xml.contains("<domain type='kvm'"))
        };
        match model.virtualization {
            Virtualization::Qemu => Ok("qemu"),
            Virtualization::Auto => Ok(if kvm() { "kvm" } else { "qemu" }),
            Virtualization::Kvm if kvm() => Ok("kvm"),
            Virtualization::Kvm => Err(HypervisorError::new(
                FaultKind::Unsupported,
                format!("choosing the virtualization on {}", self.name),
                "the host offers no KVM; switch on virtualization in its firmware, or set instance.virtualization",
            )),
        }
    }

    pub(super) fn start_ours(&self, instance: &InstanceRef) -> Result<()> {
        let c = self.work.get()?;
        let doing = || format!("starting {} on {}", instance.name, self.name);
        match self.ours(&c, instance)? {
            Some((domain, _)) => start(&domain, doing),
            None => Err(HypervisorError::new(FaultKind::Missing, doing(), "it is gone")),
        }
    }

    pub(super) fn unmake(&self, instance: &InstanceRef, shutdown: Duration, pulse: &Pulse) -> Result<()> {
        let c = self.work.get()?;
        let doing = |what: &str| format!("{what} {} on {}", instance.name, self.name);
        let Some((domain, mut meta)) = self.ours(&c, instance)? else {
            return Ok(());
        };
        if meta.phase != Phase::Deleting {
            meta.phase = Phase::Deleting;
            write_metadata(&domain, &meta, || doing("marking as being deleted"))?;
        }
        pulse.beat();
        let active = domain.is_active().map_err(|e| fault(&e, doing("looking at")))?;
        if active && !shutdown.is_zero() && !self.is_rehearsal(&c)? {
            pulse.stage(Stage::ShutDown);
            ask_to_shut_down(&domain, shutdown, pulse);
        }
        pulse.stage(Stage::Destroy);
        match domain.destroy() {
            Ok(()) => {}
            Err(e) if matches!(code(&e), ErrorNumber::OperationInvalid | ErrorNumber::NoDomain) => {}
            Err(e) => return Err(fault(&e, doing("switching off"))),
        }
        pulse.stage(Stage::DeleteDisks);
        let pool = self.pool(&c)?;
        for volume in &meta.volumes {
            // The note was written by us, but by whom may it have been edited since? Only names that prove themselves.
            if parse_volume_name(instance.store, &instance.set, volume) == Some(instance.id)
                || meta_volume_of_adopted(&domain, &meta, volume)
            {
                volumes::delete(&pool, volume)?;
            }
            pulse.beat();
        }
        pulse.stage(Stage::Undefine);
        undefine(&domain, || doing("undefining"))
    }

    pub(super) fn take_over(&self, set: &Label, from: StoreId, to: StoreId) -> Result<usize> {
        let c = self.work.get()?;
        let mut changed = 0;
        for domain in c
            .list_all_domains(0)
            .map_err(|e| fault(&e, format!("looking at the domains of {}", self.name)))?
        {
            let Some(mut meta) = metadata(&domain).filter(|m| &m.set == set && m.store == from) else {
                continue;
            };
            meta.store = to;
            write_metadata(&domain, &meta, || {
                format!("adopting {set}-{} on {}", meta.id, self.name)
            })?;
            changed += 1;
        }
        Ok(changed)
    }
}

/// Volumes of an instance that was adopted still have the names that its first store gave them: they prove themselves by
/// the domain's own UUID, which never changes.
fn meta_volume_of_adopted(domain: &Domain, meta: &Metadata, volume: &str) -> bool {
    let Ok(uuid) = domain.uuid() else { return false };
    let tag = &uuid.simple().to_string()[..8];
    volume.starts_with(&format!("{}-{}-{tag}-", meta.set, meta.id))
}

fn stop_if_asked(pulse: &Pulse, doing: impl Fn() -> String) -> Result<()> {
    if pulse.is_cancelled() {
        Err(HypervisorError::new(FaultKind::Cancelled, doing(), "stopped"))
    } else {
        Ok(())
    }
}

/// Volumes of an instance's disks: name, size in bytes, serial.
fn disks(spec: &InstanceSpec, model: &Model) -> Vec<(String, u64, Option<String>)> {
    let name = |part: &str| volume_name(&spec.set, spec.id, spec.uuid, part, "qcow2");
    let data = model.data_disks.iter().map(|d| {
        (
            name(&format!("data-{}", d.name)),
            d.size.0,
            Some(d.name.to_string()),
        )
    });
    std::iter::once((name("os"), model.disk.0, None))
        .chain(data)
        .collect()
}

/// The folder of a pool, from its XML.
pub(super) fn pool_folder(pool: &StoragePool) -> std::result::Result<String, String> {
    let xml = pool.xml_desc(0).map_err(|e| e.message().to_owned())?;
    let document = roxmltree::Document::parse(&xml).map_err(|e| e.to_string())?;
    let kind = document.root_element().attribute("type").unwrap_or_default();
    if !matches!(kind, "dir" | "fs" | "netfs") {
        return Err(format!(
            "the pool is of type {kind}: images and disks need a directory (dir, fs or netfs)"
        ));
    }
    let target = document
        .root_element()
        .children()
        .find(|n| n.has_tag_name("target"));
    let path = target.and_then(|t| t.children().find(|n| n.has_tag_name("path"))?.text());
    path.map(|p| p.trim_end_matches('/').to_owned())
        .ok_or_else(|| format!("the pool of type {kind} has no path"))
}

/// The host's architecture.
fn arch(c: &Connect) -> String {
    let found = c.capabilities().ok().and_then(|xml| {
        let (_, rest) = xml.split_once("<arch>")?;
        let (arch, _) = rest.split_once("</arch>")?;
        Some(arch.to_owned())
    });
    found.unwrap_or_else(|| "x86_64".to_owned())
}

fn start(domain: &Domain, doing: impl Fn() -> String) -> Result<()> {
    match domain.create() {
        Ok(()) => Ok(()),
        // It runs already.
        Err(e) if code(&e) == ErrorNumber::OperationInvalid && domain.is_active().unwrap_or(false) => Ok(()),
        Err(e) => Err(fault(&e, doing())),
    }
}

/// Writes the facts into the domain: into what runs and into what is kept.
fn write_metadata(domain: &Domain, meta: &Metadata, doing: impl Fn() -> String) -> Result<()> {
    let live = if domain.is_active().unwrap_or(false) {
        sys::VIR_DOMAIN_AFFECT_LIVE
    } else {
        0
    };
    let kind = i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).unwrap_or(2);
    let write = |flags| {
        domain.set_metadata(
            kind,
            Some(&metadata_xml::element(meta)),
            Some(metadata_xml::PREFIX),
            Some(metadata_xml::NAMESPACE),
            flags,
        )
    };
    match write(live | sys::VIR_DOMAIN_AFFECT_CONFIG) {
        Ok(()) => Ok(()),
        // It was switched off between the look and the write.
        Err(e) if live != 0 && code(&e) == ErrorNumber::OperationInvalid => {
            write(sys::VIR_DOMAIN_AFFECT_CONFIG).map_err(|e| fault(&e, doing()))
        }
        Err(e) => Err(fault(&e, doing())),
    }
}

/// Asks the guest to shut down and waits until it is off, or time is up. Failing to ask is no error: what follows is the
/// switch.
fn ask_to_shut_down(domain: &Domain, patience: Duration, pulse: &Pulse) {
    let began = Instant::now();
    let mut pressed: Option<Instant> = None;
    let mut agent_heard = false;
    let mut looked = began;
    while began.elapsed() < patience && !pulse.is_cancelled() {
        match domain.is_active() {
            Ok(true) => pulse.beat(),
            // An error here is judged by the call that follows.
            Ok(false) | Err(_) => return,
        }
        let due = pressed.is_none_or(|at| at.elapsed() >= PRESS_AGAIN);
        // A guest that was still booting is asked again as soon as its agent is there.
        if due || (!agent_heard && looked.elapsed() >= LOOK_FOR_AGENT) {
            looked = Instant::now();
            let agent = agent_is_connected(domain);
            if agent && (due || !agent_heard) {
                agent_heard = domain
                    .shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
                    .is_ok();
                pressed = Some(Instant::now());
            }
            if due && !agent_heard {
                let _ = domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN);
                pressed = Some(Instant::now());
            }
            pulse.beat();
        }
        thread::sleep(LOOK);
    }
}

fn undefine(domain: &Domain, doing: impl Fn() -> String) -> Result<()> {
    let all = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_NVRAM
        | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
    let mut last = None;
    // The newest flags are not known everywhere, the test driver knows none.
    for flags in [
        all,
        all & !sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA,
        sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE,
        0,
    ] {
        match domain.undefine_flags(flags) {
            Ok(()) => return Ok(()),
            Err(e) if code(&e) == ErrorNumber::NoDomain => return Ok(()),
            Err(e) => last = Some(fault(&e, doing())),
        }
    }
    last.map_or(Ok(()), Err)
}
