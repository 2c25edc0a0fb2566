//! What is accepted, what is refused, and in which words.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::Cpu;
use crate::scaleset::{
    Amount, Health, Method, OnFailure, Probe, Repair, RepairAction, Unwilling, Upgrade, UpgradePolicy,
};

const GOOD: &str = r#"
name = "web"
[image]
source = "a.qcow2"
[instance]
memory = "1 GiB"
[[fault_domains]]
name = "a"
hosts = [{ name = "h1", uri = "qemu:///system" }]
"#;

fn problems(text: &str) -> Vec<String> {
    match parse(text, Path::new("/etc/vmss/web.toml")) {
        Ok(_) => Vec::new(),
        Err(e) => (e.errors.iter())
            .map(|p| {
                format!(
                    "{}:{} {}: {} | {}",
                    p.line,
                    p.column,
                    p.key,
                    p.message,
                    p.help.as_deref().unwrap_or("-")
                )
            })
            .collect(),
    }
}

#[test]
fn the_required_keys_are_enough() {
    let set = parse(GOOD, Path::new("/etc/vmss/web.toml")).unwrap();
    assert_eq!(set.capacity, 1);
    assert_eq!(set.hosts().count(), 1);
    assert_eq!(set.instance.cpu, Cpu::HostModel);
    assert!(
        matches!(&set.image, crate::scaleset::ImageSource::File { path, .. } if path == Path::new("/etc/vmss/a.qcow2"))
    );
}

#[test]
fn a_host_may_say_where_others_reach_it() {
    let with = |address: &str| {
        let host = format!("uri = \"qemu:///system\", migration_address = \"{address}\"");
        GOOD.replace("uri = \"qemu:///system\"", &host)
    };
    let set = parse(&with("fd00::11"), Path::new("x.toml")).unwrap();
    let addresses = set.hosts().map(|(_, h)| h.migration_address.as_deref());
    assert_eq!(addresses.collect::<Vec<_>>(), [Some("fd00::11")]);
    let found = problems(&with("tcp://kvm1"));
    assert!(
        found.len() == 1 && found[0].contains("hosts[0].migration_address"),
        "{found:?}"
    );
}

#[test]
fn the_template_and_the_example_are_valid() {
    let set = parse(&template("shop"), Path::new("x.toml")).unwrap();
    assert_eq!(set.name.as_str(), "shop");
    let example = include_str!("../../scaleset.toml.example");
    if let Err(e) = parse(example, Path::new("scaleset.toml.example")) {
        panic!("{}", render(&e, example, false));
    }
}

#[test]
fn the_definitions_under_examples_are_valid() {
    let text = include_str!("../../examples/web.toml");
    let set =
        parse(text, Path::new("examples/web.toml")).unwrap_or_else(|e| panic!("{}", render(&e, text, false)));
    assert_eq!(set.hosts().count(), 3);
    let user_data = include_str!("../../examples/cloud-init.yaml");
    assert!(crate::resolve::user_data(&set, user_data.to_owned()).is_ok());
}

