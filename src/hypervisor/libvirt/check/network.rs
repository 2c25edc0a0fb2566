//! Whether what an instance's network cards plug into is there.

use std::collections::BTreeSet;

use virt::sys;

use super::{failed, passed};
use crate::hypervisor::Finding;
use crate::hypervisor::domain_xml::element::Element;
use crate::hypervisor::libvirt::connection::Session;
use crate::hypervisor::libvirt::fault::optional;
use crate::hypervisor::libvirt::traits::Traits;
use crate::model::{Model, NicSource};

/// One finding for each bridge and network of the model.
pub fn check(session: &Session<'_>, traits: &Traits, model: &Model) -> Vec<Finding> {
    let (mut bridges, mut networks) = (BTreeSet::new(), BTreeSet::new());
    for nic in &model.networks {
        match &nic.source {
            NicSource::Bridge(name) => bridges.insert(name),
            NicSource::Network(name) => networks.insert(name),
        };
    }
    let mut findings: Vec<Finding> = networks.into_iter().map(|name| network(session, name)).collect();
    if !bridges.is_empty() && !traits.simulated {
        let known = Interfaces::read(session);
        findings.extend(bridges.into_iter().map(|name| bridge(&known, name)));
    }
    findings
}

fn network(session: &Session<'_>, name: &str) -> Finding {
    let what = format!("network {name}");
    let looked = session.call(format_args!("looking up network {name}"), |c| {
        let network = c.lookup_network_by_name(name)?;
        network.is_active()
    });
    match optional(looked, sys::VIR_ERR_NO_NETWORK) {
        Ok(Some(true)) => passed(what, "active"),
        Ok(Some(false)) => failed(
            what,
            "it is not active",
            format!("`virsh net-start {name}`, and `virsh net-autostart {name}` for the next boot"),
        ),
        Ok(None) => failed(
            what,
            "there is no such network",
            "`virsh net-list --all` shows what is there; define it or name another",
        ),
        Err(error) => failed(what, error.message, "check that the daemon serves networks"),
    }
}

/// What the daemon tells of the host's interfaces.
struct Interfaces {
    /// All of them, if its interface driver works: then one that isn't listed isn't there.
    all: Option<BTreeSet<String>>,
    /// Those known by another way, which may miss some.
    some: BTreeSet<String>,
}

impl Interfaces {
    fn read(session: &Session<'_>) -> Self {
        let all = session.call("listing interfaces", |c| {
            let listed = c.list_all_interfaces(0)?;
            Ok(listed.iter().filter_map(|i| i.name().ok()).collect())
        });
        let devices = session.call("listing network devices", |c| {
            let flag = sys::VIR_CONNECT_LIST_NODE_DEVICES_CAP_NET;
            let listed = c.list_all_node_devices(flag)?;
            Ok(listed
                .iter()
                .filter_map(|d| d.xml_desc(0).ok())
                .collect::<Vec<_>>())
        });
        let networks = session.call("listing networks", |c| {
            let listed = c.list_all_networks(sys::VIR_CONNECT_LIST_NETWORKS_ACTIVE)?;
            Ok(listed
                .iter()
                .filter_map(|n| n.bridge_name().ok())
                .collect::<Vec<_>>())
        });
        let mut some: BTreeSet<String> = networks.unwrap_or_default().into_iter().collect();
        some.extend(
            devices
                .unwrap_or_default()
                .iter()
                .filter_map(|xml| interface_of(xml)),
        );
        Self { all: all.ok(), some }
    }
}

fn interface_of(device: &str) -> Option<String> {
    let device = Element::parse(device).ok()?;
    Some(device.path(["capability", "interface"])?.text.clone())
}

fn bridge(known: &Interfaces, name: &str) -> Finding {
    let what = format!("bridge {name}");
    let listed = known.all.as_ref().map(|all| all.contains(name));
    if listed == Some(true) || known.some.contains(name) {
        return passed(what, "there");
    }
    match &known.all {
        Some(all) if !all.is_empty() => failed(
            what,
            "the host has no interface of that name",
            "make the bridge, or name one that `virsh iface-list --all` shows",
        ),
        _ => passed(
            what,
            "can't be told: the host's libvirt doesn't list interfaces; a missing bridge shows at the first start",
        ),
    }
}
