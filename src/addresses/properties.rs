//! What always holds of who is reached where.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;

/// Few addresses, so that they meet; some that nobody may have, some written as IPv6.
fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = prop_oneof![
        8 => (1..8u8).prop_map(|n| Ipv4Addr::new(10, 0, 0, n)),
        1 => Just(Ipv4Addr::LOCALHOST),
        1 => Just(Ipv4Addr::UNSPECIFIED),
        1 => Just(Ipv4Addr::BROADCAST),
        1 => Just(Ipv4Addr::new(224, 0, 0, 1)),
        1 => Just(Ipv4Addr::new(169, 254, 1, 1)),
        1 => Just(Ipv4Addr::new(192, 168, 0, 1)),
    ];
    let v6 = prop_oneof![
        Just("::1"),
        Just("fe80::1"),
        Just("ff02::1"),
        Just("::"),
        Just("fd00::7")
    ];
    prop_oneof![
        4 => v4.clone().prop_map(IpAddr::V4),
        1 => v4.prop_map(|a| IpAddr::V6(a.to_ipv6_mapped())),
        1 => v6.prop_map(|a| a.parse().unwrap()),
    ]
}

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        Just(Standing::Assigned),
        Just(Standing::Leased),
        Just(Standing::Proven),
        Just(Standing::Told)
    ]
}

fn claim() -> impl Strategy<Value = Claim> {
    let within = prop_oneof![Just(vec![]), Just(vec!["10.0.0.0/29".parse().unwrap()])];
    (address(), standing(), within).prop_map(|(address, standing, within)| Claim {
        address,
        standing,
        within,
    })
}

fn claimants() -> impl Strategy<Value = Vec<Claimant>> {
    prop::collection::btree_map(1..9u64, prop::collection::vec(claim(), 0..4), 0..8).prop_map(|all| {
        let one = |(id, claims)| Claimant {
            id: InstanceId(id),
            claims,
        };
        all.into_iter().map(one).collect()
    })
}

fn off_limits() -> impl Strategy<Value = OffLimits> {
    let others = (address(), any::<bool>()).prop_map(|(address, is_assigned)| {
        let other = Other {
            set: Label::new("db").unwrap(),
            instance: InstanceId(1),
            on: is_assigned.then(|| "br0".to_owned()),
        };
        (address.to_canonical(), other)
    });
    (
        prop::collection::vec(address(), 0..3),
        prop::collection::vec(others, 0..3),
    )
        .prop_map(|(owners, others)| OffLimits {
            owners: owners
                .into_iter()
                .map(|a| (a.to_canonical(), Owner::ThisMachine))
                .collect(),
            others: others.into_iter().collect(),
        })
}

proptest! {
    #[test]
    fn an_address_is_one_instances_and_nobody_elses(all in claimants(), taken in off_limits()) {
        let choice = choose(&all, &taken);
        let mut served: BTreeMap<IpAddr, InstanceId> = BTreeMap::new();
        for claimant in &all {
            for at in choice.all(claimant.id) {
                prop_assert_eq!(served.insert(*at, claimant.id), None, "{} twice", at);
                prop_assert!(is_unicast(*at), "{at}");
                prop_assert_eq!(at.to_canonical(), *at);
                prop_assert!(!taken.owners.contains_key(at), "{at} is somebody's");
                prop_assert!(
                    claimant.claims.iter().any(|c| c.address.to_canonical() == *at),
                    "{at} was never claimed"
                );
            }
            prop_assert_eq!(choice.serve_at(claimant.id).ok(), choice.all(claimant.id).first().copied());
        }
    }

    #[test]
    fn who_has_the_best_claim_keeps_it_whoever_comes_first(all in claimants(), taken in off_limits()) {
        let choice = choose(&all, &taken);
        let mut turned = all.clone();
        turned.reverse();
        prop_assert_eq!(&choose(&turned, &taken), &choice);
        for claimant in &all {
            for claim in claimant.claims.iter().filter(|c| c.standing == Standing::Assigned) {
                let address = claim.address.to_canonical();
                let is_fit = is_unicast(address) && !taken.owners.contains_key(&address);
                let by_another = all.iter().any(|other| {
                    other.id != claimant.id
                        && other.claims.iter().any(|c| {
                            c.standing == Standing::Assigned && c.address.to_canonical() == address
                        })
                });
                prop_assert!(
                    !is_fit || by_another || choice.all(claimant.id).contains(&address),
                    "{address} was taken from whom vmss gave it to"
                );
            }
        }
    }

    #[test]
    fn every_claim_is_kept_or_refused_with_a_reason(all in claimants(), taken in off_limits()) {
        let choice = choose(&all, &taken);
        let refused: BTreeSet<(InstanceId, IpAddr)> =
            choice.refused().map(|(id, at, _)| (id, at)).collect();
        for claimant in &all {
            for claim in &claimant.claims {
                let at = claim.address.to_canonical();
                prop_assert!(choice.all(claimant.id).contains(&at) || refused.contains(&(claimant.id, at)));
            }
        }
    }
}

#[test]
fn each_reason_has_its_case() {
    let claim = |address: &str, standing, within: &[&str]| Claim {
        address: address.parse().unwrap(),
        standing,
        within: within.iter().map(|w| w.parse().unwrap()).collect(),
    };
    let one = |id, claims| Claimant {
        id: InstanceId(id),
        claims,
    };
    let at = |text: &str| text.parse::<IpAddr>().unwrap();
    let kvm1 = Owner::Host(Label::new("kvm1").unwrap());
    let other = Other {
        set: Label::new("db").unwrap(),
        instance: InstanceId(9),
        on: None,
    };
    let taken = OffLimits {
        owners: [
            (at("10.0.0.1"), Owner::ThisMachine),
            (at("fd00::1"), kvm1.clone()),
        ]
        .into(),
        others: [(at("10.0.0.30"), other)].into(),
    };
    let told = Standing::Told;
    let all = [
        one(
            1,
            vec![claim("127.0.0.1", told, &[]), claim("10.0.0.11", told, &[])],
        ),
        one(2, vec![claim("::ffff:10.0.0.1", told, &[])]),
        one(3, vec![claim("fd00::1", told, &[])]),
        one(4, vec![claim("10.0.0.30", told, &[])]),
        one(5, vec![claim("10.0.0.30", Standing::Leased, &[])]),
        one(6, vec![claim("172.17.0.1", told, &["10.0.0.0/8", "fd00::/64"])]),
        one(7, vec![claim("10.0.0.11", Standing::Proven, &["10.0.0.0/8"])]),
    ];
    let choice = choose(&all, &taken);
    let why = |id| choice.serve_at(InstanceId(id)).map_err(|why| why.cloned());
    assert_eq!(why(1), Err(Some(Refused::NotUnicast)));
    assert_eq!(why(2), Err(Some(Refused::Taken(Owner::ThisMachine))));
    assert_eq!(why(3), Err(Some(Refused::Taken(kvm1))));
    assert!(matches!(why(4), Err(Some(Refused::OtherSet { .. }))));
    assert_eq!(why(5), Ok(at("10.0.0.30")), "its host leases it to it");
    assert_eq!(why(6), Err(Some(Refused::Outside)));
    assert_eq!(why(7), Ok(at("10.0.0.11")));
    let of_one: Vec<_> = choice.refused().filter(|(id, ..)| *id == InstanceId(1)).collect();
    assert_eq!(of_one[1].2, &Refused::Claimed { by: InstanceId(7) });
    assert_eq!(why(8), Err(None), "nobody knows of it");
}
