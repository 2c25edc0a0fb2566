//! What is asked before something is deleted. One function decides it for all commands, of the forecast: whatever the command's
//! own words do not name is asked about, needs `--yes`, or is refused.

use crate::commands::Context;
use crate::commands::instance::claim::{refuse_if_barred, refuse_what_is_barred, situation};
use crate::converge::{Consent, observe_for, reconsider};
use crate::error::{Error, Exit, Result};
use crate::inventory::Inventory;
use crate::names::Label;
use crate::plan::forecast::{Forecast, forecast};
use crate::plan::loss::{Cause, Losses, Named};
use crate::plan::report::Wait;
use crate::plan::{Experience, Situation};
use crate::record::Record;
use crate::store::Store;
use crate::ui::words::ranges;

/// What would come of a record that is not written down yet.
#[derive(Debug)]
pub struct Foreseen {
    /// The forecast.
    pub forecast: Forecast,
    /// The record, with what was seen.
    pub record: Record,
}

/// Looks at the hosts for a command that is about to change `record`, as it will be then.
///
/// # Errors
/// Nothing may be changed: the record is old, or another store manages instances of the set.
pub fn look(ctx: &Context<'_>, store: &dyn Store, record: &Record) -> Result<Inventory> {
    let mut inventory = observe_for(ctx.world, store, record);
    let mut read = record.clone();
    reconsider(store, &mut read, &mut inventory);
    refuse_what_is_barred(situation(ctx, &read, &inventory, &Experience::default()))?;
    Ok(inventory)
}

/// As [`foresee_of`], to the end of the rollout: looks that somebody is to take on the way, at its canary and its checkpoints,
/// are passed over.
pub fn foresee_whole(ctx: &Context<'_>, record: &Record, inventory: &Inventory) -> Foreseen {
    let mut record = record.clone();
    if let Some(rollout) = &mut record.rollout {
        rollout.canary = None;
        rollout.rules.checkpoints.clear();
    }
    foresee_of(ctx, &record, inventory)
}

/// Forecasts what would come of `record`, by what was seen.
pub fn foresee_of(ctx: &Context<'_>, record: &Record, inventory: &Inventory) -> Foreseen {
    let mut record = record.clone();
    let set = record.applied.clone();
    let now = ctx.world.clock.now();
    record.absorb(inventory);
    record.heed(inventory, &set.health, now);
    let forecast = forecast(Situation {
        set: &set,
        record: &record,
        inventory,
        experience: &Experience::default(),
        now,
        drawn: (ctx.world.draw)(),
    });
    Foreseen { forecast, record }
}

/// Refuses what can't be done within its limits, before anything of it is written down.
pub fn within_limits(name: &Label, foreseen: &Foreseen) -> Result<()> {
    let beyond = |w: &&Wait| matches!(w, Wait::BeyondLimits { .. });
    let waits: Vec<String> = (foreseen.forecast.end.waits.iter().filter(beyond))
        .map(ToString::to_string)
        .collect();
    if waits.is_empty() {
        return Ok(());
    }
    let text = format!("{}; nothing was changed in {name}", waits.join("; "));
    Err(Error::message(Exit::Blocked, text)
        .hint("vmss plan shows what can be done; --at-most replace lets instances be replaced and deleted with their disks"))
}

/// What a command names that goes on with whatever rollout there is: those that it replaces were agreed to when it began.
pub fn going_on(record: &Record) -> Named {
    Named {
        rollout: record.rollout.is_some(),
        ..Named::default()
    }
}

/// Asks about what `record` would delete and `named` does not name. `head` is the question's first sentence: "Create web?".
/// `None`: no.
///
/// # Errors
/// Nothing may be changed, as of [`look`]; or nobody is there to be asked.
pub fn ask(
    ctx: &Context<'_>,
    store: &dyn Store,
    record: &Record,
    head: &str,
    named: Named,
) -> Result<Option<Consent>> {
    if ctx.global.yes {
        refuse_if_barred(ctx, store, record)?;
        return Ok(Some(Consent::Any));
    }
    let inventory = look(ctx, store, record)?;
    ask_about(ctx, &foresee_of(ctx, record, &inventory), head, named)
}

/// As [`ask`], of what is foreseen already.
pub fn ask_about(
    ctx: &Context<'_>,
    foreseen: &Foreseen,
    head: &str,
    named: Named,
) -> Result<Option<Consent>> {
    let losses = &foreseen.forecast.losses;
    let unnamed = losses.unnamed(named);
    if !unnamed.is_empty() && !ctx.confirm(&format!("{head} {}", in_words(&unnamed)))? {
        ctx.say("nothing was changed");
        return Ok(None);
    }
    Ok(Some(agreed(ctx, foreseen)))
}

/// What was agreed to by whoever saw what is foreseen.
pub fn agreed(ctx: &Context<'_>, foreseen: &Foreseen) -> Consent {
    if ctx.global.yes {
        return Consent::Any;
    }
    Consent::To(foreseen.record.known.keys().copied().collect())
}

/// What goes, in sentences: "Instances 7-9 are more than the capacity: they are shut down and deleted with their disks, 3 data
/// disks (150.0 GiB) among them."
pub fn in_words(losses: &Losses) -> String {
    let mut sentences = Vec::new();
    for (cause, why) in [
        (Cause::ScaleIn, "more than the capacity"),
        (Cause::Rollout, "replaced by others"),
        (Cause::Repair, "repaired by others in their place"),
        (Cause::Drain, "replaced on other hosts"),
        (Cause::Operator, "to go"),
        (Cause::Unfinished, "half made or half deleted"),
        (Cause::Fenced, "given up with their host"),
        (Cause::SetDeletion, "of the set"),
    ] {
        let lost: Vec<_> = losses.instances.iter().filter(|l| l.cause == cause).collect();
        if lost.is_empty() {
            continue;
        }
        let ids = ranges(lost.iter().map(|l| l.instance.0));
        let disks: crate::plan::loss::Disks = lost.iter().map(|l| l.data_disks).sum();
        let among = match disks.count {
            0 => String::new(),
            _ => format!(", {disks} among them"),
        };
        sentences.push(match lost.len() {
            1 => format!("Instance {ids} is {why}: it is shut down and deleted with its disks{among}."),
            _ => {
                format!("Instances {ids} are {why}: they are shut down and deleted with their disks{among}.")
            }
        });
    }
    sentences.join(" ")
}
