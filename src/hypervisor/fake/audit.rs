//! What is wrong with a fleet at rest, in sentences.

use std::collections::BTreeMap;

use super::Fleet;
use super::machine::{Content, Domain, Machine, Volume};
use crate::inventory::{Metadata, Phase};
use crate::model::ImageDigest;
use crate::names::{Label, StoreId, VolumeName, instance_name};

/// A set as some stores know it.
struct Whose<'a> {
    set: &'a Label,
    stores: &'a [StoreId],
}

impl Whose<'_> {
    fn meta<'d>(&self, domain: &'d Domain) -> Option<&'d Metadata> {
        let meta = domain.meta.as_ref()?;
        (&meta.set == self.set && self.stores.contains(&meta.store)).then_some(meta)
    }

    fn owns(&self, volume: &Volume) -> bool {
        match &volume.content {
            Content::SharedSeed { set, store, .. } => set == self.set && self.stores.contains(store),
            Content::Foreign => false,
            Content::Disk | Content::Seed { .. } => VolumeName::parse(self.set, &volume.name).is_some(),
        }
    }
}

impl Fleet {
    /// Whatever is wrong with the set and with what is somebody else's, one sentence each; empty if all is well.
    /// `stores` are those that manage the set or have managed it. Meant for a fleet at rest: while a command runs, or
    /// after it was killed, instances may well be half made.
    pub fn audit(&self, set: &Label, stores: &[StoreId]) -> Vec<String> {
        let whose = Whose { set, stores };
        let state = self.shared.lock();
        let mut wrong = Vec::new();
        let machines = state.as_it_is();
        for (host, machine) in &machines {
            let of_host = [
                instances(&whose, machine),
                orphans(&whose, machine, &machines),
                foreign(machine),
                robbed(machine),
            ];
            wrong.extend(of_host.concat().iter().map(|what| format!("{host}: {what}")));
        }
        wrong.extend(duplicates(&whose, &machines));
        wrong
    }

    /// Domains, whosever they are, that run and have lost a disk.
    pub fn robbed(&self) -> Vec<String> {
        let machines = self.shared.lock().as_it_is();
        let each = machines.iter().flat_map(|(host, machine)| {
            let robbed = robbed(machine).into_iter();
            robbed.map(move |what| format!("{host}: {what}"))
        });
        each.collect()
    }

    /// Everything there is of the set: domains, volumes, images that `stores` have sent, remains of pushes among them.
    /// Empty when the set was deleted without a trace.
    pub fn traces(&self, set: &Label, stores: &[StoreId]) -> Vec<String> {
        let whose = Whose { set, stores };
        let machines = self.shared.lock().as_it_is();
        let mut found = Vec::new();
        for (host, machine) in &machines {
            let domains = machine.domains.values().filter(|d| whose.meta(d).is_some());
            let volumes = machine.volumes.values().filter(|v| whose.owns(v));
            let copies = machine.copies.iter().filter(|(_, c)| stores.contains(&c.store));
            found.extend(domains.map(|d| format!("{host}: domain {}", d.name)));
            found.extend(volumes.map(|v| format!("{host}: volume {}", v.name)));
            found.extend(copies.map(|(name, _)| format!("{host}: image {name}")));
        }
        found
    }
}

/// Half-made instances, and whole ones that lack something.
fn instances(whose: &Whose<'_>, machine: &Machine) -> Vec<String> {
    let mut wrong = Vec::new();
    let ours = machine.domains.values().filter_map(|d| Some((d, whose.meta(d)?)));
    for (domain, meta) in ours {
        let name = &domain.name;
        match meta.phase {
            Phase::Ready => {}
            Phase::Changing => wrong.push(format!("{name} is half changed")),
            Phase::Creating => wrong.push(format!("{name} is half made")),
            Phase::Deleting => wrong.push(format!("{name} is half deleted")),
        }
        if let Some(host) = &meta.moving_to {
            wrong.push(format!("{name} is half moved to {host}"));
        }
        if *name != instance_name(&meta.set, meta.id) {
            wrong.push(format!("{name} says that it is {}-{}", meta.set, meta.id));
        }
        if meta.volumes.is_empty() {
            wrong.push(format!("{name} has no volumes"));
        }
        for volume in &meta.volumes {
            match machine.volumes.get(volume) {
                None => wrong.push(format!("{name} lacks its volume {volume}")),
                Some(there) => wrong.extend(disk(machine, name, there, &meta.image)),
            }
        }
        wrong.extend(shared_seed(machine, name, meta));
    }
    wrong
}

