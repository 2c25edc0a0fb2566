//! What an earlier version has made is taken over: fleets and stores as vmss of commit 1e23dcc left them, whole and at every
//! moment at which it could be killed. Living instances keep their UUIDs, MACs and disks, whatever is done to them next, and
//! wherever that is cut short.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]

mod fixture;
mod real;
#[path = "../scenario/mod.rs"]
mod scenario;
#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use fixture::{Fixture, Moment, all};
use scenario::parse::words;
use scenario::theatre::Theatre;
use vmss::hypervisor::fake::{Content, Domain};
use vmss::inventory::Phase;
use vmss::names::{InstanceId, Label};
use vmss::record::{Life, Record};
use vmss::store::Store as _;
use vmss::store::sqlite::Sqlite;

fn web() -> Label {
    Label::new("web").unwrap()
}

/// What becomes of a set once it is taken over. `{first}` stands for the lowest id that lives on.
const COMMANDS: [&str; 9] = [
    "scale +0 --yes",
    "instance restart {first} --yes",
    "instance reimage {first} --yes",
    "host drain kvm1 --migrate --yes",
    "scale -1 --yes",
    "scale +1 --yes",
    "apply --yes",
    "repair --yes",
    "delete --yes",
];

/// One take-over.
struct Play<'f> {
    fixture: &'f Fixture,
    moment: &'f Moment,
    command: &'static str,
    /// After how many steps vmss is killed, if it is; or right before the next.
    kill: Option<(usize, bool)>,
}

/// An instance as it was left.
struct Left {
    host: String,
    domain: Domain,
    /// Its volumes with what is a disk's own: those made anew have another serial.
    volumes: BTreeMap<String, u64>,
}

fn domains(fixture: &Fixture, theatre: &Theatre) -> Vec<(String, Domain)> {
    let of = |host: &str| {
        let host = host.to_owned();
        let all = theatre.stage.fleet.domains(&host).into_iter();
        all.map(move |domain| (host.clone(), domain))
    };
    fixture.hosts().into_iter().flat_map(of).collect()
}

fn record(fixture: &Fixture, theatre: &Theatre) -> Option<Record> {
    let store = Sqlite::open(&fixture.store(theatre)).unwrap();
    store.get(&web()).unwrap().map(|(record, _)| record)
}

/// Instances that live on: whole, and nobody has asked for their end.
fn living(fixture: &Fixture, theatre: &Theatre, record: &Record) -> BTreeMap<InstanceId, Left> {
    let mut living = BTreeMap::new();
    for (host, domain) in domains(fixture, theatre) {
        let Some(meta) = &domain.meta else { continue };
        let id = meta.id;
        let is_whole = matches!(meta.phase, Phase::Ready | Phase::Changing);
        let is_arriving = meta.moving_to.as_ref().is_some_and(|to| to.as_str() == host);
        let is_to_go = record.condemned.contains(&id)
            || record.written_off.contains_key(&id)
            || record.repair.under_way.contains_key(&id)
            || record.life != Life::Wanted;
        if !is_whole || is_to_go || is_arriving && living.contains_key(&id) {
            continue;
        }
        let volumes = theatre.stage.fleet.volumes(&host).into_iter();
        let own = volumes.filter(|v| v.content == Content::Disk && domain.disks.contains(&v.name));
        let volumes = own.map(|v| (v.name, v.serial)).collect();
        living.insert(
            id,
            Left {
                host,
                domain,
                volumes,
            },
        );
    }
    living
}

