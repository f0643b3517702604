//! What the kernel tells of memory in files: sizes of processes, limits and usage of cgroups of version 1 and 2, the host's own, and
//! pressure. Reads; decides nothing. What is gone or cannot be read is absent.

use std::path::PathBuf;

use super::proc;
use crate::model::meta::{CgroupMemory, HostMemory, PressureTotals, ProcessMemory};

/// Version 1 writes no limit as the largest number of whole pages.
const UNLIMITED: u64 = i64::MAX as u64 & !0xffff;

/// A process's sizes; none where it is gone, or a kernel thread.
pub fn process(pid: u32) -> Option<ProcessMemory> {
    let status = proc::read(&format!("/proc/{pid}/status"))?;
    process_in(pid, &String::from_utf8_lossy(&status))
}

fn process_in(pid: u32, status: &str) -> Option<ProcessMemory> {
    let kib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(ProcessMemory {
        pid,
        anonymous: kib("RssAnon")?,
        file: kib("RssFile")?,
        shared: kib("RssShmem")?,
        swapped: kib("VmSwap").unwrap_or(0),
        page_tables: kib("VmPTE").unwrap_or(0),
        locked: kib("VmLck").unwrap_or(0).max(kib("VmPin").unwrap_or(0)),
        peak: kib("VmHWM").unwrap_or(0),
        cgroup: None,
        mount_namespace: None,
    })
}

/// The host's memory and its pressure.
pub fn host() -> Option<HostMemory> {
    let meminfo = proc::read("/proc/meminfo")?;
    let mut host = host_in(&String::from_utf8_lossy(&meminfo))?;
    let pressure = |name: &str| {
        let text = proc::read(&format!("/proc/pressure/{name}"))?;
        pressure_in(&String::from_utf8_lossy(&text))
    };
    (host.pressure_memory, host.pressure_io) = (pressure("memory"), pressure("io"));
    // It sums up counters of all CPUs, for nothing where there is no swap.
    if host.swap_total > 0
        && let Some(vmstat) = proc::read("/proc/vmstat")
    {
        (host.swapped_in, host.swapped_out) = swaps_in(&String::from_utf8_lossy(&vmstat));
    }
    Some(host)
}

/// Pages that came from swap and went there, of a text like /proc/vmstat. What zswap and the list of empty pages keep from the device has
/// counters of its own (mm/page_io.c); zram is a device.
fn swaps_in(vmstat: &str) -> (Option<u64>, Option<u64>) {
    let all = |names: [&str; 3]| {
        let mut known = names.into_iter().filter_map(|name| row(vmstat, name)).peekable();
        known.peek()?;
        Some(known.fold(0, u64::saturating_add))
    };
    (all(["pswpin", "zswpin", "swpin_zero"]), all(["pswpout", "zswpout", "swpout_zero"]))
}

fn host_in(meminfo: &str) -> Option<HostMemory> {
    let kib = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(HostMemory {
        total: kib("MemTotal")?,
        available: kib("MemAvailable")?,
        swap_total: kib("SwapTotal").unwrap_or(0),
        swap_free: kib("SwapFree").unwrap_or(0),
        dirty: kib("Dirty").unwrap_or(0),
        shared: kib("Shmem").unwrap_or(0),
        pressure_memory: None,
        pressure_io: None,
        swapped_in: None,
        swapped_out: None,
    })
}

/// Totals of a file of /proc/pressure, or of a cgroup's.
fn pressure_in(text: &str) -> Option<PressureTotals> {
    let total = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        line.split_ascii_whitespace().find_map(|field| field.strip_prefix("total=")?.parse().ok())
    };
    Some(PressureTotals { some_us: total("some")?, full_us: total("full").unwrap_or(0) })
}

/// The hierarchy with the memory controller, where it is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    folder: PathBuf,
    /// The cgroup that the mount shows as its root.
    root: String,
    unified: bool,
    /// The hierarchy's number; 0: the unified one. None: not known.
    hierarchy: Option<u32>,
}

impl Controller {
    /// The one of this host; none where it is not mounted.
    pub fn find() -> Option<Self> {
        let (folder, root, unified) = super::cpu_limits::mount_of("memory")?;
        let hierarchy = if unified { Some(0) } else { proc::hierarchy_with("memory") };
        Some(Controller { folder, root, unified, hierarchy })
    }

    /// Whether a move within this hierarchy, by its number, is one between cgroups of memory.
    pub fn is_hierarchy(&self, number: u32) -> bool {
        self.hierarchy == Some(number)
    }

    /// The path of a process's cgroup in this hierarchy.
    pub fn path_of(&self, pid: u32) -> Option<String> {
        super::cpu_limits::path_of(pid, "memory", self.unified)
    }

