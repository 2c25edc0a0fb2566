//! A set on the fake fleet: it can be brought back to where it was, and says what there is and what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;
use vmss::hypervisor::fake::{Domain, Meter, Snapshot};
use vmss::names::{Label, StoreId};
use vmss::record::Record;
use vmss::rollout::Rollout;
use vmss::store::Store as _;
use vmss::store::sqlite::Sqlite;
use vmss::warrants::Warrants;

use crate::scenario::parse::words;
use crate::scenario::theatre::Theatre;

/// The hosts of every play.
pub const HOSTS: [&str; 3] = ["kvm1", "kvm2", "kvm3"];

/// Everything as it is at some moment: hosts and stores.
pub struct Saved {
    fleet: Snapshot,
    store: Vec<u8>,
}

pub type Place = (String, String);

/// What is to be the same however often vmss was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    capacity: Option<u32>,
    members: usize,
    running: usize,
    cordons: usize,
    disowned: usize,
    revisions: BTreeMap<u32, usize>,
    under_way: Vec<String>,
    /// What is wrong with the fleet ([`vmss::hypervisor::fake::Fleet::audit`]).
    pub wrong: BTreeSet<String>,
}

/// A set on the way, and the stage it is on.
pub struct Play {
    /// The stage.
    pub theatre: Theatre,
    /// Every store that has to do with the set.
    pub stores: Vec<StoreId>,
    /// How often it was brought back to where it was.
    restored: usize,
}

/// The set of every play.
pub fn web() -> Label {
    Label::new("web").unwrap()
}

impl Play {
    /// A stage without hosts.
    pub fn new() -> Self {
        let mut theatre = Theatre::new();
        theatre.drawn = Some(Arc::new(AtomicU64::new(0)));
        Self {
            theatre,
            stores: Vec::new(),
            restored: 0,
        }
    }

    /// Notes which stores have to do with the set: other sets of another one's are none of these.
    pub fn note_stores(&mut self) {
        for name in ["state.db", "other.db"] {
            let path = self.theatre.folder().join(name);
            let is_own = name == self.theatre.store;
            if is_own || path.exists() {
                let store = Sqlite::open(&path).unwrap();
                if is_own || store.get(&web()).unwrap().is_some() {
                    self.stores.push(store.id().unwrap());
                }
            }
        }
    }

    /// Does what a line of a scenario says: its exit code, and what was said.
    pub fn line(&mut self, line: &str) -> (u8, String) {
        let (exit, out, err) = self.theatre.command(line);
        (exit, format!("> {line}: {exit}\n{out}{err}"))
    }

    pub fn must(&mut self, line: &str) {
        let (exit, said) = self.line(line);
        // What is prepared may well be refused in an odd world.
        assert!(exit != 99, "{said}");
    }

    pub fn vmss(&self, args: &str) -> (u8, String) {
        let (exit, out, err) = self.theatre.vmss(&words(args).unwrap());
        (exit, format!("> vmss {args}: {exit}\n{out}{err}"))
    }

    pub fn draw_from(&self, number: u64) {
        self.theatre
            .drawn
            .as_ref()
            .unwrap()
            .store(number, Ordering::Relaxed);
    }

    pub fn record(&self) -> Option<Record> {
        let store = Sqlite::open(&self.store_path()).unwrap();
        store.get(&web()).unwrap().map(|(record, _)| record)
    }

    pub fn store_path(&self) -> PathBuf {
        self.theatre.folder().join(&self.theatre.store)
    }

    pub fn save(&self) -> Saved {
        let path = self.theatre.folder().join("saved");
        let _ = fs::remove_file(&path);
        let store = rusqlite::Connection::open(self.store_path()).unwrap();
        store
            .execute("VACUUM INTO ?1", [path.display().to_string()])
            .unwrap();
        Saved {
            fleet: self.theatre.stage.fleet.snapshot(),
            store: fs::read(path).unwrap(),
        }
    }

