//! Discovery files and servers for the tests of this folder.

use std::time::Duration;

use crate::health::State;
use crate::load_balancer::{Discovery, Format};
use crate::membership::{Duty, Membership, Server};
use crate::names::{InstanceId, Label};

pub fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

/// A file that tells of a set under the name shop, port 80, without a reload command.
pub fn discovery(format: Format, file: &str) -> Discovery {
    Discovery {
        format,
        file: file.into(),
        name: label("shop"),
        port: 80,
        reload: Vec::new(),
        drain: Duration::ZERO,
    }
}

pub fn server(id: u64, address: &str, duty: Duty) -> Server {
    Server {
        id: InstanceId(id),
        name: format!("web-{id}"),
        fault_domain: label("rack-a"),
        host: label("h1"),
        revision: Some(7),
        address: address.parse().unwrap(),
        weight: 1,
        state: State::Healthy,
        duty,
    }
}

/// Two servers that take clients, and between them one that does not, in another fault domain and of unknown revision.
pub fn three() -> Membership {
    let (one, mut two, mut three) = (
        server(1, "10.0.0.1", Duty::In),
        server(2, "10.0.0.2", Duty::Out),
        server(3, "fd00::3", Duty::In),
    );
    (two.fault_domain, two.revision, two.state, two.weight) = (label("rack-b"), None, State::Unhealthy, 5);
    three.weight = 100;
    Membership {
        servers: vec![one, two, three],
    }
}
