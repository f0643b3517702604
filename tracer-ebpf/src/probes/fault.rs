//! Family fault: page faults of traced threads. Each is counted by what it did; of some a stack is taken.
//!
//! The kernel reports the beginning of a fault, and each change of a process's counters of resident memory. A fault that added a page has
//! changed one; one that was a write to a page that was there copied it. The end is not reported: the next fault settles the last one.
//!
//! Two programs for each fault cost more than one, so beginnings are looked at only where pages are copied (`kernel::on_demand` in user space
//! decides); otherwise see `numbered`.
//! Up to 6.1 threads count their memory themselves and report it later: there the next fault looks at these counters.
//!
//! Programs with STACKS take stacks, by a helper that kernels before 5.17 lack (see `repeat`). There the others run, which only count:
//! loops that the verifier follows turn by turn would take it seconds in each of them.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use tracer_common::{
    loss::CpuState,
    memory::{FaultKind, FaultSums, error_code, fault_state, rss},
    stack::{origin, raw_flags as flags},
};

use crate::{
    access::{config, typed},
    emit, faults, filter, mapped, numbered,
    stack::{self, Request},
    task::{self, Task},
};

/// Huge pages come in hundreds; other threads' pages meanwhile in tens.
const HUGE_PAGES: u64 = 256;

/// A page fault in user code.
#[btf_tracepoint(function = "page_fault_user")]
pub fn page_fault_user(ctx: BtfTracePointContext) -> i32 {
    begins::<true>(&ctx, ctx.arg::<u64>(2) as u8, 0);
    0
}

/// The same for kernels before 5.17.
#[btf_tracepoint(function = "page_fault_user")]
pub fn page_fault_user_old(ctx: BtfTracePointContext) -> i32 {
    begins::<false>(&ctx, ctx.arg::<u64>(2) as u8, 0);
    0
}

/// A page fault in kernel code. Those of memory of the process count: a system call accesses its arguments.
#[btf_tracepoint(function = "page_fault_kernel")]
pub fn page_fault_kernel(ctx: BtfTracePointContext) -> i32 {
    let address: u64 = ctx.arg(0);
    // The upper half of the addresses is the kernel's. Where faults are switched off none is handled: the access fails, as those of
    // programs like this one do, which look at memory that may not be there.
    // SAFETY: the current task is known to the verifier.
    let off: u32 = unsafe { typed(task::current(), config!(offsets.task_pagefault_disabled)) };
    if address >> 63 == 0 && off == 0 {
        begins::<false>(&ctx, ctx.arg::<u64>(2) as u8, 1);
    }
    0
}

#[inline(always)]
fn begins<const STACKS: bool>(ctx: &BtfTracePointContext, error: u8, from_kernel: u8) {
    let Some((state, tid, tgid)) = filter::current() else { return };
    let Some(sums) = faults::own(state, tid, tgid) else { return };
    let task = task::current();
    faults::begin(state, sums, task, (error, from_kernel));
    sums.pages_before = faults::anonymous_pages(task::address_space(task));
    let copies = error_code::PROTECTION | error_code::WRITE;
    if STACKS && config!(fault_period) != 0 && error & copies == copies && from_kernel == 0 {
        copied(ctx, state, sums);
    }
}

/// A page is about to be copied.
#[inline(always)]
fn copied(ctx: &BtfTracePointContext, state: &mut CpuState, sums: &mut FaultSums) {
    if sums.until_copy == 0 {
        sums.until_copy = faults::draw(0);
        sums.copy_weight = sums.until_copy;
    }
    sums.until_copy -= 1;
    if sums.until_copy == 0 {
        take(ctx, state, sums, FaultKind::CopyOnWrite, sums.copy_weight);
    }
}

/// A counter of a process's resident memory changes.
#[btf_tracepoint(function = "rss_stat")]
#[inline(always)]
pub fn rss_stat(ctx: BtfTracePointContext) -> i32 {
    counter_changes::<true>(&ctx)
}

/// The same for kernels before 5.17.
#[btf_tracepoint(function = "rss_stat")]
pub fn rss_stat_old(ctx: BtfTracePointContext) -> i32 {
    counter_changes::<false>(&ctx)
}

