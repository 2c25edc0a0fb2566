//! Execution: one batch, a lane per host, stages in order within a lane, events out. It has no choices to make.
//!
//! Every action runs on a thread of its own, which is left behind when it gives no sign of life for `call_timeout`: a
//! hung host costs its own lane and nothing else. After an unreachable or hung host's first such failure the rest of
//! its lane is not tried; after a failed create or push nothing more is made there in this batch.

mod proofs;

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::aside;
use crate::event::{ActionNumber, Event, Listener};
use crate::hypervisor::{FaultKind, Hosts, Hypervisor, HypervisorError, LocalImage, Pulse, Pushed};
use crate::inventory::Rework;
use crate::model::{ImageDigest, Model};
use crate::names::{Label, StoreId};
use crate::plan::action::{Action, InstanceSpec, Step};
use crate::scaleset::{Host, Limits};
use crate::supervise::caught;
use crate::warrants::{Cause, Warrants};
use crate::world::Interrupt;
pub use proofs::{HOLDS, Proof, Proofs, ReadProof};

/// Finds a revision's model.
pub type Models = Arc<dyn Fn(u32) -> Option<Arc<Model>> + Send + Sync>;
/// Finds an image's local file, or says why there is none. That may take long: the pulse shows that it goes on.
pub type ImageSource = Arc<dyn Fn(&ImageDigest, &Pulse) -> Result<LocalImage, String> + Send + Sync>;

/// Finds a host of the set.
pub type FindHost = Arc<dyn Fn(&Label) -> Option<Host> + Send + Sync>;

/// Says why nothing more may be begun, if that is so: the lease was lost.
pub type Barrier = Arc<dyn Fn() -> Option<&'static str> + Send + Sync>;

/// What executing needs beside the steps.
#[derive(Clone)]
pub struct Means {
    /// Bounds on calls in flight and on patience.
    pub limits: Limits,
    /// Models by revision.
    pub models: Models,
    /// The local file of an image.
    pub image: ImageSource,
    /// Who uses what is to be deleted.
    pub uses: Arc<Proofs>,
    /// What the record says may be deleted: nothing else is.
    pub warrants: Arc<Warrants>,
    /// Asked before each step: whoever was held up may have been followed by another meanwhile.
    pub barrier: Barrier,
    /// All hosts, for what concerns two of them.
    pub hosts: Arc<dyn Hosts>,
    /// A host of the set by its name.
    pub find_host: FindHost,
    /// The stores whose images are ours, the present one first; never empty.
    pub stores: Vec<StoreId>,
    /// Where events go.
    pub listener: Arc<dyn Listener>,
    /// Whether the operator wants to stop.
    pub interrupt: Interrupt,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// Done (or it was so already).
    Done,
    /// An image stays, because something else is backed by it.
    Kept,
    /// It failed.
    Failed(HypervisorError),
    /// It was never begun: the reason.
    NotBegun(&'static str),
}

/// A step and how it ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// The step.
    pub step: Step,
    /// How it ended.
    pub end: End,
}

/// Carries out a batch. Returns when every lane has ended; order of the result is that of the lanes' events.
pub fn execute(
    steps: &[Step],
    host: impl Fn(&Label) -> Option<Arc<dyn Hypervisor>>,
    means: &Means,
) -> Vec<Ended> {
    let mut lanes: Vec<(Label, Vec<Step>)> = Vec::new();
    for step in steps {
        match lanes.iter_mut().find(|(name, _)| name == &step.host) {
            Some((_, lane)) => lane.push(step.clone()),
            None => lanes.push((step.host.clone(), vec![step.clone()])),
        }
    }
    let numbers = Arc::new(AtomicU64::new(1));
    let running: Vec<_> = (lanes.into_iter())
        .map(|(name, steps)| {
            let lane = Lane {
                hypervisor: host(&name),
                means: means.clone(),
                numbers: Arc::clone(&numbers),
            };
            let (tx, ended) = mpsc::channel();
            let steps_of_lane = steps.clone();
            let begun = aside::begin(move || {
                // Whoever waits for it waits until it has ended.
                let _ = tx.send(caught(|| lane.run(steps_of_lane)));
            });
            (begun.map(|()| ended), steps)
        })
        .collect();
    // A lane waits on nothing without a deadline, so each of these ends.
    (running.into_iter())
        .flat_map(|(lane, steps)| {
            let ended = match lane.map(|lane| lane.recv()) {
                Ok(Ok(ended)) => ended,
                Ok(Err(_)) => Err("its thread is gone".to_owned()),
                Err(e) => Err(format!("starting a thread: {e}")),
            };
            // What was begun is not known: whoever looks next sees it.
            ended.unwrap_or_else(|why| (steps.into_iter()).map(|step| broken_off(step, &why)).collect())
        })
        .collect()
}

