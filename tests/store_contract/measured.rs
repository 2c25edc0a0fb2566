//! Samples, counters and decisions of autoscaling.

use jiff::{SignedDuration, Timestamp};
use vmss::autoscale::{Counter, Decision, Move, Readings, Sample};
use vmss::names::InstanceId;
use vmss::store::{SAMPLES_LAST, SAMPLES_WHOLE, Store};

use super::{at, label, record};

fn sample(metric: &str, at: Timestamp, value: f64) -> Sample {
    Sample {
        missing: 1,
        ..Sample::each(metric, at, value, 3).unwrap()
    }
}

pub fn what_was_measured_comes_back_by_set_and_time(store: &dyn Store) {
    let set = label("measured");
    assert_eq!(store.samples(&set, Timestamp::MIN).unwrap(), []);
    assert_eq!(store.readings(&set).unwrap(), Readings::default());
    let mut readings = Readings::default();
    let counter = Counter {
        at: at(60),
        value: 12.5,
        of: None,
    };
    readings.note("host.cpu", InstanceId(3), counter);
    let all = [
        sample("host.cpu", at(0), 10.0),
        sample("host.cpu", at(60), 20.5),
        sample("lb.queue", at(60), 0.0),
    ];
    store
        .measured(&set, &all[..1], &Readings::default(), at(0))
        .unwrap();
    store.measured(&set, &all[1..], &readings, at(60)).unwrap();
    // Once more is no more.
    store.measured(&set, &all[1..], &readings, at(60)).unwrap();
    assert_eq!(store.samples(&set, at(0)).unwrap(), all);
    assert_eq!(store.samples(&set, at(1)).unwrap(), all[1..]);
    assert_eq!(store.readings(&set).unwrap(), readings);
    assert_eq!(store.samples(&label("measured-not"), at(0)).unwrap(), []);
}

pub fn what_is_no_number_breaks_no_later_look(store: &dyn Store) {
    let set = label("no-number");
    let mut readings = Readings::default();
    let counter = |value, of| Counter {
        at: at(60),
        value,
        of,
    };
    readings.note("guest.cpu", InstanceId(1), counter(5.0, Some(9.0)));
    let good = readings.clone();
    let mut samples = vec![sample("host.cpu", at(60), 10.0)];
    for (id, wild) in (2..).zip([f64::NAN, f64::INFINITY, f64::NEG_INFINITY]) {
        readings.note("guest.cpu", InstanceId(id), counter(wild, Some(9.0)));
        readings.note("guest.cpu", InstanceId(id + 10), counter(5.0, Some(wild)));
        samples.extend(Sample::of("guest.memory", at(60), &[1.0, wild], 0));
        samples.extend(Sample::each("guest.load", at(60), wild, 3));
        samples.extend(Sample::alone("jobs", at(60), wild));
    }
    store.measured(&set, &samples, &readings, at(60)).unwrap();
    assert_eq!(store.readings(&set).unwrap(), good);
    assert_eq!(store.samples(&set, at(0)).unwrap(), samples[..1]);
}

pub fn a_sample_of_the_moment_that_a_clock_shows_comes_back_as_of_that_moment(store: &dyn Store) {
    let set = label("moment");
    let now = Sample::moment("2026-01-01T00:00:00.123456789Z".parse().unwrap());
    let sample = sample("host.cpu", now, 1.0);
    store
        .measured(&set, std::slice::from_ref(&sample), &Readings::default(), now)
        .unwrap();
    assert_eq!(store.samples(&set, now).unwrap(), [sample]);
}

pub fn old_samples_are_thinned_out_and_then_forgotten(store: &dyn Store) {
    let set = label("old");
    // Steps of five minutes begin at full ones of universal time.
    let begin = at(300 * 1_000);
    let minute = |n: i64| begin.checked_add(SignedDuration::from_mins(n)).unwrap();
    let all: Vec<Sample> = (0..20).map(|n| sample("host.cpu", minute(n), 1.0)).collect();
    store
        .measured(&set, &all, &Readings::default(), minute(20))
        .unwrap();
    assert_eq!(store.samples(&set, begin).unwrap().len(), 20);
    let now = minute(12).checked_add(SAMPLES_WHOLE).unwrap();
    store.measured(&set, &[], &Readings::default(), now).unwrap();
    let left: Vec<Timestamp> = store.samples(&set, begin).unwrap().iter().map(|s| s.at).collect();
    let expected: Vec<Timestamp> = [0, 5, 10].into_iter().chain(12..20).map(minute).collect();
    assert_eq!(left, expected);
    let now = minute(6).checked_add(SAMPLES_LAST).unwrap();
    store.measured(&set, &[], &Readings::default(), now).unwrap();
    let left = store.samples(&set, begin).unwrap();
    assert!(left.iter().all(|s| s.at >= minute(6)), "{left:?}");
}

fn decision(second: i64, to: u32) -> Decision {
    Decision {
        at: at(second),
        from: 3,
        to,
        reason: format!("stays at {to}: nothing is the matter"),
        held: Vec::new(),
        profile: "default".to_owned(),
        min: 1,
        max: 9,
        default: 3,
        floor: None,
        recommended: to,
        moved: Move::None,
        measured: Vec::new(),
        verdicts: Vec::new(),
        outlook: None,
    }
}

pub fn a_decision_stands_beside_the_last_or_in_its_place(store: &dyn Store) {
    let set = label("decided");
    assert_eq!(store.decisions(&set, 9).unwrap(), []);
    // Nothing is there yet whose place it could take.
    store.decided(&set, &decision(0, 3), false).unwrap();
    store.decided(&set, &decision(1, 3), false).unwrap();
    store.decided(&set, &decision(2, 4), true).unwrap();
    store
        .decided(&label("decided-not"), &decision(2, 8), false)
        .unwrap();
    assert_eq!(
        store.decisions(&set, 9).unwrap(),
        [decision(2, 4), decision(1, 3)]
    );
    assert_eq!(store.decisions(&set, 1).unwrap(), [decision(2, 4)]);
    for second in 0..600 {
        store.decided(&set, &decision(second, 5), true).unwrap();
    }
    assert_eq!(store.decisions(&set, 1_000).unwrap().len(), 500);
}

pub fn what_was_measured_goes_with_its_set(store: &dyn Store) {
    let set = label("going");
    let version = store.put(&set, &record("going", 1), None).unwrap();
    let mut readings = Readings::default();
    let counter = Counter {
        at: at(0),
        value: 1.0,
        of: None,
    };
    readings.note("host.cpu", InstanceId(1), counter);
    store
        .measured(&set, &[sample("host.cpu", at(0), 1.0)], &readings, at(0))
        .unwrap();
    store.decided(&set, &decision(0, 3), true).unwrap();
    store.remove(&set, version).unwrap();
    assert_eq!(store.samples(&set, at(0)).unwrap(), []);
    assert_eq!(store.readings(&set).unwrap(), Readings::default());
    assert_eq!(store.decisions(&set, 9).unwrap(), []);
}
