//! Copies what the unwinder needs of the current thread into a ring record: registers, kernel frames, Python frames, and the user
//! stack from its pointer to its end.
//!
//! Results of reads are kept as data, not as branches, where the data says enough: a branch per read makes the verifier give up.

use core::{ffi::c_void, mem::offset_of, ptr};

use aya_ebpf::helpers::{
    bpf_get_smp_processor_id,
    generated::{bpf_get_stack, bpf_probe_read_kernel, bpf_probe_read_user},
};
use tracer_common::{
    FamilyId,
    loss::{CpuState, LossReason},
    python::{PythonFrame, walk},
    record::cpu as kind,
    stack::{KERNEL_FRAMES, MAX_STACK_BYTES, RAW_STACK_BYTES, RawStack, STACK_PIECE_BYTES, raw_flags as flags},
};

use crate::{
    access::{config, present, typed},
    emit, maps, python, task,
};

/// A stack whose end lies further away than this is not the one that the stack pointer is on (a coroutine's, a signal's).
const MOST_STACK_BYTES: u64 = 1 << 30;
const PIECE: u64 = STACK_PIECE_BYTES as u64;
/// Flags with which no user stack is copied.
const NO_STACK: u16 = flags::NO_USER_SPACE | flags::NO_REGISTERS | flags::COMPAT;

/// Why and of whom a stack is taken.
#[derive(Clone, Copy)]
pub struct Request {
    /// When.
    pub ts_ns: u64,
    /// See [`tracer_common::stack::origin`].
    pub origin: u8,
    /// The current thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// See [`RawStack::weight_ns`].
    pub weight_ns: u64,
    /// See [`RawStack::place`].
    pub place: u32,
    /// What is known before.
    pub flags: u16,
}

/// What is known of the thread's user side before its record is reserved.
#[derive(Clone, Copy)]
pub struct UserSide {
    /// What was found out.
    pub flags: u16,
    /// See [`RawStack::syscall`].
    pub syscall: i16,
    /// Where its stack is.
    pub stack_pointer: u64,
    /// Bytes from there to the end of the stack; 0: not known.
    pub wanted_bytes: u64,
    /// See [`RawStack::thread_pointer`].
    pub thread_pointer: u64,
    /// See [`RawStack::address_space`].
    pub address_space: u64,
    /// The kernel's copy of its registers; null: none.
    pub registers: *const u8,
}

impl UserSide {
    /// Nothing is known.
    pub const NONE: UserSide = UserSide {
        flags: flags::NO_REGISTERS | flags::NO_STACK_END,
        syscall: -1,
        stack_pointer: 0,
        wanted_bytes: 0,
        thread_pointer: 0,
        address_space: 0,
        registers: ptr::null(),
    };
}

/// What the kernel keeps of the current thread's user side.
#[inline(always)]
pub fn user_side(tid: u32, tgid: u32) -> UserSide {
    let mut side = UserSide::NONE;
    if config!(has_task_pt_regs) != 1 || !present(config!(offsets.regs_bytes)) {
        return side;
    }
    let task = task::current();
    let space = task::address_space(task);
    if present(config!(offsets.task_mm)) && space.is_null() || task::is_kernel_thread(task) {
        // Without it every read would fail; the registers would be those of the thread's last system call.
        side.flags = flags::NO_USER_SPACE | flags::NO_STACK_END;
        return side;
    }
    let registers = task::user_registers(task);
    side.flags = 0;
    side.registers = registers;
    side.address_space = space as u64;
    side.thread_pointer = task::thread_pointer(task);
    // SAFETY: known to the verifier as `struct pt_regs` and `struct mm_struct`.
    let start_stack: u64 = unsafe {
        if task::is_compat(registers) {
            side.flags = flags::COMPAT;
        }
        side.syscall = task::syscall(registers);
        side.stack_pointer = typed(registers, config!(offsets.regs_sp));
        typed(space, config!(offsets.mm_start_stack))
    };
    // A thread's control block lies on top of its stack; the first thread's stack is the process's.
    let end = if tid == tgid { start_stack } else { side.thread_pointer };
    let distance = end.wrapping_sub(side.stack_pointer);
    if end == 0 || distance == 0 || distance > MOST_STACK_BYTES {
        side.flags |= flags::NO_STACK_END;
    } else {
        side.wanted_bytes = distance;
        if distance > MAX_STACK_BYTES as u64 {
            side.flags |= flags::CUT;
        }
    }
    side
}

