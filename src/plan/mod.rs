//! The plan: a pure function from what is wanted and what was seen to one batch of actions, and why.
//!
//! It has no connection, clock, environment or randomness, and the order of its input does not matter. It returns one
//! batch; the next comes from the next observation, so a `kill -9` at any moment needs no recovery code.

pub mod action;
pub mod forecast;
pub mod placement;
pub mod report;
mod scale_in;
mod sweep;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use crate::inventory::{Inventory, Phase, Power};
use crate::model::ImageDigest;
use crate::names::{InstanceId, Label, instance_name};
use crate::plan::action::{Action, InstanceRef, Step};
use crate::plan::report::{Report, Wait};
use crate::record::{Life, Record};
use crate::scaleset::ScaleSet;

/// Everything a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The set as it was last applied.
    pub set: &'a ScaleSet,
    /// Its record, with the inventory absorbed ([`Record::absorb`]).
    pub record: &'a Record,
    /// What was seen.
    pub inventory: &'a Inventory,
    /// What this run has met so far.
    pub experience: &'a Experience,
    /// The moment of the plan.
    pub now: Timestamp,
}

/// What one run has learnt by trying. Begins empty with every run: the next one may find things mended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Experience {
    /// Hosts on which making an instance or sending an image failed, with what was said: no more is made there.
    pub shunned: BTreeMap<Label, String>,
    /// Instances, volumes and images that something failed on, as (host, subject): not tried again.
    pub failed: BTreeMap<(Label, String), String>,
    /// How often a new instance's name was found taken on a host.
    pub name_clashes: BTreeMap<Label, u32>,
    /// Images that something else on the host is backed by: kept.
    pub kept_images: BTreeSet<(Label, ImageDigest)>,
}

/// How a step ended that taught the run something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lesson {
    /// An image stays, because something else on the host is backed by it.
    Kept,
    /// The name of a new instance was taken by somebody else's domain.
    NameTaken(String),
    /// It failed otherwise: what was said.
    Failed(String),
}

/// A host that refuses so many new names is left alone like any other that fails.
const CLASHES: u32 = 3;

impl Experience {
    /// Learns from how a step ended.
    pub fn learn(&mut self, step: &Step, lesson: Lesson) {
        let host = step.host.clone();
        match (lesson, &step.action) {
            (Lesson::Kept, Action::DeleteImage { digest }) => {
                self.kept_images.insert((host, digest.clone()));
            }
            (Lesson::Kept, _) => {}
            // Somebody else's name shows in the next observation and is passed over; only a host that goes on
            // refusing, for a reason the observation does not show, would make the run go round in circles.
            (Lesson::NameTaken(error), Action::Create(_)) => {
                let clashes = self.name_clashes.entry(host.clone()).or_default();
                *clashes += 1;
                if *clashes >= CLASHES {
                    self.shunned.insert(host, error);
                }
            }
            (
                Lesson::NameTaken(error) | Lesson::Failed(error),
                Action::Create(_) | Action::PushImage { .. },
            ) => {
                self.shunned.insert(host, error);
            }
            (Lesson::NameTaken(error) | Lesson::Failed(error), action) => {
                self.failed.insert((host, action.subject()), error);
            }
        }
    }
}

/// One batch, and what it does not do.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[must_use = "a plan that nobody carries out or prints was made in vain"]
pub struct Plan {
    /// The steps, ordered by host and stage.
    pub steps: Vec<Step>,
    /// How the set stands, and what is waited for.
    pub report: Report,
}

/// Makes the next batch.
pub fn plan(s: Situation<'_>) -> Plan {
    let fleet = Fleet::of(s);
    let mut steps = Vec::new();
    let mut waits = fleet.unseen_waits(s);
    if !fleet.others.is_empty() {
        // Two stores that act on one set would fight over it: nothing at all is done, not even sweeping.
        waits.push(Wait::OtherStore {
            stores: fleet.others.iter().copied().collect(),
        });
        return Plan {
            steps,
            report: fleet.report(s, waits),
        };
    }

    sweep::half_made(s, &mut steps);
    match s.record.life {
        Life::Deleting => {
            for member in &fleet.members {
                steps.push(member.delete(s, "the set is being deleted".into()));
            }
            sweep::images(s, &mut steps);
        }
        Life::Wanted => {
            fleet.start_the_idle(s, &mut steps, &mut waits);
            let seen = fleet.members.len();
            let wanted = s.record.capacity as usize;
            let counted = seen + fleet.absent.len();
            if counted < wanted {
                let why = format!("capacity is {wanted}, {} there", are(counted));
                placement::scale_out(s, &fleet, wanted - counted, why.into(), &mut steps, &mut waits);
            } else if seen > wanted {
                let why: Arc<str> = format!("capacity is {wanted}, {} there", are(seen)).into();
                let victims = scale_in::victims(s, &fleet, seen - wanted);
                // What goes is not started first.
                let going: HashSet<InstanceId> = victims.iter().map(|v| v.id).collect();
                steps.retain(|step| step.action.instance().is_none_or(|id| !going.contains(&id)));
                steps.extend(victims.iter().map(|victim| victim.delete(s, why.clone())));
            }
        }
    }
    sweep::volumes(s, &mut steps);
    drop_the_hopeless(s, &mut steps, &mut waits);
    sort(s, &mut steps);
    Plan {
        steps,
        report: fleet.report(s, waits),
    }
}

fn are(n: usize) -> String {
    match n {
        0 => "none is".to_owned(),
        1 => "1 is".to_owned(),
        n => format!("{n} are"),
    }
}

