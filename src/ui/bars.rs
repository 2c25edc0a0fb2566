//! Events as progress bars: one per host, one per image on its way. indicatif alone writes to the terminal meanwhile.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::event::{ActionNumber, Event, Listener};
use crate::hypervisor::Stage;
use crate::names::Label;
use crate::plan::action::Step;
use crate::ui::in_flight::InFlight;
use crate::ui::lines::{interrupted, stage_words};
use crate::ui::words::{count, one_line};

/// Bars on a draw target.
pub struct Bars {
    multi: MultiProgress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    in_flight: InFlight,
    hosts: HashMap<Label, Host>,
    transfers: HashMap<ActionNumber, ProgressBar>,
    /// Columns that host names take.
    names: usize,
}

struct Host {
    bar: ProgressBar,
    failed: usize,
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn host_style(names: usize) -> ProgressStyle {
    style(&format!(
        "{{prefix:<{names}}} [{{bar:16}}] {{pos:>4}}/{{len:<4}} {{wide_msg}}"
    ))
}

/// Fits 80 columns beside names of ten.
fn bytes_style(names: usize) -> ProgressStyle {
    style(&format!(
        "{{prefix:<{names}}} [{{bar:16}}] {{bytes}} of {{total_bytes}}, {{bytes_per_sec}}, {{eta}} left"
    ))
}

impl Bars {
    /// Bars on stderr.
    pub fn on_stderr() -> Self {
        Self::on(ProgressDrawTarget::stderr_with_hz(20))
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
        let _ = self.multi.println(one_line(text));
    }

    fn begin_batch(&self, state: &mut State, steps: &[Step]) {
        state.in_flight.clear();
        for (_, bar) in state.transfers.drain() {
            bar.finish_and_clear();
        }
        for (_, host) in state.hosts.drain() {
            host.bar.finish_and_clear();
        }
        let mut totals: Vec<(&Label, u64)> = Vec::new();
        for step in steps {
            match totals.iter_mut().find(|(host, _)| *host == &step.host) {
                Some((_, n)) => *n += 1,
                None => totals.push((&step.host, 1)),
            }
        }
        let longest = totals.iter().map(|(host, _)| host.as_str().len()).max();
        state.names = longest.unwrap_or_default();
        for (name, n) in totals {
            let bar = ProgressBar::new(n)
                .with_style(host_style(state.names))
                .with_prefix(name.to_string());
            let bar = self.multi.add(bar);
            bar.tick();
            state.hosts.insert(name.clone(), Host { bar, failed: 0 });
        }
    }

    /// Shows that the action moves bytes, from none on.
    fn begin_transfer(&self, state: &mut State, number: ActionNumber, host: &Label) {
        if let Some(bar) = state.transfers.get(&number) {
            bar.reset();
        } else if let Some(above) = state.hosts.get(host) {
            let bar = ProgressBar::new(0).with_style(bytes_style(state.names));
            state
                .transfers
                .insert(number, self.multi.insert_after(&above.bar, bar));
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        // A bar that is dropped short of its end is wiped, along with whatever was written below it since.
        self.multi.set_draw_target(ProgressDrawTarget::hidden());
    }
}

impl State {
    /// Shows what is under way on `host`: its oldest action, and how many there are beside it.
    fn show(&self, host: &Label) {
        let Some(Host { bar, .. }) = self.hosts.get(host) else {
            return;
        };
        let mut doing = self.in_flight.on(host);
        let Some(first) = doing.next() else {
            return;
        };
        let mut text = format!("{} {}", first.verb, first.subject);
        if let Some(stage) = first.stage {
            text += &format!(": {}", stage_words(stage));
        }
        match doing.count() {
            0 => {}
            n => text += &format!(" (+{n})"),
        }
        bar.set_message(text);
    }

    fn end(&mut self, number: ActionNumber, host: &Label, what: String, failed: bool) {
        self.in_flight.end(number);
        if let Some(bar) = self.transfers.remove(&number) {
            bar.finish_and_clear();
        }
        if let Some(on) = self.hosts.get_mut(host) {
            on.failed += usize::from(failed);
            on.bar.inc(1);
            if Some(on.bar.position()) == on.bar.length() {
                on.bar.finish_with_message(match on.failed {
                    0 => "done".to_owned(),
                    n => format!("{} failed", count(n, "action")),
                });
                return;
            }
            on.bar.set_message(what);
        }
        self.show(host);
    }
}

impl Listener for Bars {
    fn event(&self, event: &Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::HostUnseen { host, reason } => {
                self.say(&format!("warning: host {host} was not seen: {reason}"));
            }
            Event::Batch { steps, .. } => self.begin_batch(&mut state, steps),
            Event::Started {
                number,
                host,
                verb,
                subject,
                ..
            } => {
                state.in_flight.begin(*number, host, verb, subject);
                state.show(host);
            }
            Event::Stage {
                number,
                host,
                subject,
                stage,
            } => {
                if state.in_flight.stage(*number, host, subject, *stage).is_none() {
                    return;
                }
                if matches!(stage, Stage::Upload | Stage::Verify | Stage::Migrate) {
                    self.begin_transfer(&mut state, *number, host);
                }
                state.show(host);
            }
            Event::Bytes { number, done, total } => {
                if let Some(bar) = state.transfers.get(number) {
                    bar.set_length(*total);
                    bar.set_position(*done);
                }
            }
            Event::Finished {
                number,
                host,
                verb,
                subject,
                kept,
                ..
            } => {
                let end = if *kept {
                    "stays, something else needs it"
                } else {
                    "done"
                };
                state.end(*number, host, format!("{verb} {subject}: {end}"), false);
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
                state.end(*number, host, format!("{verb} {subject}: failed"), true);
            }
            Event::Interrupted { in_flight } => {
                if let Some(n) = state.in_flight.interrupted(*in_flight) {
                    self.say(&interrupted(n));
                }
            }
            Event::Waiting { text } => self.say(&format!("waiting: {text}")),
            Event::Rollout { text, .. } | Event::Clients { text } | Event::Note { text } => self.say(text),
        }
    }
}
