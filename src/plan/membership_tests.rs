//! Who takes clients, told by single cases; what always holds stands in `upgrade_properties`.

use std::net::IpAddr;
use std::time::Duration;

use super::report::Wait;
use super::testing::{Scene, at, label, load_balancer};
use super::{at_rest, plan};
use crate::health::{Sign, Vital};
use crate::inventory::{Phase, Power, Rework};
use crate::load_balancer::{Discovery, Format};
use crate::membership::{BalancerSeen, BalancerView, Duty, ServerSeen, Sight};
use crate::names::InstanceId;
use crate::scaleset::Probe;

/// Three instances on two hosts behind a load balancer, all healthy.
fn scene() -> Scene {
    let mut scene = Scene::new(&[1, 1]);
    for (host, id) in [("d0h0", 1), ("d1h0", 2), ("d0h0", 3)] {
        scene.add(host, id);
    }
    scene.record.capacity = 3;
    scene.set.load_balancer = Some(load_balancer(Duration::from_secs(30)));
    scene.set.health.probe = Probe::Tcp { port: 80 };
    scene.inventory.reached = (1..=3).map(|id| (InstanceId(id), vec![home(id)])).collect();
    scene.absorb();
    for id in 1..=3 {
        sign(&mut scene, id, Sign::Healthy);
    }
    see(&mut scene, &[(1, true, 0), (2, true, 0), (3, true, 0)]);
    scene
}

fn home(id: u64) -> IpAddr {
    format!("10.0.0.{id}").parse().unwrap()
}

fn sign(scene: &mut Scene, id: u64, sign: Sign) {
    let vital = Vital {
        sign,
        since: at(999_000),
        grace: false,
        ..Vital::new(at(0))
    };
    scene.record.vitals.insert(InstanceId(id), vital);
}

/// What the load balancer shows: id, whether it takes clients, connections.
fn see(scene: &mut Scene, servers: &[(u64, bool, u64)]) {
    let server = |(id, is_in, connections): &(u64, bool, u64)| ServerSeen {
        frontend: label("http"),
        id: InstanceId(*id),
        address: Some((home(*id), 80).into()),
        is_in: *is_in,
        up: None,
        weight: 100,
        connections: *connections,
        limit: 0,
        queue: 0,
        requests: 0,
        errors: 0,
        latency: None,
        last_check: String::new(),
    };
    let seen = BalancerSeen {
        version: Some("2.6".into()),
        servers: servers.iter().map(server).collect(),
        queue: 0,
    };
    scene.inventory.balancers = vec![BalancerView {
        name: "a".into(),
        sight: Sight::Seen(seen),
    }];
}

/// Duties by id.
fn duties(scene: &Scene) -> Vec<(u64, Duty)> {
    let membership = at_rest(scene.situation()).unwrap();
    membership.servers.iter().map(|s| (s.id.0, s.duty)).collect()
}

fn instance<T>(
    scene: &mut Scene,
    host: &str,
    id: u64,
    change: impl FnOnce(&mut crate::inventory::Instance) -> T,
) -> T {
    let instances = &mut scene.host(host).instances;
    change(instances.iter_mut().find(|i| i.id.0 == id).unwrap())
}

#[test]
fn who_is_healthy_is_in_and_who_is_not_is_out() {
    let mut scene = scene();
    assert_eq!(duties(&scene), [(1, Duty::In), (2, Duty::In), (3, Duty::In)]);
    sign(&mut scene, 1, Sign::Unhealthy);
    sign(&mut scene, 2, Sign::Starting);
    assert_eq!(duties(&scene), [(1, Duty::Out), (2, Duty::Out), (3, Duty::In)]);
    instance(&mut scene, "d0h0", 3, |i| i.power = Power::Off);
    // Nobody else is left: who is not well stays in, who starts or is off does not.
    assert_eq!(duties(&scene), [(1, Duty::In), (2, Duty::Out), (3, Duty::Out)]);
}

#[test]
fn who_is_being_moved_is_out_and_who_is_changed_live_is_not() {
    let mut scene = scene();
    instance(&mut scene, "d0h0", 1, |i| i.meta.moving_to = Some(label("d1h0")));
    instance(&mut scene, "d1h0", 2, |i| {
        (i.meta.phase, i.meta.rework) = (Phase::Changing, Some(Rework::Live))
    });
    instance(&mut scene, "d0h0", 3, |i| {
        (i.meta.phase, i.meta.rework) = (Phase::Changing, Some(Rework::Restart))
    });
    assert_eq!(duties(&scene), [(1, Duty::Out), (2, Duty::In), (3, Duty::Out)]);
}

#[test]
fn who_is_out_of_sight_stays_as_it_is() {
    let mut scene = scene();
    scene.lose("d0h0");
    see(&mut scene, &[(1, true, 0), (2, true, 0), (3, false, 0)]);
    // By its own sign, or because it is in.
    sign(&mut scene, 1, Sign::Unhealthy);
    sign(&mut scene, 3, Sign::Unhealthy);
    assert_eq!(duties(&scene), [(1, Duty::In), (2, Duty::In), (3, Duty::Out)]);
    sign(&mut scene, 3, Sign::Healthy);
    assert_eq!(duties(&scene), [(1, Duty::In), (2, Duty::In), (3, Duty::In)]);
}

