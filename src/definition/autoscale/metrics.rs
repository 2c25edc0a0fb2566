//! What rules and targets may call a metric.

use std::collections::BTreeMap;
use std::path::Path;

use url::Url;

use crate::autoscale::Metric;
use crate::autoscale::metric::{External, Of, Source};
use crate::definition::reader::{At, Reader, Section};
use crate::definition::sections::parsed;

/// Metrics that have a name, and what is needed to read one that is described in place.
pub(super) struct Metrics<'f> {
    named: BTreeMap<String, Option<External>>,
    prometheus: Option<String>,
    folder: &'f Path,
    has_balancer: bool,
}

/// Most metrics of the definition's own that are named where one is not known.
const MOST_NAMES: usize = 100;

/// A base URL, without a `/` at its end.
fn http_url(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|e| format!("{text:?} is no URL: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(format!("{text:?} is no http or https URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL with a password would be kept and shown: give a token_file".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

impl<'f> Metrics<'f> {
    /// Reads `autoscale.metrics` and `autoscale.prometheus`.
    pub fn read(r: &mut Reader<'_>, s: &Section<'_, '_>, folder: &'f Path, has_balancer: bool) -> Self {
        let mut metrics = Self {
            named: BTreeMap::new(),
            prometheus: parsed(r, s, "prometheus", http_url).map(|at| at.value),
            folder,
            has_balancer,
        };
        for (name, table) in r.named_tables(s, "metrics", "ExternalMetric") {
            let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.value.is_empty() || name.value.len() > 63 || !name.value.chars().all(fine) {
                r.bad(
                    &name,
                    format!("{:?} can't be the name of a metric", name.value),
                    "1 to 63 letters, digits, '-', '_' and '.'",
                );
            }
            if Metric::named(&name.value).is_some() {
                r.bad(
                    &name,
                    format!("{} has a meaning already", name.value),
                    "another name",
                );
            }
            let external = metrics.external(r, &table, Some(name.value.clone()));
            // One that is wrong is known all the same: what is wrong with it is told once.
            metrics.named.insert(name.value, external);
        }
        metrics
    }

    /// The server that metrics ask where they name none.
    pub fn prometheus(&self) -> Option<&str> {
        self.prometheus.as_deref()
    }

    fn external(&self, r: &mut Reader<'_>, s: &Section<'_, '_>, name: Option<String>) -> Option<External> {
        let of = r.choice(s, "of", &[("instance", Of::Instance), ("set", Of::Set)]);
        let token_file = r.string(s, "token_file").map(|at| self.folder.join(at.value));
        let url = parsed(r, s, "url", http_url);
        let query = r.string(s, "prometheus");
        let document = parsed(r, s, "http", |text| http_url(text).map(|_| text.to_owned()));
        let pointer = r.string(s, "pointer");
        if let Some(at) = pointer
            .as_ref()
            .filter(|at| !at.value.is_empty() && !at.value.starts_with('/'))
        {
            r.bad(
                at,
                format!("{:?} is no JSON pointer", at.value),
                "such as \"/queue/length\"",
            );
        }
        let source = match (s.has("prometheus"), s.has("http")) {
            (true, true) | (false, false) => {
                r.wrong(
                    s.span.clone(),
                    s.path(),
                    "a number comes from one place: either prometheus or http",
                    Some("prometheus = \"a query\", or http = \"http://...\" with a pointer".into()),
                );
                return None;
            }
            (true, false) => {
                if let Some(at) = &pointer {
                    r.bad(
                        at,
                        "a pointer goes with http",
                        "the query itself says which number",
                    );
                }
                let query = query?;
                if query.value.trim().is_empty() {
                    r.bad(
                        &query,
                        "the query is empty",
                        "such as \"sum(rate(requests_total[5m]))\"",
                    );
                }
                let Some(url) = url.map(|at| at.value).or_else(|| self.prometheus.clone()) else {
                    if !s.has("url") {
                        r.missing(
                            s,
                            "url",
                            "url = \"http://127.0.0.1:9090\", or prometheus in [autoscale]",
                        );
                    }
                    return None;
                };
                Source::Prometheus {
                    url,
                    query: query.value,
                }
            }
            (false, true) => {
                if let Some(at) = &url {
                    r.bad(at, "url goes with prometheus", "http has the whole URL");
                }
                Source::Http {
                    url: document?.value,
                    pointer: pointer.map_or_else(String::new, |at| at.value),
                }
            }
        };
        let name = name.unwrap_or_else(|| match &source {
            Source::Prometheus { query, .. } => query.clone(),
            Source::Http { url, pointer } => format!("{url}{pointer}"),
        });
        Some(External {
            name,
            source,
            of: of.unwrap_or(Of::Instance),
            token_file,
        })
    }

    /// The metric that `key` of a rule or target means.
    pub fn metric(&self, r: &mut Reader<'_>, s: &Section<'_, '_>, key: &str) -> Option<Metric> {
        if s.is_table(key) {
            let table = r.table(s, key, "ExternalMetric")?;
            return self.external(r, &table, None).map(Metric::External);
        }
        let at = r.string(s, key)?;
        self.called(r, &at)
    }

    /// The metric of that name.
    pub fn called(&self, r: &mut Reader<'_>, at: &At<String>) -> Option<Metric> {
        if let Some(metric) = Metric::named(&at.value) {
            if matches!(metric, Metric::Balancer(_)) && !self.has_balancer {
                r.bad(
                    at,
                    format!("{} is counted by a load balancer, and there is none", at.value),
                    "add [load_balancer]",
                );
            }
            return Some(metric);
        }
        if let Some(external) = self.named.get(&at.value) {
            return external.clone().map(Metric::External);
        }
        let names = Metric::names();
        // Of a definition with any number of them, what fits into a sentence.
        let own = || self.named.keys().map(String::as_str).take(MOST_NAMES);
        let known = names.iter().copied().chain(own());
        let nearest = known
            .map(|name| (strsim::damerau_levenshtein(name, &at.value), name))
            .filter(|(distance, name)| *distance <= 2.max(name.len() / 3))
            .min();
        let own = match self.named.is_empty() {
            true => "and those of [autoscale.metrics]".to_owned(),
            false => own().collect::<Vec<_>>().join(", "),
        };
        let all = format!("{}, {own}", names.join(", "));
        let help = match nearest {
            Some((_, name)) => format!("did you mean {name}? There are {all}"),
            None => format!("there are {all}"),
        };
        r.bad(at, format!("there is no metric {:?}", at.value), help);
        None
    }
}
