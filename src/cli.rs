//! The command line: what may be typed. No logic.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::model::Disruption;
use crate::names::{InstanceId, Label};
use crate::plan::claim::Named;
use crate::scaleset::Amount;

/// Scale sets for plain libvirt/KVM hosts: one declared group of identical VMs, spread over fault domains.
#[derive(Parser, Debug)]
#[command(
    name = "vmss",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 converged, 1 failed, 2 usage, 3 definition, 4 unreachable, 5 blocked, 6 unhealthy, 7 locked, \
                  10 changes pending (plan --detailed-exitcode), 130 interrupted.\n\
                  Start with: vmss init > scaleset.toml; vmss check; vmss plan; vmss create"
)]
pub struct Cli {
    /// What every command understands.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// The definition [default: scaleset.toml] [env: VMSS_FILE]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Name the set instead of its file: the store remembers what was applied
    #[arg(short, long, global = true, value_name = "NAME", conflicts_with = "file")]
    pub set: Option<Label>,
    /// How data is printed on stdout
    #[arg(short, long, global = true, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT")]
    pub output: OutputFormat,
    /// Do not ask before deleting anything
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// Say more: every stage of every action
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Say less: only what failed or was found wrong
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto, value_name = "WHEN")]
    pub color: ColorChoice,
    /// How progress is shown on stderr
    #[arg(long, global = true, value_enum, default_value_t = Progress::Auto, value_name = "HOW")]
    pub progress: Progress,
    /// How long to wait for another command that acts on the set, such as 10m; without it, exit 7 at once
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    pub wait_lock: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|e: jiff::Error| e.to_string())?;
    Duration::try_from(parsed).map_err(|_| "a duration may not be negative".to_owned())
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let bad = |_| "give an address and a port, such as 127.0.0.1:9750 or [::]:9750".to_owned();
    text.parse().map_err(bad)
}

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Table,
    /// For programs: one JSON document.
    Json,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    /// Bars on a terminal, lines elsewhere.
    Auto,
    /// Bars.
    Bars,
    /// Timestamped lines.
    Lines,
    /// One JSON object per event.
    Json,
    /// Nothing.
    None,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Print a commented definition to start from
    Init {
        /// Name of the set
        #[arg(default_value = "web")]
        name: Label,
    },
    /// Check a definition without touching any host
    Validate,
    /// Print the definition's JSON Schema, for editors
    Schema,
    /// Show what create, scale or delete would do, batch by batch, changing nothing
    Plan(PlanArgs),
    /// Create the set, or finish creating it
    Create,
    /// Make a changed definition count; a changed model becomes a new revision, rolled out as upgrade.policy says
    Apply(ApplyArgs),
    /// Bring outdated instances to the current revision, batch by batch; or go on with that
    Upgrade(UpgradeArgs),
    /// Repair now what has been broken for long enough, whether or not [repair] is enabled
    Repair {
        /// Go on though repair has suspended itself, and forget how often everything was tried
        #[arg(long)]
        resume: bool,
    },
    /// Look at the revisions of the set's model
    #[command(subcommand)]
    Model(ModelCommand),
    /// Tend the set until stopped: the same loop as every command's, at an interval; for systemd
    Run {
        /// Tend every set of the store, those made later too
        #[arg(long, conflicts_with_all = ["file", "set"])]
        all: bool,
        /// Time between two looks, such as 30s
        #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
        interval: Duration,
        /// Serve metrics for Prometheus at http://ADDR/metrics, such as 127.0.0.1:9750 or [::]:9750
        #[arg(long, value_name = "ADDR", value_parser = socket_address)]
        metrics: Option<SocketAddr>,
    },
    /// Wait until the set is healthy, has its capacity, or is upgraded: for scripts and CI
    Wait {
        /// What to wait for
        #[arg(long = "for", value_enum, value_name = "WHAT")]
        what: WaitFor,
        /// How long to wait, such as 10m; exit 6 if it has not come by then
        #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10m")]
        timeout: Duration,
    },
    /// Set the capacity: N, +N or -N; also finishes what was interrupted
    Scale(ScaleArgs),
    /// Scale as [autoscale] and what was timed say: evaluate once and act, for cron; `vmss run` does the same at its interval
    Autoscale(AutoscaleArgs),
    /// Show how the set stands, and why
    Show,
    /// List the set's instances
    Instances,
    /// Act on single instances: start, stop, restart, reimage, replace, delete, protect, exec, console, log, ssh, settle, adopt, disown
    #[command(subcommand)]
    Instance(InstanceCommand),
    /// Look at the load balancer, and tend it
    #[command(subcommand)]
    Lb(LbCommand),
    /// List all sets that the store knows
    List,
    /// Delete the set: every instance, volume, seed and image of it
    Delete(DeleteArgs),
    /// Look at hosts
    #[command(subcommand)]
    Host(HostCommand),
    /// Look at and tend the images on the hosts
    #[command(subcommand)]
    Image(ImageCommand),
    /// Check that hosts are reachable, have what is needed, and allow what is needed
    Check,
    /// Show what was done to the set: who, when, from, to, result
    History {
        /// How many operations
        #[arg(short = 'n', long, default_value_t = 20)]
        limit: usize,
        /// Operations of all sets of the store
        #[arg(long)]
        all: bool,
    },
    /// Tend the store
    #[command(subcommand)]
    State(StateCommand),
    /// Print a shell's completion script
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page (roff), or write one page per command into a folder
    Man {
        /// The folder
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// `vmss scale`.
#[derive(Args, Clone, Debug)]
pub struct ScaleArgs {
    /// The capacity, or the change of it
    #[arg(
        allow_hyphen_values = true,
        value_name = "N|+N|-N",
        required_unless_present = "cancel",
        conflicts_with = "cancel"
    )]
    pub capacity: Option<Change>,
    /// Only for so long, such as 2h, whatever [autoscale] says; then back to what it was, or to what [autoscale] says by then
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub span: Option<Duration>,
    /// Not now but then: 18:00, "2026-12-24 18:00", or with an offset or a zone ("2026-12-24 18:00[Europe/Berlin]"); needs N
    /// itself; carried out by `vmss run`, or `vmss autoscale` from cron
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// Forget every --at and --for that is to come or holds; the capacity stays as it is
    #[arg(long, conflicts_with_all = ["span", "at"])]
    pub cancel: bool,
}

