//! `vmss instance exec`: a command in guests, through their agent.

use std::io::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::each::{Job, Outcome, ask_each, jobs};
use super::select::{look_for, select};
use crate::cli::Selection;
use crate::commands::Context;
use crate::error::{Error, Exit, Result};
use crate::hypervisor::{FaultKind, Hypervisor, HypervisorError, MOST_OUTPUT, Pulse, Ran};
use crate::names::{InstanceId, Label};
use crate::plan::action::InstanceRef;
use crate::said::plain;
use crate::units::Bytes;

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

/// The output of the only one: as it is where a program reads it, and as text on a terminal, which a guest must not steer.
fn show(ctx: &Context<'_>, ran: &Ran) {
    let env = &ctx.world.env;
    let parts = [
        (&ctx.world.stdout, &ran.stdout, env.stdout_is_terminal),
        (&ctx.world.stderr, &ran.stderr, env.stderr_is_terminal),
    ];
    for (to, bytes, is_terminal) in parts {
        let mut to = to.clone();
        // A reader that went away is no error of ours.
        let _ = match is_terminal {
            true => to.write_all(plain(&String::from_utf8_lossy(bytes)).as_bytes()),
            false => to.write_all(bytes),
        };
        let _ = to.flush();
    }
    if ran.is_cut {
        ctx.say(cut());
    }
    if ran.code == NO_PROGRAM {
        ctx.say(format!("hint: {NO_SHELL}"));
    }
}

/// The code of a program that is not there.
const NO_PROGRAM: u8 = 127;

/// What to know of how commands are run.
const NO_SHELL: &str = "nothing goes through a shell: for pipes and variables give sh -c '...'";

/// That there was more than is shown.
fn cut() -> String {
    format!(
        "note: the output is cut: of each stream the first {} are kept",
        Bytes(MOST_OUTPUT as u64)
    )
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
    // Nobody writes over what another has said.
    for line in plain(&String::from_utf8_lossy(&ran.stdout)).lines() {
        ctx.print(format!("{name}: {line}"));
    }
    for line in plain(&String::from_utf8_lossy(&ran.stderr)).lines() {
        ctx.world.stderr.line(format!("{name}: {line}"));
    }
    if ran.is_cut {
        ctx.say(format!("{name}: {}", cut()));
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
    let hint = match e.kind {
        FaultKind::Unreachable | FaultKind::TimedOut => "vmss check tells what is wrong with the host",
        FaultKind::GoesOn => "give --timeout for a command that takes long",
        FaultKind::AgentSilent => "the guest is busy or stuck: vmss instance console shows what it says",
        FaultKind::AgentBroken => {
            "restart qemu-guest-agent in the guest, or the instance (vmss instance restart); vmss instance ssh and console \
             do without"
        }
        FaultKind::AgentAbsent => {
            "the guest needs qemu-guest-agent, running; vmss instance ssh and console do without"
        }
        FaultKind::NotRunning => "vmss instance start switches it on",
        _ => NO_SHELL,
    };
    Error::from(e).hint(hint)
}
