//! Where files lie, as the kernel tells it when it meets them: each file with its directory, each directory with the one above it, up to
//! the root of its file system; and where file systems are mounted, as /proc tells it. Files that are closed at once have their paths from
//! here. A path is that of the moment at which the file was met. Bounded: so many directories and mounts; of files the last ones.

use std::sync::Arc;

use tracer_common::memory::{CachedFile, FILE_NAME_BYTES};

use super::hash::FastMap;
use super::paging::report::device_number;
use crate::model::meta::{MountRecord, MountsRecord};
use crate::model::pattern::Pattern;
use crate::model::text::printable;

/// Files kept: so many that were met or asked for last, and up to as many before. The kernel's side keeps as many.
const MAX_FILES: usize = 1 << 14;
/// Directories kept.
const MAX_DIRECTORIES: usize = 1 << 14;
/// Devices of file systems that are told apart where only an inode is known.
const MAX_DEVICES: usize = 64;
/// Processes of which is known what they see mounted, and how many different views.
const MAX_PROCESSES: usize = 4_096;
const MAX_NAMESPACES: usize = 64;
/// A path has no more parts below its mount.
const DEEPEST: usize = 32;

/// A file, or a directory: its device and inode.
pub type Key = (u32, u64);

/// What is known of a file.
#[derive(Clone, Debug)]
pub struct Named {
    /// Who was seen to use it first: thread and process.
    pub by: (u32, u32),
    /// Its size then.
    pub size_bytes: u64,
    /// Inode of its directory; 0: not known.
    pub parent: u64,
    /// By which it is told from others that had its number before; 0: not known.
    pub generation: u32,
    /// The last part of its path; empty: not known. A pattern, if several files were met by its number.
    pub name: Box<str>,
    /// It is such a pattern.
    pub several: bool,
}

struct File {
    named: Arc<Named>,
    used: bool,
}

struct Directory {
    parent: u64,
    name: Box<str>,
}

/// See the file's head.
#[derive(Default)]
pub struct Paths {
    files: FastMap<Key, File>,
    older: FastMap<Key, File>,
    directories: FastMap<Key, Directory>,
    devices: Vec<u32>,
    of_process: FastMap<u32, u64>,
    namespaces: FastMap<u64, Vec<MountRecord>>,
}

fn named(bytes: &[u8; FILE_NAME_BYTES]) -> Box<str> {
    printable(bytes).into()
}

impl Paths {
    /// A file is met. True: it was not known.
    pub fn file(&mut self, event: &CachedFile) -> bool {
        let key = (event.file.device, event.file.inode);
        if self.devices.len() < MAX_DEVICES && !self.devices.contains(&key.0) {
            self.devices.push(key.0);
        }
        // A file is no root: it is not known where it hangs.
        let parent = if event.parent == event.file.inode { 0 } else { event.parent };
        let (by, name, generation) = ((event.tid, event.tgid), named(&event.name), event.file.reserved);
        if let Some(known) = self.refresh(key) {
            let before = &known.named;
            if before.name != name || before.parent != parent {
                let same = before.generation == generation && generation != 0;
                // It may have had no name at hand when it was met first.
                let renamed = same || before.name.is_empty();
                let several = before.several || !renamed;
                let pattern = || [&*before.name, &*name].into_iter().collect::<Pattern>().shown().into();
                let (name, parent) = match several {
                    true if before.parent == parent => (pattern(), parent),
                    true => (pattern(), 0),
                    false => (name, parent),
                };
                known.named = Arc::new(Named { parent, name, several, generation, ..Named::clone(before) });
            }
            return false;
        }
        let named = Named { by, size_bytes: event.size_bytes, parent, generation, name, several: false };
        self.keep(key, File { named: Arc::new(named), used: false });
        true
    }

    fn keep(&mut self, key: Key, file: File) {
        if self.files.len() >= MAX_FILES {
            self.older = std::mem::take(&mut self.files);
        }
        self.files.insert(key, file);
    }

    /// A file that is used once more: it is not among the first to be forgotten.
    fn refresh(&mut self, key: Key) -> Option<&mut File> {
        if !self.files.contains_key(&key) {
            let file = self.older.remove(&key)?;
            self.keep(key, file);
        }
        self.files.get_mut(&key)
    }

    /// A directory is met, which may have another name now than it had before.
    pub fn directory(&mut self, event: &CachedFile) {
        let key = (event.file.device, event.file.inode);
        if self.directories.len() < MAX_DIRECTORIES || self.directories.contains_key(&key) {
            self.directories.insert(key, Directory { parent: event.parent, name: named(&event.name) });
        }
    }

    /// Takes what a process sees mounted.
    pub fn mounts(&mut self, record: &MountsRecord) {
        if self.of_process.len() < MAX_PROCESSES || self.of_process.contains_key(&record.tgid) {
            self.of_process.insert(record.tgid, record.namespace);
        }
        let is_new = !record.mounts.is_empty() && !self.namespaces.contains_key(&record.namespace);
        if is_new && self.namespaces.len() < MAX_NAMESPACES {
            self.namespaces.insert(record.namespace, record.mounts.clone());
        }
    }

