//! Payloads of the family `cpu`: what the kernel copies of a thread so that its stack can be unwound, and the small record that
//! replaces this copy once it is.
//!
//! [`RawStack`] goes from the programs to the unwinder in its own ring and never into a capture. [`Sampled`] is what the rest of
//! tracer sees: one for each raw record, whatever became of the stack.

use crate::{python::PythonFrame, record::Header};

/// Most kernel frames copied.
pub const KERNEL_FRAMES: usize = 64;
/// Most Python frames copied.
pub const PYTHON_FRAMES: usize = 128;
/// Most user registers of any architecture: 21 words of `struct pt_regs` on x86-64, 34 of `struct user_pt_regs` on aarch64.
pub const REGISTER_WORDS: usize = 34;
/// Most bytes of user stack copied.
pub const MAX_STACK_BYTES: usize = 64 << 10;
/// The stack is copied in pieces of this size, since a read of user memory is all or nothing.
pub const STACK_PIECE_BYTES: usize = 4096;
/// Room for stack bytes in the size classes of a raw record; the kernel takes the smallest that fits.
pub const STACK_CLASSES: [usize; 4] = [4 << 10, 16 << 10, 32 << 10, MAX_STACK_BYTES];

/// Why a stack was taken: [`RawStack::origin`], [`Sampled::origin`].
pub mod origin {
    /// A clock ticked while the thread was on a CPU.
    pub const ON_CPU: u8 = 1;
    /// The thread began to wait.
    pub const WAIT: u8 = 2;
    /// The thread had waited since before tracing began. Of these there is no count in the kernel: user space asked for them.
    pub const ATTACHED: u8 = 3;
    /// The thread touched a page that it did not have: the place is a [`crate::memory::FaultKind`], and the weight is a number of such
    /// faults.
    pub const FAULT: u8 = 4;
    /// The thread ends another one's wait: the place is that of the wait, and the weight no time but who waited, its process in the
    /// upper half and its id in the lower.
    pub const WAKER: u8 = 5;
    /// The thread asked for memory to be mapped: the place is a [`crate::mapping::MapKind`], and the weight is a number of bytes.
    pub const MAP: u8 = 6;
}

/// Bits of [`RawStack::flags`].
pub mod raw_flags {
    /// The thread was running user code: its registers are those of the interrupted instruction.
    pub const IN_USER_CODE: u16 = 1;
    /// The thread has no address space (kernel thread, or it is exiting): there is no user stack.
    pub const NO_USER_SPACE: u16 = 1 << 1;
    /// The user registers could not be read.
    pub const NO_REGISTERS: u16 = 1 << 2;
    /// 32-bit code.
    pub const COMPAT: u16 = 1 << 3;
    /// Part of the stack could not be read: `stack_bytes` end before `stack_wanted`.
    pub const UNREADABLE: u16 = 1 << 4;
    /// The stack is longer than what is ever copied.
    pub const CUT: u16 = 1 << 5;
    /// The place was captured before and has been looked at again.
    pub const REFRESHED: u16 = 1 << 6;
    /// The end of the stack is not known: what was copied ends after [`super::MAX_STACK_BYTES`] or at the first unreadable page.
    pub const NO_STACK_END: u16 = 1 << 7;
    /// The kernel frames were left out: see [`super::kernel_side`].
    pub const NO_KERNEL_FRAMES: u16 = 1 << 8;
}

