use super::*;
use proptest::prelude::*;
use std::process::Command;

fn inspect_bytes(bytes: &[u8]) -> Result<LocalImage, ImageError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, bytes).unwrap();
    inspect(
        &path,
        None,
        &dir.path().join("cache"),
        &Interrupt::default(),
        &|_, _| {},
    )
}

#[test]
fn what_a_signal_cut_short_is_read_again() {
    struct Signalled(bool);
    impl Read for Signalled {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if std::mem::take(&mut self.0) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            buffer[0] = 7;
            Ok(1)
        }
    }
    let mut buffer = [0; 4];
    assert_eq!(read_on(&mut Signalled(true), &mut buffer).unwrap(), 1);
    assert_eq!(buffer, [7, 0, 0, 0]);
}

fn qemu_img(args: &[&str]) {
    let out = Command::new("qemu-img")
        .args(args)
        .output()
        .expect("tests/run installs qemu-img");
    assert!(
        out.status.success(),
        "qemu-img {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// A qcow2 of 8 MiB with some data in it.
fn real(dir: &Path) -> std::path::PathBuf {
    let (raw, qcow2) = (dir.join("raw"), dir.join("a.qcow2"));
    let mut bytes = vec![0u8; 8 << 20];
    for (i, b) in bytes[..3 << 20].iter_mut().enumerate() {
        *b = (i * 7 % 251) as u8;
    }
    std::fs::write(&raw, bytes).unwrap();
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        raw.to_str().unwrap(),
        qcow2.to_str().unwrap(),
    ]);
    qcow2
}

#[test]
fn a_real_image_is_understood_and_hashed_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = real(dir.path());
    let cache = dir.path().join("cache");
    let first = inspect(&path, None, &cache, &Interrupt::default(), &|_, _| {}).unwrap();
    assert_eq!(first.image.format, ImageFormat::Qcow2);
    assert_eq!(first.image.virtual_size, Bytes::mib(8));
    let read = std::cell::Cell::new(0);
    let again = inspect(
        &path,
        Some(&first.image.digest.0),
        &cache,
        &Interrupt::default(),
        &|done, _| read.set(done),
    )
    .unwrap();
    assert_eq!(
        (again, read.get()),
        (first, 0),
        "an unchanged file is not read again"
    );
    assert!(matches!(
        inspect(&path, Some("00"), &cache, &Interrupt::default(), &|_, _| {}),
        Err(ImageError::Digest { .. })
    ));
}

#[test]
fn a_truncated_image_is_told_from_a_whole_one() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(real(dir.path())).unwrap();
    assert!(inspect_bytes(&whole).is_ok());
    for keep in [0, 50, 80, 600, 70_000, whole.len() / 3, whole.len() - 65_536] {
        assert!(
            inspect_bytes(&whole[..keep]).is_err(),
            "cut to {keep} of {} bytes",
            whole.len()
        );
    }
}

#[test]
fn an_image_with_a_backing_file_or_a_data_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = real(dir.path());
    let over = dir.path().join("over.qcow2");
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        base.to_str().unwrap(),
        "-F",
        "qcow2",
        over.to_str().unwrap(),
    ]);
    let e = inspect(&over, None, dir.path(), &Interrupt::default(), &|_, _| {})
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("backing file") && e.contains("qemu-img convert"),
        "{e}"
    );
    let split = dir.path().join("split.qcow2");
    let data = format!("data_file={}", dir.path().join("data").display());
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        &data,
        split.to_str().unwrap(),
        "1M",
    ]);
    assert!(
        inspect(&split, None, dir.path(), &Interrupt::default(), &|_, _| {})
            .unwrap_err()
            .to_string()
            .contains("another file")
    );
}

