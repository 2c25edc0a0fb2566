//! A record as it is written down: JSON that says the version of its format. Used by every form of the store.
//!
//! A vmss that does not know a field would leave it out when it writes the record back. So one that finds a format newer
//! than its own neither reads nor writes; one that finds an older format carries it over, step by step.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::names::Label;
use crate::record::Record;
use crate::store::StoreError;

/// The format that is written. One more whenever an earlier vmss would lose something that the record holds.
pub const FORMAT: u64 = 1 + CARRIED.len() as u64;

/// What makes each format of the one before it: the first makes 2 of 1. Never changed, only added to.
const CARRIED: [fn(Value) -> Value; 1] = [from_1];

/// Format 1 is what was written before the JSON said its format. Format 2 holds the same, and says so.
const fn from_1(record: Value) -> Value {
    record
}

/// Why a record can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A newer vmss has written it, in that format.
    #[error("its format is {0}, this vmss knows {FORMAT} at most")]
    Newer(u64),
    /// It makes no sense.
    #[error(transparent)]
    Damaged(#[from] serde_json::Error),
}

impl Unreadable {
    /// The error for the record of `set`; `damaged` makes the one for what makes no sense.
    pub(super) fn of<E: From<StoreError>>(
        self,
        set: &Label,
        damaged: impl FnOnce(serde_json::Error) -> E,
    ) -> E {
        match self {
            Self::Newer(format) => E::from(StoreError::Newer {
                set: set.clone(),
                format,
                known: FORMAT,
            }),
            Self::Damaged(e) => damaged(e),
        }
    }
}

#[derive(Serialize)]
struct Written<'r> {
    format: u64,
    #[serde(flatten)]
    record: &'r Record,
}

/// What is read first: the rest is looked at only if its format is known.
#[derive(Deserialize)]
struct Head {
    #[serde(default = "first")]
    format: u64,
}

const fn first() -> u64 {
    1
}

/// The record as JSON of the present format.
///
/// # Errors
/// Something of it can't be told in JSON.
pub fn encode(record: &Record) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Written {
        format: FORMAT,
        record,
    })
}

/// The record that JSON of this or an earlier format tells.
///
/// # Errors
/// It is of a later format, of which then nothing else is read; or it makes no sense.
pub fn decode(json: &str) -> Result<Record, Unreadable> {
    let Head { format } = serde_json::from_str(json)?;
    if format > FORMAT {
        return Err(Unreadable::Newer(format));
    }
    if format == FORMAT {
        return Ok(serde_json::from_str(json)?);
    }
    let done = usize::try_from(format.saturating_sub(1)).unwrap_or(CARRIED.len());
    let value = (CARRIED.iter().skip(done)).fold(serde_json::from_str(json)?, |value, carry| carry(value));
    Ok(serde_json::from_value(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::Scene;

    fn record() -> Record {
        Scene::new(&[1, 2]).record
    }

    fn with(format: Option<Value>, record: &Record) -> String {
        let mut json: Value = serde_json::from_str(&encode(record).unwrap()).unwrap();
        let fields = json.as_object_mut().unwrap();
        match format {
            Some(format) => fields.insert("format".to_owned(), format),
            None => fields.remove("format"),
        };
        json.to_string()
    }

    #[test]
    fn what_is_written_says_its_format_and_comes_back_as_it_was() {
        let record = record();
        let json = encode(&record).unwrap();
        assert!(json.starts_with("{\"format\":2,"), "{json}");
        assert_eq!(decode(&json).unwrap(), record);
    }

    #[test]
    fn what_says_no_format_is_of_the_first_and_is_carried_over() {
        let record = record();
        let as_it_was = serde_json::to_string(&record).unwrap();
        assert!(as_it_was.starts_with("{\"store\":"), "{as_it_was}");
        assert_eq!(decode(&as_it_was).unwrap(), record);
        assert_eq!(decode(&with(Some(1.into()), &record)).unwrap(), record);
    }

    #[test]
    fn of_a_later_format_nothing_else_is_read() {
        for json in [
            with(Some(3.into()), &record()),
            "{\"capacity\":[],\"format\":3}".to_owned(),
        ] {
            match decode(&json) {
                Err(Unreadable::Newer(3)) => {}
                other => panic!("it is of a later format: {other:?}"),
            }
        }
    }

    #[test]
    fn a_format_that_is_no_number_is_damage() {
        for odd in [Value::from("2"), Value::from(-1), Value::from(1.5), Value::Null] {
            let json = with(Some(odd), &record());
            assert!(matches!(decode(&json), Err(Unreadable::Damaged(_))), "{json}");
        }
        assert!(matches!(decode("{\"format\":2"), Err(Unreadable::Damaged(_))));
        assert!(matches!(decode("{}"), Err(Unreadable::Damaged(_))));
    }
}
