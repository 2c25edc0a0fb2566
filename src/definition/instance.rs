//! The `[instance]` section: what an instance is made of.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::addresses::Subnet;
use crate::definition::reader::{At, Reader, Section};
use crate::definition::sections::{label, parsed, size};
use crate::definition::values;
use crate::model::{Clone as CloneMode, Cpu, DataDisk, Firmware, Nic, NicSource, Virtualization};
use crate::ranges::overlap_within;
use crate::scaleset::{AddressRange, Instance};
use crate::units::Bytes;

pub(super) fn instance(
    r: &mut Reader<'_>,
    s: &Section<'_, '_>,
    folder: &Path,
    capacity: u32,
) -> Option<Instance> {
    let vcpus = r.integer(s, "vcpus", 1..513).map_or(1, |n| n.value);
    let memory = if s.has("memory") {
        size(r, s, "memory")
    } else {
        r.missing(s, "memory", "memory = \"2 GiB\"");
        None
    };
    if let Some(at) = &memory
        && (at.value < Bytes::mib(16) || at.value.0 % 1024 != 0)
    {
        r.bad(
            at,
            format!("{} of memory can't be given to a guest", at.value),
            "at least 16 MiB, in whole KiB",
        );
    }
    let disk = size(r, s, "disk");
    check_disk(r, disk.as_ref());
    let virtualization = r
        .choice(
            s,
            "virtualization",
            &[
                ("auto", Virtualization::Auto),
                ("kvm", Virtualization::Kvm),
                ("qemu", Virtualization::Qemu),
            ],
        )
        .unwrap_or(Virtualization::Auto);
    let cpu = cpu(r, s, virtualization);
    let user_data = r.string(s, "user_data").map(|at| folder.join(at.value));
    let vars = vars(r, s);
    let networks = (r
        .tables(s, "networks", "Network")
        .unwrap_or_default()
        .iter()
        .enumerate())
    .filter_map(|(i, n)| {
        if i == 8 {
            r.wrong(
                n.span.clone(),
                n.path(),
                "an instance may have 8 network cards at most",
                None,
            );
        }
        network(r, n, capacity)
    })
    .collect();
    let networks: Vec<Nic> = networks;
    if let (Some(shared), Some(span)) = (overlap_within(&networks), s.key_span("networks")) {
        r.wrong(
            span,
            &s.key("networks"),
            format!("two cards hand out {shared}"),
            Some("give each card a range of its own".into()),
        );
    }
    let mut data_disks: Vec<DataDisk> = Vec::new();
    for d in r.tables(s, "data_disks", "DataDisk").unwrap_or_default() {
        let name = label(r, &d, "name", "name = \"data\"");
        if !d.has("size") {
            r.missing(&d, "size", "size = \"50 GiB\"");
        }
        let size = size(r, &d, "size");
        check_disk(r, size.as_ref());
        if let (Some(name), Some(size)) = (name, size) {
            if name.as_str().len() > 20 {
                r.wrong(
                    d.span.clone(),
                    d.path(),
                    "a data disk's name may have 20 characters at most",
                    Some("it is the disk's serial in the guest, which has room for 20".into()),
                );
            }
            if data_disks.iter().any(|d| d.name == name) {
                r.wrong(
                    d.span.clone(),
                    d.path(),
                    format!("two data disks are named {name}"),
                    Some("give each its own name".into()),
                );
            }
            data_disks.push(DataDisk {
                name,
                size: size.value,
            });
        }
    }
    Some(Instance {
        vcpus,
        memory: memory?.value,
        disk: disk.map(|d| d.value),
        clone: r
            .choice(
                s,
                "clone",
                &[("linked", CloneMode::Linked), ("full", CloneMode::Full)],
            )
            .unwrap_or(CloneMode::Linked),
        cpu,
        virtualization,
        firmware: r
            .choice(
                s,
                "firmware",
                &[("bios", Firmware::Bios), ("uefi", Firmware::Uefi)],
            )
            .unwrap_or(Firmware::Bios),
        user_data,
        vars,
        networks,
        data_disks,
    })
}

fn check_disk(r: &mut Reader<'_>, size: Option<&At<Bytes>>) {
    if let Some(at) = size
        && (at.value < Bytes::mib(1) || at.value.0 % 512 != 0)
    {
        r.bad(
            at,
            format!("a disk can't have {} bytes", at.value.0),
            "at least 1 MiB, in whole sectors of 512 bytes",
        );
    }
}

fn cpu(r: &mut Reader<'_>, s: &Section<'_, '_>, virtualization: Virtualization) -> Cpu {
    // A host's model is no use to emulation, which offers what it can by its own.
    let default = if virtualization == Virtualization::Qemu {
        Cpu::Maximum
    } else {
        Cpu::HostModel
    };
    let Some(at) = r.string(s, "cpu") else {
        return default;
    };
    match at.value.as_str() {
        "host-model" => Cpu::HostModel,
        "host-passthrough" => Cpu::HostPassthrough,
        "maximum" => Cpu::Maximum,
        name if !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c)) =>
        {
            Cpu::Named(name.to_owned())
        }
        _ => {
            r.bad(
                &at,
                format!("{:?} is no CPU model", at.value),
                "host-model, host-passthrough, maximum, or a name that virsh cpu-models x86_64 lists",
            );
            default
        }
    }
}

