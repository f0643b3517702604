//! Opens the file behind a line of /proc/PID/maps, and only if it is a regular file.
//!
//! What is mapped is the traced process's choice: a device whose opening has effects, a pipe that would block. So a file is
//! first held by `O_PATH`, which opens nothing, and opened for reading only if that handle is of a regular file. A file system
//! served by a program (FUSE) or a dead network server can make opening, looking up a path and reading wait for ever: only holding what is
//! mapped never asks it. See `patience`.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::maps::{MapsLine, unescape};
use super::patience::Patience;
use crate::kernel::status::Status;
use crate::model::objects::FileSystem;

/// A file that is held but not opened.
#[derive(Debug)]
pub(super) struct Handle {
    file: File,
    pub status: Status,
}

/// Why there is no handle.
#[derive(Debug)]
pub(super) enum NoHandle {
    /// A device, a pipe, a directory.
    NotRegular,
    /// In words.
    Failed(String),
}

impl Handle {
    fn of(file: File) -> Result<Self, NoHandle> {
        let status =
            Status::of_file(&file).map_err(|error| NoHandle::Failed(format!("cannot be looked at: {error}")))?;
        if status.is_regular() { Ok(Self { file, status }) } else { Err(NoHandle::NotRegular) }
    }

    /// Opens it for reading.
    pub(super) fn open(&self) -> io::Result<File> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let opened = Status::of_file(&file)?;
        if opened.is_regular() && opened.is_same_file(&self.status) {
            Ok(file)
        } else {
            Err(io::Error::other("another file was opened than the one that was looked at"))
        }
    }
}

/// Holds the file of this line: through map_files, else by its path within the process's root where device and inode agree.
/// With `far`, its file system, the latter is asked with patience.
pub(super) fn hold(
    pid: u32,
    line: &MapsLine<'_>,
    far: Option<&FileSystem>,
    patience: &mut Patience,
) -> Result<Handle, NoHandle> {
    let first = match through_map_files(pid, line) {
        Err(NoHandle::Failed(first)) => first,
        other => return other,
    };
    let path = PathBuf::from(OsString::from_vec(line.path().0));
    let (device, inode) = (line.device, line.inode);
    let found = patience
        .on(far, move || by_path(pid, &path, device, inode))
        .unwrap_or_else(|silent| Err(NoHandle::Failed(silent)));
    found.map_err(|second| match second {
        NoHandle::NotRegular => NoHandle::NotRegular,
        NoHandle::Failed(second) => NoHandle::Failed(format!("{first}; by its path: {second}")),
    })
}

fn through_map_files(pid: u32, line: &MapsLine<'_>) -> Result<Handle, NoHandle> {
    let path = format!("/proc/{pid}/map_files/{:x}-{:x}", line.start, line.end);
    let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(&path);
    let file = file.map_err(|error| NoHandle::Failed(format!("map_files: {error}")))?;
    let handle = Handle::of(file)?;
    // Another file may have come to these addresses since the line was written. On overlays the inode numbers need not agree, so
    // then the name, which the kernel makes in the same way for both, must.
    if handle.status.inode == line.inode || name_of(&handle.file).as_deref() == Some(&unescape(line.name)[..]) {
        Ok(handle)
    } else {
        Err(NoHandle::Failed("map_files: another file is mapped there now".to_owned()))
    }
}

fn name_of(file: &File) -> Option<Vec<u8>> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    Some(link.as_os_str().as_bytes().to_vec())
}

fn by_path(pid: u32, path: &Path, device: (u32, u32), inode: u64) -> Result<Handle, NoHandle> {
    let failed = |error: &dyn std::fmt::Display| NoHandle::Failed(error.to_string());
    let root = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(format!("/proc/{pid}/root"))
        .map_err(|error| failed(&error))?;
    // Links on the way are the process's choice as well: they are followed within its root only.
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let held: OwnedFd = openat2(&root, path, how).map_err(|error| failed(&error))?;
    let handle = Handle::of(File::from(held))?;
    if (handle.status.device, handle.status.inode) == (device, inode) {
        Ok(handle)
    } else {
        Err(failed(&"another file has this path now"))
    }
}
