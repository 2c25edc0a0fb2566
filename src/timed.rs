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
}

impl Timed {
    /// Whether it holds the capacity.
    pub const fn holds(&self) -> bool {
        self.before.is_some()
    }
}

/// Something that the time has brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A capacity begins to hold, or is set once.
    Began {
        /// Whose.
        timed: Timed,
        /// The capacity before.
        from: u32,
    },
    /// A capacity has ended.
    Ended {
        /// Whose.
        timed: Timed,
        /// The capacity it goes back to; `None`: it was changed meanwhile, or the autoscaler decides from here.
        to: Option<u32>,
    },
    /// Its time had passed before anybody looked.
    Missed {
        /// Whose.
        timed: Timed,
    },
}

/// What is due at `now`: the capacity, what is left of `all`, and what happened. With a policy in force (`is_scaled`)
/// nothing goes back by itself: the policy brings it down as far as its metrics allow.
pub fn due(all: &[Timed], capacity: u32, is_scaled: bool, now: Timestamp) -> (u32, Vec<Timed>, Vec<Turn>) {
    let mut capacity = capacity;
    let mut left: Vec<Timed> = Vec::new();
    let mut turns = Vec::new();
    let is_over = |t: &Timed| t.until.is_some_and(|until| until <= now);
    for timed in all.iter().filter(|t| t.holds() && is_over(t)) {
        let to = timed.before.filter(|_| capacity == timed.capacity && !is_scaled);
        capacity = to.unwrap_or(capacity);
        turns.push(Turn::Ended {
            timed: timed.clone(),
            to,
        });
    }
    left.extend(all.iter().filter(|t| t.holds() && !is_over(t)).cloned());
    let mut coming: Vec<&Timed> = all.iter().filter(|t| !t.holds()).collect();
    coming.sort_by_key(|t| t.from);
    for timed in coming {
        if timed.from > now {
            left.push(timed.clone());
        } else if is_over(timed) {
            turns.push(Turn::Missed { timed: timed.clone() });
        } else {
            turns.push(Turn::Began {
                timed: timed.clone(),
                from: capacity,
            });
            // One that begins takes the place of one that holds, and of what that would go back to.
            let before = (left.iter().filter(|t| t.holds()))
                .filter_map(|t| t.before)
                .next();
            left.retain(|t| !t.holds());
            if timed.until.is_some() {
                left.push(Timed {
                    before: Some(before.unwrap_or(capacity)),
                    ..timed.clone()
                });
            }
            capacity = timed.capacity;
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

/// When the next thing is due, now or later.
pub fn next(all: &[Timed]) -> Option<Timestamp> {
    (all.iter())
        .filter_map(|t| if t.holds() { t.until } else { Some(t.from) })
        .min()
}

/// Since when something should have begun or ended that nobody has carried out, once whoever evaluates every minute must
/// have come by.
pub fn overdue(all: &[Timed], now: Timestamp) -> Option<Timestamp> {
    next(all).filter(|due| now.duration_since(*due) > PATIENCE)
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
        }
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
        assert_eq!((capacity, next(&left)), (9, Some(at(4))));
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
