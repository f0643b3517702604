//! Payloads of the scheduling family. Every struct starts with the [`Header`].

use crate::record::Header;

/// Length of a kernel task name, with its terminating zero.
pub const COMM_BYTES: usize = 16;
/// Length kept of an executed file's path.
pub const PATH_BYTES: usize = 128;

/// Bits of [`Switch::flags`].
pub mod switch_flags {
    /// The thread that left was pre-empted.
    pub const PREEMPT: u16 = 1;
    /// The thread that left is traced.
    pub const PREV_TRACKED: u16 = 1 << 1;
    /// The thread that runs now is traced.
    pub const NEXT_TRACKED: u16 = 1 << 2;
    /// The thread that left is a kernel thread: its registers mean nothing.
    pub const PREV_KTHREAD: u16 = 1 << 3;
    /// `waker_tid` and `wake_delta_ns` are set.
    pub const HAS_WAKER: u16 = 1 << 4;
    /// `wake_delta_ns` counts microseconds, because nanoseconds did not fit.
    pub const WAKE_DELTA_US: u16 = 1 << 5;
    /// `syscall` was read from the registers of the thread that left, and where it waits `arg0` and `fd_kind`.
    pub const HAS_REGS: u16 = 1 << 6;
    /// The thread that left runs 32-bit code: its system call numbers are of another table.
    pub const COMPAT: u16 = 1 << 7;
    /// Where [`WAKE_CONTEXT_MASK`] starts.
    pub const WAKE_CONTEXT_SHIFT: u16 = 8;
    /// A [`super::WakeContext`].
    pub const WAKE_CONTEXT_MASK: u16 = 0b111 << WAKE_CONTEXT_SHIFT;
    /// Where [`LOCK_MASK`] starts.
    pub const LOCK_SHIFT: u16 = 11;
    /// The [`crate::lock::Kind`] of the kernel's lock that the thread that left waits for; 0: none. The same bits mean
    /// something else of a thread that left ready to run: [`THROTTLED`], [`QUEUE_FACTS`].
    pub const LOCK_MASK: u16 = 0b1111 << LOCK_SHIFT;
    /// The thread that left is ready, but its cgroup's CPU quota is used up. Means something only with [`QUEUE_FACTS`].
    pub const THROTTLED: u16 = 1 << 11;
    /// The thread that left is ready, `object` holds its [`super::QueueFacts`], and [`THROTTLED`] says whether a quota holds it back.
    pub const QUEUE_FACTS: u16 = 1 << 12;
    /// A quota held back the thread that runs now, since it left this CPU: `wake_delta_ns` is for how long. It has no waker.
    pub const THROTTLE_MEASURED: u16 = 1 << 15;
}

/// From where a thread was woken. The thread that was current is the waker only for `Task`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum WakeContext {
    /// Not known on this kernel.
    Unknown = 0,
    /// The current thread woke it.
    Task = 1,
    /// A timer expired.
    Timer = 2,
    /// A device's interrupt, or the softirq that completes its work.
    Device = 3,
    /// Another interrupt.
    Interrupt = 4,
}

impl WakeContext {
    /// The context with this number; a number from a newer tracer is `Unknown`.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => WakeContext::Task,
            2 => WakeContext::Timer,
            3 => WakeContext::Device,
            4 => WakeContext::Interrupt,
            _ => WakeContext::Unknown,
        }
    }
}

/// What a file descriptor refers to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum FdKind {
    /// Not looked at, or not readable.
    Unknown = 0,
    /// A regular file or directory.
    File = 1,
    /// A pipe or FIFO.
    Pipe = 2,
    /// An IPv4 or IPv6 socket.
    SocketInet = 3,
    /// A unix-domain socket.
    SocketUnix = 4,
    /// A socket of another kind (netlink, vsock, packet).
    SocketOther = 5,
    /// A character device (terminal, GPU).
    CharDevice = 6,
    /// A block device.
    BlockDevice = 7,
    /// An anonymous inode: eventfd, timerfd, inotify.
    Anonymous = 8,
}

impl FdKind {
    /// The kind with this number; a number from a newer tracer is `Unknown`.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => FdKind::File,
            2 => FdKind::Pipe,
            3 => FdKind::SocketInet,
            4 => FdKind::SocketUnix,
            5 => FdKind::SocketOther,
            6 => FdKind::CharDevice,
            7 => FdKind::BlockDevice,
            8 => FdKind::Anonymous,
            _ => FdKind::Unknown,
        }
    }
}

/// What is known of a thread that left a CPU ready to run: what decides how long it will wait. In [`Switch::object`], which such
/// a thread has no other use for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueFacts {
    /// The kernel's priority (100 to 139 is nice -20 to 19, below are realtime classes), plus 1; 0: not known.
    pub priority_plus_1: u8,
    /// CPUs that it may run on; 0: not known.
    pub cpus_allowed: u16,
}

impl QueueFacts {
    /// As a word. Priorities below 0 (deadline class) count as 0.
    pub const fn pack(priority: i32, cpus_allowed: u32) -> u64 {
        let priority = if priority < 0 { 0 } else { priority as u32 & 0xff };
        let cpus = if cpus_allowed > 0xffff { 0xffff } else { cpus_allowed };
        (priority as u64 + 1) & 0xff | (cpus as u64) << 16
    }

    /// From a word.
    pub const fn unpack(word: u64) -> Self {
        QueueFacts { priority_plus_1: word as u8, cpus_allowed: (word >> 16) as u16 }
    }
}

