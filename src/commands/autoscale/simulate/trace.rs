//! Where a trace comes from: a CSV file, a Prometheus server, the samples in the store.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::autoscale::calendar;
use crate::autoscale::metric::Source;
use crate::autoscale::trace::Point;
use crate::autoscale::{Autoscale, Metric, Trace};
use crate::cli::SimulateArgs;
use crate::commands::Context;
use crate::error::{Error, Exit, Result};
use crate::intake::{self, IntakeError};
use crate::names::Label;
use crate::numbers::Range;
use crate::store::Store;
use crate::world::Interrupt;

/// The samples of a set.
pub struct Kept {
    /// Where they are.
    pub store: Arc<dyn Store>,
    /// Whose they are.
    pub set: Label,
}

/// Most points of a series that are asked for: Prometheus gives no more than 11,000.
const MOST_POINTS: i64 = 11_000;

/// Reads the trace that `args` name.
pub(super) fn read(
    ctx: &Context<'_>,
    args: &SimulateArgs,
    policy: &Autoscale,
    kept: Option<&Kept>,
) -> Result<Trace> {
    let now = ctx.world.clock.now();
    let zone = &ctx.world.env.zone;
    let moment = |text: &Option<String>| -> Result<Option<Timestamp>> {
        let parsed = text.as_deref().map(|text| meant(text, zone, now));
        parsed.transpose().map_err(|e| Error::message(Exit::Usage, e))
    };
    let (from, to) = (moment(&args.from)?, moment(&args.to)?);
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        return Err(Error::message(Exit::Usage, "--from is not before --to"));
    }
    let trace = match (&args.trace, args.prometheus.is_empty(), kept) {
        (Some(file), ..) => {
            let path = ctx.world.env.cwd.join(file);
            let read = intake::text_handed_over(&path, intake::TRACE, &ctx.world.interrupt);
            let text = read.map_err(|e| {
                let exit = match e {
                    IntakeError::Interrupted => Exit::Interrupted,
                    _ => Exit::Usage,
                };
                Error::new(exit, e).context(format!("reading the trace {}", path.display()))
            })?;
            csv(&text, policy, zone)
                .map_err(|e| Error::message(Exit::Usage, format!("{}: {e}", path.display())))?
        }
        (None, false, _) => asked(ctx, args, policy, from.unwrap_or(now), to.unwrap_or(now))?,
        (None, true, Some(kept)) => {
            let samples = kept.store.samples(&kept.set, from.unwrap_or(Timestamp::MIN))?;
            if samples.is_empty() {
                return Err(Error::message(
                    Exit::Failed,
                    format!("the store has no samples of {} in that time", kept.set),
                )
                .hint("vmss run and vmss autoscale take them; --trace FILE tries the policy on a CSV file"));
            }
            Trace::of(&samples)
        }
        (None, true, None) => Trace::default(),
    };
    Ok(within(trace, from, to))
}

fn within(mut trace: Trace, from: Option<Timestamp>, to: Option<Timestamp>) -> Trace {
    trace
        .points
        .retain(|p| from.is_none_or(|from| p.at >= from) && to.is_none_or(|to| p.at <= to));
    trace
}

/// The moment that somebody means: a date, a date with a time, or how long ago.
fn meant(text: &str, zone: &TimeZone, now: Timestamp) -> std::result::Result<Timestamp, String> {
    let form = || format!("{text:?} is no time: write it as 2026-11-23, \"2026-11-23 18:00\" or 7d");
    if let Some(exact) = moment_of(text, zone) {
        return Ok(exact);
    }
    let ago: SignedDuration = match text.strip_suffix('d').and_then(|n| n.parse::<i64>().ok()) {
        Some(days) => SignedDuration::from_hours(24 * days),
        None => text.parse().map_err(|_| form())?,
    };
    now.checked_sub(ago).map_err(|_| form())
}

/// The moment that a text is: with an offset, by the clocks of `zone`, or in seconds since 1970.
fn moment_of(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    if let Some(at) = calendar::moment(text, zone) {
        return Some(at);
    }
    let seconds = text.trim().parse::<f64>().ok().filter(|s| s.is_finite())?;
    Timestamp::from_duration(SignedDuration::try_from_secs_f64(seconds).ok()?).ok()
}

