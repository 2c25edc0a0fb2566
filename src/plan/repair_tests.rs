//! Repairs: situations, each with the plan it must give, and properties that hold at every step of random ones.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::action::Action;
use super::forecast::obey;
use super::report::Wait;
use super::testing::{DRAWN, Scene, at, cases, label, model};
use super::{Experience, Plan, Situation, plan};
use crate::health::State;
use crate::inventory::{Answer, HostView, Instance, Phase, Power, Protection, View};
use crate::model::ImageDigest;
use crate::names::InstanceId;
use crate::ownership::sort_out;
use crate::plan::action::Step;
use crate::record::Record;
use crate::repairs::Asked;
use crate::scaleset::{Amount, Probe, Repair, RepairAction};
use crate::units::Bytes;

/// What guests and hosts are like in a show.
#[derive(Clone, Debug, Default)]
struct Fate {
    /// Answer badly until they are repaired.
    sick: BTreeSet<InstanceId>,
    /// Answer badly whatever is done about them.
    incurable: BTreeSet<InstanceId>,
    /// Crash right after each start.
    crashing: BTreeSet<InstanceId>,
    /// Whether whatever is repaired or made is no better.
    cursed: bool,
    /// Can't be started.
    stuck: BTreeSet<InstanceId>,
    /// Hosts out of sight, as they are; and whether their guests run.
    away: Vec<(HostView, bool)>,
}

/// A set on its way, played on an inventory that obeys.
struct Show {
    scene: Scene,
    fate: Fate,
    now: i64,
    /// Every batch of steps, with the second it was planned in.
    acts: Vec<(i64, Vec<Step>)>,
    most_under_way: usize,
    most_present: usize,
}

fn rules(action: RepairAction) -> Repair {
    Repair {
        enabled: true,
        action,
        max_concurrent: Amount::Count(1),
        ..Repair::default()
    }
}

fn id(n: u64) -> InstanceId {
    InstanceId(n)
}

impl Show {
    /// `instances` healthy ones on each domain's only host, watched every 5 s.
    fn new(instances: &[u64], repair: Repair) -> Self {
        let mut scene = Scene::new(&vec![1; instances.len()]);
        scene.set.health.probe = Probe::Tcp { port: 80 };
        scene.set.health.grace_period = Duration::from_secs(60);
        scene.set.repair = repair;
        let mut next = 0;
        for (domain, n) in instances.iter().enumerate() {
            for _ in 0..*n {
                next += 1;
                scene.add(&format!("d{domain}h0"), next);
            }
        }
        scene.record.capacity = u32::try_from(next).unwrap();
        let mut show = Self {
            scene,
            fate: Fate::default(),
            now: 1000,
            acts: Vec::new(),
            most_under_way: 0,
            most_present: 0,
        };
        for _ in 0..2 {
            show.look();
            show.now += 5;
        }
        show
    }

    fn look(&mut self) {
        let fate = &self.fate;
        for host in &mut self.scene.inventory.hosts {
            if let View::Seen(seen) = &mut host.view {
                for i in seen
                    .instances
                    .iter_mut()
                    .filter(|i| fate.crashing.contains(&i.id))
                {
                    i.power = Power::Crashed;
                }
            }
        }
        let said = |i: &Instance, alive: bool| {
            let good = alive && !fate.sick.contains(&i.id) && !fate.incurable.contains(&i.id);
            Answer::status(if good { 200 } else { 503 }, Some("Service Unavailable"), None)
        };
        let runs = |i: &&Instance| i.power == Power::Running && i.meta.phase == Phase::Ready;
        let written_off = &self.scene.record.written_off;
        let mut answers: std::collections::BTreeMap<_, _> = (self.scene.inventory.instances().filter(runs))
            .filter(|i| !written_off.contains_key(&i.id))
            .map(|i| (i.id, said(i, true)))
            .collect();
        for (host, alive) in &fate.away {
            let known = |i: &&Instance| self.scene.record.known.get(&i.id).is_some_and(|k| !k.stopped);
            let hidden = host.seen().unwrap().instances.iter().filter(known);
            answers.extend(hidden.map(|i| (i.id, said(i, *alive))));
        }
        self.scene.inventory.answers = answers;
        sort_out(&self.scene.record, &mut self.scene.inventory);
        let (inventory, health) = (self.scene.inventory.clone(), self.scene.set.health.clone());
        self.scene.record.absorb(&inventory);
        self.scene.record.heed(&inventory, &health, at(self.now));
        self.most_under_way = self.most_under_way.max(self.record().repair.under_way.len());
        self.most_present = self.most_present.max(self.present());
    }

    fn record(&self) -> &Record {
        &self.scene.record
    }

    /// Instances that count, seen or not.
    fn present(&self) -> usize {
        self.record().known.values().filter(|k| k.confirmed).count()
    }

