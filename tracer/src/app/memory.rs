//! Samples how much memory the traced processes, their cgroups, the host and file systems in memory (`tmpfs.rs`) have, and on which NUMA
//! nodes it lies (`numa.rs`): read a few times a second and written into the stream as records. Runs if the family `rss` does. Bounded: so many processes, so many cgroups, so many files for a batch; where there are
//! more processes each is read more seldom.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tracer_common::record::{meta, sched};

use super::mappings::Mappings;
use super::numa::Numa;
use super::tmpfs::Tmpfs;
use crate::{
    kernel::{
        clock,
        cpu_limits::with_ancestors,
        live::push_meta,
        memory::{self, Controller},
        tmpfs::namespace,
    },
    model::{
        event::{Event, Meta},
        meta::MemoryRecord,
    },
    pipeline::{
        batch::{Batch, header},
        decode::{self, decode},
    },
};

/// Everything is read this often.
const PERIOD_NS: u64 = 250_000_000;
/// Processes watched.
const MOST_PROCESSES: usize = 1024;
/// Of these so many are read at a time: some 20 us each.
const AT_ONCE: usize = 32;
/// Cgroups watched.
const MOST_CGROUPS: usize = 64;
/// Of these with a limit, which are read each time; all others are with every fourth reading.
const MOST_LIMITED: usize = 16;
const ALL_EVERY: u64 = 4;
/// A process's cgroup is looked up again after so many readings.
const LOOK_AGAIN: u32 = 4;

/// A watched process.
#[derive(Default)]
struct Process {
    cgroup: Option<String>,
    mount_namespace: Option<u64>,
    readings: u32,
}

/// See the file's head.
pub struct Memory {
    enabled: bool,
    started: bool,
    controller: Option<Controller>,
    processes: BTreeMap<u32, Process>,
    /// Whose turn it is next.
    turns: VecDeque<u32>,
    cgroups: BTreeSet<String>,
    limited: BTreeSet<String>,
    tmpfs: Tmpfs,
    mappings: Mappings,
    numa: Numa,
    readings: u64,
    next_ns: u64,
}

impl Memory {
    /// Nothing known yet.
    pub fn new() -> Self {
        Memory {
            enabled: false,
            started: false,
            controller: None,
            processes: BTreeMap::new(),
            turns: VecDeque::new(),
            cgroups: BTreeSet::new(),
            limited: BTreeSet::new(),
            tmpfs: Tmpfs::default(),
            mappings: Mappings::default(),
            numa: Numa::default(),
            readings: 0,
            next_ns: 0,
        }
    }

    /// Looks for processes in a batch, and at their memory if it is time for that. The record goes into `records`. True: it belongs
    /// before the batch, which is the last one.
    pub fn look(&mut self, batch: &Batch, records: &mut Batch) -> bool {
        let mut last = false;
        for record in batch.iter() {
            match header(record).map(|header| header.kind) {
                Some(meta::FAMILIES) => self.family(record),
                Some(meta::START) => self.started = true,
                Some(meta::END) => last = true,
                Some(sched::CGROUP_MOVE) => self.moved(record),
                Some(sched::EXEC) => decode::process(record).into_iter().for_each(|pid| {
                    self.mappings.forget(pid);
                    self.numa.forget(pid);
                }),
                _ => {}
            }
            if self.enabled
                && let Some(pid) = decode::process(record)
                && self.processes.len() < MOST_PROCESSES
                && !self.processes.contains_key(&pid)
            {
                self.processes.insert(pid, Process::default());
                self.turns.push_front(pid);
            }
        }
        if !self.enabled || !self.started {
            return last;
        }
        let now_ns = clock::monotonic_ns();
        if now_ns >= self.next_ns || last {
            self.next_ns = now_ns + PERIOD_NS;
            // The time of what is there already, so that it is not held back behind later records.
            let ts_ns = batch.iter().next().and_then(header).map_or(0, |header| header.ts_ns);
            let record = self.read(now_ns, last);
            push_meta(records, ts_ns, meta::MEMORY, &record);
        }
        last
    }

