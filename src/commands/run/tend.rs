//! How one set is tended: looked at, and brought to where it should be, at an interval; begun anew if that breaks off.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::pace::Pace;
use super::{HEED, Pulses, note};
use crate::commands::Context;
use crate::converge::{self, Consent, Ending, Joining, amend, look, wait_for_change};
use crate::error::{Error, Exit, Result};
use crate::event::{Event, Listener, Sight};
use crate::exporter::{Exporter, Measured, Tick};
use crate::health::later;
use crate::lease;
use crate::names::Label;
use crate::record::Life;
use crate::store::Store;
use crate::supervise::{Backoff, Signs, caught};
use crate::timed::{self, Timed};
use crate::ui::outcome::in_history;
use crate::world::{Clock, Notice};

/// One set that is tended, with what that needs.
pub(super) struct Tending<'c> {
    pub ctx: &'c Context<'c>,
    pub store: &'c Arc<dyn Store>,
    pub name: Label,
    pub interval: Duration,
    pub exporter: Option<&'c Arc<Exporter>>,
    pub pulses: Arc<Pulses>,
    pub pace: Pace,
    listener: Arc<dyn Listener>,
}

impl<'c> Tending<'c> {
    pub fn new(
        ctx: &'c Context<'c>,
        store: &'c Arc<dyn Store>,
        name: Label,
        interval: Duration,
        exporter: Option<&'c Arc<Exporter>>,
        pulses: Arc<Pulses>,
    ) -> Self {
        let terse: Arc<dyn Listener> = Arc::new(Terse {
            to: Arc::clone(&ctx.listener),
            pulses: Arc::clone(&pulses),
            clock: Arc::clone(&ctx.world.clock),
        });
        let listener = match exporter {
            None => terse,
            Some(exporter) => Arc::new(Measured {
                exporter: Arc::clone(exporter),
                set: name.clone(),
                to: terse,
            }),
        };
        let pace = Pace::new(ctx.world.clock.now());
        Self {
            ctx,
            store,
            name,
            interval,
            exporter,
            pulses,
            pace,
            listener,
        }
    }

    /// Tends the set until it is gone or the operator wants to stop. Returns whatever breaks off in it.
    pub fn tend(&self) {
        std::thread::scope(|scope| {
            let scaling = || {
                self.supervise("evaluating its policy", &self.pulses.scaling, || {
                    self.scale_meanwhile()
                })
            };
            let thread = std::thread::Builder::new().name(format!("scale-{}", self.name));
            if let Err(e) = thread.spawn_scoped(scope, scaling) {
                // It gives no sign of life, which the service manager comes to hear of.
                self.note(format!("error: starting a thread: {e}"));
            }
            self.supervise("tending", &self.pulses.tending, || self.tend_until_over());
            self.pace.end();
        });
    }

    /// Whether nothing is to be begun any more.
    pub fn is_over(&self) -> bool {
        self.ctx.world.interrupt.is_set() || self.pace.is_over()
    }

    pub fn note(&self, text: impl std::fmt::Display) {
        note(self.ctx, format!("{}: {text}", self.name));
    }

    /// Does `work` until it ends by itself. When it breaks off, by a fault of vmss, that is told, and it is begun anew after
    /// a while: a set that nobody tends any more must not look as one that is well.
    fn supervise(&self, what: &str, signs: &Signs, work: impl Fn()) {
        let clock = &self.ctx.world.clock;
        let mut backoff = Backoff::default();
        loop {
            let began = clock.steady();
            let Err(panic) = caught(&work) else {
                return;
            };
            let wait = backoff.next(clock.steady().saturating_sub(began));
            if let Some(exporter) = self.exporter {
                exporter.restarted(&self.name);
            }
            let text = format!(
                "error: {what} broke off ({panic}) and is begun anew in {} s",
                wait.as_secs()
            );
            self.note(&text);
            (self.ctx.world.notify)(Notice::Status(&format!("{}: {text}", self.name)));
            self.rest(wait, signs);
            if self.is_over() {
                return;
            }
        }
    }

    /// Waits for `span`, giving signs of life, or until all is over.
    fn rest(&self, span: Duration, signs: &Signs) {
        let clock = &self.ctx.world.clock;
        let mut left = span;
        while !left.is_zero() && !self.is_over() {
            let step = left.min(HEED);
            clock.wait(step, &self.ctx.world.interrupt);
            signs.beat(clock.steady());
            left = left.saturating_sub(step);
        }
    }