    fn plan(&self) -> Plan {
        plan(Situation {
            now: at(self.now),
            ..self.scene.situation()
        })
    }

    /// One plan, carried out. Whether the run goes on.
    fn step(&mut self) -> bool {
        self.look();
        let plan = self.plan();
        let record = &mut self.scene.record;
        let seen = record.rollout.clone();
        let steered = plan.rollout.is_some_and(|next| record.steer(seen.as_ref(), next));
        if let Some(next) = plan.repair {
            record.repair = next;
        }
        record.write_off(&plan.lost, at(self.now));
        record.reserve(&plan.steps, DRAWN, at(self.now));
        self.most_under_way = self.most_under_way.max(self.record().repair.under_way.len());
        if plan.steps.is_empty() {
            let goes_on = steered || !plan.lost.is_empty() || plan.again.is_some();
            if let Some(at) = plan.again {
                self.now = self.now.max(at.as_second()).max(self.now + 1);
            }
            return goes_on;
        }
        self.carry_out(&plan.steps);
        self.acts.push((self.now, plan.steps));
        self.now += 1;
        true
    }

    fn carry_out(&mut self, steps: &[Step]) {
        let mut done = Vec::new();
        for step in steps {
            if let Action::Start(instance) = &step.action
                && self.fate.stuck.contains(&instance.id)
            {
                let lesson = super::Lesson::Failed("no such bridge".into());
                self.scene.experience.learn(step, lesson);
                continue;
            }
            if let Some(id) = step.action.restarted() {
                if self.fate.cursed {
                    self.fate.sick.insert(id);
                } else if !matches!(step.action, Action::Start(_)) {
                    self.fate.sick.remove(&id);
                }
            }
            done.push(step.clone());
        }
        let record = self.scene.record.clone();
        obey(&mut self.scene.inventory, &done, |n| {
            record.revision(n).map(|r| &r.model)
        });
    }

    /// One run of a command: until nothing is left to do now.
    fn run(&mut self) {
        self.scene.experience = Experience::default();
        for _ in 0..1000 {
            if !self.step() {
                return;
            }
        }
        panic!("it goes on for ever: {:?}", self.acts.last());
    }

    /// A run every five seconds.
    fn watch(&mut self, seconds: i64) {
        let end = self.now + seconds;
        while self.now < end {
            self.run();
            self.now += 5;
        }
    }

    fn ask(&mut self) {
        self.scene.record.repair.asked = Some(Asked {
            by: "ann".into(),
            at: at(self.now),
        });
    }

    fn lose(&mut self, host: &str, alive: bool) {
        let view = (self.scene.inventory.hosts.iter_mut())
            .find(|h| h.name.as_str() == host)
            .unwrap();
        self.fate.away.push((view.clone(), alive));
        view.view = View::Unseen {
            reason: "connection refused".into(),
        };
    }

    fn find(&mut self, host: &str) {
        let Some(at) = self.fate.away.iter().position(|(h, _)| h.name.as_str() == host) else {
            return;
        };
        let (back, alive) = self.fate.away.remove(at);
        let view = (self.scene.inventory.hosts.iter_mut())
            .find(|h| h.name.as_str() == host)
            .unwrap();
        *view = back;
        if let View::Seen(seen) = &mut view.view
            && !alive
        {
            seen.instances.iter_mut().for_each(|i| i.power = Power::Off);
        }
    }

    fn instance(&mut self, id: u64) -> &mut Instance {
        (self.scene.inventory.hosts.iter_mut())
            .filter_map(|h| match &mut h.view {
                View::Seen(seen) => Some(seen),
                View::Unseen { .. } => None,
            })
            .flat_map(|h| h.instances.iter_mut())
            .find(|i| i.id.0 == id)
            .unwrap()
    }

    fn lines(&self) -> Vec<String> {
        let line = |s: &Step| format!("{} {} {}", s.host, s.action.verb(), s.action.subject());
        self.acts
            .iter()
            .flat_map(|(_, steps)| steps.iter().map(line))
            .collect()
    }

    fn waits(&self) -> Vec<String> {
        self.plan().report.waits.iter().map(ToString::to_string).collect()
    }

    fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.scene.inventory.instances().map(|i| i.id.0).collect();
        ids.sort_unstable();
        ids
    }

    fn healthy(&self) -> usize {
        self.plan().report.healthy
    }
}

#[test]
fn nothing_is_repaired_unless_it_is_enabled_or_asked_for() {
    let mut off = rules(RepairAction::Restart);
    off.enabled = false;
    let mut show = Show::new(&[2, 2], off);
    show.fate.sick.insert(id(2));
    show.watch(1200);
    assert_eq!((show.lines(), show.waits()), (vec![], vec![]));
    show.ask();
    show.run();
    assert_eq!(show.lines(), ["d0h0 restart web-2"]);
    assert_eq!(show.healthy(), 4, "who asks waits for what becomes of it");
    assert_eq!(show.record().repair.asked, None, "and has it once");
}

