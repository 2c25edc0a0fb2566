//! How conditions and changes are written: `host.cpu > 75 avg 5m`, `out 1`, `+20%` (Azure's short forms).

use std::fmt;
use std::time::Duration;

use jiff::SignedDuration;

use crate::autoscale::metric::Unit;
use crate::autoscale::policy::{Change, Operator, Over, Rule, Statistic, Target};
use crate::scaleset::Amount;

/// A condition as written; what it leaves out is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The metric's name.
    pub metric: Option<String>,
    /// How it is compared.
    pub operator: Operator,
    /// With what, as written: what it means depends on the metric.
    pub threshold: String,
    /// Over the window.
    pub statistic: Option<Statistic>,
    /// The window, as written.
    pub window: Option<String>,
}

/// Words for statistics.
pub const STATISTICS: &[(&str, Statistic)] = &[
    ("average", Statistic::Average),
    ("avg", Statistic::Average),
    ("min", Statistic::Min),
    ("max", Statistic::Max),
    ("last", Statistic::Last),
];

/// `host.cpu > 75 avg 5m`, or a part of it that has at least `> 75`.
///
/// # Errors
/// A sentence.
pub fn condition(text: &str) -> Result<Condition, String> {
    let form = || format!("{text:?} is no condition: write it as \"host.cpu > 75 avg 5m\" or \"> 75%\"");
    let at = text.find(['<', '>']).ok_or_else(form)?;
    let (metric, rest) = text.split_at(at);
    let metric = metric.trim();
    let operators = [
        (">=", Operator::AtLeast),
        ("<=", Operator::AtMost),
        (">", Operator::Above),
        ("<", Operator::Below),
    ];
    let (operator, rest) = (operators.iter())
        .find_map(|(sign, operator)| Some((*operator, rest.strip_prefix(sign)?)))
        .ok_or_else(form)?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let statistic_at = words
        .iter()
        .position(|w| STATISTICS.iter().any(|(name, _)| name == w));
    let (value, statistic, window) = match statistic_at {
        None => (&words[..], None, None),
        Some(i) => {
            let statistic = STATISTICS
                .iter()
                .find(|(name, _)| *name == words[i])
                .map(|(_, s)| *s);
            let window = (i + 1 < words.len()).then(|| words[i + 1..].join(" "));
            (&words[..i], statistic, window)
        }
    };
    if value.is_empty() || metric.contains(char::is_whitespace) {
        return Err(form());
    }
    Ok(Condition {
        metric: (!metric.is_empty()).then(|| metric.to_owned()),
        operator,
        threshold: value.join(" "),
        statistic,
        window,
    })
}

/// The number that a threshold means for values in `unit`: "75", "75%", "10 MiB", "200 ms".
///
/// # Errors
/// A sentence.
pub fn threshold(text: &str, unit: Unit) -> Result<f64, String> {
    let bare = |text: &str| (text.trim().parse::<f64>().ok()).filter(|n| n.is_finite());
    let trimmed = text.trim();
    let found = match unit {
        Unit::Percent => bare(trimmed.strip_suffix('%').unwrap_or(trimmed)),
        Unit::BytesPerSecond => bare(trimmed).or_else(|| {
            let size = trimmed.strip_suffix("/s").unwrap_or(trimmed);
            #[expect(
                clippy::cast_precision_loss,
                reason = "a threshold needs no more than 52 bits"
            )]
            let bytes = size.parse::<bytesize::ByteSize>().ok().map(|b| b.as_u64() as f64);
            bytes
        }),
        Unit::PerSecond => bare(trimmed.strip_suffix("/s").unwrap_or(trimmed)),
        Unit::Milliseconds => bare(trimmed.strip_suffix("ms").unwrap_or(trimmed)),
        Unit::None => bare(trimmed),
    };
    found.ok_or_else(|| {
        let example = match unit {
            Unit::Percent => "75 or 75%",
            Unit::BytesPerSecond => "1000000 or 10 MiB/s",
            Unit::PerSecond => "200 or 200/s",
            Unit::Milliseconds => "250 or 250 ms",
            Unit::None => "75",
        };
        format!("{text:?} is no value for this metric: write it as {example}")
    })
}

/// `+1`, `-20%`, `=5`, `out 1`, `in 50%`, `to 5`.
///
/// # Errors
/// A sentence.
pub fn change(text: &str) -> Result<Change, String> {
    let form = || {
        format!("{text:?} is no change: write +1, -1, +20%, -50% or =5, or in words out 1, in 50% or to 5")
    };
    let trimmed = text.trim();
    let prefixes = [
        ("+", 'o'),
        ("out ", 'o'),
        ("-", 'i'),
        ("in ", 'i'),
        ("=", 't'),
        ("to ", 't'),
    ];
    let (kind, rest) = (prefixes.iter())
        .find_map(|(prefix, kind)| Some((*kind, trimmed.strip_prefix(prefix)?.trim())))
        .ok_or_else(form)?;
    let digits = |text: &str| {
        let is_whole = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u32>().ok().filter(|_| is_whole)
    };
    if kind == 't' {
        return digits(rest).map(Change::To).ok_or_else(form);
    }
    let amount = match rest.strip_suffix('%') {
        Some(share) => digits(share.trim()).map(Amount::Percent),
        None => digits(rest).map(Amount::Count),
    };
    let amount = amount.ok_or_else(form)?;
    match (kind, amount) {
        (_, amount) if amount.is_zero() => Err(format!("{text:?} changes nothing")),
        ('i', Amount::Percent(101..)) => Err(format!("{text:?} is more than there is")),
        ('o', amount) => Ok(Change::Out(amount)),
        (_, amount) => Ok(Change::In(amount)),
    }
}

