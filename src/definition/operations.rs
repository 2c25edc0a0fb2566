//! What is done to instances that are there: `[scale_in]`, `[upgrade]`, `[repair]`.

use std::time::Duration;

use crate::definition::reader::{Reader, Section};
use crate::definition::sections::{MOST, duration};
use crate::definition::values;
use crate::scaleset::{
    Amount, Method, OnFailure, Repair, RepairAction, ScaleIn, ScaleInPolicy, Unwilling, Upgrade,
    UpgradePolicy,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Reads `[scale_in]`.
pub(super) fn scale_in(r: &mut Reader<'_>, top: &Section<'_, '_>) -> Option<ScaleIn> {
    let mut scale_in = ScaleIn {
        policy: ScaleInPolicy::Default,
        shutdown: MINUTE,
        protect_new: false,
    };
    if !top.has("scale_in") {
        return Some(scale_in);
    }
    let s = r.table(top, "scale_in", "ScaleIn")?;
    let policies = [
        ("default", ScaleInPolicy::Default),
        ("newest", ScaleInPolicy::Newest),
        ("oldest", ScaleInPolicy::Oldest),
    ];
    set(&mut scale_in.policy, r.choice(&s, "policy", &policies));
    set(
        &mut scale_in.shutdown,
        duration(r, &s, "shutdown", Duration::ZERO, HOUR),
    );
    set(
        &mut scale_in.protect_new,
        r.boolean(&s, "protect_new").map(|at| at.value),
    );
    Some(scale_in)
}

/// Reads `[upgrade]`.
pub(super) fn upgrade(r: &mut Reader<'_>, top: &Section<'_, '_>) -> Option<Upgrade> {
    let mut upgrade = Upgrade::default();
    if !top.has("upgrade") {
        return Some(upgrade);
    }
    let s = r.table(top, "upgrade", "Upgrade")?;
    let policies = [
        ("rolling", UpgradePolicy::Rolling),
        ("manual", UpgradePolicy::Manual),
        ("automatic", UpgradePolicy::Automatic),
    ];
    set(&mut upgrade.policy, r.choice(&s, "policy", &policies));
    let methods = [
        ("auto", Method::Auto),
        ("reimage", Method::Reimage),
        ("replace", Method::Replace),
    ];
    set(&mut upgrade.method, r.choice(&s, "method", &methods));
    set(&mut upgrade.max_batch, some_amount(r, &s, "max_batch"));
    set(&mut upgrade.max_surge, amount(r, &s, "max_surge"));
    set(&mut upgrade.max_unavailable, amount(r, &s, "max_unavailable"));
    set(&mut upgrade.max_unhealthy, amount(r, &s, "max_unhealthy"));
    set(
        &mut upgrade.max_unhealthy_upgraded,
        amount(r, &s, "max_unhealthy_upgraded"),
    );
    check_room(r, &s, &upgrade);
    set(&mut upgrade.pause, duration(r, &s, "pause", Duration::ZERO, DAY));
    // Google's range for its minReadySec.
    set(
        &mut upgrade.min_ready,
        duration(r, &s, "min_ready", Duration::ZERO, HOUR),
    );
    set(&mut upgrade.checkpoints, checkpoints(r, &s));
    set(
        &mut upgrade.checkpoint_pause,
        duration(r, &s, "checkpoint_pause", Duration::ZERO, 7 * DAY),
    );
    set(
        &mut upgrade.bake,
        duration(r, &s, "bake", Duration::ZERO, 2 * DAY),
    );
    let batch_timeout = duration(r, &s, "batch_timeout", Duration::from_secs(1), DAY);
    if batch_timeout.is_some() || !s.has("batch_timeout") {
        set(&mut upgrade.batch_timeout, batch_timeout);
        check_batch_time(r, &s, &upgrade);
    }
    set(
        &mut upgrade.prioritize_unhealthy,
        r.boolean(&s, "prioritize_unhealthy").map(|at| at.value),
    );
    let on_failure = [("stop", OnFailure::Stop), ("rollback", OnFailure::Rollback)];
    set(&mut upgrade.on_failure, r.choice(&s, "on_failure", &on_failure));
    let unwilling = [
        ("skip", Unwilling::Skip),
        ("wait", Unwilling::Wait),
        ("include", Unwilling::Include),
    ];
    set(&mut upgrade.protected, r.choice(&s, "protected", &unwilling));
    Some(upgrade)
}

/// Checkpoints, from few to many: shares and counts can't be compared before the capacity is known.
fn checkpoints(r: &mut Reader<'_>, s: &Section<'_, '_>) -> Option<Vec<Amount>> {
    if !s.has("checkpoints") {
        return None;
    }
    let found = r.amounts(s, "checkpoints", MOST);
    for at in found.iter().filter(|at| at.value.is_zero()) {
        r.bad(
            at,
            "a checkpoint at 0 is before anything was done",
            "1 or more, or \"1%\" or more",
        );
    }
    for pair in found.windows(2) {
        let out_of_order = match (pair[0].value, pair[1].value) {
            (Amount::Count(a), Amount::Count(b)) | (Amount::Percent(a), Amount::Percent(b)) => a >= b,
            _ => false,
        };
        if out_of_order {
            r.bad(&pair[1], "checkpoints go from few to many", "put them in order");
        }
    }
    Some(found.into_iter().map(|at| at.value).collect())
}

/// Something must be allowed to be above capacity or below it, or nothing can ever be changed (Google refuses the same).
fn check_room(r: &mut Reader<'_>, s: &Section<'_, '_>, upgrade: &Upgrade) {
    let in_place = upgrade.method == Method::Reimage;
    let mut at_fault = |key: &str, message: &str, help: &str| {
        let span = s.key_span(key).unwrap_or_else(|| s.span.clone());
        r.wrong(span, &s.key(key), message, Some(help.to_owned()));
    };
    if in_place && !upgrade.max_surge.is_zero() {
        at_fault(
            "max_surge",
            "max_surge goes with replacing: a reimage keeps the instance, so nothing is made beside it",
            "write max_surge = 0, or method = \"replace\" or \"auto\"",
        );
    } else if upgrade.max_surge.is_zero() && upgrade.max_unavailable.is_zero() {
        // Without max_unavailable written, its default is not 0, so one that is 0 is there.
        at_fault(
            "max_unavailable",
            "max_surge and max_unavailable are both 0, so no instance could ever be changed",
            if in_place {
                "write max_unavailable = 1: a reimage takes an instance away for a while"
            } else {
                "write max_surge = 1 to make the new instance first, or max_unavailable = 1 to take the old one away first"
            },
        );
    }
}

/// A batch is done only when its instances were healthy for `min_ready`: it must have more time than that.
fn check_batch_time(r: &mut Reader<'_>, s: &Section<'_, '_>, upgrade: &Upgrade) {
    if upgrade.batch_timeout > upgrade.min_ready {
        return;
    }
    let key = if s.has("batch_timeout") {
        "batch_timeout"
    } else {
        "min_ready"
    };
    let (timeout, ready) = (
        values::spelled(upgrade.batch_timeout),
        values::spelled(upgrade.min_ready),
    );
    r.wrong(
        s.key_span(key).unwrap_or_default(),
        &s.key(key),
        format!("no batch could be done within batch_timeout ({timeout}): its instances must be healthy for min_ready ({ready})"),
        Some("make batch_timeout longer than min_ready by what an upgrade takes".into()),
    );
}

/// Reads `[repair]`; without it, nothing is repaired.
pub(super) fn repair(r: &mut Reader<'_>, top: &Section<'_, '_>) -> Option<Repair> {
    let mut repair = Repair::default();
    if !top.has("repair") {
        return Some(repair);
    }
    let s = r.table(top, "repair", "Repair")?;
    set(&mut repair.enabled, r.boolean(&s, "enabled").map(|at| at.value));
    let actions = [
        ("restart", RepairAction::Restart),
        ("reimage", RepairAction::Reimage),
        ("replace", RepairAction::Replace),
    ];
    set(&mut repair.action, r.choice(&s, "action", &actions));
    // Azure's range for the grace period of automatic instance repairs.
    set(
        &mut repair.grace_period,
        duration(r, &s, "grace_period", MINUTE, 90 * MINUTE),
    );
    set(&mut repair.max_concurrent, some_amount(r, &s, "max_concurrent"));
    set(&mut repair.max_unhealthy, amount(r, &s, "max_unhealthy"));
    set(
        &mut repair.host_lost_after,
        duration(r, &s, "host_lost_after", MINUTE, DAY),
    );
    Some(repair)
}

/// Takes what was read; where nothing good was, the default stays, and what is wrong was told.
pub(super) fn set<T>(place: &mut T, read: Option<T>) {
    if let Some(value) = read {
        *place = value;
    }
}

fn amount(r: &mut Reader<'_>, s: &Section<'_, '_>, key: &str) -> Option<Amount> {
    r.amount(s, key, MOST).map(|at| at.value)
}

/// An amount of which 0 would mean that nothing ever happens.
pub(super) fn some_amount(r: &mut Reader<'_>, s: &Section<'_, '_>, key: &str) -> Option<Amount> {
    let at = r.amount(s, key, MOST)?;
    if at.value.is_zero() {
        r.bad(
            &at,
            format!("{} is 0, so nothing could ever be done", at.key),
            "1 or more, or \"1%\" to \"100%\", which is 1 at least",
        );
        return None;
    }
    Some(at.value)
}
