//! Processes that run CPython: where their interpreter lock is. A lock of that kind has several futexes, which count as one here, by
//! one address. PYTHON records come at any time, so nothing is judged by them before the window has ended. Bounded by
//! [`MAX_PROCESSES`] with [`MAX_PROGRAMS`] each, and [`MAX_CHILDREN`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::classify::State;
use super::hash::FastMap;
use super::locks::{Lock, WaiterTally};
use super::waits::{WaitStat, WakerTally, tally_place};
use crate::model::meta::{Addresses, PythonRecord};
use crate::model::python::{Python, PythonProcess};

/// Processes of which interpreters are kept: some 2 MiB.
const MAX_PROCESSES: usize = 4_096;
/// Interpreters kept of one process: one per exec.
const MAX_PROGRAMS: usize = 4;
/// Forked processes whose parent is kept: 1 MiB.
const MAX_CHILDREN: usize = 65_536;
/// Generations of forks without an interpreter of their own that are gone back.
const MAX_GENERATIONS: usize = 16;
/// Rows of the report.
const MAX_ROWS: usize = 64;

/// What a futex of the interpreter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GilPart {
    /// Threads that want the lock wait for it.
    Wanted,
    /// The thread that has given it up waits until another one has it.
    HandedOver,
}

impl GilPart {
    /// The kind of lock in reports.
    pub const fn id(self) -> &'static str {
        match self {
            GilPart::Wanted => crate::model::locks::PYTHON_LOCK,
            GilPart::HandedOver => "python interpreter lock, handing over",
        }
    }
}

/// See the file's head.
#[derive(Default)]
pub struct Pythons {
    known: FastMap<u32, Vec<PythonRecord>>,
    parents: FastMap<u32, u32>,
    not_kept: u64,
}

impl Pythons {
    /// Takes a PYTHON record.
    pub fn record(&mut self, record: &PythonRecord) {
        if self.known.len() >= MAX_PROCESSES && !self.known.contains_key(&record.tgid) {
            self.not_kept += 1;
            return;
        }
        let of_process = self.known.entry(record.tgid).or_default();
        if !of_process.contains(record) && of_process.len() < MAX_PROGRAMS {
            of_process.push(record.clone());
        }
    }

    /// A process is a copy of another one.
    pub fn fork(&mut self, child: u32, parent: u32) {
        if self.parents.len() < MAX_CHILDREN || self.parents.contains_key(&child) {
            self.parents.insert(child, parent);
        }
    }

    /// A process is no copy any more.
    pub fn exec(&mut self, tgid: u32) {
        self.parents.remove(&tgid);
    }

    /// What is known of the interpreters in a process, or else in those that it is a copy of.
    fn of(&self, mut tgid: u32) -> &[PythonRecord] {
        for _ in 0..MAX_GENERATIONS {
            if let Some(records) = self.known.get(&tgid) {
                return records;
            }
            match self.parents.get(&tgid) {
                Some(parent) => tgid = *parent,
                None => break,
            }
        }
        &[]
    }

    /// Whether anything is known of the interpreters in a process.
    pub fn runs(&self, tgid: u32) -> bool {
        !self.known.is_empty() && !self.of(tgid).is_empty()
    }

    /// The one address that stands for all futexes of the interpreter lock, if this is one of them.
    pub fn gil(&self, tgid: u32, address: u64) -> Option<(u64, GilPart)> {
        if self.known.is_empty() {
            return None;
        }
        let within = |range: Option<Addresses>| range.filter(|range| range.contains(address));
        self.of(tgid).iter().find_map(|record| {
            let wanted = within(record.gil).map(|range| (range.start, GilPart::Wanted));
            wanted.or_else(|| within(record.gil_handed_over).map(|range| (range.start, GilPart::HandedOver)))
        })
    }

    /// The address that a futex counts under.
    pub fn address(&self, tgid: u32, address: u64) -> u64 {
        self.gil(tgid, address).map_or(address, |(address, _)| address)
    }

    /// Futexes, those of one interpreter lock as one.
    pub fn merge_locks<'l>(&self, mut all: Vec<&'l Lock>) -> Vec<Cow<'l, Lock>> {
        let mut locks = Vec::new();
        let mut interpreters: BTreeMap<(u32, u64), Lock> = BTreeMap::new();
        all.sort_by_key(|lock| (lock.space, lock.address));
        for lock in all {
            let Some((address, _)) = self.gil(lock.tgid, lock.address) else {
                locks.push(Cow::Borrowed(lock));
                continue;
            };
            match interpreters.entry((lock.space, address)) {
                Entry::Occupied(known) => add_lock(known.into_mut(), lock),
                Entry::Vacant(new) => {
                    new.insert(Lock { address, ..lock.clone() });
                }
            }
        }
        locks.extend(interpreters.into_values().map(Cow::Owned));
        locks
    }

    /// A thread's waits, those for one interpreter lock as one.
    pub fn merge_waits<'w>(&self, tgid: u32, all: Vec<&'w WaitStat>) -> Vec<Cow<'w, WaitStat>> {
        let mut waits: Vec<Cow<'w, WaitStat>> = Vec::new();
        for wait in all.into_iter().filter(|wait| wait.count > 0) {
            let is_futex = wait.reason.state == State::Futex;
            let Some((address, _)) = self.gil(tgid, wait.object).filter(|_| is_futex) else {
                waits.push(Cow::Borrowed(wait));
                continue;
            };
            match waits.iter_mut().find(|known| known.reason == wait.reason && known.object == address) {
                Some(known) => add_waits(known.to_mut(), wait),
                None => waits.push(Cow::Owned(WaitStat { object: address, ..wait.clone() })),
            }
        }
        waits
    }

    /// Addresses of collectors of garbage, by the number of their file.
    pub fn collectors(&self) -> BTreeMap<u32, Vec<Addresses>> {
        let mut all: BTreeMap<u32, Vec<Addresses>> = BTreeMap::new();
        for record in self.known.values().flatten() {
            if !record.collector.is_empty() {
                all.entry(record.module).or_insert_with(|| record.collector.clone());
            }
        }
        all
    }

    /// The report's section; none without Python.
    pub fn section(&self) -> Option<Python> {
        let mut processes: Vec<&PythonRecord> = self.known.values().flatten().collect();
        processes.sort_by_key(|record| (record.tgid, record.runtime.start));
        let row = |record: &&PythonRecord| PythonProcess {
            pid: record.tgid,
            version: crate::model::text::printable(record.version.as_bytes()),
            lock: record.gil.map(|range| format!("{:#x}", range.start)),
            collector_known: !record.collector.is_empty(),
        };
        let left_out = processes.len().saturating_sub(MAX_ROWS) as u64 + self.not_kept;
        (!processes.is_empty()).then(|| Python {
            processes: processes.iter().take(MAX_ROWS).map(row).collect(),
            processes_left_out: Some(left_out).filter(|count| *count > 0),
        })
    }
}

