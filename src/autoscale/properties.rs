//! What always holds, whatever the policy and whatever is measured.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::calendar::{Cron, Zone};
use super::policy::{Autoscale, Change, Direction, MaxScaleIn, Operator, Rule, Schedule, Target};
use super::testing::{MINUTE, Stage, policy, rule, target};
use super::{Decision, Move, Sample};
use crate::scaleset::Amount;

/// What happens in one minute: the load of the set, what goes wrong.
#[derive(Clone, Copy, Debug)]
struct Minute {
    load: f64,
    measured: bool,
    seen: bool,
    missing: u32,
}

fn minutes() -> impl Strategy<Value = Vec<Minute>> {
    let minute =
        (0.0..2000.0_f64, 0..10_u8, 0..10_u8, 0..20_u32).prop_map(|(load, measured, seen, missing)| Minute {
            load,
            measured: measured > 0,
            seen: seen > 0,
            missing: missing.saturating_sub(18),
        });
    // Loads last for a while: one that jumps each minute shows nothing of windows.
    let stretch = (minute, 1..12_usize).prop_map(|(minute, n)| vec![minute; n]);
    prop::collection::vec(stretch, 1..14).prop_map(|stretches| stretches.concat())
}

fn change(out: bool) -> impl Strategy<Value = Change> {
    let amount = prop_oneof![
        (1..6_u32).prop_map(Amount::Count),
        (1..60_u32).prop_map(Amount::Percent)
    ];
    prop_oneof![
        4 => amount.prop_map(move |a| if out { Change::Out(a) } else { Change::In(a) }),
        1 => (0..25_u32).prop_map(Change::To),
    ]
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let one = (any::<bool>(), 10.0..90.0_f64, 0..8_u64, 0..20_u64).prop_flat_map(
        |(out, threshold, window, cooldown)| {
            change(out).prop_map(move |change| {
                let mut rule = rule("host.cpu > 75: out 1");
                rule.operator = if out { Operator::Above } else { Operator::Below };
                (rule.threshold, rule.change) = (threshold, change);
                (rule.window, rule.cooldown) = (
                    Duration::from_secs(60 * window),
                    Duration::from_secs(60 * cooldown),
                );
                rule
            })
        },
    );
    prop::collection::vec(one, 0..4)
}

fn targets() -> impl Strategy<Value = Vec<Target>> {
    let one = (10.0..90.0_f64, 0..8_u64).prop_map(|(value, window)| {
        let mut target = target("host.cpu", value);
        target.window = Duration::from_secs(60 * window);
        target
    });
    prop::collection::vec(one, 0..2)
}

fn span() -> impl Strategy<Value = Option<Duration>> {
    prop::option::of((0..20_u64).prop_map(|n| Duration::from_secs(60 * n)))
}

/// A minimum that comes and goes every few minutes.
fn schedules() -> impl Strategy<Value = Vec<Schedule>> {
    let one = (2..30_u32, 1..20_u64, 0..30_u32).prop_map(|(every, minutes, min)| Schedule {
        name: "often".to_owned(),
        start: Cron::new(&format!("*/{every} * * * *"), Zone::utc()).unwrap(),
        duration: Duration::from_secs(60 * minutes),
        min,
    });
    prop::collection::vec(one, 0..2)
}

fn policies() -> impl Strategy<Value = Autoscale> {
    let bounds = (0..6_u32, 0..20_u32, 0..20_u32);
    let limit = prop::option::of((1..50_u32, 1..20_u64));
    let times = (span(), span(), span());
    (rules(), targets(), schedules(), bounds, times, limit).prop_map(
        |(rules, targets, schedules, (min, more, default), (out, inward, stabilization), limit)| {
            let mut policy = policy(&[], &[]);
            let profile = &mut policy.profiles[0];
            (profile.min, profile.max) = (min, min + more);
            profile.default = (min + default).min(profile.max);
            (profile.rules, profile.targets) = (rules, targets);
            (policy.cooldown_out, policy.cooldown_in) = (out, inward);
            policy.schedules = schedules;
            policy.stabilization = stabilization.unwrap_or_default();
            policy.max_scale_in = limit.map(|(percent, minutes)| MaxScaleIn {
                count: Amount::Percent(percent),
                per: Duration::from_secs(60 * minutes),
            });
            policy
        },
    )
}

/// A run with every decision, and the set as it was before it.
fn run(policy: &Autoscale, capacity: u32, minutes: &[Minute]) -> Vec<(Decision, Minute)> {
    let mut set = Stage::new(policy.clone(), capacity);
    let mut decisions = Vec::new();
    for minute in minutes {
        set.wait(MINUTE);
        set.unseen = if minute.seen {
            Vec::new()
        } else {
            vec!["kvm1".to_owned()]
        };
        set.problems.clear();
        if minute.measured {
            let counted = set.capacity.saturating_sub(minute.missing);
            let value = (minute.load / f64::from(counted.max(1))).min(100.0);
            if let Some(mut sample) = Sample::each("host.cpu", set.now, value, counted) {
                sample.missing = minute.missing.min(set.capacity);
                set.samples.push(sample);
            }
        } else if minute.load > 1000.0 {
            // Or nobody says why.
            set.problems
                .insert("host.cpu".to_owned(), "nobody answers".to_owned());
        }
        decisions.push((set.tick(), *minute));
    }
    decisions
}

