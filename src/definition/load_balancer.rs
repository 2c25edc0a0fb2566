//! `[load_balancer]` and `[[discovery]]`: through what the set is used, and who is told where it serves.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::definition::reader::{At, Reader, Section};
use crate::definition::sections::{duration, label, parsed};
use crate::definition::values;
use crate::load_balancer::{
    AdminSocket, Balance, Bind, Discovery, Format, Frontend, LoadBalancer, Mode, Run, Stickiness,
};
use crate::names::Label;

#[cfg(test)]
mod tests;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// What a section about traffic needs to know of the rest of the definition.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// The folder that relative paths begin in.
    pub folder: &'a Path,
    /// Whether instances have a network card to be reached by.
    pub has_network: bool,
}

/// Reads `[load_balancer]`; without it there is none.
pub(super) fn load_balancer(
    r: &mut Reader<'_>,
    top: &Section<'_, '_>,
    around: Around<'_>,
) -> Option<Option<LoadBalancer>> {
    if !top.has("load_balancer") {
        return Some(None);
    }
    let s = r.table(top, "load_balancer", "LoadBalancer")?;
    needs_network(r, top, "load_balancer", around);
    let run = run(r, &s);
    let drain = duration(r, &s, "drain", Duration::ZERO, HOUR).unwrap_or(5 * MINUTE);
    let slow_start = duration(r, &s, "slow_start", Duration::ZERO, 15 * MINUTE).unwrap_or_default();
    let stats = parsed(r, &s, "stats", values::socket_address);
    if let Some(at) = &stats {
        check_stats(r, at, run.as_ref());
    }
    let is_local = matches!(run, Some(Run::Local));
    let mut frontends: Vec<Frontend> = Vec::new();
    if !s.has_items("frontends") {
        r.missing(
            &s,
            "frontends",
            "[[load_balancer.frontends]]\nname = \"http\"\nbind = \"0.0.0.0:8080\"\nport = 80",
        );
    }
    for f in r.tables(&s, "frontends", "Frontend").unwrap_or_default() {
        let Some(frontend) = frontend(r, &f, around, is_local) else {
            continue;
        };
        check_against_others(r, &f, &frontend, &frontends);
        frontends.push(frontend);
    }
    if is_local && let Some(at) = &stats {
        let stats = Bind::At(at.value);
        if let Some(other) = frontends
            .iter()
            .find(|f| f.bind.iter().any(|b| b.overlaps(stats)))
        {
            r.bad(
                at,
                format!("frontend {} listens there already", other.name),
                "give the statistics page a port of its own",
            );
        }
    }
    Some(Some(LoadBalancer {
        run: run?,
        drain,
        slow_start,
        stats: stats.map(|at| at.value),
        frontends,
    }))
}

fn needs_network(r: &mut Reader<'_>, top: &Section<'_, '_>, key: &str, around: Around<'_>) {
    if !around.has_network {
        r.wrong(
            top.key_span(key).unwrap_or_default(),
            key,
            "clients are sent to instances over the network, and the instances have no network card",
            Some("add [[instance.networks]]".into()),
        );
    }
}

fn run(r: &mut Reader<'_>, s: &Section<'_, '_>) -> Option<Run> {
    let sockets: Vec<AdminSocket> = (r.strings(s, "sockets").into_iter())
        .filter_map(|at| match admin_socket(&at.value) {
            Ok(socket) => Some(socket),
            Err(message) => {
                let help = "such as \"unix:/run/haproxy/admin.sock\" or \"tcp:10.0.0.2:9999\"";
                r.bad(&at, message, help);
                None
            }
        })
        .collect();
    for (i, socket) in sockets.iter().enumerate() {
        if sockets[..i].contains(socket) {
            r.wrong(
                s.key_span("sockets").unwrap_or_default(),
                &s.key("sockets"),
                format!("{socket} is there twice"),
                None,
            );
        }
    }
    match (s.has("run"), s.has("sockets")) {
        (true, true) => {
            r.wrong(
                s.key_span("sockets").unwrap_or_default(),
                &s.key("sockets"),
                "run and sockets exclude each other: either vmss runs HAProxy, or it drives one that runs already",
                Some("leave one of them out".into()),
            );
            None
        }
        (false, false) => {
            r.missing(s, "run", "run = \"local\"");
            None
        }
        (true, false) => r.choice(s, "run", &[("local", ())]).map(|()| Run::Local),
        (false, true) if sockets.is_empty() => {
            if !s.has_items("sockets") {
                r.missing(s, "sockets", "sockets = [\"unix:/run/haproxy/admin.sock\"]");
            }
            None
        }
        (false, true) => Some(Run::Sockets(sockets)),
    }
}

