//! Shared seeds that no instance reads any more, and that a guest still has in its drive: one that was changed while it runs has
//! the seed it was started with. Looked for before such a seed is deleted, so that the plan waits for the guest instead.

use std::collections::HashSet;

use uuid::Uuid;

use super::proof;
use crate::plan::action::{Action, Step};
use crate::plan::{Experience, Plan, Situation, plan};
use crate::record::Record;
use crate::warrants::Cause;
use crate::world::World;

/// Looks who has the seeds in use that `steps` would delete. Whether `experience` has learnt of any: then it is to be planned
/// anew. Nothing is read where no seed is to go.
pub(super) fn look(world: &World, record: &Record, steps: &[Step], experience: &mut Experience) -> bool {
    let is_due = |step: &&Step| {
        matches!(
            step.action,
            Action::DeleteVolume {
                cause: Cause::SeedNotNeeded { .. },
                ..
            }
        )
    };
    let due: Vec<Step> = steps.iter().filter(is_due).cloned().collect();
    if due.is_empty() {
        return false;
    }
    // Those that go first need it no more.
    let going: HashSet<Uuid> = (steps.iter())
        .filter_map(|step| match &step.action {
            Action::Delete { instance, .. } => Some(instance.uuid),
            _ => None,
        })
        .collect();
    let proofs = proof::gather(world, &record.applied, &record.stores(), &due);
    let mut has_learnt = false;
    for step in due {
        let (Action::DeleteVolume { volume, .. }, Some(Ok((uses, _)))) =
            (step.action, proofs.get(&step.host))
        else {
            // What could not be read the executor says.
            continue;
        };
        let users = uses.without(&going).users(&volume);
        if !users.is_empty() {
            has_learnt |= experience.keep_seed(&step.host, &volume, users);
        }
    }
    has_learnt
}

/// The next batch, as whoever carries it out plans it: a look at the domains of a host tells which seeds stay.
pub fn planned(world: &World, s: Situation<'_>) -> Plan {
    let first = plan(s);
    let mut experience = s.experience.clone();
    if !look(world, s.record, &first.steps, &mut experience) {
        return first;
    }
    plan(Situation {
        experience: &experience,
        ..s
    })
}

/// What a run that begins now learns at once of the seeds that `steps`, its first batch, would delete.
pub fn learn(world: &World, record: &Record, steps: &[Step]) -> Experience {
    let mut experience = Experience::default();
    look(world, record, steps, &mut experience);
    experience
}
