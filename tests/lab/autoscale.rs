//! A set that follows its load: guests that burn, clients that ask, a number of Prometheus. And what can't be seen makes
//! nothing smaller.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::balancer::{frontends, served};
use super::{Lab, lab};
use crate::support::number::Number;
use crate::support::prometheus::{Prometheus, Running, free_port};
use crate::support::{Runs as _, wait_for, wait_to_hear};

/// Emulated guests answer with a tenth of a second of their CPU or more: looked at all the time they would never idle. On
/// a slow machine it takes longer until they do.
const BETWEEN_LOOKS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(16)];

/// `[autoscale]` within these bounds that acts at once and counts every instance; `more` is what it acts on. A guest that
/// still boots when it is to go does not hear that it should: it is not waited for.
fn policy(min: u32, max: u32, more: &str) -> String {
    format!(
        "\n[scale_in]\nshutdown = \"2s\"\n\
         [autoscale]\nmin = {min}\nmax = {max}\nwarm_up = \"0s\"\nstabilization = \"0s\"\n{more}"
    )
}

/// A rule on what was measured last.
fn rule(condition: &str, scale: &str) -> String {
    format!("[[autoscale.rules]]\nwhen = \"{condition} last 0s\"\nscale = \"{scale}\"\ncooldown = \"0s\"\n")
}

impl Lab {
    /// Adds to the definition.
    fn define(&self, more: &str) {
        let path = self.folder.path().join("scaleset.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}\n{more}")).unwrap();
    }

    fn capacity(&self) -> u64 {
        let status = self.expect(0, "autoscale status -o json").json();
        status["capacity"].as_u64().expect("the status has the capacity")
    }

    /// Evaluates and acts once, and expects an exit code and the capacity after it. Returns what was said.
    #[track_caller]
    fn evaluate(&self, exit: i32, capacity: u64) -> String {
        let said = self.expect(exit, "autoscale").stderr;
        assert_eq!(
            self.capacity(),
            capacity,
            "another capacity than {capacity} came of it: {said}"
        );
        said
    }

    /// Evaluates and acts until that is said, well each time.
    #[track_caller]
    fn evaluate_until(&self, what: &str) {
        let [mut pause, longest] = BETWEEN_LOOKS;
        wait_to_hear(what, || {
            thread::sleep(pause);
            pause = (pause * 2).min(longest);
            self.expect(0, "autoscale").stderr
        });
    }

    /// Runs a script in every guest, once all agents answer.
    fn in_guests(&self, script: &str) {
        wait_for("the guests' agents", || {
            let mut command = self.command("instance exec --all --");
            command.args(["sh", "-c", script]);
            command.output().unwrap().status.success()
        });
    }

    /// What vmss would decide now.
    fn considered(&self) -> Value {
        self.expect(0, "autoscale explain --now -o json").json()
    }
}

/// Everything that hosts measure of instances, and that guests say of themselves, other than how busy they are.
const QUIET: [&str; 10] = [
    "host.memory",
    "host.disk.read_bytes",
    "host.disk.write_bytes",
    "host.disk.reads",
    "host.disk.writes",
    "host.network.receive_bytes",
    "host.network.send_bytes",
    "guest.memory",
    "guest.load",
    "guest.disk",
];

/// A metric's value in a decision, if each instance has one and nothing is the matter.
fn value(decision: &Value, metric: &str) -> Option<f64> {
    let mut measured = decision["measured"].as_array().unwrap().iter();
    let found = measured.find(|m| m["metric"] == metric)?;
    let is_whole = found["missing"] == 0 && found["problem"].is_null();
    found["value"].as_f64().filter(|_| is_whole)
}

