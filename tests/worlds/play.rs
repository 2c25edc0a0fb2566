//! How a world is played.

use serde_json::Value;
use vmss::hypervisor::fake::Domain;
use vmss::names::parse_instance_name;
use vmss::record::Life;

use crate::commands::Deed;
use crate::properties::{Before, Did};
use crate::scenario::parse::words;
use crate::stage::{HOSTS, Managed, Sets, Setting, World};

/// Runs a command, and looks whether all holds of it. Returns its exit code and what it said.
fn tell(world: &mut World, managed: &Managed, args: &str) -> Result<(u8, String), String> {
    let args = words(&format!("-f {} {args}", managed.file)).unwrap();
    let before = Before::look(world, &args);
    let (exit, text) = world.vmss(&args);
    let killed = world.fleet().is_killed();
    world.revive();
    let did = Did {
        args: &args,
        exit,
        text: &text,
        killed,
    };
    before.check(world, &did).map_err(|what| world.wrong(&what))?;
    world.remember();
    Ok((exit, text))
}

/// Plays a world up to the last deed.
fn play(
    world: &mut World,
    deeds: &[Deed],
    after: fn(&mut World, &Managed, u8) -> Result<(), String>,
) -> Result<(), String> {
    for at in 0..world.managed.len() {
        let managed = world.managed[at].clone();
        tell(world, &managed, "create --yes")?;
    }
    for (turn, deed) in deeds.iter().enumerate() {
        let line = match deed {
            Deed::Hand(hand) => hand.line(world, turn),
            Deed::Line(line) => Some((*line).to_owned()),
            Deed::Vmss(which, args) => {
                let managed = &world.managed[*which as usize % world.managed.len()];
                Some(format!("vmss -f {} {args}", managed.file))
            }
        };
        let Some(line) = line else { continue };
        match line
            .strip_prefix("vmss -f ")
            .and_then(|rest| rest.split_once(' '))
        {
            Some((file, args)) => {
                let managed = world.managed.iter().find(|m| m.file == file).unwrap().clone();
                let (exit, _) = tell(world, &managed, args)?;
                after(world, &managed, exit)?;
            }
            None => {
                world.other(&line);
                world.remember();
            }
        }
    }
    Ok(())
}

/// A world in which anything may happen, and in the end nothing any more.
pub fn odd(setting: &Setting, deeds: &[Deed]) -> Result<(), String> {
    let mut world = World::new(setting);
    play(&mut world, deeds, |_, _, _| Ok(()))?;
    world.told.push("# now everybody rests".to_owned());
    for (host, _) in HOSTS {
        for verb in ["heal", "pool-on", "refresh"] {
            world.other(&format!("{verb} {host}"));
        }
    }
    world.other("revive");
    end_what_vmss_may_not(&mut world);
    for at in 0..world.managed.len() {
        // Another name and another URI at once is another host to vmss: whoever has an alias keeps it.
        let applied = world.record(&world.managed[at].clone()).map(|r| r.applied);
        let alias = |host: &str| format!("{host}-ip");
        let is_reached_so = |name: &str| {
            let mut all = applied.iter().flat_map(|set| set.hosts());
            all.any(|(_, host)| host.name.as_str() == name)
        };
        let hosts: Vec<String> = (HOSTS.iter().map(|(host, _)| *host))
            .map(|host| match is_reached_so(&alias(host)) && !is_reached_so(host) {
                true => alias(host),
                false => host.to_owned(),
            })
            .collect();
        world.other(&format!("hosts {} {}", world.managed[at].file, hosts.join(" ")));
        let managed = world.managed[at].clone();
        if !is_anothers(&world, &managed) {
            come_to_rest(&mut world, &managed)?;
        }
    }
    Ok(())
}

/// Who keeps a domain under another name, while one with its UUID has the name that it had, ends that himself, as does who has
/// lent a domain of his an instance's disk: vmss has no command that would touch those, and keeps what they use.
fn end_what_vmss_may_not(world: &mut World) {
    let hosts = world.hosts();
    let all = || {
        hosts
            .iter()
            .flat_map(|h| h.domains.iter().map(|d| (h.name.clone(), d)))
    };
    let is_instance = |d: &Domain| {
        let mut sets = world.managed.iter().map(|m| &m.set);
        d.meta.is_some() && sets.any(|set| parse_instance_name(set, &d.name).is_some())
    };
    let is_in_the_way = |d: &Domain, other: &Domain| {
        let lends = d
            .disks
            .iter()
            .any(|disk| other.disks.contains(disk) && !disk.starts_with("vmss-seed"));
        is_instance(other) && (other.uuid == d.uuid || lends)
    };
    let ended: Vec<String> = all()
        .filter(|(_, d)| !is_instance(d) && all().any(|(_, other)| is_in_the_way(d, other)))
        .map(|(host, d)| format!("undefine {host} {}", d.name))
        .collect();
    for line in ended {
        world.other(&line);
    }
    // Of what was given up and is back as several that have one disk, each keeps the others from going.
    let mut several: Vec<(uuid::Uuid, String)> = Vec::new();
    for managed in &world.managed {
        let record = world.record(managed).or_else(|| world.abandoned(managed));
        let lost: Vec<_> = record
            .iter()
            .flat_map(|r| r.written_off.values().map(|w| w.uuid))
            .collect();
        let back = hosts.iter().flat_map(|h| h.domains.iter().map(move |d| (h, d)));
        let back = back.filter(|(_, d)| lost.contains(&d.uuid));
        several.extend(back.map(|(h, d)| (d.uuid, format!("undefine {} {}", h.name, d.name))));
    }
    several.sort();
    let ended: Vec<String> = (several.windows(2).filter(|two| two[0].0 == two[1].0))
        .map(|two| two[1].1.clone())
        .collect();
    for line in ended {
        world.other(&line);
    }
}

