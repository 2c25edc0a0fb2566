//! Who holds a lease, and whether that process still lives.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::store::{Holder, Stamp, Taken};

/// A lease whose holder runs on another machine (a store on a shared disk) or in another container runs out after so long
/// without renewal. A holder whose process can be looked up is judged by that alone: one that was only stopped must not be
/// robbed.
pub const LEASE: Duration = Duration::from_secs(60);

/// Tells whether a holder's process lives; `None` where that can't be told.
pub type Liveness = Arc<dyn Fn(&Holder) -> Option<bool> + Send + Sync>;

/// Judges by this machine's process table: see [`Holder::lives`].
pub fn local_processes() -> Liveness {
    Arc::new(Holder::lives)
}

/// When a lease that is taken or renewed `now` runs out, in seconds since 1970.
pub(super) fn expiry(now: Timestamp) -> i64 {
    now.as_second().saturating_add_unsigned(LEASE.as_secs())
}

/// When a lease that ran out at `before` runs out once it is renewed `now`: later, though the clock was set back. Who
/// watches it sees that it was renewed.
pub(super) fn renewed(before: i64, now: Timestamp) -> i64 {
    expiry(now).max(before.saturating_add(1))
}

/// Who has a lease and may still be acting, if it was seen `unrenewed` for as long as it lasts; `None` if it may be taken.
/// The one rule for all stores.
pub(super) fn acting(
    liveness: &Liveness,
    holder: Holder,
    stamp: Stamp,
    unrenewed: Option<Stamp>,
) -> Option<Taken> {
    let known = liveness(&holder);
    let may_act = known.unwrap_or(unrenewed != Some(stamp));
    may_act.then_some(Taken {
        holder,
        stamp,
        lives: known == Some(true),
    })
}

/// Whether somebody seems to have a lease: of those who can't be looked up, by the clock.
pub(super) fn seems_to_act(liveness: &Liveness, holder: &Holder, expires: i64, now: Timestamp) -> bool {
    liveness(holder).unwrap_or(expires > now.as_second())
}

/// Facts about this machine that do not change while it runs.
pub fn this_machine() -> (String, String) {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .map(|s| s.trim().to_owned())
            .unwrap_or_default()
    };
    (
        read("/proc/sys/kernel/hostname"),
        read("/proc/sys/kernel/random/boot_id"),
    )
}

/// The namespace in which this process and those in `/proc` have their numbers; `None` if that is not one and the same: a
/// `/proc` of another namespace says nothing of the numbers here.
fn namespace() -> Option<u64> {
    let itself = std::fs::read_link("/proc/self").ok()?;
    let number: u32 = itself.to_str()?.parse().ok()?;
    let is_ours = number == std::process::id();
    let inode = std::fs::metadata("/proc/self/ns/pid").ok()?.ino();
    is_ours.then_some(inode)
}

/// What a look for a process shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    /// It runs, and started so many clock ticks after the boot.
    Runs(u64),
    /// There is none, or only its zombie.
    Gone,
    /// There is one, and nothing can be read of it: somebody else's, where `/proc` hides those.
    Hidden,
}

/// Looks for a process: its start is the 22nd field of `/proc/<pid>/stat`.
fn process(pid: u32) -> Process {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return match i32::try_from(pid) {
            Ok(pid) if pid > 0 && !is_there(pid) => Process::Gone,
            _ => Process::Hidden,
        };
    };
    // The second field is the program's name in parentheses and may hold anything: count from the last of them.
    let mut fields = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace();
    match (fields.next(), fields.nth(18).and_then(|start| start.parse().ok())) {
        (Some("Z" | "X"), _) => Process::Gone,
        (Some(_), Some(start)) => Process::Runs(start),
        _ => Process::Hidden,
    }
}

/// Whether a process has that number, whoever's it is.
fn is_there(pid: i32) -> bool {
    // SAFETY: signal 0 is sent to nobody: it only asks.
    let asked = unsafe { libc::kill(pid, 0) };
    asked == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

impl Holder {
    /// This process, as `user`, doing nothing yet.
    pub fn me(user: String) -> Self {
        let pid = std::process::id();
        let (machine, boot) = this_machine();
        Self {
            pid,
            started: match process(pid) {
                Process::Runs(start) => start,
                Process::Gone | Process::Hidden => 0,
            },
            boot,
            namespace: namespace(),
            machine,
            user,
            doing: String::new(),
        }
    }

    /// Whether the holder's process lives; `None` where that can't be told: it runs on another machine, or did before this
    /// one was started anew (two machines may have one name), or in another container.
    pub fn lives(&self) -> Option<bool> {
        let (_, boot) = this_machine();
        let is_here = !boot.is_empty() && self.boot == boot;
        if !is_here || self.namespace.is_none() || self.namespace != namespace() {
            return None;
        }
        match process(self.pid) {
            // When it started is not known: the number may be another's by now.
            Process::Runs(_) if self.started == 0 => None,
            Process::Runs(start) => Some(start == self.started),
            Process::Gone => Some(false),
            Process::Hidden => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_we(change: impl FnOnce(&mut Holder)) -> Option<bool> {
        let mut holder = Holder::me("root".into());
        change(&mut holder);
        holder.lives()
    }

    #[test]
    fn this_process_lives_and_a_reused_pid_is_somebody_else() {
        assert_eq!(as_we(|_| ()), Some(true));
        assert_eq!(as_we(|h| h.started += 1), Some(false));
        // Whatever the machine is called by now.
        assert_eq!(as_we(|h| h.machine = "elsewhere".into()), Some(true));
        // More than any process's number.
        assert_eq!(as_we(|h| h.pid = 1 << 30), Some(false));
    }

    #[test]
    fn a_process_that_can_not_be_looked_up_here_is_not_called_dead() {
        for (why, lives) in [
            (
                "another machine of that name, or an earlier boot",
                as_we(|h| h.boot = "another".into()),
            ),
            (
                "another container on this machine",
                as_we(|h| h.namespace = h.namespace.map(|n| n + 1)),
            ),
            ("written by an earlier version", as_we(|h| h.namespace = None)),
            ("nobody could tell when it started", as_we(|h| h.started = 0)),
            ("no process has that number", as_we(|h| h.pid = 0)),
        ] {
            assert_eq!(lives, None, "{why}");
        }
    }

    #[test]
    fn what_an_earlier_version_wrote_still_reads() {
        let json = r#"{"pid":7,"started":9,"boot":"b","machine":"m","user":"ann","doing":"scale web to 9"}"#;
        let holder: Holder = serde_json::from_str(json).unwrap();
        assert_eq!((holder.pid, holder.namespace), (7, None));
    }

    #[test]
    fn a_renewal_shows_though_the_clock_was_set_back() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = expiry(at(1000));
        assert_eq!(renewed(first, at(1020)), first + 20);
        assert_eq!(renewed(first, at(1000)), first + 1);
        assert_eq!(renewed(first, at(10)), first + 1);
    }

    #[test]
    fn a_zombie_does_not_live() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        // Wait for the exit without reaping: the state in /proc becomes Z.
        while std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .unwrap()
            .rsplit_once(") ")
            .unwrap()
            .1
            .starts_with(['R', 'S', 'D'])
        {
            std::thread::yield_now();
        }
        assert_eq!(process(pid), Process::Gone);
        child.wait().unwrap();
    }
}
