//! Draining a host: its instances are replaced on others, new ones first, within the health budget of upgrades; or moved
//! there as they run.
//!
//! Nothing of it is remembered but that the host is being drained: how far it has come shows in where the instances are.

use std::collections::HashSet;

use jiff::Timestamp;

use crate::health::{State, later};
use crate::inventory::{Phase, Power, Protection};
use crate::names::InstanceId;
use crate::plan::action::{Action, Step};
use crate::plan::change::elsewhere;
use crate::plan::report::Wait;
use crate::plan::{Fleet, Member, Situation, moving, placement, reference};
use crate::warrants::Cause;

/// How far draining has come.
pub(super) struct Drain<'f, 'a> {
    s: Situation<'a>,
    fleet: &'f Fleet<'a>,
    /// Instances that are to leave their host, broken ones first.
    leaving: Vec<&'f Member<'a>>,
    /// Instances that are to go on elsewhere as they run.
    moving: Vec<&'f Member<'a>>,
    /// Instances that are to leave and may not be touched.
    staying: Vec<InstanceId>,
    /// New instances there are already in place of those that leave.
    ahead: usize,
}

impl<'f, 'a> Drain<'f, 'a> {
    /// `surplus` of the instances there are a rollout's business.
    pub fn of(s: Situation<'a>, fleet: &'f Fleet<'a>, surplus: isize) -> Self {
        // What is in question is settled first: none is made in its place, and it does not go; until its move has ended it may be
        // held, as if it could not be moved. What has its disks in a pool that can't be seen waits until it can.
        let moves = moving::between(s);
        let is_settled = |m: &Member<'_>| {
            let is_between = moves.contains_key(&m.id) || is_changed_before_it_moves(s, m);
            !is_between && !s.inventory.odd.is_double(m.id) && m.has_pool
        };
        let on_host = (fleet.members.iter())
            .filter(|m| is_settled(m) && is_leaving(s, m) && !s.record.condemned.contains(&m.id));
        let (staying, mut leaving): (Vec<&Member<'_>>, Vec<&Member<'_>>) =
            on_host.partition(|m| m.instance.meta.protection == Protection::All || m.state == State::Stopped);
        leaving.sort_by_key(|m| (!m.state.is_bad(), m.id));
        // Only what runs can be moved as it runs.
        let (moving, leaving): (Vec<_>, Vec<_>) = leaving.into_iter().partition(|m| may_move(s, m));
        let there = (fleet.members.len() + fleet.absent.len()).saturating_add_signed(-surplus);
        let beyond = there.saturating_sub(s.record.capacity as usize);
        Self {
            s,
            fleet,
            ahead: beyond.min(leaving.len()).min(most_ahead(s)),
            moving,
            staying: staying.iter().map(|m| m.id).collect(),
            leaving,
        }
    }

    /// Instances above capacity that stand in for leaving ones: not too many.
    pub fn ahead(&self) -> isize {
        isize::try_from(self.ahead).unwrap_or(isize::MAX)
    }

    /// The next steps, and when to look again. `settled` is whether nothing else is to be done to the set just now.
    pub fn advance(&self, settled: bool, steps: &mut Vec<Step>, waits: &mut Vec<Wait>) -> Option<Timestamp> {
        if !self.staying.is_empty() {
            waits.push(Wait::Undrainable {
                instances: self.staying.clone(),
            });
        }
        if self.leaving.is_empty() && self.moving.is_empty() || !settled {
            return None;
        }
        if self.s.record.rollout.as_ref().is_some_and(|r| r.is_active()) {
            waits.push(Wait::DrainAfterRollout);
            return None;
        }
        self.go_over(steps, waits);
        let more = most_ahead(self.s)
            .min(self.leaving.len())
            .saturating_sub(self.ahead);
        if more > 0 {
            let order = placement::Order {
                revision: self.s.record.current(),
                count: more,
                within: None,
                moved_from: None,
                why: "its host is being drained: another takes its place".into(),
            };
            placement::scale_out(self.s, self.fleet, &order, steps, waits);
        }
        // As many may go as there are others in their place, and as the health budget has to spare.
        let mut budget = self.fleet.serving().saturating_sub(self.needed());
        let mut waiting = false;
        for member in self.leaving.iter().take(self.ahead) {
            let costs = member.serves;
            if costs && budget == 0 {
                waiting = true;
                continue;
            }
            budget -= usize::from(costs);
            let cause = Cause::Drain {
                host: member.host.clone(),
                why: format!("host {} is being drained", member.host),
            };
            steps.push(member.delete(self.s, cause));
        }
        if !waiting || !steps.is_empty() {
            return None;
        }
        waits.push(Wait::HealthBudget {
            healthy: self.fleet.serving(),
            needed: self.needed() + 1,
        });
        // Only what is still starting, or not yet decided on, can get better by itself.
        let may_change = |m: &Member<'_>| {
            let is_down = m.state == State::Healthy && !m.serves;
            m.state == State::Starting
                || is_down
                || self.s.record.vitals.get(&m.id).is_some_and(|v| v.is_wavering())
        };
        let hope = self.fleet.members.iter().any(may_change);
        hope.then(|| later(self.s.now, self.s.set.health.interval))
    }

    /// Moves running instances, a few at a time, within their fault domain if there is room. Their guests go on, so that no
    /// budget is needed.
    fn go_over(&self, steps: &mut Vec<Step>, waits: &mut Vec<Wait>) {
        let Some(first) = self.moving.first() else { return };
        let from = first.host;
        let revision = first.instance.meta.revision;
        let Some(model) = self.s.record.revision(revision) else {
            waits.push(Wait::Undrainable {
                instances: vec![first.id],
            });
            return;
        };
        let few = self.s.set.limits.starts_per_host as usize;
        let group: Vec<&&Member<'a>> = (self.moving.iter())
            .filter(|m| m.instance.meta.revision == revision && m.host == from)
            .take(few)
            .collect();
        let place = |within, count| {
            let order = placement::Order {
                revision: model,
                count,
                within,
                moved_from: Some(from),
                why: "".into(),
            };
            placement::choose(self.s, &self.fleet.per_domain(self.s), &order)
        };
        let (mut places, _) = place(Some(first.domain), group.len());
        if places.is_empty() {
            let (others, wait) = place(None, group.len());
            places = others;
            waits.extend(wait);
        }
        let digest = &model.model.image.digest;
        for (member, (domain, host)) in group.into_iter().zip(places) {
            let seen = self.s.inventory.host(host).and_then(|h| h.seen());
            let mut there = seen.into_iter().flat_map(|h| &h.volumes);
            let in_the_way = there.find(|volume| volume.is_of(member.id, member.instance.uuid));
            if let Some(volume) = in_the_way {
                // What our own acts have left is swept by this very plan.
                waits.push(Wait::InTheWay {
                    instance: member.id,
                    host: host.clone(),
                    volume: volume.name.clone(),
                });
                continue;
            }
            let why = format!("host {} is being drained", member.host);
            let has_image = seen.is_some_and(|seen| seen.bases.contains(digest));
            let (on, action) = if has_image {
                let domain = &self.s.set.fault_domains[domain].name;
                let spec = elsewhere(self.s, member, model, domain, host);
                let instance = reference(self.s, member.instance);
                let spec = Box::new(spec);
                (member.host, Action::Migrate { instance, spec })
            } else {
                // First its image, whole: a move begins with everything there that it needs.
                let digest = digest.clone();
                (host, Action::PushImage { digest })
            };
            let step = Step {
                host: on.clone(),
                action,
                why: why.into(),
            };
            if !steps.contains(&step) {
                steps.push(step);
            }
        }
    }

    fn needed(&self) -> usize {
        let capacity = self.s.record.capacity as usize;
        self.fleet
            .needed(capacity, self.s.set.upgrade.max_unavailable.of(capacity))
    }
}

