//! What differs between two models, and the least disruptive action that brings each difference about.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{DataDisk, Model, Nic, NicSource};

impl Model {
    /// What differs in `to`, in the definition's order: each key with the least disruptive action that brings it about,
    /// and why it needs that much.
    pub fn changes(&self, to: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut note = |differs: bool, key, from: String, to: String, class, why| {
            if differs {
                changes.push(Change {
                    key,
                    from,
                    to,
                    class,
                    why,
                });
            }
        };
        use Disruption::{Live, Reimage, Restart};
        note(
            self.image != to.image,
            "image",
            self.image.digest.short().to_owned(),
            to.image.digest.short().to_owned(),
            Reimage,
            "the OS disk is made of it",
        );
        let (from, into) = (self.vcpus.to_string(), to.vcpus.to_string());
        note(
            self.vcpus != to.vcpus,
            "instance.vcpus",
            from,
            into,
            Restart,
            "a guest counts its CPUs when it boots",
        );
        let (from, into) = (self.memory.to_string(), to.memory.to_string());
        note(
            self.memory != to.memory,
            "instance.memory",
            from,
            into,
            Restart,
            "a guest counts its memory when it boots",
        );
        let (class, why) = if to.disk < self.disk {
            (Reimage, "a disk can't shrink: it is made anew")
        } else {
            (Live, "a disk grows while its guest runs")
        };
        note(
            self.disk != to.disk,
            "instance.disk",
            self.disk.to_string(),
            to.disk.to_string(),
            class,
            why,
        );
        note(
            self.clone != to.clone,
            "instance.clone",
            word(&self.clone),
            word(&to.clone),
            Reimage,
            "the OS disk is made so or so",
        );
        note(
            self.cpu != to.cpu,
            "instance.cpu",
            word(&self.cpu),
            word(&to.cpu),
            Restart,
            "a guest meets its CPU when it boots",
        );
        note(
            self.virtualization != to.virtualization,
            "instance.virtualization",
            word(&self.virtualization),
            word(&to.virtualization),
            Restart,
            "what runs a guest is chosen when it starts",
        );
        note(
            self.firmware != to.firmware,
            "instance.firmware",
            word(&self.firmware),
            word(&to.firmware),
            Reimage,
            "the OS disk is laid out for what boots it",
        );
        note(
            self.user_data != to.user_data,
            "instance.user_data",
            user_data(self),
            user_data(to),
            Reimage,
            "cloud-init reads it when an OS disk boots for the first time",
        );
        changes.extend(self.network_change(to));
        changes.extend(self.data_disk_change(to));
        changes
    }

    /// The least disruptive action that brings `to` about.
    pub fn disruption(&self, to: &Self) -> Disruption {
        let classes = self.changes(to).into_iter().map(|c| c.class);
        classes.max().unwrap_or(Disruption::None)
    }

    fn network_change(&self, to: &Self) -> Option<Change> {
        if self.networks == to.networks {
            return None;
        }
        let alike = |f: fn(&Nic) -> bool| {
            self.networks.len() == to.networks.len()
                && self.networks.iter().zip(&to.networks).all(|(a, b)| f(a) == f(b))
        };
        let addressed = self
            .networks
            .iter()
            .zip(&to.networks)
            .any(|(a, b)| a.addresses != b.addresses)
            || to
                .networks
                .iter()
                .skip(self.networks.len())
                .any(|n| n.addresses.is_some());
        let configured =
            (self.networks.iter().zip(&to.networks)).any(|(a, b)| (a.gateway, &a.dns) != (b.gateway, &b.dns));
        let (class, why) =
            if addressed || !alike(|n| n.addresses.is_some()) && self.networks.len() == to.networks.len() {
                (Disruption::Replace, "an instance keeps its address for life")
            } else if configured || self.networks.len() != to.networks.len() {
                (
                    Disruption::Reimage,
                    "a guest is told of its network when an OS disk boots for the first time",
                )
            } else {
                (Disruption::Restart, "a card is plugged in when the guest starts")
            };
        Some(Change {
            key: "instance.networks",
            from: networks(self),
            to: networks(to),
            class,
            why,
        })
    }

