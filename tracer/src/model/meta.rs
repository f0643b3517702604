//! Payloads of the records that user space writes (family 0): JSON behind a [`Header`](tracer_common::record::Header).
//!
//! Whatever the pure stages need to know of the host, of the target or of the clock arrives as one of these, so that a replay
//! sees what the live run saw. Unknown fields are ignored and missing ones default, so captures of other versions still read.

use serde::{Deserialize, Serialize};

pub use super::meta_memory::*;
pub use super::meta_objects::*;

/// Kind `HOST`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostRecord {
    /// Version of the tracer that recorded.
    pub tracer_version: String,
    /// Its binary interface's version.
    pub abi_version: u32,
    /// Kernel release.
    pub kernel: String,
    /// Machine name as uname(2) gives it.
    pub arch: String,
    /// CPUs online.
    pub cpus: u32,
    /// Physical memory.
    pub memory_bytes: u64,
    /// "v1", "v2" or "hybrid".
    pub cgroup_version: String,
    /// Clock that event times come from.
    pub clock: String,
    /// How many mappings a process may have; 0: not known.
    pub max_map_count: u64,
}

/// Kind `TARGET`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetRecord {
    /// "run" or "record".
    pub mode: String,
    /// The command and its arguments, for `run`.
    pub command: Vec<String>,
    /// Processes named on the command line, or CMD's own.
    pub pids: Vec<u32>,
    /// The cgroup named on the command line.
    pub cgroup: Option<String>,
    /// The container named on the command line.
    pub container: Option<String>,
    /// The comm named on the command line.
    pub comm: Option<String>,
    /// Whether every thread of the host is traced.
    pub all: bool,
    /// The user that CMD runs as.
    pub user: Option<String>,
    /// Id or name of the thread whose critical path is wanted; none: CMD's main thread.
    pub focus: Option<String>,
    /// The function whose entries begin steps, as it was asked for.
    pub step: Option<String>,
}

/// Kind `FAMILIES`: a family that was asked for, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FamilyRecord {
    /// The family's id.
    pub family: String,
    /// "ready", "degraded" or "unavailable".
    pub status: String,
    /// Why it is not ready.
    pub reason: Option<String>,
}

/// Kind `START`. Its header's time is where the window starts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StartRecord {
    /// Time that it took from the start of the tracer to the last probe attached.
    pub attach_s: f64,
    /// CLOCK_REALTIME less CLOCK_MONOTONIC.
    pub unix_offset_ns: i64,
    /// CLOCK_BOOTTIME less CLOCK_MONOTONIC: time suspended since boot.
    pub boot_offset_ns: i64,
}

/// Kind `TICK`. All kernel records up to `complete_ts_ns` have been handed over before it, but for late ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TickRecord {
    /// See above.
    pub complete_ts_ns: u64,
    /// CLOCK_REALTIME less CLOCK_MONOTONIC.
    pub unix_offset_ns: i64,
    /// CLOCK_BOOTTIME less CLOCK_MONOTONIC.
    pub boot_offset_ns: i64,
}

/// Kind `LOSS`: the counters since tracing began, not differences. The last one counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LossRecord {
    /// One per family that runs.
    pub families: Vec<FamilyLoss>,
}

/// Part of [`LossRecord`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FamilyLoss {
    /// The family's id.
    pub family: String,
    /// Per CPU, in the order of CPUs.
    pub cpus: Vec<CpuLoss>,
    /// Events that never reached a program, because the kernel's recursion protection skipped it; not in `cpus`.
    pub recursion_misses: u64,
    /// Records that still lie in the rings.
    pub queued: u64,
}

/// Part of [`FamilyLoss`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuLoss {
    /// Events that passed the filter.
    pub seen: u64,
    /// Records handed to a ring.
    pub submitted: u64,
    /// Lost, by reason, in the order of [`LossReason::ALL`](tracer_common::loss::LossReason::ALL).
    pub lost: Vec<u64>,
    /// Wake-ups whose waker was forgotten.
    pub wakers_forgotten: u64,
}

/// Kind `LOCKS`: sums of contentions of kernel locks that were too short for a record, since their threads are traced. The last one
/// counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocksRecord {
    /// By process and kind; at most 1,025.
    pub short: Vec<ShortContentions>,
}

/// Part of [`LocksRecord`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShortContentions {
    /// The process; 0: those for which there was no room, of any process and kind.
    pub tgid: u32,
    /// The number of a [`Kind`](tracer_common::lock::Kind).
    pub kind: u8,
    /// How many.
    pub count: u64,
    /// How long, all together.
    pub ns: u64,
}

