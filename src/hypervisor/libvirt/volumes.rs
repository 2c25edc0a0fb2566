//! The host's pool and its volumes.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;
use virt::storage_pool::{StoragePool, StoragePoolInfo};
use virt::storage_vol::StorageVol;
use virt::sys;

use super::connection::Session;
use super::fault::optional;
use crate::hypervisor::domain_xml::element::{Element, XmlError};
use crate::hypervisor::{FaultKind, HypervisorError, Uses, VolumeFacts};
use crate::plan::action::InstanceRef;
use crate::units::Bytes;

/// How long a pool that is busy is left alone before it is asked to look again.
const BUSY: Duration = Duration::from_millis(250);

/// What shows that nobody uses a volume.
pub struct Proof<'u> {
    uses: &'u Uses,
    own: Option<Uuid>,
}

impl<'u> Proof<'u> {
    /// For volumes that go with an instance: its own domain may use them.
    pub fn of_instance(uses: &'u Uses, instance: &InstanceRef) -> Self {
        let own = Some(instance.uuid);
        Self { uses, own }
    }

    /// For volumes that no domain may use.
    pub fn of_nobody(uses: &'u Uses) -> Self {
        Self { uses, own: None }
    }

    /// Whether the volume may go.
    ///
    /// # Errors
    /// `InUse` if somebody uses it, or might.
    pub fn clears(&self, volume: &str, doing: &str) -> Result<(), HypervisorError> {
        match self.uses.speaks_against(volume, self.own) {
            None => Ok(()),
            Some(why) => {
                let text = format!("{why}: nothing was deleted");
                Err(HypervisorError::new(FaultKind::InUse, doing, text))
            }
        }
    }
}

/// The pool, for the length of one method.
pub struct Pool<'s, 'p> {
    session: &'s Session<'p>,
    /// The pool's name.
    pub name: String,
    /// libvirt's handle.
    pub handle: StoragePool,
}

impl<'s, 'p> Pool<'s, 'p> {
    /// Looks the pool up.
    pub fn open(session: &'s Session<'p>, name: &str) -> Result<Self, HypervisorError> {
        Ok(Self {
            session,
            name: name.to_owned(),
            handle: session.pool(name)?,
        })
    }

    /// A pool that was looked up already.
    pub fn of(session: &'s Session<'p>, handle: StoragePool) -> Self {
        Self {
            session,
            // A handle knows its name.
            name: handle.name().unwrap_or_default(),
            handle,
        }
    }

    /// The session it lives in.
    pub fn session(&self) -> &'s Session<'p> {
        self.session
    }

    /// Size and room of the pool, which must be active: libvirt finds one that is not all the same, and tells what it was.
    ///
    /// # Errors
    /// `Missing` if it is not active. Asked before something is begun that would need it in the end.
    pub fn active(&self) -> Result<StoragePoolInfo, HypervisorError> {
        let doing = format!("looking at pool {}", self.name);
        let info = self.session.call(&doing, |_| self.handle.info())?;
        if info.state == sys::VIR_STORAGE_POOL_INACTIVE {
            let text = format!("storage pool '{}' is not active", self.name);
            return Err(HypervisorError::new(FaultKind::Missing, doing, text));
        }
        Ok(info)
    }

    /// Type of the pool ("dir") and the folder its volumes lie in.
    pub fn place(&self) -> Result<(String, String), HypervisorError> {
        let doing = format!("reading pool {}", self.name);
        let xml = self.session.call(&doing, |_| self.handle.xml_desc(0))?;
        let pool = Element::parse(&xml)
            .map_err(|e| HypervisorError::new(FaultKind::Other, &doing, e.to_string()))?;
        let kind = pool.get("type").unwrap_or_default().to_owned();
        let path = pool.path(["target", "path"]).map(|p| p.text.clone());
        let file_based = matches!(kind.as_str(), "dir" | "fs" | "netfs");
        match path {
            Some(path) if file_based && path.starts_with('/') => Ok((kind, path)),
            _ => Err(HypervisorError::new(
                FaultKind::Unsupported,
                doing,
                format!("it is of type {kind}; vmss needs a pool of files (dir, fs or netfs)"),
            )),
        }
    }

    /// Names of all volumes, as the daemon knows them. Never refreshes: that fails while anything is written.
    pub fn names(&self) -> Result<BTreeSet<String>, HypervisorError> {
        let listed = self
            .session
            .call(format_args!("listing pool {}", self.name), |_| {
                let listed = self.handle.list_all_volumes(0)?;
                // A handle knows its name: no call each. Without one of them the list would not be whole.
                listed.iter().map(StorageVol::name).collect()
            })?;
        Ok(listed)
    }

    /// Has the daemon look at the folder again: another host may write to it (netfs), or someone by hand. The daemon
    /// refuses while something is written; then what it knows must do.
    pub fn refresh(&self) {
        let _ = self
            .session
            .call(format_args!("refreshing pool {}", self.name), |_| {
                self.handle.refresh(0)
            });
    }

    /// As [`Self::refresh`], where what the daemon knows will not do: tried again while it is busy with something that is
    /// written.
    ///
    /// # Errors
    /// What the daemon says, if it has refused for long.
    pub fn refresh_now(&self) -> Result<(), HypervisorError> {
        const TRIES: u32 = 20;
        let doing = format!("refreshing pool {}", self.name);
        let mut tries = 0;
        loop {
            tries += 1;
            match self.session.call(&doing, |_| self.handle.refresh(0)) {
                Ok(()) => return Ok(()),
                Err(fault) if tries < TRIES && fault.error.kind == FaultKind::Other => {
                    self.session.safe_point(&doing)?;
                    std::thread::sleep(BUSY);
                }
                Err(fault) => return Err(fault.error),
            }
        }
    }

