//! The vectors of the clouds' documentation, and what an operator would expect beside them.

use std::time::Duration;

use super::calendar::{Cron, Day, When, Zone};
use super::policy::{
    Change, Direction, MaxScaleIn, Operator, Over, Pattern, Predict, PredictMode, Profile, Schedule,
};
use super::predict::Outlook;
use super::testing::{MINUTE, Stage, applied, at, policy, rule, target};
use super::{Move, Sample};
use crate::scaleset::Amount;

#[test]
fn a_rule_that_fires_changes_the_capacity_and_says_why() {
    let mut set = Stage::new(policy(&["host.cpu > 75: out 1", "host.cpu < 30: in 1"], &[]), 6);
    let decision = set.each("host.cpu", 82.0).tick();
    assert_eq!((decision.from, decision.to), (6, 7));
    assert_eq!(decision.reason, "out from 6 to 7: host.cpu is 82 % (> 75 %)");
    let decision = set.wait(5 * MINUTE).each("host.cpu", 60.0).tick();
    assert_eq!(decision.reason, "stays at 7: host.cpu is 60 %, and no rule fires");
    let decision = set.wait(MINUTE).each("host.cpu", 20.0).tick();
    assert_eq!(decision.reason, "in from 7 to 6: host.cpu is 20 % (< 30 %)");
}

#[test]
fn shares_round_down_but_to_one_at_least_and_a_set_rule_never_goes_against_its_sign() {
    let (above, below) = (Operator::Above, Operator::Below);
    assert_eq!(applied(Change::Out(Amount::Percent(20)), above, 3), 4);
    assert_eq!(applied(Change::Out(Amount::Percent(20)), above, 19), 22);
    assert_eq!(applied(Change::In(Amount::Percent(50)), below, 5), 3);
    assert_eq!(applied(Change::In(Amount::Count(9)), below, 5), 0);
    assert_eq!(applied(Change::To(5), above, 3), 5);
    assert_eq!(
        applied(Change::To(5), above, 8),
        8,
        "above its threshold it does not lower"
    );
    assert_eq!(applied(Change::To(5), below, 8), 5);
    assert_eq!(applied(Change::To(5), below, 3), 3);
}

#[test]
fn target_tracking_is_instances_times_measured_over_target() {
    for (n, measured, target, expected) in [
        (6, 90.0, 60.0, 9),
        (6, 61.0, 60.0, 6),
        (10, 66.0, 60.0, 10),
        (10, 67.0, 60.0, 12),
        (10, 30.0, 60.0, 5),
        (10, 54.0, 60.0, 10),
        (10, 53.0, 60.0, 9),
        (3, 60.0, 20.0, 9),
        (4, 0.0, 60.0, 1),
    ] {
        let mut set = Stage::new(policy(&[], &[("host.cpu", target)]), n);
        let decision = set.each("host.cpu", measured).tick();
        assert_eq!(
            decision.to, expected,
            "{n} × {measured} ÷ {target}: {}",
            decision.reason
        );
    }
}

/// A target whose window is as long as it is by default, after ten minutes of `load`.
fn tracking(target: f64, capacity: u32, load: f64) -> Stage {
    let mut policy = policy(&[], &[("lb.requests", target)]);
    policy.profiles[0].targets[0].window = 5 * MINUTE;
    let mut set = Stage::new(policy, capacity);
    for _ in 0..10 {
        let decision = set.wait(MINUTE).all("lb.requests", load).tick();
        assert_eq!(decision.to, capacity, "{}", decision.reason);
    }
    set
}

#[test]
fn a_target_over_a_window_goes_to_what_the_load_needs_and_not_beyond() {
    let mut set = tracking(100.0, 4, 400.0);
    let mut sizes = Vec::new();
    for _ in 0..12 {
        sizes.push(set.wait(MINUTE).all("lb.requests", 800.0).tick().to);
    }
    assert_eq!(sizes[7..], [8; 5], "{sizes:?}");
    assert!(sizes.is_sorted(), "{sizes:?}");
    let mut set = tracking(100.0, 12, 1200.0);
    let mut sizes = Vec::new();
    for _ in 0..12 {
        sizes.push(set.wait(MINUTE).all("lb.requests", 800.0).tick().to);
    }
    assert_eq!(sizes[7..], [8; 5], "{sizes:?}");
    assert!(sizes.iter().all(|size| *size >= 8), "{sizes:?}");
}

