//! Numbers from elsewhere: a Prometheus server's, or one in a JSON document.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::autoscale::metric::{External, Source};
use crate::intake;
use crate::said;
use crate::units::Bytes;

/// How long the whole answer may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long a range of values may take: a server reads weeks for it.
const PATIENCE_FOR_A_RANGE: Duration = Duration::from_secs(60);

/// Most that is read of an answer with one number, unpacked.
const MOST: Bytes = Bytes::mib(1);

/// Most that is read of a range of values: no more than 11,000 are asked for, and each takes some forty bytes.
const MOST_OF_A_RANGE: Bytes = Bytes::mib(4);

/// Longest part of what a server says that is shown.
const SHOWN: usize = 200;

/// Fetches numbers. A fake stands in for it in tests.
pub trait Numbers: Send + Sync {
    /// The metric's number now. Returns within [`PATIENCE`] or a little more.
    ///
    /// # Errors
    /// Why there is none, as a sentence.
    fn now(&self, metric: &External) -> Result<f64, String>;

    /// The values of a Prometheus query over a time, oldest first.
    ///
    /// # Errors
    /// As [`Self::now`].
    fn range(&self, range: &Range<'_>) -> Result<Vec<(Timestamp, f64)>, String>;
}

/// What is asked of a Prometheus server.
#[derive(Clone, Copy, Debug)]
pub struct Range<'a> {
    /// The server.
    pub url: &'a str,
    /// The query.
    pub query: &'a str,
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub to: Timestamp,
    /// Time between two values.
    pub step: SignedDuration,
}

/// The real one: over HTTP and HTTPS, past no proxy but those of the environment.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetworkNumbers;

impl Numbers for NetworkNumbers {
    fn now(&self, metric: &External) -> Result<f64, String> {
        let token = metric.token_file.as_deref().map(token).transpose()?;
        match &metric.source {
            Source::Prometheus { url, query } => {
                let body = get(
                    &format!("{url}/api/v1/query"),
                    &[("query", query)],
                    token.as_deref(),
                    Bounds::OF_A_NUMBER,
                )?;
                instant(&body).map_err(|e| format!("asking {url}: {e}"))
            }
            Source::Http { url, pointer } => {
                let body = get(url, &[], token.as_deref(), Bounds::OF_A_NUMBER)?;
                pointed(&body, pointer).map_err(|e| format!("reading {url}: {e}"))
            }
        }
    }

    fn range(&self, range: &Range<'_>) -> Result<Vec<(Timestamp, f64)>, String> {
        let (from, to) = (range.from.to_string(), range.to.to_string());
        let step = range.step.as_secs().max(1).to_string();
        let query = [
            ("query", range.query),
            ("start", from.as_str()),
            ("end", to.as_str()),
            ("step", step.as_str()),
        ];
        let body = get(
            &format!("{}/api/v1/query_range", range.url),
            &query,
            None,
            Bounds::OF_A_RANGE,
        )?;
        series(&body).map_err(|e| format!("asking {}: {e}", range.url))
    }
}

fn token(file: &Path) -> Result<String, String> {
    let read = intake::text(file, intake::TOKEN);
    let text = read.map_err(|e| format!("reading the token {}: {e}", file.display()))?;
    Ok(text.trim().to_owned())
}

/// How long an answer may take, and how long it may be.
#[derive(Clone, Copy)]
struct Bounds {
    patience: Duration,
    most: Bytes,
}

impl Bounds {
    const OF_A_NUMBER: Self = Self {
        patience: PATIENCE,
        most: MOST,
    };
    const OF_A_RANGE: Self = Self {
        patience: PATIENCE_FOR_A_RANGE,
        most: MOST_OF_A_RANGE,
    };
}

fn get(url: &str, query: &[(&str, &str)], token: Option<&str>, bounds: Bounds) -> Result<String, String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(bounds.patience))
        .http_status_as_error(false)
        .build()
        .into();
    let mut request = agent.get(url);
    for (key, value) in query {
        request = request.query(*key, *value);
    }
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let failed = |e: String| format!("asking {url}: {e}");
    let mut response = request.call().map_err(|e| failed(why(&e, bounds.patience)))?;
    let status = response.status();
    let mut bytes = Vec::new();
    // What is counted is what it unpacks to: a small answer may be a large one packed.
    let mut reader = response.body_mut().as_reader().take(bounds.most.0 + 1);
    reader
        .read_to_end(&mut bytes)
        .map_err(|e| failed(why(&e.into(), bounds.patience)))?;
    if bytes.len() as u64 > bounds.most.0 {
        let what = if bounds.most == MOST {
            "a number"
        } else {
            "a range"
        };
        return Err(failed(format!(
            "its answer has more than {}, the most that is read for {what}",
            bounds.most
        )));
    }
    let body = String::from_utf8_lossy(&bytes).into_owned();
    if status.is_success() {
        return Ok(body);
    }
    // Prometheus says in its answer what it has against a query.
    match serde_json::from_str::<Answer>(&body) {
        Ok(Answer {
            error: Some(error), ..
        }) => Err(failed(shown(&error))),
        _ => Err(failed(status.to_string())),
    }
}

