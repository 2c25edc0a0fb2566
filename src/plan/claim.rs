//! What an operator says of whose a domain is: which copy of a double stays, and that a stranger is the set's. Decided by what
//! record and hosts show; what would make an id, a UUID or an address twice is refused.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

use uuid::Uuid;

use crate::inventory::{Instance, Inventory, Phase};
use crate::names::{InstanceId, Label, instance_name};
use crate::ownership::{Double, Place, Strangeness, Stranger};
use crate::plan::action::{Action, Step};
use crate::plan::report::Wait;
use crate::plan::{Fleet, Situation, odd, reference};
use crate::record::Record;
use crate::request::Request;
use crate::warrants::Cause;

/// Why nobody may say anything of whose a domain is just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// Instances of the set are managed from another store.
    OtherStore,
    /// Notes on the hosts were written under a later record.
    RecordOld,
    /// Two hosts are one: what is there once is seen twice.
    OneHost,
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherStore => "instances of the set are managed from another store",
            Self::RecordOld => "the record is older than what is on the hosts",
            Self::OneHost => "two of its hosts are one libvirtd under two names",
        })
    }
}

impl Bar {
    /// What is to be done about it.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::OtherStore => {
                "run the command where that store is, or take the set over with vmss state adopt"
            }
            Self::RecordOld => "vmss state catch-up shows what it would take over, and asks",
            Self::OneHost => {
                "vmss show names the two: take one out of the definition, then vmss apply, or vmss delete where that has begun"
            }
        }
    }
}

/// What [`Bar::RecordOld`] is seen by: the instances that the record is older than.
pub fn record_old(s: Situation<'_>) -> Option<Wait> {
    odd::record_old(s)
}

/// What stands against whatever is said of domains, if anything does.
pub fn bar(s: Situation<'_>) -> Option<Bar> {
    if !Fleet::of(s).others.is_empty() {
        return Some(Bar::OtherStore);
    }
    if !s.inventory.odd.twins.is_empty() {
        return Some(Bar::OneHost);
    }
    s.inventory.odd.is_record_old().then_some(Bar::RecordOld)
}

/// How a double is ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    /// The copy that stays.
    pub kept: Place,
    /// Those that go.
    pub dropped: Vec<Place>,
    /// Those that somebody keeps under another name: strangers, which stay where they are.
    pub spared: Vec<Place>,
    /// Those that were seen on hosts which can't be seen now: told again when they are.
    pub hidden: Vec<Place>,
    /// The fault domain of the host where it stays.
    pub fault_domain: Label,
    /// What that takes.
    pub steps: Vec<Step>,
}

/// Why a double can't be ended so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsettled {
    /// It is there once at most.
    NoDouble,
    /// It is there twice, but not on that host.
    NotThere(Double),
    /// It has another name on that host.
    Renamed {
        /// The domain's name.
        is: String,
    },
    /// That host can't be seen.
    Hidden,
    /// Neither copy is one that the record lists.
    Unlisted,
}

