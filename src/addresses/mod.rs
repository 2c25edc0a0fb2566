//! Who may have which address. Pure: what guests tell, what is known, and whose addresses there are is handed in.
//!
//! A guest chooses what its agent says, so that an address that it names is a claim and no fact:
//! - Only an address that others can have connections to: not the loopback, link-local, multicast or broadcast ones.
//! - None that is somebody's: of this machine, of a host, of a load balancer, of a gateway or name server of the definition,
//!   of another set's instance. Clients, and probes, would be sent there in vmss's name.
//! - Only within what the definition allows for the card (`within`).
//! - Of several instances that name one address, the one that vmss assigned it to keeps it, then the one that its host leases
//!   it to, then the one that answered there first.
//!
//! What is assigned is in the record; a note says it too, and is evidence only.

mod claims;
mod subnet;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::names::{InstanceId, Label};

pub use claims::{claimants, of_set};
pub use subnet::Subnet;

#[cfg(test)]
mod properties;

/// An address that a host was told of one of its guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The address.
    pub address: IpAddr,
    /// Who says so.
    pub source: Source,
    /// The network card that has it, from 0.
    pub card: usize,
}

/// Who tells an address of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// libvirt's DHCP has leased it.
    Lease,
    /// The guest's own agent.
    Agent,
    /// The host's table of neighbours: whoever has that MAC.
    Neighbour,
}

/// Who has an address, so that no guest of a set may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// The machine on which vmss runs.
    ThisMachine,
    /// A host of the set.
    Host(Label),
    /// A load balancer: where clients connect, or where it takes commands.
    Balancer,
    /// The gateway or a name server that the definition names.
    Network,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ThisMachine => f.write_str("this machine's"),
            Self::Host(host) => write!(f, "host {host}'s"),
            Self::Balancer => f.write_str("the load balancer's"),
            Self::Network => f.write_str("the gateway's or a name server's"),
        }
    }
}

/// An instance of another set of the store that has an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    /// The set.
    pub set: Label,
    /// The instance.
    pub instance: InstanceId,
    /// The bridge or network on which vmss gave it the address; `None`: it answered there last.
    pub on: Option<String>,
}

/// Addresses that are somebody's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffLimits {
    /// Of machines.
    pub owners: BTreeMap<IpAddr, Owner>,
    /// Of other sets' instances.
    pub others: BTreeMap<IpAddr, Other>,
}

/// What an instance's claim to an address rests on, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// vmss gave it the address, says the record.
    Assigned,
    /// libvirt's DHCP leases it to it.
    Leased,
    /// It has answered there.
    Proven,
    /// It says so, or its note does.
    Told,
}

/// An address that an instance claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// What that rests on.
    pub standing: Standing,
    /// Where the card that has it may have addresses; empty: anywhere.
    pub within: Vec<Subnet>,
}

/// An instance with what it claims, in the order in which it is to be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// Which.
    pub id: InstanceId,
    /// What it claims.
    pub claims: Vec<Claim>,
}

/// Why an instance is not reached at an address that it claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refused {
    /// Nobody else could have a connection to it there.
    NotUnicast,
    /// It is somebody's.
    Taken(Owner),
    /// It is another set's instance's.
    OtherSet {
        /// The set.
        set: Label,
        /// The instance.
        instance: InstanceId,
    },
    /// It is not where the definition allows addresses.
    Outside,
    /// Another instance of the set has the better claim.
    Claimed {
        /// Which.
        by: InstanceId,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUnicast => f.write_str("nobody is reached there from elsewhere"),
            Self::Taken(owner) => write!(f, "that is {owner}"),
            Self::OtherSet { set, instance } => write!(f, "that is instance {instance}'s of the set {set}"),
            Self::Outside => f.write_str("that is not within instance.networks.within"),
            Self::Claimed { by } => write!(f, "instance {by} has it"),
        }
    }
}

