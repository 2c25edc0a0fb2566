//! When the policy of a set is evaluated: in its tick, and beside it while a tick takes long.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use super::tend::Tending;
use super::{HEED, lock, note};
use crate::autoscale::Decision;
use crate::commands::autoscale;
use crate::converge::look_and_heed;
use crate::error::Result;
use crate::health::later;
use crate::inventory::Inventory;
use crate::record::{Life, Record};
use crate::scaling::{self, Evaluation};

/// When a set was evaluated last, and what was said of it; for the two threads that do so.
pub(super) struct Pace {
    last: Mutex<Said>,
    over: AtomicBool,
}

struct Said {
    at: Timestamp,
    text: String,
}

impl Pace {
    pub fn new(now: Timestamp) -> Self {
        Self {
            last: Mutex::new(Said {
                at: now,
                text: String::new(),
            }),
            over: AtomicBool::new(false),
        }
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

impl Tending<'_> {
    /// Evaluates the policy, if there is one to evaluate. Returns the capacity before it, if that is another now.
    pub fn evaluate(&self, record: &Record, inventory: &Inventory) -> Result<Option<u32>> {
        if !scaling::is_scaled(record) {
            return Ok(None);
        }
        let mut last = lock(&self.pace.last);
        let evaluation = scaling::evaluate(self.ctx.world, &**self.store, &self.name, record, inventory)?;
        last.at = self.ctx.world.clock.now();
        if let (Some(exporter), Some(decision)) = (self.exporter, &evaluation.decision) {
            exporter.decided(&self.name, decision);
        }
        // What changes the capacity is said each time; what keeps it, once.
        let text = said(&evaluation);
        if evaluation.has_changed() || !evaluation.turns.is_empty() || text != last.text {
            for line in autoscale::lines(&evaluation) {
                self.note(line);
            }
        }
        last.text = text;
        Ok(evaluation.has_changed().then_some(evaluation.from))
    }

    /// Evaluates while a tick takes longer than the interval: a rollout that goes on for an hour is no reason to let a load
    /// wait. What is decided is a request; the loop that is running carries it out.
    pub fn scale_meanwhile(&self) {
        let (world, name) = (self.ctx.world, &self.name);
        while !self.is_over() {
            world.clock.wait(HEED.min(self.interval), &world.interrupt);
            self.pulses.scaling.beat(world.clock.steady());
            let last = lock(&self.pace.last).at;
            if !is_late(last, self.interval, world.clock.now()) || self.is_over() {
                continue;
            }
            let Ok(Some((mut record, _))) = self.store.get(name) else {
                continue;
            };
            if record.life == Life::Deleting || !scaling::is_scaled(&record) {
                continue;
            }
            let looked = look_and_heed(world, &**self.store, &mut record);
            let now = world.clock.now();
            let evaluated = looked.and_then(|inventory| {
                let from = self.evaluate(&record, &inventory)?;
                from.map_or(Ok(()), |from| self.remember(from))
            });
            if let Err(e) = evaluated {
                let mut last = lock(&self.pace.last);
                let text = format!("{name}: {e}");
                if text != last.text {
                    note(self.ctx, text.clone());
                }
                (last.at, last.text) = (now, text);
            }
        }
    }

    /// Notes in the history that the capacity was changed while somebody else acts on the set.
    fn remember(&self, from: u32) -> Result<()> {
        let (store, name) = (self.store, &self.name);
        let to = store.get(name)?.map(|(record, _)| record.capacity);
        let number = store.begin(&self.ctx.operation(name, "autoscale", Some(from), to))?;
        let outcome = "recorded: whoever acts on the set carries it out";
        Ok(store.finish(number, self.ctx.world.clock.now(), outcome, to)?)
    }
}

/// What is the matter with an evaluation, without the numbers that are others at every look.
fn said(evaluation: &Evaluation) -> String {
    let blind = evaluation.decision.as_ref().is_some_and(Decision::is_blind);
    format!("{blind} {:?}", evaluation.unreachable)
}

/// Whether an evaluation at each `interval` is late at `now`, the last one being that at `last`. One in the future was noted
/// before the clock was set back: nobody waits until it gets there again.
fn is_late(last: Timestamp, interval: Duration, now: Timestamp) -> bool {
    now < last || later(last, interval.saturating_mul(2)) <= now
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn an_evaluation_is_late_after_two_intervals_and_once_the_clock_was_set_back() {
        assert!(!is_late(at(0), INTERVAL, at(0)));
        assert!(!is_late(at(0), INTERVAL, at(59)));
        assert!(is_late(at(0), INTERVAL, at(60)));
        assert!(is_late(at(7200), INTERVAL, at(0)));
    }
}
