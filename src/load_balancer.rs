//! `[load_balancer]` and `[[discovery]]` as meant: through what a set is used, and who else is told where it serves.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::names::Label;

/// `[load_balancer]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancer {
    /// Which HAProxy, or which ones.
    pub run: Run,
    /// How long a server that takes no new connections may keep those it has, 0 s to 1 h (AWS's deregistration delay and
    /// its default of 5 min). It ends at zero connections.
    pub drain: Duration,
    /// Over which time a server that has joined comes to its full share, 0 s to 15 min (AWS); zero: at once.
    pub slow_start: Duration,
    /// Where the HAProxy that vmss runs shows its statistics page: a loopback address.
    pub stats: Option<SocketAddr>,
    /// What it listens for; at least one, no name twice.
    pub frontends: Vec<Frontend>,
}

/// Which HAProxy is driven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Run {
    /// One that vmss starts and keeps on its own machine.
    Local,
    /// Existing ones, all of them alike, by their Runtime API; at least one.
    Sockets(Vec<AdminSocket>),
}

/// Where an existing HAProxy takes commands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdminSocket {
    /// A socket file, by its absolute path.
    Unix(PathBuf),
    /// An address. There is no password: whoever reaches it drives the HAProxy.
    Tcp(SocketAddr),
}

/// As it is written: `unix:/run/haproxy/admin.sock`, `tcp:10.0.0.2:9999`.
impl fmt::Display for AdminSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// One `[[load_balancer.frontends]]`: where clients connect, and how they are spread over the instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontend {
    /// Its name within the set.
    pub name: Label,
    /// Where clients connect. May be empty with `sockets`: then only a backend is described.
    pub bind: Vec<Bind>,
    /// HTTP, or bytes.
    pub mode: Mode,
    /// Port of the instances.
    pub port: u16,
    /// Who gets the next connection (request, in mode http).
    pub balance: Balance,
    /// PEM file with certificate and key: TLS ends here.
    pub certificate: Option<PathBuf>,
    /// Whether a client comes back to the instance it had.
    pub stickiness: Stickiness,
    /// Most connections (requests, in mode http) that one instance serves at a time; the others wait in HAProxy. `None`: as
    /// many as come.
    #[serde(default)]
    pub max_connections: Option<u32>,
    /// Name of the HAProxy backend with `sockets`, if it is not the usual one ([`Frontend::backend`]).
    pub backend: Option<String>,
}

impl Frontend {
    /// Name of its backend in HAProxy: `vmss-<set>-<frontend>` unless the definition says otherwise.
    pub fn backend(&self, set: &Label) -> String {
        (self.backend.clone()).unwrap_or_else(|| format!("vmss-{set}-{}", self.name))
    }

    /// Its addresses for people: `http://10.0.0.1:8080`, `https://...`, `tcp://...`. An address of all interfaces is shown
    /// as the loopback one, where it can be tried.
    pub fn urls(&self) -> Vec<String> {
        let scheme = match (self.mode, self.certificate.is_some()) {
            (Mode::Http, false) => "http",
            (Mode::Http, true) => "https",
            (Mode::Tcp, false) => "tcp",
            (Mode::Tcp, true) => "tls",
        };
        (self.bind.iter())
            .map(|bind| format!("{scheme}://{}", bind.to_try()))
            .collect()
    }
}

/// An address that a frontend listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bind {
    /// One address, of either family; `0.0.0.0` and `[::]` mean all of their family.
    At(SocketAddr),
    /// All addresses of both families: `*:8080`.
    Any(u16),
}

impl Bind {
    /// Its port.
    pub const fn port(self) -> u16 {
        match self {
            Self::At(address) => address.port(),
            Self::Any(port) => port,
        }
    }

    /// Whether two of them would get in each other's way.
    pub fn overlaps(self, other: Self) -> bool {
        if self.port() != other.port() {
            return false;
        }
        match (self, other) {
            (Self::At(a), Self::At(b)) => {
                let same_family = a.is_ipv4() == b.is_ipv4();
                same_family && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
            }
            _ => true,
        }
    }

