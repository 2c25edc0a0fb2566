//! Threads that must not end in silence: a panic becomes an error, what broke off is begun anew after a while, and who
//! works or waits gives signs of life.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Runs `work`. A panic in it, which is a fault of vmss, is an error: what it said.
///
/// What `work` shares with others must be whole at every moment: locks are taken over from who has panicked.
///
/// # Errors
/// It panicked.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| words(&*panic))
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = (panic.downcast_ref::<&str>().copied())
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it said nothing");
    format!("a fault of vmss: {}", crate::said::shown(text, 300))
}

/// How long to wait before what has broken off is begun anew: twice as long each time it breaks off soon after that.
#[derive(Debug, Default)]
pub struct Backoff {
    times: u32,
}

impl Backoff {
    /// The first wait.
    pub const FIRST: Duration = Duration::from_secs(1);
    /// The longest.
    pub const LONGEST: Duration = Duration::from_secs(300);
    /// What has gone on for so long since it was begun has nothing to do with earlier failures.
    pub const FORGIVEN: Duration = Duration::from_secs(1800);

    /// The wait after what was begun has broken off, having `lasted` for so long.
    pub fn next(&mut self, lasted: Duration) -> Duration {
        if lasted >= Self::FORGIVEN {
            self.times = 0;
        }
        let wait = Self::FIRST.saturating_mul(1 << self.times.min(20));
        self.times += 1;
        wait.min(Self::LONGEST)
    }
}

/// Signs of life of somebody who works or waits, by a clock that is never set ([`crate::world::Clock::steady`]).
#[derive(Debug)]
pub struct Signs(Mutex<Sign>);

#[derive(Debug)]
struct Sign {
    last: Duration,
    patience: Duration,
}

/// How long nothing may be heard of somebody, beside what his calls of hosts may take.
const SILENCE: Duration = Duration::from_secs(600);

/// Calls of hosts, each up to its time-out, between two signs of life; more than any look makes one after the other.
const CALLS: u32 = 10;

impl Signs {
    /// The first sign is given `now`.
    pub const fn new(now: Duration) -> Self {
        Self(Mutex::new(Sign {
            last: now,
            patience: SILENCE,
        }))
    }

    fn sign(&self) -> MutexGuard<'_, Sign> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives one.
    pub fn beat(&self, now: Duration) {
        let mut sign = self.sign();
        sign.last = sign.last.max(now);
    }

    /// Announces that single calls may take up to `call_timeout`.
    pub fn calls_take(&self, call_timeout: Duration) {
        self.sign().patience = SILENCE.saturating_add(call_timeout.saturating_mul(CALLS));
    }

    /// For how long nothing was heard, if that is longer than anything may take.
    pub fn is_silent(&self, now: Duration) -> Option<Duration> {
        let sign = self.sign();
        let silent = now.saturating_sub(sign.last);
        (silent > sign.patience).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_panic_is_an_error_with_its_words() {
        assert_eq!(caught(|| 7), Ok(7));
        let said = caught(|| -> u8 { panic!("no host {}", 3) }).unwrap_err();
        assert_eq!(said, "a fault of vmss: no host 3");
        let said = caught(|| -> u8 { panic!("plain") }).unwrap_err();
        assert_eq!(said, "a fault of vmss: plain");
        let said = caught(|| -> u8 { std::panic::panic_any(7) }).unwrap_err();
        assert_eq!(said, "a fault of vmss: it said nothing");
    }

    #[test]
    fn what_breaks_off_again_and_again_is_waited_for_ever_longer_and_what_held_is_forgiven() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..12).map(|_| backoff.next(seconds(9)).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(backoff.next(Backoff::FORGIVEN), Backoff::FIRST);
        assert_eq!(backoff.next(seconds(9)), seconds(2));
    }

    #[test]
    fn who_gives_signs_is_alive_and_who_gives_none_is_not_for_longer_than_calls_may_take() {
        let signs = Signs::new(seconds(100));
        assert_eq!(signs.is_silent(seconds(100)), None);
        assert_eq!(signs.is_silent(seconds(700)), None);
        assert_eq!(signs.is_silent(seconds(701)), Some(seconds(601)));
        signs.calls_take(seconds(30));
        assert_eq!(signs.is_silent(seconds(701)), None);
        assert_eq!(signs.is_silent(seconds(1001)), Some(seconds(901)));
        signs.beat(seconds(1001));
        assert_eq!(signs.is_silent(seconds(1002)), None);
        signs.beat(seconds(900));
        assert_eq!(
            signs.is_silent(seconds(1901)),
            None,
            "a late sign takes none back"
        );
    }
}
