//! What an operator says of whose a domain, a volume or a record is, as whole commands on the fake fleet.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]
#![allow(dead_code, reason = "it uses a part of what scenarios are told with")]

mod scenario;

use scenario::odd::{ids, made, mark_pools, record, said};
use vmss::inventory::Power;
use vmss::names::InstanceId;

fn is_there(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "it does not say {word:?}:\n{text}");
    }
}

/// How many volumes of its own an instance has on a host.
fn disks(theatre: &scenario::theatre::Theatre, host: &str, id: InstanceId) -> usize {
    let volumes = theatre.stage.fleet.volumes(host);
    let its = format!("web-{id}-");
    volumes.iter().filter(|v| v.name.starts_with(&its)).count()
}

#[test]
fn a_double_is_ended_and_its_volumes_go_once_the_folders_are_known_to_be_two() {
    let theatre = made(2);
    let fleet = &theatre.stage.fleet;
    let first = ids(&theatre, "kvm1")[0];
    let name = format!("web-{first}");
    fleet.duplicate_domain("kvm1", &name, "kvm2", true);
    let shown = said(&theatre, "show", 0);
    is_there(
        &shown,
        &[&format!(
            "instance {first} is there twice, on kvm1 (runs) and kvm2 (runs)"
        )],
    );
    let blocked = said(&theatre, "scale +0", 5);
    is_there(&blocked, &["hint: look which of the copies is the right one"]);
    let asked = said(&theatre, &format!("instance settle {first} --keep kvm2"), 2);
    is_there(
        &asked,
        &[
            "Keep the copy of",
            "on kvm2, which runs",
            "the one on kvm1, which runs",
            "--yes",
        ],
    );
    assert_eq!(ids(&theatre, "kvm1"), [first], "nobody has answered");
    let volumes = disks(&theatre, "kvm1", first);
    let done = said(&theatre, &format!("instance settle {first} --keep kvm2 --yes"), 0);
    is_there(&done, &["ok web: 2 of 2 running"]);
    assert_eq!(ids(&theatre, "kvm1"), []);
    assert_eq!(ids(&theatre, "kvm2").len(), 2);
    assert_eq!(record(&theatre).known[&first].host.as_str(), "kvm2");
    let note = fleet
        .domains("kvm2")
        .into_iter()
        .find(|d| d.name == name)
        .unwrap();
    assert_eq!(
        note.meta.unwrap().host.as_str(),
        "kvm2",
        "its note is written anew"
    );
    assert_eq!(
        disks(&theatre, "kvm1", first),
        0,
        "the marks say that the folders are two"
    );
    assert_eq!(
        disks(&theatre, "kvm2", first),
        volumes,
        "the kept one has lost nothing"
    );
    let again = said(&theatre, &format!("instance settle {first} --keep kvm2 --yes"), 1);
    is_there(&again, &["is not there twice"]);
}

#[test]
fn a_copy_that_is_off_is_kept_only_by_somebody_who_was_told_that_the_other_runs() {
    let theatre = made(1);
    let fleet = &theatre.stage.fleet;
    let host = ["kvm1", "kvm2"]
        .into_iter()
        .find(|h| !ids(&theatre, h).is_empty())
        .unwrap();
    let other = if host == "kvm1" { "kvm2" } else { "kvm1" };
    fleet.duplicate_domain(host, "web-1", other, false);
    let asked = said(&theatre, &format!("instance settle 1 --keep {other}"), 2);
    is_there(&asked, &["is the one that RUNS", "is lost with it"]);
    let nowhere = said(&theatre, "instance settle 1 --keep kvm9 --yes", 2);
    is_there(&nowhere, &["web has no host kvm9", "it has kvm1, kvm2"]);
    said(&theatre, &format!("instance settle 1 --keep {other} --yes"), 0);
    let kept = fleet.domains(other);
    assert_eq!(
        kept[0].power,
        Power::Running,
        "it is started like any other that is off"
    );
    assert_eq!(ids(&theatre, host), []);
}

/// A `kill -9` at any step leaves something that the same command, or the next plan, finishes; never is nothing left.
#[test]
fn killed_at_every_step_a_double_keeps_the_copy_that_was_asked_for() {
    for step in 0.. {
        let theatre = made(1);
        let fleet = std::sync::Arc::clone(&theatre.stage.fleet);
        let host = ["kvm1", "kvm2"]
            .into_iter()
            .find(|h| !ids(&theatre, h).is_empty())
            .unwrap();
        let other = if host == "kvm1" { "kvm2" } else { "kvm1" };
        fleet.duplicate_domain(host, "web-1", other, true);
        mark_pools(&theatre);
        let there = disks(&theatre, other, InstanceId(1));
        fleet.kill_after(step);
        let line = format!("instance settle 1 --keep {other} --yes");
        theatre.vmss(&scenario::parse::words(&line).unwrap());
        let killed = fleet.is_killed();
        fleet.revive();
        if !ids(&theatre, host).is_empty() {
            said(&theatre, &line, 0);
        }
        said(&theatre, "scale +0", 0);
        assert_eq!(ids(&theatre, other), [InstanceId(1)], "killed after step {step}");
        assert_eq!(ids(&theatre, host), [], "killed after step {step}");
        assert_eq!(
            disks(&theatre, host, InstanceId(1)),
            0,
            "killed after step {step}"
        );
        assert_eq!(
            disks(&theatre, other, InstanceId(1)),
            there,
            "killed after step {step}"
        );
        if !killed {
            assert!(step > 3, "it has only {step} steps to be killed at");
            break;
        }
    }
}

