//! `vmss apply`: makes a changed definition count. What concerns the set counts at once; a changed model becomes a new
//! revision, to which the instances are brought as the upgrade policy says.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::cli::ApplyArgs;
use crate::commands::instance::claim::{refuse_what_is_barred, situation};
use crate::commands::{Context, consent, ranges, upgrade};
use crate::converge::{amend, glance, look, twins};
use crate::error::{Error, Exit, Result};
use crate::inventory::Inventory;
use crate::load_balancer::Dropped;
use crate::model::{Change, Disruption, Model};
use crate::names::{InstanceId, Label};
use crate::ownership::{Strangeness, Twins};
use crate::plan::Experience;
use crate::plan::loss::Named;
use crate::record::Record;
use crate::request::{Limits, Request, Verb};
use crate::scaleset::{Host, Method, ScaleSet, UpgradePolicy};
use crate::ui::words::ranges as ids;

/// Applies the definition.
pub fn run(ctx: &Context<'_>, args: &ApplyArgs) -> Result<Exit> {
    let target = ctx.wanted()?;
    let Some(set) = target.definition.clone() else {
        return Err(Error::message(
            Exit::Usage,
            "apply needs the definition: name it with -f FILE",
        ));
    };
    ranges::check(ctx, &*target.store, &set, Some(&target.record))?;
    let model = ctx.model(&set)?;
    let changes = target.record.current().model.changes(&model);
    allow(&set, &target.record, &changes, args.at_most)?;

    let held = ctx.hold(&target.store, &set.name, &format!("apply {}", set.name))?;
    let (record, _) = amend(&*target.store, &set.name, |_| false)?;
    let inventory = look(ctx.world, &*target.store, &record.applied, &record);
    refuse_what_is_barred(situation(ctx, &record, &inventory, &Experience::default()))?;
    // What was seen is written down only once it is clear that something is to be done.
    let mut seen = record.clone();
    seen.absorb(&inventory);
    let twins = twins::find(ctx.world, &record.applied, &inventory);
    let in_use = seen.known.values().map(|k| k.host.clone()).collect();
    refuse_lost_hosts(&record.applied, &set, &in_use, &twins)?;
    refuse_lost_copies(&seen, &set, &inventory, &twins)?;

    // The hosts as they will be: one that is added may be one that is there already.
    let will_be = glance(ctx.world, &*target.store, &set, &record);
    twins::refuse(ctx.world, &set, &will_be)?;
    refuse_other_machines(&seen, &set, &will_be)?;

    let keys = changed_keys(&record.applied, &set);
    if keys.is_empty() && changes.is_empty() {
        ctx.say(format!("{}: the definition is applied already", set.name));
    } else {
        ctx.say(format!("{}: applying {}", set.name, named(&keys)));
    }
    for change in &changes {
        ctx.say(format!("  {}", sentence(change)));
    }
    if record.capacity != set.capacity {
        ctx.say(format!(
            "note: capacity stays {} (the definition says {}); vmss scale {} changes it",
            record.capacity, set.capacity, set.capacity
        ));
    }
    let file = ctx.file();
    let request = request(ctx, args.at_most);
    // What would come of it is known before anything of it is written down.
    let mut next = seen;
    make_count(&mut next, &set, model.clone(), &request);
    let foreseen = consent::foresee_whole(ctx, &next, &inventory);
    // What a rollout that was begun before still may not do keeps nobody from applying something else.
    if next.rollout != record.rollout {
        consent::within_limits(&set.name, &foreseen)?;
    }
    let head = format!("Apply the definition to {}?", set.name);
    let Some(agreed) = consent::ask_about(ctx, &foreseen, &head, named_by(&record, request.limits))? else {
        return Ok(Exit::Converged);
    };
    let (record, _) = amend(&*target.store, &set.name, |record| {
        record.absorb(&inventory);
        make_count(record, &set, model.clone(), &request);
        record.definition.clone_from(&file);
        true
    })?;
    if !changes.is_empty() && set.upgrade.policy == UpgradePolicy::Manual {
        ctx.say(format!(
            "{}: revision {} is current; upgrade.policy is manual, so vmss upgrade brings the instances to it",
            set.name,
            record.current().number
        ));
    }
    let operation = ctx.operation(&set.name, "apply", Some(record.capacity), Some(record.capacity));
    let ending = ctx.converge(&target.store, &held, &operation, agreed)?;
    Ok(upgrade::conclude(ctx, &set.name, "apply", &ending))
}

