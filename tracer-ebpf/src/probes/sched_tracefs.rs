//! Family sched on kernels without BTF: classic tracepoints, read by the offsets that tracefs's `format` files give.
//!
//! They know threads, times, states and wakers, but neither registers (so no reason of a wait) nor namespaces, and a thread's
//! process only where the current task is the thread itself.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_comm, bpf_get_smp_processor_id, bpf_ktime_get_ns, generated::bpf_probe_read_kernel_str},
    macros::tracepoint,
    programs::TracePointContext,
};
use tracer_common::{
    FamilyId,
    loss::{CpuState, LossReason},
    record::{Header, sched as kind},
    sched::{COMM_BYTES, Exec, Exit, Fork, NewTask, PATH_BYTES, Rename, switch_flags as flags},
    state::{self, Left},
};

use super::sched::{bare, remember, wakened};
use crate::{
    access::{config, present},
    emit::{self, Lane},
    filter, locks, task, wake,
};

const FAMILY: FamilyId = FamilyId::Sched;
/// In tracefs's `prev_state` the bit that says "pre-empted".
const TRACEFS_PREEMPTED: u64 = 0x100;
/// clone(2): the new task is a thread of the same process.
const CLONE_THREAD: u64 = 0x0001_0000;

/// Reads a field of the event; zero where the format lacks it.
#[inline(always)]
pub fn field<T: Copy + Default>(ctx: &TracePointContext, offset: u32) -> T {
    if !present(offset) {
        return T::default();
    }
    // SAFETY: the offset comes from this event's own format.
    unsafe { ctx.read_at::<T>(offset as usize) }.unwrap_or_default()
}

