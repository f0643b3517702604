//! What threads have read and written, by the kernel's own counts: from /proc of those that wait for pipes and sockets, from the kernel of those
//! that end. The counts are of a thread as a whole, whatever the descriptor; sockets' own calls (send, recv) are not in them. Bounded:
//! so many threads.

use std::collections::BTreeMap;

use tracer_common::sched::Moved;

use super::Aggregate;
use super::thread::{Origin, Thread};
use crate::model::meta::MovedRecord;
use crate::model::report::{ThreadIo, seconds};

/// Threads kept.
const MAX_THREADS: usize = 16_384;

/// Counts, and when they stood so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    ts_ns: u64,
    read_bytes: u64,
    written_bytes: u64,
    reads: u64,
    writes: u64,
}

/// The first and the last counts that are known of each thread, by process and thread.
#[derive(Debug, Default)]
pub struct Movers {
    threads: BTreeMap<(u32, u32), (Counts, Counts)>,
}

impl Movers {
    /// Takes what /proc told.
    pub fn record(&mut self, moved: &MovedRecord) {
        let MovedRecord { ts_ns, tgid, tid, read_bytes, written_bytes, reads, writes } = *moved;
        self.add((tgid, tid), Counts { ts_ns, read_bytes, written_bytes, reads, writes });
    }

    /// Takes what the kernel told as the thread ended.
    pub fn ended(&mut self, moved: &Moved) {
        let Moved { header, tid, tgid, read_bytes, written_bytes, reads, writes } = *moved;
        self.add((tgid, tid), Counts { ts_ns: header.ts_ns, read_bytes, written_bytes, reads, writes });
    }

    fn add(&mut self, key: (u32, u32), counts: Counts) {
        if self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&key) {
            return;
        }
        // The records come in no order.
        let (first, last) = self.threads.entry(key).or_insert((counts, counts));
        if counts.ts_ns < first.ts_ns {
            *first = counts;
        }
        if counts.ts_ns > last.ts_ns {
            *last = counts;
        }
    }
}

impl Aggregate {
    /// What a thread moved in the part of the window for which that is known; none where it is not known at two times.
    pub(super) fn moved(&self, thread: &Thread) -> Option<ThreadIo> {
        let (first, last) = self.movers.threads.get(&(thread.tgid, thread.tid))?;
        // A thread begins without counts; all of a run's threads begin in its window.
        let is_new =
            thread.origin == Origin::Created || self.target.as_ref().is_some_and(|target| target.mode == "run");
        let born = Counts { ts_ns: thread.start_ns.max(self.span.start_ns), ..Counts::default() };
        let first = if is_new && born.ts_ns <= first.ts_ns { born } else { *first };
        let over_ns = last.ts_ns.saturating_sub(first.ts_ns);
        (over_ns > 0).then(|| ThreadIo {
            read_bytes: last.read_bytes.saturating_sub(first.read_bytes),
            written_bytes: last.written_bytes.saturating_sub(first.written_bytes),
            reads: last.reads.saturating_sub(first.reads),
            writes: last.writes.saturating_sub(first.writes),
            over_s: seconds(over_ns),
        })
    }
}
