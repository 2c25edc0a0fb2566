use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::autoscale::{Autoscale, Decision, Disabled, Measured, Move};

use super::*;
use crate::health::{Sign, Vital};
use crate::inventory::{HostView, Power};
use crate::membership::{BalancerSeen, BalancerView, ServerSeen, Sight as Seen};
use crate::names::InstanceId;
use crate::plan::testing::{Scene, at, label};
use crate::rollout::{Rollout, RolloutState};
use crate::scaleset::{Probe, Upgrade};

fn sight(scene: &Scene) -> Sight<'_> {
    Sight {
        record: &scene.record,
        inventory: &scene.inventory,
        now: at(1_700_000_000),
    }
}

/// The page after one look at a scene.
fn page(scene: &Scene) -> String {
    let exporter = Exporter::new();
    exporter.take(sight(scene));
    exporter.text()
}

/// The samples of one metric, in order: `{labels} value`.
fn samples(page: &str, metric: &str) -> Vec<String> {
    let of_this = page.lines().filter_map(|line| line.strip_prefix(metric));
    let samples = of_this.filter(|rest| rest.starts_with(['{', ' ']));
    samples.map(str::to_owned).collect()
}

fn server(id: u64, up: Option<bool>) -> ServerSeen {
    ServerSeen {
        frontend: label("http"),
        id: InstanceId(id),
        address: None,
        is_in: up != Some(false),
        up,
        weight: 1,
        connections: id,
        requests: 100 * id,
        errors: 0,
        limit: 0,
        queue: 0,
        latency: None,
        last_check: String::new(),
    }
}

/// Three hosts of two fault domains, of which one went out of sight; instances of several states; a rollout that was
/// paused on its way from revision 1 to 2; two load balancers, one of them out of sight.
fn busy() -> Scene {
    let mut scene = Scene::new(&[2, 1]);
    scene.record.capacity = 6;
    scene.record.applied.health.probe = Probe::Tcp { port: 80 };
    for (host, id) in [("d0h0", 1), ("d0h1", 2), ("d1h0", 3), ("d0h0", 4)] {
        scene.add(host, id);
    }
    scene.add("d0h1", 5).power = Power::Crashed;
    for (id, sign) in [(1, Sign::Healthy), (2, Sign::Healthy), (4, Sign::Unhealthy)] {
        let vital = Vital {
            sign,
            ..Vital::new(at(5))
        };
        scene.record.vitals.insert(InstanceId(id), vital);
    }
    scene.lose("d1h0");
    let mut model = scene.record.current().model.clone();
    model.vcpus = 2;
    let target = scene.record.adopt_model(model, at(10));
    let stopped = scene.add("d0h0", 6);
    stopped.power = Power::Off;
    stopped.meta.stopped = true;
    let mut rollout = Rollout::new(1, (1, target), Upgrade::default(), "ann@ops1".to_owned(), at(10));
    rollout.state = RolloutState::Paused {
        by: "ann@ops1".to_owned(),
    };
    scene.record.rollout = Some(rollout);
    scene.record.repair.suspended = Some("three repairs in a row".to_owned());
    scene.inventory.balancers = vec![
        BalancerView {
            name: "local".to_owned(),
            sight: Seen::Seen(BalancerSeen {
                version: Some("2.6".to_owned()),
                servers: vec![server(1, Some(true)), server(2, None), server(4, Some(false))],
                queue: 0,
            }),
        },
        BalancerView {
            name: "unix:/run/\"b\"\\".to_owned(),
            sight: Seen::Unseen {
                reason: "connection refused".to_owned(),
            },
        },
    ];
    scene.absorb();
    scene
}

/// A set that is to grow by a metric, while another could not be measured.
fn decision() -> Decision {
    let measured = |metric: &str, value| Measured {
        metric: metric.to_owned(),
        value,
        shown: String::new(),
        instances: 4,
        missing: 0,
        problem: None,
    };
    Decision {
        at: at(1_700_000_001),
        from: 6,
        to: 7,
        reason: "out from 6 to 7: host.cpu is 82 % (> 75 %)".to_owned(),
        held: Vec::new(),
        profile: "default".to_owned(),
        min: 2,
        max: 20,
        default: 6,
        floor: None,
        recommended: 8,
        moved: Move::Bound,
        measured: vec![
            measured("host.cpu", Some(82.5)),
            measured("sum(jobs{a=\"b\"})", None),
        ],
        verdicts: Vec::new(),
        outlook: None,
    }
}

