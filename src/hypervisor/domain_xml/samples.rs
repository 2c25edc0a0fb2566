//! An instance, a model and a host for the tests of this folder and its neighbours.

use uuid::Uuid;

use super::{DiskMode, DomainType, HostDetails};
use crate::model::*;
use crate::names::{InstanceId, Label, StoreId, instance_uuid, mac_address};
use crate::plan::action::InstanceSpec;
use crate::units::Bytes;

pub(crate) fn nic(source: NicSource) -> Nic {
    Nic {
        source,
        addresses: None,
        gateway: None,
        dns: Vec::new(),
        within: Vec::new(),
    }
}

pub(crate) fn model() -> Model {
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
        clone: Clone::Linked,
        cpu: Cpu::HostModel,
        virtualization: Virtualization::Auto,
        firmware: Firmware::Bios,
        user_data: None,
        networks: vec![nic(NicSource::Bridge("br0".to_owned()))],
        data_disks: Vec::new(),
    }
}

pub(crate) fn spec() -> InstanceSpec {
    let label = |s: &str| Label::new(s).unwrap();
    let (store, set, id) = (StoreId(Uuid::from_u128(42)), label("web"), InstanceId(3));
    let uuid = instance_uuid(store, &set, id);
    InstanceSpec {
        uuid,
        epoch: crate::epoch::Epoch::default(),
        macs: vec![mac_address(&set, id, uuid, 0)],
        addresses: vec![None],
        protection: crate::inventory::Protection::None,
        host: label("kvm1"),
        fault_domain: label("rack-a"),
        revision: 2,
        model_hash: "0123456789abcdef".to_owned(),
        image: ImageDigest("ab".repeat(32)),
        created_at: "2026-02-03T04:05:06Z".parse().unwrap(),
        store,
        set,
        id,
    }
}

pub(crate) fn host() -> HostDetails {
    HostDetails {
        domain_type: DomainType::Kvm,
        arch: Some("x86_64".to_owned()),
        machine: Some("q35".to_owned()),
        pool_path: "/var/lib/libvirt/images".to_owned(),
        console_folder: Some("/var/log/libvirt/qemu".to_owned()),
        disk_mode: DiskMode::Direct,
        free_page_reporting: true,
    }
}
