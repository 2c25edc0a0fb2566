//! What operators do to domains and their disks behind vmss's back: renamed, copied, forged, borrowed.
//!
//! # Panics
//! As what a test does otherwise by its own hand ([`super::hands`]).

use uuid::Uuid;

use super::Fleet;
use super::hands::ADDED;
use super::machine::Domain;
use crate::inventory::{Power, Protection};
use crate::names::InstanceId;

impl Fleet {
    /// Somebody undefines a domain and defines it under another name: UUID, note and disks stay.
    pub fn rename_domain(&self, host: &str, name: &str, new: &str) {
        self.machine(host, |m| {
            let mut domain = m.domains.remove(name).expect(ADDED);
            new.clone_into(&mut domain.name);
            m.domains.insert(new.to_owned(), domain);
        });
    }

    /// Somebody has a domain on another host too, with copies of its disks unless both hosts share a folder: what
    /// `virsh migrate` without `--undefinesource` leaves.
    pub fn copy_domain(&self, host: &str, name: &str, to: &str, power: Power) {
        let (domain, volumes) = self.machine(host, |m| {
            let domain = m.domains.get(name).expect(ADDED).clone();
            let disks = domain.disks.iter().filter_map(|v| m.volumes.get(v).cloned());
            let volumes: Vec<_> = disks.collect();
            (domain, volumes)
        });
        self.refresh(to);
        self.machine(to, |m| {
            for volume in volumes {
                m.volumes.entry(volume.name.clone()).or_insert(volume);
            }
            m.domains.insert(name.to_owned(), Domain { power, ..domain });
        });
    }

    /// Somebody makes a domain, with a UUID of its own and no disk, whose note is that of another domain of the fleet, with
    /// another id in it.
    pub fn forge_domain(&self, host: &str, name: &str, of: &str, id: InstanceId, protection: Protection) {
        let mut domain = self.shared.change(|s| {
            let mut domains = s.machines.values().flat_map(|m| m.domains.values());
            domains.find(|d| d.name == of).expect(ADDED).clone()
        });
        name.clone_into(&mut domain.name);
        domain.uuid = Uuid::new_v5(&Uuid::NAMESPACE_DNS, format!("{name}.{host}").as_bytes());
        domain.disks.clear();
        domain.macs.clear();
        if let Some(meta) = &mut domain.meta {
            (meta.id, meta.protection) = (id, protection);
        }
        self.machine(host, |m| m.domains.insert(name.to_owned(), domain));
    }

    /// A domain, whosever it is, uses a volume from now on.
    pub fn attach_volume(&self, host: &str, name: &str, volume: &str) {
        self.machine(host, |m| {
            for domains in [&mut m.domains, &mut m.foreign.0] {
                if let Some(domain) = domains.get_mut(name) {
                    domain.disks.push(volume.to_owned());
                }
            }
        });
    }
}