#[test]
fn a_target_does_not_shrink_by_what_went_unmeasured_in_its_window() {
    // Four new ones took half of the load, and were in their warm-up for most of the window.
    let mut set = Stage::new(policy(&[], &[("lb.requests", 100.0)]), 8);
    set.policy.profiles[0].targets[0].window = 5 * MINUTE;
    set.capacity = 4;
    for _ in 0..5 {
        set.each("lb.requests", 100.0).wait(MINUTE);
    }
    set.capacity = 8;
    let decision = set.each("lb.requests", 100.0).tick();
    assert_eq!(decision.to, 8, "{}", decision.reason);
}

#[test]
fn a_target_asks_for_no_more_because_fewer_are_measured() {
    for (each, reason) in [
        (
            80.0,
            "stays at 10: host.cpu is 80 %, its target 75 %, and no rule fires",
        ),
        (
            62.5,
            "stays at 10: host.cpu is 62.5 % (up to 115 % by all that was measured), its target 75 %, and no rule fires",
        ),
    ] {
        let mut set = Stage::new(policy(&[], &[("host.cpu", 75.0)]), 10);
        set.policy.profiles[0].targets[0].window = 5 * MINUTE;
        for _ in 0..5 {
            set.each("host.cpu", each).wait(MINUTE);
        }
        // One of its two hosts is out of sight.
        let half = super::Sample::each("host.cpu", set.now, each, 5).unwrap();
        set.samples.push(half);
        set.unseen = vec!["kvm2".to_owned()];
        assert_eq!(set.tick().reason, reason);
    }
}

#[test]
fn a_cut_goes_by_what_all_had_to_do_when_the_window_began() {
    // 12 have 67 each. 8 have 100 each, and the window still says 72.
    let mut policy = policy(&["lb.requests > 100: out 1", "lb.requests < 75: in 4"], &[]);
    for rule in &mut policy.profiles[0].rules {
        (rule.window, rule.cooldown) = (5 * MINUTE, Duration::ZERO);
    }
    let mut set = Stage::new(policy, 12);
    for _ in 0..6 {
        set.all("lb.requests", 800.0).wait(MINUTE);
    }
    assert_eq!(set.all("lb.requests", 800.0).tick().to, 8);
    for _ in 0..10 {
        let decision = set.wait(MINUTE).all("lb.requests", 800.0).tick();
        assert_eq!(decision.to, 8, "{}", decision.reason);
    }
}

#[test]
fn those_that_are_about_to_go_are_not_there_after_a_cut() {
    // 8 have 62.5 each, and two of them go. 4 would have 125.
    let rules = ["lb.requests > 90: out 1", "lb.requests < 70: in 2"];
    let mut set = Stage::new(policy(&rules, &[]), 6);
    let sample = super::Sample::each("lb.requests", set.now, 62.5, 8);
    set.samples = sample.into_iter().collect();
    let decision = set.tick();
    assert_eq!(
        decision.reason,
        "stays at 6: lb.requests is 62.5/s (< 70/s), but with 5 instances lb.requests would be 100/s (> 90/s) and scale out again"
    );
    // A target goes by what those that stay will have.
    let mut set = Stage::new(policy(&[], &[("lb.requests", 80.0)]), 6);
    let sample = super::Sample::each("lb.requests", set.now, 62.5, 8);
    set.samples = sample.into_iter().collect();
    let decision = set.tick();
    assert_eq!(
        decision.reason,
        "stays at 6: lb.requests is 83.3/s, its target 80/s, and no rule fires"
    );
}

