//! Instances come and go.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use vmss::hypervisor::{FaultKind, Groups, Hypervisor, InstanceStats, News, Pulse, Stage};
use vmss::inventory::{Phase, Power};
use vmss::names::volume_name;

use super::{Fixture, cancelled_at, kind, uses};

pub fn a_host_without_the_set_shows_nothing_of_it(host: &dyn Hypervisor, f: &Fixture) {
    let seen = f.seen(host);
    assert!(seen.instances.is_empty() && seen.foreign.is_empty());
    assert!(seen.unowned().is_empty() && seen.seeds.is_empty());
    assert!(seen.cpus > 0 && seen.memory.0 > 0 && seen.pool_free.0 > 0);
}

pub fn a_created_instance_runs_and_tells_its_facts(host: &dyn Hypervisor, f: &Fixture) {
    f.create(host, 3);
    let spec = f.spec(3);
    let seen = f.instance(host, 3).expect("it was just created");
    assert_eq!((seen.uuid, seen.power), (spec.uuid, Power::Running));
    assert_eq!(seen.vcpus, f.model.vcpus);
    let mut expected = spec.metadata(seen.meta.volumes.clone());
    expected.phase = Phase::Ready;
    assert_eq!(seen.meta, expected);
    let stem = volume_name(&spec.set, spec.id, spec.uuid, "", "");
    let stem = stem.trim_end_matches('.');
    assert!(!seen.meta.volumes.is_empty(), "it owns its OS disk at least");
    assert!(seen.meta.volumes.iter().all(|v| v.starts_with(stem)));
}

pub fn creating_again_changes_nothing(host: &dyn Hypervisor, f: &Fixture) {
    f.create(host, 1);
    let before = f.instance(host, 1);
    f.create(host, 1);
    assert_eq!(f.instance(host, 1), before);
}

pub fn without_its_image_nothing_is_created(host: &dyn Hypervisor, f: &Fixture) {
    let mut model = f.model.clone();
    model.image.digest = vmss::model::ImageDigest("e".repeat(64));
    let spec = f.spec_of(1, &model);
    assert_eq!(
        kind(host.create(&spec, &model, &Pulse::silent())),
        FaultKind::Missing
    );
    assert_eq!(f.instance(host, 1), None, "not even a domain");
}

fn cancelled(host: &dyn Hypervisor, f: &Fixture) {
    f.push(host);
    let pulse = Pulse::silent();
    pulse.cancel();
    let outcome = host.create(&f.spec(1), &f.model, &pulse);
    assert_eq!(kind(outcome), FaultKind::Cancelled);
    if let Some(half) = f.instance(host, 1) {
        assert_eq!(half.meta.phase, Phase::Creating, "half an instance says so");
    }
}

pub fn a_cancelled_create_is_undone_by_delete(host: &dyn Hypervisor, f: &Fixture) {
    cancelled(host, f);
    f.delete(host, &f.spec(1).reference());
    assert_eq!(f.instance(host, 1), None);
    assert!(f.seen(host).unowned().is_empty());
}

pub fn a_cancelled_create_is_finished_by_create(host: &dyn Hypervisor, f: &Fixture) {
    cancelled(host, f);
    f.create(host, 1);
    let whole = f.instance(host, 1).expect("it was created at the second try");
    assert_eq!((whole.meta.phase, whole.power), (Phase::Ready, Power::Running));
}

pub fn a_create_cancelled_at_any_stage_can_be_undone_and_finished(host: &dyn Hypervisor, f: &Fixture) {
    let mut model = f.with_disks(&["logs"]);
    model.user_data = f.with_user_data("name={{ instance.name }}").user_data;
    f.push(host);
    let stages = [Stage::Define, Stage::Disks, Stage::Seed, Stage::Start];
    for (id, stage) in (1..).zip(stages) {
        let spec = f.spec_of(id, &model);
        let attempt = || host.create(&spec, &model, &cancelled_at(stage));
        for again in [false, true] {
            // The last stage has no safe point after it: it may well succeed.
            if let Err(error) = attempt() {
                assert_eq!(error.kind, FaultKind::Cancelled, "at {stage:?}: {error}");
            }
            if again {
                host.create(&spec, &model, &Pulse::silent())
                    .unwrap_or_else(|e| panic!("finishing what was cancelled at {stage:?}: {e}"));
                let whole = f.instance(host, id).expect("it was finished");
                assert_eq!((whole.meta.phase, whole.power), (Phase::Ready, Power::Running));
            }
            f.delete(host, &spec.reference());
            let seen = f.seen(host);
            assert!(seen.instances.is_empty(), "at {stage:?}");
            assert!(seen.unowned().is_empty(), "at {stage:?}: {:?}", seen.unowned());
        }
    }
}

