//! On which file system a file lies, as its process sees it: the mount of a descriptor, by its number, or of a device; and where file
//! systems with disks are mounted. Reads lists of the kernel's own only: a file system whose server does not answer must not be asked.

use std::collections::HashMap;
use std::fs;
use std::io::Read;

use super::{proc, tmpfs::unescaped};
use crate::model::meta::{MountRecord, ObjectRecord};
use crate::model::objects::FileSystem;
use crate::model::text::printable;

/// More of a list of mounts is not read: some 8,000 of them.
const MAX_LIST_BYTES: u64 = 1 << 20;
/// So many mounts are remembered; then all are forgotten.
const MAX_KNOWN: usize = 1_024;
/// The major number of devices that are no disks.
const NO_DISK: &str = "0:";

/// Mounts that were looked up: a list is long on a host with many containers, and files are many.
#[derive(Debug, Default)]
pub struct Mounts {
    /// By number of the mount, where that is known, and device: a number may be given again.
    known: HashMap<(Option<u64>, String), Option<FileSystem>>,
}

impl Mounts {
    /// The file system of a thread's file, if it has no disk of its own; none: it has one, or that is not known.
    pub fn of(&mut self, file: &ObjectRecord) -> Option<FileSystem> {
        let device = file.device.as_ref().filter(|device| file.kind == "file" && device.starts_with(NO_DISK))?;
        self.find(file.tid, number(file.tid, file.fd), device)
    }

    /// The same of a file that a process has mapped, by the device of its file system.
    pub fn of_mapped(&mut self, pid: u32, device: (u32, u32)) -> Option<FileSystem> {
        if device.0 != 0 { None } else { self.find(pid, None, &format!("{NO_DISK}{}", device.1)) }
    }

    fn find(&mut self, tid: u32, number: Option<u64>, device: &str) -> Option<FileSystem> {
        let key = (number, device.to_owned());
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        let found = find(tid, |fields| match number {
            Some(number) => fields.first() == Some(&number.to_string().as_bytes()),
            // A file that is mapped has no descriptor.
            None => fields.get(2) == Some(&device.as_bytes()),
        });
        self.known.insert(key, found.clone());
        found
    }
}

/// So many mounts of a process are told.
const MAX_TOLD: usize = 256;

/// Where file systems are mounted that have a disk, as a process sees it; those that were mounted over are among them.
pub fn on_disks(pid: u32) -> Vec<MountRecord> {
    let text = list(pid).unwrap_or_default();
    text.split(|byte| *byte == b'\n').filter_map(on_disk).take(MAX_TOLD).collect()
}

/// That of a line, if its source is a device: file systems of several disks have numbers without one.
fn on_disk(line: &[u8]) -> Option<MountRecord> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let hyphen = fields.iter().position(|field| *field == b"-")?;
    let device = std::str::from_utf8(fields.get(2)?).ok()?;
    let shown = |field: Option<&&[u8]>| Some(printable(&unescaped(field?)));
    let has_disk = !device.starts_with(NO_DISK) || fields.get(hyphen + 2)?.starts_with(b"/dev/");
    Some(MountRecord { device: device.to_owned(), root: shown(fields.get(3))?, mounted_on: shown(fields.get(4))? })
        .filter(|_| has_disk)
}

/// Number of the mount that a descriptor lies on.
fn number(tid: u32, fd: u32) -> Option<u64> {
    let text = proc::read(&format!("/proc/{tid}/fdinfo/{fd}"))?;
    std::str::from_utf8(&text).ok()?.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

fn find(tid: u32, is_it: impl Fn(&[&[u8]]) -> bool) -> Option<FileSystem> {
    list(tid)?.split(|byte| *byte == b'\n').find_map(|line| among(line, &is_it))
}

/// The list of mounts that a thread sees; an error leaves what was read before it.
fn list(tid: u32) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let _ = fs::File::open(format!("/proc/{tid}/mountinfo")).ok()?.take(MAX_LIST_BYTES).read_to_end(&mut text);
    Some(text)
}

