//! Instances are changed in place, and stay who they are.

use std::time::Duration;

use vmss::hypervisor::{FaultKind, Hypervisor, Pulse, Rework, Stage, Uses};
use vmss::inventory::{Instance, Phase, Power, Protection};
use vmss::model::{Clone as CloneMode, ImageDigest, Model};
use vmss::units::Bytes;

use super::{Fixture, cancelled_at, kind, uses};

const EVERY: [Rework; 3] = [Rework::Live, Rework::Restart, Rework::Reimage];

/// The instance, which must be whole, running, and of its second revision.
fn second(host: &dyn Hypervisor, f: &Fixture, id: u64, model: &Model) -> Instance {
    let seen = f.instance(host, id).expect("it is still there");
    assert_eq!((seen.meta.phase, seen.power), (Phase::Ready, Power::Running));
    assert_eq!(seen.meta.rework, None);
    assert_eq!(seen.meta.revision, 2);
    assert_eq!(seen.meta.model_hash, model.hash());
    assert_eq!(seen.meta.image, model.image.digest);
    let leftovers = f.seen(host).unowned();
    assert!(leftovers.is_empty(), "{leftovers:?}");
    seen
}

/// The same volumes, in any order.
fn same_volumes(a: &Instance, b: &Instance) {
    let sorted = |i: &Instance| {
        let mut volumes = i.meta.volumes.clone();
        volumes.sort();
        volumes
    };
    assert_eq!(sorted(a), sorted(b));
}

pub fn a_reimaged_instance_keeps_its_identity_and_data_disks_and_has_a_new_os_disk(
    host: &dyn Hypervisor,
    f: &Fixture,
) {
    let (next, _folder) = f.with_another_image();
    next.push(host);
    for (id, template) in [(1, "name={{ instance.name }}"), (2, "#cloud-config\n")] {
        let user_data = f.with_user_data(template).user_data;
        let with = |f: &Fixture, user_data| Model {
            user_data,
            ..f.with_disks(&["logs"])
        };
        let instance = f.create_of(host, id, &with(f, user_data.clone()));
        host.protect(&instance, Protection::ScaleIn).unwrap();
        let before = f.instance(host, id).expect("it was just created");
        let model = with(&next, user_data);
        next.rework(host, id, &model, Rework::Reimage);
        let after = second(host, f, id, &model);
        assert_eq!((after.id, after.uuid), (before.id, before.uuid));
        same_volumes(&before, &after);
        let kept = |i: &Instance| {
            let m = &i.meta;
            let place = (m.host.clone(), m.fault_domain.clone(), m.addresses.clone());
            (m.created_at, m.protection, m.stopped, m.store, place)
        };
        assert_eq!(kept(&after), kept(&before));
    }
    let revisions: Vec<u32> = f.seen(host).seeds.iter().map(|(r, _)| *r).collect();
    assert!(
        revisions.contains(&2),
        "the shared seed of its new revision is there"
    );
    // Nothing is made of the first image any more, and the second one is used.
    assert_eq!(host.delete_image(&f.model.image.digest, &[f.store]), Ok(true));
    assert_eq!(host.delete_image(&next.model.image.digest, &[f.store]), Ok(false));
    next.clean(host);
}

pub fn a_restart_with_more_memory_keeps_the_disks(host: &dyn Hypervisor, f: &Fixture) {
    let old = f.with_disks(&["logs"]);
    f.create_of(host, 1, &old);
    let (before, promised) = (f.instance(host, 1).unwrap(), f.seen(host).used_memory);
    let mut model = old.clone();
    model.memory = model.memory + Bytes::mib(64);
    f.rework(host, 1, &model, Rework::Restart);
    let after = second(host, f, 1, &model);
    same_volumes(&before, &after);
    assert_eq!(f.seen(host).used_memory, promised + Bytes::mib(64));
    // The same once more is a restart, and no more.
    f.rework(host, 1, &model, Rework::Restart);
    assert_eq!(second(host, f, 1, &model), after);
}

