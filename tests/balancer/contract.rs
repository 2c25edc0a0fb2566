//! What every [`Balancer`] must do, as named situations.

use std::collections::BTreeSet;

use vmss::balancer::Change;
use vmss::membership::{BalancerSeen, Duty, Membership, ServerSeen};

use super::guests::home;
use super::subject::{Subject, members, server, wait_for};

/// A situation: it panics where something is otherwise.
pub type Situation = fn(&dyn Subject);

/// All of them.
pub const SITUATIONS: &[(&str, Situation)] = &[
    ("at first it has nothing", at_first_it_has_nothing),
    ("who joins takes clients", who_joins_takes_clients),
    ("doing it again changes nothing", doing_it_again_changes_nothing),
    (
        "who is out takes no new clients and keeps those it has",
        who_is_out_keeps_its_clients,
    ),
    (
        "at the deadline connections are closed, and others go on",
        at_the_deadline_connections_are_closed,
    ),
    ("who is not wanted is gone", who_is_not_wanted_is_gone),
    (
        "another address is another server",
        another_address_is_another_server,
    ),
    ("weights are kept", weights_are_kept),
    (
        "after a crash it is brought level",
        after_a_crash_it_is_brought_level,
    ),
    (
        "what waits and what was served is told",
        what_waits_and_what_was_served_is_told,
    ),
    ("retired, it knows nothing of the set", retired_it_knows_nothing),
];

/// Ids of those that take clients, on both frontends or not at all.
fn taking(seen: &BalancerSeen) -> Vec<u64> {
    let on = |frontend: &str| -> BTreeSet<u64> {
        let servers = seen
            .servers
            .iter()
            .filter(|s| s.frontend.as_str() == frontend && s.is_in);
        servers.map(|s| s.id.0).collect()
    };
    assert_eq!(on("http"), on("raw"));
    on("http").into_iter().collect()
}

fn there(seen: &BalancerSeen) -> Vec<u64> {
    let ids: BTreeSet<u64> = seen.servers.iter().map(|s| s.id.0).collect();
    ids.into_iter().collect()
}

const fn all_in() -> [(u64, Duty); 3] {
    [(1, Duty::In), (2, Duty::In), (3, Duty::In)]
}

fn names(answers: Vec<String>) -> BTreeSet<String> {
    answers.into_iter().collect()
}

fn homes(ids: &[u64]) -> BTreeSet<String> {
    ids.iter().map(|id| home(*id).to_string()).collect()
}

fn at_first_it_has_nothing(subject: &dyn Subject) {
    assert_eq!(there(&subject.open().observe().unwrap()), [0; 0]);
}

fn who_joins_takes_clients(subject: &dyn Subject) {
    let balancer = subject.open();
    let changes = balancer.bring(&members(&all_in())).unwrap();
    let seen = balancer.observe().unwrap();
    assert_eq!(taking(&seen), [1, 2, 3]);
    assert!(seen.version.is_some());
    let is_started_so =
        changes.contains(&Change::Started) || changes.contains(&Change::Joined("web-3".into()));
    assert!(is_started_so, "{changes:?}");
    for seen in &seen.servers {
        assert_eq!(seen.address, Some((home(seen.id.0), subject.port()).into()));
    }
    if let Some(answers) = subject.answers(30) {
        assert_eq!(names(answers), homes(&[1, 2, 3]));
        // Its own check has its say too.
        subject.settle();
        let seen = balancer.observe().unwrap();
        assert!(seen.servers.iter().all(|s| s.up == Some(true)), "{seen:?}");
        assert!(
            seen.servers.iter().map(|s| s.requests).sum::<u64>() >= 30,
            "{seen:?}"
        );
    }
}

fn doing_it_again_changes_nothing(subject: &dyn Subject) {
    let wanted = members(&[(1, Duty::In), (2, Duty::Out), (3, Duty::Cut)]);
    subject.open().bring(&wanted).unwrap();
    let before = subject.open().observe().unwrap();
    assert_eq!(subject.open().bring(&wanted).unwrap(), []);
    let after = subject.open().observe().unwrap();
    assert_eq!((taking(&before), there(&before)), (taking(&after), there(&after)));
}

fn who_is_out_keeps_its_clients(subject: &dyn Subject) {
    let balancer = subject.open();
    balancer.bring(&members(&[(1, Duty::In)])).unwrap();
    let mut client = subject.connect("web-1");
    let wanted = members(&[(1, Duty::Out), (2, Duty::In)]);
    let changes = balancer.bring(&wanted).unwrap();
    assert_eq!(
        changes,
        [Change::Joined("web-2".into()), Change::Left("web-1".into())]
    );
    assert_eq!(taking(&balancer.observe().unwrap()), [2]);
    if let Some(answers) = subject.answers(10) {
        assert_eq!(names(answers), homes(&[2]));
    }
    assert!(client.is_open());
    let connections = || -> u64 {
        let seen = balancer.observe().unwrap();
        seen.servers
            .iter()
            .filter(|s| s.id.0 == 1)
            .map(|s| s.connections)
            .sum()
    };
    assert!(connections() >= 1);
    client.close();
    wait_for("the end of the last connection", || connections() == 0);
}

