//! Times of profiles and schedules.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Time;

use super::{DAY, MINUTE};
use crate::autoscale::calendar::{self, Cron, Day, When, Zone};
use crate::definition::reader::{At, Reader, Section};
use crate::definition::sections::{duration, parsed, required_string};

/// `time_zone` of a section, or the one that holds where it is not given.
pub(super) fn zone(r: &mut Reader<'_>, s: &Section<'_, '_>, usual: &Zone) -> Zone {
    parsed(r, s, "time_zone", Zone::new).map_or_else(|| usual.clone(), |at| at.value)
}

/// `cron` of a section.
pub(super) fn cron(r: &mut Reader<'_>, s: &Section<'_, '_>, usual: &Zone) -> Option<Cron> {
    let at = required_string(r, s, "cron", "cron = \"0 8 * * mon-fri\"")?;
    let zone = zone(r, s, usual);
    match Cron::new(&at.value, zone) {
        Ok(cron) => Some(cron),
        Err(message) => {
            r.bad(
                &at,
                message,
                "minute, hour, day of the month, month, day of the week",
            );
            None
        }
    }
}

/// `dates` of a profile.
pub(super) fn dates(r: &mut Reader<'_>, profile: &Section<'_, '_>, usual: &Zone) -> Option<When> {
    let s = r.table(profile, "dates", "Dates")?;
    let zone = zone(r, &s, usual);
    let from = moment(r, &s, "from", &zone);
    let to = moment(r, &s, "to", &zone);
    let (from, to) = (from?, to?);
    if to.value <= from.value {
        r.bad(&to, "it ends before it begins", "a date after from");
        return None;
    }
    Some(When::Dates {
        from: from.value,
        to: to.value,
        zone,
    })
}

fn moment(r: &mut Reader<'_>, s: &Section<'_, '_>, key: &str, zone: &Zone) -> Option<At<Timestamp>> {
    if !s.has(key) {
        r.missing(s, key, &format!("{key} = \"2026-12-24 18:00\""));
        return None;
    }
    let at = r.date(s, key)?;
    let value = calendar::moment(&at.value, &zone.rules());
    match value {
        Some(value) => Some(At {
            value,
            span: at.span,
            key: at.key,
        }),
        None => {
            r.bad(
                &at,
                format!("{:?} is no date", at.value),
                "such as \"2026-12-24\", \"2026-12-24 18:00\" or \"2026-12-24T18:00:00+01:00\"",
            );
            None
        }
    }
}

/// `recurrence` of a profile.
pub(super) fn recurrence(r: &mut Reader<'_>, profile: &Section<'_, '_>, usual: &Zone) -> Option<When> {
    let s = r.table(profile, "recurrence", "Recurrence")?;
    if s.has("cron") {
        for key in ["days", "from", "to"].into_iter().filter(|key| s.has(key)) {
            r.wrong(
                s.key_span(key).unwrap_or_default(),
                &s.key(key),
                format!("cron and {key} exclude each other"),
                Some("a cron has a duration".into()),
            );
        }
        let start = cron(r, &s, usual);
        if !s.has("duration") {
            r.missing(&s, "duration", "duration = \"10h\"");
        }
        let duration: Option<Duration> = duration(r, &s, "duration", MINUTE, 7 * DAY);
        return Some(When::Cron {
            start: start?,
            duration: duration?,
        });
    }
    if s.has("duration") {
        r.wrong(
            s.key_span("duration").unwrap_or_default(),
            &s.key("duration"),
            "a duration goes with a cron",
            Some("say from and to, or cron and duration".into()),
        );
    }
    let zone = zone(r, &s, usual);
    let days = days(r, &s);
    let from = time_of_day(r, &s, "from", "08:00");
    let to = time_of_day(r, &s, "to", "18:00");
    Some(When::Weekly {
        days: days?,
        from: from?,
        to: to?,
        zone,
    })
}

fn days(r: &mut Reader<'_>, s: &Section<'_, '_>) -> Option<Vec<Day>> {
    if !s.has("days") {
        return Some(Day::ALL.to_vec());
    }
    let written = r.strings(s, "days");
    let mut days = Vec::new();
    for at in &written {
        match Day::ALL.iter().find(|day| day.as_str() == at.value) {
            Some(day) => days.push(*day),
            None => r.bad(
                at,
                format!("{:?} is no day", at.value),
                "mon, tue, wed, thu, fri, sat, sun",
            ),
        }
    }
    if written.is_empty() && r.is_clean() {
        r.missing(s, "days", "days = [\"mon\", \"fri\"]");
    }
    days.sort();
    days.dedup();
    (days.len() == written.len() || !days.is_empty()).then_some(days)
}

fn time_of_day(r: &mut Reader<'_>, s: &Section<'_, '_>, key: &str, example: &str) -> Option<Time> {
    let at = required_string(r, s, key, &format!("{key} = \"{example}\""))?;
    let text = at.value.trim();
    let is_form = text.len() == 5 && text.as_bytes()[2] == b':';
    let time = match text {
        "24:00" => Some(Time::midnight()),
        text => text.parse::<Time>().ok().filter(|_| is_form),
    };
    if time.is_none() {
        r.bad(
            &at,
            format!("{:?} is no time of day", at.value),
            format!("hours and minutes, such as \"{example}\""),
        );
    }
    time
}
