//! Whose a domain is. The record says what lives; a note is evidence. Of everything that looks like an instance of the set only
//! members count: a domain whose id and UUID the record lists, on the host that the record names. Everything else is told, and
//! nothing is done to it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::inventory::{Instance, Inventory, Phase, Power, View};
use crate::names::{InstanceId, Label, instance_name};
use crate::record::{Known, Record};
use crate::warrants::{Cause, Warrant};

/// What looks like the set's and is no member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Odd {
    /// Instances that are there twice.
    pub doubles: Vec<Double>,
    /// Domains that say or seem to be of the set, and are not.
    pub strangers: Vec<Stranger>,
    /// Members that are on another host than the record says, because somebody has moved them.
    pub moved: Vec<Moved>,
    /// Members whose note was written under a record that this one knows nothing of: the record is old, or was forked.
    pub newer: Vec<Sight>,
    /// Hosts of the set that are one libvirtd under two names: then nothing may be changed on any host.
    pub twins: Vec<Twins>,
    /// Members whose note is older than the last that was written: the domain was restored or reverted.
    pub older: Vec<Sight>,
    /// Instances that were taken out of their hosts' lists for one of these reasons, with the host of each.
    #[serde(skip)]
    aside: Vec<(Label, Instance)>,
}

/// Two entries of a definition that are one libvirtd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twins {
    /// One name of it.
    pub first: Label,
    /// Another.
    pub second: Label,
}

/// An instance somewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sight {
    /// Which.
    pub id: InstanceId,
    /// Where.
    pub host: Label,
}

/// One UUID that was seen more than once, though nothing of the kind is under way. It counts once, and nothing is done to
/// either copy. Under another name it was seen twice as well, if the one that has the instance's name is not where the record
/// says: that one may be the copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Double {
    /// Which instance.
    pub id: InstanceId,
    /// Where, each with whether it runs there.
    pub places: Vec<Place>,
}

/// One copy of an instance that is there twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Where.
    pub host: Label,
    /// Whether it runs there, as far as it is seen.
    pub runs: bool,
    /// Whether the host can't be seen: the copy was there when it was seen last ([`Record::copies`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_hidden: bool,
    /// What its domain is called there, if not as the instance: then it is a stranger as well, and stays one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub called: Option<String>,
}

impl Place {
    /// A copy with the instance's name.
    fn of((host, power): &(Label, Power)) -> Self {
        Self {
            host: host.clone(),
            runs: runs(*power),
            is_hidden: false,
            called: None,
        }
    }

    /// Whether the domain has the instance's name there.
    pub const fn has_its_name(&self) -> bool {
        self.called.is_none()
    }
}

/// A member that somebody has moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Which.
    pub id: InstanceId,
    /// The host that the record names.
    pub from: Label,
    /// The host it is on.
    pub to: Label,
}

/// A domain that has the name or the UUID of an instance, or a note of the set, and is no member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranger {
    /// Where.
    pub host: Label,
    /// The domain's name.
    pub name: String,
    /// The domain's UUID.
    pub uuid: Uuid,
    /// The instance that it says it is, or whose UUID it has.
    pub id: Option<InstanceId>,
    /// Whether it runs.
    pub runs: bool,
    /// Addresses in its note: nobody gets them as long as it is there.
    pub addresses: Vec<Ipv4Addr>,
    /// Why it is none.
    pub why: Strangeness,
    /// Whether nobody can take this one in: its instance lives elsewhere, or its UUID was seen more than once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_contested: bool,
}

/// Why a domain is no member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strangeness {
    /// Its note is that of an instance which lives under another UUID: copied or forged.
    Copied,
    /// It has the UUID of an instance, and another name: an operator keeps it under that.
    Renamed,
    /// It has the UUID of an instance, and no note of the set.
    NoNote,
    /// It has a note of the set, or of nobody knows which, that can't be read: its id has too many digits, say.
    Garbled,
    /// The record knew such an id once, and knows it no more.
    Forgotten,
    /// The record has not given out its id yet: the record is old, or the note lies.
    Beyond,
    /// An operator has said that its note lies.
    Disowned,
    /// It is not where the record says, and that host can't be seen: it may be there as well.
    Elsewhere,
}

impl Odd {
    /// Whether notes say that the record is old or was forked: then nothing may be changed on any host.
    pub fn is_record_old(&self) -> bool {
        !self.newer.is_empty() || self.strangers.iter().any(|s| s.why == Strangeness::Beyond)
    }

    /// Whether the instance is there twice.
    pub fn is_double(&self, id: InstanceId) -> bool {
        self.doubles.iter().any(|d| d.id == id)
    }

