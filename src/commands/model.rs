//! `vmss model list | show | diff`: the revisions of the set's model.

use serde::Serialize;

use crate::commands::Context;
use crate::error::{Error, Exit, Result};
use crate::model::{Change, Disruption, Model};
use crate::plan::change::{Because, Need, need};
use crate::plan::loss::{Disks, known_disks};
use crate::record::{Record, Revision};
use crate::request::Limits;
use crate::scaleset::{ScaleSet, Upgrade};
use crate::ui::table::Table;
use crate::ui::words::{ago, count};

#[derive(Serialize)]
struct Line<'a> {
    revision: u32,
    hash: &'a str,
    created_at: jiff::Timestamp,
    current: bool,
    instances: usize,
    image: &'a str,
}

/// Lists the revisions.
pub fn list(ctx: &Context<'_>) -> Result<Exit> {
    let record = ctx.target()?.record;
    let current = record.current().number;
    let lines: Vec<Line<'_>> = (record.models.iter())
        .map(|r| Line {
            revision: r.number,
            hash: &r.hash,
            created_at: r.created_at,
            current: r.number == current,
            instances: record
                .known
                .values()
                .filter(|k| k.confirmed && k.revision == Some(r.number))
                .count(),
            image: r.model.image.digest.short(),
        })
        .collect();
    if ctx.is_json() {
        ctx.json(&lines);
        return Ok(Exit::Converged);
    }
    let now = ctx.world.clock.now();
    let mut table = Table::new([
        "REVISION",
        "INSTANCES",
        "IMAGE",
        "VCPUS",
        "MEMORY",
        "DISK",
        "AGE",
        "",
    ])
    .right(0)
    .right(1)
    .right(3);
    for (line, revision) in lines.iter().zip(&record.models) {
        let model = &revision.model;
        table.row([
            line.revision.to_string(),
            line.instances.to_string(),
            line.image.to_owned(),
            model.vcpus.to_string(),
            model.memory.to_string(),
            model.disk.to_string(),
            ago(line.created_at, now),
            if line.current {
                "current".to_owned()
            } else {
                String::new()
            },
        ]);
    }
    ctx.table(&table);
    Ok(Exit::Converged)
}

/// Shows one revision whole; without a number the current one.
pub fn show(ctx: &Context<'_>, number: Option<u32>) -> Result<Exit> {
    let record = ctx.target()?.record;
    let revision = match number {
        None => record.current(),
        Some(number) => find(&record, number)?,
    };
    if ctx.is_json() {
        ctx.json(revision);
        return Ok(Exit::Converged);
    }
    let now = ctx.world.clock.now();
    let model = &revision.model;
    let is_current = revision.number == record.current().number;
    ctx.print(format!(
        "revision {}{}, hash {}, made {}",
        revision.number,
        if is_current { " (current)" } else { "" },
        revision.hash,
        ago(revision.created_at, now)
    ));
    // What it has beside nothing: each key of the definition with its value.
    let nothing = Model {
        user_data: None,
        networks: Vec::new(),
        data_disks: Vec::new(),
        ..model.clone()
    };
    ctx.print(format!(
        "  image                   {} {}",
        model.image.format.as_str(),
        model.image.digest.0
    ));
    ctx.print(format!("  instance.vcpus          {}", model.vcpus));
    ctx.print(format!("  instance.memory         {}", model.memory));
    ctx.print(format!("  instance.disk           {}", model.disk));
    for change in nothing.changes(model) {
        ctx.print(format!("  {:<23} {}", change.key, change.to));
    }
    Ok(Exit::Converged)
}

#[derive(Serialize)]
struct Difference<'a> {
    from: Option<u32>,
    to: Option<u32>,
    needs: Disruption,
    because: Because,
    /// Data disks of instances that it replaces.
    data_disks: Disks,
    /// Whether they may be deleted by it, without anybody typing so.
    data_disks_may_go: bool,
    changes: &'a [Change],
}

