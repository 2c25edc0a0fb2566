//! Samples, counters and decisions of autoscaling.

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use crate::autoscale::{Decision, Readings, Sample};
use crate::names::Label;
use crate::store::sqlite::trouble::Trouble;
use crate::store::{DECISIONS, SAMPLES_LAST, SAMPLES_STEP, SAMPLES_WHOLE};

fn back(now: Timestamp, span: SignedDuration) -> i64 {
    now.checked_sub(span).unwrap_or(Timestamp::MIN).as_millisecond()
}

pub(super) fn keep(
    t: &Transaction<'_>,
    set: &Label,
    samples: &[Sample],
    readings: &Readings,
    now: Timestamp,
) -> Result<(), Trouble> {
    let mut insert =
        t.prepare_cached("INSERT OR REPLACE INTO samples VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
    for s in samples {
        insert.execute(params![
            set.as_str(),
            s.metric,
            s.at.as_millisecond(),
            s.instances,
            s.missing,
            s.sum,
            s.min,
            s.max
        ])?;
    }
    t.execute(
        "INSERT OR REPLACE INTO readings VALUES (?1, ?2)",
        params![set.as_str(), serde_json::to_string(readings)?],
    )?;
    t.execute(
        "DELETE FROM samples WHERE name = ?1 AND at < ?2",
        params![set.as_str(), back(now, SAMPLES_LAST)],
    )?;
    // What has just become old is thinned out; what was thinned out before is not looked at again.
    let (begin, end) = (
        back(now, SAMPLES_WHOLE + SignedDuration::from_hours(1)),
        back(now, SAMPLES_WHOLE),
    );
    t.execute(
        "DELETE FROM samples WHERE name = ?1 AND at >= ?2 AND at < ?3 AND (metric, at) NOT IN (
             SELECT metric, min(at) FROM samples WHERE name = ?1 AND at >= ?2 AND at < ?3 GROUP BY metric, at / ?4)",
        params![set.as_str(), begin, end, SAMPLES_STEP * 1000],
    )?;
    Ok(())
}

pub(super) fn samples(c: &Connection, set: &Label, since: Timestamp) -> Result<Vec<Sample>, Trouble> {
    let mut query = c.prepare(
        "SELECT metric, at, instances, missing, total, least, most FROM samples
         WHERE name = ?1 AND at >= ?2 ORDER BY at, metric",
    )?;
    let rows = query.query_map(params![set.as_str(), since.as_millisecond()], |r| {
        let at: i64 = r.get(1)?;
        Ok(Sample {
            metric: r.get(0)?,
            at: Timestamp::from_millisecond(at).unwrap_or(Timestamp::MIN),
            instances: r.get(2)?,
            missing: r.get(3)?,
            sum: r.get(4)?,
            min: r.get(5)?,
            max: r.get(6)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn readings(c: &Connection, set: &Label) -> Result<Readings, Trouble> {
    let sql = "SELECT readings FROM readings WHERE name = ?1";
    let json: Option<String> = c.query_row(sql, [set.as_str()], |r| r.get(0)).optional()?;
    // Without them the next rates come a look later; a failure would come at every look, for ever.
    Ok(json
        .and_then(|json| serde_json::from_str(&json).ok())
        .unwrap_or_default())
}

pub(super) fn decided(
    t: &Transaction<'_>,
    set: &Label,
    decision: &Decision,
    anew: bool,
) -> Result<(), Trouble> {
    if !anew {
        t.execute(
            "DELETE FROM decisions WHERE number = (SELECT max(number) FROM decisions WHERE name = ?1)",
            [set.as_str()],
        )?;
    }
    t.execute(
        "INSERT INTO decisions (name, decision) VALUES (?1, ?2)",
        params![set.as_str(), serde_json::to_string(decision)?],
    )?;
    t.execute(
        "DELETE FROM decisions WHERE name = ?1 AND number <= (
             SELECT number FROM decisions WHERE name = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
        params![set.as_str(), DECISIONS],
    )?;
    Ok(())
}

pub(super) fn decisions(c: &Connection, set: &Label, limit: usize) -> Result<Vec<Decision>, Trouble> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut query =
        c.prepare("SELECT decision FROM decisions WHERE name = ?1 ORDER BY number DESC LIMIT ?2")?;
    let rows = query.query_map(params![set.as_str(), limit], |r| r.get::<_, String>(0))?;
    let mut all = Vec::new();
    for json in rows {
        // What a later vmss has decided in words that are not known here is no reason to decide nothing any more.
        all.extend(serde_json::from_str::<Decision>(&json?).ok());
    }
    Ok(all)
}

/// Forgets everything of a set.
pub(super) fn forget(t: &Transaction<'_>, set: &Label) -> Result<(), Trouble> {
    for table in ["samples", "readings", "decisions"] {
        t.execute(&format!("DELETE FROM {table} WHERE name = ?1"), [set.as_str()])?;
    }
    Ok(())
}
