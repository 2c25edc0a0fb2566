//! Pools that can't be seen though their host can: inactive, refused, or being refreshed. The guests there live on, count and
//! serve; nothing is done that needs a disk of theirs, or that would make one.
//!
//! A guest there that is off is started all the same, and one that is on may be restarted: its domain names its disks by their
//! paths, so that libvirt needs no pool for it, and nothing is lost if they are not there.

use std::collections::HashSet;

use crate::inventory::{HostSeen, Instance, Inventory, Phase};
use crate::model::ImageDigest;
use crate::names::{InstanceId, Label};
use crate::plan::action::{Action, Step};
use crate::plan::report::Wait;
use crate::plan::{Situation, sweep};
use crate::record::Record;
use crate::scaleset::{Host, ScaleSet};

fn seen<'a>(s: Situation<'a>, host: &Label) -> Option<&'a HostSeen> {
    s.inventory.host(host)?.seen()
}

/// Whether the host was seen, and its pool was not.
pub(super) fn is_unseen(s: Situation<'_>, host: &Label) -> bool {
    seen(s, host).is_some_and(|seen| seen.pool_unseen.is_some())
}

/// Pools that could not be seen, in the declared order of their hosts.
pub(super) fn waits(s: Situation<'_>) -> Vec<Wait> {
    let hosts = s.set.hosts().filter_map(|(_, host)| {
        let reason = seen(s, &host.name)?.pool_unseen.clone()?;
        Some((host, reason))
    });
    hosts
        .map(|(host, reason)| Wait::PoolUnseen {
            host: host.name.clone(),
            pool: host.pool.clone(),
            reason,
            instances: (s.record.known.iter())
                .filter(|(_, k)| k.confirmed && k.host == host.name)
                .map(|(id, _)| *id)
                .collect(),
        })
        .collect()
}

/// Instances whose disks are not where their host has its pool: the pool is another folder than it was, or somebody has moved or
/// deleted them. Their guests have them as long as the files are there. For who looks: nothing is done about it.
pub fn away(record: &Record, set: &ScaleSet, inventory: &Inventory) -> Vec<Wait> {
    let on = |host: &Host| -> Option<Wait> {
        let seen = inventory.host(&host.name)?.seen()?;
        let there: HashSet<&str> = seen.volumes.iter().map(|v| v.name.as_str()).collect();
        let is_settled = |i: &&Instance| {
            let known = record.knows(i.id, i.uuid);
            known.is_some_and(|k| k.confirmed && k.host == host.name)
                && i.meta.phase == Phase::Ready
                && i.meta.moving_to.is_none()
                && !record.moves.contains_key(&i.id)
                && !inventory.odd.is_double(i.id)
        };
        let lacks = |i: &&Instance| i.meta.volumes.iter().any(|v| !there.contains(v.as_str()));
        let instances: Vec<InstanceId> = (seen.instances.iter())
            .filter(|i| is_settled(i) && lacks(i))
            .map(|i| i.id)
            .collect();
        let is_seen = seen.pool_unseen.is_none() && !instances.is_empty();
        is_seen.then(|| Wait::DisksAway {
            host: host.name.clone(),
            pool: host.pool.clone(),
            instances,
        })
    };
    set.hosts().filter_map(|(_, host)| on(host)).collect()
}

/// Whether an action needs the pool of the host it is on.
const fn needs_pool(action: &Action) -> bool {
    match action {
        Action::PushImage { .. }
        | Action::Create(_)
        | Action::Rework { .. }
        | Action::Migrate { .. }
        | Action::Settle { .. }
        | Action::Delete { .. }
        | Action::DeleteVolume { .. }
        | Action::DeleteImage { .. } => true,
        Action::Start(_)
        | Action::Stop { .. }
        | Action::Restart { .. }
        | Action::Protect { .. }
        | Action::Renote { .. }
        | Action::DropCopy { .. } => false,
    }
}

/// The other host that an action concerns.
const fn other_host(action: &Action) -> Option<&Label> {
    match action {
        Action::Migrate { spec, .. } => Some(&spec.host),
        Action::Settle { to, .. } => Some(to),
        _ => None,
    }
}

/// Takes out every step that needs a pool which can't be seen.
pub(super) fn spare(s: Situation<'_>, steps: &mut Vec<Step>) {
    if s.inventory.hosts.iter().all(|h| !is_unseen(s, &h.name)) {
        return;
    }
    steps.retain(|step| {
        let hosts = std::iter::once(&step.host).chain(other_host(&step.action));
        !needs_pool(&step.action) || hosts.into_iter().all(|host| !is_unseen(s, host))
    });
}

/// Takes out what would send an image into one folder through two hosts at once, and what waits for that image: one host sends
/// it, and the others find it there when they look again.
pub(super) fn send_once(s: Situation<'_>, steps: &mut Vec<Step>) {
    let mut senders: Vec<(Label, ImageDigest)> = Vec::new();
    let mut waiting: Vec<(Label, ImageDigest)> = Vec::new();
    for step in steps.iter() {
        let Action::PushImage { digest } = &step.action else {
            continue;
        };
        let same: Vec<&Label> = (s.set.hosts())
            .map(|(_, other)| &other.name)
            .filter(|other| **other != step.host && share(s, &step.host, other))
            .collect();
        let is_there = same
            .iter()
            .any(|other| seen(s, other).is_some_and(|seen| seen.bases.contains(digest)));
        let is_sent = senders
            .iter()
            .any(|(host, d)| d == digest && same.contains(&host));
        let list = if is_sent && !is_there {
            &mut waiting
        } else {
            &mut senders
        };
        list.push((step.host.clone(), digest.clone()));
    }
    if waiting.is_empty() {
        return;
    }
    let waits = |host: &Label, image: &ImageDigest| waiting.iter().any(|(h, d)| h == host && d == image);
    steps.retain(|step| match &step.action {
        Action::PushImage { digest } => !waits(&step.host, digest),
        Action::Create(spec) | Action::Rework { spec, .. } => !waits(&step.host, &spec.image),
        _ => true,
    });
}

/// Whether two hosts were seen to have their pools in one folder: one has the other's mark in it.
pub(super) fn share(s: Situation<'_>, one: &Label, other: &Label) -> bool {
    let has = |host: &Label, mark: &Label| seen(s, host).is_some_and(|seen| sweep::shares(s, seen, mark));
    has(one, other) || has(other, one)
}