/// `vmss autoscale`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AutoscaleArgs {
    /// What else to do.
    #[command(subcommand)]
    pub command: Option<AutoscaleCommand>,
}

/// `vmss autoscale ...`.
#[derive(Subcommand, Debug)]
pub enum AutoscaleCommand {
    /// Show the last decision: what was measured, what each rule said, what was done, and why not more
    Explain {
        /// Measure and evaluate now, changing nothing
        #[arg(long, conflicts_with = "limit")]
        now: bool,
        /// List so many decisions, the newest first
        #[arg(short = 'n', long, value_name = "N", value_parser = lines)]
        limit: Option<usize>,
    },
    /// Show the policy and how it stands: bounds, rules, cooldowns, what comes next
    Status,
    /// List profiles, schedules and timed capacities, each with its last and next start
    Schedule,
    /// Try the definition's policy on a load of the past: what it would have done, what it would have cost
    Simulate(Box<SimulateArgs>),
    /// Let [autoscale] count again
    Enable,
    /// Leave the capacity alone until it is enabled again
    Disable,
}

/// `vmss autoscale simulate`.
#[derive(Args, Clone, Debug)]
pub struct SimulateArgs {
    /// A CSV file: a column time, and one for each metric with what the whole set had to do [default: the store's samples]
    #[arg(long, value_name = "FILE", conflicts_with = "prometheus")]
    pub trace: Option<PathBuf>,
    /// Ask a Prometheus server instead: METRIC=QUERY, the query giving what the whole set had to do; several times
    #[arg(long, value_name = "METRIC=QUERY", requires = "from")]
    pub prometheus: Vec<String>,
    /// That server, if it is not autoscale.prometheus
    #[arg(long, value_name = "URL", requires = "prometheus")]
    pub url: Option<String>,
    /// Begin there: a date, a date with a time, or how long ago, such as 7d
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// End there [default: now, or the end of the trace]
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Another definition, to compare its policy with; several times
    #[arg(long, value_name = "FILE")]
    pub against: Vec<PathBuf>,
    /// How long an instance takes until it serves
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2m")]
    pub start_up: Duration,
    /// Time between two evaluations
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1m")]
    pub interval: Duration,
    /// Instances at the beginning [default: as many as the first load needs]
    #[arg(long, value_name = "N")]
    pub capacity: Option<u32>,
    /// Draw it: an SVG file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write it as a page: an HTML file that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// `vmss plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// Plan for this capacity: N, +N or -N
    #[arg(
        long,
        value_name = "N|+N|-N",
        allow_hyphen_values = true,
        conflicts_with = "delete"
    )]
    pub scale: Option<Change>,
    /// Plan the set's deletion
    #[arg(long)]
    pub delete: bool,
    /// Plan as if the definition were applied with this limit: live, restart, reimage or replace
    #[arg(long, value_name = "CLASS", value_parser = class)]
    pub at_most: Option<Disruption>,
    /// Exit with 10 if there is anything to do
    #[arg(long)]
    pub detailed_exitcode: bool,
}

