//! The report's section `paging`: page faults, time lost to reclaim, files in the page cache, kills for want of memory. Plain data.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stacks::{Location, Whose};

/// Bytes of a page, of which page faults and the page cache count. Both are seen on x86-64 only.
pub const PAGE_BYTES: u64 = 4096;
/// A huge page of anonymous memory.
const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// Memory as the kernel's programs saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Paging {
    /// Page faults by process, most first; at most 32. Absent without the family `fault`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub faults: Option<Vec<ProcessFaults>>,
    /// Page faults of processes beyond the bounds (4,096 counted, 32 told).
    #[serde(skip_serializing_if = "is_zero")]
    pub faults_of_others: u64,
    /// Time in which threads freed memory instead of working, most first; at most 32. Absent without the family `reclaim`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stalls: Option<Vec<Stall>>,
    /// Time of threads beyond the bounds (4,096 counted, 32 told).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stalls_of_others_s: Option<f64>,
    /// Files that traced threads brought into the page cache, most bytes read first; at most 32. Absent without the family `cache`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<CachedFile>>,
    /// Files beyond the bounds (4,096 counted, 32 told), of those that were large enough to be counted by themselves.
    #[serde(skip_serializing_if = "is_zero")]
    pub files_over: u64,
    /// Files that had less than 256 KiB when their pages came, and those for which there was no room, all together. Absent: there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub small_files: Option<SmallFiles>,
    /// Large files (from 32 MiB on) that were loaded by mapping or reading most of them, such as models, largest first; at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub loads: Vec<Load>,
    /// Processes that the kernel killed for want of memory, in the order of time; at most 64. Absent without the family `oom`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kills: Option<Vec<OomKill>>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Pages of files that are not counted by themselves, as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SmallFiles {
    /// Bytes that came into the page cache to be read.
    pub read_bytes: u64,
    /// Bytes of pages that came to be written.
    pub written_bytes: u64,
}

/// Page faults of one process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ProcessFaults {
    /// The process.
    pub pid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Its parent, where it was seen to be forked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
    /// All of them. Exact.
    pub total: u64,
    /// By kind: "anonymous" and "anonymous_huge" (first touch of a page of 4 KiB, of 2 MiB), "file", "file_major" (had to be read),
    /// "shared", "copy_on_write", "swap_in", "other". Exact; those that there are.
    pub kinds: BTreeMap<String, u64>,
    /// Time between the first and the last.
    pub duration_s: f64,
    /// CPU time in which the kernel handled page faults, by samples; absent without stacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_s: Option<f64>,
    /// CPU time in which it took memory back, by samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmap_cpu_s: Option<f64>,
    /// Anonymous memory when faults were first written down, at most, and last, to some 256 KiB a CPU; absent: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous_first_bytes: Option<u64>,
    /// See `anonymous_first_bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous_most_bytes: Option<u64>,
    /// See `anonymous_first_bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous_last_bytes: Option<u64>,
    /// The threads with most of them; at most 4.
    pub threads: Vec<ThreadFaults>,
    /// In which functions, most first; at most 4 of each kind. Estimated: a stack stands for 512 faults in the mean, of
    /// huge pages for one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<FaultFunction>,
}

impl ProcessFaults {
    /// How many of a kind.
    pub fn of(&self, kind: &str) -> u64 {
        self.kinds.get(kind).copied().unwrap_or(0)
    }

    /// Anonymous memory that was touched for the first time.
    pub fn touched_bytes(&self) -> u64 {
        let small = self.of("anonymous").saturating_mul(PAGE_BYTES);
        small.saturating_add(self.of("anonymous_huge").saturating_mul(HUGE_PAGE_BYTES))
    }

    /// Whether most of it came in huge pages.
    pub fn in_huge_pages(&self) -> bool {
        self.of("anonymous_huge").saturating_mul(HUGE_PAGE_BYTES) > self.touched_bytes() / 2
    }

    /// The function that touched most of it, and its position.
    pub fn touching(&self) -> Option<(usize, &FaultFunction)> {
        self.function(if self.in_huge_pages() { "anonymous_huge" } else { "anonymous" })
    }

    /// The function with most of a kind, and its position.
    pub fn function(&self, kind: &str) -> Option<(usize, &FaultFunction)> {
        self.functions.iter().enumerate().find(|(_, function)| function.kind == kind)
    }
}

/// Page faults of one thread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ThreadFaults {
    /// The thread.
    pub tid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// How many.
    pub total: u64,
}

/// Page faults of one kind in one function.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FaultFunction {
    /// The kind.
    pub kind: String,
    /// The function.
    #[serde(flatten)]
    pub location: Location,
    /// Share of the process's faults of this kind, by stacks.
    pub share: f64,
    /// Stacks of this kind that were taken, of all functions.
    pub stacks: u64,
}