/// Instances that may be above capacity while a host is drained: what upgrades may have, but one at least, for a new
/// one always comes first.
fn most_ahead(s: Situation<'_>) -> usize {
    s.set.upgrade.max_surge.of(s.record.capacity as usize).max(1)
}

/// Whether a member is on a host that is being drained.
pub(super) fn is_leaving(s: Situation<'_>, member: &Member<'_>) -> bool {
    s.record.cordons.get(member.host).is_some_and(|c| c.drain)
}

/// Whether a member is to be moved as it runs.
fn may_move(s: Situation<'_>, member: &Member<'_>) -> bool {
    s.record.cordons.get(member.host).is_some_and(|c| c.migrate)
        && member.instance.power == Power::Running
        && member.instance.meta.phase == Phase::Ready
}

/// Whether a member is to be moved as it runs once its change, which did not end, has: it is not replaced for that.
fn is_changed_before_it_moves(s: Situation<'_>, member: &Member<'_>) -> bool {
    s.record.cordons.get(member.host).is_some_and(|c| c.migrate)
        && member.instance.meta.phase == Phase::Changing
}

/// Ids of the members on hosts that are being drained.
pub(super) fn leaving(s: Situation<'_>, members: &[Member<'_>]) -> HashSet<InstanceId> {
    if s.record.cordons.is_empty() {
        return HashSet::new();
    }
    members
        .iter()
        .filter(|m| is_leaving(s, m))
        .map(|m| m.id)
        .collect()
}
