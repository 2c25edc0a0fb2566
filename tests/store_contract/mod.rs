//! What every store must keep to: one suite over `&dyn Store`, run on each form of it.

mod measured;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;
use vmss::model::{Clone, Cpu, Firmware, Image, ImageDigest, ImageFormat, Model, Virtualization};
use vmss::names::{Label, StoreId};
use vmss::record::Record;
use vmss::scaleset::{
    FaultDomain, Host, ImageSource, Instance, Limits, Placement, ScaleIn, ScaleInPolicy, ScaleSet, Spread,
    State,
};
use vmss::store::holder::{LEASE, Liveness};
use vmss::store::{Holder, Operation, Store, StoreError, Version};
use vmss::units::Bytes;

/// Holders called "dead" are, those on "elsewhere" can't be told, all others live.
pub fn liveness() -> Liveness {
    Arc::new(|holder| match (holder.machine.as_str(), holder.user.as_str()) {
        ("elsewhere", _) => None,
        (_, user) => Some(user != "dead"),
    })
}

/// The whole contract. Every check uses a set of its own, so one store serves all.
pub fn check(store: &dyn Store) {
    a_record_comes_back_as_it_was_put(store);
    only_the_version_that_was_read_may_be_replaced(store);
    a_record_made_again_is_another(store);
    what_was_given_up_of_a_set_outlives_its_record(store);
    nothing_is_lost_between_threads(store);
    sets_are_sorted(store);
    a_lease_has_one_holder(store);
    a_dead_holder_is_followed_at_once(store);
    whoever_has_lost_the_lease_writes_nothing_under_it(store);
    a_live_holder_here_is_never_robbed(store);
    a_holder_elsewhere_is_followed_only_by_who_has_watched_its_lease(store);
    one_of_many_gets_the_lease(store);
    history_is_newest_first_and_by_set(store);
    history_is_pruned_by_set(store);
    measured::what_was_measured_comes_back_by_set_and_time(store);
    measured::a_sample_of_the_moment_that_a_clock_shows_comes_back_as_of_that_moment(store);
    measured::what_is_no_number_breaks_no_later_look(store);
    measured::old_samples_are_thinned_out_and_then_forgotten(store);
    measured::a_decision_stands_beside_the_last_or_in_its_place(store);
    measured::what_was_measured_goes_with_its_set(store);
}

fn a_record_comes_back_as_it_was_put(store: &dyn Store) {
    let set = label("roundtrip");
    assert!(store.get(&set).unwrap().is_none());
    let record = record("roundtrip", 3);
    let version = store.put(&set, &record, None).unwrap();
    assert_eq!(store.get(&set).unwrap(), Some((record, version)));
    assert_eq!(store.id().unwrap(), store.id().unwrap());
}

fn only_the_version_that_was_read_may_be_replaced(store: &dyn Store) {
    let set = label("cas");
    let changed = |r: Result<Version, StoreError>| matches!(r, Err(StoreError::Changed(s)) if s == set);
    assert!(
        changed(store.put(&set, &record("cas", 1), Some(Version(1)))),
        "there is none yet"
    );
    let first = store.put(&set, &record("cas", 1), None).unwrap();
    assert!(
        changed(store.put(&set, &record("cas", 9), None)),
        "there is one already"
    );
    let second = store.put(&set, &record("cas", 2), Some(first)).unwrap();
    assert!(second > first);
    assert!(
        changed(store.put(&set, &record("cas", 9), Some(first))),
        "it was read before the last write"
    );
    assert_eq!(
        store.get(&set).unwrap(),
        Some((record("cas", 2), second)),
        "a refused write leaves no trace"
    );
    assert!(matches!(store.remove(&set, first), Err(StoreError::Changed(_))));
    store.remove(&set, second).unwrap();
    assert!(store.get(&set).unwrap().is_none());
    assert!(matches!(store.remove(&set, second), Err(StoreError::Changed(_))));
}

fn what_was_given_up_of_a_set_outlives_its_record(store: &dyn Store) {
    let set = label("over");
    let first = store.put(&set, &record("over", 1), None).unwrap();
    assert_eq!(store.abandoned(&set).unwrap(), None);
    let second = store.put(&set, &record("over", 2), Some(first)).unwrap();
    let stale = store.abandon(&set, &record("over", 3), first);
    assert!(matches!(stale, Err(StoreError::Changed(_))));
    assert_eq!(
        store.abandoned(&set).unwrap(),
        None,
        "a refused write leaves no trace"
    );
    store.abandon(&set, &record("over", 3), second).unwrap();
    assert!(store.get(&set).unwrap().is_none() && !store.sets().unwrap().contains(&set));
    assert_eq!(store.abandoned(&set).unwrap(), Some(record("over", 3)));
    // Whoever makes the set anew may die before he has taken it over: it is there until the set is over again.
    let third = store.put(&set, &record("over", 4), None).unwrap();
    assert_eq!(store.abandoned(&set).unwrap(), Some(record("over", 3)));
    store.abandon(&set, &record("over", 5), third).unwrap();
    assert_eq!(store.abandoned(&set).unwrap(), Some(record("over", 5)));
    let fourth = store.put(&set, &record("over", 6), None).unwrap();
    store.remove(&set, fourth).unwrap();
    assert_eq!(store.abandoned(&set).unwrap(), None);
}

