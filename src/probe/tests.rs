//! Probes against tiny servers of this process, and many at once against a fake.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::Condvar;

use super::*;
use crate::answer::Judgement;

/// Far more than anything takes that is expected to answer.
const LONG: Duration = Duration::from_secs(30);
/// What is waited for where no answer is to come.
const SHORT: Duration = Duration::from_millis(300);
/// Where no test listens.
const NOBODY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// A server at `listener` that treats each connection with `serve`, on a thread that lives as long as the tests.
fn serve_at(
    listener: TcpListener,
    mut serve: impl FnMut(TcpStream) -> io::Result<()> + Send + 'static,
) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // Who is probed may see the connection end at any moment.
            let _ = serve(stream.unwrap());
        }
    });
    address
}

fn serve(serve: impl FnMut(TcpStream) -> io::Result<()> + Send + 'static) -> SocketAddr {
    serve_at(TcpListener::bind("127.0.0.1:0").unwrap(), serve)
}

/// The head of a request: all that comes before the empty line.
fn head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head).unwrap())
}

fn reply(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

/// A server that gives `answer` to every request.
fn answering(answer: String) -> SocketAddr {
    serve(move |mut stream| {
        head(&mut stream)?;
        stream.write_all(answer.as_bytes())
    })
}

fn target(addresses: Vec<IpAddr>) -> Target {
    Target {
        id: InstanceId(1),
        addresses,
        uuid: Uuid::nil(),
    }
}

/// An answer in short.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    good: bool,
    said: String,
}

impl From<&Heard> for Told {
    fn from(heard: &Heard) -> Self {
        Self {
            good: heard.answer.is_good(),
            said: heard.answer.to_string(),
        }
    }
}

fn hear(probe: Probe, addresses: Vec<IpAddr>, timeout: Duration) -> Heard {
    let health = Health {
        probe,
        timeout,
        ..Health::default()
    };
    NetworkProbes.ask(&target(addresses), &health)
}

fn ask(probe: Probe, addresses: Vec<IpAddr>, timeout: Duration) -> Told {
    Told::from(&hear(probe, addresses, timeout))
}

fn http(tls: bool, port: u16) -> Probe {
    Probe::Http {
        tls,
        port,
        path: "/healthz?full=1".to_owned(),
    }
}

fn ask_http(server: SocketAddr, timeout: Duration) -> Told {
    ask(http(false, server.port()), vec![server.ip()], timeout)
}

fn ask_tcp(server: SocketAddr, timeout: Duration) -> Told {
    ask(Probe::Tcp { port: server.port() }, vec![server.ip()], timeout)
}

fn good(said: &str) -> Told {
    Told {
        good: true,
        said: said.to_owned(),
    }
}

fn bad(said: impl Into<String>) -> Told {
    Told {
        good: false,
        said: said.into(),
    }
}

/// An address of this machine where nobody listens: all of 127.0.0.0/8 is this machine, the servers here have one address
/// of it, and who holds the listener keeps the port from being another's.
fn closed() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, SocketAddr::from((NOBODY, port)))
}

#[test]
fn a_200_is_healthy_and_no_other_status_is() {
    for (status, answer) in [
        ("200 Fine by me", good("200")),
        ("204 No Content", bad("204 No Content")),
        ("404 x", bad("404 Not Found")),
        ("503 Oh no", bad("503 Service Unavailable")),
        ("799 x", bad("799")),
    ] {
        assert_eq!(ask_http(answering(reply(status, "")), LONG), answer);
    }
}

#[test]
fn the_request_says_who_asks_whom_for_what() {
    let (tx, rx) = mpsc::channel();
    let server = serve(move |mut stream| {
        tx.send(head(&mut stream)?).unwrap();
        stream.write_all(reply("200 OK", "").as_bytes())
    });
    assert_eq!(ask_http(server, LONG), good("200"));
    let head = rx.recv().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /healthz?full=1 http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: 127.0.0.1"), "{head}");
    let agent = format!("\r\nuser-agent: vmss/{}\r\n", env!("CARGO_PKG_VERSION"));
    assert!(head.contains(&agent), "{head}");
}

