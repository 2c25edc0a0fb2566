//! From sections of the file to a scale set: each value checked, every default filled in.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::definition::reader::{At, Reader, Section};
use crate::definition::values;
use crate::model::{Clone as CloneMode, Cpu, DataDisk, Firmware, Nic, NicSource, Virtualization};
use crate::names::{Label, MAX_SET_NAME};
use crate::scaleset::{
    FaultDomain, Host, ImageSource, Instance, Limits, Placement, ScaleIn, ScaleInPolicy, ScaleSet, Spread,
    State,
};
use crate::units::Bytes;

/// Most instances a definition may ask for.
const MOST: u64 = 1_000_000;

/// Reads the whole file. `None` if something is wrong; the reader knows what.
pub fn scale_set(r: &mut Reader<'_>, top: &Section<'_, '_>, folder: &Path) -> Option<ScaleSet> {
    let name = label(r, top, "name", "name = \"web\"");
    if let (Some(name), Some(span)) = (&name, top.key_span("name"))
        && name.as_str().len() > MAX_SET_NAME
    {
        let message = format!(
            "a set's name may have {MAX_SET_NAME} characters at most, this one has {}",
            name.as_str().len()
        );
        r.wrong(
            span,
            "name",
            message,
            Some("instances are named <name>-<id>, which must stay a DNS label".into()),
        );
    }
    let capacity = r.integer(top, "capacity", 0..MOST + 1).map_or(1, |n| n.value);
    let image = required_table(r, top, "image", "Image", "[image]\nsource = \"debian-12.qcow2\"")
        .map(|s| image(r, &s, folder));
    let instance = required_table(r, top, "instance", "Instance", "[instance]\nmemory = \"2 GiB\"")
        .map(|s| instance(r, &s, folder, capacity));
    let fault_domains = fault_domains(r, top);
    let placement = placement(r, top);
    let limits = limits(r, top);
    let scale_in = scale_in(r, top);
    let state = state(r, top, folder);
    Some(ScaleSet {
        name: name?,
        capacity,
        image: image??,
        instance: instance??,
        fault_domains: fault_domains?,
        placement: placement?,
        limits: limits?,
        scale_in: scale_in?,
        state: state?,
    })
}

fn required_table<'a, 't>(
    r: &mut Reader<'_>,
    top: &Section<'a, 't>,
    key: &str,
    kind: &str,
    example: &str,
) -> Option<Section<'a, 't>> {
    if !top.has(key) {
        r.missing(top, key, example);
        return None;
    }
    r.table(top, key, kind)
}

fn required_string(r: &mut Reader<'_>, s: &Section<'_, '_>, key: &str, example: &str) -> Option<At<String>> {
    if !s.has(key) {
        r.missing(s, key, example);
        return None;
    }
    r.string(s, key)
}

fn label(r: &mut Reader<'_>, s: &Section<'_, '_>, key: &str, example: &str) -> Option<Label> {
    let at = required_string(r, s, key, example)?;
    match Label::new(at.value.clone()) {
        Ok(label) => Some(label),
        Err(e) => {
            r.bad(
                &at,
                e.to_string(),
                "a DNS label: a-z, 0-9 and -, 63 characters at most, such as \"web-1\"",
            );
            None
        }
    }
}

/// A value that has a grammar of its own.
fn parsed<T>(
    r: &mut Reader<'_>,
    s: &Section<'_, '_>,
    key: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<At<T>> {
    let at = r.string(s, key)?;
    match parse(&at.value) {
        Ok(value) => Some(At {
            value,
            span: at.span,
            key: at.key,
        }),
        Err(message) => {
            r.wrong(at.span, &at.key, message, None);
            None
        }
    }
}

fn size(r: &mut Reader<'_>, s: &Section<'_, '_>, key: &str) -> Option<At<Bytes>> {
    parsed(r, s, key, values::size)
}

fn duration(
    r: &mut Reader<'_>,
    s: &Section<'_, '_>,
    key: &str,
    least: Duration,
    most: Duration,
) -> Option<Duration> {
    let at = parsed(r, s, key, values::duration)?;
    if at.value < least || at.value > most {
        r.bad(
            &at,
            format!("{} is out of range", at.key),
            format!("allowed: {}s to {}s", least.as_secs(), most.as_secs()),
        );
        return None;
    }
    Some(at.value)
}

fn image(r: &mut Reader<'_>, s: &Section<'_, '_>, folder: &Path) -> Option<ImageSource> {
    let source = required_string(r, s, "source", "source = \"debian-12.qcow2\"")?;
    let digest = r.string(s, "sha256");
    let sha256 = match &digest {
        Some(at) if at.value.len() == 64 && at.value.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Some(at.value.to_ascii_lowercase())
        }
        Some(at) => {
            r.bad(
                at,
                "this is no SHA-256",
                "64 hexadecimal digits, as sha256sum prints them",
            );
            None
        }
        None => None,
    };
    match source.value.split_once("://") {
        None if source.value.is_empty() => {
            r.bad(
                &source,
                "image.source is empty",
                "the path or URL of a qcow2 or raw image",
            );
            None
        }
        None => Some(ImageSource::File {
            path: folder.join(&source.value),
            sha256,
        }),
        Some(("http" | "https", _)) => {
            if digest.is_none() {
                r.bad(
                    &source,
                    "an image from a URL needs its digest",
                    "add sha256 = \"...\" to [image]: it is what makes the download trustworthy",
                );
            }
            Some(ImageSource::Url {
                url: source.value,
                sha256: sha256?,
            })
        }
        Some((scheme, _)) => {
            r.bad(
                &source,
                format!("images can't be fetched by {scheme}"),
                "a path, or an http or https URL",
            );
            None
        }
    }
}

