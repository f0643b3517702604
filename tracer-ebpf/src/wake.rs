//! From which context a wake-up comes. The current task is the waker only outside interrupts.
//!
//! The preemption counter tells interrupt from task exactly. Inside an interrupt, a device handler or a softirq that completes
//! device work is a device; a timer softirq, or a hard interrupt outside any device handler, is a timer (the other hard
//! interrupts, between processors, hardly ever wake a thread themselves).

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use tracer_common::{
    loss::{CpuState, OwnSoftirq},
    sched::WakeContext,
};

use crate::{
    access::{config, present, probed},
    maps,
    task::{self, Task},
};

/// include/linux/preempt.h.
const SERVING_SOFTIRQ: u32 = 1 << 8;
const HARDIRQ_OR_NMI: u32 = 0x00ff_0000;
const PREEMPT_DISABLED: u32 = 0xff;
/// How often preemption is disabled when threads are switched.
const IN_SWITCH: u32 = 2;

/// include/linux/interrupt.h: the softirq that receives packets.
pub const NET_RX: u32 = 3;
const TIMER_SOFTIRQS: u32 = 1 << 1 | 1 << 8;
const DEVICE_SOFTIRQS: u32 = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5;

/// The context of the program that runs now while this thread is the current one.
#[inline(always)]
pub fn context(state: &mut CpuState, tid: u32) -> WakeContext {
    if config!(no_wake_context) == 1 || (state.run_queue == 0 && !present(config!(offsets.task_preempt_count))) {
        return WakeContext::Unknown;
    }
    let count = preempt_count(state);
    if count & HARDIRQ_OR_NMI != 0 {
        if state.irq_handlers > 0 { WakeContext::Device } else { WakeContext::Timer }
    } else if count & SERVING_SOFTIRQ != 0 {
        if config!(receives_from_rq) != 0
            && state.run_queue != 0
            && let Some(context) = by_stack(state, tid)
        {
            return context;
        }
        let softirq = 1u32 << (state.softirq & 31);
        if state.softirq == NET_RX && state.softirq_is_own == 1 && tid != 0 {
            // It receives what the current thread has just sent to another socket of this host: it does so itself, at the end of its call.
            WakeContext::Task
        } else if softirq & TIMER_SOFTIRQS != 0 {
            WakeContext::Timer
        } else if softirq & DEVICE_SOFTIRQS != 0 {
            WakeContext::Device
        } else {
            WakeContext::Interrupt
        }
    } else {
        WakeContext::Task
    }
}

/// Whether the current thread has sent the packets which the softirq that begins now receives: packets wait for this CPU, and the thread
/// runs the softirq itself at the end of its call. False: a device has, or another CPU, or it cannot be told.
#[inline(always)]
pub fn is_sender(state: &mut CpuState) -> bool {
    let rq = state.run_queue;
    if rq == 0 || config!(backlog_from_rq) == 0 {
        return false;
    }
    if config!(steered_from_rq) != 0 {
        // SAFETY: probed loads take any address.
        let steered = unsafe { probed(rq.wrapping_add(config!(steered_from_rq)) as *const u8, 0) };
        if state.steered != steered {
            state.steered = steered;
            return false;
        }
    }
    // SAFETY: as above.
    let waiting: u32 = unsafe { probed(rq.wrapping_add(config!(backlog_from_rq)) as *const u8, 0) };
    waiting != 0 && state.own_softirq_depth != 0 && preempt_count(state) & PREEMPT_DISABLED >= state.own_softirq_depth
}

/// The same in the middle of a softirq, by what its stack says, if no program runs at the start of softirqs. Else `None`, and whether both
/// ways say the same is counted: user space takes that program off when they do (`tracer/src/kernel/softirqs.rs`).
#[inline(always)]
fn by_stack(state: &mut CpuState, tid: u32) -> Option<WakeContext> {
    // SAFETY: probed loads take any address.
    let receives = unsafe { from_rq::<u8>(state, config!(receives_from_rq)) } != 0;
    // SAFETY: a value in a map that user space writes, seldom.
    let told = maps::OWN_SOFTIRQ.get_ptr(0).map_or(OwnSoftirq::default(), |told| unsafe { told.read_volatile() });
    if !receives {
        state.other_softirq_wakes += 1;
    }
    if told.goes_on_at != 0 {
        return Some(match receives {
            true if sends(state, tid, told) => WakeContext::Task,
            true => WakeContext::Device,
            // Rare, or the program would run.
            false => WakeContext::Interrupt,
        });
    }
    if receives != (state.softirq == NET_RX) {
        state.senders_contradicted += 1;
    } else if receives {
        let own = state.softirq_is_own == 1 && tid != 0;
        if own && state.own_return == 0 {
            state.own_return = returns_to(state);
        }
        let seen = OwnSoftirq { goes_on_at: state.own_return, regs_from_stack: state.regs_from_stack };
        if sends(state, tid, seen) != own {
            state.senders_contradicted += 1;
        } else if own {
            state.senders_agreed += 1;
        }
    }
    None
}

