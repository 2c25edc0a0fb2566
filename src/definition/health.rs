//! The `[health]` section: how an instance's health is asked.

use std::time::Duration;

use crate::definition::reader::{Reader, Section};
use crate::definition::sections::{duration, parsed};
use crate::definition::values;
use crate::scaleset::{Health, Probe};

/// What `probe` may say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Agent,
    Tcp,
    Http,
    Https,
}

const KINDS: [(&str, Kind); 5] = [
    ("none", Kind::None),
    ("agent", Kind::Agent),
    ("tcp", Kind::Tcp),
    ("http", Kind::Http),
    ("https", Kind::Https),
];

impl Kind {
    /// Whether it is asked over the network, and so has a port.
    const fn has_port(self) -> bool {
        matches!(self, Self::Tcp | Self::Http | Self::Https)
    }

    /// Whether it asks for a path.
    const fn has_path(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    fn name(self) -> &'static str {
        (KINDS.iter().find(|(_, kind)| *kind == self)).map_or("", |(name, _)| name)
    }
}

/// Reads `[health]`; without it, an instance that runs is healthy. `has_network` says whether instances have a network
/// card to be asked by.
pub(super) fn health(r: &mut Reader<'_>, top: &Section<'_, '_>, has_network: bool) -> Option<Health> {
    let mut health = Health::default();
    if !top.has("health") {
        return Some(health);
    }
    let s = r.table(top, "health", "Health")?;
    if let Some(probe) = probe(r, &s, has_network) {
        health.probe = probe;
    }
    let seconds = Duration::from_secs;
    if let Some(d) = duration(r, &s, "interval", seconds(1), seconds(60)) {
        health.interval = d;
    }
    if let Some(d) = duration(r, &s, "timeout", Duration::from_millis(100), seconds(60)) {
        health.timeout = d;
    }
    if let Some(n) = r.integer(&s, "unhealthy_after", 1..11) {
        health.unhealthy_after = n.value;
    }
    if let Some(n) = r.integer(&s, "healthy_after", 1..11) {
        health.healthy_after = n.value;
    }
    if let Some(d) = duration(r, &s, "grace_period", Duration::ZERO, seconds(7200)) {
        health.grace_period = d;
    }
    Some(health)
}

/// The probe with its port and its path, each allowed only where it means something.
fn probe(r: &mut Reader<'_>, s: &Section<'_, '_>, has_network: bool) -> Option<Probe> {
    let port = r.integer(s, "port", 1..65536);
    let path = parsed(r, s, "path", |t| values::url_path(t).map(|()| t.to_owned()));
    let kind = if s.has("probe") {
        // What port and path mean is not known while the probe itself is wrong.
        r.choice(s, "probe", &KINDS)?
    } else {
        Kind::None
    };
    if kind.has_port() && !has_network {
        r.wrong(
            s.key_span("probe").unwrap_or_default(),
            &s.key("probe"),
            format!(
                "{} asks over the network, and the instances have no network card",
                kind.name()
            ),
            Some("add [[instance.networks]], or write probe = \"agent\" or \"none\"".into()),
        );
    }
    for (key, is_used, users) in [
        ("port", kind.has_port(), "http, https and tcp"),
        ("path", kind.has_path(), "http and https"),
    ] {
        if s.has(key) && !is_used {
            let help = if s.has("probe") {
                format!("leave {key} out, or choose one of these")
            } else {
                "add probe = \"http\": without a probe nothing is asked".to_owned()
            };
            r.wrong(
                s.key_span(key).unwrap_or_default(),
                &s.key(key),
                format!("{key} goes with {users}, and the probe is {:?}", kind.name()),
                Some(help),
            );
        }
    }
    // No service has tcp itself for its name, so there is no port to assume.
    if kind == Kind::Tcp && !s.has("port") {
        r.missing(s, "port", "port = 22");
    }
    let port = port.and_then(|at| u16::try_from(at.value).ok());
    let path = path.map_or_else(|| "/".to_owned(), |at| at.value);
    Some(match kind {
        Kind::None => Probe::None,
        Kind::Agent => Probe::Agent,
        Kind::Tcp => Probe::Tcp { port: port? },
        Kind::Http => Probe::Http {
            tls: false,
            port: port.unwrap_or(80),
            path,
        },
        Kind::Https => Probe::Http {
            tls: true,
            port: port.unwrap_or(443),
            path,
        },
    })
}