fn minutes_between(a: Timestamp, b: Timestamp) -> SignedDuration {
    b.duration_since(a)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_capacity_stays_within_its_bounds(policy in policies(), capacity in 0..40_u32, minutes in minutes()) {
        let profile = &policy.profiles[0];
        for (decision, _) in run(&policy, capacity, &minutes) {
            prop_assert!(decision.to >= profile.min, "{}", decision.reason);
            // A schedule's minimum holds as far as the maximum allows.
            let floor = policy.floor_at(decision.at).map_or(0, |f| f.min.min(profile.max));
            prop_assert!(decision.to >= floor, "{}", decision.reason);
            // Above the maximum it never goes further up; down it goes as fast as the limit allows, if the set is seen.
            prop_assert!(decision.to <= profile.max.max(decision.from), "{}", decision.reason);
        }
    }

    #[test]
    fn every_decision_has_its_reason(policy in policies(), capacity in 0..40_u32, minutes in minutes()) {
        for (decision, _) in run(&policy, capacity, &minutes) {
            let verb = match decision.to.cmp(&decision.from) {
                std::cmp::Ordering::Greater => "out from ",
                std::cmp::Ordering::Less => "in from ",
                std::cmp::Ordering::Equal => "stays at ",
            };
            prop_assert!(decision.reason.starts_with(verb), "{}", decision.reason);
            prop_assert!(decision.reason.split(": ").nth(1).is_some_and(|why| !why.is_empty()));
            prop_assert_eq!(decision.moved == Move::None, decision.to == decision.from);
        }
    }

    #[test]
    fn nothing_is_taken_away_unseen_or_unmeasured(policy in policies(), capacity in 0..40_u32, minutes in minutes()) {
        for (decision, minute) in run(&policy, capacity, &minutes) {
            if decision.to < decision.from {
                prop_assert!(minute.seen, "{}", decision.reason);
                let measured = minute.measured && minute.missing == 0;
                prop_assert!(measured || !policy.profiles[0].is_measured(), "{}", decision.reason);
            }
        }
    }

    #[test]
    fn a_cooldown_is_kept(policy in policies(), capacity in 0..40_u32, minutes in minutes()) {
        let mut last: Option<(Timestamp, Duration)> = None;
        for (decision, _) in run(&policy, capacity, &minutes) {
            let Move::By { direction, cooldown } = decision.moved else { continue };
            if let Some((at, shared)) = last {
                let own = match direction {
                    Direction::Out => policy.cooldown_out,
                    Direction::In => policy.cooldown_in,
                };
                let span = SignedDuration::try_from(own.unwrap_or(shared)).unwrap();
                prop_assert!(minutes_between(at, decision.at) >= span, "{}", decision.reason);
            }
            last = Some((decision.at, cooldown));
        }
    }

    /// The same load on fewer instances does not scale out what was just scaled in.
    #[test]
    fn no_cut_is_undone_under_the_same_load(policy in policies(), capacity in 1..40_u32, load in 0.0..2000.0_f64) {
        let mut policy = policy;
        (policy.cooldown_out, policy.stabilization) = (Some(Duration::ZERO), Duration::ZERO);
        for rule in &mut policy.profiles[0].rules {
            rule.window = Duration::ZERO;
        }
        let mut set = Stage::new(policy, capacity);
        let mut was_in = false;
        for _ in 0..60 {
            set.wait(MINUTE);
            let share = load / f64::from(set.capacity.max(1));
            let decision = set.each("host.cpu", share).tick();
            if let Move::By { direction, .. } = decision.moved {
                prop_assert!(!(was_in && direction == Direction::Out), "{}", decision.reason);
                was_in |= direction == Direction::In;
            }
        }
    }

    /// A target orders more if what is ordered leaves each more than a tenth above it, and only then, however few of what is
    /// ordered are there yet.
    #[test]
    fn a_target_orders_more_only_if_what_is_ordered_is_too_few(
        value in 10.0..90.0_f64, capacity in 1..40_u32, coming in 0..40_u32, load in 0.0..4000.0_f64
    ) {
        let mut policy = policy(&[], &[("work", value)]);
        policy.profiles[0].max = 1000;
        policy.profiles[0].targets[0].window = Duration::ZERO;
        let there = capacity.saturating_sub(coming).max(1);
        let mut set = Stage::new(policy, capacity);
        let sample = Sample::each("work", set.now, load / f64::from(there), there);
        set.samples.push(sample.unwrap());
        let decision = set.tick();
        let each = load / f64::from(capacity);
        // On the edge itself rounding decides.
        if (each / (value * 1.1) - 1.0).abs() > 1e-9 {
            prop_assert_eq!(decision.to > capacity, each > value * 1.1, "{}: each {}", decision.reason, each);
        }
        // Once all are there, it is content with what it has ordered.
        if decision.to > capacity {
            set.wait(MINUTE);
            let sample = Sample::each("work", set.now, load / f64::from(decision.to), decision.to);
            set.samples.push(sample.unwrap());
            let next = set.look();
            prop_assert_eq!(next.to, decision.to, "{}", next.reason);
        }
    }

    /// Scale in goes no lower than anything that was recommended within the stabilisation time.
    #[test]
    fn what_was_recommended_is_kept(policy in policies(), capacity in 0..40_u32, minutes in minutes()) {
        let window = SignedDuration::try_from(policy.stabilization).unwrap();
        let decisions = run(&policy, capacity, &minutes);
        for (i, (decision, _)) in decisions.iter().enumerate() {
            if !matches!(decision.moved, Move::By { direction: Direction::In, .. }) || window.is_zero() {
                continue;
            }
            for (earlier, _) in &decisions[..i] {
                let is_within = minutes_between(earlier.at, decision.at) <= window;
                // A maximum is not waited for.
                let kept = earlier.recommended.min(decision.max);
                prop_assert!(!is_within || kept <= decision.to, "{}", decision.reason);
            }
        }
    }
}
