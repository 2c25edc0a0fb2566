//! A load on a frontend: requests begin at a fixed pace whatever becomes of those before them (open loop), half of them on
//! connections of their own, half on connections that are kept alive.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Requests begun each second, over all clients.
const PACE: u32 = 40;
/// Clients: as many as it takes that one is free when the next request is due, however slowly guests answer.
const CLIENTS: u32 = 80;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request that was not answered as it should.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it was begun.
    pub began: Instant,
    /// What came instead of an answer.
    pub what: String,
}

#[derive(Default)]
struct Counts {
    sent: usize,
    failures: Vec<Failure>,
}

/// A load under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    counts: Arc<Mutex<Counts>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins one.
    pub fn on(frontend: SocketAddr) -> Self {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Counts>>::default());
        let began = Instant::now();
        let client = |n: u32| {
            let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
            thread::spawn(move || {
                let mut kept: Option<TcpStream> = None;
                for round in 0.. {
                    let due = began + Duration::from_secs(1) / PACE * (n + round * CLIENTS);
                    while Instant::now() < due {
                        if stop.load(Ordering::SeqCst) {
                            return;
                        }
                        let left = due.saturating_duration_since(Instant::now());
                        thread::sleep(left.min(Duration::from_millis(50)));
                    }
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let begun = Instant::now();
                    counts.lock().unwrap().sent += 1;
                    let result = if n.is_multiple_of(2) {
                        request(frontend, &mut None)
                    } else {
                        request(frontend, &mut kept)
                    };
                    if let Err(what) = result {
                        kept = None;
                        counts
                            .lock()
                            .unwrap()
                            .failures
                            .push(Failure { began: begun, what });
                    }
                }
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self {
            stop,
            counts,
            clients,
        }
    }

    /// How many requests were begun so far.
    pub fn sent(&self) -> usize {
        self.counts.lock().unwrap().sent
    }

    /// Those that have failed so far.
    pub fn failures(&self) -> Vec<Failure> {
        self.counts.lock().unwrap().failures.clone()
    }

    /// Ends it, and waits for the answers to what was asked. Returns how many requests were begun, and those that failed.
    pub fn end(mut self) -> (usize, Vec<Failure>) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            client.join().unwrap();
        }
        let counts = std::mem::take(&mut *self.counts.lock().unwrap());
        (counts.sent, counts.failures)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// One request. A connection that is kept alive is left in `kept`, unless the answer says that it ends.
fn request(frontend: SocketAddr, kept: &mut Option<TcpStream>) -> Result<(), String> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => TcpStream::connect_timeout(&frontend, PATIENCE).map_err(|e| format!("connecting: {e}"))?,
    };
    stream
        .set_read_timeout(Some(PATIENCE))
        .map_err(|e| e.to_string())?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
        .map_err(|e| format!("asking: {e}"))?;
    let mut reader = BufReader::new(&stream);
    let (mut head, mut ends, mut length) = (String::new(), false, 0);
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(0) => return Err(format!("no answer: closed after {head:?}")),
            Err(e) => return Err(format!("no answer: {e} after {head:?}")),
            Ok(_) => {}
        }
        let low = line.to_ascii_lowercase();
        ends |= low.trim() == "connection: close";
        if let Some(n) = low.strip_prefix("content-length: ") {
            length = n.trim().parse().map_err(|_| format!("a length of {n:?}"))?;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader
        .read_exact(&mut body)
        .map_err(|e| format!("half an answer: {e}"))?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let is_good = head.starts_with("HTTP/1.1 200 ") && body.starts_with("web-") && body.ends_with('\n');
    if !is_good {
        return Err(format!("{} {body:?}", head.lines().next().unwrap_or_default()));
    }
    if !ends {
        *kept = Some(stream);
    }
    Ok(())
}