#[test]
fn each_action_mends_after_the_grace_period_and_no_sooner() {
    for (action, lines) in [
        (RepairAction::Restart, vec!["d0h0 restart web-2"]),
        (RepairAction::Reimage, vec!["d0h0 reimage web-2"]),
        (
            RepairAction::Replace,
            vec!["d0h0 create web-5", "d0h0 delete web-2"],
        ),
    ] {
        let mut show = Show::new(&[2, 2], rules(action));
        show.fate.sick.insert(id(2));
        // Two answers make it unhealthy, and that is when its grace period begins.
        show.watch(10);
        let since = show.record().vitals[&id(2)].since;
        show.watch(590);
        assert_eq!(show.lines(), Vec::<String>::new(), "{action:?}");
        assert_eq!(
            show.waits(),
            [
                "instance 2 is unhealthy (503 Service Unavailable): not repaired before 00:26:55Z (repair.grace_period)"
            ]
        );
        show.watch(60);
        let mut did = show.lines();
        did.sort();
        assert_eq!(did, lines, "{action:?}");
        assert_eq!(show.acts[0].0, since.as_second() + 600, "{action:?}");
        assert_eq!((show.healthy(), show.present()), (4, 4), "{action:?}");
        assert_eq!(show.waits(), Vec::<String>::new());
    }
}

#[test]
fn the_reason_of_a_repair_says_since_when_and_what_it_said() {
    let mut show = Show::new(&[2], rules(RepairAction::Restart));
    show.fate.sick.insert(id(2));
    show.watch(700);
    let step = &show.acts[0].1[0];
    assert_eq!(
        step.why.as_ref(),
        "repair: unhealthy since 00:16:55Z: 503 Service Unavailable"
    );
    let Action::Restart { shutdown, .. } = &step.action else {
        panic!("{step:?}")
    };
    assert_eq!(
        *shutdown, show.scene.set.scale_in.shutdown,
        "who says 503 can be asked to shut down"
    );
}

#[test]
fn it_is_repaired_to_its_own_revision_in_its_own_domain() {
    for action in [RepairAction::Reimage, RepairAction::Replace] {
        let mut show = Show::new(&[2, 2, 2], rules(action));
        let mut newer = model();
        newer.image.digest = ImageDigest("cd".repeat(32));
        show.scene.record.adopt_model(newer, at(show.now));
        show.fate.sick.insert(id(3));
        show.watch(800);
        let revisions: BTreeSet<u32> = show
            .scene
            .inventory
            .instances()
            .map(|i| i.meta.revision)
            .collect();
        assert_eq!(
            (revisions, show.healthy()),
            (BTreeSet::from([1]), 6),
            "{action:?}"
        );
        for host in &show.scene.inventory.hosts {
            assert_eq!(host.seen().unwrap().instances.len(), 2, "{action:?}");
        }
    }
}

#[test]
fn without_room_for_both_the_broken_one_goes_first() {
    let mut show = Show::new(&[2, 1], rules(RepairAction::Replace));
    show.scene.host("d0h0").memory = Bytes::gib(3);
    show.fate.sick.insert(id(2));
    show.watch(800);
    assert_eq!(show.lines(), ["d0h0 delete web-2", "d0h0 create web-4"]);
    assert_eq!((show.healthy(), show.most_present), (3, 3));
}

#[test]
fn where_its_domain_can_take_no_other_the_capacity_makes_it_elsewhere() {
    let mut show = Show::new(&[2, 1], rules(RepairAction::Replace));
    show.scene.host("d0h0").memory = Bytes::gib(1);
    show.fate.sick.insert(id(2));
    show.watch(800);
    assert_eq!(show.lines(), ["d0h0 delete web-2", "d1h0 create web-4"]);
    assert!(show.record().repair.under_way.is_empty());
}

#[test]
fn no_more_than_max_concurrent_are_repaired_at_once_and_the_rest_is_told() {
    let mut show = Show::new(&[3, 3], rules(RepairAction::Restart));
    show.fate.sick.extend([id(1), id(2), id(5)]);
    while show.acts.is_empty() {
        show.run();
        show.now += 5;
    }
    assert_eq!(show.lines(), ["d0h0 restart web-1"]);
    let waits = show.waits();
    assert_eq!(
        waits,
        [
            "repaired, and not known to be healthy yet: instance 1 is starting (200)",
            "repair takes 1 at a time (repair.max_concurrent); waiting for their turn: instance 2 is unhealthy (503 \
             Service Unavailable), instance 5 is unhealthy (503 Service Unavailable)"
        ]
    );
    show.watch(100);
    assert_eq!((show.healthy(), show.most_under_way), (6, 1));
}