#[inline(always)]
fn counter_changes<const STACKS: bool>(ctx: &BtfTracePointContext) -> i32 {
    let space = ctx.arg::<*const u8>(0);
    let counter = ctx.arg::<u64>(1) as u32;
    // Asked for once: calls of helpers are most of what this costs.
    let task = task::current();
    if task::address_space(task) != space || counter >= rss::KINDS as u32 {
        return 0;
    }
    if numbered::is_on() {
        changes_by_number::<STACKS>(ctx, task, space, counter);
        return 0;
    }
    let tid = bpf_get_current_pid_tgid() as u32;
    let Some(sums) = faults::slot(tid) else { return 0 };
    // An entry that is the thread's own says that it is traced.
    if sums.tid != tid || sums.open == fault_state::NONE {
        return 0;
    }
    // Behind a fault in user code the thread may have gone on and called the kernel, which then changes the counter.
    if sums.from_kernel == 0 || config!(map) == 1 {
        let call = system_call(task);
        if call >= 0 && (given_back(ctx, sums, space, call) || sums.from_kernel == 0) {
            return 0;
        }
    }
    changed::<STACKS>(ctx, sums, space, counter);
    0
}

/// The same where the kernel's numbers tell faults apart.
#[inline(always)]
fn changes_by_number<const STACKS: bool>(ctx: &BtfTracePointContext, task: Task, space: *const u8, counter: u32) {
    let Some(sums) = traced(task) else { return };
    let number = numbered::number(task);
    let is_in = numbered::is_at(sums, number);
    let call = system_call(task);
    if call >= 0 {
        let is_fault = is_in && sums.from_kernel == 1;
        let is_given_back = sums.open != fault_state::NONE && given_back(ctx, sums, space, call);
        if !is_fault {
            numbered::called(sums, number, call);
        }
        if !is_fault || is_given_back {
            return;
        }
    }
    let is_huge = counter == rss::ANONYMOUS && numbered::has_grown_huge(sums, space);
    let (kind, is_first) = if is_in {
        numbered::more(sums, counter, is_huge)
    } else {
        (numbered::first(sums, task, number, counter, is_huge), true)
    };
    if STACKS && config!(fault_period) != 0 && is_first && sums.error & error_code::PROTECTION == 0 {
        touched(ctx, sums, kind);
    }
}

/// The entry of the current thread, if it is traced.
#[inline(always)]
fn traced(task: Task) -> Option<&'static mut FaultSums> {
    let tid = task::tid(task);
    let sums = faults::slot(tid)?;
    // An entry that is the thread's own says that it is traced.
    if sums.tid == tid {
        return Some(sums);
    }
    let (state, tid, tgid) = filter::current()?;
    faults::own(state, tid, tgid)
}

/// The system call by which the thread entered the kernel; negative: none.
#[inline(always)]
fn system_call(task: Task) -> i16 {
    let registers = task::user_registers(task);
    // SAFETY: the kernel's own registers of the task.
    if registers.is_null() { -1 } else { unsafe { task::syscall(registers) } }
}

/// Whether the thread gives pages back by madvise. The first of them counts the call, for the family `map`.
#[inline(always)]
fn given_back(ctx: &BtfTracePointContext, sums: &mut FaultSums, space: *const u8, call: i16) -> bool {
    if config!(map) != 1 || i32::from(call) != config!(map_calls.madvise) {
        return false;
    }
    let Some(state) = emit::cpu_state() else { return false };
    // SAFETY: the address space of the current task.
    let mappings: u32 = unsafe { typed(space, config!(offsets.mm_map_count)) };
    mapped::given_back(state, ctx.as_ptr(), (sums.tid, sums.tgid), mappings, &mut sums.freed)
}