/// What `vmss apply` asks for.
pub fn request(ctx: &Context<'_>, at_most: Option<Disruption>) -> Request {
    Request {
        what: Verb::Apply,
        by: ctx.world.env.who(),
        at: ctx.world.clock.now(),
        limits: Limits::at_most(at_most),
    }
}

/// What a command deletes by its own words that begins a rollout or goes on with one: those that it replaces if it says so, or
/// if the rollout was begun before.
pub fn named_by(record: &Record, limits: Limits) -> Named {
    Named {
        scale_in: false,
        rollout: limits.allows_replacing() || record.rollout.as_ref().is_some_and(|r| r.is_active()),
    }
}

/// Changes the record as applying the definition does.
pub fn make_count(record: &mut Record, set: &ScaleSet, model: Model, request: &Request) {
    let dropped = Dropped::of(
        (&record.applied.load_balancer, &record.applied.discovery),
        (&set.load_balancer, &set.discovery),
    );
    record.dropped.extend(dropped);
    for (from, to) in renamed_hosts(&record.applied, set) {
        record.rename_host(&from, &to);
    }
    record.redefine(set);
    let before = record.current().number;
    if record.current().hash == model.hash() {
        return;
    }
    record.adopt_model(model, request.at);
    record.forget_old_models();
    if set.upgrade.policy != UpgradePolicy::Manual && record.known.values().any(|k| k.confirmed) {
        upgrade::begin(record, before, set.upgrade.clone(), request.clone());
    }
}

/// Refuses a change of the model that may not be made, or not now.
pub fn allow(set: &ScaleSet, record: &Record, changes: &[Change], at_most: Option<Disruption>) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    if let Some(rollout) = record.rollout.as_ref().filter(|r| r.is_active()) {
        return Err(Error::message(
            Exit::Blocked,
            format!(
                "a rollout to revision {} of {} is under way, and the definition changes the model again ({})",
                rollout.target,
                set.name,
                keys(changes)
            ),
        )
        .hint("let it end (vmss upgrade), or vmss upgrade cancel, then apply"));
    }
    if let Some(limit) = at_most
        && let Some(change) = changes.iter().find(|c| c.class > limit)
    {
        return Err(Error::message(
            Exit::Blocked,
            format!("{}, and --at-most {limit} forbids that", sentence(change)),
        ));
    }
    let replacing = changes.iter().find(|c| c.class == Disruption::Replace);
    if let (Method::Reimage, Some(change)) = (set.upgrade.method, replacing) {
        return Err(Error::message(
            Exit::Blocked,
            format!(
                "{}, and upgrade.method = \"reimage\" keeps the instances",
                sentence(change)
            ),
        )
        .hint("put the key back, or write upgrade.method = \"auto\""));
    }
    Ok(())
}

/// What has changed, in words: what a definition only refers to has no key that differs.
pub fn named(keys: &[&str]) -> String {
    if keys.is_empty() {
        return "another image or user data under the same name".to_owned();
    }
    keys.join(", ")
}

fn keys(changes: &[Change]) -> String {
    changes.iter().map(|c| c.key).collect::<Vec<_>>().join(", ")
}

/// A change in a sentence: "instance.memory: 1.0 GiB -> 2.0 GiB needs restart: a guest counts its memory when it boots".
pub fn sentence(change: &Change) -> String {
    format!(
        "{}: {} -> {} needs {}: {}",
        change.key, change.from, change.to, change.class, change.why
    )
}

