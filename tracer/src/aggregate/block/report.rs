//! The report's section `io`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use tracer_common::block::BlockOp;

use super::super::times::Times;
use super::folders::{Folder, MANY, above};
use super::sums::{OpSums, Ops};
use super::{Device, FileSums, Paused};
use crate::aggregate::Aggregate;
use crate::aggregate::paging::report::{Who, device_number};
use crate::aggregate::paths::Key;
use crate::aggregate::thread;
use crate::model::io::{DirtyPauses, Io, IoDevice, IoFile, IoProcess, IoRequests, Latency};
use crate::model::meta::DirtiedRow;
use crate::model::paging::PAGE_BYTES;
use crate::model::report::{Syncs, seconds};
use crate::model::stacks::Whose;

/// Rows of each list.
const MAX_ROWS: usize = 32;
/// Rows of folders, and files that make one.
const MAX_FOLDERS: usize = 16;
const LEAST_FILES: u64 = 2 * MANY as u64;

fn latency(times: &Times) -> Latency {
    Latency {
        count: times.count,
        total_s: seconds(times.ns),
        mean_s: seconds(times.ns / times.count.max(1)),
        p50_s: seconds(times.quantile_ns(0.5)),
        p90_s: seconds(times.quantile_ns(0.9)),
        p99_s: seconds(times.quantile_ns(0.99)),
        max_s: seconds(times.longest_ns),
    }
}

fn requests(sums: &OpSums) -> IoRequests {
    IoRequests {
        requests: sums.requests,
        bytes: sums.bytes,
        mean_bytes: sums.bytes / sums.requests.max(1),
        sequential_share: sums.sequential as f64 / sums.requests.max(1) as f64,
        queued: latency(&sums.queued),
        device: latency(&sums.device),
    }
}

fn of(ops: &Ops, op: BlockOp) -> Option<IoRequests> {
    ops.of(op).map(requests)
}

/// Files that are told together, and what their rows are called.
pub(in crate::aggregate) struct Folders<'a> {
    aggregate: &'a Aggregate,
    folders: Vec<(Key, usize, &'a Folder)>,
    told: Vec<(Key, usize, String)>,
}

impl Folders<'_> {
    /// The folder of the file with this inode that has too few requests to tell anything by itself: the directory's inode, and what its files
    /// are called.
    pub(in crate::aggregate) fn of(&self, inode: u64) -> Option<(u64, &str)> {
        let Aggregate { paths, blocks, .. } = self.aggregate;
        let file = paths.only(inode).filter(|_| !self.told.is_empty())?;
        if blocks.files.get(&file).is_some_and(|file| file.ops.requests() >= LEAST_FILES) {
            return None;
        }
        let above = above(paths, paths.directory_of(inode)?);
        let lies_there = |(key, level, _): &&(Key, usize, String)| above.get(*level).copied().flatten() == Some(*key);
        self.told.iter().find(lies_there).map(|(key, _, path)| (key.1, path.as_str()))
    }
}

/// Syncs of a thread; none if it made none.
pub(in crate::aggregate) fn syncs(syncs: &thread::Syncs) -> Option<Syncs> {
    let thread::Syncs { count, took, .. } = *syncs;
    (count > 0).then(|| Syncs {
        count,
        total_s: seconds(took.wall_ns),
        on_cpu_s: seconds(took.on_cpu_ns),
        ready_s: seconds(took.ready_ns),
    })
}

/// What was dirtied, by file: the rows of each, and their pages.
type Dirtied<'a> = BTreeMap<(u32, u64), (Vec<&'a DirtiedRow>, u64)>;

