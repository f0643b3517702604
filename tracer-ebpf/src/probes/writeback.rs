//! Family writeback: who dirties pages of which file, who is paused because too many are dirty, and who waits until a file's are written. The pages are counted by file and
//! process, since there are too many for a record each: what is written later by the kernel's own threads is theirs by these counts.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use tracer_common::{
    FamilyId,
    block::{DirtiedKey, DirtiedSums, DirtyPause, FileSync},
    loss::LossReason,
    record::writeback as kind,
};

use crate::{
    access::{config, probed, word},
    emit::{self, Lane},
    files, filter, maps,
};

const FAMILY: FamilyId = FamilyId::Writeback;
/// BPF_NOEXIST (uapi/linux/bpf.h).
const NEW: u64 = 1;

/// A page, or a folio of some, becomes dirty.
#[btf_tracepoint(function = "writeback_dirty_folio")]
pub fn writeback_dirty_folio(ctx: BtfTracePointContext) -> i32 {
    dirtied(ctx.arg::<*const u8>(0));
    0
}

/// The same before 5.17.
#[btf_tracepoint(function = "writeback_dirty_page")]
pub fn writeback_dirty_page(ctx: BtfTracePointContext) -> i32 {
    dirtied(ctx.arg::<*const u8>(0));
    0
}

#[inline(always)]
fn dirtied(folio: *const u8) {
    let Some((state, tid, tgid)) = filter::current() else { return };
    let pages = files::pages(folio);
    if pages.host.is_null() {
        return;
    }
    let key = DirtiedKey { file: pages.file, tgid, reserved: 0 };
    if maps::DIRTIED.get_ptr(key).is_none() {
        emit::see(state, FAMILY);
        emit::enter(state);
        let added = maps::DIRTIED.insert(key, DirtiedSums::default(), NEW).is_ok();
        emit::leave(state);
        if !added {
            emit::lose(state, FAMILY, LossReason::MapFull);
            return;
        }
        files::tell(state, FAMILY, kind::FILE, pages.file, pages.host, (tid, tgid));
    }
    if let Some(sums) = maps::DIRTIED.get_ptr_mut(key) {
        // SAFETY: a per-CPU value.
        unsafe {
            (*sums).pages += pages.count;
            (*sums).tid = tid;
        }
    }
}

/// The current thread dirtied pages, and is paused if there are too many.
#[btf_tracepoint(function = "balance_dirty_pages")]
pub fn balance_dirty_pages(ctx: BtfTracePointContext) -> i32 {
    let ticks =
        if config!(block.pause_argument) == 10 { word::<10>(ctx.as_ptr()) } else { word::<6>(ctx.as_ptr()) } as i64;
    if ticks <= 0 {
        return 0;
    }
    let ids = bpf_get_current_pid_tgid();
    let (tid, tgid) = (ids as u32, (ids >> 32) as u32);
    let Some(state) = emit::cpu_state() else { return 0 };
    if !filter::tracked(state, tid, tgid) {
        return 0;
    }
    // SAFETY: no arguments; probed loads take any address.
    let (ts_ns, cpu, device) = unsafe {
        let bdi: u64 = probed(word::<0>(ctx.as_ptr()) as *const u8, config!(block.offsets.writeback_bdi));
        let device: u64 = probed(bdi as *const u8, config!(block.offsets.bdi_device));
        let number: u32 =
            if device == 0 { 0 } else { probed(device as *const u8, config!(block.offsets.device_number)) };
        (bpf_ktime_get_ns(), bpf_get_smp_processor_id(), number)
    };
    emit::see(state, FAMILY);
    let record =
        DirtyPause { header: emit::header(state, ts_ns, cpu, kind::PAUSE), tid, tgid, ticks: ticks as u32, device };
    emit::submit(state, FAMILY, cpu, Lane::Frequent, &record);
    0
}

/// A file system begins to sync a file.
#[raw_tracepoint(tracepoint = "ext4_sync_file_enter")]
pub fn sync_begins(_: RawTracePointContext) -> i32 {
    sync(1);
    0
}

/// It is done with that.
#[raw_tracepoint(tracepoint = "ext4_sync_file_exit")]
pub fn sync_ends(_: RawTracePointContext) -> i32 {
    sync(0);
    0
}

#[inline(always)]
fn sync(begins: u32) {
    let Some((state, tid, tgid)) = filter::current() else { return };
    // SAFETY: no arguments.
    let (ts_ns, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    let header = emit::header(state, ts_ns, cpu, kind::SYNC);
    emit::submit_preemptible(state, FAMILY, cpu, &FileSync { header, tid, tgid, begins, reserved: 0 });
}
