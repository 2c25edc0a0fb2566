//! The loop that every changing command runs: observe, plan, execute, again, until there is nothing left to do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use jiff::Timestamp;

use crate::error::{Error, Exit, Result};
use crate::event::{Event, Listener};
use crate::execute::{End, ImageSource, Means, Models, execute};
use crate::hypervisor::{FaultKind, LocalImage};
use crate::inventory::{Inventory, View};
use crate::model::{ImageDigest, Model};
use crate::names::Label;
use crate::observe::observe;
use crate::plan::action::Step;
use crate::plan::report::{Report, Verdict};
use crate::plan::{Experience, Lesson, Situation, plan};
use crate::record::Record;
use crate::scaleset::{Host, ScaleSet};
use crate::store::{Lease, Store, StoreError, Version};
use crate::world::{Clock, World};

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ending {
    /// How the set stands.
    pub report: Report,
    /// What the last plan would still do: what is left after an interrupt.
    pub left: Vec<Step>,
    /// Whether the operator stopped it.
    pub interrupted: bool,
    /// Steps that were done, in order.
    pub done: Vec<Step>,
    /// Steps that failed, with what was said.
    pub failed: Vec<(Step, String)>,
    /// What was seen last.
    pub inventory: Inventory,
    /// The record as it was last.
    pub record: Record,
}

impl Ending {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        if self.interrupted {
            return Exit::Interrupted;
        }
        match self.report.verdict() {
            Verdict::Converged => Exit::Converged,
            Verdict::Unseen => Exit::Unreachable,
            Verdict::Blocked => Exit::Blocked,
            Verdict::Failed => Exit::Failed,
        }
    }
}

/// More batches than any honest run needs: reaching it means that the hosts undo what is done.
const MOST_BATCHES: u32 = 200;