/// Ends the double of `id` so that the copy on `keep` stays.
///
/// # Errors
/// Why it can't be ended so.
pub fn settle(s: Situation<'_>, id: InstanceId, keep: &Label) -> Result<Settlement, Unsettled> {
    let double = (s.inventory.odd.doubles.iter().find(|d| d.id == id)).ok_or(Unsettled::NoDouble)?;
    let (kept, dropped): (Vec<Place>, Vec<Place>) =
        (double.places.iter().cloned()).partition(|place| place.host == *keep);
    let not_there = || Unsettled::NotThere(double.clone());
    let kept = kept.into_iter().next().ok_or_else(not_there)?;
    if let Some(is) = kept.called {
        return Err(Unsettled::Renamed { is });
    }
    if kept.is_hidden {
        return Err(Unsettled::Hidden);
    }
    let (hidden, dropped): (Vec<Place>, Vec<Place>) = dropped.into_iter().partition(|p| p.is_hidden);
    let (dropped, spared) = dropped.into_iter().partition(Place::has_its_name);
    let known = s.record.known.get(&id).ok_or(Unsettled::Unlisted)?;
    let of_host = s.set.hosts().find(|(_, host)| host.name == *keep);
    let (fault_domain, _) = of_host.ok_or_else(not_there)?;
    let name = instance_name(&s.set.name, id);
    let copies = copies(s.inventory, id, known.uuid).into_iter();
    let copies = copies.filter(|(_, copy)| copy.name == name);
    let cause = Cause::Settled { kept: keep.clone() };
    let mut steps = Vec::new();
    for (host, copy) in copies {
        let instance = reference(s, copy);
        let (action, why) = if host == keep {
            let fault_domain = fault_domain.clone();
            let noted = Action::Renote {
                instance,
                fault_domain,
            };
            (noted, "this copy is kept".into())
        } else {
            let (cause, why) = (cause.clone(), cause.to_string().into());
            let shutdown = std::time::Duration::ZERO;
            let dropped = Action::DropCopy {
                instance,
                shutdown,
                cause,
            };
            (dropped, why)
        };
        steps.push(Step {
            host: host.clone(),
            action,
            why,
        });
    }
    Ok(Settlement {
        kept,
        dropped,
        spared,
        hidden,
        fault_domain: fault_domain.clone(),
        steps,
    })
}

/// Every copy of an instance, with its host: the one that counts, and those that were set aside.
fn copies(inventory: &Inventory, id: InstanceId, uuid: Uuid) -> Vec<(&Label, &Instance)> {
    let counted = (inventory.hosts.iter()).flat_map(|host| {
        let seen = host.seen().into_iter().flat_map(|h| &h.instances);
        seen.map(move |instance| (&host.name, instance))
    });
    let all = counted.chain(inventory.odd.aside());
    all.filter(|(_, i)| i.id == id && i.uuid == uuid).collect()
}

impl Record {
    /// Notes how a double is ended, before it is.
    pub fn settle(&mut self, id: InstanceId, settlement: &Settlement) {
        let keep = &settlement.kept.host;
        self.warrants.withdraw(keep, id);
        self.copies.remove(&id);
        self.moves.remove(&id);
        if let Some(known) = self.known.get_mut(&id) {
            known.host.clone_from(keep);
            known.fault_domain.clone_from(&settlement.fault_domain);
        }
    }
}

/// A stranger that may be taken in.
#[derive(Clone, Debug, PartialEq)]
pub struct Adoption {
    /// Where it is.
    pub host: Label,
    /// That host's fault domain.
    pub fault_domain: Label,
    /// What it is.
    pub instance: Instance,
    /// Why it is a stranger.
    pub why: Strangeness,
}

/// Why a stranger can't be taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No stranger says that it is the instance.
    NoStranger,
    /// Several do: one must be named by its host.
    Several(Vec<Label>),
    /// It is there twice, on these hosts.
    Twice(Vec<Label>),
    /// It has another name than its instance.
    Renamed {
        /// The domain's name.
        is: String,
        /// Its host.
        host: Label,
    },
    /// It has no note of the set that can be read.
    NoNote(String),
    /// An operator has said that its note lies.
    Disowned(Uuid),
    /// Its note lists this volume, which is another instance's.
    OthersDisk(String),
    /// The record has that id already, on this host.
    IdTaken(Label),
    /// The record has that UUID already, under this id.
    UuidTaken(InstanceId),
    /// The record has given one of its addresses to another instance.
    AddressTaken(Ipv4Addr, InstanceId),
    /// Its note says that it is half made or half deleted.
    Half,
    /// Its note says that it is on its way to this host.
    Moving(Label),
    /// Its host is not in the definition any more.
    HostDropped(Label),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStranger => f.write_str("no domain that the set does not have says that it is it"),
            Self::Several(hosts) => write!(
                f,
                "several domains say that they are it, on {}",
                crate::names::list(hosts, 8)
            ),
            Self::Twice(hosts) => write!(
                f,
                "its domain is there twice, on {}",
                crate::names::list(hosts, 8)
            ),
            Self::Renamed { is, host } => write!(f, "its domain on {host} is called {is}"),
            Self::NoNote(name) => write!(f, "domain {name} has no note of vmss that can be read"),
            Self::Disowned(_) => f.write_str("an operator has disowned it"),
            Self::OthersDisk(disk) => write!(f, "its note lists a disk of another instance, {disk}"),
            Self::IdTaken(host) => write!(f, "another domain is that instance, on {host}"),
            Self::UuidTaken(id) => write!(f, "its UUID is that of instance {id}"),
            Self::AddressTaken(address, id) => write!(f, "its address {address} is that of instance {id}"),
            Self::Half => f.write_str("its note says that it is half made or half deleted"),
            Self::Moving(host) => write!(f, "its note says that it is being moved to {host}"),
            Self::HostDropped(host) => write!(f, "the definition has no host {host}"),
        }
    }
}

