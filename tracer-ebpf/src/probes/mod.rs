//! The programs, a file per family and hook kind.

mod block;
mod cache;
mod cpu;
mod cpu_attach;
mod database;
mod fault;
mod file_exact;
mod lock;
mod map;
mod net;
mod oom;
mod reclaim;
mod sched;
mod sched_context;
mod sched_life;
mod sched_tracefs;
mod step;
mod writeback;
