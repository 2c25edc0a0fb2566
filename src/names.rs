//! Names and identities: what a set, a host, an instance may be called, and what follows from a name (UUID, MAC).
//!
//! Everything here is derived, never drawn at random: the same store, set and id always give the same UUID and MAC,
//! so that a plan is fully specified and a run after a crash recognises its own work.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// A DNS label (RFC 1123): 1 to 63 of `a-z`, `0-9` and `-`, neither first nor last a `-`.
///
/// Scale sets, hosts, fault domains and data disks are named by one, so that no name can ever mean anything to an
/// XML document, a path, a shell or a balancer's configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Label(Arc<str>);

/// Why a text is no [`Label`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Nothing there.
    #[error("a name may not be empty")]
    Empty,
    /// Longer than DNS allows.
    #[error("a name may have 63 characters at most, this one has {0}")]
    TooLong(usize),
    /// A character outside the grammar.
    #[error("{0:?} may not stand in a name: use a-z, 0-9 and -")]
    Character(char),
    /// A hyphen at an end.
    #[error("a name may not begin or end with -")]
    Hyphen,
}

impl Label {
    /// Checks `text` against the grammar.
    ///
    /// # Errors
    /// The first rule that `text` breaks.
    pub fn new(text: impl Into<String>) -> Result<Self, LabelError> {
        let text = text.into();
        if text.is_empty() {
            return Err(LabelError::Empty);
        }
        if let Some(c) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
            return Err(LabelError::Character(c));
        }
        if text.len() > 63 {
            return Err(LabelError::TooLong(text.len()));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(LabelError::Hyphen);
        }
        Ok(Self(text.into()))
    }

    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl std::str::FromStr for Label {
    type Err = LabelError;
    fn from_str(s: &str) -> Result<Self, LabelError> {
        Self::new(s)
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Label::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// An instance's number within its set: from 1 upwards, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub u64);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Longest name of a set: `<set>-<id>` must stay a DNS label with twelve digits of id.
pub const MAX_SET_NAME: usize = 50;

/// `<set>-<id>`: the instance's domain name and host name.
pub fn instance_name(set: &Label, id: InstanceId) -> String {
    format!("{set}-{id}")
}

/// The id in `name` if it has the form `<set>-<id>`; `None` for other sets' and other people's names.
/// A form that vmss never writes (`web-007`, `web-0`) is not of the set.
pub fn parse_instance_name(set: &Label, name: &str) -> Option<InstanceId> {
    let digits = name.strip_prefix(set.as_str())?.strip_prefix('-')?;
    if digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(InstanceId)
}

/// The identity of a store: whoever shares the store shares the responsibility for its sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(pub Uuid);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StoreId {
    /// The first eight hex digits: what volumes that belong to the store as a whole have in their names.
    pub fn tag(self) -> String {
        self.0.simple().to_string()[..8].to_owned()
    }
}

/// The instance's UUID: version 5 over store, set and id. Two stores that use one set name get different ones.
pub fn instance_uuid(store: StoreId, set: &Label, id: InstanceId) -> Uuid {
    Uuid::new_v5(&store.0, instance_name(set, id).as_bytes())
}

/// A MAC for network card `nic` (from 0) of an instance: locally administered, unicast, first octet never `fe`, which
/// libvirt keeps for the host's end of a tap device. 45 bits of hash: 10,000 cards collide with a chance of 1 in a million.
pub fn mac_address(set: &Label, id: InstanceId, nic: usize) -> String {
    let hash = Sha256::digest(format!("{set}/{id}/{nic}"));
    let first = ((hash[0] & 0x1f) << 2) | 0x02;
    format!(
        "{first:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
        hash[1], hash[2], hash[3], hash[4], hash[5]
    )
}

/// The name of a volume that belongs to one instance. The eight hex digits come from the instance's UUID, so the name
/// alone proves which store, set and id it belongs to: a volume whose digits do not fit is somebody else's.
pub fn volume_name(set: &Label, id: InstanceId, uuid: Uuid, part: &str, extension: &str) -> String {
    format!(
        "{set}-{id}-{}-{part}.{extension}",
        &uuid.simple().to_string()[..8]
    )
}

/// The instance a volume belongs to, if `name` is one that [`volume_name`] gives for this store and set.
pub fn parse_volume_name(store: StoreId, set: &Label, name: &str) -> Option<InstanceId> {
    let rest = name.strip_prefix(set.as_str())?.strip_prefix('-')?;
    let (digits, rest) = rest.split_once('-')?;
    let id = parse_instance_name(set, &format!("{set}-{digits}"))?;
    let (tag, part) = rest.split_once('-')?;
    let uuid = instance_uuid(store, set, id).simple().to_string();
    (tag == &uuid[..8] && part.contains('.')).then_some(id)
}

/// The part of an instance's volume that `name` names ("os", "seed"), whatever its tag; `None` if it is none of its.
pub fn volume_part<'n>(set: &Label, id: InstanceId, name: &'n str) -> Option<&'n str> {
    let rest = name.strip_prefix(&instance_name(set, id))?.strip_prefix('-')?;
    let (_, part) = rest.split_once('-')?;
    part.rsplit_once('.').map(|(part, _)| part)
}