fn a_record_made_again_is_another(store: &dyn Store) {
    let set = label("again");
    let old = store.put(&set, &record("again", 1), None).unwrap();
    store.remove(&set, old).unwrap();
    let new = store.put(&set, &record("again", 5), None).unwrap();
    assert!(new > old, "versions never repeat");
    let late = store.put(&set, &record("again", 2), Some(old));
    assert!(
        matches!(late, Err(StoreError::Changed(_))),
        "one who knew the old record is not up to date"
    );
    assert_eq!(store.get(&set).unwrap().unwrap().0.capacity, 5);
}

fn nothing_is_lost_between_threads(store: &dyn Store) {
    const THREADS: u32 = 8;
    const TIMES: u32 = 50;
    let set = label("counted");
    store.put(&set, &record("counted", 0), None).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..TIMES).for_each(|_| increment(store, &set)));
        }
    });
    assert_eq!(store.get(&set).unwrap().unwrap().0.capacity, THREADS * TIMES);
}

/// Adds one to the capacity by compare-and-swap; returns it.
pub fn increment(store: &dyn Store, set: &Label) {
    loop {
        let (mut record, version) = store.get(set).unwrap().unwrap();
        record.capacity += 1;
        match store.put(set, &record, Some(version)) {
            Ok(_) => return,
            Err(StoreError::Changed(_)) => {}
            Err(e) => panic!("{e}"),
        }
    }
}

fn sets_are_sorted(store: &dyn Store) {
    for name in ["zz", "aa", "a-b"] {
        store.put(&label(name), &record(name, 1), None).unwrap();
    }
    let names: Vec<String> = store.sets().unwrap().iter().map(ToString::to_string).collect();
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(names, sorted);
    assert!(["zz", "aa", "a-b"].iter().all(|n| names.iter().any(|m| m == n)));
}

fn a_lease_has_one_holder(store: &dyn Store) {
    let (ann, bob, now) = (holder("ann"), holder("bob"), at(1000));
    assert_eq!(store.holder("one", now).unwrap(), None);
    let lease = store.acquire("one", &ann, now, None).unwrap();
    assert_eq!(lease.key, "one");
    assert_eq!(store.holder("one", now).unwrap(), Some(ann.clone()));
    for other in [&bob, &ann] {
        let held = store.acquire("one", other, now, None);
        assert!(
            matches!(held, Err(StoreError::Held(t)) if t.holder == ann && t.lives),
            "not even twice by the same one"
        );
    }
    store
        .acquire("two", &bob, now, None)
        .expect("another key is another lease");
    store.renew(&lease, now).unwrap();
    store.release(&lease).unwrap();
    assert_eq!(store.holder("one", now).unwrap(), None);
    assert!(matches!(store.renew(&lease, now), Err(StoreError::Lost(key)) if key == "one"));
    store.release(&lease).expect("giving back what is gone is fine");
    let next = store.acquire("one", &bob, now, None).unwrap();
    assert!(next.token > lease.token, "tokens grow, even over a release");
    store.release(&lease).unwrap();
    assert_eq!(
        store.holder("one", now).unwrap(),
        Some(bob),
        "an old token frees nothing"
    );
}

fn a_dead_holder_is_followed_at_once(store: &dyn Store) {
    let now = at(1000);
    let lost = store.acquire("dead", &holder("dead"), now, None).unwrap();
    assert_eq!(store.holder("dead", now).unwrap(), None, "nobody alive has it");
    let taken = store.acquire("dead", &holder("ann"), now, None).unwrap();
    assert!(taken.token > lost.token);
    assert!(matches!(store.renew(&lost, now), Err(StoreError::Lost(_))));
    store.release(&lost).unwrap();
    assert_eq!(store.holder("dead", now).unwrap(), Some(holder("ann")));
    store.renew(&taken, now).unwrap();
}

