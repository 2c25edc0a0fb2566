//! The proofs before a deletion: who uses what, read anew for each batch, on every host that has its disks in the same folder.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::execute::{HOLDS, Proof, Proofs};
use crate::hypervisor::{FaultKind, Hosts, HypervisorError, Pulse, Uses};
use crate::inventory::Rework;
use crate::names::{Label, PoolMark, StoreId};
use crate::observe::ask_all;
use crate::plan::action::{Action, Step};
use crate::scaleset::{Host, ScaleSet};
use crate::world::World;

/// Whether a step takes something away for good.
fn takes(action: &Action) -> bool {
    match action {
        Action::Delete { .. } | Action::DeleteVolume { .. } | Action::DeleteImage { .. } => true,
        Action::Rework { how, .. } => *how != Rework::Live,
        _ => false,
    }
}

/// What is known just now of the files in use on each host from which `steps` take something. Nothing is read if they take
/// nothing. `stores` are those whose marks are the set's: its own, and those that had it before.
pub fn gather(world: &World, set: &ScaleSet, stores: &[StoreId], steps: &[Step]) -> BTreeMap<Label, Proof> {
    let wanted: BTreeSet<&Label> = (steps.iter())
        .filter(|step| takes(&step.action))
        .map(|step| &step.host)
        .collect();
    read(&*world.hosts, set, stores, wanted)
}

/// The same for whoever carries the steps out: read now, and again while that lasts.
pub fn of_batch(world: &World, set: &ScaleSet, stores: &[StoreId], steps: &[Step]) -> Arc<Proofs> {
    let found = gather(world, set, stores, steps);
    let (hosts, set, stores) = (Arc::clone(&world.hosts), set.clone(), stores.to_vec());
    let again = move |name: &Label| {
        let wanted = set.host(name).map(|host| &host.name);
        let mut found = read(&*hosts, &set, &stores, wanted.into_iter().collect());
        found.remove(name).unwrap_or_else(|| {
            let text = format!("host {name} is not in the definition");
            Err(HypervisorError::new(
                FaultKind::Missing,
                "looking for who uses what",
                text,
            ))
        })
    };
    Arc::new(Proofs::new(found, Arc::new(again), HOLDS))
}

/// The proofs of those hosts, and of all that share a folder with one of them.
fn read<'s>(
    all: &dyn Hosts,
    set: &'s ScaleSet,
    stores: &[StoreId],
    mut wanted: BTreeSet<&'s Label>,
) -> BTreeMap<Label, Proof> {
    let mut found: BTreeMap<Label, Result<Uses, HypervisorError>> = BTreeMap::new();
    let is_of = |mark: &PoolMark, host: &Host| stores.iter().any(|s| *mark == PoolMark::new(*s, &host.uri));
    // Whose folder a pool is shows only once it was looked at: those that share it are read in a second round.
    while !wanted.is_empty() {
        let hosts: Vec<&Host> = wanted.iter().filter_map(|name| set.host(name)).collect();
        let open = hosts.iter().map(|h| (all.host(h, &set.limits), ())).collect();
        let answers = ask_all(open, set.limits.call_timeout.saturating_mul(2), |host, ()| {
            host.uses(&Pulse::silent())
        });
        for (host, answer) in hosts.iter().zip(answers) {
            found.insert(host.name.clone(), answer);
        }
        let marks: BTreeSet<&PoolMark> = (found.values())
            .filter_map(|uses| uses.as_ref().ok())
            .flat_map(|uses| &uses.marks)
            .collect();
        wanted = (set.hosts())
            .filter(|(_, host)| !found.contains_key(&host.name) && marks.iter().any(|m| is_of(m, host)))
            .map(|(_, host)| &host.name)
            .collect();
    }
    let joined = |name: &Label| -> Result<Uses, HypervisorError> {
        let mut uses = found[name].clone()?;
        let sharing = (set.hosts())
            .filter(|(_, host)| host.name != *name && uses.marks.iter().any(|m| is_of(m, host)))
            .map(|(_, host)| &host.name)
            .collect::<Vec<_>>();
        for other in sharing {
            match &found[other] {
                Ok(theirs) => uses.join(theirs),
                Err(error) => {
                    let text = format!(
                        "host {other} has its disks in the same folder, and can't tell which it uses: {}",
                        error.message
                    );
                    return Err(HypervisorError::new(
                        FaultKind::InUse,
                        "looking for who uses what",
                        text,
                    ));
                }
            }
        }
        Ok(uses)
    };
    (found.keys())
        .map(|name| {
            let own = set.host(name);
            let uses = joined(name).map(|uses| {
                let is_shared = uses.marks.iter().any(|m| !own.is_some_and(|own| is_of(m, own)));
                (uses, is_shared)
            });
            (name.clone(), uses)
        })
        .collect()
}
