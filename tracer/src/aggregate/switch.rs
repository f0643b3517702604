//! Context switches: ends the interval of each thread that they mention and begins the next one. What contradicts an earlier
//! record makes the interval between the two unknown, never negative and never double.

use tracer_common::futex::{LockKind, Observed, owner};
use tracer_common::net::tcp_state;
use tracer_common::sched::{FdKind, QueueFacts, Switch, WakeContext, switch_flags};

use super::Aggregate;
use super::classify::{Departure, Detail, Reason, State, wake_ns};
use super::closing::Ran;
use super::critical_path::trail::{Ending, Waker};
use super::lock_kinds::is_heap_arena;
use super::locks::Added;
use super::open_waits::OpenWait;
use super::thread::{Holder, Origin, Party, Phase};
use super::waits::{MAX_PLACES, NO_LOCK, Wake, tally_place};

/// Whom a lock's memory names.
enum Found {
    /// The thread that waits.
    Itself,
    /// Another thread of its process.
    Other(Party),
}

impl Aggregate {
    pub(super) fn switch(&mut self, switch: &Switch, seen: Option<Observed>) {
        let has = |flag| switch.flags & flag != 0;
        let (ts_ns, cpu) = (switch.header.ts_ns, switch.header.cpu);
        self.expel(cpu, switch.prev_tid, ts_ns);
        let prev_traced = has(switch_flags::PREV_TRACKED) && switch.prev_tid != 0;
        self.leaves_cpu(switch, prev_traced);
        if prev_traced {
            self.leave(switch, seen);
        }
        let next_traced = has(switch_flags::NEXT_TRACKED) && switch.next_tid != 0;
        if next_traced {
            self.arrive(switch);
        }
        let cpu = self.cpu_mut(cpu);
        cpu.occupancy.open(ts_ns, switch.next_tid, next_traced);
        cpu.running = if next_traced { switch.next_tid } else { 0 };
    }

    /// A thread that leaves its CPU now had got it in a switch that was not seen. What it says of the time since comes from the
    /// scheduler's account, which counts no interrupts: the thread may have got the CPU somewhat earlier.
    pub(super) fn arrived(&mut self, arrival: &Switch) {
        let (cpu, tid) = (arrival.header.cpu, arrival.next_tid);
        let known = self.threads.find(tid).and_then(|index| self.threads.get(index));
        let Some(since_ns) = known.map(|thread| thread.since_ns) else { return };
        let mut arrival = *arrival;
        let at_ns = arrival.header.ts_ns.saturating_sub(arrival.object);
        let at_ns = self.cpu_mut(cpu).occupancy.close_unseen(at_ns.max(since_ns)).min(arrival.header.ts_ns);
        arrival.header.ts_ns = at_ns;
        self.expel(cpu, tid, at_ns);
        self.arrive(&arrival);
        let cpu = self.cpu_mut(cpu);
        cpu.occupancy.open(at_ns, tid, true);
        cpu.running = tid;
    }

    /// What a thread waited for in epoll is known when it ends: the socket that has something for it.
    pub(super) fn polled(&mut self, polled: &Switch) {
        let Some(thread) = self.threads.find(polled.prev_tid).and_then(|index| self.threads.get_mut(index)) else {
            return;
        };
        let is_socket = FdKind::from_number(polled.fd_kind) == FdKind::SocketInet && polled.object != 0;
        if !is_socket || thread.phase != Phase::Waiting || thread.reason.state != State::Poll {
            return;
        }
        (thread.reason.state, thread.object) = (State::SocketInet, polled.object);
        let (reason, object) = (thread.reason, thread.object);
        thread.slot = thread.detailed.as_mut().map(|detailed| detailed.waits.slot(reason, object));
        if polled.prev_state == u32::from(tcp_state::LISTEN) {
            self.network.listens(object);
        }
    }

    /// If another thread than `prev_tid` was believed on the CPU, its switch was lost.
    fn expel(&mut self, cpu: u16, prev_tid: u32, ts_ns: u64) {
        let believed = self.cpu_mut(cpu).running;
        if believed == 0 || believed == prev_tid {
            return;
        }
        let Some(index) = self.threads.find(believed) else { return };
        let Some(thread) = self.threads.get_mut(index) else { return };
        if thread.phase != Phase::OnCpu(cpu) {
            return;
        }
        if let Some(exiting_ns) = thread.exiting_ns {
            // Its last switch was lost: it ends where it said so.
            let ran_ns = thread.charge(State::OnCpu, exiting_ns.min(ts_ns), &self.span);
            self.memory.ran(thread.tgid, cpu, ran_ns);
            let end_ns = thread.since_ns;
            self.retire(index, Some(end_ns));
            return;
        }
        thread.charge(State::Unknown, ts_ns, &self.span);
        thread.enter(Phase::Lost, &self.span);
    }

