//! Capacities for a time: `vmss scale N --for 2h`, `vmss scale N --at 18:00`. Pure.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::autoscale::Pin;

/// A capacity that was asked for from some time on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// The capacity.
    pub capacity: u32,
    /// When it begins.
    pub from: Timestamp,
    /// When it ends; `None`: never.
    pub until: Option<Timestamp>,
    /// Who asked for it, as `user@machine`.
    pub by: String,
    /// The capacity that it goes back to; `None` before it has begun.
    #[serde(default)]
    pub before: Option<u32>,
    /// What holds instead, while instances that are protected from scale in keep it from its own capacity.
    #[serde(default)]
    pub kept_at: Option<u32>,
}

impl Timed {
    /// Whether it holds the capacity.
    pub const fn holds(&self) -> bool {
        self.before.is_some()
    }

    /// Whether its end has come.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// Something that the time has brought about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Turn {
    /// A capacity begins to hold, or is set once; or one that holds gets what protection has kept it from.
    Began {
        /// Whose.
        timed: Timed,
        /// The capacity before.
        from: u32,
        /// The capacity from now on.
        to: u32,
        /// How many instances are protected from scale in, if that keeps it from the capacity that is wanted.
        protected: Option<u32>,
    },
    /// A capacity has ended.
    Ended {
        /// Whose.
        timed: Timed,
        /// The capacity it goes back to; `None`: it was changed meanwhile, or the autoscaler decides from here.
        to: Option<u32>,
        /// How many instances are protected from scale in, if that keeps it from going back all the way.
        protected: Option<u32>,
    },
    /// Its time had passed before anybody looked.
    Missed {
        /// Whose.
        timed: Timed,
    },
}

impl Turn {
    /// Whose turn it is.
    pub const fn timed(&self) -> &Timed {
        match self {
            Self::Began { timed, .. } | Self::Ended { timed, .. } | Self::Missed { timed } => timed,
        }
    }
}

/// What is due at `now`: the capacity, what is left of `all`, and what happened. With a policy in force (`is_scaled`)
/// nothing goes back by itself: the policy brings it down as far as its metrics allow.
///
/// The capacity never goes below the number of instances that are `protected` from scale in: no run could ever bring that
/// about.
pub fn due(
    all: &[Timed],
    capacity: u32,
    protected: u32,
    is_scaled: bool,
    now: Timestamp,
) -> (u32, Vec<Timed>, Vec<Turn>) {
    let mut capacity = capacity;
    let mut left: Vec<Timed> = Vec::new();
    let mut turns = Vec::new();
    let reached = |wanted: u32, capacity: u32| wanted.max(protected.min(capacity));
    let kept = |wanted: u32, to: u32| (to != wanted).then_some(protected);
    for timed in all.iter().filter(|t| t.holds()) {
        let is_unchanged = capacity == timed.kept_at.unwrap_or(timed.capacity);
        if timed.is_over(now) {
            let back = timed.before.filter(|_| is_unchanged && !is_scaled);
            let to = back.map(|back| reached(back, capacity));
            turns.push(Turn::Ended {
                timed: timed.clone(),
                to,
                protected: back.zip(to).and_then(|(back, to)| kept(back, to)),
            });
            capacity = to.unwrap_or(capacity);
            continue;
        }
        let mut timed = timed.clone();
        let to = reached(timed.capacity, capacity);
        if timed.kept_at.is_some() && is_unchanged && to != capacity {
            turns.push(Turn::Began {
                timed: timed.clone(),
                from: capacity,
                to,
                protected: kept(timed.capacity, to),
            });
            timed.kept_at = kept(timed.capacity, to).and(Some(to));
            capacity = to;
        }
        left.push(timed);
    }
    let mut coming: Vec<&Timed> = all.iter().filter(|t| !t.holds()).collect();
    coming.sort_by_key(|t| t.from);
    for timed in coming {
        if timed.from > now {
            left.push(timed.clone());
        } else if timed.is_over(now) {
            turns.push(Turn::Missed { timed: timed.clone() });
        } else {
            let to = reached(timed.capacity, capacity);
            turns.push(Turn::Began {
                timed: timed.clone(),
                from: capacity,
                to,
                protected: kept(timed.capacity, to),
            });
            // One that begins takes the place of one that holds, and of what that would go back to.
            let before = (left.iter().filter(|t| t.holds()))
                .filter_map(|t| t.before)
                .next();
            left.retain(|t| !t.holds());
            if timed.until.is_some() {
                left.push(Timed {
                    before: Some(before.unwrap_or(capacity)),
                    kept_at: kept(timed.capacity, to).and(Some(to)),
                    ..timed.clone()
                });
            }
            capacity = to;
        }
    }
    (capacity, left, turns)
}

/// The capacity that holds now, whatever a policy says.
pub fn pin(all: &[Timed]) -> Option<Pin> {
    let timed = all.iter().find(|t| t.holds())?;
    Some(Pin {
        capacity: timed.capacity,
        by: timed.by.clone(),
        until: timed.until?,
    })
}

/// When each of them begins or ends, whichever is to come; that may be past if nobody has carried it out.
pub fn moments(all: &[Timed]) -> impl Iterator<Item = Timestamp> {
    (all.iter()).filter_map(|t| if t.holds() { t.until } else { Some(t.from) })
}

/// Since when something should have begun or ended that nobody has carried out, once whoever evaluates every minute must
/// have come by.
pub fn overdue(all: &[Timed], now: Timestamp) -> Option<Timestamp> {
    (moments(all).min()).filter(|due| now.duration_since(*due) > PATIENCE)
}

