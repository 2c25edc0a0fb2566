//! Commands that touch no host and no store: init, validate, schema, completions, man.

use std::path::Path;

use clap::CommandFactory as _;

use crate::cli::Cli;
use crate::commands::Context;
use crate::definition;
use crate::error::{Error, Exit, Result};
use crate::names::{Label, MAX_SET_NAME};
use crate::resolve;
use crate::ui::words::count;

/// Prints a definition to start from.
pub fn init(ctx: &Context<'_>, name: &Label) -> Result<Exit> {
    if name.as_str().len() > MAX_SET_NAME {
        return Err(Error::message(
            Exit::Usage,
            format!("a set's name may have {MAX_SET_NAME} characters at most"),
        ));
    }
    ctx.world.stdout.text(definition::template(name.as_str()));
    Ok(Exit::Converged)
}

/// Checks a definition, and the user data that it names.
pub fn validate(ctx: &Context<'_>) -> Result<Exit> {
    let set = ctx.definition()?;
    if let Some(text) = ctx.user_data(&set)? {
        resolve::user_data(&set, text).map_err(|e| Error::new(Exit::Definition, e))?;
    }
    if ctx.is_json() {
        ctx.json(&set);
    } else {
        ctx.print(format!(
            "{} is valid: set {}, {}, {} in {}",
            super::short_path(&ctx.file(), &ctx.world.env.cwd),
            set.name,
            count(set.capacity as usize, "instance"),
            count(set.hosts().count(), "host"),
            count(set.fault_domains.len(), "fault domain")
        ));
    }
    Ok(Exit::Converged)
}

/// Prints the definition's JSON Schema.
pub fn schema(ctx: &Context<'_>) -> Result<Exit> {
    ctx.json(&definition::schema());
    Ok(Exit::Converged)
}

/// Prints a completion script.
pub fn completions(ctx: &Context<'_>, shell: clap_complete::Shell) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vmss", &mut script);
    ctx.world.stdout.text(String::from_utf8_lossy(&script));
    Ok(Exit::Converged)
}

/// Prints the manual page, or writes one per command into a folder.
pub fn man(ctx: &Context<'_>, dir: Option<&Path>) -> Result<Exit> {
    let command = Cli::command();
    match dir {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            ctx.world.stdout.text(String::from_utf8_lossy(&page));
        }
        Some(dir) => {
            let dir = ctx.world.env.cwd.join(dir);
            std::fs::create_dir_all(&dir)?;
            clap_mangen::generate_to(command, &dir)?;
            ctx.say(format!("manual pages written to {}", dir.display()));
        }
    }
    Ok(Exit::Converged)
}
