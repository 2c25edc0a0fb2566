//! Files and folders of vmss itself, which it acts on as it finds them: the store and what lies beside it, the cache. Whoever
//! else may change them decides what vmss does, as root perhaps; so they belong to the user of vmss or to root, others
//! may not write them, and no symbolic link of anybody else leads to them.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why a file or folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum Distrust {
    /// It is somebody else's.
    #[error("{} belongs to user {owner}, who may change it at any time: run vmss as that user, or chown it to user {me}", .path.display())]
    Owner {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who vmss is.
        me: u32,
    },
    /// Others may write to it.
    #[error("others may write to {} (its mode is {mode:03o}): chmod go-w it, if you know what is in it", .path.display())]
    Writable {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is not what it should be.
    #[error("{} is a {kind} and no {wanted}: move it away", .path.display())]
    Kind {
        /// Which.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// It can't be looked at or made.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Bits of a mode that let others than the owner write.
const OTHERS_WRITE: u32 = 0o022;

/// Who may write to a folder, beside its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// Nobody.
    No,
    /// The own group of whoever runs vmss: where everybody has a group of his own, folders are commonly made so.
    WithOwnGroup,
}

/// Who asks: what is told of them is what the system would let them do.
#[derive(Clone, Copy, Debug)]
struct Me {
    user: u32,
    group: u32,
}

impl Me {
    fn here() -> Self {
        // SAFETY: neither has preconditions, and neither can fail.
        let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
        Self { user, group }
    }

    fn owns(self, path: &Path, there: &Metadata) -> Result<(), Distrust> {
        if there.uid() == self.user || there.uid() == 0 {
            return Ok(());
        }
        Err(Distrust::Owner {
            path: path.to_owned(),
            owner: there.uid(),
            me: self.user,
        })
    }

    fn folder(self, path: &Path, there: &Metadata, shared: Shared) -> Result<(), Distrust> {
        if !there.is_dir() {
            return Err(other_kind(path, there, "folder"));
        }
        self.owns(path, there)?;
        let mut open = there.mode() & OTHERS_WRITE;
        if shared == Shared::WithOwnGroup && there.gid() == self.group {
            open &= !0o020;
        }
        writable(path, there, open)
    }

    fn file(self, path: &Path, there: &Metadata) -> Result<(), Distrust> {
        if !there.is_file() {
            return Err(other_kind(path, there, "regular file"));
        }
        self.owns(path, there)?;
        writable(path, there, there.mode() & OTHERS_WRITE)
    }
}

fn writable(path: &Path, there: &Metadata, open: u32) -> Result<(), Distrust> {
    if open == 0 {
        return Ok(());
    }
    Err(Distrust::Writable {
        path: path.to_owned(),
        mode: there.mode() & 0o7777,
    })
}

fn other_kind(path: &Path, there: &Metadata, wanted: &'static str) -> Distrust {
    let what = there.file_type();
    let kind = if what.is_symlink() {
        "symbolic link"
    } else if what.is_dir() {
        "folder"
    } else if what.is_file() {
        "regular file"
    } else if what.is_fifo() {
        "pipe"
    } else {
        "special file"
    };
    Distrust::Kind {
        path: path.to_owned(),
        kind,
        wanted,
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Distrust {
    move |error| Distrust::Io {
        path: path.to_owned(),
        error,
    }
}

/// What is at `path` itself, a link being a link; `None` if nothing is.
fn look(path: &Path) -> Result<Option<Metadata>, Distrust> {
    match fs::symlink_metadata(path) {
        Ok(there) => Ok(Some(there)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(path)(e)),
    }
}

/// Makes the folder `path`, for its owner only, unless it is there; what leads to it is made as well. Then nobody else can
/// put anything into it.
///
/// # Errors
/// It is no folder, somebody else's, or others may write to it; or it can't be made.
pub fn folder(path: &Path, shared: Shared) -> Result<(), Distrust> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    match look(path)? {
        Some(there) => Me::here().folder(path, &there, shared),
        None => made.map_err(failed(path)),
    }
}

/// Sees that the database `path` may be opened, with what SQLite has put beside it: its owner's, and nobody else may write
/// it. A symbolic link of the same owners may lead to it. One that is not there is fine.
///
/// # Errors
/// It may not.
pub fn database(path: &Path) -> Result<(), Distrust> {
    let me = Me::here();
    let Some(there) = look(path)? else {
        return Ok(());
    };
    let mut real = path.to_owned();
    if there.is_symlink() {
        me.owns(path, &there)?;
        real = fs::canonicalize(path).map_err(failed(path))?;
    }
    if let Some(there) = look(&real)? {
        me.file(&real, &there)?;
    }
    for suffix in ["-wal", "-shm", "-journal"] {
        let mut name = OsString::from(&real);
        name.push(suffix);
        let beside = PathBuf::from(name);
        if let Some(there) = look(&beside)? {
            me.file(&beside, &there)?;
        }
    }
    Ok(())
}

/// Where a file of that name is, symbolic links followed: those of the user of vmss and of root, which an operator has put
/// there. One of anybody else, a reader of the file, say, leads nowhere. The file need not be there.
///
/// # Errors
/// The links lead in a circle.
pub fn behind(path: &Path) -> io::Result<PathBuf> {
    const MOST: usize = 40;
    let me = Me::here();
    let mut real = path.to_owned();
    for _ in 0..MOST {
        let is_followed =
            fs::symlink_metadata(&real).is_ok_and(|l| l.is_symlink() && me.owns(&real, &l).is_ok());
        if !is_followed {
            return Ok(real);
        }
        let to = fs::read_link(&real)?;
        real = match real.parent() {
            Some(folder) => folder.join(to),
            None => to,
        };
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// Opens a file anew for writing, for its owner only, in a folder that [`folder`] has seen. A symbolic link is not followed.
///
/// # Errors
/// The system's.
pub fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        (folder, path)
    }

    #[test]
    fn a_folder_is_made_for_its_owner_only_and_taken_as_such() {
        let (_keep, path) = place();
        folder(&path, Shared::No).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        mode(&path, 0o755);
        folder(&path, Shared::No).expect("others may look into it");
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_not_used() {
        let (_keep, path) = place();
        folder(&path, Shared::No).unwrap();
        for (bits, shared) in [
            (0o777, Shared::No),
            (0o1777, Shared::No),
            (0o770, Shared::No),
            (0o777, Shared::WithOwnGroup),
        ] {
            mode(&path, bits);
            let said = folder(&path, shared).unwrap_err();
            assert!(
                matches!(said, Distrust::Writable { mode, .. } if mode == bits),
                "{said}"
            );
            assert!(said.to_string().contains("chmod go-w"), "{said}");
        }
        mode(&path, 0o775);
        folder(&path, Shared::WithOwnGroup).expect("as a umask of 002 makes it");
        let other_group = Me {
            user: Me::here().user,
            group: Me::here().group + 1,
        };
        let there = fs::metadata(&path).unwrap();
        other_group
            .folder(&path, &there, Shared::WithOwnGroup)
            .unwrap_err();
    }

    #[test]
    fn what_is_somebody_elses_is_not_used_and_what_is_roots_is() {
        let (_keep, path) = place();
        folder(&path, Shared::No).unwrap();
        let there = fs::metadata(&path).unwrap();
        let other = Me {
            user: 4711,
            group: 4711,
        };
        match (other.owns(&path, &there), there.uid()) {
            (Ok(()), 0) => {}
            (Err(Distrust::Owner { owner, me: 4711, .. }), uid) => assert_eq!(owner, uid),
            (other, _) => panic!("{other:?}"),
        }
        if there.uid() == 0 {
            std::os::unix::fs::chown(&path, Some(4711), None).unwrap();
            let said = folder(&path, Shared::No).unwrap_err().to_string();
            assert!(said.contains("belongs to user 4711"), "{said}");
            fs::write(path.join("state.db"), "").unwrap();
            std::os::unix::fs::chown(path.join("state.db"), Some(4711), None).unwrap();
            database(&path.join("state.db")).unwrap_err();
        }
    }

    #[test]
    fn a_link_in_the_place_of_a_folder_or_file_is_not_followed() {
        let (keep, path) = place();
        let elsewhere = keep.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::create_dir(keep.path().join("a")).unwrap();
        symlink(&elsewhere, &path).unwrap();
        let said = folder(&path, Shared::No).unwrap_err().to_string();
        assert!(
            said.ends_with("is a symbolic link and no folder: move it away"),
            "{said}"
        );

        let victim = elsewhere.join("victim");
        fs::write(&victim, "kept").unwrap();
        let planted = elsewhere.join("start.log");
        symlink(&victim, &planted).unwrap();
        create(&planted).unwrap_err();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
        fs::remove_file(&planted).unwrap();
        drop(create(&planted).unwrap());
        assert_eq!(fs::metadata(&planted).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_database_may_be_reached_by_a_link_and_is_checked_where_it_is() {
        let (keep, path) = place();
        folder(&path, Shared::No).unwrap();
        let (real, link) = (path.join("real.db"), keep.path().join("state.db"));
        database(&real).expect("it can be made");
        symlink(&real, &link).unwrap();
        assert!(
            matches!(database(&link), Err(Distrust::Io { .. })),
            "it leads nowhere"
        );
        fs::write(&real, "").unwrap();
        mode(&real, 0o600);
        database(&link).unwrap();
        for bits in [0o620, 0o602, 0o666] {
            mode(&real, bits);
            for path in [&real, &link] {
                let said = database(path).unwrap_err();
                assert!(
                    matches!(said, Distrust::Writable { mode, .. } if mode == bits),
                    "{said}"
                );
            }
        }
        mode(&real, 0o640);
        database(&link).unwrap();
        // What somebody has put beside it would be taken for its newest part.
        let log = path.join("real.db-wal");
        symlink(&real, &log).unwrap();
        assert!(matches!(database(&link), Err(Distrust::Kind { .. })));
        fs::remove_file(&log).unwrap();
        fs::write(&log, "").unwrap();
        mode(&log, 0o666);
        assert!(matches!(database(&link), Err(Distrust::Writable { .. })));
    }
}
