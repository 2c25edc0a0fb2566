//! Reads who uses which files on a host: slow, exact, and only done before something is lost for good.

use std::collections::HashSet;

use virt::domain::Domain;
use virt::storage_pool::StoragePool;
use virt::sys;

use super::connection::Session;
use super::fault::{no_pool, optional};
use super::logs;
use super::observe::all;
use super::volumes::Pool;
use crate::hypervisor::domain_xml::element::Element;
use crate::hypervisor::domain_xml::metadata;
use crate::hypervisor::{HypervisorError, Uses};
use crate::inventory::Phase;
use crate::model::ImageDigest;
use crate::names::PoolMark;

/// What was found.
#[derive(Default)]
pub struct Survey {
    /// Users of files.
    pub uses: Uses,
    /// Domains that are about to be made of an image, with its digest: their disks need not be there yet. `None`: of which
    /// image can't be read, so that it may be any.
    pub making: Vec<(String, Option<ImageDigest>)>,
    /// Volumes that are there, in whichever pool, by name.
    volumes: HashSet<String>,
}

/// See [`crate::hypervisor::Hypervisor::uses`].
pub fn uses(pool: &Pool<'_, '_>) -> Result<Uses, HypervisorError> {
    pool.refresh_now()?;
    let mut found = survey(pool.session())?.uses;
    found.marks = pool
        .names()?
        .iter()
        .filter_map(|name| PoolMark::parse(name))
        .collect();
    Ok(found)
}

/// Reads the XML of every volume in every pool of the host, and of every domain.
pub fn survey(session: &Session<'_>) -> Result<Survey, HypervisorError> {
    let mut survey = Survey::default();
    let active = sys::VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE;
    let pools = session.call("listing pools", |c| c.list_all_storage_pools(active))?;
    // Console logs are no disks, whatever a guest writes into its own.
    for pool in pools
        .iter()
        .filter(|p| p.name().map_or(true, |n| n != logs::POOL))
    {
        match survey.read_pool(session, pool) {
            // Stopped meanwhile: what it held can't be told, but nothing new can be backed through it either.
            Err(error) if no_pool(&error) => {}
            read => read?,
        }
    }
    for domain in &all(session)? {
        survey.read_domain(session, domain)?;
    }
    Ok(survey)
}

impl Survey {
    fn read_pool(&mut self, session: &Session<'_>, pool: &StoragePool) -> Result<(), HypervisorError> {
        let in_pool = pool.name().unwrap_or_default();
        let doing = format!("listing the volumes of pool {in_pool}");
        for volume in &session.call(doing, |_| pool.list_all_volumes(0))? {
            let name = volume.name().unwrap_or_default();
            let doing = format!("reading volume {name} in pool {in_pool}");
            let described = session.call(doing, |_| volume.xml_desc(0));
            let Some(xml) = optional(described, sys::VIR_ERR_NO_STORAGE_VOL)? else {
                continue;
            };
            self.volumes.insert(name.clone());
            match Element::parse(&xml) {
                Ok(document) => {
                    let backing = document.path(["backingStore", "path"]);
                    (backing.into_iter().flat_map(|path| parts(&path.text)))
                        .for_each(|path| self.uses.add(path, &name, None));
                }
                Err(_) => self.uses.unread.push(format!("volume {name} in pool {in_pool}")),
            }
        }
        Ok(())
    }

    fn read_domain(&mut self, session: &Session<'_>, domain: &Domain) -> Result<(), HypervisorError> {
        let name = domain.name().unwrap_or_default();
        // What it has open, and what its next start opens.
        for flags in [0, sys::VIR_DOMAIN_XML_INACTIVE] {
            let described = session.call(format_args!("reading domain {name}"), |_| domain.xml_desc(flags));
            let Some(xml) = optional(described, sys::VIR_ERR_NO_DOMAIN)? else {
                return Ok(());
            };
            self.read_xml(&xml, &name, domain);
        }
        let listed = session.call(format_args!("listing the snapshots of domain {name}"), |_| {
            domain.list_all_snapshots(0)
        });
        let snapshots = match listed {
            Ok(snapshots) => snapshots,
            Err(fault) if fault.is(sys::VIR_ERR_NO_DOMAIN) => return Ok(()),
            // A driver that knows no snapshots has none.
            Err(fault) if fault.unsupported() => Vec::new(),
            Err(fault) => return Err(fault.error),
        };
        for snapshot in &snapshots {
            let doing = format!("reading a snapshot of domain {name}");
            let described = session.call(doing, |_| snapshot.xml_desc(0));
            if let Some(xml) = optional(described, sys::VIR_ERR_NO_DOMAIN_SNAPSHOT)? {
                self.read_xml(&xml, &name, domain);
            }
        }
        Ok(())
    }