    /// A thread that no earlier record told of: it counts from here on.
    fn join(&mut self, tid: u32, ts_ns: u64, phase: Phase) -> Option<u32> {
        let index = self.threads.add(tid, ts_ns, Origin::Mentioned, self.span.gaps.total_ns())?;
        let thread = self.threads.get_mut(index)?;
        thread.phase = phase;
        Some(index)
    }

    fn leave(&mut self, switch: &Switch, seen: Option<Observed>) {
        let (ts_ns, on_cpu) = (switch.header.ts_ns, Phase::OnCpu(switch.header.cpu));
        let known = self.threads.find(switch.prev_tid);
        let Some(index) = known.or_else(|| self.join(switch.prev_tid, ts_ns, on_cpu)) else { return };
        let Some(thread) = self.threads.get_mut(index) else { return };
        let was = match thread.phase {
            Phase::ReadyOrOnCpu => State::OnCpu,
            phase if phase == on_cpu => State::OnCpu,
            _ => State::Unknown,
        };
        let ran_ns = thread.charge(was, ts_ns, &self.span);
        if was == State::OnCpu {
            self.memory.ran(thread.tgid, switch.header.cpu, ran_ns);
        }
        if was == State::OnCpu && ts_ns > self.span.start_ns && self.calls.is_yield(switch) {
            thread.yields.add(ran_ns);
        }
        if thread.trail.is_full() {
            self.history.keep(thread.serial, &mut thread.trail);
        }
        if ts_ns > self.span.start_ns {
            thread.sums.switches += 1;
        }
        let mut switch = *switch;
        if self.calls.knows(&switch) {
            let closes = self.calls.closes(switch.syscall);
            self.closing.see(thread.tgid, &mut switch, closes, Ran { switches: thread.sums.switches, ns: ran_ns });
        }
        let departure = self.calls.departure(&switch);
        if ts_ns > self.span.start_ns {
            // As the kernel counts its involuntary switches: user code that is pushed off on its way back from an interrupt
            // comes without the flag.
            thread.sums.preemptions += u64::from(matches!(departure, Departure::Runnable));
        }
        match departure {
            Departure::Runnable => {
                let throttled = switch.flags & switch_flags::THROTTLED != 0;
                thread.enter(Self::ready_phase(&switch, throttled), &self.span);
                if switch.flags & switch_flags::QUEUE_FACTS != 0 {
                    thread.facts = QueueFacts::unpack(switch.object);
                    self.tells_throttling = true;
                }
            }
            Departure::Dead => self.retire(index, Some(ts_ns)),
            Departure::Waits(reason) => self.begin_wait(index, reason, switch.object, seen, false),
            Departure::Resumes => {
                let anew = Reason { state: State::Other, detail: Detail::Call, syscall: switch.syscall };
                let (reason, object) = thread.resumable.unwrap_or((anew, 0));
                self.begin_wait(index, reason, object, None, false);
            }
        }
        if let Some(thread) = self.threads.get_mut(index)
            && thread.phase == Phase::Waiting
        {
            let [low, middle, high] = switch.place;
            thread.place = u32::from_le_bytes([low, middle, high, 0]);
        }
    }

    /// Begins a wait where the thread's last interval ended. With `patient`, an owner that is not in the table yet is looked
    /// for again when the wait ends.
    pub(super) fn begin_wait(
        &mut self,
        index: u32,
        reason: Reason,
        object: u64,
        seen: Option<Observed>,
        patient: bool,
    ) {
        let named = if reason.state == State::Futex { seen.and_then(owner) } else { None };
        let holder = match named {
            None if seen.is_some_and(|seen| is_heap_arena(object, seen)) => Holder::HeapArena,
            None => Holder::None,
            Some((ns_tid, kind)) => match self.holder(index, ns_tid) {
                Some(Found::Other(party)) => Holder::Seen(party, kind),
                Some(Found::Itself) => Holder::Itself(kind),
                None if patient => Holder::Named(ns_tid, kind),
                None => Holder::Unknown(ns_tid, kind),
            },
        };
        let Some(thread) = self.threads.get_mut(index) else { return };
        thread.enter(Phase::Waiting, &self.span);
        // How the last wait ended may have been lost.
        thread.asked = None;
        // The object that a call is about is not what a thread waits for in front of a kernel lock.
        let object = if matches!(reason.state, State::KernelLock | State::Memory) { 0 } else { object };
        (thread.reason, thread.object, thread.holder, thread.place) = (reason, object, holder, 0);
        if reason.syscall >= 0 && !matches!(reason.state, State::KernelLock | State::Memory) {
            thread.resumable = Some((reason, object));
        }
        thread.slot = thread.detailed.as_mut().map(|detailed| detailed.waits.slot(reason, object));
    }

