//! Probes: instances are asked for their health over the network, many side by side, each with its own time-out.
//!
//! What a healthy answer is follows Azure's Application Health extension: a TCP connection that can be made, a 200, or
//! an `ApplicationHealthState` in the body of a success ("rich health states").

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ureq::config::AutoHeaderValue;
use ureq::http::{StatusCode, Uri};
use ureq::tls::TlsConfig;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use uuid::Uuid;

use crate::inventory::Answer;
use crate::names::InstanceId;
use crate::said;
use crate::scaleset::{Health, Probe};
use crate::supervise::caught;

#[cfg(test)]
mod tests;

/// Most instances asked at one moment.
pub const MOST_AT_ONCE: usize = 256;

/// Bytes of a body that are read: a health state is short, and an endless body must not fill the memory.
const MOST_OF_A_BODY: u64 = 64 << 10;

/// Longest time that is waited, whatever was asked for: so that no sum of times is more than a clock can hold.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The instance.
    pub id: InstanceId,
    /// Its addresses in the order in which they are tried. An address that a guest tells of itself may be anything: the
    /// loopback and link-local ones would ask the machine on which vmss runs, and are for the caller to leave out.
    pub addresses: Vec<IpAddr>,
    /// Its domain's UUID: for who asks through the host.
    pub uuid: Uuid,
}

/// Asks instances over the network. A fake stands in for it in tests.
pub trait Probes: Send + Sync {
    /// Asks one instance. Returns within `health.timeout` or a little more.
    fn ask(&self, target: &Target, health: &Health) -> Answer;
}

/// The real one: TCP, HTTP and HTTPS.
///
/// - Every probe is a connection of its own, past any proxy.
/// - TCP: a connection can be made.
/// - HTTP: a GET, no redirect followed, certificates not checked (an address has none). A 200 is healthy. If the body
///   is JSON that has an `ApplicationHealthState`, that decides among successes (2xx): "Healthy", or anything else,
///   which is not. Any other status is not healthy whatever its body says (Azure calls it unknown).
/// - The time-out covers connecting and the whole answer. The addresses share it: each has its part of what is left to
///   connect, and the first that is connected to has the rest, for its answer is the instance's.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetworkProbes;

impl Probes for NetworkProbes {
    fn ask(&self, target: &Target, health: &Health) -> Answer {
        let over_network = |ask: &dyn Fn(SocketAddr, Share) -> Result<Answer, Failure>, port| {
            first_answer(target, port, health.timeout, ask)
        };
        match &health.probe {
            Probe::None | Probe::Agent => bad("not a network probe"),
            Probe::Tcp { port } => over_network(&|address, share| connect(address, share), *port),
            Probe::Http { tls, port, path } => {
                over_network(&|address, share| get(*tls, address, path, share), *port)
            }
        }
    }
}

/// The part of the time-out that an address has.
#[derive(Clone, Copy)]
struct Share {
    /// For connecting.
    connect: Duration,
    /// For everything.
    all: Duration,
}

/// Why an address gave no answer.
enum Failure {
    /// No time was left, or none of the share.
    TimedOut,
    /// Something else, in short.
    Said(String),
}

/// Asks the addresses in order until one answers.
fn first_answer(
    target: &Target,
    port: u16,
    timeout: Duration,
    ask: &dyn Fn(SocketAddr, Share) -> Result<Answer, Failure>,
) -> Answer {
    let end = Instant::now() + timeout.min(LONGEST);
    let mut failure = None;
    for (tried, address) in target.addresses.iter().enumerate() {
        let all = end.saturating_duration_since(Instant::now());
        let others = u32::try_from(target.addresses.len() - tried).unwrap_or(u32::MAX);
        let connect = all / others;
        if connect.is_zero() {
            failure = Some(Failure::TimedOut);
            break;
        }
        match ask(SocketAddr::new(*address, port), Share { connect, all }) {
            Ok(answer) => return answer,
            Err(e) => failure = Some(e),
        }
    }
    match failure {
        None => bad("no address is known"),
        Some(Failure::TimedOut) => no_answer(timeout),
        Some(Failure::Said(said)) => bad(said),
    }
}

fn bad(said: impl Into<String>) -> Answer {
    Answer {
        good: false,
        said: said.into(),
    }
}

fn no_answer(within: Duration) -> Answer {
    bad(format!("no answer within {} s", within.as_secs_f64()))
}

fn connect(address: SocketAddr, share: Share) -> Result<Answer, Failure> {
    match TcpStream::connect_timeout(&address, share.connect) {
        Ok(_) => Ok(Answer {
            good: true,
            said: "connected".to_owned(),
        }),
        Err(e) => Err(io_failure(&e)),
    }
}

fn get(tls: bool, address: SocketAddr, path: &str, share: Share) -> Result<Answer, Failure> {
    // An IPv6 address with its port is written in brackets, as a URL wants it.
    let url = format!("{}://{address}{path}", if tls { "https" } else { "http" });
    let request = (AGENT.get(&url).config())
        .timeout_connect(Some(share.connect))
        .timeout_global(Some(share.all))
        .build();
    let mut response = request.call().map_err(|e| http_failure(tls, e))?;
    let mut body = Vec::new();
    (response.body_mut().as_reader().take(MOST_OF_A_BODY))
        .read_to_end(&mut body)
        .map_err(|e| http_failure(tls, e.into()))?;
    Ok(judge(response.status(), &body))
}

