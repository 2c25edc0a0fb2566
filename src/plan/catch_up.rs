//! A record that is older than the hosts, as after a store was restored from a backup, is brought level: what the lost record
//! had made is taken in, and what was under way when the backup was made is given up.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::epoch::Epoch;
use crate::inventory::{Instance, Inventory, Phase};
use crate::names::{InstanceId, Label, instance_name};
use crate::ownership::{Strangeness, sort_out};
use crate::record::Record;
use crate::request::{Request, Verb};
use crate::rollout::RolloutState;
use crate::warrants::Cause;

/// What is taken over, and what is lost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CatchUp {
    /// Instances that the record does not have, or that were changed since, by id.
    pub taken: Vec<Taken>,
    /// Instances that the record lists, and that are gone.
    pub gone: Vec<InstanceId>,
    /// The capacity from then on.
    pub capacity: u32,
    /// The capacity so far.
    pub capacity_before: u32,
    /// The id that the next instance gets.
    pub next_id: InstanceId,
    /// What was under way when the backup was made, and is given up.
    pub given_up: Vec<&'static str>,
}

/// An instance that is taken over from the hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// Which.
    pub id: InstanceId,
    /// Where.
    pub host: Label,
    /// The revision that its note names.
    pub revision: u32,
    /// Whether the record has that revision.
    pub has_revision: bool,
    /// Whether the record does not have it yet.
    pub is_new: bool,
    /// Whether it is half made or half deleted: it goes.
    pub is_half: bool,
    /// What its note says that it is protected from.
    pub protection: crate::inventory::Protection,
}

/// Why a record can't be brought level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// It is level.
    Level,
    /// Several domains say that they are the same instance, or have the same UUID.
    Twice(InstanceId, Vec<Label>),
    /// A domain's note has another instance's disk in it: it lies.
    Lies {
        /// The instance that it says it is.
        id: InstanceId,
        /// Where it is.
        host: Label,
        /// The disk.
        disk: String,
    },
}

/// Brings `record` level with what was seen on all hosts, `capacity` given or as many as live then.
///
/// # Errors
/// Why that can't be: then the record is unchanged.
pub fn catch_up(
    record: &mut Record,
    inventory: &Inventory,
    capacity: Option<u32>,
    (by, now): (&str, jiff::Timestamp),
    drawn: uuid::Uuid,
) -> Result<CatchUp, Stuck> {
    let mut inventory = inventory.clone();
    sort_out(record, &mut inventory);
    if !inventory.odd.is_record_old() {
        return Err(Stuck::Level);
    }
    let newer = newer(record, &inventory);
    let lie =
        (newer.iter()).find_map(|(host, instance)| Some((host, instance.id, instance.anothers_disk()?)));
    if let Some((host, id, disk)) = lie {
        let (host, disk) = ((*host).clone(), disk.to_owned());
        return Err(Stuck::Lies { id, host, disk });
    }
    let mut places: BTreeMap<InstanceId, Vec<Label>> = BTreeMap::new();
    let doubles = inventory
        .odd
        .doubles
        .iter()
        .map(|d| (d.id, d.places.iter().map(|p| p.host.clone())));
    for (id, hosts) in doubles {
        places.entry(id).or_default().extend(hosts);
    }
    for (host, instance) in &newer {
        places.entry(instance.id).or_default().push((*host).clone());
    }
    if let Some((id, hosts)) = places.into_iter().find(|(_, hosts)| hosts.len() > 1) {
        return Err(Stuck::Twice(id, hosts));
    }
    let before = record.clone();
    let mut taken: Vec<Taken> = (newer.iter())
        .map(|(host, instance)| taken_of(&before, host, instance))
        .collect();
    taken.sort_by_key(|t| t.id);
    let mut count = record.epoch.count;
    for (host, instance) in &newer {
        record.take_in(instance, host);
        let of_host = record.applied.hosts().find(|(_, h)| h.name == **host);
        if let (Some((domain, _)), Some(known)) = (of_host, record.known.get(&instance.id)) {
            let (domain, mut known) = (domain.clone(), known.clone());
            known.fault_domain = domain;
            record.known.insert(instance.id, known);
        }
        match instance.meta.phase {
            // The lost record had it deleted, and an operator has seen now that it goes on.
            Phase::Deleting => {
                let cause = Cause::UnfinishedDeletion;
                record
                    .warrants
                    .issue(host, instance.id, instance.uuid, cause, now);
            }
            _ => {
                record.warrants.withdraw(host, instance.id);
            }
        }
        count = count.max(instance.meta.epoch.map_or(0, |e| e.count));
    }
    let given_up = give_up(record, by);
    record.epoch = Epoch {
        count,
        ..record.epoch
    }
    .next(drawn);
    sort_out(record, &mut inventory);
    record.absorb(&inventory);
    let gone = (before.known.iter())
        .filter(|(id, known)| known.confirmed && !record.known.contains_key(id))
        .map(|(id, _)| *id)
        .collect();
    let halves: BTreeSet<InstanceId> = taken.iter().filter(|t| t.is_half).map(|t| t.id).collect();
    let live = (record.known.iter())
        .filter(|(id, k)| k.confirmed && !halves.contains(id))
        .count();
    let capacity = capacity.unwrap_or_else(|| u32::try_from(live).unwrap_or(u32::MAX));
    record.ask_for(capacity, || Request::of(Verb::State, by, now));
    Ok(CatchUp {
        taken,
        gone,
        capacity: record.capacity,
        capacity_before: before.capacity,
        next_id: record.next_id,
        given_up,
    })
}