fn why(e: &ureq::Error, patience: Duration) -> String {
    match e {
        ureq::Error::Timeout(_) => format!("no answer within {} s", patience.as_secs_f64()),
        ureq::Error::Io(e) => match e.kind() {
            std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            _ => e.to_string(),
        },
        e => e.to_string(),
    }
}

/// What a server says, as far as it fits into a sentence.
fn shown(text: &str) -> String {
    said::shown(text, SHOWN)
}

/// An answer of Prometheus.
#[derive(Deserialize)]
struct Answer {
    error: Option<String>,
    data: Option<Data>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Scalar(Point),
    Vector(Vec<Instant>),
    Matrix(Vec<Series>),
    String(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct Instant {
    value: Point,
}

#[derive(Deserialize)]
struct Series {
    values: Vec<Point>,
}

/// A moment in seconds, and a value as text.
#[derive(Deserialize)]
struct Point(f64, String);

impl Point {
    fn number(&self) -> Result<f64, String> {
        let value = self.1.parse::<f64>().ok().filter(|n| n.is_finite());
        value.ok_or_else(|| format!("its result is {}, which is no number", shown(&self.1)))
    }
}

fn answer(body: &str) -> Result<Data, String> {
    let answer: Answer = serde_json::from_str(body)
        .map_err(|_| format!("that is not Prometheus's answer: {}", shown(body)))?;
    match (answer.data, answer.error) {
        (_, Some(error)) => Err(shown(&error)),
        (Some(data), None) => Ok(data),
        (None, None) => Err("its answer is empty".to_owned()),
    }
}

const ONE: &str = "one number is wanted: sum(...) or avg(...) makes one";

/// The number in the answer to a query.
fn instant(body: &str) -> Result<f64, String> {
    match answer(body)? {
        Data::Scalar(point) => point.number(),
        Data::Vector(all) => match all.as_slice() {
            [one] => one.value.number(),
            [] => Err("the query has no result".to_owned()),
            many => Err(format!("the query has {} results, and {ONE}", many.len())),
        },
        Data::Matrix(_) | Data::String(_) => Err(format!("the query's result is no number, and {ONE}")),
    }
}

/// The numbers in the answer to a query over a time. Moments without a number are left out.
fn series(body: &str) -> Result<Vec<(Timestamp, f64)>, String> {
    let Data::Matrix(all) = answer(body)? else {
        return Err("the query's result is no series".to_owned());
    };
    let [series] = all.as_slice() else {
        return Err(match all.len() {
            0 => "the query has no result in that time".to_owned(),
            n => format!("the query has {n} results, and {ONE}"),
        });
    };
    let read = |point: &Point| {
        let at = SignedDuration::try_from_secs_f64(point.0).ok()?;
        Some((Timestamp::from_duration(at).ok()?, point.number().ok()?))
    };
    Ok(series.values.iter().filter_map(read).collect())
}

/// The number at a pointer in a JSON document.
fn pointed(body: &str, pointer: &str) -> Result<f64, String> {
    let document: Value = serde_json::from_str(body).map_err(|e| format!("that is no JSON: {e}"))?;
    let Some(value) = document.pointer(pointer) else {
        return Err(format!("there is nothing at {pointer}"));
    };
    let number = match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let place = if pointer.is_empty() { "its top" } else { pointer };
    number
        .filter(|n| n.is_finite())
        .ok_or_else(|| format!("what is at {place} is no number: {}", shown(&value.to_string())))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn one_number_is_read_of_prometheuss_answers() {
        let vector = |result: &str| {
            instant(&format!(
                "{{\"status\":\"success\",\"data\":{{\"resultType\":\"vector\",\"result\":[{result}]}}}}"
            ))
        };
        let one = "{\"metric\":{\"job\":\"a\"},\"value\":[1800000000.123,\"1.5\"]}";
        assert_eq!(vector(one), Ok(1.5));
        assert_eq!(vector("").unwrap_err(), "the query has no result");
        assert!(
            vector(&format!("{one},{one}"))
                .unwrap_err()
                .contains("has 2 results")
        );
        assert!(vector(&one.replace("1.5", "NaN")).unwrap_err().contains("is NaN"));
        let scalar = "{\"status\":\"success\",\"data\":{\"resultType\":\"scalar\",\"result\":[1,\"7\"]},\"warnings\":[]}";
        assert_eq!(instant(scalar), Ok(7.0));
        let error =
            "{\"status\":\"error\",\"errorType\":\"bad_data\",\"error\":\"parse error: unexpected <eof>\"}";
        assert_eq!(instant(error).unwrap_err(), "parse error: unexpected <eof>");
        assert!(instant("<html>").unwrap_err().contains("not Prometheus's answer"));
    }

    #[test]
    fn a_series_leaves_out_what_is_no_number() {
        let body = "{\"status\":\"success\",\"data\":{\"resultType\":\"matrix\",\"result\":[{\"metric\":{},\
                    \"values\":[[60,\"1\"],[120,\"NaN\"],[180.5,\"3\"]]}]}}";
        let values: Vec<(i64, f64)> = series(body)
            .unwrap()
            .iter()
            .map(|(at, v)| (at.as_second(), *v))
            .collect();
        assert_eq!(values, [(60, 1.0), (180, 3.0)]);
    }

    #[test]
    fn a_pointer_leads_to_a_number() {
        let body = "{\"queues\":[{\"a/b\":12},{\"waiting\":\"3.5\"}],\"name\":\"x\"}";
        assert_eq!(pointed(body, "/queues/0/a~1b"), Ok(12.0));
        assert_eq!(pointed(body, "/queues/1/waiting"), Ok(3.5));
        assert_eq!(pointed("42", ""), Ok(42.0));
        assert_eq!(pointed(body, "/jobs").unwrap_err(), "there is nothing at /jobs");
        assert_eq!(
            pointed(body, "/name").unwrap_err(),
            "what is at /name is no number: \"x\""
        );
        assert!(pointed("nothing", "").unwrap_err().starts_with("that is no JSON"));
    }

    /// A server that gives one answer to every request.
    fn serve(head: &str, body: Vec<u8>) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let head = format!("HTTP/1.1 200 OK\r\n{head}Connection: close\r\n\r\n");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(&body);
            }
        });
        url
    }

    fn asked(url: &str) -> Result<f64, String> {
        NetworkNumbers.now(&External {
            name: "jobs".to_owned(),
            source: Source::Http {
                url: url.to_owned(),
                pointer: "/n".to_owned(),
            },
            of: crate::autoscale::metric::Of::Set,
            token_file: None,
        })
    }

    #[test]
    fn an_answer_of_any_length_is_read_up_to_a_mebibyte() {
        let padded = |length: usize| {
            let mut body = b"{\"n\":4,\"x\":\"".to_vec();
            body.resize(length - 2, b'x');
            body.extend(b"\"}");
            body
        };
        assert_eq!(asked(&serve("", padded(1 << 20))), Ok(4.0));
        let error = asked(&serve("", padded((1 << 20) + 1))).unwrap_err();
        assert!(error.contains("more than 1.0 MiB"), "{error}");
        // Deeply nested, it is no JSON for us, and nothing worse.
        let deep = asked(&serve("", vec![b'['; 1 << 20])).unwrap_err();
        assert!(deep.contains("that is no JSON"), "{deep}");
    }

    #[test]
    fn a_small_answer_that_unpacks_to_a_large_one_is_refused() {
        // Some 60 KiB.
        let program = std::process::Command::new("sh")
            .args(["-c", "head -c 62914560 /dev/zero | gzip -9"])
            .output()
            .unwrap();
        assert!(program.status.success() && program.stdout.len() < 1 << 20);
        let error = asked(&serve("Content-Encoding: gzip\r\n", program.stdout)).unwrap_err();
        assert!(error.contains("more than 1.0 MiB"), "{error}");
    }

    #[test]
    fn a_token_is_read_from_a_file_and_from_nothing_without_an_end() {
        assert!(
            token(Path::new("/dev/zero"))
                .unwrap_err()
                .contains("it is a device")
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret\n").unwrap();
        assert_eq!(token(file.path()).as_deref(), Ok("secret"));
    }
}
