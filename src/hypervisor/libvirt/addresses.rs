//! Where a guest can be reached: what its agent says and what its host leases to it, else the host's neighbour table.

use virt::sys;

use super::connection::Session;
use super::raw::{self, Card};
use super::{agent, domains};
use crate::addresses::{Source, Told, is_unicast};
use crate::hypervisor::HypervisorError;
use crate::hypervisor::domain_xml::element::Element;
use crate::plan::action::InstanceRef;

/// How long the agent has to answer, in seconds.
const AGENT_PATIENCE: i32 = 3;

/// See [`crate::hypervisor::Hypervisor::addresses`].
pub fn addresses(session: &Session<'_>, instance: &InstanceRef) -> Result<Vec<Told>, HypervisorError> {
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
    let ask = |source: u32| {
        let cards = session.call(&doing, |_| {
            if source == sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT {
                let _ = raw::set_agent_timeout(domain, AGENT_PATIENCE);
            }
            raw::interface_addresses(domain, source)
        });
        // A source that fails knows nothing: the next one may.
        cards.unwrap_or_default()
    };
    let leased = useful(
        &ask(sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE),
        &macs,
        Source::Lease,
    );
    let named = if agent::listens(&xml) {
        useful(
            &ask(sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT),
            &macs,
            Source::Agent,
        )
    } else {
        Vec::new()
    };
    let found = together(named, leased);
    if !found.is_empty() {
        return Ok(found);
    }
    let neighbours = ask(sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP);
    Ok(useful(&neighbours, &macs, Source::Neighbour))
}

/// What the agent names in its order, and then what is leased and was not named. What is both is leased.
fn together(named: Vec<Told>, leased: Vec<Told>) -> Vec<Told> {
    let is_same = |a: &Told, b: &Told| a.address == b.address;
    let mut found: Vec<Told> = (named.into_iter())
        .map(|told| leased.iter().find(|l| is_same(l, &told)).copied().unwrap_or(told))
        .collect();
    for lease in leased {
        if !found.iter().any(|told| is_same(told, &lease)) {
            found.push(lease);
        }
    }
    found
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
fn useful(cards: &[Card], macs: &[String], source: Source) -> Vec<Told> {
    let mut found: Vec<Told> = Vec::new();
    for (card, mac) in macs.iter().enumerate() {
        let of_card = cards
            .iter()
            .filter(|c| c.mac.as_ref().is_some_and(|m| m.eq_ignore_ascii_case(mac)));
        for address in of_card.flat_map(|c| &c.addresses).map(|a| a.to_canonical()) {
            if is_unicast(address) && !found.iter().any(|told| told.address == address) {
                found.push(Told {
                    address,
                    source,
                    card,
                });
            }
        }
    }
    found
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
        let found = useful(&cards, &macs, Source::Agent);
        let found: Vec<_> = found.iter().map(|t| (t.card, t.address.to_string())).collect();
        let expected = [(0, "10.0.0.1"), (0, "2001:db8::1"), (1, "10.0.0.2")];
        assert_eq!(found, expected.map(|(card, text)| (card, text.to_owned())));
    }

    #[test]
    fn what_the_agent_names_comes_first_and_a_lease_is_known_for_one() {
        let told = |n, source| Told {
            address: std::net::IpAddr::from([10, 0, 0, n]),
            source,
            card: 0,
        };
        let named = vec![told(9, Source::Agent), told(1, Source::Agent)];
        let leased = vec![told(1, Source::Lease), told(2, Source::Lease)];
        let found = together(named, leased);
        let expected = [
            told(9, Source::Agent),
            told(1, Source::Lease),
            told(2, Source::Lease),
        ];
        assert_eq!(found, expected);
    }
}
