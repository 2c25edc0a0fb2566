//! HAProxy's configuration, written from a scale set: whole for the one that vmss runs, the set's sections for others.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::runtime::address;
use crate::load_balancer::{Balance, Bind, Frontend, LoadBalancer, Mode, Stickiness};
use crate::membership::{Membership, Server};
use crate::names::Label;
use crate::scaleset::{Health, Probe, ScaleSet};

/// How long connecting to an instance may take: in a network of one's own a moment, and another instance is tried then.
const CONNECT: Duration = Duration::from_secs(3);
/// How long either side may be silent within a request or a connection.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a connection may be silent that has become a tunnel (a websocket).
const TUNNEL: Duration = Duration::from_secs(3600);

/// What a configuration is written from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The set's name.
    pub set: Label,
    /// Its load balancer.
    pub balancer: LoadBalancer,
    /// How health is asked: the balancer asks the same.
    pub health: Health,
}

impl Source {
    /// Of a set that has a load balancer.
    pub fn of(set: &ScaleSet) -> Option<Self> {
        Some(Self {
            set: set.name.clone(),
            balancer: set.load_balancer.clone()?,
            health: set.health.clone(),
        })
    }

    /// How servers are checked, as words that follow a server's address.
    fn check(&self) -> Vec<String> {
        let health = &self.health;
        let mut words = vec![
            "check".to_owned(),
            "inter".to_owned(),
            span(health.interval),
            // Once an answer speaks against its state, the next are asked for quickly.
            "fastinter".to_owned(),
            span(health.interval.min(Duration::from_secs(1))),
            "fall".to_owned(),
            health.unhealthy_after.to_string(),
            "rise".to_owned(),
            health.healthy_after.to_string(),
        ];
        match &health.probe {
            Probe::None | Probe::Agent => {}
            Probe::Tcp { port } => words.extend(["port".to_owned(), port.to_string()]),
            Probe::Http { tls, port, .. } => {
                words.extend(["port".to_owned(), port.to_string()]);
                if *tls {
                    words.extend(["check-ssl", "verify", "none"].map(str::to_owned));
                }
            }
        }
        if !self.balancer.slow_start.is_zero() {
            words.extend(["slowstart".to_owned(), span(self.balancer.slow_start)]);
        }
        words
    }

    /// What follows a server's address and weight: how it is checked, and how much it serves at a time.
    pub fn words(&self, frontend: &Frontend) -> Vec<String> {
        let mut words = self.check();
        if let Some(most) = frontend.max_connections {
            words.extend(["maxconn".to_owned(), most.to_string()]);
        }
        words
    }

    /// What the one that vmss runs is told beside its frontends. `id` comes back in `show info`: by it a running process
    /// says which configuration it has.
    pub fn global(&self, folder: &Path, id: &str, user: Option<&str>) -> String {
        let mut text = String::new();
        let socket = quoted(&folder.join("admin.sock").to_string_lossy());
        let _ = writeln!(
            text,
            "# Written by vmss for the scale set {}; changes are lost.",
            self.set
        );
        let _ = writeln!(text, "global");
        let _ = writeln!(text, "    description vmss {} {id}", self.set);
        let _ = writeln!(text, "    log /dev/log local0");
        let _ = writeln!(
            text,
            "    stats socket {socket} mode 600 level admin expose-fd listeners"
        );
        // Or two of them would share a port, each with half of the other's clients, and nobody would be told.
        let _ = writeln!(text, "    noreuseport");
        // What a reload leaves behind goes on with the connections it has, and no longer than a drain may take.
        let _ = writeln!(
            text,
            "    hard-stop-after {}",
            span(self.balancer.drain.max(SILENCE))
        );
        let _ = writeln!(text, "    ssl-default-bind-options ssl-min-ver TLSv1.2");
        if let Some(user) = user {
            let _ = writeln!(text, "    user {user}\n    group {user}");
        }
        if let Some(stats) = self.balancer.stats {
            let _ = write!(
                text,
                "\nfrontend vmss-stats\n    mode http\n    bind {}\n    timeout client {}\n    stats enable\n    stats uri /\n    \
                 stats refresh 5s\n",
                bind(Bind::At(stats)),
                span(SILENCE)
            );
        }
        text
    }

    /// The frontends and backends, with the servers of `wanted`.
    pub fn proxies(&self, wanted: &Membership) -> String {
        let mut text = String::new();
        for frontend in &self.balancer.frontends {
            if !frontend.bind.is_empty() {
                self.frontend(&mut text, frontend);
            }
            self.backend(&mut text, frontend);
            for server in &wanted.servers {
                let _ = writeln!(text, "    {}", self.server(frontend, server));
            }
        }
        text
    }