fn instance(r: &mut Reader<'_>, s: &Section<'_, '_>, folder: &Path, capacity: u32) -> Option<Instance> {
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
    if !dns.is_empty() && !s.has("addresses") {
        r.wrong(
            s.key_span("dns").unwrap_or_default(),
            &s.key("dns"),
            "name servers go with addresses",
            Some("without addresses, DHCP says them".into()),
        );
    }
    Some(Nic {
        source: source?,
        addresses: range.map(|a| a.value),
        gateway: gateway.map(|g| g.value),
        dns,
    })
}

fn ip(text: &str) -> Result<Ipv4Addr, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("{text:?} is no IPv4 address"))
}

fn fault_domains(r: &mut Reader<'_>, top: &Section<'_, '_>) -> Option<Vec<FaultDomain>> {
    let example = "[[fault_domains]]\nname = \"rack-a\"\nhosts = [{ name = \"kvm1\", uri = \"qemu+ssh://vmss@kvm1/system\" }]";
    if !top.has("fault_domains") {
        r.missing(top, "fault_domains", example);
        return None;
    }
    let sections = r.tables(top, "fault_domains", "FaultDomain")?;
    let mut domains: Vec<FaultDomain> = Vec::new();
    let mut names: BTreeMap<Label, String> = BTreeMap::new();
    let mut uris: BTreeMap<String, Label> = BTreeMap::new();
    for d in &sections {
        let name = label(r, d, "name", "name = \"rack-a\"");
        if let Some(name) = &name
            && domains.iter().any(|d| &d.name == name)
        {
            let span = d.key_span("name").unwrap_or_else(|| d.span.clone());
            r.wrong(
                span,
                &d.key("name"),
                format!("two fault domains are named {name}"),
                Some("put the hosts under one, or give each its own name".into()),
            );
        }
        if !d.has("hosts") {
            r.missing(
                d,
                "hosts",
                "hosts = [{ name = \"kvm1\", uri = \"qemu+ssh://vmss@kvm1/system\" }]",
            );
        }
        let mut hosts = Vec::new();
        for h in r.tables(d, "hosts", "Host").unwrap_or_default() {
            let Some(host) = host(r, &h) else { continue };
            if let Some(other) = names.insert(host.name.clone(), d.path().to_owned()) {
                let span = h.key_span("name").unwrap_or_else(|| h.span.clone());
                r.wrong(
                    span,
                    &h.key("name"),
                    format!("two hosts are named {}", host.name),
                    Some(format!("the other is in {other}")),
                );
            }
            if crate::hosturi::check(&host.uri).is_ok()
                && let Some(other) = uris.insert(crate::hosturi::normal(&host.uri), host.name.clone())
            {
                let span = h.key_span("uri").unwrap_or_else(|| h.span.clone());
                r.wrong(
                    span,
                    &h.key("uri"),
                    format!("{other} and {} are one host: they have one URI", host.name),
                    Some("a host stands in exactly one place, or it would be counted twice".into()),
                );
            }
            hosts.push(host);
        }
        if hosts.is_empty() && r.is_clean() {
            r.wrong(d.span.clone(), d.path(), "a fault domain needs a host", None);
        }
        domains.push(FaultDomain {
            name: name.unwrap_or_else(|| Label::new("x").unwrap_or_else(|_| unreachable!("x is a label"))),
            hosts,
        });
    }
    if domains.is_empty() && r.is_clean() {
        r.missing(top, "fault_domains", example);
    }
    Some(domains)
}