#[test]
fn any_rule_suffices_to_scale_out_and_the_largest_result_wins() {
    let rules = [
        "host.cpu > 75: out 1",
        "lb.queue > 10: out 50%",
        "host.cpu < 30: in 1",
    ];
    let mut set = Stage::new(policy(&rules, &[]), 6);
    let decision = set.each("host.cpu", 80.0).each("lb.queue", 20.0).tick();
    assert_eq!(decision.to, 9, "{}", decision.reason);
    let mut set = Stage::new(policy(&rules, &[]), 6);
    assert_eq!(set.each("host.cpu", 80.0).each("lb.queue", 2.0).tick().to, 7);
    let mut set = Stage::new(policy(&rules, &[]), 6);
    let decision = set.each("host.cpu", 20.0).each("lb.queue", 20.0).tick();
    assert_eq!(decision.to, 9, "out beats in");
}

#[test]
fn all_scale_in_rules_must_agree_and_the_smallest_cut_wins() {
    let rules = ["host.cpu < 30: in 3", "lb.connections < 10: in 1"];
    let mut set = Stage::new(policy(&rules, &[]), 6);
    let decision = set.each("host.cpu", 20.0).each("lb.connections", 5.0).tick();
    assert_eq!(decision.to, 5, "{}", decision.reason);
    let mut set = Stage::new(policy(&rules, &[]), 6);
    let decision = set.each("host.cpu", 20.0).each("lb.connections", 50.0).tick();
    assert_eq!(
        decision.reason,
        "stays at 6: host.cpu is 20 % (< 30 %), but lb.connections is still 50 (< 10), and all must agree to scale in"
    );
}

#[test]
fn a_shared_cooldown_stops_both_directions_and_one_of_its_own_does_not() {
    // Scale in at 13:00 with a cooldown of 40 minutes, a spike at 13:20.
    let rules = || {
        let mut rules = vec![rule("host.cpu > 75: out 1"), rule("host.cpu < 30: in 1")];
        rules[1].cooldown = 40 * MINUTE;
        rules
    };
    for (cooldown_out, expected) in [(None, "13:40"), (Some(Duration::ZERO), "13:20")] {
        let mut policy = policy(&[], &[]);
        policy.profiles[0].rules = rules();
        policy.cooldown_out = cooldown_out;
        let mut set = Stage::new(policy, 6);
        set.now = at("2026-11-25T13:00:00Z");
        assert_eq!(set.each("host.cpu", 20.0).tick().to, 5);
        set.now = at("2026-11-25T13:20:00Z");
        let acted = loop {
            let decision = set.each("host.cpu", 90.0).tick();
            if decision.to > decision.from {
                break set.now.strftime("%H:%M").to_string();
            }
            assert!(
                decision.reason.contains("the cooldown lasts for another"),
                "{}",
                decision.reason
            );
            set.wait(MINUTE);
        };
        assert_eq!(acted, expected);
    }
}

#[test]
fn a_cut_that_would_be_undone_at_once_is_left_out() {
    // 1,250 threads on 3 instances, out above 600 each, in below 600 each: 2 would have 625 each.
    let rules = ["threads > 600: out 1", "threads < 600: in 1"];
    let mut set = Stage::new(policy(&rules, &[]), 3);
    let decision = set.all("threads", 1250.0).tick();
    assert_eq!(
        decision.reason,
        "stays at 3: threads is 417 (< 600), but with 2 instances threads would be 625 (> 600) and scale out again"
    );
    let mut set = Stage::new(policy(&rules, &[]), 3);
    assert_eq!(set.all("threads", 1199.0).tick().to, 2);
}

#[test]
fn a_cut_that_would_go_too_far_is_made_smaller() {
    let rules = ["threads > 600: out 1", "threads < 300: in 50%"];
    let mut set = Stage::new(policy(&rules, &[]), 10);
    let decision = set.all("threads", 2900.0).tick();
    // 5 would have 580 each, which is fine.
    assert_eq!(decision.to, 5, "{}", decision.reason);
    let mut set = Stage::new(
        policy(&["threads > 500: out 1", "threads < 300: in 50%"], &[]),
        10,
    );
    let decision = set.all("threads", 2900.0).tick();
    assert_eq!(decision.to, 6, "{}", decision.reason);
    assert_eq!(
        decision.held,
        ["in to 5 is left out: with 5 instances threads would be 580 (> 500) and scale out again"]
    );
}

