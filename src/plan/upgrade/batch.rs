//! The batch under way: what it still needs, and the gate after it.

use jiff::Timestamp;

use super::{Stage, span};
use crate::health::{State, later};
use crate::inventory::{Phase, Rework};
use crate::model::Disruption;
use crate::names::{InstanceId, instance_name};
use crate::plan::action::Action;
use crate::plan::action::Step;
use crate::plan::change::{Because, Limit, Need, rework};
use crate::plan::forecast::obey;
use crate::plan::report::{Ailing, Wait};
use crate::plan::{Member, Situation, placement};
use crate::rollout::{Batch, RolloutState};
use crate::scaleset::UpgradePolicy;
use crate::warrants::Cause;

impl<'a> Stage<'_, 'a> {
    /// Whether the batch is done. If not, its next steps and what it waits on are noted.
    pub(super) fn work_on_batch(&mut self) -> bool {
        let Some(mut batch) = self.rollout.batch.clone() else {
            return true;
        };
        // Protected, stopped, or moved to another fault domain since the batch began, during a pause, or in need of more than
        // is allowed: what was begun with it is ended, no more.
        let is_of_batch = |m: &Member<'_>| {
            let name = &self.s.set.fault_domains[m.domain].name;
            let is_in_domain = batch.fault_domain.as_ref().is_none_or(|of| of == name);
            // One in whose place another was made already stays of the batch, or the one too many would be taken back by
            // deleting the older one: the very thing that is not allowed.
            let is_allowed = self.forbidden(&batch, m).is_none() || !batch.fresh.is_empty();
            self.is_willing(m) && is_in_domain && is_allowed
        };
        let mut instances = batch.instances.clone();
        instances.retain(|id| {
            (self.fleet.member(*id))
                .is_none_or(|m| is_of_batch(m) || self.is_done(m) || m.instance.meta.phase == Phase::Changing)
        });
        batch.instances = instances;
        self.rollout.batch = Some(batch.clone());
        if let Some(error) = self.failed_step(&batch) {
            self.fail(error);
            return false;
        }
        let (old, withheld): (Vec<&Member<'a>>, Vec<&Member<'a>>) = (batch.instances.iter())
            .filter_map(|id| self.fleet.member(*id))
            .filter(|m| m.has_pool && !self.is_done(m))
            .partition(|m| self.forbidden(&batch, m).is_none() || m.instance.meta.phase == Phase::Changing);
        let forbidden = withheld
            .iter()
            .filter_map(|m| self.forbidden(&batch, m).map(|(need, limit)| (*m, need, limit)));
        let told = self.told(forbidden);
        self.turn.waits.extend(told);
        let is_out_of_reach = |id: InstanceId| {
            let member = self.fleet.member(id);
            self.fleet.is_absent(id) || member.is_some_and(|m| !m.has_pool && !self.is_done(m))
        };
        let unseen: Vec<InstanceId> = (batch.instances.iter().chain(&batch.fresh))
            .copied()
            .filter(|id| is_out_of_reach(*id))
            .collect();
        let is_busy = !old.is_empty() || !withheld.is_empty();
        if batch.replaces {
            self.replace(&batch, &old, batch.instances.len() - withheld.len());
        } else {
            self.rework(&old);
        }
        if self.has_failed {
            return false;
        }
        let waiting = self.not_ready_yet(&batch);
        let missing = batch.replaces && batch.fresh.len() < batch.instances.len();
        if !is_busy && !missing && waiting.is_empty() && unseen.is_empty() && self.turn.steps.is_empty() {
            return self.finish(&batch);
        }
        if self.has_timed_out(batch.began) {
            let after = self.rollout.rules.batch_timeout;
            let who = self.describe(&waiting);
            let reason = format!(
                "rollout batch {} was not done within {}{who}",
                batch.number,
                span(after)
            );
            self.fail(reason);
            return false;
        }
        if !unseen.is_empty() {
            self.turn.waits.push(Wait::BatchUnseen {
                batch: batch.number,
                instances: unseen,
            });
            self.look_again_at(later(self.s.now, self.s.set.health.interval));
        }
        if !waiting.is_empty() {
            self.turn.waits.push(Wait::BatchHealth {
                batch: batch.number,
                instances: waiting,
            });
            self.look_again_at(later(self.s.now, self.s.set.health.interval));
        }
        false
    }

    /// What forbids to change a member as the batch does it: what it needs may have become another thing since the batch was
    /// chosen, for room comes and goes, and limits are raised and lowered.
    fn forbidden(&self, batch: &Batch, member: &Member<'_>) -> Option<(Need, Limit)> {
        let mut need = self.need(member);
        if batch.replaces && need.class < Disruption::Replace {
            need = Need {
                class: Disruption::Replace,
                because: Because::NoRoom,
            };
        }
        let limit = self.forbids(member, need);
        // One that has come to need another in its place is of another batch, allowed or not.
        let is_others = !batch.replaces && need.class == Disruption::Replace;
        limit
            .or(is_others.then_some(Limit::Own))
            .map(|limit| (need, limit))
    }

    /// A step of the batch that was tried in this run and failed: trying it again and again is not a rollout.
    fn failed_step(&self, batch: &Batch) -> Option<String> {
        (batch.instances.iter()).find_map(|id| {
            let member = self.fleet.member(*id)?;
            let name = instance_name(&self.s.set.name, *id);
            let failed = &self.s.experience.failed;
            let digest = self.target.model.image.digest.clone();
            let image = Action::PushImage { digest }.subject();
            let needs_it = self.need(member).class == Disruption::Reimage;
            // That its image could not be sent says more than that it is not there.
            let unsent = failed.get(&(member.host.clone(), image)).filter(|_| needs_it);
            let error = unsent.or_else(|| failed.get(&(member.host.clone(), name.clone())))?;
            Some(format!("{name} on {} could not be changed: {error}", member.host))
        })
    }

    /// Changes in place, as far as the health budget allows: those that are broken anyway cost nothing.
    fn rework(&mut self, old: &[&Member<'a>]) {
        let mut budget = self.budget();
        for member in old {
            let how = match self.need(member).class {
                // What was begun is done at least.
                _ if member.instance.meta.phase == Phase::Changing => {
                    member.instance.meta.rework.unwrap_or(Rework::Reimage)
                }
                Disruption::None | Disruption::Live => Rework::Live,
                Disruption::Restart => Rework::Restart,
                // Withheld.
                Disruption::Replace => continue,
                Disruption::Reimage => Rework::Reimage,
            };
            let costs = member.serves && how != Rework::Live;
            if costs && budget == 0 {
                self.wait_for_budget();
                continue;
            }
            budget -= usize::from(costs);
            let why = format!(
                "rollout batch {}: revision {} -> {}",
                self.number(),
                member.instance.meta.revision,
                self.target.number
            );
            rework(self.s, member, self.target, how, why.into(), &mut self.turn.steps);
        }
    }

    /// Replaces: new ones beside the old as far as surge allows, old ones gone as far as the health budget allows.
    /// `allowed` of the batch's instances are there to be replaced, or are gone already.
    fn replace(&mut self, batch: &Batch, old: &[&Member<'a>], allowed: usize) {
        // What a cut run left half made or half deleted is there until it is gone.
        let there = self.fleet.members.len() + self.fleet.absent.len() + self.fleet.half;
        let capacity = self.s.record.capacity as usize;
        let surge = self.rollout.rules.max_surge.of(capacity);
        let fresh: Vec<InstanceId> = (batch.fresh.iter().copied())
            .filter(|id| self.fleet.has(*id))
            .collect();
        let lacking = allowed.saturating_sub(fresh.len());
        let room = (capacity + surge).saturating_sub(there);
        let mut kept = batch.clone();
        kept.fresh = fresh;
        let mut waits = Vec::new();
        if lacking > 0 && room > 0 && !self.is_growing {
            let why = format!(
                "rollout batch {}: takes the place of one of revision {}",
                batch.number, self.rollout.from
            );
            let within = self.domain_of(batch);
            let before = self.turn.steps.len();
            let order = placement::Order {
                revision: self.target,
                within,
                moved_from: None,
                count: lacking.min(room),
                why: why.into(),
            };
            placement::scale_out(self.s, self.fleet, &order, &mut self.turn.steps, &mut waits);
            let made = self.turn.steps[before..]
                .iter()
                .filter_map(|s| s.action.created());
            kept.fresh.extend(made.map(|spec| spec.id));
        }
        let mut is_stuck = !waits.is_empty();
        self.turn.waits.append(&mut waits);
        // Those of them that go before another is made.
        let owed = allowed.saturating_sub(kept.fresh.len());
        let mut budget = self.budget();
        let mut going = Vec::new();
        for member in old {
            let costs = member.serves;
            if costs && budget == 0 {
                self.wait_for_budget();
                continue;
            }
            budget -= usize::from(costs);
            going.push(*member);
        }
        let replaced = old.len().saturating_sub(owed);
        if going.len() > replaced {
            // None goes for which there would be no place for another.
            let (places, wait) = self.places_after(batch, &going, going.len() - replaced);
            if let Some(wait) = wait.filter(|_| !is_stuck) {
                self.turn.waits.push(wait);
                is_stuck = true;
            }
            going.truncate(replaced + places);
        }
        let gone = going.len();
        for member in going {
            let why = format!(
                "rollout batch {}: of revision {}, replaced by revision {}",
                batch.number, member.instance.meta.revision, self.target.number
            );
            let cause = Cause::Rollout {
                target: self.target.number,
                why,
            };
            self.turn.steps.push(member.delete(self.s, cause));
        }
        self.rollout.batch = Some(kept);
        if is_stuck && gone == 0 && self.turn.steps.is_empty() {
            let text = self
                .turn
                .waits
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; ");
            self.fail(format!(
                "there is no room for the new instances of rollout batch {}: {text}",
                batch.number
            ));
        }
    }

    /// The index of a batch's fault domain.
    fn domain_of(&self, batch: &Batch) -> Option<usize> {
        let name = batch.fault_domain.as_ref()?;
        self.s.set.fault_domains.iter().position(|d| &d.name == name)
    }

    /// For how many of `count` there would be a place once `going` are gone, and what is lacking for the others.
    fn places_after(&self, batch: &Batch, going: &[&Member<'a>], count: usize) -> (usize, Option<Wait>) {
        let mut inventory = self.s.inventory.clone();
        let gone: Vec<Step> = going.iter().map(|m| m.delete(self.s, Cause::Operator)).collect();
        let record = self.s.record;
        obey(&mut inventory, &gone, |number| {
            record.revision(number).map(|r| &r.model)
        });
        let order = placement::Order {
            revision: self.target,
            within: self.domain_of(batch),
            moved_from: None,
            count,
            why: "".into(),
        };
        let s = Situation {
            inventory: &inventory,
            ..self.s
        };
        let mut counts = self.fleet.per_domain(self.s);
        for member in going {
            counts[member.domain] = counts[member.domain].saturating_sub(1);
        }
        let (places, wait) = placement::choose(s, &counts, &order);
        (places.len(), wait)
    }

    /// The batch's instances that have their target and are not healthy long enough yet. One that is unhealthy for good
    /// is not waited for: the gate after the batch counts it.
    fn not_ready_yet(&mut self, batch: &Batch) -> Vec<Ailing> {
        let rules = self.rollout.rules.clone();
        let mut waiting = Vec::new();
        for id in batch.instances.iter().chain(&batch.fresh) {
            let Some(member) = self.fleet.member(*id).filter(|m| self.is_done(m)) else {
                continue;
            };
            let vital = self.s.record.vitals.get(id);
            let wavers = vital.is_some_and(|v| v.is_wavering());
            let ripe = vital.map_or(Timestamp::MIN, |v| later(v.since, rules.min_ready));
            match member.state {
                State::Healthy if !member.serves => {
                    let said = "down to the load balancer's check".to_owned();
                    waiting.push(Ailing {
                        said,
                        ..self.ailing(member)
                    });
                }
                State::Healthy if !wavers && ripe <= self.s.now => {}
                State::Healthy => {
                    waiting.push(self.ailing(member));
                    self.look_again_at(ripe.max(self.s.now));
                }
                State::Unhealthy | State::Failed if !wavers => {}
                _ => waiting.push(self.ailing(member)),
            }
        }
        waiting
    }

    /// The gate after a batch, and its end.
    fn finish(&mut self, batch: &Batch) -> bool {
        let upgraded: Vec<&Member<'a>> = (self.fleet.members.iter()).filter(|m| self.is_done(m)).collect();
        let ailing = self.ailing_upgraded();
        let of_batch = |id: &InstanceId| batch.instances.contains(id) || batch.fresh.contains(id);
        let members = upgraded.iter().filter(|m| of_batch(&m.id)).count();
        let broken = ailing.iter().filter(|a| of_batch(&a.instance)).count();
        let limit = self.rollout.rules.max_unhealthy_upgraded;
        let gated = self.rollout.rules.policy != UpgradePolicy::Automatic;
        // A percentage never rounds under 1; but a batch of which none became healthy has shown enough.
        if gated && (ailing.len() > limit.of(upgraded.len()) || broken > 0 && broken == members) {
            self.fail(format!(
                "after rollout batch {}, {} of {} upgraded instances {} not healthy{}",
                batch.number,
                ailing.len(),
                upgraded.len(),
                if ailing.len() == 1 { "is" } else { "are" },
                self.describe(&ailing)
            ));
            return false;
        }
        self.rollout.batch = None;
        self.rollout.batches = batch.number;
        self.rollout.rested_since = Some(self.s.now);
        if !self.due().is_empty() {
            self.hold(upgraded.len() - members, upgraded.len());
        }
        true
    }

    /// Stops for a look after the canary, and at a checkpoint that this batch has reached.
    fn hold(&mut self, before: usize, after: usize) {
        let capacity = self.s.record.capacity as usize;
        if self
            .rollout
            .canary
            .is_some_and(|canary| after >= canary.of(capacity))
        {
            self.rollout.canary = None;
            self.pause("the canary: look at it, then resume or roll back");
            return;
        }
        let mut points = self.rollout.rules.checkpoints.iter().map(|c| c.of(capacity));
        if !points.any(|point| before < point && point <= after) {
            return;
        }
        if self.rollout.rules.checkpoint_pause.is_zero() {
            self.pause("a checkpoint: look at it, then resume or roll back");
        } else {
            self.rollout.hold_until = Some(later(self.s.now, self.rollout.rules.checkpoint_pause));
        }
    }

    fn pause(&mut self, by: &str) {
        let by = by.to_owned();
        self.turn.waits.push(Wait::RolloutPaused { by: by.clone() });
        self.rollout.state = RolloutState::Paused { by };
    }
}
