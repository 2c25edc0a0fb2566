//! Sweeping: what interrupted runs left behind, and what nothing needs any more.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::inventory::{HostSeen, Phase};
use crate::names::Label;
use crate::plan::action::{Action, Step};
use crate::plan::{Situation, reference};
use crate::record::Life;

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
            let why = match instance.meta.phase {
                Phase::Ready | Phase::Changing => continue,
                Phase::Creating => "its creation did not end",
                Phase::Deleting => "its deletion did not end",
            };
            steps.push(Step {
                host: host.clone(),
                action: Action::Delete {
                    instance: reference(s, instance),
                    shutdown: Duration::ZERO,
                },
                why: why.into(),
            });
        }
    }
}

/// Volumes that no instance owns, and shared seeds that no instance of the host reads once `steps` are done.
pub(super) fn volumes(s: Situation<'_>, steps: &mut Vec<Step>) {
    let mut sweeps = Vec::new();
    let mut by_host: HashMap<&Label, Vec<&Step>> = HashMap::new();
    for step in &*steps {
        by_host.entry(&step.host).or_default().push(step);
    }
    for (host, seen) in seen_hosts(s) {
        for volume in &seen.leftovers {
            sweeps.push(Step {
                host: host.clone(),
                action: Action::DeleteVolume {
                    volume: volume.clone(),
                },
                why: "no instance owns it".into(),
            });
        }
        if seen.seeds.is_empty() {
            continue;
        }
        let none = Vec::new();
        let here = || by_host.get(host).unwrap_or(&none).iter();
        let leaving: HashSet<_> = here()
            .filter(|step| matches!(step.action, Action::Delete { .. }))
            .filter_map(|step| step.action.instance())
            .collect();
        let mut read: HashSet<u32> = here()
            .filter_map(|step| step.action.created())
            .map(|spec| spec.revision)
            .collect();
        read.extend(
            (seen.instances.iter())
                .filter(|i| !leaving.contains(&i.id))
                .map(|i| i.meta.revision),
        );
        for (revision, volume) in &seen.seeds {
            if !read.contains(revision) {
                sweeps.push(Step {
                    host: host.clone(),
                    action: Action::DeleteVolume {
                        volume: volume.clone(),
                    },
                    why: format!("no instance on {host} reads the seed of revision {revision}").into(),
                });
            }
        }
    }
    steps.append(&mut sweeps);
}

/// Images of a set that is being deleted, unless something else was found to need them.
pub(super) fn images(s: Situation<'_>, steps: &mut Vec<Step>) {
    debug_assert_eq!(s.record.life, Life::Deleting);
    if s.record.keep_images {
        return;
    }
    for (host, seen) in seen_hosts(s) {
        for digest in s.record.images() {
            let kept = s.experience.kept_images.contains(&(host.clone(), digest.clone()));
            let there = seen.bases.contains(digest) || seen.remains.contains(digest);
            if there && !kept {
                steps.push(Step {
                    host: host.clone(),
                    action: Action::DeleteImage {
                        digest: digest.clone(),
                    },
                    why: "the set is being deleted; it stays if anything else is backed by it".into(),
                });
            }
        }
    }
}