#[test]
fn what_instances_have_left_shrinks_with_their_number() {
    // Out when less than 20 % of memory is free, in when more than 40 % is: 2 of 4 would have half as much each.
    let mut rules = vec![rule("free < 20: out 1"), rule("free > 40: in 2")];
    rules[0].over = Over::Average;
    let mut policy = policy(&[], &[]);
    policy.profiles[0].rules = rules;
    let mut set = Stage::new(policy, 4);
    let decision = set.each("free", 39.9).tick();
    assert_eq!(decision.to, 4);
    let decision = set.each("free", 41.0).wait(MINUTE).each("free", 41.0).tick();
    assert_eq!(decision.to, 2, "20.5 % each: {}", decision.reason);
}

#[test]
fn scale_in_goes_no_lower_than_what_was_recommended_within_the_stabilisation_time() {
    let mut policy = policy(&[], &[("host.cpu", 50.0)]);
    policy.stabilization = 10 * MINUTE;
    let mut set = Stage::new(policy, 10);
    // What is there counts as recommended at the first look.
    let decision = set.each("host.cpu", 25.0).tick();
    assert_eq!(
        decision.reason,
        "stays at 10: in to 5 is held back: within the last 10m 10 was recommended"
    );
    // A spike in between counts for ten minutes more.
    set.wait(5 * MINUTE).each("host.cpu", 40.0);
    assert_eq!(set.tick().recommended, 8);
    for minute in 6..=10 {
        let decision = set.wait(MINUTE).each("host.cpu", 25.0).tick();
        assert_eq!(decision.to, 10, "minute {minute}");
    }
    let decision = set.wait(MINUTE).each("host.cpu", 25.0).tick();
    assert_eq!(decision.to, 8, "{}", decision.reason);
    let decision = set.wait(6 * MINUTE).each("host.cpu", 31.25).tick();
    assert_eq!(decision.to, 5, "{}", decision.reason);
}

#[test]
fn somebodys_wish_counts_as_recommended() {
    let mut policy = policy(&[], &[("host.cpu", 50.0)]);
    policy.stabilization = 10 * MINUTE;
    let mut set = Stage::new(policy, 4);
    for _ in 0..15 {
        set.wait(MINUTE).each("host.cpu", 50.0).tick();
    }
    set.capacity = 12;
    for _ in 0..11 {
        let decision = set.wait(MINUTE).each("host.cpu", 16.0).tick();
        assert_eq!(decision.to, 12, "{}", decision.reason);
    }
    assert_eq!(set.wait(MINUTE).each("host.cpu", 16.0).tick().to, 4);
}

#[test]
fn scale_in_is_limited_to_a_share_of_the_largest_within_some_time() {
    let mut policy = policy(&[], &[("host.cpu", 50.0)]);
    policy.profiles[0].max = 100;
    policy.max_scale_in = Some(MaxScaleIn {
        count: Amount::Percent(10),
        per: 10 * MINUTE,
    });
    let mut set = Stage::new(policy, 100);
    let decision = set.each("host.cpu", 10.0).tick();
    assert_eq!(decision.to, 90, "{}", decision.reason);
    assert_eq!(
        decision.held,
        ["in to 20 is held back: at most 10 % of 100 may go within 10m"]
    );
    for _ in 0..9 {
        assert_eq!(set.wait(MINUTE).each("host.cpu", 10.0).tick().to, 90);
    }
    set.wait(MINUTE).each("host.cpu", 10.0).tick();
    assert_eq!(set.wait(MINUTE).each("host.cpu", 10.0).tick().to, 81);
}