#[test]
fn who_is_smaller_gets_fewer_clients() {
    let mut scene = scene();
    let mut larger = scene.record.current().model.clone();
    larger.vcpus = 3;
    let number = scene.record.adopt_model(larger, at(1));
    instance(&mut scene, "d1h0", 2, |i| i.meta.revision = number);
    let membership = at_rest(scene.situation()).unwrap();
    let weights: Vec<u32> = membership.servers.iter().map(|s| s.weight).collect();
    assert_eq!(weights, [33, 100, 33]);
}

#[test]
fn who_has_no_address_is_named() {
    let mut scene = scene();
    scene
        .record
        .known
        .get_mut(&InstanceId(2))
        .unwrap()
        .reached
        .clear();
    let next = plan(scene.situation());
    let ids: Vec<u64> = next.membership.unwrap().servers.iter().map(|s| s.id.0).collect();
    assert_eq!(ids, [1, 3]);
    let wait = Wait::NoAddressKnown {
        instances: vec![InstanceId(2)],
    };
    assert!(next.report.waits.contains(&wait), "{:?}", next.report.waits);
}

/// Ids of what is deleted, and of what takes no more clients.
fn deleted_and_leaving(scene: &Scene) -> (Vec<u64>, Vec<u64>) {
    let next = plan(scene.situation());
    let deleted = next
        .steps
        .iter()
        .filter_map(|s| Some(s.action.instance()?.0))
        .collect();
    (deleted, next.leaving.iter().map(|id| id.0).collect())
}

#[test]
fn who_goes_waits_for_its_connections_and_not_for_longer_than_it_must() {
    let mut scene = scene();
    scene.record.capacity = 2;
    assert_eq!(deleted_and_leaving(&scene), (vec![], vec![3]), "it takes clients");
    see(&mut scene, &[(1, true, 0), (2, true, 0), (3, false, 2)]);
    let since = |scene: &mut Scene, ago: i64| {
        scene.record.leaving = [(InstanceId(3), at(1_000_000 - ago))].into();
    };
    since(&mut scene, 29);
    assert_eq!(
        deleted_and_leaving(&scene),
        (vec![], vec![3]),
        "it has two connections"
    );
    since(&mut scene, 30);
    assert_eq!(deleted_and_leaving(&scene), (vec![3], vec![3]), "it had its time");
    assert_eq!(plan(scene.situation()).left[0].connections, Some(2));
    since(&mut scene, 5);
    see(&mut scene, &[(1, true, 0), (2, true, 0), (3, false, 0)]);
    assert_eq!(deleted_and_leaving(&scene), (vec![3], vec![3]), "nobody is left");
    // A change of mind: it takes clients again, and is forgotten.
    scene.record.capacity = 3;
    let next = plan(scene.situation());
    assert!(next.leaving.is_empty() && next.steps.is_empty());
    assert!(
        next.membership
            .unwrap()
            .servers
            .iter()
            .all(|s| s.duty == Duty::In)
    );
}

#[test]
fn what_is_off_waits_only_for_those_that_are_just_being_connected() {
    let mut scene = scene();
    scene.record.condemned.insert(InstanceId(3));
    instance(&mut scene, "d0h0", 3, |i| i.power = Power::Off);
    see(&mut scene, &[(1, true, 0), (2, true, 0), (3, false, 1)]);
    scene.record.leaving = [(InstanceId(3), at(999_996))].into();
    assert_eq!(deleted_and_leaving(&scene).0, [0; 0]);
    scene.record.leaving = [(InstanceId(3), at(999_995))].into();
    assert_eq!(deleted_and_leaving(&scene).0, [3]);
}

#[test]
fn with_nobody_to_tell_what_serves_stays_and_what_does_not_may_go() {
    let mut scene = scene();
    scene.record.capacity = 2;
    let reason = "connection refused".to_owned();
    scene.inventory.balancers[0].sight = Sight::Unseen { reason };
    assert_eq!(deleted_and_leaving(&scene).0, [0; 0]);
    let waits = plan(scene.situation()).report.waits;
    assert!(
        waits.iter().any(|w| matches!(w, Wait::NotTakenAway { .. })),
        "{waits:?}"
    );
    sign(&mut scene, 3, Sign::Unhealthy);
    assert_eq!(deleted_and_leaving(&scene).0, [3]);
}

#[test]
fn a_file_that_can_not_be_written_keeps_what_it_leads_clients_to() {
    let mut scene = scene();
    scene.set.load_balancer = None;
    scene.inventory.balancers.clear();
    scene.set.discovery = vec![Discovery {
        format: Format::Nginx,
        file: "/etc/nginx/web.conf".into(),
        name: label("web"),
        port: 80,
        reload: Vec::new(),
        drain: Duration::from_secs(20),
    }];
    scene.record.capacity = 2;
    assert_eq!(
        deleted_and_leaving(&scene),
        (vec![], vec![3]),
        "first it leaves the file"
    );
    scene.record.leaving = [(InstanceId(3), at(1_000_000 - 20))].into();
    assert_eq!(deleted_and_leaving(&scene).0, [3], "it had its time");
    let file = "discovery file /etc/nginx/web.conf".to_owned();
    scene.experience.balancers.insert(file, "no space left".into());
    assert_eq!(
        deleted_and_leaving(&scene).0,
        [0; 0],
        "the file still leads to it"
    );
    let waits = plan(scene.situation()).report.waits;
    assert!(
        waits.iter().any(|w| matches!(w, Wait::NotTakenAway { .. })),
        "{waits:?}"
    );
}
