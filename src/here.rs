//! What is around the machine on which vmss runs: its own addresses, what host names mean, and which addresses other sets of
//! the store have.

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::addresses::{OffLimits, Other, Owner};
use crate::hosturi;
use crate::load_balancer::{AdminSocket, Bind, LoadBalancer, Run};
use crate::model::Nic;
use crate::names::{InstanceId, Label};
use crate::ranges;
use crate::scaleset::ScaleSet;
use crate::store::Store;

/// The machine on which vmss runs. A test has one of its own.
pub trait Here: Send + Sync {
    /// Addresses of its network cards, the loopback ones too.
    fn addresses(&self) -> Vec<IpAddr>;

    /// What names of hosts mean, as far as that is known within two seconds. An address means itself.
    fn resolve(&self, names: &[String]) -> BTreeMap<String, Vec<IpAddr>>;
}

/// Longest time that a look waits for names.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a name means what it meant.
const KEPT: Duration = Duration::from_secs(5 * 60);

/// How long a name that meant nothing is not asked for again.
const UNKNOWN_KEPT: Duration = Duration::from_secs(60);

/// The real one.
#[derive(Default)]
pub struct ThisMachine {
    names: Arc<Names>,
}

#[derive(Default)]
struct Names {
    all: Mutex<HashMap<String, Name>>,
    changed: Condvar,
}

#[derive(Default)]
struct Name {
    /// What it meant last.
    means: Vec<IpAddr>,
    /// When that was found.
    found: Option<Instant>,
    /// Whether a thread asks for it: a resolver that hangs is not asked a second time meanwhile.
    is_asked: bool,
}

impl Name {
    fn is_due(&self) -> bool {
        let kept = if self.means.is_empty() { UNKNOWN_KEPT } else { KEPT };
        !self.is_asked && self.found.is_none_or(|found| found.elapsed() >= kept)
    }
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Name>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Here for ThisMachine {
    fn addresses(&self) -> Vec<IpAddr> {
        interface_addresses()
    }

    fn resolve(&self, names: &[String]) -> BTreeMap<String, Vec<IpAddr>> {
        resolve(&self.names, names, PATIENCE, |name| {
            let found = (name, 0).to_socket_addrs();
            found.map_or_else(|_| Vec::new(), |all| all.map(|a| a.ip()).collect())
        })
    }
}

/// Asks for each name on a thread of its own, for a resolver may take as long as it likes.
fn resolve(
    known: &Arc<Names>,
    names: &[String],
    patience: Duration,
    ask: impl Fn(&str) -> Vec<IpAddr> + Clone + Send + 'static,
) -> BTreeMap<String, Vec<IpAddr>> {
    let literal = |name: &String| name.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    let mut means: BTreeMap<String, Vec<IpAddr>> = (names.iter())
        .filter_map(|name| Some((name.clone(), vec![literal(name)?])))
        .collect();
    let names: Vec<&String> = names.iter().filter(|name| literal(name).is_none()).collect();
    let mut all = known.lock();
    for name in &names {
        let entry = all.entry((*name).clone()).or_default();
        if !entry.is_due() {
            continue;
        }
        let (known, ask, name) = (Arc::clone(known), ask.clone(), (*name).clone());
        let work = move || {
            let found = ask(&name);
            let mut all = known.lock();
            let entry = all.entry(name).or_default();
            if !found.is_empty() || entry.found.is_none() {
                entry.means = found;
            }
            (entry.found, entry.is_asked) = (Some(Instant::now()), false);
            known.changed.notify_all();
        };
        // Without a thread it means what it meant.
        entry.is_asked = thread::Builder::new().name("name".to_owned()).spawn(work).is_ok();
    }
    // Only a name that never meant anything is waited for.
    let is_awaited = |all: &mut HashMap<String, Name>| {
        (names.iter()).any(|name| all.get(*name).is_some_and(|n| n.is_asked && n.found.is_none()))
    };
    let waited = known.changed.wait_timeout_while(all, patience, is_awaited);
    let (all, _) = waited.unwrap_or_else(PoisonError::into_inner);
    means.extend(
        names
            .iter()
            .filter_map(|name| Some(((*name).clone(), all.get(*name)?.means.clone()))),
    );
    means
}

/// Addresses of this machine's network cards; none if the system does not tell.
fn interface_addresses() -> Vec<IpAddr> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `list` is a place for the answer, which is freed below, once.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut at = list;
    while !at.is_null() {
        // SAFETY: `at` is an entry of the list, which is valid until it is freed; its address is null or a structure of the
        // family that it names.
        unsafe {
            found.extend(address((*at).ifa_addr));
            at = (*at).ifa_next;
        }
    }
    // SAFETY: the list came from getifaddrs, and nothing read from it points there.
    unsafe { libc::freeifaddrs(list) };
    found
}

