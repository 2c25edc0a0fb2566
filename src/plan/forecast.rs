//! The forecast: `plan` folded over an inventory that is assumed to obey. What `vmss plan` prints, and what shows that
//! every start converges.

use std::collections::HashMap;

use serde::Serialize;

use crate::inventory::{HostSeen, Instance, Inventory, Phase, Power, View};
use crate::model::{Clone as CloneMode, Model};
use crate::names::Label;
use crate::plan::action::{Action, InstanceSpec, Step};
use crate::plan::report::Report;
use crate::plan::{Plan, Situation, plan};

/// Every batch to the end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Batches in order; none of them empty.
    pub batches: Vec<Vec<Step>>,
    /// How the set will stand, and what it will wait on.
    pub end: Report,
}

/// More batches than any plan of this house makes: reaching it means that planning runs in a circle.
const MOST_BATCHES: usize = 100;

/// Plans to the end, or to [`MOST_BATCHES`].
pub fn forecast(s: Situation<'_>) -> Forecast {
    let mut record = s.record.clone();
    let mut inventory = s.inventory.clone();
    let mut batches = Vec::new();
    loop {
        let Plan { steps, report } = plan(Situation {
            record: &record,
            inventory: &inventory,
            ..s
        });
        if steps.is_empty() || batches.len() == MOST_BATCHES {
            return Forecast { batches, end: report };
        }
        record.reserve(&steps);
        obey(&mut inventory, &steps, |revision| {
            record.revision(revision).map(|r| &r.model)
        });
        record.absorb(&inventory);
        batches.push(steps);
    }
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
            Action::Start(instance) => {
                if let Some(i) = host.instances.iter_mut().find(|i| i.id == instance.id) {
                    i.power = Power::Running;
                }
            }
            Action::Delete { instance, .. } => {
                if let Some(at) = host.instances.iter().position(|i| i.uuid == instance.uuid) {
                    let gone = host.instances.swap_remove(at);
                    if let Some(model) = model(gone.meta.revision) {
                        host.used_memory = host.used_memory.saturating_sub(model.memory);
                        host.used_vcpus = host.used_vcpus.saturating_sub(model.vcpus);
                    }
                }
            }
            Action::DeleteVolume { volume } => {
                host.leftovers.retain(|v| v != volume);
                host.seeds.retain(|(_, v)| v != volume);
            }
            Action::DeleteImage { digest } => {
                host.bases.remove(digest);
                host.remains.remove(digest);
            }
        }
    }
}

fn appear(host: &mut HostSeen, spec: &InstanceSpec, model: &Model) {
    let mut meta = spec.metadata(Vec::new());
    meta.phase = Phase::Ready;
    host.instances.push(Instance {
        id: spec.id,
        uuid: spec.uuid,
        power: Power::Running,
        meta,
    });
    host.used_memory = host.used_memory + model.memory;
    host.used_vcpus += model.vcpus;
    if model.clone == CloneMode::Full {
        host.pool_free = host.pool_free.saturating_sub(model.disk);
    }
}
