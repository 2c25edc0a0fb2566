//! Sweeping: what our own acts have left behind, and what nothing needs any more. Only what the record names goes; whatever else
//! looks like the set's is told.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use crate::inventory::{HostSeen, Instance, Inventory, Phase};
use crate::model::ImageDigest;
use crate::names::{Label, PoolMark, VolumeName};
use crate::plan::action::{Action, Step};
use crate::plan::fleet::is_half;
use crate::plan::pool::share;
use crate::plan::report::Wait;
use crate::plan::{Situation, reference};
use crate::record::{Life, Record};
use crate::scaleset::ScaleSet;
use crate::warrants::{Cause, Warrant};

fn seen_hosts<'a>(s: Situation<'a>) -> impl Iterator<Item = (&'a Label, &'a HostSeen)> {
    s.inventory
        .hosts
        .iter()
        .filter_map(|h| h.seen().map(|seen| (&h.name, seen)))
}

/// Instances that are half made or half deleted are deleted whole. Whoever plans holds the set's lease, so nobody
/// else can be at work on them.
pub(super) fn half_made(s: Situation<'_>, steps: &mut Vec<Step>) {
    for (host, seen) in seen_hosts(s) {
        for instance in &seen.instances {
            if instance.meta.store != s.record.store {
                continue;
            }
            let Some(cause) = is_half(s, host, instance) else {
                continue;
            };
            steps.push(Step {
                host: host.clone(),
                why: cause.to_string().into(),
                action: Action::Delete {
                    instance: reference(s, instance),
                    shutdown: Duration::ZERO,
                    cause,
                },
            });
        }
    }
}

/// What becomes of a volume that has an instance's name.
enum Fate {
    /// It is an instance's that is there, or was seen elsewhere on a folder that is shared.
    Used,
    /// It goes.
    Goes(Cause),
    /// The record says nothing of it: it is told.
    Unclaimed,
}

/// Whose a volume is that has an instance's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// An instance's, or a stranger's, as far as record and hosts show.
    Used,
    /// Our own acts have left it: the next plan deletes it.
    Going,
    /// The record says nothing of it.
    Nobody,
}

/// Every volume that has the name of one of an instance's of the set, with its host and whose it is.
pub fn claims(s: Situation<'_>) -> Vec<(Label, VolumeName, Claim)> {
    let all = seen_hosts(s).flat_map(|(host, seen)| {
        seen.volumes.iter().map(move |volume| {
            let claim = match fate(s, host, seen, volume) {
                Fate::Used => Claim::Used,
                Fate::Goes(_) => Claim::Going,
                Fate::Unclaimed => Claim::Nobody,
            };
            (host.clone(), volume.clone(), claim)
        })
    });
    all.collect()
}

/// Whether two hosts have their pools in one folder: what one lists and the other lists is one file.
pub fn is_one_folder(s: Situation<'_>, one: &Label, other: &Label) -> bool {
    one == other || share(s, one, other)
}

/// Whether a host that stands before this one in the definition lists the very same file.
pub fn is_told_before(s: Situation<'_>, host: &Label, volume: &str) -> bool {
    (s.set.hosts())
        .map(|(_, other)| &other.name)
        .take_while(|other| *other != host)
        .filter(|other| share(s, host, other))
        .filter_map(|other| Some((other, s.inventory.host(other)?.seen()?)))
        .any(|(other, seen)| {
            let mut its = seen.volumes.iter().filter(|v| v.name == volume);
            its.any(|v| matches!(fate(s, other, seen, v), Fate::Unclaimed))
        })
}

/// The step by which an operator has a volume deleted.
pub fn by_hand(host: &Label, volume: &str) -> Step {
    sweep(host, volume, Cause::Operator)
}