/// Hosts that have another name in the definition now, old and new: what is asked at one URI for one pool is one host.
fn renamed_hosts(applied: &ScaleSet, wanted: &ScaleSet) -> Vec<(Label, Label)> {
    let is_it = |old: &Host, new: &Host| (&old.uri, &old.pool) == (&new.uri, &new.pool);
    let gone = applied
        .hosts()
        .filter(|(_, old)| wanted.host(&old.name).is_none());
    gone.filter_map(|(_, old)| {
        let new = wanted.hosts().find(|(_, new)| is_it(old, new))?.1;
        // One that is taken out because it was there under two names has its instances under the other.
        Some((old.name.clone(), new.name.clone()))
    })
    .collect()
}

/// Hosts that are looked at no more once `wanted` is applied, under no other name either.
pub fn lost_hosts<'a>(applied: &'a ScaleSet, wanted: &ScaleSet, twins: &[Twins]) -> Vec<&'a Label> {
    let renamed = renamed_hosts(applied, wanted);
    let is_kept = |name: &Label| {
        let others = twins.iter().filter_map(|t| match name {
            _ if t.first == *name => Some(&t.second),
            _ if t.second == *name => Some(&t.first),
            _ => None,
        });
        wanted.host(name).is_some()
            || renamed.iter().any(|(from, _)| from == name)
            || others.into_iter().any(|other| wanted.host(other).is_some())
    };
    let names = applied.hosts().map(|(_, h)| &h.name);
    names.filter(|name| !is_kept(name)).collect()
}

/// A host with a copy of an instance, whatever it is called there, stays in the definition: out of sight it would be forgotten, and
/// the other taken for the only one, started beside it, or changed with disks that the copy has too.
pub fn refuse_lost_copies(
    record: &Record,
    wanted: &ScaleSet,
    inventory: &Inventory,
    twins: &[Twins],
) -> Result<()> {
    let odd = &inventory.odd;
    let lost = lost_hosts(&record.applied, wanted, twins);
    let mut doubles = odd
        .doubles
        .iter()
        .flat_map(|d| d.places.iter().map(move |p| (&p.host, d.id)));
    if let Some((host, id)) = doubles.find(|(host, _)| lost.contains(host)) {
        let text =
            format!("the definition drops host {host}, which has a copy of instance {id}, with its UUID");
        return Err(Error::message(Exit::Blocked, text).hint(format!(
            "keep it until there is one of them: vmss instance settle {id} --keep HOST, or undefine by hand the one that is not to be"
        )));
    }
    let mut strangers = (odd.strangers.iter())
        .filter(|other| other.why != Strangeness::Disowned && lost.contains(&&other.host))
        .filter_map(|other| Some((other, record.id_of(other.uuid)?)));
    let Some((other, id)) = strangers.next() else {
        return Ok(());
    };
    let text = format!(
        "the definition drops host {}, whose domain {} has the UUID of instance {id}",
        other.host, other.name
    );
    Err(Error::message(Exit::Blocked, text).hint(format!(
        "undefine it by hand if it is not to be, or vmss instance disown {} if it is none of the set's",
        other.uuid
    )))
}

/// A host may leave the definition only when nothing of the set is on it, or its instances would be out of reach.
fn refuse_lost_hosts(
    applied: &ScaleSet,
    wanted: &ScaleSet,
    in_use: &BTreeSet<Label>,
    twins: &[Twins],
) -> Result<()> {
    let lost = lost_hosts(applied, wanted, twins);
    let lost: Vec<&str> = (lost.into_iter().filter(|name| in_use.contains(name)))
        .map(Label::as_str)
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(Error::message(
        Exit::Blocked,
        format!(
            "the definition drops hosts that have instances of the set: {}",
            lost.join(", ")
        ),
    )
    .hint("keep them until their instances are gone (scale in), then apply again")
    .hint("of a host that has another name and another URI now, change one of them at a time"))
}

