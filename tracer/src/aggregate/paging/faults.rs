//! Page faults, counted by process and thread. A record has those of a thread over some time; what lies before the window is not told
//! from what lies in it, so a record counts if it ends in the window.

use tracer_common::memory::{FAULT_KINDS, Faults as Record};

use crate::aggregate::hash::FastMap;
use crate::aggregate::thread::Span;
use crate::model::meta::FaultsRow;

/// Processes counted.
const MAX_PROCESSES: usize = 4_096;
/// Threads of each that are counted by themselves.
const MAX_THREADS: usize = 64;

/// How many, by kind.
pub type Counts = [u64; FAULT_KINDS];

/// Adds counts.
pub fn add(to: &mut Counts, counts: &Counts) {
    for (sum, count) in to.iter_mut().zip(counts) {
        *sum = sum.saturating_add(*count);
    }
}

/// One process's.
#[derive(Clone, Debug, Default)]
pub struct ProcessFaults {
    /// All threads.
    pub counts: Counts,
    /// By thread.
    pub threads: Vec<(u32, Counts)>,
    /// When the first began.
    pub first_ns: u64,
    /// When the last record of some was written.
    pub last_ns: u64,
    /// Pages of anonymous memory at the first record, the most, and at the last; 0: not known.
    pub pages_first: u64,
    /// See `pages_first`.
    pub pages_most: u64,
    /// See `pages_first`.
    pub pages_last: u64,
}

/// See the file's head.
#[derive(Default)]
pub struct Faults {
    /// By process.
    pub processes: FastMap<u32, ProcessFaults>,
    /// Those of processes without room.
    pub over: u64,
    /// The family was told of and can run.
    pub active: bool,
}

impl Faults {
    /// Takes a record of the kernel.
    pub fn record(&mut self, record: &Record, span: &Span) {
        let counts = record.counts.map(u64::from);
        let ts_ns = record.header.ts_ns;
        self.take((record.tid, record.tgid), &counts, (record.since_ts_ns, ts_ns), record.anonymous_pages, span);
    }

    /// Takes what was left at the end.
    pub fn row(&mut self, row: &FaultsRow, span: &Span) {
        let mut counts = Counts::default();
        for (sum, count) in counts.iter_mut().zip(&row.counts) {
            *sum = u64::from(*count);
        }
        self.take((row.tid, row.tgid), &counts, (row.since_ts_ns, span.now_ns), 0, span);
    }

    fn take(&mut self, (tid, tgid): (u32, u32), counts: &Counts, (since, until): (u64, u64), pages: u64, span: &Span) {
        self.active = true;
        if until < span.start_ns {
            return;
        }
        if self.processes.len() >= MAX_PROCESSES && !self.processes.contains_key(&tgid) {
            self.over = self.over.saturating_add(counts.iter().sum());
            return;
        }
        let since = since.max(span.start_ns);
        let process =
            self.processes.entry(tgid).or_insert_with(|| ProcessFaults { first_ns: since, ..Default::default() });
        add(&mut process.counts, counts);
        process.first_ns = process.first_ns.min(since);
        process.last_ns = process.last_ns.max(until);
        if pages > 0 {
            if process.pages_first == 0 {
                process.pages_first = pages;
            }
            process.pages_most = process.pages_most.max(pages);
            process.pages_last = pages;
        }
        match process.threads.iter_mut().find(|(known, _)| *known == tid) {
            Some((_, sum)) => add(sum, counts),
            None => {
                if process.threads.len() < MAX_THREADS {
                    process.threads.push((tid, *counts));
                }
            }
        }
    }
}
