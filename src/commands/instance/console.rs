//! `vmss instance console`: the serial console on this terminal, or what it says on stdout.

use std::io::Write as _;
use std::time::Duration;

use super::select::{look_for, one, select, unseen};
use crate::commands::Context;
use crate::error::{Error, Exit, Result};
use crate::hypervisor::Viewer;
use crate::names::{InstanceId, instance_name};
use crate::plan::action::InstanceRef;
use crate::world::{Interrupt, Keyboard, Output};

/// What leaves the console: Ctrl-], as telnet and virsh have it.
const LEAVE: u8 = 0x1d;

/// Somebody at a terminal, or a program that reads.
struct Here {
    stdout: Output,
    keyboard: Option<Box<dyn Keyboard>>,
    interrupt: Interrupt,
    left: bool,
}

impl Viewer for Here {
    fn typed(&mut self, wait: Duration) -> Option<Vec<u8>> {
        if self.interrupt.is_set() || self.left {
            return None;
        }
        let Some(keyboard) = &mut self.keyboard else {
            std::thread::sleep(wait);
            return Some(Vec::new());
        };
        let mut keys = keyboard.typed(wait)?;
        if let Some(at) = keys.iter().position(|key| *key == LEAVE) {
            // What was typed before still goes to the guest.
            keys.truncate(at);
            self.left = true;
            return (at > 0).then_some(keys);
        }
        Some(keys)
    }

    fn show(&mut self, bytes: &[u8]) {
        // A reader that went away shows by its signal.
        let _ = self.stdout.write_all(bytes);
        let _ = self.stdout.flush();
    }
}

/// Opens the console of one instance.
pub fn run(ctx: &Context<'_>, id: InstanceId, force: bool) -> Result<Exit> {
    let mut target = ctx.target()?;
    let selection = one(id);
    let inventory = look_for(ctx, &mut target, &selection);
    select(&target.record, &inventory, &selection)?;
    let set = &target.record.applied;
    let name = instance_name(&set.name, id);
    if let Some(why) = unseen(&target.record, &inventory, id) {
        return Err(Error::message(Exit::Unreachable, format!("{name}: {why}"))
            .hint("vmss check tells what is wrong with the host"));
    }
    let found = (inventory.hosts.iter()).find_map(|h| {
        Some((
            set.host(&h.name)?,
            h.seen()?.instances.iter().find(|i| i.id == id)?,
        ))
    });
    let Some((host, instance)) = found else {
        return Err(Error::message(Exit::Failed, format!("{name} is gone")));
    };
    let reference = InstanceRef {
        set: set.name.clone(),
        store: target.record.store,
        id,
        name: name.clone(),
        uuid: instance.uuid,
        epoch: target.record.epoch,
    };
    let hypervisor = ctx.world.hosts.host(host, &set.limits);
    let env = &ctx.world.env;
    let interactive = env.stdin_is_terminal && env.stdout_is_terminal;
    if interactive {
        ctx.say(format!(
            "{name} on {}: Ctrl-] leaves the console, Enter wakes it",
            host.name
        ));
    }
    let keyboard = match interactive {
        true => Some((ctx.world.keyboard)().map_err(|e| Error::from(e).context("reading the terminal"))?),
        false => None,
    };
    let mut here = Here {
        stdout: ctx.world.stdout.clone(),
        keyboard,
        interrupt: ctx.world.interrupt.clone(),
        left: false,
    };
    let seen = hypervisor.console(&reference, force, &mut here);
    // Before anything else is said: a terminal that passes keys on wraps no lines.
    here.keyboard = None;
    seen.map_err(|e| {
        let is_open = e.message.contains("Active console session");
        let is_off = e.message.contains("not running");
        let error = Error::from(e);
        match (is_open, is_off) {
            (true, _) => error.hint("--force takes it from whoever has it open"),
            (_, true) => error.hint("vmss instance start switches it on"),
            _ => error,
        }
    })?;
    if interactive {
        let how = if here.left { "left" } else { "ended" };
        ctx.world.stderr.line(format!("\n{name}: the console was {how}"));
    }
    Ok(if ctx.world.interrupt.is_set() {
        Exit::Interrupted
    } else {
        Exit::Converged
    })
}