    /// Everything is as it was, in a store's file of its own: whoever still has the other one open does not know.
    pub fn restore(&mut self, saved: &Saved) {
        self.restored += 1;
        for end in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(self.theatre.folder().join(format!("{}{end}", self.theatre.store)));
        }
        self.theatre.store = format!("state-{}.db", self.restored);
        fs::write(self.store_path(), &saved.store).unwrap();
        fs::set_permissions(self.store_path(), fs::Permissions::from_mode(0o600)).unwrap();
        self.theatre.stage.fleet.restore(&saved.fleet);
    }

    /// All that matters of what there is: hosts and record.
    pub fn key(&self) -> String {
        let record = self.record().map(|r| serde_json::to_string(&r).unwrap());
        format!("{}{record:?}", self.theatre.stage.fleet.told())
    }

    /// How it looks, whenever and under whichever numbers it came to be so.
    pub fn shape(&self) -> String {
        let mut domains = self.domains();
        for domain in domains.values_mut() {
            domain.started_at = Timestamp::UNIX_EPOCH;
            if let Some(meta) = &mut domain.meta {
                (meta.epoch, meta.created_at) = (None, Timestamp::UNIX_EPOCH);
            }
        }
        let record = self.record().map(|record| {
            let mut record = serde_json::to_value(record).unwrap();
            forget_numbers(&mut record);
            record.to_string()
        });
        let marks: Vec<_> = HOSTS.iter().map(|h| self.theatre.stage.fleet.marks(h)).collect();
        let copies: Vec<_> = HOSTS.iter().map(|h| self.theatre.stage.fleet.copies(h)).collect();
        without_tags(&format!(
            "{domains:?}{:?}{marks:?}{copies:?}{record:?}",
            self.files()
        ))
    }

    pub fn domains(&self) -> BTreeMap<Place, Domain> {
        let fleet = &self.theatre.stage.fleet;
        let of = |host: &&str| {
            let host = (*host).to_owned();
            let all = fleet.domains(&host).into_iter();
            // What it has done goes on by itself.
            let still = |d: Domain| Domain {
                meter: Meter::default(),
                ..d
            };
            all.map(still).map(move |d| ((host.clone(), d.name.clone()), d))
        };
        HOSTS.iter().flat_map(of).collect()
    }

    /// Domains that vmss has no business with: no member, not on its way out, renamed, or there more than once.
    pub fn others(&self) -> BTreeMap<Place, Domain> {
        let record = self.record();
        let mut listed: BTreeMap<Uuid, String> = BTreeMap::new();
        if let Some(record) = &record {
            let known = record.known.iter().map(|(id, k)| (k.uuid, id));
            let goes = record
                .warrants
                .instances
                .values()
                .flatten()
                .map(|(id, w)| (w.uuid, id));
            let given_up = record.written_off.iter().map(|(id, w)| (w.uuid, id));
            listed.extend(
                known
                    .chain(goes)
                    .chain(given_up)
                    .map(|(uuid, id)| (uuid, format!("web-{id}"))),
            );
            for uuid in &record.disowned {
                listed.remove(uuid);
            }
        }
        let all = self.domains();
        let times = |uuid: Uuid| all.values().filter(|d| d.uuid == uuid).count();
        let is_other = |((_, name), domain): &(&Place, &Domain)| {
            listed.get(&domain.uuid) != Some(name) || times(domain.uuid) > 1
        };
        let found: BTreeMap<Place, Domain> = all
            .iter()
            .filter(is_other)
            .map(|(p, d)| (p.clone(), d.clone()))
            .collect();
        found
    }

    /// What is wrong with domains that are nobody's, and their disks, since they were `before`.
    pub fn meddled(&self, before: &BTreeMap<Place, Domain>, disks: &BTreeSet<Place>) -> Vec<String> {
        let now = self.domains();
        let files = self.files();
        let changed = before
            .iter()
            .filter(|(place, domain)| now.get(*place) != Some(*domain));
        let mut wrong: Vec<String> = changed
            .map(|(place, was)| format!("{place:?} was {was:?}, and is {:?}", now.get(place)))
            .collect();
        wrong.extend(
            disks
                .difference(&files)
                .map(|disk| format!("{disk:?} is gone, which is a disk of somebody else's")),
        );
        wrong
    }

    fn files(&self) -> BTreeSet<Place> {
        let fleet = &self.theatre.stage.fleet;
        let of = |host: &&str| {
            let host = (*host).to_owned();
            let all = fleet.files(&host).into_iter();
            all.map(move |v| (host.clone(), v.name))
        };
        HOSTS.iter().flat_map(of).collect()
    }

    pub fn disks_of(&self, domains: &BTreeMap<Place, Domain>) -> BTreeSet<Place> {
        let files = self.files();
        let disks = domains
            .iter()
            .flat_map(|((host, _), domain)| domain.disks.iter().map(|disk| (host.clone(), disk.clone())));
        disks.filter(|disk| files.contains(disk)).collect()
    }

    /// What is there more than once, and running domains that have lost a disk.
    pub fn never(&self) -> BTreeSet<String> {
        let fleet = &self.theatre.stage.fleet;
        let moves: Vec<String> = self
            .record()
            .iter()
            .flat_map(|r| r.moves.keys())
            .map(|id| format!(" web-{id} on "))
            .collect();
        // A copy that a move holds is no double.
        let is_held = |w: &String| moves.iter().any(|name| w.contains(name));
        let twice = fleet
            .audit(&web(), &self.stores)
            .into_iter()
            .filter(|w| w.contains(" is used by ") && !is_held(w));
        twice.chain(fleet.robbed()).collect()
    }

    pub fn summary(&self) -> Summary {
        let record = self.record();
        let domains = self.domains();
        let mut under_way = Vec::new();
        let mut revisions: BTreeMap<u32, usize> = BTreeMap::new();
        if let Some(record) = &record {
            let mut note = |what: &str, count: usize| {
                if count > 0 {
                    under_way.push(format!("{what} {count}"));
                }
            };
            note("moves", record.moves.len());
            note("condemned", record.condemned.len());
            note("mending", record.repair.under_way.len());
            note("leaving", record.leaving.len());
            note(
                "rollout",
                usize::from(record.rollout.as_ref().is_some_and(Rollout::is_open)),
            );
            note(
                "unconfirmed",
                record.known.values().filter(|k| !k.confirmed).count(),
            );
            for known in record.known.values() {
                *revisions.entry(known.revision.unwrap_or_default()).or_default() += 1;
            }
        }
        let known = record.iter().flat_map(|r| r.known.iter());
        let members: Vec<_> = known
            .filter_map(|(id, k)| {
                domains
                    .get(&(k.host.to_string(), format!("web-{id}")))
                    .filter(|d| d.uuid == k.uuid)
            })
            .collect();
        Summary {
            capacity: record.as_ref().map(|r| r.capacity),
            members: members.len(),
            running: members.iter().filter(|d| d.is_active()).count(),
            cordons: record.as_ref().map_or(0, |r| r.cordons.len()),
            disowned: record.as_ref().map_or(0, |r| r.disowned.len()),
            revisions,
            under_way,
            wrong: self.wrong(),
        }
    }

    /// What is wrong with the fleet, without the numbers that depend on when vmss was killed.
    fn wrong(&self) -> BTreeSet<String> {
        let wrong = self.theatre.stage.fleet.audit(&web(), &self.stores);
        wrong.into_iter().collect()
    }

    /// What is wrong with a set of three that is to be at rest, but for what stays.
    pub fn unsettled(&self, stays: &impl Fn(&String) -> bool) -> Vec<String> {
        let summary = self.summary();
        let mut wrong: Vec<String> = summary.wrong.iter().filter(|w| !stays(w)).cloned().collect();
        if (summary.members, summary.running) != (3, 3) || !summary.under_way.is_empty() {
            wrong.push(format!("{summary:?}"));
        }
        let warrants = self.record().map(|r| r.warrants).unwrap_or_default();
        if warrants != Warrants::default() {
            wrong.push(format!("warrants without an end: {warrants:?}"));
        }
        wrong
    }

    /// What is left of the set, but for what stays.
    pub fn left(&self, stays: &impl Fn(&String) -> bool) -> Vec<String> {
        let fleet = &self.theatre.stage.fleet;
        let mut left = fleet.traces(&web(), &self.stores);
        let stores: Vec<String> = self.stores.iter().map(|s| s.0.simple().to_string()).collect();
        let marks = HOSTS.iter().flat_map(|host| fleet.marks(host));
        left.extend(marks.filter(|mark| stores.iter().any(|s| mark.contains(s))));
        left.retain(|what| !stays(what));
        left
    }

    /// Time passes.
    pub fn sleep(&self, seconds: u64) {
        self.theatre
            .stage
            .fleet
            .clock()
            .sleep(Duration::from_secs(seconds));
    }
}

/// Takes out of a record what depends on when something was done.
fn forget_numbers(value: &mut serde_json::Value) {
    const NUMBERS: [&str; 12] = [
        "epoch",
        "ordered",
        "at",
        "created_at",
        "since",
        "last",
        "vitals",
        "fault_domain",
        "began",
        "started_at",
        "unseen",
        "next_id",
    ];
    match value {
        serde_json::Value::Object(fields) => {
            fields.retain(|name, _| !NUMBERS.contains(&name.as_str()));
            fields.values_mut().for_each(forget_numbers);
        }
        serde_json::Value::Array(all) => all.iter_mut().for_each(forget_numbers),
        _ => {}
    }
}

/// The text without digits of UUIDs.
fn without_tags(text: &str) -> String {
    let is_hex = |c: char| c.is_ascii_hexdigit() || c == '-' || c == ':';
    let mut out = String::with_capacity(text.len());
    let mut run = String::new();
    for c in text.chars().chain([' ']) {
        if is_hex(c) {
            run.push(c);
            continue;
        }
        if run.len() >= 8 {
            out.push('#')
        } else {
            out.push_str(&run)
        }
        run.clear();
        out.push(c);
    }
    out
}