/// Shows what differs between two revisions, or between the current one and the definition.
pub fn diff(ctx: &Context<'_>, from: Option<u32>, to: Option<u32>) -> Result<Exit> {
    let target = ctx.target()?;
    let record = &target.record;
    let first = match from {
        None => record.current(),
        Some(number) => find(record, number)?,
    };
    let second: (Option<u32>, Model) = match to {
        Some(number) => (Some(number), find(record, number)?.model.clone()),
        None => match &target.definition {
            Some(set) => (None, ctx.model(set)?),
            None => {
                return Err(Error::message(
                    Exit::Usage,
                    "name two revisions, or the definition with -f FILE",
                ));
            }
        },
    };
    let changes = first.model.changes(&second.1);
    let rules = rules(
        record,
        to.is_none().then_some(target.definition.as_ref()).flatten(),
    );
    let needs = need_of(&first.model, &second.1, rules);
    let disks = disks_lost(record, from, first.number, &second.1, rules);
    let may_go = needs
        .beyond(Limits::default(), rules, !disks.is_empty())
        .is_none();
    if ctx.is_json() {
        ctx.json(&Difference {
            from: Some(first.number),
            to: second.0,
            needs: needs.class,
            because: needs.because,
            data_disks: disks,
            data_disks_may_go: may_go,
            changes: &changes,
        });
        return Ok(Exit::Converged);
    }
    let other = second
        .0
        .map_or_else(|| "the definition".to_owned(), |n| format!("revision {n}"));
    if changes.is_empty() {
        ctx.print(format!("revision {} and {other} are the same", first.number));
        return Ok(Exit::Converged);
    }
    let mut table = Table::new(["KEY", "FROM", "TO", "NEEDS", "WHY"]);
    for change in &changes {
        table.row([
            change.key.to_owned(),
            change.from.clone(),
            change.to.clone(),
            change.class.to_string(),
            change.why.to_owned(),
        ]);
    }
    ctx.table(&table);
    ctx.print(format!(
        "revision {} -> {other}: {}, at most {}{}",
        first.number,
        count(changes.len(), "change"),
        needs.class,
        match needs.because {
            Because::Method => " (upgrade.method)",
            Because::NoneToSpare => " (upgrade.max_unavailable = 0)",
            Because::Change | Because::Unknown | Because::NoRoom => "",
        }
    ));
    if !disks.is_empty() {
        ctx.print(match may_go {
            true => format!("! {disks} will be deleted"),
            false => format!(
                "! {disks} would be deleted: that takes upgrade.method = \"replace\" or --at-most replace"
            ),
        });
    }
    Ok(Exit::Converged)
}

/// The rules by which a change is brought about: those of the definition that it is in, or those that were applied.
fn rules<'a>(record: &'a Record, definition: Option<&'a ScaleSet>) -> &'a Upgrade {
    &definition.unwrap_or(&record.applied).upgrade
}

/// What a change needs: nothing where nothing differs, whatever the rules say of changes.
fn need_of(from: &Model, to: &Model, rules: &Upgrade) -> Need {
    if from.hash() == to.hash() {
        let (class, because) = (Disruption::None, Because::Change);
        return Need { class, because };
    }
    need(Some(from), to, rules)
}

/// The data disks of instances that would be replaced on the way to `to`: of those of revision `first`, or of every instance if
/// no revision was named.
fn disks_lost(record: &Record, named: Option<u32>, first: u32, to: &Model, rules: &Upgrade) -> Disks {
    let is_meant = |number: u32| named.is_none() || number == first;
    (record.known.values().filter(|k| k.confirmed))
        .filter(|k| {
            let revision = k
                .revision
                .filter(|n| is_meant(*n))
                .and_then(|n| record.revision(n));
            revision.is_some_and(|r| need_of(&r.model, to, rules).class == Disruption::Replace)
        })
        .map(|k| known_disks(record, k))
        .sum()
}

fn find(record: &Record, number: u32) -> Result<&Revision> {
    record.revision(number).ok_or_else(|| {
        let known: Vec<String> = record.models.iter().map(|r| r.number.to_string()).collect();
        Error::message(Exit::Failed, format!("the record has no revision {number}"))
            .hint(format!("there are: {}", known.join(", ")))
    })
}