impl Play<'_> {
    fn at(&self) -> String {
        let kill = self.kill.map_or(String::new(), |(step, before)| {
            format!(
                ", killed {} {step} steps",
                if before { "before the one after" } else { "after" }
            )
        });
        format!(
            "{}, {}: vmss {}{kill}",
            self.fixture.name, self.moment.label, self.command
        )
    }

    /// Whether the set is on its way to another store.
    fn is_adopting(&self) -> bool {
        self.fixture.name == "adopting"
    }

    /// Plays it; whatever is wrong in the end.
    fn play(&self) -> Result<(), String> {
        let mut theatre = self.fixture.stage(self.moment);
        let mut told = Vec::new();
        let outcome = self.on(&mut theatre, &mut told);
        outcome.map_err(|wrong| format!("{}: {wrong}\n{}", self.at(), told.join("\n")))
    }

    fn on(&self, theatre: &mut Theatre, told: &mut Vec<String>) -> Result<(), String> {
        let Some(before) = record(self.fixture, theatre) else {
            // Nothing was written down yet, so nothing is taken over.
            return Ok(());
        };
        let left = living(self.fixture, theatre, &before);
        let surplus = left.len().saturating_sub(before.capacity as usize);
        let first = left.keys().next().map_or(1, |id| id.0);
        let command = self.command.replace("{first}", &first.to_string());
        let fleet = std::sync::Arc::clone(&theatre.stage.fleet);
        match self.kill {
            Some((step, false)) => fleet.kill_after(step),
            Some((step, true)) => fleet.kill_before(step),
            None => {}
        }
        let mut run = |theatre: &Theatre, command: &str| {
            let (exit, stdout, stderr) = theatre.vmss(&words(command).unwrap());
            told.push(format!("> vmss {command}\nexit {exit}\n{stdout}{stderr}"));
            exit
        };
        let is_done = run(theatre, &command) == 0;
        fleet.revive();
        if is_done && command.starts_with("instance reimage") {
            let there = domains(self.fixture, theatre);
            let notes = there.iter().filter_map(|(_, domain)| domain.meta.as_ref());
            if notes.filter(|m| m.id.0 == first).any(|m| m.epoch.is_none()) {
                return Err(format!("the note of instance {first} was not written anew"));
            }
        }
        for host in self.fixture.hosts() {
            fleet.heal(host);
        }
        // A definition names a seed before that is made.
        let robbed = fleet.robbed().into_iter().find(|lost| !lost.contains("seed-"));
        if let Some(lost) = robbed {
            return Err(lost);
        }
        let is_deletion = command.starts_with("delete");
        if !is_deletion {
            let gone = surplus + usize::from(command.starts_with("scale -1"));
            self.settle(theatre, &mut run)?;
            self.compare(theatre, &left, &before, gone)?;
        }
        if self.is_adopting() {
            run(theatre, "state adopt --yes");
        }
        if !is_deletion {
            run(theatre, "state sweep --all --yes");
        }
        let exit = run(theatre, "delete --yes --include-protected");
        if record(self.fixture, theatre).is_some() {
            return Err(format!("the set is still there, exit {exit}"));
        }
        let stores = stores(&before);
        let mut traces = fleet.traces(&web(), &stores);
        if traces.iter().any(|what| is_kept(&before, what)) && is_deletion {
            // With what they are backed by.
            traces.retain(|what| !is_kept(&before, what) && !what.contains(": image "));
        }
        if !traces.is_empty() {
            return Err(format!("left behind: {}", traces.join("; ")));
        }
        Ok(())
    }

    /// Goes on until there is nothing to do.
    fn settle(&self, theatre: &Theatre, run: &mut impl FnMut(&Theatre, &str) -> u8) -> Result<(), String> {
        for _ in 0..6 {
            if record(self.fixture, theatre).is_none_or(|r| r.life != Life::Wanted) {
                return Ok(());
            }
            match run(theatre, "apply --yes") {
                0 => return Ok(()),
                5 if self.is_adopting() => _ = run(theatre, "state adopt --yes"),
                _ => {}
            }
            theatre.stage.fleet.clock().sleep(Duration::from_secs(4 * 3600));
        }
        Err("it does not come to an end".to_owned())
    }

    /// Whether everything that lived lives on as it was, but for so many.
    fn compare(
        &self,
        theatre: &Theatre,
        left: &BTreeMap<InstanceId, Left>,
        before: &Record,
        may_go: usize,
    ) -> Result<(), String> {
        let Some(record) = record(self.fixture, theatre) else {
            return if before.life == Life::Wanted {
                Err("the set is gone".to_owned())
            } else {
                Ok(())
            };
        };
        if record.life != Life::Wanted {
            return Ok(());
        }
        let mut wrong = theatre.stage.fleet.audit(&web(), &stores(before));
        // One that a running guest has in its drive stays until it is started anew.
        wrong.retain(|what| !what.ends_with("serves no instance"));
        wrong.retain(|what| !is_kept(before, what));
        if !wrong.is_empty() {
            return Err(wrong.join("; "));
        }
        let there = domains(self.fixture, theatre);
        if there.len() != record.capacity as usize {
            return Err(format!(
                "{} are there, and {} are wanted",
                there.len(),
                record.capacity
            ));
        }
        let ids: BTreeSet<InstanceId> = there.iter().map(|(_, d)| d.meta.as_ref().unwrap().id).collect();
        let gone: Vec<&InstanceId> = left.keys().filter(|id| !ids.contains(id)).collect();
        if gone.len() > may_go {
            return Err(format!("instances {gone:?} are gone"));
        }
        for (host, domain) in &there {
            let id = domain.meta.as_ref().unwrap().id;
            let Some(was) = left.get(&id) else {
                let is_new = id >= before.next_id || before.known.contains_key(&id);
                if !is_new {
                    return Err(format!("instance {id} was never there"));
                }
                continue;
            };
            if (domain.uuid, &domain.macs) != (was.domain.uuid, &was.domain.macs) {
                return Err(format!("instance {id} is another: {domain:?}"));
            }
            let now = theatre.stage.fleet.volumes(host);
            for (name, serial) in &was.volumes {
                let Some(volume) = now.iter().find(|v| v.name == *name) else {
                    return Err(format!("instance {id} has lost {name}"));
                };
                let is_data = name.contains("-data-");
                if is_data && *host == was.host && volume.serial != *serial {
                    return Err(format!("{name} was made anew"));
                }
            }
        }
        Ok(())
    }
}

