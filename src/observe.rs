//! Observation: all hosts side by side, each with its own deadline. A host that hangs costs its own answer, no more.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::hypervisor::{FaultKind, Hosts, Hypervisor, HypervisorError, Pulse};
use crate::inventory::{Answer, HostView, Inventory, View};
use crate::names::{InstanceId, Label, StoreId};
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
    let (tx, rx) = mpsc::channel();
    let mut answers: Vec<Option<Result<T, HypervisorError>>> = Vec::new();
    for (i, (host, question)) in hosts.into_iter().enumerate() {
        answers.push(None);
        let (tx, ask) = (tx.clone(), Arc::clone(&ask));
        let spawned = thread::Builder::new().name(format!("ask-{i}")).spawn(move || {
            // The receiver may have given up: then nobody wants the answer.
            let _ = tx.send((i, ask(&*host, question)));
        });
        if let Err(e) = spawned {
            answers[i] = Some(Err(HypervisorError::new(
                FaultKind::Other,
                "starting a thread",
                e.to_string(),
            )));
        }
    }
    drop(tx);
    let end = Instant::now() + deadline;
    while answers.iter().any(Option::is_none) {
        match rx.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok((i, answer)) => answers[i] = Some(answer),
            Err(_) => break,
        }
    }
    (answers.into_iter())
        .map(|answer| {
            answer.unwrap_or_else(|| {
                Err(HypervisorError::new(
                    FaultKind::TimedOut,
                    "waiting for an answer",
                    format!("none came within {} s", deadline.as_secs_f64()),
                ))
            })
        })
        .collect()
}

/// Observes the set on each of `hosts`.
pub fn observe(
    hosts: &dyn Hosts,
    on: &[Host],
    limits: &Limits,
    set: &Label,
    stores: &[StoreId],
) -> Inventory {
    let open = on.iter().map(|h| (hosts.host(h, limits), ())).collect();
    let (asked, stores) = (set.clone(), stores.to_vec());
    let answers = ask_all(open, limits.call_timeout, move |host, ()| {
        host.observe(&asked, &stores)
    });
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
        answers: BTreeMap::new(),
        reached: BTreeMap::new(),
        balancers: Vec::new(),
    }
}

/// How long one guest may take for a command that only reads: so that others of its host have their turn.
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
) -> BTreeMap<InstanceId, Vec<IpAddr>> {
    let told: Arc<Mutex<BTreeMap<InstanceId, Vec<IpAddr>>>> = Arc::default();
    let sink = Arc::clone(&told);
    ask_all(split(hosts, limits, ask), patience, move |host, instances| {
        for instance in &instances {
            if let Ok(addresses) = host.addresses(instance) {
                lock(&sink).insert(instance.id, addresses);
            }
        }
        Ok(())
    });
    std::mem::take(&mut *lock(&told))
}

/// What guest agents answer to a ping, as [`addresses`] asks.
pub fn pings(
    hosts: &dyn Hosts,
    limits: &Limits,
    ask: Vec<(&Host, Vec<InstanceRef>)>,
    patience: Duration,
) -> BTreeMap<InstanceId, Answer> {
    let asked: Vec<InstanceId> = ask.iter().flat_map(|(_, i)| i.iter().map(|i| i.id)).collect();
    let told: Arc<Mutex<BTreeMap<InstanceId, Answer>>> = Arc::default();
    let sink = Arc::clone(&told);
    ask_all(split(hosts, limits, ask), patience, move |host, instances| {
        for instance in &instances {
            let (good, said) = match host.ping(instance) {
                Ok(()) => (true, "the agent answers".to_owned()),
                Err(e) => (false, e.message),
            };
            lock(&sink).insert(instance.id, Answer { good, said });
        }
        Ok(())
    });
    let mut answers = std::mem::take(&mut *lock(&told));
    for id in asked {
        answers.entry(id).or_insert_with(|| Answer {
            good: false,
            said: format!("no answer within {} s", patience.as_secs_f64()),
        });
    }
    answers
}

/// What a command prints in guests, as [`addresses`] asks: its standard output, or why there is none.
pub fn outputs(
    hosts: &dyn Hosts,
    limits: &Limits,
    ask: Vec<(&Host, Vec<InstanceRef>)>,
    command: Vec<String>,
    patience: Duration,
) -> BTreeMap<InstanceId, Result<String, String>> {
    let asked: Vec<InstanceId> = ask.iter().flat_map(|(_, i)| i.iter().map(|i| i.id)).collect();
    let told: Arc<Mutex<BTreeMap<InstanceId, Result<String, String>>>> = Arc::default();
    let sink = Arc::clone(&told);
    let pulse = Arc::new(Pulse::silent());
    let beat = Arc::clone(&pulse);
    ask_all(split(hosts, limits, ask), patience, move |host, instances| {
        for instance in &instances {
            let ran = host.exec(instance, &command, OF_ONE_GUEST, &beat);
            let output = match ran {
                Ok(ran) if ran.code == 0 => Ok(String::from_utf8_lossy(&ran.stdout).into_owned()),
                Ok(ran) => Err(format!("{} ended with {}", command.join(" "), ran.code)),
                Err(e) => Err(e.message),
            };
            lock(&sink).insert(instance.id, output);
        }
        Ok(())
    });
    // Those that are left behind need not go on to the next guest.
    pulse.cancel();
    let mut outputs = std::mem::take(&mut *lock(&told));
    for id in asked {
        let late = || Err(format!("no answer within {} s", patience.as_secs_f64()));
        outputs.entry(id).or_insert_with(late);
    }
    outputs
}

fn split(
    hosts: &dyn Hosts,
    limits: &Limits,
    ask: Vec<(&Host, Vec<InstanceRef>)>,
) -> Vec<(Arc<dyn Hypervisor>, Vec<InstanceRef>)> {
    let mut questions = Vec::new();
    for (host, instances) in ask.into_iter().filter(|(_, i)| !i.is_empty()) {
        let open = hosts.host(host, limits);
        let share = instances.len().div_ceil(SIDE_BY_SIDE);
        questions.extend(
            instances
                .chunks(share)
                .map(|part| (Arc::clone(&open), part.to_vec())),
        );
    }
    questions
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