    /// A process may be in another cgroup now: that is looked at next. The cgroup itself is known by the move, so that its limit is read
    /// also where the process is gone by then.
    fn moved(&mut self, record: &[u8]) {
        let Ok(Event::CgroupMove(event)) = decode(record) else { return };
        if let Some(process) = self.processes.get_mut(&event.tgid) {
            process.readings = 0;
            self.next_ns = 0;
        }
        let path = event.path.split(|byte| *byte == 0).next().unwrap_or_default();
        let is_whole = path.len() + 1 < event.path.len();
        if is_whole && self.controller.as_ref().is_some_and(|controller| controller.is_hierarchy(event.hierarchy)) {
            self.watch_cgroup(&String::from_utf8_lossy(path));
        }
    }

    /// A cgroup, and all above it, are read from now on.
    fn watch_cgroup(&mut self, path: &str) {
        for cgroup in with_ancestors(path) {
            if self.cgroups.len() < MOST_CGROUPS && self.cgroups.insert(cgroup) {
                // A new one is read at once.
                (self.readings, self.next_ns) = (0, 0);
            }
        }
    }

    fn family(&mut self, record: &[u8]) {
        if let Ok(Event::Meta(_, meta)) = decode(record)
            && let Meta::Families(family) = *meta
            && family.family == crate::families::rss::NAME
            && family.status != "unavailable"
        {
            self.enabled = true;
            self.controller = Controller::find();
        }
    }

    fn read(&mut self, now_ns: u64, last: bool) -> MemoryRecord {
        let mut record = MemoryRecord { at_ns: now_ns, host: memory::host(), ..MemoryRecord::default() };
        for _ in 0..self.turns.len().min(AT_ONCE) {
            let Some(pid) = self.turns.pop_front() else { break };
            let Some(mut sizes) = memory::process(pid) else {
                self.processes.remove(&pid);
                self.tmpfs.gone(pid);
                self.mappings.forget(pid);
                self.numa.forget(pid);
                continue;
            };
            self.turns.push_back(pid);
            sizes.cgroup = self.cgroup(pid);
            sizes.mount_namespace = self.mount_namespace(pid);
            record.processes.push(sizes);
        }
        if let Some(controller) = &self.controller {
            // Asking for its sums makes the kernel bring them up to date, which takes a while.
            let all = self.readings.is_multiple_of(ALL_EVERY);
            let due = self.cgroups.iter().filter(|path| all || self.limited.contains(*path));
            record.cgroups = due.filter_map(|path| controller.read(path)).collect();
            for cgroup in record.cgroups.iter().filter(|cgroup| cgroup.limit.is_some()) {
                if self.limited.len() < MOST_LIMITED {
                    self.limited.insert(cgroup.path.clone());
                }
            }
        }
        record.mappings = self.mappings.read(&record.processes);
        record.nodes = self.numa.nodes(now_ns, last);
        (record.numa, record.numa_over) = self.numa.read(&record.processes);
        (record.tmpfs, record.tmpfs_over) = self.tmpfs.read();
        self.readings += 1;
        record
    }

    /// The mount namespace of a process, if it is another one than before.
    fn mount_namespace(&mut self, pid: u32) -> Option<u64> {
        let process = self.processes.get_mut(&pid)?;
        let now = namespace(pid).filter(|now| process.mount_namespace != Some(*now))?;
        process.mount_namespace = Some(now);
        self.tmpfs.enters(pid, now);
        Some(now)
    }

    /// The cgroup of a process, if it is another one than before.
    fn cgroup(&mut self, pid: u32) -> Option<String> {
        let process = self.processes.get_mut(&pid)?;
        let due = process.readings % LOOK_AGAIN == 0;
        process.readings = process.readings.wrapping_add(1);
        if !due {
            return None;
        }
        let path = self.controller.as_ref()?.path_of(pid)?;
        if process.cgroup.as_ref() == Some(&path) {
            return None;
        }
        process.cgroup = Some(path.clone());
        self.watch_cgroup(&path);
        Some(path)
    }
}
