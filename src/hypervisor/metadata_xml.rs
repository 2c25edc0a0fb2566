//! An instance's facts as the XML in its domain's metadata.

use quick_xml::escape;

use crate::inventory::{Metadata, Phase};
use crate::model::ImageDigest;
use crate::names::{InstanceId, Label, StoreId};

/// Namespace of vmss's element in a domain's metadata.
pub const NAMESPACE: &str = "https://vmss.dev/xmlns/instance/1";
/// Prefix that libvirt gives the namespace.
pub const PREFIX: &str = "vmss";
/// Name of the element.
pub const ELEMENT: &str = "instance";

const fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Creating => "creating",
        Phase::Ready => "ready",
        Phase::Deleting => "deleting",
    }
}

/// The facts as attributes of the element, in a fixed order.
pub fn attributes(meta: &Metadata) -> Vec<(&'static str, String)> {
    let addresses: Vec<String> = meta
        .addresses
        .iter()
        .map(|a| a.map_or_else(|| "-".to_owned(), |a| a.to_string()))
        .collect();
    vec![
        ("set", meta.set.to_string()),
        ("id", meta.id.to_string()),
        ("store", meta.store.to_string()),
        ("fault_domain", meta.fault_domain.to_string()),
        ("host", meta.host.to_string()),
        ("revision", meta.revision.to_string()),
        ("model", meta.model_hash.clone()),
        ("image", meta.image.0.clone()),
        ("created_at", meta.created_at.to_string()),
        ("phase", phase_word(meta.phase).to_owned()),
        ("addresses", addresses.join(" ")),
        ("volumes", meta.volumes.join(" ")),
    ]
}

/// The element without a prefix of its own, as virDomainSetMetadata wants it.
pub fn element(meta: &Metadata) -> String {
    let mut text = format!("<{ELEMENT}");
    for (name, value) in attributes(meta) {
        text += &format!(" {name}=\"{}\"", escape::escape(&value));
    }
    text + "/>"
}

/// Reads the facts out of the element. `None` if it is another, or can't be understood.
pub fn parse(xml: &str) -> Option<Metadata> {
    let document = roxmltree::Document::parse(xml).ok()?;
    let element = document.root_element();
    if element.tag_name().name() != ELEMENT {
        return None;
    }
    let found = |name: &str| element.attribute(name);
    let label = |name: &str| Label::new(found(name)?).ok();
    Some(Metadata {
        set: label("set")?,
        id: InstanceId(found("id")?.parse().ok()?),
        store: StoreId(found("store")?.parse().ok()?),
        fault_domain: label("fault_domain")?,
        host: label("host")?,
        revision: found("revision")?.parse().ok()?,
        model_hash: found("model")?.to_owned(),
        image: ImageDigest(found("image")?.to_owned()),
        created_at: found("created_at")?.parse().ok()?,
        phase: match found("phase")? {
            "creating" => Phase::Creating,
            "ready" => Phase::Ready,
            "deleting" => Phase::Deleting,
            _ => return None,
        },
        addresses: (found("addresses")?.split_whitespace())
            .map(|a| {
                if a == "-" {
                    Some(None)
                } else {
                    a.parse().ok().map(Some)
                }
            })
            .collect::<Option<_>>()?,
        volumes: found("volumes")?.split_whitespace().map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn what_is_written_is_read_back() {
        let meta = Metadata {
            set: Label::new("web").unwrap(),
            id: InstanceId(7),
            store: StoreId(Uuid::from_u128(5)),
            fault_domain: Label::new("rack-a").unwrap(),
            host: Label::new("kvm1").unwrap(),
            revision: 3,
            model_hash: "0123456789abcdef".into(),
            image: ImageDigest("ab".repeat(32)),
            created_at: "2026-11-23T22:53:58Z".parse().unwrap(),
            phase: Phase::Deleting,
            addresses: vec![Some("10.0.0.7".parse().unwrap()), None],
            volumes: vec!["web-7-00000000-os.qcow2".into(), "web-7-00000000-seed.img".into()],
        };
        let xml = element(&meta);
        assert_eq!(parse(&xml), Some(meta.clone()));
        let prefixed = format!(
            "<vmss:instance xmlns:vmss=\"{NAMESPACE}\"{}",
            &xml["<instance".len()..]
        );
        assert_eq!(
            parse(&prefixed),
            Some(meta),
            "libvirt gives it back with a prefix"
        );
        assert!(xml.len() < 2048);
    }

    #[test]
    fn what_is_not_ours_is_not_understood() {
        for other in [
            "",
            "<x/>",
            "<instance/>",
            "<instance set=\"WEB\"/>",
            "<instance",
            "not xml & all",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
