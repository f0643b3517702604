//! A thread's calls that change its address space: counted in its own entry of an array, written as a record now and then. Of some that map
//! memory a stack is taken. What a call asks for is `tracer_common::mapping`'s.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, generated::bpf_get_prandom_u32};
use tracer_common::{
    FamilyId,
    loss::CpuState,
    mapping::{self, Asked, MAP_KINDS, MapKind, MapSums, Mapped, budget},
    record::map as kind,
    stack::{origin, raw_flags as flags},
};

use crate::{
    access::{config, typed},
    emit::{self, Lane},
    faults, maps,
    stack::{self, Request},
    task,
};

const FAMILY: FamilyId = FamilyId::Map;
const NS_PER_STACK: u64 = 1_000_000_000 / budget::PER_SECOND;

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: no arguments.
    unsafe { bpf_get_prandom_u32() }
}

/// The entry for this thread, whosever it is now.
#[inline(always)]
pub fn slot(tid: u32) -> Option<&'static mut MapSums> {
    let pointer = maps::MAPPED.get_ptr_mut(tid & config!(slot_mask))?;
    // SAFETY: plain data in a map; a thread writes its own entry only, two that share one lose a call.
    Some(unsafe { &mut *pointer })
}

/// Counts a call of the current thread, and takes its stack if one is due. STACKS: stacks can be taken at all.
#[inline(always)]
pub fn count<const STACKS: bool>(
    state: &mut CpuState,
    ctx: *mut c_void,
    (tid, tgid): (u32, u32),
    asked: Asked,
    mappings: u32,
) {
    let Some(sums) = slot(tid) else { return };
    if sums.tid != tid {
        if sums.tid != 0 && sums.pending != 0 {
            write(state, sums);
        }
        *sums = MapSums { tid, tgid, ..MapSums::default() };
    }
    // Through memory: the verifier knows the kind on each way to here, and would follow what comes once for each of them.
    // SAFETY: a field of a value in a map.
    let kind = unsafe {
        (&raw mut sums.kind).write_volatile(asked.kind);
        (&raw const sums.kind).read_volatile()
    };
    let asked = Asked { kind, ..asked };
    sums.add(asked, mappings, now_ns);
    if STACKS && config!(map_stacks) == 1 && maps(asked.kind) && sums.stacks.add(asked.bytes, random) {
        take(state, ctx, sums, asked.kind);
    }
    if sums.is_due(now_ns) {
        write(state, sums);
    }
}

/// The call by which the current thread gives pages back; 0: it is in none.
#[inline(always)]
fn freeing_call() -> (u64, Asked) {
    let registers = task::user_registers(task::current());
    if registers.is_null() {
        return (0, Asked::NONE);
    }
    // SAFETY: the kernel's own registers of the task.
    unsafe {
        let argument = |offset: u32| typed::<u64>(registers, offset);
        let (address, length) = (argument(config!(offsets.regs_arg0)), argument(config!(offsets.regs_arg1)));
        let asked = mapping::madvise(length, argument(config!(offsets.regs_arg2)) as u32, false);
        if asked.kind != MapKind::MadviseFree as u32 || task::is_compat(registers) {
            return (0, Asked::NONE);
        }
        let (ip, sp) = (argument(config!(offsets.regs_ip)), argument(config!(offsets.regs_sp)));
        (mapping::call_id(ip, sp, address, length), asked)
    }
}

/// The current thread is in madvise and pages are taken from it. The first of them count the call. A call with the same registers counts again
/// only if the thread had a page fault in between (`freed` is zero then). False: that is not what this advice is for.
#[inline(always)]
pub fn given_back(state: &mut CpuState, ctx: *mut c_void, ids: (u32, u32), mappings: u32, freed: &mut u8) -> bool {
    let (call, asked) = freeing_call();
    if asked.kind == Asked::NOTHING {
        return false;
    }
    let is_known = match slot(ids.0) {
        Some(sums) => *freed == 1 && sums.tid == ids.0 && sums.freed_call == call,
        None => true,
    };
    if !is_known {
        // No stacks: what gives pages back maps none.
        count::<false>(state, ctx, ids, asked, mappings);
        if let Some(sums) = slot(ids.0) {
            sums.freed_call = call;
        }
        *freed = 1;
    }
    true
}

/// A call of this thread was counted when it locked the address space: if it gives pages back, those that it takes are not to count it again.
/// The kind is asked of memory, not of the caller, which would have to keep it: see [`count`].
#[inline(always)]
pub fn counted(tid: u32) {
    if config!(faults) != 1 {
        return;
    }
    if let Some(sums) = slot(tid)
        && sums.tid == tid
        && sums.kind == MapKind::MadviseFree as u32
        && let Some(faults) = faults::slot(tid)
        && faults.tid == tid
    {
        (sums.freed_call, faults.freed) = (freeing_call().0, 1);
    }
}

/// Whether a kind adds to the address space.
#[inline(always)]
fn maps(kind: u32) -> bool {
    const MAPS: u32 = {
        let (mut bits, mut number) = (0, 0);
        while number < MAP_KINDS {
            bits |= (MapKind::ALL[number].maps() as u32) << number;
            number += 1;
        }
        bits
    };
    MAPS >> (kind & 31) & 1 == 1
}

/// Takes the stack of the current thread, which stands for so many bytes, if the budget allows.
#[inline(always)]
fn take(state: &mut CpuState, ctx: *mut c_void, sums: &mut MapSums, kind: u32) {
    let ts_ns = now_ns();
    if !pay(state, ts_ns) {
        sums.stacks.put_off(random());
        return;
    }
    let request = Request {
        ts_ns,
        origin: origin::MAP,
        tid: sums.tid,
        tgid: sums.tgid,
        weight_ns: sums.stacks.taken(ts_ns, random()),
        place: kind,
        // What called is wanted; where in the kernel is known.
        flags: flags::NO_KERNEL_FRAMES,
    };
    stack::take_of_fault(state, ctx, request);
}

/// One stack of the budget: time is paid in advance, and no more than a burst of it. What is refused is put off, not lost.
#[inline(always)]
fn pay(state: &mut CpuState, ts_ns: u64) -> bool {
    let mut paid_ts_ns = state.map_budget_ts_ns;
    if paid_ts_ns < ts_ns {
        paid_ts_ns = ts_ns;
    }
    if paid_ts_ns - ts_ns >= budget::BURST * NS_PER_STACK {
        return false;
    }
    state.map_budget_ts_ns = paid_ts_ns + NS_PER_STACK;
    true
}

/// Writes what was counted, and begins anew. A function of its own: its record and the loops of a stack together would be more than the 512
/// bytes that programs have for their variables.
#[inline(never)]
pub fn write(state: &mut CpuState, sums: &mut MapSums) {
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    emit::see(state, FAMILY);
    let record = Mapped {
        header: emit::header(state, now_ns(), cpu, kind::MAPPED),
        tid: sums.tid,
        tgid: sums.tgid,
        since_ts_ns: sums.since_ts_ns,
        bytes: sums.bytes,
        counts: sums.counts,
        mappings: sums.mappings,
        mappings_most: sums.mappings_most,
        reserved: 0,
    };
    (sums.bytes, sums.counts, sums.pending) = (Default::default(), Default::default(), 0);
    emit::submit(state, FAMILY, cpu, Lane::Frequent, &record);
}
