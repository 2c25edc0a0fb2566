//! Whole commands on the fake fleet: scenarios that a person reads (`tests/scenarios/*.txt`), the outputs in the README,
//! the contract that keeps the fake honest, and a process killed at every single step.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]

mod contract;
mod scenario;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use scenario::theatre::Theatre;
use scenario::{files, is_update, readme, run_file};
use vmss::hypervisor::fake::{FakeHost, Fleet};
use vmss::hypervisor::{Hosts as _, LocalImage};
use vmss::scaleset::{Host, Limits};
use vmss::store::Store as _;
use vmss::store::sqlite::Sqlite;

#[test]
fn every_scenario_goes_as_it_is_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let files = files(&folder).unwrap();
    assert!(files.len() >= 5, "the scenarios are gone");
    let mut wrong = Vec::new();
    for file in files {
        let mut theatre = Theatre::new();
        wrong.extend(run_file(&file, is_update(), |line| theatre.command(line)).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_output_in_the_readme_is_what_the_program_says() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let transcripts = readme::transcripts(&text);
    assert!(transcripts.len() >= 5, "the README's transcripts are gone");
    let wrong: Vec<String> = transcripts.iter().flat_map(readme::differences).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn the_contract_holds_on_the_fake() {
    let fleet = Fleet::new();
    fleet.add_host(&contract::label("kvm1"), FakeHost::default());
    let host = Host {
        name: contract::label("kvm1"),
        uri: "test:///default".into(),
        pool: "default".into(),
    };
    let limits = Limits {
        calls_per_host: 4,
        starts_per_host: 2,
        call_timeout: Duration::from_secs(30),
    };
    let host = fleet.host(&host, &limits);
    let text = "name = \"web\"\n[image]\nsource = \"a\"\n[instance]\nmemory = \"1 GiB\"\n[[instance.networks]]\nbridge = \"br0\"\n[[fault_domains]]\nname = \"a\"\nhosts = [{ name = \"kvm1\", uri = \"test:///default\" }]\n";
    let set = vmss::definition::parse(text, Path::new("/x.toml")).unwrap();
    let image = vmss::model::Image {
        digest: vmss::model::ImageDigest("0f".repeat(32)),
        format: vmss::model::ImageFormat::Qcow2,
        virtual_size: vmss::units::Bytes::gib(1),
        file_size: vmss::units::Bytes::mib(100),
    };
    let model = vmss::resolve::model(&set, &image, None).unwrap();
    contract::run(
        &*host,
        &model,
        &LocalImage {
            path: "/image".into(),
            image,
        },
    );
}

/// The process is killed right after, and right before, every single step of create, scale in and delete. The next run
/// meets the capacity and leaves nothing orphaned, half-made or double.
#[test]
fn killed_at_every_step_the_next_run_puts_everything_right() {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    for (command, capacity) in [("create", 4), ("scale 1 --yes", 1), ("delete --yes", 0)] {
        let mut tried = 0;
        for before in [false, true] {
            for step in 0.. {
                let mut theatre = Theatre::new();
                for line in ["host rack-a kvm1", "host rack-b kvm2", "define 4"] {
                    assert_eq!(theatre.command(line).0, 0);
                }
                if command != "create" {
                    assert_eq!(theatre.vmss(&words("create")).0, 0);
                }
                let fleet = Arc::clone(&theatre.stage.fleet);
                let done = fleet.steps();
                if before {
                    fleet.kill_before(step)
                } else {
                    fleet.kill_after(step)
                }
                theatre.vmss(&words(command));
                let killed = fleet.is_killed();
                let reached = fleet.steps() - done;
                fleet.revive();
                let again = theatre.vmss(&words(command));
                let at = format!(
                    "{command}, killed {} step {step} of {reached}: {}",
                    if before { "before" } else { "after" },
                    again.2
                );
                assert_eq!(again.0, 0, "{at}");
                let set = contract::label("web");
                let store = Sqlite::open(&theatre.folder().join("state.db"))
                    .unwrap()
                    .id()
                    .unwrap();
                assert_eq!(fleet.audit(&set, &[store]), Vec::<String>::new(), "{at}");
                if capacity == 0 {
                    assert_eq!(fleet.traces(&set, &[store]), Vec::<String>::new(), "{at}");
                } else {
                    let there: usize = ["kvm1", "kvm2"].iter().map(|h| fleet.domains(h).len()).sum();
                    assert_eq!(there, capacity, "{at}");
                }
                tried += 1;
                if !killed {
                    break;
                }
            }
        }
        assert!(tried > 10, "{command} has only {tried} steps to be killed at");
    }
}
