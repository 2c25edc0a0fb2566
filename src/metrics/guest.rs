//! What a Linux guest says of itself in /proc, and df of its root file system.

use crate::autoscale::metric::GuestMetric;

/// Files that are read, with one command.
pub(super) const READ: [&str; 4] = ["cat", "/proc/stat", "/proc/meminfo", "/proc/loadavg"];

/// How full the root file system is.
pub(super) const DISK: [&str; 4] = ["df", "-P", "-k", "/"];

/// What a guest said.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Said {
    /// CPU time so far that was not idle, and all of it, in ticks of all its CPUs.
    pub busy: Option<(f64, f64)>,
    /// Memory that is not available to programs, in per cent.
    pub memory: Option<f64>,
    /// Load average of the last minute, for each CPU.
    pub load: Option<f64>,
}

/// The largest number of 64 bits, as Linux has them all.
const LARGEST: f64 = 18_446_744_073_709_551_615.0;

/// A number that may be counted or measured. A guest can say anything: also what Rust reads as a number and is none, or
/// none that others can be added to.
fn number(text: &str) -> Option<f64> {
    let number: f64 = text.parse().ok()?;
    (0.0..=LARGEST).contains(&number).then_some(number)
}

/// Reads /proc/stat, /proc/meminfo and /proc/loadavg, one after another.
pub(super) fn read(text: &str) -> Said {
    let mut said = Said::default();
    let (mut total, mut available) = (None, None);
    let mut cpus = 0_u32;
    let mut load = None;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        match first {
            "cpu" => said.busy = busy(words),
            "MemTotal:" => total = words.next().and_then(number),
            "MemAvailable:" => available = words.next().and_then(number),
            cpu if cpu.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok()) => cpus += 1,
            // "0.00 0.01 0.05 1/95 1234": the only line that begins with a number and has a fraction of processes.
            _ if line
                .split_ascii_whitespace()
                .nth(3)
                .is_some_and(|w| w.contains('/')) =>
            {
                load = number(first);
            }
            _ => {}
        }
    }
    said.memory = total
        .zip(available)
        .filter(|(total, _)| *total > 0.0)
        .map(|(total, available)| 100.0 * ((total - available).max(0.0) / total));
    said.load = load.map(|load| load / f64::from(cpus.max(1)));
    said
}

/// user nice system idle iowait irq softirq steal; what comes after is part of user and nice already.
fn busy<'w>(words: impl Iterator<Item = &'w str>) -> Option<(f64, f64)> {
    let ticks: Vec<f64> = words.take(8).map(number).collect::<Option<_>>()?;
    let idle = ticks.get(3)? + ticks.get(4).copied().unwrap_or(0.0);
    let all: f64 = ticks.iter().sum();
    Some((all - idle, all))
}

/// Per cent of the root file system that are used, of what programs may use of it.
pub(super) fn disk(text: &str) -> Option<f64> {
    let line = text.lines().rfind(|l| l.contains('%'))?;
    let share = line.split_ascii_whitespace().find_map(|w| w.strip_suffix('%'))?;
    // Some systems count what only root may use as more than everything.
    number(share).map(|share| share.min(100.0))
}

impl Said {
    /// The value of a metric that is none of difference.
    pub fn value(&self, metric: GuestMetric) -> Option<f64> {
        match metric {
            GuestMetric::Memory => self.memory,
            GuestMetric::Load => self.load,
            GuestMetric::Cpu | GuestMetric::Disk => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_read_from_its_proc() {
        let said = read(
            "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 50 0 25 400 25 0 0 0 0 0\ncpu1 50 0 25 400 25 0 0 0 0 0\nintr 1234 5/6\nctxt 7\n\
             MemTotal:        1000000 kB\nMemFree:          100000 kB\nMemAvailable:     250000 kB\n0.50 0.20 0.10 1/95 1234\n",
        );
        assert_eq!(said.busy, Some((150.0, 1000.0)));
        assert_eq!(said.memory, Some(75.0));
        assert_eq!(said.load, Some(0.25));
        assert_eq!(read("nothing\nof that\n"), Said::default());
    }

    #[test]
    fn what_is_no_number_or_no_likely_one_is_not_said() {
        for wild in [
            "nan", "NaN", "inf", "-inf", "infinity", "1e400", "1e300", "-1", "x",
        ] {
            let text = format!(
                "cpu  100 0 {wild} 800 50 0 0 0 0 0\nMemTotal: 1000000 kB\nMemAvailable: {wild} kB\n{wild} 0.20 0.10 1/95 1234\n"
            );
            assert_eq!(read(&text), Said::default(), "{wild}");
            let text = format!("MemTotal: {wild} kB\nMemAvailable: 0 kB\n");
            assert_eq!(read(&text).memory, None, "{wild}");
            assert_eq!(
                disk(&format!("/dev/vda1 1000 420 580 {wild}% /\n")),
                None,
                "{wild}"
            );
        }
        let full = read("MemTotal: 18446744073709551615 kB\nMemAvailable: 0 kB\n");
        assert_eq!(full.memory, Some(100.0));
        assert_eq!(disk("/dev/ada0p2 1000 1080 -80 108% /\n"), Some(100.0));
    }

    #[test]
    fn a_full_disk_is_read_from_df() {
        let text =
            "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda1 1000 420 580 42% /\n";
        assert_eq!(disk(text), Some(42.0));
        // A mount point with a sign in its name is no share.
        assert_eq!(
            disk("Filesystem 1024-blocks Used Available Capacity Mounted on\ntmpfs 1 1 0 100% /\n"),
            Some(100.0)
        );
        assert_eq!(disk("df: /: cannot stat\n"), None);
    }
}
