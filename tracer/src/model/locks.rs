//! The report's section `locks`: futexes and kernel locks, who waited and who held. Plain data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::critical_path::Explanation;
use super::stacks::{FunctionTime, ShownFrame};
use super::threads::{Owner, Waker};

/// [`Futex::kind`] of CPython's interpreter lock.
pub const PYTHON_LOCK: &str = "python interpreter lock";

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
    /// Waits for locks of user space that had not ended when the window did, and whose lock's owner is known: those first whose waiter
    /// holds a lock of this list, then by descending length; at most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(default)]
    pub open: Vec<OpenWait>,
    /// Such waits without room there. Absent when 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_not_listed: Option<u64>,
    /// Contentions of kernel locks that had no room in that table. Absent when 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_not_itemised: Option<u64>,
}

/// A wait for a lock that had not ended when the window did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OpenWait {
    /// The process.
    pub pid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// The thread that waits.
    pub tid: u32,
    /// Its id in its own pid namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_tid: Option<u32>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// The lock's address in that process, "0x..." in hexadecimal.
    pub address: String,
    /// The kind of lock.
    pub kind: String,
    /// Length of the wait within the window.
    pub waited_s: f64,
    /// Another wait for this lock has ended since this one began: another thread than `owner` may hold it by now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub passed_on: bool,
    /// Who held the lock when the wait began.
    pub owner: OpenOwner,
    /// Where it waits, innermost first; at most 32 frames, and of the first 16 of these waits only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stack: Vec<ShownFrame>,
    /// Frames further out that are not listed. Absent when 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames_left_out: Option<u64>,
    /// How that stack ended, as the keys of `stacks.quality.ends`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack_end: Option<String>,
}

/// Who holds a lock that is waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OpenOwner {
    /// The thread. Absent where it had ended before it was traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
    /// Its id in its own pid namespace, which is what the lock's memory holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_tid: Option<u32>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// It is the thread that waits.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub itself: bool,
    /// It has ended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
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
    /// What it is: "pthread mutex", "robust pthread mutex", "priority-inheritance mutex", "pthread rwlock", "condition variable",
    /// "semaphore", "join", "barrier", "once", "malloc arena", "stdio stream", "Rust mutex" and others of Rust, "Go lock", "Go note".
    /// Absent where that could not be decided. "python interpreter lock" is CPython's, of which `address` stands for several futexes and
    /// each try of 5 ms is a wait of its own; "python interpreter lock, handing over" where the thread waits that gave it up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// How that was decided. "memory": by the words at its address when waits began; "function": by the functions that threads waited in;
    /// "wake": by what ended the waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub kind_source: Option<String>,
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
    /// What was done while the thread that waited longest waited; only of those with the longest waits: six locks (with an owner, or an
    /// interpreter's), six others.
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