#[test]
fn more_bad_ones_than_max_unhealthy_are_an_outage_which_ends_by_itself() {
    let mut show = Show::new(&[2, 2], rules(RepairAction::Replace));
    show.fate.sick.extend([id(1), id(2), id(3)]);
    show.watch(1200);
    assert_eq!(show.lines(), Vec::<String>::new());
    let waits = show.waits();
    assert!(
        waits[0].starts_with(
            "3 of 4 instances are not healthy, more than repair.max_unhealthy = 50 % allows: this looks like an outage \
             rather than broken instances, and none is repaired until it is over (instance 1 is unhealthy"
        ),
        "{waits:?}"
    );
    show.fate.sick.remove(&id(1));
    show.watch(200);
    assert_eq!(show.healthy(), 4, "two of four are no outage: {:?}", show.waits());
}

#[test]
fn starting_stopped_and_protected_ones_are_never_repaired() {
    let mut show = Show::new(&[3, 3], rules(RepairAction::Replace));
    show.instance(1).meta.protection = Protection::All;
    let stopped = show.instance(2);
    (stopped.power, stopped.meta.stopped) = (Power::Off, true);
    show.fate.sick.extend([id(1), id(2)]);
    show.watch(4000);
    assert_eq!(show.lines(), Vec::<String>::new());
    assert_eq!(
        show.waits(),
        ["protected, and so not repaired: instance 1 is unhealthy (503 Service Unavailable)"]
    );
    // One that takes its time to start is not unhealthy.
    show.scene.set.health.grace_period = Duration::from_secs(7200);
    let vital = crate::health::Vital::new(at(show.now));
    show.scene.record.vitals.insert(id(3), vital);
    show.fate.sick.insert(id(3));
    show.watch(4000);
    assert_eq!(show.lines(), Vec::<String>::new());
}

#[test]
fn one_that_is_off_is_started_at_once_and_never_repaired_for_it() {
    let mut show = Show::new(&[2], rules(RepairAction::Replace));
    show.instance(2).power = Power::Crashed;
    show.watch(3000);
    assert_eq!(show.lines(), ["d0h0 start web-2"]);
    assert_eq!(show.healthy(), 2);
    assert!(
        !show.record().repair.starts.is_empty(),
        "half an hour is not long enough to forget it"
    );
    show.watch(1000);
    assert!(show.record().repair.starts.is_empty(), "an hour is");
}

#[test]
fn a_crash_loop_is_started_ever_more_slowly_and_makes_no_instances() {
    let mut off = rules(RepairAction::Replace);
    off.enabled = false;
    let mut show = Show::new(&[2], off);
    show.fate.crashing.insert(id(2));
    show.watch(3600);
    assert_eq!(show.lines(), vec!["d0h0 start web-2"; 9]);
    assert_eq!((show.ids(), show.present()), (vec![1, 2], 2));
    let waits = show.waits();
    assert!(
        waits[0]
            .starts_with("instance 2 on d0h0 has crashed again after 9 starts: not started again before 01:"),
        "{waits:?}"
    );
    show.acts.clear();
    show.watch(3600);
    assert_eq!(show.lines().len(), 2);
}

#[test]
fn a_crash_loop_without_a_probe_is_slowed_down_and_repaired_too() {
    let mut show = Show::new(&[2], rules(RepairAction::Replace));
    show.scene.set.health.probe = Probe::None;
    show.fate.crashing.insert(id(2));
    show.watch(900);
    assert!(
        show.lines()
            .ends_with(&["d0h0 delete web-2".into(), "d0h0 create web-3".into()]),
        "{:?}",
        show.lines()
    );
    assert_eq!(show.ids(), [1, 3]);
    assert!(show.acts.last().unwrap().0 - show.acts[0].0 >= 600);
}

#[test]
fn when_all_that_is_made_crashes_repair_stops_and_vms_do_not_multiply() {
    let mut show = Show::new(&[2, 2], rules(RepairAction::Replace));
    show.fate.cursed = true;
    show.fate.sick.insert(id(2));
    show.watch(40_000);
    let made = show.lines().iter().filter(|l| l.contains("create")).count();
    assert_eq!((made, show.present()), (3, 4));
    let waits = show.waits();
    assert_eq!(
        waits,
        [
            "repair is suspended: 3 repairs in a row did not lead to a healthy instance: the last was of instance 6, which was \
             replaced at 01:26:57Z, and instance 7 did not get well (503 Service Unavailable); vmss repair --resume goes \
             on (it would repair: instance 7 is unhealthy (503 Service Unavailable))"
        ]
    );
}