/// How many rules and targets on `metric` want more instances.
fn wanting_more(decision: &Value, metric: &str) -> usize {
    let verdicts = decision["verdicts"].as_array().unwrap().iter();
    let of_metric = verdicts.filter(|v| v["rule"].as_str().unwrap().starts_with(metric));
    of_metric.filter(|v| v["wants"] == "out").count()
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn guests_that_burn_raise_the_capacity_and_lower_it_when_they_idle() {
    let lab = Lab::new(2, "", "");
    // Limits that two guests reach and leave on a machine that has others to serve as well.
    let busy = ["host.cpu", "guest.cpu"]
        .map(|metric| rule(&format!("{metric} > 30"), "out 1") + &rule(&format!("{metric} < 20"), "in 1"));
    // What is needed for a decision has to be measured before the set shrinks: each of them is asked for.
    let quiet = QUIET.map(|metric| rule(&format!("{metric} > 1000000000000"), "out 1"));
    lab.define(&policy(2, 3, &(busy.concat() + &quiet.concat())));
    lab.expect(0, "create");
    lab.in_guests("true");
    // Rates are known at the second look.
    lab.evaluate(0, 2);
    for metric in QUIET.iter().chain(&["host.cpu", "guest.cpu"]) {
        let mut found = None;
        wait_for(&format!("a value of {metric}"), || {
            found = value(&lab.considered(), metric);
            found.is_some()
        });
        let is_share = metric.starts_with("guest.") && *metric != "guest.load";
        assert!(
            found.is_some_and(|value| value >= 0.0 && (!is_share || value < 100.1)),
            "{metric} can't be {found:?}"
        );
    }

    lab.in_guests("yes </dev/null >/dev/null 2>&1 &");
    wait_for("hosts and guests to find the guests busy", || {
        let decision = lab.considered();
        ["host.cpu", "guest.cpu"]
            .iter()
            .all(|metric| wanting_more(&decision, metric) == 1)
    });
    let said = lab.evaluate(0, 3);
    assert!(said.contains("web: out from 2 to 3: host.cpu is "), "{said}");
    assert_eq!(lab.counts(), [1, 1, 1], "the third is there");

    lab.in_guests("killall -q yes; true");
    lab.evaluate_until("web: in from 3 to 2: ");
    assert_eq!((lab.capacity(), lab.counts().iter().sum::<usize>()), (2, 2));
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn with_a_host_frozen_or_dead_nothing_shrinks_however_low_its_load() {
    let lab = Lab::new(2, "", "");
    let rule = rule("host.cpu < 50", "in 1");
    lab.define(&policy(1, 2, &rule));
    lab.define("[limits]\ncall_timeout = \"3s\"\n");
    lab.expect(0, "create");
    lab.all_answer(2);
    let out_of_sight = "stays at 2: in to 1 is held back: host kvm2 is out of sight";
    for (fault, why) in [("freeze", "no answer within"), ("kill", "Connection refused")] {
        self::lab(&[fault, "kvm2"]);
        // A rate is known at the second look.
        let mut said = String::new();
        wait_for("the load to be low", || {
            said = lab.evaluate(4, 2);
            said.contains(out_of_sight)
        });
        assert!(
            said.contains("! host kvm2 is out of sight: connecting to ") && said.contains(why),
            "why it is out of sight is said: {said}"
        );
        if fault == "freeze" {
            self::lab(&["thaw", "kvm2"]);
        }
    }
    self::lab(&["start", "kvm2"]);
    lab.evaluate_until("in from 2 to 1: host.cpu is ");
    assert_eq!((lab.capacity(), lab.counts().iter().sum::<usize>()), (1, 1));
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
}

/// Requests on the set's frontend, as many as are answered, until it is dropped.
fn requests() -> Running {
    let [http, _] = frontends();
    let child = Command::new("wrk")
        .args(["-t1", "-c2", "-d10m"])
        .arg(format!("http://{http}/"))
        .stdout(Stdio::null())
        .spawn()
        .expect("tests/run installs wrk");
    Running(child)
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn requests_raise_the_capacity_and_their_end_lowers_it() {
    let lab = served(2, "run = \"local\"");
    let target = "target = { metric = \"lb.requests\", value = 20, window = \"0s\", cooldown = \"0s\" }\n";
    lab.define(&policy(2, 3, target));
    lab.expect(0, "create");
    lab.evaluate(0, 2);
    let requests = requests();
    lab.evaluate_until("web: out from 2 to 3: lb.requests is ");
    assert_eq!(lab.capacity(), 3);
    // Those that clients ask now are three.
    wait_for("the third to be asked", || {
        let shown = lab.expect(0, "lb show -o json").json();
        let servers = shown["balancers"][0]["servers"].as_array().unwrap().clone();
        let http: Vec<&Value> = servers.iter().filter(|s| s["frontend"] == "http").collect();
        http.len() == 3 && http.iter().all(|s| s["requests"].as_u64() > Some(0))
    });
    drop(requests);
    lab.evaluate_until("web: in from 3 to 2: lb.requests is ");
    assert_eq!((lab.capacity(), lab.counts().iter().sum::<usize>()), (2, 2));
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn a_number_of_prometheus_raises_and_lowers_the_capacity_and_its_end_does_neither() {
    let lab = Lab::new(2, "", "");
    let demand = Number::new(40);
    let (folder, port) = (lab.folder.path(), free_port());
    let prometheus = Prometheus::start(folder, demand.address, port);
    let now = |prometheus: &Prometheus, value: u32| {
        demand.set(value);
        prometheus.wait_to_see("the demand", "sum(demand)", &value.to_string());
    };
    let query = format!(
        "prometheus = \"{}\"\n[autoscale.metrics.demand]\nprometheus = \"sum(demand)\"\nof = \"instance\"\n",
        prometheus.url
    );
    let rules = rule("demand > 50", "out 1") + &rule("demand < 20", "in 1");
    lab.define(&policy(1, 3, &(query + &rules)));
    lab.expect(0, "create");
    now(&prometheus, 40);
    let said = lab.evaluate(0, 2);
    assert!(said.contains("demand is 40, and no rule fires"), "{said}");
    now(&prometheus, 90);
    let said = lab.evaluate(0, 3);
    assert!(
        said.contains("web: out from 2 to 3: demand is 90 (> 50)"),
        "{said}"
    );
    now(&prometheus, 10);
    let said = lab.evaluate(0, 2);
    assert!(
        said.contains("web: in from 3 to 2: demand is 10 (< 20)"),
        "{said}"
    );

    // What was measured last would do to shrink further: it is none of now.
    drop(prometheus);
    let said = lab.evaluate(4, 2);
    assert!(
        said.contains("web: stays at 2: ") && said.contains("connection refused"),
        "{said}"
    );
    assert_eq!(lab.counts().iter().sum::<usize>(), 2, "nothing was deleted");
    let prometheus = Prometheus::start(folder, demand.address, port);
    now(&prometheus, 10);
    let said = lab.evaluate(0, 1);
    assert!(said.contains("web: in from 2 to 1: demand is 10"), "{said}");
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
}
