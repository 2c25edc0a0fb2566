//! Looking ahead: what the load was at this time of earlier days or weeks, and how many instances that needs.
//!
//! The median of the same time of earlier days (or weeks), by the clocks of the policy's zone. It needs no model to be
//! trusted: what it rests on can be looked up, one day that was unlike the others does not sway it, and gaps in the samples
//! cost only themselves.

use std::fmt;
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::{SignedDuration, Span, Timestamp, ToSpan as _};
use serde::{Deserialize, Serialize};

use crate::autoscale::metric::Unit;
use crate::autoscale::policy::{Autoscale, Over, Pattern, Predict, Target};
use crate::autoscale::sample::{Sample, Samples};

/// Fewest earlier days or weeks that say anything of the next.
const FEWEST: usize = 2;

/// Earlier days that are looked at.
const DAYS: i32 = 14;

/// Earlier weeks that are looked at.
const WEEKS: i32 = 5;

/// How far from a time a sample may be to tell of it.
const NEAR: SignedDuration = SignedDuration::from_secs(150);

/// Time between two moments that are looked at within the lead.
const STEP: SignedDuration = SignedDuration::from_mins(5);

/// What is expected of the load ahead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outlook {
    /// Instances that it needs at its highest within the time that is looked ahead.
    pub capacity: u32,
    /// When it needs them.
    pub at: Timestamp,
    /// The metric it is of.
    pub metric: String,
    /// The load that is expected: the values of all instances together, as people read it.
    pub load: String,
    /// Earlier days or weeks that it rests on.
    pub periods: usize,
    /// After which time it comes back.
    pub pattern: Pattern,
}

/// "host.cpu of 540 % in all is expected at 08:10 UTC (the median of 5 days), which needs 9".
impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.pattern {
            Pattern::Daily => "days",
            Pattern::Weekly => "weeks",
        };
        write!(
            f,
            "{} of {} in all is expected at {} UTC (the median of {} {what}), which needs {}",
            self.metric,
            self.load,
            self.at.strftime("%H:%M"),
            self.periods,
            self.capacity
        )
    }
}

/// How far back samples are looked at for a load that comes back after that time.
pub const fn history(pattern: Pattern) -> Duration {
    const DAY: u64 = 24 * 3600;
    match pattern {
        Pattern::Daily => Duration::from_secs((DAYS as u64 + 1) * DAY),
        Pattern::Weekly => Duration::from_secs((WEEKS as u64 * 7 + 1) * DAY),
    }
}

/// What the samples say of the load ahead; `None` if the policy does not look ahead, or too little is known.
pub fn outlook(policy: &Autoscale, samples: &Samples, now: Timestamp) -> Option<Outlook> {
    let predict = policy.predict.as_ref()?;
    let lead = SignedDuration::try_from(predict.lead).ok()?;
    let end = now.checked_add(lead).ok()?;
    let mut highest: Option<Outlook> = None;
    let mut at = now;
    while at <= end {
        // What holds then decides: the day's profile begins with its own targets.
        let targets = policy.profile_at(at).map_or(&[][..], |p| &p.targets);
        for target in targets {
            let expected = expected(predict, target, samples, at);
            if let Some(expected) = expected
                && highest.as_ref().is_none_or(|h| expected.capacity > h.capacity)
            {
                highest = Some(expected);
            }
        }
        at = match at.checked_add(STEP) {
            // The end itself is always looked at.
            Ok(next) if at < end => next.min(end),
            _ => break,
        };
    }
    highest
}

/// What is expected at one moment.
fn expected(predict: &Predict, target: &Target, samples: &Samples, at: Timestamp) -> Option<Outlook> {
    let known = samples.of(target.metric.name());
    let civil = at.to_zoned_datetime(predict.zone.rules()).datetime();
    let back = |n: i32| -> Option<Timestamp> {
        let span: Span = match predict.pattern {
            Pattern::Daily => n.days(),
            Pattern::Weekly => n.weeks(),
        };
        let earlier: DateTime = civil.checked_sub(span).ok()?;
        predict.zone.moment(earlier)
    };
    let most = match predict.pattern {
        Pattern::Daily => DAYS,
        Pattern::Weekly => WEEKS,
    };
    let mut loads: Vec<f64> = (1..=most).filter_map(|n| load_around(known, back(n)?)).collect();
    if loads.len() < FEWEST {
        return None;
    }
    loads.sort_by(f64::total_cmp);
    let middle = loads.len() / 2;
    let median = match loads.len() % 2 {
        0 => f64::midpoint(loads[middle - 1], loads[middle]),
        _ => loads[middle],
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, and a capacity has a maximum"
    )]
    let capacity = (median / target.value - 1e-9).ceil().max(0.0) as u32;
    let unit: Unit = target.metric.unit();
    Some(Outlook {
        capacity,
        at,
        metric: target.metric.name().to_owned(),
        load: unit.show(median),
        periods: loads.len(),
        pattern: predict.pattern,
    })
}

/// The load of all instances together around a moment: the average of the samples that are near it.
fn load_around(known: &[Sample], moment: Timestamp) -> Option<f64> {
    let (begin, end) = (moment.checked_sub(NEAR).ok()?, moment.checked_add(NEAR).ok()?);
    let first = known.partition_point(|s| s.at < begin);
    let near: Vec<f64> = (known[first..].iter())
        .take_while(|s| s.at <= end)
        .map(load)
        .collect();
    let count = u32::try_from(near.len()).ok().filter(|n| *n > 0)?;
    Some(near.iter().sum::<f64>() / f64::from(count))
}

