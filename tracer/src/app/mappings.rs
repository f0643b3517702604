//! What the resident memory of traced processes consists of, by mapping: read when a process has lived for a fifth of a second, likewise after
//! it executed a program, and again each second in which it changed. Bounded: it takes at most one in 200 parts of a CPU's time, beside the first
//! tenth of a second, so a process with much memory is read more seldom.

use std::collections::BTreeMap;

use super::budget::Budget;
use crate::kernel::{clock, mappings, memory};
use crate::model::meta::{ProcessMappings, ProcessMemory};

/// Processes watched.
const MAX_PROCESSES: usize = 256;
/// Processes read at a time.
const AT_ONCE: usize = 2;
/// So young a process is not read: it may be gone at once, or about to execute another program.
const YOUNG_NS: u64 = 200_000_000;
/// A larger process is not read: the kernel holds the lock of its address space while it walks, some 10 ns for each page.
const MAX_RESIDENT_BYTES: u64 = 32 << 30;
/// A process is read at most so often.
const PERIOD_NS: u64 = 1_000_000_000;
/// Reading takes at most one in so many parts of a CPU's time.
const PAUSE_FACTOR: u64 = 200;
/// What it may take before that counts: a short run is read a few times.
const AHEAD_NS: u64 = 100_000_000;
/// A change by less is not looked at.
const LEAST_BYTES: u64 = 512 << 10;

/// A watched process: when it may be read again, and what it had.
#[derive(Clone, Copy, Default)]
struct Known {
    due_ns: u64,
    resident: u64,
}

/// See the file's head.
pub struct Mappings {
    processes: BTreeMap<u32, Known>,
    budget: Budget,
}

impl Default for Mappings {
    fn default() -> Self {
        Mappings { processes: BTreeMap::new(), budget: Budget::new(PAUSE_FACTOR, AHEAD_NS) }
    }
}

fn resident(sizes: &ProcessMemory) -> u64 {
    sizes.anonymous.saturating_add(sizes.file).saturating_add(sizes.shared)
}

impl Mappings {
    /// A process has ended, or executes another program: what it had says nothing any more.
    pub fn forget(&mut self, pid: u32) {
        self.processes.remove(&pid);
    }

    /// Reads those of these processes that are due, the one that waits longest first.
    pub fn read(&mut self, seen: &[ProcessMemory]) -> Vec<ProcessMappings> {
        let now_ns = clock::monotonic_ns();
        let mut due: Vec<(u64, u32)> = Vec::new();
        for sizes in seen {
            let Some(known) = self.processes.get(&sizes.pid) else {
                if self.processes.len() < MAX_PROCESSES {
                    let new = Known { due_ns: now_ns.saturating_add(YOUNG_NS), resident: u64::MAX };
                    self.processes.insert(sizes.pid, new);
                }
                continue;
            };
            let is_small = resident(sizes) <= MAX_RESIDENT_BYTES;
            if is_small && known.due_ns <= now_ns && known.resident.abs_diff(resident(sizes)) >= LEAST_BYTES {
                due.push((known.due_ns, sizes.pid));
            }
        }
        due.sort_unstable();
        let read = || due.into_iter().take(AT_ONCE).filter_map(|(_, pid)| one(pid)).collect();
        let read: Vec<ProcessMappings> = self.budget.spend(now_ns, read).unwrap_or_default();
        for mappings in &read {
            let resident = mappings.anonymous.saturating_add(mappings.file).saturating_add(mappings.shared);
            let due_ns = mappings.at_ns.saturating_add(PERIOD_NS);
            self.processes.insert(mappings.pid, Known { due_ns, resident });
        }
        read
    }
}

fn one(pid: u32) -> Option<ProcessMappings> {
    let at_ns = clock::monotonic_ns();
    let mappings = mappings::read(pid)?;
    // Of the same moment, or they could not be compared.
    let sizes = memory::process(pid)?;
    Some(ProcessMappings {
        pid,
        at_ns,
        took_ns: clock::monotonic_ns().saturating_sub(at_ns),
        anonymous: sizes.anonymous,
        file: sizes.file,
        shared: sizes.shared,
        proportional: mappings.proportional,
        sums: mappings.sums,
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_process_is_read_when_it_has_lived_for_a_while_and_not_at_once_again() {
        // One that is at rest, unlike this one, in which other tests run.
        let mut child = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().expect("sleep");
        std::thread::sleep(Duration::from_millis(50));
        let mut mappings = Mappings::default();
        let seen = [memory::process(child.id()).expect("a child")];
        assert!(mappings.read(&seen).is_empty(), "it is young");
        mappings.processes.values_mut().for_each(|known| known.due_ns = 0);
        let [read] = &mappings.read(&seen)[..] else { panic!("it is read") };
        let sum = |of: fn(&crate::model::meta::MappingSum) -> u64| read.sums.iter().map(of).sum::<u64>();
        let near = |a: u64, b: u64| a.abs_diff(b) <= (64 << 10).max(b / 50);
        assert!(near(sum(|sum| sum.anonymous), read.anonymous) && near(sum(|sum| sum.file), read.file), "{read:?}");
        assert!(mappings.read(&seen).is_empty(), "its time has not come");
        child.kill().and_then(|()| child.wait()).expect("a child");
    }
}
