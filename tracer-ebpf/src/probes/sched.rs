//! Family sched, the frequent part: context switches and wake-ups, by BTF tracepoints.

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    maps::ProgramArray,
    programs::BtfTracePointContext,
};
use tracer_common::{
    FamilyId,
    loss::CpuState,
    record::{Header, sched as kind},
    sched::{FdKind, Switch, SwitchFutex, switch_flags as flags},
    state::{self, Left},
};

use crate::{
    access::{config, typed, user_words},
    emit::{self, Lane},
    faults, filter, locks,
    maps::{self, POLLS, Slot},
    places, stalls,
    task::{self, Registers, Task},
    wake,
};

const FAMILY: FamilyId = FamilyId::Sched;
/// A wake-up this long before the switch that starts the wait belongs to the wait: the waker may run between the moment at which
/// the thread is taken off its queue and the tracepoint.
const EARLY_WAKE_NS: u64 = 5_000;
/// Switches between others that are recorded each time when a traced thread was pushed off its CPU.
const MOST_STRANGERS: u32 = 256;
/// In the place of the time at which a thread began to wait: a quota holds it back.
const THROTTLED: u64 = u64::MAX - 1;
/// In the same place: it was seen to get a CPU.
const RUNNING: u64 = u64::MAX - 2;

/// A thread leaves the CPU and another gets it.
#[btf_tracepoint(function = "sched_switch")]
#[inline(always)]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let preempt: u64 = ctx.arg(0);
    let prev = ctx.arg::<*const u8>(1);
    let next = ctx.arg::<*const u8>(2);
    let prev_state = if config!(switch_has_state) == 1 {
        ctx.arg::<u64>(3) as u32
    } else {
        // SAFETY: `prev` is known to the verifier.
        unsafe { typed::<u32>(prev, config!(offsets.task_state)) }
    };
    if let Some(state) = emit::cpu_state() {
        switch(state, prev, next, prev_state, preempt & 1 == 1);
        if config!(wait_stacks) == 1 && state.due_place != 0 {
            go_on(&ctx, &maps::BEHIND_SWITCH);
        }
    }
    0
}

