//! `vmss image list | push | prune`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::commands::Context;
use crate::commands::host::meant;
use crate::commands::instance::claim::refuse_if_barred;
use crate::converge::proof;
use crate::error::{Error, Exit, Result};
use crate::event::Event;
use crate::execute::{End, Means, execute};
use crate::hypervisor::{HypervisorError, StoredImage};
use crate::model::ImageDigest;
use crate::names::{Label, StoreId};
use crate::observe::ask_all;
use crate::plan::action::{Action, Step};
use crate::scaleset::ScaleSet;
use crate::ui::table::Table;
use crate::ui::words::{count, list as words};
use crate::warrants::Warrants;

#[derive(Serialize)]
struct Line {
    host: Label,
    #[serde(flatten)]
    image: StoredImage,
}

type Answers = Vec<(Label, Result<Vec<StoredImage>, HypervisorError>)>;

fn ask(ctx: &Context<'_>, set: &ScaleSet) -> Answers {
    let open = set
        .hosts()
        .map(|(_, h)| (ctx.world.hosts.host(h, &set.limits), ()))
        .collect();
    let answers = ask_all(open, set.limits.call_timeout, |host, ()| host.images());
    set.hosts().map(|(_, h)| h.name.clone()).zip(answers).collect()
}

/// Says which hosts did not answer; the exit code that follows.
fn unseen(ctx: &Context<'_>, answers: &Answers) -> Exit {
    let mut exit = Exit::Converged;
    for (host, answer) in answers {
        if let Err(e) = answer {
            ctx.world
                .stderr
                .line(format!("warning: host {host} was not seen: {e}"));
            exit = Exit::Unreachable;
        }
    }
    exit
}

/// Lists images on each host.
pub fn list(ctx: &Context<'_>) -> Result<Exit> {
    let set = meant(ctx)?;
    let answers = ask(ctx, &set);
    let exit = unseen(ctx, &answers);
    let lines: Vec<Line> = (answers.into_iter())
        .flat_map(|(host, images)| {
            images.unwrap_or_default().into_iter().map(move |image| Line {
                host: host.clone(),
                image,
            })
        })
        .collect();
    if ctx.is_json() {
        ctx.json(&lines);
        return Ok(exit);
    }
    let mut table = Table::new(["HOST", "IMAGE", "SIZE", "STATE", "USED BY"]).right(2);
    for line in &lines {
        table.row([
            line.host.to_string(),
            line.image.digest.short().to_owned(),
            line.image.allocation.to_string(),
            match (line.image.whole, line.image.changed) {
                (true, _) => "whole",
                (false, true) => "changed",
                (false, false) => "half-sent",
            }
            .to_owned(),
            if line.image.users.is_empty() {
                "-".to_owned()
            } else {
                words(&line.image.users, 4)
            },
        ]);
    }
    ctx.table(&table);
    Ok(exit)
}

/// The stores whose images are ours: the present one, and those that managed the set before it.
fn stores(ctx: &Context<'_>, set: &ScaleSet) -> Result<Vec<StoreId>> {
    let store = ctx.store(Some(set))?;
    Ok(match store.get(&set.name)? {
        Some((record, _)) => record.stores(),
        None => vec![store.id()?],
    })
}

/// Carries out image steps on hosts, through the same executor as everything else.
fn carry_out(ctx: &Context<'_>, set: &ScaleSet, steps: &[Step]) -> Result<Vec<crate::execute::Ended>> {
    let (world, cache) = (ctx.world, ctx.world.env.cache.clone());
    let (source, interrupt) = (set.image.clone(), world.interrupt.clone());
    let means = Means {
        limits: set.limits.clone(),
        models: Arc::new(|_| None),
        image: Arc::new(move |_, pulse| {
            let beat = |_, _| pulse.beat();
            crate::images::local(&source, &cache, &interrupt, &beat).map_err(|e| e.to_string())
        }),
        uses: proof::of_batch(world, set, &stores(ctx, set)?, steps),
        warrants: Arc::new(Warrants::of_batch(steps)),
        // Images are nobody's lease.
        barrier: Arc::new(|| None),
        hosts: Arc::clone(&world.hosts),
        find_host: Arc::new(|_| None),
        stores: stores(ctx, set)?,
        listener: Arc::clone(&ctx.listener),
        interrupt: world.interrupt.clone(),
    };
    ctx.listener.event(&Event::Batch {
        number: 1,
        steps: steps.to_vec(),
    });
    Ok(execute(
        steps,
        |name| set.host(name).map(|h| world.hosts.host(h, &set.limits)),
        &means,
    ))
}