#[test]
fn one_whose_repair_fails_waits_longer_each_time() {
    let mut show = Show::new(&[4, 4], rules(RepairAction::Restart));
    show.fate.incurable.insert(id(2));
    show.watch(900);
    let waits = show.waits();
    assert_eq!(waits.len(), 1, "{waits:?}");
    let second = show.acts[0].0;
    // It is unhealthy a minute after its repair, and has a grace period of ten; its repairs are twenty apart, then forty.
    show.watch(1000);
    assert_eq!(show.acts.len(), 2);
    assert!(
        (1200..1210).contains(&(show.acts[1].0 - second)),
        "{:?}",
        show.acts
    );
    show.watch(700);
    let waits = show.waits();
    assert!(
        waits[0].starts_with(
            "instance 2 is unhealthy (503 Service Unavailable) after 2 repairs: not repaired again before 01:"
        ),
        "{waits:?}"
    );
}

#[test]
fn a_repair_that_succeeds_breaks_the_row_of_failures() {
    let mut show = Show::new(&[4, 4], rules(RepairAction::Restart));
    show.fate.incurable.insert(id(2));
    show.watch(2200);
    assert_eq!(show.record().repair.failures, 2);
    show.fate.sick.insert(id(3));
    show.watch(700);
    assert_eq!(
        (
            show.record().repair.failures,
            show.record().repair.suspended.as_ref()
        ),
        (0, None)
    );
}

#[test]
fn one_that_can_not_be_started_is_repaired() {
    let mut show = Show::new(&[2], rules(RepairAction::Replace));
    show.instance(2).power = Power::Off;
    show.fate.stuck.insert(id(2));
    show.watch(1000);
    assert_eq!((show.ids(), show.healthy()), (vec![1, 3], 2));
}

#[test]
fn a_paused_one_is_repaired_after_the_grace_period() {
    let mut show = Show::new(&[2], rules(RepairAction::Restart));
    show.instance(2).power = Power::Paused;
    show.watch(300);
    assert_eq!(
        show.waits(),
        ["instance 2 is failed: not repaired before 00:26:50Z (repair.grace_period)"]
    );
    show.watch(400);
    let Action::Restart { shutdown, .. } = &show.acts[0].1[0].action else {
        panic!("{:?}", show.acts)
    };
    assert!(shutdown.is_zero(), "a paused guest can't hear");
    assert_eq!(show.healthy(), 2);
}

#[test]
fn who_asks_waits_for_repairs_but_never_for_a_grace_period() {
    let mut off = rules(RepairAction::Restart);
    off.enabled = false;
    let mut show = Show::new(&[2, 2], off);
    show.fate.sick.insert(id(2));
    let began = show.now;
    show.ask();
    show.run();
    assert!(show.now - began < 30, "{}", show.now - began);
    assert_eq!(
        show.record().vitals[&id(2)].sign,
        crate::health::Sign::Unhealthy,
        "it looked until it knew"
    );
    assert_eq!(show.lines(), Vec::<String>::new());
    assert_eq!(show.record().repair.asked, None);
}

#[test]
fn a_lost_host_is_given_up_after_its_time_and_its_instances_made_elsewhere() {
    let mut show = Show::new(&[2, 2, 2], rules(RepairAction::Replace));
    show.lose("d1h0", false);
    show.watch(890);
    assert_eq!(show.lines(), Vec::<String>::new());
    assert!(
        show.waits()
            .iter()
            .any(|w| w.starts_with("host d1h0 is not given up before 00:31:50Z (repair.host_lost_after)")),
        "{:?}",
        show.waits()
    );
    show.watch(60);
    assert_eq!(show.lines(), ["d0h0 create web-7", "d2h0 create web-8"]);
    assert_eq!((show.present(), show.most_present), (6, 6));
    assert_eq!(
        show.record().written_off.keys().copied().collect::<Vec<_>>(),
        [id(3), id(4)]
    );
    assert_eq!(show.record().written_off[&id(3)].host, label("d1h0"));
    // It comes back with its guests running: there is one too many of each, and these are they.
    show.find("d1h0");
    show.acts.clear();
    show.watch(60);
    assert_eq!(show.lines(), ["d1h0 delete web-3", "d1h0 delete web-4"]);
    assert!(
        show.acts[0].1[0]
            .why
            .starts_with("its host was given up at 1970-01-01 00:31:5"),
        "{}",
        show.acts[0].1[0].why
    );
    assert!(show.record().written_off.is_empty());
    assert_eq!(
        (show.present(), show.most_present),
        (6, 6),
        "they never count again"
    );
}

