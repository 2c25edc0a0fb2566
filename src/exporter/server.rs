//! The HTTP server of the metrics. It gives the same page to everybody who asks, and expects nothing good of them: a few
//! threads, short deadlines, small requests, one request per connection. Nobody who connects costs more than that, and
//! nothing waits for it but other scrapes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::supervise::caught;

/// Makes the page of the metrics.
pub type Page = Arc<dyn Fn() -> String + Send + Sync>;

/// Connections that are served at once. Others wait in the kernel, and are refused by it when they are too many.
const WORKERS: usize = 8;
/// The largest request: it is a line and some headers.
const LARGEST: usize = 8 << 10;
/// Most headers of a request.
const MOST_HEADERS: usize = 64;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To ask.
    pub asking: Duration,
    /// To take the answer.
    pub taking: Duration,
}

impl Default for Patience {
    /// Less than Prometheus waits by default (10 s), so that who hangs on to all workers holds up one scrape and no more.
    fn default() -> Self {
        Self {
            asking: Duration::from_secs(2),
            taking: Duration::from_secs(5),
        }
    }
}

/// A server that runs until it is dropped.
pub struct Server {
    listener: Arc<TcpListener>,
    address: SocketAddr,
}

impl Server {
    /// Listens at `address`, port 0 being any that is free, and begins to serve `page`.
    ///
    /// # Errors
    /// The system's, if it does not let it listen there, or has no thread for it.
    pub fn start(address: SocketAddr, patience: Patience, page: Page) -> io::Result<Self> {
        let listener = Arc::new(TcpListener::bind(address)?);
        let server = Self {
            address: listener.local_addr()?,
            listener,
        };
        for i in 0..WORKERS {
            let (listener, page) = (Arc::clone(&server.listener), Arc::clone(&page));
            thread::Builder::new()
                .name(format!("metrics-{i}"))
                .spawn(move || work(&listener, patience, &page))?;
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes those who wait for a connection; who serves one ends after it, within its deadlines.
        let _ = socket2::SockRef::from(&*self.listener).shutdown(Shutdown::Both);
    }
}

/// Serves one connection after the other, until the listener is shut down.
fn work(listener: &TcpListener, patience: Patience, page: &Page) {
    loop {
        match listener.accept() {
            // What goes wrong with a client is the client's to notice.
            // A page that can't be made is this program's fault, and no reason to serve nobody any more.
            Ok((stream, _)) => _ = caught(|| serve(&stream, patience, page)),
            // How Linux says that it was shut down.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return,
            // One that has gone again already; or no file descriptor is left, which may pass.
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn serve(stream: &TcpStream, patience: Patience, page: &Page) -> io::Result<()> {
    let mut asking = Timed::new(stream, patience.asking);
    let answer = match ask(&mut asking)? {
        Ok(path) => answer(&path, page),
        Err(refusal) => refusal,
    };
    let mut taking = Timed::new(stream, patience.taking);
    taking.write_all(answer.head().as_bytes())?;
    taking.write_all(answer.body.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    if answer.status != OK {
        // Closed with a part of the request unread, the connection would be reset, and the answer with it.
        let mut rest = [0; 1 << 10];
        let mut left: usize = 64;
        while left > 0 && asking.read(&mut rest)? > 0 {
            left -= 1;
        }
    }
    Ok(())
}

/// A connection up to a deadline of its own, in however small pieces anything comes or goes.
struct Timed<'s> {
    stream: &'s TcpStream,
    end: Instant,
}

impl<'s> Timed<'s> {
    fn new(stream: &'s TcpStream, patience: Duration) -> Self {
        Self {
            stream,
            end: Instant::now() + patience,
        }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(left)
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Reads a request to the end of its headers: the path of a GET, without its query, or what to answer instead.
fn ask(stream: &mut impl Read) -> io::Result<Result<String, Answer>> {
    let mut request = [0; LARGEST];
    let mut length = 0;
    loop {
        if length == request.len() {
            return Ok(Err(Answer::refusal("431 Request Header Fields Too Large")));
        }
        match stream.read(&mut request[length..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => length += n,
        }
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(&request[..length]) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(_)) => {
                return Ok(match (parsed.method, parsed.path) {
                    (Some("GET"), Some(path)) => Ok(path.split('?').next().unwrap_or(path).to_owned()),
                    _ => Err(Answer::refusal("405 Method Not Allowed")),
                });
            }
            Err(httparse::Error::TooManyHeaders) => {
                return Ok(Err(Answer::refusal("431 Request Header Fields Too Large")));
            }
            Err(_) => return Ok(Err(Answer::refusal("400 Bad Request"))),
        }
    }
}

const OK: &str = "200 OK";

struct Answer {
    status: &'static str,
    kind: &'static str,
    body: String,
}

impl Answer {
    fn refusal(status: &'static str) -> Self {
        Self {
            status,
            kind: "text/plain; charset=utf-8",
            body: format!("{status}\n"),
        }
    }

    fn head(&self) -> String {
        let allow = if self.status.starts_with("405") {
            "Allow: GET\r\n"
        } else {
            ""
        };
        format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nX-Content-Type-Options: nosniff\r\n{allow}Connection: \
             close\r\n\r\n",
            self.status,
            self.kind,
            self.body.len()
        )
    }
}

fn answer(path: &str, page: &Page) -> Answer {
    match path {
        "/metrics" => Answer {
            status: OK,
            kind: prometheus_client::encoding::prometheus_text::CONTENT_TYPE,
            body: page(),
        },
        "/" => Answer {
            status: OK,
            kind: "text/html; charset=utf-8",
            body: "<!doctype html><title>vmss</title><p>vmss: <a href=\"/metrics\">metrics</a></p>\n"
                .to_owned(),
        },
        _ => Answer::refusal("404 Not Found"),
    }
}

#[cfg(test)]
mod tests;
