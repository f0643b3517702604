//! Locks of the kernel: per process and kind of lock who waited, who held it then, and who gave it back. Bounded: at most
//! [`MAX_ROWS`] rows with [`MAX_PARTIES`] threads in each role; what finds no room is counted.
//!
//! Two sources meet here. A contention's record tells how long a thread was kept from a lock, time without a CPU included, and who
//! held it. The switches tell how much of that the thread slept; only this and what it spun can be laid to the lock.

use tracer_common::lock::{Contended, Kind, contended_flags as flags};

use super::Aggregate;
use super::hash::FastMap;
use super::thread::Party;
use super::waits::{Wake, WakerTally, tally_place, tally_wake};
use crate::model::meta::{LocksRecord, ShortContentions};

/// Rows kept: 40 MiB at worst.
const MAX_ROWS: usize = 1_024;

/// Waiters, owners and wakers kept of one row.
const MAX_PARTIES: usize = 64;

/// Distinct locks counted of one row.
pub const MAX_ADDRESSES: usize = 64;

/// Places kept of one waiter.
const MAX_PLACES: usize = 4;

/// Times of contentions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Contentions that were recorded.
    pub count: u64,
    /// How long they lasted.
    pub total_ns: u64,
    /// Of this spun.
    pub spun_ns: u64,
    /// Of this slept.
    pub slept_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Times {
    fn add(&mut self, total_ns: u64, spun_ns: u64) {
        self.count += 1;
        self.total_ns = self.total_ns.saturating_add(total_ns);
        self.spun_ns = self.spun_ns.saturating_add(spun_ns);
        self.max_ns = self.max_ns.max(total_ns);
    }
}

/// One thread's waits.
#[derive(Clone, Debug)]
pub struct WaiterTimes {
    /// Who.
    pub party: Party,
    /// How long.
    pub times: Times,
    /// Where in its code it slept, and how long.
    pub places: Vec<(u32, u64)>,
}

/// A thread that held the lock when others began to wait.
#[derive(Clone, Copy, Debug)]
pub struct OwnerTimes {
    /// Who.
    pub party: Party,
    /// In how many waits.
    pub count: u64,
    /// In how many of them it held the lock to read, as far as the kernel remembers.
    pub reading: u64,
    /// How long these waits lasted.
    pub total_ns: u64,
}

/// All locks of a kind, as one process met them.
#[derive(Debug, Default)]
pub struct Row {
    /// All threads.
    pub times: Times,
    /// Threads that waited.
    pub threads: u64,
    /// Of these the first.
    pub waiters: Vec<WaiterTimes>,
    /// Owners seen.
    pub owners: Vec<OwnerTimes>,
    /// Recorded contentions with an owner.
    pub with_owner: u64,
    /// Who ended the sleeps.
    pub wakers: Vec<WakerTally>,
    /// Distinct locks, as far as there is room.
    pub addresses: Vec<u64>,
}

/// See the file's head.
#[derive(Default)]
pub struct KernelLocks {
    /// By process and number of the kind.
    rows: FastMap<(u32, u8), Row>,
    short: Vec<ShortContentions>,
    active: bool,
    /// Contentions and sleeps without a row.
    pub not_itemised: u64,
}

impl KernelLocks {
    /// The family `lock` was told of.
    pub fn family(&mut self, status: &str) {
        self.active |= status != "unavailable";
    }

    /// Whether the family ran, or at least left something.
    pub fn is_active(&self) -> bool {
        self.active || !self.rows.is_empty()
    }

    /// Takes the sums of short contentions.
    pub fn short(&mut self, record: &LocksRecord) {
        self.short.clone_from(&record.short);
    }

    /// Rows by process and kind.
    pub fn rows(&self) -> impl Iterator<Item = ((u32, Kind), &Row)> {
        self.rows.iter().map(|((tgid, kind), row)| ((*tgid, Kind::from_number(*kind)), row))
    }

    /// Sums of short contentions, by process and kind.
    pub fn short_ones(&self) -> impl Iterator<Item = ((u32, Kind), &ShortContentions)> {
        self.short.iter().map(|short| ((short.tgid, Kind::from_number(short.kind)), short))
    }

    fn row(&mut self, tgid: u32, kind: u8) -> Option<&mut Row> {
        if self.rows.len() >= MAX_ROWS && !self.rows.contains_key(&(tgid, kind)) {
            self.not_itemised += 1;
            return None;
        }
        Some(self.rows.entry((tgid, kind)).or_default())
    }
}