/// Whether it is a volume of an instance that was given up with its host: with data disks they stay until somebody says that
/// they may go.
fn is_kept(before: &Record, what: &str) -> bool {
    let mut given_up = before.written_off.keys();
    given_up.any(|id| what.contains(&format!("volume web-{id}-")))
}

fn stores(record: &Record) -> Vec<vmss::names::StoreId> {
    std::iter::once(record.store)
        .chain(record.former.iter().copied())
        .collect()
}

/// Plays them side by side; what went wrong.
fn wrong_of(plays: &[Play<'_>]) -> Vec<String> {
    let (next, wrong) = (Mutex::new(plays.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let play = next.lock().unwrap().next();
                    let Some(play) = play else { break };
                    if let Err(why) = play.play() {
                        wrong.lock().unwrap().push(why);
                    }
                }
            });
        }
    });
    wrong.into_inner().unwrap()
}

/// Words that are said of what looks like an instance and is none, or of a record that is old.
const ODD: [&str; 4] = [
    "vmss instance adopt",
    "vmss instance settle",
    "vmss instance disown",
    "vmss state catch-up",
];

#[test]
fn whoever_looks_finds_nothing_odd_and_changes_nothing() {
    for fixture in &all() {
        for (n, moment) in fixture.moments.iter().enumerate() {
            let theatre = fixture.stage(moment);
            let Some(before) = record(fixture, &theatre) else {
                continue;
            };
            let at = format!("{}, {}", fixture.name, moment.label);
            let another = ["instances", "host list", "history", "upgrade status"][n % 4];
            for command in ["show", "plan", another] {
                let (exit, stdout, stderr) = theatre.vmss(&words(command).unwrap());
                let said = format!("{at}: vmss {command}: exit {exit}\n{stdout}{stderr}");
                let is_between_stores = fixture.name == "adopting" && command == "plan";
                assert!(exit == 0 || exit == 4 || is_between_stores, "{said}");
                for odd in ODD {
                    assert!(!said.contains(odd), "{said}");
                }
            }
            assert_eq!(theatre.stage.fleet.journal(), Vec::<String>::new(), "{at}");
            assert_eq!(record(fixture, &theatre), Some(before), "{at}");
        }
    }
}

