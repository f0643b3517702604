//! Runs programs where user code comes by: at an instruction of a file or when a function returns, by user probes, and at an address of a
//! thread's memory, by a debug register. Not here: which (`step_points`, `clients`).
//!
//! aya attaches user probes as well, but by path and without the counter that probes of the program's author may need.

use std::{
    fs, io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

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

/// A number that the kernel tells in a file.
fn number(path: &str) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Runs a program whenever a thread comes to this instruction of a file.
pub fn on_instruction(program: BorrowedFd<'_>, file: &fs::File, point: Point) -> io::Result<OwnedFd> {
    // The kernel opens the file by a path: this one leads to the file that was looked at.
    let path = held(file);
    let mut attribute = Attribute::of_user_probe(&path, point.offset)?;
    if point.counter != 0 {
        if !fs::exists(format!("{UPROBE}/format/ref_ctr_offset")).unwrap_or(false) {
            return Err(io::Error::other(
                "the probe has a semaphore, which this kernel cannot raise (4.20 and later can)",
            ));
        }
        // Its upper half.
        attribute.put(CONFIG, &(point.counter << 32).to_le_bytes());
    }
    let event = attribute.open(-1, any_cpu())?;
    enable(event, program)
}

/// Runs a program whenever a thread enters the function that begins here, or, with `returns`, returns from it. The program can ask for
/// the cookie.
pub fn on_call(
    program: BorrowedFd<'_>,
    file: &fs::File,
    offset: u64,
    returns: bool,
    cookie: u64,
) -> io::Result<OwnedFd> {
    let path = held(file);
    let mut attribute = Attribute::of_user_probe(&path, offset)?;
    attribute.put(CONFIG, &u64::from(returns).to_le_bytes());
    let event = attribute.open(-1, any_cpu())?;
    link(program, &event, cookie)
}

/// A path to a file that is held open.
fn held(file: &fs::File) -> String {
    format!("/proc/self/fd/{}\0", file.as_raw_fd())
}

/// One event is for all CPUs and processes: the number of a CPU is a formality.
fn any_cpu() -> i32 {
    aya::util::online_cpus().ok().and_then(|cpus| cpus.first().copied()).unwrap_or(0) as i32
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
        enable(attribute.open(tid as i32, -1)?, program)
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

    /// Of a user probe at this place of a file, whose path ends with a zero and outlives the attribute.
    fn of_user_probe(path: &str, offset: u64) -> io::Result<Self> {
        let kind = number(&format!("{UPROBE}/type"))
            .ok_or_else(|| io::Error::other("this kernel has no user probes (CONFIG_UPROBES)"))?;
        let mut attribute = Attribute::new(kind);
        attribute.put(CONFIG1, &(path.as_ptr() as u64).to_le_bytes());
        attribute.put(CONFIG2, &offset.to_le_bytes());
        Ok(attribute)
    }

    fn open(&self, pid: i32, cpu: i32) -> io::Result<OwnedFd> {
        // SAFETY: the attribute, and what it points to, live until the call returns.
        let fd = unsafe {
            libc::syscall(libc::SYS_perf_event_open, self.0.as_ptr(), pid, cpu, -1 as libc::c_int, CLOSE_ON_EXEC)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }
}

/// Gives an event its program.
fn enable(event: OwnedFd, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    for (request, argument) in [(SET_BPF, program.as_raw_fd()), (ENABLE, 0)] {
        // SAFETY: takes numbers only.
        if unsafe { libc::ioctl(event.as_raw_fd(), request as _, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(event)
}

/// The same with a cookie (5.15 and later): a link, which keeps the event.
fn link(program: BorrowedFd<'_>, event: &OwnedFd, cookie: u64) -> io::Result<OwnedFd> {
    /// BPF_LINK_CREATE and BPF_PERF_EVENT (uapi/linux/bpf.h).
    const LINK_CREATE: libc::c_int = 28;
    const PERF_EVENT: u32 = 41;
    let mut attributes = [0u8; 64];
    let mut put = |at: usize, bytes: &[u8]| attributes[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &program.as_raw_fd().to_le_bytes());
    put(4, &event.as_raw_fd().to_le_bytes());
    put(8, &PERF_EVENT.to_le_bytes());
    put(16, &cookie.to_le_bytes());
    // SAFETY: the attributes live until the call returns.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, LINK_CREATE, attributes.as_mut_ptr(), attributes.len()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
