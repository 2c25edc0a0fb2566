//! Placement: which host each new instance goes to.
//!
//! Hard rules first: the host was seen, has not failed in this run, and has room in memory, virtual CPUs and pool.
//! Then the ranking: the fault domain with the fewest instances of the set, in it the least loaded host; ties in
//! declared order. New instances are alike, so taking the best place for each in turn is the best for all (the
//! property test compares it with every possible assignment). One heap of domains, one heap of hosts in each: n log n.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::addresses::Other;
use crate::inventory::{HostSeen, Protection};
use crate::model::{Clone as CloneMode, Model};
use crate::names::{InstanceId, Label, drawn_uuid, mac_address};
use crate::plan::action::{Action, InstanceSpec, Step};
use crate::plan::report::Wait;
use crate::plan::{Fleet, Situation, pool};
use crate::ranges;
use crate::record::Revision;
use crate::scaleset::{Placement, Spread};
use crate::units::Bytes;

/// Room on one host, in instances of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// How many more fit.
    pub instances: u64,
    /// What runs out first, for the operator.
    pub limit: String,
}

/// How many instances of `model` a host has room for.
pub(crate) fn room(host: &HostSeen, model: &Model, rules: &Placement) -> Room {
    let memory_left = host
        .memory
        .saturating_sub(rules.memory_reserve)
        .saturating_sub(host.used_memory);
    let by_memory = memory_left.0 / model.memory.0.max(1);

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "validated finite and positive"
    )]
    let vcpu_limit = (f64::from(host.cpus) * rules.vcpu_overcommit).floor() as u64;
    let vcpus_left = vcpu_limit.saturating_sub(u64::from(host.used_vcpus));
    let by_vcpus = vcpus_left / u64::from(model.vcpus.max(1));

    // Thin volumes grow into the reserve; a full clone takes its size at once, and so does an image not yet there.
    let image = if host.bases.contains(&model.image.digest) {
        Bytes(0)
    } else {
        model.image.file_size
    };
    let pool_left = host.pool_free.saturating_sub(rules.pool_reserve);
    let by_pool = match (pool_left < image || pool_left.0 == 0, model.clone) {
        (true, _) => 0,
        (false, CloneMode::Linked) => u64::MAX,
        (false, CloneMode::Full) => pool_left.saturating_sub(image).0 / model.disk.0.max(1),
    };

    let instances = by_memory.min(by_vcpus).min(by_pool);
    let limit = if instances == by_memory {
        format!(
            "memory: {memory_left} left of {} beyond the reserve of {}, an instance needs {}",
            host.memory, rules.memory_reserve, model.memory
        )
    } else if instances == by_vcpus {
        format!(
            "vcpus: {vcpus_left} left of {vcpu_limit}, an instance needs {}",
            model.vcpus
        )
    } else {
        format!(
            "pool: {} free, {} of it reserved, needs {}",
            host.pool_free,
            rules.pool_reserve,
            if model.clone == CloneMode::Full {
                image + model.disk
            } else {
                image
            }
        )
    };
    Room { instances, limit }
}

/// How loaded a host is, in millionths of the scarcer of memory and virtual CPUs.
fn load(host: &HostSeen, rules: &Placement, added: u64, model: &Model) -> u64 {
    let memory = host.used_memory + model.memory * added;
    let of_memory = u128::from(memory.0) * 1_000_000 / u128::from(host.memory.0.max(1));
    let vcpus = f64::from(host.used_vcpus) + f64::from(model.vcpus) * added as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a validated positive limit"
    )]
    let of_vcpus = (vcpus * 1_000_000.0 / (f64::from(host.cpus) * rules.vcpu_overcommit).max(1.0)) as u128;
    u64::try_from(of_memory.max(of_vcpus)).unwrap_or(u64::MAX)
}

/// One host that may take instances.
struct Candidate<'a> {
    name: &'a Label,
    seen: &'a HostSeen,
    room: u64,
    taken: u64,
}

