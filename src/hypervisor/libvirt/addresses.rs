//! Where a guest can be reached: what its agent says, else a lease, else the host's neighbour table.

use std::net::IpAddr;

use virt::sys;

use super::connection::Session;
use super::raw::{self, Card};
use super::{agent, domains};
use crate::hypervisor::HypervisorError;
use crate::hypervisor::domain_xml::element::Element;
use crate::plan::action::InstanceRef;

/// How long the agent has to answer, in seconds.
const AGENT_PATIENCE: i32 = 3;

/// See [`crate::hypervisor::Hypervisor::addresses`].
pub fn addresses(session: &Session<'_>, instance: &InstanceRef) -> Result<Vec<IpAddr>, HypervisorError> {
    let name = &instance.name;
    let Some(owned) = domains::find(session, instance)? else {
        return Ok(Vec::new());
    };
    let domain = &owned.domain;
    let doing = format!("asking for the addresses of {name}");
    if !session.call(&doing, |_| domain.is_active())? {
        return Ok(Vec::new());
    }
    let xml = session.call(&doing, |_| domain.xml_desc(0))?;
    let macs = macs(&xml);
    let mut sources = vec![
        sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
        sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
    ];
    if agent::is_connected(session, name, domain).unwrap_or(false) {
        sources.insert(0, sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT);
    }
    for source in sources {
        let cards = session.call(&doing, |_| {
            if source == sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT {
                let _ = raw::set_agent_timeout(domain, AGENT_PATIENCE);
            }
            raw::interface_addresses(domain, source)
        });
        // A source that fails knows nothing: the next one may.
        let found = cards.map(|c| useful(&c, &macs)).unwrap_or_default();
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

fn macs(xml: &str) -> Vec<String> {
    let Ok(document) = Element::parse(xml) else {
        return Vec::new();
    };
    document
        .find("devices")
        .into_iter()
        .flat_map(|d| d.children.iter().filter(|e| e.name == "interface"))
        .filter_map(|i| i.find("mac")?.get("address"))
        .map(str::to_ascii_lowercase)
        .collect()
}

/// Addresses of the domain's own cards that others can use, in the cards' order, each once. A guest has addresses
/// that mean nothing outside (its containers' bridges, loopback, link-local).
fn useful(cards: &[Card], macs: &[String]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for mac in macs {
        let of_card = cards
            .iter()
            .filter(|c| c.mac.as_ref().is_some_and(|m| m.eq_ignore_ascii_case(mac)));
        for address in of_card.flat_map(|c| &c.addresses) {
            if usable(address) && !found.contains(address) {
                found.push(*address);
            }
        }
    }
    found
}

fn usable(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(link_local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_cards_own_and_routable_addresses_count() {
        let card = |mac: Option<&str>, addresses: &[&str]| Card {
            mac: mac.map(str::to_owned),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        };
        let cards = [
            card(None, &["127.0.0.1"]),
            card(Some("00:00:00:00:00:00"), &["127.0.0.1", "::1"]),
            card(Some("AA:BB:CC:DD:EE:02"), &["10.0.0.2"]),
            card(
                Some("AA:BB:CC:DD:EE:01"),
                &["169.254.1.1", "fe80::1", "10.0.0.1", "2001:db8::1"],
            ),
            card(Some("02:42:00:00:00:01"), &["172.17.0.1"]),
        ];
        let macs = ["aa:bb:cc:dd:ee:01".to_owned(), "aa:bb:cc:dd:ee:02".to_owned()];
        let found: Vec<String> = useful(&cards, &macs).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1", "2001:db8::1", "10.0.0.2"]);
    }
}
