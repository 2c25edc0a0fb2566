//! `vmss autoscale schedule`: everything that has a time, with its last and next start.

use jiff::Timestamp;
use serde::Serialize;

use super::no_policy;
use crate::commands::Context;
use crate::error::{Exit, Result};
use crate::record::Record;
use crate::ui::table::Table;
use crate::ui::words::moment;

/// Something with a time.
#[derive(Serialize)]
pub(super) struct Line {
    pub name: String,
    pub kind: &'static str,
    pub holds: bool,
    pub min: u32,
    pub max: Option<u32>,
    pub when: String,
    pub last: Option<Timestamp>,
    pub next: Option<Timestamp>,
}

/// Profiles, schedules and timed capacities of a set at `now`.
pub(super) fn lines(record: &Record, now: Timestamp) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Some(policy) = &record.applied.autoscale {
        let holding = policy.profile_at(now).map(|p| p.name.as_str());
        for profile in &policy.profiles {
            let when = profile.when.as_ref();
            lines.push(Line {
                name: profile.name.clone(),
                kind: "profile",
                holds: holding == Some(profile.name.as_str()),
                min: profile.min,
                max: Some(profile.max),
                when: when.map_or_else(|| "when no other holds".to_owned(), ToString::to_string),
                last: when.and_then(|w| w.last(now)).map(|p| p.start),
                next: when.and_then(|w| w.next(now)).map(|p| p.start),
            });
        }
        for schedule in &policy.schedules {
            let span = crate::autoscale::spelling::span(schedule.duration);
            lines.push(Line {
                name: schedule.name.clone(),
                kind: "schedule",
                holds: schedule.start.current(schedule.duration, now).is_some(),
                min: schedule.min,
                max: None,
                when: format!("{}, for {span}", schedule.start),
                last: schedule.start.last(now),
                next: schedule.start.next(now),
            });
        }
    }
    for timed in &record.timed {
        let until = timed
            .until
            .map_or_else(String::new, |until| format!(" until {}", moment(until)));
        lines.push(Line {
            name: timed.by.clone(),
            kind: "scale",
            holds: timed.holds(),
            min: timed.capacity,
            max: Some(timed.capacity),
            when: format!("once{until}"),
            last: timed.holds().then_some(timed.from),
            next: (!timed.holds()).then_some(timed.from),
        });
    }
    lines
}

/// Lists them.
pub fn run(ctx: &Context<'_>) -> Result<Exit> {
    let target = ctx.target()?;
    let lines = lines(&target.record, ctx.world.clock.now());
    if target.record.applied.autoscale.is_none() && lines.is_empty() {
        return Err(no_policy(&target));
    }
    if ctx.is_json() {
        ctx.json(&lines);
        return Ok(Exit::Converged);
    }
    let start = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), moment);
    let mut table = Table::new([
        "",
        "NAME",
        "KIND",
        "MIN",
        "MAX",
        "LAST START",
        "NEXT START",
        "WHEN",
    ])
    .right(3)
    .right(4);
    for line in &lines {
        table.row([
            if line.holds { "*" } else { "" }.to_owned(),
            line.name.clone(),
            line.kind.to_owned(),
            line.min.to_string(),
            line.max.map_or_else(|| "-".to_owned(), |n| n.to_string()),
            start(line.last),
            start(line.next),
            line.when.clone(),
        ]);
    }
    ctx.table(&table);
    Ok(Exit::Converged)
}
