//! What somebody else does between two commands.

use proptest::prelude::*;

use crate::stage::{HOSTS, World};

/// What somebody else does. Numbers choose among what is there at that time.
#[derive(Clone, Debug)]
pub enum Hand {
    Rename(u8),
    Copy(u8, u8, bool),
    Move(u8, u8, bool),
    Forge(u8, u8, u8),
    LoseNote(u8),
    Snapshot(u8),
    Revert(u8),
    Borrow(u8, u8),
    Undefine(u8),
    PowerOff(u8),
    Foreign(u8, u8),
    Refresh(u8),
    Reboot(u8),
    Reinstall(u8, bool),
    Pool(u8, bool),
    TakeVolume(u8, u8),
    BackupPool(u8),
    RestorePool(u8),
    Unplug(u8, bool),
    PowerCut(u8),
    Backup(u8),
    Restore(u8),
    Hosts(u8, HostsHand),
    Image(u8),
    Kill(u8),
    Sleep(u16),
}

/// What an operator does to the hosts of a definition.
#[derive(Clone, Debug)]
pub enum HostsHand {
    Add,
    Drop(u8),
    Rename(u8),
    Twice(u8),
    AsAtFirst,
}

/// Whatever somebody may do.
pub fn hands() -> impl Strategy<Value = Hand> {
    let any = any::<u8>;
    let yes = || proptest::bool::ANY;
    let hosts = prop_oneof![
        2 => Just(HostsHand::Add),
        2 => any().prop_map(HostsHand::Drop),
        2 => any().prop_map(HostsHand::Rename),
        1 => any().prop_map(HostsHand::Twice),
        2 => Just(HostsHand::AsAtFirst),
    ];
    let domains = prop_oneof![
        3 => any().prop_map(Hand::Rename),
        3 => (any(), any(), yes()).prop_map(|(which, to, runs)| Hand::Copy(which, to, runs)),
        3 => (any(), any(), yes()).prop_map(|(which, to, keeps)| Hand::Move(which, to, keeps)),
        2 => (any(), any(), 1..30u8).prop_map(|(host, of, id)| Hand::Forge(host, of, id)),
        1 => any().prop_map(Hand::LoseNote),
        2 => any().prop_map(Hand::Snapshot),
        2 => any().prop_map(Hand::Revert),
        3 => (any(), any()).prop_map(|(host, of)| Hand::Borrow(host, of)),
        2 => any().prop_map(Hand::Undefine),
        2 => any().prop_map(Hand::PowerOff),
        1 => (any(), any()).prop_map(|(host, n)| Hand::Foreign(host, n)),
    ];
    let machines = prop_oneof![
        4 => any().prop_map(Hand::Refresh),
        2 => any().prop_map(Hand::Reboot),
        1 => (any(), yes()).prop_map(|(host, keeps)| Hand::Reinstall(host, keeps)),
        2 => (any(), yes()).prop_map(|(host, off)| Hand::Pool(host, off)),
        1 => (any(), any()).prop_map(|(host, n)| Hand::TakeVolume(host, n)),
        1 => any().prop_map(Hand::BackupPool),
        1 => any().prop_map(Hand::RestorePool),
        3 => (any(), yes()).prop_map(|(host, off)| Hand::Unplug(host, off)),
        1 => any().prop_map(Hand::PowerCut),
    ];
    let vmss = prop_oneof![
        3 => any().prop_map(Hand::Backup),
        2 => any().prop_map(Hand::Restore),
        2 => (any(), hosts).prop_map(|(which, hand)| Hand::Hosts(which, hand)),
        1 => (1..9u8).prop_map(Hand::Image),
        3 => (0..12u8).prop_map(Hand::Kill),
        2 => (0..1200u16).prop_map(Hand::Sleep),
    ];
    prop_oneof![24 => domains, 16 => machines, 13 => vmss]
}

fn pick<T: Clone>(all: &[T], n: u8) -> Option<T> {
    (!all.is_empty()).then(|| all[n as usize % all.len()].clone())
}

