//! When something holds: dates, days of the week, and crons, each by the clocks of a time zone.
//!
//! Times are what clocks on the wall show. One that a clock leaps over when it is put forward is taken as late as it would
//! have been without the leap; one that it shows twice when it is put back is the first (RFC 5545).

use std::fmt;
use std::time::Duration;

use croner::errors::CronError;
use croner::parser::{CronParser, Seconds};
use croner::{CivilDateTime, CronDateTime, Resolution};
use jiff::civil::{DateTime, Time, Weekday};
use jiff::fmt::temporal::Pieces;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _, ZonedDateTime};
use serde::{Deserialize, Serialize};

/// A time from a start to an end, which is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Period {
    /// When it begins.
    pub start: Timestamp,
    /// When it has ended.
    pub end: Timestamp,
}

impl Period {
    /// Whether `moment` is in it.
    pub fn has(&self, moment: Timestamp) -> bool {
        self.start <= moment && moment < self.end
    }
}

/// When a profile holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Once.
    Dates {
        /// When it begins.
        from: Timestamp,
        /// When it has ended.
        to: Timestamp,
        /// The zone it was written in, for showing it.
        zone: Zone,
    },
    /// From a cron's time, for a while.
    Cron {
        /// When it begins.
        start: Cron,
        /// How long it holds.
        duration: Duration,
    },
    /// On days of the week.
    Weekly {
        /// The days it begins on, from Monday; not empty, none twice.
        days: Vec<Day>,
        /// The time of day it begins.
        from: Time,
        /// The time of day it ends: on the next day, unless that is after `from`.
        to: Time,
        /// Whose clocks.
        zone: Zone,
    },
}

/// A time zone by its IANA name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Zone(String);

impl Zone {
    /// The zone of that name.
    ///
    /// # Errors
    /// A sentence, if there is none.
    pub fn new(name: &str) -> Result<Self, String> {
        match TimeZone::get(name) {
            Ok(_) => Ok(Self(name.to_owned())),
            Err(_) => Err(format!(
                "{name:?} is no time zone: write it as \"Europe/Berlin\" or \"UTC\""
            )),
        }
    }

