//! One pass backwards in time over what all threads did, for two questions at once.
//!
//! **Criticality** (as in GAPP, ICPE 2020): time in which n threads are active (on a CPU, or ready for one) counts 1/n for each of
//! them. So the sum over all threads is the wall time in which at least one was active, and time alone counts most. A thread that
//! spins part of its time on a CPU is active for the rest only: see `weight`.
//!
//! **The wait-for graph** (as in wPerf, OSDI 2018): while A waits and B will end that, A's time counts for the edge from A to B; and
//! while B itself waits for C meanwhile, the same time counts for the edge from B to C once more. At any moment each thread waits for one
//! other at most, so the edges of that moment are trees, and an edge counts once for each thread that hangs on it: exact, without
//! following each wait by itself.
//!
//! Takes n log t for n intervals of t threads, and for each wait as many steps as threads wait for each other in a chain, at most
//! [`MAX_CHAIN`]. Memory: one block of each thread that lives at the moment, 24 bytes per interval.

use std::collections::BinaryHeap;

use tracer_common::sched::WakeContext;

use super::history::History;
use super::trail::{Ending, Interval, Wait, Waker};
use crate::aggregate::classify::State;
use crate::aggregate::hash::FastMap;

/// A thread that is all active.
pub const WHOLE: u32 = 1_024;

/// Longer chains of waits than this are damage; what is above is not told.
const MAX_CHAIN: usize = 1_024;

/// Group of what no thread does: devices.
pub const DEVICE: u32 = u32::MAX;

/// What came out.
#[derive(Debug, Default)]
pub struct Swept {
    /// Criticality of each thread, by serial number: nanoseconds.
    pub critical_ns: FastMap<u32, f64>,
    /// The same rate at each sample, by thread id and stack.
    pub at_samples: FastMap<(u32, u64), f64>,
    /// Time in which at least one thread was active.
    pub active_ns: u64,
    /// Time by edge of the graph, between groups of threads.
    pub edges: FastMap<(u32, u32), u128>,
}

/// What a thread does in one stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Active,
    /// It waits for this thread, or for a [`DEVICE`].
    WaitsFor(u32),
    Else,
}

#[derive(Clone, Copy)]
struct Stretch {
    start_ns: u64,
    does: Does,
}

/// One thread on the way back.
struct Thread {
    serial: u32,
    group: u32,
    weight: u32,
    blocks_before: usize,
    /// What is left of the block that was read last, oldest first.
    stretches: Vec<Stretch>,
    /// What ended the wait of which the one before is a part: see [`Wait::is_retry`].
    carried: Option<u32>,
    does: Does,
    /// Criticality's sum when it became active.
    mark: f64,
    critical_ns: f64,
    /// Threads that wait for it, and for those, at this moment.
    below: u64,
    /// Since when `below` counts for its own wait.
    since_ns: u64,
}

struct Sweep<'a> {
    history: &'a History,
    threads: Vec<Thread>,
    by_serial: FastMap<u32, usize>,
    scratch: Vec<Interval>,
    /// Sum of 1/n over time, in nanoseconds.
    sum: f64,
    /// Weights of the active threads.
    active: u64,
    at_ns: u64,
    from_ns: u64,
    out: Swept,
}

/// Sweeps over the history. `group` and `weight` tell a thread's by its serial number; `samples` are (time, thread id, stack), latest
/// last.
pub fn sweep(
    history: &History,
    group: impl Fn(u32) -> u32,
    weight: impl Fn(u32) -> u32,
    samples: &[(u64, u32, u64)],
) -> Swept {
    let mut serials: Vec<u32> = history.serials().collect();
    serials.sort_unstable();
    let mut heap: BinaryHeap<(u64, usize)> = BinaryHeap::with_capacity(serials.len());
    let (mut threads, mut by_serial) = (Vec::with_capacity(serials.len()), FastMap::default());
    for serial in serials {
        let Some((end_ns, blocks_before)) = history.last_block(serial) else { continue };
        by_serial.insert(serial, threads.len());
        heap.push((end_ns, threads.len()));
        threads.push(Thread {
            serial,
            group: group(serial),
            weight: weight(serial).min(WHOLE),
            blocks_before,
            stretches: Vec::new(),
            carried: None,
            does: Does::Else,
            mark: 0.0,
            critical_ns: 0.0,
            below: 0,
            since_ns: end_ns,
        });
    }
    let at_ns = heap.peek().map_or(0, |(end_ns, _)| *end_ns);
    let mut sweep = Sweep {
        history,
        threads,
        by_serial,
        scratch: Vec::new(),
        sum: 0.0,
        active: 0,
        at_ns,
        // What lies before is not complete.
        from_ns: history.complete_from_ns(),
        out: Swept::default(),
    };
    sweep.run(heap, samples);
    sweep.out
}