fn vars(r: &mut Reader<'_>, s: &Section<'_, '_>) -> BTreeMap<String, String> {
    let Some(table) = r.table(s, "vars", "") else {
        return BTreeMap::new();
    };
    let mut vars = BTreeMap::new();
    for (key, value) in r.entries(&table) {
        let mut chars = key.value.chars();
        let identifier = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !identifier {
            r.bad(
                &key,
                format!("{:?} can't be used in a template", key.value),
                "letters, digits and _, not beginning with a digit",
            );
        }
        vars.insert(key.value, value);
    }
    vars
}

fn network(r: &mut Reader<'_>, s: &Section<'_, '_>, capacity: u32) -> Option<Nic> {
    let bridge = parsed(r, s, "bridge", |t| values::bridge(t).map(|()| t.to_owned()));
    let network = parsed(r, s, "network", |t| {
        values::libvirt_name(t).map(|()| t.to_owned())
    });
    let source = match (s.has("bridge"), s.has("network")) {
        (true, false) => bridge.map(|at| NicSource::Bridge(at.value)),
        (false, true) => network.map(|at| NicSource::Network(at.value)),
        (both, _) => {
            let message = if both {
                "a network card has a bridge or a network, not both"
            } else {
                "a network card needs a bridge or a network"
            };
            r.wrong(
                s.span.clone(),
                s.path(),
                message,
                Some("write bridge = \"br0\" or network = \"default\"".into()),
            );
            None
        }
    };
    let range = parsed(r, s, "addresses", values::addresses);
    if let Some(at) = &range
        && values::how_many(&at.value) < u64::from(capacity)
    {
        let n = values::how_many(&at.value);
        r.bad(
            at,
            format!("{n} addresses are too few for {capacity} instances"),
            "widen the range, or lower capacity",
        );
    }
    let gateway = parsed(r, s, "gateway", ip);
    if let Some(gateway) = &gateway {
        match &range {
            Some(range) if !values::in_subnet(&range.value, gateway.value) => {
                r.bad(
                    gateway,
                    format!("{} is not in the subnet of the addresses", gateway.value),
                    "the router's address in that subnet",
                );
            }
            Some(range) if (range.value.first..=range.value.last).contains(&gateway.value) => {
                r.bad(
                    gateway,
                    format!("{} is one of the addresses handed out", gateway.value),
                    "leave it out of the range",
                );
            }
            None if !s.has("addresses") => r.bad(
                gateway,
                "a gateway goes with addresses",
                "without addresses, DHCP says it",
            ),
            _ => {}
        }
    }
    let mut dns = Vec::new();
    for at in r.strings(s, "dns") {
        match ip(&at.value) {
            Ok(address) => dns.push(address),
            Err(message) => r.wrong(at.span, &at.key, message, None),
        }
    }
    if let Some(range) = &range
        && let Some(server) = (dns.iter()).find(|at| (range.value.first..=range.value.last).contains(*at))
    {
        r.bad(
            range,
            format!("{server} is a name server, and one of the addresses handed out"),
            "leave it out of the range",
        );
    }
    if !dns.is_empty() && !s.has("addresses") {
        r.wrong(
            s.key_span("dns").unwrap_or_default(),
            &s.key("dns"),
            "name servers go with addresses",
            Some("without addresses, DHCP says them".into()),
        );
    }
    let within = within(r, s, range.as_ref());
    Some(Nic {
        source: source?,
        addresses: range.map(|a| a.value),
        gateway: gateway.map(|g| g.value),
        dns,
        within,
    })
}

/// Where a guest's own word for its address counts.
fn within(r: &mut Reader<'_>, s: &Section<'_, '_>, range: Option<&At<AddressRange>>) -> Vec<Subnet> {
    let mut subnets: Vec<Subnet> = Vec::new();
    for at in r.strings(s, "within") {
        match at.value.parse() {
            Ok(subnet) => subnets.push(subnet),
            Err(message) => r.wrong(at.span, &at.key, message, None),
        }
    }
    let is_in = |address: Ipv4Addr| subnets.iter().any(|subnet| subnet.contains(address.into()));
    if let Some(at) = range
        && !subnets.is_empty()
        && !(is_in(at.value.first) && is_in(at.value.last))
    {
        r.bad(
            at,
            "the addresses handed out are not within the card's own subnets (within)",
            "widen within, or leave it out",
        );
    }
    subnets
}

fn ip(text: &str) -> Result<Ipv4Addr, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("{text:?} is no IPv4 address"))
}
