//! Sets, records and inventories for the tests of the core.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use proptest::test_runner::{Config, FileFailurePersistence};
use uuid::Uuid;

use crate::inventory::{HostSeen, HostView, Instance, Inventory, Metadata, Phase, Power, Protection, View};
use crate::load_balancer::{AdminSocket, Balance, Frontend, LoadBalancer, Mode, Run, Stickiness};
use crate::model::{
    Clone as CloneMode, Cpu, Firmware, Image, ImageDigest, ImageFormat, Model, Virtualization,
};
use crate::names::{InstanceId, Label, StoreId, VolumeName, instance_name, instance_uuid, volume_name};
use crate::ownership::{Odd, sort_out};
use crate::plan::{Experience, Plan, Situation, plan};
use crate::record::Record;
use crate::scaleset::{
    FaultDomain, Health, Host, ImageSource, Instance as InstanceSection, Limits, Placement, Repair, ScaleIn,
    ScaleInPolicy, ScaleSet, Spread, State, Upgrade,
};
use crate::units::Bytes;
use crate::warrants::Cause;

pub const STORE: StoreId = StoreId(Uuid::from_u128(0x5eed << 112));
/// What is drawn for every plan.
pub const DRAWN: Uuid = Uuid::from_u128(0xd << 112);
pub const OTHER_STORE: StoreId = StoreId(Uuid::from_u128(0x07e4 << 112));

/// So many random cases, or as many as `PROPTEST_CASES` says if that is more. The seed of one that fails is printed with the file beside the tests that it belongs into: there
/// it is tried first from then on.
pub fn cases(cases: u32) -> Config {
    let asked = Config::default();
    Config {
        cases: cases.max(asked.cases),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..asked
    }
}

pub fn label(text: impl Into<String>) -> Label {
    Label::new(text.into()).unwrap()
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A world small enough to write down: a set, its record, its hosts.
#[derive(Clone, Debug)]
pub struct Scene {
    pub set: ScaleSet,
    pub record: Record,
    pub inventory: Inventory,
    pub experience: Experience,
}

impl Scene {
    /// `domains[d]` hosts in each fault domain, each with 16 CPUs, 64 GiB, 1 TiB of pool and the image.
    pub fn new(domains: &[usize]) -> Self {
        let fault_domains: Vec<FaultDomain> = (domains.iter().enumerate())
            .map(|(d, &hosts)| FaultDomain {
                name: label(format!("d{d}")),
                hosts: (0..hosts)
                    .map(|h| Host {
                        name: label(format!("d{d}h{h}")),
                        uri: format!("test+unix:///default?socket=/d{d}h{h}"),
                        pool: "default".into(),
                        migration_address: None,
                    })
                    .collect(),
            })
            .collect();
        let model = model();
        let set = ScaleSet {
            name: label("web"),
            capacity: 0,
            image: ImageSource::File {
                path: PathBuf::from("/image.qcow2"),
                sha256: None,
            },
            instance: InstanceSection {
                vcpus: model.vcpus,
                memory: model.memory,
                disk: None,
                clone: model.clone,
                cpu: model.cpu.clone(),
                virtualization: model.virtualization,
                firmware: model.firmware,
                user_data: None,
                vars: BTreeMap::new(),
                networks: Vec::new(),
                data_disks: Vec::new(),
            },
            fault_domains,
            placement: Placement {
                spread: Spread::BestEffort,
                max_skew: 1,
                vcpu_overcommit: 4.0,
                memory_reserve: Bytes::gib(1),
                pool_reserve: Bytes::gib(1),
            },
            limits: Limits {
                calls_per_host: 4,
                starts_per_host: 2,
                call_timeout: Duration::from_secs(30),
            },
            scale_in: ScaleIn {
                policy: ScaleInPolicy::Default,
                shutdown: Duration::from_secs(60),
                protect_new: false,
            },
            health: Health::default(),
            upgrade: Upgrade::default(),
            repair: Repair::default(),
            load_balancer: None,
            discovery: Vec::new(),
            autoscale: None,
            state: State { path: None },
        };
        let record = Record::new(STORE, set.clone(), model, PathBuf::from("/scaleset.toml"), at(0));
        let hosts = set.hosts().map(|(_, h)| HostView {
            name: h.name.clone(),
            view: View::Seen(host()),
        });
        let inventory = Inventory {
            hosts: hosts.collect(),
            answers: BTreeMap::new(),
            reached: BTreeMap::new(),
            told: BTreeMap::new(),
            off_limits: Default::default(),
            balancers: Vec::new(),
            odd: Odd::default(),
        };
        Self {
            set,
            record,
            inventory,
            experience: Experience::default(),
        }
    }

    /// Adds a running instance, made at second `id`.
    pub fn add(&mut self, host: &str, id: u64) -> &mut Instance {
        let (set, store) = (self.set.name.clone(), self.record.store);
        let domain = self
            .set
            .hosts()
            .find(|(_, h)| h.name.as_str() == host)
            .unwrap()
            .0
            .clone();
        let revision = self.record.current();
        let (number, hash, image) = (
            revision.number,
            revision.hash.clone(),
            revision.model.image.digest.clone(),
        );
        let (memory, vcpus) = (revision.model.memory, revision.model.vcpus);
        let id = InstanceId(id);
        let seen = self.host(host);
        seen.used_memory = seen.used_memory + memory;
        seen.used_vcpus += vcpus;
        let instance = Instance {
            id,
            name: instance_name(&set, id),
            uuid: instance_uuid(store, &set, id),
            power: Power::Running,
            vcpus,
            meta: Metadata {
                set,
                id,
                store,
                fault_domain: domain,
                host: label(host),
                revision: number,
                model_hash: hash,
                image,
                created_at: at(id.0.try_into().unwrap()),
                phase: Phase::Ready,
                addresses: Vec::new(),
                volumes: Vec::new(),
                protection: Protection::None,
                stopped: false,
                rework: None,
                moving_to: None,
                epoch: None,
            },
        };
        // What lives is the record's to say.
        self.record.take_in(&instance, &label(host));
        let seen = self.host(host);
        seen.instances.push(instance);
        seen.instances.last_mut().unwrap()
    }

    /// A volume that has the name of an instance's OS disk is on a host.
    pub fn volume(&mut self, host: &str, id: u64) {
        let (set, id) = (self.set.name.clone(), InstanceId(id));
        let uuid = instance_uuid(self.record.store, &set, id);
        let name = volume_name(&set, id, uuid, "os", "qcow2");
        let volume = VolumeName::parse(&set, &name).unwrap();
        self.host(host).volumes.push(volume);
    }

    /// The record says that an instance is to go from a host.
    pub fn warrant(&mut self, host: &str, id: u64, cause: Cause) {
        let (host, id) = (label(host), InstanceId(id));
        let uuid = instance_uuid(self.record.store, &self.set.name, id);
        self.record.warrants.issue(&host, id, uuid, cause, at(1_000_000));
    }

    pub fn host(&mut self, name: &str) -> &mut HostSeen {
        let host = self
            .inventory
            .hosts
            .iter_mut()
            .find(|h| h.name.as_str() == name)
            .unwrap();
        match &mut host.view {
            View::Seen(seen) => seen,
            View::Unseen { .. } => panic!("{name} is out of sight"),
        }
    }

    /// Loses sight of a host; what was there stays known if it was absorbed before.
    pub fn lose(&mut self, name: &str) {
        self.absorb();
        let host = self
            .inventory
            .hosts
            .iter_mut()
            .find(|h| h.name.as_str() == name)
            .unwrap();
        host.view = View::Unseen {
            reason: "connection refused".into(),
        };
    }

    pub fn absorb(&mut self) {
        sort_out(&self.record, &mut self.inventory);
        self.record.absorb(&self.inventory);
    }

    pub fn situation(&self) -> Situation<'_> {
        Situation {
            set: &self.set,
            record: &self.record,
            inventory: &self.inventory,
            experience: &self.experience,
            now: at(1_000_000),
            drawn: DRAWN,
        }
    }

    pub fn plan(&mut self) -> Plan {
        self.absorb();
        plan(self.situation())
    }
}

