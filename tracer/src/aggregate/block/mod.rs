//! Requests of block devices, summed up by device, by file and by process; who dirtied what was written later, and who was paused for
//! dirtying too much. Bounded: so many devices, files, processes; what finds no room is counted. Histograms have 2 digits. Many files are
//! told by their folder (`folders.rs`).

mod calls;
mod folders;
pub(super) mod report;
pub(super) mod saves;
mod sums;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tracer_common::block::{ASKING_NS, BlockDone, BlockOp, DirtyPause, FileSync, block_notes as notes};

use self::folders::{Folders, above, keep_half};
use self::sums::{Busy, Ops, Streams};
use super::Aggregate;
use super::hash::FastMap;
use super::paths::{Key, Named, Paths};
use super::thread::{Phase, Span};
use super::times::Times;
use crate::model::meta::{DirtiedRow, DiskRow, FamilyRecord, FileCallsRow, SumsRecord};

/// Devices kept.
const MAX_DEVICES: usize = 256;
/// Files kept, with two histograms of up to 14 KiB for each thing asked for. Where there is no room, those of which devices had least are
/// forgotten.
const MAX_FILES: usize = 512;
/// Processes kept.
const MAX_PROCESSES: usize = 4_096;
/// Threads of a file told apart.
const MAX_THREADS: usize = 16;
/// Threads that were paused.
const MAX_PAUSED: usize = 1_024;

/// A device.
#[derive(Default)]
pub(super) struct Device {
    ops: Ops,
    busy: Busy,
    streams: Streams,
    requeues: u64,
    failed: u64,
    /// Requests of processes that are not traced, and how long the device had them.
    others: u64,
    others_ns: u64,
}

/// Requests for a file, or for those of a folder.
#[derive(Default)]
pub struct FileSums {
    named: Option<Arc<Named>>,
    ops: Ops,
    streams: Streams,
    /// When its device had reads for it.
    reading: Busy,
    disk: u32,
    direct: u64,
    /// Who made them: process and thread, how many, how long the device had them.
    threads: BTreeMap<(u32, u32), (u64, u64)>,
    /// Written by the kernel's own threads.
    background_requests: u64,
    background_bytes: u64,
}

/// Requests that a process made itself.
#[derive(Clone, Copy, Default)]
pub(super) struct ProcessSums {
    requests: [u64; 2],
    bytes: [u64; 2],
    device_ns: [u64; 2],
    flushes: u64,
    /// Discards: how many, of how many bytes, for how long the device had them.
    discards: (u64, u64, u64),
}

/// A thread's pauses.
#[derive(Clone, Copy, Default)]
pub(super) struct Paused {
    count: u64,
    /// How long the waits were that followed.
    ns: u64,
    longest_ns: u64,
    device: u32,
    /// Ticks that the kernel asked for.
    ticks: u64,
}

/// A thread is to be paused, because of pages of this device; 0: not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pausing {
    ticks: u32,
    device: u32,
}

/// See the file's head.
#[derive(Default)]
pub struct Blocks {
    sees_requests: bool,
    sees_dirtying: bool,
    sees_calls: bool,
    devices: BTreeMap<u32, Device>,
    files: FastMap<Key, FileSums>,
    /// Files with requests; one may count twice if it was not used for long.
    met: u64,
    folders: Folders,
    processes: BTreeMap<u32, ProcessSums>,
    /// By process and thread.
    paused: BTreeMap<(u32, u32), Paused>,
    /// Of all pauses the shortest for each tick that was asked for; 0 is for none.
    shortest_tick_ns: u64,
    dirtied: Vec<DirtiedRow>,
    calls: Vec<FileCallsRow>,
    disks: BTreeMap<u32, DiskRow>,
    /// How long threads waited for files, by inode.
    waits: FastMap<u64, Times>,
    /// How long it took from a request that a thread waited for until it ran again, likewise.
    answers: FastMap<u64, Times>,
    /// Requests without room.
    over: u64,
    /// Requests that did not end, as far as was seen.
    unfinished: u64,
}

impl Blocks {
    /// A family was told of.
    pub fn family(&mut self, family: &FamilyRecord) {
        let runs = family.status != "unavailable";
        match family.family.as_str() {
            "block" => self.sees_requests |= runs,
            "writeback" => self.sees_dirtying |= runs,
            "file-exact" => self.sees_calls |= runs,
            _ => {}
        }
    }

    /// Takes what the programs kept in maps, and what the devices are: the last ones count.
    pub fn sums(&mut self, record: &SumsRecord) {
        if !record.dirtied.is_empty() {
            self.dirtied.clone_from(&record.dirtied);
        }
        if !record.calls.is_empty() {
            self.calls.clone_from(&record.calls);
        }
        self.unfinished = self.unfinished.max(record.unfinished);
        for disk in &record.disks {
            if self.disks.len() < MAX_DEVICES || self.disks.contains_key(&disk.device) {
                self.disks.insert(disk.device, disk.clone());
            }
        }
    }

