//! Ranges of addresses against those of the store's other sets: no two may hand out the same on one network.

use crate::commands::Context;
use crate::error::{Error, Exit, Result};
use crate::names::Label;
use crate::ranges::{Overlap, overlap};
use crate::record::Record;
use crate::scaleset::ScaleSet;
use crate::store::Store;

/// Where `set` and another set of its store would hand out the same addresses.
fn overlaps(store: &dyn Store, set: &ScaleSet) -> Result<Vec<(Label, Overlap)>> {
    if set.instance.networks.iter().all(|nic| nic.addresses.is_none()) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for other in store.sets()?.into_iter().filter(|other| *other != set.name) {
        if let Some((record, _)) = store.get(&other)?
            && let Some(shared) = overlap(&set.instance.networks, &record.applied.instance.networks)
        {
            found.push((other, shared));
        }
    }
    Ok(found)
}

/// Refuses a definition whose addresses another set of the store hands out. What two sets share since before this was
/// looked at, as `record` has it, is only said: addresses that one has given out the other leaves out.
///
/// # Errors
/// With both ranges' common part and the other set's name; and what the store says.
pub fn check(ctx: &Context<'_>, store: &dyn Store, set: &ScaleSet, record: Option<&Record>) -> Result<()> {
    for (other, shared) in overlaps(store, set)? {
        let before = match (record, store.get(&other)?) {
            (Some(record), Some((other, _))) => overlap(
                &record.applied.instance.networks,
                &other.applied.instance.networks,
            ),
            _ => None,
        };
        if before.is_some_and(|before| shared.is_part_of(&before)) {
            ctx.say(format!(
                "note: the set {other} hands out {shared} too: what it has given out is left out here; better give one of them \
                 a range of its own"
            ));
            continue;
        }
        return Err(Error::message(
            Exit::Definition,
            format!("the set {other} of this store hands out {shared} already"),
        )
        .hint(
            "two sets on one network need ranges of their own: change instance.networks.addresses of one of them",
        ));
    }
    Ok(())
}

/// As [`check`], of a definition whose store may not be there yet.
///
/// # Errors
/// As [`check`]. A store that can't be opened is no fault of the definition, and says nothing here.
pub fn check_if_known(ctx: &Context<'_>, set: &ScaleSet) -> Result<()> {
    let path = (set.state.path.as_deref()).unwrap_or(&ctx.world.env.state);
    if !path.exists() {
        return Ok(());
    }
    let Ok(store) = ctx.store(Some(set)) else {
        return Ok(());
    };
    let record = store.get(&set.name).ok().flatten();
    check(ctx, &*store, set, record.as_ref().map(|(record, _)| record))
}
