//! A record as it is written down: JSON that says the version of its format. Used by every form of the store.
//!
//! A vmss that does not know a field would leave it out when it writes the record back. So one that finds a format newer
//! than its own neither reads nor writes; one that finds an older format carries it over, step by step.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::names::{InstanceId, Label, StoreId, instance_uuid, parse_id};
use crate::record::Record;
use crate::store::StoreError;

/// The format that is written. One more whenever an earlier vmss would lose something that the record holds.
pub const FORMAT: u64 = 1 + CARRIED.len() as u64;

/// What makes each format of the one before it: the first makes 2 of 1. Never changed, only added to.
const CARRIED: [fn(Value) -> Value; 3] = [from_1, from_2, from_3];

/// Format 1 is what was written before the JSON said its format. It did not know UUIDs: they followed from store, set and id. Of
/// a set that was taken over from another store they may follow from that one: which of them it is shows when an instance is
/// seen. What its notes say of being made or deleted counts until then, for nothing else was written down. It took in
/// whatever it saw: of a set that was just adopted, or of which the record was just made again, it lists nothing yet. An id
/// that was forged can have raised the next one beyond what there is.
fn from_1(mut record: Value) -> Value {
    let store = read::<StoreId>(&record["store"]);
    let set = read::<Label>(&record["applied"]["name"]);
    let (Some(store), Some(set)) = (store, set) else {
        return record;
    };
    let uuid_of = |id: &str| parse_id(id).map(|id| instance_uuid(store, &set, id).to_string());
    let mut highest = 0;
    for (part, is_known) in [("known", true), ("written_off", false)] {
        let Some(instances) = record[part].as_object_mut() else {
            continue;
        };
        instances.retain(|id, _| parse_id(id).is_some());
        for (id, instance) in instances {
            highest = highest.max(parse_id(id).map_or(0, |id| id.0));
            let Some(fields) = instance.as_object_mut() else {
                continue;
            };
            fields.insert("uuid".to_owned(), uuid_of(id).into());
            if is_known {
                fields.insert("is_carried_over".to_owned(), true.into());
            }
        }
    }
    let next = record["next_id"].as_u64().unwrap_or(0);
    let lists_nothing = record["known"].as_object().is_some_and(|known| known.is_empty());
    let has_some = record["capacity"].as_u64().unwrap_or(0) > 0 && next > 1;
    if let Some(fields) = record.as_object_mut() {
        fields.insert("takes_in".to_owned(), (lists_nothing && has_some).into());
    }
    if next > InstanceId::MAX.0 {
        record["next_id"] = (highest + 1).into();
    }
    record
}

/// Format 2 did not know which of those that were given up have data disks, nor whose word made a capacity smaller. Whatever it
/// says it says in the same words.
const fn from_2(record: Value) -> Value {
    record
}