/// Reads `unix:/path` or `tcp:address:port`.
fn admin_socket(text: &str) -> Result<AdminSocket, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let is_fine = path.starts_with('/') && !path.chars().any(char::is_control);
        // What a socket's address has room for in Linux.
        if !is_fine || path.len() > 107 {
            return Err(format!(
                "{path:?} is no path of a socket: absolute, 107 bytes at most"
            ));
        }
        return Ok(AdminSocket::Unix(PathBuf::from(path)));
    }
    match text.strip_prefix("tcp:") {
        Some(address) => values::socket_address(address).map(AdminSocket::Tcp),
        None => Err(format!("{text:?} says neither unix: nor tcp:")),
    }
}

/// The statistics page has no password: it is for who is on the machine already.
fn check_stats(r: &mut Reader<'_>, at: &At<SocketAddr>, run: Option<&Run>) {
    if matches!(run, Some(Run::Sockets(_))) {
        r.bad(
            at,
            "stats is for the HAProxy that vmss runs, and these run already",
            "configure their statistics pages where they are configured",
        );
    } else if !at.value.ip().is_loopback() {
        r.bad(
            at,
            format!(
                "{} is no loopback address: anybody could look at it",
                at.value.ip()
            ),
            "127.0.0.1 or [::1], such as \"127.0.0.1:8404\"",
        );
    }
}

fn frontend(r: &mut Reader<'_>, s: &Section<'_, '_>, around: Around<'_>, is_local: bool) -> Option<Frontend> {
    let name = label(r, s, "name", "name = \"http\"");
    let bind = binds(r, s);
    if is_local && !s.has_items("bind") {
        r.missing(s, "bind", "bind = \"0.0.0.0:8080\"");
    }
    let mode = if s.has("mode") {
        r.choice(s, "mode", &[("http", Mode::Http), ("tcp", Mode::Tcp)])
    } else {
        Some(Mode::Http)
    };
    let port = port(r, s, "port = 80");
    let balances = [
        ("roundrobin", Balance::Roundrobin),
        ("leastconn", Balance::Leastconn),
        ("random", Balance::Random),
        ("source", Balance::Source),
    ];
    let balance = if s.has("balance") {
        r.choice(s, "balance", &balances)
    } else {
        Some(Balance::Roundrobin)
    };
    let certificate = parsed(r, s, "certificate", |t| path(t, around.folder)).map(|at| at.value);
    let kinds = [
        ("none", Stickiness::None),
        ("cookie", Stickiness::Cookie),
        ("source", Stickiness::Source),
    ];
    let stickiness = if s.has("stickiness") {
        r.choice(s, "stickiness", &kinds)
    } else {
        Some(Stickiness::None)
    };
    if mode == Some(Mode::Tcp) && stickiness == Some(Stickiness::Cookie) {
        r.wrong(
            s.key_span("stickiness").unwrap_or_default(),
            &s.key("stickiness"),
            "a cookie goes with mode = \"http\", and the mode is \"tcp\"",
            Some("write stickiness = \"source\", or mode = \"http\"".into()),
        );
    }
    let max_connections = r.integer(s, "max_connections", 1..1_000_001).map(|at| at.value);
    let backend = parsed(r, s, "backend", |t| values::proxy_name(t).map(|()| t.to_owned()));
    if is_local && let Some(at) = &backend {
        r.bad(
            at,
            "backend names one of an HAProxy that runs already, and vmss runs this one",
            "leave backend out",
        );
    }
    Some(Frontend {
        name: name?,
        bind,
        mode: mode?,
        port: port?,
        balance: balance?,
        certificate,
        stickiness: stickiness?,
        max_connections,
        backend: backend.map(|at| at.value),
    })
}

fn port(r: &mut Reader<'_>, s: &Section<'_, '_>, example: &str) -> Option<u16> {
    if !s.has("port") {
        r.missing(s, "port", example);
    }
    let at = r.integer(s, "port", 1..65536)?;
    u16::try_from(at.value).ok()
}

fn binds(r: &mut Reader<'_>, s: &Section<'_, '_>) -> Vec<Bind> {
    let mut binds = Vec::new();
    for at in r.one_or_more_strings(s, "bind") {
        match bind(&at.value) {
            Ok(bind) => binds.push(bind),
            Err(message) => r.bad(
                &at,
                message,
                "such as \"0.0.0.0:8080\", \"[::]:8080\", or \"*:8080\" for all addresses",
            ),
        }
    }
    for (i, bind) in binds.iter().enumerate() {
        if let Some(other) = binds[..i].iter().find(|other| other.overlaps(*bind)) {
            r.wrong(
                s.key_span("bind").unwrap_or_default(),
                &s.key("bind"),
                format!("{other} and {bind} get in each other's way"),
                None,
            );
        }
    }
    binds
}

fn bind(text: &str) -> Result<Bind, String> {
    let any = text.strip_prefix("*:").or_else(|| text.strip_prefix(':'));
    match any {
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => Ok(Bind::Any(port)),
            _ => Err(format!("{port:?} is no port: 1 to 65535")),
        },
        None => values::socket_address(text).map(Bind::At),
    }
}

