//! What a file is that is no qcow2: a raw disk, or something that people have in its place.
//!
//! A raw disk has no mark of its own, so that anything would pass for one, be sent to every host and boot nowhere. What
//! boots says so in its first sector: it ends with 55 AA and has code, or partitions, and a GPT has a header after it. So
//! only that is taken; everything else is called by its name, if that can be told, with what to do.

use std::fs::File;
use std::path::Path;

use super::{Look, read_some, unfit};

/// How much of a file's beginning is looked at: the mark of Btrfs is behind its first 64 KiB.
pub(super) const HEAD: usize = 68 << 10;

/// Bytes of a sector, as instances see their disks.
const SECTOR: u64 = 512;

/// Most sectors by which a partition may end after the disk: partitions were made of whole cylinders once.
const CYLINDER: u64 = 255 * 63;

/// What tells a kind of file: these bytes at that place, and what to say. `FILE` stands for the file's name, `NEW` for the
/// same with the ending of a qcow2.
struct Mark {
    at: usize,
    bytes: &'static [u8],
    says: &'static str,
}

const fn mark(at: usize, bytes: &'static [u8], says: &'static str) -> Mark {
    Mark { at, bytes, says }
}

/// Kinds that are never disks as they stand, whatever else is in them.
const OTHERS: &[Mark] = &[
    mark(
        0,
        b"KDMV",
        "a VMDK: convert it with qemu-img convert -O qcow2 FILE NEW",
    ),
    mark(
        0,
        b"COWD",
        "a VMDK: convert it with qemu-img convert -O qcow2 FILE NEW",
    ),
    mark(
        0,
        b"# Disk DescriptorFile",
        "the description of a VMDK, whose data are in other files: convert it with qemu-img convert -O qcow2 FILE NEW",
    ),
    mark(
        0,
        b"vhdxfile",
        "a VHDX: convert it with qemu-img convert -O qcow2 FILE NEW",
    ),
    mark(
        0,
        b"conectix",
        "a VHD: convert it with qemu-img convert -f vpc -O qcow2 FILE NEW",
    ),
    mark(
        0x40,
        b"\x7f\x10\xda\xbe",
        "a VDI: convert it with qemu-img convert -O qcow2 FILE NEW",
    ),
    mark(
        0,
        b"QED\0",
        "a QED image: convert it with qemu-img convert -O qcow2 FILE NEW",
    ),
    mark(
        0,
        b"WithoutFreeSpace",
        "a Parallels disk: convert it with qemu-img convert -O qcow2 FILE NEW",
    ),
    mark(
        0,
        b"WithouFreSpacExt",
        "a Parallels disk: convert it with qemu-img convert -O qcow2 FILE NEW",
    ),
    mark(
        0,
        b"Bochs Virtual HD Image",
        "a Bochs disk: convert it with qemu-img convert -O qcow2 FILE NEW",
    ),
    mark(
        0,
        b"\x3a\xff\x26\xed",
        "an Android sparse image: unpack it with simg2img FILE FILE.raw",
    ),
    mark(
        0,
        b"LUKS\xba\xbe",
        "encrypted by LUKS, and no instance has its key: decrypt it first, with qemu-img convert or cryptsetup",
    ),
    mark(0, b"\x1f\x8b", "compressed by gzip: unpack it with gzip -dk FILE"),
    mark(0, b"\xfd7zXZ\0", "compressed by xz: unpack it with xz -dk FILE"),
    mark(
        0,
        b"\x28\xb5\x2f\xfd",
        "compressed by zstd: unpack it with zstd -d FILE",
    ),
    mark(0, b"BZh", "compressed by bzip2: unpack it with bzip2 -dk FILE"),
    mark(
        0,
        b"\x04\x22\x4d\x18",
        "compressed by lz4: unpack it with lz4 -dk FILE",
    ),
    mark(0, b"LZIP", "compressed by lzip: unpack it with lzip -dk FILE"),
    mark(
        0,
        b"PK\x03\x04",
        "a zip archive: unpack it, and use the disk in it",
    ),
    mark(
        0,
        b"7z\xbc\xaf\x27\x1c",
        "a 7z archive: unpack it, and use the disk in it",
    ),
    mark(0, b"Rar!", "a rar archive: unpack it, and use the disk in it"),
    mark(
        257,
        b"ustar",
        "a tar archive (.tar, .ova): unpack it with tar -xf FILE, and use the disk in it",
    ),
    mark(
        0,
        b"070701",
        "a cpio archive, perhaps an initramfs: use the image of a whole disk",
    ),
    mark(0, b"\x7fELF", "a program: use the image of a whole disk"),
    mark(0x202, b"HdrS", "a Linux kernel: use the image of a whole disk"),
    mark(0x8001, b"CD001", ISO),
    mark(
        0x8001,
        b"BEA01",
        "a DVD's file system (UDF): use the image of an installed disk",
    ),
    mark(
        0,
        b"XFSB",
        "an XFS file system without a partition table: use the image of a whole disk",
    ),
    mark(
        0,
        b"hsqs",
        "a squashfs file system without a partition table: use the image of a whole disk",
    ),
    mark(
        3,
        b"NTFS    ",
        "an NTFS file system without a partition table: use the image of a whole disk",
    ),
    mark(
        3,
        b"EXFAT   ",
        "an exFAT file system without a partition table: use the image of a whole disk",
    ),
];

