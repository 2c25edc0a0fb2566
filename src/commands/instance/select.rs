//! Which instances a command is about.

use std::collections::BTreeSet;

use crate::cli::{IdRange, Selection};
use crate::commands::{Context, Target};
use crate::converge::{glance_aside, look_closely};
use crate::error::{Error, Exit, Result};
use crate::health::State;
use crate::inventory::{Instance, Inventory, Phase, View};
use crate::names::{InstanceId, Label, ranges};
use crate::record::Record;
use crate::scaleset::ScaleSet;

/// What a selector may ask of an instance.
struct Candidate {
    id: InstanceId,
    host: Label,
    is_outdated: bool,
    is_unhealthy: bool,
}

/// Looks at the set as closely as `selection` needs; the record absorbs what was seen.
pub fn look_for(ctx: &Context<'_>, target: &mut Target, selection: &Selection) -> Inventory {
    let (store, record) = (&*target.store, &mut target.record);
    let set = record.applied.clone();
    if selection.unhealthy {
        return look_closely(ctx.world, store, &set, record);
    }
    glance_aside(ctx.world, store, &set, record)
}

/// The ids that `selection` means, in order. `record` has absorbed and heeded the inventory.
///
/// # Errors
/// Usage if nothing is given, or a name that the set does not have; failed if an id is not there.
pub fn select(record: &Record, inventory: &Inventory, selection: &Selection) -> Result<Vec<InstanceId>> {
    let set = &record.applied;
    check(set, selection)?;
    let candidates = candidates(record, inventory);
    let given: BTreeSet<InstanceId> = selection.ids.iter().flat_map(IdRange::ids).collect();
    let known: BTreeSet<InstanceId> = candidates.iter().map(|c| c.id).collect();
    let unknown: Vec<InstanceId> = given.difference(&known).copied().collect();
    // What vmss itself has not ended: its creation, its deletion.
    let is_half = |id: &InstanceId| {
        record.condemned.contains(id)
            || inventory
                .instances()
                .any(|i| i.id == *id && i.meta.store == record.store)
    };
    let half = ranges(unknown.iter().filter(|id| is_half(id)).map(|id| id.0));
    if !half.is_empty() {
        let text = format!(
            "{} of {} {} half made or half deleted: nothing was done",
            noun(&half),
            set.name,
            if half.contains([',', '-']) { "are" } else { "is" }
        );
        return Err(Error::message(Exit::Blocked, text).hint("vmss scale +0 finishes that"));
    }
    let unknown = ranges(unknown.iter().map(|id| id.0));
    if !unknown.is_empty() {
        return Err(Error::message(
            Exit::Failed,
            format!("{} has no {}: nothing was done", set.name, noun(&unknown)),
        )
        .hint("vmss instances lists those there are, vmss plan what is still to be done"));
    }
    let is_in = |host: &Label| {
        let domain = set
            .hosts()
            .find(|(_, h)| &h.name == host)
            .map(|(domain, _)| domain);
        (selection.host.as_ref()).is_none_or(|wanted| wanted == host)
            && (selection.fault_domain.as_ref()).is_none_or(|wanted| Some(wanted) == domain)
    };
    let chosen = (candidates.into_iter())
        .filter(|c| given.is_empty() || given.contains(&c.id))
        .filter(|c| !selection.outdated || c.is_outdated)
        .filter(|c| !selection.unhealthy || c.is_unhealthy)
        .filter(|c| is_in(&c.host))
        .map(|c| c.id);
    Ok(chosen.collect())
}

/// "instance 3", "instances 3-5".
fn noun(ids: &str) -> String {
    let noun = if ids.contains([',', '-']) {
        "instances"
    } else {
        "instance"
    };
    format!("{noun} {ids}")
}

/// Refuses what selects nothing by itself, or something that is not there.
fn check(set: &ScaleSet, selection: &Selection) -> Result<()> {
    let Selection {
        ids,
        outdated,
        unhealthy,
        fault_domain,
        host,
        all,
    } = selection;
    if ids.is_empty() && !outdated && !unhealthy && !all && fault_domain.is_none() && host.is_none() {
        return Err(
            Error::message(Exit::Usage, "no instance is selected: nothing was done").hint(
                "name ids (3, 3-7, 1,4,9), or give --outdated, --unhealthy, --fault-domain NAME, --host NAME or --all",
            ),
        );
    }
    let unknown = |what: &str, name: &Label, there: Vec<&str>| {
        let text = format!("{} has no {what} {name}: nothing was done", set.name);
        Err(Error::message(Exit::Usage, text).hint(format!("it has {}", there.join(", "))))
    };
    if let Some(name) = fault_domain
        && set.fault_domains.iter().all(|d| &d.name != name)
    {
        let there = set.fault_domains.iter().map(|d| d.name.as_str()).collect();
        return unknown("fault domain", name, there);
    }
    if let Some(name) = host
        && set.host(name).is_none()
    {
        return unknown("host", name, set.hosts().map(|(_, h)| h.name.as_str()).collect());
    }
    Ok(())
}

/// Every instance of the set, by id: those seen, and those known to be on hosts that could not be.
fn candidates(record: &Record, inventory: &Inventory) -> Vec<Candidate> {
    let rules = &record.applied.health;
    let current = record.current();
    let seen_hosts = inventory.seen_hosts();
    let seen = (inventory.hosts.iter()).flat_map(|h| {
        h.seen()
            .into_iter()
            .flat_map(|seen| &seen.instances)
            .map(|i| (&h.name, i))
    });
    let whole = |i: &Instance| matches!(i.meta.phase, Phase::Ready | Phase::Changing);
    let seen = seen.filter(|(_, i)| whole(i)).map(|(host, i)| Candidate {
        id: i.id,
        host: host.clone(),
        is_outdated: i.meta.model_hash != current.hash,
        is_unhealthy: State::of(i, record.vitals.get(&i.id), rules).is_bad(),
    });
    let absent = (record.known.iter())
        .filter(|(_, k)| k.confirmed && !seen_hosts.contains(&k.host))
        .map(|(id, k)| Candidate {
            id: *id,
            host: k.host.clone(),
            is_outdated: k.revision != Some(current.number),
            // How it is can't be told.
            is_unhealthy: false,
        });
    let mut candidates: Vec<Candidate> = seen.chain(absent).collect();
    candidates.sort_by_key(|c| c.id);
    candidates.dedup_by_key(|c| c.id);
    candidates
}

/// The selection of one instance.
pub fn one(id: InstanceId) -> Selection {
    Selection {
        ids: vec![IdRange {
            first: id.0,
            last: id.0,
        }],
        ..Selection::default()
    }
}

/// Why an instance can't be seen: "host kvm2 was not seen: connection refused"; `None` if it can be.
pub fn unseen(record: &Record, inventory: &Inventory, id: InstanceId) -> Option<String> {
    if inventory.instances().any(|i| i.id == id) {
        return None;
    }
    let known = record.known.get(&id);
    let reason = known.and_then(|known| match &inventory.host(&known.host)?.view {
        View::Unseen { reason } => Some(format!("host {} was not seen: {reason}", known.host)),
        View::Seen(_) => None,
    });
    Some(reason.unwrap_or_else(|| "it is on a host that the definition has dropped".to_owned()))
}
