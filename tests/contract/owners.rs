//! What belongs to another store is shown, and left alone.

use std::time::Duration;

use uuid::Uuid;
use vmss::hypervisor::{FaultKind, Hypervisor, Pulse, Rework};
use vmss::inventory::Protection;
use vmss::names::StoreId;
use vmss::plan::action::{InstanceRef, InstanceSpec};

use super::{Fixture, kind, uses};

fn other_store(f: &Fixture) -> Fixture {
    Fixture {
        store: StoreId(Uuid::from_u128(f.store.0.as_u128() ^ 1)),
        ..f.clone()
    }
}

pub fn another_stores_instance_is_left_alone(host: &dyn Hypervisor, f: &Fixture) {
    f.create(host, 1);
    let before = f.instance(host, 1);
    let theirs = other_store(f);
    let silent = Pulse::silent();
    // Same name, another identity.
    let create = host.create(&theirs.spec(1), &theirs.model, &silent);
    assert_eq!(kind(create), FaultKind::NotOurs);
    // The very domain, but claimed by another store.
    let claimed = InstanceRef {
        store: theirs.store,
        ..f.spec(1).reference()
    };
    assert_eq!(
        kind(host.delete(&claimed, Duration::ZERO, &uses(host), &silent)),
        FaultKind::NotOurs
    );
    assert_eq!(kind(host.start(&claimed)), FaultKind::NotOurs);
    assert_eq!(f.instance(host, 1), before);
}

pub fn another_stores_instance_is_changed_by_nothing(host: &dyn Hypervisor, f: &Fixture) {
    f.create(host, 1);
    let before = f.instance(host, 1);
    let store = other_store(f).store;
    let silent = Pulse::silent();
    let spec = InstanceSpec {
        store,
        ..f.second(1, &f.model)
    };
    let claimed = spec.reference();
    for how in [Rework::Live, Rework::Restart, Rework::Reimage] {
        let outcome = host.rework(&spec, &f.model, how, Duration::ZERO, &uses(host), &silent);
        assert_eq!(kind(outcome), FaultKind::NotOurs);
    }
    assert_eq!(
        kind(host.stop(&claimed, Duration::ZERO, &silent)),
        FaultKind::NotOurs
    );
    assert_eq!(
        kind(host.restart(&claimed, Duration::ZERO, &silent)),
        FaultKind::NotOurs
    );
    assert_eq!(kind(host.protect(&claimed, Protection::All)), FaultKind::NotOurs);
    assert_eq!(kind(host.ping(&claimed)), FaultKind::NotOurs);
    let command = ["true".to_owned()];
    let ran = host.exec(&claimed, &command, Duration::from_secs(1), &silent);
    assert_eq!(kind(ran), FaultKind::NotOurs);
    assert_eq!(f.instance(host, 1), before);
}

pub fn another_stores_instance_is_shown_as_such(host: &dyn Hypervisor, f: &Fixture) {
    f.create(host, 1);
    let seen = other_store(f).seen(host);
    assert_eq!(seen.instances.len(), 1);
    assert_eq!(seen.instances[0].meta.store, f.store);
    assert!(seen.unowned().is_empty(), "its volumes are no leftovers of ours");
}

pub fn adopted_instances_obey_their_new_store(host: &dyn Hypervisor, f: &Fixture) {
    f.create(host, 1);
    f.create(host, 2);
    let theirs = other_store(f);
    assert_eq!(host.adopt(&f.set, theirs.store, f.store), Ok(0));
    assert_eq!(host.adopt(&f.set, f.store, theirs.store), Ok(2));
    assert_eq!(host.adopt(&f.set, f.store, theirs.store), Ok(0));
    let seen = f.instance(host, 1).expect("it is still there");
    assert_eq!(seen.meta.store, theirs.store);
    assert_eq!(
        kind(host.delete(
            &f.spec(1).reference(),
            Duration::ZERO,
            &uses(host),
            &Pulse::silent()
        )),
        FaultKind::NotOurs
    );
    let adopted = InstanceRef {
        store: theirs.store,
        ..f.spec(1).reference()
    };
    f.delete(host, &adopted);
    let seen = f.seen(host);
    assert_eq!(seen.instances.len(), 1);
    assert!(
        seen.unowned().is_empty(),
        "its disks went too: {:?}",
        seen.unowned()
    );
}