    /// Universal time.
    pub fn utc() -> Self {
        Self("UTC".to_owned())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its rules. A record may name a zone that this machine does not know, where it was written on another: then it is
    /// taken as universal time, for a schedule that is an hour off is better than none.
    pub fn rules(&self) -> TimeZone {
        TimeZone::get(&self.0).unwrap_or(TimeZone::UTC)
    }

    /// The moment when its clocks show `civil`.
    pub fn moment(&self, civil: DateTime) -> Option<Timestamp> {
        placed(civil, &self.rules())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Times that come back, as cron writes them, by the clocks of a zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cron {
    text: String,
    zone: Zone,
}

/// How far clocks are put forward or back at most, with room.
const LEAP: SignedDuration = SignedDuration::from_hours(3);

/// More times of a cron than there are within two leaps.
const MOST_TIMES: usize = 1_000;

impl Cron {
    /// Five fields: minute, hour, day of the month, month, day of the week.
    ///
    /// # Errors
    /// A sentence, if `text` is no such thing.
    pub fn new(text: &str, zone: Zone) -> Result<Self, String> {
        parse(text).map_err(|e| {
            format!(
                "{text:?} is no cron of five fields, such as \"0 8 * * mon-fri\": {}",
                lower(&e.to_string())
            )
        })?;
        Ok(Self {
            text: text.to_owned(),
            zone,
        })
    }

    /// The last time it struck, now among them.
    pub fn last(&self, now: Timestamp) -> Option<Timestamp> {
        let times = self.times(now, false);
        times.filter(|t| *t <= now).max()
    }

    /// The next time it strikes, now not among them.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let times = self.times(now, true);
        times.filter(|t| *t > now).min()
    }

    /// Its times around `now`, at least one of them beyond it on the side that is asked for, if there is any.
    fn times(&self, now: Timestamp, after: bool) -> impl Iterator<Item = Timestamp> {
        let civil = now.to_zoned_datetime(self.zone.rules()).datetime();
        let (begin, enough) = match after {
            true => (civil.checked_sub(LEAP), civil.checked_add(LEAP)),
            false => (civil.checked_add(LEAP), civil.checked_sub(LEAP)),
        };
        let mut times = Vec::new();
        let (Ok(cron), Ok(mut at), Ok(enough)) = (parse(&self.text), begin, enough) else {
            return times.into_iter();
        };
        for _ in 0..MOST_TIMES {
            let found = match after {
                true => cron.find_next_occurrence(&Civil(at), false),
                false => cron.find_previous_occurrence(&Civil(at), false),
            };
            let Ok(Civil(found)) = found else { break };
            times.extend(self.zone.moment(found));
            at = found;
            if (after && found > enough) || (!after && found < enough) {
                break;
            }
        }
        times.into_iter()
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.text, self.zone)
    }
}

fn lower(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars
        .next()
        .map(|c| c.to_lowercase().to_string())
        .unwrap_or_default();
    first + chars.as_str().trim_end_matches('.')
}

fn parse(text: &str) -> Result<croner::Cron, CronError> {
    CronParser::builder()
        .seconds(Seconds::Disallowed)
        .build()
        .parse(text)
}

/// The moment that a date means, with a time or without, by the clocks of `rules` unless it has an offset or a zone of its
/// own ("2026-12-24 18:00\[America/New_York\]"). `None` for all else: no part of it is passed over.
pub fn moment(text: &str, rules: &TimeZone) -> Option<Timestamp> {
    let text = text.trim();
    if text.contains('[') {
        // An offset beside the zone has to be one that the zone has then.
        return text.parse::<ZonedDateTime>().ok().map(|at| at.timestamp());
    }
    if let Ok(exact) = text.parse::<Timestamp>() {
        return Some(exact);
    }
    let pieces = Pieces::parse(text).ok()?;
    let time = pieces.time().unwrap_or(Time::midnight());
    (pieces.offset().is_none())
        .then(|| placed(pieces.date().to_datetime(time), rules))
        .flatten()
}

/// The moment when clocks of `rules` show `civil`.
pub fn placed(civil: DateTime, rules: &TimeZone) -> Option<Timestamp> {
    let zoned = rules.to_ambiguous_zoned_datetime(civil).compatible().ok()?;
    Some(zoned.timestamp())
}

/// What clocks on the wall show: the search goes by that alone, and what it finds is placed in the zone afterwards.
#[derive(Clone, Copy)]
struct Civil(DateTime);

impl CronDateTime for Civil {
    fn to_civil(&self) -> CivilDateTime {
        let at = self.0;
        let unsigned = |n: i8| u32::from(n.unsigned_abs());
        CivilDateTime::from_ymd_hms_opt(
            i32::from(at.year()),
            unsigned(at.month()),
            unsigned(at.day()),
            unsigned(at.hour()),
            unsigned(at.minute()),
            unsigned(at.second()),
        )
        .expect("both calendars have the same days")
    }

    fn civil_weekday(&self) -> croner::Weekday {
        croner::Weekday::from_days_from_sunday(u32::from(
            self.0.weekday().to_sunday_zero_offset().unsigned_abs(),
        ))
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let small = |n: u32| i8::try_from(n).map_err(|_| CronError::InvalidTime);
        let year = i16::try_from(civil.year()).map_err(|_| CronError::InvalidDate)?;
        let at = DateTime::new(
            year,
            small(civil.month())?,
            small(civil.day())?,
            small(civil.hour())?,
            small(civil.minute())?,
            small(civil.second())?,
            0,
        );
        Ok(Resolution::Single(Self(at.map_err(|_| CronError::InvalidDate)?)))
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0
            .checked_add(SignedDuration::from_secs(seconds))
            .ok()
            .map(Self)
    }