fn host(r: &mut Reader<'_>, s: &Section<'_, '_>) -> Option<Host> {
    let name = label(r, s, "name", "name = \"kvm1\"");
    let uri = required_string(r, s, "uri", "uri = \"qemu+ssh://vmss@kvm1/system\"");
    if let Some(at) = &uri
        && let Err(e) = crate::hosturi::check(&at.value)
    {
        r.bad(at, e.to_string(), crate::hosturi::ALLOWED);
    }
    let pool = parsed(r, s, "pool", |t| values::libvirt_name(t).map(|()| t.to_owned()));
    Some(Host {
        name: name?,
        uri: uri?.value,
        pool: pool.map_or_else(|| "default".to_owned(), |p| p.value),
    })
}

fn placement(r: &mut Reader<'_>, top: &Section<'_, '_>) -> Option<Placement> {
    let mut placement = Placement {
        spread: Spread::BestEffort,
        max_skew: 1,
        vcpu_overcommit: 4.0,
        memory_reserve: Bytes::gib(1),
        pool_reserve: Bytes::gib(1),
    };
    if !top.has("placement") {
        return Some(placement);
    }
    let s = r.table(top, "placement", "Placement")?;
    if let Some(spread) = r.choice(
        &s,
        "spread",
        &[("best-effort", Spread::BestEffort), ("strict", Spread::Strict)],
    ) {
        placement.spread = spread;
    }
    if let Some(n) = r.integer(&s, "max_skew", 1..MOST + 1) {
        placement.max_skew = n.value;
    }
    if let Some(n) = r.number(&s, "vcpu_overcommit") {
        if !(n.value.is_finite() && n.value > 0.0 && n.value <= 100.0) {
            r.bad(
                &n,
                "vcpu_overcommit is out of range",
                "more than 0, at most 100; 1.0 is no overcommitment",
            );
        }
        placement.vcpu_overcommit = n.value;
    }
    if let Some(n) = size(r, &s, "memory_reserve") {
        placement.memory_reserve = n.value;
    }
    if let Some(n) = size(r, &s, "pool_reserve") {
        placement.pool_reserve = n.value;
    }
    Some(placement)
}

fn limits(r: &mut Reader<'_>, top: &Section<'_, '_>) -> Option<Limits> {
    let mut limits = Limits {
        calls_per_host: 4,
        starts_per_host: 2,
        call_timeout: Duration::from_secs(30),
    };
    if !top.has("limits") {
        return Some(limits);
    }
    let s = r.table(top, "limits", "Limits")?;
    if let Some(n) = r.integer(&s, "calls_per_host", 1..5) {
        limits.calls_per_host = n.value;
        limits.starts_per_host = limits.starts_per_host.min(n.value);
    }
    if let Some(n) = r.integer(&s, "starts_per_host", 1..5) {
        if n.value > limits.calls_per_host {
            r.bad(
                &n,
                format!(
                    "starts_per_host is more than calls_per_host ({})",
                    limits.calls_per_host
                ),
                "each start is a call",
            );
        }
        limits.starts_per_host = n.value;
    }
    if let Some(d) = duration(
        r,
        &s,
        "call_timeout",
        Duration::from_secs(1),
        Duration::from_secs(600),
    ) {
        limits.call_timeout = d;
    }
    Some(limits)
}

fn scale_in(r: &mut Reader<'_>, top: &Section<'_, '_>) -> Option<ScaleIn> {
    let mut scale_in = ScaleIn {
        policy: ScaleInPolicy::Default,
        shutdown: Duration::from_secs(60),
    };
    if !top.has("scale_in") {
        return Some(scale_in);
    }
    let s = r.table(top, "scale_in", "ScaleIn")?;
    let policies = [
        ("default", ScaleInPolicy::Default),
        ("newest", ScaleInPolicy::Newest),
        ("oldest", ScaleInPolicy::Oldest),
    ];
    if let Some(policy) = r.choice(&s, "policy", &policies) {
        scale_in.policy = policy;
    }
    if let Some(d) = duration(r, &s, "shutdown", Duration::ZERO, Duration::from_secs(3600)) {
        scale_in.shutdown = d;
    }
    Some(scale_in)
}

fn state(r: &mut Reader<'_>, top: &Section<'_, '_>, folder: &Path) -> Option<State> {
    if !top.has("state") {
        return Some(State { path: None });
    }
    let s = r.table(top, "state", "State")?;
    r.choice(&s, "store", &[("sqlite", ())]);
    let path: Option<PathBuf> = r.string(&s, "path").map(|at| folder.join(at.value));
    Some(State { path })
}