/// `vmss delete`.
#[derive(Args, Clone, Copy, Debug)]
pub struct DeleteArgs {
    /// Leave the images on the hosts
    #[arg(long)]
    pub keep_images: bool,
    /// End the set even if hosts that may still have instances can't be seen: those are switched off and deleted by the next
    /// delete or create that sees them
    #[arg(long)]
    pub abandon_unseen: bool,
    /// Delete instances that are protected as well
    #[arg(long)]
    pub include_protected: bool,
}

/// `vmss apply`.
#[derive(Args, Debug)]
pub struct ApplyArgs {
    /// Refuse a change that needs more: live, restart, reimage; replace lets instances be replaced, data disks and all
    #[arg(long, value_name = "CLASS", value_parser = class)]
    pub at_most: Option<Disruption>,
}

/// `vmss upgrade`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct UpgradeArgs {
    /// Only these instances: 3, 3-7, 1,4,9
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub instances: Vec<IdRange>,
    /// Stop for a look once so many instances are upgraded: a number, or a share such as 10%
    #[arg(long, value_name = "N|N%", value_parser = amount)]
    pub canary: Option<Amount>,
    /// Refuse if it needs more: live, restart, reimage; replace lets instances be replaced, data disks and all
    #[arg(long, value_name = "CLASS", value_parser = class)]
    pub at_most: Option<Disruption>,
    /// What else to do with a rollout.
    #[command(subcommand)]
    pub command: Option<UpgradeCommand>,
}

/// `vmss upgrade ...`.
#[derive(Subcommand, Debug)]
pub enum UpgradeCommand {
    /// Show the rollout: batch, host and health of each instance
    Status {
        /// Go on showing it until it ends
        #[arg(long)]
        watch: bool,
    },
    /// Begin no further batch, wherever the rollout is run
    Pause,
    /// Go on with a rollout that is paused, or has stopped
    Resume,
    /// Give the rollout up: instances stay at the revisions they have
    Cancel,
    /// Bring every instance back to the revision before, during a rollout or after it
    Rollback {
        /// Refuse if the way back needs more: live, restart, reimage or replace
        #[arg(long, value_name = "CLASS", value_parser = class)]
        at_most: Option<Disruption>,
    },
}

/// `vmss model`.
#[derive(Subcommand, Debug)]
pub enum ModelCommand {
    /// List the revisions, and how many instances have each
    List,
    /// Show one revision whole
    Show {
        /// Its number [default: the current one]
        revision: Option<u32>,
    },
    /// Show what differs, and the least disruptive action that each difference needs
    Diff {
        /// From this revision [default: the current one]
        from: Option<u32>,
        /// To this one [default: the definition]
        to: Option<u32>,
    },
}

