//! The table of threads. Bounded: [`Bounds::detailed`] threads are followed with names and waits, up to [`Bounds::followed`]
//! with their states only, further ones not at all. Of threads that ended the [`Bounds::ended`] with the most wall time are
//! kept; the rest is summed up. So a million forks take no more memory than the threads that live at once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::classify::State;
use super::hash::FastMap;
use super::names::NameId;
use super::thread::{Origin, Party, Sums, Thread};

/// See the file's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Live threads with names and waits.
    pub detailed: usize,
    /// Live threads at all: 0.4 KiB each.
    pub followed: usize,
    /// Threads kept after their end.
    pub ended: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { detailed: 10_000, followed: 65_536, ended: 512 }
    }
}

/// A thread with what its process was when it ended.
#[derive(Debug)]
pub struct Finished {
    /// The thread.
    pub thread: Thread,
    /// When it ended; none: it outlived the window.
    pub end_ns: Option<u64>,
    /// Its process's name.
    pub process: NameId,
    /// Its process's parent.
    pub parent: u32,
    /// Its process's id in its own pid namespace.
    pub ns_pid: u32,
}

impl Finished {
    /// The order of rows: wall time, then CPU time, then smaller tid, then earlier.
    pub fn rank(&self) -> (u64, u64, Reverse<u32>, Reverse<u32>) {
        let sums = &self.thread.sums;
        (sums.wall_ns(), sums.of(State::OnCpu), Reverse(self.thread.tid), Reverse(self.thread.serial))
    }
}

impl PartialEq for Finished {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Finished {}

impl PartialOrd for Finished {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Finished {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

/// Threads without a row, summed up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rest {
    /// How many.
    pub count: u64,
    /// Their sums.
    pub sums: Sums,
}

impl Rest {
    /// Adds a thread.
    pub fn add(&mut self, sums: &Sums) {
        self.count += 1;
        self.sums.add(sums);
    }
}

/// See the file's head.
pub struct Threads {
    bounds: Bounds,
    slots: Vec<Option<Thread>>,
    free: Vec<u32>,
    by_tid: FastMap<u32, u32>,
    /// (process, id in its pid namespace) to tid, where that id is not the tid.
    by_ns_tid: FastMap<(u32, u32), u32>,
    ended: BinaryHeap<Reverse<Box<Finished>>>,
    live_detailed: usize,
    serials: u32,
    /// Threads that ended and have no row.
    pub rest: Rest,
    /// Threads that were followed without detail.
    pub without_detail: u64,
    /// Threads that were not followed.
    pub not_followed: u64,
}

impl Threads {
    /// An empty table.
    pub fn new(bounds: Bounds) -> Self {
        Threads {
            bounds,
            slots: Vec::new(),
            free: Vec::new(),
            by_tid: FastMap::default(),
            by_ns_tid: FastMap::default(),
            ended: BinaryHeap::new(),
            live_detailed: 0,
            serials: 0,
            rest: Rest::default(),
            without_detail: 0,
            not_followed: 0,
        }
    }

    /// The live thread with this id.
    pub fn find(&self, tid: u32) -> Option<u32> {
        self.by_tid.get(&tid).copied()
    }

    /// The thread of an index that `find` or `add` gave.
    pub fn get(&self, index: u32) -> Option<&Thread> {
        self.slots.get(index as usize)?.as_ref()
    }

    /// The thread of an index that `find` or `add` gave.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut Thread> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// Whether another thread can be followed.
    pub fn has_room(&self) -> bool {
        self.by_tid.len() < self.bounds.followed
    }

    /// Adds a thread that is not in the table; none without room.
    pub fn add(&mut self, tid: u32, start_ns: u64, origin: Origin, gap_mark_ns: u64) -> Option<u32> {
        if !self.has_room() {
            return None;
        }
        self.serials += 1;
        let mut thread = Thread::new(tid, self.serials, start_ns, origin, gap_mark_ns);
        if self.live_detailed < self.bounds.detailed {
            self.live_detailed += 1;
            thread.detailed = Some(Box::default());
        } else {
            self.without_detail += 1;
        }
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = Some(thread);
                index
            }
            None => {
                self.slots.push(Some(thread));
                (self.slots.len() - 1) as u32
            }
        };
        self.by_tid.insert(tid, index);
        Some(index)
    }

