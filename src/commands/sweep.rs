//! `vmss state sweep`: deletes volumes that have an instance's name, and of which the record says nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::commands::Context;
use crate::commands::instance::claim::{changed, look_again, refuse_what_is_barred, situation};
use crate::converge::{Consent, glance_aside, proof};
use crate::error::{Error, Exit, Result};
use crate::hypervisor::{Uses, VolumeFacts};
use crate::inventory::Inventory;
use crate::names::{Label, PoolMark, VolumeName};
use crate::observe::ask_all;
use crate::plan::action::Step;
use crate::plan::sweep::{Claim, by_hand, claims, is_one_folder, is_told_before};
use crate::plan::{Experience, Situation};
use crate::record::Record;
use crate::scaleset::ScaleSet;
use crate::ui::table::Table;
use crate::ui::words::{count, list, moment};
use crate::units::Bytes;
use crate::warrants::Cause;

/// Most volumes that are shown one by one.
const SHOWN: usize = 20;

/// Deletes the volumes called `names`, or with `all` every one that nobody has.
pub fn run(ctx: &Context<'_>, names: &[String], all: bool) -> Result<Exit> {
    let mut target = ctx.wanted()?;
    let name = target.name.clone();
    let set = target.record.applied.clone();
    let inventory = glance_aside(ctx.world, &*target.store, &set, &mut target.record);
    let (meant, spared) = decide(ctx, &target.record, &inventory, names, all)?;
    let experience = Experience::default();
    let files = files(situation(ctx, &target.record, &inventory, &experience), &meant);
    if !spared.is_empty() {
        ctx.say(format!("note: left where they are: {}", list(&spared, 3)));
    }
    if meant.is_empty() {
        ctx.say(format!("{name}: no volume is nobody's: nothing to sweep"));
        if ctx.is_json() {
            ctx.json(
                &serde_json::json!({ "set": name, "command": "state sweep", "done": [], "exit_code": 0 }),
            );
        }
        return Ok(Exit::Converged);
    }
    let facts = facts(ctx, &target.record, &files)?;
    if !ctx.is_json() {
        show(ctx, &target.record, &files, &facts);
    }
    let sizes: Bytes = facts.values().map(|f| f.allocation).sum();
    let question = format!(
        "Delete {} of {name} ({sizes}), whatever is on {}?",
        count(files.len(), "volume"),
        if files.len() == 1 { "it" } else { "them" }
    );
    if !ctx.confirm(&question)? {
        ctx.say("nothing was changed");
        return Ok(Exit::Converged);
    }
    let held = ctx.hold(&target.store, &name, &format!("state sweep {name}"))?;
    let (record, inventory) = look_again(ctx, &*target.store, &name)?;
    let (found, _) = decide(ctx, &record, &inventory, names, all)?;
    let is_same = is_same(situation(ctx, &record, &inventory, &experience), &meant, &found);
    // One of the same name may be another by now, which somebody has put there.
    if !is_same || self::facts(ctx, &record, &files)? != facts {
        return Err(changed(&name));
    }
    let capacity = Some(record.capacity);
    let entry = ctx.operation(&name, "state sweep", capacity, capacity);
    let ending = ctx.converge_after(
        &target.store,
        &held,
        &entry,
        steps(&found),
        Consent::To(BTreeSet::new()),
    )?;
    Ok(ctx.conclude(&name, "state sweep", &ending))
}

type Meant = BTreeSet<(Label, VolumeName)>;

/// Each file once, though several hosts that share its folder list it.
fn files(s: Situation<'_>, meant: &Meant) -> Meant {
    let is_first = |(host, volume): &&(Label, VolumeName)| {
        let mut before = meant.iter().take_while(|m| &m.0 != host);
        !before.any(|(other, v)| v == volume && is_one_folder(s, host, other))
    };
    meant.iter().filter(is_first).cloned().collect()
}