#[test]
fn those_that_do_not_count_are_taken_to_be_idle_for_out_and_busy_for_in() {
    // 8 of 10 count, two are in their warm-up.
    let mut set = Stage::new(policy(&[], &[("host.cpu", 60.0)]), 10);
    set.capacity = 8;
    set.each("host.cpu", 90.0);
    set.capacity = 10;
    assert_eq!(set.look().to, 12, "8 × 90 ÷ 60, not 10 × 90 ÷ 60");
    let mut set = Stage::new(policy(&[], &[("host.cpu", 60.0)]), 10);
    set.capacity = 8;
    set.each("host.cpu", 30.0);
    set.capacity = 10;
    assert_eq!(set.look().to, 6, "8 × 30 ÷ 60 and the two");
}

#[test]
fn missing_metrics_raise_to_the_default_and_never_lower() {
    let rules = ["host.cpu > 75: out 1", "host.cpu < 30: in 1"];
    let mut set = Stage::new(policy(&rules, &[]), 2);
    let decision = set.tick();
    assert_eq!(
        decision.reason,
        "out from 2 to 4: metrics are missing, and 4 is the default"
    );
    let mut set = Stage::new(policy(&rules, &[]), 6);
    set.problems
        .insert("host.cpu".to_owned(), "nobody answers".to_owned());
    let decision = set.tick();
    assert_eq!(
        decision.reason,
        "stays at 6: metrics are missing (host.cpu was not measured yet: nobody answers)"
    );
    // What is old is missing.
    let mut set = Stage::new(policy(&rules, &[]), 6);
    let decision = set.each("host.cpu", 20.0).wait(2 * MINUTE).tick();
    assert_eq!(decision.to, 6, "{}", decision.reason);
}

#[test]
fn one_metric_that_is_missing_does_not_keep_another_from_scaling_out() {
    let rules = [
        "host.cpu > 75: out 1",
        "lb.queue > 10: out 2",
        "host.cpu < 30: in 1",
    ];
    let mut set = Stage::new(policy(&rules, &[]), 6);
    let decision = set.each("host.cpu", 80.0).tick();
    assert_eq!(decision.to, 7, "{}", decision.reason);
    let mut set = Stage::new(policy(&rules, &[]), 6);
    let decision = set.each("host.cpu", 20.0).tick();
    assert_eq!(decision.to, 6, "{}", decision.reason);
}

#[test]
fn nothing_is_taken_away_while_a_host_or_an_instance_is_out_of_sight() {
    let mut set = Stage::new(policy(&["host.cpu < 30: in 1"], &[]), 6);
    set.unseen = vec!["kvm2".to_owned()];
    let decision = set.each("host.cpu", 20.0).tick();
    assert_eq!(
        decision.reason,
        "stays at 6: in to 5 is held back: host kvm2 is out of sight"
    );
    set.unseen.clear();
    let mut sample = super::Sample::each("host.cpu", set.now, 20.0, 5).unwrap();
    sample.missing = 1;
    set.samples = std::iter::once(sample).collect();
    let decision = set.tick();
    assert_eq!(
        decision.reason,
        "stays at 6: in to 5 is held back: host.cpu could not be measured on 1 of 6 instances"
    );
    // A maximum that has come down is no reason either.
    let mut set = Stage::new(policy(&["host.cpu < 30: in 1"], &[]), 30);
    set.unseen = vec!["kvm2".to_owned()];
    assert_eq!(set.each("host.cpu", 50.0).tick().to, 30);
    set.unseen.clear();
    let decision = set.wait(MINUTE).each("host.cpu", 50.0).tick();
    assert_eq!(
        decision.reason,
        "in from 30 to 20: profile default has a maximum of 20"
    );
}

