//! Whether a copy of an image that was verified is still what it was then.
//!
//! Its mark says that it was whole when the mark was made. Afterwards somebody may have cut it short or written to it: a
//! disk that ran full under a restored backup, a `qemu-img` with the wrong name. So before anything is made of a copy, its
//! length is compared with the image's, and the time of its last change with that of its mark. What was changed since is
//! read back, once: if it is what it was, it is marked anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::connection::{cancelled, lock};
use super::images::{self, Base};
use super::volumes::Pool;
use crate::hypervisor::domain_xml::element::Element;
use crate::hypervisor::{FaultKind, HypervisorError};
use crate::names::StoreId;
use crate::units::Bytes;

/// How long a copy that was found sound counts as sound: it costs three short calls to look again.
const TRUSTED: Duration = Duration::from_secs(600);

/// How often who waits for another's look gives a sign of life.
const GLANCE: Duration = Duration::from_millis(50);

/// The copies on one host that this process has found to be sound, and when. One lock each, so that of several instances
/// made at once one reads the copy back and the others wait for it.
#[derive(Default)]
pub struct Checked(Mutex<HashMap<String, Arc<Mutex<Option<Instant>>>>>);

/// Refuses a marked copy that is no longer what was verified. `length` is the image's, if it is known. The mark of the
/// store's own copy is taken away then, so that nobody makes anything of it and another is sent.
///
/// # Errors
/// `Corrupt` if it was cut short or changed; `Missing` if it is gone; what the host says.
pub fn check(
    checked: &Checked,
    pool: &Pool<'_, '_>,
    copy: &Base,
    length: Option<Bytes>,
    store: StoreId,
) -> Result<(), HypervisorError> {
    let pulse = pool.session().pulse();
    let slot = Arc::clone(lock(&checked.0).entry(copy.name.clone()).or_default());
    let mut found = loop {
        match slot.try_lock() {
            Ok(found) => break found,
            Err(TryLockError::Poisoned(found)) => break found.into_inner(),
            Err(TryLockError::WouldBlock) if pulse.is_cancelled() => {
                return Err(cancelled(pool.doing("looking at volume", &copy.name)));
            }
            Err(TryLockError::WouldBlock) => {
                pulse.beat();
                thread::sleep(GLANCE);
            }
        }
    };
    if found.is_some_and(|at| at.elapsed() < TRUSTED) {
        return Ok(());
    }
    *found = None;
    let why = match look(pool, copy, length)? {
        Verdict::Sound => None,
        Verdict::Cut { there } => Some(format!(
            "was cut short after it was verified: {there} bytes of it are left"
        )),
        Verdict::Touched if images::is_intact(pool, copy, length)? => {
            images::mark(pool, copy)?;
            None
        }
        Verdict::Touched => Some("was changed after it was verified".to_owned()),
    };
    let Some(why) = why else {
        *found = Some(Instant::now());
        return Ok(());
    };
    let mut text = format!(
        "the copy of image {} {why}, and nothing is made of it",
        copy.digest.short()
    );
    if copy.is_of(&[store]) {
        pool.delete(&copy.mark())?;
        text += "; the next run sends another (or vmss image push), if no disk is backed by this one: instances whose \
                 disks are may be damaged, so replace those first (vmss instance replace)";
    } else {
        text += "; it is another store's: vmss image push sends one of your own";
    }
    let doing = pool.doing("looking at volume", &copy.name);
    Err(HypervisorError::new(FaultKind::Corrupt, doing, text))
}

/// Whether a marked copy looks as it did when it was marked; nothing is read back.
pub fn looks_sound(pool: &Pool<'_, '_>, copy: &Base) -> Result<bool, HypervisorError> {
    Ok(look(pool, copy, None)? == Verdict::Sound)
}

fn look(pool: &Pool<'_, '_>, copy: &Base, length: Option<Bytes>) -> Result<Verdict, HypervisorError> {
    let seen = |name: &str| {
        let volume = pool.find(name)?.ok_or_else(|| {
            HypervisorError::new(
                FaultKind::Missing,
                pool.doing("looking at volume", name),
                "it has gone",
            )
        })?;
        Ok::<_, HypervisorError>(Seen::read(&pool.describe(&volume)?))
    };
    Ok(judge(length, &seen(&copy.name)?, &seen(&copy.mark())?))
}

