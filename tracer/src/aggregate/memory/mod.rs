//! Sizes of processes, cgroups and file systems in memory over time, and NUMA nodes, as user space read them. Bounded: 1,024 processes and 128 cgroups with
//! up to 256 points each (every second one is dropped when there are more), 128 forecasts of each cgroup and of the host; `tmpfs.rs` and `nodes.rs` have bounds of their own.

mod forecast;
mod growth;
mod nodes;
mod nodes_report;
mod report;
mod tmpfs;

use std::collections::BTreeMap;

use tracer_common::sched::Exit;

use self::forecast::Trend;
use self::growth::Growth;
use self::nodes::Nodes;
use self::tmpfs::Tmpfs;
use super::thread::Span;
use crate::model::meta::{CgroupMemory, HostMemory, MemoryRecord, ProcessMemory};

/// Processes kept.
const MAX_PROCESSES: usize = 1_024;
/// Cgroups kept.
const MAX_CGROUPS: usize = 128;
/// Points kept of each.
const MAX_POINTS: usize = 256;
/// The kernel adds its counters of pages up exactly only when it is asked, and not when it writes a peak down: one may be less than the
/// one read before by what the CPUs have not added yet.
const INEXACT_BYTES: u64 = 1 << 20;
/// So many readings in a row may be of a process that ends.
const MAX_FALLEN: u32 = 2;
/// Forecasts kept of each cgroup, and of the host.
const MAX_FORECASTS: usize = 128;

/// What came one after the other; the first and the last one always stay.
#[derive(Clone, Debug)]
pub struct Thinned<T> {
    kept: Vec<T>,
    last: Option<T>,
    /// One of so many is kept.
    step: u64,
    seen: u64,
}

impl<T> Default for Thinned<T> {
    fn default() -> Self {
        Thinned { kept: Vec::new(), last: None, step: 1, seen: 0 }
    }
}

impl<T: Clone + PartialEq> Thinned<T> {
    fn push(&mut self, value: T, most: usize) {
        if self.seen.is_multiple_of(self.step) {
            if self.kept.len() >= most {
                let mut position = 0;
                self.kept.retain(|_| {
                    position += 1;
                    position % 2 == 1
                });
                self.step *= 2;
            }
            if self.seen.is_multiple_of(self.step) {
                self.kept.push(value.clone());
            }
        }
        self.seen += 1;
        self.last = Some(value);
    }

    /// Those that were kept, and the last one.
    fn all(&self) -> impl Iterator<Item = &T> {
        let last = self.last.as_ref().filter(|last| self.kept.last() != Some(*last));
        self.kept.iter().chain(last)
    }
}

/// A value over time: when, and how much.
type Series = Thinned<(u64, u64)>;

/// A process.
#[derive(Clone, Debug, Default)]
struct Process {
    cgroup: Option<String>,
    mount_namespace: Option<u64>,
    first: (u64, ProcessMemory),
    most: (u64, ProcessMemory),
    last: (u64, ProcessMemory),
    /// The most that was swapped out.
    swapped_most: u64,
    /// The most that was locked or pinned.
    locked_most: u64,
    growth: Growth,
    /// Since the last reading it executed another program, or another process got its number.
    anew: bool,
    /// Readings one after the other at which the most that was ever resident had fallen.
    fallen: u32,
    series: Series,
}

/// A cgroup.
#[derive(Clone, Debug)]
struct Cgroup {
    first: CgroupMemory,
    last: CgroupMemory,
    series: Series,
    trend: Trend,
    forecasts: Thinned<Made>,
}

/// A forecast that was made.
#[derive(Clone, Debug, PartialEq)]
struct Made {
    t_ns: u64,
    bytes: u64,
    limit: u64,
    eta: forecast::Eta,
}

/// See the file's head.
#[derive(Default)]
pub struct Memory {
    readings: u64,
    host: Option<(HostMemory, HostMemory, u64)>,
    host_trend: Trend,
    host_forecasts: Thinned<Made>,
    processes: BTreeMap<u32, Process>,
    processes_over: u64,
    cgroups: BTreeMap<String, Cgroup>,
    tmpfs: Tmpfs,
    nodes: Nodes,
}

/// What cannot be dropped and read again.
fn held(cgroup: &CgroupMemory) -> u64 {
    cgroup.anonymous.saturating_add(cgroup.shared).saturating_add(cgroup.kernel)
}

fn resident(process: &ProcessMemory) -> u64 {
    process.anonymous.saturating_add(process.shared)
}

