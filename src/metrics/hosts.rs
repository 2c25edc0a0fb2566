//! What hosts measure of instances, and what guests say through them.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{GuestAnswers, Measurement, NOBODY, Roster, guest};
use crate::autoscale::metric::{GuestMetric, HostMetric};
use crate::autoscale::{Counter, Metric, Readings};
use crate::hypervisor::{Groups, InstanceStats};
use crate::names::InstanceId;
use crate::observe::ask_all;
use crate::scaleset::ScaleSet;
use crate::units::Bytes;
use crate::world::World;

/// The groups of statistics that some metric needs.
fn groups(metrics: &[HostMetric]) -> Groups {
    let mut groups = Groups::default();
    for metric in metrics {
        match metric {
            HostMetric::Cpu => groups.cpu = true,
            HostMetric::Memory => groups.memory = true,
            HostMetric::DiskReadBytes
            | HostMetric::DiskWriteBytes
            | HostMetric::DiskReads
            | HostMetric::DiskWrites => groups.disk = true,
            HostMetric::NetworkReceiveBytes | HostMetric::NetworkSendBytes => groups.network = true,
        }
    }
    groups
}

/// Measures what hosts know: one call for each.
pub(super) fn measure(
    world: &World,
    set: &ScaleSet,
    roster: &Roster<'_>,
    metrics: &[&Metric],
    before: &Readings,
    now: Timestamp,
    measurement: &mut Measurement,
) {
    let wanted: Vec<HostMetric> = (metrics.iter())
        .filter_map(|m| match m {
            Metric::Host(metric) => Some(*metric),
            _ => None,
        })
        .collect();
    let groups = groups(&wanted);
    if !groups.any() {
        return;
    }
    let by_host = roster.by_host(set);
    let names: Vec<String> = by_host.iter().map(|(host, _)| host.name.to_string()).collect();
    let asked = (by_host.into_iter())
        .map(|(host, instances)| (world.hosts.host(host, &set.limits), instances))
        .collect();
    let answers = ask_all(asked, set.limits.call_timeout, move |host, instances| {
        host.stats(&instances, groups)
    });
    let mut stats: BTreeMap<InstanceId, InstanceStats> = BTreeMap::new();
    let mut failure = None;
    for (host, answer) in names.iter().zip(answers) {
        match answer {
            Ok(all) => stats.extend(all.into_iter().map(|s| (s.id, s))),
            Err(e) => failure = failure.or_else(|| Some(format!("{host}: {e}"))),
        }
    }
    for metric in wanted {
        let name = metric.as_str();
        let mut values = BTreeMap::new();
        let mut is_told = false;
        for one in &roster.counted {
            let id = one.instance.id;
            let Some(stats) = stats.get(&id) else { continue };
            match value(metric, stats) {
                None => {}
                Some(Value::Gauge(value)) => {
                    is_told = true;
                    values.insert(id, value);
                }
                Some(Value::Counter(value)) => {
                    is_told = true;
                    let counter = Counter {
                        at: now,
                        value,
                        of: None,
                    };
                    if let Some(rate) = before.rate(name, id, &counter) {
                        let scale = match metric {
                            HostMetric::Cpu => 100.0 / f64::from(one.instance.vcpus.max(1)),
                            _ => 1.0,
                        };
                        values.insert(id, rate * scale);
                    }
                    measurement.readings.note(name, id, counter);
                }
            }
        }
        match (&failure, roster.counted.is_empty(), is_told) {
            (Some(failure), ..) => measurement.unanswered(name, failure.clone()),
            (None, true, _) => measurement.problem(name, NOBODY.to_owned()),
            (None, false, false) => measurement.unanswered(name, "the hosts don't measure it".to_owned()),
            (None, false, true) => {}
        }
        measurement
            .samples
            .extend(roster.sample(name, now, &values, roster.unseen));
    }
}

/// A value as a host tells it.
enum Value {
    /// As it is now.
    Gauge(f64),
    /// Counted since the start.
    Counter(f64),
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a counter of bytes grows by far more than what 52 bits lose"
)]
fn value(metric: HostMetric, stats: &InstanceStats) -> Option<Value> {
    let bytes = |bytes: Bytes| Value::Counter(bytes.0 as f64);
    let times = |times: u64| Value::Counter(times as f64);
    Some(match metric {
        HostMetric::Cpu => Value::Counter(stats.cpu?.time.as_secs_f64()),
        HostMetric::Memory => {
            let memory = stats.memory.filter(|m| m.size.0 > 0)?;
            Value::Gauge(100.0 * memory.used.0 as f64 / memory.size.0 as f64)
        }
        HostMetric::DiskReadBytes => bytes(stats.disk?.read),
        HostMetric::DiskWriteBytes => bytes(stats.disk?.written),
        HostMetric::DiskReads => times(stats.disk?.reads),
        HostMetric::DiskWrites => times(stats.disk?.writes),
        HostMetric::NetworkReceiveBytes => bytes(stats.network?.received),
        HostMetric::NetworkSendBytes => bytes(stats.network?.sent),
    })
}

/// Takes in what guests said.
pub(super) fn take_guests(
    answers: &GuestAnswers,
    roster: &Roster<'_>,
    metrics: &[&Metric],
    before: &Readings,
    now: Timestamp,
    measurement: &mut Measurement,
) {
    let said: BTreeMap<InstanceId, guest::Said> = (answers.proc.iter())
        .filter_map(|(id, answer)| Some((*id, guest::read(answer.as_ref().ok()?))))
        .collect();
    for metric in metrics {
        let Metric::Guest(metric) = metric else { continue };
        let name = metric.as_str();
        let mut values = BTreeMap::new();
        let asked = match metric {
            GuestMetric::Disk => &answers.disk,
            _ => &answers.proc,
        };
        let mut is_told = false;
        for one in &roster.counted {
            let id = one.instance.id;
            let value = match metric {
                GuestMetric::Disk => {
                    let text = answers.disk.get(&id).and_then(|a| a.as_ref().ok());
                    text.and_then(|text| guest::disk(text))
                }
                GuestMetric::Cpu => said.get(&id).and_then(|said| said.busy).and_then(|(busy, all)| {
                    is_told = true;
                    let counter = Counter {
                        at: now,
                        value: busy,
                        of: Some(all),
                    };
                    let rate = before.rate(name, id, &counter);
                    measurement.readings.note(name, id, counter);
                    // Linux may count idle time back a little, and a guest can say anything.
                    rate.map(|rate| 100.0 * rate.min(1.0))
                }),
                metric => said.get(&id).and_then(|said| said.value(*metric)),
            };
            if let Some(value) = value {
                is_told = true;
                values.insert(id, value);
            }
        }
        if !is_told {
            let failure = asked
                .iter()
                .find_map(|(id, answer)| Some((id, answer.as_ref().err()?)));
            match failure {
                Some((id, why)) => measurement.unanswered(name, format!("instance {id}: {why}")),
                None if roster.counted.is_empty() => measurement.problem(name, NOBODY.to_owned()),
                None => measurement.unanswered(name, "no guest says it".to_owned()),
            }
        }
        measurement
            .samples
            .extend(roster.sample(name, now, &values, roster.unseen));
    }
}
