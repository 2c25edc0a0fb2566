//! How guests are: what a probe of one says, and what makes it say so.
//!
//! # Panics
//! Those that take a host's or a domain's name panic if it is not there: a test names only what it made.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::Fleet;
use super::call::{Call, Result};
use super::clock::later;
use super::machine::{Agent, Domain, Machine};
use super::owned::{missing, owned};
use super::shared::State;
use crate::answer::Answer;
use crate::hypervisor::{FaultKind, HypervisorError};
use crate::inventory::Power;
use crate::model::ImageDigest;
use crate::plan::action::InstanceRef;

/// Why a guest doesn't answer, or not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ill {
    /// It is off, paused, or its host has no power.
    Off,
    /// Nothing gets through to it.
    Cut,
    /// It is on its way up or down.
    Booting,
    /// It says that it can't serve.
    Unhealthy,
}

impl Ill {
    /// What a load balancer's check meets.
    const fn words(self) -> &'static str {
        match self {
            Self::Off | Self::Cut => "no answer within 2 s",
            Self::Booting => "connection refused",
            Self::Unhealthy => "503 Service Unavailable",
        }
    }

    /// What a probe over the network meets.
    fn met(self) -> Answer {
        let within = Duration::from_secs(2);
        match self {
            Self::Off | Self::Cut => Answer::Silent { within },
            Self::Booting => Answer::ConnectionRefused,
            Self::Unhealthy => Answer::status(503, Some("Service Unavailable"), None),
        }
    }
}

fn look(state: &State, machine: &Machine, domain: &Domain, now: Timestamp) -> std::result::Result<(), Ill> {
    if machine.faults.dead {
        return Err(Ill::Off);
    }
    let of_broken = |volume: &String| {
        let image = machine.volumes.get(volume).and_then(|v| v.image.as_ref());
        image.is_some_and(|image| state.broken.contains(image))
    };
    match domain.power {
        Power::Off | Power::Crashed | Power::Paused => Err(Ill::Off),
        _ if machine.faults.cut => Err(Ill::Cut),
        Power::ShuttingDown => Err(Ill::Booting),
        Power::Running if now < later(domain.started_at, machine.made_of.boot_takes) => Err(Ill::Booting),
        Power::Running if domain.unhealthy || domain.disks.iter().any(of_broken) => Err(Ill::Unhealthy),
        Power::Running => Ok(()),
    }
}

/// What a check over the network says of the guest of that name, wherever it runs: `Err` with what it met.
pub(super) fn by_name(state: &State, name: &str, now: Timestamp) -> std::result::Result<(), &'static str> {
    let mut said = Err(Ill::Off);
    for machine in state.machines.values() {
        for domain in machine.domains.values().filter(|d| d.name == name) {
            said = said.or(look(state, machine, domain, now));
        }
    }
    said.map_err(Ill::words)
}

/// See [`crate::hypervisor::Hypervisor::ping`].
pub(super) fn ping(call: &Call<'_>, instance: &InstanceRef) -> Result<()> {
    let doing = format!("asking the guest agent of {}", instance.name);
    let now = call.now();
    let (found, agent) = call.look_at_fleet(&doing, |state, machine| {
        let (domain, _) = owned(machine, instance, &doing)?.ok_or_else(|| missing(&doing))?;
        Ok((look(state, machine, domain, now), domain.agent))
    })?;
    let (kind, text) = match (found, agent) {
        (Err(Ill::Off), _) => (FaultKind::NotRunning, "the instance is not running"),
        (Err(Ill::Booting), _) | (_, Agent::Absent) => {
            (FaultKind::AgentAbsent, "its guest agent is not connected")
        }
        (_, Agent::Broken) => (FaultKind::AgentBroken, "its guest agent is broken"),
        (Err(Ill::Cut | Ill::Unhealthy), _) => (FaultKind::AgentSilent, "no answer within 2 s"),
        (Ok(()), Agent::Well) => return Ok(()),
    };
    Err(HypervisorError::new(kind, doing, text))
}

impl Fleet {
    /// What a probe of the guest with that UUID comes to now. Of two guests with one UUID the healthier answers. Without a
    /// network of this machine's own, nobody does.
    pub fn probe(&self, uuid: Uuid) -> Answer {
        let now = self.shared.clock.now();
        let state = self.shared.lock();
        if state.without_network {
            return Answer::NoRoute;
        }
        let mut said = Ill::Off.met();
        for machine in state.machines.values() {
            match machine
                .by_uuid(uuid)
                .map(|domain| look(&state, machine, domain, now))
            {
                Some(Ok(())) => return Answer::status(200, None, None),
                Some(Err(ill)) => said = ill.met(),
                None => {}
            }
        }
        said
    }

    /// The domain's guest fails every probe from now on, or no longer. It is also well again once it is started anew:
    /// by a restart, a reimage, or as another instance.
    pub fn set_unhealthy(&self, host: &str, name: &str, unhealthy: bool) {
        self.machine(host, |m| m.domain(name).unhealthy = unhealthy);
    }

    /// How the domain's guest agent is from now on. It is well again once its guest is started anew.
    pub fn set_agent(&self, host: &str, name: &str, agent: Agent) {
        self.machine(host, |m| m.domain(name).agent = agent);
    }

    /// Takes this machine's own network away, or gives it back: probes find no way, hosts and load balancers are as they
    /// were.
    pub fn set_without_network(&self, without: bool) {
        self.shared.change(|s| s.without_network = without);
    }

    /// Guests whose disk was made of the image never get healthy, on any host.
    pub fn break_image(&self, digest: &ImageDigest) {
        self.shared.change(|s| s.broken.insert(digest.clone()));
    }

    /// How long the host's guests take from their start until they answer.
    pub fn set_boot_takes(&self, host: &str, time: Duration) {
        self.machine(host, |m| m.made_of.boot_takes = time);
    }
}
