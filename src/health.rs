//! Health: what an instance's answers to its probe add up to. Pure: the answers and the time are handed in.
//!
//! Google's and Azure's rules: some answers in a row change an instance's sign, one alone does not; a new instance has a
//! grace period, which its first good answer ends. What could not be asked for as many answers in a row as make an instance
//! unhealthy is unknown: that is neither good nor bad.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::answer::{self, Answer, Judgement};
use crate::inventory::{Instance, Phase, Power};
use crate::scaleset::{Health, Probe};

/// What an instance's answers add up to so far. Kept in the record, so that a command that looks once can tell what
/// many looks have shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vital {
    /// What it counts as.
    pub sign: Sign,
    /// Since when it does.
    pub since: Timestamp,
    /// Good answers in a row, up to now.
    pub good: u32,
    /// Bad answers in a row, up to now.
    pub bad: u32,
    /// Answers in a row, up to now, that say nothing of it.
    #[serde(default)]
    pub unsure: u32,
    /// Whether its grace period has not been ended by a good answer.
    pub grace: bool,
    /// The last answer, if there was one.
    #[serde(default, alias = "said", deserialize_with = "answer::read")]
    pub last: Option<Answer>,
    /// Whether it was healthy when it could be asked last.
    #[serde(default)]
    pub was_well: bool,
    /// Since when it has been off, crashed or paused though it should run. Starting it does not end that, lest one that
    /// crashes again and again count as new each time: only its being well for longer than the next start would wait
    /// does, or its repair.
    #[serde(default)]
    pub down: Option<Timestamp>,
}

/// What answers can make of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sign {
    /// It has not answered well often enough yet, and still may take its time.
    Starting,
    /// It answers well.
    Healthy,
    /// It does not.
    Unhealthy,
    /// It can't be asked: its agent is broken, or no way leads to it.
    Unknown,
}

impl Vital {
    /// A new instance's, or of one that was just started or changed.
    pub fn new(now: Timestamp) -> Self {
        Self {
            sign: Sign::Starting,
            since: now,
            good: 0,
            bad: 0,
            unsure: 0,
            grace: true,
            last: None,
            was_well: false,
            down: None,
        }
    }

    /// After one more answer.
    #[must_use]
    pub fn after(&self, answer: &Answer, rules: &Health, now: Timestamp) -> Self {
        let mut next = self.clone();
        next.last = Some(answer.clone());
        match answer.judgement() {
            Judgement::Good => {
                (next.good, next.bad, next.unsure) = (self.good.saturating_add(1), 0, 0);
                next.grace = false;
            }
            Judgement::Bad => (next.good, next.bad, next.unsure) = (0, self.bad.saturating_add(1), 0),
            Judgement::Unknown => next.unsure = self.unsure.saturating_add(1),
        }
        let may_still_start =
            self.sign == Sign::Starting && next.grace && now < later(self.since, rules.grace_period);
        next.sign = if next.unsure >= rules.unhealthy_after && !may_still_start {
            (next.good, next.bad) = (0, 0);
            Sign::Unknown
        } else if next.unsure > 0 {
            self.sign
        } else if next.good >= rules.healthy_after {
            Sign::Healthy
        } else if next.bad >= rules.unhealthy_after && !may_still_start {
            Sign::Unhealthy
        } else {
            self.sign
        };
        if next.sign != self.sign {
            next.since = now;
        }
        if next.sign != Sign::Unknown {
            next.was_well = next.sign == Sign::Healthy;
        }
        next
    }

    /// The last answer in words; empty if there was none.
    pub fn said(&self) -> String {
        self.last.as_ref().map_or_else(String::new, Answer::to_string)
    }

    /// Whether it is healthy, or was when it could be asked last.
    pub fn is_or_was_well(&self) -> bool {
        // One that an earlier vmss wrote down does not say what it was.
        self.was_well || self.sign == Sign::Healthy
    }

    /// Whether it has not answered anything yet.
    pub const fn is_new(&self) -> bool {
        matches!(self.sign, Sign::Starting) && self.good == 0 && self.bad == 0 && self.unsure == 0
    }

    /// Whether more answers are needed to tell what it counts as.
    pub fn is_undecided(&self, rules: &Health, now: Timestamp) -> bool {
        if self.down.is_some() && self.is_new() {
            // It does not run: there is nobody to answer.
            return false;
        }
        let may_still_start = self.grace && now < later(self.since, rules.grace_period);
        self.is_wavering() || self.sign == Sign::Starting && !may_still_start
    }

    /// Whether the last answers speak against its sign, but not often enough yet to change it.
    pub const fn is_wavering(&self) -> bool {
        match self.sign {
            Sign::Starting => false,
            Sign::Healthy => self.bad > 0 || self.unsure > 0,
            Sign::Unhealthy => self.good > 0 || self.unsure > 0,
            Sign::Unknown => self.good > 0 || self.bad > 0,
        }
    }
}

/// `span` after `moment`; the end of time at most.
pub fn later(moment: Timestamp, span: std::time::Duration) -> Timestamp {
    SignedDuration::try_from(span)
        .ok()
        .and_then(|span| moment.checked_add(span).ok())
        .unwrap_or(Timestamp::MAX)
}

/// How an instance is, as plans and people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It serves; without a probe: it runs.
    Healthy,
    /// Within its grace period, or being changed: neither healthy nor to be repaired.
    Starting,
    /// It runs and does not serve.
    Unhealthy,
    /// It does not run though it should.
    Failed,
    /// Off on purpose.
    Stopped,
    /// Its host can't be asked, or neither it nor its agent can.
    Unknown,
}

