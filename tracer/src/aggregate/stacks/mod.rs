//! Stacks: how often each was seen on a CPU, and how long threads waited at each place. Samples and definitions may come in any
//! order and at any time after the START record: nothing is judged before the window has ended.
//!
//! Waits are measured exactly, by [`waited`](Stacks::waited), per thread and place; stacks are taken at some of them. How the
//! two meet is in `estimate`. Threads are known by (process, thread id): of two threads that had the same pair one after the
//! other, the last one's name is given to both. A place is a 24-bit number: two places of a process that share it are taken
//! for one.
//!
//! Bounded by [`MAX_KEYS`] of each: (process, thread, stack), (process, thread, place, reason), (process, place); further ones are
//! counted and their time is kept in one sum each.

mod blame;
mod callers;
mod definitions;
mod estimate;
pub mod phases;
mod quality;
pub mod report;
mod saves;
mod spin;

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tracer_common::stack::{Sampled, origin};

use super::classify::{Detail, Reason, State};
use super::critical_path::timeline::Timeline;
use super::hash::FastMap;
use super::names::NameId;
use super::thread::Span;
use crate::model::meta::AttachedRecord;
use definitions::Definitions;

/// Entries of each table: some 20 MiB at worst.
pub const MAX_KEYS: usize = 262_144;

/// Samples held back, the youngest ones: by then it is known whether they lie in the window.
const HELD_SAMPLES: usize = 16_384;

/// Distinct stacks kept of one place. Captures of further ones have no stack.
const MAX_PLACE_STACKS: usize = 256;

/// Threads whose names are kept.
const MAX_NAMES: usize = 65_536;

/// How many, and how much time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Samples, or waits.
    pub count: u64,
    /// Time.
    pub ns: u64,
}

impl Tally {
    /// Adds to it.
    pub fn add(&mut self, count: u64, ns: u64) {
        self.count = self.count.saturating_add(count);
        self.ns = self.ns.saturating_add(ns);
    }
}

/// By process and place of a wait each stack that was taken, and how often.
type Taken = FastMap<(u32, u32), Vec<(u64, u64)>>;

/// Counts a stack of a place. False: there is no room for the place.
fn keep(taken: &mut Taken, key: (u32, u32), stack: u64) -> bool {
    if taken.len() >= MAX_KEYS && !taken.contains_key(&key) {
        return false;
    }
    let stacks = taken.entry(key).or_default();
    let kept = if stacks.len() < MAX_PLACE_STACKS { stack } else { 0 };
    match stacks.iter_mut().find(|(known, _)| *known == stack) {
        Some((_, count)) => *count += 1,
        None => match stacks.iter_mut().find(|(known, _)| *known == kept) {
            Some((_, count)) => *count += 1,
            None => stacks.push((kept, 1)),
        },
    }
    true
}

/// A sample whose time may yet turn out to lie outside of the window. Ordered by time first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sample {
    ts_ns: u64,
    tgid: u32,
    tid: u32,
    stack: u64,
    weight_ns: u64,
}

/// What a wait counts under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct WaitKey {
    tgid: u32,
    tid: u32,
    place: u32,
    state: State,
    detail: Detail,
    /// For [`Detail::Call`]; else -1.
    syscall: i16,
}

/// See the file's head.
#[derive(Default)]
pub struct Stacks {
    /// What the records define.
    pub definitions: Definitions,
    /// The family was told of and can run: waits count.
    active: bool,
    held: BinaryHeap<Reverse<Sample>>,
    samples: FastMap<(u32, u32, u64), Tally>,
    captures: Taken,
    /// The same of the threads that ended waits there.
    wakers: Taken,
    waits: FastMap<WaitKey, Tally>,
    names: FastMap<(u32, u32), (NameId, NameId)>,
    /// When samples were taken.
    pub timeline: Timeline,
    /// The same of stacks of waits, where somebody asks for them; none: nobody does.
    pub waits_timeline: Option<Timeline>,
    /// Samples and waits over the bounds.
    samples_over: Tally,
    /// Stacks of page faults by (process, kind, stack): how many were taken, and for how many faults they stand.
    pub faults: FastMap<(u32, u32, u64), Tally>,
    /// Stacks of calls that map memory by (process, stack): how many were taken, and for how many bytes they stand.
    pub mapped: FastMap<(u32, u64), Tally>,
    waits_over: Tally,
    captures_over: u64,
    /// Samples before and behind the window, and records of an unknown origin.
    pub outside: u64,
    /// Records of the family at all.
    pub records: u64,
    /// What became of the threads that waited already when tracing began.
    pub attached: Option<AttachedRecord>,
    /// Places looked at again, and how many of them had changed.
    pub refreshed: u64,
    /// See `refreshed`.
    pub changed: u64,
}

impl Stacks {
    /// The family `cpu` was told of.
    pub fn family(&mut self, status: &str) {
        self.active |= status != "unavailable";
    }