/// A trace in CSV: a column `time` and one for each metric, of what the whole set had to do. With a column `instances`
/// the others are averages of so many. The only other column may be called `load`: it is the policy's only metric.
fn csv(text: &str, policy: &Autoscale, zone: &TimeZone) -> std::result::Result<Trace, String> {
    let mut reader = ::csv::ReaderBuilder::new()
        .trim(::csv::Trim::All)
        .comment(Some(b'#'))
        .from_reader(text.as_bytes());
    let headers = reader.headers().map_err(|e| e.to_string())?.clone();
    let position = |name: &str| headers.iter().position(|h| h.eq_ignore_ascii_case(name));
    let time = position("time").ok_or("there is no column time")?;
    let instances = position("instances");
    let columns: Vec<usize> = (0..headers.len())
        .filter(|i| *i != time && Some(*i) != instances)
        .collect();
    if columns.is_empty() {
        return Err("there is no column beside time".to_owned());
    }
    let metrics: Vec<&str> = policy.metrics().into_iter().map(Metric::name).collect();
    let name = |i: usize| match (&headers[i], metrics.as_slice()) {
        ("load", [only]) => (*only).to_owned(),
        (name, _) => name.to_owned(),
    };
    let mut trace = Trace {
        metrics: columns.iter().map(|i| name(*i)).collect(),
        points: Vec::new(),
    };
    for record in reader.records() {
        let record = record.map_err(|e| e.to_string())?;
        let line = record.position().map_or(0, ::csv::Position::line);
        let field = |i: usize| record.get(i).unwrap_or_default();
        let at = moment_of(field(time), zone)
            .ok_or_else(|| format!("line {line}: {:?} is no time", field(time)))?;
        let number = |i: usize| match field(i) {
            "" => Ok(None),
            text => (text.parse::<f64>().ok().filter(|n| n.is_finite()))
                .map(Some)
                .ok_or_else(|| format!("line {line}: {text:?} is no number")),
        };
        let times = match instances {
            Some(i) => number(i)?.unwrap_or(0.0),
            None => 1.0,
        };
        let loads = columns.iter().map(|i| Ok(number(*i)?.map(|value| value * times)));
        trace.points.push(Point {
            at,
            loads: loads.collect::<std::result::Result<_, String>>()?,
        });
    }
    Ok(trace.sorted())
}

/// A trace that a Prometheus server knows.
fn asked(
    ctx: &Context<'_>,
    args: &SimulateArgs,
    policy: &Autoscale,
    from: Timestamp,
    to: Timestamp,
) -> Result<Trace> {
    let usual = policy.metrics().into_iter().find_map(|m| match m {
        Metric::External(e) => match &e.source {
            Source::Prometheus { url, .. } => Some(url.clone()),
            Source::Http { .. } => None,
        },
        _ => None,
    });
    let url = args
        .url
        .clone()
        .or_else(|| policy.prometheus.clone())
        .or(usual)
        .ok_or_else(|| {
            Error::message(Exit::Usage, "no Prometheus server is known")
                .hint("name it: --url http://127.0.0.1:9090")
        })?;
    let seconds = to.duration_since(from).as_secs();
    let step = SignedDuration::from_secs((seconds / MOST_POINTS + 1).max(60));
    let mut trace = Trace::default();
    for (column, text) in args.prometheus.iter().enumerate() {
        let Some((metric, query)) = text
            .split_once('=')
            .filter(|(m, q)| !m.is_empty() && !q.is_empty())
        else {
            return Err(Error::message(
                Exit::Usage,
                format!("{text:?} names no metric: write --prometheus 'host.cpu=sum(cpu_percent)'"),
            ));
        };
        trace.metrics.push(metric.trim().to_owned());
        let range = Range {
            url: url.trim_end_matches('/'),
            query,
            from,
            to,
            step,
        };
        let series = series(ctx, &range)?;
        for (at, value) in series {
            match trace.points.binary_search_by_key(&at, |p| p.at) {
                Ok(i) => trace.points[i].loads.push(Some(value)),
                Err(i) => {
                    let mut loads = vec![None; column];
                    loads.push(Some(value));
                    trace.points.insert(i, Point { at, loads });
                }
            }
        }
        for point in &mut trace.points {
            point.loads.resize(column + 1, None);
        }
    }
    Ok(trace)
}

type Series = std::result::Result<Vec<(Timestamp, f64)>, String>;

