//! Odd worlds: between any two commands somebody renames, copies, forges, borrows, undefines, refreshes, unplugs, restores a
//! store or kills vmss. Whatever vmss is told to do then, nothing is lost that nobody asked to lose.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]

mod scenario;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use scenario::odd::record;
use scenario::parse::words;
use scenario::theatre::Theatre;
use uuid::Uuid;
use vmss::inventory::Power;
use vmss::names::Label;
use vmss::record::Record;
use vmss::store::Store as _;
use vmss::store::sqlite::Sqlite;

const HOSTS: [&str; 3] = ["kvm1", "kvm2", "kvm3"];

/// What somebody else does between two commands. Numbers choose among what is there at that time.
#[derive(Clone, Debug)]
enum Hand {
    Rename(u8),
    Copy(u8, u8, bool),
    Forge(u8, u8, u8),
    Borrow(u8, u8),
    Undefine(u8),
    PowerOff(u8),
    Refresh(u8),
    Reboot(u8),
    Pool(u8, bool),
    Unplug(u8, bool),
    Backup,
    Restore,
    Image(u8),
    Kill(u8),
}

#[derive(Clone, Debug)]
enum Deed {
    Hand(Hand),
    Vmss(String),
}

fn hands() -> impl Strategy<Value = Hand> {
    let any = any::<u8>;
    prop_oneof![
        3 => any().prop_map(Hand::Rename),
        3 => (any(), any(), proptest::bool::ANY).prop_map(|(which, to, runs)| Hand::Copy(which, to, runs)),
        2 => (any(), any(), 1..30u8).prop_map(|(host, of, id)| Hand::Forge(host, of, id)),
        2 => (any(), any()).prop_map(|(host, of)| Hand::Borrow(host, of)),
        2 => any().prop_map(Hand::Undefine),
        2 => any().prop_map(Hand::PowerOff),
        4 => any().prop_map(Hand::Refresh),
        2 => any().prop_map(Hand::Reboot),
        2 => (any(), proptest::bool::ANY).prop_map(|(host, off)| Hand::Pool(host, off)),
        2 => (any(), proptest::bool::ANY).prop_map(|(host, off)| Hand::Unplug(host, off)),
        3 => Just(Hand::Backup),
        2 => Just(Hand::Restore),
        1 => (1..9u8).prop_map(Hand::Image),
        3 => (0..12u8).prop_map(Hand::Kill),
    ]
}

fn commands() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (0..7u32).prop_map(|n| format!("scale {n} --yes")),
        3 => Just("scale +0 --yes".to_owned()),
        3 => Just("create --yes".to_owned()),
        3 => Just("apply --yes".to_owned()),
        2 => Just("repair --yes".to_owned()),
        1 => Just("upgrade --yes".to_owned()),
        1 => Just("image prune --yes".to_owned()),
        1 => Just("state sweep --all --yes".to_owned()),
        1 => (0..3usize).prop_map(|h| format!("host drain {} --yes", HOSTS[h])),
        1 => (0..3usize).prop_map(|h| format!("host uncordon {}", HOSTS[h])),
        2 => Just("delete --yes".to_owned()),
    ]
}

fn deeds() -> impl Strategy<Value = (bool, Vec<Deed>)> {
    let deed = prop_oneof![hands().prop_map(Deed::Hand), commands().prop_map(Deed::Vmss)];
    (proptest::bool::ANY, proptest::collection::vec(deed, 4..24))
}

/// Every domain of the fleet by host and name, with whether it runs.
fn domains(theatre: &Theatre) -> BTreeMap<(String, String), (Uuid, Power)> {
    let fleet = &theatre.stage.fleet;
    let of = |host: &&str| {
        let host = (*host).to_owned();
        let all = fleet.domains(&host).into_iter();
        all.map(move |d| ((host.clone(), d.name), (d.uuid, d.power)))
    };
    HOSTS.iter().flat_map(of).collect()
}

fn pick<T: Clone>(all: &[T], n: u8) -> Option<T> {
    (!all.is_empty()).then(|| all[n as usize % all.len()].clone())
}

