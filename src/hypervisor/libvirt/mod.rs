//! `Hypervisor` over libvirt. All of the virt crate and all raw calls stay in this folder.
//!
//! A rehearsal host (libvirt's test driver) is served too: domains and volumes live in its memory, nothing is uploaded.

mod check;
mod connection;
mod images;
mod lifecycle;
mod observe;
mod volumes;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::hypervisor::{
    Finding, HostFacts, Hosts, Hypervisor, HypervisorError, LocalImage, Pulse, Pushed, StoredImage,
};
use crate::inventory::HostSeen;
use crate::model::{ImageDigest, Model};
use crate::names::{Label, StoreId};
use crate::plan::action::{InstanceRef, InstanceSpec};
use crate::scaleset::{Host, Limits};

use connection::Slot;

type Result<T> = std::result::Result<T, HypervisorError>;

/// All hosts reachable by libvirt; each is connected to once, for as long as the process lives.
#[derive(Default)]
pub struct LibvirtHosts {
    open: Mutex<HashMap<(String, String), Arc<Libvirt>>>,
}

impl Hosts for LibvirtHosts {
    fn host(&self, host: &Host, limits: &Limits) -> Arc<dyn Hypervisor> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host.uri.clone(), host.pool.clone());
        Arc::clone(
            open.entry(key)
                .or_insert_with(|| Arc::new(Libvirt::new(host, limits))),
        ) as Arc<dyn Hypervisor>
    }
}

/// One libvirt host.
pub struct Libvirt {
    name: Label,
    pool: String,
    /// For calls that change something, and may take their time.
    work: Slot,
    /// For looking: never waits behind work, since libvirtd serves few calls of one connection at once.
    look: Slot,
    /// Shared seeds whose content was found right by this process.
    seeds: Mutex<std::collections::HashSet<String>>,
    /// Held while a shared seed is made, so that two instances do not both make it.
    seed_making: Mutex<()>,
}

impl Libvirt {
    fn new(host: &Host, limits: &Limits) -> Self {
        Self {
            name: host.name.clone(),
            pool: host.pool.clone(),
            work: Slot::new(&host.uri, limits.call_timeout),
            look: Slot::new(&host.uri, limits.call_timeout),
            seeds: Mutex::default(),
            seed_making: Mutex::default(),
        }
    }
}

impl Hypervisor for Libvirt {
    fn facts(&self) -> Result<HostFacts> {
        self.host_facts()
    }

    fn observe(&self, set: &Label, stores: &[StoreId]) -> Result<HostSeen> {
        self.look_at(set, stores)
    }

    fn sets(&self) -> Result<Vec<(Label, StoreId)>> {
        self.all_sets()
    }

    fn push_image(&self, image: &LocalImage, store: StoreId, pulse: &Pulse) -> Result<Pushed> {
        self.push(image, store, pulse)
    }

    fn images(&self) -> Result<Vec<StoredImage>> {
        self.stored_images()
    }

    fn delete_image(&self, digest: &ImageDigest, stores: &[StoreId]) -> Result<bool> {
        self.remove_image(digest, stores)
    }

    fn create(&self, spec: &InstanceSpec, model: &Model, pulse: &Pulse) -> Result<()> {
        self.make(spec, model, pulse)
    }

    fn start(&self, instance: &InstanceRef) -> Result<()> {
        self.start_ours(instance)
    }

    fn delete(&self, instance: &InstanceRef, shutdown: Duration, pulse: &Pulse) -> Result<()> {
        self.unmake(instance, shutdown, pulse)
    }

    fn delete_volume(&self, name: &str) -> Result<()> {
        let pool = self.pool(&*self.work.get()?)?;
        volumes::delete(&pool, name)
    }

    fn addresses(&self, instance: &InstanceRef) -> Result<Vec<IpAddr>> {
        self.find_addresses(instance)
    }

    fn adopt(&self, set: &Label, from: StoreId, to: StoreId) -> Result<usize> {
        self.take_over(set, from, to)
    }

    fn check(&self, model: &Model) -> Vec<Finding> {
        self.check_all(model)
    }
}
