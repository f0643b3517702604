//! What explains the waits for a lock: the path of the thread that waited longest for it is walked, and what was done by those who
//! ended its waits is put together.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::history::Reader;
use super::row::Row;
use super::walk::{Path, Under, WaitKey, walk};
use crate::aggregate::Aggregate;
use crate::aggregate::build::known;
use crate::aggregate::classify::{Detail, Reason, State};
use crate::aggregate::names::NameId;
use crate::aggregate::stacks::report::Named;
use crate::model::critical_path::{Explained, ExplainedBy, Explanation};
use crate::model::report::seconds;
use crate::model::stacks::FunctionTime;

/// Steps of the walk for one lock: about as many intervals. Of a longer history the end is looked at.
const MAX_STEPS: u64 = 400_000;

const MAX_ROWS: usize = 8;
/// Threads of one row.
const MAX_BY: usize = 4;

/// What a row is told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RowKey {
    process: NameId,
    state: State,
    detail: Detail,
    syscall: i16,
}

impl Aggregate {
    /// What explains the waits of a thread for a futex; none where no history is kept or nothing of it was seen.
    pub(in crate::aggregate) fn explanation(
        &self,
        serial: u32,
        address: u64,
        stacks: Option<&Named<'_>>,
    ) -> Option<Explanation> {
        let life = self.history.life(serial)?;
        let mut reader = Reader::new(&self.history, &self.pythons);
        let path = walk(&mut reader, &self.stacks.timeline, serial, (life.start_ns, life.end_ns), MAX_STEPS);
        let mut rows: BTreeMap<RowKey, Row> = BTreeMap::new();
        let ours = |key: &WaitKey| key.tgid == life.tgid && key.state == State::Futex && key.object == address;
        for ((_, under), sum) in path.under.iter().filter(|((key, _), _)| ours(key)) {
            let life = reader.life(under.serial).copied().unwrap_or_default();
            let Under { state, detail, syscall, .. } = *under;
            let row = rows.entry(RowKey { process: life.process, state, detail, syscall }).or_default();
            row.add(under.serial, under.object, (life.tgid, under.place), *sum);
        }
        let total_ns: u64 = rows.values().map(|row| row.ns).sum();
        let mut rows: Vec<(RowKey, Row)> = rows.into_iter().collect();
        rows.sort_by_key(|(key, row)| (Reverse(row.ns), *key));
        rows.truncate(MAX_ROWS);
        (total_ns > 0).then(|| Explanation {
            of_tid: life.tid,
            total_s: seconds(total_ns),
            looked_at_s: seconds(life.end_ns.saturating_sub(path.from_ns)),
            did: rows
                .iter()
                .map(|(key, row)| self.explained(key, row, total_ns, (&path, &ours), &reader, stacks))
                .collect(),
        })
    }

    fn explained(
        &self,
        key: &RowKey,
        row: &Row,
        total_ns: u64,
        (path, ours): (&Path, &dyn Fn(&WaitKey) -> bool),
        reader: &Reader<'_>,
        stacks: Option<&Named<'_>>,
    ) -> Explained {
        let reason = Reason { state: key.state, detail: key.detail, syscall: key.syscall };
        let is_wait = !matches!(key.state, State::OnCpu | State::Runnable | State::Unknown);
        let only = row.threads.first().filter(|_| row.threads.len() == 1).and_then(|serial| reader.life(*serial));
        let functions = |row: &Row| -> Vec<FunctionTime> {
            let Some(stacks) = stacks else { return Vec::new() };
            if is_wait {
                return row.waited_in(Some(stacks));
            }
            let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
            for ((wait, serial, stack), count) in &path.samples_under {
                if ours(wait) && row.threads.contains(serial) {
                    *counts.entry(*stack).or_default() += count;
                }
            }
            if key.state == State::OnCpu { stacks.of_stacks(&counts, row.ns) } else { Vec::new() }
        };
        let by = |(serial, row): (&u32, &Row)| {
            let life = reader.life(*serial).copied().unwrap_or_default();
            let thread = self.names.text(life.name);
            ExplainedBy { tid: life.tid, thread, s: seconds(row.ns), functions: functions(row) }
        };
        let told = row.told(self, reason);
        Explained {
            share: row.ns as f64 / total_ns as f64,
            s: seconds(row.ns),
            pieces: row.pieces,
            threads: row.threads.len() as u64,
            tid: only.and_then(|life| known(life.tid)),
            thread: only.and_then(|life| self.names.text(life.name)),
            process: self.names.text(key.process),
            state: key.state.id().to_owned(),
            detail: if is_wait { self.wait_detail(reason) } else { None },
            object: row.object(reason),
            path: told.path,
            ends: told.ends,
            functions: functions(row),
            by: self.by_thread(key, (path, ours), reader).iter().map(|(serial, row)| by((serial, row))).collect(),
        }
    }

    /// The threads of a row, where there are several.
    fn by_thread(
        &self,
        key: &RowKey,
        (path, ours): (&Path, &dyn Fn(&WaitKey) -> bool),
        reader: &Reader<'_>,
    ) -> Vec<(u32, Row)> {
        let mut threads: BTreeMap<u32, Row> = BTreeMap::new();
        for ((_, under), sum) in path.under.iter().filter(|((wait, _), _)| ours(wait)) {
            let life = reader.life(under.serial).copied().unwrap_or_default();
            let Under { state, detail, syscall, .. } = *under;
            if *key == (RowKey { process: life.process, state, detail, syscall }) {
                let row = threads.entry(under.serial).or_default();
                row.add(under.serial, under.object, (life.tgid, under.place), *sum);
            }
        }
        let mut threads: Vec<(u32, Row)> = threads.into_iter().collect();
        if threads.len() == 1 {
            threads.clear();
        }
        threads.sort_by_key(|(serial, row)| (Reverse(row.ns), *serial));
        threads.truncate(MAX_BY);
        threads
    }
}
