//! Family cpu: stacks. A clock's tick takes the stack of the thread that it interrupts; a switch takes that of the thread that
//! leaves, when the program before it found that it is that place's turn (`places`), and a wake-up that of the thread that ends a wait.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, generated::bpf_get_prandom_u32},
    macros::{btf_tracepoint, perf_event},
    programs::{BtfTracePointContext, PerfEventContext},
};
use tracer_common::stack::{kernel_side, origin, raw_flags as flags};

use crate::{
    access::{config, word},
    emit, filter,
    stack::{self, Request, UserSide},
};

/// Where the stack pointer is in a program's context, in words: x86's `pt_regs`, aarch64's `user_pt_regs` (both are uapi).
const X86_SP: usize = 19;
const ARM_SP: usize = 31;
/// Words of the two.
const X86_WORDS: usize = 21;
const ARM_WORDS: usize = 34;

/// The clock of a CPU ticks.
#[perf_event]
pub fn cpu_sample(ctx: PerfEventContext) -> i32 {
    sample::<true>(ctx)
}

/// The same for kernels before 5.17.
#[perf_event]
pub fn cpu_sample_old(ctx: PerfEventContext) -> i32 {
    sample::<false>(ctx)
}

#[inline(always)]
fn sample<const HELPER: bool>(ctx: PerfEventContext) -> i32 {
    let ids = bpf_get_current_pid_tgid();
    let (tid, tgid) = (ids as u32, (ids >> 32) as u32);
    let Some(state) = emit::cpu_state() else { return 0 };
    if !filter::tracked(state, tid, tgid) {
        return 0;
    }
    let stack_pointer = interrupted_stack_pointer(&ctx);
    // The upper half of the addresses is the kernel's.
    let in_user_code = stack_pointer != 0 && stack_pointer >> 63 == 0;
    let mut side = stack::user_side(tid, tgid);
    if config!(context_words) != 0 && in_user_code {
        side = UserSide { flags: flags::NO_STACK_END, stack_pointer, ..UserSide::NONE };
    }
    let request = Request {
        // SAFETY: no arguments.
        ts_ns: unsafe { bpf_ktime_get_ns() },
        origin: origin::ON_CPU,
        tid,
        tgid,
        weight_ns: config!(sample_period_ns),
        place: 0,
        flags: if in_user_code { flags::IN_USER_CODE } else { 0 },
    };
    stack::take::<HELPER>(state, ctx.as_ptr(), request, side, |to| copy_context(&ctx, to));
    0
}

/// The stack pointer of what was interrupted, user code or kernel; 0: not known.
#[inline(always)]
fn interrupted_stack_pointer(ctx: &PerfEventContext) -> u64 {
    match config!(context_sp_word) as usize {
        X86_SP => word::<X86_SP>(ctx.as_ptr()),
        ARM_SP => word::<ARM_SP>(ctx.as_ptr()),
        _ => 0,
    }
}

/// Copies the context's registers, where the kernel gives no others.
#[inline(always)]
fn copy_context(ctx: &PerfEventContext, to: *mut u64) {
    macro_rules! copy {
        ($($word:literal)*) => {
            // SAFETY: the record has room for ARM_WORDS registers.
            unsafe { $(to.add($word).write_volatile(word::<$word>(ctx.as_ptr()));)* }
        };
    }
    if config!(context_words) as usize >= X86_WORDS {
        copy!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20);
    }
    if config!(context_words) as usize == ARM_WORDS {
        copy!(21 22 23 24 25 26 27 28 29 30 31 32 33);
    }
}

/// A thread leaves the CPU. Runs after the program that counts switches and decides whether this one is looked at.
#[btf_tracepoint(function = "sched_switch")]
pub fn wait_stack(ctx: BtfTracePointContext) -> i32 {
    wait::<true>(ctx)
}

/// The same for kernels before 5.17.
#[btf_tracepoint(function = "sched_switch")]
pub fn wait_stack_old(ctx: BtfTracePointContext) -> i32 {
    wait::<false>(ctx)
}

#[inline(always)]
fn wait<const HELPER: bool>(ctx: BtfTracePointContext) -> i32 {
    let Some(state) = emit::cpu_state() else { return 0 };
    let place = state.due_place;
    if place == 0 {
        return 0;
    }
    state.due_place = 0;
    let ids = bpf_get_current_pid_tgid();
    let (tid, tgid) = (ids as u32, (ids >> 32) as u32);
    let request = Request {
        ts_ns: state.due_ts_ns,
        origin: origin::WAIT,
        tid,
        tgid,
        weight_ns: 0,
        place,
        flags: if state.due_again == 0 { 0 } else { flags::REFRESHED },
    };
    let mut side = stack::user_side(tid, tgid);
    let in_syscall = side.flags & (flags::NO_USER_SPACE | flags::NO_REGISTERS) == 0 && side.syscall >= 0;
    if in_syscall && state.due_again >= kernel_side::FIRST {
        // SAFETY: no arguments.
        let random = unsafe { bpf_get_prandom_u32() };
        if random & (kernel_side::ONE_OF - 1) != 0 {
            side.flags |= flags::NO_KERNEL_FRAMES;
        }
    }
    stack::take::<HELPER>(state, ctx.as_ptr(), request, side, |_| ());
    0
}

/// A thread ends another one's wait. Runs after the program that notes who wakes whom and decides whether this one, a traced one, is looked at.
#[btf_tracepoint(function = "sched_waking")]
pub fn waker_stack(ctx: BtfTracePointContext) -> i32 {
    waker::<true>(ctx)
}

/// The same for kernels before 5.17.
#[btf_tracepoint(function = "sched_waking")]
pub fn waker_stack_old(ctx: BtfTracePointContext) -> i32 {
    waker::<false>(ctx)
}

#[inline(always)]
fn waker<const HELPER: bool>(ctx: BtfTracePointContext) -> i32 {
    let Some(state) = emit::cpu_state() else { return 0 };
    let place = state.due_waker;
    if place == 0 {
        return 0;
    }
    state.due_waker = 0;
    let ids = bpf_get_current_pid_tgid();
    let (tid, tgid) = (ids as u32, (ids >> 32) as u32);
    let request = Request {
        // SAFETY: no arguments.
        ts_ns: unsafe { bpf_ktime_get_ns() },
        origin: origin::WAKER,
        tid,
        tgid,
        weight_ns: state.due_wakee,
        place,
        flags: 0,
    };
    let side = stack::user_side(tid, tgid);
    stack::take::<HELPER>(state, ctx.as_ptr(), request, side, |_| ());
    0
}