impl Sweep<'_> {
    fn run(&mut self, mut heap: BinaryHeap<(u64, usize)>, mut samples: &[(u64, u32, u64)]) {
        while let Some((at_ns, index)) = heap.pop() {
            while let Some(((sampled_ns, tid, stack), rest)) = samples.split_last()
                && *sampled_ns >= at_ns
            {
                if self.active > 0 && *sampled_ns < self.at_ns {
                    *self.out.at_samples.entry((*tid, *stack)).or_default() += f64::from(WHOLE) / self.active as f64;
                }
                samples = rest;
            }
            self.go_back_to(at_ns);
            if let Some(start_ns) = self.change(index) {
                heap.push((start_ns, index));
            }
        }
        for thread in &self.threads {
            if thread.critical_ns > 0.0 {
                *self.out.critical_ns.entry(thread.serial).or_default() += thread.critical_ns;
            }
        }
    }

    fn go_back_to(&mut self, at_ns: u64) {
        let passed_ns = self.at_ns.saturating_sub(at_ns);
        if self.active > 0 {
            self.sum += passed_ns as f64 * f64::from(WHOLE) / self.active as f64;
            self.out.active_ns += passed_ns;
        }
        self.at_ns = self.at_ns.min(at_ns);
    }

    /// Ends what the thread did after this moment and begins what it did before it; returns where that starts.
    fn change(&mut self, index: usize) -> Option<u64> {
        let next = self.before(index);
        let does = match next.map_or(Does::Else, |stretch| stretch.does) {
            // A thread that tried again meanwhile counts as waiting and yet woke another: no circle may come of that.
            Does::WaitsFor(waker) if self.leads_to(waker, index) => Does::Else,
            does => does,
        };
        let thread = self.threads.get_mut(index)?;
        let did = std::mem::replace(&mut thread.does, does);
        if did == Does::Active {
            thread.critical_ns += (self.sum - thread.mark) * f64::from(thread.weight) / f64::from(WHOLE);
            self.active -= u64::from(thread.weight);
        }
        if does == Does::Active {
            thread.mark = self.sum;
            self.active += u64::from(thread.weight);
        }
        if let Does::WaitsFor(waker) = did {
            self.settle(index, waker);
            self.hang(index, waker, false);
        }
        if let Does::WaitsFor(waker) = does {
            if let Some(thread) = self.threads.get_mut(index) {
                thread.since_ns = self.at_ns;
            }
            self.hang(index, waker, true);
        }
        next.map(|stretch| stretch.start_ns)
    }

    /// Whether this thread waits, through others, for that one. So long chains that this cannot be told count as if.
    fn leads_to(&self, serial: u32, index: usize) -> bool {
        let mut at = serial;
        for _ in 0..MAX_CHAIN {
            let Some(above) = self.by_serial.get(&at) else { return false };
            if *above == index {
                return true;
            }
            match self.threads.get(*above).map(|thread| thread.does) {
                Some(Does::WaitsFor(next)) => at = next,
                _ => return false,
            }
        }
        true
    }

    /// Counts the time that the thread's wait has had its present number of threads below.
    fn settle(&mut self, index: usize, waker: u32) {
        let to = self.by_serial.get(&waker).and_then(|index| self.threads.get(*index)).map(|thread| thread.group);
        let to = if waker == DEVICE { Some(DEVICE) } else { to };
        let Some(thread) = self.threads.get_mut(index) else { return };
        let ns = thread.since_ns.saturating_sub(self.at_ns);
        thread.since_ns = self.at_ns;
        if let Some(to) = to
            && ns > 0
        {
            let all = u128::from(ns) * u128::from(thread.below + 1);
            *self.out.edges.entry((thread.group, to)).or_default() += all;
        }
    }

    /// Hangs the thread, and all below it, below the one that it waits for, and so on up; or takes them off there.
    fn hang(&mut self, index: usize, mut waker: u32, on: bool) {
        let Some(size) = self.threads.get(index).map(|thread| thread.below + 1) else { return };
        for _ in 0..MAX_CHAIN {
            let Some(above) = self.by_serial.get(&waker).copied().filter(|above| *above != index) else { return };
            let Some(does) = self.threads.get(above).map(|thread| thread.does) else { return };
            if let Does::WaitsFor(next) = does {
                self.settle(above, next);
            }
            let Some(thread) = self.threads.get_mut(above) else { return };
            thread.below = if on { thread.below.saturating_add(size) } else { thread.below.saturating_sub(size) };
            match does {
                Does::WaitsFor(next) => waker = next,
                _ => return,
            }
        }
    }

    /// The thread's next stretch on the way back.
    fn before(&mut self, index: usize) -> Option<Stretch> {
        let from_ns = self.from_ns;
        let thread = self.threads.get_mut(index).filter(|_| self.at_ns > from_ns)?;
        if thread.stretches.is_empty() && thread.blocks_before > 0 {
            thread.blocks_before -= 1;
            self.scratch.clear();
            if let Some(block) = self.history.block(thread.serial, thread.blocks_before) {
                block.read(&mut self.scratch);
            }
            thread.take(&self.scratch);
        }
        let next = thread.stretches.pop();
        if next.is_none() {
            thread.stretches = Vec::new();
        }
        next.map(|stretch| Stretch { start_ns: stretch.start_ns.max(from_ns), ..stretch })
    }
}

impl Thread {
    /// Takes the stretches of a block; neighbours that do the same are one.
    fn take(&mut self, intervals: &[Interval]) {
        for interval in intervals.iter().rev() {
            let does = match (interval.state, interval.wait) {
                (State::OnCpu | State::Runnable, _) => Does::Active,
                (_, Some(wait)) => self.waits(wait),
                _ => Does::Else,
            };
            match self.stretches.last_mut() {
                Some(later) if later.does == does => later.start_ns = interval.start_ns,
                _ => self.stretches.push(Stretch { start_ns: interval.start_ns, does }),
            }
        }
        self.stretches.reverse();
    }

    /// For whom it waits. A wait that timed out and was tried again is part of the one that was ended.
    fn waits(&mut self, wait: Wait) -> Does {
        let by = match wait.ending {
            Ending::Woken(WakeContext::Task, Waker::Traced(waker)) if waker != self.serial => Some(waker),
            Ending::Woken(WakeContext::Device, _) => Some(DEVICE),
            Ending::Woken(WakeContext::Timer, _) => self.carried,
            _ => None,
        };
        self.carried = by.filter(|_| wait.is_retry);
        by.map_or(Does::Else, Does::WaitsFor)
    }
}
