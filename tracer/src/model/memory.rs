//! The report's section `memory`: how much memory processes, their cgroups, the host and file systems in memory had, over time, and when a limit would be
//! reached. Plain data. Sizes are read some four times a second; between two readings nothing is known.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stacks::Whose;

/// Sizes over time. In bytes; times in seconds since the window's start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Memory {
    /// Readings.
    pub readings: u64,
    /// The host; absent: not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostSizes>,
    /// Processes that were the largest at some time, largest first; at most 32.
    pub processes: Vec<ProcessSizes>,
    /// Processes that were not kept or are not told.
    pub processes_over: u64,
    /// Cgroups with a limit or with growth, in the order of their paths; at most 32.
    pub cgroups: Vec<CgroupSizes>,
    /// Forecasts that were made on the way, in the order of time; at most 129 of each cgroup and of the host, evenly thinned out, the last one among them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forecasts: Vec<Forecast>,
    /// File systems in memory (tmpfs, as /dev/shm is) that traced processes could write to, fullest first; at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<TmpfsSizes>,
    /// Such file systems that were not read, not kept or are not told.
    #[serde(skip_serializing_if = "is_zero")]
    pub tmpfs_over: u64,
    /// Processes that died of SIGBUS, in the order of time; at most 64. Without kernel type information (BTF) nobody sees them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bus_errors: Vec<BusError>,
    /// Further ones.
    #[serde(skip_serializing_if = "is_zero")]
    pub bus_errors_over: u64,
    /// The host's NUMA nodes, and where processes' memory lies on them; absent: not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa: Option<Numa>,
}

/// NUMA nodes: memory of another node than the CPU's takes longer to reach.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Numa {
    /// The nodes, in the order of their numbers; of a host with one nothing else is told.
    pub nodes: Vec<NumaNode>,
    /// Where processes' memory lies and where they ran, most memory first; at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<NumaProcess>,
    /// Processes that are not told, not kept, or were too large or too many to be read.
    #[serde(skip_serializing_if = "is_zero")]
    pub processes_over: u64,
}

/// A NUMA node. The counts are of the whole host, between the first and the last reading.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NumaNode {
    /// Its number.
    pub node: u32,
    /// Its CPUs, as "0-3,8-11"; empty: it has memory only.
    pub cpus: String,
    /// Its memory.
    pub total_bytes: u64,
    /// What of it was free at the last reading.
    pub free_bytes: u64,
    /// Pages that were wanted on another node and had to be taken here; absent: the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed_pages: Option<u64>,
    /// Pages that were wanted here and had to be taken on another node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign_pages: Option<u64>,
    /// Pages taken here by who ran on another node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_node_pages: Option<u64>,
}

/// Where the memory of a process lay at the last reading (but when it had given most of it back), and where its threads ran all the time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NumaProcess {
    /// The process.
    pub pid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// When it was read.
    pub t_s: f64,
    /// Readings.
    pub readings: u64,
    /// How long they took, all together.
    pub read_s: f64,
    /// Resident memory, mapped files included.
    pub resident_bytes: u64,
    /// Of it in mappings that are spread over nodes on purpose (interleaved).
    pub interleaved_bytes: u64,
    /// How long its threads ran, as far as their CPU is known.
    pub on_cpu_s: f64,
    /// By node.
    pub nodes: Vec<NumaPart>,
    /// The part of its memory that lies on another node than the thread that uses it, if each thread used all of it alike: the sum over nodes of the
    /// share of time there and the share of memory elsewhere. Absent: nothing ran or lay anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_share: Option<f64>,
    /// The part that does so however the memory is shared out among the threads: what each node has of it beyond its share of the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least_remote_share: Option<f64>,
}

