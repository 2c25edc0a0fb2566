//! `vmss instance log`: what guests have said on their serial consoles, as their hosts have kept it.

use std::io::Write as _;

use anstream::adapter::StripBytes;
use serde::Serialize;

use super::each::{Job, Outcome, ask_each, jobs};
use super::select::{look_for, select};
use crate::cli::Selection;
use crate::commands::Context;
use crate::error::{Error, Exit, Result};
use crate::hypervisor::{ConsoleLog, FaultKind, Hypervisor, HypervisorError, Pulse};
use crate::names::{InstanceId, Label};
use crate::plan::action::InstanceRef;
use crate::units::Bytes;
use crate::world::Output;

/// The most that is shown of one log, as Google shows of a serial port: what tells why a guest does not come up is at
/// the end.
const MOST: Bytes = Bytes::mib(1);

/// One instance of the JSON document.
#[derive(Serialize)]
struct Line {
    id: InstanceId,
    name: String,
    host: Label,
    log: Option<String>,
    truncated: bool,
    error: Option<String>,
}

/// Shows the logs of what is selected.
pub fn run(ctx: &Context<'_>, selection: &Selection, lines: Option<usize>, follow: bool) -> Result<Exit> {
    if follow && ctx.is_json() {
        return Err(Error::message(
            Exit::Usage,
            "--follow has no JSON: what is followed has no end",
        ));
    }
    let mut target = ctx.target()?;
    let inventory = look_for(ctx, &mut target, selection);
    let ids = select(&target.record, &inventory, selection)?;
    if ids.is_empty() {
        ctx.say(format!(
            "{}: no instance is like that: nothing to show",
            target.name
        ));
        return Ok(Exit::Converged);
    }
    if follow && ids.len() > 1 {
        let text = format!("--follow takes one instance, {} are selected", ids.len());
        return Err(Error::message(Exit::Usage, text).hint("give one id"));
    }
    let jobs = jobs(
        ctx,
        &target.record,
        &inventory,
        &ids,
        "reading the console log of",
    );
    let patience = target.record.applied.limits.call_timeout;
    let alone = jobs.len() == 1;
    let ask = |host: &dyn Hypervisor, instance: &InstanceRef, pulse: &Pulse| {
        host.console_log(instance, MOST, pulse)
    };
    let mut documents = Vec::new();
    let mut first_error = None;
    let mut end = 0;
    let mut paper = Paper::new(ctx);
    ask_each(ctx, &jobs, patience, ask, |job, outcome| {
        let outcome = outcome.map(|log| cut(log, lines));
        if ctx.is_json() {
            documents.push(document(job, &outcome));
        } else {
            show(ctx, &mut paper, job, &outcome, (alone, lines.is_none()));
        }
        match outcome {
            Ok(log) => end = log.end,
            Err(e) => first_error = first_error.take().or(Some(e)),
        }
    });
    if ctx.is_json() {
        ctx.json(&documents);
    }
    if ctx.world.interrupt.is_set() {
        return Ok(Exit::Interrupted);
    }
    match first_error {
        Some(e) if alone => return Err(explain(e)),
        Some(_) => {
            paper.finish();
            return Ok(Exit::Failed);
        }
        None => {}
    }
    if follow {
        return go_on(ctx, &jobs, patience, end, paper);
    }
    paper.finish();
    Ok(Exit::Converged)
}

/// Where logs are written to. A terminal gets no control sequences: it is the operator's, and what is shown is a
/// guest's.
struct Paper {
    stdout: Output,
    strip: Option<StripBytes>,
    is_line_open: bool,
}

