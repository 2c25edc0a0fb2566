//! An instance's volumes: what they are called, and how they are made.

use uuid::Uuid;

use super::call::{Call, Result};
use super::create::not_ours;
use super::machine::{Content, Machine, Volume};
use crate::hypervisor::{FaultKind, HypervisorError, Stage};
use crate::model::Model;
use crate::names::volume_name;
use crate::plan::action::InstanceSpec;
use crate::units::Bytes;

/// What a thin disk takes before its guest has written to it.
pub(super) const THIN: Bytes = Bytes(256 << 10);
/// What a seed takes.
const SEED: Bytes = Bytes(512 << 10);

/// Where an instance's seed lies.
pub(super) struct Seed {
    pub volume: String,
    pub is_shared: bool,
}

/// Its disks in order: name and size.
pub(super) fn disks(spec: &InstanceSpec, model: &Model) -> Vec<(String, Bytes)> {
    let name = |part: &str| volume_name(&spec.set, spec.id, spec.uuid, part, "qcow2");
    let os = (name("os"), model.disk.max(model.image.virtual_size));
    let data = model.data_disks.iter();
    std::iter::once(os)
        .chain(data.map(|d| (name(d.name.as_str()), d.size)))
        .collect()
}

pub(super) fn make(
    machine: &mut Machine,
    name: String,
    allocation: Bytes,
    content: Content,
    backing: Option<String>,
) -> Result<()> {
    let doing = format!("creating volume {name}");
    let there = machine.volumes.get(&name);
    if there.is_some_and(|v| v.content == Content::Foreign) {
        return Err(not_ours(&doing, "a volume of that name is there"));
    }
    // What an interrupted attempt left is replaced.
    let freed = there.map_or(Bytes(0), |v| v.allocation);
    if allocation > machine.pool_free() + freed {
        return Err(HypervisorError::new(
            FaultKind::NoSpace,
            doing,
            "no space left on device",
        ));
    }
    let volume = Volume {
        name: name.clone(),
        allocation,
        content,
        backing,
    };
    machine.volumes.insert(name, volume);
    Ok(())
}

/// One seed serves a revision unless something in it differs between instances.
pub(super) fn seed(spec: &InstanceSpec, model: &Model) -> Seed {
    let is_template = |text: &str| ["{{", "{%", "{#"].iter().any(|tag| text.contains(tag));
    let differs = spec.addresses.iter().any(Option::is_some)
        || model.user_data.as_ref().is_some_and(|u| is_template(&u.template));
    let proof = Uuid::new_v5(
        &spec.store.0,
        format!("{}/r{}", spec.set, spec.revision).as_bytes(),
    );
    Seed {
        volume: if differs {
            volume_name(&spec.set, spec.id, spec.uuid, "seed", "img")
        } else {
            let tag = &proof.simple().to_string()[..8];
            format!(
                "vmss-seed-{}-r{}-{tag}-{}.img",
                spec.set, spec.revision, spec.model_hash
            )
        },
        is_shared: !differs,
    }
}

/// Two steps, for a kill between them leaves a volume whose content is not what its name says.
pub(super) fn write_seed(call: &Call<'_>, spec: &InstanceSpec, seed: &Seed) -> Result<()> {
    let content = |whole| {
        if seed.is_shared {
            Content::SharedSeed {
                set: spec.set.clone(),
                store: spec.store,
                revision: spec.revision,
                whole,
            }
        } else {
            Content::Seed { whole }
        }
    };
    let volume = &seed.volume;
    let looking = format!("looking for volume {volume}");
    let there = call.look(&looking, |m| {
        Ok(m.volumes.get(volume).map(|v| v.content == content(true)))
    })?;
    if seed.is_shared && there == Some(true) {
        return Ok(());
    }
    // Somebody may be writing the shared one just now: that it is made twice does no harm, half of it would.
    if there.is_none() || !seed.is_shared {
        call.step(Stage::Seed, &format!("make volume {volume}"), |m| {
            let is_whole = m.volumes.get(volume).is_some_and(|v| v.content == content(true));
            if seed.is_shared && is_whole {
                return Ok(());
            }
            make(m, volume.clone(), SEED, content(false), None)
        })?;
    }
    call.step(Stage::Seed, &format!("write volume {volume}"), |m| {
        let there = m.volumes.get_mut(volume).ok_or_else(|| {
            HypervisorError::new(
                FaultKind::Missing,
                format!("writing volume {volume}"),
                "it has gone",
            )
        })?;
        there.content = content(true);
        Ok(())
    })
}
