//! What an instance is made of, as its model wants it: its definition, its disks, its seed. Making an instance and
//! changing one have this in common.

use std::sync::atomic::Ordering;
use std::time::Duration;

use virt::domain::Domain;
use virt::storage_vol::StorageVol;
use virt::sys;

use super::connection::Session;
use super::domains::{self, Owned};
use super::images::{self, Base};
use super::volumes::Pool;
use super::{Libvirt, power, seeds, sound, volume_xml};
use crate::hypervisor::domain_xml::element::Element;
use crate::hypervisor::domain_xml::{self, DiskMode, DomainType, HostDetails};
use crate::hypervisor::seed;
use crate::hypervisor::{FaultKind, HypervisorError, Stage};
use crate::inventory::Metadata;
use crate::model::{Clone as CloneMode, Model};
use crate::plan::action::InstanceSpec;
use crate::units::Bytes;

/// How slowly a full clone may be copied before the host counts as hung.
const SLOWEST_COPY: u64 = 8 << 20;

/// QEMU gives a running guest's disk only a whole number of these.
const SECTOR: u64 = 512;

/// One instance and the model it is to be of, on one host.
pub struct Parts<'a, 's, 'p> {
    /// The host.
    pub host: &'a Libvirt,
    /// Its pool.
    pub pool: &'a Pool<'s, 'p>,
    /// The instance.
    pub spec: &'a InstanceSpec,
    /// Its model.
    pub model: &'a Model,
}

impl<'p> Parts<'_, '_, 'p> {
    /// The session its calls are made in.
    pub fn session(&self) -> &Session<'p> {
        self.pool.session()
    }

    /// Every volume it owns when it is whole.
    pub fn volumes(&self) -> Vec<String> {
        let seed = seed::volume(self.spec, self.model);
        domain_xml::owned_volumes(self.spec, self.model, &seed)
    }

    /// The name of its OS disk's volume.
    pub fn os_volume(&self) -> String {
        domain_xml::os_volume(self.spec, self.model)
    }

    /// A whole copy of its image, which nobody has changed since it was verified.
    ///
    /// Only asked for once the instance's note names the image: whoever deletes an image takes its mark away first and
    /// looks for such notes after. Either the mark is seen to be gone here, or the note is seen there. So what is whole
    /// now stays.
    pub fn base(&self, doing: &str) -> Result<Base, HypervisorError> {
        let (pool, spec, format) = (self.pool, self.spec, self.model.image.format);
        let own = Base::new(&spec.image, format, spec.store);
        let copy = if images::is_marked(pool, &own)? {
            own
        } else {
            images::whole(pool, &spec.image, format, spec.store)?.ok_or_else(|| {
                let text = format!("image {} is not whole in pool {}", spec.image.short(), pool.name);
                HypervisorError::new(FaultKind::Missing, doing, text)
            })?
        };
        let length = self.model.image.file_size;
        sound::check(&self.host.bases, pool, &copy, Some(length), spec.store)?;
        Ok(copy)
    }

    /// What its definition needs to know of the host.
    pub fn details(&self) -> Result<HostDetails, HypervisorError> {
        self.session().traits()?.details(
            self.model.virtualization,
            &self.host.folder(self.pool)?,
            self.host.disk_mode(),
        )
    }

    /// Its definition with `note` in it.
    pub fn definition(
        &self,
        note: &Metadata,
        details: &HostDetails,
        doing: &str,
    ) -> Result<String, HypervisorError> {
        let seed = seed::volume(self.spec, self.model);
        domain_xml::domain_xml(self.spec, self.model, &seed, note, details)
            .map_err(|e| HypervisorError::new(FaultKind::Unsupported, doing, e.to_string()))
    }

    /// Defines the domain, or defines it anew, with `note` in it. A guest that runs goes on as it is until it is
    /// switched off.
    pub fn define(&self, note: &Metadata) -> Result<Owned, HypervisorError> {
        let session = self.session();
        let doing = format!("defining domain {}", self.spec.name());
        let xml = self.definition(note, &self.details()?, &doing)?;
        // Whoever has the name has it under another UUID, and libvirt refuses.
        let domain = match session.call(&doing, |c| c.define_domain_xml(&xml)) {
            Err(fault) if fault.error.kind == FaultKind::NotOurs => {
                return Err(domains::not_ours(&doing, &fault.error.message));
            }
            defined => defined?,
        };
        let meta = note.clone();
        Ok(Owned { domain, meta })
    }

    /// How large its OS disk is.
    pub fn os_size(&self) -> Bytes {
        self.model.disk.max(self.model.image.virtual_size)
    }

    /// Makes its OS disk of the image; one that is there is replaced.
    pub fn os_disk(&self, copy: &Base) -> Result<(), HypervisorError> {
        let (pool, name, size) = (self.pool, self.os_volume(), self.os_size());
        match self.model.clone {
            CloneMode::Linked => {
                let path = format!("{}/{}", self.host.folder(pool)?, copy.name);
                let backing = Some((path.as_str(), copy.format));
                let traits = self.session().traits()?;
                pool.replace(&name, volume_xml::thin(&name, size, backing, traits))?;
            }
            CloneMode::Full => {
                let image = self.model.image.virtual_size;
                let base = images::settle_format(pool, copy)?;
                let plausible = Duration::from_secs(60 + image.0 / SLOWEST_COPY);
                let xml = volume_xml::copy(&name, image, copy.format);
                let volume = pool.copy(&name, xml, &base, plausible)?;
                // A copy begins with the image's size, for libvirt can't copy and grow at once.
                if size > image {
                    self.resize(&name, &volume, size)?;
                }
            }
        }
        Ok(())
    }

    /// Makes an empty data disk; one that is there is replaced.
    pub fn data_disk(&self, name: &str, size: Bytes) -> Result<(), HypervisorError> {
        let traits = self.session().traits()?;
        self.pool
            .replace(name, volume_xml::thin(name, size, None, traits))?;
        Ok(())
    }

    /// Grows the disk to `size` if it is there and smaller; `Ok(false)` if it isn't there. What is larger stays: a
    /// smaller disk would cut off what is on it. `running` is the domain if its guest has the disk open.
    pub fn grow(&self, name: &str, size: Bytes, running: Option<&Domain>) -> Result<bool, HypervisorError> {
        let Some(volume) = self.pool.find(name)? else {
            return Ok(false);
        };
        let session = self.session();
        if session.traits()?.simulated {
            return Ok(true);
        }
        let looking = self.pool.doing("looking at volume", name);
        if session.call(looking, |_| volume.info())?.capacity >= size.0 {
            return Ok(true);
        }
        match running {
            None => self.resize(name, &volume, size)?,
            Some(domain) => {
                let doing = self.pool.doing("growing, under its guest, volume", name);
                let target = self.target(name, domain, &doing)?;
                let size = size.0.div_ceil(SECTOR).saturating_mul(SECTOR);
                let in_bytes = sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES;
                session.call(&doing, |_| domain.block_resize(&target, size, in_bytes))?;
            }
        }
        Ok(true)
    }

    fn resize(&self, name: &str, volume: &StorageVol, size: Bytes) -> Result<(), HypervisorError> {
        let session = self.session();
        if session.traits()?.simulated {
            return Ok(());
        }
        let doing = self.pool.doing("growing volume", name);
        Ok(session.call(doing, |_| volume.resize(size.0, 0))?)
    }

    /// What the running guest's disk that lies in that volume is called in its domain: "vda".
    fn target(&self, volume: &str, domain: &Domain, doing: &str) -> Result<String, HypervisorError> {
        let xml = self.session().call(doing, |_| domain.xml_desc(0))?;
        target_of(&xml, volume).ok_or_else(|| {
            let text = "the running domain has no such disk: it needs a restart";
            HypervisorError::new(FaultKind::Unsupported, doing, text)
        })
    }

    /// Sees to its seed.
    pub fn seed(&self) -> Result<(), HypervisorError> {
        seeds::provide(self.pool, &self.host.seeds, self.spec, self.model)
    }

    /// Starts the domain unless it runs; `flags` as [`power::boot`] takes them. A pool that turns out to be on a file
    /// system without `O_DIRECT` is used through the page cache from then on: the domain is defined anew for it.
    pub fn power_on(&self, owned: &mut Owned, flags: u32) -> Result<(), HypervisorError> {
        let (session, name) = (self.session(), self.spec.name());
        session.pulse().stage(Stage::Start);
        let Err(error) = power::boot(session, &name, &owned.domain, flags) else {
            return Ok(());
        };
        let simulated = session.traits()?.domain_type(self.model.virtualization)? == DomainType::Test;
        if simulated || !error.message.contains("O_DIRECT") {
            return Err(error);
        }
        self.host.cached_disks.store(true, Ordering::Relaxed);
        *owned = self.define(&owned.meta)?;
        power::boot(session, &name, &owned.domain, flags)
    }
}