/// Kind `SEED`: a thread that existed when tracing began, as /proc showed it at the header's time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SeedRecord {
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// The process's parent.
    pub ppid: u32,
    /// Ids in its own pid namespace; 0: not known.
    pub ns_tid: u32,
    /// The process's.
    pub ns_tgid: u32,
    /// Name; bytes that are not UTF-8 are replaced.
    pub comm: String,
    /// CLOCK_BOOTTIME of its start.
    pub start_boot_ns: u64,
    /// State letter of /proc: R, S, D, T, t, Z, I...
    pub state: String,
    /// System call it is in; negative or absent: none or not known.
    pub syscall: Option<i64>,
    /// That call's arguments.
    pub args: [u64; 6],
    /// For a call that takes a file descriptor: number of the [`FdKind`](tracer_common::sched::FdKind).
    pub fd_kind: u8,
    /// Inode number behind that descriptor.
    pub inode: u64,
    /// For a futex wait: the six words at its address.
    pub futex_words: Option<[u32; 6]>,
    /// Where in its code it waits: see [`place`](tracer_common::stack::place).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<u32>,
    /// Path of the cgroup.
    pub cgroup: Option<String>,
    /// Container id that the cgroup's path names.
    pub container: Option<String>,
    /// CPU time used before tracing began.
    pub cpu_ns: u64,
    /// Whether it is a kernel thread.
    pub kernel_thread: bool,
    /// The kernel's priority: 100 to 139 is nice -20 to 19, below are realtime classes.
    pub priority: Option<u8>,
    /// CPUs that it may run on.
    pub cpus_allowed: Option<u16>,
}

/// Kind `ATTACHED`: what became of the stacks of threads that waited already when tracing began; once, when all were looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachedRecord {
    /// Threads that were found waiting, those without room included.
    pub threads: u64,
    /// Those whose stack was taken: they did not run meanwhile.
    pub taken: u64,
    /// Those that ran meanwhile, or had ended.
    pub moved: u64,
    /// Those for which there was no room.
    pub over: u64,
    /// Why there are none.
    pub reason: Option<String>,
}

/// Kind `NAME`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NameRecord {
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Its name.
    pub comm: String,
    /// Its priority, as in [`SeedRecord::priority`].
    pub priority: Option<u8>,
}

/// Kind `CPU_LIMITS`: counters that the kernel keeps of CPU time, as they stand; the difference of two records counts. Written where
/// they have changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuLimitsRecord {
    /// The host's CPUs, all or none of them.
    pub cpus: Vec<CpuTimes>,
    /// Cgroups with a CPU quota, of those that traced threads are in and of their ancestors.
    pub cgroups: Vec<CgroupCpu>,
    /// Traced threads that are in one of these, or below it.
    pub members: Vec<CgroupMember>,
}

/// Part of [`CpuLimitsRecord`]: times since boot, to the kernel's tick.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuTimes {
    /// The CPU.
    pub cpu: u16,
    /// Time for tasks.
    pub busy_ns: u64,
    /// Time without anything to do, waiting for devices included.
    pub idle_ns: u64,
    /// Time in interrupts.
    pub irq_ns: u64,
    /// Time in softirqs.
    pub softirq_ns: u64,
    /// Time that the hypervisor gave to others although this CPU had something to do.
    pub steal_ns: u64,
}

/// Part of [`CpuLimitsRecord`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CgroupCpu {
    /// Path in the hierarchy that has the CPU controller.
    pub path: String,
    /// CPU time that it may use in each period.
    pub quota_ns: u64,
    /// Length of a period.
    pub period_ns: u64,
    /// Periods in which it had something to run.
    pub periods: u64,
    /// Those in which its quota was used up.
    pub throttled_periods: u64,
    /// Time for which its queues, one per CPU, were held back, summed up.
    pub throttled_ns: u64,
}

/// Part of [`CpuLimitsRecord`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CgroupMember {
    /// The thread; a process's id stands for its threads that are not named themselves.
    pub tid: u32,
    /// Path of its cgroup in the same hierarchy.
    pub path: String,
}

/// Kind `COST`: what tracing cost so far. Left out of comparisons between a live report and its replay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CostRecord {
    /// Of this much time the kernel measured its programs' run time.
    pub measured_s: f64,
    /// Per program.
    pub programs: Vec<ProgramCost>,
    /// User and system CPU time of the tracer.
    pub tracer_cpu_s: f64,
    /// Greatest resident memory of the tracer, rings included.
    pub tracer_rss_bytes: u64,
    /// Bytes of all rings.
    pub ring_bytes: u64,
}

/// Part of [`CostRecord`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgramCost {
    /// The program.
    pub name: String,
    /// Runs while measured.
    pub runs: u64,
    /// Nanoseconds of these runs.
    pub ns: u64,
}

/// Kind `END`. Its header's time is where the window ends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndRecord {
    /// "target-ended", "duration", "interrupted", "error".
    pub reason: String,
    /// CMD's wait status as an exit code (128+n for a signal), for `run`.
    pub exit_code: Option<i32>,
    /// Failed writes to the capture, chunks that did not reach the file.
    pub capture_failed_writes: u64,
    /// Records in these chunks, and records that rotation dropped.
    pub capture_dropped_records: u64,
}

/// Kind `MODULE`: a file that frames lie in. Comes before the first frame that names it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModuleRecord {
    /// Its number in this capture.
    pub id: u32,
    /// Path as the process saw it; `[vdso]` for the kernel's page.
    pub path: String,
    /// Build id, in hexadecimal.
    pub build_id: Option<String>,
    /// The file had no name any more when it was looked at.
    pub deleted: bool,
}

