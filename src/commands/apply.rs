//! `vmss apply`: makes a changed definition count, as far as that needs no change of running instances.

use std::collections::BTreeSet;

use crate::commands::Context;
use crate::converge::{amend, look};
use crate::error::{Error, Exit, Result};
use crate::model::Model;
use crate::names::Label;
use crate::record::Life;
use crate::scaleset::ScaleSet;

/// Applies the definition.
pub fn run(ctx: &Context<'_>) -> Result<Exit> {
    let target = ctx.target()?;
    let Some(set) = target.definition.clone() else {
        return Err(Error::message(
            Exit::Usage,
            "apply needs the definition: name it with -f FILE",
        ));
    };
    if target.record.life == Life::Deleting {
        return Err(
            Error::message(Exit::Blocked, format!("the set {} is being deleted", set.name))
                .hint("finish that with vmss delete"),
        );
    }
    let model = ctx.model(&set)?;
    refuse_model_change(&set.name, &target.record.current().model, &model)?;

    let held = ctx.hold(&target.store, &set.name, &format!("apply {}", set.name))?;
    let (record, _) = amend(&*target.store, &set.name, |_| false)?;
    let inventory = look(ctx.world, &record.applied, &record);
    let (record, _) = amend(&*target.store, &set.name, |record| record.absorb(&inventory))?;
    refuse_lost_hosts(
        &record.applied,
        &set,
        &record.known.values().map(|k| &k.host).collect(),
    )?;

    let keys = changed_keys(&record.applied, &set);
    if keys.is_empty() {
        ctx.say(format!("{}: the definition is applied already", set.name));
    } else {
        ctx.say(format!("{}: applying {}", set.name, keys.join(", ")));
    }
    if record.capacity != set.capacity {
        ctx.say(format!(
            "note: capacity stays {} (the definition says {}); vmss scale {} changes it",
            record.capacity, set.capacity, set.capacity
        ));
    }
    let file = ctx.file();
    amend(&*target.store, &set.name, |record| {
        record.applied = set.clone();
        record.definition.clone_from(&file);
        true
    })?;
    let operation = ctx.operation(&set.name, "apply", Some(record.capacity), Some(record.capacity));
    let ending = ctx.converge(&target.store, &held, &operation)?;
    Ok(ctx.conclude(&set.name, "apply", &ending))
}

/// A change of the model can't be applied to running instances: refuses it, naming each key.
pub fn refuse_model_change(set: &Label, now: &Model, wanted: &Model) -> Result<()> {
    let keys = now.differences(wanted);
    if keys.is_empty() {
        return Ok(());
    }
    Err(Error::message(
        Exit::Blocked,
        format!("the definition changes what the instances of {set} are made of: {}", keys.join(", ")),
    )
    .hint("running instances can't be changed by this version: put these keys back, or delete the set and create it"))
}

/// A host may leave the definition only when nothing of the set is on it, or its instances would be out of reach.
fn refuse_lost_hosts(applied: &ScaleSet, wanted: &ScaleSet, in_use: &BTreeSet<&Label>) -> Result<()> {
    let lost: Vec<&str> = (applied.hosts())
        .map(|(_, h)| &h.name)
        .filter(|name| wanted.host(name).is_none() && in_use.contains(name))
        .map(Label::as_str)
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(Error::message(
        Exit::Blocked,
        format!(
            "the definition drops hosts that have instances of the set: {}",
            lost.join(", ")
        ),
    )
    .hint("keep them until their instances are gone (scale in), then apply again"))
}

/// Keys outside the model in which two definitions differ. Capacity is not one: the record holds it.
pub fn changed_keys(applied: &ScaleSet, wanted: &ScaleSet) -> Vec<&'static str> {
    let mut keys = Vec::new();
    let mut note = |differs: bool, key| {
        if differs {
            keys.push(key);
        }
    };
    note(applied.image != wanted.image, "image");
    note(applied.instance != wanted.instance, "instance");
    note(applied.fault_domains != wanted.fault_domains, "fault_domains");
    note(applied.placement != wanted.placement, "placement");
    note(applied.limits != wanted.limits, "limits");
    note(applied.scale_in != wanted.scale_in, "scale_in");
    note(applied.health != wanted.health, "health");
    note(applied.upgrade != wanted.upgrade, "upgrade");
    note(applied.repair != wanted.repair, "repair");
    note(applied.state != wanted.state, "state");
    keys
}
