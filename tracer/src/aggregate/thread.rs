//! One thread: the interval it is in, and what its intervals summed up to. [`Thread::charge`] is the only place that adds time,
//! and it moves the interval's start with it: so the states of a thread sum to its wall time, to the nanosecond, whatever
//! records come.

use tracer_common::futex::LockKind;
use tracer_common::sched::QueueFacts;

use super::classify::{Detail, Reason, STATES, State};
use super::critical_path::trail::{Ending, Interval, Trail, Wait};
use super::gaps::Gaps;
use super::names::NameId;
use super::queue::Queue;
use super::waits::Waits;

/// The window so far.
pub struct Span {
    /// Where it starts; `u64::MAX` until that is known, so that nothing before counts.
    pub start_ns: u64,
    /// The latest time seen in it.
    pub now_ns: u64,
    /// Times in which records were lost.
    pub gaps: Gaps,
}

impl Span {
    /// Whether the window has started.
    pub fn is_open(&self) -> bool {
        self.start_ns != u64::MAX
    }
}

/// What a thread is doing, as far as its last event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// On the CPU with this number.
    OnCpu(u16),
    /// Ready, without a CPU.
    Runnable,
    /// Ready, but held back by a CPU quota since it left the CPU with this number.
    Throttled(u16),
    /// Asleep, for [`Thread::reason`].
    Waiting,
    /// Ready or on a CPU: the next event tells.
    ReadyOrOnCpu,
    /// An event was lost: nothing is known until the next one.
    Lost,
}

/// Why nothing is known of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blind {
    /// Records of it were lost.
    Lost,
    /// A switch is missing, and nothing counted it as lost.
    Unseen,
    /// It waited, and for what could not be read.
    Unread,
}

impl Blind {
    /// Every reason, in the order of its number.
    pub const ALL: [Blind; 3] = [Blind::Lost, Blind::Unseen, Blind::Unread];

    /// The key in reports.
    pub const fn id(self) -> &'static str {
        match self {
            Blind::Lost => "lost-records",
            Blind::Unseen => "unseen-switch",
            Blind::Unread => "unread-reason",
        }
    }
}

/// Time per state, and switches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Nanoseconds, indexed by [`State`].
    pub ns: [u64; STATES],
    /// Times it left a CPU.
    pub switches: u64,
    /// How many of them it was pushed off.
    pub preemptions: u64,
}

impl Sums {
    /// All states together.
    pub fn wall_ns(&self) -> u64 {
        self.ns.iter().fold(0, |sum, ns| sum.saturating_add(*ns))
    }

    /// Time in one state.
    pub fn of(&self, state: State) -> u64 {
        self.ns[state as usize]
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Sums) {
        for (sum, ns) in self.ns.iter_mut().zip(other.ns) {
            // Only damaged times get near the limit.
            *sum = sum.saturating_add(ns);
        }
        self.switches += other.switches;
        self.preemptions += other.preemptions;
    }
}

/// Another thread, as it was when this one met it. Outlives that thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Party {
    /// The thread.
    pub tid: u32,
    /// Its process; 0: not known.
    pub tgid: u32,
    /// Its id in its own pid namespace.
    pub ns_tid: u32,
    /// Which of the threads that had this tid; 0: one that is not traced.
    pub serial: u32,
    /// Its name then.
    pub name: NameId,
    /// Its process's name then.
    pub process: NameId,
}

/// The owner of the lock that a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Not known.
    None,
    /// Verified when the wait began.
    Seen(Party, LockKind),
    /// The memory named this thread id of the waiter's pid namespace, but the list of threads was not complete yet.
    Named(u32, LockKind),
    /// Not known: it is the lock of a malloc arena.
    HeapArena,
    /// The thread that waits for it holds it.
    Itself(LockKind),
    /// The memory named this thread id of the waiter's pid namespace, but no thread of the process has it: one that has ended, or the
    /// memory is no lock's.
    Unknown(u32, LockKind),
}

/// How a thread got into the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Its creation was seen.
    Created,
    /// It existed before; CLOCK_BOOTTIME of its start.
    Seeded(u64),
    /// A record mentioned it.
    Mentioned,
}

/// How often a thread gave up its CPU of itself while it was ready, and its time on a CPU between: a thread that only looks whether
/// what it waits for is there runs for microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Yields {
    /// How often.
    pub count: u64,
    /// Time on a CPU that ended so and was no longer than [`Yields::LOOK_NS`].
    pub ns: u64,
}

