//! Whose turn it is on a connection: one call's at a time.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::connection::lock;

/// Lets one call at a time through, and knows how long the one that is through has been.
#[derive(Default)]
pub struct Turns {
    /// Since when somebody has the turn.
    taken: Mutex<Option<Instant>>,
    returned: Condvar,
}

impl Turns {
    /// Waits for the turn; given back when what is returned is dropped.
    pub fn take(&self) -> Turn<'_> {
        let mut taken = lock(&self.taken);
        while taken.is_some() {
            taken = self.returned.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken = Some(Instant::now());
        Turn(self)
    }

    /// Whether somebody has had the turn for longer than that.
    pub fn is_taken_for(&self, longer_than: Duration) -> bool {
        lock(&self.taken).is_some_and(|since| since.elapsed() > longer_than)
    }
}

/// The turn, until it is dropped.
pub struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.0.taken) = None;
        self.0.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn whoever_comes_second_waits_for_the_first() {
        let turns = Arc::new(Turns::default());
        assert!(!turns.is_taken_for(Duration::ZERO));
        let first = turns.take();
        let second = Arc::clone(&turns);
        let waiting = thread::spawn(move || drop(second.take()));
        thread::sleep(Duration::from_millis(30));
        assert!(!waiting.is_finished(), "the second must wait");
        assert!(turns.is_taken_for(Duration::from_millis(1)));
        assert!(!turns.is_taken_for(Duration::from_secs(600)));
        drop(first);
        waiting.join().unwrap();
        assert!(!turns.is_taken_for(Duration::ZERO));
    }
}