impl Row {
    /// The thread's entry; none without room.
    fn waiter(&mut self, party: Party) -> Option<&mut WaiterTimes> {
        let same = |waiter: &WaiterTimes| waiter.party.serial == party.serial && waiter.party.tid == party.tid;
        if let Some(position) = self.waiters.iter().position(same) {
            return self.waiters.get_mut(position);
        }
        if self.waiters.len() >= MAX_PARTIES {
            return None;
        }
        self.threads += 1;
        self.waiters.push(WaiterTimes { party, times: Times::default(), places: Vec::new() });
        self.waiters.last_mut()
    }

    fn owner(&mut self, party: Party, reads: bool, ns: u64) {
        self.with_owner += 1;
        let same = |owner: &&mut OwnerTimes| owner.party.serial == party.serial && owner.party.tid == party.tid;
        if let Some(owner) = self.owners.iter_mut().find(same) {
            owner.count += 1;
            owner.reading += u64::from(reads);
            owner.total_ns = owner.total_ns.saturating_add(ns);
        } else if self.owners.len() < MAX_PARTIES {
            self.owners.push(OwnerTimes { party, count: 1, reading: u64::from(reads), total_ns: ns });
        }
    }
}

impl Aggregate {
    /// A thread has waited for a kernel lock.
    pub(super) fn contended(&mut self, event: &Contended) {
        let Contended { header, tid, tgid, .. } = *event;
        let since_ns = header.ts_ns.saturating_sub(event.duration_ns).max(self.span.start_ns);
        if header.ts_ns <= self.span.start_ns {
            return;
        }
        let total_ns = header.ts_ns.saturating_sub(since_ns);
        let spun_ns = u64::from(event.spun_ns).min(total_ns);
        let waiter = self.party_at(tid, tgid, header.ts_ns);
        let reads = event.flags & flags::OWNER_READS != 0;
        let owner = self.owner_of(event, reads, since_ns);
        let Some(row) = self.kernel_locks.row(tgid, event.kind) else { return };
        row.times.add(total_ns, spun_ns);
        if let Some(entry) = row.waiter(waiter) {
            entry.times.add(total_ns, spun_ns);
        }
        if let Some(owner) = owner {
            row.owner(owner, reads, total_ns);
        }
        if row.addresses.len() < MAX_ADDRESSES && !row.addresses.contains(&event.lock) {
            row.addresses.push(event.lock);
        }
    }

    /// A thread has slept for a kernel lock; without `end` it still does.
    pub(super) fn slept_for_kernel_lock(&mut self, index: u32, kind: Kind, (ns, place): (u64, u32), end: Option<Wake>) {
        let Some(party) = self.threads.party(index) else { return };
        let party = self.processes.introduce(party);
        let Some(row) = self.kernel_locks.row(party.tgid, kind as u8) else { return };
        row.times.slept_ns = row.times.slept_ns.saturating_add(ns);
        if let Some(waiter) = row.waiter(party) {
            waiter.times.slept_ns = waiter.times.slept_ns.saturating_add(ns);
            tally_place(&mut waiter.places, place, ns, MAX_PLACES);
        }
        if let Some(wake) = end {
            tally_wake(&mut row.wakers, wake, MAX_PARTIES, &self.processes);
        }
    }

    /// The thread that had this id, with its names if it is or was in the table.
    fn party_at(&self, tid: u32, tgid: u32, ts_ns: u64) -> Party {
        let (mut party, _) = self.waker(tid, ts_ns);
        if party.tgid == 0 {
            party.tgid = tgid;
        }
        self.processes.introduce(party)
    }

    /// Who held the lock, if that can be believed. A semaphore that readers hold remembers the last one of them even when that one has
    /// given it back, so it must at least be a thread that is known, and another one than the waiter.
    fn owner_of(&self, event: &Contended, reads: bool, since_ns: u64) -> Option<Party> {
        if event.owner_tid == 0 || event.owner_tid == event.tid {
            return None;
        }
        let party = self.party_at(event.owner_tid, event.owner_tgid, since_ns);
        let fits = party.tgid == event.owner_tgid && (party.serial != 0 || !reads);
        fits.then_some(party)
    }
}
