//! What the kernel says of our programs: runs, run time, skipped runs; and the switch that makes it measure run time.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

/// bpf(2) commands (uapi/linux/bpf.h).
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const ENABLE_STATS: libc::c_int = 32;

/// Offsets in `struct bpf_prog_info` (uapi/linux/bpf.h).
const RUN_TIME_NS: usize = 192;
const RUN_COUNT: usize = 200;
const RECURSION_MISSES: usize = 208;
const INFO_BYTES: usize = 216;

/// Since the program was loaded; runs and time only while measuring was on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramStats {
    /// Runs.
    pub runs: u64,
    /// Their time.
    pub run_time_ns: u64,
    /// Events for which the kernel skipped the program, because it was running already.
    pub recursion_misses: u64,
}

fn bpf(command: libc::c_int, attributes: &mut [u8]) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are a readable and writable buffer of the given length; pointers in it outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), attributes.len()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Asks for a program's statistics.
pub fn read(program: impl AsFd) -> io::Result<ProgramStats> {
    let mut info = [0u8; INFO_BYTES];
    let mut attributes = [0u8; 16];
    attributes[0..4].copy_from_slice(&(program.as_fd().as_raw_fd() as u32).to_le_bytes());
    attributes[4..8].copy_from_slice(&(INFO_BYTES as u32).to_le_bytes());
    attributes[8..16].copy_from_slice(&(info.as_mut_ptr() as u64).to_le_bytes());
    bpf(OBJ_GET_INFO_BY_FD, &mut attributes)?;
    let number = |at: usize| info[at..at + 8].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    Ok(ProgramStats {
        runs: number(RUN_COUNT),
        run_time_ns: number(RUN_TIME_NS),
        recursion_misses: number(RECURSION_MISSES),
    })
}

/// Makes the kernel measure run times until the result is dropped. It costs two clock reads per run.
pub fn measure() -> io::Result<OwnedFd> {
    // Type 0: run time. The attributes are one word.
    let mut attributes = [0u8; 4];
    let fd = bpf(ENABLE_STATS, &mut attributes)?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
