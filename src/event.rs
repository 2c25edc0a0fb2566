//! The one stream of events: what is happening while a command runs. Bars, log lines and JSON are renderers of it.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::hypervisor::{FaultKind, News, Stage};
use crate::inventory::Inventory;
use crate::names::Label;
use crate::plan::action::Step;
use crate::record::Record;

/// Number of an action within one run.
pub type ActionNumber = u64;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A host did not answer an observation.
    HostUnseen {
        /// Which.
        host: Label,
        /// Why.
        reason: String,
    },
    /// A batch is about to be carried out.
    Batch {
        /// From 1.
        number: u32,
        /// Its steps.
        steps: Vec<Step>,
    },
    /// An action began.
    Started {
        /// Its number.
        number: ActionNumber,
        /// Its host.
        host: Label,
        /// Its verb.
        verb: &'static str,
        /// What it is done to.
        subject: String,
        /// Why.
        why: String,
    },
    /// An action went on to another stage.
    Stage {
        /// The action.
        number: ActionNumber,
        /// Its host.
        host: Label,
        /// What it is done to.
        subject: String,
        /// The stage.
        stage: Stage,
    },
    /// Bytes of an action's stage were moved.
    Bytes {
        /// The action.
        number: ActionNumber,
        /// Done.
        done: u64,
        /// In all.
        total: u64,
    },
    /// An action ended well.
    Finished {
        /// The action.
        number: ActionNumber,
        /// Its host.
        host: Label,
        /// Its verb.
        verb: &'static str,
        /// What it was done to.
        subject: String,
        /// How long it took.
        #[serde(serialize_with = "crate::units::seconds")]
        took: Duration,
        /// Whether what was to be deleted stays, because something else needs it.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        kept: bool,
    },
    /// An action failed.
    Failed {
        /// The action.
        number: ActionNumber,
        /// Its host.
        host: Label,
        /// Its verb.
        verb: &'static str,
        /// What it was done to.
        subject: String,
        /// The kind of failure.
        kind: FaultKind,
        /// What was being done when it failed, and what the host said.
        error: String,
    },
    /// A rollout went on.
    Rollout {
        /// Its number.
        number: u32,
        /// What happened to it: "batch 2: instances 3, 4 in rack-b".
        text: String,
    },
    /// Who takes clients was changed.
    Clients {
        /// What happened: "load balancer: sends clients to web-1, web-2".
        text: String,
    },
    /// Something is waited for that comes by itself.
    Waiting {
        /// What: a clause of the report.
        text: String,
    },
    /// The operator asked to stop: nothing new is begun.
    Interrupted {
        /// Actions still in flight.
        in_flight: usize,
    },
    /// A remark for the operator: something was found, or is waited for.
    Note {
        /// The sentence.
        text: String,
    },
}

impl Event {
    /// The event for `news` of an action; `None` if there is none.
    pub fn of_news(number: ActionNumber, step: &Step, news: News) -> Self {
        match news {
            News::Stage(stage) => Self::Stage {
                number,
                host: step.host.clone(),
                subject: step.action.subject(),
                stage,
            },
            News::Bytes { done, total } => Self::Bytes { number, done, total },
        }
    }
}

/// What one look at a set has shown.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// The set's record, which has taken in what was seen.
    pub record: &'a Record,
    /// What was seen.
    pub inventory: &'a Inventory,
    /// When.
    pub now: Timestamp,
}

/// Who listens to events.
pub trait Listener: Send + Sync {
    /// One event, in the order they happened.
    fn event(&self, event: &Event);

    /// One look of the loop, before anything is planned on it. Of no concern to who only tells what happens.
    fn looked(&self, _: Sight<'_>) {}

    /// A sign of life from who waits or works, at least every few seconds. Of no concern to who only tells what happens.
    fn alive(&self) {}
}