/// What notes say was made or changed under a later record, with the host of each.
fn newer<'a>(record: &Record, inventory: &'a Inventory) -> Vec<(&'a Label, &'a Instance)> {
    let odd = &inventory.odd;
    let is_later = |i: &Instance| i.meta.epoch.is_some_and(|e| e.count > record.epoch.count);
    let strangers = odd.aside().filter(|(host, instance)| {
        let stranger = (odd.strangers.iter()).find(|s| s.host == **host && s.uuid == instance.uuid);
        let has_its_name = instance.name == instance_name(&record.applied.name, instance.id);
        stranger.is_some_and(|s| match s.why {
            Strangeness::Beyond => has_its_name,
            Strangeness::Forgotten => has_its_name && is_later(instance),
            _ => false,
        })
    });
    let members = odd.newer.iter().filter_map(|sight| {
        let host = inventory.host(&sight.host)?;
        let instance = host.seen()?.instances.iter().find(|i| i.id == sight.id)?;
        Some((&host.name, instance))
    });
    strangers.chain(members).collect()
}

fn taken_of(before: &Record, host: &Label, instance: &Instance) -> Taken {
    let meta = &instance.meta;
    let revision = before.revision(meta.revision);
    Taken {
        id: instance.id,
        host: host.clone(),
        revision: meta.revision,
        has_revision: revision.is_some_and(|r| r.hash == meta.model_hash),
        is_new: !before.known.contains_key(&instance.id),
        is_half: matches!(meta.phase, Phase::Creating | Phase::Deleting),
        protection: meta.protection,
    }
}