fn whoever_has_lost_the_lease_writes_nothing_under_it(store: &dyn Store) {
    let (set, now) = (label("leased"), at(1000));
    let version = store.put(&set, &record("leased", 3), None).unwrap();
    let lost = store.acquire("leased", &holder("dead"), now, None).unwrap();
    assert!(store.holds(&lost).unwrap());
    let version = (store.put_under(&lost, &set, &record("leased", 4), version)).unwrap();
    let taken = store.acquire("leased", &holder("ann"), now, None).unwrap();
    assert!(!store.holds(&lost).unwrap() && store.holds(&taken).unwrap());
    let late = store.put_under(&lost, &set, &record("leased", 5), version);
    assert!(
        matches!(&late, Err(StoreError::Lost(key)) if key == "leased"),
        "{late:?}"
    );
    assert_eq!(store.get(&set).unwrap(), Some((record("leased", 4), version)));
    let next = (store.put_under(&taken, &set, &record("leased", 6), version)).unwrap();
    let changed = store.put_under(&taken, &set, &record("leased", 7), version);
    assert!(matches!(changed, Err(StoreError::Changed(_))), "{changed:?}");
    assert!(next > version);
    store.release(&taken).unwrap();
    assert!(!store.holds(&taken).unwrap());
}

fn a_live_holder_here_is_never_robbed(store: &dyn Store) {
    let lease = store.acquire("stopped", &holder("ann"), at(1000), None).unwrap();
    let later = at(1_000_000);
    assert!(matches!(
        store.acquire("stopped", &holder("bob"), later, None),
        Err(StoreError::Held(_))
    ));
    store
        .renew(&lease, later)
        .expect("it goes on where it was stopped");
}

fn a_holder_elsewhere_is_followed_only_by_who_has_watched_its_lease(store: &dyn Store) {
    let far = Holder {
        machine: "elsewhere".into(),
        ..holder("ann")
    };
    let while_ = i64::try_from(LEASE.as_secs()).unwrap();
    let lease = store.acquire("far", &far, at(1000), None).unwrap();
    // Whatever the clock says here: it may be ahead.
    let seen = |unrenewed| match store.acquire("far", &holder("bob"), at(1_000_000), unrenewed) {
        Err(StoreError::Held(taken)) => {
            assert_eq!((&taken.holder, taken.lives), (&far, false));
            Ok(taken.stamp)
        }
        Ok(lease) => Err(lease),
        Err(e) => panic!("{e}"),
    };
    let first = seen(None).expect("nobody has watched it");
    // A renewal shows, though the holder's clock stands still or was set back.
    for now in [at(1010), at(1010), at(3)] {
        let before = seen(None).unwrap();
        store.renew(&lease, now).unwrap();
        assert_ne!(seen(Some(before)).expect("it was renewed meanwhile"), before);
    }
    seen(Some(first)).expect("an earlier renewal is none");
    let last = seen(None).unwrap();
    let taken = seen(Some(last)).expect_err("it was not renewed");
    assert!(taken.token > lease.token);
    assert!(matches!(store.renew(&lease, at(1020)), Err(StoreError::Lost(_))));
    store.release(&taken).unwrap();
    // For people it is told by the clock.
    store.acquire("far", &far, at(1000), None).unwrap();
    assert_eq!(store.holder("far", at(1000 + while_ - 1)).unwrap(), Some(far));
    assert_eq!(store.holder("far", at(1000 + while_)).unwrap(), None);
}

fn one_of_many_gets_the_lease(store: &dyn Store) {
    let got = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for i in 0..8 {
            let got = &got;
            scope.spawn(
                move || match store.acquire("raced", &holder(&format!("u{i}")), at(1000), None) {
                    Ok(_) => {
                        got.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    }
                    Err(StoreError::Held(_)) => {}
                    Err(e) => panic!("{e}"),
                },
            );
        }
    });
    assert_eq!(got.into_inner(), 1);
}

fn history_is_newest_first_and_by_set(store: &dyn Store) {
    let (web, db) = (label("hist-web"), label("hist-db"));
    let first = store.begin(&operation(&web, "create", 1)).unwrap();
    let second = store.begin(&operation(&db, "create", 2)).unwrap();
    let third = store.begin(&operation(&web, "scale", 3)).unwrap();
    assert!(first < second && second < third);
    store.finish(first, at(10), "converged", Some(7)).unwrap();
    store.finish(second, at(11), "converged", None).unwrap();
    let of_web = store.history(Some(&web), 10).unwrap();
    assert_eq!(
        of_web.iter().map(|o| o.number).collect::<Vec<_>>(),
        [third, first]
    );
    assert_eq!(
        (of_web[0].ended, &of_web[0].outcome),
        (None, &None),
        "it runs, or its process was killed"
    );
    assert_eq!((of_web[1].began, of_web[1].ended), (at(1), Some(at(10))));
    assert_eq!(of_web[1].outcome.as_deref(), Some("converged"));
    assert_eq!((of_web[1].from, of_web[1].to), (Some(1), Some(7)));
    assert_eq!(
        (of_web[1].verb.as_str(), of_web[1].who.as_str()),
        ("create", "ann@here")
    );
    assert_eq!(
        store.history(Some(&db), 10).unwrap()[0].to,
        Some(2),
        "what was wanted stays what it was"
    );
    let all = store.history(None, 2).unwrap();
    assert_eq!(all.iter().map(|o| o.number).collect::<Vec<_>>(), [third, second]);
    assert!(
        store
            .history(Some(&label("hist-none")), usize::MAX)
            .unwrap()
            .is_empty()
    );
    store
        .finish(u64::from(u32::MAX), at(12), "converged", None)
        .expect("one that was pruned meanwhile");
}

