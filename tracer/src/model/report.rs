//! The report, as JSON gives it (`tracer-report/1`). Plain data: the types, their schema, and nothing that computes a number.
//!
//! Numbers are SI base units with the unit in the key. What is not known is absent, never 0 or null. Lists have a defined order
//! and maps are sorted, so the same records always give the same bytes. Only `generator` and `overhead` may differ between a
//! live run and a replay of its capture.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::critical_path::CriticalPath;
use super::database::Database;
use super::io::Io;
use super::mapping::Mapping;
use super::memory::Memory;
use super::network::Network;
use super::objects::Objects;
use super::opinions::{Criticality, Knot};
use super::paging::Paging;
pub use super::stacks::{FunctionTime, SpunFunction, Stacks};

pub use super::coverage::{Coverage, FamilyCoverage, Overhead, ProgramOverhead};
pub use super::cpu::{Cpu, CpuIdle, CpuQuota, HostCpu, Process, Program, Spawned, Spawner};
pub use super::finding::{Comparison, Evidence, Finding, RuleOutcome, RuleStatus, Severity, Subject, Verdict};
pub use super::locks::{Futex, KernelLock, KernelOwner, KernelWaiter, Locks, Waiter};
pub use super::python::{Python, PythonProcess};
pub use super::threads::{
    Context, Others, Owner, Queued, QueuedBehind, Row, Spinning, Syncs, Thread, ThreadIo, Wait, Waker,
};

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
    /// Files, pipes and sockets that threads waited for; absent without the family `sched`, or where there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub objects: Option<Objects>,
    /// What the wall time of CMD's main thread went to, or of the thread that `--focus` names; absent without either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub critical_path: Option<CriticalPath>,
    /// Whose work kept others from running at the same time; absent without the family `sched`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub criticality: Option<Criticality>,
    /// Groups of threads that wait for each other and for nobody else, heaviest first; at most 8.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(default)]
    pub knots: Vec<Knot>,
    /// Which functions used the CPUs and which waited; absent without the family `cpu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stacks: Option<Stacks>,
    /// Processes that run CPython; absent where none was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub python: Option<Python>,
    /// Page faults, reclaim, files in the page cache, kills for want of memory; absent without a family that sees any of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub paging: Option<Paging>,
    /// Calls that map, unmap and give back memory; absent without the family `map`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub mapping: Option<Mapping>,
    /// What block devices were asked to do; absent without the families `block` and `writeback`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub io: Option<Io>,
    /// For whom threads waited at sockets; absent: none did, and no connection was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub network: Option<Network>,
    /// Statements of databases; absent without `--db`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub database: Option<Database>,
    /// Sizes of processes and cgroups over time, and when they would reach a limit; absent without the family `rss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub memory: Option<Memory>,
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
    /// The function whose entries begin steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
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
