//! A forecast as a table: one line per step, or per host and verb when there are many.

use std::collections::BTreeMap;

use crate::commands::Context;
use crate::names::Label;
use crate::plan::action::Step;
use crate::plan::forecast::Forecast;
use crate::plan::report::Verdict;
use crate::record::{Life, Record};
use crate::ui::table::Table;
use crate::ui::words::{count, fold, ranges};

/// From so many steps on, steps of one host and verb share a line (all are shown with `-v`).
const MANY: usize = 60;

/// Prints the forecast.
pub fn print(ctx: &Context<'_>, name: &Label, record: &Record, forecast: &Forecast) {
    let end = &forecast.end;
    let steps: usize = forecast.batches.iter().map(Vec::len).sum();
    if steps == 0 {
        let text = match end.verdict() {
            Verdict::Converged => format!("{name}: nothing to do, {}", end.running_of_wanted()),
            _ => format!("{name}: nothing can be done now, {}", end.running_of_wanted()),
        };
        ctx.print(text);
    } else {
        let mut table = Table::new(["BATCH", "HOST", "FAULT DOMAIN", "ACTION", "WHAT", "WHY"]).right(0);
        for (i, batch) in forecast.batches.iter().enumerate() {
            for (step, what) in lines(batch, steps >= MANY && !ctx.global.verbose) {
                let domain = record
                    .applied
                    .hosts()
                    .find(|(_, h)| h.name == step.host)
                    .map(|(d, _)| d.to_string());
                table.row([
                    (i + 1).to_string(),
                    step.host.to_string(),
                    domain.unwrap_or_else(|| "-".to_owned()),
                    step.action.verb().to_owned(),
                    what,
                    step.why.to_string(),
                ]);
            }
        }
        ctx.table(&table);
        let batches = if forecast.batches.len() == 1 {
            "1 batch".to_owned()
        } else {
            format!("{} batches", forecast.batches.len())
        };
        ctx.print(format!(
            "{} in {batches}; then {}",
            count(steps, "step"),
            after(record, forecast)
        ));
    }
    let takes_away = forecast
        .batches
        .iter()
        .flatten()
        .any(|step| step.action.takes_away());
    if let Some(balancer) = record.applied.load_balancer.as_ref().filter(|_| takes_away) {
        ctx.print(format!(
            "what takes clients leaves the load balancer first, and may keep those it has for {} s",
            balancer.drain.as_secs_f64()
        ));
    }
    let disks = forecast.losses.data_disks();
    if !disks.is_empty() {
        ctx.print(format!("{} {disks} will be deleted", ctx.style.warn("!")));
    }
    for wait in crate::plan::told::sentences(&end.waits) {
        let wait = fold(&wait, ctx.world.env.width);
        ctx.print(format!("{} {wait}", ctx.style.warn("!")));
    }
}

fn after(record: &Record, forecast: &Forecast) -> String {
    if record.life == Life::Deleting && forecast.end.seen == 0 {
        return "nothing of the set is left".to_owned();
    }
    forecast.end.running_of_wanted()
}

fn lines(batch: &[Step], grouped: bool) -> Vec<(&Step, String)> {
    if !grouped {
        return batch.iter().map(|s| (s, s.action.subject())).collect();
    }
    let mut groups: BTreeMap<(usize, &str), Vec<&Step>> = BTreeMap::new();
    let mut hosts: Vec<&Label> = Vec::new();
    for step in batch {
        let host = hosts.iter().position(|h| *h == &step.host).unwrap_or_else(|| {
            hosts.push(&step.host);
            hosts.len() - 1
        });
        groups.entry((host, step.action.verb())).or_default().push(step);
    }
    (groups.into_values())
        .map(|steps| {
            let ids: Vec<u64> = steps
                .iter()
                .filter_map(|s| s.action.instance())
                .map(|id| id.0)
                .collect();
            let what = match steps.as_slice() {
                [one] => one.action.subject(),
                _ if ids.len() == steps.len() => format!("{}: {}", count(ids.len(), "instance"), ranges(ids)),
                many => many
                    .iter()
                    .map(|s| s.action.subject())
                    .collect::<Vec<_>>()
                    .join(", "),
            };
            (steps[0], what)
        })
        .collect()
}
