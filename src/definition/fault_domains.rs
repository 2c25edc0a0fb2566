//! The `[[fault_domains]]`: hosts that fail together.

use std::collections::{BTreeMap, BTreeSet};

use crate::definition::reader::{Reader, Section};
use crate::definition::sections::{label, parsed, required_string};
use crate::definition::values;
use crate::names::Label;
use crate::scaleset::{FaultDomain, Host};

/// Reads the fault domains with their hosts: at least one of each, no name and no URI twice.
pub(super) fn fault_domains(r: &mut Reader<'_>, top: &Section<'_, '_>) -> Option<Vec<FaultDomain>> {
    let example = "[[fault_domains]]\nname = \"rack-a\"\nhosts = [{ name = \"kvm1\", uri = \"qemu+ssh://vmss@kvm1/system\" }]";
    if !top.has("fault_domains") {
        r.missing(top, "fault_domains", example);
        return None;
    }
    let sections = r.tables(top, "fault_domains", "FaultDomain")?;
    let mut domains: Vec<FaultDomain> = Vec::new();
    let mut domain_names: BTreeSet<Label> = BTreeSet::new();
    let mut names: BTreeMap<Label, String> = BTreeMap::new();
    let mut uris: BTreeMap<String, Label> = BTreeMap::new();
    for d in &sections {
        let name = label(r, d, "name", "name = \"rack-a\"");
        if let Some(name) = &name
            && !domain_names.insert(name.clone())
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
        // Without a name it was told already, and the set is not made.
        if let Some(name) = name {
            domains.push(FaultDomain { name, hosts });
        }
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
    let migration_address = parsed(r, s, "migration_address", |t| {
        values::host_address(t).map(|()| t.to_owned())
    });
    Some(Host {
        name: name?,
        uri: uri?.value,
        pool: pool.map_or_else(|| "default".to_owned(), |p| p.value),
        migration_address: migration_address.map(|a| a.value),
    })
}