#[test]
fn bounds_hold_at_once_whatever_cools_down() {
    let mut set = Stage::new(policy(&["host.cpu > 75: out 5", "host.cpu < 30: in 1"], &[]), 18);
    let decision = set.each("host.cpu", 80.0).tick();
    assert_eq!(decision.to, 20);
    assert_eq!(
        decision.held,
        ["host.cpu is 80 % (> 75 %), but 20 is the maximum of profile default"]
    );
    let decision = set.wait(10 * MINUTE).each("host.cpu", 80.0).tick();
    assert_eq!(
        decision.reason,
        "stays at 20: host.cpu is 80 % (> 75 %), but 20 is the maximum of profile default"
    );
    set.capacity = 0;
    let decision = set.wait(2 * MINUTE).tick();
    assert_eq!(decision.to, 4, "{}", decision.reason);
    assert_eq!(decision.moved, Move::Bound);
    let mut set = Stage::new(policy(&["host.cpu < 30: in 1"], &[]), 1);
    let decision = set.each("host.cpu", 10.0).tick();
    assert_eq!(
        decision.reason,
        "stays at 1: host.cpu is 10 % (< 30 %), but 1 is the minimum of profile default"
    );
}

fn office(min: u32, max: u32, default: u32) -> Profile {
    Profile {
        name: "office hours".to_owned(),
        min,
        max,
        default,
        when: Some(When::Weekly {
            days: Day::ALL[..5].to_vec(),
            from: jiff::civil::time(8, 0, 0, 0),
            to: jiff::civil::time(18, 0, 0, 0),
            zone: Zone::new("Europe/Berlin").unwrap(),
        }),
        rules: Vec::new(),
        targets: Vec::new(),
    }
}

#[test]
fn a_date_comes_before_a_recurrence_and_that_before_the_default() {
    let mut policy = policy(&[], &[]);
    policy.profiles.push(office(6, 40, 10));
    let mut sale = office(15, 60, 30);
    sale.name = "sale".to_owned();
    sale.when = Some(When::Dates {
        from: at("2026-11-27T00:00:00Z"),
        to: at("2026-11-28T00:00:00Z"),
        zone: Zone::utc(),
    });
    policy.profiles.push(sale);
    let mut set = Stage::new(policy, 4);
    for (moment, to, reason) in [
        (
            "2026-11-25T06:59:00Z",
            4,
            "stays at 4: profile default has a default of 4",
        ),
        (
            "2026-11-25T07:00:00Z",
            10,
            "out from 4 to 10: profile office hours has a default of 10",
        ),
        (
            "2026-11-25T17:00:00Z",
            4,
            "in from 10 to 4: profile default has a default of 4",
        ),
        (
            "2026-11-27T10:00:00Z",
            30,
            "out from 4 to 30: profile sale has a default of 30",
        ),
        (
            "2026-11-28T10:00:00Z",
            4,
            "in from 30 to 4: profile default has a default of 4",
        ),
    ] {
        set.now = at(moment);
        let decision = set.tick();
        assert_eq!((decision.to, decision.reason.as_str()), (to, reason), "{moment}");
    }
}

#[test]
fn of_several_schedules_the_largest_minimum_counts_within_the_maximum() {
    let schedule = |name: &str, min, cron: &str, zone: &str| Schedule {
        name: name.to_owned(),
        start: Cron::new(cron, Zone::new(zone).unwrap()).unwrap(),
        duration: Duration::from_secs(10 * 3600),
        min,
    };
    let mut policy = policy(&["host.cpu < 30: in 1"], &[]);
    policy.schedules = vec![
        schedule("berlin", 8, "0 8 * * mon-fri", "Europe/Berlin"),
        schedule("new-york", 12, "0 8 * * mon-fri", "America/New_York"),
    ];
    // The clocks of New York are put forward on the 8th of March, those of Berlin on the 29th.
    for (moment, min) in [
        ("2026-03-06T07:30:00Z", 8),
        ("2026-03-06T12:59:00Z", 8),
        ("2026-03-06T13:00:00Z", 12),
        ("2026-03-09T11:59:00Z", 8),
        ("2026-03-09T12:00:00Z", 12),
        ("2026-03-30T05:59:00Z", 1),
        ("2026-03-30T06:00:00Z", 8),
        ("2026-03-30T12:00:00Z", 12),
        ("2026-03-30T22:00:00Z", 1),
    ] {
        let mut set = Stage::new(policy.clone(), 1);
        set.now = at(moment);
        let decision = set.each("host.cpu", 50.0).tick();
        assert_eq!(
            (decision.min, decision.to),
            (min, min),
            "{moment}: {}",
            decision.reason
        );
    }
    let mut set = Stage::new(policy, 8);
    set.now = at("2026-03-06T07:30:00Z");
    let decision = set.each("host.cpu", 10.0).tick();
    assert_eq!(
        decision.reason,
        "stays at 8: host.cpu is 10 % (< 30 %), but 8 is the minimum of schedule berlin"
    );
    set.policy.schedules[0].min = 100;
    let decision = set.wait(MINUTE).each("host.cpu", 50.0).tick();
    assert_eq!(decision.to, 20);
}

