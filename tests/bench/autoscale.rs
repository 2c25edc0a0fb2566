//! What autoscaling costs: a look at 1,000 instances over 20 libvirtd daemons that serve libvirt's test driver, a decision
//! among 100,000 samples, a week at one-minute steps.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints its figures"
)]

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use support::{Runs as _, Stage};
use vmss::autoscale::simulate::{Conditions, simulate};
use vmss::autoscale::trace::Point;
use vmss::autoscale::{Autoscale, Readings, Sample, Samples, Situation, State, Trace, decide, predict};
use vmss::names::Label;
use vmss::store::Store as _;
use vmss::store::sqlite::Sqlite;

/// Serves one number as JSON, to whoever asks; returns its port.
fn number() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n50");
        }
    });
    port
}

fn took(stage: &Stage, args: &str, exit: i32) -> Duration {
    let began = Instant::now();
    let mut command = stage.command(args);
    let status = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(exit), "vmss {args}");
    began.elapsed()
}

fn policy(text: &str) -> Autoscale {
    let definition = vmss::definition::template("web") + "\n[autoscale]\nmin = 1\nmax = 1000\n" + text;
    let set = vmss::definition::parse(&definition, Path::new("x.toml")).unwrap();
    set.autoscale.unwrap()
}

fn minute(n: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + 60 * n).unwrap()
}

/// A load with days and weeks in it, in per cent of one instance.
fn load(minute: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a minute of a year")]
    let day = (minute % 1440) as f64 / 1440.0;
    let week = if minute / 1440 % 7 < 5 { 1.0 } else { 0.6 };
    week * (600.0 + 500.0 * (day * std::f64::consts::TAU).sin())
}

fn tick() {
    let racks = [4; 5];
    let stage = Stage::new(&racks);
    let port = number();
    let elsewhere = format!("metric = {{ http = \"http://127.0.0.1:{port}/\" }}");
    let section = |target: &str| {
        format!(
            "\n[autoscale]\nmin = 1000\nmax = 1000\nwarm_up = \"0s\"\n[autoscale.target]\n{target}\nvalue = 50\nwindow = \"0s\"\n"
        )
    };
    stage.define(&racks, 1000, &section(&elsewhere));
    took(&stage, "create --progress none", 0);
    let one = (0..5).map(|_| took(&stage, "autoscale", 0)).min().unwrap();
    stage.define(&racks, 1000, &section("metric = \"host.cpu\""));
    took(&stage, "apply", 0);
    // The test driver measures no CPUs: every host is asked, and says so.
    let hosts = (0..5).map(|_| took(&stage, "autoscale", 4)).min().unwrap();
    println!("1,000 instances on 20 hosts (test driver), whole process");
    println!("  vmss autoscale, a number from elsewhere   {one:>10.3?}");
    println!("  vmss autoscale, every host is asked       {hosts:>10.3?}");
}

fn decision() {
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&folder.path().join("state.db")).unwrap();
    let set = Label::new("web").unwrap();
    // Two days of two metrics every few seconds: 100,000 samples that are kept whole.
    let samples: Vec<Sample> = (0..50_000_i64)
        .flat_map(|n| {
            let at = minute(0)
                .checked_add(SignedDuration::from_millis(3_400 * n))
                .unwrap();
            ["host.cpu", "lb.requests"].map(|m| Sample::each(m, at, load(n / 18) / 12.0, 12).unwrap())
        })
        .collect();
    let now = samples[samples.len() - 1].at;
    store.measured(&set, &samples, &Readings::default(), now).unwrap();
    let policy = policy(
        "rules = [{ when = \"host.cpu > 75 avg 24h\", change = \"+1\" }, { when = \"host.cpu < 10 avg 24h\", change = \"-1\" }]\n\
         target = { metric = \"host.cpu\", value = 60, window = \"5m\" }\n[autoscale.predict]\npattern = \"daily\"",
    );
    let best = |work: &mut dyn FnMut()| {
        let time = |_| {
            let began = Instant::now();
            work();
            began.elapsed()
        };
        (0..7).map(time).min().unwrap()
    };
    let mut read = Samples::default();
    let reading = best(&mut || read = store.samples(&set, Timestamp::MIN).unwrap().into_iter().collect());
    let next = Sample::each("host.cpu", now, 50.0, 12).unwrap();
    let writing = best(&mut || {
        store
            .measured(&set, std::slice::from_ref(&next), &Readings::default(), now)
            .unwrap();
    });
    let state = State::default();
    let problems = BTreeMap::new();
    let deciding = best(&mut || {
        let outlook = predict::outlook(&policy, &read, now);
        let decision = decide(Situation {
            policy: &policy,
            state: &state,
            samples: &read,
            problems: &problems,
            capacity: 12,
            unseen: &[],
            protected: 0,
            pin: None,
            outlook: outlook.as_ref(),
            measured: now,
            now,
        });
        assert!(!decision.is_blind(), "{}", decision.reason);
    });
    println!("100,000 samples");
    println!("  read them all from the store              {reading:>10.3?}");
    println!("  keep one more                             {writing:>10.3?}");
    println!("  decide, windows of 24 h, looking ahead    {deciding:>10.3?}");
}

fn week() {
    let points = |minutes: i64| {
        let point = |n| Point {
            at: minute(n),
            loads: vec![Some(load(n))],
        };
        Trace {
            metrics: vec!["host.cpu".to_owned()],
            points: (0..minutes).map(point).collect(),
        }
    };
    let conditions = Conditions {
        start_up: Duration::from_secs(120),
        interval: Duration::from_secs(60),
        capacity: None,
    };
    let usual = policy("target = { metric = \"host.cpu\", value = 60, window = \"5m\" }");
    let ahead = policy(
        "target = { metric = \"host.cpu\", value = 60, window = \"5m\" }\n[autoscale.predict]\nmode = \"scale\"\nlead = \"10m\"",
    );
    let time = |policy: &Autoscale, minutes| {
        let trace = points(minutes);
        let once = |_| {
            let began = Instant::now();
            let run = simulate(policy, &trace, conditions);
            assert_eq!(run.steps.len(), usize::try_from(minutes).unwrap());
            began.elapsed()
        };
        (0..5).map(once).min().unwrap()
    };
    println!("simulate, one-minute steps");
    println!(
        "  a week                                    {:>10.3?}",
        time(&usual, 7 * 1440)
    );
    println!(
        "  a week, looking ahead                     {:>10.3?}",
        time(&ahead, 7 * 1440)
    );
    println!(
        "  100,000 minutes (ten weeks)               {:>10.3?}",
        time(&usual, 100_000)
    );
}

fn main() {
    week();
    decision();
    tick();
}
