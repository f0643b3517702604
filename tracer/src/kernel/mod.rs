//! The running kernel: host facts, type information, loading and attaching, rings, counters, /proc, child processes. The only
//! place with I/O on the kernel and the only one with `unsafe`. Nothing here judges what an event means.

pub mod attach;
pub mod btf;
pub mod clients;
pub mod clock;
pub mod cpu_limits;
pub mod disks;
pub mod file_map;
#[cfg(test)]
mod fixtures;
pub mod hooks;
pub mod host;
pub mod kernel_cast;
pub mod ksyms;
pub mod launch;
pub mod live;
pub mod loader;
pub mod mappings;
pub mod memory;
pub mod memory_maps;
pub mod mounts;
pub mod needs;
pub mod numa;
pub mod objects;
pub mod offsets;
pub mod on_demand;
pub mod proc;
pub mod progstats;
pub mod ring_sizes;
pub mod sleepers;
pub mod sock_diag;
pub mod softirqs;
pub mod status;
pub mod step_points;
pub mod tmpfs;
pub mod tracefs;
pub mod unix_calls;
pub mod user_probe;

pub use btf::Btf;

/// Gives memory that was used while loading back to the system.
pub fn trim_memory() {
    // SAFETY: no preconditions; it only touches the allocator's free lists.
    unsafe { libc::malloc_trim(0) };
}

/// Lets the calling thread run before others: what it looks at may be gone in a moment. Where that is not allowed it waits its turn.
pub fn hurry() {
    // SAFETY: takes numbers only; on Linux 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -10) };
}

/// Lets this process keep as many files open as it may: each file that a traced process maps is kept open for its names.
pub fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}