    /// An address at which it can be tried from here.
    fn to_try(self) -> SocketAddr {
        let any = |port| SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port);
        match self {
            Self::Any(port) => any(port),
            Self::At(SocketAddr::V4(at)) if at.ip().is_unspecified() => any(at.port()),
            Self::At(SocketAddr::V6(at)) if at.ip().is_unspecified() => {
                SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), at.port())
            }
            Self::At(address) => address,
        }
    }
}

/// As it is written: `0.0.0.0:8080`, `[::]:8080`, `*:8080`.
impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => write!(f, "{address}"),
            Self::Any(port) => write!(f, "*:{port}"),
        }
    }
}

/// What a frontend understands of what goes through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Requests: each goes to the instance whose turn it is, also over a connection that is kept alive.
    Http,
    /// Bytes: a connection stays with its instance.
    Tcp,
}

/// Who is next (HAProxy's names; each of them takes servers at run time).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// In turn.
    Roundrobin,
    /// Whoever has the fewest connections.
    Leastconn,
    /// The better of two drawn by lot.
    Random,
    /// By the client's address, with consistent hashing: a server that comes or goes moves few clients.
    Source,
}

impl Balance {
    /// HAProxy's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Roundrobin => "roundrobin",
            Self::Leastconn => "leastconn",
            Self::Random => "random",
            Self::Source => "source",
        }
    }
}

/// Whether a client comes back to the instance it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stickiness {
    /// No.
    None,
    /// By a cookie that the balancer sets; mode http only.
    Cookie,
    /// By its address, remembered for half an hour.
    Source,
}

/// One `[[discovery]]`: a file that tells somebody else where the set serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovery {
    /// For whom.
    pub format: Format,
    /// The file, absolute.
    pub file: PathBuf,
    /// What the set is called in it; the set's own name by default.
    pub name: Label,
    /// Port of the instances.
    pub port: u16,
    /// A command that is run after the file has changed: a program and its arguments, without a shell. Empty: none.
    pub reload: Vec<String>,
    /// How long an instance that was taken out of the file is left as it is, since nobody can be asked whether it still
    /// has connections, 0 s to 1 h. Always zero for formats that lead no traffic.
    pub drain: Duration,
}

/// A format of discovery files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Prometheus `file_sd`: every instance, healthy or not, with labels.
    Prometheus,
    /// Traefik's file provider: an HTTP service.
    Traefik,
    /// Envoy's endpoint discovery (EDS) by file.
    Envoy,
    /// An nginx `upstream` block, to be included.
    Nginx,
}

impl Format {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prometheus => "prometheus",
            Self::Traefik => "traefik",
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
        }
    }

    /// Whether clients are led to the instances by it.
    pub const fn leads_traffic(self) -> bool {
        !matches!(self, Self::Prometheus)
    }
}

/// What a changed definition has dropped of a set's service: it is left without a trace of the set, once it can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dropped {
    /// Load balancers, or frontends of them: only what was dropped is in it.
    LoadBalancer(LoadBalancer),
    /// A file.
    Discovery(Discovery),
}