impl Hand {
    /// What it is as a line of a play, if it can be done just now.
    pub fn line(&self, world: &World, turn: usize) -> Option<String> {
        let hosts = world.hosts();
        let there: Vec<(String, String)> = (hosts.iter())
            .flat_map(|h| h.domains.iter().map(|d| (h.name.clone(), d.name.clone())))
            .collect();
        let is_there = |host: &str, name: &str| there.iter().any(|(h, d)| h == host && d == name);
        let host = |n: &u8| HOSTS[*n as usize % HOSTS.len()].0;
        let of_domain = |verb: &str, n: &u8| {
            let (host, name) = pick(&there, *n)?;
            Some(format!("{verb} {host} {name}"))
        };
        Some(match self {
            Self::Rename(n) => format!("{} kept-{turn}", of_domain("rename", n)?),
            Self::Copy(n, to, flag) | Self::Move(n, to, flag) => {
                let ((from, name), to) = (pick(&there, *n)?, host(to));
                let domain = |host: &str| hosts.iter().find(|h| h.name == host).map(|h| &h.domains);
                let uuid = domain(&from)?.iter().find(|d| d.name == name)?.uuid;
                // A host has one domain of a UUID: libvirt refuses another, whatever it is called.
                let has_it = domain(to)?.iter().any(|d| d.uuid == uuid);
                if from == to || is_there(to, &name) || has_it {
                    return None;
                }
                match self {
                    Self::Copy(..) => format!("copy {from} {name} {to}{}", if *flag { "" } else { " off" }),
                    _ => format!("move {from} {name} {to}{}", if *flag { " keeping" } else { "" }),
                }
            }
            Self::Forge(on, of, id) => {
                let ((_, of), on) = (pick(&there, *of)?, host(on));
                let set = &world.managed[*id as usize % world.managed.len()].set;
                let name = format!("{set}-{id}");
                if is_there(on, &name) {
                    return None;
                }
                format!("forge {on} {name} {of}")
            }
            Self::LoseNote(n) => of_domain("lose-note", n)?,
            Self::Snapshot(n) => of_domain("snapshot", n)?,
            Self::Revert(n) => of_domain("revert", n)?,
            Self::Borrow(n, of) => {
                let (from, of) = pick(&there, *of)?;
                let folder = hosts.iter().find(|h| h.name == from)?.folder;
                let shares = |h: &str| {
                    let other = hosts.iter().find(|o| o.name == h);
                    h == from || (folder.is_some() && other.is_some_and(|o| o.folder == folder))
                };
                let is_foreign = |d: &str| d.starts_with("kept-") || d.starts_with("other-");
                let own: Vec<_> = (there.iter())
                    .filter(|(h, d)| shares(h) && is_foreign(d) && *d != of)
                    .collect();
                let (host, name) = pick(&own, *n)?;
                format!("attach {host} {name} of-{of}")
            }
            Self::Undefine(n) => of_domain("undefine", n)?,
            Self::PowerOff(n) => of_domain("power-off", n)?,
            Self::Foreign(n, name) => {
                let (host, name) = (host(n), format!("other-{name}"));
                if is_there(host, &name) {
                    return None;
                }
                format!("foreign {host} {name}")
            }
            Self::Refresh(n) => format!("refresh {}", host(n)),
            Self::Reboot(n) => format!("reboot {}", host(n)),
            Self::Reinstall(n, keeps) => {
                format!("reinstall {}{}", host(n), if *keeps { " keeping" } else { "" })
            }
            Self::Pool(n, off) => format!("{} {}", if *off { "pool-off" } else { "pool-on" }, host(n)),
            Self::TakeVolume(n, volume) => {
                let host = host(n);
                let known: Vec<String> = world.fleet().volumes(host).into_iter().map(|v| v.name).collect();
                format!("take-volume {host} {}", pick(&known, *volume)?)
            }
            Self::BackupPool(n) => format!("backup-pool {}", host(n)),
            Self::RestorePool(n) => format!("restore-pool {}", host(n)),
            Self::Unplug(n, off) => format!("{} {}", if *off { "kill" } else { "heal" }, host(n)),
            Self::PowerCut(n) => format!("power-cut {}", host(n)),
            Self::Backup(n) => format!("backup-store {}", pick(&world.managed, *n)?.store),
            Self::Restore(n) => format!("restore-store {}", pick(&world.managed, *n)?.store),
            Self::Hosts(n, hand) => {
                let managed = pick(&world.managed, *n)?;
                let hosts = hand.hosts(&managed.hosts);
                format!("hosts {} {}", managed.file, hosts.join(" "))
            }
            Self::Image(n) => format!("image {n}"),
            Self::Kill(n) => format!("kill-vmss after {n}"),
            Self::Sleep(seconds) => format!("sleep {seconds}"),
        })
    }
}

impl HostsHand {
    fn hosts(&self, now: &[String]) -> Vec<String> {
        let mut hosts = now.to_vec();
        match self {
            Self::Add if !hosts.iter().any(|h| h == "kvm4") => hosts.push("kvm4".to_owned()),
            Self::Add => {}
            Self::Drop(n) => {
                if hosts.len() > 1 {
                    hosts.remove(*n as usize % hosts.len());
                }
            }
            Self::Rename(n) => {
                let at = *n as usize % hosts.len();
                hosts[at] = match hosts[at].strip_prefix("rack") {
                    Some(number) => format!("kvm{number}"),
                    // An alias has no other name.
                    None if hosts[at].ends_with("-ip") => hosts[at].clone(),
                    None => hosts[at].replace("kvm", "rack"),
                };
            }
            Self::Twice(n) => {
                let alias = format!("{}-ip", hosts[*n as usize % hosts.len()].trim_end_matches("-ip"));
                if !hosts.contains(&alias) {
                    hosts.push(alias.replace("rack", "kvm"));
                }
            }
            Self::AsAtFirst => hosts = HOSTS[..3].iter().map(|(h, _)| (*h).to_owned()).collect(),
        }
        hosts.dedup();
        hosts
    }
}
