//! Epochs: how old a note is, and the record it was written under.
//!
//! Each record that precedes an act on hosts has an epoch of its own, and every note that the act writes carries it. So a
//! store that was restored from a backup, or copied and used twice, is told by notes that it has never written.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// See the module. As text `<count>.<eight hex digits>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Grows by one with each; 0 before the first.
    pub count: u64,
    /// Drawn anew with each: two stores that were one never have the same.
    pub drawn: u32,
}

impl Epoch {
    /// The one after it, from what was `drawn` for the plan.
    #[must_use]
    pub fn next(self, drawn: Uuid) -> Self {
        let bytes = drawn.as_bytes();
        Self {
            count: self.count.saturating_add(1),
            drawn: u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08x}", self.count, self.drawn)
    }
}

/// A text is no epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an epoch is a number, a dot and eight hex digits")]
pub struct NoEpoch;

impl FromStr for Epoch {
    type Err = NoEpoch;

    fn from_str(text: &str) -> Result<Self, NoEpoch> {
        let (count, drawn) = text.split_once('.').ok_or(NoEpoch)?;
        if drawn.len() != 8 {
            return Err(NoEpoch);
        }
        Ok(Self {
            count: count.parse().map_err(|_| NoEpoch)?,
            drawn: u32::from_str_radix(drawn, 16).map_err(|_| NoEpoch)?,
        })
    }
}

impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_read_as_it_is_written_and_each_is_another() {
        let first = Epoch::default().next(Uuid::from_u128(0xabcd_ef01 << 96));
        assert_eq!(first.to_string(), "1.abcdef01");
        assert_eq!("1.abcdef01".parse(), Ok(first));
        assert_ne!(
            first.next(Uuid::from_u128(1 << 96)),
            first.next(Uuid::from_u128(2 << 96))
        );
        for other in ["", "1", "1.", "x.abcdef01", "1.abcdef0", "1.ABCDEFGH"] {
            assert_eq!(other.parse::<Epoch>(), Err(NoEpoch), "{other}");
        }
    }
}
