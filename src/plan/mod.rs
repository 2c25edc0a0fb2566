//! The plan: a pure function from what is wanted and what was seen to one batch of actions, and why.

pub mod action;
