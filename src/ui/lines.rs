//! Events as timestamped lines: for logs, pipes, cron and CI.

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use crate::event::{Event, Listener};
use crate::hypervisor::Stage;
use crate::ui::in_flight::InFlight;
use crate::ui::words::{brief, count, one_line};
use crate::units::Bytes;
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
    in_flight: Mutex<InFlight>,
}

impl<C: Fn() -> Timestamp + Send + Sync> Lines<C> {
    /// Lines on `sink`, timed by `clock`.
    pub fn new(sink: Output, clock: C, level: Level) -> Self {
        Self {
            sink,
            clock,
            level,
            in_flight: Mutex::default(),
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
        Stage::Migrate => "moving",
    }
}

/// What is said when the operator asks to stop.
pub(super) fn interrupted(in_flight: usize) -> String {
    format!(
        "interrupted: waiting for {} in flight; Ctrl-C again exits at once",
        count(in_flight, "action")
    )
}

impl<C: Fn() -> Timestamp + Send + Sync> Listener for Lines<C> {
    fn event(&self, event: &Event) {
        // Held while the line is written, so that lines stand in the order of their times.
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::HostUnseen { host, reason } => {
                let reason = one_line(reason);
                self.line(
                    Level::Failures,
                    &format!("warning: host {host} was not seen: {reason}"),
                );
            }
            Event::Batch { number, steps } => {
                in_flight.clear();
                let steps = count(steps.len(), "step");
                self.line(Level::Actions, &format!("batch {number}: {steps}"));
            }
            Event::Started {
                number,
                host,
                verb,
                subject,
                why,
            } => {
                in_flight.begin(*number, host, verb, subject);
                self.line(Level::Actions, &format!("{host}: {verb} {subject} ({why})"));
            }
            Event::Stage {
                number,
                host,
                subject,
                stage,
            } => {
                if let Some(doing) = in_flight.stage(*number, host, subject, *stage) {
                    let text = format!("{host}: {} {subject}: {}", doing.verb, stage_words(*stage));
                    self.line(Level::Stages, &text);
                }
            }
            Event::Bytes { number, done, total } => {
                // A long transfer says ten lines and not ten thousand.
                let tenths = done.saturating_mul(10) / (*total).max(1);
                let Some(doing) = in_flight.get_mut(*number).filter(|d| d.tenths < tenths) else {
                    return;
                };
                doing.tenths = tenths;
                let stage = doing.stage.map_or("", stage_words);
                let text = format!(
                    "{}: {} {}: {stage} {tenths}0 % of {}",
                    doing.host,
                    doing.verb,
                    doing.subject,
                    Bytes(*total)
                );
                self.line(Level::Stages, &text);
            }
            Event::Finished {
                number,
                host,
                verb,
                subject,
                took,
                kept,
            } => {
                in_flight.end(*number);
                let end = match kept {
                    true => "not done: something else needs it, and it stays".to_owned(),
                    false => format!("done in {}", brief(*took)),
                };
                self.line(Level::Actions, &format!("{host}: {verb} {subject} {end}"));
            }
            Event::Failed {
                number,
                host,
                verb,
                subject,
                error,
                ..
            } => {
                in_flight.end(*number);
                let error = one_line(error);
                self.line(
                    Level::Failures,
                    &format!("error: {host}: {verb} {subject} failed: {error}"),
                );
            }
            Event::Interrupted { in_flight: of_host } => {
                if let Some(n) = in_flight.interrupted(*of_host) {
                    self.line(Level::Failures, &interrupted(n));
                }
            }
            Event::Rollout { text, .. } | Event::Clients { text } => {
                self.line(Level::Actions, &one_line(text))
            }
            Event::Waiting { text } => self.line(Level::Actions, &format!("waiting: {}", one_line(text))),
            Event::Note { text } => self.line(Level::Failures, &one_line(text)),
        }
    }
}
