//! `[autoscale]`: how the set grows and shrinks by itself.

mod metrics;
mod rules;
mod times;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use crate::autoscale::calendar::Zone;
use crate::autoscale::policy::{Autoscale, MaxScaleIn, Pattern, Predict, PredictMode, Profile, Schedule};
use crate::definition::operations::{set, some_amount};
use crate::definition::reader::{At, Reader, Section};
use crate::definition::sections::{MOST, duration, required_string};
use metrics::Metrics;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Longest name of a profile or schedule.
const LONGEST_NAME: usize = 63;

/// What the parts of `[autoscale]` need of each other.
struct Context<'f> {
    metrics: Metrics<'f>,
    zone: Zone,
}

/// Reads `[autoscale]`; without it there is none.
pub(super) fn autoscale(
    r: &mut Reader<'_>,
    top: &Section<'_, '_>,
    folder: &Path,
    has_balancer: bool,
) -> Option<Option<Autoscale>> {
    if !top.has("autoscale") {
        return Some(None);
    }
    let s = r.table(top, "autoscale", "Autoscale")?;
    let zone = times::zone(r, &s, &Zone::utc());
    let metrics = Metrics::read(r, &s, folder, has_balancer);
    let context = Context { metrics, zone };
    let profiles = profiles(r, &s, &context);
    let most = profiles.iter().map(|p| p.max).max().unwrap_or(u32::MAX);
    let schedules = schedules(r, &s, &context, most);
    let mut policy = Autoscale {
        enabled: true,
        warm_up: MINUTE,
        stabilization: 10 * MINUTE,
        cooldown_out: duration(r, &s, "cooldown_out", Duration::ZERO, DAY),
        cooldown_in: duration(r, &s, "cooldown_in", Duration::ZERO, DAY),
        max_scale_in: max_scale_in(r, &s),
        prometheus: context.metrics.prometheus().map(str::to_owned),
        predict: predict(r, &s, &profiles, &context.zone),
        profiles,
        schedules,
    };
    set(&mut policy.enabled, r.boolean(&s, "enabled").map(|at| at.value));
    set(
        &mut policy.warm_up,
        duration(r, &s, "warm_up", Duration::ZERO, HOUR),
    );
    set(
        &mut policy.stabilization,
        duration(r, &s, "stabilization", Duration::ZERO, HOUR),
    );
    Some(Some(policy))
}

/// The keys that make a profile for all times of `[autoscale]` itself.
const IN_PLACE: [&str; 5] = ["min", "max", "default", "rules", "target"];

fn profiles(r: &mut Reader<'_>, s: &Section<'_, '_>, context: &Context<'_>) -> Vec<Profile> {
    let mut profiles: Vec<Profile> = Vec::new();
    let in_place = IN_PLACE.iter().find(|key| s.has(key));
    if in_place.is_some() {
        profiles.extend(profile(r, s, context, "default".to_owned(), None));
    }
    for p in r.tables(s, "profiles", "Profile").unwrap_or_default() {
        let name = name(
            r,
            &p,
            "name = \"office hours\"",
            profiles.iter().map(|p| p.name.as_str()),
        );
        let (has_dates, has_recurrence) = (p.has("dates"), p.has("recurrence"));
        let when = match (has_dates, has_recurrence) {
            (true, true) => {
                r.wrong(
                    p.key_span("recurrence").unwrap_or_default(),
                    &p.key("recurrence"),
                    "dates and recurrence exclude each other",
                    Some("make two profiles of it".into()),
                );
                None
            }
            (true, false) => times::dates(r, &p, &context.zone),
            (false, true) => times::recurrence(r, &p, &context.zone),
            (false, false) => {
                let others = match in_place {
                    Some(key) => Some(s.key(key)),
                    None => {
                        (profiles.iter().find(|p| p.when.is_none())).map(|p| format!("profile {}", p.name))
                    }
                };
                if let Some(other) = others {
                    r.wrong(
                        p.span.clone(),
                        p.path(),
                        format!("this profile is for all times, and so is {other}"),
                        Some("give it dates or a recurrence".into()),
                    );
                }
                None
            }
        };
        let is_timed = has_dates || has_recurrence;
        let read = profile(r, &p, context, name.unwrap_or_default(), when.clone());
        profiles.extend(read.filter(|p| !p.name.is_empty() && (when.is_some() || !is_timed)));
    }
    if r.is_clean() && profiles.iter().all(|p| p.when.is_some()) {
        r.wrong(
            s.span.clone(),
            s.path(),
            "no profile is for all times",
            Some("give [autoscale] min and max, or add a profile without dates and recurrence".into()),
        );
    }
    profiles
}

