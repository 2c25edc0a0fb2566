//! `vmss host list`: the hosts with their room.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::commands::Context;
use crate::error::{Exit, Result};
use crate::hypervisor::HostFacts;
use crate::names::Label;
use crate::observe::ask_all;
use crate::record::Cordon;
use crate::scaleset::ScaleSet;
use crate::ui::table::Table;
use crate::ui::words::ago;

#[derive(Serialize)]
struct Line {
    host: Label,
    fault_domain: Label,
    uri: String,
    cordoned: Option<Cordon>,
    #[serde(flatten)]
    facts: Option<HostFacts>,
    error: Option<String>,
}

/// The set a host command is about: the definition as it is, or as it was applied if only the name was given.
pub fn meant(ctx: &Context<'_>) -> Result<ScaleSet> {
    if ctx.global.set.is_some() {
        Ok(ctx.target()?.record.applied)
    } else {
        ctx.definition()
    }
}

/// Hosts that the set's record has cordoned, if there is one.
fn cordons(ctx: &Context<'_>, set: &ScaleSet) -> Result<BTreeMap<Label, Cordon>> {
    let record = ctx.store(Some(set))?.get(&set.name)?;
    Ok(record.map_or_else(BTreeMap::new, |(record, _)| record.cordons))
}

/// Lists the hosts.
pub fn list(ctx: &Context<'_>) -> Result<Exit> {
    let set = meant(ctx)?;
    let cordons = cordons(ctx, &set)?;
    let open = set
        .hosts()
        .map(|(_, h)| (ctx.world.hosts.host(h, &set.limits), ()))
        .collect();
    let answers = ask_all(open, set.limits.call_timeout, |host, ()| host.facts());
    let lines: Vec<Line> = (set.hosts().zip(answers))
        .map(|((domain, host), answer)| {
            let (facts, error) = match answer {
                Ok(facts) => (Some(facts), None),
                Err(e) => (None, Some(e.to_string())),
            };
            Line {
                host: host.name.clone(),
                fault_domain: domain.clone(),
                uri: host.uri.clone(),
                cordoned: cordons.get(&host.name).cloned(),
                facts,
                error,
            }
        })
        .collect();
    let pool_unseen = |l: &Line| l.facts.as_ref().and_then(|f| f.pool_unseen.clone());
    let exit = if lines
        .iter()
        .any(|l| l.error.is_some() || pool_unseen(l).is_some())
    {
        Exit::Unreachable
    } else {
        Exit::Converged
    };
    if ctx.is_json() {
        ctx.json(&lines);
        return Ok(exit);
    }
    let mut table = Table::new([
        "HOST",
        "FAULT DOMAIN",
        "VCPUS",
        "MEMORY",
        "POOL FREE",
        "RUNNING",
        "LIBVIRT",
        "HYPERVISOR",
    ])
    .right(2)
    .right(3)
    .right(4)
    .right(5);
    for line in &lines {
        let mut cells = vec![line.host.to_string(), line.fault_domain.to_string()];
        match &line.facts {
            Some(f) => cells.extend([
                format!("{} of {}", f.used_vcpus, f.cpus),
                format!("{} of {}", f.used_memory, f.memory),
                match (f.pool_free, f.pool_size) {
                    (Some(free), Some(size)) => format!("{free} of {size}"),
                    _ => "not seen".to_owned(),
                },
                f.running.to_string(),
                f.libvirt.clone(),
                if f.kvm {
                    f.hypervisor.clone()
                } else {
                    format!("{} (no KVM)", f.hypervisor)
                },
            ]),
            None => cells.extend(["-", "-", "-", "-", "-", "not reached"].map(str::to_owned)),
        }
        table.row(cells);
    }
    ctx.table(&table);
    for line in &lines {
        if let Some(cordon) = &line.cordoned {
            let what = if cordon.drain { "being drained" } else { "cordoned" };
            ctx.print(format!(
                "! {} is {what} ({} by {})",
                line.host,
                ago(cordon.at, ctx.world.clock.now()),
                cordon.by
            ));
        }
        if let (Some(reason), Some(host)) = (pool_unseen(line), set.host(&line.host)) {
            ctx.print(format!(
                "! {}: pool {2} can't be seen: {reason}; virsh -c '{}' pool-start {2} may mend it",
                line.host, line.uri, host.pool
            ));
        }
        if let Some(error) = &line.error {
            ctx.print(format!("! {}: {error}", line.host));
        }
    }
    Ok(exit)
}
