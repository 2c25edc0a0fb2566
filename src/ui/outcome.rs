//! How a run ended, in a few lines a person can act on, or as one JSON document.

use serde_json::json;

use crate::commands::Context;
use crate::converge::{Asked, Ending};
use crate::error::Exit;
use crate::names::Label;
use crate::plan::report::{Verdict, Wait};
use crate::record::Life;
use crate::rollout::RolloutState;
use crate::ui::words::{count, fold, list};

/// How a run ended, in a clause for the history.
pub fn in_history(ending: &Ending) -> String {
    let of = ending.report.running_of_wanted();
    if ending.interrupted {
        return format!("interrupted, {of}");
    }
    match ending.report.verdict() {
        Verdict::Converged => format!("converged, {of}"),
        Verdict::Unseen => format!("a host was not seen, {of}"),
        Verdict::Blocked => format!("blocked, {of}"),
        Verdict::Failed => format!("failed, {of}"),
    }
}

/// How the run of `verb` on `name` ended, for programs.
pub fn document(name: &Label, verb: &str, ending: &Ending, exit: Exit) -> serde_json::Value {
    json!({
        "set": name,
        "command": verb,
        "verdict": ending.report.verdict(),
        "interrupted": ending.interrupted,
        "exit_code": exit.code(),
        "rollout": ending.record.rollout,
        "report": ending.report,
        "done": ending.done,
        "left": ending.left,
        "failed": ending.failed.iter().map(|(step, error)| json!({ "step": step, "error": error })).collect::<Vec<_>>(),
    })
}

/// Says how the run of `verb` on `name` ended, which makes the exit code `exit`.
pub fn tell(ctx: &Context<'_>, name: &Label, verb: &str, ending: &Ending, exit: Exit) {
    let report = &ending.report;
    let verdict = report.verdict();
    if ctx.is_json() {
        ctx.json(&document(name, verb, ending, exit));
        return;
    }
    let style = ctx.style;
    let counts: Vec<String> = (ending.record.applied.fault_domains.iter())
        .map(|d| {
            let n: usize = (d.hosts.iter())
                .filter_map(|h| ending.inventory.host(&h.name)?.seen())
                .map(|h| h.instances.len())
                .sum();
            format!("{} {n}", d.name)
        })
        .collect();
    let deleting = ending.record.life == Life::Deleting;
    let line = if deleting && verdict == Verdict::Converged {
        format!("{name}: deleted")
    } else if deleting {
        format!(
            "{name}: not deleted yet, {} left",
            count(report.seen + report.unseen, "instance")
        )
    } else {
        format!("{name}: {} ({})", report.running_of_wanted(), counts.join(", "))
    };
    let good = exit == Exit::Converged;
    if good {
        ctx.say(format!("{} {line}", style.good("ok")));
    } else if ending.asked == Asked::Done && !ending.interrupted {
        ctx.world
            .stderr
            .line(format!("{} {line}", style.bad("done, but not all is well:")));
    } else {
        ctx.world
            .stderr
            .line(format!("{} {line}", style.bad("not done:")));
    }
    for frontend in ending
        .record
        .applied
        .load_balancer
        .iter()
        .flat_map(|l| &l.frontends)
    {
        if good && !deleting && matches!(verb, "create" | "apply") && !frontend.bind.is_empty() {
            ctx.say(format!(
                "   clients connect to {} ({})",
                frontend.urls().join(", "),
                frontend.name
            ));
        }
    }
    for (step, error) in &ending.failed {
        if step.action.created().is_some() && good {
            // It was made elsewhere: worth a remark, not an alarm.
            ctx.say(format!(
                "{} {} on {} failed and was undone: {error}",
                style.warn("note:"),
                step.action.subject(),
                step.host
            ));
        }
    }
    for wait in crate::plan::told::sentences(&report.waits) {
        // The width is that of the terminal of stdout, which is that of stderr if both are one.
        let env = &ctx.world.env;
        let taken = if good { "note: ".len() - 2 } else { 0 };
        let width = env.width.filter(|_| env.stderr_is_terminal);
        let width = width.map(|w| w.saturating_sub(u16::try_from(taken).unwrap_or(0)));
        let wait = fold(&wait, width);
        if good {
            ctx.say(format!("{} {wait}", style.warn("note:")));
        } else {
            ctx.world.stderr.line(format!("  {wait}"));
        }
    }
    let rollout = ending.record.rollout.as_ref().map(|r| (&r.state, r.target));
    if let (false, Some((RolloutState::RolledBack { reason }, target))) = (good, rollout) {
        ctx.world
            .stderr
            .line(format!("  the rollout went back to revision {target}: {reason}"));
    }
    if ending.interrupted {
        let left: Vec<String> = ending
            .left
            .iter()
            .map(|s| format!("{} {}", s.action.verb(), s.action.subject()))
            .collect();
        ctx.world
            .stderr
            .line(format!("interrupted; left to do: {}", list(&left, 8)));
        ctx.world.stderr.line(format!(
            "hint: vmss {} goes on from here",
            match (deleting, ending.asked == Asked::NotDone) {
                (true, _) => "delete",
                (false, true) => verb,
                (false, false) => "scale +0",
            }
        ));
    } else if !good {
        let of_rollout = rollout.and_then(|(state, _)| hint_of_rollout(state));
        let hint = match (verdict, of_rollout) {
            (Verdict::Failed, _) if ending.asked == Asked::NotDone => {
                format!("vmss check may tell more; vmss {verb} tries again")
            }
            (Verdict::Converged, Some(hint)) => hint.to_owned(),
            _ => self::hint(report.waits.as_slice(), verdict, deleting).to_owned(),
        };
        ctx.world.stderr.line(format!("hint: {hint}"));
    }
}