pub fn a_restart_brings_new_data_disks_and_grows_old_ones(host: &dyn Hypervisor, f: &Fixture) {
    f.create_of(host, 1, &f.with_disks(&["logs"]));
    let mut model = f.with_disks(&["logs", "cache"]);
    model.disk = model.disk + Bytes::mib(16);
    model.data_disks[0].size = Bytes::mib(80);
    f.rework(host, 1, &model, Rework::Restart);
    let volumes = second(host, f, 1, &model).meta.volumes;
    assert_eq!(volumes.len(), 3, "{volumes:?}");
    f.delete(host, &f.spec(1).reference());
    assert!(f.seen(host).unowned().is_empty());
}

pub fn a_live_change_grows_disks_under_a_running_guest(host: &dyn Hypervisor, f: &Fixture) {
    let user_data = f.with_user_data("#cloud-config\n").user_data;
    let old = Model {
        user_data,
        ..f.with_disks(&["logs"])
    };
    let instance = f.create_of(host, 1, &old);
    let before = f.instance(host, 1).unwrap();
    let mut model = old.clone();
    model.disk = model.disk + Bytes::mib(16);
    model.data_disks[0].size = Bytes::mib(80);
    f.rework(host, 1, &model, Rework::Live);
    let after = second(host, f, 1, &model);
    same_volumes(&before, &after);
    // Its next start needs nothing of the old revision. As it runs it still has the old seed in its drive, which is use enough
    // for it to be kept: here it goes all the same.
    for (_, seed) in f.seen(host).seeds.into_iter().filter(|(r, _)| *r == 1) {
        host.delete_volume(&seed, &Uses::default()).unwrap();
    }
    host.restart(&instance, Duration::ZERO, &Pulse::silent())
        .expect("it starts from its new definition");
    assert_eq!(second(host, f, 1, &model), after);
    // One that is off stays off.
    host.stop(&instance, Duration::ZERO, &Pulse::silent()).unwrap();
    model.disk = model.disk + Bytes::mib(16);
    f.rework(host, 1, &model, Rework::Live);
    let off = f.instance(host, 1).unwrap();
    assert_eq!((off.power, off.meta.model_hash), (Power::Off, model.hash()));
}

pub fn a_change_cancelled_at_any_stage_can_be_finished_and_deleted(host: &dyn Hypervisor, f: &Fixture) {
    let (next, _folder) = f.with_another_image();
    f.push(host);
    next.push(host);
    let stages = [
        Stage::Define,
        Stage::ShutDown,
        Stage::Destroy,
        Stage::Disks,
        Stage::Seed,
        Stage::Start,
    ];
    let mut id = 0;
    for how in EVERY {
        let f = if how == Rework::Reimage { &next } else { f };
        let mut model = f.with_disks(&["logs", "cache"]);
        model.user_data = f.with_user_data("name={{ instance.name }}").user_data;
        model.memory = model.memory + Bytes::mib(16);
        for stage in stages {
            id += 1;
            let at = format!("{how:?} at {stage:?}");
            f.create_of(host, id, &f.with_disks(&["logs"]));
            let spec = f.second(id, &model);
            let attempt = || {
                host.rework(
                    &spec,
                    &model,
                    how,
                    Duration::from_millis(50),
                    &uses(host),
                    &cancelled_at(stage),
                )
            };
            for again in [false, true] {
                // The last stages have no safe point after them, and a live change has fewer: it may well succeed.
                if let Err(error) = attempt() {
                    assert_eq!(error.kind, FaultKind::Cancelled, "{at}: {error}");
                }
                let seen = f.seen(host);
                assert_eq!(seen.instances.len(), 1, "{at}");
                assert!(seen.unowned().is_empty(), "{at}: {:?}", seen.unowned());
                if !again {
                    f.rework(host, id, &model, how);
                    second(host, f, id, &model);
                }
            }
            f.delete(host, &spec.reference());
            let seen = f.seen(host);
            assert!(seen.instances.is_empty(), "{at}");
            assert!(seen.unowned().is_empty(), "{at}: {:?}", seen.unowned());
        }
    }
    next.clean(host);
}

