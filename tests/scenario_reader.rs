//! The reader of scenarios, tried on commands that need no vmss.

#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]

mod scenario;

use scenario::parse::{parse, words, write};
use scenario::stage::Stage;
use scenario::{Outcome, files, run, run_file};

/// `say` says the words, `warn` says them on stderr, `fail N` ends so; anything else is unknown.
fn shell(line: &str) -> Outcome {
    let words = words(line).unwrap();
    let (verb, rest) = words.split_first().unwrap();
    let text = rest.iter().map(|w| format!("{w}\n")).collect();
    match verb.as_str() {
        "say" => (0, text, String::new()),
        "warn" => (0, String::new(), text),
        "fail" => (rest[0].parse().unwrap(), String::new(), "it failed\n".into()),
        _ => (2, String::new(), format!("unknown: {verb}\n")),
    }
}

fn wrong(text: &str) -> Vec<String> {
    let report = run(text, shell).unwrap();
    [report.failures, report.differences].concat()
}

const GOOD: &str = "\
# What holds stays as it is.
say 'not compared'

> say one 'two  words'
| one
| two  words
> say
> say ''
|
> fail 5
exit 5
! it failed
> fail 0
exit 0
> warn anything
> warn a b c d
! a
! ...
! d
> say 'took 3.5 s' last
| took [..] s
| ...
";

#[test]
fn what_is_as_expected_passes_and_is_not_rewritten() {
    assert_eq!(wrong(GOOD), Vec::<String>::new());
    assert_eq!(run(GOOD, shell).unwrap().settled, GOOD);
    assert_eq!(write(&parse(GOOD).unwrap()), GOOD);
}

#[test]
fn what_differs_is_told_with_its_line() {
    let wrong = wrong("# x\n\n> say a b c\n| a\n| x\n| c\n> fail 5\n");
    let [first, second] = wrong.as_slice() else {
        panic!("{wrong:?}")
    };
    assert_eq!(
        first,
        "line 3: say a b c\n  stdout (- expected, + actual):\n      a\n    - x\n    + b\n      c\n"
    );
    assert_eq!(
        second,
        "line 7: fail 5\n  exit 5 instead of 0\n  stderr:\n    + it failed\n"
    );
}

#[test]
fn stdout_nobody_expected_is_wrong_and_stderr_is_not() {
    assert_eq!(wrong("> say a\n").len(), 1);
    assert_eq!(wrong("> warn a\n").len(), 0);
    assert_eq!(wrong("> warn a\n! b\n").len(), 1);
    assert_eq!(wrong("> say\n| a\n").len(), 1);
}

#[test]
fn a_preparation_has_to_succeed() {
    assert_eq!(wrong("fail 5\n").len(), 1);
    assert_eq!(wrong("nonsense\n").len(), 1);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.txt");
    std::fs::write(&file, "fail 5\n> say a\n").unwrap();
    let error = run_file(&file, true, shell).unwrap_err();
    assert!(error.contains("line 1: fail 5"), "{error}");
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        "fail 5\n> say a\n",
        "left as it was"
    );
}

#[test]
fn any_lines_and_any_text_stand_for_any_and_for_nothing_else() {
    let holds = |text: &str| wrong(text).is_empty();
    assert!(holds("> say a b c\n| ...\n| b\n| ...\n| c\n| ...\n"));
    assert!(!holds("> say a b c\n| ...\n| b\n"));
    assert!(!holds("> say a b c\n| b\n| ...\n"));
    assert!(holds("> say\n| ...\n"));
    assert!(holds("> say 'id 7 on kvm1'\n| id [..] on [..]1\n"));
    assert!(!holds("> say 'id 7 on kvm1'\n| id [..] at [..]\n"));
    assert!(holds("> say ü7ü\n| ü[..]ü\n"));
}

#[test]
fn update_writes_what_is_wrong_and_keeps_what_holds() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("b.txt");
    std::fs::write(folder.path().join("a.md"), "no scenario").unwrap();
    std::fs::write(
        &file,
        "# x\n> say a b\n| [..]\n| b\n> say a 'b '\n| x\nexit 3\n> fail 4\n! x\n",
    )
    .unwrap();
    assert_eq!(files(folder.path()).unwrap(), std::slice::from_ref(&file));
    let error = run_file(&file, false, shell).unwrap_err();
    assert!(
        error.contains("b.txt: line 5") && error.contains("UPDATE=1"),
        "{error}"
    );
    run_file(&file, true, shell).unwrap();
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        "# x\n> say a b\n| [..]\n| b\n> say a 'b '\nexit 0\n| a\n| b\n> fail 4\nexit 4\n! it failed\n"
    );
    run_file(&file, false, shell).unwrap();
}

#[test]
fn what_makes_no_sense_is_refused_with_its_line() {
    for (text, why) in [
        ("| a\n", "line 1"),
        ("say a\n| a\n", "line 2"),
        ("> say\n\n| a\n", "line 3"),
        ("> say\nexit x\n", "line 2"),
        ("> say\nexit 1\nexit 1\n", "line 3"),
        (">\n", "line 1"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(why), "{text:?}: {error}");
    }
    assert!(words("say 'a").is_err());
    assert_eq!(words(r#"a "b 'c'"  d'e f'"#).unwrap(), ["a", "b 'c'", "de f"]);
}

fn perform(stage: &mut Stage, line: &str) -> Option<Result<(), String>> {
    stage.command(&words(line).unwrap())
}

#[test]
fn every_command_of_the_stage_is_understood() {
    let mut stage = Stage::default();
    for line in [
        "host rack-a kvm1 cpus 4 memory 8GiB pool 50GiB without-kvm lacks br7",
        "host rack-b kvm2",
        "foreign kvm1 web-3",
        "power-off kvm1 web-3",
        "undefine kvm1 web-3",
        "kill kvm1",
        "reboot kvm1",
        "hang kvm1",
        "die kvm1 after 3",
        "full kvm1",
        "full kvm1 unseen",
        "starts-fail kvm1",
        "starts-fail kvm1 4",
        "corrupt kvm1",
        "deaf kvm1",
        "deaf kvm1 4",
        "slow kvm1 10",
        "heal kvm1",
        "kill-vmss after 4",
        "kill-vmss before 4",
        "revive",
        "sleep 60",
    ] {
        assert_eq!(perform(&mut stage, line), Some(Ok(())), "{line}");
    }
    assert_eq!(stage.hosts.len(), 2);
}

#[test]
fn what_the_stage_does_not_understand_it_says_or_leaves_to_others() {
    let mut stage = Stage::default();
    assert_eq!(perform(&mut stage, "vmss scale 3"), None);
    perform(&mut stage, "host rack-a kvm1").unwrap().unwrap();
    for (line, why) in [
        ("kill kvm9", "there is no host kvm9"),
        ("kill kvm1 now", "it goes like this: kill HOST"),
        ("kill", "it goes like this: kill HOST"),
        ("sleep long", "long: invalid digit"),
        ("kill-vmss", "it goes like this: kill-vmss"),
        ("host rack-a kvm2 wheels 4", "wheels is nothing"),
        ("host rack-a KVM", "may not stand in a name"),
        ("undefine kvm1 web-1", "kvm1 has no domain web-1"),
    ] {
        let error = perform(&mut stage, line).unwrap().unwrap_err();
        assert!(error.starts_with(line) && error.contains(why), "{error}");
    }
}
