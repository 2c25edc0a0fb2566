//! What depends on an image: volumes backed by it, domains that have it among their disks, instances being made of it.

use std::collections::BTreeMap;

use virt::storage_pool::StoragePool;
use virt::sys;

use super::fault::{no_pool, optional};
use super::images::Base;
use super::logs;
use super::volumes::Pool;
use crate::hypervisor::HypervisorError;
use crate::hypervisor::domain_xml::element::Element;
use crate::hypervisor::domain_xml::metadata;
use crate::inventory::Phase;

/// Users by the copy's volume name.
pub struct Users(BTreeMap<String, Vec<User>>);

struct User {
    name: String,
    /// Whether its disk reads the copy's very file; else it is only about to be made of the image.
    reads: bool,
}

impl Users {
    /// Whether nothing depends on the copy.
    pub fn nobody(&self, copy: &Base) -> bool {
        !self.0.contains_key(&copy.name)
    }

    /// Whether some disk reads the copy's file.
    pub fn is_read(&self, copy: &Base) -> bool {
        self.0.get(&copy.name).is_some_and(|u| u.iter().any(|u| u.reads))
    }

    /// What depends on the copy, in order.
    pub fn names(&self, copy: &Base) -> Vec<String> {
        let users = self.0.get(&copy.name).into_iter().flatten();
        let mut names: Vec<String> = users.map(|u| u.name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    fn add(&mut self, copy: &Base, name: &str, reads: bool) {
        self.0.entry(copy.name.clone()).or_default().push(User {
            name: name.to_owned(),
            reads,
        });
    }
}

/// Reads the description of every volume in every pool of the host, and of every domain: slow, exact, and only done
/// before something is lost for good.
pub fn of(pool: &Pool<'_, '_>, copies: &[Base]) -> Result<Users, HypervisorError> {
    let mut users = Users(BTreeMap::new());
    if copies.is_empty() {
        return Ok(users);
    }
    let folder = pool.place()?.1;
    let paths: Vec<(String, &Base)> = copies
        .iter()
        .map(|c| (format!("{}/{}", folder.trim_end_matches('/'), c.name), c))
        .collect();
    by_volumes(pool, &paths, &mut users)?;
    by_domains(pool, &paths, &mut users)?;
    Ok(users)
}

fn by_volumes(
    pool: &Pool<'_, '_>,
    paths: &[(String, &Base)],
    users: &mut Users,
) -> Result<(), HypervisorError> {
    let session = pool.session();
    let active = sys::VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE;
    let pools = session.call("listing pools", |c| c.list_all_storage_pools(active))?;
    // Console logs are no disks, whatever a guest writes into its own.
    for other in pools.iter().filter(|p| p.name().is_ok_and(|n| n != logs::POOL)) {
        match by_volumes_of(pool, other, paths, users) {
            // Stopped meanwhile: what it held can't be told, but nothing new can be backed through it either.
            Err(error) if no_pool(&error) => {}
            read => read?,
        }
    }
    Ok(())
}

fn by_volumes_of(
    pool: &Pool<'_, '_>,
    other: &StoragePool,
    paths: &[(String, &Base)],
    users: &mut Users,
) -> Result<(), HypervisorError> {
    let session = pool.session();
    let in_pool = other.name().unwrap_or_default();
    let doing = format!("listing the volumes of pool {in_pool}");
    for volume in &session.call(doing, |_| other.list_all_volumes(0))? {
        let name = volume.name().unwrap_or_default();
        let doing = format!("reading volume {name} in pool {in_pool}");
        let described = session.call(doing, |_| volume.xml_desc(0));
        let Some(xml) = optional(described, sys::VIR_ERR_NO_STORAGE_VOL)? else {
            continue;
        };
        let Ok(document) = Element::parse(&xml) else {
            continue;
        };
        let backing = document.path(["backingStore", "path"]).map(|p| p.text.as_str());
        for (path, copy) in paths {
            if backing == Some(path) {
                users.add(copy, &name, true);
            }
        }
    }
    Ok(())
}

fn by_domains(
    pool: &Pool<'_, '_>,
    paths: &[(String, &Base)],
    users: &mut Users,
) -> Result<(), HypervisorError> {
    let session = pool.session();
    let domains = session.call("listing domains", |c| c.list_all_domains(0))?;
    for domain in &domains {
        let name = domain.name().unwrap_or_default();
        let described = session.call(format_args!("reading domain {name}"), |_| domain.xml_desc(0));
        let Some(xml) = optional(described, sys::VIR_ERR_NO_DOMAIN)? else {
            continue;
        };
        let Ok(document) = Element::parse(&xml) else {
            continue;
        };
        let making = document
            .path(["metadata", "instance"])
            .and_then(|e| metadata::read(e).ok())
            .filter(|m| matches!(m.phase, Phase::Creating | Phase::Changing))
            .map(|m| m.image);
        let files: Vec<&str> = document
            .find("devices")
            .into_iter()
            .flat_map(|d| d.children.iter().filter(|e| e.name == "disk"))
            .flat_map(Element::walk)
            .filter(|e| e.name == "source")
            .filter_map(|e| e.get("file"))
            .collect();
        for (path, copy) in paths {
            let reads = files.contains(&path.as_str());
            if reads || making.as_ref() == Some(&copy.digest) {
                users.add(copy, &name, reads);
            }
        }
    }
    Ok(())
}
