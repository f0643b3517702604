//! Plain data of every stage: what user space adds to the stream, decoded events, findings, the report. No logic beyond
//! construction, no I/O.

pub mod container;
pub mod coverage;
pub mod cpu;
pub mod critical_path;
pub mod database;
pub mod event;
pub mod finding;
pub mod io;
pub mod locks;
pub mod mapping;
pub mod memory;
pub mod meta;
mod meta_memory;
mod meta_objects;
pub mod network;
pub mod objects;
pub mod opinions;
pub mod paging;
pub mod pattern;
pub mod profile;
pub mod python;
pub mod report;
pub mod stacks;
pub mod steps;
pub mod text;
pub mod threads;
pub mod units;
