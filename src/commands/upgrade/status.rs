//! `vmss upgrade status`: the rollout, and one line for each instance: batch, host, health.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::commands::Context;
use crate::converge::look_aside;
use crate::error::{Exit, Result};
use crate::health::State;
use crate::inventory::{Instance, Inventory};
use crate::names::{InstanceId, Label, instance_name};
use crate::record::Record;
use crate::rollout::{Rollout, RolloutState};
use crate::ui::table::Table;
use crate::ui::words::{ago, count, ranges};

#[derive(Serialize)]
struct Status<'a> {
    set: &'a Label,
    rollout: Option<&'a Rollout>,
    current_revision: u32,
    upgraded: usize,
    outdated: usize,
    instances: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    id: InstanceId,
    name: String,
    host: Label,
    fault_domain: Label,
    revision: u32,
    batch: Option<u32>,
    state: State,
    said: String,
}

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(2);

/// Shows the rollout, once or until it ends.
pub fn run(ctx: &Context<'_>, watch: bool) -> Result<Exit> {
    let mut last = String::new();
    loop {
        let mut target = ctx.target()?;
        let set = target.record.applied.clone();
        let inventory = look_aside(ctx.world, &*target.store, &set, &mut target.record);
        let now = ctx.world.clock.now();
        let record = &target.record;
        let mut lines: Vec<Line> = (inventory.hosts.iter())
            .flat_map(|h| {
                h.seen()
                    .into_iter()
                    .flat_map(|s| &s.instances)
                    .map(move |i| (h, i))
            })
            .map(|(host, i)| line(record, &host.name, i))
            .collect();
        lines.extend(absent(record, &inventory));
        lines.sort_by_key(|l| l.id);
        let target_revision = record.current().number;
        let upgraded = lines.iter().filter(|l| l.revision == target_revision).count();
        let status = Status {
            set: &target.name,
            rollout: record.rollout.as_ref(),
            current_revision: target_revision,
            upgraded,
            outdated: lines.len() - upgraded,
            instances: lines,
        };
        if ctx.is_json() {
            ctx.json(&status);
        } else {
            let text = render(ctx, &status, now);
            // On a terminal or in a log: what has not changed is not said again.
            if text != last {
                ctx.print(&text);
                last = text;
            }
        }
        let active = record.rollout.as_ref().is_some_and(Rollout::is_active);
        if !watch || !active || ctx.world.interrupt.is_set() {
            return Ok(match record.rollout.as_ref().map(|r| &r.state) {
                Some(RolloutState::Stopped { .. }) => Exit::Unhealthy,
                _ => Exit::Converged,
            });
        }
        ctx.world.clock.wait(LOOK, &ctx.world.interrupt);
    }
}

/// Instances that are known to be on hosts out of sight.
fn absent(record: &Record, inventory: &Inventory) -> Vec<Line> {
    let seen = inventory.seen_hosts();
    (record.known.iter())
        .filter(|(_, known)| known.confirmed && !seen.contains(&known.host))
        .map(|(id, known)| Line {
            id: *id,
            name: instance_name(&record.applied.name, *id),
            host: known.host.clone(),
            fault_domain: known.fault_domain.clone(),
            revision: known.revision.unwrap_or(0),
            batch: None,
            state: State::Unknown,
            said: "its host was not seen".to_owned(),
        })
        .collect()
}

fn line(record: &Record, host: &Label, instance: &Instance) -> Line {
    let vital = record.vitals.get(&instance.id);
    let batch = record
        .rollout
        .as_ref()
        .filter(|r| r.is_open())
        .and_then(|r| r.batch.as_ref());
    Line {
        id: instance.id,
        name: instance_name(&instance.meta.set, instance.id),
        host: host.clone(),
        fault_domain: instance.meta.fault_domain.clone(),
        revision: instance.meta.revision,
        batch: batch
            .filter(|b| b.instances.contains(&instance.id) || b.fresh.contains(&instance.id))
            .map(|b| b.number),
        state: State::of(instance, vital, &record.applied.health),
        said: vital.map_or_else(String::new, |v| v.said()),
    }
}

fn render(ctx: &Context<'_>, status: &Status<'_>, now: Timestamp) -> String {
    let mut text = match status.rollout {
        None => format!(
            "{}: no rollout yet, every instance is of revision {}",
            status.set, status.current_revision
        ),
        Some(rollout) => format!(
            "{}: rollout {} from revision {} to {}, begun {} by {}: {}",
            status.set,
            rollout.number,
            rollout.from,
            rollout.target,
            ago(rollout.began, now),
            rollout.by,
            in_words(&rollout.state)
        ),
    };
    let total = status.upgraded + status.outdated;
    text += &format!(
        "\n  {} of {} at revision {}",
        status.upgraded,
        count(total, "instance"),
        status.current_revision
    );
    if let Some(batch) = status
        .rollout
        .filter(|r| r.is_open())
        .and_then(|r| r.batch.as_ref())
    {
        let place = batch
            .fault_domain
            .as_ref()
            .map_or_else(String::new, |d| format!(" in {d}"));
        text += &format!(
            "\n  batch {}{place}: {}, begun {}",
            batch.number,
            ranges(batch.instances.iter().map(|id| id.0)),
            ago(batch.began, now)
        );
    }
    let mut table = Table::new(["NAME", "HOST", "FAULT DOMAIN", "REVISION", "BATCH", "HEALTH"])
        .right(3)
        .right(4);
    for line in &status.instances {
        table.row([
            line.name.clone(),
            line.host.to_string(),
            line.fault_domain.to_string(),
            line.revision.to_string(),
            line.batch.map_or_else(|| "-".to_owned(), |b| b.to_string()),
            crate::commands::instances::health(line.state, &line.said),
        ]);
    }
    format!("{text}\n\n{}", table.render(ctx.world.env.width))
}

/// Where a rollout stands, in words.
pub fn in_words(state: &RolloutState) -> String {
    match state {
        RolloutState::Running => "running".to_owned(),
        RolloutState::RollingBack { reason } => format!("rolling back: {reason}"),
        RolloutState::Paused { by } => format!("paused by {by}"),
        RolloutState::Stopped { reason } => format!("stopped: {reason}"),
        RolloutState::Done => "done".to_owned(),
        RolloutState::RolledBack { reason } => format!("rolled back: {reason}"),
        RolloutState::Cancelled { by } => format!("cancelled by {by}"),
    }
}
