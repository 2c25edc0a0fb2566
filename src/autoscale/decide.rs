//! From a policy, what was measured and the time to a decision.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::autoscale::calendar::When;
use crate::autoscale::decision::{Decision, Floor, Measured, Move};
use crate::autoscale::judge::{Facts, Judged, judge};
use crate::autoscale::policy::{Autoscale, Direction, PredictMode, Profile};
use crate::autoscale::predict::Outlook;
use crate::autoscale::sample::Samples;
use crate::autoscale::spelling::{age, span};
use crate::autoscale::state::{Pin, State};

/// Everything a decision depends on.
#[derive(Clone, Copy)]
pub struct Situation<'a> {
    /// The policy.
    pub policy: &'a Autoscale,
    /// What is remembered.
    pub state: &'a State,
    /// What was measured, up to now.
    pub samples: &'a Samples,
    /// What could not be measured just now, by the metric's name, and why.
    pub problems: &'a BTreeMap<String, String>,
    /// The capacity that is wanted so far.
    pub capacity: u32,
    /// Hosts that could not be seen just now: with them out of sight nobody knows how large the set is.
    pub unseen: &'a [String],
    /// Instances that are protected from scale in: the capacity is never brought below their number.
    pub protected: u32,
    /// An operator's wish for a while.
    pub pin: Option<&'a Pin>,
    /// What is expected of the load ahead, if the policy looks ahead and enough is known.
    pub outlook: Option<&'a Outlook>,
    /// When was measured, as moments of samples are ([`crate::autoscale::Sample::moment`]): what was measured just now is of
    /// this moment.
    pub measured: Timestamp,
    /// Now: not before what is remembered was read, for somebody may have decided while this one measured.
    pub now: Timestamp,
}

impl Autoscale {
    /// The profile that holds at `now`: the first declared of those with a date, then of those that recur, then the
    /// default (Azure). `None` only for a policy without profiles.
    pub fn profile_at(&self, now: Timestamp) -> Option<&Profile> {
        let holds = |is_date: bool| {
            (self.profiles.iter()).find(|p| {
                let when = p
                    .when
                    .as_ref()
                    .filter(|w| matches!(w, When::Dates { .. }) == is_date);
                when.is_some_and(|when| when.current(now).is_some())
            })
        };
        let default = || self.profiles.iter().find(|p| p.when.is_none());
        holds(true).or_else(|| holds(false)).or_else(default)
    }

    /// The schedule with the largest minimum of those that hold at `now` (Google); of equal ones the first declared.
    pub fn floor_at(&self, now: Timestamp) -> Option<Floor> {
        let holding = (self.schedules.iter()).filter(|s| s.start.current(s.duration, now).is_some());
        let floors = holding.map(|s| Floor {
            schedule: s.name.clone(),
            min: s.min,
        });
        floors.reduce(|a, b| if b.min > a.min { b } else { a })
    }
}

/// Where the capacity may be.
struct Bounds {
    min: u32,
    max: u32,
    floor: Option<Floor>,
}

/// What is asked for, before anything holds it back.
struct Ask {
    /// The capacity asked for, within bounds.
    to: u32,
    /// What asks, and which way; `None`: the profile itself.
    by: Option<(Direction, std::time::Duration)>,
    /// Why.
    why: String,
}

/// Decides. The same situation gives the same decision.
pub fn decide(s: Situation<'_>) -> Decision {
    let nothing = Profile {
        name: "none".to_owned(),
        min: 0,
        max: u32::MAX,
        default: s.capacity,
        when: None,
        rules: Vec::new(),
        targets: Vec::new(),
    };
    let profile = s.policy.profile_at(s.now).unwrap_or(&nothing);
    let floor = s.policy.floor_at(s.now).filter(|f| f.min > profile.min);
    let bounds = Bounds {
        min: floor.as_ref().map_or(profile.min, |f| f.min.min(profile.max)),
        max: profile.max,
        floor,
    };
    let facts = Facts {
        samples: s.samples,
        problems: s.problems,
        capacity: s.capacity,
        now: s.measured,
    };
    let judged = judge(profile, facts);
    let measured: Vec<Measured> = judged.iter().map(|j| j.measured(s.problems)).collect();
    let mut held = Vec::new();
    let ask = ask(s, profile, &bounds, &judged, &mut held);
    let mut decision = Decision {
        at: s.now,
        from: s.capacity,
        to: s.capacity,
        reason: String::new(),
        held,
        profile: profile.name.clone(),
        min: bounds.min,
        max: bounds.max,
        default: profile.default,
        recommended: ask.to,
        moved: Move::None,
        measured,
        verdicts: judged.iter().map(Judged::verdict).collect(),
        outlook: s.outlook.map(ToString::to_string),
        floor: bounds.floor.clone(),
    };
    if let Some(pin) = s.pin {
        pinned(s, &mut decision, pin);
        return decision;
    }
    let mut why = ask.why.clone();
    follow(s, &ask, &mut decision);
    if decision.to == decision.from && ask.to != decision.from {
        why = decision.held.first().cloned().unwrap_or(why);
    }
    if decision.is_blind() && decision.to < profile.default {
        why = format!("metrics are missing, and {} is the default", profile.default);
        move_on(&mut decision, profile.default);
    }
    raise_to_bounds(s, profile, &bounds, &mut decision, &mut why);
    lower_to_maximum(s, &bounds, &mut decision, &mut why);
    decision.reason = sentence(&decision, &why);
    decision
}