#[test]
fn a_lost_host_is_no_dead_host_while_its_guests_answer() {
    let mut show = Show::new(&[2, 2, 2], rules(RepairAction::Replace));
    show.lose("d1h0", true);
    show.fate.sick.insert(id(4));
    show.watch(2000);
    assert_eq!(
        show.lines(),
        ["d0h0 create web-7"],
        "only the one that does not answer is replaced"
    );
    assert!(
        show.waits().contains(
            &"host d1h0 has been out of sight since 00:16:50Z, but instance 3 there still answers: left alone".into()
        ),
        "{:?}",
        show.waits()
    );
}

#[test]
fn when_everything_is_out_of_sight_it_is_vmss_that_is_cut_off() {
    let mut show = Show::new(&[2, 2], rules(RepairAction::Replace));
    show.lose("d0h0", false);
    show.lose("d1h0", false);
    show.watch(4000);
    assert!(show.record().written_off.is_empty());
    assert!(
        show.waits().iter().any(|w| w.contains("looks like an outage")),
        "{:?}",
        show.waits()
    );
}

#[test]
fn a_host_that_is_back_in_time_has_its_instances_kept_and_their_grace_period_begins_anew() {
    let mut show = Show::new(&[2, 2, 2], rules(RepairAction::Restart));
    show.lose("d1h0", false);
    show.watch(800);
    show.find("d1h0");
    show.fate.sick.insert(id(3));
    show.watch(500);
    assert_eq!(show.lines(), ["d1h0 start web-3", "d1h0 start web-4"]);
    assert_eq!((show.healthy(), show.present()), (5, 6));
}

#[test]
fn without_a_probe_over_the_network_a_lost_host_can_not_speak_for_itself() {
    for probe in [Probe::None, Probe::Agent] {
        let mut show = Show::new(&[2, 2, 2], rules(RepairAction::Replace));
        show.scene.set.health.probe = probe;
        show.lose("d1h0", true);
        // What no host tells, nobody hears.
        for (host, _) in &mut show.fate.away {
            if let View::Seen(seen) = &mut host.view {
                seen.instances.clear();
            }
        }
        show.watch(1000);
        assert_eq!(show.record().written_off.len(), 2);
    }
}

#[test]
fn protected_and_stopped_ones_on_a_lost_host_are_not_given_up() {
    let mut show = Show::new(&[2, 2, 2], rules(RepairAction::Replace));
    show.instance(3).meta.protection = Protection::All;
    let stopped = show.instance(4);
    (stopped.power, stopped.meta.stopped) = (Power::Off, true);
    show.look();
    show.lose("d1h0", false);
    show.watch(2000);
    assert!(show.record().written_off.is_empty() && show.lines().is_empty());
    assert!(
        show.waits()
            .iter()
            .any(|w| w.contains("instance 3 there is protected: not replaced"))
    );
}

#[test]
fn a_set_on_its_way_out_takes_what_was_given_up_with_it() {
    let mut show = Show::new(&[2, 2, 2], rules(RepairAction::Replace));
    show.lose("d1h0", false);
    show.watch(1000);
    show.find("d1h0");
    show.scene.record.life = crate::record::Life::Deleting;
    show.run();
    assert_eq!(show.ids(), Vec::<u64>::new());
}

#[test]
fn what_a_rollout_is_to_change_is_left_to_it() {
    let mut show = Show::new(&[2, 2], rules(RepairAction::Replace));
    show.fate.sick.insert(id(2));
    show.watch(590);
    let mut newer = model();
    newer.image.digest = ImageDigest("cd".repeat(32));
    show.scene.record.adopt_model(newer, at(show.now));
    let rules = crate::scaleset::Upgrade::default();
    let rollout = crate::rollout::Rollout::new(1, (1, 2), rules, "ann".into(), at(show.now));
    show.scene.record.rollout = Some(rollout);
    show.watch(600);
    assert!(
        !show.lines().iter().any(|l| l.contains("delete")),
        "{:?}",
        show.lines()
    );
    assert_eq!(show.healthy(), 4);
}

#[test]
fn scaling_while_one_is_replaced_ends_at_the_capacity() {
    for wanted in [1u32, 2, 3, 6] {
        let mut show = Show::new(&[2, 2], rules(RepairAction::Replace));
        show.fate.sick.insert(id(2));
        while show.record().repair.under_way.is_empty() {
            show.step();
            show.now += 5;
        }
        show.scene.record.capacity = wanted;
        show.watch(200);
        assert_eq!(
            (show.present(), show.healthy()),
            (wanted as usize, wanted as usize),
            "{:?}",
            show.lines()
        );
        assert!(show.record().repair.under_way.is_empty());
    }
}

/// Something that happens in a random show.
#[derive(Clone, Debug)]
enum Event {
    Sick(u64),
    Incurable(u64),
    Crash(u64),
    CrashLoop(u64),
    Pause(u64),
    Lose(usize, bool),
    Find(usize),
    Scale(u32),
    Ask,
    Killed,
}

