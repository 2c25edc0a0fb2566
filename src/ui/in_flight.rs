//! Which actions are under way, for renderers that must put a name to a number.

use std::collections::BTreeMap;

use crate::event::ActionNumber;
use crate::hypervisor::Stage;
use crate::names::Label;

/// Actions that have begun and not ended.
#[derive(Default)]
pub(super) struct InFlight {
    actions: BTreeMap<ActionNumber, Doing>,
    told_interrupt: bool,
}

/// One action under way.
pub(super) struct Doing {
    pub(super) host: Label,
    pub(super) verb: &'static str,
    pub(super) subject: String,
    pub(super) stage: Option<Stage>,
    /// Tenths of the stage's bytes that were told.
    pub(super) tenths: u64,
}

impl InFlight {
    /// An action began.
    pub(super) fn begin(&mut self, number: ActionNumber, host: &Label, verb: &'static str, subject: &str) {
        let doing = Doing {
            host: host.clone(),
            verb,
            subject: subject.to_owned(),
            stage: None,
            tenths: 0,
        };
        self.actions.insert(number, doing);
    }

    /// The action went on to `stage`. `None` if it is not under way: one that was given up as hung may come back to
    /// life long after its end was told, and its number may be another's by then.
    pub(super) fn stage(
        &mut self,
        number: ActionNumber,
        host: &Label,
        subject: &str,
        stage: Stage,
    ) -> Option<&Doing> {
        let doing = self.actions.get_mut(&number)?;
        if &doing.host != host || doing.subject != subject {
            return None;
        }
        doing.stage = Some(stage);
        doing.tenths = 0;
        Some(doing)
    }

    /// The action, if it is under way.
    pub(super) fn get_mut(&mut self, number: ActionNumber) -> Option<&mut Doing> {
        self.actions.get_mut(&number)
    }

    /// An action ended.
    pub(super) fn end(&mut self, number: ActionNumber) {
        self.actions.remove(&number);
    }

    /// A batch begins: nothing of an earlier one is under way.
    pub(super) fn clear(&mut self) {
        self.actions.clear();
    }

    /// The actions on `host`, in the order they began.
    pub(super) fn on<'a>(&'a self, host: &'a Label) -> impl Iterator<Item = &'a Doing> {
        self.actions.values().filter(move |d| &d.host == host)
    }

    /// How many actions an interrupt waits for, the first time it is asked: each host's lane tells of its own.
    pub(super) fn interrupted(&mut self, in_flight: usize) -> Option<usize> {
        let first = !std::mem::replace(&mut self.told_interrupt, true);
        first.then(|| self.actions.len().max(in_flight))
    }
}