    fn frontend(&self, text: &mut String, frontend: &Frontend) {
        let backend = frontend.backend(&self.set);
        let _ = writeln!(text, "\nfrontend {backend}\n    mode {}", mode(frontend.mode));
        for at in &frontend.bind {
            let _ = write!(text, "    bind {}", bind(*at));
            if let Some(certificate) = &frontend.certificate {
                let _ = write!(text, " ssl crt {}", quoted(&certificate.to_string_lossy()));
                if frontend.mode == Mode::Http {
                    let _ = write!(text, " alpn h2,http/1.1");
                }
            }
            let _ = writeln!(text);
        }
        let _ = writeln!(text, "    timeout client {}", span(SILENCE));
        match frontend.mode {
            Mode::Http => {
                let _ = writeln!(text, "    option httplog\n    option forwardfor");
                // At a reload a connection that is kept alive ends with its next answer, and not under a request.
                let _ = writeln!(text, "    option idle-close-on-response");
                if frontend.certificate.is_some() {
                    let _ = writeln!(text, "    http-request set-header X-Forwarded-Proto https");
                }
            }
            Mode::Tcp => {
                let _ = writeln!(text, "    option tcplog");
            }
        }
        let _ = writeln!(text, "    log global\n    default_backend {backend}");
    }

    fn backend(&self, text: &mut String, frontend: &Frontend) {
        let _ = writeln!(text, "\nbackend {}", frontend.backend(&self.set));
        let _ = writeln!(text, "    mode {}", mode(frontend.mode));
        let _ = writeln!(text, "    balance {}", frontend.balance.as_str());
        if frontend.balance == Balance::Source {
            // So that a server that comes or goes moves few clients; the other kind takes no servers at run time.
            let _ = writeln!(text, "    hash-type consistent");
        }
        let _ = writeln!(text, "    timeout connect {}", span(CONNECT));
        let _ = writeln!(text, "    timeout server {}", span(SILENCE));
        let _ = writeln!(text, "    timeout tunnel {}", span(TUNNEL));
        let _ = writeln!(text, "    timeout queue {}", span(SILENCE));
        let _ = writeln!(text, "    timeout check {}", span(self.health.timeout));
        // An instance that can't be connected to costs its client a moment, and no answer.
        let _ = writeln!(text, "    retries 3\n    option redispatch 1");
        if frontend.mode == Mode::Http {
            // A connection kept to an instance that dies would take the next request with it. In a network of one's own
            // a new one costs next to nothing; the client's stays open.
            let _ = writeln!(text, "    option http-server-close");
        }
        match frontend.stickiness {
            Stickiness::None => {}
            Stickiness::Cookie => {
                let _ = writeln!(text, "    cookie VMSS insert indirect nocache httponly dynamic");
                // Not a secret: it only keeps the cookie from telling an address in clear.
                let _ = writeln!(text, "    dynamic-cookie-key vmss-{}", self.set);
            }
            Stickiness::Source => {
                let _ = writeln!(
                    text,
                    "    stick-table type ipv6 size 200k expire 30m\n    stick on src"
                );
            }
        }
        if let Probe::Http { path, .. } = &self.health.probe {
            let _ = writeln!(text, "    option httpchk");
            let (path, host) = (quoted(path), &self.set);
            let _ = writeln!(
                text,
                "    http-check send meth GET uri {path} ver HTTP/1.1 hdr Host {host}"
            );
            let _ = writeln!(text, "    http-check expect status 200");
        }
    }

    fn server(&self, frontend: &Frontend, server: &Server) -> String {
        let mut line = format!(
            "server {} {} weight {} {}",
            server.name,
            address(server.address, frontend.port),
            server.weight,
            self.words(frontend).join(" ")
        );
        if !server.duty.is_in() {
            line.push_str(" disabled");
        }
        line
    }
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Http => "http",
        Mode::Tcp => "tcp",
    }
}

fn bind(bind: Bind) -> String {
    match bind {
        Bind::At(at) => address(at.ip(), at.port()),
        Bind::Any(port) => format!("[::]:{port} v4v6"),
    }
}

/// A time span: milliseconds where it has any.
pub fn span(span: Duration) -> String {
    match span.subsec_millis() {
        0 => format!("{}s", span.as_secs()),
        _ => format!("{}ms", span.as_millis()),
    }
}

/// A word that may hold anything but control characters, which were refused where it came in: in quotes that nothing is
/// special in, a quote itself outside of them.
pub fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.:+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_ends_early_or_begins_another_line() {
        for (text, wanted) in [
            ("/etc/ssl/site.pem", "/etc/ssl/site.pem"),
            ("/a b", "'/a b'"),
            ("it's", r"'it'\''s'"),
            ("a$HOME\"b\\#", "'a$HOME\"b\\#'"),
            ("a\nbind :1", "'abind :1'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(text), wanted);
        }
    }

    #[test]
    fn spans_are_exact() {
        assert_eq!(span(Duration::from_secs(90)), "90s");
        assert_eq!(span(Duration::from_millis(1500)), "1500ms");
        assert_eq!(span(Duration::ZERO), "0s");
    }
}
