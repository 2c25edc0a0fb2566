//! Changing one instance in place: how much it takes, and the steps for it.

use std::sync::Arc;

use crate::inventory::{HostSeen, Rework};
use crate::model::{Disruption, Model};
use crate::names::{Label, mac_address};
use crate::plan::action::{Action, InstanceSpec, Step};
use crate::plan::{Member, Situation};
use crate::record::Revision;
use crate::scaleset::Method;

/// What brings a member to `target`.
pub(super) fn class_of(
    s: Situation<'_>,
    member: &Member<'_>,
    target: &Revision,
    method: Method,
) -> Disruption {
    let needed = match own_model(s, member) {
        Some(model) => model.disruption(&target.model),
        // A store that was made again does not know what the instance was made of: nothing of it can be relied on.
        None if member.instance.meta.model_hash != target.hash => Disruption::Replace,
        None => Disruption::None,
    };
    let class = match method {
        Method::Auto => needed,
        Method::Reimage => needed.max(Disruption::Reimage),
        Method::Replace => Disruption::Replace,
    };
    let grows = own_model(s, member).is_some_and(|own| !fits(s, member, own, &target.model));
    if grows && matches!(class, Disruption::Restart | Disruption::Reimage) {
        // Its host has no room for what it is to become: it can only become that elsewhere.
        return Disruption::Replace;
    }
    class
}

fn own_model<'a>(s: Situation<'a>, member: &Member<'_>) -> Option<&'a Model> {
    let revision = s.record.revision(member.instance.meta.revision)?;
    (revision.hash == member.instance.meta.model_hash).then_some(&revision.model)
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