/// What an editor checks by the schema and what vmss accepts are the same.
#[test]
fn the_schema_accepts_the_examples_and_refuses_what_the_reader_refuses() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let json = |text: &str| serde_json::to_value(toml::from_str::<toml::Value>(text).unwrap()).unwrap();
    for text in [
        GOOD,
        include_str!("../../scaleset.toml.example"),
        include_str!("init.toml"),
        include_str!("../../examples/web.toml"),
    ] {
        let errors: Vec<String> = validator
            .iter_errors(&json(text))
            .map(|e| e.to_string())
            .collect();
        assert_eq!(errors, Vec::<String>::new());
    }
    for change in [
        ("name = \"web\"", "name = \"We_b\""),
        ("memory = \"1 GiB\"", "memory = 1024"),
        ("memory = \"1 GiB\"", "memory = \"1 apple\""),
        ("memory = \"1 GiB\"", "memory = \"1 GiB\"\nclone = \"half\""),
        ("[image]", "capcity = 3\n[image]"),
        ("[image]", "[scale_in]\nprotect_new = \"yes\"\n[image]"),
        ("[image]", "[health]\nprobe = \"ping\"\n[image]"),
        (
            "[image]",
            "[health]\nprobe = \"agent\"\nhealthy_after = 11\n[image]",
        ),
        (
            "[image]",
            "[health]\nprobe = \"http\"\npath = \"healthz\"\n[image]",
        ),
        ("[image]", "[health]\nprobe = \"http\"\npath = \"/a b\"\n[image]"),
        ("[image]", "[health]\nprobe = \"tcp\"\nport = 0\n[image]"),
        ("[image]", "[upgrade]\nmax_batch = 0\n[image]"),
        ("[image]", "[upgrade]\nmax_batch = \"0%\"\n[image]"),
        ("[image]", "[upgrade]\nmax_unhealthy = \"101%\"\n[image]"),
        ("[image]", "[upgrade]\nmax_unhealthy = \"3\"\n[image]"),
        ("[image]", "[upgrade]\nmax_unhealthy = 0.2\n[image]"),
        ("[image]", "[upgrade]\nmax_unhealthy = -1\n[image]"),
        ("[image]", "[upgrade]\nprioritize_unhealthy = 1\n[image]"),
        ("[image]", "[repair]\nmax_concurrent = 0\n[image]"),
        ("[image]", "[repair]\naction = \"reboot\"\n[image]"),
        ("[image]", "[load_balancer]\nrun = \"local\"\n[image]"),
        (
            "[image]",
            "[load_balancer]\nrun = \"remote\"\nfrontends = [{ name = \"a\", bind = \"*:1\", port = 1 }]\n[image]",
        ),
        (
            "[image]",
            "[load_balancer]\nrun = \"local\"\nfrontends = [{ name = \"a\", bind = \"*:1\", port = 0 }]\n[image]",
        ),
        (
            "[image]",
            "[[discovery]]\nformat = \"consul\"\nfile = \"x\"\nport = 1\n[image]",
        ),
    ] {
        let text = GOOD.replace(change.0, change.1);
        assert!(!validator.is_valid(&json(&text)), "{change:?}");
        assert!(parse(&text, Path::new("x.toml")).is_err(), "{change:?}");
    }
}

