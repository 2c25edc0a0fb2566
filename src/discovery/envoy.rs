//! Envoy: endpoint discovery (EDS) from a file, a `DiscoveryResponse` with one `ClusterLoadAssignment`, as JSON. Envoy
//! takes note of a file that was moved to its place, and of no other change; nobody has to tell it.
//!
//! <https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol>, "Filesystem subscriptions", and
//! `envoy/config/endpoint/v3/endpoint.proto`. Its cluster has the type EDS, and this file's name for the set as its name or
//! `service_name`. The file may be called `.json` or `.yaml`: JSON is YAML as well.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::discovery::taking_clients;
use crate::load_balancer::Discovery;
use crate::membership::{Membership, Server};
use crate::names::Label;

/// The file's text. A cluster without endpoints is valid, and answers 503 to its clients; without an assignment, Envoy
/// would go on with the endpoints that it had.
pub(super) fn render(discovery: &Discovery, membership: &Membership) -> String {
    let resources = json!([{
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": discovery.name,
        "endpoints": localities(discovery, membership),
    }]);
    let response = json!({ "version_info": version(&resources), "resources": resources });
    format!("{response:#}\n")
}

/// Sixteen digits that are others whenever the resources are: Envoy shows them as the version that it has.
fn version(resources: &Value) -> String {
    let digest = Sha256::digest(resources.to_string());
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The endpoints of each fault domain, which is a zone to Envoy.
fn localities(discovery: &Discovery, membership: &Membership) -> Value {
    let mut zones: BTreeMap<&Label, Vec<&Server>> = BTreeMap::new();
    for server in taking_clients(membership) {
        zones.entry(&server.fault_domain).or_default().push(server);
    }
    (zones.into_iter())
        .map(|(zone, servers)| locality(discovery, zone, &servers))
        .collect()
}

fn locality(discovery: &Discovery, zone: &Label, servers: &[&Server]) -> Value {
    // With locality weighted balancing a zone that has no weight gets no client; otherwise Envoy passes it over.
    let weight: u64 = servers.iter().map(|server| u64::from(server.weight)).sum();
    let endpoints: Value = servers.iter().map(|server| endpoint(discovery, server)).collect();
    json!({ "locality": { "zone": zone }, "load_balancing_weight": weight, "lb_endpoints": endpoints })
}

fn endpoint(discovery: &Discovery, server: &Server) -> Value {
    // The address stands alone here, an IPv6 one without brackets.
    let socket = json!({ "address": server.address, "port_value": discovery.port });
    json!({
        "endpoint": { "address": { "socket_address": socket } },
        "load_balancing_weight": server.weight,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::testing::{discovery, three};
    use crate::load_balancer::Format;

    fn response(membership: &Membership) -> Value {
        serde_json::from_str(&render(&discovery(Format::Envoy, "/f.json"), membership)).unwrap()
    }

    fn endpoint_at(address: &str, weight: u32) -> Value {
        json!({
            "endpoint": { "address": { "socket_address": { "address": address, "port_value": 80 } } },
            "load_balancing_weight": weight,
        })
    }

    #[test]
    fn fault_domains_are_zones() {
        let mut membership = three();
        membership.servers[1].duty = crate::membership::Duty::In;
        assert_eq!(
            response(&membership)["resources"],
            json!([{
                "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
                "cluster_name": "shop",
                "endpoints": [
                    {
                        "locality": { "zone": "rack-a" },
                        "load_balancing_weight": 101,
                        "lb_endpoints": [endpoint_at("10.0.0.1", 1), endpoint_at("fd00::3", 100)],
                    },
                    {
                        "locality": { "zone": "rack-b" },
                        "load_balancing_weight": 5,
                        "lb_endpoints": [endpoint_at("10.0.0.2", 5)],
                    },
                ],
            }])
        );
    }

    #[test]
    fn the_version_follows_from_the_content() {
        let version = |membership: &Membership| response(membership)["version_info"].clone();
        let mut other = three();
        other.servers[0].weight = 2;
        assert_eq!(version(&three()), version(&three()));
        assert_ne!(version(&three()), version(&other));
        assert_eq!(version(&three()).as_str().map(str::len), Some(16));
    }

    #[test]
    fn a_cluster_without_servers_is_still_assigned() {
        let nobody = response(&Membership::default());
        assert_eq!(nobody["resources"][0]["cluster_name"], "shop");
        assert_eq!(nobody["resources"][0]["endpoints"], json!([]));
    }
}
