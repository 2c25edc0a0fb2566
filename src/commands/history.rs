//! `vmss history`: who did what, when, from, to, result.

use crate::commands::Context;
use crate::error::{Exit, Result};
use crate::ui::table::Table;
use crate::ui::words::{brief, moment};

/// Shows the newest operations.
pub fn run(ctx: &Context<'_>, limit: usize, all: bool) -> Result<Exit> {
    let operations = if all {
        let definition = if ctx.file().exists() {
            Some(ctx.definition()?)
        } else {
            None
        };
        ctx.store(definition.as_ref())?.history(None, limit)?
    } else {
        let (name, store, _) = ctx.meant()?;
        store.history(Some(&name), limit)?
    };
    if ctx.is_json() {
        ctx.json(&operations);
        return Ok(Exit::Converged);
    }
    let number = |n: Option<u32>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let mut table = Table::new(["WHEN", "WHO", "SET", "WHAT", "FROM", "TO", "TOOK", "RESULT"])
        .right(4)
        .right(5)
        .right(6);
    for op in &operations {
        let took = op.ended.map_or_else(
            || "-".to_owned(),
            |end| brief(std::time::Duration::try_from(end.duration_since(op.began)).unwrap_or_default()),
        );
        table.row([
            moment(op.began),
            op.who.clone(),
            op.set.to_string(),
            op.verb.clone(),
            number(op.from),
            number(op.to),
            took,
            op.outcome
                .clone()
                .unwrap_or_else(|| "did not end (killed, or still at it)".to_owned()),
        ]);
    }
    ctx.table(&table);
    Ok(Exit::Converged)
}
