//! `vmss instances`: one line per instance.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::commands::Context;
use crate::converge::look_closely;
use crate::error::{Exit, Result};
use crate::health::State;
use crate::inventory::{Instance, Inventory, Phase, Power, Protection, View};
use crate::names::{InstanceId, Label, instance_name};
use crate::observe;
use crate::plan::action::InstanceRef;
use crate::record::Record;
use crate::scaleset::Probe;
use crate::store::Store;
use crate::ui::table::Table;
use crate::ui::words::ago;
use crate::world::World;

/// One instance as it is listed.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Its id.
    pub id: InstanceId,
    /// Its name.
    pub name: String,
    /// Its state: running, stopped (on purpose), off, crashed, paused, shutting-down, creating, changing, deleting, unseen.
    pub state: &'static str,
    /// How it is, if it was seen.
    pub health: Option<State>,
    /// What it said to its probe last; empty if it was not asked.
    pub said: String,
    /// Since when it is so, as far as that is known.
    pub health_since: Option<Timestamp>,
    /// What it is protected from.
    pub protection: Protection,
    /// Its host.
    pub host: Label,
    /// Its fault domain.
    pub fault_domain: Label,
    /// Revision of its model, if it was seen.
    pub revision: Option<u32>,
    /// Whether its model is no longer the set's.
    pub outdated: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// When it was made, if it was seen.
    pub created_at: Option<Timestamp>,
}

/// Lists the instances.
pub fn run(ctx: &Context<'_>) -> Result<Exit> {
    let mut target = ctx.target()?;
    let (lines, unseen) = lines(ctx.world, &*target.store, &mut target.record);
    for (host, reason) in &unseen {
        ctx.world.stderr.line(format!(
            "{} host {host} was not seen: {reason}",
            ctx.style.warn("warning:")
        ));
    }
    if ctx.is_json() {
        ctx.json(&lines);
        return Ok(Exit::Converged);
    }
    let now = ctx.world.clock.now();
    let probed = target.record.applied.health.probe != Probe::None;
    let columns = [
        "ID",
        "NAME",
        "STATE",
        "HEALTH",
        "HOST",
        "FAULT DOMAIN",
        "ADDRESS",
        "REVISION",
        "AGE",
        "PROTECTED",
    ];
    let protected = lines.iter().any(|l| l.protection != Protection::None);
    // Without a probe health says no more than the state.
    let shown = |column: &str| match column {
        "HEALTH" => probed,
        "PROTECTED" => protected,
        _ => true,
    };
    let heads: Vec<&str> = columns.into_iter().filter(|c| shown(c)).collect();
    let revision_at = 6 + usize::from(probed);
    let mut table = Table::new(heads).right(0).right(revision_at);
    for line in &lines {
        let addresses: Vec<String> = line.addresses.iter().map(ToString::to_string).collect();
        let revision = line.revision.map_or_else(|| "-".to_owned(), |r| r.to_string());
        let mut row = vec![line.id.to_string(), line.name.clone(), line.state.to_owned()];
        if probed {
            row.push(health(line.health.unwrap_or(State::Unknown), &line.said));
        }
        row.extend([
            line.host.to_string(),
            line.fault_domain.to_string(),
            if addresses.is_empty() {
                "-".to_owned()
            } else {
                addresses.join(" ")
            },
            if line.outdated {
                format!("{revision} outdated")
            } else {
                revision
            },
            line.created_at.map_or_else(|| "-".to_owned(), |at| ago(at, now)),
        ]);
        if protected {
            row.push(protection(line.protection).to_owned());
        }
        table.row(row);
    }
    ctx.table(&table);
    Ok(Exit::Converged)
}