fn name<'n>(
    r: &mut Reader<'_>,
    s: &Section<'_, '_>,
    example: &str,
    mut others: impl Iterator<Item = &'n str>,
) -> Option<String> {
    let at: At<String> = required_string(r, s, "name", example)?;
    let is_fine = !at.value.trim().is_empty() && !at.value.chars().any(char::is_control);
    if !is_fine || at.value.len() > LONGEST_NAME {
        r.bad(&at, "this is no name", "1 to 63 letters, digits and spaces");
        return None;
    }
    if others.any(|other| other == at.value) {
        r.bad(
            &at,
            format!("{:?} is there already", at.value),
            "each needs a name of its own",
        );
        return None;
    }
    Some(at.value)
}

fn profile(
    r: &mut Reader<'_>,
    s: &Section<'_, '_>,
    context: &Context<'_>,
    name: String,
    when: Option<crate::autoscale::calendar::When>,
) -> Option<Profile> {
    for (key, example) in [("min", "min = 2"), ("max", "max = 20")] {
        if !s.has(key) {
            r.missing(s, key, example);
        }
    }
    let min = r.integer(s, "min", 0..MOST + 1);
    let max = r.integer(s, "max", 0..MOST + 1);
    let default = r.integer(s, "default", 0..MOST + 1);
    if let (Some(min), Some(max)) = (&min, &max) {
        if min.value > max.value {
            r.bad(
                max,
                format!("max is less than min ({})", min.value),
                "min or more",
            );
        } else if let Some(default) = &default
            && !(min.value..=max.value).contains(&default.value)
        {
            r.bad(
                default,
                "default is not between min and max",
                format!("{} to {}", min.value, max.value),
            );
        }
    }
    let rules = rules::rules(r, s, &context.metrics);
    let targets = rules::targets(r, s, &context.metrics);
    let (min, max) = (min?.value, max?.value);
    Some(Profile {
        name,
        min,
        max,
        default: default.map_or(min, |at| at.value),
        when,
        rules,
        targets,
    })
}

fn schedules(r: &mut Reader<'_>, s: &Section<'_, '_>, context: &Context<'_>, most: u32) -> Vec<Schedule> {
    let mut schedules: Vec<Schedule> = Vec::new();
    for table in r.tables(s, "schedules", "Schedule").unwrap_or_default() {
        let name = name(
            r,
            &table,
            "name = \"morning\"",
            schedules.iter().map(|s| s.name.as_str()),
        );
        let start = times::cron(r, &table, &context.zone);
        if !table.has("duration") {
            r.missing(&table, "duration", "duration = \"10h\"");
        }
        let duration = duration(r, &table, "duration", MINUTE, 7 * DAY);
        if !table.has("min") {
            r.missing(&table, "min", "min = 6");
        }
        let min = r.integer(&table, "min", 0..MOST + 1);
        if let Some(at) = min.as_ref().filter(|at| at.value > most) {
            r.bad(
                at,
                format!("no profile allows more than {most}"),
                "at most the largest max",
            );
        }
        if let (Some(name), Some(start), Some(duration), Some(min)) = (name, start, duration, min) {
            schedules.push(Schedule {
                name,
                start,
                duration,
                min: min.value,
            });
        }
    }
    schedules
}

fn max_scale_in(r: &mut Reader<'_>, s: &Section<'_, '_>) -> Option<MaxScaleIn> {
    let table = r.table(s, "max_scale_in", "ScaleInLimit")?;
    for (key, example) in [("count", "count = \"10%\""), ("per", "per = \"10m\"")] {
        if !table.has(key) {
            r.missing(&table, key, example);
        }
    }
    let count = some_amount(r, &table, "count");
    let per = duration(r, &table, "per", MINUTE, DAY);
    Some(MaxScaleIn {
        count: count?,
        per: per?,
    })
}

fn predict(r: &mut Reader<'_>, s: &Section<'_, '_>, profiles: &[Profile], zone: &Zone) -> Option<Predict> {
    let table = r.table(s, "predict", "Predict")?;
    let modes = [
        ("forecast-only", PredictMode::ForecastOnly),
        ("scale", PredictMode::Scale),
    ];
    let patterns = [("daily", Pattern::Daily), ("weekly", Pattern::Weekly)];
    let mode = r
        .choice(&table, "mode", &modes)
        .unwrap_or(PredictMode::ForecastOnly);
    let pattern = r.choice(&table, "pattern", &patterns).unwrap_or(Pattern::Daily);
    let lead = duration(r, &table, "lead", MINUTE, 2 * HOUR).unwrap_or(10 * MINUTE);
    let has_target = |p: &Profile| !p.targets.is_empty();
    if r.is_clean() && !profiles.iter().any(has_target) {
        r.wrong(
            table.span.clone(),
            table.path(),
            "a prediction needs a target: it says how much load an instance takes",
            Some("add target = { metric = \"host.cpu\", value = 60 }".into()),
        );
    }
    Some(Predict {
        mode,
        pattern,
        lead,
        zone: zone.clone(),
    })
}
