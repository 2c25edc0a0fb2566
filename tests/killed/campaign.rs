//! A command is killed at every moment, run again, and what is odd is settled: what must hold then, whatever the world.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use vmss::hypervisor::fake::Domain;
use vmss::record::Life;
use vmss::rollout::Rollout;

use crate::play::{Place, Play, Summary};

/// Seconds between a kill and the next command: what was begun is not tried again at once.
const PAUSE: u64 = 60;

/// Seconds after which no call that was given up can land any more.
const LONG: u64 = 7200;

/// What a command says that has nothing to do itself any more, and does not look at what else there is to do.
const GO_ON: [&str; 4] = [
    "protected so already",
    "nothing to sweep",
    "vmss scale +0 finishes that",
    "vmss plan what is still to be done",
];

/// What every set of the campaign is made of.
const DEFINITION: &[&str] = &[
    "definition [[instance.networks]]",
    "definition bridge = \"br0\"",
    "definition addresses = \"10.0.0.10-10.0.0.99/24\"",
    "definition [[instance.data_disks]]",
    "definition name = \"data\"",
    "definition size = \"1 GiB\"",
    "definition [health]",
    "definition probe = \"http\"",
    "definition grace_period = \"1m\"",
    "definition [repair]",
    "definition grace_period = \"1m\"",
];

/// A world with something odd in it. Three hosts of three fault domains, and a set of three.
#[derive(Clone, Copy, Default)]
pub struct World {
    /// What is done before the set is made.
    pub before: &'static [&'static str],
    /// More of its definition.
    pub definition: &'static [&'static str],
    /// Whether the set is not there yet.
    pub is_fresh: bool,
    /// What others do once it is there.
    pub odd: &'static [&'static str],
    /// What settles it, as the output says: vmss and hands.
    pub settled: &'static [&'static str],
    /// What is nobody's and may stay, by the domain's name.
    pub stays: &'static [&'static str],
}

/// A command that changes something.
#[derive(Clone, Copy)]
pub struct Command {
    prepare: &'static [&'static str],
    args: &'static str,
    /// Whether it says whose a domain is: then it may act on what is odd.
    is_claim: bool,
}

impl Command {
    /// One as it stands.
    pub const fn new(args: &'static str) -> Self {
        Self {
            prepare: &[],
            args,
            is_claim: false,
        }
    }

    /// One that is typed after something else.
    pub const fn after(prepare: &'static [&'static str], args: &'static str) -> Self {
        Self {
            prepare,
            args,
            is_claim: false,
        }
    }

    /// One that says whose a domain is.
    pub const fn claim(args: &'static str) -> Self {
        Self {
            prepare: &[],
            args,
            is_claim: true,
        }
    }
}

/// A play that has come so far that the command can be typed.
fn prepared(world: &World, command: &Command) -> Play {
    let mut play = Play::new();
    let hosts = ["host rack-a kvm1", "host rack-b kvm2", "host rack-c kvm3"];
    let before = hosts.iter().chain(DEFINITION).chain(world.definition);
    for line in before.chain(&["define 3"]).chain(world.before) {
        play.must(line);
    }
    if !world.is_fresh {
        for args in ["create", "wait --for healthy"] {
            let (exit, said) = play.vmss(args);
            assert_eq!(exit, 0, "{said}");
        }
    }
    for line in world.odd.iter().chain(command.prepare) {
        play.must(line);
    }
    play.note_stores();
    play
}

/// What holds of nobody's domains and disks, as it was before the command.
struct Before {
    others: BTreeMap<Place, Domain>,
    disks: BTreeSet<Place>,
    never: BTreeSet<String>,
}

impl Before {
    fn of(play: &Play, command: &Command) -> Self {
        let others = match command.is_claim {
            true => BTreeMap::new(),
            false => play.others(),
        };
        Self {
            disks: play.disks_of(&others),
            others,
            never: play.never(),
        }
    }

    /// What was done to what is nobody's, and what has become double.
    fn wrong(&self, play: &Play) -> Vec<String> {
        let mut wrong = play.meddled(&self.others, &self.disks);
        wrong.extend(play.never().difference(&self.never).cloned());
        wrong
    }
}

/// How a command ended, and how things were then.
#[derive(PartialEq)]
struct End(u8, Summary);

/// Kills each command at every moment.
pub fn campaign(world: &World, commands: &[&[Command]]) {
    let all = commands.iter().copied().flatten();
    let faults: Vec<String> = all.flat_map(|command| killed(world, command)).collect();
    let text = faults.join("\n=====\n");
    assert!(faults.is_empty(), "{} faults\n{text}", faults.len());
}

