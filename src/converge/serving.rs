//! What a run has to do with those who send clients: it tells them, and waits for clients to leave before it does what was
//! asked for.

use std::collections::BTreeSet;

use super::tell::{self, Told};
use super::{Run, Undone, amend, amend_under, look, wait_for_change};
use crate::balancer::{BalancerError, Trouble};
use crate::error::Result;
use crate::inventory::Inventory;
use crate::membership::Membership;
use crate::names::Label;
use crate::plan::action::Step;
use crate::plan::{Release, Situation, at_rest, release};
use crate::record::Record;
use crate::scaleset::ScaleSet;
use crate::serve;
use crate::store::{Lease, Store};
use crate::world::World;

/// How often a load balancer may be missed in a run, though it was seen right before, until it counts as one that fails.
const MOST_MISSED: u32 = 3;

/// Leaves nothing of the set in what its definition has dropped, and forgets what knows the set no more. Returns what could
/// not be told, and why.
///
/// # Errors
/// The store can't be written to.
pub fn drop_the_dropped(
    world: &World,
    store: &dyn Store,
    record: &Record,
) -> Result<Vec<(String, BalancerError)>> {
    let mut untold = Vec::new();
    for dropped in &record.dropped {
        let failed = serve::drop_from(world, &record.applied, dropped);
        if failed.is_empty() {
            amend(store, &record.applied.name, |record| {
                let before = record.dropped.len();
                record.dropped.retain(|other| other != dropped);
                record.dropped.len() != before
            })?;
        }
        untold.extend(failed);
    }
    Ok(untold)
}

impl Run<'_> {
    /// Carries out what was asked for, each step once nobody is connected to its instance. Returns what was not done.
    pub(super) fn carry_out_asked(
        &mut self,
        store: &dyn Store,
        lease: &Lease,
        set: &Label,
        asked: &[Step],
        told: &mut Told,
    ) -> Result<Vec<Undone>> {
        let mut left = asked.to_vec();
        let mut undone = Vec::new();
        while !left.is_empty() {
            store.renew(lease, self.world.clock.now())?;
            let (record, version) = amend(store, set, |_| false)?;
            let scale_set = record.applied.clone();
            let inventory = if scale_set.is_served() {
                look(self.world, store, &scale_set, &record)
            } else {
                Inventory::default()
            };
            let now = self.world.clock.now();
            let situation = Situation {
                set: &scale_set,
                record: &record,
                inventory: &inventory,
                experience: &self.experience,
                now,
                drawn: (self.world.draw)(),
            };
            let release = if scale_set.is_served() {
                release(situation, &left)
            } else {
                Release {
                    steps: std::mem::take(&mut left),
                    ..Release::default()
                }
            };
            if self.world.interrupt.is_set() && !release.held.is_empty() {
                let (_, _) = amend(store, set, |record| record.note_leaving(&BTreeSet::new(), now))?;
                self.serve(&scale_set, &inventory, at_rest(situation).as_ref());
                undone.extend(left.into_iter().map(Undone::Left));
                break;
            }
            let (record, _) = amend_under(store, lease, set, |record| {
                record.note_leaving(&release.leaving, now)
                    | record.reserve(&release.steps, situation.drawn, now)
            })?;
            tell::left(set, &release.left, self.listener);
            if !self.serve(&scale_set, &inventory, release.membership.as_ref()) {
                continue;
            }
            if !release.steps.is_empty() {
                undone.extend(self.carry_out(&record, &release.steps));
            }
            left = release.held;
            match release.again {
                _ if left.is_empty() => {}
                Some(at) if release.steps.is_empty() => {
                    told.waits(&release.waits, self.listener);
                    wait_for_change(self.world, store, set, version, at, &**self.listener)?;
                }
                Some(_) => {}
                None => {
                    left.clear();
                    undone.extend(release.waits.into_iter().map(Undone::Barred));
                }
            }
        }
        Ok(undone)
    }

    /// Leaves nothing of the set in what its definition has dropped. `true` if some of that failed just now.
    pub(super) fn drop_what_is_dropped(&mut self, store: &dyn Store, record: &Record) -> Result<bool> {
        let mut has_failed = false;
        for (who, e) in drop_the_dropped(self.world, store, record)? {
            has_failed |= self.experience.dropped.insert(who, e.to_string()).is_none();
        }
        Ok(has_failed)
    }

    /// Tells load balancers and discovery files who takes clients. `false` if one of them failed just now.
    pub(super) fn serve(
        &mut self,
        set: &ScaleSet,
        inventory: &Inventory,
        membership: Option<&Membership>,
    ) -> bool {
        let Some(membership) = membership else { return true };
        // Those that were not seen would only cost their time again.
        let unseen = inventory.balancers.iter().filter(|b| b.seen().is_none());
        let unseen: Vec<String> = unseen.map(|b| serve::called(&b.name)).collect();
        let (failed, bystanders) = (&self.experience.balancers, &self.experience.bystanders);
        let told = serve::bring(self.world, set, membership, |who| {
            failed.contains_key(who) || bystanders.contains_key(who) || unseen.iter().any(|name| name == who)
        });
        let mut all_well = true;
        for told in told {
            match told.result {
                Ok(changes) => tell::changes(&told.who, &changes, self.listener),
                Err(e) => {
                    let missed = self.missed.entry(told.who.clone()).or_default();
                    *missed += 1;
                    // One that has just gone out of sight shows in the next observation.
                    if e.kind == Trouble::Refused || *missed >= MOST_MISSED {
                        let place = match told.leads_clients {
                            true => &mut self.experience.balancers,
                            false => &mut self.experience.bystanders,
                        };
                        place.insert(told.who, e.to_string());
                        all_well = false;
                    }
                }
            }
        }
        all_well
    }
}
