//! What a policy needs measured is measured: by hosts, through guest agents, by load balancers, and elsewhere.

mod balancers;
mod guest;
mod hosts;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use jiff::Timestamp;

use crate::aside::all_at_once;
use crate::autoscale::metric::{External, Of};
use crate::autoscale::{Autoscale, Metric, Readings, Sample};
use crate::health::{State, Vital, later};
use crate::hypervisor::{Finding, Problem};
use crate::inventory::{Instance, Inventory};
use crate::names::InstanceId;
use crate::numbers::{Numbers, PATIENCE};
use crate::record::Record;
use crate::scaleset::{Host, Probe, ScaleSet};
use crate::vitals::reference;
use crate::world::World;

/// What was measured at one moment.
#[derive(Debug, Default)]
pub struct Measurement {
    /// A sample for each metric that could be measured.
    pub samples: Vec<Sample>,
    /// Counters as they were read.
    pub readings: Readings,
    /// What could not be measured, by the metric's name, and why.
    pub problems: BTreeMap<String, String>,
    /// Those of them that were asked of somebody who did not answer well.
    pub unanswered: BTreeSet<String>,
}

impl Measurement {
    fn problem(&mut self, metric: &str, why: String) {
        self.problems.insert(metric.to_owned(), why);
    }

    fn unanswered(&mut self, metric: &str, why: String) {
        self.unanswered.insert(metric.to_owned());
        self.problem(metric, why);
    }
}

/// An instance that counts in averages.
struct Counted<'a> {
    instance: &'a Instance,
    host: &'a Host,
}

/// Those that count, and how many others should but can't be seen.
struct Roster<'a> {
    counted: Vec<Counted<'a>>,
    unseen: u32,
}

impl<'a> Roster<'a> {
    /// Healthy instances past their warm-up that are not about to go, if there are any; those that were and can't be asked. One that is starting, unhealthy,
    /// off or leaving its load balancer has no load that says anything of what one more would have (AWS).
    fn of(
        set: &'a ScaleSet,
        record: &Record,
        inventory: &'a Inventory,
        policy: &Autoscale,
        now: Timestamp,
    ) -> Self {
        let is_warm = |i: &Instance| {
            let vital = record.vitals.get(&i.id);
            let since = match (&set.health.probe, vital) {
                (Probe::None, _) | (_, None) => i.meta.created_at,
                (_, Some(vital)) => vital.since,
            };
            match State::of(i, vital, &set.health) {
                State::Healthy => later(since, policy.warm_up) <= now,
                // What can't be asked how it is serves on as it did: without its load the others would seem to be too many.
                State::Unknown => vital.is_some_and(Vital::is_or_was_well),
                _ => false,
            }
        };
        let mut counted = Vec::new();
        for view in &inventory.hosts {
            let (Some(seen), Some(host)) = (view.seen(), set.host(&view.name)) else {
                continue;
            };
            let ours = (seen.instances.iter())
                .filter(|i| i.meta.store == record.store && !record.written_off.contains_key(&i.id));
            let warm = ours.filter(|i| is_warm(i));
            counted.extend(warm.map(|instance| Counted { instance, host }));
        }
        // Where all are leaving, what they have is better than nothing: without a metric a set grows.
        let stays = |one: &Counted<'_>| !record.leaving.contains_key(&one.instance.id);
        if counted.iter().any(stays) {
            counted.retain(stays);
        }
        let is_hidden = |host| inventory.host(host).is_some_and(|h| h.seen().is_none());
        let hidden = record
            .known
            .values()
            .filter(|k| k.confirmed && !k.stopped && is_hidden(&k.host));
        Self {
            counted,
            unseen: u32::try_from(hidden.count()).unwrap_or(u32::MAX),
        }
    }

    fn len(&self) -> u32 {
        u32::try_from(self.counted.len()).unwrap_or(u32::MAX)
    }

    /// Those that count, by host.
    fn by_host(&self, set: &ScaleSet) -> Vec<(&'a Host, Vec<crate::plan::action::InstanceRef>)> {
        let mut all: Vec<(&Host, Vec<_>)> = Vec::new();
        for one in &self.counted {
            let reference = reference(set, one.instance);
            match all.last_mut().filter(|(host, _)| host.name == one.host.name) {
                Some((_, instances)) => instances.push(reference),
                None => all.push((one.host, vec![reference])),
            }
        }
        all
    }

    /// A sample of one value for each that counts; those that have none are missing.
    fn sample(
        &self,
        metric: &str,
        now: Timestamp,
        values: &BTreeMap<InstanceId, f64>,
        unseen: u32,
    ) -> Option<Sample> {
        let found: Vec<f64> = (self.counted.iter())
            .filter_map(|c| values.get(&c.instance.id).copied())
            .collect();
        let lacking = u32::try_from(self.counted.len() - found.len()).unwrap_or(u32::MAX);
        Sample::of(metric, now, &found, lacking.saturating_add(unseen))
    }
}