/// The stranger that says it is instance `id`, on `host` if that is given, as far as it may be taken in.
///
/// # Errors
/// Why it may not be.
pub fn adoption(s: Situation<'_>, id: InstanceId, host: Option<&Label>) -> Result<Adoption, Refused> {
    let odd = &s.inventory.odd;
    let strangers: Vec<&Stranger> = (odd.strangers.iter())
        .filter(|stranger| stranger.id == Some(id) && host.is_none_or(|h| *h == stranger.host))
        .collect();
    let stranger = match strangers.as_slice() {
        [] => return Err(Refused::NoStranger),
        [one] => *one,
        several => {
            let hosts = several.iter().map(|s| s.host.clone()).collect();
            return Err(Refused::Several(hosts));
        }
    };
    let places: Vec<Label> = (odd.strangers.iter())
        .filter(|other| other.uuid == stranger.uuid)
        .map(|other| other.host.clone())
        .collect();
    if places.len() > 1 {
        return Err(Refused::Twice(places));
    }
    let name = instance_name(&s.set.name, id);
    match stranger.why {
        Strangeness::NoNote | Strangeness::Garbled => return Err(Refused::NoNote(stranger.name.clone())),
        Strangeness::Disowned => return Err(Refused::Disowned(stranger.uuid)),
        Strangeness::Renamed | Strangeness::Copied | Strangeness::Beyond | Strangeness::Forgotten
            if stranger.name != name =>
        {
            return Err(Refused::Renamed {
                is: stranger.name.clone(),
                host: stranger.host.clone(),
            });
        }
        _ => {}
    }
    let is_it = |(at, i): &(&Label, &Instance)| **at == stranger.host && i.uuid == stranger.uuid;
    let (_, instance) = odd.aside().find(is_it).ok_or(Refused::NoStranger)?;
    may_be_taken_in(s.record, instance, stranger.why)?;
    let of_host = s.set.hosts().find(|(_, h)| h.name == stranger.host);
    let (fault_domain, _) = of_host.ok_or_else(|| Refused::HostDropped(stranger.host.clone()))?;
    Ok(Adoption {
        host: stranger.host.clone(),
        fault_domain: fault_domain.clone(),
        instance: instance.clone(),
        why: stranger.why,
    })
}