/// Gives up what was under way when the backup was made: the lost record has ended it, one way or another.
fn give_up(record: &mut Record, by: &str) -> Vec<&'static str> {
    let mut given_up = Vec::new();
    if let Some(rollout) = record.rollout.as_mut().filter(|r| r.is_open()) {
        rollout.state = RolloutState::Cancelled { by: by.to_owned() };
        rollout.batch = None;
        given_up.push("the rollout");
    }
    if !record.repair.under_way.is_empty() || record.repair.asked.is_some() {
        record.repair.under_way.clear();
        record.repair.asked = None;
        given_up.push("repairs under way");
    }
    if !record.condemned.is_empty() {
        record.condemned.clear();
        given_up.push("deletions by hand");
    }
    record.leaving.clear();
    given_up
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{DRAWN, Scene, at, label};
    use crate::rollout::Rollout;
    use crate::scaleset::Upgrade;

    const BY: &str = "ann@ops1";

    /// A set of three: of these the restored record knows the first, as it was, and one that is gone; its rollout was open.
    fn restored() -> Scene {
        let mut scene = Scene::new(&[1, 1]);
        scene.add("d0h0", 1);
        scene.add("d1h0", 2);
        scene.record.capacity = 2;
        scene.record.epoch = Epoch { count: 5, drawn: 5 };
        let rollout = Rollout::new(1, (1, 1), Upgrade::default(), BY.into(), at(0));
        scene.record.rollout = Some(rollout);
        let backup = scene.record.clone();
        for (host, id) in [("d0h0", 3), ("d1h0", 4)] {
            scene.add(host, id).meta.epoch = Some(Epoch { count: 9, drawn: 9 });
        }
        scene.host("d1h0").instances.retain(|i| i.id != InstanceId(2));
        scene.host("d0h0").instances[0].meta.epoch = Some(Epoch { count: 8, drawn: 8 });
        scene.record = backup;
        scene.record.known.get_mut(&InstanceId(1)).unwrap().epoch = Some(Epoch { count: 2, drawn: 2 });
        scene
    }

    fn level(scene: &mut Scene, capacity: Option<u32>) -> Result<CatchUp, Stuck> {
        catch_up(&mut scene.record, &scene.inventory, capacity, (BY, at(1)), DRAWN)
    }

    #[test]
    fn a_note_with_the_disks_of_another_instance_is_not_taken_over() {
        let mut scene = restored();
        let of_the_first = scene.host("d0h0").instances[0].uuid;
        let disks = vec![crate::names::volume_name(
            &label("web"),
            InstanceId(1),
            of_the_first,
            "os",
            "qcow2",
        )];
        let forged = scene
            .host("d1h0")
            .instances
            .iter_mut()
            .find(|i| i.id == InstanceId(4))
            .unwrap();
        forged.meta.volumes = disks.clone();
        let before = scene.record.clone();
        let lies = Stuck::Lies {
            id: InstanceId(4),
            host: label("d1h0"),
            disk: disks[0].clone(),
        };
        assert_eq!(level(&mut scene, None), Err(lies));
        assert_eq!(scene.record, before);
    }

    #[test]
    fn a_restored_record_is_brought_level_and_nothing_is_left_to_do() {
        let mut scene = restored();
        assert!(
            scene.clone().plan().steps.is_empty(),
            "before that nothing is done"
        );
        let done = level(&mut scene, None).unwrap();
        let ids: Vec<(u64, bool)> = done.taken.iter().map(|t| (t.id.0, t.is_new)).collect();
        assert_eq!(ids, [(1, false), (3, true), (4, true)]);
        assert_eq!(
            (done.gone, done.capacity, done.next_id),
            (vec![InstanceId(2)], 3, InstanceId(5))
        );
        assert_eq!(done.given_up, ["the rollout"]);
        assert!(scene.record.epoch.count > 9, "above every note's");
        let plan = scene.plan();
        assert_eq!(plan.steps, []);
        assert!(scene.inventory.odd.is_empty(), "{:?}", scene.inventory.odd);
        assert_eq!(plan.report.seen, 3);
        assert_eq!(level(&mut scene, None), Err(Stuck::Level));
    }

    #[test]
    fn a_capacity_may_be_given_instead() {
        let mut scene = restored();
        assert_eq!(level(&mut scene, Some(7)).unwrap().capacity, 7);
        assert_eq!(scene.record.capacity, 7);
    }

    #[test]
    fn a_revision_that_was_lost_is_shown_as_such_and_its_number_is_given_to_no_other() {
        let mut scene = restored();
        for instance in &mut scene.host("d1h0").instances {
            (instance.meta.revision, instance.meta.model_hash) = (6, "lost".into());
        }
        let done = level(&mut scene, None).unwrap();
        let lost: Vec<u64> = (done.taken.iter())
            .filter(|t| !t.has_revision)
            .map(|t| t.id.0)
            .collect();
        assert_eq!(lost, [4]);
        assert_eq!(scene.plan().steps, [], "outdated ones stay until somebody asks");
        let mut model = scene.record.current().model.clone();
        model.vcpus += 1;
        assert_eq!(scene.record.adopt_model(model, at(2)), 7);
    }

    #[test]
    fn what_the_lost_record_left_half_done_is_finished() {
        let mut scene = restored();
        scene.host("d0h0").instances[1].meta.phase = Phase::Creating;
        scene.host("d1h0").instances[0].meta.phase = Phase::Deleting;
        let done = level(&mut scene, None).unwrap();
        assert_eq!(done.capacity, 1);
        assert_eq!(done.taken.iter().filter(|t| t.is_half).count(), 2);
        let plan = scene.plan();
        let deleted: Vec<&str> = plan.steps.iter().map(|s| s.action.verb()).collect();
        assert_eq!(deleted, ["delete", "delete"]);
    }

    #[test]
    fn an_instance_that_is_there_twice_is_for_a_person_to_decide() {
        let mut scene = restored();
        let copy = scene.host("d1h0").instances[0].clone();
        scene.host("d0h0").instances.push(copy);
        let before = scene.record.clone();
        let hosts = vec![label("d0h0"), label("d1h0")];
        assert_eq!(level(&mut scene, None), Err(Stuck::Twice(InstanceId(4), hosts)));
        assert_eq!(scene.record, before);
    }
}