/// One fault domain's hosts, the least loaded on top.
struct Rack<'a> {
    hosts: Vec<Candidate<'a>>,
    heap: BinaryHeap<Reverse<(u64, usize)>>,
}

/// What is to be placed.
#[derive(Clone, Debug)]
pub(crate) struct Order<'a> {
    /// What it is made of.
    pub revision: &'a Revision,
    /// How many.
    pub count: usize,
    /// The only fault domain it may go to, by its index: one instance takes the place of another there.
    pub within: Option<usize>,
    /// The host from which instances are moved as they run: a host whose pool is in one folder with that one's can't take
    /// them, for their disks would be moved onto themselves.
    pub moved_from: Option<&'a Label>,
    /// Why, for the steps.
    pub why: Arc<str>,
}

/// Chooses hosts: index of domain and name of host for each instance, in order of choice. With strict spread it is all or
/// nothing, unless the domain is given; with best effort, as many as there is room for.
pub(crate) fn choose<'a>(
    s: Situation<'a>,
    counts: &[usize],
    order: &Order<'_>,
) -> (Vec<(usize, &'a Label)>, Option<Wait>) {
    let model = &order.revision.model;
    let count = order.count;
    let rules = &s.set.placement;
    // One that takes another's place makes nothing less even.
    let strict = rules.spread == Spread::Strict && order.within.is_none();
    let mut reasons: Vec<(Label, String)> = Vec::new();
    let mut racks: Vec<Rack<'a>> = Vec::with_capacity(s.set.fault_domains.len());
    let views: std::collections::HashMap<&Label, &crate::inventory::HostView> =
        s.inventory.hosts.iter().map(|h| (&h.name, h)).collect();
    for (index, domain) in s.set.fault_domains.iter().enumerate() {
        let mut rack = Rack {
            hosts: Vec::new(),
            heap: BinaryHeap::new(),
        };
        let hosts = domain
            .hosts
            .iter()
            .filter(|_| order.within.is_none_or(|only| only == index));
        for host in hosts {
            let Some(seen) = views.get(&host.name).and_then(|h| h.seen()) else {
                reasons.push((host.name.clone(), "not seen".to_owned()));
                continue;
            };
            if seen.pool_unseen.is_some() {
                reasons.push((host.name.clone(), "its pool can't be seen".to_owned()));
                continue;
            }
            if let Some(cordon) = s.record.cordons.get(&host.name) {
                reasons.push((host.name.clone(), format!("cordoned by {}", cordon.by)));
                continue;
            }
            if s.experience.shunned.contains_key(&host.name) {
                reasons.push((host.name.clone(), "failed in this run".to_owned()));
                continue;
            }
            if let Some(from) = order.moved_from
                && pool::share(s, from, &host.name)
            {
                reasons.push((host.name.clone(), format!("its pool is in one folder with that of {from}: without --migrate they are made anew there")));
                continue;
            }
            let room = room(seen, model, rules);
            reasons.push((host.name.clone(), room.limit));
            if room.instances > 0 {
                rack.heap
                    .push(Reverse((load(seen, rules, 0, model), rack.hosts.len())));
                rack.hosts.push(Candidate {
                    name: &host.name,
                    seen,
                    room: room.instances,
                    taken: 0,
                });
            }
        }
        racks.push(rack);
    }

    // Domains that can take more, fewest instances first. A domain that is full leaves the heap but still holds
    // strict spread back: `floor` is the smallest count among those that left.
    let mut counts = counts.to_vec();
    let mut floor: Option<(usize, usize)> = None;
    let mut lower = |count: usize, domain: usize| {
        if floor.is_none_or(|(c, _)| count < c) {
            floor = Some((count, domain));
        }
        floor
    };
    let mut at_floor = None;
    let mut open: BinaryHeap<Reverse<(usize, usize)>> = BinaryHeap::new();
    for (i, rack) in racks.iter().enumerate() {
        if rack.heap.is_empty() {
            at_floor = lower(counts[i], i);
        } else {
            open.push(Reverse((counts[i], i)));
        }
    }

    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count {
        let Some(Reverse((have, domain))) = open.pop() else {
            break;
        };
        if strict
            && let Some((least, full)) = at_floor
            && have + 1 > least + rules.max_skew as usize
        {
            let name = s.set.fault_domains[full].name.clone();
            let reason = (s.set.fault_domains[full].hosts.iter())
                .filter_map(|h| reasons.iter().find(|(n, _)| n == &h.name))
                .map(|(n, why)| format!("{n}: {why}"))
                .collect::<Vec<_>>()
                .join("; ");
            let wait = Wait::StrictSpread {
                missing: count,
                domain: name,
                reason,
                max_skew: rules.max_skew,
            };
            return (Vec::new(), Some(wait));
        }
        let rack = &mut racks[domain];
        let Some(Reverse((_, index))) = rack.heap.pop() else {
            continue;
        };
        let host = &mut rack.hosts[index];
        host.taken += 1;
        chosen.push((domain, host.name));
        counts[domain] += 1;
        if host.taken < host.room {
            rack.heap
                .push(Reverse((load(host.seen, rules, host.taken, model), index)));
        }
        if rack.heap.is_empty() {
            at_floor = lower(counts[domain], domain);
        } else {
            open.push(Reverse((counts[domain], domain)));
        }
    }
    let missing = count - chosen.len();
    if missing == 0 {
        return (chosen, None);
    }
    if strict {
        chosen.clear();
    }
    (
        chosen,
        Some(Wait::NoRoom {
            missing,
            hosts: reasons,
        }),
    )
}

/// Adds the steps that make `count` instances, images sent first where they are not yet.
pub(crate) fn scale_out(
    s: Situation<'_>,
    fleet: &Fleet<'_>,
    order: &Order<'_>,
    steps: &mut Vec<Step>,
    waits: &mut Vec<Wait>,
) {
    let (chosen, wait) = choose(s, &fleet.per_domain(s), order);
    if wait.is_some() {
        waits.extend(
            (s.experience.shunned.iter()).map(|(host, error)| Wait::HostShunned {
                host: host.clone(),
                error: error.clone(),
            }),
        );
    }
    waits.extend(wait);

    let revision = order.revision;
    let mut ids = free_ids(s, steps);
    let mut addresses = FreeAddresses::of(s, revision, steps);
    let digest = &revision.model.image.digest;
    let mut sent: BTreeSet<Label> = (steps.iter())
        .filter(|step| matches!(&step.action, Action::PushImage { digest: d } if d == digest))
        .map(|step| step.host.clone())
        .collect();
    steps.reserve(chosen.len());
    for (placed, (domain, host)) in chosen.iter().enumerate() {
        let addresses = match addresses.next() {
            Ok(addresses) => addresses,
            Err(nic) => {
                waits.push(Wait::NoAddress {
                    missing: chosen.len() - placed,
                    nic,
                });
                break;
            }
        };
        if sent.insert((*host).clone())
            && let Some(seen) = s.inventory.host(host).and_then(|h| h.seen())
            && !seen.bases.contains(digest)
        {
            steps.push(Step {
                host: (*host).clone(),
                action: Action::PushImage {
                    digest: digest.clone(),
                },
                why: "instances will be made of it here, and it is not there yet".into(),
            });
        }
        let Some(id) = ids.next() else {
            waits.push(Wait::NoIds);
            break;
        };
        let uuid = drawn_uuid(s.drawn, &s.set.name, id);
        let spec = InstanceSpec {
            set: s.set.name.clone(),
            store: s.record.store,
            id,
            uuid,
            host: (*host).clone(),
            fault_domain: s.set.fault_domains[*domain].name.clone(),
            revision: revision.number,
            model_hash: revision.hash.clone(),
            image: digest.clone(),
            created_at: s.now,
            macs: (0..revision.model.networks.len())
                .map(|nic| mac_address(&s.set.name, id, uuid, nic))
                .collect(),
            addresses,
            protection: if s.set.scale_in.protect_new {
                Protection::ScaleIn
            } else {
                Protection::None
            },
            epoch: s.record.epoch,
        };
        steps.push(Step {
            host: (*host).clone(),
            action: Action::Create(Box::new(spec)),
            why: order.why.clone(),
        });
    }
}

/// Ids from the record's next one upwards, without those of `steps` and those that somebody else's domain has for a name, or a
/// stranger's note names. They end at the highest there is.
fn free_ids(s: Situation<'_>, steps: &[Step]) -> impl Iterator<Item = InstanceId> + use<> {
    let taken = steps
        .iter()
        .filter_map(|step| step.action.created())
        .filter_map(|spec| spec.id.next())
        .max();
    let first = s.record.next_id.max(taken.unwrap_or(s.record.next_id));
    let mut foreign: HashSet<InstanceId> = (s.inventory.hosts.iter())
        .filter_map(|h| h.seen())
        .flat_map(|h| h.foreign.iter().copied())
        .collect();
    foreign.extend(s.inventory.odd.strangers.iter().filter_map(|other| other.id));
    (first.0..=InstanceId::MAX.0)
        .map(InstanceId)
        .filter(move |id| !foreign.contains(id))
}

const fn v4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}

