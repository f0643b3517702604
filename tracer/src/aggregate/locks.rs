//! Futexes of all processes: who waited, who held, who woke. Keyed by address space and address, so that an address means
//! another lock after exec. Bounded by [`MAX_LOCKS`]; waits on further ones are counted.

use tracer_common::futex::LockKind;
use tracer_common::sched::WakeContext;

use super::hash::FastMap;
use super::open_waits::OpenWait;
use super::processes::Processes;
use super::thread::Party;
use super::waits::{NO_LOCK, OwnerTally, Wake, WakerTally, tally_owner, tally_place, tally_wake};

/// Futexes kept: some 20 MiB at worst, for one waiter each.
pub const MAX_LOCKS: usize = 65_536;

/// From so many locks on, small ones of processes that ended are dropped.
const CROWDED: usize = 4_096;

/// What is small: under this no rule and no table would name it.
const SMALL_NS: u64 = 10_000_000;

/// Waiting threads, owners and wakers kept of one lock.
const MAX_PARTIES: usize = 256;

/// Places kept of one waiter.
const MAX_WAITER_PLACES: usize = 4;

/// One thread's waits on a lock.
#[derive(Clone, Debug)]
pub struct WaiterTally {
    /// Who.
    pub party: Party,
    /// How often.
    pub count: u64,
    /// How long.
    pub total_ns: u64,
    /// Whether it waits at the end of the window.
    pub open: bool,
    /// That wait, if it is known who holds the lock.
    pub now: Option<OpenWait>,
    /// Where in its code, and how long; at most `MAX_WAITER_PLACES`.
    pub places: Vec<(u32, u64)>,
}

/// One futex.
#[derive(Clone, Debug)]
pub struct Lock {
    /// The process.
    pub tgid: u32,
    /// Its address space's number.
    pub space: u32,
    /// The address.
    pub address: u64,
    /// The kind of lock, once an owner was seen.
    pub kind: Option<LockKind>,
    /// Waits begun or under way.
    pub waits: u64,
    /// Waits that ended.
    pub completed: u64,
    /// Time waited, all threads.
    pub total_ns: u64,
    /// The longest wait.
    pub max_ns: u64,
    /// Threads that waited.
    pub threads: u64,
    /// Of these the first.
    pub waiters: Vec<WaiterTally>,
    /// Owners seen.
    pub owners: Vec<OwnerTally>,
    /// Waits with an owner.
    pub waits_with_owner: u64,
    /// Waits that an owner ended.
    pub woken_by_owner: u64,
    /// Threads that ended waits.
    pub wakers: Vec<WakerTally>,
    /// When a wait last ended.
    pub last_end_ns: u64,
    /// Waits at whose beginning the memory was that of a malloc arena.
    pub heap_arena: u64,
    /// Waits that a thread ended by ending itself.
    pub joins: u64,
}

/// A wait that is to be added.
#[derive(Clone, Copy)]
pub struct Added {
    /// Its length.
    pub ns: u64,
    /// Where in its code the thread waited.
    pub place: u32,
    /// When it ended, or the window.
    pub until_ns: u64,
    /// Who held the lock when it began.
    pub holder: Option<(Party, LockKind)>,
    /// What ended it; none: the window did.
    pub end: Option<Wake>,
    /// In that case, who holds the lock.
    pub open: Option<OpenWait>,
    /// Whether the memory was that of a malloc arena when it began.
    pub heap_arena: bool,
}

/// See the file's head.
#[derive(Default)]
pub struct Locks {
    slots: Vec<Option<Lock>>,
    free: Vec<u32>,
    by_address: FastMap<(u32, u64), u32>,
    /// Futexes seen, dropped ones included.
    pub seen: u64,
    /// Waits on futexes without an entry.
    pub waits_not_itemised: u64,
}

impl Locks {
    /// The entry of a futex, made if there is room.
    pub fn entry(&mut self, space: u32, tgid: u32, address: u64) -> u32 {
        if let Some(index) = self.by_address.get(&(space, address)) {
            return *index;
        }
        if self.by_address.len() >= MAX_LOCKS {
            return NO_LOCK;
        }
        self.seen += 1;
        let lock = Lock {
            tgid,
            space,
            address,
            kind: None,
            waits: 0,
            completed: 0,
            total_ns: 0,
            max_ns: 0,
            threads: 0,
            waiters: Vec::new(),
            owners: Vec::new(),
            waits_with_owner: 0,
            woken_by_owner: 0,
            wakers: Vec::new(),
            last_end_ns: 0,
            heap_arena: 0,
            joins: 0,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = Some(lock);
                index
            }
            None => {
                self.slots.push(Some(lock));
                (self.slots.len() - 1) as u32
            }
        };
        self.by_address.insert((space, address), index);
        index
    }

    /// The entry of a thread that waits on a lock for the first time; [`NO_LOCK`] without room.
    pub fn add_waiter(&mut self, lock: u32, party: Party) -> u32 {
        let Some(lock) = self.get_mut(lock) else { return NO_LOCK };
        lock.threads += 1;
        if lock.waiters.len() >= MAX_PARTIES {
            return NO_LOCK;
        }
        lock.waiters.push(WaiterTally { party, count: 0, total_ns: 0, open: false, now: None, places: Vec::new() });
        (lock.waiters.len() - 1) as u32
    }

    /// Adds a wait to the entry of a lock and to that of its waiter.
    pub fn add_wait(
        &mut self,
        (lock, waiter): (u32, u32),
        Added { ns, place, until_ns, holder, end, open, heap_arena }: Added,
        processes: &Processes,
    ) {
        let Some(lock) = self.get_mut(lock) else {
            self.waits_not_itemised += 1;
            return;
        };
        lock.waits += 1;
        lock.heap_arena += u64::from(heap_arena);
        lock.total_ns = lock.total_ns.saturating_add(ns);
        lock.max_ns = lock.max_ns.max(ns);
        if let Some(waiter) = lock.waiters.get_mut(waiter as usize) {
            waiter.count += 1;
            waiter.total_ns = waiter.total_ns.saturating_add(ns);
            waiter.open = end.is_none();
            waiter.now = open;
            tally_place(&mut waiter.places, place, ns, MAX_WAITER_PLACES);
        }
        if let Some((party, kind)) = holder {
            tally_owner(&mut lock.owners, party, MAX_PARTIES, processes);
            lock.kind = Some(kind);
            lock.waits_with_owner += 1;
        }
        if let Some(wake) = end {
            lock.completed += 1;
            lock.joins += u64::from(wake.exiting);
            lock.last_end_ns = lock.last_end_ns.max(until_ns);
            if let (WakeContext::Task, Some(by)) = (wake.context, wake.by) {
                lock.woken_by_owner += u64::from(lock.owners.iter().any(|owner| owner.party.serial == by.serial));
                tally_wake(&mut lock.wakers, wake, MAX_PARTIES, processes);
            }
        }
    }

    /// An address space is gone: its locks will not be waited on again. Drops small ones when the table is crowded.
    pub fn retire(&mut self, space_locks: &[u32]) {
        for index in space_locks {
            let slot = &mut self.slots[*index as usize];
            if self.by_address.len() > CROWDED
                && let Some(lock) = slot.take_if(|lock| lock.total_ns < SMALL_NS)
            {
                self.by_address.remove(&(lock.space, lock.address));
                self.free.push(*index);
            }
        }
    }

    /// All entries, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = &Lock> {
        self.slots.iter().flatten()
    }

    fn get_mut(&mut self, lock: u32) -> Option<&mut Lock> {
        self.slots.get_mut(lock as usize)?.as_mut()
    }
}