#[test]
fn compressed_clusters_are_understood() {
    let dir = tempfile::tempdir().unwrap();
    let base = real(dir.path());
    let packed = dir.path().join("packed.qcow2");
    qemu_img(&[
        "convert",
        "-c",
        "-O",
        "qcow2",
        base.to_str().unwrap(),
        packed.to_str().unwrap(),
    ]);
    assert!(inspect(&packed, None, dir.path(), &Interrupt::default(), &|_, _| {}).is_ok());
}

/// A raw disk of a MiB with a boot sector and one partition, otherwise full of `byte`.
fn disk(byte: u8) -> Vec<u8> {
    let mut disk = vec![byte; 1 << 20];
    disk[446..510].fill(0);
    disk[446 + 4] = 0x83;
    disk[446 + 8..446 + 12].copy_from_slice(&63u32.to_le_bytes());
    disk[446 + 12..446 + 16].copy_from_slice(&1024u32.to_le_bytes());
    disk[510..512].copy_from_slice(b"\x55\xaa");
    disk
}

fn refusal(bytes: &[u8]) -> String {
    match inspect_bytes(bytes) {
        Err(ImageError::Unfit { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn other_formats_are_named_with_the_way_out() {
    for (bytes, says) in [
        (
            &b"KDMV...."[..],
            "a VMDK: convert it with qemu-img convert -O qcow2 image image.qcow2",
        ),
        (b"# Disk DescriptorFile\nversion=1\n", "description of a VMDK"),
        (b"\x1f\x8b....", "gzip -dk image"),
        (b"\xfd7zXZ\0", "xz -dk image"),
        (b"LUKS\xba\xbe\0\x02", "LUKS"),
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("nur ein Text über nichts\n".as_bytes(), "it is a text"),
        (b"", "empty"),
        (b"\x01short", "no whole number of sectors"),
        (&[0; 1024], "neither a boot sector nor a partition table"),
        (&[7; 1024], "neither a boot sector nor a partition table"),
    ] {
        let why = refusal(bytes);
        assert!(why.contains(says), "{says}: {why}");
    }
    let text = "base64+of/something\n".repeat(100);
    assert!(refusal(&text.as_bytes()[..1024]).contains("it is a text"));
}

#[test]
fn what_is_told_by_a_place_within_is_named_whatever_else_is_in_it() {
    for (at, mark, says) in [
        (257, &b"ustar\0"[..], "tar -xf image"),
        (0x8001, b"CD001", "ISO 9660"),
        (0x40, b"\x7f\x10\xda\xbe", "VDI"),
        (0x202, b"HdrS", "kernel"),
        (
            (1 << 20) - 512,
            b"conectix",
            "a VHD of fixed size: convert it with qemu-img convert -f vpc",
        ),
        ((1 << 20) - 511, b"conectix", "a VHD of fixed size"),
    ] {
        // A hybrid ISO, or a VHD of fixed size, has a partition table as well.
        let mut bytes = disk(7);
        bytes[at..at + mark.len()].copy_from_slice(mark);
        let why = refusal(&bytes);
        assert!(why.contains(says), "{says}: {why}");
    }
    for (at, mark, says) in [
        (0x438, &b"\x53\xef"[..], "ext4"),
        (0x10040, b"_BHRfS_M", "Btrfs"),
        (0x200, b"LABELONE", "LVM"),
    ] {
        let mut bytes = vec![0; 1 << 20];
        bytes[at..at + mark.len()].copy_from_slice(mark);
        let why = refusal(&bytes);
        assert!(why.contains(says), "{says}: {why}");
        // With a boot loader in the room that is left for one it boots.
        bytes[..3].copy_from_slice(b"\xeb\x58\x90");
        bytes[510..512].copy_from_slice(b"\x55\xaa");
        assert_eq!(inspect_bytes(&bytes).unwrap().image.format, ImageFormat::Raw);
    }
}

#[test]
fn a_raw_disk_is_one_with_partitions_or_with_something_that_boots() {
    let is_raw = |bytes: &[u8]| inspect_bytes(bytes).unwrap().image.format == ImageFormat::Raw;
    assert!(is_raw(&disk(7)));
    // No code, as where only UEFI boots from it.
    assert!(is_raw(&disk(0)));
    let mut no_partition = disk(0);
    no_partition[446..510].fill(0);
    assert!(refusal(&no_partition).contains("neither"));
    no_partition[..2].copy_from_slice(b"\xfa\xfc");
    assert!(is_raw(&no_partition), "a boot sector that needs no partitions");
}

#[test]
fn a_raw_disk_that_was_cut_short_is_told_by_its_partition_table() {
    let mut mbr = disk(7);
    mbr[446 + 12..446 + 16].copy_from_slice(&(64u32 << 11).to_le_bytes());
    assert!(refusal(&mbr).contains("cut short"));
    let gpt = |last: u64| {
        let mut disk = disk(0);
        disk[446 + 4] = 0xee;
        disk[446 + 12..446 + 16].fill(0xff);
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[512 + 32..512 + 40].copy_from_slice(&last.to_le_bytes());
        disk
    };
    // It may have been made larger since.
    for last in [2047, 1000] {
        assert!(inspect_bytes(&gpt(last)).is_ok());
    }
    for last in [2048, u64::MAX] {
        assert!(refusal(&gpt(last)).contains("cut short"));
    }
    let mut large_sectors = gpt(2047);
    large_sectors[512..520].fill(0);
    large_sectors[4096..4104].copy_from_slice(b"EFI PART");
    assert!(refusal(&large_sectors).contains("sectors of 4,096 bytes"));
}

/// A FAT16 file system of 8 MiB, as mkfs.fat makes it.
fn fat() -> Vec<u8> {
    let mut bytes = vec![0; 8 << 20];
    let options = fatfs::FormatVolumeOptions::new().fat_type(fatfs::FatType::Fat16);
    fatfs::format_volume(std::io::Cursor::new(&mut bytes), options).unwrap();
    bytes[510..512].copy_from_slice(b"\x55\xaa");
    bytes
}

#[test]
fn a_file_system_of_fat_is_a_disk_if_it_boots() {
    let plain = fat();
    assert!(plain.windows(27).any(|w| w == b"This is not a bootable disk"));
    assert!(refusal(&plain).contains("FAT file system"));
    // As syslinux makes it bootable: the lab's guest.
    let mut by_bios = plain.clone();
    by_bios[0x5a..0x1fe].fill(0x90);
    assert!(inspect_bytes(&by_bios).is_ok());
    let mut by_uefi = plain;
    let system = fatfs::FileSystem::new(std::io::Cursor::new(&mut by_uefi), fatfs::FsOptions::new()).unwrap();
    system.root_dir().create_dir("EFI").unwrap();
    drop(system);
    assert!(inspect_bytes(&by_uefi).is_ok());
}

#[test]
fn what_programs_make_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    std::fs::write(&raw, disk(7)).unwrap();
    let other = dir.path().join("other disk");
    for (format, options, says) in [
        ("vmdk", "subformat=monolithicSparse", "a VMDK"),
        ("vmdk", "subformat=streamOptimized", "a VMDK"),
        ("vmdk", "subformat=monolithicFlat", "description of a VMDK"),
        ("vhdx", "subformat=dynamic", "a VHDX"),
        ("vpc", "subformat=dynamic", "a VHD:"),
        ("vpc", "subformat=fixed,force_size", "a VHD of fixed size"),
        ("vdi", "static=off", "a VDI"),
        ("qed", "cluster_size=65536", "QED"),
    ] {
        let (from, to) = (raw.to_str().unwrap(), other.to_str().unwrap());
        qemu_img(&["convert", "-f", "raw", "-O", format, "-o", options, from, to]);
        let inspected = inspect(&other, None, dir.path(), &Interrupt::default(), &|_, _| {});
        let error = inspected.unwrap_err().to_string();
        assert!(error.contains(says), "{format} {options}: {error}");
        assert!(error.contains("'./other disk' './other disk.qcow2'"), "{error}");
    }
}

#[test]
fn what_is_no_regular_file_is_refused_by_name() {
    for (path, kind) in [("/dev/zero", "a device"), ("/tmp", "a folder")] {
        let inspected = inspect(
            Path::new(path),
            None,
            Path::new("/nowhere"),
            &Interrupt::default(),
            &|_, _| {},
        );
        let error = inspected.unwrap_err().to_string();
        assert!(error.contains(kind), "{error}");
    }
}

/// A file of a TiB whose only data are at its beginning.
fn tebibyte(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("large");
    std::fs::write(&path, disk(7)).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    path
}

#[test]
fn hashing_tells_how_far_it_is_and_ends_when_it_is_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let (interrupt, cache) = (Interrupt::default(), dir.path().join("cache"));
    let heard = std::cell::Cell::new(0);
    let stopped = inspect(&tebibyte(dir.path()), None, &cache, &interrupt, &|done, total| {
        assert_eq!(total, 1 << 40);
        heard.set(done);
        // In the middle of its hole.
        if done >= 32 << 20 {
            interrupt.press();
        }
    });
    assert!(
        matches!(stopped, Err(ImageError::Interrupted { .. })),
        "{stopped:?}"
    );
    assert_eq!(heard.get(), 32 << 20);
    assert!(!cache.exists(), "half a digest is none");
}

#[test]
fn holes_have_the_digest_of_the_zeros_that_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = disk(7);
    bytes.resize(5 << 20, 0);
    bytes[(4 << 20) + 5] = 1;
    let (full, sparse) = (dir.path().join("full"), dir.path().join("sparse"));
    std::fs::write(&full, &bytes).unwrap();
    let file = File::create(&sparse).unwrap();
    file.set_len(5 << 20).unwrap();
    file.write_all_at(&bytes[..1 << 20], 0).unwrap();
    file.write_all_at(&[1], (4 << 20) + 5).unwrap();
    let digest = |path: &Path| {
        let cache = dir.path().join("cache");
        inspect(path, None, &cache, &Interrupt::default(), &|_, _| {})
            .unwrap()
            .image
            .digest
    };
    assert_eq!(digest(&sparse), digest(&full));
    assert_eq!(digest(&full).0, hex(&Sha256::digest(&bytes)));
}

#[test]
fn what_is_written_to_while_it_is_read_has_no_digest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, disk(7)).unwrap();
    let inspected = inspect(&path, None, dir.path(), &Interrupt::default(), &|_, _| {
        std::fs::write(&path, disk(8)).unwrap();
    });
    assert!(
        inspected
            .unwrap_err()
            .to_string()
            .contains("changed while it was read")
    );
}

proptest! {
    /// Whatever a raw disk's first sectors say, nothing panics.
    #[test]
    fn no_boot_sector_makes_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 1024..=1024), fat in any::<bool>(), gpt in any::<bool>()) {
        bytes[510..512].copy_from_slice(b"\x55\xaa");
        if fat {
            bytes[0] = 0xe9;
            bytes[0x52..0x57].copy_from_slice(b"FAT32");
            bytes[0x5a..0x1fe].fill(0);
        }
        if gpt {
            bytes[512..520].copy_from_slice(b"EFI PART");
        }
        let _ = inspect_bytes(&bytes);
    }

    /// Whatever a header says, nothing panics and nothing large is allocated.
    #[test]
    fn no_header_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 100..400), small in any::<bool>()) {
        let mut image = b"QFI\xfb\0\0\0\x03".to_vec();
        image.extend(bytes);
        if small {
            image[8..16].fill(0);
            image[20..24].copy_from_slice(&[0, 0, 0, 9]);
            image[32..36].fill(0);
            image[72..80].fill(0);
        }
        let _ = inspect_bytes(&image);
    }
}
