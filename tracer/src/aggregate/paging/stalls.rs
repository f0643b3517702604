//! Time in which threads freed memory instead of working, by thread and kind. A record has several stalls that lie close together; of one
//! that begins before the window the part counts that lies in it, as if they were spread evenly.

use std::collections::BTreeMap;

use tracer_common::memory::{StallKind, Stalled};

use crate::aggregate::thread::Span;
use crate::model::meta::StallsRow;

/// Rows kept.
const MAX_ROWS: usize = 4_096;

/// Stalls of one thread and kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// How long.
    pub ns: u64,
    /// Pages that were freed.
    pub pages: u64,
}

/// See the file's head.
#[derive(Default)]
pub struct Stalls {
    /// By process, thread, and kind.
    pub rows: BTreeMap<(u32, u32, StallKind), Sum>,
    /// Those without room.
    pub over: Sum,
    /// The family was told of and can run.
    pub active: bool,
}

impl Stalls {
    /// Whether the family ran, or at least left something.
    pub fn is_active(&self) -> bool {
        self.active || !self.rows.is_empty()
    }

    /// Takes a record of the kernel.
    pub fn record(&mut self, record: &Stalled, span: &Span) {
        let sum = Sum { count: u64::from(record.count), ns: record.total_ns, pages: record.pages };
        let key = (record.tgid, record.tid, StallKind::from_number(record.kind));
        self.take(key, sum, (record.since_ts_ns, record.header.ts_ns), span);
    }

    /// Takes what was left at the end.
    pub fn row(&mut self, row: &StallsRow, span: &Span) {
        let kind = StallKind::ALL.into_iter().find(|kind| kind.id() == row.stall).unwrap_or(StallKind::Unknown);
        let sum = Sum { count: row.count, ns: row.total_ns, pages: row.pages };
        self.take((row.tgid, row.tid, kind), sum, (row.since_ts_ns, row.until_ts_ns), span);
    }

    fn take(&mut self, key: (u32, u32, StallKind), mut sum: Sum, (since, until): (u64, u64), span: &Span) {
        if until <= span.start_ns {
            return;
        }
        if since < span.start_ns {
            let (inside, whole) = (u128::from(until - span.start_ns), u128::from(until - since));
            sum.ns = (u128::from(sum.ns) * inside / whole) as u64;
        }
        let room = self.rows.len() < MAX_ROWS;
        let row = match self.rows.get_mut(&key) {
            Some(row) => row,
            None if room => self.rows.entry(key).or_default(),
            None => &mut self.over,
        };
        row.count = row.count.saturating_add(sum.count);
        row.ns = row.ns.saturating_add(sum.ns);
        row.pages = row.pages.saturating_add(sum.pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_stalls_across_the_windows_start_the_part_within_counts() {
        let span = Span { start_ns: 1_000, now_ns: 2_000, gaps: Default::default() };
        let mut stalls = Stalls::default();
        let row = |since_ts_ns, until_ts_ns| StallsRow {
            tid: 2,
            tgid: 1,
            stall: "cgroup reclaim".to_owned(),
            since_ts_ns,
            until_ts_ns,
            total_ns: 400,
            pages: 32,
            count: 2,
        };
        stalls.row(&row(500, 1_500), &span);
        stalls.row(&row(100, 900), &span);
        let key = (1, 2, StallKind::MemcgReclaim);
        assert_eq!(stalls.rows.get(&key), Some(&Sum { count: 2, ns: 200, pages: 32 }));
    }
}
