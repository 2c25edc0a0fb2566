//! `vmss list`: all sets of the store, as the store knows them; no host is asked.

use jiff::Timestamp;
use serde::Serialize;

use crate::commands::{Context, short_path};
use crate::error::{Error, Exit, Result};
use crate::lease::lease_key;
use crate::names::Label;
use crate::record::Life;
use crate::ui::table::Table;
use crate::ui::words::ago;

#[derive(Serialize)]
struct Line {
    set: Label,
    capacity: u32,
    known: usize,
    life: Life,
    revision: u32,
    hosts: usize,
    acting: Option<String>,
    definition: std::path::PathBuf,
    created_at: Timestamp,
}

/// Lists the sets.
pub fn run(ctx: &Context<'_>) -> Result<Exit> {
    // The definition only says which store; without one the usual store is meant.
    let definition = if ctx.file().exists() {
        Some(ctx.definition()?)
    } else {
        None
    };
    let store = ctx.store(definition.as_ref())?;
    let now = ctx.world.clock.now();
    let mut lines = Vec::new();
    // One record that can't be read is no reason to show none: it ends the command, once the others were shown.
    let mut unread: Option<Error> = None;
    for set in store.sets()? {
        let record = match store.get(&set) {
            Ok(Some((record, _))) => record,
            Ok(None) => continue,
            Err(e) => {
                unread.get_or_insert_with(|| e.into());
                continue;
            }
        };
        lines.push(Line {
            capacity: record.capacity,
            known: record.known.values().filter(|k| k.confirmed).count(),
            life: record.life,
            revision: record.current().number,
            hosts: record.applied.hosts().count(),
            acting: store.holder(&lease_key(&set), now)?.map(|h| h.doing),
            definition: record.definition,
            created_at: record.created_at,
            set,
        });
    }
    if ctx.is_json() {
        ctx.json(&lines);
        return unread.map_or(Ok(Exit::Converged), Err);
    }
    if lines.is_empty() {
        if let Some(e) = unread {
            return Err(e);
        }
        ctx.say(format!(
            "the store {} knows no set; vmss create makes one",
            store.location()
        ));
        return Ok(Exit::Converged);
    }
    let mut table = Table::new([
        "SET",
        "CAPACITY",
        "LAST SEEN",
        "REVISION",
        "HOSTS",
        "STATE",
        "DEFINITION",
        "AGE",
    ])
    .right(1)
    .right(2)
    .right(3)
    .right(4);
    for line in lines {
        let state = match (line.life, line.acting) {
            (_, Some(doing)) => doing,
            (Life::Deleting, None) => "deletion not finished".to_owned(),
            (Life::Wanted, None) => "-".to_owned(),
        };
        table.row([
            line.set.to_string(),
            line.capacity.to_string(),
            line.known.to_string(),
            line.revision.to_string(),
            line.hosts.to_string(),
            state,
            short_path(&line.definition, &ctx.world.env.cwd),
            ago(line.created_at, now),
        ]);
    }
    ctx.table(&table);
    unread.map_or(Ok(Exit::Converged), Err)
}