impl Yields {
    /// Who runs longer before it yields does more than to look.
    pub const LOOK_NS: u64 = 200_000;

    /// Adds a time on a CPU that ended so.
    pub fn add(&mut self, ns: u64) {
        self.count += 1;
        if ns <= Self::LOOK_NS {
            self.ns += ns;
        }
    }
}

/// What is kept only of threads followed in detail.
#[derive(Debug, Default)]
pub struct Detailed {
    /// Names it had before, oldest first.
    pub names_before: Vec<NameId>,
    /// Its waits.
    pub waits: Waits,
    /// Time in the state `other`, by what tells it further.
    pub other: Vec<(Detail, i16, u64)>,
    /// Its waits for a CPU.
    pub queue: Queue,
    /// Its syncs of files.
    pub syncs: Syncs,
}

/// Syncs of files that a thread made, where their file systems tell when they begin and end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Syncs {
    /// How many.
    pub count: u64,
    /// How long they took.
    pub took: Taken,
    /// The one that it is in: what the thread had taken by when it began.
    began: Option<Taken>,
}

/// A thread's time: all of it, on a CPU, ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// All.
    pub wall_ns: u64,
    /// On a CPU.
    pub on_cpu_ns: u64,
    /// Ready, without one.
    pub ready_ns: u64,
}

impl Syncs {
    /// One begins.
    pub fn begin(&mut self, now: Taken) {
        self.began = Some(now);
    }

    /// It ends.
    pub fn end(&mut self, now: Taken) {
        let Some(began) = self.began.take() else { return };
        self.count += 1;
        let took = &mut self.took;
        took.wall_ns = took.wall_ns.saturating_add(now.wall_ns.saturating_sub(began.wall_ns));
        took.on_cpu_ns = took.on_cpu_ns.saturating_add(now.on_cpu_ns.saturating_sub(began.on_cpu_ns));
        took.ready_ns = took.ready_ns.saturating_add(now.ready_ns.saturating_sub(began.ready_ns));
    }
}

/// See the file's head.
#[derive(Debug)]
pub struct Thread {
    /// The thread.
    pub tid: u32,
    /// Its process; 0: not known.
    pub tgid: u32,
    /// Its id in its own pid namespace; 0: not known.
    pub ns_tid: u32,
    /// Unique in a run, from 1.
    pub serial: u32,
    /// Number of its address space; see `processes`.
    pub space: u32,
    /// Its name.
    pub name: NameId,
    /// Path of its cgroup.
    pub cgroup: NameId,
    /// Container id.
    pub container: NameId,
    /// How it got into the table.
    pub origin: Origin,
    /// What it is doing.
    pub phase: Phase,
    /// Since when.
    pub since_ns: u64,
    /// From when on it counts, before clipping to the window.
    pub start_ns: u64,
    /// When its end was announced.
    pub exiting_ns: Option<u64>,
    /// Then: what it was on a CPU by its switches, less what the scheduler's account of it says, where both are of its whole life.
    pub taken_ns: Option<u64>,
    /// While it waits: for what.
    pub reason: Reason,
    /// While it waits: inode number or address; 0: none.
    pub object: u64,
    /// While it waits: where in its code; 0: not known. See `stacks`.
    pub place: u32,
    /// Reason and object of its last wait in a system call, for calls that resume after a signal.
    pub resumable: Option<(Reason, u64)>,
    /// While a wait is being ended: by what.
    pub ending: Ending,
    /// And whether it is one more join: see `Wait::joins_on`.
    pub joins_on: bool,
    /// Of its last joins, which followed each other: start of the first wait, end of the last.
    joins: Option<(u64, u64)>,
    /// What it did lately.
    pub trail: Trail,
    /// Serial number of the thread that created it; 0: not known.
    pub creator: u32,
    /// While it waits: its slot in [`Detailed::waits`].
    pub slot: Option<u32>,
    /// While it waits for a lock.
    pub holder: Holder,
    /// A request of its own, which it waits for, is done: for which file, and when it was made.
    pub asked: Option<(u64, u64)>,
    /// The wait that comes next is a pause.
    pub pausing: Option<super::block::Pausing>,
    /// Its priority and the CPUs that it may run on, when it was last pushed off one.
    pub facts: QueueFacts,
    /// How often a CPU quota held it back, and the longest time.
    pub throttles: (u64, u64),
    /// Its calls of sched_yield.
    pub yields: Yields,
    /// Time so far.
    pub sums: Sums,
    /// The rest; none for threads over the bound.
    pub detailed: Option<Box<Detailed>>,
    /// Why time is unknown, indexed by [`Blind`]; sums to the time in [`State::Unknown`].
    pub blind_ns: [u64; Blind::ALL.len()],
    /// [`Gaps::total_ns`] at `since_ns`, and what of it was charged since.
    gap_mark_ns: u64,
}

