//! Whether the spread over the fault domains is as even as placement could make it with the hosts in sight. Where it is not,
//! that is told and nothing is done: what runs is moved by nobody who was not asked.

use crate::plan::placement::room;
use crate::plan::report::Wait;
use crate::plan::{Fleet, Situation};

/// How the set stands in its fault domains, beside how it could.
struct Spread {
    /// Instances there are in each.
    counts: Vec<usize>,
    /// The most that each could have: what is out of sight stays as it is, and what is cordoned or full gets no more.
    caps: Vec<usize>,
}

impl Spread {
    fn of(s: Situation<'_>, fleet: &Fleet<'_>) -> Self {
        let counts = fleet.per_domain(s);
        let model = &s.record.current().model;
        let rooms = s.set.fault_domains.iter().map(|domain| {
            let open = domain
                .hosts
                .iter()
                .filter(|h| !s.record.cordons.contains_key(&h.name));
            let seen = open.filter_map(|h| s.inventory.host(&h.name)?.seen());
            let rooms = seen.map(|h| room(h, model, &s.set.placement).instances);
            usize::try_from(rooms.fold(0, u64::saturating_add)).unwrap_or(usize::MAX)
        });
        let caps = counts
            .iter()
            .zip(rooms)
            .map(|(n, room)| n.saturating_add(room))
            .collect();
        Self { counts, caps }
    }

    /// The most even spread of as many instances.
    fn best(&self) -> Vec<usize> {
        let total: usize = self.counts.iter().sum();
        let filled = |level: usize| -> Vec<usize> { self.caps.iter().map(|cap| level.min(*cap)).collect() };
        let level = (0..=total).find(|level| filled(*level).iter().sum::<usize>() >= total);
        let mut best = filled(level.unwrap_or(total));
        // Those of the last level that are too many.
        let mut surplus = best.iter().sum::<usize>().saturating_sub(total);
        let top = best.iter().copied().max().unwrap_or(0);
        for n in best.iter_mut().rev().filter(|n| **n == top) {
            let fewer = surplus.min(1);
            (*n, surplus) = (*n - fewer, surplus - fewer);
        }
        best
    }
}

fn skew(counts: &[usize]) -> usize {
    let most = counts.iter().max().copied().unwrap_or(0);
    most - counts.iter().min().copied().unwrap_or(0)
}

/// That the spread is less even than it could be, by more than placement itself lets it be.
pub(crate) fn uneven(s: Situation<'_>, fleet: &Fleet<'_>) -> Option<Wait> {
    if !s.inventory.odd.doubles.is_empty() {
        // Where the one of two counts is not known yet.
        return None;
    }
    let spread = Spread::of(s, fleet);
    let best = spread.best();
    let allowed = skew(&best).max(s.set.placement.max_skew.max(1) as usize);
    if skew(&spread.counts) <= allowed {
        return None;
    }
    let fullest = spread.counts.iter().max().copied().unwrap_or(0);
    let could = best.iter().max().copied().unwrap_or(0);
    let domain = spread.counts.iter().position(|n| *n == fullest)?;
    let names = s.set.fault_domains.iter().map(|d| d.name.clone());
    (fullest > could).then(|| Wait::Uneven {
        domains: names.zip(spread.counts.iter().copied()).collect(),
        fullest: s.set.fault_domains[domain].name.clone(),
        instances: fullest,
        possible: could,
        total: spread.counts.iter().sum(),
    })
}

/// Instances of the fullest fault domain beyond what it would have, where that is told.
pub(crate) fn excess(s: Situation<'_>, fleet: &Fleet<'_>) -> usize {
    match uneven(s, fleet) {
        Some(Wait::Uneven {
            instances, possible, ..
        }) => instances.saturating_sub(possible),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::testing::{Scene, at, cases};
    use crate::record::Cordon;

    /// So many instances on each domain's only host, which is their capacity.
    fn scene(counts: &[u64]) -> Scene {
        let mut scene = Scene::new(&vec![1; counts.len()]);
        let mut id = 0;
        for (domain, n) in counts.iter().enumerate() {
            for _ in 0..*n {
                id += 1;
                scene.add(&format!("d{domain}h0"), id);
            }
        }
        scene.record.capacity = u32::try_from(id).unwrap();
        scene
    }

    fn told(scene: &mut Scene) -> Option<(usize, usize, usize)> {
        scene.plan().report.waits.iter().find_map(|w| match w {
            Wait::Uneven {
                instances,
                possible,
                total,
                ..
            } => Some((*instances, *possible, *total)),
            _ => None,
        })
    }

    #[test]
    fn an_empty_rack_that_could_have_its_share_is_told_and_changes_nothing_else() {
        let mut scene = scene(&[0, 3, 3]);
        assert_eq!(told(&mut scene), Some((3, 2, 6)));
        let plan = scene.plan();
        assert!(
            plan.steps.is_empty(),
            "nobody has asked to move anything: {:?}",
            plan.steps
        );
        assert_eq!(plan.report.verdict(), crate::plan::report::Verdict::Converged);
        let text = plan.report.waits[0].to_string();
        assert!(text.contains("losing d1 loses 3 of 6"), "{text}");
    }

    #[test]
    fn a_spread_that_placement_itself_makes_is_not_told() {
        for counts in [
            &[2, 2, 2][..],
            &[1, 0, 0],
            &[3, 2, 2],
            &[3, 3, 2],
            &[0, 0, 0],
            &[7],
            &[],
        ] {
            assert_eq!(told(&mut scene(counts)), None, "{counts:?}");
        }
    }

    #[test]
    fn a_rack_that_could_have_no_more_is_not_told() {
        let mut full = scene(&[0, 3, 3]);
        full.host("d0h0").memory = crate::units::Bytes::gib(1);
        assert_eq!(told(&mut full), None, "it has no room");
        let mut cordoned = scene(&[0, 3, 3]);
        let cordon = Cordon {
            by: "ann".into(),
            at: at(0),
            drain: true,
            migrate: false,
        };
        let host = crate::plan::testing::label("d0h0");
        cordoned.record.cordons.insert(host, cordon);
        assert_eq!(told(&mut cordoned), None, "it is cordoned");
        let mut lost = scene(&[0, 3, 3]);
        lost.lose("d0h0");
        assert_eq!(told(&mut lost), None, "it is out of sight");
    }

    proptest! {
        #![proptest_config(cases(2_000))]

        /// Whatever room there is, placement makes nothing that is told of.
        #[test]
        fn what_placement_has_made_is_never_told(
            domains in 1usize..4,
            rooms in prop::collection::vec(0u64..6, 4),
            capacity in 0u32..14,
        ) {
            let mut scene = Scene::new(&vec![1; domains]);
            for (domain, room) in rooms.iter().enumerate().take(domains) {
                scene.host(&format!("d{domain}h0")).memory = crate::units::Bytes::gib(1 + room);
            }
            scene.record.capacity = capacity;
            for _ in 0..3 {
                let plan = scene.plan();
                let record = scene.record.clone();
                crate::plan::forecast::obey(&mut scene.inventory, &plan.steps, |n| record.revision(n).map(|r| &r.model));
            }
            prop_assert_eq!(told(&mut scene), None);
        }
    }
}
