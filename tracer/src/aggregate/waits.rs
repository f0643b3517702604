//! What one thread waited for: per object how often, how long, who held it and who ended the waits. Bounded: at most
//! [`MAX_OBJECTS`] objects per thread and state, then one entry per state for all others; of files and sockets `OBJECTS_OF_CALL` more of each
//! call, then one entry per call: the files that a program reads as it starts must take the room neither of the locks that it waits for
//! later nor of what it saves.

use tracer_common::futex::LockKind;
use tracer_common::sched::WakeContext;

use super::classify::{Detail, Reason, State};
use super::processes::Processes;
use super::thread::Party;

/// Distinct objects kept of one thread in each state.
pub const MAX_OBJECTS: usize = 32;
/// Calls of which those without room for their object are told apart, in each state.
const MAX_CALLS: usize = 16;
/// Of each of these calls so many objects have room when the state's is taken: what a program reads as it starts is not what it saves.
const OBJECTS_OF_CALL: usize = 8;

/// Owners kept of one wait entry.
const MAX_OWNERS: usize = 16;

/// Wakers kept of one wait entry; others are counted by their context only.
const MAX_WAKERS: usize = 16;

/// Places kept of one wait entry; the time at further ones counts at none.
pub const MAX_PLACES: usize = 8;

/// No lock entry, no waiter entry.
pub const NO_LOCK: u32 = u32::MAX;

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// From where.
    pub context: WakeContext,
    /// The thread that did, for the context `Task`.
    pub by: Option<Party>,
    /// Whether that thread is one of the same process, and had announced its end.
    pub exiting: bool,
    /// Of a thread that had announced its end, of whatever process: since when it existed.
    pub began_ns: Option<u64>,
}

/// How often a thread, or an interrupt, ended waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WakerTally {
    /// Who.
    pub wake: Wake,
    /// How often.
    pub count: u64,
}

/// How often a thread was seen to hold a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerTally {
    /// Who.
    pub party: Party,
    /// How often.
    pub count: u64,
}

/// Counts a wake. A waker for which there is no room is counted by its context.
pub fn tally_wake(list: &mut Vec<WakerTally>, mut wake: Wake, room: usize, processes: &Processes) {
    let serial_and_tid = |wake: &Wake| (wake.context, wake.by.map(|party| (party.serial, party.tid)));
    if let Some(entry) = list.iter_mut().find(|entry| serial_and_tid(&entry.wake) == serial_and_tid(&wake)) {
        entry.count += 1;
    } else if list.len() < room || wake.by.is_none() {
        // There are five contexts, so entries without a thread are few.
        wake.by = wake.by.map(|party| processes.introduce(party));
        list.push(WakerTally { wake, count: 1 });
    } else {
        tally_wake(list, Wake { by: None, ..wake }, room, processes);
    }
}

/// Counts an owner. One for which there is no room is left out.
pub fn tally_owner(list: &mut Vec<OwnerTally>, party: Party, room: usize, processes: &Processes) {
    let same = |entry: &&mut OwnerTally| entry.party.serial == party.serial && entry.party.tid == party.tid;
    if let Some(entry) = list.iter_mut().find(same) {
        entry.count += 1;
    } else if list.len() < room {
        list.push(OwnerTally { party: processes.introduce(party), count: 1 });
    }
}

/// Adds time waited at a place.
pub fn tally_place(list: &mut Vec<(u32, u64)>, place: u32, ns: u64, room: usize) {
    if place == 0 {
        return;
    }
    if let Some((_, sum)) = list.iter_mut().find(|(known, _)| *known == place) {
        *sum = sum.saturating_add(ns);
    } else if list.len() < room {
        list.push((place, ns));
    }
}

/// All waits of a thread for one thing.
#[derive(Clone, Debug)]
pub struct WaitStat {
    /// Why.
    pub reason: Reason,
    /// Inode number or address; 0: none, or several.
    pub object: u64,
    /// How many.
    pub count: u64,
    /// Time waited.
    pub total_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// Whether the thread is in it at the end of the window.
    pub open: bool,
    /// Who held it.
    pub owners: Vec<OwnerTally>,
    /// The kind of lock.
    pub kind: Option<LockKind>,
    /// Waits that a thread of the process ended by ending itself.
    pub joins: u64,
    /// What ended the waits.
    pub wakers: Vec<WakerTally>,
    /// Where in its code the thread waited, and how long.
    pub places: Vec<(u32, u64)>,
    /// Number of its entry in the lock table.
    pub lock: u32,
    /// Number of the thread's entry there.
    pub waiter: u32,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Waits {
    list: Vec<WaitStat>,
    last: u32,
}

impl Waits {
    /// The slot of waits for this, made if there is room; else the slot of all other waits of that state.
    pub fn slot(&mut self, reason: Reason, object: u64) -> u32 {
        let same = |stat: &WaitStat| stat.object == object && stat.reason == reason;
        if self.list.get(self.last as usize).is_some_and(same) {
            return self.last;
        }
        self.last = match self.list.iter().position(same) {
            Some(position) => position as u32,
            None if self.has_room(reason) => self.push(reason, object),
            None => self.rest(reason),
        };
        self.last
    }