/// A step whose lane broke off.
fn broken_off(step: Step, why: &str) -> Ended {
    let doing = format!("{} {}", step.action.verb(), step.action.subject());
    let end = End::Failed(HypervisorError::new(FaultKind::Other, doing, why));
    Ended { step, end }
}

/// One host's share of a batch.
struct Lane {
    hypervisor: Option<Arc<dyn Hypervisor>>,
    means: Means,
    numbers: Arc<AtomicU64>,
}

struct InFlight {
    number: ActionNumber,
    step: Step,
    pulse: Arc<Pulse>,
    began: Instant,
}

/// How often a lane looks up from its actions: bounds how late a hang or an interrupt is noticed.
const GLANCE: Duration = Duration::from_millis(50);

impl Lane {
    fn run(self, mut steps: Vec<Step>) -> Vec<Ended> {
        steps.sort_by_key(|s| s.action.stage());
        let mut queue: VecDeque<Step> = steps.into();
        let mut ended = Vec::with_capacity(queue.len());
        let mut in_flight: Vec<InFlight> = Vec::new();
        let (tx, rx) = mpsc::channel::<(ActionNumber, Result<End, HypervisorError>)>();
        let mut lost = false;
        let mut making_failed = false;
        let mut told = false;
        // Instances that this lane has deleted: they use nothing any more, whatever was read before.
        let mut gone: HashSet<Uuid> = HashSet::new();
        loop {
            self.means.listener.alive();
            while let Some(next) = queue.front() {
                let stage = next.action.stage();
                let refusal = if lost {
                    Some("the host did not answer before")
                } else if self.means.interrupt.is_set() {
                    Some("interrupted")
                } else if making_failed && matches!(next.action, Action::Create(_)) {
                    Some("an earlier attempt on this host failed")
                } else {
                    None
                };
                if let Some(reason) = refusal {
                    if let Some(step) = queue.pop_front() {
                        ended.push(Ended {
                            step,
                            end: End::NotBegun(reason),
                        });
                    }
                    continue;
                }
                let same_stage = in_flight.iter().all(|f| f.step.action.stage() == stage);
                if !same_stage || in_flight.len() >= self.width(&next.action) {
                    break;
                }
                if let Some(reason) = (self.means.barrier)() {
                    ended.extend(queue.drain(..).map(|step| Ended {
                        step,
                        end: End::NotBegun(reason),
                    }));
                    break;
                }
                if let Some(step) = queue.pop_front() {
                    in_flight.push(self.begin(step, &gone, tx.clone()));
                }
            }
            if in_flight.is_empty() && queue.is_empty() {
                return ended;
            }
            if self.means.interrupt.is_set() && !told {
                told = true;
                self.tell(&Event::Interrupted {
                    in_flight: in_flight.len(),
                });
            }
            if let Ok((number, result)) = rx.recv_timeout(GLANCE)
                && let Some(at) = in_flight.iter().position(|f| f.number == number)
            {
                let done = in_flight.swap_remove(at);
                let end = self.conclude(&done, result);
                (lost, making_failed) = lessons(&done.step, &end, lost, making_failed);
                if let (Action::Delete { instance, .. }, End::Done) = (&done.step.action, &end) {
                    gone.insert(instance.uuid);
                }
                ended.push(Ended { step: done.step, end });
            }
            let patience = self.means.limits.call_timeout;
            while let Some(at) = in_flight.iter().position(|f| f.pulse.silence() > patience) {
                let stuck = in_flight.swap_remove(at);
                stuck.pulse.cancel();
                let error = HypervisorError::new(
                    FaultKind::TimedOut,
                    format!("{} {}", stuck.step.action.verb(), stuck.step.action.subject()),
                    format!("the host gave no sign of life for {} s", patience.as_secs_f64()),
                );
                let end = self.conclude(&stuck, Err(error));
                (lost, making_failed) = lessons(&stuck.step, &end, lost, making_failed);
                ended.push(Ended {
                    step: stuck.step,
                    end,
                });
            }
        }
    }

