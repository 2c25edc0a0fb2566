//! `vmss run`: the controller. The same loop as every command's, at an interval, as a foreground process for systemd. It
//! does nothing that the one-shot commands can't: whatever it would do, they would do as well.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::autoscale::Decision;
use crate::commands::{Context, autoscale};
use crate::converge::{self, Ending, Joining, amend, look, look_and_heed, wait_for_change};
use crate::error::{Error, Exit, Result};
use crate::event::{Event, Listener, Sight};
use crate::exporter::server::{Patience, Server};
use crate::exporter::{Exporter, Measured, Tick};
use crate::health::later;
use crate::inventory::Inventory;
use crate::names::Label;
use crate::record::{Life, Record};
use crate::scaling::{self, Evaluation};
use crate::store::Store;
use crate::timed::{self, Timed};
use crate::ui::outcome::in_history;
use crate::world::Notice;

/// Runs until it is asked to stop, and serves metrics if that is asked for.
pub fn run(ctx: &Context<'_>, all: bool, interval: Duration, metrics: Option<SocketAddr>) -> Result<Exit> {
    let store = if all {
        ctx.store(None)?
    } else {
        ctx.target()?.store
    };
    let only = if all { None } else { Some(ctx.meant()?.0) };
    let sets = || -> Result<BTreeSet<Label>> {
        Ok(match &only {
            Some(name) => BTreeSet::from([name.clone()]),
            None => store.sets()?.into_iter().collect(),
        })
    };
    let first = sets()?;
    let exporter = metrics.map(|_| Arc::new(Exporter::new()));
    // Dropped at the end, which stops it.
    let _server = match (metrics, &exporter) {
        (Some(address), Some(exporter)) => Some(serve(ctx, address, exporter)?),
        _ => None,
    };
    note(
        ctx,
        format!("tending {} every {} s", words(&first), interval.as_secs_f64()),
    );
    (ctx.world.notify)(Notice::Ready);
    let tended: Mutex<BTreeSet<Label>> = Mutex::default();
    std::thread::scope(|scope| {
        while !ctx.world.interrupt.is_set() {
            // A store that can't be read now may be read later: a controller does not give up.
            let wanted = sets().unwrap_or_else(|e| {
                note(ctx, format!("error: {e}"));
                BTreeSet::new()
            });
            for name in wanted {
                // A set of its own thread, so that one that waits for its batch does not hold up the others.
                let is_new = lock(&tended).insert(name.clone());
                if is_new {
                    let (store, tended, exporter) = (&store, &tended, exporter.as_ref());
                    scope.spawn(move || {
                        tend(ctx, store, &name, interval, exporter);
                        lock(tended).remove(&name);
                    });
                }
            }
            if only.is_some() && lock(&tended).is_empty() {
                return;
            }
            (ctx.world.notify)(Notice::Alive);
            ctx.world.clock.wait(HEED, &ctx.world.interrupt);
        }
        (ctx.world.notify)(Notice::Stopping);
    });
    note(ctx, "stopped".to_owned());
    Ok(Exit::Converged)
}

/// Begins to serve metrics, and to measure what they tell of hosts.
fn serve(ctx: &Context<'_>, address: SocketAddr, exporter: &Arc<Exporter>) -> Result<Server> {
    ctx.world.meter.connect(exporter.calls());
    let page = {
        let exporter = Arc::clone(exporter);
        Arc::new(move || exporter.text())
    };
    let server = Server::start(address, Patience::default(), page).map_err(|e| {
        Error::new(Exit::Failed, e)
            .context(format!("serving metrics at {address}"))
            .hint("give --metrics an address of this machine and a port that is free there and may be used")
    })?;
    note(ctx, format!("metrics at http://{}/metrics", server.address()));
    Ok(server)
}

/// How often new sets are looked for.
const HEED: Duration = Duration::from_secs(2);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn words(sets: &BTreeSet<Label>) -> String {
    if sets.is_empty() {
        return "no set yet".to_owned();
    }
    sets.iter().map(Label::as_str).collect::<Vec<_>>().join(", ")
}