/// What all requests have in common. One agent serves them all: it holds what TLS needs, and keeps no connection.
static AGENT: LazyLock<ureq::Agent> = LazyLock::new(|| {
    let config = ureq::Agent::config_builder()
        .user_agent(concat!("vmss/", env!("CARGO_PKG_VERSION")))
        .accept_encoding(AutoHeaderValue::None)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        // A proxy of the environment is for the way out, and would answer for the instance.
        .proxy(None)
        .max_idle_connections(0)
        .max_idle_connections_per_host(0)
        // Several hundred are asked at once: what one connection may hold in memory is kept small.
        .max_response_header_size(16 << 10)
        .input_buffer_size(32 << 10)
        .output_buffer_size(8 << 10)
        .tls_config(TlsConfig::builder().disable_verification(true).build())
        .build();
    ureq::Agent::with_parts(config, DefaultConnector::new(), Literal)
});

/// Resolves nothing: the URL has the address itself. The usual resolver starts a thread for each request that has a
/// time-out, and panics where none can be started. (This part of ureq may change with any release; the lock file holds
/// it.)
#[derive(Debug)]
struct Literal;

impl Resolver for Literal {
    fn resolve(
        &self,
        uri: &Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let address = (uri.authority()).and_then(|a| a.as_str().parse::<SocketAddr>().ok());
        let mut found = self.empty();
        found.push(address.ok_or(ureq::Error::HostNotFound)?);
        Ok(found)
    }
}

/// Whether an answer is a healthy one, by its status and what was read of its body.
fn judge(status: StatusCode, body: &[u8]) -> Answer {
    let mut said = status.as_u16().to_string();
    if status != StatusCode::OK
        && let Some(reason) = status.canonical_reason()
    {
        said = format!("{said} {reason}");
    }
    let rich: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let Some(state) = rich.as_ref().and_then(|json| json.get("ApplicationHealthState")) else {
        return Answer {
            good: status == StatusCode::OK,
            said,
        };
    };
    let healthy = state.as_str().is_some_and(|s| s.eq_ignore_ascii_case("Healthy"));
    Answer {
        good: healthy && status.is_success(),
        said: format!("{said}, ApplicationHealthState {}", shown(state)),
    }
}

/// A state that a guest wrote, fit for a terminal.
fn shown(state: &serde_json::Value) -> String {
    const MOST: usize = 40;
    match state {
        serde_json::Value::String(text) => said::shown(text, MOST),
        other => said::shown(&other.to_string(), MOST),
    }
}

fn http_failure(tls: bool, error: ureq::Error) -> Failure {
    match error {
        ureq::Error::Timeout(_) => Failure::TimedOut,
        // What TLS makes of bytes that are none of its own comes so.
        ureq::Error::Io(e) if tls && e.kind() == io::ErrorKind::InvalidData => {
            Failure::Said(format!("no TLS: {e}"))
        }
        ureq::Error::Io(e) => io_failure(&e),
        ureq::Error::Rustls(e) => Failure::Said(format!("no TLS: {e}")),
        ureq::Error::Protocol(_) | ureq::Error::Http(_) | ureq::Error::LargeResponseHeader(..) => {
            Failure::Said("the answer is not HTTP".to_owned())
        }
        other => Failure::Said(other.to_string()),
    }
}

/// A failure of the network in short words.
fn io_failure(error: &io::Error) -> Failure {
    use io::ErrorKind as Kind;
    let said = match error.kind() {
        Kind::TimedOut | Kind::WouldBlock => return Failure::TimedOut,
        Kind::ConnectionRefused => "connection refused",
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => "no route to host",
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::UnexpectedEof | Kind::BrokenPipe => {
            "connection closed"
        }
        _ => return Failure::Said(error.to_string()),
    };
    Failure::Said(said.to_owned())
}

/// Asks all of `targets`, with at most [`MOST_AT_ONCE`] threads, each asking one after the other, and returns by
/// `deadline` at the latest. The result has every target's id.
///
/// Who was asked and has not answered by then did not answer; who was not reached, since too many before it took their
/// time, is said to be so. Both count as no good answer. Threads that are stuck are left behind; they ask no more.
pub fn ask_all(
    probes: &Arc<dyn Probes>,
    targets: Vec<Target>,
    health: &Health,
    deadline: Duration,
) -> BTreeMap<InstanceId, Answer> {
    let end = Instant::now() + deadline.min(LONGEST);
    let mut answers: BTreeMap<InstanceId, Answer> =
        (targets.iter()).map(|t| (t.id, no_answer(deadline))).collect();
    let threads = targets.len().min(MOST_AT_ONCE);
    let mut waiting = targets.len();
    let queue = Arc::new(Mutex::new(VecDeque::from(targets)));
    let (tx, rx) = mpsc::channel();
    let mut refusal = None;
    for i in 0..threads {
        let (probes, queue, health, tx) =
            (Arc::clone(probes), Arc::clone(&queue), health.clone(), tx.clone());
        let work = move || {
            while let Some(target) = next(&queue) {
                // The receiver may have given up: then nobody wants the answer.
                let answer = caught(|| probes.ask(&target, &health)).unwrap_or_else(bad);
                let _ = tx.send((target.id, answer));
            }
        };
        // Where no more threads are to be had, those that are there ask everyone.
        if let Err(e) = thread::Builder::new().name(format!("probe-{i}")).spawn(work) {
            refusal = Some(e);
            break;
        }
    }
    drop(tx);
    while waiting > 0 {
        match rx.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok((id, answer)) => {
                answers.insert(id, answer);
                waiting -= 1;
            }
            Err(_) => break,
        }
    }
    let not_asked = std::mem::take(&mut *queue.lock().unwrap_or_else(PoisonError::into_inner));
    for target in not_asked {
        let said = match &refusal {
            Some(e) => format!("not asked: no thread could be started: {e}"),
            None => format!("not asked within {} s", deadline.as_secs_f64()),
        };
        answers.insert(target.id, bad(said));
    }
    answers
}

fn next(queue: &Mutex<VecDeque<Target>>) -> Option<Target> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}
