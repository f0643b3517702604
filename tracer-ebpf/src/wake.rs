//! From which context a wake-up comes. The current task is the waker only outside interrupts.
//!
//! The preemption counter tells interrupt from task exactly. Inside an interrupt, a device handler or a softirq that completes
//! device work is a device; a timer softirq, or a hard interrupt outside any device handler, is a timer (the other hard
//! interrupts, between processors, hardly ever wake a thread themselves).

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id};
use tracer_common::{loss::CpuState, sched::WakeContext};

use crate::{
    access::{config, present, probed},
    task::{self, Task},
};

/// include/linux/preempt.h.
const SERVING_SOFTIRQ: u32 = 1 << 8;
const HARDIRQ_OR_NMI: u32 = 0x00ff_0000;

/// include/linux/interrupt.h: the softirq that receives packets.
pub const NET_RX: u32 = 3;
const TIMER_SOFTIRQS: u32 = 1 << 1 | 1 << 8;
const DEVICE_SOFTIRQS: u32 = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5;

/// The context of the program that runs now.
#[inline(always)]
pub fn context(state: &CpuState) -> WakeContext {
    context_of(state, bpf_get_current_pid_tgid() as u32)
}

/// The same, with the current thread's id.
#[inline(always)]
pub fn context_of(state: &CpuState, tid: u32) -> WakeContext {
    if config!(no_wake_context) == 1 || (state.preempt_count == 0 && !present(config!(offsets.task_preempt_count))) {
        return WakeContext::Unknown;
    }
    let count = preempt_count(state.preempt_count);
    if count & HARDIRQ_OR_NMI != 0 {
        if state.irq_handlers > 0 { WakeContext::Device } else { WakeContext::Timer }
    } else if count & SERVING_SOFTIRQ != 0 {
        let softirq = 1u32 << (state.softirq & 31);
        if state.softirq == NET_RX && tid != 0 && tid == state.softirq_sender {
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

#[inline(always)]
fn preempt_count(address: u64) -> u32 {
    let in_task = config!(offsets.task_preempt_count);
    // SAFETY: probed loads take any address; the current task always exists.
    unsafe { if present(in_task) { probed(task::current(), in_task) } else { probed(address as *const u8, 0) } }
}

/// Whether there is nothing to be found by [`locate`].
#[inline(always)]
pub fn is_located(state: &CpuState) -> bool {
    state.preempt_count != 0 || config!(no_wake_context) == 1 || present(config!(offsets.task_preempt_count))
}

/// Finds this CPU's preemption counter. The kernel does not publish where per-CPU variables are, but a task on a CPU leads to the
/// CPU's run queue, which is one of them, and BTF gives the distance between two. The run queue's own number of its CPU proves
/// that it is the right one.
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
            state.preempt_count = rq.wrapping_add(config!(preempt_count_from_rq));
        }
    }
}
