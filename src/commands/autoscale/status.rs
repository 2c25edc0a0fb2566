//! `vmss autoscale status`: the policy, and how it stands.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{no_policy, schedule};
use crate::autoscale::policy::Direction;
use crate::autoscale::spelling::{age, span};
use crate::autoscale::{Autoscale, Decision, Disabled};
use crate::commands::{Context, scale};
use crate::error::{Exit, Result};
use crate::record::Record;
use crate::scaling;
use crate::timed::{self, Timed};
use crate::ui::words::{ago, moment};

#[derive(Serialize)]
struct Document<'a> {
    set: &'a str,
    in_force: bool,
    enabled: bool,
    disabled: Option<&'a Disabled>,
    capacity: u32,
    held: Option<&'a Timed>,
    profile: Option<&'a str>,
    min: Option<u32>,
    max: Option<u32>,
    cooldown_out_until: Option<Timestamp>,
    cooldown_in_until: Option<Timestamp>,
    overdue_since: Option<Timestamp>,
    last_decision: Option<&'a Decision>,
    next_start: Option<Timestamp>,
    samples: Vec<Kept>,
}

/// How many samples of a metric are kept, and since when.
#[derive(Serialize)]
struct Kept {
    metric: String,
    samples: usize,
    oldest: Option<Timestamp>,
    newest: Option<Timestamp>,
}

/// How far back samples are counted.
const BACK: SignedDuration = SignedDuration::from_hours(24);

/// Shows it.
pub fn run(ctx: &Context<'_>) -> Result<Exit> {
    let target = ctx.target()?;
    let record = &target.record;
    let Some(policy) = &record.applied.autoscale else {
        return Err(no_policy(&target));
    };
    let now = ctx.world.clock.now();
    let last = target.store.decisions(&target.name, 1)?.into_iter().next();
    let profile = policy.profile_at(now);
    let floor = policy.floor_at(now);
    let state = &record.autoscale;
    let lines = schedule::lines(record, now);
    let since = now.checked_sub(BACK).unwrap_or(Timestamp::MIN);
    let samples: crate::autoscale::Samples = target.store.samples(&target.name, since)?.into_iter().collect();
    let kept: Vec<Kept> = (policy.metrics().iter())
        .map(|metric| {
            let all = samples.of(metric.name());
            Kept {
                metric: metric.name().to_owned(),
                samples: all.len(),
                oldest: all.first().map(|s| s.at),
                newest: all.last().map(|s| s.at),
            }
        })
        .collect();
    let document = Document {
        set: target.name.as_str(),
        in_force: scaling::in_force(record).is_some(),
        enabled: policy.enabled,
        disabled: state.disabled.as_ref(),
        capacity: record.capacity,
        held: record.timed.iter().find(|t| t.holds()),
        profile: profile.map(|p| p.name.as_str()),
        min: profile.map(|p| floor.as_ref().map_or(p.min, |f| f.min.clamp(p.min, p.max))),
        max: profile.map(|p| p.max),
        cooldown_out_until: state.cools_until(policy, Direction::Out, now),
        cooldown_in_until: state.cools_until(policy, Direction::In, now),
        overdue_since: timed::overdue(&record.timed, now),
        last_decision: last.as_ref(),
        next_start: lines.iter().filter_map(|l| l.next).min(),
        samples: kept,
    };
    if ctx.is_json() {
        ctx.json(&document);
        return Ok(Exit::Converged);
    }
    show(ctx, record, policy, &document, now);
    if let Some(next) = lines.iter().filter(|l| l.next.is_some()).min_by_key(|l| l.next) {
        let at = next.next.map_or_else(String::new, moment);
        ctx.print(format!("  next        {} {} at {at}", next.kind, next.name));
    }
    Ok(Exit::Converged)
}

fn show(ctx: &Context<'_>, record: &Record, policy: &Autoscale, document: &Document<'_>, now: Timestamp) {
    let state = match (&record.autoscale.disabled, policy.enabled) {
        (_, false) => "not in force (the definition has enabled = false)".to_owned(),
        (Some(off), true) => format!("switched off by {} {}", off.by, ago(off.at, now)),
        (None, true) => "in force".to_owned(),
    };
    ctx.print(format!(
        "{}: autoscaling is {state}, capacity {}",
        ctx.style.strong(document.set),
        document.capacity
    ));
    if let (Some(profile), Some(min), Some(max)) = (document.profile, document.min, document.max) {
        let floor = policy
            .floor_at(now)
            .map_or_else(String::new, |f| format!(" (schedule {})", f.schedule));
        ctx.print(format!("  profile     {profile}: {min}{floor} to {max}"));
    }
    if let Some(profile) = policy.profile_at(now) {
        for rule in &profile.rules {
            ctx.print(format!("  rule        {rule}, cooldown {}", span(rule.cooldown)));
        }
        for target in &profile.targets {
            ctx.print(format!(
                "  target      {target}, cooldown {}",
                span(target.cooldown)
            ));
        }
    }
    if let Some((timed, until)) = document.held.and_then(|t| Some((t, t.until?))) {
        let left = until.duration_since(now);
        let how_long = match left.is_positive() {
            true => format!("for another {}", age(left)),
            false => format!(
                "until {}: that is over, and the next evaluation ends it",
                moment(until)
            ),
        };
        ctx.print(format!(
            "  held        at {}{} by {}, {how_long}",
            timed.capacity,
            scale::timed::kept(timed),
            timed.by
        ));
    }
    if let Some(text) = scale::timed::overdue(record, now) {
        ctx.print(format!("  overdue     {text}"));
    }
    for (way, until) in [
        ("out", document.cooldown_out_until),
        ("in", document.cooldown_in_until),
    ] {
        if let Some(until) = until {
            ctx.print(format!(
                "  cooldown    no scale {way} for another {}",
                age(until.duration_since(now))
            ));
        }
    }
    for kept in &document.samples {
        let text = match kept.newest {
            Some(newest) => format!(
                "{} in the last day, the newest {}",
                kept.samples,
                ago(newest, now)
            ),
            None => "none in the last day: vmss run or vmss autoscale takes them".to_owned(),
        };
        ctx.print(format!("  samples     {}: {text}", kept.metric));
    }
    match document.last_decision {
        Some(last) => ctx.print(format!("  last        {}, {}", last.reason, ago(last.at, now))),
        None => ctx.print("  last        nothing was decided yet"),
    }
}
