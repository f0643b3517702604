//! The report, as JSON gives it (`tracer-report/1`). Plain data: the types, their schema, and nothing that computes a number.
//!
//! Numbers are SI base units with the unit in the key. What is not known is absent, never 0 or null. Lists have a defined order
//! and maps are sorted, so the same records always give the same bytes. Only `generator` and `overhead` may differ between a
//! live run and a replay of its capture.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::critical_path::{CriticalPath, Explanation};
pub use super::stacks::{FunctionTime, Stacks};

pub use super::finding::{Comparison, Evidence, Finding, RuleOutcome, RuleStatus, Severity, Subject, Verdict};

/// The value of [`Report::schema`].
pub const SCHEMA: &str = "tracer-report/1";

/// What a person or a file gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Name and version of this format.
    pub schema: String,
    /// What wrote this report.
    pub generator: Generator,
    /// Where it was recorded.
    pub host: Host,
    /// What was traced.
    pub target: Target,
    /// When.
    pub window: Window,
    /// The answer in one word.
    pub verdict: Verdict,
    /// Why that word, in a sentence.
    pub verdict_reason: String,
    /// What limits, most important first.
    pub findings: Vec<Finding>,
    /// Seen, but under the reporting thresholds.
    pub observed: Vec<Finding>,
    /// What became of each rule.
    pub rules: Vec<RuleOutcome>,
    /// Threads by descending wall time, then on-CPU time, then tid; last, where threads were left out, one row for these.
    pub threads: Vec<Row>,
    /// CPU use; absent without the family `sched`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Waits on futexes and for locks of the kernel; absent without the family `sched`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locks: Option<Locks>,
    /// What the wall time of CMD's main thread went to; absent without CMD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub critical_path: Option<CriticalPath>,
    /// Which functions used the CPUs and which waited; absent without the family `cpu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stacks: Option<Stacks>,
    /// How much of what happened was seen.
    pub coverage: Coverage,
    /// What tracing cost; live runs only, or as far as the capture says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overhead: Option<Overhead>,
}

/// What wrote a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Generator {
    /// The tracer's version.
    pub version: String,
    /// Its binary interface's version.
    pub abi: u32,
}

/// The host that recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Host {
    /// Kernel release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Machine name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// CPUs online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Physical memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// "v1", "v2" or "hybrid".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_version: Option<String>,
    /// Clock that event times come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<String>,
}

/// What was traced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Target {
    /// "run" or "record".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The command and its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Processes named on the command line, or the command's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<Vec<u32>>,
    /// The cgroup named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The container named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The thread name named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// Whether every thread of the host is traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// The user that the command ran as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// The time that the report is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Window {
    /// Start, as UNIX time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_unix_ns: Option<u64>,
    /// Length; all times below are clipped to it.
    pub duration_s: f64,
    /// Whether the recording ended in order.
    pub complete: bool,
    /// Why it is not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clipped_reason: Option<String>,
    /// Time in which the whole host was suspended; not part of `duration_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspended_s: Option<f64>,
    /// What ended it: "target-ended", "duration", "interrupted", "error".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<String>,
    /// The command's exit code (128 + n for a signal).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Time from the tracer's start to the last probe attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attach_s: Option<f64>,
}

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
    /// What it waited for, by descending total; at most 8.
    pub waits: Vec<Wait>,
    /// What it computed, by descending time that samples estimate; at most 4. Of two threads that had the same ids one after the
    /// other, both have the times of both.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(default)]
    pub functions: Vec<FunctionTime>,
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

/// CPU use of the target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cpu {
    /// CPU time of all traced threads.
    pub on_cpu_s: f64,
    /// Time that they waited for a CPU.
    pub runnable_s: f64,
    /// CPU time over the time that the host's CPUs offered; absent where their number is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_share: Option<f64>,
    /// CPUs that the traced threads wanted on average: CPU time and time ready, over the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub wanted_cpus: Option<f64>,
    /// Time that CPU quotas held threads back. Absent where the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub throttled_s: Option<f64>,
    /// Cgroups with a CPU quota, of those of traced threads and of their ancestors: longest held back first, then by path; at most
    /// 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(default)]
    pub quotas: Vec<CpuQuota>,
    /// What all of the host's CPUs did; absent where their counters were not read twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub host: Option<HostCpu>,
    /// Threads seen, those without a row included.
    pub threads: u64,
    /// Processes seen.
    pub processes_seen: u64,
    /// Processes by descending CPU time, then pid; at most 32. They include threads without a row.
    pub processes: Vec<Process>,
}

/// A cgroup with a CPU quota. Its counters are the kernel's own, from the time on at which the tracer found the cgroup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CpuQuota {
    /// Path in the hierarchy with the CPU controller.
    pub cgroup: String,
    /// CPUs that it may use: quota over period.
    pub cpus: f64,
    /// Length of a period.
    pub period_s: f64,
    /// Periods in which it had something to run.
    pub periods: u64,
    /// Those in which its quota was used up.
    pub throttled_periods: u64,
    /// Time for which its queues, one per CPU, were held back, summed up.
    pub throttled_s: f64,
    /// Time in the state `throttled` of the traced threads in it or below it.
    pub threads_throttled_s: f64,
}