    /// Whether there is nothing odd.
    pub fn is_empty(&self) -> bool {
        self.doubles.is_empty()
            && self.strangers.is_empty()
            && self.moved.is_empty()
            && self.newer.is_empty()
            && self.twins.is_empty()
            && self.older.is_empty()
    }

    /// Keeps of what is told only what `other` tells as well. What was set aside stays so.
    pub fn keep_what_is_in(&mut self, other: &Self) {
        self.doubles.retain(|d| other.is_double(d.id));
        self.strangers.retain(|s| {
            let is_it = |o: &Stranger| (&o.host, o.uuid) == (&s.host, s.uuid);
            other.strangers.iter().any(is_it)
        });
        self.moved.retain(|m| other.moved.contains(m));
        self.newer.retain(|n| other.newer.contains(n));
        self.older.retain(|o| other.older.contains(o));
    }

    /// The note and the record of an instance say the same from now on.
    pub fn levelled(&mut self, id: InstanceId) {
        self.moved.retain(|moved| moved.id != id);
        self.older.retain(|sight| sight.id != id);
    }

    /// Instances that were set aside, with their hosts: what an operator may have taken in.
    pub fn aside(&self) -> impl Iterator<Item = (&Label, &Instance)> {
        self.aside.iter().map(|(host, instance)| (host, instance))
    }
}

/// What is to become of one that was seen.
enum Judged {
    /// It stays in its host's list.
    Stays,
    /// It is the instance, if it is where it should be.
    IsIt,
    /// It is what was given up, if it is there once.
    GivenUp,
    /// It is none.
    Stranger(Strangeness),
}

/// `is_hidden` says of a host whether it can't be seen.
fn judge(record: &Record, host: &Label, instance: &Instance, is_hidden: impl Fn(&Label) -> bool) -> Judged {
    let (id, uuid) = (instance.id, instance.uuid);
    if instance.meta.store != record.store {
        // Two stores that act on one set: whoever plans stops for it.
        return Judged::Stays;
    }
    if record.disowned.contains(&uuid) {
        return Judged::Stranger(Strangeness::Disowned);
    }
    let has_its_name = instance.name == instance_name(&record.applied.name, id);
    let warrant = record.warrants.of(host, id).filter(|w| w.uuid == uuid);
    if has_its_name && warrant.is_some_and(|w| !is_back(record, instance, w)) {
        return Judged::IsIt;
    }
    if let Some(written_off) = record.written_off.get(&id)
        && (written_off.uuid == uuid || record.may_have_given(id, uuid))
        && has_its_name
    {
        return match written_off.host != *host && is_hidden(&written_off.host) {
            true => Judged::Stranger(Strangeness::Elsewhere),
            false => Judged::GivenUp,
        };
    }
    match record.known.get(&id) {
        Some(_) if record.knows(id, uuid).is_some() && has_its_name => Judged::IsIt,
        Some(_) if record.knows(id, uuid).is_some() => Judged::Stranger(Strangeness::Renamed),
        Some(_) => Judged::Stranger(Strangeness::Copied),
        None if record.may_take_in(instance) => Judged::IsIt,
        // Taken away by hand, and back: under another name, or its own.
        None if record.id_of(uuid) == Some(id) && !has_its_name => Judged::Stranger(Strangeness::Renamed),
        None if record.id_of(uuid) == Some(id) => Judged::Stranger(Strangeness::Forgotten),
        None if record.is_known_uuid(uuid) => Judged::Stranger(Strangeness::Copied),
        None if id >= record.next_id => Judged::Stranger(Strangeness::Beyond),
        None => Judged::Stranger(Strangeness::Forgotten),
    }
}

/// Whether an instance that was seen to have gone as its warrant says is there again and whole: put back from a backup. The
/// warrant has done its work, and whose it is, a person says. What was only about to be made comes late, by a call that was
/// given up: that is to go.
fn is_back(record: &Record, instance: &Instance, warrant: &Warrant) -> bool {
    record.knows(instance.id, instance.uuid).is_none()
        && matches!(instance.meta.phase, Phase::Ready | Phase::Changing)
        && warrant.cause != Cause::UnfinishedCreation
}

