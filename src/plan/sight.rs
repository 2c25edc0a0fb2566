//! What can't be asked how it is, or is not reached where it says, and why.

use crate::addresses;
use crate::answer::Answer;
use crate::health::State;
use crate::names::InstanceId;
use crate::plan::report::RefusedAddress;
use crate::plan::{Fleet, Situation, Wait};

/// Says of those whose state is unknown what is between them and who asks, and which addresses are not believed.
pub(super) fn waits(s: Situation<'_>, fleet: &Fleet<'_>) -> Vec<Wait> {
    let seen = fleet.members.iter().filter(|m| m.state == State::Unknown);
    let hidden = fleet.absent.iter().map(|a| a.id);
    let all: Vec<InstanceId> = seen.map(|m| m.id).chain(hidden).collect();
    let of = |kind: &Answer| -> Vec<InstanceId> {
        let last = |id: &InstanceId| s.record.vitals.get(id).and_then(|v| v.last.as_ref());
        let is_so = |id: &InstanceId| last(id) == Some(kind);
        let mut found: Vec<InstanceId> = all.iter().copied().filter(is_so).collect();
        found.sort_unstable();
        found
    };
    let mut waits = Vec::new();
    let mut say = |kind: &Answer, wait: fn(Vec<InstanceId>) -> Wait| {
        let instances = of(kind);
        if !instances.is_empty() {
            waits.push(wait(instances));
        }
    };
    say(&Answer::AgentBroken, |instances| Wait::AgentBroken { instances });
    say(&Answer::AgentAbsent, |instances| Wait::AgentAbsent { instances });
    say(&Answer::NoWay, |instances| Wait::NoWay { instances });
    let choice = addresses::of_set(s.set, s.record, s.inventory);
    let claims: Vec<RefusedAddress> = (choice.refused())
        .map(|(instance, address, why)| RefusedAddress {
            instance,
            address,
            why: why.clone(),
        })
        .collect();
    if !claims.is_empty() {
        waits.push(Wait::AddressesRefused { claims });
    }
    waits
}