/// Adds another futex of the same lock.
fn add_lock(into: &mut Lock, other: &Lock) {
    into.waits += other.waits;
    into.completed += other.completed;
    into.total_ns = into.total_ns.saturating_add(other.total_ns);
    into.max_ns = into.max_ns.max(other.max_ns);
    for waiter in &other.waiters {
        match into.waiters.iter_mut().find(|known| known.party.serial == waiter.party.serial) {
            Some(known) => add_waiter(known, waiter),
            None => into.waiters.push(waiter.clone()),
        }
    }
    // Beyond the waiters that are kept, those of the busier futex.
    into.threads = into.threads.max(other.threads).max(into.waiters.len() as u64);
    add_wakers(&mut into.wakers, &other.wakers);
}

fn add_waiter(into: &mut WaiterTally, other: &WaiterTally) {
    into.count += other.count;
    into.total_ns = into.total_ns.saturating_add(other.total_ns);
    into.open |= other.open;
    for (place, ns) in &other.places {
        tally_place(&mut into.places, *place, *ns, usize::MAX);
    }
}

/// Adds another futex's waits of the same thread.
fn add_waits(into: &mut WaitStat, other: &WaitStat) {
    into.count += other.count;
    into.total_ns = into.total_ns.saturating_add(other.total_ns);
    into.max_ns = into.max_ns.max(other.max_ns);
    into.open |= other.open;
    into.joins += other.joins;
    add_wakers(&mut into.wakers, &other.wakers);
    for (place, ns) in &other.places {
        tally_place(&mut into.places, *place, *ns, usize::MAX);
    }
}

fn add_wakers(into: &mut Vec<WakerTally>, other: &[WakerTally]) {
    let who = |tally: &WakerTally| (tally.wake.context, tally.wake.by.map(|party| (party.serial, party.tid)));
    for tally in other {
        match into.iter_mut().find(|known| who(known) == who(tally)) {
            Some(known) => known.count += tally.count,
            None => into.push(*tally),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(tgid: u32, start: u64) -> PythonRecord {
        PythonRecord {
            tgid,
            gil: Some(Addresses { start, end: start + 88 }),
            gil_handed_over: Some(Addresses { start: start + 88, end: start + 176 }),
            ..PythonRecord::default()
        }
    }

    #[test]
    fn all_futexes_of_the_lock_count_under_one_address_and_handing_over_under_another() {
        let mut pythons = Pythons::default();
        assert_eq!(pythons.address(10, 0x1028), 0x1028, "no Python is known");
        pythons.record(&record(10, 0x1000));
        for address in [0x1000, 0x1028, 0x102c, 0x1030, 0x1057] {
            assert_eq!(pythons.gil(10, address), Some((0x1000, GilPart::Wanted)), "{address:#x}");
        }
        assert_eq!(pythons.gil(10, 0x1058 + 40), Some((0x1058, GilPart::HandedOver)));
        assert_eq!((pythons.gil(10, 0xfff), pythons.gil(10, 0x10b0), pythons.gil(11, 0x1000)), (None, None, None));
    }

    #[test]
    fn a_forked_child_has_its_parents_lock_until_it_executes_another_program() {
        let mut pythons = Pythons::default();
        pythons.fork(11, 10);
        pythons.fork(12, 11);
        pythons.record(&record(10, 0x1000));
        assert_eq!(pythons.address(12, 0x1030), 0x1000, "by its grandparent, whose record came later than both forks");
        pythons.exec(11);
        assert_eq!(pythons.address(11, 0x1030), 0x1030);
        pythons.record(&record(11, 0x8000));
        assert_eq!((pythons.address(11, 0x8030), pythons.address(10, 0x1030)), (0x8000, 0x1000));
        pythons.fork(13, 13);
        assert_eq!(pythons.address(13, 0x1030), 0x1030, "a damaged record leads nowhere, and ends");
    }

    #[test]
    fn a_process_that_executed_has_the_locks_of_all_its_programs_within_a_bound() {
        let mut pythons = Pythons::default();
        for program in 0..8 {
            pythons.record(&record(10, program << 16));
            pythons.record(&record(10, program << 16));
        }
        assert_eq!(pythons.known[&10].len(), MAX_PROGRAMS);
        assert_eq!(pythons.address(10, (3 << 16) + 9), 3 << 16);
    }
}