fn history_is_pruned_by_set(store: &dyn Store) {
    let (busy, calm) = (label("hist-busy"), label("hist-calm"));
    let kept = store.begin(&operation(&calm, "create", 1)).unwrap();
    let first = store.begin(&operation(&busy, "scale", 1)).unwrap();
    for _ in 0..1000 {
        store.begin(&operation(&busy, "scale", 1)).unwrap();
    }
    let past = store.history(Some(&busy), 5000).unwrap();
    assert_eq!(past.len(), 1000);
    assert!(past.iter().all(|o| o.number > first));
    assert_eq!(store.history(Some(&calm), 10).unwrap()[0].number, kept);
}

pub fn label(name: &str) -> Label {
    Label::new(name).unwrap()
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub fn holder(user: &str) -> Holder {
    Holder {
        pid: 1,
        started: 1,
        boot: "boot".into(),
        namespace: None,
        machine: "here".into(),
        user: user.into(),
        doing: "scale web to 9".into(),
    }
}

fn operation(set: &Label, verb: &str, second: i64) -> Operation {
    Operation {
        set: set.clone(),
        verb: verb.into(),
        who: "ann@here".into(),
        at: at(second),
        from: Some(1),
        to: Some(2),
    }
}

/// A record with something of everything.
pub fn record(set: &str, capacity: u32) -> Record {
    let model = Model {
        image: Image {
            digest: ImageDigest("ab".repeat(32)),
            format: ImageFormat::Qcow2,
            virtual_size: Bytes::gib(2),
            file_size: Bytes::mib(400),
        },
        vcpus: 1,
        memory: Bytes::gib(1),
        disk: Bytes::gib(2),
        clone: Clone::Linked,
        cpu: Cpu::Named("EPYC".into()),
        virtualization: Virtualization::Auto,
        firmware: Firmware::Uefi,
        user_data: None,
        networks: Vec::new(),
        data_disks: Vec::new(),
    };
    let applied = ScaleSet {
        name: label(set),
        capacity,
        image: ImageSource::File {
            path: PathBuf::from("/image.qcow2"),
            sha256: None,
        },
        instance: Instance {
            vcpus: 1,
            memory: model.memory,
            disk: None,
            clone: model.clone,
            cpu: model.cpu.clone(),
            virtualization: model.virtualization,
            firmware: model.firmware,
            user_data: Some(PathBuf::from("/user-dätä \"quoted\"")),
            vars: [("key".to_owned(), "line\nend'".to_owned())].into(),
            networks: Vec::new(),
            data_disks: Vec::new(),
        },
        fault_domains: vec![FaultDomain {
            name: label("rack-1"),
            hosts: vec![Host {
                name: label("kvm1"),
                uri: "qemu:///system".into(),
                pool: "default".into(),
                migration_address: None,
            }],
        }],
        placement: Placement {
            spread: Spread::BestEffort,
            max_skew: 1,
            vcpu_overcommit: 4.0,
            memory_reserve: Bytes::gib(1),
            pool_reserve: Bytes::gib(1),
        },
        limits: Limits {
            calls_per_host: 4,
            starts_per_host: 2,
            call_timeout: Duration::from_millis(30_500),
        },
        scale_in: ScaleIn {
            policy: ScaleInPolicy::Oldest,
            shutdown: Duration::from_secs(60),
            protect_new: false,
        },
        health: vmss::scaleset::Health::default(),
        upgrade: vmss::scaleset::Upgrade::default(),
        repair: vmss::scaleset::Repair::default(),
        load_balancer: None,
        discovery: Vec::new(),
        autoscale: None,
        state: State { path: None },
    };
    let (store, file) = (StoreId(Uuid::from_u128(1)), PathBuf::from("/scaleset.toml"));
    Record {
        former: vec![StoreId(Uuid::from_u128(2))],
        ..Record::new(store, applied, model, file, at(0))
    }
}
