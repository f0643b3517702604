//! Where distributions put the debug information of a stripped file: by build id and by `.gnu_debuglink`, on this host.
//!
//! A file counts only if it is the right one: same build id, or the checksum that the link names.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::{
    process::Module,
    symbol::elf::{Elf, ElfError, Source},
};

/// Where debug files lie.
pub const DIRECTORIES: &[&str] = &["/usr/lib/debug"];
/// Larger files are not read for their checksum.
const MAX_CHECKED_BYTES: u64 = 256 << 20;

/// A file with debug information, opened.
#[derive(Debug)]
pub struct DebugFile {
    /// Where it was found.
    pub path: PathBuf,
    file: File,
}

impl DebugFile {
    /// To read it.
    pub fn source(&self) -> Result<Source, ElfError> {
        Ok(Source::File(self.file.try_clone()?))
    }

    /// A path to the opened file that works while this value lives.
    pub fn open_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// The debug file of `module`, whose sections are `elf`.
pub fn find(elf: &Elf<'_>, module: &Module, max_bytes: u64, directories: &[&str]) -> Option<DebugFile> {
    let build_id = elf.build_id().or_else(|| module.build_id.clone());
    let by_id = build_id.as_deref().and_then(|id| {
        // A damaged note must not become a path.
        let (first, rest) = id.is_ascii().then(|| id.split_at_checked(2)).flatten()?;
        (rest.len() >= 2 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| {
            directories.iter().map(move |root| Path::new(root).join(format!(".build-id/{first}/{rest}.debug")))
        })
    });
    let by_id = by_id.into_iter().flatten().map(|path| (path, None));
    let link = elf.debug_link();
    let by_link = link
        .iter()
        .flat_map(|(name, checksum)| linked(name, &module.path, directories).map(move |path| (path, Some(*checksum))));
    by_id.chain(by_link).find_map(|(path, checksum)| {
        let file = open(&path, max_bytes)?;
        let found = DebugFile { path, file };
        is_of(&found, build_id.as_deref(), checksum).then_some(found)
    })
}

fn linked(name: &str, module: &str, directories: &[&str]) -> impl Iterator<Item = PathBuf> {
    let beside = Path::new(module).parent().filter(|parent| parent.is_absolute()).map(Path::to_path_buf);
    let under = beside.iter().flat_map(|beside| {
        let relative = beside.strip_prefix("/").unwrap_or(beside).to_path_buf();
        directories.iter().map(move |root| Path::new(root).join(&relative))
    });
    let under: Vec<PathBuf> = under.collect();
    let here = beside.into_iter().flat_map(|beside| [beside.join(".debug"), beside]);
    let name = name.to_owned();
    here.chain(under).map(move |directory| directory.join(&name))
}

/// A regular file of fitting size; never waits for the other end of a pipe.
fn open(path: &Path, max_bytes: u64) -> Option<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if metadata.len() > max_bytes {
        tracing::debug!("{}: left alone, since it has {} bytes", path.display(), metadata.len());
    }
    (metadata.is_file() && metadata.len() <= max_bytes).then_some(file)
}

fn is_of(found: &DebugFile, build_id: Option<&str>, checksum: Option<u32>) -> bool {
    let theirs = found.source().ok().and_then(|source| Elf::read(&source).ok()?.build_id());
    match (build_id, theirs) {
        (Some(ours), Some(theirs)) => ours == theirs,
        _ => checksum.is_some_and(|checksum| checksum_of(&found.file) == Some(checksum)),
    }
}

fn checksum_of(mut file: &File) -> Option<u32> {
    if file.metadata().ok()?.len() > MAX_CHECKED_BYTES {
        return None;
    }
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hasher.finalize()),
            read => hasher.update(&buffer[..read]),
        }
    }
}
