//! Copies what the unwinder needs of the current thread into a ring record: registers, kernel frames, Python frames, and the user
//! stack from its pointer to its end.
//!
//! Results of reads are kept as data, not as branches, where the data says enough: a branch per read makes the verifier give up.

use core::{ffi::c_void, mem::offset_of, ptr};

use aya_ebpf::helpers::{
    bpf_get_smp_processor_id,
    generated::{bpf_get_stack, bpf_get_task_stack, bpf_probe_read_kernel, bpf_probe_read_user},
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
    emit, maps, python,
    repeat::{Step, repeat},
    task,
};

/// A stack whose end lies further away than this is not the one that the stack pointer is on (a coroutine's, a signal's).
const MOST_PROCESS_STACK_BYTES: u64 = 1 << 30;
/// The same for stacks of threads, which have other threads' stacks above theirs.
const MOST_THREAD_STACK_BYTES: u64 = 64 << 20;
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
    /// Its memory descriptor.
    pub address_space: u64,
    /// Where the process's stack begins.
    pub start_stack: u64,
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
        start_stack: 0,
        registers: ptr::null(),
    };
}

/// What the kernel keeps of the current thread's user side.
#[inline(always)]
pub fn user_side(tid: u32, tgid: u32) -> UserSide {
    if !task::tells_registers() {
        return UserSide::NONE;
    }
    user_side_of(task::current(), tid, tgid)
}

/// The same of any thread, whose registers count as long as it does not run.
#[inline(always)]
pub fn user_side_of(task: task::Task, tid: u32, tgid: u32) -> UserSide {
    let mut side = UserSide::NONE;
    if !task::tells_registers() || !present(config!(offsets.regs_bytes)) {
        return side;
    }
    let space = task::address_space(task);
    if present(config!(offsets.task_mm)) && space.is_null() || task::is_kernel_thread(task) {
        // Without it every read would fail; the registers would be those of the thread's last system call.
        side.flags = flags::NO_USER_SPACE | flags::NO_STACK_END;
        return side;
    }
    let registers = task::user_registers(task);
    if registers.is_null() {
        // A task that is gone has no kernel stack.
        return side;
    }
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
    side.start_stack = start_stack;
    // The first thread's stack is the process's. A thread's control block lies on top of its stack, and so it does for the first
    // thread of a process that another thread forked.
    let on_process_stack = start_stack.wrapping_sub(side.stack_pointer);
    let on_thread_stack = side.thread_pointer.wrapping_sub(side.stack_pointer);
    if tid == tgid && start_stack != 0 && on_process_stack.wrapping_sub(1) < MOST_PROCESS_STACK_BYTES {
        side.wanted_bytes = on_process_stack;
    } else if side.thread_pointer != 0 && on_thread_stack.wrapping_sub(1) < MOST_THREAD_STACK_BYTES {
        side.wanted_bytes = on_thread_stack;
    } else {
        side.flags |= flags::NO_STACK_END;
    }
    if side.wanted_bytes > MAX_STACK_BYTES as u64 {
        side.flags |= flags::CUT;
    }
    side
}

/// A record in the making, with what is needed to finish it. In memory, of which the verifier knows nothing: what is read back here
/// is one case, however many ways led to it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Draft {
    /// All but the stack.
    head: RawStack,
    stack_pointer: u64,
    /// Bytes of stack to copy.
    copied: u64,
}

/// Reads a field of the draft.
macro_rules! drafted {
    ($draft:ident.$($field:ident).+) => {
        (&raw const (*$draft).$($field).+).read_volatile()
    };
}

/// Takes the stack of the current thread. `context` writes the user registers when the kernel's own copy of them is not
/// known. HELPER: see `repeat`.
#[inline(always)]
pub fn take<const HELPER: bool>(
    state: &mut CpuState,
    ctx: *mut c_void,
    request: Request,
    side: UserSide,
    context: impl Fn(*mut u64),
) {
    let Some(draft) = maps::DRAFTS.get_ptr_mut(0) else { return };
    // Programs that use it run with interrupts off, so none interrupts another.
    take_into::<HELPER>(state, draft, ctx, request, side, context);
}

/// The same of a page fault or of a call that maps memory, whose programs other programs may interrupt, but not each other: they have a
/// draft of their own. By the kernel's helper for loops only.
#[inline(always)]
pub fn take_of_fault(state: &mut CpuState, ctx: *mut c_void, request: Request) {
    let Some(draft) = maps::FAULT_DRAFTS.get_ptr_mut(0) else { return };
    let side = user_side(request.tid, request.tgid);
    take_into::<true>(state, draft, ctx, request, side, |_| ());
}

