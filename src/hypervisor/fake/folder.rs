//! Folders that several hosts have their pools in. Each host's daemon has a list of its own of what lies there: what it made
//! itself, and what it found when it looked last. The files are one and the same.

use std::collections::{BTreeMap, BTreeSet};

use super::machine::{ImageCopy, Machine, Volume};
use super::shared::State;
use crate::names::PoolMark;

/// What lies in a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Folder {
    pub volumes: BTreeMap<String, Volume>,
    pub copies: BTreeMap<String, ImageCopy>,
    pub marks: BTreeSet<PoolMark>,
}

impl Folder {
    /// What a host knows of it.
    fn known_to(machine: &Machine) -> Self {
        Self {
            volumes: machine.volumes.clone(),
            copies: machine.copies.clone(),
            marks: machine.marks.clone(),
        }
    }

    /// Does here what a host did, as its list shows before and after.
    fn follow(&mut self, before: &Self, after: &Self) {
        follow(&mut self.volumes, &before.volumes, &after.volumes);
        follow(&mut self.copies, &before.copies, &after.copies);
        self.marks
            .retain(|mark| after.marks.contains(mark) || !before.marks.contains(mark));
        self.marks.extend(after.marks.difference(&before.marks).cloned());
    }
}

fn follow<T: Clone + PartialEq>(
    files: &mut BTreeMap<String, T>,
    before: &BTreeMap<String, T>,
    after: &BTreeMap<String, T>,
) {
    files.retain(|name, _| after.contains_key(name) || !before.contains_key(name));
    for (name, file) in after {
        if before.get(name) != Some(file) {
            files.insert(name.clone(), file.clone());
        }
    }
}

impl State {
    /// Changes a host, and with it the folder that it shares.
    pub fn alter<T>(&mut self, host: &str, change: impl FnOnce(&mut Machine) -> T) -> Option<T> {
        let machine = self.machines.get_mut(host)?;
        let Some(folder) = machine.folder.and_then(|at| self.folders.get_mut(at)) else {
            return Some(change(machine));
        };
        let before = Folder::known_to(machine);
        let done = change(machine);
        folder.follow(&before, &Folder::known_to(machine));
        Some(done)
    }

    /// Has a host look into its folder again.
    pub fn refresh(&mut self, host: &str) {
        let Some(machine) = self.machines.get_mut(host) else {
            return;
        };
        if let Some(folder) = machine.folder.and_then(|at| self.folders.get(at)) {
            let folder = folder.clone();
            (machine.volumes, machine.copies, machine.marks) = (folder.volumes, folder.copies, folder.marks);
        }
    }

    /// Has `guest` use the folder of `host`: what lay in its own is out of the way.
    pub fn share(&mut self, host: &str, guest: &str) {
        let Some(machine) = self.machines.get_mut(host) else {
            return;
        };
        let folders = &mut self.folders;
        let folder = machine.folder.unwrap_or(folders.len());
        if folder == folders.len() {
            folders.push(Folder::known_to(machine));
        }
        machine.folder = Some(folder);
        if let Some(other) = self.machines.get_mut(guest) {
            other.folder = Some(folder);
        }
        self.refresh(guest);
    }

    /// Whether the file of that name lies where the machine's pool is or was, whatever its daemon knows.
    pub fn is_file(&self, machine: &Machine, volume: &str) -> bool {
        if machine.elsewhere.contains_key(volume) {
            return true;
        }
        match machine.folder.and_then(|at| self.folders.get(at)) {
            Some(folder) => folder.volumes.contains_key(volume),
            None => machine.volumes.contains_key(volume),
        }
    }

    /// The machines as they are once each has looked into its folder.
    pub fn as_it_is(&self) -> BTreeMap<String, Machine> {
        let mut machines = self.machines.clone();
        for machine in machines.values_mut() {
            if let Some(folder) = machine.folder.and_then(|at| self.folders.get(at)) {
                machine.volumes.clone_from(&folder.volumes);
                machine.copies.clone_from(&folder.copies);
                machine.marks.clone_from(&folder.marks);
            }
        }
        machines
    }
}
