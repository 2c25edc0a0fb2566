//! `vmss instances` on 1,000 instances over 20 libvirtd daemons that serve libvirt's test driver.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints its figures"
)]

#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use support::{Runs as _, Stage};
use vmss::hypervisor::Watch;
use vmss::hypervisor::libvirt::LibvirtHosts;
use vmss::observe::observe;
use vmss::ownership::sort_out;
use vmss::plan::{Experience, Situation, plan};
use vmss::store::Store as _;
use vmss::store::sqlite::Sqlite;

/// Runs vmss to its end: how long it took, and the most memory it held.
#[expect(clippy::zombie_processes, reason = "wait4 reaps it, and tells what it used")]
fn measured(stage: &Stage, args: &str) -> (Duration, u64) {
    let began = Instant::now();
    let child = stage
        .command(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zero is a value; both places live longer than the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::wait4(pid, &raw mut status, 0, &raw mut usage), pid);
        usage
    };
    assert_eq!(status, 0, "vmss {args}");
    (began.elapsed(), u64::try_from(usage.ru_maxrss).unwrap())
}

fn main() {
    let racks = [4; 5];
    let stage = Stage::new(&racks);
    stage.define(&racks, 1000, "");
    let (create, _) = measured(&stage, "create --progress none");
    assert_eq!(stage.ids().len(), 1000);
    let best = |args: &str| (0..5).map(|_| measured(&stage, args)).min().unwrap();
    let (instances, memory) = best("instances -o json");
    let (planned, _) = best("plan");

    let store = Sqlite::open(Path::new(&stage.path("state.db"))).unwrap();
    let set = vmss::names::Label::new("web").unwrap();
    let (mut record, _) = store.get(&set).unwrap().unwrap();
    let scale_set = record.applied.clone();
    let on: Vec<_> = scale_set.hosts().map(|(_, h)| h.clone()).collect();
    let hosts = LibvirtHosts::default();
    // The first observation connects; those after it are what a loop sees.
    let watch = Arc::new(Watch {
        set: set.clone(),
        stores: record.stores(),
        uuids: record.uuids(),
    });
    let look = || {
        let began = Instant::now();
        let inventory = observe(&hosts, &on, &scale_set.limits, &watch);
        assert_eq!(inventory.instances().count(), 1000, "each is seen");
        began.elapsed()
    };
    let fastest = || (0..9).map(|_| look()).min().unwrap();
    let mut inventory = observe(&hosts, &on, &scale_set.limits, &watch);
    let alone = fastest();
    sort_out(&record, &mut inventory);
    record.absorb(&inventory);
    let experience = Experience::default();
    let began = Instant::now();
    let made = plan(Situation {
        set: &scale_set,
        record: &record,
        inventory: &inventory,
        experience: &experience,
        now: Timestamp::UNIX_EPOCH,
        drawn: uuid::Uuid::nil(),
    });
    let plan_time = began.elapsed();
    assert!(made.steps.is_empty());

    println!("1,000 instances on 20 hosts (test driver)");
    println!("  create all                      {create:>10.3?}");
    println!("  vmss instances, whole process   {instances:>10.3?}");
    println!("  vmss plan, whole process        {planned:>10.3?}");
    println!("  observe, connected              {alone:>10.3?}");
    println!("  plan, nothing to do             {plan_time:>10.3?}");
    println!(
        "  peak memory of vmss instances   {:>7.1} MiB",
        memory as f64 / 1024.0
    );
    // Others' machines on every host: half of them run.
    for daemon in &stage.daemons {
        for n in 0..OTHERS {
            others_domain(daemon, n);
        }
    }
    look();
    let among = fastest();
    println!("  observe, with {OTHERS} domains of other people on each host {among:>10.3?}");
    println!(
        "  with them, as a multiple of without them: {:.2} in all, {:.1} us for each",
        among.as_secs_f64() / alone.as_secs_f64(),
        among.saturating_sub(alone).as_secs_f64() * 1e6 / (OTHERS * stage.daemons.len()) as f64
    );
    std::mem::forget(hosts);
}

/// Domains of other people on each host.
const OTHERS: usize = 1000;

/// Somebody else's domain; every second one runs.
fn others_domain(daemon: &support::Daemon, n: usize) {
    let xml = format!(
        "<domain type='test'><name>other-{n}</name><memory>1024</memory><os><type>hvm</type></os></domain>"
    );
    let domain = daemon.connection().define_domain_xml(&xml).unwrap();
    if n.is_multiple_of(2) {
        domain.create().unwrap();
    }
}