    /// What is known of a file that is used, and whether that is so for the first time.
    pub fn used(&mut self, key: Key) -> Option<(Arc<Named>, bool)> {
        let file = self.refresh(key)?;
        Some((Arc::clone(&file.named), !std::mem::replace(&mut file.used, true)))
    }

    fn known(&self, key: Key) -> Option<&Named> {
        self.files.get(&key).or_else(|| self.older.get(&key)).map(|file| &*file.named)
    }

    /// The file with this inode; none where several devices have such a file.
    pub fn only(&self, inode: u64) -> Option<Key> {
        let mut all = self.devices.iter().map(|device| (*device, inode)).filter(|key| self.known(*key).is_some());
        all.next().filter(|_| all.next().is_none())
    }

    /// The directory of the file with this inode.
    pub fn directory_of(&self, inode: u64) -> Option<Key> {
        let key = self.only(inode)?;
        self.known(key).filter(|file| file.parent != 0).map(|file| (key.0, file.parent))
    }

    /// The directory above this one; none: not known, or it is a root.
    pub fn above(&self, key: Key) -> Option<Key> {
        let directory = self.directories.get(&key)?;
        let above = (key.0, directory.parent);
        (above.1 != 0 && above != key).then_some(above)
    }

    /// The last part of a directory's path.
    pub fn directory_name(&self, key: Key) -> Option<&str> {
        self.directories.get(&key).map(|directory| &*directory.name)
    }

    /// Path of a file, as one of these processes sees it or any; none where a part of it is not known.
    pub fn path_of(&self, key: Key, processes: &[u32]) -> Option<String> {
        self.path_of_named(key.0, self.known(key)?, processes)
    }

    /// The same of a file on this device of which so much is known.
    pub fn path_of_named(&self, device: u32, file: &Named, processes: &[u32]) -> Option<String> {
        let is_known = file.parent != 0 && !file.name.is_empty();
        let directory = is_known.then(|| self.directory_path((device, file.parent), processes)).flatten()?;
        Some(join(&directory, &file.name))
    }

    /// Whether several files were met by its number: they were made one after the other.
    pub fn is_several(&self, key: Key) -> bool {
        self.known(key).is_some_and(|file| file.several)
    }

    /// The last part of a file's path.
    pub fn name_of(&self, key: Key) -> Option<&str> {
        self.known(key).map(|file| &*file.name).filter(|name| !name.is_empty())
    }

    /// The same of a directory.
    pub fn directory_path(&self, key: Key, processes: &[u32]) -> Option<String> {
        let inside = self.inside(key)?;
        let device = device_number(key.0);
        let own = processes.iter().filter_map(|tgid| self.of_process.get(tgid));
        let tracers = self.of_process.get(&0);
        let mut others: Vec<&u64> = self.namespaces.keys().collect();
        others.sort_unstable();
        own.chain(tracers).chain(others).find_map(|namespace| seen(self.namespaces.get(namespace)?, &device, &inside))
    }

    /// Path inside of the file system.
    fn inside(&self, key: Key) -> Option<String> {
        let (mut parts, mut at) = (Vec::new(), key);
        loop {
            let directory = self.directories.get(&at)?;
            if directory.parent == at.1 {
                break;
            }
            if directory.parent == 0 || parts.len() >= DEEPEST {
                return None;
            }
            parts.push(&*directory.name);
            at = (at.0, directory.parent);
        }
        parts.push("");
        parts.reverse();
        Some(if parts.len() == 1 { "/".to_owned() } else { parts.join("/") })
    }
}