const ISO: &str = "an ISO 9660 image, which is an installer or a live system: use the image of an installed disk, \
                   such as a distribution's cloud image";

/// Kinds that leave room for a boot sector: without one nothing boots from them.
const WITHOUT_BOOT_SECTOR: &[Mark] = &[
    mark(
        0x438,
        b"\x53\xef",
        "an ext2, ext3 or ext4 file system without a partition table: use the image of a whole disk",
    ),
    mark(
        0x10040,
        b"_BHRfS_M",
        "a Btrfs file system without a partition table: use the image of a whole disk",
    ),
    mark(
        0x400,
        b"\xe2\xe1\xf5\xe0",
        "an EROFS file system without a partition table: use the image of a whole disk",
    ),
    mark(
        0x400,
        b"\x10\x20\xf5\xf2",
        "an F2FS file system without a partition table: use the image of a whole disk",
    ),
    mark(
        0x200,
        b"LABELONE",
        "a volume of LVM without a partition table: use the image of a whole disk",
    ),
    mark(0xff6, b"SWAPSPACE2", "swap space: use the image of a whole disk"),
];

/// Refuses a file that is no raw disk from which an instance could boot.
pub(super) fn refuse_other(file: &File, head: &[u8], name: &Path, length: u64) -> Result<(), Look> {
    if length == 0 {
        return unfit("it is empty");
    }
    if let Some(found) = of(OTHERS, head) {
        return unfit(sentence(found, name));
    }
    let mut foot = [0; SECTOR as usize];
    let n = read_some(file, &mut foot, length.saturating_sub(SECTOR))?;
    let foot = &foot[..n];
    // Old ones are a byte shorter.
    if foot.starts_with(b"conectix") || foot.get(1..).is_some_and(|f| f.starts_with(b"conectix")) {
        return unfit(sentence(
            "a VHD of fixed size: convert it with qemu-img convert -f vpc -O qcow2 FILE NEW",
            name,
        ));
    }
    if foot.starts_with(b"koly") {
        return unfit(sentence(
            "a DMG: convert it with qemu-img convert -O qcow2 FILE NEW",
            name,
        ));
    }
    if let Some(what) = text(head) {
        return unfit(what);
    }
    if !length.is_multiple_of(SECTOR) {
        return unfit(format!(
            "it is no qcow2, and as a raw disk its {length} bytes are no whole number of sectors: is it cut short?"
        ));
    }
    match boot_sector(file, head, length)? {
        Boot::Disk => Ok(()),
        Boot::None => match of(WITHOUT_BOOT_SECTOR, head) {
            Some(found) => unfit(sentence(found, name)),
            None => unfit(
                "it is no qcow2, and as a raw disk nothing could boot from it: it has neither a boot sector nor a \
                 partition table",
            ),
        },
    }
}

