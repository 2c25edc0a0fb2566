//! The lease of a set: taken before anything is done to it, kept alive while it is held, given back at the end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use crate::aside;
use crate::error::{Error, Exit, Result};
use crate::event::{Event, Listener};
use crate::names::Label;
use crate::store::holder::LEASE;
use crate::store::{Holder, Lease, Stamp, Store, StoreError};
use crate::supervise::caught;
use crate::world::{Clock, Interrupt, World};

/// A set's lease, kept alive while it is held and given back when dropped.
pub struct Held {
    store: Arc<dyn Store>,
    /// The lease itself.
    pub lease: Lease,
    /// Dropped to end the thread that renews the lease.
    _keeping: mpsc::Sender<()>,
}

/// How often a lease is renewed: well within the time after which another machine may take it over. A batch that takes
/// long (an image on its way) must not lose it.
const RENEW: Duration = Duration::from_secs(20);

impl Held {
    /// Keeps a lease that was just taken; gives it back if that can't be done.
    fn new(store: &Arc<dyn Store>, lease: Lease, clock: &Arc<dyn Clock>) -> Result<Self> {
        let (keeping, ended) = mpsc::channel();
        let (shelf, kept, clock) = (Arc::clone(store), lease.clone(), Arc::clone(clock));
        let renew = move || {
            while ended.recv_timeout(RENEW) == Err(mpsc::RecvTimeoutError::Timeout) {
                // A lease that was lost shows before the next batch, where it stops the run. Whatever goes wrong at one
                // renewal, the next comes.
                let _ = caught(|| shelf.renew(&kept, clock.now()));
            }
        };
        let held = Self {
            store: Arc::clone(store),
            lease,
            _keeping: keeping,
        };
        // Without the thread another machine would take it over in the middle of a long batch.
        aside::begin(renew)
            .map_err(|e| Error::new(Exit::Failed, e).context("starting the thread that renews the lease"))?;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A lease that can't be given back now is taken over once this process is gone.
        let _ = self.store.release(&self.lease);
    }
}

/// Key of a set's lease.
pub fn lease_key(set: &Label) -> String {
    format!("set/{set}")
}

/// Leases of others, as they were at each look.
///
/// Whether a holder that can't be looked up lives shows in nothing but that it renews its lease, and whether it does is
/// told by a clock of one's own: one that is ahead of the holder's must not rob it. A lock on a file beside the store would
/// tell it at once on one machine, but on a shared disk it depends on the server, the mount and their versions whether it is
/// passed on, and nobody can see whether it was; so it would be one more rule, which holds only where a minute's wait is no
/// matter.
#[derive(Debug, Default)]
pub struct Watch(Mutex<BTreeMap<(String, String), Watched>>);

#[derive(Clone, Copy, Debug)]
struct Watched {
    stamp: Stamp,
    /// When it was looked at last.
    last: Duration,
    /// How long it has been watched without a change.
    span: Duration,
}

impl Watch {
    /// Notes what the lease `key` of the store at `place` was like at a look. Returns for how long it has been watched and
    /// was like that.
    fn saw(&self, place: &str, key: &str, stamp: Stamp, now: Duration) -> Duration {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = Watched {
            stamp,
            last: now,
            span: Duration::ZERO,
        };
        let watched = all.entry((place.to_owned(), key.to_owned())).or_insert(first);
        if watched.stamp != stamp {
            *watched = first;
        }
        // Who was held up himself, on a machine that was suspended, say, has not watched.
        watched.span += now.saturating_sub(watched.last).min(RENEW);
        watched.last = now;
        watched.span
    }
}

/// Takes the set's lease, waiting for it as long as `wait` says.
///
/// # Errors
/// [`Exit::Locked`] if somebody has it; the store's; there is no thread to renew it.
pub fn hold(
    world: &World,
    store: &Arc<dyn Store>,
    set: &Label,
    doing: &str,
    wait: Duration,
    listener: &Arc<dyn Listener>,
) -> Result<Held> {
    let mut me = world.env.me.clone();
    doing.clone_into(&mut me.doing);
    let taking = Taking {
        store: &**store,
        watch: &world.leases,
        clock: &*world.clock,
        interrupt: &world.interrupt,
        listener: &**listener,
    };
    let lease = taking.take(&lease_key(set), &me, wait).map_err(|e| {
        let is_held = matches!(e, StoreError::Held(_));
        let error = Error::from(e);
        if is_held {
            error.context(format!("set {set} is in use"))
        } else {
            error
        }
    })?;
    Held::new(store, lease, &world.clock)
}

/// What taking a lease needs.
struct Taking<'w> {
    store: &'w dyn Store,
    watch: &'w Watch,
    clock: &'w dyn Clock,
    interrupt: &'w Interrupt,
    listener: &'w dyn Listener,
}

/// How often who waits for a lease looks.
const GLANCE: Duration = Duration::from_millis(100);

impl Taking<'_> {
    /// Waits for as long as `wait` says, and beyond that for one that has run out by this clock: it is watched for as long as
    /// it lasts, and followed if it is not renewed meanwhile.
    fn take(&self, key: &str, me: &Holder, wait: Duration) -> Result<Lease, StoreError> {
        let began = self.clock.steady();
        let place = self.store.location();
        let mut unrenewed = None;
        let mut first = None;
        let mut told = None;
        loop {
            let now = self.clock.now();
            let taken = match self.store.acquire(key, me, now, unrenewed) {
                Err(StoreError::Held(taken)) => taken,
                other => return other,
            };
            let watched = self.watch.saw(&place, key, taken.stamp, self.clock.steady());
            if !taken.lives && watched >= LEASE && unrenewed != Some(taken.stamp) {
                unrenewed = Some(taken.stamp);
                continue;
            }
            let has_run_out = !taken.lives && taken.stamp.expires <= now.as_second();
            let is_renewed = *first.get_or_insert(taken.stamp) != taken.stamp;
            let may_come = has_run_out && !is_renewed;
            let is_over = self.clock.steady().saturating_sub(began) >= wait;
            if self.interrupt.is_set() || (is_over && !may_come) {
                return Err(StoreError::Held(taken));
            }
            if told != Some(may_come) {
                told = Some(may_come);
                let text = waiting(&taken.holder, may_come);
                self.listener.event(&Event::Note { text });
            }
            self.listener.alive();
            self.clock.wait(GLANCE, self.interrupt);
        }
    }
}

/// What is waited for.
fn waiting(holder: &Holder, has_run_out: bool) -> String {
    let Holder {
        user,
        pid,
        machine,
        doing,
        ..
    } = holder;
    if has_run_out {
        let seconds = LEASE.as_secs();
        format!(
            "{user} (pid {pid} on {machine}) was at {doing} and has not renewed the lease for a while, by the clock here: \
             watching for {seconds} s whether it does"
        )
    } else {
        format!("waiting for {user} (pid {pid} on {machine}): {doing}")
    }
}

#[cfg(test)]
mod tests;
