//! Counters of what was seen, written and lost, per CPU and family.
//!
//! `seen = submitted + sum(lost)` holds for each CPU and family whenever no program is running.

use crate::{
    FAMILY_SLOTS,
    lock::{MAX_SPINS, Totals},
};

/// Why a record that should have been written was not. The number indexes [`FamilyCounters::lost`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum LossReason {
    /// The ring had no room: user space did not keep up.
    RingFull = 0,
    /// A map had no room for a new thread: it and its descendants are not traced.
    MapFull = 1,
}

/// Number of [`LossReason`]s.
pub const LOSS_REASONS: usize = 2;

impl LossReason {
    /// Every reason, in the order of its number.
    pub const ALL: [LossReason; LOSS_REASONS] = [LossReason::RingFull, LossReason::MapFull];

    /// The name in reports.
    pub const fn id(self) -> &'static str {
        match self {
            LossReason::RingFull => "ring_full",
            LossReason::MapFull => "map_full",
        }
    }
}

/// What one CPU counted for one family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FamilyCounters {
    /// Events that passed the filter and were to become a record.
    pub seen: u64,
    /// Records handed to a ring.
    pub submitted: u64,
    /// Records lost, by [`LossReason`].
    pub lost: [u64; LOSS_REASONS],
    /// Wake-ups whose waker was forgotten, because another thread needed its slot. The switch record itself is not lost.
    pub wakers_forgotten: u64,
    /// Wait stacks that were due and not taken, because this CPU's budget was used up ([`crate::stack::budget`]). Neither seen nor lost:
    /// the wait itself and its place stand in its switch record.
    pub over_budget: u64,
    /// Zero.
    pub reserved: [u64; 2],
}

const _: () = assert!(size_of::<FamilyCounters>() == 64);

/// The value of the per-CPU state map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuState {
    /// Counters, indexed by [`crate::FamilyId`].
    pub families: [FamilyCounters; FAMILY_SLOTS],
    /// Records lost by this CPU for any reason; its low half goes into each header. Lost stacks are not among them: they leave no gap
    /// in any thread's time.
    pub lost_total: u64,
    /// Records submitted by this CPU since its reader was last woken.
    pub since_wakeup: u64,
    /// Nested device interrupt handlers now running.
    pub irq_handlers: u32,
    /// The softirq that started last.
    pub softirq: u32,
    /// Kernel address of this CPU's run queue; 0: not found yet.
    pub run_queue: u64,
    /// Up to when this CPU's budget of wait stacks is used up.
    pub budget_ts_ns: u64,
    /// The wait whose stack the next program is to take: when it began.
    pub due_ts_ns: u64,
    /// Its place; 0: none is due.
    pub due_place: u32,
    /// How many stacks were asked for at this place before, up to 255.
    pub due_again: u32,
    /// Programs of ours that are in a lock of a map or ring now, and so may contend it themselves.
    pub in_ours: u32,
    /// Entries of `spins` in use.
    pub spins_open: u32,
    /// Contentions that were to be counted by process and kind, and found no room there.
    pub locks_rest: Totals,
    /// Contentions of spinning locks that have begun, the innermost last.
    pub spins: [Spin; MAX_SPINS],
    /// So many switches between threads that are not traced become records as well: a traced one waits for this CPU.
    pub strangers_left: u32,
    /// The current thread ends a wait at this place, and the next program is to take its stack; 0: none is due.
    pub due_waker: u32,
    /// Who waits: its process in the upper half, its id in the lower.
    pub due_wakee: u64,
    /// Up to when this CPU's budget of stacks of calls that map memory is used up.
    pub map_budget_ts_ns: u64,
    /// How often other CPUs have steered packets to this one, when packets were last received here.
    pub steered: u32,
    /// 1: the softirq that receives packets has those that the current thread has just sent.
    pub softirq_is_own: u32,
    /// The least that the preemption counter has in its lowest byte when a program runs in a softirq that a thread runs at the end of its
    /// own call; 0: not known yet.
    pub own_softirq_depth: u32,
    /// As `steered`, when a thread was last woken by packets.
    pub steered_at_wake: u32,
    /// State of this CPU's random numbers; 0: none was drawn yet.
    pub random: u64,
    /// Where the code goes on that runs a softirq on the stack for interrupts at the end of a thread's own call, as seen once; 0: not yet.
    pub own_return: u64,
    /// Wake-ups by packets that the current thread sent, as both the program at the softirq's start and the stack say.
    pub senders_agreed: u64,
    /// Wake-ups by packets of which one of them says so and the other one does not.
    pub senders_contradicted: u64,
    /// Wake-ups by softirqs that receive no packets.
    pub other_softirq_wakes: u64,
    /// How often threads began to wait at unix sockets here.
    pub unix_waits: u64,
    /// How far from the start of a thread's kernel stack its user registers are, as a helper said once; 0: it was not asked yet.
    pub regs_from_stack: u64,
    /// 1: the table of files in the page cache had no room for another one. It never has again, since none is taken out.
    pub cache_is_full: u64,
}

/// What user space tells all CPUs of how softirqs are run: what some of them have seen, and is the same on each.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnSoftirq {
    /// See [`CpuState::own_return`]; 0: the program at the start of softirqs runs, and tells.
    pub goes_on_at: u64,
    /// See [`CpuState::regs_from_stack`].
    pub regs_from_stack: u64,
}

/// A contention that has begun.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spin {
    /// The lock's address.
    pub lock: u64,
    /// Since when.
    pub since_ts_ns: u64,
    /// The thread that was current.
    pub tid: u32,
    /// A [`crate::lock::Kind`].
    pub kind: u32,
}

const _: () = assert!(size_of::<CpuState>() == 64 * FAMILY_SLOTS + 160 + 24 + 24 * MAX_SPINS);
