//! Settling a migration that was cut short: which of the two hosts has the instance, and what the other is to be rid of.

use std::thread;
use std::time::{Duration, Instant};

use virt::domain::{Domain, DomainPausedReason, DomainState, DomainStateReason};
use virt::enumutil::Enum;
use virt::sys;

use super::{End, LOOK, Way, are_apart};
use crate::hypervisor::libvirt::connection::Session;
use crate::hypervisor::libvirt::domains::{self, Owned, own_volumes};
use crate::hypervisor::libvirt::fault::optional;
use crate::hypervisor::libvirt::volumes::{Pool, Proof};
use crate::hypervisor::libvirt::{delete, logs, power, raw, uses};
use crate::hypervisor::{FaultKind, HypervisorError, Settled, Stage};
use crate::inventory::Metadata;

/// How long libvirt may take to put both sides in order after a migration was broken off.
const AFTERMATH: Duration = Duration::from_secs(10);

/// How a domain is, as far as it matters on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// Its guest runs.
    On,
    /// It stands still for a migration.
    Held,
    /// It stands still for another reason.
    Paused,
    /// It is off.
    Off,
}

/// How the domain is.
pub(super) fn run_of(session: &Session<'_>, domain: &Domain, doing: &str) -> Result<Run, HypervisorError> {
    let (state, reason) = session.call(doing, |_| domain.state())?;
    let Enum::Known(state) = state else {
        // The crate says so as well when the call itself has failed.
        let text = "libvirt does not tell how its domain is";
        return Err(HypervisorError::new(FaultKind::Other, doing, text));
    };
    Ok(match (state, reason) {
        (DomainState::Shutoff | DomainState::Crashed, _) => Run::Off,
        (DomainState::Paused, Enum::Known(DomainStateReason::Paused(why)))
            if why.is(DomainPausedReason::Migration) =>
        {
            Run::Held
        }
        (DomainState::Paused | DomainState::PMSuspended, _) => Run::Paused,
        _ => Run::On,
    })
}

/// The domain on the target.
enum Arrival {
    /// There is none.
    None,
    /// It is libvirt's still: not all of it has arrived.
    Underway(Owned),
    /// All of it has arrived, and it has not run there yet.
    Held(Owned),
    /// It is there for good.
    Done(Owned),
}

fn arrival(way: &Way<'_>, there: &Session<'_>) -> Result<Arrival, HypervisorError> {
    let Some(owned) = domains::find(there, way.instance)? else {
        return Ok(Arrival::None);
    };
    let is_defined = there.call(way.doing(), |_| owned.domain.is_persistent());
    match optional(is_defined, sys::VIR_ERR_NO_DOMAIN)? {
        None => return Ok(Arrival::None),
        Some(false) => return Ok(Arrival::Underway(owned)),
        Some(true) => {}
    }
    let is_on = run_of(there, &owned.domain, &way.doing())? == Run::On;
    Ok(match owned.meta.moving_to {
        Some(_) if !is_on => Arrival::Held(owned),
        _ => Arrival::Done(owned),
    })
}

/// See [`crate::hypervisor::Hosts::settle`]. It does not stop when asked to: half settled is worse than late.
pub fn settle(way: &Way<'_>) -> Result<Settled, HypervisorError> {
    // Anew, for a connection may have broken on the way.
    let here = &way.from.host.work.session(way.pulse)?;
    let there = &way.to.host.work.session(way.pulse)?;
    let Some(mut leaving) = domains::find(here, way.instance)? else {
        return match arrival(way, there)? {
            Arrival::None => Err(way.refuse(FaultKind::Missing, "it is on neither host")),
            Arrival::Underway(_) => {
                Err(way.refuse(FaultKind::Other, "it is gone before all of it has arrived"))
            }
            Arrival::Held(arrived) | Arrival::Done(arrived) => arrive(way, here, there, arrived, None),
        };
    };
    if leaving.meta.moving_to.as_ref() != Some(way.to.name) {
        let elsewhere = domains::not_moving(&leaving.meta, &way.doing());
        return match (elsewhere, domains::find(there, way.instance)?) {
            (Err(error), _) => Err(error),
            (Ok(()), None) => Ok(Settled::Stayed),
            (Ok(()), Some(_)) => {
                let text = "it is on both hosts and was not being moved; both were left alone";
                Err(way.refuse(FaultKind::Other, text))
            }
        };
    }
    let arrival = calm(way, here, there, &leaving)?;
    let run = run_of(here, &leaving.domain, &way.doing())?;
    match (run, arrival) {
        (Run::On, Arrival::Done(_)) => {
            let text = "it runs on both hosts; stop the one that is not wanted by hand";
            Err(way.refuse(FaultKind::Other, text))
        }
        (_, Arrival::Done(arrived)) | (Run::Held, Arrival::Held(arrived)) => {
            power::destroy(here, &way.instance.name, &leaving.domain)?;
            delete::undefine(here, &way.instance.name, &leaving.domain)?;
            arrive(way, here, there, arrived, Some(&leaving.meta))
        }
        (run, other) => {
            remove(way, here, there, &leaving.meta, other)?;
            if run == Run::Held {
                here.call(format_args!("letting {} go on", way.instance.name), |_| {
                    leaving.domain.resume()
                })?;
            }
            leaving.meta.moving_to = None;
            leaving.meta.epoch = Some(way.instance.epoch);
            domains::write(here, &leaving.domain, &leaving.meta)?;
            Ok(Settled::Stayed)
        }
    }
}

