//! Seeds in the pool.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::connection::lock;
use super::transfer;
use super::volume_xml;
use super::volumes::Pool;
use crate::hypervisor::seed::{self, SeedVolume};
use crate::hypervisor::{FaultKind, HypervisorError};
use crate::model::Model;
use crate::plan::action::InstanceSpec;

/// The shared seeds that this process has found to be right, or made: those that are still there need not be read back.
/// One lock each, so that of several instances made at once one writes the seed and the others wait for it.
#[derive(Default)]
pub struct Checked(Mutex<HashMap<String, Arc<Mutex<bool>>>>);

/// Sees to the instance's seed.
pub fn provide(
    pool: &Pool<'_, '_>,
    checked: &Checked,
    spec: &InstanceSpec,
    model: &Model,
) -> Result<(), HypervisorError> {
    let bytes = contents(spec, model)?;
    match (seed::volume(spec, model), bytes) {
        (SeedVolume::Own(name), Some(bytes)) => write(pool, &name, &bytes),
        (SeedVolume::Shared(name), Some(bytes)) => share(pool, checked, &name, &bytes),
        _ => Ok(()),
    }
}

/// Whether the instance's seed can be made.
///
/// # Errors
/// `Unsupported`: what in its user data is wrong.
pub fn check(spec: &InstanceSpec, model: &Model) -> Result<(), HypervisorError> {
    contents(spec, model).map(|_| ())
}

fn contents(spec: &InstanceSpec, model: &Model) -> Result<Option<Vec<u8>>, HypervisorError> {
    seed::contents(spec, model).map_err(|e| {
        HypervisorError::new(
            FaultKind::Unsupported,
            format!("making the seed of {}", spec.name()),
            e.to_string(),
        )
    })
}

/// Forgets a seed that was deleted, so that the next instance makes it anew.
pub fn forget(checked: &Checked, name: &str) {
    lock(&checked.0).remove(name);
}

fn share(pool: &Pool<'_, '_>, checked: &Checked, name: &str, bytes: &[u8]) -> Result<(), HypervisorError> {
    let mine = Arc::clone(lock(&checked.0).entry(name.to_owned()).or_default());
    let mut right = lock(&mine);
    let Some(volume) = pool.find(name)? else {
        // Another process may have swept what this one had found to be right.
        *right = false;
        write(pool, name, bytes)?;
        *right = true;
        return Ok(());
    };
    if *right {
        return Ok(());
    }
    // It may be what a killed upload left.
    let simulated = pool.session().traits()?.simulated;
    let doing = pool.doing("reading back volume", name);
    if !simulated && !transfer::holds(pool.session(), &volume, bytes, &doing)? {
        // Guests that have it open keep the old file.
        write(pool, name, bytes)?;
    }
    *right = true;
    Ok(())
}

fn write(pool: &Pool<'_, '_>, name: &str, bytes: &[u8]) -> Result<(), HypervisorError> {
    let volume = pool.replace(name, volume_xml::raw(name, bytes.len() as u64))?;
    if pool.session().traits()?.simulated {
        return Ok(());
    }
    transfer::upload_bytes(
        pool.session(),
        &volume,
        bytes,
        &pool.doing("writing volume", name),
    )
}
