//! Whether a qcow2 image stands alone and is whole.
//!
//! The header fields are those of the published layout (QEMU's docs/interop/qcow2.txt). Nothing a header says is
//! trusted: every offset is checked against the file's length before it is followed.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::{Look, unfit};

fn be32(b: &[u8], at: usize) -> u64 {
    u64::from(u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]))
}

fn be64(b: &[u8], at: usize) -> u64 {
    (be32(b, at) << 32) | be32(b, at + 4)
}

/// Checks a qcow2 image and returns the size of its disk.
pub(super) fn check(file: &File, head: &[u8], length: u64) -> Result<u64, Look> {
    const INCOMPATIBLE_DIRTY: u64 = 1;
    const INCOMPATIBLE_CORRUPT: u64 = 2;
    const INCOMPATIBLE_DATA_FILE: u64 = 4;
    const INCOMPATIBLE_EXTENDED_L2: u64 = 16;
    const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
    if head.len() < 72 {
        return unfit("it is cut short: not even its header is there");
    }
    let version = be32(head, 4);
    if !(2..=3).contains(&version) {
        return unfit(format!("it is qcow2 of version {version}, which is not known"));
    }
    if be64(head, 8) != 0 {
        return unfit(
            "it has a backing file, so it is only a part of an image: flatten it with qemu-img convert -O qcow2",
        );
    }
    let cluster_bits = be32(head, 20);
    if !(9..=21).contains(&cluster_bits) {
        return unfit(format!(
            "its header is damaged (clusters of 2^{cluster_bits} bytes)"
        ));
    }
    let size = be64(head, 24);
    if be32(head, 32) != 0 {
        return unfit("it is encrypted: decrypt it with qemu-img convert");
    }
    let features = if version == 3 && head.len() >= 104 {
        be64(head, 72)
    } else {
        0
    };
    if features & INCOMPATIBLE_DATA_FILE != 0 {
        return unfit("its data are in another file: convert it with qemu-img convert -O qcow2");
    }
    if features & INCOMPATIBLE_CORRUPT != 0 {
        return unfit("it is marked as corrupt: try qemu-img check -r all");
    }
    if features & INCOMPATIBLE_DIRTY != 0 {
        return unfit("it was not closed cleanly: is it in use? else try qemu-img check -r all");
    }
    if size == 0 || size > 1 << 60 {
        return unfit(format!("its header is damaged (a disk of {size} bytes)"));
    }
    let cut = |what: &str| Look::Unfit(format!("it is cut short: {what} lies beyond the end of the file"));
    let cluster = 1u64 << cluster_bits;
    let entry_bytes = if features & INCOMPATIBLE_EXTENDED_L2 != 0 {
        16
    } else {
        8
    };
    let per_l2 = cluster / entry_bytes;
    let (l1_entries, l1_offset) = (be32(head, 36), be64(head, 40));
    let needed = size.div_ceil(cluster).div_ceil(per_l2);
    // QEMU itself refuses an L1 table of more than 32 MiB.
    if l1_entries < needed || l1_entries > (32 << 20) / 8 {
        return unfit(format!(
            "its header is damaged (a table of {l1_entries} entries where {needed} are needed)"
        ));
    }
    if l1_offset
        .checked_add(l1_entries * 8)
        .is_none_or(|end| end > length)
    {
        return Err(cut("its table of tables"));
    }
    let refcounts = be64(head, 48);
    if refcounts >= length {
        return Err(cut("its table of reference counts"));
    }
    let mut l1 = vec![0; usize::try_from(l1_entries * 8).unwrap_or(0)];
    file.read_exact_at(&mut l1, l1_offset)?;
    let mut l2 = vec![0; usize::try_from(cluster).unwrap_or(0)];
    for entry in l1.chunks_exact(8) {
        let table = be64(entry, 0) & OFFSET;
        if table == 0 {
            continue;
        }
        if table.checked_add(cluster).is_none_or(|end| end > length) {
            return Err(cut("a table of its clusters"));
        }
        file.read_exact_at(&mut l2, table)?;
        for entry in l2.chunks_exact(usize::try_from(entry_bytes).unwrap_or(8)) {
            let entry = be64(entry, 0);
            let compressed = entry & (1 << 62) != 0;
            let end = if compressed {
                // Offset and number of further sectors share the entry; the last sector may be a partial one.
                let bits = 62 - (cluster_bits - 8);
                entry & ((1 << bits) - 1)
            } else {
                // The last cluster of a file may end early: reading it gives zeros.
                entry & OFFSET
            };
            if end != 0 && end >= length {
                return Err(cut("a cluster of its data"));
            }
        }
    }
    Ok(size)
}
