//! What the kernel counts of CPU time: cgroups with a quota, of version 1 and 2, and the host's CPUs. Reads; decides nothing. What
//! is gone or cannot be read is not there.

use std::path::PathBuf;

use super::proc;
use crate::model::meta::{CgroupCpu, CpuTimes};

/// The hierarchy with the CPU controller, where it is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    folder: PathBuf,
    /// The cgroup that the mount shows as its root.
    root: String,
    unified: bool,
}

impl Controller {
    /// The one of this host; none where it is not mounted.
    pub fn find() -> Option<Self> {
        let (folder, root, unified) = mount_of("cpu")?;
        Some(Controller { folder, root, unified })
    }

    /// The path of a thread's cgroup in this hierarchy.
    pub fn path_of(&self, tid: u32) -> Option<String> {
        path_of(tid, "cpu", self.unified)
    }

    /// The quota of a cgroup with its counters; none where it has no quota.
    pub fn quota(&self, path: &str) -> Option<CgroupCpu> {
        let below = if self.root == "/" { path } else { path.strip_prefix(self.root.as_str())? };
        let folder = self.folder.join(below.trim_start_matches('/'));
        let text = |name: &str| {
            let bytes = proc::read(folder.join(name).to_str()?)?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        let (quota_us, period_us) = if self.unified {
            limit(&text("cpu.max")?)?
        } else {
            let quota_us = text("cpu.cfs_quota_us")?.trim().parse().ok()?;
            (quota_us, text("cpu.cfs_period_us")?.trim().parse().ok()?)
        };
        let mut cgroup = CgroupCpu {
            path: path.to_owned(),
            quota_ns: u64::saturating_mul(quota_us, 1000),
            period_ns: u64::saturating_mul(period_us, 1000),
            ..CgroupCpu::default()
        };
        count(&text("cpu.stat")?, &mut cgroup);
        Some(cgroup)
    }
}

/// Where the hierarchy with a controller is mounted, the cgroup that the mount shows as its root, and whether it is the unified one.
pub(super) fn mount_of(controller: &str) -> Option<(PathBuf, String, bool)> {
    mount_among(&String::from_utf8_lossy(&proc::read("/proc/self/mountinfo")?), controller)
}

/// The one in a text like /proc/self/mountinfo: of version 1 if there is one, since then the unified hierarchy lacks it.
fn mount_among(mountinfo: &str, controller: &str) -> Option<(PathBuf, String, bool)> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, folder) = (fields.next()?, fields.next()?);
        let mut kind = kind.split(' ');
        let (kind, options) = (kind.next()?, kind.nth(1)?);
        let unified = match kind {
            "cgroup" if options.split(',').any(|option| option == controller) => false,
            "cgroup2" => true,
            _ => return None,
        };
        // Blanks in paths are escaped; no host mounts cgroups at such a path.
        Some((PathBuf::from(folder), root.to_owned(), unified))
    });
    mounts.min_by_key(|(_, _, unified)| *unified)
}

/// The path of a thread's cgroup in the hierarchy with a controller.
pub(super) fn path_of(tid: u32, controller: &str, unified: bool) -> Option<String> {
    let text = proc::read(&format!("/proc/{tid}/cgroup"))?;
    path_in(&String::from_utf8_lossy(&text), controller, unified).map(str::to_owned)
}

fn path_in<'a>(cgroups: &'a str, controller: &str, unified: bool) -> Option<&'a str> {
    cgroups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let ours = if unified { hierarchy == "0" } else { controllers.split(',').any(|name| name == controller) };
        // A path with `..` lies outside of the tracer's own cgroup namespace.
        (ours && path.starts_with('/') && !path.split('/').any(|part| part == "..")).then_some(path)
    })
}

/// Quota and period in microseconds, of version 2's `cpu.max`; none without a limit.
fn limit(text: &str) -> Option<(u64, u64)> {
    let (quota, period) = text.trim().split_once(' ')?;
    Some((quota.parse().ok()?, period.parse().ok()?))
}

/// The counters of `cpu.stat`, of either version.
fn count(text: &str, cgroup: &mut CgroupCpu) {
    for line in text.lines() {
        let Some((key, value)) = line.split_once(' ') else { continue };
        let Ok(value) = value.trim().parse::<u64>() else { continue };
        match key {
            "nr_periods" => cgroup.periods = value,
            "nr_throttled" => cgroup.throttled_periods = value,
            "throttled_time" => cgroup.throttled_ns = value,
            "throttled_usec" => cgroup.throttled_ns = value.saturating_mul(1000),
            _ => {}
        }
    }
}