/// Asks for a series, which may take a minute, on a thread that is left behind when nobody wants to wait for it.
fn series(ctx: &Context<'_>, range: &Range<'_>) -> Result<Vec<(Timestamp, f64)>> {
    let (tx, rx) = mpsc::channel();
    let (numbers, url, query) = (
        Arc::clone(&ctx.world.numbers),
        range.url.to_owned(),
        range.query.to_owned(),
    );
    let (from, to, step) = (range.from, range.to, range.step);
    let ask = move || {
        let range = Range {
            url: &url,
            query: &query,
            from,
            to,
            step,
        };
        // Nobody may want it any more.
        let _ = tx.send(numbers.range(&range));
    };
    thread::Builder::new().name("series".to_owned()).spawn(ask)?;
    awaited(&rx, &ctx.world.interrupt)
}

fn awaited(answer: &mpsc::Receiver<Series>, interrupt: &Interrupt) -> Result<Vec<(Timestamp, f64)>> {
    const GLANCE: Duration = Duration::from_millis(50);
    loop {
        match answer.recv_timeout(GLANCE) {
            Ok(series) => return series.map_err(|e| Error::message(Exit::Unreachable, e)),
            Err(mpsc::RecvTimeoutError::Timeout) if interrupt.is_set() => {
                return Err(Error::message(
                    Exit::Interrupted,
                    "stopped while a series was asked for",
                ));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(Error::message(
                    Exit::Unreachable,
                    "asking for a series was broken off",
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition;

    fn policy() -> Autoscale {
        let text = include_str!("../../../definition/init.toml").to_owned()
            + "\n[autoscale]\nmin = 1\nmax = 9\ntarget = { metric = \"host.cpu\", value = 60 }\n";
        let set = definition::parse(&text, std::path::Path::new("x.toml")).unwrap();
        set.autoscale.unwrap()
    }

    fn read(text: &str) -> std::result::Result<Vec<(String, Option<f64>)>, String> {
        let trace = csv(text, &policy(), &TimeZone::UTC)?;
        assert_eq!(trace.metrics, ["host.cpu"]);
        Ok(trace
            .points
            .iter()
            .map(|p| (p.at.to_string(), p.loads[0]))
            .collect())
    }

    #[test]
    fn a_trace_is_a_csv_file_with_a_time_and_a_load() {
        let expected = vec![
            ("2026-11-23T00:00:00Z".to_owned(), Some(120.0)),
            ("2026-11-23T00:01:00Z".to_owned(), None),
        ];
        for text in [
            "time,load\n2026-11-23 00:00,120\n2026-11-23 00:01,\n",
            "# by hand\nload, Time\n ,2026-11-23T01:01:00+01:00\n120,2026-11-23T00:00:00Z\n",
            "time,host.cpu\n1795392000,120\n1795392060.0,\n",
            "time,host.cpu,instances\n2026-11-23,40,3\n2026-11-23T00:01,,3\n",
        ] {
            assert_eq!(read(text), Ok(expected.clone()), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_trace_is_said_with_its_line() {
        for (text, message) in [
            ("load\n1\n", "there is no column time"),
            ("time\n2026-11-23\n", "there is no column beside time"),
            ("time,load\nnoon,1\n", "line 2: \"noon\" is no time"),
            (
                "time,load\n2026-11-23,1\n2026-11-24,much\n",
                "line 3: \"much\" is no number",
            ),
        ] {
            assert_eq!(csv(text, &policy(), &TimeZone::UTC).unwrap_err(), message);
        }
        assert!(csv("time,load\n2026-11-23,1,2\n", &policy(), &TimeZone::UTC).is_err());
    }

    #[test]
    fn times_are_dates_or_how_long_ago() {
        let now: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
        let meant = |text: &str| meant(text, &TimeZone::UTC, now).map(|at| at.to_string());
        assert_eq!(meant("7d").unwrap(), "2026-11-18T12:00:00Z");
        assert_eq!(meant("90m").unwrap(), "2026-11-25T10:30:00Z");
        assert_eq!(meant("2026-11-23").unwrap(), "2026-11-23T00:00:00Z");
        assert!(meant("yesterday").unwrap_err().contains("is no time"));
    }

    #[test]
    fn nobody_has_to_wait_for_a_server_that_says_nothing() {
        let interrupt = Interrupt::default();
        let (tx, rx) = mpsc::channel();
        tx.send(Ok(vec![(Timestamp::UNIX_EPOCH, 1.0)])).unwrap();
        assert_eq!(awaited(&rx, &interrupt).unwrap().len(), 1);
        tx.send(Err("refused".to_owned())).unwrap();
        assert_eq!(awaited(&rx, &interrupt).unwrap_err().exit, Exit::Unreachable);
        interrupt.press();
        assert_eq!(awaited(&rx, &interrupt).unwrap_err().exit, Exit::Interrupted);
    }
}