impl Hand {
    /// What it is in the words of a scenario, if it can be done just now.
    fn line(&self, theatre: &Theatre, turn: usize) -> Option<String> {
        let there: Vec<(String, String)> = domains(theatre).into_keys().collect();
        let host = |n: &u8| HOSTS[*n as usize % HOSTS.len()];
        Some(match self {
            Self::Rename(n) => {
                let (host, name) = pick(&there, *n)?;
                format!("rename {host} {name} kept-{turn}")
            }
            Self::Copy(n, to, runs) => {
                let (from, name) = pick(&there, *n)?;
                let to = host(to);
                if from == to || there.contains(&(to.to_owned(), name.clone())) {
                    return None;
                }
                format!("copy {from} {name} {to}{}", if *runs { "" } else { " off" })
            }
            Self::Forge(on, of, id) => {
                let (_, of) = pick(&there, *of)?;
                let (on, name) = (host(on), format!("web-{id}"));
                if there.contains(&(on.to_owned(), name.clone())) {
                    return None;
                }
                format!("forge {on} {name} {of}")
            }
            Self::Borrow(n, of) => {
                let (host, of) = pick(&there, *of)?;
                let own: Vec<_> = there.iter().filter(|(h, d)| *h == host && *d != of).collect();
                let (_, name) = pick(&own, *n)?;
                name.starts_with("kept-")
                    .then(|| format!("attach {host} {name} of-{of}"))?
            }
            Self::Undefine(n) => {
                let (host, name) = pick(&there, *n)?;
                format!("undefine {host} {name}")
            }
            Self::PowerOff(n) => {
                let (host, name) = pick(&there, *n)?;
                format!("power-off {host} {name}")
            }
            Self::Refresh(n) => format!("refresh {}", host(n)),
            Self::Reboot(n) => format!("reboot {}", host(n)),
            Self::Pool(n, off) => format!("{} {}", if *off { "pool-off" } else { "pool-on" }, host(n)),
            Self::Unplug(n, off) => format!("{} {}", if *off { "kill" } else { "heal" }, host(n)),
            Self::Backup => "backup-store".to_owned(),
            Self::Restore => "restore-store".to_owned(),
            Self::Image(n) => format!("image {n}"),
            Self::Kill(n) => format!("kill-vmss after {n}"),
        })
    }
}

/// The record, if there is one.
fn recorded(theatre: &Theatre) -> Option<Record> {
    let store = Sqlite::open(&theatre.folder().join("state.db")).unwrap();
    let found = store.get(&Label::new("web").unwrap()).unwrap();
    found.is_some().then(|| record(theatre))
}

/// Domains that vmss has no business with: no member and not on its way out, renamed, seen more than once, or seen elsewhere
/// than the record says while its UUID is seen under another name as well.
fn others(theatre: &Theatre, down: &BTreeSet<&str>) -> BTreeMap<(String, String), (Uuid, Power)> {
    let all = domains(theatre);
    let known = recorded(theatre);
    let listed: BTreeMap<Uuid, String> = (known.iter())
        .flat_map(|r| {
            let lives = r.known.iter().map(|(id, k)| (k.uuid, id.0));
            let goes = r.warrants.instances.values().flatten();
            lives.chain(goes.map(|(id, w)| (w.uuid, id.0)))
        })
        .map(|(uuid, id)| (uuid, format!("web-{id}")))
        .collect();
    let home: BTreeMap<Uuid, &str> = (known.iter())
        .flat_map(|r| r.known.values().map(|k| (k.uuid, k.host.as_str())))
        .collect();
    let is_down = |host: &str| down.contains(host);
    let renamed = |uuid: &Uuid| {
        let of_it = |((host, name), (its, _)): (&(String, String), &(Uuid, Power))| {
            its == uuid && listed.get(its) != Some(name) && !is_down(host)
        };
        all.iter().any(of_it)
    };
    let may_be_a_copy =
        |host: &str, uuid: &Uuid| home.get(uuid).is_some_and(|home| *home != host) && renamed(uuid);
    let mut times: BTreeMap<Uuid, usize> = BTreeMap::new();
    for ((host, name), (uuid, _)) in &all {
        let counts = listed.get(uuid) == Some(name) && !down.contains(host.as_str());
        *times.entry(*uuid).or_default() += usize::from(counts);
    }
    let theirs = all.iter().filter(|((host, name), (uuid, _))| {
        listed.get(uuid) != Some(name) || times[uuid] > 1 || may_be_a_copy(host, uuid)
    });
    theirs.map(|(place, what)| (place.clone(), *what)).collect()
}

