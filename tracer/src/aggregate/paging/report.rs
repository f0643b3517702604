//! The report's section `paging`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use tracer_common::memory::{FAULT_KINDS, FaultKind, Victim, rss};

use super::cache::File;
use super::faults::{Counts, ProcessFaults as Sums};
use crate::aggregate::Aggregate;
use crate::aggregate::build::known;
use crate::aggregate::hash::FastMap;
use crate::aggregate::names::NameId;
use crate::aggregate::stacks::report::Named;
use crate::model::meta::CacheRow;
use crate::model::paging::{
    CachedFile, FaultFunction, OomKill, PAGE_BYTES, Paging as Section, ProcessFaults, SmallFiles, Stall, ThreadFaults,
};
use crate::model::report::seconds;
use crate::model::stacks::{PAGE_FAULT, UNMAP, Whose};
use crate::model::text::printable;

/// Rows of each list.
const MAX_ROWS: usize = 32;
/// Threads of a process.
const MAX_THREADS: usize = 4;

/// Bits of a minor number in the kernel's own encoding (include/linux/kdev_t.h).
const MINOR_BITS: u32 = 20;

/// A device's number, "major:minor".
pub(in crate::aggregate) fn device_number(device: u32) -> String {
    format!("{}:{}", device >> MINOR_BITS, device & ((1 << MINOR_BITS) - 1))
}

fn total(counts: &Counts) -> u64 {
    counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
}

/// What names threads and processes when all have ended.
pub(in crate::aggregate) struct Who<'a> {
    aggregate: &'a Aggregate,
    /// Name and parent of each process.
    processes: BTreeMap<u32, (NameId, u32)>,
}

impl<'a> Who<'a> {
    /// Of all that is known now.
    pub fn new(aggregate: &'a Aggregate) -> Self {
        let ranked = aggregate.processes.ranked();
        let processes = ranked.iter().map(|process| (process.tgid, (process.name, process.parent))).collect();
        Who { aggregate, processes }
    }

    /// A thread with its process.
    pub fn thread(&self, pid: u32, tid: u32) -> Whose {
        let names = &self.aggregate.names;
        let (name, process) = self.aggregate.stacks.name_of(pid, tid).unwrap_or_default();
        let process = names.text(process).or_else(|| self.process(pid));
        Whose { process, pid: known(pid), thread: names.text(name), tid: known(tid) }
    }

    /// A process's name.
    pub fn process(&self, pid: u32) -> Option<String> {
        self.aggregate.names.text(self.processes.get(&pid)?.0)
    }
}

/// Small files of all devices.
fn small_files(rest: &FastMap<u32, CacheRow>) -> Option<SmallFiles> {
    let bytes =
        |pages: fn(&CacheRow) -> u64| rest.values().map(pages).fold(0, u64::saturating_add).saturating_mul(PAGE_BYTES);
    let files = SmallFiles { read_bytes: bytes(|row| row.read), written_bytes: bytes(|row| row.written) };
    (files != SmallFiles::default()).then_some(files)
}

impl Aggregate {
    /// The section; none where no family saw any of it.
    pub(in crate::aggregate) fn paging_part(&self, stacks: Option<&Named<'_>>) -> Option<Section> {
        let paging = &self.paging;
        if !paging.is_active() {
            return None;
        }
        let who = Who::new(self);
        let mut section = Section::default();
        if paging.faults.active {
            let mut all: Vec<(u32, &Sums)> = paging.faults.processes.iter().map(|(pid, sums)| (*pid, sums)).collect();
            all.sort_by_key(|(pid, sums)| (Reverse(total(&sums.counts)), *pid));
            let over = all.split_off(all.len().min(MAX_ROWS));
            let others = over.iter().fold(0u64, |sum, (_, sums)| sum.saturating_add(total(&sums.counts)));
            section.faults_of_others = others.saturating_add(paging.faults.over);
            section.faults = Some(all.into_iter().map(|(pid, sums)| self.faults_of(pid, sums, &who, stacks)).collect());
        }
        self.stalls_part(&who, &mut section);
        self.files_part(&who, &mut section);
        if paging.sees_kills || !paging.victims.is_empty() {
            section.kills = Some(paging.victims.iter().map(|victim| self.kill(victim, &who)).collect());
        }
        Some(section)
    }

