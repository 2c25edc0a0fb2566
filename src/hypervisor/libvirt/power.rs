//! On and off: guests are asked before they are switched off, and what an operator stopped says so.

use std::time::{Duration, Instant};

use virt::domain::Domain;
use virt::sys;

use super::connection::Session;
use super::{agent, domains};
use crate::hypervisor::{HypervisorError, Stage};
use crate::plan::action::InstanceRef;

/// How often a guest that is shutting down is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How often a guest is asked again: one that boots, or shows a menu, misses the first power button.
const ASK: Duration = Duration::from_secs(10);

/// How long QEMU has to take the power button. One that hangs is switched off.
const HEARS: Duration = Duration::from_secs(10);

/// How long switching off may take: libvirt lets a QEMU that hangs, or waits for its storage, end by itself for a while
/// before it kills it.
const ENDS: Duration = Duration::from_secs(60);

/// How long a start may take: QEMU may have much memory to lay out, and others may start beside it.
const STARTS: Duration = Duration::from_secs(60);

/// Starts without the memory that somebody saved of it (`virsh managedsave`).
pub const AFRESH: u32 = sys::VIR_DOMAIN_START_FORCE_BOOT;

/// As [`AFRESH`], and with UEFI's variables as a new machine has them.
pub const AS_NEW: u32 = AFRESH | sys::VIR_DOMAIN_START_RESET_NVRAM;

/// Whether the domain is on, be it paused; one that is gone is off.
pub fn is_active(session: &Session<'_>, name: &str, domain: &Domain) -> Result<bool, HypervisorError> {
    match session.call(format_args!("looking at domain {name}"), |_| domain.is_active()) {
        Err(fault) if fault.is(sys::VIR_ERR_NO_DOMAIN) => Ok(false),
        other => Ok(other?),
    }
}

