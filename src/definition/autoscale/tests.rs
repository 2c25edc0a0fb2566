//! What is accepted of `[autoscale]`, what is refused, and in which words.

use std::path::Path;
use std::time::Duration;

use crate::autoscale::Autoscale;
use crate::autoscale::metric::{External, Metric, Of, Source};
use crate::autoscale::policy::{Change, Over, Pattern, PredictMode, Statistic};
use crate::definition::parse;
use crate::scaleset::Amount;

/// The policy of a definition with `more`, and everything that is wrong with it.
fn read(more: &str) -> Result<Autoscale, Vec<(String, String)>> {
    let text = format!(
        "name = \"web\"\n[image]\nsource = \"i.qcow2\"\n[instance]\nmemory = \"1 GiB\"\n\
         [[fault_domains]]\nname = \"a\"\nhosts = [{{ name = \"k\", uri = \"qemu:///system\" }}]\n{more}"
    );
    parse(&text, Path::new("/etc/vmss/web.toml"))
        .map(|set| set.autoscale.unwrap())
        .map_err(|e| e.errors.into_iter().map(|p| (p.key, p.message)).collect())
}

/// The first thing that is wrong.
fn wrong(more: &str) -> (String, String) {
    read(more).expect_err(more).remove(0)
}

const BOUNDS: &str = "[autoscale]\nmin = 2\nmax = 20\n";

#[test]
fn a_target_between_bounds_is_all_it_takes() {
    let policy = read(&format!(
        "{BOUNDS}target = {{ metric = \"host.cpu\", value = 60 }}"
    ))
    .unwrap();
    assert!(policy.enabled);
    assert_eq!(policy.warm_up, Duration::from_secs(60));
    assert_eq!(policy.stabilization, Duration::from_secs(600));
    let [profile] = policy.profiles.as_slice() else {
        panic!("one profile")
    };
    assert_eq!((profile.min, profile.max, profile.default), (2, 20, 2));
    assert_eq!(profile.targets[0].to_string(), "host.cpu at 60 % avg 5m");
    assert_eq!(profile.when, None);
    let policy = read(&format!(
        "{BOUNDS}[[autoscale.target]]\nmetric = \"host.cpu\"\nvalue = \"60%\"\n[[autoscale.target]]\nmetric = \"guest.load\"\nvalue = 0.7"
    ));
    assert_eq!(policy.unwrap().profiles[0].targets.len(), 2);
}

#[test]
fn a_rule_is_written_long_or_short() {
    let long = "[[autoscale.rules]]\nmetric = \"host.cpu\"\nover = \"max\"\nstatistic = \"last\"\nwindow = \"10m\"\nwhen = \"> 70%\"\nchange = \"+20%\"\ncooldown = \"15m\"";
    let policy = read(&format!("{BOUNDS}{long}")).unwrap();
    let rule = &policy.profiles[0].rules[0];
    assert_eq!((rule.over, rule.statistic), (Over::Max, Statistic::Last));
    assert_eq!(
        (rule.window, rule.cooldown),
        (Duration::from_secs(600), Duration::from_secs(900))
    );
    assert_eq!(
        (rule.threshold, rule.change),
        (70.0, Change::Out(Amount::Percent(20)))
    );
    let short = "rules = [{ when = \"host.cpu > 75 avg 5m\", scale = \"out 1\" }, { when = \"host.network.receive_bytes < 1 MiB/s\", scale = \"in 50%\" }]";
    let policy = read(&format!("{BOUNDS}{short}")).unwrap();
    let texts: Vec<String> = policy.profiles[0].rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "host.cpu > 75 % avg 5m: out 1",
            "host.network.receive_bytes < 1.0 MiB/s avg 5m: in 50%"
        ]
    );
}

#[test]
fn numbers_from_elsewhere_are_named_or_described_in_place() {
    let policy = read(
        "[autoscale]\nmin = 1\nmax = 9\nprometheus = \"http://127.0.0.1:9090/\"\n\
         [autoscale.metrics.jobs]\nhttp = \"https://queue.example.org/stats\"\npointer = \"/waiting\"\nof = \"set\"\ntoken_file = \"token\"\n\
         [[autoscale.rules]]\nwhen = \"jobs > 100 last 0s\"\nchange = \"+1\"\n\
         [[autoscale.rules]]\nmetric = { prometheus = \"sum(up)\" }\nwhen = \"< 5\"\nchange = \"-1\"",
    )
    .unwrap();
    let rules = &policy.profiles[0].rules;
    assert_eq!(
        rules[0].metric,
        Metric::External(External {
            name: "jobs".to_owned(),
            source: Source::Http {
                url: "https://queue.example.org/stats".to_owned(),
                pointer: "/waiting".to_owned()
            },
            of: Of::Set,
            token_file: Some("/etc/vmss/token".into()),
        })
    );
    assert_eq!(
        rules[1].metric,
        Metric::External(External {
            name: "sum(up)".to_owned(),
            source: Source::Prometheus {
                url: "http://127.0.0.1:9090".to_owned(),
                query: "sum(up)".to_owned()
            },
            of: Of::Instance,
            token_file: None,
        })
    );
}

