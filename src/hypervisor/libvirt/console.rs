//! The serial console: a stream of bytes both ways.

use std::time::Duration;

use virt::stream::Stream;
use virt::sys;

use super::connection::Session;
use super::{agent, domains, power};
use crate::hypervisor::{FaultKind, HypervisorError, Viewer};
use crate::plan::action::InstanceRef;

/// How long is waited for keys when the guest says nothing: short enough not to be felt.
const GLANCE: Duration = Duration::from_millis(20);

/// What libvirt returns instead of a length when the other side has nothing, or takes nothing, just now.
const NOT_NOW: isize = -2;

/// See [`crate::hypervisor::Hypervisor::console`].
pub fn console(
    session: &Session<'_>,
    instance: &InstanceRef,
    force: bool,
    viewer: &mut dyn Viewer,
) -> Result<(), HypervisorError> {
    let name = &instance.name;
    let doing = format!("opening the console of {name}");
    let domain = domains::there(session, instance, &doing)?.domain;
    if !power::is_active(session, name, &domain)? {
        return Err(HypervisorError::new(FaultKind::NotRunning, doing, agent::OFF));
    }
    let flags = if force { sys::VIR_DOMAIN_CONSOLE_FORCE } else { 0 };
    let stream = session.call(&doing, |c| {
        let stream = Stream::new(c, sys::VIR_STREAM_NONBLOCK)?;
        domain.open_console(None, &stream, flags)?;
        Ok(stream)
    })?;
    let seen = watch(session, &stream, viewer, name);
    // The guest goes on either way; a stream that is not ended keeps others from the console.
    let turn = session.turn();
    let _ = stream.abort();
    drop(turn);
    seen
}

/// Carries bytes both ways until one end hangs up. libvirt's event loop takes in what the host sends, so that asking
/// costs nothing.
fn watch(
    session: &Session<'_>,
    stream: &Stream,
    viewer: &mut dyn Viewer,
    name: &str,
) -> Result<(), HypervisorError> {
    let doing = format!("reading the console of {name}");
    let mut buffer = vec![0; 64 << 10];
    let mut typed: Vec<u8> = Vec::new();
    loop {
        let got = stream.recv(&mut buffer).map_err(|e| session.fault(&doing, &e))?;
        let quiet = got == NOT_NOW;
        match usize::try_from(got) {
            Ok(0) => return Ok(()),
            Ok(length) => viewer.show(&buffer[..length.min(buffer.len())]),
            Err(_) if quiet => {}
            Err(_) => {
                let text = format!("libvirt answered {got}");
                return Err(HypervisorError::new(FaultKind::Other, doing, text));
            }
        }
        let wait = if quiet { GLANCE } else { Duration::ZERO };
        match viewer.typed(wait) {
            Some(more) => typed.extend(more),
            None => return Ok(()),
        }
        if !typed.is_empty() {
            let turn = session.turn();
            let sent = stream.send(&typed);
            drop(turn);
            let sent = sent.map_err(|e| session.fault(&doing, &e))?;
            typed.drain(..usize::try_from(sent).unwrap_or(0).min(typed.len()));
        }
    }
}