/// Tells members from everything else, by `record` alone. What is no member is taken out of its host's list and told in
/// [`Inventory::odd`]. May be done again, with a later record.
pub fn sort_out(record: &Record, inventory: &mut Inventory) {
    let twins = std::mem::take(&mut inventory.odd.twins);
    put_back(inventory);
    let mut odd = Odd {
        twins,
        ..Odd::default()
    };
    let moving = moving(record, inventory);
    let seen: HashSet<Label> = inventory.seen_hosts().into_iter().cloned().collect();
    let names: HashSet<Label> = inventory.hosts.iter().map(|h| h.name.clone()).collect();
    let is_hidden = |host: &Label| names.contains(host) && !seen.contains(host);
    let mut places: BTreeMap<InstanceId, Vec<(Label, Power)>> = BTreeMap::new();
    let mut given_up: BTreeMap<InstanceId, Vec<(Label, Power)>> = BTreeMap::new();
    for host in &mut inventory.hosts {
        let View::Seen(view) = &mut host.view else {
            continue;
        };
        for nameless in &view.nameless {
            odd.strangers.push(Stranger {
                host: host.name.clone(),
                name: nameless.name.clone(),
                uuid: nameless.uuid,
                id: record.id_of(nameless.uuid),
                runs: nameless.runs,
                addresses: Vec::new(),
                why: match (record.disowned.contains(&nameless.uuid), nameless.is_garbled) {
                    (true, _) => Strangeness::Disowned,
                    (_, true) => Strangeness::Garbled,
                    _ => Strangeness::NoNote,
                },
                is_contested: false,
            });
        }
        let mut kept = Vec::with_capacity(view.instances.len());
        for instance in view.instances.drain(..) {
            match judge(record, &host.name, &instance, is_hidden) {
                Judged::Stays => kept.push(instance),
                Judged::IsIt => {
                    let place = (host.name.clone(), instance.power);
                    places.entry(instance.id).or_default().push(place);
                    kept.push(instance);
                }
                Judged::GivenUp => {
                    let place = (host.name.clone(), instance.power);
                    given_up.entry(instance.id).or_default().push(place);
                    kept.push(instance);
                }
                Judged::Stranger(why) => odd.set_aside(&host.name, instance, why),
            }
        }
        view.instances = kept;
    }
    for (id, places) in places {
        // A move holds the one that arrives: where both run, somebody has started a copy.
        let run = places
            .iter()
            .filter(|(_, power)| *power == Power::Running)
            .count();
        let is_held =
            |hosts: &BTreeSet<Label>| run < 2 && places.iter().all(|(host, _)| hosts.contains(host));
        if moving.get(&id).is_some_and(is_held) {
            continue;
        }
        let known = record.known.get(&id);
        // Whoever was seen twice is there twice until the host is seen without it.
        let hidden: Vec<Place> = (record.copies.get(&id).into_iter().flatten())
            .filter(|host| is_hidden(host))
            .map(|host| Place {
                host: host.clone(),
                runs: false,
                is_hidden: true,
                called: None,
            })
            .collect();
        match (&*places, known) {
            ([(host, _)], Some(known)) if *host != known.host => {
                let others = odd.under_other_names(known.uuid);
                if is_hidden(&known.host) {
                    odd.take(inventory, host, id, Some(Strangeness::Elsewhere));
                } else if !others.is_empty() {
                    // Which of them the record means nobody can tell: the one that has its name counts, and is left alone.
                    let places = std::iter::once(Place::of(&places[0])).chain(others).chain(hidden);
                    odd.doubles.push(Double {
                        id,
                        places: places.collect(),
                    });
                } else if !hidden.is_empty() {
                    let places = std::iter::once(Place::of(&places[0])).chain(hidden);
                    odd.doubles.push(Double {
                        id,
                        places: places.collect(),
                    });
                } else if !record.warrants.covers(host, id, known.uuid) {
                    odd.moved.push(Moved {
                        id,
                        from: known.host.clone(),
                        to: host.clone(),
                    });
                }
            }
            ([_], _) if hidden.is_empty() => {}
            (many, _) => odd.settle_double(inventory, id, many, known, hidden),
        }
    }
    for (id, places) in given_up.into_iter().filter(|(_, places)| places.len() > 1) {
        // Which of them it is nobody can tell.
        odd.settle_double(inventory, id, &places, None, Vec::new());
    }
    odd.look_at_epochs(record, inventory);
    odd.contest(record, inventory);
    odd.strangers
        .sort_by(|a, b| (&a.host, &a.name).cmp(&(&b.host, &b.name)));
    inventory.odd = odd;
}

/// What was set aside before is judged anew.
fn put_back(inventory: &mut Inventory) {
    for (host, instance) in std::mem::take(&mut inventory.odd).aside {
        let view = inventory.hosts.iter_mut().find(|h| h.name == host);
        if let Some(View::Seen(view)) = view.map(|h| &mut h.view) {
            view.instances.push(instance);
            view.instances.sort_by_key(|i| i.id);
        }
    }
}

/// Whether a domain of that power is switched on.
const fn runs(power: Power) -> bool {
    !matches!(power, Power::Off | Power::Crashed)
}

