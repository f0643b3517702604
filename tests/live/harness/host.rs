//! What tests need of the host: a cgroup of their own, and the time that others took from its CPUs.

use std::path::{Path, PathBuf};

/// CPU time since boot that went to the hypervisor's other guests or to interrupts. The kernel takes it off its own account of a
/// thread's CPU time; a tracer of context switches does not see it.
pub fn stolen_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .skip(1)
        .filter_map(|n| n.parse().ok())
        .collect();
    // SAFETY: sysconf has no preconditions.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    // irq, softirq, steal
    fields.get(5..8).map_or(0.0, |taken| taken.iter().sum::<f64>() / ticks)
}

/// A cgroup, removed at the end. In the unified hierarchy where there is one, else in one of version 1.
pub struct Cgroup {
    folder: PathBuf,
    path: String,
    unified: bool,
}

impl Cgroup {
    /// A new cgroup with a random name.
    pub fn new() -> Self {
        let (root, unified) = root();
        let path = format!("/live-{}-{}", std::process::id(), fastrand::u32(..));
        let folder = root.join(&path[1..]);
        std::fs::create_dir(&folder).unwrap_or_else(|error| panic!("cannot make cgroup {}: {error}", folder.display()));
        Cgroup { folder, path, unified }
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

    /// Moves a process into it.
    pub fn add(&self, pid: u32) {
        let procs = self.folder.join("cgroup.procs");
        std::fs::write(&procs, pid.to_string())
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", procs.display()));
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes may still be about to end.
        for _ in 0..200 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Where the hierarchy is mounted, and whether it is the unified one.
fn root() -> (PathBuf, bool) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    let of_type = |wanted: &str| {
        let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        fields.find(|fields| fields.get(2) == Some(&wanted)).map(|fields| PathBuf::from(fields[1]))
    };
    match (of_type("cgroup2"), of_type("cgroup")) {
        (Some(root), _) => (root, true),
        (None, Some(root)) => (root, false),
        (None, None) => panic!("no cgroup hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup"),
    }
}
