//! What a plan waits on and what is odd, for people: a line for each as long as they are few. Hundreds of domains that are all
//! odd in the same way are told by the first few and their number; JSON has all.

use std::collections::{BTreeSet, HashMap};

use crate::names::{Label, list};
use crate::ownership::Strangeness;
use crate::plan::report::Wait;

/// So many of a kind are told one by one where there are more than one more.
const FEW: usize = 3;

/// What is told once for each instance or domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Stranger(Strangeness),
    Double,
    Moved,
    Reverted,
    Failed(&'static str),
    Moving,
    Starting,
    Repairing,
    Paused,
}

impl Kind {
    /// What is of which kind, with the host it is on; `None` for what is told once for all.
    fn of(wait: &Wait) -> Option<(Self, Option<&Label>)> {
        Some(match wait {
            Wait::Stranger(other) => (Self::Stranger(other.why), Some(&other.host)),
            Wait::Double(_) => (Self::Double, None),
            Wait::MovedByHand(moved) => (Self::Moved, Some(&moved.to)),
            Wait::NoteReverted(sight) => (Self::Reverted, Some(&sight.host)),
            Wait::Failed { verb, host, .. } => (Self::Failed(verb), Some(host)),
            Wait::Moving { .. } => (Self::Moving, None),
            Wait::StartBackoff { host, .. } => (Self::Starting, Some(host)),
            Wait::RepairBackoff { .. } => (Self::Repairing, None),
            Wait::Paused { host, .. } => (Self::Paused, Some(host)),
            _ => return None,
        })
    }
}

/// The waits as sentences, in their order. Of many of one kind the first few stand for all, and a line beside them says how
/// many more there are.
pub fn sentences(waits: &[Wait]) -> Vec<String> {
    let mut all: HashMap<Kind, usize> = HashMap::new();
    let mut on: HashMap<Kind, BTreeSet<&Label>> = HashMap::new();
    for (kind, host) in waits.iter().filter_map(Kind::of) {
        let n = all.entry(kind).or_default();
        *n += 1;
        if *n > FEW {
            on.entry(kind).or_default().extend(host);
        }
    }
    let mut told: HashMap<Kind, usize> = HashMap::new();
    let mut lines = Vec::new();
    for wait in waits {
        let Some((kind, _)) = Kind::of(wait) else {
            lines.push(wait.to_string());
            continue;
        };
        let n = told.entry(kind).or_default();
        *n += 1;
        let there = all.get(&kind).copied().unwrap_or(0);
        if *n <= FEW || there == FEW + 1 {
            lines.push(wait.to_string());
        }
        if *n == FEW && there > FEW + 1 {
            let hosts: Vec<&Label> = on.remove(&kind).into_iter().flatten().collect();
            let on = match hosts.as_slice() {
                [] => String::new(),
                hosts => format!(", on {}", list(hosts, 4)),
            };
            lines.push(format!(
                "and {} more like that{on} (-o json names each)",
                there - FEW
            ));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::InstanceId;
    use crate::ownership::Sight;

    fn reverted(n: u64) -> Vec<Wait> {
        let one = |id| {
            Wait::NoteReverted(Sight {
                id: InstanceId(id),
                host: Label::new(format!("kvm{}", id % 2)).unwrap(),
            })
        };
        (1..=n).map(one).collect()
    }

    #[test]
    fn few_are_told_one_by_one_and_of_many_the_first_and_their_number() {
        assert_eq!(
            sentences(&reverted(4)).len(),
            4,
            "one line more than the few is no shorter than it"
        );
        let lines = sentences(&reverted(300));
        assert_eq!(lines.len(), FEW + 1);
        assert!(lines[0].starts_with("instance 1 on kvm1 "), "{lines:?}");
        assert_eq!(
            lines[FEW],
            "and 297 more like that, on kvm0, kvm1 (-o json names each)"
        );
    }

    #[test]
    fn how_many_more_there_are_stands_beside_those_that_are_told() {
        let moving = |id| Wait::Moving {
            instance: InstanceId(id),
            from: Label::new("a").unwrap(),
            to: Label::new("b").unwrap(),
        };
        let waits: Vec<Wait> = (reverted(9).into_iter().zip(1..))
            .flat_map(|(one, id)| [one, moving(id)])
            .collect();
        let lines = sentences(&waits);
        assert_eq!(
            lines[5], "and 6 more like that, on kvm0, kvm1 (-o json names each)",
            "{lines:?}"
        );
        assert!(lines[4].contains("restored or reverted"), "{lines:?}");
        assert_eq!(lines[7], "and 6 more like that (-o json names each)", "{lines:?}");
    }

    #[test]
    fn kinds_do_not_hide_one_another_and_their_order_stays() {
        let mut waits = vec![Wait::DrainAfterRollout];
        waits.extend(reverted(9));
        waits.extend((1..=9).map(|id| Wait::Moving {
            instance: InstanceId(id),
            from: Label::new("a").unwrap(),
            to: Label::new("b").unwrap(),
        }));
        waits.push(Wait::NoIds);
        let lines = sentences(&waits);
        assert_eq!(lines.len(), 1 + (FEW + 1) * 2 + 1);
        assert_eq!(lines[0], Wait::DrainAfterRollout.to_string());
        assert_eq!(lines[2 * (FEW + 1)], "and 6 more like that (-o json names each)");
        assert_eq!(lines.last(), Some(&Wait::NoIds.to_string()));
    }
}