/// Has libvirt end what it is still at, and looks at what has arrived by then.
fn calm(
    way: &Way<'_>,
    here: &Session<'_>,
    there: &Session<'_>,
    leaving: &Owned,
) -> Result<Arrival, HypervisorError> {
    let began = Instant::now();
    loop {
        // One that is off has no job, and says so with an error.
        let job = here
            .call(way.doing(), |_| raw::job(&leaving.domain))
            .unwrap_or(None);
        if job.is_some() {
            // It may end by itself meanwhile.
            let _ = here.call(way.doing(), |_| raw::abort_job(&leaving.domain));
        }
        let arrival = arrival(way, there)?;
        let is_calm = job.is_none() && !matches!(arrival, Arrival::Underway(_));
        if is_calm || began.elapsed() > AFTERMATH {
            return Ok(arrival);
        }
        thread::sleep(LOOK);
    }
}

/// Takes away what there is of the instance on the target.
fn remove(
    way: &Way<'_>,
    here: &Session<'_>,
    there: &Session<'_>,
    leaving: &Metadata,
    arrival: Arrival,
) -> Result<(), HypervisorError> {
    let mut notes = vec![leaving.clone()];
    if let Arrival::Underway(domain) | Arrival::Held(domain) | Arrival::Done(domain) = arrival {
        power::destroy(there, &way.instance.name, &domain.domain)?;
        delete::undefine(there, &way.instance.name, &domain.domain)?;
        notes.push(domain.meta);
    }
    delete_volumes(way, (there, way.to), (here, way.from), &notes)
}

/// Has the guest go on on the target, which it is alone on now, and takes away what is left on the source.
fn arrive(
    way: &Way<'_>,
    here: &Session<'_>,
    there: &Session<'_>,
    mut arrived: Owned,
    left: Option<&Metadata>,
) -> Result<Settled, HypervisorError> {
    if arrived.meta.moving_to.is_none() && left.is_none() {
        // It went long ago. Whatever lies on the source now was not left by this.
        return Ok(Settled::Moved);
    }
    let run = run_of(there, &arrived.domain, &way.doing())?;
    if arrived.meta.moving_to.is_some() && matches!(run, Run::Held | Run::Paused) {
        there.call(format_args!("letting {} go on", way.instance.name), |_| {
            arrived.domain.resume()
        })?;
    }
    let mut notes = vec![arrived.meta.clone()];
    notes.extend(left.cloned());
    if arrived.meta.moving_to.take().is_some() {
        arrived.meta.epoch = Some(way.instance.epoch);
        domains::write(there, &arrived.domain, &arrived.meta)?;
    }
    way.pulse.stage(Stage::DeleteDisks);
    delete_volumes(way, (here, way.from), (there, way.to), &notes)?;
    logs::delete(&way.from.host.logs, here, &way.instance.name);
    Ok(Settled::Moved)
}

/// Takes away the volumes of the instance at one end, where it is no more. What can't be proved to be unused stays: the record
/// has noted the move, and whoever plans next has it swept.
fn delete_volumes(
    way: &Way<'_>,
    (session, end): (&Session<'_>, End<'_>),
    (other, at): (&Session<'_>, End<'_>),
    notes: &[Metadata],
) -> Result<(), HypervisorError> {
    let pool = Pool::open(session, &end.host.pool)?;
    let mut names: Vec<&String> = notes.iter().flat_map(|n| own_volumes(way.instance, n)).collect();
    names.sort();
    names.dedup();
    let mut there = Vec::new();
    for name in names {
        if pool.find(name)?.is_some() {
            there.push(name);
        }
    }
    if there.is_empty() {
        return Ok(());
    }
    // In one folder they are the very disks that the instance has open at the other end.
    are_apart(way, &Pool::open(other, &at.host.pool)?, &pool)?;
    let uses = uses::uses(&pool)?;
    if uses.is_shared(end.uri) {
        // What the others of the folder use, this host can't tell.
        return Ok(());
    }
    let proof = Proof::of_nobody(&uses);
    let taken = there.into_iter().map(|name| pool.remove(name, &proof));
    taken
        .filter(|outcome| !matches!(outcome, Err(e) if e.kind == FaultKind::InUse))
        .collect()
}
