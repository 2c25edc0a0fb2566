//! Deleting an instance: mark, shut down, switch off, delete its volumes, and last its domain, so that nothing is
//! ever left without the note that says whose it is.

use std::time::{Duration, Instant};

use virt::domain::Domain;
use virt::sys;

use super::Libvirt;
use super::connection::Session;
use super::domains::{self, Owned, mark};
use super::volumes::Pool;
use crate::hypervisor::domain_xml::element::Element;
use crate::hypervisor::{HypervisorError, Stage};
use crate::inventory::Phase;
use crate::names::volume_name;
use crate::plan::action::InstanceRef;

/// How often a guest that is shutting down is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How often a guest is asked again: one that boots, or shows a menu, misses the first power button.
const ASK: Duration = Duration::from_secs(10);

/// How long the agent has to answer, in seconds. A shutdown that works gives no answer at all.
const AGENT_PATIENCE: i32 = 2;

/// See [`crate::hypervisor::Hypervisor::delete`].
pub fn delete(
    host: &Libvirt,
    session: &Session<'_>,
    instance: &InstanceRef,
    shutdown: Duration,
) -> Result<(), HypervisorError> {
    let Some(mut owned) = domains::find(session, instance)? else {
        return Ok(());
    };
    let name = &instance.name;
    mark(session, &mut owned, Phase::Deleting)?;
    if !shutdown.is_zero() && is_active(session, name, &owned.domain)? {
        session.pulse().stage(Stage::ShutDown);
        shut_down(session, name, &owned.domain, shutdown)?;
    }
    session.safe_point(format_args!("deleting {name}"))?;
    session.pulse().stage(Stage::Destroy);
    destroy(session, name, &owned.domain)?;
    session.pulse().stage(Stage::DeleteDisks);
    let pool = Pool::open(session, &host.pool)?;
    for volume in own_volumes(instance, &owned) {
        session.safe_point(format_args!("deleting {name}"))?;
        pool.delete(volume)?;
    }
    session.pulse().stage(Stage::Undefine);
    undefine(session, name, &owned.domain)
}

/// The volumes its metadata lists, as far as their names prove that they are this very domain's: a note that someone
/// edited can't make vmss delete another's disk.
fn own_volumes<'a>(instance: &InstanceRef, owned: &'a Owned) -> impl Iterator<Item = &'a String> {
    let stem = volume_name(&instance.set, instance.id, instance.uuid, "", "");
    let stem = stem.trim_end_matches('.').to_owned();
    let plain = |name: &str| !name.contains('/');
    owned
        .meta
        .volumes
        .iter()
        .filter(move |v| v.starts_with(&stem) && plain(v))
}

fn is_active(session: &Session<'_>, name: &str, domain: &Domain) -> Result<bool, HypervisorError> {
    match session.call(format_args!("looking at domain {name}"), |_| domain.is_active()) {
        Err(fault) if fault.is(sys::VIR_ERR_NO_DOMAIN) => Ok(false),
        other => Ok(other?),
    }
}

/// Asks the guest to shut down and waits until it has or the time is up. A guest that can't be asked is not waited
/// for: it is switched off next.
fn shut_down(
    session: &Session<'_>,
    name: &str,
    domain: &Domain,
    patience: Duration,
) -> Result<(), HypervisorError> {
    let doing = format!("shutting down {name}");
    let began = Instant::now();
    let mut asked: Option<Instant> = None;
    let mut by_agent = agent_connected(session, name, domain);
    while is_active(session, name, domain)? {
        session.safe_point(&doing)?;
        if began.elapsed() >= patience {
            return Ok(());
        }
        if asked.is_none_or(|at| at.elapsed() >= ASK) {
            let heard = if std::mem::take(&mut by_agent) {
                ask_agent(session, &doing, domain) || press_button(session, &doing, domain)
            } else {
                press_button(session, &doing, domain)
            };
            if !heard && asked.is_none() {
                return Ok(());
            }
            asked = Some(Instant::now());
        }
        std::thread::sleep(LOOK.min(patience.saturating_sub(began.elapsed())));
        session.pulse().beat();
    }
    Ok(())
}

/// Whether the guest's agent listens. A call to one that doesn't may block for a minute.
pub fn agent_connected(session: &Session<'_>, name: &str, domain: &Domain) -> bool {
    let xml = session.call(format_args!("reading domain {name}"), |_| domain.xml_desc(0));
    let Some(document) = xml.ok().and_then(|xml| Element::parse(&xml).ok()) else {
        return false;
    };
    let devices = document.find("devices").into_iter().flat_map(|d| &d.children);
    devices
        .filter(|e| e.name == "channel")
        .filter_map(|channel| channel.find("target"))
        .any(|t| t.get("name") == Some("org.qemu.guest_agent.0") && t.get("state") == Some("connected"))
}

/// Asks through the agent. Not by `virDomainShutdown`, which would hold one of the connection's few places until the
/// guest is off.
fn ask_agent(session: &Session<'_>, doing: &str, domain: &Domain) -> bool {
    let command = r#"{"execute":"guest-shutdown","arguments":{"mode":"powerdown"}}"#;
    match session.call(doing, |_| {
        let _ = super::raw::set_agent_timeout(domain, AGENT_PATIENCE);
        domain.qemu_agent_command(command, AGENT_PATIENCE, 0)
    }) {
        Ok(_) => true,
        // It heard and has nothing to answer.
        Err(fault) => fault.is(sys::VIR_ERR_AGENT_COMMAND_TIMEOUT),
    }
}

fn press_button(session: &Session<'_>, doing: &str, domain: &Domain) -> bool {
    let acpi = session.call(doing, |_| {
        domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
    });
    match acpi {
        Ok(()) => true,
        Err(fault) if fault.unsupported() => session.call(doing, |_| domain.shutdown()).is_ok(),
        Err(_) => false,
    }
}

fn destroy(session: &Session<'_>, name: &str, domain: &Domain) -> Result<(), HypervisorError> {
    match session.call(format_args!("switching off domain {name}"), |_| domain.destroy()) {
        Err(fault) if fault.is(sys::VIR_ERR_OPERATION_INVALID) || fault.is(sys::VIR_ERR_NO_DOMAIN) => Ok(()),
        other => Ok(other?),
    }
}

/// Takes the domain's definition away; none there is fine.
pub fn undefine(session: &Session<'_>, name: &str, domain: &Domain) -> Result<(), HypervisorError> {
    let doing = format!("undefining domain {name}");
    let saved = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA;
    let firmware = sys::VIR_DOMAIN_UNDEFINE_NVRAM;
    let checkpoints = sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
    // With fewer flags where the driver or its version doesn't know them all.
    for flags in [saved | firmware | checkpoints, saved | firmware, saved, 0] {
        match session.call(&doing, |_| domain.undefine_flags(flags)) {
            Ok(()) => return Ok(()),
            Err(fault) if fault.is(sys::VIR_ERR_NO_DOMAIN) => return Ok(()),
            Err(fault) if fault.unsupported() && flags != 0 => {}
            Err(fault) => return Err(fault.error),
        }
    }
    Ok(())
}
