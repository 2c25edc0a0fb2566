//! `vmss check`: everything a create will need, looked at beforehand; each line passes or fails with what to do.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::commands::Context;
use crate::commands::host::meant;
use crate::converge::twins;
use crate::error::{Exit, Result};
use crate::hypervisor::{FaultKind, Finding, Problem, Watch};
use crate::observe::{ask_all, observe};
use crate::ownership::Twins;
use crate::scaleset::{Host, ScaleSet};
use crate::ui::words::count;

#[derive(Serialize)]
struct Group {
    on: String,
    findings: Vec<Finding>,
}

/// Checks definition, image and hosts.
pub fn run(ctx: &Context<'_>) -> Result<Exit> {
    let set = meant(ctx)?;
    let mut groups = Vec::new();
    let model = match ctx.model(&set) {
        // Nothing is found out about an image that nobody wanted to wait for.
        Err(e) if e.exit == Exit::Interrupted => return Err(e),
        model => model,
    };
    let image = match &model {
        Ok(model) => Ok(format!(
            "{} {}, {} as a disk, sha256 {}",
            model.image.format.as_str(),
            model.image.file_size,
            model.image.virtual_size,
            model.image.digest.short()
        )),
        Err(e) => Err(Problem {
            problem: e.to_string(),
            remedy: "mend the image or the definition".to_owned(),
        }),
    };
    groups.push(Group {
        on: "here".to_owned(),
        findings: vec![Finding {
            what: "image".to_owned(),
            result: image,
        }],
    });
    let mut unreachable = false;
    if let Ok(model) = model {
        let model = Arc::new(model);
        let open = set
            .hosts()
            .map(|(_, h)| (ctx.world.hosts.host(h, &set.limits), Arc::clone(&model)))
            .collect();
        // Looking at a host takes several calls, each of which may take its time.
        let patience = set.limits.call_timeout + Duration::from_secs(5);
        let answers = ask_all(open, patience, |host, model| {
            host.facts()?;
            Ok(host.check(&model))
        });
        for ((domain, host), answer) in set.hosts().zip(answers) {
            let findings = answer.unwrap_or_else(|e| {
                unreachable |= matches!(e.kind, FaultKind::Unreachable | FaultKind::TimedOut);
                let remedy = format!(
                    "try: virsh -c '{}' version; see README, \"Setting up hosts\"",
                    host.uri
                );
                vec![Finding {
                    what: "connection".to_owned(),
                    result: Err(Problem {
                        problem: e.to_string(),
                        remedy,
                    }),
                }]
            });
            groups.push(Group {
                on: format!("{} ({domain})", host.name),
                findings,
            });
        }
    }
    let all = hosts_apart(ctx, &set);
    let is_twice = !all.is_empty();
    if !all.is_empty() {
        groups.push(Group {
            on: "all hosts".to_owned(),
            findings: all,
        });
    }
    for balancer in crate::serve::balancers(ctx.world, &set) {
        groups.push(Group {
            on: crate::serve::called(&balancer.name()),
            findings: balancer.check(),
        });
    }
    if let Some(policy) = &set.autoscale {
        let findings = crate::metrics::check(&ctx.world.numbers, policy);
        unreachable |= findings.iter().any(|f| f.result.is_err());
        if !findings.is_empty() {
            groups.push(Group {
                on: "numbers from elsewhere".to_owned(),
                findings,
            });
        }
    }
    let failures = groups
        .iter()
        .flat_map(|g| &g.findings)
        .filter(|f| f.result.is_err())
        .count();
    if ctx.is_json() {
        ctx.json(&groups);
    } else {
        for group in &groups {
            ctx.print(ctx.style.strong(&group.on));
            for finding in &group.findings {
                match &finding.result {
                    Ok(found) => {
                        ctx.print(format!("  {}  {}: {found}", ctx.style.good("pass"), finding.what))
                    }
                    Err(p) => {
                        ctx.print(format!(
                            "  {}  {}: {}",
                            ctx.style.bad("FAIL"),
                            finding.what,
                            p.problem
                        ));
                        ctx.print(format!("        -> {}", p.remedy));
                    }
                }
            }
        }
        ctx.say(if failures == 0 {
            "all checks passed".to_owned()
        } else {
            count(failures, "failure")
        });
    }
    Ok(match (failures, unreachable) {
        (0, _) => Exit::Converged,
        _ if is_twice => Exit::Definition,
        (_, true) => Exit::Unreachable,
        (_, false) => Exit::Failed,
    })
}

/// Entries of the definition that are one host.
fn hosts_apart(ctx: &Context<'_>, set: &ScaleSet) -> Vec<Finding> {
    let hosts: Vec<Host> = set.hosts().map(|(_, h)| h.clone()).collect();
    let watch = Arc::new(Watch {
        set: set.name.clone(),
        stores: Vec::new(),
        uuids: HashSet::new(),
    });
    let inventory = observe(&*ctx.world.hosts, &hosts, &set.limits, &watch);
    let twins = twins::find(ctx.world, set, &inventory);
    let finding = |twins: Twins| Finding {
        what: format!("hosts {} and {}", twins.first, twins.second),
        result: Err(Problem {
            problem: "they are one libvirtd under two names".to_owned(),
            remedy: "take one of the two out of the definition".to_owned(),
        }),
    };
    twins.into_iter().map(finding).collect()
}