/// Volumes that our own acts have left, and shared seeds that no instance reads once `steps` are done.
pub(super) fn volumes(s: Situation<'_>, steps: &mut Vec<Step>, waits: &mut Vec<Wait>) {
    let mut sweeps = Vec::new();
    let by_host: HashMap<&Label, Vec<&Step>> = steps.iter().fold(HashMap::new(), |mut all, step| {
        all.entry(&step.host).or_default().push(step);
        all
    });
    let none = Vec::new();
    for (host, seen) in seen_hosts(s) {
        let here = by_host.get(host).unwrap_or(&none);
        let mut unclaimed = Vec::new();
        for volume in &seen.volumes {
            match fate(s, host, seen, volume) {
                Fate::Used => {}
                Fate::Goes(_)
                    if (s.experience.kept_volumes).contains(&(host.clone(), volume.name.clone())) => {}
                Fate::Goes(cause) => sweeps.push(sweep(host, &volume.name, cause)),
                Fate::Unclaimed => unclaimed.push(volume.name.clone()),
            }
        }
        unclaimed.retain(|volume| !is_told_before(s, host, volume));
        if !unclaimed.is_empty() {
            waits.push(Wait::Unclaimed {
                host: host.clone(),
                volumes: unclaimed,
                ends: s.record.life == Life::Deleting,
            });
        }
        let brought = steps.iter().filter_map(|step| step.action.brings(host)).collect();
        seeds(s, host, seen, (here, brought), &mut sweeps, waits);
    }
    steps.append(&mut sweeps);
}

fn sweep(host: &Label, volume: &str, cause: Cause) -> Step {
    Step {
        host: host.clone(),
        why: cause.to_string().into(),
        action: Action::DeleteVolume {
            volume: volume.to_owned(),
            cause,
        },
    }
}

fn fate(s: Situation<'_>, host: &Label, seen: &HostSeen, volume: &VolumeName) -> Fate {
    let is_its = |i: &&Instance| volume.is_of(i.id, i.uuid);
    let at = seen.instances.partition_point(|i| i.id < volume.id);
    if seen.instances[at..]
        .iter()
        .take_while(|i| i.id == volume.id)
        .any(|i| is_its(&i))
    {
        return Fate::Used;
    }
    if s.record.moves.contains_key(&volume.id) || s.inventory.odd.is_double(volume.id) {
        // Which of the two hosts has it, its settling tells; of a double each copy has its own.
        return Fate::Used;
    }
    let is_warranted = (s.record.warrants.of(host, volume.id)).filter(|w| volume.is_of(volume.id, w.uuid));
    let known = s
        .record
        .known
        .get(&volume.id)
        .filter(|k| volume.is_of(volume.id, k.uuid));
    match (known, is_warranted) {
        // Made just now, or its domain has gone between the two lists of one look.
        (Some(known), _) if known.host == *host => Fate::Used,
        (Some(known), _) if shares(s, seen, &known.host) => Fate::Used,
        (
            Some(known),
            Some(Warrant {
                cause: Cause::Settled { .. },
                ..
            }),
        ) if !are_apart(s, host, seen, &known.host) => Fate::Used,
        // Given up with data disks: its domain goes, its volumes go by an operator's word alone.
        (
            _,
            Some(Warrant {
                cause: Cause::Fencing {
                    keeps_disks: true, ..
                },
                ..
            }),
        ) if !is_kept_elsewhere(s, host, seen, volume) => Fate::Unclaimed,
        // It is what somebody has left who took the instance away from another host of the same folder: told there.
        _ if has_departed_elsewhere(s, host, seen, volume) => Fate::Used,
        (_, Some(warrant)) if !is_kept_elsewhere(s, host, seen, volume) => Fate::Goes(match &warrant.cause {
            // The operator has named the instance. Only who names the volume itself has to hear that somebody uses it.
            Cause::Operator => Cause::UnfinishedDeletion,
            other => other.clone(),
        }),
        (Some(_), _) if seen.marks.is_empty() => Fate::Used,
        _ if is_kept_elsewhere(s, host, seen, volume) => Fate::Used,
        // Deleted through another host of the same folder: this one has not looked since.
        _ if was_deleted_elsewhere(s, host, volume) => Fate::Used,
        _ => Fate::Unclaimed,
    }
}