/// `vmss instance ...`.
#[derive(Subcommand, Debug)]
pub enum InstanceCommand {
    /// Switch on what is off, also what was stopped on purpose
    Start(Selection),
    /// Shut down and leave off until started by hand; a stopped instance still counts towards capacity
    Stop(Selection),
    /// Shut down and start again, as they are; those that were stopped on purpose stay off
    Restart(Selection),
    /// Make a new OS disk of the current revision; data disks, names and addresses stay
    Reimage(Selection),
    /// Delete, and make others of the current revision in their place
    Replace(Selection),
    /// Delete, and lower the capacity by as many
    Delete(Selection),
    /// Keep instances from being chosen when the set shrinks, or from every action
    Protect {
        /// What they are protected from
        #[arg(long, value_enum, value_name = "WHAT")]
        from: ProtectFrom,
        /// Which instances.
        #[command(flatten)]
        selection: Selection,
    },
    /// Take a protection back
    Unprotect(Selection),
    /// Run a command in the guests, through their agent; without a shell
    Exec {
        /// Which instances.
        #[command(flatten)]
        selection: Selection,
        /// How long to wait for it, such as 10m; after that it goes on in the guest, unwatched
        #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10m")]
        timeout: Duration,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// End a double: one instance on two hosts. One copy is kept; the others are switched off and undefined. No disk that the
    /// kept one uses is deleted
    Settle {
        /// The instance's id
        #[arg(value_name = "ID", value_parser = instance_id)]
        id: InstanceId,
        /// The host whose copy is kept
        #[arg(long, value_name = "HOST")]
        keep: Label,
    },
    /// Take in a domain that says it is an instance and that the record does not have
    Adopt {
        /// The instance's id
        #[arg(value_name = "ID", value_parser = instance_id)]
        id: InstanceId,
        /// The host it is on, if several have such a domain
        #[arg(long, value_name = "HOST")]
        host: Option<Label>,
    },
    /// Say that a domain's note lies: it is a stranger from then on and holds nothing up; neither it nor its note is touched
    Disown {
        /// The id of the instance that it says it is, or its UUID
        #[arg(value_name = "ID|UUID", value_parser = named)]
        what: Named,
        /// The host it is on, if several have such a domain
        #[arg(long, value_name = "HOST")]
        host: Option<Label>,
        /// Take that back
        #[arg(long)]
        undo: bool,
    },
    /// Open the serial console (Ctrl-] leaves it); without a terminal, print what it says until it ends
    Console {
        /// The instance's id
        #[arg(value_name = "ID", value_parser = instance_id)]
        id: InstanceId,
        /// Take it from whoever has it open
        #[arg(long)]
        force: bool,
    },
    /// Show what guests have said on their serial console, up to the last MiB of it, also of instances that are off
    Log {
        /// Which instances.
        #[command(flatten)]
        selection: Selection,
        /// Only the last lines of each
        #[arg(short = 'n', long, value_name = "N", value_parser = lines)]
        lines: Option<usize>,
        /// Go on showing what is added, until interrupted or the instance is gone; takes one instance
        #[arg(long)]
        follow: bool,
    },
    /// Log in over ssh, at the address that vmss instances shows
    Ssh {
        /// The instance's id
        #[arg(value_name = "ID", value_parser = instance_id)]
        id: InstanceId,
        /// The user to log in as [default: ssh's]
        #[arg(short, long, value_name = "USER")]
        login: Option<String>,
        /// Further arguments for ssh: a command to run, say
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<String>,
    },
}

/// Which instances are meant: all that are given must hold, and something must be given.
#[derive(Args, Clone, Debug, Default)]
pub struct Selection {
    /// Ids: 3, 3-7, 1,4,9
    #[arg(value_name = "IDS", value_delimiter = ',')]
    pub ids: Vec<IdRange>,
    /// Those of another revision than the current one
    #[arg(long)]
    pub outdated: bool,
    /// Those that are unhealthy, or don't run though they should
    #[arg(long)]
    pub unhealthy: bool,
    /// Those in this fault domain
    #[arg(long, value_name = "NAME")]
    pub fault_domain: Option<Label>,
    /// Those on this host
    #[arg(long, value_name = "NAME")]
    pub host: Option<Label>,
    /// Every one
    #[arg(long)]
    pub all: bool,
}

/// What `vmss instance protect` protects from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProtectFrom {
    /// From being deleted when the set shrinks, and by instance delete.
    ScaleIn,
    /// From that, and from upgrade, repair, stop, restart, reimage and replace.
    All,
}

