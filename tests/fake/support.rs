//! A fleet, a set and a model to try the fake with.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use vmss::hypervisor::fake::{FakeHost, Fleet};
use vmss::hypervisor::{
    FaultKind, Hosts, Hypervisor, HypervisorError, LocalImage, News, Pulse, Rework, Stage, Uses, Watch,
};
use vmss::inventory::{HostSeen, Instance};
use vmss::model::{
    Clone as CloneMode, Cpu, DataDisk, Firmware, Image, ImageDigest, ImageFormat, Model, Nic, NicSource,
    UserData, Virtualization,
};
use vmss::names::{InstanceId, Label, StoreId, instance_uuid, mac_address};
use vmss::plan::action::{InstanceRef, InstanceSpec};
use vmss::scaleset::{Host, Limits};
use vmss::units::Bytes;

pub const STORE: StoreId = StoreId(Uuid::from_u128(1));
pub const OTHER: StoreId = StoreId(Uuid::from_u128(2));

pub fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

pub fn web() -> Label {
    label("web")
}

/// A fleet with the host kvm1 as it comes, and that host opened.
pub fn one_host() -> (Arc<Fleet>, Arc<dyn Hypervisor>) {
    let fleet = Fleet::new();
    fleet.add_host(&label("kvm1"), FakeHost::default());
    let host = open(&fleet, "kvm1");
    (fleet, host)
}

pub fn open(fleet: &Fleet, name: &str) -> Arc<dyn Hypervisor> {
    fleet.host(&host(name), &limits())
}

pub fn host(name: &str) -> Host {
    Host {
        name: label(name),
        uri: "test:///default".into(),
        pool: "default".into(),
        migration_address: None,
    }
}

pub fn limits() -> Limits {
    Limits {
        calls_per_host: 4,
        starts_per_host: 2,
        call_timeout: Duration::from_secs(30),
    }
}

/// A pulse that is cancelled when that stage begins.
pub fn cancelled_at(at: Stage) -> Arc<Pulse> {
    Arc::new_cyclic(|pulse: &std::sync::Weak<Pulse>| {
        let pulse = pulse.clone();
        Pulse::new(move |news| {
            if let (News::Stage(stage), Some(pulse)) = (news, pulse.upgrade())
                && stage == at
            {
                pulse.cancel();
            }
        })
    })
}

pub fn model() -> Model {
    Model {
        image: Image {
            digest: ImageDigest("ab".repeat(32)),
            format: ImageFormat::Qcow2,
            virtual_size: Bytes::gib(2),
            file_size: Bytes::mib(300),
        },
        vcpus: 2,
        memory: Bytes::gib(1),
        disk: Bytes::gib(10),
        clone: CloneMode::Linked,
        cpu: Cpu::HostModel,
        virtualization: Virtualization::Auto,
        firmware: Firmware::Bios,
        user_data: None,
        networks: vec![Nic {
            source: NicSource::Bridge("br0".into()),
            addresses: None,
            gateway: None,
            dns: Vec::new(),
        }],
        data_disks: vec![DataDisk {
            name: label("logs"),
            size: Bytes::gib(5),
        }],
    }
}

/// The model with user data that differs between instances, so that each has a seed of its own.
pub fn templated() -> Model {
    Model {
        user_data: Some(UserData {
            template: "{{ instance.name }}".into(),
            vars: Default::default(),
        }),
        ..model()
    }
}

pub fn image() -> LocalImage {
    LocalImage {
        path: "debian.qcow2".into(),
        image: model().image,
    }
}

pub fn spec_of(id: u64, model: &Model) -> InstanceSpec {
    let id = InstanceId(id);
    InstanceSpec {
        set: web(),
        store: STORE,
        id,
        uuid: instance_uuid(STORE, &web(), id),
        host: label("kvm1"),
        fault_domain: label("rack-a"),
        revision: 1,
        model_hash: model.hash(),
        image: model.image.digest.clone(),
        created_at: "2026-03-04T05:06:07Z".parse().unwrap(),
        macs: vec![mac_address(&web(), id, instance_uuid(STORE, &web(), id), 0)],
        addresses: vec![None],
        protection: vmss::inventory::Protection::None,
        epoch: vmss::epoch::Epoch::default(),
    }
}

/// The same instance in its second revision.
pub fn second(id: u64, model: &Model) -> InstanceSpec {
    InstanceSpec {
        revision: 2,
        ..spec_of(id, model)
    }
}

/// Another image, and [`model`] with it, more memory, a larger disk and one more.
pub fn next() -> (LocalImage, Model) {
    let mut model = templated();
    model.image.digest = ImageDigest("cd".repeat(32));
    model.memory = Bytes::gib(2);
    model.data_disks[0].size = Bytes::gib(6);
    model.data_disks.push(DataDisk {
        name: label("cache"),
        size: Bytes::gib(1),
    });
    let image = LocalImage {
        path: "next.qcow2".into(),
        image: model.image.clone(),
    };
    (image, model)
}

/// Changes the instance to its second revision.
pub fn rework(host: &dyn Hypervisor, id: u64, model: &Model, how: Rework) -> Result<(), HypervisorError> {
    let patience = Duration::from_secs(20);
    host.rework(
        &second(id, model),
        model,
        how,
        patience,
        &uses(host),
        &Pulse::silent(),
    )
}

pub fn spec(id: u64) -> InstanceSpec {
    spec_of(id, &model())
}

pub fn reference(id: u64) -> InstanceRef {
    spec(id).reference()
}

/// Sends the image and makes the instance.
pub fn create(host: &dyn Hypervisor, id: u64) -> Result<(), HypervisorError> {
    create_of(host, id, &model())
}

pub fn create_of(host: &dyn Hypervisor, id: u64, model: &Model) -> Result<(), HypervisorError> {
    host.push_image(&image(), STORE, &Pulse::silent())?;
    host.create(&spec_of(id, model), model, &Pulse::silent())
}

pub fn delete(host: &dyn Hypervisor, id: u64) -> Result<(), HypervisorError> {
    host.delete(&reference(id), Duration::ZERO, &uses(host), &Pulse::silent())
}

pub fn seen(host: &dyn Hypervisor) -> HostSeen {
    host.observe(&watch(&web(), STORE)).unwrap()
}

pub fn instance(host: &dyn Hypervisor, id: u64) -> Option<Instance> {
    seen(host).instances.into_iter().find(|i| i.id == InstanceId(id))
}

/// What is wrong with the set `web`.
pub fn audit(fleet: &Fleet) -> Vec<String> {
    fleet.audit(&web(), &[STORE])
}

#[track_caller]
pub fn fails<T: std::fmt::Debug>(outcome: Result<T, HypervisorError>, kind: FaultKind) -> HypervisorError {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind, kind, "{error}");
    error
}

/// What a look is for, by those who ask for nothing in particular.
pub fn watch(set: &Label, store: StoreId) -> Watch {
    Watch {
        set: set.clone(),
        stores: vec![store],
        uuids: std::collections::HashSet::new(),
    }
}

/// Who uses what on a host; nothing of one that can't tell.
pub fn uses(host: &dyn Hypervisor) -> Uses {
    host.uses(&Pulse::silent()).unwrap_or_default()
}
