//! Events as progress bars: one per host, one per image on its way. indicatif alone writes to the terminal meanwhile.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::event::{ActionNumber, Event, Listener};
use crate::hypervisor::Stage;
use crate::names::Label;
use crate::ui::lines::stage_words;
use crate::ui::words::count;

/// Bars on a draw target.
pub struct Bars {
    multi: MultiProgress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hosts: HashMap<Label, ProgressBar>,
    transfers: HashMap<ActionNumber, (ProgressBar, Label, String)>,
    actions: HashMap<ActionNumber, Label>,
}

fn host_style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:<14} [{bar:24}] {pos:>4}/{len:<4} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn bytes_style() -> ProgressStyle {
    ProgressStyle::with_template(
        "{prefix:<14} [{bar:24}] {bytes:>10} of {total_bytes:<10} {bytes_per_sec:>12} {wide_msg}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
    .progress_chars("=> ")
}

impl Bars {
    /// Bars on stderr.
    pub fn on_stderr() -> Self {
        Self::on(ProgressDrawTarget::stderr_with_hz(10))
    }

    /// Bars on any target.
    pub fn on(target: ProgressDrawTarget) -> Self {
        Self {
            multi: MultiProgress::with_draw_target(target),
            state: Mutex::default(),
        }
    }

    fn say(&self, text: &str) {
        // Above the bars, so that neither tears the other.
        let _ = self.multi.println(text);
    }
}

impl State {
    fn end(&mut self, number: ActionNumber, host: &Label, message: String) {
        self.actions.remove(&number);
        if let Some((bar, ..)) = self.transfers.remove(&number) {
            bar.finish_and_clear();
        }
        if let Some(bar) = self.hosts.get(host) {
            bar.inc(1);
            bar.set_message(message);
            if Some(bar.position()) == bar.length() {
                bar.finish_with_message("done");
            }
        }
    }
}

impl Listener for Bars {
    fn event(&self, event: &Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::HostUnseen { host, reason } => {
                self.say(&format!("warning: host {host} was not seen: {reason}"))
            }
            Event::Batch { steps, .. } => {
                for (_, bar) in state.hosts.drain() {
                    bar.finish_and_clear();
                }
                let mut totals: Vec<(Label, u64)> = Vec::new();
                for step in steps {
                    match totals.iter_mut().find(|(host, _)| host == &step.host) {
                        Some((_, n)) => *n += 1,
                        None => totals.push((step.host.clone(), 1)),
                    }
                }
                for (host, n) in totals {
                    let bar = self.multi.add(
                        ProgressBar::new(n)
                            .with_style(host_style())
                            .with_prefix(host.to_string()),
                    );
                    bar.tick();
                    state.hosts.insert(host, bar);
                }
            }
            Event::Started {
                number,
                host,
                verb,
                subject,
                ..
            } => {
                state.actions.insert(*number, host.clone());
                if let Some(bar) = state.hosts.get(host) {
                    bar.set_message(format!("{verb} {subject}"));
                }
            }
            Event::Stage {
                number,
                host,
                subject,
                stage,
            } => {
                if matches!(stage, Stage::Upload | Stage::Verify) {
                    let text = format!("{} {subject}", stage_words(*stage));
                    if let Some((bar, ..)) = state.transfers.get(number) {
                        bar.reset();
                        bar.set_message(text);
                    } else {
                        let bar = ProgressBar::new(0)
                            .with_style(bytes_style())
                            .with_prefix(host.to_string());
                        let bar = self.multi.add(bar.with_message(text));
                        state
                            .transfers
                            .insert(*number, (bar, host.clone(), subject.clone()));
                    }
                } else if let Some(bar) = state.hosts.get(host) {
                    bar.set_message(format!("{subject}: {}", stage_words(*stage)));
                }
            }
            Event::Bytes { number, done, total } => {
                if let Some((bar, ..)) = state.transfers.get(number) {
                    bar.set_length(*total);
                    bar.set_position(*done);
                }
            }
            Event::Finished {
                number,
                host,
                verb,
                subject,
                ..
            } => {
                state.end(*number, host, format!("{verb} {subject} done"));
            }
            Event::Failed {
                number,
                host,
                verb,
                subject,
                error,
                ..
            } => {
                self.say(&format!("error: {host}: {verb} {subject} failed: {error}"));
                state.end(*number, host, format!("{verb} {subject} failed"));
            }
            Event::Interrupted { in_flight } => self.say(&format!(
                "interrupted: waiting for {} in flight; Ctrl-C again exits at once",
                count(*in_flight, "action")
            )),
            Event::Note { text } => self.say(text),
        }
    }
}
