//! The set's instances as a plan sees them: sorted out, counted, each with its state.

use std::collections::{BTreeMap, BTreeSet};

use crate::health::State;
use crate::inventory::{Phase, Power, Rework};
use crate::names::{InstanceId, Label, instance_name};
use crate::plan::action::{Action, InstanceRef, Step};
use crate::plan::loss::noted_disks;
use crate::plan::report::{Counts, Report, Wait};
use crate::plan::{Situation, change, drain, membership};
use crate::warrants::Cause;

/// An instance that was seen, whole (or being changed) and of this store.
#[derive(Clone, Debug)]
pub(crate) struct Member<'a> {
    pub id: InstanceId,
    pub host: &'a Label,
    /// Index of its fault domain in the set.
    pub domain: usize,
    pub instance: &'a crate::inventory::Instance,
    /// How it is.
    pub state: State,
    /// Whether it is healthy, and no load balancer that sends clients to it finds it down: what a budget may count on.
    pub serves: bool,
    /// Whether its host's pool was seen: if not, its disks are left as they are.
    pub has_pool: bool,
}

/// An instance that is known to exist on a host that could not be seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Absent {
    pub id: InstanceId,
    /// Index of its fault domain, if the set still has it.
    pub domain: Option<usize>,
    /// The revision it was last seen with.
    pub revision: Option<u32>,
}

impl Member<'_> {
    pub fn reference(&self, s: Situation<'_>) -> InstanceRef {
        reference(s, self.instance)
    }

    /// The step that deletes it.
    pub fn delete(&self, s: Situation<'_>, cause: Cause) -> Step {
        Step {
            host: self.host.clone(),
            why: cause.to_string().into(),
            action: Action::Delete {
                instance: self.reference(s),
                shutdown: self.shutdown(s),
                cause,
            },
        }
    }

    /// The step that takes its domain away, and none of its volumes.
    fn drop(&self, s: Situation<'_>, cause: Cause) -> Step {
        Step {
            host: self.host.clone(),
            why: cause.to_string().into(),
            action: Action::DropCopy {
                instance: self.reference(s),
                shutdown: self.shutdown(s),
                cause,
            },
        }
    }

    /// How long its guest may take to shut down.
    fn shutdown(&self, s: Situation<'_>) -> std::time::Duration {
        match self.instance.power {
            Power::Running => s.set.scale_in.shutdown,
            _ => std::time::Duration::ZERO,
        }
    }
}

pub(crate) fn reference(s: Situation<'_>, instance: &crate::inventory::Instance) -> InstanceRef {
    InstanceRef {
        set: s.set.name.clone(),
        store: s.record.store,
        id: instance.id,
        name: instance_name(&s.set.name, instance.id),
        uuid: instance.uuid,
        epoch: s.record.epoch,
    }
}

/// Why an instance that was seen is half made or half deleted, if it is. What the record lists as being made or deleted
/// counts, not what a note says: libvirt saves a note for the running domain before it saves it for good, so a crash can leave
/// *creating* on one that is whole. A note of a version that wrote no warrants is believed.
pub(super) fn is_half(
    s: Situation<'_>,
    host: &Label,
    instance: &crate::inventory::Instance,
) -> Option<Cause> {
    let (id, uuid) = (instance.id, instance.uuid);
    let known = s.record.knows(id, uuid);
    let is_believed = known.is_some_and(|k| k.is_carried_over);
    let is_due = s.record.warrants.covers(host, id, uuid);
    match instance.meta.phase {
        Phase::Creating if is_due => Some(Cause::UnfinishedCreation),
        // Given up with its host: it may have been whole.
        Phase::Creating if s.record.written_off.get(&id).is_some_and(|w| w.uuid == uuid) => None,
        Phase::Creating => {
            let is_being_made = known.is_none_or(|k| !k.confirmed);
            (is_being_made || is_believed).then_some(Cause::UnfinishedCreation)
        }
        Phase::Deleting => (is_due || is_believed).then_some(Cause::UnfinishedDeletion),
        // It came late, by a call that was given up: the record has seen that it was not there.
        Phase::Ready | Phase::Changing => {
            let warrant = s.record.warrants.of(host, id).filter(|w| w.uuid == uuid);
            (known.is_none() && warrant.is_some_and(|w| w.cause == Cause::UnfinishedCreation))
                .then_some(Cause::UnfinishedCreation)
        }
    }
}

