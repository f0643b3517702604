//! Who had the CPU while a thread that was ready waited for it. Time is added by [`Thread::charge`] alone; here is only whose it was.
//!
//! The estimate: the wait is laid over what the CPU did on which the thread ran next. Where traced threads ran, that is exact, if
//! the thread waited on that CPU all the time. When a thread is pushed off its CPU, switches between others are recorded as well,
//! up to a number. Any other stretch without traced threads shows its first and its last thread only. It is
//! charged to the one that was there at both ends; where the wait began within it, to the last one, which made way; else to
//! others without a name: traced threads they were not.
//!
//! [`Thread::charge`]: super::thread::Thread::charge

use std::collections::VecDeque;

use tracer_common::sched::{Switch, switch_flags};

use super::Aggregate;
use super::classify::State;
use super::thread::{Party, Phase};

/// Stretches remembered of each CPU: what lies further back is not known.
const MAX_STRETCHES: usize = 256;
/// Threads itemised in front of one thread; the time behind further ones is in the sums only.
pub const MAX_BEHIND: usize = 16;

/// A thread that had less than one part of so many of the time gives way to another.
const MINOR_SHARE: u64 = 64;

/// A time in which a CPU had one traced thread, or none.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    start_ns: u64,
    end_ns: u64,
    /// The thread at its start, and at its end; 0: the idle task.
    first: u32,
    last: u32,
    traced: bool,
    /// Its records contradict each other.
    broken: bool,
}

/// Who a ready thread waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occupant {
    Idle,
    Traced(u32),
    Stranger(u32),
    /// Threads that are not traced, and not the idle task alone: the thread would have run.
    Strangers,
    Unknown,
}

/// What one CPU did of late.
#[derive(Debug, Default)]
pub struct Occupancy {
    past: VecDeque<Stretch>,
    /// Time, thread, and whether it is traced.
    open: Option<(u64, u32, bool)>,
}

impl Occupancy {
    /// A thread leaves the CPU.
    pub fn close(&mut self, ts_ns: u64, tid: u32, traced: bool) {
        let Some((start_ns, first, was_traced)) = self.open.take() else { return };
        let broken = traced != was_traced || (traced && first != tid);
        if self.past.len() >= MAX_STRETCHES {
            self.past.pop_front();
        }
        self.past.push_back(Stretch { start_ns, end_ns: ts_ns, first, last: tid, traced, broken });
    }

    /// A switch was not seen: whoever has the CPU left it now, at the latest when its stretch began. Of a traced thread that cannot be.
    pub fn close_unseen(&mut self, ts_ns: u64) -> u64 {
        let Some((start_ns, tid, traced)) = self.open else { return ts_ns };
        let ts_ns = ts_ns.max(start_ns);
        self.close(ts_ns, if traced { 0 } else { tid }, false);
        ts_ns
    }

    /// A thread gets the CPU.
    pub fn open(&mut self, ts_ns: u64, tid: u32, traced: bool) {
        self.open = Some((ts_ns, tid, traced));
    }

    /// Who had the CPU in this time, latest first, and for how long each.
    fn between(&self, since_ns: u64, until_ns: u64, mut tell: impl FnMut(Occupant, u64)) {
        for stretch in self.past.iter().rev() {
            if stretch.end_ns <= since_ns {
                break;
            }
            let (start_ns, end_ns) = (stretch.start_ns.max(since_ns), stretch.end_ns.min(until_ns));
            if start_ns >= end_ns {
                continue;
            }
            let occupant = match stretch {
                Stretch { broken: true, .. } => Occupant::Unknown,
                Stretch { traced: true, last, .. } => Occupant::Traced(*last),
                Stretch { first, last, start_ns, .. } if first != last && *start_ns >= since_ns => Occupant::Strangers,
                Stretch { last: 0, .. } => Occupant::Idle,
                Stretch { last, .. } => Occupant::Stranger(*last),
            };
            tell(occupant, end_ns - start_ns);
        }
    }
}