/// The first `shown` items, then how many more there are: "a, b and 3 more".
pub fn list(items: &[impl fmt::Display], shown: usize) -> String {
    let few: Vec<String> = items.iter().take(shown).map(ToString::to_string).collect();
    let mut text = few.join(", ");
    if items.len() > shown {
        text += &format!(" and {} more", items.len() - shown);
    }
    text
}

/// Ids as ranges: 1, 2, 3, 7 become "1-3, 7".
pub fn ranges(ids: impl IntoIterator<Item = u64>) -> String {
    let mut ids: Vec<u64> = ids.into_iter().collect();
    ids.sort_unstable();
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for id in ids {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == id => *last = id,
            _ => parts.push((id, id)),
        }
    }
    let parts: Vec<String> = (parts.into_iter())
        .map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") })
        .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(s: &str) -> Label {
        Label::new(s).unwrap()
    }

    #[test]
    fn labels_keep_to_the_dns_grammar() {
        for good in ["a", "web", "web-1", "0", &"x".repeat(63)] {
            assert!(Label::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "Web",
            "a_b",
            "a.b",
            "ä",
            "a b",
            "a/b",
            "a\n",
            &"x".repeat(64),
        ] {
            assert!(Label::new(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn only_names_that_vmss_writes_are_instances() {
        let web = label("web");
        assert_eq!(parse_instance_name(&web, "web-12"), Some(InstanceId(12)));
        for other in [
            "web", "web-", "web-0", "web-07", "web-1-2", "web-a", "webs-1", "web-+1", "web-1 ",
        ] {
            assert_eq!(parse_instance_name(&web, other), None, "{other}");
        }
    }

    #[test]
    fn a_volume_of_another_store_is_not_ours() {
        let (ours, theirs) = (StoreId(Uuid::from_u128(1)), StoreId(Uuid::from_u128(2)));
        let (web, id) = (label("web"), InstanceId(3));
        let name = volume_name(&web, id, instance_uuid(ours, &web, id), "os", "qcow2");
        assert_eq!(parse_volume_name(ours, &web, &name), Some(id));
        assert_eq!(parse_volume_name(theirs, &web, &name), None);
        assert_eq!(parse_volume_name(ours, &label("we"), &name), None);
        assert_eq!(parse_volume_name(ours, &web, "web-3-data.qcow2"), None);
    }

    #[test]
    fn ids_in_a_row_are_a_range() {
        assert_eq!(ranges([7, 2, 1, 3]), "1-3, 7");
        assert_eq!(ranges([]), "");
    }

    #[test]
    fn macs_are_local_unicast_and_differ() {
        let web = label("web");
        let mut seen = std::collections::BTreeSet::new();
        for id in 1..=5000 {
            let mac = mac_address(&web, InstanceId(id), 0);
            let first = u8::from_str_radix(&mac[..2], 16).unwrap();
            assert_eq!(first & 0b11, 0b10, "{mac} must be local and unicast");
            assert_ne!(first, 0xfe);
            assert!(seen.insert(mac));
        }
    }
}