pub fn deleting_leaves_nothing_and_may_be_repeated(host: &dyn Hypervisor, f: &Fixture) {
    let instance = f.create_of(host, 1, &f.with_disks(&["logs"]));
    f.delete(host, &instance);
    assert_eq!(f.instance(host, 1), None);
    let seen = f.seen(host);
    assert!(seen.unowned().is_empty(), "{:?}", seen.unowned());
    f.delete(host, &instance);
    host.delete_volume("vmss-no-such-volume.img", &uses(host))
        .expect("deleting what is gone succeeds");
}

pub fn starting_what_runs_or_is_gone(host: &dyn Hypervisor, f: &Fixture) {
    let instance = f.create(host, 1);
    host.start(&instance).expect("one that runs is left alone");
    let seen = f.instance(host, 1).expect("it is still there");
    assert_eq!(seen.power, Power::Running);
    f.delete(host, &instance);
    assert_eq!(kind(host.start(&instance)), FaultKind::Missing);
}

pub fn several_at_once(host: &dyn Hypervisor, f: &Fixture) {
    f.push(host);
    let model = f.with_user_data("#cloud-config\n");
    std::thread::scope(|scope| {
        for id in 1..=6 {
            let model = &model;
            scope.spawn(move || {
                let spec = f.spec_of(id, model);
                host.create(&spec, model, &Pulse::silent())
                    .unwrap_or_else(|e| panic!("creating {}: {e}", spec.name()));
            });
        }
    });
    let seen = f.seen(host);
    assert_eq!(seen.instances.len(), 6);
    assert!(seen.instances.iter().all(|i| i.meta.phase == Phase::Ready));
    assert_eq!(seen.seeds.len(), 1, "they share one seed");
    std::thread::scope(|scope| {
        for instance in &seen.instances {
            scope.spawn(move || f.delete(host, &f.spec(instance.id.0).reference()));
        }
    });
    let seen = f.seen(host);
    assert!(seen.instances.is_empty() && seen.unowned().is_empty());
}

pub fn disks_and_seed_go_with_their_instance(host: &dyn Hypervisor, f: &Fixture) {
    let mut model = f.with_disks(&["logs", "cache"]);
    model.user_data = f.with_user_data("name={{ instance.name }}").user_data;
    let instance = f.create_of(host, 1, &model);
    let seen = f.instance(host, 1).expect("it was just created");
    assert_eq!(
        seen.meta.volumes.len(),
        4,
        "OS disk, two data disks, seed: {:?}",
        seen.meta.volumes
    );
    assert!(
        f.seen(host).seeds.is_empty(),
        "rendered user data is nobody else's"
    );
    f.delete(host, &instance);
    assert!(f.seen(host).unowned().is_empty());
}

pub fn a_shared_seed_is_seen_and_outlives_its_instances(host: &dyn Hypervisor, f: &Fixture) {
    let model = f.with_user_data("#cloud-config\n");
    let instance = f.create_of(host, 1, &model);
    let seeds = f.seen(host).seeds;
    assert_eq!(seeds.len(), 1);
    assert_eq!(seeds[0].0, 1, "it is revision 1's");
    f.delete(host, &instance);
    assert_eq!(f.seen(host).seeds, seeds);
    host.delete_volume(&seeds[0].1, &uses(host))
        .expect("a seed is deleted by name");
    assert!(f.seen(host).seeds.is_empty());
    f.create_of(host, 2, &model);
    assert_eq!(f.seen(host).seeds, seeds, "and made anew when it is needed");
}

pub fn a_shared_seed_that_another_process_deletes_is_made_anew(
    [host, another]: [&dyn Hypervisor; 2],
    f: &Fixture,
) {
    let model = f.with_user_data("#cloud-config\n");
    let instance = f.create_of(host, 1, &model);
    f.delete(host, &instance);
    let seeds = f.seen(host).seeds;
    another
        .delete_volume(&seeds[0].1, &uses(another))
        .expect("a seed is deleted by name");
    f.create_of(host, 2, &model);
    assert_eq!(f.seen(host).seeds, seeds, "its instance could not start without");
}

