//! The host's block devices, as /sys/block has them. Reads; decides nothing. What a device does not say is absent.

use std::fs;
use std::path::Path;

use crate::model::meta::DiskRow;
use crate::model::text::printable;

/// Devices told.
const MAX_DISKS: usize = 256;
/// Parts of a device told.
const MAX_PARTS: usize = 16;
/// Bits of a minor number in the kernel's own encoding (include/linux/kdev_t.h).
const MINOR_BITS: u32 = 20;
/// /sys counts in sectors of so many bytes.
const SECTOR_BYTES: u64 = 512;

/// Those that have a size.
pub fn read() -> Vec<DiskRow> {
    let mut disks: Vec<DiskRow> = list(Path::new("/sys/block")).iter().filter_map(|path| disk(path)).collect();
    disks.sort_by_key(|disk| disk.device);
    disks.truncate(MAX_DISKS);
    disks
}

fn list(path: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn text(path: &Path) -> Option<String> {
    Some(printable(fs::read(path).ok()?.trim_ascii()))
}

fn name(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    printable(path.file_name().unwrap_or_default().as_bytes())
}

/// "254:0" in the kernel's encoding.
fn number(text: &str) -> Option<u32> {
    let (major, minor) = text.split_once(':')?;
    Some(major.parse::<u32>().ok()? << MINOR_BITS | minor.parse::<u32>().ok()?)
}

/// The one in brackets of "none [mq-deadline] kyber".
fn chosen(schedulers: &str) -> Option<String> {
    let (_, rest) = schedulers.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn disk(path: &Path) -> Option<DiskRow> {
    let size_bytes = text(&path.join("size"))?.parse::<u64>().ok()?.saturating_mul(SECTOR_BYTES);
    let device = number(&text(&path.join("dev"))?)?;
    let mut parts: Vec<String> = list(&path.join("slaves")).iter().map(|path| name(path)).collect();
    parts.sort();
    parts.truncate(MAX_PARTS);
    (size_bytes > 0).then(|| DiskRow {
        device,
        name: name(path),
        size_bytes,
        rotational: text(&path.join("queue/rotational")).as_deref() == Some("1"),
        scheduler: text(&path.join("queue/scheduler")).and_then(|text| chosen(&text)),
        backing_file: text(&path.join("loop/backing_file")),
        parts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_schedulers_are_read_as_the_kernel_writes_them() {
        assert_eq!(number("254:1"), Some(254 << 20 | 1));
        assert_eq!(number("254"), None);
        assert_eq!(chosen("none [mq-deadline] kyber bfq").as_deref(), Some("mq-deadline"));
        assert_eq!(chosen("none"), None);
    }

    #[test]
    fn each_device_told_has_a_number_of_its_own_and_a_size() {
        let disks = read();
        assert!(disks.windows(2).all(|pair| pair[0].device < pair[1].device), "{disks:?}");
        assert!(disks.iter().all(|disk| disk.size_bytes > 0 && !disk.name.is_empty()), "{disks:?}");
    }
}
