//! The kill campaign in odd worlds: where hosts, disks and stores are not what they seem, vmss is killed at every moment of every
//! command that changes something, and run again. What is nobody's stays as it was, nothing is there twice by its doing, and
//! once the oddity is settled as the output says, the set is as asked and nothing is left behind.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]
#![allow(dead_code, reason = "it uses a part of what scenarios are told with")]

mod campaign;
mod play;
#[path = "../scenario/mod.rs"]
mod scenario;

use campaign::{Command, World, campaign};

/// What is typed in every world.
const FEW: &[Command] = &[
    Command::new("create --yes"),
    Command::new("scale 4 --yes"),
    Command::new("scale 2 --yes"),
    Command::new("state sweep --all --yes"),
    Command::new("delete --yes"),
];

/// What changes every instance.
const CHANGES: &[Command] = &[
    Command::after(&["image 8"], "apply --yes"),
    Command::after(
        &[
            "image 8",
            "definition [upgrade]",
            "definition method = \"replace\"",
            "define 3",
        ],
        "apply --yes",
    ),
];

/// What is done about one of them, or about one host.
const HANDS: &[Command] = &[
    Command::after(
        &["unhealthy kvm3 web-3", "vmss repair", "sleep 60"],
        "repair --yes",
    ),
    Command::new("host drain kvm1 --yes"),
    Command::new("host drain kvm3 --migrate --yes"),
    Command::new("instance delete 3 --yes"),
    Command::new("instance replace 3 --yes"),
    Command::new("instance reimage 3 --yes"),
    Command::new("instance protect 3 --from all"),
];

#[test]
fn where_nothing_is_odd() {
    let world = World { ..World::default() };
    campaign(&world, &[FEW, HANDS]);
}

#[test]
fn a_double_that_runs_on_both_hosts() {
    let world = World {
        odd: &["copy kvm1 web-1 kvm2"],
        settled: &["vmss instance settle 1 --keep kvm1 --yes"],
        ..World::default()
    };
    let claims = [
        "instance settle 1 --keep kvm1 --yes",
        "instance settle 1 --keep kvm2 --yes",
    ]
    .map(Command::claim);
    campaign(&world, &[FEW, &claims]);
}

#[test]
fn a_copy_that_is_off() {
    let world = World {
        odd: &["copy kvm1 web-1 kvm2 off"],
        settled: &["vmss instance settle 1 --keep kvm1 --yes"],
        ..World::default()
    };
    let claims = [
        "instance settle 1 --keep kvm1 --yes",
        "instance settle 1 --keep kvm2 --yes",
    ]
    .map(Command::claim);
    campaign(&world, &[FEW, CHANGES, HANDS, &claims]);
}

#[test]
fn a_copy_that_runs_in_its_place() {
    let world = World {
        odd: &["copy kvm1 web-1 kvm2", "power-off kvm1 web-1"],
        settled: &["vmss instance settle 1 --keep kvm2 --yes"],
        ..World::default()
    };
    let claims = [
        "instance settle 1 --keep kvm1 --yes",
        "instance settle 1 --keep kvm2 --yes",
    ]
    .map(Command::claim);
    campaign(&world, &[FEW, &claims]);
}

#[test]
fn a_double_in_a_shared_folder() {
    let world = World {
        before: &["shares kvm1 kvm2"],
        // Others may have disks on it, as far as anybody can tell.
        stays: &[": image vmss-base-", "vmss-pool-"],
        odd: &["copy kvm1 web-1 kvm2 off"],
        settled: &["vmss instance settle 1 --keep kvm1 --yes"],
        ..World::default()
    };
    let claims = [
        "instance settle 1 --keep kvm1 --yes",
        "instance settle 1 --keep kvm2 --yes",
    ]
    .map(Command::claim);
    campaign(&world, &[FEW, &claims]);
}

#[test]
fn a_member_under_another_name() {
    let world = World {
        odd: &["rename kvm1 web-1 kept-1"],
        settled: &[
            "undefine kvm1 kept-1",
            "vmss scale +0 --yes",
            "vmss state sweep --all --yes",
        ],
        ..World::default()
    };
    campaign(&world, &[FEW]);
}

#[test]
fn a_member_under_another_name_in_a_shared_folder() {
    let world = World {
        before: &["shares kvm1 kvm2"],
        // Others may have disks on it, as far as anybody can tell.
        stays: &[": image vmss-base-", "vmss-pool-"],
        odd: &["rename kvm1 web-1 kept-1"],
        settled: &[
            "undefine kvm1 kept-1",
            "vmss scale +0 --yes",
            "vmss state sweep --all --yes",
        ],
        ..World::default()
    };
    campaign(&world, &[FEW]);
}

#[test]
fn a_note_of_an_instance_that_was_never_made() {
    let world = World {
        odd: &["forge kvm2 web-9 web-1"],
        settled: &["vmss instance disown 9 --yes"],
        stays: &["web-9"],
        ..World::default()
    };
    let claims = ["instance disown 9 --yes", "instance adopt 9 --yes"].map(Command::claim);
    campaign(&world, &[FEW, &claims]);
}

#[test]
fn a_forged_note_of_a_living_instance() {
    let world = World {
        odd: &["forge kvm2 web-1 web-1"],
        settled: &["undefine kvm2 web-1"],
        ..World::default()
    };
    let claims = ["instance disown 1 --host kvm2 --yes"].map(Command::claim);
    campaign(&world, &[FEW, &claims]);
}