/// The copy, in front of `stack_bytes` bytes of stack from the stack pointer upwards. 3,928 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawStack {
    /// Kind [`crate::record::cpu::RAW_STACK`]; the time is that of the sample, or of the switch that began the wait.
    pub header: Header,
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// See [`origin`].
    pub origin: u8,
    /// Of `python`, this many are set.
    pub python_frames: u8,
    /// How reading the Python frames ended: [`crate::python::walk`].
    pub python_end: u8,
    /// Of `kernel`, this many are set.
    pub kernel_frames: u8,
    /// See [`raw_flags`].
    pub flags: u16,
    /// System call that the thread is in; negative: none.
    pub syscall: i16,
    /// Bytes of stack behind this struct.
    pub stack_bytes: u32,
    /// Bytes from the stack pointer to the end of the stack; 0: not known.
    pub stack_wanted: u32,
    /// Time that a sample stands for; 0 for waits.
    pub weight_ns: u64,
    /// For waits: the place, see [`place`]; in the low 24 bits.
    pub place: u64,
    /// The thread's pointer to its own control block (`fsbase`, `tpidr_el0`); 0: not known.
    pub thread_pointer: u64,
    /// The kernel's address of its address space: another one after an exec; 0: there is none.
    pub address_space: u64,
    /// The user registers, as the architecture's `pt_regs` has them.
    pub registers: [u64; REGISTER_WORDS],
    /// Kernel return addresses, innermost first.
    pub kernel: [u64; KERNEL_FRAMES],
    /// Python frames, innermost first.
    pub python: [PythonFrame; PYTHON_FRAMES],
}

/// What the iterator over tasks writes of each thread that waits: a [`RawStack`] up to its Python frames, with
/// [`origin::ATTACHED`]. User space reads the rest from the process's memory.
pub const SLEEPER_BYTES: usize = core::mem::offset_of!(RawStack, python);

/// Size of [`RawStack`].
pub const RAW_STACK_BYTES: usize = 72 + REGISTER_WORDS * 8 + KERNEL_FRAMES * 8 + PYTHON_FRAMES * 24;

const _: () = assert!(size_of::<RawStack>() == RAW_STACK_BYTES);

/// A stack was taken. In a capture instead of [`RawStack`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// Kind [`crate::record::cpu::SAMPLED`]; time and CPU of the raw record.
    pub header: Header,
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Id of its stack: the number of a STACK record; 0: there is none (the table was full).
    pub stack: u64,
    /// Time that a sample stands for; 0 for waits.
    pub weight_ns: u64,
    /// For waits: the place in the low 24 bits.
    pub place: u32,
    /// See [`origin`].
    pub origin: u8,
    /// Bit 0: the place had been captured before; bit 1: and its stack was another one then.
    pub refreshed: u8,
    /// Zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<Sampled>() == 48);

/// How many wait stacks each CPU may take. What is due beyond it is counted ([`crate::loss::FamilyCounters::over_budget`]).
pub mod budget {
    /// Stacks per second, in the long run.
    pub const PER_SECOND: u64 = 1000;
    /// Stacks in a row.
    pub const BURST: u64 = 64;
}

/// Which waits' kernel frames are taken: finding them costs more than all the rest. They are taken of the first stacks of a place and
/// then of some, by chance. A stack without them has those that were taken last at its place in the same system call: chance knows
/// nothing of them, so each kind stands for its share. Always taken are those of waits outside system calls (page faults) and of
/// threads without user code.
pub mod kernel_side {
    /// The first stacks of a place.
    pub const FIRST: u32 = 8;
    /// Then one of so many; a power of two.
    pub const ONE_OF: u32 = 8;
}

/// Bits that a place has: it travels in [`crate::sched::Switch::place`].
pub const PLACE_BITS: u32 = 24;

/// The place of a wait: a number that stands for (process, user instruction, user stack pointer). Never 0. The frame pointer is not
/// part of it: code built without frame pointers counts loops in that register, so every turn would be a place of its own. Two
/// places of one process share a number with a probability of 1 in 16 million per pair; a capture cannot tell.
#[inline(always)]
pub const fn place(tgid: u32, ip: u64, sp: u64) -> u32 {
    let mut hash = (tgid as u64 ^ ip).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 29) ^ sp).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 32)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let place = (hash >> (64 - PLACE_BITS)) as u32;
    if place == 0 { 1 } else { place }
}
