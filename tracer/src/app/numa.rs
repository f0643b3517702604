//! On which NUMA nodes the memory of traced processes lies, on hosts with several: a process is read when it has lived for a fifth of a
//! second, likewise after it executed a program, and then every two seconds. Bounded: it takes at most one in 200 parts of a CPU's time,
//! beside the first fiftieth of a second. Where there is one node, that is told once and nothing else is read.

use std::collections::{BTreeMap, BTreeSet};

use super::budget::Budget;
use crate::kernel::{clock, numa};
use crate::model::meta::{NodeMemory, ProcessMemory, ProcessNodes};

/// Processes watched.
const MAX_PROCESSES: usize = 256;
/// Numbers of those remembered that were not read.
const MAX_REFUSED: usize = 1024;
/// So young a process is not read: it may be gone at once, or about to execute another program.
const YOUNG_NS: u64 = 200_000_000;
/// A smaller process fits into caches, where it does not matter where its memory lies.
const LEAST_RESIDENT_BYTES: u64 = 16 << 20;
/// A larger process is not read: the kernel holds the lock of its address space while it walks, some 10 ns for each page.
const MAX_RESIDENT_BYTES: u64 = 32 << 30;
/// A process is read at most so often.
const PERIOD_NS: u64 = 2_000_000_000;
/// The nodes' own counters are read so often, and at the end.
const NODES_PERIOD_NS: u64 = 10_000_000_000;
/// Reading takes at most one in so many parts of a CPU's time.
const PAUSE_FACTOR: u64 = 200;
/// What it may take before that counts: a short run is read once.
const AHEAD_NS: u64 = 20_000_000;

/// How many nodes the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    NotAsked,
    /// One, or the kernel does not tell.
    One,
    Several,
}

/// See the file's head.
pub struct Numa {
    host: Host,
    next_nodes_ns: u64,
    /// When each process may be read again.
    due: BTreeMap<u32, u64>,
    refused: BTreeSet<u32>,
    budget: Budget,
}

impl Default for Numa {
    fn default() -> Self {
        Numa {
            host: Host::NotAsked,
            next_nodes_ns: 0,
            due: BTreeMap::new(),
            refused: BTreeSet::new(),
            budget: Budget::new(PAUSE_FACTOR, AHEAD_NS),
        }
    }
}

fn resident(sizes: &ProcessMemory) -> u64 {
    sizes.anonymous.saturating_add(sizes.file).saturating_add(sizes.shared)
}

impl Numa {
    /// A process has ended, or executes another program: where that will lie nobody knows yet.
    pub fn forget(&mut self, pid: u32) {
        self.due.remove(&pid);
    }

    /// The nodes, if it is time to tell of them; `last`: it is the last time.
    pub fn nodes(&mut self, now_ns: u64, last: bool) -> Vec<NodeMemory> {
        if self.host == Host::One || (now_ns < self.next_nodes_ns && !last) {
            return Vec::new();
        }
        self.next_nodes_ns = now_ns.saturating_add(NODES_PERIOD_NS);
        let nodes = numa::nodes();
        if self.host == Host::NotAsked {
            self.host = if nodes.len() > 1 { Host::Several } else { Host::One };
        }
        nodes
    }

    /// Reads the one of these processes that is due and waits longest; and how many cannot be read.
    pub fn read(&mut self, seen: &[ProcessMemory]) -> (Vec<ProcessNodes>, u64) {
        if self.host != Host::Several {
            return (Vec::new(), 0);
        }
        let now_ns = clock::monotonic_ns();
        let due = self.next(seen, now_ns);
        let read = due.and_then(|pid| {
            let read = self.budget.spend(now_ns, || one(pid))?;
            self.due.insert(pid, now_ns.saturating_add(PERIOD_NS));
            read
        });
        (read.into_iter().collect(), self.refused.len() as u64)
    }