/// All metrics, each with a value.
fn whole() -> (Exporter, String) {
    let (exporter, scene) = (Exporter::new(), busy());
    exporter.take(sight(&scene));
    let set = &scene.set.name;
    exporter.looked(set, Duration::from_millis(30));
    exporter.run.stepped(set, "push image", true);
    exporter.run.stepped(set, "create", false);
    exporter.decided(set, &decision());
    exporter.ticked(set, Tick::Failed, at(1_700_000_001));
    let calls = exporter.calls();
    calls.ended("d0h0", "list-domains", Duration::from_micros(700));
    calls.failed("d0h0", "list-domains");
    let text = exporter.text();
    (exporter, text)
}

#[test]
fn a_busy_set_is_told_in_full() {
    let text = whole().1.replace(env!("CARGO_PKG_VERSION"), "[version]");
    insta::assert_snapshot!(text);
}

#[test]
fn prometheus_finds_nothing_to_say_against_the_metrics() {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    // Whoever has it not has not run tests/packages, and learns nothing here.
    let Ok(mut promtool) = promtool else { return };
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(whole().1.as_bytes()).unwrap();
    drop(stdin);
    let said = promtool.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && text.is_empty(), "{text}");
}

#[test]
fn every_metric_has_its_name_and_its_help() {
    let (exporter, text) = whole();
    for name in exporter.names() {
        assert!(name.starts_with("vmss_"), "{name}");
        assert!(
            text.contains(&format!("# HELP {name} ")),
            "{name} has no help: {text}"
        );
        assert!(
            text.contains(&format!("# TYPE {name} ")),
            "{name} is not told: {text}"
        );
    }
}

#[test]
fn a_set_without_instances_has_zeros_and_not_nothing() {
    let text = page(&Scene::new(&[1]));
    assert_eq!(samples(&text, "vmss_instances").len(), 6);
    assert!(
        samples(&text, "vmss_instances").iter().all(|s| s.ends_with(" 0")),
        "{text}"
    );
    assert_eq!(
        samples(&text, "vmss_instances_by_revision"),
        ["{set=\"web\",revision=\"1\"} 0"]
    );
    assert_eq!(
        samples(&text, "vmss_instances_on_host"),
        ["{set=\"web\",host=\"d0h0\",fault_domain=\"d0\"} 0"]
    );
    assert_eq!(samples(&text, "vmss_rollout_open"), ["{set=\"web\"} 0"]);
    assert_eq!(
        samples(&text, "vmss_rollout_target_revision"),
        Vec::<String>::new()
    );
}

#[test]
fn instances_of_a_lost_host_are_unknown_and_still_on_it() {
    let mut scene = Scene::new(&[1, 1]);
    scene.add("d0h0", 1);
    scene.add("d1h0", 2);
    scene.lose("d1h0");
    scene.absorb();
    let text = page(&scene);
    assert!(samples(&text, "vmss_instances").contains(&"{set=\"web\",state=\"unknown\"} 1".to_owned()));
    let there = "{set=\"web\",host=\"d1h0\",fault_domain=\"d1\"} 1".to_owned();
    assert!(
        samples(&text, "vmss_instances_on_host").contains(&there),
        "{text}"
    );
    assert!(samples(&text, "vmss_host_up").contains(&"{set=\"web\",host=\"d1h0\"} 0".to_owned()));
    assert_eq!(
        samples(&text, "vmss_host_memory_bytes").len(),
        1,
        "nobody knows the other's"
    );
}

#[test]
fn what_a_later_look_does_not_show_is_told_no_more() {
    let exporter = Exporter::new();
    let mut scene = busy();
    exporter.take(sight(&scene));
    scene.inventory.balancers.clear();
    scene
        .inventory
        .hosts
        .retain(|h: &HostView| h.name.as_str() != "d0h1");
    exporter.take(sight(&scene));
    let text = exporter.text();
    assert!(!text.contains("vmss_server_"), "{text}");
    assert!(
        samples(&text, "vmss_host_up").iter().all(|s| !s.contains("d0h1")),
        "{text}"
    );
}

#[test]
fn a_metric_is_missing_as_soon_as_one_rule_has_no_value_of_it() {
    let scene = busy();
    let of_cpu = |values: [Option<f64>; 2]| {
        let mut decision = decision();
        let measured = |value| Measured {
            value,
            ..decision.measured[0].clone()
        };
        decision.measured = values.map(measured).to_vec();
        let exporter = Exporter::new();
        exporter.decided(&scene.set.name, &decision);
        let text = exporter.text();
        let line = text
            .lines()
            .find(|l| l.starts_with("vmss_autoscale_metric_missing{"));
        line.unwrap().ends_with(" 1")
    };
    assert!(of_cpu([None, Some(82.5)]) && of_cpu([Some(82.5), None]));
    assert!(!of_cpu([Some(82.5), Some(80.0)]));
}