/// A thread's time in reclaim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Stall {
    /// The thread.
    #[serde(flatten)]
    pub whose: Whose,
    /// "cgroup reclaim": its cgroup is at its limit; "direct reclaim": the host has no memory left; "compaction": a large page is wanted.
    pub kind: String,
    /// How often.
    pub count: u64,
    /// How long, waiting included. Exact.
    pub total_s: f64,
    /// What it freed.
    pub freed_bytes: u64,
}

/// A file in the page cache.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CachedFile {
    /// Its path, where it could be looked up; else the last part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Inode.
    pub inode: u64,
    /// Device, "major:minor".
    pub device: String,
    /// The thread that brought in its first page.
    #[serde(flatten)]
    pub whose: Whose,
    /// Its size.
    pub size_bytes: u64,
    /// Bytes that traced threads read into the page cache, read ahead included. Exact.
    pub read_bytes: u64,
    /// Bytes of pages that they made by writing.
    pub written_bytes: u64,
    /// What was read over the size: above 1 the same pages were read again. Absent for empty files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reread_factor: Option<f64>,
    /// When its first page was read, in seconds since the window's start; absent if none was, or that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_first_s: Option<f64>,
    /// When its last one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_last_s: Option<f64>,
    /// Bytes thrown out by traced threads that were short of memory.
    pub reclaimed_own_bytes: u64,
    /// Of these, by threads that were writing to a file, and needed room for that.
    pub reclaimed_by_writers_bytes: u64,
    /// The one of them that did it last, on the CPU on which most was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reclaimed_by: Option<Whose>,
    /// Bytes thrown out by the kernel's own threads that make room.
    pub reclaimed_others_bytes: u64,
    /// Bytes thrown out by the kernel's proactive reclaim (DAMON): what is used seldom, whether memory is short or not.
    pub reclaimed_unused_bytes: u64,
    /// Bytes given up otherwise: the file was cut or deleted, or somebody asked for it.
    pub dropped_bytes: u64,
}

impl CachedFile {
    /// Bytes thrown out by whatever reclaims memory.
    pub fn reclaimed_bytes(&self) -> u64 {
        let short = self.reclaimed_own_bytes.saturating_add(self.reclaimed_others_bytes);
        short.saturating_add(self.reclaimed_unused_bytes)
    }

    /// Its path, else what tells it.
    pub fn shown(&self) -> String {
        self.path.clone().unwrap_or_else(|| format!("inode {} of {}", self.inode, self.device))
    }
}

/// Whether a system call waits for a file's data to come, and not for it to reach the disk.
pub fn reads(call: &str) -> bool {
    matches!(call, "read" | "pread64" | "readv" | "preadv" | "preadv2" | "sendfile")
}

/// How a large file was loaded. What can be told of it follows from other parts of the report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Load {
    /// The file.
    pub path: String,
    /// Its size; of one of which nothing came in what a process had mapped of it at most.
    pub size_bytes: u64,
    /// The thread that waited for it most; else the one that brought in its first page, or the process that has it mapped.
    #[serde(flatten)]
    pub whose: Whose,
    /// Whether a traced process had a good part of it mapped, or waited for it in page faults.
    pub mapped: bool,
    /// Bytes that came from its disk: what the page cache did not have.
    pub missed_bytes: u64,
    /// Bytes that were in the page cache already, at least: of what a process has mapped, what did not come in meanwhile. Absent: not known, since
    /// what is read by calls is not counted by file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_bytes: Option<u64>,
    /// What came from the disk over the size: above 1 parts came more than once.
    pub reread_factor: f64,
    /// From the first page that came in to the last one. Absent: none did, or that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_s: Option<f64>,
    /// Bytes a second meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<f64>,
    /// How long threads waited for it in page faults, all together.
    pub waited_in_faults_s: f64,
    /// And in calls that read.
    pub waited_in_reads_s: f64,
    /// What came from the disk over the time that threads waited for it: about what the device gives this way. Far above `bytes_per_s`: the
    /// loader computed most of the time, and the device was idle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_waited_s: Option<f64>,
    /// What the device read of it over the time in which it had anything to read of it: the speed of the device with the requests that it got.
    /// Absent without the family `block`, or where it read nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_bytes_per_s: Option<f64>,
    /// Page faults of the process that mapped pages of files, from the page cache and from disks. Of all its files; absent without the
    /// family `fault`, or where it was not mapped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_faults: Option<u64>,
    /// Time that the kernel computed in page faults of that process, by samples, of all kinds. Absent likewise, or without the family `cpu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub faults_cpu_s: Option<f64>,
}

/// A kill for want of memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OomKill {
    /// When, in seconds since the window's start.
    pub t_s: f64,
    /// Who was killed.
    #[serde(flatten)]
    pub whose: Whose,
    /// Anonymous memory that it had, to some 256 KiB a CPU.
    pub anonymous_bytes: u64,
    /// Memory of mapped files.
    pub file_bytes: u64,
    /// Shared memory.
    pub shared_bytes: u64,
    /// What was swapped out.
    pub swapped_bytes: u64,
    /// The thread that asked for memory and found none.
    pub by_tid: u32,
    /// Its process.
    pub by_pid: u32,
}
