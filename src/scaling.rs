//! Scaling by the clock and by what is measured: what is due is noted in the record, as a request like any other. The loop
//! carries it out.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::autoscale::{self, Decision, Move, Readings, Sample, Samples, decide, predict};
use crate::converge::amend;
use crate::error::Result;
use crate::inventory::{Inventory, View};
use crate::metrics::{Measurement, measure};
use crate::names::Label;
use crate::plan::{self, Experience, protected};
use crate::record::Record;
use crate::request::{Request, Verb};
use crate::store::Store;
use crate::timed::{self, Turn};
use crate::world::World;

/// What became of a set's capacity at one look.
#[derive(Debug)]
pub struct Evaluation {
    /// The record after it.
    pub record: Record,
    /// The capacity before it.
    pub from: u32,
    /// What the policy says; `None` if there is none, or it is switched off.
    pub decision: Option<Decision>,
    /// What the time has brought about.
    pub turns: Vec<Turn>,
    /// What could not be asked and was needed: hosts, load balancers, servers of metrics.
    pub unreachable: Vec<String>,
}

impl Evaluation {
    /// Whether the capacity is another one now.
    pub const fn has_changed(&self) -> bool {
        self.from != self.record.capacity
    }
}

/// The policy in force: there is one, its definition has it enabled, and nobody has switched it off.
pub fn in_force(record: &Record) -> Option<&autoscale::Autoscale> {
    let policy = record.applied.autoscale.as_ref()?;
    (policy.enabled && record.autoscale.disabled.is_none()).then_some(policy)
}

/// Whether evaluating the set can come to anything.
pub fn is_scaled(record: &Record) -> bool {
    in_force(record).is_some() || !record.timed.is_empty()
}

/// What a decision is made of, beside the record: measured once, though the record may be read again and again.
struct Facts {
    /// The policy that was measured for: another one is decided on at the next look.
    policy: Option<autoscale::Autoscale>,
    samples: Samples,
    problems: BTreeMap<String, String>,
    unseen: Vec<String>,
    protected: u32,
    /// When was measured.
    measured: Timestamp,
}

impl Facts {
    /// Carries out on `record` what is due at `now`, and then what the policy decides. `now` is of after the record was read:
    /// somebody else may have decided since the measurement, and what he did has begun already.
    fn carry_out(&self, record: &mut Record, now: Timestamp) -> (Vec<Turn>, Option<Decision>) {
        let scaled = in_force(record).is_some();
        let (capacity, timed, turns) =
            timed::due(&record.timed, record.capacity, self.protected, scaled, now);
        record.timed = timed;
        let by = turns.last().map_or("", |turn| &turn.timed().by);
        record.ask_for(capacity, || Request::of(Verb::Scale, by, now));
        let decision = self.decide(record, now);
        if let (Some(decision), Some(policy)) = (&decision, record.applied.autoscale.clone()) {
            record.autoscale = record.autoscale.after(&policy, decision);
            record.ask_for(decision.to, || Request::of(Verb::Autoscale, "[autoscale]", now));
        }
        (turns, decision)
    }

    fn decide(&self, record: &Record, now: Timestamp) -> Option<Decision> {
        let policy = in_force(record).filter(|policy| self.policy.as_ref() == Some(policy))?;
        let outlook = predict::outlook(policy, &self.samples, self.measured);
        Some(decide(autoscale::Situation {
            policy,
            state: &record.autoscale,
            samples: &self.samples,
            problems: &self.problems,
            capacity: record.capacity,
            unseen: &self.unseen,
            protected: self.protected,
            pin: timed::pin(&record.timed).as_ref(),
            outlook: outlook.as_ref(),
            measured: self.measured,
            now: Sample::moment(now).max(self.measured),
        }))
    }
}

/// Samples needed to decide at `now`: those of the longest window, and of days or weeks if the policy looks ahead.
fn needed_since(policy: &autoscale::Autoscale, now: Timestamp) -> Timestamp {
    // An hour more, to tell how long ago it was that something was measured last.
    let window = policy.longest_window() + Duration::from_secs(3600);
    let span = match &policy.predict {
        Some(predict) => predict::history(predict.pattern).max(window),
        None => window,
    };
    let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    now.checked_sub(span).unwrap_or(Timestamp::MIN)
}