/// The ancestors of a cgroup and itself, the root first.
pub fn with_ancestors(path: &str) -> Vec<String> {
    let mut all = vec!["/".to_owned()];
    let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
    all.extend(ends.filter_map(|end| path.get(..end)).filter(|path| path.len() > 1).map(str::to_owned));
    all
}

/// What each of the host's CPUs did since boot.
pub fn host_cpus() -> Vec<CpuTimes> {
    let text = proc::read("/proc/stat").unwrap_or_default();
    cpus_in(&String::from_utf8_lossy(&text), 1_000_000_000 / proc::ticks_per_second())
}

fn cpus_in(stat: &str, tick_ns: u64) -> Vec<CpuTimes> {
    let row = |line: &str| {
        let mut fields = line.strip_prefix("cpu")?.split_ascii_whitespace();
        let cpu = fields.next()?.parse().ok()?;
        let ticks: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
        let ns = |position: usize| ticks.get(position).copied().unwrap_or(0).saturating_mul(tick_ns);
        Some(CpuTimes {
            cpu,
            // user, nice, system
            busy_ns: ns(0).saturating_add(ns(1)).saturating_add(ns(2)),
            // idle, iowait
            idle_ns: ns(3).saturating_add(ns(4)),
            irq_ns: ns(5),
            softirq_ns: ns(6),
            steal_ns: ns(7),
        })
    };
    // The first line sums up all CPUs: no number follows its word.
    stat.lines()
        .take_while(|line| line.starts_with("cpu"))
        .filter(|line| !line.starts_with("cpu "))
        .filter_map(row)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "30 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        31 25 0:27 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
        32 25 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n";

    #[test]
    fn version_1_is_taken_where_it_has_the_controller() {
        let found = mount_among(V1, "cpu").expect("a controller");
        assert_eq!((found.0.to_str(), found.2), (Some("/sys/fs/cgroup/cpu,cpuacct"), false));
        assert_eq!(path_in("3:cpuset:/set\n2:cpu,cpuacct:/job/a:b\n0::/x\n", "cpu", false), Some("/job/a:b"));
        let unified =
            mount_among("30 25 0:26 /pod /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "cpu").expect("version 2");
        assert_eq!((unified.2, unified.1.as_str()), (true, "/pod"));
        assert_eq!(path_in("0::/pod/job\n", "cpu", true), Some("/pod/job"));
        assert_eq!(path_in("0::/../other\n", "cpu", true), None, "outside of this namespace");
        assert_eq!(mount_among("30 25 0:26 / /proc rw - proc proc rw\n", "cpu"), None);
    }

    #[test]
    fn counters_of_both_versions_are_read() {
        let mut cgroup = CgroupCpu::default();
        count("nr_periods 41\nnr_throttled 40\nthrottled_time 2904700000\n", &mut cgroup);
        assert_eq!((cgroup.periods, cgroup.throttled_periods, cgroup.throttled_ns), (41, 40, 2_904_700_000));
        count("usage_usec 5\nnr_periods 7\nnr_throttled 6\nthrottled_usec 25\nnonsense\n", &mut cgroup);
        assert_eq!((cgroup.periods, cgroup.throttled_periods, cgroup.throttled_ns), (7, 6, 25_000));
        assert_eq!(limit("50000 100000\n"), Some((50_000, 100_000)));
        assert_eq!(limit("max 100000\n"), None);
    }

    #[test]
    fn the_ancestors_of_a_cgroup_begin_with_the_root() {
        assert_eq!(with_ancestors("/a/b"), ["/", "/a", "/a/b"]);
        assert_eq!(with_ancestors("/"), ["/"]);
    }

    #[test]
    fn the_line_of_all_cpus_is_none_of_them() {
        let cpus = cpus_in("cpu  9 9 9 9\ncpu0 100 10 1 50 5 2 3 4 0 0\ncpu7 1 1 1 1\nintr 5\ncpu9 1\n", 10_000_000);
        assert_eq!(cpus.iter().map(|cpu| cpu.cpu).collect::<Vec<_>>(), [0, 7]);
        let first = &cpus[0];
        assert_eq!((first.busy_ns, first.idle_ns), (1_110_000_000, 550_000_000));
        assert_eq!((first.irq_ns, first.softirq_ns, first.steal_ns), (20_000_000, 30_000_000, 40_000_000));
    }
}
