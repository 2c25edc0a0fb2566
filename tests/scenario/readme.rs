//! The README's transcripts, held against the program on the fake fleet. What differs from machine to machine (numbers,
//! times, paths, names of people) is not compared; words, their order and the lines are.
//!
//! A transcript is a code block below a comment that says how its stage is set:
//!
//! ```text
//! <!-- stage: create; scale 9 --yes -->
//! ```
//!
//! Three hosts in three fault domains and a definition of six instances are there already; lines of the comment that
//! begin with a vmss command's verb are run as such, others as a scenario's.

use super::compare::{difference, lines, lines_match};
use super::stage::COMMANDS;
use super::theatre::Theatre;

/// One code block.
pub struct Transcript {
    line: usize,
    stage: Vec<String>,
    commands: Vec<(String, Vec<String>)>,
}

/// The transcripts of a text that are to be held against the program.
pub fn transcripts(text: &str) -> Vec<Transcript> {
    let mut found = Vec::new();
    let mut stage: Option<Vec<String>> = None;
    let mut inside: Option<Transcript> = None;
    for (i, line) in text.lines().enumerate() {
        if let Some(rest) = line.strip_prefix("<!-- stage:") {
            let rest = rest.trim_end_matches("-->");
            stage = Some(rest.split(';').map(|s| s.trim().to_owned()).collect());
        } else if line.starts_with("```") {
            match inside.take() {
                Some(transcript) => found.push(transcript),
                None => {
                    inside = stage.take().map(|stage| Transcript {
                        line: i + 1,
                        stage,
                        commands: Vec::new(),
                    });
                }
            }
        } else if let Some(transcript) = &mut inside {
            match (line.strip_prefix("$ vmss "), transcript.commands.last_mut()) {
                (Some(command), _) => transcript.commands.push((command.to_owned(), Vec::new())),
                (None, Some((_, output))) => output.push(line.to_owned()),
                (None, None) => {}
            }
        }
    }
    found
}

/// What the program says otherwise than the transcript.
pub fn differences(transcript: &Transcript) -> Vec<String> {
    let mut theatre = Theatre::new();
    for line in [
        "host rack-a kvm1",
        "host rack-b kvm2",
        "host rack-c kvm3",
        "define 6",
    ] {
        theatre.command(line);
    }
    for line in transcript.stage.iter().filter(|l| !l.is_empty()) {
        let verb = line.split_whitespace().next().unwrap_or_default();
        let of_stage = COMMANDS
            .lines()
            .any(|c| c.split_whitespace().next() == Some(verb));
        let known = of_stage || matches!(verb, "define" | "definition" | "store" | "image" | "broken-image");
        let line = if known {
            line.clone()
        } else {
            format!("vmss {line}")
        };
        let outcome = theatre.command(&line);
        assert_ne!(
            outcome.0, 99,
            "README line {}: {line}: {}",
            transcript.line, outcome.2
        );
    }
    let mut wrong = Vec::new();
    for (command, expected) in &transcript.commands {
        let with_talk = command.contains("2>&1");
        let bare = command.split("2>&1").next().unwrap_or(command).trim();
        // A person answers the question that --yes answers here.
        let asked = format!("vmss --yes {bare}");
        let (_, stdout, stderr) = theatre.command(&asked);
        let talk = lines(&stderr)
            .into_iter()
            .filter(|l| with_talk || !l.starts_with("2026-"));
        let actual: Vec<String> = lines(&stdout).into_iter().chain(talk).collect();
        let (expected, actual) = (shape(expected), shape(&actual));
        if !lines_match(&expected, &actual) {
            wrong.push(format!(
                "README line {}: vmss {command} (- written, + said):\n{}",
                transcript.line,
                difference(&expected, &actual)
            ));
        }
    }
    wrong
}

/// Lines as they are compared: words, one `#` for any run of those that differ from machine to machine.
fn shape(lines: &[String]) -> Vec<String> {
    let mut shaped: Vec<String> = (lines.iter())
        // Bars are a terminal's.
        .filter(|l| !l.contains("[=") && !l.contains("[  "))
        .map(|line| {
            let mut words: Vec<&str> = Vec::new();
            for word in line.split_whitespace() {
                let differs =
                    word.chars().any(|c| c.is_ascii_digit() || matches!(c, '/' | '@')) || word == "-";
                let unit = matches!(word.trim_end_matches([',', ')']), "B" | "KiB" | "MiB" | "GiB");
                match (differs || unit, words.last()) {
                    (true, Some(&"#")) => {}
                    (true, _) => words.push("#"),
                    (false, _) => words.push(word),
                }
            }
            words.join(" ")
        })
        .collect();
    while shaped.last().is_some_and(String::is_empty) {
        shaped.pop();
    }
    shaped
}