    /// The volume of that name.
    pub fn find(&self, name: &str) -> Result<Option<StorageVol>, HypervisorError> {
        let found = self.session.call(self.doing("looking up volume", name), |_| {
            self.handle.lookup_storage_vol_by_name(name)
        });
        optional(found, sys::VIR_ERR_NO_STORAGE_VOL)
    }

    /// Makes a volume.
    pub fn create(&self, name: &str, xml: Result<String, XmlError>) -> Result<StorageVol, HypervisorError> {
        let xml = self.written(name, xml)?;
        let made = self.session.call(self.doing("creating volume", name), |_| {
            StorageVol::create_xml(&self.handle, &xml, 0)
        })?;
        Ok(made)
    }

    /// Makes a volume anew: one of that name is what an interrupted try of ours left, for no one else has such names.
    pub fn replace(&self, name: &str, xml: Result<String, XmlError>) -> Result<StorageVol, HypervisorError> {
        let xml = self.written(name, xml)?;
        let create = || {
            self.session.call(self.doing("creating volume", name), |_| {
                StorageVol::create_xml(&self.handle, &xml, 0)
            })
        };
        // Hardly ever is there one: looking first would cost every instance a call. The drivers have different numbers
        // for "it is there", so it is looked for.
        match create() {
            Err(_) if self.find(name)?.is_some() => {
                self.delete(name)?;
                Ok(create()?)
            }
            made => Ok(made?),
        }
    }

    /// Makes a copy of a volume; `plausible` is how long that may take.
    pub fn copy(
        &self,
        name: &str,
        xml: Result<String, XmlError>,
        from: &StorageVol,
        plausible: Duration,
    ) -> Result<StorageVol, HypervisorError> {
        let xml = self.written(name, xml)?;
        self.delete(name)?;
        let doing = self.doing("copying to volume", name);
        let made = self.session.long_call(doing, plausible, |_| {
            StorageVol::create_xml_from(&self.handle, &xml, from, 0)
        })?;
        Ok(made)
    }

    /// Deletes an instance's volume, or any other that was asked for by name, once it is proved that nobody uses it: the one
    /// way in which a disk ever goes. None there is fine.
    pub fn remove(&self, name: &str, proof: &Proof<'_>) -> Result<(), HypervisorError> {
        proof.clears(name, &self.doing("deleting volume", name))?;
        self.delete(name)
    }

    /// Deletes the volume of that name without asking who uses it: only what vmss has just made itself, or what holds no data
    /// (a mark). None there is fine.
    pub fn delete(&self, name: &str) -> Result<(), HypervisorError> {
        let Some(volume) = self.find(name)? else {
            return Ok(());
        };
        let deleted = self
            .session
            .call(self.doing("deleting volume", name), |_| volume.delete(0));
        optional(deleted, sys::VIR_ERR_NO_STORAGE_VOL).map(|_| ())
    }

    /// A volume's description.
    pub fn describe(&self, volume: &StorageVol) -> Result<Element, HypervisorError> {
        let doing = format!("reading a volume of pool {}", self.name);
        let xml = self.session.call(&doing, |_| volume.xml_desc(0))?;
        Element::parse(&xml).map_err(|e| HypervisorError::new(FaultKind::Other, doing, e.to_string()))
    }

    /// "creating volume x in pool y".
    pub fn doing(&self, what: &str, volume: &str) -> String {
        format!("{what} {volume} in pool {}", self.name)
    }

    fn written(&self, name: &str, xml: Result<String, XmlError>) -> Result<String, HypervisorError> {
        xml.map_err(|e| {
            HypervisorError::new(
                FaultKind::Unsupported,
                self.doing("describing volume", name),
                e.to_string(),
            )
        })
    }
}

/// See [`crate::hypervisor::Hypervisor::volume_facts`].
pub fn facts(pool: &Pool<'_, '_>, names: &[String]) -> Result<Vec<VolumeFacts>, HypervisorError> {
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let Some(volume) = pool.find(name)? else { continue };
        let looked = pool
            .session()
            .call(pool.doing("looking at volume", name), |_| volume.info());
        // Somebody has deleted it meanwhile.
        let Some(info) = optional(looked, sys::VIR_ERR_NO_STORAGE_VOL)? else {
            continue;
        };
        let xml = pool.describe(&volume)?;
        let changed = xml.path(["target", "timestamps", "mtime"]);
        found.push(VolumeFacts {
            name: name.clone(),
            size: Bytes(info.capacity),
            allocation: Bytes(info.allocation),
            changed_at: changed.and_then(|time| moment(&time.text)),
        });
    }
    Ok(found)
}

/// The moment that libvirt writes as seconds and a fraction: "1732500000.123456789".
fn moment(text: &str) -> Option<Timestamp> {
    let seconds = text.trim().split('.').next()?.parse().ok()?;
    Timestamp::from_second(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_change_is_read_to_the_second() {
        let at = |second| Timestamp::from_second(second).ok();
        assert_eq!(moment("1732500000.123456789"), at(1_732_500_000));
        assert_eq!(moment("1732500000\n"), at(1_732_500_000));
        for other in ["", "soon", ".5", "99999999999999999999"] {
            assert_eq!(moment(other), None, "{other}");
        }
    }
}
