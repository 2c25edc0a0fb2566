//! The command line: what may be typed. No logic.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::names::Label;

/// Scale sets for plain libvirt/KVM hosts: one declared group of identical VMs, spread over fault domains.
#[derive(Parser, Debug)]
#[command(
    name = "vmss",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 converged, 1 failed, 2 usage, 3 definition, 4 unreachable, 5 blocked, 7 locked, \
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
    /// Apply what can change without touching running instances: hosts, placement, limits, scale-in policy
    Apply,
    /// Set the capacity: N, +N or -N; also finishes what was interrupted
    Scale {
        /// The capacity, or the change of it
        #[arg(allow_hyphen_values = true, value_name = "N|+N|-N")]
        capacity: Change,
    },
    /// Show how the set stands, and why
    Show,
    /// List the set's instances
    Instances,
    /// List all sets that the store knows
    List,
    /// Delete the set: every instance, volume, seed and image of it
    Delete {
        /// Leave the images on the hosts
        #[arg(long)]
        keep_images: bool,
        /// Forget the set even if hosts that may still have instances can't be seen
        #[arg(long)]
        abandon_unseen: bool,
    },
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
    /// Exit with 10 if there is anything to do
    #[arg(long)]
    pub detailed_exitcode: bool,
}

/// `vmss host`.
#[derive(Subcommand, Debug)]
pub enum HostCommand {
    /// List the hosts with their room
    List,
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
