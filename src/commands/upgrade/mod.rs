//! `vmss upgrade` and what belongs to it: bringing instances to the current revision, and watching, pausing, resuming,
//! cancelling and rolling back the rollout that does it.

mod status;

pub use status::in_words;

use crate::cli::{UpgradeArgs, UpgradeCommand};
use crate::commands::{Context, Target, apply, consent};
use crate::converge::{Consent, Ending, amend};
use crate::error::{Error, Exit, Result};
use crate::model::Disruption;
use crate::names::{InstanceId, Label};
use crate::plan::loss::Named;
use crate::record::Record;
use crate::request::{Limits, Request, Verb};
use crate::rollout::{Rollout, RolloutState};
use crate::scaleset::{Upgrade, UpgradePolicy};
use crate::store::Store;

/// Runs the command.
pub fn run(ctx: &Context<'_>, args: &UpgradeArgs) -> Result<Exit> {
    match &args.command {
        None => upgrade(ctx, args),
        Some(UpgradeCommand::Status { watch }) => status::run(ctx, *watch),
        Some(UpgradeCommand::Pause) => pause(ctx),
        Some(UpgradeCommand::Resume) => resume(ctx),
        Some(UpgradeCommand::Cancel) => cancel(ctx),
        Some(UpgradeCommand::Rollback { at_most }) => rollback(ctx, *at_most),
    }
}

/// Notes in the record that a rollout to the current revision begins, and what was asked for with it.
pub fn begin(record: &mut Record, from: u32, rules: Upgrade, request: Request) {
    let number = record.rollout.as_ref().map_or(0, |r| r.number) + 1;
    let target = record.current().number;
    let mut rollout = Rollout::new(number, (from, target), rules, request.by.clone(), request.at);
    rollout.request = Some(request);
    record.rollout = Some(rollout);
}

/// Begins a rollout, or goes on with the one there is.
fn upgrade(ctx: &Context<'_>, args: &UpgradeArgs) -> Result<Exit> {
    let target = ctx.wanted()?;
    ctx.mention_drift(&target);
    let name = target.name.clone();
    let only = ids(args)?;
    let request = asked(ctx, Verb::Upgrade, args.at_most);
    // What would come of it is known before anything of it is written down.
    let mut next = target.record.clone();
    let is_new = start(&mut next, args, only.as_ref(), &request)?;
    let foreseen = consent::foresee_whole(ctx, &next, &consent::look(ctx, &*target.store, &next)?);
    if is_new {
        consent::within_limits(&name, &foreseen)?;
    }
    let head = format!("Upgrade {name} to revision {}?", next.current().number);
    let named = apply::named_by(&target.record, request.limits);
    let Some(agreed) = consent::ask_about(ctx, &foreseen, &head, named)? else {
        return Ok(Exit::Converged);
    };
    let mut refused = None;
    amend(&*target.store, &name, |record| {
        let started = start(record, args, only.as_ref(), &request);
        let is_started = matches!(started, Ok(true));
        refused = started.err();
        is_started
    })?;
    if let Some(e) = refused {
        return Err(e);
    }
    drive(ctx, &target, "upgrade", agreed)
}

/// What a command of `vmss upgrade` asks for.
fn asked(ctx: &Context<'_>, what: Verb, at_most: Option<Disruption>) -> Request {
    Request {
        what,
        by: ctx.world.env.who(),
        at: ctx.world.clock.now(),
        limits: Limits::at_most(at_most),
    }
}

/// Begins a rollout in the record, or goes on with the one there is, from now on with the limits that are asked for, if any are.
/// Returns whether that changes the record.
fn start(
    record: &mut Record,
    args: &UpgradeArgs,
    only: Option<&Vec<InstanceId>>,
    request: &Request,
) -> Result<bool> {
    if let Some(rollout) = record.rollout.as_mut().filter(|r| r.is_open()) {
        let asks = only.is_some() || args.canary.is_some();
        let refused = match &rollout.state {
            RolloutState::Paused { by } => {
                format!("the rollout to revision {} is paused by {by}", rollout.target)
            }
            RolloutState::Stopped { reason } => {
                format!("the rollout to revision {} has stopped: {reason}", rollout.target)
            }
            _ if asks => format!("a rollout to revision {} is under way already", rollout.target),
            _ => {
                let is_other = request.limits.at_most.is_some() && request.limits != rollout.limits();
                if is_other {
                    rollout.request = Some(request.clone());
                }
                return Ok(is_other);
            }
        };
        return Err(Error::message(Exit::Blocked, refused)
            .hint("vmss upgrade status tells more; then resume, rollback or cancel it"));
    }
    let from = outdated_from(record);
    let mut rules = record.applied.upgrade.clone();
    if rules.policy == UpgradePolicy::Manual {
        rules.policy = UpgradePolicy::Rolling;
    }
    begin(record, from, rules, request.clone());
    if let Some(rollout) = &mut record.rollout {
        (rollout.only, rollout.canary) = (only.cloned(), args.canary);
    }
    Ok(true)
}

