//! Payloads of the records that user space writes on memory: part of [`meta`](super::meta), which holds all others.

use serde::{Deserialize, Serialize};

/// Kind `SUMS`: what the programs keep in maps. Files have everything since tracing began: the last record counts. Faults, stalls
/// and calls are those that no record of the kernel has, and come once, at the end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SumsRecord {
    /// Pages in the page cache, by file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<CacheRow>,
    /// Page faults.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FaultsRow>,
    /// Time in reclaim.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stalls: Vec<StallsRow>,
    /// Calls that change address spaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mapped: Vec<MappedRow>,
    /// Pages that processes dirtied, by file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dirtied: Vec<DirtiedRow>,
    /// Calls that read and write files, by file and process.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<FileCallsRow>,
    /// The host's block devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskRow>,
    /// Requests that were under way at the end, or whose end was not reported.
    pub unfinished: u64,
    /// What went through unix sockets since tracing began, as far as it was counted; absent: it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unix: Option<UnixRecord>,
}

/// Part of [`SumsRecord`]: calls at unix sockets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnixRecord {
    /// For how long they were counted: while threads waited at such sockets.
    pub counted_ns: u64,
    /// By socket and process.
    pub rows: Vec<UnixRow>,
}

/// Part of [`UnixRecord`]: see [`UnixSums`](tracer_common::net::UnixSums).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "described where the kernel's side has them")]
pub struct UnixRow {
    pub inode: u64,
    pub tgid: u32,
    pub sent_bytes: u64,
    pub sends: u64,
    pub received_bytes: u64,
    pub receives: u64,
}

/// Part of [`SumsRecord`]: see [`DirtiedSums`](tracer_common::block::DirtiedSums).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "described where the kernel's side has them")]
pub struct DirtiedRow {
    pub device: u32,
    pub inode: u64,
    pub tgid: u32,
    pub tid: u32,
    pub pages: u64,
}

/// Part of [`SumsRecord`]: see [`FileCallsSums`](tracer_common::file_calls::FileCallsSums).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "described where the kernel's side has them")]
pub struct FileCallsRow {
    pub device: u32,
    pub inode: u64,
    pub tgid: u32,
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub written_bytes: u64,
}

/// Part of [`SumsRecord`]: a block device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskRow {
    /// Its number, in the kernel's own encoding.
    pub device: u32,
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Whether its kernel driver says that it turns.
    pub rotational: bool,
    /// What orders its requests: "none", "mq-deadline", "bfq", "kyber".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    /// The file that a loop device stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// Devices that it is made of: of device mapper and RAID.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
}

/// Part of [`SumsRecord`]: see [`CacheSums`](tracer_common::memory::CacheSums).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "described where the kernel's side has them")]
pub struct CacheRow {
    pub device: u32,
    pub inode: u64,
    pub read: u64,
    pub written: u64,
    pub size_bytes: u64,
    pub reclaimed_own: u64,
    pub reclaimed_others: u64,
    pub reclaimed_unused: u64,
    pub dropped: u64,
    pub reclaimed_writing: u64,
    pub writer_tgid: u32,
    pub writer_tid: u32,
    pub read_first_ts_ns: u64,
    pub read_last_ts_ns: u64,
}

/// Part of [`SumsRecord`]: see [`Faults`](tracer_common::memory::Faults).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "described where the kernel's side has them")]
pub struct FaultsRow {
    pub tid: u32,
    pub tgid: u32,
    pub since_ts_ns: u64,
    pub counts: Vec<u32>,
}

/// Part of [`SumsRecord`]: see [`Mapped`](tracer_common::mapping::Mapped).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "described where the kernel's side has them")]
pub struct MappedRow {
    pub tid: u32,
    pub tgid: u32,
    pub since_ts_ns: u64,
    pub counts: Vec<u32>,
    pub bytes: Vec<u64>,
    pub mappings: u32,
    pub mappings_most: u32,
}

/// Part of [`SumsRecord`]: see [`Stalled`](tracer_common::memory::Stalled).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "described where the kernel's side has them")]
pub struct StallsRow {
    pub tid: u32,
    pub tgid: u32,
    pub stall: String,
    pub since_ts_ns: u64,
    pub until_ts_ns: u64,
    pub total_ns: u64,
    pub pages: u64,
    pub count: u64,
}

/// Kind `MEMORY`: sizes of processes, cgroups and the host, at one moment. In bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryRecord {
    /// When they were read.
    pub at_ns: u64,
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostMemory>,
    /// Traced processes; where there are many, some of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<ProcessMemory>,
    /// Cgroups of traced processes and all above them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<CgroupMemory>,
    /// File systems in memory that traced processes can write to. One that is left out is as before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<TmpfsMemory>,
    /// What processes' memory consists of; of those that were read for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mappings: Vec<ProcessMappings>,
    /// Further file systems in memory, that are not watched.
    #[serde(skip_serializing_if = "is_zero")]
    pub tmpfs_over: u64,
    /// The host's NUMA nodes: at first and at last, and seldom between. Where there is one only, at first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeMemory>,
    /// On which nodes processes' pages lie; of those that were read for it, on hosts with several nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub numa: Vec<ProcessNodes>,
    /// Processes so far that were too large, or too many, to be read for it.
    #[serde(skip_serializing_if = "is_zero")]
    pub numa_over: u64,
}

/// Part of [`MemoryRecord`]: a NUMA node, from /sys/devices/system/node. Counters are of pages since boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeMemory {
    /// Its number.
    pub node: u32,
    /// Its CPUs, as ranges: first and last one. Empty: it has memory only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<(u16, u16)>,
    /// Its memory, in bytes.
    pub total: u64,
    /// What of it is free.
    pub free: u64,
    /// Pages that were wanted on another node and had to be taken here (`numa_miss`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub miss: Option<u64>,
    /// Pages that were wanted here and had to be taken on another node (`numa_foreign`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<u64>,
    /// Pages taken here by who ran on another node (`other_node`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<u64>,
}

