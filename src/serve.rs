//! Who takes clients: load balancers are asked and told, discovery files are written.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use crate::aside::all_at_once;
use crate::balancer::{Balancer, BalancerError, Change};
use crate::discovery;
use crate::load_balancer::Dropped;
use crate::membership::{BalancerView, Membership, Sight};
use crate::scaleset::ScaleSet;
use crate::world::World;

/// The folder in which a set's own load balancer keeps its files: beside the store, so that two stores never share one.
pub fn folder(world: &World, set: &ScaleSet) -> PathBuf {
    let mut store = (set.state.path.as_ref())
        .unwrap_or(&world.env.state)
        .clone()
        .into_os_string();
    store.push(".lb");
    PathBuf::from(store).join(set.name.as_str())
}

/// The set's load balancers.
pub fn balancers(world: &World, set: &ScaleSet) -> Vec<Arc<dyn Balancer>> {
    world.balancers.of(set, &folder(world, set))
}

/// What a load balancer of that name is called in messages.
pub fn called(name: &str) -> String {
    match name {
        "local" => "load balancer".to_owned(),
        name => format!("load balancer {name}"),
    }
}

/// What each of the set's load balancers has, all of them asked at once. One that gives no answer within
/// `limits.call_timeout` was not seen; its thread is left behind.
pub fn observe(world: &World, set: &ScaleSet) -> Vec<BalancerView> {
    let balancers = balancers(world, set);
    let answers = all_at_once(balancers.clone(), set.limits.call_timeout, |balancer| {
        balancer.observe()
    });
    let fault = |panic| Err(BalancerError::refused("asking it", panic));
    let views = balancers
        .iter()
        .zip(answers)
        .map(|(balancer, answer)| BalancerView {
            name: balancer.name(),
            sight: match answer.map(|a| a.unwrap_or_else(fault)) {
                Some(Ok(seen)) => Sight::Seen(seen),
                Some(Err(e)) => Sight::Unseen {
                    reason: e.to_string(),
                },
                None => {
                    let seconds = set.limits.call_timeout.as_secs_f64();
                    Sight::Unseen {
                        reason: format!("no answer within {seconds} s"),
                    }
                }
            },
        });
    views.collect()
}

/// What became of telling one load balancer, or of writing one discovery file.
pub struct Told {
    /// Which, as messages call it.
    pub who: String,
    /// Whether clients are led by it.
    pub leads_clients: bool,
    /// What was changed, or why it was not.
    pub result: Result<Vec<Change>, BalancerError>,
}

/// Tells all of them who takes clients, at once, but those that `is_left_out`.
pub fn bring(
    world: &World,
    set: &ScaleSet,
    membership: &Membership,
    is_left_out: impl Fn(&str) -> bool,
) -> Vec<Told> {
    let balancers = balancers(world, set);
    let named = balancers
        .iter()
        .map(|balancer| (called(&balancer.name()), balancer));
    let wanted: Vec<(String, &Arc<dyn Balancer>)> = named.filter(|(who, _)| !is_left_out(who)).collect();
    let mut told: Vec<Told> = thread::scope(|scope| {
        let running: Vec<_> = (wanted.into_iter())
            .map(|(who, balancer)| (who, scope.spawn(|| balancer.bring(membership))))
            .collect();
        // Every call of a load balancer has a deadline of its own, so these joins end.
        let end = |(who, thread): (String, thread::ScopedJoinHandle<'_, _>)| Told {
            who,
            leads_clients: true,
            result: thread
                .join()
                .unwrap_or_else(|_| Err(BalancerError::refused("telling it", "vmss has failed"))),
        };
        running.into_iter().map(end).collect()
    });
    for file in &set.discovery {
        let who = format!("discovery file {}", file.file.display());
        if is_left_out(&who) {
            continue;
        }
        let result = discovery::publish(file, &set.name, membership);
        let result = result
            .map(|_| Vec::new())
            .map_err(|e| BalancerError::refused("writing it", e));
        told.push(Told {
            who,
            leads_clients: file.format.leads_traffic(),
            result,
        });
    }
    told
}

/// Leaves nothing of the set where a definition has dropped it. Returns what could not be done, by whom.
pub fn drop_from(world: &World, set: &ScaleSet, dropped: &Dropped) -> Vec<(String, BalancerError)> {
    let (load_balancer, discovery) = match dropped {
        Dropped::LoadBalancer(balancer) => (Some(balancer.clone()), Vec::new()),
        Dropped::Discovery(file) => (None, vec![file.clone()]),
    };
    let as_it_was = ScaleSet {
        load_balancer,
        discovery,
        ..set.clone()
    };
    retire(world, &as_it_was)
}

/// Leaves nothing of the set behind: servers are removed, a HAProxy that ran for it is stopped, files tell of nobody.
/// Returns what could not be done, by whom.
pub fn retire(world: &World, set: &ScaleSet) -> Vec<(String, BalancerError)> {
    let mut failed = Vec::new();
    for balancer in balancers(world, set) {
        if let Err(e) = balancer.retire() {
            failed.push((called(&balancer.name()), e));
        }
    }
    for file in &set.discovery {
        if let Err(e) = discovery::withdraw(file, &set.name) {
            let who = format!("discovery file {}", file.file.display());
            failed.push((who, BalancerError::refused("writing it", e)));
        }
    }
    failed
}