    /// How many actions of this kind may be in flight at once.
    const fn width(&self, action: &Action) -> usize {
        match action {
            Action::Create(_) | Action::Start(_) | Action::Rework { .. } | Action::Restart { .. } => {
                self.means.limits.starts_per_host as usize
            }
            Action::PushImage { .. } => 1,
            // One at a time: they would only share the same link.
            Action::Migrate { .. } => 1,
            Action::Stop { .. }
            | Action::Settle { .. }
            | Action::Protect { .. }
            | Action::Renote { .. }
            | Action::Delete { .. }
            | Action::DropCopy { .. }
            | Action::DeleteVolume { .. }
            | Action::DeleteImage { .. } => self.means.limits.calls_per_host as usize,
        }
    }

    fn begin(
        &self,
        step: Step,
        gone: &HashSet<Uuid>,
        tx: mpsc::Sender<(ActionNumber, Result<End, HypervisorError>)>,
    ) -> InFlight {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.tell(&Event::Started {
            number,
            host: step.host.clone(),
            verb: step.action.verb(),
            subject: step.action.subject(),
            why: step.why.to_string(),
        });
        let pulse = {
            let (listener, step) = (Arc::clone(&self.means.listener), step.clone());
            Arc::new(Pulse::new(move |news| {
                listener.event(&Event::of_news(number, &step, news))
            }))
        };
        let work = {
            let (hypervisor, means) = (self.hypervisor.clone(), self.means.clone());
            let (action, pulse, tx) = (step.action.clone(), Arc::clone(&pulse), tx.clone());
            let host = step.host.clone();
            let gone = match &step.action {
                Action::DeleteVolume { .. } => gone.clone(),
                _ => HashSet::new(),
            };
            move || {
                let doing = || format!("{} {}", action.verb(), action.subject());
                let act = |hypervisor: &dyn Hypervisor| {
                    caught(|| act(hypervisor, &host, &action, &means, &gone, &pulse))
                        .unwrap_or_else(|panic| Err(HypervisorError::new(FaultKind::Other, doing(), panic)))
                };
                let result = match hypervisor {
                    Some(hypervisor) => act(&*hypervisor),
                    None => Err(HypervisorError::new(
                        FaultKind::Missing,
                        "looking for the host",
                        "it is not in the definition",
                    )),
                };
                // The lane may have given this action up: then nobody wants the result.
                let _ = tx.send((number, result));
            }
        };
        if let Err(e) = aside::begin(work) {
            let error = HypervisorError::new(FaultKind::Other, "starting a thread", e.to_string());
            let _ = tx.send((number, Err(error)));
        }
        InFlight {
            number,
            step,
            pulse,
            began: Instant::now(),
        }
    }

    fn conclude(&self, done: &InFlight, result: Result<End, HypervisorError>) -> End {
        let (host, verb, subject) = (
            done.step.host.clone(),
            done.step.action.verb(),
            done.step.action.subject(),
        );
        match result {
            Ok(end) => {
                self.tell(&Event::Finished {
                    number: done.number,
                    host,
                    verb,
                    subject,
                    took: done.began.elapsed(),
                    kept: end == End::Kept,
                });
                end
            }
            Err(e) => {
                let (kind, error) = (e.kind, e.to_string());
                self.tell(&Event::Failed {
                    number: done.number,
                    host,
                    verb,
                    subject,
                    kind,
                    error,
                });
                End::Failed(e)
            }
        }
    }

    fn tell(&self, event: &Event) {
        self.means.listener.event(event);
    }
}

/// What the rest of the lane learns from one step's end: whether the host is lost, and whether making fails on it.
const fn lessons(step: &Step, end: &End, lost: bool, making_failed: bool) -> (bool, bool) {
    let End::Failed(e) = end else {
        return (lost, making_failed);
    };
    let gone = matches!(e.kind, FaultKind::Unreachable | FaultKind::TimedOut);
    // A name that somebody else has says nothing about the next name.
    let making = matches!(step.action, Action::Create(_) | Action::PushImage { .. })
        && !matches!(e.kind, FaultKind::NotOurs);
    (lost || gone, making_failed || making)
}