fn sentence(decision: &Decision, why: &str) -> String {
    let (from, to) = (decision.from, decision.to);
    match to.cmp(&from) {
        std::cmp::Ordering::Greater => format!("out from {from} to {to}: {why}"),
        std::cmp::Ordering::Less => format!("in from {from} to {to}: {why}"),
        std::cmp::Ordering::Equal => format!("stays at {to}: {why}"),
    }
}

fn pinned(s: Situation<'_>, decision: &mut Decision, pin: &Pin) {
    // Not below the number of those that may not be taken, whoever wants it.
    decision.to = pin.capacity.max(s.protected.min(s.capacity));
    if decision.to != decision.from {
        decision.moved = Move::Bound;
    }
    decision.recommended = decision.recommended.max(pin.capacity);
    let mut why = format!(
        "{} wants {} for another {}",
        pin.by,
        pin.capacity,
        age(pin.until.duration_since(s.now))
    );
    if decision.to != pin.capacity {
        why += &format!(", but {}", are_protected(s.protected));
    }
    decision.reason = sentence(decision, &why);
}

/// What rules, targets and the profile ask for.
fn ask(
    s: Situation<'_>,
    profile: &Profile,
    bounds: &Bounds,
    judged: &[Judged<'_>],
    held: &mut Vec<String>,
) -> Ask {
    if !profile.is_measured() {
        let to = profile.default.clamp(bounds.min, bounds.max);
        let why = match &bounds.floor {
            Some(floor) if to == bounds.min && to > profile.default => schedule_says(floor),
            _ => format!("profile {} has a default of {}", profile.name, profile.default),
        };
        return Ask { to, by: None, why };
    }
    // Any rule suffices to scale out, and the largest result wins (Azure).
    let out = (judged.iter())
        .filter_map(|j| Some((j, j.wants.filter(|(d, _)| *d == Direction::Out)?.1)))
        .reduce(|a, b| if b.1 > a.1 { b } else { a });
    if let Some((judged, wanted)) = out {
        let to = wanted.min(bounds.max).max(s.capacity);
        let why = judged.why();
        if wanted > bounds.max {
            held.push(format!(
                "{why}, but {} is the maximum of profile {}",
                bounds.max, profile.name
            ));
        }
        if to == s.capacity {
            let why = held.first().cloned().unwrap_or(why);
            return Ask { to, by: None, why };
        }
        let by = Some((Direction::Out, judged.by.cooldown()));
        return Ask { to, by, why };
    }
    let stay = |why: String| Ask {
        to: s.capacity,
        by: None,
        why,
    };
    let missing: Vec<&String> = judged.iter().filter_map(|j| j.reading.as_ref().err()).collect();
    if let Some((first, judged)) = missing.first().zip(judged.iter().find(|j| j.reading.is_err())) {
        return stay(format!(
            "metrics are missing ({} {first})",
            judged.measured(s.problems).metric
        ));
    }
    if let Some(stale) = judged.iter().find(|j| j.stale.is_some()) {
        return stay(stale.value());
    }
    // All that speak of scaling in must want it, and the smallest cut wins (Azure).
    let speakers: Vec<&Judged<'_>> = judged.iter().filter(|j| j.by.speaks_of_in()).collect();
    let cut = |j: &Judged<'_>| j.wants.filter(|(d, _)| *d == Direction::In).map(|(_, to)| to);
    let cutter = (speakers.iter())
        .filter_map(|j| Some((*j, cut(j)?)))
        .reduce(|a, b| if b.1 > a.1 { b } else { a });
    let Some((cutter, to)) = cutter else {
        return stay(content(judged));
    };
    if let Some(dissent) = speakers.iter().find(|j| cut(j).is_none()) {
        return stay(format!(
            "{}, but {}, and all must agree to scale in",
            cutter.why(),
            dissent.why_not()
        ));
    }
    shrink(s, profile, bounds, judged, cutter, to, held)
}

/// What was measured, where nothing is to be done about it.
fn content(judged: &[Judged<'_>]) -> String {
    let mut values: Vec<String> = judged.iter().map(Judged::value).collect();
    values.dedup();
    format!("{}, and no rule fires", values.join(", "))
}

/// Scaling in to `to`, or to the fewest above it with which the set would not scale out again at once (Azure).
fn shrink(
    s: Situation<'_>,
    profile: &Profile,
    bounds: &Bounds,
    judged: &[Judged<'_>],
    cutter: &Judged<'_>,
    to: u32,
    held: &mut Vec<String>,
) -> Ask {
    let why = cutter.why();
    let stay = |why: String| Ask {
        to: s.capacity,
        by: None,
        why,
    };
    let lowest = to.max(bounds.min);
    if lowest >= s.capacity {
        return stay(format!(
            "{why}, but {} is the minimum{}",
            bounds.min,
            of(profile, bounds)
        ));
    }
    let again = |to: u32| judged.iter().find_map(|j| j.would_scale_out(s.capacity, to));
    let Some(first) = again(lowest) else {
        let by = Some((Direction::In, cutter.by.cooldown()));
        return Ask { to: lowest, by, why };
    };
    let fewest = (lowest + 1..s.capacity).find(|to| again(*to).is_none());
    held.push(format!(
        "in to {lowest} is left out: with {lowest} instances {first}"
    ));
    match fewest {
        Some(to) => Ask {
            to,
            by: Some((Direction::In, cutter.by.cooldown())),
            why,
        },
        None => {
            let last = again(s.capacity - 1).unwrap_or(first);
            stay(format!("{why}, but with {} instances {last}", s.capacity - 1))
        }
    }
}

fn of(profile: &Profile, bounds: &Bounds) -> String {
    match &bounds.floor {
        Some(floor) => format!(" of schedule {}", floor.schedule),
        None => format!(" of profile {}", profile.name),
    }
}

fn schedule_says(floor: &Floor) -> String {
    format!("schedule {} has a minimum of {}", floor.schedule, floor.min)
}

/// Does what is asked for, as far as nothing holds it back.
fn follow(s: Situation<'_>, ask: &Ask, decision: &mut Decision) {
    if ask.to == s.capacity {
        return;
    }
    let direction = match ask.to > s.capacity {
        true => Direction::Out,
        false => Direction::In,
    };
    let held = |decision: &mut Decision, why: String| {
        let text = format!("{} to {} is held back: {why}", direction.as_str(), ask.to);
        decision.held.insert(0, text);
    };
    if direction == Direction::In
        && let Some(why) = unsure(s, decision)
    {
        held(decision, why);
        return;
    }
    if ask.by.is_some()
        && let Some(until) = s.state.cools_until(s.policy, direction, s.now)
    {
        let left = age(until.duration_since(s.now));
        let fired = s.state.fired.as_ref();
        let last = fired.map_or("", |f| f.direction.as_str());
        let ago = fired.map_or_else(String::new, |f| age(s.now.duration_since(f.at)));
        held(
            decision,
            format!("scaled {last} {ago} ago, and the cooldown lasts for another {left}"),
        );
        return;
    }
    let mut to = ask.to;
    if direction == Direction::In {
        if ask.by.is_some() {
            to = stabilised(s, to, decision);
        }
        to = limited(s, to, decision);
        to = unprotected(s, to, decision);
    }
    if to != s.capacity {
        decision.to = to;
        decision.moved = match ask.by {
            Some((direction, cooldown)) => Move::By { direction, cooldown },
            None => Move::Bound,
        };
    }
}

/// Why nobody can be sure enough of the set to make it smaller, if that is so.
fn unsure(s: Situation<'_>, decision: &Decision) -> Option<String> {
    if let Some((first, rest)) = s.unseen.split_first() {
        return Some(match rest.len() {
            0 => format!("host {first} is out of sight"),
            n => format!("{} hosts are out of sight, {first} among them", n + 1),
        });
    }
    if let Some(blind) = decision.measured.iter().find(|m| m.problem.is_some()) {
        return Some(blind.problem.clone().unwrap_or_default());
    }
    let partly = decision.measured.iter().find(|m| m.missing > 0)?;
    Some(format!(
        "{} could not be measured on {} of {} instances",
        partly.metric,
        partly.missing,
        partly.missing + partly.instances
    ))
}

/// Not below the highest that was recommended within the stabilisation time (Google, Kubernetes).
fn stabilised(s: Situation<'_>, to: u32, decision: &mut Decision) -> u32 {
    let window = s.policy.stabilization;
    if window.is_zero() {
        return to;
    }
    // Where nothing was recommended yet, what is there counts as recommended.
    let mut highest = s.state.recommended_within(window, s.now).unwrap_or(s.capacity);
    if s.state.left_at.is_some_and(|left| left != s.capacity) {
        highest = highest.max(s.capacity);
    }
    let highest = highest.min(s.capacity);
    if highest <= to {
        return to;
    }
    decision.held.insert(
        0,
        format!(
            "in to {to} is held back: within the last {} {highest} was recommended",
            span(window)
        ),
    );
    highest
}

/// Not further below the largest within some time than the limit on scale in allows (Google).
fn limited(s: Situation<'_>, to: u32, decision: &mut Decision) -> u32 {
    let Some(limit) = s.policy.max_scale_in else {
        return to;
    };
    let largest = s
        .state
        .largest_within(limit.per, s.now)
        .map_or(s.capacity, |n| n.max(s.capacity));
    let step = u32::try_from(limit.count.of(largest as usize)).unwrap_or(u32::MAX);
    let lowest = largest.saturating_sub(step).min(s.capacity);
    if to >= lowest {
        return to;
    }
    decision.held.insert(
        0,
        format!(
            "in to {to} is held back: at most {} of {largest} may go within {}",
            limit.count,
            span(limit.per)
        ),
    );
    lowest
}

/// "3 instances are protected from scale in".
pub fn are_protected(count: u32) -> String {
    match count {
        1 => "1 instance is protected from scale in".to_owned(),
        n => format!("{n} instances are protected from scale in"),
    }
}

/// Not below the number of those that may not be taken: no run could ever bring that about.
fn unprotected(s: Situation<'_>, to: u32, decision: &mut Decision) -> u32 {
    let fewest = s.protected.min(s.capacity);
    if to >= fewest {
        return to;
    }
    let text = format!("in to {to} is held back: {}", are_protected(s.protected));
    decision.held.insert(0, text);
    fewest
}

/// Something that is not waited for puts the capacity at `to` instead. A rule that has moved it the same way has fired all
/// the same, and its cooldown begins.
fn move_on(decision: &mut Decision, to: u32) {
    decision.to = to;
    decision.moved = match (to.cmp(&decision.from), decision.moved) {
        (std::cmp::Ordering::Equal, _) => Move::None,
        (
            std::cmp::Ordering::Greater,
            Move::By {
                direction: Direction::Out,
                ..
            },
        )
        | (
            std::cmp::Ordering::Less,
            Move::By {
                direction: Direction::In,
                ..
            },
        ) => decision.moved,
        _ => Move::Bound,
    };
}

/// A minimum, a schedule's minimum and a prediction are not waited for.
fn raise_to_bounds(
    s: Situation<'_>,
    profile: &Profile,
    bounds: &Bounds,
    decision: &mut Decision,
    why: &mut String,
) {
    if decision.to < bounds.min {
        *why = match &bounds.floor {
            Some(floor) => schedule_says(floor),
            None => format!("profile {} has a minimum of {}", profile.name, bounds.min),
        };
        move_on(decision, bounds.min);
    }
    let Some(outlook) = s.outlook else { return };
    let acts = (s.policy.predict.as_ref()).is_some_and(|p| p.mode == PredictMode::Scale);
    let wanted = outlook.capacity.min(bounds.max);
    if acts && wanted > decision.to {
        if decision.to < s.capacity && wanted >= s.capacity {
            decision
                .held
                .insert(0, format!("in to {} is held back: {outlook}", decision.to));
        }
        *why = outlook.to_string();
        move_on(decision, wanted);
    }
}

/// A maximum that is under the capacity brings it down, unless nobody can be sure of the set.
fn lower_to_maximum(s: Situation<'_>, bounds: &Bounds, decision: &mut Decision, why: &mut String) {
    if decision.to <= bounds.max {
        return;
    }
    let text = format!("profile {} has a maximum of {}", decision.profile, bounds.max);
    if let Some(unsure) = unsure(s, decision) {
        decision
            .held
            .insert(0, format!("in to {} is held back: {unsure}", bounds.max));
        *why = format!("{text}, but {unsure}");
        return;
    }
    let to = limited(s, bounds.max, decision);
    let to = unprotected(s, to, decision);
    if to < decision.to {
        move_on(decision, to);
        *why = text;
    }
}
