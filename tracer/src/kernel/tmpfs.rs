//! Which file systems in memory (tmpfs) a process sees that can be written to, and how full they are. Reads; decides nothing. What is
//! gone, hidden by another mount or without a limit is absent.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use nix::sys::statvfs::statvfs;

/// More of a list of mounts is not read: some 8,000 of them.
const MAX_LIST_BYTES: u64 = 1 << 20;

/// A tmpfs as a process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its device number, "major:minor": the same wherever it is mounted.
    pub device: String,
    /// Where it is mounted.
    pub path: PathBuf,
}

/// How full one is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What it may hold.
    pub size: u64,
    /// What it holds.
    pub used: u64,
}

/// Number of the mount namespace of a process.
pub fn namespace(pid: u32) -> Option<u64> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()?;
    link.to_str()?.strip_prefix("mnt:[")?.strip_suffix(']')?.parse().ok()
}

/// Those that the process sees and may write to as far as they are mounted so; each once.
pub fn mounts(pid: u32) -> Vec<Mount> {
    let mut text = Vec::new();
    let Ok(file) = std::fs::File::open(format!("/proc/{pid}/mountinfo")) else { return Vec::new() };
    // An error leaves what was read before it.
    let _ = file.take(MAX_LIST_BYTES).read_to_end(&mut text);
    mounts_in(&text)
}

/// Device numbers of every tmpfs that the process sees, mounted for writing or not.
pub fn devices(pid: u32) -> BTreeSet<(u32, u32)> {
    let mut text = Vec::new();
    let Ok(file) = std::fs::File::open(format!("/proc/{pid}/mountinfo")) else { return BTreeSet::new() };
    let _ = file.take(MAX_LIST_BYTES).read_to_end(&mut text);
    let device = |line: &[u8]| {
        let line = std::str::from_utf8(line).ok()?;
        let (mount, kind) = line.split_once(" - ")?;
        let (major, minor) = mount.split(' ').nth(2)?.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?)).filter(|_| kind.starts_with("tmpfs "))
    };
    text.split(|byte| *byte == b'\n').filter_map(device).collect()
}

fn mounts_in(mountinfo: &[u8]) -> Vec<Mount> {
    let mut all: Vec<Mount> = Vec::new();
    for mount in mountinfo.split(|byte| *byte == b'\n').filter_map(mount_in) {
        if all.iter().all(|known| known.device != mount.device) {
            all.push(mount);
        }
    }
    all
}

/// The one of a line, if it is a tmpfs that can be written to (proc_pid_mountinfo(5)).
fn mount_in(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let (path, options) = (fields.nth(1)?, fields.next()?);
    // Any number of optional fields, then a lone hyphen.
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let (kind, own_options) = (rest.next()?, rest.nth(1)?);
    let writable = |options: &[u8]| options.split(|byte| *byte == b',').any(|option| option == b"rw");
    let ours = kind == b"tmpfs" && writable(options) && writable(own_options) && path.starts_with(b"/");
    ours.then(|| Mount { device, path: PathBuf::from(OsString::from_vec(unescaped(path))) })
}

/// A path with its escapes (`\040` is a blank) undone; what is no escape stays as it is.
pub(super) fn unescaped(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, behind)) = rest.split_first() {
        let digits =
            behind.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        let number =
            digits.map(|digits| digits.iter().fold(0u32, |number, digit| number * 8 + u32::from(digit - b'0')));
        match number.and_then(|number| u8::try_from(number).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = behind.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(*first);
                rest = behind;
            }
        }
    }
    plain
}

/// How full it is, seen through a process; none where another file system is at that place for it, or it has no limit.
pub fn usage(pid: u32, device: &str, path: &Path) -> Option<Usage> {
    let mut seen = OsString::from(format!("/proc/{pid}/root"));
    seen.push(std::ffi::OsStr::from_bytes(path.as_os_str().as_bytes()));
    let seen = PathBuf::from(seen);
    let number = std::fs::symlink_metadata(&seen).ok()?.dev();
    if format!("{}:{}", major(number), minor(number)) != device {
        return None;
    }
    let told = statvfs(&seen).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(told.fragment_size());
    let size = bytes(told.blocks());
    (size > 0).then(|| Usage { size, used: size.saturating_sub(bytes(told.blocks_free())) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_can_be_written_to_are_found_whatever_their_paths() {
        let text = b"24 27 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw,size=1k\n\
            25 24 0:23 / /dev/shm rw,relatime shared:3 master:1 - tmpfs shm rw,size=65536k\n\
            28 27 0:25 / /opt/kept ro,nosuid - tmpfs none ro,size=4k\n\
            29 27 0:26 / /opt/locked ro - tmpfs none rw\n\
            30 27 0:27 /sub /mnt/a\\040b\\134\\012\xff rw - tmpfs none rw\n\
            31 27 0:23 / /again rw - tmpfs shm rw\n\
            32 27 8:1 / /disk rw - ext4 /dev/tmpfs rw\n";
        let found: Vec<(String, Vec<u8>)> =
            mounts_in(text).into_iter().map(|mount| (mount.device, mount.path.into_os_string().into_vec())).collect();
        let expected =
            [("0:23", &b"/dev/shm"[..]), ("0:27", b"/mnt/a b\\\n\xff")].map(|(d, p)| (d.to_owned(), p.to_vec()));
        assert_eq!(found, expected, "each once, and none of which a line says that it is read only");
    }

    #[test]
    fn hostile_lists_are_no_mounts_and_escapes_that_are_none_stay() {
        for text in
            [&b""[..], b"\n\n", b"- - -", b"1 2 3", b"1 2 0:1 / /x rw", b"1 2 0:1 / /x rw - tmpfs none", b"\xff \xff"]
        {
            assert_eq!(mounts_in(text), [], "{text:?}");
        }
        assert_eq!(mounts_in(b"1 2 0:1 / relative rw - tmpfs none rw"), []);
        for (path, plain) in
            [(&b"a\\"[..], &b"a\\"[..]), (b"\\04", b"\\04"), (b"\\777", b"\\777"), (b"\\089", b"\\089")]
        {
            assert_eq!(unescaped(path), plain);
        }
        assert_eq!(unescaped(b"\\040\\1011"), b" A1");
    }

    #[test]
    fn what_this_process_sees_is_read() {
        let pid = std::process::id();
        assert!(namespace(pid).is_some_and(|number| number > 0));
        assert_eq!(namespace(u32::MAX), None);
        for mount in mounts(pid) {
            // One that another mount hides has no usage.
            let usage = usage(pid, &mount.device, &mount.path);
            assert!(usage.is_none_or(|usage| usage.used <= usage.size), "{mount:?}: {usage:?}");
        }
        assert_eq!(usage(pid, "0:0", Path::new("/proc")), None, "another device");
    }
}
