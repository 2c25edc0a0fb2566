//! Events as JSON, one object per line: for programs that follow a run.

use jiff::Timestamp;
use serde::Serialize;

use crate::event::{Event, Listener};
use crate::world::Output;

/// Writes one JSON object per event.
pub struct JsonEvents<C> {
    sink: Output,
    clock: C,
}

#[derive(Serialize)]
struct Line<'a> {
    at: Timestamp,
    #[serde(flatten)]
    event: &'a Event,
}

impl<C: Fn() -> Timestamp + Send + Sync> JsonEvents<C> {
    /// Objects on `sink`, timed by `clock`.
    pub const fn new(sink: Output, clock: C) -> Self {
        Self { sink, clock }
    }
}

impl<C: Fn() -> Timestamp + Send + Sync> Listener for JsonEvents<C> {
    fn event(&self, event: &Event) {
        if let Ok(text) = serde_json::to_string(&Line {
            at: (self.clock)(),
            event,
        }) {
            self.sink.line(text);
        }
    }
}
