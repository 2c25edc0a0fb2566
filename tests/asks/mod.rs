//! Anything that deletes asks first: every command there is, beside everything that it could delete though its own words do not
//! name it, with and without somebody to ask.

use std::collections::BTreeSet;

use clap::CommandFactory as _;

use super::scenario::theatre::Theatre;
use super::words;

/// What a command does where something would be deleted that it does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// It asks, needs `--yes`, or is refused.
    Asks,
    /// Nobody is there to be asked: it carries out what the record says somebody has asked for.
    Unasked,
    /// It deletes nothing of the kind.
    Nothing,
    /// It is tried elsewhere: it never ends, or becomes another program.
    Elsewhere,
}

/// Every command, as it is typed.
const TABLE: &[(&str, Rule)] = &[
    ("create", Rule::Asks),
    ("apply", Rule::Asks),
    ("upgrade", Rule::Asks),
    ("upgrade resume", Rule::Asks),
    ("upgrade rollback", Rule::Asks),
    ("repair", Rule::Asks),
    ("scale +0", Rule::Asks),
    ("scale 2", Rule::Asks),
    ("instance start 1", Rule::Asks),
    ("instance stop 1", Rule::Asks),
    ("instance restart 1", Rule::Asks),
    ("instance reimage 1", Rule::Asks),
    ("instance replace 1", Rule::Asks),
    ("instance delete 1", Rule::Asks),
    ("instance protect --from scale-in 1", Rule::Asks),
    ("instance unprotect 1", Rule::Asks),
    ("host drain kvm1", Rule::Asks),
    ("delete", Rule::Asks),
    ("autoscale", Rule::Unasked),
    ("init other", Rule::Nothing),
    ("validate", Rule::Nothing),
    ("schema", Rule::Nothing),
    ("completions bash", Rule::Nothing),
    ("man", Rule::Nothing),
    ("check", Rule::Nothing),
    ("plan", Rule::Nothing),
    ("upgrade status", Rule::Nothing),
    ("upgrade pause", Rule::Nothing),
    ("upgrade cancel", Rule::Nothing),
    ("model list", Rule::Nothing),
    ("model show", Rule::Nothing),
    ("model diff", Rule::Nothing),
    ("wait --for capacity --timeout 1s", Rule::Nothing),
    ("autoscale explain", Rule::Nothing),
    ("autoscale status", Rule::Nothing),
    ("autoscale schedule", Rule::Nothing),
    ("autoscale simulate", Rule::Nothing),
    ("autoscale disable", Rule::Nothing),
    ("autoscale enable", Rule::Nothing),
    ("show", Rule::Nothing),
    ("instances", Rule::Nothing),
    ("instance exec 1 -- true", Rule::Nothing),
    ("instance log 1", Rule::Nothing),
    ("lb show", Rule::Nothing),
    ("lb sync", Rule::Nothing),
    ("lb config", Rule::Nothing),
    ("list", Rule::Nothing),
    ("host list", Rule::Nothing),
    ("host cordon kvm2", Rule::Nothing),
    ("host uncordon kvm2", Rule::Nothing),
    ("image list", Rule::Nothing),
    ("image push", Rule::Nothing),
    ("image prune", Rule::Nothing),
    ("history", Rule::Nothing),
    ("state show", Rule::Nothing),
    ("state rebuild", Rule::Nothing),
    ("state adopt", Rule::Nothing),
    // Nothing is odd in this world: whose a domain is, nobody has to say.
    ("state catch-up", Rule::Nothing),
    ("state sweep", Rule::Nothing),
    ("instance adopt 1", Rule::Nothing),
    ("instance disown 1", Rule::Nothing),
    ("instance settle 1 --keep kvm1", Rule::Nothing),
    ("run", Rule::Elsewhere),
    ("instance console 1", Rule::Elsewhere),
    ("instance ssh 1", Rule::Elsewhere),
];

