//! A real Prometheus.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;

use super::wait_for;

/// A process that is killed, by its pid, when the test is over.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is answered there.
pub fn get(url: &str) -> Option<String> {
    ureq::get(url).call().ok()?.body_mut().read_to_string().ok()
}

/// A port that nobody uses, below those that the system gives out by itself.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let begin = u16::try_from(std::process::id() % 64).unwrap() * 32;
        let port = 30_000 + begin + NEXT.fetch_add(1, Ordering::SeqCst) % 1_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A Prometheus with the configuration of `examples/`, killed when the test is over.
pub struct Prometheus {
    _process: Running,
    /// Where it answers.
    pub url: String,
}

impl Prometheus {
    /// One that scrapes `target`, listens at `port` and keeps its files in `folder`.
    pub fn start(folder: &Path, target: SocketAddr, port: u16) -> Self {
        let example = include_str!("../../examples/grafana/prometheus.yml");
        assert!(example.contains("[\"127.0.0.1:9750\"]") && example.contains("scrape_interval: 15s"));
        let config = example
            .replace("[\"127.0.0.1:9750\"]", &format!("[\"{target}\"]"))
            .replace("scrape_interval: 15s", "scrape_interval: 1s");
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let address = format!("127.0.0.1:{port}");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("prometheus").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tests/run installs prometheus");
        let prometheus = Self {
            _process: Running(child),
            url: format!("http://{address}"),
        };
        wait_for("Prometheus", || {
            get(&format!("{}/-/ready", prometheus.url)).is_some()
        });
        prometheus
    }

    /// What it answers to a query that has one sample or none: its value.
    pub fn ask(&self, query: &str) -> Option<String> {
        let url = format!("{}/api/v1/query", self.url);
        let mut answer = ureq::get(&url).query("query", query).call().ok()?;
        let answer: Value = serde_json::from_str(&answer.body_mut().read_to_string().ok()?).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let value = answer["data"]["result"].get(0)?["value"].get(1)?;
        value.as_str().map(str::to_owned)
    }

    /// Waits until it answers that to a query.
    pub fn wait_to_see(&self, what: &str, query: &str, wanted: &str) {
        wait_for(&format!("Prometheus to see {what}"), || {
            self.ask(query).as_deref() == Some(wanted)
        });
    }
}