pub fn what_is_promised_is_counted(host: &dyn Hypervisor, f: &Fixture) {
    let before = f.seen(host);
    f.create(host, 1);
    let after = f.seen(host);
    assert_eq!(after.used_vcpus, before.used_vcpus + f.model.vcpus);
    assert_eq!(after.used_memory, before.used_memory + f.model.memory);
}

pub fn news_come_in_order(host: &dyn Hypervisor, f: &Fixture) {
    f.push(host);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listen = || {
        let heard = Arc::clone(&heard);
        Pulse::new(move |news| {
            if let News::Stage(stage) = news {
                heard.lock().unwrap().push(stage);
            }
        })
    };
    host.create(&f.spec(1), &f.model, &listen())
        .expect("it is created");
    let stages = std::mem::take(&mut *heard.lock().unwrap());
    assert_eq!(stages.first(), Some(&Stage::Define), "{stages:?}");
    assert_eq!(stages.last(), Some(&Stage::Start), "{stages:?}");
    host.delete(
        &f.spec(1).reference(),
        Duration::from_millis(300),
        &uses(host),
        &listen(),
    )
    .expect("it is deleted");
    let stages = std::mem::take(&mut *heard.lock().unwrap());
    assert_eq!(stages.first(), Some(&Stage::ShutDown), "{stages:?}");
    assert_eq!(stages.last(), Some(&Stage::Undefine), "{stages:?}");
}

pub fn facts_and_check(host: &dyn Hypervisor, f: &Fixture) {
    let facts = host.facts().expect("the host tells what it is");
    assert!(facts.cpus > 0 && facts.memory.0 > 0);
    assert!(facts.pool_size >= facts.pool_free);
    let findings = host.check(&f.model);
    assert!(!findings.is_empty());
    for finding in findings {
        assert!(finding.result.is_ok(), "{finding:?}");
    }
}

pub fn stats_of_running_instances(host: &dyn Hypervisor, f: &Fixture) {
    let (first, second) = (f.create(host, 1), f.create(host, 2));
    let gone = f.spec(3).reference();
    let asked = [gone, second.clone(), first.clone()];
    let stats = |groups| host.stats(&asked, groups).expect("the host is there");
    let ids = |stats: &[InstanceStats]| stats.iter().map(|s| s.id.0).collect::<Vec<_>>();

    let before = stats(Groups::ALL);
    assert_eq!(
        ids(&before),
        [2, 1],
        "those that are there, in the order asked for"
    );
    for (old, new) in before.iter().zip(stats(Groups::ALL)) {
        // libvirt's simulation measures nothing, and a domain may be busy.
        if let (Some(old), Some(new)) = (old.cpu, new.cpu) {
            assert!(new.time >= old.time, "counters only grow: {old:?}, {new:?}");
        }
        if let Some(memory) = new.memory {
            assert_eq!(memory.size, f.model.memory);
        }
        if let (Some(old), Some(new)) = (old.disk, new.disk) {
            assert!(new.read >= old.read && new.reads >= old.reads);
            assert!(new.written >= old.written && new.writes >= old.writes);
        }
        if let (Some(old), Some(new)) = (old.network, new.network) {
            assert!(new.received >= old.received && new.sent >= old.sent);
        }
    }

    let cpu = Groups {
        cpu: true,
        ..Groups::default()
    };
    for of_one in stats(cpu) {
        let others = (of_one.memory, of_one.disk, of_one.network);
        assert_eq!(others, (None, None, None), "nobody asked for them");
    }
    let nothing = stats(Groups::default());
    assert_eq!(ids(&nothing), [2, 1]);
    assert!(nothing.iter().all(|s| s.cpu.is_none()));
    assert_eq!(host.stats(&[], Groups::ALL), Ok(Vec::new()));

    host.stop(&second, Duration::ZERO, &Pulse::silent())
        .expect("it is switched off");
    assert_eq!(ids(&stats(Groups::ALL)), [1], "one that is off is left out");
    f.delete(host, &first);
    assert_eq!(ids(&stats(Groups::ALL)), [0; 0]);
}
