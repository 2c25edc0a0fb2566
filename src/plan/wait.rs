//! What a plan waits on, each kind with its sentence: silence would be a bug.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use crate::names::{InstanceId, Label, StoreId};
use crate::ownership::{Double, Moved, Sight, Strangeness, Stranger};
use crate::plan::report::Ailing;

/// Something that is not done, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "waits_on", rename_all = "kebab-case")]
pub enum Wait {
    /// A host could not be seen; instances known to be on it are left alone and still counted.
    HostUnseen {
        /// Which.
        host: Label,
        /// Why.
        reason: String,
        /// Instances last seen there.
        instances: Vec<InstanceId>,
    },
    /// Instances of this set are managed from another store.
    OtherStore {
        /// Which.
        stores: Vec<StoreId>,
    },
    /// No host has room for more.
    NoRoom {
        /// Instances that could not be placed.
        missing: usize,
        /// Each host with what it lacks.
        hosts: Vec<(Label, String)>,
    },
    /// Strict spread forbids to place them.
    StrictSpread {
        /// Instances that would have to be placed.
        missing: usize,
        /// The fault domain that can take no more.
        domain: Label,
        /// Why it can't.
        reason: String,
        /// Largest skew allowed.
        max_skew: u32,
    },
    /// A range of addresses is used up.
    NoAddress {
        /// Instances without one.
        missing: usize,
        /// Index of the network card.
        nic: usize,
    },
    /// A host on which something failed in this run is not used for more.
    HostShunned {
        /// Which.
        host: Label,
        /// What failed.
        error: String,
    },
    /// Something was tried in this run and failed.
    Failed {
        /// Where.
        host: Label,
        /// On what.
        subject: String,
        /// What was tried.
        verb: &'static str,
        /// What was said.
        error: String,
    },
    /// More instances are protected from scale-in than capacity leaves room for: none is taken.
    Protected {
        /// How many are too many.
        surplus: usize,
        /// The protected ones.
        instances: Vec<InstanceId>,
    },
    /// The rollout waits for `upgrade resume`.
    RolloutPaused {
        /// Who paused it.
        by: String,
    },
    /// The rollout has failed and waits for a decision.
    RolloutStopped {
        /// Why.
        reason: String,
    },
    /// Instances of the batch under way are not healthy yet.
    BatchHealth {
        /// The batch.
        batch: u32,
        /// Those that are waited for.
        instances: Vec<Ailing>,
    },
    /// Instances of the batch under way are on hosts that can't be seen.
    BatchUnseen {
        /// The batch.
        batch: u32,
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// Outdated instances are on hosts that can't be seen: the rollout goes on when they are back.
    RolloutUnseen {
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// One more may only be taken away when more are healthy.
    HealthBudget {
        /// How many are.
        healthy: usize,
        /// How many must be.
        needed: usize,
    },
    /// Before the next batch it must be known how these are.
    Settling {
        /// Which.
        instances: Vec<Ailing>,
    },
    /// `upgrade.pause` between two batches.
    PauseBetweenBatches {
        /// When it is over.
        until: Timestamp,
    },
    /// The rollout holds at a checkpoint.
    Checkpoint {
        /// Until when.
        until: Timestamp,
    },
    /// What is upgraded is watched for a while.
    Bake {
        /// Until when.
        until: Timestamp,
    },
    /// Outdated instances that are protected from everything, or stopped.
    Unwilling {
        /// Which.
        instances: Vec<InstanceId>,
        /// Until when they are waited for; `None`: they are left as they are.
        until: Option<Timestamp>,
    },
    /// Instances on a host that is being drained are protected from everything, or stopped: they stay.
    Undrainable {
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// A host is drained when the rollout has ended.
    DrainAfterRollout,
    /// A move was cut short, and one of its hosts can't be seen: which of them has the instance can't be told.
    Moving {
        /// Which.
        instance: InstanceId,
        /// The host it leaves.
        from: Label,
        /// The host it goes to.
        to: Label,
    },
    /// An instance that is off was started before and did not stay on: it is started again, ever more slowly.
    StartBackoff {
        /// Which.
        instance: InstanceId,
        /// Where.
        host: Label,
        /// Whether it is off because it crashed.
        crashed: bool,
        /// How often it was started.
        tries: u32,
        /// When it is started again.
        until: Timestamp,
    },
    /// So many instances are broken that repairing them would not help.
    Outage {
        /// Instances of the set.
        total: usize,
        /// `repair.max_unhealthy`.
        limit: String,
        /// Those that are not healthy.
        instances: Vec<Ailing>,
    },
    /// Repair has suspended itself.
    RepairSuspended {
        /// Why.
        reason: String,
        /// Instances that would be repaired.
        instances: Vec<Ailing>,
    },
    /// Broken instances that may still mend by themselves.
    RepairGrace {
        /// When they are repaired.
        until: Timestamp,
        /// Which.
        instances: Vec<Ailing>,
    },
    /// Instances were repaired and are not healthy yet.
    RepairHealth {
        /// Which.
        instances: Vec<Ailing>,
    },
    /// Broken instances that have just answered well.
    RepairUnsure {
        /// Which.
        instances: Vec<Ailing>,
    },
    /// Broken instances whose turn has not come.
    RepairBudget {
        /// How many are repaired at once.
        most: usize,
        /// Which.
        instances: Vec<Ailing>,
    },
    /// A broken instance that was repaired before, to no avail.
    RepairBackoff {
        /// Which.
        instance: Ailing,
        /// How often.
        tries: u32,
        /// When it is repaired again.
        until: Timestamp,
    },
    /// Broken instances that are protected from everything.
    RepairProtected {
        /// Which.
        instances: Vec<Ailing>,
    },
    /// A host is out of sight, but not for long enough to be given up.
    HostLost {
        /// Which.
        host: Label,
        /// When it is given up.
        until: Timestamp,
        /// Instances that are given up with it.
        instances: Vec<InstanceId>,
    },
    /// A host was given up, and has not come back.
    HostGivenUp {
        /// Which.
        host: Label,
        /// When.
        at: Timestamp,
        /// Instances that were given up with it.
        instances: Vec<InstanceId>,
    },
    /// A host is out of sight for long, and its guests still answer.
    HostServes {
        /// Which.
        host: Label,
        /// Since when it is out of sight.
        since: Timestamp,
        /// Those that answer.
        instances: Vec<InstanceId>,
    },
    /// Instances of a host that is given up are protected from everything.
    HostProtected {
        /// Which host.
        host: Label,
        /// Which instances.
        instances: Vec<InstanceId>,
    },
    /// Instances take no more clients and still have some: something is done to them when those are gone, or have had
    /// their time.
    Leaving {
        /// Which.
        instances: Vec<InstanceId>,
        /// Connections they still have, as far as that is known.
        connections: u64,
        /// When the last of them has had its time.
        until: Timestamp,
    },
    /// Instances that serve are left as they are, since no load balancer can be told to send them no more clients.
    NotTakenAway {
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// Instances take clients once they are healthy.
    Joining {
        /// Which.
        instances: Vec<Ailing>,
    },
    /// Instances take no clients, since they are not healthy.
    NotServing {
        /// Which.
        instances: Vec<Ailing>,
    },
    /// Instances take no clients, since nobody knows where to send them.
    NoAddressKnown {
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// A load balancer could not be seen.
    BalancerUnseen {
        /// Which.
        balancer: String,
        /// Why.
        reason: String,
    },
    /// A load balancer or a discovery file did not do what it was told in this run.
    BalancerFailed {
        /// Which, as messages call it.
        balancer: String,
        /// What was said.
        error: String,
    },
    /// A load balancer or a discovery file that the definition has dropped could not be told of it.
    DroppedUntold {
        /// Which, as messages call it.
        balancer: String,
        /// Why.
        error: String,
    },
    /// Every id has been given out.
    NoIds,
    /// Notes on hosts were written under a record that this one knows nothing of, or have ids that it has not given out.
    RecordOld {
        /// Which, each with its host.
        instances: Vec<(InstanceId, Label)>,
        /// The id that the record would give out next.
        next: InstanceId,
    },
    /// An instance is there twice: nothing is done to either.
    Double(Double),
    /// A domain looks like an instance and is none: it is left alone.
    Stranger(Stranger),
    /// Somebody has moved an instance.
    MovedByHand(Moved),
    /// An instance's domain was restored or reverted: its note is older than the last that was written.
    NoteReverted(Sight),
    /// Volumes have the names of an instance's, and the record says nothing of them: they are left alone.
    Unclaimed {
        /// Where.
        host: Label,
        /// Their names.
        volumes: Vec<String>,
    },
    /// An instance is paused.
    Paused {
        /// Which.
        instance: InstanceId,
        /// Where.
        host: Label,
    },
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    crate::names::list(items, 8)
}

fn clock(at: Timestamp) -> impl fmt::Display {
    at.strftime("%H:%M:%SZ")
}

fn times(n: u32, what: &str) -> String {
    times_u64(u64::from(n), what)
}

fn times_u64(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

const fn instances_noun(instances: &[InstanceId]) -> &'static str {
    if instances.len() == 1 {
        "instance"
    } else {
        "instances"
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoIds => f.write_str("every id has been given out: make another set"),
            Self::RecordOld { instances, next } => record_old(f, instances, *next),
            Self::Double(double) => {
                let places: Vec<String> = (double.places.iter())
                    .map(|p| format!("{} ({})", p.host, if p.runs { "runs" } else { "off" }))
                    .collect();
                write!(
                    f,
                    "instance {0} is there twice, on {1}: nothing is done to either; vmss instance settle {0} --keep HOST \
                     ends it",
                    double.id,
                    places.join(" and ")
                )
            }
            Self::Stranger(stranger) => self::stranger(f, stranger),
            Self::MovedByHand(moved) => write!(
                f,
                "instance {} was moved by hand from {} to {}: it is the set's there",
                moved.id, moved.from, moved.to
            ),
            Self::NoteReverted(sight) => write!(
                f,
                "instance {} on {} was restored or reverted: its note is older than the record, which counts",
                sight.id, sight.host
            ),
            Self::Unclaimed { host, volumes } => match volumes.as_slice() {
                [one] => write!(
                    f,
                    "volume {one} on {host} is no living instance's: left alone; vmss state sweep {one} deletes it"
                ),
                several => write!(
                    f,
                    "{} volumes on {host} are no living instance's: left alone; vmss state sweep --all, or NAME, deletes \
                         them ({})",
                    several.len(),
                    crate::names::list(several, 2)
                ),
            },
            Self::HostUnseen {
                host,
                reason,
                instances,
            } => {
                write!(f, "host {host} was not seen: {reason}")?;
                match instances.len() {
                    0 => Ok(()),
                    1 => write!(
                        f,
                        "; instance {} there is left alone and still counted",
                        list(instances)
                    ),
                    _ => write!(
                        f,
                        "; instances {} there are left alone and still counted",
                        list(instances)
                    ),
                }
            }
            Self::OtherStore { stores } => write!(
                f,
                "instances of this set are managed from another store ({}): nothing is done from here",
                list(stores)
            ),
            Self::NoRoom { missing, hosts } => {
                let hosts: Vec<String> = hosts.iter().map(|(h, why)| format!("{h}: {why}")).collect();
                write!(f, "no room for {missing} more ({})", list(&hosts))
            }
            Self::StrictSpread {
                missing,
                domain,
                reason,
                max_skew,
            } => write!(
                f,
                "strict spread refuses {missing} more: fault domain {domain} can take none ({reason}) and the \
                 others may not be more than {max_skew} ahead of it"
            ),
            Self::NoAddress { missing, nic } => {
                write!(f, "no address left for {missing} more on network card {nic}")
            }
            Self::HostShunned { host, error } => {
                write!(
                    f,
                    "host {host} gets no more in this run, since it failed: {error}"
                )
            }
            Self::Failed {
                host,
                subject,
                verb,
                error,
            } => {
                write!(
                    f,
                    "{verb} {subject} on {host} failed and is not tried again in this run: {error}"
                )
            }
            Self::Protected { surplus, instances } => {
                let (noun, are) = match instances.len() {
                    1 => ("instance", "is"),
                    _ => ("instances", "are"),
                };
                write!(
                    f,
                    "{surplus} too many, but {noun} {} {are} protected from scale-in: none is taken",
                    list(instances)
                )
            }
            Self::RolloutPaused { by } => write!(f, "the rollout is paused by {by}"),
            Self::RolloutStopped { reason } => write!(f, "the rollout has stopped: {reason}"),
            Self::BatchHealth { batch, instances } => {
                write!(
                    f,
                    "rollout batch {batch} waits until it is healthy: {}",
                    list(instances)
                )
            }
            Self::BatchUnseen { batch, instances } => write!(
                f,
                "rollout batch {batch} waits for instances {} on hosts that can't be seen",
                list(instances)
            ),
            Self::RolloutUnseen { instances } => write!(
                f,
                "the rollout waits for instances {} on hosts that can't be seen",
                list(instances)
            ),
            Self::HealthBudget { healthy, needed } => write!(
                f,
                "the health budget: {healthy} are healthy, and another may be taken away when {needed} are"
            ),
            Self::Settling { instances } => {
                write!(
                    f,
                    "the next batch waits until it is known how these are: {}",
                    list(instances)
                )
            }
            Self::PauseBetweenBatches { until } => {
                write!(
                    f,
                    "the pause between batches ends at {}",
                    until.strftime("%H:%M:%SZ")
                )
            }
            Self::Checkpoint { until } => write!(
                f,
                "the rollout holds at a checkpoint until {}; vmss upgrade pause, cancel or rollback if it should not go on",
                until.strftime("%Y-%m-%d %H:%M:%SZ")
            ),
            Self::Bake { until } => write!(
                f,
                "what is upgraded is watched until {}",
                until.strftime("%Y-%m-%d %H:%M:%SZ")
            ),
            Self::Unwilling { instances, until } => {
                write!(
                    f,
                    "{} of an older revision, protected or stopped: ",
                    match instances.as_slice() {
                        [one] => format!("instance {one} is"),
                        several => format!("instances {} are", list(several)),
                    }
                )?;
                match until {
                    Some(until) => write!(f, "waited for until {}", until.strftime("%H:%M:%SZ")),
                    None => write!(f, "left alone"),
                }
            }
            Self::Undrainable { instances } => write!(
                f,
                "instances {} are on a host that is being drained and are protected or stopped: they stay",
                list(instances)
            ),
            Self::Moving { instance, from, to } => write!(
                f,
                "instance {instance} was being moved from {from} to {to}, and one of them can't be seen: nothing is done \
                 to it until both are"
            ),
            Self::DrainAfterRollout => write!(f, "the host is drained when the rollout has ended"),
            Self::StartBackoff {
                instance,
                host,
                crashed,
                tries,
                until,
            } => write!(
                f,
                "instance {instance} on {host} {} again after {}: not started again before {}, or by vmss repair --resume",
                if *crashed { "has crashed" } else { "is off" },
                times(*tries, "start"),
                clock(*until)
            ),
            Self::Outage {
                total,
                limit,
                instances,
            } => write!(
                f,
                "{} of {total} instances {} not healthy, more than repair.max_unhealthy = {limit} allows: this looks \
                 like an outage rather than broken instances, and none is repaired until it is over ({})",
                instances.len(),
                if instances.len() == 1 { "is" } else { "are" },
                list(instances)
            ),
            Self::RepairSuspended { reason, instances } => {
                write!(f, "repair is suspended: {reason}; vmss repair --resume goes on")?;
                if instances.is_empty() {
                    return Ok(());
                }
                write!(f, " (it would repair: {})", list(instances))
            }
            Self::RepairGrace { until, instances } => write!(
                f,
                "{}: not repaired before {} (repair.grace_period)",
                list(instances),
                clock(*until)
            ),
            Self::RepairHealth { instances } => {
                write!(
                    f,
                    "repaired, and not known to be healthy yet: {}",
                    list(instances)
                )
            }
            Self::RepairUnsure { instances } => {
                write!(
                    f,
                    "not repaired now, since the last answer was good: {}",
                    list(instances)
                )
            }
            Self::RepairBudget { most, instances } => write!(
                f,
                "repair takes {most} at a time (repair.max_concurrent); waiting for {} turn: {}",
                if instances.len() == 1 { "its" } else { "their" },
                list(instances)
            ),
            Self::RepairBackoff {
                instance,
                tries,
                until,
            } => write!(
                f,
                "{instance} after {}: not repaired again before {}, or by vmss repair --resume",
                times(*tries, "repair"),
                clock(*until)
            ),
            Self::RepairProtected { instances } => {
                write!(f, "protected, and so not repaired: {}", list(instances))
            }
            Self::HostLost {
                host,
                until,
                instances,
            } => write!(
                f,
                "host {host} is not given up before {} (repair.host_lost_after): then others take the place of {} {} \
                 there, unless they still answer",
                clock(*until),
                instances_noun(instances),
                list(instances)
            ),
            Self::HostGivenUp { host, at, instances } => write!(
                f,
                "host {host} was given up at {} with {} {}, which {} deleted when it is back; mend it, or take it out of \
                 the definition",
                clock(*at),
                instances_noun(instances),
                list(instances),
                if instances.len() == 1 { "is" } else { "are" }
            ),
            Self::HostServes {
                host,
                since,
                instances,
            } => write!(
                f,
                "host {host} has been out of sight since {}, but {} {} there still {}: left alone",
                clock(*since),
                instances_noun(instances),
                list(instances),
                if instances.len() == 1 { "answers" } else { "answer" }
            ),
            Self::HostProtected { host, instances } => write!(
                f,
                "host {host} is out of sight for long, but {} {} there {} protected: not replaced",
                instances_noun(instances),
                list(instances),
                if instances.len() == 1 { "is" } else { "are" }
            ),
            Self::Leaving {
                instances,
                connections,
                until,
            } => {
                let (noun, verb) = match instances.len() {
                    1 => ("instance", "takes"),
                    _ => ("instances", "take"),
                };
                let ids = crate::names::ranges(instances.iter().map(|id| id.0));
                write!(f, "{noun} {ids} {verb} no new clients; ")?;
                match connections {
                    0 => write!(f, "the next step comes at {} at the latest", clock(*until)),
                    n => write!(
                        f,
                        "{} may end until {}",
                        times_u64(*n, "connection"),
                        clock(*until)
                    ),
                }
            }
            Self::NotTakenAway { instances } => write!(
                f,
                "{} {} left as {}: clients could not be sent elsewhere",
                instances_noun(instances),
                list(instances),
                if instances.len() == 1 { "it is" } else { "they are" }
            ),
            Self::Joining { instances } => match instances.as_slice() {
                [one] => write!(f, "takes clients once healthy: {one}"),
                several => {
                    let ids = crate::names::ranges(several.iter().map(|a| a.instance.0));
                    write!(f, "take clients once healthy: instances {ids}")
                }
            },
            Self::NotServing { instances } => {
                write!(
                    f,
                    "the load balancer sends no clients, since not healthy: {}",
                    list(instances)
                )
            }
            Self::NoAddressKnown { instances } => write!(
                f,
                "the load balancer sends no clients to {} {}: no address is known",
                instances_noun(instances),
                list(instances)
            ),
            Self::BalancerUnseen { balancer, reason } => write!(
                f,
                "load balancer {balancer} was not seen: {reason}; it is brought level when it is back"
            ),
            Self::BalancerFailed { balancer, error } => {
                write!(
                    f,
                    "{balancer} is told no more in this run, since it failed: {error}"
                )
            }
            Self::DroppedUntold { balancer, error } => write!(
                f,
                "{balancer}, which the definition no longer has, may still know the set: {error}; the next command tries \
                 again, vmss lb sync --forget-dropped gives up"
            ),
            Self::Paused { instance, host } => write!(
                f,
                "instance {instance} on {host} is paused (by a person, or by an I/O error such as a full disk): it \
                 is left as it is"
            ),
        }
    }
}

fn record_old(
    f: &mut fmt::Formatter<'_>,
    instances: &[(InstanceId, Label)],
    next: InstanceId,
) -> fmt::Result {
    let named: Vec<String> = instances
        .iter()
        .map(|(id, host)| format!("{id} on {host}"))
        .collect();
    let (noun, are) = if named.len() == 1 {
        ("instance", "is")
    } else {
        ("instances", "are")
    };
    write!(
        f,
        "{noun} {} {are} newer than the record, whose next id is {next}: nothing is changed; vmss state catch-up brings it \
         level, or vmss instance disown ID if its note lies",
        crate::names::list(&named, 4)
    )
}

fn stranger(f: &mut fmt::Formatter<'_>, stranger: &Stranger) -> fmt::Result {
    write!(f, "domain {} on {} ", stranger.name, stranger.host)?;
    let id = stranger
        .id
        .map_or_else(|| "an instance".to_owned(), |id| format!("instance {id}"));
    let adopt = stranger
        .id
        .map_or_else(String::new, |id| format!("vmss instance adopt {id}"));
    match stranger.why {
        Strangeness::Copied => write!(f, "has the note of {id}, which is another domain: left alone"),
        Strangeness::Renamed => write!(
            f,
            "is what {id} was, under another name: left alone; under its own name again, {adopt} takes it in"
        ),
        Strangeness::NoNote => write!(f, "has the UUID of {id}, and no note of vmss: left alone"),
        Strangeness::Forgotten => write!(
            f,
            "says that it is {id}, which the record no longer has: left alone; {adopt} takes it in"
        ),
        Strangeness::Beyond => write!(
            f,
            "says that it is {id}, which the record has not made: left alone"
        ),
        Strangeness::Disowned => write!(
            f,
            "was disowned: left alone; vmss instance disown {} --undo takes that back",
            stranger.uuid
        ),
        Strangeness::Elsewhere => write!(
            f,
            "is {id}, which the record has on a host that can't be seen: left alone; if it is only here, {adopt} takes it in"
        ),
    }
}
