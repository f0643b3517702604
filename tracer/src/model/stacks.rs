//! The report's section `stacks`: which functions used the CPUs, which waited, and how good the stacks are that say so. Plain data.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::FrameKind;

/// Stacks of samples and waits; absent where the family `cpu` did not run.
///
/// The function that a stack is put down to is its innermost Python function, if it has one; else its innermost native function
/// that is not of the C or C++ library and does not merely wait or lock for its caller; else what is innermost.
///
/// Threads are told by (process, thread id): of two that had the same pair one after the other, both have the times of both. A place
/// is a hash of (process, instruction, stack pointer) in 24 bits: two places of one process that share it (1 in 16
/// million per pair) are taken for one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Stacks {
    /// Samples of threads on a CPU.
    pub samples: u64,
    /// Mean time that one stands for. Absent without samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_period_s: Option<f64>,
    /// One over that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_hz: Option<f64>,
    /// Time on a CPU, as the samples estimate it.
    pub sampled_s: f64,
    /// The same, measured by the family `sched`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_cpu_s: Option<f64>,
    /// `sampled_s` over `on_cpu_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampled_over_on_cpu: Option<f64>,
    /// Stacks taken as a wait began.
    pub captures: u64,
    /// Of these, taken at a place that had been captured before.
    pub recaptured: u64,
    /// Of these, places whose stack was another one than before.
    pub changed: u64,
    /// `changed` over `recaptured`: how wrong it is to take one stack for all waits at a place. Absent without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_share: Option<f64>,
    /// Time that threads waited, measured. The two below sum to it.
    pub waited_s: f64,
    /// Of this, time with a stack.
    pub waited_with_stack_s: f64,
    /// Time without one, by reason: "no-place" (the wait began before tracing, or the thread is the kernel's), "not-captured" (no
    /// stack was taken there), "no-room" (one was taken and found no room), "not-recorded" (the recording lacks it).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub waited_without_stack: BTreeMap<String, f64>,
    /// Of `captures`, the stacks of threads that waited already when the tracer attached to them. Absent under `run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_attach: Option<AtAttach>,
    /// How these times come about, in a sentence.
    pub estimator: String,
    /// Stacks with at least one Python frame, over all stacks of samples and captures. Absent without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub python_share: Option<f64>,
    /// Set where frames have no names at all: "unsymbolised (build id + offset)".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsymbolised: Option<String>,
    /// Definitions of stacks, frames, files and names that found no room. Absent when 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definitions_without_room: Option<u64>,
    /// Definitions that contradict an earlier one: the recording is damaged. Absent when 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definitions_contradicting: Option<u64>,
    /// Samples before and behind the window. Absent when 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outside_window: Option<u64>,
    /// How stacks ended, per process and kind, by descending number of stacks; at most 32 rows, then one per kind without a `pid`.
    pub quality: Vec<StackQuality>,
    /// Files whose code has no unwind information, by stacks that ended there; at most 16.
    pub no_unwind_files: Vec<FileCount>,
    /// Functions by time on a CPU: the 16 with most `self_s` and the 16 with most `inclusive_s`, by `self_s`.
    pub functions: Vec<CpuFunction>,
    /// Waits by descending time; at most 24.
    pub waits: Vec<WaitFunction>,
    /// The stacks that the two lists above name; at most 32.
    pub stacks: Vec<ShownStack>,
}

/// What became of the stacks of threads that waited already when tracing began. `taken`, `moved` and `over` sum to `threads`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AtAttach {
    /// Threads that waited.
    pub threads: u64,
    /// Those whose stack was taken.
    pub taken: u64,
    /// Those that ran before their stack was copied, or had ended: what was copied was thrown away.
    pub moved: u64,
    /// Those for which there was no room: stacks of 4,096 threads are taken.
    pub over: u64,
    /// Why there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How the stacks of a process ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StackQuality {
    /// The process; absent: all further ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// "on-cpu": samples; "wait": stacks taken as waits began.
    pub kind: String,
    /// How many.
    pub stacks: u64,
    /// By how they ended; sums to `stacks`. "whole": at the thread's start; "rescued": there too, but a part was found by a search
    /// since code made at run time has no unwind information; "cut": longer than what is copied or followed; "unreadable";
    /// "no-unwind-info"; "process-gone"; "no-user-stack"; "unknown"; "no-room" and "not-recorded": there is no stack.
    pub ends: BTreeMap<String, u64>,
    /// "whole" and "rescued" over `stacks` less "no-user-stack": a thread that is ending has no user stack any more. Absent where all
    /// were so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole_share: Option<f64>,
    /// Stacks with at least one Python frame.
    pub python: u64,
    /// Stacks whose Python frames do not fit the native ones.
    pub python_misfit: u64,
    /// How reading Python frames ended, where not well.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub python_ends: BTreeMap<String, u64>,
    /// Frames of all these stacks.
    pub frames: u64,
    /// Of these, frames with a name.
    pub frames_named: u64,
    /// `frames_named` over `frames`. Absent without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named_share: Option<f64>,
    /// For samples: time on a CPU that they estimate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampled_s: Option<f64>,
    /// The same, measured by the family `sched`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_cpu_s: Option<f64>,
}

/// A file and a number of stacks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FileCount {
    /// Path as the process saw it.
    pub file: String,
    /// Its build id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// How many.
    pub stacks: u64,
}