/// A path with one more part.
pub fn join(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

/// Where a path of this device's file system is seen: by the mount that leads to the nearest directory above it.
fn seen(mounts: &[MountRecord], device: &str, inside: &str) -> Option<String> {
    let rest = |mount: &MountRecord| {
        let rest = inside.strip_prefix(mount.root.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then(|| rest.to_owned())
    };
    let fitting = mounts.iter().filter(|mount| mount.device == device);
    let found = fitting.filter_map(|mount| Some((mount, rest(mount)?)));
    // Of several that are as near, the first.
    let (mount, rest) = found.reduce(|a, b| if b.1.len() < a.1.len() { b } else { a })?;
    let path = format!("{}{}", mount.mounted_on.trim_end_matches('/'), rest.trim_end_matches('/'));
    Some(if path.is_empty() { "/".to_owned() } else { path })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_common::memory::FileKey;
    use tracer_common::record::block;

    const DISK: u32 = 254 << 20;

    fn entry(inode: u64, parent: u64, text: &str) -> CachedFile {
        crate::testing::met(block::FILE, 1, inode, parent, text)
    }

    fn mount(root: &str, mounted_on: &str) -> MountRecord {
        MountRecord { device: "254:0".to_owned(), root: root.to_owned(), mounted_on: mounted_on.to_owned() }
    }

    /// `/`, `/data`, `/data/train`, and a file in it.
    fn known() -> Paths {
        let mut paths = Paths::default();
        for (inode, parent, name) in [(5, 4, "train"), (4, 2, "data"), (2, 2, "/")] {
            paths.directory(&entry(inode, parent, name));
        }
        assert!(paths.file(&entry(9, 5, "a.jpg")) && !paths.file(&entry(9, 5, "a.jpg")), "met twice");
        paths
    }

    #[test]
    fn a_file_has_the_path_that_its_process_sees() {
        let mut paths = known();
        let key = (DISK, 9);
        assert_eq!(paths.path_of(key, &[10]), None, "nothing is known to be mounted");
        let mut mounted = |tgid, namespace, mounts| paths.mounts(&MountsRecord { tgid, namespace, mounts });
        mounted(0, 1, vec![mount("/", "/mnt/disk"), mount("/dat", "/no")]);
        mounted(10, 2, vec![mount("/elsewhere", "/e"), mount("/data", "/in"), mount("/data", "/again")]);
        mounted(11, 2, Vec::new());
        mounted(12, 3, vec![mount("/elsewhere", "/e")]);
        assert_eq!(paths.path_of(key, &[10]).as_deref(), Some("/in/train/a.jpg"), "a directory is mounted there");
        assert_eq!(paths.path_of(key, &[11]).as_deref(), Some("/in/train/a.jpg"), "the same view");
        assert_eq!(paths.path_of(key, &[12]).as_deref(), Some("/mnt/disk/data/train/a.jpg"), "it does not see it");
        assert_eq!(paths.path_of(key, &[]).as_deref(), Some("/mnt/disk/data/train/a.jpg"));
        assert_eq!(paths.directory_path((DISK, 2), &[]).as_deref(), Some("/mnt/disk"));
        assert_eq!(paths.path_of((DISK + 1, 9), &[10]), None, "another device");
    }

    #[test]
    fn what_is_not_known_has_no_path_and_loops_end() {
        let mut paths = known();
        paths.mounts(&MountsRecord { tgid: 0, namespace: 1, mounts: vec![mount("/", "/")] });
        assert_eq!(paths.path_of((DISK, 9), &[]).as_deref(), Some("/data/train/a.jpg"));
        assert_eq!(paths.directory_path((DISK, 2), &[]).as_deref(), Some("/"));
        paths.file(&entry(10, 77, "lost"));
        paths.file(&entry(11, 0, "nowhere"));
        paths.file(&entry(12, 12, "own"));
        for inode in [10, 11, 12, 13] {
            assert_eq!(paths.path_of((DISK, inode), &[]), None);
        }
        // Damaged records.
        paths.directory(&entry(20, 21, "a"));
        paths.directory(&entry(21, 20, "b"));
        paths.file(&entry(22, 20, "c"));
        assert_eq!(paths.path_of((DISK, 22), &[]), None);
        // Another file has its number, and then one elsewhere.
        paths.file(&entry(9, 5, "b.jpg"));
        assert!(!paths.is_several((DISK, 10)) && paths.is_several((DISK, 9)));
        assert_eq!(paths.path_of((DISK, 9), &[]).as_deref(), Some("/data/train/*.jpg"));
        paths.file(&entry(9, 4, "c.jpg"));
        assert_eq!((paths.path_of((DISK, 9), &[]), paths.name_of((DISK, 9))), (None, Some("*.jpg")));
        // It is renamed, and moved.
        let renamed = |name: &str, parent: u64| {
            let file = FileKey { inode: 23, device: DISK, reserved: 7 };
            CachedFile { file, ..entry(23, parent, name) }
        };
        for (name, parent, path) in
            [("tmp3", 5, "/data/train/tmp3"), ("e", 5, "/data/train/e"), ("d.jpg", 4, "/data/d.jpg")]
        {
            paths.file(&renamed(name, parent));
            assert_eq!(paths.path_of((DISK, 23), &[]).as_deref(), Some(path));
        }
        assert!(!paths.is_several((DISK, 23)));
        paths.file(&renamed("d.jpg", 5));
        // It was moved.
        paths.directory(&entry(4, 2, "moved"));
        assert_eq!(paths.path_of((DISK, 23), &[]).as_deref(), Some("/moved/train/d.jpg"));
    }

    #[test]
    fn files_that_are_used_are_kept_and_an_inode_alone_tells_only_one() {
        let mut paths = known();
        for inode in 0..3 * MAX_FILES as u64 {
            paths.file(&entry(100 + inode, 5, "x"));
            assert!(paths.used((DISK, 9)).is_some_and(|(file, _)| &*file.name == "a.jpg"));
        }
        assert!(paths.used((DISK, 100)).is_none(), "forgotten");
        assert!(paths.files.len() <= MAX_FILES && paths.older.len() <= MAX_FILES);
        assert_eq!(paths.only(9), Some((DISK, 9)));
        let other = FileKey { inode: 9, device: DISK + 1, reserved: 0 };
        paths.file(&CachedFile { file: other, ..entry(9, 5, "b.jpg") });
        assert_eq!(paths.only(9), None, "two have it");
    }
}
