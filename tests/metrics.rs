//! The metrics of `vmss run --metrics` on private libvirtd daemons, as a real Prometheus scrapes them.

#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;

use serde_json::Value;
use support::prometheus::{Prometheus, Running, free_port, get};
use support::{Runs as _, Stage, wait_for};

/// `vmss run` with these arguments and `--metrics` at a port that the system chooses; and where that is, as vmss says it.
fn controller(stage: &Stage, args: &str) -> (Running, SocketAddr) {
    let mut child = stage
        .command(&format!("run --interval 1s --metrics 127.0.0.1:0 {args}"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = child.stderr.take().unwrap();
    let child = Running(child);
    let mut told = BufReader::new(stderr).lines().map_while(Result::ok);
    let line = told.find(|line| line.contains("metrics at http://"));
    let line = line.expect("vmss says where its metrics are");
    let address = line
        .split("http://")
        .nth(1)
        .and_then(|rest| rest.strip_suffix("/metrics"));
    let address = address.unwrap().parse().unwrap();
    // Read on, or vmss would wait for somebody who does.
    thread::spawn(move || told.for_each(drop));
    (child, address)
}

fn page(address: SocketAddr) -> String {
    get(&format!("http://{address}/metrics")).expect("the metrics are there as long as vmss runs")
}

/// The value of a sample as it stands on a page.
fn value<'p>(page: &'p str, sample: &str) -> Option<&'p str> {
    page.lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))
}

#[test]
fn prometheus_scrapes_the_controller_and_sees_what_changes() {
    let stage = Stage::new(&[1, 1]);
    stage.expect(0, "create");
    let (_vmss, address) = controller(&stage, "");
    let prometheus = Prometheus::start(stage.folder.path(), address, free_port());
    let sees = |what: &str, query: &str, wanted: &str| prometheus.wait_to_see(what, query, wanted);
    sees("vmss to be up", "up{job=\"vmss\"}", "1");
    sees("the capacity", "vmss_capacity{set=\"web\"}", "6");
    sees(
        "six healthy",
        "vmss_instances{set=\"web\",state=\"healthy\"}",
        "6",
    );
    sees("both hosts", "sum(vmss_host_up{set=\"web\"})", "2");
    sees(
        "the spread",
        "max(vmss_instances_on_host) - min(vmss_instances_on_host)",
        "0",
    );
    stage.expect(0, "scale 8 --wait-lock 60s");
    sees("the new capacity", "vmss_capacity{set=\"web\"}", "8");
    sees(
        "eight healthy",
        "vmss_instances{set=\"web\",state=\"healthy\"}",
        "8",
    );
    // What breaks is mended, and that is counted; queries of the dashboard have what they need.
    let gone = stage.daemons[0]
        .connection()
        .lookup_domain_by_name("web-1")
        .unwrap();
    gone.destroy().unwrap();
    let starts = "sum(vmss_steps_total{set=\"web\",verb=\"start\",result=\"done\"})";
    sees("the start", starts, "1");
    let looks = "histogram_quantile(0.99, sum by (le) (vmss_look_seconds_bucket)) > bool 0";
    sees("the time of looks", looks, "1");
    let calls = "count(count by (host) (vmss_libvirt_call_seconds_count{kind=\"list-domains\"}))";
    sees("the calls of both hosts", calls, "2");
    let text = page(address);
    assert!(!text.contains("kind=\"other\""), "a call has no kind: {text}");
}

#[test]
fn a_set_that_is_deleted_is_gone_from_the_metrics_and_the_controller_goes_on() {
    let stage = Stage::new(&[1]);
    stage.expect(0, "create");
    let (_vmss, address) = controller(&stage, "--all");
    let capacity = "vmss_capacity{set=\"web\"}";
    wait_for("the set", || value(&page(address), capacity) == Some("6"));
    stage.expect(0, "delete --yes --wait-lock 60s");
    wait_for("the set to be gone", || !page(address).contains("set=\"web\""));
    assert!(page(address).contains("vmss_build_info{"));
    stage.expect(0, "create");
    wait_for("the set to be there again", || {
        value(&page(address), capacity) == Some("6")
    });
}

#[test]
fn metrics_are_there_while_a_host_hangs_and_say_so() {
    let stage = Stage::new(&[1, 1]);
    stage.define(&[1, 1], 6, "[limits]\ncall_timeout = \"2s\"\n");
    stage.expect(0, "create");
    let (_vmss, address) = controller(&stage, "");
    let up = "vmss_host_up{set=\"web\",host=\"kvm2\"}";
    wait_for("the host", || value(&page(address), up) == Some("1"));
    stage.daemons[1].signal("STOP");
    wait_for("the host to be down", || value(&page(address), up) == Some("0"));
    let text = page(address);
    assert_eq!(value(&text, "vmss_host_up{set=\"web\",host=\"kvm1\"}"), Some("1"));
    assert_eq!(
        value(&text, "vmss_instances{set=\"web\",state=\"unknown\"}"),
        Some("3")
    );
    assert_eq!(value(&text, "vmss_host_vcpus{set=\"web\",host=\"kvm2\"}"), None);
}