    fn cmp_instant(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl When {
    /// The time that goes on at `now`, if one does.
    pub fn current(&self, now: Timestamp) -> Option<Period> {
        self.last(now).filter(|period| period.has(now))
    }

    /// The time that began last, now among them.
    pub fn last(&self, now: Timestamp) -> Option<Period> {
        match self {
            Self::Dates { from, to, .. } => (*from <= now).then_some(Period {
                start: *from,
                end: *to,
            }),
            Self::Cron { start, duration } => lasting(start.last(now)?, *duration),
            Self::Weekly { .. } => (self.weekly(now))
                .filter(|p| p.start <= now)
                .max_by_key(|p| p.start),
        }
    }

    /// The time that begins next.
    pub fn next(&self, now: Timestamp) -> Option<Period> {
        match self {
            Self::Dates { from, to, .. } => (*from > now).then_some(Period {
                start: *from,
                end: *to,
            }),
            Self::Cron { start, duration } => lasting(start.next(now)?, *duration),
            Self::Weekly { .. } => self.weekly(now).filter(|p| p.start > now).min_by_key(|p| p.start),
        }
    }

    /// The weekly times around `now`: at least one before and one after it.
    fn weekly(&self, now: Timestamp) -> impl Iterator<Item = Period> {
        let mut periods = Vec::new();
        if let Self::Weekly { days, from, to, zone } = self {
            let today = now.to_zoned_datetime(zone.rules()).date();
            for offset in -9..=9 {
                let Ok(day) = today.checked_add(offset.days()) else {
                    continue;
                };
                if !days.contains(&Day::of(day.weekday())) {
                    continue;
                }
                let last = if to > from { Ok(day) } else { day.tomorrow() };
                let bounds = last.ok().and_then(|last| {
                    let start = zone.moment(day.to_datetime(*from))?;
                    let end = zone.moment(last.to_datetime(*to))?;
                    Some(Period { start, end })
                });
                // A leap of the clock may leave nothing between the two.
                periods.extend(bounds.filter(|p| p.start < p.end));
            }
        }
        periods.into_iter()
    }
}

impl Cron {
    /// The time that goes on at `now`, if each lasts for `duration`.
    pub fn current(&self, duration: Duration, now: Timestamp) -> Option<Period> {
        lasting(self.last(now)?, duration).filter(|period| period.has(now))
    }
}

fn lasting(start: Timestamp, duration: Duration) -> Option<Period> {
    let end = start.checked_add(SignedDuration::try_from(duration).ok()?).ok()?;
    Some(Period { start, end })
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |t: &Time| t.strftime("%H:%M").to_string();
        match self {
            Self::Dates { from, to, zone } => {
                let show = |t: &Timestamp| {
                    t.to_zoned_datetime(zone.rules())
                        .strftime("%Y-%m-%d %H:%M")
                        .to_string()
                };
                write!(f, "{} to {} {zone}", show(from), show(to))
            }
            Self::Cron { start, duration } => {
                write!(f, "{start}, for {}", crate::autoscale::spelling::span(*duration))
            }
            Self::Weekly { days, from, to, zone } => {
                write!(f, "{} {} to {} {zone}", names(days), time(from), time(to))
            }
        }
    }
}

/// "mon to fri", "sat, sun".
fn names(days: &[Day]) -> String {
    let is_row = days.len() > 2 && days.windows(2).all(|w| w[1] as usize == w[0] as usize + 1);
    match (is_row, days) {
        (true, [first, .., last]) => format!("{} to {}", first.as_str(), last.as_str()),
        _ => days.iter().map(|d| d.as_str()).collect::<Vec<_>>().join(", "),
    }
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they are what they are called")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    /// The days of the week, from Monday.
    pub const ALL: [Self; 7] = [
        Self::Mon,
        Self::Tue,
        Self::Wed,
        Self::Thu,
        Self::Fri,
        Self::Sat,
        Self::Sun,
    ];

    /// "mon".
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mon => "mon",
            Self::Tue => "tue",
            Self::Wed => "wed",
            Self::Thu => "thu",
            Self::Fri => "fri",
            Self::Sat => "sat",
            Self::Sun => "sun",
        }
    }