    fn data_disk_change(&self, to: &Self) -> Option<Change> {
        if self.data_disks == to.data_disks {
            return None;
        }
        let same = |disk: &DataDisk| to.data_disks.iter().find(|d| d.name == disk.name);
        let is_lost = |disk: &DataDisk| same(disk).is_none_or(|d| d.size < disk.size);
        let (class, why) = if self.data_disks.iter().any(is_lost) {
            (
                Disruption::Replace,
                "what is on a data disk is never taken from an instance that goes on",
            )
        } else if to.data_disks.len() > self.data_disks.len()
            || self
                .data_disks
                .iter()
                .zip(&to.data_disks)
                .any(|(a, b)| a.name != b.name)
        {
            (Disruption::Restart, "a disk is plugged in when the guest starts")
        } else {
            (Disruption::Live, "a disk grows while its guest runs")
        };
        Some(Change {
            key: "instance.data_disks",
            from: data_disks(self),
            to: data_disks(to),
            class,
            why,
        })
    }
}

/// What bringing a change about does to an instance, least first (Google's four, and a live update).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disruption {
    /// Nothing.
    None,
    /// It goes on running.
    Live,
    /// It is shut down and started.
    Restart,
    /// It gets a new OS disk, and keeps id, name, MAC, address, host and data disks.
    Reimage,
    /// Another instance takes its place.
    Replace,
}

impl Disruption {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Live => "live",
            Self::Restart => "restart",
            Self::Reimage => "reimage",
            Self::Replace => "replace",
        }
    }
}

impl std::fmt::Display for Disruption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// One key of the definition that differs between two models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The key.
    pub key: &'static str,
    /// Its value before.
    pub from: String,
    /// Its value after.
    pub to: String,
    /// The least disruptive action that brings it about.
    pub class: Disruption,
    /// Why it needs that much.
    pub why: &'static str,
}

/// A choice as the definition writes it.
fn word(choice: &impl Serialize) -> String {
    match serde_json::to_value(choice) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(serde_json::Value::Object(map)) => map.values().filter_map(|v| v.as_str()).collect(),
        _ => String::new(),
    }
}

fn user_data(model: &Model) -> String {
    model.user_data.as_ref().map_or_else(
        || "none".to_owned(),
        |u| {
            let vars: String = u.vars.iter().map(|(k, v)| format!("{k}={v}\n")).collect();
            format!(
                "sha256 {}",
                &hex(format!("{}\0{vars}", u.template).as_bytes())[..12]
            )
        },
    )
}

fn networks(model: &Model) -> String {
    let card = |nic: &Nic| {
        let mut text = match &nic.source {
            NicSource::Bridge(name) => format!("bridge {name}"),
            NicSource::Network(name) => format!("network {name}"),
        };
        if let Some(range) = &nic.addresses {
            text += &format!(" {}-{}/{}", range.first, range.last, range.prefix);
        }
        if let Some(gateway) = nic.gateway {
            text += &format!(" via {gateway}");
        }
        for server in &nic.dns {
            text += &format!(" dns {server}");
        }
        text
    };
    listed(model.networks.iter().map(card))
}

fn data_disks(model: &Model) -> String {
    listed(model.data_disks.iter().map(|d| format!("{} {}", d.name, d.size)))
}

