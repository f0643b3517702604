//! A memory cgroup of a test's own.

use std::path::{Path, PathBuf};

/// A cgroup under the memory controller, version 1 or 2, with a limit; removed at the end.
pub struct MemoryCgroup {
    folder: PathBuf,
    path: String,
    unified: bool,
}

/// Where the hierarchy with the memory controller is mounted, and whether it is the unified one.
fn root() -> Option<(PathBuf, bool)> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    let fields: Vec<Vec<&str>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
    let legacy = fields.iter().find(|fields| {
        fields.get(2) == Some(&"cgroup")
            && fields.get(3).is_some_and(|options| options.split(',').any(|o| o == "memory"))
    });
    if let Some(mount) = legacy {
        return Some((PathBuf::from(mount[1]), false));
    }
    let unified =
        fields.iter().find(|fields| fields.get(2) == Some(&"cgroup2")).map(|fields| PathBuf::from(fields[1]))?;
    let controllers = std::fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
    controllers.split_whitespace().any(|controller| controller == "memory").then_some((unified, true))
}

impl MemoryCgroup {
    /// A new one with this limit; none, with a word why, where this host has no memory controller.
    pub fn new(limit_bytes: u64) -> Option<Self> {
        let Some((root, unified)) = root() else {
            eprintln!("not tested: no hierarchy with the memory controller is mounted here");
            return None;
        };
        if unified {
            // Children have the controller only if their parent says so; fails where it does already in another way.
            let _ = std::fs::write(root.join("cgroup.subtree_control"), "+memory");
        }
        let path = format!("/live-memory-{}-{}", std::process::id(), fastrand::u32(..));
        let folder = root.join(&path[1..]);
        std::fs::create_dir(&folder).unwrap_or_else(|error| panic!("cannot make cgroup {}: {error}", folder.display()));
        let cgroup = MemoryCgroup { folder, path, unified };
        cgroup.write(if unified { "memory.max" } else { "memory.limit_in_bytes" }, &limit_bytes.to_string());
        Some(cgroup)
    }

    /// The same, but where it is of version 2 it may have more for a moment: the kernel makes it free what is over, and kills nobody.
    pub fn soft(limit_bytes: u64) -> Option<Self> {
        let cgroup = Self::new(limit_bytes)?;
        if cgroup.unified {
            cgroup.write("memory.high", &limit_bytes.to_string());
            cgroup.write("memory.max", "max");
        }
        Some(cgroup)
    }

    fn write(&self, file: &str, text: &str) {
        let file = self.folder.join(file);
        std::fs::write(&file, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its path within the hierarchy.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it is of version 2.
    pub fn is_unified(&self) -> bool {
        self.unified
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        super::host::remove_cgroup(&self.folder);
    }
}