fn events() -> impl Strategy<Value = Event> {
    let some = || 1u64..9;
    prop_oneof![
        4 => some().prop_map(Event::Sick),
        2 => some().prop_map(Event::Incurable),
        2 => some().prop_map(Event::Crash),
        1 => some().prop_map(Event::CrashLoop),
        1 => some().prop_map(Event::Pause),
        2 => (0usize..3, any::<bool>()).prop_map(|(h, alive)| Event::Lose(h, alive)),
        2 => (0usize..3).prop_map(Event::Find),
        1 => (1u32..9).prop_map(Event::Scale),
        1 => Just(Event::Ask),
        1 => Just(Event::Killed),
    ]
}

#[derive(Clone, Debug)]
struct Plot {
    instances: Vec<u64>,
    action: RepairAction,
    most: u32,
    enabled: bool,
    cursed: bool,
    probed: bool,
    protected: Vec<u64>,
    events: Vec<(i64, Event)>,
}

fn plots() -> impl Strategy<Value = Plot> {
    (
        prop::collection::vec(1u64..4, 1..4),
        prop_oneof![
            Just(RepairAction::Restart),
            Just(RepairAction::Reimage),
            Just(RepairAction::Replace)
        ],
        1u32..4,
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.15),
        prop::bool::weighted(0.85),
        prop::collection::vec(1u64..9, 0..2),
        prop::collection::vec((0i64..900, events()), 1..7),
    )
        .prop_map(
            |(instances, action, most, enabled, cursed, probed, protected, events)| Plot {
                instances,
                action,
                most,
                enabled,
                cursed,
                probed,
                protected,
                events,
            },
        )
}

impl Show {
    fn is_there(&self, n: u64) -> bool {
        self.scene.inventory.instances().any(|i| i.id.0 == n)
    }

    fn happens(&mut self, event: &Event) {
        match *event {
            Event::Sick(n) => _ = self.fate.sick.insert(id(n)),
            Event::Incurable(n) => _ = self.fate.incurable.insert(id(n)),
            Event::CrashLoop(n) => _ = self.fate.crashing.insert(id(n)),
            Event::Crash(n) if self.is_there(n) => self.instance(n).power = Power::Crashed,
            Event::Pause(n) if self.is_there(n) => self.instance(n).power = Power::Paused,
            Event::Lose(h, alive) => {
                let name = format!("d{h}h0");
                let hosts = &self.scene.inventory.hosts;
                if hosts
                    .iter()
                    .any(|host| host.name.as_str() == name && host.seen().is_some())
                {
                    self.lose(&name, alive);
                }
            }
            Event::Find(h) => self.find(&format!("d{h}h0")),
            Event::Scale(n) => self.scene.record.capacity = n,
            Event::Ask => self.ask(),
            // Before anything of the last plan was done: it is planned anew.
            Event::Killed => {
                let plan = self.plan();
                if let Some(next) = plan.repair {
                    self.scene.record.repair = next;
                }
                self.scene.record.write_off(&plan.lost, at(self.now));
                self.scene.record.reserve(&plan.steps, DRAWN, at(self.now));
            }
            Event::Crash(_) | Event::Pause(_) => {}
        }
    }

    /// No id is alive twice, seen or not.
    fn is_double(&self) -> bool {
        let hidden = self
            .fate
            .away
            .iter()
            .flat_map(|(h, _)| &h.seen().unwrap().instances);
        let mut ids: Vec<InstanceId> = self
            .scene
            .inventory
            .instances()
            .chain(hidden)
            .map(|i| i.id)
            .collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        ids.len() != all
    }
}

fn speaks_of(wait: &Wait, id: InstanceId) -> bool {
    let among = |all: &Vec<super::report::Ailing>| all.iter().any(|a| a.instance == id);
    match wait {
        Wait::Outage { instances, .. }
        | Wait::RepairSuspended { instances, .. }
        | Wait::RepairGrace { instances, .. }
        | Wait::RepairHealth { instances }
        | Wait::RepairUnsure { instances }
        | Wait::RepairBudget { instances, .. }
        | Wait::RepairProtected { instances } => among(instances),
        Wait::RepairBackoff { instance, .. } => instance.instance == id,
        Wait::StartBackoff { instance, .. } | Wait::Paused { instance, .. } => *instance == id,
        Wait::Failed { subject, .. } => *subject == format!("web-{id}"),
        _ => false,
    }
}