/// Takes the stack of the current thread. `context` writes the user registers when the kernel's own copy of them is not known.
#[inline(always)]
pub fn take(state: &mut CpuState, ctx: *mut c_void, request: Request, side: UserSide, context: impl Fn(*mut u64)) {
    let known = request.flags | side.flags;
    let mut copied = 0;
    if known & NO_STACK == 0 {
        copied = side.wanted_bytes;
        if copied == 0 || copied > MAX_STACK_BYTES as u64 {
            copied = MAX_STACK_BYTES as u64;
        }
    }
    emit::see(state, FamilyId::Cpu);
    let Some(head) = maps::HEADS.get_ptr_mut(0) else { return };
    // SAFETY: a per-CPU value; the programs that use it run with interrupts off, so none interrupts another.
    let python_frames = unsafe {
        write_head(state, head, &request, &side);
        (*head).flags = known;
        let registers = (&raw mut (*head).registers).cast::<u64>();
        if side.registers.is_null() {
            context(registers);
        } else if present(config!(offsets.regs_bytes)) {
            bpf_probe_read_kernel(registers.cast(), config!(offsets.regs_bytes), side.registers.cast());
        }
        (*head).kernel_frames = kernel_frames(ctx, head);
        python_frames(head, request.tgid, side.thread_pointer);
        // Read back, so that the verifier forgets the many ways in which the walk ended and goes on with one.
        (&raw const (*head).python_frames).read_volatile()
    };
    // Whatever takes time is done: a reader waits for every record that is reserved and not yet submitted.
    let entry = emit::reserve_stack(copied);
    if entry.head.is_null() {
        emit::lose_stack(state, LossReason::RingFull);
        return;
    }
    let record = entry.head;
    // SAFETY: the record has room for `RawStack` and, behind it, for `room_bytes`; the source is as large.
    unsafe {
        // Read back as a number: the verifier knows a pointer, with which it allows no arithmetic.
        let first = is_first((&raw const (*head).address_space).read_volatile(), request.tgid);
        let bytes = if python_frames == 0 { offset_of!(RawStack, python) } else { RAW_STACK_BYTES };
        bpf_probe_read_kernel(record.cast(), bytes as u32, head.cast());
        let stack_bytes = user_stack(record, entry.room_bytes, side.stack_pointer, copied);
        (*record).stack_bytes = stack_bytes as u32;
        if stack_bytes < copied && side.wanted_bytes != 0 {
            (*record).flags = known | flags::UNREADABLE;
        }
        emit::submit_stack(state, entry, first);
    }
}

/// Whether no stack of this process, as long as it has run this program, was taken lately. Processes that share an entry of the table
/// are first again and again.
#[inline(always)]
fn is_first(address_space: u64, tgid: u32) -> bool {
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let process = (address_space ^ u64::from(tgid) << 40).wrapping_mul(SPREAD);
    let Some(entry) = maps::ANNOUNCED.get_ptr_mut((process >> 52) as u32) else { return true };
    // SAFETY: plain data in a map; a race between CPUs costs a wake-up more.
    unsafe {
        let first = *entry != process;
        *entry = process;
        first
    }
}

/// Writes who, when and why.
#[inline(always)]
unsafe fn write_head(state: &CpuState, record: *mut RawStack, request: &Request, side: &UserSide) {
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    // SAFETY: the record has room for `RawStack`.
    unsafe {
        (*record).header = emit::header(state, request.ts_ns, cpu, kind::RAW_STACK);
        (*record).tid = request.tid;
        (*record).tgid = request.tgid;
        (*record).origin = request.origin;
        (*record).syscall = side.syscall;
        (*record).stack_wanted = side.wanted_bytes as u32;
        (*record).weight_ns = request.weight_ns;
        (*record).place = u64::from(request.place);
        (*record).thread_pointer = side.thread_pointer;
        (*record).address_space = side.address_space;
    }
}

/// Kernel return addresses; how many.
#[inline(always)]
unsafe fn kernel_frames(ctx: *mut c_void, record: *mut RawStack) -> u8 {
    // SAFETY: the record has room for the bytes asked for.
    let bytes = unsafe { bpf_get_stack(ctx, (&raw mut (*record).kernel).cast(), (KERNEL_FRAMES * 8) as u32, 0) };
    if bytes > 0 { (bytes / 8) as u8 } else { 0 }
}

/// Python frames, if the process is known to run Python.
#[inline(always)]
unsafe fn python_frames(record: *mut RawStack, tgid: u32, thread_pointer: u64) {
    let mut walked = (0, walk::NOT_PYTHON);
    if config!(python) == 1
        && let Some(process) = maps::PYTHON.get_ptr(tgid)
    {
        // SAFETY: the entry lives while the program runs; the record has room for the frames.
        walked = unsafe { python::walk(&*process, thread_pointer, (&raw mut (*record).python).cast::<PythonFrame>()) };
    }
    // SAFETY: the record has room for `RawStack`.
    unsafe {
        (&raw mut (*record).python_frames).write_volatile(walked.0);
        (&raw mut (*record).python_end).write_volatile(walked.1);
    }
}

/// The stack from its pointer upwards, in pieces, since a read of user memory is all or nothing. Returns how many bytes were read.
#[inline(always)]
unsafe fn user_stack(record: *mut RawStack, room_bytes: usize, stack_pointer: u64, wanted: u64) -> u64 {
    let pieces = (room_bytes / STACK_PIECE_BYTES) as u64;
    let mut piece = 0;
    let mut read = 0;
    while piece < pieces && piece < (MAX_STACK_BYTES / STACK_PIECE_BYTES) as u64 {
        let at = piece * PIECE;
        if at >= wanted {
            break;
        }
        let mut len = wanted - at;
        if len > PIECE {
            len = PIECE;
        }
        let from = stack_pointer.wrapping_add(at);
        // SAFETY: piece `piece` lies within the room behind the head; the helper checks the user address.
        unsafe {
            let to = record.cast::<u8>().add(RAW_STACK_BYTES).add(at as usize);
            if bpf_probe_read_user(to.cast(), len as u32, from as *const c_void) != 0 {
                // What is left of the page that the piece begins in may be there although the next page is not.
                let rest = PIECE - (from & (PIECE - 1));
                if rest < len && bpf_probe_read_user(to.cast(), rest as u32, from as *const c_void) == 0 {
                    read = at + rest;
                }
                break;
            }
        }
        read = at + len;
        piece += 1;
    }
    read
}