fn act(
    host: &dyn Hypervisor,
    name: &Label,
    action: &Action,
    means: &Means,
    gone: &HashSet<Uuid>,
    pulse: &Pulse,
) -> Result<End, HypervisorError> {
    let find = |name: &Label| {
        (means.find_host)(name)
            .ok_or_else(|| missing("looking for the host", format!("{name} is not in the definition")))
    };
    let model = |spec: &InstanceSpec| {
        (means.models)(spec.revision).ok_or_else(|| {
            missing(
                "looking for the model",
                format!("the record has no revision {}", spec.revision),
            )
        })
    };
    match action {
        Action::PushImage { digest } => {
            let image = (means.image)(digest, pulse).map_err(|e| {
                let kind = match means.interrupt.is_set() {
                    true => FaultKind::Cancelled,
                    false => FaultKind::Missing,
                };
                HypervisorError::new(kind, "reading the local image", e)
            })?;
            let store = *means
                .stores
                .first()
                .ok_or_else(|| missing("looking for the store", String::new()))?;
            match host.push_image(&image, store, pulse)? {
                Pushed::Present | Pushed::Sent => Ok(End::Done),
            }
        }
        Action::Create(spec) => host.create(spec, &*model(spec)?, pulse).map(|()| End::Done),
        Action::Rework { spec, how, shutdown } => {
            let proof = match how {
                Rework::Live => Arc::default(),
                _ => means.uses.of(name, pulse)?,
            };
            let done = host.rework(spec, &*model(spec)?, *how, *shutdown, &proof.0, pulse);
            done.map(|()| End::Done)
        }
        Action::Migrate { instance, spec } => {
            let (from, to) = (find(name)?, find(&spec.host)?);
            let model = model(spec)?;
            let hosts = &means.hosts;
            let done = hosts.migrate(&from, &to, &means.limits, instance, spec, &model, pulse);
            done.map(|()| End::Done)
        }
        Action::Settle { instance, to } => {
            let (from, to) = (find(name)?, find(to)?);
            let settled = means.hosts.settle(&from, &to, &means.limits, instance, pulse);
            settled.map(|_| End::Done)
        }
        Action::Start(instance) => host.start(instance).map(|()| End::Done),
        Action::Stop { instance, shutdown } => host.stop(instance, *shutdown, pulse).map(|()| End::Done),
        Action::Restart { instance, shutdown } => {
            host.restart(instance, *shutdown, pulse).map(|()| End::Done)
        }
        Action::Protect { instance, protection } => host.protect(instance, *protection).map(|()| End::Done),
        Action::Renote {
            instance,
            fault_domain,
        } => host.renote(instance, name, fault_domain).map(|()| End::Done),
        Action::Delete {
            instance, shutdown, ..
        } => {
            if !means.warrants.covers(name, instance.id, instance.uuid) {
                return Err(unwarranted(action));
            }
            let proof = means.uses.of(name, pulse)?;
            host.delete(instance, *shutdown, &proof.0, pulse)
                .map(|()| End::Done)
        }
        Action::DropCopy {
            instance, shutdown, ..
        } => {
            if !means.warrants.covers(name, instance.id, instance.uuid) {
                return Err(unwarranted(action));
            }
            host.drop_copy(instance, *shutdown, pulse).map(|()| End::Done)
        }
        Action::DeleteVolume { volume, cause } => {
            if !means.warrants.has_part(name, volume) {
                return Err(unwarranted(action));
            }
            let uses = means.uses.of(name, pulse)?.0.without(gone);
            // A guest that was changed while it runs has the seed it was started with in its drive until it is started anew; and
            // what our own acts have left may be in use by now, by whoever found it. Only who named the volume has to hear no.
            if !matches!(cause, Cause::Operator) && uses.speaks_against(volume, None).is_some() {
                return Ok(End::Kept);
            }
            host.delete_volume(volume, &uses).map(|()| End::Done)
        }
        Action::DeleteImage { digest } => {
            if !means.warrants.has_part(name, &digest.0) {
                return Err(unwarranted(action));
            }
            if means.uses.of(name, pulse)?.1 {
                // Disks of hosts and stores that nobody here can look at may be backed by it.
                return Ok(End::Kept);
            }
            let deleted = host.delete_image(digest, &means.stores)?;
            Ok(if deleted { End::Done } else { End::Kept })
        }
    }
}

