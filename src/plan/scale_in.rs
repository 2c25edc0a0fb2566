//! Scale in: which instances go. Balance first, then outdated ones, then those that do not run, then the policy.
//!
//! Azure's order; the test vectors are its published examples.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use jiff::Timestamp;

use crate::inventory::Power;
use crate::plan::{Fleet, Member, Situation};
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
    // `false` sorts first: outdated before current, idle before running.
    (current, running, order)
}

/// `count` instances to delete, in the order in which they are chosen.
pub(super) fn victims<'f, 'a>(s: Situation<'a>, fleet: &'f Fleet<'a>, count: usize) -> Vec<&'f Member<'a>> {
    let mut domains: Vec<Vec<(Key, &Member<'_>)>> = vec![Vec::new(); s.set.fault_domains.len()];
    for member in &fleet.members {
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
    let mut victims = Vec::with_capacity(count);
    while victims.len() < count {
        let Some((have, _, i)) = heap.pop() else { break };
        victims.extend(domains[i].pop().map(|(_, member)| member));
        if let Some((key, _)) = domains[i].last() {
            heap.push((have - 1, Reverse(*key), i));
        }
    }
    victims
}
