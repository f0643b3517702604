//! All files with code that were seen in a run, each once, whichever processes map it. Bounded: [`MAX_MODULES`] modules, of which
//! [`MAX_OPEN_FILES`] with their bytes; what comes beyond is counted, and says so in its image. Not here: reading /proc/PID/maps.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

use super::maps::MapsLine;
use super::open::{self, Handle, NoHandle};
use super::patience::Patience;
use super::{Backing, Bytes, Image, Module, ModuleId, elf};
use crate::kernel::file_map::FileMap;
use crate::kernel::mounts::Mounts;
use crate::kernel::status::Status;
use crate::model::objects::FileSystem;
use crate::model::text::printable;

/// Most modules of a run. All further files share one module without an image.
pub const MAX_MODULES: usize = 16_384;
/// Most modules whose bytes are at hand.
pub const MAX_OPEN_FILES: usize = 4096;
/// Largest vdso that is copied. Real ones have 8 KiB.
const MAX_VDSO_BYTES: u64 = 64 << 10;

/// What tells one file from another. A file that is written over in place with its size and time put back passes for the same.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    File {
        device: (u32, u32),
        inode: u64,
        len_bytes: u64,
        mtime_ns: i128,
    },
    /// One that could not be looked at: by what the line says.
    Closed {
        device: (u32, u32),
        inode: u64,
        name: Box<[u8]>,
    },
    /// Copied memory: by its content.
    Vdso(Arc<[u8]>),
    /// Everything beyond the limit.
    Beyond,
}

/// The modules of a run.
#[derive(Debug, Default)]
pub struct Modules {
    by_key: HashMap<Key, Arc<Module>>,
    all: Vec<Arc<Module>>,
    with_image: usize,
    beyond_limit: u64,
    mounts: Mounts,
    patience: Patience,
}

impl Modules {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every module, by its number.
    pub fn all(&self) -> &[Arc<Module>] {
        &self.all
    }

    /// The module with this number.
    pub fn get(&self, id: ModuleId) -> Option<&Arc<Module>> {
        self.all.get(id.0 as usize)
    }

    /// Files that came when a limit was reached: no bytes of theirs are at hand.
    pub fn beyond_limit(&self) -> u64 {
        self.beyond_limit
    }

    /// What lies behind this line of the process's maps.
    pub(super) fn backing(&mut self, pid: u32, line: &MapsLine<'_>) -> Backing {
        if line.inode == 0 && line.name == b"[vdso]" {
            return Backing::Module(self.vdso(pid, line));
        }
        if !line.is_file() {
            return Backing::Anonymous(printable(line.name));
        }
        let far = self.mounts.of_mapped(pid, line.device).filter(FileSystem::is_far);
        let handle = match open::hold(pid, line, far.as_ref(), &mut self.patience) {
            Ok(handle) => Arc::new(handle),
            // Code in a device's memory is of no file that could be read.
            Err(NoHandle::NotRegular) => return Backing::Anonymous(printable(line.name)),
            Err(NoHandle::Failed(reason)) => return Backing::Module(self.closed(line, reason)),
        };
        let Status { device, inode, len_bytes, mtime_ns, .. } = handle.status;
        let key = Key::File { device, inode, len_bytes, mtime_ns };
        if let Some(module) = self.by_key.get(&key) {
            return Backing::Module(module.clone());
        }
        match self.load(&handle, far.as_ref()) {
            Ok((file, image, build_id)) => self.with_file(key, line, &handle, far, (file, image, build_id)),
            Err(_) if is_memory(line) => Backing::Anonymous(printable(line.name)),
            Err(reason) => {
                let (path, deleted) = path_of(line, Some(&*handle));
                Backing::Module(self.add(key, |id| module(id, path, deleted, Err(reason))))
            }
        }
    }

