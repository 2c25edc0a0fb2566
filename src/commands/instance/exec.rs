//! `vmss instance exec`: a command in guests, through their agent.

use std::io::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::each::{Job, Outcome, ask_each, jobs};
use super::select::{look_for, select};
use crate::cli::Selection;
use crate::commands::Context;
use crate::error::{Error, Exit, Result};
use crate::hypervisor::{FaultKind, Hypervisor, HypervisorError, Pulse, Ran};
use crate::names::{InstanceId, Label};
use crate::plan::action::InstanceRef;

/// One instance of the JSON document.
#[derive(Serialize)]
struct Line {
    id: InstanceId,
    name: String,
    host: Label,
    exit_code: Option<u8>,
    stdout: Option<String>,
    stderr: Option<String>,
    truncated: bool,
    error: Option<String>,
}

/// Runs `command` in what is selected.
pub fn run(ctx: &Context<'_>, selection: &Selection, timeout: Duration, command: &[String]) -> Result<Exit> {
    let mut target = ctx.target()?;
    let inventory = look_for(ctx, &mut target, selection);
    let ids = select(&target.record, &inventory, selection)?;
    if ids.is_empty() {
        ctx.say(format!(
            "{}: no instance is like that: nothing to run",
            target.name
        ));
        return Ok(Exit::Converged);
    }
    let jobs = jobs(ctx, &target.record, &inventory, &ids, "running a command in");
    let patience = target.record.applied.limits.call_timeout;
    let alone = jobs.len() == 1;
    let mut lines = Vec::new();
    let mut codes = Vec::new();
    let mut first_error = None;
    let words = command.to_vec();
    let ask = move |host: &dyn Hypervisor, instance: &InstanceRef, pulse: &Pulse| {
        host.exec(instance, &words, timeout, pulse)
    };
    ask_each(ctx, &jobs, patience, ask, |job, outcome| {
        if ctx.is_json() {
            lines.push(line(job, &outcome));
        } else if alone {
            if let Ok(ran) = &outcome {
                show(ctx, ran);
            }
        } else {
            tell(ctx, &job.instance.name, &outcome);
        }
        match outcome {
            Ok(ran) => codes.push(ran.code),
            Err(e) => first_error = first_error.take().or(Some(e)),
        }
    });
    if ctx.is_json() {
        ctx.json(&lines);
    }
    if ctx.world.interrupt.is_set() {
        ctx.say("interrupted: what was begun goes on in the guests");
        return Ok(Exit::Interrupted);
    }
    match (alone, first_error) {
        (true, Some(e)) => Err(explain(e)),
        (true, None) => Ok(codes.first().map_or(Exit::Failed, |code| Exit::Guest(*code))),
        (false, None) if codes.iter().all(|code| *code == 0) => Ok(Exit::Converged),
        (false, _) => Ok(Exit::Failed),
    }
}

/// The output of the only one, as it is.
fn show(ctx: &Context<'_>, ran: &Ran) {
    // A reader that went away is no error of ours.
    let _ = ctx.world.stdout.clone().write_all(&ran.stdout);
    let _ = ctx.world.stdout.clone().flush();
    let _ = ctx.world.stderr.clone().write_all(&ran.stderr);
    if ran.is_cut {
        ctx.say("note: the agent has kept only the beginning of the output");
    }
}

/// The output of one of several, its name before each line.
fn tell(ctx: &Context<'_>, name: &str, outcome: &Outcome<Ran>) {
    let ran = match outcome {
        Ok(ran) => ran,
        Err(e) => {
            let text = format!("{name}: {} {}", ctx.style.bad("error:"), e.message);
            ctx.world.stderr.line(text);
            return;
        }
    };
    for line in String::from_utf8_lossy(&ran.stdout).lines() {
        ctx.print(format!("{name}: {line}"));
    }
    for line in String::from_utf8_lossy(&ran.stderr).lines() {
        ctx.world.stderr.line(format!("{name}: {line}"));
    }
    if ran.is_cut {
        ctx.say(format!(
            "{name}: the agent has kept only the beginning of the output"
        ));
    }
    if ran.code != 0 {
        ctx.world
            .stderr
            .line(format!("{name}: ended with exit code {}", ran.code));
    }
}

fn line(job: &Job, outcome: &Outcome<Ran>) -> Line {
    let ran = outcome.as_ref().ok();
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    Line {
        id: job.instance.id,
        name: job.instance.name.clone(),
        host: job.host.clone(),
        exit_code: ran.map(|r| r.code),
        stdout: ran.map(|r| text(&r.stdout)),
        stderr: ran.map(|r| text(&r.stderr)),
        truncated: ran.is_some_and(|r| r.is_cut),
        error: outcome.as_ref().err().map(|e| e.message.clone()),
    }
}

/// What to try when the only one could not be reached so.
fn explain(e: HypervisorError) -> Error {
    let is_long = e.message.contains("has not ended");
    let hint = match e.kind {
        FaultKind::Unreachable => "vmss check tells what is wrong with the host",
        _ if is_long => "give --timeout for a command that takes long",
        FaultKind::TimedOut => "the guest is busy or stuck: vmss instance console shows what it says",
        _ if e.message.contains("not connected") => {
            "the guest needs qemu-guest-agent, running; vmss instance ssh and console do without"
        }
        _ if e.message.contains("not running") => "vmss instance start switches it on",
        _ => "nothing goes through a shell: for pipes and variables give sh -c '...'",
    };
    let mut error = Error::from(e);
    if is_long {
        // Everything was reached: it is the command that failed.
        error.exit = Exit::Failed;
    }
    error.hint(hint)
}