fn listed(items: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = items.collect();
    if all.is_empty() {
        return "none".to_owned();
    }
    all.join(", ")
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::{Clone, Cpu, Firmware, ImageDigest};
    use super::*;
    use crate::plan::testing::{label, model};
    use crate::scaleset::AddressRange;
    use crate::units::Bytes;

    fn class(change: impl Fn(&mut Model)) -> Disruption {
        let from = model();
        let mut to = from.clone();
        change(&mut to);
        from.disruption(&to)
    }

    fn nic(bridge: &str, addresses: Option<&str>) -> Nic {
        Nic {
            source: NicSource::Bridge(bridge.into()),
            addresses: addresses.map(|a| {
                let first: Ipv4Addr = a.parse().unwrap();
                AddressRange {
                    first,
                    last: first,
                    prefix: 24,
                }
            }),
            gateway: None,
            dns: Vec::new(),
            within: Vec::new(),
        }
    }

    fn disk(name: &str, gib: u64) -> DataDisk {
        DataDisk {
            name: label(name),
            size: Bytes::gib(gib),
        }
    }

    #[test]
    fn each_change_needs_the_least_that_brings_it_about() {
        use Disruption::{Live, None, Reimage, Restart};
        assert_eq!(class(|_| {}), None);
        assert_eq!(class(|m| m.disk = m.disk + Bytes::gib(1)), Live);
        assert_eq!(class(|m| m.memory = Bytes::gib(2)), Restart);
        assert_eq!(class(|m| m.vcpus = 7), Restart);
        assert_eq!(class(|m| m.cpu = Cpu::Named("EPYC".into())), Restart);
        assert_eq!(class(|m| m.disk = m.disk.saturating_sub(Bytes::gib(1))), Reimage);
        assert_eq!(class(|m| m.image.digest = ImageDigest("cd".repeat(32))), Reimage);
        assert_eq!(class(|m| m.clone = Clone::Full), Reimage);
        assert_eq!(
            class(|m| {
                m.memory = Bytes::gib(2);
                m.firmware = Firmware::Uefi;
            }),
            Reimage,
            "the most disruptive of several decides"
        );
    }

    #[test]
    fn an_address_and_what_is_on_a_data_disk_are_kept_for_life() {
        let with = |networks: Vec<Nic>, data_disks: Vec<DataDisk>| Model {
            networks,
            data_disks,
            ..model()
        };
        let of = |from: &Model, to: &Model| from.disruption(to);
        let plain = with(vec![nic("br0", Option::None)], vec![disk("data", 5)]);
        let other_bridge = with(vec![nic("br1", Option::None)], vec![disk("data", 5)]);
        assert_eq!(of(&plain, &other_bridge), Disruption::Restart);
        let second = with(
            vec![nic("br0", Option::None), nic("br1", Option::None)],
            vec![disk("data", 5)],
        );
        assert_eq!(of(&plain, &second), Disruption::Reimage);
        let fixed = with(vec![nic("br0", Some("10.0.0.9"))], vec![disk("data", 5)]);
        assert_eq!(of(&plain, &fixed), Disruption::Replace);
        assert_eq!(of(&fixed, &plain), Disruption::Replace);
        let grown = with(vec![nic("br0", Option::None)], vec![disk("data", 6)]);
        assert_eq!(of(&plain, &grown), Disruption::Live);
        assert_eq!(
            of(&grown, &plain),
            Disruption::Replace,
            "a smaller disk would lose what is on it"
        );
        let more = with(
            vec![nic("br0", Option::None)],
            vec![disk("data", 5), disk("logs", 1)],
        );
        assert_eq!(of(&plain, &more), Disruption::Restart);
        assert_eq!(of(&more, &plain), Disruption::Replace);
    }

    #[test]
    fn a_change_says_what_was_and_what_will_be() {
        let from = model();
        let to = Model {
            memory: Bytes::gib(4),
            cpu: Cpu::Named("EPYC".into()),
            ..from.clone()
        };
        let lines: Vec<String> = (from.changes(&to).iter())
            .map(|c| format!("{}: {} -> {} ({}: {})", c.key, c.from, c.to, c.class, c.why))
            .collect();
        assert_eq!(
            lines,
            [
                "instance.memory: 1.0 GiB -> 4.0 GiB (restart: a guest counts its memory when it boots)",
                "instance.cpu: host-model -> EPYC (restart: a guest meets its CPU when it boots)",
            ]
        );
    }
}
