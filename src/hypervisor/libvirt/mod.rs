//! A real host: libvirt behind [`Hypervisor`]. Pools, volumes, XML and flags stay below this line.
//!
//! Against libvirt's simulation (`test:///default`, `test+unix://…`) everything works but what moves bytes: an image
//! is then a volume without content and its mark, a seed a volume without content. That is for rehearsals and tests.

mod addresses;
mod agent;
mod check;
mod connection;
mod console;
mod create;
mod delete;
mod domains;
mod exec;
mod fault;
mod images;
mod kind;
mod logs;
mod migrate;
mod observe;
mod parts;
mod power;
mod raw;
mod rework;
mod seeds;
mod sets;
mod sound;
mod spread;
mod stats;
mod traits;
mod transfer;
mod turn;
mod users;
mod uses;
mod volume_xml;
mod volumes;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::meter::Meter;
use super::{
    ConsoleLog, FaultKind, Finding, Groups, HostFacts, Hosts, Hypervisor, HypervisorError, InstanceStats,
    LocalImage, Pulse, Pushed, Ran, Settled, StoredImage, Uses, Viewer, VolumeFacts, Watch,
};
use crate::addresses::Told;
use crate::inventory::{HostSeen, Protection, Rework};
use crate::model::{ImageDigest, Model};
use crate::names::{Label, PoolMark, StoreId};
use crate::plan::action::{InstanceRef, InstanceSpec};
use crate::scaleset::{Host, Limits};
use crate::units::Bytes;
use connection::Line;
use volumes::{Pool, Proof};

/// Opens libvirt hosts: each is connected to once, for as long as the process lives.
#[derive(Default)]
pub struct LibvirtHosts {
    open: Mutex<HashMap<(String, String), Arc<Libvirt>>>,
    meter: Meter,
}

impl LibvirtHosts {
    /// None is open yet; their calls are measured by `meter`.
    pub fn new(meter: Meter) -> Self {
        Self {
            open: Mutex::default(),
            meter,
        }
    }

    fn open(&self, host: &Host, limits: &Limits) -> Arc<Libvirt> {
        let key = (host.uri.clone(), host.pool.clone());
        let mut open = connection::lock(&self.open);
        let known = open
            .entry(key)
            .or_insert_with(|| Arc::new(Libvirt::measured(host, limits, &self.meter)));
        Arc::clone(known)
    }
}

impl Hosts for LibvirtHosts {
    fn host(&self, host: &Host, limits: &Limits) -> Arc<dyn Hypervisor> {
        self.open(host, limits)
    }

    fn migrate(
        &self,
        from: &Host,
        to: &Host,
        limits: &Limits,
        instance: &InstanceRef,
        spec: &InstanceSpec,
        model: &Model,
        pulse: &Pulse,
    ) -> Result<(), HypervisorError> {
        let (here, there) = (self.open(from, limits), self.open(to, limits));
        let way = migrate::Way::new((from, &here), (to, &there), instance, pulse);
        migrate::migrate(&way, spec, model, limits.call_timeout)
    }

    fn settle(
        &self,
        from: &Host,
        to: &Host,
        limits: &Limits,
        instance: &InstanceRef,
        pulse: &Pulse,
    ) -> Result<Settled, HypervisorError> {
        let (here, there) = (self.open(from, limits), self.open(to, limits));
        migrate::settle(&migrate::Way::new((from, &here), (to, &there), instance, pulse))
    }
}

/// One libvirt host, with two lines: one for work and one for looking, so that a host that is busy creating still
/// answers what it has.
pub struct Libvirt {
    pool: String,
    work: Line,
    look: Line,
    seeds: seeds::Checked,
    bases: sound::Checked,
    logs: logs::Logs,
    cached_disks: AtomicBool,
    folder: OnceLock<String>,
}

impl Libvirt {
    /// The host; nothing is opened yet.
    pub fn new(host: &Host, limits: &Limits) -> Self {
        Self::measured(host, limits, &Meter::default())
    }