proptest! {
    #![proptest_config(cases(10_000))]

    /// Whatever breaks, whenever: at no look are more than `max_concurrent` repairs under way, nor more instances there
    /// than capacity and those that are just being replaced (scale in aside); what is protected is left alone; no id is
    /// alive twice; nothing is started more than ten times in an hour; in the end the set is healthy, or each instance
    /// that is not has a wait that says what it waits on; and planning then is empty.
    #[test]
    fn repair_keeps_its_promises_at_every_step(plot in plots()) {
        let repair = Repair {
            enabled: plot.enabled,
            max_concurrent: Amount::Count(plot.most),
            grace_period: Duration::from_secs(60),
            host_lost_after: Duration::from_secs(120),
            ..rules(plot.action)
        };
        let mut show = Show::new(&plot.instances, repair);
        show.scene.set.health.interval = Duration::from_secs(30);
        if !plot.probed {
            show.scene.set.health.probe = Probe::None;
        }
        show.fate.cursed = plot.cursed;
        for n in &plot.protected {
            if show.is_there(*n) {
                show.instance(*n).meta.protection = Protection::All;
            }
        }
        let protected: Vec<InstanceId> = (show.scene.inventory.instances())
            .filter(|i| i.meta.protection == Protection::All)
            .map(|i| i.id)
            .collect();
        show.look();
        let began = show.now;
        let mut events = plot.events.clone();
        events.sort_by_key(|(when, _)| std::cmp::Reverse(*when));
        let mut most_capacity = show.scene.record.capacity as usize;
        let mut quiet = 0;
        // Everything is back in sight after a while, and then it is watched until nothing happens for long. What crashes
        // again and again is started for ever: it is watched for four hours.
        loop {
            while events.last().is_some_and(|(when, _)| began + when <= show.now) {
                let (_, event) = events.pop().unwrap();
                show.happens(&event);
                most_capacity = most_capacity.max(show.scene.record.capacity as usize);
                quiet = 0;
            }
            if events.is_empty() && show.now > began + 1200 {
                for host in 0..3 {
                    show.find(&format!("d{host}h0"));
                }
            }
            let acts = show.acts.len();
            show.run();
            prop_assert!(!show.is_double(), "an id is alive twice");
            prop_assert!(show.most_under_way <= plot.most as usize, "{} repairs at once", show.most_under_way);
            prop_assert!(
                show.most_present <= most_capacity + plot.most as usize,
                "{} where {most_capacity} are wanted", show.most_present
            );
            quiet = if show.acts.len() == acts { quiet + 1 } else { 0 };
            if events.is_empty() && show.now > began + 1500 && (quiet > 20 || show.now > began + 4 * 3600) {
                break;
            }
            show.now += if events.is_empty() && quiet > 5 { 120 } else { 30 };
        }
        for (_, steps) in &show.acts {
            for step in steps {
                let touches = step.action.instance().is_some_and(|id| protected.contains(&id));
                prop_assert!(!touches || matches!(step.action, Action::Start(_)), "{step:?} on a protected one");
            }
        }
        let starts: Vec<(i64, InstanceId)> = (show.acts.iter())
            .flat_map(|(when, steps)| steps.iter().map(move |s| (*when, s)))
            .filter(|(_, s)| matches!(s.action, Action::Start(_)))
            .filter_map(|(when, s)| Some((when, s.action.instance()?)))
            .collect();
        for (when, id) in &starts {
            let in_the_hour = starts.iter().filter(|(w, i)| i == id && (*when..*when + 3600).contains(w)).count();
            prop_assert!(in_the_hour <= 10, "instance {id} was started {in_the_hour} times in an hour");
        }
        show.look();
        let last = show.plan();
        let waits = &last.report.waits;
        if plot.enabled {
            for i in show.scene.inventory.instances() {
                let state = State::of(i, show.record().vitals.get(&i.id), &show.scene.set.health);
                let starts = last.steps.iter().any(|s| s.action.instance() == Some(i.id));
                let told = waits.iter().any(|w| speaks_of(w, i.id));
                prop_assert!(!state.is_bad() || starts || told, "nobody says what {} waits on: {waits:?}", i.id);
            }
        }
        let wanted = show.scene.record.capacity as usize;
        let excused = waits.iter().any(|w| matches!(w, Wait::NoRoom { .. } | Wait::Protected { .. }));
        prop_assert!(show.present() == wanted || excused, "{} of {wanted}: {waits:?}", show.present());
        if show.healthy() == wanted && show.present() == wanted {
            prop_assert!(last.steps.is_empty() && last.repair.is_none() && last.lost.is_empty(), "{:?}", last.steps);
            // Where the instances of a random set are is nothing that waits.
            let is_told = |w: &Wait| matches!(w, Wait::RepairSuspended { .. } | Wait::Uneven { .. });
            prop_assert!(waits.iter().all(is_told), "{waits:?}");
        }
        prop_assert!(show.record().written_off.is_empty(), "what was given up is gone once its host is back");
    }
}