/// A process on one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NumaPart {
    /// The node.
    pub node: u32,
    /// What lay there.
    pub bytes: u64,
    /// How long threads ran there.
    pub on_cpu_s: f64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HostSizes {
    /// Physical memory.
    pub total_bytes: u64,
    /// Memory that could be had without swapping: at the first reading, the least, and at the last.
    pub available_first_bytes: u64,
    /// See `available_first_bytes`.
    pub available_least_bytes: u64,
    /// See `available_first_bytes`.
    pub available_last_bytes: u64,
    /// Swap in use at the last reading.
    pub swap_used_bytes: u64,
    /// All of it; absent: there is none.
    #[serde(skip_serializing_if = "is_zero")]
    pub swap_total_bytes: u64,
    /// What came back from swap between the first and the last reading, whoever needed it; absent: the host has no swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swapped_in_bytes: Option<u64>,
    /// What was swapped out meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swapped_out_bytes: Option<u64>,
    /// Time in which at least one task of the host was stalled for memory; absent: the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure_memory_some_s: Option<f64>,
    /// Time in which all were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure_memory_full_s: Option<f64>,
    /// The same for disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure_io_some_s: Option<f64>,
    /// See `pressure_io_some_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure_io_full_s: Option<f64>,
}

/// A process's resident memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ProcessSizes {
    /// The process.
    pub pid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Its memory cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The first reading.
    pub first: Sizes,
    /// The one with most.
    pub most: Sizes,
    /// The last one; a process that ended had it up to a quarter of a second before.
    pub last: Sizes,
    /// The most that was ever resident, by the kernel's own count.
    pub peak_bytes: u64,
    /// The most that was swapped out at a reading; absent: nothing was.
    #[serde(skip_serializing_if = "is_zero")]
    pub swapped_most_bytes: u64,
    /// The most that was locked or pinned at a reading, as far as the kernel counts it to the process (VmLck, VmPin): memory that a GPU's driver
    /// allocated is not.
    #[serde(skip_serializing_if = "is_zero")]
    pub locked_most_bytes: u64,
    /// What it consisted of by mapping, and what of that grew; absent: it was not read twice, and has no large file
    /// mapped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<Growth>,
    /// Anonymous and shared memory over time: [seconds, bytes]; at most 256 points, evenly thinned out.
    pub series: Vec<(f64, u64)>,
}

/// A process's resident memory by mapping: at the first reading of these, at the one with most, and at the last one. Read at most once a
/// second, more seldom where it takes long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Growth {
    /// Readings.
    pub readings: u64,
    /// How long they took, all together.
    pub read_s: f64,
    /// Sizes by kind, by the kernel's own sums, at the first reading.
    pub first: Sizes,
    /// At the one with most.
    pub most: Sizes,
    /// At the last one.
    pub last: Sizes,
    /// Of each page the part that falls to this process among all that have it, so that a sum over processes counts it once: at the first
    /// reading, at the one with most, at the last one.
    pub proportional_first_bytes: u64,
    /// See `proportional_first_bytes`.
    pub proportional_most_bytes: u64,
    /// See `proportional_first_bytes`.
    pub proportional_last_bytes: u64,
    /// What changed, most first; at most 16, and one for the rest of each kind. The differences sum to those of the sizes.
    pub by: Vec<GrowthRow>,
    /// Mapped files of which 32 MiB or more were resident, as models are, changed or not, most first; at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<GrowthRow>,
}

/// Mappings of one class, and of one file where they have one, as far as they hold memory of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GrowthRow {
    /// "heap", "stack" (the main thread's), "arena" (malloc's beyond the first one), "anonymous" (all else without a file), "file", "shared" (tmpfs, memfd,
    /// System V), "special" (the kernel's), "others" (what had no room).
    pub class: String,
    /// The file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// "anonymous" (of a file: private pages that were written to), "file", "shared".
    pub kind: String,
    /// Resident at the first reading.
    pub first_bytes: u64,
    /// At the one with most.
    pub most_bytes: u64,
    /// At the last one.
    pub last_bytes: u64,
}

/// Resident memory at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Sizes {
    /// When.
    pub t_s: f64,
    /// Anonymous memory: heap, stacks, private pages that were written.
    pub anonymous_bytes: u64,
    /// Pages of mapped files, which can be dropped.
    pub file_bytes: u64,
    /// Shared memory (tmpfs, memfd).
    pub shared_bytes: u64,
    /// Swapped out.
    pub swapped_bytes: u64,
}

