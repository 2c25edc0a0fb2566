//! Events as timestamped lines: for logs, pipes, cron and CI.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use crate::event::{ActionNumber, Event, Listener};
use crate::hypervisor::Stage;
use crate::ui::words::{brief, count};
use crate::world::Output;

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What failed or was found wrong.
    Failures,
    /// Actions as they begin and end.
    Actions,
    /// Stages of actions too.
    Stages,
}

/// Writes one line per event.
pub struct Lines<C> {
    sink: Output,
    clock: C,
    level: Level,
    // Tenths already told of each action's bytes, so that a long upload says ten lines and not ten thousand.
    tenths: Mutex<HashMap<ActionNumber, u64>>,
}

impl<C: Fn() -> Timestamp + Send + Sync> Lines<C> {
    /// Lines on `sink`, timed by `clock`.
    pub fn new(sink: Output, clock: C, level: Level) -> Self {
        Self {
            sink,
            clock,
            level,
            tenths: Mutex::default(),
        }
    }

    fn line(&self, level: Level, text: &str) {
        if level <= self.level {
            self.sink.line(format!(
                "{} {text}",
                (self.clock)().strftime("%Y-%m-%dT%H:%M:%SZ")
            ));
        }
    }
}

/// A stage in a word or two.
pub const fn stage_words(stage: Stage) -> &'static str {
    match stage {
        Stage::Define => "defining",
        Stage::Disks => "making disks",
        Stage::Seed => "writing seed",
        Stage::Start => "starting",
        Stage::ShutDown => "shutting down",
        Stage::Destroy => "switching off",
        Stage::DeleteDisks => "deleting disks",
        Stage::Undefine => "undefining",
        Stage::Upload => "sending",
        Stage::Verify => "verifying",
    }
}

impl<C: Fn() -> Timestamp + Send + Sync> Listener for Lines<C> {
    fn event(&self, event: &Event) {
        match event {
            Event::HostUnseen { host, reason } => {
                self.line(
                    Level::Failures,
                    &format!("warning: host {host} was not seen: {reason}"),
                );
            }
            Event::Batch { number, steps } => {
                self.line(
                    Level::Actions,
                    &format!("batch {number}: {}", count(steps.len(), "step")),
                );
            }
            Event::Started {
                host,
                verb,
                subject,
                why,
                ..
            } => {
                self.line(Level::Actions, &format!("{host}: {verb} {subject} ({why})"));
            }
            Event::Stage {
                host, subject, stage, ..
            } => {
                self.line(
                    Level::Stages,
                    &format!("{host}: {subject}: {}", stage_words(*stage)),
                );
            }
            Event::Bytes { number, done, total } => {
                let tenth = done.saturating_mul(10) / (*total).max(1);
                let mut told = self.tenths.lock().unwrap_or_else(PoisonError::into_inner);
                let last = told.insert(*number, tenth);
                drop(told);
                if last != Some(tenth) && tenth > 0 {
                    self.line(Level::Stages, &format!("action {number}: {}0 %", tenth));
                }
            }
            Event::Finished {
                host,
                verb,
                subject,
                took,
                ..
            } => {
                self.line(
                    Level::Actions,
                    &format!("{host}: {verb} {subject} done in {}", brief(*took)),
                );
            }
            Event::Failed {
                host,
                verb,
                subject,
                error,
                ..
            } => {
                self.line(
                    Level::Failures,
                    &format!("error: {host}: {verb} {subject} failed: {error}"),
                );
            }
            Event::Interrupted { in_flight } => {
                let text = format!(
                    "interrupted: waiting for {} in flight; Ctrl-C again exits at once",
                    count(*in_flight, "action")
                );
                self.line(Level::Failures, &text);
            }
            Event::Note { text } => self.line(Level::Failures, text),
        }
    }
}