/// Plays a world; what was lost that nobody asked to lose.
fn play(is_shared: bool, deeds: &[Deed]) -> Result<(), String> {
    let mut theatre = Theatre::new();
    let mut told = Vec::new();
    let mut lines = vec!["host rack-a kvm1", "host rack-b kvm2", "host rack-c kvm3"];
    if is_shared {
        lines.push("shares kvm1 kvm2");
    }
    lines.extend(["define 3", "vmss create"]);
    for line in lines {
        assert_eq!(theatre.command(line).0, 0, "{line}");
    }
    let mut has_backup = false;
    let mut down = BTreeSet::new();
    for (turn, deed) in deeds.iter().enumerate() {
        match deed {
            Deed::Hand(hand) => {
                let Some(line) = hand.line(&theatre, turn) else {
                    continue;
                };
                if matches!(hand, Hand::Restore) && !has_backup {
                    continue;
                }
                has_backup |= matches!(hand, Hand::Backup);
                match hand {
                    Hand::Unplug(n, true) => _ = down.insert(HOSTS[*n as usize % HOSTS.len()]),
                    Hand::Unplug(n, false) => _ = down.remove(HOSTS[*n as usize % HOSTS.len()]),
                    _ => {}
                }
                let outcome = theatre.command(&line);
                told.push(format!("{line} {}", outcome.2));
            }
            Deed::Vmss(args) => {
                let (theirs, robbed) = (others(&theatre, &down), robbed(&theatre));
                let (exit, _, said) = theatre.vmss(&words(args).unwrap());
                told.push(format!("> vmss {args}: {exit}\n{said}"));
                let _ = theatre.command("revive");
                let wrong = |what: String| format!("{what}\n{}", told.join("\n"));
                if exit > 6 && exit != 130 && exit != 137 && exit != 99 {
                    return Err(wrong(format!("it ended with {exit}")));
                }
                if let Some(lost) = self::robbed(&theatre).difference(&robbed).next() {
                    return Err(wrong(lost.clone()));
                }
                let now = domains(&theatre);
                for (place, what) in theirs {
                    if now.get(&place) != Some(&what) {
                        return Err(wrong(format!(
                            "{place:?} was {what:?} and is {:?}",
                            now.get(&place)
                        )));
                    }
                }
            }
        }
    }
    Ok(())
}

fn robbed(theatre: &Theatre) -> BTreeSet<String> {
    theatre.stage.fleet.robbed().into_iter().collect()
}

/// How many worlds are played: as many as proptest is asked for (PROPTEST_CASES), and half as many again.
fn cases() -> u32 {
    ProptestConfig::default().cases / 2 * 3
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_that_nobody_asked_to_lose((is_shared, deeds) in deeds()) {
        if let Err(lost) = play(is_shared, &deeds) {
            prop_assert!(false, "{}", lost);
        }
    }
}

/// A copy has the UUID of what it is a copy of, and may have its very disk.
#[test]
fn a_copy_in_a_shared_folder_does_not_go_with_the_disk_of_the_one_that_is_kept() {
    let deeds = [
        Deed::Hand(Hand::Copy(39, 136, false)),
        Deed::Hand(Hand::Rename(12)),
        Deed::Vmss("delete --yes".to_owned()),
    ];
    play(true, &deeds).unwrap();
}

/// The original is still there, on its own host.
#[test]
fn a_copy_does_not_take_the_place_of_an_original_that_has_another_name() {
    let deeds = [
        Deed::Hand(Hand::Copy(0, 1, false)),
        Deed::Hand(Hand::Rename(0)),
        Deed::Vmss("scale 0 --yes".to_owned()),
        Deed::Vmss("delete --yes".to_owned()),
    ];
    play(false, &deeds).unwrap();
}
