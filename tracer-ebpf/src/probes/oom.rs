//! Family oom: processes that the kernel kills for want of memory.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use tracer_common::{
    FamilyId,
    memory::{Victim, rss},
    record::oom as kind,
};

use crate::{
    access::{config, present, probed},
    emit::{self, Lane},
    filter, task,
};

const FAMILY: FamilyId = FamilyId::Oom;

/// A process was chosen. It counts if it is traced; so does each thread of other processes that share its memory.
#[btf_tracepoint(function = "mark_victim")]
pub fn mark_victim(ctx: BtfTracePointContext) -> i32 {
    let task = ctx.arg::<*const u8>(0);
    let (tid, tgid) = (task::tid(task), task::tgid(task));
    let Some(state) = emit::cpu_state() else { return 0 };
    if !filter::tracked(state, tid, tgid) {
        return 0;
    }
    let by = bpf_get_current_pid_tgid();
    // SAFETY: no arguments.
    let (ts_ns, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    emit::see(state, FAMILY);
    let mut pages = [0u64; rss::KINDS];
    let (base, stride) = (config!(offsets.mm_rss), config!(offsets.mm_rss_stride));
    if present(base) && present(stride) {
        let space = task::address_space(task);
        for (number, count) in pages.iter_mut().enumerate() {
            // SAFETY: probed loads take any address.
            *count = unsafe { probed(space, base + number as u32 * stride) };
        }
    }
    let record = Victim {
        header: emit::header(state, ts_ns, cpu, kind::VICTIM),
        tid,
        tgid,
        by_tid: by as u32,
        by_tgid: (by >> 32) as u32,
        pages,
        comm: task::comm(task),
    };
    emit::submit(state, FAMILY, cpu, Lane::Rare, &record);
    0
}
