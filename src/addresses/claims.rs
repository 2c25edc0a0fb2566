//! What the instances of a set claim, by what is known and what was told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::addresses::{Choice, Claim, Claimant, Source, Standing, Subnet, Told, choose};
use crate::inventory::{Instance, Inventory, Phase};
use crate::names::InstanceId;
use crate::record::{Known, Record};
use crate::scaleset::ScaleSet;

/// Where the instances of a set are reached.
pub fn of_set(set: &ScaleSet, record: &Record, inventory: &Inventory) -> Choice {
    choose(
        &claimants(set, record, inventory, &inventory.told),
        &inventory.off_limits,
    )
}

/// What each instance claims that was seen, or is known to be on a host that was not; `told` is what hosts say of those
/// without an address from vmss.
pub fn claimants(
    set: &ScaleSet,
    record: &Record,
    inventory: &Inventory,
    told: &BTreeMap<InstanceId, Vec<Told>>,
) -> Vec<Claimant> {
    let counts = |i: &&Instance| {
        i.meta.store == record.store
            && !record.written_off.contains_key(&i.id)
            && matches!(i.meta.phase, Phase::Ready | Phase::Changing)
    };
    let mut all: Vec<Claimant> = (inventory.instances().filter(counts))
        .map(|i| of_seen(set, record, told, i))
        .collect();
    let seen_hosts = inventory.seen_hosts();
    let is_hidden = |known: &Known| !seen_hosts.contains(&known.host);
    let seen: BTreeSet<InstanceId> = all.iter().map(|c| c.id).collect();
    let hidden = (record.known.iter()).filter(|(id, k)| k.confirmed && is_hidden(k) && !seen.contains(id));
    all.extend(hidden.map(|(id, known)| {
        let assigned = assigned(
            known.addresses.iter().flatten(),
            &known.reached,
            Standing::Assigned,
        );
        Claimant {
            id: *id,
            claims: if assigned.is_empty() {
                remembered(set, known)
            } else {
                assigned
            },
        }
    }));
    all
}

fn of_seen(
    set: &ScaleSet,
    record: &Record,
    told: &BTreeMap<InstanceId, Vec<Told>>,
    instance: &Instance,
) -> Claimant {
    let known = record.known.get(&instance.id);
    let reached = known.map_or(&[][..], |k| k.reached.as_slice());
    let mut claims = match known {
        Some(known) => assigned(known.addresses.iter().flatten(), reached, Standing::Assigned),
        // Of one that the record does not know yet its note alone speaks.
        None => assigned(instance.meta.addresses.iter().flatten(), reached, Standing::Told),
    };
    if claims.is_empty() {
        let told = told.get(&instance.id).map_or(&[][..], Vec::as_slice);
        claims = match (told, known) {
            ([], Some(known)) => remembered(set, known),
            (told, _) => told_by(set, told, reached),
        };
    }
    Claimant {
        id: instance.id,
        claims,
    }
}

/// Where it answered comes first.
fn proven_first(claims: &mut [Claim], reached: &[IpAddr]) {
    let at = |claim: &Claim| reached.iter().position(|a| a.to_canonical() == claim.address);
    claims.sort_by_key(|claim| at(claim).unwrap_or(usize::MAX));
}

fn assigned<'a>(
    given: impl Iterator<Item = &'a std::net::Ipv4Addr>,
    reached: &[IpAddr],
    standing: Standing,
) -> Vec<Claim> {
    let claim = |address: &std::net::Ipv4Addr| Claim {
        address: IpAddr::V4(*address),
        standing,
        within: Vec::new(),
    };
    let mut claims: Vec<Claim> = given.map(claim).collect();
    proven_first(&mut claims, reached);
    claims
}

fn told_by(set: &ScaleSet, told: &[Told], reached: &[IpAddr]) -> Vec<Claim> {
    let networks = &set.instance.networks;
    let claim = |told: &Told| {
        let address = told.address.to_canonical();
        Claim {
            address,
            standing: match told.source {
                Source::Lease => Standing::Leased,
                _ if reached.iter().any(|a| a.to_canonical() == address) => Standing::Proven,
                _ => Standing::Told,
            },
            // A card that the definition no longer has may have what any may.
            within: (networks.get(told.card)).map_or_else(|| of_any(set), |nic| nic.within.clone()),
        }
    };
    let mut claims: Vec<Claim> = told.iter().map(claim).collect();
    proven_first(&mut claims, reached);
    claims
}

/// Where it answered last, of one that tells nothing now.
fn remembered(set: &ScaleSet, known: &Known) -> Vec<Claim> {
    let claim = |address: &IpAddr| Claim {
        address: address.to_canonical(),
        standing: Standing::Proven,
        within: of_any(set),
    };
    known.reached.iter().map(claim).collect()
}

/// What any card may have; empty: anything.
fn of_any(set: &ScaleSet) -> Vec<Subnet> {
    let networks = &set.instance.networks;
    if networks.iter().any(|nic| nic.within.is_empty()) {
        return Vec::new();
    }
    networks.iter().flat_map(|nic| nic.within.clone()).collect()
}
