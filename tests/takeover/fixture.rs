//! Fleets and stores as vmss of commit 1e23dcc left them (`tests/fixtures/takeover`): read, and put on the stage.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;
use vmss::hypervisor::domain_xml::metadata;
use vmss::hypervisor::fake::{Content, Domain, ImageCopy, Volume};
use vmss::inventory::{Metadata, Power};
use vmss::model::{ImageDigest, ImageFormat};
use vmss::names::{Label, StoreId};
use vmss::units::Bytes;

use super::scenario::theatre::Theatre;

/// A set on its way through something, at each moment at which vmss was killed.
pub struct Fixture {
    /// The file's name without its ending.
    pub name: String,
    /// What was typed, as lines of a scenario.
    did: Vec<String>,
    /// At least one.
    pub moments: Vec<Moment>,
}

/// Everything there was at one moment.
pub struct Moment {
    /// After which step.
    pub label: String,
    /// What is told, by what it is told of: see [`key`].
    told: BTreeMap<String, String>,
}

/// What a line tells of. A later moment's line takes the place of an earlier one's of the same.
fn key(line: &str) -> String {
    let words = match line.split(' ').next() {
        Some("now") => 1,
        Some("copy") => 4,
        Some("INSERT")
            if ["store", "tokens"]
                .iter()
                .any(|t| line.starts_with(&format!("INSERT INTO {t} "))) =>
        {
            3
        }
        Some("INSERT") => return line.split(',').next().unwrap().to_owned(),
        _ => 3,
    };
    line.split(' ').take(words).collect::<Vec<_>>().join(" ")
}

/// All of them, by name.
pub fn all() -> Vec<Fixture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/takeover");
    let files = super::scenario::files(&folder).unwrap();
    let read = |path: &std::path::PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        Fixture::parse(name, &std::fs::read_to_string(path).unwrap())
    };
    files.iter().map(read).collect()
}

impl Fixture {
    fn parse(name: String, text: &str) -> Self {
        let (mut did, mut moments) = (Vec::new(), Vec::<Moment>::new());
        // A note has lines of its own.
        let text = text.replace("\n  <", "\u{1}  <").replace("\n</", "\u{1}</");
        for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let line = line.replace('\u{1}', "\n");
            let (verb, rest) = line.split_once(' ').unwrap();
            match verb {
                "did" | "then" => did.push(rest.to_owned()),
                "killed" => {}
                "at" => moments.push(Moment {
                    label: rest.to_owned(),
                    told: moments.last().map_or_else(BTreeMap::new, |m| m.told.clone()),
                }),
                "gone" => {
                    let before = moments.last_mut().unwrap().told.remove(rest);
                    assert!(before.is_some(), "{name}: {rest} was not there");
                }
                _ => _ = moments.last_mut().unwrap().told.insert(key(&line), line),
            }
        }
        assert!(!moments.is_empty(), "{name} has no moment");
        Self { name, did, moments }
    }

    /// The stage as it was at that moment, with a new vmss that has done nothing yet. Leases that nobody gives back any more have
    /// run out.
    pub fn stage(&self, moment: &Moment) -> Theatre {
        let theatre = self.stage_with_leases(moment);
        let store = Connection::open(self.store(&theatre)).unwrap();
        store.execute("DELETE FROM leases", []).unwrap();
        theatre
    }

    /// As [`Self::stage`], with the leases that were held.
    pub fn stage_with_leases(&self, moment: &Moment) -> Theatre {
        let mut theatre = Theatre::new();
        for line in &self.did {
            let verb = line.split_whitespace().next().unwrap();
            let is_staged = ["vmss", "sleep", "unhealthy"].contains(&verb);
            if !is_staged {
                let (exit, _, said) = theatre.command(line);
                assert_eq!(exit, 0, "{line}: {said}");
            }
        }
        let mut notes = BTreeMap::new();
        let mut sql = String::from(include_str!("../fixtures/takeover/layout-3.sql"));
        for line in moment.told.values() {
            let (verb, rest) = line.split_once(' ').unwrap();
            match verb {
                "note" => {
                    let (place, xml) = rest.split_at(rest.find(" <").unwrap());
                    notes.insert(place.to_owned(), metadata::parse(xml.trim_start()).unwrap());
                }
                "INSERT" => {
                    sql += line;
                    sql += "\n";
                }
                "now" => {
                    let (clock, at) = (
                        theatre.stage.fleet.clock(),
                        rest.parse::<jiff::Timestamp>().unwrap(),
                    );
                    clock.sleep(at.duration_since(clock.now()).unsigned_abs());
                }
                "domain" | "volume" | "copy" => {}
                _ => panic!("{}: {line}", self.name),
            }
        }
        for line in moment.told.values() {
            put(&theatre, line, &mut notes);
        }
        let sql = sql.replace("/srv/web", &theatre.folder().display().to_string());
        let store = Connection::open(self.store(&theatre)).unwrap();
        store.execute_batch(&sql).unwrap();
        theatre
    }

    /// The path of its store.
    pub fn store(&self, theatre: &Theatre) -> std::path::PathBuf {
        let mut names = self.did.iter().filter_map(|l| l.strip_prefix("store "));
        theatre.folder().join(names.next_back().unwrap_or("state.db"))
    }

    /// Names of its hosts.
    pub fn hosts(&self) -> Vec<&str> {
        let lines = self.did.iter().filter_map(|l| l.strip_prefix("host "));
        lines.map(|l| l.split_whitespace().nth(1).unwrap()).collect()
    }
}