/// A world up to the last deed.
pub fn without_rest(setting: &Setting, deeds: &[Deed]) -> Result<(), String> {
    play(&mut World::new(setting), deeds, |_, _, _| Ok(()))
}

/// Whether instances of the set are another store's, and it is that one's to act.
fn is_anothers(world: &World, managed: &Managed) -> bool {
    let id = world.theatre.store(managed.store).id().unwrap();
    let hosts = world.hosts();
    let mut notes = hosts
        .iter()
        .flat_map(|h| &h.domains)
        .filter_map(|d| d.meta.as_ref());
    notes.any(|m| m.set == managed.set && m.store != id)
}

/// How often somebody does what vmss says before he gives up.
const ROUNDS: usize = 8;

/// What somebody types who does what vmss says, until the set has three instances.
fn come_to_rest(world: &mut World, managed: &Managed) -> Result<(), String> {
    for _ in 0..ROUNDS {
        world.other("sleep 4000");
        let Some(record) = world.record(managed) else {
            let (exit, text) = tell(world, managed, "create --yes")?;
            if exit != 0 && text.contains("state rebuild") {
                tell(world, managed, "state rebuild --yes")?;
            }
            continue;
        };
        if record.life == Life::Deleting {
            tell(world, managed, "delete --yes")?;
            if world.record(managed).is_some() {
                settle(world, managed)?;
            }
            continue;
        }
        for host in record.cordons.keys() {
            tell(world, managed, &format!("host uncordon {host}"))?;
        }
        let (applied, _) = tell(world, managed, "apply --yes --at-most replace")?;
        let (scaled, _) = tell(world, managed, "scale 3 --yes")?;
        if (applied, scaled) == (0, 0) {
            return Ok(());
        }
        settle(world, managed)?;
    }
    Err(world.wrong(&format!("{} does not come to what is wanted of it", managed.set)))
}

/// What the set waits on, as programs are told.
fn waits(world: &mut World, managed: &Managed) -> Vec<Value> {
    let args = words(&format!("-f {} show -o json", managed.file)).unwrap();
    world.theatre.use_store(managed.store);
    let (_, stdout, stderr) = world.theatre.vmss(&args);
    world.told.push(stderr);
    let shown: Value = serde_json::from_str(&stdout).unwrap_or_default();
    shown["report"]["waits"].as_array().cloned().unwrap_or_default()
}

/// Does what `show` says that ends what is odd.
fn settle(world: &mut World, managed: &Managed) -> Result<(), String> {
    for wait in waits(world, managed) {
        match wait["waits_on"].as_str().unwrap_or_default() {
            "double" => {
                let places = wait["places"].as_array().unwrap();
                let running = places.iter().find(|p| p["runs"] == true);
                let kept = running.unwrap_or(&places[0])["host"].as_str().unwrap();
                tell(
                    world,
                    managed,
                    &format!("instance settle {} --keep {kept} --yes", wait["id"]),
                )?;
            }
            "record-old" => {
                for forged in forged(world, managed) {
                    tell(world, managed, &format!("instance disown {forged} --yes"))?;
                }
                let (exit, said) = tell(world, managed, "state catch-up --yes")?;
                if exit != 0 && said.contains("is there more than once") {
                    // Neither can be ended before the other, but by hand, as it says.
                    undefine_doubles(world, managed);
                }
            }
            "disks-away" => {
                let ids = wait["instances"].as_array().into_iter().flatten();
                for id in ids.cloned().collect::<Vec<_>>() {
                    tell(world, managed, &format!("instance replace {id} --yes"))?;
                }
            }
            "paused" => {
                let id = wait["instance"].to_string();
                tell(world, managed, &format!("instance restart {id} --yes"))?;
            }
            "protected" => _ = tell(world, managed, "instance unprotect --all")?,
            "repair-suspended" => _ = tell(world, managed, "repair --resume --yes")?,
            // Whoever has read that a volume is not there has it made again.
            "start-backoff" => {
                let (exit, _) = tell(world, managed, "repair --resume --yes")?;
                if exit != 0 {
                    let id = wait["instance"].to_string();
                    tell(world, managed, &format!("instance reimage {id} --yes"))?;
                }
            }
            "rollout-paused" | "rollout-stopped" => _ = tell(world, managed, "upgrade resume --yes")?,
            _ => {}
        }
    }
    Ok(())
}

