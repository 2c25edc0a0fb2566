//! Changing one instance in place: how much it takes, whether that is within what was asked for, and the steps for it.

use std::sync::Arc;

use serde::Serialize;

use crate::inventory::{HostSeen, Instance, Rework};
use crate::model::{Disruption, Model};
use crate::names::{Label, mac_address};
use crate::plan::action::{Action, InstanceSpec, Step};
use crate::plan::loss::{Disks, noted_disks};
use crate::plan::{Member, Situation};
use crate::record::{Record, Revision};
use crate::request::Limits;
use crate::scaleset::{Method, Upgrade};

/// How much an instance takes to become another model, and why so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// What is done to it.
    pub class: Disruption,
    /// Why no less.
    pub because: Because,
}

/// Why a change takes as much as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Because {
    /// The keys that differ need it.
    Change,
    /// `upgrade.method` says so.
    Method,
    /// `upgrade.max_unavailable` is 0: what may never be missing is changed by putting another in its place first.
    NoneToSpare,
    /// The record does not know what it is made of, so that nothing of it can be relied on.
    Unknown,
    /// Its host has no room for what it is to become.
    NoRoom,
}

/// What forbids a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// `--at-most`, which was typed.
    AtMost(Disruption),
    /// A change never does more by itself than its own keys need.
    Own,
    /// `upgrade.method = "reimage"` keeps the instances.
    Method,
    /// Data disks go only where somebody has said so.
    DataDisks,
}

/// How much a change from one model to another takes by `rules`, wherever the instance is. `own` is `None` if nobody knows
/// what the instance is made of. The one place that says it, for the planner and for whatever tells of it beforehand.
pub fn need(own: Option<&Model>, to: &Model, rules: &Upgrade) -> Need {
    let (class, because) = match own {
        Some(own) => (own.disruption(to), Because::Change),
        None => (Disruption::Replace, Because::Unknown),
    };
    let (class, because) = match rules.method {
        Method::Reimage if class < Disruption::Reimage => (Disruption::Reimage, Because::Method),
        Method::Replace if class < Disruption::Replace => (Disruption::Replace, Because::Method),
        _ => (class, because),
    };
    if class > Disruption::Live && class < Disruption::Replace && rules.max_unavailable.is_zero() {
        return Need {
            class: Disruption::Replace,
            because: Because::NoneToSpare,
        };
    }
    Need { class, because }
}

impl Need {
    /// What forbids it within `limits`, for an instance that has data disks or none.
    pub fn beyond(self, limits: Limits, rules: &Upgrade, has_data_disks: bool) -> Option<Limit> {
        if let Some(most) = limits.at_most.filter(|most| self.class > *most) {
            return Some(Limit::AtMost(most));
        }
        if self.class < Disruption::Replace || limits.allows_replacing() || rules.method == Method::Replace {
            return None;
        }
        match self.because {
            Because::NoRoom => Some(Limit::Own),
            _ if rules.method == Method::Reimage => Some(Limit::Method),
            _ => has_data_disks.then_some(Limit::DataDisks),
        }
    }
}

/// How much a member takes to become `target` where it is.
pub(super) fn needs(s: Situation<'_>, member: &Member<'_>, target: &Revision, rules: &Upgrade) -> Need {
    let own = own_model(s.record, member.instance);
    if own.is_none() && member.instance.meta.model_hash == target.hash {
        let (class, because) = (Disruption::None, Because::Change);
        return Need { class, because };
    }
    let need = need(own, &target.model, rules);
    let grows = own.is_some_and(|own| !fits(s, member, own, &target.model));
    if grows && matches!(need.class, Disruption::Restart | Disruption::Reimage) {
        // Its host has no room for what it is to become: it could only become that elsewhere.
        return Need {
            class: Disruption::Replace,
            because: Because::NoRoom,
        };
    }
    need
}

/// What an instance is made of, if the record knows it.
pub(crate) fn own_model<'a>(record: &'a Record, instance: &Instance) -> Option<&'a Model> {
    let revision = record.revision(instance.meta.revision)?;
    (revision.hash == instance.meta.model_hash).then_some(&revision.model)
}