impl Dropped {
    /// What `after` lacks of `before`.
    pub fn of(
        before: (&Option<LoadBalancer>, &[Discovery]),
        after: (&Option<LoadBalancer>, &[Discovery]),
    ) -> Vec<Self> {
        let mut dropped = Vec::new();
        if let Some(old) = before.0 {
            let part = |run: Run, frontends: Vec<Frontend>| {
                Self::LoadBalancer(LoadBalancer {
                    run,
                    frontends,
                    ..old.clone()
                })
            };
            match (&old.run, after.0.as_ref().map(|new| &new.run)) {
                (Run::Local, Some(Run::Local)) => {}
                (Run::Sockets(sockets), Some(Run::Sockets(others))) => {
                    let (kept, gone): (Vec<_>, Vec<_>) =
                        sockets.iter().cloned().partition(|s| others.contains(s));
                    if !gone.is_empty() {
                        dropped.push(part(Run::Sockets(gone), old.frontends.clone()));
                    }
                    let still = |f: &Frontend| {
                        let new = after.0.iter().flat_map(|new| &new.frontends);
                        new.into_iter()
                            .any(|other| other.name == f.name && other.backend == f.backend)
                    };
                    let frontends: Vec<Frontend> =
                        old.frontends.iter().filter(|f| !still(f)).cloned().collect();
                    if !kept.is_empty() && !frontends.is_empty() {
                        dropped.push(part(Run::Sockets(kept), frontends));
                    }
                }
                (run, _) => dropped.push(part(run.clone(), old.frontends.clone())),
            }
        }
        let is_kept = |file: &Discovery| after.1.iter().any(|other| other.file == file.file);
        let files = before.1.iter().filter(|file| !is_kept(file));
        dropped.extend(files.cloned().map(Self::Discovery));
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balancer(run: Run, frontends: &[&str]) -> Option<LoadBalancer> {
        let one = crate::plan::testing::load_balancer(Duration::ZERO);
        let frontend = |name: &&str| Frontend {
            name: Label::new(*name).unwrap(),
            ..one.frontends[0].clone()
        };
        let frontends = frontends.iter().map(frontend).collect();
        Some(LoadBalancer {
            run,
            frontends,
            ..one
        })
    }

    fn sockets(names: &[&str]) -> Run {
        Run::Sockets(
            names
                .iter()
                .map(|name| AdminSocket::Unix(PathBuf::from(name)))
                .collect(),
        )
    }

    #[test]
    fn what_a_definition_no_longer_has_is_dropped_and_nothing_else() {
        let of = |before: &Option<LoadBalancer>, after: &Option<LoadBalancer>| {
            let words = |dropped: Dropped| match dropped {
                Dropped::LoadBalancer(l) => {
                    let run = match l.run {
                        Run::Local => "local".to_owned(),
                        Run::Sockets(s) => s.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                    };
                    let frontends = l.frontends.iter().map(|f| f.name.as_str().to_owned());
                    format!("{run}: {}", frontends.collect::<Vec<_>>().join(" "))
                }
                Dropped::Discovery(file) => file.file.display().to_string(),
            };
            Dropped::of((before, &[]), (after, &[]))
                .into_iter()
                .map(words)
                .collect::<Vec<_>>()
        };
        let two = balancer(sockets(&["/a", "/b"]), &["http", "tcp"]);
        assert_eq!(of(&two, &two), [""; 0]);
        assert_eq!(of(&None, &two), [""; 0]);
        assert_eq!(of(&two, &None), ["unix:/a unix:/b: http tcp"]);
        let fewer = balancer(sockets(&["/b"]), &["tcp"]);
        assert_eq!(of(&two, &fewer), ["unix:/a: http tcp", "unix:/b: http"]);
        let local = balancer(Run::Local, &["http"]);
        // A frontend of it goes with its next configuration.
        assert_eq!(of(&local, &balancer(Run::Local, &["tcp"])), [""; 0]);
        assert_eq!(of(&local, &two), ["local: http"]);
    }

    fn at(text: &str) -> Bind {
        Bind::At(text.parse().unwrap())
    }

    #[test]
    fn binds_get_in_each_others_way_by_port_family_and_address() {
        for (a, b, wanted) in [
            (at("10.0.0.1:80"), at("10.0.0.1:80"), true),
            (at("10.0.0.1:80"), at("10.0.0.2:80"), false),
            (at("10.0.0.1:80"), at("0.0.0.0:80"), true),
            (at("0.0.0.0:80"), at("[::]:80"), false),
            (at("0.0.0.0:80"), at("0.0.0.0:81"), false),
            (Bind::Any(80), at("[fd00::1]:80"), true),
            (Bind::Any(80), Bind::Any(81), false),
        ] {
            assert_eq!((a.overlaps(b), b.overlaps(a)), (wanted, wanted), "{a} and {b}");
        }
    }
}
