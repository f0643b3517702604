//! The report's section `mapping`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use tracer_common::mapping::MapKind;

use super::{ProcessCalls, total};
use crate::aggregate::Aggregate;
use crate::aggregate::paging::report::Who;
use crate::aggregate::stacks::report::Named;
use crate::model::mapping::{MapCalls, MapFunction, Mapping, ProcessMapping, ThreadMapping};
use crate::model::report::seconds;

/// Rows told.
const MAX_ROWS: usize = 32;
/// Threads of a process.
const MAX_THREADS: usize = 4;

/// What was mapped less what was unmapped, as far as the number reaches.
fn balance(mapped: u64, unmapped: u64) -> i64 {
    let difference = i128::from(mapped) - i128::from(unmapped);
    difference.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

impl Aggregate {
    /// The section; none without the family.
    pub(in crate::aggregate) fn mapping_part(&self, stacks: Option<&Named<'_>>) -> Option<Mapping> {
        let mapped = &self.mapped;
        if !mapped.active {
            return None;
        }
        let who = Who::new(self);
        let mut all: Vec<(u32, &ProcessCalls)> = mapped.processes.iter().map(|(pid, calls)| (*pid, calls)).collect();
        all.sort_by_key(|(pid, process)| (Reverse(total(&process.calls)), *pid));
        let over = all.split_off(all.len().min(MAX_ROWS));
        let others = over.iter().fold(mapped.over, |sum, (_, process)| sum.saturating_add(total(&process.calls)));
        let limit = self.host.as_ref().map(|host| host.max_map_count);
        Some(Mapping {
            processes: all.into_iter().map(|(pid, process)| self.mapping_of(pid, process, &who, stacks)).collect(),
            calls_of_others: others,
            mappings_limit: limit.filter(|limit| *limit > 0),
        })
    }

    fn mapping_of(
        &self,
        pid: u32,
        process: &ProcessCalls,
        who: &Who<'_>,
        stacks: Option<&Named<'_>>,
    ) -> ProcessMapping {
        let mut threads = process.threads.clone();
        threads.sort_by_key(|(tid, calls)| (Reverse(*calls), *tid));
        let thread = |(tid, calls)| ThreadMapping { tid, thread: who.thread(pid, tid).thread, calls };
        let kinds = MapKind::ALL.into_iter().zip(process.calls).filter(|(_, calls)| calls.count > 0);
        let kind = |(kind, calls): (MapKind, super::Calls)| {
            (kind.id().to_owned(), MapCalls { count: calls.count, bytes: calls.bytes })
        };
        let (mapped, unmapped) = (process.bytes(MapKind::maps), process.bytes(MapKind::unmaps));
        let known = |mappings: u32| (mappings > 0).then(|| u64::from(mappings));
        let mut row = ProcessMapping {
            pid,
            process: who.process(pid),
            calls: total(&process.calls),
            kinds: kinds.map(kind).collect(),
            duration_s: seconds(process.last_ns.saturating_sub(process.first_ns)),
            mmap_munmap_per_s: None,
            mapped_bytes: mapped,
            unmapped_bytes: unmapped,
            balance_bytes: balance(mapped, unmapped),
            mappings_last: known(process.mappings_last),
            mappings_most: known(process.mappings_most),
            threads: threads.into_iter().take(MAX_THREADS).map(thread).collect(),
            functions: stacks.map(|stacks| self.map_functions(pid, stacks)).unwrap_or_default(),
        };
        let calls = row.of(&["mmap", "mmap_file", "mmap_fixed", "munmap"]);
        row.mmap_munmap_per_s = (row.duration_s > 0.0).then(|| calls as f64 / row.duration_s);
        row
    }

    /// Where memory was mapped, by stacks.
    fn map_functions(&self, pid: u32, stacks: &Named<'_>) -> Vec<MapFunction> {
        let (mut bytes, mut taken) = (BTreeMap::<u64, u64>::new(), 0_u64);
        for ((_, stack), tally) in self.stacks.mapped.iter().filter(|((tgid, _), _)| *tgid == pid) {
            let sum = bytes.entry(*stack).or_default();
            *sum = sum.saturating_add(tally.ns);
            taken = taken.saturating_add(tally.count);
        }
        // A damaged record may stand for any number of bytes.
        let all = bytes.values().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes)).max(1) as f64;
        let row =
            |(location, bytes): (_, u64)| MapFunction { location, bytes, share: bytes as f64 / all, stacks: taken };
        stacks.sites_of(&bytes).into_iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::balance;

    #[test]
    fn a_balance_stays_within_its_number() {
        assert_eq!(balance(5, 7), -2);
        assert_eq!(balance(u64::MAX, 0), i64::MAX);
        assert_eq!(balance(0, u64::MAX), i64::MIN);
    }
}