/// Takes out what was tried in this run and failed, and says so.
fn drop_the_hopeless(s: Situation<'_>, steps: &mut Vec<Step>, waits: &mut Vec<Wait>) {
    if s.experience.failed.is_empty() {
        return;
    }
    steps.retain(|step| {
        let key = (step.host.clone(), step.action.subject());
        let Some(error) = s.experience.failed.get(&key) else {
            return true;
        };
        waits.push(Wait::Failed {
            host: step.host.clone(),
            subject: key.1,
            verb: step.action.verb(),
            error: error.clone(),
        });
        false
    });
}

/// Declared order of hosts, then stage, then id: one order for one situation.
fn sort(s: Situation<'_>, steps: &mut [Step]) {
    let rank: BTreeMap<&Label, usize> = s
        .set
        .hosts()
        .enumerate()
        .map(|(i, (_, h))| (&h.name, i))
        .collect();
    steps.sort_by_cached_key(|step| {
        let subject = if step.action.instance().is_some() {
            String::new()
        } else {
            step.action.subject()
        };
        (
            rank.get(&step.host).copied(),
            step.action.stage(),
            step.action.instance(),
            subject,
        )
    });
}

/// An instance that was seen, whole and of this store.
#[derive(Clone, Debug)]
pub(crate) struct Member<'a> {
    pub id: InstanceId,
    pub host: &'a Label,
    /// Index of its fault domain in the set.
    pub domain: usize,
    pub instance: &'a crate::inventory::Instance,
}

impl Member<'_> {
    fn reference(&self, s: Situation<'_>) -> InstanceRef {
        reference(s, self.instance)
    }

    fn delete(&self, s: Situation<'_>, why: Arc<str>) -> Step {
        let running = self.instance.power == Power::Running;
        let shutdown = if running {
            s.set.scale_in.shutdown
        } else {
            std::time::Duration::ZERO
        };
        Step {
            host: self.host.clone(),
            action: Action::Delete {
                instance: self.reference(s),
                shutdown,
            },
            why,
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
    }
}

/// The set's instances, sorted out.
pub(crate) struct Fleet<'a> {
    /// Seen and whole, by id.
    pub members: Vec<Member<'a>>,
    /// Known to exist on hosts that could not be seen: id and index of the fault domain, if the set still has it.
    pub absent: Vec<(InstanceId, Option<usize>)>,
    /// Other stores that manage instances of this name.
    pub others: BTreeSet<crate::names::StoreId>,
}

impl<'a> Fleet<'a> {
    pub fn of(s: Situation<'a>) -> Self {
        let domain_of_host: BTreeMap<&Label, usize> = (s.set.fault_domains.iter().enumerate())
            .flat_map(|(i, d)| d.hosts.iter().map(move |h| (&h.name, i)))
            .collect();
        let mut members = Vec::new();
        let mut others = BTreeSet::new();
        for host in &s.inventory.hosts {
            for instance in host.seen().into_iter().flat_map(|h| &h.instances) {
                if instance.meta.store != s.record.store {
                    others.insert(instance.meta.store);
                } else if instance.meta.phase == Phase::Ready
                    && let Some(&domain) = domain_of_host.get(&host.name)
                {
                    members.push(Member {
                        id: instance.id,
                        host: &host.name,
                        domain,
                        instance,
                    });
                }
            }
        }
        members.sort_unstable_by(|a, b| (a.id, a.host).cmp(&(b.id, b.host)));
        let seen = s.inventory.seen_hosts();
        let absent = (s.record.known.iter())
            .filter(|(_, k)| k.confirmed && !seen.contains(&k.host))
            .map(|(id, k)| {
                (
                    *id,
                    s.set.fault_domains.iter().position(|d| d.name == k.fault_domain),
                )
            })
            .collect();
        Self {
            members,
            absent,
            others,
        }
    }

    /// Instances per fault domain, those out of sight included: a host that does not answer is not a dead host.
    pub fn per_domain(&self, s: Situation<'_>) -> Vec<usize> {
        let mut counts = vec![0; s.set.fault_domains.len()];
        for member in &self.members {
            counts[member.domain] += 1;
        }
        for domain in self.absent.iter().filter_map(|(_, d)| *d) {
            counts[domain] += 1;
        }
        counts
    }

    fn unseen_waits(&self, s: Situation<'_>) -> Vec<Wait> {
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

    /// An instance that is off or crashed though nobody stopped it on purpose is started; a paused one is left to
    /// its operator, since whatever paused it (an I/O error, a person) is still there.
    fn start_the_idle(&self, s: Situation<'_>, steps: &mut Vec<Step>, waits: &mut Vec<Wait>) {
        for member in &self.members {
            match member.instance.power {
                Power::Running | Power::ShuttingDown => {}
                Power::Off | Power::Crashed => steps.push(Step {
                    host: member.host.clone(),
                    action: Action::Start(member.reference(s)),
                    why: match member.instance.power {
                        Power::Crashed => "it has crashed".into(),
                        _ => "it is off".into(),
                    },
                }),
                Power::Paused => waits.push(Wait::Paused {
                    instance: member.id,
                    host: member.host.clone(),
                }),
            }
        }
    }

    fn report(&self, s: Situation<'_>, waits: Vec<Wait>) -> Report {
        let running = self
            .members
            .iter()
            .filter(|m| m.instance.power == Power::Running)
            .count();
        Report::new(s, running, self.members.len(), self.absent.len(), waits)
    }
}
