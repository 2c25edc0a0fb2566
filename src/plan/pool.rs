//! Pools that can't be seen though their host can: inactive, refused, or being refreshed. The guests there live on, count and
//! serve; nothing is done that needs a disk of theirs, or that would make one.
//!
//! A guest there that is off is started all the same, and one that is on may be restarted: its domain names its disks by their
//! paths, so that libvirt needs no pool for it, and nothing is lost if they are not there.

use crate::inventory::HostSeen;
use crate::names::Label;
use crate::plan::Situation;
use crate::plan::action::{Action, Step};
use crate::plan::report::Wait;

fn seen<'a>(s: Situation<'a>, host: &Label) -> Option<&'a HostSeen> {
    s.inventory.host(host)?.seen()
}

/// Whether the host was seen, and its pool was not.
pub(super) fn is_unseen(s: Situation<'_>, host: &Label) -> bool {
    seen(s, host).is_some_and(|seen| seen.pool_unseen.is_some())
}

/// Pools that could not be seen, in the declared order of their hosts.
pub(super) fn waits(s: Situation<'_>) -> Vec<Wait> {
    let hosts = s.set.hosts().filter_map(|(_, host)| {
        let reason = seen(s, &host.name)?.pool_unseen.clone()?;
        Some((host, reason))
    });
    hosts
        .map(|(host, reason)| Wait::PoolUnseen {
            host: host.name.clone(),
            pool: host.pool.clone(),
            reason,
            instances: (s.record.known.iter())
                .filter(|(_, k)| k.confirmed && k.host == host.name)
                .map(|(id, _)| *id)
                .collect(),
        })
        .collect()
}

/// Whether an action needs the pool of the host it is on.
const fn needs_pool(action: &Action) -> bool {
    match action {
        Action::PushImage { .. }
        | Action::Create(_)
        | Action::Rework { .. }
        | Action::Migrate { .. }
        | Action::Settle { .. }
        | Action::Delete { .. }
        | Action::DeleteVolume { .. }
        | Action::DeleteImage { .. } => true,
        Action::Start(_)
        | Action::Stop { .. }
        | Action::Restart { .. }
        | Action::Protect { .. }
        | Action::Renote { .. }
        | Action::DropCopy { .. } => false,
    }
}

/// The other host that an action concerns.
const fn other_host(action: &Action) -> Option<&Label> {
    match action {
        Action::Migrate { spec, .. } => Some(&spec.host),
        Action::Settle { to, .. } => Some(to),
        _ => None,
    }
}

/// Takes out every step that needs a pool which can't be seen.
pub(super) fn spare(s: Situation<'_>, steps: &mut Vec<Step>) {
    if s.inventory.hosts.iter().all(|h| !is_unseen(s, &h.name)) {
        return;
    }
    steps.retain(|step| {
        let hosts = std::iter::once(&step.host).chain(other_host(&step.action));
        !needs_pool(&step.action) || hosts.into_iter().all(|host| !is_unseen(s, host))
    });
}
