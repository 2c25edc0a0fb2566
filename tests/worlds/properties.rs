//! What holds of every command in every world, by how things were before it and are after it.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;
use vmss::hypervisor::fake::{Content, Domain, HostAsItIs, Volume};
use vmss::inventory::Power;
use vmss::names::{VolumeName, parse_instance_name};
use vmss::record::{Known, Life, Record};

use crate::stage::{HOSTS, Managed, World, real, touchable};

/// Where something is: a host and a name.
type Place = (String, String);

/// How things were before a command.
pub struct Before {
    managed: Managed,
    record: Option<Record>,
    /// What was given up when the set ended.
    left: Option<Record>,
    hosts: Vec<HostAsItIs>,
    /// Domains that the command has no business with.
    theirs: BTreeMap<Place, Domain>,
    robbed: BTreeSet<String>,
    steps: usize,
}

/// What a command did.
pub struct Did<'a> {
    pub args: &'a [String],
    pub exit: u8,
    pub text: &'a str,
    /// Whether its process was killed.
    pub killed: bool,
}

impl Did<'_> {
    fn verb(&self) -> &str {
        let words = self.args.iter().skip_while(|a| *a != "-f").skip(2);
        words.map(String::as_str).next().unwrap_or_default()
    }

    fn says(&self, words: &str) -> bool {
        self.args.join(" ").contains(words)
    }

    /// Whether it brings the set to what is wanted of it.
    fn converges(&self) -> bool {
        let is_plain = !self.says("scale +0 --for");
        is_plain
            && matches!(
                self.verb(),
                "create" | "scale" | "apply" | "repair" | "upgrade" | "delete"
            )
    }

    /// Whether it says whose something is: it may write notes of the set's domains anew, whosever they were.
    fn takes_in(&self) -> bool {
        ["instance adopt", "instance settle", "state "]
            .iter()
            .any(|w| self.says(w))
    }
}

fn domains(hosts: &[HostAsItIs]) -> BTreeMap<Place, Domain> {
    let of = |h: &HostAsItIs| {
        let host = h.name.clone();
        let all = h.domains.clone().into_iter();
        all.map(move |d| ((host.clone(), d.name.clone()), d))
            .collect::<Vec<_>>()
    };
    hosts.iter().flat_map(of).collect()
}

fn volumes(hosts: &[HostAsItIs]) -> BTreeMap<Place, Volume> {
    let of = |h: &HostAsItIs| {
        let host = h.name.clone();
        let all = h.volumes.clone().into_iter();
        all.map(move |v| ((host.clone(), v.name.clone()), v))
            .collect::<Vec<_>>()
    };
    hosts.iter().flat_map(of).collect()
}

/// A domain without what changes by itself.
fn essence(domain: &Domain, note_counts: bool) -> impl PartialEq + std::fmt::Debug + use<> {
    let Domain {
        uuid,
        power,
        vcpus,
        memory,
        meta,
        macs,
        disks,
        held,
        ..
    } = domain.clone();
    (
        uuid,
        power,
        vcpus,
        memory,
        meta.filter(|_| note_counts),
        macs,
        (disks, held),
    )
}

impl Before {
    /// Looks at everything before a command.
    pub fn look(world: &World, args: &[String]) -> Self {
        let managed = world.meant(args);
        let record = world.record(&managed);
        let hosts = world.hosts();
        let mut ours = BTreeSet::new();
        // What was given up with a set that ended holds the warrants for what comes back.
        let left = world.abandoned(&managed);
        if let Some(record) = record.as_ref().or(left.as_ref()) {
            ours = touchable(record, &world.seen_of(record), &hosts);
            // Where the definition is made to count its hosts are looked at as well, and others no more.
            let defined = managed.hosts.iter().map(|h| real(h));
            let defined = defined.filter(|h| !world.down.contains(h)).collect();
            ours.extend(touchable(record, &defined, &hosts));
        }
        let mut theirs = domains(&hosts);
        theirs.retain(|place, _| !ours.contains(place));
        Self {
            robbed: world.fleet().robbed().into_iter().collect(),
            steps: world.fleet().steps(),
            managed,
            record,
            left,
            hosts,
            theirs,
        }
    }