/// A context switch on `header.cpu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// Kind [`crate::record::sched::SWITCH`].
    pub header: Header,
    /// The thread that left the CPU; 0 is the idle task.
    pub prev_tid: u32,
    /// The thread that got the CPU; 0 is the idle task.
    pub next_tid: u32,
    /// Who was current when `next_tid` was last woken.
    pub waker_tid: u32,
    /// How long before this switch `next_tid` was woken; with [`switch_flags::THROTTLE_MEASURED`] for how long a quota held it back.
    pub wake_delta_ns: u32,
    /// The state in which `prev_tid` left, as the kernel's own bits.
    pub prev_state: u32,
    /// See [`switch_flags`].
    pub flags: u16,
    /// The system call in which `prev_tid` left; negative: none (exception, signal). Of a thread that left ready to run it is read
    /// where it was not pre-empted: it may have called sched_yield, or be on its way back from that call.
    pub syscall: i16,
    /// First argument of that system call, low half: the file descriptor for those that take one.
    pub arg0: u32,
    /// A [`FdKind`], for system calls whose first argument is a file descriptor.
    pub fd_kind: u8,
    /// Where in its code `prev_tid` waits, little-endian: [`crate::stack::place`]; 0: not known.
    pub place: [u8; 3],
    /// Inode number of that file, or the futex's address; with [`switch_flags::QUEUE_FACTS`] packed [`QueueFacts`].
    pub object: u64,
}

const _: () = assert!(size_of::<Switch>() == 56);

/// A context switch in which `prev_tid` waits on the futex at `switch.object`, with the memory there at that moment.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchFutex {
    /// The switch; kind [`crate::record::sched::SWITCH_FUTEX`].
    pub switch: Switch,
    /// The futex operation with its flags.
    pub op: u32,
    /// The value that the caller expected.
    pub val: u32,
    /// The six words at the futex's address; only if `readable` is 1.
    pub words: [u32; 6],
    /// 1 when `words` could be read.
    pub readable: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<SwitchFutex>() == 56 + 40);

/// A task was created. Its creator is current; it does not run yet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewTask {
    /// Kind [`crate::record::sched::NEW_TASK`].
    pub header: Header,
    /// The new thread.
    pub tid: u32,
    /// Its process; equal to `tid` for a new process.
    pub tgid: u32,
    /// The thread that created it.
    pub creator_tid: u32,
    /// That thread's process.
    pub creator_tgid: u32,
    /// The new thread's id in its own pid namespace; 0: not known.
    pub ns_tid: u32,
    /// Depth of that namespace; 0 is the host's.
    pub ns_level: u32,
    /// Flags of clone(2).
    pub clone_flags: u64,
    /// Its name, inherited from the creator.
    pub comm: [u8; COMM_BYTES],
}

const _: () = assert!(size_of::<NewTask>() == 64);

/// A fork is complete: from now on the child is runnable.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// Kind [`crate::record::sched::FORK`].
    pub header: Header,
    /// The thread that forked.
    pub parent_tid: u32,
    /// Its process.
    pub parent_tgid: u32,
    /// The new thread.
    pub child_tid: u32,
    /// The new thread's process.
    pub child_tgid: u32,
}

const _: () = assert!(size_of::<Fork>() == 32);

/// A program was executed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exec {
    /// Kind [`crate::record::sched::EXEC`].
    pub header: Header,
    /// The process; also the thread's id from now on.
    pub tgid: u32,
    /// The thread's id before: differs when a thread other than the leader executed.
    pub old_tid: u32,
    /// The thread's name from now on.
    pub comm: [u8; COMM_BYTES],
    /// The path that was executed, ended by a zero, cut at the end.
    pub path: [u8; PATH_BYTES],
}

const _: () = assert!(size_of::<Exec>() == 168);

/// A thread ends; its last switch follows.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Kind [`crate::record::sched::EXIT`].
    pub header: Header,
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Exit code as wait(2) gives it: status << 8, or the signal.
    pub exit_code: u32,
    /// Zero.
    pub reserved: u32,
    /// The kernel's own account of the thread's time on CPU; 0: not known.
    pub sum_exec_runtime_ns: u64,
    /// Its name at the end.
    pub comm: [u8; COMM_BYTES],
}

const _: () = assert!(size_of::<Exit>() == 56);

/// The kernel's own account of what a thread has moved by read(2), write(2) and their like, of whatever descriptor: its
/// `task_struct.ioac`. Calls of the sockets' own (send, recv) are not in it. Of threads that moved at least
/// [`Moved::LEAST_BYTES`]; their end follows.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Kind [`crate::record::sched::MOVED`].
    pub header: Header,
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Calls that read.
    pub reads: u64,
    /// Calls that wrote.
    pub writes: u64,
}

impl Moved {
    /// Who moved less gets no record.
    pub const LEAST_BYTES: u64 = 1 << 20;
}

const _: () = assert!(size_of::<Moved>() == 56);

/// A thread's name changed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rename {
    /// Kind [`crate::record::sched::RENAME`].
    pub header: Header,
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// The new name.
    pub comm: [u8; COMM_BYTES],
}

const _: () = assert!(size_of::<Rename>() == 40);

/// A task moved to another cgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupMove {
    /// Kind [`crate::record::sched::CGROUP_MOVE`].
    pub header: Header,
    /// The thread, or the leader of the process that moved.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// The hierarchy's number; 0 is the unified one (v2).
    pub hierarchy: u32,
    /// 1 when the whole process moved.
    pub whole_process: u16,
    /// 1 when the task moved itself: it is on `header.cpu` now.
    pub moved_itself: u16,
    /// The new path within the hierarchy, ended by a zero, cut at the end.
    pub path: [u8; PATH_BYTES],
}

const _: () = assert!(size_of::<CgroupMove>() == 160);

/// A thread begins a step.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Kind [`crate::record::sched::STEP`].
    pub header: Header,
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
}

const _: () = assert!(size_of::<Step>() == 24);
