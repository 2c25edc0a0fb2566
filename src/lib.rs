//! `vmss`: scale sets for plain libvirt/KVM hosts. ARCHITECTURE.md is the way in.

pub mod error;
pub mod event;
pub mod hypervisor;
pub mod inventory;
pub mod model;
pub mod names;
pub mod plan;
pub mod record;
pub mod scaleset;
pub mod store;
pub mod units;
