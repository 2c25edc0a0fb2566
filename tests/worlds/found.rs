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
    let deeds: Vec<Deed> = lines.iter().map(|line| Deed::Line(line)).collect();
    if let Err(why) = play::quiet(&plain(1, 2), &deeds) {
        panic!("{why}");
    }
}