/// Where instances are reached, and where they are not though they say so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    at: BTreeMap<InstanceId, Vec<IpAddr>>,
    refused: BTreeMap<InstanceId, Vec<(IpAddr, Refused)>>,
}

impl Choice {
    /// Where an instance is reached, the first choice first; none if it claims nothing that it may have.
    pub fn all(&self, id: InstanceId) -> &[IpAddr] {
        self.at.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Where an instance is served.
    ///
    /// # Errors
    /// Why not where it would be first; `None` if nobody knows an address of it.
    pub fn serve_at(&self, id: InstanceId) -> Result<IpAddr, Option<&Refused>> {
        let refused = || self.refused.get(&id).and_then(|all| all.first());
        self.all(id)
            .first()
            .copied()
            .ok_or_else(|| refused().map(|(_, why)| why))
    }

    /// What was refused, by instance.
    pub fn refused(&self) -> impl Iterator<Item = (InstanceId, IpAddr, &Refused)> {
        (self.refused.iter()).flat_map(|(id, all)| all.iter().map(|(at, why)| (*id, *at, why)))
    }

    /// Whether anything that an instance claims was refused.
    pub fn refuses(&self, id: InstanceId) -> bool {
        self.refused.contains_key(&id)
    }
}

/// Decides who is reached where. The order of the claimants does not matter.
pub fn choose(claimants: &[Claimant], off_limits: &OffLimits) -> Choice {
    let mut keepers: BTreeMap<IpAddr, (Standing, InstanceId)> = BTreeMap::new();
    let mut choice = Choice::default();
    let mut fit: Vec<(InstanceId, IpAddr, Standing)> = Vec::new();
    for claimant in claimants {
        for claim in &claimant.claims {
            let address = claim.address.to_canonical();
            match may_have(claim, address, off_limits) {
                Ok(()) => {
                    let mine = (claim.standing, claimant.id);
                    keepers
                        .entry(address)
                        .and_modify(|k| *k = mine.min(*k))
                        .or_insert(mine);
                    fit.push((claimant.id, address, claim.standing));
                }
                Err(why) => choice
                    .refused
                    .entry(claimant.id)
                    .or_default()
                    .push((address, why)),
            }
        }
    }
    for (id, address, _) in fit {
        let by = keepers.get(&address).map_or(id, |(_, keeper)| *keeper);
        if by == id {
            let at = choice.at.entry(id).or_default();
            if !at.contains(&address) {
                at.push(address);
            }
        } else {
            let refused = choice.refused.entry(id).or_default();
            refused.push((address, Refused::Claimed { by }));
        }
    }
    choice
}

fn may_have(claim: &Claim, address: IpAddr, off_limits: &OffLimits) -> Result<(), Refused> {
    if !is_unicast(address) {
        return Err(Refused::NotUnicast);
    }
    let is_assigned = claim.standing == Standing::Assigned;
    match off_limits.owners.get(&address) {
        // An instance may be the name server of its own set.
        Some(Owner::Network) if is_assigned => {}
        Some(owner) => return Err(Refused::Taken(owner.clone())),
        None => {}
    }
    if is_assigned {
        // The rest was decided when it was assigned.
        return Ok(());
    }
    if let Some(other) = off_limits.others.get(&address) {
        // What its host leases to it just now is its own, be it on a network that is not the other's.
        if claim.standing != Standing::Leased {
            return Err(Refused::OtherSet {
                set: other.set.clone(),
                instance: other.instance,
            });
        }
    }
    if !claim.within.is_empty() && !claim.within.iter().any(|subnet| subnet.contains(address)) {
        return Err(Refused::Outside);
    }
    Ok(())
}

/// Whether a connection from elsewhere can reach one machine there.
pub fn is_unicast(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            // 0.0.0.0/8 is this host on this network, 240.0.0.0/4 is reserved, the broadcast address its last.
            let first = v4.octets()[0];
            first != 0 && first < 240 && !v4.is_loopback() && !v4.is_link_local() && !v4.is_multicast()
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local())
        }
    }
}