/// A memory cgroup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CgroupSizes {
    /// Its path in the hierarchy with the memory controller.
    pub path: String,
    /// Its own limit; absent: it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// From there on it is slowed down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high_bytes: Option<u64>,
    /// What is charged to it at the last reading.
    pub usage_bytes: u64,
    /// Of that anonymous memory.
    pub anonymous_bytes: u64,
    /// Page cache.
    pub file_bytes: u64,
    /// Shared memory.
    pub shared_bytes: u64,
    /// The kernel's for it.
    pub kernel_bytes: u64,
    /// Not yet written to its disk.
    pub dirty_bytes: u64,
    /// How often the limit was reached between the first and the last reading.
    pub limit_hits: u64,
    /// Kills for want of memory meanwhile; absent: the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// Pages of files that had to be read again meanwhile, in bytes; absent: the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refaulted_bytes: Option<u64>,
    /// Swapped out at the last reading; absent: nothing, or the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swapped_bytes: Option<u64>,
    /// The most that may be swapped out; absent: no limit of its own, or version 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_limit_bytes: Option<u64>,
    /// Anonymous memory that came back from swap soon after it had gone there, between the first and the last reading; absent: none, or
    /// the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refaulted_anonymous_bytes: Option<u64>,
    /// Time in which all of its tasks were stalled for memory; version 2 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure_full_s: Option<f64>,
    /// Memory that cannot be dropped (anonymous, shared, the kernel's) over time: [seconds, bytes]; at most 256 points, evenly thinned
    /// out.
    pub series: Vec<(f64, u64)>,
}

/// When a cgroup would reach its limit, as it looked at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Forecast {
    /// The moment.
    pub t_s: f64,
    /// The cgroup with the limit; absent: the host itself, with its memory and swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Memory that cannot be dropped, then.
    pub bytes: u64,
    /// The limit.
    pub limit_bytes: u64,
    /// Growth, by the median of slopes between pairs of the last 60 readings: some 15 seconds.
    pub bytes_per_s: f64,
    /// Time until the limit would be reached.
    pub eta_s: f64,
    /// The same by the steeper end of the slopes' interval (95 %).
    pub eta_low_s: f64,
    /// The same by the flatter end.
    pub eta_high_s: f64,
}

/// A file system in memory. What it holds counts as shared memory and page cache, and has a limit of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TmpfsSizes {
    /// Where it is mounted for the process below.
    pub path: String,
    /// Device number, "major:minor".
    pub device: String,
    /// The process that it was first seen by: others in its mount namespace see it at the same place.
    pub pid: u32,
    /// What it may hold, at the last reading.
    pub size_bytes: u64,
    /// What was in use at the first reading.
    pub first_bytes: u64,
    /// When it was fullest. Between two readings it may have been fuller.
    pub most_bytes: u64,
    /// The part of its size that was in use then.
    pub most_share: f64,
    /// When that was.
    pub most_t_s: f64,
    /// What was in use at the last reading.
    pub last_bytes: u64,
    /// When that was.
    pub last_t_s: f64,
    /// What was in use over time: [seconds, bytes]; at most 256 points, evenly thinned out.
    pub series: Vec<(f64, u64)>,
}

/// A process that died of SIGBUS: it touched a page of a mapped file that the file's end or file system did not give it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BusError {
    /// When.
    pub t_s: f64,
    /// The process, and the thread of it that ended first.
    #[serde(flatten)]
    pub whose: Whose,
    /// The file systems in memory that it could write to; absent: there was none, or what it saw is not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fillings: Vec<TmpfsFilling>,
}

/// How full a file system was when a process died.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TmpfsFilling {
    /// Its place in `tmpfs`.
    pub tmpfs: u64,
    /// What was in use at the last reading before.
    pub used_bytes: u64,
    /// The same as a part of its size.
    pub used_share: f64,
    /// How long before the death that was.
    pub before_s: f64,
    /// How fast it grew until then, by the reading before that one.
    pub bytes_per_s: f64,
}
