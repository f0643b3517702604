//! The only file that touches a ring: reserve, fill, submit, count.

use aya_ebpf::{
    helpers::generated::{bpf_ringbuf_query, bpf_ringbuf_reserve, bpf_ringbuf_submit},
    maps::RingBuf,
};
use tracer_common::{
    FamilyId,
    loss::{CpuState, LossReason},
    record::Header,
    stack::{RAW_STACK_BYTES, RawStack, STACK_CLASSES, STACK_PIECE_BYTES},
};

use crate::{access::config, maps};

/// BPF_RB_NO_WAKEUP and BPF_RB_FORCE_WAKEUP (uapi/linux/bpf.h).
const NO_WAKEUP: u64 = 1;
const FORCE_WAKEUP: u64 = 2;
/// BPF_RB_AVAIL_DATA and BPF_RB_RING_SIZE, see there.
const RING_IN_USE: u64 = 0;
const RING_BYTES: u64 = 1;

/// This CPU's state. `None` never happens: the map has one entry.
#[inline(always)]
pub fn cpu_state() -> Option<&'static mut CpuState> {
    let pointer = maps::CPU.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value that only this CPU's programs write; they run one at a time on it.
    Some(unsafe { &mut *pointer })
}

/// Which ring a record goes to.
#[derive(Clone, Copy)]
pub enum Lane {
    /// Sharded by CPU.
    Frequent,
    /// Its own, so that frequent records cannot crowd it out.
    Rare,
}

/// Marks that a program of ours may now take a lock, so that its contention is told from those of the target. Volatile, since
/// programs that run in the middle of it look.
#[inline(always)]
pub fn enter(state: &mut CpuState) {
    if config!(kernel_locks) == 1 {
        let nested = &raw mut state.in_ours;
        // SAFETY: points into `state`.
        unsafe { nested.write_volatile(nested.read_volatile() + 1) };
    }
}

/// The end of [`enter`].
#[inline(always)]
pub fn leave(state: &mut CpuState) {
    if config!(kernel_locks) == 1 {
        let nested = &raw mut state.in_ours;
        // SAFETY: points into `state`.
        unsafe { nested.write_volatile(nested.read_volatile() - 1) };
    }
}

/// Whether a program of ours may be in a lock on this CPU.
#[inline(always)]
pub fn is_in_ours(state: &CpuState) -> bool {
    // SAFETY: points into `state`.
    unsafe { (&raw const state.in_ours).read_volatile() != 0 }
}

/// As [`enter`] and [`leave`] around an action, for where there is no state at hand.
#[inline(always)]
pub fn in_ours<T>(action: impl FnOnce() -> T) -> T {
    if let Some(state) = cpu_state() {
        enter(state);
    }
    let result = action();
    if let Some(state) = cpu_state() {
        leave(state);
    }
    result
}

/// Counts an event that passed the filter. Each is followed by one [`submit`] or one [`lose`].
#[inline(always)]
pub fn see(state: &mut CpuState, family: FamilyId) {
    state.families[family as usize].seen += 1;
}

/// Counts an event that could not become a record. Only without records of scheduling is there a gap in a thread's time.
#[inline(always)]
pub fn lose(state: &mut CpuState, family: FamilyId, reason: LossReason) {
    state.families[family as usize].lost[reason as usize] += 1;
    if family as u8 == FamilyId::Sched as u8 {
        state.lost_total += 1;
    }
}

/// The header of a record written now.
#[inline(always)]
pub fn header(state: &CpuState, ts_ns: u64, cpu: u32, kind: u16) -> Header {
    Header { ts_ns, kind, cpu: cpu as u16, lost: state.lost_total as u32 }
}

/// Writes a record, or counts its loss. The record is complete before the ring is touched, so a reader never waits for us.
#[inline(always)]
pub fn submit<T: Copy + 'static>(state: &mut CpuState, family: FamilyId, cpu: u32, lane: Lane, record: &T) {
    let ring = match lane {
        Lane::Rare => &maps::RING_RARE,
        Lane::Frequent => shard(cpu),
    };
    enter(state);
    let reserved = ring.reserve::<T>(0);
    leave(state);
    match reserved {
        Some(mut entry) => {
            entry.write(*record);
            state.families[family as usize].submitted += 1;
            let count = state.since_wakeup + 1;
            state.since_wakeup = count;
            // The reader polls; it is woken early only when many records have piled up.
            let wake = count & u64::from(config!(wakeup_mask)) == 0;
            entry.submit(if wake { FORCE_WAKEUP } else { NO_WAKEUP });
        }
        None => lose(state, family, LossReason::RingFull),
    }
}