#[inline(always)]
fn now(state: &CpuState, kind: u16) -> (Header, u32) {
    // SAFETY: no arguments.
    let (ts_ns, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    (emit::header(state, ts_ns, cpu, kind), cpu)
}

/// A thread leaves the CPU and another gets it.
#[tracepoint(category = "sched", name = "sched_switch")]
pub fn tp_sched_switch(ctx: TracePointContext) -> i32 {
    let prev_tid: u32 = field(&ctx, config!(formats.switch_prev_pid));
    let prev_state: u64 = field(&ctx, config!(formats.switch_prev_state));
    let next_tid: u32 = field(&ctx, config!(formats.switch_next_pid));
    let prev_tgid = ctx.tgid();
    if let Some(state) = emit::cpu_state() {
        let preempted = prev_state & TRACEFS_PREEMPTED != 0;
        switch(state, (prev_tid, prev_tgid), next_tid, (prev_state & 0xff) as u32, preempted);
    }
    0
}

#[inline(always)]
fn switch(state: &mut CpuState, prev: (u32, u32), next_tid: u32, prev_state: u32, preempted: bool) {
    let (prev_tid, prev_tgid) = prev;
    let prev_tracked = filter::tracked(state, prev_tid, prev_tgid);
    let next_tracked = filter::tracked(state, next_tid, 0);
    if !prev_tracked && !next_tracked {
        return;
    }
    state.spins_open = 0;
    emit::see(state, FAMILY);
    let (header, cpu) = now(state, kind::SWITCH);
    let mut record = bare(header, prev_tid, next_tid, prev_state, preempted);
    if next_tracked && let Some(slot) = filter::slot(next_tid) {
        record.flags |= flags::NEXT_TRACKED;
        wakened(slot, header.ts_ns, &mut record);
    }
    let mut dead = false;
    if prev_tracked && let Some(slot) = filter::slot(prev_tid) {
        record.flags |= flags::PREV_TRACKED;
        let left = state::left(prev_state, preempted);
        dead = matches!(left, Left::Dead);
        slot.wait_ts_ns = if matches!(left, Left::Runnable) { u64::MAX } else { header.ts_ns };
        if !matches!(left, Left::Runnable | Left::Dead) {
            record.flags |= locks::waits_for(prev_tid) << flags::LOCK_SHIFT;
        }
    }
    emit::submit(state, FAMILY, cpu, Lane::Frequent, &record);
    if dead {
        filter::forget(prev_tid);
    }
}

/// A thread is about to be woken.
#[tracepoint(category = "sched", name = "sched_waking")]
pub fn tp_sched_waking(ctx: TracePointContext) -> i32 {
    let wakee: u32 = field(&ctx, config!(formats.waking_pid));
    if let Some(state) = emit::cpu_state()
        && filter::tracked(state, wakee, 0)
        && let Some(slot) = filter::slot(wakee)
    {
        if !wake::is_located(state) {
            wake::locate(state, task::current_address());
        }
        remember(state, slot, ctx.pid());
    }
    0
}

/// A task was created; its creator is current.
#[tracepoint(category = "task", name = "task_newtask")]
pub fn tp_task_newtask(ctx: TracePointContext) -> i32 {
    let tid: u32 = field(&ctx, config!(formats.newtask_pid));
    let clone_flags: u64 = field(&ctx, config!(formats.newtask_clone_flags));
    let comm: [u8; COMM_BYTES] = field(&ctx, config!(formats.newtask_comm));
    let (creator_tid, creator_tgid) = (ctx.pid(), ctx.tgid());
    let Some(state) = emit::cpu_state() else { return 0 };
    if !filter::tracked(state, creator_tid, creator_tgid) {
        return 0;
    }
    emit::see(state, FAMILY);
    if !filter::track(tid) {
        emit::lose(state, FAMILY, LossReason::MapFull);
        return 0;
    }
    let (header, cpu) = now(state, kind::NEW_TASK);
    let tgid = if clone_flags & CLONE_THREAD != 0 { creator_tgid } else { tid };
    let record = NewTask { header, tid, tgid, creator_tid, creator_tgid, ns_tid: 0, ns_level: 0, clone_flags, comm };
    emit::submit(state, FAMILY, cpu, Lane::Rare, &record);
    0
}

/// A fork is complete.
#[tracepoint(category = "sched", name = "sched_process_fork")]
pub fn tp_sched_process_fork(ctx: TracePointContext) -> i32 {
    let child_tid: u32 = field(&ctx, config!(formats.fork_child_pid));
    if let Some(state) = emit::cpu_state()
        && filter::tracked(state, child_tid, 0)
    {
        emit::see(state, FAMILY);
        let (header, cpu) = now(state, kind::FORK);
        let record = Fork { header, parent_tid: ctx.pid(), parent_tgid: ctx.tgid(), child_tid, child_tgid: 0 };
        emit::submit(state, FAMILY, cpu, Lane::Rare, &record);
    }
    0
}

/// A program was executed by the current thread.
#[tracepoint(category = "sched", name = "sched_process_exec")]
pub fn tp_sched_process_exec(ctx: TracePointContext) -> i32 {
    let old_tid: u32 = field(&ctx, config!(formats.exec_old_pid));
    let location: u32 = field(&ctx, config!(formats.exec_filename));
    let (tid, tgid) = (ctx.pid(), ctx.tgid());
    let Some(state) = emit::cpu_state() else { return 0 };
    if !filter::tracked(state, old_tid, tgid) || (old_tid != tid && !filter::track(tid)) {
        return 0;
    }
    emit::see(state, FAMILY);
    let mut path = [0u8; PATH_BYTES];
    let string = ctx.as_ptr().wrapping_byte_add((location & 0xffff) as usize);
    // SAFETY: room for the bytes asked for; the string lies in the event, the helper checks the address.
    unsafe { bpf_probe_read_kernel_str(path.as_mut_ptr().cast(), PATH_BYTES as u32, string) };
    let (header, cpu) = now(state, kind::EXEC);
    let comm = bpf_get_current_comm().unwrap_or_default();
    emit::submit(state, FAMILY, cpu, Lane::Rare, &Exec { header, tgid, old_tid, comm, path });
    0
}

/// The current thread ends.
#[tracepoint(category = "sched", name = "sched_process_exit")]
pub fn tp_sched_process_exit(ctx: TracePointContext) -> i32 {
    let (tid, tgid) = (ctx.pid(), ctx.tgid());
    if let Some(state) = emit::cpu_state()
        && filter::tracked(state, tid, tgid)
    {
        emit::see(state, FAMILY);
        let (header, cpu) = now(state, kind::EXIT);
        let comm = bpf_get_current_comm().unwrap_or_default();
        let record = Exit { header, tid, tgid, exit_code: 0, reserved: 0, sum_exec_runtime_ns: 0, comm };
        emit::submit(state, FAMILY, cpu, Lane::Rare, &record);
    }
    0
}

/// The current thread gets another name.
#[tracepoint(category = "task", name = "task_rename")]
pub fn tp_task_rename(ctx: TracePointContext) -> i32 {
    let comm: [u8; COMM_BYTES] = field(&ctx, config!(formats.rename_newcomm));
    let (tid, tgid) = (ctx.pid(), ctx.tgid());
    if let Some(state) = emit::cpu_state()
        && filter::tracked(state, tid, tgid)
    {
        emit::see(state, FAMILY);
        let (header, cpu) = now(state, kind::RENAME);
        emit::submit(state, FAMILY, cpu, Lane::Rare, &Rename { header, tid, tgid, comm });
    }
    0
}