impl Paper {
    fn new(ctx: &Context<'_>) -> Self {
        Self {
            stdout: ctx.world.stdout.clone(),
            strip: ctx.world.env.stdout_is_terminal.then(StripBytes::new),
            is_line_open: false,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        // A reader that went away is no error of ours.
        match &mut self.strip {
            None => drop(self.stdout.write_all(bytes)),
            Some(strip) => strip
                .strip_next(bytes)
                .for_each(|part| drop(self.stdout.write_all(part))),
        }
        let _ = self.stdout.flush();
        self.is_line_open = bytes.last().map_or(self.is_line_open, |last| *last != b'\n');
    }

    /// What one guest has begun and not ended, a title, say, swallows nothing of another's.
    fn begin_line(&mut self) {
        if let Some(strip) = &mut self.strip {
            *strip = StripBytes::new();
        }
    }

    /// On a terminal, the shell's prompt begins a line, also after a guest's "login: ".
    fn finish(&mut self) {
        if self.strip.is_some() && self.is_line_open {
            self.write(b"\n");
        }
    }
}

/// The last lines of a log.
fn cut(mut log: ConsoleLog, lines: Option<usize>) -> ConsoleLog {
    let Some(lines) = lines else {
        return log;
    };
    let body = log.text.strip_suffix(b"\n").unwrap_or(&log.text);
    let breaks = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    if let Some(first) = breaks.map(|(at, _)| at + 1).nth(lines.saturating_sub(1)) {
        log.text.drain(..first);
        log.is_cut = true;
    }
    log
}

fn show(
    ctx: &Context<'_>,
    paper: &mut Paper,
    job: &Job,
    outcome: &Outcome<ConsoleLog>,
    (alone, is_whole_wanted): (bool, bool),
) {
    let name = &job.instance.name;
    match outcome {
        Err(_) if alone => {}
        Err(e) => ctx
            .world
            .stderr
            .line(format!("{name}: {} {}", ctx.style.bad("error:"), e.message)),
        Ok(log) if log.text.is_empty() && !log.is_cut => ctx.say(format!("{name} has said nothing yet")),
        Ok(log) if alone => paper.write(&log.text),
        Ok(log) => {
            for line in log
                .text
                .strip_suffix(b"\n")
                .unwrap_or(&log.text)
                .split(|byte| *byte == b'\n')
            {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                paper.begin_line();
                paper.write(format!("{name}: ").as_bytes());
                // On a terminal what follows a carriage return would stand over the name.
                let is_terminal = paper.strip.is_some();
                for part in line.split(|byte| *byte == b'\r' && is_terminal) {
                    paper.write(part);
                }
                paper.write(b"\n");
            }
        }
    }
    if is_whole_wanted && outcome.as_ref().is_ok_and(|log| log.is_cut) {
        ctx.say(format!(
            "note: {name} has said more: only the last {MOST} are shown"
        ));
    }
}

/// Shows what is added to the log of the only one.
fn go_on(
    ctx: &Context<'_>,
    jobs: &[std::sync::Arc<Job>],
    patience: std::time::Duration,
    from: u64,
    paper: Paper,
) -> Result<Exit> {
    let paper = std::sync::Mutex::new(paper);
    let ask = move |host: &dyn Hypervisor, instance: &InstanceRef, pulse: &Pulse| {
        host.follow_console_log(instance, from, pulse, &mut |bytes| {
            let mut paper = paper.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            paper.write(bytes);
        })
    };
    let mut error = None;
    ask_each(ctx, jobs, patience, ask, |job, outcome| match outcome {
        Ok(()) if ctx.world.interrupt.is_set() => {}
        Ok(()) => ctx.say(format!("{} is gone", job.instance.name)),
        Err(e) => error = Some(e),
    });
    match error {
        _ if ctx.world.interrupt.is_set() => Ok(Exit::Interrupted),
        Some(e) => Err(explain(e)),
        None => Ok(Exit::Converged),
    }
}

fn document(job: &Job, outcome: &Outcome<ConsoleLog>) -> Line {
    let log = outcome.as_ref().ok();
    Line {
        id: job.instance.id,
        name: job.instance.name.clone(),
        host: job.host.clone(),
        log: log.map(|l| String::from_utf8_lossy(&l.text).into_owned()),
        truncated: log.is_some_and(|l| l.is_cut),
        error: outcome.as_ref().err().map(|e| e.message.clone()),
    }
}

/// What to try when the only one has no log to show.
fn explain(e: HypervisorError) -> Error {
    let hint = match e.kind {
        FaultKind::Unreachable | FaultKind::TimedOut => Some("vmss check tells what is wrong with the host"),
        FaultKind::Unsupported => Some("vmss instance console shows what a guest says from now on"),
        FaultKind::Missing => {
            Some("a log begins when its instance is started: vmss instance restart begins one")
        }
        _ => None,
    };
    let error = Error::from(e);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_cut_out() {
        let text = |lines: usize, text: &str| {
            let log = ConsoleLog {
                text: text.as_bytes().to_vec(),
                ..ConsoleLog::default()
            };
            let log = cut(log, Some(lines));
            (String::from_utf8(log.text).unwrap(), log.is_cut)
        };
        let is = |text: &str, is_cut| (text.to_owned(), is_cut);
        assert_eq!(text(1, "a\nb\nc\n"), is("c\n", true));
        assert_eq!(text(2, "a\nb\nc"), is("b\nc", true));
        assert_eq!(text(3, "a\nb\nc\n"), is("a\nb\nc\n", false));
        assert_eq!(text(9, "a\n"), is("a\n", false));
        assert_eq!(text(1, "\n\n"), is("\n", true));
        assert_eq!(text(1, ""), is("", false));
    }
}
