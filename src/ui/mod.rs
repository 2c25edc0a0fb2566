//! The terminal: tables, sentences, and the renderers of the event stream.

pub mod bars;
mod in_flight;
pub mod json_events;
pub mod lines;
pub mod outcome;
pub mod page;
pub mod picture;
pub mod plan_view;
pub mod style;
pub mod table;
pub mod words;

use std::sync::Arc;

use crate::cli::{ColorChoice, Global, Progress};
use crate::event::{Event, Listener};
use crate::world::World;

/// Whether to use colour on a stream.
pub fn use_color(global: &Global, world: &World, is_terminal: bool) -> bool {
    match global.color {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => is_terminal && !world.env.no_color,
    }
}

/// The one renderer of this run's events: bars on a terminal, lines elsewhere, never both.
///
/// `endless` is whether it has no end: then a log is wanted and not bars, on a terminal too.
pub fn listener(global: &Global, world: &World, endless: bool) -> Arc<dyn Listener> {
    let how = match global.progress {
        Progress::Auto if global.quiet || global.verbose || endless => Progress::Lines,
        Progress::Auto if world.env.stderr_is_terminal => Progress::Bars,
        // Bars that are not drawn would swallow what failed.
        Progress::Auto | Progress::Bars if !world.env.stderr_is_terminal => Progress::Lines,
        asked => asked,
    };
    let (sink, clock) = (world.stderr.clone(), Arc::clone(&world.clock));
    match how {
        Progress::Auto | Progress::Bars => Arc::new(bars::Bars::on_stderr()),
        Progress::Lines => {
            let level = if global.quiet {
                lines::Level::Failures
            } else if global.verbose {
                lines::Level::Stages
            } else {
                lines::Level::Actions
            };
            Arc::new(lines::Lines::new(sink, move || clock.now(), level))
        }
        Progress::Json => Arc::new(json_events::JsonEvents::new(sink, move || clock.now())),
        Progress::None => Arc::new(Silence),
    }
}

/// A listener that says nothing.
pub struct Silence;

impl Listener for Silence {
    fn event(&self, _: &Event) {}
}

#[cfg(test)]
mod tests;