#[test]
fn an_operators_wish_for_a_while_stands_whatever_is_measured() {
    let mut set = Stage::new(policy(&["host.cpu > 75: out 1"], &[]), 6);
    set.pin = Some(super::Pin {
        capacity: 9,
        by: "ann@vm".to_owned(),
        until: at("2026-11-25T14:00:00Z"),
    });
    let decision = set.each("host.cpu", 90.0).tick();
    assert_eq!(decision.reason, "out from 6 to 9: ann@vm wants 9 for another 2h");
    let decision = set.wait(MINUTE).each("host.cpu", 90.0).tick();
    assert_eq!(decision.reason, "stays at 9: ann@vm wants 9 for another 1h 59m");
}

#[test]
fn several_targets_go_to_the_largest_they_need() {
    let mut policy = policy(&[], &[("host.cpu", 50.0)]);
    policy.profiles[0].targets.push(target("lb.requests", 100.0));
    let mut set = Stage::new(policy, 4);
    let decision = set.each("host.cpu", 40.0).each("lb.requests", 200.0).tick();
    assert_eq!(decision.to, 8, "{}", decision.reason);
    let decision = set
        .wait(MINUTE)
        .each("host.cpu", 10.0)
        .each("lb.requests", 80.0)
        .tick();
    assert_eq!(decision.to, 7, "{}", decision.reason);
    assert!(matches!(
        decision.moved,
        Move::By {
            direction: Direction::In,
            ..
        }
    ));
}

#[test]
fn a_set_without_instances_is_woken_by_what_waits_for_it() {
    for (rules, targets, expected) in [
        (&["jobs > 0: out 2"][..], &[][..], 2),
        (&[], &[("jobs", 100.0)], 4),
    ] {
        let mut policy = policy(rules, targets);
        (policy.profiles[0].min, policy.profiles[0].default) = (0, 0);
        let mut set = Stage::new(policy, 0);
        set.samples
            .push(super::Sample::alone("jobs", set.now, 0.0).unwrap());
        assert_eq!(set.tick().to, 0);
        set.wait(MINUTE);
        set.samples
            .push(super::Sample::alone("jobs", set.now, 350.0).unwrap());
        let decision = set.tick();
        assert_eq!(decision.to, expected, "{}", decision.reason);
    }
}

#[test]
fn what_is_protected_from_scale_in_is_a_minimum() {
    let mut set = Stage::new(policy(&["host.cpu < 30: in 4"], &[]), 6);
    set.protected = 4;
    let decision = set.each("host.cpu", 10.0).tick();
    assert_eq!(decision.to, 4);
    assert_eq!(
        decision.held,
        ["in to 2 is held back: 4 instances are protected from scale in"]
    );
    let decision = set.wait(10 * MINUTE).each("host.cpu", 10.0).tick();
    assert_eq!(
        decision.reason,
        "stays at 4: in to 1 is held back: 4 instances are protected from scale in"
    );
}

