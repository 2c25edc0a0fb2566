//! `vmss`: scale sets for plain libvirt/KVM hosts. ARCHITECTURE.md is the way in.

pub mod addresses;
pub mod answer;
pub mod aside;
pub mod autoscale;
pub mod balancer;
pub mod cli;
pub mod commands;
pub mod converge;
pub mod definition;
pub mod discovery;
pub mod download;
pub mod epoch;
pub mod error;
pub mod event;
pub mod execute;
pub mod exporter;
pub mod extents;
pub mod health;
pub mod here;
pub mod hosturi;
pub mod hypervisor;
pub mod image_file;
pub mod images;
pub mod intake;
pub mod inventory;
pub mod lease;
pub mod load_balancer;
pub mod membership;
pub mod metrics;
pub mod model;
pub mod names;
pub mod numbers;
pub mod observe;
pub mod ownership;
pub mod plan;
pub mod probe;
pub mod ranges;
pub mod record;
pub mod repairs;
pub mod request;
pub mod resolve;
pub mod rollout;
pub mod said;
pub mod scaleset;
pub mod scaling;
pub mod serve;
pub mod store;
pub mod supervise;
pub mod terminal;
pub mod timed;
pub mod trust;
pub mod ui;
pub mod units;
pub mod vitals;
pub mod warrants;
pub mod world;

use std::ffi::OsString;

use clap::Parser as _;

use crate::cli::Cli;
use crate::commands::Context;
use crate::error::{Error, Exit};
use crate::ui::style::Style;
use crate::world::World;

/// Runs one command line (without the program's name) in `world`; returns the exit code.
pub fn run(args: impl IntoIterator<Item = impl Into<OsString>>, world: &World) -> u8 {
    match parse(args, world) {
        Ok(cli) => carry_out(&cli, world),
        Err(exit) => exit,
    }
}

/// Reads one command line (without the program's name).
///
/// # Errors
/// It makes no sense, or asks for help or the version, which was said: the exit code.
pub fn parse(args: impl IntoIterator<Item = impl Into<OsString>>, world: &World) -> Result<Cli, u8> {
    let words = std::iter::once(OsString::from("vmss")).chain(args.into_iter().map(Into::into));
    Cli::try_parse_from(words).map_err(|e| {
        let text = e.render();
        if e.use_stderr() {
            world.stderr.text(if world.env.stderr_is_terminal {
                text.ansi().to_string()
            } else {
                text.to_string()
            });
            return Exit::Usage.code();
        }
        world.stdout.text(if world.env.stdout_is_terminal {
            text.ansi().to_string()
        } else {
            text.to_string()
        });
        Exit::Converged.code()
    })
}

/// Carries out a command line that was read, in `world`; returns the exit code.
pub fn carry_out(cli: &Cli, world: &World) -> u8 {
    let style = Style {
        color: ui::use_color(&cli.global, world, world.env.stdout_is_terminal),
    };
    let endless = matches!(cli.command, cli::Command::Run { .. });
    let listener = ui::listener(&cli.global, world, endless);
    let ctx = Context {
        world,
        global: &cli.global,
        listener,
        style,
    };
    match commands::dispatch(&ctx, &cli.command) {
        Ok(exit) => exit.code(),
        Err(e) => {
            tell(&ctx, &e);
            e.exit.code()
        }
    }
}

fn tell(ctx: &Context<'_>, error: &Error) {
    let style = Style {
        color: ui::use_color(ctx.global, ctx.world, ctx.world.env.stderr_is_terminal),
    };
    if error.is_rendered {
        ctx.world.stderr.text(error.to_string());
    } else {
        ctx.world.stderr.line(format!("{} {error}", style.bad("error:")));
    }
    for hint in &error.hints {
        ctx.world.stderr.line(format!("{} {hint}", style.strong("hint:")));
    }
}
