//! Moves that were cut short: they are settled before anything else is done to their instances.

use std::collections::{BTreeMap, HashSet};

use crate::inventory::Instance;
use crate::names::{InstanceId, Label};
use crate::plan::action::{Action, Step};
use crate::plan::pool::share;
use crate::plan::report::Wait;
use crate::plan::{Situation, reference};
use crate::record::Move;

/// Instances that are between two hosts: those that a note speaks of, and those that the record does.
pub(super) fn between(s: Situation<'_>) -> BTreeMap<InstanceId, Move> {
    let mut moves = s.record.moves.clone();
    let all = s.inventory.hosts.iter().flat_map(|host| {
        let seen = host.seen().into_iter().flat_map(|h| &h.instances);
        seen.map(move |instance| (&host.name, instance))
    });
    for (host, instance) in all.filter(|(_, i)| i.meta.store == s.record.store) {
        if let Some(from) = has_lost_its_way(s, host, instance) {
            moves.entry(instance.id).or_insert_with(|| Move {
                from: from.clone(),
                to: host.clone(),
            });
        }
        // A note that somebody has carried to a third host says nothing any more: it is written anew.
        if *host != instance.meta.host {
            continue;
        }
        // Of one that is arriving only the record knows where it comes from, unless the copy there says so.
        if let (Some(to), false) = (&instance.meta.moving_to, instance.is_arriving()) {
            moves.entry(instance.id).or_insert_with(|| Move {
                from: instance.meta.host.clone(),
                to: to.clone(),
            });
        }
    }
    moves
}

/// Whether an instance has arrived on `host`, and the record knows nothing of its move, for it was restored since: one of the hosts
/// from which it may have come, which has its disks in a folder of its own. All must have been seen, and none has it any more.
fn has_lost_its_way<'a>(s: Situation<'a>, host: &Label, instance: &Instance) -> Option<&'a Label> {
    let is_lost = instance.is_arriving()
        && instance.meta.host == *host
        && !s.record.moves.contains_key(&instance.id)
        && !s.inventory.odd.is_double(instance.id);
    if !is_lost || s.inventory.hosts.iter().any(|h| h.seen().is_none()) {
        return None;
    }
    let mut others = s.set.hosts().map(|(_, other)| &other.name);
    others.find(|other| *other != host && !share(s, host, other))
}

/// Has each of them settled, and takes every other step out that concerns one, or a volume on one of its hosts.
pub(super) fn settle(s: Situation<'_>, steps: &mut Vec<Step>, waits: &mut Vec<Wait>) {
    let moves = between(s);
    if moves.is_empty() {
        return;
    }
    let hosts: HashSet<&Label> = moves.values().flat_map(|m| [&m.from, &m.to]).collect();
    steps.retain(|step| match (&step.action, step.action.instance()) {
        (_, Some(id)) => !moves.contains_key(&id),
        // It may be one of theirs, or what theirs is backed by.
        (Action::DeleteVolume { .. } | Action::DeleteImage { .. }, None) => !hosts.contains(&step.host),
        _ => true,
    });
    for (id, moved) in &moves {
        let copy = |host: &Label| -> Option<&Instance> {
            let seen = s.inventory.host(host)?.seen()?;
            seen.instances.iter().find(|i| i.id == *id)
        };
        let is_seen = |host: &Label| {
            let view = s.inventory.host(host).and_then(|h| h.seen());
            view.is_some_and(|seen| seen.pool_unseen.is_none())
        };
        if !is_seen(&moved.from) || !is_seen(&moved.to) {
            waits.push(Wait::Moving {
                instance: *id,
                from: moved.from.clone(),
                to: moved.to.clone(),
            });
            continue;
        }
        if let Some(instance) = copy(&moved.from).or_else(|| copy(&moved.to)) {
            steps.push(Step {
                host: moved.from.clone(),
                action: Action::Settle {
                    instance: reference(s, instance),
                    to: moved.to.clone(),
                },
                why: format!("its move to {} did not end", moved.to).into(),
            });
        }
    }
}
