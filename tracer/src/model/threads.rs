//! The report's section `threads`: what each thread did and what it waited for. Plain data.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stacks::{FunctionTime, Phase, SpunFunction};

/// A row of the thread table: one thread, or what all threads without a row of their own have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Row {
    /// One thread.
    Thread(Box<Thread>),
    /// The last row, told by its key `others`.
    Others(Others),
}

/// Threads without a row of their own, summed up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Others {
    /// How many threads.
    pub others: u64,
    /// Sum of their wall times.
    pub wall_s: f64,
    /// Sums of their states; they sum to `wall_s`.
    pub states: BTreeMap<String, f64>,
    /// Sum of their switches off a CPU.
    pub switches: u64,
    /// How many of these were pre-emptions.
    pub preemptions: u64,
}

/// One thread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Thread {
    /// Its process. Absent for a thread of which only switches were seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The thread.
    pub tid: u32,
    /// The process's id in its own pid namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_pid: Option<u32>,
    /// The thread's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_tid: Option<u32>,
    /// When it was created; can lie before the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_unix_ns: Option<u64>,
    /// When it ended; absent: it outlived the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_unix_ns: Option<u64>,
    /// Its last name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Names it had before, oldest first; at most 8.
    pub names_before: Vec<String>,
    /// Last name of its process's leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Path of its cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The container's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The process that forked its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_pid: Option<u32>,
    /// Time that it existed within the window and was seen.
    pub wall_s: f64,
    /// Time per state. The keys that this recording can tell are all there; they sum to `wall_s`.
    pub states: BTreeMap<String, f64>,
    /// What the state `other` consists of, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[serde(default)]
    pub other_detail: BTreeMap<String, f64>,
    /// Why the time in the state `unknown` is: "lost-records", "unseen-switch" (a switch is missing that nothing counts as lost),
    /// "unread-reason" (it waited, and for what could not be read).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[serde(default)]
    pub unknown_detail: BTreeMap<String, f64>,
    /// Of the time on a CPU, that for which the hypervisor or interrupts had it, at least: what the scheduler's own account of the thread
    /// leaves out. Absent: not known, as of a thread that was not seen from its start to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub taken_s: Option<f64>,
    /// How often it left a CPU.
    pub switches: u64,
    /// How often it was pushed off.
    pub preemptions: u64,
    /// How often a CPU quota held it back; the time is the state `throttled`. Absent when 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub throttles: Option<u64>,
    /// The longest of these times.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub throttle_max_s: Option<f64>,
    /// The cgroup that it is in, where that or an ancestor has a CPU quota: path in the hierarchy with the CPU controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub cpu_cgroup: Option<String>,
    /// Its nice value, last known. Absent: not known, or it is of a realtime class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub nice: Option<i32>,
    /// CPUs that it may run on, last known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub cpus_allowed: Option<u32>,
    /// For whom it waited while it was ready. Absent where it never waited for a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub queued: Option<Queued>,
    /// How it waited on a CPU. Absent where it was not seen to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub spinning: Option<Spinning>,
    /// Its syncs of files. Absent where there were none, or their file systems do not tell (ext4, f2fs and NFS do), and without the family
    /// `writeback`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub syncs: Option<Syncs>,
    /// What it waited for, by descending total; at most 8.
    pub waits: Vec<Wait>,
    /// What it computed, spinning left out, by descending time that samples estimate; at most 4. Of two threads that had the same ids one after the
    /// other, both have the times of both.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(default)]
    pub functions: Vec<FunctionTime>,
    /// Of its time on a CPU what went to the runtime's own doings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(default)]
    pub phases: Vec<Phase>,
    /// What it read and wrote, where that is known: of threads that wait for pipes or sockets, and of those that moved 1 MiB and ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub io: Option<ThreadIo>,
}

/// The kernel's own counts of what a thread moved by read(2), write(2) and their like, of all its files, pipes and sockets together.
/// What sockets' own calls (send, recv) moved is not in them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ThreadIo {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Calls that read.
    pub reads: u64,
    /// Calls that wrote.
    pub writes: u64,
    /// In this much time: between the two times at which the counts are known. The last one may lie up to a quarter of a second behind
    /// the window's end.
    pub over_s: f64,
}

