//! Small pieces of language: counts, lists, times.

use std::time::Duration;

use jiff::Timestamp;

pub use crate::names::{list, ranges};

/// "1 host", "3 hosts". Plurals are regular here but for words that say otherwise themselves.
pub fn count(n: usize, what: &str) -> String {
    if n == 1 {
        format!("1 {what}")
    } else {
        format!("{n} {what}s")
    }
}

/// A duration in one or two units: "0.4s", "2m10s", "3h05m", "4d02h".
pub fn brief(d: Duration) -> String {
    let tenths = d.as_millis().saturating_add(50) / 100;
    if tenths < 600 {
        return format!("{}.{}s", tenths / 10, tenths % 10);
    }
    let s = tenths / 10;
    match s {
        0..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86400, s % 86400 / 3600),
    }
}

/// What a host said, on one line and without anything that would steer a terminal.
pub fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    words.filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A sentence for a terminal of `width` columns, of which the first two are taken: broken between words, and first of all between
/// its parts, so that the command that a part names is on one line. Nothing is broken without a terminal, or where that is narrow.
pub fn fold(text: &str, width: Option<u16>) -> String {
    let room = usize::from(width.unwrap_or(0)).saturating_sub(2);
    if room < 40 || text.chars().count() <= room {
        return text.to_owned();
    }
    let mut lines = vec![String::new()];
    let mut put = |part: &str, room: usize| {
        let line = lines.last_mut().map(|line| (line.chars().count(), line));
        let Some((taken, line)) = line else { return };
        let gap = usize::from(taken > 0);
        if taken > 0 && taken + gap + part.chars().count() > room {
            lines.push(part.to_owned());
        } else {
            *line += if gap == 1 { " " } else { "" };
            *line += part;
        }
    };
    for part in text.split_inclusive("; ").map(str::trim_end) {
        if part.chars().count() <= room {
            put(part, room);
        } else {
            part.split(' ').for_each(|word| put(word, room));
        }
    }
    lines.join("\n  ")
}

/// How long ago `then` was: "12s ago".
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let d = Duration::try_from(now.duration_since(then)).unwrap_or_default();
    if d < Duration::from_secs(60) {
        format!("{}s ago", d.as_secs())
    } else {
        format!("{} ago", brief(d))
    }
}

/// A moment to the second, UTC: "2026-11-23 22:53:58Z".
pub fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_as_a_person_would_write_them() {
        assert_eq!(count(1, "host"), "1 host");
        assert_eq!(count(0, "host"), "0 hosts");
        assert_eq!(list(&["a", "b", "c"], 2), "a, b and 1 more");
        assert_eq!(brief(Duration::from_millis(420)), "0.4s");
        assert_eq!(brief(Duration::from_millis(59_960)), "1m00s");
        assert_eq!(brief(Duration::from_secs(130)), "2m10s");
        assert_eq!(brief(Duration::from_secs(11_100)), "3h05m");
        assert_eq!(brief(Duration::from_secs(4 * 86_400 + 7300)), "4d02h");
        let told = "instance 1 is there twice, on kvm1 (runs) and kvm2 (off): nothing is done to either; vmss instance settle 1 ends it";
        assert_eq!(fold(told, None), told);
        assert_eq!(fold(told, Some(200)), told);
        assert_eq!(
            fold(told, Some(80)),
            "instance 1 is there twice, on kvm1 (runs) and kvm2 (off): nothing is done to\n  either; vmss instance settle 1 ends it"
        );
        assert_eq!(
            fold(
                "the pool can't be seen: it is not active; virsh pool-start default there may mend it",
                Some(60)
            ),
            "the pool can't be seen: it is not active;\n  virsh pool-start default there may mend it"
        );
        assert_eq!(one_line("no\n  \u{1b}[2Jroom\r\n"), "no [2Jroom");
    }
}