/// Puts what the line tells on its host.
fn put(theatre: &Theatre, line: &str, notes: &mut BTreeMap<String, Metadata>) {
    let fleet = &theatre.stage.fleet;
    let words: Vec<&str> = line.split_whitespace().collect();
    let value = |key: &str| {
        let mut values = words
            .iter()
            .filter_map(|w| w.strip_prefix(key)?.strip_prefix('='));
        values
            .next_back()
            .unwrap_or_else(|| panic!("{key} is missing: {line}"))
    };
    let list = |key: &str| -> Vec<String> {
        let value = value(key);
        let all = value.split(',').filter(|v| *v != "-");
        all.map(str::to_owned).collect()
    };
    let bytes = |key: &str| Bytes(value(key).parse().unwrap());
    let host = words[1];
    match words[0] {
        "domain" => {
            let name = words[2];
            let domain = Domain {
                name: name.to_owned(),
                uuid: value("uuid").parse().unwrap(),
                power: match value("power") {
                    "running" => Power::Running,
                    "off" => Power::Off,
                    "paused" => Power::Paused,
                    other => panic!("{other} is no state of a domain"),
                },
                vcpus: value("vcpus").parse().unwrap(),
                memory: bytes("memory"),
                meta: notes.remove(&format!("{host} {name}")),
                macs: list("macs"),
                leases: list("leases").iter().map(|a| a.parse().unwrap()).collect(),
                names: Vec::new(),
                disks: list("disks"),
                held: Vec::new(),
                unopened: Vec::new(),
                started_at: value("started").parse().unwrap(),
                console: String::new(),
                unhealthy: words.contains(&"unhealthy"),
                agent: Default::default(),
                meter: Default::default(),
            };
            fleet.put_domain(host, domain);
        }
        "volume" => {
            let volume = Volume {
                name: words[2].to_owned(),
                allocation: bytes("allocation"),
                size: bytes("size"),
                content: content(value("content")),
                backing: list("backing").pop(),
                image: list("image").pop().map(ImageDigest),
                serial: value("serial").parse().unwrap(),
            };
            fleet.put_volume(host, volume);
        }
        "copy" => {
            let copy = ImageCopy {
                digest: ImageDigest(value("digest").to_owned()),
                store: StoreId(value("store").parse().unwrap()),
                allocation: bytes("allocation"),
                is_there: value("there") == "true",
                is_marked: value("marked") == "true",
                is_cut: false,
            };
            fleet.put_copy(host, ImageFormat::Raw, copy);
        }
        _ => {}
    }
}

fn content(text: &str) -> Content {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        ["disk"] => Content::Disk,
        ["foreign"] => Content::Foreign,
        ["seed"] => Content::Seed { whole: true },
        ["half-seed"] => Content::Seed { whole: false },
        ["shared-seed", set, store, revision, whole] => Content::SharedSeed {
            set: Label::new(*set).unwrap(),
            store: StoreId(store.parse().unwrap()),
            revision: revision.parse().unwrap(),
            whole: *whole == "whole",
        },
        _ => panic!("{text} is no content of a volume"),
    }
}