/// # Safety
/// `of` is null or a valid structure of the family that it names.
unsafe fn address(of: *const libc::sockaddr) -> Option<IpAddr> {
    if of.is_null() {
        return None;
    }
    let whole: *const c_void = of.cast();
    // SAFETY: the caller's promise.
    unsafe {
        match i32::from((*of).sa_family) {
            libc::AF_INET => {
                let of = &*whole.cast::<libc::sockaddr_in>();
                Some(Ipv4Addr::from(u32::from_be(of.sin_addr.s_addr)).into())
            }
            libc::AF_INET6 => {
                let of = &*whole.cast::<libc::sockaddr_in6>();
                Some(Ipv6Addr::from(of.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}

/// How long it counts what other sets have: their records are read, which is not for every look.
const OTHERS_KEPT: SignedDuration = SignedDuration::from_secs(30);

/// What the other sets of a store have, by the store's place.
#[derive(Default)]
pub struct Neighbours(Mutex<HashMap<String, Kept>>);

/// What was read, and when.
type Kept = (Timestamp, Arc<Vec<Neighbour>>);

/// Another set of the store.
#[derive(Clone, Debug)]
struct Neighbour {
    set: Label,
    networks: Vec<Nic>,
    load_balancer: Option<LoadBalancer>,
    /// Addresses with their instances, and the network on which vmss assigned them, if it did.
    addresses: Vec<(IpAddr, InstanceId, Option<String>)>,
}

impl Neighbours {
    fn of(&self, store: &dyn Store, set: &ScaleSet, now: Timestamp) -> Arc<Vec<Neighbour>> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = store.location();
        let kept = lock().get(&place).cloned();
        let others = |all: &[Neighbour]| {
            let mut others = all.iter().filter(|n| n.set != set.name);
            // Where both give addresses out of one range, what each has given out just now is what counts.
            others.all(|n| ranges::overlap(&set.instance.networks, &n.networks).is_none())
        };
        if let Some((at, all)) = &kept
            && (SignedDuration::ZERO..OTHERS_KEPT).contains(&now.duration_since(*at))
            && others(all)
        {
            return Arc::clone(all);
        }
        let Some(all) = read(store) else {
            return kept.map(|(_, all)| all).unwrap_or_default();
        };
        let all = Arc::new(all);
        lock().insert(place, (now, Arc::clone(&all)));
        all
    }
}

/// Every set of a store, and what was given up of those that have ended: its guests may run with their addresses. `None` if that
/// can't be read.
fn read(store: &dyn Store) -> Option<Vec<Neighbour>> {
    let living = store.sets().ok()?.into_iter().map(|set| (set, true));
    let ended = store.ended().ok()?.into_iter().map(|set| (set, false));
    let mut all = Vec::new();
    for (set, lives) in living.chain(ended) {
        let record = match lives {
            true => store.get(&set).map(|found| found.map(|(record, _)| record)),
            false => store.abandoned(&set),
        };
        // One that is gone since, or that can't be read, has none.
        let Ok(Some(record)) = record else { continue };
        let mut addresses = Vec::new();
        let networks = &record.applied.instance.networks;
        let network = |card: usize| networks.get(card).map(|nic| ranges::name(&nic.source).clone());
        let gone = record.written_off.iter().map(|(id, gone)| (id, &gone.addresses));
        let known = record.known.iter().map(|(id, known)| (id, &known.addresses));
        for (id, given) in known.chain(gone) {
            let given = (given.iter().enumerate()).filter_map(|(card, a)| Some((card, (*a)?)));
            addresses.extend(given.map(|(card, a)| (IpAddr::V4(a), *id, network(card))));
        }
        for (id, known) in &record.known {
            addresses.extend(known.reached.iter().map(|a| (a.to_canonical(), *id, None)));
        }
        all.push(Neighbour {
            set,
            networks: record.applied.instance.networks,
            load_balancer: record.applied.load_balancer.filter(|_| lives),
            addresses,
        });
    }
    Some(all)
}

/// Whose addresses there are beside those of the set's instances.
pub fn off_limits(
    here: &dyn Here,
    neighbours: &Neighbours,
    store: &dyn Store,
    set: &ScaleSet,
    now: Timestamp,
) -> OffLimits {
    let mut off_limits = OffLimits::default();
    if set.instance.networks.is_empty() {
        // Nobody is reached, and nothing is given out.
        return off_limits;
    }
    let mut own = |address: IpAddr, owner: &Owner| {
        let entry = off_limits.owners.entry(address.to_canonical());
        entry.or_insert_with(|| owner.clone());
    };
    let names_of = |uri: &str, migration: Option<&String>| -> Vec<String> {
        hosturi::host(uri).into_iter().chain(migration.cloned()).collect()
    };
    let hosts: Vec<(&Label, Vec<String>)> = (set.hosts())
        .map(|(_, host)| (&host.name, names_of(&host.uri, host.migration_address.as_ref())))
        .collect();
    let names: Vec<String> = hosts
        .iter()
        .flat_map(|(_, names)| names.iter().cloned())
        .collect();
    let means = here.resolve(&names);
    for (host, names) in hosts {
        let all = names.iter().filter_map(|name| means.get(name)).flatten();
        all.for_each(|address| own(*address, &Owner::Host(host.clone())));
    }
    let neighbours = neighbours.of(store, set, now);
    let others = || neighbours.iter().filter(|n| n.set != set.name);
    let balancers = others().filter_map(|n| n.load_balancer.as_ref());
    for balancer in set.load_balancer.iter().chain(balancers) {
        listening(balancer).for_each(|address| own(address, &Owner::Balancer));
    }
    for nic in &set.instance.networks {
        let all = nic.gateway.iter().chain(&nic.dns);
        all.for_each(|address| own(IpAddr::V4(*address), &Owner::Network));
    }
    let addresses = here.addresses();
    addresses
        .into_iter()
        .for_each(|address| own(address, &Owner::ThisMachine));
    for neighbour in others() {
        for (address, instance, on) in &neighbour.addresses {
            let other = || Other {
                set: neighbour.set.clone(),
                instance: *instance,
                on: on.clone(),
            };
            let entry = off_limits.others.entry(*address).or_insert_with(other);
            if on.is_some() {
                *entry = other();
            }
        }
    }
    off_limits
}

/// Single addresses on which a load balancer listens.
fn listening(balancer: &LoadBalancer) -> impl Iterator<Item = IpAddr> {
    let binds = balancer.frontends.iter().flat_map(|f| &f.bind);
    let clients = binds.filter_map(|bind| match bind {
        Bind::At(address) => Some(address.ip()),
        Bind::Any(_) => None,
    });
    let commands: Vec<IpAddr> = match &balancer.run {
        Run::Local => Vec::new(),
        Run::Sockets(sockets) => (sockets.iter())
            .filter_map(|socket| match socket {
                AdminSocket::Tcp(address) => Some(address.ip()),
                AdminSocket::Unix(_) => None,
            })
            .collect(),
    };
    clients
        .chain(commands)
        .filter(|address| !address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::plan::testing::{STORE, model};
    use crate::record::{Known, Record};
    use crate::store::memory::Memory;

    /// A machine with one address that knows no name.
    struct Alone;

    impl Here for Alone {
        fn addresses(&self) -> Vec<IpAddr> {
            vec![Ipv4Addr::new(10, 0, 0, 254).into()]
        }
        fn resolve(&self, _: &[String]) -> BTreeMap<String, Vec<IpAddr>> {
            BTreeMap::new()
        }
    }

    #[test]
    fn what_another_set_gave_out_is_known_at_once_where_both_share_a_range() {
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        let set = |name: &str| {
            let text = format!(
                "name = \"{name}\"\n[image]\nsource = \"a\"\n[instance]\nmemory = \"1 GiB\"\n[[instance.networks]]\n\
                 bridge = \"br0\"\naddresses = \"10.0.0.10-10.0.0.19/24\"\ngateway = \"10.0.0.1\"\n\
                 [[fault_domains]]\nname = \"a\"\nhosts = [{{ name = \"kvm1\", uri = \"test:///default\" }}]\n"
            );
            crate::definition::parse(&text, std::path::Path::new("/x.toml")).unwrap()
        };
        let second = |n: i64| Timestamp::from_second(n).unwrap();
        let (store, neighbours) = (Memory::new(STORE), Neighbours::default());
        let (web, name) = (set("web"), Label::new("db").unwrap());
        let mut record = Record::new(STORE, set("db"), model(), "/x.toml".into(), second(1));
        let known = |n: u8| Known {
            uuid: uuid::Uuid::from_u128(n.into()),
            epoch: None,
            ordered: Vec::new(),
            is_carried_over: false,
            host: Label::new("kvm1").unwrap(),
            fault_domain: Label::new("a").unwrap(),
            addresses: vec![Some(Ipv4Addr::new(10, 0, 0, n))],
            confirmed: true,
            revision: None,
            reached: vec![at("10.0.0.77")],
            protection: Default::default(),
            stopped: false,
        };
        record.known.insert(InstanceId(1), known(10));
        let version = store.put(&name, &record, None).unwrap();
        let look = |now| off_limits(&Alone, &neighbours, &store, &web, second(now));
        let seen = look(1);
        assert_eq!(seen.owners[&at("10.0.0.254")], Owner::ThisMachine);
        assert_eq!(seen.owners[&at("10.0.0.1")], Owner::Network);
        assert_eq!(seen.others[&at("10.0.0.10")].on.as_deref(), Some("br0"));
        assert_eq!(seen.others[&at("10.0.0.77")].on, None);
        record.known.insert(InstanceId(2), known(11));
        store.put(&name, &record, Some(version)).unwrap();
        assert!(
            look(1).others.contains_key(&at("10.0.0.11")),
            "both hand out of one range: what was just given counts"
        );
    }

    #[test]
    fn this_machine_has_at_least_its_own_loopback_address() {
        let all = interface_addresses();
        assert!(all.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "{all:?}");
    }

    #[test]
    fn an_address_means_itself_and_nobody_is_asked_for_it() {
        let names = ["10.0.0.1", "[fd00::1]", "fd00::2"].map(str::to_owned);
        let means = resolve(&Arc::default(), &names, Duration::ZERO, |_| {
            unreachable!("no name")
        });
        let expected: [IpAddr; 3] = ["10.0.0.1", "fd00::1", "fd00::2"].map(|a| a.parse().unwrap());
        assert_eq!(means.into_values().flatten().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_resolver_that_hangs_holds_nobody_up_and_is_not_asked_again_meanwhile() {
        let (known, asked) = (Arc::<Names>::default(), Arc::new(AtomicUsize::new(0)));
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let names = ["kvm1".to_owned()];
        let address: IpAddr = Ipv4Addr::new(10, 0, 0, 7).into();
        let ask = {
            let asked = Arc::clone(&asked);
            move |_: &str| {
                asked.fetch_add(1, Ordering::SeqCst);
                let _ = gate.lock().unwrap().recv();
                vec![address]
            }
        };
        for _ in 0..3 {
            let means = resolve(&known, &names, Duration::from_millis(20), ask.clone());
            assert_eq!(means["kvm1"], Vec::<IpAddr>::new());
        }
        drop(release);
        let means = resolve(&known, &names, Duration::from_secs(30), ask.clone());
        assert_eq!(means["kvm1"], [address]);
        resolve(&known, &names, Duration::from_secs(30), ask);
        assert_eq!(asked.load(Ordering::SeqCst), 1, "what was found is kept");
    }
}
