//! What operators do on an ordinary day: edits, moves done properly, backups of VMs, hosts that are set up anew, folders that
//! are cleared out of the way.
//!
//! # Panics
//! As in [`super::hands`]: on a host, domain or volume that is not there.

use uuid::Uuid;

use super::Fleet;
use super::hands::ADDED;
use super::machine::{Domain, Volume};
use crate::units::Bytes;

/// What a backup of a VM has: its definition, with all that is noted in it, and its disks.
#[derive(Clone, Debug)]
pub struct Backup {
    domain: Domain,
    disks: Vec<Volume>,
}

impl Fleet {
    /// `virsh edit`: another amount of memory.
    pub fn edit_memory(&self, host: &str, name: &str, memory: Bytes) {
        self.machine(host, |m| m.domain(name).memory = memory);
    }

    /// `virsh edit`: vmss's note is dropped.
    pub fn strip_note(&self, host: &str, name: &str) {
        self.machine(host, |m| m.domain(name).meta = None);
    }

    /// `virsh migrate --live --persistent --undefinesource --copy-storage-all`: the guest goes on over there. Its disks stay
    /// behind as well, unless both hosts share a folder.
    pub fn move_domain(&self, host: &str, name: &str, to: &str) {
        let power = self.machine(host, |m| m.domain(name).power);
        self.copy_domain(host, name, to, power);
        self.machine(host, |m| m.domains.remove(name).expect(ADDED));
    }

    /// The host was set up anew: libvirt knows no domain, and has another UUID. Without `disks` its pool is empty as well, unless
    /// it lies in a folder that others use.
    pub fn reinstall(&self, host: &str, disks: bool) {
        self.machine(host, |m| {
            m.uuid = Uuid::new_v5(&m.uuid, b"anew");
            m.faults = Default::default();
            m.domains.clear();
            m.foreign.0.clear();
            m.snapshots.clear();
            if !disks && m.folder.is_none() {
                m.foreign.1.clear();
                m.volumes.clear();
                m.copies.clear();
                m.marks.clear();
            }
        });
        self.refresh(host);
    }

    /// Somebody makes a backup of a VM.
    pub fn back_up(&self, host: &str, name: &str) -> Backup {
        self.machine(host, |m| {
            let domain = m.domain(name).clone();
            let disks = domain.disks.iter().filter_map(|v| m.volumes.get(v).cloned());
            Backup {
                disks: disks.collect(),
                domain,
            }
        })
    }

    /// Somebody defines a VM as it was backed up, and puts its disks back if `disks` says so: then it runs if it did.
    pub fn put_back(&self, host: &str, backup: &Backup, disks: bool) {
        let mut domain = backup.domain.clone();
        self.machine(host, |m| {
            if disks {
                let volumes = backup.disks.iter().cloned();
                m.volumes.extend(volumes.map(|v| (v.name.clone(), v)));
            } else {
                domain.power = crate::inventory::Power::Off;
            }
            m.domains.insert(domain.name.clone(), domain);
        });
    }

    /// The pool is another folder from now on, which is empty. What lay in the old one lies there still, and its guests have it.
    pub fn move_pool(&self, host: &str) {
        self.machine(host, |m| {
            let volumes = std::mem::take(&mut m.volumes);
            m.elsewhere.extend(volumes);
            m.copies.clear();
            m.marks.clear();
        });
    }
}
