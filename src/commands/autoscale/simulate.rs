//! `vmss autoscale simulate`: a policy on a load of the past.

mod trace;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::autoscale::metric::number;
use crate::autoscale::policy::PredictMode;
use crate::autoscale::simulate::{Conditions, Run, Summary, lacks, simulate};
use crate::autoscale::spelling::span;
use crate::autoscale::{Autoscale, Decision, Trace};
use crate::cli::SimulateArgs;
use crate::commands::{Context, short_path};
use crate::definition;
use crate::error::{Error, Exit, Result};
use crate::ui::page;
use crate::ui::picture::{self, Panel};
use crate::ui::table::Table;
use crate::ui::words::moment;

/// Decisions that are listed on a terminal, of each policy.
const LISTED: usize = 20;

#[derive(Serialize)]
struct Document<'a> {
    policy: &'a str,
    summary: &'a Summary,
    metric: &'a str,
    decisions: &'a [Decision],
    steps: &'a [crate::autoscale::simulate::Step],
}

/// A policy and what it is called.
struct Candidate {
    name: String,
    policy: Autoscale,
}

/// Simulates, and shows what it came to.
pub fn run(ctx: &Context<'_>, args: &SimulateArgs) -> Result<Exit> {
    if args.interval < Duration::from_secs(1) {
        return Err(Error::message(Exit::Usage, "--interval is 1s at least"));
    }
    let (mut candidates, store) = candidates(ctx, args)?;
    let first = &candidates[0].policy;
    let trace = trace::read(ctx, args, first, store.as_ref())?;
    if trace.points.is_empty() {
        return Err(Error::message(Exit::Failed, "the trace is empty in that time"));
    }
    for candidate in &candidates {
        let lacking = lacks(&candidate.policy, &trace);
        if !lacking.is_empty() {
            return Err(Error::message(
                Exit::Usage,
                format!(
                    "the policy of {} goes by {}, and the trace has {} only",
                    candidate.name,
                    lacking.join(", "),
                    trace.metrics.join(", ")
                ),
            )
            .hint("name the trace's columns like the metrics; a single column may be called load"));
        }
    }
    with_predictions(&mut candidates);
    let conditions = Conditions {
        start_up: args.start_up,
        interval: args.interval,
        capacity: args.capacity,
    };
    let runs: Vec<(String, Run)> = (candidates.into_iter())
        .map(|c| (c.name, simulate(&c.policy, &trace, conditions)))
        .collect();
    draw(ctx, args, &trace, &runs)?;
    show(ctx, &trace, &runs);
    Ok(Exit::Converged)
}

/// The policies that are tried: the definition's, or the applied one's of a set that is named; then those to compare with.
fn candidates(ctx: &Context<'_>, args: &SimulateArgs) -> Result<(Vec<Candidate>, Option<trace::Kept>)> {
    let named = |path: &Path| {
        path.file_stem()
            .map_or_else(String::new, |s| s.to_string_lossy().into_owned())
    };
    let (name, policy, set, store) = match &ctx.global.set {
        Some(set) => {
            let target = ctx.target()?;
            let policy = target.record.applied.autoscale.clone();
            (set.to_string(), policy, target.name, Some(target.store))
        }
        None => {
            let definition = ctx.definition()?;
            // Only samples need the store, and a definition may be tried before there is one.
            let needs_store = args.trace.is_none() && args.prometheus.is_empty();
            let store = needs_store.then(|| ctx.store(Some(&definition))).transpose()?;
            (
                named(&ctx.file()),
                definition.autoscale.clone(),
                definition.name,
                store,
            )
        }
    };
    let no_policy = |what: &str| {
        Error::message(Exit::Definition, format!("{what} has no [autoscale]"))
            .hint("scaleset.toml.example and the README show one")
    };
    let mut all = vec![Candidate {
        policy: policy.ok_or_else(|| no_policy(&name))?,
        name,
    }];
    for path in &args.against {
        let path: PathBuf = ctx.world.env.cwd.join(path);
        let text = ctx.definition_text(&path)?;
        let definition = definition::parse(&text, &path).map_err(|errors| {
            Error::rendered(
                Exit::Definition,
                definition::render(&errors, &text, ctx.style.color),
            )
        })?;
        let name = named(&path);
        all.push(Candidate {
            policy: definition.autoscale.ok_or_else(|| no_policy(&name))?,
            name,
        });
    }
    Ok((all, store.map(|store| trace::Kept { store, set })))
}