/// Of each instance that is there twice somebody undefines all copies but one, which runs if any does.
fn undefine_doubles(world: &mut World, managed: &Managed) {
    let hosts = world.hosts();
    let mut all: Vec<(&str, &Domain)> = (hosts.iter())
        .flat_map(|h| h.domains.iter().map(|d| (h.name.as_str(), d)))
        .filter(|(_, d)| parse_instance_name(&managed.set, &d.name).is_some())
        .collect();
    all.sort_by_key(|(_, d)| (d.uuid, !d.is_active()));
    let others = all.windows(2).filter(|pair| pair[0].1.uuid == pair[1].1.uuid);
    let lines: Vec<String> = others
        .map(|pair| format!("undefine {} {}", pair[1].0, pair[1].1.name))
        .collect();
    for line in lines {
        world.other(&line);
    }
}

/// Domains with a copied note and another id in it: whoever made them knows that it lies.
fn forged(world: &World, managed: &Managed) -> Vec<uuid::Uuid> {
    let disowned = world.record(managed).map(|r| r.disowned).unwrap_or_default();
    let hosts = world.hosts();
    let domains = hosts.iter().flat_map(|h| h.domains.iter().map(|d| (&h.name, d)));
    let lies = domains.filter(|(host, d)| {
        // As the fleet makes them.
        let made = uuid::Uuid::new_v5(
            &uuid::Uuid::NAMESPACE_DNS,
            format!("{}.{host}", d.name).as_bytes(),
        );
        parse_instance_name(&managed.set, &d.name).is_some() && (d.uuid == made || d.disks.is_empty())
    });
    lies.map(|(_, d)| d.uuid)
        .filter(|uuid| !disowned.contains(uuid))
        .collect()
}

/// What may be told where nothing is odd.
const USUAL: [&str; 8] = [
    "uneven",
    "protected",
    "undrainable",
    "joining",
    "beyond-limits",
    "batch-health",
    "settling",
    "unwilling",
];

/// A world in which nothing odd happens: whatever is typed is done, and nothing is told that anybody would have to look into.
pub fn quiet(setting: &Setting, deeds: &[Deed]) -> Result<(), String> {
    let mut world = World::new(setting);
    play(&mut world, deeds, |world, managed, exit| {
        let args = world.told.last().cloned().unwrap_or_default();
        if exit == 1
            && [
                "instance re",
                "instance delete",
                "instance protect",
                "there is no set",
            ]
            .iter()
            .any(|w| args.contains(w))
        {
            // It named an instance, or a set, that is not there.
            return Ok(());
        }
        let waits = waits(world, managed);
        let said = |w: &Value| w["waits_on"].as_str().unwrap_or_default().to_owned();
        // What is to be moved as it runs can't be moved to a host with the same folder, and nothing to one that is cordoned.
        let has_nowhere = world.record(managed).is_some_and(|r| {
            let may_not_move = world.setting.sharing > 1 && r.cordons.values().any(|c| c.migrate);
            may_not_move
                || r.applied
                    .hosts()
                    .all(|(_, host)| r.cordons.contains_key(&host.name))
        });
        let is_usual = |said: &str| USUAL.contains(&said) || has_nowhere && said == "no-room";
        if let Some(odd) = waits.iter().find(|w| !is_usual(&said(w))) {
            return Err(world.wrong(&format!("nothing odd has happened, and this is told: {odd}")));
        }
        let is_usual = exit == 0 || !waits.is_empty() || args.contains("protected");
        if !is_usual {
            return Err(world.wrong(&format!("nothing odd has happened, and it ended with {exit}")));
        }
        let store = world.theatre.store(managed.store).id().unwrap();
        // Where a folder is used by another host or store, the seeds that a revision's instances share stay.
        let may_stay = world.setting.sharing > 1 || world.setting.sets == Sets::TwoStores;
        let mut wrong = world.fleet().audit(&managed.set, &[store]);
        wrong.retain(|wrong| !(may_stay && wrong.ends_with("serves no instance")));
        match wrong.first() {
            Some(wrong) => Err(world.wrong(wrong)),
            None => Ok(()),
        }
    })?;
    for at in 0..world.managed.len() {
        let managed = world.managed[at].clone();
        come_to_rest(&mut world, &managed)?;
    }
    Ok(())
}
