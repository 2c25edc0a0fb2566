//! Who holds a lease, and whether that process still lives.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::store::Holder;

/// A lease whose holder runs on another machine (a store on a shared disk) runs out after so long without renewal. A
/// holder on this machine is judged by its process alone: one that was only stopped must not be robbed.
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

/// Whether the holder of a lease that runs out at `expires` may still be acting. The one rule for all stores.
pub(super) fn may_act(liveness: &Liveness, holder: &Holder, expires: i64, now: Timestamp) -> bool {
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

/// Start of a process in clock ticks since boot, from the 22nd field of `/proc/<pid>/stat`; `None` if there is no such
/// process, or only its zombie.
pub fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything: count from the last of them.
    let rest = stat.rsplit_once(')')?.1;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

impl Holder {
    /// This process, as `user`, doing nothing yet.
    pub fn me(user: String) -> Self {
        let pid = std::process::id();
        let (machine, boot) = this_machine();
        Self {
            pid,
            started: start_of(pid).unwrap_or_default(),
            boot,
            machine,
            user,
            doing: String::new(),
        }
    }

    /// Whether the holder's process lives; `None` if it runs on another machine, where that can't be told.
    pub fn lives(&self) -> Option<bool> {
        let (machine, boot) = this_machine();
        if self.machine != machine {
            return None;
        }
        Some(self.boot == boot && start_of(self.pid) == Some(self.started))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_a_reused_pid_is_somebody_else() {
        let me = Holder::me("root".into());
        assert_eq!(me.lives(), Some(true));
        assert_eq!(
            Holder {
                started: me.started + 1,
                ..me.clone()
            }
            .lives(),
            Some(false)
        );
        assert_eq!(
            Holder {
                boot: "earlier".into(),
                ..me.clone()
            }
            .lives(),
            Some(false)
        );
        assert_eq!(
            Holder {
                machine: "elsewhere".into(),
                ..me
            }
            .lives(),
            None
        );
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
        assert_eq!(start_of(pid), None);
        child.wait().unwrap();
    }
}
