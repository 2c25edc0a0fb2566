//! `vmss instance exec`: a command in guests, through their agent. Side by side, told in order of ids.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write as _;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde::Serialize;

use super::select::{look_for, select};
use crate::cli::Selection;
use crate::commands::Context;
use crate::error::{Error, Exit, Result};
use crate::hypervisor::{FaultKind, Hypervisor, HypervisorError, Pulse, Ran};
use crate::inventory::Inventory;
use crate::names::{InstanceId, Label, instance_name};
use crate::plan::action::InstanceRef;
use crate::record::Record;

/// Guests in which the command runs at the same time.
const AT_ONCE: usize = 32;

/// How often it is looked whether the operator wants to stop, or a host has stopped answering.
const GLANCE: Duration = Duration::from_millis(50);

/// Where the command is to run.
struct Job {
    instance: InstanceRef,
    host: Label,
    /// Its host; or why that can't be asked.
    open: std::result::Result<Arc<dyn Hypervisor>, String>,
    pulse: Arc<Pulse>,
}

type Outcome = std::result::Result<Ran, HypervisorError>;

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
    let inventory = look_for(ctx, &mut target.record, selection);
    let ids = select(&target.record, &inventory, selection)?;
    if ids.is_empty() {
        ctx.say(format!(
            "{}: no instance is like that: nothing to run",
            target.name
        ));
        return Ok(Exit::Converged);
    }
    let jobs: Vec<Arc<Job>> = (ids.iter())
        .filter_map(|id| job(ctx, &target.record, &inventory, *id))
        .map(Arc::new)
        .collect();
    let patience = target.record.applied.limits.call_timeout;
    let alone = jobs.len() == 1;
    let mut lines = Vec::new();
    let mut codes = Vec::new();
    let mut first_error = None;
    work(ctx, &jobs, command, timeout, patience, |job, outcome| {
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

fn job(ctx: &Context<'_>, record: &Record, inventory: &Inventory, id: InstanceId) -> Option<Job> {
    let set = &record.applied;
    let known = record.known.get(&id)?;
    let host = set.host(&known.host);
    let view = inventory.host(&known.host).map(|h| &h.view);
    let open = match (host, view) {
        (_, Some(crate::inventory::View::Unseen { reason })) => Err(reason.clone()),
        (Some(host), Some(_)) => Ok(ctx.world.hosts.host(host, &set.limits)),
        _ => Err("the definition has dropped it".to_owned()),
    };
    let uuid = (inventory.instances().find(|i| i.id == id)).map_or_else(
        || crate::names::instance_uuid(record.store, &set.name, id),
        |i| i.uuid,
    );
    Some(Job {
        instance: InstanceRef {
            set: set.name.clone(),
            store: record.store,
            id,
            name: instance_name(&set.name, id),
            uuid,
        },
        host: known.host.clone(),
        open,
        pulse: Arc::new(Pulse::silent()),
    })
}

/// Has all jobs done, some at once, and hands their outcomes to `done` in the jobs' order, each as soon as those before
/// it are there. One whose host gives no sign of life for `patience` is given up; its thread is left behind.
fn work(
    ctx: &Context<'_>,
    jobs: &[Arc<Job>],
    command: &[String],
    timeout: Duration,
    patience: Duration,
    mut done: impl FnMut(&Job, Outcome),
) {
    let (tx, rx) = mpsc::channel::<(usize, Outcome)>();
    let mut waiting: VecDeque<usize> = (0..jobs.len()).collect();
    let mut in_flight: BTreeSet<usize> = BTreeSet::new();
    let mut outcomes: BTreeMap<usize, Outcome> = BTreeMap::new();
    let mut next = 0;
    while next < jobs.len() {
        while in_flight.len() < AT_ONCE
            && let Some(at) = waiting.pop_front()
        {
            in_flight.insert(at);
            begin(ctx, at, &jobs[at], command, timeout, &tx);
        }
        if let Ok((at, outcome)) = rx.recv_timeout(GLANCE)
            && in_flight.remove(&at)
        {
            outcomes.insert(at, outcome);
        }
        for at in &in_flight {
            if ctx.world.interrupt.is_set() {
                jobs[*at].pulse.cancel();
            }
        }
        while let Some(at) = (in_flight.iter().copied()).find(|at| jobs[*at].pulse.silence() > patience) {
            let job = &jobs[at];
            in_flight.remove(&at);
            job.pulse.cancel();
            let text = format!(
                "host {} gave no sign of life for {} s",
                job.host,
                patience.as_secs_f64()
            );
            outcomes.insert(at, Err(fault(job, FaultKind::Unreachable, text)));
        }
        while let Some(outcome) = outcomes.remove(&next) {
            done(&jobs[next], outcome);
            next += 1;
        }
    }
}

/// Begins one job on a thread of its own, which sends how it ended.
fn begin(
    ctx: &Context<'_>,
    at: usize,
    job: &Arc<Job>,
    command: &[String],
    timeout: Duration,
    tx: &mpsc::Sender<(usize, Outcome)>,
) {
    job.pulse.beat();
    // Whoever gave the job up wants no outcome any more.
    let end = |outcome: Outcome| drop(tx.send((at, outcome)));
    if ctx.world.interrupt.is_set() {
        return end(Err(fault(
            job,
            FaultKind::Cancelled,
            "not begun: interrupted".to_owned(),
        )));
    }
    let host = match &job.open {
        Ok(host) => Arc::clone(host),
        Err(why) => {
            let text = format!("host {} was not seen: {why}", job.host);
            return end(Err(fault(job, FaultKind::Unreachable, text)));
        }
    };
    let run = {
        let (job, command, tx) = (Arc::clone(job), command.to_vec(), tx.clone());
        move || {
            let outcome = host.exec(&job.instance, &command, timeout, &job.pulse);
            drop(tx.send((at, outcome)));
        }
    };
    if let Err(e) = std::thread::Builder::new().name("exec".into()).spawn(run) {
        end(Err(fault(
            job,
            FaultKind::Other,
            format!("starting a thread: {e}"),
        )));
    }
}

fn fault(job: &Job, kind: FaultKind, text: String) -> HypervisorError {
    HypervisorError::new(kind, format!("running a command in {}", job.instance.name), text)
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
fn tell(ctx: &Context<'_>, name: &str, outcome: &Outcome) {
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

fn line(job: &Job, outcome: &Outcome) -> Line {
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
