//! Tests on the running kernel, as root: the tracer's binary is run as a user runs it, and its report is held against what the traced
//! programs measured of themselves. Nothing here calls the tracer's code.
//!
//! `cargo xtask test live` builds what is needed and runs them one at a time. `TRACER_BIN` and `WORKLOAD_BIN` name the binaries,
//! `TRACER_WITHOUT` names an eBPF program to leave off (then the tests that needs.tsv lists for it must fail), `LIVE_REPEAT` says how
//! often the healthy twins run. `LIVE_PYTHONS` names further interpreters (separated by colons), `PY_SPY` that program; the stacks'
//! tests compile what they trace and need `cc` and `c++`.

mod harness;

mod allocator;
mod bad_input;
mod captures;
mod checkpoint;
mod critical_path;
mod database;
mod deadlock;
mod doctor;
mod every_workload;
mod fallback;
mod families;
mod folders;
mod healthy;
mod ipc;
mod kernel_locks;
mod ledger;
mod locks;
mod lost_seconds;
mod mapping;
mod memory;
mod namespaces;
mod network;
mod paging;
mod pressure;
mod python_runtime;
mod record;
mod replay;
mod run_queue;
mod shm;
mod signals;
mod spawning;
mod spinning;
mod stacks;
mod stacks_bad_input;
mod stacks_python;
mod starvation;
mod states;
mod steps;
mod storage;
mod storm;
mod threads;
mod users;
mod wakers;
