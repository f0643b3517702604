//! The report's sections `coverage` and `overhead`: how much was seen and what it cost. Plain data.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// Programs by name. Those that others go on with, as `wait_stack` behind `sched_switch`, are parts of these.
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