/// Part of [`MemoryRecord`]: /proc/PID/numa_maps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessNodes {
    /// The process.
    pub pid: u32,
    /// When.
    pub at_ns: u64,
    /// How long reading took.
    pub took_ns: u64,
    /// Bytes of mappings that are spread over nodes on purpose.
    #[serde(skip_serializing_if = "is_zero")]
    pub interleaved: u64,
    /// Resident bytes by node, in the order of the nodes; without those that hold none.
    pub nodes: Vec<NodeBytes>,
}

/// Part of [`ProcessNodes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the type says it")]
pub struct NodeBytes {
    pub node: u32,
    pub bytes: u64,
}

/// Part of [`MemoryRecord`]: /proc/PID/smaps, with the sizes by kind of the same moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessMappings {
    /// The process.
    pub pid: u32,
    /// When.
    pub at_ns: u64,
    /// How long reading took.
    pub took_ns: u64,
    /// Resident anonymous memory.
    pub anonymous: u64,
    /// Resident pages of mapped files.
    pub file: u64,
    /// Resident shared memory.
    pub shared: u64,
    /// Of each page the part that falls to this process among all that have it.
    pub proportional: u64,
    /// By class and path.
    pub sums: Vec<MappingSum>,
}

/// Part of [`ProcessMappings`]: resident memory of mappings of one class, and of one file where they have one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MappingSum {
    /// "heap", "stack", "arena", "anonymous", "file", "shared", "special".
    pub class: String,
    /// The path; none: of several, or without one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Anonymous memory; of files: private pages that were written to.
    #[serde(skip_serializing_if = "is_zero")]
    pub anonymous: u64,
    /// Pages of files.
    #[serde(skip_serializing_if = "is_zero")]
    pub file: u64,
    /// Shared memory.
    #[serde(skip_serializing_if = "is_zero")]
    pub shared: u64,
}

impl MappingSum {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.anonymous.saturating_add(self.file).saturating_add(self.shared)
    }

    /// Takes another one's bytes in.
    pub fn add(&mut self, other: &MappingSum) {
        self.anonymous = self.anonymous.saturating_add(other.anonymous);
        self.file = self.file.saturating_add(other.file);
        self.shared = self.shared.saturating_add(other.shared);
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Part of [`MemoryRecord`]: a file system in memory (tmpfs) with a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TmpfsMemory {
    /// Its device number, "major:minor".
    pub device: String,
    /// Where it is mounted for the process that it was first seen by.
    pub path: String,
    /// That process.
    pub pid: u32,
    /// Mount namespaces that it is mounted in; none: as before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<u64>,
    /// What it may hold.
    pub size: u64,
    /// What it holds.
    pub used: u64,
}

/// Part of [`MemoryRecord`]: /proc/meminfo, /proc/pressure and, where the host has swap, /proc/vmstat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "named as the kernel names them")]
pub struct HostMemory {
    pub total: u64,
    pub available: u64,
    pub swap_total: u64,
    pub swap_free: u64,
    pub dirty: u64,
    pub shared: u64,
    pub pressure_memory: Option<PressureTotals>,
    pub pressure_io: Option<PressureTotals>,
    /// Pages that came back from swap since boot (`pswpin`, `zswpin`, `swpin_zero`), whoever needed them; none: the host has no swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swapped_in: Option<u64>,
    /// Pages that went there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swapped_out: Option<u64>,
}

/// Time lost to pressure since boot, in microseconds: at least one task stalled, all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the type says it")]
pub struct PressureTotals {
    pub some_us: u64,
    pub full_us: u64,
}

/// Part of [`MemoryRecord`]: /proc/PID/status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessMemory {
    /// The process.
    pub pid: u32,
    /// Resident anonymous memory.
    pub anonymous: u64,
    /// Resident pages of mapped files.
    pub file: u64,
    /// Resident shared memory.
    pub shared: u64,
    /// Swapped out.
    pub swapped: u64,
    /// Its page tables.
    pub page_tables: u64,
    /// Locked or pinned.
    pub locked: u64,
    /// The most that was resident.
    pub peak: u64,
    /// Path of its memory cgroup; where it is the same as before it is not repeated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Its mount namespace, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_namespace: Option<u64>,
}

/// Part of [`MemoryRecord`]: a memory cgroup. Children count in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CgroupMemory {
    /// Its path in the hierarchy that has the memory controller.
    pub path: String,
    /// All that is charged to it.
    pub usage: u64,
    /// The most that may be; none: it has no limit of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// From there on it is slowed down (version 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<u64>,
    /// Anonymous memory.
    pub anonymous: u64,
    /// Page cache.
    pub file: u64,
    /// Shared memory.
    pub shared: u64,
    /// Of the kernel for it, as far as it cannot be dropped (version 1: all).
    pub kernel: u64,
    /// Locked.
    pub unevictable: u64,
    /// Not written to its disk yet.
    pub dirty: u64,
    /// How often the limit was reached since the cgroup was made.
    pub limit_hits: u64,
    /// Kills for want of memory since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// Pages of files that had to be read again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refaults_file: Option<u64>,
    /// Pages of anonymous memory that came back soon after they had been swapped out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refaults_anonymous: Option<u64>,
    /// Swapped out; none: the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swapped: Option<u64>,
    /// The most that may be swapped out (version 2); none: no limit of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_limit: Option<u64>,
    /// Its own pressure (version 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure: Option<PressureTotals>,
}
