//! The programs, a file per family and hook kind.

mod cpu;
mod cpu_attach;
mod lock;
mod sched;
mod sched_context;
mod sched_life;
mod sched_tracefs;
mod step;