#[inline(always)]
fn changed<const STACKS: bool>(ctx: &BtfTracePointContext, sums: &mut FaultSums, space: *const u8, counter: u32) {
    let is_huge = counter == rss::ANONYMOUS
        && faults::anonymous_pages(space).wrapping_sub(sums.pages_before) as i64 >= HUGE_PAGES as i64;
    if faults::has_own_counters() && !is_huge {
        // What is reported is what the thread hands in of all its faults since it last did: this one shows in its own counters.
        return;
    }
    let first = sums.touched == 0;
    sums.touched |= 1 << counter;
    let mut kind = match counter {
        rss::ANONYMOUS => FaultKind::Anonymous,
        rss::SHARED => FaultKind::Shared,
        rss::FILE => FaultKind::File,
        _ => FaultKind::SwapIn,
    };
    if is_huge {
        sums.huge = 1;
        kind = FaultKind::AnonymousHuge;
    }
    if STACKS && config!(fault_period) != 0 && first && sums.error & error_code::PROTECTION == 0 {
        touched(ctx, sums, kind);
    }
}

/// A page was touched for the first time. One huge page is as much memory as small ones have one stack for: each has its own.
#[inline(always)]
fn touched(ctx: &BtfTracePointContext, sums: &mut FaultSums, kind: FaultKind) {
    let mut weight = 1;
    if sums.huge == 0 {
        if sums.until_touch == 0 {
            sums.until_touch = faults::draw(sums.pace.doubled);
            sums.touch_weight = sums.until_touch;
        }
        sums.until_touch -= 1;
        if sums.until_touch != 0 {
            return;
        }
        weight = sums.touch_weight;
        // SAFETY: no arguments.
        sums.pace.take(unsafe { bpf_ktime_get_ns() });
    }
    if let Some(state) = emit::cpu_state() {
        take(ctx, state, sums, kind, weight);
    }
}

/// Takes the stack of the current thread, which stands for so many faults.
#[inline(always)]
fn take(ctx: &BtfTracePointContext, state: &mut CpuState, sums: &FaultSums, kind: FaultKind, weight: u32) {
    let request = Request {
        // SAFETY: no arguments.
        ts_ns: unsafe { bpf_ktime_get_ns() },
        origin: origin::FAULT,
        tid: sums.tid,
        tgid: sums.tgid,
        weight_ns: u64::from(weight),
        place: kind as u32,
        // What called is wanted; where in the kernel is known.
        flags: flags::NO_KERNEL_FRAMES,
    };
    stack::take_of_fault(state, ctx.as_ptr(), request);
}

/// A page fault of a mapped file did not find its page mapped near by. Which file is kept: the thread may have to wait for it.
#[btf_tracepoint(function = "mm_filemap_fault")]
pub fn mm_filemap_fault(ctx: BtfTracePointContext) -> i32 {
    let sums = if numbered::is_on() { in_fault() } else { faults::slot(bpf_get_current_pid_tgid() as u32) };
    if let Some(sums) = sums
        && sums.tid == bpf_get_current_pid_tgid() as u32
        && (numbered::is_on() || sums.open == fault_state::OPEN)
    {
        let mapping = ctx.arg::<*const u8>(0);
        // SAFETY: `mapping` is known to the verifier, and so is the inode that it belongs to.
        sums.inode = unsafe {
            let host = typed::<u64>(mapping, config!(offsets.mapping_host)) as *const u8;
            if host.is_null() { 0 } else { typed(host, config!(offsets.inode_ino)) }
        };
    }
    0
}

/// The entry of the current thread, which is in a page fault, if it is traced. A fault of which this is the first sign begins; not one of
/// a system call, which may read a file as well.
#[inline(always)]
fn in_fault() -> Option<&'static mut FaultSums> {
    let task = task::current();
    let sums = traced(task)?;
    if !numbered::is_in(sums, task) {
        if system_call(task) >= 0 {
            return None;
        }
        faults::begin(emit::cpu_state()?, sums, task, (0, 0));
    }
    Some(sums)
}

/// A thread ends: what it counted is written.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn faults_at_exit(ctx: BtfTracePointContext) -> i32 {
    let task = ctx.arg::<*const u8>(0);
    let tid = task::tid(task);
    let Some(state) = emit::cpu_state() else { return 0 };
    if let Some(sums) = faults::slot(tid)
        && sums.tid == tid
        && tid != 0
    {
        faults::settle(state, sums, task, &faults::own_counters(task));
        numbered::ended(sums, task);
        if sums.pending != 0 {
            faults::write(state, sums);
        }
        sums.tid = 0;
    }
    0
}
