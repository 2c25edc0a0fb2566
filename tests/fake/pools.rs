//! Pools that are lost, and pools that share a folder.

use std::time::Duration;

use vmss::hypervisor::fake::FakeHost;
use vmss::hypervisor::{FaultKind, Hypervisor, Pulse};
use vmss::inventory::Power;
use vmss::names::PoolMark;

use crate::support::*;

#[test]
fn without_its_pool_a_host_shows_its_domains_and_does_what_needs_no_disk() {
    let (fleet, host) = one_host();
    create(&*host, 1).unwrap();
    let (uses, domains, files) = (uses(&*host), fleet.domains("kvm1"), fleet.files("kvm1"));
    let mark = PoolMark::new(STORE, "test:///default");
    fleet.lose_pool("kvm1");
    let shown = seen(&*host);
    assert!(shown.pool_unseen.is_some());
    assert_eq!(shown.instances.len(), 1);
    assert!(shown.volumes.is_empty() && shown.bases.is_empty() && shown.seeds.is_empty());
    let facts = host.facts().unwrap();
    assert_eq!((facts.pool_unseen, facts.pool_size), (shown.pool_unseen, None));
    fails(create(&*host, 2), FaultKind::Missing);
    fails(
        rework(&*host, 1, &model(), vmss::inventory::Rework::Live),
        FaultKind::Missing,
    );
    let deleted = host.delete(&reference(1), Duration::ZERO, &uses, &Pulse::silent());
    fails(deleted, FaultKind::Missing);
    fails(host.delete_volume("web-1-os.qcow2", &uses), FaultKind::Missing);
    fails(host.uses(&Pulse::silent()), FaultKind::Missing);
    fails(host.mark_pool(&mark), FaultKind::Missing);
    fails(host.images(), FaultKind::Missing);
    fails(
        host.delete_image(&model().image.digest, &[STORE]),
        FaultKind::Missing,
    );
    assert_eq!((fleet.domains("kvm1"), fleet.files("kvm1")), (domains, files));
    host.restart(&reference(1), Duration::ZERO, &Pulse::silent())
        .unwrap();
    assert_eq!(instance(&*host, 1).unwrap().power, Power::Running);
    fleet.find_pool("kvm1");
    assert_eq!(seen(&*host).pool_unseen, None);
    delete(&*host, 1).unwrap();
}

#[test]
fn hosts_of_one_folder_see_what_others_made_when_they_look_again() {
    let (fleet, one) = one_host();
    fleet.add_host(&label("kvm2"), FakeHost::default());
    fleet.share_pool("kvm1", "kvm2");
    let two = open(&fleet, "kvm2");
    create(&*one, 1).unwrap();
    let mark = PoolMark::new(STORE, "test:///default");
    one.mark_pool(&mark).unwrap();
    let volume = &fleet.domains("kvm1")[0].disks[0];
    let knows = |host: &dyn Hypervisor| {
        let shown = seen(host);
        (
            shown.volumes.iter().any(|v| v.name == *volume),
            shown.marks.contains(&mark),
        )
    };
    assert_eq!(knows(&*one), (true, true));
    assert_eq!(knows(&*two), (false, false), "it has not looked");
    let found = two.uses(&Pulse::silent()).unwrap();
    assert!(found.marks.contains(&mark), "it looks first");
    assert_eq!(knows(&*two), (true, true));
    assert_eq!(audit(&fleet), Vec::<String>::new());
    // Its domains don't speak for the other host's, so that it would delete what that uses.
    two.delete_volume(volume, &found).unwrap();
    assert_eq!(knows(&*one), (true, true), "it has not looked");
    let wrong = audit(&fleet);
    let lost = format!("kvm1: web-1 runs and has lost its disk {volume}");
    assert!(wrong.contains(&lost), "{wrong:?}");
    fleet.set_power("kvm1", "web-1", Power::Off);
    fails(one.start(&reference(1)), FaultKind::Missing);
    fleet.reboot("kvm1");
    assert!(!knows(&*one).0, "it looks when it comes up");
}

#[test]
fn what_one_host_does_not_know_of_it_does_not_take_away() {
    let (fleet, one) = one_host();
    fleet.add_host(&label("kvm2"), FakeHost::default());
    fleet.share_pool("kvm1", "kvm2");
    let two = open(&fleet, "kvm2");
    create(&*one, 1).unwrap();
    create(&*two, 2).unwrap();
    assert_eq!(fleet.files("kvm1"), fleet.files("kvm2"));
    assert_eq!(audit(&fleet), Vec::<String>::new());
    delete(&*one, 1).unwrap();
    assert_eq!(audit(&fleet), Vec::<String>::new());
    delete(&*two, 2).unwrap();
}
