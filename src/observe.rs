//! Observation: all hosts side by side, each with its own deadline. A host that hangs costs its own answer, no more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::addresses::Told;
use crate::answer::Answer;
use crate::aside::all_at_once;
use crate::hypervisor::{FaultKind, Hosts, Hypervisor, HypervisorError, Pulse, Watch};
use crate::inventory::{HostView, Inventory, View};
use crate::names::InstanceId;
use crate::plan::action::InstanceRef;
use crate::scaleset::{Host, Limits};

/// Asks every host its question, all at once. Answers come in the order of `hosts`; one that is not there by the
/// deadline is a time-out, and its thread is left behind (a thread stuck in a dead connection can't be joined).
pub fn ask_all<Q: Send + 'static, T: Send + 'static>(
    hosts: Vec<(Arc<dyn Hypervisor>, Q)>,
    deadline: Duration,
    ask: impl Fn(&dyn Hypervisor, Q) -> Result<T, HypervisorError> + Send + Sync + 'static,
) -> Vec<Result<T, HypervisorError>> {
    let ask = Arc::new(ask);
    let answers = all_at_once(
        hosts,
        deadline,
        move |(host, question): (Arc<dyn Hypervisor>, Q)| ask(&*host, question),
    );
    let late = || {
        let text = format!("none came within {} s", deadline.as_secs_f64());
        Err(HypervisorError::new(
            FaultKind::TimedOut,
            "waiting for an answer",
            text,
        ))
    };
    let fault = |why| Err(HypervisorError::new(FaultKind::Other, "asking", why));
    (answers.into_iter())
        .map(|answer| answer.map_or_else(late, |answer| answer.unwrap_or_else(fault)))
        .collect()
}

/// Observes the set on each of `hosts`.
pub fn observe(hosts: &dyn Hosts, on: &[Host], limits: &Limits, watch: &Arc<Watch>) -> Inventory {
    let open = on.iter().map(|h| (hosts.host(h, limits), ())).collect();
    let watch = Arc::clone(watch);
    let answers = ask_all(open, limits.call_timeout, move |host, ()| host.observe(&watch));
    let views = on.iter().zip(answers).map(|(host, answer)| HostView {
        name: host.name.clone(),
        view: match answer {
            Ok(seen) => View::Seen(seen),
            Err(e) => View::Unseen {
                reason: e.to_string(),
            },
        },
    });
    Inventory {
        hosts: views.collect(),
        ..Inventory::default()
    }
}

/// How long one guest may take: so that others of its host have their turn.
const OF_ONE_GUEST: Duration = Duration::from_secs(4);

/// Instances of one host that are asked about at once: most of a question is waiting for its answer.
const SIDE_BY_SIDE: usize = 3;

/// What hosts find out of the addresses of their instances, all hosts side by side. Told as it comes, so that a guest
/// that does not answer hides no other's address: what has not come within `patience` is left out.
pub fn addresses(
    hosts: &dyn Hosts,
    limits: &Limits,
    ask: Vec<(&Host, Vec<InstanceRef>)>,
    patience: Duration,
) -> BTreeMap<InstanceId, Vec<Told>> {
    let heard = ask_each(hosts, limits, ask, patience, |host, instance| {
        host.addresses(instance)
    });
    let found = |(id, answer): (_, Result<_, _>)| Some((id, answer.ok()?));
    heard.answers.into_iter().filter_map(found).collect()
}

/// Longest time beyond its patience that is waited for guests to have their turn: a host that hangs itself holds up all
/// others for no longer.
const FOR_TURNS: Duration = Duration::from_secs(30);

/// What guest agents answer to a ping, as [`addresses`] asks. The time grows with the number of guests, up to
/// [`FOR_TURNS`] beyond `patience`, so that each of them has its turn though others hang; of one that had none nothing is told.
pub fn pings(
    hosts: &dyn Hosts,
    limits: &Limits,
    ask: Vec<(&Host, Vec<InstanceRef>)>,
    patience: Duration,
) -> BTreeMap<InstanceId, Answer> {
    let most = ask.iter().map(|(_, instances)| instances.len()).max();
    let patience = patience.saturating_add(turns_of(most.unwrap_or(0), limits).min(FOR_TURNS));
    let heard = ask_each(hosts, limits, ask, patience, |host, i| host.ping(i));
    judged(heard, patience)
}

/// How long it takes until so many instances of one host have had their turn, though all of them hang.
fn turns_of(instances: usize, limits: &Limits) -> Duration {
    let turns = u32::try_from(instances.div_ceil(lanes(limits))).unwrap_or(u32::MAX);
    OF_ONE_GUEST.saturating_mul(turns)
}

/// What an answer to a ping says of a guest, and none within `patience`.
fn judged(heard: Heard<Result<(), HypervisorError>>, patience: Duration) -> BTreeMap<InstanceId, Answer> {
    let answered = heard
        .answers
        .into_iter()
        .map(|(id, answer)| (id, answer.map_or_else(unanswered, |()| Answer::AgentAnswers)));
    let silent = (heard.silent.into_iter()).map(|id| (id, Answer::Silent { within: patience }));
    answered.chain(silent).collect()
}

