//! Family lock: contentions of kernel locks by traced threads. Long ones become a record when they end, short ones are counted by
//! process and kind.
//!
//! The kernel reports a contention when a thread could not get a lock at once (and, of semaphores, only when it is about to sleep;
//! of spinlocks, only when it has to queue). Our own programs take locks as well, in rings and hash maps: `emit::enter` marks
//! these, and nothing is noted there.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::{btf_tracepoint, tracepoint},
    programs::{BtfTracePointContext, TracePointContext},
};
use tracer_common::{
    FamilyId,
    lock::{Contended, Kind, RECORDED_NS, Totals, contended_flags as flags, totals_key},
    loss::{CpuState, Spin},
    record::lock as kind,
    sched::WakeContext,
};

use super::sched_tracefs::field;
use crate::{
    access::config,
    emit::{self, Lane},
    filter, locks, maps, wake,
};

const FAMILY: FamilyId = FamilyId::Lock;
/// BPF_NOEXIST (uapi/linux/bpf.h).
const NEW: u64 = 1;

/// The current thread did not get a lock and begins to wait for it.
#[btf_tracepoint(function = "contention_begin")]
pub fn contention_begin(ctx: BtfTracePointContext) -> i32 {
    begin(ctx.arg(0), ctx.arg::<u64>(1) as u32);
    0
}

/// It has got the lock, or given up.
#[btf_tracepoint(function = "contention_end")]
pub fn contention_end(ctx: BtfTracePointContext) -> i32 {
    end(ctx.arg(0), ctx.arg::<u64>(1) as u32 != 0);
    0
}

/// The same without BTF.
#[tracepoint(category = "lock", name = "contention_begin")]
pub fn tp_contention_begin(ctx: TracePointContext) -> i32 {
    begin(field(&ctx, config!(formats.begin_lock)), field(&ctx, config!(formats.begin_flags)));
    0
}

/// The same without BTF.
#[tracepoint(category = "lock", name = "contention_end")]
pub fn tp_contention_end(ctx: TracePointContext) -> i32 {
    end(field(&ctx, config!(formats.end_lock)), field::<u32>(&ctx, config!(formats.end_result)) != 0);
    0
}

/// This CPU's state and the current thread, if it is traced and none of our own programs is in a lock.
#[inline(always)]
fn traced() -> Option<(&'static mut CpuState, u32, u32)> {
    let state = emit::cpu_state()?;
    if emit::is_in_ours(state) {
        return None;
    }
    let ids = bpf_get_current_pid_tgid();
    let (tid, tgid) = (ids as u32, (ids >> 32) as u32);
    if filter::tracked(state, tid, tgid) { Some((state, tid, tgid)) } else { None }
}

#[inline(always)]
fn begin(lock: u64, how: u32) {
    let Some((state, tid, _)) = traced() else { return };
    // SAFETY: no arguments.
    let ts_ns = unsafe { bpf_ktime_get_ns() };
    let kind = Kind::of_flags(how);
    if kind.only_spins() {
        locks::push(state, Spin { lock, since_ts_ns: ts_ns, tid, kind: kind as u32 });
    } else if let Some(open) = locks::slot(tid) {
        locks::begin(open, tid, lock, how, ts_ns);
    }
}

#[inline(always)]
fn end(lock: u64, gave_up: bool) {
    let Some((state, tid, tgid)) = traced() else { return };
    // SAFETY: no arguments.
    let (ts_ns, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    let mut record = Contended {
        header: emit::header(state, ts_ns, cpu, kind::CONTENDED),
        tid,
        tgid,
        lock,
        duration_ns: 0,
        spun_ns: 0,
        owner_tid: 0,
        owner_tgid: 0,
        kind: Kind::Unknown as u8,
        flags: if gave_up { flags::GAVE_UP } else { 0 },
        reserved: 0,
    };
    if let Some((since_ts_ns, kind)) = locks::pop(state, tid, lock) {
        if !matches!(wake::context(state, tid), WakeContext::Task | WakeContext::Unknown) {
            // An interrupt's, which is none of the thread that it interrupted.
            return;
        }
        record.duration_ns = ts_ns.saturating_sub(since_ts_ns);
        record.spun_ns = at_most_u32(record.duration_ns);
        record.kind = kind as u8;
    } else if let Some(open) = locks::slot(tid)
        && open.tid == tid
        && open.lock == lock
        && lock != 0
    {
        locks::settle(open, ts_ns);
        open.lock = 0;
        record.duration_ns = ts_ns.saturating_sub(open.since_ts_ns);
        record.spun_ns = at_most_u32(open.spun_ns);
        record.owner_tid = open.owner_tid;
        record.owner_tgid = open.owner_tgid;
        record.kind = open.kind;
        record.flags |= open.flags;
    } else {
        // It had begun before the thread was traced.
        return;
    }
    if record.duration_ns < RECORDED_NS {
        count(state, tgid, record.kind, record.duration_ns);
        return;
    }
    emit::see(state, FAMILY);
    emit::submit(state, FAMILY, cpu, Lane::Frequent, &record);
}

#[inline(always)]
fn at_most_u32(ns: u64) -> u32 {
    if ns > u64::from(u32::MAX) { u32::MAX } else { ns as u32 }
}

/// Counts a contention that is too short for a record.
#[inline(always)]
fn count(state: &mut CpuState, tgid: u32, kind: u8, ns: u64) {
    let key = totals_key(tgid, kind);
    if maps::LOCK_TOTALS.get_ptr(key).is_none() {
        emit::enter(state);
        let added = maps::LOCK_TOTALS.insert(key, Totals::default(), NEW).is_ok();
        emit::leave(state);
        if !added {
            state.locks_rest.count += 1;
            state.locks_rest.ns += ns;
            return;
        }
    }
    if let Some(totals) = maps::LOCK_TOTALS.get_ptr_mut(key) {
        // SAFETY: a per-CPU value; an interrupt between the two lines adds to the same sums and loses nothing but one of them.
        unsafe {
            (*totals).count += 1;
            (*totals).ns += ns;
        }
    }
}