    fn tend_until_over(&self) {
        let Self {
            ctx,
            store,
            name,
            exporter,
            ..
        } = self;
        let mut said = String::new();
        while !ctx.world.interrupt.is_set() {
            let mut joining = None;
            let began = ctx.world.clock.now();
            let ended = self.tick();
            if let (Some(exporter), Some(result)) = (exporter, result(&ended)) {
                exporter.ticked(name, result, ctx.world.clock.now());
            }
            let text = match ended {
                Ok(None) => {
                    if let Some(exporter) = exporter {
                        exporter.forget(name);
                    }
                    self.note("the set is gone");
                    return;
                }
                Ok(Some(ending)) => {
                    joining = ending.joining;
                    verdict(name, &ending)
                }
                // What is in the way now (another command, a store that is full) may be out of it at the next look.
                Err(e) => format!("{name}: {e}"),
            };
            // One line for each decision, not one for each look.
            if text != said {
                note(ctx, text.clone());
                (ctx.world.notify)(Notice::Status(&text));
                said = text;
            }
            let known = store.get(name).ok().flatten();
            let asked = known.as_ref().map_or(&[][..], |(record, _)| &record.timed);
            let until = next_look((began, ctx.world.clock.now()), self.interval, joining, asked);
            let version = known.map(|(_, version)| version);
            let waited = version.map_or(Ok(()), |version| {
                wait_for_change(ctx.world, &***store, name, version, until, &*self.listener)
            });
            if waited.is_err() || version.is_none() {
                self.rest(self.interval, &self.pulses.tending);
            }
        }
    }

    /// One run of the loop. `None` if the set is gone.
    fn tick(&self) -> Result<Option<Ending>> {
        let Self {
            ctx,
            store,
            name,
            exporter,
            listener,
            ..
        } = self;
        match store.get(name)? {
            None => return Ok(None),
            Some((record, _)) if record.life == Life::Deleting => {
                return Err(Error::message(
                    Exit::Blocked,
                    "it is being deleted: vmss delete finishes that",
                ));
            }
            Some((record, _)) => {
                let patience = record.applied.limits.call_timeout;
                self.pulses.tending.calls_take(patience);
                self.pulses.scaling.calls_take(patience);
            }
        }
        let wait = ctx.global.wait_lock.unwrap_or_default();
        let held = lease::hold(ctx.world, store, name, &format!("run {name}"), wait, listener)?;
        let began = ctx.world.clock.now();
        // What instances answer is kept up at every look, whether this one needs it or not.
        let (record, _) = amend(&***store, name, |_| false)?;
        let looking = Instant::now();
        let inventory = look(ctx.world, &***store, &record.applied, &record);
        if let Some(exporter) = exporter {
            exporter.looked(name, looking.elapsed());
        }
        listener.alive();
        let (record, _) = amend(&***store, name, |record| {
            let rules = record.applied.health.clone();
            record.absorb(&inventory) | record.heed(&inventory, &rules, began)
        })?;
        let scaled = self.evaluate(&record, &inventory)?;
        // Nobody is there to be asked: what was asked for stands in the record.
        let (asked, joining) = (Vec::new(), (Joining::Left, Consent::Any));
        let ending = converge::converge(ctx.world, store, &held.lease, name, listener, asked, joining)?;
        // The last look was before the last plan, which may have changed the record: a rollout ended, say.
        listener.looked(Sight {
            record: &ending.record,
            inventory: &ending.inventory,
            now: ctx.world.clock.now(),
        });
        let (from, to) = (scaled.unwrap_or(ending.record.capacity), ending.record.capacity);
        if !ending.done.is_empty() || !ending.failed.is_empty() || from != to {
            let capacity = Some(to);
            let verb = if from == to { "run" } else { "autoscale" };
            let mut operation = ctx.operation(name, verb, Some(from), capacity);
            operation.at = began;
            let number = store.begin(&operation)?;
            store.finish(number, ctx.world.clock.now(), &in_history(&ending), capacity)?;
        }
        Ok(Some(ending))
    }
}

/// Shortest time between two looks at instances that are starting.
const PAUSE: Duration = Duration::from_secs(1);

