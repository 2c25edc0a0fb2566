//! `vmss check` for one host: everything an instance would need, looked at before one is made.

mod network;

use super::connection::Session;
use super::images;
use super::traits::{Traits, version};
use super::volume_xml;
use super::volumes::Pool;
use crate::hypervisor::domain_xml::element::Element;
use crate::hypervisor::{FaultKind, Finding, HypervisorError, Problem};
use crate::model::{Clone as CloneMode, Cpu, Firmware, Model, Virtualization};
use crate::units::Bytes;

/// Oldest libvirt that everything vmss asks for was in, save what it leaves out by version (6.0, January 2020).
const OLDEST: u32 = 6_000_000;

/// The one finding of a host that can't be reached.
pub fn unreachable(error: HypervisorError) -> Finding {
    let says = |text: &str| error.message.contains(text);
    let remedy = match error.kind {
        _ if says("Host key verification") || says("verify the session host key") => {
            "compare the host's key with the one it shows on its own console, and add it to known_hosts"
        }
        _ if says("certificate") => {
            "install the CA's certificate, and a client certificate and key it signed, under /etc/pki"
        }
        FaultKind::Denied => {
            "check the URI's user, its key or certificate, and that the user may use libvirt (group libvirt)"
        }
        FaultKind::TimedOut => "check that libvirtd on the host isn't stopped or overloaded",
        _ => "check that the host is up and libvirtd runs; try `virsh -c URI version` by hand",
    };
    failed(
        "connection",
        format!("{}: {}", error.doing, error.message),
        remedy,
    )
}

/// See [`crate::hypervisor::Hypervisor::check`].
pub fn check(session: &Session<'_>, pool: &str, model: &Model) -> Vec<Finding> {
    let traits = match session.traits() {
        Ok(traits) => traits,
        Err(error) => return vec![unreachable(error)],
    };
    let mut findings = vec![libvirt(traits), virtualization(traits, model)];
    findings.push(cpu(session, traits, model));
    if model.firmware == Firmware::Uefi && !traits.simulated {
        findings.push(uefi(session, traits, model));
    }
    findings.extend(storage(session, pool, model));
    findings.extend(network::check(session, traits, model));
    findings
}

fn passed(what: impl Into<String>, found: impl Into<String>) -> Finding {
    Finding {
        what: what.into(),
        result: Ok(found.into()),
    }
}

fn failed(what: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding {
        what: what.into(),
        result: Err(Problem {
            problem: problem.into(),
            remedy: remedy.into(),
        }),
    }
}

fn libvirt(traits: &Traits) -> Finding {
    let found = format!(
        "libvirt {}, {} {}",
        version(traits.libvirt),
        traits.hypervisor.0,
        version(traits.hypervisor.1)
    );
    if traits.libvirt < OLDEST {
        return failed(
            "libvirt",
            format!("{found} is too old"),
            "vmss needs libvirt 6.0 or newer",
        );
    }
    if !traits.simulated && traits.hypervisor.0 != "QEMU" {
        return failed(
            "libvirt",
            format!("{found}: not QEMU"),
            "vmss runs instances on QEMU and KVM only",
        );
    }
    passed("libvirt", found)
}

fn virtualization(traits: &Traits, model: &Model) -> Finding {
    let what = "virtualization";
    if traits.simulated {
        return passed(what, "simulated: nothing really runs");
    }
    match (traits.domain_type(model.virtualization), model.virtualization) {
        (Err(error), _) => failed(
            what,
            error.message,
            "switch on VT-x or AMD-V in the host's firmware and load kvm_intel or kvm_amd, or set \
             instance.virtualization to \"auto\" or \"qemu\"",
        ),
        (Ok(_), Virtualization::Auto) if !traits.kvm() => {
            passed(what, "no KVM: instances are emulated, which is slow")
        }
        (Ok(kind), _) => passed(what, kind.as_str()),
    }
}

fn cpu(session: &Session<'_>, traits: &Traits, model: &Model) -> Finding {
    let what = "CPU model";
    let emulated = model.virtualization == Virtualization::Qemu || !traits.kvm();
    match &model.cpu {
        _ if traits.simulated => passed(what, "simulated"),
        Cpu::HostPassthrough if emulated => failed(
            what,
            "host-passthrough needs KVM, and instances would be emulated here",
            "set instance.cpu to \"maximum\" or \"host-model\"",
        ),
        Cpu::Maximum if traits.libvirt < 7_001_000 => failed(
            what,
            "\"maximum\" needs libvirt 7.1",
            "set instance.cpu to \"host-model\"",
        ),
        Cpu::Named(name) => {
            let arch = traits.arch.as_deref().unwrap_or("x86_64");
            let known = session.call("listing CPU models", |c| c.cpu_models_names(arch, 0));
            match known {
                Ok(known) if known.is_empty() || known.contains(name) => passed(what, name),
                Ok(_) => failed(
                    what,
                    format!("the host's libvirt knows no CPU model {name:?}"),
                    format!("choose one that `virsh cpu-models {arch}` lists"),
                ),
                Err(fault) => passed(what, format!("could not be looked at: {}", fault.error.message)),
            }
        }
        Cpu::HostModel => passed(what, "host-model"),
        Cpu::HostPassthrough => passed(what, "host-passthrough"),
        Cpu::Maximum => passed(what, "maximum"),
    }
}

