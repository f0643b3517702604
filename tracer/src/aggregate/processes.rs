//! Processes: name, parent, address space, and the sums of threads that ended. Bounded by the threads that live, plus the
//! [`MAX_ENDED`] that used most CPU of those that ended.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::classify::State;
use super::hash::FastMap;
use super::names::NameId;
use super::spawned::Spawned;
use super::thread::{Party, Sums};

/// Processes kept after their end.
pub const MAX_ENDED: usize = 256;

/// Futexes remembered per address space, to drop them with it.
const MAX_SPACE_LOCKS: usize = 4_096;

/// One process.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Its id.
    pub tgid: u32,
    /// Its leader's last name.
    pub name: NameId,
    /// Its parent; 0: not known.
    pub parent: u32,
    /// Its id in its own pid namespace; 0: not known.
    pub ns_pid: u32,
    /// Number of its address space, unique in a run: another one after exec.
    pub space: u32,
    /// Threads in the table.
    pub live: u32,
    /// Threads ever.
    pub threads: u64,
    /// Sums of threads that ended; at the end of all.
    pub sums: Sums,
    /// Entries in the lock table.
    pub locks: Vec<u32>,
    /// When it was started; 0: not seen.
    pub start_ns: u64,
    /// What it started.
    pub spawned: Option<Box<Spawned>>,
}

impl Process {
    /// Remembers a lock of its address space.
    pub fn add_lock(&mut self, lock: u32) {
        if self.locks.len() < MAX_SPACE_LOCKS {
            self.locks.push(lock);
        }
    }
}

/// Orders by CPU time, then smaller pid, then earlier address space.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(u64, Reverse<u32>, Reverse<u32>);

#[derive(Debug)]
struct Ended(Rank, Process);

impl PartialEq for Ended {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Ended {}

impl PartialOrd for Ended {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ended {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

/// See the file's head.
#[derive(Default)]
pub struct Processes {
    live: FastMap<u32, Process>,
    ended: BinaryHeap<Reverse<Ended>>,
    spaces: u32,
    /// Processes ever.
    pub seen: u64,
    /// Threads ever.
    pub threads: u64,
    /// Sums of all processes that ended.
    pub ended_sums: Sums,
}

impl Processes {
    /// The process, made if it is new.
    pub fn entry(&mut self, tgid: u32) -> &mut Process {
        let (spaces, seen) = (&mut self.spaces, &mut self.seen);
        self.live.entry(tgid).or_insert_with(|| {
            *spaces += 1;
            *seen += 1;
            Process { tgid, space: *spaces, ..Process::default() }
        })
    }

    /// The live process.
    pub fn get(&self, tgid: u32) -> Option<&Process> {
        self.live.get(&tgid)
    }

    /// The live process.
    pub fn get_mut(&mut self, tgid: u32) -> Option<&mut Process> {
        self.live.get_mut(&tgid)
    }

    /// Fills in the process's name, when a party is met for the first time.
    pub fn introduce(&self, mut party: Party) -> Party {
        party.process = self.get(party.tgid).map_or(party.process, |process| process.name);
        party
    }

    /// Gives the process a new address space. Returns the locks of the old one.
    pub fn renew_space(&mut self, tgid: u32) -> Vec<u32> {
        self.spaces += 1;
        let space = self.spaces;
        match self.live.get_mut(&tgid) {
            Some(process) => {
                process.space = space;
                std::mem::take(&mut process.locks)
            }
            None => Vec::new(),
        }
    }

    /// What a live process started, to be added to.
    pub fn spawned(&mut self, tgid: u32) -> Option<&mut Spawned> {
        self.live.get_mut(&tgid).map(|process| &mut **process.spawned.get_or_insert_default())
    }

    /// Takes in a thread's sums. When it was the last thread the process ends; returns its locks then. `end_ns`: when the thread ended;
    /// none: the window did.
    pub fn thread_ended(&mut self, tgid: u32, sums: &Sums, end_ns: Option<u64>) -> Vec<u32> {
        let Some(process) = self.live.get_mut(&tgid) else {
            // A thread whose process was never told: only the totals know it.
            self.ended_sums.add(sums);
            return Vec::new();
        };
        process.sums.add(sums);
        process.live = process.live.saturating_sub(1);
        if process.live > 0 {
            return Vec::new();
        }
        let (parent, start_ns) = (process.parent, process.start_ns);
        if let (Some(end_ns), true, Some(spawned)) = (end_ns, start_ns > 0, self.spawned(parent)) {
            spawned.end(end_ns.saturating_sub(start_ns));
        }
        self.end(tgid)
    }

    /// Ends the process, if it lives. Returns its locks.
    pub fn end(&mut self, tgid: u32) -> Vec<u32> {
        let Some(mut process) = self.live.remove(&tgid) else { return Vec::new() };
        let locks = std::mem::take(&mut process.locks);
        self.ended_sums.add(&process.sums);
        let rank = Rank(process.sums.of(State::OnCpu), Reverse(tgid), Reverse(process.space));
        if self.ended.len() < MAX_ENDED {
            self.ended.push(Reverse(Ended(rank, process)));
        } else if self.ended.peek().is_some_and(|Reverse(least)| least.0 < rank) {
            self.ended.pop();
            self.ended.push(Reverse(Ended(rank, process)));
        }
        locks
    }

    /// Ends what is left: processes of which no thread was in the table.
    pub fn end_all(&mut self) {
        let mut left: Vec<u32> = self.live.keys().copied().collect();
        left.sort_unstable();
        for tgid in left {
            self.end(tgid);
        }
    }

    /// Of the processes that ended the ones kept: most CPU first, then by pid.
    pub fn ranked(&self) -> Vec<&Process> {
        let mut all: Vec<&Process> = self.ended.iter().map(|Reverse(Ended(_, process))| process).collect();
        all.sort_by_key(|process| (Reverse(process.sums.of(State::OnCpu)), process.tgid, process.space));
        all
    }
}
