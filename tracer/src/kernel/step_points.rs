//! Attaches the programs that see steps begin: at instructions of a file, by user probes, and at an address of a thread's memory, by
//! a debug register. Not here: which instruction, and which address (`app/step.rs`, `stacks/watch.rs`).
//!
//! aya attaches user probes as well, but by path and without the counter that probes of the program's author may need.

use std::{
    fs, io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::PathBuf,
};

use crate::families::Hook;

/// Where steps begin.
#[derive(Debug)]
pub enum Points {
    /// At these instructions of a file, in whatever process.
    Code {
        /// The file, held open: what it is called may change.
        file: fs::File,
        /// Its name, for messages.
        path: PathBuf,
        /// The instructions.
        at: Vec<Point>,
    },
    /// At the entry of a Python function, once it is found.
    Python,
}

/// An instruction of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Offset in the file.
    pub offset: u64,
    /// Offset in the file of a counter that must not be zero while somebody looks; 0: there is none.
    pub counter: u64,
}

/// Parts of `struct perf_event_attr` (uapi/linux/perf_event.h): offsets of its fields, and its size with `sample_max_stack` (4.8).
const ATTRIBUTE_BYTES: usize = 112;
const TYPE: usize = 0;
const SIZE: usize = 4;
const CONFIG: usize = 8;
const SAMPLE_PERIOD: usize = 16;
const FLAGS: usize = 40;
const BREAKPOINT_TYPE: usize = 52;
/// Of a breakpoint its address, of a user probe the file's path.
const CONFIG1: usize = 56;
/// Of a breakpoint its length, of a user probe the offset.
const CONFIG2: usize = 64;
/// PERF_TYPE_BREAKPOINT; HW_BREAKPOINT_RW (x86 cannot watch reads alone).
const OF_BREAKPOINT: u32 = 5;
const READ_OR_WRITE: u32 = 3;
/// Bits of the flags: `inherit`, `exclude_kernel` and `exclude_hv`, `inherit_thread` and `remove_on_exec` (both 5.13).
const INHERIT: u64 = 1 << 1;
const EXCLUDE_KERNEL: u64 = 1 << 5 | 1 << 6;
const THREADS_OF_THIS_PROGRAM: u64 = 1 << 35 | 1 << 36;
/// PERF_FLAG_FD_CLOEXEC.
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;
/// PERF_EVENT_IOC_SET_BPF and _ENABLE.
const SET_BPF: libc::c_ulong = 0x4004_2408;
const ENABLE: libc::c_ulong = 0x2400;
/// Where the kernel says how user probes are told.
const UPROBE: &str = "/sys/bus/event_source/devices/uprobe";

impl Points {
    /// The hook of the programs that are for these.
    pub fn hook(&self) -> Hook {
        match self {
            Points::Code { .. } => Hook::StepEntry,
            Points::Python => Hook::StepWatch,
        }
    }

    /// Attaches a program to all of them that are known. It stays as long as what this gives.
    pub fn attach(&self, program: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, String> {
        let Points::Code { file, path, at } = self else { return Ok(Vec::new()) };
        // The kernel opens the file by a path: this one leads to the file that was looked at.
        let held = format!("/proc/self/fd/{}\0", file.as_raw_fd());
        let attach = |point: &Point| {
            user_probe(program, &held, *point)
                .map_err(|error| format!("{}: no probe at offset {:#x}: {error}", path.display(), point.offset))
        };
        at.iter().map(attach).collect()
    }
}

/// A number that the kernel tells in a file.
fn number(path: &str) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn user_probe(program: BorrowedFd<'_>, path: &str, point: Point) -> io::Result<OwnedFd> {
    let kind = number(&format!("{UPROBE}/type"))
        .ok_or_else(|| io::Error::other("this kernel has no user probes (CONFIG_UPROBES)"))?;
    let mut attribute = Attribute::new(kind);
    if point.counter != 0 {
        if !fs::exists(format!("{UPROBE}/format/ref_ctr_offset")).unwrap_or(false) {
            return Err(io::Error::other(
                "the probe has a semaphore, which this kernel cannot raise (4.20 and later can)",
            ));
        }
        // Its upper half.
        attribute.put(CONFIG, &(point.counter << 32).to_le_bytes());
    }
    attribute.put(CONFIG1, &(path.as_ptr() as u64).to_le_bytes());
    attribute.put(CONFIG2, &point.offset.to_le_bytes());
    let cpu = aya::util::online_cpus().ok().and_then(|cpus| cpus.first().copied()).unwrap_or(0);
    // One event for all CPUs and processes: the number of a CPU is a formality.
    attribute.open(-1, cpu as i32, program)
}

/// Runs a program whenever a thread, or one that it makes from now on, reads the byte at this address.
pub fn watch(program: BorrowedFd<'_>, tid: u32, address: u64) -> io::Result<OwnedFd> {
    let open = |flags: u64| {
        let mut attribute = Attribute::new(OF_BREAKPOINT);
        attribute.put(SAMPLE_PERIOD, &1u64.to_le_bytes());
        attribute.put(BREAKPOINT_TYPE, &READ_OR_WRITE.to_le_bytes());
        attribute.put(CONFIG1, &address.to_le_bytes());
        // One byte: an instruction that is read in two halves would count twice.
        attribute.put(CONFIG2, &1u64.to_le_bytes());
        attribute.put(FLAGS, &(flags | EXCLUDE_KERNEL).to_le_bytes());
        attribute.open(tid as i32, -1, program)
    };
    match open(INHERIT | THREADS_OF_THIS_PROGRAM) {
        // Before 5.13: new threads are not seen, which is better than their children's children.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(0),
        other => other,
    }
}

struct Attribute([u8; ATTRIBUTE_BYTES]);

impl Attribute {
    fn new(kind: u32) -> Self {
        let mut attribute = Attribute([0; ATTRIBUTE_BYTES]);
        attribute.put(TYPE, &kind.to_le_bytes());
        attribute.put(SIZE, &(ATTRIBUTE_BYTES as u32).to_le_bytes());
        attribute
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn open(&self, pid: i32, cpu: i32, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        // SAFETY: the attribute, and what it points to, live until the call returns.
        let fd = unsafe {
            libc::syscall(libc::SYS_perf_event_open, self.0.as_ptr(), pid, cpu, -1 as libc::c_int, CLOSE_ON_EXEC)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        let event = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        for (request, argument) in [(SET_BPF, program.as_raw_fd()), (ENABLE, 0)] {
            // SAFETY: takes numbers only.
            if unsafe { libc::ioctl(event.as_raw_fd(), request as _, argument) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(event)
    }
}