#[test]
fn a_forgotten_instance_is_taken_in_with_its_note_and_an_id_that_is_taken_is_not() {
    let theatre = made(2);
    let fleet = &theatre.stage.fleet;
    let second = ids(&theatre, "kvm2")[0];
    let mut forgetful = record(&theatre);
    forgetful.known.remove(&second);
    forgetful.capacity = 1;
    scenario::odd::put(&theatre, &forgetful);
    is_there(
        &said(&theatre, "show", 0),
        &[
            "the record no longer has",
            &format!("vmss instance adopt {second}"),
        ],
    );
    let asked = said(&theatre, &format!("instance adopt {second}"), 2);
    is_there(&asked, &["the capacity goes from 1 to 2"]);
    said(&theatre, &format!("instance adopt {second} --yes"), 0);
    let known = record(&theatre);
    assert_eq!((known.capacity, known.known.len()), (2, 2));
    let domain = fleet.domains("kvm2").into_iter().next().unwrap();
    assert_eq!(
        domain.meta.unwrap().epoch,
        Some(known.epoch),
        "its note is written anew"
    );
    is_there(&said(&theatre, "plan", 0), &["nothing to do"]);
    let first = ids(&theatre, "kvm1")[0];
    let taken = said(&theatre, &format!("instance adopt {first} --yes"), 1);
    is_there(&taken, &["no domain that the set does not have"]);
}

#[test]
fn a_note_that_lies_is_disowned_and_owned_again() {
    let theatre = made(2);
    let fleet = &theatre.stage.fleet;
    let (first, second) = (ids(&theatre, "kvm1")[0], ids(&theatre, "kvm2")[0]);
    let mut forgetful = record(&theatre);
    // Its note names an id that nobody has given out.
    forgetful.known.remove(&second);
    (forgetful.next_id, forgetful.capacity) = (second, 1);
    assert!(first < second, "the last one is on kvm2");
    scenario::odd::put(&theatre, &forgetful);
    let shown = said(&theatre, "plan", 5);
    is_there(
        &shown,
        &[
            "newer than the record",
            "vmss state catch-up",
            "vmss instance disown",
        ],
    );
    let held = said(&theatre, "scale 1", 5);
    is_there(&held, &["nothing is changed", "hint: vmss state catch-up"]);
    let note = fleet.domains("kvm2")[0].meta.clone();
    is_there(
        &said(&theatre, &format!("instance disown {second}"), 2),
        &["lies?", "--yes"],
    );
    said(&theatre, &format!("instance disown {second} --yes"), 0);
    let uuid = fleet.domains("kvm2")[0].uuid;
    assert!(record(&theatre).disowned.contains(&uuid));
    is_there(
        &said(&theatre, "show", 0),
        &["disowned    web-", &format!("vmss instance disown {uuid} --undo")],
    );
    is_there(&said(&theatre, "plan", 0), &["nothing to do"]);
    said(&theatre, "scale +0", 0);
    assert_eq!(fleet.domains("kvm2")[0].meta, note, "its note is not touched");
    is_there(
        &said(&theatre, &format!("instance adopt {second} --yes"), 5),
        &["has disowned it"],
    );
    said(&theatre, &format!("instance disown {uuid} --undo"), 0);
    assert!(record(&theatre).disowned.is_empty());
    is_there(&said(&theatre, "plan", 5), &["newer than the record"]);
    is_there(&said(&theatre, "instance disown 77 --yes", 1), &["no domain"]);
    is_there(&said(&theatre, "instance disown nonsense", 2), &["neither an id"]);
}

