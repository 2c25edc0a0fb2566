//! A number that a test sets, told to whoever asks over HTTP.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// The number: at `/metrics` as Prometheus scrapes it, named `demand`, anywhere else as a JSON document of that key.
pub struct Number {
    value: Arc<AtomicU32>,
    /// Where it is told.
    pub address: SocketAddr,
}

impl Number {
    pub fn new(value: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = Self {
            value: Arc::new(AtomicU32::new(value)),
            address: listener.local_addr().unwrap(),
        };
        let value = Arc::clone(&number.value);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A client that goes away misses its answer, and nobody else's.
                let _ = answer(client, value.load(Ordering::SeqCst));
            }
        });
        number
    }

    pub fn set(&self, value: u32) {
        self.value.store(value, Ordering::SeqCst);
    }
}

fn answer(mut client: TcpStream, value: u32) -> std::io::Result<()> {
    // They are answered one after another: one that says nothing must not keep the next from it.
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut asked = Vec::new();
    let mut part = [0; 1024];
    while !asked.windows(4).any(|w| w == b"\r\n\r\n") {
        match client.read(&mut part)? {
            0 => return Ok(()),
            n => asked.extend(&part[..n]),
        }
    }
    let (kind, body) = match asked.starts_with(b"GET /metrics") {
        true => ("text/plain; version=0.0.4", format!("demand {value}\n")),
        false => ("application/json", format!("{{\"demand\": {value}}}\n")),
    };
    write!(
        client,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