/// How long a host waits for an agent's answer to a ping ([`Hypervisor::ping`]).
const OF_A_PING: Duration = Duration::from_secs(2);

/// What a ping that failed says: of the guest, of its agent, or nothing, where it was the host that could not ask.
fn unanswered(error: HypervisorError) -> Answer {
    match error.kind {
        FaultKind::AgentSilent => Answer::Silent { within: OF_A_PING },
        FaultKind::AgentBroken => Answer::AgentBroken,
        FaultKind::AgentAbsent => Answer::AgentAbsent,
        FaultKind::NotRunning => Answer::NotRunning,
        FaultKind::Other => Answer::Odd { said: error.message },
        _ => Answer::NotAsked { why: error.message },
    }
}

/// What a command prints in guests, as [`addresses`] asks: its standard output, or why there is none.
pub fn outputs(
    hosts: &dyn Hosts,
    limits: &Limits,
    ask: Vec<(&Host, Vec<InstanceRef>)>,
    command: Vec<String>,
    patience: Duration,
) -> BTreeMap<InstanceId, Result<String, String>> {
    let pulse = Arc::new(Pulse::silent());
    let beat = Arc::clone(&pulse);
    let heard = ask_each(hosts, limits, ask, patience, move |host, instance| {
        let ran = host.exec(instance, &command, OF_ONE_GUEST, &beat);
        match ran {
            Ok(ran) if ran.code == 0 => Ok(String::from_utf8_lossy(&ran.stdout).into_owned()),
            Ok(ran) => Err(format!("{} ended with {}", command.join(" "), ran.code)),
            Err(e) => Err(e.message),
        }
    });
    // Those that are left behind need not wait for their command to end.
    pulse.cancel();
    let span = patience.as_secs_f64();
    let silent = (heard.silent.into_iter()).map(|id| (id, Err(format!("no answer within {span} s"))));
    let unasked = (heard.unasked.into_iter()).map(|id| (id, Err(format!("it had no turn within {span} s"))));
    heard.answers.into_iter().chain(silent).chain(unasked).collect()
}

/// What came of asking about instances.
struct Heard<T> {
    /// What was answered in time.
    answers: BTreeMap<InstanceId, T>,
    /// Those that were asked about without an answer in time.
    silent: BTreeSet<InstanceId>,
    /// Those that were not asked about: too many before them took their time.
    unasked: BTreeSet<InstanceId>,
}

/// How many of one host's instances are asked about at once.
fn lanes(limits: &Limits) -> usize {
    let calls = usize::try_from(limits.calls_per_host).unwrap_or(usize::MAX);
    calls.clamp(1, SIDE_BY_SIDE)
}