fn note(ctx: &Context<'_>, text: String) {
    ctx.listener.event(&Event::Note { text });
}

/// Tends one set until it is gone or the operator wants to stop.
fn tend(
    ctx: &Context<'_>,
    store: &Arc<dyn Store>,
    name: &Label,
    interval: Duration,
    exporter: Option<&Arc<Exporter>>,
) {
    let terse: Arc<dyn Listener> = Arc::new(Terse(Arc::clone(&ctx.listener)));
    let listener = match exporter {
        None => terse,
        Some(exporter) => Arc::new(Measured {
            exporter: Arc::clone(exporter),
            set: name.clone(),
            to: terse,
        }),
    };
    let pace = Pace::new(ctx.world.clock.now());
    std::thread::scope(|scope| {
        scope.spawn(|| scale_meanwhile(ctx, store, name, interval, exporter, &pace));
        tend_until_over(ctx, store, name, interval, (&listener, exporter), &pace);
        pace.end();
    });
}

fn tend_until_over(
    ctx: &Context<'_>,
    store: &Arc<dyn Store>,
    name: &Label,
    interval: Duration,
    (listener, exporter): (&Arc<dyn Listener>, Option<&Arc<Exporter>>),
    pace: &Pace,
) {
    let mut said = String::new();
    while !ctx.world.interrupt.is_set() {
        let mut joining = None;
        let began = ctx.world.clock.now();
        let ended = tick(ctx, store, name, listener, exporter, pace);
        if let (Some(exporter), Some(result)) = (exporter, result(&ended)) {
            exporter.ticked(name, result, ctx.world.clock.now());
        }
        let text = match ended {
            Ok(None) => {
                if let Some(exporter) = exporter {
                    exporter.forget(name);
                }
                note(ctx, format!("{name}: the set is gone"));
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
        let until = next_look((began, ctx.world.clock.now()), interval, joining, asked);
        let version = known.map(|(_, version)| version);
        let waited = version.map_or(Ok(()), |version| {
            wait_for_change(ctx.world, &**store, name, version, until)
        });
        if waited.is_err() || version.is_none() {
            ctx.world.clock.wait(interval, &ctx.world.interrupt);
        }
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
    let waits: Vec<String> = ending.report.waits.iter().map(ToString::to_string).collect();
    let tail = if waits.is_empty() {
        String::new()
    } else {
        format!("; {}", waits.join("; "))
    };
    format!("{name}: {}{tail}", in_history(ending))
}

/// Hosts out of sight are told in the verdict, once: a look every half a minute would say so every half a minute.
struct Terse(Arc<dyn Listener>);

impl Listener for Terse {
    fn event(&self, event: &Event) {
        if !matches!(event, Event::HostUnseen { .. }) {
            self.0.event(event);
        }
    }
}

/// One run of the loop. `None` if the set is gone.
fn tick(
    ctx: &Context<'_>,
    store: &Arc<dyn Store>,
    name: &Label,
    listener: &Arc<dyn Listener>,
    exporter: Option<&Arc<Exporter>>,
    pace: &Pace,
) -> Result<Option<Ending>> {
    match store.get(name)? {
        None => return Ok(None),
        Some((record, _)) if record.life == Life::Deleting => {
            return Err(Error::message(
                Exit::Blocked,
                "it is being deleted: vmss delete finishes that",
            ));
        }
        Some(_) => {}
    }
    let held = ctx.hold(store, name, &format!("run {name}"))?;
    let began = ctx.world.clock.now();
    // What instances answer is kept up at every look, whether this one needs it or not.
    let (record, _) = amend(&**store, name, |_| false)?;
    let looking = Instant::now();
    let inventory = look(ctx.world, &record.applied, &record);
    if let Some(exporter) = exporter {
        exporter.looked(name, looking.elapsed());
    }
    let (record, _) = amend(&**store, name, |record| {
        let rules = record.applied.health.clone();
        record.absorb(&inventory) | record.heed(&inventory, &rules, began)
    })?;
    let scaled = evaluate(ctx, store, name, &record, &inventory, exporter, pace)?;
    let (asked, joining) = (Vec::new(), Joining::Left);
    let ending = converge::converge(ctx.world, &**store, &held.lease, name, listener, asked, joining)?;
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

/// When a set was evaluated last, and what was said of it; for the two threads that do so.
struct Pace {
    last: Mutex<Said>,
    over: AtomicBool,
}

struct Said {
    at: Timestamp,
    text: String,
}

impl Pace {
    fn new(now: Timestamp) -> Self {
        Self {
            last: Mutex::new(Said {
                at: now,
                text: String::new(),
            }),
            over: AtomicBool::new(false),
        }
    }

    fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

/// Evaluates the policy, if there is one to evaluate. Returns the capacity before it, if that is another now.
fn evaluate(
    ctx: &Context<'_>,
    store: &Arc<dyn Store>,
    name: &Label,
    record: &Record,
    inventory: &Inventory,
    exporter: Option<&Arc<Exporter>>,
    pace: &Pace,
) -> Result<Option<u32>> {
    if !scaling::is_scaled(record) {
        return Ok(None);
    }
    let mut last = lock(&pace.last);
    let evaluation = scaling::evaluate(ctx.world, &**store, name, record, inventory)?;
    last.at = ctx.world.clock.now();
    if let (Some(exporter), Some(decision)) = (exporter, &evaluation.decision) {
        exporter.decided(name, decision);
    }
    // What changes the capacity is said each time; what keeps it, once.
    let text = said(&evaluation);
    if evaluation.has_changed() || !evaluation.turns.is_empty() || text != last.text {
        for line in autoscale::lines(&evaluation) {
            note(ctx, format!("{name}: {line}"));
        }
    }
    last.text = text;
    Ok(evaluation.has_changed().then_some(evaluation.from))
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

/// Evaluates while a tick takes longer than the interval: a rollout that goes on for an hour is no reason to let a load
/// wait. What is decided is a request; the loop that is running carries it out.
fn scale_meanwhile(
    ctx: &Context<'_>,
    store: &Arc<dyn Store>,
    name: &Label,
    interval: Duration,
    exporter: Option<&Arc<Exporter>>,
    pace: &Pace,
) {
    while !ctx.world.interrupt.is_set() && !pace.over.load(Ordering::SeqCst) {
        ctx.world.clock.wait(HEED.min(interval), &ctx.world.interrupt);
        let last = lock(&pace.last).at;
        if !is_late(last, interval, ctx.world.clock.now()) || pace.over.load(Ordering::SeqCst) {
            continue;
        }
        let Ok(Some((mut record, _))) = store.get(name) else {
            continue;
        };
        if record.life == Life::Deleting || !scaling::is_scaled(&record) {
            continue;
        }
        let looked = look_and_heed(ctx.world, &**store, &mut record);
        let now = ctx.world.clock.now();
        let evaluated = looked.and_then(|inventory| {
            let from = evaluate(ctx, store, name, &record, &inventory, exporter, pace)?;
            from.map_or(Ok(()), |from| remember(ctx, store, name, from))
        });
        if let Err(e) = evaluated {
            let mut last = lock(&pace.last);
            let text = format!("{name}: {e}");
            if text != last.text {
                note(ctx, text.clone());
            }
            (last.at, last.text) = (now, text);
        }
    }
}

/// Notes in the history that the capacity was changed while somebody else acts on the set.
fn remember(ctx: &Context<'_>, store: &Arc<dyn Store>, name: &Label, from: u32) -> Result<()> {
    let to = store.get(name)?.map(|(record, _)| record.capacity);
    let number = store.begin(&ctx.operation(name, "autoscale", Some(from), to))?;
    let outcome = "recorded: whoever acts on the set carries it out";
    Ok(store.finish(number, ctx.world.clock.now(), outcome, to)?)
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

    #[test]
    fn an_evaluation_is_late_after_two_intervals_and_once_the_clock_was_set_back() {
        assert!(!is_late(at(0), INTERVAL, at(0)));
        assert!(!is_late(at(0), INTERVAL, at(59)));
        assert!(is_late(at(0), INTERVAL, at(60)));
        assert!(is_late(at(7200), INTERVAL, at(0)));
    }
}