/// Changes the record by `change` until nobody else was faster. `change` says whether it changed anything.
pub fn amend(
    store: &dyn Store,
    set: &Label,
    mut change: impl FnMut(&mut Record) -> bool,
) -> Result<(Record, Version)> {
    loop {
        let Some((mut record, version)) = store.get(set)? else {
            return Err(Error::message(
                Exit::Failed,
                format!("the record of {set} is gone: it was deleted by another command"),
            ));
        };
        if !change(&mut record) {
            return Ok((record, version));
        }
        match store.put(set, &record, Some(version)) {
            Ok(version) => return Ok((record, version)),
            Err(StoreError::Changed(_)) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Observes all hosts of a set, those its instances are known to be on though the definition has dropped them left out.
pub fn look(world: &World, set: &ScaleSet, record: &Record) -> Inventory {
    let hosts: Vec<Host> = set.hosts().map(|(_, h)| h.clone()).collect();
    observe(&*world.hosts, &hosts, &set.limits, &set.name, &record.stores())
}

/// Runs the loop on `set` under `lease`.
pub fn converge(
    world: &World,
    store: &dyn Store,
    lease: &Lease,
    set: &Label,
    listener: &Arc<dyn Listener>,
) -> Result<Ending> {
    let mut experience = Experience::default();
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    let images: LocalImages = Arc::default();
    let mut told: HashMap<Label, String> = HashMap::new();
    for number in 1.. {
        store.renew(lease, world.clock.now())?;
        let (record, _) = amend(store, set, |_| false)?;
        let scale_set = record.applied.clone();
        let inventory = look(world, &scale_set, &record);
        tell_unseen(&inventory, &mut told, listener);
        let (record, _) = amend(store, set, |record| record.absorb(&inventory))?;
        let now = world.clock.now();
        let situation = Situation {
            set: &scale_set,
            record: &record,
            inventory: &inventory,
            experience: &experience,
            now,
        };
        let plan = plan(situation);
        let interrupted = world.interrupt.is_set();
        if plan.steps.is_empty() || interrupted {
            // A run that was asked to stop but has nothing left to do was not cut short.
            let interrupted = interrupted && !plan.steps.is_empty();
            let left = plan.steps;
            return Ok(Ending {
                report: plan.report,
                left,
                interrupted,
                done,
                failed,
                inventory,
                record,
            });
        }
        if number > MOST_BATCHES {
            let text = format!(
                "after {MOST_BATCHES} batches there is still something to do: {}",
                first(&plan.steps)
            );
            return Err(Error::message(Exit::Failed, text).hint(
                "look whether something on the hosts undoes what vmss does, then run the command again",
            ));
        }
        amend(store, set, |record| record.reserve(&plan.steps))?;
        listener.event(&Event::Batch {
            number,
            steps: plan.steps.clone(),
        });
        let means = Means {
            limits: scale_set.limits.clone(),
            models: models(&record),
            image: image_source(world, &scale_set, &images),
            stores: record.stores(),
            listener: Arc::clone(listener),
            interrupt: world.interrupt.clone(),
        };
        let host = |name: &Label| {
            scale_set
                .host(name)
                .map(|h| world.hosts.host(h, &scale_set.limits))
        };
        for ended in execute(&plan.steps, host, &means) {
            if let Some(lesson) = lesson(&ended.end) {
                experience.learn(&ended.step, lesson);
            }
            match ended.end {
                End::Done => done.push(ended.step),
                End::Failed(e) => failed.push((ended.step, e.to_string())),
                End::Kept | End::NotBegun(_) => {}
            }
        }
    }
    unreachable!("the range of batches has no end, every way out is a return")
}

fn first(steps: &[Step]) -> String {
    steps.first().map_or_else(String::new, |s| {
        format!("{} {} on {}", s.action.verb(), s.action.subject(), s.host)
    })
}

fn tell_unseen(inventory: &Inventory, told: &mut HashMap<Label, String>, listener: &Arc<dyn Listener>) {
    for host in &inventory.hosts {
        if let View::Unseen { reason } = &host.view
            && told.insert(host.name.clone(), reason.clone()).is_none()
        {
            listener.event(&Event::HostUnseen {
                host: host.name.clone(),
                reason: reason.clone(),
            });
        }
    }
}

/// What a step's end has to teach, if anything.
fn lesson(end: &End) -> Option<Lesson> {
    match end {
        End::Kept => Some(Lesson::Kept),
        End::Failed(e) if e.kind == FaultKind::NotOurs => Some(Lesson::NameTaken(e.to_string())),
        End::Failed(e) => Some(Lesson::Failed(e.to_string())),
        End::Done | End::NotBegun(_) => None,
    }
}

type LocalImages = Arc<Mutex<HashMap<ImageDigest, LocalImage>>>;

fn models(record: &Record) -> Models {
    let models: HashMap<u32, Arc<Model>> = record
        .models
        .iter()
        .map(|r| (r.number, Arc::new(r.model.clone())))
        .collect();
    Arc::new(move |number| models.get(&number).cloned())
}

/// The local file of an image, looked at once per run.
fn image_source(world: &World, set: &ScaleSet, images: &LocalImages) -> ImageSource {
    let (images, source, cache) = (Arc::clone(images), set.image.clone(), world.env.cache.clone());
    Arc::new(move |wanted| {
        let mut known = images.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(image) = known.get(wanted) {
            return Ok(image.clone());
        }
        let found = crate::images::local(&source, &cache, &|_, _| {}).map_err(|e| e.to_string())?;
        if &found.image.digest != wanted {
            return Err(format!(
                "{} has changed since the set was made: its digest is {}, instances need {}; put the old image back \
                 or delete the set and create it anew",
                found.path.display(),
                found.image.digest.short(),
                wanted.short()
            ));
        }
        known.insert(wanted.clone(), found.clone());
        Ok(found)
    })
}

/// A set's lease, kept alive while it is held and given back when dropped.
pub struct Held {
    store: Arc<dyn Store>,
    /// The lease itself.
    pub lease: Lease,
    /// Dropped to end the thread that renews the lease.
    _keeping: mpsc::Sender<()>,
}

/// How often a lease is renewed: well within the time after which another machine may take it over. A batch that takes
/// long (an image on its way) must not lose it.
const RENEW: Duration = Duration::from_secs(20);

impl Held {
    fn new(store: &Arc<dyn Store>, lease: Lease, clock: &Arc<dyn Clock>) -> Self {
        let (keeping, ended) = mpsc::channel();
        let (shelf, kept, clock) = (Arc::clone(store), lease.clone(), Arc::clone(clock));
        let renew = move || {
            while ended.recv_timeout(RENEW) == Err(mpsc::RecvTimeoutError::Timeout) {
                // A lease that was lost shows before the next batch, where it stops the run.
                let _ = shelf.renew(&kept, clock.now());
            }
        };
        // Without the thread the lease is still renewed before every batch.
        let _ = std::thread::Builder::new().name("lease".into()).spawn(renew);
        Self {
            store: Arc::clone(store),
            lease,
            _keeping: keeping,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A lease that can't be given back now is taken over once this process is gone.
        let _ = self.store.release(&self.lease);
    }
}

/// Key of a set's lease.
pub fn lease_key(set: &Label) -> String {
    format!("set/{set}")
}

/// Takes the set's lease, waiting for it as long as `wait` says.
pub fn hold(
    world: &World,
    store: &Arc<dyn Store>,
    set: &Label,
    doing: &str,
    wait: Duration,
    listener: &Arc<dyn Listener>,
) -> Result<Held> {
    let mut me = world.env.me.clone();
    doing.clone_into(&mut me.doing);
    let began = std::time::Instant::now();
    let mut told = false;
    loop {
        let now: Timestamp = world.clock.now();
        match store.acquire(&lease_key(set), &me, now) {
            Ok(lease) => return Ok(Held::new(store, lease, &world.clock)),
            Err(StoreError::Held(other)) if began.elapsed() < wait && !world.interrupt.is_set() => {
                if !told {
                    told = true;
                    let text = format!(
                        "waiting for {} (pid {} on {}): {}",
                        other.user, other.pid, other.machine, other.doing
                    );
                    listener.event(&Event::Note { text });
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(e) => {
                let error = Error::from(e).context(format!("set {set} is in use"));
                return Err(error);
            }
        }
    }
}