fn of(marks: &[Mark], head: &[u8]) -> Option<&'static str> {
    let found = marks.iter().find(|mark| {
        let there = head.get(mark.at..mark.at + mark.bytes.len());
        there == Some(mark.bytes)
    });
    found.map(|mark| mark.says)
}

fn sentence(says: &str, name: &Path) -> String {
    let file = name.file_name().unwrap_or_default().to_string_lossy();
    let new = Path::new(&*file).with_extension("qcow2");
    format!("it is {says}")
        .replace("FILE", &quoted(&file))
        .replace("NEW", &quoted(&new.to_string_lossy()))
}

/// A file's name as it can be typed in a shell.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+:@,".contains(c);
    if !name.is_empty() && name.chars().all(plain) && !name.starts_with('-') {
        return name.to_owned();
    }
    let shown: String = name.chars().filter(|c| !c.is_control()).collect();
    format!("'./{}'", shown.replace('\'', "'\\''"))
}

/// What a text is called; `None` if it is none.
fn text(head: &[u8]) -> Option<&'static str> {
    let head = head.get(..SECTOR as usize).unwrap_or(head);
    // The last character may be cut off.
    let whole = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => std::str::from_utf8(head.get(..e.valid_up_to())?).ok()?,
        Err(_) => return None,
    };
    let odd = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{c}');
    if whole.is_empty() || whole.contains(odd) {
        return None;
    }
    let start = whole.trim_start().to_ascii_lowercase();
    if ["<!doctype", "<html"].iter().any(|tag| start.starts_with(tag)) {
        return Some("it is a web page, not an image: look where it was downloaded from");
    }
    if start.starts_with("version https://git-lfs") {
        return Some("it is a pointer of Git LFS, not the image: git lfs pull fetches that");
    }
    Some("it is a text, not an image")
}

enum Boot {
    /// A machine can boot from it.
    Disk,
    /// None can.
    None,
}

fn boot_sector(file: &File, head: &[u8], length: u64) -> Result<Boot, Look> {
    let Some(sector) = head.get(..SECTOR as usize).filter(|s| s.ends_with(b"\x55\xaa")) else {
        return Ok(Boot::None);
    };
    let sectors = length / SECTOR;
    if head.get(0x200..0x208) == Some(b"EFI PART") {
        // Where the second header is: the last sector of the disk that it was made for.
        let last = le64(head, 0x220);
        if last >= sectors {
            return unfit(format!(
                "it is cut short: its partition table is of a disk of {} bytes, and it has {length}",
                u128::from(last).saturating_add(1).saturating_mul(SECTOR.into())
            ));
        }
        return Ok(Boot::Disk);
    }
    if head.get(0x1000..0x1008) == Some(b"EFI PART") {
        return unfit(
            "its partition table is for sectors of 4,096 bytes, and instances have disks with sectors of 512",
        );
    }
    if is_fat(sector) {
        return Ok(if boots(file, sector)? {
            Boot::Disk
        } else {
            no_boot_loader()?
        });
    }
    let partitions: Vec<Partition> = (0..4).filter_map(|n| Partition::read(sector, n)).collect();
    let is_table = !partitions.is_empty() && (0..4).all(|n| Partition::is_plausible(sector, n));
    if is_table {
        let beyond = partitions
            .iter()
            .find(|p| p.is_data && p.end() > sectors + CYLINDER);
        if let Some(partition) = beyond {
            return unfit(format!(
                "it is cut short: one of its partitions ends at {} bytes, and it has {length}",
                u128::from(partition.end()).saturating_mul(SECTOR.into())
            ));
        }
        return Ok(Boot::Disk);
    }
    // Code, and what it loads is wherever it knows it to be.
    let has_code = sector[..440].iter().any(|b| *b != 0);
    Ok(if has_code { Boot::Disk } else { Boot::None })
}

