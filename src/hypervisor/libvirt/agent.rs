//! The guest's agent: whether it listens, whether it answers, and asking it to shut its guest down.
//!
//! An agent that is silent and one that is broken fail with one code and in one domain of libvirt's errors
//! (`VIR_ERR_AGENT_UNRESPONSIVE`, `VIR_FROM_QEMU`), and the channel's state says "connected" of both. What tells them apart is
//! the time: libvirt waits for a silent one, and refuses one whose channel it has ended at once. It has ended it for good
//! when one answer passes 10 MiB; a restart of qemu-ga mends it.

use std::time::{Duration, Instant};

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

/// Whether the description of a running domain says that its agent listens.
pub fn listens(xml: &str) -> bool {
    let Ok(document) = Element::parse(xml) else {
        return false;
    };
    let devices = document.find("devices").into_iter().flat_map(|d| &d.children);
    devices
        .filter(|e| e.name == "channel")
        .filter_map(|channel| channel.find("target"))
        .any(|t| t.get("name") == Some("org.qemu.guest_agent.0") && t.get("state") == Some("connected"))
}

/// Why the agent did not do what it was to do.
#[derive(Debug)]
pub enum Failure {
    /// It did not answer in time.
    Silent,
    /// It did not even answer libvirt's greeting in time, so that it was not asked.
    Deaf,
    /// libvirt refuses it at once.
    Broken,
    /// The domain has no agent's channel.
    Absent,
    /// The instance is paused, or was switched off just now.
    NotRunning,
    /// Anything else: the agent's own words, or what broke between it and us.
    Other(Fault),
}

/// Has the agent do something; returns its answer, which is JSON.
pub fn command(
    session: &Session<'_>,
    doing: &str,
    domain: &Domain,
    command: &str,
) -> Result<String, Failure> {
    let mut took = Duration::ZERO;
    let answer = session.call(doing, |_| {
        let _ = raw::set_agent_timeout(domain, PATIENCE);
        let began = Instant::now();
        let answer = domain.qemu_agent_command(command, PATIENCE, 0);
        took = began.elapsed();
        answer
    });
    answer.map_err(|fault| tell_apart(fault, took))
}

/// What a failure is that came after `took`.
fn tell_apart(fault: Fault, took: Duration) -> Failure {
    // libvirt counts whole milliseconds of the time of day, and so may give up a little early.
    let patience = Duration::from_secs(PATIENCE.unsigned_abs().into()).mul_f32(0.75);
    match fault.code {
        sys::VIR_ERR_AGENT_COMMAND_TIMEOUT => Failure::Silent,
        // libvirt says this too where even its own greeting before the command was not answered: then it has waited.
        sys::VIR_ERR_AGENT_UNRESPONSIVE if took < patience => Failure::Broken,
        sys::VIR_ERR_AGENT_UNRESPONSIVE => Failure::Deaf,
        sys::VIR_ERR_ARGUMENT_UNSUPPORTED => Failure::Absent,
        sys::VIR_ERR_OPERATION_INVALID => Failure::NotRunning,
        _ => Failure::Other(fault),
    }
}

/// The domain of an instance that runs and whose agent listens.
///
/// # Errors
/// `NotRunning` or `AgentAbsent` if it does not; `Missing` and `NotOurs` as [`domains::there`].
pub fn listening(
    session: &Session<'_>,
    instance: &InstanceRef,
    doing: &str,
) -> Result<Domain, HypervisorError> {
    let name = &instance.name;
    let domain = domains::there(session, instance, doing)?.domain;
    if !power::is_active(session, name, &domain)? {
        return Err(told(Failure::NotRunning, doing));
    }
    if !is_connected(session, name, &domain)? {
        return Err(told(Failure::Absent, doing));
    }
    Ok(domain)
}

/// What is said of an instance that is off.
pub const OFF: &str = "the instance is not running";