/// The data disks that an instance has.
pub(crate) fn data_disks(record: &Record, instance: &Instance) -> Disks {
    match own_model(record, instance) {
        Some(model) => Disks::of(model),
        None => Disks::noted(&instance.meta),
    }
}

/// Whether an instance that is made anew of `to` where it is would lose a data disk: what is not a disk of the model is deleted.
/// Where the record does not know what it is made of, its own note names its disks.
pub(crate) fn loses_disks(record: &Record, instance: &Instance, to: &Model) -> bool {
    let has = |name: &str| to.data_disks.iter().any(|d| d.name.as_str() == name);
    match own_model(record, instance) {
        Some(own) => own.data_disks.iter().any(|d| !has(d.name.as_str())),
        None => noted_disks(&instance.meta).any(|name| !has(name)),
    }
}

/// Whether the member's host can carry it with another model, in place of what it has now.
fn fits(s: Situation<'_>, member: &Member<'_>, own: &Model, to: &Model) -> bool {
    let Some(seen) = s.inventory.host(member.host).and_then(|h| h.seen()) else {
        return true;
    };
    if to.memory <= own.memory && to.vcpus <= own.vcpus {
        return true;
    }
    let without = HostSeen {
        used_memory: seen.used_memory.saturating_sub(own.memory),
        used_vcpus: seen.used_vcpus.saturating_sub(own.vcpus),
        ..seen.clone()
    };
    super::placement::room(&without, to, &s.set.placement).instances > 0
}

/// Adds the steps that change a member in place: its image first where it is not yet.
pub(super) fn rework(
    s: Situation<'_>,
    member: &Member<'_>,
    target: &Revision,
    how: Rework,
    why: Arc<str>,
    steps: &mut Vec<Step>,
) {
    let digest = &target.model.image.digest;
    let is_pushed = |step: &Step| {
        &step.host == member.host && matches!(&step.action, Action::PushImage { digest: d } if d == digest)
    };
    let has_image = (s.inventory.host(member.host).and_then(|h| h.seen()))
        .is_some_and(|seen| seen.bases.contains(digest));
    if how == Rework::Reimage && !has_image && !steps.iter().any(is_pushed) {
        steps.push(Step {
            host: member.host.clone(),
            action: Action::PushImage {
                digest: digest.clone(),
            },
            why: "instances will be made of it here, and it is not there yet".into(),
        });
    }
    let shutdown = if member.instance.power == crate::inventory::Power::Running {
        s.set.scale_in.shutdown
    } else {
        std::time::Duration::ZERO
    };
    steps.push(Step {
        host: member.host.clone(),
        action: Action::Rework {
            spec: Box::new(spec(s, member, target)),
            how,
            shutdown,
        },
        why,
    });
}

/// The member as it will be on another host.
pub(super) fn elsewhere(
    s: Situation<'_>,
    member: &Member<'_>,
    revision: &Revision,
    domain: &Label,
    host: &Label,
) -> InstanceSpec {
    InstanceSpec {
        host: host.clone(),
        fault_domain: domain.clone(),
        ..spec(s, member, revision)
    }
}

/// The member as an instance of `revision`: everything that is not the model's stays.
fn spec(s: Situation<'_>, member: &Member<'_>, revision: &Revision) -> InstanceSpec {
    let meta = &member.instance.meta;
    let cards = revision.model.networks.len();
    // What vmss gave it; a note is evidence only.
    let known = s.record.known.get(&member.id);
    let mut addresses = known.map_or(&meta.addresses, |k| &k.addresses).clone();
    addresses.resize(cards, None);
    InstanceSpec {
        set: s.set.name.clone(),
        store: s.record.store,
        id: member.id,
        uuid: member.instance.uuid,
        host: member.host.clone(),
        fault_domain: meta.fault_domain.clone(),
        revision: revision.number,
        model_hash: revision.hash.clone(),
        image: revision.model.image.digest.clone(),
        created_at: meta.created_at,
        macs: (0..cards)
            .map(|nic| mac_address(&s.set.name, member.id, member.instance.uuid, nic))
            .collect(),
        addresses,
        protection: meta.protection,
        epoch: s.record.epoch,
    }
}
