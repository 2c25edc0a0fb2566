//! Odd worlds: between any two commands somebody renames, copies, moves, forges, borrows, undefines, reverts, refreshes, unplugs,
//! reinstalls, restores a store or kills vmss. Whatever vmss is told to do then, nothing is lost that nobody asked to lose, what it
//! says is true, and once the hands rest every set comes to what is wanted of it, by the commands that it names itself.
//!
//! Worlds are numbered, and each is the same whenever it is played. `WORLDS` says how many are played, `WORLDS_FROM` which is the
//! first, `WORLDS_AT_ONCE` how many side by side (as many as there are processors), `WORLDS_ALL=1` that a failure does not end it:
//!
//! ```text
//! WORLDS=1000000 WORLDS_ALL=1 cargo test --profile worlds --test worlds -- --nocapture worlds_
//! WORLDS=1 WORLDS_FROM=4711 cargo test --test worlds -- worlds_in_which_anything_may_happen
//! ```
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]

#[path = "../scenario/mod.rs"]
mod scenario;

mod commands;
mod controller;
mod found;
mod hands;
mod play;
mod properties;
mod stage;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use commands::{Deed, odd_worlds, quiet_worlds};
use stage::Setting;

/// A number from the environment.
#[expect(
    clippy::disallowed_methods,
    reason = "a test has no world to ask for its environment"
)]
fn told(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The generator's seed for the world of that number.
fn seed(number: u64) -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    seed
}

/// Plays one world, and if it fails a simpler one that does: what was wrong there.
fn try_one<S>(number: u64, worlds: &S, play: fn(&Setting, &[Deed]) -> Result<(), String>) -> Option<String>
where
    S: Strategy<Value = (Setting, Vec<Deed>)>,
{
    let config = Config {
        cases: 1,
        failure_persistence: None,
        max_shrink_iters: 600,
        max_shrink_time: 30_000,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed(number));
    let mut runner = TestRunner::new_with_rng(config, rng);
    let played = runner.run(worlds, |(setting, deeds)| {
        let played = std::panic::catch_unwind(|| play(&setting, &deeds));
        let outcome = played.unwrap_or_else(|_| Err(format!("a panic in {setting:?} by {deeds:?}")));
        outcome.map_err(TestCaseError::fail)
    });
    match played {
        Ok(()) => None,
        Err(TestError::Fail(why, _)) => Some(format!("world {number}: {why}")),
        Err(TestError::Abort(why)) => Some(format!("world {number}: {why}")),
    }
}

/// Plays so many worlds, side by side.
fn try_all<S>(usual: u64, worlds: impl Fn() -> S + Sync, play: fn(&Setting, &[Deed]) -> Result<(), String>)
where
    S: Strategy<Value = (Setting, Vec<Deed>)>,
{
    let (count, from) = (told("WORLDS").unwrap_or(usual), told("WORLDS_FROM").unwrap_or(0));
    let goes_on = told("WORLDS_ALL") == Some(1);
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let next = AtomicU64::new(from);
    let failed: Mutex<Vec<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..told("WORLDS_AT_ONCE").unwrap_or(processors) {
            scope.spawn(|| {
                let worlds = worlds();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= from + count || (!goes_on && !failed.lock().unwrap().is_empty()) {
                        return;
                    }
                    if let Some(why) = try_one(number, &worlds, play) {
                        tell(&why);
                        failed.lock().unwrap().push(why);
                    }
                    if count > 1_000 && (number - from) % 1_000 == 999 {
                        tell(&format!("{} of {count} worlds", number + 1 - from));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "{} worlds failed, of which the first is {}",
        failed.len(),
        failed[0]
    );
}

/// How far a long run is.
#[expect(clippy::print_stderr, reason = "who waits for hours wants to see something")]
fn tell(text: &str) {
    eprintln!("{text}");
}

#[test]
fn worlds_in_which_anything_may_happen() {
    try_all(1_000, odd_worlds, play::odd);
}

#[test]
fn worlds_in_which_nothing_odd_happens() {
    try_all(300, quiet_worlds, play::quiet);
}
