//! Moving a running instance: the steps that [`crate::hypervisor::Hosts::migrate`] promises, in its order.

use super::call::{Call, Result};
use super::create::{base, fits};
use super::machine::{Content, Domain, Volume};
use super::observe;
use super::owned::{in_phase, not_moving, not_ours, owned, renote};
use super::power::set_power;
use super::volumes::{make_copy, seed, write_seed};
use crate::hypervisor::seed::is_seed_of;
use crate::hypervisor::{FaultKind, HypervisorError, Settled, Stage};
use crate::inventory::{Metadata, Phase, Power};
use crate::model::{Firmware, Model};
use crate::names::{Label, volume_name};
use crate::plan::action::{InstanceRef, InstanceSpec};
use crate::units::Bytes;

/// An instance and the two hosts it is between.
pub(super) struct Way<'a> {
    pub here: &'a Call<'a>,
    pub there: &'a Call<'a>,
    pub to: &'a Label,
    pub uris: (&'a str, &'a str),
    pub instance: &'a InstanceRef,
}

impl Way<'_> {
    fn doing(&self) -> String {
        format!("moving {} to {}", self.instance.name, self.to)
    }

    fn refuse(&self, kind: FaultKind, why: impl Into<String>) -> HypervisorError {
        HypervisorError::new(kind, self.doing(), why)
    }

    fn domain(&self, on: &Call<'_>) -> Result<Option<(Domain, Metadata)>> {
        let doing = self.doing();
        on.look(&doing, |m| {
            Ok(owned(m, self.instance, &doing)?.map(|(d, meta)| (d.clone(), meta.clone())))
        })
    }
}

pub(super) fn migrate(way: &Way<'_>, spec: &InstanceSpec, model: &Model) -> Result<()> {
    let (here, there, name, doing) = (way.here, way.there, &way.instance.name, way.doing());
    here.stage(Stage::Define);
    if settle(way)? == Settled::Moved {
        return Ok(());
    }
    let before = in_phase(here, way.instance, &[Phase::Ready], &doing)?;
    if model.firmware == Firmware::Uefi {
        let text = "it has UEFI firmware, whose variables would stay behind";
        return Err(way.refuse(FaultKind::Unsupported, text));
    }
    if (before.revision, &before.model_hash) != (spec.revision, &spec.model_hash) {
        let text = format!("it is of revision {}, not {}", before.revision, spec.revision);
        return Err(way.refuse(FaultKind::Other, text));
    }
    let disks: Vec<Volume> = here.look(&doing, |m| {
        let power = m.by_uuid(way.instance.uuid).map(|d| d.power);
        if power != Some(Power::Running) {
            return Err(way.refuse(FaultKind::Other, "it is not running"));
        }
        let disks = before.volumes.iter().filter(|v| !v.ends_with("-seed.img"));
        let own: Option<Vec<&Volume>> = disks.map(|v| m.volumes.get(v)).collect();
        let own =
            own.ok_or_else(|| way.refuse(FaultKind::Missing, "one of its volumes is not in the pool"))?;
        Ok(own
            .into_iter()
            .filter(|v| v.content == Content::Disk)
            .cloned()
            .collect())
    })?;
    let folder = |on: &Call<'_>| on.look(&doing, |m| Ok(m.folder));
    if let (Some(one), Some(other)) = (folder(here)?, folder(there)?)
        && one == other
    {
        return Err(way.refuse(
            FaultKind::Unsupported,
            "both hosts have their disks in one folder",
        ));
    }
    there.refresh(&doing)?;
    there.look(&doing, |m| {
        if m.domains.contains_key(name) {
            return Err(not_ours(&doing, "a domain of that name is there"));
        }
        if let Some(volume) = before.volumes.iter().find(|v| m.volumes.contains_key(*v)) {
            return Err(not_ours(
                &doing,
                &format!("the pool has a volume {volume} already"),
            ));
        }
        fits(m, spec, model)?;
        base(m, spec, &doing)?;
        let needed: Bytes = disks.iter().map(|d| d.allocation).sum();
        if needed > m.pool_free() {
            return Err(way.refuse(FaultKind::NoSpace, "its disks find no room in the pool"));
        }
        Ok(())
    })?;
    let noting = format!("note that {name} moves to {}", way.to);
    here.step(Stage::Define, &noting, |m| {
        renote(m, way.instance, &noting, |meta| {
            meta.moving_to = Some(way.to.clone())
        })
    })?;
    match (go_over(way, spec, model, &disks), settle(way)) {
        (_, Ok(Settled::Moved)) => Ok(()),
        (Err(error), _) | (Ok(()), Err(error)) => Err(error),
        (Ok(()), Ok(Settled::Stayed)) => Err(way.refuse(FaultKind::Other, "it is where it was")),
    }
}

