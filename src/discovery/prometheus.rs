//! Prometheus: `file_sd`, a JSON list of target groups. Prometheus watches the file; nobody has to tell it.
//!
//! <https://prometheus.io/docs/prometheus/latest/configuration/configuration/#file_sd_config>: the file's name ends in
//! `.json`, `.yml` or `.yaml`. JSON is YAML as well, so there is one text for all of them.

use serde_json::{Value, json};

use crate::discovery::socket;
use crate::load_balancer::Discovery;
use crate::membership::{Membership, Server};
use crate::names::Label;

/// The file's text: a group for every server, whatever its duty and state, since one that is ill has to be watched above
/// all.
pub(super) fn render(discovery: &Discovery, set: &Label, membership: &Membership) -> String {
    let mut servers: Vec<&Server> = membership.servers.iter().collect();
    servers.sort_by_key(|server| server.id);
    let groups: Value = servers.iter().map(|s| group(discovery, set, s)).collect();
    format!("{groups:#}\n")
}

fn group(discovery: &Discovery, set: &Label, server: &Server) -> Value {
    let mut labels = json!({
        "vmss_set": set,
        "vmss_instance": server.name,
        "vmss_id": server.id.to_string(),
        "vmss_fault_domain": server.fault_domain,
        "vmss_host": server.host,
        "__meta_vmss_state": server.state.as_str(),
    });
    // What changes while an instance lives is for relabelling to choose: as a plain label each change would begin another
    // time series. And a label without a value is one that is not there.
    if let Some(revision) = server.revision {
        labels["__meta_vmss_revision"] = revision.to_string().into();
    }
    json!({ "targets": [socket(server, discovery).to_string()], "labels": labels })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::testing::{discovery, label, three};
    use crate::load_balancer::Format;

    #[test]
    fn every_server_is_a_target_with_labels() {
        let text = render(&discovery(Format::Prometheus, "/f.json"), &label("web"), &three());
        let groups: Value = serde_json::from_str(&text).unwrap();
        let targets: Vec<&Value> = (groups.as_array().unwrap().iter())
            .map(|group| &group["targets"])
            .collect();
        assert_eq!(
            json!(targets),
            json!([["10.0.0.1:80"], ["10.0.0.2:80"], ["[fd00::3]:80"]])
        );
        assert_eq!(
            groups[0]["labels"],
            json!({
                "vmss_set": "web",
                "vmss_instance": "web-1",
                "vmss_id": "1",
                "vmss_fault_domain": "rack-a",
                "vmss_host": "h1",
                "__meta_vmss_revision": "7",
                "__meta_vmss_state": "healthy",
            })
        );
    }

    #[test]
    fn an_unknown_revision_is_no_label() {
        let text = render(&discovery(Format::Prometheus, "/f.json"), &label("web"), &three());
        let groups: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(groups[1]["labels"].get("__meta_vmss_revision"), None);
        assert_eq!(groups[1]["labels"]["__meta_vmss_state"], "unhealthy");
    }

    #[test]
    fn a_set_without_servers_is_an_empty_list() {
        let discovery = discovery(Format::Prometheus, "/f.json");
        assert_eq!(render(&discovery, &label("web"), &Membership::default()), "[]\n");
    }
}
