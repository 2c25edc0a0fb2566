//! The same question put to guests or hosts about several instances, side by side, told in order of ids.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::commands::Context;
use crate::hypervisor::{FaultKind, Hypervisor, HypervisorError, Pulse};
use crate::inventory::{Inventory, View};
use crate::names::{InstanceId, Label, instance_name};
use crate::plan::action::InstanceRef;
use crate::record::Record;
use crate::supervise::caught;

/// Instances that are asked at the same time.
const AT_ONCE: usize = 32;

/// How often it is looked whether the operator wants to stop, or a host has stopped answering.
const GLANCE: Duration = Duration::from_millis(50);

/// One instance, and the host to ask about it.
pub struct Job {
    /// The instance.
    pub instance: InstanceRef,
    /// The host it is on.
    pub host: Label,
    /// That host; or why it can't be asked.
    open: std::result::Result<Arc<dyn Hypervisor>, String>,
    /// What is asked: "running a command in web-1".
    doing: String,
    pulse: Pulse,
}

/// What came of a job.
pub type Outcome<T> = std::result::Result<T, HypervisorError>;

/// The jobs of those `ids` that are known; `doing` goes before an instance's name in what is said of failures.
pub fn jobs(
    ctx: &Context<'_>,
    record: &Record,
    inventory: &Inventory,
    ids: &[InstanceId],
    doing: &str,
) -> Vec<Arc<Job>> {
    let set = &record.applied;
    let job = |id: &InstanceId| {
        let known = record.known.get(id)?;
        let view = inventory.host(&known.host).map(|h| &h.view);
        let open = match (set.host(&known.host), view) {
            (_, Some(View::Unseen { reason })) => Err(reason.clone()),
            (Some(host), Some(_)) => Ok(ctx.world.hosts.host(host, &set.limits)),
            _ => Err("the definition has dropped it".to_owned()),
        };
        let name = instance_name(&set.name, *id);
        Some(Arc::new(Job {
            doing: format!("{doing} {name}"),
            instance: InstanceRef {
                set: set.name.clone(),
                store: record.store,
                id: *id,
                name,
                uuid: known.uuid,
                epoch: record.epoch,
            },
            host: known.host.clone(),
            open,
            pulse: Pulse::silent(),
        }))
    };
    ids.iter().filter_map(job).collect()
}

/// Has `ask` done for all jobs, some at once, and hands their outcomes to `done` in the jobs' order, each as soon as
/// those before it are there. One whose host gives no sign of life for `patience` is given up; its thread is left behind.
pub fn ask_each<T: Send + 'static>(
    ctx: &Context<'_>,
    jobs: &[Arc<Job>],
    patience: Duration,
    ask: impl Fn(&dyn Hypervisor, &InstanceRef, &Pulse) -> Outcome<T> + Send + Sync + 'static,
    mut done: impl FnMut(&Job, Outcome<T>),
) {
    let ask = Arc::new(ask);
    let (tx, rx) = mpsc::channel::<(usize, Outcome<T>)>();
    let mut waiting: VecDeque<usize> = (0..jobs.len()).collect();
    let mut in_flight: BTreeSet<usize> = BTreeSet::new();
    let mut outcomes: BTreeMap<usize, Outcome<T>> = BTreeMap::new();
    let mut next = 0;
    while next < jobs.len() {
        while in_flight.len() < AT_ONCE
            && let Some(at) = waiting.pop_front()
        {
            in_flight.insert(at);
            begin(ctx, at, &jobs[at], &ask, &tx);
        }
        if let Ok((at, outcome)) = rx.recv_timeout(GLANCE)
            && in_flight.remove(&at)
        {
            outcomes.insert(at, outcome);
        }
        for at in &in_flight {
            if ctx.world.interrupt.is_set() {
                jobs[*at].pulse.cancel();
            }
        }
        while let Some(at) = (in_flight.iter().copied()).find(|at| jobs[*at].pulse.silence() > patience) {
            let job = &jobs[at];
            in_flight.remove(&at);
            job.pulse.cancel();
            let text = format!(
                "host {} gave no sign of life for {} s",
                job.host,
                patience.as_secs_f64()
            );
            outcomes.insert(at, Err(job.fault(FaultKind::Unreachable, text)));
        }
        while let Some(outcome) = outcomes.remove(&next) {
            done(&jobs[next], outcome);
            next += 1;
        }
    }
}

/// Begins one job on a thread of its own, which sends how it ended.
fn begin<T: Send + 'static>(
    ctx: &Context<'_>,
    at: usize,
    job: &Arc<Job>,
    ask: &Arc<impl Fn(&dyn Hypervisor, &InstanceRef, &Pulse) -> Outcome<T> + Send + Sync + 'static>,
    tx: &mpsc::Sender<(usize, Outcome<T>)>,
) {
    job.pulse.beat();
    // Whoever gave the job up wants no outcome any more.
    let end = |outcome: Outcome<T>| drop(tx.send((at, outcome)));
    if ctx.world.interrupt.is_set() {
        return end(Err(job.fault(FaultKind::Cancelled, "not begun: interrupted")));
    }
    let host = match &job.open {
        Ok(host) => Arc::clone(host),
        Err(why) => {
            let text = format!("host {} was not seen: {why}", job.host);
            return end(Err(job.fault(FaultKind::Unreachable, text)));
        }
    };
    let run = {
        let (job, ask, tx) = (Arc::clone(job), Arc::clone(ask), tx.clone());
        move || {
            let outcome = caught(|| ask(host.as_ref(), &job.instance, &job.pulse))
                .unwrap_or_else(|panic| Err(job.fault(FaultKind::Other, panic)));
            drop(tx.send((at, outcome)));
        }
    };
    if let Err(e) = std::thread::Builder::new().name("ask".into()).spawn(run) {
        end(Err(job.fault(FaultKind::Other, format!("starting a thread: {e}"))));
    }
}

impl Job {
    fn fault(&self, kind: FaultKind, text: impl Into<String>) -> HypervisorError {
        HypervisorError::new(kind, &self.doing, text)
    }
}
