//! `vmss autoscale explain`: a decision, with everything it rests on.

use super::{no_policy, unsaid};
use crate::autoscale::Decision;
use crate::commands::Context;
use crate::converge::look_closely;
use crate::error::{Error, Exit, Result};
use crate::names::Label;
use crate::scaling;
use crate::ui::table::Table;
use crate::ui::words::{ago, count, moment};

/// Explains the last decision, or evaluates now without acting, or lists decisions.
pub fn run(ctx: &Context<'_>, now: bool, limit: Option<usize>) -> Result<Exit> {
    let mut target = ctx.target()?;
    if target.record.applied.autoscale.is_none() {
        return Err(no_policy(&target));
    }
    if let Some(limit) = limit {
        let decisions = target.store.decisions(&target.name, limit)?;
        if ctx.is_json() {
            ctx.json(&decisions);
            return Ok(Exit::Converged);
        }
        let mut table = Table::new(["WHEN", "FROM", "TO", "WHY"]).right(1).right(2);
        for decision in &decisions {
            table.row([
                moment(decision.at),
                decision.from.to_string(),
                decision.to.to_string(),
                decision.why().to_owned(),
            ]);
        }
        ctx.table(&table);
        return Ok(Exit::Converged);
    }
    let (decision, unreachable) = if now {
        let set = target.record.applied.clone();
        let inventory = look_closely(ctx.world, &set, &mut target.record);
        let considered = scaling::consider(
            ctx.world,
            &*target.store,
            &target.name,
            &target.record,
            &inventory,
        )?;
        considered.ok_or_else(|| {
            Error::message(
                Exit::Blocked,
                format!("autoscaling of {} is switched off", target.name),
            )
            .hint("vmss autoscale enable")
        })?
    } else {
        let last = target.store.decisions(&target.name, 1)?.into_iter().next();
        let last = last.ok_or_else(|| {
            Error::message(
                Exit::Failed,
                format!("nothing was decided on {} yet", target.name),
            )
            .hint("vmss autoscale evaluates and acts; explain --now evaluates and changes nothing")
        })?;
        (last, Vec::new())
    };
    if ctx.is_json() {
        ctx.json(&decision);
    } else {
        show(ctx, &target.name, &decision, now);
        for what in &unreachable {
            ctx.say(format!("! {what}"));
        }
    }
    Ok(match unreachable.is_empty() {
        true => Exit::Converged,
        false => Exit::Unreachable,
    })
}

fn show(ctx: &Context<'_>, name: &Label, decision: &Decision, now: bool) {
    let would = if now { "would go " } else { "" };
    let reason = match decision.reason.strip_prefix("stays") {
        Some(rest) if now => format!("would stay{rest}"),
        _ => format!("{would}{}", decision.reason),
    };
    ctx.print(format!("{}: {reason}", ctx.style.strong(name.as_str())));
    let when = match now {
        true => "now; nothing was changed".to_owned(),
        false => format!(
            "{} ({})",
            moment(decision.at),
            ago(decision.at, ctx.world.clock.now())
        ),
    };
    ctx.print(format!("  when      {when}"));
    let bounds = format!(
        "{} to {}, default {}",
        decision.min, decision.max, decision.default
    );
    ctx.print(format!("  profile   {}: {bounds}", decision.profile));
    if let Some(floor) = &decision.floor {
        ctx.print(format!("  schedule  {}: at least {}", floor.schedule, floor.min));
    }
    let mut shown: Vec<String> = Vec::new();
    for measured in &decision.measured {
        let missing = match measured.missing {
            0 => String::new(),
            n => format!(", {n} not measured"),
        };
        let of = format!(" of {}{missing}", count(measured.instances as usize, "instance"));
        let problem = measured
            .problem
            .as_ref()
            .map_or_else(String::new, |p| format!(" ({p})"));
        let line = format!("  measured  {} {}{of}{problem}", measured.metric, measured.shown);
        if !shown.contains(&line) {
            ctx.print(&line);
            shown.push(line);
        }
    }
    for verdict in &decision.verdicts {
        let sign = if verdict.wants.is_some() { "*" } else { " " };
        ctx.print(format!("  rule    {sign} {} -> {}", verdict.rule, verdict.said));
    }
    if decision.recommended != decision.to && !decision.is_blind() {
        ctx.print(format!("  asked for {}", decision.recommended));
    }
    for held in unsaid(decision) {
        ctx.print(format!("  held      {held}"));
    }
    if let Some(outlook) = &decision.outlook {
        ctx.print(format!("  ahead     {outlook}"));
    }
}
