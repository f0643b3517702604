//! The thread that turns copies of stacks into records: unwinds, merges, interns, and at the end names what it has seen.

mod attached;
pub mod intern;
mod jit;
mod kernel_sides;
mod processes;
pub mod raw;
#[cfg(test)]
mod tests;
mod thread;
mod watch;
mod worker;

pub use raw::Raw;
pub use thread::{Progress, Running, spawn};
pub use watch::Watch;
pub use worker::Worker;