/// The set's instances, sorted out.
pub(crate) struct Fleet<'a> {
    /// Seen and whole, by id.
    pub members: Vec<Member<'a>>,
    /// Known to exist on hosts that could not be seen.
    pub absent: Vec<Absent>,
    /// How many were seen half made or half deleted: they are on their way out.
    pub half: usize,
    /// Given up with their host, and there again: they count for nothing.
    pub strays: Vec<Member<'a>>,
    /// Other stores that manage instances of this name.
    pub others: BTreeSet<crate::names::StoreId>,
}

impl<'a> Fleet<'a> {
    pub fn of(s: Situation<'a>) -> Self {
        let domain_of_host: BTreeMap<&Label, usize> = (s.set.fault_domains.iter().enumerate())
            .flat_map(|(i, d)| d.hosts.iter().map(move |h| (&h.name, i)))
            .collect();
        let down = membership::seen_down(s);
        let (mut members, mut strays) = (Vec::new(), Vec::new());
        let mut half = 0;
        let mut others = BTreeSet::new();
        for host in &s.inventory.hosts {
            let has_pool = host.seen().is_some_and(|seen| seen.pool_unseen.is_none());
            for instance in host.seen().into_iter().flat_map(|h| &h.instances) {
                if instance.meta.store != s.record.store {
                    others.insert(instance.meta.store);
                } else if is_half(s, &host.name, instance).is_some() {
                    half += 1;
                } else if let Some(&domain) = domain_of_host.get(&host.name) {
                    let state = State::of(instance, s.record.vitals.get(&instance.id), &s.set.health);
                    let member = Member {
                        id: instance.id,
                        host: &host.name,
                        domain,
                        instance,
                        state,
                        serves: state == State::Healthy && !down.contains(&instance.id),
                        has_pool,
                    };
                    if s.record.written_off.contains_key(&instance.id) {
                        strays.push(member);
                    } else {
                        members.push(member);
                    }
                }
            }
        }
        members.sort_unstable_by(|a, b| (a.id, a.host).cmp(&(b.id, b.host)));
        // One that is arriving counts where it comes from, as long as it is there.
        let staying: BTreeSet<InstanceId> = (members.iter())
            .filter(|m: &&Member<'_>| !m.instance.is_arriving())
            .map(|m| m.id)
            .collect();
        members.retain(|m| !m.instance.is_arriving() || !staying.contains(&m.id));
        let seen = s.inventory.seen_hosts();
        let absent = (s.record.known.iter())
            .filter(|(_, k)| k.confirmed && !seen.contains(&k.host))
            .map(|(id, k)| Absent {
                id: *id,
                domain: s.set.fault_domains.iter().position(|d| d.name == k.fault_domain),
                revision: k.revision,
            })
            .collect();
        Self {
            members,
            absent,
            half,
            strays,
            others,
        }
    }

    /// Instances per fault domain, those out of sight included: a host that does not answer is not a dead host. Those that
    /// are to leave their host, or to be deleted, are not: another is to be where balance wants it.
    pub fn per_domain(&self, s: Situation<'_>) -> Vec<usize> {
        let mut counts = vec![0; s.set.fault_domains.len()];
        let leaving = drain::leaving(s, &self.members);
        let stays = |m: &&Member<'_>| !leaving.contains(&m.id) && !s.record.condemned.contains(&m.id);
        for member in self.members.iter().filter(stays) {
            counts[member.domain] += 1;
        }
        for domain in self.absent.iter().filter_map(|a| a.domain) {
            counts[domain] += 1;
        }
        counts
    }

    /// The member of that id.
    pub fn member(&self, id: InstanceId) -> Option<&Member<'a>> {
        let at = self.members.binary_search_by_key(&id, |m| m.id).ok()?;
        self.members.get(at)
    }

    /// Whether there is an instance of that id, seen or not.
    pub fn has(&self, id: InstanceId) -> bool {
        self.member(id).is_some() || self.is_absent(id)
    }

    /// Whether it is on a host that could not be seen.
    pub fn is_absent(&self, id: InstanceId) -> bool {
        self.absent.iter().any(|a| a.id == id)
    }