fn check_against_others(r: &mut Reader<'_>, s: &Section<'_, '_>, new: &Frontend, others: &[Frontend]) {
    for other in others {
        if other.name == new.name {
            r.wrong(
                s.key_span("name").unwrap_or_default(),
                &s.key("name"),
                format!("two frontends are named {}", new.name),
                None,
            );
        }
        if new.backend.is_some() && new.backend == other.backend {
            r.wrong(
                s.key_span("backend").unwrap_or_default(),
                &s.key("backend"),
                format!("frontend {} has that backend", other.name),
                Some("give each a backend of its own: instances are in it under their names".into()),
            );
        }
        let clash = (new.bind.iter()).find_map(|b| Some((b, other.bind.iter().find(|o| o.overlaps(*b))?)));
        if let Some((bind, there)) = clash {
            r.wrong(
                s.key_span("bind").unwrap_or_default(),
                &s.key("bind"),
                format!(
                    "{bind} gets in the way of frontend {}, which listens on {there}",
                    other.name
                ),
                None,
            );
        }
    }
}

/// Reads `[[discovery]]`.
pub(super) fn discovery(
    r: &mut Reader<'_>,
    top: &Section<'_, '_>,
    set: Option<&Label>,
    around: Around<'_>,
) -> Option<Vec<Discovery>> {
    if !top.has("discovery") {
        return Some(Vec::new());
    }
    needs_network(r, top, "discovery", around);
    let sections = r.tables(top, "discovery", "Discovery")?;
    let mut files: Vec<Discovery> = Vec::new();
    for s in &sections {
        let Some(file) = discovery_file(r, s, set, around) else {
            continue;
        };
        if files.iter().any(|other| other.file == file.file) {
            r.wrong(
                s.key_span("file").unwrap_or_default(),
                &s.key("file"),
                format!("two discovery files are {}", file.file.display()),
                None,
            );
        }
        files.push(file);
    }
    Some(files)
}

fn discovery_file(
    r: &mut Reader<'_>,
    s: &Section<'_, '_>,
    set: Option<&Label>,
    around: Around<'_>,
) -> Option<Discovery> {
    let formats = [Format::Prometheus, Format::Traefik, Format::Envoy, Format::Nginx];
    if !s.has("format") {
        r.missing(s, "format", "format = \"prometheus\"");
    }
    let format = r.choice(s, "format", &formats.map(|f| (f.as_str(), f)));
    if !s.has("file") {
        r.missing(s, "file", "file = \"/etc/prometheus/vmss-web.json\"");
    }
    let file = parsed(r, s, "file", |t| path(t, around.folder)).map(|at| at.value);
    if let (Some(format), Some(file)) = (format, &file) {
        check_ending(r, s, format, file);
    }
    let port = port(r, s, "port = 9100");
    let name = if s.has("name") {
        label(r, s, "name", "name = \"web\"")
    } else {
        set.cloned()
    };
    let reload: Vec<String> = r.strings(s, "reload").into_iter().map(|at| at.value).collect();
    let drain = duration(r, s, "drain", Duration::ZERO, HOUR);
    let leads = format.is_none_or(Format::leads_traffic);
    if s.has("drain") && !leads {
        r.wrong(
            s.key_span("drain").unwrap_or_default(),
            &s.key("drain"),
            "drain goes with formats that lead traffic, and prometheus leads none",
            Some("leave drain out".into()),
        );
    }
    let usual = if leads {
        Duration::from_secs(30)
    } else {
        Duration::ZERO
    };
    Some(Discovery {
        format: format?,
        file: file?,
        name: name?,
        port: port?,
        reload,
        drain: drain.filter(|_| leads).unwrap_or(usual),
    })
}

/// Readers tell a file's format by its name, or refuse it.
fn check_ending(r: &mut Reader<'_>, s: &Section<'_, '_>, format: Format, file: &Path) {
    let endings: &[&str] = match format {
        Format::Prometheus => &["json", "yml", "yaml"],
        Format::Traefik => &["yml", "yaml", "toml"],
        Format::Envoy => &["json", "yaml"],
        Format::Nginx => return,
    };
    let ending = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if !endings.contains(&ending) {
        let all: Vec<String> = endings.iter().map(|e| format!(".{e}")).collect();
        r.wrong(
            s.key_span("file").unwrap_or_default(),
            &s.key("file"),
            format!("{} does not read a file of that name", format.as_str()),
            Some(format!("it ends in {}", all.join(", "))),
        );
    }
}

/// A path, relative ones taken from the definition's folder.
fn path(text: &str, folder: &Path) -> Result<PathBuf, String> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(format!("{text:?} is no path"));
    }
    Ok(folder.join(text))
}
