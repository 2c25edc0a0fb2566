//! The network configuration, version 2 (netplan's form), in plain block YAML.

use std::fmt::Write as _;

use crate::model::Model;
use crate::plan::action::InstanceSpec;

/// One entry per network card, found by its MAC: the address vmss gives it, or DHCP.
///
/// `gateway4` and not a route to `default`: cloud-init 22.4 and older only know the former everywhere. All values are
/// quoted: an unquoted MAC of decimal digits is a number in YAML.
pub fn config(spec: &InstanceSpec, model: &Model) -> String {
    if model.networks.is_empty() {
        return "version: 2\nethernets: {}\n".to_owned();
    }
    let mut yaml = "version: 2\nethernets:\n".to_owned();
    let addresses = spec.addresses.iter().copied().chain(std::iter::repeat(None));
    for (n, ((nic, mac), address)) in model.networks.iter().zip(&spec.macs).zip(addresses).enumerate() {
        let _ = write!(
            yaml,
            "  nic{n}:\n    match:\n      macaddress: \"{}\"\n",
            mac.to_ascii_lowercase()
        );
        let (Some(address), Some(range)) = (address, &nic.addresses) else {
            yaml.push_str("    dhcp4: true\n");
            continue;
        };
        let _ = write!(
            yaml,
            "    dhcp4: false\n    addresses:\n      - \"{address}/{}\"\n",
            range.prefix
        );
        if let Some(gateway) = nic.gateway {
            let _ = writeln!(yaml, "    gateway4: \"{gateway}\"");
        }
        if !nic.dns.is_empty() {
            yaml.push_str("    nameservers:\n      addresses:\n");
            for server in &nic.dns {
                let _ = writeln!(yaml, "        - \"{server}\"");
            }
        }
    }
    yaml
}