/// A thread that had the CPU while another waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// That thread; with serial 0 it is not traced.
    pub party: Party,
    /// It belongs to what is traced: with a whole host, to the same process.
    pub sibling: bool,
    /// How long.
    pub total_ns: u64,
}

/// All waits of one thread for a CPU.
#[derive(Debug, Default)]
pub struct Queue {
    /// How many.
    pub waits: u64,
    /// Times that the CPU was given to another thread meanwhile.
    pub passed_over: u64,
    /// The longest.
    pub max_ns: u64,
    /// Behind siblings.
    pub siblings_ns: u64,
    /// Behind others.
    pub others_ns: u64,
    /// Of these, behind whom is not known.
    pub unnamed_ns: u64,
    /// While its CPU was idle: the time that waking up takes, or it waited on another CPU.
    pub idle_ns: u64,
    /// Behind nobody knows whom.
    pub unknown_ns: u64,
    /// Behind whom; at most [`MAX_BEHIND`].
    pub behind: Vec<Behind>,
}

impl Queue {
    fn add(&mut self, party: Party, sibling: bool, ns: u64) {
        if sibling {
            self.siblings_ns += ns;
        } else {
            self.others_ns += ns;
        }
        let same = |behind: &&mut Behind| behind.party.tid == party.tid && behind.party.serial == party.serial;
        let room = self.behind.len() < MAX_BEHIND;
        match self.behind.iter_mut().find(same) {
            Some(behind) => behind.total_ns += ns,
            None if room => self.behind.push(Behind { party, sibling, total_ns: ns }),
            // One that hardly counts makes room: who comes often comes to stay.
            None => {
                let least = self.behind.iter_mut().min_by_key(|behind| behind.total_ns);
                let all_ns = self.siblings_ns + self.others_ns;
                if let Some(least) = least.filter(|least| least.total_ns < ns.max(all_ns / MINOR_SHARE)) {
                    *least = Behind { party, sibling, total_ns: ns };
                }
            }
        }
    }
}

/// For how long a quota held back the thread that runs now, where the kernel measured it.
fn throttled_ns(switch: &Switch) -> Option<u64> {
    let unit_ns = if switch.flags & switch_flags::WAKE_DELTA_US != 0 { 1000 } else { 1 };
    (switch.flags & switch_flags::THROTTLE_MEASURED != 0).then(|| u64::from(switch.wake_delta_ns) * unit_ns)
}

impl Aggregate {
    /// Ends a wait for the CPU that the thread runs on now.
    pub(super) fn end_queue(&mut self, index: u32, cpu: u16, ts_ns: u64) {
        let Some(thread) = self.threads.get_mut(index) else { return };
        let since_ns = thread.clipped_start_ns(&self.span).max(thread.since_ns);
        let mut left_ns = thread.charge(State::Runnable, ts_ns, &self.span);
        let tgid = thread.tgid;
        let Some(queue) = thread.detailed.as_mut().map(|detailed| &mut detailed.queue) else { return };
        if left_ns == 0 {
            return;
        }
        let mut queue = std::mem::take(queue);
        queue.waits += 1;
        queue.max_ns = queue.max_ns.max(left_ns);
        let whole_host = self.target.as_ref().is_some_and(|target| target.all);
        if let Some(occupancy) = self.cpus.get(usize::from(cpu)).map(|cpu| &cpu.occupancy) {
            occupancy.between(since_ns, ts_ns, |occupant, ns| {
                // What lies in a gap was charged as unknown.
                let ns = ns.min(left_ns);
                left_ns -= ns;
                queue.passed_over += u64::from(occupant != Occupant::Idle);
                match occupant {
                    Occupant::Idle => queue.idle_ns += ns,
                    Occupant::Unknown => queue.unknown_ns += ns,
                    Occupant::Strangers => {
                        queue.others_ns += ns;
                        queue.unnamed_ns += ns;
                    }
                    Occupant::Stranger(tid) => queue.add(Party { tid, ..Party::default() }, false, ns),
                    Occupant::Traced(tid) => {
                        let (party, _) = self.waker(tid, ts_ns);
                        queue.add(self.processes.introduce(party), !whole_host || party.tgid == tgid, ns);
                    }
                }
            });
        }
        queue.unknown_ns += left_ns;
        if let Some(detailed) = self.threads.get_mut(index).and_then(|thread| thread.detailed.as_mut()) {
            detailed.queue = queue;
        }
    }