    fn read_xml(&mut self, xml: &str, name: &str, domain: &Domain) {
        let Ok(document) = Element::parse(xml) else {
            self.uses.unread.push(format!("domain {name}"));
            return;
        };
        let uuid = domain.uuid().ok();
        let sources = document.walk().filter(|e| e.name == "source");
        let kinds = ["file", "volume", "dev"];
        let disks: Vec<&str> = sources
            .filter_map(|e| kinds.into_iter().find_map(|kind| e.get(kind)))
            .collect();
        for file in files(&document) {
            self.uses.add(file, name, uuid);
        }
        if let Some(note) = document.path(["metadata", "instance"])
            && let Some(image) = self.being_made(note, &disks)
        {
            self.making.push((name.to_owned(), image));
        }
    }

    /// The image that a domain with that note and these disks is about to be made of, if it is. One whose note can't be read
    /// may be, of the image that the note names, or of any: unless it says that it is whole, or, where not even that can be
    /// read, all of its disks are there. So a note that somebody has spoilt holds nothing for ever.
    fn being_made(&self, note: &Element, disks: &[&str]) -> Option<Option<ImageDigest>> {
        let is_half = |phase| matches!(phase, Phase::Creating | Phase::Changing);
        match metadata::read(note) {
            Ok(meta) => is_half(meta.phase).then_some(Some(meta.image)),
            Err(_) => {
                let (phase, image) = metadata::phase_and_image(note);
                let lacks = |path: &&str| !self.volumes.contains(path.rsplit('/').next().unwrap_or(path));
                phase
                    .map_or_else(|| disks.iter().any(lacks), is_half)
                    .then_some(image)
            }
        }
    }
}

/// Attributes that name what a domain has open, wherever they stand: a file, a device that may be a link to one, a volume of a
/// pool, a folder.
const NAMING: [&str; 4] = ["file", "dev", "volume", "dir"];

/// Everything in a domain's description, or a snapshot's, that may name a file: its disks with what they are backed by and mirrored
/// to, kernel, firmware and its variables, the memory of a snapshot, and what is handed to QEMU past libvirt. What is no file's
/// name does no harm. Notes name files without having them open, and are left out.
fn files(element: &Element) -> Vec<&str> {
    let mut found = Vec::new();
    collect(element, &mut found);
    found
}

fn collect<'x>(element: &'x Element, found: &mut Vec<&'x str>) {
    if element.name == "metadata" {
        return;
    }
    let is_source = element.name == "source";
    let is_argument = matches!(element.name.as_str(), "arg" | "env");
    for (name, value) in &element.attributes {
        let name = name.as_str();
        // A disk on the network is called "volume/file"; a character device is a path.
        let is_name = NAMING.contains(&name)
            || value.starts_with('/')
            || is_source && matches!(name, "name" | "path")
            || is_argument && name == "value";
        if is_name {
            found.extend(parts(value));
        }
    }
    if matches!(
        element.name.as_str(),
        "kernel" | "initrd" | "dtb" | "nvram" | "loader"
    ) || element.text.starts_with('/')
    {
        found.extend(parts(&element.text));
    }
    element.children.iter().for_each(|child| collect(child, found));
}

