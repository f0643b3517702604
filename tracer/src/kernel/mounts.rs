//! On which file system a file lies, as its process sees it: the mount of a descriptor, by its number, or of a device. Reads lists of
//! the kernel's own only: a file system whose server does not answer must not be asked.

use std::fs;
use std::io::Read;

use super::{proc, tmpfs::unescaped};
use crate::model::objects::FileSystem;
use crate::model::text::printable;

/// More of a list of mounts is not read: some 8,000 of them.
const MAX_LIST_BYTES: u64 = 1 << 20;

/// The one of a thread's descriptor.
pub fn of_descriptor(tid: u32, fd: u32) -> Option<FileSystem> {
    let text = proc::read(&format!("/proc/{tid}/fdinfo/{fd}"))?;
    let number = std::str::from_utf8(&text).ok()?.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    find(tid, |fields| fields.first() == Some(&number.as_bytes()))
}

/// The one with a device ("major:minor"), which is that of a file that a thread's process has mapped.
pub fn of_device(tid: u32, device: &str) -> Option<FileSystem> {
    find(tid, |fields| fields.get(2) == Some(&device.as_bytes()))
}

fn find(tid: u32, is_it: impl Fn(&[&[u8]]) -> bool) -> Option<FileSystem> {
    let mut text = Vec::new();
    // An error leaves what was read before it.
    let _ = fs::File::open(format!("/proc/{tid}/mountinfo")).ok()?.take(MAX_LIST_BYTES).read_to_end(&mut text);
    text.split(|byte| *byte == b'\n').find_map(|line| among(line, &is_it))
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
    fn a_file_of_this_process_lies_somewhere() {
        let file = fs::File::open("/proc/self/status").expect("/proc is mounted");
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file) as u32;
        assert_eq!(of_descriptor(std::process::id(), fd).map(|found| found.kind).as_deref(), Some("proc"));
        assert_eq!(of_descriptor(std::process::id(), u32::MAX), None);
    }
}
