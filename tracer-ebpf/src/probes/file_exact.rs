//! Family file-exact: calls of traced threads that read and write files through a descriptor, each counted where it returns. There is no
//! hook on these calls alone that costs less: the tracepoint on the return of system calls puts every call of every program of the host on
//! a slow path. So the family runs only if it is asked for.
//!
//! A thread counts in its own entry of an array as long as it stays with one file, and adds that to the sums of file and process when it
//! goes to another. Whether it is the same one shows in the addresses of what is open and of its inode: a number alone is soon used again.

use aya_ebpf::{
    EbpfContext, helpers::bpf_get_current_pid_tgid, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use tracer_common::{
    FamilyId,
    file_calls::{FileCallsKey, FileCallsSlot, FileCallsSums},
    loss::{CpuState, LossReason},
    record::file_exact as kind,
};

use crate::{
    access::{add_shared, config, probed, typed, word},
    emit, files, filter, maps,
    task::{self, Task},
};

const FAMILY: FamilyId = FamilyId::FileExact;
/// BPF_NOEXIST (uapi/linux/bpf.h).
const NEW: u64 = 1;
/// Of a mode, what kind it is of; a regular file (uapi/linux/stat.h).
const KIND: u16 = 0o170000;
const REGULAR: u16 = 0o100000;

/// A system call returns.
#[btf_tracepoint(function = "sys_exit")]
pub fn file_calls(ctx: BtfTracePointContext) -> i32 {
    let registers = ctx.arg::<*const u8>(0);
    let moved = word::<1>(ctx.as_ptr()) as i64;
    // SAFETY: the registers of the current thread, known to the verifier.
    let (call, fd, compat) = unsafe {
        let fd: u64 = typed(registers, config!(offsets.regs_arg0));
        (task::syscall(registers), fd as u32, task::is_compat(registers))
    };
    if moved < 0 || compat || !task::moves_data(call) {
        return 0;
    }
    let ids = bpf_get_current_pid_tgid();
    let (tid, tgid) = (ids as u32, (ids >> 32) as u32);
    let Some(slot) = slot(tid) else { return 0 };
    // An entry that is the thread's own says that it is traced.
    let is_own = slot.tid == tid;
    if !is_own && !filter::is_tracked(tid, tgid) {
        return 0;
    }
    let (open, inode) = task::open_file(task::current(), fd);
    if !is_own || (slot.open, slot.inode, slot.fd) != (open, inode, fd) {
        let Some(state) = emit::cpu_state() else { return 0 };
        add_up(state, slot);
        *slot = FileCallsSlot { tid, tgid, fd, open, inode, ..FileCallsSlot::default() };
        meet(state, slot);
    }
    if slot.is_file == 1 {
        let sums = &mut slot.sums;
        let (calls, bytes) = if task::is_write(call) {
            (&mut sums.writes, &mut sums.written_bytes)
        } else {
            (&mut sums.reads, &mut sums.read_bytes)
        };
        *calls += 1;
        *bytes += moved as u64;
    }
    0
}

/// The entry for this thread, whosever it is now.
#[inline(always)]
fn slot(tid: u32) -> Option<&'static mut FileCallsSlot> {
    let pointer = maps::FILE_SLOTS.get_ptr_mut(tid & config!(slot_mask))?;
    // SAFETY: plain data in a map; a thread writes its own entry only, two that share one lose calls if they call at the same moment.
    Some(unsafe { &mut *pointer })
}

/// Finds out what the thread goes to, and tells user space of files that are new.
#[inline(always)]
fn meet(state: &mut CpuState, slot: &mut FileCallsSlot) {
    let inode = slot.inode as *const u8;
    // SAFETY: probed loads take any address.
    let mode: u16 = if inode.is_null() { 0 } else { unsafe { probed(inode, config!(offsets.inode_mode)) } };
    slot.is_file = u32::from(mode & KIND == REGULAR);
    if slot.is_file == 0 {
        return;
    }
    slot.file = files::key(inode);
    let key = FileCallsKey { file: slot.file, tgid: slot.tgid, reserved: 0 };
    if maps::FILE_CALLS.get_ptr(key).is_some() {
        return;
    }
    let added = emit::in_ours(|| maps::FILE_CALLS.insert(key, FileCallsSums::default(), NEW).is_ok());
    if added {
        files::tell_preemptible(
            state,
            FAMILY,
            kind::FILE,
            (slot.file, inode, files::entry(inode)),
            (slot.tid, slot.tgid),
        );
    }
}

/// Adds what an entry has to the sums of its file and process.
#[inline(always)]
fn add_up(state: &mut CpuState, slot: &mut FileCallsSlot) {
    let sums = slot.sums;
    if sums.reads == 0 && sums.writes == 0 {
        return;
    }
    slot.sums = FileCallsSums::default();
    let key = FileCallsKey { file: slot.file, tgid: slot.tgid, reserved: 0 };
    let Some(all) = maps::FILE_CALLS.get_ptr_mut(key) else {
        emit::lose_many_preemptible(state, FAMILY, LossReason::MapFull, sums.reads + sums.writes);
        return;
    };
    // SAFETY: a value in a map, which threads on other CPUs add to as well.
    unsafe {
        add_shared(&raw mut (*all).reads, sums.reads);
        add_shared(&raw mut (*all).read_bytes, sums.read_bytes);
        add_shared(&raw mut (*all).writes, sums.writes);
        add_shared(&raw mut (*all).written_bytes, sums.written_bytes);
    }
}

/// A thread ends: what it counted is added up.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn file_calls_at_exit(ctx: BtfTracePointContext) -> i32 {
    let tid = task::tid(ctx.arg::<Task>(0));
    let Some(state) = emit::cpu_state() else { return 0 };
    if tid != 0
        && let Some(slot) = slot(tid)
        && slot.tid == tid
    {
        add_up(state, slot);
        slot.tid = 0;
    }
    0
}