/// What a text may name: itself, and what is left when it is taken apart as QEMU's arguments are
/// (`file=/pool/a.qcow2,if=virtio`, `nbd:unix:/a`, `json:{"filename":"/pool/a.qcow2"}`).
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let is_between =
        |c: char| matches!(c, ',' | '=' | ':' | '"' | '\'' | '{' | '}' | '[' | ']') || c.is_whitespace();
    std::iter::once(text)
        .chain(text.split(is_between))
        .filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a domain with this in its description has the file open.
    fn names(within: &str) -> bool {
        let text = format!(
            "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>other</name>{within}</domain>"
        );
        let document = Element::parse(&text).unwrap();
        let mut uses = Uses::default();
        files(&document)
            .into_iter()
            .for_each(|file| uses.add(file, "other", None));
        uses.speaks_against("web-1-ab-os.qcow2", None).is_some()
    }

    #[test]
    fn a_file_is_in_use_whatever_part_of_a_description_names_it() {
        for within in [
            "<devices><disk type='file'><source file='/pool/web-1-ab-os.qcow2'/></disk></devices>",
            "<devices><disk type='block'><source dev='/dev/pool/web-1-ab-os.qcow2'/></disk></devices>",
            "<devices><disk type='volume'><source pool='other' volume='web-1-ab-os.qcow2'/></disk></devices>",
            "<devices><disk type='dir'><source dir='/pool/web-1-ab-os.qcow2'/></disk></devices>",
            "<devices><filesystem type='file'><source file='/pool/web-1-ab-os.qcow2'/></filesystem></devices>",
            "<devices><disk type='network'><source protocol='gluster' name='pool/web-1-ab-os.qcow2'/></disk></devices>",
            "<devices><serial type='file'><source path='/pool/web-1-ab-os.qcow2'/></serial></devices>",
            "<devices><disk><source file='/a'/><backingStore type='file'><source file='/pool/web-1-ab-os.qcow2'/></backingStore></disk></devices>",
            "<devices><disk><source file='/a'/><mirror type='file' file='/pool/web-1-ab-os.qcow2' job='copy'/></disk></devices>",
            "<devices><disk><source file='/a'><dataStore><source file='/pool/web-1-ab-os.qcow2'/></dataStore></source></disk></devices>",
            "<devices><disk><source file='json:{\"driver\":\"qcow2\",\"file\":{\"filename\":\"/pool/web-1-ab-os.qcow2\"}}'/></disk></devices>",
            "<memory snapshot='external' file='/pool/web-1-ab-os.qcow2'/>",
            "<disks><disk name='vda' snapshot='external'><source file='/pool/web-1-ab-os.qcow2'/></disk></disks>",
            "<os><kernel>/pool/web-1-ab-os.qcow2</kernel></os>",
            "<os><initrd>/pool/web-1-ab-os.qcow2</initrd></os>",
            "<os><loader type='pflash'>/pool/web-1-ab-os.qcow2</loader></os>",
            "<os><nvram template='/usr/share/OVMF_VARS.fd'>/pool/web-1-ab-os.qcow2</nvram></os>",
            "<os><nvram type='file'><source file='/pool/web-1-ab-os.qcow2'/></nvram></os>",
            "<qemu:commandline><qemu:arg value='-drive'/><qemu:arg value='file=/pool/web-1-ab-os.qcow2,if=virtio'/></qemu:commandline>",
            "<qemu:commandline><qemu:arg value='if=none,file=/pool/web-1-ab-os.qcow2'/></qemu:commandline>",
            "<qemu:commandline><qemu:arg value='nbd:unix:/pool/web-1-ab-os.qcow2:exportname=a'/></qemu:commandline>",
            "<qemu:commandline><qemu:arg value='{&quot;filename&quot;:&quot;/pool/web-1-ab-os.qcow2&quot;}'/></qemu:commandline>",
            "<qemu:commandline><qemu:env name='DISK' value='/pool/web-1-ab-os.qcow2'/></qemu:commandline>",
        ] {
            assert!(names(within), "{within}");
        }
    }

    #[test]
    fn what_only_speaks_of_a_file_does_not_have_it_open() {
        for within in [
            "<metadata><instance><volume name='web-1-ab-os.qcow2' file='/pool/web-1-ab-os.qcow2'/></instance></metadata>",
            "<title>made of web-1-ab-os.qcow2</title>",
            "<devices><disk><source file='/pool/web-1-ab-os.qcow2.bak'/><target dev='vda'/></disk></devices>",
        ] {
            assert!(!names(within), "{within}");
        }
    }
}