/// Everything until all of it has arrived, and is held.
fn go_over(way: &Way<'_>, spec: &InstanceSpec, model: &Model, disks: &[Volume]) -> Result<()> {
    let (here, there, name) = (way.here, way.there, &way.instance.name);
    there.stage(Stage::Disks);
    for disk in disks {
        let doing = format!("make volume {}", disk.name);
        there.step(Stage::Disks, &doing, |m| make_copy(m, spec, disk))?;
    }
    there.stage(Stage::Seed);
    write_seed(there, spec, &seed(spec, model))?;
    here.stage(Stage::Migrate);
    let total = disks.iter().map(|d| d.allocation).sum::<Bytes>().0;
    here.bytes(0, total);
    here.step(Stage::Migrate, &format!("hold {name}"), |m| {
        set_power(m, way.instance.uuid, Power::Paused);
        Ok(())
    })?;
    here.bytes(total, total);
    let Some((mut domain, before)) = way.domain(here)? else {
        return Err(way.refuse(FaultKind::Missing, "it has gone"));
    };
    domain.meta = Some(Metadata {
        host: way.to.clone(),
        fault_domain: spec.fault_domain.clone(),
        moving_to: Some(way.to.clone()),
        ..before
    });
    // What it only reads lies in the seed that was made there.
    domain.disks.retain(|v| !is_seed_of(way.instance, v));
    domain.disks.push(seed(spec, model).volume);
    domain.held.clear();
    domain.unopened.clear();
    domain.console.clear();
    domain.meter.moved();
    there.last_step(Stage::Migrate, &format!("receive {name}"), |m| {
        m.domains.insert(name.clone(), domain);
        Ok(())
    })
}

/// It does not stop when asked to: half settled is worse than late.
pub(super) fn settle(way: &Way<'_>) -> Result<Settled> {
    let (name, doing) = (&way.instance.name, way.doing());
    let leaving = way.domain(way.here)?;
    let arrived = way.domain(way.there)?;
    let is_done =
        |(domain, meta): &(Domain, Metadata)| meta.moving_to.is_none() || domain.power == Power::Running;
    match (leaving, arrived) {
        (None, None) => Err(way.refuse(FaultKind::Missing, "it is on neither host")),
        (None, Some((_, meta))) if meta.moving_to.is_none() => Ok(Settled::Moved),
        (None, Some((_, meta))) => arrive(way, &meta),
        (Some((_, meta)), arrived) if meta.moving_to.as_ref() != Some(way.to) => {
            not_moving(&meta, &doing)?;
            match arrived {
                None => Ok(Settled::Stayed),
                Some(_) => Err(way.refuse(FaultKind::Other, "it is on both hosts and was not being moved")),
            }
        }
        (Some((domain, _)), Some(done)) if is_done(&done) && domain.power == Power::Running => {
            Err(way.refuse(FaultKind::Other, "it runs on both hosts"))
        }
        (Some((domain, _)), Some(there)) if is_done(&there) || domain.power == Power::Paused => {
            undefine(way.here, way.instance)?;
            arrive(way, &there.1)
        }
        (Some((domain, meta)), arrived) => {
            if arrived.is_some() {
                undefine(way.there, way.instance)?;
            }
            delete_volumes((way.there, way.uris.1), way.instance, &meta)?;
            if domain.power == Power::Paused {
                let_go(way.here, way.instance)?;
            }
            let noting = format!("note that {name} stays");
            way.here.last_step(Stage::Define, &noting, |m| {
                renote(m, way.instance, &noting, |meta| meta.moving_to = None)
            })?;
            Ok(Settled::Stayed)
        }
    }
}

/// Has the guest go on where it is alone now, and takes away what is left where it was.
fn arrive(way: &Way<'_>, meta: &Metadata) -> Result<Settled> {
    let name = &way.instance.name;
    let is_held = way
        .domain(way.there)?
        .is_some_and(|(d, _)| d.power == Power::Paused);
    if is_held {
        let_go(way.there, way.instance)?;
    }
    if meta.moving_to.is_some() {
        let noting = format!("note that {name} has arrived");
        way.there.last_step(Stage::Define, &noting, |m| {
            renote(m, way.instance, &noting, |meta| meta.moving_to = None)
        })?;
    }
    way.here.stage(Stage::DeleteDisks);
    delete_volumes((way.here, way.uris.0), way.instance, meta)?;
    Ok(Settled::Moved)
}

fn let_go(on: &Call<'_>, instance: &InstanceRef) -> Result<()> {
    on.last_step(Stage::Migrate, &format!("let {} go on", instance.name), |m| {
        set_power(m, instance.uuid, Power::Running);
        Ok(())
    })
}

fn undefine(on: &Call<'_>, instance: &InstanceRef) -> Result<()> {
    on.last_step(Stage::Undefine, &format!("undefine {}", instance.name), |m| {
        m.domains.retain(|_, d| d.uuid != instance.uuid);
        Ok(())
    })
}

/// What anybody uses, or might, stays.
fn delete_volumes((on, uri): (&Call<'_>, &str), instance: &InstanceRef, note: &Metadata) -> Result<()> {
    let looking = "looking for who uses what";
    on.refresh(looking)?;
    let uses = on.look(looking, |m| Ok(observe::uses(m)))?;
    if uses.is_shared(uri) {
        return Ok(());
    }
    let stem = volume_name(&instance.set, instance.id, instance.uuid, "", "");
    let stem = stem.trim_end_matches('.');
    for volume in note.volumes.iter().filter(|v| v.starts_with(stem)) {
        let doing = format!("delete volume {volume}");
        let is_used = uses.speaks_against(volume, None).is_some();
        if !is_used && on.look(&doing, |m| Ok(m.volumes.contains_key(volume)))? {
            on.last_step(Stage::DeleteDisks, &doing, |m| {
                m.volumes.remove(volume);
                Ok(())
            })?;
        }
    }
    Ok(())
}
