//! The forecast: `plan` folded over an inventory that is assumed to obey. What `vmss plan` prints, and what shows that
//! every start converges.

use std::collections::HashMap;

use serde::Serialize;

use crate::health::Sign;
use crate::inventory::{Answer, HostSeen, Instance, Inventory, Phase, Power, View};
use crate::membership::{BalancerSeen, Sight};
use crate::model::{Clone as CloneMode, Model};
use crate::names::{InstanceId, Label};
use crate::plan::action::{Action, InstanceRef, InstanceSpec, Step};
use crate::plan::loss::Losses;
use crate::plan::report::Report;
use crate::plan::{Plan, Situation, plan};
use crate::record::Record;

/// Every batch to the end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Batches in order; none of them empty.
    pub batches: Vec<Vec<Step>>,
    /// How the set will stand, and what it will wait on.
    pub end: Report,
    /// What will be gone for good.
    pub losses: Losses,
}

/// More batches than any plan of this house makes, beside those of a rollout: reaching it means that planning runs in a
/// circle.
const MOST_BATCHES: usize = 100;

/// Looks without a step that a rollout may take in a row: for its pauses, and until what is new has become healthy.
const MOST_LOOKS: usize = 50;

/// Plans to the end, or to a bound that no honest plan reaches. New instances are assumed to become healthy at once,
/// and pauses to pass.
pub fn forecast(s: Situation<'_>) -> Forecast {
    let mut record = s.record.clone();
    let mut inventory = s.inventory.clone();
    for balancer in &mut inventory.balancers {
        // Connections are assumed to end at once, as health is to come.
        if balancer.seen().is_some() {
            balancer.sight = Sight::Seen(BalancerSeen::default());
        }
    }
    let mut now = s.now;
    let mut batches = Vec::new();
    let mut losses = Losses::default();
    let mut looks = 0;
    let most = MOST_BATCHES + 4 * record.capacity as usize;
    loop {
        let Plan {
            steps,
            report,
            rollout,
            repair,
            lost,
            again,
            leaving,
            ..
        } = plan(Situation {
            record: &record,
            inventory: &inventory,
            now,
            ..s
        });
        let seen = record.rollout.clone();
        let steered = rollout.is_some_and(|next| record.steer(seen.as_ref(), next));
        let waits = again.is_some() || steered || !lost.is_empty();
        record.repair = repair.unwrap_or(record.repair);
        record.write_off(&lost, now);
        record.note_leaving(&leaving, now);
        if steps.is_empty() && (!waits || looks == MOST_LOOKS) || batches.len() == most {
            return Forecast {
                batches,
                end: report,
                losses,
            };
        }
        if steps.is_empty() {
            looks += 1;
            now = again.unwrap_or(now).max(now);
        } else {
            looks = 0;
            losses.note(&steps, &record, &inventory);
            record.reserve(&steps, s.drawn, now);
            obey(&mut inventory, &steps, |revision| {
                record.revision(revision).map(|r| &r.model)
            });
            record.absorb(&inventory);
            batches.push(steps);
        }
        get_well(&mut inventory, &record);
        record.heed(&inventory, &s.set.health, now);
    }
}

/// What is starting answers well. What ails already is not assumed to mend by itself.
fn get_well(inventory: &mut Inventory, record: &Record) {
    let is_new = |id: &InstanceId| record.vitals.get(id).is_none_or(|v| v.sign == Sign::Starting);
    inventory.answers = (inventory.instances())
        .filter(|i| i.power == Power::Running && is_new(&i.id))
        .map(|i| (i.id, Answer::Assumed))
        .collect();
}

/// The inventory after `steps`, if every one of them succeeds.
pub fn obey<'m>(inventory: &mut Inventory, steps: &[Step], model: impl Fn(u32) -> Option<&'m Model>) {
    let mut hosts: HashMap<Label, &mut HostSeen> = (inventory.hosts.iter_mut())
        .filter_map(|h| match &mut h.view {
            View::Seen(seen) => Some((h.name.clone(), seen)),
            View::Unseen { .. } => None,
        })
        .collect();
    for step in steps {
        if let Action::Migrate { instance, spec } = &step.action {
            go_over(&mut hosts, &step.host, instance, spec, &model);
            continue;
        }
        let Some(host) = hosts.get_mut(&step.host) else {
            continue;
        };
        match &step.action {
            Action::PushImage { digest } => {
                host.bases.insert(digest.clone());
                host.remains.remove(digest);
            }
            Action::Create(spec) => {
                if let Some(model) = model(spec.revision) {
                    appear(host, spec, model);
                }
            }
            Action::Rework { spec, .. } => {
                let old = host
                    .instances
                    .iter()
                    .find(|i| i.uuid == spec.uuid)
                    .map(|i| i.meta.revision);
                if let (Some(to), Some(from)) = (model(spec.revision), old) {
                    become_another(host, spec, model(from).unwrap_or(to), to);
                }
            }
            // Gone over above; where a move that was cut short has left an instance can't be foreseen.
            Action::Migrate { .. } | Action::Settle { .. } => {}
            Action::Start(instance) | Action::Restart { instance, .. } => {
                if let Some(i) = host.instances.iter_mut().find(|i| i.uuid == instance.uuid) {
                    (i.power, i.meta.stopped) = (Power::Running, false);
                }
            }
            Action::Stop { instance, .. } => {
                if let Some(i) = host.instances.iter_mut().find(|i| i.uuid == instance.uuid) {
                    (i.power, i.meta.stopped) = (Power::Off, true);
                }
            }
            Action::Protect { instance, protection } => {
                if let Some(i) = host.instances.iter_mut().find(|i| i.uuid == instance.uuid) {
                    i.meta.protection = *protection;
                }
            }
            Action::Delete { instance, .. } => {
                if let Some(at) = host.instances.iter().position(|i| i.uuid == instance.uuid) {
                    let gone = host.instances.remove(at);
                    host.volumes.retain(|v| !v.is_of(gone.id, gone.uuid));
                    if let Some(model) = model(gone.meta.revision) {
                        host.used_memory = host.used_memory.saturating_sub(model.memory);
                        host.used_vcpus = host.used_vcpus.saturating_sub(model.vcpus);
                    }
                }
            }
            Action::DropCopy { instance, .. } => {
                // Seen only once it is the only one: of two copies one was set aside.
                host.instances.retain(|i| i.uuid != instance.uuid);
            }
            // Brought level: it is neither moved nor old any more.
            Action::Renote {
                instance,
                fault_domain,
            } => {
                if let Some(i) = host.instances.iter_mut().find(|i| i.uuid == instance.uuid) {
                    (i.meta.host, i.meta.fault_domain) = (step.host.clone(), fault_domain.clone());
                    (i.meta.phase, i.meta.epoch) = (Phase::Ready, Some(instance.epoch));
                    i.meta.moving_to = None;
                }
                inventory.odd.levelled(instance.id);
            }
            Action::DeleteVolume { volume, .. } => {
                host.volumes.retain(|v| v.name != *volume);
                host.seeds.retain(|(_, v)| v != volume);
            }
            Action::DeleteImage { digest } => {
                host.bases.remove(digest);
                host.remains.remove(digest);
            }
        }
    }
}