/// Whether the volume is one of a domain that was seen on another host which has its disks in the same folder, or is one of a
/// stranger's or of what was given up.
fn is_kept_elsewhere(s: Situation<'_>, host: &Label, seen: &HostSeen, volume: &VolumeName) -> bool {
    let given_up = s.record.written_off.get(&volume.id);
    if given_up
        .is_some_and(|w| volume.is_of(volume.id, w.uuid) && (w.host == *host || shares(s, seen, &w.host)))
    {
        return true;
    }
    let odd = &s.inventory.odd;
    if odd.strangers.iter().any(|other| {
        other.id.is_some_and(|id| volume.is_of(id, other.uuid))
            && (other.host == *host || shares(s, seen, &other.host))
    }) {
        return true;
    }
    s.inventory.hosts.iter().any(|other| {
        other.name != *host
            && shares(s, seen, &other.name)
            && (other.seen()).is_some_and(|view| view.instances.iter().any(|i| volume.is_of(i.id, i.uuid)))
    })
}

/// Whether somebody has taken the volume's instance away, by hand, from another host that has its disks in the same folder. What
/// is to go from this host since that instance was moved, or was there twice, is nothing of it then.
fn has_departed_elsewhere(s: Situation<'_>, host: &Label, seen: &HostSeen, volume: &VolumeName) -> bool {
    let departed = s.record.departed.get(&volume.id);
    departed.is_some_and(|d| volume.is_of(volume.id, d.uuid) && d.host != *host && shares(s, seen, &d.host))
}

/// Whether the volume's instance goes, or has gone just now, from another host.
fn was_deleted_elsewhere(s: Situation<'_>, host: &Label, volume: &VolumeName) -> bool {
    if (s.record.departed.get(&volume.id)).is_some_and(|d| volume.is_of(volume.id, d.uuid)) {
        return false;
    }
    (s.record.warrants.instances.iter())
        .filter(|(other, _)| *other != host)
        .filter_map(|(_, of_host)| of_host.get(&volume.id))
        .any(|warrant| volume.is_of(volume.id, warrant.uuid))
}

/// Whether the pool that was seen lies in the same folder as that of the host called `other`.
pub(super) fn shares(s: Situation<'_>, seen: &HostSeen, other: &Label) -> bool {
    let Some(host) = s.set.host(other) else {
        return false;
    };
    seen.marks.contains(&PoolMark::new(s.record.store, &host.uri))
}

/// Whether it is known that the two hosts have their disks in folders of their own: both have marked theirs, and neither sees
/// the other's mark. Two copies of one instance have volumes of the same names.
fn are_apart(s: Situation<'_>, host: &Label, seen: &HostSeen, other: &Label) -> bool {
    let mark = |name: &Label| Some(PoolMark::new(s.record.store, &s.set.host(name)?.uri));
    let theirs = s.inventory.host(other).and_then(|h| h.seen());
    let (Some(own), Some(its), Some(theirs)) = (mark(host), mark(other), theirs) else {
        return false;
    };
    let has_marked = |seen: &HostSeen, own: &PoolMark, other: &PoolMark| {
        seen.marks.contains(own) && !seen.marks.contains(other)
    };
    has_marked(seen, &own, &its) && has_marked(theirs, &its, &own)
}

/// Whether anybody beside this host, as far as marks tell, has disks in its pool.
fn is_shared(record: &Record, set: &ScaleSet, host: &Label, seen: &HostSeen) -> bool {
    let own: Vec<PoolMark> = (set.host(host).into_iter())
        .flat_map(|h| (record.stores().into_iter()).map(|store| PoolMark::new(store, &h.uri)))
        .collect();
    seen.marks.iter().any(|mark| !own.contains(mark))
}