/// What libvirt says of a volume's file just now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    length: Option<u64>,
    /// When it was last written to: seconds and nanoseconds.
    changed: Option<(u64, u32)>,
}

impl Seen {
    fn read(volume: &Element) -> Self {
        let number = |name: &str| volume.find(name)?.text.parse::<u64>().ok();
        let format = volume.path(["target", "format"]).and_then(|f| f.get("type"));
        // How large a disk in it is says nothing of the file, unless it is the file.
        let capacity = || number("capacity").filter(|_| format == Some("raw"));
        let changed = (volume.path(["target", "timestamps", "mtime"])).and_then(|m| moment(&m.text));
        Self {
            length: number("physical").or_else(capacity),
            changed,
        }
    }
}

/// `1700000000.5` with nine digits behind the point, or none.
fn moment(text: &str) -> Option<(u64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let nanoseconds = format!("{fraction:0<9}").parse().ok()?;
    Some((seconds.parse().ok()?, nanoseconds))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing speaks against it.
    Sound,
    /// It has another length than the image: so many bytes.
    Cut { there: u64 },
    /// It was written to since it was marked.
    Touched,
}

/// What follows from how a copy and its mark are seen. What can't be seen says nothing.
fn judge(length: Option<Bytes>, copy: &Seen, mark: &Seen) -> Verdict {
    match (length, copy.length) {
        (Some(wanted), Some(there)) if there < wanted.0 => return Verdict::Cut { there },
        (Some(wanted), Some(there)) if there > wanted.0 => return Verdict::Touched,
        _ => {}
    }
    match (copy.changed, mark.changed) {
        (Some(copy), Some(mark)) if copy > mark => Verdict::Touched,
        _ => Verdict::Sound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(length: u64, second: u64) -> Seen {
        Seen {
            length: Some(length),
            changed: Some((second, 0)),
        }
    }

    #[test]
    fn a_copy_is_sound_as_long_as_it_is_as_it_was_marked() {
        let length = Some(Bytes(100));
        let mark = seen(0, 50);
        for (copy, verdict) in [
            (seen(100, 49), Verdict::Sound),
            (seen(100, 50), Verdict::Sound),
            (seen(100, 51), Verdict::Touched),
            (seen(99, 49), Verdict::Cut { there: 99 }),
            (seen(0, 99), Verdict::Cut { there: 0 }),
            (seen(101, 49), Verdict::Touched),
            // What is not told is no evidence.
            (Seen::default(), Verdict::Sound),
        ] {
            assert_eq!(judge(length, &copy, &mark), verdict, "{copy:?}");
        }
        assert_eq!(judge(None, &seen(7, 49), &mark), Verdict::Sound);
        assert_eq!(judge(length, &seen(100, 99), &Seen::default()), Verdict::Sound);
    }

    #[test]
    fn what_libvirt_says_of_a_volume_is_read() {
        let read = |format: &str, physical: &str| {
            let xml = format!(
                "<volume type='file'><name>x</name><capacity unit='bytes'>4096</capacity>\
                 <allocation unit='bytes'>512</allocation>{physical}<target><path>/p/x</path><format type='{format}'/>\
                 <timestamps><atime>1700000009.1</atime><mtime>1700000001.050000000</mtime></timestamps>\
                 </target></volume>"
            );
            Seen::read(&Element::parse(&xml).unwrap())
        };
        let changed = Some((1_700_000_001, 50_000_000));
        let length = |length| Seen { length, changed };
        assert_eq!(
            read("qcow2", "<physical unit='bytes'>700</physical>"),
            length(Some(700))
        );
        assert_eq!(read("raw", ""), length(Some(4096)));
        assert_eq!(read("qcow2", ""), length(None));
        let simulated = Element::parse("<volume><target/></volume>").unwrap();
        assert_eq!(Seen::read(&simulated), Seen::default());
        assert_eq!(moment("5"), Some((5, 0)));
        assert_eq!(moment("x"), None);
    }
}