/// Begins a change and breaks it off: a reimage to a second revision with one more disk.
fn half_changed(host: &dyn Hypervisor, f: &Fixture, id: u64) -> Model {
    f.create_of(host, id, &f.with_disks(&["logs"]));
    let model = f.with_disks(&["logs", "cache"]);
    let spec = f.second(id, &model);
    let pulse = cancelled_at(Stage::Destroy);
    let outcome = host.rework(
        &spec,
        &model,
        Rework::Reimage,
        Duration::ZERO,
        &uses(host),
        &pulse,
    );
    assert_eq!(kind(outcome), FaultKind::Cancelled);
    model
}

pub fn whoever_goes_on_with_a_change_does_no_less(host: &dyn Hypervisor, f: &Fixture) {
    for (id, how) in (1..).zip(EVERY) {
        let model = half_changed(host, f, id);
        f.rework(host, id, &model, how);
        assert_eq!(second(host, f, id, &model).meta.volumes.len(), 3);
    }
    // Or back to what it was: with the disks it had.
    half_changed(host, f, 9);
    let old = f.with_disks(&["logs"]);
    f.rework(host, 9, &old, Rework::Live);
    assert_eq!(second(host, f, 9, &old).meta.volumes.len(), 2);
}

pub fn a_half_changed_instance_is_seen_and_neither_created_nor_started(host: &dyn Hypervisor, f: &Fixture) {
    let before = f.seen(host).used_memory;
    let model = half_changed(host, f, 1);
    let seen = f.instance(host, 1).expect("it is listed as others are");
    assert_eq!((seen.meta.phase, seen.meta.revision), (Phase::Changing, 2));
    assert_eq!(seen.meta.rework, Some(Rework::Reimage));
    assert_eq!(f.seen(host).used_memory, before + model.memory);
    assert!(f.seen(host).unowned().is_empty());
    let (spec, silent) = (f.second(1, &model), Pulse::silent());
    let instance = spec.reference();
    assert_eq!(kind(host.create(&spec, &model, &silent)), FaultKind::Other);
    assert_eq!(kind(host.start(&instance)), FaultKind::Other);
    let none = Duration::ZERO;
    assert_eq!(kind(host.stop(&instance, none, &silent)), FaultKind::Other);
    assert_eq!(kind(host.restart(&instance, none, &silent)), FaultKind::Other);
    assert_eq!(f.instance(host, 1), Some(seen));
    // It may be protected all the same, and that is kept.
    host.protect(&instance, Protection::All).unwrap();
    f.rework(host, 1, &model, Rework::Reimage);
    assert_eq!(second(host, f, 1, &model).meta.protection, Protection::All);
}

pub fn a_change_to_an_image_that_is_not_there_leaves_the_instance_as_it_was(
    host: &dyn Hypervisor,
    f: &Fixture,
) {
    f.create_of(host, 1, &f.with_disks(&["logs"]));
    let before = f.instance(host, 1);
    let mut model = f.with_disks(&["logs", "cache"]);
    model.image.digest = ImageDigest("e".repeat(64));
    let spec = f.second(1, &model);
    let outcome = host.rework(
        &spec,
        &model,
        Rework::Reimage,
        Duration::from_secs(60),
        &uses(host),
        &Pulse::silent(),
    );
    assert_eq!(kind(outcome), FaultKind::Missing);
    assert_eq!(
        f.instance(host, 1),
        before,
        "it runs, and its note is the old one"
    );
    // Nor does it stand in the way of another change.
    let model = f.with_disks(&["logs"]);
    f.rework(host, 1, &model, Rework::Restart);
    second(host, f, 1, &model);
}

pub fn an_image_that_is_being_changed_to_stays(host: &dyn Hypervisor, f: &Fixture) {
    let (next, _folder) = f.with_another_image();
    next.push(host);
    f.create(host, 1);
    let spec = next.second(1, &next.model);
    let pulse = cancelled_at(Stage::Destroy);
    let outcome = host.rework(
        &spec,
        &next.model,
        Rework::Reimage,
        Duration::ZERO,
        &uses(host),
        &pulse,
    );
    assert_eq!(kind(outcome), FaultKind::Cancelled);
    for image in [&f.model.image, &next.model.image] {
        assert_eq!(
            host.delete_image(&image.digest, &[f.store]),
            Ok(false),
            "its disk is still of the old one and is to be of the new one"
        );
    }
    next.clean(host);
}