/// What the host's CPUs did, by the kernel's counters (/proc/stat); whoever used them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostCpu {
    /// Time for tasks.
    pub busy_s: f64,
    /// Time without anything to do.
    pub idle_s: f64,
    /// Time in interrupts.
    pub irq_s: f64,
    /// Time in softirqs.
    pub softirq_s: f64,
    /// Time that the hypervisor gave to others.
    pub steal_s: f64,
    /// Of the time in which the CPUs had something to do the part in interrupts and softirqs; 0 where there was none.
    pub irq_share: f64,
    /// And the part that the hypervisor gave to others.
    pub steal_share: f64,
    /// Idle time of each CPU, the most idle first; at most 64.
    pub idle: Vec<CpuIdle>,
}

/// Idle time of one CPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CpuIdle {
    /// The CPU.
    pub cpu: u32,
    /// Time without anything to do.
    pub idle_s: f64,
}

/// One process, all its threads summed up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Process {
    /// The process.
    pub pid: u32,
    /// Last name of its leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// The process that forked it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_pid: Option<u32>,
    /// Threads seen.
    pub threads: u64,
    /// Sum of their wall times.
    pub wall_s: f64,
    /// Sum of their CPU times.
    pub on_cpu_s: f64,
    /// Sum of the times that they waited for a CPU.
    pub runnable_s: f64,
    /// Their switches off a CPU.
    pub switches: u64,
}

/// Waits on futexes and for locks of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Locks {
    /// Futexes seen.
    pub seen: u64,
    /// Waits on futexes that had no room of their own in the table.
    pub waits_not_itemised: u64,
    /// Futexes by descending total wait, then pid and address; at most 64.
    pub futexes: Vec<Futex>,
    /// Locks of the kernel by descending time lost to them, then pid and kind; at most 64. From the family `lock`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(default)]
    pub kernel: Vec<KernelLock>,
    /// Contentions of kernel locks that had no room in that table. Absent when 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_not_itemised: Option<u64>,
}

/// All kernel locks of one kind, as the threads of one process waited for them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KernelLock {
    /// The process.
    pub pid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// "mmap_lock (read)", "mmap_lock (write)": the lock of the process's own address space. "rwsem (read)", "rwsem (write)", "mutex",
    /// "rtmutex", "percpu_rwsem (read)", "percpu_rwsem (write)": others for which threads sleep. "spinlock", "rwlock (read)",
    /// "rwlock (write)": those for which they only spin.
    pub kind: String,
    /// Contentions that ended. Where a semaphore's waiter spun and got it, the kernel reports none.
    pub count: u64,
    /// Sum of their lengths, time without a CPU included.
    pub total_s: f64,
    /// Of this slept: what the state `kernel_lock` holds. With waits that had not ended.
    pub slept_s: f64,
    /// Of this spun on a CPU.
    pub spun_s: f64,
    /// The longest.
    pub max_s: f64,
    /// Of `count` those under 10 us, of which nothing else is known: they were counted from when the threads became traced.
    pub short_count: u64,
    /// The part of `total_s` that they are.
    pub short_s: f64,
    /// Distinct locks, of which at most 64 are counted; short contentions aside.
    pub locks: u64,
    /// Threads that waited, as far as there was room for them.
    pub threads: u64,
    /// These threads by descending time lost, then tid; at most 16.
    pub waiters: Vec<KernelWaiter>,
    /// Threads that held the lock when a wait began, by descending length of these waits, then tid; at most 16.
    pub owners: Vec<KernelOwner>,
    /// Contentions that began with a known owner.
    pub waits_with_owner: u64,
    /// What ended the sleeps, by descending count; at most 16. Who gives a lock back wakes the next.
    pub wakers: Vec<Waker>,
}

/// A thread's share in the waits for kernel locks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KernelWaiter {
    /// The thread.
    pub tid: u32,
    /// Its id in its own pid namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_tid: Option<u32>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// Its contentions of 10 us or more.
    pub count: u64,
    /// Sum of their lengths, time without a CPU included.
    pub total_s: f64,
    /// Of this slept.
    pub slept_s: f64,
    /// Of this spun.
    pub spun_s: f64,
    /// The longest.
    pub max_s: f64,
    /// Functions in which it slept, as far as stacks were taken; at most 4.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(default)]
    pub places: Vec<FunctionTime>,
}

/// A thread that held a kernel lock when another began to wait.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KernelOwner {
    /// Its process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// Its process's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// In how many waits it was seen.
    pub count: u64,
    /// In how many of these it held a semaphore to read: the kernel remembers the last reader only, which may not have been the one that
    /// all waited for.
    pub reading: u64,
    /// Sum of the lengths of these waits.
    pub total_s: f64,
}

