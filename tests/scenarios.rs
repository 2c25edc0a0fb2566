//! Whole commands on the fake fleet: scenarios that a person reads (`tests/scenarios/*.txt`), the outputs in the README,
//! the contract that keeps the fake honest, and a process killed at every single step, of a rollout too.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]

mod asks;
mod contract;
mod scenario;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use scenario::theatre::Theatre;
use scenario::{Outcome, files, is_update, readme, run_file};
use vmss::hypervisor::fake::{FakeHost, Fleet};
use vmss::hypervisor::{Hosts as _, LocalImage};
use vmss::scaleset::{Host, Limits};
use vmss::store::Store as _;
use vmss::store::sqlite::Sqlite;

#[test]
fn every_scenario_goes_as_it_is_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let files = files(&folder).unwrap();
    assert!(files.len() >= 5, "the scenarios are gone");
    let mut wrong = Vec::new();
    for file in files {
        let mut theatre = Theatre::new();
        wrong.extend(run_file(&file, is_update(), |line| theatre.command(line)).err());
        let robbed = theatre.stage.fleet.robbed();
        if !robbed.is_empty() {
            wrong.push(format!("{}: {}", file.display(), robbed.join("; ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_output_in_the_readme_is_what_the_program_says() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let transcripts = readme::transcripts(&text);
    assert!(transcripts.len() >= 5, "the README's transcripts are gone");
    let wrong: Vec<String> = transcripts.iter().flat_map(readme::differences).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The README's picture, and the figures beside it.
#[test]
fn the_picture_in_the_readme_is_what_simulate_draws() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let examples = root.join("examples/autoscale");
    let theatre = Theatre::new();
    let of = |name: &str| examples.join(name).display().to_string();
    let mut args = words("autoscale simulate --svg week.svg --html week.html");
    args.extend(["-f".to_owned(), of("target.toml")]);
    args.extend([
        "--trace".to_owned(),
        of("week.csv"),
        "--against".to_owned(),
        of("rules.toml"),
    ]);
    let (exit, stdout, stderr) = theatre.vmss(&args);
    assert_eq!(exit, 0, "{stderr}");
    let drawn = std::fs::read_to_string(theatre.folder().join("week.svg")).unwrap();
    if is_update() {
        std::fs::write(examples.join("week.svg"), &drawn).unwrap();
    }
    let committed = std::fs::read_to_string(examples.join("week.svg")).unwrap();
    assert!(
        drawn == committed,
        "run the tests with UPDATE=1 if that is how it should be"
    );
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let lines = |text: &str| -> BTreeSet<String> {
        text.lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    let written = lines(&readme);
    for line in lines(&stdout)
        .iter()
        .filter(|l| l.starts_with("target ") || l.starts_with("rules "))
    {
        assert!(written.contains(line), "the README does not say: {line}");
    }
    let page = std::fs::read_to_string(theatre.folder().join("week.html")).unwrap();
    assert!(
        page.contains("lb.requests is") && page.contains("<svg"),
        "the page is not whole"
    );
    assert!(
        !page.contains("<script") && !page.contains("src="),
        "the page needs something else"
    );
}

/// The process is killed right after, and right before, every step of what autoscaling has decided. The next evaluation, of
/// the same load, finishes that and no more.
#[test]
fn killed_at_every_step_autoscaling_is_finished_by_the_next_evaluation() {
    let policy = [
        "definition [autoscale]",
        "definition min = 1",
        "definition max = 9",
        "definition warm_up = \"0s\"",
        "definition stabilization = \"0s\"",
        "definition target = { metric = { http = \"http://127.0.0.1/\", of = \"set\" }, value = 10, window = \"0s\" }",
    ];
    for (load, there) in [("60", 6), ("20", 2)] {
        let mut tried = 0;
        for step in 0.. {
            let mut theatre = Theatre::new();
            let number = format!("number http://127.0.0.1/ {load}");
            let lines = ["host rack-a kvm1", "host rack-b kvm2"];
            for line in lines
                .iter()
                .chain(&policy)
                .chain(&["define 4", "vmss create", &number])
            {
                assert_eq!(theatre.command(line).0, 0, "{line}");
            }
            let fleet = Arc::clone(&theatre.stage.fleet);
            fleet.kill_after(step);
            theatre.vmss(&words("autoscale"));
            let killed = fleet.is_killed();
            fleet.revive();
            let again = theatre.vmss(&words("autoscale"));
            let at = format!("to {there}, killed after step {step}: {}", again.2);
            assert_eq!(again.0, 0, "{at}");
            assert_eq!(audit(&theatre), Vec::<String>::new(), "{at}");
            let found: usize = ["kvm1", "kvm2"].iter().map(|h| fleet.domains(h).len()).sum();
            assert_eq!(found, there, "{at}");
            tried += 1;
            if !killed {
                break;
            }
        }
        assert!(tried > 5, "to {there} has only {tried} steps to be killed at");
    }
}

#[test]
fn the_contract_holds_on_the_fake() {
    let fleet = Fleet::new();
    fleet.add_host(&contract::label("kvm1"), FakeHost::default());
    let host = Host {
        name: contract::label("kvm1"),
        uri: "test:///default".into(),
        pool: "default".into(),
        migration_address: None,
    };
    let limits = Limits {
        calls_per_host: 4,
        starts_per_host: 2,
        call_timeout: Duration::from_secs(30),
    };
    let processes = [fleet.host(&host, &limits), fleet.host(&host, &limits)];
    let text = "name = \"web\"\n[image]\nsource = \"a\"\n[instance]\nmemory = \"1 GiB\"\n[[instance.networks]]\nbridge = \"br0\"\n[[fault_domains]]\nname = \"a\"\nhosts = [{ name = \"kvm1\", uri = \"test:///default\" }]\n";
    let set = vmss::definition::parse(text, Path::new("/x.toml")).unwrap();
    let image = vmss::model::Image {
        digest: vmss::model::ImageDigest("0f".repeat(32)),
        format: vmss::model::ImageFormat::Qcow2,
        virtual_size: vmss::units::Bytes::gib(1),
        file_size: vmss::units::Bytes::mib(100),
    };
    let model = vmss::resolve::model(&set, &image, None).unwrap();
    contract::run(
        [&*processes[0], &*processes[1]],
        &model,
        &LocalImage {
            path: "/image".into(),
            image,
        },
    );
}

/// What a newer vmss has written is told as such by every command, with its own exit code, and is left as it is; the other
/// sets of the store are shown.
#[test]
fn a_record_of_a_newer_vmss_is_told_and_left_as_it_is() {
    let mut theatre = Theatre::new();
    for line in ["host rack-a kvm1", "define 2", "vmss create"] {
        let (exit, _, said) = theatre.command(line);
        assert_eq!(exit, 0, "{line}: {said}");
    }
    let path = theatre.folder().join("state.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    let copy = "INSERT INTO set_records SELECT 'db', version, record FROM set_records";
    connection.execute(copy, []).unwrap();
    let newer =
        "UPDATE set_records SET record = replace(record, '\"format\":4', '\"format\":5') WHERE name = 'web'";
    assert_eq!(connection.execute(newer, []).unwrap(), 1);
    let text = || -> String {
        let sql = "SELECT version || record FROM set_records WHERE name = 'web'";
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let before = text();
    let commands = [
        "show",
        "plan",
        "create",
        "apply",
        "scale 3",
        "delete --yes",
        "instances",
        "upgrade",
        "autoscale",
        "state rebuild",
        "list",
    ];
    for command in commands {
        let (exit, shown, said) = theatre.command(&format!("vmss {command}"));
        assert_eq!(exit, 4, "{command}: {said}");
        assert!(
            said.contains(
                "the record of web was made by a newer vmss (its format is 5, this vmss knows 4 at most)"
            ) && said.contains("hint: use that vmss"),
            "{command}: {said}"
        );
        assert_eq!(text(), before, "{command} has written");
        assert!(command != "list" || shown.contains("db"), "{shown}");
    }
}

/// A store that can't be used is told as what it is: not as a set that somebody else is at, nor as a full disk.
#[test]
fn a_lease_that_makes_no_sense_is_not_told_as_a_set_in_use() {
    let mut theatre = Theatre::new();
    for line in ["host rack-a kvm1", "define 2", "vmss create"] {
        let (exit, _, said) = theatre.command(line);
        assert_eq!(exit, 0, "{line}: {said}");
    }
    let path = theatre.folder().join("state.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    let lease = "INSERT OR REPLACE INTO leases VALUES ('set/web', 1, '{', 0)";
    connection.execute(lease, []).unwrap();
    let (exit, _, said) = theatre.command("vmss scale 3");
    assert_eq!(exit, 4, "{said}");
    assert!(said.contains("damaged"), "{said}");
    assert!(!said.contains("in use") && !said.contains("full"), "{said}");
}

/// What guests print steers no terminal, and stands over no other's lines; a program that reads what one guest prints gets
/// it as it is.
#[test]
fn what_guests_print_steers_no_terminal() {
    use scenario::theatre::Capture;
    let mut theatre = Theatre::new();
    for line in ["host rack-a kvm1", "host rack-b kvm2", "define 2", "vmss create"] {
        let (exit, _, said) = theatre.command(line);
        assert_eq!(exit, 0, "{line}: {said}");
    }
    let evil = "\u{1b}[2J\u{1b}]0;x\u{7}a\rweb-9:\u{8}\u{1b}[31mb";
    let run = |ids: &str, verb: &str, is_terminal: bool| {
        let (stdout, stderr) = (Capture::default(), Capture::default());
        let mut world = theatre.world(&stdout, &stderr);
        world.env.stdout_is_terminal = is_terminal;
        world.env.stderr_is_terminal = is_terminal;
        vmss::run(
            ["instance", "exec", ids, "--progress", "none", "--", verb, evil],
            &world,
        );
        (stdout.text(), stderr.text())
    };
    let shown = "aweb-9:b\n";
    assert_eq!(run("1", "echo", false).0, format!("{evil}\n"));
    assert_eq!(run("1", "echo", true).0, shown);
    assert!(run("1", "complain", false).1.contains(evil));
    assert!(run("1", "complain", true).1.starts_with(shown.trim_end()));
    for is_terminal in [false, true] {
        let (out, _) = run("1,2", "echo", is_terminal);
        assert_eq!(out, format!("web-1: {shown}web-2: {shown}"));
        let (_, err) = run("1,2", "complain", is_terminal);
        assert!(
            err.contains("web-1: aweb-9:b") && !err.contains("\u{1b}[2J"),
            "{err:?}"
        );
    }
    // What is said of a program that is not there has its name in it.
    let (_, err) = run("1", "\u{1b}[2Jnonsense", true);
    assert!(err.contains("nonsense") && !err.contains("\u{1b}[2J"), "{err:?}");
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Whatever is wrong with the set on the fleet.
fn audit(theatre: &Theatre) -> Vec<String> {
    let store = Sqlite::open(&theatre.folder().join("state.db"))
        .unwrap()
        .id()
        .unwrap();
    theatre.stage.fleet.audit(&contract::label("web"), &[store])
}

/// The process is killed right after, and right before, every single step of create, scale in and delete. The next run
/// meets the capacity and leaves nothing orphaned, half-made or double.
#[test]
fn killed_at_every_step_the_next_run_puts_everything_right() {
    puts_everything_right(&[], |_, _| {});
}

/// The same behind two load balancers, whose clients stay for longer than they may: afterwards both send clients to every
/// instance that is there and to nothing else.
#[test]
fn killed_at_every_step_the_next_run_brings_load_balancers_level_too() {
    let behind = [
        "definition [[instance.networks]]",
        "definition bridge = \"br0\"",
        "definition addresses = \"10.0.0.10-10.0.0.99/24\"",
        "definition [load_balancer]",
        "definition sockets = [\"unix:/a\", \"unix:/b\"]",
        "definition drain = \"5s\"",
        "definition [[load_balancer.frontends]]",
        "definition name = \"http\"",
        "definition port = 80",
    ];
    puts_everything_right(&behind, |fleet, at| {
        let there: BTreeSet<String> = (["kvm1", "kvm2"].iter())
            .flat_map(|host| fleet.domains(host))
            .map(|domain| domain.name)
            .collect();
        for balancer in ["unix:/a", "unix:/b"] {
            let serving: BTreeSet<String> = fleet.serving(balancer).into_iter().collect();
            assert_eq!(serving, there, "{balancer}, {at}");
            let known: BTreeSet<String> = fleet
                .servers(balancer)
                .into_iter()
                .map(|(name, _)| name)
                .collect();
            assert_eq!(known, there, "{balancer}, {at}");
        }
    });
}

fn puts_everything_right(more: &[&str], check: impl Fn(&Fleet, &str)) {
    for (command, capacity) in [("create", 4), ("scale 1 --yes", 1), ("delete --yes", 0)] {
        let mut tried = 0;
        for before in [false, true] {
            for step in 0.. {
                let mut theatre = Theatre::new();
                let lines = ["host rack-a kvm1", "host rack-b kvm2"];
                for line in lines.iter().chain(more).chain(&["define 4"]) {
                    assert_eq!(theatre.command(line).0, 0);
                }
                if command != "create" {
                    assert_eq!(theatre.vmss(&words("create")).0, 0);
                    theatre.stage.fleet.connect_clients("web-4", 1);
                }
                let fleet = Arc::clone(&theatre.stage.fleet);
                let done = fleet.steps();
                if before {
                    fleet.kill_before(step)
                } else {
                    fleet.kill_after(step)
                }
                theatre.vmss(&words(command));
                let killed = fleet.is_killed();
                let reached = fleet.steps() - done;
                fleet.revive();
                let again = theatre.vmss(&words(command));
                let at = format!(
                    "{command}, killed {} step {step} of {reached}: {}",
                    if before { "before" } else { "after" },
                    again.2
                );
                assert_eq!(again.0, 0, "{at}");
                assert_eq!(audit(&theatre), Vec::<String>::new(), "{at}");
                check(&fleet, &at);
                if capacity == 0 {
                    let set = contract::label("web");
                    let store = Sqlite::open(&theatre.folder().join("state.db"))
                        .unwrap()
                        .id()
                        .unwrap();
                    assert_eq!(fleet.traces(&set, &[store]), Vec::<String>::new(), "{at}");
                } else {
                    let there: usize = ["kvm1", "kvm2"].iter().map(|h| fleet.domains(h).len()).sum();
                    assert_eq!(there, capacity, "{at}");
                }
                tried += 1;
                if !killed {
                    break;
                }
            }
        }
        assert!(tried > 10, "{command} has only {tried} steps to be killed at");
    }
}

// --- a rollout killed at every step --------------------------------------------------------------------------------

/// Four healthy instances, and a changed image that is about to be applied.
#[derive(Clone, Copy)]
struct Rollout {
    /// Hosts as the stage is told of them.
    hosts: &'static [&'static str],
    /// What `[upgrade]` says.
    rules: &'static [&'static str],
    /// Whether the image that comes is a broken one; then the rollout goes back by itself.
    is_broken: bool,
    /// Most domains that may be there at any moment.
    most: usize,
    /// Fewest guests that may be on at any moment.
    fewest: usize,
}

const IN_PLACE: Rollout = Rollout {
    hosts: &["host rack-a kvm1", "host rack-b kvm2"],
    rules: &["max_batch = 1", "max_unavailable = 1"],
    is_broken: false,
    most: 4,
    fewest: 3,
};

/// With another one made before each old one goes. There are two hosts in a fault domain: what is made on one must not come
/// before what is deleted on the other is gone.
const REPLACING: Rollout = Rollout {
    hosts: &["host rack-a kvm1", "host rack-a kvm2", "host rack-b kvm3"],
    rules: &[
        "method = \"replace\"",
        "max_batch = 2",
        "max_surge = 1",
        "max_unavailable = 0",
    ],
    is_broken: false,
    most: 5,
    fewest: 4,
};

/// With none above capacity: an old one goes first, another takes its place then.
const DELETING_FIRST: Rollout = Rollout {
    rules: &["method = \"replace\"", "max_batch = 2", "max_unavailable = 1"],
    ..IN_PLACE
};

/// When the process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kill {
    Before(usize),
    After(usize),
}

/// An instance as `vmss instances` lists it: id, fault domain, revision, health.
type Listed = (u64, String, u64, String);

impl Rollout {
    fn theatre(&self) -> Theatre {
        let mut theatre = Theatre::new();
        let head = [
            "definition [[instance.networks]]",
            "definition bridge = \"br0\"",
            "definition [health]",
            "definition probe = \"http\"",
            "definition grace_period = \"30s\"",
            "definition [upgrade]",
        ];
        let mut rules: Vec<String> = self.rules.iter().map(|r| format!("definition {r}")).collect();
        let mut image = "image 8";
        if self.is_broken {
            rules.push("definition on_failure = \"rollback\"".into());
            image = "broken-image 8";
        }
        let tail = ["define 4", "vmss create", "vmss wait --for healthy", image];
        let lines = (self.hosts.iter().chain(&head).copied())
            .chain(rules.iter().map(String::as_str))
            .chain(tail);
        for line in lines {
            let ran = theatre.command(line);
            assert_eq!(ran.0, 0, "{line}: {}", ran.2);
        }
        theatre
    }

    /// Kills `vmss apply --yes` right before and right after every step in turn, until one comes to its end. `next` is what the
    /// next process runs; `check` is told when the first was killed, and how the next ended.
    fn killed_at_every_step(
        &self,
        next: impl Fn(Kill) -> &'static str,
        check: impl Fn(&Theatre, Kill, &Outcome),
        unkilled: impl Fn(&Theatre, &Outcome),
    ) {
        let mut kills = 0;
        for before in [false, true] {
            for step in 0.. {
                let theatre = self.theatre();
                let fleet = Arc::clone(&theatre.stage.fleet);
                let began = fleet.steps();
                let kill = if before {
                    fleet.kill_before(step);
                    Kill::Before(step)
                } else {
                    fleet.kill_after(step);
                    Kill::After(step)
                };
                let first = theatre.vmss(&words("apply --yes"));
                let killed = fleet.is_killed();
                fleet.revive();
                if killed {
                    kills += 1;
                    let second = theatre.vmss(&words(next(kill)));
                    check(&theatre, kill, &second);
                } else {
                    unkilled(&theatre, &first);
                }
                let journal = fleet.journal();
                let wrong = self.moments(&journal, began);
                assert_eq!(wrong, Vec::<String>::new(), "{kill:?}: {:#?}", &journal[began..]);
                assert_eq!(audit(&theatre), Vec::<String>::new(), "{kill:?}");
                if !killed {
                    break;
                }
            }
        }
        assert!(kills > 10, "the rollout has only {kills} steps to be killed at");
    }

    /// Every moment from the step numbered `began` on at which too many domains were there, or too few guests were on.
    fn moments(&self, journal: &[String], began: usize) -> Vec<String> {
        let (mut there, mut on) = (BTreeSet::new(), BTreeSet::new());
        let mut wrong = Vec::new();
        for (number, step) in journal.iter().enumerate() {
            let words: Vec<&str> = step.split_whitespace().skip(1).collect();
            match words[..] {
                ["define", name] => drop(there.insert(name)),
                ["undefine", name] => drop(there.remove(name)),
                ["start", name] => drop(on.insert(name)),
                ["ask", name, "to", "shut", "down"] | ["switch", "off", name] => drop(on.remove(name)),
                _ => continue,
            }
            if number >= began && (there.len() > self.most || on.len() < self.fewest) {
                wrong.push(format!(
                    "after \"{step}\" {there:?} are there (at most {} may be), and {on:?} are on (at least {} must be)",
                    self.most, self.fewest
                ));
            }
        }
        wrong
    }
}

fn listed(theatre: &Theatre) -> Vec<Listed> {
    let ran = theatre.vmss(&words("instances -o json"));
    let list: serde_json::Value = serde_json::from_str(&ran.1).unwrap();
    let one = |i: &serde_json::Value| {
        let text = |key: &str| i[key].as_str().unwrap().to_owned();
        (
            i["id"].as_u64().unwrap(),
            text("fault_domain"),
            i["revision"].as_u64().unwrap(),
            text("health"),
        )
    };
    list.as_array().unwrap().iter().map(one).collect()
}

/// Every one of the four instances is healthy and of `revision`.
fn assert_settled(theatre: &Theatre, revision: u64, when: &str) {
    let listed = listed(theatre);
    assert!(
        listed.len() == 4 && listed.iter().all(|i| i.2 == revision && i.3 == "healthy"),
        "{when}: not all of four instances are healthy and of revision {revision}: {listed:?}"
    );
}

/// A rollout that succeeds, killed at every step: the same command goes on, and so does `vmss upgrade` once the rollout was
/// noted, which it is before the first step. Either ends as if nobody had been killed.
fn assert_finished_after_any_kill(rollout: Rollout, also: impl Fn(&[Listed], &str)) {
    let as_unkilled = |theatre: &Theatre, when: &str, ended: &Outcome| {
        assert_eq!(ended.0, 0, "{when}: {}", ended.2);
        assert_settled(theatre, 2, when);
        let plan = theatre.vmss(&words("plan"));
        assert!(plan.1.contains("nothing to do"), "{when}: {}", plan.1);
        also(&listed(theatre), when);
    };
    rollout.killed_at_every_step(
        |kill| match kill {
            Kill::After(_) => "apply --yes",
            Kill::Before(_) => "upgrade",
        },
        |theatre, kill, ended| as_unkilled(theatre, &format!("killed {kill:?}"), ended),
        |theatre, ended| as_unkilled(theatre, "not killed", ended),
    );
}

#[test]
fn an_upgrade_in_place_killed_at_every_step_is_finished_by_the_next_run() {
    assert_finished_after_any_kill(IN_PLACE, |listed, when| {
        let ids: Vec<u64> = listed.iter().map(|i| i.0).collect();
        assert_eq!(ids, [1, 2, 3, 4], "{when}: an id was not kept");
    });
}

#[test]
fn an_upgrade_by_replacing_killed_at_every_step_is_finished_by_the_next_run() {
    for rollout in [REPLACING, DELETING_FIRST] {
        assert_finished_after_any_kill(rollout, |listed, when| {
            assert!(
                listed.iter().all(|i| i.0 > 4),
                "{when}: not every instance is a new one: {listed:?}"
            );
            let in_a = listed.iter().filter(|i| i.1 == "rack-a").count();
            assert_eq!(in_a, 2, "{when}: the fault domains are not as even as before");
        });
    }
}

/// An operator who has seen enough: whatever was half done when the process was killed, everything goes back.
#[test]
fn an_upgrade_killed_at_every_step_can_be_rolled_back() {
    for rollout in [IN_PLACE, REPLACING, DELETING_FIRST] {
        rollout.killed_at_every_step(
            |_| "upgrade rollback --yes",
            |theatre, kill, ended| {
                let when = format!("killed {kill:?}");
                // Nothing was noted yet: there is nothing to take back.
                let wanted = if kill == Kill::After(0) { 5 } else { 0 };
                assert_eq!(ended.0, wanted, "{when}: {}", ended.2);
                assert_settled(theatre, 1, &when);
            },
            |theatre, ended| {
                assert_eq!(ended.0, 0, "{}", ended.2);
                assert_settled(theatre, 2, "not killed");
            },
        );
    }
}

/// Wherever the process is killed, on the way forth or back, `vmss upgrade` goes on with what was noted: it finds that the
/// version is broken, if that was not found yet, goes back, and says that the rollout failed. `vmss upgrade rollback`
/// goes back from everywhere. Either way the set ends as if nobody had been killed: the instances it had, healthy and at
/// revision 1, of which new ones would be made.
#[test]
fn a_broken_version_killed_at_every_step_goes_back_all_the_same() {
    let all_back = |theatre: &Theatre, when: &str, (exit, _, stderr): &Outcome, wanted: u8| {
        assert_eq!(*exit, wanted, "{when}: {stderr}");
        assert_settled(theatre, 1, when);
        let ids: Vec<u64> = listed(theatre).iter().map(|i| i.0).collect();
        assert_eq!(ids, [1, 2, 3, 4], "{when}: an id was not kept");
        let models = theatre.vmss(&words("model list -o json")).1;
        let models: serde_json::Value = serde_json::from_str(&models).unwrap();
        let current = models.as_array().unwrap().iter().find(|m| m["current"] == true);
        assert_eq!(
            current.unwrap()["revision"],
            1,
            "{when}: new instances would be of the broken revision"
        );
    };
    for rollout in [IN_PLACE, REPLACING] {
        let rollout = Rollout {
            is_broken: true,
            ..rollout
        };
        rollout.killed_at_every_step(
            |kill| match kill {
                Kill::After(_) => "upgrade",
                Kill::Before(_) => "upgrade rollback --yes",
            },
            |theatre, kill, ended| {
                let wanted = match kill {
                    // Nothing was noted yet: there is nothing to upgrade.
                    Kill::After(0) | Kill::Before(_) => 0,
                    Kill::After(_) => 6,
                };
                all_back(theatre, &format!("killed {kill:?}"), ended, wanted);
            },
            |theatre, ended| all_back(theatre, "not killed", ended, 6),
        );
    }
}

/// As an earlier vmss has left them: nobody looked whether two sets share a range.
#[test]
fn two_sets_that_share_a_range_already_go_on_and_give_nothing_out_twice() {
    let mut theatre = Theatre::new();
    for line in [
        "host rack-a kvm1",
        "definition [[instance.networks]]",
        "definition network = \"lan\"",
        "definition addresses = \"10.9.0.10-10.9.0.19/24\"",
        "define 2",
        "vmss create",
    ] {
        assert_eq!(theatre.command(line).0, 0, "{line}");
    }
    let store = Sqlite::open(&theatre.folder().join("state.db")).unwrap();
    let (web, db) = (contract::label("web"), contract::label("db"));
    let (mut record, _) = store.get(&web).unwrap().unwrap();
    record.applied.name = db.clone();
    let mut known = std::mem::take(&mut record.known);
    known.retain(|id, _| id.0 == 1);
    let given = |n| Some(std::net::Ipv4Addr::new(10, 9, 0, n));
    for instance in known.values_mut() {
        instance.addresses = vec![given(12)];
    }
    record.known = known;
    store.put(&db, &record, None).unwrap();
    drop(store);

    for verb in ["validate", "plan", "create", "apply"] {
        let (exit, _, said) = theatre.vmss(&words(verb));
        assert_eq!(exit, 0, "{verb}: {said}");
        assert!(
            said.contains("note: the set db hands out 10.9.0.10-10.9.0.19 on lan too"),
            "{verb}: {said}"
        );
    }
    let (exit, _, said) = theatre.vmss(&words("scale 4"));
    assert_eq!(exit, 0, "{said}");
    let given: Vec<String> = listed_addresses(&theatre);
    assert_eq!(given, ["10.9.0.10", "10.9.0.11", "10.9.0.13", "10.9.0.14"]);
}

/// Addresses of the set's instances, by id.
fn listed_addresses(theatre: &Theatre) -> Vec<String> {
    let (_, text, _) = theatre.vmss(&words("instances -o json"));
    let all: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let address = |line: &serde_json::Value| line["addresses"][0].as_str().unwrap().to_owned();
    all.iter().map(address).collect()
}
