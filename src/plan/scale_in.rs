//! Scale in: which instances go. What is to leave its host anyway, then balance, then outdated ones, then those that do not
//! run, then the policy.
//!
//! Azure's order; the test vectors are its published examples.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use jiff::Timestamp;

use crate::inventory::{Power, Protection};
use crate::names::InstanceId;
use crate::plan::report::Wait;
use crate::plan::{Fleet, Member, Situation, drain};
use crate::scaleset::ScaleInPolicy;

/// Who goes first: the smallest key.
type Key = (bool, bool, Order);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Highest(Reverse<u64>),
    Youngest(Reverse<(Timestamp, u64)>),
    Eldest((Timestamp, u64)),
}

fn key(s: Situation<'_>, member: &Member<'_>) -> Key {
    let (id, made) = (member.id.0, member.instance.meta.created_at);
    let order = match s.set.scale_in.policy {
        ScaleInPolicy::Default => Order::Highest(Reverse(id)),
        ScaleInPolicy::Newest => Order::Youngest(Reverse((made, id))),
        ScaleInPolicy::Oldest => Order::Eldest((made, id)),
    };
    let current = member.instance.meta.model_hash == s.record.current().hash;
    let running = member.instance.power == Power::Running;
    // `false` sorts first: outdated before current, broken and idle before the rest.
    (current, running && !member.state.is_bad(), order)
}

/// Instances that scale in may not take, by id: no capacity below their number can be reached. Of those on hosts that are out
/// of sight, the ones that were protected when they were last seen: they are there again with their host.
pub fn protected(s: Situation<'_>) -> Vec<InstanceId> {
    let fleet = Fleet::of(s);
    let seen = fleet.members.iter().map(|m| (m.id, m.instance.meta.protection));
    let absent = (fleet.absent.iter()).filter_map(|a| Some((a.id, s.record.known.get(&a.id)?.protection)));
    let mut protected: Vec<InstanceId> = (seen.chain(absent))
        .filter(|(id, protection)| *protection != Protection::None && !s.record.condemned.contains(id))
        .map(|(id, _)| id)
        .collect();
    protected.sort_unstable();
    protected
}

/// `count` instances to delete, in the order in which they are chosen; fewer if only those whose pool can't be seen are left.
///
/// # Errors
/// Too few are left that are not protected: then none is taken.
pub(super) fn victims<'f, 'a>(
    s: Situation<'a>,
    fleet: &'f Fleet<'a>,
    count: usize,
) -> Result<Vec<&'f Member<'a>>, Wait> {
    let is_condemned = |m: &Member<'_>| s.record.condemned.contains(&m.id);
    let is_protected = |m: &&Member<'_>| {
        let is_kept = m.instance.meta.protection != Protection::None || s.inventory.odd.is_double(m.id);
        is_kept && !is_condemned(m)
    };
    let protected = fleet.members.iter().filter(is_protected).map(|m| m.id);
    let (twice, protected): (Vec<InstanceId>, Vec<InstanceId>) =
        protected.partition(|id| s.inventory.odd.is_double(*id));
    if fleet.members.len() - fleet.condemned(s).count() - protected.len() - twice.len() < count {
        return Err(Wait::Protected {
            surplus: count,
            instances: protected,
            twice,
        });
    }
    // Whose disks nobody can get at just now goes when its pool can be seen again: until then there may be too many.
    let (mut leaving, rest): (Vec<_>, Vec<_>) = (fleet
        .members
        .iter()
        .filter(|m| !is_protected(m) && !is_condemned(m) && m.has_pool))
    .partition(|m| drain::is_leaving(s, m));
    leaving.sort_unstable_by_key(|m| key(s, m));
    leaving.truncate(count);
    let mut victims = leaving;
    let mut domains: Vec<Vec<(Key, &Member<'_>)>> = vec![Vec::new(); s.set.fault_domains.len()];
    for member in rest {
        domains[member.domain].push((key(s, member), member));
    }
    for domain in &mut domains {
        domain.sort_unstable_by_key(|(key, _)| Reverse(*key));
    }
    let counts = fleet.per_domain(s);
    // Fullest domain first; among equally full ones the one whose candidate the policy would take first.
    let mut heap: BinaryHeap<(usize, Reverse<Key>, usize)> = (domains.iter().enumerate())
        .filter_map(|(i, d)| d.last().map(|(key, _)| (counts[i], Reverse(*key), i)))
        .collect();
    while victims.len() < count {
        let Some((have, _, i)) = heap.pop() else { break };
        victims.extend(domains[i].pop().map(|(_, member)| member));
        if let Some((key, _)) = domains[i].last() {
            heap.push((have - 1, Reverse(*key), i));
        }
    }
    Ok(victims)
}