/// The last line of defence: a step that the record says nothing of is not done, whoever made it.
fn unwarranted(action: &Action) -> HypervisorError {
    HypervisorError::new(
        FaultKind::InUse,
        format!("{} {}", action.verb(), action.subject()),
        "the record does not say that it is to go: nothing was deleted",
    )
}

fn missing(what: &str, why: String) -> HypervisorError {
    HypervisorError::new(FaultKind::Missing, what, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::fake::{FakeHost, Fleet};
    use crate::names::InstanceId;
    use crate::plan::action::InstanceRef;

    /// A listener that hears nothing, or panics at what is begun.
    struct Hears {
        panics: bool,
    }

    impl Listener for Hears {
        fn event(&self, event: &Event) {
            assert!(
                !(self.panics && matches!(event, Event::Started { .. })),
                "nobody listens"
            );
        }
    }

    /// How two images on their way to two hosts end; whoever looks for the local file of the first panics.
    fn ends(panics: bool) -> Vec<End> {
        ends_behind(panics, Arc::new(|| None))
    }

    /// As [`ends`], if the steps may begin that `barrier` lets pass.
    fn ends_behind(panics: bool, barrier: Barrier) -> Vec<End> {
        let fleet = Fleet::new();
        let label = |text: &str| Label::new(text).unwrap();
        for name in ["kvm1", "kvm2"] {
            fleet.add_host(&label(name), FakeHost::default());
        }
        let digest = |text: &str| ImageDigest(text.repeat(32));
        let steps = [("kvm1", "ab"), ("kvm2", "cd")].map(|(host, image)| Step {
            host: label(host),
            action: Action::PushImage {
                digest: digest(image),
            },
            why: "it is needed".into(),
        });
        carried_out(&fleet, &steps, panics, barrier)
    }

    /// How steps end of which the record says nothing.
    fn carried_out(fleet: &Arc<Fleet>, steps: &[Step], panics: bool, barrier: Barrier) -> Vec<End> {
        let (uses, warrants) = (Arc::new(Proofs::none()), Arc::default());
        with_proofs(fleet, steps, (panics, barrier), uses, warrants)
    }

    fn with_proofs(
        fleet: &Arc<Fleet>,
        steps: &[Step],
        (panics, barrier): (bool, Barrier),
        uses: Arc<Proofs>,
        warrants: Arc<Warrants>,
    ) -> Vec<End> {
        let limits = Limits {
            calls_per_host: 4,
            starts_per_host: 2,
            call_timeout: Duration::from_secs(30),
        };
        let means = Means {
            uses,
            warrants,
            barrier,
            limits: limits.clone(),
            models: Arc::new(|_| None),
            image: Arc::new(move |digest, _| {
                assert!(digest.0.starts_with("cd"), "no such drawer");
                Err("there is none".to_owned())
            }),
            hosts: Arc::clone(fleet) as Arc<dyn Hosts>,
            find_host: Arc::new(|_| None),
            stores: vec![StoreId(uuid::Uuid::nil())],
            listener: Arc::new(Hears { panics }),
            interrupt: Interrupt::default(),
        };
        let host = |name: &Label| {
            let host = Host {
                name: name.clone(),
                uri: "test:///default".to_owned(),
                pool: "default".to_owned(),
                migration_address: None,
            };
            Some(fleet.host(&host, &limits))
        };
        let ended = execute(steps, host, &means);
        assert_eq!(ended.len(), steps.len(), "no step is lost: {ended:?}");
        ended.into_iter().map(|e| e.end).collect()
    }

    fn said(end: &End) -> String {
        match end {
            End::Failed(e) => {
                assert!(
                    !matches!(e.kind, FaultKind::Unreachable | FaultKind::TimedOut),
                    "no host is to blame"
                );
                e.to_string()
            }
            other => panic!("it can't have been done: {other:?}"),
        }
    }

    #[test]
    fn an_action_that_panics_has_failed_and_says_so_at_once() {
        let ends = ends(false);
        assert!(
            said(&ends[0]).contains("a fault of vmss: no such drawer"),
            "{ends:?}"
        );
        assert!(said(&ends[1]).contains("there is none"), "{ends:?}");
    }

    #[test]
    fn nothing_begins_once_the_lease_is_lost() {
        let ends = ends_behind(false, Arc::new(|| Some("another has it")));
        assert_eq!(
            ends,
            [End::NotBegun("another has it"), End::NotBegun("another has it")]
        );
    }

    #[test]
    fn what_a_lane_that_panics_was_to_do_has_failed() {
        for end in ends(true) {
            assert!(said(&end).contains("a fault of vmss: nobody listens"), "{end:?}");
        }
    }

    #[test]
    fn what_the_record_does_not_name_is_not_deleted_whoever_made_the_step() {
        let fleet = Fleet::new();
        let kvm1 = Label::new("kvm1").unwrap();
        fleet.add_host(&kvm1, FakeHost::default());
        fleet.add_volume("kvm1", "web-1-00000000-os.qcow2", crate::units::Bytes::mib(1));
        let instance = InstanceRef {
            set: Label::new("web").unwrap(),
            store: StoreId(uuid::Uuid::nil()),
            id: InstanceId(1),
            name: "web-1".to_owned(),
            uuid: uuid::Uuid::nil(),
            epoch: Default::default(),
        };
        let actions = [
            Action::Delete {
                instance: instance.clone(),
                shutdown: Duration::ZERO,
                cause: Cause::Operator,
            },
            Action::DropCopy {
                instance,
                shutdown: Duration::ZERO,
                cause: Cause::Operator,
            },
            Action::DeleteVolume {
                volume: "web-1-00000000-os.qcow2".to_owned(),
                cause: Cause::Operator,
            },
            Action::DeleteImage {
                digest: ImageDigest("ab".repeat(32)),
            },
        ];
        for action in actions {
            let step = Step {
                host: kvm1.clone(),
                why: "somebody has made it up".into(),
                action,
            };
            let ends = carried_out(&fleet, std::slice::from_ref(&step), false, Arc::new(|| None));
            let told = said(&ends[0]);
            assert!(
                told.contains("the record does not say that it is to go"),
                "{step:?}: {told}"
            );
        }
        assert_eq!(fleet.volumes("kvm1").len(), 1, "nothing was deleted");
    }

    #[test]
    fn a_disk_that_somebody_has_begun_to_use_since_the_batch_began_stays() {
        let fleet = Fleet::new();
        let kvm1 = Label::new("kvm1").unwrap();
        fleet.add_host(&kvm1, FakeHost::default());
        let volume = "web-1-00000000-os.qcow2";
        fleet.add_volume("kvm1", volume, crate::units::Bytes::mib(1));
        let step = Step {
            host: kvm1.clone(),
            why: "it was left".into(),
            action: Action::DeleteVolume {
                volume: volume.to_owned(),
                cause: Cause::EndOfMove,
            },
        };
        let mut warrants = Warrants::default();
        let parts = warrants.parts.entry(kvm1.clone()).or_default();
        parts.insert(volume.to_owned(), Cause::EndOfMove);
        let warrants = Arc::new(warrants);
        let deleted = |later: crate::hypervisor::Uses, holds| {
            let read = std::collections::BTreeMap::from([(kvm1.clone(), Ok(Default::default()))]);
            let proofs = Proofs::new(read, Arc::new(move |_| Ok((later.clone(), false))), holds);
            let how = (false, Arc::new(|| None) as Barrier);
            let steps = std::slice::from_ref(&step);
            let ends = with_proofs(&fleet, steps, how, Arc::new(proofs), Arc::clone(&warrants));
            (ends[0].clone(), fleet.volumes("kvm1").len())
        };
        let mut used = crate::hypervisor::Uses::default();
        used.add(&format!("/pool/{volume}"), "rescue", None);
        assert_eq!(deleted(used.clone(), Duration::ZERO), (End::Kept, 1));
        assert_eq!(deleted(used, HOLDS), (End::Done, 0), "as was read just now");
    }
}
