//! What others do behind vmss's back that makes things odd: copies, other names, forged notes.
//!
//! # Panics
//! As in [`super::hands`]: on a host, domain or volume that is not there.

use super::Fleet;
use super::machine::{Domain, ImageCopy, Volume, copy_name};
use crate::inventory::Metadata;
use crate::model::ImageFormat;

const ADDED: &str = "a test names only hosts, domains and volumes that are there";

impl Fleet {
    /// Somebody defines a domain on another host as well, with copies of its volumes, and starts it there if `runs`.
    pub fn duplicate_domain(&self, from: &str, name: &str, to: &str, runs: bool) {
        let (mut domain, volumes) = self.machine(from, |m| {
            let domain = m.domain(name).clone();
            let its = domain.disks.iter().filter_map(|disk| m.volumes.get(disk));
            (domain.clone(), its.cloned().collect::<Vec<_>>())
        });
        domain.power = match runs {
            true => crate::inventory::Power::Running,
            false => crate::inventory::Power::Off,
        };
        self.machine(to, |m| {
            m.domains.insert(name.to_owned(), domain);
            m.volumes.extend(volumes.into_iter().map(|v| (v.name.clone(), v)));
        });
    }

    /// Somebody defines a domain of another name and UUID, without a note, that has the disks of one that he takes away.
    pub fn replace_domain(&self, host: &str, name: &str, to: &str) {
        self.machine(host, |m| {
            let mut domain = m.domains.remove(name).expect(ADDED);
            to.clone_into(&mut domain.name);
            domain.uuid = uuid::Uuid::new_v5(&domain.uuid, to.as_bytes());
            domain.meta = None;
            m.domains.insert(to.to_owned(), domain);
        });
    }

    /// How many calls are in flight on a host just now: of a host that hangs, those that wait.
    pub fn in_flight(&self, host: &str) -> usize {
        self.machine(host, |m| m.in_flight)
    }

    /// Somebody writes a domain's note anew.
    pub fn forge_note(&self, host: &str, name: &str, change: impl FnOnce(&mut Metadata)) {
        self.machine(host, |m| change(m.domain(name).meta.as_mut().expect(ADDED)));
    }

    /// A domain is there as somebody has described it.
    pub fn put_domain(&self, host: &str, domain: Domain) {
        self.machine(host, |m| m.domains.insert(domain.name.clone(), domain));
    }

    /// A volume is there as somebody has described it.
    pub fn put_volume(&self, host: &str, volume: Volume) {
        self.machine(host, |m| {
            m.made = m.made.max(volume.serial);
            m.volumes.insert(volume.name.clone(), volume);
        });
    }

    /// A store's copy of an image of that format is there as somebody has described it.
    pub fn put_copy(&self, host: &str, format: ImageFormat, copy: ImageCopy) {
        let name = copy_name(&copy.digest, format, copy.store);
        self.machine(host, |m| m.copies.insert(name, copy));
    }
}