fn at_the_deadline_connections_are_closed(subject: &dyn Subject) {
    let balancer = subject.open();
    balancer.bring(&members(&[(1, Duty::In)])).unwrap();
    let mut of_one = subject.connect("web-1");
    balancer
        .bring(&members(&[(1, Duty::Out), (2, Duty::In)]))
        .unwrap();
    let mut of_two = subject.connect("web-2");
    let changes = balancer
        .bring(&members(&[(1, Duty::Cut), (2, Duty::In)]))
        .unwrap();
    assert_eq!(changes, [Change::Closed("web-1".into())]);
    wait_for("the closing", || !of_one.is_open());
    assert!(of_two.is_open());
    of_two.close();
}

fn who_is_not_wanted_is_gone(subject: &dyn Subject) {
    let balancer = subject.open();
    balancer.bring(&members(&all_in())).unwrap();
    // Even with clients: who is not wanted any more has had its time.
    let client = subject.connect("web-1");
    let changes = balancer.bring(&members(&[(2, Duty::In)])).unwrap();
    assert!(changes.contains(&Change::Removed("web-1".into())), "{changes:?}");
    assert_eq!(there(&balancer.observe().unwrap()), [2]);
    client.close();
}

fn another_address_is_another_server(subject: &dyn Subject) {
    let balancer = subject.open();
    balancer.bring(&members(&[(1, Duty::In), (2, Duty::In)])).unwrap();
    let mut moved = server(1, Duty::In);
    moved.address = home(3);
    let wanted = Membership {
        servers: vec![moved, server(2, Duty::In)],
    };
    balancer.bring(&wanted).unwrap();
    let seen = balancer.observe().unwrap();
    let addresses: Vec<_> = seen
        .servers
        .iter()
        .filter(|s| s.id.0 == 1)
        .map(|s| s.address.unwrap().ip())
        .collect();
    assert_eq!(addresses, [home(3), home(3)]);
    assert_eq!(taking(&seen), [1, 2]);
    if let Some(answers) = subject.answers(10) {
        assert_eq!(names(answers), homes(&[2, 3]));
    }
}

fn weights_are_kept(subject: &dyn Subject) {
    let balancer = subject.open();
    balancer.bring(&members(&[(1, Duty::In), (2, Duty::In)])).unwrap();
    let mut small = server(1, Duty::In);
    small.weight = 25;
    balancer
        .bring(&Membership {
            servers: vec![small, server(2, Duty::In)],
        })
        .unwrap();
    let seen = balancer.observe().unwrap();
    let weights: BTreeSet<(u64, u32)> = seen.servers.iter().map(|s| (s.id.0, s.weight)).collect();
    assert_eq!(weights, [(1, 25), (2, 100)].into());
    if let Some(answers) = subject.answers(50) {
        let small = answers.iter().filter(|a| **a == home(1).to_string()).count();
        assert_eq!(small, 10, "a quarter of the other's");
    }
}

fn after_a_crash_it_is_brought_level(subject: &dyn Subject) {
    let wanted = members(&[(1, Duty::In), (2, Duty::Out), (3, Duty::In)]);
    subject.open().bring(&wanted).unwrap();
    let is_vmss_to_start_it = subject.crash();
    let seen = subject.open().observe().unwrap();
    assert_eq!(seen.version.is_none(), is_vmss_to_start_it);
    let changes = subject.open().bring(&wanted).unwrap();
    assert_eq!(
        changes.contains(&Change::Started),
        is_vmss_to_start_it,
        "{changes:?}"
    );
    let seen = subject.open().observe().unwrap();
    assert_eq!((taking(&seen), there(&seen)), (vec![1, 3], vec![1, 2, 3]));
    if let Some(answers) = subject.answers(10) {
        assert_eq!(names(answers), homes(&[1, 3]));
    }
}

fn retired_it_knows_nothing(subject: &dyn Subject) {
    subject.open().bring(&members(&all_in())).unwrap();
    subject.open().retire().unwrap();
    assert_eq!(there(&subject.open().observe().unwrap()), [0; 0]);
    subject.open().retire().unwrap();
}

fn what_waits_and_what_was_served_is_told(subject: &dyn Subject) {
    let balancer = subject.open();
    balancer.bring(&members(&all_in())).unwrap();
    let seen = balancer.observe().unwrap();
    assert_eq!(seen.queue, 0);
    for server in &seen.servers {
        assert_eq!((server.queue, server.requests, server.latency), (0, 0, None));
    }
    subject.serve(30);
    let served = || -> Vec<ServerSeen> {
        let servers = balancer.observe().unwrap().servers;
        servers
            .into_iter()
            .filter(|s| s.frontend.as_str() == "http")
            .collect()
    };
    // A request is counted when its answer has ended, which the client may know first.
    wait_for("the last answer's count", || {
        served().iter().all(|s| s.requests == 10)
    });
    assert!(served().iter().all(|s| s.latency.is_some()));
    let seen = balancer.observe().unwrap();
    let mut raw = seen.servers.iter().filter(|s| s.frontend.as_str() == "raw");
    assert!(
        raw.all(|s| s.latency.is_none()),
        "a session is no request: {seen:?}"
    );
}
