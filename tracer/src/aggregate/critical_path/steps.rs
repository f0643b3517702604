//! Steps: the time from one entry of a function to the next one in the same thread. Here: the entries as they come, and the steps
//! that follow from them. What steps went to is `step_causes`, what the report says `steps_report`.
//!
//! A thread's own waits never reach over such a border, since it runs when it enters a function. Bounded: the youngest
//! [`MAX_ENTRIES`] entries are kept.

use std::collections::{BTreeMap, VecDeque};

use tracer_common::sched::Step;

use super::history::History;
use crate::aggregate::Aggregate;
use crate::aggregate::hash::FastMap;
use crate::model::meta::StepsRecord;

/// Entries kept: 16 MiB.
const MAX_ENTRIES: usize = 1 << 20;
/// The interpreter writes to a function's first instruction a few times while it gets to know it, just after it has read it, and the
/// debug register tells reading from writing as little as the kernel: so much later it is another call.
const ONE_CALL_NS: u64 = 50_000;
/// Functions of processes that are told of.
const MAX_WATCHED: usize = 64;

/// Whether a function is seen by a debug register.
fn is_watched(spec: &str) -> bool {
    spec.starts_with("py:")
}

/// See the file's head.
#[derive(Default)]
pub struct Steps {
    /// Serial number of the thread, and when; in the order in which they came.
    entries: VecDeque<(u32, u64)>,
    /// Entries of each thread, those that were forgotten among them, and when the last one came.
    counts: FastMap<u32, (u64, u64)>,
    /// Entries that are not kept.
    pub(super) forgotten: u64,
    /// When the first and the last one came.
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
    /// Where entries of a Python function are seen, and from when on.
    pub(super) watched: Vec<(StepsRecord, u64)>,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Serial number of its thread.
    pub serial: u32,
    /// From 1 on.
    pub number: u64,
    /// CLOCK_MONOTONIC.
    pub start_ns: u64,
    /// See there.
    pub end_ns: u64,
}

impl Span {
    /// How long it took.
    pub fn ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }
}

/// All steps of one thread.
#[derive(Debug, Default)]
pub struct Row {
    /// Those that ended, in the order of time.
    pub spans: Vec<Span>,
    /// Wall time of the thread before its first entry that is kept.
    pub before_ns: u64,
    /// From its last entry on.
    pub after_ns: u64,
}

impl Row {
    /// Time of all steps that ended.
    pub fn total_ns(&self) -> u64 {
        self.spans.iter().fold(0, |sum, span| sum.saturating_add(span.ns()))
    }
}

impl Steps {
    pub(super) fn enter(&mut self, serial: u32, ts_ns: u64, apart_ns: u64) {
        let (count, last_ns) = self.counts.entry(serial).or_default();
        if *count > 0 && ts_ns.saturating_sub(*last_ns) < apart_ns {
            return;
        }
        (*count, *last_ns) = (*count + 1, ts_ns.max(*last_ns));
        self.first_ns = if self.first_ns == 0 { ts_ns } else { self.first_ns.min(ts_ns) };
        self.last_ns = self.last_ns.max(ts_ns);
        self.entries.push_back((serial, ts_ns));
        if self.entries.len() > MAX_ENTRIES {
            self.entries.pop_front();
            self.forgotten += 1;
        }
    }

    /// Takes word of a function that was found.
    pub fn watched(&mut self, record: &StepsRecord, ts_ns: u64) {
        if self.watched.len() < MAX_WATCHED {
            self.watched.push((record.clone(), ts_ns));
        }
    }

    /// How many there were.
    pub(super) fn entries(&self) -> u64 {
        self.entries.len() as u64 + self.forgotten
    }

    /// The steps of each thread of which anything is known, by its serial number.
    pub(super) fn rows(&self, history: &History) -> BTreeMap<u32, Row> {
        let mut entries: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for (serial, ts_ns) in &self.entries {
            entries.entry(*serial).or_default().push(*ts_ns);
        }
        let row = |(serial, mut entries): (u32, Vec<u64>)| {
            let life = history.life(serial).filter(|life| life.tid != 0)?;
            let forgotten = self.counts.get(&serial).map_or(0, |(count, _)| count.saturating_sub(entries.len() as u64));
            // What lies outside of what is known of the thread is outside of the window.
            entries.retain(|ts_ns| (life.start_ns..=life.end_ns).contains(ts_ns));
            entries.sort_unstable();
            let (first, last) = (*entries.first()?, *entries.last()?);
            let spans = entries.windows(2).zip(1..).filter_map(|(pair, number)| {
                let [start_ns, end_ns] = *pair else { return None };
                Some(Span { serial, number: forgotten + number, start_ns, end_ns })
            });
            let row = Row {
                spans: spans.filter(|span| span.ns() > 0).collect(),
                before_ns: first.saturating_sub(life.start_ns),
                after_ns: life.end_ns.saturating_sub(last),
            };
            Some((serial, row))
        };
        entries.into_iter().filter_map(row).collect()
    }

    /// The thread that spent most time in steps.
    pub(super) fn longest(&self, history: &History) -> Option<u32> {
        let rows = self.rows(history);
        // A thread that has begun one step only is better than none; of equals the first.
        let rank = |(_, row): &(&u32, &Row)| (row.total_ns(), row.after_ns);
        rows.iter().rev().max_by_key(rank).map(|(serial, _)| *serial)
    }
}

impl Aggregate {
    /// A thread begins a step.
    pub(in crate::aggregate) fn step(&mut self, event: &Step) {
        let ts_ns = event.header.ts_ns;
        // Until CMD's exec its thread runs the tracer's own code.
        if !self.span.is_open() || ts_ns < self.span.start_ns || event.tid == self.held {
            return;
        }
        let thread = self.threads.find(event.tid).and_then(|index| self.threads.get(index));
        // One that the table had no room for has no history either.
        if let Some(serial) = thread.map(|thread| thread.serial) {
            let is_watched = self.target.as_ref().and_then(|target| target.step.as_deref()).is_some_and(is_watched);
            self.steps.enter(serial, ts_ns, if is_watched { ONE_CALL_NS } else { 0 });
        }
    }
}
