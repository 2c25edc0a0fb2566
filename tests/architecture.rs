//! Holds the rings of ARCHITECTURE.md: which file may import what.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The ring of a module, by its path below `src/`: 0 core, 1 effects, 2 shell.
fn ring(module: &str) -> usize {
    let top = module.split("::").next().unwrap();
    match top {
        "definition" | "scaleset" | "model" | "record" | "inventory" | "plan" | "names" | "units"
        | "event" | "resolve" | "hosturi" | "health" | "rollout" | "repairs" | "load_balancer"
        | "membership" | "autoscale" | "timed" | "said" | "ownership" | "warrants" | "epoch" | "answer"
        | "addresses" | "ranges" | "request" => 0,
        "world" | "observe" | "vitals" | "probe" | "lease" | "execute" | "converge" | "hypervisor"
        | "terminal" | "serve" | "balancer" | "discovery" | "exporter" | "store" | "images"
        | "image_file" | "download" | "metrics" | "numbers" | "scaling" | "supervise" | "trust"
        | "intake" | "extents" | "here" | "aside" => 1,
        "main" | "lib" | "cli" | "commands" | "ui" | "error" => 2,
        other => panic!("{other} is in no ring: give it one in ARCHITECTURE.md and here"),
    }
}

/// What a lower ring takes from a higher one, each with its reason in ARCHITECTURE.md.
const EXCEPTIONS: &[(&str, &str)] = &[
    // Plain data: the stages and kinds of failure that an event tells.
    ("event", "hypervisor"),
    // Checking a template is pure; it lives with the seed that renders it.
    ("resolve", "hypervisor"),
    // The loop ends in the edge's error, which chooses the exit code.
    ("converge", "error"),
    ("lease", "error"),
    ("scaling", "error"),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Every file with its module's name and its text without tests.
fn modules() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    (files.into_iter())
        .filter(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap();
            name != "tests" && name != "testing" && name != "samples"
        })
        .map(|path| {
            let relative = path.strip_prefix(&root).unwrap().with_extension("");
            let module = relative.to_str().unwrap().replace('/', "::");
            let module = module.strip_suffix("::mod").unwrap_or(&module).to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
            (module, text)
        })
        .collect()
}

/// The top modules of this crate that a text names.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1))
        .flat_map(|rest| {
            // `crate::{a, b::c}` names several.
            let inner = rest.strip_prefix('{').unwrap_or(rest);
            let end = inner.find(['}', ';']).unwrap_or(inner.len());
            let parts: Vec<&str> = if rest.starts_with('{') {
                inner[..end].split(',').collect()
            } else {
                vec![inner]
            };
            parts.into_iter().map(str::to_owned).collect::<Vec<_>>()
        })
        .map(|part| {
            part.trim()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        })
        .filter(|name: &String| !name.is_empty())
        .collect()
}

#[test]
fn a_ring_imports_only_from_its_own_or_lower_rings() {
    for (module, text) in modules() {
        for import in imports(&text) {
            let top = module.split("::").next().unwrap();
            if EXCEPTIONS.contains(&(top, import.as_str())) {
                continue;
            }
            assert!(
                ring(&import) <= ring(&module),
                "{module} imports {import}, which is in a higher ring"
            );
        }
    }
}

#[test]
fn the_core_has_no_effects() {
    const FORBIDDEN: &[&str] = &[
        "virt::",
        "anyhow",
        "clap::",
        "std::env",
        "std::fs",
        "std::net::Tcp",
        "std::process",
        "std::thread",
        "std::time::Instant",
        "SystemTime",
        "std::io",
        "indicatif",
        "rusqlite",
        "println!",
        "eprintln!",
    ];
    for (module, text) in modules().into_iter().filter(|(m, _)| ring(m) == 0) {
        for line in text.lines().filter(|l| !l.trim_start().starts_with("//")) {
            for word in FORBIDDEN {
                assert!(!line.contains(word), "{module} has an effect: {line}");
            }
        }
    }
}

/// Who may read what is outside past `intake`, and why that has an end.
const READERS: &[(&str, &str)] = &[
    ("intake", "it is where the bounds are"),
    ("numbers", "an answer, through take, within a time"),
    ("probe", "an answer, through take, within a time"),
    ("world", "the operator's answer on a terminal"),
    ("store::holder", "the kernel's own files"),
    (
        "balancer::haproxy::local",
        "the kernel's own files, and /etc/passwd",
    ),
];

#[test]
fn what_is_outside_is_read_by_those_who_bound_it() {
    const WORDS: &[&str] = &[
        "fs::read(",
        "read_to_string(",
        "read_to_end(",
        "File::open(",
        "read_line(",
        "from_reader(std::io",
    ];
    for (module, text) in modules() {
        if READERS.iter().any(|(reader, _)| *reader == module) {
            continue;
        }
        for line in text.lines().filter(|l| !l.trim_start().starts_with("//")) {
            for word in WORDS {
                assert!(
                    !line.contains(word),
                    "{module} reads without a bound (intake.rs has them): {line}"
                );
            }
        }
    }
}

#[test]
fn libvirt_stays_in_its_folder() {
    for (module, text) in modules() {
        let inside = module.starts_with("hypervisor::libvirt");
        for line in text.lines().filter(|l| !l.trim_start().starts_with("//")) {
            let named = line.contains("virt::") && !line.contains("libvirt::");
            assert!(inside || !named, "{module} uses the virt crate: {line}");
        }
    }
}

/// The table under "What vmss will never do": in each row's second column tests of the file that is named behind them, and
/// scenarios.
#[test]
fn every_promise_in_the_readme_is_held_by_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let (_, section) = readme.split_once("| it will never | held by |").unwrap();
    let rows: Vec<&str> = (section.lines().skip(2))
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert!(rows.len() >= 9, "the table is gone");
    for row in rows {
        let held_by = row.split('|').nth(2).unwrap();
        let mut functions: Vec<&str> = Vec::new();
        for word in held_by.split('`').skip(1).step_by(2) {
            if !word.contains('/') {
                functions.push(word);
                continue;
            }
            let path = match word.ends_with(".txt") && !word.starts_with("tests/") {
                true => root.join("tests/scenarios").join(word),
                false => root.join(word),
            };
            let mut files = Vec::new();
            if path.is_dir() {
                sources(&path, &mut files);
            } else {
                files.push(path);
            }
            let text: String = (files.iter())
                .map(|file| fs::read_to_string(file).unwrap_or_else(|_| panic!("there is no {word}: {row}")))
                .collect();
            for name in functions.drain(..) {
                assert!(text.contains(&format!("fn {name}(")), "{word} has no test {name}");
            }
        }
        let (scenarios, stray): (Vec<&str>, Vec<&str>) =
            functions.into_iter().partition(|name| name.ends_with(".txt"));
        for name in scenarios {
            assert!(
                root.join("tests/scenarios").join(name).is_file(),
                "there is no {name}"
            );
        }
        assert!(stray.is_empty(), "no file is named for {stray:?}");
    }
}
