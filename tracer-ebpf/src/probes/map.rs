//! Family map: calls of traced threads that change their address space. There is no hook on the calls themselves: a tracepoint on system
//! calls puts every call of every program of the host on a slow path. The kernel reports each attempt to lock an address space instead; the
//! user registers of the thread that does so say in which call it is, and hold what it asked for.
//!
//! mmap, munmap, brk and mremap lock their address space for writing once a call (mm/mmap.c, mm/vma.c, mm/mremap.c), and so does advice that
//! changes mappings. Advice that gives pages back locks it for reading, and from 6.17 on mostly only the one mapping, which is not
//! reported: `mapped::given_back` sees these calls by the pages that they take. Whether a call succeeds is not known here.

use aya_ebpf::{EbpfContext, macros::btf_tracepoint, programs::BtfTracePointContext};
use tracer_common::mapping::{self, Asked};

use crate::{
    access::{config, typed, word},
    emit, filter, mapped, task,
};

/// A thread is about to lock an address space.
#[btf_tracepoint(function = "mmap_lock_start_locking")]
pub fn mmap_lock_start_locking(ctx: BtfTracePointContext) -> i32 {
    locks::<true>(&ctx)
}

/// The same for kernels before 5.17, which lack what taking stacks needs (see `repeat`).
#[btf_tracepoint(function = "mmap_lock_start_locking")]
pub fn mmap_lock_start_locking_old(ctx: BtfTracePointContext) -> i32 {
    locks::<false>(&ctx)
}

#[inline(always)]
fn locks<const STACKS: bool>(ctx: &BtfTracePointContext) -> i32 {
    let write = if config!(map_write_argument) == 2 { word::<2>(ctx.as_ptr()) } else { word::<1>(ctx.as_ptr()) };
    let Some((state, tid, tgid)) = filter::current() else { return 0 };
    let task = task::current();
    let space = task::address_space(task);
    if space.is_null() || space != ctx.arg::<*const u8>(0) {
        return 0;
    }
    let asked = asked(task, space, write as u8 != 0);
    if asked.kind == Asked::NOTHING {
        return 0;
    }
    // SAFETY: the current task's address space.
    let mappings: u32 = unsafe { typed(space, config!(offsets.mm_map_count)) };
    mapped::count::<STACKS>(state, ctx.as_ptr(), (tid, tgid), asked, mappings);
    mapped::counted(tid);
    0
}

/// What the current thread asks for, which locks its own address space.
#[inline(always)]
fn asked(task: task::Task, space: *const u8, write: bool) -> Asked {
    let registers = task::user_registers(task);
    if registers.is_null() {
        return Asked::NONE;
    }
    // SAFETY: the kernel's own registers of the task, and its address space.
    unsafe {
        let call = i32::from(task::syscall(registers));
        if call < 0 || task::is_compat(registers) {
            return Asked::NONE;
        }
        let argument = |offset: u32| typed::<u64>(registers, offset);
        if call == config!(map_calls.madvise) {
            let (length, advice) = (argument(config!(offsets.regs_arg1)), argument(config!(offsets.regs_arg2)));
            return mapping::madvise(length, advice as u32, write);
        }
        if !write {
            // Page faults within a call lock it for reading, and so does a call that fills what it has mapped.
            return Asked::NONE;
        }
        if call == config!(map_calls.mmap) {
            mapping::mmap(argument(config!(offsets.regs_arg1)), argument(config!(offsets.regs_arg3)))
        } else if call == config!(map_calls.munmap) {
            mapping::munmap(argument(config!(offsets.regs_arg1)))
        } else if call == config!(map_calls.brk) {
            let (start, before) = (typed(space, config!(offsets.mm_start_brk)), typed(space, config!(offsets.mm_brk)));
            mapping::brk(start, before, argument(config!(offsets.regs_arg0)))
        } else if call == config!(map_calls.mremap) {
            mapping::mremap(argument(config!(offsets.regs_arg1)), argument(config!(offsets.regs_arg2)))
        } else {
            Asked::NONE
        }
    }
}

/// A thread ends: what it counted is written.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn mapped_at_exit(ctx: BtfTracePointContext) -> i32 {
    let tid = task::tid(ctx.arg::<*const u8>(0));
    let Some(state) = emit::cpu_state() else { return 0 };
    if let Some(sums) = mapped::slot(tid)
        && sums.tid == tid
        && tid != 0
    {
        if sums.pending != 0 {
            mapped::write(state, sums);
        }
        sums.tid = 0;
    }
    0
}
