//! Membership: which instances the load balancers send clients to, as it is wanted and as it was seen.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::health::State;
use crate::names::{InstanceId, Label};
use crate::units::seconds_if_any;

/// Every instance that may be a server, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Membership {
    /// In order of their ids, none twice.
    pub servers: Vec<Server>,
}

/// An instance as a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Server {
    /// Its id.
    pub id: InstanceId,
    /// Its name.
    pub name: String,
    /// Its fault domain.
    pub fault_domain: Label,
    /// Its host.
    pub host: Label,
    /// The revision it has, if that is known.
    pub revision: Option<u32>,
    /// Where it is reached; each frontend has a port of its own.
    pub address: IpAddr,
    /// Its share of the clients among the others', 1 to 100.
    pub weight: u32,
    /// How it is.
    pub state: State,
    /// What it is to do.
    pub duty: Duty,
}

/// What a server is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Duty {
    /// Take clients.
    In,
    /// Take no new ones; those it has may end.
    Out,
    /// Take none, and those it has are closed.
    Cut,
}

impl Duty {
    /// Whether it takes new clients.
    pub const fn is_in(self) -> bool {
        matches!(self, Self::In)
    }
}

/// One load balancer, seen or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BalancerView {
    /// What it is called: `local`, or its socket.
    pub name: String,
    /// What was seen of it.
    pub sight: Sight,
}

/// What was seen of a load balancer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sight {
    /// It answered, or is known not to run.
    Seen(BalancerSeen),
    /// It did not answer: it may lead clients all the same.
    Unseen {
        /// Why, in a sentence fit for an operator.
        reason: String,
    },
}

/// What a load balancer said of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BalancerSeen {
    /// Its version; `None` if it does not run.
    pub version: Option<String>,
    /// The set's servers in it, one for each frontend.
    pub servers: Vec<ServerSeen>,
    /// Requests that wait now for whichever server is free first, on all of the set's frontends together; those that wait for
    /// one server are counted there and not here. HAProxy lets requests wait only where servers may have so many
    /// connections and no more (`maxconn`).
    #[serde(default)]
    pub queue: u64,
}

/// A server as a load balancer sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerSeen {
    /// The frontend it serves.
    pub frontend: Label,
    /// The instance it is.
    pub id: InstanceId,
    /// Where clients are sent.
    pub address: Option<SocketAddr>,
    /// Whether it takes new clients, if it is up.
    pub is_in: bool,
    /// What the balancer's own check says; `None`: not asked, or not known yet.
    pub up: Option<bool>,
    /// Its weight.
    pub weight: u32,
    /// Connections now, those that wait for it among them.
    pub connections: u64,
    /// Most that it serves at a time; 0: as many as come.
    #[serde(default)]
    pub limit: u32,
    /// Requests that wait for this server now, because they belong to it and it has as many as it may.
    #[serde(default)]
    pub queue: u64,
    /// Sessions (mode tcp) or requests (mode http) so far; a load balancer that is started anew or reloaded begins anew.
    pub requests: u64,
    /// Connections that failed, and answers that were none, so far.
    pub errors: u64,
    /// How long it was on average until an answer began, of the last 1,024 requests: waiting for the server, connecting to it
    /// and its own part. What a client takes to ask, or to take its answer, is not in it. It stays as it is while nobody
    /// asks. `None`: it had no request yet, or the frontend's mode is tcp, where a session's length says nothing.
    #[serde(default, with = "seconds_if_any")]
    pub latency: Option<Duration>,
    /// The last check's result in the balancer's words: "L7OK/200 in 2ms". Empty: none yet.
    pub last_check: String,
}

impl BalancerView {
    /// What was seen, if anything was.
    pub fn seen(&self) -> Option<&BalancerSeen> {
        match &self.sight {
            Sight::Seen(seen) => Some(seen),
            Sight::Unseen { .. } => None,
        }
    }

    /// What it knows of an instance, one for each frontend.
    pub fn servers_of(&self, id: InstanceId) -> impl Iterator<Item = &ServerSeen> {
        (self.seen().into_iter().flat_map(|seen| &seen.servers)).filter(move |server| server.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_before_queues_were_seen_is_read() {
        let old = r#"{"version":"2.6","servers":[{"frontend":"http","id":1,"address":null,"is_in":true,"up":null,"weight":1,
            "connections":2,"requests":3,"errors":4,"last_check":""}]}"#;
        let mut seen: BalancerSeen = serde_json::from_str(old).unwrap();
        assert_eq!(
            (seen.queue, seen.servers[0].queue, seen.servers[0].latency),
            (0, 0, None)
        );
        seen.queue = 5;
        seen.servers[0].latency = Some(Duration::from_millis(1500));
        let text = serde_json::to_string(&seen).unwrap();
        assert!(text.contains(r#""latency":1.5"#), "{text}");
        assert_eq!(serde_json::from_str::<BalancerSeen>(&text).unwrap(), seen);
    }
}