/// All waits of one thread for one thing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Wait {
    /// The state, as in [`Thread::states`].
    pub state: String,
    /// What it waited for: the address of a futex (`0x7f...`), `pipe:[inode]`, `socket:[inode]`, `inode:[inode]`. Absent: not
    /// known, or several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Path of that file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub path: Option<String>,
    /// That pipe or socket in words: from whom, to whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub ends: Option<String>,
    /// The system call, or what else tells the wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How many waits.
    pub count: u64,
    /// Time waited.
    pub total_s: f64,
    /// The longest wait.
    pub max_s: f64,
    /// Whether it still waited when the window ended; that wait is counted.
    pub open: bool,
    /// Live threads of the same process that held the lock when a wait began, by descending count; at most 8. Empty: not known.
    pub owners: Vec<Owner>,
    /// The kind of lock, where an owner was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_kind: Option<String>,
    /// Waits that a thread of the same process ended by ending itself: joins. Absent when 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joins: Option<u64>,
    /// What ended the waits, by descending count; at most 8.
    pub wakers: Vec<Waker>,
    /// Functions in which it waited, by descending time, as far as stacks were taken; at most 4.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(default)]
    pub places: Vec<FunctionTime>,
    /// Functions in which the traced threads were that ended these waits, with the time of the waits that each ended; of stacks taken
    /// in proportion to waiting, not below interrupts; at most 4.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(default)]
    pub woken_in: Vec<FunctionTime>,
}

/// How a thread waited on a CPU, which is its time in the state `spinning`: the greater of what samples estimate and of what its calls
/// of sched_yield measure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spinning {
    /// Its samples that lie in a function that waits.
    pub samples: u64,
    /// All its samples on a CPU.
    pub of_samples: u64,
    /// How often it gave its CPU to another thread by sched_yield.
    pub yields: u64,
    /// Its time on a CPU between such calls, where it was at most 200 us.
    pub yielded_s: f64,
    /// In which functions it spun, by descending time; at most 4.
    pub functions: Vec<SpunFunction>,
}

/// All waits of one thread for a CPU. The sums are those waits that ended in the window, by who had the CPU meanwhile on which the
/// thread ran next. Of times in which no traced thread had that CPU only the first and the last thread are seen: where these are the
/// same, the time counts as its; where the wait began within that time, as that of the last one; else as that of others without a
/// name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Queued {
    /// How many waits.
    pub waits: u64,
    /// Times that the CPU was given to another thread meanwhile, as far as that was seen.
    pub passed_over: u64,
    /// The longest.
    pub max_s: f64,
    /// Behind threads of the same workload: traced ones, or of the same process where the whole host is traced.
    pub siblings_s: f64,
    /// Behind threads that do not belong to it.
    pub others_s: f64,
    /// Of these, behind threads that are not known by name.
    pub unnamed_s: f64,
    /// Of both, behind threads with a better priority, as far as they are itemised and both priorities are known.
    pub better_priority_s: f64,
    /// While that CPU was idle: waking up takes time.
    pub idle_s: f64,
    /// Behind whom cannot be told: records are missing, or the wait was long ago begun.
    pub unknown_s: f64,
    /// Behind whom, by descending time; at most 8.
    pub behind: Vec<QueuedBehind>,
}

/// A thread that had the CPU while another was ready.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct QueuedBehind {
    /// Its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The thread.
    pub tid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// Its process's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Its nice value, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nice: Option<i32>,
    /// Whether it belongs to the workload.
    pub sibling: bool,
    /// For how long.
    pub total_s: f64,
}

/// What a thread's calls of fsync, and calls like it, took from when the file system began with them until it was done: exact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Syncs {
    /// How many.
    pub count: u64,
    /// All together.
    pub total_s: f64,
    /// Of it on a CPU.
    pub on_cpu_s: f64,
    /// Of it ready, without a CPU. The rest it waited.
    pub ready_s: f64,
}

/// A thread that held a lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Owner {
    /// Its process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The id by which the lock's memory names it.
    pub ns_tid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// In how many waits it was seen.
    pub count: u64,
}

/// From where a thread was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Context {
    /// Another thread woke it; the only context with a `tid`.
    Task,
    /// A timer expired.
    Timer,
    /// A device's interrupt.
    Device,
    /// Another interrupt.
    Interrupt,
    /// Not known.
    Unknown,
}

impl Context {
    /// The word in reports.
    pub const fn id(self) -> &'static str {
        match self {
            Context::Task => "task",
            Context::Timer => "timer",
            Context::Device => "device",
            Context::Interrupt => "interrupt",
            Context::Unknown => "unknown",
        }
    }
}

/// What ended waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Waker {
    /// From where.
    pub context: Context,
    /// The waking thread's process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The waking thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// Its process's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// How often.
    pub count: u64,
}
