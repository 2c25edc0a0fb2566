//! `vmss scale`: a request (one compare-and-swap on the record), then the loop. With a time of its own it is only noted.

use crate::cli::{Change, ScaleArgs};
use std::time::Duration;

use crate::commands::delete::are_protected;
use crate::commands::{Context, consent};
use crate::converge::{amend, look_aside};
use crate::error::{Error, Exit, Result};
use crate::health::later;
use crate::names::{InstanceId, Label, ranges};
use crate::plan::{Experience, Situation, protected};
use crate::record::Record;
use crate::request::{Request, Verb};
use crate::store::Store;
use crate::timed::Timed;

pub mod timed;

/// Instances that scale in may not take. Looked at before the capacity is recorded: one that can't be reached would make
/// every later run end as blocked (AWS lowers it all the same, and never converges).
fn kept_by_protection(ctx: &Context<'_>, store: &dyn Store, record: &Record) -> Vec<InstanceId> {
    let mut record = record.clone();
    let set = record.applied.clone();
    let inventory = look_aside(ctx.world, store, &set, &mut record);
    protected(Situation {
        set: &set,
        record: &record,
        inventory: &inventory,
        experience: &Experience::default(),
        now: ctx.world.clock.now(),
        drawn: (ctx.world.draw)(),
    })
}

fn too_few(name: &Label, wanted: u32, protected: &[InstanceId]) -> Error {
    let ids: Vec<u64> = protected.iter().map(|id| id.0).collect();
    let text = format!(
        "{name} can't be scaled to {wanted}: {}; nothing was changed",
        are_protected(&ids)
    );
    Error::message(Exit::Blocked, text).hint(format!(
        "scale to {} or more, or take a protection back: vmss instance unprotect {}",
        protected.len(),
        ranges(ids).replace(", ", ",")
    ))
}

/// Scales to a capacity: now or later, for good or for a while.
pub fn run(ctx: &Context<'_>, args: &ScaleArgs) -> Result<Exit> {
    let Some(change) = args.capacity else {
        return timed::cancel(ctx);
    };
    match &args.at {
        Some(at) => timed::later(ctx, change, at, args.span),
        None => now(ctx, change, args.span),
    }
}

/// Scales now, for `span` or for good.
fn now(ctx: &Context<'_>, change: Change, span: Option<Duration>) -> Result<Exit> {
    let target = ctx.wanted()?;
    let name = target.name.clone();
    ctx.mention_drift(&target);
    let until = span.map(|span| later(ctx.world.clock.now(), span));
    let now = target.record.capacity;
    let wanted = change.of(now).map_err(|e| Error::message(Exit::Usage, e))?;
    let protected = if wanted < now {
        kept_by_protection(ctx, &*target.store, &target.record)
    } else {
        Vec::new()
    };
    if (wanted as usize) < protected.len() {
        return Err(too_few(&name, wanted, &protected));
    }
    let mut next = target.record.clone();
    let request = |at| Request::of(Verb::Scale, ctx.world.env.who(), at);
    next.ask_for(wanted, || request(ctx.world.clock.now()));
    let head = match wanted.cmp(&now) {
        std::cmp::Ordering::Equal => format!("Bring {name} to its capacity of {wanted}?"),
        _ => format!("Scale {name} from {now} to {wanted}?"),
    };
    let Some(agreed) = consent::ask(ctx, &*target.store, &next, &head, consent::going_on(&next))? else {
        return Ok(Exit::Converged);
    };
    let verb = format!("scale {name} to {wanted}");
    let now_at = ctx.world.clock.now();
    // Asking needs no lease: whoever is acting on the set reads the record before every batch and carries it out. A
    // relative change counts from what the record says at this very moment, so that two of them add up.
    let mut from = now;
    let mut to = wanted;
    let mut refused = None;
    let mut freed = Vec::new();
    amend(&*target.store, &name, |record| {
        from = record.capacity;
        match change.of(record.capacity) {
            Ok(n) if n < record.capacity && (n as usize) < protected.len() => {
                refused = Some(too_few(&name, n, &protected));
                return false;
            }
            Ok(n) => to = n,
            Err(e) => {
                refused = Some(Error::message(Exit::Usage, e));
                return false;
            }
        }
        let before = (record.capacity, record.timed.clone());
        // Whoever says how many from now on has said it for one that held until now as well, and for one that should have
        // begun before now: it would take the place of the newer wish as soon as somebody carried it out.
        let ended: Vec<Timed>;
        (ended, record.timed) = (record.timed.iter().cloned()).partition(|t| t.holds() || t.from <= now_at);
        if let Some(until) = until {
            let back = ended.iter().find_map(|t| t.before).unwrap_or(record.capacity);
            record.timed.push(Timed {
                capacity: to,
                from: now_at,
                until: Some(until),
                by: ctx.world.env.who(),
                before: Some(back),
                kept_at: None,
            });
        }
        freed = ended;
        record.ask_for(to, || request(now_at));
        (record.capacity, record.timed.clone()) != before
    })?;
    if let Some(e) = refused {
        return Err(e);
    }
    timed::say(ctx, &target, &freed, until);
    let held = ctx.hold_for(&target, &verb, (from != to).then_some(to))?;
    let ending = ctx.converge(
        &target.store,
        &held,
        &ctx.operation(&name, "scale", Some(from), Some(to)),
        agreed,
    )?;
    Ok(ctx.conclude(&name, "scale", &ending))
}