    fn next(&mut self, seen: &[ProcessMemory], now_ns: u64) -> Option<u32> {
        let mut next: Option<(u64, u32)> = None;
        for sizes in seen.iter().filter(|sizes| resident(sizes) >= LEAST_RESIDENT_BYTES) {
            let is_new = !self.due.contains_key(&sizes.pid);
            if resident(sizes) > MAX_RESIDENT_BYTES || (is_new && self.due.len() >= MAX_PROCESSES) {
                if self.refused.len() < MAX_REFUSED {
                    self.refused.insert(sizes.pid);
                }
                continue;
            }
            let due_ns = *self.due.entry(sizes.pid).or_insert(now_ns.saturating_add(YOUNG_NS));
            if due_ns <= now_ns && next.is_none_or(|next| (due_ns, sizes.pid) < next) {
                next = Some((due_ns, sizes.pid));
            }
        }
        next.map(|(_, pid)| pid)
    }
}

fn one(pid: u32) -> Option<ProcessNodes> {
    let at_ns = clock::monotonic_ns();
    let nodes = numa::process(pid)?;
    Some(ProcessNodes { at_ns, took_ns: clock::monotonic_ns().saturating_sub(at_ns), ..nodes })
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn sizes(pid: u32, bytes: u64) -> ProcessMemory {
        ProcessMemory { pid, anonymous: bytes, ..ProcessMemory::default() }
    }

    #[test]
    fn the_nodes_are_told_at_first_seldom_and_at_last_and_one_alone_only_once() {
        let mut numa = Numa::default();
        let told = numa.nodes(S, false).len();
        assert_eq!(numa.host == Host::Several, told > 1, "{told} nodes");
        numa.host = Host::Several;
        assert!(numa.nodes(2 * S, false).is_empty(), "its time has not come");
        assert_eq!((numa.nodes(2 * S, true).len(), numa.nodes(12 * S, false).len()), (told, told));
        numa.host = Host::One;
        assert!(numa.nodes(50 * S, true).is_empty());
        assert_eq!(numa.read(&[sizes(1, S)]), (Vec::new(), 0), "nothing further is read");
        assert!(numa.due.is_empty());
    }

    #[test]
    fn who_waits_longest_is_next_and_who_is_too_small_too_large_or_too_young_is_not() {
        let mut numa = Numa { host: Host::Several, ..Numa::default() };
        let seen = [sizes(1, 1 << 20), sizes(2, 64 << 30), sizes(3, 1 << 30), sizes(4, 1 << 30)];
        assert_eq!(numa.next(&seen, S), None, "all are young");
        numa.due.insert(3, 3 * S);
        assert_eq!(numa.next(&seen, 4 * S), Some(4));
        numa.due.insert(4, 6 * S);
        assert_eq!((numa.next(&seen, 4 * S), numa.next(&seen, 2 * S)), (Some(3), None));
        assert_eq!(numa.refused, BTreeSet::from([2]));
        numa.forget(3);
        assert_eq!(numa.next(&seen, 4 * S), None, "it executed another program");
        (1_000..2_000).for_each(|pid| {
            numa.next(&[sizes(pid, 1 << 30)], 4 * S);
        });
        assert_eq!((numa.due.len(), numa.refused.len()), (MAX_PROCESSES, 1 + 1_000 - (MAX_PROCESSES - 2)));
    }

    #[test]
    fn this_process_is_read_once_and_not_at_once_again() {
        let mut numa = Numa { host: Host::Several, ..Numa::default() };
        let pid = std::process::id();
        let seen = [sizes(pid, 1 << 30)];
        assert!(numa.read(&seen).0.is_empty(), "it is young");
        numa.due.insert(pid, 0);
        let read = numa.read(&seen).0;
        assert!(read.iter().all(|read| read.pid == pid && read.at_ns > 0 && !read.nodes.is_empty()), "{read:?}");
        assert!(numa.due.get(&pid).is_some_and(|due_ns| *due_ns > clock::monotonic_ns()), "read or not");
    }
}
