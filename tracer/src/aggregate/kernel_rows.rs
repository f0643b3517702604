//! The report's rows of kernel locks, written from `kernel_locks`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use tracer_common::lock::Kind;

use super::build::{Writer, known};
use super::kernel_locks::{OwnerTimes, Row, Times, WaiterTimes};
use crate::model::report::{KernelLock, KernelOwner, KernelWaiter, seconds};

const MAX_ROWS: usize = 64;
const MAX_PARTIES: usize = 16;

/// Time that can be laid to a lock.
fn lost_ns(times: &Times) -> u64 {
    times.slept_ns.saturating_add(times.spun_ns)
}

impl Writer<'_> {
    /// Rows by descending time lost, then process and kind; none where the family did not run.
    pub(super) fn kernel_locks(&self) -> Vec<KernelLock> {
        let locks = &self.aggregate.kernel_locks;
        let empty = Row::default();
        let mut all: BTreeMap<(u32, Kind), (&Row, u64, u64)> =
            locks.rows().map(|(key, row)| (key, (row, 0, 0))).collect();
        for (key, short) in locks.short_ones() {
            let entry = all.entry(key).or_insert((&empty, 0, 0));
            (entry.1, entry.2) = (entry.1.saturating_add(short.count), entry.2.saturating_add(short.ns));
        }
        let mut sorted: Vec<_> = all.into_iter().collect();
        sorted.sort_by_key(|(key, (row, _, short_ns))| (Reverse(lost_ns(&row.times)), Reverse(*short_ns), *key));
        sorted.truncate(MAX_ROWS);
        sorted
            .into_iter()
            .map(|((pid, kind), (row, count, ns))| self.kernel_lock(pid, kind, row, (count, ns)))
            .collect()
    }

    fn kernel_lock(&self, pid: u32, kind: Kind, row: &Row, (short_count, short_ns): (u64, u64)) -> KernelLock {
        let mut waiters: Vec<&WaiterTimes> = row.waiters.iter().collect();
        waiters.sort_by_key(|waiter| {
            (Reverse(lost_ns(&waiter.times)), Reverse(waiter.times.total_ns), waiter.party.tid, waiter.party.serial)
        });
        waiters.truncate(MAX_PARTIES);
        let mut owners: Vec<&OwnerTimes> = row.owners.iter().collect();
        owners.sort_by_key(|owner| (Reverse(owner.total_ns), owner.party.tid, owner.party.serial));
        owners.truncate(MAX_PARTIES);
        KernelLock {
            pid,
            process: self.process_name(pid),
            kind: kind.id().to_owned(),
            count: row.times.count.saturating_add(short_count),
            total_s: seconds(row.times.total_ns.saturating_add(short_ns)),
            slept_s: seconds(row.times.slept_ns),
            spun_s: seconds(row.times.spun_ns),
            max_s: seconds(row.times.max_ns),
            short_count,
            short_s: seconds(short_ns),
            locks: row.addresses.len() as u64,
            threads: row.threads,
            waiters: waiters.into_iter().map(|waiter| self.kernel_waiter(pid, waiter)).collect(),
            owners: owners.into_iter().map(|owner| self.kernel_owner(owner)).collect(),
            waits_with_owner: row.with_owner,
            wakers: self.wakers(&row.wakers, MAX_PARTIES),
        }
    }

    fn kernel_waiter(&self, pid: u32, waiter: &WaiterTimes) -> KernelWaiter {
        let times = &waiter.times;
        KernelWaiter {
            tid: waiter.party.tid,
            ns_tid: known(waiter.party.ns_tid).filter(|ns_tid| *ns_tid != waiter.party.tid),
            thread: self.party_names(waiter.party).1,
            count: times.count,
            total_s: seconds(times.total_ns),
            slept_s: seconds(times.slept_ns),
            spun_s: seconds(times.spun_ns),
            max_s: seconds(times.max_ns),
            places: self.places(pid, &waiter.places),
        }
    }

    fn kernel_owner(&self, owner: &OwnerTimes) -> KernelOwner {
        let (_, thread, process) = self.party_names(owner.party);
        KernelOwner {
            pid: owner.party.tgid,
            tid: owner.party.tid,
            thread,
            process,
            count: owner.count,
            reading: owner.reading,
            total_s: seconds(owner.total_ns),
        }
    }

    /// The last name of a process, as far as it was kept.
    fn process_name(&self, pid: u32) -> Option<String> {
        let process = self.aggregate.processes.ranked().into_iter().find(|process| process.tgid == pid)?;
        self.name(process.name)
    }
}