    fn with_file(
        &mut self,
        key: Key,
        line: &MapsLine<'_>,
        handle: &Handle,
        far: Option<FileSystem>,
        (file, image, build_id): (Option<File>, Image, Option<String>),
    ) -> Backing {
        let (path, deleted) = path_of(line, Some(handle));
        self.with_image += 1;
        Backing::Module(self.add(key, |id| Module {
            open_path: file.as_ref().map(|file| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))),
            build_id,
            far,
            file: file.map(Arc::new),
            ..module(id, path, deleted, Ok(image))
        }))
    }

    /// Maps a file and reads its headers. No descriptor is kept where they run out.
    fn load(
        &mut self,
        handle: &Arc<Handle>,
        far: Option<&FileSystem>,
    ) -> Result<(Option<File>, Image, Option<String>), String> {
        if self.with_image >= MAX_OPEN_FILES {
            self.beyond_limit += 1;
            return Err(format!("more than {MAX_OPEN_FILES} files have been opened"));
        }
        if handle.status.len_bytes == 0 {
            return Err("the file is empty".to_owned());
        }
        let held = handle.clone();
        let (file, image, build_id) = self.patience.on(far, move || read(&held))??;
        Ok((descriptors_left(&file).then_some(file), image, build_id))
    }

    fn vdso(&mut self, pid: u32, line: &MapsLine<'_>) -> Arc<Module> {
        let len_bytes = (line.end - line.start).min(MAX_VDSO_BYTES);
        let mut bytes = vec![0; usize::try_from(len_bytes).unwrap_or(0)];
        let read =
            File::open(format!("/proc/{pid}/mem")).and_then(|memory| memory.read_exact_at(&mut bytes, line.start));
        if let Err(error) = read {
            return self.closed(line, format!("cannot be copied from the process's memory: {error}"));
        }
        let bytes: Arc<[u8]> = bytes.into();
        let key = Key::Vdso(bytes.clone());
        if let Some(module) = self.by_key.get(&key) {
            return module.clone();
        }
        let (image, build_id) = match image(Bytes::Owned(bytes)) {
            Ok((image, build_id)) => (Ok(image), build_id),
            Err(reason) => (Err(reason), None),
        };
        self.add(key, |id| Module { build_id, ..module(id, "[vdso]".to_owned(), false, image) })
    }

    /// A module without an image, for a file that could not be looked at.
    fn closed(&mut self, line: &MapsLine<'_>, reason: String) -> Arc<Module> {
        let key = Key::Closed { device: line.device, inode: line.inode, name: line.name.into() };
        if let Some(module) = self.by_key.get(&key) {
            return module.clone();
        }
        let (path, deleted) = path_of(line, None);
        self.add(key, |id| module(id, path, deleted, Err(reason)))
    }

    fn add(&mut self, key: Key, make: impl FnOnce(ModuleId) -> Module) -> Arc<Module> {
        let id = ModuleId(u32::try_from(self.all.len()).unwrap_or(u32::MAX));
        if self.all.len() < MAX_MODULES - 1 {
            return self.insert(key, make(id));
        }
        self.beyond_limit += 1;
        if let Some(module) = self.by_key.get(&Key::Beyond) {
            return module.clone();
        }
        let reason = Err(format!("more than {MAX_MODULES} files have been seen"));
        self.insert(Key::Beyond, module(id, "[further files]".to_owned(), false, reason))
    }

    fn insert(&mut self, key: Key, module: Module) -> Arc<Module> {
        let module = Arc::new(module);
        self.all.push(module.clone());
        self.by_key.insert(key, module.clone());
        module
    }
}

fn read(handle: &Handle) -> Result<(File, Image, Option<String>), String> {
    let file = handle.open().map_err(|error| format!("cannot be opened: {error}"))?;
    let mut magic = [0; 4];
    // Read, not mapped: most files that are no ELF file end here.
    if file.read_at(&mut magic, 0).map_err(|error| format!("cannot be read: {error}"))? < 4 || magic != *b"\x7fELF" {
        return Err("not an ELF file".to_owned());
    }
    let map = FileMap::new(&file).map_err(|error| format!("cannot be mapped: {error}"))?;
    let (image, build_id) = image(Bytes::Mapped(Arc::new(map)))?;
    Ok((file, image, build_id))
}

fn module(id: ModuleId, path: String, deleted: bool, image: Result<Image, String>) -> Module {
    Module { id, path, open_path: None, build_id: None, deleted, image, far: None, file: None }
}

/// Reads the headers of these bytes.
pub(super) fn image(bytes: Bytes) -> Result<(Image, Option<String>), String> {
    let headers = elf::headers(&bytes)?;
    let elf::Headers { segments, entry, machine, is_64, build_id } = headers;
    Ok((Image { bytes, segments, entry, machine, is_64 }, build_id))
}

/// Shared memory, which has a file only in name.
fn is_memory(line: &MapsLine<'_>) -> bool {
    ["/memfd:", "/dev/zero", "/dev/shm/", "/SYSV", "/anon_hugepage"]
        .iter()
        .any(|start| line.name.starts_with(start.as_bytes()))
}

/// Half of the descriptors that this process may have are left to others.
fn descriptors_left(file: &File) -> bool {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let (soft, _) = limit.unwrap_or((1024, 1024));
    u64::try_from(file.as_raw_fd()).is_ok_and(|number| number < soft / 2)
}

/// The printable path, and whether the file has lost its name.
fn path_of(line: &MapsLine<'_>, handle: Option<&Handle>) -> (String, bool) {
    let (path, marked) = line.path();
    // The mark may be a part of the name: a file that still has all its names and is called so.
    let deleted = marked && handle.is_none_or(|handle| handle.status.links == 0 || !has_name(line));
    if deleted { (printable(&path), true) } else { (printable(&super::maps::unescape(line.name)), false) }
}

/// Whether this very name, mark included, leads to the file that the line means. For the tracer's own mount namespace only.
fn has_name(line: &MapsLine<'_>) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let path = super::maps::unescape(line.name);
    std::fs::symlink_metadata(std::ffi::OsStr::from_bytes(&path)).is_ok_and(|metadata| metadata.ino() == line.inode)
}
