//! The report's section `cpu`: the host's CPUs, quotas, processes. Plain data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// CPU use of the target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cpu {
    /// CPU time of all traced threads, spinning included.
    pub on_cpu_s: f64,
    /// Of it, time in which threads with rows of their own waited by spinning. Absent where that cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub spinning_s: Option<f64>,
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
    /// Sum of their CPU times, spinning included.
    pub on_cpu_s: f64,
    /// Sum of the times that they waited for a CPU.
    pub runnable_s: f64,
    /// Their switches off a CPU.
    pub switches: u64,
    /// Processes that it started. Absent where it started none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub spawned: Option<Spawned>,
}

/// What a process started, in the time in which it was traced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spawned {
    /// How many processes.
    pub started: u64,
    /// Of these, those that ended.
    pub ended: u64,
    /// The mean of their lives, from fork to the end of the last thread. Absent where none ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_life_s: Option<f64>,
    /// Those that ended within 250 ms.
    pub short_lived: u64,
    /// The mean of these lives. Absent without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short_mean_life_s: Option<f64>,
    /// CPU time of its own threads for forking, by samples: copying page tables above all. Absent without the family `cpu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fork_s: Option<f64>,
    /// How often one of them executed a program.
    pub executed: u64,
    /// Which, by descending number; at most 8.
    pub programs: Vec<Program>,
    /// The threads that started them, by descending number; at most 8.
    pub threads: Vec<Spawner>,
}

/// A program that was executed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Program {
    /// Its path as it was executed. Absent where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How often.
    pub count: u64,
}

/// A thread that started processes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spawner {
    /// The thread.
    pub tid: u32,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// How many.
    pub count: u64,
}
