//! Two commands at once: what one has planned when the other asks for something else.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use vmss::autoscale::metric::External;
use vmss::names::Label;
use vmss::numbers::{Numbers, Range};
use vmss::store::Store as _;
use vmss::store::sqlite::Sqlite;
use vmss::world::World;

use super::theatre::{Capture, Theatre};

/// Numbers that take so long to come that another evaluation begins and ends meanwhile.
struct Slow {
    numbers: Arc<dyn Numbers>,
    /// The other one's world, and what time passes before it.
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Numbers for Slow {
    fn now(&self, metric: &External) -> Result<f64, String> {
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        self.numbers.now(metric)
    }

    fn range(&self, range: &Range<'_>) -> Result<Vec<(Timestamp, f64)>, String> {
        self.numbers.range(range)
    }
}

fn evaluate(world: &World) -> u8 {
    vmss::run(["autoscale"], world)
}

/// What the second evaluation said, which took place while the first measured, and what the first did. The second decides
/// `ahead` of when the first began; afterwards the clock is set back.
fn both(ahead: Duration, set_back: Duration) -> (String, String) {
    let mut theatre = Theatre::new();
    let prepared = [
        "host rack-a kvm1",
        "host rack-b kvm2",
        "definition [autoscale]",
        "definition min = 1",
        "definition max = 20",
        "definition warm_up = \"0s\"",
        "definition prometheus = \"http://127.0.0.1:9090\"",
        "definition [autoscale.metrics.work]",
        "definition prometheus = \"work\"",
        "definition of = \"set\"",
        "definition [[autoscale.rules]]",
        "definition when = \"work > 50 last 0s\"",
        "definition scale = \"out 2\"",
        "definition cooldown = \"1m\"",
        "define 2",
        "vmss create",
        "number work 900",
    ];
    for line in prepared {
        let (exit, _, said) = theatre.command(line);
        assert_eq!(exit, 0, "{line}: {said}");
    }
    let (first, second) = (Capture::default(), Capture::default());
    let mut world = theatre.world(&Capture::default(), &first);
    let other = theatre.world(&Capture::default(), &second);
    let clock = theatre.stage.fleet.clock();
    world.numbers = Arc::new(Slow {
        numbers: Arc::clone(&other.numbers),
        meanwhile: Mutex::new(Some(Box::new(move || {
            clock.sleep(ahead);
            assert_eq!(evaluate(&other), 0);
            clock.set_back(set_back);
        }))),
    });
    assert_eq!(evaluate(&world), 0, "{}", first.text());
    (second.text(), first.text())
}

#[test]
fn a_rule_that_has_fired_while_another_evaluation_measured_holds_that_one_back() {
    let (second, first) = both(Duration::from_secs(5), Duration::ZERO);
    assert!(second.contains("web: out from 2 to 4: work is 450"), "{second}");
    assert!(
        first.contains("web: stays at 4") && first.contains("cooldown"),
        "{first}"
    );
}

#[test]
fn a_rule_that_has_fired_by_a_clock_that_is_a_little_ahead_holds_others_back() {
    let (second, first) = both(Duration::from_secs(5), Duration::from_secs(3));
    assert!(second.contains("web: out from 2 to 4: work is 450"), "{second}");
    assert!(
        first.contains("web: stays at 4") && first.contains("cooldown"),
        "{first}"
    );
}

/// A set of four, and its store.
fn four() -> (Theatre, std::path::PathBuf) {
    let mut theatre = Theatre::new();
    for line in ["host rack-a kvm1", "host rack-b kvm2", "define 4", "vmss create"] {
        assert_eq!(theatre.command(line).0, 0, "{line}");
    }
    let path = theatre.folder().join("state.db");
    (theatre, path)
}

fn uuids(theatre: &Theatre) -> Vec<uuid::Uuid> {
    let hosts = ["kvm1", "kvm2"].iter();
    let domains = hosts.flat_map(|host| theatre.stage.fleet.domains(host));
    domains.map(|domain| domain.uuid).collect()
}

/// Between the plan of a scale in and its being carried out, the capacity is raised.
#[test]
fn nobody_goes_by_a_plan_that_was_made_before_more_were_wanted() {
    let (theatre, path) = four();
    let before = uuids(&theatre);
    let said = Capture::default();
    let mut world = theatre.world(&Capture::default(), &said);
    // Drawn is for each plan, once the record was read.
    world.draw = Box::new(move || {
        let (store, web) = (Sqlite::open(&path).unwrap(), Label::new("web").unwrap());
        let (mut record, version) = store.get(&web).unwrap().unwrap();
        if record.capacity == 1 {
            record.capacity = 5;
            store.put(&web, &record, Some(version)).unwrap();
        }
        uuid::Uuid::new_v4()
    });
    assert_eq!(vmss::run(["scale", "1", "--yes"], &world), 0, "{}", said.text());
    let after = uuids(&theatre);
    assert_eq!(after.len(), 5, "{}", said.text());
    let gone: Vec<_> = before.iter().filter(|uuid| !after.contains(uuid)).collect();
    assert!(gone.is_empty(), "{}", said.text());
}

/// A machine is suspended between its plan and its carrying out, and another has followed as the holder of the lease.
#[test]
fn whoever_has_lost_the_lease_carries_out_nothing() {
    let (theatre, path) = four();
    let before = uuids(&theatre);
    let said = Capture::default();
    let mut world = theatre.world(&Capture::default(), &said);
    let (other, has_followed) = (world.env.me.clone(), Mutex::new(false));
    world.draw = Box::new(move || {
        let store = Sqlite::open(&path).unwrap().judging(Arc::new(|_| Some(false)));
        let (record, _) = store.get(&Label::new("web").unwrap()).unwrap().unwrap();
        let mut has_followed = has_followed.lock().unwrap();
        if record.capacity == 1 && !std::mem::replace(&mut has_followed, true) {
            store
                .acquire("set/web", &other, Timestamp::UNIX_EPOCH, None)
                .unwrap();
        }
        uuid::Uuid::new_v4()
    });
    let exit = vmss::run(["scale", "1", "--yes"], &world);
    assert_eq!(exit, 7, "{}", said.text());
    assert!(
        said.text().contains("was taken over by another process"),
        "{}",
        said.text()
    );
    assert_eq!(uuids(&theatre), before, "{}", said.text());
}