/// The example shows every key that the schema has, commented out or not.
#[test]
fn the_example_shows_every_key() {
    let example = include_str!("../../scaleset.toml.example");
    let schema = schema();
    let sections = schema["$defs"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .chain(["Definition".to_owned()]);
    for section in sections {
        for key in written::keys(&schema, &section) {
            let shown = [
                format!("{key} ="),
                format!("[{key}]"),
                format!("{key}]"),
                format!(".{key}."),
            ]
            .iter()
            .any(|form| example.contains(form));
            assert!(shown, "{section}.{key} is missing from scaleset.toml.example");
        }
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let text = r#"
name = "Web"
capcity = 3
[image]
source = "ftp://x/y"
[instance]
memory = 2048
vcpus = "two"
[[instance.networks]]
[[fault_domains]]
name = "a"
hosts = [
  { name = "h1", uri = "qemu:///system" },
  { name = "h2", uri = "qemu:///system" },
  { name = "h3", uri = "qemu+ext:///system?command=/bin/sh" },
]
[limits]
call_timeout = "1 fortnight"
"#;
    let found = problems(text);
    let expect = [
        "2:8 name: 'W' may not stand in a name",
        "3:1 capcity: unknown key \"capcity\" | did you mean capacity?",
        "5:10 image.source: images can't be fetched by ftp",
        "7:10 instance.memory: instance.memory is a string, not integer",
        "8:9 instance.vcpus: instance.vcpus is a whole number, not string",
        "9:1 instance.networks[0]: a network card needs a bridge or a network",
        "14:18 fault_domains[0].hosts[1].uri: h1 and h2 are one host",
        "15:24 fault_domains[0].hosts[2].uri: the scheme",
        "18:16 limits.call_timeout: \"1 fortnight\" is not a duration",
    ];
    assert_eq!(found.len(), expect.len(), "{found:#?}");
    for (found, expect) in found.iter().zip(expect) {
        assert!(found.starts_with(expect), "found    {found}\nexpected {expect}");
    }
}

#[test]
fn what_is_missing_is_named_with_an_example() {
    let found = problems("capacity = 2\n");
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(
        found
            .iter()
            .any(|f| f.contains("instance is missing | add it, for example: [instance]")),
        "{found:#?}"
    );
}

#[test]
fn rules_between_keys_hold() {
    for (change, message) in [
        (
            "[limits]\ncalls_per_host = 1\nstarts_per_host = 2",
            "starts_per_host is more than calls_per_host (1)",
        ),
        (
            "[limits]\ncalls_per_host = 9",
            "limits.calls_per_host is out of range | allowed: 1 to 4",
        ),
        (
            "[placement]\nvcpu_overcommit = -1",
            "vcpu_overcommit is out of range",
        ),
        (
            "[placement]\nspread = \"even\"",
            "may not be \"even\" | allowed: \"best-effort\", \"strict\"",
        ),
        (
            "[scale_in]\nshutdown = \"2h\"",
            "scale_in.shutdown is out of range",
        ),
        ("[state]\nstore = \"redis\"", "state.store may not be \"redis\""),
        (
            "[autoscaling]\nenabled = true",
            "unknown key \"autoscaling\" | did you mean autoscale?",
        ),
        (
            "[[instance.networks]]\nbridge = \"br0\"\ngateway = \"10.0.0.1\"",
            "a gateway goes with addresses",
        ),
        (
            "[[instance.networks]]\nbridge = \"br 0\"",
            "can't be the name of a bridge",
        ),
        (
            "[[instance.networks]]\nbridge = \"br0\"\naddresses = \"10.0.0.1-10.0.0.9/24\"\ngateway = \"10.0.0.5\"",
            "is one of the addresses handed out",
        ),
    ] {
        let found = problems(&format!("{GOOD}\n{change}\n"));
        assert!(
            found.len() == 1 && found[0].contains(message),
            "{change}\n{found:#?}"
        );
    }
}

/// `GOOD` with a network card and `more`, which must be accepted.
fn networked(more: &str) -> ScaleSet {
    let text = format!("{GOOD}[[instance.networks]]\nbridge = \"br0\"\n{more}\n");
    parse(&text, Path::new("x.toml")).unwrap_or_else(|e| panic!("{}", render(&e, &text, false)))
}

/// Each change to `GOOD` with a network card must be refused, once, in words that begin so.
fn refused(cases: &[(&str, &str)]) {
    for (change, message) in cases {
        let text = format!("{GOOD}[[instance.networks]]\nbridge = \"br0\"\n{change}\n");
        let found = problems(&text);
        assert!(
            found.len() == 1 && found[0].contains(message),
            "{change}\nexpected {message}\nfound {found:#?}"
        );
    }
}

#[test]
fn without_sections_of_operation_their_defaults_hold() {
    let set = networked("");
    assert_eq!(set.health, Health::default());
    assert_eq!(set.upgrade, Upgrade::default());
    assert_eq!(set.repair, Repair::default());
    assert!(!set.scale_in.protect_new);
    let empty = networked("[health]\n[upgrade]\n[repair]\n[scale_in]");
    assert_eq!(empty, set, "an empty section says what none says");
}

/// The schema tells editors the defaults; they are those that the reader fills in.
#[test]
fn the_defaults_of_the_schema_are_those_of_the_reader() {
    let schema = schema();
    let mut text = String::new();
    for (section, kind) in [
        ("limits", "Limits"),
        ("scale_in", "ScaleIn"),
        ("health", "Health"),
        ("upgrade", "Upgrade"),
        ("repair", "Repair"),
    ] {
        text += &format!("[{section}]\n");
        for (key, shape) in schema["$defs"][kind]["properties"].as_object().unwrap() {
            // The default of a port hangs on the probe; a path is refused where nothing is asked for one.
            if kind == "Health" && (key == "port" || key == "path") {
                continue;
            }
            text += &format!("{key} = {}\n", shape["default"]);
        }
    }
    assert_eq!(networked(&text), networked(""), "{text}");
}

#[test]
fn a_probe_has_the_port_and_the_path_that_are_usual_for_it() {
    let probe = |text: &str| networked(&format!("[health]\n{text}")).health.probe;
    let http = |tls, port, path: &str| Probe::Http {
        tls,
        port,
        path: path.into(),
    };
    assert_eq!(probe("probe = \"http\""), http(false, 80, "/"));
    assert_eq!(probe("probe = \"https\""), http(true, 443, "/"));
    assert_eq!(
        probe("probe = \"https\"\nport = 8443\npath = \"/healthz?full=1\""),
        http(true, 8443, "/healthz?full=1")
    );
    assert_eq!(probe("probe = \"tcp\"\nport = 65535"), Probe::Tcp { port: 65535 });
    assert_eq!(probe("probe = \"agent\""), Probe::Agent);
    assert_eq!(probe("probe = \"none\""), Probe::None);
}

#[test]
fn a_port_or_a_path_that_nobody_asks_for_is_refused() {
    refused(&[
        (
            "[health]\nprobe = \"tcp\"",
            "health.port is missing | add it, for example: port = 22",
        ),
        (
            "[health]\nprobe = \"agent\"\nport = 80",
            "health.port: port goes with http, https and tcp, and the probe is \"agent\" | leave port out",
        ),
        (
            "[health]\nport = 80",
            "port goes with http, https and tcp, and the probe is \"none\" | add probe = \"http\"",
        ),
        (
            "[health]\nprobe = \"tcp\"\nport = 80\npath = \"/\"",
            "path goes with http and https, and the probe is \"tcp\"",
        ),
        (
            "[health]\nprobe = \"tcp\"\nport = 0",
            "health.port is out of range | allowed: 1 to 65535",
        ),
        (
            "[health]\nprobe = \"tcp\"\nport = 65536",
            "health.port is out of range",
        ),
        (
            "[health]\nprobe = \"http\"\npath = \"healthz\"",
            "it must begin with /",
        ),
        (
            "[health]\nprobe = \"http\"\npath = \"/a b\"",
            "' ' may not stand in a path",
        ),
        (
            "[health]\nprobe = \"http\"\npath = \"/a\\r\\nX: y\"",
            "'\\r' may not stand in a path",
        ),
        (
            "[health]\nprobe = \"ping\"\nport = 1",
            "may not be \"ping\" | allowed: \"none\", \"agent\", \"tcp\", \"http\", \"https\"",
        ),
    ]);
}

#[test]
fn a_probe_over_the_network_needs_a_network_card() {
    for probe in ["http", "https", "tcp"] {
        for networks in ["", "networks = []\n"] {
            let text = GOOD.replace("memory", &format!("{networks}memory"))
                + &format!("[health]\nprobe = \"{probe}\"\nport = 8080\n");
            let found = problems(&text);
            let line = 11 + networks.lines().count();
            assert_eq!(found.len(), 1, "{found:#?}");
            let wanted =
                format!("{line}:1 health.probe: {probe} asks over the network, and the instances have no");
            assert!(found[0].starts_with(&wanted), "{found:#?}\n{wanted}");
        }
    }
    for probe in ["agent", "none"] {
        let found = problems(&format!("{GOOD}[health]\nprobe = \"{probe}\"\n"));
        assert_eq!(found, Vec::<String>::new(), "{probe} asks through the host");
    }
    let found = problems("name = \"web\"\n[health]\nprobe = \"http\"\n");
    assert!(
        !found.iter().any(|f| f.contains("network card")),
        "without [instance], its cards are not missed too: {found:#?}"
    );
}

#[test]
fn the_times_and_counts_of_a_probe_keep_their_ranges() {
    let health = networked(
        "[health]\nprobe = \"agent\"\ninterval = \"60s\"\ntimeout = \"100ms\"\nunhealthy_after = 10\nhealthy_after = 1\ngrace_period = \"2h\"",
    )
    .health;
    assert_eq!(
        health,
        Health {
            probe: Probe::Agent,
            interval: Duration::from_secs(60),
            timeout: Duration::from_millis(100),
            unhealthy_after: 10,
            healthy_after: 1,
            grace_period: Duration::from_secs(7200),
        }
    );
    let longer = networked("[health]\nprobe = \"agent\"\ninterval = \"1s\"\ntimeout = \"60s\"").health;
    assert!(
        longer.timeout > longer.interval,
        "an answer may take longer than the interval"
    );
    refused(&[
        (
            "[health]\ninterval = \"0.5s\"",
            "health.interval is out of range | allowed: 1s to 1m",
        ),
        ("[health]\ninterval = \"61s\"", "health.interval is out of range"),
        (
            "[health]\ntimeout = \"99ms\"",
            "health.timeout is out of range | allowed: 100ms to 1m",
        ),
        ("[health]\ntimeout = \"61s\"", "health.timeout is out of range"),
        (
            "[health]\nunhealthy_after = 0",
            "health.unhealthy_after is out of range | allowed: 1 to 10",
        ),
        (
            "[health]\nhealthy_after = 11",
            "health.healthy_after is out of range",
        ),
        (
            "[health]\ngrace_period = \"121m\"",
            "health.grace_period is out of range | allowed: 0s to 2h",
        ),
        (
            "[health]\ninterval = 5",
            "health.interval is a string, not integer",
        ),
    ]);
}

#[test]
fn a_number_of_instances_is_a_count_or_a_share() {
    let set = networked(
        "[upgrade]\nmax_batch = 1000000\nmax_surge = 3\nmax_unavailable = \"0%\"\nmax_unhealthy = \"100%\"\nmax_unhealthy_upgraded = 0\n[repair]\nmax_concurrent = \"1%\"\nmax_unhealthy = 7",
    );
    assert_eq!(set.upgrade.max_batch, Amount::Count(1_000_000));
    assert_eq!(set.upgrade.max_surge, Amount::Count(3));
    assert_eq!(set.upgrade.max_unavailable, Amount::Percent(0));
    assert_eq!(set.upgrade.max_unhealthy, Amount::Percent(100));
    assert_eq!(set.upgrade.max_unhealthy_upgraded, Amount::Count(0));
    assert_eq!(set.repair.max_concurrent, Amount::Percent(1));
    assert_eq!(set.repair.max_unhealthy, Amount::Count(7));
    refused(&[
        (
            "[upgrade]\nmax_batch = 0",
            "upgrade.max_batch is 0, so nothing could ever be done | 1 or more",
        ),
        ("[upgrade]\nmax_batch = \"0%\"", "upgrade.max_batch is 0"),
        ("[repair]\nmax_concurrent = 0", "repair.max_concurrent is 0"),
        (
            "[upgrade]\nmax_batch = 1000001",
            "upgrade.max_batch is out of range | allowed: 0 to 1000000",
        ),
        (
            "[upgrade]\nmax_unhealthy = -1",
            "upgrade.max_unhealthy is out of range",
        ),
        (
            "[upgrade]\nmax_unhealthy = \"3\"",
            "\"3\" is neither a number nor a percentage | write a number, such as 2, or a share, such as \"20%\"",
        ),
        (
            "[upgrade]\nmax_unhealthy = \"101%\"",
            "whole numbers from 0% to 100% are",
        ),
        (
            "[upgrade]\nmax_unhealthy = \"2.5%\"",
            "whole numbers from 0% to 100% are",
        ),
        (
            "[upgrade]\nmax_unhealthy = 0.2",
            "is a whole number or a percentage, not float",
        ),
    ]);
}

#[test]
fn an_upgrade_that_could_change_no_instance_is_refused() {
    refused(&[
        (
            "[upgrade]\nmax_unavailable = 0",
            "upgrade.max_unavailable: max_surge and max_unavailable are both 0, so no instance could ever be changed | write max_surge = 1",
        ),
        (
            "[upgrade]\nmax_surge = \"0%\"\nmax_unavailable = \"0%\"",
            "max_surge and max_unavailable are both 0",
        ),
        (
            "[upgrade]\nmethod = \"reimage\"\nmax_unavailable = 0",
            "are both 0, so no instance could ever be changed | write max_unavailable = 1: a reimage",
        ),
        (
            "[upgrade]\nmethod = \"reimage\"\nmax_surge = 1",
            "upgrade.max_surge: max_surge goes with replacing: a reimage keeps the instance",
        ),
        (
            "[upgrade]\nmethod = \"reimage\"\nmax_surge = \"10%\"\nmax_unavailable = 0",
            "max_surge goes with replacing",
        ),
    ]);
    let surge = networked("[upgrade]\nmax_surge = 1\nmax_unavailable = 0").upgrade;
    assert_eq!(
        (surge.max_surge, surge.max_unavailable),
        (Amount::Count(1), Amount::Count(0))
    );
    networked("[upgrade]\nmethod = \"reimage\"\nmax_surge = 0");
}

#[test]
fn the_times_of_an_upgrade_keep_their_ranges() {
    let upgrade = networked(
        "[upgrade]\npolicy = \"manual\"\nmethod = \"replace\"\npause = \"24h\"\nmin_ready = \"1h\"\nbatch_timeout = \"24h\"\nprioritize_unhealthy = false\non_failure = \"rollback\"\nprotected = \"wait\"",
    )
    .upgrade;
    assert_eq!(
        upgrade,
        Upgrade {
            policy: UpgradePolicy::Manual,
            method: Method::Replace,
            pause: Duration::from_secs(24 * 3600),
            min_ready: Duration::from_secs(3600),
            batch_timeout: Duration::from_secs(24 * 3600),
            prioritize_unhealthy: false,
            on_failure: OnFailure::Rollback,
            protected: Unwilling::Wait,
            ..Upgrade::default()
        }
    );
    refused(&[
        (
            "[upgrade]\npause = \"25h\"",
            "upgrade.pause is out of range | allowed: 0s to 24h",
        ),
        (
            "[upgrade]\nmin_ready = \"3601s\"",
            "upgrade.min_ready is out of range | allowed: 0s to 1h",
        ),
        (
            "[upgrade]\nbatch_timeout = \"0s\"",
            "upgrade.batch_timeout is out of range | allowed: 1s to 24h",
        ),
        (
            "[upgrade]\nprioritize_unhealthy = \"yes\"",
            "is true or false, not string",
        ),
        (
            "[upgrade]\npolicy = \"canary\"",
            "allowed: \"rolling\", \"manual\", \"automatic\"",
        ),
        (
            "[upgrade]\nmethod = \"restart\"",
            "allowed: \"auto\", \"reimage\", \"replace\"",
        ),
        (
            "[upgrade]\non_failure = \"go on\"",
            "allowed: \"stop\", \"rollback\"",
        ),
        (
            "[upgrade]\nprotected = \"no\"",
            "allowed: \"skip\", \"wait\", \"include\"",
        ),
        (
            "[upgrade]\nmax_batches = 1",
            "unknown key \"max_batches\" | did you mean max_batch?",
        ),
    ]);
}

#[test]
fn a_batch_has_more_time_than_its_instances_must_be_healthy() {
    refused(&[
        (
            "[upgrade]\nmin_ready = \"15m\"",
            "upgrade.min_ready: no batch could be done within batch_timeout (15m): its instances must be healthy for min_ready (15m)",
        ),
        (
            "[upgrade]\nmin_ready = \"2m\"\nbatch_timeout = \"1m\"",
            "upgrade.batch_timeout: no batch could be done within batch_timeout (1m)",
        ),
        (
            "[upgrade]\nmin_ready = \"20m\"\nbatch_timeout = \"soon\"",
            "upgrade.batch_timeout: \"soon\" is not a duration",
        ),
    ]);
}

#[test]
fn a_repair_keeps_its_ranges() {
    let repair = networked(
        "[repair]\nenabled = true\naction = \"restart\"\ngrace_period = \"90m\"\nhost_lost_after = \"24h\"",
    )
    .repair;
    assert_eq!(
        repair,
        Repair {
            enabled: true,
            action: RepairAction::Restart,
            grace_period: Duration::from_secs(5400),
            host_lost_after: Duration::from_secs(24 * 3600),
            ..Repair::default()
        }
    );
    refused(&[
        (
            "[repair]\nenabled = 1",
            "repair.enabled is true or false, not integer",
        ),
        (
            "[repair]\naction = \"reboot\"",
            "allowed: \"restart\", \"reimage\", \"replace\"",
        ),
        (
            "[repair]\ngrace_period = \"59s\"",
            "repair.grace_period is out of range | allowed: 1m to 90m",
        ),
        (
            "[repair]\ngrace_period = \"91m\"",
            "repair.grace_period is out of range",
        ),
        (
            "[repair]\nhost_lost_after = \"30s\"",
            "repair.host_lost_after is out of range | allowed: 1m to 24h",
        ),
    ]);
}

#[test]
fn new_instances_are_protected_only_where_it_is_asked() {
    assert!(networked("[scale_in]\nprotect_new = true").scale_in.protect_new);
    refused(&[(
        "[scale_in]\nprotect_new = \"true\"",
        "scale_in.protect_new is true or false, not string",
    )]);
    let old = serde_json::json!({ "policy": "default", "shutdown": { "secs": 60, "nanos": 0 } });
    let read: crate::scaleset::ScaleIn = serde_json::from_value(old).unwrap();
    assert!(!read.protect_new, "a record of an older vmss says nothing of it");
}

#[test]
fn errors_are_shown_with_their_line() {
    let text = "name = \"web\"\nmemroy = 1\n";
    let errors = parse(text, Path::new("web.toml")).unwrap_err();
    let shown = render(&errors, text, false);
    assert!(shown.contains("web.toml:2:1"), "{shown}");
    assert!(shown.contains("memroy = 1"), "{shown}");
    assert!(shown.contains("^^^^^^"), "{shown}");
    assert!(shown.ends_with("web.toml has 4 errors\n"), "{shown}");
}

#[test]
fn broken_syntax_is_told_as_such() {
    let found = problems("name = \"web\n[image\n");
    assert!(!found.is_empty());
    assert!(found[0].starts_with("1:"), "{found:#?}");
}

#[test]
fn checkpoints_are_numbers_or_shares_from_few_to_many() {
    let read = |line: &str| {
        let text = format!("{GOOD}\n[upgrade]\n{line}\n");
        super::parse(&text, std::path::Path::new("/x.toml"))
    };
    let upgrade = read("checkpoints = [1, \"10%\", \"50%\"]\ncheckpoint_pause = \"0s\"\nbake = \"30m\"")
        .unwrap()
        .upgrade;
    let expected = [Amount::Count(1), Amount::Percent(10), Amount::Percent(50)];
    assert_eq!(upgrade.checkpoints, expected);
    assert_eq!(upgrade.bake.as_secs(), 1800);
    for bad in [
        "checkpoints = [0]",
        "checkpoints = [2, 1]",
        "checkpoints = [\"50%\", \"10%\"]",
        "checkpoints = [true]",
        "checkpoints = \"x\"",
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        if let Err(e) = parse(&text, Path::new("x.toml")) {
            render(&e, &text, false);
        }
    }

    /// Broken pieces of a good file: closer to what people get wrong than noise is.
    #[test]
    fn no_damaged_file_makes_it_panic(cut in 0usize..1000, put in "[\\[\\]{}=\"'#\n a-z0-9é]{0,6}") {
        let example = include_str!("../../scaleset.toml.example");
        let mut text = example.to_owned();
        let at = (0..=cut).rev().find(|i| text.is_char_boundary(*i)).unwrap();
        text.insert_str(at, &put);
        if let Err(e) = parse(&text, Path::new("x.toml")) {
            prop_assert!(!e.errors.is_empty());
            render(&e, &text, true);
        }
    }
}

#[test]
fn of_many_problems_the_first_are_told_and_the_rest_counted() {
    let unknown = |n: usize| {
        (0..n)
            .map(|i| format!("no_such_key_{i} = 1\n"))
            .collect::<String>()
    };
    for (text, more) in [
        (GOOD.to_owned(), None),
        (unknown(40) + GOOD, Some(0)),
        (unknown(60) + GOOD, Some(10)),
        (unknown(10_000) + GOOD, Some(9950)),
        // What is missing is wrong as well.
        (unknown(10_000), Some(9954)),
        ("= 1\n".repeat(10_000), Some(9950)),
    ] {
        let parsed = parse(&text, Path::new("x.toml"));
        assert_eq!(parsed.as_ref().err().map(|e| e.more), more);
        let Err(errors) = parsed else { continue };
        assert!(errors.errors.is_sorted_by_key(|p| p.line));
        let shown = render(&errors, &text, false);
        let n = errors.errors.len();
        let end = match errors.more {
            0 => format!("x.toml has {n} errors\n"),
            more => format!("x.toml has {} errors, the first 50 are shown\n", n + more),
        };
        assert!(shown.ends_with(&end), "{}", &shown[shown.len() - 100..]);
    }
}

#[test]
fn a_definition_nested_without_end_is_refused_and_does_no_harm() {
    for text in [
        format!("name = {}", "[".repeat(200_000)),
        format!("name = {}", "{a=".repeat(200_000)),
        format!("name{} = 1", ".a".repeat(200_000)),
        format!("[name{}]", ".a".repeat(200_000)),
    ] {
        let errors = parse(&text, Path::new("x.toml")).unwrap_err();
        assert!(!errors.errors.is_empty(), "{}", &text[..20]);
    }
}