#[test]
fn a_policy_that_counts_no_more_is_told_no_more_but_for_what_it_came_to() {
    let policy = Autoscale {
        enabled: true,
        warm_up: Duration::ZERO,
        stabilization: Duration::ZERO,
        cooldown_out: None,
        cooldown_in: None,
        max_scale_in: None,
        profiles: Vec::new(),
        schedules: Vec::new(),
        prometheus: None,
        predict: None,
    };
    let told = |scene: &Scene| {
        let exporter = Exporter::new();
        exporter.decided(&scene.set.name, &decision());
        exporter.take(sight(scene));
        let text = exporter.text();
        let of_policy = text.lines().filter(|l| l.starts_with("vmss_autoscale_"));
        let mut names: Vec<String> = of_policy
            .map(|l| l.split(['{', ' ']).next().unwrap().to_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    };
    let mut scene = busy();
    let only = ["vmss_autoscale_decisions_total", "vmss_autoscale_in_force"];
    assert_eq!(told(&scene), only, "it was removed");
    scene.record.applied.autoscale = Some(policy);
    assert_eq!(told(&scene).len(), 7, "it counts");
    scene.record.autoscale.disabled = Some(Disabled {
        by: "ann@ops1".to_owned(),
        at: at(20),
    });
    assert_eq!(told(&scene), only, "it was switched off by hand");
    scene.record.autoscale.disabled = None;
    let policy = scene.record.applied.autoscale.as_mut().unwrap();
    policy.enabled = false;
    assert_eq!(told(&scene), only, "its definition has switched it off");
}

#[test]
fn a_set_that_is_gone_is_told_no_more_and_others_are() {
    let (exporter, _) = whole();
    let mut other = Scene::new(&[1]);
    other.record.applied.name = label("db");
    exporter.take(sight(&other));
    exporter.looked(&label("db"), Duration::from_secs(1));
    exporter.forget(&label("web"));
    let text = exporter.text();
    assert!(!text.contains("set=\"web\""), "{text}");
    assert_eq!(samples(&text, "vmss_capacity"), ["{set=\"db\"} 0"]);
    assert_eq!(samples(&text, "vmss_look_seconds_count"), ["{set=\"db\"} 1"]);
}

#[test]
fn ticks_are_counted_by_how_they_ended_from_zero() {
    let exporter = Exporter::new();
    let web = label("web");
    exporter.ticked(&web, Tick::Converged, at(1));
    exporter.ticked(&web, Tick::Converged, at(2));
    let text = exporter.text();
    let ticks = samples(&text, "vmss_ticks_total");
    assert_eq!(ticks.len(), 6, "{text}");
    assert!(
        ticks.contains(&"{set=\"web\",result=\"converged\"} 2".to_owned()),
        "{text}"
    );
    assert!(
        ticks.contains(&"{set=\"web\",result=\"error\"} 0".to_owned()),
        "{text}"
    );
}

#[test]
fn numbers_are_written_as_short_as_they_are() {
    let mut families = Families::default();
    let (gauge, counter) = (
        families.gauge("vmss_a", "A"),
        families.counter("vmss_b_total", "B"),
    );
    let values = [
        ("a", -3.0),
        ("b", 0.25),
        ("c", 1e300),
        ("d", 4_503_599_627_370_496.0),
    ];
    gauge.put(
        &label("s"),
        values.map(|(name, value)| (vec![("x", name.to_owned())], value)),
    );
    counter.add(&label("s"), Labels::new(), 7.0);
    let text = families.text();
    let shown: Vec<String> = samples(&text, "vmss_a");
    let shown: Vec<&str> = shown.iter().filter_map(|s| s.split(' ').nth(1)).collect();
    assert_eq!(shown, ["-3", "0.25", "1e300", "4503599627370496"], "{text}");
    assert_eq!(samples(&text, "vmss_b_total"), ["{set=\"s\"} 7"]);
}

#[test]
fn what_is_odd_is_told_by_its_kind() {
    let mut scene = Scene::new(&[1, 1]);
    let copy = scene.add("d0h0", 1).clone();
    scene.host("d1h0").instances.push(copy);
    scene.add("d0h0", 2);
    scene.record.known.remove(&InstanceId(2));
    scene.volume("d1h0", 3);
    scene.absorb();
    let page = page(&scene);
    let mut odd = samples(&page, "vmss_odd_domains");
    odd.sort();
    let there: Vec<&String> = odd.iter().filter(|line| !line.ends_with(" 0")).collect();
    assert_eq!(
        there,
        [
            "{set=\"web\",kind=\"double\"} 1",
            "{set=\"web\",kind=\"forgotten\"} 1"
        ]
    );
    assert_eq!(odd.len(), 13, "every kind is told");
    assert_eq!(
        samples(&page, "vmss_unclaimed_volumes"),
        ["{set=\"web\",host=\"d0h0\"} 0", "{set=\"web\",host=\"d1h0\"} 1"]
    );
    assert_eq!(samples(&page, "vmss_record_old"), ["{set=\"web\"} 0"]);
}
