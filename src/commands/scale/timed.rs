//! Capacities for a time: `--for`, `--at`, `--cancel`.

use std::time::Duration;

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use crate::autoscale::calendar;
use crate::cli::Change;
use crate::commands::instance::claim::refuse_if_barred;
use crate::commands::{Context, Target};
use crate::converge::amend;
use crate::error::{Error, Exit, Result};
use crate::health;
use crate::record::Record;
use crate::scaling;
use crate::timed::{self, Timed};
use crate::ui::words::{ago, count, moment};

/// The moment that somebody means who types `text` at `now` in `zone`: a time of day is the next one.
///
/// # Errors
/// A sentence.
fn meant(text: &str, zone: &TimeZone, now: Timestamp) -> Result<Timestamp, String> {
    let form = || {
        format!(
            "{text:?} is no time: write it as 18:00, \"2026-12-24 18:00\", 2026-12-24T18:00:00+01:00 or \"2026-12-24 18:00[Europe/Berlin]\""
        )
    };
    if let Some(at) = calendar::moment(text, zone) {
        if at <= now {
            return Err(format!("{text} is past"));
        }
        return Ok(at);
    }
    let place = |civil| calendar::placed(civil, zone).ok_or_else(form);
    let text = text.trim();
    // The parser takes a date, an offset or a zone as well, and passes over it.
    let is_bare = text.chars().all(|c| c.is_ascii_digit() || matches!(c, ':' | '.'));
    let time: Time = (text.parse().ok()).filter(|_| is_bare).ok_or_else(form)?;
    let today = now.to_zoned_datetime(zone.clone()).date();
    let at = place(today.to_datetime(time))?;
    if at > now {
        return Ok(at);
    }
    let tomorrow = today.checked_add(1.day()).map_err(|_| form())?;
    place(tomorrow.to_datetime(time))
}

/// Notes a capacity that begins later.
pub(super) fn later(ctx: &Context<'_>, change: Change, at: &str, span: Option<Duration>) -> Result<Exit> {
    let target = ctx.wanted()?;
    let now = ctx.world.clock.now();
    let from = meant(at, &ctx.world.env.zone, now).map_err(|e| Error::message(Exit::Usage, e))?;
    let until = span.map(|span| health::later(from, span));
    let Change::To(capacity) = change else {
        return Err(Error::message(
            Exit::Usage,
            "a change of the capacity can't be asked for later: nobody knows what it will be then",
        )
        .hint("give the capacity itself, such as vmss scale 9 --at 18:00"));
    };
    change.of(0).map_err(|e| Error::message(Exit::Usage, e))?;
    refuse_if_barred(ctx, &*target.store, &target.record)?;
    let timed = Timed {
        capacity,
        from,
        until,
        by: ctx.world.env.who(),
        before: None,
        kept_at: None,
    };
    amend(&*target.store, &target.name, |record| {
        let is_new = !record.timed.contains(&timed);
        if is_new {
            record.timed.push(timed.clone());
        }
        is_new
    })?;
    if ctx.is_json() {
        ctx.json(&timed);
    }
    let end = until.map_or_else(String::new, |until| format!(", until {}", moment(until)));
    ctx.say(format!(
        "{} {}: {capacity} from {} on{end}; vmss run carries it out, or the first vmss autoscale after that",
        ctx.style.good("ok"),
        target.name,
        moment(from)
    ));
    Ok(Exit::Converged)
}

/// What holds instead of a timed capacity, if protection keeps the set from it.
pub fn kept(timed: &Timed) -> String {
    timed.kept_at.map_or_else(String::new, |at| {
        format!(" (kept at {at} by what is protected from scale in)")
    })
}

/// What an operator is to know if nobody carries out what is timed.
pub fn overdue(record: &Record, now: Timestamp) -> Option<String> {
    let due = timed::overdue(&record.timed, now)?;
    Some(format!(
        "since {} ({}): nobody has carried out what was timed; vmss run does, or vmss autoscale from cron or a timer",
        moment(due),
        ago(due, now)
    ))
}

/// Forgets every capacity for a time.
pub(super) fn cancel(ctx: &Context<'_>) -> Result<Exit> {
    let target = ctx.wanted()?;
    let mut forgotten = 0;
    amend(&*target.store, &target.name, |record| {
        forgotten = record.timed.len();
        record.timed.clear();
        forgotten > 0
    })?;
    ctx.say(match forgotten {
        0 => format!("{}: nothing was to come", target.name),
        n => format!(
            "{} {}: {} forgotten; the capacity stays at {}",
            ctx.style.good("ok"),
            target.name,
            count(n, "timed capacity").replace("capacitys", "capacities"),
            target.record.capacity
        ),
    });
    Ok(Exit::Converged)
}

/// Says what becomes of a capacity that was just asked for: until when it holds, and who may change it.
pub(super) fn say(ctx: &Context<'_>, target: &Target, freed: &[Timed], until: Option<Timestamp>) {
    for timed in freed {
        let what = format!("{} that {} wanted", timed.capacity, timed.by);
        match timed.until {
            Some(end) if timed.holds() => {
                ctx.say(format!("note: {what} until {} holds no more", moment(end)));
            }
            _ => ctx.say(format!(
                "note: {what} from {} on was never carried out, and holds no more",
                moment(timed.from)
            )),
        }
    }
    match until {
        Some(until) if scaling::in_force(&target.record).is_some() => {
            ctx.say(format!("until {}: then [autoscale] decides again", moment(until)));
        }
        Some(until) => ctx.say(format!(
            "until {}: vmss run takes it back then, or the first vmss autoscale after that",
            moment(until)
        )),
        None if scaling::in_force(&target.record).is_some() => ctx.say(
            "note: [autoscale] is in force and may change this at its next evaluation; --for 2h holds it, \
             vmss autoscale disable switches it off",
        ),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_the_next_one_where_it_is_typed() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let now: Timestamp = "2026-11-25T16:30:00Z".parse().unwrap();
        let meant = |text: &str| meant(text, &zone, now).map(|at| at.to_string());
        assert_eq!(meant("18:00").unwrap(), "2026-11-25T17:00:00Z");
        assert_eq!(meant("17:30").unwrap(), "2026-11-26T16:30:00Z");
        assert_eq!(meant("2026-12-24 18:00").unwrap(), "2026-12-24T17:00:00Z");
        assert_eq!(
            meant("2026-12-24T18:00:00-05:00").unwrap(),
            "2026-12-24T23:00:00Z"
        );
        assert_eq!(meant("2026-01-01 00:00").unwrap_err(), "2026-01-01 00:00 is past");
        assert_eq!(
            meant("2026-12-24 18:00[America/New_York]").unwrap(),
            "2026-12-24T23:00:00Z"
        );
        for bad in [
            "",
            "noon",
            "25:00",
            "2026-12-24 25:00",
            "18:00+01:00",
            "18:00Z",
            "18:00[America/New_York]",
            "2026-12-24 18:00[Europe/Bonn]",
        ] {
            assert!(meant(bad).unwrap_err().contains("is no time"), "{bad:?}");
        }
    }
}