/// Between two joins that follow each other passes no more time than this.
const BETWEEN_JOINS_NS: u64 = 2_000_000;

/// Between two ticks of a kernel with 100 of them a second, the fewest that are built.
const LONGEST_TICK_NS: u64 = 10_000_000;

/// Earlier names kept of one thread.
const MAX_NAMES_BEFORE: usize = 8;

impl Thread {
    /// A thread that counts from `start_ns` on.
    pub fn new(tid: u32, serial: u32, start_ns: u64, origin: Origin, gap_mark_ns: u64) -> Self {
        Thread {
            tid,
            tgid: 0,
            ns_tid: 0,
            serial,
            space: 0,
            name: NameId::NONE,
            cgroup: NameId::NONE,
            container: NameId::NONE,
            origin,
            phase: Phase::Lost,
            since_ns: start_ns,
            start_ns,
            exiting_ns: None,
            taken_ns: None,
            reason: Reason::UNKNOWN,
            object: 0,
            place: 0,
            resumable: None,
            ending: Ending::Open,
            joins_on: false,
            joins: None,
            trail: Trail::default(),
            creator: 0,
            slot: None,
            holder: Holder::None,
            asked: None,
            pausing: None,
            facts: QueueFacts::default(),
            throttles: (0, 0),
            yields: Yields::default(),
            sums: Sums::default(),
            detailed: None,
            blind_ns: Default::default(),
            gap_mark_ns,
        }
    }

    /// Its end is announced: it is on a CPU, and the scheduler says for how long it was by its own clock, which stands still while the
    /// hypervisor or an interrupt has the CPU. That account is renewed at each tick, so what may be missing of it is left out.
    pub fn note_end(&mut self, ts_ns: u64, sum_exec_runtime_ns: u64, span: &Span) {
        self.exiting_ns = Some(ts_ns);
        let is_whole = self.origin == Origin::Created && self.start_ns >= span.start_ns;
        let is_known = sum_exec_runtime_ns > 0 && matches!(self.phase, Phase::OnCpu(_));
        if is_whole && is_known && self.sums.of(State::Unknown) == 0 {
            let last_ns = ts_ns.saturating_sub(self.since_ns);
            let on_cpu_ns = self.sums.of(State::OnCpu).saturating_add(last_ns);
            let missing_ns = last_ns.min(LONGEST_TICK_NS);
            self.taken_ns = Some(on_cpu_ns.saturating_sub(sum_exec_runtime_ns).saturating_sub(missing_ns));
        }
    }

    /// Before the wait is charged that ends at `until_ns`: with `began_ns` it was for the end of a thread or process that exists since
    /// then. One that came only after the first wait of the row is not what that was for.
    pub fn note_join(&mut self, began_ns: Option<u64>, until_ns: u64) {
        let follows = |(_, last_ns): &(u64, u64)| self.since_ns.saturating_sub(*last_ns) <= BETWEEN_JOINS_NS;
        let row = self.joins.take().filter(follows).filter(|(first_ns, _)| began_ns.is_some_and(|ns| ns <= *first_ns));
        self.joins_on = row.is_some();
        if began_ns.is_some() {
            self.joins = Some((row.map_or(self.since_ns, |(first_ns, _)| first_ns), until_ns));
        }
    }

    /// Ends the current interval, or a first part of it, at `until_ns`: adds it to a state, and what overlaps a gap to
    /// `unknown`. Returns the time that went to the state.
    pub fn charge(&mut self, state: State, until_ns: u64, span: &Span) -> u64 {
        let until_ns = until_ns.max(self.since_ns);
        let length_ns = until_ns.saturating_sub(self.since_ns.max(span.start_ns));
        let hidden_ns = span.gaps.total_ns().saturating_sub(self.gap_mark_ns).min(length_ns);
        let measured_ns = length_ns - hidden_ns;
        self.sums.ns[State::Unknown as usize] += hidden_ns;
        self.sums.ns[state as usize] += measured_ns;
        self.blind_ns[Blind::Lost as usize] += hidden_ns;
        if state == State::Unknown {
            let told = self.phase == Phase::Waiting && self.reason.state == State::Unknown;
            self.blind_ns[if told { Blind::Unread } else { Blind::Unseen } as usize] += measured_ns;
        }
        if length_ns > 0 {
            self.leave_trail(state, until_ns - length_ns, hidden_ns, until_ns);
        }
        self.since_ns = until_ns;
        self.gap_mark_ns += hidden_ns;
        if state == State::Other
            && let Some(detailed) = &mut self.detailed
        {
            detailed.add_other(self.reason, measured_ns);
        }
        measured_ns
    }

