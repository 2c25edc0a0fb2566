//! Scenarios: files that a person reads without Rust, one command a line with what is expected of it below.
//!
//! ```text
//! # A comment.
//! host rack-a kvm1 cpus 8 memory 16GiB        a preparation: must succeed
//!
//! > vmss scale 9 --yes                        a command that is watched
//! exit 5                                      its exit code; not written out it is 0
//! | ID  HOST                                  a line of stdout: all of them are compared
//! | ...                                       stands for any lines
//! ! error: no room [..]                       a line of stderr, compared if there is any; [..] stands for any text
//! ```
//!
//! With `UPDATE=1` in the environment the expectations that don't hold are written anew; those that hold keep their
//! `...` and `[..]`.

#![allow(
    dead_code,
    reason = "each test program that includes the reader uses a part of it"
)]

pub mod at_once;
pub mod compare;
pub mod controller;
pub mod daily;
pub mod odd;
pub mod parse;
pub mod readme;
pub mod shelf;
pub mod stage;
pub mod theatre;

use std::fs;
use std::path::{Path, PathBuf};

use compare::{difference, lines, lines_match};
use parse::{Command, Part};

/// What a command did: exit code, stdout, stderr.
pub type Outcome = (u8, String, String);

/// What came of a scenario.
#[derive(Debug, Default)]
pub struct Report {
    /// The scenario with expectations that hold.
    pub settled: String,
    /// Where watched commands did something else than expected.
    pub differences: Vec<String>,
    /// Preparations that failed: no expectation can mend that.
    pub failures: Vec<String>,
}

/// Runs a scenario to its end.
///
/// # Errors
/// A sentence if the text is no scenario.
pub fn run(text: &str, mut command: impl FnMut(&str) -> Outcome) -> Result<Report, String> {
    let mut parts = parse::parse(text)?;
    let mut report = Report::default();
    for part in &mut parts {
        if let Part::Command(expected) = part {
            let outcome = command(&expected.text);
            let wrong = settle(expected, &outcome);
            if expected.is_watched {
                report.differences.extend(wrong);
            } else {
                report.failures.extend(wrong);
            }
        }
    }
    report.settled = parse::write(&parts);
    Ok(report)
}

/// Brings the expectations into line with the outcome; what differed, if anything.
fn settle(expected: &mut Command, (exit, stdout, stderr): &Outcome) -> Option<String> {
    let mut wrong = String::new();
    let wanted = expected.exit.unwrap_or(0);
    if *exit != wanted {
        wrong += &format!("  exit {exit} instead of {wanted}\n");
        if expected.stderr.is_none() {
            wrong += &format!("  stderr:\n{}", difference(&[], &lines(stderr)));
        }
        expected.exit = Some(*exit);
    }
    if expected.is_watched {
        let mut compare = |name: &str, expected: &mut Vec<String>, actual: Vec<String>| {
            if !lines_match(expected, &actual) {
                wrong += &format!(
                    "  {name} (- expected, + actual):\n{}",
                    difference(expected, &actual)
                );
                *expected = actual;
            }
        };
        compare("stdout", &mut expected.stdout, lines(stdout));
        if let Some(expected) = &mut expected.stderr {
            compare("stderr", expected, lines(stderr));
        }
    } else {
        // What a preparation says is nobody's business, and that it fails can't be made an expectation.
        expected.exit = None;
    }
    (!wrong.is_empty()).then(|| format!("line {}: {}\n{wrong}", expected.line, expected.text))
}

/// Runs the scenario in a file.
///
/// # Errors
/// What differed, in words. If `update` is set, only what can't be written anew: a preparation that failed.
pub fn run_file(path: &Path, update: bool, command: impl FnMut(&str) -> Outcome) -> Result<(), String> {
    let at = |what: &str| format!("{}: {what}", path.display());
    let text = fs::read_to_string(path).map_err(|e| at(&e.to_string()))?;
    let report = run(&text, command).map_err(|e| at(&e))?;
    if !report.failures.is_empty() {
        // What follows a failed preparation means nothing, and is not what anybody would want written down.
        return Err(at(&report.failures.join("\n")));
    }
    if update && report.settled != text {
        fs::write(path, report.settled).map_err(|e| at(&e.to_string()))?;
    }
    if update || report.differences.is_empty() {
        return Ok(());
    }
    let hint = "run the tests with UPDATE=1 if that is how it should be";
    Err(format!("{}\n{hint}", at(&report.differences.join("\n"))))
}

/// The scenarios in a folder, in order of their names.
///
/// # Errors
/// The folder can't be read.
pub fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "txt"));
    files.sort();
    Ok(files)
}

/// Whether the operator of the tests wants expectations written anew.
#[expect(
    clippy::disallowed_methods,
    reason = "a test has no world to ask for its environment"
)]
pub fn is_update() -> bool {
    std::env::var("UPDATE").is_ok_and(|v| v == "1")
}