    fn faults_of(&self, pid: u32, sums: &Sums, who: &Who<'_>, stacks: Option<&Named<'_>>) -> ProcessFaults {
        let mut threads: Vec<(u32, u64)> = sums.threads.iter().map(|(tid, counts)| (*tid, total(counts))).collect();
        threads.sort_by_key(|(tid, total)| (Reverse(*total), *tid));
        let thread = |(tid, total)| ThreadFaults { tid, thread: who.thread(pid, tid).thread, total };
        let kinds = FaultKind::ALL.into_iter().zip(sums.counts).filter(|(_, count)| *count > 0);
        let bytes = |pages: u64| (pages > 0).then_some(pages.saturating_mul(PAGE_BYTES));
        ProcessFaults {
            pid,
            process: who.process(pid),
            parent: who.processes.get(&pid).and_then(|(_, parent)| known(*parent)),
            total: total(&sums.counts),
            kinds: kinds.map(|(kind, count)| (kind.id().to_owned(), count)).collect(),
            duration_s: seconds(sums.last_ns.saturating_sub(sums.first_ns)),
            cpu_s: stacks.map(|stacks| seconds(stacks.phase_ns(pid, PAGE_FAULT))),
            unmap_cpu_s: stacks.map(|stacks| seconds(stacks.phase_ns(pid, UNMAP))),
            anonymous_first_bytes: bytes(sums.pages_first),
            anonymous_most_bytes: bytes(sums.pages_most),
            anonymous_last_bytes: bytes(sums.pages_last),
            threads: threads.into_iter().take(MAX_THREADS).map(thread).collect(),
            functions: stacks.map(|stacks| self.fault_functions(pid, stacks)).unwrap_or_default(),
        }
    }

    /// Where the faults of each kind were, by stacks.
    fn fault_functions(&self, pid: u32, stacks: &Named<'_>) -> Vec<FaultFunction> {
        let mut kinds: [BTreeMap<u64, u64>; FAULT_KINDS] = Default::default();
        let mut taken = [0; FAULT_KINDS];
        for ((_, kind, stack), tally) in self.stacks.faults.iter().filter(|((tgid, ..), _)| *tgid == pid) {
            let kind = FaultKind::from_number(*kind) as usize;
            let sum = kinds[kind].entry(*stack).or_default();
            *sum = sum.saturating_add(tally.ns);
            taken[kind] += tally.count;
        }
        let of_kind = |kind: FaultKind| {
            let counts = &kinds[kind as usize];
            // A damaged record may stand for any number of faults.
            let all = counts.values().fold(0u64, |sum, count| sum.saturating_add(*count)).max(1) as f64;
            let row = move |(location, count): (_, u64)| FaultFunction {
                kind: kind.id().to_owned(),
                location,
                share: count as f64 / all,
                stacks: taken[kind as usize],
            };
            stacks.sites_of(counts).into_iter().map(row)
        };
        FaultKind::ALL.into_iter().flat_map(of_kind).collect()
    }

    fn stalls_part(&self, who: &Who<'_>, section: &mut Section) {
        let stalls = &self.paging.stalls;
        if !stalls.is_active() {
            return;
        }
        let mut rows: Vec<_> = stalls.rows.iter().collect();
        rows.sort_by_key(|(key, sum)| (Reverse(sum.ns), **key));
        let over = rows.split_off(rows.len().min(MAX_ROWS));
        let others_ns = over.iter().fold(stalls.over.ns, |sum, (_, row)| sum.saturating_add(row.ns));
        section.stalls_of_others_s = (others_ns > 0).then(|| seconds(others_ns));
        let row = |(key, sum): (&(u32, u32, _), &super::stalls::Sum)| Stall {
            whose: who.thread(key.0, key.1),
            kind: tracer_common::memory::StallKind::id(key.2).to_owned(),
            count: sum.count,
            total_s: seconds(sum.ns),
            freed_bytes: sum.pages.saturating_mul(PAGE_BYTES),
        };
        section.stalls = Some(rows.into_iter().map(row).collect());
    }