#[test]
fn one_that_was_gone_and_is_back() {
    let world = World {
        odd: &[
            "rename kvm1 web-1 kept-1",
            "vmss scale +0 --yes",
            "rename kvm1 kept-1 web-1",
        ],
        settled: &["vmss instance adopt 1 --yes"],
        ..World::default()
    };
    let claims = ["instance adopt 1 --yes"].map(Command::claim);
    campaign(&world, &[FEW, &claims]);
}

#[test]
fn a_borrowed_disk() {
    let world = World {
        odd: &["foreign kvm1 mail", "attach kvm1 mail of-web-1"],
        settled: &["undefine kvm1 mail"],
        ..World::default()
    };
    campaign(&world, &[FEW]);
}

#[test]
fn a_store_from_a_backup() {
    let world = World {
        odd: &[
            "backup-store",
            "vmss scale 4",
            "vmss instance protect 1",
            "vmss instance delete 2 --yes",
            "restore-store",
        ],
        settled: &["vmss state catch-up --yes"],
        ..World::default()
    };
    let claims = ["state catch-up --yes", "state catch-up --capacity 5 --yes"].map(Command::claim);
    campaign(&world, &[FEW, &claims]);
}

#[test]
fn a_pool_that_is_inactive() {
    let world = World {
        odd: &["pool-off kvm1"],
        settled: &["pool-on kvm1"],
        ..World::default()
    };
    campaign(&world, &[FEW]);
}

#[test]
fn a_host_out_of_sight() {
    let world = World {
        odd: &["kill kvm1"],
        settled: &["heal kvm1"],
        ..World::default()
    };
    campaign(&world, &[FEW]);
}

#[test]
fn a_host_that_was_given_up_and_is_back() {
    let world = World {
        definition: &["definition host_lost_after = \"10m\""],
        odd: &[
            "power-cut kvm1",
            "vmss scale +0",
            "sleep 6000",
            "vmss repair --yes",
            "heal kvm1",
        ],
        // It has a data disk: its volumes go by an operator's word alone.
        settled: &["vmss scale +0 --yes", "vmss state sweep --all --yes"],
        ..World::default()
    };
    campaign(&world, &[FEW, HANDS]);
}

#[test]
fn another_store_on_the_same_pools() {
    let world = World {
        odd: &[
            "line db.toml name = \"db\"",
            "line db.toml capacity = 2",
            "line db.toml [image]",
            "line db.toml source = \"image.raw\"",
            "line db.toml [instance]",
            "line db.toml memory = \"1 GiB\"",
            "line db.toml [[fault_domains]]",
            "line db.toml name = \"rack-a\"",
            "line db.toml hosts = [{ name = \"kvm1\", uri = \"qemu+ssh://kvm1/system\" }, { name = \"kvm3\", uri = \"qemu+ssh://kvm3/system\" }]",
            "store other.db",
            "vmss -f db.toml create",
            "store state.db",
        ],
        // The other store may need them.
        stays: &[": image vmss-base-"],
        ..World::default()
    };
    campaign(&world, &[FEW]);
}

#[test]
fn a_folder_of_two_hosts() {
    let world = World {
        before: &["shares kvm1 kvm2"],
        // Others may have disks on it, as far as anybody can tell.
        stays: &[": image vmss-base-", "vmss-pool-"],
        ..World::default()
    };
    campaign(&world, &[FEW, CHANGES]);
}

#[test]
fn moved_by_hand() {
    let world = World {
        odd: &["copy kvm1 web-1 kvm2", "undefine kvm1 web-1"],
        settled: &["vmss state sweep --all --yes"],
        ..World::default()
    };
    campaign(&world, &[FEW]);
}

#[test]
fn undefined_by_hand() {
    let world = World {
        odd: &["undefine kvm1 web-1"],
        settled: &["vmss state sweep --all --yes"],
        ..World::default()
    };
    campaign(&world, &[FEW]);
}

/// Nothing is there yet, and one host's marks are seen through the other.
#[test]
fn a_set_that_is_made_in_a_folder_of_two_hosts() {
    let world = World {
        before: &["shares kvm1 kvm2", "foreign kvm3 web-2"],
        is_fresh: true,
        stays: &[": image vmss-base-", "vmss-pool-"],
        ..World::default()
    };
    campaign(&world, &[&[Command::new("create --yes")]]);
}

#[test]
fn a_set_that_is_made_while_a_host_and_a_pool_are_away() {
    let world = World {
        before: &["kill kvm1", "pool-off kvm2"],
        is_fresh: true,
        settled: &["heal kvm1", "pool-on kvm2"],
        ..World::default()
    };
    campaign(&world, &[&[Command::new("create --yes")]]);
}

#[test]
fn a_set_that_another_store_takes_over() {
    let world = World {
        odd: &["store other.db"],
        settled: &["vmss state adopt --yes"],
        ..World::default()
    };
    let commands = [
        "state adopt --yes",
        "state rebuild --yes",
        "create --yes",
        "delete --yes",
    ];
    campaign(&world, &[&commands.map(Command::claim)]);
}

#[test]
fn a_set_that_was_given_up_with_a_host_that_is_back() {
    let world = World {
        odd: &["kill kvm1", "vmss delete --abandon-unseen --yes", "heal kvm1"],
        // It had a data disk: its volumes go by an operator's word alone.
        settled: &["vmss scale +0 --yes", "vmss state sweep --all --yes"],
        // The host could not be asked to take its mark away. Once the set is gone nobody can be asked for the volumes.
        stays: &["vmss-pool-", "web-1-"],
        ..World::default()
    };
    let commands = ["create --yes", "state rebuild --yes", "delete --yes"];
    campaign(&world, &[&commands.map(Command::claim)]);
}