/// A function, and the line of it that counts most.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Location {
    /// Its name; of an unnamed address: the file's name and the address in it. Absent where there is no stack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// `function` is no name: nothing named the address.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unsymbolised: bool,
    /// Source file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<FrameKind>,
    /// The file that its code lies in, for native code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
}

/// A thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Whose {
    /// The process. Of a function that used CPUs, that and the three below tell the thread in which most of its time went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The thread's name. Of a wait, that of all the threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// The thread. Of a wait, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
}

/// A function that used CPUs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CpuFunction {
    /// Which.
    #[serde(flatten)]
    pub location: Location,
    /// Samples put down to it.
    pub samples: u64,
    /// Time put down to it.
    pub self_s: f64,
    /// That over all sampled time.
    pub self_share: f64,
    /// Time of stacks that hold it, each counted once. Where a stack has Python functions only these count.
    pub inclusive_s: f64,
    /// That over all sampled time.
    pub inclusive_share: f64,
    /// The innermost function most often below it, where that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inside: Option<String>,
    /// The thread in which most of its time went.
    #[serde(flatten)]
    pub whose: Whose,
    /// Threads in which it was seen.
    pub threads: u64,
    /// Its commonest stack, where the report holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
}

/// A function in which threads of one name waited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WaitFunction {
    /// Which; without a function where no stack was taken.
    #[serde(flatten)]
    pub location: Location,
    /// The state, as in `threads`.
    pub state: String,
    /// What tells it further, for the state `other`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Why there is no stack, as the keys of `waited_without_stack`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_stack: Option<String>,
    /// The threads, all of one name; `tid` only where it is one.
    #[serde(flatten)]
    pub whose: Whose,
    /// Threads of this name that waited there.
    pub threads: u64,
    /// Waits, rounded where a place has several stacks.
    pub waits: u64,
    /// Time waited.
    pub total_s: f64,
    /// Its commonest stacks, as far as the report holds them; at most 2.
    pub stacks: Vec<String>,
}

/// A stack with its frames' names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ShownStack {
    /// Its id, in hexadecimal.
    pub id: String,
    /// How it ended, as the keys of `ends`.
    pub end: String,
    /// Innermost first; inlined functions have a line of their own.
    pub frames: Vec<ShownFrame>,
}

/// A line of a stack.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ShownFrame {
    /// The function.
    #[serde(flatten)]
    pub location: Location,
    /// Inlined into the next one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub inlined: bool,
    /// Of an unnamed address: the file's build id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
}

/// A thread's time in one function.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FunctionTime {
    /// Which.
    #[serde(flatten)]
    pub location: Location,
    /// How long.
    pub total_s: f64,
}

/// A function in which a thread waited on a CPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SpunFunction {
    /// Which.
    #[serde(flatten)]
    pub location: Location,
    /// For what, in words.
    pub waits_for: String,
    /// The function of the program that called it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<Location>,
    /// How long.
    pub total_s: f64,
}

/// [`Phase::phase`] of time below CPython's collector of cyclic garbage.
pub const PYTHON_GC: &str = "python-gc";

/// [`Phase::phase`] of time in the kernel below calls that write a file's data to its disk.
pub const SYNC: &str = "sync";

/// [`Phase::phase`] of time on a CPU in the kernel below calls that read a file: what reading costs besides the waiting.
pub const FILE_READ: &str = "file-read";

/// [`Phase::phase`] of time in the kernel below calls that write a file: copying what is written into the page cache.
pub const FILE_WRITE: &str = "file-write";

/// [`Phase::phase`] of time on a CPU below functions of a database's client: SQLite's own work, or packing and unpacking.
pub const DATABASE: &str = "database";

/// [`Phase::phase`] of time in which the kernel frees memory for the thread, or moves pages.
pub const RECLAIM: &str = "reclaim";

/// [`Phase::phase`] of time in which the kernel pins memory: brings in its pages and keeps them there.
pub const PIN: &str = "pin";

/// [`Phase::phase`] of time in which the kernel handles a page fault.
pub const PAGE_FAULT: &str = "page-fault";

/// [`Phase::phase`] of time in which the kernel takes back memory that the thread gives up.
pub const UNMAP: &str = "unmap";

/// [`Phase::phase`] of time on a CPU in the kernel to sleep at a futex and to wake who sleeps there: what a contended lock costs besides
/// the waiting.
pub const FUTEX: &str = "futex";

/// [`Phase::phase`] of time below the C library's malloc and free, the kernel's part of it aside.
pub const ALLOCATOR: &str = "allocator";

/// [`Phase::phase`] of time in the kernel below reads and writes of pipes and unix sockets.
pub const IPC_COPY: &str = "ipc-copy";

/// [`Phase::phase`] of time in which Python's multiprocessing pickles what it sends, and puts together what it receives.
pub const IPC_PACK: &str = "ipc-pack";

/// Time on a CPU below one function of a runtime, whatever ran there, by samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Phase {
    /// "python-gc": CPython's collector of cyclic garbage; "sync": fsync and calls like it, in the kernel; "ipc-copy": reads and writes
    /// of pipes and unix sockets, in the kernel; "file-read" and "file-write": of files, likewise; "ipc-pack": Python's multiprocessing around these, pickling included; in the kernel also
    /// "reclaim": freeing memory, "page-fault": page faults but for that, "unmap": giving memory back.
    pub phase: String,
    /// How long, as the samples estimate it.
    pub s: f64,
    /// Samples.
    pub samples: u64,
    /// Functions that it came from, as stacks are put down to functions; at most 4.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<FunctionTime>,
}