/// What has to be so for a command to have anything to do.
fn before(command: &str) -> Option<&'static str> {
    match command {
        "upgrade resume" | "upgrade rollback" => Some("vmss upgrade --canary 1"),
        "instance unprotect 1" => Some("vmss instance protect 1 --from scale-in"),
        _ => None,
    }
}

/// A set of four, all at an older revision, of which two are to go: somebody has asked for it, and died before it was done.
fn world(command: &str) -> Theatre {
    let mut theatre = Theatre::new();
    let mut lines = vec![
        "host rack-a kvm1",
        "host rack-a kvm2",
        "definition [autoscale]",
        "definition min = 1",
        "definition max = 9",
        "definition target = { metric = { http = \"http://127.0.0.1/\", of = \"set\" }, value = 10, window = \"0s\" }",
        "definition [upgrade]",
        "definition policy = \"manual\"",
        "number http://127.0.0.1/ 20",
        "define 2",
        "vmss create",
        "image 9",
        "vmss apply",
    ];
    lines.extend(before(command));
    lines.extend([
        "vmss scale 4",
        "kill-vmss before 0",
        "vmss scale 2 --yes",
        "revive",
    ]);
    for line in lines {
        let ran = theatre.command(line);
        // The canary stops for a look: as it should, and as a pause.
        let is_cut = line.contains("--canary") || line == "vmss scale 2 --yes";
        assert!(ran.0 == 0 || is_cut, "{line}: {}", ran.2);
    }
    theatre
}

/// Every domain of the fleet, and every disk of an instance.
fn there(theatre: &Theatre) -> BTreeSet<String> {
    let fleet = &theatre.stage.fleet;
    let of = |host: &str| -> Vec<String> {
        let domains = fleet.domains(host).into_iter().map(|d| d.name);
        let volumes = fleet.volumes(host).into_iter().map(|v| v.name);
        domains
            .chain(volumes.filter(|v| v.contains("-os.")))
            .map(|name| format!("{host} {name}"))
            .collect()
    };
    ["kvm1", "kvm2"].into_iter().flat_map(of).collect()
}

#[test]
fn every_command_is_in_the_table() {
    fn leaves(command: &clap::Command, path: &str, found: &mut BTreeSet<String>) {
        let mut has_own = command.get_subcommands().next().is_none();
        // `upgrade` and `autoscale` do something by themselves, too.
        has_own |= !path.is_empty() && !command.is_subcommand_required_set();
        if has_own && !path.is_empty() {
            found.insert(path.to_owned());
        }
        for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
            leaves(sub, format!("{path} {}", sub.get_name()).trim(), found);
        }
    }
    let mut commands = BTreeSet::new();
    leaves(&vmss::cli::Cli::command(), "", &mut commands);
    let is_in = |command: &String| {
        TABLE.iter().any(|(typed, _)| {
            let names: Vec<&str> = typed.split(' ').collect();
            let path: Vec<&str> = command.split(' ').collect();
            names.starts_with(&path)
        })
    };
    let missing: Vec<&String> = commands.iter().filter(|c| !is_in(c)).collect();
    assert!(commands.len() > 40, "the commands are not found: {commands:?}");
    assert_eq!(
        missing,
        Vec::<&String>::new(),
        "say what each does where something would be deleted"
    );
}

