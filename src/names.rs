//! Names and identities: what a set, a host, an instance may be called, and what follows from a name (UUID, MAC).
//!
//! An instance's UUID is drawn once, when its id is reserved, and kept in the record and in its note: no restored store, no
//! second store and no set that is made again ever gives one out twice. Everything else here follows from it.

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

/// Most digits of an id: what an operator can still read, and far from where counting would overflow.
const ID_DIGITS: usize = 12;

impl InstanceId {
    /// The highest there is.
    pub const MAX: Self = Self(999_999_999_999);

    /// The next one; `None` after the highest.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        (self < Self::MAX).then(|| Self(self.0 + 1))
    }
}

/// `<set>-<id>`: the instance's domain name and host name.
pub fn instance_name(set: &Label, id: InstanceId) -> String {
    format!("{set}-{id}")
}

/// The id in `name` if it has the form `<set>-<id>`; `None` for other sets' and other people's names.
/// A form that vmss never writes (`web-007`, `web-0`, more than twelve digits) is not of the set.
pub fn parse_instance_name(set: &Label, name: &str) -> Option<InstanceId> {
    let digits = name.strip_prefix(set.as_str())?.strip_prefix('-')?;
    parse_id(digits)
}

/// Whether `name` is what an instance of the set could be called, were there ids of any length.
pub fn has_form_of_instance(set: &Label, name: &str) -> bool {
    let digits = name.strip_prefix(set.as_str()).and_then(|n| n.strip_prefix('-'));
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// The id that `digits` are, as vmss writes ids.
pub fn parse_id(digits: &str) -> Option<InstanceId> {
    let is_plain = !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_plain || digits.len() > ID_DIGITS {
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

/// The UUID of an instance that is about to be made, from what was `drawn` for the plan: a random one (version 4) as long as
/// nothing is ever drawn twice.
pub fn drawn_uuid(drawn: Uuid, set: &Label, id: InstanceId) -> Uuid {
    let hash = Sha256::new()
        .chain_update(drawn.as_bytes())
        .chain_update(instance_name(set, id))
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// The UUID that versions before the record knew UUIDs gave an instance: version 5 over store, set and id. Their instances
/// keep it.
pub fn instance_uuid(store: StoreId, set: &Label, id: InstanceId) -> Uuid {
    Uuid::new_v5(&store.0, instance_name(set, id).as_bytes())
}

/// A MAC for network card `nic` (from 0) of an instance: locally administered, unicast, first octet never `fe`, which
/// libvirt keeps for the host's end of a tap device. 45 bits of hash: 10,000 cards collide with a chance of 1 in a million.
///
/// It follows from the UUID, so that two stores that use one set name share none. Instances of versions that derived their
/// UUIDs ([`instance_uuid`]) keep what followed from set and id.
pub fn mac_address(set: &Label, id: InstanceId, uuid: Uuid, nic: usize) -> String {
    const DERIVED: usize = 5;
    let hash = if uuid.get_version_num() == DERIVED {
        Sha256::digest(format!("{set}/{id}/{nic}"))
    } else {
        Sha256::digest(format!("{uuid}/{nic}"))
    };
    let first = ((hash[0] & 0x1f) << 2) | 0x02;
    format!(
        "{first:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
        hash[1], hash[2], hash[3], hash[4], hash[5]
    )
}

/// Eight hex digits of an instance's UUID: what its volumes have in their names.
pub fn volume_tag(uuid: Uuid) -> String {
    uuid.simple().to_string()[..8].to_owned()
}

/// The name of a volume that belongs to one instance: `<set>-<id>-<tag>-<part>.<extension>`.
pub fn volume_name(set: &Label, id: InstanceId, uuid: Uuid, part: &str, extension: &str) -> String {
    format!("{set}-{id}-{}-{part}.{extension}", volume_tag(uuid))
}

/// What a volume's name says: whose it would be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VolumeName {
    /// The whole name.
    pub name: String,
    /// The instance it would belong to.
    pub id: InstanceId,
    /// The digits of that instance's UUID.
    pub tag: String,
}

impl VolumeName {
    /// Reads a volume's name, if it is one of the few that vmss itself writes for an instance of this set: a disk (`os`), a
    /// seed, a declared data disk, a probe of a move. `web-1-<tag>-backup.qcow2` is an operator's.
    pub fn parse(set: &Label, name: &str) -> Option<Self> {
        let rest = name.strip_prefix(set.as_str())?.strip_prefix('-')?;
        let (digits, rest) = rest.split_once('-')?;
        let id = parse_id(digits)?;
        let (tag, part) = rest.split_once('-')?;
        let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if tag.len() != 8 || !tag.bytes().all(is_hex) {
            return None;
        }
        let (part, extension) = part.split_once('.')?;
        let is_written = match extension {
            "qcow2" => part == "os" || part.strip_prefix("data-").is_some_and(|d| Label::new(d).is_ok()),
            "raw" => part == "os",
            "img" => matches!(part, "seed" | "probe"),
            _ => false,
        };
        is_written.then(|| Self {
            name: name.to_owned(),
            id,
            tag: tag.to_owned(),
        })
    }

    /// Whether it is a volume of the instance with this id and UUID.
    pub fn is_of(&self, id: InstanceId, uuid: Uuid) -> bool {
        self.id == id && self.tag == volume_tag(uuid)
    }
}

/// The mark that a store leaves in each pool it uses, once for each host: an empty volume of this name. Who sees another
/// host's mark in its own pool keeps its disks in the same folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolMark {
    /// The store that uses the pool.
    pub store: StoreId,
    /// Sixteen hex digits of a hash of the host's URI.
    pub host: String,
}

/// What every mark's name begins with.
const MARK: &str = "vmss-pool-";

impl PoolMark {
    /// The mark of a host's in one store's name.
    pub fn new(store: StoreId, uri: &str) -> Self {
        let host = Self::host_of(uri);
        Self { store, host }
    }

    /// What every store's mark of a host says of it.
    pub fn host_of(uri: &str) -> String {
        let hash = Sha256::digest(uri);
        hash[..8].iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The name of its volume.
    pub fn volume(&self) -> String {
        format!("{MARK}{}-{}", self.store.0.simple(), self.host)
    }

    /// Reads a volume's name.
    pub fn parse(name: &str) -> Option<Self> {
        let (store, host) = name.strip_prefix(MARK)?.split_once('-')?;
        let store = StoreId(Uuid::try_parse(store).ok().filter(|_| store.len() == 32)?);
        let mark = Self {
            store,
            host: host.to_owned(),
        };
        let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        (mark.host.len() == 16 && mark.host.bytes().all(is_hex)).then_some(mark)
    }
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
    fn an_id_has_twelve_digits_at_most_and_counting_ends_there() {
        let web = label("web");
        assert_eq!(
            parse_instance_name(&web, "web-999999999999"),
            Some(InstanceId::MAX)
        );
        for other in [
            "web-1000000000000",
            "web-18446744073709551615",
            "web-99999999999999999999",
        ] {
            assert_eq!(parse_instance_name(&web, other), None, "{other}");
        }
        assert_eq!(InstanceId(7).next(), Some(InstanceId(8)));
        assert_eq!(InstanceId::MAX.next(), None);
        assert_eq!(InstanceId(u64::MAX).next(), None);
    }

    #[test]
    fn a_volume_is_an_instances_by_its_exact_name_alone() {
        let (web, id, uuid) = (label("web"), InstanceId(3), Uuid::from_u128(0xabcd << 112));
        for (part, extension) in [
            ("os", "qcow2"),
            ("os", "raw"),
            ("seed", "img"),
            ("data-logs", "qcow2"),
        ] {
            let name = volume_name(&web, id, uuid, part, extension);
            let parsed = VolumeName::parse(&web, &name).unwrap();
            assert!(parsed.is_of(id, uuid), "{name}");
            assert!(!parsed.is_of(InstanceId(4), uuid) && !parsed.is_of(id, Uuid::from_u128(7)));
            assert_eq!(VolumeName::parse(&label("we"), &name), None);
        }
        for other in [
            "web-3-abcd0000-backup.qcow2",
            "web-3-abcd0000-os.qcow2.bak",
            "web-3-abcd0000-os",
            "web-3-abcd0000-data-.qcow2",
            "web-3-abcd0000-seed.qcow2",
            "web-3-ABCD0000-os.qcow2",
            "web-3-data.qcow2",
            "web-03-abcd0000-os.qcow2",
        ] {
            assert_eq!(VolumeName::parse(&web, other), None, "{other}");
        }
    }

    #[test]
    fn a_pools_mark_is_read_as_it_is_written() {
        let store = StoreId(Uuid::from_u128(7));
        let mark = PoolMark::new(store, "qemu+ssh://kvm1/system");
        assert_eq!(PoolMark::parse(&mark.volume()), Some(mark.clone()));
        assert_ne!(mark, PoolMark::new(store, "qemu+ssh://kvm2/system"));
        for other in [
            "vmss-pool-",
            "vmss-pool-x-0123456789abcdef",
            "vmss-base-00-00.raw",
        ] {
            assert_eq!(PoolMark::parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_drawn_is_given_to_one_instance_alone() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let (web, one) = (label("web"), InstanceId(1));
        let uuid = drawn_uuid(a, &web, one);
        assert_eq!(uuid.get_version_num(), 4);
        assert_eq!(uuid, drawn_uuid(a, &web, one));
        assert_ne!(uuid, drawn_uuid(b, &web, one), "another draw");
        assert_ne!(uuid, drawn_uuid(a, &web, InstanceId(2)), "another id");
        assert_ne!(uuid, drawn_uuid(a, &label("db"), one), "another set");
    }

    #[test]
    fn instances_of_earlier_versions_keep_their_macs() {
        let (web, id) = (label("web"), InstanceId(1));
        let derived = instance_uuid(StoreId(Uuid::from_u128(1)), &web, id);
        let other = instance_uuid(StoreId(Uuid::from_u128(2)), &web, id);
        // Whatever the store: that is how they were made, and a guest knows its card by it.
        assert_eq!(mac_address(&web, id, derived, 0), "62:54:61:ce:7a:cc");
        assert_eq!(mac_address(&web, id, derived, 0), mac_address(&web, id, other, 0));
        let drawn = drawn_uuid(Uuid::from_u128(1), &web, id);
        assert_ne!(mac_address(&web, id, drawn, 0), mac_address(&web, id, derived, 0));
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
            let id = InstanceId(id);
            let mac = mac_address(&web, id, drawn_uuid(Uuid::from_u128(9), &web, id), 0);
            let first = u8::from_str_radix(&mac[..2], 16).unwrap();
            assert_eq!(first & 0b11, 0b10, "{mac} must be local and unicast");
            assert_ne!(first, 0xfe);
            assert!(seen.insert(mac));
        }
    }
}