/// What a set that is over leaves in folders of several hosts: none of it is deleted there, for disks of hosts and stores that
/// nobody can look at may need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stays {
    /// The host that sees it.
    pub host: Label,
    /// Images.
    pub images: Vec<ImageDigest>,
    /// Shared seeds, by the names of their volumes.
    pub seeds: Vec<String>,
}

/// What stays of a set, by host, as it was seen last.
pub fn stays(record: &Record, inventory: &Inventory) -> Vec<Stays> {
    let all = (inventory.hosts.iter()).filter_map(|host| Some((&host.name, host.seen()?)));
    all.filter(|(host, seen)| is_shared(record, &record.applied, host, seen))
        .map(|(host, seen)| Stays {
            host: host.clone(),
            images: (record.images().into_iter())
                .filter(|digest| {
                    !record.keep_images && (seen.bases.contains(*digest) || seen.remains.contains(*digest))
                })
                .cloned()
                .collect(),
            seeds: seen.seeds.iter().map(|(_, volume)| volume.clone()).collect(),
        })
        .filter(|stays| !stays.images.is_empty() || !stays.seeds.is_empty())
        .collect()
}

fn seeds(
    s: Situation<'_>,
    host: &Label,
    seen: &HostSeen,
    (here, mut read): (&[&Step], HashSet<u32>),
    sweeps: &mut Vec<Step>,
    waits: &mut Vec<Wait>,
) {
    // Instances of other hosts may read it.
    if seen.seeds.is_empty() || is_shared(s.record, s.set, host, seen) {
        return;
    }
    let leaving: HashSet<_> = here
        .iter()
        .filter(|step| matches!(step.action, Action::Delete { .. }))
        .filter_map(|step| step.action.instance())
        .collect();
    read.extend(
        (seen.instances.iter())
            .filter(|i| !leaving.contains(&i.id))
            .map(|i| i.meta.revision),
    );
    // Whatever the note says of its revision: the disks of a stranger, or of one that is there twice, may read any seed, and one that is half changed may still be
    // defined as it was.
    let odd = &s.inventory.odd;
    let may_read_any = odd.strangers.iter().any(|other| other.host == *host)
        || odd
            .doubles
            .iter()
            .flat_map(|d| &d.places)
            .any(|place| place.host == *host)
        || seen.instances.iter().any(|i| i.meta.phase == Phase::Changing);
    for (revision, volume) in &seen.seeds {
        if read.contains(revision) || may_read_any {
            continue;
        }
        if let Some(users) = s.experience.kept_seeds.get(&(host.clone(), volume.clone())) {
            waits.push(Wait::SeedInUse {
                host: host.clone(),
                revision: *revision,
                volume: volume.clone(),
                by: users.clone(),
            });
        } else {
            let cause = Cause::SeedNotNeeded {
                revision: *revision,
                host: host.clone(),
            };
            sweeps.push(sweep(host, volume, cause));
        }
    }
}

/// Images of a set that is being deleted, unless something else was found to need them.
pub(super) fn images(s: Situation<'_>, steps: &mut Vec<Step>) {
    debug_assert_eq!(s.record.life, Life::Deleting);
    if s.record.keep_images {
        return;
    }
    for (host, seen) in seen_hosts(s) {
        if is_shared(s.record, s.set, host, seen) {
            // Others' disks may be backed by it, on hosts that nobody here can look at.
            continue;
        }
        for digest in s.record.images() {
            let kept = s.experience.kept_images.contains(&(host.clone(), digest.clone()));
            let there = seen.bases.contains(digest) || seen.remains.contains(digest);
            if there && !kept {
                steps.push(Step {
                    host: host.clone(),
                    action: Action::DeleteImage {
                        digest: digest.clone(),
                    },
                    why: Cause::ImageNotNeeded.to_string().into(),
                });
            }
        }
    }
}