const fn hint_of_rollout(state: &RolloutState) -> Option<&'static str> {
    match state {
        RolloutState::Stopped { .. } => {
            Some("vmss upgrade status tells more; then vmss upgrade rollback, resume or cancel")
        }
        RolloutState::RolledBack { .. } => {
            Some("vmss upgrade status tells more; mend what was to be rolled out, then vmss apply")
        }
        RolloutState::Paused { .. } => Some("vmss upgrade resume goes on; vmss upgrade rollback goes back"),
        _ => None,
    }
}

fn hint(waits: &[Wait], verdict: Verdict, deleting: bool) -> &'static str {
    let has = |f: fn(&Wait) -> bool| waits.iter().any(f);
    match verdict {
        Verdict::Blocked if has(|w| matches!(w, Wait::OtherStore { .. })) => {
            "run the command where that store is, or take the set over with vmss state adopt"
        }
        Verdict::Blocked if has(|w| matches!(w, Wait::RecordOld { .. })) => {
            "vmss state catch-up shows what it would take over, and asks"
        }
        Verdict::Blocked if has(|w| matches!(w, Wait::Double(_))) => {
            "look which of the copies is the right one, then vmss instance settle ID --keep HOST"
        }
        Verdict::Blocked if has(|w| matches!(w, Wait::OneHost(_))) => {
            "nothing is changed as long as one host is there twice"
        }
        Verdict::Blocked if has(|w| matches!(w, Wait::StrictSpread { .. })) => {
            "mend the fault domain, or set placement.spread = \"best-effort\" and vmss apply"
        }
        Verdict::Blocked if has(|w| matches!(w, Wait::Protected { .. })) => {
            "vmss instance unprotect takes a protection back, vmss scale sets a capacity that keeps them"
        }
        Verdict::Blocked if has(|w| matches!(w, Wait::BeyondLimits { .. })) => {
            "vmss upgrade goes on when there is room; vmss upgrade --at-most replace allows to replace them, vmss upgrade rollback goes back"
        }
        Verdict::Blocked => "add hosts or free room, then vmss scale +0; vmss host list shows the room",
        Verdict::Unseen if !deleting && has(|w| matches!(w, Wait::BalancerUnseen { .. })) => {
            "vmss check tells what is wrong with it; vmss lb sync when it is back"
        }
        Verdict::Failed if !deleting && has(|w| matches!(w, Wait::BalancerFailed { .. })) => {
            "vmss check tells what a load balancer needs; vmss scale +0 tries again"
        }
        Verdict::Unseen if deleting => {
            "run vmss delete again when what was not seen is back, or give --abandon-unseen"
        }
        Verdict::Unseen => "vmss check tells what is wrong with the host; vmss scale +0 when it is back",
        Verdict::Failed if has(|w| matches!(w, Wait::StartBackoff { .. })) => {
            "the guest's own log tells why it does not stay on; vmss repair --resume starts it without waiting"
        }
        Verdict::Failed if deleting => "vmss delete again goes on from here",
        Verdict::Failed | Verdict::Converged => "vmss check may tell more; vmss scale +0 tries again",
    }
}
