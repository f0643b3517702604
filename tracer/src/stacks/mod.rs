//! The thread that turns copies of stacks into records: unwinds, merges, interns, and at the end names what it has seen.

pub mod intern;
pub mod raw;