    /// Whether all holds after it.
    ///
    /// # Errors
    /// What does not, in a sentence.
    pub fn check(&self, world: &World, did: &Did<'_>) -> Result<(), String> {
        let after = world.hosts();
        self.nothing_of_others_is_touched(did, &after)?;
        self.no_used_volume_goes(world, did, &after)?;
        self.no_volume_goes_that_nobody_named(did, &after)?;
        self.nothing_runs_twice(world, did, &after)?;
        self.nothing_is_given_out_twice(world, &after)?;
        self.it_ends(world, did)?;
        if did.killed {
            return Ok(());
        }
        self.the_exit_code_is_right(world, did, &after)
    }

    fn nothing_of_others_is_touched(&self, did: &Did<'_>, after: &[HostAsItIs]) -> Result<(), String> {
        let now = domains(after);
        for (place, was) in &self.theirs {
            if self.is_named(did, &place.1) {
                continue;
            }
            let notes_count = !did.takes_in() || was.meta.as_ref().is_none_or(|m| m.set != self.managed.set);
            let is = now.get(place).map(|d| essence(d, notes_count));
            let was = essence(was, notes_count);
            if is.as_ref() != Some(&was) {
                return Err(format!("{place:?} is no member and was {was:?}, and is {is:?}"));
            }
        }
        Ok(())
    }

    /// Whether the command says whose the domain of that name is.
    fn is_named(&self, did: &Did<'_>, domain: &str) -> bool {
        let named = did.args.iter().find_map(|a| a.parse::<u64>().ok());
        let claims = did.says("instance settle") || did.says("instance adopt");
        claims && parse_instance_name(&self.managed.set, domain).is_some_and(|id| Some(id.0) == named)
    }