/// Load balancers of one HTTP frontend, at a socket.
pub fn load_balancer(drain: Duration) -> LoadBalancer {
    LoadBalancer {
        run: Run::Sockets(vec![AdminSocket::Unix(PathBuf::from("/run/admin.sock"))]),
        drain,
        slow_start: Duration::ZERO,
        stats: None,
        frontends: vec![Frontend {
            name: label("http"),
            bind: Vec::new(),
            mode: Mode::Http,
            port: 80,
            balance: Balance::Roundrobin,
            certificate: None,
            stickiness: Stickiness::None,
            max_connections: None,
            backend: None,
        }],
    }
}

pub fn model() -> Model {
    Model {
        image: Image {
            digest: ImageDigest("ab".repeat(32)),
            format: ImageFormat::Qcow2,
            virtual_size: Bytes::gib(2),
            file_size: Bytes::mib(400),
        },
        vcpus: 1,
        memory: Bytes::gib(1),
        disk: Bytes::gib(2),
        clone: CloneMode::Linked,
        cpu: Cpu::HostModel,
        virtualization: Virtualization::Auto,
        firmware: Firmware::Bios,
        user_data: None,
        networks: Vec::new(),
        data_disks: Vec::new(),
    }
}

pub fn host() -> HostSeen {
    HostSeen {
        cpus: 16,
        memory: Bytes::gib(64),
        used_vcpus: 0,
        used_memory: Bytes(0),
        uuid: None,
        domains: 0,
        pool_unseen: None,
        pool_free: Bytes::gib(1024),
        marks: BTreeSet::new(),
        bases: BTreeSet::from([model().image.digest]),
        remains: BTreeSet::new(),
        instances: Vec::new(),
        foreign: Vec::new(),
        nameless: Vec::new(),
        volumes: Vec::new(),
        seeds: Vec::new(),
    }
}
