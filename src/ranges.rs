//! Ranges of addresses that are handed out: no two sets of one store may hand out the same on one network.

use std::net::Ipv4Addr;

use crate::model::{Nic, NicSource};

/// Where two sets would hand out the same addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The bridge or network of both.
    pub network: String,
    /// The first address that both hand out.
    pub first: Ipv4Addr,
    /// The last one.
    pub last: Ipv4Addr,
}

impl std::fmt::Display for Overlap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            return write!(f, "{} on {}", self.first, self.network);
        }
        write!(f, "{}-{} on {}", self.first, self.last, self.network)
    }
}

impl Overlap {
    /// Whether it is part of another.
    pub fn is_part_of(&self, other: &Self) -> bool {
        self.network == other.network && other.first <= self.first && self.last <= other.last
    }
}

/// What a card is plugged into, bridge or network.
pub const fn name(source: &NicSource) -> &String {
    match source {
        NicSource::Bridge(name) | NicSource::Network(name) => name,
    }
}

/// The addresses that both hand out on a network or bridge of one name, on whichever hosts: that two networks of one name
/// are not connected nobody can see.
pub fn overlap(one: &[Nic], other: &[Nic]) -> Option<Overlap> {
    let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (a, b)));
    pairs.filter_map(|(a, b)| of_cards(a, b)).next()
}

/// The addresses that two cards of one definition would both be given.
pub fn overlap_within(cards: &[Nic]) -> Option<Overlap> {
    let pairs = (cards.iter().enumerate()).flat_map(|(i, a)| cards[i + 1..].iter().map(move |b| (a, b)));
    pairs.filter_map(|(a, b)| of_cards(a, b)).next()
}

fn of_cards(a: &Nic, b: &Nic) -> Option<Overlap> {
    let (own, its) = (a.addresses.as_ref()?, b.addresses.as_ref()?);
    let (first, last) = (own.first.max(its.first), own.last.min(its.last));
    (name(&a.source) == name(&b.source) && first <= last).then(|| Overlap {
        network: name(&a.source).clone(),
        first,
        last,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaleset::AddressRange;

    fn nic(source: NicSource, range: Option<(u8, u8)>) -> Nic {
        let at = |n| Ipv4Addr::new(10, 9, 0, n);
        Nic {
            source,
            addresses: range.map(|(first, last)| AddressRange {
                first: at(first),
                last: at(last),
                prefix: 24,
            }),
            gateway: None,
            dns: Vec::new(),
            within: Vec::new(),
        }
    }

    fn net(name: &str, first: u8, last: u8) -> Vec<Nic> {
        vec![nic(NicSource::Network(name.to_owned()), Some((first, last)))]
    }

    #[test]
    fn two_overlap_where_a_network_of_one_name_has_the_same_addresses() {
        let says = |a: &[Nic], b: &[Nic]| {
            assert_eq!(overlap(a, b), overlap(b, a));
            overlap(a, b).map(|o| o.to_string())
        };
        let mine = net("default", 10, 99);
        assert_eq!(says(&mine, &net("default", 100, 200)), None);
        assert_eq!(says(&mine, &net("other", 10, 99)), None);
        let part = says(&mine, &net("default", 90, 200));
        assert_eq!(part.as_deref(), Some("10.9.0.90-10.9.0.99 on default"));
        let one = says(&mine, &net("default", 99, 99));
        assert_eq!(one.as_deref(), Some("10.9.0.99 on default"));
        let bridge = vec![nic(NicSource::Bridge("default".to_owned()), Some((10, 10)))];
        assert!(says(&mine, &bridge).is_some(), "a network may be that bridge");
        let dhcp = vec![nic(NicSource::Network("default".to_owned()), None)];
        assert_eq!(says(&mine, &dhcp), None, "DHCP gives out its own");
        let both: Vec<Nic> = [net("lan", 1, 9), net("default", 50, 51)].concat();
        let second = says(&both, &mine);
        assert_eq!(second.as_deref(), Some("10.9.0.50-10.9.0.51 on default"));
    }

    #[test]
    fn a_smaller_overlap_is_part_of_a_larger() {
        let of = |first, last| overlap(&net("a", 1, 200), &net("a", first, last)).unwrap();
        assert!(of(10, 20).is_part_of(&of(10, 20)) && of(11, 12).is_part_of(&of(10, 20)));
        assert!(!of(10, 21).is_part_of(&of(10, 20)) && !of(9, 12).is_part_of(&of(10, 20)));
    }

    #[test]
    fn two_cards_of_one_definition_overlap_too() {
        let cards = [net("a", 1, 9), net("b", 1, 9), net("a", 9, 12)].concat();
        assert_eq!(overlap_within(&cards).unwrap().to_string(), "10.9.0.9 on a");
        assert_eq!(overlap_within(&net("a", 1, 9)), None);
    }
}
