//! Metrics for Prometheus: what the controller sees of its sets, and what it does.
//!
//! Each *area* (instances, hosts, rollout, ...) is a struct of metrics that it registers itself and that it fills from what
//! one look has shown. A new area is one file, one field and one line each in [`Exporter::new`] and [`Exporter::take`].
//! Nothing here asks anybody anything: a scrape is answered from memory, however the hosts are.

mod autoscale;
mod balancers;
mod calls;
#[cfg(test)]
mod dashboard_tests;
mod family;
mod hosts;
mod instances;
mod odd;
mod repair;
mod rollout;
mod run;
pub mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::autoscale::Decision;
use crate::event::{Event, Listener, Sight};
use crate::hypervisor::meter::Hears;
use crate::inventory::Inventory;
use crate::names::Label;
use crate::plan::{Experience, Fleet, Situation, spread, sweep};
use crate::record::Record;
use family::{Families, Labels};
pub use run::Tick;

/// What an area's values are made of: one look at a set, its instances sorted out as plans do.
pub struct View<'a> {
    set: &'a Label,
    record: &'a Record,
    inventory: &'a Inventory,
    fleet: Fleet<'a>,
    /// See [`spread::excess`].
    spread_excess: usize,
    /// The host of each volume that has an instance's name and is no instance's.
    unclaimed: Vec<Label>,
    now: Timestamp,
}

/// Metrics that belong together.
trait Area: Sized {
    /// Adds the metrics to `families`.
    fn register(families: &mut Families) -> Self;
    /// Replaces what they tell of a set by what was seen of it.
    fn take(&self, view: &View<'_>);
}

/// All metrics.
pub struct Exporter {
    families: Families,
    instances: instances::Instances,
    hosts: hosts::Hosts,
    rollout: rollout::Rollouts,
    balancers: balancers::Balancers,
    repair: repair::Repair,
    odd: odd::Odd,
    scaling: autoscale::Scaling,
    run: run::Run,
    calls: calls::Calls,
}

impl Default for Exporter {
    fn default() -> Self {
        Self::new()
    }
}

impl Exporter {
    /// Metrics of no set yet.
    pub fn new() -> Self {
        let mut families = Families::default();
        let build = Family::<Labels, Gauge>::default();
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        build.get_or_create(&version).set(1);
        families.register(
            "vmss_build_info",
            "The version of vmss that runs; always 1",
            build,
        );
        Self {
            instances: Area::register(&mut families),
            hosts: Area::register(&mut families),
            rollout: Area::register(&mut families),
            balancers: Area::register(&mut families),
            repair: Area::register(&mut families),
            odd: Area::register(&mut families),
            scaling: Area::register(&mut families),
            run: Area::register(&mut families),
            calls: calls::Calls::register(&mut families),
            families,
        }
    }

    /// Takes in what a look has shown of a set, in place of all that earlier ones have.
    pub fn take(&self, sight: Sight<'_>) {
        let experience = Experience::default();
        let set = &sight.record.applied;
        let situation = Situation {
            set,
            record: sight.record,
            inventory: sight.inventory,
            experience: &experience,
            now: sight.now,
            // Of what is there nothing is made.
            drawn: uuid::Uuid::nil(),
        };
        let fleet = Fleet::of(situation);
        let claims = sweep::claims(situation).into_iter();
        let view = View {
            set: &set.name,
            record: sight.record,
            inventory: sight.inventory,
            spread_excess: spread::excess(situation, &fleet),
            fleet,
            unclaimed: claims
                .filter(|(_, _, claim)| *claim == sweep::Claim::Nobody)
                .map(|(host, _, _)| host)
                .collect(),
            now: sight.now,
        };
        self.instances.take(&view);
        self.hosts.take(&view);
        self.rollout.take(&view);
        self.balancers.take(&view);
        self.repair.take(&view);
        self.odd.take(&view);
        self.scaling.take(&view);
        self.run.take(&view);
    }

    /// The look with which a tick begins took so long.
    pub fn looked(&self, set: &Label, took: Duration) {
        self.run.looked(set, took);
    }

    /// A tick of a set ended.
    pub fn ticked(&self, set: &Label, tick: Tick, now: Timestamp) {
        self.run.ticked(set, tick, now);
    }

    /// The tending of a set broke off by a fault of vmss, and is begun anew.
    pub fn restarted(&self, set: &Label) {
        self.run.restarted(set);
    }

    /// The policy of a set was evaluated.
    pub fn decided(&self, set: &Label, decision: &Decision) {
        self.scaling.decided(set, decision);
    }

    /// Forgets a set that is gone.
    pub fn forget(&self, set: &Label) {
        self.families.forget(set);
    }

    /// What hears of calls of libvirt.
    pub fn calls(&self) -> Box<dyn Hears> {
        Box::new(self.calls.clone())
    }

    /// Names of all metrics, as they are scraped; histograms without `_bucket`, `_sum` and `_count`.
    pub fn names(&self) -> &[&'static str] {
        self.families.names()
    }

    /// Everything in Prometheus' text format.
    pub fn text(&self) -> String {
        self.families.text()
    }
}

/// Passes on what the loop tells of one set, and measures it on the way.
pub struct Measured {
    /// Where it is measured.
    pub exporter: Arc<Exporter>,
    /// The set.
    pub set: Label,
    /// To whom it is passed on.
    pub to: Arc<dyn Listener>,
}

impl Listener for Measured {
    fn event(&self, event: &Event) {
        match event {
            Event::Finished { verb, .. } => self.exporter.run.stepped(&self.set, verb, true),
            Event::Failed { verb, .. } => self.exporter.run.stepped(&self.set, verb, false),
            _ => {}
        }
        self.to.event(event);
    }

    fn looked(&self, sight: Sight<'_>) {
        self.exporter.take(sight);
        self.to.looked(sight);
    }

    fn alive(&self) {
        self.to.alive();
    }
}

fn flag(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

fn count(n: usize) -> f64 {
    float(n as u64)
}

/// As the format has all numbers. Exact up to 2^53: eight petabytes.
#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus itself has no other numbers than these"
)]
fn float(n: u64) -> f64 {
    n as f64
}