/// The load of all instances together, those that could not be measured taken to be like the others.
pub fn load(sample: &Sample) -> f64 {
    sample.over(Over::Average) * f64::from(sample.instances.saturating_add(sample.missing).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autoscale::calendar::Zone;
    use crate::autoscale::policy::PredictMode;
    use crate::autoscale::testing::{MINUTE, Stage, at, policy};

    fn looking_ahead(pattern: Pattern, zone: &str) -> Autoscale {
        let mut policy = policy(&[], &[("host.cpu", 60.0)]);
        policy.predict = Some(Predict {
            mode: PredictMode::Scale,
            pattern,
            lead: 10 * MINUTE,
            zone: Zone::new(zone).unwrap(),
        });
        policy
    }

    /// Every day at that universal time, for ten minutes, this load on four instances.
    fn days(times: &[(&str, f64)]) -> Samples {
        let begin = |text: &str| at(text);
        (times.iter())
            .flat_map(|(text, load)| {
                (0..10).filter_map(move |minute| {
                    let at = begin(text)
                        .checked_add(SignedDuration::from_mins(minute))
                        .unwrap();
                    Sample::shared("host.cpu", at, *load, 4)
                })
            })
            .collect()
    }

    #[test]
    fn the_capacity_is_raised_ahead_of_what_earlier_days_had_at_that_time() {
        let policy = looking_ahead(Pattern::Daily, "UTC");
        let samples = days(&[
            ("2026-11-22T08:00:00Z", 500.0),
            ("2026-11-23T08:00:00Z", 4000.0),
            ("2026-11-24T08:00:00Z", 540.0),
        ]);
        let early = outlook(&policy, &samples, at("2026-11-25T07:45:00Z"));
        assert_eq!(early, None, "nothing is known of 07:55");
        let found = outlook(&policy, &samples, at("2026-11-25T07:50:00Z")).unwrap();
        assert_eq!(
            (found.capacity, found.periods),
            (9, 3),
            "the median of three: {found}"
        );
        assert_eq!(
            found.to_string(),
            "host.cpu of 540 % in all is expected at 08:00 UTC (the median of 3 days), which needs 9"
        );
        let mut set = Stage::new(policy, 4);
        set.now = at("2026-11-25T07:50:00Z");
        set.outlook = Some(found);
        let decision = set.each("host.cpu", 55.0).tick();
        assert_eq!(decision.to, 9);
        assert!(
            decision
                .reason
                .starts_with("out from 4 to 9: host.cpu of 540 % in all is expected")
        );
        // And it does not go down while the load is expected.
        let decision = set.wait(MINUTE).each("host.cpu", 20.0).tick();
        assert_eq!(decision.to, 9, "{}", decision.reason);
        assert!(
            decision.reason.starts_with("stays at 9: host.cpu of 540 %"),
            "{}",
            decision.reason
        );
    }

    #[test]
    fn one_day_is_no_pattern_and_forecast_only_does_nothing() {
        let mut policy = looking_ahead(Pattern::Daily, "UTC");
        let one = days(&[("2026-11-24T08:00:00Z", 540.0)]);
        assert_eq!(outlook(&policy, &one, at("2026-11-25T08:00:00Z")), None);
        let two = days(&[("2026-11-23T08:00:00Z", 540.0), ("2026-11-24T08:00:00Z", 540.0)]);
        let found = outlook(&policy, &two, at("2026-11-25T08:00:00Z"));
        assert_eq!(found.as_ref().map(|o| o.capacity), Some(9));
        if let Some(predict) = &mut policy.predict {
            predict.mode = PredictMode::ForecastOnly;
        }
        let mut set = Stage::new(policy, 4);
        set.outlook = found;
        let decision = set.each("host.cpu", 55.0).tick();
        assert_eq!(decision.to, 4);
        assert!(decision.outlook.is_some_and(|o| o.contains("which needs 9")));
    }

    #[test]
    fn a_day_is_one_of_the_clocks_also_when_they_were_put_back() {
        // 08:00 in Berlin is 06:00 universal time until the 24th of October, and 07:00 from the 25th on.
        let policy = looking_ahead(Pattern::Daily, "Europe/Berlin");
        let samples = days(&[("2026-10-23T06:00:00Z", 540.0), ("2026-10-24T06:00:00Z", 540.0)]);
        assert!(outlook(&policy, &samples, at("2026-10-26T07:00:00Z")).is_some());
        assert_eq!(outlook(&policy, &samples, at("2026-10-26T05:30:00Z")), None);
    }

    #[test]
    fn a_week_is_compared_with_weeks() {
        let policy = looking_ahead(Pattern::Weekly, "UTC");
        let samples = days(&[
            ("2026-11-11T08:00:00Z", 300.0),
            ("2026-11-18T08:00:00Z", 420.0),
            ("2026-11-24T08:00:00Z", 9000.0),
        ]);
        let found = outlook(&policy, &samples, at("2026-11-25T08:00:00Z")).unwrap();
        assert_eq!(
            (found.capacity, found.periods),
            (6, 2),
            "360 % is their middle: {found}"
        );
    }
}
