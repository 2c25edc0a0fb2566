//! What an operator says of whose a domain, a volume or a record is, as whole commands on the fake fleet.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]
#![allow(dead_code, reason = "it uses a part of what scenarios are told with")]

mod scenario;

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use scenario::odd::{ids, made, mark_pools, record, said};
use scenario::theatre::{Capture, Theatre};
use vmss::hypervisor::fake::{Failure, Fault, Fleet};
use vmss::hypervisor::{FaultKind, Hosts, Hypervisor, HypervisorError, Pulse, Settled, Stage};
use vmss::inventory::{Power, Protection};
use vmss::model::Model;
use vmss::names::{InstanceId, StoreId};
use vmss::plan::action::{InstanceRef, InstanceSpec};
use vmss::scaleset::{Host, Limits};
use vmss::store::Store as _;
use vmss::store::sqlite::Sqlite;
use vmss::units::Bytes;

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

/// Given up with its host when the set was deleted, by whoever was killed at whichever step of that, or of making the set anew
/// and of fencing it: nothing lives twice, and no disk of anybody who lives is lost.
#[test]
fn killed_at_every_step_a_set_that_is_made_anew_ends_with_none_of_those_that_were_given_up() {
    let goes_on = |theatre: &scenario::theatre::Theatre, line: &str| {
        theatre.vmss(&scenario::parse::words(line).unwrap());
        let killed = theatre.stage.fleet.is_killed();
        theatre.stage.fleet.revive();
        killed
    };
    for turn in ["delete --yes --abandon-unseen", "create --yes", "scale +0 --yes"] {
        for step in 0.. {
            let mut theatre = made(2);
            let fleet = std::sync::Arc::clone(&theatre.stage.fleet);
            theatre.command("kill kvm2");
            let old: Vec<uuid::Uuid> = (["kvm1", "kvm2"].iter())
                .flat_map(|host| fleet.domains(host))
                .map(|d| d.uuid)
                .collect();
            let mut killed = false;
            for line in ["delete --yes --abandon-unseen", "create --yes", "scale +0 --yes"] {
                if line == "scale +0 --yes" {
                    theatre.command("heal kvm2");
                }
                let at = format!("vmss {turn} killed after step {step}, then vmss {line}");
                if line == turn {
                    fleet.kill_after(step);
                    killed = goes_on(&theatre, line);
                }
                // A creation that was cut short ends with this command too, a deletion that has ended says so.
                let (exit, _, told) = theatre.vmss(&scenario::parse::words(line).unwrap());
                assert!(exit == 0 || exit == 4, "{at}: {exit}\n{told}");
            }
            let record = record(&theatre);
            let at = format!("vmss {turn} killed after step {step}");
            assert!(record.written_off.is_empty(), "{at}: {:?}", record.written_off);
            let there: Vec<_> = (["kvm1", "kvm2"].iter())
                .flat_map(|host| fleet.domains(host))
                .collect();
            assert_eq!(there.len(), 2, "{at}: {there:?}");
            assert!(
                there.iter().all(|d| !old.contains(&d.uuid) && d.is_active()),
                "{at}"
            );
            assert!(record.known.values().all(|k| !old.contains(&k.uuid)), "{at}");
            assert_eq!(fleet.robbed(), Vec::<String>::new(), "{at}");
            let left: Vec<String> = ["kvm1", "kvm2"]
                .iter()
                .flat_map(|host| fleet.volumes(host))
                .map(|v| v.name)
                .collect();
            let os = left.iter().filter(|name| name.ends_with("-os.qcow2")).count();
            assert_eq!(os, 2, "{at}: {left:?}");
            if !killed {
                assert!(step > 0, "vmss {turn} has no step to be killed at");
                break;
            }
        }
    }
}

/// Runs vmss, whose question an operator answers with yes after something else was done; its exit code and what it said.
fn asked(theatre: &Theatre, args: &str, meanwhile: impl FnOnce() + Send + Sync + 'static) -> (u8, String) {
    let (stdout, stderr) = (Capture::default(), Capture::default());
    let mut world = theatre.world(&stdout, &stderr);
    (world.env.stdin_is_terminal, world.env.stderr_is_terminal) = (true, true);
    let meanwhile = Mutex::new(Some(meanwhile));
    world.ask = Box::new(move |_| {
        if let Some(act) = meanwhile.lock().unwrap().take() {
            act();
        }
        true
    });
    let exit = vmss::run(scenario::parse::words(args).unwrap(), &world);
    (exit, format!("{}{}", stdout.text(), stderr.text()))
}

