//! What the kernel has at hand of a file. Who stores the file is not asked: the server of a file system may not answer, and whoever asks
//! it waits with all others, beyond the reach of signals. What is at hand may be older than what the server has; of a file that is open or
//! mapped it is never missing. The way to a file by a path of names is not covered: looking a name up may ask the server.

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// A file's status, as far as it is used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Of its file system: major and minor number.
    pub device: (u32, u32),
    /// Its number there.
    pub inode: u64,
    /// What kind of file it is, as in `st_mode`.
    kind: u32,
    /// Names that it has.
    pub links: u32,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// When it was last changed, in nanoseconds since 1970.
    pub mtime_ns: i128,
}

impl Status {
    /// Of a file by its path. Links of /proc lead to open files without a look-up of names.
    pub fn of(path: &Path) -> io::Result<Self> {
        statx(libc::AT_FDCWD, &CString::new(path.as_os_str().as_bytes())?, 0)
    }

    /// Of an open file, or of one that is held only.
    pub fn of_file(file: impl AsFd) -> io::Result<Self> {
        statx(file.as_fd().as_raw_fd(), c"", libc::AT_EMPTY_PATH)
    }

    /// One of `S_IFREG`, `S_IFDIR` and so on.
    pub fn kind(&self) -> u32 {
        self.kind
    }

    /// Whether bytes are stored in it.
    pub fn is_regular(&self) -> bool {
        self.kind == libc::S_IFREG
    }

    /// Both name the same file.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

fn statx(folder: RawFd, path: &CStr, flags: i32) -> io::Result<Status> {
    let wanted = libc::STATX_TYPE | libc::STATX_INO | libc::STATX_NLINK | libc::STATX_SIZE | libc::STATX_MTIME;
    // SAFETY: plain numbers, which the call fills.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let flags = flags | libc::AT_STATX_DONT_SYNC;
    // SAFETY: a string that ends in zero, and room for the answer.
    if unsafe { libc::statx(folder, path.as_ptr(), flags, wanted, &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Status {
        device: (found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        kind: u32::from(found.stx_mode) & libc::S_IFMT,
        links: found.stx_nlink,
        len_bytes: found.stx_size,
        mtime_ns: i128::from(found.stx_mtime.tv_sec) * 1_000_000_000 + i128::from(found.stx_mtime.tv_nsec),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn it_is_what_stat_says() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), b"seven!!").expect("written");
        let by_path = Status::of(file.path()).expect("it is there");
        let stat = file.as_file().metadata().expect("stat");
        let device = (libc::major(stat.dev()), libc::minor(stat.dev()));
        assert_eq!((by_path.device, by_path.inode, by_path.len_bytes, by_path.links), (device, stat.ino(), 7, 1));
        assert_eq!(by_path.mtime_ns, i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec()));
        assert!(by_path.is_regular());
        let open = Status::of_file(file.as_file()).expect("it is open");
        assert!(open == by_path && open.is_same_file(&by_path));
    }

    #[test]
    fn what_is_no_file_is_told_apart_and_what_is_not_there_is_an_error() {
        assert_eq!(Status::of(Path::new("/dev/null")).expect("it is there").kind(), libc::S_IFCHR);
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Status::of(folder.path()).expect("it is there").kind(), libc::S_IFDIR);
        let error = Status::of(&folder.path().join("none")).expect_err("nothing is there");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(Status::of(Path::new("a\0b")).is_err());
    }
}
