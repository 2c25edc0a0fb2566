//! `vmss instances`: one line per instance.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::addresses::{self, Choice, Refused};
use crate::commands::Context;
use crate::converge::{look_closely, twins};
use crate::error::{Exit, Result};
use crate::health::State;
use crate::inventory::{Instance, Inventory, Phase, Power, Protection, View};
use crate::names::{InstanceId, Label, instance_name};
use crate::observe;
use crate::plan::action::InstanceRef;
use crate::plan::report::RefusedAddress;
use crate::plan::{Experience, Situation, oddities, told};
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
    /// Where it is reached, the first choice first.
    pub addresses: Vec<IpAddr>,
    /// Addresses that it claims and may not have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedAddress>,
    /// When it was made, if it was seen.
    pub created_at: Option<Timestamp>,
    /// Whether its host was seen and the pool there: if not, nothing is done to its disks.
    pub pool_seen: bool,
}

/// Lists the instances.
pub fn run(ctx: &Context<'_>) -> Result<Exit> {
    let mut target = ctx.target()?;
    let (lines, unseen) = lines(ctx.world, &*target.store, &mut target.record);
    for what in &unseen {
        ctx.world
            .stderr
            .line(format!("{} {what}", ctx.style.warn("warning:")));
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

/// The set's instances by id: those seen, and those known to be on hosts that could not be seen; and a
/// sentence for each host, and each pool, that could not be, and of what looks like an instance and is none.
pub fn lines(world: &World, store: &dyn Store, record: &mut Record) -> (Vec<Line>, Vec<String>) {
    let set = record.applied.clone();
    let mut inventory = look_closely(world, store, &set, record);
    twins::find_behind_doubles(world, &set, &mut inventory);
    let choice = reached(world, record, &inventory, None);
    let hash = &record.current().hash;
    let mut lines: Vec<Line> = Vec::new();
    for host in &inventory.hosts {
        let mut domains = set.hosts().filter(|(_, h)| h.name == host.name);
        let domain = domains.next().map(|(domain, _)| domain);
        for instance in host.seen().into_iter().flat_map(|h| &h.instances) {
            lines.push(Line {
                id: instance.id,
                name: instance_name(&set.name, instance.id),
                state: state(instance),
                health: Some(State::of(instance, record.vitals.get(&instance.id), &set.health)),
                said: record
                    .vitals
                    .get(&instance.id)
                    .map_or_else(String::new, |v| v.said()),
                health_since: record.vitals.get(&instance.id).map(|v| v.since),
                protection: instance.meta.protection,
                host: host.name.clone(),
                // Where it is, and not where its note says: somebody may have moved it.
                fault_domain: domain.unwrap_or(&instance.meta.fault_domain).clone(),
                revision: Some(instance.meta.revision),
                outdated: &instance.meta.model_hash != hash,
                addresses: if instance.power == Power::Running || is_assigned(record, instance.id) {
                    choice.all(instance.id).to_vec()
                } else {
                    Vec::new()
                },
                refused: refused(&choice, instance.id),
                created_at: Some(instance.meta.created_at),
                pool_seen: host.unseen().is_none(),
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
                addresses: if is_assigned(record, *id) {
                    choice.all(*id).to_vec()
                } else {
                    Vec::new()
                },
                refused: refused(&choice, *id),
                created_at: None,
                pool_seen: false,
            });
        }
    }
    lines.sort_by_key(|l| l.id);
    let unseen = inventory.hosts.iter().filter_map(|h| match &h.view {
        View::Unseen { reason } => Some(format!("host {} was not seen: {reason}", h.name)),
        View::Seen(seen) => {
            let (reason, host) = (seen.pool_unseen.as_ref()?, set.host(&h.name)?);
            Some(format!(
                "pool {} on host {} can't be seen: {reason}",
                host.pool, h.name
            ))
        }
    });
    let experience = Experience::default();
    let odd = oddities(Situation {
        set: &set,
        record,
        inventory: &inventory,
        experience: &experience,
        now: world.clock.now(),
        drawn: (world.draw)(),
    });
    (lines, unseen.chain(told::sentences(&odd)).collect())
}

/// Whether vmss gave an instance an address.
fn is_assigned(record: &Record, id: InstanceId) -> bool {
    let known = record.known.get(&id);
    known.is_some_and(|k| k.addresses.iter().flatten().next().is_some())
}

fn refused(choice: &Choice, id: InstanceId) -> Vec<RefusedAddress> {
    let own = choice.refused().filter(|(of, ..)| *of == id);
    own.map(|(instance, address, why)| RefusedAddress {
        instance,
        address,
        why: why.clone(),
    })
    .collect()
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

/// Where one instance is reached, as it is listed.
///
/// # Errors
/// Why not where it says that it is; `None` if nobody knows an address of it.
pub fn address_of(
    world: &World,
    record: &Record,
    inventory: &Inventory,
    id: InstanceId,
) -> Result<IpAddr, Option<Refused>> {
    let choice = reached(world, record, inventory, Some(id));
    choice.serve_at(id).map_err(Option::<&Refused>::cloned)
}

/// Where instances are reached: at what vmss assigned, else at what each host finds out of its running instances, as far as
/// that is theirs. Hosts are asked of all instances, or of `only` one.
fn reached(world: &World, record: &Record, inventory: &Inventory, only: Option<InstanceId>) -> Choice {
    let set = &record.applied;
    let mut questions = Vec::new();
    for host in &inventory.hosts {
        let is_asked = |i: &&Instance| {
            let known = record.known.get(&i.id);
            let given = known.map_or(&i.meta.addresses, |k| &k.addresses);
            only.is_none_or(|id| id == i.id)
                && i.power == Power::Running
                && given.iter().flatten().next().is_none()
        };
        let instances = host.seen().into_iter().flat_map(|h| &h.instances);
        let ask: Vec<InstanceRef> = (instances.filter(is_asked))
            .map(|instance| InstanceRef {
                set: set.name.clone(),
                store: instance.meta.store,
                id: instance.id,
                name: instance_name(&set.name, instance.id),
                uuid: instance.uuid,
                epoch: record.epoch,
            })
            .collect();
        questions.extend(set.host(&host.name).map(|host| (host, ask)));
    }
    let mut told = inventory.told.clone();
    told.append(&mut observe::addresses(
        &*world.hosts,
        &set.limits,
        questions,
        PATIENCE,
    ));
    let claimants = addresses::claimants(set, record, inventory, &told);
    addresses::choose(&claimants, &inventory.off_limits)
}
