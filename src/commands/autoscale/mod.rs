//! `vmss autoscale`: the policy, evaluated once.

mod explain;
mod schedule;
mod simulate;
mod status;

use crate::autoscale::{Decision, are_protected};
use crate::cli::{AutoscaleArgs, AutoscaleCommand};
use crate::commands::instance::claim::{refuse_if_barred, refuse_what_is_barred, situation};
use crate::commands::{Context, Target};
use crate::converge::seeds::planned;
use crate::converge::{Consent, amend, look_and_heed};
use crate::error::{Error, Exit, Result};
use crate::inventory::Inventory;
use crate::plan::{Experience, Situation};
use crate::record::Record;
use crate::scaling::{self, Evaluation};
use crate::timed::Turn;
use crate::ui::outcome;

/// Runs one of its commands.
pub fn run(ctx: &Context<'_>, args: &AutoscaleArgs) -> Result<Exit> {
    match &args.command {
        None => once(ctx),
        Some(AutoscaleCommand::Explain { now, limit }) => explain::run(ctx, *now, *limit),
        Some(AutoscaleCommand::Status) => status::run(ctx),
        Some(AutoscaleCommand::Schedule) => schedule::run(ctx),
        Some(AutoscaleCommand::Simulate(args)) => simulate::run(ctx, args),
        Some(AutoscaleCommand::Enable) => switch(ctx, true),
        Some(AutoscaleCommand::Disable) => switch(ctx, false),
    }
}

/// That a set has no policy.
fn no_policy(target: &Target) -> Error {
    Error::message(
        Exit::Definition,
        format!("the set {} has no [autoscale] in its definition", target.name),
    )
    .hint("add it and run vmss apply; vmss init shows one, vmss scale N --for 2h needs none")
}

/// Looks at the set, and takes in what was seen. What is known of its health counts at once.
fn seen(ctx: &Context<'_>, target: &Target) -> Result<(Record, Inventory)> {
    let mut record = target.record.clone();
    let inventory = look_and_heed(ctx.world, &*target.store, &mut record)?;
    Ok((record, inventory))
}

/// Evaluates once and acts.
fn once(ctx: &Context<'_>) -> Result<Exit> {
    let target = ctx.wanted()?;
    let name = target.name.clone();
    ctx.mention_drift(&target);
    let policy = target.record.applied.autoscale.as_ref();
    if policy.is_none() && target.record.timed.is_empty() {
        // A cron that carries out what was timed has nothing to complain of when nothing is.
        ctx.say(format!(
            "{name}: nothing to do: the definition has no [autoscale], and no capacity is asked for at a time"
        ));
        if ctx.is_json() {
            ctx.json(&serde_json::json!({
                "set": name,
                "command": "autoscale",
                "decision": null,
                "turns": [],
                "exit_code": 0,
            }));
        }
        return Ok(Exit::Converged);
    }
    let (record, inventory) = seen(ctx, &target)?;
    // Nothing of it could be carried out, and it would begin by itself once the record is brought level.
    refuse_what_is_barred(situation(ctx, &record, &inventory, &Experience::default()))?;
    let evaluation = scaling::evaluate(ctx.world, &*target.store, &name, &record, &inventory)?;
    tell(ctx, &target, &evaluation);
    let (from, to) = (evaluation.from, evaluation.record.capacity);
    let left = planned(
        ctx.world,
        Situation {
            set: &evaluation.record.applied,
            record: &evaluation.record,
            inventory: &inventory,
            experience: &Experience::default(),
            now: ctx.world.clock.now(),
            drawn: (ctx.world.draw)(),
        },
    );
    let is_done = left.steps.is_empty()
        && left.held.is_empty()
        && left.again.is_none()
        && left.rollout.is_none()
        && left.lost.is_empty();
    let unsure = |exit: Exit| match exit {
        Exit::Converged if !evaluation.unreachable.is_empty() => Exit::Unreachable,
        exit => exit,
    };
    if is_done && !evaluation.has_changed() {
        // Nothing is to be done, and so nobody need be kept from doing anything.
        let exit = unsure(left.report.verdict().into());
        document(ctx, &target, &evaluation, exit, None);
        return Ok(exit);
    }
    let held = ctx.hold_for(
        &target,
        &format!("autoscale {name} to {to}"),
        (from != to).then_some(to),
    )?;
    let operation = ctx.operation(&name, "autoscale", Some(from), Some(to));
    // Nobody is asked: that the capacity follows the policy and the clock is what the command is for.
    let ending = ctx.converge(&target.store, &held, &operation, Consent::Any)?;
    if ctx.is_json() {
        let exit = unsure(ending.exit());
        let run = outcome::document(&name, "autoscale", &ending, exit);
        document(ctx, &target, &evaluation, exit, Some(run));
        return Ok(exit);
    }
    Ok(unsure(ctx.conclude(&name, "autoscale", &ending)))
}

