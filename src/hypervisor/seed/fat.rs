//! A FAT volume in memory.

use std::io::{self, Cursor, Write as _};

use fatfs::{Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};

/// What blkid shows and cloud-init looks for.
const LABEL: [u8; 11] = *b"cidata     ";

/// The smallest volume; a FAT12 of this size has 120 KiB for files.
const SMALLEST: u64 = 128 << 10;

/// A clock that stands still: the same files always make the same bytes, so that a seed can be compared.
#[derive(Debug)]
struct StoppedClock;

static CLOCK: StoppedClock = StoppedClock;

impl TimeProvider for StoppedClock {
    fn get_current_date(&self) -> Date {
        Date {
            year: 1980,
            month: 1,
            day: 1,
        }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime {
            date: self.get_current_date(),
            time: Time {
                hour: 0,
                min: 0,
                sec: 0,
                millis: 0,
            },
        }
    }
}

/// A volume with these files in its root folder.
///
/// # Errors
/// More than FAT16 can hold in clusters of 32 KiB (2 GiB).
pub fn volume(files: &[(&str, String)]) -> io::Result<Vec<u8>> {
    let bytes: u64 = files.iter().map(|(_, text)| text.len() as u64).sum();
    // Room for the tables and for the last, half-empty cluster of every file, on whole KiB.
    let wanted = bytes + bytes / 8 + (files.len() as u64) * 4096 + (64 << 10);
    let size = wanted.max(SMALLEST).next_multiple_of(64 << 10);
    let too_large = |_| io::Error::other("the user data is too large for a seed");
    let mut disk = vec![0; usize::try_from(size).map_err(too_large)?];
    let (fat_type, cluster) = match size {
        ..0x20_0000 => (FatType::Fat12, 512),
        0x20_0000..0x200_0000 => (FatType::Fat16, 512),
        _ => (FatType::Fat16, 32 << 10),
    };
    let options = FormatVolumeOptions::new()
        .volume_id(0x766d_7373)
        .volume_label(LABEL)
        .fat_type(fat_type)
        .bytes_per_cluster(cluster)
        .total_sectors(u32::try_from(size / 512).map_err(too_large)?);
    fatfs::format_volume(Cursor::new(&mut disk), options)?;
    let options = FsOptions::new().time_provider(&CLOCK).update_accessed_date(false);
    let system = FileSystem::new(Cursor::new(&mut disk), options)?;
    {
        let root = system.root_dir();
        for (name, text) in files {
            root.create_file(name)?.write_all(text.as_bytes())?;
        }
    }
    system.unmount()?;
    Ok(disk)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn read(disk: Vec<u8>, name: &str) -> String {
        let system = FileSystem::new(Cursor::new(disk), FsOptions::new()).unwrap();
        assert_eq!(system.volume_label(), "cidata");
        let mut text = String::new();
        let root = system.root_dir();
        root.open_file(name).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn files_come_back_whatever_their_size() {
        for size in [0, 1, 511, 512, 60_000, 120_000, 1_000_000, 3_000_000, 40_000_000] {
            let text = "ü\n".repeat(size / 3);
            let files = [
                ("user-data", text.clone()),
                ("meta-data", "{}\n".to_owned()),
                ("network-config", "version: 2\n".to_owned()),
            ];
            let disk = volume(&files).unwrap_or_else(|e| panic!("{size} bytes: {e}"));
            assert_eq!(disk, volume(&files).unwrap(), "the same files, the same bytes");
            assert!(disk.len() >= 128 << 10);
            assert_eq!(read(disk.clone(), "user-data"), text);
            assert_eq!(read(disk, "meta-data"), "{}\n");
        }
    }
}
