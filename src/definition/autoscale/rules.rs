//! Rules and targets.

use std::time::Duration;

use super::DAY;
use super::metrics::Metrics;
use crate::autoscale::metric::{Metric, Unit};
use crate::autoscale::policy::{Over, Rule, Statistic, Target};
use crate::autoscale::spelling::{self, Condition};
use crate::definition::reader::{At, Reader, Section};
use crate::definition::sections::{duration, parsed};
use crate::definition::values;

const MINUTE: Duration = Duration::from_secs(60);

/// Over which time a metric is taken where nothing else is said.
const WINDOW: Duration = Duration::from_secs(300);

/// `rules` of a profile.
pub(super) fn rules(r: &mut Reader<'_>, profile: &Section<'_, '_>, metrics: &Metrics<'_>) -> Vec<Rule> {
    let tables = r.tables(profile, "rules", "Rule").unwrap_or_default();
    tables.iter().filter_map(|s| rule(r, s, metrics)).collect()
}

fn rule(r: &mut Reader<'_>, s: &Section<'_, '_>, metrics: &Metrics<'_>) -> Option<Rule> {
    if !s.has("when") {
        r.missing(s, "when", "when = \"host.cpu > 70 avg 5m\"");
    }
    let condition = parsed(r, s, "when", spelling::condition);
    let metric = metric(r, s, metrics, condition.as_ref());
    let threshold = condition.as_ref().zip(metric.as_ref()).and_then(|(at, metric)| {
        let value = spelling::threshold(&at.value.threshold, metric.unit());
        value
            .map_err(|message| r.wrong(at.span.clone(), &at.key, message, None))
            .ok()
    });
    let over = over(r, s, metric.as_ref());
    let (statistic, window) = statistic(r, s, condition.as_ref());
    let change = match (s.has("change"), s.has("scale")) {
        (true, true) => {
            r.wrong(
                s.key_span("scale").unwrap_or_default(),
                &s.key("scale"),
                "change and scale are the same thing in two spellings",
                Some("leave one of them out".into()),
            );
            None
        }
        (false, false) => {
            r.missing(s, "change", "change = \"+1\"");
            None
        }
        (true, false) => parsed(r, s, "change", spelling::change),
        (false, true) => parsed(r, s, "scale", spelling::change),
    };
    let cooldown = duration(r, s, "cooldown", Duration::ZERO, DAY).unwrap_or(5 * MINUTE);
    Some(Rule {
        metric: metric?,
        over,
        statistic,
        window,
        operator: condition?.value.operator,
        threshold: threshold?,
        change: change?.value,
        cooldown,
    })
}

/// The metric, which stands either in a key of its own or in the condition.
fn metric(
    r: &mut Reader<'_>,
    s: &Section<'_, '_>,
    metrics: &Metrics<'_>,
    condition: Option<&At<Condition>>,
) -> Option<Metric> {
    let inside = condition.and_then(|at| Some((at, at.value.metric.clone()?)));
    match (s.has("metric"), inside) {
        (true, Some((at, name))) => {
            r.bad(
                at,
                format!("the condition names a metric ({name}), and so does metric"),
                "name it once",
            );
            None
        }
        (true, None) => metrics.metric(r, s, "metric"),
        (false, Some((at, name))) => {
            let named = At {
                value: name,
                span: at.span.clone(),
                key: at.key.clone(),
            };
            metrics.called(r, &named)
        }
        (false, None) => {
            if condition.is_some() {
                r.missing(s, "metric", "metric = \"host.cpu\"");
            }
            None
        }
    }
}

fn over(r: &mut Reader<'_>, s: &Section<'_, '_>, metric: Option<&Metric>) -> Over {
    let choices = [
        ("average", Over::Average),
        ("min", Over::Min),
        ("max", Over::Max),
        ("sum", Over::Sum),
    ];
    let Some(over) = r.choice(s, "over", &choices) else {
        return Over::Average;
    };
    if matches!(over, Over::Min | Over::Max) && metric.is_some_and(|m| !m.is_per_instance()) {
        r.wrong(
            s.key_span("over").unwrap_or_default(),
            &s.key("over"),
            "there is one number for the set, and no smallest or largest of its instances",
            Some("average or sum".into()),
        );
    }
    over
}

/// Statistic and window, each of which stands either in a key of its own or in the condition.
fn statistic(
    r: &mut Reader<'_>,
    s: &Section<'_, '_>,
    condition: Option<&At<Condition>>,
) -> (Statistic, Duration) {
    let mut named = r.choice(s, "statistic", spelling::STATISTICS);
    let mut window = duration(r, s, "window", Duration::ZERO, DAY);
    let Some(at) = condition else {
        return (Statistic::Average, WINDOW);
    };
    if let Some(inside) = at.value.statistic {
        if s.has("statistic") {
            r.bad(
                at,
                "the condition has a statistic, and so does statistic",
                "say it once",
            );
        }
        named = Some(inside);
    }
    if let Some(inside) = &at.value.window {
        if s.has("window") {
            r.bad(
                at,
                "the condition has a window, and so does window",
                "say it once",
            );
        }
        match values::duration(inside) {
            Ok(span) if span <= DAY => window = Some(span),
            Ok(_) => r.bad(at, "the window is out of range", "allowed: 0s to 24h"),
            Err(message) => r.bad(at, message, "such as \"host.cpu > 70 avg 5m\""),
        }
    }
    (named.unwrap_or(Statistic::Average), window.unwrap_or(WINDOW))
}

/// `target` of a profile.
pub(super) fn targets(r: &mut Reader<'_>, profile: &Section<'_, '_>, metrics: &Metrics<'_>) -> Vec<Target> {
    let tables = r.one_or_more_tables(profile, "target", "Target");
    tables.iter().filter_map(|s| target(r, s, metrics)).collect()
}

fn target(r: &mut Reader<'_>, s: &Section<'_, '_>, metrics: &Metrics<'_>) -> Option<Target> {
    for (key, example) in [("metric", "metric = \"host.cpu\""), ("value", "value = 60")] {
        if !s.has(key) {
            r.missing(s, key, example);
        }
    }
    let metric = metrics.metric(r, s, "metric");
    let unit = metric.as_ref().map_or(Unit::None, Metric::unit);
    let value = match s.is_string("value") {
        true => parsed(r, s, "value", |text| spelling::threshold(text, unit)),
        false => r.number(s, "value"),
    };
    if let Some(at) = value
        .as_ref()
        .filter(|at| !(at.value.is_finite() && at.value > 0.0))
    {
        r.bad(at, "a target is more than 0", "such as value = 60");
        return None;
    }
    let window = duration(r, s, "window", Duration::ZERO, DAY).unwrap_or(WINDOW);
    let cooldown = duration(r, s, "cooldown", Duration::ZERO, DAY).unwrap_or_default();
    Some(Target {
        metric: metric?,
        value: value?.value,
        window,
        cooldown,
    })
}
