//! tracer: captures scheduling events of a workload by eBPF and tells where its threads' time went, and why.
//!
//! The stages, in the one direction in which data flows: `kernel` (records from the running kernel) or `capture` (records from
//! a file), then `pipeline` (batches, order), `aggregate`, `diagnose`, `model` (the report), `render` and `export`. Everything
//! behind `pipeline` is pure: it reads no clock, no file and no terminal.

pub mod aggregate;
pub mod capture;
pub mod diagnose;
pub mod export;
pub mod model;
pub mod pipeline;
pub mod render;
#[cfg(test)]
mod testing;