/// Beside a policy that only says what it would do ahead of a load, the same one that does it.
fn with_predictions(candidates: &mut Vec<Candidate>) {
    let mut all = Vec::new();
    for candidate in candidates.drain(..) {
        let acting = candidate
            .policy
            .predict
            .clone()
            .filter(|p| p.mode == PredictMode::ForecastOnly);
        let acting = acting.map(|mut predict| {
            predict.mode = PredictMode::Scale;
            Candidate {
                name: format!("{} with prediction", candidate.name),
                policy: Autoscale {
                    predict: Some(predict),
                    ..candidate.policy.clone()
                },
            }
        });
        all.push(candidate);
        all.extend(acting);
    }
    *candidates = all;
}

fn draw(ctx: &Context<'_>, args: &SimulateArgs, trace: &Trace, runs: &[(String, Run)]) -> Result<()> {
    if args.svg.is_none() && args.html.is_none() {
        return Ok(());
    }
    let panels: Vec<Panel<'_>> = (runs.iter())
        .map(|(name, run)| Panel {
            name: name.clone(),
            run,
        })
        .collect();
    let failed = |e: String| Error::message(Exit::Failed, e);
    let svg = picture::svg(&panels).map_err(failed)?;
    let write = |path: &Path, text: &str| {
        let path = ctx.world.env.cwd.join(path);
        std::fs::write(&path, text)
            .map_err(|e| Error::new(Exit::Failed, e).context(format!("writing {}", path.display())))
            .inspect(|()| ctx.say(format!("wrote {}", short_path(&path, &ctx.world.env.cwd))))
    };
    if let Some(path) = &args.svg {
        write(path, &svg)?;
    }
    if let Some(path) = &args.html {
        write(path, &page::html(&svg, &panels, trace).map_err(failed)?)?;
    }
    Ok(())
}

fn show(ctx: &Context<'_>, trace: &Trace, runs: &[(String, Run)]) {
    if ctx.is_json() {
        let documents: Vec<Document<'_>> = (runs.iter())
            .map(|(name, run)| Document {
                policy: name,
                summary: &run.summary,
                metric: &run.metric,
                decisions: &run.decisions,
                steps: &run.steps,
            })
            .collect();
        ctx.json(&documents);
        return;
    }
    if let (Some(first), Some(last)) = (trace.points.first(), trace.points.last()) {
        ctx.print(format!(
            "{} to {}, {} points",
            moment(first.at),
            moment(last.at),
            trace.points.len()
        ));
    }
    let mut table = Table::new([
        "POLICY",
        "MOST",
        "FEWEST",
        "OUT",
        "IN",
        "INSTANCE HOURS",
        "OVER THRESHOLD",
        "SATURATED",
    ]);
    for column in 1..=7 {
        table = table.right(column);
    }
    for (name, run) in runs {
        let sum = &run.summary;
        let time = |seconds: f64| {
            let share = 100.0 * seconds / sum.seconds.max(1.0);
            format!(
                "{} ({} %)",
                span(Duration::from_secs_f64(seconds.max(0.0))),
                number(share)
            )
        };
        table.row([
            name.clone(),
            sum.most.to_string(),
            sum.fewest.to_string(),
            sum.outs.to_string(),
            sum.ins.to_string(),
            format!("{:.1}", sum.instance_hours),
            time(sum.seconds_over),
            time(sum.seconds_saturated),
        ]);
    }
    ctx.table(&table);
    for (name, run) in runs {
        ctx.print("");
        list(ctx, name, &run.decisions);
    }
}

fn list(ctx: &Context<'_>, name: &str, decisions: &[Decision]) {
    ctx.print(format!("{}:", ctx.style.strong(name)));
    if decisions.is_empty() {
        ctx.print("  the capacity never changes");
        return;
    }
    let mut table = Table::new(["  WHEN", "FROM", "TO", "WHY"]).right(1).right(2);
    for decision in decisions.iter().take(LISTED) {
        table.row([
            format!("  {}", moment(decision.at)),
            decision.from.to_string(),
            decision.to.to_string(),
            decision.why().to_owned(),
        ]);
    }
    ctx.table(&table);
    if decisions.len() > LISTED {
        let more = decisions.len() - LISTED;
        ctx.print(format!("  and {more} more: --html FILE or -o json has them all"));
    }
}
