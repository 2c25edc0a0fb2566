//! `vmss autoscale explain`: a decision, with everything it rests on.

use serde::Serialize;

use super::{no_policy, turn, unsaid};
use crate::autoscale::Decision;
use crate::commands::{Context, Target};
use crate::converge::look_closely;
use crate::error::{Error, Exit, Result};
use crate::names::Label;
use crate::scaling;
use crate::timed::Turn;
use crate::ui::table::Table;
use crate::ui::words::{ago, count, moment};

/// A decision that nobody has made yet.
#[derive(Serialize)]
struct Considered<'a> {
    #[serde(flatten)]
    decision: &'a Decision,
    turns: &'a [Turn],
    unreachable: &'a [String],
}

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
    if now {
        return consider(ctx, &mut target);
    }
    let last = target.store.decisions(&target.name, 1)?.into_iter().next();
    let last = last.ok_or_else(|| {
        Error::message(
            Exit::Failed,
            format!("nothing was decided on {} yet", target.name),
        )
        .hint("vmss autoscale evaluates and acts; explain --now evaluates and changes nothing")
    })?;
    match ctx.is_json() {
        true => ctx.json(&last),
        false => show(ctx, &target.name, &last, false),
    }
    Ok(Exit::Converged)
}

/// Explains what an evaluation would come to now.
fn consider(ctx: &Context<'_>, target: &mut Target) -> Result<Exit> {
    let set = target.record.applied.clone();
    let inventory = look_closely(ctx.world, &*target.store, &set, &mut target.record);
    let (store, name) = (&*target.store, &target.name);
    let considered = scaling::consider(ctx.world, store, name, &target.record, &inventory)?;
    let Some(decision) = &considered.decision else {
        let text = format!("autoscaling of {name} is switched off");
        return Err(Error::message(Exit::Blocked, text).hint("vmss autoscale enable"));
    };
    if ctx.is_json() {
        ctx.json(&Considered {
            decision,
            turns: &considered.turns,
            unreachable: &considered.unreachable,
        });
    } else {
        for due in &considered.turns {
            let name = ctx.style.strong(name.as_str());
            ctx.print(format!("{name}: due now: {}", turn(due)));
        }
        show(ctx, name, decision, true);
        for what in &considered.unreachable {
            ctx.say(format!("! {what}"));
        }
    }
    Ok(match considered.unreachable.is_empty() {
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