fn target_of(xml: &str, volume: &str) -> Option<String> {
    let document = Element::parse(xml).ok()?;
    let devices = document.find("devices")?;
    let disk = devices.children.iter().filter(|e| e.name == "disk").find(|d| {
        let file = d.find("source").and_then(|s| s.get("file"));
        file.and_then(|f| f.rsplit('/').next()) == Some(volume)
    })?;
    disk.find("target")?.get("dev").map(str::to_owned)
}

impl Libvirt {
    /// The folder of the pool, asked for once: a pool does not move while anything runs from it.
    pub(super) fn folder(&self, pool: &Pool<'_, '_>) -> Result<String, HypervisorError> {
        if let Some(folder) = self.folder.get() {
            return Ok(folder.clone());
        }
        let folder = pool.place()?.1.trim_end_matches('/').to_owned();
        Ok(self.folder.get_or_init(|| folder).clone())
    }

    /// How disks are opened on this host, as far as is known by now.
    fn disk_mode(&self) -> DiskMode {
        if self.cached_disks.load(Ordering::Relaxed) {
            DiskMode::Cached
        } else {
            DiskMode::Direct
        }
    }
}

#[cfg(test)]
mod tests {
    use super::target_of;

    #[test]
    fn a_volumes_disk_is_found_in_the_running_domain() {
        let xml = "<domain><devices>\
            <disk type='file'><source file='/pool/web-1-0-os.qcow2'/><backingStore><source file='/pool/base'/></backingStore><target dev='vda'/></disk>\
            <disk type='file'><target dev='vdb'/></disk>\
            <disk type='file'><source file='/pool/web-1-0-data-logs.qcow2'/><target dev='vdc'/></disk>\
            </devices></domain>";
        assert_eq!(target_of(xml, "web-1-0-os.qcow2").as_deref(), Some("vda"));
        assert_eq!(target_of(xml, "web-1-0-data-logs.qcow2").as_deref(), Some("vdc"));
        for other in ["base", "logs.qcow2", ""] {
            assert_eq!(target_of(xml, other), None, "{other}");
        }
    }
}