/// Measures, decides, and notes in the record what is wanted from now on. The record must have taken in `inventory`.
///
/// Samples are kept before anything is decided: where they can't be, nothing is. Under a record that is older than the instances
/// nothing is measured, decided or carried out.
///
/// # Errors
/// The store can't be read or written.
pub fn evaluate(
    world: &World,
    store: &dyn Store,
    name: &Label,
    record: &Record,
    inventory: &Inventory,
) -> Result<Evaluation> {
    let now = world.clock.now();
    if inventory.odd.is_record_old() {
        // What an old record says of its capacity, and of who asks for another, is no longer so.
        return Ok(Evaluation {
            record: record.clone(),
            from: record.capacity,
            decision: None,
            turns: Vec::new(),
            unreachable: Vec::new(),
        });
    }
    let (facts, unreachable) = match in_force(record) {
        None => (Facts::none(record, inventory, now), Vec::new()),
        Some(policy) => {
            let before = store.readings(name)?;
            let measured = measure(world, &record.applied, record, inventory, policy, &before, now);
            let readings = before.after(measured.readings.clone(), now);
            store.measured(name, &measured.samples, &readings, now)?;
            let samples = store.samples(name, needed_since(policy, now))?;
            let unreachable = out_of_reach(inventory, &measured);
            (
                Facts::of(samples.into_iter().collect(), measured, record, inventory, now),
                unreachable,
            )
        }
    };
    let mut turns = Vec::new();
    let mut decision = None;
    let mut from = record.capacity;
    let (record, _) = amend(store, name, |record| {
        let before = (record.capacity, record.timed.clone(), record.autoscale.clone());
        from = record.capacity;
        (turns, decision) = facts.carry_out(record, world.clock.now());
        (record.capacity, record.timed.clone(), record.autoscale.clone()) != before
    })?;
    if let Some(decision) = &decision {
        let last = store.decisions(name, 1)?.into_iter().next();
        let anew = last.is_none_or(|last| is_another(&last, decision));
        store.decided(name, decision, anew)?;
    }
    Ok(Evaluation {
        record,
        from,
        decision,
        turns,
        unreachable,
    })
}

/// What an evaluation would come to now, changing nothing; its record is one that was not written down.
///
/// # Errors
/// The store can't be read.
pub fn consider(
    world: &World,
    store: &dyn Store,
    name: &Label,
    record: &Record,
    inventory: &Inventory,
) -> Result<Evaluation> {
    let now = world.clock.now();
    let (facts, unreachable) = match in_force(record) {
        None => (Facts::none(record, inventory, now), Vec::new()),
        Some(policy) => {
            let before: Readings = store.readings(name)?;
            let measured = measure(world, &record.applied, record, inventory, policy, &before, now);
            let known = store.samples(name, needed_since(policy, now))?;
            let samples = known
                .into_iter()
                .chain(measured.samples.iter().cloned())
                .collect();
            let unreachable = out_of_reach(inventory, &measured);
            (Facts::of(samples, measured, record, inventory, now), unreachable)
        }
    };
    let from = record.capacity;
    let mut record = record.clone();
    let (turns, decision) = facts.carry_out(&mut record, world.clock.now());
    Ok(Evaluation {
        record,
        from,
        decision,
        turns,
        unreachable,
    })
}

impl Facts {
    /// Where nothing is measured.
    fn none(record: &Record, inventory: &Inventory, now: Timestamp) -> Self {
        Self {
            policy: None,
            samples: Samples::default(),
            problems: BTreeMap::new(),
            unseen: Vec::new(),
            protected: protection(record, inventory, now),
            measured: Sample::moment(now),
        }
    }

    fn of(
        samples: Samples,
        measured: Measurement,
        record: &Record,
        inventory: &Inventory,
        now: Timestamp,
    ) -> Self {
        let hidden = inventory.hosts.iter().filter(|h| h.seen().is_none());
        Self {
            policy: in_force(record).cloned(),
            samples,
            problems: measured.problems,
            unseen: hidden.map(|h| h.name.to_string()).collect(),
            protected: protection(record, inventory, now),
            measured: Sample::moment(now),
        }
    }
}

/// How many instances are protected from scale in.
fn protection(record: &Record, inventory: &Inventory, now: Timestamp) -> u32 {
    let protected = protected(plan::Situation {
        set: &record.applied,
        record,
        inventory,
        experience: &Experience::default(),
        now,
        // Nothing is made.
        drawn: uuid::Uuid::nil(),
    });
    u32::try_from(protected.len()).unwrap_or(u32::MAX)
}

/// Whether a decision says anything that the last one does not.
fn is_another(last: &Decision, next: &Decision) -> bool {
    last.to != next.to
        || last.from != last.to
        || next.moved != Move::None
        || last.is_blind() != next.is_blind()
}

/// What could not be asked, though the policy needs it.
fn out_of_reach(inventory: &Inventory, measured: &Measurement) -> Vec<String> {
    let hosts = inventory.hosts.iter().filter_map(|h| match &h.view {
        View::Seen(_) => None,
        View::Unseen { reason } => Some(format!("host {} is out of sight: {reason}", h.name)),
    });
    let unanswered = measured.unanswered.iter().filter_map(|name| {
        let why = measured.problems.get(name)?;
        Some(format!("{name} could not be measured: {why}"))
    });
    hosts.chain(unanswered).collect()
}