impl Aggregate {
    /// The section; none where no family saw any of it.
    pub(in crate::aggregate) fn io_part(&self) -> Option<Io> {
        let blocks = &self.blocks;
        if !blocks.sees_requests && !blocks.sees_dirtying && !blocks.sees_calls {
            return None;
        }
        let who = Who::new(self);
        let mut dirtied: Dirtied<'_> = BTreeMap::new();
        for row in &blocks.dirtied {
            let (rows, pages) = dirtied.entry((row.device, row.inode)).or_default();
            rows.push(row);
            *pages = pages.saturating_add(row.pages);
        }
        let mut section = Io { requests_over: blocks.over, requests_unfinished: blocks.unfinished, ..Io::default() };
        if blocks.sees_requests {
            let mut devices: Vec<_> = blocks.devices.iter().collect();
            devices.sort_by_key(|(number, device)| (Reverse(device.ops.device_ns()), **number));
            devices.truncate(MAX_ROWS);
            section.devices =
                Some(devices.into_iter().map(|(number, device)| self.io_device(*number, device)).collect());
            let mut files: Vec<_> = blocks.files.iter().collect();
            files.sort_by_key(|(key, file)| (Reverse(file.ops.device_ns()), **key));
            files.truncate(MAX_ROWS);
            section.files_over = blocks.met.saturating_sub(files.len() as u64);
            section.files = files.into_iter().map(|(key, file)| self.io_file(*key, file, &dirtied, &who)).collect();
            section.folders = self.io_folders(&who);
            section.processes = self.io_processes(&dirtied, &who);
        }
        if blocks.sees_dirtying {
            let mut paused: Vec<_> = blocks.paused.iter().collect();
            paused.sort_by_key(|(key, paused)| (Reverse(paused.ns), **key));
            paused.truncate(MAX_ROWS);
            section.paused = Some(paused.into_iter().map(|(key, paused)| self.pauses(*key, paused, &who)).collect());
        }
        self.calls_part(&who, &mut section);
        Some(section)
    }

    fn disk_name(&self, device: u32) -> Option<String> {
        self.blocks.disks.get(&device).map(|disk| disk.name.clone())
    }

    fn io_device(&self, number: u32, device: &Device) -> IoDevice {
        let disk = self.blocks.disks.get(&number);
        let window_ns = self.span.now_ns.saturating_sub(self.span.start_ns).max(1);
        IoDevice {
            device: device_number(number),
            name: disk.map(|disk| disk.name.clone()),
            scheduler: disk.and_then(|disk| disk.scheduler.clone()),
            rotational: disk.is_some_and(|disk| disk.rotational),
            backing_file: disk.and_then(|disk| disk.backing_file.clone()),
            parts: disk.map(|disk| disk.parts.clone()).unwrap_or_default(),
            busy_s: seconds(device.busy.total_ns()),
            in_flight_mean: device.ops.device_ns() as f64 / window_ns as f64,
            reads: of(&device.ops, BlockOp::Read),
            writes: of(&device.ops, BlockOp::Write),
            flushes: of(&device.ops, BlockOp::Flush),
            discards: of(&device.ops, BlockOp::Discard),
            requests_of_others: device.others,
            others_s: (device.others > 0).then(|| seconds(device.others_ns)),
            requeues: device.requeues,
            failed: device.failed,
        }
    }

    /// Path of a file, as one of these processes has it, or any; else the last part of it.
    pub(super) fn io_path(&self, (device, inode): (u32, u64), processes: &[u32]) -> Option<String> {
        let number = device_number(device);
        let of = |tgid: &u32| self.objects.path_of(*tgid, inode, &number);
        let known = processes.iter().find_map(of).or_else(|| self.objects.any_path_of(inode, &number));
        let key = (device, inode);
        let met = || match self.blocks.files.get(&key).and_then(|file| file.named.as_ref()) {
            Some(named) => self.paths.path_of_named(device, named, processes).or_else(|| Some(named.name.to_string())),
            None => self.paths.path_of(key, processes).or_else(|| self.paths.name_of(key).map(str::to_owned)),
        };
        let several = self.paths.is_several(key);
        if several { met().or(known) } else { known.or_else(met) }.filter(|path| !path.is_empty())
    }

    /// How long threads waited for a file, and until they were answered; none where two files have its number.
    fn waits_for(&self, key: (u32, u64)) -> [Option<Latency>; 2] {
        let same = self.blocks.files.keys().filter(|(_, inode)| *inode == key.1).count();
        [&self.blocks.waits, &self.blocks.answers].map(|times| times.get(&key.1).filter(|_| same == 1).map(latency))
    }