#[test]
fn whatever_a_command_does_not_name_is_asked_about_before_it_is_deleted() {
    {
        for (command, rule) in TABLE.iter().filter(|(_, rule)| *rule != Rule::Elsewhere) {
            for (answer, yes) in [
                (None, false),
                (Some(false), false),
                (Some(true), false),
                (None, true),
            ] {
                // Without a terminal, and with one on which somebody says no, nothing goes; else the table has no say.
                let says_yes = yes || answer == Some(true);
                if *rule == Rule::Nothing && (answer, yes) != (None, true) {
                    continue;
                }
                let mut theatre = world(command);
                theatre.answer = answer;
                if *command == "instance start 1" {
                    assert_eq!(theatre.command("power-off kvm1 web-1").0, 0, "it is there");
                }
                let then = there(&theatre);
                let mut args = words(command);
                let at = args.iter().position(|a| a == "--").unwrap_or(args.len());
                if yes {
                    args.insert(at, "--yes".to_owned());
                }
                let (exit, _, stderr) = theatre.vmss(&args);
                let gone: Vec<String> = then.difference(&there(&theatre)).cloned().collect();
                let when = format!(
                    "{command}, answer {answer:?}, --yes {yes}: exit {exit}, gone {gone:?}: {stderr}"
                );
                match rule {
                    Rule::Nothing => assert!(gone.is_empty(), "{when}"),
                    Rule::Unasked => {}
                    _ if says_yes => {
                        assert!(!gone.is_empty() || command.ends_with("rollback"), "{when}");
                        assert_eq!(answer.is_some(), stderr.contains("asked: "), "{when}");
                    }
                    _ => {
                        assert!(gone.is_empty(), "{when}");
                        let (code, word) = match answer {
                            None => (2, "There is no terminal to ask on."),
                            Some(_) => (0, "nothing was changed"),
                        };
                        assert!(exit == code && stderr.contains(word), "{when}");
                    }
                }
            }
        }
    }
}

/// What a command does under a record that is older than the instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Old {
    /// It is refused with 5.
    Refused,
    /// It only looks, or says what it finds.
    Looks,
    /// It may be typed at any time, without a look at any host: whatever it asks for only makes vmss do less.
    Brakes,
    /// It is there to end that state, or an operator's word about a domain.
    Says,
}

/// What of the commands that are no mere looks does under an old record. Two of them have a form of their own that is no leaf.
const UNDER_AN_OLD_RECORD: &[(&str, Old)] = &[
    ("create", Old::Refused),
    ("apply", Old::Refused),
    ("upgrade", Old::Refused),
    ("upgrade resume", Old::Refused),
    ("upgrade rollback", Old::Refused),
    ("upgrade pause", Old::Brakes),
    ("upgrade cancel", Old::Brakes),
    ("repair", Old::Refused),
    ("scale +0", Old::Refused),
    ("scale 2", Old::Refused),
    ("scale 9 --for 2h", Old::Refused),
    ("scale 9 --at 23:59", Old::Refused),
    ("scale --cancel", Old::Brakes),
    ("instance start 1", Old::Refused),
    ("instance stop 1", Old::Refused),
    ("instance restart 1", Old::Refused),
    ("instance reimage 1", Old::Refused),
    ("instance replace 1", Old::Refused),
    ("instance delete 1", Old::Refused),
    ("instance protect --from scale-in 1", Old::Refused),
    ("instance unprotect 1", Old::Refused),
    ("host drain kvm1", Old::Refused),
    ("host cordon kvm2", Old::Brakes),
    ("host uncordon kvm2", Old::Refused),
    ("delete", Old::Refused),
    ("autoscale", Old::Refused),
    ("autoscale enable", Old::Refused),
    ("autoscale disable", Old::Brakes),
    ("image push", Old::Looks),
    ("image prune", Old::Refused),
    ("state rebuild", Old::Refused),
    ("state adopt", Old::Looks),
    ("state catch-up", Old::Says),
    ("state sweep --all", Old::Refused),
    ("instance adopt 5", Old::Says),
    ("instance disown 5", Old::Says),
    ("instance settle 1 --keep kvm1", Old::Refused),
];

/// A set whose store was put back from a backup that knows nothing of the last instances, with an image that nobody needs.
fn old_world(command: &str) -> Theatre {
    let mut theatre = Theatre::new();
    let mut lines = vec![
        "host rack-a kvm1",
        "host rack-a kvm2",
        "definition [autoscale]",
        "definition min = 1",
        "definition max = 9",
        "definition target = { metric = { http = \"http://127.0.0.1/\", of = \"set\" }, value = 10, window = \"0s\" }",
        "definition [upgrade]",
        "definition policy = \"manual\"",
        "number http://127.0.0.1/ 90",
        "define 2",
        "vmss create",
        "image 9",
        "vmss apply",
        "vmss upgrade --at-most replace --yes",
        "image 5",
        "vmss apply",
        "vmss host cordon kvm2",
        "vmss scale 5 --at 23:58",
        "vmss autoscale disable",
    ];
    lines.extend(before(command));
    lines.extend([
        "backup-store",
        "vmss host uncordon kvm2",
        "vmss scale 5",
        "restore-store",
    ]);
    for line in lines {
        let ran = theatre.command(line);
        // The canary stops for a look, and a scale beside it does what it can.
        let is_cut = before(command).is_some();
        assert!(ran.0 == 0 || is_cut, "{line}: {}", ran.2);
    }
    theatre
}