#[inline(always)]
fn take_into<const HELPER: bool>(
    state: &mut CpuState,
    draft: *mut Draft,
    ctx: *mut c_void,
    request: Request,
    side: UserSide,
    context: impl Fn(*mut u64),
) {
    emit::see(state, FamilyId::Cpu);
    // SAFETY: a per-CPU value that one program at a time uses.
    unsafe {
        write_head(state, draft, &request, &side);
        let head = &raw mut (*draft).head;
        let registers = (&raw mut (*head).registers).cast::<u64>();
        if side.registers.is_null() {
            context(registers);
        } else if present(config!(offsets.regs_bytes)) {
            bpf_probe_read_kernel(registers.cast(), config!(offsets.regs_bytes), side.registers.cast());
        }
        // A sample that interrupts user code has none.
        let has_none = drafted!(draft.head.flags) & (flags::NO_KERNEL_FRAMES | flags::IN_USER_CODE) != 0;
        (*head).kernel_frames = if has_none { 0 } else { kernel_frames(ctx, head) };
        python_frames::<HELPER>(head);
        deliver::<HELPER>(state, draft);
    }
}

/// Writes what the kernel knows of a thread that waits, for user space to complete. Null: not of this one.
#[inline(always)]
pub fn of_sleeper(state: &CpuState, task: task::Task, request: Request) -> *const c_void {
    let side = user_side_of(task, request.tid, request.tgid);
    if side.flags & NO_STACK != 0 {
        return ptr::null();
    }
    let Some(draft) = maps::SLEEPER.get_ptr_mut(0) else { return ptr::null() };
    // SAFETY: a value in a map that one program uses, for one reader.
    unsafe {
        write_head(state, draft, &request, &side);
        let head = &raw mut (*draft).head;
        if present(config!(offsets.regs_bytes)) {
            bpf_probe_read_kernel(
                (&raw mut (*head).registers).cast(),
                config!(offsets.regs_bytes),
                side.registers.cast(),
            );
        }
        let to = (&raw mut (*head).kernel).cast();
        let bytes = bpf_get_task_stack(task.cast_mut().cast(), to, (KERNEL_FRAMES * 8) as u32, 0);
        (*head).kernel_frames = if bytes > 0 { (bytes / 8) as u8 } else { 0 };
        head.cast_const().cast()
    }
}

