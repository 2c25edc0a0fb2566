//! `vmss state catch-up`: brings a record level that is older than the hosts.

use crate::cli::Change;
use crate::commands::Context;
use crate::commands::instance::claim::{changed, situation};
use crate::converge::{amend, glance, reconsider};
use crate::error::{Error, Exit, Result};
use crate::inventory::{Inventory, Protection};
use crate::names::{Label, instance_name};
use crate::plan::Experience;
use crate::plan::catch_up::{CatchUp, Stuck, Taken, catch_up};
use crate::plan::claim::{Bar, bar};
use crate::record::Record;
use crate::ui::table::Table;
use crate::ui::words::{count, list, ranges};

/// Most instances that are shown one by one.
const SHOWN: usize = 20;

/// Brings the record level with all hosts.
pub fn run(ctx: &Context<'_>, capacity: Option<u32>) -> Result<Exit> {
    let mut target = ctx.target()?;
    let name = target.name.clone();
    if let Some(capacity) = capacity {
        Change::To(capacity)
            .of(0)
            .map_err(|e| Error::message(Exit::Usage, e))?;
    }
    let set = target.record.applied.clone();
    let mut inventory = glance(ctx.world, &*target.store, &set, &target.record);
    reconsider(&*target.store, &mut target.record, &mut inventory);
    let meant = match decide(ctx, &mut target.record, &inventory, capacity)? {
        Some(meant) => meant,
        None => {
            ctx.say(format!(
                "{name}: the record is level with the hosts: nothing to do"
            ));
            if ctx.is_json() {
                ctx.json(&serde_json::json!({ "set": name, "command": "state catch-up", "caught_up": null, "exit_code": 0 }));
            }
            return Ok(Exit::Converged);
        }
    };
    if !ctx.is_json() {
        show(ctx, &name, &meant);
    }
    if !ctx.confirm(&question(&name, &meant))? {
        ctx.say("nothing was changed");
        return Ok(Exit::Converged);
    }
    let held = ctx.hold(&target.store, &name, &format!("state catch-up {name}"))?;
    let (record, _) = amend(&*target.store, &name, |_| false)?;
    let inventory = glance(ctx.world, &*target.store, &record.applied, &record);
    if decide(ctx, &mut record.clone(), &inventory, capacity)?.as_ref() != Some(&meant) {
        return Err(changed(&name));
    }
    let number = target.store.begin(&ctx.operation(
        &name,
        "state catch-up",
        Some(meant.capacity_before),
        Some(meant.capacity),
    ))?;
    let (who, now, drawn) = (ctx.world.env.who(), ctx.world.clock.now(), (ctx.world.draw)());
    amend(&*target.store, &name, |record| {
        catch_up(record, &inventory, capacity, (&who, now), drawn).is_ok()
    })?;
    (target.store).finish(
        number,
        ctx.world.clock.now(),
        "brought level",
        Some(meant.capacity),
    )?;
    drop(held);
    if ctx.is_json() {
        ctx.json(&serde_json::json!({
            "set": name, "command": "state catch-up", "caught_up": meant, "exit_code": Exit::Converged.code(),
        }));
    } else {
        ctx.say(format!(
            "{name}: the record is level with the hosts: capacity {}, next id {}; vmss plan tells what is to be done, vmss \
             apply makes the definition count again",
            meant.capacity, meant.next_id
        ));
    }
    Ok(Exit::Converged)
}

/// What bringing it level comes to; `None` if it is.
fn decide(
    ctx: &Context<'_>,
    record: &mut Record,
    inventory: &Inventory,
    capacity: Option<u32>,
) -> Result<Option<CatchUp>> {
    let set = record.applied.name.clone();
    for host in &inventory.hosts {
        if let crate::inventory::View::Unseen { reason } = &host.view {
            let text = format!("host {} was not seen: {reason}", host.name);
            return Err(Error::message(Exit::Unreachable, text)
                .hint("every host of the definition must answer, or ids could be given out twice"));
        }
    }
    let experience = Experience::default();
    if let Some(bar @ Bar::OtherStore) = bar(situation(ctx, record, inventory, &experience)) {
        return Err(Error::message(Exit::Blocked, format!("{set}: {bar}")).hint(bar.hint()));
    }
    let (who, now, drawn) = (ctx.world.env.who(), ctx.world.clock.now(), (ctx.world.draw)());
    match catch_up(record, inventory, capacity, (&who, now), drawn) {
        Ok(done) => Ok(Some(done)),
        Err(Stuck::Level) => Ok(None),
        Err(Stuck::Lies { id, host, disk }) => {
            let text = format!(
                "the note of {} on {host} lies: its disk {disk} is another instance's; nothing was changed",
                instance_name(&set, id)
            );
            Err(Error::message(Exit::Blocked, text).hint(format!(
                "vmss instance disown {id} --host {host} says so for good; then run this again"
            )))
        }
        Err(Stuck::Twice(id, hosts)) => {
            let text = format!(
                "{} is there more than once, on {}: nothing was changed",
                instance_name(&set, id),
                list(&hosts, 8)
            );
            Err(Error::message(Exit::Blocked, text).hint(format!(
                "say which one's note lies (vmss instance disown {id} --host HOST), or undefine it by hand, then run this again"
            )))
        }
    }
}

fn show(ctx: &Context<'_>, name: &Label, meant: &CatchUp) {
    let mut table = Table::new(["INSTANCE", "HOST", "REVISION", "IS TAKEN OVER"]);
    for taken in meant.taken.iter().take(SHOWN) {
        let revision = match taken.has_revision {
            true => taken.revision.to_string(),
            false => format!("{} (lost: shown as outdated)", taken.revision),
        };
        table.row([
            instance_name(name, taken.id),
            taken.host.to_string(),
            revision,
            how(taken),
        ]);
    }
    if !meant.taken.is_empty() {
        ctx.table(&table);
    }
    if meant.taken.len() > SHOWN {
        ctx.print(format!(
            "and {} more",
            count(meant.taken.len() - SHOWN, "instance")
        ));
    }
    if !meant.gone.is_empty() {
        let ids = ranges(meant.gone.iter().map(|id| id.0));
        ctx.print(format!("gone since: {ids}"));
    }
}

fn how(taken: &Taken) -> String {
    let what = match (taken.is_half, taken.is_new) {
        (true, _) => "half made or half deleted: it goes",
        (false, true) => "made since",
        (false, false) => "changed since",
    };
    match taken.protection {
        Protection::None => what.to_owned(),
        Protection::ScaleIn => format!("{what}, protected from scale-in"),
        Protection::All => format!("{what}, protected from all actions"),
    }
}

fn question(name: &Label, meant: &CatchUp) -> String {
    let given_up = match meant.given_up.as_slice() {
        [] => String::new(),
        these => format!(
            " Given up, for they were under way when it was saved: {}.",
            these.join(", ")
        ),
    };
    let capacity = match meant.capacity == meant.capacity_before {
        true => format!("stays {}", meant.capacity),
        false => format!("goes from {} to {}", meant.capacity_before, meant.capacity),
    };
    format!(
        "Bring the record of {name} level with its hosts? It takes over {}; the capacity {capacity}, the next id is {}. What \
         else the lost record held stays lost: rollouts, repairs under way, cordons, requests, definitions applied since.{given_up}",
        count(meant.taken.len(), "instance"),
        meant.next_id
    )
}