    /// As [`Self::new`], its calls measured.
    pub fn measured(host: &Host, limits: &Limits, meter: &Meter) -> Self {
        let meter = meter.of(host.name.as_str());
        let line = || {
            let line = Line::new(&host.uri, limits.call_timeout, limits.calls_per_host);
            line.measured(meter.clone())
        };
        Self {
            pool: host.pool.clone(),
            work: line(),
            look: line(),
            seeds: seeds::Checked::default(),
            bases: sound::Checked::default(),
            logs: logs::Logs::default(),
            cached_disks: AtomicBool::new(false),
            folder: OnceLock::new(),
        }
    }
}

impl Hypervisor for Libvirt {
    fn facts(&self) -> Result<HostFacts, HypervisorError> {
        observe::facts(&self.look, &self.pool)
    }

    fn observe(&self, watch: &Watch) -> Result<HostSeen, HypervisorError> {
        observe::observe(&self.look, &self.pool, watch)
    }

    fn mark_pool(&self, mark: &PoolMark) -> Result<(), HypervisorError> {
        let pulse = Pulse::silent();
        let session = self.work.session(&pulse)?;
        let (pool, name) = (Pool::open(&session, &self.pool)?, mark.volume());
        // The marks of others, which came into the folder behind the daemon's back, show from now on.
        pool.refresh();
        if pool.find(&name)?.is_some() {
            return Ok(());
        }
        match pool.create(&name, volume_xml::raw(&name, 0)) {
            // Another process was faster, or another host of the same folder has the same URI.
            Err(_) if pool.find(&name)?.is_some() => Ok(()),
            made => made.map(drop),
        }
    }

    fn unmark_pool(&self, mark: &PoolMark) -> Result<(), HypervisorError> {
        let pulse = Pulse::silent();
        let session = self.work.session(&pulse)?;
        Pool::open(&session, &self.pool)?.delete(&mark.volume())
    }

    fn marks(&self, pool: &str) -> Result<BTreeSet<PoolMark>, HypervisorError> {
        let pulse = Pulse::silent();
        let session = self.look.session(&pulse)?;
        let names = Pool::open(&session, pool)?.names()?;
        Ok(names.iter().filter_map(|name| PoolMark::parse(name)).collect())
    }

    fn uses(&self, pulse: &Pulse) -> Result<Uses, HypervisorError> {
        let session = self.work.session(pulse)?;
        uses::uses(&Pool::open(&session, &self.pool)?)
    }

    fn renote(
        &self,
        instance: &InstanceRef,
        host: &Label,
        fault_domain: &Label,
    ) -> Result<(), HypervisorError> {
        let pulse = Pulse::silent();
        domains::renote(&self.work.session(&pulse)?, instance, host, fault_domain)
    }

    fn push_image(
        &self,
        image: &LocalImage,
        store: StoreId,
        pulse: &Pulse,
    ) -> Result<Pushed, HypervisorError> {
        let session = self.work.session(pulse)?;
        images::push(&Pool::open(&session, &self.pool)?, &self.bases, image, store)
    }

    fn images(&self) -> Result<Vec<StoredImage>, HypervisorError> {
        let pulse = Pulse::silent();
        let session = self.look.session(&pulse)?;
        images::list(&Pool::open(&session, &self.pool)?)
    }

    fn delete_image(&self, digest: &ImageDigest, stores: &[StoreId]) -> Result<bool, HypervisorError> {
        let pulse = Pulse::silent();
        let session = self.work.session(&pulse)?;
        images::delete(&Pool::open(&session, &self.pool)?, digest, stores)
    }

    fn create(&self, spec: &InstanceSpec, model: &Model, pulse: &Pulse) -> Result<(), HypervisorError> {
        create::create(self, &self.work.session(pulse)?, spec, model)
    }

    fn start(&self, instance: &InstanceRef) -> Result<(), HypervisorError> {
        let pulse = Pulse::silent();
        power::start(&self.work.session(&pulse)?, instance)
    }

    fn rework(
        &self,
        spec: &InstanceSpec,
        model: &Model,
        how: Rework,
        shutdown: Duration,
        uses: &Uses,
        pulse: &Pulse,
    ) -> Result<(), HypervisorError> {
        let session = self.work.session(pulse)?;
        rework::rework(self, &session, (spec, model), (how, shutdown), uses)
    }

    fn stop(&self, instance: &InstanceRef, shutdown: Duration, pulse: &Pulse) -> Result<(), HypervisorError> {
        power::stop(&self.work.session(pulse)?, instance, shutdown)
    }

