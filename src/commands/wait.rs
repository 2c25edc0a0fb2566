//! `vmss wait`: blocks until the set is as asked for, or the time is up.

use std::time::Duration;

use crate::cli::WaitFor;
use crate::commands::Context;
use crate::converge::{amend, look_and_heed};
use crate::error::{Error, Exit, Result};
use crate::event::Event;
use crate::health::later;
use crate::plan::report::Wait;
use crate::plan::{Experience, Plan, Situation, plan};
use crate::rollout::RolloutState;

/// Waits.
pub fn run(ctx: &Context<'_>, what: WaitFor, timeout: Duration) -> Result<Exit> {
    let target = ctx.target()?;
    let name = target.name.clone();
    let end = later(ctx.world.clock.now(), timeout);
    let mut told = String::new();
    loop {
        let (mut record, _) = amend(&*target.store, &name, |_| false)?;
        // What the answers add up to is kept: two good ones in a row may come from two looks.
        let inventory = look_and_heed(ctx.world, &*target.store, &mut record)?;
        let (set, now) = (record.applied.clone(), ctx.world.clock.now());
        let experience = Experience::default();
        let Plan { report, .. } = plan(Situation {
            set: &set,
            record: &record,
            inventory: &inventory,
            experience: &experience,
            now,
            drawn: (ctx.world.draw)(),
        });
        let current = &record.current().hash;
        let outdated = inventory
            .instances()
            .filter(|i| &i.meta.model_hash != current)
            .count();
        let rollout = record.rollout.as_ref();
        let full = report.seen >= report.wanted + report.surplus;
        let lacks = match what {
            // What an operator has stopped is not waited for.
            WaitFor::Capacity if report.running + report.stopped >= report.wanted => None,
            WaitFor::Capacity => Some(report.running_of_wanted()),
            WaitFor::Healthy if report.healthy + report.stopped >= report.wanted => None,
            WaitFor::Healthy => Some(format!("{} of {} healthy", report.healthy, report.wanted)),
            WaitFor::Upgraded
                if outdated == 0 && full && report.healthy + report.stopped >= report.wanted =>
            {
                None
            }
            WaitFor::Upgraded => Some(format!(
                "{outdated} outdated, {} of {} healthy",
                report.healthy, report.wanted
            )),
        };
        let Some(lacks) = lacks else {
            ctx.say(format!(
                "{} {name}: {}, {} healthy",
                ctx.style.good("ok"),
                report.running_of_wanted(),
                report.healthy
            ));
            return Ok(Exit::Converged);
        };
        if what == WaitFor::Upgraded
            && let Some(RolloutState::Stopped { reason } | RolloutState::RolledBack { reason }) =
                rollout.map(|r| &r.state)
        {
            return Err(Error::message(
                Exit::Unhealthy,
                format!("{name}: the rollout did not succeed: {reason}"),
            )
            .hint("vmss upgrade status tells more"));
        }
        if ctx.world.interrupt.is_set() {
            return Ok(Exit::Interrupted);
        }
        if now >= end {
            let ailing: Vec<String> = (report.waits.iter())
                .filter(|w| !matches!(w, Wait::Unwilling { .. }))
                .map(ToString::to_string)
                .collect();
            let tail = if ailing.is_empty() {
                String::new()
            } else {
                format!(" ({})", ailing.join("; "))
            };
            return Err(Error::message(
                Exit::Unhealthy,
                format!("{name}: {lacks} after {}{tail}", crate::ui::words::brief(timeout)),
            )
            .hint("vmss instances shows how each of them is"));
        }
        if told != lacks {
            ctx.listener.event(&Event::Waiting {
                text: format!("{name}: {lacks}"),
            });
            told = lacks;
        }
        let left = Duration::try_from(end.duration_since(now)).unwrap_or_default();
        let pace = match set.health.probe {
            crate::scaleset::Probe::None => Duration::from_secs(1),
            _ => set.health.interval,
        };
        ctx.world.clock.wait(pace.min(left), &ctx.world.interrupt);
    }
}
