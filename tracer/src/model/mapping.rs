//! The report's section `mapping`: calls that change address spaces (mmap, munmap, brk, mremap, madvise). Plain data. What a process's
//! memory consists of is in `memory`, page faults are in `paging`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stacks::Location;

/// Calls that change address spaces, as they were asked for: one that fails counts as any other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Mapping {
    /// By process, most calls first; at most 32.
    pub processes: Vec<ProcessMapping>,
    /// Calls of processes beyond the bounds (4,096 counted, 32 told).
    #[serde(skip_serializing_if = "is_zero")]
    pub calls_of_others: u64,
    /// How many mappings a process may have (vm.max_map_count).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mappings_limit: Option<u64>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One process's calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ProcessMapping {
    /// The process.
    pub pid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// All of them. Exact, but for what `kinds` says.
    pub calls: u64,
    /// By kind, those that there are: "mmap" (without a file), "mmap_file", "mmap_fixed" (within what was mapped before: MAP_FIXED),
    /// "munmap", "brk_grow", "brk_shrink", "mremap_grow", "mremap_shrink", "mremap_move" (to the same size), "madvise_free"
    /// (MADV_DONTNEED, MADV_FREE: on kernels from 6.17 on only calls that took pages from the process, as far as the family `fault` sees that, or
    /// that span several mappings), "madvise_other" (MADV_HUGEPAGE and other advice for which the kernel locks the address space for writing).
    /// Not among them: mappings that the kernel makes when a program is executed, 32-bit calls, shmat, mprotect.
    pub kinds: BTreeMap<String, MapCalls>,
    /// Time between the first and the last.
    pub duration_s: f64,
    /// mmap and munmap together per second of that time; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mmap_munmap_per_s: Option<f64>,
    /// Bytes by which mmap, brk and mremap were to make the address space larger.
    pub mapped_bytes: u64,
    /// Bytes by which munmap, brk and mremap were to make it smaller.
    pub unmapped_bytes: u64,
    /// What was mapped less what was unmapped.
    pub balance_bytes: i64,
    /// Mappings that it had before its last call; absent: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mappings_last: Option<u64>,
    /// The most that it had before a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mappings_most: Option<u64>,
    /// The threads with most calls; at most 4.
    pub threads: Vec<ThreadMapping>,
    /// Which functions mapped most, most bytes first; at most 4. Estimated: a stack is taken of some calls, more probably of those that map much.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<MapFunction>,
}

impl ProcessMapping {
    /// Calls of these kinds.
    pub fn of(&self, kinds: &[&str]) -> u64 {
        let calls = kinds.iter().filter_map(|kind| self.kinds.get(*kind));
        calls.fold(0, |sum, calls| sum.saturating_add(calls.count))
    }
}

/// Calls of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MapCalls {
    /// How many.
    pub count: u64,
    /// Bytes that they asked for, each in whole pages; of brk and mremap the difference.
    pub bytes: u64,
}

/// One thread's calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ThreadMapping {
    /// The thread.
    pub tid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// How many.
    pub calls: u64,
}

/// What one function mapped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MapFunction {
    /// The function.
    #[serde(flatten)]
    pub location: Location,
    /// Bytes that it mapped, by stacks.
    pub bytes: u64,
    /// Share of the process's, by stacks.
    pub share: f64,
    /// Stacks that were taken, of all functions.
    pub stacks: u64,
}
