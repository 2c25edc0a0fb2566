//! The lease of a set: taken before anything is done to it, kept alive while it is held, given back at the end.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use jiff::Timestamp;

use crate::error::{Error, Exit, Result};
use crate::event::{Event, Listener};
use crate::names::Label;
use crate::store::{Lease, Store, StoreError};
use crate::supervise::caught;
use crate::world::{Clock, World};

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
        let thread = std::thread::Builder::new().name("lease".into());
        thread
            .spawn(renew)
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

/// Takes the set's lease, waiting for it as long as `wait` says.
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
    let began = std::time::Instant::now();
    let mut told = false;
    loop {
        let now: Timestamp = world.clock.now();
        match store.acquire(&lease_key(set), &me, now) {
            Ok(lease) => return Held::new(store, lease, &world.clock),
            Err(StoreError::Held(other)) if began.elapsed() < wait && !world.interrupt.is_set() => {
                if !told {
                    told = true;
                    let text = format!(
                        "waiting for {} (pid {} on {}): {}",
                        other.user, other.pid, other.machine, other.doing
                    );
                    listener.event(&Event::Note { text });
                }
                listener.alive();
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(e) => {
                let error = Error::from(e).context(format!("set {set} is in use"));
                return Err(error);
            }
        }
    }
}