impl State {
    /// How an instance that was seen is.
    pub fn of(instance: &Instance, vital: Option<&Vital>, rules: &Health) -> Self {
        if instance.meta.phase != Phase::Ready {
            return Self::Starting;
        }
        match instance.power {
            Power::Off | Power::Crashed if instance.meta.stopped => Self::Stopped,
            Power::Off | Power::Crashed | Power::Paused => Self::Failed,
            Power::ShuttingDown => Self::Unhealthy,
            Power::Running if rules.probe == Probe::None => Self::Healthy,
            Power::Running => match vital.map_or(Sign::Starting, |v| v.sign) {
                Sign::Starting => Self::Starting,
                Sign::Healthy => Self::Healthy,
                Sign::Unhealthy => Self::Unhealthy,
                Sign::Unknown => Self::Unknown,
            },
        }
    }

    /// Whether it is broken: what goes first when something has to go, and may be repaired.
    pub const fn is_bad(self) -> bool {
        matches!(self, Self::Unhealthy | Self::Failed)
    }

    /// Whether it counts as not healthy wherever so many may not be: what can't be asked does (Azure).
    pub const fn counts_against(self) -> bool {
        self.is_bad() || matches!(self, Self::Unknown)
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Starting => "starting",
            Self::Unhealthy => "unhealthy",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn rules() -> Health {
        Health {
            probe: Probe::Tcp { port: 80 },
            grace_period: Duration::from_secs(60),
            ..Health::default()
        }
    }

    fn answer(good: bool) -> Answer {
        Answer::status(if good { 200 } else { 503 }, None, None)
    }

    /// The signs after each of `answers`, one every five seconds from second 5.
    fn signs(answers: &str) -> String {
        let mut vital = Vital::new(at(0));
        (answers.chars().enumerate())
            .map(|(i, c)| {
                let answer = match c {
                    '?' => Answer::AgentBroken,
                    c => answer(c == '+'),
                };
                vital = vital.after(&answer, &rules(), at(5 * (i as i64 + 1)));
                match vital.sign {
                    Sign::Starting => 's',
                    Sign::Healthy => 'h',
                    Sign::Unhealthy => 'u',
                    Sign::Unknown => '?',
                }
            })
            .collect()
    }

    #[test]
    fn two_answers_in_a_row_change_the_sign_and_one_does_not() {
        assert_eq!(signs("++-+--+-++"), "shhhhuuuuh");
    }

    #[test]
    fn the_grace_period_forgives_until_it_is_over() {
        // Sixty seconds are over with the twelfth answer.
        assert_eq!(signs("------------"), "sssssssssssu");
    }

    #[test]
    fn the_first_good_answer_ends_the_grace_period() {
        assert_eq!(signs("--+--"), "ssssu");
    }

    #[test]
    fn a_sign_knows_since_when_and_whether_it_wavers() {
        let first = Vital::new(at(0)).after(&answer(true), &rules(), at(5));
        let healthy = first.after(&answer(true), &rules(), at(10));
        assert_eq!((healthy.sign, healthy.since), (Sign::Healthy, at(10)));
        let wavering = healthy.after(&answer(false), &rules(), at(15));
        assert_eq!((wavering.since, wavering.said().as_str()), (at(10), "503"));
        assert!(wavering.is_wavering() && !healthy.is_wavering() && !first.is_wavering());
    }

    #[test]
    fn what_cant_be_asked_is_unknown_and_never_unhealthy() {
        assert_eq!(signs("++??????"), "shh?????");
        assert_eq!(signs("++?+?+?-?-"), "shhhhhhhhu", "answers in between count on");
        assert_eq!(signs("++??--"), "shh??u", "what answers badly at last is");
        assert_eq!(signs("++??++"), "shh??h");
        assert_eq!(signs("++--??"), "shhuu?", "also what was unhealthy before");
        // Sixty seconds are over with the twelfth answer.
        assert_eq!(signs("????????????"), "sssssssssss?");
    }

    #[test]
    fn one_that_cant_be_asked_is_remembered_as_it_was() {
        let after = |answers: &[Answer]| {
            let first = Vital::new(at(0));
            (answers.iter().zip(1..)).fold(first, |v, (a, i)| v.after(a, &rules(), at(100 * i)))
        };
        let (lost, good, bad) = (Answer::AgentBroken, answer(true), answer(false));
        let vital = after(&[good.clone(), good, lost.clone(), lost.clone()]);
        assert!(vital.sign == Sign::Unknown && vital.is_or_was_well());
        let vital = after(&[bad.clone(), bad, lost.clone(), lost]);
        assert!(vital.sign == Sign::Unknown && !vital.is_or_was_well());
    }

    #[test]
    fn a_vital_that_an_earlier_vmss_wrote_down_is_read() {
        let old = r#"{"sign":"unhealthy","since":"2026-01-01T00:00:00Z","good":0,"bad":3,"grace":false,
            "said":"503 Service Unavailable","down":null}"#;
        let vital: Vital = serde_json::from_str(old).unwrap();
        assert_eq!((vital.bad, vital.unsure), (3, 0));
        assert_eq!(vital.said(), "503 Service Unavailable");
        let text = serde_json::to_string(&vital).unwrap();
        assert_eq!(serde_json::from_str::<Vital>(&text).unwrap(), vital);
        let untold = old.replace("503 Service Unavailable", "");
        assert_eq!(serde_json::from_str::<Vital>(&untold).unwrap().last, None);
    }
}
