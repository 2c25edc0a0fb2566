//! The controller, for a few turns: its own waiting makes time go by, and it is asked to stop after so much of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use vmss::hypervisor::fake;
use vmss::world::{Clock, Interrupt};

use crate::scenario::Outcome;
use crate::scenario::theatre::{Capture, Theatre};

/// Only what tends a set waits, in virtual time; who waits beside it does so in real time, for next to nothing.
struct Turns {
    clock: fake::Clock,
    left: AtomicUsize,
    interrupt: Interrupt,
}

impl Clock for Turns {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn steady(&self) -> Duration {
        self.clock.now().as_duration().unsigned_abs()
    }

    fn wait(&self, span: Duration, _: &Interrupt) {
        let is_tending = std::thread::current()
            .name()
            .is_some_and(|n| n.starts_with("tend-"));
        if !is_tending {
            std::thread::sleep(Duration::from_micros(100));
            return;
        }
        self.clock.sleep(span);
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        if left <= 1 {
            self.interrupt.press();
            // Nobody waits so often that it begins anew.
            self.left.store(usize::MAX / 2, Ordering::SeqCst);
        }
    }
}

/// Waits of a second each.
const WAITS: usize = 4;

/// Runs it.
pub fn run(theatre: &Theatre, args: &[String]) -> Outcome {
    let (stdout, stderr) = (Capture::default(), Capture::default());
    let mut world = theatre.world(&stdout, &stderr);
    world.clock = Arc::new(Turns {
        clock: theatre.stage.fleet.clock(),
        left: AtomicUsize::new(WAITS),
        interrupt: world.interrupt.clone(),
    });
    let exit = vmss::run(
        args.iter().cloned().chain(["--interval".into(), "1s".into()]),
        &world,
    );
    (exit, stdout.text(), stderr.text())
}
