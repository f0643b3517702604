//! Page faults that nobody sees begin. Outside system calls nothing but page faults changes the counters of a thread's own resident memory,
//! and the kernel numbers the faults of a thread, so several changes by one are told from several faults. Those that change none are missing
//! numbers. Each is counted when it first shows, and anew if it changes more.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use tracer_common::{
    loss::CpuState,
    memory::{FAULTS_PER_RECORD, FaultKind, FaultSums, OwnCounters, PROCESS_PAGES, fault_kind, fault_state},
};

use crate::{
    access::{add_shared, config, typed},
    emit, faults, maps,
    task::Task,
};

/// Whether this kernel says enough for it. It is asked once in each program: what only one of both ways needs costs the other nothing.
#[inline(always)]
pub fn is_on() -> bool {
    config!(faults_by_number) == 1
}

/// The kernel's number of the fault in which a thread is, or of its next one; see [`FaultSums::next`].
#[inline(always)]
pub fn number(task: Task) -> u32 {
    // SAFETY: `task` is known to the verifier.
    let minor: u32 = unsafe { typed(task, config!(offsets.task_min_flt)) };
    minor.wrapping_add(faults::major_faults(task))
}

#[inline(always)]
pub fn is_at(sums: &FaultSums, number: u32) -> bool {
    (sums.open == fault_state::OPEN || sums.open == fault_state::COUNTED) && sums.next == number.wrapping_add(1)
}

/// Whether the thread is still in the fault that was seen last.
#[inline(always)]
pub fn is_in(sums: &FaultSums, task: Task) -> bool {
    if is_on() { is_at(sums, number(task)) } else { sums.open == fault_state::OPEN }
}

/// A fault was seen to begin.
#[inline(always)]
pub fn begun(sums: &mut FaultSums, task: Task) {
    if is_on() {
        let number = number(task);
        passed(sums, number, number.wrapping_add(1));
    }
}

/// A thread ends.
#[inline(always)]
pub fn ended(sums: &mut FaultSums, task: Task) {
    if is_on() {
        let number = number(task);
        passed(sums, number, number);
    }
}

/// A system call changes a counter: by a fault of the kernel's own for the caller (it has a number), or because it takes pages away.
#[inline(always)]
pub fn called(sums: &mut FaultSums, number: u32, call: i16) {
    let call = i32::from(call);
    let takes_away = call == config!(map_calls.munmap)
        || call == config!(map_calls.brk)
        || call == config!(map_calls.mremap)
        || call == config!(map_calls.madvise);
    passed(sums, number, number.wrapping_add(!takes_away as u32));
    left(sums);
}

/// What is changed from now on is not the last fault's doing.
#[inline(always)]
fn left(sums: &mut FaultSums) {
    sums.open = match sums.open {
        fault_state::OPEN => fault_state::LEFT,
        fault_state::COUNTED => fault_state::DONE,
        other => other,
    };
}

/// Counts the faults before this number of which nothing was seen: they changed no counter.
#[inline(always)]
fn passed(sums: &mut FaultSums, number: u32, next: u32) {
    let unseen = number.wrapping_sub(sums.next) as i32;
    if sums.numbered == 1 && unseen > 0 {
        quiet(sums, unseen as u32);
    }
    (sums.next, sums.numbered) = (next, 1);
}

/// So many faults were not seen.
#[inline(always)]
fn quiet(sums: &mut FaultSums, faults: u32) {
    if let Some(watch) = maps::FAULT_WATCH.get_ptr_mut(0) {
        // SAFETY: plain data in a map, counted in one instruction.
        unsafe { add_shared(&raw mut (*watch).unseen, u64::from(faults)) };
    }
    let are_copies = maps::TAKEN_FOR_COPIES.get(0) == Some(&1);
    let kind = if are_copies { FaultKind::CopyOnWrite } else { FaultKind::Other };
    sums.counts[kind as usize] += faults;
    sums.pending += faults;
}

/// A fault was seen to copy a page.
#[inline(always)]
pub fn copied() {
    if is_on()
        && let Some(watch) = maps::FAULT_WATCH.get_ptr_mut(0)
    {
        // SAFETY: as above.
        unsafe { add_shared(&raw mut (*watch).copies, 1) };
    }
}

/// A thread was made by a traced one: its faults are numbered from zero. One in an address space of its own shares its pages with its
/// creator's from now on.
#[inline(always)]
pub fn new_task(state: &mut CpuState, tid: u32, tgid: u32, shares_memory: bool) {
    if !is_on() {
        return;
    }
    if let Some(sums) = faults::own(state, tid, tgid) {
        (sums.next, sums.numbered) = (0, 1);
    }
    if !shares_memory
        && let (Some(watch), Some(taken)) = (maps::FAULT_WATCH.get_ptr_mut(0), maps::TAKEN_FOR_COPIES.get_ptr_mut(0))
    {
        // SAFETY: plain data in maps, counted and written in one instruction each.
        unsafe {
            *taken = 1;
            add_shared(&raw mut (*watch).forks, 1);
        }
    }
}