    /// Usage and limit of a cgroup; none where it is gone or has no memory controller.
    pub fn read(&self, path: &str) -> Option<CgroupMemory> {
        let below = if self.root == "/" { path } else { path.strip_prefix(self.root.as_str())? };
        let folder = self.folder.join(below.trim_start_matches('/'));
        let text = |name: &str| {
            let bytes = proc::read(folder.join(name).to_str()?)?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        if self.unified { unified(path, &text) } else { legacy(path, &text) }
    }
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A row of a file with a name and a number in each line.
fn row(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| number(line.strip_prefix(key)?.strip_prefix(' ')?))
}

/// Version 1.
fn legacy(path: &str, text: &impl Fn(&str) -> Option<String>) -> Option<CgroupMemory> {
    let stat = text("memory.stat")?;
    let usage = number(&text("memory.usage_in_bytes")?)?;
    let limit = text("memory.limit_in_bytes").as_deref().and_then(number).filter(|limit| *limit < UNLIMITED);
    let sum = |key: &str| row(&stat, &format!("total_{key}")).or_else(|| row(&stat, key)).unwrap_or(0);
    let control = text("memory.oom_control").unwrap_or_default();
    Some(CgroupMemory {
        path: path.to_owned(),
        usage,
        limit,
        high: None,
        anonymous: sum("rss"),
        file: sum("cache").saturating_sub(sum("shmem")),
        shared: sum("shmem"),
        kernel: text("memory.kmem.usage_in_bytes").as_deref().and_then(number).unwrap_or(0),
        unevictable: sum("unevictable"),
        dirty: sum("dirty"),
        limit_hits: text("memory.failcnt").as_deref().and_then(number).unwrap_or(0),
        oom_kills: row(&control, "oom_kill"),
        refaults_file: row(&stat, "total_workingset_refault_file").or_else(|| row(&stat, "workingset_refault_file")),
        refaults_anonymous: row(&stat, "total_workingset_refault_anon")
            .or_else(|| row(&stat, "workingset_refault_anon")),
        swapped: row(&stat, "total_swap").or_else(|| row(&stat, "swap")),
        // What version 1 limits is memory and swap together.
        swap_limit: None,
        pressure: None,
    })
}

/// Version 2.
fn unified(path: &str, text: &impl Fn(&str) -> Option<String>) -> Option<CgroupMemory> {
    let stat = text("memory.stat")?;
    let usage = text("memory.current").as_deref().and_then(number);
    let limit = |name: &str| text(name).as_deref().and_then(number);
    let sum = |key: &str| row(&stat, key).unwrap_or(0);
    let events = text("memory.events").unwrap_or_default();
    let add = |a: u64, key: &str| a.saturating_add(sum(key));
    let parts = ["slab_unreclaimable", "kernel_stack", "pagetables", "percpu", "sock"].into_iter().fold(0, add);
    Some(CgroupMemory {
        path: path.to_owned(),
        // The root has no such file.
        usage: usage.unwrap_or_else(|| add(add(parts, "anon"), "file")),
        limit: limit("memory.max"),
        high: limit("memory.high"),
        anonymous: sum("anon"),
        file: sum("file").saturating_sub(sum("shmem")),
        shared: sum("shmem"),
        kernel: parts,
        unevictable: sum("unevictable"),
        dirty: sum("file_dirty"),
        limit_hits: row(&events, "max").unwrap_or(0).saturating_add(row(&events, "high").unwrap_or(0)),
        oom_kills: row(&events, "oom_kill"),
        refaults_file: row(&stat, "workingset_refault_file"),
        refaults_anonymous: row(&stat, "workingset_refault_anon"),
        swapped: text("memory.swap.current").as_deref().and_then(number),
        swap_limit: limit("memory.swap.max"),
        pressure: text("memory.pressure").as_deref().and_then(pressure_in),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_a_process_are_read_and_a_kernel_thread_has_none() {
        let status = "Name:\tx\nVmHWM:\t  900 kB\nVmPTE:\t 8 kB\nRssAnon:\t  100 kB\nRssFile:\t 50 kB\nRssShmem:\t 0 kB\nVmSwap:\t 4 kB\n";
        let seen = process_in(7, status).expect("a process");
        assert_eq!((seen.anonymous, seen.file, seen.shared, seen.swapped), (102_400, 51_200, 0, 4096));
        assert_eq!((seen.peak, seen.page_tables), (921_600, 8192));
        let without = status.replace("VmSwap:\t 4 kB\n", "");
        assert_eq!(process_in(7, &without).map(|seen| seen.swapped), Some(0), "a kernel without swap has no such line");
        assert_eq!(process_in(2, "Name:\tkthreadd\n"), None);
        assert_eq!(process_in(2, "RssAnon: 99999999999999999999 kB\nRssFile: 1 kB\nRssShmem: 1 kB\n"), None);
        assert!(process(std::process::id()).is_some_and(|own| own.anonymous > 0 && own.peak >= own.anonymous));
    }

    #[test]
    fn version_1_and_2_give_the_same_facts() {
        let old = |name: &str| {
            Some(match name {
                "memory.stat" => {
                    "cache 10\nrss 1\ntotal_cache 8192\ntotal_rss 4096\ntotal_shmem 4096\ntotal_dirty 512\n\
                                  total_unevictable 0\ntotal_workingset_refault_file 3\n\
                                  total_workingset_refault_anon 9\nswap 1\ntotal_swap 12288\ntotal_swapcached 77\n"
                        .to_owned()
                }
                "memory.usage_in_bytes" => "16384\n".to_owned(),
                "memory.limit_in_bytes" => "65536\n".to_owned(),
                "memory.kmem.usage_in_bytes" => "2048\n".to_owned(),
                "memory.failcnt" => "5\n".to_owned(),
                "memory.oom_control" => "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n".to_owned(),
                _ => return None,
            })
        };
        let seen = legacy("/job", &old).expect("a cgroup");
        assert_eq!((seen.usage, seen.limit, seen.anonymous, seen.file), (16_384, Some(65_536), 4096, 4096));
        assert_eq!((seen.shared, seen.kernel, seen.limit_hits, seen.oom_kills), (4096, 2048, 5, Some(1)));
        assert_eq!((seen.refaults_file, seen.refaults_anonymous), (Some(3), Some(9)));
        assert_eq!((seen.swapped, seen.swap_limit), (Some(12_288), None));
        let none = |name: &str| {
            if name == "memory.limit_in_bytes" { Some("9223372036854771712\n".to_owned()) } else { old(name) }
        };
        assert_eq!(legacy("/job", &none).and_then(|seen| seen.limit), None, "that number means no limit");
        let new = |name: &str| {
            Some(match name {
                "memory.stat" => {
                    "anon 4096\nfile 8192\nshmem 4096\npagetables 1024\nkernel_stack 1024\nfile_dirty 512\n\
                     swapcached 77\nworkingset_refault_anon 9\n"
                        .to_owned()
                }
                "memory.swap.current" => "12288\n".to_owned(),
                "memory.swap.max" => "65536\n".to_owned(),
                "memory.current" => "16384\n".to_owned(),
                "memory.max" => "65536\n".to_owned(),
                "memory.high" => "max\n".to_owned(),
                "memory.events" => "low 0\nhigh 2\nmax 3\noom 0\noom_kill 1\n".to_owned(),
                "memory.pressure" => "some avg10=0.00 total=12\nfull avg10=0.00 total=7\n".to_owned(),
                _ => return None,
            })
        };
        let same = unified("/job", &new).expect("a cgroup");
        assert_eq!((same.usage, same.limit, same.anonymous, same.file), (16_384, Some(65_536), 4096, 4096));
        assert_eq!((same.shared, same.kernel, same.limit_hits, same.oom_kills), (4096, 2048, 5, Some(1)));
        assert_eq!((same.high, same.pressure.map(|pressure| pressure.full_us)), (None, Some(7)));
        assert_eq!((same.refaults_anonymous, same.swapped, same.swap_limit), (Some(9), Some(12_288), Some(65_536)));
        let boundless = |name: &str| if name == "memory.swap.max" { Some("max\n".to_owned()) } else { new(name) };
        assert_eq!(unified("/job", &boundless).and_then(|seen| seen.swap_limit), None);
        let without = |name: &str| if name.starts_with("memory.swap") { None } else { new(name) };
        assert_eq!(unified("/job", &without).map(|seen| seen.swapped), Some(None), "a kernel without swap");
        assert_eq!(unified("/gone", &|_| None), None);
        assert_eq!(legacy("/gone", &|_| Some("junk".to_owned())), None, "a number is wanted");
    }

    #[test]
    fn pages_to_and_from_swap_are_told_by_their_whole_names() {
        assert_eq!(swaps_in("pgpgin 5\npswpin 42\npswpout 7\nswap_ra 9\n"), (Some(42), Some(7)));
        let compressed = "pswpin 42\npswpout 7\nswpin_zero 5\nswpout_zero 2\nzswpin 1\nzswpout 3\nzswpwb 9\n";
        assert_eq!(swaps_in(compressed), (Some(48), Some(12)));
        assert_eq!(swaps_in("pswpin 18446744073709551615\nzswpin 2\n").0, Some(u64::MAX));
        for odd in ["", "pswpin", "pswpin \npswpout x\n", "pswpinned 4\npswpout -1\n", "pswpin 99999999999999999999\n"]
        {
            assert_eq!(swaps_in(odd), (None, None), "{odd:?}");
        }
        let meminfo = "MemTotal: 8 kB\nMemAvailable: 4 kB\nSwapTotal: 2 kB\nSwapFree: 1 kB\n";
        assert_eq!(host_in(meminfo).map(|host| (host.swap_total, host.swap_free)), Some((2048, 1024)));
    }
}