#[test]
fn what_was_protected_or_made_while_it_was_asked_is_not_deleted_with_the_set() {
    for (meanwhile, why) in [
        ("instance protect 1 --from all", "instance 1 is protected"),
        ("scale 3 --yes", "is not as it was any more"),
    ] {
        let theatre = Arc::new(made(2));
        let other = Arc::clone(&theatre);
        let (exit, text) = asked(&theatre, "delete", move || {
            said(&other, meanwhile, 0);
        });
        assert_eq!(exit, 5, "{text}");
        is_there(&text, &[why]);
        assert!(ids(&theatre, "kvm1").len() + ids(&theatre, "kvm2").len() >= 2);
        is_there(&said(&theatre, "show", 0), &["stable"]);
    }
}

#[test]
fn what_is_half_deleted_in_sight_is_not_abandoned_with_what_is_out_of_sight() {
    let mut theatre = made(2);
    let first = ids(&theatre, "kvm1")[0];
    let stuck = Failure {
        instance: Some(first),
        ..Failure::new(Stage::Undefine, FaultKind::Other)
    };
    theatre.stage.fleet.inject("kvm1", Fault::Fails(stuck));
    theatre.command("kill kvm2");
    let text = said(&theatre, "delete --abandon-unseen --yes", 1);
    is_there(
        &text,
        &["not deleted yet", "hint: vmss delete again goes on from here"],
    );
    theatre.command("heal kvm1");
    let text = said(&theatre, "delete --abandon-unseen --yes", 0);
    is_there(&text, &["kvm2, which could not be seen and is given up"]);
    assert_eq!(ids(&theatre, "kvm1"), []);
}

#[test]
fn a_volume_that_is_another_than_the_one_that_was_shown_is_not_swept() {
    let mut theatre = made(2);
    let second = ids(&theatre, "kvm2")[0];
    let volume = theatre
        .stage
        .fleet
        .volumes("kvm2")
        .into_iter()
        .find(|v| v.name.contains("-os."));
    let name = volume.unwrap().name;
    theatre.command(&format!("undefine kvm2 web-{second}"));
    said(&theatre, "scale +0 --yes", 0);
    let (fleet, disk) = (Arc::clone(&theatre.stage.fleet), name.clone());
    let (exit, text) = asked(&theatre, &format!("state sweep {name}"), move || {
        fleet.take_volume("kvm2", &disk);
        fleet.add_volume("kvm2", &disk, Bytes::gib(7));
    });
    assert_eq!(exit, 5, "{text}");
    is_there(&text, &["is not as it was any more"]);
    let there = theatre.stage.fleet.volumes("kvm2");
    assert!(
        there.iter().any(|v| v.name == name),
        "somebody has put it there since"
    );
    said(&theatre, &format!("state sweep {name} --yes"), 0);
}

/// `create` takes the definition anew for a set of which nothing is there, and forgets nobody who was: an instance under another
/// name, one that was given up with its host, a note that lies.
#[test]
fn a_set_that_is_created_again_after_it_was_empty_remembers_who_was_there() {
    let mut theatre = made(2);
    let second = ids(&theatre, "kvm2")[0];
    theatre.command(&format!("rename kvm2 web-{second} forensic"));
    said(&theatre, "scale 0 --yes", 0);
    let before = record(&theatre);
    assert!(before.known.is_empty() && before.departed.contains_key(&second));
    said(&theatre, "create", 0);
    let after = record(&theatre);
    assert_eq!(after.departed, before.departed);
    assert!(after.epoch.count > before.epoch.count, "no epoch comes twice");
    let shown = said(&theatre, "show", 0);
    is_there(
        &shown,
        &[&format!("domain forensic on kvm2 is what instance {second} was")],
    );
}