#[test]
fn profiles_and_schedules_have_their_times() {
    let policy = read(
        "[autoscale]\ntime_zone = \"Europe/Berlin\"\nmax_scale_in = { count = \"10%\", per = \"10m\" }\n\
         [[autoscale.profiles]]\nname = \"usual\"\nmin = 2\nmax = 20\ndefault = 6\ntarget = { metric = \"host.cpu\", value = 60 }\n\
         [[autoscale.profiles]]\nname = \"office hours\"\nmin = 6\nmax = 40\n\
         recurrence = { days = [\"fri\", \"mon\", \"tue\", \"wed\", \"thu\"], from = \"08:00\", to = \"18:00\" }\n\
         [[autoscale.profiles]]\nname = \"night\"\nmin = 1\nmax = 1\nrecurrence = { cron = \"0 22 * * *\", duration = \"8h\", time_zone = \"UTC\" }\n\
         [[autoscale.profiles]]\nname = \"sale\"\nmin = 30\nmax = 60\ndates = { from = 2026-11-27, to = \"2026-11-28 06:00\" }\n\
         [[autoscale.profiles]]\nname = \"launch\"\nmin = 30\nmax = 60\ndates = { from = 2026-12-01T10:00:00Z, to = \"2026-12-01T12:00:00+01:00\", time_zone = \"America/New_York\" }\n\
         [[autoscale.schedules]]\nname = \"batch\"\ncron = \"30 2 * * sun\"\nduration = \"90m\"\nmin = 12\n\
         [autoscale.predict]\nmode = \"scale\"\npattern = \"weekly\"\nlead = \"5m\"",
    );
    // 12:00 in an hour's offset is 11:00 universal time.
    let policy = policy.unwrap();
    let times: Vec<String> = (policy.profiles.iter())
        .map(|p| p.when.as_ref().map_or_else(String::new, ToString::to_string))
        .collect();
    assert_eq!(
        times,
        [
            "",
            "mon to fri 08:00 to 18:00 Europe/Berlin",
            "0 22 * * * UTC, for 8h",
            "2026-11-27 00:00 to 2026-11-28 06:00 Europe/Berlin",
            "2026-12-01 05:00 to 2026-12-01 06:00 America/New_York",
        ]
    );
    assert_eq!(
        policy.schedules[0].start.to_string(),
        "30 2 * * sun Europe/Berlin"
    );
    let predict = policy.predict.unwrap();
    assert_eq!(
        (predict.mode, predict.pattern),
        (PredictMode::Scale, Pattern::Weekly)
    );
}