/// Whether an instance may become the record's own without anything being there twice.
///
/// # Errors
/// Why it may not.
pub fn may_be_taken_in(record: &Record, instance: &Instance, why: Strangeness) -> Result<(), Refused> {
    let id = instance.id;
    if let Some(known) = record.known.get(&id)
        && (known.uuid != instance.uuid || why != Strangeness::Elsewhere)
    {
        return Err(Refused::IdTaken(known.host.clone()));
    }
    if let Some(given_up) = record.written_off.get(&id) {
        return Err(Refused::IdTaken(given_up.host.clone()));
    }
    if let Some(other) = record.id_of(instance.uuid).filter(|other| *other != id) {
        return Err(Refused::UuidTaken(other));
    }
    if let Some(disk) = instance.anothers_disk() {
        return Err(Refused::OthersDisk(disk.to_owned()));
    }
    match instance.meta.phase {
        Phase::Ready | Phase::Changing => {}
        Phase::Creating | Phase::Deleting => return Err(Refused::Half),
    }
    if let Some(to) = &instance.meta.moving_to {
        return Err(Refused::Moving(to.clone()));
    }
    let its: BTreeSet<Ipv4Addr> = instance.meta.addresses.iter().flatten().copied().collect();
    let others = (record.known.iter().map(|(other, k)| (other, &k.addresses)))
        .chain(record.written_off.iter().map(|(other, w)| (other, &w.addresses)));
    for (other, addresses) in others.filter(|(other, _)| **other != id) {
        if let Some(address) = addresses.iter().flatten().find(|a| its.contains(a)) {
            return Err(Refused::AddressTaken(*address, *other));
        }
    }
    Ok(())
}

impl Adoption {
    /// The capacity that the set needs with it, so that nothing is deleted for it.
    pub fn capacity(&self, record: &Record) -> u32 {
        let others = (record.known.iter())
            .filter(|(id, known)| known.confirmed && **id != self.instance.id)
            .count();
        let needed = u32::try_from(others + 1).unwrap_or(u32::MAX);
        record.capacity.max(needed)
    }

    /// Writes it into the record, asked for by `request`.
    pub fn note(&self, record: &mut Record, request: &Request) {
        record.ask_for(self.capacity(record), || request.clone());
        record.take_in(&self.instance, &self.host);
        let id = self.instance.id;
        if let Some(known) = record.known.get_mut(&id) {
            known.fault_domain.clone_from(&self.fault_domain);
        }
        record.warrants.withdraw(&self.host, id);
    }

    /// The step that writes its note anew.
    pub fn step(&self, s: Situation<'_>) -> Step {
        Step {
            host: self.host.clone(),
            action: Action::Renote {
                instance: reference(s, &self.instance),
                fault_domain: self.fault_domain.clone(),
            },
            why: "an operator has taken it in".into(),
        }
    }
}

/// How a domain is named whose note lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// By the instance that it says it is.
    Id(InstanceId),
    /// By its UUID.
    Uuid(Uuid),
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "instance {id}"),
            Self::Uuid(uuid) => write!(f, "UUID {uuid}"),
        }
    }
}

/// A domain whose note may be a lie, or was said to be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub host: Label,
    /// Whether it counts so far: the record has it, and its note was written under a later record.
    pub is_member: bool,
}

/// Domains that `named` may mean, on `host` if that is given: those that an operator has disowned already, or else those that
/// he may.
pub fn suspects(s: Situation<'_>, named: Named, host: Option<&Label>, disowned: bool) -> Vec<Suspect> {
    let odd = &s.inventory.odd;
    let is_meant = |id: Option<InstanceId>, uuid: Uuid, on: &Label| {
        let is_named = match named {
            Named::Id(meant) => id == Some(meant),
            Named::Uuid(meant) => uuid == meant,
        };
        is_named && host.is_none_or(|h| h == on)
    };
    let strangers = (odd.strangers.iter())
        .filter(|other| (other.why == Strangeness::Disowned) == disowned)
        .filter(|other| is_meant(other.id, other.uuid, &other.host))
        .map(|other| Suspect {
            uuid: other.uuid,
            name: other.name.clone(),
            host: other.host.clone(),
            is_member: false,
        });
    let newer = odd.newer.iter().filter(|_| !disowned).filter_map(|sight| {
        let seen = s.inventory.host(&sight.host)?.seen()?;
        let instance = seen.instances.iter().find(|i| i.id == sight.id)?;
        is_meant(Some(sight.id), instance.uuid, &sight.host).then(|| Suspect {
            uuid: instance.uuid,
            name: instance.name.clone(),
            host: sight.host.clone(),
            is_member: true,
        })
    });
    strangers.chain(newer).collect()
}

#[cfg(test)]
mod tests;
