//! The controller in a world where vmss itself breaks: a panic, a hang.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use vmss::hypervisor::fake::Fleet;
use vmss::hypervisor::{Hosts, Hypervisor, HypervisorError, Pulse, Settled};
use vmss::model::Model;
use vmss::plan::action::{InstanceRef, InstanceSpec};
use vmss::scaleset::{Host, Limits};
use vmss::world::{Clock, Interrupt, Notice};

use super::theatre::{Capture, Theatre};

/// The fleet, as one finds it who trips over it.
struct Tripping {
    fleet: Arc<Fleet>,
    /// Asked before each host is given out: panics, or hangs, or does nothing.
    trip: Box<dyn Fn() + Send + Sync>,
}

impl Hosts for Tripping {
    fn host(&self, host: &Host, limits: &Limits) -> Arc<dyn Hypervisor> {
        (self.trip)();
        self.fleet.host(host, limits)
    }

    fn migrate(
        &self,
        from: &Host,
        to: &Host,
        limits: &Limits,
        instance: &InstanceRef,
        spec: &InstanceSpec,
        model: &Model,
        pulse: &Pulse,
    ) -> Result<(), HypervisorError> {
        self.fleet.migrate(from, to, limits, instance, spec, model, pulse)
    }

    fn settle(
        &self,
        from: &Host,
        to: &Host,
        limits: &Limits,
        instance: &InstanceRef,
        pulse: &Pulse,
    ) -> Result<Settled, HypervisorError> {
        self.fleet.settle(from, to, limits, instance, pulse)
    }
}

/// What a test does to the time, and sees of it.
#[derive(Clone, Default)]
struct Time {
    /// By how much it is later than it is.
    ahead: Arc<Mutex<Duration>>,
    /// How often anybody has waited.
    waits: Arc<AtomicUsize>,
}

/// Spans are real, as threads are; what is waited for comes at once.
struct Hurried {
    began: Instant,
    time: Time,
}

impl Clock for Hurried {
    fn now(&self) -> Timestamp {
        Timestamp::constant(1_767_225_600, 0) + self.steady()
    }

    fn steady(&self) -> Duration {
        self.began.elapsed() + *self.time.ahead.lock().unwrap()
    }

    fn wait(&self, _: Duration, _: &Interrupt) {
        self.time.waits.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn theatre() -> Theatre {
    let mut theatre = Theatre::new();
    for line in ["host rack-a kvm1", "host rack-b kvm2", "define 2", "vmss create"] {
        let (exit, _, said) = theatre.command(line);
        assert_eq!(exit, 0, "{line}: {said}");
    }
    theatre
}

/// Notices after which what is waited for does not come any more.
const FAR_TOO_MANY: usize = 20_000;

/// What the service manager was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn note(&self, notice: Notice<'_>) {
        let text = match notice {
            Notice::Status(text) => text.to_owned(),
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs the controller until it is enough of what the service manager is `told`. Returns what was written.
fn run(
    theatre: &Theatre,
    told: &Told,
    time: &Time,
    trip: impl Fn() + Send + Sync + 'static,
    is_enough: impl Fn(&[String]) -> bool + Send + Sync + 'static,
) -> String {
    let (stdout, stderr) = (Capture::default(), Capture::default());
    let mut world = theatre.world(&stdout, &stderr);
    world.hosts = Arc::new(Tripping {
        fleet: Arc::clone(&theatre.stage.fleet),
        trip: Box::new(trip),
    });
    world.clock = Arc::new(Hurried {
        began: Instant::now(),
        time: time.clone(),
    });
    let (hears, interrupt) = (told.clone(), world.interrupt.clone());
    world.notify = Box::new(move |notice| {
        hears.note(notice);
        let all = hears.all();
        if !interrupt.is_set() && (is_enough(&all) || all.len() > FAR_TOO_MANY) {
            interrupt.press();
        }
    });
    let exit = vmss::run(["run", "--interval", "1s"], &world);
    assert_eq!(exit, 0, "{}", stderr.text());
    stderr.text()
}

#[test]
fn a_set_whose_tending_panics_is_tended_again_and_that_is_told() {
    let theatre = theatre();
    let has_tripped = AtomicBool::new(false);
    let trip = move || {
        assert!(has_tripped.swap(true, Ordering::SeqCst), "a stone in the way");
    };
    let well = "web: converged, 2 of 2 running";
    let told = Told::default();
    let said = run(&theatre, &told, &Time::default(), trip, move |told| {
        told.iter().any(|t| t == well)
    });
    let told = told.all();
    let broke =
        "web: error: tending broke off (a fault of vmss: a stone in the way) and is begun anew in 1 s";
    let at = |text: &str| told.iter().position(|t| t == text);
    assert!(at(broke).is_some() && at(broke) < at(well), "{told:?}");
    assert!(said.contains(broke) && said.contains(well), "{said}");
}

#[test]
fn while_the_tending_of_a_set_hangs_the_service_manager_is_not_told_that_all_is_well() {
    const SILENT: &str = "web: no sign of life from what tends it for 36";
    let theatre = theatre();
    let (told, time) = (Told::default(), Time::default());
    // What the service manager had been told when the hang ended.
    let ended: Arc<Mutex<Option<usize>>> = Arc::default();
    let trip = {
        let (told, time, ended) = (told.clone(), time.clone(), Arc::clone(&ended));
        let is_first = AtomicBool::new(true);
        move || {
            if !is_first.swap(false, Ordering::SeqCst) {
                return;
            }
            *time.ahead.lock().unwrap() = Duration::from_secs(3600);
            let is_told =
                |all: Vec<String>| all.iter().any(|t| t.starts_with(SILENT)) || all.len() > FAR_TOO_MANY;
            while !is_told(told.all()) {
                std::thread::yield_now();
            }
            // Many rounds of the controller later it still hangs.
            let then = time.waits.load(Ordering::SeqCst);
            while time.waits.load(Ordering::SeqCst) < then + 100 && told.all().len() < FAR_TOO_MANY {
                std::thread::yield_now();
            }
            *ended.lock().unwrap() = Some(told.all().len());
        }
    };
    let has_ended = Arc::clone(&ended);
    let said = run(&theatre, &told, &time, trip, move |told| {
        let ended = *has_ended.lock().unwrap();
        ended.is_some_and(|at| told[at..].iter().any(|t| t == "Alive"))
    });
    assert!(said.contains(SILENT), "{said}");
    let told = told.all();
    let silent: Vec<usize> = (0..told.len())
        .filter(|at| told[*at].starts_with(SILENT))
        .collect();
    assert_eq!(silent.len(), 1, "{told:?}");
    let while_it_hung = &told[silent[0] + 1..ended.lock().unwrap().unwrap()];
    assert_eq!(while_it_hung, [""; 0], "{told:?}");
}
