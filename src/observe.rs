//! Observation: all hosts side by side, each with its own deadline. A host that hangs costs its own answer, no more.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::hypervisor::{FaultKind, Hosts, Hypervisor, HypervisorError};
use crate::inventory::{HostView, Inventory, View};
use crate::names::{Label, StoreId};
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
    }
}
