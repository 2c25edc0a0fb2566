//! What operators do in the ordinary care of hosts and domains: moved by hand, reinstalled, reverted, backed up and put back.
//!
//! # Panics
//! As what a test does otherwise by its own hand ([`super::hands`]).

use super::Fleet;
use super::hands::ADDED;
use super::machine::{Domain, Volume};
use crate::inventory::Power;

/// What is on a host, whatever its daemon knows of its pool's folder.
#[derive(Clone, Debug)]
pub struct HostAsItIs {
    /// Its name.
    pub name: String,
    /// The folder that its pool shares with others', by a number of its own.
    pub folder: Option<usize>,
    /// Its domains, by name.
    pub domains: Vec<Domain>,
    /// Volumes that lie in its pool's folder, images aside.
    pub volumes: Vec<Volume>,
}

impl Fleet {
    /// From now on the host is reached under another name as well: an alias, say, or its address.
    pub fn call_host(&self, host: &str, other: &str) {
        self.shared
            .change(|s| s.other_names.insert(other.to_owned(), host.to_owned()));
    }

    /// Every host as it is, by name.
    pub fn as_it_is(&self) -> Vec<HostAsItIs> {
        let state = self.shared.lock();
        let each = state.machines.iter().map(|(name, machine)| {
            let files = match machine.folder.and_then(|at| state.folders.get(at)) {
                Some(folder) => &folder.volumes,
                None => &machine.volumes,
            };
            HostAsItIs {
                name: name.clone(),
                folder: machine.folder,
                domains: machine.domains.values().cloned().collect(),
                volumes: files.values().cloned().collect(),
            }
        });
        each.collect()
    }

    /// Somebody moves a domain to another host as it runs, with copies of its disks unless both share a folder. Its definition
    /// stays behind, off, if he `keeps` it; its disks stay in any case.
    pub fn migrate_domain(&self, host: &str, name: &str, to: &str, keeps: bool) {
        let (domain, volumes) = self.machine(host, |m| {
            let domain = m.domains.get(name).expect(ADDED).clone();
            let disks = domain.disks.iter().filter_map(|v| m.volumes.get(v).cloned());
            let volumes: Vec<Volume> = disks.collect();
            if keeps {
                m.domain(name).power = Power::Off;
            } else {
                m.domains.remove(name);
            }
            (domain, volumes)
        });
        self.refresh(to);
        self.machine(to, |m| {
            for mut volume in volumes {
                // What is copied so has everything in it, and is backed by nothing.
                if volume.backing.take().is_some() {
                    volume.allocation = volume.size;
                }
                m.volumes.entry(volume.name.clone()).or_insert(volume);
            }
            m.domains.insert(name.to_owned(), domain);
        });
    }

    /// Somebody makes a snapshot of a domain.
    pub fn snapshot_domain(&self, host: &str, name: &str) {
        self.machine(host, |m| {
            let domain = m.domains.get(name).expect(ADDED).clone();
            m.snapshots.insert(domain.uuid, domain);
        });
    }

    /// Somebody reverts a domain to its snapshot, note and all, which keeps its name. Returns whether he could: there must be
    /// one, with disks that are all there.
    pub fn revert_domain(&self, host: &str, name: &str) -> bool {
        self.machine(host, |m| {
            let uuid = m.domains.get(name).expect(ADDED).uuid;
            let found = m.snapshots.get(&uuid).filter(|s| s.name == name).cloned();
            let Some(then) = found.filter(|s| s.disks.iter().all(|v| m.volumes.contains_key(v))) else {
                return false;
            };
            m.domains.insert(name.to_owned(), then);
            true
        })
    }

    /// Somebody makes a backup of everything that lies in a host's pool, images aside.
    pub fn backup_pool(&self, host: &str) {
        self.refresh(host);
        self.machine(host, |m| m.backup.clone_from(&m.volumes));
    }

    /// Somebody puts back what is in the backup and no more in the pool.
    pub fn restore_pool(&self, host: &str) {
        self.refresh(host);
        self.machine(host, |m| {
            for (name, volume) in m.backup.clone() {
                m.volumes.entry(name).or_insert(volume);
            }
        });
    }
}
