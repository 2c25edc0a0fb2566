//! The world that is played in: hosts, sets and stores, and what a line of a play does to it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use uuid::Uuid;
use vmss::hypervisor::fake::HostAsItIs;
use vmss::names::Label;
use vmss::record::Record;

use crate::scenario::parse::words;
use crate::scenario::theatre::Theatre;

/// The hosts, with the fault domain of each. The last is in no definition at first.
pub const HOSTS: [(&str, &str); 4] = [
    ("kvm1", "rack-a"),
    ("kvm2", "rack-b"),
    ("kvm3", "rack-c"),
    ("kvm4", "rack-c"),
];

/// Which sets there are, and in which stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sets {
    /// One.
    One,
    /// Two in one store.
    Two,
    /// One each in two stores.
    TwoStores,
    /// Of one name, in two stores: whoever comes second is refused.
    OneName,
}

/// What a world is like when it begins.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its sets.
    pub sets: Sets,
    /// How many hosts have their pools in the folder of the first; 0 and 1: none has.
    pub sharing: usize,
    /// Whether instances have a probe, and what is broken is repaired by itself.
    pub repairs: bool,
    /// Whether instances have a data disk.
    pub data: bool,
    /// Instances of each set.
    pub capacity: u32,
}

/// A set, by the definition that is its operator's.
#[derive(Clone, Debug)]
pub struct Managed {
    /// The definition's file.
    pub file: &'static str,
    /// The set.
    pub set: Label,
    /// The store.
    pub store: &'static str,
    /// Names of hosts in the definition.
    pub hosts: Vec<String>,
}

/// A world.
pub struct World {
    /// What it began with.
    pub setting: Setting,
    /// The theatre that it is played in.
    pub theatre: Theatre,
    /// The sets.
    pub managed: Vec<Managed>,
    /// Hosts that are out of sight.
    pub down: BTreeSet<String>,
    /// Hosts whose pool is inactive.
    pub poolless: BTreeSet<String>,
    /// Stores of which there is a backup.
    pub backups: BTreeSet<String>,
    /// Every UUID and MAC that a domain ever had.
    pub ever: HashSet<String>,
    /// What was done and said so far.
    pub told: Vec<String>,
}

/// The host that a name in a definition stands for.
pub fn real(name: &str) -> String {
    name.trim_end_matches("-ip").replace("rack", "kvm")
}

impl World {
    /// A world as it is after the first `create` of each set.
    pub fn new(setting: &Setting) -> Self {
        let set = |file, name, store| Managed {
            file,
            set: Label::new(name).unwrap(),
            store,
            hosts: HOSTS[..3].iter().map(|(host, _)| (*host).to_owned()).collect(),
        };
        let first = set("web.toml", "web", "state.db");
        let managed = match setting.sets {
            Sets::One => vec![first],
            Sets::Two => vec![first, set("db.toml", "db", "state.db")],
            Sets::TwoStores => vec![first, set("db.toml", "db", "other.db")],
            Sets::OneName => vec![first, set("other.toml", "web", "other.db")],
        };
        let mut world = Self {
            setting: setting.clone(),
            theatre: Theatre::in_memory(),
            managed,
            down: BTreeSet::new(),
            poolless: BTreeSet::new(),
            backups: BTreeSet::new(),
            ever: HashSet::new(),
            told: Vec::new(),
        };
        for (host, domain) in HOSTS {
            world.prepare(&format!("host {domain} {host}"));
            let renamed = host.replace("kvm", "rack");
            world.prepare(&format!("alias {host} {renamed}"));
            world.prepare(&format!("alias {host} {host}-ip"));
        }
        for (guest, _) in &HOSTS[..setting.sharing.min(3)][1.min(setting.sharing)..] {
            world.prepare(&format!("shares kvm1 {guest}"));
        }
        for at in 0..world.managed.len() {
            world.define(at);
        }
        world
    }

    fn prepare(&mut self, line: &str) {
        let (exit, _, said) = self.theatre.command(line);
        assert_eq!(exit, 0, "{line}: {said}");
    }

    /// Writes the definition of a set anew.
    fn define(&self, at: usize) {
        let managed = &self.managed[at];
        let mut text = format!(
            "name = \"{}\"\ncapacity = {}\n[image]\nsource = \"image.raw\"\n[instance]\nmemory = \"512 MiB\"\n\
             [[instance.networks]]\nbridge = \"br0\"\n",
            managed.set, self.setting.capacity
        );
        if self.setting.data {
            text += "[[instance.data_disks]]\nname = \"data\"\nsize = \"1 GiB\"\n";
        }
        if self.setting.repairs {
            text += "[health]\nprobe = \"agent\"\n[repair]\nenabled = true\nhost_lost_after = \"10m\"\n";
        }
        let mut domains: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for name in &managed.hosts {
            let real = real(name);
            let (_, domain) = HOSTS.iter().find(|(host, _)| *host == real).unwrap();
            // A host that is renamed in the definition is reached as before; an alias is another way to it.
            let way = if name.ends_with("-ip") { name } else { &real };
            let entry = format!("{{ name = \"{name}\", uri = \"qemu+ssh://{way}/system\" }}");
            domains.entry(domain).or_default().push(entry);
        }
        for (domain, hosts) in domains {
            text += &format!(
                "[[fault_domains]]\nname = \"{domain}\"\nhosts = [{}]\n",
                hosts.join(", ")
            );
        }
        std::fs::write(self.theatre.folder().join(managed.file), text).unwrap();
    }

    /// The record of a set, if there is one.
    pub fn record(&self, managed: &Managed) -> Option<Record> {
        let found = self.theatre.store(managed.store).get(&managed.set).unwrap();
        found.map(|(record, _)| record)
    }

