//! Where the data of a file are, and where its holes: a hole of a terabyte takes no time to be passed by.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;

/// The next stretch of data at or after `at`, both ends within `length`; an empty one at `length` if only a hole follows.
///
/// # Errors
/// The file can't be looked at.
pub fn next(file: &File, at: u64, length: u64) -> io::Result<Range<u64>> {
    let found = seek(file, at, libc::SEEK_DATA).and_then(|from| match from {
        None => Ok(length..length),
        Some(from) => Ok(from..seek(file, from, libc::SEEK_HOLE)?.unwrap_or(length)),
    });
    match found {
        Ok(data) => Ok(data.start.min(length)..data.end.min(length)),
        // A file system that can't tell: all of it is data.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOTSUP)) => Ok(at..length),
        Err(e) => Err(e),
    }
}

fn seek(file: &File, offset: u64, whence: i32) -> io::Result<Option<u64>> {
    let offset = libc::off64_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    let at = unsafe { libc::lseek64(file.as_raw_fd(), offset, whence) };
    match u64::try_from(at) {
        Ok(at) => Ok(Some(at)),
        Err(_) => {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::ENXIO) => Ok(None),
                _ => Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn holes_of_a_file_are_found() {
        let file = tempfile::tempfile().unwrap();
        let length = 8 << 20;
        file.set_len(length).unwrap();
        file.write_all_at(&[1; 4096], 4 << 20).unwrap();
        let first = next(&file, 0, length).unwrap();
        assert!(first.start <= 4 << 20 && first.end > 4 << 20);
        let last = next(&file, first.end, length).unwrap();
        assert_eq!(last.end, length);
    }
}
