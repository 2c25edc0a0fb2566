//! `vmss run`: the controller. The same loop as every command's, at an interval, as a foreground process for systemd. It
//! does nothing that the one-shot commands can't: whatever it would do, they would do as well.

mod pace;
mod tend;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::commands::Context;
use crate::error::{Error, Exit, Result};
use crate::event::Event;
use crate::exporter::Exporter;
use crate::exporter::server::{Patience, Server};
use crate::names::Label;
use crate::supervise::{Signs, caught};
use crate::world::Notice;
use tend::Tending;

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
    let tended: Mutex<BTreeMap<Label, Arc<Pulses>>> = Mutex::default();
    let mut watchdog = Watchdog::default();
    std::thread::scope(|scope| {
        while !ctx.world.interrupt.is_set() {
            // A store that can't be read now may be read later: a controller does not give up.
            let looked = caught(sets).unwrap_or_else(|panic| Err(Error::message(Exit::Failed, panic)));
            let wanted = looked.unwrap_or_else(|e| {
                note(ctx, format!("error: {e}"));
                BTreeSet::new()
            });
            for name in wanted {
                if lock(&tended).contains_key(&name) {
                    continue;
                }
                // A set of its own thread, so that one that waits for its batch does not hold up the others.
                let pulses = Arc::new(Pulses::new(ctx.world.clock.steady()));
                lock(&tended).insert(name.clone(), Arc::clone(&pulses));
                let (store, tended, exporter) = (&store, &tended, exporter.as_ref());
                let set = name.clone();
                let work = move || {
                    Tending::new(ctx, store, set.clone(), interval, exporter, pulses).tend();
                    lock(tended).remove(&set);
                };
                let thread = std::thread::Builder::new().name(format!("tend-{name}"));
                if let Err(e) = thread.spawn_scoped(scope, work) {
                    note(ctx, format!("error: {name}: starting a thread: {e}"));
                    lock(tended).remove(&name);
                }
            }
            if only.is_some() && lock(&tended).is_empty() {
                return;
            }
            watchdog.feed(ctx, &lock(&tended));
            ctx.world.clock.wait(HEED, &ctx.world.interrupt);
        }
        (ctx.world.notify)(Notice::Stopping);
    });
    note(ctx, "stopped".to_owned());
    Ok(Exit::Converged)
}

/// Signs of life of the two threads that tend a set.
struct Pulses {
    /// Of the one that looks and acts.
    tending: Signs,
    /// Of the one that evaluates meanwhile.
    scaling: Signs,
}

impl Pulses {
    const fn new(now: Duration) -> Self {
        Self {
            tending: Signs::new(now),
            scaling: Signs::new(now),
        }
    }
}

/// Tells the service manager that all is well, for as long as it is: that ends a process that does not say so, and begins
/// it anew.
#[derive(Default)]
struct Watchdog {
    silent: BTreeSet<Label>,
}

impl Watchdog {
    /// Says so, or of whom nothing is heard.
    fn feed(&mut self, ctx: &Context<'_>, tended: &BTreeMap<Label, Arc<Pulses>>) {
        let now = ctx.world.clock.steady();
        let of = |pulses: &Pulses| pulses.tending.is_silent(now).or(pulses.scaling.is_silent(now));
        let silent: BTreeMap<&Label, Duration> = (tended.iter())
            .filter_map(|(name, pulses)| Some((name, of(pulses)?)))
            .collect();
        for (name, span) in &silent {
            if self.silent.insert((*name).clone()) {
                let text = format!(
                    "{name}: no sign of life from what tends it for {} s: the service manager is not told any more that all is well",
                    span.as_secs()
                );
                note(ctx, text.clone());
                (ctx.world.notify)(Notice::Status(&text));
            }
        }
        self.silent.retain(|name| silent.contains_key(name));
        if silent.is_empty() {
            (ctx.world.notify)(Notice::Alive);
        }
    }
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