/// Whether what was found is what was asked about: the same volumes, though a host that shares a folder may have looked into it
/// meanwhile and list them as well.
fn is_same(s: Situation<'_>, asked: &Meant, found: &Meant) -> bool {
    let is_one_of = |host: &Label, volume: &VolumeName| {
        asked
            .iter()
            .any(|(other, v)| v == volume && is_one_folder(s, host, other))
    };
    asked.is_subset(found) && found.iter().all(|(host, volume)| is_one_of(host, volume))
}

fn steps(meant: &Meant) -> Vec<Step> {
    meant
        .iter()
        .map(|(host, volume)| by_hand(host, &volume.name))
        .collect()
}

/// Which volumes are meant; all of them may go, as far as record, hosts and proofs show. Where every one is asked for, also those
/// that may not, each with the reason.
fn decide(
    ctx: &Context<'_>,
    record: &Record,
    inventory: &Inventory,
    names: &[String],
    all: bool,
) -> Result<(Meant, Vec<String>)> {
    let experience = Experience::default();
    let situation = situation(ctx, record, inventory, &experience);
    refuse_what_is_barred(situation)?;
    let claims = claims(situation);
    let nobodys = || {
        let free = claims.iter().filter(|(_, _, claim)| *claim == Claim::Nobody);
        free.map(|(host, volume, _)| (host.clone(), volume.clone()))
    };
    let mut meant: Meant = match all {
        true => nobodys().collect(),
        false => nobodys().filter(|(_, v)| names.contains(&v.name)).collect(),
    };
    let set = &record.applied;
    for name in names {
        if VolumeName::parse(&set.name, name).is_none() {
            let text = format!(
                "{name} is no name that vmss gives a volume of {}: nothing was done",
                set.name
            );
            return Err(Error::message(Exit::Usage, text)
                .hint("vmss show tells the names; anything else is deleted by hand (virsh vol-delete)"));
        }
        let of_it = claims.iter().filter(|(_, v, _)| v.name == *name);
        for (host, volume, claim) in of_it {
            let (why, hint) = match claim {
                Claim::Nobody => continue,
                Claim::Going => (
                    "is left by vmss itself and goes without being asked for",
                    "vmss scale +0 does it",
                ),
                Claim::Used => (
                    "is an instance's",
                    "vmss instance delete deletes an instance with its disks",
                ),
            };
            let text = format!("{} on {host} {why}: nothing was done", volume.name);
            return Err(Error::message(Exit::Blocked, text).hint(hint));
        }
        if !meant.iter().any(|(_, v)| v.name == *name) {
            return Err(nowhere(inventory, name));
        }
    }
    // Before anybody is asked: what is in use is not offered.
    let proofs = proof::gather(ctx.world, set, &record.stores(), &steps(&meant));
    let mut spared = Vec::new();
    for (host, volume) in &meant.clone() {
        let used = match proofs.get(host) {
            Some(Ok((uses, _))) => uses
                .speaks_against(&volume.name, None)
                .or_else(|| outsiders(set, uses))
                .map(|why| (Exit::Blocked, why)),
            Some(Err(e)) => Some((Exit::Unreachable, e.to_string())),
            None => Some((Exit::Unreachable, "nobody has looked who uses what".to_owned())),
        };
        if let Some((exit, why)) = used {
            if all {
                meant.remove(&(host.clone(), volume.clone()));
                if is_told_before(situation, host, &volume.name) {
                    continue;
                }
                spared.push(format!("{} on {host} ({why})", volume.name));
                continue;
            }
            let text = format!(
                "{} on {host} can't be deleted: {why}; nothing was done",
                volume.name
            );
            return Err(Error::message(exit, text).hint(
                "look who needs it, or name the others; once nobody does, virsh vol-delete deletes it",
            ));
        }
    }
    Ok((meant, spared))
}

/// Why nobody can tell who uses what lies in a pool: hosts have their disks there that the definition does not name. An instance's
/// disk that has gone from here by nobody's word may be there.
fn outsiders(set: &ScaleSet, uses: &Uses) -> Option<String> {
    let own: BTreeSet<String> = set
        .hosts()
        .map(|(_, host)| PoolMark::host_of(&host.uri))
        .collect();
    let mark = uses.marks.iter().find(|mark| !own.contains(&mark.host))?;
    Some(format!(
        "a host that the definition does not name has its disks in that folder too, as {} there says, and can't be asked",
        mark.volume()
    ))
}

