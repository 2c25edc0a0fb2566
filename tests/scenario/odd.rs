//! Situations that no command of the stage brings about: what others do to domains and stores.
#![allow(
    dead_code,
    reason = "not every test program that includes scenarios has such situations"
)]

use std::sync::Arc;

use vmss::hypervisor::Hosts as _;
use vmss::names::{InstanceId, Label, PoolMark};
use vmss::record::Record;
use vmss::store::Store;

use super::Outcome;
use super::parse::words;
use super::theatre::Theatre;

/// A set of so many instances on two hosts of two fault domains.
pub fn made(capacity: u32) -> Theatre {
    let mut theatre = Theatre::new();
    for line in ["host rack-a kvm1", "host rack-b kvm2"] {
        assert_eq!(theatre.command(line).0, 0, "{line}");
    }
    theatre.command(&format!("define {capacity}"));
    said(&theatre, "create", 0);
    theatre
}

/// Runs vmss, which must end so; what it said, stdout first.
pub fn said(theatre: &Theatre, args: &str, exit: u8) -> String {
    let (code, stdout, stderr): Outcome = theatre.vmss(&words(args).unwrap());
    let text = format!("{stdout}{stderr}");
    assert_eq!(code, exit, "vmss {args}:\n{text}");
    text
}

fn web() -> Label {
    Label::new("web").unwrap()
}

fn store(theatre: &Theatre) -> Arc<dyn Store> {
    theatre.store("state.db")
}

/// The set's record.
pub fn record(theatre: &Theatre) -> Record {
    store(theatre).get(&web()).unwrap().unwrap().0
}

/// The record is another from now on, as after a restore.
pub fn put(theatre: &Theatre, record: &Record) {
    let store = store(theatre);
    let (_, version) = store.get(&web()).unwrap().unwrap();
    store.put(&web(), record, Some(version)).unwrap();
}

/// Each host marks its pool as one of its own.
pub fn mark_pools(theatre: &Theatre) {
    let (fleet, record) = (Arc::clone(&theatre.stage.fleet), record(theatre));
    for (_, host) in record.applied.hosts() {
        let mark = PoolMark::new(record.store, &host.uri);
        fleet.host(host, &record.applied.limits).mark_pool(&mark).unwrap();
    }
}

/// Ids of the instances on a host, by its domains.
pub fn ids(theatre: &Theatre, host: &str) -> Vec<InstanceId> {
    let domains = theatre.stage.fleet.domains(host);
    let notes = domains.iter().filter_map(|d| d.meta.as_ref());
    let mut ids: Vec<InstanceId> = notes.map(|m| m.id).collect();
    ids.sort_unstable();
    ids
}