    fn files_part(&self, who: &Who<'_>, section: &mut Section) {
        let cache = &self.paging.cache;
        if !cache.active && cache.files.is_empty() {
            return;
        }
        let mut files: Vec<_> =
            cache.files.iter().filter(|(_, file)| file.pages.read > 0 || file.pages.written > 0).collect();
        files.sort_by_key(|(key, file)| (Reverse((file.pages.read, file.pages.written)), **key));
        section.files_over = cache.over + files.split_off(files.len().min(MAX_ROWS)).len() as u64;
        section.small_files = small_files(&cache.rest);
        section.files = Some(files.into_iter().map(|(key, file)| self.cached_file(*key, file, who)).collect());
    }

    fn cached_file(&self, key: (u32, u64), file: &File, who: &Who<'_>) -> CachedFile {
        let (tid, tgid) = file.by;
        let (device, inode) = (device_number(key.0), key.1);
        let end = file.name.iter().position(|byte| *byte == 0).unwrap_or(file.name.len());
        let name = (end > 0).then(|| printable(&file.name[..end]));
        let known = self.objects.path_of(tgid, inode, &device).or_else(|| self.paths.path_of(key, &[tgid]));
        let read_bytes = file.pages.read.saturating_mul(PAGE_BYTES);
        let size_bytes = file.size_bytes.max(file.pages.size_bytes);
        CachedFile {
            path: known.or(name),
            inode,
            device,
            whose: who.thread(tgid, tid),
            size_bytes,
            read_bytes,
            written_bytes: file.pages.written.saturating_mul(PAGE_BYTES),
            reread_factor: (size_bytes > 0).then(|| read_bytes as f64 / size_bytes as f64),
            read_first_s: Some(file.pages.read_first_ts_ns).filter(|at| *at > 0).map(|at| self.t_s(at)),
            read_last_s: Some(file.pages.read_last_ts_ns).filter(|at| *at > 0).map(|at| self.t_s(at)),
            reclaimed_own_bytes: file.pages.reclaimed_own.saturating_mul(PAGE_BYTES),
            reclaimed_by_writers_bytes: file.pages.reclaimed_writing.saturating_mul(PAGE_BYTES),
            reclaimed_by: (file.pages.writer_tid != 0)
                .then(|| who.thread(file.pages.writer_tgid, file.pages.writer_tid)),
            reclaimed_others_bytes: file.pages.reclaimed_others.saturating_mul(PAGE_BYTES),
            reclaimed_unused_bytes: file.pages.reclaimed_unused.saturating_mul(PAGE_BYTES),
            dropped_bytes: file.pages.dropped.saturating_mul(PAGE_BYTES),
        }
    }

    fn kill(&self, victim: &Victim, who: &Who<'_>) -> OomKill {
        let bytes = |counter: u32| victim.pages[counter as usize].saturating_mul(PAGE_BYTES);
        let mut whose = who.thread(victim.tgid, victim.tid);
        let end = victim.comm.iter().position(|byte| *byte == 0).unwrap_or(victim.comm.len());
        whose.thread = whose.thread.or_else(|| Some(printable(&victim.comm[..end])));
        OomKill {
            t_s: seconds(victim.header.ts_ns.saturating_sub(self.span.start_ns)),
            whose,
            anonymous_bytes: bytes(rss::ANONYMOUS),
            file_bytes: bytes(rss::FILE),
            shared_bytes: bytes(rss::SHARED),
            swapped_bytes: bytes(rss::SWAP),
            by_tid: victim.by_tid,
            by_pid: victim.by_tgid,
        }
    }
}