    /// Sets process and namespace id, and the way to find the thread by it.
    pub fn identify(&mut self, index: u32, tgid: u32, ns_tid: u32) {
        let Some(thread) = self.slots.get_mut(index as usize).and_then(Option::as_mut) else { return };
        if ns_tid != 0 && thread.ns_tid == 0 {
            thread.ns_tid = ns_tid;
        }
        if thread.tgid == 0 {
            thread.tgid = tgid;
        }
        if thread.ns_tid != 0 && thread.ns_tid != thread.tid && thread.tgid != 0 {
            self.by_ns_tid.insert((thread.tgid, thread.ns_tid), thread.tid);
        }
    }

    /// Gives a thread another id. The table must not have that id.
    pub fn rekey(&mut self, index: u32, tid: u32, ns_tid: u32) {
        let Some(thread) = self.slots.get_mut(index as usize).and_then(Option::as_mut) else { return };
        self.by_tid.remove(&thread.tid);
        self.by_ns_tid.remove(&(thread.tgid, thread.ns_tid));
        let tgid = thread.tgid;
        (thread.tid, thread.ns_tid) = (tid, 0);
        self.by_tid.insert(tid, index);
        self.identify(index, tgid, ns_tid);
    }

    /// The live thread of a process that has this id in its pid namespace.
    pub fn find_in_process(&self, tgid: u32, ns_tid: u32) -> Option<u32> {
        if let Some(tid) = self.by_ns_tid.get(&(tgid, ns_tid)) {
            return self.find(*tid);
        }
        let index = self.find(ns_tid)?;
        let thread = self.get(index)?;
        (thread.tgid == tgid && (thread.ns_tid == 0 || thread.ns_tid == ns_tid)).then_some(index)
    }

    /// What others keep of a thread. The process's name is not filled in.
    pub fn party(&self, index: u32) -> Option<Party> {
        let thread = self.get(index)?;
        let ns_tid = if thread.ns_tid == 0 { thread.tid } else { thread.ns_tid };
        let Thread { tid, tgid, serial, name, .. } = *thread;
        Some(Party { tid, tgid, ns_tid, serial, name, process: NameId::NONE })
    }

    /// Takes a thread out of the table.
    pub fn remove(&mut self, index: u32) -> Option<Thread> {
        let thread = self.slots.get_mut(index as usize)?.take()?;
        self.free.push(index);
        self.by_tid.remove(&thread.tid);
        if self.by_ns_tid.get(&(thread.tgid, thread.ns_tid)) == Some(&thread.tid) {
            self.by_ns_tid.remove(&(thread.tgid, thread.ns_tid));
        }
        if thread.detailed.is_some() {
            self.live_detailed -= 1;
        }
        Some(thread)
    }

    /// Keeps a thread that was taken out, or adds it to the rest.
    pub fn bury(&mut self, finished: Finished) {
        if finished.thread.detailed.is_none() {
            self.rest.add(&finished.thread.sums);
        } else if self.ended.len() < self.bounds.ended {
            self.ended.push(Reverse(Box::new(finished)));
        } else if let Some(mut least) = self.ended.peek_mut() {
            let loser =
                if least.0.rank() < finished.rank() { std::mem::replace(&mut *least.0, finished) } else { finished };
            self.rest.add(&loser.thread.sums);
        } else {
            self.rest.add(&finished.thread.sums);
        }
    }

    /// Indices of all live threads, by tid.
    pub fn live(&self) -> Vec<u32> {
        let mut live: Vec<(u32, u32)> = self.by_tid.iter().map(|(tid, index)| (*tid, *index)).collect();
        live.sort_unstable();
        live.into_iter().map(|(_, index)| index).collect()
    }

    /// Takes the threads kept after their end, longest wall time first.
    pub fn take_ended(&mut self) -> Vec<Finished> {
        let mut ended: Vec<Finished> = self.ended.drain().map(|Reverse(finished)| *finished).collect();
        ended.sort_by_key(|finished| Reverse(finished.rank()));
        ended
    }
}
