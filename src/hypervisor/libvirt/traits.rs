//! What a daemon is and can do, read once per connection from its versions and capabilities.

use uuid::Uuid;

use super::connection::Session;
use crate::hypervisor::domain_xml::element::Element;
use crate::hypervisor::domain_xml::{DiskMode, DomainType, HostDetails};
use crate::hypervisor::{FaultKind, HypervisorError};
use crate::model::Virtualization;

/// See the module.
#[derive(Clone, Debug)]
pub struct Traits {
    /// libvirt's simulation: nothing runs, and no bytes can be sent.
    pub simulated: bool,
    /// libvirt's version: 9,000,000 is 9.0.0.
    pub libvirt: u32,
    /// The hypervisor's name and version, "QEMU" and 7,002,000.
    pub hypervisor: (String, u32),
    /// Whether the daemon runs as the host's administrator.
    pub system: bool,
    /// The host's architecture.
    pub arch: Option<String>,
    /// What the host's architecture can be run by.
    pub domain_types: Vec<String>,
    /// Machine types for it.
    pub machines: Vec<String>,
    /// The host's own UUID, if it tells one; libvirt's simulation does not.
    pub host: Option<Uuid>,
}

impl Traits {
    /// Asks the daemon.
    pub fn read(session: &Session<'_>) -> Result<Self, HypervisorError> {
        let (name, libvirt, version, uri, capabilities) =
            session.call("reading the host's capabilities", |c| {
                Ok((
                    c.driver_type()?,
                    c.lib_version()?,
                    c.hyp_version().unwrap_or(0),
                    c.uri()?,
                    c.capabilities()?,
                ))
            })?;
        let capabilities = Element::parse(&capabilities).map_err(|e| {
            HypervisorError::new(FaultKind::Other, "reading the host's capabilities", e.to_string())
        })?;
        let host = capabilities.path(["host", "uuid"]);
        let host = host.and_then(|uuid| Uuid::parse_str(uuid.text.trim()).ok());
        let arch = capabilities.path(["host", "cpu", "arch"]).map(|a| a.text.clone());
        let guest = capabilities
            .children
            .iter()
            .filter(|g| g.name == "guest" && g.find("os_type").is_some_and(|t| t.text == "hvm"))
            .filter_map(|g| g.find("arch"))
            .find(|a| a.get("name") == arch.as_deref());
        let every = |name: &str| -> Vec<&Element> {
            guest
                .into_iter()
                .flat_map(|a| a.children.iter())
                .filter(|e| e.name == name)
                .collect()
        };
        Ok(Self {
            simulated: name == "TEST",
            libvirt,
            hypervisor: (name, version),
            system: uri.split('?').next().is_some_and(|u| u.ends_with("/system")),
            arch,
            domain_types: every("domain")
                .iter()
                .filter_map(|d| d.get("type").map(str::to_owned))
                .collect(),
            machines: every("machine").iter().map(|m| m.text.clone()).collect(),
            host,
        })
    }

    /// Whether hardware virtualisation is offered.
    pub fn kvm(&self) -> bool {
        self.domain_types.iter().any(|t| t == "kvm")
    }

    /// Whether QEMU has qcow2's extended L2 entries (5.2) and libvirt can ask for them (8.0).
    pub fn extended_l2(&self) -> bool {
        self.libvirt >= 8_000_000 && (self.simulated || self.hypervisor.1 >= 5_002_000)
    }

    /// Whether libvirt can ask for a cluster size (7.4).
    pub fn cluster_size(&self) -> bool {
        self.libvirt >= 7_004_000
    }

    /// What runs an instance that asks for `wanted`.
    pub fn domain_type(&self, wanted: Virtualization) -> Result<DomainType, HypervisorError> {
        if self.simulated {
            return Ok(DomainType::Test);
        }
        match wanted {
            Virtualization::Qemu => Ok(DomainType::Qemu),
            Virtualization::Kvm | Virtualization::Auto if self.kvm() => Ok(DomainType::Kvm),
            Virtualization::Auto => Ok(DomainType::Qemu),
            Virtualization::Kvm => Err(HypervisorError::new(
                FaultKind::Unsupported,
                "choosing what runs the instance",
                "the host offers no hardware virtualisation (KVM)",
            )),
        }
    }

    /// The folder in which consoles are logged; `None` for the simulation and a user's own daemon. It is where libvirt
    /// has its own logs of domains, so that whatever confines its processes allows it.
    pub fn console_folder(&self) -> Option<&'static str> {
        (self.system && !self.simulated).then_some("/var/log/libvirt/qemu")
    }

    /// What the domain's XML needs to know.
    pub fn details(
        &self,
        wanted: Virtualization,
        pool_path: &str,
        disk_mode: DiskMode,
    ) -> Result<HostDetails, HypervisorError> {
        let domain_type = self.domain_type(wanted)?;
        let machine = ["q35", "virt"]
            .into_iter()
            .find(|m| self.machines.iter().any(|known| known == m));
        Ok(HostDetails {
            domain_type,
            arch: self.arch.clone().filter(|_| !self.simulated),
            machine: machine.map(str::to_owned).filter(|_| !self.simulated),
            pool_path: pool_path.to_owned(),
            console_folder: self.console_folder().map(str::to_owned),
            disk_mode,
            free_page_reporting: self.libvirt >= 6_009_000 && self.hypervisor.1 >= 5_001_000,
        })
    }
}

/// "9.0.0" from 9,000,000.
pub fn version(number: u32) -> String {
    format!(
        "{}.{}.{}",
        number / 1_000_000,
        number / 1000 % 1000,
        number % 1000
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions_are_written_with_dots() {
        assert_eq!(super::version(9_000_000), "9.0.0");
        assert_eq!(super::version(7_002_011), "7.2.11");
    }
}