/// What is wrong once a command was killed, at any moment.
fn killed(world: &World, command: &Command) -> Vec<String> {
    let mut play = prepared(world, command);
    let (start, before) = (play.save(), Before::of(&play, command));
    play.draw_from(1000);
    let moments = play.theatre.stage.fleet.moments();
    let (exit, mut said) = play.vmss(command.args);
    let moments = play.theatre.stage.fleet.moments() - moments;
    let once = End(exit, play.summary());
    let mut wrong = before.wrong(&play);
    play.sleep(PAUSE);
    play.draw_from(2000);
    let (exit, told) = play.vmss(command.args);
    said += &told;
    let twice = End(exit, play.summary());
    play.draw_from(3000);
    wrong.extend(settle(&mut play, world).err());
    let tell = |when: &str, wrong: &[String], said: &str| {
        format!("vmss {}, {when}: {}\n{said}", command.args, wrong.join("\n"))
    };
    if !wrong.is_empty() {
        return vec![tell("not killed", &wrong, &said)];
    }
    let mut faults = Vec::new();
    let (mut seen, mut settled) = (HashSet::new(), HashSet::new());
    for moment in 0.. {
        play.restore(&start);
        play.draw_from(1000);
        play.theatre.stage.fleet.kill_at(moment);
        let (_, said) = play.vmss(command.args);
        let was_killed = play.theatre.stage.fleet.is_killed();
        play.theatre.stage.fleet.revive();
        if !was_killed {
            // Lanes side by side do not always need the same number of looks, and so of renewals.
            assert!(
                moment + 8 > moments,
                "killed only at {moment} of {moments}: {said}"
            );
            break;
        }
        // From the same state the same follows.
        if !seen.insert(play.key()) {
            continue;
        }
        let mut wrong = before.wrong(&play);
        play.sleep(PAUSE);
        play.draw_from(2000);
        let (exit, mut told) = play.vmss(command.args);
        let mut end = End(exit, play.summary());
        let is_half_deleted = end.1.wrong.iter().any(|w| w.contains("web-3 is half deleted"));
        let is_as_unkilled = |end: &End| *end == once || *end == twice;
        if !is_as_unkilled(&end) && GO_ON.iter().any(|hint| told.contains(hint)) {
            told += &play.vmss("scale +0 --yes").1;
            let now = play.summary();
            let as_unkilled = [&once, &twice].into_iter().find(|end| end.1 == now);
            end = End(as_unkilled.map_or(exit, |end| end.0), now);
        }
        if told.contains("has no instance") && is_half_deleted {
            wrong.push("what is half deleted is told as what never was".to_owned());
        }
        wrong.extend(before.wrong(&play));
        if !is_as_unkilled(&end) {
            wrong.push(format!(
                "it ends with {}, {:?}\ninstead of {}, {:?}\nor {}, {:?}",
                end.0, end.1, once.0, once.1, twice.0, twice.1
            ));
        }
        if settled.insert(play.shape()) {
            play.draw_from(3000);
            wrong.extend(settle(&mut play, world).err());
        }
        if !wrong.is_empty() {
            let when = format!("killed at {moment} of {moments}");
            faults.push(tell(&when, &wrong, &format!("{said}--- again:\n{told}")));
        }
    }
    faults
}

/// What is told is done; then the set is as asked, and after its deletion nothing is left.
fn settle(play: &mut Play, world: &World) -> Result<(), String> {
    let mut told = String::new();
    if play.record().is_none() {
        let stays = |what: &String| world.stays.iter().any(|name| what.contains(name));
        let left = play.left(&|what: &String| !what.starts_with("vmss-pool-") || stays(what));
        // Where another store has the set, its marks are its own.
        if !left.is_empty() && play.stores.len() == 1 {
            return Err(format!(
                "the set is gone, and nobody knows of {}",
                left.join(", ")
            ));
        }
        // What is nobody's stays when a set is deleted: a set of that name can be asked for it.
        let (exit, said) = play.vmss("create --yes");
        told += &said;
        if exit != 0 {
            told += &play.vmss("state rebuild --yes").1;
        }
    }
    for line in world.settled {
        told += &play.line(line).1;
    }
    play.sleep(LONG);
    let stays = |what: &String| world.stays.iter().any(|name| what.contains(name));
    let mut expect = |play: &Play, args: &str| {
        let (exit, said) = play.vmss(args);
        told += &said;
        match exit {
            0 => Ok(()),
            _ => Err(format!("vmss {args} ends with {exit}\n{told}")),
        }
    };
    if let Some(record) = play.record().filter(|r| r.life == Life::Wanted) {
        for host in record.cordons.keys() {
            expect(play, &format!("host uncordon {host}"))?;
        }
        match record.rollout.filter(Rollout::is_open) {
            Some(rollout) if rollout.is_active() => expect(play, "upgrade --yes")?,
            Some(_) => expect(play, "upgrade resume --yes")?,
            None => {}
        }
        expect(play, "scale 3 --yes")?;
        play.sleep(LONG);
        // What went through another host of a folder is listed until a daemon looks into it again, as it does when it starts; as
        // long as it is, its warrant stays, or it would be told as nobody's.
        for host in ["kvm1", "kvm2", "kvm3"] {
            play.must(&format!("refresh {host}"));
        }
        expect(play, "scale +0 --yes")?;
        let wrong = play.unsettled(&stays);
        expect(play, "plan --detailed-exitcode")?;
        if !wrong.is_empty() {
            return Err(format!("{}\n{told}", wrong.join("\n")));
        }
    }
    expect(play, "delete --yes --include-protected")?;
    let left = play.left(&stays);
    match left.as_slice() {
        [] => Ok(()),
        _ => Err(format!("left: {}\n{told}", left.join("\n"))),
    }
}