    fn restart(
        &self,
        instance: &InstanceRef,
        shutdown: Duration,
        pulse: &Pulse,
    ) -> Result<(), HypervisorError> {
        power::restart(&self.work.session(pulse)?, instance, shutdown)
    }

    fn protect(&self, instance: &InstanceRef, protection: Protection) -> Result<(), HypervisorError> {
        let pulse = Pulse::silent();
        domains::protect(&self.work.session(&pulse)?, instance, protection)
    }

    fn ping(&self, instance: &InstanceRef) -> Result<(), HypervisorError> {
        let pulse = Pulse::silent();
        agent::ping(&self.look.session(&pulse)?, instance)
    }

    fn exec(
        &self,
        instance: &InstanceRef,
        command: &[String],
        patience: Duration,
        pulse: &Pulse,
    ) -> Result<Ran, HypervisorError> {
        exec::exec(&self.look.session(pulse)?, instance, command, patience)
    }

    fn console(
        &self,
        instance: &InstanceRef,
        force: bool,
        viewer: &mut dyn Viewer,
    ) -> Result<(), HypervisorError> {
        let pulse = Pulse::silent();
        console::console(&self.look.session(&pulse)?, instance, force, viewer)
    }

    fn console_log(
        &self,
        instance: &InstanceRef,
        last: Bytes,
        pulse: &Pulse,
    ) -> Result<ConsoleLog, HypervisorError> {
        logs::read(&self.logs, &self.look.session(pulse)?, instance, last)
    }

    fn follow_console_log(
        &self,
        instance: &InstanceRef,
        from: u64,
        pulse: &Pulse,
        show: &mut dyn FnMut(&[u8]),
    ) -> Result<(), HypervisorError> {
        logs::follow(&self.logs, &self.look.session(pulse)?, instance, from, show)
    }

    fn delete(
        &self,
        instance: &InstanceRef,
        shutdown: Duration,
        uses: &Uses,
        pulse: &Pulse,
    ) -> Result<(), HypervisorError> {
        delete::delete(self, &self.work.session(pulse)?, instance, shutdown, uses)
    }

    fn drop_copy(
        &self,
        instance: &InstanceRef,
        shutdown: Duration,
        pulse: &Pulse,
    ) -> Result<(), HypervisorError> {
        delete::drop_copy(self, &self.work.session(pulse)?, instance, shutdown)
    }

    fn volume_facts(&self, names: &[String]) -> Result<Vec<VolumeFacts>, HypervisorError> {
        let pulse = Pulse::silent();
        let session = self.look.session(&pulse)?;
        volumes::facts(&Pool::open(&session, &self.pool)?, names)
    }

    fn delete_volume(&self, name: &str, uses: &Uses) -> Result<(), HypervisorError> {
        if images::is_image_volume(name) {
            // Others' disks may be backed by it: images go by `delete_image`, which looks.
            return Err(HypervisorError::new(
                FaultKind::NotOurs,
                format!("deleting volume {name}"),
                "it is an image's",
            ));
        }
        let pulse = Pulse::silent();
        let session = self.work.session(&pulse)?;
        seeds::forget(&self.seeds, name);
        Pool::open(&session, &self.pool)?.remove(name, &Proof::of_nobody(uses))
    }

    fn addresses(&self, instance: &InstanceRef) -> Result<Vec<Told>, HypervisorError> {
        let pulse = Pulse::silent();
        addresses::addresses(&self.look.session(&pulse)?, instance)
    }

    fn stats(
        &self,
        instances: &[InstanceRef],
        groups: Groups,
    ) -> Result<Vec<InstanceStats>, HypervisorError> {
        let pulse = Pulse::silent();
        stats::stats(&self.look.session(&pulse)?, instances, groups)
    }

    fn adopt(&self, set: &Label, from: StoreId, to: StoreId) -> Result<usize, HypervisorError> {
        let pulse = Pulse::silent();
        sets::adopt(&self.work.session(&pulse)?, set, from, to)
    }

    fn check(&self, model: &Model) -> Vec<Finding> {
        let pulse = Pulse::silent();
        match self.look.session(&pulse) {
            Ok(session) => check::check(&session, &self.pool, model),
            Err(error) => vec![check::unreachable(error)],
        }
    }
}