/// Asks the guest to shut down and switches it off after `patience`; at once if that is zero. One that is off is off.
pub fn off(
    session: &Session<'_>,
    name: &str,
    domain: &Domain,
    patience: Duration,
    doing: &str,
) -> Result<(), HypervisorError> {
    if !patience.is_zero() && is_active(session, name, domain)? {
        session.pulse().stage(Stage::ShutDown);
        shut_down(session, name, domain, patience)?;
    }
    session.safe_point(doing)?;
    session.pulse().stage(Stage::Destroy);
    destroy(session, name, domain)
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
    let mut by_agent = agent::is_connected(session, name, domain).unwrap_or(false);
    while is_active(session, name, domain)? {
        session.safe_point(&doing)?;
        if began.elapsed() >= patience {
            return Ok(());
        }
        if asked.is_none_or(|at| at.elapsed() >= ASK) {
            let heard = if std::mem::take(&mut by_agent) {
                agent::shut_down(session, &doing, domain) || press_button(session, &doing, domain)
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

/// libvirt passes it on to QEMU and waits for its word, for ever if that hangs.
fn press_button(session: &Session<'_>, doing: &str, domain: &Domain) -> bool {
    let Ok(uuid) = domain.uuid_string() else {
        return false;
    };
    let acpi = session.call_within(doing, HEARS, move |c| {
        let its = c.lookup_domain_by_uuid_string(&uuid)?;
        its.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
    });
    match acpi {
        Some(Ok(())) => true,
        Some(Err(fault)) if fault.unsupported() => session.call(doing, |_| domain.shutdown()).is_ok(),
        Some(Err(_)) | None => false,
    }
}

/// Switches the domain off; one that is off or gone is off.
pub fn destroy(session: &Session<'_>, name: &str, domain: &Domain) -> Result<(), HypervisorError> {
    let doing = format!("switching off domain {name}");
    match session.long_call(doing, ENDS, |_| domain.destroy()) {
        Err(fault) if fault.is(sys::VIR_ERR_OPERATION_INVALID) || fault.is(sys::VIR_ERR_NO_DOMAIN) => Ok(()),
        other => Ok(other?),
    }
}

/// Starts the domain; one that runs is left alone. `flags` ([`AFRESH`], [`AS_NEW`], or 0) hold as far as the driver
/// and its version know them.
pub fn boot(session: &Session<'_>, name: &str, domain: &Domain, flags: u32) -> Result<(), HypervisorError> {
    let doing = format!("starting domain {name}");
    let create = |flags| {
        session.long_call(&doing, STARTS, |_| match flags {
            0 => domain.create(),
            flags => domain.create_with_flags(flags),
        })
    };
    let mut started = create(flags);
    for fewer in [AFRESH, 0] {
        let unknown = matches!(&started, Err(fault) if fault.is(sys::VIR_ERR_INVALID_ARG));
        if unknown && flags & !fewer != 0 {
            started = create(flags & fewer);
        }
    }
    if matches!(&started, Err(fault) if is_stillborn(&fault.error.message)) {
        std::thread::sleep(LOOK);
        started = create(flags);
    }
    match started {
        // It runs already, or somebody was faster: the drivers have different numbers for that.
        Err(_) if session.call(&doing, |_| domain.is_active())? => Ok(()),
        other => Ok(other?),
    }
}

/// Whether QEMU died in its first moment without a word. Seen on hosts under heavy load when a domain is started right
/// after its guest went off: the end of the old process seems to reach the new one. Tried once more, it starts. A QEMU that
/// has something to say (a disk it can't open, a bridge that is not there) says it after the colon, and is believed.
fn is_stillborn(message: &str) -> bool {
    let Some((_, said)) = message.split_once("process exited while connecting to monitor") else {
        return false;
    };
    said.trim_matches([':', ';', ' ']).is_empty()
}

/// See [`crate::hypervisor::Hypervisor::start`].
pub fn start(session: &Session<'_>, instance: &InstanceRef) -> Result<(), HypervisorError> {
    let doing = format!("starting {}", instance.name);
    let mut owned = domains::whole(session, instance, &doing)?;
    // First, for whoever finds it off without this note starts it too.
    domains::note_stopped(session, &mut owned, instance, false)?;
    boot(session, &instance.name, &owned.domain, 0)
}

/// See [`crate::hypervisor::Hypervisor::stop`].
pub fn stop(
    session: &Session<'_>,
    instance: &InstanceRef,
    shutdown: Duration,
) -> Result<(), HypervisorError> {
    let doing = format!("stopping {}", instance.name);
    let mut owned = domains::whole(session, instance, &doing)?;
    // First, for whoever finds it off without this note starts it again.
    domains::note_stopped(session, &mut owned, instance, true)?;
    off(session, &instance.name, &owned.domain, shutdown, &doing)
}

/// See [`crate::hypervisor::Hypervisor::restart`].
pub fn restart(
    session: &Session<'_>,
    instance: &InstanceRef,
    shutdown: Duration,
) -> Result<(), HypervisorError> {
    let doing = format!("restarting {}", instance.name);
    let mut owned = domains::whole(session, instance, &doing)?;
    domains::note_stopped(session, &mut owned, instance, false)?;
    off(session, &instance.name, &owned.domain, shutdown, &doing)?;
    session.pulse().stage(Stage::Start);
    boot(session, &instance.name, &owned.domain, AFRESH)
}

#[cfg(test)]
mod tests {
    use super::is_stillborn;

    #[test]
    fn only_a_qemu_that_died_without_a_word_is_started_again() {
        assert!(is_stillborn("process exited while connecting to monitor"));
        assert!(is_stillborn("process exited while connecting to monitor: "));
        for other in [
            "process exited while connecting to monitor: 2026-11-25T01:00:00Z qemu-system-x86_64: Could not open disk",
            "Cannot get interface MTU on 'br7': No such device",
            "",
        ] {
            assert!(!is_stillborn(other), "{other}");
        }
    }
}