fn no_boot_loader() -> Result<Boot, Look> {
    unfit(
        "it is a FAT file system without a partition table and without a boot loader: use the image of a whole disk",
    )
}

/// One of the four entries of a partition table.
struct Partition {
    first: u64,
    length: u64,
    /// Whether it stands for itself: not for a GPT, whose sizes are in that.
    is_data: bool,
}

impl Partition {
    fn entry(sector: &[u8], n: usize) -> &[u8] {
        &sector[446 + 16 * n..462 + 16 * n]
    }

    fn read(sector: &[u8], n: usize) -> Option<Self> {
        let entry = Self::entry(sector, n);
        let (first, length) = (le32(entry, 8), le32(entry, 12));
        (entry[4] != 0 && length > 0).then_some(Self {
            first,
            length,
            is_data: entry[4] != 0xee,
        })
    }

    fn is_plausible(sector: &[u8], n: usize) -> bool {
        let entry = Self::entry(sector, n);
        let is_unused = entry[4] == 0;
        matches!(entry[0], 0 | 0x80) && (is_unused || le32(entry, 8) > 0)
    }

    const fn end(&self) -> u64 {
        self.first + self.length
    }
}

/// Whether a boot sector is one of FAT: a jump over the table of its sizes.
fn is_fat(sector: &[u8]) -> bool {
    let jumps = (sector[0] == 0xeb && sector[2] == 0x90) || sector[0] == 0xe9;
    let named =
        sector[0x36..0x3b] == *b"FAT12" || sector[0x36..0x3b] == *b"FAT16" || sector[0x52..0x57] == *b"FAT32";
    jumps && named
}

/// Whether a machine boots from a FAT file system without a partition table: its boot sector has a loader (mkfs.fat's own
/// code only says that there is none), or there is one for UEFI in it.
fn boots(file: &File, sector: &[u8]) -> Result<bool, Look> {
    const NO_LOADER: &[u8] = b"This is not a bootable disk";
    let has_loader = !sector.windows(NO_LOADER.len()).any(|w| w == NO_LOADER)
        && sector[0x5a..0x1fe].iter().any(|b| *b != 0);
    if has_loader {
        return Ok(true);
    }
    let bytes = le16(sector, 0x0b);
    let (reserved, tables) = (le16(sector, 0x0e), u64::from(sector[0x10]));
    let (entries, small) = (le16(sector, 0x11), le16(sector, 0x16));
    let table = if small == 0 { le32(sector, 0x24) } else { small };
    let mut at = (reserved + tables * table) * bytes;
    let mut length = entries * 32;
    if small == 0 {
        // FAT32 has its root where any folder may be: only its first cluster is looked at.
        let cluster = u64::from(sector[0x0d]) * bytes;
        at = at.saturating_add(le32(sector, 0x2c).saturating_sub(2).saturating_mul(cluster));
        length = cluster;
    }
    let mut root = vec![0; usize::try_from(length.min(4 << 20)).unwrap_or(0)];
    let n = read_some(file, &mut root, at)?;
    let is_efi = |entry: &[u8]| entry.starts_with(b"EFI        ") && entry[11] & 0x10 != 0;
    Ok(root[..n].chunks_exact(32).any(is_efi))
}

fn le16(b: &[u8], at: usize) -> u64 {
    u64::from(u16::from_le_bytes([b[at], b[at + 1]]))
}

fn le32(b: &[u8], at: usize) -> u64 {
    le16(b, at) | (le16(b, at + 2) << 16)
}

fn le64(b: &[u8], at: usize) -> u64 {
    le32(b, at) | (le32(b, at + 4) << 32)
}
