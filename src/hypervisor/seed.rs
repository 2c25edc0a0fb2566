//! The seed: a small FAT volume labelled `cidata`, from which cloud-init (its NoCloud source) or anything that reads
//! the same three files takes user data, identity and addresses. Pure: bytes in, bytes out, the same every time.
//!
//! One seed serves all instances of a set's revision on a host where nothing in it differs between them; their names
//! come from the firmware's serial number then. Else every instance has its own.

mod fat;
mod network;
mod template;

use uuid::Uuid;

use crate::hypervisor::domain_xml::instance_id;
use crate::model::Model;
use crate::names::{Label, StoreId, volume_name};
use crate::plan::action::{InstanceRef, InstanceSpec};

pub use template::check_template;

/// The volume an instance's seed lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeedVolume {
    /// Nothing to tell: no user data, and DHCP on one network card at most.
    None,
    /// One that the revision's instances on this host share.
    Shared(String),
    /// Its own, deleted with it.
    Own(String),
}

impl SeedVolume {
    /// The volume's name.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Shared(name) | Self::Own(name) => Some(name),
        }
    }
}

/// Why a seed can't be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// The user data's template.
    #[error("user data: {0}")]
    Template(String),
    /// The volume itself.
    #[error("seed: {0}")]
    Volume(String),
}

/// Which seed an instance of this model has.
pub fn volume(spec: &InstanceSpec, model: &Model) -> SeedVolume {
    let own = || SeedVolume::Own(volume_name(&spec.set, spec.id, spec.uuid, "seed", "img"));
    let several = model.networks.len() > 1;
    let fixed = spec.addresses.iter().any(Option::is_some);
    match &model.user_data {
        // A network configuration names cards by their MACs. Without one cloud-init brings up the first card only.
        _ if fixed || several => own(),
        Some(user_data) if template::is_template(&user_data.template) => own(),
        Some(_) => SeedVolume::Shared(shared_name(
            spec.store,
            &spec.set,
            spec.revision,
            &spec.model_hash,
        )),
        None => SeedVolume::None,
    }
}

/// `vmss-seed-<set>-r<revision>-<store's tag>-<model>.img`. The tag proves store, set and revision; the model's hash
/// keeps two contents apart should a store that was rebuilt ever give a revision's number twice.
pub fn shared_name(store: StoreId, set: &Label, revision: u32, model_hash: &str) -> String {
    let model: String = model_hash.chars().take(8).collect();
    format!(
        "vmss-seed-{set}-r{revision}-{}-{model}.img",
        tag(store, set, revision)
    )
}

/// The revision, if `name` is one that [`shared_name`] gives for this store and set.
pub fn parse_shared_name(store: StoreId, set: &Label, name: &str) -> Option<u32> {
    let rest = name
        .strip_prefix("vmss-seed-")?
        .strip_prefix(set.as_str())?
        .strip_prefix("-r")?;
    let (revision, rest) = rest.split_once('-')?;
    let revision: u32 = revision.parse().ok()?;
    let (tagged, model) = rest.strip_suffix(".img")?.split_once('-')?;
    let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    (tagged == tag(store, set, revision) && !model.is_empty() && model.chars().all(hex)).then_some(revision)
}

/// Whether the volume is, by its name, the instance's seed: its own, or one that it shares, whoever had that made.
pub fn is_seed_of(instance: &InstanceRef, volume: &str) -> bool {
    volume == volume_name(&instance.set, instance.id, instance.uuid, "seed", "img")
        || (volume.starts_with(&format!("vmss-seed-{}-r", instance.set)) && volume.ends_with(".img"))
}

fn tag(store: StoreId, set: &Label, revision: u32) -> String {
    let proof = Uuid::new_v5(&store.0, format!("{set}/r{revision}").as_bytes());
    proof.simple().to_string()[..8].to_owned()
}

/// The seed's bytes, the same every time. `None` if the instance has no seed.
///
/// # Errors
/// The user data's template fails for this instance, or the volume can't be made.
pub fn contents(spec: &InstanceSpec, model: &Model) -> Result<Option<Vec<u8>>, SeedError> {
    let seed = volume(spec, model);
    if seed == SeedVolume::None {
        return Ok(None);
    }
    let user_data = match &model.user_data {
        Some(user_data) => template::render(user_data, spec).map_err(SeedError::Template)?,
        None => "#cloud-config\n".to_owned(),
    };
    let mut files = vec![("user-data", user_data)];
    match seed {
        SeedVolume::Own(_) => {
            let name = spec.name();
            let id = instance_id(spec);
            files.push((
                "meta-data",
                format!("instance-id: \"{id}\"\nlocal-hostname: \"{name}\"\n"),
            ));
            files.push(("network-config", network::config(spec, model)));
        }
        // Both files must exist; name and id come from the serial number.
        _ => files.push(("meta-data", "{}\n".to_owned())),
    }
    fat::volume(&files)
        .map(Some)
        .map_err(|e| SeedError::Volume(e.to_string()))
}

#[cfg(test)]
mod tests;
