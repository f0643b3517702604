//! The report's section `python`: processes that run CPython, and what of their interpreter could be found. Plain data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Processes that run CPython; absent without one, and without the family `cpu`, which looks for them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Python {
    /// By pid; at most 64. A process that executed another interpreter has several rows. Forked children that never had a stack of
    /// their own have none.
    pub processes: Vec<PythonProcess>,
    /// Those for which there was no row. Absent when 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes_left_out: Option<u64>,
}

/// An interpreter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PythonProcess {
    /// The process.
    pub pid: u32,
    /// The interpreter's version.
    pub version: String,
    /// The address by which waits for the interpreter lock are told in this report; absent: where it is is not known for this
    /// version, so such waits look like those for any other futex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    /// Whether the collector of garbage could be told from other code.
    pub collector_known: bool,
}
