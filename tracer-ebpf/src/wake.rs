//! From which context a wake-up comes. The current task is the waker only outside interrupts.
//!
//! The preemption counter tells interrupt from task exactly. Inside an interrupt, a device handler or a softirq that completes
//! device work is a device; a timer softirq, or a hard interrupt outside any device handler, is a timer (the other hard
//! interrupts, between processors, hardly ever wake a thread themselves).

use tracer_common::{loss::CpuState, sched::WakeContext};

use crate::{
    access::{config, probed},
    task,
};

/// include/linux/preempt.h.
const SERVING_SOFTIRQ: u32 = 1 << 8;
const HARDIRQ_OR_NMI: u32 = 0x00ff_0000;

/// include/linux/interrupt.h.
const TIMER_SOFTIRQS: u32 = 1 << 1 | 1 << 8;
const DEVICE_SOFTIRQS: u32 = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5;

/// The context of the program that runs now.
#[inline(always)]
pub fn context(state: &CpuState, cpu: u32) -> WakeContext {
    if config!(no_wake_context) == 1 {
        return WakeContext::Unknown;
    }
    let count = preempt_count(cpu);
    if count & HARDIRQ_OR_NMI != 0 {
        if state.irq_handlers > 0 { WakeContext::Device } else { WakeContext::Timer }
    } else if count & SERVING_SOFTIRQ != 0 {
        let softirq = 1u32 << (state.softirq & 31);
        if softirq & TIMER_SOFTIRQS != 0 {
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
fn preempt_count(cpu: u32) -> u32 {
    let in_task = config!(offsets.task_preempt_count);
    if crate::access::present(in_task) {
        // SAFETY: the current task, probed.
        return unsafe { probed(task::current(), in_task) };
    }
    // SAFETY: addresses of the kernel's own symbols, probed.
    unsafe {
        let offset: u64 = probed((config!(per_cpu_offset) + u64::from(cpu) * 8) as *const u8, 0);
        probed(config!(preempt_count).wrapping_add(offset) as *const u8, 0)
    }
}
