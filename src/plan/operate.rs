//! What an operator does to instances by hand: which steps that takes, and what speaks against it. All or nothing: if one
//! of the instances may not be touched, none is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::health::State;
use crate::inventory::{Phase, Power, Protection, Rework};
use crate::model::Disruption;
use crate::names::{InstanceId, Label};
use crate::plan::action::{Action, Step};
use crate::plan::change::{needs, rework};
use crate::plan::{Fleet, Member, Situation, odd, reference};
use crate::scaleset::Upgrade;

/// What is done to instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Switched on; "stopped on purpose" is taken back.
    Start,
    /// Shut down, and off until they are started by hand.
    Stop,
    /// Shut down and started again, as they are.
    Restart,
    /// Given a new OS disk of the current revision. Data disks, names and addresses stay (Azure's reimage, which goes to
    /// the current model).
    Reimage,
    /// Deleted; others of the current revision take their places.
    Replace,
    /// Deleted, and capacity lowered by as many (Azure's and Google's deletion of instances).
    Delete,
    /// Protected from something, or from nothing any more.
    Protect(Protection),
}

impl Operation {
    /// The verb for people.
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reimage => "reimage",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Protect(Protection::None) => "unprotect",
            Self::Protect(_) => "protect",
        }
    }

    /// Whether it interrupts what instances do: then an operator is asked first.
    pub const fn is_disruptive(self) -> bool {
        !matches!(self, Self::Start | Self::Protect(_))
    }

    /// Whether an instance with that protection is left alone by it. From scale in means from going away for good; from
    /// all actions, from everything but a start.
    const fn is_refused_by(self, protection: Protection) -> bool {
        match protection {
            Protection::None => false,
            Protection::ScaleIn => matches!(self, Self::Delete),
            Protection::All => self.is_disruptive(),
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Orders {
    /// Steps to be carried out now.
    pub steps: Vec<Step>,
    /// Instances to be noted as condemned: the loop deletes them.
    pub condemned: Vec<InstanceId>,
    /// Instances that need nothing, with the reason.
    pub idle: Vec<(InstanceId, &'static str)>,
}

/// An instance that may not be touched so, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub instance: InstanceId,
    /// Why not.
    pub why: Why,
}

/// Why an instance may not be touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is none.
    NotThere,
    /// It is on a host that can't be seen.
    Unseen(Option<Label>),
    /// It is on a host whose pool can't be seen, and its disks would be needed.
    PoolUnseen(Label),
    /// It is protected.
    Protected(Protection),
    /// The rollout under way is changing it.
    InBatch {
        /// The batch's number.
        batch: u32,
        /// The revision it goes to.
        revision: u32,
    },
    /// Another store manages it, or others of its set: two that act on one set would fight over it.
    OtherStore,
    /// It is there twice.
    Double,
    /// A domain runs that has its UUID, under another name or without a note.
    RunsAsAnother,
    /// Its note does not say what the record says, and is written anew first.
    Misnoted,
    /// Notes on the hosts were written under a later record: nothing is changed.
    RecordOld,
    /// It is half made, and will be undone.
    HalfMade,
    /// It is being deleted.
    Going,
    /// A change of it was cut short, and goes on with the next run.
    Changing,
    /// What it is made of can't become the current revision by another OS disk.
    NeedsReplacing {
        /// The current revision.
        revision: u32,
    },
}

impl fmt::Display for Why {
    /// A clause that stands after one instance or several: "host kvm2 was not seen".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotThere => f.write_str("not there"),
            Self::Unseen(Some(host)) => write!(f, "host {host} was not seen"),
            Self::PoolUnseen(host) => write!(f, "the pool on host {host} can't be seen"),
            Self::Unseen(None) => f.write_str("on a host that was not seen"),
            Self::Protected(Protection::ScaleIn) => f.write_str("protected from scale-in"),
            Self::Protected(_) => f.write_str("protected from all actions"),
            Self::InBatch { batch, revision } => {
                write!(
                    f,
                    "being changed in batch {batch} of the rollout to revision {revision}"
                )
            }
            Self::OtherStore => f.write_str("instances of the set are managed from another store"),
            Self::Double => f.write_str("there twice"),
            Self::RunsAsAnother => {
                f.write_str("there under another name, or without a note, as well, and runs there")
            }
            Self::Misnoted => f.write_str("of another kind by its note than by the record"),
            Self::RecordOld => f.write_str("the record is older than what is on the hosts"),
            Self::HalfMade => f.write_str("never finished, and about to be undone"),
            Self::Going => f.write_str("being deleted"),
            Self::Changing => f.write_str("half changed: the change was cut short"),
            Self::NeedsReplacing { revision } => write!(
                f,
                "revision {revision} can't be made of it in place (addresses or data disks would be others, or the \
                 host has no room)"
            ),
        }
    }
}