/// That of a line, if it is the one (proc_pid_mountinfo(5)).
fn among(line: &[u8], is_it: &impl Fn(&[&[u8]]) -> bool) -> Option<FileSystem> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    // Any number of optional fields, then a lone hyphen.
    let hyphen = fields.iter().position(|field| *field == b"-")?;
    let shown = |field: Option<&&[u8]>| Some(printable(&unescaped(field?)));
    is_it(&fields).then_some(())?;
    Some(FileSystem {
        kind: shown(fields.get(hyphen + 1))?,
        source: shown(fields.get(hyphen + 2)).filter(|source| source != "none"),
        mounted_on: shown(fields.get(4))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        40 22 0:45 /share /mnt/far\\040store rw - nfs4 server:/export rw,vers=4.2\n\
        41 22 0:46 / /mnt/fuse rw shared:7 master:2 - fuse.sshfs none rw\nhalf a line";

    fn found(is_it: impl Fn(&[&[u8]]) -> bool) -> Option<FileSystem> {
        LIST.as_bytes().split(|byte| *byte == b'\n').find_map(|line| among(line, &is_it))
    }

    #[test]
    fn a_mount_is_found_by_its_number_and_by_its_device() {
        let nfs = found(|fields| fields.first() == Some(&&b"40"[..])).unwrap();
        assert_eq!((nfs.kind.as_str(), nfs.mounted_on.as_str()), ("nfs4", "/mnt/far store"));
        assert_eq!(nfs.source.as_deref(), Some("server:/export"));
        let fuse = found(|fields| fields.get(2) == Some(&&b"0:46"[..])).unwrap();
        assert_eq!((fuse.kind.as_str(), fuse.source), ("fuse.sshfs", None));
        assert_eq!(found(|fields| fields.first() == Some(&&b"99"[..])), None);
    }

    #[test]
    fn mounts_of_disks_are_told_with_the_directory_that_is_mounted() {
        let list = format!(
            "{LIST}\n50 22 0:30 /@home /home\\040dir rw - btrfs /dev/sdb rw\n51 22 0:5 / /proc rw - proc proc rw"
        );
        let found: Vec<MountRecord> = list.as_bytes().split(|byte| *byte == b'\n').filter_map(on_disk).collect();
        let mount = |device: &str, root: &str, mounted_on: &str| MountRecord {
            device: device.to_owned(),
            root: root.to_owned(),
            mounted_on: mounted_on.to_owned(),
        };
        assert_eq!(found, [mount("8:1", "/", "/"), mount("0:30", "/@home", "/home dir")]);
    }

    #[test]
    fn a_file_of_this_process_lies_somewhere_and_is_looked_up_once() {
        use std::os::{fd::AsRawFd, unix::fs::MetadataExt};
        let file = fs::File::open("/proc/self/status").expect("/proc is mounted");
        let device = file.metadata().expect("stat").dev();
        let open = ObjectRecord {
            tid: std::process::id(),
            fd: file.as_raw_fd() as u32,
            kind: "file".to_owned(),
            device: Some(format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device))),
            ..ObjectRecord::default()
        };
        let mut mounts = Mounts::default();
        for known in [1, 1] {
            assert_eq!(mounts.of(&open).map(|found| found.kind).as_deref(), Some("proc"));
            assert_eq!(mounts.known.len(), known);
        }
        // By its device where there is no such descriptor, and nothing of what lies on a disk or is no file.
        let mapped = ObjectRecord { fd: u32::MAX, ..open.clone() };
        assert_eq!(mounts.of(&mapped).map(|found| found.kind).as_deref(), Some("proc"));
        let on_disk = ObjectRecord { device: Some("8:1".to_owned()), ..open.clone() };
        let pipe = ObjectRecord { kind: "pipe".to_owned(), ..open };
        assert_eq!((mounts.of(&on_disk), mounts.of(&pipe), mounts.known.len()), (None, None, 2));
    }
}
