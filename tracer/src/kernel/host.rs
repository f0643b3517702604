//! What this host is and what it lets a tracer do. Gathered once, then passed around as a value.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::sys::utsname::uname;
use serde::Serialize;
use tracer_common::syscall::Arch;

use super::{btf::Btf, tracefs};
use crate::model::meta::HostRecord;

/// Linux capability numbers that matter to a tracer (uapi/linux/capability.h).
const CAPABILITIES: [(u32, &str); 5] =
    [(19, "CAP_SYS_PTRACE"), (21, "CAP_SYS_ADMIN"), (24, "CAP_SYS_RESOURCE"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];

/// Inode number of the first pid namespace (PROC_PID_INIT_INO in linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: u64 = 0xeffffffc;

/// Things to pretend for tests and to see what another host would get.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pretend {
    /// There is no BTF.
    pub no_btf: bool,
    /// tracefs is not mounted and cannot be.
    pub no_tracefs: bool,
}

/// The facts.
#[derive(Debug, Serialize)]
pub struct HostFacts {
    /// Kernel release.
    pub kernel: String,
    /// Machine.
    pub arch: String,
    /// CPUs that may ever be online: per-CPU maps have this many values.
    pub cpus_possible: u32,
    /// CPUs online now.
    pub cpus_online: u32,
    /// Physical memory.
    pub memory_bytes: u64,
    /// "v1", "v2" or "hybrid".
    pub cgroup_version: String,
    /// Greatest process id.
    pub pid_max: u32,
    /// How many mappings a process may have; 0: not known.
    pub max_map_count: u64,
    /// Effective user is root.
    pub root: bool,
    /// Thread ids here are the kernel's own.
    pub initial_pid_namespace: bool,
    /// Capabilities held, of those that matter.
    pub capabilities: Vec<String>,
    /// Whether the kernel publishes its type information.
    pub has_btf: bool,
    /// Where tracefs is mounted.
    pub tracefs: Option<PathBuf>,
    /// State of the kernel's lockdown.
    pub lockdown: Option<String>,
    /// Programs can be attached to kprobes; `None`: not known.
    pub has_kprobes: Option<bool>,
    /// The type information.
    #[serde(skip)]
    pub btf: Option<Btf>,
}

/// What events can be had of, a folder each. (Looking through all kernel symbols for kprobes takes a tenth of a second.)
const EVENT_SOURCES: &str = "/sys/bus/event_source/devices";

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

impl HostFacts {
    /// Looks at the host.
    pub fn gather(pretend: Pretend) -> Self {
        let name = uname().ok();
        let text = |get: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
            name.as_ref().map_or_else(|| "unknown".to_owned(), |name| get(name).to_string_lossy().into_owned())
        };
        let btf = if pretend.no_btf {
            None
        } else {
            fs::read("/sys/kernel/btf/vmlinux").ok().and_then(|blob| Btf::parse(&blob).ok())
        };
        Self {
            kernel: text(|name| name.release()),
            arch: text(|name| name.machine()),
            cpus_possible: cpu_list("/sys/devices/system/cpu/possible").unwrap_or(1),
            cpus_online: cpu_list("/sys/devices/system/cpu/online").unwrap_or(1),
            memory_bytes: memory_bytes().unwrap_or(0),
            cgroup_version: cgroup_version(),
            pid_max: read("/proc/sys/kernel/pid_max").and_then(|text| text.parse().ok()).unwrap_or(1 << 22),
            max_map_count: read("/proc/sys/vm/max_map_count").and_then(|text| text.parse().ok()).unwrap_or(0),
            root: nix::unistd::geteuid().is_root(),
            initial_pid_namespace: fs::metadata("/proc/self/ns/pid")
                .is_ok_and(|meta| meta.ino() == INITIAL_PID_NAMESPACE),
            capabilities: capabilities(),
            has_btf: btf.is_some(),
            tracefs: if pretend.no_tracefs { None } else { tracefs::mount_point() },
            lockdown: read("/sys/kernel/security/lockdown").and_then(|text| {
                let chosen = text.split(['[', ']']).nth(1)?;
                Some(chosen.to_owned())
            }),
            has_kprobes: Path::new(EVENT_SOURCES).is_dir().then(|| Path::new(EVENT_SOURCES).join("kprobe").exists()),
            btf,
        }
    }

    /// The architecture, if it is one whose registers are known.
    pub fn known_arch(&self) -> Option<Arch> {
        Arch::from_machine(&self.arch)
    }

    /// Whether this process may load tracing programs, and if not, the sentence that says what to do.
    pub fn may_trace(&self) -> Result<(), String> {
        if !self.initial_pid_namespace {
            return Err(
                "this tracer runs inside a pid namespace, where thread ids are not the kernel's: run it on the host \
                        or with the host's pid namespace (docker run --pid=host)"
                    .to_owned(),
            );
        }
        let has = |name: &str| self.capabilities.iter().any(|held| held == name);
        if has("CAP_SYS_ADMIN") || (has("CAP_BPF") && has("CAP_PERFMON")) {
            return Ok(());
        }
        Err("not allowed to load eBPF programs: run tracer as root (sudo), or give it CAP_BPF, CAP_PERFMON and \
             CAP_SYS_PTRACE"
            .to_owned())
    }

    /// As a record for the stream.
    pub fn record(&self) -> HostRecord {
        HostRecord {
            tracer_version: env!("CARGO_PKG_VERSION").to_owned(),
            abi_version: tracer_common::ABI_VERSION,
            kernel: self.kernel.clone(),
            arch: self.arch.clone(),
            cpus: self.cpus_online,
            memory_bytes: self.memory_bytes,
            cgroup_version: self.cgroup_version.clone(),
            clock: "CLOCK_MONOTONIC".to_owned(),
            max_map_count: self.max_map_count,
        }
    }
}

/// Highest CPU number in a list such as `0-3,8` plus one.
fn cpu_list(path: &str) -> Option<u32> {
    let text = read(path)?;
    let last = text.rsplit([',', '-']).next()?;
    Some(last.parse::<u32>().ok()? + 1)
}

fn memory_bytes() -> Option<u64> {
    let text = read("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn cgroup_version() -> String {
    let mounts = read("/proc/self/mounts").unwrap_or_default();
    let has = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    match (has("cgroup"), has("cgroup2")) {
        (true, true) => "hybrid",
        (true, false) => "v1",
        (false, true) => "v2",
        (false, false) => "none",
    }
    .to_owned()
}

fn capabilities() -> Vec<String> {
    let status = read("/proc/self/status").unwrap_or_default();
    let bits = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES.iter().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, name)| (*name).to_owned()).collect()
}
