//! Calls that change address spaces, counted by process and thread. As of page faults, a record counts if it ends in the window. Not here:
//! the stacks of these calls, which `stacks` keeps, and what processes' memory consists of, which is `memory`'s.

mod report;

use tracer_common::mapping::{MAP_KINDS, MapKind, Mapped as Record};

use super::hash::FastMap;
use super::thread::Span;
use crate::model::meta::{FamilyRecord, MappedRow};

/// Processes counted.
const MAX_PROCESSES: usize = 4_096;
/// Threads of each that are counted by themselves.
const MAX_THREADS: usize = 64;

/// Calls of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// How many.
    pub count: u64,
    /// For how many bytes.
    pub bytes: u64,
}

/// By kind.
pub type ByKind = [Calls; MAP_KINDS];

fn total(calls: &ByKind) -> u64 {
    calls.iter().fold(0, |sum, calls| sum.saturating_add(calls.count))
}

fn add(to: &mut ByKind, calls: &ByKind) {
    for (sum, calls) in to.iter_mut().zip(calls) {
        sum.count = sum.count.saturating_add(calls.count);
        sum.bytes = sum.bytes.saturating_add(calls.bytes);
    }
}

/// Counts and bytes side by side; what a damaged record has too few of is zero.
fn by_kind(counts: &[u32], bytes: &[u64]) -> ByKind {
    let mut calls = ByKind::default();
    for ((sum, count), bytes) in calls.iter_mut().zip(counts).zip(bytes) {
        *sum = Calls { count: u64::from(*count), bytes: *bytes };
    }
    calls
}

/// One process's.
#[derive(Clone, Debug, Default)]
pub struct ProcessCalls {
    /// All threads.
    pub calls: ByKind,
    /// How many, by thread.
    pub threads: Vec<(u32, u64)>,
    /// When the first was made.
    pub first_ns: u64,
    /// When the last record of some was written.
    pub last_ns: u64,
    /// Mappings before the last one, as the newest record says; 0: not known.
    pub mappings_last: u32,
    /// The most.
    pub mappings_most: u32,
}

impl ProcessCalls {
    /// Bytes of the kinds that this says yes to.
    pub fn bytes(&self, wanted: fn(MapKind) -> bool) -> u64 {
        let kinds = MapKind::ALL.into_iter().zip(&self.calls).filter(|(kind, _)| wanted(*kind));
        kinds.fold(0, |sum, (_, calls)| sum.saturating_add(calls.bytes))
    }
}

/// What a record or a row has beside its counts.
struct Facts {
    tid: u32,
    tgid: u32,
    since_ns: u64,
    until_ns: u64,
    mappings: u32,
    mappings_most: u32,
}

/// See the file's head.
#[derive(Default)]
pub struct Mapped {
    /// By process.
    pub processes: FastMap<u32, ProcessCalls>,
    /// Those of processes without room.
    pub over: u64,
    /// The family was told of and can run.
    pub active: bool,
}

impl Mapped {
    /// A family was told of.
    pub fn family(&mut self, family: &FamilyRecord) {
        self.active |= family.family == "map" && family.status != "unavailable";
    }

    /// Takes a record of the kernel.
    pub fn record(&mut self, record: &Record, span: &Span) {
        let facts = Facts {
            tid: record.tid,
            tgid: record.tgid,
            since_ns: record.since_ts_ns,
            until_ns: record.header.ts_ns,
            mappings: record.mappings,
            mappings_most: record.mappings_most,
        };
        self.take(&facts, &by_kind(&record.counts, &record.bytes), span);
    }

    /// Takes what was left at the end.
    pub fn row(&mut self, row: &MappedRow, span: &Span) {
        let facts = Facts {
            tid: row.tid,
            tgid: row.tgid,
            since_ns: row.since_ts_ns,
            until_ns: span.now_ns,
            mappings: row.mappings,
            mappings_most: row.mappings_most,
        };
        self.take(&facts, &by_kind(&row.counts, &row.bytes), span);
    }

    fn take(&mut self, facts: &Facts, calls: &ByKind, span: &Span) {
        self.active = true;
        if facts.until_ns < span.start_ns {
            return;
        }
        let count = total(calls);
        if self.processes.len() >= MAX_PROCESSES && !self.processes.contains_key(&facts.tgid) {
            self.over = self.over.saturating_add(count);
            return;
        }
        let since_ns = facts.since_ns.max(span.start_ns);
        let new = || ProcessCalls { first_ns: since_ns, ..Default::default() };
        let process = self.processes.entry(facts.tgid).or_insert_with(new);
        add(&mut process.calls, calls);
        process.first_ns = process.first_ns.min(since_ns);
        if facts.until_ns >= process.last_ns {
            process.last_ns = facts.until_ns;
            process.mappings_last = facts.mappings;
        }
        process.mappings_most = process.mappings_most.max(facts.mappings_most);
        match process.threads.iter_mut().find(|(known, _)| *known == facts.tid) {
            Some((_, sum)) => *sum = sum.saturating_add(count),
            None => {
                if process.threads.len() < MAX_THREADS {
                    process.threads.push((facts.tid, count));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span() -> Span {
        Span { start_ns: 1_000, now_ns: 9_000, gaps: Default::default() }
    }

    fn row(tid: u32, count: u32, bytes: u64) -> MappedRow {
        let (counts, bytes) = (vec![count; MAP_KINDS], vec![bytes; MAP_KINDS]);
        MappedRow { tid, tgid: 1, since_ts_ns: 500, counts, bytes, mappings: 7, mappings_most: 9 }
    }

    #[test]
    fn sums_of_damaged_records_stop_at_the_greatest_number() {
        let mut mapped = Mapped::default();
        for _ in 0..3 {
            mapped.row(&row(2, u32::MAX, u64::MAX), &span());
        }
        let process = &mapped.processes[&1];
        assert_eq!(process.calls[0], Calls { count: 3 * u64::from(u32::MAX), bytes: u64::MAX });
        assert_eq!((process.bytes(MapKind::maps), process.bytes(MapKind::unmaps)), (u64::MAX, u64::MAX));
        let short = MappedRow { counts: vec![5], bytes: Vec::new(), ..row(3, 0, 0) };
        mapped.row(&short, &span());
        assert_eq!(mapped.processes[&1].threads.len(), 2, "one with too few fields counts for what it has");
    }

    #[test]
    fn what_ended_before_the_window_does_not_count() {
        let mut mapped = Mapped::default();
        let early = Span { now_ns: 900, ..span() };
        mapped.row(&row(2, 1, 1), &early);
        assert!(mapped.active && mapped.processes.is_empty());
        mapped.row(&row(2, 1, 4096), &span());
        let process = &mapped.processes[&1];
        assert_eq!((process.first_ns, process.mappings_last, process.mappings_most), (1_000, 7, 9));
        assert_eq!(process.threads, [(2, MAP_KINDS as u64)]);
    }

    #[test]
    fn processes_without_room_are_counted() {
        let mut mapped = Mapped::default();
        for tgid in 0..MAX_PROCESSES as u32 + 2 {
            mapped.row(&MappedRow { tgid, ..row(tgid, 1, 1) }, &span());
        }
        assert_eq!((mapped.processes.len(), mapped.over), (MAX_PROCESSES, 2 * MAP_KINDS as u64));
    }
}