impl Memory {
    /// Takes a reading.
    pub fn record(&mut self, record: &MemoryRecord, span: &Span) {
        if record.at_ns < span.start_ns {
            return;
        }
        self.readings += 1;
        let t_ns = record.at_ns;
        if let Some(host) = &record.host {
            let (_, last, least) = self.host.get_or_insert_with(|| (host.clone(), host.clone(), host.available));
            *last = host.clone();
            *least = (*least).min(host.available);
            self.host_grows(t_ns, host);
        }
        for process in &record.processes {
            self.process(t_ns, process);
        }
        for cgroup in &record.cgroups {
            self.cgroup(t_ns, cgroup);
        }
        for mappings in &record.mappings {
            if let Some(process) = self.processes.get_mut(&mappings.pid) {
                process.growth.reading(mappings);
            }
        }
        for row in &record.tmpfs {
            self.tmpfs.row(t_ns, row);
        }
        self.tmpfs.over = self.tmpfs.over.max(record.tmpfs_over);
        self.nodes.host(&record.nodes);
        record.numa.iter().for_each(|reading| self.nodes.process(reading));
        self.nodes.over = self.nodes.over.max(record.numa_over);
    }

    /// What the host holds that cannot be dropped, swapped or not, against what it has.
    fn host_grows(&mut self, t_ns: u64, host: &HostMemory) {
        let swapped = host.swap_total.saturating_sub(host.swap_free);
        let bytes = host.total.saturating_sub(host.available).saturating_add(swapped);
        let limit = host.total.saturating_add(host.swap_total);
        self.host_trend.push(t_ns, bytes);
        if let Some(eta) = self.host_trend.until(limit) {
            self.host_forecasts.push(Made { t_ns, bytes, limit, eta }, MAX_FORECASTS);
        }
    }

    /// A process executes another program, which has nothing of what was there, or a new one has its number.
    pub fn anew(&mut self, tgid: u32) {
        self.nodes.anew(tgid);
        if let Some(process) = self.processes.get_mut(&tgid) {
            (process.growth, process.anew) = (Growth::default(), true);
        }
    }

    /// A thread of a process has run on a CPU for so long.
    pub fn ran(&mut self, tgid: u32, cpu: u16, ns: u64) {
        self.nodes.ran(tgid, cpu, ns);
    }

    /// A thread ended. A process that was never read saw what its parent sees.
    pub fn exit(&mut self, event: &Exit, parent: u32) {
        let namespace = |pid: u32| self.processes.get(&pid)?.mount_namespace;
        let namespace = namespace(event.tgid).or_else(|| namespace(parent));
        self.tmpfs.exit(event.header.ts_ns, (event.tid, event.tgid), event.exit_code, namespace);
    }

    fn process(&mut self, t_ns: u64, sizes: &ProcessMemory) {
        if self.processes.len() >= MAX_PROCESSES && !self.processes.contains_key(&sizes.pid) {
            self.processes_over += 1;
            return;
        }
        let mut now = (t_ns, ProcessMemory { cgroup: None, ..sizes.clone() });
        let known = self.processes.entry(sizes.pid).or_insert_with(|| Process {
            first: now.clone(),
            most: now.clone(),
            ..Process::default()
        });
        let before = known.last.1.peak;
        if sizes.peak.saturating_add(INEXACT_BYTES.max(before / 16)) < before {
            known.fallen += 1;
            // It falls while a process ends, which says nothing of what it had.
            if !known.anew && known.fallen <= MAX_FALLEN {
                return;
            }
            // Else it never does: another program runs there now, or another process has the number.
            *known = Process {
                first: now.clone(),
                most: now.clone(),
                cgroup: known.cgroup.take(),
                mount_namespace: known.mount_namespace,
                ..Process::default()
            };
        }
        now.1.peak = now.1.peak.max(known.last.1.peak);
        (known.anew, known.fallen) = (false, 0);
        known.mount_namespace = sizes.mount_namespace.or(known.mount_namespace);
        if let Some(cgroup) = &sizes.cgroup {
            known.cgroup = Some(cgroup.clone());
        }
        if resident(sizes) > resident(&known.most.1) {
            known.most = now.clone();
        }
        known.swapped_most = known.swapped_most.max(sizes.swapped);
        known.locked_most = known.locked_most.max(sizes.locked);
        known.last = now;
        known.series.push((t_ns, resident(sizes)), MAX_POINTS);
    }

