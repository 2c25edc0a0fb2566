//! What a test does to the fleet by its own hand: faults, looks inside, and what others do behind vmss's back.
//!
//! # Panics
//! All of these panic on a host, domain or volume that is not there: a test names only what it made.

use std::net::{IpAddr, Ipv4Addr};

use uuid::Uuid;

use super::machine::{Content, Domain, FakeHost, ImageCopy, Machine, Volume};
use super::{Fault, Fleet};
use crate::inventory::Power;
use crate::names::Label;
use crate::units::Bytes;

pub(super) const ADDED: &str = "a test names only hosts, domains and volumes that are there";

impl Machine {
    /// Guests that were asked to go off have gone.
    pub(super) fn guests_go_off(&mut self) {
        for domain in self.domains.values_mut() {
            if domain.power == Power::ShuttingDown {
                domain.power = Power::Off;
            }
        }
    }

    /// The domain of that name.
    pub(super) fn domain(&mut self, name: &str) -> &mut Domain {
        self.domains.get_mut(name).expect(ADDED)
    }

    fn comes_back_from_a_power_failure(&mut self) {
        self.faults = Default::default();
        let all = self.domains.values_mut().chain(self.foreign.0.values_mut());
        all.for_each(|d| d.power = Power::Off);
    }
}

impl Fleet {
    /// Adds a host.
    pub fn add_host(&self, name: &Label, made_of: FakeHost) {
        self.shared
            .change(|s| s.machines.insert(name.to_string(), Machine::new(name, made_of)));
    }

    pub(super) fn machine<T>(&self, host: &str, change: impl FnOnce(&mut Machine) -> T) -> T {
        self.shared.change(|s| s.alter(host, change).expect(ADDED))
    }

    /// Brings a fault about.
    pub fn inject(&self, host: &str, fault: Fault) {
        self.machine(host, |m| m.faults.add(fault));
    }

    /// Takes all faults away. Calls that wait on the host go on. One that was dead has every domain off; on one that
    /// was out of reach, guests that were shutting down have done so meanwhile.
    pub fn heal(&self, host: &str) {
        self.machine(host, |m| {
            if m.faults.dead {
                m.comes_back_from_a_power_failure();
            } else if m.faults.down {
                m.guests_go_off();
            }
            m.faults = Default::default();
        });
    }

    /// The host has lost power and come back: healed, with every domain off.
    pub fn reboot(&self, host: &str) {
        self.machine(host, Machine::comes_back_from_a_power_failure);
        self.refresh(host);
    }

    /// The host's pool is inactive; its guests run on.
    pub fn lose_pool(&self, host: &str) {
        self.inject(host, Fault::NoPool);
    }

    /// The host's pool is active again.
    pub fn find_pool(&self, host: &str) {
        self.machine(host, |m| m.faults.no_pool = false);
        self.refresh(host);
    }

    /// From now on `guest` has its pool in the folder of `host`'s. Each knows what it made there itself, and what it found when
    /// it looked last.
    pub fn share_pool(&self, host: &str, guest: &str) {
        self.shared.change(|s| s.share(host, guest));
    }

    /// Somebody has the host look into its pool's folder again.
    pub fn refresh(&self, host: &str) {
        self.shared.change(|s| s.refresh(host));
    }

    /// Domains of a host by name.
    pub fn domains(&self, host: &str) -> Vec<Domain> {
        self.machine(host, |m| m.domains.values().cloned().collect())
    }

    /// Volumes of a host by name, images aside.
    pub fn volumes(&self, host: &str) -> Vec<Volume> {
        self.machine(host, |m| m.volumes.values().cloned().collect())
    }

    /// Volumes that lie where a host has its pool, whatever it knows of them: by name, images aside.
    pub fn files(&self, host: &str) -> Vec<Volume> {
        let mut machines = self.shared.lock().as_it_is();
        machines
            .remove(host)
            .expect(ADDED)
            .volumes
            .into_values()
            .collect()
    }

    /// Copies of images on a host, by the name of their volumes.
    pub fn copies(&self, host: &str) -> Vec<ImageCopy> {
        self.machine(host, |m| m.copies.values().cloned().collect())
    }

    /// Most calls that were in flight on a host at once.
    pub fn most_in_flight(&self, host: &str) -> usize {
        self.machine(host, |m| m.most_in_flight)
    }