    fn io_file(&self, key: (u32, u64), file: &FileSums, dirtied: &Dirtied<'_>, who: &Who<'_>) -> IoFile {
        let told = file.named.as_ref();
        let dirtied_rows = dirtied.get(&key);
        let dirtier = dirtied_rows.and_then(|(rows, _)| rows.iter().max_by_key(|row| row.pages));
        let maker = file.threads.iter().max_by_key(|(key, (_, ns))| (*ns, Reverse(**key))).map(|(key, _)| *key);
        let first = told.map(|name| (name.by.1, name.by.0)).filter(|(tgid, _)| who.process(*tgid).is_some());
        // A thread that asked for a few reads of what it then dirtied is the same one; the kernel's own threads are nobody's.
        let by = maker.or(dirtier.map(|row| (row.tgid, row.tid))).or(first);
        let mut processes: Vec<u32> = by.into_iter().map(|(tgid, _)| tgid).collect();
        processes.extend(file.threads.keys().map(|(tgid, _)| *tgid));
        processes.extend(dirtied_rows.iter().flat_map(|(rows, _)| rows.iter().map(|row| row.tgid)));
        let [waits, answers] = self.waits_for(key);
        IoFile {
            path: self.io_path(key, &processes),
            inode: key.1,
            files: None,
            device: device_number(key.0),
            disk: self.disk_name(file.disk),
            size_bytes: told.map(|name| name.size_bytes).filter(|bytes| *bytes > 0),
            whose: by.map_or_else(Whose::default, |(tgid, tid)| who.thread(tgid, tid)),
            reads: of(&file.ops, BlockOp::Read),
            writes: of(&file.ops, BlockOp::Write),
            reading_s: file.ops.of(BlockOp::Read).map(|_| seconds(file.reading.total_ns())),
            waits,
            answers,
            direct_requests: file.direct,
            background_bytes: file.background_bytes,
            dirtied_bytes: self
                .blocks
                .sees_dirtying
                .then(|| dirtied_rows.map_or(0, |(_, pages)| pages.saturating_mul(PAGE_BYTES))),
        }
    }