pub fn a_disk_that_is_not_wanted_any_more_goes_at_the_end(host: &dyn Hypervisor, f: &Fixture) {
    let mut old = f.with_disks(&["logs", "cache"]);
    old.user_data = f.with_user_data("name={{ instance.name }}").user_data;
    f.create_of(host, 1, &old);
    let model = f.with_disks(&["cache"]);
    f.rework(host, 1, &model, Rework::Restart);
    let volumes = second(host, f, 1, &model).meta.volumes;
    assert_eq!(volumes.len(), 2, "OS disk and one data disk: {volumes:?}");
    f.delete(host, &f.spec(1).reference());
    // Had a volume stayed, it would be a leftover now.
    assert!(f.seen(host).unowned().is_empty());
}

pub fn a_full_clone_is_reimaged_too(host: &dyn Hypervisor, f: &Fixture) {
    let (next, _folder) = f.with_another_image();
    next.push(host);
    let full = |model: &Model| Model {
        clone: CloneMode::Full,
        ..model.clone()
    };
    f.create_of(host, 1, &f.model);
    // From an overlay to a copy of its own, from copy to copy, and back.
    for model in [full(&f.model), full(&next.model), next.model.clone()] {
        f.rework(host, 1, &model, Rework::Reimage);
        assert_eq!(second(host, f, 1, &model).meta.volumes.len(), 1);
    }
    next.clean(host);
}

pub fn a_disk_that_somebody_has_taken_away_is_not_made_anew(host: &dyn Hypervisor, f: &Fixture) {
    let model = f.with_disks(&["logs"]);
    f.create_of(host, 1, &model);
    let before = f.instance(host, 1).expect("it was just created");
    let spec = f.second(1, &model);
    let change = |how| host.rework(&spec, &model, how, Duration::ZERO, &uses(host), &Pulse::silent());
    let take = |part: &str| {
        let volumes = &before.meta.volumes;
        let volume = volumes
            .iter()
            .find(|v| v.contains(part))
            .expect("it has such a disk");
        host.delete_volume(volume, &Uses::default()).unwrap();
    };
    take("-os.");
    for how in [Rework::Live, Rework::Restart] {
        assert_eq!(kind(change(how)), FaultKind::Missing, "{how:?}");
        assert_eq!(
            f.instance(host, 1).as_ref(),
            Some(&before),
            "{how:?}: nothing was done"
        );
    }
    // Whoever asks for another OS disk gets one.
    change(Rework::Reimage).unwrap();
    let before = second(host, f, 1, &model);
    take("-data-logs.");
    for how in EVERY {
        assert_eq!(kind(change(how)), FaultKind::Missing, "{how:?}");
        assert_eq!(
            f.instance(host, 1).as_ref(),
            Some(&before),
            "{how:?}: nothing was done"
        );
    }
}

pub fn what_is_gone_can_not_be_changed(host: &dyn Hypervisor, f: &Fixture) {
    f.push(host);
    let (spec, silent, none) = (f.second(1, &f.model), Pulse::silent(), Duration::ZERO);
    let instance = spec.reference();
    for how in EVERY {
        let outcome = host.rework(&spec, &f.model, how, none, &uses(host), &silent);
        assert_eq!(kind(outcome), FaultKind::Missing);
    }
    assert_eq!(kind(host.stop(&instance, none, &silent)), FaultKind::Missing);
    assert_eq!(kind(host.restart(&instance, none, &silent)), FaultKind::Missing);
    assert_eq!(kind(host.protect(&instance, Protection::All)), FaultKind::Missing);
    assert_eq!(kind(host.ping(&instance)), FaultKind::Missing);
    assert_eq!(f.instance(host, 1), None);
}
