//! What load balancers count of instances.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Measurement, NOBODY, Roster};
use crate::autoscale::metric::BalancerMetric;
use crate::autoscale::{Counter, Metric, Readings, Sample};
use crate::inventory::Inventory;
use crate::membership::{ServerSeen, Sight};
use crate::names::InstanceId;
use crate::serve::called;

/// Takes what the load balancers showed when they were observed. With one of them out of sight nobody knows what all of
/// them have together.
pub(super) fn measure(
    inventory: &Inventory,
    roster: &Roster<'_>,
    metrics: &[&Metric],
    before: &Readings,
    now: Timestamp,
    measurement: &mut Measurement,
) {
    let missing = out_of_sight(inventory);
    for metric in metrics {
        let Metric::Balancer(metric) = metric else {
            continue;
        };
        let name = metric.as_str();
        if let Some(why) = &missing {
            measurement.unanswered(name, why.clone());
            continue;
        }
        if roster.counted.is_empty() {
            measurement.problem(name, NOBODY.to_owned());
            continue;
        }
        let mut values = BTreeMap::new();
        let mut idle = 0;
        for one in &roster.counted {
            let id = one.instance.id;
            let servers: Vec<(&str, &ServerSeen)> = (inventory.balancers.iter())
                .flat_map(|b| b.servers_of(id).map(|s| (b.name.as_str(), s)))
                .collect();
            if servers.is_empty() {
                continue;
            }
            let value = match metric {
                BalancerMetric::Connections => Some(sum(servers.iter().map(|(_, s)| s.connections))),
                BalancerMetric::Queue => {
                    Some(sum(servers.iter().map(|(_, s)| s.queue)) + unassigned(inventory, roster))
                }
                BalancerMetric::Requests => rates(&servers, id, before, now, measurement).into_iter().sum(),
                BalancerMetric::Latency => {
                    let rates = rates(&servers, id, before, now, measurement);
                    let all: Option<f64> = rates.iter().copied().sum();
                    idle += u32::from(all == Some(0.0));
                    all.and_then(|_| latency(&servers, &rates))
                }
            };
            values.extend(value.map(|value| (id, value)));
        }
        let mut sample = roster.sample(name, now, &values, 0);
        match &mut sample {
            // Those that had no request have no latency, and that is no reason to doubt the others'.
            Some(sample) => sample.missing = sample.missing.saturating_sub(idle),
            // Where it is known of all that they had none, nobody waits; where it is not, nothing is known.
            None if idle > 0 && idle == roster.len() => sample = Sample::each(name, now, 0.0, idle),
            None => {}
        }
        measurement.samples.extend(sample);
    }
}

/// Why it is not known what all load balancers have together.
fn out_of_sight(inventory: &Inventory) -> Option<String> {
    for view in &inventory.balancers {
        if let Sight::Unseen { reason } = &view.sight {
            return Some(format!("{}: {reason}", called(&view.name)));
        }
        if view.seen().is_some_and(|seen| seen.version.is_none()) {
            return Some(format!("{} does not run", called(&view.name)));
        }
    }
    (inventory.balancers.is_empty()).then(|| "the set has no load balancer".to_owned())
}

#[expect(clippy::cast_precision_loss, reason = "a count of connections is small")]
fn sum(counts: impl Iterator<Item = u64>) -> f64 {
    counts.sum::<u64>() as f64
}

/// Each instance's share of the requests that wait for whichever is free first.
fn unassigned(inventory: &Inventory, roster: &Roster<'_>) -> f64 {
    let queues = inventory
        .balancers
        .iter()
        .filter_map(|b| b.seen())
        .map(|seen| seen.queue);
    sum(queues) / f64::from(roster.len().max(1))
}

/// Requests per second of each server; `None` if that is not known yet. Each frontend of each load balancer counts for
/// itself: one of them may begin anew.
fn rates(
    servers: &[(&str, &ServerSeen)],
    id: InstanceId,
    before: &Readings,
    now: Timestamp,
    measurement: &mut Measurement,
) -> Vec<Option<f64>> {
    let rate = |(balancer, server): &(&str, &ServerSeen)| {
        let what = format!("lb.requests {balancer} {}", server.frontend);
        let counter = Counter {
            at: now,
            value: sum(std::iter::once(server.requests)),
            of: None,
        };
        measurement.readings.note(&what, id, counter);
        before.rate(&what, id, &counter)
    };
    servers.iter().map(rate).collect()
}

/// Milliseconds, the average of those that had requests since the last look: HAProxy's own stays as it is while nobody asks.
fn latency(servers: &[(&str, &ServerSeen)], rates: &[Option<f64>]) -> Option<f64> {
    let all: Vec<f64> = (servers.iter().zip(rates))
        .filter(|(_, rate)| rate.is_some_and(|rate| rate > 0.0))
        .filter_map(|((_, s), _)| Some(s.latency?.as_secs_f64() * 1000.0))
        .collect();
    let count = u32::try_from(all.len()).ok().filter(|n| *n > 0)?;
    Some(all.iter().sum::<f64>() / f64::from(count))
}
