//! Worlds in which something was wrong once, as they were told.

use crate::commands::Deed;
use crate::play;
use crate::stage::{Sets, Setting, World};

/// A world of one set of so many on three hosts, of which the first ones share a folder.
fn plain(capacity: u32, sharing: usize) -> Setting {
    Setting {
        sets: Sets::One,
        sharing,
        repairs: false,
        data: false,
        capacity,
    }
}

fn played(setting: &Setting, lines: &[&'static str]) {
    let deeds: Vec<Deed> = lines.iter().map(|line| Deed::Line(line)).collect();
    if let Err(why) = play::odd(setting, &deeds) {
        panic!("{why}");
    }
}

/// Without the end, at which it comes to rest: somebody has to end what is odd by his own hand first.
fn played_without_rest(setting: &Setting, lines: &[&'static str]) {
    let deeds: Vec<Deed> = lines.iter().map(|line| Deed::Line(line)).collect();
    if let Err(why) = play::without_rest(setting, &deeds) {
        panic!("{why}");
    }
}

/// A copy has the UUID of what it is a copy of, and may have its very disk.
#[test]
fn a_copy_in_a_shared_folder_does_not_go_with_the_disk_of_the_one_that_is_kept() {
    let lines = [
        "copy kvm1 web-1 kvm2 off",
        "rename kvm1 web-1 kept-1",
        "vmss -f web.toml delete --yes",
    ];
    played(&plain(3, 2), &lines);
}

/// Its name and its UUID are an instance's, its note is gone: it must not be passed over in silence.
#[test]
fn a_member_that_has_lost_its_note_is_told() {
    let mut world = World::new(&plain(1, 0));
    for line in ["vmss -f web.toml create --yes", "lose-note kvm1 web-1"] {
        assert_eq!(world.theatre.command(line).0, 0, "{line}");
    }
    let (exit, _, said) = world.theatre.command("vmss -f web.toml delete --yes");
    assert_eq!(exit, 0, "{said}");
    let told = "domain web-1 on kvm1 has the UUID of instance 1, and no note of vmss";
    assert!(said.contains(told), "{said}");
    assert_eq!(world.fleet().domains("kvm1").len(), 1, "it is left alone");
}

/// What a creation that did not end has left is somebody's disk by now: that is no reason to fail for ever.
#[test]
fn what_our_own_acts_have_left_and_somebody_uses_stays() {
    let lines = [
        "kill-vmss after 7",
        "vmss -f web.toml scale 2 --yes",
        "rename kvm1 web-2 kept-1",
        "rename kvm2 web-2 kept-1",
        "rename kvm3 web-2 kept-1",
    ];
    for step in 1..12 {
        let mut lines = lines;
        let kill = format!("kill-vmss after {step}");
        lines[0] = kill.leak();
        played(&plain(1, 0), &lines);
    }
}

/// One copy is kept under another name and runs, the other has the instance's name and is off: it is not started.
#[test]
fn no_copy_is_started_beside_one_that_runs_under_another_name() {
    let lines = [
        "copy kvm1 web-1 kvm2 off",
        "rename kvm1 web-1 kept-1",
        "vmss -f web.toml scale +0 --yes",
    ];
    played_without_rest(&plain(1, 0), &lines);
    for command in [
        "scale +0 --yes",
        "instance start --all",
        "instance restart --all --yes",
        "instance reimage --all --yes",
    ] {
        let command: &str = format!("vmss -f web.toml {command}").leak();
        let lines = [
            "copy kvm1 web-1 kvm2",
            "power-off kvm1 web-1",
            "rename kvm2 web-1 kept-1",
            command,
        ];
        played_without_rest(&plain(1, 0), &lines);
    }
}

/// A set that was scaled to nothing is made anew: what the record says of what was there before is not forgotten.
#[test]
fn what_was_deleted_through_another_host_of_a_folder_is_not_told() {
    let lines = [
        "vmss -f web.toml create --yes",
        "vmss -f web.toml scale 0 --yes",
        "vmss -f web.toml create --yes",
        "sleep 4000",
        "vmss -f web.toml scale 2 --yes",
    ];
    quietly(&plain(1, 2), &lines);
}

fn quietly(setting: &Setting, lines: &[&'static str]) {
    let deeds: Vec<Deed> = lines.iter().map(|line| Deed::Line(line)).collect();
    if let Err(why) = play::quiet(setting, &deeds) {
        panic!("{why}");
    }
}

/// Who proves that a disk is unused has every host of the folder read it, just before it goes: their lists have it for good.
#[test]
fn what_a_set_that_is_gone_had_in_a_folder_is_not_told_of_the_next() {
    let setting = Setting {
        sets: Sets::Two,
        ..plain(1, 2)
    };
    let lines = ["vmss -f db.toml delete --yes", "vmss -f db.toml create --yes"];
    quietly(&setting, &lines);
}

/// A move brings an instance to where its seed was left by another.
#[test]
fn a_seed_is_not_taken_from_the_host_that_an_instance_is_moved_to() {
    let lines = [
        "vmss -f web.toml scale 1 --yes",
        "vmss -f web.toml host drain kvm1 --migrate --yes",
    ];
    quietly(&plain(3, 0), &lines);
}

/// A note that was copied with the disks in it.
#[test]
fn what_has_the_disks_of_another_instance_is_not_taken_over_and_another_is_made() {
    let lines = [
        "image 1",
        "forge kvm1 web-2 web-1",
        "vmss -f web.toml state catch-up --yes",
    ];
    played(&plain(1, 3), &lines);
    let lines = [
        "rename kvm1 web-1 kept-0",
        "vmss -f web.toml delete --yes",
        "forge kvm1 web-1 kept-0",
    ];
    played(&plain(2, 2), &lines);
}

/// What somebody keeps under another name is no instance, and does not keep a set from being made.
#[test]
fn a_set_is_made_anew_beside_what_is_kept_under_another_name() {
    let lines = [
        "power-cut kvm3",
        "move kvm1 web-1 kvm4",
        "rename kvm4 web-1 kept-3",
        "vmss -f web.toml delete --yes --abandon-unseen",
    ];
    played(&plain(3, 0), &lines);
}

/// Another host of the folder has a domain with the disk, which the one that it is moved away from can't know.
#[test]
fn a_move_takes_no_disk_that_a_domain_of_another_host_of_the_folder_has() {
    let lines = [
        "power-off kvm1 web-1",
        "move kvm1 web-1 kvm2 keeping",
        "rename kvm2 web-1 kept-2",
        "vmss -f web.toml host drain kvm1 --migrate --yes",
    ];
    played(&plain(1, 2), &lines);
}

/// Both names were applied while the host could not be seen, and no definition is applied to a set that is being deleted.
#[test]
fn a_set_whose_definition_had_a_host_twice_is_deleted_by_one_that_has_it_once() {
    let lines = [
        "kill kvm1",
        "vmss -f web.toml scale 2 --yes",
        "hosts web.toml kvm1 kvm2 kvm3 kvm1-ip",
        "vmss -f web.toml apply --yes",
        "vmss -f web.toml delete --yes",
    ];
    for sharing in [0, 2] {
        played(&plain(1, sharing), &lines);
    }
}

/// The copy runs, shares its disk with the one that is kept, and its host leaves the definition.
#[test]
fn what_a_copy_has_on_a_host_that_is_dropped_does_not_go() {
    let lines = [
        "vmss -f web.toml host drain kvm1 --yes",
        "move kvm2 web-2 kvm3 keeping",
        "hosts web.toml kvm1 kvm2",
        "image 1",
        "vmss -f web.toml apply --yes",
    ];
    played(&plain(1, 3), &lines);
}

/// A deletion was cut short, and the record is lost.
#[test]
fn what_was_half_deleted_is_taken_over_by_nobody() {
    for step in 3..9 {
        let kill: &str = format!("kill-vmss after {step}").leak();
        let lines = [
            kill,
            "vmss -f web.toml delete --yes",
            "vmss -f other.toml state adopt --yes",
        ];
        let setting = Setting {
            sets: Sets::OneName,
            ..plain(1, 0)
        };
        played(&setting, &lines);
    }
}

/// Of a set without instances `create` makes the definition count, and a lost record is made again by one.
#[test]
fn no_record_is_made_of_a_definition_that_has_a_host_twice() {
    let mut world = World::new(&plain(1, 0));
    let vmss = |world: &mut World, args: &str, wanted: u8| {
        let args: Vec<String> = format!("-f web.toml {args} --yes")
            .split(' ')
            .map(str::to_owned)
            .collect();
        let (exit, said) = world.vmss(&args);
        assert_eq!(exit, wanted, "{args:?}: {said}");
    };
    vmss(&mut world, "create", 0);
    vmss(&mut world, "scale 0", 0);
    world.other("hosts web.toml kvm1 kvm2 kvm3 kvm1-ip");
    vmss(&mut world, "create", 3);
    vmss(&mut world, "scale 1", 0);
    let managed = world.managed[0].clone();
    let store = world.theatre.store(managed.store);
    let (_, version) = store.get(&managed.set).unwrap().unwrap();
    store.remove(&managed.set, version).unwrap();
    vmss(&mut world, "state rebuild", 3);
}

/// The domain of an instance that an operator has had replaced is kept under another name, and has its disk.
#[test]
fn what_an_operator_has_had_deleted_and_somebody_keeps_stays() {
    for step in 2..8 {
        let kill: &str = format!("kill-vmss after {step}").leak();
        let lines = [
            kill,
            "vmss -f web.toml instance replace 1 --yes",
            "rename kvm1 web-1 kept-1",
        ];
        played(&plain(1, 0), &lines);
    }
}
