//! Metrics of a set's load balancers, and of its instances in them.

use super::family::{Families, Labels, PerSet};
use super::{Area, View, flag, float};
use crate::membership::ServerSeen;
use crate::names::instance_name;

/// The metrics. An instance is the label `server`, for Prometheus gives `instance` to what it scrapes.
pub struct Balancers {
    up: PerSet,
    servers_in: PerSet,
    servers_up: PerSet,
    connections: PerSet,
    requests: PerSet,
    errors: PerSet,
}

impl Area for Balancers {
    fn register(families: &mut Families) -> Self {
        Self {
            up: families.gauge(
                "vmss_balancer_up",
                "Whether the load balancer runs and answered the last look",
            ),
            servers_in: families.gauge(
                "vmss_server_in",
                "Whether the load balancer sends new clients to the instance as long as it finds it up",
            ),
            servers_up: families.gauge(
                "vmss_server_up",
                "Whether the load balancer's own check finds the instance up; none where it does not check",
            ),
            connections: families.gauge(
                "vmss_server_connections",
                "Connections the instance has through the load balancer, those that wait for it included",
            ),
            requests: families.counter(
                "vmss_server_requests_total",
                "Requests (mode http) or sessions (mode tcp) that the load balancer has sent to the instance",
            ),
            errors: families.counter(
                "vmss_server_errors_total",
                "Connections to the instance that failed, and answers of it that were none",
            ),
        }
    }

    fn take(&self, view: &View<'_>) {
        let balancers = &view.inventory.balancers;
        let up = balancers.iter().map(|balancer| {
            let runs = balancer.seen().is_some_and(|seen| seen.version.is_some());
            (vec![("balancer", balancer.name.clone())], flag(runs))
        });
        self.up.put(view.set, up);
        let put = |metric: &PerSet, value: fn(&ServerSeen) -> Option<f64>| {
            let servers = balancers.iter().flat_map(|balancer| {
                let seen = balancer.seen().into_iter().flat_map(|seen| &seen.servers);
                seen.map(move |server| (balancer.name.as_str(), server))
            });
            let values = servers.filter_map(|(balancer, server)| {
                let labels: Labels = vec![
                    ("balancer", balancer.to_owned()),
                    ("frontend", server.frontend.to_string()),
                    ("server", instance_name(view.set, server.id)),
                ];
                Some((labels, value(server)?))
            });
            metric.put(view.set, values);
        };
        put(&self.servers_in, |s| Some(flag(s.is_in)));
        put(&self.servers_up, |s| s.up.map(flag));
        put(&self.connections, |s| Some(float(s.connections)));
        put(&self.requests, |s| Some(float(s.requests)));
        put(&self.errors, |s| Some(float(s.errors)));
    }
}
