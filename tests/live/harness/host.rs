//! What tests need of the host: a cgroup of their own, and the time that others took from its CPUs.

use std::path::{Path, PathBuf};

/// Seconds of all CPUs together since boot, by the columns of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal.
fn cpu_columns_s() -> Vec<f64> {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    // SAFETY: sysconf has no preconditions.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    let columns = stat.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1);
    columns.filter_map(|column| column.parse::<f64>().ok()).map(|column| column / ticks).collect()
}

/// CPU time since boot that went to the hypervisor's other guests or to interrupts. The kernel takes it off its own account of a
/// thread's CPU time; a tracer of context switches does not see it.
pub fn stolen_s() -> f64 {
    cpu_columns_s().get(5..8).map_or(0.0, |taken| taken.iter().sum())
}

/// CPU time since boot that threads used, and that of this process and all it has started and seen the end of.
pub fn busy_and_own_s() -> (f64, f64) {
    let busy = cpu_columns_s().get(..3).map_or(0.0, |busy| busy.iter().sum());
    let used = |who| {
        // SAFETY: plain numbers, which the call fills.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the call writes one struct, which is there.
        unsafe { libc::getrusage(who, &raw mut usage) };
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        seconds(usage.ru_utime) + seconds(usage.ru_stime)
    };
    (busy, used(libc::RUSAGE_SELF) + used(libc::RUSAGE_CHILDREN))
}

/// Where tracefs is mounted.
pub fn tracefs() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = fields.into_iter().find(|fields| fields.get(2) == Some(&"tracefs"))?;
    Some(PathBuf::from(mount[1]))
}

/// Whether the running kernel is of this version or a later one: up to 6.1 code in which memory is first touched is unknown, for instance.
pub fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

/// Removes a cgroup, whose processes may still be about to end.
pub fn remove_cgroup(folder: &Path) {
    for _ in 0..200 {
        if std::fs::remove_dir(folder).is_ok() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
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
        remove_cgroup(&self.folder);
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

/// A cgroup under the CPU controller, version 1 or 2, with children; all removed at the end.
pub struct CpuCgroup {
    folder: PathBuf,
    path: String,
    unified: bool,
}

impl CpuCgroup {
    /// A new one; none, with a word why, where this host has no CPU controller.
    pub fn new() -> Option<Self> {
        let Some((root, unified)) = cpu_root() else {
            eprintln!("not tested: no hierarchy with the CPU controller is mounted here");
            return None;
        };
        if unified {
            // Children have the controller only if their parent says so; fails where it does already in another way.
            let _ = std::fs::write(root.join("cgroup.subtree_control"), "+cpu");
        }
        let path = format!("/live-cpu-{}-{}", std::process::id(), fastrand::u32(..));
        let folder = root.join(&path[1..]);
        std::fs::create_dir(&folder).unwrap_or_else(|error| panic!("cannot make cgroup {}: {error}", folder.display()));
        Some(CpuCgroup { folder, path, unified })
    }

    /// Lets it use so many CPUs.
    pub fn set_quota(&self, cpus: f64) {
        let quota_us = (cpus * 100_000.0) as u64;
        let (file, text) = if self.unified {
            ("cpu.max", format!("{quota_us} 100000"))
        } else {
            ("cpu.cfs_quota_us", quota_us.to_string())
        };
        let file = self.folder.join(file);
        std::fs::write(&file, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
    }

    /// A child without a quota of its own.
    pub fn child(&self) -> PathBuf {
        let child = self.folder.join("inner");
        std::fs::create_dir(&child).unwrap_or_else(|error| panic!("cannot make cgroup {}: {error}", child.display()));
        child
    }

    /// Its path within the hierarchy.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The kernel's own count of the time for which it was held back.
    pub fn throttled_s(&self) -> f64 {
        let stat = std::fs::read_to_string(self.folder.join("cpu.stat")).expect("a cgroup with the CPU controller");
        let value =
            |key: &str| -> Option<f64> { stat.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok()) };
        value("throttled_time ").map(|ns| ns / 1e9).or(value("throttled_usec ").map(|us| us / 1e6)).expect("a counter")
    }
}

impl Drop for CpuCgroup {
    fn drop(&mut self) {
        for _ in 0..200 {
            let _ = std::fs::remove_dir(self.folder.join("inner"));
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Where the hierarchy with the CPU controller is mounted, and whether it is the unified one.
fn cpu_root() -> Option<(PathBuf, bool)> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    let fields = || mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let first = fields().find(|f| f[2] == "cgroup" && f[3].split(',').any(|option| option == "cpu"));
    if let Some(first) = first {
        return Some((PathBuf::from(first[1]), false));
    }
    let unified = PathBuf::from(fields().find(|f| f[2] == "cgroup2")?[1]);
    let controllers = std::fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
    controllers.split_whitespace().any(|name| name == "cpu").then_some((unified, true))
}