fn disk(machine: &Machine, name: &str, volume: &Volume, image: &ImageDigest) -> Option<String> {
    if volume.content == (Content::Seed { whole: false }) {
        return Some(format!("{name} has a seed that was not written to the end"));
    }
    if volume.image.as_ref().is_some_and(|made_of| made_of != image) {
        return Some(format!("{name} has a disk of another image than it says"));
    }
    let backing = volume.backing.as_ref()?;
    let copy = machine.copies.get(backing);
    if copy.is_some_and(|c| c.is_there && c.digest == *image) {
        return None;
    }
    Some(format!("{name} has lost the image its disk is backed by"))
}

/// A shared seed that its instance reads, if there is any, must have been written to the end.
fn shared_seed(machine: &Machine, name: &str, meta: &Metadata) -> Option<String> {
    let mut seeds = machine.volumes.values();
    let is_half = seeds.any(|v| {
        matches!(&v.content, Content::SharedSeed { set, store, revision, whole: false }
            if (set, store, revision) == (&meta.set, &meta.store, &meta.revision))
    });
    is_half.then(|| format!("{name} has a shared seed that was not written to the end"))
}

/// Domains that run, and have lost a disk.
fn robbed(machine: &Machine) -> Vec<String> {
    let running = machine.domains.values().filter(|d| d.is_active());
    let lost = running.flat_map(|domain| {
        let open = domain.disks.iter().filter(|v| !domain.unopened.contains(v));
        let lost = open.filter(|v| !machine.volumes.contains_key(*v));
        lost.map(|volume| format!("{} runs and has lost its disk {volume}", domain.name))
    });
    lost.collect()
}

/// Volumes and seeds of ours that nothing needs, on any host that has its pool in the same folder.
fn orphans(whose: &Whose<'_>, machine: &Machine, all: &BTreeMap<String, Machine>) -> Vec<String> {
    let sharing = all
        .values()
        .filter(|m| m.folder.is_some() && m.folder == machine.folder);
    let domains = machine
        .domains
        .values()
        .chain(sharing.flat_map(|m| m.domains.values()));
    let notes: Vec<&Metadata> = domains.filter_map(|d| whose.meta(d)).collect();
    let is_orphan = |volume: &Volume| match &volume.content {
        Content::SharedSeed { revision, .. } => !notes.iter().any(|m| m.revision == *revision),
        _ => !notes.iter().any(|m| m.volumes.contains(&volume.name)),
    };
    let orphans = machine.volumes.values().filter(|v| whose.owns(v) && is_orphan(v));
    orphans
        .map(|v| match v.content {
            Content::SharedSeed { .. } => format!("seed {} serves no instance", v.name),
            _ => format!("volume {} belongs to no instance", v.name),
        })
        .collect()
}

/// What is somebody else's must be as it was.
fn foreign(machine: &Machine) -> Vec<String> {
    let (domains, volumes) = &machine.foreign;
    let domains = domains
        .iter()
        .filter(|(name, d)| machine.domains.get(*name) != Some(*d));
    let volumes = volumes
        .iter()
        .filter(|(name, v)| machine.volumes.get(*name) != Some(*v));
    domains
        .map(|(name, _)| format!("somebody else's domain {name} was touched"))
        .chain(volumes.map(|(name, _)| format!("somebody else's volume {name} was touched")))
        .collect()
}

/// Ids, UUIDs, MACs and addresses that two instances of the fleet share.
fn duplicates(whose: &Whose<'_>, machines: &BTreeMap<String, Machine>) -> Vec<String> {
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (host, machine) in machines {
        let ours = machine.domains.values().filter_map(|d| Some((d, whose.meta(d)?)));
        for (domain, meta) in ours {
            let mut uses = vec![format!("id {}", meta.id), format!("UUID {}", domain.uuid)];
            uses.extend(domain.macs.iter().map(|mac| format!("MAC {mac}")));
            uses.extend(meta.addresses.iter().flatten().map(|ip| format!("address {ip}")));
            uses.sort();
            uses.dedup();
            for what in uses {
                users
                    .entry(what)
                    .or_default()
                    .push(format!("{} on {host}", domain.name));
            }
        }
    }
    let shared = users.into_iter().filter(|(_, who)| who.len() > 1);
    shared
        .map(|(what, who)| format!("{what} is used by {}", who.join(" and ")))
        .collect()
}