#[test]
fn the_lease_of_a_killed_process_of_the_earlier_version_runs_out() {
    let fixtures = all();
    let fixture = fixtures.iter().find(|f| f.name == "scaled-in").unwrap();
    let theatre = fixture.stage_with_leases(&fixture.moments[1]);
    let run = || theatre.vmss(&words("scale +0 --yes").unwrap());
    let (exit, _, said) = run();
    assert_eq!(exit, 7, "it may live: {said}");
    assert!(said.contains("held by ann (pid 4711 on ops1)"), "{said}");
    theatre.stage.fleet.clock().sleep(Duration::from_secs(61));
    let (exit, _, said) = run();
    assert_eq!(exit, 0, "{said}");
    assert!(said.contains("has not renewed the lease for a while"), "{said}");
}

/// All that can be played: each command on each moment, killed nowhere and everywhere.
fn everything(fixtures: &[Fixture]) -> Vec<Play<'_>> {
    let kills = || (0..MOST_STEPS).flat_map(|step| [Some((step, false)), Some((step, true))]);
    let mut plays = Vec::new();
    for fixture in fixtures {
        for moment in &fixture.moments {
            for command in COMMANDS {
                if command.starts_with("host drain") && fixture.hosts().len() < 2 {
                    continue;
                }
                let play = |kill| Play {
                    fixture,
                    moment,
                    command,
                    kill,
                };
                plays.extend(std::iter::once(None).chain(kills()).map(play));
            }
        }
    }
    plays
}

/// Steps that a command takes at most, or nearly so.
const MOST_STEPS: usize = 16;

/// One in so many of what is cut short is played, and one in four of what is not: VMSS_TAKEOVER=1 plays everything.
#[expect(
    clippy::disallowed_methods,
    reason = "a test has no world to ask for its environment"
)]
fn one_in() -> usize {
    std::env::var("VMSS_TAKEOVER").map_or(150, |n| n.parse().unwrap())
}

/// What has gone wrong once, whichever else are played.
#[test]
fn what_is_cut_short_is_neither_replaced_nor_made_again_nor_left_behind() {
    let fixtures = all();
    let of = |name: &str, label: &str, command, kill| {
        let fixture = fixtures.iter().find(|f| f.name == name).unwrap();
        let moment = fixture.moments.iter().find(|m| m.label.starts_with(label));
        Play {
            fixture,
            moment: moment.unwrap(),
            command,
            kill,
        }
    };
    let reimage = "instance reimage {first} --yes";
    let wrong = wrong_of(&[
        of("moved", "after 8:", "apply --yes", None),
        of("moved", "after 3:", "delete --yes", None),
        of("moved-target-unseen", "after 2:", reimage, Some((3, false))),
        of("adopting", "after 2:", "apply --yes", None),
    ]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn whatever_is_done_next_living_instances_live_on_and_nothing_is_left_behind() {
    let (fixtures, one_in) = (all(), one_in());
    let plays: Vec<Play<'_>> = (everything(&fixtures).into_iter().enumerate())
        // Spread evenly: neighbours are much alike, and neither number divides how many there are of one command.
        .filter(|(n, play)| {
            n % if play.kill.is_some() {
                one_in
            } else {
                one_in.min(4)
            } == 0
        })
        .map(|(_, play)| play)
        .collect();
    let wrong = wrong_of(&plays);
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        plays.len(),
        wrong.join("\n\n")
    );
}
