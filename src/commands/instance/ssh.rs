//! `vmss instance ssh`: the system's ssh, with the address that `vmss instances` shows. No shell in between.

use super::select::{look_for, one, select, unseen};
use crate::commands::{Context, instances};
use crate::error::{Error, Exit, Result};
use crate::inventory::{Inventory, Power};
use crate::names::{InstanceId, instance_name};
use crate::record::Record;

/// Becomes `ssh [-l LOGIN] ADDRESS ARGS`.
pub fn run(ctx: &Context<'_>, id: InstanceId, login: Option<&str>, args: &[String]) -> Result<Exit> {
    let mut target = ctx.target()?;
    let selection = one(id);
    let inventory = look_for(ctx, &mut target, &selection);
    select(&target.record, &inventory, &selection)?;
    let name = instance_name(&target.name, id);
    let address = match instances::address_of(ctx.world, &target.record, &inventory, id) {
        Ok(address) => address,
        Err(Some(why)) => {
            return Err(Error::message(
                Exit::Blocked,
                format!("{name} names no address that it may have: {why}"),
            )
            .hint("vmss show tells what it names; vmss instance console does without"));
        }
        Err(None) => return Err(no_address(&target.record, &inventory, id, &name)),
    };
    let mut words: Vec<String> = Vec::new();
    if let Some(login) = login {
        words.extend(["-l".to_owned(), login.to_owned()]);
    }
    words.push(address.to_string());
    words.extend(args.iter().cloned());
    let error = (ctx.world.become_program)("ssh", &words);
    Err(Error::from(error)
        .context(format!("running ssh {}", words.join(" ")))
        .hint("ssh must be installed and in the PATH"))
}

/// Why there is no address, and what to do about it.
fn no_address(record: &Record, inventory: &Inventory, id: InstanceId, name: &str) -> Error {
    if let Some(why) = unseen(record, inventory, id) {
        return Error::message(Exit::Unreachable, format!("no address of {name} is known: {why}"))
            .hint("vmss check tells what is wrong with the host");
    }
    let runs = (inventory.instances()).any(|i| i.id == id && i.power == Power::Running);
    if !runs {
        return Error::message(Exit::Failed, format!("{name} is not running"))
            .hint("vmss instance start switches it on");
    }
    Error::message(Exit::Failed, format!("no address of {name} is known"))
        .hint("vmss knows those it gave (networks.addresses), and those that the guest agent or a DHCP lease tells")
        .hint("vmss instance console does without")
}
