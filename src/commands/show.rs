//! `vmss show`: how the set stands, and why.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use crate::commands::{Context, Target, scale, upgrade};
use crate::converge::seeds::planned;
use crate::converge::{look_closely, twins};
use crate::error::{Exit, Result};
use crate::health::State;
use crate::inventory::{Inventory, View};
use crate::lease::lease_key;
use crate::load_balancer::Frontend;
use crate::membership::BalancerView;
use crate::names::{InstanceId, Label, instance_name};
use crate::ownership::{Strangeness, Stranger};
use crate::plan::report::{Report, Verdict, Wait};
use crate::plan::{Experience, Plan, Situation, away, told};
use crate::record::{Life, Record};
use crate::rollout::Rollout;
use crate::scaleset::{Probe, ScaleSet};
use crate::scaling;
use crate::timed::{self, Timed};
use crate::ui::table::Table;
use crate::ui::words::{ago, count, fold, list, moment, ranges};

#[derive(Serialize)]
struct Document<'a> {
    set: &'a Label,
    stable: bool,
    life: Life,
    report: &'a Report,
    pending_steps: usize,
    revision: u32,
    model_hash: &'a str,
    image: &'a str,
    outdated: usize,
    disowned: Vec<&'a Stranger>,
    health: BTreeMap<&'static str, usize>,
    ailing: Vec<Ailing>,
    rollout: Option<&'a Rollout>,
    fault_domains: BTreeMap<&'a Label, usize>,
    hosts: Vec<HostLine>,
    autoscaling: bool,
    timed: &'a [Timed],
    overdue_since: Option<Timestamp>,
    acting: Option<crate::store::Holder>,
    definition: &'a std::path::Path,
    store: String,
}

#[derive(Serialize)]
struct HostLine {
    host: Label,
    fault_domain: Label,
    seen: bool,
    reason: Option<String>,
    pool_seen: bool,
    pool_reason: Option<String>,
    instances: usize,
}

/// An instance that is not healthy.
#[derive(Serialize)]
struct Ailing {
    id: InstanceId,
    name: String,
    state: State,
    since: Option<Timestamp>,
    said: String,
}

/// Instances by how they are, and those that are not healthy.
fn health(
    record: &Record,
    inventory: &Inventory,
    unseen: usize,
) -> (BTreeMap<&'static str, usize>, Vec<Ailing>) {
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut ailing = Vec::new();
    for instance in inventory.instances() {
        let vital = record.vitals.get(&instance.id);
        let state = State::of(instance, vital, &record.applied.health);
        *counts.entry(state.as_str()).or_default() += 1;
        if !matches!(state, State::Healthy | State::Stopped) {
            ailing.push(Ailing {
                id: instance.id,
                name: instance_name(&instance.meta.set, instance.id),
                state,
                since: vital.map(|v| v.since),
                said: vital.map_or_else(String::new, |v| v.said()),
            });
        }
    }
    if unseen > 0 {
        *counts.entry(State::Unknown.as_str()).or_default() += unseen;
    }
    ailing.sort_by_key(|a| a.id);
    (counts, ailing)
}

/// How autoscaling stands, if the set has a policy.
fn scaled(ctx: &Context<'_>, target: &Target) -> Result<Option<String>> {
    let Some(policy) = &target.record.applied.autoscale else {
        return Ok(None);
    };
    let now = ctx.world.clock.now();
    if scaling::in_force(&target.record).is_none() {
        return Ok(Some("not in force (vmss autoscale status tells why)".to_owned()));
    }
    let bounds = policy.profile_at(now).map_or_else(String::new, |profile| {
        let min = policy
            .floor_at(now)
            .map_or(profile.min, |f| f.min.clamp(profile.min, profile.max));
        format!("{min} to {} (profile {})", profile.max, profile.name)
    });
    let last = target.store.decisions(&target.name, 1)?.into_iter().next();
    let last = last.map_or_else(
        || "nothing was decided yet".to_owned(),
        |last| format!("{}, {}", last.reason, ago(last.at, now)),
    );
    Ok(Some(format!("{bounds}: {last}")))
}

