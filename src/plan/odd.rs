//! What looks like the set's and is no member: told, and spared.

use crate::inventory::Rework;
use crate::names::InstanceId;
use crate::ownership::Strangeness;
use crate::plan::Situation;
use crate::plan::action::{Action, Step};
use crate::plan::report::Wait;

/// Which instances the record is older than, if it is.
pub(super) fn record_old(s: Situation<'_>) -> Option<Wait> {
    let odd = &s.inventory.odd;
    odd.is_record_old().then(|| {
        let beyond = (odd.strangers.iter())
            .filter(|other| other.why == Strangeness::Beyond)
            .filter_map(|other| Some((other.id?, other.host.clone())));
        let newer = odd.newer.iter().map(|sight| (sight.id, sight.host.clone()));
        Wait::RecordOld {
            instances: beyond.chain(newer).collect(),
            next: s.record.next_id,
        }
    })
}

/// Tells of everything that is odd, but of what an operator has disowned: that is settled.
pub(super) fn tell(s: Situation<'_>, waits: &mut Vec<Wait>) {
    let odd = &s.inventory.odd;
    waits.extend(record_old(s));
    if !odd.twins.is_empty() {
        // Of one libvirtd every instance is seen twice: that is all there is to say of them.
        waits.extend(odd.twins.iter().cloned().map(Wait::OneHost));
        return;
    }
    waits.extend(odd.doubles.iter().cloned().map(Wait::Double));
    let is_told = |why| !matches!(why, Strangeness::Beyond | Strangeness::Disowned);
    let strangers = odd.strangers.iter().filter(|other| is_told(other.why));
    waits.extend(strangers.cloned().map(Wait::Stranger));
    waits.extend(odd.moved.iter().cloned().map(Wait::MovedByHand));
    waits.extend(odd.older.iter().cloned().map(Wait::NoteReverted));
}

/// What is odd, without a plan.
pub fn told(s: Situation<'_>) -> Vec<Wait> {
    let mut waits = Vec::new();
    tell(s, &mut waits);
    waits
}

/// Whether a domain runs that has the UUID of an instance, and another name or no note.
pub(super) fn runs_as_another(s: Situation<'_>, id: InstanceId) -> bool {
    let known = s.record.known.get(&id);
    let mut strangers = s.inventory.odd.strangers.iter();
    strangers.any(|other| other.runs && known.is_some_and(|known| known.uuid == other.uuid))
}

/// Nothing is done to an instance that is there twice; and none is started whose UUID runs already, under another name or without
/// a note.
pub(super) fn spare(s: Situation<'_>, steps: &mut Vec<Step>) {
    let starts = |action: &Action| match action {
        Action::Start(_) | Action::Restart { .. } => true,
        Action::Rework { how, .. } => *how != Rework::Live,
        _ => false,
    };
    let is_spared = |action: &Action, id: InstanceId| {
        s.inventory.odd.is_double(id) || (starts(action) && runs_as_another(s, id))
    };
    steps.retain(|step| (step.action.instance()).is_none_or(|id| !is_spared(&step.action, id)));
}
