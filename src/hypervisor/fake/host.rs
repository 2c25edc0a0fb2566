//! One host, opened by one process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::call::{Call, Result};
use super::observe::problem;
use super::shared::{Shared, State};
use super::{create, delete, guest, health, images, measure, observe, owned, power, rework};
use crate::addresses::Told;
use crate::hypervisor::{
    ConsoleLog, FaultKind, Finding, Groups, HostFacts, Hypervisor, HypervisorError, InstanceStats,
    LocalImage, Pulse, Pushed, Ran, StoredImage, Uses, Viewer, VolumeFacts, Watch,
};
use crate::inventory::{HostSeen, Protection, Rework};
use crate::model::{ImageDigest, Model};
use crate::names::{InstanceId, Label, PoolMark, StoreId};
use crate::plan::action::{InstanceRef, InstanceSpec};
use crate::units::Bytes;

pub(super) struct FakeHypervisor {
    pub shared: Arc<Shared>,
    pub name: String,
    pub pool: String,
    pub process: u64,
}

impl FakeHypervisor {
    fn call<T>(&self, what: &str, body: impl FnOnce(&Call<'_>) -> Result<T>) -> Result<T> {
        Call::run(&self.shared, (&self.name, self.process), what, (None, None), body)
    }

    fn action<T>(
        &self,
        what: &str,
        pulse: &Pulse,
        instance: Option<InstanceId>,
        body: impl FnOnce(&Call<'_>) -> Result<T>,
    ) -> Result<T> {
        let who = (self.name.as_str(), self.process);
        Call::run(&self.shared, who, what, (Some(pulse), instance), body)
    }

    /// Changes something in a moment that is no step.
    fn at_a_moment(&self, doing: &str, change: impl FnOnce(&mut State)) -> Result<()> {
        let lives = self.shared.change(|s| {
            let lives = s.process == self.process && s.lives_through_a_moment();
            if lives {
                change(s);
            }
            lives
        });
        let killed = || HypervisorError::new(FaultKind::Unreachable, doing, "process killed");
        lives.then_some(()).ok_or_else(killed)
    }
}

impl Hypervisor for FakeHypervisor {
    fn facts(&self) -> Result<HostFacts> {
        self.call("facts", |c| {
            c.look("facts", |m| Ok(observe::facts(m, &self.name)))
        })
    }

    fn observe(&self, watch: &Watch) -> Result<HostSeen> {
        let what = format!("observe {}", watch.set);
        self.call(&what, |c| c.look(&what, |m| Ok(observe::seen(m, watch))))
    }

    // A mark holds nothing: it is no step, but a moment.
    fn mark_pool(&self, mark: &PoolMark) -> Result<()> {
        self.call("mark the pool", |c| c.pool("marking the pool"))?;
        self.at_a_moment("marking the pool", |s| {
            s.refresh(&self.name);
            s.alter(&self.name, |m| m.marks.insert(mark.clone()));
        })
    }

    fn unmark_pool(&self, mark: &PoolMark) -> Result<()> {
        self.call("unmark the pool", |c| c.pool("unmarking the pool"))?;
        self.at_a_moment("unmarking the pool", |s| {
            s.alter(&self.name, |m| m.marks.remove(mark));
        })
    }

    fn marks(&self, _: &str) -> Result<BTreeSet<PoolMark>> {
        self.call("list marks", |c| {
            c.pool("listing marks")?;
            c.look("listing marks", |m| Ok(m.marks.clone()))
        })
    }

    fn uses(&self, _: &Pulse) -> Result<Uses> {
        self.call("read who uses what", |c| {
            c.refresh("reading who uses what")?;
            c.look("reading who uses what", |m| Ok(observe::uses(m)))
        })
    }

    fn renote(&self, instance: &InstanceRef, host: &Label, fault_domain: &Label) -> Result<()> {
        let what = format!("note {} again", instance.name);
        self.call(&what, |c| owned::level(c, instance, host, fault_domain))
    }

    fn push_image(&self, image: &LocalImage, store: StoreId, pulse: &Pulse) -> Result<Pushed> {
        let what = format!("push image {}", image.image.digest.short());
        self.action(&what, pulse, None, |c| {
            c.pool(&what)?;
            images::push(c, image, store)
        })
    }

    fn images(&self) -> Result<Vec<StoredImage>> {
        self.call("images", |c| {
            c.pool("images")?;
            c.look("images", |m| Ok(images::list(m)))
        })
    }

    fn delete_image(&self, digest: &ImageDigest, stores: &[StoreId]) -> Result<bool> {
        let what = format!("delete image {}", digest.short());
        self.call(&what, |c| {
            c.pool(&what)?;
            images::delete(c, digest, stores)
        })
    }

    fn create(&self, spec: &InstanceSpec, model: &Model, pulse: &Pulse) -> Result<()> {
        let what = format!("create {}", spec.name());
        self.action(&what, pulse, Some(spec.id), |c| {
            c.pool(&what)?;
            create::create(c, spec, model)
        })
    }

    fn start(&self, instance: &InstanceRef) -> Result<()> {
        let what = format!("start {}", instance.name);
        let pulse = Pulse::silent();
        self.action(&what, &pulse, Some(instance.id), |c| power::start(c, instance))
    }

    fn rework(
        &self,
        spec: &InstanceSpec,
        model: &Model,
        how: Rework,
        shutdown: Duration,
        uses: &Uses,
        pulse: &Pulse,
    ) -> Result<()> {
        let what = match how {
            Rework::Live => format!("change {}", spec.name()),
            Rework::Restart => format!("change and restart {}", spec.name()),
            Rework::Reimage => format!("reimage {}", spec.name()),
        };
        self.action(&what, pulse, Some(spec.id), |c| {
            c.pool(&what)?;
            rework::rework(c, (spec, model), (how, shutdown), uses)
        })
    }

    fn stop(&self, instance: &InstanceRef, shutdown: Duration, pulse: &Pulse) -> Result<()> {
        let what = format!("stop {}", instance.name);
        self.action(&what, pulse, Some(instance.id), |c| {
            power::stop(c, instance, shutdown)
        })
    }

    fn restart(&self, instance: &InstanceRef, shutdown: Duration, pulse: &Pulse) -> Result<()> {
        let what = format!("restart {}", instance.name);
        self.action(&what, pulse, Some(instance.id), |c| {
            power::restart(c, instance, shutdown)
        })
    }

    fn protect(&self, instance: &InstanceRef, protection: Protection) -> Result<()> {
        let what = format!("protect {}", instance.name);
        self.call(&what, |c| owned::protect(c, instance, protection))
    }

    fn ping(&self, instance: &InstanceRef) -> Result<()> {
        let what = format!("ping {}", instance.name);
        self.call(&what, |c| health::ping(c, instance))
    }

    fn exec(
        &self,
        instance: &InstanceRef,
        command: &[String],
        patience: Duration,
        pulse: &Pulse,
    ) -> Result<Ran> {
        let what = format!("exec in {}", instance.name);
        self.action(&what, pulse, Some(instance.id), |c| {
            guest::exec(c, instance, command, patience)
        })
    }

    fn console(&self, instance: &InstanceRef, force: bool, viewer: &mut dyn Viewer) -> Result<()> {
        let what = format!("console of {}", instance.name);
        self.call(&what, |c| guest::console(c, instance, force, viewer))
    }

    fn console_log(&self, instance: &InstanceRef, last: Bytes, _: &Pulse) -> Result<ConsoleLog> {
        let what = format!("console log of {}", instance.name);
        self.call(&what, |c| guest::console_log(c, instance, last))
    }

    fn follow_console_log(
        &self,
        instance: &InstanceRef,
        from: u64,
        _: &Pulse,
        show: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        let what = format!("follow console log of {}", instance.name);
        self.call(&what, |c| guest::follow_console_log(c, instance, from, show))
    }

    fn delete(&self, instance: &InstanceRef, shutdown: Duration, uses: &Uses, pulse: &Pulse) -> Result<()> {
        let what = format!("delete {}", instance.name);
        self.action(&what, pulse, Some(instance.id), |c| {
            c.pool(&what)?;
            delete::delete(c, instance, shutdown, uses)
        })
    }

    fn drop_copy(&self, instance: &InstanceRef, shutdown: Duration, pulse: &Pulse) -> Result<()> {
        let what = format!("drop the copy of {}", instance.name);
        self.action(&what, pulse, Some(instance.id), |c| {
            delete::drop_copy(c, instance, shutdown)
        })
    }

    fn volume_facts(&self, names: &[String]) -> Result<Vec<VolumeFacts>> {
        self.call("volume facts", |c| {
            c.look("looking at volumes", |m| Ok(observe::volume_facts(m, names)))
        })
    }

    fn delete_volume(&self, name: &str, uses: &Uses) -> Result<()> {
        let what = format!("delete volume {name}");
        self.call(&what, |c| {
            c.pool(&what)?;
            delete::delete_volume(c, name, uses)
        })
    }

    fn addresses(&self, instance: &InstanceRef) -> Result<Vec<Told>> {
        let what = format!("addresses of {}", instance.name);
        self.call(&what, |c| c.look(&what, |m| observe::addresses(m, instance)))
    }

    fn stats(&self, instances: &[InstanceRef], groups: Groups) -> Result<Vec<InstanceStats>> {
        self.call("stats", |c| {
            c.look_at_fleet("measuring domains", |state, m| {
                measure::stats(state, m, instances, groups, "measuring domains")
            })
        })
    }

    fn adopt(&self, set: &Label, from: StoreId, to: StoreId) -> Result<usize> {
        self.call(&format!("adopt {set}"), |c| observe::adopt(c, set, from, to))
    }

    fn check(&self, model: &Model) -> Vec<Finding> {
        let found = self.call("check", |c| {
            c.look("check", |m| Ok(observe::check(m, model, &self.pool)))
        });
        found.unwrap_or_else(|error| {
            let text = error.to_string();
            vec![Finding {
                what: "connection".to_owned(),
                result: problem(&text, "see that the host is up and its libvirtd runs"),
            }]
        })
    }
}
