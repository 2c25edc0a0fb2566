//! An instance's volumes: what they are called, and how they are made.

use uuid::Uuid;

use super::call::{Call, Result};
use super::create::base;
use super::machine::{Content, Machine, Volume};
use super::owned::not_ours;
use crate::hypervisor::{FaultKind, HypervisorError, Stage};
use crate::model::{Clone as CloneMode, ImageDigest, Model};
use crate::names::volume_name;
use crate::plan::action::InstanceSpec;
use crate::units::Bytes;

/// What a thin disk takes before its guest has written to it.
const THIN: Bytes = Bytes(256 << 10);
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
        .chain(data.map(|d| (name(&format!("data-{}", d.name)), d.size)))
        .collect()
}

/// Every volume that is its own.
pub(super) fn owned_volumes(spec: &InstanceSpec, model: &Model, seed: &Seed) -> Vec<String> {
    let disks = disks(spec, model).into_iter().map(|(volume, _)| volume);
    let own = (!seed.is_shared).then(|| seed.volume.clone());
    disks.chain(own).collect()
}

/// A volume as it is made.
struct New {
    allocation: Bytes,
    size: Bytes,
    content: Content,
    backing: Option<String>,
    image: Option<ImageDigest>,
}

fn make(machine: &mut Machine, name: &str, new: New) -> Result<()> {
    let doing = format!("creating volume {name}");
    let there = machine.volumes.get(name);
    if there.is_some_and(|v| v.content == Content::Foreign) {
        return Err(not_ours(&doing, "a volume of that name is there"));
    }
    // What an interrupted attempt left is replaced.
    let freed = there.map_or(Bytes(0), |v| v.allocation);
    if new.allocation > machine.pool_free() + freed {
        return Err(HypervisorError::new(
            FaultKind::NoSpace,
            doing,
            "no space left on device",
        ));
    }
    machine.made += 1;
    let volume = Volume {
        name: name.to_owned(),
        allocation: new.allocation,
        size: new.size,
        content: new.content,
        backing: new.backing,
        image: new.image,
        serial: machine.made,
    };
    machine.volumes.insert(name.to_owned(), volume);
    Ok(())
}

/// Makes the disk at that position: the OS disk of the image, the others empty.
pub(super) fn make_disk(
    machine: &mut Machine,
    spec: &InstanceSpec,
    model: &Model,
    position: usize,
    name: &str,
    size: Bytes,
) -> Result<()> {
    let mut new = New {
        allocation: THIN,
        size,
        content: Content::Disk,
        backing: None,
        image: None,
    };
    if position == 0 {
        // Another store's prune may have taken the image since it was last looked for.
        let copy = base(machine, spec, &format!("creating volume {name}"))?.to_owned();
        new.image = Some(spec.image.clone());
        match model.clone {
            CloneMode::Full => new.allocation = size,
            CloneMode::Linked => new.backing = Some(copy),
        }
    }
    make(machine, name, new)
}

/// Makes the disk that another host's is copied to: of the same size, over this host's copy of the image.
pub(super) fn make_copy(machine: &mut Machine, spec: &InstanceSpec, of: &Volume) -> Result<()> {
    let doing = format!("creating volume {}", of.name);
    let backing = match of.backing {
        Some(_) => Some(base(machine, spec, &doing)?.to_owned()),
        None => None,
    };
    let new = New {
        allocation: of.allocation,
        size: of.size,
        content: Content::Disk,
        backing,
        image: of.image.clone(),
    };
    make(machine, &of.name, new)
}

/// Grows a disk. What its guest doesn't write takes no space.
pub(super) fn grow(machine: &mut Machine, name: &str, size: Bytes) -> Result<()> {
    let volume = machine.volumes.get_mut(name).ok_or_else(|| {
        HypervisorError::new(
            FaultKind::Missing,
            format!("growing volume {name}"),
            "it has gone",
        )
    })?;
    volume.size = size.max(volume.size);
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
            let new = New {
                allocation: SEED,
                size: SEED,
                content: content(false),
                backing: None,
                image: None,
            };
            make(m, volume, new)
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