#[test]
fn an_adoption_that_is_cut_short_anywhere_is_finished_by_another() {
    for has_record in [false, true] {
        for step in 0.. {
            let mut theatre = made(2);
            let fleet = std::sync::Arc::clone(&theatre.stage.fleet);
            theatre.command("store other.db");
            if has_record {
                // It says whose the instances are, and has a record from then on.
                said(&theatre, "create", 5);
            }
            fleet.kill_after(step);
            theatre.vmss(&["state", "adopt", "--yes"].map(str::to_owned));
            let was_killed = fleet.is_killed();
            fleet.revive();
            theatre.vmss(&["scale", "+0", "--yes"].map(str::to_owned));
            let there = [ids(&theatre, "kvm1"), ids(&theatre, "kvm2")].concat();
            assert_eq!(
                there.len(),
                2,
                "killed at step {step}, no more are made: {there:?}"
            );
            said(&theatre, "state adopt --yes", 0);
            let told = said(&theatre, "scale +0 --yes", 0);
            is_there(&told, &["ok web: 2 of 2 running"]);
            assert!(!told.contains("left alone"), "killed at step {step}: {told}");
            if !was_killed {
                break;
            }
        }
    }
}

#[test]
fn who_takes_over_another_stores_instances_keeps_his_own_of_the_same_id() {
    let theatre = made(2);
    let (first, fleet) = (ids(&theatre, "kvm1")[0], &theatre.stage.fleet);
    let own = record(&theatre).known[&first].clone();
    let name = format!("web-{first}");
    fleet.forge_domain("kvm2", &name, &name, first, Protection::None);
    fleet.forge_note("kvm2", &name, |note| {
        note.store = StoreId(uuid::Uuid::from_u128(7))
    });
    is_there(&said(&theatre, "plan", 5), &["managed from another store"]);
    said(&theatre, "state adopt --yes", 0);
    assert_eq!(record(&theatre).known[&first].uuid, own.uuid, "it lives on kvm1");
    let shown = said(&theatre, "show", 0);
    is_there(&shown, &["2 of 2 running", &format!("domain {name} on kvm2")]);
}

/// The fleet, on which something happens when a host is looked at for the first time by whoever has the lease.
struct Interrupted {
    fleet: Arc<Fleet>,
    store: std::path::PathBuf,
    act: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Hosts for Interrupted {
    fn host(&self, host: &Host, limits: &Limits) -> Arc<dyn Hypervisor> {
        let store = Sqlite::open(&self.store)
            .unwrap()
            .judging(Arc::new(|_| Some(true)));
        let is_held = store.holder("set/web", Timestamp::UNIX_EPOCH).unwrap().is_some();
        if let Some(act) = is_held.then(|| self.act.lock().unwrap().take()).flatten() {
            act();
        }
        self.fleet.host(host, limits)
    }
    fn migrate(
        &self,
        _: &Host,
        _: &Host,
        _: &Limits,
        _: &InstanceRef,
        _: &InstanceSpec,
        _: &Model,
        _: &Pulse,
    ) -> Result<(), HypervisorError> {
        unreachable!("nothing is moved here")
    }
    fn settle(
        &self,
        _: &Host,
        _: &Host,
        _: &Limits,
        _: &InstanceRef,
        _: &Pulse,
    ) -> Result<Settled, HypervisorError> {
        unreachable!("nothing is moved here")
    }
}

/// A process that was stopped while it looked, until another took its lease, made an instance and gave the lease back.
#[test]
fn who_has_lost_the_lease_while_looking_writes_nothing_down_and_does_nothing() {
    for theirs in ["scale +0 --yes", "scale 4 --yes"] {
        let theatre = Arc::new(made(2));
        let (stdout, stderr) = (Capture::default(), Capture::default());
        let mut world = theatre.world(&stdout, &stderr);
        let other = Arc::clone(&theatre);
        world.hosts = Arc::new(Interrupted {
            fleet: Arc::clone(&theatre.stage.fleet),
            store: theatre.folder().join("state.db"),
            act: Mutex::new(Some(Box::new(move || {
                said(&other, theirs, 0);
            }))),
        });
        let exit = vmss::run(scenario::parse::words("scale +1 --yes").unwrap(), &world);
        let text = format!("{}{}", stdout.text(), stderr.text());
        assert_ne!(exit, 0, "{text}");
        is_there(&text, &["was taken over by another process"]);
        is_there(&said(&theatre, "show", 0), &["stable"]);
        let mut there: Vec<uuid::Uuid> = ["kvm1", "kvm2"]
            .into_iter()
            .flat_map(|host| theatre.stage.fleet.domains(host))
            .map(|domain| domain.uuid)
            .collect();
        let mut known: Vec<uuid::Uuid> = record(&theatre).known.values().map(|k| k.uuid).collect();
        there.sort_unstable();
        known.sort_unstable();
        assert_eq!(known, there, "each has one UUID");
    }
}