/// Whether the current thread runs the softirq that receives packets now at the end of its own call, and packets of this host are among these.
/// A thread's own softirq runs on the stack for interrupts, whose first word is then where the thread's own code goes on; an interrupt that
/// comes in the middle of the kernel leaves another one there, and one that comes in the middle of user code runs on the thread's stack.
#[inline(always)]
fn sends(state: &mut CpuState, tid: u32, own: OwnSoftirq) -> bool {
    const SCHEDULED: u64 = 1;
    if config!(steered_from_rq) != 0 {
        // SAFETY: probed loads take any address.
        let steered = unsafe { from_rq::<u32>(state, config!(steered_from_rq)) };
        if state.steered_at_wake != steered {
            state.steered_at_wake = steered;
            return false;
        }
    }
    tid != 0
        && own.goes_on_at != 0
        && returns_to(state) == own.goes_on_at
        // SAFETY: as above.
        && unsafe { from_rq::<u64>(state, config!(queue_state_from_rq)) } & SCHEDULED != 0
        && is_in_kernel(state, own.regs_from_stack)
}

/// The first word on this CPU's stack for interrupts (`call_on_stack` in arch/x86/include/asm/irq_stack.h): above it is the other stack's pointer.
#[inline(always)]
fn returns_to(state: &CpuState) -> u64 {
    // SAFETY: probed loads take any address.
    unsafe {
        let top: u64 = from_rq(state, config!(irq_stack_from_rq));
        probed(top.wrapping_sub(8) as *const u8, 0)
    }
}

/// Whether the current thread is in a system call, or a thread of the kernel other than the one that runs softirqs on its own stack.
#[inline(always)]
fn is_in_kernel(state: &CpuState, regs_from_stack: u64) -> bool {
    // SAFETY: as above.
    unsafe {
        let current: u64 = from_rq(state, config!(current_from_rq));
        if current == from_rq::<u64>(state, config!(ksoftirqd_from_rq)) {
            return false;
        }
        task::is_kernel_thread_at(current) || task::is_in_call(current, regs_from_stack)
    }
}

/// What lies so far from this CPU's run queue.
#[inline(always)]
unsafe fn from_rq<T: Copy + Default>(state: &CpuState, distance: u64) -> T {
    // SAFETY: the caller's.
    unsafe { probed(state.run_queue.wrapping_add(distance) as *const u8, 0) }
}

/// Notes, in a switch, how deep preemption is disabled in programs. A thread that ends its own call with a softirq keeps it disabled once
/// more than an interrupt that does so (`__local_bh_enable_ip`), and the kernel may once more around each program. In a switch it is
/// disabled twice besides, by the scheduler and its lock, or not at all where the kernel does not count.
#[inline(always)]
pub fn note_depth(state: &mut CpuState) {
    if state.own_softirq_depth == 0 && state.run_queue != 0 && config!(backlog_from_rq) != 0 {
        let depth = preempt_count(state) & PREEMPT_DISABLED;
        state.own_softirq_depth = 1 + depth.saturating_sub(IN_SWITCH);
    }
}

#[inline(always)]
fn preempt_count(state: &CpuState) -> u32 {
    let in_task = config!(offsets.task_preempt_count);
    // SAFETY: probed loads take any address; the current task always exists.
    unsafe {
        if present(in_task) {
            probed(task::current(), in_task)
        } else {
            probed(state.run_queue.wrapping_add(config!(preempt_count_from_rq)) as *const u8, 0)
        }
    }
}

/// Whether there is nothing to be found by [`locate`].
#[inline(always)]
pub fn is_located(state: &CpuState) -> bool {
    state.run_queue != 0 || config!(no_wake_context) == 1
}

/// Finds this CPU's run queue. The kernel does not publish where per-CPU variables are, but a task on a CPU leads to the CPU's run queue,
/// which is one of them, and BTF gives the distance between two. The run queue's own number of its CPU proves that it is the right one.
#[inline(always)]
pub fn locate(state: &mut CpuState, task: Task) {
    // SAFETY: probed loads take any address.
    unsafe {
        let cfs: u64 = probed(task, config!(offsets.task_cfs_rq));
        if cfs == 0 {
            return;
        }
        let rq = if present(config!(offsets.cfs_rq_rq)) {
            probed(cfs as *const u8, config!(offsets.cfs_rq_rq))
        } else {
            cfs - u64::from(config!(offsets.rq_cfs))
        };
        let cpu = bpf_get_smp_processor_id();
        if present(config!(offsets.rq_cpu)) && probed::<u32>(rq as *const u8, config!(offsets.rq_cpu)) == cpu {
            state.run_queue = rq;
        }
    }
}