#[test]
fn clients_that_say_nothing_hold_up_nothing() {
    let stage = Stage::new(&[1]);
    stage.expect(0, "create");
    let (_vmss, address) = controller(&stage, "");
    let silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    let gone = stage.daemons[0]
        .connection()
        .lookup_domain_by_name("web-1")
        .unwrap();
    gone.destroy().unwrap();
    wait_for("the controller to start it", || {
        stage.daemons[0].running().contains(&"web-1".to_owned())
    });
    drop(silent);
    wait_for("the metrics", || {
        let started = "vmss_steps_total{set=\"web\",verb=\"start\",result=\"done\"}";
        value(&page(address), started) == Some("1")
    });
}

#[test]
fn an_address_that_can_not_be_had_is_an_error_before_anything_is_tended() {
    let stage = Stage::new(&[1]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let refused = stage.expect(1, &format!("run --all --metrics {address}"));
    let told = refused.stderr;
    assert!(
        told.contains(&format!("serving metrics at {address}: Address already in use")),
        "{told}"
    );
    assert!(told.contains("hint: ") && !told.contains("tending"), "{told}");
    // An address of nobody here (TEST-NET-1).
    let refused = stage.expect(1, "run --all --metrics 192.0.2.1:9750");
    assert!(
        refused.stderr.contains("Cannot assign requested address"),
        "{}",
        refused.stderr
    );
    let refused = stage.expect(2, "run --all --metrics localhost:9750");
    assert!(
        refused.stderr.contains("such as 127.0.0.1:9750 or [::]:9750"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_rollout_shows_batch_by_batch_and_not_only_at_its_end() {
    let stage = Stage::new(&[1, 1]);
    // One instance, and then such a pause that the test is over before the next.
    stage.define(&[1, 1], 6, "[upgrade]\nmax_batch = 1\npause = \"30m\"\n");
    stage.expect(0, "create");
    std::fs::write(stage.path("image.raw"), support::disk(8)).unwrap();
    let is_noted = |line: &str| line.contains("\"rollout\"");
    assert!(stage.kill_when("apply", is_noted), "somebody else carries it out");
    let (_vmss, address) = controller(&stage, "");
    let new = "vmss_instances_by_revision{set=\"web\",revision=\"2\"}";
    wait_for("the first batch", || value(&page(address), new) == Some("1"));
    let text = page(address);
    assert_eq!(
        value(&text, "vmss_instances_by_revision{set=\"web\",revision=\"1\"}"),
        Some("5")
    );
    assert_eq!(value(&text, "vmss_instances_outdated{set=\"web\"}"), Some("5"));
    assert_eq!(value(&text, "vmss_rollout_open{set=\"web\"}"), Some("1"));
    assert_eq!(
        value(&text, "vmss_rollout_target_revision{set=\"web\"}"),
        Some("2")
    );
    assert_eq!(
        value(&text, "vmss_ticks_total{set=\"web\",result=\"converged\"}"),
        None
    );
}

/// The circle closed: the controller tells Prometheus of the set, and a rule of the set asks Prometheus.
#[test]
fn what_prometheus_answers_feeds_a_rule_until_it_is_gone() {
    let stage = Stage::new(&[1, 1]);
    stage.expect(0, "create");
    let (vmss, address) = controller(&stage, "");
    let prometheus = Prometheus::start(stage.folder.path(), address, free_port());
    let url = prometheus.url.clone();
    let policy = format!(
        "[autoscale]\nmin = 2\nmax = 9\nprometheus = \"{url}\"\nwarm_up = \"0s\"\nstabilization = \"0s\"\n\
         [autoscale.metrics.size]\nprometheus = \"max(vmss_instances{{set=\\\"web\\\",state=\\\"healthy\\\"}})\"\n\
         [[autoscale.rules]]\nwhen = \"size < 8 last 0s\"\nscale = \"out 1\"\ncooldown = \"0s\"\n\
         [[autoscale.rules]]\nwhen = \"size > 100 last 0s\"\nscale = \"in 1\"\n"
    );
    stage.define(&[1, 1], 6, &policy);
    stage.expect(0, "apply --wait-lock 60s");
    let sees = |what: &str, query: &str, wanted: &str| prometheus.wait_to_see(what, query, wanted);
    sees("eight or more", "vmss_capacity{set=\"web\"} >= bool 8", "1");
    sees("the policy", "vmss_autoscale_in_force{set=\"web\"}", "1");
    let outs = "vmss_autoscale_decisions_total{set=\"web\",direction=\"out\"} >= bool 2";
    sees("the decisions", outs, "1");
    // What Prometheus remembers of it is a load to try the policy on.
    let tried = stage.expect(
        0,
        "autoscale simulate -o json --prometheus size=max(vmss_capacity) --from 10m",
    );
    let tried: Value = serde_json::from_str(&tried.stdout).unwrap();
    assert_eq!(tried[0]["metric"], "size", "{tried}");
    drop(vmss);
    drop(prometheus);
    let capacity = || {
        let shown: Value = serde_json::from_str(&stage.expect(0, "show -o json").stdout).unwrap();
        shown["report"]["wanted"].as_u64().unwrap()
    };
    let before = capacity();
    let blind = stage.expect(4, "autoscale --quiet");
    assert!(
        blind.stderr.contains("connection refused") && blind.stderr.contains(&url),
        "{}",
        blind.stderr
    );
    assert_eq!(capacity(), before);
}