/// Adds to a counter of this CPU in one instruction, so that a program that runs in the middle of the caller's loses nothing. In
/// assembly: the library has no atomic additions for this target, since its first version cannot give the sum back.
#[inline(always)]
fn add(counter: *mut u64, by: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's counter is an aligned word that lives.
    unsafe {
        core::arch::asm!("lock *(u64 *)({counter} + 0) += {by}", counter = in(reg) counter, by = in(reg) by, options(nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    let _ = (counter, by);
}

/// The same for half a word.
#[inline(always)]
fn add_half(counter: *mut u32, by: u32) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("lock *(u32 *)({counter} + 0) += {by}", counter = in(reg) counter, by = in(reg) u64::from(by), options(nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    let _ = (counter, by);
}

/// Counts, and writes a record or counts its loss, for a program that may lose its CPU at any point; the others of this CPU may run
/// meanwhile.
#[inline(always)]
pub fn submit_preemptible<T: Copy + 'static>(state: &mut CpuState, family: FamilyId, cpu: u32, record: &T) {
    add(&raw mut state.since_wakeup, 1);
    // SAFETY: points into `state`.
    let count = unsafe { (&raw const state.since_wakeup).read_volatile() };
    let wake = count & u64::from(config!(wakeup_mask)) == 0;
    submit_to(shard(cpu), state, family, record, wake);
}

/// The same into a ring of its own, whose reader is woken when a quarter of it is in use.
#[inline(always)]
pub fn submit_to_own<T: Copy + 'static>(ring: &'static RingBuf, state: &mut CpuState, family: FamilyId, record: &T) {
    let wake = ring.query(RING_IN_USE) >= ring.query(RING_BYTES) / 4;
    submit_to(ring, state, family, record, wake);
}

/// One helper call copies the record, so that a reader hardly ever finds it unfinished.
#[inline(always)]
fn submit_to<T: Copy + 'static>(
    ring: &'static RingBuf,
    state: &mut CpuState,
    family: FamilyId,
    record: &T,
    wake: bool,
) {
    add(&raw mut state.families[family as usize].seen, 1);
    add_half(&raw mut state.in_ours, 1);
    let written = ring.output::<T>(record, if wake { FORCE_WAKEUP } else { NO_WAKEUP }).is_ok();
    add_half(&raw mut state.in_ours, u32::MAX);
    if written {
        add(&raw mut state.families[family as usize].submitted, 1);
    } else {
        add(&raw mut state.families[family as usize].lost[LossReason::RingFull as usize], 1);
        if family as u8 == FamilyId::Sched as u8 {
            add(&raw mut state.lost_total, 1);
        }
    }
}

/// [`see`] and [`lose`] for such a program.
#[inline(always)]
pub fn lose_preemptible(state: &mut CpuState, family: FamilyId, reason: LossReason) {
    lose_many_preemptible(state, family, reason, 1);
}

/// The same of so many.
#[inline(always)]
pub fn lose_many_preemptible(state: &mut CpuState, family: FamilyId, reason: LossReason, count: u64) {
    add(&raw mut state.families[family as usize].seen, count);
    add(&raw mut state.families[family as usize].lost[reason as usize], count);
}

/// A record of a stack in the making: [`RawStack`] with room for this many bytes of stack behind it.
#[derive(Clone, Copy)]
pub struct StackEntry {
    /// Where the record is. The verifier knows its size.
    pub head: *mut RawStack,
    /// Room behind it, in pieces of stack.
    pub pieces: u64,
}

/// Reserves the smallest record in which so many bytes of stack fit. A reservation must have a constant size, hence the classes.
/// Null when the ring has no room. Must be submitted.
#[inline(always)]
pub fn reserve_stack(state: &mut CpuState, wanted_bytes: u64) -> StackEntry {
    enter(state);
    let entry = if wanted_bytes <= STACK_CLASSES[0] as u64 {
        reserve_class::<0>()
    } else if wanted_bytes <= STACK_CLASSES[1] as u64 {
        reserve_class::<1>()
    } else if wanted_bytes <= STACK_CLASSES[2] as u64 {
        reserve_class::<2>()
    } else {
        reserve_class::<3>()
    };
    leave(state);
    entry
}

#[inline(always)]
fn reserve_class<const CLASS: usize>() -> StackEntry {
    let bytes = (RAW_STACK_BYTES + STACK_CLASSES[CLASS] + STACK_PIECE_BYTES) as u64;
    // SAFETY: the map is a ring buffer.
    let head = unsafe { bpf_ringbuf_reserve((&raw const maps::RING_STACKS).cast_mut().cast(), bytes, 0) };
    StackEntry { head: head.cast(), pieces: pieces::<CLASS>() }
}

/// Pieces of stack in a record of this class. In assembly, because the compiler would compute it once more from the bytes that are wanted,
/// and verifiers up to 6.1 do not see that the answer is the same as before: they take the smallest record for the largest.
#[inline(always)]
fn pieces<const CLASS: usize>() -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let pieces: u64;
        // SAFETY: writes a constant into a register.
        unsafe {
            core::arch::asm!(
                "{pieces} = {number}",
                pieces = out(reg) pieces,
                number = const STACK_CLASSES[CLASS] / STACK_PIECE_BYTES,
                options(nomem, nostack, preserves_flags)
            );
        }
        pieces
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        (STACK_CLASSES[CLASS] / STACK_PIECE_BYTES) as u64
    }
}

/// Hands a stack to its reader. The reader polls; waking it is an interrupt, which in a virtual machine costs more than all the rest.
/// It is woken at once for the first stack of a process, which must be looked at while it lives, and when a quarter of the ring is
/// in use.
#[inline(always)]
pub fn submit_stack(state: &mut CpuState, entry: StackEntry, first_of_process: bool) {
    let ring = (&raw const maps::RING_STACKS).cast_mut().cast();
    // SAFETY: the map is a ring buffer; the record was reserved by `reserve_stack` and is submitted once.
    unsafe {
        let wake = first_of_process || bpf_ringbuf_query(ring, RING_IN_USE) >= bpf_ringbuf_query(ring, RING_BYTES) / 4;
        bpf_ringbuf_submit(entry.head.cast(), if wake { FORCE_WAKEUP } else { NO_WAKEUP });
    }
    state.families[FamilyId::Cpu as usize].submitted += 1;
}

#[inline(always)]
fn shard(cpu: u32) -> &'static RingBuf {
    match cpu & config!(shard_mask) {
        1 => &maps::RING_1,
        2 => &maps::RING_2,
        3 => &maps::RING_3,
        4 => &maps::RING_4,
        5 => &maps::RING_5,
        6 => &maps::RING_6,
        7 => &maps::RING_7,
        _ => &maps::RING_0,
    }
}