/// A failure in words.
pub fn told(failure: Failure, doing: &str) -> HypervisorError {
    let (kind, text) = match failure {
        Failure::Silent | Failure::Deaf => (FaultKind::AgentSilent, format!("no answer within {PATIENCE} s")),
        Failure::Broken => (FaultKind::AgentBroken, "its guest agent is broken".to_owned()),
        Failure::Absent => (
            FaultKind::AgentAbsent,
            "its guest agent is not connected".to_owned(),
        ),
        Failure::NotRunning => (FaultKind::NotRunning, OFF.to_owned()),
        // Most of it may be the agent's own words.
        Failure::Other(fault) => (fault.error.kind, shown(&fault.error.message, SHOWN)),
    };
    HypervisorError::new(kind, doing, text)
}

/// As [`told`], of an agent whose channel may have gone since it was looked at: one that was refused because it left is not
/// broken.
pub fn looked_at_again(
    failure: Failure,
    session: &Session<'_>,
    name: &str,
    domain: &Domain,
    doing: &str,
) -> HypervisorError {
    let is_absent = matches!(failure, Failure::Broken)
        && is_connected(session, name, domain).is_ok_and(|connected| !connected);
    told(if is_absent { Failure::Absent } else { failure }, doing)
}

/// An answer of the agent's that is none to what it was asked.
pub fn nonsense(answer: &str, doing: &str) -> HypervisorError {
    let answer = shown(answer, SHOWN);
    let text = format!("its agent's answer makes no sense: {answer}");
    HypervisorError::new(FaultKind::Other, doing, text)
}

/// Asks through the agent. Not by `virDomainShutdown`, which would hold one of the connection's few places until the
/// guest is off.
pub fn shut_down(session: &Session<'_>, doing: &str, domain: &Domain) -> bool {
    let ask = r#"{"execute":"guest-shutdown","arguments":{"mode":"powerdown"}}"#;
    match command(session, doing, domain, ask) {
        Ok(_) => true,
        // It heard and has nothing to answer.
        Err(failure) => matches!(failure, Failure::Silent),
    }
}

/// See [`crate::hypervisor::Hypervisor::ping`].
pub fn ping(session: &Session<'_>, instance: &InstanceRef) -> Result<(), HypervisorError> {
    let doing = format!("asking the guest agent of {}", instance.name);
    let domain = listening(session, instance, &doing)?;
    match command(session, &doing, &domain, r#"{"execute":"guest-ping"}"#) {
        Ok(_) => Ok(()),
        Err(failure) => Err(looked_at_again(failure, session, &instance.name, &domain, &doing)),
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
        for error in [told(Failure::Other(failed), "asking"), nonsense(&wild, "asking")] {
            let said = &error.message;
            assert!(said.contains("internal error:  [2Jxxx"), "{}", said.len());
            assert!(said.len() < 300, "{}", said.len());
            assert!(!said.contains(char::is_control), "{said:?}");
        }
    }

    #[test]
    fn an_agent_that_is_refused_at_once_is_broken_and_one_that_was_waited_for_is_silent() {
        let failed = |code, took| {
            let fault = Fault {
                code,
                error: HypervisorError::new(FaultKind::Other, "asking", "whatever it says"),
            };
            told(tell_apart(fault, Duration::from_millis(took)), "asking").kind
        };
        let unresponsive = sys::VIR_ERR_AGENT_UNRESPONSIVE;
        assert_eq!(failed(unresponsive, 3), FaultKind::AgentBroken);
        assert_eq!(
            failed(unresponsive, 900),
            FaultKind::AgentBroken,
            "over a long way"
        );
        assert_eq!(failed(unresponsive, 1999), FaultKind::AgentSilent);
        assert_eq!(failed(unresponsive, 2001), FaultKind::AgentSilent);
        let timeout = sys::VIR_ERR_AGENT_COMMAND_TIMEOUT;
        assert_eq!(failed(timeout, 2001), FaultKind::AgentSilent);
        let no_channel = sys::VIR_ERR_ARGUMENT_UNSUPPORTED;
        assert_eq!(failed(no_channel, 3), FaultKind::AgentAbsent);
        let off = sys::VIR_ERR_OPERATION_INVALID;
        assert_eq!(failed(off, 3), FaultKind::NotRunning);
        assert_eq!(failed(sys::VIR_ERR_INTERNAL_ERROR, 3), FaultKind::Other);
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
