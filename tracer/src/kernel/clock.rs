//! Clocks. Kernel times are CLOCK_MONOTONIC; its offsets to the others are sampled into the record stream.

use nix::time::{ClockId, clock_gettime};

fn read(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// CLOCK_MONOTONIC in nanoseconds, as the programs see it.
pub fn monotonic_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// CPU time of the calling thread in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// CLOCK_REALTIME and CLOCK_BOOTTIME less CLOCK_MONOTONIC.
pub fn offsets_ns() -> (i64, i64) {
    let monotonic = read(ClockId::CLOCK_MONOTONIC) as i64;
    (read(ClockId::CLOCK_REALTIME) as i64 - monotonic, read(ClockId::CLOCK_BOOTTIME) as i64 - monotonic)
}

/// User and system CPU time of this process, and its greatest resident memory. The latter not by getrusage(2): that counts the
/// memory of whoever started this process too, if it did so by vfork.
pub fn own_usage() -> (f64, u64) {
    let peak = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak_bytes = peak
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024);
    use nix::sys::resource::{UsageWho, getrusage};
    getrusage(UsageWho::RUSAGE_SELF).map_or((0.0, peak_bytes), |usage| {
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        (seconds(usage.user_time()) + seconds(usage.system_time()), peak_bytes)
    })
}