/// What `vmss wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    /// As many instances as capacity wants are healthy.
    Healthy,
    /// As many as capacity wants are running.
    Capacity,
    /// Every instance has the current revision and is healthy.
    Upgraded,
}

/// One id, or a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First id.
    pub first: u64,
    /// Last id, not before the first.
    pub last: u64,
}

impl IdRange {
    /// The ids.
    pub fn ids(&self) -> impl Iterator<Item = InstanceId> + use<> {
        (self.first..=self.last).map(InstanceId)
    }
}

impl std::str::FromStr for IdRange {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is no id: write 3, or 3-7 for a range");
        let number = |digits: &str| digits.parse::<u64>().map_err(|_| form());
        let (first, last) = match text.split_once('-') {
            None => (number(text)?, number(text)?),
            Some((first, last)) => (number(first)?, number(last)?),
        };
        if first == 0 || first > last || last - first > u64::from(MOST) {
            return Err(form());
        }
        Ok(Self { first, last })
    }
}

fn instance_id(text: &str) -> Result<InstanceId, String> {
    let id = text.parse().ok().filter(|id| *id > 0);
    id.map(InstanceId)
        .ok_or_else(|| format!("{text:?} is no id: write a number such as 3"))
}

fn named(text: &str) -> Result<Named, String> {
    match text.parse() {
        Ok(uuid) => Ok(Named::Uuid(uuid)),
        Err(_) => instance_id(text)
            .map(Named::Id)
            .map_err(|_| format!("{text:?} is neither an id such as 3 nor a UUID")),
    }
}

fn lines(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|n| *n > 0);
    number.ok_or_else(|| "give a number of lines, such as 50".to_owned())
}

fn class(text: &str) -> Result<Disruption, String> {
    use Disruption::{Live, Reimage, Replace, Restart};
    [Live, Restart, Reimage, Replace]
        .into_iter()
        .find(|c| c.as_str() == text)
        .ok_or_else(|| "give live, restart, reimage or replace".to_owned())
}

fn amount(text: &str) -> Result<Amount, String> {
    let bad = || "give a number such as 1, or a share such as 10%".to_owned();
    let amount = match text.strip_suffix('%') {
        Some(share) => Amount::Percent(share.trim().parse().map_err(|_| bad())?),
        None => Amount::Count(text.parse().map_err(|_| bad())?),
    };
    match amount {
        Amount::Percent(0 | 101..) | Amount::Count(0) => Err(bad()),
        amount => Ok(amount),
    }
}

/// `vmss lb`.
#[derive(Subcommand, Debug)]
pub enum LbCommand {
    /// Show each instance in the load balancer: state, connections, requests, errors, last check
    Show,
    /// Make load balancers and discovery files agree with what the instances are
    Sync {
        /// Forget load balancers that the definition no longer has and that can't be told any more
        #[arg(long)]
        forget_dropped: bool,
    },
    /// Print the configuration that HAProxy needs for the set, with the servers it has now
    Config,
}

/// `vmss host`.
#[derive(Subcommand, Debug)]
pub enum HostCommand {
    /// List the hosts with their room
    List,
    /// Place no new instances on a host; those it has stay
    Cordon {
        /// The host's name in the definition
        host: Label,
    },
    /// Move the instances of a host to others, new ones first, within the health budget of upgrades; then it may be switched off
    Drain {
        /// The host's name in the definition
        host: Label,
        /// Move running instances as they run (live migration, disks and all) instead of replacing them
        #[arg(long)]
        migrate: bool,
    },
    /// Let a host have instances again
    Uncordon {
        /// The host's name in the definition
        host: Label,
    },
}

/// `vmss image`.
#[derive(Subcommand, Debug)]
pub enum ImageCommand {
    /// List the images on each host, and what uses them
    List,
    /// Send the set's image to every host that lacks it
    Push,
    /// Delete images that nothing on their host is backed by
    Prune,
}