    /// Files that are told together.
    pub(in crate::aggregate) fn folders(&self) -> Folders<'_> {
        let mut folders = self.blocks.folders.chosen();
        folders.retain(|(key, level, folder)| folder.files >= LEAST_FILES && !self.is_mostly_one(*key, *level, folder));
        folders.sort_by_key(|(key, level, folder)| (Reverse(folder.sums.ops.device_ns()), *key, *level));
        folders.truncate(MAX_FOLDERS);
        let row = |(key, level, folder): (Key, usize, &'_ Folder)| {
            let processes: Vec<u32> = folder.sums.threads.keys().map(|(tgid, _)| *tgid).collect();
            let path = self.paths.directory_path(key, &processes);
            let path = path.or_else(|| self.paths.directory_name(key).map(str::to_owned));
            (key, level, folder.pattern(&path.unwrap_or_else(|| "?".to_owned()), level))
        };
        let told = folders.iter().copied().map(row).collect();
        Folders { aggregate: self, folders, told }
    }

    fn io_folders(&self, who: &Who<'_>) -> Vec<IoFile> {
        let Folders { folders, told, .. } = self.folders();
        let rows = folders.into_iter().zip(told);
        rows.map(|((key, _, folder), (_, _, path))| self.io_folder(key, path, folder, who)).collect()
    }

    /// Whether one file that lies there has most of the requests.
    fn is_mostly_one(&self, key: Key, level: usize, folder: &Folder) -> bool {
        let lies_there = |(device, _): &(u32, u64), file: &FileSums| {
            let directory = file.named.as_ref().map(|named| (*device, named.parent));
            let up = |at: Option<(u32, u64)>| at.and_then(|at| self.paths.above(at));
            (0..level).fold(directory, |at, _| up(at)) == Some(key)
        };
        let most = |file: &FileSums| file.ops.requests() * 2 >= folder.requests();
        self.blocks.files.iter().any(|(key, file)| most(file) && lies_there(key, file))
    }

    fn io_folder(&self, key: Key, path: String, folder: &Folder, who: &Who<'_>) -> IoFile {
        let sums = &folder.sums;
        let maker = sums.threads.iter().max_by_key(|(key, (_, ns))| (*ns, Reverse(**key))).map(|(key, _)| *key);
        let times = |times: &Times| (times.count > 0).then(|| latency(times));
        IoFile {
            path: Some(path),
            inode: key.1,
            files: Some(folder.files),
            device: device_number(key.0),
            disk: self.disk_name(sums.disk),
            whose: maker.map_or_else(Whose::default, |(tgid, tid)| who.thread(tgid, tid)),
            reads: of(&sums.ops, BlockOp::Read),
            writes: of(&sums.ops, BlockOp::Write),
            reading_s: sums.ops.of(BlockOp::Read).map(|_| seconds(sums.reading.total_ns())),
            waits: times(&folder.waits),
            answers: times(&folder.answers),
            direct_requests: sums.direct,
            background_bytes: sums.background_bytes,
            ..IoFile::default()
        }
    }

    /// What the kernel's own threads wrote of files that these processes dirtied.
    fn in_background(&self, dirtied: &Dirtied<'_>) -> BTreeMap<u32, u64> {
        let mut bytes: BTreeMap<u32, u64> = BTreeMap::new();
        for (key, (rows, pages)) in dirtied {
            let Some(file) = self.blocks.files.get(key) else { continue };
            for row in rows {
                let part = u128::from(file.background_bytes) * u128::from(row.pages) / u128::from((*pages).max(1));
                let sum = bytes.entry(row.tgid).or_default();
                *sum = sum.saturating_add(u64::try_from(part).unwrap_or(u64::MAX));
            }
        }
        bytes
    }

    fn io_processes(&self, dirtied: &Dirtied<'_>, who: &Who<'_>) -> Vec<IoProcess> {
        let background = self.in_background(dirtied);
        let sees = self.blocks.sees_dirtying;
        let mut rows: BTreeMap<u32, IoProcess> = BTreeMap::new();
        for (pid, sums) in &self.blocks.processes {
            let row = IoProcess {
                read_requests: sums.requests[0],
                read_bytes: sums.bytes[0],
                read_device_s: seconds(sums.device_ns[0]),
                write_requests: sums.requests[1],
                write_bytes: sums.bytes[1],
                write_device_s: seconds(sums.device_ns[1]),
                flushes: sums.flushes,
                discards: sums.discards.0,
                discard_bytes: sums.discards.1,
                discard_device_s: seconds(sums.discards.2),
                ..IoProcess::default()
            };
            rows.insert(*pid, row);
        }
        for pid in background.keys() {
            rows.entry(*pid).or_default();
        }
        for (pid, row) in &mut rows {
            (row.pid, row.process) = (*pid, who.process(*pid));
            row.background_bytes = sees.then(|| background.get(pid).copied().unwrap_or(0));
        }
        let moved = |row: &IoProcess| {
            row.read_bytes.saturating_add(row.write_bytes).saturating_add(row.background_bytes.unwrap_or(0))
        };
        let mut rows: Vec<IoProcess> = rows.into_values().collect();
        rows.sort_by_key(|row| (Reverse(moved(row)), row.pid));
        rows.truncate(MAX_ROWS);
        rows
    }

    fn pauses(&self, (tgid, tid): (u32, u32), paused: &Paused, who: &Who<'_>) -> DirtyPauses {
        DirtyPauses {
            whose: who.thread(tgid, tid),
            count: paused.count,
            asked_s: self.blocks.tick_ns().map(|tick_ns| seconds(paused.ticks.saturating_mul(tick_ns))),
            total_s: seconds(paused.ns),
            max_s: seconds(paused.longest_ns),
            device: (paused.device != 0).then(|| device_number(paused.device)),
            disk: self.disk_name(paused.device),
        }
    }
}