/// Addresses that nobody has, one set for each new instance.
struct FreeAddresses {
    nics: Vec<Option<Box<dyn Iterator<Item = Ipv4Addr>>>>,
}

impl FreeAddresses {
    fn of(s: Situation<'_>, revision: &Revision, steps: &[Step]) -> Self {
        let networks = &revision.model.networks;
        let mut taken: HashSet<Ipv4Addr> = HashSet::new();
        if networks.iter().any(|n| n.addresses.is_some()) {
            taken.extend(s.record.known.values().flat_map(|k| k.addresses.iter().flatten()));
            let given_up = s.record.written_off.values();
            taken.extend(given_up.flat_map(|w| w.addresses.iter().flatten()));
            taken.extend(
                s.inventory
                    .instances()
                    .flat_map(|i| i.meta.addresses.iter().flatten()),
            );
            // As long as a domain is there under another name, its guest may have them.
            let strangers = s.inventory.odd.strangers.iter();
            taken.extend(strangers.clone().flat_map(|other| &other.addresses));
            let departed = strangers.filter_map(|other| s.record.departed.get(&other.id?));
            taken.extend(departed.flat_map(|d| d.addresses.iter().flatten()));
            // What this machine, a host or a gateway has is nobody's to give.
            taken.extend(s.inventory.off_limits.owners.keys().filter_map(v4));
            let planned = steps.iter().filter_map(|step| step.action.created());
            taken.extend(planned.flat_map(|spec| spec.addresses.iter().flatten()));
        }
        let taken = Arc::new(taken);
        let nics = (networks.iter())
            .map(|nic| {
                let taken = Arc::clone(&taken);
                let range = nic.addresses.as_ref()?;
                // Nor what another set's instance was given on the same network.
                let on = ranges::name(&nic.source);
                let is_there = |other: &&Other| other.on.as_ref() == Some(on);
                let others = s.inventory.off_limits.others.iter();
                let given: HashSet<Ipv4Addr> = others
                    .filter(|(_, other)| is_there(other))
                    .filter_map(|(address, _)| v4(address))
                    .collect();
                Some(Box::new(
                    range
                        .iter()
                        .filter(move |a| !taken.contains(a) && !given.contains(a)),
                ) as Box<dyn Iterator<Item = _>>)
            })
            .collect();
        Self { nics }
    }

    /// Addresses for one instance, or the index of the card whose range is used up.
    fn next(&mut self) -> Result<Vec<Option<Ipv4Addr>>, usize> {
        (self.nics.iter_mut().enumerate())
            .map(|(i, nic)| match nic {
                None => Ok(None),
                Some(free) => free.next().map(Some).ok_or(i),
            })
            .collect()
    }
}