/// The thread has another address space now. What was brought in for it meanwhile is not counted.
#[inline(always)]
pub fn executed(task: Task, tid: u32) {
    if is_on()
        && let Some(sums) = faults::slot(tid)
        && sums.tid == tid
    {
        (sums.next, sums.numbered) = (number(task), 1);
        left(sums);
    }
}

/// Whether a process has a huge page more than when one of its threads last had a fault: the sum of its pages has jumped.
#[inline(always)]
pub fn has_grown_huge(sums: &mut FaultSums, space: *const u8) -> bool {
    /// Huge pages come in hundreds; what the CPUs hand in meanwhile in tens.
    const HUGE_PAGES: i64 = 256;
    let pages = faults::anonymous_pages(space);
    // Most faults change their CPU's part only.
    if sums.pages_before == pages {
        return false;
    }
    sums.pages_before = pages;
    let Some(entry) = maps::PAGES.get_ptr_mut(sums.tgid & (PROCESS_PAGES - 1)) else { return false };
    // SAFETY: plain data in a map; two that write at once leave the one or the other.
    let entry = unsafe { &mut *entry };
    let is_huge = entry.tgid == u64::from(sums.tgid) && pages.wrapping_sub(entry.pages) as i64 >= HUGE_PAGES;
    (entry.tgid, entry.pages) = (u64::from(sums.tgid), pages);
    is_huge
}

/// A fault shows for the first time, by a counter that it changes. Gives its kind as far as it is known.
#[inline(always)]
pub fn first(sums: &mut FaultSums, task: Task, number: u32, counter: u32, is_huge: bool) -> FaultKind {
    let major = faults::major_faults(task);
    if sums.open != fault_state::NONE {
        settle(sums, task, major);
    }
    if sums.pending & (faults::LOOK_AT_TIME - 1) == 0 || sums.pending >= FAULTS_PER_RECORD {
        due(sums);
    }
    if sums.next != number || sums.numbered == 0 {
        passed(sums, number, number);
    }
    sums.next = number.wrapping_add(1);
    let kind = fault_kind(0, 1 << counter, is_huge, false);
    if let Some(count) = sums.counts.get_mut(kind as usize) {
        *count += 1;
    }
    sums.pending += 1;
    (sums.open, sums.error, sums.from_kernel, sums.freed) = (fault_state::COUNTED, 0, 0, 0);
    (sums.touched, sums.huge, sums.kind) = (1 << counter, is_huge as u8, kind as u8);
    (sums.inode, sums.major_before) = (0, major);
    kind
}

/// The fault in which the thread is changes a counter more. Gives its kind as far as it is known, and whether this is the first.
#[inline(always)]
pub fn more(sums: &mut FaultSums, counter: u32, is_huge: bool) -> (FaultKind, bool) {
    let is_first = sums.touched == 0;
    sums.touched |= 1 << counter;
    sums.huge |= is_huge as u8;
    let kind = fault_kind(sums.error, sums.touched, sums.huge == 1, false);
    if sums.open == fault_state::COUNTED {
        is_rather(sums, kind);
    }
    (kind, is_first)
}

/// Settles the last fault where the next one shows.
#[inline(always)]
fn settle(sums: &mut FaultSums, task: Task, major: u32) {
    if sums.open == fault_state::COUNTED || sums.open == fault_state::DONE {
        was_major(sums, major);
    } else if let Some(state) = emit::cpu_state() {
        faults::settle(state, sums, task, &OwnCounters::default());
    }
}

/// The last fault is counted already. Whether it was a major one shows only now.
#[inline(always)]
pub fn was_major(sums: &mut FaultSums, major: u32) {
    if sums.major_before != major {
        is_rather(sums, fault_kind(sums.error, sums.touched, sums.huge == 1, true));
    }
}

/// The last fault is of another kind than it was counted as.
#[inline(always)]
fn is_rather(sums: &mut FaultSums, kind: FaultKind) {
    let counted = sums.kind;
    if counted == kind as u8 {
        return;
    }
    if let Some(count) = sums.counts.get_mut(counted as usize)
        && *count > 0
    {
        *count -= 1;
        if let Some(count) = sums.counts.get_mut(kind as usize) {
            *count += 1;
        }
        sums.kind = kind as u8;
    }
}

/// Writes a record if it is time.
#[inline(always)]
fn due(sums: &mut FaultSums) {
    if sums.pending == 0 {
        // SAFETY: no arguments.
        sums.since_ts_ns = unsafe { bpf_ktime_get_ns() };
    } else if let Some(state) = emit::cpu_state() {
        faults::write_if_due(state, sums);
        if sums.pending == 0 {
            // SAFETY: no arguments.
            sums.since_ts_ns = unsafe { bpf_ktime_get_ns() };
        }
    }
}
