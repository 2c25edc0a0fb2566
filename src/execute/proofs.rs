//! Who uses what on the hosts from which something is taken: read before a batch, and anew where that was a while ago.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, TryLockError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::aside;
use crate::hypervisor::{FaultKind, HypervisorError, Pulse, Uses};
use crate::names::Label;

/// Who uses what on a host and on all that share its folder, and whether anybody shares it.
pub type Proof = Result<(Uses, bool), HypervisorError>;

/// Reads the proof of a host.
pub type ReadProof = Arc<dyn Fn(&Label) -> Proof + Send + Sync>;

/// How long what was read holds. A batch of many instances that take minutes to shut down lasts for hours, and meanwhile
/// somebody may have attached a disk of one of them to a domain of his own. Reading costs a look at every domain of a host.
pub const HOLDS: Duration = Duration::from_secs(60);

/// A proof that several steps look at.
type Shared = Result<Arc<(Uses, bool)>, HypervisorError>;

/// The proofs of a batch.
pub struct Proofs {
    read: BTreeMap<Label, Mutex<(Instant, Shared)>>,
    again: ReadProof,
    holds: Duration,
}

impl Proofs {
    /// What was `read` just now, on each host from which something is to be taken; `again` reads it anew once that is longer ago
    /// than it `holds` ([`HOLDS`]).
    pub fn new(read: BTreeMap<Label, Proof>, again: ReadProof, holds: Duration) -> Self {
        let now = Instant::now();
        let read = (read.into_iter()).map(|(host, proof)| (host, Mutex::new((now, proof.map(Arc::new)))));
        Self {
            read: read.collect(),
            again,
            holds,
        }
    }

    /// None at all: a batch that takes nothing needs none.
    pub fn none() -> Self {
        Self::new(BTreeMap::new(), Arc::new(|_| Err(unread())), HOLDS)
    }

    /// The proof of `host`. Where it has to be read anew that shows on the pulse, for it may take longer than an action may
    /// be silent.
    ///
    /// # Errors
    /// It could not be read, or nobody has looked at that host.
    pub fn of(&self, host: &Label, pulse: &Pulse) -> Shared {
        let known = self.read.get(host).ok_or_else(unread)?;
        // One reads, the others wait for that.
        let mut known = loop {
            match known.try_lock() {
                Ok(known) => break known,
                Err(TryLockError::Poisoned(known)) => break known.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    pulse.beat();
                    thread::sleep(GLANCE);
                }
            }
        };
        if known.0.elapsed() >= self.holds {
            match self.read_anew(host, pulse) {
                // Its pool is busy with what this very batch makes there: what was read before the batch holds until that has ended.
                Err(error) if error.kind == FaultKind::Other && known.1.is_ok() => {}
                proof => *known = (Instant::now(), proof.map(Arc::new)),
            }
        }
        known.1.clone()
    }

    fn read_anew(&self, host: &Label, pulse: &Pulse) -> Proof {
        let (tx, rx) = mpsc::channel();
        let (again, name) = (Arc::clone(&self.again), host.clone());
        let doing = "looking for who uses what";
        let begun = aside::begin(move || {
            // Whoever asked may be gone.
            let _ = tx.send(again(&name));
        });
        begun
            .map_err(|e| HypervisorError::new(FaultKind::Other, doing, format!("starting a thread: {e}")))?;
        loop {
            match rx.recv_timeout(GLANCE) {
                Ok(proof) => return proof,
                Err(mpsc::RecvTimeoutError::Timeout) => pulse.beat(),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(HypervisorError::new(FaultKind::InUse, doing, "a fault of vmss"));
                }
            }
        }
    }
}

/// How often who waits shows that he lives.
const GLANCE: Duration = Duration::from_millis(20);

fn unread() -> HypervisorError {
    HypervisorError::new(FaultKind::InUse, "looking for who uses what", "nobody has looked")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn kvm1() -> Label {
        Label::new("kvm1").unwrap()
    }

    /// What a reading comes to in which somebody uses `file`.
    fn used(file: &str) -> Proof {
        let mut uses = Uses::default();
        uses.add(file, "rescue", None);
        Ok((uses, false))
    }

    /// The proofs of a batch before which nobody used anything, and how often they were read anew.
    fn proofs(holds: Duration, later: fn() -> Proof) -> (Proofs, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counts = Arc::clone(&count);
        let again = move |_: &Label| {
            counts.fetch_add(1, Ordering::SeqCst);
            later()
        };
        let read = BTreeMap::from([(kvm1(), Ok((Uses::default(), false)))]);
        (Proofs::new(read, Arc::new(again), holds), count)
    }

    #[test]
    fn what_was_read_a_while_ago_is_read_anew_and_what_is_fresh_is_not() {
        let (fresh, count) = proofs(Duration::MAX, || used("disk"));
        assert!(fresh.of(&kvm1(), &Pulse::silent()).unwrap().0.files.is_empty());
        assert_eq!(count.load(Ordering::SeqCst), 0);
        let (old, count) = proofs(Duration::ZERO, || used("disk"));
        assert!(
            old.of(&kvm1(), &Pulse::silent())
                .unwrap()
                .0
                .files
                .contains_key("disk")
        );
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn what_can_not_be_read_anew_proves_nothing() {
        let (old, _) = proofs(Duration::ZERO, || {
            Err(HypervisorError::new(FaultKind::Unreachable, "asking", "no route"))
        });
        let error = old.of(&kvm1(), &Pulse::silent()).unwrap_err();
        assert_eq!(error.kind, FaultKind::Unreachable);
        let (old, _) = proofs(Duration::ZERO, || panic!("no such drawer"));
        assert!(old.of(&kvm1(), &Pulse::silent()).is_err());
    }

    #[test]
    fn while_the_pool_is_busy_what_was_read_before_holds_and_is_asked_for_again() {
        let (busy, count) = proofs(Duration::ZERO, || {
            Err(HypervisorError::new(
                FaultKind::Other,
                "refreshing",
                "it has asynchronous jobs",
            ))
        });
        for asked in 1..3 {
            assert!(busy.of(&kvm1(), &Pulse::silent()).is_ok());
            assert_eq!(count.load(Ordering::SeqCst), asked);
        }
    }

    #[test]
    fn a_host_at_which_nobody_has_looked_proves_nothing() {
        let error = Proofs::none().of(&kvm1(), &Pulse::silent()).unwrap_err();
        assert_eq!(error.kind, FaultKind::InUse);
    }

    #[test]
    fn who_waits_for_a_slow_reading_gives_signs_of_life() {
        let (begun, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let again = move |_: &Label| {
            let _ = wait.lock().unwrap().recv();
            used("disk")
        };
        let read = BTreeMap::from([(kvm1(), Ok((Uses::default(), false)))]);
        let proofs = Proofs::new(read, Arc::new(again), Duration::ZERO);
        let pulse = Pulse::silent();
        thread::scope(|scope| {
            let asking = scope.spawn(|| proofs.of(&kvm1(), &pulse));
            let hear_a_beat = || {
                let mut silent = pulse.silence();
                loop {
                    let now = pulse.silence();
                    if now < silent {
                        return;
                    }
                    silent = now;
                    thread::yield_now();
                }
            };
            hear_a_beat();
            hear_a_beat();
            begun.send(()).unwrap();
            assert!(asking.join().unwrap().is_ok());
        });
    }
}