    fn no_used_volume_goes(&self, world: &World, did: &Did<'_>, after: &[HostAsItIs]) -> Result<(), String> {
        // A host that the definition does not name, or names no more, nobody asks what it uses.
        let mut covered: BTreeSet<String> = HOSTS.iter().map(|(host, _)| (*host).to_owned()).collect();
        for record in self.record.iter().chain(&world.record(&self.managed)) {
            let of_it = world.hosts_of(record);
            covered.retain(|host| of_it.contains(host));
        }
        let robbed: BTreeSet<String> = world.fleet().robbed().into_iter().collect();
        let is_covered = |lost: &&String| lost.split(':').next().is_some_and(|host| covered.contains(host));
        if let Some(lost) = robbed.difference(&self.robbed).find(is_covered) {
            return Err(lost.clone());
        }
        if self.record.is_none() {
            return Ok(());
        }
        let (were, are) = (volumes(&self.hosts), volumes(after));
        let domains = (self.theirs.iter())
            .filter(|((host, name), _)| covered.contains(host) && !self.is_named(did, name));
        for ((host, name), domain) in domains {
            for disk in &domain.disks {
                let file = (host.clone(), disk.clone());
                let (Some(was), is) = (were.get(&file), are.get(&file)) else {
                    continue;
                };
                // A seed that is made again by a host that did not know of it is the same seed.
                let is_seed = matches!(was.content, Content::SharedSeed { .. });
                if is.is_none_or(|is| is.serial != was.serial && !is_seed) {
                    return Err(format!(
                        "{name} on {host} is no member, and its disk {disk} is gone or another"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Swept is what the record says that vmss has left itself, and what an operator names.
    fn no_volume_goes_that_nobody_named(&self, did: &Did<'_>, after: &[HostAsItIs]) -> Result<(), String> {
        if did.says("state sweep") {
            return Ok(());
        }
        let (were, are) = (volumes(&self.hosts), volumes(after));
        let record = self.record.as_ref().or(self.left.as_ref());
        let used: BTreeSet<&String> = (self.hosts.iter())
            .flat_map(|h| &h.domains)
            .flat_map(|d| &d.disks)
            .collect();
        for ((host, name), _) in were {
            let Some(volume) = VolumeName::parse(&self.managed.set, &name) else {
                continue;
            };
            let ours = record.is_some_and(|r| {
                let lives = r.known.iter().any(|(id, k)| volume.is_of(*id, k.uuid));
                let goes =
                    |(id, w): (&vmss::names::InstanceId, &vmss::warrants::Warrant)| volume.is_of(*id, w.uuid);
                let lost = r.written_off.iter().any(|(id, w)| volume.is_of(*id, w.uuid));
                let parts = r.warrants.parts.values().any(|parts| parts.contains_key(&name));
                lives || r.warrants.instances.values().flatten().any(goes) || lost || parts
            });
            if !ours && !used.contains(&name) && !are.contains_key(&(host.clone(), name.clone())) {
                return Err(format!(
                    "volume {name} on {host} was nobody's, and nobody named it, and it is gone"
                ));
            }
        }
        Ok(())
    }

    fn nothing_runs_twice(&self, world: &World, did: &Did<'_>, after: &[HostAsItIs]) -> Result<(), String> {
        let record = self.record.clone().or_else(|| world.record(&self.managed));
        let Some(record) = record else { return Ok(()) };
        let mut seen = world.seen_of(&record);
        // Whoever takes a host out of the definition has it looked at no more.
        if let Some(now) = world.record(&self.managed) {
            seen.retain(|host| world.hosts_of(&now).contains(host));
        }
        let running = |hosts: &[HostAsItIs]| {
            let mut times: BTreeMap<Uuid, usize> = BTreeMap::new();
            let domains = hosts
                .iter()
                .filter(|h| seen.contains(&h.name))
                .flat_map(|h| &h.domains);
            // In the middle of a move both are held for a moment.
            let runs = |d: &&Domain| d.is_active() && !(did.killed && d.power == Power::Paused);
            for domain in domains.filter(runs) {
                *times.entry(domain.uuid).or_default() += 1;
            }
            times
        };
        let before = running(&self.hosts);
        for (uuid, times) in running(after) {
            if times > before.get(&uuid).copied().unwrap_or_default().max(1) {
                return Err(format!("{uuid} runs {times} times now"));
            }
        }
        Ok(())
    }

    fn nothing_is_given_out_twice(&self, world: &World, after: &[HostAsItIs]) -> Result<(), String> {
        let were: BTreeSet<Uuid> = self
            .hosts
            .iter()
            .flat_map(|h| &h.domains)
            .map(|d| d.uuid)
            .collect();
        let mut news: BTreeSet<String> = BTreeSet::new();
        for domain in after
            .iter()
            .flat_map(|h| &h.domains)
            .filter(|d| !were.contains(&d.uuid))
        {
            for what in domain.macs.iter().cloned().chain([domain.uuid.to_string()]) {
                if world.knew(&what) || !news.insert(what.clone()) {
                    return Err(format!("{} has {what}, which was given out before", domain.name));
                }
            }
        }
        Ok(())
    }

    fn it_ends(&self, world: &World, did: &Did<'_>) -> Result<(), String> {
        let steps = world.fleet().steps() - self.steps;
        if steps > MOST_STEPS || did.text.contains("batches there is still something to do") {
            return Err(format!("it took {steps} steps"));
        }
        if did.text.contains("a fault of vmss") {
            return Err("it panicked".to_owned());
        }
        Ok(())
    }

    fn is_unchanged(&self, after: &[HostAsItIs]) -> Result<(), String> {
        let plain = |hosts: &[HostAsItIs]| {
            let domains = domains(hosts).into_iter();
            let domains: Vec<_> = domains
                .map(|(place, d)| (place, format!("{:?}", essence(&d, true))))
                .collect();
            (domains, volumes(hosts))
        };
        match plain(&self.hosts) == plain(after) {
            true => Ok(()),
            false => Err("something was changed".to_owned()),
        }
    }

    /// Whether a domain in sight has a note of this store's set with an id that the record has not given out.
    fn is_old(&self, record: &Record, seen: &BTreeSet<String>) -> bool {
        let mut domains = (self.hosts.iter())
            .filter(|h| seen.contains(&h.name))
            .flat_map(|h| &h.domains);
        domains.any(|d| {
            let note = d
                .meta
                .as_ref()
                .filter(|m| m.set == record.applied.name && m.store == record.store);
            let is_beyond = note.is_some_and(|m| m.id >= record.next_id);
            let is_seen = parse_instance_name(&record.applied.name, &d.name).is_some();
            is_beyond && is_seen && !record.disowned.contains(&d.uuid)
        })
    }

    /// The table of conditions and exit codes.
    fn the_exit_code_is_right(
        &self,
        world: &World,
        did: &Did<'_>,
        after: &[HostAsItIs],
    ) -> Result<(), String> {
        let exit = did.exit;
        let must = |is_so: bool, what: &str| match is_so {
            true => Ok(()),
            false => Err(format!("it ended with {exit}, though {what}")),
        };
        must(exit <= 6, "nobody else acts on the set, and nobody stopped it")?;
        let Some(record) = &self.record else {
            return self.without_a_record(world, did, must);
        };
        let (hosts, seen) = (world.hosts_of(record), world.seen_of(record));
        // Where there is no instance nothing is begun.
        let is_idle = did.text.contains("no instance is like that");
        let is_sharp = !is_idle && (did.converges() || did.says("host drain") || did.says("instance re"));
        let are_twins = |names: &mut dyn Iterator<Item = String>| {
            let mut all: Vec<String> = names
                .map(|n| real(&n))
                .filter(|h| !world.down.contains(h) && !world.poolless.contains(h))
                .collect();
            let many = all.len();
            all.sort();
            all.dedup();
            all.len() < many
        };
        let applied = are_twins(&mut record.applied.hosts().map(|(_, h)| h.name.to_string()));
        let in_the_file = are_twins(&mut self.managed.hosts.iter().cloned());
        // A definition without it, once it counts, is the end of it.
        let is_mended = matches!(did.verb(), "apply" | "delete") && !in_the_file;
        let defined = did.verb() == "apply" && in_the_file;
        if is_sharp && (applied || defined) && !is_mended {
            must(matches!(exit, 2..=5), "one host is there under two names")?;
            return self
                .is_unchanged(after)
                .map_err(|e| format!("{e}, though one host is there under two names"));
        }
        let mut looked_at = seen.clone();
        if did.verb() == "apply" {
            looked_at.retain(|h| self.managed.hosts.iter().any(|m| real(m) == *h));
        }
        let is_old = self.is_old(record, &looked_at);
        if did.converges() && is_old && exit != 3 {
            must(exit == 5, "the record is older than what is on the hosts")?;
        }
        if is_sharp && is_old {
            return self
                .is_unchanged(after)
                .map_err(|e| format!("{e}, though the record is old"));
        }
        let is_hidden = |h: &String| world.down.contains(h) || world.poolless.contains(h);
        let defined = self.managed.hosts.iter().map(|h| real(h));
        let any_hidden = hosts.iter().cloned().chain(defined).any(|h| is_hidden(&h));
        if exit == 4 {
            must(any_hidden, "every host and pool can be seen")?;
        }
        if exit == 3 {
            must(
                did.verb() == "apply" || did.verb() == "create",
                "the definition is not made to count",
            )?;
        }
        let now = world.record(&self.managed);
        if did.verb() == "delete" {
            if exit == 0 {
                must(now.is_none(), "the record is there")?;
                let mut left = (after.iter())
                    .filter(|h| seen.contains(&h.name))
                    .flat_map(|h| h.domains.iter().map(|d| (h.name.as_str(), d)));
                // One that has lost its note is a stranger, and one that may be where nobody can see.
                let may_be_elsewhere = |host: &str, k: &Known| {
                    let is = real(k.host.as_str());
                    is != host && !seen.contains(&is)
                };
                let is_member = |(host, d): (&str, &Domain)| {
                    let id = parse_instance_name(&self.managed.set, &d.name);
                    let known = id.and_then(|id| record.known.get(&id));
                    d.meta.is_some() && known.is_some_and(|k| k.uuid == d.uuid && !may_be_elsewhere(host, k))
                };
                must(!left.any(is_member), "members are there")?;
                must(
                    seen.len() == hosts.len() || did.says("--abandon-unseen"),
                    "not every host was seen",
                )?;
            }
            return Ok(());
        }
        let Some(now) = now else {
            return must(false, "the record is gone");
        };
        if exit == 0 && did.converges() {
            must(now.life == Life::Wanted, "the set is being deleted")?;
            self.as_many_run_as_are_wanted(world, &now, after, did)?;
        }
        if did.converges() && seen.is_empty() && record.capacity > 0 {
            must(matches!(exit, 3..=5), "not one host can be seen")?;
        }
        Ok(())
    }

    fn as_many_run_as_are_wanted(
        &self,
        world: &World,
        now: &Record,
        after: &[HostAsItIs],
        did: &Did<'_>,
    ) -> Result<(), String> {
        let seen = world.seen_of(now);
        let name = |id: &vmss::names::InstanceId| vmss::names::instance_name(&now.applied.name, *id);
        let members: BTreeMap<Uuid, String> = now.known.iter().map(|(id, k)| (k.uuid, name(id))).collect();
        let running: BTreeSet<Uuid> = (after.iter())
            .filter(|h| seen.contains(&h.name))
            .flat_map(|h| &h.domains)
            .filter(|d| d.is_active() && members.get(&d.uuid) == Some(&d.name))
            .map(|d| d.uuid)
            .collect();
        let wanted = now.capacity as usize;
        // That there are too many for a while is told.
        let is_told = did.text.contains("note: ") || did.text.contains("waiting: ");
        if running.len() < wanted || (running.len() > wanted && !is_told) {
            return Err(format!(
                "it ended with 0, though {} of {wanted} run",
                running.len()
            ));
        }
        Ok(())
    }

    fn without_a_record(
        &self,
        world: &World,
        did: &Did<'_>,
        must: impl Fn(bool, &str) -> Result<(), String>,
    ) -> Result<(), String> {
        let set = &self.managed.set;
        let down = |h: &str| world.down.contains(&real(h));
        let mut domains = (self.hosts.iter())
            .filter(|h| !world.down.contains(&h.name) && self.managed.hosts.iter().any(|m| real(m) == h.name))
            .flat_map(|h| &h.domains);
        // What was given up when the set ended goes when it comes back.
        let left = self.left.as_ref();
        let is_left = |d: &Domain| left.is_some_and(|r| r.written_off.values().any(|w| w.uuid == d.uuid));
        let is_its = |d: &Domain| d.meta.as_ref().is_some_and(|m| m.set == *set) && !is_left(d);
        let knows_what_was = self.left.is_some();
        let some =
            !knows_what_was && domains.any(|d| is_its(d) && parse_instance_name(set, &d.name).is_some());
        match did.verb() {
            "create" if some => must(did.exit != 0, "hosts have instances of which there is no record"),
            // What was given up may be back, or not, and what is beside it is told.
            "delete" if knows_what_was => Ok(()),
            "delete" => {
                let hidden = self.managed.hosts.iter().any(|h| down(h));
                let is_clear = !some && !hidden;
                must(
                    (did.exit == 0) == is_clear,
                    "that is not what hosts without a record are like",
                )
            }
            "scale" | "apply" | "repair" | "upgrade" => must(did.exit != 0, "there is no record"),
            _ => Ok(()),
        }
    }
}

/// More steps than a set of that size can need.
const MOST_STEPS: usize = 600;