/// The evaluation and what was done about it, in one document.
fn document(
    ctx: &Context<'_>,
    target: &Target,
    evaluation: &Evaluation,
    exit: Exit,
    run: Option<serde_json::Value>,
) {
    if ctx.is_json() {
        ctx.json(&serde_json::json!({
            "set": target.name,
            "command": "autoscale",
            "from": evaluation.from,
            "to": evaluation.record.capacity,
            "decision": evaluation.decision,
            "turns": evaluation.turns,
            "unreachable": evaluation.unreachable,
            "exit_code": exit.code(),
            "run": run,
        }));
    }
}

/// What was decided, in the order in which it matters.
fn tell(ctx: &Context<'_>, target: &Target, evaluation: &Evaluation) {
    for line in lines(evaluation) {
        let text = match line.starts_with(['!', ' ']) {
            true => line,
            false => format!("{}: {line}", target.name),
        };
        // What is wrong is said to whoever wants to hear of nothing else, too: a cron's mail is read for that.
        match evaluation.unreachable.is_empty() {
            true => ctx.say(text),
            false => ctx.world.stderr.line(text),
        }
    }
    let policy = evaluation.record.applied.autoscale.as_ref();
    if let (None, Some(policy)) = (&evaluation.decision, policy) {
        let why = match &evaluation.record.autoscale.disabled {
            _ if !policy.enabled => "the definition has enabled = false".to_owned(),
            Some(off) => format!("{} has switched it off: vmss autoscale enable", off.by),
            None => return,
        };
        ctx.say(format!("{}: [autoscale] is not in force: {why}", target.name));
    }
}

/// An evaluation in sentences.
pub fn lines(evaluation: &Evaluation) -> Vec<String> {
    let mut lines: Vec<String> = evaluation.turns.iter().map(turn).collect();
    if let Some(decision) = &evaluation.decision {
        lines.push(decision.reason.clone());
        lines.extend(unsaid(decision).map(|held| format!("  {held}")));
    }
    let said = lines.join("\n");
    let unsaid = |what: &&String| what.split_once(": ").is_none_or(|(_, why)| !said.contains(why));
    let unreachable = evaluation.unreachable.iter().filter(unsaid);
    lines.extend(unreachable.map(|what| format!("! {what}")));
    lines
}

/// What keeps the set from more, as far as the reason does not say it already.
fn unsaid(decision: &Decision) -> impl Iterator<Item = &String> {
    decision
        .held
        .iter()
        .filter(|held| !decision.reason.contains(*held))
}

/// What the time has brought about, as a sentence.
pub fn turn(turn: &Turn) -> String {
    match turn {
        Turn::Began {
            timed,
            to,
            protected: Some(n),
            ..
        } => format!(
            "{} that {} wanted at this time is held back at {to}: {}",
            timed.capacity,
            timed.by,
            are_protected(*n)
        ),
        Turn::Began { timed, from, to, .. } => {
            format!("from {from} to {to}, as {} wanted at this time", timed.by)
        }
        Turn::Ended { timed, to, protected } => {
            let over = format!("the time of {} that {} wanted is over", timed.capacity, timed.by);
            match (to, protected, timed.before) {
                (Some(to), Some(n), Some(before)) => {
                    format!(
                        "{over}: back to {to} and not to {before}, for {}",
                        are_protected(*n)
                    )
                }
                (Some(to), ..) => format!("{over}: back to {to}"),
                (None, ..) => over,
            }
        }
        Turn::Missed { timed } => format!(
            "{} that {} wanted is left out: its time had passed before anybody looked",
            timed.capacity, timed.by
        ),
    }
}

/// Switches the policy on or off.
fn switch(ctx: &Context<'_>, on: bool) -> Result<Exit> {
    let target = ctx.wanted()?;
    let Some(policy) = &target.record.applied.autoscale else {
        return Err(no_policy(&target));
    };
    if on && !policy.enabled {
        return Err(Error::message(
            Exit::Blocked,
            format!("the definition of {} has autoscale.enabled = false", target.name),
        )
        .hint("set it to true and run vmss apply"));
    }
    if on {
        refuse_if_barred(ctx, &*target.store, &target.record)?;
    }
    let (who, now) = (ctx.world.env.who(), ctx.world.clock.now());
    let mut changed = false;
    amend(&*target.store, &target.name, |record| {
        let disabled = &mut record.autoscale.disabled;
        changed = disabled.is_some() == on;
        if changed {
            *disabled = (!on).then(|| crate::autoscale::Disabled {
                by: who.clone(),
                at: now,
            });
            // What was recommended before says nothing of what is there after it.
            record.autoscale.recommended = crate::autoscale::Peaks::default();
        }
        changed
    })?;
    let state = if on { "in force" } else { "switched off" };
    let already = if changed { "" } else { " already" };
    ctx.say(format!(
        "{} {}: autoscaling is {state}{already}",
        ctx.style.good("ok"),
        target.name
    ));
    Ok(Exit::Converged)
}
