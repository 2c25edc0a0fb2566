//! `vmss upgrade` and what belongs to it: bringing instances to the current revision, and watching, pausing, resuming,
//! cancelling and rolling back the rollout that does it.

mod status;

use jiff::Timestamp;

pub use status::in_words;

use crate::cli::{UpgradeArgs, UpgradeCommand};
use crate::commands::{Context, Target, apply};
use crate::converge::{Ending, amend};
use crate::error::{Error, Exit, Result};
use crate::names::{InstanceId, Label};
use crate::record::Record;
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
        Some(UpgradeCommand::Rollback) => rollback(ctx),
    }
}

/// Notes in the record that a rollout to the current revision begins.
pub fn begin(record: &mut Record, from: u32, rules: Upgrade, who: &str, now: Timestamp) {
    let number = record.rollout.as_ref().map_or(0, |r| r.number) + 1;
    let target = record.current().number;
    record.rollout = Some(Rollout::new(number, (from, target), rules, who.to_owned(), now));
}

/// Begins a rollout, or goes on with the one there is.
fn upgrade(ctx: &Context<'_>, args: &UpgradeArgs) -> Result<Exit> {
    let target = ctx.wanted()?;
    ctx.mention_drift(&target);
    let name = target.name.clone();
    let only = ids(args)?;
    let (now, who) = (ctx.world.clock.now(), ctx.world.env.who());
    let mut refused = None;
    let mut began = false;
    amend(&*target.store, &name, |record| {
        refused = None;
        let open = record.rollout.as_ref().filter(|r| r.is_open());
        if let Some(rollout) = open {
            let asks = only.is_some() || args.canary.is_some();
            refused = match &rollout.state {
                RolloutState::Paused { by } => Some(format!(
                    "the rollout to revision {} is paused by {by}",
                    rollout.target
                )),
                RolloutState::Stopped { reason } => Some(format!(
                    "the rollout to revision {} has stopped: {reason}",
                    rollout.target
                )),
                _ if asks => Some(format!(
                    "a rollout to revision {} is under way already",
                    rollout.target
                )),
                _ => None,
            };
            return false;
        }
        let from = outdated_from(record);
        let mut rules = record.applied.upgrade.clone();
        if rules.policy == UpgradePolicy::Manual {
            rules.policy = UpgradePolicy::Rolling;
        }
        begin(record, from, rules, &who, now);
        if let Some(rollout) = &mut record.rollout {
            (rollout.only, rollout.canary) = (only.clone(), args.canary);
        }
        began = true;
        true
    })?;
    if let Some(text) = refused {
        return Err(Error::message(Exit::Blocked, text)
            .hint("vmss upgrade status tells more; then resume, rollback or cancel it"));
    }
    if began {
        let at_most = args.at_most;
        check_class(ctx, &target, at_most)?;
    }
    drive(ctx, &target, "upgrade")
}

/// `--at-most`: what the outdated instances need may not be more.
fn check_class(ctx: &Context<'_>, target: &Target, at_most: Option<crate::model::Disruption>) -> Result<()> {
    let Some(limit) = at_most else { return Ok(()) };
    let (record, _) = amend(&*target.store, &target.name, |_| false)?;
    let current = &record.current().model;
    let needed = (record.known.values())
        .filter_map(|k| record.revision(k.revision?))
        .flat_map(|r| r.model.changes(current))
        .max_by_key(|c| c.class);
    match needed.filter(|c| c.class > limit) {
        None => Ok(()),
        Some(change) => {
            let who = ctx.world.env.who();
            amend(&*target.store, &target.name, |record| give_up(record, &who))?;
            Err(Error::message(
                Exit::Blocked,
                format!("{}, and --at-most {limit} forbids that", apply::sentence(&change)),
            ))
        }
    }
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
fn drive(ctx: &Context<'_>, target: &Target, verb: &str) -> Result<Exit> {
    let held = ctx.hold(&target.store, &target.name, &format!("{verb} {}", target.name))?;
    let capacity = target.record.capacity;
    let operation = ctx.operation(&target.name, verb, Some(capacity), Some(capacity));
    let ending = ctx.converge(&target.store, &held, &operation)?;
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
    request(&*target.store, &target.name, |record| {
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
    })?;
    drive(ctx, &target, "upgrade resume")
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
fn rollback(ctx: &Context<'_>) -> Result<Exit> {
    let target = ctx.wanted()?;
    let by = ctx.world.env.who();
    let record = request(&*target.store, &target.name, |record| {
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
            return Ok(());
        }
        rollout.turn_back(format!("asked for by {by}"));
        record.current = Some(from);
        Ok(())
    })?;
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
    let ending = ctx.converge(&target.store, &held, &operation)?;
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