fn uefi(session: &Session<'_>, traits: &Traits, model: &Model) -> Finding {
    let what = "UEFI";
    let kind = traits.domain_type(model.virtualization).map(|t| t.as_str());
    let capabilities = session.call("asking for domain capabilities", |c| {
        c.domain_capabilities(None, traits.arch.as_deref(), None, kind.ok(), 0)
    });
    let document = match capabilities.map(|xml| Element::parse(&xml)) {
        Ok(Ok(document)) => document,
        Ok(Err(error)) => return passed(what, format!("could not be looked at: {error}")),
        Err(fault) => return passed(what, format!("could not be looked at: {}", fault.error.message)),
    };
    let offered = document
        .find("os")
        .into_iter()
        .flat_map(|os| os.children.iter())
        .filter(|e| e.name == "enum" && e.get("name") == Some("firmware"))
        .flat_map(|e| e.children.iter())
        .any(|value| value.text == "efi");
    if offered {
        return passed(what, "offered");
    }
    failed(
        what,
        "the host has no UEFI firmware that libvirt knows",
        "install it (package ovmf or edk2-ovmf), or set instance.firmware to \"bios\"",
    )
}

fn storage(session: &Session<'_>, name: &str, model: &Model) -> Vec<Finding> {
    let what = format!("pool {name}");
    let pool = match Pool::open(session, name).and_then(|pool| pool.place().map(|place| (pool, place))) {
        Ok((pool, (kind, path))) => (pool, kind, path),
        Err(error) => {
            let remedy = match error.kind {
                FaultKind::Missing => format!(
                    "`virsh pool-define-as {name} dir --target /var/lib/libvirt/{name}`, then pool-build, pool-start and \
                     pool-autostart; or name another pool"
                ),
                _ => "name a pool of type dir, fs or netfs".to_owned(),
            };
            return vec![failed(what, error.message, remedy)];
        }
    };
    let (pool, kind, path) = pool;
    let active = session.call("looking at the pool", |_| pool.handle.is_active());
    if matches!(active, Ok(false)) {
        return vec![failed(
            what,
            "it is not active",
            format!("`virsh pool-start {name}`, and `virsh pool-autostart {name}` for the next boot"),
        )];
    }
    pool.refresh();
    let mut findings = vec![
        match session.call("looking at the pool", |_| pool.handle.info()) {
            Ok(info) => room(
                &what,
                &format!("{kind} at {path}"),
                Bytes(info.available),
                needed(&pool, model),
            ),
            Err(fault) => failed(&what, fault.error.message, "look at it with `virsh pool-info`"),
        },
    ];
    findings.push(writing(&pool));
    findings
}

/// What the image, unless it is there, and one instance take at once. A linked clone takes next to nothing.
fn needed(pool: &Pool<'_, '_>, model: &Model) -> Bytes {
    let names = pool.names().unwrap_or_default();
    let there = images::copies(&names).any(|(copy, whole)| whole && copy.digest == model.image.digest);
    let image = if there { Bytes(0) } else { model.image.file_size };
    match model.clone {
        CloneMode::Linked => image,
        CloneMode::Full => image + model.disk,
    }
}

fn room(what: &str, place: &str, free: Bytes, needed: Bytes) -> Finding {
    let found = format!("{place}, {free} free");
    if free < needed {
        return failed(
            what,
            format!("{found}; {needed} are needed for the image and one instance"),
            "make room, or name another pool",
        );
    }
    passed(what, found)
}

/// Nothing tells what we may do but doing it.
fn writing(pool: &Pool<'_, '_>) -> Finding {
    let what = format!("writing to pool {}", pool.name);
    let name = format!("vmss-check-{}.img", uuid::Uuid::new_v4().simple());
    let tried = pool
        .create(&name, volume_xml::raw(&name, 0))
        .and_then(|_| pool.delete(&name));
    match tried {
        Ok(()) => passed(what, "a volume was made and deleted again"),
        Err(error) => failed(
            what,
            error.to_string(),
            "check that the user may change storage and the folder can be written",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_cant_be_reached_has_a_remedy_that_fits() {
        for (kind, message, word) in [
            (FaultKind::Denied, "Host key verification failed.", "known_hosts"),
            (FaultKind::Denied, "Permission denied (publickey)", "key"),
            (
                FaultKind::Unreachable,
                "Cannot read CA certificate",
                "certificate",
            ),
            (FaultKind::Unreachable, "Connection refused", "virsh"),
            (FaultKind::TimedOut, "no answer within 8 s", "libvirtd"),
        ] {
            let finding = unreachable(HypervisorError::new(kind, "connecting", message));
            let problem = finding.result.expect_err("it can't be reached");
            assert!(problem.remedy.contains(word), "{message}: {}", problem.remedy);
        }
    }
}
