//! What stands for instances: servers on addresses of the loopback network that say who they are.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A server that answers every request with its own address, and every line of another kind with that line.
pub struct Guest {
    /// Whether its health is good.
    pub well: Arc<AtomicBool>,
    /// Where it is.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    accepts: Option<JoinHandle<()>>,
}

impl Guest {
    /// On that address.
    pub fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let (well, stop) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let mut guest = Self {
            well: Arc::clone(&well),
            address,
            stop: Arc::clone(&stop),
            open: Arc::clone(&open),
            accepts: None,
        };
        let accepts = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                open.lock().unwrap().push(stream.try_clone().unwrap());
                let well = Arc::clone(&well);
                thread::spawn(move || {
                    serve(stream.try_clone().unwrap(), address, &well);
                    // A copy of it is kept: closing it takes more than dropping it.
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        guest.accepts = Some(accepts);
        guest
    }
}

impl Drop for Guest {
    /// It dies like a guest that is switched off, except that its end is heard.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        // Until it has ended, who connects is let in and then thrown out.
        if let Some(accepts) = self.accepts.take() {
            let _ = accepts.join();
        }
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn serve(mut stream: TcpStream, me: SocketAddr, well: &AtomicBool) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if !line.starts_with("GET ") {
            if stream.write_all(line.as_bytes()).is_err() {
                return;
            }
            continue;
        }
        let mut header = String::new();
        while reader.read_line(&mut header).unwrap_or(0) > 2 {
            header.clear();
        }
        let is_check = line.starts_with("GET /healthz");
        let status = if is_check && !well.load(Ordering::SeqCst) {
            "503 Service Unavailable"
        } else {
            "200 OK"
        };
        let body = me.ip().to_string();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// A client's connection.
pub struct Client(pub TcpStream);

impl Client {
    /// To a frontend.
    pub fn to(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self(stream))
    }

    /// Asks; the answer's status and body.
    pub fn get(&mut self, headers: &str) -> std::io::Result<(u16, String, String)> {
        write!(self.0, "GET / HTTP/1.1\r\nHost: x\r\n{headers}\r\n")?;
        let mut reader = BufReader::new(self.0.try_clone()?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let length = head.lines().find_map(|l| {
            l.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        });
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        Ok((status, String::from_utf8_lossy(&body).into_owned(), head))
    }

    /// Says a line and hears it back; an error once the connection is closed.
    pub fn echo(&mut self, word: &str) -> std::io::Result<String> {
        writeln!(self.0, "{word}")?;
        let mut line = String::new();
        if BufReader::new(self.0.try_clone()?).read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim().to_owned())
    }
}

/// Who answers each of `times` requests, each over a connection of its own.
pub fn answers(port: u16, times: usize) -> Vec<String> {
    (0..times)
        .map(|_| match Client::to(port).and_then(|mut c| c.get("")) {
            Ok((200, body, _)) => body,
            Ok((status, ..)) => status.to_string(),
            Err(e) => e.to_string(),
        })
        .collect()
}

/// A port that nobody uses, and that no other test of this process gets. Below those that the system gives out by itself: one of
/// these could be somebody's, or given out a second time, before it is listened on.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        // Two runs side by side begin at different places.
        let begin = u16::try_from(std::process::id() % 64).unwrap() * 256;
        let port = 10_000 + (begin + NEXT.fetch_add(1, Ordering::SeqCst)) % 20_000;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

/// The loopback address of an instance.
pub fn home(id: u64) -> IpAddr {
    format!("127.0.0.{}", 100 + id).parse().unwrap()
}