/// Instances that a move of ours holds on two hosts, each with those hosts. The record says which; of a move that it does not have,
/// a note on the very host that it names.
fn moving(record: &Record, inventory: &Inventory) -> BTreeMap<InstanceId, BTreeSet<Label>> {
    let mut held: BTreeMap<InstanceId, BTreeSet<Label>> = BTreeMap::new();
    for (id, moved) in &record.moves {
        held.insert(*id, BTreeSet::from([moved.from.clone(), moved.to.clone()]));
    }
    for host in &inventory.hosts {
        for instance in host.seen().into_iter().flat_map(|h| &h.instances) {
            let (id, meta) = (instance.id, &instance.meta);
            let Some(to) = &meta.moving_to else { continue };
            let is_its = meta.store == record.store && record.knows(id, instance.uuid).is_some();
            if is_its && meta.host == host.name && !record.moves.contains_key(&id) {
                held.entry(id)
                    .or_default()
                    .extend([host.name.clone(), to.clone()]);
            }
        }
    }
    held
}

impl Odd {
    fn set_aside(&mut self, host: &Label, instance: Instance, why: Strangeness) {
        self.strangers.push(Stranger {
            host: host.clone(),
            name: instance.name.clone(),
            uuid: instance.uuid,
            id: Some(instance.id),
            runs: runs(instance.power),
            addresses: instance.meta.addresses.iter().flatten().copied().collect(),
            why,
            is_contested: false,
        });
        self.aside.push((host.clone(), instance));
    }

    /// Says of each stranger whether anybody could take it in.
    fn contest(&mut self, record: &Record, inventory: &Inventory) {
        let mut times: BTreeMap<Uuid, usize> = BTreeMap::new();
        for stranger in &self.strangers {
            *times.entry(stranger.uuid).or_default() += 1;
        }
        for stranger in &mut self.strangers {
            let known = stranger.id.and_then(|id| record.known.get(&id));
            let lives = known.is_some_and(|known| known.host != stranger.host)
                || stranger
                    .id
                    .is_some_and(|id| inventory.instances().any(|i| i.id == id));
            let is_held = stranger.id.is_some_and(|id| record.written_off.contains_key(&id));
            stranger.is_contested =
                times[&stranger.uuid] > 1 || is_held || lives && stranger.why != Strangeness::Elsewhere;
        }
    }

    /// Strangers that have that UUID, each under the name that it has.
    fn under_other_names(&self, uuid: Uuid) -> Vec<Place> {
        let of_it = self.strangers.iter().filter(|stranger| stranger.uuid == uuid);
        of_it
            .map(|stranger| Place {
                host: stranger.host.clone(),
                runs: stranger.runs,
                is_hidden: false,
                called: Some(stranger.name.clone()),
            })
            .collect()
    }

    /// Takes a copy out of its host's list; told as a stranger if `why` says so.
    fn take(&mut self, inventory: &mut Inventory, host: &Label, id: InstanceId, why: Option<Strangeness>) {
        let view = inventory.hosts.iter_mut().find(|h| &h.name == host);
        let Some(View::Seen(view)) = view.map(|h| &mut h.view) else {
            return;
        };
        let Some(at) = view.instances.iter().position(|i| i.id == id) else {
            return;
        };
        let instance = view.instances.remove(at);
        match why {
            Some(why) => self.set_aside(host, instance, why),
            None => self.aside.push((host.clone(), instance)),
        }
    }

    /// Of several copies one stays in its host's list and counts: the one that runs, or else the one where the record says.
    fn settle_double(
        &mut self,
        inventory: &mut Inventory,
        id: InstanceId,
        places: &[(Label, Power)],
        known: Option<&Known>,
        hidden: Vec<Place>,
    ) {
        let rank = |(host, power): &&(Label, Power)| {
            (!runs(*power), known.is_none_or(|k| k.host != *host), host.clone())
        };
        let Some((kept, _)) = places.iter().min_by_key(rank) else {
            return;
        };
        for (host, _) in places.iter().filter(|(host, _)| host != kept) {
            self.take(inventory, host, id, None);
        }
        self.doubles.push(Double {
            id,
            places: places.iter().map(Place::of).chain(hidden).collect(),
        });
    }

    fn look_at_epochs(&mut self, record: &Record, inventory: &Inventory) {
        for host in &inventory.hosts {
            for instance in host.seen().into_iter().flat_map(|h| &h.instances) {
                let Some(known) = record.knows(instance.id, instance.uuid) else {
                    continue;
                };
                if instance.meta.store != record.store || self.is_double(instance.id) {
                    continue;
                }
                let sight = || Sight {
                    id: instance.id,
                    host: host.name.clone(),
                };
                match known.age_of(instance.meta.epoch) {
                    Age::Current => {}
                    Age::Older => self.older.push(sight()),
                    Age::Newer => self.newer.push(sight()),
                }
            }
        }
    }
}

/// How old a note is, measured by what the record has had written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// It is the one that was seen last, or one that was ordered since.
    Current,
    /// It is older: the domain was restored or reverted.
    Older,
    /// It was written under a record that this one knows nothing of.
    Newer,
}