/// Shows the set.
pub fn run(ctx: &Context<'_>) -> Result<Exit> {
    let mut target = ctx.target()?;
    let set = target.record.applied.clone();
    let mut inventory = look_closely(ctx.world, &*target.store, &set, &mut target.record);
    twins::find_behind_doubles(ctx.world, &set, &mut inventory);
    let now = ctx.world.clock.now();
    let record = &target.record;
    let experience = Experience::default();
    let Plan {
        mut steps,
        held,
        mut report,
        ..
    } = planned(
        ctx.world,
        Situation {
            set: &set,
            record,
            inventory: &inventory,
            experience: &experience,
            now,
            drawn: (ctx.world.draw)(),
        },
    );
    report.waits.extend(away(record, &set, &inventory));
    // What waits for clients to leave is to be done all the same.
    steps.extend(held);
    let acting = target.store.holder(&lease_key(&target.name), now)?;
    // What repair gives up on is not as it should be, though everything runs.
    let is_held = |w: &Wait| matches!(w, Wait::Outage { .. } | Wait::RepairSuspended { .. });
    let stable = steps.is_empty()
        && !report.waits.iter().any(is_held)
        && report.verdict() == Verdict::Converged
        && record.life == Life::Wanted;
    let current = record.current();
    let outdated = inventory
        .instances()
        .filter(|i| i.meta.model_hash != current.hash)
        .count();
    let (health, ailing) = health(record, &inventory, report.unseen);
    let document = Document {
        set: &target.name,
        stable,
        life: record.life,
        report: &report,
        pending_steps: steps.len(),
        revision: current.number,
        model_hash: &current.hash,
        image: &current.model.image.digest.0,
        outdated,
        disowned: (inventory.odd.strangers.iter())
            .filter(|other| other.why == Strangeness::Disowned)
            .collect(),
        health,
        ailing,
        rollout: record.rollout.as_ref(),
        fault_domains: per_domain(record, &inventory),
        hosts: hosts(record, &inventory),
        autoscaling: scaling::in_force(record).is_some(),
        timed: &record.timed,
        overdue_since: timed::overdue(&record.timed, now),
        acting,
        definition: &record.definition,
        store: target.store.location(),
    };
    if ctx.is_json() {
        ctx.json(&document);
        return Ok(Exit::Converged);
    }

    let bad = document.ailing.iter().filter(|a| a.state.is_bad()).count();
    let heading = match (record.life, stable) {
        (Life::Deleting, _) => "being deleted".to_owned(),
        (_, true) if bad > 0 => format!("stable, but {} not healthy", are(bad)),
        (_, true) => "stable".to_owned(),
        (_, false) if !steps.is_empty() => format!("not stable: {} to do", count(steps.len(), "step")),
        _ => "not stable".to_owned(),
    };
    let unseen = if report.unseen > 0 {
        format!(", {} out of sight", report.unseen)
    } else {
        String::new()
    };
    ctx.print(format!(
        "{}: {heading}, {}{unseen}",
        ctx.style.strong(target.name.as_str()),
        report.running_of_wanted()
    ));
    let model = &current.model;
    let spread: Vec<String> = document
        .fault_domains
        .iter()
        .map(|(d, n)| format!("{d} {n}"))
        .collect();
    ctx.print(format!(
        "  model       revision {} ({}): image {}, {}, {} memory, {} disk",
        current.number,
        ago(current.created_at, now),
        model.image.digest.short(),
        count(model.vcpus as usize, "vCPU"),
        model.memory,
        model.disk
    ));
    ctx.print(format!("  spread      {}", spread.join(", ")));
    if set.health.probe != Probe::None {
        let health: Vec<String> = document
            .health
            .iter()
            .map(|(state, n)| format!("{n} {state}"))
            .collect();
        let none = "no instance to ask".to_owned();
        ctx.print(format!(
            "  health      {}",
            if health.is_empty() {
                none
            } else {
                health.join(", ")
            }
        ));
    }
    if let Some(rollout) = document.rollout.filter(|r| r.is_open()) {
        ctx.print(format!(
            "  rollout     to revision {}: {} (vmss upgrade status tells more)",
            rollout.target,
            upgrade::in_words(&rollout.state)
        ));
    }
    if let Some(text) = scaled(ctx, &target)? {
        ctx.print(format!("  autoscale   {text}"));
    }
    for timed in record.timed.iter() {
        let until = timed
            .until
            .map_or_else(String::new, |until| format!(" until {}", moment(until)));
        let from = match timed.holds() {
            true => String::new(),
            false => format!(" from {}", moment(timed.from)),
        };
        ctx.print(format!(
            "  timed       {}{}{from}{until}, asked for by {}",
            timed.capacity,
            scale::timed::kept(timed),
            timed.by
        ));
    }
    if let Some(text) = scale::timed::overdue(record, now) {
        ctx.print(format!("  overdue     {text}"));
    }
    for line in served(&set, &inventory) {
        ctx.print(format!("  clients     {line}"));
    }
    ctx.print(format!("  definition  {}", record.definition.display()));
    ctx.print(format!("  store       {}", document.store));
    if let Some(holder) = &document.acting {
        ctx.print(format!(
            "  acting      {} (pid {} on {}): {}",
            holder.user, holder.pid, holder.machine, holder.doing
        ));
    }
    if let Some(last) = target.store.history(Some(&target.name), 1)?.first() {
        let end = last.outcome.as_deref().unwrap_or("not ended");
        ctx.print(format!(
            "  last        {} by {}, {}: {end}",
            last.verb,
            last.who,
            ago(last.began, now)
        ));
    }
    if outdated > 0 {
        // A rollout under way comes to them by itself.
        let hint = match document.rollout.is_some_and(Rollout::is_open) {
            true => "",
            false => " (vmss upgrade brings them level)",
        };
        ctx.print(format!(
            "  outdated    {} of an older revision{hint}",
            count(outdated, "instance")
        ));
    }
    if let Some(text) = disowned(&document.disowned) {
        ctx.print(format!("  disowned    {text}"));
    }
    let stopped = (inventory.instances())
        .filter(|i| State::of(i, None, &set.health) == State::Stopped)
        .map(|i| i.id.0);
    let stopped = ranges(stopped);
    if !stopped.is_empty() {
        ctx.print(format!(
            "  stopped     {stopped}, on purpose (vmss instance start switches on)"
        ));
    }
    ctx.print("");
    let mut table = Table::new(["HOST", "FAULT DOMAIN", "INSTANCES", "STATE"]).right(2);
    for line in &document.hosts {
        let state = match record.cordons.get(&line.host) {
            _ if !line.seen => "not seen",
            _ if !line.pool_seen => "pool not seen",
            Some(cordon) if cordon.drain && line.instances == 0 => "drained",
            Some(cordon) if cordon.drain => "being drained",
            Some(_) => "cordoned",
            None => "ok",
        };
        table.row([
            line.host.to_string(),
            line.fault_domain.to_string(),
            line.instances.to_string(),
            state.to_owned(),
        ]);
    }
    ctx.table(&table);
    // Without a probe the state of an instance says it all, and the waits say why.
    for ailing in document.ailing.iter().filter(|_| set.health.probe != Probe::None) {
        let since = ailing.since.map_or_else(String::new, |at| {
            format!(" for {}", ago(at, now).trim_end_matches(" ago"))
        });
        let said = if ailing.said.is_empty() {
            String::new()
        } else {
            format!(": {}", ailing.said)
        };
        ctx.print(format!(
            "{} {} is {}{since}{said}",
            ctx.style.warn("!"),
            ailing.name,
            ailing.state
        ));
    }
    let width = ctx.world.env.width;
    for wait in told::sentences(&report.waits) {
        ctx.print(format!("{} {}", ctx.style.warn("!"), fold(&wait, width)));
    }
    // The one line that names no command, for what ails a host is not known from here.
    if report.waits.iter().any(|w| matches!(w, Wait::HostUnseen { .. })) {
        ctx.print("hint: vmss check tells what is wrong with a host that was not seen");
    }
    if !steps.is_empty() {
        let subjects: Vec<String> = steps
            .iter()
            .map(|s| format!("{} {}", s.action.verb(), s.action.subject()))
            .collect();
        ctx.print(format!(
            "{} to do: {} (vmss scale +0 does it)",
            ctx.style.warn("!"),
            list(&subjects, 6)
        ));
    }
    ctx.mention_drift(&target);
    Ok(Exit::Converged)
}

