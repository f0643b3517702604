//! Where threads wait, and whose turn it is to be looked at: a place is (process, instruction, stack pointer), and a table remembers how
//! long waits there last.
//!
//! The stack of a wait is taken when its place is new, and from then on with a probability of (mean wait there) / (sampling
//! period), at most 1. So stacks are taken in proportion to waiting time, one per period of it, and each wait of a place has the
//! same chance, whatever its stack: a rule that waits until enough time has passed would always catch the wait after a long one.
//! A budget per CPU bounds the number.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use tracer_common::{
    FamilyId,
    loss::CpuState,
    stack::{PLACE_BITS, budget, place},
};

use crate::{
    access::config,
    filter,
    maps::{self, Slot},
};

/// The mean moves by this part of the difference to each wait: 1/16.
const MEAN_SHIFT: u32 = 4;
/// A duration is kept in units of 16 ns.
const UNIT_SHIFT: u32 = 4;
const NS_PER_STACK: u64 = 1_000_000_000 / budget::PER_SECOND;

/// What is known of a place. Two entries side by side hold the places of one index; the one used longer ago gives way.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Place {
    /// Which place, in the low bits; above them how many stacks were asked for here, up to 255. 0: none.
    pub place: u32,
    /// Mean duration of its waits, in units of 16 ns: up to 68 seconds.
    pub mean: u32,
    /// When a wait there last began.
    pub used_ts_ns: u64,
}

const _: () = assert!(size_of::<Place>() == 16);

impl Place {
    #[inline(always)]
    fn is(&self, place: u32) -> bool {
        self.place & ((1 << PLACE_BITS) - 1) == place
    }

    #[inline(always)]
    fn stacks(&self) -> u32 {
        self.place >> PLACE_BITS
    }

    #[inline(always)]
    fn count_stack(&mut self) {
        if self.stacks() < u32::MAX >> PLACE_BITS {
            self.place += 1 << PLACE_BITS;
        }
    }
}

#[inline(always)]
fn entry(index: u32) -> Option<&'static mut Place> {
    let pointer = maps::PLACES.get_ptr_mut(index)?;
    // SAFETY: plain data in a map; races between CPUs cost at most a stack more or less.
    Some(unsafe { &mut *pointer })
}

/// A thread begins to wait here. Returns the place's number, and notes in the CPU's state whether its stack is to be taken.
#[inline(always)]
pub fn begin(state: &mut CpuState, slot: &mut Slot, tgid: u32, at: [u64; 2], ts_ns: u64) -> u32 {
    let place = place(tgid, at[0], at[1]);
    let mut index = place & (maps::PLACES_ENTRIES - 1);
    let Some(first) = entry(index) else { return place };
    let mut known = first.is(place);
    let mut chosen = first;
    if !known && let Some(second) = entry(index ^ 1) {
        known = second.is(place);
        if known || second.used_ts_ns < chosen.used_ts_ns {
            chosen = second;
            index ^= 1;
        }
    }
    if !known {
        chosen.place = place;
        chosen.mean = 0;
    }
    chosen.used_ts_ns = ts_ns;
    slot.place = place;
    slot.place_index = index as u16;
    if !known {
        if due(state, place, 0, ts_ns) {
            chosen.count_stack();
        } else {
            // Nobody looked: it stays new.
            chosen.place = 0;
        }
    } else if drawn(state, chosen.mean) && due(state, place, chosen.stacks(), ts_ns) {
        chosen.count_stack();
    }
    place
}

/// True with the probability (mean wait) / (sampling period).
#[inline(always)]
fn drawn(state: &mut CpuState, mean: u32) -> bool {
    (random(state) * config!(sample_period_ns)) >> 32 < u64::from(mean) << UNIT_SHIFT
}

/// Thirty-two random bits, by a generator of the CPU's own (Knuth's, of which the upper half is good): the kernel's costs ten times as much.
#[inline(always)]
fn random(state: &mut CpuState) -> u64 {
    if state.random == 0 {
        // SAFETY: no arguments.
        state.random = u64::from(unsafe { bpf_get_prandom_u32() });
    }
    state.random = state.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    state.random >> 32
}

/// Asks for the stack, if the budget allows. False: it does not.
#[inline(always)]
fn due(state: &mut CpuState, place: u32, stacks_before: u32, ts_ns: u64) -> bool {
    if !pay(state, ts_ns) {
        return false;
    }
    state.due_ts_ns = ts_ns;
    state.due_again = stacks_before;
    state.due_place = place;
    true
}

/// The current thread ends a wait. Its stack is asked for with a probability of (this wait) / (sampling period): of wakers too, one per
/// period of waiting. Of a thread that is not traced no stack is taken, which must not use up the budget.
#[inline(always)]
pub fn woken(state: &mut CpuState, slot: &Slot, (tid, tgid): (u32, u32), wakee: u64) {
    // What a slot holds instead of a time is later than any.
    let mut waited = slot.wake_ts_ns.saturating_sub(slot.wait_ts_ns) >> UNIT_SHIFT;
    if waited > u64::from(u32::MAX) {
        waited = u64::from(u32::MAX);
    }
    if slot.place != 0
        && drawn(state, waited as u32)
        && filter::tracked(state, tid, tgid)
        && pay(state, slot.wake_ts_ns)
    {
        state.due_waker = slot.place;
        state.due_wakee = wakee;
    }
}

/// One stack of the budget: time is paid in advance, and no more than a burst of it.
#[inline(always)]
fn pay(state: &mut CpuState, ts_ns: u64) -> bool {
    let mut paid_ts_ns = state.budget_ts_ns;
    if paid_ts_ns < ts_ns {
        paid_ts_ns = ts_ns;
    }
    if paid_ts_ns - ts_ns >= budget::BURST * NS_PER_STACK {
        state.families[FamilyId::Cpu as usize].over_budget += 1;
        return false;
    }
    state.budget_ts_ns = paid_ts_ns + NS_PER_STACK;
    true
}

/// The thread runs again: the place learns how long it waited.
#[inline(always)]
pub fn end(slot: &mut Slot, ts_ns: u64) {
    let place = slot.place;
    if place == 0 {
        return;
    }
    slot.place = 0;
    if let Some(entry) = entry(u32::from(slot.place_index))
        && entry.is(place)
    {
        let mut waited = ts_ns.saturating_sub(slot.wait_ts_ns) >> UNIT_SHIFT;
        if waited > u64::from(u32::MAX) {
            waited = u64::from(u32::MAX);
        }
        let mean = u64::from(entry.mean);
        // The first wait is all that is known; afterwards each moves the mean a little.
        entry.mean = if mean == 0 { waited } else { mean + (waited >> MEAN_SHIFT) - (mean >> MEAN_SHIFT) } as u32;
    }
}