    /// The thread that a lock's memory names, if it lives in the process of the waiter.
    fn holder(&self, waiter: u32, ns_tid: u32) -> Option<Found> {
        let thread = self.threads.get(waiter)?;
        if thread.tgid == 0 {
            return None;
        }
        let index = self.threads.find_in_process(thread.tgid, ns_tid)?;
        if index == waiter { Some(Found::Itself) } else { self.threads.party(index).map(Found::Other) }
    }

    /// Ends a wait, or with `end` none counts it as still open at the end of the window.
    pub(super) fn end_wait(&mut self, index: u32, until_ns: u64, end: Option<Wake>) {
        let Some(thread) = self.threads.get_mut(index) else { return };
        thread.ending = end.map_or(Ending::Open, |wake| Ending::Woken(wake.context, waker_of(wake)));
        // Of other processes' ends only waiting for a child is for the end itself.
        let joins = end.filter(|wake| wake.exiting || thread.reason.state == State::Child);
        thread.note_join(joins.and_then(|wake| wake.began_ns), until_ns);
        let began_ns = thread.since_ns;
        let measured_ns = thread.charge(thread.reason.state, until_ns, &self.span);
        let until_ns = thread.since_ns;
        if until_ns <= self.span.start_ns {
            return;
        }
        let (place, reason) = (thread.place, thread.reason);
        if let Some(pausing) = thread.pausing.take() {
            let whose = (thread.tgid, thread.tid);
            self.has_paused(whose, pausing, measured_ns);
        }
        let Some(thread) = self.threads.get_mut(index) else { return };
        self.stacks.waited(thread.tgid, thread.tid, place, reason, measured_ns);
        if let Detail::Lock(kind) = reason.detail {
            self.slept_for_kernel_lock(index, kind, (measured_ns, place), end);
        }
        let Some(thread) = self.threads.get_mut(index) else { return };
        let reads = match thread.reason.state {
            State::File => self.calls.reads(thread.reason.syscall),
            state => state == State::Fault,
        };
        if reads && thread.object != 0 && end.is_some() {
            self.blocks.waited(thread.object, measured_ns, &self.paths);
        }
        let Some(thread) = self.threads.get_mut(index) else { return };
        let Some(slot) = thread.slot else { return };
        let (named, object, state) = (thread.holder, thread.object, thread.reason.state);
        let holder: Option<(Party, LockKind)> = match named {
            Holder::None | Holder::HeapArena | Holder::Itself(_) | Holder::Unknown(..) => None,
            Holder::Seen(party, kind) => Some((party, kind)),
            Holder::Named(ns_tid, kind) => match self.holder(index, ns_tid) {
                Some(Found::Other(party)) => Some((party, kind)),
                _ => None,
            },
        };
        let held = if end.is_none() { self.still_held(index, named) } else { None };
        let open = held.map(|(held, kind)| OpenWait { since_ns: began_ns, ns: measured_ns, place, held, kind });
        let lock = if state == State::Futex { self.lock_of(index, slot, object) } else { (NO_LOCK, NO_LOCK) };
        let detailed = self.threads.get_mut(index).and_then(|thread| thread.detailed.as_mut());
        if let Some(stat) = detailed.and_then(|detailed| detailed.waits.get_mut(slot)) {
            stat.add(measured_ns, holder, end, &self.processes);
            tally_place(&mut stat.places, place, measured_ns, MAX_PLACES);
        }
        if state == State::Futex {
            let heap_arena = named == Holder::HeapArena;
            let added = Added { ns: measured_ns, place, until_ns, holder, end, open, heap_arena };
            self.locks.add_wait(lock, added, &self.processes);
        }
    }

    /// The lock table's entries for a wait slot of a thread: looked up once, then remembered in the slot.
    fn lock_of(&mut self, index: u32, slot: u32, object: u64) -> (u32, u32) {
        let none = (NO_LOCK, NO_LOCK);
        let Some(thread) = self.threads.get_mut(index) else { return none };
        let Some(stat) = thread.detailed.as_mut().and_then(|detailed| detailed.waits.get_mut(slot)) else {
            return none;
        };
        if stat.lock != NO_LOCK {
            return (stat.lock, stat.waiter);
        }
        // A slot without the object is that of all futexes over the bound.
        if stat.object != object || object == 0 || thread.tgid == 0 {
            return none;
        }
        let (space, tgid) = (thread.space, thread.tgid);
        let Some(party) = self.threads.party(index) else { return none };
        let party = self.processes.introduce(party);
        let lock = self.locks.entry(space, tgid, object);
        let waiter = self.locks.add_waiter(lock, party);
        if let Some(process) = self.processes.get_mut(tgid)
            && lock != NO_LOCK
            && process.locks.last() != Some(&lock)
        {
            process.add_lock(lock);
        }
        let detailed = self.threads.get_mut(index).and_then(|thread| thread.detailed.as_mut());
        if let Some(stat) = detailed.and_then(|detailed| detailed.waits.get_mut(slot)) {
            (stat.lock, stat.waiter) = (lock, waiter);
        }
        (lock, waiter)
    }