/// A duration as one would write it: "90s", "5m", "2h 30m", "3d".
pub fn span(duration: Duration) -> String {
    age(SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX))
}

/// How long ago something was, to the second: "40s", "5m", "2h 30m", "3d".
pub fn age(age: SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let mut shown = (parts.iter())
        .skip_while(|(n, _)| *n == 0)
        .take(2)
        .filter(|(n, _)| *n > 0);
    let first = shown.next().map(|(n, unit)| format!("{n}{unit}"));
    match (first, shown.next()) {
        (None, _) => "0s".to_owned(),
        (Some(first), None) => first,
        (Some(first), Some((n, unit))) => format!("{first} {n}{unit}"),
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Above => ">",
            Self::AtLeast => ">=",
            Self::Below => "<",
            Self::AtMost => "<=",
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Out(Amount::Count(n)) => write!(f, "out {n}"),
            Self::Out(Amount::Percent(n)) => write!(f, "out {n}%"),
            Self::In(Amount::Count(n)) => write!(f, "in {n}"),
            Self::In(Amount::Percent(n)) => write!(f, "in {n}%"),
            Self::To(n) => write!(f, "to {n}"),
        }
    }
}

/// "max", of instances; the average is not said.
pub const fn over(over: Over) -> &'static str {
    match over {
        Over::Average => "",
        Over::Min => " min of instances",
        Over::Max => " max of instances",
        Over::Sum => " sum of instances",
    }
}

const fn statistic(statistic: Statistic) -> &'static str {
    match statistic {
        Statistic::Average => "avg",
        Statistic::Min => "min",
        Statistic::Max => "max",
        Statistic::Last => "last",
    }
}

/// "host.cpu > 75 % avg 5m: out 1".
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = self.metric.unit();
        write!(
            f,
            "{}{} {} {}",
            self.metric,
            over(self.over),
            self.operator,
            unit.show(self.threshold)
        )?;
        if !self.window.is_zero() {
            write!(f, " {} {}", statistic(self.statistic), span(self.window))?;
        }
        write!(f, ": {}", self.change)
    }
}

/// "host.cpu at 60 % avg 5m".
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.metric, self.metric.unit().show(self.value))?;
        if !self.window.is_zero() {
            write!(f, " avg {}", span(self.window))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_read_whole_or_in_part() {
        let whole = condition("host.cpu > 75 avg 5m").unwrap();
        assert_eq!(whole.metric.as_deref(), Some("host.cpu"));
        assert_eq!(
            (whole.operator, whole.threshold.as_str()),
            (Operator::Above, "75")
        );
        assert_eq!(
            (whole.statistic, whole.window.as_deref()),
            (Some(Statistic::Average), Some("5m"))
        );
        let part = condition("<= 10 MiB").unwrap();
        assert_eq!(
            (part.metric, part.operator, part.threshold.as_str()),
            (None, Operator::AtMost, "10 MiB")
        );
        assert_eq!(condition("host.cpu>75%").unwrap().threshold, "75%");
        assert_eq!(
            condition("lb.queue >= 1 max 1h 30m").unwrap().window.as_deref(),
            Some("1h 30m")
        );
        for bad in [
            "",
            "host.cpu",
            "host.cpu = 5",
            ">",
            "host.cpu > avg 5m",
            "Percentage CPU > 75",
        ] {
            assert!(condition(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_threshold_may_have_its_metrics_unit_and_no_other() {
        assert_eq!(threshold("75%", Unit::Percent), Ok(75.0));
        assert_eq!(threshold("75", Unit::Percent), Ok(75.0));
        assert_eq!(threshold("10 MiB/s", Unit::BytesPerSecond), Ok(10_485_760.0));
        assert_eq!(threshold("250 ms", Unit::Milliseconds), Ok(250.0));
        assert_eq!(threshold("200/s", Unit::PerSecond), Ok(200.0));
        assert_eq!(threshold("-1.5", Unit::None), Ok(-1.5));
        for (bad, unit) in [
            ("75%", Unit::None),
            ("x", Unit::Percent),
            ("NaN", Unit::None),
            ("inf", Unit::Percent),
            ("", Unit::None),
        ] {
            assert!(threshold(bad, unit).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn changes_are_signs_or_words() {
        for (text, expected) in [
            ("+1", Change::Out(Amount::Count(1))),
            ("out 1", Change::Out(Amount::Count(1))),
            ("+20%", Change::Out(Amount::Percent(20))),
            ("out 150%", Change::Out(Amount::Percent(150))),
            ("-2", Change::In(Amount::Count(2))),
            ("in 50%", Change::In(Amount::Percent(50))),
            ("=10", Change::To(10)),
            ("to 0", Change::To(0)),
        ] {
            assert_eq!(change(text), Ok(expected), "{text}");
        }
        for bad in [
            "", "1", "+", "+0", "in 0%", "-101%", "out", "to 5%", "+1.5", "up 1", "+-1",
        ] {
            assert!(change(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn spans_have_their_two_largest_parts() {
        for (seconds, text) in [
            (0, "0s"),
            (40, "40s"),
            (300, "5m"),
            (330, "5m 30s"),
            (9_000, "2h 30m"),
            (86_400, "1d"),
            (86_460, "1d"),
        ] {
            assert_eq!(age(SignedDuration::from_secs(seconds)), text);
        }
    }
}