/// The revision that most of the outdated instances have: what a rollback would go back to.
fn outdated_from(record: &Record) -> u32 {
    let current = record.current().number;
    let mut counts: std::collections::BTreeMap<u32, usize> = std::collections::BTreeMap::new();
    for revision in record
        .known
        .values()
        .filter_map(|k| k.revision)
        .filter(|r| *r != current)
    {
        *counts.entry(revision).or_default() += 1;
    }
    counts
        .into_iter()
        .max_by_key(|(revision, n)| (*n, *revision))
        .map_or(current, |(revision, _)| revision)
}

fn ids(args: &UpgradeArgs) -> Result<Option<Vec<InstanceId>>> {
    if args.instances.is_empty() {
        return Ok(None);
    }
    Ok(Some(
        args.instances.iter().flat_map(crate::cli::IdRange::ids).collect(),
    ))
}

/// Runs the loop, which takes the rollout along.
fn drive(ctx: &Context<'_>, target: &Target, verb: &str, agreed: Consent) -> Result<Exit> {
    let held = ctx.hold(&target.store, &target.name, &format!("{verb} {}", target.name))?;
    let capacity = target.record.capacity;
    let operation = ctx.operation(&target.name, verb, Some(capacity), Some(capacity));
    let ending = ctx.converge(&target.store, &held, &operation, agreed)?;
    Ok(conclude(ctx, &target.name, verb, &ending))
}

/// Says how a run that took a rollout along ended; a rollout that failed in it makes the exit code.
pub fn conclude(ctx: &Context<'_>, name: &Label, verb: &str, ending: &Ending) -> Exit {
    let exit = match (ending.exit(), ending.record.rollout.as_ref().map(|r| &r.state)) {
        (Exit::Converged, Some(RolloutState::Stopped { .. } | RolloutState::RolledBack { .. })) => {
            Exit::Unhealthy
        }
        (Exit::Converged, Some(RolloutState::Paused { .. })) => Exit::Blocked,
        (exit, _) => exit,
    };
    ctx.conclude_as(name, verb, ending, exit)
}

/// Changes the rollout by `change`, which may refuse in a sentence.
fn request(
    store: &dyn Store,
    name: &Label,
    mut change: impl FnMut(&mut Record) -> std::result::Result<(), String>,
) -> Result<Record> {
    let mut refused = None;
    let (record, _) = amend(store, name, |record| {
        refused = change(record).err();
        refused.is_none()
    })?;
    match refused {
        None => Ok(record),
        Some(text) => Err(Error::message(Exit::Blocked, text)),
    }
}

const NONE: &str = "no rollout is under way";

/// Asking needs no lease: whoever runs the rollout reads the record before every batch, and hears of it.
fn pause(ctx: &Context<'_>) -> Result<Exit> {
    let target = ctx.wanted()?;
    let by = ctx.world.env.who();
    request(&*target.store, &target.name, |record| {
        let rollout = record.rollout.as_mut().filter(|r| r.is_open()).ok_or(NONE)?;
        match &rollout.state {
            RolloutState::Running => rollout.state = RolloutState::Paused { by: by.clone() },
            RolloutState::Paused { by } => return Err(format!("it is paused already, by {by}")),
            RolloutState::RollingBack { .. } => {
                return Err("it is rolling back: cancel it to stop that".to_owned());
            }
            _ => return Err("it has stopped already".to_owned()),
        }
        Ok(())
    })?;
    ctx.say(format!(
        "{}: the rollout is paused; vmss upgrade resume goes on",
        target.name
    ));
    Ok(Exit::Converged)
}