/// Copies the draft and the stack into a ring. Whatever takes time was done before: a reader waits for every record that is reserved
/// and not yet submitted.
#[inline(always)]
unsafe fn deliver<const HELPER: bool>(state: &mut CpuState, draft: *mut Draft) {
    // SAFETY: the draft is a value in a map.
    let copied = unsafe { drafted!(draft.copied) };
    let entry = emit::reserve_stack(state, copied);
    if entry.head.is_null() {
        emit::lose(state, FamilyId::Cpu, LossReason::RingFull);
        return;
    }
    let record = entry.head;
    // SAFETY: the record has room for `RawStack` and, behind it, for `pieces`; the source is as large.
    unsafe {
        let first = is_first(drafted!(draft.head.address_space), drafted!(draft.head.tgid));
        let bytes =
            if drafted!(draft.head.python_frames) == 0 { offset_of!(RawStack, python) } else { RAW_STACK_BYTES };
        bpf_probe_read_kernel(record.cast(), bytes as u32, draft.cast());
        let goes_on = drafted!(draft.head.stack_wanted) != 0;
        let (stack_bytes, has_holes) =
            user_stack::<HELPER>(record, entry.pieces, drafted!(draft.stack_pointer), copied, goes_on);
        (*record).stack_bytes = stack_bytes as u32;
        if goes_on && has_holes {
            (*record).flags = drafted!(draft.head.flags) | flags::UNREADABLE;
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

/// Writes who, when, why, and how much of the stack is to be copied.
#[inline(always)]
unsafe fn write_head(state: &CpuState, draft: *mut Draft, request: &Request, side: &UserSide) {
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let known = request.flags | side.flags;
    let mut copied = 0;
    if known & NO_STACK == 0 {
        copied = side.wanted_bytes;
        if copied == 0 || copied > MAX_STACK_BYTES as u64 {
            copied = MAX_STACK_BYTES as u64;
        }
    }
    // SAFETY: the draft is a value in a map.
    unsafe {
        (*draft).stack_pointer = side.stack_pointer;
        (*draft).copied = copied;
        let head = &raw mut (*draft).head;
        (*head).header = emit::header(state, request.ts_ns, cpu, kind::RAW_STACK);
        (*head).tid = request.tid;
        (*head).tgid = request.tgid;
        (*head).origin = request.origin;
        (*head).flags = known;
        (*head).syscall = side.syscall;
        (*head).stack_wanted = side.wanted_bytes as u32;
        (*head).weight_ns = request.weight_ns;
        (*head).place = u64::from(request.place);
        (*head).thread_pointer = side.thread_pointer;
        // The program after the next one may be given this one's memory descriptor; its stack lies elsewhere. What is read back is a
        // number to the verifier, which allows no arithmetic with the pointer.
        (&raw mut (*head).address_space).write_volatile(side.address_space);
        let descriptor = drafted!(draft.head.address_space);
        (*head).address_space = descriptor ^ side.start_stack.rotate_left(20);
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
unsafe fn python_frames<const HELPER: bool>(head: *mut RawStack) {
    let mut walked = (0, walk::NOT_PYTHON);
    // SAFETY: the head is a value in a map; the entry lives while the program runs.
    unsafe {
        if config!(python) == 1
            && let Some(process) = maps::PYTHON.get_ptr(drafted!(head.tgid))
        {
            let out = (&raw mut (*head).python).cast::<PythonFrame>();
            walked = python::walk::<HELPER>(&*process, drafted!(head.thread_pointer), out);
        }
        (&raw mut (*head).python_frames).write_volatile(walked.0);
        (&raw mut (*head).python_end).write_volatile(walked.1);
    }
}

/// The stack from its pointer upwards, in pieces, since a read of user memory is all or nothing. Returns how many bytes there are, and
/// whether pages among them could not be read: they are zeroes then. That is no rarity, since a large variable that nobody has
/// touched yet has no pages. Where the end of the stack is not known, the first such page is taken for it.
#[inline(always)]
unsafe fn user_stack<const HELPER: bool>(
    record: *mut RawStack,
    pieces: u64,
    stack_pointer: u64,
    wanted: u64,
    goes_on: bool,
) -> (u64, bool) {
    let mut copy = Copy { record, pieces, stack_pointer, wanted, goes_on: u64::from(goes_on), read: 0, failed: 0 };
    repeat::<HELPER, Copy>((MAX_STACK_BYTES / STACK_PIECE_BYTES) as u32, &mut copy);
    (copy.read, copy.failed != 0)
}

/// Copies a stack piece by piece.
struct Copy {
    record: *mut RawStack,
    /// For which the record has room.
    pieces: u64,
    stack_pointer: u64,
    /// Bytes to copy.
    wanted: u64,
    /// 1: pages that cannot be read are zeroes; 0: they end the stack.
    goes_on: u64,
    /// Bytes that were copied.
    read: u64,
    /// 1: there were pages that could not be read.
    failed: u64,
}

impl Step for Copy {
    #[inline(always)]
    fn step(&mut self, turn: u64) -> bool {
        let at = turn * PIECE;
        if turn >= self.pieces || at >= self.wanted {
            return true;
        }
        let mut len = self.wanted - at;
        if len > PIECE {
            len = PIECE;
        }
        let from = self.stack_pointer.wrapping_add(at);
        // SAFETY: piece `turn` lies within the room behind the head, and so does what it may be
        // overrun by (`emit::reserve_stack` adds one piece); the helper checks the user address.
        unsafe {
            let to = self.record.cast::<u8>().add(RAW_STACK_BYTES).add(at as usize);
            if bpf_probe_read_user(to.cast(), len as u32, from as *const c_void) != 0 {
                self.failed = 1;
                // A piece lies in two pages: each may be there without the other. Bytes that are not are zeroes by now.
                let second = from & (PIECE - 1);
                // Volatile: the compiler would add it to a pointer as 4096 less the rest, and the verifier refuses what is taken off.
                let first = ptr::read_volatile(&(PIECE - second));
                if first < len {
                    let lost = bpf_probe_read_user(to.cast(), first as u32, from as *const c_void);
                    if self.goes_on == 1 {
                        let rest = from.wrapping_add(first) as *const c_void;
                        bpf_probe_read_user(to.add(first as usize).cast(), second as u32, rest);
                    } else if lost == 0 {
                        self.read = at + first;
                    }
                }
                if self.goes_on == 0 {
                    return true;
                }
            }
        }
        self.read = at + len;
        false
    }
}