/// When to look again after a look from `began` to `now`: an interval later, or before that when instances that are
/// starting are to take clients (`joining`), or something `timed` begins or ends.
///
/// What was due before the look began and still is could not be done, for something is in the way: to look at once, again
/// and again, would not change that.
fn next_look(
    (began, now): (Timestamp, Timestamp),
    interval: Duration,
    joining: Option<Timestamp>,
    timed: &[Timed],
) -> Timestamp {
    // What became due while it looked may have been missed by it.
    let due = timed::moments(timed).filter(|at| *at > began);
    // Who was to be looked at while load balancers were still being told is looked at next, but not without a pause.
    let joining = joining.map(|at| at.max(later(now, PAUSE)));
    joining
        .into_iter()
        .chain(due)
        .fold(later(now, interval), Timestamp::min)
}

/// How a tick ended, for the metrics; `None` if it was cut short or there was nothing to tend.
fn result(ended: &Result<Option<Ending>>) -> Option<Tick> {
    let exit = match ended {
        Ok(None) => return None,
        Ok(Some(ending)) => ending.exit(),
        Err(e) => e.exit,
    };
    Some(match exit {
        Exit::Interrupted => return None,
        Exit::Converged => Tick::Converged,
        Exit::Blocked => Tick::Blocked,
        Exit::Unreachable => Tick::Unreachable,
        Exit::Locked => Tick::Locked,
        Exit::Failed if ended.is_ok() => Tick::Failed,
        _ => Tick::Error,
    })
}

fn verdict(name: &Label, ending: &Ending) -> String {
    let waits = crate::plan::told::sentences(&ending.report.waits);
    let tail = if waits.is_empty() {
        String::new()
    } else {
        format!("; {}", waits.join("; "))
    };
    format!("{name}: {}{tail}", in_history(ending))
}

/// Hosts out of sight are told in the verdict, once: a look every half a minute would say so every half a minute. Whatever
/// happens is a sign of life.
struct Terse {
    to: Arc<dyn Listener>,
    pulses: Arc<Pulses>,
    clock: Arc<dyn Clock>,
}

impl Listener for Terse {
    fn event(&self, event: &Event) {
        self.alive();
        if !matches!(event, Event::HostUnseen { .. }) {
            self.to.event(event);
        }
    }

    fn alive(&self) {
        self.pulses.tending.beat(self.clock.steady());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn timed(from: i64, until: Option<i64>, holds: bool) -> Timed {
        Timed {
            capacity: 9,
            from: at(from),
            until: until.map(at),
            by: "ann@vm".to_owned(),
            before: holds.then_some(3),
            kept_at: None,
        }
    }

    /// When to look again after a look that took four seconds, from its end on.
    fn next(joining: Option<i64>, timed: &[Timed]) -> i64 {
        let next = next_look((at(-4), at(0)), INTERVAL, joining.map(at), timed);
        next.duration_since(at(0)).as_secs()
    }

    #[test]
    fn what_is_yet_to_come_shortens_the_wait_for_the_next_look() {
        assert_eq!(next(None, &[]), 30);
        assert_eq!(next(Some(10), &[]), 10);
        let (soon, later) = (timed(5, None, false), timed(7, None, false));
        assert_eq!(next(Some(10), &[later, soon]), 5);
        assert_eq!(next(None, &[timed(-9, Some(20), true)]), 20);
        assert_eq!(next(Some(40), &[timed(50, None, false)]), 30);
    }

    #[test]
    fn what_was_due_and_could_not_be_done_is_tried_again_after_an_interval_and_not_without_a_pause() {
        let begins = timed(-4, None, false);
        let ends = timed(-50, Some(-5), true);
        assert_eq!(next(None, &[begins.clone(), ends.clone()]), 30);
        assert_eq!(next(None, &[begins, ends, timed(20, None, false)]), 20);
    }

    #[test]
    fn who_is_to_take_clients_is_looked_at_soon_however_long_the_look_took() {
        assert_eq!(next(Some(-1), &[]), 1);
        assert_eq!(next(Some(0), &[]), 1);
    }

    #[test]
    fn what_became_due_while_somebody_looked_is_looked_for_at_once() {
        assert_eq!(next(None, &[timed(-1, None, false)]), -1);
    }
}