    /// Somebody else's domain appears, running.
    pub fn add_foreign_domain(&self, host: &str, name: &str, vcpus: u32, memory: Bytes) {
        let domain = Domain {
            name: name.to_owned(),
            uuid: Uuid::new_v5(&Uuid::NAMESPACE_DNS, format!("{name}.{host}").as_bytes()),
            power: Power::Running,
            vcpus,
            memory,
            meta: None,
            macs: Vec::new(),
            leases: Vec::new(),
            names: Vec::new(),
            disks: Vec::new(),
            started_at: self.shared.clock.now(),
            console: String::new(),
            unhealthy: false,
            agent: Default::default(),
            held: Vec::new(),
            unopened: Vec::new(),
            meter: Default::default(),
        };
        self.machine(host, |m| {
            m.foreign.0.insert(name.to_owned(), domain.clone());
            m.domains.insert(name.to_owned(), domain);
        });
    }

    /// Somebody else's volume appears.
    pub fn add_foreign_volume(&self, host: &str, name: &str, allocation: Bytes) {
        let volume = volume(name, allocation, Content::Foreign);
        self.machine(host, |m| {
            m.foreign.1.insert(name.to_owned(), volume.clone());
            m.volumes.insert(name.to_owned(), volume);
        });
    }

    /// A disk appears that is not in [`Self::audit`]'s snapshot of what is somebody else's: a leftover, if its name
    /// says so.
    pub fn add_volume(&self, host: &str, name: &str, allocation: Bytes) {
        let volume = volume(name, allocation, Content::Disk);
        self.machine(host, |m| m.volumes.insert(name.to_owned(), volume));
    }

    /// Somebody fills the pool to the brim, for everyone to see.
    pub fn fill_pool(&self, host: &str) {
        let free = self.machine(host, |m| m.pool_free());
        self.add_foreign_volume(host, "ballast", free);
    }

    /// Somebody takes a domain away (destroys and undefines it); its volumes stay.
    pub fn take_domain(&self, host: &str, name: &str) {
        self.machine(host, |m| {
            m.foreign.0.remove(name);
            m.domains.remove(name).expect(ADDED);
        });
    }

    /// Somebody cuts every copy of an image on a host short.
    pub fn cut_copies(&self, host: &str) {
        self.machine(host, |m| m.copies.values_mut().for_each(|c| c.is_cut = true));
    }

    /// Somebody deletes a volume.
    pub fn take_volume(&self, host: &str, name: &str) {
        self.machine(host, |m| {
            m.foreign.1.remove(name);
            m.volumes.remove(name).expect(ADDED);
        });
    }

    /// The domain's guest agent names these addresses from now on.
    pub fn set_names(&self, host: &str, name: &str, addresses: &[IpAddr]) {
        self.machine(host, |m| m.domain(name).names = addresses.to_vec());
    }

    /// Somebody writes these addresses into the domain's note.
    pub fn set_noted_addresses(&self, host: &str, name: &str, addresses: &[Ipv4Addr]) {
        self.machine(host, |m| {
            let meta = m.domain(name).meta.as_mut().expect(ADDED);
            meta.addresses = addresses.iter().copied().map(Some).collect();
        });
    }

    /// The network leases these addresses to a domain, and takes back those that it had.
    pub fn set_leases(&self, host: &str, name: &str, addresses: &[Ipv4Addr]) {
        self.machine(host, |m| m.domain(name).leases = addresses.to_vec());
    }

    /// A domain's guest says a line on its console.
    pub fn say(&self, host: &str, name: &str, line: &str) {
        self.machine(host, |m| m.domain(name).console.push_str(&format!("{line}\n")));
    }

    /// Somebody switches a domain off, pauses it, or its guest crashes.
    pub fn set_power(&self, host: &str, name: &str, power: Power) {
        self.machine(host, |m| {
            if let Some(as_added) = m.foreign.0.get_mut(name) {
                as_added.power = power;
            }
            let domain = m.domain(name);
            if !domain.is_active() {
                domain.meter = Default::default();
            }
            domain.power = power;
        });
    }
}

/// A volume that vmss did not make.
fn volume(name: &str, allocation: Bytes, content: Content) -> Volume {
    Volume {
        name: name.to_owned(),
        allocation,
        size: allocation,
        content,
        backing: None,
        image: None,
        serial: 0,
    }
}
