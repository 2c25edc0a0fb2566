//! The dashboard of `examples/grafana`, held against the metrics that there are.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use super::Exporter;

fn dashboard() -> Value {
    serde_json::from_str(include_str!("../../examples/grafana/vmss.json")).unwrap()
}

/// Every text of a document that stands under `key`.
fn texts<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v str>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| texts(item, key, found)),
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(text) if name == key => found.push(text),
                    other => texts(other, key, found),
                }
            }
        }
        _ => {}
    }
}

/// The metrics that a query names.
fn metrics(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("vmss_"))
}

/// The metrics of `text` that there are.
fn asked(text: &str, exporter: &Exporter) -> BTreeSet<String> {
    let is_there = |name: &str| exporter.names().contains(&name);
    let found = metrics(text).map(|metric| {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| metric.strip_suffix(suffix));
        let name = [Some(metric), family]
            .into_iter()
            .flatten()
            .find(|name| is_there(name));
        name.unwrap_or_else(|| panic!("there is no {metric}, which is asked for: {text}"))
    });
    found.map(str::to_owned).collect()
}

fn queries(dashboard: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    texts(dashboard, "expr", &mut found);
    texts(dashboard, "query", &mut found);
    found
}

#[test]
fn every_query_of_the_dashboard_asks_for_metrics_that_there_are() {
    let (dashboard, exporter) = (dashboard(), Exporter::new());
    let queries = queries(&dashboard);
    let asked: BTreeSet<String> = queries.iter().flat_map(|query| asked(query, &exporter)).collect();
    let unasked: Vec<&&str> = exporter.names().iter().filter(|n| !asked.contains(**n)).collect();
    assert_eq!(
        unasked,
        [&"vmss_build_info"],
        "metrics that the dashboard does not show"
    );
}

/// The expressions of the README's table of alerts.
fn alerts() -> Vec<&'static str> {
    let section = include_str!("../../README.md")
        .split("### Metrics")
        .nth(1)
        .unwrap();
    let section = section.split("\n### ").next().unwrap();
    let cells = section
        .lines()
        .filter_map(|l| l.strip_prefix("| `")?.split(" | ").next());
    cells
        .flat_map(|cell| cell.split('`').step_by(2))
        .filter(|e| !e.is_empty())
        .collect()
}

#[test]
fn every_alert_of_the_readme_asks_for_metrics_that_there_are() {
    let exporter = Exporter::new();
    assert!(alerts().len() > 3, "{:?}", alerts());
    for alert in alerts() {
        assert!(!asked(alert, &exporter).is_empty(), "{alert}");
    }
}

#[test]
fn prometheus_understands_every_query() {
    let dashboard = dashboard();
    let mut expressions = alerts();
    texts(&dashboard, "expr", &mut expressions);
    let rules: Vec<Value> = (expressions.iter().enumerate())
        .map(|(i, expression)| {
            // Grafana puts values there.
            let expression = expression
                .replace("$__rate_interval", "5m")
                .replace("$set", "a|b");
            serde_json::json!({ "record": format!("query:{i}"), "expr": expression })
        })
        .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    // JSON is YAML as well.
    let rules = serde_json::json!({ "groups": [{ "name": "queries", "rules": rules }] });
    std::fs::write(file.path(), rules.to_string()).unwrap();
    let checked = Command::new("promtool")
        .args(["check", "rules"])
        .arg(file.path())
        .output();
    // Whoever has it not has not run tests/packages, and learns nothing here.
    let Ok(checked) = checked else { return };
    let said = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
}

#[test]
fn every_panel_asks_the_data_source_that_is_chosen() {
    let dashboard = dashboard();
    let mut sources = Vec::new();
    texts(&dashboard["panels"], "uid", &mut sources);
    assert!(
        !sources.is_empty() && sources.iter().all(|uid| *uid == "${datasource}"),
        "{sources:?}"
    );
    let rows = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["type"] == "row");
    let titles: Vec<&str> = rows.filter_map(|row| row["title"].as_str()).collect();
    assert_eq!(
        titles,
        [
            "Set",
            "Hosts",
            "Rollout",
            "Autoscale",
            "Load balancer",
            "libvirt",
            "What is odd"
        ]
    );
}

#[test]
fn panels_have_ids_of_their_own_and_do_not_overlap() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().filter_map(|p| p["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "{} is wider than the page", panel["title"]);
        for cell in (y..y + h).flat_map(|y| (x..x + w).map(move |x| (x, y))) {
            assert!(taken.insert(cell), "{} lies on another panel", panel["title"]);
        }
    }
}