    /// Those that an operator has asked to be deleted.
    pub fn condemned(&self, s: Situation<'a>) -> impl Iterator<Item = &Member<'a>> {
        self.members
            .iter()
            .filter(move |m| s.record.condemned.contains(&m.id))
    }

    /// How many must stay healthy when `unavailable` of `capacity` may be missing. What an operator has stopped is not
    /// missed.
    pub fn needed(&self, capacity: usize, unavailable: usize) -> usize {
        let stopped = self.members.iter().filter(|m| m.state == State::Stopped);
        capacity
            .saturating_sub(stopped.count())
            .saturating_sub(unavailable)
    }

    /// How many serve: one that is healthy but down to a load balancer's check is nobody to rely on.
    pub fn serving(&self) -> usize {
        self.members.iter().filter(|m| m.serves).count()
    }

    /// How many are healthy.
    pub fn healthy(&self) -> usize {
        self.members.iter().filter(|m| m.state == State::Healthy).count()
    }

    /// A change that was cut short goes on to where its own note says, unless a step concerns the instance already.
    pub fn finish_changes(&self, s: Situation<'_>, steps: &mut Vec<Step>, waits: &mut Vec<Wait>) {
        let half = self
            .members
            .iter()
            .filter(|m| m.instance.meta.phase == Phase::Changing);
        for member in half {
            if steps.iter().any(|step| step.action.instance() == Some(member.id)) {
                continue;
            }
            let meta = &member.instance.meta;
            let noted = s
                .record
                .revision(meta.revision)
                .filter(|r| r.hash == meta.model_hash);
            let target = noted.unwrap_or_else(|| s.record.current());
            if noted.is_none() && change::loses_disks(s.record, member.instance, &target.model) {
                waits.push(Wait::KeepsDisks {
                    instances: vec![member.id],
                    revision: target.number,
                });
                continue;
            }
            let why = "its change did not end".into();
            let how = meta.rework.unwrap_or(Rework::Reimage);
            change::rework(s, member, target, how, why, steps);
        }
    }

    /// A note that does not say what the record says is written anew, before anything else is done to its instance: one that
    /// calls a whole instance half made or half deleted, that names another host than the one its instance is on, or that
    /// is older than the last that was written, as after a restored backup.
    pub fn renote(&self, s: Situation<'_>, steps: &mut Vec<Step>) {
        for member in self.members.iter().filter(|m| must_be_noted(s, m)) {
            steps.retain(|step| step.action.instance() != Some(member.id));
            steps.push(Step {
                host: member.host.clone(),
                action: Action::Renote {
                    instance: member.reference(s),
                    fault_domain: s.set.fault_domains[member.domain].name.clone(),
                },
                why: "its note does not say what the record says".into(),
            });
        }
    }

    /// Hosts that could not be seen, with what is known to be on them.
    pub fn unseen_waits(&self, s: Situation<'_>) -> Vec<Wait> {
        let mut waits: Vec<Wait> = (s.inventory.hosts.iter())
            .filter_map(|host| match &host.view {
                crate::inventory::View::Unseen { reason } => Some((host, reason)),
                crate::inventory::View::Seen(_) => None,
            })
            .map(|(host, reason)| Wait::HostUnseen {
                host: host.name.clone(),
                reason: reason.clone(),
                instances: (s.record.known.iter())
                    .filter(|(_, k)| k.confirmed && k.host == host.name)
                    .map(|(id, _)| *id)
                    .collect(),
            })
            .collect();
        waits.sort_by_key(|w| match w {
            Wait::HostUnseen { host, .. } => s.set.hosts().position(|(_, h)| &h.name == host),
            _ => None,
        });
        waits
    }

    /// What was given up with its host and is there again is switched off and deleted: others have taken its place, and both
    /// would serve under the set's name. Its guest is asked to shut down like any other's. The volumes of one that has data disks
    /// stay, and are told.
    pub fn fence(&self, s: Situation<'_>, steps: &mut Vec<Step>) {
        for stray in &self.strays {
            let Some(written_off) = s.record.written_off.get(&stray.id) else {
                continue;
            };
            let keeps_disks =
                written_off.has_data_disks || noted_disks(&stray.instance.meta).next().is_some();
            let at = written_off.at;
            let cause = Cause::Fencing { at, keeps_disks };
            // One whose pool can't be seen is switched off all the same; its volumes go by the warrant that it leaves.
            if keeps_disks || !stray.has_pool {
                steps.push(stray.drop(s, cause));
            } else {
                steps.push(stray.delete(s, cause));
            }
        }
    }

    /// What was given up with hosts that are still out of sight.
    pub fn given_up(&self, s: Situation<'_>) -> Vec<Wait> {
        let mut on: BTreeMap<&Label, (jiff::Timestamp, Vec<InstanceId>, Vec<InstanceId>)> = BTreeMap::new();
        for (id, written_off) in &s.record.written_off {
            let is_hidden = (s.inventory.host(&written_off.host)).is_some_and(|h| h.seen().is_none());
            if is_hidden {
                let (at, instances, keeping) =
                    on.entry(&written_off.host)
                        .or_insert((written_off.at, Vec::new(), Vec::new()));
                *at = written_off.at.min(*at);
                instances.push(*id);
                keeping.extend(written_off.has_data_disks.then_some(*id));
            }
        }
        (on.into_iter())
            .map(|(host, (at, instances, keeping))| Wait::HostGivenUp {
                host: host.clone(),
                at,
                instances,
                keeping,
            })
            .collect()
    }

    /// An instance that is off or crashed though nobody stopped it on purpose is started, at once the first time and
    /// ever more slowly if it does not stay on (see [`crate::repairs::Tries::next_start`]); a paused one is left to its
    /// operator, since whatever paused it (an I/O error, a person) is still there.
    pub fn start_the_idle(&self, s: Situation<'_>, steps: &mut Vec<Step>, waits: &mut Vec<Wait>) {
        let whole = self
            .members
            .iter()
            .filter(|m| m.instance.meta.phase != Phase::Changing && !must_be_noted(s, m));
        for member in whole {
            match member.instance.power {
                _ if member.state == State::Stopped || s.record.condemned.contains(&member.id) => {}
                Power::Running | Power::ShuttingDown => {}
                Power::Off | Power::Crashed => match self.may_not_start(s, member) {
                    Some(wait) => waits.push(wait),
                    None => steps.push(Step {
                        host: member.host.clone(),
                        action: Action::Start(member.reference(s)),
                        why: match member.instance.power {
                            Power::Crashed => "it has crashed".into(),
                            _ => "it is off".into(),
                        },
                    }),
                },
                Power::Paused => waits.push(Wait::Paused {
                    instance: member.id,
                    host: member.host.clone(),
                }),
            }
        }
    }

    /// Why a member that is off is not started now, if it is not.
    fn may_not_start(&self, s: Situation<'_>, member: &Member<'_>) -> Option<Wait> {
        let subject = instance_name(&s.set.name, member.id);
        let key = (member.host.clone(), subject.clone());
        if let Some(error) = s.experience.unstarted.get(&key) {
            return Some(Wait::Failed {
                host: member.host.clone(),
                subject,
                verb: "start",
                error: error.clone(),
            });
        }
        let tries = s.record.repair.starts.get(&member.id)?;
        let until = tries.next_start();
        (until > s.now).then(|| Wait::StartBackoff {
            instance: member.id,
            host: member.host.clone(),
            crashed: member.instance.power == Power::Crashed,
            tries: tries.count,
            until,
        })
    }

    /// How the set stands.
    pub fn report(&self, s: Situation<'_>, surplus: isize, waits: Vec<Wait>) -> Report {
        let running = self
            .members
            .iter()
            .filter(|m| m.instance.power == Power::Running)
            .count();
        let counts = Counts {
            running,
            stopped: self.members.iter().filter(|m| m.state == State::Stopped).count(),
            healthy: self.healthy(),
            seen: self.members.len(),
            unseen: self.absent.len(),
            surplus: usize::try_from(surplus).unwrap_or(0),
        };
        Report::new(s, counts, waits)
    }
}

/// Whether a member's note has to be written anew.
fn must_be_noted(s: Situation<'_>, member: &Member<'_>) -> bool {
    let meta = &member.instance.meta;
    let is_carried_on = meta.host != *member.host && !s.record.moves.contains_key(&member.id);
    if meta.moving_to.is_some() && !is_carried_on {
        return false;
    }
    let is_half = matches!(meta.phase, Phase::Creating | Phase::Deleting);
    let is_elsewhere = meta.host != *member.host;
    let is_older = s.inventory.odd.older.iter().any(|o| o.id == member.id);
    is_half || is_elsewhere || is_older
}