/// Measures everything that `policy` needs, all sources side by side, against the counters that were read `before`.
pub fn measure(
    world: &World,
    set: &ScaleSet,
    record: &Record,
    inventory: &Inventory,
    policy: &Autoscale,
    before: &Readings,
    now: Timestamp,
) -> Measurement {
    let roster = Roster::of(set, record, inventory, policy, now);
    let metrics = policy.metrics();
    let mut measurement = Measurement::default();
    thread::scope(|scope| {
        // Each of these keeps to deadlines of its own and leaves behind what hangs.
        let elsewhere = scope.spawn(|| externals(&world.numbers, &metrics));
        let guests = scope.spawn(|| guest_answers(world, set, &roster, &metrics));
        hosts::measure(world, set, &roster, &metrics, before, now, &mut measurement);
        balancers::measure(inventory, &roster, &metrics, before, now, &mut measurement);
        if let Ok(answers) = guests.join() {
            hosts::take_guests(&answers, &roster, &metrics, before, now, &mut measurement);
        }
        if let Ok(numbers) = elsewhere.join() {
            let is_empty = record.capacity == 0;
            take_externals(numbers, &roster, is_empty, now, &mut measurement);
        }
    });
    measurement
}

/// How long guests may take to answer, all together.
const PATIENCE_FOR_GUESTS: Duration = Duration::from_secs(10);

/// What guests said, if a metric needs that.
struct GuestAnswers {
    proc: BTreeMap<InstanceId, Result<String, String>>,
    disk: BTreeMap<InstanceId, Result<String, String>>,
}

fn guest_answers(world: &World, set: &ScaleSet, roster: &Roster<'_>, metrics: &[&Metric]) -> GuestAnswers {
    use crate::autoscale::metric::GuestMetric;
    let needs = |disk: bool| {
        (metrics.iter()).any(|m| matches!(m, Metric::Guest(g) if (*g == GuestMetric::Disk) == disk))
    };
    let ask = |command: [&str; 4]| {
        let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        let all = roster.by_host(set);
        crate::observe::outputs(&*world.hosts, &set.limits, all, command, PATIENCE_FOR_GUESTS)
    };
    GuestAnswers {
        proc: if needs(false) {
            ask(guest::READ)
        } else {
            BTreeMap::new()
        },
        disk: if needs(true) {
            ask(guest::DISK)
        } else {
            BTreeMap::new()
        },
    }
}

/// Asks for every number from elsewhere that `policy` needs, for `vmss check`.
pub fn check(numbers: &Arc<dyn Numbers>, policy: &Autoscale) -> Vec<Finding> {
    let finding = |(external, number): (External, Result<f64, String>)| Finding {
        what: external.name,
        result: number
            .map(crate::autoscale::metric::number)
            .map_err(|problem| Problem {
                problem,
                remedy: "mend the query, or what is asked; until then the set is not made smaller".to_owned(),
            }),
    };
    externals(numbers, &policy.metrics())
        .into_iter()
        .map(finding)
        .collect()
}

/// Asks for every number from elsewhere at once; what has not come in time is left behind.
fn externals(numbers: &Arc<dyn Numbers>, metrics: &[&Metric]) -> Vec<(External, Result<f64, String>)> {
    let wanted: Vec<External> = (metrics.iter())
        .filter_map(|m| match m {
            Metric::External(external) => Some(external.clone()),
            _ => None,
        })
        .collect();
    let numbers = Arc::clone(numbers);
    let answers = all_at_once(
        wanted.clone(),
        PATIENCE + Duration::from_secs(1),
        move |external| numbers.now(&external),
    );
    let late = || Err(format!("no answer within {} s", PATIENCE.as_secs_f64()));
    (wanted.into_iter().zip(answers))
        .map(|(external, answer)| {
            (
                external,
                answer.map_or_else(late, |answer| answer.and_then(|number| number)),
            )
        })
        .collect()
}

fn take_externals(
    numbers: Vec<(External, Result<f64, String>)>,
    roster: &Roster<'_>,
    is_empty: bool,
    now: Timestamp,
    measurement: &mut Measurement,
) {
    for (external, number) in numbers {
        let name = external.name.as_str();
        let value = match number {
            Ok(value) => value,
            Err(why) => {
                measurement.unanswered(name, why);
                continue;
            }
        };
        let sample = match (external.of, roster.len()) {
            (_, 0) if !is_empty => {
                measurement.problem(name, NOBODY.to_owned());
                continue;
            }
            (_, 0) => Sample::alone(name, now, value),
            (Of::Instance, n) => Sample::each(name, now, value, n),
            (Of::Set, n) => Sample::shared(name, now, value, n),
        };
        match sample {
            Some(sample) => measurement.samples.push(sample),
            None => measurement.unanswered(name, format!("{value:e} is too large a number")),
        }
    }
}

/// Why there is nothing to measure.
const NOBODY: &str = "no instance is healthy and past its warm-up";