    fn of(day: Weekday) -> Self {
        Self::ALL[usize::from(day.to_monday_zero_offset().unsigned_abs())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn zone(name: &str) -> Zone {
        Zone::new(name).unwrap()
    }

    fn cron(text: &str, name: &str) -> Cron {
        Cron::new(text, zone(name)).unwrap()
    }

    fn office(name: &str) -> When {
        When::Weekly {
            days: Day::ALL[..5].to_vec(),
            from: Time::constant(8, 0, 0, 0),
            to: Time::constant(18, 0, 0, 0),
            zone: zone(name),
        }
    }

    #[test]
    fn a_cron_strikes_when_the_clocks_of_its_zone_show_its_time() {
        let eight = cron("0 8 * * mon-fri", "Europe/Berlin");
        // A Friday in winter, an hour ahead of universal time.
        assert_eq!(
            eight.last(at("2026-11-27T07:00:00Z")),
            Some(at("2026-11-27T07:00:00Z"))
        );
        assert_eq!(
            eight.last(at("2026-11-27T06:59:59Z")),
            Some(at("2026-11-26T07:00:00Z"))
        );
        assert_eq!(
            eight.next(at("2026-11-27T07:00:00Z")),
            Some(at("2026-11-30T07:00:00Z"))
        );
        // In summer it is two hours.
        assert_eq!(
            eight.next(at("2026-07-01T00:00:00Z")),
            Some(at("2026-07-01T06:00:00Z"))
        );
    }

    #[test]
    fn a_time_that_clocks_leap_over_is_taken_as_late_as_without_the_leap() {
        // In Berlin clocks go from 2:00 to 3:00 on the 29th, in New York on the 8th.
        for (name, leap, expected) in [
            ("Europe/Berlin", "2026-03-29T00:00:00Z", "2026-03-29T01:30:00Z"),
            ("America/New_York", "2026-03-08T05:00:00Z", "2026-03-08T07:30:00Z"),
        ] {
            let cron = cron("30 2 * * *", name);
            assert_eq!(cron.next(at(leap)), Some(at(expected)), "{name}");
            assert_eq!(cron.last(at(expected)), Some(at(expected)), "{name}");
        }
    }

    #[test]
    fn a_time_that_clocks_show_twice_is_the_first_and_comes_once() {
        // In Berlin clocks go from 3:00 back to 2:00 on the 25th of October: 2:30 is at 0:30 and at 1:30 universal time.
        let cron = cron("30 2 * * *", "Europe/Berlin");
        let first = at("2026-10-25T00:30:00Z");
        assert_eq!(cron.next(at("2026-10-25T00:00:00Z")), Some(first));
        assert_eq!(cron.last(at("2026-10-25T01:45:00Z")), Some(first));
        assert_eq!(cron.next(first), Some(at("2026-10-26T01:30:00Z")));
    }

    #[test]
    fn office_hours_keep_to_the_wall_clock_on_the_days_around_a_leap() {
        let hours = office("Europe/Berlin");
        let friday = hours.current(at("2026-03-27T12:00:00Z")).unwrap();
        assert_eq!(
            (friday.start, friday.end),
            (at("2026-03-27T07:00:00Z"), at("2026-03-27T17:00:00Z"))
        );
        let monday = hours.next(friday.end).unwrap();
        assert_eq!(
            (monday.start, monday.end),
            (at("2026-03-30T06:00:00Z"), at("2026-03-30T16:00:00Z"))
        );
        assert_eq!(hours.current(at("2026-03-28T12:00:00Z")), None, "Saturday");
        assert_eq!(hours.last(at("2026-03-29T12:00:00Z")), Some(friday));
    }

    #[test]
    fn a_night_ends_on_the_next_day_and_is_as_long_as_the_clocks_make_it() {
        let night = When::Weekly {
            days: vec![Day::Sat],
            from: Time::constant(22, 0, 0, 0),
            to: Time::constant(6, 0, 0, 0),
            zone: zone("America/New_York"),
        };
        let hours = |moment| {
            let period = night.current(at(moment)).unwrap();
            period.end.duration_since(period.start).as_hours()
        };
        assert_eq!(hours("2026-03-08T08:00:00Z"), 7, "clocks are put forward");
        assert_eq!(hours("2026-03-15T08:00:00Z"), 8);
        assert_eq!(hours("2026-11-01T08:00:00Z"), 9, "clocks are put back");
    }

    #[test]
    fn a_cron_lasts_as_long_as_it_says_whatever_clocks_do() {
        let night = cron("0 22 * * sat", "Europe/Berlin");
        let period = night
            .current(Duration::from_secs(8 * 3600), at("2026-03-29T04:00:00Z"))
            .unwrap();
        assert_eq!(
            (period.start, period.end),
            (at("2026-03-28T21:00:00Z"), at("2026-03-29T05:00:00Z"))
        );
        assert_eq!(night.current(Duration::from_secs(8 * 3600), period.end), None);
    }

    #[test]
    fn dates_hold_once() {
        let sale = When::Dates {
            from: at("2026-11-27T00:00:00Z"),
            to: at("2026-11-28T00:00:00Z"),
            zone: Zone::utc(),
        };
        assert_eq!(sale.current(at("2026-11-26T23:59:59Z")), None);
        assert!(sale.next(at("2026-11-26T23:59:59Z")).is_some());
        assert!(sale.current(at("2026-11-27T00:00:00Z")).is_some());
        assert_eq!(sale.current(at("2026-11-28T00:00:00Z")), None);
        assert_eq!(sale.next(at("2026-11-27T00:00:00Z")), None);
        assert_eq!(sale.to_string(), "2026-11-27 00:00 to 2026-11-28 00:00 UTC");
    }

    #[test]
    fn a_date_is_by_its_own_offset_or_zone_or_else_by_the_clocks_it_is_read_with() {
        let berlin = zone("Europe/Berlin").rules();
        for (text, meant) in [
            ("2026-12-24", "2026-12-23T23:00:00Z"),
            ("2026-12-24 18:00", "2026-12-24T17:00:00Z"),
            ("2026-12-24T18:00:00-05:00", "2026-12-24T23:00:00Z"),
            ("2026-12-24 18:00[America/New_York]", "2026-12-24T23:00:00Z"),
            ("2026-12-24T18:00-05:00[America/New_York]", "2026-12-24T23:00:00Z"),
            ("2026-12-24[America/New_York]", "2026-12-24T05:00:00Z"),
        ] {
            assert_eq!(moment(text, &berlin), Some(at(meant)), "{text}");
        }
        for bad in [
            "18:00",
            "2026-12-24 18:00[Europe/Bonn]",
            "2026-12-24T18:00+01:00[America/New_York]",
            "2026-12-24 18:00[u-ca=hebrew]",
            "2026-12-24+01:00",
            "2026-12-24Z",
        ] {
            assert_eq!(moment(bad, &berlin), None, "{bad}");
        }
    }

    #[test]
    fn zones_are_known_where_the_machine_has_none() {
        let own = jiff::tz::TimeZoneDatabase::bundled();
        for name in ["Europe/Berlin", "America/New_York", "UTC"] {
            assert!(own.get(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn what_is_no_cron_or_no_zone_is_refused_with_a_sentence() {
        for bad in [
            "",
            "0 8 * *",
            "0 8 * * * *",
            "61 8 * * *",
            "0 8 * * monday-friday-x",
            "every day",
        ] {
            let message = Cron::new(bad, Zone::utc()).unwrap_err();
            assert!(message.contains("is no cron of five fields"), "{message}");
        }
        assert!(Zone::new("Europe/Bonn").is_err());
        assert_eq!(
            office("Europe/Berlin").to_string(),
            "mon to fri 08:00 to 18:00 Europe/Berlin"
        );
    }
}