#[test]
fn what_was_measured_once_is_not_acted_on_twice() {
    let mut policy = policy(&["jobs > 5: out 1"], &[]);
    policy.profiles[0].rules[0].cooldown = Duration::ZERO;
    let mut set = Stage::new(policy, 6);
    assert_eq!(set.all("jobs", 100.0).tick().to, 7);
    // Whoever told is gone; what was told is not old yet, and no reason to think that metrics are missing.
    set.problems
        .insert("jobs".to_owned(), "connection refused".to_owned());
    let decision = set.wait(MINUTE / 2).tick();
    assert_eq!(
        decision.reason,
        "stays at 7: jobs could not be measured just now (connection refused)"
    );
    assert!(!decision.is_blind());
    // Everybody answers again, and what was counted has begun anew.
    set.problems.clear();
    let decision = set.tick();
    assert_eq!(
        decision.reason,
        "stays at 7: jobs could not be measured just now (its counters have begun anew)"
    );
}

#[test]
fn a_rule_that_fires_has_its_cooldown_though_a_prediction_moves_the_capacity_further() {
    let looking_ahead = |set: &mut Stage, capacity| {
        set.policy.predict = Some(Predict {
            mode: PredictMode::Scale,
            pattern: Pattern::Daily,
            lead: 10 * MINUTE,
            zone: Zone::utc(),
        });
        set.outlook = Some(Outlook {
            capacity,
            at: set.now,
            metric: "host.cpu".to_owned(),
            load: "540 %".to_owned(),
            periods: 5,
            pattern: Pattern::Daily,
        });
    };
    let mut set = Stage::new(policy(&[], &[("host.cpu", 60.0)]), 20);
    set.policy.profiles[0].targets[0].cooldown = 15 * MINUTE;
    looking_ahead(&mut set, 8);
    assert_eq!(
        set.each("host.cpu", 15.0).tick().to,
        8,
        "as far as what is ahead allows"
    );
    looking_ahead(&mut set, 6);
    let decision = set.wait(MINUTE).each("host.cpu", 37.5).tick();
    assert!(
        decision.reason.contains("the cooldown lasts for another 14m"),
        "{}",
        decision.reason
    );
    let mut set = Stage::new(policy(&["host.cpu > 75: out 1"], &[]), 4);
    looking_ahead(&mut set, 9);
    assert_eq!(set.each("host.cpu", 80.0).tick().to, 9);
    let decision = set.wait(MINUTE).each("host.cpu", 80.0).tick();
    assert!(
        decision.reason.contains("the cooldown lasts for another 4m"),
        "{}",
        decision.reason
    );
}

#[test]
fn an_operators_wish_goes_no_lower_than_what_is_protected_from_scale_in() {
    let mut set = Stage::new(policy(&["host.cpu > 75: out 1"], &[]), 5);
    set.pin = Some(super::Pin {
        capacity: 1,
        by: "ann@vm".to_owned(),
        until: at("2026-11-25T14:00:00Z"),
    });
    set.protected = 3;
    let decision = set.each("host.cpu", 50.0).tick();
    assert_eq!(
        decision.reason,
        "in from 5 to 3: ann@vm wants 1 for another 2h, but 3 instances are protected from scale in"
    );
    set.protected = 0;
    let decision = set.each("host.cpu", 50.0).tick();
    assert_eq!(decision.reason, "in from 3 to 1: ann@vm wants 1 for another 2h");
}

#[test]
fn a_target_orders_no_more_while_what_it_has_ordered_brings_it_within_its_tenth() {
    let mut policy = policy(&[], &[("work", 40.0)]);
    policy.profiles[0].targets[0].window = Duration::ZERO;
    let mut set = Stage::new(policy, 4);
    // The fourth is on its way: three have 55 each, and four will have 41.
    let sample = Sample::each("work", set.now, 55.0, 3).unwrap();
    set.samples.push(sample);
    let decision = set.tick();
    assert_eq!(
        decision.reason,
        "stays at 4: work is 55 (41.2 once all are there), its target 40, and no rule fires"
    );
    // More than that, and it is too few.
    set.wait(MINUTE);
    let sample = Sample::each("work", set.now, 60.0, 3).unwrap();
    set.samples.push(sample);
    assert_eq!(set.tick().reason, "out from 4 to 5: work is 60, its target 40");
}