/// Refuses to change anything on the hosts if the set's record is old, or another store manages instances of it.
fn refuse_under_an_old_record(ctx: &Context<'_>, set: &ScaleSet) -> Result<()> {
    let store = ctx.store(Some(set))?;
    match store.get(&set.name)? {
        Some((record, _)) => refuse_if_barred(ctx, &*store, &record),
        None => Ok(()),
    }
}

/// Sends the set's image to every host that lacks it.
pub fn push(ctx: &Context<'_>) -> Result<Exit> {
    let set = meant(ctx)?;
    let digest = ctx.model(&set)?.image.digest;
    let answers = ask(ctx, &set);
    let exit = unseen(ctx, &answers);
    let lacking: Vec<Step> = (answers.iter())
        .filter(|(_, images)| {
            images
                .as_ref()
                .is_ok_and(|images| !images.iter().any(|i| i.whole && i.digest == digest))
        })
        .map(|(host, _)| Step {
            host: host.clone(),
            action: Action::PushImage {
                digest: digest.clone(),
            },
            why: "it is not there yet".into(),
        })
        .collect();
    if lacking.is_empty() {
        ctx.say(format!("image {} is on every host that was seen", digest.short()));
        return Ok(exit);
    }
    refuse_under_an_old_record(ctx, &set)?;
    let held = ctx.hold(
        &ctx.store(Some(&set))?,
        &set.name,
        &format!("image push {}", set.name),
    )?;
    let ended = carry_out(ctx, &set, &lacking)?;
    drop(held);
    let failed = ended.iter().filter(|e| e.end != End::Done).count();
    let sent = ended.len() - failed;
    ctx.say(format!(
        "image {}: sent to {}, {}",
        digest.short(),
        count(sent, "host"),
        count(failed, "failure")
    ));
    Ok(match (ctx.world.interrupt.is_set(), failed) {
        (true, 1..) => Exit::Interrupted,
        (_, 0) => exit,
        _ => Exit::Failed,
    })
}

/// Deletes images that nothing on their host is backed by.
pub fn prune(ctx: &Context<'_>) -> Result<Exit> {
    let set = meant(ctx)?;
    let answers = ask(ctx, &set);
    let exit = unseen(ctx, &answers);
    // What another store has sent is that store's to prune.
    let tags: Vec<String> = stores(ctx, &set)?.iter().map(|store| store.tag()).collect();
    let mut idle: BTreeMap<(Label, ImageDigest), bool> = BTreeMap::new();
    for (host, images) in &answers {
        for image in images
            .iter()
            .flatten()
            .filter(|image| tags.contains(&image.sender))
        {
            let entry = idle.entry((host.clone(), image.digest.clone())).or_insert(true);
            *entry &= image.users.is_empty();
        }
    }
    let steps: Vec<Step> = (idle.into_iter())
        .filter(|(_, idle)| *idle)
        .map(|((host, digest), _)| Step {
            host,
            action: Action::DeleteImage { digest },
            why: "nothing there is backed by it".into(),
        })
        .collect();
    if steps.is_empty() {
        ctx.say("no image to prune: each is used, or there is none");
        return Ok(exit);
    }
    refuse_under_an_old_record(ctx, &set)?;
    let question = format!("Delete {} from the hosts?", count(steps.len(), "unused image"));
    if !ctx.confirm(&question)? {
        ctx.say("nothing was changed");
        return Ok(Exit::Converged);
    }
    // The lease of the set keeps this store's own creates from racing with the prune.
    let held = ctx.hold(
        &ctx.store(Some(&set))?,
        &set.name,
        &format!("image prune {}", set.name),
    )?;
    let ended = carry_out(ctx, &set, &steps)?;
    drop(held);
    let gone = ended.iter().filter(|e| e.end == End::Done).count();
    let kept = ended.iter().filter(|e| e.end == End::Kept).count();
    ctx.say(format!(
        "{} deleted, {} kept because something had come to use them",
        count(gone, "image"),
        kept
    ));
    if ended.iter().any(|e| matches!(e.end, End::Failed(_))) {
        return Err(Error::message(Exit::Failed, "some images could not be deleted"));
    }
    Ok(exit)
}