/// What a frame is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum FrameKind {
    /// Code of a file: `module` and `address` (virtual address in that file).
    Native,
    /// Kernel code at `address`.
    Kernel,
    /// A Python function: `function`, `file`, `line`.
    Python,
    /// Memory that is executable but of no file: code made at run time. One frame per mapping, never per address.
    Jit,
    /// An address that lies in nothing known, or a kind of a newer tracer.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Kind `FRAME`. Comes before the first stack that names it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FrameRecord {
    /// Its number in this capture.
    pub id: u32,
    /// See [`FrameKind`].
    pub frame_kind: FrameKind,
    /// The file, for native frames.
    pub module: Option<u32>,
    /// Virtual address in the file, kernel address, or the start of the mapping. Calls: an address within the call instruction.
    pub address: u64,
    /// Qualified name of a Python function.
    pub function: Option<String>,
    /// Its file.
    pub file: Option<String>,
    /// The line that runs.
    pub line: Option<u32>,
}

/// How a stack ended at its outer end.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum StackEnd {
    /// At the thread's start; for a kernel thread at the end of the kernel's stack.
    Whole,
    /// Longer than what is copied or followed.
    Cut,
    /// A part of the stack was not readable.
    Unreadable,
    /// At code without unwind information: `at_module` says in which file.
    NoUnwindInfo,
    /// The process was gone before its mappings could be read.
    ProcessGone,
    /// There was no user stack to be read: the thread was ending.
    NoUserStack,
    /// For another reason, or one of a newer tracer.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Kind `STACK`. Comes before the first sample that has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StackRecord {
    /// Its id: a 64-bit hash of what follows; never 0.
    pub id: u64,
    /// Numbers of its frames, the innermost first: kernel, then native and Python in the order of calls.
    pub frames: Vec<u32>,
    /// How it ended.
    pub end: StackEnd,
    /// The file in which it ended, for `no-unwind-info`.
    pub at_module: Option<u32>,
    /// A part was found by a search for return addresses, since code made at run time has no unwind information.
    pub rescued: bool,
    /// Python frames were read but do not fit the native ones: they stand at their best place, or not at all.
    pub python_misfit: bool,
    /// How reading the Python frames ended, where it did not end well: "cut", "unreadable", "unknown-version", "process-gone".
    pub python_end: Option<String>,
}

/// One name at an address. Part of [`SymbolRecord`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SymbolName {
    /// Demangled.
    pub function: String,
    /// Source file.
    pub file: Option<String>,
    /// Line in it.
    pub line: Option<u32>,
    /// This function was inlined into the one after it.
    pub inlined: bool,
}

/// Kind `SYMBOL`: written after the run. The last one of a frame counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SymbolRecord {
    /// The frame.
    pub frame: u32,
    /// Its names, the innermost inlined function first; empty: none is known.
    pub names: Vec<SymbolName>,
    /// Why there is none, in a word: "no-symbols", "not-covered", "unreadable", "timed-out".
    pub missing: Option<String>,
}

/// Kind `PYTHON`: a process that runs CPython, when its first stack came, and again after an exec. A forked child has what its parent
/// has until a record of its own comes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PythonRecord {
    /// The process.
    pub tgid: u32,
    /// As in "3.11.7".
    pub version: String,
    /// Addresses of the interpreter's global state.
    pub runtime: Addresses,
    /// Addresses of the futexes on which threads wait that want the interpreter lock; absent: not known.
    pub gil: Option<Addresses>,
    /// Addresses of those on which the thread waits that has given it up on demand, until another one has it.
    pub gil_handed_over: Option<Addresses>,
    /// The file with the interpreter.
    pub module: u32,
    /// Addresses in that file of the collector of garbage; empty: not known.
    pub collector: Vec<Addresses>,
}

/// Part of [`PythonRecord`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Addresses {
    /// The first one.
    pub start: u64,
    /// The one behind the last one.
    pub end: u64,
}

impl Addresses {
    /// Whether an address is one of them.
    pub fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }
}

impl From<std::ops::Range<u64>> for Addresses {
    fn from(range: std::ops::Range<u64>) -> Self {
        Addresses { start: range.start, end: range.end }
    }
}

/// Kind `DATABASE`: a library whose calls are looked at from this time on, or a statement that was met.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatabaseRecord {
    /// Path of a client's library.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library: Option<String>,
    /// A statement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement: Option<StatementText>,
}

/// A statement by its number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatementText {
    /// From 1 on.
    pub statement: u32,
    /// "sqlite", "postgresql" or "mysql".
    pub client: String,
    /// Without values.
    pub text: String,
}

/// Kind `STEPS`: a Python function whose entries begin steps was found in a process, and from this time on they are seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepsRecord {
    /// The process.
    pub tgid: u32,
    /// The function, qualified where the interpreter tells that.
    pub function: String,
    /// Its file.
    pub file: String,
    /// Why its entries are not seen, or not those of all threads; none: they are.
    pub failed: Option<String>,
}