/// Decides what `operation` on `ids` takes.
///
/// # Errors
/// Each instance that may not be touched so, by id: then nothing is to be done to any.
pub fn operate(s: Situation<'_>, ids: &[InstanceId], operation: Operation) -> Result<Orders, Vec<Refusal>> {
    let fleet = &Fleet::of(s);
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let mut orders = Orders::default();
    let mut refusals = Vec::new();
    for id in ids {
        let member = match find(s, fleet, id).and_then(|m| allow(s, fleet, m, operation)) {
            Ok(member) => member,
            Err(why) => {
                refusals.push(Refusal { instance: id, why });
                continue;
            }
        };
        order(s, member, operation, &mut orders);
    }
    if refusals.is_empty() {
        Ok(orders)
    } else {
        Err(refusals)
    }
}

fn find<'f, 'a>(s: Situation<'_>, fleet: &'f Fleet<'a>, id: InstanceId) -> Result<&'f Member<'a>, Why> {
    if let Some(member) = fleet.member(id) {
        return Ok(member);
    }
    if fleet.is_absent(id) {
        return Err(Why::Unseen(s.record.known.get(&id).map(|k| k.host.clone())));
    }
    // Seen, but no member: somebody else's, half made or half deleted.
    let seen = s
        .inventory
        .instances()
        .find(|i| i.id == id)
        .ok_or(Why::NotThere)?;
    Err(match seen.meta.phase {
        _ if seen.meta.store != s.record.store => Why::OtherStore,
        Phase::Creating => Why::HalfMade,
        Phase::Deleting => Why::Going,
        // On a host that the set no longer has.
        Phase::Ready | Phase::Changing => Why::NotThere,
    })
}

fn allow<'f, 'a>(
    s: Situation<'_>,
    fleet: &Fleet<'_>,
    member: &'f Member<'a>,
    operation: Operation,
) -> Result<&'f Member<'a>, Why> {
    let meta = &member.instance.meta;
    if !fleet.others.is_empty() {
        return Err(Why::OtherStore);
    }
    if s.inventory.odd.is_record_old() {
        return Err(Why::RecordOld);
    }
    if s.inventory.odd.is_double(member.id) {
        return Err(Why::Double);
    }
    let starts = matches!(
        operation,
        Operation::Start | Operation::Restart | Operation::Reimage
    );
    if starts && odd::runs_as_another(s, member.id) {
        return Err(Why::RunsAsAnother);
    }
    if matches!(meta.phase, Phase::Creating | Phase::Deleting) {
        return Err(Why::Misnoted);
    }
    if s.record.condemned.contains(&member.id) {
        return Err(Why::Going);
    }
    let needs_disks = matches!(
        operation,
        Operation::Reimage | Operation::Replace | Operation::Delete
    );
    if needs_disks && !member.has_pool {
        return Err(Why::PoolUnseen(member.host.clone()));
    }
    if operation.is_refused_by(meta.protection) {
        return Err(Why::Protected(meta.protection));
    }
    if let Some(rollout) = s.record.rollout.as_ref().filter(|r| r.is_active())
        && let Some(batch) = &rollout.batch
        && batch
            .instances
            .iter()
            .chain(&batch.fresh)
            .any(|id| *id == member.id)
    {
        return Err(Why::InBatch {
            batch: batch.number,
            revision: rollout.target,
        });
    }
    let needs_whole = matches!(operation, Operation::Start | Operation::Stop | Operation::Restart);
    if needs_whole && meta.phase != Phase::Ready {
        return Err(Why::Changing);
    }
    let current = s.record.current();
    if operation == Operation::Reimage
        && needs(s, member, current, &Upgrade::default()).class == Disruption::Replace
    {
        return Err(Why::NeedsReplacing {
            revision: current.number,
        });
    }
    Ok(member)
}

