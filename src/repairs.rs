//! What a set's record holds of repair: what was asked for, what is under way, what was tried how often, and why it has
//! stopped. Part of the record, so that repairs back off and suspend themselves whoever runs them, and go on after a
//! `kill -9`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::health::later;
use crate::names::{InstanceId, Label};
use crate::scaleset::RepairAction;

/// Repair of one set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Repairs {
    /// Somebody asked for it once, whether or not it is enabled. Cleared when nothing is left that could be done now.
    pub asked: Option<Asked>,
    /// Why it begins nothing more until `vmss repair --resume`: a sentence.
    pub suspended: Option<String>,
    /// Repairs in a row, over the whole set, that did not lead to a healthy instance.
    pub failures: u32,
    /// Repairs that were begun and whose end is not known yet, by the instance that was broken.
    pub under_way: BTreeMap<InstanceId, Mending>,
    /// How often an instance was repaired without having been healthy for long since. One that takes another's place
    /// takes over its count: a set in which every new instance breaks must not make ever more of them.
    pub tries: BTreeMap<InstanceId, Tries>,
    /// How often an instance was started because it was off, without having been healthy for long since.
    pub starts: BTreeMap<InstanceId, Tries>,
}

/// A request to repair what is due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Who asked, as `user@machine`.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// A repair that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mending {
    /// By what.
    pub action: RepairAction,
    /// When it began.
    pub began: Timestamp,
    /// The revision of the broken instance: what it is repaired to.
    pub revision: u32,
    /// Its fault domain: where the one that takes its place goes.
    pub fault_domain: Label,
    /// The instance that takes its place, if one was made already.
    pub fresh: Option<InstanceId>,
}

/// How often something was tried, and when last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tries {
    /// How often.
    pub count: u32,
    /// When last.
    pub last: Timestamp,
}

/// The wait after the first start of an instance that was off; it doubles with each.
const FIRST_START: Duration = Duration::from_secs(10);
/// The longest wait between two starts of an instance. So one that crashes again and again is started nine times in its
/// first hour and twice in every other.
const LONGEST_START: Duration = Duration::from_secs(30 * 60);
/// The longest wait between two repairs of an instance.
const LONGEST_REPAIR: Duration = Duration::from_secs(6 * 3600);
/// How long an instance must have been healthy before what was tried on it is forgotten.
pub const FORGET_AFTER: Duration = Duration::from_secs(3600);

impl Tries {
    /// One more than `before`.
    pub fn after(before: Option<&Self>, now: Timestamp) -> Self {
        Self {
            count: before.map_or(0, |t| t.count).saturating_add(1),
            last: now,
        }
    }

    /// When the instance may be started again: 10 s after the first start, then 20 s, 40 s, and so on up to 30 min
    /// (own; the rule comes from CloudStack, which once made 30,000 VMs of a crash loop for a maximum of 4).
    pub fn next_start(&self) -> Timestamp {
        self.next(FIRST_START, LONGEST_START)
    }

    /// When the instance may be repaired again: after twice the grace period, four times, and so on up to six hours.
    pub fn next_repair(&self, grace: Duration) -> Timestamp {
        self.next(grace.saturating_mul(2), LONGEST_REPAIR)
    }

    fn next(&self, first: Duration, longest: Duration) -> Timestamp {
        let factor = 2u32.saturating_pow(self.count.saturating_sub(1));
        later(self.last, first.saturating_mul(factor).min(longest))
    }
}

/// An instance that was given up with its host: because the host was out of sight for long, or because the set was ended without
/// it. It counts for nothing, and if it is seen again it is switched off and deleted, its volumes with it unless it has data
/// disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenOff {
    /// Its UUID.
    pub uuid: Uuid,
    /// The host it was on.
    pub host: Label,
    /// When it was given up.
    pub at: Timestamp,
    /// Addresses vmss gave it: nobody else gets them as long as its guest may still run with them.
    #[serde(default)]
    pub addresses: Vec<Option<Ipv4Addr>>,
    /// Whether it has data disks, as far as the record knew what it was made of.
    #[serde(default)]
    pub has_data_disks: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn starts_are_ten_seconds_apart_then_twenty_and_half_an_hour_in_the_end() {
        let mut tries = Tries::after(None, at(0));
        let mut gaps = Vec::new();
        for _ in 0..10 {
            let next = tries.next_start();
            gaps.push(next.as_second() - tries.last.as_second());
            tries = Tries::after(Some(&tries), next);
        }
        assert_eq!(gaps, [10, 20, 40, 80, 160, 320, 640, 1280, 1800, 1800]);
    }

    #[test]
    fn no_count_is_too_high_to_wait_for() {
        let tries = Tries {
            count: u32::MAX,
            last: at(0),
        };
        assert_eq!(tries.next_start(), at(1800));
        assert_eq!(tries.next_repair(Duration::from_secs(600)), at(6 * 3600));
    }
}