    /// A request is done.
    pub fn done(&mut self, event: &BlockDone, span: &Span, paths: &mut Paths) {
        if event.header.ts_ns < span.start_ns {
            return;
        }
        if self.devices.len() >= MAX_DEVICES && !self.devices.contains_key(&event.request.device) {
            self.over += 1;
            return;
        }
        let op = BlockOp::of(event.request.flags, event.request.bytes);
        let device = self.devices.entry(event.request.device).or_default();
        let traced = event.request.notes & notes::TRACED != 0;
        let ours = traced || event.request.notes & notes::KERNEL_THREAD != 0;
        let sequential = match Some(&event.request.file).filter(|file| ours && file.inode != 0) {
            Some(_) => self.for_a_file(op, event, paths),
            None => device.streams.follow(op, event.request.sector, event.request.bytes),
        };
        let Some(device) = self.devices.get_mut(&event.request.device) else { return };
        device.requeues += u64::from(event.request.requeues);
        device.failed += u64::from(event.request.status != 0);
        // What was done with a flush of others was not asked of the device.
        if event.request.notes & notes::NOT_ISSUED == 0 {
            device.ops.add(op, event, sequential);
            if let Some(device_ns) = timed_ns(event) {
                let since_ns = event.header.ts_ns.saturating_sub(device_ns).max(span.start_ns);
                device.busy.add(since_ns, event.header.ts_ns);
            }
            if !ours {
                device.others += 1;
                device.others_ns = device.others_ns.saturating_add(timed_ns(event).unwrap_or(0));
            }
        }
        if traced && (self.processes.len() < MAX_PROCESSES || self.processes.contains_key(&event.request.tgid)) {
            self.processes.entry(event.request.tgid).or_default().add(op, event);
        }
    }

    /// Adds it to its file, and to the folders that this lies in. Whether it begins where one before it ended.
    fn for_a_file(&mut self, op: BlockOp, event: &BlockDone, paths: &mut Paths) -> bool {
        let key = (event.request.file.device, event.request.file.inode);
        if self.files.len() >= MAX_FILES && !self.files.contains_key(&key) {
            keep_half(&mut self.files, |file| file.ops.device_ns());
        }
        let file = self.files.entry(key).or_default();
        let is_new = file.ops.requests() == 0;
        let sequential = file.add(op, event);
        let Some((named, is_first)) = paths.used(key) else {
            self.met += u64::from(is_new);
            return sequential;
        };
        self.met += u64::from(is_first);
        if file.named.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &named)) {
            file.named = Some(Arc::clone(&named));
        }
        if named.parent != 0 {
            let (above, name) = (above(paths, (key.0, named.parent)), is_first.then_some(&*named.name));
            self.folders.add(&above, op, event, name, paths);
        }
        sequential
    }

    /// How long a tick of the kernel's clock is: the longest that a pause of as many ticks can have been so short with. A pause lasts for what
    /// was asked, up to a tick longer.
    fn tick_ns(&self) -> Option<u64> {
        const TICKS_NS: [u64; 4] = [10_000_000, 4_000_000, 3_333_333, 1_000_000];
        TICKS_NS.into_iter().find(|tick_ns| self.shortest_tick_ns >= tick_ns - tick_ns / 50)
    }

    /// A thread has waited for a file's data.
    pub fn waited(&mut self, inode: u64, ns: u64, paths: &Paths) {
        if self.sees_requests {
            times_of(&mut self.waits, inode, &self.files).add(ns);
            if let Some(directory) = paths.directory_of(inode) {
                self.folders.waited(&above(paths, directory), ns);
            }
        }
    }

    /// A thread goes on that waited for a request of its own for a file.
    pub fn answered(&mut self, inode: u64, ns: u64, paths: &Paths) {
        times_of(&mut self.answers, inode, &self.files).add(ns);
        if let Some(directory) = paths.directory_of(inode) {
            self.folders.answered(&above(paths, directory), ns);
        }
    }

    /// A pause is over.
    fn paused(&mut self, key: (u32, u32), pausing: Pausing, waited_ns: u64) {
        if pausing.ticks > 0 && waited_ns > 0 {
            let per_tick_ns = waited_ns / u64::from(pausing.ticks);
            self.shortest_tick_ns = match self.shortest_tick_ns {
                0 => per_tick_ns,
                shortest_ns => shortest_ns.min(per_tick_ns),
            };
        }
        if self.paused.len() < MAX_PAUSED || self.paused.contains_key(&key) {
            let paused = self.paused.entry(key).or_default();
            paused.count += 1;
            paused.ns = paused.ns.saturating_add(waited_ns);
            paused.longest_ns = paused.longest_ns.max(waited_ns);
            paused.device = pausing.device;
            paused.ticks = paused.ticks.saturating_add(pausing.ticks.into());
        }
    }
}

/// How long the device had a request, if that was seen.
fn timed_ns(event: &BlockDone) -> Option<u64> {
    (event.request.notes & notes::UNTIMED == 0).then_some(event.device_ns)
}

