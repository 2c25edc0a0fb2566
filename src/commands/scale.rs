//! `vmss scale`: a request (one compare-and-swap on the record), then the loop.

use crate::cli::Change;
use crate::commands::Context;
use crate::commands::delete::are_protected;
use crate::converge::{amend, look};
use crate::error::{Error, Exit, Result};
use crate::lease::lease_key;
use crate::names::{InstanceId, Label, ranges};
use crate::plan::{Experience, Situation, protected};
use crate::record::Record;

/// Instances that scale in may not take. Looked at before the capacity is recorded: one that can't be reached would make
/// every later run end as blocked (AWS lowers it all the same, and never converges).
fn kept_by_protection(ctx: &Context<'_>, record: &Record) -> Vec<InstanceId> {
    let mut record = record.clone();
    let set = record.applied.clone();
    let inventory = look(ctx.world, &set, &record);
    record.absorb(&inventory);
    protected(Situation {
        set: &set,
        record: &record,
        inventory: &inventory,
        experience: &Experience::default(),
        now: ctx.world.clock.now(),
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

/// Scales to `change`.
pub fn run(ctx: &Context<'_>, change: Change) -> Result<Exit> {
    let target = ctx.wanted()?;
    let name = target.name.clone();
    ctx.mention_drift(&target);
    let now = target.record.capacity;
    let wanted = change.of(now).map_err(|e| Error::message(Exit::Usage, e))?;
    let protected = if wanted < now {
        kept_by_protection(ctx, &target.record)
    } else {
        Vec::new()
    };
    if (wanted as usize) < protected.len() {
        return Err(too_few(&name, wanted, &protected));
    }
    if wanted
        < target
            .record
            .known
            .values()
            .filter(|k| k.confirmed)
            .count()
            .try_into()
            .unwrap_or(u32::MAX)
    {
        let question = format!(
            "Scale {name} from {now} to {wanted}? Instances are shut down and deleted with their disks."
        );
        if !ctx.confirm(&question)? {
            ctx.say("nothing was changed");
            return Ok(Exit::Converged);
        }
    }
    let verb = format!("scale {name} to {wanted}");
    // Asking needs no lease: whoever is acting on the set reads the record before every batch and carries it out. A
    // relative change counts from what the record says at this very moment, so that two of them add up.
    let mut from = now;
    let mut to = wanted;
    let mut refused = None;
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
        let differs = record.capacity != to;
        record.capacity = to;
        differs
    })?;
    if let Some(e) = refused {
        return Err(e);
    }
    let held = match ctx.hold(&target.store, &name, &verb) {
        Ok(held) => held,
        Err(e) if e.exit == Exit::Locked && from != to => {
            let busy = target.store.holder(&lease_key(&name), ctx.world.clock.now())?;
            let who = busy.map_or_else(String::new, |h| format!(" by pid {} ({})", h.pid, h.doing));
            return Err(e.hint(format!(
                "the capacity of {to} is recorded: it will be carried out{who}, or by the next vmss scale"
            )));
        }
        Err(e) => return Err(e),
    };
    let ending = ctx.converge(
        &target.store,
        &held,
        &ctx.operation(&name, "scale", Some(from), Some(to)),
    )?;
    Ok(ctx.conclude(&name, "scale", &ending))
}
