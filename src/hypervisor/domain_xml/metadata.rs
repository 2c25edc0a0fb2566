//! The note of an instance's facts in its domain's own `<metadata>`.

use std::net::Ipv4Addr;

use uuid::Uuid;

use super::element::{Element, XmlError};
use crate::inventory::{Metadata, Phase, Protection, Rework};
use crate::model::ImageDigest;
use crate::names::{Label, StoreId, parse_id};

/// Namespace of vmss's element. It ends in the version of the format.
pub const NAMESPACE: &str = "https://vmss.dev/xmlns/instance/1";

/// Prefix that libvirt puts before the element's name.
pub const PREFIX: &str = "vmss";

/// Why metadata can't be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// Not XML.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// Something is missing or not of its form.
    #[error("`{0}` is missing or not understood")]
    Field(&'static str),
}

/// The element as `virDomainSetMetadata` takes it: without a namespace of its own, which libvirt adds.
pub fn element(meta: &Metadata) -> Element {
    let mut element = Element::new("instance")
        .attr("set", &meta.set)
        .attr("id", meta.id)
        .attr("store", meta.store)
        .attr("fault-domain", &meta.fault_domain)
        .attr("host", &meta.host)
        .attr("revision", meta.revision)
        .attr("model", &meta.model_hash)
        .attr("image", &meta.image.0)
        .attr("created-at", meta.created_at)
        .attr("phase", phase_name(meta.phase));
    // Left out where they say nothing, so that most instances' notes stay short.
    if meta.protection != Protection::None {
        element = element.attr("protect", protection_name(meta.protection));
    }
    if meta.stopped {
        element = element.attr("stopped", "true");
    }
    if let Some(rework) = meta.rework {
        element = element.attr("rework", rework_name(rework));
    }
    if let Some(host) = &meta.moving_to {
        element = element.attr("moving-to", host);
    }
    if let Some(epoch) = meta.epoch {
        element = element.attr("epoch", epoch);
    }
    element
        .children(meta.addresses.iter().map(|address| {
            let nic = Element::new("nic");
            match address {
                Some(address) => nic.attr("address", address),
                None => nic,
            }
        }))
        .children(
            meta.volumes
                .iter()
                .map(|name| Element::new("volume").attr("name", name)),
        )
}

/// The element as it stands in a whole domain document, with prefix and namespace.
pub fn embedded(meta: &Metadata) -> Element {
    let mut element = element(meta);
    for part in element.children.iter_mut() {
        part.name = format!("{PREFIX}:{}", part.name);
    }
    element.name = format!("{PREFIX}:{}", element.name);
    element
        .attributes
        .insert(0, (format!("xmlns:{PREFIX}"), NAMESPACE.to_owned()));
    element
}

/// Reads the element's text as libvirt gives it.
///
/// # Errors
/// The first thing that is not understood: then the domain is not treated as vmss's.
pub fn parse(xml: &str) -> Result<Metadata, MetadataError> {
    read(&Element::parse(xml)?)
}

/// Reads the element.
///
/// # Errors
/// As [`parse`].
pub fn read(element: &Element) -> Result<Metadata, MetadataError> {
    if element.name != "instance" {
        return Err(MetadataError::Field("instance"));
    }
    Ok(Metadata {
        set: field(element, "set", |v| Label::new(v).ok())?,
        id: field(element, "id", parse_id)?,
        store: field(element, "store", |v| Uuid::parse_str(v).ok().map(StoreId))?,
        fault_domain: field(element, "fault-domain", |v| Label::new(v).ok())?,
        host: field(element, "host", |v| Label::new(v).ok())?,
        revision: field(element, "revision", |v| v.parse().ok())?,
        model_hash: field(element, "model", |v| Some(v.to_owned()))?,
        image: field(element, "image", digest)?,
        created_at: field(element, "created-at", |v| v.parse().ok())?,
        phase: field(element, "phase", parse_phase)?,
        addresses: parts(element, "nic")
            .map(|nic| {
                nic.get("address")
                    .map(|a| {
                        a.parse::<Ipv4Addr>()
                            .map_err(|_| MetadataError::Field("nic/@address"))
                    })
                    .transpose()
            })
            .collect::<Result<_, _>>()?,
        volumes: parts(element, "volume")
            .map(|volume| field(volume, "name", |v| Some(v.to_owned())))
            .collect::<Result<_, _>>()?,
        protection: match element.get("protect") {
            None => Protection::None,
            Some(_) => field(element, "protect", parse_protection)?,
        },
        stopped: element.get("stopped") == Some("true"),
        rework: match element.get("rework") {
            None => None,
            Some(_) => Some(field(element, "rework", parse_rework)?),
        },
        moving_to: match element.get("moving-to") {
            None => None,
            Some(_) => Some(field(element, "moving-to", |v| Label::new(v).ok())?),
        },
        epoch: match element.get("epoch") {
            None => None,
            Some(_) => Some(field(element, "epoch", |v| v.parse().ok())?),
        },
    })
}

/// The set that a note names, as far as that much of it is understood: for a note that is not understood as a whole.
pub fn set_of(xml: &str) -> Option<Label> {
    let element = Element::parse(xml).ok()?;
    element.get("set").and_then(|set| Label::new(set).ok())
}