/// Domains that an operator has disowned: settled, and yet there.
fn disowned(there: &[&Stranger]) -> Option<String> {
    let named: Vec<String> = there
        .iter()
        .map(|s| format!("{} on {}", s.name, s.host))
        .collect();
    let undo = match there {
        [] => return None,
        [one] => one.uuid.to_string(),
        _ => "UUID".to_owned(),
    };
    Some(format!(
        "{} (vmss instance disown {undo} --undo takes that back)",
        list(&named, 4)
    ))
}

/// Where clients connect, and how many instances take them: one line for each frontend.
fn served(set: &ScaleSet, inventory: &Inventory) -> Vec<String> {
    let Some(rules) = &set.load_balancer else {
        return Vec::new();
    };
    let seen = || inventory.balancers.iter().filter_map(BalancerView::seen);
    let line = |frontend: &Frontend| {
        let servers = || {
            seen()
                .flat_map(|b| &b.servers)
                .filter(|s| s.frontend == frontend.name)
        };
        let takes: BTreeSet<InstanceId> = servers().filter(|s| s.is_in).map(|s| s.id).collect();
        let down: BTreeSet<InstanceId> = servers()
            .filter(|s| s.is_in && s.up == Some(false))
            .map(|s| s.id)
            .collect();
        let connections: u64 = servers().map(|s| s.connections).sum();
        let urls = match frontend.urls().as_slice() {
            [] => String::new(),
            urls => format!(" {}", urls.join(", ")),
        };
        let down = match down.len() {
            0 => String::new(),
            n => format!(", {n} of them down to its check"),
        };
        format!(
            "{}{urls}: {} in{down}, {}",
            frontend.name,
            count(takes.len(), "instance"),
            count(usize::try_from(connections).unwrap_or(usize::MAX), "connection")
        )
    };
    rules.frontends.iter().map(line).collect()
}