    /// Its time by then, as far as is known.
    pub fn taken(&self, ts_ns: u64) -> Taken {
        let now_ns = matches!(self.phase, Phase::OnCpu(_)).then(|| ts_ns.saturating_sub(self.since_ns)).unwrap_or(0);
        Taken {
            wall_ns: self.sums.wall_ns().saturating_add(now_ns),
            on_cpu_ns: self.sums.of(State::OnCpu).saturating_add(now_ns),
            ready_ns: self.sums.of(State::Runnable).saturating_add(self.sums.of(State::Throttled)),
        }
    }

    /// Where in an interval its unknown part lies is not known: it is put first.
    fn leave_trail(&mut self, state: State, start_ns: u64, hidden_ns: u64, end_ns: u64) {
        let seen_ns = start_ns + hidden_ns;
        self.trail.push(Interval { start_ns, end_ns: seen_ns, state: State::Unknown, wait: None });
        let waits = self.phase == Phase::Waiting && state == self.reason.state;
        let wait = waits.then_some(Wait {
            reason: self.reason,
            object: self.object,
            place: self.place,
            ending: self.ending,
            is_retry: false,
            joins_on: self.joins_on,
        });
        self.trail.push(Interval { start_ns: seen_ns, end_ns, state, wait });
    }

    /// Forgets everything up to `ts_ns`, when it is on a CPU.
    pub fn begin_anew(&mut self, ts_ns: u64, span: &Span) {
        self.since_ns = self.since_ns.max(ts_ns);
        self.start_ns = self.since_ns;
        self.sums = Sums::default();
        self.blind_ns = Default::default();
        self.trail.clear();
        self.throttles = (0, 0);
        self.yields = Yields::default();
        if let Some(detailed) = &mut self.detailed {
            **detailed = Detailed::default();
        }
        (self.name, self.resumable, self.slot, self.holder) = (NameId::NONE, None, None, Holder::None);
        let phase = if matches!(self.phase, Phase::OnCpu(_)) { self.phase } else { Phase::ReadyOrOnCpu };
        self.enter(phase, span);
    }

    /// Counts a time in which a quota held it back.
    pub fn note_throttle(&mut self, ns: u64) {
        if ns > 0 {
            self.throttles = (self.throttles.0 + 1, self.throttles.1.max(ns));
        }
    }

    /// Begins an interval where the last one was charged to.
    pub fn enter(&mut self, phase: Phase, span: &Span) {
        self.phase = phase;
        self.gap_mark_ns = span.gaps.total_ns();
    }

    /// Makes gaps from the window's start on count for the interval that has just begun.
    pub fn backdate(&mut self) {
        self.gap_mark_ns = 0;
    }

    /// Takes a new name.
    pub fn rename(&mut self, name: NameId) {
        if name == NameId::NONE || name == self.name {
            return;
        }
        if let (Some(detailed), true) = (&mut self.detailed, self.name != NameId::NONE) {
            if detailed.names_before.len() >= MAX_NAMES_BEFORE {
                detailed.names_before.remove(0);
            }
            detailed.names_before.push(self.name);
        }
        self.name = name;
    }

    /// Where its wall time starts, within the window.
    pub fn clipped_start_ns(&self, span: &Span) -> u64 {
        self.start_ns.max(span.start_ns)
    }
}

impl Detailed {
    fn add_other(&mut self, reason: Reason, ns: u64) {
        // Only one's own name tells waits in calls from each other; the rest has one name for all calls.
        let syscall = if reason.detail == Detail::Call { reason.syscall } else { -1 };
        let same = |entry: &&mut (Detail, i16, u64)| entry.0 == reason.detail && entry.1 == syscall;
        match self.other.iter_mut().find(same) {
            Some(entry) => entry.2 += ns,
            // Distinct calls are few hundred at most.
            None => self.other.push((reason.detail, syscall, ns)),
        }
    }
}