/// The set's instances by id: those seen, and those known to be on hosts that could not be seen; and those hosts.
pub fn lines(world: &World, store: &dyn Store, record: &mut Record) -> (Vec<Line>, Vec<(Label, String)>) {
    let set = record.applied.clone();
    let inventory = look_closely(world, store, &set, record);
    let addresses = addresses(world, record, &inventory, None);
    let hash = &record.current().hash;
    let mut lines: Vec<Line> = Vec::new();
    for host in &inventory.hosts {
        for instance in host.seen().into_iter().flat_map(|h| &h.instances) {
            lines.push(Line {
                id: instance.id,
                name: instance_name(&set.name, instance.id),
                state: state(instance),
                health: Some(State::of(instance, record.vitals.get(&instance.id), &set.health)),
                said: record
                    .vitals
                    .get(&instance.id)
                    .map_or_else(String::new, |v| v.said.clone()),
                health_since: record.vitals.get(&instance.id).map(|v| v.since),
                protection: instance.meta.protection,
                host: host.name.clone(),
                fault_domain: instance.meta.fault_domain.clone(),
                revision: Some(instance.meta.revision),
                outdated: &instance.meta.model_hash != hash,
                addresses: addresses.get(&instance.id).cloned().unwrap_or_default(),
                created_at: Some(instance.meta.created_at),
            });
        }
    }
    for (id, known) in &record.known {
        if known.confirmed && inventory.host(&known.host).is_none_or(|h| h.seen().is_none()) {
            lines.push(Line {
                id: *id,
                name: instance_name(&set.name, *id),
                state: "unseen",
                health: Some(State::Unknown),
                said: String::new(),
                health_since: None,
                protection: Protection::None,
                host: known.host.clone(),
                fault_domain: known.fault_domain.clone(),
                revision: None,
                outdated: false,
                addresses: known.addresses.iter().flatten().map(|a| IpAddr::V4(*a)).collect(),
                created_at: None,
            });
        }
    }
    lines.sort_by_key(|l| l.id);
    let unseen = inventory.hosts.iter().filter_map(|h| match &h.view {
        View::Unseen { reason } => Some((h.name.clone(), reason.clone())),
        View::Seen(_) => None,
    });
    (lines, unseen.collect())
}

/// How an instance is, with what it said last: "unhealthy (503 Service Unavailable)".
pub fn health(state: State, said: &str) -> String {
    if said.is_empty() || state == State::Healthy {
        return state.to_string();
    }
    format!("{state} ({said})")
}

/// What an instance is protected from, in a word.
const fn protection(protection: Protection) -> &'static str {
    match protection {
        Protection::None => "-",
        Protection::ScaleIn => "scale-in",
        Protection::All => "all",
    }
}

fn state(instance: &Instance) -> &'static str {
    match (instance.meta.phase, instance.power) {
        (Phase::Creating, _) => "creating",
        (Phase::Changing, _) => "changing",
        (Phase::Deleting, _) => "deleting",
        (Phase::Ready, Power::Running) => "running",
        (Phase::Ready, Power::Paused) => "paused",
        (Phase::Ready, Power::ShuttingDown) => "shutting-down",
        (Phase::Ready, Power::Off | Power::Crashed) if instance.meta.stopped => "stopped",
        (Phase::Ready, Power::Off) => "off",
        (Phase::Ready, Power::Crashed) => "crashed",
    }
}

/// How long a host may take to tell all its instances' addresses. They are a courtesy: the list is shown without
/// those that did not come in time.
const PATIENCE: Duration = Duration::from_secs(8);

/// The addresses of one instance, as they are listed; none if it is not there or has none.
pub fn addresses_of(world: &World, record: &Record, inventory: &Inventory, id: InstanceId) -> Vec<IpAddr> {
    let found = addresses(world, record, inventory, Some(id)).remove(&id);
    // Its guest may be well though its host does not answer.
    found.unwrap_or_else(|| {
        let known = record
            .known
            .get(&id)
            .filter(|_| inventory.instances().all(|i| i.id != id));
        let assigned = known.into_iter().flat_map(|k| k.addresses.iter().flatten());
        assigned.map(|a| IpAddr::V4(*a)).collect()
    })
}

/// Addresses: those vmss assigned, else what each host finds out of its running instances. Of all instances, or of
/// `only` one.
fn addresses(
    world: &World,
    record: &Record,
    inventory: &Inventory,
    only: Option<InstanceId>,
) -> BTreeMap<InstanceId, Vec<IpAddr>> {
    let set = &record.applied;
    let mut found: BTreeMap<InstanceId, Vec<IpAddr>> = BTreeMap::new();
    let mut questions = Vec::new();
    for host in &inventory.hosts {
        let mut ask: Vec<InstanceRef> = Vec::new();
        let instances = host.seen().into_iter().flat_map(|h| &h.instances);
        for instance in instances.filter(|i| only.is_none_or(|id| id == i.id)) {
            let assigned = instance.meta.addresses.iter().flatten();
            let assigned: Vec<IpAddr> = assigned.map(|a| IpAddr::V4(*a)).collect();
            if !assigned.is_empty() {
                found.insert(instance.id, assigned);
            } else if instance.power == Power::Running {
                ask.push(InstanceRef {
                    set: set.name.clone(),
                    store: instance.meta.store,
                    id: instance.id,
                    name: instance_name(&set.name, instance.id),
                    uuid: instance.uuid,
                    epoch: record.epoch,
                });
            }
        }
        questions.extend(set.host(&host.name).map(|host| (host, ask)));
    }
    found.append(&mut observe::addresses(
        &*world.hosts,
        &set.limits,
        questions,
        PATIENCE,
    ));
    found
}