    /// The slot of all others of that state. What was done with a file or a socket is known without it, as long as these calls are few.
    fn rest(&mut self, reason: Reason) -> u32 {
        let keeps_call = keeps_call(reason.state);
        let merged = Reason { state: reason.state, detail: Detail::None, syscall: -1 };
        let without = |stat: &&WaitStat| stat.object == 0 && stat.reason.state == reason.state && stat.reason != merged;
        let known = |list: &[WaitStat], rest| list.iter().position(|stat| stat.object == 0 && stat.reason == rest);
        let mut rest = reason;
        if !keeps_call || known(&self.list, reason).is_none() && self.list.iter().filter(without).count() >= MAX_CALLS {
            rest = merged;
        }
        match known(&self.list, rest) {
            Some(position) => position as u32,
            None => self.push(rest, 0),
        }
    }

    /// Whether one more object of this may have a slot of its own.
    fn has_room(&self, reason: Reason) -> bool {
        let (mut all, mut of_call) = (0, 0);
        for stat in self.list.iter().filter(|stat| stat.reason.state == reason.state) {
            all += 1;
            of_call += usize::from(stat.reason == reason && stat.object != 0);
        }
        let more = keeps_call(reason.state) && of_call < OBJECTS_OF_CALL;
        all < if more { MAX_OBJECTS + MAX_CALLS * OBJECTS_OF_CALL } else { MAX_OBJECTS }
    }

    fn push(&mut self, reason: Reason, object: u64) -> u32 {
        self.list.push(WaitStat {
            reason,
            object,
            count: 0,
            total_ns: 0,
            max_ns: 0,
            open: false,
            owners: Vec::new(),
            kind: None,
            joins: 0,
            wakers: Vec::new(),
            places: Vec::new(),
            lock: NO_LOCK,
            waiter: NO_LOCK,
        });
        (self.list.len() - 1) as u32
    }

    /// The entry of a slot.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut WaitStat> {
        self.list.get_mut(slot as usize)
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = &WaitStat> {
        self.list.iter()
    }

    /// Forgets which locks the futexes are: the address space is another one now.
    pub fn forget_locks(&mut self) {
        for stat in &mut self.list {
            stat.lock = NO_LOCK;
            stat.waiter = NO_LOCK;
        }
    }

    /// Sum of all waits of a state.
    pub fn total_ns(&self, state: State) -> u64 {
        self.list.iter().filter(|stat| stat.reason.state == state).map(|stat| stat.total_ns).sum()
    }
}

impl WaitStat {
    /// Adds a wait, or the part of one that lies within the window.
    pub fn add(&mut self, ns: u64, holder: Option<(Party, LockKind)>, end: Option<Wake>, processes: &Processes) {
        self.count += 1;
        self.total_ns = self.total_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
        if let Some((party, kind)) = holder {
            tally_owner(&mut self.owners, party, MAX_OWNERS, processes);
            self.kind = Some(kind);
        }
        match end {
            Some(wake) => {
                self.joins += u64::from(wake.exiting);
                tally_wake(&mut self.wakers, wake, MAX_WAKERS, processes);
            }
            None => self.open = true,
        }
    }
}

/// Whether what was done with an object is worth to be known even without it.
fn keeps_call(state: State) -> bool {
    matches!(state, State::File | State::SocketInet | State::SocketUnix)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FSYNC: i16 = 74;

    fn file(syscall: i16) -> Reason {
        Reason { state: State::File, detail: Detail::None, syscall }
    }

    /// Waits that have a place, by state and call, without those for objects of their own.
    fn others(waits: &Waits) -> Vec<i16> {
        waits.iter().filter(|stat| stat.object == 0).map(|stat| stat.reason.syscall).collect()
    }

    #[test]
    fn what_finds_no_room_for_its_file_keeps_its_call() {
        let mut waits = Waits::default();
        let reads: Vec<u32> = (1..=40).map(|object| waits.slot(file(0), object)).collect();
        let syncs: Vec<u32> = (41..=900).map(|object| waits.slot(file(FSYNC), object)).collect();
        let rest = &syncs[OBJECTS_OF_CALL..];
        assert!(rest.iter().all(|slot| *slot == rest[0] && *slot != reads[39]), "{syncs:?}");
        assert_eq!(others(&waits), [0, FSYNC]);
        assert_eq!(waits.iter().count(), MAX_OBJECTS + OBJECTS_OF_CALL + 2);
        let mut known: Vec<u64> =
            waits.iter().filter(|stat| stat.reason == file(FSYNC)).map(|stat| stat.object).collect();
        known.sort_unstable();
        assert_eq!(known, [0, 41, 42, 43, 44, 45, 46, 47, 48], "the first have their names");
    }

    #[test]
    fn calls_without_room_are_one_and_so_are_those_of_locks() {
        let mut waits = Waits::default();
        for object in 1..=40 {
            waits.slot(file(0), object);
        }
        for call in 0..200 {
            waits.slot(file(call), 1000);
        }
        assert_eq!(waits.iter().count(), MAX_OBJECTS + MAX_CALLS * (OBJECTS_OF_CALL + 1), "bounded");
        let mut waits = Waits::default();
        let lock = |syscall| Reason { state: State::Futex, detail: Detail::None, syscall };
        for object in 1..=60 {
            waits.slot(lock(202), object);
        }
        assert_eq!(others(&waits), [-1], "an address of 0 is no lock");
    }
}