    /// What was given up when the set ended, if it has.
    pub fn abandoned(&self, managed: &Managed) -> Option<Record> {
        self.theatre.store(managed.store).abandoned(&managed.set).unwrap()
    }

    /// Every host as it is.
    pub fn hosts(&self) -> Vec<HostAsItIs> {
        self.theatre.stage.fleet.as_it_is()
    }

    /// The set that a command line means.
    pub fn meant(&self, args: &[String]) -> Managed {
        let file = args.iter().skip_while(|a| *a != "-f").nth(1);
        let found = self.managed.iter().find(|m| file.is_some_and(|f| f == m.file));
        found.expect("every command names a definition").clone()
    }

    /// Runs vmss.
    pub fn vmss(&mut self, args: &[String]) -> (u8, String) {
        let store = self.meant(args).store;
        self.theatre.use_store(store);
        let (exit, stdout, stderr) = match args.iter().position(|a| a == "run") {
            Some(_) => crate::controller::run(&self.theatre, args),
            None => self.theatre.vmss(args),
        };
        let text = format!("{stdout}{stderr}");
        self.told
            .push(format!("> vmss {}: {exit}\n{text}", args.join(" ")));
        (exit, text)
    }

    /// Does what somebody else does, as a line of a play says it.
    pub fn other(&mut self, line: &str) {
        let words = words(line).unwrap();
        let parts: Vec<&str> = words.iter().map(String::as_str).collect();
        self.told.push(line.to_owned());
        match *parts.as_slice() {
            ["hosts", file, ref hosts @ ..] => {
                let at = self.managed.iter().position(|m| m.file == file).unwrap();
                self.managed[at].hosts = hosts.iter().map(|h| (*h).to_owned()).collect();
                return self.define(at);
            }
            [verb @ ("backup-store" | "restore-store"), store] => {
                self.theatre.use_store(store);
                if verb == "restore-store" && !self.backups.contains(store) {
                    return;
                }
                self.backups.insert(store.to_owned());
                return self.prepare(verb);
            }
            ["kill" | "power-cut", host] => _ = self.down.insert(host.to_owned()),
            ["heal" | "reboot" | "reinstall", host, ..] => {
                self.down.remove(host);
                self.poolless.remove(host);
            }
            ["pool-off", host] => _ = self.poolless.insert(host.to_owned()),
            ["pool-on", host] => _ = self.poolless.remove(host),
            _ => {}
        }
        let (exit, _, said) = self.theatre.command(line);
        if exit != 0 {
            self.told.push(format!("  (it did not go: {said})"));
        }
    }

    /// Takes note of every UUID and MAC there is.
    pub fn remember(&mut self) {
        for host in self.hosts() {
            for domain in host.domains {
                self.ever.insert(domain.uuid.to_string());
                self.ever.extend(domain.macs);
            }
        }
    }

    /// Whether a UUID or MAC was ever there.
    pub fn knew(&self, what: &str) -> bool {
        self.ever.contains(what)
    }

    /// Another process begins, if one was killed.
    pub fn revive(&self) {
        self.theatre.stage.fleet.revive();
    }

    /// Machines of a record's hosts, up or down.
    pub fn hosts_of(&self, record: &Record) -> BTreeSet<String> {
        record
            .applied
            .hosts()
            .map(|(_, h)| real(h.name.as_str()))
            .collect()
    }

    /// Those of them that can be seen.
    pub fn seen_of(&self, record: &Record) -> BTreeSet<String> {
        let mut all = self.hosts_of(record);
        all.retain(|host| !self.down.contains(host));
        all
    }

    /// The fleet.
    pub fn fleet(&self) -> &Arc<vmss::hypervisor::fake::Fleet> {
        &self.theatre.stage.fleet
    }

    /// How a failure is told: what was wrong, and everything up to it.
    pub fn wrong(&self, what: &str) -> String {
        format!("{what}\nin {:?}:\n{}", self.setting, self.told.join("\n"))
    }
}

/// Domains that a record's holder may act on, by host and name: those that the record lists, which are there once.
pub fn touchable(
    record: &Record,
    seen: &BTreeSet<String>,
    hosts: &[HostAsItIs],
) -> BTreeSet<(String, String)> {
    let set = &record.applied.name;
    let name = |id: &vmss::names::InstanceId| vmss::names::instance_name(set, *id);
    let lives = record.known.iter().map(|(id, k)| (k.uuid, name(id)));
    let goes = (record.warrants.instances.values().flatten()).map(|(id, w)| (w.uuid, name(id)));
    let lost = record.written_off.iter().map(|(id, w)| (w.uuid, name(id)));
    let listed: BTreeSet<(Uuid, String)> = lives.chain(goes).chain(lost).collect();
    let mut places: BTreeMap<Uuid, Vec<(String, String)>> = BTreeMap::new();
    for host in hosts.iter().filter(|h| seen.contains(&h.name)) {
        for domain in &host.domains {
            // One that has lost its note is a stranger.
            if domain.meta.is_some() && listed.contains(&(domain.uuid, domain.name.clone())) {
                let place = (host.name.clone(), domain.name.clone());
                places.entry(domain.uuid).or_default().push(place);
            }
        }
    }
    let moving: BTreeSet<Uuid> = (record.moves.keys())
        .filter_map(|id| Some(record.known.get(id)?.uuid))
        .collect();
    (places.into_iter())
        .filter(|(uuid, places)| places.len() == 1 || moving.contains(uuid))
        .flat_map(|(_, places)| places)
        .collect()
}
