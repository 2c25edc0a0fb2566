//! `vmss check` on one host: everything that an instance will need, and what to do where it is missing.

use virt::connect::Connect;

use crate::hypervisor::domain_xml::Volume;
use crate::hypervisor::libvirt::lifecycle::pool_folder;
use crate::hypervisor::libvirt::{Libvirt, volumes};
use crate::hypervisor::{Finding, HypervisorError, Problem};
use crate::model::{Cpu, Model, NicSource, Virtualization};
use crate::units::Bytes;

/// Oldest libvirt that has what vmss uses (bulk lists, domain metadata, sparse streams, 2019 and later).
const OLDEST: u32 = 6_000_000;

fn pass(what: impl Into<String>, found: impl Into<String>) -> Finding {
    Finding {
        what: what.into(),
        result: Ok(found.into()),
    }
}

fn fail(what: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding {
        what: what.into(),
        result: Err(Problem {
            problem: problem.into(),
            remedy: remedy.into(),
        }),
    }
}

impl Libvirt {
    pub(super) fn check_all(&self, model: &Model) -> Vec<Finding> {
        let c = match self.look.get() {
            Ok(c) => c,
            Err(e) => {
                return vec![fail(
                    "connection",
                    e.to_string(),
                    "see README, \"Setting up hosts\"",
                )];
            }
        };
        let mut findings = vec![self.check_version(&c), check_virtualization(&c, model)];
        findings.extend(self.check_pool(&c, model));
        findings.extend(check_cpu(&c, model));
        for nic in &model.networks {
            findings.push(check_network(&c, &nic.source));
        }
        findings
    }

    fn check_version(&self, c: &Connect) -> Finding {
        match c.lib_version() {
            Ok(v) if v < OLDEST => fail(
                "libvirt",
                format!("version {}.{} is too old", v / 1_000_000, v / 1000 % 1000),
                "vmss needs libvirt 6.0 or later on the host: upgrade its system",
            ),
            Ok(_) => match self.host_facts() {
                Ok(facts) => pass(
                    "libvirt",
                    format!(
                        "{}, {}, host name {}",
                        facts.libvirt, facts.hypervisor, facts.hostname
                    ),
                ),
                Err(e) => fail("libvirt", e.to_string(), "look at the host's libvirtd log"),
            },
            Err(e) => fail(
                "libvirt",
                e.message().to_owned(),
                "look at the host's libvirtd log",
            ),
        }
    }

    fn check_pool(&self, c: &Connect, model: &Model) -> Vec<Finding> {
        let what = format!("pool {}", self.pool);
        let pool = match self.pool(c) {
            Ok(pool) => pool,
            Err(e) => {
                let remedy = format!(
                    "make it on the host: virsh pool-define-as {0} dir --target /var/lib/libvirt/images && virsh pool-start {0} \
                     && virsh pool-autostart {0}; or name another with pool = \"...\"",
                    self.pool
                );
                return vec![fail(what, e.message, remedy)];
            }
        };
        if !pool.is_active().unwrap_or(false) {
            return vec![fail(
                what,
                "it is not active",
                format!("virsh pool-start {0}; virsh pool-autostart {0}", self.pool),
            )];
        }
        let folder = match pool_folder(&pool) {
            Ok(folder) => folder,
            Err(e) => return vec![fail(what, e, "name a directory pool with pool = \"...\"")],
        };
        let mut findings = Vec::new();
        match pool.info() {
            Ok(info) if info.available < model.image.file_size.0 => findings.push(fail(
                &what,
                format!(
                    "{} free in {folder}, the image alone takes {}",
                    Bytes(info.available),
                    model.image.file_size
                ),
                "free some space, or name another pool",
            )),
            Ok(info) => findings.push(pass(&what, format!("{folder}, {} free", Bytes(info.available)))),
            Err(e) => findings.push(fail(
                &what,
                e.message().to_owned(),
                "look at the host's libvirtd log",
            )),
        }
        // The one sure way to know whether something may be written is to write it.
        let name = format!("vmss-check-{}.raw", std::process::id());
        let tried: Result<(), HypervisorError> = volumes::make(
            &pool,
            &Volume {
                name: &name,
                format: "raw",
                capacity: 512,
                backing: None,
            },
        )
        .and_then(|_| volumes::delete(&pool, &name));
        findings.push(match tried {
            Ok(()) => pass("permission to write", "a volume was made and deleted"),
            Err(e) => fail(
                "permission to write",
                e.to_string(),
                "the user of the URI must be in the group libvirt on the host, and the pool's folder be writable",
            ),
        });
        findings
    }
}

fn check_virtualization(c: &Connect, model: &Model) -> Finding {
    let kvm = c
        .capabilities()
        .is_ok_and(|xml| xml.contains("<domain type='kvm'"));
    match (model.virtualization, kvm) {
        (Virtualization::Kvm, false) => fail(
            "virtualization",
            "the host offers no KVM",
            "switch on VT-x or AMD-V in its firmware and load kvm_intel or kvm_amd; or set instance.virtualization = \"qemu\"",
        ),
        (Virtualization::Qemu, _) => pass("virtualization", "emulation (slow), as asked"),
        (_, true) => pass("virtualization", "KVM"),
        (Virtualization::Auto, false) => pass(
            "virtualization",
            "no KVM: instances will be emulated, which is slow",
        ),
    }
}

fn check_cpu(c: &Connect, model: &Model) -> Option<Finding> {
    let Cpu::Named(name) = &model.cpu else { return None };
    let models = c.cpu_models_names("x86_64", 0).ok()?;
    Some(if models.contains(name) {
        pass("cpu model", name)
    } else {
        fail(
            "cpu model",
            format!("the host does not know {name}"),
            "virsh cpu-models x86_64 lists those it knows",
        )
    })
}

fn check_network(c: &Connect, source: &NicSource) -> Finding {
    match source {
        NicSource::Network(name) => {
            let what = format!("network {name}");
            match c.lookup_network_by_name(name) {
                Ok(network) if network.is_active().unwrap_or(false) => pass(what, "active"),
                Ok(_) => fail(
                    what,
                    "it is not active",
                    format!("virsh net-start {name}; virsh net-autostart {name}"),
                ),
                Err(e) => fail(
                    what,
                    e.message().to_owned(),
                    "virsh net-list --all on the host tells which there are",
                ),
            }
        }
        NicSource::Bridge(name) => {
            let what = format!("bridge {name}");
            // libvirt lists a host's network devices by its node device driver, where that is installed.
            let devices = c.list_all_node_devices(virt::sys::VIR_CONNECT_LIST_NODE_DEVICES_CAP_NET);
            let interfaces = c.list_all_interfaces(0);
            let listed = |names: Vec<String>| {
                names
                    .iter()
                    .any(|n| n == name || n.starts_with(&format!("net_{name}_")))
            };
            let names: Vec<String> = match (&interfaces, &devices) {
                (Ok(interfaces), _) if !interfaces.is_empty() => {
                    interfaces.iter().filter_map(|i| i.name().ok()).collect()
                }
                (_, Ok(devices)) if !devices.is_empty() => {
                    devices.iter().filter_map(|d| d.name().ok()).collect()
                }
                _ => {
                    return pass(
                        what,
                        "can't be told from afar: the host's libvirt lists no network devices",
                    );
                }
            };
            if listed(names) {
                pass(what, "there")
            } else {
                fail(
                    what,
                    "the host has no device of that name",
                    format!("ip link add {name} type bridge, or name the one there is; README shows how"),
                )
            }
        }
    }
}
