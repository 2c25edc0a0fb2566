//! The guest's agent: whether it listens, whether it answers, and asking it to shut its guest down.

use virt::domain::Domain;
use virt::sys;

use super::connection::Session;
use super::fault::Fault;
use super::{domains, power, raw};
use crate::hypervisor::domain_xml::element::Element;
use crate::hypervisor::{FaultKind, HypervisorError};
use crate::plan::action::InstanceRef;
use crate::said::shown;

/// How long the agent has to answer, in seconds. A shutdown that works gives no answer at all.
const PATIENCE: i32 = 2;

/// Longest part of what an agent says that is shown: whoever has the guest writes it.
const SHOWN: usize = 200;

/// Whether the guest's agent listens. A call to one that doesn't may block for a minute.
pub fn is_connected(session: &Session<'_>, name: &str, domain: &Domain) -> Result<bool, HypervisorError> {
    let xml = session.call(format_args!("reading domain {name}"), |_| domain.xml_desc(0))?;
    Ok(listens(&xml))
}

fn listens(xml: &str) -> bool {
    let Ok(document) = Element::parse(xml) else {
        return false;
    };
    let devices = document.find("devices").into_iter().flat_map(|d| &d.children);
    devices
        .filter(|e| e.name == "channel")
        .filter_map(|channel| channel.find("target"))
        .any(|t| t.get("name") == Some("org.qemu.guest_agent.0") && t.get("state") == Some("connected"))
}

/// Has the agent do something; returns its answer, which is JSON.
pub fn command(session: &Session<'_>, doing: &str, domain: &Domain, command: &str) -> Result<String, Fault> {
    session.call(doing, |_| {
        let _ = raw::set_agent_timeout(domain, PATIENCE);
        domain.qemu_agent_command(command, PATIENCE, 0)
    })
}

/// The domain of an instance that runs and whose agent listens.
///
/// # Errors
/// `Other` if it does not; `Missing` and `NotOurs` as [`domains::there`].
pub fn listening(
    session: &Session<'_>,
    instance: &InstanceRef,
    doing: &str,
) -> Result<Domain, HypervisorError> {
    let name = &instance.name;
    let domain = domains::there(session, instance, doing)?.domain;
    let silent = |text: &str| Err(HypervisorError::new(FaultKind::Other, doing, text));
    if !power::is_active(session, name, &domain)? {
        return silent(OFF);
    }
    if !is_connected(session, name, &domain)? {
        return silent("its guest agent is not connected");
    }
    Ok(domain)
}

/// What is said of an instance that is off.
pub const OFF: &str = "the instance is not running";

/// A call of the agent's that failed, told apart by what follows from it.
pub fn failure(fault: Fault, doing: &str) -> HypervisorError {
    // libvirt says the second where even its own greeting before the command was not answered.
    if is_silence(&fault) {
        let text = format!("no answer within {PATIENCE} s");
        return HypervisorError::new(FaultKind::TimedOut, doing, text);
    }
    // Paused, or switched off just now.
    if fault.is(sys::VIR_ERR_OPERATION_INVALID) {
        return HypervisorError::new(FaultKind::Other, doing, OFF);
    }
    // Most of it may be the agent's own words.
    HypervisorError {
        message: shown(&fault.error.message, SHOWN),
        ..fault.error
    }
}

/// An answer of the agent's that is none to what it was asked.
pub fn nonsense(answer: &str, doing: &str) -> HypervisorError {
    let answer = shown(answer, SHOWN);
    let text = format!("its agent's answer makes no sense: {answer}");
    HypervisorError::new(FaultKind::Other, doing, text)
}

/// Whether the agent did not answer in time.
pub fn is_silence(fault: &Fault) -> bool {
    fault.is(sys::VIR_ERR_AGENT_COMMAND_TIMEOUT) || fault.is(sys::VIR_ERR_AGENT_UNRESPONSIVE)
}

/// Asks through the agent. Not by `virDomainShutdown`, which would hold one of the connection's few places until the
/// guest is off.
pub fn shut_down(session: &Session<'_>, doing: &str, domain: &Domain) -> bool {
    let ask = r#"{"execute":"guest-shutdown","arguments":{"mode":"powerdown"}}"#;
    match command(session, doing, domain, ask) {
        Ok(_) => true,
        // It heard and has nothing to answer.
        Err(fault) => fault.is(sys::VIR_ERR_AGENT_COMMAND_TIMEOUT),
    }
}

/// See [`crate::hypervisor::Hypervisor::ping`].
pub fn ping(session: &Session<'_>, instance: &InstanceRef) -> Result<(), HypervisorError> {
    let doing = format!("asking the guest agent of {}", instance.name);
    let domain = listening(session, instance, &doing)?;
    match command(session, &doing, &domain, r#"{"execute":"guest-ping"}"#) {
        Ok(_) => Ok(()),
        Err(fault) => Err(failure(fault, &doing)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_says_is_shown_in_one_line_and_in_part() {
        let wild = format!("internal error: \u{1b}[2J{}", "x".repeat(1 << 20));
        let failed = Fault {
            code: sys::VIR_ERR_INTERNAL_ERROR,
            error: HypervisorError::new(FaultKind::Other, "asking", wild.clone()),
        };
        for error in [failure(failed, "asking"), nonsense(&wild, "asking")] {
            let said = &error.message;
            assert!(said.contains("internal error:  [2Jxxx"), "{}", said.len());
            assert!(said.len() < 300, "{}", said.len());
            assert!(!said.contains(char::is_control), "{said:?}");
        }
    }

    #[test]
    fn only_a_connected_channel_of_the_agents_is_asked() {
        let channel = |name: &str, state: &str| {
            format!(
                "<domain><devices><channel type='unix'><target type='virtio' name='{name}' {state}/>\
                 </channel></devices></domain>"
            )
        };
        let agent = "org.qemu.guest_agent.0";
        assert!(listens(&channel(agent, "state='connected'")));
        assert!(!listens(&channel(agent, "state='disconnected'")));
        assert!(!listens(&channel(agent, "")), "a domain that is off");
        assert!(!listens(&channel("com.redhat.spice.0", "state='connected'")));
        assert!(!listens("<domain><devices/></domain>") && !listens("no XML"));
    }
}