#[test]
fn a_rich_health_state_decides_among_successes() {
    let state = |state: &str| format!(r#"{{"Uptime": 7, "ApplicationHealthState": {state}}}"#);
    for (status, body, answer) in [
        (
            "200 OK",
            state("\"Healthy\""),
            good("200, ApplicationHealthState Healthy"),
        ),
        (
            "200 OK",
            state("\"healthy\""),
            good("200, ApplicationHealthState healthy"),
        ),
        (
            "202 Ok",
            state("\"Healthy\""),
            good("202 Accepted, ApplicationHealthState Healthy"),
        ),
        (
            "200 OK",
            state("\"Unhealthy\""),
            bad("200, ApplicationHealthState Unhealthy"),
        ),
        (
            "200 OK",
            state("\"UNHEALTHY\""),
            bad("200, ApplicationHealthState UNHEALTHY"),
        ),
        (
            "200 OK",
            state("\"Busy\""),
            bad("200, ApplicationHealthState Busy"),
        ),
        ("200 OK", state("true"), bad("200, ApplicationHealthState true")),
        (
            "200 OK",
            state("\"\\u001b[2J\""),
            bad("200, ApplicationHealthState  [2J"),
        ),
        // Azure: unknown, whatever the body says.
        (
            "503 x",
            state("\"Healthy\""),
            bad("503 Service Unavailable, ApplicationHealthState Healthy"),
        ),
        ("200 OK", r#"{"status": "Unhealthy"}"#.to_owned(), good("200")),
        ("200 OK", "\"ApplicationHealthState\"".to_owned(), good("200")),
        (
            "200 OK",
            "ApplicationHealthState: Unhealthy".to_owned(),
            good("200"),
        ),
    ] {
        assert_eq!(ask_http(answering(reply(status, &body)), LONG), answer, "{body}");
    }
    let long = bad(format!("200, ApplicationHealthState {}…", "x".repeat(40)));
    let body = state(&format!("\"{}\"", "x".repeat(9000)));
    assert_eq!(ask_http(answering(reply("200 OK", &body)), LONG), long);
}

#[test]
fn a_redirect_is_not_followed_and_not_healthy() {
    let elsewhere = answering(reply("200 OK", ""));
    for with_body in [true, false] {
        let body = if with_body { "moved" } else { "" };
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 302 Found\r\nLocation: http://{elsewhere}/\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        assert_eq!(ask_http(answering(answer), LONG), bad("302 Found"));
    }
}

#[test]
fn a_server_that_is_silent_or_too_slow_gives_no_answer() {
    let (hold, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let silent = serve(move |_stream| {
        // Until the test is over.
        let _ = held.lock().unwrap().recv();
        Ok(())
    });
    assert_eq!(ask_http(silent, SHORT), bad("no answer within 0.3 s"));

    // Each byte comes in time, and the answer as a whole does not: neither its head nor its body.
    for sent_at_once in ["", "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"] {
        let slow = serve(move |mut stream| {
            head(&mut stream)?;
            stream.write_all(sent_at_once.as_bytes())?;
            let rest = reply("200 OK", &"x".repeat(1 << 20));
            for byte in rest.as_bytes() {
                stream.write_all(&[*byte])?;
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        });
        assert_eq!(
            ask_http(slow, SHORT),
            bad("no answer within 0.3 s"),
            "{sent_at_once:?}"
        );
    }
    drop(hold);
}

#[test]
fn an_endless_body_is_left_when_enough_of_it_was_read() {
    let (tx, rx) = mpsc::channel();
    let endless = serve(move |mut stream| {
        head(&mut stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
        let piece = [b'x'; 4096];
        while stream.write_all(&piece).is_ok() {}
        tx.send(()).unwrap();
        Ok(())
    });
    assert_eq!(ask_http(endless, LONG), good("200"));
    rx.recv().expect("the server should have seen the connection end");
}

#[test]
fn what_is_not_http_is_said_to_be_none() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "\0\0\0\0\r\n\r\n",
        "HTTP/9 999\r\n\r\n",
    ] {
        let answer = ask_http(answering(garbage.to_owned()), LONG);
        assert_eq!(answer, bad("the answer is not HTTP"), "{garbage:?}");
    }
    let endless_head = serve(|mut stream| {
        head(&mut stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        loop {
            stream.write_all(b"X-More: and more\r\n")?;
        }
    });
    assert_eq!(ask_http(endless_head, LONG), bad("the answer is not HTTP"));
}

#[test]
fn a_connection_that_ends_too_early_is_said_to_be_closed() {
    for sent in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nfive!",
    ] {
        let answer = ask_http(answering(sent.to_owned()), LONG);
        assert_eq!(answer, bad("connection closed"), "{sent:?}");
    }
}

#[test]
fn a_closed_port_refuses_the_connection() {
    let (_listener, closed) = closed();
    assert_eq!(ask_http(closed, LONG), bad("connection refused"));
    assert_eq!(ask_tcp(closed, LONG), bad("connection refused"));
    let tls = ask(http(true, closed.port()), vec![closed.ip()], LONG);
    assert_eq!(tls, bad("connection refused"));
}

#[test]
fn tcp_is_content_with_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let answer = ask_tcp(listener.local_addr().unwrap(), LONG);
    assert_eq!(answer, good("connected"), "nobody needs to accept it");
    let answer = ask_tcp(listener.local_addr().unwrap(), Duration::MAX);
    assert_eq!(answer, good("connected"), "no time is too long to be waited");
}

#[test]
fn the_next_address_is_asked_when_one_has_no_answer() {
    let server = answering(reply("200 OK", ""));
    let here: IpAddr = server.ip();
    let nobody: IpAddr = NOBODY.into();
    let port = server.port();
    let both = || vec![nobody, here];
    assert_eq!(ask(http(false, port), both(), LONG), good("200"));
    let heard = hear(http(false, port), both(), LONG);
    assert_eq!(
        heard.at,
        Some(here),
        "where it answered, not where it was asked first"
    );
    assert_eq!(ask(Probe::Tcp { port }, both(), LONG), good("connected"));
    assert_eq!(
        ask(Probe::Tcp { port }, vec![nobody, nobody], LONG),
        bad("connection refused")
    );
    assert_eq!(ask(Probe::Tcp { port }, vec![], LONG), bad("no address is known"));
    assert_eq!(ask(http(true, port), vec![], LONG), bad("no address is known"));

    let unhealthy = answering(reply("503 x", ""));
    let heard = hear(http(false, unhealthy.port()), vec![unhealthy.ip(), here], LONG);
    assert!(
        !heard.answer.is_good(),
        "the first that answers speaks for the instance: {heard:?}"
    );
}

#[test]
fn the_addresses_share_the_time() {
    let three = target(vec![Ipv4Addr::LOCALHOST.into(); 3]);
    let shares = Mutex::new(Vec::new());
    let answer = first_answer(&three, 1, LONG, &|_, share| {
        shares.lock().unwrap().push(share);
        Err(Failure::TimedOut)
    });
    assert_eq!(Told::from(&answer), bad("no answer within 30 s"));
    let shares = shares.into_inner().unwrap();
    assert_eq!(shares.len(), 3);
    for (share, others) in shares.iter().zip([3, 2, 1]) {
        assert_eq!(share.connect, share.all / others, "an even part of what is left");
        assert!(share.all <= LONG);
    }
}

#[test]
fn an_ipv6_address_stands_in_brackets() {
    // A machine without IPv6 has nothing to ask.
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        return;
    };
    let (tx, rx) = mpsc::channel();
    let server = serve_at(listener, move |mut stream| {
        tx.send(head(&mut stream)?).unwrap();
        stream.write_all(reply("200 OK", "").as_bytes())
    });
    assert_eq!(ask_http(server, LONG), good("200"));
    let head = rx.recv().unwrap().to_ascii_lowercase();
    assert!(head.contains("\r\nhost: [::1]"), "{head}");
}

/// A server with a certificate that it made itself.
fn tls_server(answer: String) -> SocketAddr {
    let made = rcgen::generate_simple_self_signed(vec!["elsewhere.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let config = Arc::new(config);
    serve(move |stream| {
        let session = rustls::ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
        let mut stream = rustls::StreamOwned::new(session, stream);
        head(&mut stream)?;
        stream.write_all(answer.as_bytes())?;
        stream.conn.send_close_notify();
        stream.flush()
    })
}

#[test]
fn https_asks_without_checking_the_certificate() {
    let body = r#"{"ApplicationHealthState": "Unhealthy"}"#;
    for (answer, expected) in [
        (reply("200 OK", ""), good("200")),
        (reply("503 x", ""), bad("503 Service Unavailable")),
        (
            reply("200 OK", body),
            bad("200, ApplicationHealthState Unhealthy"),
        ),
    ] {
        let server = tls_server(answer);
        assert_eq!(ask(http(true, server.port()), vec![server.ip()], LONG), expected);
    }
}

#[test]
fn a_server_that_speaks_no_tls_is_said_to_speak_none() {
    let plain = serve(|mut stream| {
        let mut hello = [0; 64];
        let _ = stream.read(&mut hello)?;
        stream.write_all(reply("400 Bad Request", "").as_bytes())?;
        // The rest of the hello is taken, or closing would reset what was sent.
        io::copy(&mut stream, &mut io::sink()).map(|_| ())
    });
    let answer = ask(http(true, plain.port()), vec![plain.ip()], LONG);
    assert!(!answer.good && answer.said.starts_with("no TLS: "), "{answer:?}");

    let (hold, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let silent = serve(move |_stream| {
        let _ = held.lock().unwrap().recv();
        Ok(())
    });
    let answer = ask(http(true, silent.port()), vec![silent.ip()], SHORT);
    assert_eq!(answer, bad("no answer within 0.3 s"));
    drop(hold);
}

#[test]
fn failures_of_the_network_are_told_apart_by_whose_they_are() {
    use io::ErrorKind as Kind;
    let met = |error: io::Error| match io_failure(&error) {
        Failure::Met(answer) => Some(answer),
        Failure::TimedOut => None,
    };
    for (kind, expected) in [
        (Kind::ConnectionRefused, Answer::ConnectionRefused),
        (Kind::HostUnreachable, Answer::NoRoute),
        (Kind::NetworkUnreachable, Answer::NoWay),
        (Kind::NetworkDown, Answer::NoWay),
        (Kind::ConnectionReset, Answer::ConnectionClosed),
        (Kind::BrokenPipe, Answer::ConnectionClosed),
    ] {
        assert_eq!(met(kind.into()), Some(expected), "{kind:?}");
    }
    for kind in [Kind::TimedOut, Kind::WouldBlock] {
        assert_eq!(met(kind.into()), None, "{kind:?}");
    }
    for code in [libc::EMFILE, libc::ENOBUFS, libc::EADDRNOTAVAIL, libc::EPERM] {
        let answer = met(io::Error::from_raw_os_error(code)).expect("no time-out");
        assert_eq!(
            answer.judgement(),
            Judgement::Unknown,
            "{answer}: says nothing of the guest"
        );
    }
}

#[test]
fn probes_that_go_through_the_host_are_not_the_networks() {
    let here = || vec![Ipv4Addr::LOCALHOST.into()];
    for probe in [Probe::Agent, Probe::None] {
        let heard = hear(probe, here(), LONG);
        assert_eq!(heard.answer.judgement(), Judgement::Unknown, "{heard:?}");
    }
}

/// `many` targets, numbered from 1.
fn targets(many: u64) -> Vec<Target> {
    (1..=many)
        .map(|n| Target {
            id: InstanceId(n),
            addresses: vec![],
            uuid: Uuid::from_u128(n.into()),
        })
        .collect()
}

/// Holds who asks until the gate is opened, and counts.
#[derive(Default)]
struct Gate {
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Default)]
struct Counts {
    is_open: bool,
    asked: Vec<InstanceId>,
    now: usize,
    most: usize,
}

/// What passes the gate: everyone once so many ask at once, or all but some until the test opens it.
struct Fake {
    gate: Arc<Gate>,
    opens_at: usize,
    passes: fn(InstanceId) -> bool,
}

impl Probes for Fake {
    fn ask(&self, target: &Target, _: &Health) -> Heard {
        let mut counts = self.gate.counts.lock().unwrap();
        counts.asked.push(target.id);
        counts.now += 1;
        counts.most = counts.most.max(counts.now);
        counts.is_open |= counts.now >= self.opens_at;
        self.gate.changed.notify_all();
        while !counts.is_open && !(self.passes)(target.id) {
            counts = self.gate.changed.wait(counts).unwrap();
        }
        counts.now -= 1;
        self.gate.changed.notify_all();
        Heard::nothing(named(&target.uuid))
    }
}

/// A good answer that says who gave it.
fn named(uuid: &Uuid) -> Answer {
    let name = uuid.to_string();
    Answer::Status {
        code: 200,
        reason: Some(name),
        rich: None,
    }
}

fn open(gate: &Gate) {
    gate.counts.lock().unwrap().is_open = true;
    gate.changed.notify_all();
}

#[test]
fn a_thousand_are_asked_each_once_and_256_at_a_time() {
    let gate = Arc::new(Gate::default());
    let probes: Arc<dyn Probes> = Arc::new(Fake {
        gate: Arc::clone(&gate),
        opens_at: MOST_AT_ONCE,
        passes: |_| false,
    });
    let answers = ask_all(&probes, targets(1000), &Health::default(), LONG);
    let counts = gate.counts.lock().unwrap();
    assert_eq!(counts.most, MOST_AT_ONCE, "as many as may, and no more");
    assert_eq!(counts.asked.len(), 1000);
    assert_eq!(counts.asked.iter().collect::<BTreeSet<_>>().len(), 1000);
    assert_eq!(answers.len(), 1000);
    for target in targets(1000) {
        assert_eq!(
            answers[&target.id].answer,
            named(&target.uuid),
            "each its own answer"
        );
    }
}

#[test]
fn one_that_hangs_holds_nobody_else() {
    let gate = Arc::new(Gate::default());
    let probes: Arc<dyn Probes> = Arc::new(Fake {
        gate: Arc::clone(&gate),
        opens_at: usize::MAX,
        passes: |id| id != InstanceId(7),
    });
    let answers = ask_all(&probes, targets(20), &Health::default(), Duration::from_secs(2));
    open(&gate);
    assert_eq!(answers.len(), 20);
    for (id, answer) in &answers {
        if *id == InstanceId(7) {
            assert_eq!(Told::from(answer), bad("no answer within 2 s"));
        } else {
            assert!(answer.answer.is_good(), "{id}: {answer:?}");
        }
    }
}

#[test]
fn when_all_hang_every_one_of_them_is_still_told_of() {
    let gate = Arc::new(Gate::default());
    let probes: Arc<dyn Probes> = Arc::new(Fake {
        gate: Arc::clone(&gate),
        opens_at: usize::MAX,
        passes: |_| false,
    });
    let answers = ask_all(&probes, targets(300), &Health::default(), SHORT);
    assert_eq!(answers.len(), 300);
    let told = |said: &str| -> BTreeSet<InstanceId> {
        (answers.iter())
            .filter(|(_, answer)| Told::from(*answer) == bad(said))
            .map(|(id, _)| *id)
            .collect()
    };
    let (unanswered, not_asked) = (
        told("no answer within 0.3 s"),
        told("not asked: it had no turn within 0.3 s"),
    );
    assert_eq!(unanswered.len() + not_asked.len(), 300, "{answers:?}");
    assert!(
        unanswered.len() <= MOST_AT_ONCE,
        "{} were asked",
        unanswered.len()
    );

    // Those that were left behind end, and ask nobody else.
    open(&gate);
    let counts = gate.counts.lock().unwrap();
    let counts = (gate.changed)
        .wait_timeout_while(counts, LONG, |c| c.now > 0 || c.asked.len() < unanswered.len())
        .unwrap()
        .0;
    assert_eq!(counts.asked.iter().copied().collect::<BTreeSet<_>>(), unanswered);
}

#[test]
fn nobody_to_ask_is_answered_at_once() {
    let probes: Arc<dyn Probes> = Arc::new(NetworkProbes);
    assert!(ask_all(&probes, vec![], &Health::default(), LONG).is_empty());
}