/// The times of a file. Where there is no room, those of files that were forgotten are too: at least half.
fn times_of<'a>(times: &'a mut FastMap<u64, Times>, inode: u64, files: &FastMap<Key, FileSums>) -> &'a mut Times {
    if times.len() >= 2 * MAX_FILES && !times.contains_key(&inode) {
        let kept: BTreeSet<u64> = files.keys().map(|(_, inode)| *inode).collect();
        times.retain(|inode, _| kept.contains(inode));
    }
    times.entry(inode).or_default()
}

impl FileSums {
    /// Takes a request; says whether it begins where one before it ended.
    fn add(&mut self, op: BlockOp, event: &BlockDone) -> bool {
        let sequential = self.streams.follow(op, event.request.sector, event.request.bytes);
        self.ops.add(op, event, sequential);
        if let (BlockOp::Read, Some(device_ns)) = (op, timed_ns(event)) {
            self.reading.add(event.header.ts_ns.saturating_sub(device_ns), event.header.ts_ns);
        }
        self.disk = event.request.device;
        self.direct += u64::from(event.request.notes & notes::DIRECT != 0);
        if event.request.notes & notes::KERNEL_THREAD != 0 {
            self.background_requests += 1;
            self.background_bytes = self.background_bytes.saturating_add(event.request.bytes.into());
            return sequential;
        }
        let key = (event.request.tgid, event.request.tid);
        if self.threads.len() < MAX_THREADS || self.threads.contains_key(&key) {
            let (requests, ns) = self.threads.entry(key).or_default();
            *requests += 1;
            *ns = ns.saturating_add(timed_ns(event).unwrap_or(0));
        }
        sequential
    }
}

impl ProcessSums {
    fn add(&mut self, op: BlockOp, event: &BlockDone) {
        let at = match op {
            BlockOp::Read => 0,
            BlockOp::Write => 1,
            BlockOp::Flush => {
                self.flushes += 1;
                return;
            }
            BlockOp::Discard => {
                let (count, bytes, ns) = &mut self.discards;
                *count += 1;
                *bytes = bytes.saturating_add(event.request.bytes.into());
                *ns = ns.saturating_add(timed_ns(event).unwrap_or(0));
                return;
            }
            BlockOp::Other => return,
        };
        self.requests[at] += 1;
        self.bytes[at] = self.bytes[at].saturating_add(event.request.bytes.into());
        self.device_ns[at] = self.device_ns[at].saturating_add(timed_ns(event).unwrap_or(0));
    }
}

impl Aggregate {
    /// A request is done. If its thread waits for that file, it has its answer.
    pub(super) fn block_done(&mut self, event: &BlockDone) {
        self.blocks.done(event, &self.span, &mut self.paths);
        let request = &event.request;
        let is_own_read = event.header.ts_ns >= self.span.start_ns
            && BlockOp::of(request.flags, request.bytes) == BlockOp::Read
            && request.notes & notes::TRACED != 0
            && request.file.inode != 0;
        let Some(device_ns) = timed_ns(event).filter(|_| is_own_read) else { return };
        let Some(thread) = self.threads.find(request.tid).and_then(|index| self.threads.get_mut(index)) else { return };
        if thread.phase != Phase::Waiting || thread.object != request.file.inode {
            return;
        }
        // What asked long before the wait asked ahead.
        let made_ns = event.header.ts_ns.saturating_sub(device_ns).saturating_sub(event.queued_ns);
        let made_ns = made_ns.saturating_sub(event.asked_ns).max(thread.since_ns.saturating_sub(ASKING_NS));
        let first_ns =
            thread.asked.filter(|(inode, _)| *inode == thread.object).map_or(made_ns, |(_, first_ns)| first_ns);
        thread.asked = Some((thread.object, first_ns.min(made_ns)));
    }

    /// A thread is about to be paused: the wait that it begins next is that.
    pub(super) fn pausing(&mut self, event: &DirtyPause) {
        if let Some(index) = self.threads.find(event.tid)
            && let Some(thread) = self.threads.get_mut(index)
        {
            thread.pausing = Some(Pausing { ticks: event.ticks, device: event.device });
        }
    }

    /// A file system begins or ends a sync for a thread.
    pub(super) fn synced(&mut self, event: &FileSync) {
        let ts_ns = event.header.ts_ns;
        if ts_ns < self.span.start_ns {
            return;
        }
        let Some(thread) = self.threads.find(event.tid).and_then(|index| self.threads.get_mut(index)) else { return };
        let taken = thread.taken(ts_ns);
        if let Some(detailed) = &mut thread.detailed {
            match event.begins {
                1 => detailed.syncs.begin(taken),
                _ => detailed.syncs.end(taken),
            }
        }
    }

    /// A wait of a thread has ended that was a pause.
    pub(super) fn has_paused(&mut self, (tgid, tid): (u32, u32), pausing: Pausing, waited_ns: u64) {
        self.blocks.paused((tgid, tid), pausing, waited_ns);
    }
}
