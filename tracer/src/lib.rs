//! tracer: captures scheduling events of a workload by eBPF and tells where its threads' time went, and why.
//!
//! The stages, in the one direction in which data flows: `kernel` (records from the running kernel) or `capture` (records from
//! a file), then `pipeline` (batches, order), `aggregate`, `diagnose`, `model` (the report), `render` and `export`. Everything
//! behind `pipeline` is pure: it reads no clock, no file and no terminal. `app` wires the stages together for the commands that
//! `cli` describes.

pub mod aggregate;
pub mod app;
pub mod capture;
pub mod cli;
pub mod diagnose;
pub mod export;
pub mod families;
pub mod kernel;
pub mod model;
pub mod pipeline;
pub mod process;
pub mod python;
pub mod render;
pub mod stacks;
pub mod symbol;
#[cfg(test)]
mod testing;
pub mod unwind;
