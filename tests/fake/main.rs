//! The fake fleet: every promise it makes to the scenarios that run on it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]

mod addresses;
mod changes;
mod faults;
mod health;
mod killed;
mod migrate;
mod pools;
mod properties;
mod stats;
mod support;
mod usual;