fn resume(ctx: &Context<'_>) -> Result<Exit> {
    let target = ctx.wanted()?;
    let now = ctx.world.clock.now();
    let go_on = |record: &mut Record| {
        let rollout = record.rollout.as_mut().filter(|r| r.is_open()).ok_or(NONE)?;
        if rollout.is_active() {
            return Ok(());
        }
        rollout.state = RolloutState::Running;
        // What waited for a decision begins its time anew.
        if let Some(batch) = &mut rollout.batch {
            batch.began = now;
        }
        (rollout.rested_since, rollout.hold_until) = (None, None);
        Ok(())
    };
    let next = foretold(&target, go_on)?;
    // Those that it replaces were agreed to when it began.
    let named = Named {
        rollout: true,
        ..Named::default()
    };
    let head = format!("Go on with the rollout of {}?", target.name);
    let Some(agreed) = consent::ask(ctx, &*target.store, &next, &head, named)? else {
        return Ok(Exit::Converged);
    };
    request(&*target.store, &target.name, go_on)?;
    drive(ctx, &target, "upgrade resume", agreed)
}

/// The record as `change` makes it, not written down.
fn foretold(
    target: &Target,
    change: impl FnOnce(&mut Record) -> std::result::Result<(), String>,
) -> Result<Record> {
    let mut next = target.record.clone();
    change(&mut next).map_err(|text| Error::message(Exit::Blocked, text))?;
    Ok(next)
}

fn give_up(record: &mut Record, by: &str) -> bool {
    let Some(rollout) = record.rollout.as_mut().filter(|r| r.is_open()) else {
        return false;
    };
    rollout.state = RolloutState::Cancelled { by: by.to_owned() };
    rollout.batch = None;
    true
}

fn cancel(ctx: &Context<'_>) -> Result<Exit> {
    let target = ctx.wanted()?;
    let by = ctx.world.env.who();
    request(&*target.store, &target.name, |record| {
        if give_up(record, &by) {
            Ok(())
        } else {
            Err(NONE.to_owned())
        }
    })?;
    ctx.say(format!(
        "{}: the rollout is cancelled; instances stay at the revisions they have",
        target.name
    ));
    Ok(Exit::Converged)
}

/// Back to where the last rollout came from, during it and after it.
fn rollback(ctx: &Context<'_>, at_most: Option<Disruption>) -> Result<Exit> {
    let target = ctx.wanted()?;
    let asked = asked(ctx, Verb::Rollback, at_most);
    let turn_back = |record: &mut Record| {
        let from = record
            .rollout
            .as_ref()
            .map(|r| r.from)
            .ok_or("there was no rollout yet")?;
        if record.revision(from).is_none() {
            return Err(format!("the record has no revision {from} any more"));
        }
        let rollout = record.rollout.as_mut().ok_or(NONE)?;
        if matches!(rollout.state, RolloutState::RollingBack { .. }) {
            if at_most.is_some() {
                rollout.request = Some(asked.clone());
            }
            return Ok(());
        }
        rollout.turn_back(format!("asked for by {}", asked.by));
        rollout.request = Some(asked.clone());
        record.current = Some(from);
        Ok(())
    };
    // What would come of it is known before anything of it is written down: the way back may take more than the way there.
    let next = foretold(&target, turn_back)?;
    let foreseen = consent::foresee_whole(ctx, &next, &consent::look(ctx, &*target.store, &next)?);
    if next != target.record {
        consent::within_limits(&target.name, &foreseen)?;
    }
    let head = format!("Roll {} back to revision {}?", target.name, next.current().number);
    let named = Named {
        rollout: asked.limits.allows_replacing(),
        ..Named::default()
    };
    let Some(agreed) = consent::ask_about(ctx, &foreseen, &head, named)? else {
        return Ok(Exit::Converged);
    };
    let record = request(&*target.store, &target.name, turn_back)?;
    let back = record.current().number;
    ctx.say(format!("{}: rolling back to revision {back}", target.name));
    let held = ctx.hold(
        &target.store,
        &target.name,
        &format!("upgrade rollback {}", target.name),
    )?;
    let operation = ctx.operation(
        &target.name,
        "upgrade rollback",
        Some(record.capacity),
        Some(record.capacity),
    );
    let ending = ctx.converge(&target.store, &held, &operation, agreed)?;
    // To go back is what was asked for: having gone back is no failure.
    let stopped = matches!(
        ending.record.rollout.as_ref().map(|r| &r.state),
        Some(RolloutState::Stopped { .. })
    );
    let exit = match ending.exit() {
        Exit::Converged if stopped => Exit::Unhealthy,
        exit => exit,
    };
    Ok(ctx.conclude_as(&target.name, "upgrade rollback", &ending, exit))
}
