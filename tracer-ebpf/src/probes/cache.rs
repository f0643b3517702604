//! Family cache: pages of files that traced threads bring into the page cache, and what becomes of them. Counted by file, since there
//! are too many for a record each; a file's first page gives a record that says which file it is.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use tracer_common::{
    FamilyId,
    loss::{CpuState, LossReason},
    memory::CacheSums,
    record::cache as kind,
};

use crate::{
    access::{config, typed},
    emit, files, filter, maps, stalls, task,
};

const FAMILY: FamilyId = FamilyId::Cache;
/// BPF_NOEXIST (uapi/linux/bpf.h).
const NEW: u64 = 1;
/// E2BIG (uapi/asm-generic/errno-base.h).
const FULL: i32 = -7;
/// How the names of DAMON's threads begin (kdamond.N, mm/damon/core.c).
const DAMON: [u8; 7] = *b"kdamond";

/// A page of a file comes into the page cache.
#[btf_tracepoint(function = "mm_filemap_add_to_page_cache")]
pub fn page_cache_add(ctx: BtfTracePointContext) -> i32 {
    let ids = bpf_get_current_pid_tgid();
    let (tid, tgid) = (ids as u32, (ids >> 32) as u32);
    let Some(state) = emit::cpu_state() else { return 0 };
    if !filter::tracked(state, tid, tgid) {
        return 0;
    }
    let pages = files::pages(ctx.arg::<*const u8>(0));
    if pages.host.is_null() {
        return 0;
    }
    if maps::CACHE_FILES.get_ptr(pages.file).is_none() {
        first(state, &pages, tid, tgid);
    }
    if let Some(sums) = maps::CACHE_FILES.get_ptr_mut(pages.file) {
        // SAFETY: a per-CPU value; `host` is known to the verifier as an inode.
        unsafe {
            if writes() {
                (*sums).written += pages.count;
            } else {
                (*sums).read += pages.count;
                (*sums).read_last_ts_ns = bpf_ktime_get_ns();
                if (*sums).asked_ts_ns == 0 || (*sums).reader != ids {
                    ((*sums).reader, (*sums).asked_ts_ns) = (ids, (*sums).read_last_ts_ns);
                }
                if (*sums).read_first_ts_ns == 0 {
                    (*sums).read_first_ts_ns = (*sums).read_last_ts_ns;
                }
            }
            (*sums).size_bytes = typed(pages.host, config!(offsets.inode_size));
        }
    }
    0
}

/// Whether the current thread is in a system call that writes: then a page that comes is a new one, and not read.
#[inline(always)]
fn writes() -> bool {
    let registers = task::user_registers(task::current());
    // SAFETY: the kernel's own registers of the task.
    !registers.is_null() && task::is_write(unsafe { task::syscall(registers) })
}

/// A file is met.
#[inline(always)]
fn first(state: &mut CpuState, pages: &files::Pages, tid: u32, tgid: u32) {
    emit::see(state, FAMILY);
    // Nothing is ever taken out of the table: to try again, for each page of a folder of pictures, costs more than all else.
    if state.cache_is_full == 0 {
        emit::enter(state);
        let added = maps::CACHE_FILES.insert(pages.file, CacheSums::default(), NEW);
        emit::leave(state);
        if added.is_ok() {
            files::tell(state, FAMILY, kind::FILE, pages.file, pages.host, (tid, tgid));
            return;
        }
        state.cache_is_full = u64::from(added == Err(FULL));
    }
    emit::lose(state, FAMILY, LossReason::MapFull);
}

/// A page of a file leaves the page cache.
#[btf_tracepoint(function = "mm_filemap_delete_from_page_cache")]
pub fn page_cache_delete(ctx: BtfTracePointContext) -> i32 {
    let pages = files::pages(ctx.arg::<*const u8>(0));
    if pages.host.is_null() {
        return 0;
    }
    if let Some(sums) = maps::CACHE_FILES.get_ptr_mut(pages.file) {
        let who = bpf_get_current_pid_tgid();
        // SAFETY: a per-CPU value.
        unsafe {
            if stalls::waits_for(who as u32) != 0 {
                (*sums).reclaimed_own += pages.count;
                if writes() {
                    (*sums).reclaimed_writing += pages.count;
                    (*sums).writer = who;
                }
            } else if task::is_kernel_thread(task::current()) {
                if task::comm(task::current())[..DAMON.len()] == DAMON {
                    (*sums).reclaimed_unused += pages.count;
                } else {
                    (*sums).reclaimed_others += pages.count;
                }
            } else {
                (*sums).dropped += pages.count;
            }
        }
    }
    0
}