#[test]
fn what_is_wrong_is_said_where_it_is_wrong() {
    let profile =
        |more: &str| format!("{BOUNDS}[[autoscale.profiles]]\nname = \"x\"\nmin = 1\nmax = 2\n{more}");
    let rule = |more: &str| format!("{BOUNDS}rules = [{{ {more} }}]");
    for (more, key, message) in [
        (
            "[autoscale]\n".to_owned(),
            "autoscale",
            "no profile is for all times",
        ),
        (
            "[autoscale]\nmin = 2".to_owned(),
            "autoscale.max",
            "autoscale.max is missing",
        ),
        (
            "[autoscale]\nmin = 5\nmax = 2".to_owned(),
            "autoscale.max",
            "max is less than min (5)",
        ),
        (
            format!("{BOUNDS}default = 1"),
            "autoscale.default",
            "default is not between min and max",
        ),
        (
            profile(""),
            "autoscale.profiles[0]",
            "this profile is for all times, and so is autoscale.min",
        ),
        (
            profile("recurrence = { from = \"8:00\", to = \"18:00\" }"),
            "autoscale.profiles[0].recurrence.from",
            "\"8:00\" is no time of day",
        ),
        (
            profile("recurrence = { days = [\"monday\"], from = \"08:00\", to = \"18:00\" }"),
            "autoscale.profiles[0].recurrence.days[0]",
            "\"monday\" is no day",
        ),
        (
            profile("recurrence = { cron = \"x\", duration = \"1h\" }"),
            "autoscale.profiles[0].recurrence.cron",
            "\"x\" is no cron of five fields, such as \"0 8 * * mon-fri\": ",
        ),
        (
            profile("recurrence = { cron = \"0 8 * * *\", from = \"08:00\", duration = \"1h\" }"),
            "autoscale.profiles[0].recurrence.from",
            "cron and from exclude each other",
        ),
        (
            profile("dates = { from = \"2026-12-24\", to = \"2026-12-24\" }"),
            "autoscale.profiles[0].dates.to",
            "it ends before it begins",
        ),
        (
            profile("dates = { from = \"christmas\", to = \"2026-12-24\" }"),
            "autoscale.profiles[0].dates.from",
            "\"christmas\" is no date",
        ),
        (
            format!("{BOUNDS}time_zone = \"Berlin\""),
            "autoscale.time_zone",
            "\"Berlin\" is no time zone: write it as \"Europe/Berlin\" or \"UTC\"",
        ),
        (
            rule("when = \"host.cpv > 75\", change = \"+1\""),
            "autoscale.rules[0].when",
            "there is no metric \"host.cpv\"",
        ),
        (
            rule("when = \"lb.requests > 75\", change = \"+1\""),
            "autoscale.rules[0].when",
            "lb.requests is counted by a load balancer, and there is none",
        ),
        (
            rule("when = \"> 75\", change = \"+1\""),
            "autoscale.rules[0].metric",
            "autoscale.rules[0].metric is missing",
        ),
        (
            rule("when = \"host.cpu > 75 avg\", metric = \"host.cpu\", change = \"+1\""),
            "autoscale.rules[0].when",
            "the condition names a metric (host.cpu), and so does metric",
        ),
        (
            rule("when = \"host.cpu > lots\", change = \"+1\""),
            "autoscale.rules[0].when",
            "\"lots\" is no value for this metric: write it as 75 or 75%",
        ),
        (
            rule("when = \"host.cpu > 75\", change = \"+1\", scale = \"out 1\""),
            "autoscale.rules[0].scale",
            "change and scale are the same thing in two spellings",
        ),
        (
            rule("when = \"host.cpu > 75\", change = \"1\""),
            "autoscale.rules[0].change",
            "\"1\" is no change: write +1, -1, +20%, -50% or =5, or in words out 1, in 50% or to 5",
        ),
        (
            rule("when = \"> 75\", metric = { prometheus = \"up\" }, change = \"+1\""),
            "autoscale.rules[0].metric.url",
            "autoscale.rules[0].metric.url is missing",
        ),
        (
            rule("when = \"> 75\", metric = { http = \"http://u:p@h/\" }, change = \"+1\""),
            "autoscale.rules[0].metric.http",
            "a URL with a password would be kept and shown: give a token_file",
        ),
        (
            rule("when = \"> 75\", metric = { http = \"http://h/\", pointer = \"x\" }, change = \"+1\""),
            "autoscale.rules[0].metric.pointer",
            "\"x\" is no JSON pointer",
        ),
        (
            rule("when = \"> 75\", metric = { http = \"http://h/\" }, over = \"max\", change = \"+1\""),
            "autoscale.rules[0].over",
            "there is one number for the set, and no smallest or largest of its instances",
        ),
        (
            format!("{BOUNDS}target = {{ metric = \"host.cpu\", value = 0 }}"),
            "autoscale.target.value",
            "a target is more than 0",
        ),
        (
            format!("{BOUNDS}predict = {{}}"),
            "autoscale.predict",
            "a prediction needs a target: it says how much load an instance takes",
        ),
        (
            format!(
                "{BOUNDS}schedules = [{{ name = \"a\", cron = \"0 8 * * *\", duration = \"1h\", min = 30 }}]"
            ),
            "autoscale.schedules[0].min",
            "no profile allows more than 20",
        ),
        (
            format!("{BOUNDS}max_scale_in = {{ count = 0, per = \"10m\" }}"),
            "autoscale.max_scale_in.count",
            "autoscale.max_scale_in.count is 0",
        ),
        (
            format!("{BOUNDS}[autoscale.metrics.\"host.cpu\"]\nprometheus = \"up\"\nurl = \"http://h\""),
            "autoscale.metrics.host.cpu",
            "host.cpu has a meaning already",
        ),
        (
            format!("{BOUNDS}cooldwn_in = \"1m\""),
            "autoscale.cooldwn_in",
            "unknown key \"cooldwn_in\"",
        ),
    ] {
        let (at, said) = wrong(&more);
        assert!(
            at == key && said.starts_with(message),
            "{more}\n{at}: {said}\n{key}: {message}"
        );
    }
}