fn nowhere(inventory: &Inventory, name: &str) -> Error {
    let hidden: Vec<String> = (inventory.hosts.iter())
        .filter_map(|host| match host.seen() {
            None => Some(format!("host {}", host.name)),
            Some(seen) => seen
                .pool_unseen
                .as_ref()
                .map(|_| format!("the pool of {}", host.name)),
        })
        .collect();
    if hidden.is_empty() {
        return Error::message(
            Exit::Failed,
            format!("no host has a volume {name}: nothing was done"),
        )
        .hint("vmss show tells those there are");
    }
    let text = format!("no host that was seen has a volume {name}: nothing was done");
    Error::message(Exit::Unreachable, text)
        .hint(format!("not seen: {}; vmss check tells more", list(&hidden, 8)))
}

/// What the pools know of the volumes.
fn facts(
    ctx: &Context<'_>,
    record: &Record,
    meant: &Meant,
) -> Result<BTreeMap<(Label, String), VolumeFacts>> {
    let set = &record.applied;
    let mut by_host: BTreeMap<&Label, Vec<String>> = BTreeMap::new();
    for (host, volume) in meant {
        by_host.entry(host).or_default().push(volume.name.clone());
    }
    let hosts: Vec<Label> = by_host.keys().map(|host| (*host).clone()).collect();
    let open = by_host
        .into_iter()
        .filter_map(|(host, names)| Some((ctx.world.hosts.host(set.host(host)?, &set.limits), names)))
        .collect();
    let answers = ask_all(open, set.limits.call_timeout, |host, names| {
        host.volume_facts(&names)
    });
    let mut facts = BTreeMap::new();
    for (host, answer) in hosts.iter().zip(answers) {
        for fact in answer? {
            facts.insert((host.clone(), fact.name.clone()), fact);
        }
    }
    Ok(facts)
}

fn show(ctx: &Context<'_>, record: &Record, meant: &Meant, facts: &BTreeMap<(Label, String), VolumeFacts>) {
    let mut table = Table::new(["VOLUME", "HOST", "TAKES", "LAST CHANGE", "OF"]).right(2);
    for (host, volume) in meant.iter().take(SHOWN) {
        let fact = facts.get(&(host.clone(), volume.name.clone()));
        let changed = fact.and_then(|f| f.changed_at).map(moment);
        table.row([
            volume.name.clone(),
            host.to_string(),
            fact.map_or_else(|| "-".to_owned(), |f| f.allocation.to_string()),
            changed.unwrap_or_else(|| "-".to_owned()),
            owner(record, host, volume),
        ]);
    }
    ctx.table(&table);
    if meant.len() > SHOWN {
        ctx.print(format!("and {} more", count(meant.len() - SHOWN, "volume")));
    }
}

/// Whose it would be, and what has become of that instance.
fn owner(record: &Record, host: &Label, volume: &VolumeName) -> String {
    let id = volume.id;
    if let Some(known) = record.known.get(&id).filter(|k| volume.is_of(id, k.uuid)) {
        return format!("instance {id}, which lives on {}", known.host);
    }
    if let Some(gone) = record.departed.get(&id).filter(|d| volume.is_of(id, d.uuid)) {
        return format!(
            "instance {id}, which has gone from {} by nobody's word",
            gone.host
        );
    }
    let warrant = (record.warrants.of(host, id)).filter(|w| volume.is_of(id, w.uuid));
    if warrant.is_some_and(|w| matches!(w.cause, Cause::Fencing { .. })) {
        return format!("instance {id}, which was given up with its host");
    }
    if record.known.contains_key(&id) {
        return format!("another instance {id} than the one that lives");
    }
    format!("instance {id}, which the record does not have")
}