fn order(s: Situation<'_>, member: &Member<'_>, operation: Operation, orders: &mut Orders) {
    let instance = reference(s, member.instance);
    let meta = &member.instance.meta;
    let is_off = matches!(member.instance.power, Power::Off | Power::Crashed);
    let shutdown = match member.instance.power {
        Power::Running => s.set.scale_in.shutdown,
        _ => Duration::ZERO,
    };
    let why: Arc<str> = "an operator asked for it".into();
    let idle = match operation {
        Operation::Start if !is_off && !meta.stopped => Some("on already"),
        Operation::Stop if is_off && meta.stopped => Some("stopped already"),
        // Whoever stopped it did not mean until the next restart of everything.
        Operation::Restart if member.state == State::Stopped => {
            Some("stopped on purpose: stays off until vmss instance start")
        }
        Operation::Protect(wanted) if meta.protection == wanted => Some(match wanted {
            Protection::None => "not protected",
            _ => "protected so already",
        }),
        _ => None,
    };
    if let Some(reason) = idle {
        orders.idle.push((member.id, reason));
        return;
    }
    let action = match operation {
        Operation::Start => Action::Start(instance),
        Operation::Stop => Action::Stop { instance, shutdown },
        Operation::Restart => Action::Restart { instance, shutdown },
        Operation::Protect(protection) => Action::Protect { instance, protection },
        Operation::Reimage => {
            rework(
                s,
                member,
                s.record.current(),
                Rework::Reimage,
                why,
                &mut orders.steps,
            );
            return;
        }
        Operation::Replace | Operation::Delete => {
            orders.condemned.push(member.id);
            return;
        }
    };
    orders.steps.push(Step {
        host: member.host.clone(),
        action,
        why,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{OTHER_STORE, Scene, at, label};
    use crate::plan::{forecast, plan};
    use crate::rollout::{Batch, Rollout, RolloutState};
    use crate::scaleset::Upgrade;

    const EVERY: [Operation; 8] = [
        Operation::Start,
        Operation::Stop,
        Operation::Restart,
        Operation::Reimage,
        Operation::Replace,
        Operation::Delete,
        Operation::Protect(Protection::ScaleIn),
        Operation::Protect(Protection::None),
    ];

    /// Six instances on three hosts, each in a fault domain of its own.
    fn scene() -> Scene {
        let mut scene = Scene::new(&[1, 1, 1]);
        scene.record.capacity = 6;
        for id in 1..=6 {
            scene.add(["d0h0", "d1h0", "d2h0"][(id as usize - 1) % 3], id);
        }
        scene.absorb();
        scene
    }

    fn ids(numbers: &[u64]) -> Vec<InstanceId> {
        numbers.iter().copied().map(InstanceId).collect()
    }

    fn ordered(scene: &Scene, numbers: &[u64], operation: Operation) -> Orders {
        operate(scene.situation(), &ids(numbers), operation).expect("nothing speaks against it")
    }

    fn refused(scene: &Scene, numbers: &[u64], operation: Operation) -> Vec<(u64, Why)> {
        let refusals = operate(scene.situation(), &ids(numbers), operation).expect_err("it must be refused");
        refusals.into_iter().map(|r| (r.instance.0, r.why)).collect()
    }

    fn protect(scene: &mut Scene, host: &str, id: u64, protection: Protection) {
        let seen = scene.host(host);
        let instance = seen.instances.iter_mut().find(|i| i.id == InstanceId(id));
        instance.expect("it is there").meta.protection = protection;
    }

    #[test]
    fn each_operation_has_its_step_on_the_instances_host() {
        let scene = scene();
        for (operation, verb) in [
            (Operation::Stop, "stop"),
            (Operation::Restart, "restart"),
            (Operation::Reimage, "reimage"),
            (Operation::Protect(Protection::All), "protect"),
        ] {
            let orders = ordered(&scene, &[5, 2, 2], operation);
            let steps: Vec<_> = (orders.steps.iter())
                .map(|s| (s.action.verb(), s.action.subject(), s.host.as_str()))
                .collect();
            let on = |name: &str| (verb, name.to_owned(), "d1h0");
            assert_eq!(steps, [on("web-2"), on("web-5")]);
            assert_eq!((orders.condemned, orders.idle), (vec![], vec![]));
        }
    }

    #[test]
    fn what_is_so_already_needs_no_step() {
        let scene = scene();
        for operation in [Operation::Start, Operation::Protect(Protection::None)] {
            let orders = ordered(&scene, &[1], operation);
            assert_eq!((orders.steps.len(), orders.idle.len()), (0, 1), "{operation:?}");
        }
    }

    #[test]
    fn a_stopped_instance_is_started_by_start_alone() {
        let mut scene = scene();
        let instance = &mut scene.host("d0h0").instances[0];
        (instance.power, instance.meta.stopped) = (Power::Off, true);
        for operation in [Operation::Stop, Operation::Restart] {
            let orders = ordered(&scene, &[1, 2], operation);
            assert_eq!((orders.steps.len(), orders.idle.len()), (1, 1), "{operation:?}");
        }
        assert_eq!(ordered(&scene, &[1], Operation::Start).steps.len(), 1);
        let end = plan(scene.situation());
        assert_eq!(end.steps, vec![], "no plan starts it");
        assert_eq!(end.report.running_of_wanted(), "5 of 6 running, 1 stopped");
    }

    #[test]
    fn one_that_is_off_by_accident_is_noted_when_it_is_stopped() {
        let mut scene = scene();
        scene.host("d0h0").instances[0].power = Power::Off;
        assert_eq!(ordered(&scene, &[1], Operation::Stop).steps.len(), 1);
    }

    #[test]
    fn one_refusal_refuses_all() {
        let mut scene = scene();
        protect(&mut scene, "d0h0", 1, Protection::All);
        let why = Why::Protected(Protection::All);
        assert_eq!(refused(&scene, &[1, 2, 3], Operation::Restart), [(1, why)]);
    }

    #[test]
    fn protection_from_scale_in_forbids_deletion_and_from_all_everything_but_a_start() {
        let mut scene = scene();
        protect(&mut scene, "d0h0", 1, Protection::ScaleIn);
        protect(&mut scene, "d1h0", 2, Protection::All);
        for operation in EVERY {
            let is_deletion = operation == Operation::Delete;
            let first = operate(scene.situation(), &ids(&[1]), operation);
            assert_eq!(
                first.is_err(),
                is_deletion,
                "{operation:?} of one protected from scale-in"
            );
            let second = operate(scene.situation(), &ids(&[2]), operation);
            assert_eq!(
                second.is_err(),
                operation.is_disruptive(),
                "{operation:?} of one protected from all"
            );
        }
    }

    #[test]
    fn what_is_not_there_out_of_sight_or_somebody_elses_is_told_apart() {
        let mut scene = scene();
        scene.lose("d1h0");
        let unseen = Why::Unseen(Some(label("d1h0")));
        let why = refused(&scene, &[2, 9], Operation::Stop);
        assert_eq!(why, [(2, unseen), (9, Why::NotThere)]);
        scene.add("d0h0", 7).meta.store = OTHER_STORE;
        assert_eq!(refused(&scene, &[7], Operation::Stop), [(7, Why::OtherStore)]);
        assert_eq!(
            refused(&scene, &[1], Operation::Stop),
            [(1, Why::OtherStore)],
            "nothing at all is done"
        );
    }

    #[test]
    fn half_an_instance_is_left_to_the_loop() {
        let mut scene = scene();
        scene.host("d0h0").instances[0].meta.phase = Phase::Creating;
        scene.host("d1h0").instances[0].meta.phase = Phase::Deleting;
        scene.host("d2h0").instances[0].meta.phase = Phase::Changing;
        scene.record.known.get_mut(&InstanceId(1)).unwrap().confirmed = false;
        scene.warrant("d1h0", 2, crate::warrants::Cause::Operator);
        let why = refused(&scene, &[1, 2, 3], Operation::Restart);
        assert_eq!(why, [(1, Why::HalfMade), (2, Why::Going), (3, Why::Changing)]);
        assert_eq!(
            ordered(&scene, &[3], Operation::Reimage).steps.len(),
            1,
            "that ends the change too"
        );
    }

    #[test]
    fn the_batch_under_way_is_the_rollouts_unless_it_is_paused() {
        let mut scene = scene();
        let mut rollout = Rollout::new(1, (1, 1), Upgrade::default(), "ann".into(), at(0));
        rollout.batches = 1;
        rollout.batch = Some(Batch {
            number: 2,
            fault_domain: None,
            instances: ids(&[1, 4]),
            replaces: false,
            fresh: Vec::new(),
            began: at(0),
        });
        scene.record.rollout = Some(rollout);
        let why = Why::InBatch {
            batch: 2,
            revision: 1,
        };
        assert_eq!(refused(&scene, &[1, 2], Operation::Stop), [(1, why)]);
        if let Some(rollout) = &mut scene.record.rollout {
            rollout.state = RolloutState::Paused { by: "ann".into() };
        }
        assert_eq!(ordered(&scene, &[1, 2], Operation::Stop).steps.len(), 2);
    }

    #[test]
    fn a_replaced_instance_goes_first_and_the_next_comes_to_its_fault_domain() {
        let mut scene = scene();
        let orders = ordered(&scene, &[2], Operation::Replace);
        assert_eq!((orders.steps, orders.condemned.clone()), (vec![], ids(&[2])));
        scene.record.condemned.extend(orders.condemned);
        assert_eq!(refused(&scene, &[2], Operation::Stop), [(2, Why::Going)]);
        let forecast = forecast::forecast(scene.situation());
        let batches: Vec<Vec<_>> = (forecast.batches.iter())
            .map(|b| b.iter().map(|s| (s.action.verb(), s.host.as_str())).collect())
            .collect();
        assert_eq!(batches, [[("delete", "d1h0")], [("create", "d1h0")]]);
    }

    #[test]
    fn a_deleted_instance_goes_and_no_other_even_while_it_can_not() {
        let mut scene = scene();
        scene.record.condemned.extend(ids(&[1, 2]));
        scene.record.capacity = 4;
        let forecast = forecast::forecast(scene.situation());
        let gone: Vec<String> = forecast.batches[0].iter().map(|s| s.action.subject()).collect();
        assert_eq!(gone, ["web-1", "web-2"]);
        assert_eq!(forecast.batches.len(), 1);
        // It can't be deleted: nobody else goes in its stead, and the run says so.
        scene
            .experience
            .failed
            .insert((label("d0h0"), "web-1".into()), "busy".into());
        scene.lose("d1h0");
        let plan = plan(scene.situation());
        assert_eq!(plan.steps, vec![]);
        assert_eq!(plan.report.verdict(), crate::plan::report::Verdict::Failed);
    }

    #[test]
    fn a_smaller_capacity_takes_others_beside_the_condemned() {
        let mut scene = scene();
        scene.record.condemned.extend(ids(&[6]));
        protect(&mut scene, "d2h0", 6, Protection::ScaleIn);
        protect(&mut scene, "d2h0", 3, Protection::ScaleIn);
        scene.record.capacity = 3;
        let forecast = forecast::forecast(scene.situation());
        let gone: Vec<String> = forecast
            .batches
            .concat()
            .iter()
            .map(|s| s.action.subject())
            .collect();
        assert_eq!(gone, ["web-4", "web-5", "web-6"], "balanced as if it had gone");
        assert_eq!(crate::plan::protected(scene.situation()), ids(&[3]));
    }

    #[test]
    fn what_is_out_of_sight_is_as_protected_as_it_was() {
        let mut scene = scene();
        protect(&mut scene, "d2h0", 3, Protection::ScaleIn);
        let seen = scene.inventory.clone();
        scene.record.absorb(&seen);
        scene.lose("d2h0");
        assert_eq!(crate::plan::protected(scene.situation()), ids(&[3]));
    }

    #[test]
    fn what_can_not_become_the_current_revision_in_place_is_not_reimaged() {
        let mut scene = scene();
        scene.host("d0h0").instances[0].meta.model_hash = "of a store that was lost".into();
        let why = Why::NeedsReplacing { revision: 1 };
        assert_eq!(refused(&scene, &[1, 2], Operation::Reimage), [(1, why)]);
    }
}
