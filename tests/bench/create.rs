//! Creating 12 lab instances, against a bare loop of the same libvirt calls with the same parallelism, in one paired run.
//!
//! Needs the lab: `examples/lab/lab up` before (VMSS_LAB_ID says which).
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints its figures"
)]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use virt::connect::Connect;
use virt::storage_vol::StorageVol;

const INSTANCES: usize = 12;
/// `limits.starts_per_host` of the definition: as many threads work on a host.
const STARTS: usize = 2;
const PAIRS: usize = 5;

#[expect(clippy::disallowed_methods, reason = "says which lab is meant")]
fn lab_folder() -> PathBuf {
    match std::env::var("VMSS_LAB_ID").as_deref() {
        Err(_) | Ok("0") => "/var/lib/vmss-lab".into(),
        Ok(id) => format!("/var/lib/vmss-lab-{id}").into(),
    }
}

struct Bed {
    folder: tempfile::TempDir,
    uris: Vec<String>,
}

impl Bed {
    fn vmss(&self, args: &str) -> Duration {
        let began = Instant::now();
        let status = Command::new(env!("CARGO_BIN_EXE_vmss"))
            .args(args.split_whitespace())
            .current_dir(self.folder.path())
            .env("VMSS_STATE", self.folder.path().join("state.db"))
            .env("VMSS_CACHE", self.folder.path().join("cache"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "vmss {args}");
        began.elapsed()
    }

    /// The XML that vmss itself made for its instances, as the bare loop's material: host, domain, volumes.
    fn material(&self) -> Vec<(usize, String, Vec<String>)> {
        let mut all = Vec::new();
        for (host, uri) in self.uris.iter().enumerate() {
            let c = Connect::open(Some(uri)).unwrap();
            let pool = c.lookup_storage_pool_by_name("default").unwrap();
            for domain in c.list_all_domains(0).unwrap() {
                let name = domain.name().unwrap();
                let xml = domain.xml_desc(virt::sys::VIR_DOMAIN_XML_INACTIVE).unwrap();
                let volumes = (pool.list_all_volumes(0).unwrap().iter())
                    .filter(|v| v.name().unwrap().starts_with(&format!("{name}-")))
                    .map(|v| overlay_of(&v.xml_desc(0).unwrap()))
                    .collect();
                all.push((host, xml, volumes));
            }
        }
        all
    }

    /// Overlay, define, start for each instance, `STARTS` threads per host, each with a connection of its own.
    fn bare(&self, material: &[(usize, String, Vec<String>)]) -> Duration {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for (host, uri) in self.uris.iter().enumerate() {
                let (tx, rx) = mpsc::channel();
                for work in material.iter().filter(|(h, ..)| *h == host) {
                    tx.send(work).unwrap();
                }
                drop(tx);
                let rx = std::sync::Arc::new(std::sync::Mutex::new(rx));
                for _ in 0..STARTS {
                    let rx = std::sync::Arc::clone(&rx);
                    scope.spawn(move || {
                        let c = Connect::open(Some(uri)).unwrap();
                        let pool = c.lookup_storage_pool_by_name("default").unwrap();
                        loop {
                            let next = rx.lock().unwrap().try_recv();
                            let Ok((_, xml, volumes)) = next else { break };
                            for volume in volumes {
                                StorageVol::create_xml(&pool, volume, 0).unwrap();
                            }
                            c.define_domain_xml(xml).unwrap().create().unwrap();
                        }
                    });
                }
            }
        });
        began.elapsed()
    }

    fn sweep(&self) {
        for uri in &self.uris {
            let c = Connect::open(Some(uri)).unwrap();
            for domain in c.list_all_domains(0).unwrap() {
                let _ = domain.destroy();
                domain.undefine().unwrap();
            }
            let pool = c.lookup_storage_pool_by_name("default").unwrap();
            for volume in pool.list_all_volumes(0).unwrap() {
                if volume.name().unwrap().starts_with("web-") {
                    volume.delete(0).unwrap();
                }
            }
        }
    }
}

/// A volume's description as one to make it from: what the pool has found out of it left out.
fn overlay_of(xml: &str) -> String {
    let document = roxmltree::Document::parse(xml).unwrap();
    let find = |path: &[&str]| {
        path.iter().try_fold(document.root_element(), |n, name| {
            n.children().find(|c| c.has_tag_name(*name))
        })
    };
    let text = |path: &[&str]| find(path).and_then(|n| n.text()).unwrap_or_default().to_owned();
    let backing = text(&["backingStore", "path"]);
    let backing = if backing.is_empty() {
        String::new()
    } else {
        format!("<backingStore><path>{backing}</path><format type='qcow2'/></backingStore>")
    };
    format!(
        "<volume><name>{}</name><capacity>{}</capacity><allocation>0</allocation><target><format type='qcow2'/><compat>1.1</compat>\
         <clusterSize unit='KiB'>128</clusterSize><features><extended_l2/></features></target>{backing}</volume>",
        text(&["name"]),
        text(&["capacity"])
    )
}

fn main() {
    virt::error::clear_error_callback();
    let lab = lab_folder();
    let Ok(text) = std::fs::read_to_string(lab.join("scaleset.toml")) else {
        println!("skipped: no lab in {} (examples/lab/lab up)", lab.display());
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let image = lab.join("images/guest-v1.qcow2");
    let text = text
        .replace("capacity = 6", "capacity = 0")
        .replace("images/guest-v1.qcow2", image.to_str().unwrap())
        + &format!("\n[limits]\nstarts_per_host = {STARTS}\n[scale_in]\nshutdown = \"0s\"\n");
    let uris = text
        .split('"')
        .filter(|t| t.starts_with("qemu+unix:"))
        .map(str::to_owned)
        .collect();
    std::fs::write(folder.path().join("scaleset.toml"), text).unwrap();
    let bed = Bed { folder, uris };
    bed.vmss("create");
    // The images are there before either is timed: sending them is no part of the comparison.
    bed.vmss("image push");
    bed.vmss(&format!("scale {INSTANCES}"));
    let material = bed.material();
    assert_eq!(material.len(), INSTANCES);
    bed.vmss("scale 0 --yes");
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        // Who goes first alternates.
        for turn in 0..2 {
            if (pair + turn) % 2 == 0 {
                ours.push(bed.vmss(&format!("scale {INSTANCES}")));
                bed.vmss("scale 0 --yes");
            } else {
                bare.push(bed.bare(&material));
                bed.sweep();
            }
        }
    }
    bed.vmss("delete --yes");
    ours.sort_unstable();
    bare.sort_unstable();
    let (a, b) = (ours[PAIRS / 2], bare[PAIRS / 2]);
    println!(
        "12 instances on {} hosts, {PAIRS} pairs, {STARTS} starts per host",
        bed.uris.len()
    );
    println!(
        "  vmss scale 12   median {a:>8.2?}  (min {:.2?}, max {:.2?})",
        ours[0],
        ours[PAIRS - 1]
    );
    println!(
        "  bare loop       median {b:>8.2?}  (min {:.2?}, max {:.2?})",
        bare[0],
        bare[PAIRS - 1]
    );
    println!(
        "  ratio of medians       {:>8.2}",
        a.as_secs_f64() / b.as_secs_f64()
    );
}