/// One futex of one process. A condition variable, a semaphore, a join or a barrier is one as well: only `owners` tell a lock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Futex {
    /// The process.
    pub pid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// The address in that process, "0x..." in hexadecimal.
    pub address: String,
    /// The kind of lock, where an owner was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Waits that began or were under way.
    pub waits: u64,
    /// Waits that ended within the window.
    pub completed: u64,
    /// Sum of all threads' waits.
    pub total_s: f64,
    /// The longest wait.
    pub max_s: f64,
    /// Threads that waited.
    pub threads: u64,
    /// These threads by descending total, then tid; at most 16.
    pub waiters: Vec<Waiter>,
    /// Live threads of the process that held the lock when a wait began, by descending count, then tid; at most 16.
    pub owners: Vec<Owner>,
    /// Waits that began with a known owner.
    pub waits_with_owner: u64,
    /// Waits ended by a thread that had been seen as owner.
    pub woken_by_owner: u64,
    /// Threads that ended waits, by descending count, then tid; at most 16.
    pub wakers: Vec<Waker>,
    /// What was done while the thread that waited longest waited; only of the locks with the longest waits that had an owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub explanation: Option<Explanation>,
}

/// A thread's share in the waits on a futex.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Waiter {
    /// The thread.
    pub tid: u32,
    /// Its id in its own pid namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_tid: Option<u32>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// Its waits.
    pub count: u64,
    /// Time waited.
    pub total_s: f64,
    /// Whether it still waited when the window ended.
    pub open: bool,
    /// Functions in which it waited, as far as stacks were taken; at most 4.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(default)]
    pub places: Vec<FunctionTime>,
}

/// How much of what happened was seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Coverage {
    /// Each family that was asked for, by name.
    pub families: Vec<FamilyCoverage>,
    /// Records that could not be decoded, by the number of their kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[serde(default)]
    pub undecoded_by_kind: BTreeMap<String, u64>,
    /// Where the recording has no end: how long before the window's end the kernel's counters were taken. Records may be newer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters_age_s: Option<f64>,
    /// Threads over the bound of those followed in detail: their times are in the row `others`.
    pub threads_without_detail: u64,
    /// Threads over the second bound: their times are nowhere.
    pub threads_not_followed: u64,
    /// Records that the capture lost to failed writes and to rotation. The live report had them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture_dropped_records: Option<u64>,
    /// Writes to the capture that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture_failed_writes: Option<u64>,
}

/// One family's ledger. `seen = submitted + lost`, and `submitted = decoded + undecoded + queued + missing`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FamilyCoverage {
    /// The family's id.
    pub family: String,
    /// "ready", "degraded" or "unavailable".
    pub status: String,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Events that passed the filter, and those that recursion protection hid. Absent, as the five below and `share`, where the
    /// recording holds no counters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen: Option<u64>,
    /// Records handed to a ring.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submitted: Option<u64>,
    /// Records that this report rests on.
    pub decoded: u64,
    /// Records that could not be decoded.
    pub undecoded: u64,
    /// Records left in the rings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued: Option<u64>,
    /// Records that were submitted and did not get here: what a capture that was cut or rotated lacks. Absent when 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<u64>,
    /// Decoded records that came after later ones. They were used.
    pub late: u64,
    /// Events that became no record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// `lost` by reason: "ring_full", "map_full", "recursion".
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[serde(default)]
    pub by_reason: BTreeMap<String, u64>,
    /// Events lost by programs, by the number of the CPU; only CPUs that lost some.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[serde(default)]
    pub lost_by_cpu: BTreeMap<u32, u64>,
    /// `decoded` over `seen`, at most 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Wake-ups whose waker was forgotten; the switches are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wakers_forgotten: Option<u64>,
}

/// What tracing cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Overhead {
    /// For this long the kernel measured its programs' run time.
    pub measured_s: f64,
    /// Programs by name.
    pub programs: Vec<ProgramOverhead>,
    /// User and system CPU time of the tracer.
    pub tracer_cpu_s: f64,
    /// Of this what it had used when the window had just begun: the cost of starting up. Absent where the recording does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startup_cpu_s: Option<f64>,
    /// Greatest resident memory of the tracer, rings included.
    pub tracer_rss_bytes: u64,
    /// Bytes of all rings.
    pub ring_bytes: u64,
    /// Programs and tracer together: CPU time over wall time, so 1 is one CPU. Absent without a measurement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_share: Option<f64>,
}

/// What one eBPF program cost while measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProgramOverhead {
    /// The program.
    pub name: String,
    /// How often it ran.
    pub runs: u64,
    /// Mean length of a run; absent when it did not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_per_run: Option<f64>,
    /// Its CPU time over wall time, so 1 is one CPU; absent without a measurement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_share: Option<f64>,
}

/// Seconds of a number of nanoseconds. The division is correctly rounded, so its shortest decimal form has at most nine places.
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The JSON Schema of [`Report`], as it is checked in: pretty, with a newline at the end.
pub fn schema_json() -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string_pretty(&schemars::schema_for!(Report))?;
    text.push('\n');
    Ok(text)
}