fn are(n: usize) -> String {
    if n == 1 {
        "1 instance is".to_owned()
    } else {
        format!("{n} instances are")
    }
}

fn per_domain<'a>(record: &'a Record, inventory: &Inventory) -> BTreeMap<&'a Label, usize> {
    let mut counts: BTreeMap<&Label, usize> = record
        .applied
        .fault_domains
        .iter()
        .map(|d| (&d.name, 0))
        .collect();
    for domain in &record.applied.fault_domains {
        let n = counts.entry(&domain.name).or_default();
        for host in &domain.hosts {
            *n += known_on(record, inventory, &host.name);
        }
    }
    counts
}

/// Instances on a host: those seen, or those known if it can't be seen.
fn known_on(record: &Record, inventory: &Inventory, host: &Label) -> usize {
    match inventory.host(host).and_then(|h| h.seen()) {
        Some(seen) => seen
            .instances
            .iter()
            .filter(|i| i.meta.phase == crate::inventory::Phase::Ready)
            .count(),
        None => record
            .known
            .values()
            .filter(|k| k.confirmed && &k.host == host)
            .count(),
    }
}

fn hosts(record: &Record, inventory: &Inventory) -> Vec<HostLine> {
    (record.applied.hosts())
        .map(|(domain, host)| {
            let reason = inventory.host(&host.name).and_then(|h| match &h.view {
                View::Seen(_) => None,
                View::Unseen { reason } => Some(reason.clone()),
            });
            let seen = inventory.host(&host.name).and_then(|h| h.seen());
            let pool_reason = seen.and_then(|seen| seen.pool_unseen.clone());
            HostLine {
                host: host.name.clone(),
                fault_domain: domain.clone(),
                seen: reason.is_none(),
                pool_seen: reason.is_none() && pool_reason.is_none(),
                pool_reason,
                reason,
                instances: known_on(record, inventory, &host.name),
            }
        })
        .collect()
}
