//! `vmss lb`: the set's load balancers as they are, brought into line, and the configuration they need.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use crate::balancer::{BalancerError, Trouble};
use crate::commands::Context;
use crate::commands::instance::claim::{refuse_what_is_barred, situation};
use crate::converge::{amend, drop_the_dropped, look, look_closely, tell_changes};
use crate::error::{Error, Exit, Result};
use crate::inventory::Inventory;
use crate::membership::{BalancerView, Membership, Server, ServerSeen, Sight};
use crate::names::{InstanceId, Label, instance_name, list};
use crate::plan::{Experience, Situation, as_noted};
use crate::record::Record;
use crate::scaleset::ScaleSet;
use crate::serve;
use crate::ui::table::Table;
use crate::ui::words::count;

/// How an instance stands in a load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Standing {
    /// It takes clients, and the balancer's check finds it up.
    Up,
    /// It takes clients as soon as the balancer's check finds it up.
    Unchecked,
    /// It would take clients, but the balancer's check finds it down.
    Down,
    /// It takes no new clients, and still has some.
    Leaving,
    /// It takes no clients.
    Out,
}

impl Standing {
    const fn of(seen: &ServerSeen) -> Self {
        match (seen.is_in, seen.up, seen.connections) {
            (true, Some(true), _) => Self::Up,
            (true, None, _) => Self::Unchecked,
            (true, Some(false), _) => Self::Down,
            (false, _, 0) => Self::Out,
            (false, ..) => Self::Leaving,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Unchecked => "unchecked",
            Self::Down => "down",
            Self::Leaving => "leaving",
            Self::Out => "out",
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    set: &'a Label,
    frontends: Vec<FrontendLine>,
    balancers: Vec<BalancerLine>,
    /// Whether every load balancer was seen and has what it should.
    level: bool,
}

#[derive(Serialize)]
struct FrontendLine {
    name: Label,
    urls: Vec<String>,
    mode: crate::load_balancer::Mode,
    port: u16,
}

#[derive(Serialize)]
struct BalancerLine {
    name: String,
    seen: bool,
    reason: Option<String>,
    version: Option<String>,
    /// Requests that wait for any server.
    queue: u64,
    servers: Vec<ServerLine>,
    differs: Vec<String>,
}

#[derive(Serialize)]
struct ServerLine {
    frontend: Label,
    instance: InstanceId,
    name: String,
    fault_domain: Option<Label>,
    host: Option<Label>,
    address: Option<SocketAddr>,
    state: Standing,
    weight: u32,
    connections: u64,
    /// Requests that wait for it.
    queue: u64,
    requests: u64,
    errors: u64,
    /// Seconds that a request takes on average.
    #[serde(with = "crate::units::seconds_if_any")]
    latency: Option<Duration>,
    last_check: String,
}

fn none(set: &Label) -> Error {
    Error::message(Exit::Usage, format!("the set {set} has no load balancer"))
        .hint("add [load_balancer] to the definition and vmss apply it; vmss init prints one to start from")
}

/// Who is to take clients; those that a run has noted as leaving stay out.
fn wanted(ctx: &Context<'_>, set: &ScaleSet, record: &Record, inventory: &Inventory) -> Membership {
    let membership = as_noted(Situation {
        set,
        record,
        inventory,
        experience: &Experience::default(),
        now: ctx.world.clock.now(),
        drawn: (ctx.world.draw)(),
    });
    membership.unwrap_or_default()
}

/// What it means for a command that load balancers or discovery files could not be told.
pub fn exit_of<'e>(mut errors: impl Iterator<Item = &'e BalancerError>) -> Exit {
    if errors.all(|e| e.kind == Trouble::Unreachable) {
        Exit::Unreachable
    } else {
        Exit::Failed
    }
}

/// Shows every server of every load balancer.
pub fn show(ctx: &Context<'_>) -> Result<Exit> {
    let mut target = ctx.target()?;
    let set = target.record.applied.clone();
    let Some(rules) = &set.load_balancer else {
        return Err(none(&set.name));
    };
    let inventory = look_closely(ctx.world, &*target.store, &set, &mut target.record);
    let wanted = wanted(ctx, &set, &target.record, &inventory);
    let lines: Vec<BalancerLine> = (inventory.balancers.iter())
        .map(|view| balancer_line(&set, &target.record, &wanted, view))
        .collect();
    let document = Document {
        set: &set.name,
        frontends: (rules.frontends.iter())
            .map(|f| FrontendLine {
                name: f.name.clone(),
                urls: f.urls(),
                mode: f.mode,
                port: f.port,
            })
            .collect(),
        level: lines.iter().all(|line| line.seen && line.differs.is_empty()),
        balancers: lines,
    };
    if ctx.is_json() {
        ctx.json(&document);
    } else {
        print(ctx, &document);
    }
    Ok(Exit::Converged)
}

fn print(ctx: &Context<'_>, document: &Document<'_>) {
    for frontend in &document.frontends {
        let urls = match frontend.urls.as_slice() {
            [] => "configured elsewhere".to_owned(),
            urls => urls.join(", "),
        };
        ctx.print(format!(
            "{}: {urls} -> port {} of the instances",
            ctx.style.strong(frontend.name.as_str()),
            frontend.port
        ));
    }
    for balancer in &document.balancers {
        ctx.print("");
        match (&balancer.reason, &balancer.version) {
            (Some(reason), _) => ctx.print(format!("{}: not seen: {reason}", balancer.name)),
            (None, None) => ctx.print(format!("{}: HAProxy is not running", balancer.name)),
            (None, Some(version)) => {
                let at_servers: u64 = balancer.servers.iter().map(|line| line.queue).sum();
                let waiting = match balancer.queue.saturating_add(at_servers) {
                    0 => String::new(),
                    n => format!(
                        ", {} waiting",
                        count(usize::try_from(n).unwrap_or(usize::MAX), "request")
                    ),
                };
                ctx.print(format!("{}: HAProxy {version}{waiting}", balancer.name));
            }
        }
        if !balancer.servers.is_empty() {
            ctx.table(&table(balancer));
        }
        for differs in &balancer.differs {
            ctx.print(format!("! {differs} (vmss lb sync puts it right)"));
        }
    }
}

fn table(balancer: &BalancerLine) -> Table {
    let headers = [
        "FRONTEND",
        "INSTANCE",
        "FAULT DOMAIN",
        "ADDRESS",
        "STATE",
        "WEIGHT",
        "CONNECTIONS",
        "REQUESTS",
        "ERRORS",
        "LAST CHECK",
    ];
    let mut table = Table::new(headers).right(5).right(6).right(7).right(8);
    for line in &balancer.servers {
        table.row([
            line.frontend.to_string(),
            line.name.clone(),
            line.fault_domain
                .as_ref()
                .map_or_else(|| "-".to_owned(), ToString::to_string),
            line.address.map_or_else(|| "-".to_owned(), |a| a.to_string()),
            line.state.as_str().to_owned(),
            line.weight.to_string(),
            line.connections.to_string(),
            line.requests.to_string(),
            line.errors.to_string(),
            if line.last_check.is_empty() {
                "-".to_owned()
            } else {
                line.last_check.clone()
            },
        ]);
    }
    table
}

fn balancer_line(set: &ScaleSet, record: &Record, wanted: &Membership, view: &BalancerView) -> BalancerLine {
    let servers = (view.seen().into_iter().flat_map(|seen| &seen.servers)).map(|seen| {
        let known = record.known.get(&seen.id);
        ServerLine {
            frontend: seen.frontend.clone(),
            instance: seen.id,
            name: instance_name(&set.name, seen.id),
            fault_domain: known.map(|k| k.fault_domain.clone()),
            host: known.map(|k| k.host.clone()),
            address: seen.address,
            state: Standing::of(seen),
            weight: seen.weight,
            connections: seen.connections,
            queue: seen.queue,
            requests: seen.requests,
            errors: seen.errors,
            latency: seen.latency,
            last_check: seen.last_check.clone(),
        }
    });
    BalancerLine {
        name: view.name.clone(),
        seen: view.seen().is_some(),
        reason: match &view.sight {
            Sight::Seen(_) => None,
            Sight::Unseen { reason } => Some(reason.clone()),
        },
        version: view.seen().and_then(|seen| seen.version.clone()),
        queue: view.seen().map_or(0, |seen| seen.queue),
        servers: servers.collect(),
        differs: differences(set, wanted, view),
    }
}

/// What a load balancer has otherwise than it should, in sentences.
fn differences(set: &ScaleSet, wanted: &Membership, view: &BalancerView) -> Vec<String> {
    let Some(seen) = view.seen() else {
        return Vec::new();
    };
    if seen.version.is_none() {
        return vec!["it should run".to_owned()];
    }
    let by_id: BTreeMap<InstanceId, &Server> = wanted.servers.iter().map(|s| (s.id, s)).collect();
    let frontends: Vec<&Label> = (set.load_balancer.iter().flat_map(|l| &l.frontends))
        .map(|f| &f.name)
        .collect();
    let (mut missing, mut extra, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for server in &wanted.servers {
        let there: Vec<&ServerSeen> = seen.servers.iter().filter(|s| s.id == server.id).collect();
        let takes = there.len() == frontends.len() && there.iter().all(|s| s.is_in);
        let takes_any = there.iter().any(|s| s.is_in);
        if server.duty.is_in() && !takes {
            missing.push(server.name.clone());
        } else if !server.duty.is_in() && takes_any {
            extra.push(server.name.clone());
        }
    }
    for server in seen.servers.iter().filter(|s| !by_id.contains_key(&s.id)) {
        let name = instance_name(&set.name, server.id);
        if !gone.contains(&name) {
            gone.push(name);
        }
    }
    let sentence =
        |names: &[String], what: &str| (!names.is_empty()).then(|| format!("{}: {what}", list(names, 8)));
    [
        sentence(&missing, "should take clients"),
        sentence(&extra, "should take no clients"),
        sentence(&gone, "should not be there any more"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Makes every load balancer and discovery file agree with what the instances are. What the definition has dropped is told
/// as well, and forgotten if it can't be and `forget_dropped`.
pub fn sync(ctx: &Context<'_>, forget_dropped: bool) -> Result<Exit> {
    let target = ctx.target()?;
    let (name, store) = (target.name.clone(), &*target.store);
    if !target.record.applied.is_served() && target.record.dropped.is_empty() {
        return Err(none(&name));
    }
    let held = ctx.hold(&target.store, &name, &format!("lb sync {name}"))?;
    let (record, _) = amend(store, &name, |_| false)?;
    let set = record.applied.clone();
    let inventory = look(ctx.world, store, &set, &record);
    refuse_what_is_barred(situation(ctx, &record, &inventory, &Experience::default()))?;
    let now = ctx.world.clock.now();
    let (record, _) = amend(store, &name, |record| {
        record.absorb(&inventory) | record.heed(&inventory, &set.health, now)
    })?;
    let capacity = Some(record.capacity);
    let number = store.begin(&ctx.operation(&name, "lb sync", capacity, capacity))?;
    let wanted = wanted(ctx, &set, &record, &inventory);
    let mut failed = Vec::new();
    for told in serve::bring(ctx.world, &set, &wanted, |_| false) {
        match told.result {
            Ok(changes) => tell_changes(&told.who, &changes, &ctx.listener),
            Err(e) => failed.push((told.who, e)),
        }
    }
    let untold = drop_the_dropped(ctx.world, store, &record)?;
    if forget_dropped {
        amend(store, &name, |record| {
            !std::mem::take(&mut record.dropped).is_empty()
        })?;
        for (who, e) in &untold {
            ctx.say(format!(
                "note: {who} is forgotten, though it could not be told: {e}"
            ));
        }
    } else {
        failed.extend(untold);
    }
    let takes = wanted.servers.iter().filter(|s| s.duty.is_in()).count();
    let exit = match failed.as_slice() {
        [] => Exit::Converged,
        failed => exit_of(failed.iter().map(|(_, e)| e)),
    };
    let failed: Vec<String> = failed.iter().map(|(who, e)| format!("{who}: {e}")).collect();
    let outcome = if failed.is_empty() {
        format!("level, {takes} take clients")
    } else {
        failed.join("; ")
    };
    store.finish(number, ctx.world.clock.now(), &outcome, capacity)?;
    drop(held);
    if ctx.is_json() {
        ctx.json(&serde_json::json!({
            "set": name, "command": "lb sync", "exit_code": exit.code(), "failed": failed, "servers": wanted.servers,
        }));
        return Ok(exit);
    }
    let line = match set.is_served() {
        true => format!(
            "{name}: {takes} of {} take clients",
            count(wanted.servers.len(), "instance")
        ),
        false => format!("{name}: it has no load balancer any more"),
    };
    if failed.is_empty() {
        ctx.say(format!("{} {line}", ctx.style.good("ok")));
        return Ok(exit);
    }
    let talk = &ctx.world.stderr;
    talk.line(format!("{} {line}", ctx.style.bad("not done:")));
    for text in failed {
        talk.line(format!("  {text}"));
    }
    talk.line("hint: vmss check tells what a load balancer needs; vmss lb sync tries again");
    Ok(exit)
}

/// Prints the configuration that the set's load balancers need, with the servers they have at the moment.
pub fn config(ctx: &Context<'_>) -> Result<Exit> {
    let (name, store, definition) = ctx.meant()?;
    let record = store.get(&name)?.map(|(record, _)| record);
    let set = match (&definition, &record) {
        (Some(set), _) => set.clone(),
        (None, Some(record)) => record.applied.clone(),
        (None, None) => ctx.target()?.record.applied,
    };
    let balancers = serve::balancers(ctx.world, &set);
    let Some(balancer) = balancers.first() else {
        return Err(none(&name));
    };
    let wanted = match record {
        None => Membership::default(),
        Some(mut record) => {
            let inventory = look_closely(ctx.world, &*store, &set, &mut record);
            wanted(ctx, &set, &record, &inventory)
        }
    };
    let text = balancer.configuration(&wanted);
    if ctx.is_json() {
        ctx.json(&serde_json::json!({ "set": name, "configuration": text }));
    } else {
        ctx.world.stdout.text(text);
    }
    Ok(Exit::Converged)
}