/// `vmss state`.
#[derive(Subcommand, Debug)]
pub enum StateCommand {
    /// Make the record again from the instances' own metadata, after the store was lost
    Rebuild {
        /// Desired capacity of the new record [default: as many as are seen]
        #[arg(long)]
        capacity: Option<u32>,
    },
    /// Take over a set whose instances another store manages
    Adopt,
    /// Delete volumes that have an instance's name and are no instance's, as vmss show tells them, once nothing uses them
    Sweep {
        /// Their names
        #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
        names: Vec<String>,
        /// Every one that vmss show tells
        #[arg(long)]
        all: bool,
    },
    /// Bring the record level with the hosts, after the store was restored from a backup
    CatchUp {
        /// Capacity from then on [default: as many instances as live]
        #[arg(long, value_name = "N")]
        capacity: Option<u32>,
    },
    /// Say where the store is and what it knows
    Show,
}

/// A capacity as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Exactly so many.
    To(u32),
    /// So many more.
    Up(u32),
    /// So many fewer.
    Down(u32),
}

/// Most instances a set may be asked to have: beyond it a number is a slip of the finger.
pub const MOST: u32 = 1_000_000;

impl Change {
    /// The capacity after the change.
    ///
    /// # Errors
    /// A sentence, if it would be below zero or above [`MOST`].
    pub fn of(self, now: u32) -> Result<u32, String> {
        let wanted = match self {
            Self::To(n) => n,
            Self::Up(n) => now.saturating_add(n),
            Self::Down(n) => now
                .checked_sub(n)
                .ok_or_else(|| format!("the capacity is {now}: it can't be lowered by {n}"))?,
        };
        if wanted > MOST {
            return Err(format!(
                "a capacity of {wanted} is more than a set may have ({MOST})"
            ));
        }
        Ok(wanted)
    }
}

impl std::str::FromStr for Change {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (make, digits): (fn(u32) -> Self, &str) = match text.as_bytes() {
            [b'+', ..] => (Self::Up, &text[1..]),
            [b'-', ..] => (Self::Down, &text[1..]),
            _ => (Self::To, text),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err("give a number such as 9, +3 or -2".to_owned());
        }
        let n: u32 = digits
            .parse()
            .map_err(|_| format!("{digits} is more than a set may have ({MOST})"))?;
        Ok(make(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn ids_are_numbers_and_ranges() {
        assert_eq!("3".parse(), Ok(IdRange { first: 3, last: 3 }));
        assert_eq!("3-7".parse::<IdRange>().map(|r| r.ids().count()), Ok(5));
        for bad in ["", "0", "-3", "7-3", "a", "1-", "1-2-3", "1-99999999999"] {
            assert!(bad.parse::<IdRange>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_canary_is_a_number_or_a_share() {
        assert_eq!(amount("2"), Ok(Amount::Count(2)));
        assert_eq!(amount("10%"), Ok(Amount::Percent(10)));
        for bad in ["0", "0%", "101%", "-1", "x", ""] {
            assert!(amount(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn metrics_are_served_at_an_address_and_a_port() {
        for good in ["127.0.0.1:9750", "[::]:9750", "0.0.0.0:0"] {
            assert!(socket_address(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "9750",
            ":9750",
            "127.0.0.1",
            "::1",
            "localhost:9750",
            "127.0.0.1:99999",
        ] {
            assert!(socket_address(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_capacity_is_a_number_or_a_change() {
        assert_eq!("9".parse(), Ok(Change::To(9)));
        assert_eq!("+3".parse(), Ok(Change::Up(3)));
        assert_eq!("-2".parse(), Ok(Change::Down(2)));
        for bad in ["", "+", "-", "x", "3x", "--3", "+-1", "1.5", " 3", "99999999999"] {
            assert!(bad.parse::<Change>().is_err(), "{bad:?}");
        }
        assert_eq!(
            Change::Down(7).of(6).unwrap_err(),
            "the capacity is 6: it can't be lowered by 7"
        );
        assert_eq!(Change::Up(3).of(6), Ok(9));
        assert!(Change::To(MOST + 1).of(0).is_err());
    }
}
