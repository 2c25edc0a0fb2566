//! What a plan waits on, each kind with its sentence: silence would be a bug.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;

use crate::addresses::Refused;
use crate::model::Disruption;
use crate::names::{InstanceId, Label, StoreId};
use crate::ownership::{Double, Moved, Place, Sight, Strangeness, Stranger, Twins};
use crate::plan::change::{Because, Limit};
use crate::plan::loss::Disks;
use crate::plan::report::Ailing;

/// An address that an instance claims and is not reached at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RefusedAddress {
    /// Which instance.
    pub instance: InstanceId,
    /// The address.
    pub address: IpAddr,
    /// Why not.
    pub why: Refused,
}

impl fmt::Display for RefusedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instance {} at {}: {}", self.instance, self.address, self.why)
    }
}

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
    /// A host was seen, and its pool could not be: the instances there live on, and nothing is done to their disks.
    PoolUnseen {
        /// The host.
        host: Label,
        /// The pool's name.
        pool: String,
        /// Why.
        reason: String,
        /// Instances there.
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
        /// Those that are there twice: nothing is done to them either.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        twice: Vec<InstanceId>,
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
    /// Instances of the batch under way are on hosts that can't be seen, or whose pool can't be.
    BatchUnseen {
        /// The batch.
        batch: u32,
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// Outdated instances are on hosts that can't be seen, or whose pool can't be: the rollout goes on when they are back.
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
    /// Outdated instances need more than what was asked for allows: they stay as they are.
    BeyondLimits {
        /// Which.
        instances: Vec<InstanceId>,
        /// Where they are.
        hosts: Vec<Label>,
        /// What they need.
        needs: Disruption,
        /// Why no less would do.
        because: Because,
        /// What forbids it.
        limit: Limit,
        /// The data disks that they have together.
        data_disks: Disks,
    },
    /// Instances on a host that is being drained are protected from everything, or stopped: they stay.
    Undrainable {
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// An instance is to be moved to a host that has volumes of its name already: whoever put them there may need them.
    InTheWay {
        /// Which.
        instance: InstanceId,
        /// The host it would go to.
        host: Label,
        /// One of the volumes.
        volume: String,
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
    /// Broken instances that can't be asked now.
    RepairUnheard {
        /// Which.
        instances: Vec<Ailing>,
    },
    /// Instances whose guest agents libvirt refuses at once.
    AgentBroken {
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// Instances that run and whose guest agents are not connected.
    AgentAbsent {
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// Addresses that instances claim and that they may not have: nobody is sent there, and no probe is.
    AddressesRefused {
        /// Which.
        claims: Vec<RefusedAddress>,
    },
    /// Instances to which no way leads from this machine.
    NoWay {
        /// Which.
        instances: Vec<InstanceId>,
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
    /// Instances would be made anew of a revision that lacks data disks they have: they are left as they are.
    KeepsDisks {
        /// Which.
        instances: Vec<InstanceId>,
        /// The revision.
        revision: u32,
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
        /// Those of them whose volumes stay, since they have data disks.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        keeping: Vec<InstanceId>,
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
    /// Two hosts of the set are one.
    OneHost(Twins),
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
        /// Whether the set is being deleted: afterwards nobody can sweep for it any more.
        #[serde(skip)]
        ends: bool,
    },
    /// No instance reads a shared seed any more, but guests have it in their drives: it goes once they are started anew.
    SeedInUse {
        /// Where.
        host: Label,
        /// The revision that it is of.
        revision: u32,
        /// The seed's volume.
        volume: String,
        /// Names of the domains that have it, as far as they are known.
        by: Vec<String>,
    },
    /// Instances have disks that are not in the pool of their host.
    DisksAway {
        /// The host.
        host: Label,
        /// The pool's name.
        pool: String,
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// The spread is less even than the hosts in sight would let it be. Nothing waits for it: nobody moves anything for that
    /// without being asked.
    Uneven {
        /// Fault domains with their instances.
        domains: Vec<(Label, usize)>,
        /// The one with the most.
        fullest: Label,
        /// How many it has.
        instances: usize,
        /// How many it would have at the least.
        possible: usize,
        /// How many there are in all.
        total: usize,
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

/// "no room on kvm1 for instance 3: needs replace, which --at-most restart forbids".
fn beyond(
    f: &mut fmt::Formatter<'_>,
    (instances, hosts): (&[InstanceId], &[Label]),
    needs: Disruption,
    because: Because,
    limit: Limit,
    data_disks: Disks,
) -> fmt::Result {
    let ids = crate::names::ranges(instances.iter().map(|id| id.0));
    let who = format!("{} {ids}", instances_noun(instances));
    let (need, they) = match instances.len() {
        1 => ("needs", "it"),
        _ => ("need", "they"),
    };
    match because {
        Because::NoRoom => write!(f, "no room on {} for {who}: {need} {needs}", list(hosts))?,
        Because::Change => write!(f, "{who} {need} {needs}")?,
        Because::Method => write!(f, "{who} {need} {needs} by upgrade.method")?,
        Because::NoneToSpare => write!(
            f,
            "{who} {need} {needs}, for max_unavailable = 0 lets none be missing"
        )?,
        Because::Unknown => write!(
            f,
            "{who} {need} {needs}, for the record does not know what {they} {} made of",
            if instances.len() == 1 { "is" } else { "are" }
        )?,
    }
    match limit {
        Limit::AtMost(most) => write!(f, ", which --at-most {most} forbids"),
        Limit::Own => write!(
            f,
            ", which the change itself does not: make room, or allow it with vmss upgrade --at-most replace"
        ),
        Limit::Method => write!(f, ", and upgrade.method = \"reimage\" keeps the instances"),
        Limit::DataDisks => write!(
            f,
            ", which deletes {data_disks}: that takes upgrade.method = \"replace\" or --at-most replace"
        ),
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoIds => f.write_str("every id has been given out: make another set"),
            Self::RecordOld { instances, next } => record_old(f, instances, *next),
            Self::OneHost(twins) => write!(
                f,
                "hosts {} and {} are one libvirtd under two names: nothing is changed; take one of the two out of the \
                 definition, then vmss apply, or vmss delete where that has begun",
                twins.first, twins.second
            ),
            Self::Double(double) => {
                let places: Vec<String> = (double.places.iter())
                    .map(|p| {
                        let called = p.called.as_ref().map(|name| format!("as {name}, "));
                        let how = match (p.is_hidden, p.runs) {
                            (true, _) => "when it was seen last",
                            (_, true) => "runs",
                            (_, false) => "off",
                        };
                        format!("{} ({}{how})", p.host, called.unwrap_or_default())
                    })
                    .collect();
                // Under another name it can't be kept as the instance.
                let (named, renamed): (Vec<&Place>, Vec<&Place>) =
                    (double.places.iter()).partition(|place| place.has_its_name());
                let keep = match (named.as_slice(), renamed.is_empty()) {
                    ([one], false) => one.host.as_str(),
                    _ => "HOST",
                };
                write!(
                    f,
                    "instance {0} is there twice, on {1}: nothing is done to either; vmss instance settle {0} --keep {keep} \
                     ends it",
                    double.id,
                    places.join(" and ")
                )
            }
            Self::Stranger(stranger) => self::stranger(f, stranger),
            Self::MovedByHand(moved) => write!(
                f,
                "instance {} was moved by hand from {} to {}: it is the set's there; vmss scale +0 writes that down",
                moved.id, moved.from, moved.to
            ),
            Self::NoteReverted(sight) => write!(
                f,
                "instance {} on {} was restored or reverted: its note is older than the record, which counts; vmss scale +0 \
                 writes it anew",
                sight.id, sight.host
            ),
            Self::Unclaimed { host, volumes, ends } => match volumes.as_slice() {
                _ if *ends => write!(
                    f,
                    "{} on {host} {} no living instance's: left alone, also when the set is gone; virsh vol-delete deletes {}",
                    match volumes.as_slice() {
                        [one] => format!("volume {one}"),
                        several => format!("{} volumes ({})", several.len(), crate::names::list(several, 2)),
                    },
                    if volumes.len() == 1 { "is" } else { "are" },
                    if volumes.len() == 1 { "it" } else { "them" },
                ),
                [one] => write!(
                    f,
                    "volume {one} on {host} belongs to no instance there: left alone; vmss state sweep {one} deletes it, unless \
                     anything uses it"
                ),
                several => write!(
                    f,
                    "{} volumes on {host} belong to no instance there: left alone; vmss state sweep --all, or NAME, deletes \
                     those that nothing uses ({})",
                    several.len(),
                    crate::names::list(several, 2)
                ),
            },
            Self::SeedInUse {
                host, revision, by, ..
            } => {
                let (who, are) = match by.as_slice() {
                    [] => {
                        return write!(
                            f,
                            "the seed of revision {revision} on {host} is in use, and stays until it is not"
                        );
                    }
                    [one] => (one.clone(), "is"),
                    several => (list(several), "are"),
                };
                write!(
                    f,
                    "the seed of revision {revision} on {host} goes once {who} {are} started anew: it is in the drive until then"
                )
            }
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
            Self::PoolUnseen {
                host,
                pool,
                reason,
                instances,
            } => {
                write!(f, "pool {pool} on {host} can't be seen: {reason}; ")?;
                if !instances.is_empty() {
                    let are = if instances.len() == 1 {
                        "is left as it is"
                    } else {
                        "are left as they are"
                    };
                    write!(
                        f,
                        "{} {} there {are}; ",
                        instances_noun(instances),
                        list(instances)
                    )?;
                }
                write!(f, "virsh pool-start {pool} there may mend it")
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
            Self::Protected {
                surplus,
                instances,
                twice,
            } => {
                let are = |ids: &[InstanceId], what: &str| {
                    let (noun, are) = if ids.len() == 1 {
                        ("instance", "is")
                    } else {
                        ("instances", "are")
                    };
                    (!ids.is_empty()).then(|| format!("{noun} {} {are} {what}", list(ids)))
                };
                let reasons = [
                    are(instances, "protected from scale-in"),
                    are(twice, "there twice"),
                ];
                let reasons: Vec<String> = reasons.into_iter().flatten().collect();
                write!(
                    f,
                    "{surplus} too many, but {}: none is taken",
                    reasons.join(" and ")
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
                "rollout batch {batch} waits for {} {} on hosts that can't be seen, or whose pool can't be",
                instances_noun(instances),
                list(instances)
            ),
            Self::RolloutUnseen { instances } => write!(
                f,
                "the rollout waits for {} {} on hosts that can't be seen, or whose pool can't be",
                instances_noun(instances),
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
            Self::BeyondLimits {
                instances,
                hosts,
                needs,
                because,
                limit,
                data_disks,
            } => beyond(f, (instances, hosts), *needs, *because, *limit, *data_disks),
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
            Self::InTheWay {
                instance,
                host,
                volume,
            } => write!(
                f,
                "instance {instance} is not moved to {host}, which has a volume {volume} already: look who needs it there; vmss state \
                 sweep {volume} deletes it"
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
            Self::RepairUnheard { instances } => {
                write!(
                    f,
                    "not repaired, since it can't be asked now: {}",
                    list(instances)
                )
            }
            Self::AgentBroken { instances } => write!(
                f,
                "the guest agent of {} {} is broken, so nobody knows how {}: restart qemu-guest-agent in the guest, or \
                 vmss instance restart {}",
                instances_noun(instances),
                list(instances),
                if instances.len() == 1 { "it is" } else { "they are" },
                crate::names::ranges(instances.iter().map(|id| id.0))
            ),
            Self::AgentAbsent { instances } => write!(
                f,
                "the guest agent of {} {} is not connected, so nobody knows how {}: the guest needs qemu-guest-agent, running",
                instances_noun(instances),
                list(instances),
                if instances.len() == 1 { "it is" } else { "they are" }
            ),
            Self::NoWay { instances } => write!(
                f,
                "no way leads from this machine to {} {}, so nobody knows how {}: look at this machine's own network \
                 (ip route); nothing is done to them for that",
                instances_noun(instances),
                list(instances),
                if instances.len() == 1 { "it is" } else { "they are" }
            ),
            Self::AddressesRefused { claims } => {
                write!(
                    f,
                    "no client and no probe is sent to what is not theirs: {}",
                    list(claims)
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
            Self::KeepsDisks { instances, revision } => write!(
                f,
                "{} {} not made anew: the record does not know what {} made of, and revision {revision} lacks data disks that {}; \
                 vmss instance replace gives them up",
                match instances.as_slice() {
                    [one] => format!("instance {one}"),
                    several => format!("instances {}", list(several)),
                },
                if instances.len() == 1 { "is" } else { "are" },
                if instances.len() == 1 { "it is" } else { "they are" },
                if instances.len() == 1 {
                    "it has"
                } else {
                    "they have"
                },
            ),
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
            Self::HostGivenUp {
                host,
                at,
                instances,
                keeping,
            } => {
                let (are, they) = match instances.len() {
                    1 => ("is", "its volumes stay"),
                    _ => ("are", "their volumes stay"),
                };
                let disks = match keeping.len() {
                    0 => String::new(),
                    n if n == instances.len() => format!(" ({they})"),
                    _ => format!(" (the volumes of {} stay)", list(keeping)),
                };
                write!(
                    f,
                    "host {host} was given up at {} with {} {}, which {are} deleted when it is back{disks}; mend it, or take \
                     it out of the definition",
                    clock(*at),
                    instances_noun(instances),
                    list(instances),
                )
            }
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
            Self::DisksAway {
                host,
                pool,
                instances,
            } => write!(
                f,
                "disks of {} {} are not in pool {pool} on {host} (moved, deleted, or the pool is another folder now): left \
                 alone; virsh pool-refresh {pool} there if they are, vmss instance replace ID gives them up",
                instances_noun(instances),
                list(instances)
            ),
            Self::Uneven {
                domains,
                fullest,
                instances,
                possible,
                total,
            } => {
                let domains: Vec<String> = domains.iter().map(|(d, n)| format!("{d} {n}")).collect();
                write!(
                    f,
                    "the spread is uneven ({}): losing {fullest} loses {instances} of {total}, and {possible} would do; vmss \
                     instance replace ID puts another where there are fewest",
                    list(&domains)
                )
            }
            Self::Paused { instance, host } => write!(
                f,
                "instance {instance} on {host} is paused (by a person, or by an I/O error such as a full disk): it is left as it is; \
                 virsh resume there lets it go on, vmss instance restart {instance} starts it anew"
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
    let (adopt, disown) = match stranger.id {
        Some(id) => (
            format!("vmss instance adopt {id}"),
            format!("vmss instance disown {id}"),
        ),
        None => (String::new(), format!("vmss instance disown {}", stranger.uuid)),
    };
    match stranger.why {
        Strangeness::Renamed if stranger.is_contested => {
            write!(f, "is what {id} was, under another name: left alone")
        }
        Strangeness::Copied => write!(
            f,
            "has the note of {id}, which is another domain: left alone; {disown} if it is to stay"
        ),
        Strangeness::Renamed => write!(
            f,
            "is what {id} was, under another name: left alone; {disown} if it is to stay so, or, under its own name \
             again, {adopt}"
        ),
        Strangeness::NoNote if stranger.is_contested => write!(
            f,
            "has the UUID of {id}, and no note of vmss (an edit may have dropped it): left alone"
        ),
        Strangeness::NoNote => write!(
            f,
            "has the UUID of {id}, and no note of vmss (an edit may have dropped it): left alone; {disown} if it is to \
             stay so"
        ),
        Strangeness::Garbled => write!(
            f,
            "has a note of vmss that can't be read: left alone; vmss instance disown {} says that it is none of the set's",
            stranger.uuid
        ),
        Strangeness::Forgotten if stranger.is_contested => {
            write!(
                f,
                "says that it is {id}, which the record no longer has: left alone"
            )
        }
        Strangeness::Elsewhere if stranger.is_contested => write!(
            f,
            "is {id}, which the record has on a host that can't be seen: left alone"
        ),
        Strangeness::Forgotten => write!(
            f,
            "says that it is {id}, which the record no longer has: left alone; {adopt} takes it in, or {disown} if it is \
             to stay so"
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
