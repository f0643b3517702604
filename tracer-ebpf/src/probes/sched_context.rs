//! Family sched: what kind of interrupt a CPU is in, so that wake-ups from interrupts are not charged to the task that they
//! interrupted. Writes no record.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{emit, wake};

/// A softirq starts. Softirqs do not nest, so there is no need to see its end: the preemption counter tells.
#[btf_tracepoint(function = "softirq_entry")]
pub fn softirq_entry(ctx: BtfTracePointContext) -> i32 {
    if let Some(state) = emit::cpu_state() {
        state.softirq = ctx.arg::<u64>(0) as u32;
        if state.softirq == wake::NET_RX {
            state.softirq_is_own = u32::from(wake::is_sender(state));
        }
    }
    0
}

/// A device's interrupt handler starts.
#[btf_tracepoint(function = "irq_handler_entry")]
pub fn irq_handler_entry(_ctx: BtfTracePointContext) -> i32 {
    if let Some(state) = emit::cpu_state() {
        state.irq_handlers += 1;
    }
    0
}

/// A device's interrupt handler ends.
#[btf_tracepoint(function = "irq_handler_exit")]
pub fn irq_handler_exit(_ctx: BtfTracePointContext) -> i32 {
    if let Some(state) = emit::cpu_state() {
        // Attached in the middle of a handler, its end comes without its start.
        state.irq_handlers = state.irq_handlers.saturating_sub(1);
    }
    0
}