    fn arrive(&mut self, switch: &Switch) {
        let (ts_ns, on_cpu) = (switch.header.ts_ns, Phase::OnCpu(switch.header.cpu));
        let Some(index) = self.threads.find(switch.next_tid) else {
            self.join(switch.next_tid, ts_ns, on_cpu);
            return;
        };
        let woken_ns = wake_ns(switch);
        let Some(thread) = self.threads.get_mut(index) else { return };
        match (thread.phase, woken_ns) {
            // It was seen to get a CPU and not to leave it.
            (Phase::OnCpu(_), _) | (Phase::Lost, None) => {
                thread.charge(State::Unknown, ts_ns, &self.span);
            }
            (Phase::Runnable, _) | (Phase::ReadyOrOnCpu, None) => self.end_queue(index, switch.header.cpu, ts_ns),
            (Phase::Throttled(from), _) => self.end_throttle(index, from, switch),
            // It slept meanwhile, for what nobody saw.
            (Phase::Lost | Phase::ReadyOrOnCpu, Some(woken_ns)) => {
                thread.charge(State::Unknown, woken_ns.min(ts_ns), &self.span);
                self.end_queue(index, switch.header.cpu, ts_ns);
            }
            (Phase::Waiting, woken_ns) => {
                if let Some((inode, asked_ns)) = thread.asked.take() {
                    self.blocks.answered(inode, ts_ns.saturating_sub(asked_ns), &self.paths);
                }
                let wake = self.wake(switch, index);
                self.end_wait(index, woken_ns.unwrap_or(ts_ns).min(ts_ns), Some(wake));
                self.end_queue(index, switch.header.cpu, ts_ns);
            }
        }
        if let Some(thread) = self.threads.get_mut(index) {
            thread.enter(on_cpu, &self.span);
        }
    }

    /// Who woke the thread that runs now.
    fn wake(&self, switch: &Switch, index: u32) -> Wake {
        let Some(woken_ns) = wake_ns(switch) else {
            return Wake { context: WakeContext::Unknown, by: None, exiting: false, began_ns: None };
        };
        let context = (switch.flags & switch_flags::WAKE_CONTEXT_MASK) >> switch_flags::WAKE_CONTEXT_SHIFT;
        match WakeContext::from_number(context as u8) {
            // The idle task wakes nobody by itself.
            WakeContext::Task if switch.waker_tid == 0 => {
                Wake { context: WakeContext::Unknown, by: None, exiting: false, began_ns: None }
            }
            WakeContext::Task => {
                let (by, ends) = self.waker(switch.waker_tid, woken_ns);
                let same_process = by.tgid != 0 && self.threads.get(index).is_some_and(|woken| woken.tgid == by.tgid);
                // A thread that has announced its end runs no code of its own any more: only joining waits for what it does.
                let began_ns = ends.filter(|(exiting_ns, _)| *exiting_ns <= woken_ns).map(|(_, began_ns)| began_ns);
                let exiting = same_process && began_ns.is_some();
                Wake { context: WakeContext::Task, by: Some(by), exiting, began_ns }
            }
            context => Wake { context, by: None, exiting: false, began_ns: None },
        }
    }

    /// The thread that had this id at `ts_ns`; and when its end was announced, and since when it existed.
    pub(super) fn waker(&self, tid: u32, ts_ns: u64) -> (Party, Option<(u64, u64)>) {
        let live = self.threads.find(tid);
        let thread = live.and_then(|index| self.threads.get(index));
        // The thread that has the id now may have come later.
        if thread.is_none_or(|thread| thread.start_ns > ts_ns)
            && let Some(ended) = self.departed.find(tid, ts_ns)
        {
            return (ended.party, ended.exiting_ns.map(|exiting_ns| (exiting_ns, ended.start_ns)));
        }
        let party = live.and_then(|index| self.threads.party(index));
        let ends = thread.and_then(|thread| Some((thread.exiting_ns?, thread.start_ns)));
        (party.unwrap_or(Party { tid, ..Party::default() }), ends)
    }
}

fn waker_of(wake: Wake) -> Waker {
    match wake.by {
        None => Waker::None,
        Some(party) if party.serial == 0 => Waker::Stranger(party.tid),
        Some(party) => Waker::Traced(party.serial),
    }
}