/// Format 3 did not know where copies of an instance were seen, nor the URIs that hosts had before. Whatever it says it says in the
/// same words.
const fn from_3(record: Value) -> Value {
    record
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
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
        assert!(json.starts_with(&format!("{{\"format\":{FORMAT},")), "{json}");
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

    /// A record as format 1 had it: without UUIDs, and with a next id that a forged one has raised.
    #[test]
    fn instances_of_the_first_format_keep_the_uuids_that_followed_from_their_ids() {
        let mut scene = Scene::new(&[1]);
        scene.add("d0h0", 1);
        scene.add("d0h0", 2);
        let mut json: Value = serde_json::to_value(&scene.record).unwrap();
        let fields = json.as_object_mut().unwrap();
        fields.insert("next_id".to_owned(), u64::MAX.into());
        let known = fields["known"].as_object_mut().unwrap();
        let forged = known["1"].clone();
        known.insert("18446744073709551614".to_owned(), forged);
        for instance in known.values_mut() {
            for field in ["uuid", "epoch", "ordered", "is_carried_over"] {
                instance.as_object_mut().unwrap().remove(field);
            }
        }
        let record = decode(&json.to_string()).unwrap();
        assert_eq!(record.next_id, InstanceId(3));
        assert_eq!(record.known.len(), 2);
        for (id, known) in &record.known {
            assert_eq!(known.uuid, scene.record.known[id].uuid);
            assert!(known.is_carried_over);
        }
    }

    /// Whoever adds a field has to say that with another format, or an earlier vmss drops it as it writes the record back.
    #[test]
    fn the_present_format_has_these_fields() {
        let fields = |of: &str, text: &'static str| -> Vec<&'static str> {
            let body = text.split(&format!("pub struct {of} {{")).nth(1).unwrap();
            let body = body.split("\n}").next().unwrap();
            let named = body.lines().filter_map(|line| line.trim().strip_prefix("pub "));
            named.map(|field| field.split(':').next().unwrap()).collect()
        };
        let text = include_str!("../record.rs");
        let (record, known) = (fields("Record", text), fields("Known", text));
        assert_eq!(
            (FORMAT, record.join(" ").as_str(), known.join(" ").as_str()),
            (
                4,
                "store former former_uris copies capacity request life keep_images next_id models former_images \
                 current rollout cordons moves vitals condemned leaving dropped repair unseen written_off autoscale \
                 timed epoch warrants departed disowned highest_revision applied definition created_at takes_in known",
                "uuid epoch ordered is_carried_over host fault_domain addresses confirmed revision reached protection \
                 stopped"
            )
        );
    }

    /// What the second format did not know yet is left out, and means what it meant.
    #[test]
    fn a_record_of_the_second_format_is_carried_over_as_it_is() {
        let mut json: Value = serde_json::from_str(&with(Some(2.into()), &record())).unwrap();
        json.as_object_mut().unwrap().remove("request");
        let read = decode(&json.to_string()).unwrap();
        assert_eq!(read.request, None);
        assert_eq!(read.known, record().known);
    }

    #[test]
    fn a_record_of_the_first_format_that_lists_nothing_takes_in_what_is_there_once() {
        let mut scene = Scene::new(&[1, 1]);
        scene.record.capacity = 2;
        scene.add("d0h0", 1);
        scene.add("d1h0", 2);
        let as_it_was = |record: &Record| {
            let mut json: Value = serde_json::to_value(record).unwrap();
            for instance in json["known"].as_object_mut().unwrap().values_mut() {
                instance.as_object_mut().unwrap().remove("uuid");
            }
            decode(&json.to_string()).unwrap()
        };
        assert!(
            !as_it_was(&scene.record).takes_in,
            "what lists its instances has them all"
        );
        let listed = std::mem::take(&mut scene.record.known);
        let mut record = as_it_was(&scene.record);
        let mut without_one = scene.inventory.clone();
        without_one.hosts[1].view = crate::inventory::View::Unseen {
            reason: "no route to host".into(),
        };
        for inventory in [&mut without_one, &mut scene.inventory] {
            assert!(record.takes_in, "until every host was seen");
            crate::ownership::sort_out(&record, inventory);
            assert!(inventory.odd.is_empty(), "{:?}", inventory.odd);
            assert!(record.absorb(inventory));
        }
        assert!(!record.takes_in);
        assert!(record.known.keys().eq(listed.keys()));
        // From now on what the record does not list is nobody's.
        record.known.clear();
        crate::ownership::sort_out(&record, &mut scene.inventory);
        assert_eq!(scene.inventory.odd.strangers.len(), 2);
    }

    #[test]
    fn of_a_later_format_nothing_else_is_read() {
        for json in [
            with(Some((FORMAT + 1).into()), &record()),
            format!("{{\"capacity\":[],\"format\":{}}}", FORMAT + 1),
        ] {
            match decode(&json) {
                Err(Unreadable::Newer(format)) if format == FORMAT + 1 => {}
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
