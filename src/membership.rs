//! Membership: which instances the load balancers send clients to, as it is wanted and as it was seen.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::health::State;
use crate::names::{InstanceId, Label};

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
    /// Sessions (mode tcp) or requests (mode http) so far.
    pub requests: u64,
    /// Connections that failed, and answers that were none, so far.
    pub errors: u64,
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