#[inline(always)]
fn switch(state: &mut CpuState, prev: Task, next: Task, prev_state: u32, preempted: bool) {
    if !wake::is_located(state) {
        wake::locate(state, prev);
    }
    wake::note_depth(state);
    // No handler is active in a switch: one whose end was missed is forgotten here.
    state.irq_handlers = 0;
    // Nor does anybody spin.
    state.spins_open = 0;
    let prev_tid = task::tid(prev);
    let next_tid = task::tid(next);
    let prev_tracked = filter::tracked(state, prev_tid, task::tgid(prev));
    let next_tracked = filter::tracked(state, next_tid, task::tgid(next));
    if !prev_tracked && !next_tracked {
        if state.strangers_left > 0 {
            strangers(state, prev_tid, next_tid, prev_state, preempted);
        }
        return;
    }
    // SAFETY: no arguments.
    let (ts_ns, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    emit::see(state, FAMILY);
    let header = emit::header(state, ts_ns, cpu, kind::SWITCH);
    let mut record = bare(header, prev_tid, next_tid, prev_state, preempted);
    if next_tracked && let Some(slot) = filter::slot(next_tid) {
        record.flags |= flags::NEXT_TRACKED;
        if config!(wait_stacks) == 1 {
            places::end(slot, ts_ns);
        }
        if slot.tracked == POLLS {
            slot.tracked = 1;
            polled(state, next, header);
        }
        arrives(slot, next, ts_ns, &mut record);
    }
    let mut dead = false;
    let mut registers = None;
    if prev_tracked && let Some(slot) = filter::slot(prev_tid) {
        record.flags |= flags::PREV_TRACKED;
        unseen_arrival(state, slot, prev, header, cpu);
        let left = state::left(prev_state, preempted);
        dead = matches!(left, Left::Dead);
        slot.wait_ts_ns = if matches!(left, Left::Runnable) { u64::MAX } else { ts_ns };
        state.strangers_left = if matches!(left, Left::Runnable) { MOST_STRANGERS } else { 0 };
        if matches!(left, Left::Runnable) && !preempted {
            called(state, prev, &mut record);
        }
        if matches!(left, Left::Runnable) && task::tells_throttling() {
            record.flags |= flags::QUEUE_FACTS;
            record.object = task::queue_facts(prev);
            if task::is_throttled(prev) {
                record.flags |= flags::THROTTLED;
                state.strangers_left = 0;
                // Nobody wakes a thread that is ready, so the place of the time of that is free.
                (slot.wait_ts_ns, slot.wake_ts_ns) = (THROTTLED, task::held_back_ns(prev));
            }
        }
        // It may not have been seen to get this CPU.
        if slot.tracked == POLLS {
            slot.tracked = 1;
        }
        if !matches!(left, Left::Runnable | Left::Dead) {
            registers = left_in(state, slot, prev, &mut record);
            // Locks that it needs to free memory are part of that.
            let stall = stalls::waits_for(prev_tid);
            let waits_for = if stall == 0 { locks::waits_for(prev_tid) } else { stall };
            record.flags |= waits_for << flags::LOCK_SHIFT;
            if config!(wait_stacks) == 1
                && let Some(at) = registers
            {
                let place = places::begin(state, slot, task::tgid(prev), at.at, ts_ns);
                record.place = [place as u8, (place >> 8) as u8, (place >> 16) as u8];
            }
        }
    }
    match registers {
        Some(at)
            if at.syscall >= 0
                && i64::from(at.syscall) == config!(futex_syscall)
                && record.flags & flags::LOCK_MASK == 0 =>
        {
            futex(state, cpu, record, at);
        }
        _ => emit::submit(state, FAMILY, cpu, Lane::Frequent, &record),
    }
    if dead {
        filter::forget(prev_tid);
    }
}

/// Adds to the record why the thread that gets a CPU may run again.
#[inline(always)]
fn arrives(slot: &mut Slot, task: Task, ts_ns: u64, record: &mut Switch) {
    if slot.wait_ts_ns == THROTTLED {
        throttled(slot, task, record);
    } else {
        wakened(slot, ts_ns, record);
    }
    slot.wait_ts_ns = RUNNING;
}

/// A thread leaves its CPU, or ends. It may not have been seen to get it: the kernel does not report each switch (some 6 of 10,000 were
/// missing where this was built, for every tool). Then the scheduler's own account tells for how long it ran.
#[inline(always)]
pub(super) fn unseen_arrival(state: &mut CpuState, slot: &mut Slot, task: Task, mut header: Header, cpu: u32) {
    if slot.wait_ts_ns == RUNNING || slot.wait_ts_ns == 0 {
        return;
    }
    let Some(ran_ns) = task::ran_ns(task) else { return };
    let arrived_ns = header.ts_ns.saturating_sub(ran_ns);
    header.kind = kind::ARRIVED;
    emit::see(state, FAMILY);
    let mut record = bare(header, 0, task::tid(task), 0, false);
    record.flags |= flags::NEXT_TRACKED;
    record.object = ran_ns;
    if config!(wait_stacks) == 1 {
        places::end(slot, arrived_ns);
    }
    arrives(slot, task, arrived_ns, &mut record);
    emit::submit(state, FAMILY, cpu, Lane::Frequent, &record);
}

/// A switch between two threads that are not traced, while a traced one waits for the CPU: it tells for whom.
#[inline(always)]
fn strangers(state: &mut CpuState, prev_tid: u32, next_tid: u32, prev_state: u32, preempted: bool) {
    state.strangers_left -= 1;
    // SAFETY: no arguments.
    let (ts_ns, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    emit::see(state, FAMILY);
    let header = emit::header(state, ts_ns, cpu, kind::SWITCH);
    emit::submit(state, FAMILY, cpu, Lane::Frequent, &bare(header, prev_tid, next_tid, prev_state, preempted));
}

/// A switch of which nothing is known but who, when and in which state.
#[inline(always)]
pub fn bare(header: Header, prev_tid: u32, next_tid: u32, prev_state: u32, preempted: bool) -> Switch {
    Switch {
        header,
        prev_tid,
        next_tid,
        waker_tid: 0,
        wake_delta_ns: 0,
        prev_state,
        flags: if preempted { flags::PREEMPT } else { 0 },
        syscall: -1,
        arg0: 0,
        fd_kind: FdKind::Unknown as u8,
        place: [0; 3],
        object: 0,
    }
}

/// Adds for how long a quota held back the thread that runs now.
#[inline(always)]
fn throttled(slot: &mut Slot, next: Task, record: &mut Switch) {
    let before = slot.wake_ts_ns;
    (slot.wait_ts_ns, slot.wake_ts_ns) = (u64::MAX, 0);
    let held_ns = task::held_back_ns(next).saturating_sub(before);
    if held_ns == 0 {
        return;
    }
    record.flags |= flags::THROTTLE_MEASURED;
    if held_ns > u64::from(u32::MAX) {
        record.flags |= flags::WAKE_DELTA_US;
        record.wake_delta_ns = (held_ns / 1000) as u32;
    } else {
        record.wake_delta_ns = held_ns as u32;
    }
}

/// Adds who woke the thread that runs now.
#[inline(always)]
pub fn wakened(slot: &mut Slot, ts_ns: u64, record: &mut Switch) {
    let woken = slot.wake_ts_ns;
    slot.wake_ts_ns = 0;
    if woken == 0 || slot.wait_ts_ns == u64::MAX || woken + EARLY_WAKE_NS < slot.wait_ts_ns {
        return;
    }
    let delta = ts_ns.saturating_sub(woken);
    record.waker_tid = slot.waker_tid;
    record.flags |= flags::HAS_WAKER | u16::from(slot.wake_context) << flags::WAKE_CONTEXT_SHIFT;
    if delta > u64::from(u32::MAX) {
        record.flags |= flags::WAKE_DELTA_US;
        record.wake_delta_ns = (delta / 1000) as u32;
    } else {
        record.wake_delta_ns = delta as u32;
    }
}

/// Adds where in the kernel the thread that leaves is.
#[inline(always)]
fn left_in(state: &mut CpuState, slot: &mut Slot, prev: Task, record: &mut Switch) -> Option<Registers> {
    if task::is_kernel_thread(prev) {
        record.flags |= flags::PREV_KTHREAD;
        return None;
    }
    let at = task::registers_in_switch(state, prev)?;
    record.flags |= flags::HAS_REGS;
    if at.compat {
        record.flags |= flags::COMPAT;
        return None;
    }
    record.syscall = at.syscall;
    record.arg0 = at.args[0] as u32;
    if task::takes_fd(at.syscall) {
        let (fd_kind, inode) = task::file(prev, at.args[0] as u32);
        record.fd_kind = fd_kind as u8;
        record.object = inode;
        if record.fd_kind == FdKind::SocketUnix as u8 {
            state.unix_waits += 1;
        }
    } else if at.args[1] == 1
        && at.syscall >= 0
        && (i32::from(at.syscall) == config!(poll_syscall) || i32::from(at.syscall) == config!(ppoll_syscall))
    {
        polls_one(prev, at.args[0], record);
    } else if at.syscall < 0 {
        let inode = faults::waits_for_file(prev, record.prev_tid);
        if inode != 0 {
            // No descriptor: the file is mapped.
            (record.fd_kind, record.object, record.arg0) = (FdKind::File as u8, inode, u32::MAX);
        }
    } else if task::is_epoll(at.syscall) {
        slot.tracked = POLLS;
    }
    Some(at)
}

/// Writes which socket ended the wait in epoll of a thread that gets a CPU.
#[inline(always)]
fn polled(state: &mut CpuState, next: Task, mut header: Header) {
    let (inode, fd, tcp_state) = task::polled(state, next);
    if inode != 0 {
        header.kind = kind::POLLED;
        emit::see(state, FAMILY);
        let cpu = u32::from(header.cpu);
        let mut record = bare(header, task::tid(next), 0, u32::from(tcp_state), false);
        record.flags = flags::PREV_TRACKED;
        (record.arg0, record.fd_kind, record.object) = (fd, FdKind::SocketInet as u8, inode);
        emit::submit(state, FAMILY, cpu, Lane::Frequent, &record);
    }
}

/// Adds the one descriptor that a thread polls, if that is a socket of the network: programs with timeouts wait for an answer so.
#[inline(always)]
fn polls_one(prev: Task, list: u64, record: &mut Switch) {
    let Some([fd, _]) = user_words::<2>(list) else { return };
    let (fd_kind, inode) = task::file(prev, fd);
    if fd_kind as u8 == FdKind::SocketInet as u8 {
        (record.fd_kind, record.object, record.arg0) = (fd_kind as u8, inode, fd);
    }
}

/// Adds the system call of a thread that leaves ready to run.
#[inline(always)]
fn called(state: &mut CpuState, prev: Task, record: &mut Switch) {
    if !task::is_kernel_thread(prev)
        && let Some(at) = task::registers_in_switch(state, prev)
        && !at.compat
    {
        record.flags |= flags::HAS_REGS;
        record.syscall = at.syscall;
    }
}

/// Writes a switch with the futex's memory, while the thread that waits is still current.
#[inline(always)]
fn futex(state: &mut CpuState, cpu: u32, mut switch: Switch, at: Registers) {
    switch.header.kind = kind::SWITCH_FUTEX;
    switch.object = at.args[0];
    let words = user_words::<6>(at.args[0]);
    let record = SwitchFutex {
        switch,
        op: at.args[1] as u32,
        val: at.args[2] as u32,
        readable: words.is_some() as u32,
        words: words.unwrap_or_default(),
        reserved: 0,
    };
    emit::submit(state, FAMILY, cpu, Lane::Frequent, &record);
}

/// Ends this program by running another one. Comes back where there is none.
#[inline(always)]
fn go_on(ctx: &BtfTracePointContext, with: &ProgramArray) {
    // SAFETY: both are programs of this tracepoint.
    unsafe { with.tail_call(ctx, 0) };
}

/// A thread is about to be woken. Nothing is written: the waker waits in the thread's slot until it runs.
#[btf_tracepoint(function = "sched_waking")]
#[inline(always)]
pub fn sched_waking(ctx: BtfTracePointContext) -> i32 {
    let wakee = ctx.arg::<*const u8>(0);
    if let Some(state) = emit::cpu_state()
        && filter::tracked(state, task::tid(wakee), task::tgid(wakee))
        && let Some(slot) = filter::slot(task::tid(wakee))
    {
        // A busy CPU may not have had a switch yet since tracing began.
        if !wake::is_located(state) {
            wake::locate(state, task::current_address());
        }
        let (tid, tgid) = task::current_ids(state);
        remember(state, slot, tid);
        if config!(wait_stacks) == 1 && slot.wake_context == tracer_common::sched::WakeContext::Task as u8 {
            places::woken(state, slot, (tid, tgid), u64::from(task::tgid(wakee)) << 32 | u64::from(task::tid(wakee)));
            if state.due_waker != 0 {
                go_on(&ctx, &maps::BEHIND_WAKING);
            }
        }
    }
    0
}

/// Notes in the wakee's slot who wakes it.
#[inline(always)]
pub fn remember(state: &mut CpuState, slot: &mut Slot, waker_tid: u32) {
    slot.waker_tid = waker_tid;
    slot.wake_context = wake::context(state, waker_tid) as u8;
    // SAFETY: no arguments.
    slot.wake_ts_ns = unsafe { bpf_ktime_get_ns() };
}