    /// Whether there is something to report.
    pub fn is_active(&self) -> bool {
        self.active || self.records > 0
    }

    /// Takes a stack that was taken.
    pub fn sampled(&mut self, event: &Sampled, span: &Span) {
        self.records += 1;
        match event.origin {
            origin::ON_CPU => {
                let Sampled { tid, tgid, stack, weight_ns, .. } = *event;
                self.held.push(Reverse(Sample { ts_ns: event.header.ts_ns, tgid, tid, stack, weight_ns }));
                if self.held.len() > HELD_SAMPLES
                    && let Some(Reverse(oldest)) = self.held.pop()
                {
                    self.count(oldest, span.start_ns, u64::MAX);
                }
            }
            origin::WAIT | origin::ATTACHED => self.captured(event),
            origin::FAULT => self.faulted(event, span),
            origin::MAP => self.maps(event, span),
            origin::WAKER => {
                let key = ((event.weight_ns >> 32) as u32, event.place);
                self.captures_over += u64::from(!keep(&mut self.wakers, key, event.stack));
            }
            _ => self.outside += 1,
        }
    }

    fn faulted(&mut self, event: &Sampled, span: &Span) {
        if event.header.ts_ns < span.start_ns {
            self.outside += 1;
            return;
        }
        let key = (event.tgid, event.place, event.stack);
        if self.faults.len() < MAX_KEYS || self.faults.contains_key(&key) {
            // Not a time: the number of faults.
            self.faults.entry(key).or_default().add(1, event.weight_ns);
        } else {
            self.captures_over += 1;
        }
    }

    fn maps(&mut self, event: &Sampled, span: &Span) {
        if event.header.ts_ns < span.start_ns {
            self.outside += 1;
            return;
        }
        let key = (event.tgid, event.stack);
        if self.mapped.len() < MAX_KEYS || self.mapped.contains_key(&key) {
            // Not a time: the number of bytes.
            self.mapped.entry(key).or_default().add(1, event.weight_ns);
        } else {
            self.captures_over += 1;
        }
    }

    fn captured(&mut self, event: &Sampled) {
        if let Some(timeline) = self.waits_timeline.as_mut().filter(|_| event.origin == origin::WAIT) {
            timeline.add(event.tid, event.header.ts_ns, event.stack);
        }
        self.refreshed += u64::from(event.refreshed & 1 != 0);
        self.changed += u64::from(event.refreshed & 3 == 3);
        self.captures_over += u64::from(!keep(&mut self.captures, (event.tgid, event.place), event.stack));
    }

    fn count(&mut self, sample: Sample, start_ns: u64, end_ns: u64) {
        let Sample { ts_ns, tgid, tid, stack, weight_ns } = sample;
        if !(start_ns..=end_ns).contains(&ts_ns) {
            self.outside += 1;
            return;
        }
        self.timeline.add(tid, ts_ns, stack);
        let room = self.samples.len() < MAX_KEYS;
        match self.samples.get_mut(&(tgid, tid, stack)) {
            Some(tally) => tally.add(1, weight_ns),
            None if room => {
                self.samples.insert((tgid, tid, stack), Tally { count: 1, ns: weight_ns });
            }
            None => self.samples_over.add(1, weight_ns),
        }
    }

    /// Adds the part of a wait that lies within the window.
    pub fn waited(&mut self, tgid: u32, tid: u32, place: u32, reason: Reason, ns: u64) {
        if !self.active {
            return;
        }
        let by_call = reason.detail == Detail::Call;
        let detail = if reason.state == State::Other { reason.detail } else { Detail::None };
        let syscall = if by_call && reason.state == State::Other { reason.syscall } else { -1 };
        let key = WaitKey { tgid, tid, place, state: reason.state, detail, syscall };
        let room = self.waits.len() < MAX_KEYS;
        match self.waits.get_mut(&key) {
            Some(tally) => tally.add(1, ns),
            None if room => {
                self.waits.insert(key, Tally { count: 1, ns });
            }
            None => self.waits_over.add(1, ns),
        }
    }

    /// Keeps the names of a thread that has ended.
    pub fn ended(&mut self, tgid: u32, tid: u32, name: NameId, process: NameId) {
        if self.is_active() && (self.names.len() < MAX_NAMES || self.names.contains_key(&(tgid, tid))) {
            self.names.insert((tgid, tid), (name, process));
        }
    }

    /// Names of a thread and its process, if they were kept.
    pub fn name_of(&self, tgid: u32, tid: u32) -> Option<(NameId, NameId)> {
        self.names.get(&(tgid, tid)).copied()
    }

    /// Ends the window: what was held back is counted if it lies within.
    pub fn close(&mut self, span: &Span) {
        for Reverse(sample) in std::mem::take(&mut self.held) {
            self.count(sample, span.start_ns, span.now_ns);
        }
        self.timeline.sort();
        self.waits_timeline.iter_mut().for_each(Timeline::sort);
    }
}