#[test]
fn volumes_of_nobody_are_swept_by_name_and_nothing_else_is() {
    let theatre = made(3);
    let fleet = &theatre.stage.fleet;
    let gone = ids(&theatre, "kvm1")[0];
    let lives = ids(&theatre, "kvm2")[0];
    fleet.take_domain("kvm1", &format!("web-{gone}"));
    said(&theatre, "scale +0", 0);
    let of = |host: &str, id: InstanceId| {
        let its = format!("web-{id}-");
        let volumes = fleet.volumes(host);
        let found = volumes.iter().find(|v| v.name.starts_with(&its));
        found.map(|v| v.name.clone())
    };
    let left = of("kvm1", gone).unwrap();
    is_there(&said(&theatre, "show", 0), &[&format!("vmss state sweep {left}")]);
    let asked = said(&theatre, &format!("state sweep {left}"), 2);
    is_there(
        &asked,
        &[
            "VOLUME",
            &left,
            "kvm1",
            "which has gone from kvm1 by nobody's word",
            "Delete 1 volume of web",
        ],
    );
    let used = of("kvm2", lives).unwrap();
    is_there(
        &said(&theatre, &format!("state sweep {used} --yes"), 5),
        &["is an instance's"],
    );
    is_there(
        &said(&theatre, "state sweep precious.qcow2 --yes", 2),
        &["no name that vmss gives"],
    );
    let other = left.replace(&format!("web-{gone}-"), "web-77-");
    is_there(
        &said(&theatre, &format!("state sweep {other} --yes"), 1),
        &["no host has a volume"],
    );
    assert!(of("kvm1", gone).is_some(), "nothing was swept yet");
    let swept = said(&theatre, "state sweep --all --yes", 0);
    is_there(
        &swept,
        &[&format!("delete volume {left}"), "an operator asked for it"],
    );
    assert_eq!((of("kvm1", gone), of("kvm2", lives)), (None, Some(used)));
    is_there(
        &said(&theatre, "state sweep --all --yes", 0),
        &["nothing to sweep"],
    );
    is_there(&said(&theatre, "show", 0), &["web"]);
}

#[test]
fn a_volume_that_somebodys_domain_uses_is_not_swept() {
    let theatre = made(1);
    let fleet = &theatre.stage.fleet;
    let host = ["kvm1", "kvm2"]
        .into_iter()
        .find(|h| !ids(&theatre, h).is_empty())
        .unwrap();
    // An operator keeps the disk under a domain of his own.
    fleet.replace_domain(host, "web-1", "forensic");
    said(&theatre, "scale +0", 0);
    let volume = fleet
        .volumes(host)
        .into_iter()
        .find(|v| v.name.starts_with("web-1-"))
        .unwrap()
        .name;
    let used = said(&theatre, &format!("state sweep {volume} --yes"), 5);
    assert!(
        used.contains("is used by domain forensic") || used.contains("is an instance's"),
        "{used}"
    );
    let all = said(&theatre, "state sweep --all --yes", 0);
    is_there(
        &all,
        &[
            "left where they are",
            "is used by domain forensic",
            "nothing to sweep",
        ],
    );
    assert!(fleet.volumes(host).iter().any(|v| v.name == volume));
}

#[test]
fn a_store_that_was_restored_is_brought_level_and_then_nothing_is_to_do() {
    let theatre = made(2);
    let backup = record(&theatre);
    said(&theatre, "scale 4", 0);
    said(&theatre, "instance protect --from all 1", 0);
    said(&theatre, "instance delete 2 --yes", 0);
    scenario::odd::put(&theatre, &backup);
    is_there(
        &said(&theatre, "plan", 5),
        &["newer than the record", "vmss state catch-up"],
    );
    let asked = said(&theatre, "state catch-up", 2);
    is_there(
        &asked,
        &[
            "web-3",
            "web-4",
            "made since",
            "web-1",
            "protected from all actions",
            "gone since: 2",
        ],
    );
    is_there(&asked, &["the capacity goes from 2 to 3", "the next id is 5"]);
    assert_eq!(record(&theatre).known, backup.known, "nobody has answered");
    let done = said(&theatre, "state catch-up --yes", 0);
    is_there(&done, &["level with the hosts", "capacity 3", "next id 5"]);
    is_there(&said(&theatre, "plan", 0), &["nothing to do"]);
    is_there(&said(&theatre, "show", 0), &["3 of 3 running"]);
    is_there(&said(&theatre, "state catch-up --yes", 0), &["nothing to do"]);
    said(&theatre, "scale 4", 0);
    let hidden = &theatre.stage.fleet;
    scenario::odd::put(&theatre, &backup);
    hidden.inject("kvm1", vmss::hypervisor::fake::Fault::Down);
    is_there(
        &said(&theatre, "state catch-up --yes", 4),
        &["host kvm1 was not seen"],
    );
}

/// What somebody has reserved since the look would be taken for abandoned, and deleted as soon as it is made.
#[test]
fn who_waits_takes_nothing_back_that_another_reserves_meanwhile() {
    let theatre = made(2);
    let fleet = &theatre.stage.fleet;
    fleet.inject("kvm1", vmss::hypervisor::fake::Fault::Hangs);
    let three = InstanceId(3);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| said(&theatre, "wait --for capacity", 0));
        while fleet.in_flight("kvm1") == 0 {
            std::thread::yield_now();
        }
        let mut later = record(&theatre);
        let mut reserved = later.known.values().next().unwrap().clone();
        (reserved.uuid, reserved.confirmed) = (uuid::Uuid::from_u128(7), false);
        later.known.insert(three, reserved);
        later.next_id = InstanceId(4);
        scenario::odd::put(&theatre, &later);
        fleet.heal("kvm1");
        waiting.join().unwrap();
    });
    let now = record(&theatre);
    assert!(now.known.contains_key(&three), "{:?}", now.known.keys());
    assert!(now.warrants.instances.is_empty(), "{:?}", now.warrants);
}
