//! Metrics of what looks like a set's and is not, or is not as the record says.

use super::family::{Families, PerSet};
use super::{Area, View, count};
use crate::ownership::Strangeness;

/// Every kind of stranger, with its name in the label.
const STRANGERS: [(Strangeness, &str); 8] = [
    (Strangeness::Copied, "copied"),
    (Strangeness::Renamed, "renamed"),
    (Strangeness::NoNote, "no-note"),
    (Strangeness::Garbled, "garbled"),
    (Strangeness::Forgotten, "forgotten"),
    (Strangeness::Beyond, "beyond"),
    (Strangeness::Disowned, "disowned"),
    (Strangeness::Elsewhere, "elsewhere"),
];

/// The metrics.
pub struct Odd {
    domains: PerSet,
    unclaimed: PerSet,
    record_old: PerSet,
}

impl Area for Odd {
    fn register(families: &mut Families) -> Self {
        Self {
            domains: families.gauge(
                "vmss_odd_domains",
                "Domains that look like instances and are none (copied, renamed, no-note, garbled, forgotten, beyond, disowned, \
                 elsewhere), instances that are there twice (double), and those that are not as the record says (moved, older, \
                 newer); pairs of hosts that are one (twins)",
            ),
            unclaimed: families.gauge(
                "vmss_unclaimed_volumes",
                "Volumes in the pool of a host that have an instance's name and are no instance's",
            ),
            record_old: families.gauge(
                "vmss_record_old",
                "Whether notes on the hosts are newer than the record: then nothing is changed",
            ),
        }
    }

    fn take(&self, view: &View<'_>) {
        let odd = &view.inventory.odd;
        let strangers = STRANGERS.iter().map(|(why, kind)| {
            let there = odd.strangers.iter().filter(|s| s.why == *why).count();
            (*kind, there)
        });
        let others = [
            ("double", odd.doubles.len()),
            ("moved", odd.moved.len()),
            ("older", odd.older.len()),
            ("newer", odd.newer.len()),
            ("twins", odd.twins.len()),
        ];
        // Those that nothing is of are told as well: an alert on a series that is not there never fires.
        let all = strangers.chain(others);
        let kinds = all.map(|(kind, n)| (vec![("kind", kind.to_owned())], count(n)));
        self.domains.put(view.set, kinds);
        let hosts = view.inventory.hosts.iter().filter(|h| h.seen().is_some());
        let unclaimed = hosts.map(|host| {
            let there = view.unclaimed.iter().filter(|on| **on == host.name).count();
            (vec![("host", host.name.to_string())], count(there))
        });
        self.unclaimed.put(view.set, unclaimed);
        self.record_old
            .put_one(view.set, super::flag(odd.is_record_old()));
    }
}