/// Refuses another URI or pool of a host under the same name, unless its instances and their disks are seen there: what is not would
/// be taken for gone, and others made in its place while it runs on where nobody looks. `will_be` is what the hosts of `wanted` show.
fn refuse_other_machines(record: &Record, wanted: &ScaleSet, will_be: &Inventory) -> Result<()> {
    let there: BTreeSet<Uuid> = (will_be.instances().map(|i| i.uuid))
        .chain(will_be.odd.aside().map(|(_, i)| i.uuid))
        .collect();
    for (_, old) in record.applied.hosts() {
        let Some(new) = wanted.host(&old.name) else {
            continue;
        };
        let what = match (old.uri != new.uri, old.pool != new.pool) {
            (false, false) => continue,
            (true, _) => "URI",
            (false, true) => "pool",
        };
        let known = || record.known.iter().filter(|(_, k)| k.host == old.name);
        if known().next().is_none() {
            continue;
        }
        let name = &old.name;
        let seen = will_be.host(name).and_then(|h| h.seen());
        let unseen = match seen {
            None => Some(format!("{name} can't be seen there")),
            Some(seen) if old.pool != new.pool => {
                (seen.pool_unseen.as_ref()).map(|why| format!("pool {} there can't be seen: {why}", new.pool))
            }
            Some(_) => None,
        };
        if let Some(why) = unseen {
            let text = format!(
                "the definition gives host {name} another {what}, {why}, and whether the set's instances are there can't be told; \
                 nothing was changed"
            );
            return Err(Error::message(Exit::Unreachable, text).hint(format!(
                "put its {what} back, or apply again when vmss check finds nothing wrong"
            )));
        }
        let has_disks = |id: InstanceId, uuid: Uuid| {
            let volumes = will_be
                .hosts
                .iter()
                .filter_map(|h| h.seen())
                .flat_map(|h| &h.volumes);
            old.pool == new.pool || volumes.into_iter().any(|volume| volume.is_of(id, uuid))
        };
        let lost: Vec<u64> = known()
            .filter(|(id, k)| !there.contains(&k.uuid) || !has_disks(**id, k.uuid))
            .map(|(id, _)| id.0)
            .collect();
        if !lost.is_empty() {
            let (noun, are) = if lost.len() == 1 {
                ("instance", "is")
            } else {
                ("instances", "are")
            };
            let text = format!(
                "the definition gives host {name} another {what}, and {noun} {} {are} not there; nothing was changed",
                ids(lost)
            );
            return Err(Error::message(Exit::Blocked, text).hint(format!(
                "put its {what} back and empty it first (vmss host drain {name}), or give the other one a name of its own"
            )));
        }
    }
    Ok(())
}

/// Sections in which two definitions differ. Capacity is not one: the record holds it.
pub fn changed_keys(applied: &ScaleSet, wanted: &ScaleSet) -> Vec<&'static str> {
    // By name, so that a section that is added must say here what it is: one that is forgotten changes unnoticed.
    let ScaleSet {
        name: _,
        capacity: _,
        image,
        instance,
        fault_domains,
        placement,
        limits,
        scale_in,
        health,
        upgrade,
        repair,
        load_balancer,
        discovery,
        autoscale,
        state,
    } = applied;
    let mut keys = Vec::new();
    let mut note = |differs: bool, key| {
        if differs {
            keys.push(key);
        }
    };
    note(*image != wanted.image, "image");
    note(*instance != wanted.instance, "instance");
    note(*fault_domains != wanted.fault_domains, "fault_domains");
    note(*placement != wanted.placement, "placement");
    note(*limits != wanted.limits, "limits");
    note(*scale_in != wanted.scale_in, "scale_in");
    note(*health != wanted.health, "health");
    note(*upgrade != wanted.upgrade, "upgrade");
    note(*repair != wanted.repair, "repair");
    note(*load_balancer != wanted.load_balancer, "load_balancer");
    note(*discovery != wanted.discovery, "discovery");
    note(*autoscale != wanted.autoscale, "autoscale");
    note(*state != wanted.state, "state");
    keys
}
