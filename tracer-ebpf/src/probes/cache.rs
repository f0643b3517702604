//! Family cache: pages of files that traced threads bring into the page cache, and what becomes of them. Counted by file, since there
//! are too many for a record each; a large file's first page gives a record that says which file it is. Small files are counted together.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use tracer_common::{
    FamilyId,
    loss::{CpuState, LossReason},
    memory::{CacheSums, LARGE_FILE_BYTES},
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
    if let Some(sums) = sums(state, &pages, tid, tgid) {
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

/// Where a file's pages are counted that come: at its own entry if it is large, else at that of all small ones of its device.
#[inline(always)]
fn sums(state: &mut CpuState, pages: &files::Pages, tid: u32, tgid: u32) -> Option<*mut CacheSums> {
    // SAFETY: `host` is known to the verifier as an inode.
    let size_bytes: u64 = unsafe { typed(pages.host, config!(offsets.inode_size)) };
    if size_bytes >= LARGE_FILE_BYTES {
        if let Some(sums) = maps::CACHE_FILES.get_ptr_mut(pages.file) {
            return Some(sums);
        }
        if first(state, pages, tid, tgid) {
            return maps::CACHE_FILES.get_ptr_mut(pages.file);
        }
    }
    let rest = files::rest(pages.file);
    if let Some(sums) = maps::CACHE_FILES.get_ptr_mut(rest) {
        return Some(sums);
    }
    emit::enter(state);
    let added = maps::CACHE_FILES.insert(rest, CacheSums::default(), NEW).is_ok();
    emit::leave(state);
    if !added {
        emit::see(state, FAMILY);
        emit::lose(state, FAMILY, LossReason::MapFull);
    }
    maps::CACHE_FILES.get_ptr_mut(rest)
}

/// Whether the current thread is in a system call that writes: then a page that comes is a new one, and not read.
#[inline(always)]
fn writes() -> bool {
    let registers = task::user_registers(task::current());
    // SAFETY: the kernel's own registers of the task.
    !registers.is_null() && task::is_write(unsafe { task::syscall(registers) })
}

/// A large file is met. False: there is no room for it.
#[inline(always)]
fn first(state: &mut CpuState, pages: &files::Pages, tid: u32, tgid: u32) -> bool {
    // To try again for each page costs more than all else.
    if state.cache_is_full != 0 {
        return false;
    }
    emit::see(state, FAMILY);
    emit::enter(state);
    let added = maps::CACHE_FILES.insert(pages.file, CacheSums::default(), NEW);
    emit::leave(state);
    if added.is_ok() {
        files::tell(state, FAMILY, kind::FILE, pages.file, pages.host, (tid, tgid));
        return true;
    }
    emit::lose(state, FAMILY, LossReason::MapFull);
    state.cache_is_full = u64::from(added == Err(FULL));
    false
}

/// A page of a file leaves the page cache.
#[btf_tracepoint(function = "mm_filemap_delete_from_page_cache")]
pub fn page_cache_delete(ctx: BtfTracePointContext) -> i32 {
    let pages = files::pages(ctx.arg::<*const u8>(0));
    if pages.host.is_null() {
        return 0;
    }
    // Of small ones it is not known whether a traced thread brought them in.
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