#[test]
fn under_an_old_record_no_command_changes_a_host_or_what_is_wanted() {
    use super::scenario::odd::record;
    for (command, rule) in UNDER_AN_OLD_RECORD.iter().chain(
        TABLE
            .iter()
            .filter(|(command, rule)| {
                *rule == Rule::Nothing && !UNDER_AN_OLD_RECORD.iter().any(|(c, _)| c.starts_with(command))
            })
            .map(|(command, _)| (*command, Old::Looks))
            .collect::<Vec<_>>()
            .iter(),
    ) {
        let theatre = old_world(command);
        let (before, then) = (record(&theatre), there(&theatre));
        let mut args = words(command);
        let at = args.iter().position(|a| a == "--").unwrap_or(args.len());
        args.insert(at, "--yes".to_owned());
        let (exit, _, stderr) = theatre.vmss(&args);
        let after = record(&theatre);
        let at = format!("{command}: exit {exit}: {stderr}");
        assert_eq!(there(&theatre), then, "{at}");
        if *rule == Old::Refused {
            assert_eq!(exit, 5, "{at}");
        }
        if matches!(rule, Old::Refused | Old::Looks) {
            // What is heard of instances' health is written down, and nothing else.
            let after = vmss::record::Record {
                vitals: before.vitals.clone(),
                unseen: before.unseen.clone(),
                ..after.clone()
            };
            assert_eq!(after, before, "{at}");
        }
        if *rule == Old::Brakes {
            assert!(!stderr.contains("newer than the record"), "{at}");
            let after = vmss::record::Record {
                rollout: before.rollout.clone(),
                cordons: before.cordons.clone(),
                timed: before.timed.clone(),
                autoscale: before.autoscale.clone(),
                ..after.clone()
            };
            assert_eq!(after, before, "{at}");
        }
    }
}

/// What decides something odd, with how it came about.
const DECIDES: &[(&str, &[&str])] = &[
    ("instance settle 1 --keep kvm2", &["copy kvm1 web-1 kvm2"]),
    (
        "instance adopt 1",
        &[
            "back-up kvm1 web-1",
            "vmss instance delete 1 --yes",
            "put-back kvm1 web-1",
        ],
    ),
    ("instance disown 1", &["rename kvm1 web-1 kept"]),
    ("state sweep --all", &["undefine kvm1 web-1", "vmss scale +0"]),
    (
        "state catch-up",
        &["backup-store", "vmss scale 3", "restore-store"],
    ),
    ("state rebuild", &["store another.db"]),
];

#[test]
fn whoever_decides_what_is_odd_is_asked_first() {
    for (command, before) in DECIDES {
        for answer in [None, Some(false)] {
            let mut theatre = Theatre::new();
            let made = ["host rack-a kvm1", "host rack-b kvm2", "define 2", "vmss create"];
            for line in made.iter().chain(*before) {
                let ran = theatre.command(line);
                assert_eq!(ran.0, 0, "{line}: {}", ran.2);
            }
            theatre.answer = answer;
            let then = there(&theatre);
            let (exit, _, stderr) = theatre.vmss(&words(command));
            let when = format!("{command}, answer {answer:?}: exit {exit}: {stderr}");
            assert_eq!(there(&theatre), then, "{when}");
            let (code, word) = match answer {
                None => (2, "There is no terminal to ask on."),
                Some(_) => (0, "nothing was changed"),
            };
            assert!(exit == code && stderr.contains(word), "{when}");
        }
    }
}
