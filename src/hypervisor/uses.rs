//! Who uses which files: read anew whenever something is about to be deleted, and never from memory.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use uuid::Uuid;

use crate::names::{Label, PoolMark, StoreId};

/// What a look at a host is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The set.
    pub set: Label,
    /// The stores whose names prove that shared seeds and images are the set's, the present one first.
    pub stores: Vec<StoreId>,
    /// UUIDs of instances that live or lived: their domains are looked at whatever they are called.
    pub uuids: HashSet<Uuid>,
}

/// A domain, or another volume, that has a file open or would open it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct User {
    /// The domain's name; of a volume that is backed by the file, its own.
    pub name: String,
    /// The domain's UUID; `None` for a volume.
    pub uuid: Option<Uuid>,
    /// Whether it is on another host that shares the folder: then it is not the domain that a file goes with, though it may have
    /// its UUID, as a copy has.
    pub is_elsewhere: bool,
}

/// What was found just now of the files that a host's domains and volumes need, and of who else has its pool's folder.
///
/// Files are told apart by the last part of their path alone: folders are reached by many ways (links, mounts, another host's
/// mount point), and a file that is taken for one in use is only kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Marks in the pool, after it was refreshed.
    pub marks: BTreeSet<PoolMark>,
    /// Users of each file, by the last part of its path.
    pub files: BTreeMap<String, BTreeSet<User>>,
    /// What could not be read, and so may use anything.
    pub unread: Vec<String>,
}

impl Uses {
    /// Adds a user of the file at `path`.
    pub fn add(&mut self, path: &str, name: &str, uuid: Option<Uuid>) {
        let file = path.rsplit('/').next().unwrap_or(path);
        if file.is_empty() {
            return;
        }
        let user = User {
            name: name.to_owned(),
            uuid,
            is_elsewhere: false,
        };
        self.files.entry(file.to_owned()).or_default().insert(user);
    }

    /// Adds what was found on another host that has its disks in the same folder.
    pub fn join(&mut self, other: &Self) {
        for (file, users) in &other.files {
            let all = self.files.entry(file.clone()).or_default();
            all.extend(users.iter().cloned().map(|user| User {
                is_elsewhere: true,
                ..user
            }));
        }
        self.unread.extend(other.unread.iter().cloned());
    }

    /// What is left of it once these domains of the host are gone.
    #[must_use]
    pub fn without(&self, gone: &HashSet<Uuid>) -> Self {
        let mut left = self.clone();
        for users in left.files.values_mut() {
            users.retain(|user| user.is_elsewhere || user.uuid.is_none_or(|uuid| !gone.contains(&uuid)));
        }
        left
    }

    /// Whether anybody beside the host of that URI has disks in the pool's folder, as far as marks tell.
    pub fn is_shared(&self, uri: &str) -> bool {
        self.marks
            .iter()
            .any(|mark| mark.host != PoolMark::new(mark.store, uri).host)
    }

    /// Names of whoever uses the volume.
    pub fn users(&self, volume: &str) -> Vec<String> {
        let users = self.files.get(volume).into_iter().flatten();
        let names: BTreeSet<&String> = users.map(|user| &user.name).collect();
        names.into_iter().cloned().collect()
    }

    /// Why the volume may not be deleted, if it may not: somebody uses it, or might. `own` is the domain that it goes with.
    pub fn speaks_against(&self, volume: &str, own: Option<Uuid>) -> Option<String> {
        let users = self.files.get(volume).into_iter().flatten();
        let mut others = users.filter(|u| u.is_elsewhere || own.is_none() || u.uuid != own);
        if let Some(user) = others.next() {
            let what = if user.uuid.is_some() { "domain" } else { "volume" };
            let place = if user.is_elsewhere {
                " on another host of the folder"
            } else {
                ""
            };
            return Some(format!("{volume} is used by {what} {}{place}", user.name));
        }
        let unread = self.unread.first()?;
        Some(format!("{unread} could not be read, and may use {volume}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_in_use_by_whatever_way_it_is_reached_and_by_whomever_but_its_own_domain() {
        let (own, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut uses = Uses::default();
        uses.add("/var/lib/libvirt/images/web-1-os.qcow2", "web-1", Some(own));
        assert_eq!(uses.speaks_against("web-1-os.qcow2", Some(own)), None);
        assert!(uses.speaks_against("web-1-os.qcow2", None).is_some());
        let mut elsewhere = Uses::default();
        elsewhere.add("/srv/nfs/web-1-os.qcow2", "forensic-1", Some(other));
        uses.join(&elsewhere);
        assert_eq!(
            uses.speaks_against("web-1-os.qcow2", Some(own)).as_deref(),
            Some("web-1-os.qcow2 is used by domain forensic-1 on another host of the folder")
        );
        assert_eq!(uses.speaks_against("web-2-os.qcow2", None), None);
        let mut copied = Uses::default();
        copied.add("/images/web-3-os.qcow2", "web-3", Some(own));
        let mut copy = Uses::default();
        copy.add("/images/web-3-os.qcow2", "kept", Some(own));
        copied.join(&copy);
        for uses in [&copied, &copied.without(&HashSet::from([own]))] {
            assert_eq!(
                uses.speaks_against("web-3-os.qcow2", Some(own)).as_deref(),
                Some("web-3-os.qcow2 is used by domain kept on another host of the folder"),
                "a copy on another host has its UUID"
            );
        }
    }

    #[test]
    fn what_could_not_be_read_may_use_anything() {
        let uses = Uses {
            unread: vec!["domain strange".to_owned()],
            ..Uses::default()
        };
        assert!(uses.speaks_against("web-1-os.qcow2", None).is_some());
    }

    #[test]
    fn a_volume_that_is_backed_by_it_uses_it_too() {
        let mut uses = Uses::default();
        uses.add("/pool/web-1-os.qcow2", "snapshot.qcow2", None);
        let own = Some(Uuid::from_u128(1));
        assert_eq!(
            uses.speaks_against("web-1-os.qcow2", own).as_deref(),
            Some("web-1-os.qcow2 is used by volume snapshot.qcow2")
        );
    }
}
