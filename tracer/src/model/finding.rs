//! What a rule claims: findings with their evidence, and what became of each rule. Plain data, part of the report's JSON.
//! How a claim is reached is in `diagnose`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The answer in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// At least one finding of severity warning or critical.
    Bottleneck,
    /// The target's own computation is what limits it.
    CpuBound,
    /// Everything was seen and nothing limits.
    Healthy,
    /// Too little was seen to tell.
    Inconclusive,
}

impl Verdict {
    /// The word in reports.
    pub const fn id(self) -> &'static str {
        match self {
            Verdict::Bottleneck => "bottleneck",
            Verdict::CpuBound => "cpu-bound",
            Verdict::Healthy => "healthy",
            Verdict::Inconclusive => "inconclusive",
        }
    }
}

/// How much a finding costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// At least 25 % of the wall time, or a process killed.
    Critical,
    /// At least 5 % of the wall time.
    Warning,
    /// Worth knowing, not limiting.
    Info,
}

impl Severity {
    /// The word in reports.
    pub const fn id(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
            Severity::Info => "info",
        }
    }
}

/// A claim about this run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// Its class: what users filter and gate on.
    pub class: String,
    /// 1 is the most important one of its list.
    pub rank: u32,
    /// How much it costs.
    pub severity: Severity,
    /// 0 to 1: how sure this is, the coverage of the families used included.
    pub confidence: f64,
    /// One sentence about this instance.
    pub summary: String,
    /// Seconds of wall time: an upper bound on what fixing it saves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_s: Option<f64>,
    /// Share of the wall time on the critical path; absent where there is no critical path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_of_wall: Option<f64>,
    /// The run can become at most this many times as fast.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speedup_bound: Option<f64>,
    /// Who or what causes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub culprit: Option<Subject>,
    /// Who waits for it.
    pub victims: Vec<Subject>,
    /// The numbers that it rests on.
    pub evidence: Vec<Evidence>,
    /// What it means.
    pub hypothesis: String,
    /// What to change.
    pub fix: String,
    /// The run that would prove it.
    pub experiment: String,
    /// Classes that this one explains.
    pub consequences: Vec<String>,
}

/// A thread, process or object that a finding is about: whatever is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are the words of the contract")]
pub struct Subject {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_tid: Option<u32>,
    /// The function in which it computes or waits most, by stacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// That function's source file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// And line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Address and kind of a lock; in a deadlock the one that it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    /// In a deadlock: address and kind of the lock that it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// In a deadlock: where it waits, a line for each frame, innermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stack: Vec<String>,
    /// Path of the file that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A database's statement, without values.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub statement: Option<String>,
    /// What is at the other end of a pipe or socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// A number behind a finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// What was measured.
    pub metric: String,
    /// How much.
    pub value: f64,
    /// "s", "1" (a share or a count), ...
    pub unit: String,
    /// Where this report holds it: a JSON pointer (RFC 6901).
    pub source: String,
    /// What it is held against.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared_with: Option<Comparison>,
}

/// The other side of a piece of evidence, in the same unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// What it is: "wall time", "reporting threshold".
    pub what: String,
    /// How much.
    pub value: f64,
}

/// What became of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleOutcome {
    /// The class of findings that it makes.
    pub class: String,
    /// Whether it spoke.
    pub status: RuleStatus,
    /// Why, in a sentence without full stop.
    pub reason: String,
}

/// See [`RuleOutcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuleStatus {
    /// It made at least one finding.
    Fired,
    /// It looked and found nothing that limits.
    Silent,
    /// What it needs was not recorded.
    CouldNotRun,
    /// It was never tested on a real run.
    Unproven,
}

impl RuleStatus {
    /// The word in reports.
    pub const fn id(self) -> &'static str {
        match self {
            RuleStatus::Fired => "fired",
            RuleStatus::Silent => "silent",
            RuleStatus::CouldNotRun => "could-not-run",
            RuleStatus::Unproven => "unproven",
        }
    }
}
