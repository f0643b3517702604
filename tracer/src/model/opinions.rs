//! The report's sections `criticality` and `knots`: second opinions on what limits, by other methods than the critical path's. Plain data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stacks::Location;

/// Whose work kept others from running in parallel (GAPP, ICPE 2020): a time in which n threads had or wanted a CPU counts 1/n for
/// each of them. What a thread spun does not count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Criticality {
    /// What the total is, in words.
    pub of: String,
    /// Time in which at least one traced thread was active; the rows and `others_s` sum to it.
    pub total_s: f64,
    /// Most time first; at most 32.
    pub rows: Vec<CriticalityRow>,
    /// What the rows leave out.
    pub others_s: f64,
    /// Of what the threads did only this last part was kept; absent: all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_s: Option<f64>,
}

/// Threads of one name in processes of one name, in one function.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CriticalityRow {
    /// Of the total.
    pub share: f64,
    /// How long.
    pub s: f64,
    /// Name of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Name of the thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// How many threads.
    pub threads: u64,
    /// The function, by samples, each with the weight of its moment; absent where no sample was taken.
    #[serde(flatten)]
    pub location: Location,
}

/// Groups of threads that wait for each other and for nobody else (wPerf, OSDI 2018): whatever makes the whole faster makes one of
/// these faster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Knot {
    /// The groups in it.
    pub groups: Vec<Group>,
    /// Time that threads waited for them: per thread of the waiting group, and once more for each thread that waited for such a one
    /// meanwhile. So it can be more than the wall time.
    pub weight_s: f64,
    /// Of this the heaviest; at most 8.
    pub edges: Vec<KnotEdge>,
}

/// Threads of one name in processes of one name; or devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Group {
    /// Name of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Name of the thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// How many threads; 0: it stands for the devices.
    pub threads: u64,
}

/// Who waits for whom.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KnotEdge {
    /// Who waits.
    pub from: Group,
    /// For whom.
    pub to: Group,
    /// How long: see [`Knot::weight_s`].
    pub s: f64,
}