/// An evaluation each minute, and one that took as long.
const PATIENCE: SignedDuration = SignedDuration::from_mins(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + 3600 * hour).unwrap()
    }

    fn timed(capacity: u32, from: i64, until: Option<i64>) -> Timed {
        Timed {
            capacity,
            from: at(from),
            until: until.map(at),
            by: "ann@vm".to_owned(),
            before: None,
            kept_at: None,
        }
    }

    /// Where nothing is protected.
    fn due(all: &[Timed], capacity: u32, is_scaled: bool, now: Timestamp) -> (u32, Vec<Timed>, Vec<Turn>) {
        super::due(all, capacity, 0, is_scaled, now)
    }

    #[test]
    fn one_for_a_while_holds_and_goes_back() {
        let asked = [timed(9, 2, Some(4))];
        let (capacity, left, turns) = due(&asked, 3, false, at(1));
        assert_eq!((capacity, left.as_slice(), turns.len()), (3, asked.as_slice(), 0));
        let (capacity, left, _) = due(&asked, 3, false, at(2));
        assert_eq!((capacity, left[0].before), (9, Some(3)));
        assert_eq!(pin(&left).map(|p| p.capacity), Some(9));
        let (capacity, left, _) = due(&left, 9, false, at(3));
        assert_eq!((capacity, moments(&left).min()), (9, Some(at(4))));
        let (capacity, left, turns) = due(&left, 9, false, at(4));
        assert_eq!((capacity, left.len()), (3, 0));
        assert!(matches!(turns[0], Turn::Ended { to: Some(3), .. }));
    }

    #[test]
    fn what_nobody_carries_out_is_overdue_when_it_should_have_begun_and_when_it_should_have_ended() {
        let minutes = |hour: i64, minutes: i64| at(hour) + SignedDuration::from_mins(minutes);
        let asked = [timed(9, 2, Some(4)), timed(5, 7, None)];
        assert_eq!(overdue(&asked, at(1)), None);
        assert_eq!(overdue(&asked, minutes(2, 2)), None);
        assert_eq!(overdue(&asked, minutes(2, 3)), Some(at(2)));
        let (_, holds, _) = due(&asked, 3, false, minutes(2, 3));
        assert_eq!(overdue(&holds, at(4)), None);
        assert_eq!(overdue(&holds, minutes(4, 3)), Some(at(4)));
        assert_eq!(overdue(&[], at(9)), None);
    }

    #[test]
    fn one_without_an_end_is_set_once() {
        let (capacity, left, _) = due(&[timed(9, 2, None)], 3, false, at(5));
        assert_eq!((capacity, left.len()), (9, 0));
    }

    #[test]
    fn a_capacity_that_was_changed_meanwhile_is_left_alone() {
        let (_, left, _) = due(&[timed(9, 0, Some(4))], 3, false, at(0));
        assert_eq!(due(&left, 12, false, at(4)).0, 12);
        assert_eq!(due(&left, 9, true, at(4)).0, 9, "a policy decides from here");
    }

    #[test]
    fn one_that_begins_goes_no_lower_than_protection_and_as_low_as_it_may_once_that_is_taken_back() {
        let asked = [timed(1, 0, Some(4))];
        let (capacity, held, turns) = super::due(&asked, 5, 3, false, at(0));
        assert_eq!((capacity, held[0].kept_at), (3, Some(3)));
        let began = |turn: &Turn| match turn {
            Turn::Began {
                from, to, protected, ..
            } => Some((*from, *to, *protected)),
            _ => None,
        };
        assert_eq!(began(&turns[0]), Some((5, 3, Some(3))));
        let (capacity, again, turns) = super::due(&held, 3, 3, false, at(1));
        assert_eq!((capacity, &again, turns.len()), (3, &held, 0), "it is said once");
        let (capacity, lower, turns) = super::due(&held, 3, 2, false, at(1));
        assert_eq!((capacity, began(&turns[0])), (2, Some((3, 2, Some(2)))));
        let (capacity, lowest, turns) = super::due(&lower, 2, 0, false, at(2));
        assert_eq!((capacity, began(&turns[0])), (1, Some((2, 1, None))));
        for (left, capacity) in [(held, 3), (lower, 2), (lowest, 1)] {
            let (back, left, _) = super::due(&left, capacity, capacity, false, at(4));
            assert_eq!((back, left.len()), (5, 0), "it goes back to what was before it");
        }
        assert_eq!(super::due(&asked, 1, 3, false, at(0)).0, 1, "nothing is raised");
        assert_eq!(super::due(&[timed(1, 0, None)], 5, 3, false, at(0)).0, 3);
    }

    #[test]
    fn one_that_ends_goes_back_no_lower_than_protection() {
        let (_, held, _) = due(&[timed(9, 0, Some(4))], 3, false, at(0));
        let (capacity, left, turns) = super::due(&held, 9, 5, false, at(4));
        assert_eq!((capacity, left.len()), (5, 0));
        assert!(matches!(
            turns[0],
            Turn::Ended {
                to: Some(5),
                protected: Some(5),
                ..
            }
        ));
    }

    #[test]
    fn one_whose_time_has_passed_is_missed() {
        let (capacity, left, turns) = due(&[timed(9, 0, Some(4))], 3, false, at(5));
        assert_eq!((capacity, left.len()), (3, 0));
        assert!(matches!(turns[0], Turn::Missed { .. }));
    }

    #[test]
    fn one_that_begins_takes_the_place_of_another_and_goes_back_to_what_was_before_both() {
        let (capacity, left, _) = due(&[timed(9, 0, Some(8))], 3, false, at(0));
        let mut all = left;
        all.push(timed(12, 2, Some(4)));
        let (capacity, left, _) = due(&all, capacity, false, at(2));
        assert_eq!((capacity, left.len()), (12, 1));
        assert_eq!(due(&left, 12, false, at(4)).0, 3);
    }
}