    fn cgroup(&mut self, t_ns: u64, cgroup: &CgroupMemory) {
        if self.cgroups.len() >= MAX_CGROUPS && !self.cgroups.contains_key(&cgroup.path) {
            return;
        }
        let known = self.cgroups.entry(cgroup.path.clone()).or_insert_with(|| Cgroup {
            first: cgroup.clone(),
            last: cgroup.clone(),
            series: Series::default(),
            trend: Trend::default(),
            forecasts: Thinned::default(),
        });
        known.last = cgroup.clone();
        known.series.push((t_ns, held(cgroup)), MAX_POINTS);
        known.trend.push(t_ns, held(cgroup));
        if let Some(limit) = cgroup.limit
            && let Some(eta) = known.trend.until(limit)
        {
            known.forecasts.push(Made { t_ns, bytes: held(cgroup), limit, eta }, MAX_FORECASTS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::meta::ProcessMappings;

    #[test]
    fn a_long_series_is_thinned_out_and_keeps_its_ends() {
        let mut series = Series::default();
        (0..10_000).for_each(|t| series.push((t, t * 2), MAX_POINTS));
        let all: Vec<(u64, u64)> = series.all().copied().collect();
        assert!(all.len() <= MAX_POINTS + 1 && all.len() > MAX_POINTS / 3, "{}", all.len());
        assert_eq!((all.first(), all.last()), (Some(&(0, 0)), Some(&(9_999, 19_998))));
        let gaps: std::collections::BTreeSet<u64> = all.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!(gaps.len() <= 2, "evenly, but for the last: {gaps:?}");
    }

    #[test]
    fn the_last_forecast_of_each_cgroup_stays_however_many_there_were() {
        let span = Span { start_ns: 0, now_ns: 0, gaps: Default::default() };
        let mut memory = Memory::default();
        const READINGS: u64 = 4_000;
        for reading in 0..READINGS {
            let cgroup = |path: &str, limit: u64| CgroupMemory {
                path: path.to_owned(),
                anonymous: reading << 18,
                limit: Some(limit << 30),
                ..CgroupMemory::default()
            };
            let cgroups = vec![cgroup("/pod", 64), cgroup("/pod/job", 32)];
            let at_ns = 1 + reading * 250_000_000;
            memory.record(&MemoryRecord { at_ns, cgroups, ..MemoryRecord::default() }, &span);
        }
        for (path, cgroup) in &memory.cgroups {
            let all: Vec<&Made> = cgroup.forecasts.all().collect();
            assert!(all.len() <= MAX_FORECASTS + 1 && all.len() > MAX_FORECASTS / 3, "{path}: {}", all.len());
            let last = all.last().map(|made| made.t_ns);
            assert_eq!(last, Some(1 + (READINGS - 1) * 250_000_000), "{path}: that of the last reading");
        }
    }

    #[test]
    fn the_most_that_was_pinned_need_not_be_when_a_process_was_largest() {
        let span = Span { start_ns: 0, now_ns: 0, gaps: Default::default() };
        let mut memory = Memory::default();
        for (at_ns, anonymous, locked) in [(1, 100, 0), (2, 900, 0), (3, 800, 700), (4, 100, 0)] {
            let processes = vec![ProcessMemory { pid: 10, anonymous, locked, peak: 900, ..ProcessMemory::default() }];
            memory.record(&MemoryRecord { at_ns, processes, ..MemoryRecord::default() }, &span);
        }
        assert_eq!(
            memory.processes.get(&10).map(|process| (process.most.1.locked, process.locked_most)),
            Some((0, 700))
        );
    }

    #[test]
    fn a_process_that_is_read_while_it_ends_keeps_its_history_and_one_that_executes_begins_anew() {
        let span = Span { start_ns: 0, now_ns: 0, gaps: Default::default() };
        let mut memory = Memory::default();
        let read = |memory: &mut Memory, at_ns: u64, bytes: u64| {
            let process = ProcessMemory { pid: 10, anonymous: bytes, peak: bytes << 20, ..ProcessMemory::default() };
            memory.record(&MemoryRecord { at_ns, processes: vec![process], ..MemoryRecord::default() }, &span);
            memory.processes.get(&10).map(|process| (process.first.1.anonymous, process.most.1.anonymous))
        };
        read(&mut memory, 1, 10);
        assert_eq!(read(&mut memory, 2, 90), Some((10, 90)));
        assert_eq!(read(&mut memory, 3, 4), Some((10, 90)), "it ends");
        memory.anew(10);
        assert_eq!(read(&mut memory, 4, 5), Some((5, 5)), "another program");
        read(&mut memory, 5, 50);
        let seen: Vec<_> = (6..9).map(|at_ns| read(&mut memory, at_ns, 3)).collect();
        assert_eq!(seen, [Some((5, 50)), Some((5, 50)), Some((3, 3))], "nobody told that it is another one, but it is");
    }

    #[test]
    fn a_peak_that_falls_by_what_the_kernel_had_not_added_up_is_no_other_program() {
        let span = Span { start_ns: 0, now_ns: 0, gaps: Default::default() };
        let mut memory = Memory::default();
        // Of a real process: it took a MiB and gave it back.
        for (at_ns, anonymous, peak) in [(1, 1_699_840, 5_504_000), (2, 647_168, 5_234_688), (3, 647_168, 5_234_688)] {
            let processes = vec![ProcessMemory { pid: 10, anonymous, peak, ..ProcessMemory::default() }];
            let mappings = vec![ProcessMappings { pid: 10, at_ns, anonymous, ..ProcessMappings::default() }];
            memory.record(&MemoryRecord { at_ns, processes, mappings, ..MemoryRecord::default() }, &span);
        }
        let process = memory.processes.get(&10).expect("it is read");
        assert_eq!((process.first.1.anonymous, process.last.1.anonymous), (1_699_840, 647_168));
        assert_eq!(process.growth.readings(), 3, "nothing is forgotten");
    }
}
