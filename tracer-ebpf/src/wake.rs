//! From which context a wake-up comes. The current task is the waker only outside interrupts.
//!
//! The preemption counter tells interrupt from task exactly. Inside an interrupt, a device handler or a softirq that completes
//! device work is a device; a timer softirq, or a hard interrupt outside any device handler, is a timer (the other hard
//! interrupts, between processors, hardly ever wake a thread themselves).

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use tracer_common::{loss::CpuState, sched::WakeContext};

use crate::{
    access::{config, present, probed},
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
pub fn context(state: &CpuState, tid: u32) -> WakeContext {
    if config!(no_wake_context) == 1 || (state.run_queue == 0 && !present(config!(offsets.task_preempt_count))) {
        return WakeContext::Unknown;
    }
    let count = preempt_count(state);
    if count & HARDIRQ_OR_NMI != 0 {
        if state.irq_handlers > 0 { WakeContext::Device } else { WakeContext::Timer }
    } else if count & SERVING_SOFTIRQ != 0 {
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
