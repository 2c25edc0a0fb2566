//! What vmss is told to do.

use proptest::prelude::*;

use crate::hands::{Hand, hands};
use crate::stage::{Sets, Setting};

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Deed {
    /// Somebody else does something.
    Hand(Hand),
    /// vmss is told to do something with one of the sets.
    Vmss(u8, String),
    /// Something that was found once, as it was told.
    Line(&'static str),
}

fn host() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec!["kvm1", "kvm2", "kvm3", "kvm4", "rack2"])
}

/// Commands as they are typed where nothing is wrong.
fn everyday() -> BoxedStrategy<String> {
    let said = |text: &'static str| Just(text.to_owned());
    prop_oneof![
        6 => (0..7u32).prop_map(|n| format!("scale {n} --yes")),
        2 => said("scale +0 --yes"),
        3 => said("create --yes"),
        3 => said("apply --yes"),
        1 => said("repair --yes"),
        1 => said("upgrade --yes --at-most replace"),
        2 => said("run"),
        1 => said("image prune --yes"),
        1 => said("instance restart --all --yes"),
        1 => (1..9u32).prop_map(|id| format!("instance reimage {id} --yes")),
        1 => (1..9u32).prop_map(|id| format!("instance replace {id} --yes")),
        1 => (1..9u32).prop_map(|id| format!("instance delete {id} --yes")),
        1 => (1..9u32).prop_map(|id| format!("instance protect {id} --from scale-in")),
        1 => said("instance unprotect --all"),
        1 => host().prop_map(|h| format!("host drain {h} --yes")),
        1 => host().prop_map(|h| format!("host drain {h} --migrate --yes")),
        2 => host().prop_map(|h| format!("host uncordon {h}")),
        2 => said("delete --yes --include-protected"),
        1 => said("show"),
    ]
    .boxed()
}

/// Commands as they are typed where something is odd, rightly or wrongly.
fn of_odd_days() -> BoxedStrategy<String> {
    let said = |text: &'static str| Just(text.to_owned());
    prop_oneof![
        2 => (1..9u32, host()).prop_map(|(id, h)| format!("instance settle {id} --keep {h} --yes")),
        2 => (1..12u32).prop_map(|id| format!("instance adopt {id} --yes")),
        1 => (1..12u32).prop_map(|id| format!("instance disown {id} --yes")),
        2 => said("state catch-up --yes"),
        1 => said("state rebuild --yes"),
        1 => said("state adopt --yes"),
        1 => said("state sweep --all --yes"),
        1 => said("delete --yes --abandon-unseen --include-protected"),
        1 => said("repair --resume --yes"),
    ]
    .boxed()
}

fn settings() -> impl Strategy<Value = Setting> {
    let sets = prop_oneof![
        3 => Just(Sets::One),
        2 => Just(Sets::Two),
        2 => Just(Sets::TwoStores),
        1 => Just(Sets::OneName),
    ];
    let (sharing, rarely) = (0..4usize, || proptest::bool::weighted(0.2));
    (sets, sharing, rarely(), rarely(), 1..5u32).prop_map(|(sets, sharing, repairs, data, capacity)| {
        Setting {
            sets,
            sharing,
            repairs,
            data,
            capacity,
        }
    })
}

/// A world in which anything may happen.
pub fn odd_worlds() -> impl Strategy<Value = (Setting, Vec<Deed>)> {
    let command = prop_oneof![4 => everyday(), 1 => of_odd_days()];
    let deed = prop_oneof![
        hands().prop_map(Deed::Hand),
        (any::<u8>(), command).prop_map(|(which, args)| Deed::Vmss(which, args)),
    ];
    (settings(), proptest::collection::vec(deed, 4..24))
}

/// A world in which nothing odd happens: commands, another image, time that goes by, another process's end at most.
pub fn quiet_worlds() -> impl Strategy<Value = (Setting, Vec<Deed>)> {
    let everyday = everyday().prop_filter("a host that is there", |c| {
        !c.contains("kvm4") && !c.contains("rack2")
    });
    // Another image is made to count where there are instances of it: who needs the one before does not find it any more.
    let image = |n| {
        let apply = |which| Deed::Vmss(which, "apply --yes --at-most replace".to_owned());
        vec![Deed::Hand(Hand::Image(n)), apply(0), apply(1)]
    };
    let hands = prop_oneof![
        (0..1200u16).prop_map(Hand::Sleep),
        any::<u8>().prop_map(Hand::Refresh),
        any::<u8>().prop_map(Hand::Backup),
        (any::<u8>(), any::<u8>()).prop_map(|(host, n)| Hand::Foreign(host, n)),
    ];
    let deed = prop_oneof![
        6 => (any::<u8>(), everyday).prop_map(|(which, args)| vec![Deed::Vmss(which, args)]),
        1 => (1..9u8).prop_map(image),
        4 => hands.prop_map(|hand| vec![Deed::Hand(hand)]),
    ];
    let settings = settings().prop_filter("no two stores with sets of one name", |s| s.sets != Sets::OneName);
    let deeds = proptest::collection::vec(deed, 4..16).prop_map(|deeds| deeds.concat());
    (settings, deeds)
}