fn go_over<'m>(
    hosts: &mut HashMap<Label, &mut HostSeen>,
    from: &Label,
    instance: &InstanceRef,
    spec: &InstanceSpec,
    model: &impl Fn(u32) -> Option<&'m Model>,
) {
    if !hosts.contains_key(&spec.host) {
        return;
    }
    let Some(source) = hosts.get_mut(from) else { return };
    let Some(at) = source.instances.iter().position(|i| i.uuid == instance.uuid) else {
        return;
    };
    let mut moved = source.instances.remove(at);
    source.volumes.retain(|v| !v.is_of(moved.id, moved.uuid));
    let of = model(moved.meta.revision);
    if let Some(model) = of {
        source.used_memory = source.used_memory.saturating_sub(model.memory);
        source.used_vcpus = source.used_vcpus.saturating_sub(model.vcpus);
    }
    (moved.meta.host, moved.meta.fault_domain) = (spec.host.clone(), spec.fault_domain.clone());
    if let Some(target) = hosts.get_mut(&spec.host) {
        if let Some(model) = of {
            target.used_memory = target.used_memory + model.memory;
            target.used_vcpus += model.vcpus;
        }
        target.instances.push(moved);
    }
}

fn become_another(host: &mut HostSeen, spec: &InstanceSpec, from: &Model, to: &Model) {
    let Some(instance) = host.instances.iter_mut().find(|i| i.uuid == spec.uuid) else {
        return;
    };
    (instance.power, instance.vcpus) = (Power::Running, to.vcpus);
    let meta = &mut instance.meta;
    (meta.revision, meta.model_hash, meta.image, meta.phase) = (
        spec.revision,
        spec.model_hash.clone(),
        spec.image.clone(),
        Phase::Ready,
    );
    host.used_memory = host.used_memory.saturating_sub(from.memory) + to.memory;
    host.used_vcpus = host.used_vcpus.saturating_sub(from.vcpus) + to.vcpus;
}

fn appear(host: &mut HostSeen, spec: &InstanceSpec, model: &Model) {
    let mut meta = spec.metadata(Vec::new());
    meta.phase = Phase::Ready;
    host.instances.push(Instance {
        id: spec.id,
        name: spec.name(),
        uuid: spec.uuid,
        power: Power::Running,
        vcpus: model.vcpus,
        meta,
    });
    host.used_memory = host.used_memory + model.memory;
    host.used_vcpus += model.vcpus;
    if model.clone == CloneMode::Full {
        host.pool_free = host.pool_free.saturating_sub(model.disk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Epoch;
    use crate::plan::testing::Scene;

    /// One that was restored from a backup, and one that somebody has moved.
    #[test]
    fn a_note_that_is_written_anew_is_written_once() {
        let mut scene = Scene::new(&[1, 1]);
        scene.record.capacity = 2;
        scene.add("d0h0", 1);
        scene.add("d1h0", 2);
        scene.absorb();
        for known in scene.record.known.values_mut() {
            known.epoch = Some(Epoch { count: 5, drawn: 5 });
        }
        for host in ["d0h0", "d1h0"] {
            scene.host(host).instances[0].meta.epoch = Some(Epoch { count: 5, drawn: 5 });
        }
        scene.host("d0h0").instances[0].meta.epoch = Some(Epoch { count: 3, drawn: 3 });
        let elsewhere = crate::plan::testing::label("d0h0");
        scene.record.known.get_mut(&InstanceId(2)).unwrap().host = elsewhere.clone();
        scene.host("d1h0").instances[0].meta.host = elsewhere;
        crate::ownership::sort_out(&scene.record, &mut scene.inventory);
        assert_eq!(scene.inventory.odd.older.len(), 1, "the first was restored");
        assert_eq!(scene.inventory.odd.moved.len(), 1, "the second was moved");
        let forecast = forecast(scene.situation());
        let steps: Vec<&Step> = forecast.batches.iter().flatten().collect();
        assert_eq!(forecast.batches.len(), 1, "{steps:?}");
        assert!(
            steps.iter().all(|s| matches!(s.action, Action::Renote { .. })),
            "{steps:?}"
        );
        assert!(forecast.end.waits.is_empty(), "{:?}", forecast.end.waits);
    }
}
