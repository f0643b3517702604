//! The address spaces of live processes and the files mapped into them: what an address belongs to, and the file's bytes.
//!
//! Files are opened through /proc/PID/map_files, so a deleted or replaced file, and one of another mount namespace, is the one
//! that is mapped. A module stays open and mapped once it was seen: it outlives the process. Not here: what its bytes mean for
//! unwinding (`unwind`) or naming (`symbol`).
//!
//! Files: `maps` reads the text of /proc/PID/maps, `open` opens what a line of it names, `elf` reads program headers, `registry`
//! holds all modules of a run, `space` puts them together.

mod elf;
mod maps;
mod open;
pub mod patience;
mod registry;
mod space;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc};

pub use maps::{MapsLine, Permissions};
pub use registry::{MAX_MODULES, MAX_OPEN_FILES, Modules};
pub use space::{MAX_MAPPINGS, SpaceError};

/// Number of a module within this run; the number of its MODULE record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleId(pub u32);

/// A file with code.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its number.
    pub id: ModuleId,
    /// Path as the process that showed it first saw it, printable; `[vdso]` for the kernel's page.
    pub path: String,
    /// Another way to the same file, that works while this module lives: `/proc/self/fd/N`. None for the vdso, and for a file
    /// that came when no more descriptors were to be had (its bytes are still there).
    pub open_path: Option<PathBuf>,
    /// Build id in hexadecimal.
    pub build_id: Option<String>,
    /// It had no name any more.
    pub deleted: bool,
    /// The file's bytes, or why there are none.
    pub image: Result<Image, String>,
    /// Its file system, where that lies elsewhere: another machine, or a process, answers for it and may not.
    pub far: Option<crate::model::objects::FileSystem>,
    /// Keeps `open_path` working.
    file: Option<Arc<std::fs::File>>,
}

impl Module {
    /// A file that is only to be named from: its bytes are not looked at, and no process maps it.
    pub fn of_file(id: ModuleId, path: PathBuf) -> Self {
        Module {
            id,
            path: crate::model::text::printable(path.as_os_str().as_encoded_bytes()),
            open_path: Some(path),
            build_id: None,
            deleted: false,
            image: Err("not looked at".to_owned()),
            far: None,
            file: None,
        }
    }

    /// The open file, where a descriptor is kept: what `open_path` leads to.
    pub fn file(&self) -> Option<&std::fs::File> {
        self.file.as_deref()
    }
}

/// The bytes of a file.
#[derive(Clone, Debug)]
pub struct Image {
    /// All of it: a private read-only mapping, or a copy (vdso).
    pub bytes: Bytes,
    /// Loadable segments, in the file's order; at most 256.
    pub segments: Vec<Segment>,
    /// Where it begins to run, in its own numbering of addresses; 0: nowhere.
    pub entry: u64,
    /// ELF machine number: 62 for x86-64, 183 for aarch64.
    pub machine: u16,
    /// A 64-bit file.
    pub is_64: bool,
}

/// See [`Image`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts in the file.
    pub offset: u64,
    /// Where it starts in the file's own numbering of addresses.
    pub address: u64,
    /// Bytes in the file.
    pub len_bytes: u64,
    /// Holds code.
    pub executable: bool,
}

/// Bytes that live as long as they are used.
#[derive(Clone, Debug)]
pub enum Bytes {
    /// A mapped file. Where it is shortened later, zeros are read, see [`crate::kernel::file_map`].
    Mapped(Arc<crate::kernel::file_map::FileMap>),
    /// A copy.
    Owned(Arc<[u8]>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// What lies behind a mapping.
#[derive(Clone, Debug)]
pub enum Backing {
    /// A file.
    Module(Arc<Module>),
    /// No file with code: memory of the process. The name that /proc gives it, if any (`[heap]`, `[anon:...]`, `/memfd:...`).
    Anonymous(String),
}

/// A range of a process's addresses.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Where in the file it starts.
    pub offset: u64,
    /// May be executed.
    pub executable: bool,
    /// What is behind it.
    pub backing: Backing,
}

/// All mappings of a process that matter, sorted by address.
#[derive(Clone, Debug, Default)]
pub struct AddressSpace {
    /// Sorted, without overlap. Executable ones, and those of files that have executable ones.
    pub mappings: Vec<Mapping>,
    /// There were more than [`MAX_MAPPINGS`]; the rest is missing.
    pub cut: bool,
}

/// For tests of others: headers of these bytes.
#[cfg(test)]
pub fn test_image(bytes: Bytes) -> Result<(Image, Option<String>), String> {
    registry::image(bytes)
}

/// For tests of others: a module with this image.
#[cfg(test)]
pub fn test_module(image: Result<Image, String>) -> Module {
    let path = "/a/file".to_owned();
    Module { id: ModuleId(0), path, open_path: None, build_id: None, deleted: false, image, far: None, file: None }
}