/// Of a note that is not understood as a whole: what it says of being made or deleted, and the image it names, each if that
/// much is understood.
pub fn phase_and_image(element: &Element) -> (Option<Phase>, Option<ImageDigest>) {
    let phase = element.get("phase").and_then(parse_phase);
    (phase, element.get("image").and_then(digest))
}

/// A digest, if `text` is 64 lower-case hex digits.
pub fn digest(text: &str) -> Option<ImageDigest> {
    let hex = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    hex.then(|| ImageDigest(text.to_owned()))
}

fn parts<'a>(element: &'a Element, name: &'a str) -> impl Iterator<Item = &'a Element> {
    element.children.iter().filter(move |c| c.name == name)
}

fn field<T>(
    element: &Element,
    name: &'static str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<T, MetadataError> {
    element.get(name).and_then(read).ok_or(MetadataError::Field(name))
}

const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Creating => "creating",
        Phase::Ready => "ready",
        Phase::Changing => "changing",
        Phase::Deleting => "deleting",
    }
}

fn parse_phase(text: &str) -> Option<Phase> {
    [Phase::Creating, Phase::Ready, Phase::Changing, Phase::Deleting]
        .into_iter()
        .find(|p| phase_name(*p) == text)
}

const fn protection_name(protection: Protection) -> &'static str {
    match protection {
        Protection::None => "none",
        Protection::ScaleIn => "scale-in",
        Protection::All => "all",
    }
}

fn parse_protection(text: &str) -> Option<Protection> {
    [Protection::None, Protection::ScaleIn, Protection::All]
        .into_iter()
        .find(|p| protection_name(*p) == text)
}

const fn rework_name(rework: Rework) -> &'static str {
    match rework {
        Rework::Live => "live",
        Rework::Restart => "restart",
        Rework::Reimage => "reimage",
    }
}

fn parse_rework(text: &str) -> Option<Rework> {
    [Rework::Live, Rework::Restart, Rework::Reimage]
        .into_iter()
        .find(|r| rework_name(*r) == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::InstanceId;

    fn sample() -> Metadata {
        let label = |s: &str| Label::new(s).unwrap();
        let set = "s".repeat(50);
        Metadata {
            set: label(&set),
            id: InstanceId(999_999_999_999),
            store: StoreId(Uuid::from_u128(7)),
            fault_domain: label(&"d".repeat(63)),
            host: label(&"h".repeat(63)),
            revision: u32::MAX,
            model_hash: "0123456789abcdef".to_owned(),
            image: ImageDigest("a".repeat(64)),
            created_at: "2026-02-03T04:05:06.789Z".parse().unwrap(),
            phase: Phase::Creating,
            addresses: (0..8u8)
                .map(|n| (n % 2 == 0).then(|| Ipv4Addr::new(10, 255, 255, n)))
                .collect(),
            volumes: (0..12)
                .map(|n| format!("{set}-999999999999-01234567-data-disk-{n:063}.qcow2"))
                .collect(),
            protection: Protection::ScaleIn,
            stopped: true,
            rework: Some(Rework::Reimage),
            moving_to: Some(label(&"t".repeat(63))),
            epoch: Some("18446744073709551615.ffffffff".parse().unwrap()),
        }
    }

    #[test]
    fn what_is_written_is_read_and_stays_small() {
        let meta = sample();
        for phase in [Phase::Creating, Phase::Ready, Phase::Changing, Phase::Deleting] {
            let meta = Metadata {
                phase,
                ..meta.clone()
            };
            let xml = element(&meta).to_xml().unwrap();
            assert_eq!(parse(&xml), Ok(meta.clone()));
            assert!(
                xml.len() < 4096,
                "even 12 data disks must keep under 4 KiB, this took {}",
                xml.len()
            );
            assert_eq!(parse(&embedded(&meta).to_xml().unwrap()), Ok(meta));
        }
    }

    #[test]
    fn a_note_leaves_out_what_says_nothing() {
        let meta = Metadata {
            protection: Protection::None,
            stopped: false,
            rework: None,
            moving_to: None,
            epoch: None,
            ..sample()
        };
        let xml = element(&meta).to_xml().unwrap();
        for absent in ["protect", "stopped", "rework", "moving-to", "epoch"] {
            assert!(!xml.contains(absent), "{xml}");
        }
        assert_eq!(parse(&xml), Ok(meta));
    }

    #[test]
    fn whatever_is_not_understood_is_an_error() {
        let good = element(&sample()).to_xml().unwrap();
        for (what, broken) in [
            ("phase", good.replace("creating", "resting")),
            ("id", good.replace("id=\"999", "id=\"x999")),
            ("image", good.replace("aaaa", "ZZZZ")),
            ("rework", good.replace("reimage", "rebuild")),
            ("moving-to", good.replace("moving-to=\"t", "moving-to=\"T")),
            ("epoch", good.replace(".ffffffff", ".fffffff")),
            ("an id that is too high", good.replace("id=\"999", "id=\"9999")),
            (
                "another element",
                good.replace("<instance", "<x").replace("</instance", "</x"),
            ),
            ("half a document", good[..good.len() / 2].to_owned()),
            ("nothing", String::new()),
        ] {
            assert!(parse(&broken).is_err(), "{what} must not pass");
        }
    }
}