    /// Ends a time in which a CPU quota held the thread back. Newer kernels measure it, where the thread stays on its CPU. Else it is
    /// taken to have ended for all threads of its process on that CPU when the first of them ran again. What follows is a wait for
    /// the CPU.
    pub(super) fn end_throttle(&mut self, index: u32, from: u16, switch: &Switch) {
        let ts_ns = switch.header.ts_ns;
        let Some(thread) = self.threads.get(index) else { return };
        let (tgid, since_ns) = (thread.tgid, thread.since_ns);
        let refilled = &mut self.cpu_mut(from).refilled;
        if refilled.0 != tgid || refilled.1 <= since_ns {
            *refilled = (tgid, ts_ns);
        }
        let measured = (from == switch.header.cpu).then(|| throttled_ns(switch)).flatten();
        let until_ns = measured.map_or(refilled.1, |ns| since_ns.saturating_add(ns)).min(ts_ns);
        if let Some(thread) = self.threads.get_mut(index) {
            let measured_ns = thread.charge(State::Throttled, until_ns, &self.span);
            thread.note_throttle(measured_ns);
        }
        if until_ns < ts_ns {
            self.end_queue(index, switch.header.cpu, ts_ns);
        }
    }

    /// Tells the CPU's record of who left it.
    pub(super) fn leaves_cpu(&mut self, switch: &Switch, traced: bool) {
        self.cpu_mut(switch.header.cpu).occupancy.close(switch.header.ts_ns, switch.prev_tid, traced);
    }

    /// Begins the time of a thread that left its CPU ready to run.
    pub(super) fn ready_phase(switch: &Switch, throttled: bool) -> Phase {
        if throttled { Phase::Throttled(switch.header.cpu) } else { Phase::Runnable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(occupancy: &Occupancy, since_ns: u64, until_ns: u64) -> Vec<(Occupant, u64)> {
        let mut told = Vec::new();
        occupancy.between(since_ns, until_ns, |occupant, ns| told.push((occupant, ns)));
        told
    }

    #[test]
    fn a_stretch_without_traced_threads_is_known_by_its_ends() {
        let mut cpu = Occupancy::default();
        for (ts_ns, prev, next) in [(100, 10, 7), (200, 7, 10), (300, 10, 7), (400, 8, 10), (500, 10, 0), (600, 0, 10)]
        {
            cpu.close(ts_ns, prev, prev == 10);
            cpu.open(ts_ns, next, next == 10);
        }
        assert_eq!(told(&cpu, 100, 200), [(Occupant::Stranger(7), 100)], "the same at both ends");
        assert_eq!(told(&cpu, 300, 400), [(Occupant::Strangers, 100)], "7 at the start, 8 at the end");
        assert_eq!(told(&cpu, 350, 400), [(Occupant::Stranger(8), 50)], "the wait began within: 8 made way");
        assert_eq!(told(&cpu, 250, 400), [(Occupant::Strangers, 100), (Occupant::Traced(10), 50)]);
        assert_eq!(told(&cpu, 550, 600), [(Occupant::Idle, 50)]);
    }

    #[test]
    fn a_lost_switch_makes_a_stretch_unknown_and_old_ones_are_forgotten() {
        let mut cpu = Occupancy::default();
        cpu.open(0, 10, true);
        cpu.close(50, 11, true);
        assert_eq!(told(&cpu, 0, 50), [(Occupant::Unknown, 50)]);
        for round in 0..1000 {
            cpu.open(100 + round, 10, true);
            cpu.close(101 + round, 10, true);
        }
        assert_eq!(told(&cpu, 0, 2000).len(), MAX_STRETCHES);
    }
}
