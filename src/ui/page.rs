//! The page of a simulation: its picture, what each policy comes to, and every decision with its reason. It needs nothing
//! else: no script, no file beside it, nothing from the network.

use serde::Serialize;

use crate::autoscale::Trace;
use crate::autoscale::metric::number;
use crate::autoscale::spelling::span;
use crate::ui::picture::Panel;
use crate::ui::words::moment;

#[derive(Serialize)]
struct Policy {
    name: String,
    most: u32,
    fewest: u32,
    outs: u32,
    ins: u32,
    hours: String,
    over: String,
    saturated: String,
    decisions: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    when: String,
    from: u32,
    to: u32,
    out: bool,
    why: String,
    held: Vec<String>,
}

/// The page as HTML.
///
/// # Errors
/// A sentence, if it can't be made.
pub fn html(svg: &str, panels: &[Panel<'_>], trace: &Trace) -> Result<String, String> {
    let policies: Vec<Policy> = panels.iter().map(policy).collect();
    let (first, last) = (trace.points.first(), trace.points.last());
    let when = first
        .zip(last)
        .map(|(a, b)| format!("{} to {}", moment(a.at), moment(b.at)));
    let mut pages = minijinja::Environment::new();
    // The name decides that what is put in is escaped.
    let page = pages
        .add_template("page.html", include_str!("page.html"))
        .and_then(|()| pages.get_template("page.html"));
    page.and_then(|page| {
        page.render(minijinja::context! {
            when => when,
            points => trace.points.len(),
            svg => minijinja::Value::from_safe_string(svg.to_owned()),
            policies => minijinja::value::Serde(policies),
        })
    })
    .map_err(|e| format!("making the page: {e:#}"))
}

fn policy(panel: &Panel<'_>) -> Policy {
    let sum = &panel.run.summary;
    let time = |seconds: f64| {
        let share = 100.0 * seconds / sum.seconds.max(1.0);
        let spelled = span(std::time::Duration::from_secs_f64(seconds.max(0.0)));
        format!("{spelled} ({} %)", number(share))
    };
    let decisions = panel.run.decisions.iter().map(|d| Row {
        when: moment(d.at),
        from: d.from,
        to: d.to,
        out: d.to > d.from,
        why: d.why().to_owned(),
        held: d.held.clone(),
    });
    Policy {
        name: panel.name.clone(),
        most: sum.most,
        fewest: sum.fewest,
        outs: sum.outs,
        ins: sum.ins,
        hours: format!("{:.1}", sum.instance_hours),
        over: time(sum.seconds_over),
        saturated: time(sum.seconds_saturated),
        decisions: decisions.collect(),
    }
}
