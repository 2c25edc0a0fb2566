//! What a run says while it runs, beside its actions: nothing twice in a row.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::balancer::Change;
use crate::event::{Event, Listener};
use crate::inventory::{Inventory, View};
use crate::names::{InstanceId, Label, instance_name, list, ranges};
use crate::plan::Left;
use crate::plan::report::Wait;
use crate::plan::told::sentences;
use crate::record::Record;
use crate::rollout::{Rollout, RolloutState};

/// Says which instances are given up with their hosts.
pub(super) fn lost(record: &Record, lost: &[InstanceId], listener: &Arc<dyn Listener>) {
    let mut on: BTreeMap<&Label, Vec<u64>> = BTreeMap::new();
    for id in lost {
        if let Some(known) = record.known.get(id) {
            on.entry(&known.host).or_default().push(id.0);
        }
    }
    for (host, ids) in on {
        let (noun, since) = (
            if ids.len() == 1 { "instance" } else { "instances" },
            record
                .unseen
                .get(host)
                .map_or_else(String::new, |at| format!(" since {}", at.strftime("%H:%M:%SZ"))),
        );
        let text = format!(
            "host {host} has been out of sight{since}: {noun} {} there given up, others take their place",
            ranges(ids)
        );
        listener.event(&Event::Note { text });
    }
}

/// Says how a rollout went on.
pub(super) fn rollout(before: Option<&Rollout>, after: &Rollout, listener: &Arc<dyn Listener>) {
    let tell = |text: String| {
        listener.event(&Event::Rollout {
            number: after.number,
            text,
        });
    };
    let batch_before = before.and_then(|r| r.batch.as_ref()).map(|b| b.number);
    if after.batches > before.map_or(0, |r| r.batches) {
        tell(format!("rollout batch {} is done", after.batches));
    }
    if let Some(batch) = after.batch.as_ref().filter(|b| batch_before != Some(b.number)) {
        let ids = ranges(batch.instances.iter().map(|id| id.0));
        let noun = if batch.instances.len() == 1 {
            "instance"
        } else {
            "instances"
        };
        let place = batch
            .fault_domain
            .as_ref()
            .map_or_else(String::new, |d| format!(" in {d}"));
        let how = if batch.replaces { "replacing" } else { "changing" };
        tell(format!(
            "rollout batch {}: {how} {noun} {ids}{place}",
            batch.number
        ));
    }
    if before.map(|r| &r.state) != Some(&after.state) {
        match &after.state {
            RolloutState::RollingBack { reason } => {
                tell(format!("rolling back to revision {}: {reason}", after.target));
            }
            RolloutState::Done => tell(format!("every instance is at revision {}", after.target)),
            RolloutState::RolledBack { .. } => {
                tell(format!("every instance is back at revision {}", after.target))
            }
            // The end of the run says it.
            _ => {}
        }
    }
}

/// Says how the leave of instances ended: at zero connections, or at the deadline.
pub(super) fn left(set: &Label, left: &[Left], listener: &Arc<dyn Listener>) {
    let tell = |text: String| listener.event(&Event::Clients { text });
    let names = |is_meant: fn(&&Left) -> bool| -> Vec<String> {
        let meant = left.iter().filter(is_meant);
        meant.map(|l| instance_name(set, l.instance)).collect()
    };
    let free = names(|l| l.connections == Some(0));
    if !free.is_empty() {
        tell(format!("drained: {} (no connections left)", list(&free, 8)));
    }
    let unasked = names(|l| l.connections.is_none());
    if !unasked.is_empty() {
        tell(format!(
            "drained: {} (had its time; nobody can be asked for connections)",
            list(&unasked, 8)
        ));
    }
    for l in left.iter().filter(|l| l.connections.is_some_and(|n| n > 0)) {
        let connections = l.connections.unwrap_or_default();
        tell(format!(
            "not drained after {} s: {} still has {connections} connection{}, closed now",
            l.after.as_secs(),
            instance_name(set, l.instance),
            if connections == 1 { "" } else { "s" }
        ));
    }
}

/// Says what was changed in a load balancer.
pub fn changes(who: &str, changes: &[Change], listener: &Arc<dyn Listener>) {
    let named =
        |pick: fn(&Change) -> Option<&String>| -> Vec<&String> { changes.iter().filter_map(pick).collect() };
    let mut parts: Vec<String> = Vec::new();
    for change in changes {
        match change {
            Change::Started => parts.push("started".into()),
            Change::Reloaded => parts.push("took up another configuration, no connection lost".into()),
            _ => {}
        }
    }
    let joined = named(|c| {
        if let Change::Joined(name) = c {
            Some(name)
        } else {
            None
        }
    });
    let out = named(|c| {
        if let Change::Left(name) = c {
            Some(name)
        } else {
            None
        }
    });
    if !joined.is_empty() {
        parts.push(format!("sends clients to {}", list(&joined, 8)));
    }
    if !out.is_empty() {
        parts.push(format!("sends no more to {}", list(&out, 8)));
    }
    if !parts.is_empty() {
        let text = format!("{who}: {}", parts.join("; "));
        listener.event(&Event::Clients { text });
    }
}

/// What a run has said already: nothing is said twice in a row.
#[derive(Default)]
pub(super) struct Told {
    unseen: HashMap<Label, String>,
    waits: Vec<String>,
}

impl Told {
    pub(super) fn unseen(&mut self, inventory: &Inventory, listener: &Arc<dyn Listener>) {
        for host in &inventory.hosts {
            if let View::Unseen { reason } = &host.view
                && self.unseen.insert(host.name.clone(), reason.clone()).is_none()
            {
                listener.event(&Event::HostUnseen {
                    host: host.name.clone(),
                    reason: reason.clone(),
                });
            }
        }
    }

    pub(super) fn waits(&mut self, waits: &[Wait], listener: &Arc<dyn Listener>) {
        let waits = waits.iter().filter(|w| !matches!(w, Wait::HostUnseen { .. }));
        let waits = sentences(&waits.cloned().collect::<Vec<_>>());
        for text in waits.iter().filter(|text| !self.waits.contains(text)) {
            listener.event(&Event::Waiting { text: text.clone() });
        }
        self.waits = waits;
    }
}
