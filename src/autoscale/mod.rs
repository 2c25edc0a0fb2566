//! Autoscaling: how many instances a set should have, from its policy, what was measured, and the time. Pure: whoever asks
//! hands in all three, and gets a [`Decision`] that explains itself.

pub mod calendar;
mod decide;
mod decision;
mod judge;
pub mod metric;
pub mod policy;
pub mod predict;
pub mod readings;
pub mod sample;
pub mod simulate;
pub mod spelling;
mod state;
pub mod trace;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use decide::{Situation, are_protected, decide};
pub use decision::{Decision, Floor, Measured, Move, Verdict};
pub use metric::Metric;
pub use policy::Autoscale;
pub use readings::{Counter, Readings};
pub use sample::{Sample, Samples};
pub use state::{Disabled, Fired, Peaks, Pin, State};
pub use trace::Trace;
