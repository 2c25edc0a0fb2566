//! `vmss instance ...`: single instances. Something must be selected: a command that is given nothing does nothing.

mod adopt;
pub mod claim;
mod console;
mod disown;
mod each;
mod exec;
mod log;
mod operate;
mod select;
mod settle;
mod ssh;

use crate::cli::{InstanceCommand, ProtectFrom};
use crate::commands::Context;
use crate::error::{Exit, Result};
use crate::inventory::Protection;
use crate::plan::operate::Operation;

/// Runs the command.
pub fn run(ctx: &Context<'_>, command: &InstanceCommand) -> Result<Exit> {
    let (selection, operation) = match command {
        InstanceCommand::Start(selection) => (selection, Operation::Start),
        InstanceCommand::Stop(selection) => (selection, Operation::Stop),
        InstanceCommand::Restart(selection) => (selection, Operation::Restart),
        InstanceCommand::Reimage(selection) => (selection, Operation::Reimage),
        InstanceCommand::Replace(selection) => (selection, Operation::Replace),
        InstanceCommand::Delete(selection) => (selection, Operation::Delete),
        InstanceCommand::Unprotect(selection) => (selection, Operation::Protect(Protection::None)),
        InstanceCommand::Protect { from, selection } => {
            let protection = match from {
                ProtectFrom::ScaleIn => Protection::ScaleIn,
                ProtectFrom::All => Protection::All,
            };
            (selection, Operation::Protect(protection))
        }
        InstanceCommand::Exec {
            selection,
            timeout,
            command,
        } => return exec::run(ctx, selection, *timeout, command),
        InstanceCommand::Settle { id, keep } => return settle::run(ctx, *id, keep),
        InstanceCommand::Adopt { id, host } => return adopt::run(ctx, *id, host.as_ref()),
        InstanceCommand::Disown { what, host, undo } => {
            return disown::run(ctx, *what, host.as_ref(), *undo);
        }
        InstanceCommand::Console { id, force } => return console::run(ctx, *id, *force),
        InstanceCommand::Log {
            selection,
            lines,
            follow,
        } => return log::run(ctx, selection, *lines, *follow),
        InstanceCommand::Ssh { id, login, args } => return ssh::run(ctx, *id, login.as_deref(), args),
    };
    operate::run(ctx, selection, operation)
}
