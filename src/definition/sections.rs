//! From sections of the file to a scale set: each value checked, every default filled in.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::definition::autoscale::autoscale;
use crate::definition::fault_domains::fault_domains;
use crate::definition::health::health;
use crate::definition::instance::instance;
use crate::definition::load_balancer::{Around, discovery, load_balancer};
use crate::definition::operations::{repair, scale_in, upgrade};
use crate::definition::reader::{At, Reader, Section};
use crate::definition::values;
use crate::hosturi;
use crate::load_balancer::{Bind, LoadBalancer};
use crate::names::{Label, MAX_SET_NAME};
use crate::scaleset::{FaultDomain, ImageSource, Instance, Limits, Placement, ScaleSet, Spread, State};
use crate::units::Bytes;

/// Most instances a definition may ask for.
pub(super) const MOST: u64 = 1_000_000;

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
    let model = required_table(r, top, "instance", "Instance", "[instance]\nmemory = \"2 GiB\"");
    // Where [instance] itself is missing, that is told and no more.
    let has_network = (model.as_ref()).is_none_or(|s| s.has_items("networks"));
    let networks_span = model.as_ref().and_then(|s| s.key_span("networks"));
    let instance = model.map(|s| instance(r, &s, folder, capacity));
    let fault_domains = fault_domains(r, top);
    let placement = placement(r, top);
    let limits = limits(r, top);
    let scale_in = scale_in(r, top);
    let health = health(r, top, has_network);
    let upgrade = upgrade(r, top);
    let repair = repair(r, top);
    let around = Around { folder, has_network };
    let load_balancer = load_balancer(r, top, around);
    let discovery = discovery(r, top, name.as_ref(), around);
    let has_balancer = top.has("load_balancer");
    let autoscale = autoscale(r, top, folder, has_balancer);
    let state = state(r, top, folder);
    if let (Some(span), Some(Some(instance))) = (networks_span, &instance)
        && let Some((address, whose)) = in_range(
            instance,
            fault_domains.as_deref(),
            load_balancer.as_ref().and_then(Option::as_ref),
        )
    {
        r.wrong(
            span,
            "instance.networks",
            format!("{address} is {whose}, and one of the addresses handed out"),
            Some("leave it out of the range".into()),
        );
    }
    Some(ScaleSet {
        name: name?,
        capacity,
        image: image??,
        instance: instance??,
        fault_domains: fault_domains?,
        placement: placement?,
        limits: limits?,
        scale_in: scale_in?,
        health: health?,
        upgrade: upgrade?,
        repair: repair?,
        load_balancer: load_balancer?,
        discovery: discovery?,
        autoscale: autoscale?,
        state: state?,
    })
}

/// An address that a host or the load balancer has, and that would be handed out. What a host's name means is not asked here:
/// whatever that is, it is never given to an instance.
fn in_range(
    instance: &Instance,
    domains: Option<&[FaultDomain]>,
    balancer: Option<&LoadBalancer>,
) -> Option<(Ipv4Addr, String)> {
    let is_given = |address: &IpAddr| match address.to_canonical() {
        IpAddr::V4(v4) => {
            let ranges = instance.networks.iter().filter_map(|nic| nic.addresses.as_ref());
            ranges
                .into_iter()
                .any(|range| (range.first..=range.last).contains(&v4))
                .then_some(v4)
        }
        IpAddr::V6(_) => None,
    };
    let hosts = domains.unwrap_or_default().iter().flat_map(|d| &d.hosts);
    let of_hosts = hosts.flat_map(|host| {
        let names = hosturi::host(&host.uri)
            .into_iter()
            .chain(host.migration_address.clone());
        names.filter_map(|name| Some((name.parse::<IpAddr>().ok()?, format!("host {}'s", host.name))))
    });
    let frontends = balancer.into_iter().flat_map(|b| &b.frontends);
    let of_frontends = frontends.flat_map(|frontend| {
        let single = frontend.bind.iter().filter_map(|bind| match bind {
            Bind::At(address) => Some(address.ip()),
            Bind::Any(_) => None,
        });
        single.map(|address| (address, format!("where the frontend {} listens", frontend.name)))
    });
    let mut all = of_hosts.chain(of_frontends);
    all.find_map(|(address, whose)| Some((is_given(&address)?, whose)))
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

pub(super) fn required_string(
    r: &mut Reader<'_>,
    s: &Section<'_, '_>,
    key: &str,
    example: &str,
) -> Option<At<String>> {
    if !s.has(key) {
        r.missing(s, key, example);
        return None;
    }
    r.string(s, key)
}

pub(super) fn label(r: &mut Reader<'_>, s: &Section<'_, '_>, key: &str, example: &str) -> Option<Label> {
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
pub(super) fn parsed<T>(
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

pub(super) fn size(r: &mut Reader<'_>, s: &Section<'_, '_>, key: &str) -> Option<At<Bytes>> {
    parsed(r, s, key, values::size)
}

/// A duration from `least` to `most`, both allowed.
pub(super) fn duration(
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
            format!("allowed: {} to {}", values::spelled(least), values::spelled(most)),
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

fn state(r: &mut Reader<'_>, top: &Section<'_, '_>, folder: &Path) -> Option<State> {
    if !top.has("state") {
        return Some(State { path: None });
    }
    let s = r.table(top, "state", "State")?;
    r.choice(&s, "store", &[("sqlite", ())]);
    let path: Option<PathBuf> = r.string(&s, "path").map(|at| folder.join(at.value));
    Some(State { path })
}
