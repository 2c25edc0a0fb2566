//! `vmss plan`: what would be done, batch by batch, changing nothing.

use serde::Serialize;

use crate::cli::PlanArgs;
use crate::commands::{Context, apply, create, delete, ranges, unrecorded};
use crate::converge::{look, seeds, twins};
use crate::error::{Error, Exit, Result};
use crate::names::Label;
use crate::plan::forecast::{Forecast, forecast as foretell};
use crate::plan::{Experience, Situation};
use crate::record::Life;

#[derive(Serialize)]
struct Document<'a> {
    set: &'a Label,
    capacity: u32,
    #[serde(flatten)]
    forecast: &'a Forecast,
}

/// Prints the plan.
pub fn run(ctx: &Context<'_>, args: &PlanArgs) -> Result<Exit> {
    attempt(ctx, args, Turn::First)
}

/// Whether something odd is looked at again, should somebody have changed the record meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Second,
}

fn attempt(ctx: &Context<'_>, args: &PlanArgs, turn: Turn) -> Result<Exit> {
    let (name, store, definition) = ctx.meant()?;
    if let Some(set) = &definition {
        let known = store.get(&name)?.map(|(record, _)| record);
        ranges::check(ctx, &*store, set, known.as_ref())?;
    }
    let stored = store.get(&name)?;
    let version = stored.as_ref().map(|(_, version)| *version);
    let mut record = match (stored, &definition) {
        (Some((record, _)), Some(set)) => {
            let keys = apply::changed_keys(&record.applied, set);
            let model = ctx.model(set)?;
            let changes = record.current().model.changes(&model);
            if !keys.is_empty() || !changes.is_empty() {
                apply::allow(set, &record, &changes, args.at_most)?;
                ctx.say(format!(
                    "note: planned as if {} were applied (vmss apply)",
                    apply::named(&keys)
                ));
                for change in &changes {
                    ctx.say(format!("  {}", apply::sentence(change)));
                }
            }
            let mut record = record;
            apply::make_count(&mut record, set, model, &apply::request(ctx, args.at_most));
            record
        }
        (Some((record, _)), None) => record,
        (None, Some(set)) => {
            let left = store.abandoned(&name)?;
            let (found, _) = unrecorded::look_for(ctx, set, store.id()?, left.as_ref());
            if !found.is_empty() {
                return Err(found.error());
            }
            match (left, args.delete) {
                (None, true) => {
                    let text = format!("there is no set {name} to delete");
                    return Err(Error::message(Exit::Failed, text));
                }
                (Some(left), true) => left,
                (left, false) => {
                    let mut record = create::record(ctx, set, ctx.model(set)?, store.id()?);
                    left.into_iter().for_each(|left| record.succeed(left));
                    record
                }
            }
        }
        (None, None) => return ctx.target().map(|_| Exit::Failed),
    };
    if let Some(change) = args.scale {
        record.capacity = change
            .of(record.capacity)
            .map_err(|e| Error::message(Exit::Usage, e))?;
    }
    if args.delete {
        record.life = Life::Deleting;
    }
    let set = record.applied.clone();
    let inventory = look(ctx.world, &*store, &set, &record);
    if turn == Turn::First && !inventory.odd.is_empty() && store.get(&name)?.map(|(_, v)| v) != version {
        return attempt(ctx, args, Turn::Second);
    }
    twins::refuse(ctx.world, &set, &inventory)?;
    record.absorb(&inventory);
    record.heed(&inventory, &set.health, ctx.world.clock.now());
    if let Some(protected) = delete::protected(&record, &inventory).filter(|_| args.delete) {
        ctx.say(format!(
            "note: {protected}: vmss delete takes them only with --include-protected"
        ));
    }
    let situation = Situation {
        set: &set,
        record: &record,
        inventory: &inventory,
        experience: &Experience::default(),
        now: ctx.world.clock.now(),
        drawn: (ctx.world.draw)(),
    };
    let mut forecast = foretell(situation);
    let first = forecast.batches.first().map_or(&[][..], Vec::as_slice);
    let learnt = seeds::learn(ctx.world, &record, first);
    if learnt != Experience::default() {
        forecast = foretell(Situation {
            experience: &learnt,
            ..situation
        });
    }
    if ctx.is_json() {
        ctx.json(&Document {
            set: &name,
            capacity: record.capacity,
            forecast: &forecast,
        });
    } else {
        crate::ui::plan_view::print(ctx, &name, &record, &forecast);
    }
    Ok(match (forecast.batches.is_empty(), forecast.end.verdict()) {
        (false, _) if args.detailed_exitcode => Exit::Pending,
        (_, crate::plan::report::Verdict::Blocked) => Exit::Blocked,
        _ => Exit::Converged,
    })
}
