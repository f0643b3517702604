//! The report's section `database`: statements that clients of databases ran, by their texts without values. Plain data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stacks::{FunctionTime, Whose};

/// With `--db`: what statements took, at the functions of SQLite, libpq, libmysqlclient and libmariadb. Counts and times are exact from
/// when a library was attached to, as far as none is lost (`coverage`, family `database`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Database {
    /// Libraries whose functions were looked at.
    pub libraries: Vec<String>,
    /// Most time first; at most 64.
    pub statements: Vec<Statement>,
    /// The others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub others: Option<OtherStatements>,
    /// Calls of which it is not kept when they were: their time counts, but is not split, and not on the critical path. 1,048,576 are kept.
    pub over: u64,
}

/// One statement, with whatever values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Statement {
    /// "sqlite", "postgresql", "mysql".
    pub client: String,
    /// Its text, `?` for each value and each list of values. Absent: it was prepared before it could be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The thread in which most of its time went.
    #[serde(flatten)]
    pub whose: Whose,
    /// Threads that ran it.
    pub threads: u64,
    /// How often it was run to an end.
    pub executions: u64,
    /// Of these, those that failed, as far as the client tells it.
    pub failed: u64,
    /// Of these, those that were told that the database is locked.
    pub busy: u64,
    /// Calls of the client's functions.
    pub calls: u64,
    /// All the time in these; of one that is sent and asked for later, until its answer was taken.
    pub total_s: f64,
    /// Of it, for preparing the statement.
    pub prepare_s: f64,
    /// By execution; preparing is not part of them.
    pub mean_s: f64,
    /// Half of them took no longer.
    pub p50_s: f64,
    /// Of 99 in 100.
    pub p99_s: f64,
    /// The longest.
    pub max_s: f64,
    /// How much of the critical path went on while a thread on it was in these calls. Absent: there is no path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_path_s: Option<f64>,
    /// Of the path's wall time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_path_share: Option<f64>,
    /// It was sent and asked for later: what the thread did meanwhile may have been for others.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub asynchronous: bool,
    /// What the thread did in these calls.
    pub spent: StatementTime,
    /// From which functions it was run, most time first; at most 4.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<FunctionTime>,
}

/// Parts of the time in a statement's calls; they sum to all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StatementTime {
    /// On a CPU: of SQLite the database's own work, of others packing and unpacking.
    pub computing_s: f64,
    /// Ready, without a CPU.
    pub queued_s: f64,
    /// Waiting for room to send.
    pub send_s: f64,
    /// Waiting for the server's answer.
    pub server_s: f64,
    /// Waiting for files.
    pub file_s: f64,
    /// Waiting for locks: of the process, or, sleeping between tries, of the database's file.
    pub lock_s: f64,
    /// Other waits.
    pub other_s: f64,
    /// Not known.
    pub unknown_s: f64,
}

/// Statements that are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OtherStatements {
    /// How many.
    pub statements: u64,
    /// How often they were run.
    pub executions: u64,
    /// For how long.
    pub total_s: f64,
}
