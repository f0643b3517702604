//! What threads did in calls of databases' clients, from what is kept of each thread, and in which functions. One pass over a thread's
//! intervals for all its calls.

use std::collections::BTreeMap;

use super::{Databases, Kept, Key};
use crate::aggregate::classify::{Calls, State};
use crate::aggregate::critical_path::history::History;
use crate::aggregate::critical_path::timeline::Timeline;
use crate::aggregate::critical_path::trail::Interval;
use crate::aggregate::hash::FastMap;
use crate::aggregate::stacks::Stacks;
use crate::symbol::clients::Client;

/// Stacks of one statement.
const MAX_STACKS: usize = 1_024;
/// Calls that send.
const SENDS: [&str; 5] = ["write", "writev", "sendto", "sendmsg", "sendmmsg"];

/// A part of the time in calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Computing,
    Queued,
    Send,
    Server,
    File,
    Lock,
    Other,
    Unknown,
}

/// Number of [`Part`]s.
const PARTS: usize = 8;

/// What is known of a statement's calls.
#[derive(Default)]
pub(super) struct Spent {
    /// Time by [`Part`].
    pub(super) ns: [u64; PARTS],
    /// Stacks of waits, and how many.
    pub(super) waits: BTreeMap<u64, u64>,
    /// Samples by stack.
    pub(super) stacks: BTreeMap<u64, u64>,
}

impl Spent {
    /// Time of one part.
    pub(super) fn of(&self, part: Part) -> u64 {
        self.ns[part as usize]
    }

    fn add(&mut self, part: Part, ns: u64) {
        let sum = &mut self.ns[part as usize];
        *sum = sum.saturating_add(ns);
    }
}

/// To which part an interval belongs.
fn part(interval: &Interval, client: Client, calls: &Calls) -> Part {
    let remote = client != Client::Sqlite;
    match interval.state {
        State::OnCpu | State::Spinning => Part::Computing,
        State::Runnable | State::Throttled => Part::Queued,
        State::SocketInet | State::SocketUnix => {
            let call = interval.wait.map_or(-1, |wait| wait.reason.syscall);
            if call >= 0 && SENDS.contains(&calls.name(call).as_str()) { Part::Send } else { Part::Server }
        }
        State::Poll if remote => Part::Server,
        State::File => Part::File,
        State::Futex | State::KernelLock => Part::Lock,
        // Its handler of a locked database sleeps between its tries.
        State::Timer if !remote => Part::Lock,
        State::Unknown => Part::Unknown,
        _ => Part::Other,
    }
}

impl Databases {
    /// What is known of each statement's calls.
    pub(super) fn split(&self, history: &History, stacks: &Stacks, calls: &Calls) -> FastMap<Key, Spent> {
        let mut spent: FastMap<Key, Spent> = FastMap::default();
        let mut by_thread: BTreeMap<u32, Vec<&Kept>> = BTreeMap::new();
        for call in &self.calls {
            if call.several {
                spent.entry(call.key).or_default().add(Part::Computing, call.spent_ns);
            }
            by_thread.entry(call.serial).or_default().push(call);
        }
        for (serial, mut kept) in by_thread {
            kept.sort_by_key(|call| (call.start_ns, call.end_ns));
            let tid = history.life(serial).map_or(0, |life| life.tid);
            for call in &kept {
                let known = spent.entry(call.key).or_default();
                let during = |timeline: &Timeline| timeline.within(tid, call.start_ns, call.end_ns);
                during(&stacks.timeline).for_each(|stack| add(&mut known.stacks, stack));
                stacks.waits_timeline.iter().flat_map(during).for_each(|stack| add(&mut known.waits, stack));
            }
            let single: Vec<&Kept> = kept.into_iter().filter(|call| !call.several).collect();
            of_thread(&single, serial, history, calls, &mut spent);
        }
        spent
    }
}

fn add(stacks: &mut BTreeMap<u64, u64>, stack: u64) {
    if stacks.len() < MAX_STACKS || stacks.contains_key(&stack) {
        *stacks.entry(stack).or_default() += 1;
    }
}

/// The calls of one thread, in the order of their starts, against its intervals.
fn of_thread(kept: &[&Kept], serial: u32, history: &History, calls: &Calls, spent: &mut FastMap<Key, Spent>) {
    // Of each call what is not told yet.
    let mut left_ns: Vec<u64> = kept.iter().map(|call| call.end_ns.saturating_sub(call.start_ns)).collect();
    let (mut next, mut active): (usize, Vec<usize>) = (0, Vec::new());
    let (mut number, mut intervals) = (0, Vec::new());
    while let Some(block) = history.block(serial, number) {
        number += 1;
        block.read(&mut intervals);
        for interval in &intervals {
            while kept.get(next).is_some_and(|call| call.start_ns < interval.end_ns) {
                active.push(next);
                next += 1;
            }
            for index in &active {
                let call = kept[*index];
                let overlap = interval.end_ns.min(call.end_ns).saturating_sub(interval.start_ns.max(call.start_ns));
                if overlap == 0 {
                    continue;
                }
                left_ns[*index] = left_ns[*index].saturating_sub(overlap);
                let known = spent.entry(call.key).or_default();
                known.add(part(interval, call.key.1, calls), overlap);
            }
            active.retain(|index| kept[*index].end_ns > interval.end_ns);
        }
    }
    for (call, left_ns) in kept.iter().zip(left_ns) {
        spent.entry(call.key).or_default().add(Part::Unknown, left_ns);
    }
}