/// Asks about each instance, all hosts side by side, the next of a host's as soon as one is done with: so that a guest
/// that does not answer keeps back few others. Who was not asked about within `patience` never is.
fn ask_each<T: Send + 'static>(
    hosts: &dyn Hosts,
    limits: &Limits,
    ask: Vec<(&Host, Vec<InstanceRef>)>,
    patience: Duration,
    question: impl Fn(&dyn Hypervisor, &InstanceRef) -> T + Send + Sync + 'static,
) -> Heard<T> {
    let mut silent: BTreeSet<InstanceId> = ask.iter().flat_map(|(_, i)| i.iter().map(|i| i.id)).collect();
    let mut queues = Vec::new();
    let mut workers = Vec::new();
    for (host, instances) in ask.into_iter().filter(|(_, i)| !i.is_empty()) {
        let open = hosts.host(host, limits);
        let many = lanes(limits).min(instances.len());
        let queue = Arc::new(Mutex::new(VecDeque::from(instances)));
        workers.extend((0..many).map(|_| (Arc::clone(&open), Arc::clone(&queue))));
        queues.push(queue);
    }
    let told: Arc<Mutex<BTreeMap<InstanceId, T>>> = Arc::default();
    let sink = Arc::clone(&told);
    ask_all(workers, patience, move |host, queue: Arc<Mutex<VecDeque<_>>>| {
        loop {
            let Some(instance) = lock(&queue).pop_front() else {
                return Ok(());
            };
            let answer = question(host, &instance);
            lock(&sink).insert(instance.id, answer);
        }
    });
    // Those that are left behind find nobody else to ask about.
    let left = queues.iter().flat_map(|queue| std::mem::take(&mut *lock(queue)));
    let unasked: BTreeSet<InstanceId> = left.map(|instance| instance.id).collect();
    let answers = std::mem::take(&mut *lock(&told));
    silent.retain(|id| !answers.contains_key(id) && !unasked.contains(id));
    Heard {
        answers,
        silent,
        unasked,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, mpsc};

    use super::*;
    use crate::answer::Judgement;
    use crate::hypervisor::fake::Fleet;
    use crate::names::{Label, StoreId, instance_uuid};

    fn limits(calls_per_host: u32) -> Limits {
        Limits {
            calls_per_host,
            starts_per_host: 1,
            call_timeout: Duration::from_secs(30),
        }
    }

    #[test]
    fn a_question_that_panics_costs_the_answer_of_its_host_and_says_so_at_once() {
        let fleet = Fleet::new();
        let host = |name: &str| {
            let host = Host {
                name: Label::new(name).unwrap(),
                uri: "test:///default".to_owned(),
                pool: "default".to_owned(),
                migration_address: None,
            };
            fleet.host(&host, &limits(1))
        };
        let asked = vec![(host("kvm1"), 1), (host("kvm2"), 2)];
        let answers = ask_all(asked, Duration::from_secs(600), |_, number| {
            assert_ne!(number, 1, "an odd one");
            Ok(number)
        });
        let said = answers[0].as_ref().unwrap_err();
        assert_eq!(said.kind, FaultKind::Other);
        assert!(said.message.contains("a fault of vmss"), "{said}");
        assert_eq!(answers[1], Ok(2));
    }

    /// Asks about the instances 1 to `many` of one host.
    fn ask_about<T: Send + 'static>(
        many: u64,
        patience: Duration,
        question: impl Fn(u64) -> T + Send + Sync + 'static,
    ) -> Heard<T> {
        let label = |text| Label::new(text).unwrap();
        let host = Host {
            name: label("kvm1"),
            uri: "test:///default".to_owned(),
            pool: "default".to_owned(),
            migration_address: None,
        };
        let (set, store) = (label("web"), StoreId(uuid::Uuid::nil()));
        let instances = (1..=many).map(InstanceId).map(|id| InstanceRef {
            set: set.clone(),
            store,
            id,
            name: format!("web-{id}"),
            uuid: instance_uuid(store, &set, id),
            epoch: crate::epoch::Epoch::default(),
        });
        let ask = vec![(&host, instances.collect())];
        ask_each(&*Fleet::new(), &limits(4), ask, patience, move |_, instance| {
            question(instance.id.0)
        })
    }

    fn silence() -> HypervisorError {
        HypervisorError::new(FaultKind::AgentSilent, "asking", "no answer within 2 s")
    }

    #[test]
    fn each_guest_has_its_turn_though_all_others_hang() {
        for (calls, at_once) in [(1, 1), (2, 2), (4, 3)] {
            for turns in [0, 1, 2, 100] {
                let time = turns_of(turns * at_once, &limits(calls));
                assert_eq!(time, OF_ONE_GUEST * u32::try_from(turns).unwrap());
            }
        }
        assert_eq!(turns_of(4, &limits(4)), OF_ONE_GUEST * 2);
    }

    #[test]
    fn guests_that_hang_hold_nobody_else() {
        let (well, patience) = (Mutex::new(0), Duration::from_secs(20));
        let all_are_well = Condvar::new();
        let heard = ask_about(12, patience, move |id| {
            let mut well = well.lock().unwrap();
            if id > 2 {
                *well += 1;
                all_are_well.notify_all();
                return Ok(());
            }
            // The first two answer nothing until everybody else has.
            while *well < 10 {
                well = all_are_well.wait(well).unwrap();
            }
            Err(silence())
        });
        let answers = judged(heard, patience);
        let bad: Vec<u64> = (answers.iter())
            .filter(|(_, a)| !a.is_good())
            .map(|(id, _)| id.0)
            .collect();
        assert_eq!((answers.len(), bad), (12, vec![1, 2]));
    }

    #[test]
    fn who_was_not_asked_has_no_answer_and_is_not_asked_later() {
        let (release, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let asked: Arc<Mutex<BTreeSet<InstanceId>>> = Arc::default();
        // Dropped with the question once the last thread has ended.
        let (is_asking, ended) = mpsc::channel::<()>();
        let (note, patience) = (Arc::clone(&asked), Duration::from_millis(100));
        let heard = ask_about(9, patience, move |id| {
            let _is_asking = &is_asking;
            note.lock().unwrap().insert(InstanceId(id));
            let _ = gate.lock().unwrap().recv();
            Ok(())
        });
        drop(release);
        let _ = ended.recv();
        let asked = asked.lock().unwrap();
        assert!(asked.len() <= SIDE_BY_SIDE, "{asked:?}");
        let answers = judged(heard, patience);
        assert!(answers.keys().eq(asked.iter()), "{answers:?}");
        assert!(
            answers
                .values()
                .all(|a| *a == Answer::Silent { within: patience })
        );
    }

    #[test]
    fn a_host_that_could_not_ask_says_nothing_of_its_guests() {
        let said = |kind| unanswered(HypervisorError::new(kind, "asking", "x")).judgement();
        for kind in [FaultKind::Unreachable, FaultKind::TimedOut, FaultKind::Denied] {
            assert_eq!(said(kind), Judgement::Unknown, "{kind:?}");
        }
        assert_eq!(said(FaultKind::AgentBroken), Judgement::Unknown);
        assert_eq!(said(FaultKind::AgentAbsent), Judgement::Unknown);
        assert_eq!(said(FaultKind::AgentSilent), Judgement::Bad);
        assert_eq!(said(FaultKind::Other), Judgement::Bad);
    }
}
