use super::*;

/// Far less than any test waits, and long enough for a machine that is busy.
const SHORT: Patience = Patience {
    asking: Duration::from_millis(300),
    taking: Duration::from_millis(300),
};

fn start(patience: Patience, page: impl Fn() -> String + Send + Sync + 'static) -> Server {
    Server::start(([127, 0, 0, 1], 0).into(), patience, Arc::new(page)).unwrap()
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// What it answers to a request.
fn said(server: &Server, request: &str) -> String {
    let mut stream = connect(server);
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn get(server: &Server, path: &str) -> String {
    said(server, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
}

fn page() -> String {
    "vmss_capacity 6\n".to_owned()
}

#[test]
fn metrics_are_there_and_a_page_that_leads_to_them_and_nothing_else() {
    let server = start(Patience::default(), page);
    let metrics = get(&server, "/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
    assert!(metrics.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert!(metrics.ends_with("\r\n\r\nvmss_capacity 6\n"), "{metrics}");
    assert!(get(&server, "/metrics?name[]=a").ends_with("vmss_capacity 6\n"));
    assert!(get(&server, "/").contains("href=\"/metrics\""));
    for path in ["/metrics/", "/favicon.ico", "/../metrics", "*"] {
        assert!(get(&server, path).starts_with("HTTP/1.1 404 "), "{path}");
    }
}

#[test]
fn what_is_no_get_is_refused() {
    let server = start(Patience::default(), page);
    for (request, status) in [
        ("POST /metrics HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi", "405"),
        ("DELETE / HTTP/1.0\r\n\r\n", "405"),
        ("GET /metrics HTTP/2.0\r\n\r\n", "400"),
        ("\u{1}\u{2}\u{3}\r\n\r\n", "400"),
        (&format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(LARGEST)), "431"),
        (
            &format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(MOST_HEADERS + 1)),
            "431",
        ),
    ] {
        let said = said(&server, request);
        assert!(
            said.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request:?}: {said}"
        );
    }
    let refused = said(&server, "PUT / HTTP/1.1\r\n\r\n");
    assert!(refused.contains("\r\nAllow: GET\r\n"), "{refused}");
}

#[test]
fn a_request_may_come_in_pieces() {
    let server = start(Patience::default(), page);
    let mut stream = connect(&server);
    for piece in ["GE", "T /met", "rics HTTP/1.1\r", "\n\r", "\n"] {
        stream.write_all(piece.as_bytes()).unwrap();
        stream.flush().unwrap();
    }
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("vmss_capacity 6\n"), "{text}");
}

#[test]
fn clients_that_say_nothing_are_dropped_and_others_served() {
    let server = start(SHORT, page);
    let silent: Vec<TcpStream> = (0..WORKERS * 2).map(|_| connect(&server)).collect();
    assert!(get(&server, "/metrics").ends_with("vmss_capacity 6\n"));
    for mut stream in silent {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "", "nothing was asked, so nothing is said");
    }
}

#[test]
fn a_client_that_asks_a_letter_at_a_time_gets_no_more_time_for_it() {
    let server = start(SHORT, page);
    let mut stream = connect(&server);
    // It is closed on our side before the line is done, so that writing to it fails in the end.
    let letters = std::iter::once(b'G').chain(std::iter::repeat(b'E'));
    let ended = letters.take(LARGEST / 2).any(|letter| {
        thread::sleep(Duration::from_millis(20));
        stream.write_all(&[letter]).is_err()
    });
    assert!(ended, "it was listened to for as long as it went on");
}

#[test]
fn clients_that_do_not_take_their_answer_hold_up_nobody() {
    // More than the kernel takes for a connection.
    let server = start(SHORT, || "x".repeat(64 << 20));
    let deaf: Vec<TcpStream> = (0..WORKERS)
        .map(|_| {
            let mut stream = connect(&server);
            stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
            stream
        })
        .collect();
    assert!(get(&server, "/").contains("href"));
    drop(deaf);
}

#[test]
fn a_port_that_is_taken_is_an_error_and_free_again_after_the_server() {
    let server = start(SHORT, page);
    let address = server.address();
    let again = Server::start(address, SHORT, Arc::new(page));
    assert_eq!(again.err().map(|e| e.kind()), Some(io::ErrorKind::AddrInUse));
    drop(server);
    let began = Instant::now();
    while Server::start(address, SHORT, Arc::new(page)).is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "the port is still taken"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_page_that_can_not_be_made_costs_one_answer_and_no_worker() {
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let server = start(Patience::default(), move || {
        let times = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        assert!(times >= 2 * WORKERS, "it can't be made yet");
        page()
    });
    for _ in 0..2 * WORKERS {
        assert_eq!(get(&server, "/metrics"), "");
    }
    assert!(get(&server, "/metrics").ends_with("vmss_capacity 6\n"));
}
