//! What other tools read: the report as JSON, all events as NDJSON, weighted stacks as folded text, flame graph and pprof.

pub mod flamegraph;
pub mod folded;
pub mod ndjson;
pub mod pprof;
pub mod weigh;

#[cfg(test)]
mod tests;

use crate::model::report::Report;

/// The report as pretty JSON with a newline at the end.
pub fn to_json(report: &Report) -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    Ok(text)
}
